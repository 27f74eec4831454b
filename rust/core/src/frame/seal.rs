//! Seals one frame: computes its sealed length, runs the AEAD, adds the escapes.

use std::borrow::Cow;

use super::state::SenderState;
use crate::codec::{Clear, CodecMismatch, Prepared, annexb, copy_clear};
use crate::error::{ApiMisuse, EncryptError};
use crate::keyring::{Key, LOCKED_AEAD_MAX, NonceInput, SealingKey};
use crate::suite::NONCE_LEN;
use crate::wire::envelope::{Envelope, is_key_frame};
use crate::wire::sframe::{self, Header};
use crate::wire::{IvPlaces, Wire, footer, trailer};

/// The layout of frames whose overhead is known before sealing: neither escapes nor an envelope. Holds for all codecs
/// whose packetiser does not look for NAL units. Kept small, so that it stays in registers over a whole batch.
#[derive(Clone, Copy)]
pub(super) enum FixedOverhead {
    Trailer(Clear),
    Footer(Clear),
    Sframe { tag_len: usize },
}

/// The maximum number of times that one frame is sealed to keep its slice header readable. 128 sealings of a frame of
/// 100 kB take some 5 ms, less than a picture's time.
///
/// If `n` bits of the header are ciphertext, all 128 draws miss with probability (1 - 2^-n)^128. In H.264, as x264
/// writes it, PPS id 0 has 1 bit: 1 in 2^128. Ids 1 and 2 have 3 bits: 1 in 26 million. Ids 3 to 6 have 5 bits: 1 in
/// 58. H.265 has one more bit, the first-slice flag: 1 in 1e16, 1 in 3,870 and 1 in 7.5.
const MAX_DRAWS: usize = 128;

/// The longest clear header that receivers up to libwebrtc m144 can represent.
const MAX_SAFE_HEADER_LEN: usize = 255;

/// A planned frame. Dropping it wastes at most one nonce.
pub struct SealPlan<'a> {
    pub(super) sender: &'a SenderState,
    pub(super) frame: Prepared<'a>,
    pub(super) layout: Layout<'a>,
    /// The key and this frame's own nonce. `None` if [`SealPlan::seal_into`] draws them.
    pub(super) sealing: Option<SealingKey>,
}

/// The layout-specific parts of a planned frame.
pub(super) enum Layout<'a> {
    Trailer,
    Footer,
    Sframe { header: Header, metadata: &'a [u8], envelope: Option<Envelope> },
}

impl FixedOverhead {
    /// Returns the track's layout, or `None` if escapes or an envelope make the overhead depend on the frame.
    pub(super) fn of(sender: &SenderState) -> Option<Self> {
        match (sender.annexb, sender.ring.profile().wire) {
            (Some(_), _) => None,
            (None, Wire::Trailer) => Some(Self::Trailer(sender.clear)),
            (None, Wire::Footer) => Some(Self::Footer(sender.clear)),
            (None, Wire::Sframe) => Some(Self::Sframe { tag_len: sender.ring.suite().tag_len }),
        }
    }

    /// Returns whether a frame is long enough for the clear bytes of its codec.
    #[inline(always)]
    pub(super) fn fits(self, frame: &[u8]) -> bool {
        match self {
            Self::Trailer(clear) => clear.first(frame).is_some_and(|clear_len| clear_len <= frame.len()),
            Self::Footer(_) | Self::Sframe { .. } => true,
        }
    }

    /// Returns whether the layout has a sealed form of the frame: the trailer layout has none of an empty frame.
    #[inline(always)]
    pub(super) fn seals(self, frame: &[u8]) -> bool {
        matches!(self, Self::Sframe { .. }) || !frame.is_empty()
    }

    /// Returns the number of bytes that sealing adds to a frame.
    #[inline(always)]
    pub(super) fn overhead(self, kid: u64, nonce_input: NonceInput) -> usize {
        match (self, nonce_input) {
            (Self::Sframe { tag_len }, NonceInput::Ctr(ctr)) => Header { kid, ctr }.len() + tag_len,
            (Self::Footer(_), _) => footer::OVERHEAD,
            _ => trailer::OVERHEAD,
        }
    }

