//! Holds key ids, keys and nonces. Nothing else owns secrets.
//!
//! Each sender identity has one ring, which its encryptors and decryptors share. A frame takes the lock once, for the
//! look-up and the nonce. The lock stays held during the AEAD of a [short](LOCKED_AEAD_MAX) frame. It is never held
//! during the AEAD of a long frame or a slow derivation.

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

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError};
use zeroize::Zeroizing;

pub use self::derived::DerivedKey;
pub use self::fingerprint::Fingerprint;
pub(crate) use self::identity::Identity;
pub(crate) use self::key::Key;
pub use self::kid::MlsKid;
pub(crate) use self::lookup::{BatchKey, Candidate, LOCKED_AEAD_MAX, NamedKey, Opened, Pending, ReadyKeys, SealingKey};
pub(crate) use self::nonce::{Nonce, NonceInput};
use self::options::MAX_SLOTS;
pub use self::options::Options;
pub(crate) use self::sender_bindings::BoundSender;
pub use self::sender_bindings::SenderBindings;

use self::counter::CtrSource;
use self::key::{KeyDeriver, serial};
use self::kid::{Field, MAX_RETAINED};
use self::nonce::{CountedIvs, IvSource, NonceSource};
use self::sender_keys::{ActiveKey, SenderKeys};
use crate::error::{ApiMisuse, ConfigError, KeyError};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::CipherSuite;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::wire::Wire;

/// The bits of a KID that hold the key id of a shared base key. The other bits differ between senders.
const SHARED_BITS: u8 = 8;

/// The maximum length of the fallback chain behind a ring. A participant, a group and a room need two.
const MAX_DEPTH: usize = 16;

