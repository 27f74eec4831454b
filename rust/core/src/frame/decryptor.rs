//! One incoming track.
//!
//! Bytes in, parse, find the key, look for a replay, AEAD, mark, bytes out.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::annexb::{self, Standard};
use crate::codec::{Clear, Codec};
use crate::error::{DecryptError, KeyError};
use crate::frame::open::{FrameParts, OpenPlan};
use crate::frame::replay::{self, ReplayWindow};
use crate::frame::server_injected::{self, Injected, InjectionRefused};
use crate::frame::stats::{DecryptCounters, DecryptStats, PackedCounter};
use crate::keyring::KeyRing;
use crate::keyring::key::Identity;
use crate::keyring::nonce::NonceInput;
use crate::keyring::sender_bindings::{BoundSender, SenderBindings};
use crate::wire::envelope::Envelope;
use crate::wire::{Wire, sframe, trailer};

/// Opens the frames of one incoming track.
pub struct Decryptor {
    pub(crate) ring: Arc<KeyRing>,
    clear: Clear,
    /// Where the depacketiser hands over NAL units.
    annexb: Option<Standard>,
    injected: Injected,
    sender: Option<BoundSender>,
    replay: Option<Mutex<ReplayWindow>>,
    frames_and_bytes: PackedCounter,
    pub(crate) counters: DecryptCounters,
    /// Failures in a row, and the key that failed: a new key starts at none.
    failures: AtomicU32,
    failing: AtomicU64,
}

