//! The codecs, and the bytes of their frames that stay readable.
//!
//! Forwarders look for key frames, and packetisers for start codes. The bytes that they read are authenticated, but
//! stay clear.
#![deny(clippy::indexing_slicing)]

pub(crate) mod annexb;
mod blank;
pub(crate) mod nal;
mod payload;
mod slice_header;

pub(crate) use self::blank::Blank;
pub(crate) use self::nal::Standard;
pub use self::payload::{Joined, MAX_PAYLOAD, PayloadError, PayloadFormat};

use std::borrow::Cow;

use self::annexb::{NotAnnexB, Slice};
use self::slice_header::SliceHeader;

/// Defines the codecs, one row each: the variant and its [`CodecInfo`]. Apart from the rows of vendors in `profile.rs`,
/// no other code of the core names a codec.
macro_rules! codecs {
    ($($(#[$doc:meta])* $codec:ident => $info:expr,)+) => {
        /// The codec of a track.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Codec {
            $($(#[$doc])* $codec,)+
            /// The codec is not known, so no byte of its frames stays clear.
            Unknown,
            /// A codec that a test made up: see `hazmat::made_up_audio_codec`.
            #[cfg(feature = "hazmat")]
            MadeUp(&'static CodecInfo),
        }

        impl Codec {
            /// Every codec that has a name.
            pub const ALL: &'static [Self] = &[$(Self::$codec),+];

            /// Returns the row of the codec, or `None` for [`Self::Unknown`].
            #[must_use]
            pub fn info(self) -> Option<&'static CodecInfo> {
                match self {
                    $(Self::$codec => { static INFO: CodecInfo = $info; Some(&INFO) })+
                    Self::Unknown => None,
                    #[cfg(feature = "hazmat")]
                    Self::MadeUp(info) => Some(info),
                }
            }
        }
    };
}

codecs! {
    /// Opus (RFC 6716).
    Opus => CodecInfo {
        name: "opus", kind: Kind::Audio, clock_rate: 48_000,
        payloads: Some(PayloadFormat::Whole), rule: ClearRule::Audio,
    },
    /// G.711 mu-law.
    Pcmu => CodecInfo {
        name: "pcmu", kind: Kind::Audio, clock_rate: 8_000,
        payloads: Some(PayloadFormat::Whole), rule: ClearRule::Audio,
    },
    /// G.711 A-law.
    Pcma => CodecInfo {
        name: "pcma", kind: Kind::Audio, clock_rate: 8_000,
        payloads: Some(PayloadFormat::Whole), rule: ClearRule::Audio,
    },
    /// G.722. Its RTP clock runs at 8 kHz although it samples at 16 kHz (RFC 3551, section 4.5.2).
    G722 => CodecInfo {
        name: "g722", kind: Kind::Audio, clock_rate: 8_000,
        payloads: Some(PayloadFormat::Whole), rule: ClearRule::Audio,
    },
    /// VP8 (RFC 6386).
    Vp8 => CodecInfo {
        name: "vp8", kind: Kind::Video, clock_rate: 90_000,
        payloads: Some(PayloadFormat::Vp8), rule: ClearRule::Vp8,
    },
    /// VP9.
    Vp9 => CodecInfo {
        name: "vp9", kind: Kind::Video, clock_rate: 90_000,
        payloads: None, rule: ClearRule::Opaque,
    },
    /// H.264, as an Annex B byte stream.
    H264 => CodecInfo {
        name: "h264", kind: Kind::Video, clock_rate: 90_000,
        payloads: Some(PayloadFormat::H264), rule: ClearRule::AnnexB(Standard::H264),
    },
    /// H.265, as an Annex B byte stream.
    H265 => CodecInfo {
        name: "h265", kind: Kind::Video, clock_rate: 90_000,
        payloads: None, rule: ClearRule::AnnexB(Standard::H265),
    },
    /// AV1.
    Av1 => CodecInfo {
        name: "av1", kind: Kind::Video, clock_rate: 90_000,
        payloads: None, rule: ClearRule::Parsed,
    },
}

/// The properties of a codec: its row in the table.
#[derive(Debug, PartialEq, Eq)]
pub struct CodecInfo {
    /// The name: the last part of the mime type, lower case.
    pub name: &'static str,
    /// The kind of media.
    pub kind: Kind,
    /// Ticks per second of the RTP clock.
    pub clock_rate: u32,
    /// How RTP payloads carry the frames. `None` means that this crate does not know it.
    pub payloads: Option<PayloadFormat>,
    pub(crate) rule: ClearRule,
}

/// The kind of media that a codec encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

/// The part of a codec's frames that forwarders and packetisers read. The profile decides how many bytes of it stay
/// clear: see [`ClearBytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClearRule {
    /// The start of an audio packet, such as the TOC byte of Opus.
    Audio,
    /// The frame tag of VP8 (RFC 6386, section 9.1). In a key frame, the start code and the sizes behind it too.
    Vp8,
    /// No part, or the start of VP9's uncompressed header (VP9 bitstream specification, section 6.2).
    Opaque,
    /// The NAL units of a byte stream, up to the first slice.
    AnnexB(Standard),
    /// All of the frame: packetisers parse the part that would be sealed. Layouts with clear bytes refuse the codec.
    Parsed,
}

/// The numbers of bytes that a profile leaves clear, by the codec's rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClearBytes {
    /// Bytes of an audio packet.
    pub(crate) audio: u8,
    /// Bytes of a VP8 frame.
    pub(crate) frame_tag: FrameTag,
    /// Bytes of a frame with the rule [`ClearRule::Opaque`]. `None` means that the profile refuses the codec.
    pub(crate) opaque: Option<FrameTag>,
    /// True if the profile has a layout for byte streams. Otherwise it refuses H.264 and H.265.
    pub(crate) byte_streams: bool,
}

/// Clear bytes by the type of a VP8 or VP9 frame, which a bit of its first byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameTag {
    pub(crate) key: u8,
    pub(crate) delta: u8,
}

