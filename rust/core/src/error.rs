//! Errors as facts that a caller can act on.
//!
//! They are small, `Copy` and exhaustive, because undecryptable frames arrive at line rate. No variant shows a forger
//! how far a frame was processed. Messages name the argument, its value, the allowed values and the remedy. They never
//! quote an argument that can hold key material.

use std::fmt;

/// An error of sealing a frame. Nothing of the frame may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptError {
    /// The bytes are not a frame of this codec: shorter than its clear bytes, or not an Annex B byte stream.
    Malformed,
    /// The sending key of the ring has not been set.
    UnknownKey {
        /// The key id of the missing key.
        kid: u64,
    },
    /// The key has no unused nonce left. Set a new key.
    KeyExhausted {
        /// The key id of the exhausted key.
        kid: u64,
    },
    /// The call is a mistake whatever the frame holds.
    Misuse(ApiMisuse),
}

/// An error of opening a frame. Nothing of the frame may reach a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecryptError {
    /// The bytes are not a sealed frame of this profile: too short, or without its trailer.
    Malformed,
    /// The ring has no key for the key id in the frame.
    UnknownKey {
        /// The key id in the frame.
        kid: u64,
    },
    /// No key in the ratchet window opens the frame: the key is wrong, or the frame was altered or truncated.
    AuthenticationFailed {
        /// The key id in the frame.
        kid: u64,
    },
    /// The frame is authentic, but it was opened before or is too old to check.
    Replayed {
        /// The key id in the frame.
        kid: u64,
    },
    /// The frame is authentic, but another participant than the owner of the track sealed it.
    SenderMismatch {
        /// The key id in the frame.
        kid: u64,
    },
    /// The call is a mistake whatever the frame holds.
    Misuse(ApiMisuse),
}

/// An invalid key, key id, counter or field of a key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The passphrase is empty.
    EmptyPassphrase,
    /// The raw key is shorter than the minimum.
    ShortKey {
        /// The length of the key, in bytes.
        given: usize,
        /// The minimum, in bytes.
        min: usize,
    },
    /// The profile uses the raw key as it is, and the key has another length than the cipher suite needs.
    KeyLength {
        /// The length of the key, in bytes.
        given: usize,
        /// The shortest length that the ring accepts, in bytes.
        min: usize,
        /// The longest length that the ring accepts, in bytes. No length between the two is accepted.
        max: usize,
    },
    /// The profile has no password KDF, so it accepts raw keys only.
    NoPassphrases,
    /// The profile has no ratchet.
    NoRatchet,
    /// The key id lies outside the ring.
    KeyIdOutOfRange {
        /// The key id.
        key_id: u64,
        /// The number of slots. Key ids run from 0 to `key_ring_size - 1`.
        key_ring_size: u16,
    },
    /// No key is set under this key id.
    NoSuchKey {
        /// The key id.
        key_id: u64,
    },
    /// This process has sealed with this counter under the key, or with a larger one.
    CounterUsed {
        /// The counter.
        given: u64,
        /// The smallest unused counter. `None` means that all counters are used.
        min: Option<u64>,
    },
    /// The number of epochs to retain exceeds the maximum.
    Retain {
        /// The number of epochs.
        given: usize,
        /// The maximum.
        max: usize,
    },
    /// The value of a field does not fit into its bits of a key id.
    KeyIdField {
        /// The name of the field.
        field: &'static str,
        /// Its value.
        given: u64,
        /// The maximum.
        max: u64,
    },
    /// The ring was not made for this call.
    Misuse(ApiMisuse),
    /// The operating system returned no randomness, or the key derivation failed.
    Unavailable,
}

