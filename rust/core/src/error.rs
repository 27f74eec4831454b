//! What can go wrong, as facts that a caller can act on.
//!
//! Small, `Copy` and exhaustive: undecryptable frames arrive at line rate. No variant tells a forger how far it got.

use std::fmt;

/// Why a frame could not be sealed. Nothing of it may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptError {
    /// The bytes are not a frame of this codec: shorter than its clear bytes, or no Annex B byte stream.
    Malformed,
    /// The key that this ring sends with has not been set.
    UnknownKey {
        /// The key id that was looked up.
        kid: u64,
    },
    /// No further nonce can be had under this key: set a new one.
    KeyExhausted {
        /// The key id whose nonces are used up.
        kid: u64,
    },
    /// A call that no frame could make right.
    Misuse(ApiMisuse),
}

/// Why a frame could not be opened. Nothing of it may reach a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecryptError {
    /// Not a sealed frame of this profile: too short, or without its trailer.
    Malformed,
    /// No key for the key id that the frame names.
    UnknownKey {
        /// The key id in the frame.
        kid: u64,
    },
    /// No key in the window opens it: a wrong key, or a frame that was altered or lost its head.
    AuthenticationFailed {
        /// The key id in the frame.
        kid: u64,
    },
    /// Authentic, but seen before (or too old to tell).
    Replayed {
        /// The key id in the frame.
        kid: u64,
    },
    /// Authentic, but not from the participant whose track this is.
    SenderMismatch {
        /// The key id in the frame.
        kid: u64,
    },
    /// A call that no frame could make right.
    Misuse(ApiMisuse),
}

/// Input that does not fit: a key, a key id, a counter or a field of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// A passphrase of no bytes.
    EmptyPassphrase,
    /// A raw key shorter than the least that is safe.
    ShortKey {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        min: usize,
    },
    /// A passphrase, for a profile that takes raw keys only.
    NoPassphrases,
    /// A key id outside the ring.
    KeyIdOutOfRange {
        /// The key id given.
        key_id: u64,
        /// The number of slots; ids run from 0 to one less.
        key_ring_size: u16,
    },
    /// No key has been set under this id.
    NoSuchKey {
        /// The key id given.
        key_id: u64,
    },
    /// A counter to go on from that this process has used under the key, or one below it.
    CounterUsed {
        /// The counter given.
        given: u64,
        /// The least that is unused; none where all are used.
        min: Option<u64>,
    },
    /// More epochs to retain than a ring may hold.
    Retain {
        /// The number given.
        given: usize,
        /// The largest allowed.
        max: usize,
    },
    /// A field of a key id with too many bits, or a value that does not fit its field.
    KeyIdField {
        /// Which field.
        field: &'static str,
    },
    /// A call that this ring was not made for.
    Misuse(ApiMisuse),
    /// The operating system gave no randomness, or the key derivation failed.
    Unavailable,
}

/// An option or argument with which no ring, encryptor or decryptor can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A ring of no slots, or of more than a one-byte key id can name.
    KeyRingSize {
        /// The size given.
        given: u16,
    },
    /// A ratchet window beyond the bound.
    RatchetWindow {
        /// The window given.
        given: u16,
        /// The largest allowed.
        max: u16,
    },
    /// A key size in bits that the profile does not have.
    KeySize {
        /// The size given, in bits.
        given: u16,
        /// The profile's own.
        default: usize,
        /// The profile's name.
        profile: &'static str,
    },
    /// A replay window beyond the bound.
    ReplayWindow {
        /// The window given, in frames.
        given: usize,
        /// The largest allowed.
        max: usize,
    },
    /// A limit on the frames of a key beyond what its nonces allow.
    UsageLimit {
        /// The limit given, in frames.
        given: u64,
        /// The largest allowed.
        max: u64,
    },
    /// A chain of rings that turn to each other, longer than the bound.
    FallbackDepth {
        /// The longest allowed, in rings behind the first.
        max: usize,
    },
    /// The trailer of SIF frames is so short that other frames may end in it by chance.
    ShortTrailer {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        min: usize,
    },
    /// The profile has no layout for this codec.
    UnsupportedCodec {
        /// The codec's name.
        codec: &'static str,
        /// The profile's name.
        profile: &'static str,
    },
    /// The profile does not have this suite, or it is a draft's and was not asked for as such.
    UnsupportedSuite {
        /// The suite's name.
        suite: &'static str,
        /// The profile's name.
        profile: &'static str,
    },
    /// An option that this profile does not have.
    UnsupportedOption {
        /// What was asked for.
        option: &'static str,
        /// The profile's name.
        profile: &'static str,
    },
    /// More bits of a KID for ratchet steps than leave one for the generation.
    RatchetBits {
        /// The bits given.
        given: u8,
    },
}

