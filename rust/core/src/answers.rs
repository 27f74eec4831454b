//! What a ring says about its keys: how far they are used up, what they can be compared by, and, if it was made for that,
//! what they are.

use std::sync::atomic::Ordering;
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::keyring::{Held, KeyRing, State};
use crate::secret::Secret;

impl KeyRing {
    /// Whether a frame can be sealed now: the sending key is there.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        let state = self.current().read();
        state.newest(state.sending).is_some()
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
        let held = state.newest(key_id).ok_or(KeyError::NoSuchKey { key_id })?;
        Ok(state.sealed_with(held.identity()))
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
        let (material, key) = state.material(key_id)?;
        self.maker.fingerprint(key_id, material, key)
    }

    /// Returns the fingerprint of every key that may open a frame, with its key id, in ascending order: one snapshot.
    /// Two epochs may stand under one id.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    pub fn fingerprints(&self) -> Result<Vec<(u64, Fingerprint)>, KeyError> {
        let state = self.current().read();
        let slots = state.slots.iter().map(|(&key_id, slot)| (key_id, &slot.material, Some(&*slot.key)));
        let families = state.families.iter().map(|family| (family.field.value, &family.material, None));
        let mut all = slots
            .chain(families)
            .map(|(key_id, material, key)| Ok((key_id, self.maker.fingerprint(key_id, material, key)?)))
            .collect::<Result<Vec<_>, KeyError>>()?;
        all.sort_unstable();
        Ok(all)
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
        state.material(key_id).map(|(material, _)| Zeroizing::new(material.bytes().to_vec()))
    }
}

impl State {
    /// The material of what goes by this id and, where it gives one key, the key.
    fn material(&self, key_id: u64) -> Result<(&Secret, Option<&Key>), KeyError> {
        match self.newest(key_id) {
            Some(Held::Slot(slot)) => Ok((&slot.material, Some(&*slot.key))),
            Some(Held::Family(family)) => Ok((&family.material, None)),
            None => Err(KeyError::NoSuchKey { key_id }),
        }
    }
}
