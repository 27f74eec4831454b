//! Key ids, keys and nonces. The only owner of secrets.
//!
//! One ring per sender identity; its encryptors and decryptors share it. A short lock is taken once per frame, for the
//! look-up and the nonce, never during the AEAD or a slow derivation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{DecryptError, EncryptError, KeyError};
use crate::family::{Family, Field};
use crate::key::{Key, Maker};
use crate::mls::MlsKid;
use crate::nonce::{CtrSource, IvSource, NonceSource, Unique};
use crate::profile::Profile;
use crate::ratchet::MOST_AHEAD;
use crate::secret::Secret;
use crate::suite::{CipherSuite, digest};
use crate::wire::Wire;

/// The most slots that a one-byte key id can name.
const MOST_SLOTS: u16 = 256;

/// Key ids of a room's shared base keys; the other bits of a KID tell its senders apart.
const SHARED_BITS: u8 = 8;

/// What a ring can be told at construction.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The cipher suite; none is the profile's default.
    pub suite: Option<u16>,
    /// Whether suites of drafts may be used.
    pub allow_draft: bool,
    /// Key size in bits; none is the suite's.
    pub key_size: Option<u16>,
    /// Slots of the trailer profiles: key ids run from 0 to one less. 1 to 256.
    pub ring_size: u16,
    /// Steps that a receiver tries ahead when a sender has ratcheted. 0 to 16; 0 is off.
    pub ratchet_window: u16,
    /// SFrame: how many low bits of a KID count ratchet steps (RFC 9605, section 5.1). 0 is no ratchet.
    pub ratchet_bits: u8,
    /// SFrame: a base key is shared by many senders, each under a KID of its own drawing.
    pub shared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suite: None,
            allow_draft: false,
            key_size: None,
            ring_size: 16,
            ratchet_window: 0,
            ratchet_bits: 0,
            shared: false,
        }
    }
}

/// A key to seal one frame with, and what belongs to this frame alone.
pub(crate) struct Sealing {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) unique: Unique,
}

/// A key that may open a frame. It is not in the ring yet where it has to open one first.
pub(crate) struct Found {
    pub(crate) key: Arc<Key>,
    /// Tells what was set from what will be set in its place: a key's serial, or its family's.
    pub(crate) serial: u64,
    candidate: Candidate,
}

enum Candidate {
    No,
    /// So many ratchet steps from the key with this id.
    Ahead(u64, usize),
    /// One of many senders under a shared base key.
    Sender,
}

pub(crate) struct Slot {
    pub(crate) material: Secret,
    pub(crate) key: Arc<Key>,
    pub(crate) nonces: NonceSource,
    /// Steps ahead that a search has derived already: a forged frame buys no second derivation.
    pub(crate) ahead: Vec<(Secret, Arc<Key>)>,
    /// A step that a later one has replaced: it opens what comes late, and goes with the next step.
    pub(crate) old: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) slots: BTreeMap<u64, Slot>,
    families: Vec<Family>,
    pub(crate) sending: u64,
    /// Whether `sending` was chosen; until then the first key that is set becomes it.
    chosen: bool,
}

/// The keys of one sender (or of all, where they share one).
pub struct KeyRing {
    pub(crate) maker: Maker,
    pub(crate) options: Options,
    state: Mutex<State>,
}

impl KeyRing {
    /// An empty ring.
    ///
    /// # Errors
    /// [`KeyError`]: a number out of its range, a suite or an option that the profile does not have.
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, KeyError> {
        if !(1..=MOST_SLOTS).contains(&options.ring_size) {
            return Err(KeyError::RingSize { given: options.ring_size });
        }
        if options.ratchet_window > MOST_AHEAD {
            return Err(KeyError::RatchetWindow { given: options.ratchet_window, most: MOST_AHEAD });
        }
        if options.ratchet_bits >= 64 {
            return Err(KeyError::KeyIdField { field: "ratchet_bits" });
        }
        if profile.wire != Wire::Sframe && (options.ratchet_bits != 0 || options.shared) {
            return Err(KeyError::NotOfProfile { option: "KID fields", profile: profile.name });
        }
        if options.shared && options.ratchet_bits != 0 {
            return Err(KeyError::NotOfProfile { option: "ratchet of shared base keys", profile: profile.name });
        }
        let asked = match options.suite {
            None => None,
            Some(id) => Some(
                CipherSuite::by_id(id)
                    .filter(|suite| options.allow_draft || !suite.draft)
                    .ok_or(KeyError::UnsupportedSuite { suite: "this suite", profile: profile.name })?,
            ),
        };
        let suite = profile.suite(asked, options.key_size)?;
        Ok(Self { maker: Maker { profile, suite }, options, state: Mutex::default() })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::Unavailable`].
    pub fn set(&self, key_id: u64, secret: &Secret) -> Result<(), KeyError> {
        self.set_from(key_id, secret, None)
    }

    /// Like [`Self::set`], and an SFrame sender goes on from `counter`: one that was never used under this base key and
    /// KID, in this process or any other.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NotOfProfile`], [`KeyError::Unavailable`].
    pub fn set_from(&self, key_id: u64, secret: &Secret, counter: Option<u64>) -> Result<(), KeyError> {
        self.check(key_id)?;
        if counter.is_some() && (self.maker.profile.wire != Wire::Sframe || self.options.shared) {
            return Err(KeyError::NotOfProfile { option: "counter to go on from", profile: self.maker.profile.name });
        }
        let material = self.maker.profile.schedule.material(secret);
        if self.options.shared {
            let family = Family::drawing(Field { bits: SHARED_BITS, value: key_id }, material);
            self.add(family, key_id);
            return Ok(());
        }
        let slot = self.slot(key_id, material, counter)?;
        let mut state = self.lock();
        state.slots.insert(key_id, slot);
        state.choose_first(key_id);
        Ok(())
    }

