//! RTP payload formats: how the payloads of RTP packets carry a frame.
//!
//! A sender's encoder returns payloads. To seal a frame, they are joined, and the sealed frame is split into payloads
//! of the same format. Packetisers of the stacks do the same, in a time that a call notices.
#![deny(clippy::indexing_slicing)]

mod h264;
mod vp8;

use std::borrow::Cow;
use std::fmt;

/// The maximum length of a payload, in bytes: the maximum of the packetisers of aiortc and vsaiortc.
pub const MAX_PAYLOAD: usize = 1300;

/// How the payloads of a codec carry a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    /// One payload is one frame (RFC 7587 for Opus; RFC 3551, section 4.5, for G.711 and G.722).
    Whole,
    /// A descriptor, then a part of the frame (RFC 7741).
    Vp8,
    /// NAL units: one, several, or a fragment of one (RFC 6184, packetization mode 1).
    H264,
}

/// Payloads that do not carry one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// The format has one payload per frame, and there are more or none.
    NotOne {
        /// The number of payloads.
        given: usize,
    },
    /// A payload ends within its header.
    Truncated,
    /// The payloads end within a fragmented NAL unit.
    UnendedUnit,
    /// A fragment does not continue the NAL unit before it, or it begins and ends one.
    StrayFragment,
    /// A NAL unit has a type that the format does not carry.
    UnitType {
        /// The type.
        number: u8,
    },
}

/// The frame that payloads carry.
#[derive(Debug)]
pub struct Joined<'a> {
    /// The frame. In H.264 each NAL unit has a start code of four bytes.
    pub frame: Cow<'a, [u8]>,
    header: Header,
}

/// The format of the payloads, with the part that the payloads of the sealed frame repeat.
#[derive(Clone, Copy, Debug)]
enum Header {
    Whole,
    Vp8(vp8::Descriptor),
    H264,
}

impl PayloadFormat {
    /// Returns the name of the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Vp8 => "vp8",
            Self::H264 => "h264",
        }
    }

    /// Joins the payloads of one frame, in order.
    ///
    /// # Errors
    /// [`PayloadError`] if they do not carry one frame.
    #[inline]
    pub fn join<'a>(self, payloads: &[&'a [u8]]) -> Result<Joined<'a>, PayloadError> {
        match (self, payloads) {
            (Self::Whole, [frame]) => Ok(Joined { frame: Cow::Borrowed(frame), header: Header::Whole }),
            (Self::Whole, _) => Err(PayloadError::NotOne { given: payloads.len() }),
            (Self::Vp8, _) => vp8::join(payloads),
            (Self::H264, _) => h264::join(payloads).map(|frame| Joined { frame: frame.into(), header: Header::H264 }),
        }
    }
}

impl Joined<'_> {
    /// Splits `sealed`, the sealed form of this frame, into payloads of the same format, and calls `emit` with each.
    ///
    /// # Errors
    /// [`PayloadError::UnitType`] for a NAL unit that the format cannot carry, and every error of `emit`.
    #[inline]
    pub fn split<E: From<PayloadError>>(
        &self,
        sealed: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.header {
            Header::Whole => emit(sealed),
            Header::Vp8(descriptor) => descriptor.split(sealed, emit),
            Header::H264 => h264::split(sealed, emit),
        }
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne { given } => {
                write!(f, "payloads of this codec carry one frame each: pass one payload, not {given}")
            }
            Self::Truncated => write!(f, "payloads have an entry that ends within its header: pass whole payloads"),
            Self::UnendedUnit => {
                write!(f, "payloads end within a fragmented NAL unit of H264: pass all payloads of a picture, in order")
            }
            Self::StrayFragment => write!(
                f,
                "payloads have a fragment of H264 outside its NAL unit: pass all payloads of a picture, in order"
            ),
            Self::UnitType { number } => {
                write!(f, "payloads have a NAL unit of type {number}, which RFC 6184 does not carry in mode 1")
            }
        }
    }
}

impl std::error::Error for PayloadError {}
