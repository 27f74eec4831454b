//! What a frame asks of a ring: the sending key with a nonce, or the key that it names.

use std::sync::{Arc, RwLockReadGuard};

use crate::error::{DecryptError, EncryptError};
use crate::key::Key;
use crate::keyring::{KeyRing, Slot, State};
use crate::nonce::{NonceSource, Unique};

/// Bytes below which a frame's AEAD is done before the lock is given back: a quarter of a microsecond at the most.
/// Becoming an owner of the key and ceasing to be one would cost a short frame a tenth of its time. Receivers share the
/// lock; who seals does not, but these are the few tracks of one sender.
pub(crate) const SHORT: usize = 4096;

/// A key to seal one frame with, and what belongs to this frame alone.
pub(crate) struct Sealing {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) unique: Unique,
}

/// A key to seal several frames with.
pub(crate) struct Run {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
}

/// What a ring seals with, while its lock is held.
pub(crate) struct Sending<'s> {
    pub(crate) key: &'s Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) nonces: &'s mut NonceSource,
    /// The key id by which an error names it.
    pub(crate) named: u64,
}

/// Keys that need no derivation, while the ring's lock is held.
pub(crate) struct AtHand<'r>(RwLockReadGuard<'r, State>);

/// A key that may open a frame. It is not in the ring yet where it has to open one first.
pub(crate) struct Found {
    pub(crate) key: Arc<Key>,
    /// Tells what was set from what will be set in its place: a key's serial, or its family's.
    pub(crate) serial: u64,
    /// The same, but it outlasts that the same is set again: what was opened before stays known.
    pub(crate) origin: u64,
    candidate: Candidate,
}

/// What it took to open a frame.
pub(crate) struct Opened {
    /// As in [`Found`], of the key that opened it.
    pub(crate) origin: u64,
    /// Ratchet steps.
    pub(crate) steps: usize,
}

enum Candidate {
    No,
    /// So many ratchet steps from the key with this id.
    Ahead(u64, usize),
    /// One of many senders under a shared base key.
    Sender,
}

impl AtHand<'_> {
    /// The key that a frame names, and its origin (see [`Found`]). None: [`KeyRing::find`] may know more.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Option<(&Key, u64)> {
        if let Some(slot) = self.0.slots.get(&kid) {
            return Some((&slot.key, slot.origin));
        }
        let family = self.0.families.iter().rev().find(|family| family.field.holds(kid))?;
        family.sender(kid).map(|key| (&**key, family.origin))
    }
}

impl KeyRing {
    /// The sending key and what nobody else gets.
    #[inline(always)]
    pub(crate) fn next(&self) -> Result<Sealing, EncryptError> {
        self.sending(|Sending { key, kid, nonces, named }, most| {
            let unique = nonces.next(most).ok_or(EncryptError::KeyExhausted { kid: named })?;
            Ok(Sealing { key: Arc::clone(key), kid, unique })
        })?
    }

    /// As [`Self::next`], for a short frame: `seal` runs before the lock is given back, and must not turn to the ring.
    #[inline(always)]
    pub(crate) fn next_within<R>(&self, seal: impl FnOnce(&Key, u64, Unique) -> R) -> Result<R, EncryptError> {
        self.sending(|Sending { key, kid, nonces, named }, most| {
            let unique = nonces.next(most).ok_or(EncryptError::KeyExhausted { kid: named })?;
            Ok(seal(key, kid, unique))
        })?
    }

    /// The sending key, and into `uniques` what `count` frames get that nobody else does: one look-up for all. Or at which
    /// of them there was nothing left.
    pub(crate) fn next_run(&self, count: usize, uniques: &mut Vec<Unique>) -> Result<Run, (usize, EncryptError)> {
        let run = self.sending(|Sending { key, kid, nonces, named }, most| {
            for place in 0..count {
                uniques.push(nonces.next(most).ok_or((place, EncryptError::KeyExhausted { kid: named }))?);
            }
            Ok(Run { key: Arc::clone(key), kid })
        });
        run.map_err(|error| (0, error))?
    }

