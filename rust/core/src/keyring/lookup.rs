//! What a frame asks of a ring: the sending key with a nonce, or the key that it names.

use std::sync::{Arc, RwLockReadGuard};

use super::identity::Identity;
use super::key::{Key, KeyDeriver};
use super::nonce::NonceInput;
use super::sender_keys::{ActiveKey, SenderKeys};
use super::{KeyRing, State};
use crate::error::{DecryptError, EncryptError};
use crate::secret::Secret;
use crate::wire::Wire;

/// Bytes below which a frame's AEAD is done before the lock is given back: a quarter of a microsecond at the most.
/// Becoming an owner of the key and ceasing to be one would cost a short frame a tenth of its time. Receivers share the
/// lock; who seals does not, but these are the few tracks of one sender.
pub(crate) const LOCKED_AEAD_MAX: usize = 4096;

/// A key to seal one frame with, and what belongs to this frame alone.
pub(crate) struct SealingKey {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) nonce_input: NonceInput,
}

/// A key to seal several frames with.
pub(crate) struct BatchKey {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
}

/// Keys that need no derivation, while the ring's lock is held.
pub(crate) struct ReadyKeys<'r>(RwLockReadGuard<'r, State>);

/// A key that may open a frame. It is not in the ring yet where it has to open one first.
pub(crate) struct Candidate {
    pub(crate) key: Arc<Key>,
    /// Tells what was set from what will be set in its place: a key's serial, or that of its [`SenderKeys`].
    pub(crate) serial: u64,
    origin: Origin,
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

enum Origin {
    Installed,
    /// So many ratchet steps from the key with this id.
    Ratcheted(u64, usize),
    /// One of many senders under a shared base key.
    NewSender,
}

/// A sender under a shared base key or an epoch, taken out of the ring's lock.
enum SenderKey {
    Known(Arc<Key>),
    /// What its key is to be derived from.
    New(Secret),
}

impl SenderKey {
    fn of(keys: &SenderKeys, kid: u64) -> (Self, u64) {
        let sender = match keys.key_of(kid) {
            Some(key) => Self::Known(Arc::clone(key)),
            None => Self::New(keys.material.clone()),
        };
        (sender, keys.serial)
    }

    fn into_candidate(self, serial: u64, deriver: &KeyDeriver, kid: u64, is_alone: bool) -> Option<Candidate> {
        let (key, origin) = match self {
            Self::Known(key) => (key, Origin::Installed),
            Self::New(material) => (Arc::new(deriver.key(kid, &material).ok()?), Origin::NewSender),
        };
        Some(Candidate { key, serial, origin, is_alone })
    }
}

impl ReadyKeys<'_> {
    /// The key that a frame names first. None, or it opens nothing: [`KeyRing::find`] may know more.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Option<&Key> {
        if let Some(slot) = self.0.slots.get(&kid) {
            return Some(&slot.key);
        }
        let keys = self.0.sender_keys.iter().rev().find(|keys| keys.field.holds(kid))?;
        keys.key_of(kid).map(|key| &**key)
    }
}

/// The key that a key id names now.
pub(crate) struct NamedKey<'r> {
    /// None for a sender whose key is still to be derived.
    pub(crate) key: Option<&'r Key>,
    /// As in [`Candidate`].
    pub(crate) serial: u64,
    /// As in [`Candidate`].
    pub(crate) is_alone: bool,
}

impl ReadyKeys<'_> {
    /// Returns the key that a key id names, without a derivation. Returns None for an unknown key id, and for a key that a
    /// sender may have ratcheted to.
    pub(crate) fn named(&self, kid: u64) -> Option<NamedKey<'_>> {
        let mut sender_keys = self.0.sender_keys.iter().rev().filter(|keys| keys.field.holds(kid));
        if let Some(slot) = self.0.slots.get(&kid) {
            let is_alone = !slot.superseded && sender_keys.next().is_none();
            return Some(NamedKey { key: Some(&slot.key), serial: slot.key.serial, is_alone });
        }
        let keys = sender_keys.next()?;
        let key = keys.key_of(kid).map(|key| &**key);
        Some(NamedKey { key, serial: keys.serial, is_alone: sender_keys.next().is_none() })
    }
}

