//! Keys, and how one is made from material.

use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::keyring::fingerprint::{self, Fingerprint};
use crate::keyring::nonce::{Nonce, NonceInput};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::{AeadKey, CipherSuite, NONCE_LEN, digest};
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

/// Stands for a key wherever it comes from, in memories that outlast the key: nonces must not come twice under it.
///
/// A digest of the key itself. It tells keys apart that one base key gives under several KIDs, and none that two key ids
/// of a ring hold alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// The first 128 bits of a digest over `parts`.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest(parts);
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
    }

    /// As much of it as one atomic holds.
    #[inline(always)]
    pub(crate) fn tag(self) -> u64 {
        self.0
    }
}

/// A number that no other key or family of keys in this process has.
pub(crate) fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What all keys of one ring have in common.
#[derive(Clone, Copy)]
pub(crate) struct KeyDeriver {
    pub(crate) profile: &'static Profile,
    pub(crate) suite: &'static CipherSuite,
    /// A number that no other ring has.
    pub(crate) ring: u64,
}

impl KeyDeriver {
    /// Derives and expands the key that `material` gives under `kid`.
    pub(crate) fn key(&self, kid: u64, material: &Secret) -> Result<Key, KeyError> {
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
    pub(crate) fn fingerprint(
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
    pub(crate) fn shared_identity(&self, key_id: u64, material: &Secret) -> Identity {
        let ids = [&self.suite.id.to_be_bytes()[..], &key_id.to_be_bytes()].concat();
        Identity::of(&[b"frameseal shared key", &ids, material.bytes()])
    }

    /// The material one ratchet step on. Nothing else ratchets.
    ///
    /// In the trailer profiles it is no boundary between members: where both salts are the same, a step's material begins
    /// with the key before it, as livekit-client 2.23.0 and webrtc-sdk m144 have it. RFC 9605's step is one-way; still, for those who leave set a
    /// fresh key.
    pub(crate) fn step(&self, material: &Secret) -> Result<Secret, KeyError> {
        self.profile.schedule.ratchet(self.suite, material)
    }
}
