//! One incoming track.
//!
//! Bytes in, parse, find the key, look for a replay, AEAD, mark, bytes out.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::annexb::{self, Standard};
use crate::codec::{Clear, Codec};
use crate::error::{DecryptError, KeyError};
use crate::injected::{Injected, Refused};
use crate::key::Key;
use crate::keyring::{Found, KeyRing, Opened};
use crate::nonce::Unique;
use crate::replay::{self, ReplayWindow};
use crate::stats::{DecryptCounters, DecryptStats};
use crate::wire::envelope::Envelope;
use crate::wire::{Wire, sframe, trailer};

/// Opens the frames of one incoming track.
pub struct Decryptor {
    ring: Arc<KeyRing>,
    codec: Codec,
    clear: Clear,
    /// Where the depacketiser hands over NAL units.
    annexb: Option<Standard>,
    injected: Option<Injected>,
    replay: Option<Mutex<ReplayWindow>>,
    counters: DecryptCounters,
    /// Failures in a row, and the key that failed: a new key starts at none.
    failures: AtomicU32,
    failing: AtomicU64,
}

/// Where the parts of a frame lie, before any key is looked at.
struct Parts<'a> {
    /// What stands in front of the opened frame as it is.
    clear: &'a [u8],
    aad: Cow<'a, [u8]>,
    /// The sealed part without escapes; ciphertext and tag lie in it.
    body: Cow<'a, [u8]>,
    ciphertext: Range<usize>,
    tag: Range<usize>,
    kid: u64,
    unique: Unique,
}

/// A parsed frame whose key is at hand.
pub struct OpenPlan<'a> {
    decryptor: &'a Decryptor,
    parts: Parts<'a>,
    found: Found,
}

