//! The state of one track: key ring, codec rules, counters. Plans of single frames and of batches borrow it.

use std::mem;
use std::sync::{Arc, PoisonError};

use super::replay::{MAX_REPLAY_WINDOW, ReplayWindow};
use super::server_injected::SifFilter;
use super::stats::{DecryptCounters, DecryptStats, EncryptCounters, EncryptStats, PackedCounter};
use crate::codec::{AccessUnit, Clear, Codec, CodecMismatch, Prepared, Standard};
use crate::error::{ConfigError, DecryptError, EncryptError};
use crate::keyring::{BatchKey, BoundSender, Identity, KeyRing, NonceInput, ReadyKeys, SealingKey};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::wire::{Wire, footer, trailer};

/// The maximum number of bytes held back for the next slice. Real parameter sets have some hundred bytes.
const MAX_HELD: usize = 16 * 1024;

/// The state of one outgoing track.
pub(super) struct SenderState {
    pub(super) ring: Arc<KeyRing>,
    pub(super) clear: Clear,
    /// The standard whose NAL units the packetiser looks for, or `None` if it looks for none.
    pub(super) annexb: Option<Standard>,
    /// Access units without a slice, held back for the next frame (trailer layout, Annex B codecs only).
    held: Mutex<Vec<u8>>,
    frames_and_bytes: PackedCounter,
    pub(super) counters: EncryptCounters,
}

/// The state of one incoming track.
pub(super) struct ReceiverState {
    pub(super) ring: Arc<KeyRing>,
    pub(super) clear: Clear,
    /// The standard whose NAL units the depacketiser returns, or `None` if it returns none.
    pub(super) annexb: Option<Standard>,
    pub(super) sif: SifFilter,
    pub(super) sender: Option<BoundSender>,
    replay: Option<Mutex<ReplayWindow>>,
    frames_and_bytes: PackedCounter,
    pub(super) counters: DecryptCounters,
    /// The number of consecutive failures of the key `failing`. Another key starts at 0.
    failures: AtomicU32,
    /// The serial of the key that failed last.
    failing: AtomicU64,
}

impl SenderState {
    pub(super) fn new(ring: Arc<KeyRing>, codec: Codec) -> Result<Self, ConfigError> {
        let clear = ring.profile().clear(codec)?;
        Ok(Self {
            ring,
            clear,
            annexb: codec.annexb(),
            held: Mutex::default(),
            frames_and_bytes: PackedCounter::default(),
            counters: EncryptCounters::default(),
        })
    }

    /// See [`KeyRing::next`]. Counts an error.
    #[inline(always)]
    pub(super) fn next(&self) -> Result<SealingKey, EncryptError> {
        self.ring.next().inspect_err(|error| self.count(*error))
    }

    /// See [`KeyRing::next_batch`]. Counts an error.
    pub(super) fn next_batch(
        &self,
        count: usize,
        nonce_inputs: &mut Vec<NonceInput>,
    ) -> Result<BatchKey, EncryptError> {
        self.ring.next_batch(count, nonce_inputs).inspect_err(|error| self.count(*error))
    }

    /// Returns the access unit in its sealable form, with the units held back before it in front. Returns `None` if it
    /// has no slice: it is held back then. Fails if a picture would stay readable, or more than [`MAX_HELD`] bytes are
    /// held.
    pub(super) fn prepare<'a>(
        &self,
        signalled: Standard,
        frame: &'a [u8],
    ) -> Result<Option<Prepared<'a>>, CodecMismatch> {
        let overhead = match self.ring.profile().wire {
            Wire::Footer => footer::OVERHEAD,
            Wire::Trailer | Wire::Sframe => trailer::OVERHEAD,
        };
        let unit = AccessUnit::new(frame, signalled, overhead)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match unit {
            AccessUnit::Sealable(prepared) if held.is_empty() => Ok(Some(prepared)),
            AccessUnit::Sealable(_) => {
                let whole = [mem::take(&mut *held).as_slice(), frame].concat();
                match AccessUnit::new(&whole, signalled, overhead)? {
                    AccessUnit::Sealable(prepared) => Ok(Some(prepared.into_owned())),
                    AccessUnit::Waiting(_) => Err(CodecMismatch),
                }
            }
            AccessUnit::Waiting(units) => {
                if held.len() + units.len() > MAX_HELD {
                    held.clear();
                    return Err(CodecMismatch);
                }
                held.extend_from_slice(&units);
                self.counters.held.add(1);
                Ok(None)
            }
        }
    }

    #[inline(always)]
    pub(super) fn count_sealed(&self, frames: usize, bytes: usize) {
        self.frames_and_bytes.add(frames, bytes);
    }

    /// Counts a frame that is not of the codec, and returns the error for it.
    pub(super) fn codec_mismatch(&self) -> EncryptError {
        self.count(EncryptError::Malformed);
        EncryptError::Malformed
    }

    #[cold]
    pub(super) fn count(&self, error: EncryptError) {
        match error {
            EncryptError::Malformed => self.counters.malformed.add(1),
            EncryptError::UnknownKey { .. } => self.counters.unknown_key.add(1),
            EncryptError::KeyExhausted { .. } => self.counters.key_exhausted.add(1),
            EncryptError::Misuse(_) => {}
        }
    }

    /// Returns a snapshot of the counters, and the usage of the ring's sending key.
    pub(super) fn stats(&self) -> EncryptStats {
        let (frames, bytes) = self.frames_and_bytes.get();
        let stats = EncryptStats { frames, bytes, ..self.counters.snapshot() };
        let ring = self.ring.current();
        match ring.frames_sealed(ring.sending_key_id()) {
            Ok(key_frames) => {
                let (key_limit, key_warning) = (ring.usage_limit(), ring.usage_warning());
                EncryptStats { key_frames, key_limit, key_warning, ..stats }
            }
            Err(_) => stats,
        }
    }
}

