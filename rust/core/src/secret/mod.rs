//! What a key is made from, boxed and cleared when it is dropped.

mod spelling;

use std::fmt;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::suite;

/// The least bytes of a raw key: the strength of AES-128.
pub(crate) const MIN_KEY_LEN: usize = 16;

/// How key material becomes a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kdf {
    /// For what people type: a passphrase.
    Password,
    /// For what a random generator made: a raw key.
    Random,
}

/// A passphrase or a raw key. It has no getter; `Debug` shows its kind only.
#[derive(Clone)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    kdf: Kdf,
}

impl Secret {
    /// A passphrase: it will go through the profile's password KDF. Its bytes count as they are, without trimming or
    /// Unicode normalisation.
    ///
    /// # Errors
    /// [`KeyError::EmptyPassphrase`].
    pub fn passphrase(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        Ok(Self::new(bytes, Kdf::Password))
    }

    /// Random key material: it will go through the profile's KDF for random keys.
    ///
    /// # Errors
    /// [`KeyError::ShortKey`] below 16 bytes.
    pub fn key(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < MIN_KEY_LEN {
            return Err(KeyError::ShortKey { given: bytes.len(), min: MIN_KEY_LEN });
        }
        Ok(Self::new(bytes, Kdf::Random))
    }

    /// The same bytes, taken for the other kind: for finding out that two sides mean different ones.
    #[must_use]
    pub fn with_other_kdf(&self) -> Self {
        let kdf = if self.is_passphrase() { Kdf::Random } else { Kdf::Password };
        Self { bytes: self.bytes.clone(), kdf }
    }

    /// Whether it is a passphrase.
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

    /// Whether both give the same key.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.kdf == other.kdf && suite::same(&self.bytes, &other.bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("kdf", &self.kdf).finish_non_exhaustive()
    }
}
