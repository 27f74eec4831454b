//! What the holders of a key can read to each other to see that they hold the same.
//!
//! `HKDF-SHA256(salt = "", input = the key that frames are sealed with, info = "frameseal fingerprint v1", 32 bytes)`
//! (RFC 5869). No profile derives anything with that label, so it tells nothing about a key, and a wrong KDF or salt shows
//! in it as a wrong key does.

use crate::error::KeyError;
use crate::suite::hkdf_sha256;

const LABEL: &[u8] = b"frameseal fingerprint v1";

/// 32 bytes to compare.
pub type Fingerprint = [u8; 32];

/// The fingerprint of an AEAD key.
pub(crate) fn of(key: &[u8]) -> Result<Fingerprint, KeyError> {
    let mut fingerprint = [0; 32];
    hkdf_sha256(&[], key, LABEL, &mut fingerprint)?;
    Ok(fingerprint)
}
