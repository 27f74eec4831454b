//! Binds the key of each sender to the participant for whom the key first opened a frame.
//!
//! Under a base key that a room shares, each sender has its own KID and key (RFC 9605, section 5). Every receiver can
//! derive all these keys. A forwarder that knows no key can therefore put Carol's frames on Bob's track. It can also
//! send Alice's frames back to Alice. The frames would open. So a receiver that knows the participant of its track
//! refuses the keys of other participants. It also refuses every key with which its ring has sealed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use super::KeyRing;
use super::counter;
use super::identity::Identity;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The maximum number of bound keys. Keys of participants who left are evicted first, then the oldest keys.
const MAX_BOUND: usize = 4096;

/// Records which participant the key of each sender belongs to, in one call.
#[derive(Default)]
pub struct SenderBindings(Mutex<Bindings>);

#[derive(Default)]
struct Bindings {
    owners: HashMap<Identity, Owner>,
    order: VecDeque<Identity>,
}

struct Owner {
    participant: Arc<str>,
    has_left: bool,
}

impl SenderBindings {
    /// Records that a participant has left. A participant without a key may then own the key: it may be the same person
    /// under another name.
    pub fn release(&self, participant: &str) {
        for owner in self.lock().owners.values_mut().filter(|owner| *owner.participant == *participant) {
            owner.has_left = true;
        }
    }

    /// Returns whether the key with this `identity` belongs to the participant. An unbound key is bound to the
    /// participant.
    fn bind(&self, identity: Identity, participant: &Arc<str>) -> bool {
        let mut bindings = self.lock();
        let Bindings { owners, order } = &mut *bindings;
        if let Some(owner) = owners.get(&identity) {
            let has_a_key = || owners.values().any(|other| other.participant == *participant);
            if owner.participant != *participant && (!owner.has_left || has_a_key()) {
                return false;
            }
        } else {
            order.push_back(identity);
        }
        owners.insert(identity, Owner { participant: Arc::clone(participant), has_left: false });
        if order.len() > MAX_BOUND {
            let gone = order.iter().position(|known| owners.get(known).is_none_or(|owner| owner.has_left));
            if let Some(oldest) = order.remove(gone.unwrap_or_default()) {
                owners.remove(&oldest);
            }
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Bindings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The participant who owns the track of a decryptor.
pub(crate) struct BoundSender {
    bindings: Arc<SenderBindings>,
    participant: Arc<str>,
    /// Caches the tag of the last key that was found to belong to the participant: a frame costs one comparison.
    bound: AtomicU64,
}

impl BoundSender {
    pub(crate) fn new(bindings: Arc<SenderBindings>, participant: &str) -> Self {
        Self { bindings, participant: participant.into(), bound: AtomicU64::default() }
    }

    /// Returns whether the key that opened a frame belongs to the participant.
    #[inline(always)]
    pub(crate) fn owns(&self, identity: Identity, ring: &KeyRing) -> bool {
        self.bound.load(Ordering::Relaxed) == identity.tag() || self.bind(identity, ring)
    }

    #[cold]
    fn bind(&self, identity: Identity, ring: &KeyRing) -> bool {
        let is_own = counter::has_sealed(identity, ring.current().deriver.ring);
        let is_theirs = !is_own && self.bindings.bind(identity, &self.participant);
        if is_theirs {
            self.bound.store(identity.tag(), Ordering::Relaxed);
        }
        is_theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(number: usize) -> Identity {
        Identity::of(&[b"senders.rs", &number.to_be_bytes()])
    }

    #[test]
    fn a_key_belongs_to_the_participant_who_had_it_first() {
        let (bindings, alice, bob) = (SenderBindings::default(), "alice".into(), "bob".into());
        assert!(bindings.bind(identity(1), &alice) && bindings.bind(identity(2), &bob));
        assert!(bindings.bind(identity(3), &alice), "a participant may have several");
        for (number, other) in [(1, &bob), (2, &alice), (3, &bob)] {
            assert!(!bindings.bind(identity(number), other));
        }
        assert!(bindings.bind(identity(1), &alice));
    }

    #[test]
    fn the_key_of_who_left_goes_to_a_newcomer_and_to_nobody_who_has_one() {
        let (bindings, alice, bob) = (SenderBindings::default(), "alice".into(), "bob".into());
        assert!(bindings.bind(identity(1), &alice) && bindings.bind(identity(2), &bob));
        bindings.release("alice");
        assert!(!bindings.bind(identity(1), &bob));
        assert!(bindings.bind(identity(1), &"alice again".into()));
        assert!(!bindings.bind(identity(1), &alice));
    }

    #[test]
    fn who_comes_back_has_the_same_keys_as_before() {
        let (bindings, alice) = (SenderBindings::default(), "alice".into());
        assert!(bindings.bind(identity(1), &alice));
        bindings.release("alice");
        assert!(bindings.bind(identity(1), &alice));
        assert!(!bindings.bind(identity(1), &"bob".into()));
    }

    #[test]
    fn the_keys_remembered_are_bounded_and_those_of_who_left_go_first() {
        let (bindings, alice, bob) = (SenderBindings::default(), "alice".into(), "bob".into());
        assert!(bindings.bind(identity(0), &alice) && bindings.bind(identity(1), &bob));
        bindings.release("bob");
        assert!((2..=MAX_BOUND).all(|number| bindings.bind(identity(number), &alice)));
        let bound = bindings.lock();
        assert_eq!((bound.owners.len(), bound.order.len()), (MAX_BOUND, MAX_BOUND));
        assert!(bound.owners.contains_key(&identity(0)) && !bound.owners.contains_key(&identity(1)));
    }
}
