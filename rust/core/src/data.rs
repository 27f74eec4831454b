//! Seals and opens the messages of a data channel, with the keys of the media.
//!
//! Trailer profiles use the form of livekit-client 2.23.0's encrypted packets: AES-GCM without AAD, with the IV and the
//! key index beside the ciphertext. Packets of SFrame are plain SFrames (RFC 9605), without codec and envelope.
//!
//! Neither form authenticates the sender, the recipient, or that the bytes are a packet. A forwarder may send a packet
//! to others, or the sealed part of a frame as a packet. Binding a context prevents both, but only frameseal implements
//! it. The AAD is then `"frameseal data v1" || length of the context as 8 bytes || context`. In SFrame these bytes are
//! the metadata.

use std::sync::{Arc, PoisonError};

use crate::error::{ApiMisuse, ConfigError, DecryptError, EncryptError};
use crate::frame::{DataCounters, DataStats, MAX_REPLAY_WINDOW, ReplayWindow};
use crate::keyring::{Key, KeyRing, NonceInput, SealingKey};
use crate::suite::NONCE_LEN;
use crate::sync::{Mutex, MutexGuard};
use crate::wire::packet::{self, OVERHEAD, Packet};
use crate::wire::sframe::{self, Header};
use crate::wire::{TAG_LEN, Wire};

/// The start of the AAD of packets that are bound to a context.
const LABEL: &[u8] = b"frameseal data v1";

/// The default replay window of the trailer profiles, in packets. An honest packet never arrives twice.
const REPLAY_WINDOW: usize = 1024;

/// The default replay window of SFrame, in counters. Media frames use most of the counters, so this is some minutes of
/// a call.
const COUNTER_WINDOW: usize = 16 * 1024;

/// Seals and opens the messages of a data channel.
pub struct DataCryptor {
    ring: Arc<KeyRing>,
    /// True if packets are bound to their context.
    bind_context: bool,
    replay: Option<Mutex<ReplayWindow>>,
    counters: DataCounters,
}

/// The parts of a sealed message, for a signalling format that carries them in fields. Trailer profiles only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedData {
    /// The IV, which is the nonce.
    pub iv: [u8; NONCE_LEN],
    /// The id of the key.
    pub key_index: u8,
    /// The ciphertext, followed by the 16 bytes of the tag.
    pub ciphertext: Vec<u8>,
}

/// The parts of a received message, as parsed before any key is looked up.
struct PacketParts<'a> {
    kid: u64,
    nonce_input: NonceInput,
    aad: Vec<u8>,
    ciphertext: &'a [u8],
    tag: &'a [u8],
}

impl DataCryptor {
    /// Returns a cryptor with a replay window of `replay_window` packets (in SFrame: counters). `None` selects the
    /// default of 1,024 packets (16,384 counters); 0 turns the window off. `bind_context` binds packets to their
    /// context.
    ///
    /// # Errors
    /// [`ConfigError::ReplayWindow`] if the window exceeds the maximum of 65,536. [`ConfigError::NoDataPackets`] if the
    /// profile has no form of data packets.
    pub fn new(ring: Arc<KeyRing>, bind_context: bool, replay_window: Option<usize>) -> Result<Self, ConfigError> {
        let profile = ring.profile();
        if profile.wire == Wire::Footer {
            return Err(ConfigError::NoDataPackets { profile: profile.name });
        }
        let window = replay_window.unwrap_or(match ring.profile().wire {
            Wire::Trailer | Wire::Footer => REPLAY_WINDOW,
            Wire::Sframe => COUNTER_WINDOW,
        });
        if window > MAX_REPLAY_WINDOW {
            return Err(ConfigError::ReplayWindow { given: window, max: MAX_REPLAY_WINDOW });
        }
        let replay = (window > 0).then(|| Mutex::new(ReplayWindow::new(window)));
        Ok(Self { ring, bind_context, replay, counters: DataCounters::default() })
    }

    /// Returns whether packets open only in the context in which they were sealed.
    #[must_use]
    pub fn binds_context(&self) -> bool {
        self.bind_context
    }

    /// Returns whether the profile has packets in parts, for [`Self::encrypt`] and [`Self::decrypt`].
    #[must_use]
    pub fn has_parts(&self) -> bool {
        self.ring.profile().wire == Wire::Trailer
    }

    /// Seals a message with the ring's sending key. The context is not sent, and ignored without a binding.
    ///
    /// # Errors
    /// [`EncryptError`]; [`ApiMisuse::PacketParts`] in SFrame, whose packets have no parts. Nothing may be sent then.
    pub fn encrypt(&self, payload: &[u8], context: &[u8]) -> Result<SealedData, EncryptError> {
        if !self.has_parts() {
            return Err(ApiMisuse::PacketParts.into());
        }
        self.seal_parts(&self.next()?, payload, context)
    }

    /// Seals a message into a packet in one piece. The context is not sent, and ignored without a binding.
    ///
    /// # Errors
    /// [`EncryptError`]. Nothing may be sent then.
    pub fn encrypt_packet(&self, payload: &[u8], context: &[u8]) -> Result<Vec<u8>, EncryptError> {
        let sealing = self.next()?;
        let aad = self.aad(context);
        match sealing.nonce_input {
            NonceInput::Iv(iv) => {
                let mut packet = vec![0; payload.len() + OVERHEAD];
                let out = packet::write(&mut packet, index(&sealing), &iv.bytes()).ok_or(EncryptError::Malformed)?;
                let places = out.split_at_mut_checked(payload.len()).ok_or(EncryptError::Malformed)?;
                self.seal_into(&sealing, &aad, payload, places)?;
                Ok(packet)
            }
            NonceInput::Ctr(ctr) => {
                let (header, tag_len) = (Header { kid: sealing.kid, ctr }, self.ring.suite().tag_len);
                let mut packet = vec![0; header.len() + payload.len() + tag_len];
                let sframe::SframePlaces { head, ciphertext, tag } =
                    sframe::write(&mut packet, header, tag_len).ok_or(EncryptError::Malformed)?;
                self.seal_into(&sealing, &[head, &aad].concat(), payload, (ciphertext, tag))?;
                Ok(packet)
            }
        }
    }