impl Decryptor {
    /// A decryptor that remembers `replay_window` frames; none is the profile's default, 0 is off.
    ///
    /// # Errors
    /// [`KeyError::UnsupportedCodec`], [`KeyError::ReplayWindow`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec, replay_window: Option<usize>) -> Result<Self, KeyError> {
        let clear = ring.profile().clear(codec)?;
        let window = replay_window.unwrap_or(ring.profile().replay_window);
        if window > replay::MAX_REPLAY_WINDOW {
            return Err(KeyError::ReplayWindow { given: window, max: replay::MAX_REPLAY_WINDOW });
        }
        Ok(Self {
            ring,
            clear,
            annexb: codec.annexb(),
            injected: Injected::new(codec),
            sender: None,
            replay: (window > 0).then(|| Mutex::new(ReplayWindow::new(window))),
            frames_and_bytes: PackedCounter::default(),
            counters: DecryptCounters::default(),
            failures: AtomicU32::new(0),
            failing: AtomicU64::new(0),
        })
    }

    /// Lets blank frames pass that a server puts in, in the clear, with this trailer (see [`Self::injected`]).
    ///
    /// # Errors
    /// [`KeyError::ShortTrailer`] below 8 bytes.
    pub fn with_injected(self, trailer: &[u8]) -> Result<Self, KeyError> {
        self.injected.set_trailer(Some(trailer))?;
        Ok(self)
    }

    /// Opens only what this participant sent: see [`SenderBindings`].
    ///
    /// # Errors
    /// [`KeyError::UnsupportedOption`]: the senders of this layout have no keys of their own under one base key.
    pub fn with_sender(mut self, bindings: Arc<SenderBindings>, participant: &str) -> Result<Self, KeyError> {
        let profile = self.ring.profile();
        if profile.wire != Wire::Sframe {
            return Err(KeyError::UnsupportedOption { option: "bindings of keys to senders", profile: profile.name });
        }
        self.sender = Some(BoundSender::new(bindings, participant));
        Ok(self)
    }

    /// Whether a frame that opened with this key may be from the participant whose track this is.
    #[inline(always)]
    pub(crate) fn is_of_sender(&self, key: Identity) -> bool {
        self.sender.as_ref().is_none_or(|sender| sender.owns(key, &self.ring))
    }

    /// Lets blank frames pass from now on that a server puts in with this trailer, or none: at any time, from any thread.
    ///
    /// # Errors
    /// [`KeyError::ShortTrailer`] below 8 bytes; the one before stays then.
    pub fn set_injected(&self, trailer: Option<&[u8]>) -> Result<(), KeyError> {
        self.injected.set_trailer(trailer)
    }

    /// The trailer of the frames that a server puts in, as it was set.
    #[must_use]
    pub fn injected_trailer(&self) -> Option<Vec<u8>> {
        self.injected.trailer()
    }

    /// Returns a frame without the injected ones that a jitter buffer joined to it, since they had the same RTP timestamp.
    /// Frames are passed through this before they are looked at.
    #[must_use]
    #[inline(always)]
    pub fn without_injected<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        self.injected.cut(frame)
    }

    /// As [`Self::without_injected`], and counts what it cuts off.
    #[must_use]
    #[inline(always)]
    pub fn cut_injected<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let rest = self.injected.cut(frame);
        if rest.len() != frame.len() {
            self.counters.injected_cut.add(1);
        }
        rest
    }

    /// Whether a frame of this codec holds a blank one that a server may have put in, with something behind it that may be
    /// a trailer. It is a hint for people: anybody can make such a frame.
    #[must_use]
    pub fn holds_blank(codec: Codec, frame: &[u8]) -> bool {
        server_injected::holds_blank(codec, frame)
    }

    /// The payload of a frame that a server put in: one of few blank ones, of this codec, at most 100 without a sealed
    /// frame between them. It is not authentic: anybody in the room can send it. None: not such a frame, open it.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`]: it has the trailer and nothing else that lets it pass.
    pub fn injected<'a>(&self, sealed: &'a [u8]) -> Result<Option<&'a [u8]>, DecryptError> {
        match self.injected.payload(sealed) {
            None => Ok(None),
            Some(Ok(payload)) => {
                self.counters.injected.add(1);
                Ok(Some(payload))
            }
            Some(Err(InjectionRefused)) => {
                self.counters.injected_refused.add(1);
                Err(DecryptError::Malformed)
            }
        }
    }

    /// Whether there may be frames that [`Self::injected`] lets pass.
    pub(crate) fn may_be_injected(&self) -> bool {
        self.injected.is_enabled()
    }

    /// Whether [`Self::injected`] decides about a frame, and not the ring.
    pub(crate) fn is_injected(&self, sealed: &[u8]) -> bool {
        self.injected.ends_with_trailer(sealed)
    }

    /// How many injected frames have passed.
    #[must_use]
    pub fn injected_so_far(&self) -> u64 {
        self.counters.injected.get()
    }

    /// Opens one frame. In the trailer layout an empty frame stays empty; in SFrame it is malformed.
    ///
    /// # Errors
    /// [`DecryptError`]; nothing of the frame may reach a decoder then.
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let sealed = self.cut_injected(sealed);
        if let Some(payload) = self.injected(sealed)? {
            return Ok(payload.to_vec());
        }
        let Some(plan) = self.plan(sealed, &[])? else { return Ok(Vec::new()) };
        let mut frame = vec![0; plan.frame_len()];
        plan.open_into(&mut frame)?;
        Ok(frame)
    }

    /// Parses a frame. Returns `None` for an empty frame of the trailer layout. `metadata` is what the sender gave with it.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`].
    pub fn plan<'a>(&'a self, sealed: &'a [u8], metadata: &'a [u8]) -> Result<Option<OpenPlan<'a>>, DecryptError> {
        if sealed.is_empty() && self.passes_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        self.parse(sealed, metadata).map(Some).inspect_err(|error| self.count(*error))
    }

    /// As [`Self::plan`], for a caller who is done with the plan when `open` returns: it is used where it stands, since
    /// moving it costs as much as a lock.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`].
    #[inline(always)]
    pub fn with_plan<'a, R>(
        &'a self,
        sealed: &'a [u8],
        metadata: &'a [u8],
        open: impl FnOnce(&OpenPlan<'a>) -> R,
    ) -> Result<Option<R>, DecryptError> {
        if sealed.is_empty() && self.passes_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        match &self.parse(sealed, metadata) {
            Ok(plan) => Ok(Some(open(plan))),
            Err(error) => {
                self.count(*error);
                Err(*error)
            }
        }
    }

    /// Whether the layout has no sealed form of an empty frame, so that one passes as it is.
    #[inline(always)]
    fn passes_empty(&self) -> bool {
        self.ring.profile().wire == Wire::Trailer
    }

    #[inline(always)]
    fn parse<'a>(&'a self, sealed: &'a [u8], metadata: &'a [u8]) -> Result<OpenPlan<'a>, DecryptError> {
        let parts = match self.ring.profile().wire {
            Wire::Trailer if metadata.is_empty() => self.parse_trailer(sealed),
            Wire::Trailer => None,
            Wire::Sframe => self.parse_sframe(sealed, metadata),
        };
        Ok(OpenPlan { decryptor: self, parts: parts.ok_or(DecryptError::Malformed)? })
    }

    #[inline(always)]
    fn parse_trailer<'a>(&self, sealed: &'a [u8]) -> Option<FrameParts<'a>> {
        let (clear_len, escaped) = self.clear.read(sealed);
        let (clear, tail) = sealed.split_at_checked(clear_len)?;
        let body = if escaped { annexb::unescape(tail) } else { Cow::Borrowed(tail) };
        let trailer::TrailerParts { ciphertext, tag, iv, key_index } = trailer::parse(&body)?;
        let (from, to) = (ciphertext.len(), ciphertext.len() + tag.len());
        Some(FrameParts {
            clear,
            aad: Cow::Borrowed(clear),
            body,
            ciphertext: 0..from,
            tag: from..to,
            kid: u64::from(key_index),
            nonce_input: NonceInput::Iv(iv.into()),
        })
    }

    #[inline(always)]
    fn parse_sframe<'a>(&self, sealed: &'a [u8], metadata: &'a [u8]) -> Option<FrameParts<'a>> {
        let body = match self.annexb {
            Some(standard) => annexb::unescape(Envelope::open(standard, sealed)?),
            None => Cow::Borrowed(sealed),
        };
        let sframe::SframeParts { header, head, tag, .. } = sframe::parse(&body, self.ring.suite().tag_len)?;
        let (from, to) = (head.len(), body.len() - tag.len());
        let aad = match sealed.get(..from) {
            // As it stands in the frame, which no envelope hides: nothing to join, nothing to allocate.
            Some(head) if metadata.is_empty() && self.annexb.is_none() => Cow::Borrowed(head),
            _ => Cow::Owned([head, metadata].concat()),
        };
        Some(FrameParts {
            clear: &[],
            aad,
            ciphertext: from..to,
            tag: to..body.len(),
            kid: header.kid,
            nonce_input: NonceInput::Ctr(header.ctr),
            body,
        })
    }

    /// How many frames in a row one key has failed to open: 0 after a frame that opened.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Returns the length that a sealed frame may have at the most once it is open.
    pub(crate) fn max_opened_len(&self, sealed: &[u8]) -> usize {
        let min_overhead = match self.ring.profile().wire {
            Wire::Trailer => trailer::OVERHEAD,
            Wire::Sframe => 1 + self.ring.suite().tag_len,
        };
        sealed.len().saturating_sub(min_overhead)
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> DecryptStats {
        let (frames, bytes) = self.frames_and_bytes.get();
        DecryptStats { frames, bytes, ..self.counters.snapshot() }
    }

    #[inline(always)]
    pub(crate) fn count_opened(&self, frames: usize, bytes: usize) {
        self.frames_and_bytes.add(frames, bytes);
    }

    pub(crate) fn replay(&self) -> Option<MutexGuard<'_, ReplayWindow>> {
        self.replay.as_ref().map(|window| window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn count(&self, error: DecryptError) {
        match error {
            DecryptError::Malformed => self.counters.malformed.add(1),
            DecryptError::UnknownKey { .. } => self.counters.unknown_key.add(1),
            DecryptError::AuthenticationFailed { .. } => self.counters.authentication_failed.add(1),
            DecryptError::Replayed { .. } => self.counters.replayed.add(1),
            DecryptError::SenderMismatch { .. } => self.counters.sender_mismatch.add(1),
        }
    }

    /// A frame opened that is new.
    #[inline(always)]
    pub(crate) fn record_success(&self) {
        self.injected.resumed();
        if self.consecutive_failures() != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn record_failure(&self, serial: u64) {
        if self.failing.swap(serial, Ordering::Relaxed) == serial {
            self.failures.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.store(1, Ordering::Relaxed);
        }
    }
}
