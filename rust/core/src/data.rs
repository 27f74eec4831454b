//! Messages of a data channel, under the keys of the media.
//!
//! The compatible form is that of livekit-client 2.23.0's encrypted packets: AES-GCM without AAD, whose IV and key index
//! travel beside the ciphertext. Nothing in it says who sent a packet, where to, or that it is one: a forwarder may give
//! it to others, or put the sealed part of a frame in its place. Bound to a context it is ours alone, and neither works:
//! `AAD = "frameseal data v1" || length of the context as 8 bytes || context`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{DecryptError, EncryptError, KeyError};
use crate::keyring::{KeyRing, Sealing};
use crate::replay::{self, ReplayWindow};
use crate::stats::{DataCounters, DataStats};
use crate::suite::NONCE_LEN;
use crate::wire::packet::{self, Packet};
use crate::wire::trailer::TAG_LEN;

const LABEL: &[u8] = b"frameseal data v1";

/// Packets that a cryptor remembers unless it is told otherwise: an honest one never comes twice.
const REPLAY_WINDOW: usize = 1024;

/// Seals and opens the messages of a data channel.
pub struct DataCryptor {
    ring: Arc<KeyRing>,
    bind_context: bool,
    replay: Option<Mutex<ReplayWindow>>,
    counters: DataCounters,
}

/// A sealed message in the parts that a signalling format carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedData {
    /// The nonce.
    pub iv: [u8; NONCE_LEN],
    /// The id of the key.
    pub key_index: u8,
    /// The ciphertext, its tag behind it.
    pub ciphertext: Vec<u8>,
}

impl DataCryptor {
    /// A cryptor that remembers `replay_window` opened packets: none is 1,024, 0 is off.
    ///
    /// # Errors
    /// [`KeyError::ReplayWindow`].
    pub fn new(ring: Arc<KeyRing>, bind_context: bool, replay_window: Option<usize>) -> Result<Self, KeyError> {
        let window = replay_window.unwrap_or(REPLAY_WINDOW);
        if window > replay::MOST {
            return Err(KeyError::ReplayWindow { given: window, most: replay::MOST });
        }
        let replay = (window > 0).then(|| Mutex::new(ReplayWindow::new(window)));
        Ok(Self { ring, bind_context, replay, counters: DataCounters::default() })
    }

    /// Whether packets open in the context only in which they were sealed.
    #[must_use]
    pub fn binds_context(&self) -> bool {
        self.bind_context
    }

    /// Seals a message with the ring's sending key. The context is not sent; without a binding it is not looked at.
    ///
    /// # Errors
    /// [`EncryptError`]; nothing may be sent then.
    pub fn seal(&self, payload: &[u8], context: &[u8]) -> Result<SealedData, EncryptError> {
        let sealing = self.next()?;
        let mut ciphertext = vec![0; payload.len() + TAG_LEN];
        self.seal_into(&sealing, payload, context, &mut ciphertext)?;
        Ok(SealedData { iv: sealing.nonce, key_index: index(&sealing), ciphertext })
    }

    /// Seals a message into a packet that needs nothing beside it.
    ///
    /// # Errors
    /// [`EncryptError`]; nothing may be sent then.
    pub fn seal_packet(&self, payload: &[u8], context: &[u8]) -> Result<Vec<u8>, EncryptError> {
        let sealing = self.next()?;
        let mut packet = vec![0; payload.len() + packet::OVERHEAD];
        let out = packet::write(&mut packet, index(&sealing), &sealing.nonce).ok_or(EncryptError::Malformed)?;
        self.seal_into(&sealing, payload, context, out)?;
        Ok(packet)
    }

    /// Opens a message from its parts.
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn open(&self, iv: &[u8], key_index: u64, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let opened = match iv.try_into() {
            Ok(iv) => self.open_parts(iv, key_index, sealed, context),
            Err(_) => Err(DecryptError::Malformed),
        };
        self.count(opened)
    }

    /// Opens a packet of [`Self::seal_packet`].
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn open_packet(&self, packet: &[u8], context: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let opened = match packet::parse(packet) {
            Some(Packet { key_index, iv, sealed }) => self.open_parts(iv, key_index.into(), sealed, context),
            None => Err(DecryptError::Malformed),
        };
        self.count(opened)
    }

    /// Seals under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`].
    #[cfg(feature = "hazmat")]
    pub fn seal_with_iv(&self, payload: &[u8], context: &[u8], iv: [u8; 12]) -> Result<SealedData, EncryptError> {
        let mut sealing = self.next()?;
        sealing.nonce = iv;
        let mut ciphertext = vec![0; payload.len() + TAG_LEN];
        self.seal_into(&sealing, payload, context, &mut ciphertext)?;
        Ok(SealedData { iv, key_index: index(&sealing), ciphertext })
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        self.counters.snapshot()
    }

    fn next(&self) -> Result<Sealing, EncryptError> {
        self.ring.next().inspect_err(|_| self.counters.not_sealed.add(1))
    }

    fn seal_into(&self, sealing: &Sealing, payload: &[u8], context: &[u8], out: &mut [u8]) -> Result<(), EncryptError> {
        let (ciphertext, tag) = out.split_at_mut_checked(payload.len()).ok_or(EncryptError::Malformed)?;
        let aad = self.aad(context);
        sealing.key.aead.seal(sealing.nonce, &aad, payload, ciphertext, tag).map_err(|_| EncryptError::Malformed)?;
        self.counters.sealed.add(1);
        Ok(())
    }

    fn open_parts(
        &self,
        iv: [u8; NONCE_LEN],
        kid: u64,
        sealed: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>, DecryptError> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(DecryptError::Malformed)?;
        let key = self.ring.find(kid)?;
        if self.replay().is_some_and(|window| window.has(kid, &iv)) {
            return Err(DecryptError::Replayed { kid });
        }
        let aad = self.aad(context);
        let mut payload = vec![0; ciphertext.len()];
        if key.aead.open(iv, &aad, ciphertext, tag, &mut payload).is_err() {
            self.ring
                .search(kid, &key, |key| key.aead.open(iv, &aad, ciphertext, tag, &mut payload).is_ok())
                .ok_or(DecryptError::AuthenticationFailed { kid })?;
        }
        if self.replay().is_some_and(|mut window| !window.mark(kid, iv)) {
            return Err(DecryptError::Replayed { kid });
        }
        Ok(payload)
    }

    fn aad(&self, context: &[u8]) -> Vec<u8> {
        if !self.bind_context {
            return Vec::new();
        }
        [LABEL, &(context.len() as u64).to_be_bytes(), context].concat()
    }

    fn replay(&self) -> Option<MutexGuard<'_, ReplayWindow>> {
        self.replay.as_ref().map(|window| window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, opened: Result<Vec<u8>, DecryptError>) -> Result<Vec<u8>, DecryptError> {
        match opened {
            Ok(_) => self.counters.opened.add(1),
            Err(DecryptError::Malformed) => self.counters.malformed.add(1),
            Err(DecryptError::UnknownKey { .. }) => self.counters.unknown_key.add(1),
            Err(DecryptError::AuthenticationFailed { .. }) => self.counters.authentication_failed.add(1),
            Err(DecryptError::Replayed { .. }) => self.counters.replayed.add(1),
        }
        opened
    }
}

#[allow(clippy::cast_possible_truncation)] // a ring of these layouts has at most 256 slots
fn index(sealing: &Sealing) -> u8 {
    sealing.kid as u8
}
