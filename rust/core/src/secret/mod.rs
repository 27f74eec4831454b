//! Secrets from which keys are derived. Their memory is cleared when they are dropped.

mod spelling;

use std::fmt;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::suite;

/// The minimum length of a raw key in bytes: the strength of AES-128.
pub(crate) const MIN_KEY_LEN: usize = 16;

/// The kind of key derivation that a secret needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    /// A password KDF, for a passphrase that people type.
    Password,
    /// A KDF for a raw key from a random generator.
    Random,
}

/// A passphrase or a raw key. It has no getter, and `Debug` shows its kind only.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    kdf: Kdf,
}

impl Secret {
    /// Creates a secret from a passphrase, which the password KDF of the profile derives. The bytes are not trimmed,
    /// and Unicode is not normalised.
    ///
    /// # Errors
    /// [`KeyError::EmptyPassphrase`].
    pub fn passphrase(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        Ok(Self::new(bytes, Kdf::Password))
    }

    /// Creates a secret from random key material, which the KDF of the profile for raw keys derives.
    ///
    /// # Errors
    /// [`KeyError::ShortKey`] below 16 bytes.
    pub fn key(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < MIN_KEY_LEN {
            return Err(KeyError::ShortKey { given: bytes.len(), min: MIN_KEY_LEN });
        }
        Ok(Self::new(bytes, Kdf::Random))
    }

    /// Returns the same bytes as a secret of the other kind, to diagnose two sides that use different kinds.
    #[must_use]
    pub fn with_other_kdf(&self) -> Self {
        let kdf = if self.is_passphrase() { Kdf::Random } else { Kdf::Password };
        Self { bytes: self.bytes.clone(), kdf }
    }

    /// Returns whether the secret is a passphrase.
    #[must_use]
    pub fn is_passphrase(&self) -> bool {
        self.kdf == Kdf::Password
    }

    pub(crate) fn new(bytes: &[u8], kdf: Kdf) -> Self {
        Self { bytes: Zeroizing::new(bytes.to_vec()), kdf }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn kdf(&self) -> Kdf {
        self.kdf
    }

    /// Returns whether both secrets have the same bytes and kind, in constant time.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.kdf == other.kdf && suite::same(&self.bytes, &other.bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("kdf", &self.kdf).finish_non_exhaustive()
    }
}