impl ReceiverState {
    pub(super) fn new(ring: Arc<KeyRing>, codec: Codec, replay_window: Option<usize>) -> Result<Self, ConfigError> {
        let clear = ring.profile().clear(codec)?;
        let window = replay_window.unwrap_or(ring.profile().replay_window);
        if window > MAX_REPLAY_WINDOW {
            return Err(ConfigError::ReplayWindow { given: window, max: MAX_REPLAY_WINDOW });
        }
        let blank = ring.profile().blank(codec);
        let replay = match ring.profile().wire {
            Wire::Footer => ReplayWindow::counting_ivs(window),
            Wire::Trailer | Wire::Sframe => ReplayWindow::new(window),
        };
        Ok(Self {
            ring,
            clear,
            annexb: codec.annexb(),
            sif: SifFilter::new(blank),
            sender: None,
            replay: (window > 0).then(|| Mutex::new(replay)),
            frames_and_bytes: PackedCounter::default(),
            counters: DecryptCounters::default(),
            failures: AtomicU32::new(0),
            failing: AtomicU64::new(0),
        })
    }

    /// Returns whether a frame that opened with this key may be from the participant whose track this is.
    #[inline(always)]
    pub(super) fn is_of_sender(&self, key: Identity) -> bool {
        self.sender.as_ref().is_none_or(|sender| sender.owns(key, &self.ring))
    }

    /// Returns the identity of the key with this serial, which opened frames ahead of their turn. Returns `None` if they
    /// must be finished one by one: the key id does not name the key any more, or another participant sent them.
    pub(super) fn opener<'r>(&'r self, kid: u64, serial: u64, keys: &mut Option<ReadyKeys<'r>>) -> Option<Identity> {
        let named = keys.get_or_insert_with(|| self.ring.ready_keys()).named(kid)?;
        let identity = named.key.filter(|_| named.serial == serial)?.identity;
        self.is_of_sender(identity).then_some(identity)
    }

    pub(super) fn has_replay_window(&self) -> bool {
        self.replay.is_some()
    }

    pub(super) fn replay(&self) -> Option<MutexGuard<'_, ReplayWindow>> {
        self.replay.as_ref().map(|window| window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[inline(always)]
    pub(super) fn is_replayed(&self, key: Identity, nonce_input: NonceInput) -> bool {
        self.replay().is_some_and(|window| window.contains(key, nonce_input))
    }

    /// Marks an authentic frame as seen. Returns false if another thread has marked the same frame first.
    #[inline(always)]
    pub(super) fn mark(&self, key: Identity, nonce_input: NonceInput) -> bool {
        self.replay().is_none_or(|mut window| window.mark(key, nonce_input))
    }

    #[inline(always)]
    pub(super) fn count_opened(&self, frames: usize, bytes: usize) {
        self.frames_and_bytes.add(frames, bytes);
    }

    pub(super) fn count(&self, error: DecryptError) {
        match error {
            DecryptError::Malformed => self.counters.malformed.add(1),
            DecryptError::UnknownKey { .. } => self.counters.unknown_key.add(1),
            DecryptError::AuthenticationFailed { .. } => self.counters.authentication_failed.add(1),
            DecryptError::Replayed { .. } => self.counters.replayed.add(1),
            DecryptError::SenderMismatch { .. } => self.counters.sender_mismatch.add(1),
            DecryptError::Misuse(_) => {}
        }
    }

    /// Records that a fresh frame opened: ends a run of failures and of SIF frames.
    #[inline(always)]
    pub(super) fn record_success(&self) {
        self.sif.resumed();
        if self.consecutive_failures() != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Records that the key with this serial did not open a frame.
    pub(super) fn record_failure(&self, serial: u64) {
        if self.failing.swap(serial, Ordering::Relaxed) == serial {
            self.failures.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.store(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of consecutive frames that one key failed to open, or 0 after a frame that opened.
    pub(super) fn consecutive_failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns a snapshot of the counters.
    pub(super) fn stats(&self) -> DecryptStats {
        let (frames, bytes) = self.frames_and_bytes.get();
        DecryptStats { frames, bytes, ..self.counters.snapshot() }
    }
}
