//! Profiles: the layout and the keys of each vendor. No other file names vendors.

use crate::codec::{Blank, Clear, ClearBytes, Codec, FrameTag};
use crate::error::ConfigError;
use crate::key_schedule::{KeySchedule, SframeSchedule, TrailerSchedule};
use crate::suite::{AES_128_GCM_SHA256_128, AES_256_GCM_SHA512_128, CipherSuite, SUITES};
use crate::wire::Wire;

/// The layout of a vendor, and its parameters. A vendor is one row.
pub struct Profile {
    /// The name that users write.
    pub name: &'static str,
    pub(crate) wire: Wire,
    /// KDFs, salts, the length of ratcheted material, and whether there is a KDF for passphrases.
    pub(crate) schedule: KeySchedule,
    /// The suites to choose from; the first is the default.
    pub(crate) suites: &'static [&'static CipherSuite],
    /// Frames that a receiver remembers by default; 0 turns replay protection off.
    pub(crate) replay_window: usize,
    /// The number of bytes of a frame that stay clear, by codec. `None` means that the layout leaves none clear.
    pub(crate) clear: Option<ClearBytes>,
    /// The codecs that the profile supports, or `None` if its clear bytes decide. Tracks without a codec are always
    /// supported.
    pub(crate) only: Option<&'static [Codec]>,
    /// The blank frames that the vendor's server injects.
    pub(crate) blanks: &'static [(Codec, Blank)],
}

impl Profile {
    /// Returns the rule that finds the clear bytes of a frame.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedCodec`].
    pub(crate) fn clear(&self, codec: Codec) -> Result<Clear, ConfigError> {
        let refused = ConfigError::UnsupportedCodec { codec: codec.name(), profile: self.name };
        if codec.info().is_some() && self.only.is_some_and(|only| !only.contains(&codec)) {
            return Err(refused);
        }
        let Some(clear) = &self.clear else { return Ok(Clear::First(0)) };
        clear.of(codec).ok_or(refused)
    }

    /// Returns the blank frame of a codec, or `None` if the vendor's server injects none of it.
    pub(crate) fn blank(&self, codec: Codec) -> Option<Blank> {
        self.blanks.iter().find(|(of, _)| *of == codec).map(|&(_, blank)| blank)
    }

    /// Returns whether the profile has a layout for frames of this codec.
    #[must_use]
    pub fn accepts(&self, codec: Codec) -> bool {
        self.clear(codec).is_ok()
    }

    /// Returns whether the profile has a password KDF.
    #[must_use]
    pub fn accepts_passphrases(&self) -> bool {
        self.schedule.accepts_passphrases()
    }

    /// Returns the name of the layout: "trailer", "footer" or "sframe".
    #[must_use]
    pub fn layout(&self) -> &'static str {
        match self.wire {
            Wire::Trailer => "trailer",
            Wire::Footer => "footer",
            Wire::Sframe => "sframe",
        }
    }

    /// Returns the requested suite, or the first suite with keys of this size, or the default.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedSuite`], [`ConfigError::KeySize`].
    pub(crate) fn suite(
        &self,
        asked: Option<&'static CipherSuite>,
        key_size: Option<u16>,
    ) -> Result<&'static CipherSuite, ConfigError> {
        let fits = |suite: &&&'static CipherSuite| {
            asked.is_none_or(|asked| asked.id == suite.id)
                && key_size.is_none_or(|bits| usize::from(bits) == suite.key_len * 8)
        };
        match (self.suites.iter().find(fits), asked) {
            (Some(suite), _) => Ok(suite),
            (None, Some(asked)) if self.suites.iter().all(|suite| suite.id != asked.id) => {
                Err(ConfigError::UnsupportedSuite { suite: asked.name, profile: self.name })
            }
            (None, asked) => {
                let default = asked.or(self.suites.first().copied()).map_or(0, |suite| suite.key_len * 8);
                Err(ConfigError::KeySize { given: key_size.unwrap_or_default(), default, profile: self.name })
            }
        }
    }

    /// Returns the profile with this name, or `None` if there is none.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|profile| profile.name == name)
    }
}

/// The clear bytes of the trailer layout, which forwarders read of each codec.
const CLEAR: ClearBytes = ClearBytes {
    audio: 1,
    frame_tag: FrameTag { key: 10, delta: 3 },
    opaque: Some(FrameTag { key: 0, delta: 0 }),
    byte_streams: true,
};

/// LiveKit's clients and native SDKs, and products built on them (Element Call).
pub static LIVEKIT: Profile = Profile {
    name: "livekit",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule::with_salt(b"LKFrameEncryptionKey")),
    suites: &[&AES_128_GCM_SHA256_128, &AES_256_GCM_SHA512_128],
    replay_window: 0,
    clear: Some(CLEAR),
    only: None,
    blanks: LIVEKIT_BLANKS,
};

