//! The search for a sender that has ratcheted ahead, within bounds that a forger cannot move.
//!
//! Whoever can inject frames makes a receiver search. So each step is derived once per key, never more of them than the
//! window has; and one that is slow (a password KDF takes milliseconds) is never derived on a frame's own path: the frame
//! fails and leaves a note, and whoever has time to spare calls [`KeyRing::derive_ahead`]. After that a forged frame
//! costs what it costs to find that none of these keys opens it.

use std::sync::{Arc, PoisonError};

use super::{Key, KeyRing, Slot};
use crate::error::KeyError;
use crate::nonce::IvSource;
use crate::ratchet;
use crate::secret::{Kdf, Secret};

impl Slot {
    /// The material of the last step that is known.
    fn last(&self) -> &Secret {
        self.ahead.last().map_or(&self.material, |(material, _)| material)
    }
}

impl KeyRing {
    /// The ids of keys that a frame failed under while steps within the window were still to be derived: what
    /// [`Self::derive_ahead`] is to be called for.
    #[must_use]
    pub fn wanted_ahead(&self) -> Vec<u64> {
        self.lock().slots.iter().filter(|(_, slot)| slot.wanted).map(|(&key_id, _)| key_id).collect()
    }

    /// Derives one further step ahead of the key under `key_id`, for frames to come. False: all of the window is there.
    /// Called early, it finds the steps ready when a sender takes them. One at a time, whichever threads call.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn derive_ahead(&self, key_id: u64) -> Result<bool, KeyError> {
        let _one_at_a_time = self.deriving.lock().unwrap_or_else(PoisonError::into_inner);
        let (serial, known, material) = {
            let state = self.lock();
            let slot = state.slots.get(&key_id).ok_or(KeyError::NoSuchKey { key_id })?;
            if slot.ahead.len() >= self.ratchet_window() {
                return Ok(false);
            }
            (slot.key.serial, slot.ahead.len(), slot.last().clone())
        };
        let step = self.step(&material)?;
        Ok(self.keep(key_id, serial, known, step))
    }

    /// Tries the keys that the sender may have ratcheted to. A candidate becomes the key once it has opened a frame;
    /// until then nothing changes. Returns the steps taken.
    pub(crate) fn search(&self, kid: u64, base: &Key, mut opens: impl FnMut(&Key) -> bool) -> Option<usize> {
        for steps in 1..=self.ratchet_window() {
            let candidate = self.ahead(kid, base, steps)?;
            if opens(&candidate) {
                self.commit(kid, &candidate);
                return Some(steps);
            }
        }
        None
    }

    fn ratchet_window(&self) -> usize {
        usize::from(self.options.ratchet_window)
    }

    /// The key `steps` (1 or more) ahead of `base`. None: `base` is not the key under `kid` any more, or the step is one
    /// for [`Self::derive_ahead`].
    fn ahead(&self, kid: u64, base: &Key, steps: usize) -> Option<Arc<Key>> {
        loop {
            let (known, material) = {
                let mut state = self.lock();
                let slot = state.slots.get_mut(&kid).filter(|slot| slot.key.serial == base.serial)?;
                if let Some((_, key)) = slot.ahead.get(steps.checked_sub(1)?) {
                    return Some(Arc::clone(key));
                }
                if slot.material.kdf() == Kdf::Password {
                    slot.wanted = true;
                    return None;
                }
                (slot.ahead.len(), slot.last().clone())
            };
            let step = self.step(&material).ok()?;
            self.keep(kid, base.serial, known, step);
        }
    }

    fn step(&self, material: &Secret) -> Result<(Secret, Arc<Key>), KeyError> {
        let material = ratchet::step(&self.profile.schedule, material)?;
        let key = self.expand(&material)?;
        Ok((material, Arc::new(key)))
    }

    /// Keeps a step, unless the key was replaced or another thread was first. True: the window has more.
    fn keep(&self, kid: u64, serial: u64, known: usize, step: (Secret, Arc<Key>)) -> bool {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&kid) else { return false };
        if slot.key.serial == serial && slot.ahead.len() == known {
            slot.ahead.push(step);
        }
        let more = slot.ahead.len() < self.ratchet_window();
        slot.wanted &= more;
        more
    }

    /// A frame authenticated with `key`, a step ahead: from now on it is the key under `kid`.
    fn commit(&self, kid: u64, key: &Key) {
        let Ok(ivs) = IvSource::new() else { return };
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&kid) else { return };
        let Some(step) = slot.ahead.iter().position(|(_, ahead)| ahead.serial == key.serial) else { return };
        let ahead = slot.ahead.split_off(step + 1);
        if let Some((material, key)) = slot.ahead.pop() {
            *slot = Slot { material, key, ivs, ahead, wanted: false };
        }
    }
}
