//! Looks keys up for frames: the sending key with a fresh nonce, or the key that a received frame names.

use std::sync::Arc;

use super::identity::Identity;
use super::key::{Key, KeyDeriver};
use super::nonce::NonceInput;
use super::sender_keys::{ActiveKey, SenderKeys};
use super::{KeyRing, State};
use crate::error::{DecryptError, EncryptError};
use crate::secret::Secret;
use crate::sync::RwLockReadGuard;
use crate::wire::Wire;

/// The length in bytes below which the AEAD of a frame runs under the lock. That takes a quarter of a microsecond at
/// most.
///
/// Cloning and dropping the `Arc` of the key would cost a short frame a tenth of its time. Receivers share the lock.
/// Senders do not, but they are the few tracks of one participant.
pub(crate) const LOCKED_AEAD_MAX: usize = 4096;

/// A key for one frame to seal, and the fresh nonce input of the frame.
pub(crate) struct SealingKey {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) nonce_input: NonceInput,
}

/// A key for the frames of a batch to seal.
pub(crate) struct BatchKey {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
}

/// The keys that need no derivation, while the lock of the ring is held.
pub(crate) struct ReadyKeys<'r>(RwLockReadGuard<'r, State>);

/// The key that a key id currently names.
pub(crate) struct NamedKey<'r> {
    /// The key. `None` means that the key of the sender is not derived yet.
    pub(crate) key: Option<&'r Key>,
    /// The serial, as in [`Candidate`].
    pub(crate) serial: u64,
    /// True if no other key has the KID, as in [`Candidate`].
    pub(crate) is_alone: bool,
}

/// A key that may open a frame. A candidate that was derived for the frame enters the ring when it has opened one.
pub(crate) struct Candidate {
    pub(crate) key: Arc<Key>,
    /// The serial of the key, or of its [`SenderKeys`]. It changes when the entry is replaced.
    pub(crate) serial: u64,
    origin: Origin,
    /// True if no other key of the ring has the KID of the frame.
    pub(crate) is_alone: bool,
}

/// The result of opening a frame.
pub(crate) struct Opened {
    /// The identity of the key that opened the frame.
    pub(crate) identity: Identity,
    /// The number of ratchet steps by which the frame has advanced the ring. It is 0 if another track was first.
    pub(crate) steps: usize,
}

/// The outcome of a frame that is neither marked nor counted yet.
pub(crate) struct Pending {
    pub(crate) opened: Result<Opened, DecryptError>,
    /// The serial of the key that was tried last, as in [`Candidate`].
    pub(crate) serial: u64,
}

enum Origin {
    /// The key is in the ring.
    Installed,
    /// The key is some ratchet steps ahead of a key in the ring.
    Ahead,
    /// The key was derived for a new sender under a shared base key.
    NewSender,
}

/// The key of a sender under a shared base key or an epoch. It is used outside the lock of the ring.
enum SenderKey {
    Known(Arc<Key>),
    /// The key is not derived yet. This is the material.
    New(Secret),
}

impl Pending {
    fn is_replayed(&self) -> bool {
        matches!(self.opened, Err(DecryptError::Replayed { .. }))
    }
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
    /// Returns the likeliest key for a KID. If it is `None` or does not open the frame, [`KeyRing::find`] decides.
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Option<&Key> {
        if let Some(slot) = self.0.slots.get(&kid) {
            return Some(&slot.key);
        }
        let keys = self.0.sender_keys.iter().rev().find(|keys| keys.field.holds(kid))?;
        keys.key_of(kid).map(|key| &**key)
    }

    /// Returns the key that a key id names, without a derivation. Returns `None` if the key id is unknown, or names a
    /// ratchet step that is not in the ring.
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
    /// Returns whether a ratchet step ahead of the named key may open a frame that this key does not open.
    pub(crate) fn can_search(&self) -> bool {
        let ring = self.current();
        ring.deriver.profile.wire == Wire::Trailer && ring.options.ratchet_window > 0
    }

