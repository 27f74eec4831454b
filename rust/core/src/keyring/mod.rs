//! Key ids, keys and nonces. The only owner of secrets.
//!
//! One ring per sender identity; its encryptors and decryptors share it. A lock is taken once per frame, for the look-up
//! and the nonce. It is kept during the AEAD of a [short](LOCKED_AEAD_MAX) frame, never of a long one, nor in a slow
//! derivation.

mod counter;
mod derived;
mod fingerprint;
mod identity;
mod key;
mod kid;
mod lookup;
mod nonce;
mod options;
mod ratchet;
mod sender_bindings;
mod sender_keys;

pub use derived::DerivedKey;
pub use kid::MlsKid;
pub use options::Options;
pub use sender_bindings::SenderBindings;

pub(crate) use lookup::{BatchKey, Candidate, LOCKED_AEAD_MAX, NamedKey, Opened, ReadyKeys, SealingKey};
pub(crate) use nonce::Nonce;
pub(crate) use sender_bindings::BoundSender;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use zeroize::Zeroizing;

pub use self::fingerprint::Fingerprint;
pub(crate) use self::identity::Identity;
pub(crate) use self::key::Key;
pub(crate) use self::nonce::NonceInput;

use self::counter::CtrSource;
use self::key::{KeyDeriver, serial};
use self::kid::{Field, MAX_RETAINED};
use self::nonce::{IvSource, NonceSource};
use self::sender_keys::{ActiveKey, SenderKeys};
use crate::error::{ApiMisuse, ConfigError, KeyError};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::CipherSuite;
use crate::wire::Wire;

/// Key ids of a room's shared base keys; the other bits of a KID tell its senders apart.
const SHARED_BITS: u8 = 8;

/// Rings that may stand behind a ring: a participant's, a group's and a room's are three in all.
const MAX_DEPTH: usize = 16;

struct Slot {
    material: Secret,
    key: Arc<Key>,
    nonces: NonceSource,
    /// Its place in the order in which the ring's keys were set.
    set: u64,
    /// Steps ahead that a search has derived already: a forged frame buys no second derivation.
    ahead: Vec<(Secret, Arc<Key>)>,
    /// A frame failed that a further step, too slow for the frame's own path, might open.
    step_requested: bool,
    /// A step that a later one has replaced: it opens what comes late, and goes with the next step.
    superseded: bool,
}

impl Slot {
    fn new(material: Secret, key: Arc<Key>, nonces: NonceSource) -> Self {
        Self { material, key, nonces, set: 0, ahead: Vec::new(), step_requested: false, superseded: false }
    }

    #[inline(always)]
    fn active_key(&mut self, kid: u64) -> ActiveKey<'_> {
        let Self { key, nonces, .. } = self;
        ActiveKey { key, kid, nonces, error_kid: kid }
    }
}

/// What a key id stands for: a base key has a KID of its own, a shared key or epoch the low bits of many.
enum KeyEntry<'s> {
    Slot(&'s Slot),
    SenderKeys(&'s SenderKeys),
}

impl KeyEntry<'_> {
    fn identity(&self) -> Identity {
        match self {
            Self::Slot(slot) => slot.key.identity,
            Self::SenderKeys(keys) => keys.identity,
        }
    }
}

/// A key that is derived and not set yet.
enum Fresh {
    Slot(Box<Slot>),
    SenderKeys(Box<SenderKeys>),
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    /// In the order in which they were set.
    sender_keys: Vec<SenderKeys>,
    /// The id of what seals. Where several keys go by one id, the newest of them does.
    sending_key_id: u64,
    /// The id under which a sender that had ratcheted was followed last.
    last_ratcheted: Option<u64>,
    /// Whether `sending` was chosen; until then the first key that is set becomes it.
    chosen: bool,
    /// How many keys were set.
    sets: u64,
    /// Frames sealed with keys that are here no more: a key that is set again counts on from there.
    used: HashMap<Identity, u64>,
}

/// Aligned away from its neighbours, which other cores read while this one changes (two lines: they are fetched in pairs).
#[derive(Default)]
#[repr(align(128))]
struct CachePadded<T>(T);

