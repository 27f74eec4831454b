//! What a key ring can be told at construction, and which of it fits together.

use super::nonce;
use crate::error::ConfigError;
use crate::profile::Profile;
use crate::suite::CipherSuite;
use crate::wire::Wire;

/// The most slots that a one-byte key id can name.
const MAX_SLOTS: u16 = 256;

/// The maximum number of ratchet steps that a receiver looks ahead.
const MAX_RATCHET_WINDOW: u16 = 16;

/// The maximum number of bits of a KID for ratchet steps: at least one bit is left for the generation.
const MAX_RATCHET_BITS: u8 = 63;

/// Frames under one key from which on a new one is due: 2^24.5, as TLS 1.3 has it for AES-GCM (RFC 8446 section 5.5),
/// where it leaves a margin of 2^-57 on records of 16 KiB. Most frames are shorter.
const USAGE_WARNING: u64 = 23_726_566;

/// What a ring can be told at construction.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The cipher suite; none is the profile's default.
    pub suite: Option<u16>,
    /// Whether suites of drafts may be used.
    pub allow_draft: bool,
    /// Key size in bits; none is the suite's.
    pub key_size: Option<u16>,
    /// Slots of the trailer profiles: key ids run from 0 to one less. 1 to 256.
    pub key_ring_size: u16,
    /// Steps that a receiver tries ahead when a sender has ratcheted. 0 to 16; 0 is off.
    pub ratchet_window: u16,
    /// SFrame: how many low bits of a KID count ratchet steps (RFC 9605, section 5.1). 0 is no ratchet.
    pub ratchet_bits: u8,
    /// SFrame: a base key is shared by many senders, each under a KID of its own drawing.
    pub shared: bool,
    /// Frames that one key may seal here, 1 to 2^32; then it is exhausted.
    pub usage_limit: u64,
    /// Whether key material can be had back.
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
    /// The suite that they come to in this profile, if they are in their ranges and the profile has them.
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

    /// Frames from which on a new key is due: 2^24.5, or three quarters of a lower limit.
    pub(super) fn usage_warning(&self) -> u64 {
        USAGE_WARNING.min(self.usage_limit - self.usage_limit / 4)
    }
}
