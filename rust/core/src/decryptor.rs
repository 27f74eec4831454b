//! One incoming track.
//!
//! Bytes in, parse, find the key, look for a replay, AEAD, mark, bytes out.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::annexb;
use crate::codec::{Clear, Codec};
use crate::error::{DecryptError, KeyError};
use crate::injected::{Injected, Refused};
use crate::keyring::{Key, KeyRing};
use crate::replay::{self, ReplayWindow};
use crate::stats::{DecryptCounters, DecryptStats};
use crate::suite::NONCE_LEN;
use crate::wire::trailer;

/// Opens the frames of one incoming track.
pub struct Decryptor {
    ring: Arc<KeyRing>,
    codec: Codec,
    clear: Clear,
    injected: Option<Injected>,
    replay: Option<Mutex<ReplayWindow>>,
    counters: DecryptCounters,
    /// Failures in a row, and the key that failed: a new key starts at none.
    failures: AtomicU32,
    failing: AtomicU64,
}

/// A parsed frame whose key is at hand.
pub struct OpenPlan<'a> {
    decryptor: &'a Decryptor,
    clear: &'a [u8],
    tail: Cow<'a, [u8]>,
    key: Arc<Key>,
    kid: u64,
    nonce: [u8; NONCE_LEN],
}

impl Decryptor {
    /// A decryptor that remembers `replay_window` frames; none is the profile's default, 0 is off.
    ///
    /// # Errors
    /// [`KeyError::UnsupportedCodec`], [`KeyError::ReplayWindow`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec, replay_window: Option<usize>) -> Result<Self, KeyError> {
        let clear = ring.profile().clear(codec)?;
        let window = replay_window.unwrap_or(ring.profile().replay_window);
        if window > replay::MOST {
            return Err(KeyError::ReplayWindow { given: window, most: replay::MOST });
        }
        Ok(Self {
            ring,
            codec,
            clear,
            injected: None,
            replay: (window > 0).then(|| Mutex::new(ReplayWindow::new(window))),
            counters: DecryptCounters::default(),
            failures: AtomicU32::new(0),
            failing: AtomicU64::new(0),
        })
    }

    /// Lets blank frames pass that a server puts in, in the clear, with this trailer (see [`Self::injected`]).
    ///
    /// # Errors
    /// [`KeyError::ShortTrailer`] below 8 bytes.
    pub fn with_injected(mut self, trailer: &[u8]) -> Result<Self, KeyError> {
        self.injected = Some(Injected::new(self.codec, trailer)?);
        Ok(self)
    }

    /// The payload of a frame that a server put in: one of few blank ones, of this codec, at most 100 without a sealed
    /// frame between them. It is not authentic: anybody in the room can send it. None: not such a frame, open it.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`]: it has the trailer and nothing else that lets it pass.
    pub fn injected<'a>(&self, sealed: &'a [u8]) -> Result<Option<&'a [u8]>, DecryptError> {
        match self.injected.as_ref().and_then(|injected| injected.payload(sealed)) {
            None => Ok(None),
            Some(Ok(payload)) => {
                self.counters.injected.add(1);
                Ok(Some(payload))
            }
            Some(Err(Refused)) => {
                self.counters.injected_refused.add(1);
                Err(DecryptError::Malformed)
            }
        }
    }

    /// How many injected frames have passed.
    #[must_use]
    pub fn injected_so_far(&self) -> u64 {
        self.counters.injected.get()
    }

    /// Opens one frame. An empty frame stays empty.
    ///
    /// # Errors
    /// [`DecryptError`]; nothing of the frame may reach a decoder then.
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
        if let Some(payload) = self.injected(sealed)? {
            return Ok(payload.to_vec());
        }
        let Some(plan) = self.plan(sealed)? else { return Ok(Vec::new()) };
        let mut frame = vec![0; plan.frame_len()];
        plan.open_into(&mut frame)?;
        Ok(frame)
    }

    /// Parses a frame and finds its key. None: an empty frame.
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn plan<'a>(&'a self, sealed: &'a [u8]) -> Result<Option<OpenPlan<'a>>, DecryptError> {
        if sealed.is_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        self.parse(sealed).map(Some).inspect_err(|error| self.count(*error))
    }

    fn parse<'a>(&'a self, sealed: &'a [u8]) -> Result<OpenPlan<'a>, DecryptError> {
        let (clear_len, escaped) = self.clear.read(sealed);
        let (clear, tail) = sealed.split_at_checked(clear_len).ok_or(DecryptError::Malformed)?;
        let tail = if escaped { annexb::unescape(tail) } else { Cow::Borrowed(tail) };
        let parts = trailer::parse(&tail).ok_or(DecryptError::Malformed)?;
        let (kid, nonce) = (u64::from(parts.key_index), parts.iv);
        let key = self.ring.find(kid)?;
        if self.replay().is_some_and(|window| window.has(kid, &nonce)) {
            return Err(DecryptError::Replayed { kid });
        }
        Ok(OpenPlan { decryptor: self, clear, tail, key, kid, nonce })
    }

    /// How many frames in a row one key has failed to open: 0 after a frame that opened.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> DecryptStats {
        self.counters.snapshot()
    }

    fn replay(&self) -> Option<MutexGuard<'_, ReplayWindow>> {
        self.replay.as_ref().map(|window| window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self, error: DecryptError) {
        match error {
            DecryptError::Malformed => self.counters.malformed.add(1),
            DecryptError::UnknownKey { .. } => self.counters.unknown_key.add(1),
            DecryptError::AuthenticationFailed { .. } => self.counters.authentication_failed.add(1),
            DecryptError::Replayed { .. } => self.counters.replayed.add(1),
        }
    }

    fn failed(&self, key: &Key) {
        if self.failing.swap(key.serial, Ordering::Relaxed) == key.serial {
            self.failures.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.store(1, Ordering::Relaxed);
        }
    }
}

impl OpenPlan<'_> {
    /// Bytes that [`Self::open_into`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.clear.len() + self.tail.len() - trailer::OVERHEAD
    }

    /// Writes the opened frame, or clears `out` and says why not.
    ///
    /// # Errors
    /// [`DecryptError`].
    pub fn open_into(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let result = self.open(out);
        let decryptor = self.decryptor;
        match result {
            Ok(()) => {
                decryptor.counters.frames.add(1);
                decryptor.counters.bytes.add(out.len());
                if let Some(injected) = &decryptor.injected {
                    injected.resumed();
                }
                if decryptor.consecutive_failures() != 0 {
                    decryptor.failures.store(0, Ordering::Relaxed);
                }
            }
            Err(error) => {
                out.fill(0);
                decryptor.count(error);
            }
        }
        result
    }

    fn open(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let kid = self.kid;
        let parts = trailer::parse(&self.tail).ok_or(DecryptError::Malformed)?;
        let (clear, plaintext) = out.split_at_mut_checked(self.clear.len()).ok_or(DecryptError::Malformed)?;
        let mut opens =
            |key: &Key| key.aead.open(self.nonce, self.clear, parts.ciphertext, parts.tag, plaintext).is_ok();
        if !opens(&self.key) {
            let Some(steps) = self.decryptor.ring.search(kid, &self.key, opens) else {
                self.decryptor.failed(&self.key);
                return Err(DecryptError::AuthenticationFailed { kid });
            };
            self.decryptor.counters.ratchets.add(steps);
        }
        clear.copy_from_slice(self.clear);
        if self.decryptor.replay().is_some_and(|mut window| !window.mark(kid, self.nonce)) {
            return Err(DecryptError::Replayed { kid });
        }
        Ok(())
    }
}
