//! One outgoing track.
//!
//! Bytes in, plan (clear bytes, key, nonce), AEAD, bytes out. A plan knows the exact length of what it will write, so
//! that a caller allocates once.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use crate::codec::annexb::Standard;
use crate::codec::{AccessUnit, Clear, Codec, CodecMismatch, Prepared};
use crate::error::{EncryptError, KeyError};
use crate::frame::seal::{FixedOverhead, Layout, SealPlan};
use crate::frame::stats::{EncryptCounters, EncryptStats, PackedCounter};
use crate::keyring::KeyRing;
use crate::keyring::lookup::{BatchKey, SealingKey};
use crate::keyring::nonce::NonceInput;
use crate::wire::envelope::{Envelope, is_key_frame};
use crate::wire::sframe::Header;
use crate::wire::{Wire, trailer};

/// Bytes of units that may wait for their slice; real parameter sets have some hundred.
const MAX_HELD: usize = 16 * 1024;

/// Seals the frames of one outgoing track.
pub struct Encryptor {
    pub(crate) ring: Arc<KeyRing>,
    clear: Clear,
    /// Where the packetiser looks for NAL units.
    annexb: Option<Standard>,
    /// Access units without a slice, waiting for the next frame (trailer layout, Annex B codecs only).
    held: Mutex<Vec<u8>>,
    frames_and_bytes: PackedCounter,
    pub(crate) counters: EncryptCounters,
}

impl Encryptor {
    /// An encryptor that seals with the ring's sending key, whichever that is when a frame comes.
    ///
    /// # Errors
    /// [`KeyError::UnsupportedCodec`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec) -> Result<Self, KeyError> {
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

    /// Seals one frame. In the trailer layout an empty frame stays empty; in SFrame it is sealed like any other.
    ///
    /// In the trailer layout an H.264 or H.265 access unit without a slice (parameter sets alone) comes out empty too: it
    /// is held back and goes out in front of the next frame, since receivers do not agree on how to open it. There and in
    /// front of a slice nothing is left readable that may carry a picture: an access unit that has such a unit is
    /// malformed.
    ///
    /// # Errors
    /// [`EncryptError`]; nothing of the frame may be sent then.
    pub fn encrypt(&self, frame: &[u8]) -> Result<Vec<u8>, EncryptError> {
        match self.plan(frame, &[])? {
            Some(plan) => plan.seal(),
            None => Ok(Vec::new()),
        }
    }

