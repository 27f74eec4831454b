//! Seals the frames of one outgoing track.
//!
//! Each frame is planned (clear bytes, key, nonce), sealed by the AEAD, and written. The plan knows the exact length of
//! its output, so the caller allocates once.

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
    /// Returns an encryptor for one track. Each frame is sealed with the sending key that the ring has at that moment.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedCodec`] if the profile does not support the codec.
    pub fn new(ring: Arc<KeyRing>, codec: Codec) -> Result<Self, ConfigError> {
        Ok(Self { state: SenderState::new(ring, codec)? })
    }

    /// Seals one frame. In the trailer layout an empty frame stays empty; in SFrame it is sealed like any other.
    ///
    /// In the trailer layout an H.264 or H.265 access unit without a slice (parameter sets alone) returns an empty
    /// frame. The encryptor holds it back and puts it in front of the next frame. Receivers do not agree on how to open
    /// it alone. A unit that may carry a picture never stays readable, held back or in front of a slice: an access unit
    /// with a picture there is malformed.
    ///
    /// # Errors
    /// [`EncryptError`]. No part of the frame may be sent then.
    pub fn encrypt(&self, frame: &[u8]) -> Result<Vec<u8>, EncryptError> {
        match self.plan(frame, &[])? {
            Some(plan) => plan.seal(),
            None => Ok(Vec::new()),
        }
    }

    /// Plans one frame. Returns `None` if there is nothing to send for it (see [`Self::encrypt`]).
    ///
    /// SFrame draws the key and a nonce here, because the length of its header depends on them. `metadata` (SFrame
    /// only) is authenticated with the frame and not sent: the receiver must pass the same bytes.
    ///
    /// # Errors
    /// [`EncryptError`]; [`ApiMisuse::Metadata`](crate::ApiMisuse::Metadata) for metadata in a trailer profile.
    #[inline(always)]
    pub fn plan<'a>(&'a self, frame: &'a [u8], metadata: &'a [u8]) -> Result<Option<SealPlan<'a>>, EncryptError> {
        SealPlan::new(&self.state, frame, metadata)
    }

    /// Seals one frame under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`], as [`Self::encrypt`].
    #[cfg(feature = "hazmat")]
    pub fn encrypt_with_iv(&self, frame: &[u8], iv: [u8; 12]) -> Result<Vec<u8>, EncryptError> {
        let Some(mut plan) = self.plan(frame, &[])? else { return Ok(Vec::new()) };
        plan.sealing = Some(SealingKey { nonce_input: NonceInput::Iv(iv.into()), ..self.state.next()? });
        plan.frame.kept = None;
        plan.seal()
    }

    /// Returns whether the profile authenticates metadata: SFrame does, the trailer profiles do not.
    #[must_use]
    pub fn authenticates_metadata(&self) -> bool {
        self.state.ring.profile().wire == Wire::Sframe
    }

    /// Returns a snapshot of the counters, and the usage of the ring's sending key.
    #[must_use]
    pub fn stats(&self) -> EncryptStats {
        self.state.stats()
    }
}
