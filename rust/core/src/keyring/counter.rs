//! The counters of SFrame (RFC 9605, section 4.4.3). Each key has one counter in this process, whichever ring seals.
//!
//! A key here follows from a base key and a KID. Its counter is never random, so it must never start twice. Every
//! source therefore draws from the one counter of its key. No order of setting, sealing, removing and setting again
//! repeats a counter.
//!
//! The first ring that seals with a key may do so. Another ring may if its caller passed the counter to continue from.
//! Any other ring is refused, because two senders under one key are a mistake. A forked child is refused likewise,
//! because its siblings hold the same key. That covers every key that was set before the fork, and the ratchet steps
//! from it. This module cannot detect a restart of the process.
//!
//! A key that has sealed is remembered for the life of the process. A key that has not sealed is remembered while a
//! ring holds it. Afterwards only the last [`MAX_UNUSED`] dropped keys are remembered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use super::identity::Identity;
use crate::error::KeyError;
use crate::fork;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, shared};

/// The maximum number of remembered keys that were set and dropped without sealing, about 2 MiB. A fork may still
/// follow.
const MAX_UNUSED: usize = 16 * 1024;

/// The maximum number of rings, beside the first, that are remembered to seal with one key. A further ring evicts the
/// oldest, whose caller must pass the counter again.
const MAX_RINGS: usize = 64;

/// The counter of one key. All operations are relaxed, because they order no other memory.
#[derive(Default)]
struct KeyCounter {
    next: AtomicU64,
    /// True if the largest counter was issued too.
    ended: AtomicBool,
}

impl KeyCounter {
    /// Issues `count` consecutive counters and returns the first. Returns `None` if fewer are left.
    #[inline(always)]
    fn issue(&self, count: u64) -> Option<u64> {
        let mut first = self.next.load(Ordering::Relaxed);
        while let Some(next) = first.checked_add(count) {
            match self.next.compare_exchange_weak(first, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(first),
                Err(newer) => first = newer,
            }
        }
        self.issue_last(count)
    }

    #[cold]
    fn issue_last(&self, count: u64) -> Option<u64> {
        let is_last = count == 1 && !self.ended.swap(true, Ordering::Relaxed);
        is_last.then_some(u64::MAX)
    }

    /// Returns the smallest counter that was not issued, or `None` if all were.
    fn next_unused(&self) -> Option<u64> {
        (!self.ended.load(Ordering::Relaxed)).then(|| self.next.load(Ordering::Relaxed))
    }
}

/// The record of one key in this process.
struct Entry {
    counter: Arc<KeyCounter>,
    /// The fork generation that may seal. In it the key was first set, or a caller continued the counter.
    generation: u32,
    /// The counter that the last explicit caller passed.
    explicit_start: u64,
    /// The ring that sealed first. 0 means that no ring has sealed.
    ring: u64,
    /// Further rings whose callers passed a counter.
    more_rings: Vec<u64>,
    /// The number of sources that hold the entry.
    sources: u32,
    /// True if [`Registry::unused`] holds the key.
    is_queued: bool,
}

impl Entry {
    fn new(generation: u32) -> Self {
        let (explicit_start, ring, more_rings) = (0, 0, Vec::new());
        Self { counter: Arc::default(), generation, explicit_start, ring, more_rings, sources: 0, is_queued: false }
    }

    fn is_unused(&self) -> bool {
        self.sources == 0 && self.ring == 0 && self.explicit_start == 0
    }

    fn is_sealed_with_in(&self, ring: u64) -> bool {
        self.ring == ring || self.more_rings.contains(&ring)
    }
}

#[derive(Default)]
struct Registry {
    entries: HashMap<Identity, Entry>,
    /// The keys without a source that have sealed nothing, in the order in which they were dropped.
    unused: VecDeque<Identity>,
}

impl Registry {
    /// Records that a source was dropped. Forgets the oldest unused key if there are too many.
    fn leave(&mut self, identity: Identity) {
        let Some(entry) = self.entries.get_mut(&identity) else { return };
        entry.sources = entry.sources.saturating_sub(1);
        if !entry.is_unused() || entry.is_queued {
            return;
        }
        entry.is_queued = true;
        self.unused.push_back(identity);
        if self.unused.len() > MAX_UNUSED
            && let Some(oldest) = self.unused.pop_front()
            && let Some(entry) = self.entries.get_mut(&oldest)
        {
            entry.is_queued = false;
            // A key from before a fork stays, because a sibling may hold it.
            if entry.is_unused() && fork::generation() == Ok(entry.generation) {
                self.entries.remove(&oldest);
            }
        }
    }
}

shared! {
    static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);
}