/// The keys of one sender (or of all, where they share one).
pub struct KeyRing {
    deriver: KeyDeriver,
    options: Options,
    state: CachePadded<RwLock<State>>,
    /// Held during a derivation that frames ask for: one at a time.
    deriving: Mutex<()>,
    /// The ring to turn to while this one has no keys.
    fallback: Option<Arc<KeyRing>>,
    /// Whether this one has: read without the lock.
    occupied: AtomicBool,
    generation: AtomicU64,
}

impl KeyRing {
    /// An empty ring.
    ///
    /// # Errors
    /// [`ConfigError`]: a number out of its range, a suite or an option that the profile does not have.
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, ConfigError> {
        let suite = options.check(profile)?;
        Ok(Self {
            deriver: KeyDeriver { profile, suite, ring: serial() },
            options,
            state: CachePadded::default(),
            deriving: Mutex::default(),
            fallback: None,
            occupied: AtomicBool::default(),
            generation: AtomicU64::default(),
        })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key. The key that is there
    /// already is as good as new for receiving; what it has sealed and opened still counts, and an SFrame sender goes on
    /// counting.
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
    /// [`KeyError::CounterUsed`]: this process has used it. [`KeyError::KeyIdOutOfRange`], [`ApiMisuse::Counter`],
    /// [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
    pub fn set_from(&self, key_id: u64, secret: &Secret, counter: Option<u64>) -> Result<(), KeyError> {
        let fresh = self.derive_fresh(key_id, secret, counter)?;
        self.install_fresh(key_id, fresh);
        Ok(())
    }

    /// Derives what [`Self::install_fresh`] sets. No lock is entry meanwhile.
    fn derive_fresh(&self, key_id: u64, secret: &Secret, counter: Option<u64>) -> Result<Fresh, KeyError> {
        self.check(key_id)?;
        if counter.is_some() && (self.deriver.profile.wire != Wire::Sframe || self.options.shared) {
            return Err(ApiMisuse::Counter.into());
        }
        let material = self.deriver.profile.schedule.material(secret);
        if self.options.shared {
            let identity = self.deriver.shared_identity(key_id, &material);
            let field = Field { bits: SHARED_BITS, value: key_id };
            return Ok(Fresh::SenderKeys(Box::new(SenderKeys::shared(field, material, identity))));
        }
        let key = Arc::new(self.deriver.key(key_id, &material)?);
        let nonces = match self.deriver.profile.wire {
            Wire::Trailer => NonceSource::Iv(IvSource::new()?),
            Wire::Sframe => NonceSource::Ctr(CtrSource::new(key.identity, self.deriver.ring, counter)?),
        };
        Ok(Fresh::Slot(Box::new(Slot::new(material, key, nonces))))
    }

    fn install_fresh(&self, key_id: u64, fresh: Fresh) {
        let mut state = self.lock();
        match fresh {
            Fresh::SenderKeys(keys) => state.add(*keys),
            Fresh::Slot(slot) => state.insert(key_id, *slot),
        }
        state.choose_first(key_id);
        self.changed(&state);
    }

    /// Sets the exported secret of an MLS epoch (RFC 9605, section 5.2): the keys of all its members follow from it.
    /// `retain` epochs before it still open frames; older ones are erased. This side then seals with its own KID.
    ///
    /// # Errors
    /// [`KeyError::KeyIdField`], [`ApiMisuse::Epoch`], [`KeyError::Retain`], [`KeyError::Unavailable`].
    pub fn set_epoch(&self, secret: &Secret, kid: &MlsKid, retain: usize) -> Result<u64, KeyError> {
        if self.deriver.profile.wire != Wire::Sframe || self.options.shared || self.options.ratchet_bits != 0 {
            return Err(ApiMisuse::Epoch.into());
        }
        if retain > MAX_RETAINED {
            return Err(KeyError::Retain { given: retain, max: MAX_RETAINED });
        }
        let value = kid.value()?;
        let material = self.deriver.profile.schedule.material(secret);
        let field = Field { bits: kid.epoch_bits, value: value & Field::mask(kid.epoch_bits) };
        let keys = SenderKeys::epoch(field, material, value, &self.deriver)?;
        let mut state = self.lock();
        state.add(keys);
        state.keep_newest(retain + 1);
        state.choose(field.value);
        self.changed(&state);
        Ok(value)
    }

    /// Forgets every key under `key_id`, if there is one. Forgetting is zeroing.
    pub fn remove(&self, key_id: u64) {
        let mut state = self.lock();
        state.remove_slot(key_id);
        state.remove_sender_keys(|keys| keys.field.value == key_id);
        self.changed(&state);
    }

    /// The ids under which keys are set, in order: KIDs, or the low bits by which shared keys and epochs go.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u64> {
        let state = self.current().read();
        let mut ids: Vec<u64> = state.slots.keys().copied().collect();
        ids.extend(state.sender_keys.iter().map(|keys| keys.field.value));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The id of the key that this ring's encryptors use.
    #[must_use]
    pub fn sending_key_id(&self) -> u64 {
        self.current().read().sending_key_id
    }

    /// Chooses the key that this ring's encryptors use: the newest that goes by this id. It may be set later; until then
    /// nothing is sealed.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`].
    pub fn set_sending_key_id(&self, key_id: u64) -> Result<(), KeyError> {
        self.check(key_id)?;
        let mut state = self.lock();
        state.choose(key_id);
        self.changed(&state);
        Ok(())
    }

    /// The profile that this ring was made for.
    #[must_use]
    pub fn profile(&self) -> &'static Profile {
        self.deriver.profile
    }