    /// Runs `take` with what this ring seals with, and how many frames that may seal, under the lock.
    #[inline(always)]
    fn sending<R>(&self, take: impl FnOnce(Sending<'_>, u64) -> R) -> Result<R, EncryptError> {
        let ring = self.current();
        let mut state = ring.lock();
        let State { slots, families, sending: kid, .. } = &mut *state;
        let kid = *kid;
        let sending = match slots.get_mut(&kid) {
            Some(Slot { key, nonces, .. }) => Sending { key, kid, nonces, named: kid },
            None => {
                let family = families.iter_mut().find(|family| family.field.value == kid);
                family.ok_or(EncryptError::UnknownKey { kid })?.sending(&ring.maker)?
            }
        };
        Ok(take(sending, ring.options.usage_limit))
    }

    /// The keys that are at hand now. The lock is held as long as this lives: for some short frames, and no call of the ring
    /// between them.
    #[inline(always)]
    pub(crate) fn at_hand(&self) -> AtHand<'_> {
        AtHand(self.current().read())
    }

    /// The key that a received frame names.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Result<Found, DecryptError> {
        self.current().find_own(kid)
    }

    #[inline(always)]
    fn find_own(&self, kid: u64) -> Result<Found, DecryptError> {
        let unknown = DecryptError::UnknownKey { kid };
        let state = self.read();
        if let Some(slot) = state.slots.get(&kid) {
            let (key, origin) = (Arc::clone(&slot.key), slot.origin);
            return Ok(Found { serial: key.serial, key, origin, candidate: Candidate::No });
        }
        if let Some(family) = state.families.iter().rev().find(|family| family.field.holds(kid)) {
            let (serial, origin) = (family.serial, family.origin);
            if let Some(key) = family.sender(kid) {
                return Ok(Found { key: Arc::clone(key), serial, origin, candidate: Candidate::No });
            }
            let material = family.material.clone();
            drop(state);
            let key = self.maker.key(kid, &material).map_err(|_| unknown)?;
            return Ok(Found { key: Arc::new(key), serial, origin, candidate: Candidate::Sender });
        }
        let (from, steps) = self.behind(&state, kid).ok_or(unknown)?;
        let base = state.slots.get(&from).map(|slot| Arc::clone(&slot.key)).ok_or(unknown)?;
        drop(state);
        let key = self.ahead(from, &base, steps).ok_or(unknown)?;
        Ok(Found { serial: key.serial, origin: key.serial, key, candidate: Candidate::Ahead(from, steps) })
    }

    /// Opens a frame with the key that was found for it or, where key ids do not tell ratchet steps, one ahead of it. None:
    /// nothing in the window opens it, and nothing has changed.
    #[inline(always)]
    pub(crate) fn open(&self, kid: u64, found: &Found, mut opens: impl FnMut(&Key) -> bool) -> Option<Opened> {
        let ring = self.current();
        if opens(&found.key) {
            return Some(Opened { origin: found.origin, steps: ring.confirm(kid, found) });
        }
        let (key, steps) = ring.search(kid, &found.key, opens)?;
        Some(Opened { origin: key.serial, steps })
    }

    /// A frame authenticated with a key that [`Self::find`] gave: now it belongs to the ring. Returns the ratchet steps
    /// that this took.
    fn confirm(&self, kid: u64, found: &Found) -> usize {
        match found.candidate {
            Candidate::No => 0,
            Candidate::Ahead(from, steps) => {
                self.commit(from, kid, &found.key);
                steps
            }
            Candidate::Sender => {
                let mut state = self.lock();
                // Replaced meanwhile? Then it is no key of the family that is there now.
                if let Some(family) = state.families.iter_mut().find(|family| family.serial == found.serial) {
                    family.remember(kid, &found.key);
                }
                0
            }
        }
    }
}
