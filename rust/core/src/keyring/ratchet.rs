//! One step forward, and the bounded search for a sender that has stepped ahead. Nothing else ratchets.
//!
//! Whoever can inject frames makes a receiver search, within bounds that a forger cannot move. A key ahead is a candidate
//! until a frame has authenticated with it. Each step is derived once per key, never more of them than the window has.
//! And one that is slow (a password KDF takes milliseconds) is never derived on a frame's own path: the frame fails and
//! leaves a note, and whoever has time to spare calls [`KeyRing::derive_ratchet_step`]. After that a forged frame costs what it
//! costs to find that none of these keys opens it.

use std::sync::{Arc, PoisonError};

use super::counter::CtrSource;
use super::key::Key;
use super::kid::Field;
use super::nonce::{IvSource, NonceSource};
use super::{KeyRing, Slot, State};
use crate::error::{ApiMisuse, KeyError};
use crate::secret::{Kdf, Secret};
use crate::wire::Wire;

/// A step that is derived and not taken yet.
pub(super) struct Step {
    key_id: u64,
    /// Of the key that it follows.
    serial: u64,
    next_id: u64,
    next: Box<Slot>,
}

impl Slot {
    /// The material of the last step that is known.
    fn last(&self) -> &Secret {
        self.ahead.last().map_or(&self.material, |(material, _)| material)
    }
}

impl KeyRing {
    /// Moves the key under `key_id` one step forward and returns the id that it has then: the same in the trailer
    /// profiles, the KID of the next step in SFrame, where the step before it still opens frames until the step after.
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

    /// Derives the step that follows the key under `key_id`. No lock is held meanwhile.
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

    /// Takes a step. Returns false if its key was replaced meanwhile: the step belongs to the key that is there now.
    pub(super) fn install_step(&self, Step { key_id, serial, next_id, next }: Step) -> bool {
        let mut state = self.lock();
        let is_there = state.slots.get(&key_id).is_some_and(|slot| slot.key.serial == serial);
        if is_there {
            self.replace(&mut state, key_id, next_id, *next);
        }
        is_there
    }

    /// The ids of keys that a frame failed under while steps within the window were still to be derived: what
    /// [`Self::derive_ratchet_step`] is to be called for.
    #[must_use]
    pub fn pending_ratchets(&self) -> Vec<u64> {
        self.current().read().slots.iter().filter(|(_, slot)| slot.step_requested).map(|(&key_id, _)| key_id).collect()
    }

    /// The id that the key has to which a sender that had ratcheted was followed last.
    #[must_use]
    pub fn ratcheted_key_id(&self) -> Option<u64> {
        self.current().read().last_ratcheted
    }

    /// Derives one further step ahead of the key under `key_id`, for frames to come. False: there is no further one in
    /// the window. Called early, it finds the steps ready when a sender takes them. One at a time, whichever threads call.
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

    /// Tries the keys that the sender may have ratcheted to, where key ids do not tell. A candidate becomes the key once
    /// it has opened a frame; until then nothing changes. Returns that key and the steps to it.
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
                self.promote(kid, kid, &candidate);
                return Some((candidate, steps));
            }
        }
        None
    }

    /// The key `steps` (1 or more) ahead of `base`. None: `base` is not the key under `kid` any more, or the step is one
    /// for [`Self::derive_ratchet_step`].
    pub(super) fn key_ahead(&self, kid: u64, base: &Key, steps: usize) -> Option<Arc<Key>> {
        loop {
            let (known, material) = {
                let mut state = self.lock();
                let slot = state.slots.get_mut(&kid).filter(|slot| slot.key.serial == base.serial)?;
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

    /// Steps that a receiver looks ahead: none where key ids have no place for them and each key is its own.
    fn window(&self) -> usize {
        let unstepped = self.deriver.profile.wire == Wire::Sframe && self.options.ratchet_bits == 0;
        if unstepped { 0 } else { usize::from(self.options.ratchet_window) }
    }

    /// The step that follows `material`, which is `known` steps ahead of the key under `kid`.
    fn step(&self, kid: u64, known: usize, material: &Secret) -> Result<(Secret, Arc<Key>), KeyError> {
        let material = self.deriver.step(material)?;
        let key = self.deriver.key(self.stepped_key_id(kid, known as u64 + 1)?, &material)?;
        Ok((material, Arc::new(key)))
    }

    /// Keeps a step, unless the key was replaced or another thread was first. True: the window has more.
    fn store_step(&self, kid: u64, serial: u64, known: usize, step: (Secret, Arc<Key>)) -> bool {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&kid) else { return false };
        if slot.key.serial == serial && slot.ahead.len() == known {
            slot.ahead.push(step);
        }
        let more = slot.ahead.len() < self.window();
        slot.step_requested &= more;
        more
    }

    /// A frame authenticated with `key`, which is ahead of the one under `from`: from now on it is the key under `kid`.
    pub(super) fn promote(&self, from: u64, kid: u64, key: &Key) {
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&from) else { return };
        let Some(step) = slot.ahead.iter().position(|(_, ahead)| ahead.serial == key.serial) else { return };
        let rest = slot.ahead.split_off(step + 1);
        let Some((material, key)) = slot.ahead.pop() else { return };
        slot.ahead.clear();
        let Ok(nonces) = self.stepped_nonces(&key, slot.nonces.generation()) else { return };
        let next = Slot { ahead: rest, ..Slot::new(material, key, nonces) };
        state.last_ratcheted = Some(kid);
        self.replace(&mut state, from, kid, next);
    }

    /// Puts `next` under `next_id` in the place of `key_id`, which moves aside where both have a place of their own.
    fn replace(&self, state: &mut State, key_id: u64, next_id: u64, next: Slot) {
        if next_id != key_id {
            let bits = self.options.ratchet_bits;
            let of_generation = state.slots.range(key_id & !Field::mask(bits)..=key_id | Field::mask(bits));
            let superseded: Vec<u64> = of_generation.filter(|(_, slot)| slot.superseded).map(|(&id, _)| id).collect();
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

    /// Where the nonces of a step come from whose key before it has a source of this `generation`.
    fn stepped_nonces(&self, key: &Key, generation: u32) -> Result<NonceSource, KeyError> {
        Ok(match self.deriver.profile.wire {
            Wire::Trailer => NonceSource::Iv(IvSource::new()?),
            Wire::Sframe => NonceSource::Ctr(CtrSource::step(key.identity, self.deriver.ring, generation)?),
        })
    }

    /// The key id so many ratchet steps on: the same where steps have no place in it.
    fn stepped_key_id(&self, key_id: u64, steps: u64) -> Result<u64, KeyError> {
        let bits = self.options.ratchet_bits;
        match (self.deriver.profile.wire, bits) {
            (Wire::Trailer, _) => Ok(key_id),
            (Wire::Sframe, 0) => Err(ApiMisuse::RatchetBits.into()),
            (Wire::Sframe, _) => {
                let mask = Field::mask(bits);
                Ok(key_id & !mask | key_id.wrapping_add(steps) & mask)
            }
        }
    }

    /// The nearest key that `kid` is ahead of in its generation, and by how many steps, if these are within the window.
    /// Steps wrap: they are a distance.
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