/// Runs `work` on the registry, under its lock. `work` takes no other lock. A key may be dropped anywhere, so this
/// function blocks forks by itself.
fn with_registry<R>(work: impl FnOnce(&mut Registry) -> R) -> R {
    let _inside = fork::enter();
    let mut registry: MutexGuard<'_, Option<Registry>> = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    work(registry.get_or_insert_default())
}

/// Returns whether a ring has sealed with this key, in this process or in an ancestor that forked it.
pub(super) fn has_sealed(identity: Identity, ring: u64) -> bool {
    with_registry(|registry| registry.entries.get(&identity).is_some_and(|entry| entry.is_sealed_with_in(ring)))
}

/// The registration of a source, which ends when it is dropped.
struct Registration {
    identity: Identity,
    counter: Arc<KeyCounter>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        with_registry(|registry| registry.leave(self.identity));
    }
}

/// The source of counters for one key in one ring.
pub(super) struct CtrSource {
    registration: Registration,
    ring: u64,
    /// The only fork generation in which the source issues counters.
    generation: u32,
    /// The counter that a caller passed, or 0.
    start: u64,
    /// True if the caller of this source passed the counter.
    has_explicit_start: bool,
    /// True if the ring has claimed the right to seal with this key.
    is_claimed: bool,
    issued: u64,
}

impl CtrSource {
    /// Creates a source for a key that was set in `ring`. A caller that passes `start` is responsible for it.
    ///
    /// # Errors
    /// [`KeyError::CounterUsed`] if this process has sealed with `start` or a larger counter.
    pub(super) fn new(identity: Identity, ring: u64, start: Option<u64>) -> Result<Self, KeyError> {
        Self::register(identity, ring, start, fork::generation()?)
    }

    /// Creates a source for the ratchet step after a key whose source has this `generation`. A process that is refused
    /// the key is refused the step.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`].
    pub(super) fn step(identity: Identity, ring: u64, generation: u32) -> Result<Self, KeyError> {
        Self::register(identity, ring, None, generation)
    }

    /// Registers the key when it is set and not when it seals, because a fork may lie in between.
    fn register(identity: Identity, ring: u64, start: Option<u64>, made: u32) -> Result<Self, KeyError> {
        let current = fork::generation()?;
        with_registry(|registry| {
            let entry = registry.entries.entry(identity).or_insert_with(|| Entry::new(made));
            if let Some(given) = start {
                let min = entry.counter.next_unused();
                if min.is_none_or(|min| given < min) {
                    return Err(KeyError::CounterUsed { given, min });
                }
                entry.explicit_start = given;
            }
            entry.sources += 1;
            let generation = match start {
                Some(_) => current,
                None if made != current => made,
                None => entry.generation,
            };
            let registration = Registration { identity, counter: Arc::clone(&entry.counter) };
            let (start, has_explicit_start) = (entry.explicit_start, start.is_some());
            Ok(Self { registration, ring, generation, start, has_explicit_start, is_claimed: false, issued: 0 })
        })
    }

