//! What a frame asks of a ring: the sending key with a nonce, or the key that it names.

use std::sync::{Arc, RwLockReadGuard};

use crate::error::{DecryptError, EncryptError};
use crate::keyring::key::{Identity, Key, Maker};
use crate::keyring::nonce::{NonceSource, Unique};
use crate::keyring::sender_keys::Family;
use crate::keyring::{KeyRing, State};
use crate::secret::Secret;
use crate::wire::Wire;

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
    candidate: Candidate,
    /// Whether no other key of the ring goes by the frame's KID.
    pub(crate) is_alone: bool,
}

/// What it took to open a frame.
pub(crate) struct Opened {
    /// The key that opened it.
    pub(crate) identity: Identity,
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

/// A sender under a shared base key or an epoch, taken out of the ring's lock.
enum Sender {
    Known(Arc<Key>),
    /// What its key is to be derived from.
    New(Secret),
}

impl Sender {
    fn of(family: &Family, kid: u64) -> (Self, u64) {
        let sender = match family.sender(kid) {
            Some(key) => Self::Known(Arc::clone(key)),
            None => Self::New(family.material.clone()),
        };
        (sender, family.serial)
    }

    fn found(self, serial: u64, maker: &Maker, kid: u64, is_alone: bool) -> Option<Found> {
        let (key, candidate) = match self {
            Self::Known(key) => (key, Candidate::No),
            Self::New(material) => (Arc::new(maker.key(kid, &material).ok()?), Candidate::Sender),
        };
        Some(Found { key, serial, candidate, is_alone })
    }
}

impl AtHand<'_> {
    /// The key that a frame names first. None, or it opens nothing: [`KeyRing::find`] may know more.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Option<&Key> {
        if let Some(slot) = self.0.slots.get(&kid) {
            return Some(&slot.key);
        }
        let family = self.0.families.iter().rev().find(|family| family.field.holds(kid))?;
        family.sender(kid).map(|key| &**key)
    }
}

/// The key that a key id names now.
pub(crate) struct Named<'r> {
    /// None for a sender whose key is still to be derived.
    pub(crate) key: Option<&'r Key>,
    /// As in [`Found`].
    pub(crate) serial: u64,
    /// As in [`Found`].
    pub(crate) is_alone: bool,
}

impl AtHand<'_> {
    /// Returns the key that a key id names, without a derivation. Returns None for an unknown key id, and for a key that a
    /// sender may have ratcheted to.
    pub(crate) fn named(&self, kid: u64) -> Option<Named<'_>> {
        let mut families = self.0.families.iter().rev().filter(|family| family.field.holds(kid));
        if let Some(slot) = self.0.slots.get(&kid) {
            let is_alone = !slot.old && families.next().is_none();
            return Some(Named { key: Some(&slot.key), serial: slot.key.serial, is_alone });
        }
        let family = families.next()?;
        let key = family.sender(kid).map(|key| &**key);
        Some(Named { key, serial: family.serial, is_alone: families.next().is_none() })
    }
}

impl KeyRing {
    /// Whether a frame that the named key does not open may open with one ahead of it.
    pub(crate) fn searches(&self) -> bool {
        let ring = self.current();
        ring.maker.profile.wire == Wire::Trailer && ring.options.ratchet_window > 0
    }

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

    /// Looks the sending key up once and pushes what up to `count` frames get to `uniques`, for each what no other gets. There
    /// are fewer of them where the key is used up: the next call says so.
    pub(crate) fn next_run(&self, count: usize, uniques: &mut Vec<Unique>) -> Result<Run, EncryptError> {
        self.sending(|Sending { key, kid, nonces, named }, most| {
            nonces.fill(count, most, uniques);
            if uniques.is_empty() {
                return Err(EncryptError::KeyExhausted { kid: named });
            }
            Ok(Run { key: Arc::clone(key), kid })
        })?
    }

