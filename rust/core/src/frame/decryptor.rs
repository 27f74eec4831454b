//! Opens the frames of one incoming track.
//!
//! Each frame is parsed, and its key looked up. It is checked for a replay, opened by the AEAD, marked as seen, and
//! written.

use std::sync::Arc;

use super::open::OpenPlan;
use super::server_injected::{self, SifRefused};
use super::state::ReceiverState;
use super::stats::DecryptStats;
use crate::codec::Codec;
use crate::error::{ConfigError, DecryptError};
use crate::keyring::{BoundSender, KeyRing, SenderBindings};
use crate::profile::Profile;
use crate::wire::{Wire, footer, trailer};

/// Opens the frames of one incoming track.
pub struct Decryptor {
    pub(super) state: ReceiverState,
}

impl Decryptor {
    /// Returns a decryptor for one track, with a replay window of `replay_window` frames. `None` selects the profile's
    /// default; 0 turns the window off.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedCodec`] if the profile does not support the codec; [`ConfigError::ReplayWindow`] if
    /// the window exceeds the maximum of 65,536 frames.
    pub fn new(ring: Arc<KeyRing>, codec: Codec, replay_window: Option<usize>) -> Result<Self, ConfigError> {
        Ok(Self { state: ReceiverState::new(ring, codec, replay_window)? })
    }

    /// Passes SIF frames (server-injected frames) that end in this trailer: see [`Self::sif_payload`].
    ///
    /// # Errors
    /// [`ConfigError::ShortTrailer`] for fewer than 8 bytes.
    pub fn with_sif_trailer(self, trailer: &[u8]) -> Result<Self, ConfigError> {
        self.state.sif.set_trailer(Some(trailer))?;
        Ok(self)
    }