    /// Returns the maximum number of bytes that sealing adds to a frame.
    pub(super) fn max_overhead(self) -> usize {
        match self {
            Self::Trailer(_) => trailer::OVERHEAD,
            Self::Footer(_) => footer::OVERHEAD,
            Self::Sframe { tag_len } => sframe::MAX_LEN + tag_len,
        }
    }

    /// Seals a frame that [fits](Self::fits) into `out`, which is longer by the [overhead](Self::overhead). Returns
    /// `None` if `out` has another length, or the frame is longer than the AEAD allows.
    #[inline(always)]
    pub(super) fn seal(self, key: &Key, kid: u64, nonce_input: NonceInput, frame: &[u8], out: &mut [u8]) -> Option<()> {
        match (self, nonce_input) {
            (Self::Trailer(clear), NonceInput::Iv(iv)) => {
                trailer(key, kid, iv.bytes(), clear.first(frame)?, frame, out)
            }
            (Self::Footer(clear), NonceInput::Iv(iv)) => {
                let clear_len = clear.first(frame)?.min(frame.len());
                footer(key, kid, iv.bytes(), (clear_len, false), frame, out)
            }
            (Self::Sframe { tag_len }, NonceInput::Ctr(ctr)) => {
                sframe(key, Header { kid, ctr }, &[], tag_len, frame, out)
            }
            _ => None,
        }
    }
}

/// Writes a sealed frame of the trailer layout, without escapes. Returns `None` if `out` has another length, or the
/// frame is longer than the AEAD allows.
#[inline(always)]
fn trailer(key: &Key, kid: u64, iv: [u8; NONCE_LEN], clear_len: usize, frame: &[u8], out: &mut [u8]) -> Option<()> {
    #[allow(clippy::cast_possible_truncation)] // a ring of this layout has at most 256 slots
    fill(key, iv, frame, trailer::write(out, clear_len, &iv, kid as u8)?)
}

/// Writes a sealed frame of the footer layout, without escapes. `clear` is the number of clear bytes, and whether
/// escapes will follow. Returns `None` if `out` has another length, or the frame is longer than the AEAD allows.
#[inline(always)]
fn footer(key: &Key, kid: u64, iv: [u8; NONCE_LEN], clear: (usize, bool), frame: &[u8], out: &mut [u8]) -> Option<()> {
    let (clear_len, escaped) = clear;
    #[allow(clippy::cast_possible_truncation)] // a ring of this layout has 256 slots
    fill(key, iv, frame, footer::write(out, clear_len, escaped, &iv, kid as u8)?)
}

/// Seals `frame` into its places. Returns `None` if it is shorter than the clear header or longer than the AEAD allows.
#[inline(always)]
fn fill(key: &Key, iv: [u8; NONCE_LEN], frame: &[u8], places: IvPlaces<'_>) -> Option<()> {
    let (clear, plaintext) = frame.split_at_checked(places.clear.len())?;
    copy_clear(places.clear, clear);
    key.aead.seal(iv, clear, plaintext, places.ciphertext, places.tag).ok()
}

/// Writes an SFrame. Returns `None` if `out` has another length, or the frame is longer than the AEAD allows.
#[inline(always)]
fn sframe(key: &Key, header: Header, metadata: &[u8], tag_len: usize, frame: &[u8], out: &mut [u8]) -> Option<()> {
    let sframe::SframePlaces { head, ciphertext, tag } = sframe::write(out, header, tag_len)?;
    let aad = if metadata.is_empty() { Cow::Borrowed(head) } else { Cow::Owned([head, metadata].concat()) };
    key.aead.seal(key.nonce(NonceInput::Ctr(header.ctr)), &aad, frame, ciphertext, tag).ok()
}

