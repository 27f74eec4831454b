//! SIF frames (server-injected frames). A server sends them in the clear when a sealed track pauses. They are a blank
//! picture or a moment of silence, which makes decoders flush. They end with a trailer that the server sends to clients
//! when they join.
//!
//! Everybody in the room knows the trailer, so it proves nothing. Only the blank frame of the track's codec passes, and
//! only a limited number in a row. It never counts as an opened frame.
//!
//! The first injected frame has the RTP timestamp of the last sealed frame, so jitter buffers join the two. The sealed
//! frame is authentic by itself: injected frames behind it, or in front of it, are cut off.
#![deny(clippy::indexing_slicing)]

use memchr::memmem;
use std::sync::PoisonError;

use crate::codec::Blank;
use crate::error::ConfigError;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// The minimum length of a trailer in bytes. One frame in 2^64 ends in a trailer of this length by chance.
const MIN_TRAILER: usize = 8;

/// The minimum length of a sealed frame: an SFrame's header, and its shortest tag.
const MIN_SEALED: usize = 1 + 4;

/// Bytes at either end of a frame that are searched for a blank frame whose trailer is not known.
const SEARCH_LEN: usize = 1024;

/// The maximum number of injected frames that pass without a sealed frame between them.
const MAX_IN_A_ROW: u32 = 100;

const NO_TRAILER: u16 = u16::MAX;

/// The injected frames that pass on one track.
pub(super) struct SifFilter {
    /// The blank frame of the track's codec, or `None` if the profile knows none: then no frame passes.
    blank: Option<Blank>,
    /// Empty until a room is joined. Each room has its own.
    trailer: RwLock<Vec<u8>>,
    /// The trailer's last byte, or [`NO_TRAILER`]. The lock is taken only for frames that end in this byte.
    ends_in: AtomicU16,
    /// The number of SIF frames that passed since the last sealed frame.
    in_a_row: AtomicU32,
}

/// The frame ends in the trailer, but its payload is not blank, or it exceeds the maximum in a row.
pub(super) struct SifRefused;

impl SifFilter {
    /// Creates a filter that lets no frame pass until a trailer is set.
    pub(super) fn new(blank: Option<Blank>) -> Self {
        Self { blank, trailer: RwLock::default(), ends_in: AtomicU16::new(NO_TRAILER), in_a_row: AtomicU32::new(0) }
    }

    /// Lets frames with this trailer pass from now on; `None` lets no frame pass.
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

    /// Returns the trailer, or `None` if none is set.
    pub(super) fn trailer(&self) -> Option<Vec<u8>> {
        self.with_trailer(<[u8]>::to_vec)
    }

    /// Calls `look` with the trailer. Returns `None` if none is set.
    fn with_trailer<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let trailer = self.trailer.read().unwrap_or_else(PoisonError::into_inner);
        (!trailer.is_empty()).then(|| look(&trailer))
    }

    /// Returns false if a frame certainly does not end in the trailer. Takes no lock.
    #[inline(always)]
    fn may_end(&self, frame: &[u8]) -> bool {
        frame.last().is_some_and(|byte| u16::from(*byte) == self.ends_in.load(Ordering::Relaxed))
    }

    /// Returns whether a trailer is set.
    pub(super) fn is_enabled(&self) -> bool {
        self.ends_in.load(Ordering::Relaxed) != NO_TRAILER
    }

    /// Returns whether a frame ends in the trailer.
    pub(super) fn ends_with_trailer(&self, frame: &[u8]) -> bool {
        self.may_end(frame) && self.with_trailer(|trailer| frame.ends_with(trailer)).unwrap_or_default()
    }

    /// Returns the payload of an injected frame, or `None` if the frame is not injected.
    #[inline(always)]
    pub(super) fn payload<'a>(&self, frame: &'a [u8]) -> Option<Result<&'a [u8], SifRefused>> {
        if !self.may_end(frame) {
            return None;
        }
        let payload = self.with_trailer(|trailer| frame.strip_suffix(trailer))??;
        // One atomic step checks and counts: several threads may ask at once.
        let count = |passed| (passed < MAX_IN_A_ROW).then_some(passed + 1);
        let passes = self.blank.is_some_and(|blank| blank.is(payload))
            && self.in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok();
        Some(if passes { Ok(payload) } else { Err(SifRefused) })
    }

    /// Returns a frame without the injected frames that a jitter buffer joined to it, at its end or its start. If all
    /// parts are injected, one of them is left.
    #[inline(always)]
    pub(super) fn cut<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if !self.is_enabled() || !self.may_end(frame) && self.strip_start(frame).is_none() {
            return frame;
        }
        self.with_trailer(|trailer| self.cut_at(frame, trailer)).unwrap_or(frame)
    }

    /// Cuts at the end first, then at the start. Never leaves fewer than [`MIN_SEALED`] bytes.
    #[cold]
    fn cut_at<'a>(&self, frame: &'a [u8], trailer: &[u8]) -> &'a [u8] {
        let mut rest = frame;
        while let Some(before) = rest.strip_suffix(trailer).and_then(|front| self.blank?.strip_end(front)) {
            if before.len() < MIN_SEALED {
                return rest;
            }
            rest = before;
        }
        while let Some(behind) = self.strip_start(rest).and_then(|rest| rest.strip_prefix(trailer)) {
            if behind.len() < MIN_SEALED {
                return rest;
            }
            rest = behind;
        }
        rest
    }

    #[inline(always)]
    fn strip_start<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        self.blank?.strip_start(frame)
    }

    /// Records that a sealed frame was opened: the count in a row restarts.
    #[inline(always)]
    pub(super) fn resumed(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }
}

