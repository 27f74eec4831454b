//! Expanded keys, and their derivation from key material.

use zeroize::Zeroizing;

use super::fingerprint::{self, Fingerprint};
use super::identity::Identity;
use super::nonce::{Nonce, NonceInput};
use crate::error::KeyError;
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::{AeadKey, CipherSuite, NONCE_LEN};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::shared;
use crate::wire::Wire;

/// An expanded key. No other key has its serial, so a replaced key is noticed.
///
/// The alignment keeps the key off the cache line of the `Arc` reference count, which every frame writes (false
/// sharing).
#[repr(align(128))]
pub(crate) struct Key {
    pub(crate) aead: AeadKey,
    pub(crate) serial: u64,
    pub(crate) identity: Identity,
    salt: Nonce,
    /// The fingerprint of this key. It is `None` in SFrame, where the fingerprint covers the base key.
    fingerprint: Option<Fingerprint>,
}

impl Key {
    /// Returns the nonce of one frame: an IV unchanged, or a counter XOR the salt of the key.
    #[inline(always)]
    pub(crate) fn nonce(&self, nonce_input: NonceInput) -> [u8; NONCE_LEN] {
        match nonce_input {
            NonceInput::Iv(iv) => iv.bytes(),
            NonceInput::Ctr(ctr) => self.salt.salted(ctr).bytes(),
        }
    }
}

/// Returns a number that no other key, `SenderKeys` or ring in this process has.
pub(super) fn serial() -> u64 {
    shared! {
        static NEXT: AtomicU64 = AtomicU64::new(1);
    }
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The parameters that all keys of one ring have in common.
#[derive(Clone, Copy)]
pub(super) struct KeyDeriver {
    pub(super) profile: &'static Profile,
    pub(super) suite: &'static CipherSuite,
    /// True if a raw key chooses its suite among those of the profile by its length. They differ in nothing else.
    pub(super) any_length: bool,
    /// The serial of the ring.
    pub(super) ring: u64,
}

impl KeyDeriver {
    /// Derives the key for `kid` from `material`, and expands it.
    pub(super) fn key(&self, kid: u64, material: &Secret) -> Result<Key, KeyError> {
        let suite = self.suite_of(material)?;
        let mut bytes = Zeroizing::new(vec![0; suite.key_len]);
        let salt = self.profile.schedule.key(suite, kid, material, &mut bytes)?;
        let identity = Identity::of(&[b"frameseal key", &bytes, &salt]);
        let fingerprint = match self.profile.wire {
            Wire::Trailer | Wire::Footer => Some(fingerprint::of_key(&bytes)?),
            Wire::Sframe => None,
        };
        Ok(Key { aead: AeadKey::new(suite, &bytes)?, serial: serial(), identity, salt: salt.into(), fingerprint })
    }

    /// Returns the suite of a key.
    fn suite_of(&self, material: &Secret) -> Result<&'static CipherSuite, KeyError> {
        if !self.any_length || material.is_passphrase() {
            return Ok(self.suite);
        }
        let given = material.bytes().len();
        let lengths = || self.profile.suites.iter().map(|suite| suite.key_len);
        let (min, max) = (lengths().min().unwrap_or_default(), lengths().max().unwrap_or_default());
        let suite = self.profile.suites.iter().find(|suite| suite.key_len == given);
        suite.copied().ok_or(KeyError::KeyLength { given, min, max })
    }

    /// Returns the fingerprint of `material` under `key_id`. `key` is the derived key, or `None` if there are many
    /// senders.
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

    /// Returns the identity of a base key that many senders share under `key_id`.
    pub(super) fn shared_identity(&self, key_id: u64, material: &Secret) -> Identity {
        let ids = [&self.suite.id.to_be_bytes()[..], &key_id.to_be_bytes()].concat();
        Identity::of(&[b"frameseal shared key", &ids, material.bytes()])
    }

    /// Returns the material of the next ratchet step.
    ///
    /// A step of the trailer profiles does not lock out a member who leaves. If both salts are equal, the material of a
    /// step begins with the key before it. This is so in livekit-client 2.23.0 and webrtc-sdk m144. A step of RFC 9605
    /// is one-way. Set a fresh key when a member leaves, whatever the profile.
    pub(super) fn step(&self, material: &Secret) -> Result<Secret, KeyError> {
        self.profile.schedule.ratchet(self.suite, material)
    }
}
