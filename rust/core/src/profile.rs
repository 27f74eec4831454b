//! Profiles: who speaks which layout, with which keys. The only file that names vendors.

use std::num::NonZeroU32;

use crate::codec::{Clear, Codec};
use crate::error::KeyError;
use crate::secret::{Kdf, Secret};
use crate::suite::{AES_128, AES_256, CipherSuite, hkdf_sha256, pbkdf2_sha256};

/// Everything that sets one vendor's frames apart from another's over the same layout.
pub struct Profile {
    /// The name that users write.
    pub name: &'static str,
    pub(crate) schedule: KeySchedule,
    /// The suites by key size in bits; the first is the default.
    pub(crate) suites: &'static [(u16, &'static CipherSuite)],
    /// Frames that a receiver remembers unless it is told otherwise; 0 is none.
    pub(crate) replay_window: usize,
    /// Codecs that have a layout elsewhere and none here.
    refused: &'static [Codec],
}

/// Iterations of PBKDF2, as every client of this family has them.
const ITERATIONS: NonZeroU32 = const { NonZeroU32::MIN.saturating_add(99_999) };

/// How a secret becomes key bytes: the same input always gives the same output, a longer output extends a shorter one.
pub(crate) struct KeySchedule {
    salt: &'static [u8],
    /// The salt of a ratchet step. Where it is the other one, a step's material begins with the key before it.
    ratchet_salt: &'static [u8],
    /// Rounds of PBKDF2, for passphrases; none: the profile takes raw keys only.
    iterations: Option<NonZeroU32>,
    /// `info` of HKDF.
    info: &'static [u8],
}

impl KeySchedule {
    const fn with_salt(salt: &'static [u8]) -> Self {
        // The browsers' worker passes a buffer of 128 zero bytes as `info`.
        Self { salt, ratchet_salt: salt, iterations: Some(ITERATIONS), info: &[0; 128] }
    }

    /// Fills `out` with key bytes: PBKDF2 for a passphrase, HKDF for a raw key.
    pub(crate) fn derive(&self, secret: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
        self.derive_with(self.salt, secret, out)
    }

    /// Fills `out` with the material one ratchet step on.
    pub(crate) fn step(&self, secret: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
        self.derive_with(self.ratchet_salt, secret, out)
    }

    fn derive_with(&self, salt: &[u8], secret: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
        match secret.kdf() {
            Kdf::Password => {
                pbkdf2_sha256(self.iterations.ok_or(KeyError::NoPassphrases)?, salt, secret.bytes(), out);
                Ok(())
            }
            Kdf::Random => hkdf_sha256(salt, secret.bytes(), self.info, out),
        }
    }
}

impl Profile {
    /// Which bytes of a frame stay readable.
    pub(crate) fn clear(&self, codec: Codec) -> Result<Clear, KeyError> {
        codec
            .clear()
            .filter(|_| !self.refused.contains(&codec))
            .ok_or(KeyError::UnsupportedCodec { codec: codec.name(), profile: self.name })
    }

    pub(crate) fn suite(&self, key_size: Option<u16>) -> Result<&'static CipherSuite, KeyError> {
        match key_size {
            None => self.suites.first(),
            Some(bits) => self.suites.iter().find(|(size, _)| *size == bits),
        }
        .map(|(_, suite)| *suite)
        .ok_or(KeyError::KeySize { given: key_size.unwrap_or_default() })
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
    schedule: KeySchedule::with_salt(b"LKFrameEncryptionKey"),
    suites: &[(128, &AES_128), (256, &AES_256)],
    replay_window: 0,
    refused: &[],
};

/// VideoSDK's clients. Experimental: inferred from their packages, not yet seen on the wire of a live room.
pub static VIDEOSDK: Profile = Profile {
    name: "videosdk",
    schedule: KeySchedule::with_salt(b"VideoSDKEncryptionRatchetSalt"),
    suites: &[(128, &AES_128)],
    replay_window: 0,
    refused: &[],
};

/// Jitsi Meet's clients ("JFrame"). Raw keys only. Their clear bytes go by the frame's type alone, which neither VP9 nor
/// an unescaped H.264 or H.265 frame would bring through a packetiser.
pub static JITSI: Profile = Profile {
    name: "jitsi",
    schedule: KeySchedule {
        salt: b"JFrameEncryptionKey",
        ratchet_salt: b"JFrameRatchetKey",
        iterations: None,
        info: &[],
    },
    suites: &[(128, &AES_128)],
    replay_window: 0,
    refused: &[Codec::Vp9, Codec::H264, Codec::H265],
};

/// Every profile.
pub static ALL: [&Profile; 3] = [&LIVEKIT, &VIDEOSDK, &JITSI];
