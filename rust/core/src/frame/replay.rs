//! The replay window: remembers which frames a receiver has opened.
//!
//! A frame is looked up before authentication and marked only after it. A forger therefore cannot make an honest frame
//! look replayed. Keys are known by their [`Identity`]: the window survives when a key is removed, set again or
//! ratcheted.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::keyring::{Identity, Nonce, NonceInput};

/// The maximum window in frames. 64 Ki frames cost about 6 MiB.
pub(crate) const MAX_REPLAY_WINDOW: usize = 1 << 16;

/// The maximum number of sources (keys, and prefixes of counting IVs) whose counters have a window. A further source
/// evicts the window of the source whose last frame is the oldest; of that source only the highest counter is kept.
const MAX_WINDOWS: usize = 64;

/// The maximum number of sources whose counters are remembered, in a window or by the highest counter: 3 MiB. Frames of
/// a further source are refused.
const MAX_KEYS: usize = 1 << 16;

/// The source of counters: a key, and the prefix of its IVs (0 if frames hold no IV).
type Source = (Identity, u64);

/// The last frames that were opened, by the key that sealed them.
pub(crate) struct ReplayWindow {
    ivs: SeenIvs,
    /// True if the last four bytes of an IV are a counter that ascends under the other bytes.
    counting_ivs: bool,
    counters: Vec<(Source, SeenCounters)>,
    /// The highest counter of each source whose window was evicted.
    highest: HashMap<Source, u64>,
    /// The number of frames with a counter that were marked: the clock by which windows are evicted.
    marked: u64,
    /// The window in frames.
    size: usize,
}

impl ReplayWindow {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            ivs: SeenIvs::default(),
            counting_ivs: false,
            counters: Vec::new(),
            highest: HashMap::new(),
            marked: 0,
            size,
        }
    }

    /// Returns a window for IVs that count: each prefix has a window of its own.
    pub(crate) fn counting_ivs(size: usize) -> Self {
        Self { counting_ivs: true, ..Self::new(size) }
    }

    /// Returns the source of a frame's counter and the counter, or the IV if it does not count.
    fn counted(&self, key: Identity, nonce_input: NonceInput) -> Result<(Source, u64), Nonce> {
        match nonce_input {
            NonceInput::Ctr(ctr) => Ok(((key, 0), ctr)),
            NonceInput::Iv(iv) if self.counting_ivs => {
                let (prefix, counter) = iv.halves();
                Ok(((key, prefix), counter.into()))
            }
            NonceInput::Iv(iv) => Err(iv),
        }
    }

    /// Returns whether a frame counts as replayed. It was opened before, or is older than the window, or its key
    /// exceeds [`MAX_KEYS`].
    pub(crate) fn contains(&self, key: Identity, nonce_input: NonceInput) -> bool {
        match self.counted(key, nonce_input) {
            Err(iv) => self.ivs.seen.contains(&(key, iv)),
            Ok((source, ctr)) => match self.counters.iter().find(|(known, _)| *known == source) {
                Some((_, counters)) => counters.contains(ctr),
                None => self.is_below_highest(source, ctr),
            },
        }
    }

    /// Marks an authentic frame. Returns false if [`Self::contains`] has become true meanwhile, because another thread
    /// marked the frame first.
    pub(crate) fn mark(&mut self, key: Identity, nonce_input: NonceInput) -> bool {
        let (source, ctr) = match self.counted(key, nonce_input) {
            Err(iv) => return self.ivs.mark((key, iv), self.size),
            Ok(counted) => counted,
        };
        self.marked += 1;
        if let Some((_, counters)) = self.counters.iter_mut().find(|(known, _)| *known == source) {
            return counters.mark(ctr, self.marked);
        }
        if self.is_below_highest(source, ctr) {
            return false;
        }
        self.mark_first(source, ctr)
    }

    /// Returns whether a key without a window has passed this counter, or exceeds [`MAX_KEYS`].
    #[cold]
    fn is_below_highest(&self, source: Source, ctr: u64) -> bool {
        match self.highest.get(&source) {
            Some(highest) => ctr <= *highest,
            None => self.counters.len() + self.highest.len() >= MAX_KEYS,
        }
    }

    /// Opens a window for a key without one, and marks the frame in it.
    #[cold]
    fn mark_first(&mut self, source: Source, ctr: u64) -> bool {
        let mut window = match self.highest.remove(&source) {
            Some(highest) => SeenCounters::above(highest, self.size),
            None => SeenCounters::new(self.size),
        };
        let is_new = window.mark(ctr, self.marked);
        if self.counters.len() >= MAX_WINDOWS {
            let oldest = self.counters.iter().enumerate().min_by_key(|(_, (_, counters))| counters.last);
            if let Some((at, _)) = oldest {
                let (idle, counters) = self.counters.swap_remove(at);
                self.highest.insert(idle, counters.highest());
            }
        }
        self.counters.push((source, window));
        is_new
    }
}

