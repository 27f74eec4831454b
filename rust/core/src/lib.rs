//! Seals and opens encoded media frames, end to end.
//!
//! A frame is one whole encoded picture or audio packet. An encoder passes it to a packetiser, and a jitter buffer
//! passes it to a decoder. This crate holds all wire formats and all cryptography. It has no I/O, no clock and no log,
//! and starts no threads but for a batch.
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
#[cfg(all(test, any(miri, frameseal_loom)))]
#[path = "../tests/models/stub_crypto.rs"]
mod stub_crypto;
mod suite;
mod sync;
mod wire;

pub use codec::{Codec, CodecInfo, Joined, Kind, MAX_PAYLOAD, PayloadError, PayloadFormat};
pub use data::{DataCryptor, SealedData};
pub use error::{ApiMisuse, ConfigError, DecryptError, EncryptError, KeyError};
pub use frame::{
    DataStats, DecryptStats, Decryptor, EncryptStats, Encryptor, OpenBatch, OpenPlan, OpenedBatch, SealBatch, SealPlan,
};
pub use keyring::{DerivedKey, Fingerprint, KeyRing, MlsKid, Options, SenderBindings};
pub use profile::Profile;
pub use secret::Secret;
pub use suite::{CipherSuite, SUITES};