impl<'a> SealPlan<'a> {
    /// Plans one frame: see [`Encryptor::plan`](super::encryptor::Encryptor::plan).
    #[inline(always)]
    pub(super) fn new(
        sender: &'a SenderState,
        frame: &'a [u8],
        metadata: &'a [u8],
    ) -> Result<Option<Self>, EncryptError> {
        let wire = sender.ring.profile().wire;
        if wire != Wire::Sframe && !metadata.is_empty() {
            return Err(ApiMisuse::Metadata.into());
        }
        if frame.is_empty() && wire != Wire::Sframe {
            sender.counters.empty.add(1);
            return Ok(None);
        }
        let frame = match (sender.clear, sender.clear.first(frame)) {
            (_, Some(clear_len)) if clear_len <= frame.len() => Prepared::as_it_is(frame, clear_len),
            // The layout says how many bytes are clear, so a short frame may be clear as a whole.
            (_, Some(_)) if wire == Wire::Footer => Prepared::as_it_is(frame, frame.len()),
            (Clear::AnnexB(signalled, _), _) => match sender.prepare(signalled, frame) {
                Ok(Some(prepared)) => prepared,
                Ok(None) => return Ok(None),
                Err(CodecMismatch) => return Err(sender.codec_mismatch()),
            },
            _ => return Err(sender.codec_mismatch()),
        };
        match wire {
            Wire::Trailer => return Ok(Some(Self { sender, frame, layout: Layout::Trailer, sealing: None })),
            Wire::Footer if frame.clear_len > footer::MAX_CLEAR_LEN => return Err(sender.codec_mismatch()),
            Wire::Footer => return Ok(Some(Self { sender, frame, layout: Layout::Footer, sealing: None })),
            Wire::Sframe => {}
        }
        let sealing = sender.next()?;
        let NonceInput::Ctr(ctr) = sealing.nonce_input else { return Err(EncryptError::Malformed) };
        let layout = Layout::Sframe {
            header: Header { kid: sealing.kid, ctr },
            metadata,
            envelope: sender.annexb.map(|standard| Envelope::new(standard, is_key_frame(standard, &frame.frame))),
        };
        Ok(Some(Self { sender, frame, layout, sealing: Some(sealing) }))
    }

    /// Plans one frame as [`Self::new`] does, and draws the key and a nonce in any layout. A batch plans its frames in
    /// order this way, so that their nonces ascend.
    #[inline(always)]
    pub(super) fn keyed(sender: &'a SenderState, frame: &'a [u8]) -> Result<Option<Self>, EncryptError> {
        let Some(mut plan) = Self::new(sender, frame, &[])? else { return Ok(None) };
        if plan.sealing.is_none() {
            plan.sealing = Some(sender.next()?);
        }
        Ok(Some(plan))
    }
}

