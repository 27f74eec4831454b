//! One base key, many senders: each seals under a KID of its own, and its key follows from base key and KID.
//!
//! Two uses. An MLS epoch (RFC 9605, section 5.2): the KIDs are assigned. And a key that a room shares: RFC 9605 forbids
//! two senders under one (base key, KID), and a restart under the same, so each installation draws 56 random bits of
//! KID, and a fork draws anew. Among N installations the chance that any two meet is about N^2 / 2^57.

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

/// Senders whose keys are kept expanded; the one met longest ago goes first, and costs a derivation when it comes back.
const MAX_SENDERS: usize = 1024;

pub(super) struct SenderKeys {
    pub(super) field: Field,
    pub(super) material: Secret,
    /// Stands for the base key, whose senders' keys come and go.
    pub(super) serial: u64,
    /// Its place in the order in which the ring's keys were set.
    pub(super) set: u64,
    /// What this side's frames are counted under: its own key, or the shared key, whichever KIDs it draws.
    pub(super) identity: Identity,
    /// The KID that was assigned to this side; none draws one.
    assigned_kid: Option<u64>,
    own_sender: Option<OwnSender>,
    /// Frames that this side has sealed under KIDs that it has no more.
    used: u64,
    /// Senders of whom a frame has authenticated: forged KIDs cost a derivation each and no memory.
    senders: BTreeMap<u64, KnownSender>,
}

/// A sender's key, and the serial by which it is older than others.
struct KnownSender {
    key: Arc<Key>,
    serial: u64,
}

struct OwnSender {
    kid: u64,
    key: Arc<Key>,
    nonces: NonceSource,
}

/// What a ring seals with, while its lock is held.
pub(super) struct ActiveKey<'s> {
    pub(super) key: &'s Arc<Key>,
    pub(super) kid: u64,
    pub(super) nonces: &'s mut NonceSource,
    /// The key id by which an error names it.
    pub(super) error_kid: u64,
}

impl SenderKeys {
    /// A shared key: this side's KID is drawn when it first seals.
    pub(super) fn shared(field: Field, material: Secret, identity: Identity) -> Self {
        let (serial, senders) = (serial(), BTreeMap::new());
        Self { field, material, serial, set: 0, identity, assigned_kid: None, own_sender: None, used: 0, senders }
    }

    /// An epoch in which this side has the KID `own`. Its counter is there from now on: a fork may come before a frame.
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

    /// Whether both give the same keys to the same senders.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.field == other.field && self.assigned_kid == other.assigned_kid && self.material.same(&other.material)
    }

    /// Counts on from what the ring has sealed with this key.
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

    /// Frames sealed by this side.
    pub(super) fn issued(&self) -> u64 {
        self.own_sender.as_ref().map_or(self.used, |sender| sender.nonces.issued())
    }

    /// What this side seals with: an assigned KID, or one that is drawn now.
    pub(super) fn active_key(&mut self, deriver: &KeyDeriver) -> Result<ActiveKey<'_>, EncryptError> {
        let error_kid = self.assigned_kid.unwrap_or(self.field.value);
        // An assigned KID stays what it is; its counter refuses to be used in a forked child.
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

    /// A sender whose KID is drawn: all bits outside of `field`.
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
        let deriver = KeyDeriver { profile: &SFRAME, suite: SFRAME.suite(None, None).unwrap(), ring: serial() };
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