/// An invalid option or argument of a ring, encryptor or decryptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The number of slots is 0, or exceeds the number of one-byte key ids.
    KeyRingSize {
        /// The number of slots.
        given: u16,
        /// The maximum.
        max: u16,
    },
    /// The ratchet window exceeds the maximum.
    RatchetWindow {
        /// The window, in ratchet steps.
        given: u16,
        /// The maximum, in ratchet steps.
        max: u16,
    },
    /// No suite of the profile has keys of this size.
    KeySize {
        /// The key size, in bits.
        given: u16,
        /// The key size of the chosen suite, or of the profile's default suite, in bits.
        default: usize,
        /// The name of the profile.
        profile: &'static str,
    },
    /// The replay window exceeds the maximum.
    ReplayWindow {
        /// The window, in frames.
        given: usize,
        /// The maximum, in frames.
        max: usize,
    },
    /// The usage limit is 0, or exceeds the number of nonces of a key.
    UsageLimit {
        /// The limit, in frames.
        given: u64,
        /// The maximum, in frames.
        max: u64,
    },
    /// The chain of fallback rings exceeds the maximum.
    FallbackDepth {
        /// The maximum number of rings behind the first.
        max: usize,
    },
    /// The fallback ring has another profile or suite than this ring.
    FallbackMismatch {
        /// The profile and the suite of this ring.
        own: (&'static str, &'static str),
        /// The profile and the suite of the fallback ring.
        fallback: (&'static str, &'static str),
    },
    /// The trailer of SIF frames is shorter than the minimum, so other frames may end in it by chance.
    ShortTrailer {
        /// The length of the trailer, in bytes.
        given: usize,
        /// The minimum, in bytes.
        min: usize,
    },
    /// The profile has no layout for this codec.
    UnsupportedCodec {
        /// The name of the codec.
        codec: &'static str,
        /// The name of the profile.
        profile: &'static str,
    },
    /// No cipher suite has this number.
    UnknownSuite {
        /// The number.
        given: u16,
    },
    /// The suite is specified by a draft, and drafts are not allowed.
    DraftSuite {
        /// The name of the suite.
        suite: &'static str,
    },
    /// The profile does not support this suite.
    UnsupportedSuite {
        /// The name of the suite.
        suite: &'static str,
        /// The name of the profile.
        profile: &'static str,
    },
    /// The profile does not support this option.
    UnsupportedOption {
        /// The name of the option.
        option: &'static str,
        /// The name of the profile.
        profile: &'static str,
    },
    /// The profile has no form of data packets.
    NoDataPackets {
        /// The name of the profile.
        profile: &'static str,
    },
    /// Shared base keys do not ratchet, so `ratchet_bits` and `shared` exclude each other.
    SharedRatchet,
    /// The ratchet bits leave no bit of a KID for the generation.
    RatchetBits {
        /// The number of bits.
        given: u8,
        /// The maximum.
        max: u8,
    },
}

/// A mistake in the calling program, which no input could correct.
///
/// It has no fields, so that the errors of frames stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiMisuse {
    /// The output buffer does not have the length that the plan reports.
    BufferLength,
    /// The profile does not authenticate metadata.
    Metadata,
    /// A data packet of this profile is one piece, so it cannot be sealed or opened in parts.
    PacketParts,
    /// The keys of this ring have no counter to continue from.
    Counter,
    /// The ring holds no MLS epochs.
    Epoch,
    /// The KIDs of this ring have no bits for ratchet steps.
    RatchetBits,
    /// The ring was made without `allow_export`.
    ExportNotAllowed,
}

impl fmt::Display for EncryptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a frame of this codec: check the codec, and pass one whole frame"),
            Self::UnknownKey { kid } => write!(f, "no key {kid} to seal with: set it first"),
            Self::KeyExhausted { kid } => {
                write!(f, "key {kid} has no nonce left that is known to be unused: set a new key")
            }
            Self::Misuse(misuse) => misuse.fmt(f),
        }
    }
}

