//! The options of a key ring, and which of them fit together.

use super::nonce;
use crate::error::ConfigError;
use crate::profile::Profile;
use crate::suite::CipherSuite;
use crate::wire::Wire;

/// The maximum number of slots: a key id of the trailer and the footer layout has one byte.
pub(super) const MAX_SLOTS: u16 = 256;

/// The maximum number of ratchet steps that a receiver looks ahead.
const MAX_RATCHET_WINDOW: u16 = 16;

/// The maximum number of bits of a KID for ratchet steps: at least one bit is left for the generation.
const MAX_RATCHET_BITS: u8 = 63;

/// The number of frames under one key from which a new key is due: 2^24.5, the limit of TLS 1.3 for AES-GCM (RFC 8446,
/// section 5.5). With records of 16 KiB that limit leaves a margin of 2^-57, and most frames are shorter.
const USAGE_WARNING: u64 = 23_726_566;

/// The options of a key ring.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The number of the cipher suite. `None` means the default of the profile.
    pub suite: Option<u16>,
    /// True allows suites that are specified by a draft.
    pub allow_draft: bool,
    /// The key size in bits. `None` means the key size of the suite.
    pub key_size: Option<u16>,
    /// The number of slots in the trailer profiles, 1 to 256. Key ids run from 0 to `key_ring_size - 1`.
    pub key_ring_size: u16,
    /// The number of ratchet steps that a receiver tries ahead, 0 to 16. 0 turns the search off.
    pub ratchet_window: u16,
    /// SFrame: the number of low bits of a KID that count ratchet steps, 0 to 63 (RFC 9605, section 5.1). 0 turns the
    /// ratchet off.
    pub ratchet_bits: u8,
    /// SFrame: true if many senders share the base keys. Each sender then draws a random KID.
    pub shared: bool,
    /// The number of frames at which a key is exhausted, 1 to 2^32.
    pub usage_limit: u64,
    /// True lets [`KeyRing::export`](super::KeyRing::export) return key material.
    pub allow_export: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suite: None,
            allow_draft: false,
            key_size: None,
            key_ring_size: 16,
            ratchet_window: 0,
            ratchet_bits: 0,
            shared: false,
            usage_limit: nonce::LIMIT,
            allow_export: false,
        }
    }
}

impl Options {
    /// Checks all options against their ranges and the profile, and returns the cipher suite.
    pub(super) fn check(&self, profile: &Profile) -> Result<&'static CipherSuite, ConfigError> {
        if !(1..=MAX_SLOTS).contains(&self.key_ring_size) {
            return Err(ConfigError::KeyRingSize { given: self.key_ring_size, max: MAX_SLOTS });
        }
        if self.ratchet_window > MAX_RATCHET_WINDOW {
            return Err(ConfigError::RatchetWindow { given: self.ratchet_window, max: MAX_RATCHET_WINDOW });
        }
        if !(1..=nonce::LIMIT).contains(&self.usage_limit) {
            return Err(ConfigError::UsageLimit { given: self.usage_limit, max: nonce::LIMIT });
        }
        if self.ratchet_bits > MAX_RATCHET_BITS {
            return Err(ConfigError::RatchetBits { given: self.ratchet_bits, max: MAX_RATCHET_BITS });
        }
        if profile.wire != Wire::Sframe {
            for (option, is_set) in [("ratchet_bits", self.ratchet_bits != 0), ("shared", self.shared)] {
                if is_set {
                    return Err(ConfigError::UnsupportedOption { option, profile: profile.name });
                }
            }
        }
        if profile.wire == Wire::Footer && self.ratchet_window != 0 {
            return Err(ConfigError::UnsupportedOption { option: "ratchet_window", profile: profile.name });
        }
        if self.shared && self.ratchet_bits != 0 {
            return Err(ConfigError::SharedRatchet);
        }
        let asked = match self.suite {
            None => None,
            Some(given) => {
                let suite = CipherSuite::by_id(given).ok_or(ConfigError::UnknownSuite { given })?;
                if suite.draft && !self.allow_draft {
                    return Err(ConfigError::DraftSuite { suite: suite.name });
                }
                Some(suite)
            }
        };
        profile.suite(asked, self.key_size)
    }

    /// Returns the number of frames from which a new key is due: 2^24.5, or three quarters of a lower limit.
    pub(super) fn usage_warning(&self) -> u64 {
        USAGE_WARNING.min(self.usage_limit - self.usage_limit / 4)
    }
}