/// Finds the clear bytes of one track's frames: a codec's rule with the profile's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// This number of bytes at the start of a frame.
    First(u8),
    /// A number of bytes that depends on the frame tag.
    Vp8(FrameTag),
    /// A number of bytes that depends on the uncompressed header of VP9.
    Vp9(FrameTag),
    /// All bytes up to two bytes into the first slice; the rest is escaped. Without a slice, the number depends on the
    /// frame type.
    AnnexB(Standard, FrameTag),
}

/// The frame is not a frame of this codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodecMismatch;

/// A frame in its sealable form.
pub(crate) struct Prepared<'a> {
    pub(crate) frame: Cow<'a, [u8]>,
    pub(crate) clear_len: usize,
    /// True if the sealed part must be free of start codes.
    pub(crate) escaped: bool,
    /// The slice header, if a part of it is ciphertext. Receivers must read the same values from the sealed frame.
    /// `None` means that nothing needs to be kept.
    pub(crate) kept: Option<Kept>,
}

/// The header of the first slice, to be kept readable.
pub(crate) struct Kept {
    header: SliceHeader,
    /// The offset of the slice's NAL unit.
    start: usize,
}

/// An access unit of H.264 or H.265, before it is sealed.
pub(crate) enum AccessUnit<'a> {
    /// An access unit with a slice, in which the sealed part begins.
    Sealable(Prepared<'a>),
    /// An access unit without a slice. Receivers do not agree on how to open it, so its parameter sets wait for a
    /// slice.
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

    /// Returns whether receivers read the same slice header from the sealed frame as from the plain frame.
    #[inline(always)]
    pub(crate) fn is_kept(&self, sealed: &[u8], counts_zeros: bool) -> bool {
        let is_kept = |kept: &Kept| kept.header.is_kept(sealed, kept.start, self.clear_len, counts_zeros);
        self.kept.as_ref().is_none_or(is_kept)
    }
}

impl<'a> AccessUnit<'a> {
    /// Decides how `frame`, which `overhead` bytes follow on the wire, can be sealed.
    ///
    /// The bytes determine where the slice lies and which standard it follows, since receivers look at nothing else.
    /// The signalled standard decides only if no slice can be sealed.
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

impl CodecInfo {
    /// Returns the name of the rule for the clear bytes. Returns `None` if only a layout without clear bytes supports
    /// the codec.
    #[must_use]
    pub fn clear_rule(&self) -> Option<&'static str> {
        match self.rule {
            ClearRule::Audio => Some("audio"),
            ClearRule::Vp8 => Some("vp8"),
            ClearRule::Opaque => Some("opaque"),
            ClearRule::AnnexB(_) => Some("annexb"),
            ClearRule::Parsed => None,
        }
    }

