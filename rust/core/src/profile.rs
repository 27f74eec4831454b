//! Profiles: who speaks which layout, with which keys. The only file that names vendors.

use std::num::NonZeroU32;
use zeroize::Zeroizing;

use crate::codec::{Clear, Codec};
use crate::error::KeyError;
use crate::secret::{Kdf, Secret};
use crate::suite::{
    AES_128_GCM_SHA256_128, AES_256_GCM_SHA512_128, CipherSuite, Hash, NONCE_LEN, SUITES, hkdf, pbkdf2_sha256,
};
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

/// How a secret becomes key bytes.
pub(crate) enum KeySchedule {
    /// One derivation for everything: the same input always gives the same output, a longer one extends a shorter one.
    Direct(Direct),
    /// RFC 9605, sections 4.4.2 and 5.1: labelled, by KID and suite.
    Sframe,
}

/// The parameters of the trailer family's key schedule.
pub(crate) struct Direct {
    salt: &'static [u8],
    /// The salt of a ratchet step. Where it is the other one, a step's material begins with the key before it.
    ratchet_salt: &'static [u8],
    /// Rounds of PBKDF2, for passphrases; none: the profile takes raw keys only.
    iterations: Option<NonZeroU32>,
    /// `info` of HKDF.
    info: &'static [u8],
}

/// Iterations of PBKDF2, as every client of the trailer family that has one has them.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(99_999);

/// RFC 9605 has no password KDF; this one, and its salt, are frameseal's own.
const SFRAME_PASSPHRASE_SALT: &[u8] = b"frameseal SFrame 1.0 passphrase";
const SFRAME_BASE_KEY_LEN: usize = 32;
const RATCHETED_LEN: usize = 32;

impl KeySchedule {
    /// Brings a secret into the form that the other steps start from; what is slow happens here.
    pub(crate) fn material(&self, secret: &Secret) -> Secret {
        match (self, secret.kdf()) {
            (Self::Sframe, Kdf::Password) => {
                let mut base_key = Zeroizing::new([0; SFRAME_BASE_KEY_LEN]);
                pbkdf2_sha256(ITERATIONS, SFRAME_PASSPHRASE_SALT, secret.bytes(), base_key.as_mut());
                Secret::new(base_key.as_ref(), Kdf::Random)
            }
            _ => secret.clone(),
        }
    }

    /// Fills `key` and gives the salt of its nonces (zeros where nonces are transmitted).
    pub(crate) fn key(
        &self,
        suite: &CipherSuite,
        kid: u64,
        material: &Secret,
        key: &mut [u8],
    ) -> Result<[u8; NONCE_LEN], KeyError> {
        let mut nonce_salt = [0; NONCE_LEN];
        match self {
            Self::Direct(direct) => direct.derive(direct.salt, material, key)?,
            Self::Sframe => {
                let ids = [&kid.to_be_bytes()[..], &suite.id.to_be_bytes()].concat();
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret key ", &ids], key)?;
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Secret salt ", &ids], &mut nonce_salt)?;
            }
        }
        Ok(nonce_salt)
    }

    /// The material one ratchet step on.
    pub(crate) fn ratchet(&self, suite: &CipherSuite, material: &Secret) -> Result<Secret, KeyError> {
        let next = match self {
            Self::Direct(direct) => {
                let mut next = Zeroizing::new(vec![0; RATCHETED_LEN]);
                direct.derive(direct.ratchet_salt, material, &mut next)?;
                next
            }
            Self::Sframe => {
                let mut next = Zeroizing::new(vec![0; suite.hash.len()]);
                hkdf(suite.hash, &[], material.bytes(), &[b"SFrame 1.0 Ratchet"], &mut next)?;
                next
            }
        };
        Ok(Secret::new(&next, material.kdf()))
    }
}

impl Direct {
    const fn with_salt(salt: &'static [u8]) -> Self {
        // The browsers' worker passes a buffer of 128 zero bytes as `info`.
        Self { salt, ratchet_salt: salt, iterations: Some(ITERATIONS), info: &[0; 128] }
    }

    /// PBKDF2 for a passphrase, HKDF for a raw key.
    fn derive(&self, salt: &[u8], material: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
        match material.kdf() {
            Kdf::Password => {
                pbkdf2_sha256(self.iterations.ok_or(KeyError::NoPassphrases)?, salt, material.bytes(), out);
                Ok(())
            }
            Kdf::Random => hkdf(Hash::Sha256, salt, material.bytes(), &[self.info], out),
        }
    }
}

impl Profile {
    /// Which bytes of a frame stay readable; an SFrame has none.
    pub(crate) fn clear(&self, codec: Codec) -> Result<Clear, KeyError> {
        match self.wire {
            Wire::Sframe => Ok(Clear::First(0)),
            Wire::Trailer => codec
                .clear()
                .filter(|_| !self.refused.contains(&codec))
                .ok_or(KeyError::UnsupportedCodec { codec: codec.name(), profile: self.name }),
        }
    }

    /// The suite to use: the one asked for, or the one with keys of this size, or the default.
    pub(crate) fn suite(
        &self,
        asked: Option<&'static CipherSuite>,
        key_size: Option<u16>,
    ) -> Result<&'static CipherSuite, KeyError> {
        let fits = |suite: &&&'static CipherSuite| {
            asked.is_none_or(|asked| asked.id == suite.id)
                && key_size.is_none_or(|bits| usize::from(bits) == suite.key_len * 8)
        };
        match (self.suites.iter().find(fits), asked) {
            (Some(suite), _) => Ok(suite),
            (None, Some(asked)) => Err(KeyError::UnsupportedSuite { suite: asked.name, profile: self.name }),
            (None, None) => {
                let default = self.suites.first().map_or(0, |suite| suite.key_len * 8);
                Err(KeyError::KeySize { given: key_size.unwrap_or_default(), default, profile: self.name })
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
    schedule: KeySchedule::Direct(Direct::with_salt(b"LKFrameEncryptionKey")),
    suites: &[&AES_128_GCM_SHA256_128, &AES_256_GCM_SHA512_128],
    replay_window: 0,
    refused: &[],
};

/// VideoSDK's clients. Experimental: inferred from their packages, not yet seen on the wire of a live room.
pub static VIDEOSDK: Profile = Profile {
    name: "videosdk",
    wire: Wire::Trailer,
    schedule: KeySchedule::Direct(Direct::with_salt(b"VideoSDKEncryptionRatchetSalt")),
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
    refused: &[],
};

/// Jitsi Meet's clients ("JFrame"). Raw keys only. Their clear bytes go by the frame's type alone, which neither VP9 nor
/// an unescaped H.264 or H.265 frame would bring through a packetiser.
pub static JITSI: Profile = Profile {
    name: "jitsi",
    wire: Wire::Trailer,
    schedule: KeySchedule::Direct(Direct {
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