    /// The suite that this ring's keys are for.
    #[must_use]
    pub fn suite(&self) -> &'static CipherSuite {
        self.deriver.suite
    }

    /// Whether a frame can be sealed now: the sending key is there.
    #[must_use]
    pub fn can_encrypt(&self) -> bool {
        let state = self.current().read();
        state.newest(state.sending_key_id).is_some()
    }

    /// Counts the times that keys were set, chosen or removed, here or in the fallback: another number, another try.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let shared = self.fallback.as_ref().map_or(0, |shared| shared.generation());
        self.generation.load(Ordering::Acquire).wrapping_add(shared)
    }

    /// How many frames (and data packets) this ring has sealed under the key that is now under `key_id`. What other
    /// rings and machines with the same key have sealed is not in it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn frames_sealed(&self, key_id: u64) -> Result<u64, KeyError> {
        let state = self.current().read();
        let entry = state.newest(key_id).ok_or(KeyError::NoSuchKey { key_id })?;
        Ok(state.sealed_with(entry.identity()))
    }

    /// Frames at which a key is exhausted.
    #[must_use]
    pub fn usage_limit(&self) -> u64 {
        self.options.usage_limit
    }

    /// Frames from which on a new key is due: 2^24.5, or three quarters of a lower limit.
    #[must_use]
    pub fn usage_warning(&self) -> u64 {
        self.options.usage_warning()
    }

    /// What the holders of the key under `key_id` (none: the sending key) can compare to see that they have the same.
    /// It says nothing about the key, but a passphrase that can be guessed can be checked against it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn fingerprint(&self, key_id: Option<u64>) -> Result<Fingerprint, KeyError> {
        let state = self.current().read();
        let key_id = key_id.unwrap_or(state.sending_key_id);
        let (material, key) = state.material(key_id)?;
        self.deriver.fingerprint(key_id, material, key)
    }

    /// Returns the fingerprint of every key that may open a frame, with its key id, in ascending order: one snapshot.
    /// Two epochs may stand under one id.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    pub fn fingerprints(&self) -> Result<Vec<(u64, Fingerprint)>, KeyError> {
        let state = self.current().read();
        let slots = state.slots.iter().map(|(&key_id, slot)| (key_id, &slot.material, Some(&*slot.key)));
        let sender_keys = state.sender_keys.iter().map(|keys| (keys.field.value, &keys.material, None));
        let mut all = slots
            .chain(sender_keys)
            .map(|(key_id, material, key)| Ok((key_id, self.deriver.fingerprint(key_id, material, key)?)))
            .collect::<Result<Vec<_>, KeyError>>()?;
        all.sort_unstable();
        Ok(all)
    }

    /// The material of the key under `key_id` (none: the sending key) as it is now, for a ring that was made for it.
    ///
    /// # Errors
    /// [`ApiMisuse::ExportNotAllowed`], [`KeyError::NoSuchKey`].
    pub fn export(&self, key_id: Option<u64>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let ring = self.current();
        if !self.options.allow_export || !ring.options.allow_export {
            return Err(ApiMisuse::ExportNotAllowed.into());
        }
        let state = ring.read();
        let key_id = key_id.unwrap_or(state.sending_key_id);
        state.material(key_id).map(|(material, _)| Zeroizing::new(material.bytes().to_vec()))
    }

    // A ring turns to another one while it has no keys of its own: a participant's, and the shared one of the room. Sealing
    // and opening, and every question about keys, go to `current`. Setting, choosing and removing are the ring's own.
    // Between looking a key up and opening with it the ring may get its first key: then nothing of the other ring's finds a
    // place in this one, since keys are told apart by their serials.

    /// This ring, turning to `shared` while it has no keys.
    ///
    /// # Errors
    /// [`ConfigError::FallbackMismatch`] if `shared` has another profile or suite. [`ConfigError::FallbackDepth`] if the
    /// chain of rings behind `shared` is too long.
    pub fn with_fallback(mut self, shared: Arc<Self>) -> Result<Self, ConfigError> {
        let (ours, theirs) = (&self.deriver, &shared.deriver);
        if ours.profile.name != theirs.profile.name || ours.suite.id != theirs.suite.id {
            return Err(ConfigError::FallbackMismatch {
                own: (ours.profile.name, ours.suite.name),
                fallback: (theirs.profile.name, theirs.suite.name),
            });
        }
        let behind = std::iter::successors(Some(&shared), |ring| ring.fallback.as_ref());
        if behind.take(MAX_DEPTH + 1).count() > MAX_DEPTH {
            return Err(ConfigError::FallbackDepth { max: MAX_DEPTH });
        }
        self.fallback = Some(shared);
        Ok(self)
    }

    /// The ring whose keys count now.
    pub(crate) fn current(&self) -> &Self {
        match &self.fallback {
            Some(shared) if !self.occupied.load(Ordering::Acquire) => shared.current(),
            _ => self,
        }
    }

    /// To be called, under the lock, after every change of the keys.
    fn changed(&self, state: &State) {
        self.occupied.store(!state.is_empty(), Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn check(&self, key_id: u64) -> Result<(), KeyError> {
        let key_ring_size = match (self.deriver.profile.wire, self.options.shared) {
            (Wire::Sframe, false) => return Ok(()),
            (Wire::Sframe, true) => 1 << SHARED_BITS,
            (Wire::Trailer, _) => self.options.key_ring_size,
        };
        if key_id < u64::from(key_ring_size) {
            Ok(())
        } else {
            Err(KeyError::KeyIdOutOfRange { key_id, key_ring_size })
        }
    }

    #[inline(always)]
    fn lock(&self) -> RwLockWriteGuard<'_, State> {
        // No invariant spans two writes, so a thread that died here leaves nothing half done.
        self.state.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline(always)]
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.sender_keys.is_empty()
    }

    /// What goes by this id and was set last.
    fn newest(&self, key_id: u64) -> Option<KeyEntry<'_>> {
        let slot = self.slots.get(&key_id);
        let keys = self.sender_keys.iter().rev().find(|keys| keys.field.value == key_id);
        match (slot, keys) {
            (Some(slot), Some(keys)) if slot.set < keys.set => Some(KeyEntry::SenderKeys(keys)),
            (Some(slot), _) => Some(KeyEntry::Slot(slot)),
            (None, keys) => keys.map(KeyEntry::SenderKeys),
        }
    }

    fn choose(&mut self, key_id: u64) {
        self.sending_key_id = key_id;
        self.chosen = true;
        self.count_on(key_id);
    }

    fn choose_first(&mut self, key_id: u64) {
        if !self.chosen {
            self.choose(key_id);
        }
    }

    /// Puts a key under `key_id`, in the place of the one that is there. Where that is the same, what it knows goes on.
    fn insert(&mut self, key_id: u64, mut slot: Slot) {
        if let Some(previous) = self.remove_slot(key_id).filter(|previous| previous.material.same(&slot.material)) {
            slot.ahead = previous.ahead;
            slot.nonces = slot.nonces.continuing(previous.nonces);
        }
        slot.set = self.next_set();
        self.slots.insert(key_id, slot);
        self.count_on(key_id);
    }

    /// Adds a shared key or an epoch as the newest, in the place of the one with the same field. The same one stays.
    fn add(&mut self, keys: SenderKeys) {
        let known = self.sender_keys.iter().position(|known| known.field == keys.field);
        let known = known.map(|at| self.sender_keys.remove(at));
        let mut keys = match known {
            Some(known) if known.is_same(&keys) => known,
            other => {
                other.iter().for_each(|other| note(&mut self.used, other.identity, other.issued()));
                keys
            }
        };
        keys.set = self.next_set();
        let key_id = keys.field.value;
        self.sender_keys.push(keys);
        self.count_on(key_id);
    }

    fn remove_slot(&mut self, key_id: u64) -> Option<Slot> {
        let slot = self.slots.remove(&key_id)?;
        note(&mut self.used, slot.key.identity, slot.nonces.issued());
        Some(slot)
    }

    fn remove_sender_keys(&mut self, mut is_removed: impl FnMut(&SenderKeys) -> bool) {
        let Self { sender_keys, used, .. } = self;
        sender_keys.retain(|keys| {
            let removed = is_removed(keys);
            if removed {
                note(used, keys.identity, keys.issued());
            }
            !removed
        });
    }

    /// Keeps so many shared keys or epochs, the newest.
    fn keep_newest(&mut self, count: usize) {
        let mut older = self.sender_keys.len().saturating_sub(count);
        self.remove_sender_keys(|_| {
            let is_older = older > 0;
            older = older.saturating_sub(1);
            is_older
        });
    }

    /// Frames that this ring has sealed with a key, under whichever ids it has or had.
    fn sealed_with(&self, identity: Identity) -> u64 {
        let earlier = self.used.get(&identity).copied();
        let slots = self.slots.values().filter(|slot| slot.key.identity == identity).map(|slot| slot.nonces.issued());
        let sender_keys = self.sender_keys.iter().filter(|keys| keys.identity == identity).map(SenderKeys::issued);
        earlier.into_iter().chain(slots).chain(sender_keys).max().unwrap_or_default()
    }

    /// Lets the key under `key_id` count on from there, if it is the one that seals.
    fn count_on(&mut self, key_id: u64) {
        let entry = self.newest(key_id).filter(|_| key_id == self.sending_key_id);
        let Some(identity) = entry.map(|entry| entry.identity()) else { return };
        let sealed = self.sealed_with(identity);
        let slot = self.slots.get_mut(&key_id).filter(|slot| slot.key.identity == identity);
        slot.into_iter().for_each(|slot| slot.nonces.count_from(sealed));
        let sender_keys = self.sender_keys.iter_mut().filter(|keys| keys.identity == identity);
        sender_keys.for_each(|keys| keys.count_from(sealed));
    }

    /// The material of what goes by this id and, where it gives one key, the key.
    fn material(&self, key_id: u64) -> Result<(&Secret, Option<&Key>), KeyError> {
        match self.newest(key_id) {
            Some(KeyEntry::Slot(slot)) => Ok((&slot.material, Some(&*slot.key))),
            Some(KeyEntry::SenderKeys(keys)) => Ok((&keys.material, None)),
            None => Err(KeyError::NoSuchKey { key_id }),
        }
    }

    fn next_set(&mut self) -> u64 {
        self.sets += 1;
        self.sets
    }
}

/// Notes what a key has sealed that goes now.
fn note(used: &mut HashMap<Identity, u64>, identity: Identity, issued: u64) {
    if issued > 0 {
        let sealed = used.entry(identity).or_default();
        *sealed = issued.max(*sealed);
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("profile", &self.deriver.profile.name)
            .field("suite", &self.deriver.suite.name)
            .field("key_ids", &self.key_ids())
            .field("sending_key_id", &self.sending_key_id())
            .finish_non_exhaustive()
    }
}
