//! Frames that a server puts into a sealed track, in the clear, when the track pauses: a blank picture, a moment of
//! silence, so that decoders flush. They end with a trailer that the server tells clients when they join.
//!
//! Everybody in the room knows the trailer, so it proves nothing: what passes is one of a few known payloads, of the
//! track's codec, and only so many in a row. It is never a frame that was opened.
//!
//! The first of them has the RTP timestamp of the last sealed frame, so jitter buffers join the two. The sealed frame is
//! authentic by itself: what a server put behind it, or in front of it, is cut off.
#![deny(clippy::indexing_slicing)]

use memchr::memmem;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::codec::Codec;
use crate::error::ConfigError;

/// The least bytes of a trailer: chance brings it about once in 2^64 frames.
const MIN_TRAILER: usize = 8;

/// The least bytes of a sealed frame: an SFrame's header, and its shortest tag.
const MIN_SEALED: usize = 1 + 4;

/// Bytes at either end of a frame in which a blank one is looked for that no trailer tells apart.
const SEARCH_LEN: usize = 1024;

/// SifFilter frames that pass without a sealed one between them.
const MAX_IN_A_ROW: u32 = 100;

/// A key frame of 8 by 8 pixels.
const VP8_BLANK: &[u8] =
    b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00\x00\x47\x08\x85\x85\x88\x85\x84\x88\x02\x02\x00\x0c\x0d\x60\x00\xfe\xff\xab\x50\x80";

/// Parameter sets and a picture of 2 by 2 pixels.
const H264_UNITS: [&[u8]; 3] = [
    b"\x67\x42\xc0\x1f\x0f\xd9\x1f\x88\x88\x84\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x60\xc9\x20",
    b"\x68\x87\xcb\x83\xcb\x20",
    b"\x65\x88\x84\x0a\xf2\x62\x80\x00\xa7\xbe",
];

/// Silence: the start of an Opus packet, padded with zeros.
const OPUS_SILENCE: &[u8] = b"\xf8\xff\xfe";
const OPUS_LEN: usize = 80;

/// 20 ms of silence in G.711.
const G711_LEN: usize = 160;
const MU_LAW_SILENCE: u8 = 0xFF;
const A_LAW_SILENCE: u8 = 0xD5;

const NO_TRAILER: u16 = u16::MAX;

/// What passes on one track.
pub(super) struct SifFilter {
    codec: Codec,
    /// Known only once a room was joined, and another one in each room.
    trailer: RwLock<Vec<u8>>,
    /// The trailer's last byte, or [`NO_TRAILER`]. A frame that does not end in it takes no lock.
    ends_in: AtomicU16,
    in_a_row: AtomicU32,
}

/// Not a payload that a server injects, or too many in a row.
pub(super) struct SifRefused;

