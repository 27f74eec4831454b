//! One outgoing track.
//!
//! Bytes in, plan (clear bytes, key, nonce), AEAD, bytes out. A plan knows the exact length of what it will write, so
//! that a caller allocates once.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::annexb::{self, Standard};
use crate::codec::{Clear, Codec, NotOfCodec, Prepared};
use crate::error::{EncryptError, KeyError};
use crate::key::Key;
use crate::keyring::KeyRing;
use crate::lookup::{Run, SHORT, Sealing};
use crate::nonce::Unique;
use crate::stats::{EncryptCounters, EncryptStats, Tally};
use crate::wire::envelope::{Envelope, is_key_frame};
use crate::wire::sframe::{self, Encoded, Header};
use crate::wire::{Wire, trailer};

/// Parameter sets that may wait for their slice; real ones have some hundred bytes.
const MOST_HELD: usize = 16 * 1024;

/// The longest clear header that receivers up to libwebrtc m144 can represent.
const LONGEST_SAFE_HEADER: usize = 255;

/// Seals the frames of one outgoing track.
pub struct Encryptor {
    ring: Arc<KeyRing>,
    clear: Clear,
    /// Where the packetiser looks for NAL units.
    annexb: Option<Standard>,
    /// Access units without a slice, waiting for the next frame (trailer layout, Annex B codecs only).
    held: Mutex<Vec<u8>>,
    tally: Tally,
    counters: EncryptCounters,
}

/// A frame about to be sealed. Dropping it wastes a nonce at the most.
pub struct SealPlan<'a> {
    encryptor: &'a Encryptor,
    frame: Prepared<'a>,
    layout: Layout<'a>,
    /// The key, and the nonce that is this frame's alone; none where they are taken when it is sealed.
    sealing: Option<Sealing>,
}

