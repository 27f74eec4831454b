//! Blank frames: a moment of silence, or a black picture. Servers inject them into sealed tracks in the clear. A
//! profile lists the blank frames of its server.
#![deny(clippy::indexing_slicing)]

/// A blank frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blank {
    /// Exactly these bytes.
    Bytes(&'static [u8]),
    /// NAL units of this list: one alone, or any number behind start codes of three or four bytes. The blank frames of
    /// a server contain the last unit, the picture.
    Units(&'static [&'static [u8]]),
}

impl Blank {
    /// Returns whether `payload` is the blank frame and nothing else.
    pub(crate) fn is(self, payload: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => payload == bytes,
            Self::Units(units) => units.contains(&payload) || self.strip_start(payload).is_some_and(<[u8]>::is_empty),
        }
    }

    /// Returns bytes that the blank frames of a server contain.
    pub(crate) fn known(self) -> &'static [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Units(units) => units.last().copied().unwrap_or_default(),
        }
    }

    /// Returns the part of `frame` before the blank frame at its end. Returns `None` if it ends in no blank frame.
    pub(crate) fn strip_end(self, frame: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => frame.strip_suffix(bytes),
            Self::Units(units) => {
                let strip =
                    |frame| units.iter().find_map(|unit| strip_start_code_end(<[u8]>::strip_suffix(frame, *unit)?));
                std::iter::successors(strip(frame), |rest| strip(rest)).last()
            }
        }
    }

    /// Returns the part of `frame` behind the blank frame at its start, or `None` if it does not start with one.
    #[inline(always)]
    pub(crate) fn strip_start(self, frame: &[u8]) -> Option<&[u8]> {
        match self {
            // The first byte of most frames is another one, which saves the `memcmp` call.
            Self::Bytes(bytes) if frame.first() != bytes.first() => None,
            Self::Bytes(bytes) => frame.strip_prefix(bytes),
            Self::Units(units) => strip_units(units, frame),
        }
    }
}

fn strip_units<'a>(units: &[&[u8]], frame: &'a [u8]) -> Option<&'a [u8]> {
    let strip = |frame: &'a [u8]| units.iter().find_map(|unit| strip_start_code(frame)?.strip_prefix(*unit));
    std::iter::successors(strip(frame), |rest| strip(rest)).last()
}

fn strip_start_code_end(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_suffix(&[0, 0, 0, 1]).or_else(|| frame.strip_suffix(&[0, 0, 1]))
}

fn strip_start_code(frame: &[u8]) -> Option<&[u8]> {
    frame.strip_prefix(&[0, 0, 0, 1]).or_else(|| frame.strip_prefix(&[0, 0, 1]))
}
