//! What the holders of a key can read to each other to see that they hold the same.
//!
//! `HKDF-SHA256(salt = "", input, info, 32 bytes)` (RFC 5869), over the key that frames are sealed with, so that a wrong
//! KDF or salt shows as a wrong key does. In SFrame each sender has a key of its own, so there it is over the base key.
//! No profile derives anything with these labels: it tells nothing about a key.

use crate::error::KeyError;
use crate::secret::Secret;
use crate::suite::{CipherSuite, Hash, hkdf};

const LABEL: &[u8] = b"frameseal fingerprint v1";
const BASE_KEY_LABEL: &[u8] = b"frameseal sframe fingerprint v1";

/// 32 bytes to compare.
pub type Fingerprint = [u8; 32];

/// The fingerprint of an AEAD key.
pub(super) fn of_key(key: &[u8]) -> Result<Fingerprint, KeyError> {
    let mut fingerprint = [0; 32];
    hkdf(Hash::Sha256, &[], key, &[LABEL], &mut fingerprint)?;
    Ok(fingerprint)
}

/// The fingerprint of an SFrame base key, the same for all who hold it under `key_id`.
pub(super) fn of_base_key(suite: &CipherSuite, key_id: u64, base_key: &Secret) -> Result<Fingerprint, KeyError> {
    let mut fingerprint = [0; 32];
    let info = [BASE_KEY_LABEL, &suite.id.to_be_bytes(), &key_id.to_be_bytes()];
    hkdf(Hash::Sha256, &[], base_key.bytes(), &info, &mut fingerprint)?;
    Ok(fingerprint)
}
