//! Fingerprints, which the holders of a key compare to check that they hold the same key.
//!
//! A fingerprint is `HKDF-SHA256(salt = "", input, info, 32 bytes)` (RFC 5869). Its input is the key that seals frames,
//! so a wrong KDF or salt shows like a wrong key. In SFrame each sender has its own key, so the input is the base key.
//! No profile derives keys with these labels, so a fingerprint does not reveal a key.

use crate::error::KeyError;
use crate::secret::Secret;
use crate::suite::{CipherSuite, Hash, hkdf};

const LABEL: &[u8] = b"frameseal fingerprint v1";
const BASE_KEY_LABEL: &[u8] = b"frameseal sframe fingerprint v1";

/// The 32 bytes that people or programs compare.
pub type Fingerprint = [u8; 32];

/// Returns the fingerprint of an AEAD key.
pub(super) fn of_key(key: &[u8]) -> Result<Fingerprint, KeyError> {
    let mut fingerprint = [0; 32];
    hkdf(Hash::Sha256, &[], key, &[LABEL], &mut fingerprint)?;
    Ok(fingerprint)
}

/// Returns the fingerprint of an SFrame base key. All holders of the base key under `key_id` compute the same.
pub(super) fn of_base_key(suite: &CipherSuite, key_id: u64, base_key: &Secret) -> Result<Fingerprint, KeyError> {
    let mut fingerprint = [0; 32];
    let info = [BASE_KEY_LABEL, &suite.id.to_be_bytes(), &key_id.to_be_bytes()];
    hkdf(Hash::Sha256, &[], base_key.bytes(), &info, &mut fingerprint)?;
    Ok(fingerprint)
}