impl SifFilter {
    /// Lets nothing pass until there is a trailer.
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, trailer: RwLock::default(), ends_in: AtomicU16::new(NO_TRAILER), in_a_row: AtomicU32::new(0) }
    }

    /// Lets frames with this trailer pass from now on, or none.
    pub(super) fn set_trailer(&self, trailer: Option<&[u8]>) -> Result<(), ConfigError> {
        let bytes = trailer.unwrap_or_default();
        if trailer.is_some() && bytes.len() < MIN_TRAILER {
            return Err(ConfigError::ShortTrailer { given: bytes.len(), min: MIN_TRAILER });
        }
        let mut current = self.trailer.write().unwrap_or_else(PoisonError::into_inner);
        *current = bytes.to_vec();
        self.ends_in.store(bytes.last().map_or(NO_TRAILER, |byte| u16::from(*byte)), Ordering::Relaxed);
        Ok(())
    }

    /// The trailer of now.
    pub(super) fn trailer(&self) -> Option<Vec<u8>> {
        self.with_trailer(<[u8]>::to_vec)
    }

    fn with_trailer<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let trailer = self.trailer.read().unwrap_or_else(PoisonError::into_inner);
        (!trailer.is_empty()).then(|| look(&trailer))
    }

    /// Whether a frame may end in the trailer.
    #[inline(always)]
    fn may_end(&self, frame: &[u8]) -> bool {
        frame.last().is_some_and(|byte| u16::from(*byte) == self.ends_in.load(Ordering::Relaxed))
    }

    /// Whether there is a trailer.
    pub(super) fn is_enabled(&self) -> bool {
        self.ends_in.load(Ordering::Relaxed) != NO_TRAILER
    }

    /// Whether the frame ends as SIF frames do.
    pub(super) fn ends_with_trailer(&self, frame: &[u8]) -> bool {
        self.may_end(frame) && self.with_trailer(|trailer| frame.ends_with(trailer)).unwrap_or_default()
    }

    /// Returns the payload of a SIF frame, or `None` if the frame does not end in the trailer.
    #[inline(always)]
    pub(super) fn payload<'a>(&self, frame: &'a [u8]) -> Option<Result<&'a [u8], SifRefused>> {
        if !self.may_end(frame) {
            return None;
        }
        let payload = self.with_trailer(|trailer| frame.strip_suffix(trailer))??;
        if self.in_a_row.load(Ordering::Relaxed) >= MAX_IN_A_ROW || !is_blank(self.codec, payload) {
            return Some(Err(SifRefused));
        }
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
        Some(Ok(payload))
    }

    /// Returns a frame without the SIF frames that a jitter buffer joined to it, at its end or its start. Of several
    /// joined SIF frames, one is left.
    #[inline(always)]
    pub(super) fn cut<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if !self.is_enabled() || !self.may_end(frame) && without_blank_start(self.codec, frame).is_none() {
            return frame;
        }
        self.with_trailer(|trailer| self.cut_at(frame, trailer)).unwrap_or(frame)
    }

    #[cold]
    fn cut_at<'a>(&self, frame: &'a [u8], trailer: &[u8]) -> &'a [u8] {
        let mut rest = frame;
        while let Some(before) = rest.strip_suffix(trailer).and_then(|front| without_blank_end(self.codec, front)) {
            if before.len() < MIN_SEALED {
                return rest;
            }
            rest = before;
        }
        while let Some(behind) = without_blank_start(self.codec, rest).and_then(|rest| rest.strip_prefix(trailer)) {
            if behind.len() < MIN_SEALED {
                return rest;
            }
            rest = behind;
        }
        rest
    }

    /// A sealed frame was opened.
    #[inline(always)]
    pub(super) fn resumed(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether a blank frame that a server injects lies in a frame, with something behind it that may be a trailer: for people
/// who did not say what the trailer is. Anybody can make such a frame.
pub(super) fn holds_blank(codec: Codec, frame: &[u8]) -> bool {
    let start = frame.get(..SEARCH_LEN).unwrap_or(frame);
    let end = frame.get(frame.len().saturating_sub(SEARCH_LEN)..).unwrap_or_default();
    [start, end].into_iter().any(|part| {
        let Some(known) = known_blank(codec) else { return false };
        memmem::rfind(part, &known).and_then(|at| part.get(at + known.len()..)).is_some_and(|behind| {
            // What goes on as silence is silence of a sender that does not seal.
            behind.len() >= MIN_TRAILER && known.last() != behind.first()
        })
    })
}

/// What every blank frame of a codec holds.
fn known_blank(codec: Codec) -> Option<Vec<u8>> {
    let [.., picture] = H264_UNITS;
    match codec {
        Codec::Opus => Some([OPUS_SILENCE, &[0; OPUS_LEN - OPUS_SILENCE.len()]].concat()),
        Codec::Pcmu => Some(vec![MU_LAW_SILENCE; G711_LEN]),
        Codec::Pcma => Some(vec![A_LAW_SILENCE; G711_LEN]),
        Codec::Vp8 => Some(VP8_BLANK.to_vec()),
        Codec::H264 => Some(picture.to_vec()),
        Codec::G722 | Codec::Vp9 | Codec::H265 | Codec::Av1 | Codec::Unknown => None,
    }
}

/// Returns what lies before a blank frame at the end of `frame`, or `None` if there is none at its end.
fn without_blank_end(codec: Codec, frame: &[u8]) -> Option<&[u8]> {
    if codec == Codec::H264 {
        let strip =
            |frame| H264_UNITS.iter().find_map(|unit| without_start_code_end(<[u8]>::strip_suffix(frame, *unit)?));
        return std::iter::successors(strip(frame), |rest| strip(rest)).last();
    }
    let (front, blank) = frame.split_at_checked(frame.len().checked_sub(blank_len(codec)?)?)?;
    is_blank(codec, blank).then_some(front)
}

/// Returns what lies behind a blank frame at the start of `frame`, or `None` if there is none at its start.
fn without_blank_start(codec: Codec, frame: &[u8]) -> Option<&[u8]> {
    if codec == Codec::H264 {
        let strip = |frame| H264_UNITS.iter().find_map(|unit| without_start_code(frame)?.strip_prefix(*unit));
        return std::iter::successors(strip(frame), |rest| strip(rest)).last();
    }
    let (blank, behind) = frame.split_at_checked(blank_len(codec)?)?;
    is_blank(codec, blank).then_some(behind)
}

fn without_start_code_end(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_suffix(&[0, 0, 0, 1]).or_else(|| frame.strip_suffix(&[0, 0, 1]))
}

fn without_start_code(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_prefix(&[0, 0, 0, 1]).or_else(|| frame.strip_prefix(&[0, 0, 1]))
}

/// Bytes of a blank frame, for codecs that have one of fixed length.
fn blank_len(codec: Codec) -> Option<usize> {
    match codec {
        Codec::Opus => Some(OPUS_LEN),
        Codec::Pcmu | Codec::Pcma => Some(G711_LEN),
        Codec::Vp8 => Some(VP8_BLANK.len()),
        Codec::H264 | Codec::G722 | Codec::Vp9 | Codec::H265 | Codec::Av1 | Codec::Unknown => None,
    }
}

fn is_blank(codec: Codec, payload: &[u8]) -> bool {
    let g711 = |sample: u8| payload.len() == G711_LEN && payload.iter().all(|byte| *byte == sample);
    match codec {
        Codec::Opus => {
            payload.len() == OPUS_LEN
                && payload.strip_prefix(OPUS_SILENCE).is_some_and(|padding| padding.iter().all(|byte| *byte == 0))
        }
        Codec::Pcmu => g711(MU_LAW_SILENCE),
        Codec::Pcma => g711(A_LAW_SILENCE),
        Codec::Vp8 => payload == VP8_BLANK,
        Codec::H264 => H264_UNITS.contains(&payload) || is_blank_annexb(payload),
        Codec::G722 | Codec::Vp9 | Codec::H265 | Codec::Av1 | Codec::Unknown => false,
    }
}

/// Known units behind start codes of three or four bytes, at least one.
fn is_blank_annexb(payload: &[u8]) -> bool {
    without_blank_start(Codec::H264, payload).is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whole and damaged pieces of what servers send, in any order.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let units = H264_UNITS.iter().map(|unit| [&[0, 0, 0, 1], *unit].concat());
        let known = CODECS.iter().filter_map(|codec| known_blank(*codec)).chain(units);
        let whole: Vec<Vec<u8>> = known.chain([b"LK-ROCKS".to_vec(), vec![], vec![0x0C; 40]]).collect();
        let piece = (prop::sample::select(whole), any::<prop::sample::Index>(), 0..6_u8);
        let damaged = piece.prop_map(|(piece, at, kind)| match kind {
            0 => piece.get(at.index(piece.len() + 1)..).unwrap_or_default().to_vec(),
            1 => piece.get(..at.index(piece.len() + 1)).unwrap_or_default().to_vec(),
            _ => piece,
        });
        prop::collection::vec(damaged, 0..8).prop_map(|pieces| pieces.concat())
    }

    const CODECS: [Codec; 7] =
        [Codec::Opus, Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Vp8, Codec::H264, Codec::Unknown];

    proptest! {
        #[test]
        fn whatever_is_joined_is_cut_at_blank_frames_and_nowhere_else(
            frame in pieces(), codec in prop::sample::select(&CODECS[..])
        ) {
            let filter = SifFilter::new(codec);
            prop_assert_eq!(filter.cut(&frame), &frame[..]);
            filter.set_trailer(Some(b"LK-ROCKS")).unwrap();
            let rest = filter.cut(&frame);
            prop_assert_eq!(filter.cut(rest), rest, "all at once");
            let at = rest.as_ptr().addr() - frame.as_ptr().addr();
            let (before, behind) = (frame.get(..at).unwrap(), frame.get(at + rest.len()..).unwrap());
            for cut_off in [before, behind].into_iter().filter(|part| !part.is_empty()) {
                prop_assert!(cut_off.ends_with(b"LK-ROCKS"));
                let payload = cut_off.strip_suffix(b"LK-ROCKS").unwrap();
                prop_assert!(is_blank(codec, filter.cut(payload)) || memmem::find(payload, b"LK-ROCKS").is_some());
            }
            holds_blank(codec, &frame);
        }
    }
}