impl fmt::Display for DecryptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a sealed frame of this profile"),
            Self::UnknownKey { kid } => write!(f, "no key {kid} to open this frame with"),
            Self::AuthenticationFailed { kid } => write!(f, "key {kid} does not open this frame"),
            Self::Replayed { kid } => write!(f, "a frame under key {kid} was opened before, or is too old to check"),
            Self::SenderMismatch { kid } => {
                write!(f, "key {kid} belongs to another participant than the owner of this track")
            }
            Self::Misuse(misuse) => misuse.fmt(f),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPassphrase => f.write_str("passphrase must not be empty"),
            Self::ShortKey { given, min } => {
                write!(f, "key must have at least {min} bytes, not {given}: pass a passphrase as a passphrase (str)")
            }
            Self::KeyLength { given, min, max } => {
                write!(f, "key must have exactly {min} ")?;
                if max != min {
                    write!(f, "or {max} ")?;
                }
                write!(f, "bytes, the length of the AES key, not {given}")
            }
            Self::NoRatchet => f.write_str("key_id: this profile has no ratchet, so set a fresh key instead"),
            Self::NoPassphrases => {
                f.write_str("passphrase: this profile has no password KDF, so pass a raw key (bytes) instead")
            }
            Self::KeyIdOutOfRange { key_id, key_ring_size } => {
                write!(f, "key_id must be between 0 and {}, not {key_id}", key_ring_size.saturating_sub(1))
            }
            Self::NoSuchKey { key_id } => write!(f, "key_id: no key is set under id {key_id}, set it first"),
            Self::CounterUsed { given, min: Some(min) } => write!(
                f,
                "counter must be at least {min}, not {given}: this process has used it under this key and key_id"
            ),
            Self::CounterUsed { given, min: None } => write!(
                f,
                "counter {given}: this process has used all counters under this key and key_id, set a new key"
            ),
            Self::Retain { given, max } => write!(f, "retain must be between 0 and {max} epochs, not {given}"),
            Self::KeyIdField { field, given, max } => {
                write!(f, "{field} must be between 0 and {max}, not {given}: a KID has 64 bits")
            }
            Self::Misuse(misuse) => misuse.fmt(f),
            Self::Unavailable => {
                f.write_str("the operating system returned no randomness, or the key derivation failed")
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyRingSize { given, max } => write!(f, "key_ring_size must be between 1 and {max}, not {given}"),
            Self::RatchetWindow { given, max } => {
                write!(f, "ratchet_window must be between 0 and {max} steps, not {given}")
            }
            Self::KeySize { given, default, profile } => write!(
                f,
                "key_size: profile {profile} has no keys of {given} bits here, leave key_size out for {default} bits"
            ),
            Self::ReplayWindow { given, max } => {
                write!(f, "replay_window must be between 0 and {max} frames, not {given}")
            }
            Self::UsageLimit { given, max } => write!(f, "usage_limit must be between 1 and {max} frames, not {given}"),
            Self::FallbackDepth { max } => {
                write!(f, "fallback: at most {max} rings may stand behind a ring, make the chain shorter")
            }
            Self::FallbackMismatch { own: (profile, suite), fallback: (other_profile, other_suite) } => write!(
                f,
                "fallback must have profile {profile} and suite {suite} as this ring has, not {other_profile} and \
                 {other_suite}"
            ),
            Self::ShortTrailer { given, min } => write!(f, "sif_trailer must have at least {min} bytes, not {given}"),
            Self::UnsupportedCodec { codec, profile } => write!(
                f,
                "codec: profile {profile} has no layout for {codec}, use another codec, or None outside a call"
            ),
            Self::UnknownSuite { given } => {
                write!(f, "suite: no cipher suite has the number {given}, use a number of CipherSuite")
            }
            Self::DraftSuite { suite } => {
                write!(f, "suite: {suite} is specified by a draft, use another suite or allow_draft")
            }
            Self::UnsupportedSuite { suite, profile } => {
                write!(f, "suite: profile {profile} does not support {suite}, leave suite out for the default")
            }
            Self::UnsupportedOption { option, profile } => {
                write!(f, "{option}: profile {profile} does not support this option, leave it out")
            }
            Self::NoDataPackets { profile } => {
                write!(f, "ring: profile {profile} has no data packets, pass a ring of another profile")
            }
            Self::SharedRatchet => {
                f.write_str("ratchet_bits: shared keys do not ratchet, leave ratchet_bits or shared out")
            }
            Self::RatchetBits { given, max } => write!(f, "ratchet_bits must be between 0 and {max}, not {given}"),
        }
    }
}

impl fmt::Display for ApiMisuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BufferLength => "out must have the length that the plan reports",
            Self::Metadata => "metadata: only profile sframe authenticates metadata, leave it out",
            Self::PacketParts => {
                "a packet of profile sframe has no iv and key_index apart: use encrypt_packet and decrypt_packet"
            }
            Self::Counter => "counter: only a ring of profile sframe without shared has a counter, leave it out",
            Self::Epoch => "epoch: only a ring of profile sframe without shared and ratchet_bits holds MLS epochs",
            Self::RatchetBits => "ratchet_bits: a ring of profile sframe ratchets only if made with ratchet_bits",
            Self::ExportNotAllowed => "allow_export: this ring exports no key material, make it with allow_export",
        })
    }
}

impl From<ApiMisuse> for KeyError {
    fn from(misuse: ApiMisuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<ApiMisuse> for EncryptError {
    fn from(misuse: ApiMisuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<ApiMisuse> for DecryptError {
    fn from(misuse: ApiMisuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl std::error::Error for EncryptError {}
impl std::error::Error for DecryptError {}
impl std::error::Error for KeyError {}
impl std::error::Error for ConfigError {}
impl std::error::Error for ApiMisuse {}
