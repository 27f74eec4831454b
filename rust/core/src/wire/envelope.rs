//! The envelope: wraps an SFrame into one NAL unit, for packetisers that look for NAL units (H.264, H.265).
//!
//! ```text
//! | 00 00 00 01 | NAL header | SFrame header, ciphertext, tag: escaped as one run | 80 |
//! ```
//!
//! RFC 9605 leaves packetising open, and an SFrame is no byte stream. So the SFrame is the payload of a single NAL
//! unit: a start code, a NAL header, and escapes against start codes. The last byte is not zero, because packetisers
//! strip zeros behind a unit. Packetisers of H.264 (RFC 6184) and H.265 (RFC 7798) carry the unit like a slice.
//!
//! The NAL type is "parameter set" for a key frame and "slice" for others. Forwarders look for these types when they
//! switch streams. The NAL header is not authenticated, and receivers ignore it.
#![deny(clippy::indexing_slicing)]

use crate::codec::{Standard, annexb};

const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// The last byte of the unit.
const STOP: u8 = 0x80;

/// The bytes around a sealed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    header: &'static [u8],
}

impl Envelope {
    /// Returns the envelope of a key frame or another frame.
    pub(crate) fn new(standard: Standard, key_frame: bool) -> Self {
        Self { header: standard.header(key_frame) }
    }

    /// Returns the number of bytes in front of the sealed frame. They are not escaped.
    pub(crate) fn front_len(self) -> usize {
        START_CODE.len() + self.header.len()
    }

    /// Returns the number of bytes that the envelope adds, without escapes.
    pub(crate) fn overhead(self) -> usize {
        self.front_len() + 1
    }

    /// Writes the envelope and returns the place inside, or `None` if `out` is too short.
    pub(crate) fn write(self, out: &mut [u8]) -> Option<&mut [u8]> {
        let (front, rest) = out.split_at_mut_checked(self.front_len())?;
        let (start_code, header) = front.split_at_mut_checked(START_CODE.len())?;
        start_code.copy_from_slice(&START_CODE);
        header.copy_from_slice(self.header);
        let (stop, inside) = rest.split_last_mut()?;
        *stop = STOP;
        Some(inside)
    }

    /// Returns the bytes inside the envelope, still escaped, or `None` if there is no envelope.
    pub(crate) fn open(standard: Standard, sealed: &[u8]) -> Option<&[u8]> {
        let front_len = Self::new(standard, false).front_len();
        let (front, rest) = sealed.split_at_checked(front_len)?;
        let (&stop, inside) = rest.split_last()?;
        (front.starts_with(&START_CODE) && stop == STOP).then_some(inside)
    }
}

/// Returns whether a frame starts a new picture sequence. A frame that is no byte stream does not.
pub(crate) fn is_key_frame(standard: Standard, frame: &[u8]) -> bool {
    annexb::has_unit(frame, |header| standard.begins_sequence(header))
}
