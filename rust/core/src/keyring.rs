//! Key ids, keys and nonces. The only owner of secrets.
//!
//! One ring per sender identity; its encryptors and decryptors share it. A lock is taken once per frame, for the look-up
//! and the nonce. It is kept during the AEAD of a [short](crate::lookup::SHORT) frame, never of a long one, nor in a slow
//! derivation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::KeyError;
use crate::family::{Family, Field};
use crate::key::{Key, Maker};
use crate::mls::MlsKid;
use crate::nonce::{CtrSource, IvSource, NonceSource};
use crate::options::Options;
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::CipherSuite;
use crate::wire::Wire;

/// Key ids of a room's shared base keys; the other bits of a KID tell its senders apart.
const SHARED_BITS: u8 = 8;

pub(crate) struct Slot {
    pub(crate) material: Secret,
    pub(crate) key: Arc<Key>,
    pub(crate) nonces: NonceSource,
    /// The serial of the first key in this place from the same material.
    pub(crate) origin: u64,
    /// Steps ahead that a search has derived already: a forged frame buys no second derivation.
    pub(crate) ahead: Vec<(Secret, Arc<Key>)>,
    /// A frame failed that a further step, too slow for the frame's own path, might open.
    pub(crate) wanted: bool,
    /// A step that a later one has replaced: it opens what comes late, and goes with the next step.
    pub(crate) old: bool,
}

impl Slot {
    pub(crate) fn new(material: Secret, key: Arc<Key>, nonces: NonceSource) -> Self {
        let origin = key.serial;
        Self { material, key, nonces, origin, ahead: Vec::new(), wanted: false, old: false }
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) slots: BTreeMap<u64, Slot>,
    pub(crate) families: Vec<Family>,
    pub(crate) sending: u64,
    /// The id under which a sender that had ratcheted was followed last.
    pub(crate) followed: Option<u64>,
    /// Whether `sending` was chosen; until then the first key that is set becomes it.
    chosen: bool,
}

/// Aligned away from its neighbours, which other cores read while this one changes (two lines: they are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// The keys of one sender (or of all, where they share one).
pub struct KeyRing {
    pub(crate) maker: Maker,
    pub(crate) options: Options,
    state: Apart<RwLock<State>>,
    /// Held during a derivation that frames ask for: one at a time.
    pub(crate) deriving: Mutex<()>,
    /// The ring to turn to while this one has no keys.
    pub(crate) fallback: Option<Arc<KeyRing>>,
    /// Whether this one has: read without the lock.
    pub(crate) occupied: AtomicBool,
    pub(crate) changes: AtomicU64,
}

impl KeyRing {
    /// An empty ring.
    ///
    /// # Errors
    /// [`KeyError`]: a number out of its range, a suite or an option that the profile does not have.
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, KeyError> {
        let suite = options.check(profile)?;
        Ok(Self {
            maker: Maker { profile, suite },
            options,
            state: Apart::default(),
            deriving: Mutex::default(),
            fallback: None,
            occupied: AtomicBool::default(),
            changes: AtomicU64::default(),
        })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key. The key that is there
    /// already is as good as new for receiving; what it has sealed and opened still counts.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
    pub fn set(&self, key_id: u64, secret: &Secret) -> Result<(), KeyError> {
        self.set_from(key_id, secret, None)
    }

    /// Like [`Self::set`], and an SFrame sender goes on from `counter`: one that was never used under this base key and
    /// KID, in this process or any other.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NotOfProfile`], [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
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
        let mut slot = self.slot(key_id, material, counter)?;
        let mut state = self.lock();
        if let Some(before) = state.slots.remove(&key_id).filter(|before| before.material.same(&slot.material)) {
            slot.origin = before.origin;
            slot.ahead = before.ahead;
            slot.nonces = slot.nonces.after(before.nonces);
        }
        state.slots.insert(key_id, slot);
        state.choose_first(key_id);
        self.changed(&state);
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
        self.changed(&state);
        Ok(value)
    }

    /// Forgets the key under `key_id`, if there is one. Forgetting is zeroing.
    pub fn remove(&self, key_id: u64) {
        let mut state = self.lock();
        state.slots.remove(&key_id);
        state.families.retain(|family| family.field.value != key_id);
        self.changed(&state);
    }

    /// The ids under which keys are set, in order: KIDs, or the low bits by which shared keys and epochs go.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u64> {
        let state = self.current().read();
        let mut ids: Vec<u64> = state.slots.keys().copied().collect();
        ids.extend(state.families.iter().map(|family| family.field.value));
        ids.sort_unstable();
        ids
    }

    /// The id of the key that this ring's encryptors use.
    #[must_use]
    pub fn sending_key_id(&self) -> u64 {
        self.current().read().sending
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
        self.changed(&state);
        Ok(())
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
        Ok(Slot::new(material, key, nonces))
    }

    pub(crate) fn nonces(&self, kid: u64, material: &Secret, counter: Option<u64>) -> Result<NonceSource, KeyError> {
        Ok(match (self.maker.profile.wire, counter) {
            (Wire::Trailer, _) => NonceSource::Iv(IvSource::new()?),
            (Wire::Sframe, Some(counter)) => NonceSource::Ctr(CtrSource::continue_from(counter)?),
            (Wire::Sframe, None) => NonceSource::Ctr(CtrSource::new(self.maker.identity(kid, material))?),
        })
    }

    fn add(&self, mut family: Family, key_id: u64) {
        let mut state = self.lock();
        let before = state.families.iter().find(|known| known.field == family.field);
        if let Some(before) = before.filter(|before| before.material.same(&family.material)) {
            family.origin = before.origin;
        }
        state.families.retain(|known| known.field != family.field);
        state.families.push(family);
        state.choose_first(key_id);
        self.changed(&state);
    }

    #[inline(always)]
    pub(crate) fn lock(&self) -> RwLockWriteGuard<'_, State> {
        // No invariant spans two writes, so a thread that died here leaves nothing half done.
        self.state.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline(always)]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.families.is_empty()
    }

    /// The shared base key or epoch that goes by this id.
    pub(crate) fn family(&self, key_id: u64) -> Option<&Family> {
        self.families.iter().find(|family| family.field.value == key_id)
    }

    fn choose_first(&mut self, key_id: u64) {
        if !self.chosen {
            self.sending = key_id;
            self.chosen = true;
        }
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
