//! A model of a key ring: predicts from the calls alone which key seals, the newest that was set under the chosen key
//! id.

use std::collections::HashMap;
use std::sync::Arc;

use frameseal::{KeyRing, MlsKid};

use super::program::Kind;

/// A base key of the program, ratcheted by a number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    pub base: usize,
    pub steps: usize,
}

/// The call that set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A single key. In SFrame its id is its KID.
    Key,
    /// A base key that several senders share: each ring draws its KID.
    Shared,
    /// An MLS epoch.
    Epoch(MlsKid),
}

impl Origin {
    /// Returns the kind of slot. Things with the same id and the same kind of slot replace each other.
    fn place(self) -> Option<u8> {
        match self {
            Self::Key => None,
            Self::Shared => Some(8),
            Self::Epoch(kid) => Some(kid.epoch_bits),
        }
    }
}

/// One key of a ring, or one base key with the keys of all its senders.
#[derive(Clone, Copy, Debug)]
pub struct Thing {
    pub id: u64,
    pub label: Label,
    pub origin: Origin,
    /// The only fork generation that may seal with it. Another process may seal with a key from before a fork.
    pub since: u32,
    /// True if the caller has named a counter, and is responsible for it.
    pub is_continued: bool,
    /// True for a ratchet step that a later step has replaced.
    superseded: bool,
}

impl Thing {
    pub fn new(id: u64, label: Label, origin: Origin, since: u32) -> Self {
        Self { id, label, origin, since, is_continued: false, superseded: false }
    }

    /// Returns the KID under which it seals, or `None` if the ring draws the KID.
    pub fn kid(&self) -> Option<u64> {
        match self.origin {
            Origin::Key => Some(self.id),
            Origin::Shared => None,
            Origin::Epoch(kid) => kid.value().ok(),
        }
    }
}

/// A ring, and the keys that it must hold.
pub struct Ring {
    pub native: Arc<KeyRing>,
    pub kind: Kind,
    /// The index of the fallback, which the ring uses while it has no keys.
    pub fallback: Option<usize>,
    /// The keys, in the order in which they were set.
    things: Vec<Thing>,
    sending: Option<u64>,
}

impl Ring {
    pub fn new(native: Arc<KeyRing>, kind: Kind, fallback: Option<usize>) -> Self {
        Self { native, kind, fallback, things: Vec::new(), sending: None }
    }

    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    /// Returns the key that must seal, or `None` if the ring has none under its sending key id. Ignores the fallback.
    pub fn sending(&self) -> Option<Thing> {
        let id = self.sending.unwrap_or(0);
        self.things.iter().rev().find(|thing| thing.id == id).copied()
    }

    pub fn set(&mut self, thing: Thing) {
        self.things.retain(|known| (known.id, known.origin.place()) != (thing.id, thing.origin.place()));
        self.things.push(thing);
        self.sending.get_or_insert(thing.id);
    }

    pub fn set_epoch(&mut self, thing: Thing, retain: usize) {
        self.set(thing);
        self.choose(thing.id);
        let is_epoch = |thing: &Thing| thing.origin != Origin::Key;
        let epochs = self.things.iter().filter(|thing| is_epoch(thing)).count();
        let mut erased = epochs.saturating_sub(retain.saturating_add(1));
        self.things.retain(|thing| {
            let erase = erased > 0 && is_epoch(thing);
            erased -= usize::from(erase);
            !erase
        });
    }

    pub fn remove(&mut self, id: u64) {
        self.things.retain(|thing| thing.id != id);
    }

    pub fn choose(&mut self, id: u64) {
        self.sending = Some(id);
    }

    /// Returns the key in the slot of `thing` if it is the same key under the same KID. Returns `None` otherwise.
    pub fn same(&self, thing: &Thing) -> Option<Thing> {
        let known =
            self.things.iter().find(|known| (known.id, known.origin.place()) == (thing.id, thing.origin.place()));
        known.filter(|known| known.label == thing.label && known.kid() == thing.kid()).copied()
    }

    /// Returns the single key with this id.
    pub fn key(&self, id: u64) -> Option<Thing> {
        self.things.iter().find(|thing| thing.id == id && thing.origin == Origin::Key).copied()
    }

    /// Replaces the key under `id` by `next`. The old key stays if key ids count ratchet steps.
    pub fn step(&mut self, id: u64, next: Thing, ratchet_bits: u8) {
        if next.id != id {
            let same = |known: u64| known >> ratchet_bits == id >> ratchet_bits;
            // The key of the step stays, even if an earlier step was taken from it.
            self.things.retain(|thing| !(thing.superseded && same(thing.id) && thing.id != id));
            for thing in self.things.iter_mut().filter(|thing| thing.id == id && thing.origin == Origin::Key) {
                thing.superseded = true;
            }
            if self.sending == Some(id) {
                self.sending = Some(next.id);
            }
        }
        self.set(next);
    }

    /// Returns the nearest key from which a received KID is ahead, if key ids count ratchet steps.
    pub fn behind(&self, kid: u64, ratchet_bits: u8) -> Option<Thing> {
        let mask = (1 << ratchet_bits) - 1;
        let current = self.things.iter().filter(|thing| thing.id | mask == kid | mask && !thing.superseded);
        current.min_by_key(|thing| kid.wrapping_sub(thing.id) & mask).copied()
    }

    /// Returns whether the ring holds the key of a frame.
    pub fn opens(&self, kid: u64, label: Label) -> bool {
        let names = |thing: &Thing| match thing.origin.place() {
            None => thing.id == kid,
            Some(bits) => thing.id == kid & ((1 << bits) - 1),
        };
        self.things.iter().any(|thing| thing.label == label && names(thing))
    }
}

/// A key and its KID. No two rings may count from the same start under one pair.
pub type Pair = (Label, u64);

/// All pairs that were set, and the rings that sealed under them.
#[derive(Default)]
pub struct Pairs {
    known: HashMap<Pair, Known>,
}

struct Known {
    /// The fork generation in which it was first set. If that is an earlier generation, a parent has it too.
    since: u32,
    /// The number of times that it was set.
    times: usize,
    /// The ring that sealed under it last.
    sealer: Option<usize>,
}

impl Pairs {
    /// Records that a pair was set. Returns the fork generation in which it was set first.
    pub fn set(&mut self, pair: Pair, now: u32) -> u32 {
        let known = self.known.entry(pair).or_insert(Known { since: now, times: 0, sealer: None });
        known.times += 1;
        known.since
    }

    /// Returns whether only `ring` can have sealed under the pair.
    pub fn belongs_to(&self, pair: Pair, ring: usize) -> bool {
        self.known.get(&pair).is_none_or(|known| match known.sealer {
            Some(sealer) => sealer == ring && known.times == 1,
            None => known.times == 1,
        })
    }

    /// Records that `ring` has sealed under the pair. Returns the fork generation in which it was first set or used.
    pub fn sealed(&mut self, pair: Pair, ring: usize, now: u32) -> u32 {
        let known = self.known.entry(pair).or_insert(Known { since: now, times: 1, sealer: None });
        known.sealer = Some(ring);
        known.since
    }

    /// Records that a frame was sealed from a counter that the caller has named. In this process, the pair may seal from
    /// then on, also when it is set again without a counter.
    pub fn continued(&mut self, pair: Pair, now: u32) {
        if let Some(known) = self.known.get_mut(&pair) {
            known.since = now;
        }
    }
}