    /// Opens a message from its parts. `sealed` is the ciphertext and the tag.
    ///
    /// # Errors
    /// [`DecryptError`]; [`ApiMisuse::PacketParts`] in SFrame, whose packets have no parts.
    pub fn decrypt(&self, iv: &[u8], key_index: u64, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, DecryptError> {
        if !self.has_parts() {
            return Err(ApiMisuse::PacketParts.into());
        }
        let parts = iv.try_into().ok();
        self.count(self.open_parts(parts.and_then(|iv| self.trailer_parts(iv, key_index, sealed, context))))
    }

    /// Opens a packet in one piece, as [`Self::encrypt_packet`] returns it.
    ///
    /// # Errors
    /// [`DecryptError`]. The packet must be dropped then.
    pub fn decrypt_packet(&self, packet: &[u8], context: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let parts = match self.ring.profile().wire {
            Wire::Trailer => packet::parse(packet)
                .and_then(|Packet { key_index, iv, sealed }| self.trailer_parts(iv, key_index.into(), sealed, context)),
            Wire::Footer => None,
            Wire::Sframe => sframe::parse(packet, self.ring.suite().tag_len).map(|sealed| PacketParts {
                kid: sealed.header.kid,
                nonce_input: NonceInput::Ctr(sealed.header.ctr),
                aad: [sealed.head, &self.aad(context)].concat(),
                ciphertext: sealed.ciphertext,
                tag: sealed.tag,
            }),
        };
        self.count(self.open_parts(parts))
    }

    /// Seals a message under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`], as [`Self::encrypt`].
    #[cfg(feature = "hazmat")]
    pub fn encrypt_with_iv(&self, payload: &[u8], context: &[u8], iv: [u8; 12]) -> Result<SealedData, EncryptError> {
        let sealing = SealingKey { nonce_input: NonceInput::Iv(iv.into()), ..self.next()? };
        self.seal_parts(&sealing, payload, context)
    }

    /// Returns a snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        self.counters.snapshot()
    }

    fn next(&self) -> Result<SealingKey, EncryptError> {
        self.ring.next().inspect_err(|_| self.counters.not_sealed.add(1))
    }

    fn seal_parts(&self, sealing: &SealingKey, payload: &[u8], context: &[u8]) -> Result<SealedData, EncryptError> {
        let NonceInput::Iv(iv) = sealing.nonce_input else { return Err(EncryptError::Malformed) };
        let mut ciphertext = vec![0; payload.len() + TAG_LEN];
        let places = ciphertext.split_at_mut_checked(payload.len()).ok_or(EncryptError::Malformed)?;
        self.seal_into(sealing, &self.aad(context), payload, places)?;
        Ok(SealedData { iv: iv.bytes(), key_index: index(sealing), ciphertext })
    }

    fn seal_into(
        &self,
        sealing: &SealingKey,
        aad: &[u8],
        payload: &[u8],
        (ciphertext, tag): (&mut [u8], &mut [u8]),
    ) -> Result<(), EncryptError> {
        let SealingKey { key, nonce_input, .. } = sealing;
        key.aead.seal(key.nonce(*nonce_input), aad, payload, ciphertext, tag).map_err(|_| EncryptError::Malformed)?;
        self.counters.sealed.add(1);
        Ok(())
    }

    fn trailer_parts<'a>(
        &self,
        iv: [u8; NONCE_LEN],
        kid: u64,
        sealed: &'a [u8],
        context: &[u8],
    ) -> Option<PacketParts<'a>> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        Some(PacketParts { kid, nonce_input: NonceInput::Iv(iv.into()), aad: self.aad(context), ciphertext, tag })
    }

    fn open_parts(&self, parts: Option<PacketParts<'_>>) -> Result<Vec<u8>, DecryptError> {
        let PacketParts { kid, nonce_input, aad, ciphertext, tag } = parts.ok_or(DecryptError::Malformed)?;
        let is_replayed = |key| self.replay().is_some_and(|window| window.contains(key, nonce_input));
        let mut payload = vec![0; ciphertext.len()];
        let opens = |key: &Key| key.aead.open(key.nonce(nonce_input), &aad, ciphertext, tag, &mut payload).is_ok();
        let opened = self.ring.open(kid, None, is_replayed, opens)?.opened?;
        if self.replay().is_some_and(|mut window| !window.mark(opened.identity, nonce_input)) {
            return Err(DecryptError::Replayed { kid });
        }
        Ok(payload)
    }

    /// Returns the AAD of a packet in this context: empty without a binding.
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
            // A packet is never checked against a sender: its context names the sender.
            Err(DecryptError::SenderMismatch { .. } | DecryptError::Misuse(_)) => {}
        }
        opened
    }
}

/// Returns the key index of a trailer profile.
#[allow(clippy::cast_possible_truncation)] // a ring of this layout has at most 256 slots
fn index(sealing: &SealingKey) -> u8 {
    sealing.kid as u8
}
