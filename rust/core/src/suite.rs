//! Cipher suites (RFC 5116 AEADs, RFC 9605 section 4.5), key derivation and randomness.
//!
//! The only file that names the crypto library. It knows no format.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf, pbkdf2, rand};
use std::num::NonZeroU32;

use crate::error::KeyError;

/// Bytes in a nonce; the same in every suite (Nn).
pub(crate) const NONCE_LEN: usize = 12;

/// One row of the table: an AEAD and the size of its key.
pub(crate) struct CipherSuite {
    /// Key length in bytes (Nk).
    pub(crate) key_len: usize,
    aead: &'static Algorithm,
}

pub(crate) static AES_128: CipherSuite = CipherSuite { key_len: 16, aead: &AES_128_GCM };
pub(crate) static AES_256: CipherSuite = CipherSuite { key_len: 32, aead: &AES_256_GCM };

/// The AEAD refused: a wrong tag on opening, or lengths that do not fit on sealing.
pub(crate) struct Refused;

/// An expanded key: the AES schedule and the GHASH tables are kept, not remade for each frame.
pub(crate) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(crate) fn new(suite: &CipherSuite, key: &[u8]) -> Result<Self, KeyError> {
        let unbound = UnboundKey::new(suite.aead, key).map_err(|_| KeyError::Unavailable)?;
        Ok(Self(LessSafeKey::new(unbound)))
    }

    /// Writes `ciphertext` (as long as `plaintext`) and `tag`.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Refused> {
        self.0
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                plaintext,
                ciphertext,
                &[],
                tag,
            )
            .map_err(|_| Refused)
    }

    /// Writes `plaintext` (as long as `ciphertext`), or clears it and refuses.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, plaintext).map_err(|_| {
            plaintext.fill(0);
            Refused
        })
    }
}

/// An output length for the HKDF interface below.
struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256, extract and expand (RFC 5869).
pub(crate) fn hkdf_sha256(salt: &[u8], input: &[u8], info: &[u8], out: &mut [u8]) -> Result<(), KeyError> {
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(input)
        .expand(&[info], OutputLen(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| KeyError::Unavailable)
}

/// PBKDF2-HMAC-SHA256 (RFC 8018).
pub(crate) fn pbkdf2_sha256(iterations: NonZeroU32, salt: &[u8], password: &[u8], out: &mut [u8]) {
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, out);
}

/// Compares secrets in a time that depends on their lengths alone.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Bytes from the operating system's generator, by way of the crypto library's own (which survives `fork`).
pub(crate) fn random(out: &mut [u8]) -> Result<(), KeyError> {
    rand::fill(out).map_err(|_| KeyError::Unavailable)
}