    /// Runs `take` with what this ring seals with, and how many frames that may seal, under the lock.
    #[inline(always)]
    fn sending<R>(&self, take: impl FnOnce(Sending<'_>, u64) -> R) -> Result<R, EncryptError> {
        let ring = self.current();
        let mut state = ring.lock();
        let State { slots, families, sending: kid, .. } = &mut *state;
        let kid = *kid;
        let family = families.iter_mut().rev().find(|family| family.field.value == kid);
        let sending = match (slots.get_mut(&kid), family) {
            (Some(slot), None) => slot.sending(kid),
            (Some(slot), Some(family)) if slot.set > family.set => slot.sending(kid),
            (_, Some(family)) => family.sending(&ring.maker)?,
            (None, None) => return Err(EncryptError::UnknownKey { kid }),
        };
        Ok(take(sending, ring.options.usage_limit))
    }

    /// The keys that are at hand now. The lock is held as long as this lives: for some short frames, and no call of the ring
    /// between them.
    #[inline(always)]
    pub(crate) fn at_hand(&self) -> AtHand<'_> {
        AtHand(self.current().read())
    }

    /// The key that a received frame names. Where several go by its KID, one of them: [`Self::open`] tries the others.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Result<Found, DecryptError> {
        self.current().find_own(kid)
    }

    #[inline(always)]
    fn find_own(&self, kid: u64) -> Result<Found, DecryptError> {
        let unknown = DecryptError::UnknownKey { kid };
        let state = self.read();
        let mut families = state.families.iter().rev().filter(|family| family.field.holds(kid));
        if let Some(slot) = state.slots.get(&kid) {
            let (key, is_alone) = (Arc::clone(&slot.key), !slot.old && families.next().is_none());
            return Ok(Found { serial: key.serial, key, candidate: Candidate::No, is_alone });
        }
        if let Some(family) = families.next() {
            let ((sender, serial), is_alone) = (Sender::of(family, kid), families.next().is_none());
            drop(families);
            drop(state);
            return sender.found(serial, &self.maker, kid, is_alone).ok_or(unknown);
        }
        drop(families);
        let step = self.step_of(&state, kid).ok_or(unknown)?;
        drop(state);
        self.found_ahead(step, true).ok_or(unknown)
    }

    /// The other keys that go by a frame's KID: base keys and epochs whose fields overlap, and a step one turn of its
    /// bits on. Few, since a ring has one epoch for each length and value of the field.
    #[cold]
    fn rivals(&self, kid: u64, found: &Found) -> Vec<Found> {
        let state = self.read();
        let families = state.families.iter().rev().filter(|family| family.field.holds(kid));
        let others: Vec<_> =
            families.filter(|family| family.serial != found.serial).map(|family| Sender::of(family, kid)).collect();
        let step = state.slots.get(&kid).filter(|slot| slot.old).and_then(|_| self.step_of(&state, kid));
        drop(state);
        let senders = others.into_iter().filter_map(|(sender, serial)| sender.found(serial, &self.maker, kid, false));
        senders.chain(step.and_then(|step| self.found_ahead(step, false))).collect()
    }

    /// Where a ratchet step starts from that `kid` names, and how far ahead it is.
    fn step_of(&self, state: &State, kid: u64) -> Option<(u64, Arc<Key>, usize)> {
        let (from, steps) = self.behind(state, kid)?;
        Some((from, Arc::clone(&state.slots.get(&from)?.key), steps))
    }

    fn found_ahead(&self, (from, base, steps): (u64, Arc<Key>, usize), is_alone: bool) -> Option<Found> {
        let key = self.ahead(from, &base, steps)?;
        Some(Found { serial: key.serial, key, candidate: Candidate::Ahead(from, steps), is_alone })
    }

    /// Opens a frame with the key that was found for it, another one that goes by its KID or, where key ids do not tell
    /// ratchet steps, one ahead of it. None: nothing opens it, and nothing has changed.
    #[inline(always)]
    pub(crate) fn open(&self, kid: u64, found: &Found, mut opens: impl FnMut(&Key) -> bool) -> Option<Opened> {
        let ring = self.current();
        if opens(&found.key) {
            return Some(Opened { identity: found.key.identity, steps: ring.confirm(kid, found) });
        }
        if !found.is_alone
            && let Some(rival) = ring.rivals(kid, found).into_iter().find(|rival| opens(&rival.key))
        {
            return Some(Opened { identity: rival.key.identity, steps: ring.confirm(kid, &rival) });
        }
        let (key, steps) = ring.search(kid, &found.key, opens)?;
        Some(Opened { identity: key.identity, steps })
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