struct Slot {
    material: Secret,
    key: Arc<Key>,
    nonces: NonceSource,
    /// The position in the order in which the keys of the ring were set.
    set: u64,
    /// Caches the ratchet steps ahead that a search has derived: a forged frame triggers no second derivation.
    ahead: Vec<(Secret, Arc<Key>)>,
    /// True if a failed frame may open with a further step that is too slow for the frame path.
    step_requested: bool,
    /// True if a later step has replaced this one. It still opens late frames, until the next step removes it.
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

/// The entry that a key id names. A base key has one KID; a shared key or epoch owns the low bits of many KIDs.
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

/// A key that is derived, but not set yet.
enum Fresh {
    Slot(Box<Slot>),
    SenderKeys(Box<SenderKeys>),
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    /// The shared keys and epochs, in the order in which they were set.
    sender_keys: Vec<SenderKeys>,
    /// The id of the sending key. If several keys have this id, the newest key seals.
    sending_key_id: u64,
    /// The key id of the last key that followed the ratchet of a sender.
    last_ratcheted: Option<u64>,
    /// True if the sending key was chosen. Until then the first key that is set becomes the sending key.
    chosen: bool,
    /// Counts the keys that were set.
    sets: u64,
    /// Counts the frames sealed with each removed key. A key that is set again continues this count.
    used: HashMap<Identity, u64>,
}

/// Keeps the value off the cache lines of its neighbours, which other cores read (false sharing). The alignment is two
/// cache lines, because processors prefetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct CachePadded<T>(T);

/// The keys of one sender, or of all senders that share a key.
pub struct KeyRing {
    deriver: KeyDeriver,
    options: Options,
    state: CachePadded<RwLock<State>>,
    /// Serialises the derivations of ratchet steps that frames request.
    deriving: Mutex<()>,
    /// The ring whose keys count while this ring has no keys.
    fallback: Option<Arc<KeyRing>>,
    /// True if this ring has keys. It is read without the lock.
    occupied: AtomicBool,
    generation: AtomicU64,
}

impl KeyRing {
    /// Creates an empty ring.
    ///
    /// # Errors
    /// [`ConfigError`] if a number is out of range, or the profile does not support the suite or an option.
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, ConfigError> {
        let suite = options.check(profile)?;
        let any_length = profile.schedule.is_raw() && options.suite.is_none() && options.key_size.is_none();
        Ok(Self {
            deriver: KeyDeriver { profile, suite, any_length, ring: serial() },
            options,
            state: CachePadded::default(),
            deriving: Mutex::default(),
            fallback: None,
            occupied: AtomicBool::default(),
            generation: AtomicU64::default(),
        })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key.
    ///
    /// Setting the same key again changes nothing for receivers. The usage count and the counter of an SFrame sender
    /// continue.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
    pub fn set(&self, key_id: u64, secret: &Secret) -> Result<(), KeyError> {
        self.set_from(key_id, secret, None)
    }

    /// Sets a key as [`Self::set`] does, and lets an SFrame sender continue from `counter`.
    ///
    /// Neither this process nor any other may have used `counter` or a larger counter under this base key and KID.
    ///
    /// # Errors
    /// [`KeyError::CounterUsed`] if this process has used `counter`. [`KeyError::KeyIdOutOfRange`],
    /// [`ApiMisuse::Counter`], [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
    pub fn set_from(&self, key_id: u64, secret: &Secret, counter: Option<u64>) -> Result<(), KeyError> {
        let fresh = self.derive_fresh(key_id, secret, counter)?;
        self.install_fresh(key_id, fresh);
        Ok(())
    }

    /// Derives a key for [`Self::install_fresh`], without a lock.
    fn derive_fresh(&self, key_id: u64, secret: &Secret, counter: Option<u64>) -> Result<Fresh, KeyError> {
        self.check(key_id)?;
        if counter.is_some() && (self.deriver.profile.wire != Wire::Sframe || self.options.shared) {
            return Err(ApiMisuse::Counter.into());
        }
        let material = self.deriver.profile.schedule.material(secret)?;
        if self.options.shared {
            let identity = self.deriver.shared_identity(key_id, &material);
            let field = Field { bits: SHARED_BITS, value: key_id };
            return Ok(Fresh::SenderKeys(Box::new(SenderKeys::shared(field, material, identity))));
        }
        let key = Arc::new(self.deriver.key(key_id, &material)?);
        let nonces = match self.deriver.profile.wire {
            Wire::Trailer => NonceSource::Iv(IvSource::new()?),
            Wire::Footer => NonceSource::Counted(CountedIvs::new()?),
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

    /// Sets the exported secret of an MLS epoch, from which the keys of all members follow (RFC 9605, section 5.2).
    ///
    /// The `retain` epochs before it still open frames; older epochs are erased. From now on this side seals with the
    /// key of its own KID, which is returned.
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
        let material = self.deriver.profile.schedule.material(secret)?;
        let field = Field { bits: kid.epoch_bits, value: value & Field::mask(kid.epoch_bits) };
        let keys = SenderKeys::epoch(field, material, value, &self.deriver)?;
        let mut state = self.lock();
        state.add(keys);
        state.keep_newest(retain + 1);
        state.choose(field.value);
        self.changed(&state);
        Ok(value)
    }

    /// Removes every key under `key_id` and clears its memory. If there is none, the call has no effect.
    pub fn remove(&self, key_id: u64) {
        let mut state = self.lock();
        state.remove_slot(key_id);
        state.remove_sender_keys(|keys| keys.field.value == key_id);
        self.changed(&state);
    }

    /// Returns the ids of all keys in ascending order. The id of a shared key or epoch is the low bits of its KIDs.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u64> {
        let state = self.read_current().1;
        let mut ids: Vec<u64> = state.slots.keys().copied().collect();
        ids.extend(state.sender_keys.iter().map(|keys| keys.field.value));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns the id of the sending key.
    #[must_use]
    pub fn sending_key_id(&self) -> u64 {
        self.read_current().1.sending_key_id
    }

    /// Chooses the sending key: the newest key with this id. The key may be set later; until then nothing is sealed.
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

    /// Returns the profile of the ring.
    #[must_use]
    pub fn profile(&self) -> &'static Profile {
        self.deriver.profile
    }

    /// Returns the cipher suite of the keys.
    #[must_use]
    pub fn suite(&self) -> &'static CipherSuite {
        self.deriver.suite
    }

    /// Returns whether the sending key is set.
    #[must_use]
    pub fn can_encrypt(&self) -> bool {
        let state = self.read_current().1;
        state.newest(state.sending_key_id).is_some()
    }

    /// Returns a number that changes whenever a key is set, chosen or removed, in this ring or its fallback.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let shared = self.fallback.as_ref().map_or(0, |shared| shared.generation());
        self.generation.load(Ordering::Acquire).wrapping_add(shared)
    }

