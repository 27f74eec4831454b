//! Key ids, keys and nonces. The only owner of secrets.
//!
//! One ring per sender identity; its encryptors and decryptors share it. A short lock is taken once per frame, for the
//! look-up and the nonce, never during a derivation or the AEAD.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

use crate::error::{DecryptError, EncryptError, KeyError};
use crate::nonce::IvSource;
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
}

impl Default for Options {
    fn default() -> Self {
        Self { key_size: None, ring_size: 16, ratchet_window: 0 }
    }
}

/// An expanded key. Its serial tells it from every other, so that a replaced key is noticed.
pub(crate) struct Key {
    pub(crate) aead: AeadKey,
    pub(crate) serial: u64,
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
}

impl KeyRing {
    /// An empty ring.
    ///
    /// # Errors
    /// [`KeyError::RingSize`], [`KeyError::RatchetWindow`], [`KeyError::KeySize`].
    pub fn new(profile: &'static Profile, options: Options) -> Result<Self, KeyError> {
        if !(1..=MOST_SLOTS).contains(&options.ring_size) {
            return Err(KeyError::RingSize { given: options.ring_size });
        }
        if options.ratchet_window > ratchet::MOST_AHEAD {
            return Err(KeyError::RatchetWindow { given: options.ratchet_window, most: ratchet::MOST_AHEAD });
        }
        let suite = profile.suite(options.key_size)?;
        Ok(Self { profile, suite, options, state: Mutex::default() })
    }

    /// Sets or replaces the key under `key_id`. The first key of a ring becomes its sending key.
    ///
    /// # Errors
    /// [`KeyError::KeyIdOutOfRange`], [`KeyError::Unavailable`].
    pub fn set(&self, key_id: u64, secret: &Secret) -> Result<(), KeyError> {
        self.check(key_id)?;
        let slot = self.slot(secret.clone())?;
        let mut state = self.lock();
        if !state.chosen {
            state.sending = key_id;
            state.chosen = true;
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

    /// The profile that this ring was made for.
    #[must_use]
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    pub(crate) fn ratchet_window(&self) -> usize {
        usize::from(self.options.ratchet_window)
    }

    /// The sending key and a nonce that nobody else gets.
    pub(crate) fn next(&self) -> Result<Sealing, EncryptError> {
        let mut state = self.lock();
        let kid = state.sending;
        let slot = state.slots.get_mut(&kid).ok_or(EncryptError::UnknownKey { kid })?;
        // A nonce that cannot be had, for whatever reason, is none.
        let nonce = slot.ivs.next().ok().flatten().ok_or(EncryptError::KeyExhausted { kid })?;
        Ok(Sealing { key: Arc::clone(&slot.key), kid, nonce })
    }

    /// The key that a received frame names.
    pub(crate) fn find(&self, kid: u64) -> Result<Arc<Key>, DecryptError> {
        let state = self.lock();
        state.slots.get(&kid).map(|slot| Arc::clone(&slot.key)).ok_or(DecryptError::UnknownKey { kid })
    }

    /// The key `steps` (1 or more) ahead of `base`; none if `base` is not the key under `kid` any more. Each step is
    /// derived once.
    pub(crate) fn ahead(&self, kid: u64, base: &Key, steps: usize) -> Option<Arc<Key>> {
        loop {
            let (known, material) = {
                let state = self.lock();
                let slot = state.slots.get(&kid).filter(|slot| slot.key.serial == base.serial)?;
                if let Some((_, key)) = slot.ahead.get(steps.checked_sub(1)?) {
                    return Some(Arc::clone(key));
                }
                (slot.ahead.len(), slot.ahead.last().map_or(&slot.material, |(material, _)| material).clone())
            };
            let material = ratchet::step(&self.profile.schedule, &material).ok()?;
            let key = self.expand(&material).ok()?;
            let mut state = self.lock();
            let slot = state.slots.get_mut(&kid).filter(|slot| slot.key.serial == base.serial)?;
            if slot.ahead.len() == known {
                slot.ahead.push((material, Arc::new(key)));
            }
        }
    }

    /// A frame authenticated with `key`, which [`Self::ahead`] gave: from now on it is the key under `kid`.
    pub(crate) fn commit(&self, kid: u64, key: &Key) {
        let Ok(ivs) = IvSource::new() else { return };
        let mut state = self.lock();
        let Some(slot) = state.slots.get_mut(&kid) else { return };
        let Some(step) = slot.ahead.iter().position(|(_, ahead)| ahead.serial == key.serial) else { return };
        let ahead = slot.ahead.split_off(step + 1);
        if let Some((material, key)) = slot.ahead.pop() {
            *slot = Slot { material, key, ivs, ahead };
        }
    }

    fn check(&self, key_id: u64) -> Result<(), KeyError> {
        let ring_size = self.options.ring_size;
        if key_id < u64::from(ring_size) { Ok(()) } else { Err(KeyError::KeyIdOutOfRange { key_id, ring_size }) }
    }

    fn slot(&self, material: Secret) -> Result<Slot, KeyError> {
        let key = Arc::new(self.expand(&material)?);
        Ok(Slot { material, key, ivs: IvSource::new()?, ahead: Vec::new() })
    }

    fn expand(&self, material: &Secret) -> Result<Key, KeyError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let mut bytes = Zeroizing::new(vec![0; self.suite.key_len]);
        self.profile.schedule.derive(material, &mut bytes)?;
        Ok(Key { aead: AeadKey::new(self.suite, &bytes)?, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
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
