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

mod codec;
mod data;
mod error;
pub mod fork;
mod frame;
#[cfg(feature = "hazmat")]
pub mod hazmat;
mod key_schedule;
mod keyring;
pub mod profile;
mod secret;
mod suite;
mod wire;

pub use codec::{Codec, CodecInfo, Kind};
pub use data::{DataCryptor, SealedData};
pub use error::{ApiMisuse, ConfigError, DecryptError, EncryptError, KeyError};
pub use frame::{
    DataStats, DecryptStats, Decryptor, EncryptStats, Encryptor, OpenBatch, OpenPlan, SealBatch, SealPlan,
};
pub use keyring::{DerivedKey, Fingerprint, KeyRing, MlsKid, Options, SenderBindings};
pub use profile::Profile;
pub use secret::Secret;
pub use suite::{CipherSuite, SUITES};