/// Remembers the last transmitted IVs. IVs have no order, so an IV older than the window counts as fresh.
#[derive(Default)]
struct SeenIvs {
    seen: HashSet<(Identity, Nonce)>,
    order: VecDeque<(Identity, Nonce)>,
}

impl SeenIvs {
    fn mark(&mut self, frame: (Identity, Nonce), size: usize) -> bool {
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

/// A sliding window of counters that ends at the highest one. Counters before the window count as seen.
struct SeenCounters {
    /// One more than the highest counter that was marked, or 0 before the first.
    top: u128,
    /// A ring buffer of bits, one per counter: set if the counter was marked.
    bits: Vec<u64>,
    size: u64,
    /// The value of [`ReplayWindow::marked`] at the last frame under this key.
    last: u64,
}

impl SeenCounters {
    fn new(size: usize) -> Self {
        Self { top: 0, bits: vec![0; size.div_ceil(64)], size: size as u64, last: 0 }
    }

    /// Returns a window in which all counters up to `highest` are marked.
    fn above(highest: u64, size: usize) -> Self {
        Self { top: u128::from(highest) + 1, bits: vec![u64::MAX; size.div_ceil(64)], ..Self::new(size) }
    }

    #[allow(clippy::cast_possible_truncation)] // one more than a u64
    fn highest(&self) -> u64 {
        self.top.saturating_sub(1) as u64
    }

    fn contains(&self, ctr: u64) -> bool {
        let ctr128 = u128::from(ctr);
        if ctr128 >= self.top {
            return false;
        }
        ctr128 + u128::from(self.size) < self.top || self.bit(ctr).is_some_and(|(word, bit)| self.is_set(word, bit))
    }

    fn mark(&mut self, ctr: u64, marked: u64) -> bool {
        self.last = marked;
        if self.contains(ctr) {
            return false;
        }
        let ctr128 = u128::from(ctr);
        if ctr128 >= self.top {
            // Clear the bits between the old top and the new one: they may be left from the ring buffer's last turn.
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

    fn key(number: usize) -> Identity {
        Identity::of(&[b"replay.rs", &number.to_be_bytes()])
    }

    #[test]
    fn a_marked_frame_is_known_until_the_window_has_moved_on() {
        let mut window = ReplayWindow::new(3);
        for n in 0..3 {
            assert!(window.mark(key(0), NonceInput::Iv([n; 12].into())));
        }
        assert!(window.contains(key(0), NonceInput::Iv([0; 12].into())));
        assert!(!window.mark(key(0), NonceInput::Iv([0; 12].into())));
        assert!(window.mark(key(0), NonceInput::Iv([3; 12].into())));
        assert!(!window.contains(key(0), NonceInput::Iv([0; 12].into())));
        assert!(window.contains(key(0), NonceInput::Iv([1; 12].into())));
    }

    #[test]
    fn the_same_nonce_under_another_key_is_another_frame() {
        for nonce_input in [NonceInput::Iv([9; 12].into()), NonceInput::Ctr(9)] {
            let mut window = ReplayWindow::new(3);
            assert!(window.mark(key(0), nonce_input));
            assert!(!window.contains(key(1), nonce_input));
            assert!(window.mark(key(1), nonce_input));
        }
    }

    #[test]
    fn counters_may_come_in_any_order_inside_the_window_and_once() {
        let mut window = ReplayWindow::new(100);
        for ctr in [5, 3, 104, 90, 6] {
            assert!(window.mark(key(0), NonceInput::Ctr(ctr)), "{ctr}");
            assert!(!window.mark(key(0), NonceInput::Ctr(ctr)), "{ctr}");
        }
        // The window holds counters 5 to 104.
        assert!(window.contains(key(0), NonceInput::Ctr(4)));
        assert!(window.contains(key(0), NonceInput::Ctr(5)));
        assert!(!window.contains(key(0), NonceInput::Ctr(7)));
        // Now the window holds 7 to 106.
        assert!(window.mark(key(0), NonceInput::Ctr(105)));
        assert!(window.mark(key(0), NonceInput::Ctr(106)));
        assert!(!window.contains(key(0), NonceInput::Ctr(7)), "the oldest counter that the window holds");
    }

    #[test]
    fn ivs_that_count_have_a_window_for_each_prefix_of_a_key() {
        let iv = |prefix: u8, counter: u8| NonceInput::Iv([prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, counter].into());
        let mut window = ReplayWindow::counting_ivs(10);
        assert!(window.mark(key(0), iv(1, 100)));
        for (opened, frame) in [(true, iv(1, 100)), (true, iv(1, 80)), (false, iv(1, 95)), (false, iv(2, 80))] {
            assert_eq!(window.contains(key(0), frame), opened, "{frame:?}");
            assert_eq!(window.mark(key(0), frame), !opened, "{frame:?}");
        }
    }

    #[test]
    fn a_jump_leaves_nothing_of_the_last_turn() {
        let mut window = ReplayWindow::new(64);
        assert!((0..64).all(|ctr| window.mark(key(0), NonceInput::Ctr(ctr))));
        assert!(window.mark(key(0), NonceInput::Ctr(100)));
        assert!((64..100).all(|ctr| !window.contains(key(0), NonceInput::Ctr(ctr))));
        assert!(window.contains(key(0), NonceInput::Ctr(36)));
        assert!(window.contains(key(0), NonceInput::Ctr(37)));
        assert!(window.mark(key(0), NonceInput::Ctr(u64::MAX)));
        assert!(
            window.contains(key(0), NonceInput::Ctr(u64::MAX))
                && !window.contains(key(0), NonceInput::Ctr(u64::MAX - 1))
        );
    }

    #[test]
    fn a_key_that_loses_its_window_keeps_its_highest_counter_and_goes_on_above_it() {
        let mut window = ReplayWindow::new(100);
        assert!(window.mark(key(0), NonceInput::Ctr(90)) && window.mark(key(0), NonceInput::Ctr(70)));
        for number in 1..=MAX_WINDOWS {
            assert!(window.mark(key(number), NonceInput::Ctr(u64::MAX)));
        }
        assert_eq!((window.counters.len(), window.highest.len()), (MAX_WINDOWS, 1));
        assert!(
            (0..=90)
                .all(|ctr| window.contains(key(0), NonceInput::Ctr(ctr)) && !window.mark(key(0), NonceInput::Ctr(ctr)))
        );
        for ctr in [120, 95, 91] {
            assert!(window.mark(key(0), NonceInput::Ctr(ctr)) && !window.mark(key(0), NonceInput::Ctr(ctr)), "{ctr}");
        }
        assert!((0..=90).all(|ctr| window.contains(key(0), NonceInput::Ctr(ctr))), "its window holds 21 to 120");
        assert!(window.contains(key(1), NonceInput::Ctr(u64::MAX)), "the key with the oldest frame lost its window");
        assert_eq!((window.counters.len(), window.highest.len()), (MAX_WINDOWS, 1));
    }

    #[test]
    fn the_key_whose_last_frame_is_the_oldest_loses_its_window() {
        let mut window = ReplayWindow::new(10);
        for number in 0..MAX_WINDOWS {
            assert!(window.mark(key(number), NonceInput::Ctr(20)));
        }
        assert!(window.mark(key(0), NonceInput::Ctr(21)));
        assert!(window.mark(key(MAX_WINDOWS), NonceInput::Ctr(20)));
        for number in 0..=MAX_WINDOWS {
            assert_eq!(window.contains(key(number), NonceInput::Ctr(19)), number == 1, "{number}");
        }
    }

    #[test]
    fn the_keys_remembered_are_bounded_and_a_further_one_is_refused() {
        let mut window = ReplayWindow::new(8);
        assert!((0..MAX_KEYS).all(|number| window.mark(key(number), NonceInput::Ctr(1))));
        let further = key(MAX_KEYS);
        assert!(window.contains(further, NonceInput::Ctr(1)) && !window.mark(further, NonceInput::Ctr(1)));
        assert_eq!((window.counters.len(), window.highest.len()), (MAX_WINDOWS, MAX_KEYS - MAX_WINDOWS));
        assert!((0..MAX_KEYS).all(|number| window.contains(key(number), NonceInput::Ctr(1))));
        assert!(
            window.mark(key(0), NonceInput::Ctr(2)) && !window.mark(further, NonceInput::Ctr(9)),
            "a known key goes on"
        );
    }
}
