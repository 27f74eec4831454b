//! Frames that a server puts into a sealed track, in the clear, when the track pauses: a blank picture, a moment of
//! silence, so that decoders flush. They end with a trailer that the server tells clients when they join.
//!
//! Everybody in the room knows the trailer, so it proves nothing: what passes is one of a few known payloads, of the
//! track's codec, and only so many in a row. It is never a frame that was opened.
#![deny(clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU32, Ordering};

use crate::codec::Codec;
use crate::error::KeyError;

/// The least bytes of a trailer: chance brings it about once in 2^64 frames.
const LEAST_TRAILER: usize = 8;

/// Injected frames that pass without a sealed one between them.
const MOST_IN_A_ROW: u32 = 100;

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

/// What passes on one track.
pub(crate) struct Injected {
    trailer: Vec<u8>,
    codec: Codec,
    in_a_row: AtomicU32,
}

/// Not a payload that a server injects, or too many in a row.
pub(crate) struct Refused;

impl Injected {
    pub(crate) fn new(codec: Codec, trailer: &[u8]) -> Result<Self, KeyError> {
        if trailer.len() < LEAST_TRAILER {
            return Err(KeyError::ShortTrailer { given: trailer.len(), least: LEAST_TRAILER });
        }
        Ok(Self { trailer: trailer.to_vec(), codec, in_a_row: AtomicU32::new(0) })
    }

    /// Whether the frame ends as injected frames do.
    pub(crate) fn has_trailer(&self, frame: &[u8]) -> bool {
        frame.ends_with(&self.trailer)
    }

    /// The payload of an injected frame. None: the frame is none.
    pub(crate) fn payload<'a>(&self, frame: &'a [u8]) -> Option<Result<&'a [u8], Refused>> {
        let payload = frame.strip_suffix(self.trailer.as_slice())?;
        if self.in_a_row.load(Ordering::Relaxed) >= MOST_IN_A_ROW || !is_blank(self.codec, payload) {
            return Some(Err(Refused));
        }
        self.in_a_row.fetch_add(1, Ordering::Relaxed);
        Some(Ok(payload))
    }

    /// A sealed frame was opened.
    pub(crate) fn resumed(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }
}

fn is_blank(codec: Codec, payload: &[u8]) -> bool {
    let g711 = |sample: u8| payload.len() == G711_LEN && payload.iter().all(|byte| *byte == sample);
    match codec {
        Codec::Opus => {
            payload.len() == OPUS_LEN
                && payload.strip_prefix(OPUS_SILENCE).is_some_and(|padding| padding.iter().all(|byte| *byte == 0))
        }
        Codec::Pcmu => g711(0xFF),
        Codec::Pcma => g711(0xD5),
        Codec::Vp8 => payload == VP8_BLANK,
        Codec::H264 => H264_UNITS.contains(&payload) || is_blank_annexb(payload),
        Codec::G722 | Codec::Vp9 | Codec::H265 | Codec::Av1 | Codec::Unknown => false,
    }
}

/// Known units behind start codes of three or four bytes, at least one.
fn is_blank_annexb(mut payload: &[u8]) -> bool {
    loop {
        let Some(unit) = payload.strip_prefix(&[0, 0, 0, 1]).or_else(|| payload.strip_prefix(&[0, 0, 1])) else {
            return false;
        };
        let Some(rest) = H264_UNITS.iter().find_map(|known| unit.strip_prefix(*known)) else { return false };
        if rest.is_empty() {
            return true;
        }
        payload = rest;
    }
}
