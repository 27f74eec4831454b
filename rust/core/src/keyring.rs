//! Key ids, keys and nonces. The only owner of secrets.
//!
//! One ring per sender identity; its encryptors and decryptors share it. A short lock is taken once per frame, for the
//! look-up and the nonce, never during a derivation or the AEAD.

mod search;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

use crate::error::{DecryptError, EncryptError, KeyError};
use crate::fingerprint::{self, Fingerprint};
use crate::nonce::{self, IvSource};
use crate::profile::Profile;
use crate::ratchet;
use crate::secret::Secret;
use crate::suite::{AeadKey, CipherSuite, NONCE_LEN};

/// The most slots that a one-byte key id can name.
const MOST_SLOTS: u16 = 256;

/// What a ring can be told at construction.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Key size in bits; none is the profile's default.
    pub key_size: Option<u16>,
    /// Slots: key ids run from 0 to one less. 1 to 256.
    pub ring_size: u16,
    /// Steps that a receiver tries ahead when a key does not open a frame. 0 to 16; 0 is off.
    pub ratchet_window: u16,
    /// Frames that one key may seal here, 1 to 2^32; then it is exhausted.
    pub usage_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { key_size: None, ring_size: 16, ratchet_window: 0, usage_limit: nonce::LIMIT }
    }
}

/// Frames under one key from which on a new one is due: 2^24.5, as TLS 1.3 has it for AES-GCM (RFC 8446 section 5.5),
/// where it leaves a margin of 2^-57 on records of 16 KiB. Most frames are shorter.
const USAGE_WARNING: u64 = 23_726_566;

/// An expanded key. Its serial tells it from every other, so that a replaced key is noticed.
pub(crate) struct Key {
    pub(crate) aead: AeadKey,
    pub(crate) serial: u64,
    fingerprint: Fingerprint,
}

/// A key to seal one frame with, and the nonce that belongs to this frame alone.
pub(crate) struct Sealing {
    pub(crate) key: Arc<Key>,
    pub(crate) kid: u64,
    pub(crate) nonce: [u8; NONCE_LEN],
}

struct Slot {
    material: Secret,
    key: Arc<Key>,
    ivs: IvSource,
    /// Steps ahead that a search has derived already: a forged frame buys no second derivation.
    ahead: Vec<(Secret, Arc<Key>)>,
    /// A frame failed that a further step, too slow for the frame's own path, might open.
    wanted: bool,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    sending: u64,
    /// Whether `sending` was chosen; until then the first key that is set becomes it.
    chosen: bool,
}

/// The keys of one sender (or of all, where they share one).
pub struct KeyRing {
    profile: &'static Profile,
    suite: &'static CipherSuite,
    options: Options,
    state: Mutex<State>,
    /// Held during a derivation that frames ask for: one at a time.
    deriving: Mutex<()>,
}