/// Returns whether a frame contains a blank frame, and behind it bytes that may be a trailer. The result is a hint for
/// receivers whose trailer is not set, because anybody can forge a blank frame.
pub(super) fn holds_blank(blank: Blank, frame: &[u8]) -> bool {
    let start = frame.get(..SEARCH_LEN).unwrap_or(frame);
    let end = frame.get(frame.len().saturating_sub(SEARCH_LEN)..).unwrap_or_default();
    let known = blank.known();
    [start, end].into_iter().any(|part| {
        memmem::rfind(part, known).and_then(|at| part.get(at + known.len()..)).is_some_and(|behind| {
            // Continued silence is the silence of a sender without encryption.
            behind.len() >= MIN_TRAILER && known.last() != behind.first()
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::LIVEKIT;
    use proptest::prelude::*;

    fn blanks() -> Vec<Option<Blank>> {
        LIVEKIT.blanks.iter().map(|(_, blank)| Some(*blank)).chain([None]).collect()
    }

    /// Generates whole and damaged pieces of frames that servers send, in any order.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let whole = blanks().into_iter().flatten().flat_map(|blank| match blank {
            Blank::Bytes(bytes) => vec![bytes.to_vec()],
            Blank::Units(units) => {
                let units = units.iter().flat_map(|unit| [unit.to_vec(), [&[0, 0, 0, 1], *unit].concat()]);
                units.collect()
            }
        });
        let whole: Vec<Vec<u8>> = whole.chain([b"LK-ROCKS".to_vec(), vec![], vec![0x0C; 40]]).collect();
        let piece = (prop::sample::select(whole), any::<prop::sample::Index>(), 0..6_u8);
        let damaged = piece.prop_map(|(piece, at, kind)| match kind {
            0 => piece.get(at.index(piece.len() + 1)..).unwrap_or_default().to_vec(),
            1 => piece.get(..at.index(piece.len() + 1)).unwrap_or_default().to_vec(),
            _ => piece,
        });
        prop::collection::vec(damaged, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_is_joined_is_cut_at_blank_frames_and_nowhere_else(
            frame in pieces(), blank in prop::sample::select(blanks())
        ) {
            let filter = SifFilter::new(blank);
            prop_assert_eq!(filter.cut(&frame), &frame[..]);
            filter.set_trailer(Some(b"LK-ROCKS")).unwrap();
            let rest = filter.cut(&frame);
            prop_assert_eq!(filter.cut(rest), rest, "a second cut finds nothing");
            let at = rest.as_ptr().addr() - frame.as_ptr().addr();
            let (before, behind) = (frame.get(..at).unwrap(), frame.get(at + rest.len()..).unwrap());
            for cut_off in [before, behind].into_iter().filter(|part| !part.is_empty()) {
                prop_assert!(cut_off.ends_with(b"LK-ROCKS"));
                let payload = cut_off.strip_suffix(b"LK-ROCKS").unwrap();
                let is_blank = blank.is_some_and(|blank| blank.is(filter.cut(payload)));
                prop_assert!(is_blank || memmem::find(payload, b"LK-ROCKS").is_some());
            }
            if let Some(blank) = blank {
                holds_blank(blank, &frame);
            }
        }
    }
}