/// A call that no input could make right: a mistake in the calling program.
///
/// Without fields, so that the errors of frames stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiMisuse {
    /// An output buffer does not have the length that the plan reports.
    BufferLength,
    /// Metadata, for a profile that does not authenticate any.
    Metadata,
    /// A data packet in parts, for a profile whose packets are in one piece.
    PacketParts,
    /// A counter to continue from, for a ring whose keys take none.
    Counter,
    /// An MLS epoch, for a ring that holds none.
    Epoch,
    /// A ratchet step, for a ring whose KIDs have no bits for it.
    RatchetBits,
    /// Key material, from a ring that was not made to return any.
    ExportNotAllowed,
}

impl fmt::Display for EncryptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a frame of this codec: check the codec, and that it is a whole frame"),
            Self::UnknownKey { kid } => write!(f, "no key {kid} to seal with: set one first"),
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
            Self::Replayed { kid } => write!(f, "a frame under key {kid} came a second time, or too late to tell"),
            Self::SenderMismatch { kid } => write!(f, "key {kid} belongs to another participant than this track"),
            Self::Misuse(misuse) => misuse.fmt(f),
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPassphrase => f.write_str("passphrase: it is empty, and needs at least one byte"),
            Self::ShortKey { given, min } => write!(
                f,
                "a raw key needs at least {min} bytes, got {given}; a passphrase is given as a passphrase (str)"
            ),
            Self::NoPassphrases => f.write_str("this profile has no password KDF: give it a raw key (bytes)"),
            Self::KeyIdOutOfRange { key_id, key_ring_size } => {
                write!(f, "key_id {key_id} is outside this ring of {key_ring_size} (0 to {})", key_ring_size - 1)
            }
            Self::NoSuchKey { key_id } => write!(f, "key_id: no key is set under id {key_id}"),
            Self::CounterUsed { given, min: Some(min) } => write!(
                f,
                "counter {given} was used in this process under this key and key_id: the least allowed is {min}"
            ),
            Self::CounterUsed { given, min: None } => write!(
                f,
                "counter {given} was used in this process under this key and key_id, and there is none above: set a new key"
            ),
            Self::Retain { given, max } => write!(f, "retain: a ring retains 0 to {max} epochs, not {given}"),
            Self::KeyIdField { field } => write!(f, "{field} does not fit its bits of a key id"),
            Self::Misuse(misuse) => misuse.fmt(f),
            Self::Unavailable => f.write_str("the system's cryptography is unavailable"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyRingSize { given } => write!(f, "key_ring_size: a ring has 1 to 256 slots, not {given}"),
            Self::RatchetWindow { given, max } => {
                write!(f, "ratchet_window: the ratchet window is 0 to {max} steps, not {given}")
            }
            Self::KeySize { given, default, profile } => {
                write!(
                    f,
                    "key_size: profile {profile} has no keys of {given} bits: leave the size out for its {default}"
                )
            }
            Self::ReplayWindow { given, max } => {
                write!(f, "replay_window: the replay window is 0 to {max} frames, not {given}")
            }
            Self::UsageLimit { given, max } => write!(f, "usage_limit: a key seals 1 to {max} frames, not {given}"),
            Self::FallbackDepth { max } => {
                write!(f, "fallback: at most {max} rings may stand behind each other, make the chain shorter")
            }
            Self::ShortTrailer { given, min } => {
                write!(f, "sif_trailer needs at least {min} bytes, got {given}")
            }
            Self::UnsupportedCodec { codec, profile } => {
                write!(f, "profile {profile} has no layout for {codec}: use another codec, or None outside a call")
            }
            Self::UnsupportedSuite { suite, profile } => {
                write!(f, "suite: profile {profile} does not have {suite} (suites of a draft need allow_draft)")
            }
            Self::UnsupportedOption { option, profile } => write!(f, "profile {profile} has no {option}"),
            Self::RatchetBits { given } => write!(f, "ratchet_bits: at most 63 bits of a key id, not {given}"),
        }
    }
}

impl fmt::Display for ApiMisuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BufferLength => "out: the buffer needs the length that the plan reports",
            Self::Metadata => "metadata: only the profile sframe authenticates metadata, leave it out",
            Self::PacketParts => {
                "packets of the profile sframe are in one piece: use encrypt_packet and decrypt_packet"
            }
            Self::Counter => "counter: only an SFrame ring without shared keys continues from a counter, leave it out",
            Self::Epoch => "set_epoch: only an SFrame ring without shared keys and ratchet_bits holds MLS epochs",
            Self::RatchetBits => "ratchet: an SFrame ring ratchets only with ratchet_bits, which it is made with",
            Self::ExportNotAllowed => "this ring gives no keys back: make it with allow_export",
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