impl SealPlan<'_> {
    /// Returns the number of bytes that [`Self::seal_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn sealed_len(&self) -> usize {
        let frame_len = self.frame.frame.len();
        match &self.layout {
            Layout::Trailer => frame_len + trailer::OVERHEAD,
            Layout::Footer => frame_len + footer::OVERHEAD,
            Layout::Sframe { header, envelope, .. } => {
                envelope.map_or(0, Envelope::overhead) + header.len() + frame_len + self.tag_len()
            }
        }
    }

    fn tag_len(&self) -> usize {
        self.sender.ring.suite().tag_len
    }

    /// Returns the offset at which the escaped part begins, or `None` if the layout needs no escapes.
    fn escaped_from(&self) -> Option<usize> {
        match &self.layout {
            Layout::Trailer | Layout::Footer => self.frame.escaped.then_some(self.frame.clear_len),
            Layout::Sframe { envelope, .. } => envelope.map(Envelope::front_len),
        }
    }

    /// Returns whether zeros at the end of the clear bytes count for the escapes behind them: in the footer layout.
    fn counts_zeros(&self) -> bool {
        matches!(self.layout, Layout::Footer)
    }

    /// Returns how many of the zeros at the end of `clear` count for the escapes behind them.
    fn zeros_before(&self, clear: &[u8]) -> usize {
        if self.counts_zeros() { annexb::zeros_before(clear) } else { 0 }
    }

    /// Returns the sealed frame.
    ///
    /// # Errors
    /// [`EncryptError`]. No part of the frame may be sent then.
    pub fn seal(&self) -> Result<Vec<u8>, EncryptError> {
        let mut sealed = vec![0; self.sealed_len()];
        let escapes = self.seal_into(&mut sealed)?;
        if escapes == 0 {
            return Ok(sealed);
        }
        let mut escaped = vec![0; sealed.len() + escapes];
        self.escape_into(&sealed, &mut escaped)?;
        Ok(escaped)
    }

    /// Writes the sealed frame and returns the number of escape bytes that it still needs. If the number is not 0, pass
    /// `out` through [`Self::escape_into`] before sending it.
    ///
    /// # Errors
    /// [`EncryptError`]; [`ApiMisuse::BufferLength`] if `out` is not [`Self::sealed_len`] bytes long;
    /// [`EncryptError::Malformed`] if the frame is longer than the AEAD allows.
    #[inline(always)]
    pub fn seal_into(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        if out.len() != self.sealed_len() {
            return Err(ApiMisuse::BufferLength.into());
        }
        match &self.sealing {
            Some(SealingKey { key, kid, nonce_input }) => {
                self.seal_with(key, *kid, *nonce_input, out).ok_or(EncryptError::Malformed)?;
            }
            None => self.seal_fresh(out).inspect_err(|error| self.sender.count(*error))?,
        }
        if !self.frame.is_kept(out, self.counts_zeros()) {
            self.redraw(out)?;
        }
        let counters = &self.sender.counters;
        if self.frame.escaped && self.frame.clear_len > MAX_SAFE_HEADER_LEN && matches!(self.layout, Layout::Trailer) {
            counters.long_headers.add(1);
        }
        self.sender.count_sealed(1, self.frame.frame.len());
        let escaped = self.escaped_from().and_then(|from| out.split_at_checked(from));
        Ok(escaped.map_or(0, |(clear, tail)| annexb::escapes(tail, self.zeros_before(clear))))
    }

    /// Seals with the sending key, under a fresh nonce from the ring.
    #[inline(always)]
    fn seal_fresh(&self, out: &mut [u8]) -> Result<(), EncryptError> {
        let ring = &self.sender.ring;
        let sealed = if self.frame.frame.len() < LOCKED_AEAD_MAX {
            ring.next_within(|key, kid, nonce_input| self.seal_with(key, kid, nonce_input, out))?
        } else {
            let SealingKey { key, kid, nonce_input } = ring.next()?;
            self.seal_with(&key, kid, nonce_input, out)
        };
        sealed.ok_or(EncryptError::Malformed)
    }

    /// Seals under one fresh nonce after another until receivers read the same slice header as in the plain frame. A
    /// discarded sealing uses its nonce up. After the last draw, or when the key has no nonce left, the last sealing is
    /// sent. Most receivers do not read the header.
    #[cold]
    fn redraw(&self, out: &mut [u8]) -> Result<(), EncryptError> {
        let counters = &self.sender.counters;
        for _ in 1..MAX_DRAWS {
            match self.seal_fresh(out) {
                Ok(()) => counters.redrawn.add(1),
                Err(error @ (EncryptError::Malformed | EncryptError::Misuse(_))) => return Err(error),
                Err(EncryptError::UnknownKey { .. } | EncryptError::KeyExhausted { .. }) => break,
            }
            if self.frame.is_kept(out, self.counts_zeros()) {
                return Ok(());
            }
        }
        counters.misread.add(1);
        Ok(())
    }

    #[inline(always)]
    fn seal_with(&self, key: &Key, kid: u64, nonce_input: NonceInput, out: &mut [u8]) -> Option<()> {
        let Prepared { frame, clear_len, escaped, .. } = &self.frame;
        match (&self.layout, nonce_input) {
            (Layout::Trailer, NonceInput::Iv(iv)) => trailer(key, kid, iv.bytes(), *clear_len, frame, out),
            (Layout::Footer, NonceInput::Iv(iv)) => footer(key, kid, iv.bytes(), (*clear_len, *escaped), frame, out),
            (Layout::Sframe { header, metadata, envelope }, _) => {
                let inside = match envelope {
                    Some(envelope) => envelope.write(out)?,
                    None => out,
                };
                sframe(key, *header, metadata, self.tag_len(), frame, inside)
            }
            _ => None,
        }
    }

    /// Writes `sealed` with its escapes. `out` is longer by the number that [`Self::seal_into`] returned.
    ///
    /// # Errors
    /// [`ApiMisuse::BufferLength`] if `out` has another length. Its content must not be sent then.
    pub fn escape_into(&self, sealed: &[u8], out: &mut [u8]) -> Result<(), EncryptError> {
        let from = self.escaped_from().unwrap_or_default();
        let (Some((clear, tail)), Some((out_clear, out_tail))) =
            (sealed.split_at_checked(from), out.split_at_mut_checked(from))
        else {
            return Err(ApiMisuse::BufferLength.into());
        };
        out_clear.copy_from_slice(clear);
        annexb::escape(tail, self.zeros_before(clear), out_tail).ok_or(ApiMisuse::BufferLength.into())
    }
}