    /// Returns the length of a NAL unit's header in bytes. Returns 0 if the codec's frames are not byte streams of NAL
    /// units.
    #[must_use]
    pub fn nal_header_len(&self) -> usize {
        match self.rule {
            ClearRule::AnnexB(standard) => standard.header_len(),
            _ => 0,
        }
    }
}

impl Kind {
    /// Returns the name: the first part of the mime type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

impl Codec {
    /// Returns the codec with this lower-case name, or `None` if there is none.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|codec| codec.name() == name)
    }

    /// Returns the lower-case name. It is "none" for [`Self::Unknown`].
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().map_or("none", |info| info.name)
    }

    /// Returns the standard whose byte streams the codec's packetiser parses, or `None` if it parses none.
    pub(crate) fn annexb(self) -> Option<Standard> {
        match self.rule() {
            ClearRule::AnnexB(standard) => Some(standard),
            _ => None,
        }
    }

    fn rule(self) -> ClearRule {
        self.info().map_or(ClearRule::Opaque, |info| info.rule)
    }
}

impl ClearBytes {
    /// Returns how to find the clear bytes of this codec's frames, or `None` if the codec is refused. No profile
    /// refuses [`Codec::Unknown`]: no byte of its frames stays clear.
    pub(crate) fn of(&self, codec: Codec) -> Option<Clear> {
        match codec.rule() {
            ClearRule::Audio => Some(Clear::First(self.audio)),
            ClearRule::Vp8 => Some(Clear::Vp8(self.frame_tag)),
            ClearRule::Opaque if codec.info().is_none() => Some(Clear::First(0)),
            ClearRule::Opaque => {
                self.opaque.map(|tag| if tag.key == tag.delta { Clear::First(tag.key) } else { Clear::Vp9(tag) })
            }
            ClearRule::AnnexB(standard) => self.byte_streams.then_some(Clear::AnnexB(standard, self.frame_tag)),
            ClearRule::Parsed => None,
        }
    }
}

impl FrameTag {
    #[inline(always)]
    fn clear_len(self, frame: &[u8]) -> usize {
        usize::from(match frame.first() {
            Some(tag) if tag & 1 == 0 => self.key,
            _ => self.delta,
        })
    }

    /// Returns the number for a VP9 frame. Profile 3 has a reserved bit in front of the bits that show an existing
    /// frame and the type.
    #[inline(always)]
    fn vp9_clear_len(self, frame: &[u8]) -> usize {
        let Some(&first) = frame.first() else { return usize::from(self.delta) };
        let bits = if first & 0x30 == 0x30 { first >> 1 } else { first >> 2 } & 0b11;
        usize::from(if bits == 0 { self.key } else { self.delta })
    }
}

/// Copies the clear bytes. Audio mostly has exactly one: assign it, since a `memcpy` call would cost more.
#[inline(always)]
pub(crate) fn copy_clear(place: &mut [u8], clear: &[u8]) {
    match (place, clear) {
        ([place], [byte]) => *place = *byte,
        (place, clear) => place.copy_from_slice(clear),
    }
}

impl Clear {
    /// Returns how many bytes of a frame stay clear, which its first byte may determine. Returns `None` for a byte
    /// stream.
    #[inline(always)]
    pub(crate) fn first(self, frame: &[u8]) -> Option<usize> {
        match self {
            Self::First(clear_len) => Some(usize::from(clear_len)),
            Self::Vp8(tag) => Some(tag.clear_len(frame)),
            Self::Vp9(tag) => Some(tag.vp9_clear_len(frame)),
            Self::AnnexB(..) => None,
        }
    }

    /// Returns how many bytes of a sealed frame are clear, and whether the rest is escaped. Never fails: a frame that
    /// does not fit the rule does not authenticate.
    #[inline(always)]
    pub(crate) fn read(self, sealed: &[u8]) -> (usize, bool) {
        match self {
            Self::First(clear_len) => (usize::from(clear_len), false),
            Self::Vp8(tag) => (tag.clear_len(sealed), false),
            Self::Vp9(tag) => (tag.vp9_clear_len(sealed), false),
            Self::AnnexB(_, FrameTag { key, delta }) => match annexb::first_slice(sealed, 0) {
                Ok(Some(slice)) => (slice.clear_len(), true),
                // The browsers' worker falls back to the VP8 rule by frame type, and does not escape.
                _ if annexb::has_unit(sealed, |header| matches!(nal::h264_type(header), 7 | 8)) => (key.into(), false),
                _ => (delta.into(), false),
            },
        }
    }
}
