//! Keys, and how one is made from material.

use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::Zeroizing;

use super::fingerprint::{self, Fingerprint};
use super::identity::Identity;
use super::nonce::{Nonce, NonceInput};
use crate::error::KeyError;
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::{AeadKey, CipherSuite, NONCE_LEN};
use crate::wire::Wire;

/// An expanded key. Its serial tells it from every other, so that a replaced key is noticed.
///
/// Aligned away from the count of its owners, which changes with every frame: a core that seals would wait for one that
/// plans.
#[repr(align(128))]
pub(crate) struct Key {
    pub(crate) aead: AeadKey,
    pub(crate) serial: u64,
    pub(crate) identity: Identity,
    salt: Nonce,
    /// Of the key itself; none in SFrame, where it is of the base key.
    fingerprint: Option<Fingerprint>,
}

impl Key {
    /// The nonce of one frame: an IV as it is, a counter with the key's salt.
    #[inline(always)]
    pub(crate) fn nonce(&self, nonce_input: NonceInput) -> [u8; NONCE_LEN] {
        match nonce_input {
            NonceInput::Iv(iv) => iv.bytes(),
            NonceInput::Ctr(ctr) => self.salt.salted(ctr).bytes(),
        }
    }
}

/// A number that no other key or family of keys in this process has.
pub(super) fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What all keys of one ring have in common.
#[derive(Clone, Copy)]
pub(super) struct KeyDeriver {
    pub(super) profile: &'static Profile,
    pub(super) suite: &'static CipherSuite,
    /// A number that no other ring has.
    pub(super) ring: u64,
}

impl KeyDeriver {
    /// Derives and expands the key that `material` gives under `kid`.
    pub(super) fn key(&self, kid: u64, material: &Secret) -> Result<Key, KeyError> {
        let mut bytes = Zeroizing::new(vec![0; self.suite.key_len]);
        let salt = self.profile.schedule.key(self.suite, kid, material, &mut bytes)?;
        let identity = Identity::of(&[b"frameseal key", &bytes, &salt]);
        let fingerprint = match self.profile.wire {
            Wire::Trailer => Some(fingerprint::of_key(&bytes)?),
            Wire::Sframe => None,
        };
        Ok(Key { aead: AeadKey::new(self.suite, &bytes)?, serial: serial(), identity, salt: salt.into(), fingerprint })
    }

    /// What the holders of `material` under `key_id` can compare. `key` is what it gives there, where that is one key.
    pub(super) fn fingerprint(
        &self,
        key_id: u64,
        material: &Secret,
        key: Option<&Key>,
    ) -> Result<Fingerprint, KeyError> {
        match key.and_then(|key| key.fingerprint) {
            Some(fingerprint) => Ok(fingerprint),
            None => fingerprint::of_base_key(self.suite, key_id, material),
        }
    }

    /// Stands for a base key that many senders share, by its key id.
    pub(super) fn shared_identity(&self, key_id: u64, material: &Secret) -> Identity {
        let ids = [&self.suite.id.to_be_bytes()[..], &key_id.to_be_bytes()].concat();
        Identity::of(&[b"frameseal shared key", &ids, material.bytes()])
    }

    /// The material one ratchet step on. Nothing else ratchets.
    ///
    /// In the trailer profiles it is no boundary between members: where both salts are the same, a step's material begins
    /// with the key before it, as livekit-client 2.23.0 and webrtc-sdk m144 have it. RFC 9605's step is one-way; still, for those who leave set a
    /// fresh key.
    pub(super) fn step(&self, material: &Secret) -> Result<Secret, KeyError> {
        self.profile.schedule.ratchet(self.suite, material)
    }
}
