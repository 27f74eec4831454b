//! What a receiver has opened before.
//!
//! Looked at before authentication, marked only after it: a forger cannot make an honest frame look replayed.

use std::collections::{HashSet, VecDeque};

use crate::nonce::{Nonce, Unique};

/// The largest window: 64 Ki frames cost about 4 MiB.
pub(crate) const MOST: usize = 1 << 16;

/// Keys whose counters are remembered at once; the one that was new longest ago goes first.
const MOST_KEYS: usize = 64;

/// The serial of a key or family of keys, and the key id: what nonces must not repeat under.
type Source = (u64, u64);

/// The last frames, by the key that they were sealed with.
pub(crate) struct ReplayWindow {
    ivs: SeenIvs,
    counters: VecDeque<(Source, SeenCounters)>,
    size: usize,
}

impl ReplayWindow {
    pub(crate) fn new(size: usize) -> Self {
        Self { ivs: SeenIvs::default(), counters: VecDeque::new(), size }
    }

    pub(crate) fn has(&self, key: Source, unique: Unique) -> bool {
        match unique {
            Unique::Iv(iv) => self.ivs.seen.contains(&(key, iv)),
            Unique::Ctr(ctr) => self.counters(key).is_some_and(|counters| counters.has(ctr)),
        }
    }

    /// Marks an authentic frame. False: another thread was first with the same one.
    pub(crate) fn mark(&mut self, key: Source, unique: Unique) -> bool {
        match unique {
            Unique::Iv(iv) => self.ivs.mark((key, iv), self.size),
            Unique::Ctr(ctr) => {
                if self.counters(key).is_none() {
                    if self.counters.len() == MOST_KEYS {
                        self.counters.pop_front();
                    }
                    self.counters.push_back((key, SeenCounters::new(self.size)));
                }
                let known = self.counters.iter_mut().find(|(source, _)| *source == key);
                known.is_some_and(|(_, counters)| counters.mark(ctr))
            }
        }
    }

    fn counters(&self, key: Source) -> Option<&SeenCounters> {
        self.counters.iter().find(|(source, _)| *source == key).map(|(_, counters)| counters)
    }
}

/// A transmitted IV has no order: the last ones are remembered, and "too old" cannot be told.
#[derive(Default)]
struct SeenIvs {
    seen: HashSet<(Source, Nonce)>,
    order: VecDeque<(Source, Nonce)>,
}

impl SeenIvs {
    fn mark(&mut self, frame: (Source, Nonce), size: usize) -> bool {
        if !self.seen.insert(frame) {
            return false;
        }
        if self.order.len() == size
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(frame);
        true
    }
}

/// A window that slides with the highest counter; what lies before it counts as seen.
struct SeenCounters {
    /// One more than the highest counter that was marked.
    top: u128,
    bits: Vec<u64>,
    size: u64,
}

impl SeenCounters {
    fn new(size: usize) -> Self {
        Self { top: 0, bits: vec![0; size.div_ceil(64)], size: size as u64 }
    }

    fn has(&self, ctr: u64) -> bool {
        let ctr128 = u128::from(ctr);
        if ctr128 >= self.top {
            return false;
        }
        ctr128 + u128::from(self.size) < self.top || self.bit(ctr).is_some_and(|(word, bit)| self.is_set(word, bit))
    }

    fn mark(&mut self, ctr: u64) -> bool {
        if self.has(ctr) {
            return false;
        }
        let ctr128 = u128::from(ctr);
        if ctr128 >= self.top {
            // Counters between the old top and the new one have not been seen: their bits may be from a turn ago.
            let fresh = (ctr128 - self.top).min(u128::from(self.size));
            for skipped in ctr128 - fresh..ctr128 {
                #[allow(clippy::cast_possible_truncation)] // below ctr
                self.set(skipped as u64, false);
            }
            self.top = ctr128 + 1;
        }
        self.set(ctr, true);
        true
    }

    fn bit(&self, ctr: u64) -> Option<(usize, u64)> {
        let slots = self.bits.len() as u64 * 64;
        let place = ctr.checked_rem(slots)?;
        Some((usize::try_from(place / 64).ok()?, 1 << (place % 64)))
    }

    fn is_set(&self, word: usize, bit: u64) -> bool {
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set(&mut self, ctr: u64, seen: bool) {
        if let Some((word, bit)) = self.bit(ctr)
            && let Some(bits) = self.bits.get_mut(word)
        {
            *bits = if seen { *bits | bit } else { *bits & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_frame_is_known_until_the_window_has_moved_on() {
        let mut window = ReplayWindow::new(3);
        for n in 0..3 {
            assert!(window.mark((0, 0), Unique::Iv([n; 12].into())));
        }
        assert!(window.has((0, 0), Unique::Iv([0; 12].into())));
        assert!(!window.mark((0, 0), Unique::Iv([0; 12].into())));
        assert!(window.mark((0, 0), Unique::Iv([3; 12].into())));
        assert!(!window.has((0, 0), Unique::Iv([0; 12].into())));
        assert!(window.has((0, 0), Unique::Iv([1; 12].into())));
    }

    #[test]
    fn the_same_nonce_under_another_key_is_another_frame() {
        for unique in [Unique::Iv([9; 12].into()), Unique::Ctr(9)] {
            let mut window = ReplayWindow::new(3);
            assert!(window.mark((0, 0), unique));
            assert!(!window.has((1, 0), unique));
            assert!(window.mark((1, 0), unique));
        }
    }

    #[test]
    fn counters_may_come_in_any_order_inside_the_window_and_once() {
        let mut window = ReplayWindow::new(100);
        for ctr in [5, 3, 104, 90, 6] {
            assert!(window.mark((0, 0), Unique::Ctr(ctr)), "{ctr}");
            assert!(!window.mark((0, 0), Unique::Ctr(ctr)), "{ctr}");
        }
        // The window now holds 5 to 104.
        assert!(window.has((0, 0), Unique::Ctr(4)));
        assert!(window.has((0, 0), Unique::Ctr(5)));
        assert!(!window.has((0, 0), Unique::Ctr(7)));
    }

    #[test]
    fn a_jump_leaves_nothing_of_the_last_turn() {
        let mut window = ReplayWindow::new(64);
        assert!((0..64).all(|ctr| window.mark((0, 0), Unique::Ctr(ctr))));
        assert!(window.mark((0, 0), Unique::Ctr(100)));
        assert!((64..100).all(|ctr| !window.has((0, 0), Unique::Ctr(ctr))));
        assert!(window.has((0, 0), Unique::Ctr(36)));
        assert!(window.has((0, 0), Unique::Ctr(37)));
        assert!(window.mark((0, 0), Unique::Ctr(u64::MAX)));
        assert!(window.has((0, 0), Unique::Ctr(u64::MAX)) && !window.has((0, 0), Unique::Ctr(u64::MAX - 1)));
    }

    #[test]
    fn the_keys_remembered_are_bounded() {
        let mut window = ReplayWindow::new(8);
        assert!((0..1000).all(|key| window.mark((key, 0), Unique::Ctr(1))));
        assert_eq!(window.counters.len(), MOST_KEYS);
    }
}
