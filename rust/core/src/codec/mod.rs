//! Codecs, and which bytes of their frames stay readable.
//!
//! Forwarders look for key frames and packetisers for start codes: what they read stays clear and is authenticated.
#![deny(clippy::indexing_slicing)]

pub(crate) mod annexb;
pub(crate) mod nal;
mod slice_header;

pub(crate) use self::nal::Standard;

use std::borrow::Cow;

use self::annexb::{NotAnnexB, Slice};
use self::slice_header::SliceHeader;

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Opus (RFC 6716).
    Opus,
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722.
    G722,
    /// VP8 (RFC 6386).
    Vp8,
    /// VP9.
    Vp9,
    /// H.264, as an Annex B byte stream.
    H264,
    /// H.265, as an Annex B byte stream.
    H265,
    /// AV1.
    Av1,
    /// Nothing of the frame is known, so nothing of it stays clear.
    Unknown,
}

/// A codec's rule for its clear bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// The first so many bytes: an audio packet's first byte (Opus: its TOC), or none.
    First(usize),
    /// RFC 6386 section 9.1: the frame tag, and on a key frame the start code and the sizes behind it.
    Vp8,
    /// Everything up to two bytes into the first slice; what follows is escaped.
    AnnexB(Standard),
}

/// Not a frame of this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodecMismatch;

/// A frame in the form in which it is sealed.
pub(crate) struct Prepared<'a> {
    pub(crate) frame: Cow<'a, [u8]>,
    pub(crate) clear_len: usize,
    /// Whether the sealed part has to be free of start codes.
    pub(crate) escaped: bool,
    /// What receivers have to read from the sealed frame as from the plain one, though some of it is ciphertext.
    pub(crate) kept: Option<Kept>,
}

/// The header of the first slice, and where that slice begins.
pub(crate) struct Kept {
    header: SliceHeader,
    start: usize,
}

/// An access unit of H.264 or H.265, before it is sealed.
pub(crate) enum AccessUnit<'a> {
    /// Has a slice, in which the sealed part begins.
    Sealable(Prepared<'a>),
    /// Has no slice, and receivers do not agree on such. Holds the units that may wait for one.
    Waiting(Vec<u8>),
}

impl<'a> Prepared<'a> {
    pub(crate) fn as_it_is(frame: &'a [u8], clear_len: usize) -> Self {
        Self { frame: Cow::Borrowed(frame), clear_len, escaped: false, kept: None }
    }

    fn access_unit(frame: Cow<'a, [u8]>, slice: Slice) -> Self {
        let (start, clear_len) = (slice.start, slice.clear_len());
        let header = SliceHeader::hidden(&frame, start, clear_len, slice.standard);
        let kept = header.map(|header| Kept { header, start });
        Self { frame, clear_len, escaped: true, kept }
    }

    pub(crate) fn into_owned(self) -> Prepared<'static> {
        Prepared { frame: Cow::Owned(self.frame.into_owned()), ..self }
    }

    /// Whether receivers read the first slice of the sealed frame as that of the plain one.
    #[inline(always)]
    pub(crate) fn is_kept(&self, sealed: &[u8]) -> bool {
        self.kept.as_ref().is_none_or(|Kept { header, start }| header.is_kept(sealed, *start, self.clear_len))
    }
}

impl<'a> AccessUnit<'a> {
    /// Finds out what becomes of `frame`, which `overhead` bytes will follow on the wire.
    ///
    /// The bytes say where the slice lies and of which standard it is, since receivers look at nothing else. What was
    /// signalled decides only where no slice can be sealed in.
    pub(crate) fn new(frame: &'a [u8], signalled: Standard, overhead: usize) -> Result<Self, CodecMismatch> {
        let slice = annexb::first_slice(frame, overhead).map_err(|NotAnnexB| CodecMismatch)?;
        if let Some((frame, slice)) = slice.and_then(|slice| annexb::normalize(frame, slice)) {
            return Ok(Self::Sealable(Prepared::access_unit(frame, slice)));
        }
        if slice.is_some_and(|slice| slice.standard == signalled) {
            return Err(CodecMismatch);
        }
        annexb::readable_units(frame, signalled).map(Self::Waiting).ok_or(CodecMismatch)
    }
}

const VP8_KEY: usize = 10;
const VP8_DELTA: usize = 3;

impl Codec {
    /// Every codec under its name.
    pub const NAMED: [(&'static str, Self); 9] = [
        ("opus", Self::Opus),
        ("pcmu", Self::Pcmu),
        ("pcma", Self::Pcma),
        ("g722", Self::G722),
        ("vp8", Self::Vp8),
        ("vp9", Self::Vp9),
        ("h264", Self::H264),
        ("h265", Self::H265),
        ("av1", Self::Av1),
    ];

    /// Finds a codec by its name, lower case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|&(_, codec)| codec)
    }

    /// Its name, lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, codec)| *codec == self).map_or("none", |(name, _)| name)
    }

    /// The standard whose byte streams the codec's packetiser takes apart.
    pub(crate) fn annexb(self) -> Option<Standard> {
        match self {
            Self::H264 => Some(Standard::H264),
            Self::H265 => Some(Standard::H265),
            _ => None,
        }
    }

    /// None for AV1: its packetiser parses what we would have sealed, so the layouts in the field refuse it.
    pub(crate) fn clear(self) -> Option<Clear> {
        match self {
            Self::Opus | Self::Pcmu | Self::Pcma | Self::G722 => Some(Clear::First(1)),
            Self::Vp8 => Some(Clear::Vp8),
            Self::Vp9 | Self::Unknown => Some(Clear::First(0)),
            Self::H264 => Some(Clear::AnnexB(Standard::H264)),
            Self::H265 => Some(Clear::AnnexB(Standard::H265)),
            Self::Av1 => None,
        }
    }
}

/// Copies clear bytes; for the one of an audio frame without the call that copying so little would be.
#[inline(always)]
pub(crate) fn copy_clear(place: &mut [u8], clear: &[u8]) {
    match (place, clear) {
        ([place], [byte]) => *place = *byte,
        (place, clear) => place.copy_from_slice(clear),
    }
}

fn vp8_clear_len(frame: &[u8]) -> usize {
    match frame.first() {
        Some(tag) if tag & 1 == 0 => VP8_KEY,
        _ => VP8_DELTA,
    }
}

impl Clear {
    /// How many bytes of a frame stay clear, where that shows in its first byte. None: in a byte stream of NAL units.
    #[inline(always)]
    pub(crate) fn first(self, frame: &[u8]) -> Option<usize> {
        match self {
            Self::First(clear_len) => Some(clear_len),
            Self::Vp8 => Some(vp8_clear_len(frame)),
            Self::AnnexB(_) => None,
        }
    }

    /// How many bytes of a sealed frame are clear, and whether the rest is escaped. Never fails: what does not fit
    /// will not authenticate.
    #[inline(always)]
    pub(crate) fn read(self, sealed: &[u8]) -> (usize, bool) {
        match self {
            Self::First(clear_len) => (clear_len, false),
            Self::Vp8 => (vp8_clear_len(sealed), false),
            Self::AnnexB(_) => match annexb::first_slice(sealed, 0) {
                Ok(Some(slice)) => (slice.clear_len(), true),
                // LiveKit's worker falls back to the VP8 rule by frame type, and does not escape.
                _ if annexb::has_unit(sealed, |header| matches!(nal::h264_type(header), 7 | 8)) => (VP8_KEY, false),
                _ => (VP8_DELTA, false),
            },
        }
    }
}