impl KeyRing {
    /// An empty ring.
    ///
    /// # Errors
    /// [`KeyError::RingSize`], [`KeyError::RatchetWindow`], [`KeyError::KeySize`], [`KeyError::UsageLimit`].
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, KeyError> {
        if !(1..=MOST_SLOTS).contains(&options.ring_size) {
            return Err(KeyError::RingSize { given: options.ring_size });
        }
        if options.ratchet_window > ratchet::MOST_AHEAD {
            return Err(KeyError::RatchetWindow { given: options.ratchet_window, most: ratchet::MOST_AHEAD });
        }
        if !(1..=nonce::LIMIT).contains(&options.usage_limit) {
            return Err(KeyError::UsageLimit { given: options.usage_limit, most: nonce::LIMIT });
        }
        let suite = profile.suite(options.key_size)?;
        Ok(Self { profile, suite, options, state: Mutex::default(), deriving: Mutex::default() })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key. The key that is there
    /// already is as good as new for receiving; what it has sealed still counts.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoPassphrases`], [`KeyError::Unavailable`].
    pub fn set(&self, key_id: u64, secret: &Secret) -> Result<(), KeyError> {
        self.check(key_id)?;
        let mut slot = self.slot(secret.clone())?;
        let mut state = self.lock();
        if !state.chosen {
            state.sending = key_id;
            state.chosen = true;
        }
        if let Some(before) = state.slots.remove(&key_id).filter(|before| before.material.same(secret)) {
            slot.ivs = before.ivs;
            slot.ahead = before.ahead;
        }
        state.slots.insert(key_id, slot);
        Ok(())
    }

    /// Moves the key under `key_id` one step forward, in place.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::NoSuchKey`], [`KeyError::Unavailable`].
    pub fn ratchet(&self, key_id: u64) -> Result<(), KeyError> {
        self.check(key_id)?;
        loop {
            let (material, serial) = {
                let state = self.lock();
                let slot = state.slots.get(&key_id).ok_or(KeyError::NoSuchKey { key_id })?;
                (slot.material.clone(), slot.key.serial)
            };
            let next = self.slot(ratchet::step(&self.profile.schedule, &material)?)?;
            let mut state = self.lock();
            match state.slots.get_mut(&key_id) {
                Some(slot) if slot.key.serial == serial => {
                    *slot = next;
                    return Ok(());
                }
                // Replaced meanwhile: the step belongs to the key that is there now.
                _ => {}
            }
        }
    }

    /// Forgets the key under `key_id`, if there is one. Forgetting is zeroing.
    pub fn remove(&self, key_id: u64) {
        self.lock().slots.remove(&key_id);
    }

    /// The ids under which keys are set, in order.
    #[must_use]
    pub fn key_ids(&self) -> Vec<u64> {
        self.lock().slots.keys().copied().collect()
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

    /// How many frames (and data packets) this ring has sealed under the key that is now under `key_id`. What other
    /// rings and machines with the same key have sealed is not in it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn usage(&self, key_id: u64) -> Result<u64, KeyError> {
        self.lock().slots.get(&key_id).map(|slot| slot.ivs.issued()).ok_or(KeyError::NoSuchKey { key_id })
    }

    /// Frames at which a key is exhausted.
    #[must_use]
    pub fn usage_limit(&self) -> u64 {
        self.options.usage_limit
    }

    /// Frames from which on a new key is due: 2^24.5, or three quarters of a lower limit.
    #[must_use]
    pub fn usage_warning(&self) -> u64 {
        let limit = self.options.usage_limit;
        USAGE_WARNING.min(limit - limit / 4)
    }

    /// What the holders of the key under `key_id` (none: the sending key) can compare to see that they have the same.
    /// It says nothing about the key, but a passphrase that can be guessed can be checked against it.
    ///
    /// # Errors
    /// [`KeyError::NoSuchKey`].
    pub fn fingerprint(&self, key_id: Option<u64>) -> Result<Fingerprint, KeyError> {
        let state = self.lock();
        let key_id = key_id.unwrap_or(state.sending);
        state.slots.get(&key_id).map(|slot| slot.key.fingerprint).ok_or(KeyError::NoSuchKey { key_id })
    }

    /// The profile that this ring was made for.
    #[must_use]
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// The sending key and a nonce that nobody else gets.
    pub(crate) fn next(&self) -> Result<Sealing, EncryptError> {
        let mut state = self.lock();
        let kid = state.sending;
        let slot = state.slots.get_mut(&kid).ok_or(EncryptError::UnknownKey { kid })?;
        if slot.ivs.issued() >= self.options.usage_limit {
            return Err(EncryptError::KeyExhausted { kid });
        }
        // A nonce that cannot be had, for whatever reason, is none.
        let nonce = slot.ivs.next().ok().flatten().ok_or(EncryptError::KeyExhausted { kid })?;
        Ok(Sealing { key: Arc::clone(&slot.key), kid, nonce })
    }

    /// The key that a received frame names.
    pub(crate) fn find(&self, kid: u64) -> Result<Arc<Key>, DecryptError> {
        let state = self.lock();
        state.slots.get(&kid).map(|slot| Arc::clone(&slot.key)).ok_or(DecryptError::UnknownKey { kid })
    }

    fn check(&self, key_id: u64) -> Result<(), KeyError> {
        let ring_size = self.options.ring_size;
        if key_id < u64::from(ring_size) { Ok(()) } else { Err(KeyError::KeyIdOutOfRange { key_id, ring_size }) }
    }

    fn slot(&self, material: Secret) -> Result<Slot, KeyError> {
        let key = Arc::new(self.expand(&material)?);
        Ok(Slot { material, key, ivs: IvSource::new()?, ahead: Vec::new(), wanted: false })
    }

    fn expand(&self, material: &Secret) -> Result<Key, KeyError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut bytes = Zeroizing::new(vec![0; self.suite.key_len]);
        self.profile.schedule.derive(material, &mut bytes)?;
        let fingerprint = fingerprint::of(&bytes)?;
        let aead = AeadKey::new(self.suite, &bytes)?;
        Ok(Key { aead, serial: SERIAL.fetch_add(1, Ordering::Relaxed), fingerprint })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No invariant spans two writes, so a thread that died here leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("profile", &self.profile.name)
            .field("key_ids", &self.key_ids())
            .field("sending_key_id", &self.sending_key_id())
            .finish_non_exhaustive()
    }
}
