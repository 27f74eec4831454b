//! Keys that are derived first and set later.
//!
//! A passphrase takes milliseconds. Whoever guards several rings with a lock of their own derives before taking it.

use std::sync::Arc;

use super::ratchet::Step;
use super::{Fresh, KeyRing};
use crate::error::KeyError;
use crate::secret::Secret;

/// A key of one ring, or a step of one, that is derived and not set yet. Dropping it changes nothing.
pub struct DerivedKey {
    ring: Arc<KeyRing>,
    change: Change,
}

enum Change {
    Set(u64, Fresh),
    Ratchet(Step),
}

impl KeyRing {
    /// Derives what [`Self::set`] sets under `key_id`.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn derive_key(self: &Arc<Self>, key_id: u64, secret: &Secret) -> Result<DerivedKey, KeyError> {
        let fresh = self.derive_fresh(key_id, secret, None)?;
        Ok(DerivedKey { ring: Arc::clone(self), change: Change::Set(key_id, fresh) })
    }

    /// Derives the step that [`Self::ratchet`] takes with the key under `key_id`.
    ///
    /// # Errors
    /// As [`Self::ratchet`].
    pub fn derive_ratchet(self: &Arc<Self>, key_id: u64) -> Result<DerivedKey, KeyError> {
        Ok(DerivedKey { ring: Arc::clone(self), change: Change::Ratchet(self.derive_step(key_id)?) })
    }
}

impl DerivedKey {
    /// Sets the key in its ring, or takes the step. Returns false if the key that a step follows was replaced or removed
    /// meanwhile: then nothing has changed.
    pub fn install(self) -> bool {
        match self.change {
            Change::Set(key_id, fresh) => {
                self.ring.install_fresh(key_id, fresh);
                true
            }
            Change::Ratchet(step) => self.ring.install_step(step),
        }
    }
}