/// VideoSDK's clients. Experimental: the values are read from their packages and not verified in a live room yet.
pub static VIDEOSDK: Profile = Profile {
    name: "videosdk",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule::with_salt(b"VideoSDKEncryptionRatchetSalt")),
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
    clear: Some(CLEAR),
    only: None,
    blanks: LIVEKIT_BLANKS,
};

/// Jitsi Meet's clients ("JFrame"), with raw keys only. Their clear bytes depend on the type of the frame alone.
/// Neither VP9 nor an unescaped H.264 or H.265 frame would pass a packetiser that way.
pub static JITSI: Profile = Profile {
    name: "jitsi",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule {
        ratchet_salt: b"JFrameRatchetKey",
        iterations: None,
        info: &[],
        ..TrailerSchedule::with_salt(b"JFrameEncryptionKey")
    }),
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
    clear: Some(ClearBytes { opaque: None, byte_streams: false, ..CLEAR }),
    only: None,
    blanks: LIVEKIT_BLANKS,
};

/// Nextcloud Talk's clients: the frame of Jitsi Meet with other salts. Their IVs hold an SSRC and a timestamp, or a
/// 64-bit counter, by the client. So an IV is a nonce here and nothing else.
pub static NEXTCLOUD: Profile = Profile {
    name: "nextcloud",
    schedule: KeySchedule::Trailer(TrailerSchedule {
        ratchet_salt: b"TalkFrameRatchetKey",
        iterations: None,
        info: &[],
        ..TrailerSchedule::with_salt(b"TalkFrameEncryptionKey")
    }),
    ..JITSI
};

/// Stream's clients (getstream). The key of the application is the AES key, and each frame says how many of its bytes
/// are clear.
pub static STREAM: Profile = Profile {
    name: "stream",
    wire: Wire::Footer,
    schedule: KeySchedule::Raw,
    suites: &[&AES_128_GCM_SHA256_128, &AES_256_GCM_SHA512_128],
    replay_window: 1024,
    clear: Some(ClearBytes { opaque: Some(CLEAR.frame_tag), ..CLEAR }),
    only: Some(&[Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264]),
    blanks: LIVEKIT_BLANKS,
};

/// SFrame (RFC 9605). The RFC defines no password KDF: PBKDF2 for passphrases, and its salt, are specific to frameseal.
pub static SFRAME: Profile = Profile {
    name: "sframe",
    wire: Wire::Sframe,
    schedule: KeySchedule::Sframe(SframeSchedule::with_passphrase_salt(b"frameseal SFrame 1.0 passphrase")),
    suites: &[
        &AES_128_GCM_SHA256_128,
        SUITES[0],
        SUITES[1],
        SUITES[2],
        &AES_256_GCM_SHA512_128,
        SUITES[5],
        SUITES[6],
        SUITES[7],
    ],
    replay_window: 1024,
    clear: None,
    only: None,
    blanks: LIVEKIT_BLANKS,
};

/// The blank frames of LiveKit's server. Every profile accepts them: no other server is known to inject any.
const LIVEKIT_BLANKS: &[(Codec, Blank)] = &[
    (Codec::Opus, Blank::Bytes(&OPUS_SILENCE)),
    (Codec::Pcmu, Blank::Bytes(&[0xFF; 160])),
    (Codec::Pcma, Blank::Bytes(&[0xD5; 160])),
    (Codec::Vp8, Blank::Bytes(VP8_BLANK)),
    (Codec::H264, Blank::Units(H264_BLANK)),
];

/// Silence: the start of an Opus packet, padded with zeros. The silence of G.711, above, lasts 20 ms.
const OPUS_SILENCE: [u8; 80] = {
    let mut packet = [0; 80];
    [packet[0], packet[1], packet[2]] = [0xF8, 0xFF, 0xFE];
    packet
};

/// A key frame of 8 by 8 pixels.
const VP8_BLANK: &[u8] = b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00\x00\x47\x08\
      \x85\x85\x88\x85\x84\x88\x02\x02\x00\x0c\x0d\x60\x00\xfe\xff\xab\x50\x80";

/// Parameter sets and a picture of 2 by 2 pixels.
const H264_BLANK: &[&[u8]] = &[
    b"\x67\x42\xc0\x1f\x0f\xd9\x1f\x88\x88\x84\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x60\xc9\x20",
    b"\x68\x87\xcb\x83\xcb\x20",
    b"\x65\x88\x84\x0a\xf2\x62\x80\x00\xa7\xbe",
];

/// Every profile.
pub static ALL: [&Profile; 6] = [&LIVEKIT, &VIDEOSDK, &JITSI, &NEXTCLOUD, &STREAM, &SFRAME];
