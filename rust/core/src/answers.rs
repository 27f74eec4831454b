//! What a ring says about its keys: how far they are used up, what they can be compared by, and, if it was made for that,
//! what they are.

use std::sync::atomic::Ordering;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::family::Family;
use crate::fingerprint::Fingerprint;
use crate::keyring::KeyRing;

impl KeyRing {
    /// Whether a frame can be sealed now: the sending key is there.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.usage(self.sending_key_id()).is_ok()
    }

    /// Counts the times that keys were set, chosen or removed, here or in the fallback: another number, another try.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let shared = self.fallback.as_ref().map_or(0, |shared| shared.changes());
        self.changes.load(Ordering::Acquire).wrapping_add(shared)
    }

    /// How many frames (and data packets) this ring has sealed under the key that is now under `key_id`. What other
    /// rings and machines with the same key have sealed is not in it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn usage(&self, key_id: u64) -> Result<u64, KeyError> {
        let state = self.current().read();
        let slot = state.slots.get(&key_id).map(|slot| slot.nonces.issued());
        slot.or_else(|| state.family(key_id).map(Family::issued)).ok_or(KeyError::NoSuchKey { key_id })
    }

    /// Frames at which a key is exhausted.
    #[must_use]
    pub fn usage_limit(&self) -> u64 {
        self.options.usage_limit
    }

    /// Frames from which on a new key is due: 2^24.5, or three quarters of a lower limit.
    #[must_use]
    pub fn usage_warning(&self) -> u64 {
        self.options.usage_warning()
    }

    /// What the holders of the key under `key_id` (none: the sending key) can compare to see that they have the same.
    /// It says nothing about the key, but a passphrase that can be guessed can be checked against it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn fingerprint(&self, key_id: Option<u64>) -> Result<Fingerprint, KeyError> {
        let state = self.current().read();
        let key_id = key_id.unwrap_or(state.sending);
        let (material, key) = match state.slots.get(&key_id) {
            Some(slot) => (&slot.material, Some(&*slot.key)),
            None => (&state.family(key_id).ok_or(KeyError::NoSuchKey { key_id })?.material, None),
        };
        self.maker.fingerprint(key_id, material, key)
    }

    /// The material of the key under `key_id` (none: the sending key) as it is now, for a ring that was made for it.
    ///
    /// # Errors
    /// [`KeyError::NotExportable`], [`KeyError::NoSuchKey`].
    pub fn export(&self, key_id: Option<u64>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let ring = self.current();
        if !self.options.exportable || !ring.options.exportable {
            return Err(KeyError::NotExportable);
        }
        let state = ring.read();
        let key_id = key_id.unwrap_or(state.sending);
        let slot = state.slots.get(&key_id).map(|slot| &slot.material);
        let material = slot.or_else(|| state.family(key_id).map(|family| &family.material));
        material.map(|material| Zeroizing::new(material.bytes().to_vec())).ok_or(KeyError::NoSuchKey { key_id })
    }
}
