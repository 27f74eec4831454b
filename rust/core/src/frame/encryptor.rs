//! One outgoing track.
//!
//! Bytes in, plan (clear bytes, key, nonce), AEAD, bytes out. A plan knows the exact length of what it will write, so
//! that a caller allocates once.

use std::sync::Arc;

use super::seal::SealPlan;
use super::state::SenderState;
use super::stats::EncryptStats;
use crate::codec::Codec;
use crate::error::{ConfigError, EncryptError};
use crate::keyring::KeyRing;
#[cfg(feature = "hazmat")]
use crate::keyring::{NonceInput, SealingKey};
use crate::wire::Wire;

/// Seals the frames of one outgoing track.
pub struct Encryptor {
    pub(super) state: SenderState,
}

impl Encryptor {
    /// An encryptor that seals with the ring's sending key, whichever that is when a frame comes.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedCodec`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec) -> Result<Self, ConfigError> {
        Ok(Self { state: SenderState::new(ring, codec)? })
    }

    /// Seals one frame. In the trailer layout an empty frame stays empty; in SFrame it is sealed like any other.
    ///
    /// In the trailer layout an H.264 or H.265 access unit without a slice (parameter sets alone) comes out empty too: it
    /// is held back and goes out in front of the next frame, since receivers do not agree on how to open it. There and in
    /// front of a slice nothing is left readable that may carry a picture: an access unit that has such a unit is
    /// malformed.
    ///
    /// # Errors
    /// [`EncryptError`]; nothing of the frame may be sent then.
    pub fn encrypt(&self, frame: &[u8]) -> Result<Vec<u8>, EncryptError> {
        match self.plan(frame, &[])? {
            Some(plan) => plan.seal(),
            None => Ok(Vec::new()),
        }
    }

    /// Looks at a frame, and takes the key and a nonce where only these tell how long it gets. None: there is nothing to
    /// send for it (see [`Self::encrypt`]). `metadata` is authenticated with the frame and not sent: the receiver must
    /// have the same. SFrame only.
    ///
    /// # Errors
    /// [`EncryptError`]; [`ApiMisuse::Metadata`](crate::ApiMisuse::Metadata) for metadata in a profile that has no place for it.
    #[inline(always)]
    pub fn plan<'a>(&'a self, frame: &'a [u8], metadata: &'a [u8]) -> Result<Option<SealPlan<'a>>, EncryptError> {
        SealPlan::new(&self.state, frame, metadata)
    }

    /// Seals one frame under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`].
    #[cfg(feature = "hazmat")]
    pub fn encrypt_with_iv(&self, frame: &[u8], iv: [u8; 12]) -> Result<Vec<u8>, EncryptError> {
        let Some(mut plan) = self.plan(frame, &[])? else { return Ok(Vec::new()) };
        plan.sealing = Some(SealingKey { nonce_input: NonceInput::Iv(iv.into()), ..self.state.next()? });
        plan.frame.kept = None;
        plan.seal()
    }

    /// Whether the profile has a place for metadata.
    #[must_use]
    pub fn takes_metadata(&self) -> bool {
        self.state.ring.profile().wire == Wire::Sframe
    }

    /// The counters so far, and how much of the ring's sending key is used up.
    #[must_use]
    pub fn stats(&self) -> EncryptStats {
        self.state.stats()
    }
}
