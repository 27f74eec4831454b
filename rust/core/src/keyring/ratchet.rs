//! The ratchet: a step forward, and the bounded search for a sender that has stepped ahead. Nothing else ratchets.
//!
//! Injected frames make a receiver search, within bounds that a forger cannot move. A key ahead is a candidate until a
//! frame has authenticated with it. Each step is derived once per key, and only the steps of the ratchet window are.
//!
//! A slow step (a password KDF takes milliseconds) is never derived on the frame path. The frame fails and requests the
//! step, and a background thread calls [`KeyRing::derive_ratchet_step`]. Afterwards a forged frame costs one failed
//! AEAD per derived step.

use std::sync::{Arc, PoisonError};

use super::counter::CtrSource;
use super::key::Key;
use super::kid::Field;
use super::nonce::{IvSource, NonceSource};
use super::{KeyRing, Slot, State};
use crate::error::{ApiMisuse, KeyError};
use crate::secret::{Kdf, Secret};
use crate::wire::Wire;

/// A step that is derived, but not installed yet.
pub(super) struct Step {
    key_id: u64,
    /// The serial of the key before the step.
    serial: u64,
    next_id: u64,
    next: Box<Slot>,
}

impl Slot {
    /// Returns the material of the last derived step.
    fn last(&self) -> &Secret {
        self.ahead.last().map_or(&self.material, |(material, _)| material)
    }
}

impl KeyRing {
    /// Moves the key under `key_id` one step forward and returns its new id.
    ///
    /// The id stays the same in the trailer profiles. In SFrame it is the KID of the next step. The previous step still
    /// opens frames until the step after.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoSuchKey`], [`ApiMisuse::RatchetBits`], [`KeyError::Unavailable`].
    pub fn ratchet(&self, key_id: u64) -> Result<u64, KeyError> {
        loop {
            let step = self.derive_step(key_id)?;
            let next_id = step.next_id;
            if self.install_step(step) {
                return Ok(next_id);
            }
        }
    }

    /// Derives the step after the key under `key_id`, without a lock.
    pub(super) fn derive_step(&self, key_id: u64) -> Result<Step, KeyError> {
        self.check(key_id)?;
        let next_id = self.stepped_key_id(key_id, 1)?;
        let (material, serial, generation) = {
            let state = self.read();
            let slot = state.slots.get(&key_id).ok_or(KeyError::NoSuchKey { key_id })?;
            (slot.material.clone(), slot.key.serial, slot.nonces.generation())
        };
        let material = self.deriver.step(&material)?;
        let key = Arc::new(self.deriver.key(next_id, &material)?);
        let nonces = self.stepped_nonces(&key, generation)?;
        let next = Slot::new(material, key, nonces);
        Ok(Step { key_id, serial, next_id, next: Box::new(next) })
    }

    /// Installs a step. Returns false and changes nothing if the key before the step was replaced meanwhile.
    pub(super) fn install_step(&self, Step { key_id, serial, next_id, next }: Step) -> bool {
        let mut state = self.lock();
        let is_there = state.slots.get(&key_id).is_some_and(|slot| slot.key.serial == serial);
        if is_there {
            self.replace(&mut state, key_id, next_id, *next);
        }
        is_there
    }

    /// Returns the key ids for which [`Self::derive_ratchet_step`] is due. A frame failed under each of these keys
    /// while steps within the ratchet window were not derived.
    #[must_use]
    pub fn pending_ratchets(&self) -> Vec<u64> {
        self.read_current().1.slots.iter().filter(|(_, slot)| slot.step_requested).map(|(&key_id, _)| key_id).collect()
    }

    /// Returns the key id of the last key that followed the ratchet of a sender, or `None` if none did.
    #[must_use]
    pub fn ratcheted_key_id(&self) -> Option<u64> {
        self.read_current().1.last_ratcheted
    }