    /// Looks at a frame, and takes the key and a nonce where only these tell how long it gets. None: there is nothing to
    /// send for it (see [`Self::encrypt`]). `metadata` is authenticated with the frame and not sent: the receiver must
    /// have the same. SFrame only.
    ///
    /// # Errors
    /// [`EncryptError`]; [`EncryptError::Malformed`] too for metadata in a profile that has no place for it.
    #[inline(always)]
    pub fn plan<'a>(&'a self, frame: &'a [u8], metadata: &'a [u8]) -> Result<Option<SealPlan<'a>>, EncryptError> {
        let wire = self.ring.profile().wire;
        if wire == Wire::Trailer && !metadata.is_empty() {
            return Err(EncryptError::Malformed);
        }
        if frame.is_empty() && wire == Wire::Trailer {
            self.counters.empty.add(1);
            return Ok(None);
        }
        let frame = match (self.clear, self.clear.first(frame)) {
            (_, Some(clear_len)) if clear_len <= frame.len() => Prepared::as_it_is(frame, clear_len),
            (Clear::AnnexB(signalled), _) => match self.prepare(signalled, frame) {
                Ok(Some(prepared)) => prepared,
                Ok(None) => return Ok(None),
                Err(CodecMismatch) => return Err(self.codec_mismatch()),
            },
            _ => return Err(self.codec_mismatch()),
        };
        if wire == Wire::Trailer {
            return Ok(Some(SealPlan { encryptor: self, frame, layout: Layout::Trailer, sealing: None }));
        }
        let sealing = self.next()?;
        let NonceInput::Ctr(ctr) = sealing.nonce_input else { return Err(EncryptError::Malformed) };
        let layout = Layout::Sframe {
            header: Header { kid: sealing.kid, ctr },
            metadata,
            envelope: self.annexb.map(|standard| Envelope::new(standard, is_key_frame(standard, &frame.frame))),
        };
        Ok(Some(SealPlan { encryptor: self, frame, layout, sealing: Some(sealing) }))
    }

    /// As [`Self::plan`], and takes the key and a nonce in any layout: where many are planned, in their order.
    #[inline(always)]
    pub(crate) fn plan_keyed<'a>(&'a self, frame: &'a [u8]) -> Result<Option<SealPlan<'a>>, EncryptError> {
        let Some(mut plan) = self.plan(frame, &[])? else { return Ok(None) };
        if plan.sealing.is_none() {
            plan.sealing = Some(self.next()?);
        }
        Ok(Some(plan))
    }

    #[inline(always)]
    pub(crate) fn next(&self) -> Result<SealingKey, EncryptError> {
        self.ring.next().inspect_err(|error| self.count(*error))
    }

    /// See [`KeyRing::next_batch`].
    pub(crate) fn next_batch(
        &self,
        count: usize,
        nonce_inputs: &mut Vec<NonceInput>,
    ) -> Result<BatchKey, EncryptError> {
        self.ring.next_batch(count, nonce_inputs).inspect_err(|error| self.count(*error))
    }

    #[cold]
    pub(crate) fn count(&self, error: EncryptError) {
        match error {
            EncryptError::Malformed => self.counters.malformed.add(1),
            EncryptError::UnknownKey { .. } => self.counters.unknown_key.add(1),
            EncryptError::KeyExhausted { .. } => self.counters.key_exhausted.add(1),
        }
    }

    /// Seals one frame under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`].
    #[cfg(feature = "hazmat")]
    pub fn encrypt_with_iv(&self, frame: &[u8], iv: [u8; 12]) -> Result<Vec<u8>, EncryptError> {
        let Some(mut plan) = self.plan(frame, &[])? else { return Ok(Vec::new()) };
        plan.sealing = Some(SealingKey { nonce_input: NonceInput::Iv(iv.into()), ..self.next()? });
        plan.frame.kept = None;
        plan.seal()
    }

    /// How its frames are sealed, where no packetiser looks into them.
    pub(crate) fn fixed_overhead(&self) -> Option<FixedOverhead> {
        match (self.annexb, self.ring.profile().wire) {
            (Some(_), _) => None,
            (None, Wire::Trailer) => Some(FixedOverhead::Trailer(self.clear)),
            (None, Wire::Sframe) => Some(FixedOverhead::Sframe { tag_len: self.ring.suite().tag_len }),
        }
    }

    /// Counts a frame that is not one of the codec.
    pub(crate) fn codec_mismatch(&self) -> EncryptError {
        self.count(EncryptError::Malformed);
        EncryptError::Malformed
    }

    #[inline(always)]
    pub(crate) fn count_sealed(&self, frames: usize, bytes: usize) {
        self.frames_and_bytes.add(frames, bytes);
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far, and how much of the ring's sending key is used up.
    #[must_use]
    pub fn stats(&self) -> EncryptStats {
        let (frames, bytes) = self.frames_and_bytes.get();
        let stats = EncryptStats { frames, bytes, ..self.counters.snapshot() };
        let ring = self.ring.current();
        match ring.usage(ring.sending_key_id()) {
            Ok(key_frames) => {
                let (key_limit, key_warning) = (ring.usage_limit(), ring.usage_warning());
                EncryptStats { key_frames, key_limit, key_warning, ..stats }
            }
            Err(_) => stats,
        }
    }

    /// Returns the access unit in the form in which it is sealed, with what was held back in front of it, or `None` if it
    /// has no slice and is held back itself.
    fn prepare<'a>(&self, signalled: Standard, frame: &'a [u8]) -> Result<Option<Prepared<'a>>, CodecMismatch> {
        let unit = AccessUnit::new(frame, signalled, trailer::OVERHEAD)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match unit {
            AccessUnit::Sealable(prepared) if held.is_empty() => Ok(Some(prepared)),
            AccessUnit::Sealable(_) => {
                let whole = [mem::take(&mut *held).as_slice(), frame].concat();
                match AccessUnit::new(&whole, signalled, trailer::OVERHEAD)? {
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
}