    /// Sets the exported secret of an MLS epoch (RFC 9605, section 5.2): the keys of all its members follow from it.
    /// `retain` epochs before it still open frames; older ones are erased. This side then seals with its own KID.
    ///
    /// # Errors
    /// [`KeyError::KeyIdField`], [`KeyError::NotOfProfile`].
    pub fn set_epoch(&self, secret: &Secret, kid: &MlsKid, retain: usize) -> Result<u64, KeyError> {
        if self.maker.profile.wire != Wire::Sframe || self.options.shared || self.options.ratchet_bits != 0 {
            return Err(KeyError::NotOfProfile { option: "MLS epochs", profile: self.maker.profile.name });
        }
        let value = kid.value()?;
        let material = self.maker.profile.schedule.material(secret);
        let field = Field { bits: kid.epoch_bits, value: value & Field::mask(kid.epoch_bits) };
        self.add(Family::member(field, material, value), field.value);
        let mut state = self.lock();
        state.sending = field.value;
        state.chosen = true;
        let epochs = state.families.len();
        state.families.drain(..epochs.saturating_sub(retain + 1));
        Ok(value)
    }

    /// Forgets the key under `key_id`, if there is one. Forgetting is zeroing.
    pub fn remove(&self, key_id: u64) {
        let mut state = self.lock();
        state.slots.remove(&key_id);
        state.families.retain(|family| family.field.value != key_id);
    }

