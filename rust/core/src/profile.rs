//! Profiles: who speaks which layout, with which keys. The only file that names vendors.

use crate::codec::{Clear, Codec};
use crate::error::ConfigError;
use crate::key_schedule::{KeySchedule, TrailerSchedule};
use crate::suite::{AES_128_GCM_SHA256_128, AES_256_GCM_SHA512_128, CipherSuite, SUITES};
use crate::wire::Wire;

/// Everything that sets one vendor's frames apart from another's over the same layout.
pub struct Profile {
    /// The name that users write.
    pub name: &'static str,
    pub(crate) wire: Wire,
    pub(crate) schedule: KeySchedule,
    /// The suites to choose from; the first is the default.
    suites: &'static [&'static CipherSuite],
    /// Frames that a receiver remembers unless it is told otherwise; 0 is none.
    pub(crate) replay_window: usize,
    /// Codecs that have a layout elsewhere and none here.
    refused: &'static [Codec],
}

impl Profile {
    /// Which bytes of a frame stay readable; an SFrame has none.
    pub(crate) fn clear(&self, codec: Codec) -> Result<Clear, ConfigError> {
        match self.wire {
            Wire::Sframe => Ok(Clear::First(0)),
            Wire::Trailer => codec
                .clear()
                .filter(|_| !self.refused.contains(&codec))
                .ok_or(ConfigError::UnsupportedCodec { codec: codec.name(), profile: self.name }),
        }
    }

    /// The suite to use: the one asked for, or the one with keys of this size, or the default.
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
            (None, Some(asked)) => Err(ConfigError::UnsupportedSuite { suite: asked.name, profile: self.name }),
            (None, None) => {
                let default = self.suites.first().map_or(0, |suite| suite.key_len * 8);
                Err(ConfigError::KeySize { given: key_size.unwrap_or_default(), default, profile: self.name })
            }
        }
    }

    /// Finds a profile by its name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|profile| profile.name == name)
    }
}

/// LiveKit's clients and native SDKs, and what is built on them (Element Call).
pub static LIVEKIT: Profile = Profile {
    name: "livekit",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule::with_salt(b"LKFrameEncryptionKey")),
    suites: &[&AES_128_GCM_SHA256_128, &AES_256_GCM_SHA512_128],
    replay_window: 0,
    refused: &[],
};

/// VideoSDK's clients. Experimental: inferred from their packages, not yet seen on the wire of a live room.
pub static VIDEOSDK: Profile = Profile {
    name: "videosdk",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule::with_salt(b"VideoSDKEncryptionRatchetSalt")),
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
    refused: &[],
};

/// Jitsi Meet's clients ("JFrame"). Raw keys only. Their clear bytes go by the frame's type alone, which neither VP9 nor
/// an unescaped H.264 or H.265 frame would bring through a packetiser.
pub static JITSI: Profile = Profile {
    name: "jitsi",
    wire: Wire::Trailer,
    schedule: KeySchedule::Trailer(TrailerSchedule {
        salt: b"JFrameEncryptionKey",
        ratchet_salt: b"JFrameRatchetKey",
        iterations: None,
        info: &[],
    }),
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
    refused: &[Codec::Vp9, Codec::H264, Codec::H265],
};

/// SFrame (RFC 9605).
pub static SFRAME: Profile = Profile {
    name: "sframe",
    wire: Wire::Sframe,
    schedule: KeySchedule::Sframe,
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
    refused: &[],
};

/// Every profile.
pub static ALL: [&Profile; 4] = [&LIVEKIT, &VIDEOSDK, &JITSI, &SFRAME];
