//! What a receiver has opened before.
//!
//! Looked at before authentication, marked only after it: a forger cannot make an honest frame look replayed.

use std::collections::{HashSet, VecDeque};

use crate::suite::NONCE_LEN;

/// The largest window: 64 Ki frames cost about 4 MiB.
pub(crate) const MOST: usize = 1 << 16;

type Seen = (u64, [u8; NONCE_LEN]);

/// Remembers the last frames by key id and nonce. A transmitted IV has no order, so "too old" cannot be told.
pub(crate) struct ReplayWindow {
    seen: HashSet<Seen>,
    order: VecDeque<Seen>,
    size: usize,
}

impl ReplayWindow {
    pub(crate) fn new(size: usize) -> Self {
        Self { seen: HashSet::new(), order: VecDeque::new(), size }
    }

    pub(crate) fn has(&self, kid: u64, nonce: &[u8; NONCE_LEN]) -> bool {
        self.seen.contains(&(kid, *nonce))
    }

    /// Marks an authentic frame. False: another thread was first with the same one.
    pub(crate) fn mark(&mut self, kid: u64, nonce: [u8; NONCE_LEN]) -> bool {
        if !self.seen.insert((kid, nonce)) {
            return false;
        }
        if self.order.len() == self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back((kid, nonce));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_frame_is_known_until_the_window_has_moved_on() {
        let mut window = ReplayWindow::new(3);
        for n in 0..3 {
            assert!(window.mark(0, [n; 12]));
        }
        assert!(window.has(0, &[0; 12]));
        assert!(!window.mark(0, [0; 12]));
        assert!(window.mark(0, [3; 12]));
        assert!(!window.has(0, &[0; 12]));
        assert!(window.has(0, &[1; 12]));
    }

    #[test]
    fn the_same_nonce_under_another_key_is_another_frame() {
        let mut window = ReplayWindow::new(3);
        assert!(window.mark(0, [9; 12]));
        assert!(!window.has(1, &[9; 12]));
        assert!(window.mark(1, [9; 12]));
    }
}
