//! What a key ring is expected to seal with, told from the calls alone: the newest thing that was set under the chosen
//! key id.

use std::collections::HashMap;
use std::sync::Arc;

use frameseal::{KeyRing, MlsKid};

use super::program::Kind;

/// A base key of the program, so many ratchet steps on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    pub base: usize,
    pub steps: usize,
}

/// How a key came to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A key by itself. In SFrame its id is its KID.
    Key,
    /// A base key that many share: each ring draws its KID.
    Shared,
    /// An MLS epoch.
    Epoch(MlsKid),
}

impl Origin {
    /// Things of one origin replace each other, if they have the same id.
    fn place(self) -> Option<u8> {
        match self {
            Self::Key => None,
            Self::Shared => Some(8),
            Self::Epoch(kid) => Some(kid.epoch_bits),
        }
    }
}

/// One key, or family of keys, of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Thing {
    pub id: u64,
    pub label: Label,
    pub origin: Origin,
    /// The fork generation that alone may seal with it: whoever had it before a fork may go on elsewhere.
    pub since: u32,
    /// Whether the caller has named a counter, and taken the responsibility for it.
    pub is_continued: bool,
    /// A ratchet step that a later one has replaced.
    superseded: bool,
}

impl Thing {
    pub fn new(id: u64, label: Label, origin: Origin, since: u32) -> Self {
        Self { id, label, origin, since, is_continued: false, superseded: false }
    }

    /// The KID that it seals under; `None` where the ring draws it.
    pub fn kid(&self) -> Option<u64> {
        match self.origin {
            Origin::Key => Some(self.id),
            Origin::Shared => None,
            Origin::Epoch(kid) => kid.value().ok(),
        }
    }
}

/// A ring, and what is known to be in it.
pub struct Ring {
    pub native: Arc<KeyRing>,
    pub kind: Kind,
    /// The index of the ring that this one turns to while it has no keys.
    pub fallback: Option<usize>,
    /// In the order in which they were set.
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

    /// What this ring is to seal with. Where it has no keys, the fallback is asked instead.
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

    /// What it has in the place of `thing`, if that is the same key under the same KID.
    pub fn same(&self, thing: &Thing) -> Option<Thing> {
        let known =
            self.things.iter().find(|known| (known.id, known.origin.place()) == (thing.id, thing.origin.place()));
        known.filter(|known| known.label == thing.label && known.kid() == thing.kid()).copied()
    }

    /// The key by itself that has this id.
    pub fn key(&self, id: u64) -> Option<Thing> {
        self.things.iter().find(|thing| thing.id == id && thing.origin == Origin::Key).copied()
    }

    /// Puts `next` in the place of the key under `id`, which stays where key ids tell steps apart.
    pub fn step(&mut self, id: u64, next: Thing, ratchet_bits: u8) {
        if next.id != id {
            let same = |known: u64| known >> ratchet_bits == id >> ratchet_bits;
            self.things.retain(|thing| !(thing.superseded && same(thing.id)));
            for thing in self.things.iter_mut().filter(|thing| thing.id == id && thing.origin == Origin::Key) {
                thing.superseded = true;
            }
            if self.sending == Some(id) {
                self.sending = Some(next.id);
            }
        }
        self.set(next);
    }

    /// The nearest key that a received frame's KID is ahead of, where key ids tell steps apart.
    pub fn behind(&self, kid: u64, ratchet_bits: u8) -> Option<Thing> {
        let mask = (1 << ratchet_bits) - 1;
        let current = self.things.iter().filter(|thing| thing.id | mask == kid | mask && !thing.superseded);
        current.min_by_key(|thing| kid.wrapping_sub(thing.id) & mask).copied()
    }

    /// Whether it has the key of a frame at hand.
    pub fn opens(&self, kid: u64, label: Label) -> bool {
        let names = |thing: &Thing| match thing.origin.place() {
            None => thing.id == kid,
            Some(bits) => thing.id == kid & ((1 << bits) - 1),
        };
        self.things.iter().any(|thing| thing.label == label && names(thing))
    }
}

/// What a key seals under: never from the same counter twice.
pub type Pair = (Label, u64);

/// Pairs that were set, and by whom.
#[derive(Default)]
pub struct Pairs {
    known: HashMap<Pair, Known>,
}

struct Known {
    /// The fork generation in which it was first set: a parent has it too if that is an earlier one.
    since: u32,
    /// How many times it was set.
    times: usize,
    /// The ring that sealed under it last.
    sealer: Option<usize>,
}

impl Pairs {
    /// Notes that a pair was set. Returns the fork generation in which it was set first.
    pub fn set(&mut self, pair: Pair, now: u32) -> u32 {
        let known = self.known.entry(pair).or_insert(Known { since: now, times: 0, sealer: None });
        known.times += 1;
        known.since
    }

    /// Whether nobody but `ring` can have sealed under it.
    pub fn belongs_to(&self, pair: Pair, ring: usize) -> bool {
        self.known.get(&pair).is_none_or(|known| match known.sealer {
            Some(sealer) => sealer == ring && known.times == 1,
            None => known.times == 1,
        })
    }

    /// Notes that `ring` has sealed under it. Returns the fork generation in which it was set, or sealed under, first.
    pub fn sealed(&mut self, pair: Pair, ring: usize, now: u32) -> u32 {
        let known = self.known.entry(pair).or_insert(Known { since: now, times: 1, sealer: None });
        known.sealer = Some(ring);
        known.since
    }
}