    /// Returns the next counter. Returns `None` if none is left, or none is known to be unused.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<u64>, KeyError> {
        self.issue(1)
    }

    /// Issues `count` consecutive counters and returns the first. Returns `None` as [`Self::next`] does.
    #[inline(always)]
    pub(super) fn issue(&mut self, count: u64) -> Result<Option<u64>, KeyError> {
        if fork::generation()? != self.generation || !self.is_claimed && !self.claim() {
            return Ok(None);
        }
        let first = self.registration.counter.issue(count);
        if first.is_some() {
            self.issued += count;
        }
        Ok(first)
    }

    /// Claims the right to seal. Returns false unless the ring is the first, or its caller passed a counter.
    #[cold]
    fn claim(&mut self) -> bool {
        with_registry(|registry| {
            let Some(entry) = registry.entries.get_mut(&self.registration.identity) else { return false };
            if self.has_explicit_start && entry.generation != self.generation {
                entry.generation = self.generation;
                entry.ring = 0;
                entry.more_rings.clear();
            }
            if entry.ring == 0 {
                entry.ring = self.ring;
            } else if !entry.is_sealed_with_in(self.ring) {
                if !self.has_explicit_start {
                    return false;
                }
                if entry.more_rings.len() == MAX_RINGS {
                    entry.more_rings.remove(0);
                }
                entry.more_rings.push(self.ring);
            }
            entry.counter.next.fetch_max(self.start, Ordering::Relaxed);
            self.is_claimed = true;
            true
        })
    }

    /// Carries over the counter that the caller passed when the same key was set in this ring before.
    pub(super) fn continuing(self, previous: &Self) -> Self {
        if self.has_explicit_start || !previous.has_explicit_start {
            return self;
        }
        Self { start: previous.start, has_explicit_start: true, generation: previous.generation, ..self }
    }

    /// Returns how many counters were issued, including the count that the source continued.
    #[inline(always)]
    pub(super) fn issued(&self) -> u64 {
        self.issued
    }

    /// Continues the usage count from `issued`.
    pub(super) fn count_from(&mut self, issued: u64) {
        self.issued = issued;
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Returns an identity that no other test uses.
    fn identity(name: &str) -> Identity {
        Identity::of(&[b"counter.rs", name.as_bytes()])
    }

    fn source(name: &str, ring: u64, start: Option<u64>) -> CtrSource {
        CtrSource::new(identity(name), ring, start).unwrap()
    }

    fn drawn(source: &mut CtrSource, count: usize) -> Vec<u64> {
        (0..count).filter_map(|_| source.next().unwrap()).collect()
    }

    #[test]
    fn one_ring_counts_on_and_another_is_refused_until_it_is_told_from_where() {
        let mut first = source("one ring", 1, None);
        assert_eq!(drawn(&mut first, 2), [0, 1]);
        assert_eq!(drawn(&mut source("one ring", 1, None), 2), [2, 3], "set again");
        let mut second = source("one ring", 2, None);
        assert_eq!(drawn(&mut second, 2), []);
        drop(first);
        assert_eq!(drawn(&mut source("one ring", 2, None), 2), [], "the first is gone and remembered");
        assert_eq!(drawn(&mut source("one ring", 2, Some(4)), 2), [4, 5]);
        assert_eq!(drawn(&mut source("one ring", 2, None), 1), [6], "it has become one of its rings");
        assert_eq!(drawn(&mut second, 2), [7, 8]);
    }

    #[test]
    fn a_counter_that_was_used_is_refused_and_the_least_allowed_is_said() {
        for start in [None, Some(0)] {
            let name = format!("used {start:?}");
            assert_eq!(drawn(&mut source(&name, 1, start), 5), [0, 1, 2, 3, 4]);
            for given in 0..5 {
                let refused = CtrSource::new(identity(&name), 2, Some(given)).err();
                assert_eq!(refused, Some(KeyError::CounterUsed { given, min: Some(5) }));
            }
            assert_eq!(drawn(&mut source(&name, 2, Some(9)), 1), [9]);
        }
    }

    #[test]
    fn where_to_go_on_from_is_remembered_before_the_first_frame_and_can_be_corrected() {
        drop(source("told", 1, Some(2000)));
        drop(source("told", 1, Some(1000)));
        assert_eq!(drawn(&mut source("told", 1, None), 1), [1000]);
        drop(source("told", 1, Some(3000)));
        assert_eq!(drawn(&mut source("told", 1, None), 1), [3000]);
        assert_eq!(drawn(&mut source("told", 1, None), 1), [3001]);
    }

    #[test]
    fn what_the_caller_said_goes_on_where_the_key_is_set_again_in_its_ring() {
        assert_eq!(drawn(&mut source("said again", 1, None), 5), [0, 1, 2, 3, 4]);
        let explicit = source("said again", 2, Some(100));
        assert_eq!(drawn(&mut source("said again", 2, None), 1), [], "without what was said");
        assert_eq!(drawn(&mut source("said again", 2, None).continuing(&explicit), 2), [100, 101]);
        assert_eq!(drawn(&mut source("said again", 2, Some(200)).continuing(&explicit), 1), [200]);
    }

    #[test]
    fn rings_that_were_all_told_from_where_never_meet() {
        let (mut a, mut b) = (source("interleaved", 1, Some(0)), source("interleaved", 2, Some(5)));
        assert_eq!(drawn(&mut a, 5), [0, 1, 2, 3, 4]);
        assert_eq!(drawn(&mut b, 2), [5, 6]);
        assert_eq!(drawn(&mut a, 2), [7, 8]);
        assert_eq!(b.issue(10), Ok(Some(9)));
        assert_eq!(drawn(&mut a, 1), [19]);
    }

    #[test]
    fn the_rings_of_one_key_are_bounded_and_none_of_them_repeats_a_counter() {
        for ring in 0..=2 + MAX_RINGS as u64 {
            assert_eq!(drawn(&mut source("many rings", ring + 1, Some(ring)), 1), [ring]);
        }
        with_registry(|registry| {
            assert_eq!(
                registry.entries.get(&identity("many rings")).map(|entry| entry.more_rings.len()),
                Some(MAX_RINGS)
            );
        });
        assert_eq!(drawn(&mut source("many rings", 2, None), 1), [], "the oldest beside the first");
        assert_eq!(drawn(&mut source("many rings", 1, None), 1), [3 + MAX_RINGS as u64]);
    }

    #[test]
    fn a_counter_ends_at_its_largest_value_for_everybody() {
        let mut last = source("the end", 1, Some(u64::MAX - 1));
        assert_eq!(last.issue(3), Ok(None));
        assert_eq!(drawn(&mut last, 4), [u64::MAX - 1, u64::MAX]);
        let refused = CtrSource::new(identity("the end"), 2, Some(u64::MAX)).err();
        assert_eq!(refused, Some(KeyError::CounterUsed { given: u64::MAX, min: None }));
        assert_eq!(drawn(&mut source("the end", 1, None), 1), []);
    }

    #[test]
    fn what_the_caller_said_in_one_ring_is_not_what_another_ring_was_told() {
        let explicit = source("said in two rings", 1, Some(100));
        drop(source("said in two rings", 2, Some(50)));
        assert_eq!(drawn(&mut source("said in two rings", 1, None).continuing(&explicit), 1), [100]);
    }

    /// Returns the source of a process whose parent set the key.
    fn inherited(name: &str) -> CtrSource {
        let parents = fork::generation().unwrap().wrapping_sub(1);
        CtrSource::register(identity(name), 1, None, parents).unwrap()
    }

    #[test]
    fn what_was_set_before_a_fork_is_refused_with_its_steps_until_its_counter_is_given() {
        let mut parents = inherited("forked");
        assert_eq!(drawn(&mut parents, 1), []);
        for ring in [1, 2] {
            assert_eq!(drawn(&mut source("forked", ring, None), 1), [], "set again in ring {ring}");
        }
        let generation = source("forked", 2, None).generation();
        let mut step = CtrSource::step(identity("forked step"), 2, generation).unwrap();
        assert_eq!(drawn(&mut step, 1), []);
        assert_eq!(drawn(&mut source("forked step", 3, None), 1), [], "the step, set as a key");
        assert_eq!(drawn(&mut source("forked", 2, Some(100)), 1), [100]);
        assert_eq!(drawn(&mut source("forked", 2, None), 1), [101]);
        assert_eq!(drawn(&mut source("forked", 1, None), 1), [], "the parent's ring has no right of its own here");
        assert_eq!(drawn(&mut parents, 1), []);
    }

    #[test]
    fn a_counter_that_is_given_after_a_fork_counts_where_the_key_is_set_again() {
        drop(inherited("given after a fork"));
        let explicit = source("given after a fork", 2, Some(100));
        assert_eq!(drawn(&mut source("given after a fork", 2, None).continuing(&explicit), 1), [100]);
    }

    #[test]
    fn a_step_from_before_a_fork_is_refused_although_the_key_is_set_after_it() {
        let _set_here = source("set on both sides of a fork", 1, None);
        assert_eq!(drawn(&mut inherited("set on both sides of a fork"), 1), []);
    }

    #[test]
    fn a_key_waits_once_to_be_forgotten_and_while_there_is_room() {
        fn leave(registry: &mut Registry, name: &str, sources: u32) -> usize {
            let generation = fork::generation().unwrap();
            registry.entries.entry(identity(name)).or_insert_with(|| Entry::new(generation)).sources = sources;
            registry.leave(identity(name));
            registry.unused.len()
        }
        let mut registry = Registry::default();
        assert_eq!(leave(&mut registry, "held by another source", 2), 0);
        assert_eq!([1, 1].map(|sources| leave(&mut registry, "the first", sources)), [1, 1]);
        for number in 1..MAX_UNUSED {
            assert_eq!(leave(&mut registry, &number.to_string(), 1), number + 1);
        }
        assert!(registry.entries.contains_key(&identity("the first")));
        assert_eq!(leave(&mut registry, "one too many", 1), MAX_UNUSED);
        assert!(!registry.entries.contains_key(&identity("the first")));

        let held = [(); 2].map(|()| source("held twice", 1, None));
        assert_eq!(with_registry(|registry| registry.entries[&identity("held twice")].sources), 2);
        drop(held);
    }

    #[test]
    fn keys_that_seal_nothing_cost_nothing_for_long_and_those_from_before_a_fork_stay() {
        drop(inherited("unused and inherited"));
        drop(source("unused", 1, None));
        assert_eq!(drawn(&mut source("sealed", 1, None), 1), [0]);
        let knows = |name: &str| with_registry(|registry| registry.entries.contains_key(&identity(name)));
        assert!(knows("unused"));
        for number in 0..=2 * MAX_UNUSED {
            drop(source(&number.to_string(), 1, None));
        }
        assert!(!knows("unused") && knows("unused and inherited") && knows("sealed"));
        let of_these = |range: std::ops::Range<usize>| range.filter(|number| knows(&number.to_string())).count();
        assert_eq!(of_these(0..MAX_UNUSED), 0);
        assert!(with_registry(|registry| registry.unused.len()) <= MAX_UNUSED);
    }
}
