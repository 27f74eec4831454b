//! One incoming track.
//!
//! Bytes in, parse, find the key, look for a replay, AEAD, mark, bytes out.

use std::sync::Arc;

use super::open::OpenPlan;
use super::server_injected::{self, SifRefused};
use super::state::ReceiverState;
use super::stats::DecryptStats;
use crate::codec::Codec;
use crate::error::{ConfigError, DecryptError};
use crate::keyring::{BoundSender, KeyRing, SenderBindings};
use crate::profile::Profile;
use crate::wire::{Wire, trailer};

/// Opens the frames of one incoming track.
pub struct Decryptor {
    pub(super) state: ReceiverState,
}

impl Decryptor {
    /// A decryptor that remembers `replay_window` frames; none is the profile's default, 0 is off.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedCodec`], [`ConfigError::ReplayWindow`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec, replay_window: Option<usize>) -> Result<Self, ConfigError> {
        Ok(Self { state: ReceiverState::new(ring, codec, replay_window)? })
    }

    /// Lets blank frames pass that a server puts in, in the clear, with this trailer (see [`Self::sif_payload`]).
    ///
    /// # Errors
    /// [`ConfigError::ShortTrailer`] below 8 bytes.
    pub fn with_sif_trailer(self, trailer: &[u8]) -> Result<Self, ConfigError> {
        self.state.sif.set_trailer(Some(trailer))?;
        Ok(self)
    }

    /// Opens only what this participant sent: see [`SenderBindings`].
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedOption`]: the senders of this layout have no keys of their own under one base key.
    pub fn with_sender(mut self, bindings: Arc<SenderBindings>, participant: &str) -> Result<Self, ConfigError> {
        let profile = self.state.ring.profile();
        if profile.wire != Wire::Sframe {
            return Err(ConfigError::UnsupportedOption { option: "senders", profile: profile.name });
        }
        self.state.sender = Some(BoundSender::new(bindings, participant));
        Ok(self)
    }

    /// Lets blank frames pass from now on that a server puts in with this trailer, or none: at any time, from any thread.
    ///
    /// # Errors
    /// [`ConfigError::ShortTrailer`] below 8 bytes; the one before stays then.
    pub fn set_sif_trailer(&self, trailer: Option<&[u8]>) -> Result<(), ConfigError> {
        self.state.sif.set_trailer(trailer)
    }

    /// The trailer of the frames that a server puts in, as it was set.
    #[must_use]
    pub fn sif_trailer(&self) -> Option<Vec<u8>> {
        self.state.sif.trailer()
    }

    /// Returns a frame without the SIF frames that a jitter buffer joined to it, since they had the same RTP timestamp.
    /// Frames are passed through this before they are looked at.
    #[must_use]
    #[inline(always)]
    pub fn without_sif_frames<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        self.state.sif.cut(frame)
    }

    /// As [`Self::without_sif_frames`], and counts what it cuts off.
    #[must_use]
    #[inline(always)]
    pub fn cut_sif_frames<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let rest = self.state.sif.cut(frame);
        if rest.len() != frame.len() {
            self.state.counters.sif_frames_cut.add(1);
        }
        rest
    }

    /// Whether a frame contains a blank frame of its codec that a server of this profile injects, and behind it bytes that
    /// may be a trailer. It is a hint for people: anybody can make such a frame.
    #[must_use]
    pub fn holds_blank(profile: &Profile, codec: Codec, frame: &[u8]) -> bool {
        profile.blank(codec).is_some_and(|blank| server_injected::holds_blank(blank, frame))
    }

    /// The payload of a frame that a server put in: one of few blank ones, of this codec, at most 100 without a sealed
    /// frame between them. It is not authentic: anybody in the room can send it. None: not such a frame, open it.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`]: it has the trailer and nothing else that lets it pass.
    pub fn sif_payload<'a>(&self, sealed: &'a [u8]) -> Result<Option<&'a [u8]>, DecryptError> {
        match self.state.sif.payload(sealed) {
            None => Ok(None),
            Some(Ok(payload)) => {
                self.state.counters.sif_frames.add(1);
                Ok(Some(payload))
            }
            Some(Err(SifRefused)) => {
                self.state.counters.sif_frames_refused.add(1);
                Err(DecryptError::Malformed)
            }
        }
    }

    /// Whether there may be frames that [`Self::sif_payload`] lets pass.
    pub(super) fn expects_sif_frames(&self) -> bool {
        self.state.sif.is_enabled()
    }

    /// Whether [`Self::sif_payload`] decides about a frame, and not the ring.
    pub(super) fn is_sif_frame(&self, sealed: &[u8]) -> bool {
        self.state.sif.ends_with_trailer(sealed)
    }

    /// Returns how many SIF frames have passed.
    #[must_use]
    pub fn sif_frames(&self) -> u64 {
        self.state.counters.sif_frames.get()
    }

    /// Opens one frame. In the trailer layout an empty frame stays empty; in SFrame it is malformed.
    ///
    /// # Errors
    /// [`DecryptError`]; nothing of the frame may reach a decoder then.
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let sealed = self.cut_sif_frames(sealed);
        if let Some(payload) = self.sif_payload(sealed)? {
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
            self.state.counters.empty.add(1);
            return Ok(None);
        }
        OpenPlan::parse(&self.state, sealed, metadata).map(Some).inspect_err(|error| self.state.count(*error))
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
            self.state.counters.empty.add(1);
            return Ok(None);
        }
        match &OpenPlan::parse(&self.state, sealed, metadata) {
            Ok(plan) => Ok(Some(open(plan))),
            Err(error) => {
                self.state.count(*error);
                Err(*error)
            }
        }
    }

    /// Whether the layout has no sealed form of an empty frame, so that one passes as it is.
    #[inline(always)]
    fn passes_empty(&self) -> bool {
        self.state.ring.profile().wire == Wire::Trailer
    }

    /// How many frames in a row one key has failed to open: 0 after a frame that opened.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.state.consecutive_failures()
    }

    /// Returns the length that a sealed frame may have at the most once it is open.
    pub(super) fn max_opened_len(&self, sealed: &[u8]) -> usize {
        let min_overhead = match self.state.ring.profile().wire {
            Wire::Trailer => trailer::OVERHEAD,
            Wire::Sframe => 1 + self.state.ring.suite().tag_len,
        };
        sealed.len().saturating_sub(min_overhead)
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.state.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> DecryptStats {
        self.state.stats()
    }
}
