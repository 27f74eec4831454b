//! The key schedules of the profiles, which derive key bytes from a secret.

use std::num::NonZeroU32;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::secret::{Kdf, Secret};
use crate::suite::{CipherSuite, Hash, NONCE_LEN, hkdf, pbkdf2_sha256};

/// The key schedule of a layout.
pub(crate) enum KeySchedule {
    /// The trailer layout has one derivation without labels. Equal input yields equal output, and a longer output
    /// begins with the shorter output.
    Trailer(TrailerSchedule),
    /// The secret is the key: nothing is derived, and there is no ratchet.
    Raw,
    /// SFrame labels each derivation with KID and suite (RFC 9605, sections 4.4.2 and 5.1).
    Sframe(SframeSchedule),
}

/// The parameters of the key schedule of the trailer layout.
#[derive(Clone, Copy)]
pub(crate) struct TrailerSchedule {
    pub(crate) salt: &'static [u8],
    /// The salt of a ratchet step. If it equals `salt`, the material of a step begins with the key before the step.
    pub(crate) ratchet_salt: &'static [u8],
    /// The length in bytes of the material after a ratchet step.
    pub(crate) ratchet_len: usize,
    /// The iterations of PBKDF2 for passphrases, or `None` if the profile accepts raw keys only.
    pub(crate) iterations: Option<NonZeroU32>,
    /// The `info` of HKDF.
    pub(crate) info: &'static [u8],
}

/// The parameters of the key schedule of SFrame that RFC 9605 leaves open.
pub(crate) struct SframeSchedule {
    passphrase_salt: &'static [u8],
    iterations: Option<NonZeroU32>,
}

/// The iterations of PBKDF2 in every client of the trailer layout that has a password KDF.
const ITERATIONS: u32 = 100_000;

const SFRAME_BASE_KEY_LEN: usize = 32;

impl KeySchedule {
    /// Returns whether the schedule has a password KDF.
    pub(crate) fn accepts_passphrases(&self) -> bool {
        match self {
            Self::Raw => false,
            Self::Trailer(schedule) => schedule.iterations.is_some(),
            Self::Sframe(schedule) => schedule.iterations.is_some(),
        }
    }

    /// Returns whether the length of a secret is the length of its key.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Self::Raw)
    }

    /// Returns the key material of a secret. For a passphrase of SFrame this runs the slow password KDF.
    pub(crate) fn material(&self, secret: &Secret) -> Result<Secret, KeyError> {
        match (self, secret.kdf()) {
            (Self::Sframe(schedule), Kdf::Password) => {
                let mut base_key = Zeroizing::new([0; SFRAME_BASE_KEY_LEN]);
                let iterations = schedule.iterations.ok_or(KeyError::NoPassphrases)?;
                pbkdf2_sha256(iterations, schedule.passphrase_salt, secret.bytes(), base_key.as_mut());
                Ok(Secret::new(base_key.as_ref(), Kdf::Random))
            }
            _ => Ok(secret.clone()),
        }
    }

    /// Derives a key into `key`, and returns the salt of its nonces. The salt is zero if frames hold whole nonces.
    pub(crate) fn key(
        &self,
        suite: &CipherSuite,
        kid: u64,
        material: &Secret,
        key: &mut [u8],
    ) -> Result<[u8; NONCE_LEN], KeyError> {
        let mut nonce_salt = [0; NONCE_LEN];
        match self {
            Self::Raw if material.kdf() == Kdf::Password => return Err(KeyError::NoPassphrases),
            Self::Raw if material.bytes().len() == key.len() => key.copy_from_slice(material.bytes()),
            Self::Raw => {
                return Err(KeyError::KeyLength { given: material.bytes().len(), min: key.len(), max: key.len() });
            }
            Self::Trailer(schedule) => schedule.derive(schedule.salt, material, key)?,
            Self::Sframe(_) => {
                let ids = [&kid.to_be_bytes()[..], &suite.id.to_be_bytes()].concat();
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret key ", &ids], key)?;
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret salt ", &ids], &mut nonce_salt)?;
            }
        }
        Ok(nonce_salt)
    }

    /// Returns the material of the next ratchet step.
    pub(crate) fn ratchet(&self, suite: &CipherSuite, material: &Secret) -> Result<Secret, KeyError> {
        let next = match self {
            Self::Raw => return Err(KeyError::NoRatchet),
            Self::Trailer(schedule) => {
                let mut next = Zeroizing::new(vec![0; schedule.ratchet_len]);
                schedule.derive(schedule.ratchet_salt, material, &mut next)?;
                next
            }
            Self::Sframe(_) => {
                let mut next = Zeroizing::new(vec![0; suite.hash.len()]);
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Ratchet"], &mut next)?;
                next
            }
        };
        Ok(Secret::new(&next, material.kdf()))
    }
}

impl TrailerSchedule {
    /// Creates the schedule of the worker in browsers: one salt, a password KDF, ratchet steps of 32 bytes.
    pub(crate) const fn with_salt(salt: &'static [u8]) -> Self {
        // The worker in browsers passes a buffer of 128 zero bytes as `info`.
        Self { salt, ratchet_salt: salt, ratchet_len: 32, iterations: NonZeroU32::new(ITERATIONS), info: &[0; 128] }
    }

    /// Derives `out`: PBKDF2 for a passphrase, HKDF for a raw key.
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

impl SframeSchedule {
    pub(crate) const fn with_passphrase_salt(passphrase_salt: &'static [u8]) -> Self {
        Self { passphrase_salt, iterations: NonZeroU32::new(ITERATIONS) }
    }
}
