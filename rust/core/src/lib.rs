//! Seals and opens encoded media frames, end to end.
//!
//! A frame is what an encoder hands to a packetiser and a jitter buffer hands to a decoder: one whole encoded picture
//! or audio packet. This crate holds every wire format and all cryptography, and nothing else: no I/O, no clock, no
//! threads, no log.
//!
//! ```
//! use frameseal::{Codec, Decryptor, Encryptor, KeyRing, Options, Secret, profile};
//! use std::sync::Arc;
//!
//! let ring = Arc::new(KeyRing::new(&profile::LIVEKIT, Options::default())?);
//! ring.set(0, &Secret::passphrase(b"my-shared-secret")?)?;
//! let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus)?;
//! let decryptor = Decryptor::new(ring, Codec::Opus, None)?;
//!
//! let sealed = encryptor.encrypt(b"\x78 one Opus packet")?;
//! assert_eq!(decryptor.decrypt(&sealed)?, b"\x78 one Opus packet");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod annexb;
mod answers;
mod batch;
mod codec;
mod counter;
mod data;
mod decryptor;
mod derived;
mod encryptor;
mod error;
mod fallback;
mod family;
mod fingerprint;
pub mod fork;
#[cfg(feature = "hazmat")]
pub mod hazmat;
mod injected;
mod key;
mod keyring;
mod lookup;
mod mls;
mod nonce;
mod opening;
mod options;
pub mod profile;
mod ratchet;
mod replay;
mod sealing;
mod secret;
mod senders;
mod spelling;
mod stats;
mod suite;
mod wire;

pub use batch::{OpenBatch, SealBatch};
pub use codec::Codec;
pub use data::{DataCryptor, SealedData};
pub use decryptor::Decryptor;
pub use derived::DerivedKey;
pub use encryptor::Encryptor;
pub use error::{DecryptError, EncryptError, KeyError};
pub use fingerprint::Fingerprint;
pub use keyring::KeyRing;
pub use mls::MlsKid;
pub use opening::OpenPlan;
pub use options::Options;
pub use profile::Profile;
pub use sealing::SealPlan;
pub use secret::Secret;
pub use senders::SenderBindings;
pub use stats::{DataStats, DecryptStats, EncryptStats};
pub use suite::{CipherSuite, SUITES};