impl KeyRing {
    /// Whether a frame that the named key does not open may open with one ahead of it.
    pub(crate) fn can_search(&self) -> bool {
        let ring = self.current();
        ring.deriver.profile.wire == Wire::Trailer && ring.options.ratchet_window > 0
    }

    /// The sending key and what nobody else gets.
    #[inline(always)]
    pub(crate) fn next(&self) -> Result<SealingKey, EncryptError> {
        self.with_active_key(|ActiveKey { key, kid, nonces, error_kid }, max| {
            let nonce_input = nonces.next(max).ok_or(EncryptError::KeyExhausted { kid: error_kid })?;
            Ok(SealingKey { key: Arc::clone(key), kid, nonce_input })
        })?
    }

    /// As [`Self::next`], for a short frame: `seal` runs before the lock is given back, and must not turn to the ring.
    #[inline(always)]
    pub(crate) fn next_within<R>(&self, seal: impl FnOnce(&Key, u64, NonceInput) -> R) -> Result<R, EncryptError> {
        self.with_active_key(|ActiveKey { key, kid, nonces, error_kid }, max| {
            let nonce_input = nonces.next(max).ok_or(EncryptError::KeyExhausted { kid: error_kid })?;
            Ok(seal(key, kid, nonce_input))
        })?
    }

    /// Looks the sending key up once and pushes what up to `count` frames get to `nonce_inputs`, for each what no other gets. There
    /// are fewer of them where the key is used up: the next call says so.
    pub(crate) fn next_batch(
        &self,
        count: usize,
        nonce_inputs: &mut Vec<NonceInput>,
    ) -> Result<BatchKey, EncryptError> {
        self.with_active_key(|ActiveKey { key, kid, nonces, error_kid }, max| {
            nonces.fill(count, max, nonce_inputs);
            if nonce_inputs.is_empty() {
                return Err(EncryptError::KeyExhausted { kid: error_kid });
            }
            Ok(BatchKey { key: Arc::clone(key), kid })
        })?
    }

    /// Runs `take` with what this ring seals with, and how many frames that may seal, under the lock.
    #[inline(always)]
    fn with_active_key<R>(&self, take: impl FnOnce(ActiveKey<'_>, u64) -> R) -> Result<R, EncryptError> {
        let ring = self.current();
        let mut state = ring.lock();
        let State { slots, sender_keys, sending_key_id: kid, .. } = &mut *state;
        let kid = *kid;
        let keys = sender_keys.iter_mut().rev().find(|keys| keys.field.value == kid);
        let active = match (slots.get_mut(&kid), keys) {
            (Some(slot), None) => slot.active_key(kid),
            (Some(slot), Some(keys)) if slot.set > keys.set => slot.active_key(kid),
            (_, Some(keys)) => keys.active_key(&ring.deriver)?,
            (None, None) => return Err(EncryptError::UnknownKey { kid }),
        };
        Ok(take(active, ring.options.usage_limit))
    }

    /// The keys that are at hand now. The lock is held as long as this lives: for some short frames, and no call of the ring
    /// between them.
    #[inline(always)]
    pub(crate) fn ready_keys(&self) -> ReadyKeys<'_> {
        ReadyKeys(self.current().read())
    }