    /// Derives one more step ahead of the key under `key_id`. Returns whether the ratchet window has further steps.
    ///
    /// An early call makes the steps ready before a sender uses them. Calls from several threads run one at a time.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn derive_ratchet_step(&self, key_id: u64) -> Result<bool, KeyError> {
        self.current().derive_one_step(key_id)
    }

    fn derive_one_step(&self, key_id: u64) -> Result<bool, KeyError> {
        let _one_at_a_time = self.deriving.lock().unwrap_or_else(PoisonError::into_inner);
        let (serial, known, material) = {
            let state = self.read();
            let Some(slot) = state.slots.get(&key_id) else {
                return state.newest(key_id).map(|_| false).ok_or(KeyError::NoSuchKey { key_id });
            };
            if slot.superseded || slot.ahead.len() >= self.window() {
                return Ok(false);
            }
            (slot.key.serial, slot.ahead.len(), slot.last().clone())
        };
        let step = self.step(key_id, known, &material)?;
        Ok(self.store_step(key_id, serial, known, step))
    }

    /// Tries the steps within the ratchet window, if key ids do not count them. The step that opens the frame becomes
    /// the key. Returns that key and the number of steps by which the ring has advanced, or `None` and changes no key.
    pub(super) fn search(
        &self,
        kid: u64,
        base: &Key,
        mut opens: impl FnMut(&Key) -> bool,
    ) -> Option<(Arc<Key>, usize)> {
        if self.deriver.profile.wire == Wire::Sframe {
            return None;
        }
        for steps in 1..=self.window() {
            let candidate = self.key_ahead(kid, base, steps)?;
            if opens(&candidate) {
                let advanced = self.promote(kid, &candidate);
                return Some((candidate, advanced));
            }
        }
        None
    }

    /// Returns the key `steps` (1 or more) ahead of `base`. Returns `None` if `base` was replaced or superseded, or the
    /// step must be derived by [`Self::derive_ratchet_step`].
    pub(super) fn key_ahead(&self, kid: u64, base: &Key, steps: usize) -> Option<Arc<Key>> {
        loop {
            let (known, material) = {
                let mut state = self.lock();
                let slot =
                    state.slots.get_mut(&kid).filter(|slot| slot.key.serial == base.serial && !slot.superseded)?;
                if let Some((_, key)) = slot.ahead.get(steps.checked_sub(1)?) {
                    return Some(Arc::clone(key));
                }
                if slot.material.kdf() == Kdf::Password {
                    slot.step_requested = true;
                    return None;
                }
                (slot.ahead.len(), slot.last().clone())
            };
            let step = self.step(kid, known, &material).ok()?;
            self.store_step(kid, base.serial, known, step);
        }
    }

    /// Returns how many steps a receiver looks ahead. It is 0 for SFrame KIDs without ratchet bits.
    fn window(&self) -> usize {
        let unstepped = self.deriver.profile.wire == Wire::Sframe && self.options.ratchet_bits == 0;
        if unstepped { 0 } else { usize::from(self.options.ratchet_window) }
    }

    /// Derives the step after `material`, which is `known` steps ahead of the key under `kid`.
    fn step(&self, kid: u64, known: usize, material: &Secret) -> Result<(Secret, Arc<Key>), KeyError> {
        let material = self.deriver.step(material)?;
        let key = self.deriver.key(self.stepped_key_id(kid, known as u64 + 1)?, &material)?;
        Ok((material, Arc::new(key)))
    }

    /// Stores a step, unless the key was replaced or another thread was first. Returns whether the window has more
    /// steps.
    fn store_step(&self, kid: u64, serial: u64, known: usize, step: (Secret, Arc<Key>)) -> bool {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&kid) else { return false };
        if slot.key.serial == serial && !slot.superseded && slot.ahead.len() == known {
            slot.ahead.push(step);
        }
        let more = slot.ahead.len() < self.window();
        slot.step_requested &= more;
        more
    }

    /// Makes `key` the key under `kid`, after it has authenticated a frame. Returns the number of steps to it. Returns 0
    /// and changes nothing if no key has `key` ahead of it any more, because another track was first.
    pub(super) fn promote(&self, kid: u64, key: &Key) -> usize {
        let mut state = self.lock();
        // The key before may be another one than at the look-up: another track may have followed a part of the way.
        let before = state.slots.iter_mut().find_map(|(&from, slot)| {
            let step = slot.ahead.iter().position(|(_, ahead)| ahead.serial == key.serial)?;
            Some((from, slot, step))
        });
        let Some((from, slot, step)) = before else { return 0 };
        let rest = slot.ahead.split_off(step + 1);
        let Some((material, key)) = slot.ahead.pop() else { return 0 };
        slot.ahead.clear();
        let Ok(nonces) = self.stepped_nonces(&key, slot.nonces.generation()) else { return 0 };
        let next = Slot { ahead: rest, ..Slot::new(material, key, nonces) };
        state.last_ratcheted = Some(kid);
        self.replace(&mut state, from, kid, next);
        step + 1
    }

    /// Sets `next` under `next_id`. If that differs from `key_id`, the key under `key_id` stays and becomes superseded.
    fn replace(&self, state: &mut State, key_id: u64, next_id: u64, next: Slot) {
        if next_id != key_id {
            let bits = self.options.ratchet_bits;
            let of_generation = state.slots.range(key_id & !Field::mask(bits)..=key_id | Field::mask(bits));
            // Another thread may have taken the same step: then `key_id` is superseded already, and stays.
            let older = of_generation.filter(|(id, slot)| slot.superseded && **id != key_id);
            let superseded: Vec<u64> = older.map(|(&id, _)| id).collect();
            superseded.into_iter().for_each(|id| drop(state.remove_slot(id)));
            if let Some(slot) = state.slots.get_mut(&key_id) {
                slot.superseded = true;
                slot.ahead.clear();
            }
        }
        let seals = state.sending_key_id == key_id;
        state.insert(next_id, next);
        if seals {
            state.choose(next_id);
        }
        self.changed(state);
    }

    /// Creates the nonce source of a step. `generation` is the fork generation of the source of the key before the
    /// step.
    fn stepped_nonces(&self, key: &Key, generation: u32) -> Result<NonceSource, KeyError> {
        Ok(match self.deriver.profile.wire {
            Wire::Trailer => NonceSource::Iv(IvSource::new()?),
            Wire::Footer => return Err(KeyError::NoRatchet),
            Wire::Sframe => NonceSource::Ctr(CtrSource::step(key.identity, self.deriver.ring, generation)?),
        })
    }

    /// Returns the key id after `steps` ratchet steps. It is the same in the trailer profiles.
    ///
    /// # Errors
    /// [`ApiMisuse::RatchetBits`] for an SFrame ring whose KIDs have no ratchet bits.
    fn stepped_key_id(&self, key_id: u64, steps: u64) -> Result<u64, KeyError> {
        let bits = self.options.ratchet_bits;
        match (self.deriver.profile.wire, bits) {
            (Wire::Trailer, _) => Ok(key_id),
            (Wire::Footer, _) => Err(KeyError::NoRatchet),
            (Wire::Sframe, 0) => Err(ApiMisuse::RatchetBits.into()),
            (Wire::Sframe, _) => {
                let mask = Field::mask(bits);
                Ok(key_id & !mask | key_id.wrapping_add(steps) & mask)
            }
        }
    }

    /// Returns the nearest key before `kid` in its generation, and the number of steps from it to `kid`. Returns `None`
    /// if no key is within the ratchet window. Steps wrap around, so they are a distance.
    pub(super) fn nearest_base(&self, state: &State, kid: u64) -> Option<(u64, usize)> {
        let bits = self.options.ratchet_bits;
        if bits == 0 {
            return None;
        }
        let mask = Field::mask(bits);
        let window = 1..=self.window() as u64;
        let generation = state.slots.range(kid & !mask..=kid | mask).filter(|(_, slot)| !slot.superseded);
        let ahead = generation.map(|(&from, _)| (kid.wrapping_sub(from) & mask, from));
        let (steps, from) = ahead.filter(|(steps, _)| window.contains(steps)).min()?;
        Some((from, usize::try_from(steps).ok()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Options, profile};

    #[test]
    fn a_step_of_a_key_that_was_replaced_meanwhile_is_not_stored() {
        let ring = KeyRing::new(&profile::LIVEKIT, Options { ratchet_window: 2, ..Options::default() }).unwrap();
        ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
        let (serial, material) = {
            let state = ring.read();
            let slot = &state.slots[&0];
            (slot.key.serial, slot.last().clone())
        };
        ring.set(0, &Secret::key(&[8; 32]).unwrap()).unwrap();
        let step = ring.step(0, 0, &material).unwrap();
        assert!(ring.store_step(0, serial, 0, step));
        assert!(ring.read().slots[&0].ahead.is_empty());
    }
}