    /// Opens only frames that this participant sent: see [`SenderBindings`].
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedOption`] in a trailer profile, where all senders under one base key have the same key.
    pub fn with_sender(mut self, bindings: Arc<SenderBindings>, participant: &str) -> Result<Self, ConfigError> {
        let profile = self.state.ring.profile();
        if profile.wire != Wire::Sframe {
            return Err(ConfigError::UnsupportedOption { option: "senders", profile: profile.name });
        }
        self.state.sender = Some(BoundSender::new(bindings, participant));
        Ok(self)
    }

    /// Passes SIF frames that end in this trailer from now on. `None` passes no SIF frames. May be called at any time,
    /// from any thread.
    ///
    /// # Errors
    /// [`ConfigError::ShortTrailer`] for fewer than 8 bytes. The previous trailer stays set then.
    pub fn set_sif_trailer(&self, trailer: Option<&[u8]>) -> Result<(), ConfigError> {
        self.state.sif.set_trailer(trailer)
    }

    /// Returns the trailer of SIF frames, or `None` if none is set.
    #[must_use]
    pub fn sif_trailer(&self) -> Option<Vec<u8>> {
        self.state.sif.trailer()
    }

    /// Returns a frame without the SIF frames that a jitter buffer joined to it. They have the same RTP timestamp. Call
    /// this before [`Self::sif_payload`] and [`Self::plan`].
    #[must_use]
    #[inline(always)]
    pub fn without_sif_frames<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        self.state.sif.cut(frame)
    }

    /// Cuts SIF frames off as [`Self::without_sif_frames`] does, and counts the frames from which it cut any.
    #[must_use]
    #[inline(always)]
    pub fn cut_sif_frames<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let rest = self.state.sif.cut(frame);
        if rest.len() != frame.len() {
            self.state.counters.sif_frames_cut.add(1);
        }
        rest
    }

    /// Returns whether a frame contains a blank frame, and behind it bytes that may be a trailer. A blank frame is a
    /// frame of the codec that a server of this profile injects. The result is a hint for people, because anybody can
    /// forge a blank frame.
    #[must_use]
    pub fn holds_blank(profile: &Profile, codec: Codec, frame: &[u8]) -> bool {
        profile.blank(codec).is_some_and(|blank| server_injected::holds_blank(blank, frame))
    }

    /// Returns the payload of a SIF frame. Returns `None` if the frame does not end in the trailer and must be opened.
    ///
    /// A SIF frame passes if its payload is a known blank frame of the track's codec. At most 100 pass without a sealed
    /// frame between them. A SIF frame is not authentic: anybody in the room can send it.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`] if the frame ends in the trailer, but its payload is not blank or the limit is
    /// reached.
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

    /// Returns whether a trailer is set, so that SIF frames can pass.
    pub(super) fn expects_sif_frames(&self) -> bool {
        self.state.sif.is_enabled()
    }

    /// Returns whether a frame ends in the trailer, so that [`Self::sif_payload`] decides about it and not the ring.
    pub(super) fn is_sif_frame(&self, sealed: &[u8]) -> bool {
        self.state.sif.ends_with_trailer(sealed)
    }

    /// Returns the number of SIF frames that have passed.
    #[must_use]
    pub fn sif_frames(&self) -> u64 {
        self.state.counters.sif_frames.get()
    }

    /// Opens one frame. In the trailer layout an empty frame stays empty; in SFrame it is malformed.
    ///
    /// # Errors
    /// [`DecryptError`]. No part of the frame may reach a decoder then.
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

    /// Parses a frame. Returns `None` for an empty frame of the trailer layout, which stays empty. `metadata` (SFrame
    /// only) must be the bytes that the sender passed.
    ///
    /// # Errors
    /// [`DecryptError::Malformed`] if the frame is not of the profile's layout;
    /// [`ApiMisuse::Metadata`](crate::ApiMisuse::Metadata) for metadata in a trailer profile.
    pub fn plan<'a>(&'a self, sealed: &'a [u8], metadata: &'a [u8]) -> Result<Option<OpenPlan<'a>>, DecryptError> {
        if sealed.is_empty() && self.passes_empty() {
            self.state.counters.empty.add(1);
            return Ok(None);
        }
        OpenPlan::parse(&self.state, sealed, metadata).map(Some).inspect_err(|error| self.state.count(*error))
    }

    /// Parses a frame as [`Self::plan`] does and passes the plan to `open` by reference: moving it costs as much as a
    /// lock. Returns `None`, without a call of `open`, for an empty frame of the trailer layout.
    ///
    /// # Errors
    /// As [`Self::plan`].
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

    /// Returns whether an empty frame passes unchanged: the trailer layout has no sealed form of it.
    #[inline(always)]
    fn passes_empty(&self) -> bool {
        self.state.ring.profile().wire != Wire::Sframe
    }

    /// Returns the key id that a sealed frame names, even if SIF frames are joined to it. Returns `None` if the bytes
    /// are no sealed frame of the profile. Looks no key up and counts nothing: the id is not authenticated.
    #[must_use]
    pub fn key_id_of(&self, frame: &[u8]) -> Option<u64> {
        OpenPlan::parse(&self.state, self.without_sif_frames(frame), &[]).ok().map(|plan| plan.parts.kid)
    }

    /// Returns the number of consecutive frames that one key failed to open, or 0 after a frame that opened.
    #[must_use]
    pub fn consecutive_failures(&self) -> u32 {
        self.state.consecutive_failures()
    }

    /// Returns the maximum length of a sealed frame once it is open.
    pub(super) fn max_opened_len(&self, sealed: &[u8]) -> usize {
        let min_overhead = match self.state.ring.profile().wire {
            Wire::Trailer => trailer::OVERHEAD,
            Wire::Footer => footer::OVERHEAD,
            Wire::Sframe => 1 + self.state.ring.suite().tag_len,
        };
        sealed.len().saturating_sub(min_overhead)
    }

    /// Returns whether the profile authenticates metadata: SFrame does, the trailer profiles do not.
    #[must_use]
    pub fn authenticates_metadata(&self) -> bool {
        self.state.ring.profile().wire == Wire::Sframe
    }

    /// Returns a snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> DecryptStats {
        self.state.stats()
    }
}
