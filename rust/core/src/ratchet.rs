//! One step forward, and the bounded search for a sender that has stepped ahead. Nothing else ratchets.
//!
//! A key ahead is a candidate until a frame has authenticated with it, and each step is derived once: a forged frame
//! buys no second derivation.

use std::sync::Arc;

use crate::error::KeyError;
use crate::family::Field;
use crate::key::Key;
use crate::keyring::{KeyRing, Slot, State};
use crate::wire::Wire;

/// Steps that a receiver may look ahead, at the most.
pub(crate) const MOST_AHEAD: u16 = 16;

impl KeyRing {
    /// Moves the key under `key_id` one step forward and returns the id that it has then: the same in the trailer
    /// profiles, the KID of the next step in SFrame, where the step before it still opens frames until the step after.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoSuchKey`], [`KeyError::NotOfProfile`], [`KeyError::Unavailable`].
    pub fn ratchet(&self, key_id: u64) -> Result<u64, KeyError> {
        self.check(key_id)?;
        let next_id = self.stepped(key_id, 1)?;
        loop {
            let (material, serial) = {
                let state = self.lock();
                let slot = state.slots.get(&key_id).ok_or(KeyError::NoSuchKey { key_id })?;
                (slot.material.clone(), slot.key.serial)
            };
            let next = self.slot(next_id, self.maker.step(&material)?, None)?;
            let mut state = self.lock();
            // Replaced meanwhile? Then the step belongs to the key that is there now.
            if state.slots.get(&key_id).is_some_and(|slot| slot.key.serial == serial) {
                self.replace(&mut state, key_id, next_id, next);
                return Ok(next_id);
            }
        }
    }

    /// Steps to try when a key does not open a frame whose key id does not tell the step.
    pub(crate) fn blind_window(&self) -> usize {
        if self.maker.profile.wire == Wire::Trailer { usize::from(self.options.ratchet_window) } else { 0 }
    }

    /// The key `steps` (1 or more) ahead of `base`; none if `base` is not the key under `kid` any more. Each step is
    /// derived once.
    pub(crate) fn ahead(&self, kid: u64, base: &Key, steps: usize) -> Option<Arc<Key>> {
        loop {
            let (known, material) = {
                let state = self.lock();
                let slot = state.slots.get(&kid).filter(|slot| slot.key.serial == base.serial)?;
                if let Some((_, key)) = slot.ahead.get(steps.checked_sub(1)?) {
                    return Some(Arc::clone(key));
                }
                (slot.ahead.len(), slot.ahead.last().map_or(&slot.material, |(material, _)| material).clone())
            };
            let material = self.maker.step(&material).ok()?;
            let key = self.maker.key(self.stepped(kid, known as u64 + 1).ok()?, &material).ok()?;
            let mut state = self.lock();
            let slot = state.slots.get_mut(&kid).filter(|slot| slot.key.serial == base.serial)?;
            if slot.ahead.len() == known {
                slot.ahead.push((material, Arc::new(key)));
            }
        }
    }

    /// A frame authenticated with `key`, which is ahead of the one under `from`: from now on it is the key under `kid`.
    pub(crate) fn commit(&self, from: u64, kid: u64, key: &Key) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&from) else { return };
        let Some(step) = slot.ahead.iter().position(|(_, ahead)| ahead.serial == key.serial) else { return };
        let rest = slot.ahead.split_off(step + 1);
        let Some((material, key)) = slot.ahead.pop() else { return };
        slot.ahead.clear();
        let Ok(nonces) = self.nonces(kid, &material, None) else { return };
        self.replace(&mut state, from, kid, Slot { material, key, nonces, ahead: rest, old: false });
    }

    /// Puts `next` under `next_id` in the place of `key_id`, which moves aside where both have a place of their own.
    fn replace(&self, state: &mut State, key_id: u64, next_id: u64, next: Slot) {
        if next_id != key_id {
            let bits = self.options.ratchet_bits;
            state.slots.retain(|id, slot| id >> bits != key_id >> bits || !slot.old);
            if let Some(slot) = state.slots.get_mut(&key_id) {
                slot.old = true;
                slot.ahead.clear();
            }
            if state.sending == key_id {
                state.sending = next_id;
            }
        }
        state.slots.insert(next_id, next);
    }

    /// The key id so many ratchet steps on: the same where steps have no place in it.
    fn stepped(&self, key_id: u64, steps: u64) -> Result<u64, KeyError> {
        let bits = self.options.ratchet_bits;
        match (self.maker.profile.wire, bits) {
            (Wire::Trailer, _) => Ok(key_id),
            (Wire::Sframe, 0) => {
                Err(KeyError::NotOfProfile { option: "ratchet without ratchet_bits", profile: self.maker.profile.name })
            }
            (Wire::Sframe, _) => {
                let mask = Field::mask(bits);
                Ok(key_id & !mask | key_id.wrapping_add(steps) & mask)
            }
        }
    }

    /// The current key of the generation that `kid` belongs to, and how many steps `kid` is ahead of it, if that is
    /// within the window. Steps wrap: they are a distance.
    pub(crate) fn behind(&self, state: &State, kid: u64) -> Option<(u64, usize)> {
        let bits = self.options.ratchet_bits;
        if bits == 0 {
            return None;
        }
        let mask = Field::mask(bits);
        let mut generation = state.slots.range(kid & !mask..=kid | mask);
        let (&from, _) = generation.find(|(_, slot)| !slot.old)?;
        let steps = kid.wrapping_sub(from) & mask;
        (1..=u64::from(self.options.ratchet_window)).contains(&steps).then_some((from, usize::try_from(steps).ok()?))
    }
}