    /// Returns how many frames and data packets this ring has sealed with the key under `key_id`.
    ///
    /// The count leaves out the frames that other rings and machines have sealed with the same key.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn frames_sealed(&self, key_id: u64) -> Result<u64, KeyError> {
        let state = self.read_current().1;
        let entry = state.newest(key_id).ok_or(KeyError::NoSuchKey { key_id })?;
        Ok(state.sealed_with(entry.identity()))
    }

    /// Returns the number of frames at which a key is exhausted.
    #[must_use]
    pub fn usage_limit(&self) -> u64 {
        self.options.usage_limit
    }

    /// Returns the number of frames from which a new key is due: 2^24.5, or three quarters of a lower limit.
    #[must_use]
    pub fn usage_warning(&self) -> u64 {
        self.options.usage_warning()
    }

    /// Returns a fingerprint of the key under `key_id`, which its holders compare. `None` means the sending key.
    ///
    /// The fingerprint does not reveal the key, but guesses of a weak passphrase can be checked against it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn fingerprint(&self, key_id: Option<u64>) -> Result<Fingerprint, KeyError> {
        let state = self.read_current().1;
        let key_id = key_id.unwrap_or(state.sending_key_id);
        let (material, key) = state.material(key_id)?;
        self.deriver.fingerprint(key_id, material, key)
    }

    /// Returns a snapshot of (key id, fingerprint) of every key that may open a frame, in ascending order. Two epochs
    /// may have the same id.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    pub fn fingerprints(&self) -> Result<Vec<(u64, Fingerprint)>, KeyError> {
        let state = self.read_current().1;
        let slots = state.slots.iter().map(|(&key_id, slot)| (key_id, &slot.material, Some(&*slot.key)));
        let sender_keys = state.sender_keys.iter().map(|keys| (keys.field.value, &keys.material, None));
        let mut all = slots
            .chain(sender_keys)
            .map(|(key_id, material, key)| Ok((key_id, self.deriver.fingerprint(key_id, material, key)?)))
            .collect::<Result<Vec<_>, KeyError>>()?;
        all.sort_unstable();
        Ok(all)
    }

    /// Returns the current material of the key under `key_id`. `None` means the sending key. The ring, and the fallback
    /// if its keys count, must be made with `allow_export`.
    ///
    /// # Errors
    /// [`ApiMisuse::ExportNotAllowed`], [`KeyError::NoSuchKey`].
    pub fn export(&self, key_id: Option<u64>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let (ring, state) = self.read_current();
        if !self.options.allow_export || !ring.options.allow_export {
            return Err(ApiMisuse::ExportNotAllowed.into());
        }
        let key_id = key_id.unwrap_or(state.sending_key_id);
        state.material(key_id).map(|(material, _)| Zeroizing::new(material.bytes().to_vec()))
    }

    // A ring without keys uses the keys of its fallback. For a participant's ring this is the room's ring. Sealing,
    // opening and all queries about keys use `current`. Setting, choosing and removing keys concern this ring alone.
    // The ring may receive its first key between the look-up of a key and the opening of the frame. Then no key of the
    // fallback enters this ring, because no two keys have the same serial.

    /// Lets this ring use the keys of `shared` while it has no keys of its own.
    ///
    /// # Errors
    /// [`ConfigError::FallbackMismatch`] if `shared` has another profile or suite. [`ConfigError::FallbackDepth`] if
    /// the chain of rings behind `shared` is too long.
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

    /// Returns the ring whose keys count now: this ring, or the first in the fallback chain that has keys.
    pub(crate) fn current(&self) -> &Self {
        match &self.fallback {
            Some(shared) if !self.occupied.load(Ordering::Acquire) => shared.current(),
            _ => self,
        }
    }

    /// Locks the ring whose keys count now, and returns it. A ring may lose its last key between the choice and the
    /// lock: then its fallback counts.
    #[inline(always)]
    fn read_current(&self) -> (&Self, RwLockReadGuard<'_, State>) {
        let mut ring = self.current();
        loop {
            let state = ring.read();
            match &ring.fallback {
                Some(shared) if state.is_empty() => ring = shared.current(),
                _ => return (ring, state),
            }
        }
    }

    /// Publishes a change of the keys. Every change calls this under the lock.
    fn changed(&self, state: &State) {
        self.occupied.store(!state.is_empty(), Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn check(&self, key_id: u64) -> Result<(), KeyError> {
        let key_ring_size = match (self.deriver.profile.wire, self.options.shared) {
            (Wire::Sframe, false) => return Ok(()),
            (Wire::Sframe, true) => 1 << SHARED_BITS,
            (Wire::Trailer, _) => self.options.key_ring_size,
            (Wire::Footer, _) => MAX_SLOTS,
        };
        if key_id < u64::from(key_ring_size) {
            Ok(())
        } else {
            Err(KeyError::KeyIdOutOfRange { key_id, key_ring_size })
        }
    }

    #[inline(always)]
    fn lock(&self) -> RwLockWriteGuard<'_, State> {
        // No invariant spans two writes, so a poisoned lock protects a consistent state.
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

    /// Returns the newest entry with this id.
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

    /// Sets or replaces the key under `key_id`. The same key set again keeps its derived steps and its nonce source.
    fn insert(&mut self, key_id: u64, mut slot: Slot) {
        if let Some(previous) = self.remove_slot(key_id).filter(|previous| previous.material.same(&slot.material)) {
            slot.ahead = previous.ahead;
            slot.nonces = slot.nonces.continuing(previous.nonces);
        }
        slot.set = self.next_set();
        self.slots.insert(key_id, slot);
        self.count_on(key_id);
    }

    /// Adds a shared key or an epoch as the newest entry. It replaces an entry with the same field, unless both are the
    /// same key: then the old entry stays and becomes the newest.
    fn add(&mut self, keys: SenderKeys) {
        let known = self.sender_keys.iter().position(|known| known.field == keys.field);
        let known = known.map(|at| self.sender_keys.remove(at));
        let mut keys = match known {
            Some(known) if known.is_same(&keys) => known,
            other => {
                other.iter().for_each(|other| record(&mut self.used, other.identity, other.issued()));
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
        record(&mut self.used, slot.key.identity, slot.nonces.issued());
        Some(slot)
    }

    fn remove_sender_keys(&mut self, mut is_removed: impl FnMut(&SenderKeys) -> bool) {
        let Self { sender_keys, used, .. } = self;
        sender_keys.retain(|keys| {
            let removed = is_removed(keys);
            if removed {
                record(used, keys.identity, keys.issued());
            }
            !removed
        });
    }

    /// Removes all shared keys and epochs but the `count` newest.
    fn keep_newest(&mut self, count: usize) {
        let mut older = self.sender_keys.len().saturating_sub(count);
        self.remove_sender_keys(|_| {
            let is_older = older > 0;
            older = older.saturating_sub(1);
            is_older
        });
    }

    /// Returns how many frames this ring has sealed with a key, under all ids that the key has or had.
    fn sealed_with(&self, identity: Identity) -> u64 {
        let earlier = self.used.get(&identity).copied();
        let slots = self.slots.values().filter(|slot| slot.key.identity == identity).map(|slot| slot.nonces.issued());
        let sender_keys = self.sender_keys.iter().filter(|keys| keys.identity == identity).map(SenderKeys::issued);
        earlier.into_iter().chain(slots).chain(sender_keys).max().unwrap_or_default()
    }

    /// Lets the sending key continue the usage count of the same key, if `key_id` is its id.
    fn count_on(&mut self, key_id: u64) {
        let entry = self.newest(key_id).filter(|_| key_id == self.sending_key_id);
        let Some(identity) = entry.map(|entry| entry.identity()) else { return };
        let sealed = self.sealed_with(identity);
        let slot = self.slots.get_mut(&key_id).filter(|slot| slot.key.identity == identity);
        slot.into_iter().for_each(|slot| slot.nonces.count_from(sealed));
        let sender_keys = self.sender_keys.iter_mut().filter(|keys| keys.identity == identity);
        sender_keys.for_each(|keys| keys.count_from(sealed));
    }

    /// Returns the material of the newest entry with this id, and its key unless it has many senders.
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

/// Records the usage count of a key that is removed.
fn record(used: &mut HashMap<Identity, u64>, identity: Identity, issued: u64) {
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