    /// Returns the sending key with a fresh nonce input.
    ///
    /// # Errors
    /// [`EncryptError::UnknownKey`], [`EncryptError::KeyExhausted`].
    #[inline(always)]
    pub(crate) fn next(&self) -> Result<SealingKey, EncryptError> {
        self.with_active_key(|ActiveKey { key, kid, nonces, error_kid }, max| {
            let nonce_input = nonces.next(max).ok_or(EncryptError::KeyExhausted { kid: error_kid })?;
            Ok(SealingKey { key: Arc::clone(key), kid, nonce_input })
        })?
    }

    /// Runs `seal` with the sending key and a fresh nonce input, under the lock, for a short frame. `seal` must not
    /// call the ring.
    ///
    /// # Errors
    /// The errors of [`Self::next`].
    #[inline(always)]
    pub(crate) fn next_within<R>(&self, seal: impl FnOnce(&Key, u64, NonceInput) -> R) -> Result<R, EncryptError> {
        self.with_active_key(|ActiveKey { key, kid, nonces, error_kid }, max| {
            let nonce_input = nonces.next(max).ok_or(EncryptError::KeyExhausted { kid: error_kid })?;
            Ok(seal(key, kid, nonce_input))
        })?
    }

    /// Looks the sending key up once and pushes up to `count` fresh nonce inputs to `nonce_inputs`. A key that becomes
    /// exhausted yields fewer; the next call then fails.
    ///
    /// # Errors
    /// The errors of [`Self::next`].
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

    /// Runs `work` with the sending key and the usage limit, under the lock.
    #[inline(always)]
    fn with_active_key<R>(&self, work: impl FnOnce(ActiveKey<'_>, u64) -> R) -> Result<R, EncryptError> {
        let mut ring = self.current();
        loop {
            let mut state = ring.lock();
            if let Some(shared) = &ring.fallback
                && state.is_empty()
            {
                // The ring has lost its last key since it was chosen: its fallback counts.
                ring = shared.current();
                continue;
            }
            let State { slots, sender_keys, sending_key_id: kid, .. } = &mut *state;
            let kid = *kid;
            let keys = sender_keys.iter_mut().rev().find(|keys| keys.field.value == kid);
            let active = match (slots.get_mut(&kid), keys) {
                (Some(slot), None) => slot.active_key(kid),
                (Some(slot), Some(keys)) if slot.set > keys.set => slot.active_key(kid),
                (_, Some(keys)) => keys.active_key(&ring.deriver)?,
                (None, None) => return Err(EncryptError::UnknownKey { kid }),
            };
            return Ok(work(active, ring.options.usage_limit));
        }
    }

    /// Locks the ring and returns the keys that need no derivation. The lock is held until the result is dropped: for a
    /// few short frames, with no call of the ring in between.
    #[inline(always)]
    pub(crate) fn ready_keys(&self) -> ReadyKeys<'_> {
        ReadyKeys(self.read_current().1)
    }

    /// Returns the key that a received frame names, or derives it. If several keys have the KID, this is one of them,
    /// and [`Self::open`] tries the others.
    ///
    /// # Errors
    /// [`DecryptError::UnknownKey`].
    #[inline(always)]
    pub(crate) fn find(&self, kid: u64) -> Result<Candidate, DecryptError> {
        let mut lookups = 1..self.max_lookups();
        loop {
            let generation = self.generation();
            match self.current().find_own(kid) {
                // The step that `kid` names, or the key before it, may have entered the ring meanwhile.
                Err(_) if self.generation() != generation && lookups.next().is_some() => {}
                found => return found,
            }
        }
    }