    /// The key that a received frame names. Where several go by its KID, one of them: [`Self::open`] tries the others.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Result<Candidate, DecryptError> {
        self.current().find_own(kid)
    }

    #[inline(always)]
    fn find_own(&self, kid: u64) -> Result<Candidate, DecryptError> {
        let unknown = DecryptError::UnknownKey { kid };
        let state = self.read();
        let mut sender_keys = state.sender_keys.iter().rev().filter(|keys| keys.field.holds(kid));
        if let Some(slot) = state.slots.get(&kid) {
            let (key, is_alone) = (Arc::clone(&slot.key), !slot.superseded && sender_keys.next().is_none());
            return Ok(Candidate { serial: key.serial, key, origin: Origin::Installed, is_alone });
        }
        if let Some(keys) = sender_keys.next() {
            let ((sender, serial), is_alone) = (SenderKey::of(keys, kid), sender_keys.next().is_none());
            drop(sender_keys);
            drop(state);
            return sender.into_candidate(serial, &self.deriver, kid, is_alone).ok_or(unknown);
        }
        drop(sender_keys);
        let step = self.step_to(&state, kid).ok_or(unknown)?;
        drop(state);
        self.ratcheted_candidate(step, true).ok_or(unknown)
    }

    /// The other keys that go by a frame's KID: base keys and epochs whose fields overlap, and a step one turn of its
    /// bits on. Few, since a ring has one epoch for each length and value of the field.
    #[cold]
    fn alternatives(&self, kid: u64, candidate: &Candidate) -> Vec<Candidate> {
        let state = self.read();
        let sender_keys = state.sender_keys.iter().rev().filter(|keys| keys.field.holds(kid));
        let others: Vec<_> =
            sender_keys.filter(|keys| keys.serial != candidate.serial).map(|keys| SenderKey::of(keys, kid)).collect();
        let step = state.slots.get(&kid).filter(|slot| slot.superseded).and_then(|_| self.step_to(&state, kid));
        drop(state);
        let senders =
            others.into_iter().filter_map(|(sender, serial)| sender.into_candidate(serial, &self.deriver, kid, false));
        senders.chain(step.and_then(|step| self.ratcheted_candidate(step, false))).collect()
    }

    /// Where a ratchet step starts from that `kid` names, and how far ahead it is.
    fn step_to(&self, state: &State, kid: u64) -> Option<(u64, Arc<Key>, usize)> {
        let (from, steps) = self.nearest_base(state, kid)?;
        Some((from, Arc::clone(&state.slots.get(&from)?.key), steps))
    }

    fn ratcheted_candidate(&self, (from, base, steps): (u64, Arc<Key>, usize), is_alone: bool) -> Option<Candidate> {
        let key = self.key_ahead(from, &base, steps)?;
        Some(Candidate { serial: key.serial, key, origin: Origin::Ratcheted(from, steps), is_alone })
    }

    /// Opens a frame with the key that was found for it, another one that goes by its KID or, where key ids do not tell
    /// ratchet steps, one ahead of it. None: nothing opens it, and nothing has changed.
    #[inline(always)]
    pub(crate) fn open(&self, kid: u64, candidate: &Candidate, mut opens: impl FnMut(&Key) -> bool) -> Option<Opened> {
        let ring = self.current();
        if opens(&candidate.key) {
            return Some(Opened { identity: candidate.key.identity, steps: ring.confirm(kid, candidate) });
        }
        if !candidate.is_alone
            && let Some(alternative) =
                ring.alternatives(kid, candidate).into_iter().find(|alternative| opens(&alternative.key))
        {
            return Some(Opened { identity: alternative.key.identity, steps: ring.confirm(kid, &alternative) });
        }
        let (key, steps) = ring.search(kid, &candidate.key, opens)?;
        Some(Opened { identity: key.identity, steps })
    }

    /// A frame authenticated with a key that [`Self::find`] gave: now it belongs to the ring. Returns the ratchet steps
    /// that this took.
    fn confirm(&self, kid: u64, candidate: &Candidate) -> usize {
        match candidate.origin {
            Origin::Installed => 0,
            Origin::Ratcheted(from, steps) => {
                self.promote(from, kid, &candidate.key);
                steps
            }
            Origin::NewSender => {
                let mut state = self.lock();
                // Replaced meanwhile? Then it is no key of what is there now.
                if let Some(keys) = state.sender_keys.iter_mut().find(|keys| keys.serial == candidate.serial) {
                    keys.remember(kid, &candidate.key);
                }
                0
            }
        }
    }
}