enum Layout<'a> {
    Trailer,
    Sframe { header: Encoded, metadata: &'a [u8], envelope: Option<Envelope> },
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
            tally: Tally::default(),
            counters: EncryptCounters::default(),
        })
    }

    /// Seals one frame. An empty frame stays empty. In the trailer layout an H.264 or H.265 access unit without a slice
    /// (parameter sets alone) comes out empty too: it is held back and goes out in front of the next frame, since
    /// receivers do not agree on how to open it.
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
        let Some(prepared) = self.prepare(wire, frame)? else { return Ok(None) };
        if wire == Wire::Trailer {
            return Ok(Some(SealPlan { encryptor: self, frame: prepared, layout: Layout::Trailer, sealing: None }));
        }
        let sealing = self.next()?;
        let Unique::Ctr(ctr) = sealing.unique else { return Err(EncryptError::Malformed) };
        let layout = Layout::Sframe {
            header: Header { kid: sealing.kid, ctr }.encode(),
            metadata,
            envelope: self.annexb.map(|standard| Envelope::new(standard, is_key_frame(standard, frame))),
        };
        Ok(Some(SealPlan { encryptor: self, frame: prepared, layout, sealing: Some(sealing) }))
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
    fn next(&self) -> Result<Sealing, EncryptError> {
        self.ring.next().inspect_err(|error| self.count(*error))
    }

    /// See [`KeyRing::next_run`]. For plans of the trailer layout, which have taken no key.
    pub(crate) fn next_run(&self, count: usize, uniques: &mut Vec<Unique>) -> Result<Run, (usize, EncryptError)> {
        self.ring.next_run(count, uniques).inspect_err(|(_, error)| self.count(*error))
    }

    #[cold]
    fn count(&self, error: EncryptError) {
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
        plan.sealing = Some(Sealing { unique: Unique::Iv(iv), ..self.next()? });
        plan.seal()
    }

    /// Whether a plan tells how long the sealed frame will be: not where escapes may come in.
    pub(crate) fn keeps_lengths(&self) -> bool {
        self.annexb.is_none()
    }

    /// What sealing adds to every frame that is not empty; none where that depends on the frame or its counter.
    pub(crate) fn fixed_overhead(&self) -> Option<usize> {
        (self.keeps_lengths() && self.ring.profile().wire == Wire::Trailer).then_some(trailer::OVERHEAD)
    }

    /// Whether a frame is one of the codec, where sealing [adds a constant](Self::fixed_overhead).
    #[inline(always)]
    pub(crate) fn fits(&self, frame: &[u8]) -> bool {
        frame.is_empty() || self.clear.prepare(frame, trailer::OVERHEAD).is_ok()
    }

    /// Counts a frame that does not [fit](Self::fits).
    pub(crate) fn refused(&self) -> EncryptError {
        self.count(EncryptError::Malformed);
        EncryptError::Malformed
    }

    /// What sealing adds to a frame at the most, where it [keeps lengths](Self::keeps_lengths).
    pub(crate) fn most_overhead(&self) -> usize {
        match self.ring.profile().wire {
            Wire::Trailer => trailer::OVERHEAD,
            Wire::Sframe => sframe::MOST_LEN + self.ring.suite().tag_len,
        }
    }

    #[inline(always)]
    pub(crate) fn count_sealed(&self, frames: usize, bytes: usize) {
        self.tally.add(frames, bytes);
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far, and how much of the ring's sending key is used up.
    #[must_use]
    pub fn stats(&self) -> EncryptStats {
        let (frames, bytes) = self.tally.get();
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

    /// The frame in the form in which it is sealed, with what was held back in front of it. None: empty, or held back.
    #[inline(always)]
    fn prepare<'a>(&self, wire: Wire, frame: &'a [u8]) -> Result<Option<Prepared<'a>>, EncryptError> {
        if frame.is_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        let prepared = match (wire, self.clear) {
            (Wire::Trailer, Clear::AnnexB(_)) => self.prepare_annexb(frame),
            (_, clear) => clear.prepare(frame, trailer::OVERHEAD),
        };
        prepared.map_err(|NotOfCodec| {
            self.count(EncryptError::Malformed);
            EncryptError::Malformed
        })
    }

    fn prepare_annexb<'a>(&self, frame: &'a [u8]) -> Result<Option<Prepared<'a>>, NotOfCodec> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = self.clear.prepare(frame, trailer::OVERHEAD)? {
            if held.is_empty() {
                return Ok(Some(prepared));
            }
            let whole = [held.as_slice(), frame].concat();
            held.clear();
            let whole = self.clear.prepare(&whole, trailer::OVERHEAD)?;
            return Ok(whole.map(|Prepared { frame, clear_len, escaped }| Prepared {
                frame: Cow::Owned(frame.into_owned()),
                clear_len,
                escaped,
            }));
        }
        if held.len() + frame.len() > MOST_HELD {
            held.clear();
            return Err(NotOfCodec);
        }
        held.extend_from_slice(frame);
        self.counters.held.add(1);
        Ok(None)
    }
}