    /// The ids under which keys are set, in order: KIDs, or the low bits by which shared keys and epochs go.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u64> {
        let state = self.lock();
        let mut ids: Vec<u64> = state.slots.keys().copied().collect();
        ids.extend(state.families.iter().map(|family| family.field.value));
        ids.sort_unstable();
        ids
    }

    /// The id of the key that this ring's encryptors use.
    #[must_use]
    pub fn sending_key_id(&self) -> u64 {
        self.lock().sending
    }

    /// Chooses the key that this ring's encryptors use. It may be set later; until then nothing is sealed.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`].
    pub fn set_sending_key_id(&self, key_id: u64) -> Result<(), KeyError> {
        self.check(key_id)?;
        let mut state = self.lock();
        state.sending = key_id;
        state.chosen = true;
        Ok(())
    }

    /// Frames sealed so far with the key under `key_id`, of the 2^32 that it may seal.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn usage(&self, key_id: u64) -> Result<u64, KeyError> {
        let state = self.lock();
        let slot = state.slots.get(&key_id).map(|slot| slot.nonces.used());
        let family = || state.families.iter().find(|family| family.field.value == key_id).map(Family::used);
        slot.or_else(family).ok_or(KeyError::NoSuchKey { key_id })
    }

    /// The profile that this ring was made for.
    #[must_use]
    pub fn profile(&self) -> &'static Profile {
        self.maker.profile
    }

    /// The suite that this ring's keys are for.
    #[must_use]
    pub fn suite(&self) -> &'static CipherSuite {
        self.maker.suite
    }

    /// The sending key and what nobody else gets.
    pub(crate) fn next(&self) -> Result<Sealing, EncryptError> {
        let mut state = self.lock();
        let kid = state.sending;
        if let Some(slot) = state.slots.get_mut(&kid) {
            // A nonce that cannot be had, for whatever reason, is none.
            let unique = slot.nonces.next().ok().flatten().ok_or(EncryptError::KeyExhausted { kid })?;
            return Ok(Sealing { key: Arc::clone(&slot.key), kid, unique });
        }
        let family = state.families.iter_mut().find(|family| family.field.value == kid);
        family.ok_or(EncryptError::UnknownKey { kid })?.next(&self.maker)
    }

    /// The key that a received frame names.
    pub(crate) fn find(&self, kid: u64) -> Result<Found, DecryptError> {
        let unknown = DecryptError::UnknownKey { kid };
        let state = self.lock();
        if let Some(slot) = state.slots.get(&kid) {
            return Ok(Found { serial: slot.key.serial, key: Arc::clone(&slot.key), candidate: Candidate::No });
        }
        if let Some(family) = state.families.iter().rev().find(|family| family.field.holds(kid)) {
            let serial = family.serial;
            if let Some(key) = family.sender(kid) {
                return Ok(Found { key, serial, candidate: Candidate::No });
            }
            let material = family.material.clone();
            drop(state);
            let key = self.maker.key(kid, &material).map_err(|_| unknown)?;
            return Ok(Found { key: Arc::new(key), serial, candidate: Candidate::Sender });
        }
        let (from, steps) = self.behind(&state, kid).ok_or(unknown)?;
        let base = state.slots.get(&from).map(|slot| Arc::clone(&slot.key)).ok_or(unknown)?;
        drop(state);
        let key = self.ahead(from, &base, steps).ok_or(unknown)?;
        Ok(Found { serial: key.serial, key, candidate: Candidate::Ahead(from, steps) })
    }

    /// A frame authenticated with a key that [`Self::find`] or [`Self::ahead`] gave: now it belongs to the ring.
    /// Returns the ratchet steps that this took.
    pub(crate) fn confirm(&self, kid: u64, found: &Found) -> usize {
        match found.candidate {
            Candidate::No => 0,
            Candidate::Ahead(from, steps) => {
                self.commit(from, kid, &found.key);
                steps
            }
            Candidate::Sender => {
                let mut state = self.lock();
                if let Some(family) = state.families.iter_mut().rev().find(|family| family.field.holds(kid)) {
                    family.remember(kid, &found.key);
                }
                0
            }
        }
    }

    pub(crate) fn check(&self, key_id: u64) -> Result<(), KeyError> {
        let ring_size = match (self.maker.profile.wire, self.options.shared) {
            (Wire::Sframe, false) => return Ok(()),
            (Wire::Sframe, true) => 1 << SHARED_BITS,
            (Wire::Trailer, _) => self.options.ring_size,
        };
        if key_id < u64::from(ring_size) { Ok(()) } else { Err(KeyError::KeyIdOutOfRange { key_id, ring_size }) }
    }

    pub(crate) fn slot(&self, kid: u64, material: Secret, counter: Option<u64>) -> Result<Slot, KeyError> {
        let key = Arc::new(self.maker.key(kid, &material)?);
        let nonces = self.nonces(kid, &material, counter)?;
        Ok(Slot { material, key, nonces, ahead: Vec::new(), old: false })
    }

    pub(crate) fn nonces(&self, kid: u64, material: &Secret, counter: Option<u64>) -> Result<NonceSource, KeyError> {
        Ok(match (self.maker.profile.wire, counter) {
            (Wire::Trailer, _) => NonceSource::Iv(IvSource::new()?),
            (Wire::Sframe, Some(counter)) => NonceSource::Ctr(CtrSource::continue_from(counter)?),
            (Wire::Sframe, None) => NonceSource::Ctr(CtrSource::new(self.maker.identity(kid, material))?),
        })
    }

    fn add(&self, family: Family, key_id: u64) {
        let mut state = self.lock();
        state.families.retain(|known| known.field != family.field);
        state.families.push(family);
        state.choose_first(key_id);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No invariant spans two writes, so a thread that died here leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn choose_first(&mut self, key_id: u64) {
        if !self.chosen {
            self.sending = key_id;
            self.chosen = true;
        }
    }
}

impl Maker {
    /// What stands for a base key and KID where the pair must not come twice.
    pub(crate) fn identity(&self, kid: u64, material: &Secret) -> [u8; 32] {
        digest(&[b"frameseal sender", &self.suite.id.to_be_bytes(), &kid.to_be_bytes(), material.bytes()])
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("profile", &self.maker.profile.name)
            .field("suite", &self.maker.suite.name)
            .field("key_ids", &self.key_ids())
            .field("sending_key_id", &self.sending_key_id())
            .finish_non_exhaustive()
    }
}