    /// Returns how many look-ups of one key may follow each other. Each further one follows a change of the ring. A
    /// sender that ratchets changes the ring at most once per step of the window before a frame lies behind the key.
    fn max_lookups(&self) -> u16 {
        self.options.ratchet_window.saturating_add(2)
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

    /// Returns the other keys with the KID of a frame: base keys and epochs with overlapping fields, and a later
    /// ratchet step whose bits wrapped around. These are few, because a ring has one epoch for each length and value of
    /// the field.
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

    /// Returns the base of the ratchet step that `kid` names: its key id, its key and the number of steps.
    fn step_to(&self, state: &State, kid: u64) -> Option<(u64, Arc<Key>, usize)> {
        let (from, steps) = self.nearest_base(state, kid)?;
        Some((from, Arc::clone(&state.slots.get(&from)?.key), steps))
    }

    fn ratcheted_candidate(&self, (from, base, steps): (u64, Arc<Key>, usize), is_alone: bool) -> Option<Candidate> {
        let key = self.key_ahead(from, &base, steps)?;
        Some(Candidate { serial: key.serial, key, origin: Origin::Ahead, is_alone })
    }

    /// Opens a frame that is not replayed, with a key that its KID names or a ratchet step ahead of it. A replayed frame
    /// opens nothing and advances no ratchet. Does not try the key with the serial `failed` again.
    ///
    /// Looks the key up again if the ring changed during the attempt, because another track may have followed the
    /// ratchet of the same sender. The key that was tried is then replaced, and nothing is ahead of it.
    ///
    /// # Errors
    /// [`DecryptError::UnknownKey`]. [`Pending`] holds the other errors.
    pub(crate) fn open(
        &self,
        kid: u64,
        mut failed: Option<u64>,
        is_replayed: impl Fn(Identity) -> bool,
        mut opens: impl FnMut(&Key) -> bool,
    ) -> Result<Pending, DecryptError> {
        for _ in 0..self.max_lookups() {
            let generation = self.generation();
            let candidate = self.find(kid)?;
            let pending = self.open_candidate(kid, &candidate, failed, &is_replayed, &mut opens);
            if pending.opened.is_ok() || pending.is_replayed() || self.generation() == generation {
                return Ok(pending);
            }
            failed = Some(candidate.serial);
        }
        let serial = failed.unwrap_or_default();
        Ok(Pending { opened: Err(DecryptError::AuthenticationFailed { kid }), serial })
    }

    /// Opens a frame with the candidate, with another key of the same KID, or with a step ahead. See [`Self::open`].
    #[inline(always)]
    pub(crate) fn open_candidate(
        &self,
        kid: u64,
        candidate: &Candidate,
        failed: Option<u64>,
        is_replayed: impl Fn(Identity) -> bool,
        mut opens: impl FnMut(&Key) -> bool,
    ) -> Pending {
        let serial = candidate.serial;
        let replayed = || Pending { opened: Err(DecryptError::Replayed { kid }), serial };
        // Anybody can copy the nonce of another frame, so a frame counts as replayed only if it authenticates.
        let is_claimed = is_replayed(candidate.key.identity);
        if is_claimed && opens(&candidate.key) {
            return replayed();
        }
        let (has_failed, mut is_seen) = (is_claimed || failed == Some(serial), false);
        let opened = self.open_with(kid, candidate, |key| {
            let is_first = key.serial == candidate.key.serial;
            if is_seen || is_first && has_failed || !opens(key) {
                return false;
            }
            is_seen = !is_first && is_replayed(key.identity);
            !is_seen
        });
        match opened {
            _ if is_seen => replayed(),
            Some(opened) => Pending { opened: Ok(opened), serial },
            None => Pending { opened: Err(DecryptError::AuthenticationFailed { kid }), serial },
        }
    }

    /// Opens a frame with the candidate, or with another key of the same KID. If key ids do not count ratchet steps, it
    /// also tries the steps ahead. Returns `None` and changes nothing if no key opens the frame.
    #[inline(always)]
    fn open_with(&self, kid: u64, candidate: &Candidate, mut opens: impl FnMut(&Key) -> bool) -> Option<Opened> {
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

    /// Adds a candidate to the ring after it has authenticated a frame. Returns the number of ratchet steps by which the
    /// ring has advanced.
    fn confirm(&self, kid: u64, candidate: &Candidate) -> usize {
        match candidate.origin {
            Origin::Installed => 0,
            Origin::Ahead => self.promote(kid, &candidate.key),
            Origin::NewSender => {
                let mut state = self.lock();
                // Dropped if the entry was replaced meanwhile: the key does not belong to the new entry.
                if let Some(keys) = state.sender_keys.iter_mut().find(|keys| keys.serial == candidate.serial) {
                    keys.remember(kid, &candidate.key);
                }
                0
            }
        }
    }
}