/// A frame that has authenticated, and may have been opened before.
pub(crate) struct Unsettled(Opened);

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
            annexb: codec.annexb(),
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
        let Some(plan) = self.plan(sealed, &[])? else { return Ok(Vec::new()) };
        let mut frame = vec![0; plan.frame_len()];
        plan.open_into(&mut frame)?;
        Ok(frame)
    }

    /// Parses a frame and finds its key. None: an empty frame. `metadata` is what the sender gave with it.
    ///
    /// # Errors
    /// [`DecryptError`].
    #[inline(always)]
    pub fn plan<'a>(&'a self, sealed: &'a [u8], metadata: &'a [u8]) -> Result<Option<OpenPlan<'a>>, DecryptError> {
        if sealed.is_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        match self.find(sealed, metadata) {
            Ok(plan) => Ok(Some(plan)),
            Err(error) => {
                self.count(error);
                Err(error)
            }
        }
    }

    /// As [`Self::plan`], for a caller who is done with the plan when `open` returns: it is used where it stands, since
    /// moving it costs as much as a lock.
    ///
    /// # Errors
    /// [`DecryptError`].
    #[inline(always)]
    pub fn with_plan<'a, R>(
        &'a self,
        sealed: &'a [u8],
        metadata: &'a [u8],
        open: impl FnOnce(&OpenPlan<'a>) -> R,
    ) -> Result<Option<R>, DecryptError> {
        if sealed.is_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        match &self.find(sealed, metadata) {
            Ok(plan) => Ok(Some(open(plan))),
            Err(error) => {
                self.count(*error);
                Err(*error)
            }
        }
    }

    #[inline(always)]
    fn find<'a>(&'a self, sealed: &'a [u8], metadata: &'a [u8]) -> Result<OpenPlan<'a>, DecryptError> {
        let parts = match self.ring.profile().wire {
            Wire::Trailer if metadata.is_empty() => self.parse_trailer(sealed),
            Wire::Trailer => None,
            Wire::Sframe => self.parse_sframe(sealed, metadata),
        }
        .ok_or(DecryptError::Malformed)?;
        let found = self.ring.find(parts.kid)?;
        if self.replay().is_some_and(|window| window.has((found.origin, parts.kid), parts.unique)) {
            return Err(DecryptError::Replayed { kid: parts.kid });
        }
        Ok(OpenPlan { decryptor: self, parts, found })
    }

    #[inline(always)]
    fn parse_trailer<'a>(&self, sealed: &'a [u8]) -> Option<Parts<'a>> {
        let (clear_len, escaped) = self.clear.read(sealed);
        let (clear, tail) = sealed.split_at_checked(clear_len)?;
        let body = if escaped { annexb::unescape(tail) } else { Cow::Borrowed(tail) };
        let trailer::Sealed { ciphertext, tag, iv, key_index } = trailer::parse(&body)?;
        let (from, to) = (ciphertext.len(), ciphertext.len() + tag.len());
        Some(Parts {
            clear,
            aad: Cow::Borrowed(clear),
            body,
            ciphertext: 0..from,
            tag: from..to,
            kid: u64::from(key_index),
            unique: Unique::Iv(iv),
        })
    }

    #[inline(always)]
    fn parse_sframe<'a>(&self, sealed: &'a [u8], metadata: &'a [u8]) -> Option<Parts<'a>> {
        let body = match self.annexb {
            Some(standard) => annexb::unescape(Envelope::open(standard, sealed)?),
            None => Cow::Borrowed(sealed),
        };
        let sframe::Sealed { header, head, tag, .. } = sframe::parse(&body, self.ring.suite().tag_len)?;
        let (from, to) = (head.len(), body.len() - tag.len());
        let aad = match sealed.get(..from) {
            // As it stands in the frame, which no envelope hides: nothing to join, nothing to allocate.
            Some(head) if metadata.is_empty() && self.annexb.is_none() => Cow::Borrowed(head),
            _ => Cow::Owned([head, metadata].concat()),
        };
        Some(Parts {
            clear: &[],
            aad,
            ciphertext: from..to,
            tag: to..body.len(),
            kid: header.kid,
            unique: Unique::Ctr(header.ctr),
            body,
        })
    }

    /// How many frames in a row one key has failed to open: 0 after a frame that opened.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What a frame that opens was longer by at the least.
    pub(crate) fn least_overhead(&self) -> usize {
        match self.ring.profile().wire {
            Wire::Trailer => trailer::OVERHEAD,
            Wire::Sframe => 1 + self.ring.suite().tag_len,
        }
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> DecryptStats {
        self.counters.snapshot()
    }

    #[inline(always)]
    pub(crate) fn count_opened(&self, frames: usize, bytes: usize) {
        self.counters.frames.add(frames);
        self.counters.bytes.add(bytes);
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

    fn failed(&self, serial: u64) {
        if self.failing.swap(serial, Ordering::Relaxed) == serial {
            self.failures.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.store(1, Ordering::Relaxed);
        }
    }
}

impl OpenPlan<'_> {
    /// Bytes that [`Self::open_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        self.parts.clear.len() + self.parts.ciphertext.len()
    }

    /// Writes the opened frame, or clears `out` and says why not.
    ///
    /// # Errors
    /// [`DecryptError`].
    #[inline(always)]
    pub fn open_into(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let result = self.settle(self.open_unsettled(out));
        match result {
            Ok(()) => self.decryptor.count_opened(1, out.len()),
            Err(_) => out.fill(0),
        }
        result
    }

    /// Writes the opened frame, of which it is not known yet whether it was opened before.
    #[inline(always)]
    pub(crate) fn open_unsettled(&self, out: &mut [u8]) -> Result<Unsettled, DecryptError> {
        let Parts { clear, aad, body, ciphertext, tag, kid, unique } = &self.parts;
        let (Some(ciphertext), Some(tag)) = (body.get(ciphertext.clone()), body.get(tag.clone())) else {
            return Err(DecryptError::Malformed);
        };
        let (clear_place, plaintext) = out.split_at_mut_checked(clear.len()).ok_or(DecryptError::Malformed)?;
        let opens = |key: &Key| key.aead.open(key.nonce(*unique), aad, ciphertext, tag, plaintext).is_ok();
        let Some(opened) = self.decryptor.ring.open(*kid, &self.found, opens) else {
            return Err(DecryptError::AuthenticationFailed { kid: *kid });
        };
        clear_place.copy_from_slice(clear);
        Ok(Unsettled(opened))
    }

    /// In a batch a frame is planned before those in front of it are marked. Where it does not open, it gets the answer of
    /// a single call: a frame that was seen is refused as that, forged or not.
    #[cold]
    fn replayed_by_now(&self) -> Option<DecryptError> {
        let Parts { kid, unique, .. } = &self.parts;
        let seen = self.decryptor.replay().is_some_and(|window| window.has((self.found.origin, *kid), *unique));
        seen.then_some(DecryptError::Replayed { kid: *kid })
    }

    /// Marks an opened frame as seen, or counts why there is none: the caller counts those that opened. The frames of a
    /// track are settled in order.
    #[inline(always)]
    pub(crate) fn settle(&self, opened: Result<Unsettled, DecryptError>) -> Result<(), DecryptError> {
        let (decryptor, Parts { kid, unique, .. }) = (self.decryptor, &self.parts);
        let result = opened.map_err(|error| self.replayed_by_now().unwrap_or(error)).and_then(|Unsettled(opened)| {
            if opened.steps > 0 {
                decryptor.counters.ratchets.add(opened.steps);
            }
            if decryptor.replay().is_some_and(|mut window| !window.mark((opened.origin, *kid), *unique)) {
                return Err(DecryptError::Replayed { kid: *kid });
            }
            Ok(())
        });
        match result {
            Ok(()) => {
                if let Some(injected) = &decryptor.injected {
                    injected.resumed();
                }
                if decryptor.consecutive_failures() != 0 {
                    decryptor.failures.store(0, Ordering::Relaxed);
                }
            }
            Err(error) => {
                if let DecryptError::AuthenticationFailed { .. } = error {
                    decryptor.failed(self.found.serial);
                }
                decryptor.count(error);
            }
        }
        result
    }
}
