//! From a secret to key bytes: the key schedules of the profiles.

use std::num::NonZeroU32;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::secret::{Kdf, Secret};
use crate::suite::{CipherSuite, Hash, NONCE_LEN, hkdf, pbkdf2_sha256};

/// How a secret becomes key bytes.
pub(crate) enum KeySchedule {
    /// One derivation for everything: the same input always gives the same output, a longer one extends a shorter one.
    Trailer(TrailerSchedule),
    /// RFC 9605, sections 4.4.2 and 5.1: labelled, by KID and suite.
    Sframe,
}

/// The parameters of the trailer family's key schedule.
pub(crate) struct TrailerSchedule {
    pub(crate) salt: &'static [u8],
    /// The salt of a ratchet step. Where it is the other one, a step's material begins with the key before it.
    pub(crate) ratchet_salt: &'static [u8],
    /// Rounds of PBKDF2, for passphrases; none: the profile takes raw keys only.
    pub(crate) iterations: Option<NonZeroU32>,
    /// `info` of HKDF.
    pub(crate) info: &'static [u8],
}

/// Iterations of PBKDF2, as every client of the trailer family that has one has them.
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(100_000) {
    Some(iterations) => iterations,
    None => NonZeroU32::MIN,
};

/// RFC 9605 has no password KDF; this one, and its salt, are frameseal's own.
const SFRAME_PASSPHRASE_SALT: &[u8] = b"frameseal SFrame 1.0 passphrase";
const SFRAME_BASE_KEY_LEN: usize = 32;
const RATCHETED_LEN: usize = 32;

impl KeySchedule {
    /// Brings a secret into the form that the other steps start from; what is slow happens here.
    pub(crate) fn material(&self, secret: &Secret) -> Secret {
        match (self, secret.kdf()) {
            (Self::Sframe, Kdf::Password) => {
                let mut base_key = Zeroizing::new([0; SFRAME_BASE_KEY_LEN]);
                pbkdf2_sha256(ITERATIONS, SFRAME_PASSPHRASE_SALT, secret.bytes(), base_key.as_mut());
                Secret::new(base_key.as_ref(), Kdf::Random)
            }
            _ => secret.clone(),
        }
    }

    /// Fills `key` and gives the salt of its nonces (zeros where nonces are transmitted).
    pub(crate) fn key(
        &self,
        suite: &CipherSuite,
        kid: u64,
        material: &Secret,
        key: &mut [u8],
    ) -> Result<[u8; NONCE_LEN], KeyError> {
        let mut nonce_salt = [0; NONCE_LEN];
        match self {
            Self::Trailer(schedule) => schedule.derive(schedule.salt, material, key)?,
            Self::Sframe => {
                let ids = [&kid.to_be_bytes()[..], &suite.id.to_be_bytes()].concat();
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret key ", &ids], key)?;
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret salt ", &ids], &mut nonce_salt)?;
            }
        }
        Ok(nonce_salt)
    }

    /// The material one ratchet step on.
    pub(crate) fn ratchet(&self, suite: &CipherSuite, material: &Secret) -> Result<Secret, KeyError> {
        let next = match self {
            Self::Trailer(schedule) => {
                let mut next = Zeroizing::new(vec![0; RATCHETED_LEN]);
                schedule.derive(schedule.ratchet_salt, material, &mut next)?;
                next
            }
            Self::Sframe => {
                let mut next = Zeroizing::new(vec![0; suite.hash.len()]);
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Ratchet"], &mut next)?;
                next
            }
        };
        Ok(Secret::new(&next, material.kdf()))
    }
}

impl TrailerSchedule {
    pub(crate) const fn with_salt(salt: &'static [u8]) -> Self {
        // The browsers' worker passes a buffer of 128 zero bytes as `info`.
        Self { salt, ratchet_salt: salt, iterations: Some(ITERATIONS), info: &[0; 128] }
    }

    /// PBKDF2 for a passphrase, HKDF for a raw key.
    fn derive(&self, salt: &[u8], material: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
        match material.kdf() {
            Kdf::Password => {
                pbkdf2_sha256(self.iterations.ok_or(KeyError::NoPassphrases)?, salt, material.bytes(), out);
                Ok(())
            }
            Kdf::Random => hkdf(Hash::Sha256, salt, material.bytes(), &[self.info], out),
        }
    }
}
