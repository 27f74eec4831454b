//! Profiles: who speaks which layout, with which keys. The only file that names vendors.

use std::num::NonZeroU32;
use zeroize::Zeroizing;

use crate::codec::{Clear, Codec};
use crate::error::KeyError;
use crate::secret::{Kdf, Secret};
use crate::suite::{
    AES_128_GCM_SHA256_128, AES_256_GCM_SHA512_128, CipherSuite, NONCE_LEN, SUITES, hkdf, pbkdf2_sha256,
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
}

/// How a secret becomes key bytes.
pub(crate) enum KeySchedule {
    /// One derivation for everything: the same input always gives the same output, a longer one extends a shorter one.
    Direct { salt: &'static [u8] },
    /// RFC 9605, sections 4.4.2 and 5.1: labelled, by KID and suite.
    Sframe,
}

/// Iterations of PBKDF2, as every client of the trailer family has them.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(99_999);

/// `info` of the trailer family's HKDF: a buffer of zero bytes, as the browsers' worker passes it.
const INFO: [u8; 128] = [0; 128];

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
            Self::Direct { salt } => direct(salt, material, key)?,
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
            Self::Direct { salt } => {
                let mut next = Zeroizing::new(vec![0; RATCHETED_LEN]);
                direct(salt, material, &mut next)?;
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

/// PBKDF2 for a passphrase, HKDF for a raw key.
fn direct(salt: &[u8], material: &Secret, out: &mut [u8]) -> Result<(), KeyError> {
    match material.kdf() {
        Kdf::Password => {
            pbkdf2_sha256(ITERATIONS, salt, material.bytes(), out);
            Ok(())
        }
        Kdf::Random => hkdf(crate::suite::Hash::Sha256, salt, material.bytes(), &[&INFO], out),
    }
}

impl Profile {
    /// Which bytes of a frame stay readable; an SFrame has none.
    pub(crate) fn clear(&self, codec: Codec) -> Result<Clear, KeyError> {
        match self.wire {
            Wire::Sframe => Ok(Clear::First(0)),
            Wire::Trailer => {
                codec.clear().ok_or(KeyError::UnsupportedCodec { codec: codec.name(), profile: self.name })
            }
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
            (None, None) => Err(KeyError::KeySize { given: key_size.unwrap_or_default() }),
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
    schedule: KeySchedule::Direct { salt: b"LKFrameEncryptionKey" },
    suites: &[&AES_128_GCM_SHA256_128, &AES_256_GCM_SHA512_128],
    replay_window: 0,
};

/// VideoSDK's clients. Experimental: inferred from their packages, not yet seen on the wire of a live room.
pub static VIDEOSDK: Profile = Profile {
    name: "videosdk",
    wire: Wire::Trailer,
    schedule: KeySchedule::Direct { salt: b"VideoSDKEncryptionRatchetSalt" },
    suites: &[&AES_128_GCM_SHA256_128],
    replay_window: 0,
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
};

/// Every profile.
pub static ALL: [&Profile; 3] = [&LIVEKIT, &VIDEOSDK, &SFRAME];
