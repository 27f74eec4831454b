//! The keys of many senders under one base key. Each sender has its own KID, and its key follows from base key and KID.
//!
//! In an MLS epoch the KIDs are assigned (RFC 9605, section 5.2). Under a key that a room shares, each installation of
//! the key draws 56 random bits of KID. A forked child draws again. RFC 9605 forbids two senders, or a restarted
//! sender, under one pair of base key and KID. Among N installations the chance of a collision is about N^2 / 2^57.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::counter::CtrSource;
use super::identity::Identity;
use super::key::{Key, KeyDeriver, serial};
use super::kid::Field;
use super::nonce::NonceSource;
use crate::error::{EncryptError, KeyError};
use crate::secret::Secret;
use crate::suite::random;

/// The maximum number of senders whose expanded keys are cached. The oldest entry is evicted first; its sender costs
/// one more derivation.
const MAX_SENDERS: usize = 1024;

pub(super) struct SenderKeys {
    pub(super) field: Field,
    pub(super) material: Secret,
    /// The serial of the base key. The cached keys of its senders have their own serials.
    pub(super) serial: u64,
    /// The position in the order in which the keys of the ring were set.
    pub(super) set: u64,
    /// The identity for the usage count: the own key of this side in an epoch, or the shared key under all drawn KIDs.
    pub(super) identity: Identity,
    /// The KID that was assigned to this side. `None` means that this side draws a random KID.
    assigned_kid: Option<u64>,
    own_sender: Option<OwnSender>,
    /// Counts the frames that this side has sealed under earlier KIDs.
    used: u64,
    /// Caches the keys of senders after an authentic frame. A forged KID costs a derivation, but no memory.
    senders: BTreeMap<u64, KnownSender>,
}

/// The key of a sender, and its serial, which orders the cache by age.
struct KnownSender {
    key: Arc<Key>,
    serial: u64,
}

struct OwnSender {
    kid: u64,
    key: Arc<Key>,
    nonces: NonceSource,
}

/// The sending key of a ring, while the lock of the ring is held.
pub(super) struct ActiveKey<'s> {
    pub(super) key: &'s Arc<Key>,
    pub(super) kid: u64,
    pub(super) nonces: &'s mut NonceSource,
    /// The key id in errors.
    pub(super) error_kid: u64,
}

impl SenderKeys {
    /// Creates the entry of a shared key. The KID of this side is drawn when it first seals.
    pub(super) fn shared(field: Field, material: Secret, identity: Identity) -> Self {
        let (serial, senders) = (serial(), BTreeMap::new());
        Self { field, material, serial, set: 0, identity, assigned_kid: None, own_sender: None, used: 0, senders }
    }

    /// Creates the entry of an epoch in which this side has the KID `assigned_kid`.
    ///
    /// The counter is registered now, because the process may fork before the first frame.
    pub(super) fn epoch(
        field: Field,
        material: Secret,
        assigned_kid: u64,
        deriver: &KeyDeriver,
    ) -> Result<Self, KeyError> {
        let sender = OwnSender::new(assigned_kid, &material, deriver)?;
        let identity = sender.key.identity;
        Ok(Self {
            assigned_kid: Some(assigned_kid),
            own_sender: Some(sender),
            ..Self::shared(field, material, identity)
        })
    }

    /// Returns whether both entries derive the same keys for the same senders.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.field == other.field && self.assigned_kid == other.assigned_kid && self.material.same(&other.material)
    }

    /// Continues the usage count from `sealed` frames.
    pub(super) fn count_from(&mut self, sealed: u64) {
        self.used = sealed;
        if let Some(sender) = &mut self.own_sender {
            sender.nonces.count_from(sealed);
        }
    }

    pub(super) fn key_of(&self, kid: u64) -> Option<&Arc<Key>> {
        self.senders.get(&kid).map(|known| &known.key)
    }

    pub(super) fn remember(&mut self, kid: u64, key: &Arc<Key>) {
        if self.senders.contains_key(&kid) {
            return;
        }
        if self.senders.len() == MAX_SENDERS
            && let Some((&oldest, _)) = self.senders.iter().min_by_key(|(_, known)| known.serial)
        {
            self.senders.remove(&oldest);
        }
        self.senders.insert(kid, KnownSender { key: Arc::clone(key), serial: key.serial });
    }

    /// Returns how many frames this side has sealed.
    pub(super) fn issued(&self) -> u64 {
        self.own_sender.as_ref().map_or(self.used, |sender| sender.nonces.issued())
    }

    /// Returns the sending key of this side. Draws a KID if none was assigned and none is drawn yet.
    pub(super) fn active_key(&mut self, deriver: &KeyDeriver) -> Result<ActiveKey<'_>, EncryptError> {
        let error_kid = self.assigned_kid.unwrap_or(self.field.value);
        // A drawn KID is dropped in a forked child. An assigned KID stays, and its counter refuses the child.
        if self.assigned_kid.is_none() && self.own_sender.as_ref().is_some_and(|sender| sender.nonces.is_forked()) {
            self.used = self.issued();
            self.own_sender = None;
        }
        let OwnSender { kid, key, nonces } = match &mut self.own_sender {
            Some(sender) => sender,
            none => none.insert(
                OwnSender::with_random_kid(self.field, &self.material, deriver, self.used)
                    .map_err(|_| EncryptError::KeyExhausted { kid: error_kid })?,
            ),
        };
        Ok(ActiveKey { key, kid: *kid, nonces, error_kid })
    }
}

impl OwnSender {
    fn new(kid: u64, material: &Secret, deriver: &KeyDeriver) -> Result<Self, KeyError> {
        let key = Arc::new(deriver.key(kid, material)?);
        let nonces = NonceSource::Ctr(CtrSource::new(key.identity, deriver.ring, None)?);
        Ok(Self { kid, key, nonces })
    }

    /// Creates a sender whose KID is random in all bits outside of `field`.
    fn with_random_kid(field: Field, material: &Secret, deriver: &KeyDeriver, used: u64) -> Result<Self, KeyError> {
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        let kid = u64::from_be_bytes(bytes) & !Field::mask(field.bits) | field.value;
        let mut sender = Self::new(kid, material, deriver)?;
        sender.nonces.count_from(used);
        Ok(sender)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::SFRAME;
    use crate::secret::Kdf;

    #[test]
    fn the_senders_remembered_are_bounded_and_the_one_met_longest_ago_goes_first() {
        let deriver = KeyDeriver {
            profile: &SFRAME,
            suite: SFRAME.suite(None, None).unwrap(),
            any_length: false,
            ring: serial(),
        };
        let material = Secret::new(&[1; 16], Kdf::Random);
        let identity = deriver.shared_identity(0, &material);
        let mut keys = SenderKeys::shared(Field { bits: 8, value: 0 }, material, identity);
        for kid in 0..=MAX_SENDERS as u64 {
            let key = Arc::new(deriver.key(kid << 8, &keys.material).unwrap());
            keys.remember(kid << 8, &key);
        }
        assert_eq!(keys.senders.len(), MAX_SENDERS);
        assert!(keys.key_of(0).is_none() && keys.key_of(1 << 8).is_some());
    }
}