impl SealPlan<'_> {
    /// Bytes that [`Self::seal_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn sealed_len(&self) -> usize {
        let frame_len = self.frame.frame.len();
        match &self.layout {
            Layout::Trailer => frame_len + trailer::OVERHEAD,
            Layout::Sframe { header, envelope, .. } => {
                envelope.map_or(0, Envelope::overhead) + header.as_slice().len() + frame_len + self.tag_len()
            }
        }
    }

    fn tag_len(&self) -> usize {
        self.encryptor.ring.suite().tag_len
    }

    /// Where the part begins that is escaped; none where nothing is.
    fn escaped_from(&self) -> Option<usize> {
        match &self.layout {
            Layout::Trailer => self.frame.escaped.then_some(self.frame.clear_len),
            Layout::Sframe { envelope, .. } => envelope.map(Envelope::front_len),
        }
    }

    pub(crate) fn seal(&self) -> Result<Vec<u8>, EncryptError> {
        let mut sealed = vec![0; self.sealed_len()];
        let escapes = self.seal_into(&mut sealed)?;
        if escapes == 0 {
            return Ok(sealed);
        }
        let mut escaped = vec![0; sealed.len() + escapes];
        self.escape_into(&sealed, &mut escaped)?;
        Ok(escaped)
    }

    /// Writes the sealed frame and returns how many escapes it still needs: where that is not 0, `out` is to be
    /// passed through [`Self::escape_into`] before it is sent.
    ///
    /// # Errors
    /// [`EncryptError`]; [`EncryptError::Malformed`] where `out` has another length, or the frame is longer than the AEAD
    /// allows.
    #[inline(always)]
    pub fn seal_into(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.write(out)?;
        let counters = &self.encryptor.counters;
        if self.frame.escaped && self.frame.clear_len > LONGEST_SAFE_HEADER {
            counters.long_headers.add(1);
        }
        self.encryptor.count_sealed(1, self.frame.frame.len());
        Ok(self.escaped_from().map_or(0, |from| annexb::escapes(out.get(from..).unwrap_or_default())))
    }

    /// Writes the sealed frame and returns how long it was before. Counts nothing, and does no escapes.
    #[inline(always)]
    pub(crate) fn write(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        if out.len() != self.sealed_len() {
            return Err(EncryptError::Malformed);
        }
        match (&self.sealing, &self.layout) {
            (Some(sealing), Layout::Sframe { header, metadata, envelope }) => {
                self.seal_sframe(sealing, header.as_slice(), metadata, *envelope, out)
            }
            (None, _) if self.frame.frame.len() < SHORT => {
                let ring = &self.encryptor.ring;
                ring.next_within(|key, kid, unique| self.seal_trailer(key, kid, unique, out))
                    .inspect_err(|error| self.encryptor.count(*error))?
            }
            (None, _) => {
                let Sealing { key, kid, unique } = self.encryptor.next()?;
                self.seal_trailer(&key, kid, unique, out)
            }
            (Some(Sealing { key, kid, unique }), Layout::Trailer) => self.seal_trailer(key, *kid, *unique, out),
        }
        .ok_or(EncryptError::Malformed)?;
        Ok(self.frame.frame.len())
    }

    /// As [`Self::write`], with what [`Encryptor::next_run`] gave: for a plan that has taken no key.
    #[inline(always)]
    pub(crate) fn write_with(
        &self,
        key: &Key,
        kid: u64,
        unique: Unique,
        out: &mut [u8],
    ) -> Result<usize, EncryptError> {
        let sealed = if out.len() == self.sealed_len() { self.seal_trailer(key, kid, unique, out) } else { None };
        sealed.map(|()| self.frame.frame.len()).ok_or(EncryptError::Malformed)
    }

    #[inline(always)]
    fn seal_trailer(&self, key: &Key, kid: u64, unique: Unique, out: &mut [u8]) -> Option<()> {
        let iv = key.nonce(unique);
        let (clear, plaintext) = self.frame.frame.split_at_checked(self.frame.clear_len)?;
        #[allow(clippy::cast_possible_truncation)] // a ring of this layout has at most 256 slots
        let places = trailer::write(out, clear.len(), &iv, kid as u8)?;
        places.clear.copy_from_slice(clear);
        key.aead.seal(iv, clear, plaintext, places.ciphertext, places.tag).ok()
    }

    fn seal_sframe(
        &self,
        Sealing { key, unique, .. }: &Sealing,
        header: &[u8],
        metadata: &[u8],
        envelope: Option<Envelope>,
        out: &mut [u8],
    ) -> Option<()> {
        let inside = match envelope {
            Some(envelope) => envelope.write(out)?,
            None => out,
        };
        let (ciphertext, tag) = sframe::write(inside, header, self.tag_len())?;
        let aad = if metadata.is_empty() { Cow::Borrowed(header) } else { Cow::Owned([header, metadata].concat()) };
        key.aead.seal(key.nonce(*unique), &aad, &self.frame.frame, ciphertext, tag).ok()
    }

    /// Writes `sealed` with its escapes; `out` is as much longer as [`Self::seal_into`] said.
    ///
    /// # Errors
    /// [`EncryptError::Malformed`] where `out` has another length; what is in it may not be sent then.
    pub fn escape_into(&self, sealed: &[u8], out: &mut [u8]) -> Result<(), EncryptError> {
        let from = self.escaped_from().unwrap_or_default();
        let (Some((clear, tail)), Some((out_clear, out_tail))) =
            (sealed.split_at_checked(from), out.split_at_mut_checked(from))
        else {
            return Err(EncryptError::Malformed);
        };
        out_clear.copy_from_slice(clear);
        annexb::escape(tail, out_tail).ok_or(EncryptError::Malformed)
    }
}
