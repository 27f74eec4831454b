//! Keys that are derived now and set later.
//!
//! The password KDF takes milliseconds. A caller that guards several rings with its own lock derives before it locks.

use std::sync::Arc;

use super::ratchet::Step;
use super::{Fresh, KeyRing};
use crate::error::KeyError;
use crate::secret::Secret;

/// A key or a ratchet step of one ring that is derived, but not set yet. Dropping it changes nothing.
pub struct DerivedKey {
    ring: Arc<KeyRing>,
    change: Change,
}

enum Change {
    Set(u64, Fresh),
    Ratchet(Step),
}

impl KeyRing {
    /// Derives the key that [`Self::set`] would set under `key_id`.
    ///
    /// # Errors
    /// The errors of [`Self::set`].
    pub fn derive_key(self: &Arc<Self>, key_id: u64, secret: &Secret) -> Result<DerivedKey, KeyError> {
        let fresh = self.derive_fresh(key_id, secret, None)?;
        Ok(DerivedKey { ring: Arc::clone(self), change: Change::Set(key_id, fresh) })
    }

    /// Derives the step that [`Self::ratchet`] would install after the key under `key_id`.
    ///
    /// # Errors
    /// The errors of [`Self::ratchet`].
    pub fn derive_ratchet(self: &Arc<Self>, key_id: u64) -> Result<DerivedKey, KeyError> {
        Ok(DerivedKey { ring: Arc::clone(self), change: Change::Ratchet(self.derive_step(key_id)?) })
    }
}

impl DerivedKey {
    /// Sets the key in its ring, or installs the step. Returns false and changes nothing if the key before the step was
    /// replaced or removed meanwhile.
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
