//! Where nonces come from: no (key, nonce) pair twice, whoever shares the key.
//!
//! A transmitted IV is 8 random bytes, drawn when a key is installed, and a 32-bit counter with a random start. Inside
//! one installation the counter makes every IV differ, for all tracks and threads, since they draw from this one
//! source. Between installations (other participants, processes, machines that hold the same shared key) the 64 random
//! bits do: among N installations the chance that any two collide at all is below N^2 / 2^65. A `fork` redraws them, so
//! a child never repeats its parent. Neither RTP timestamps nor SSRCs take part: a sender that restarts may see both
//! again.

use crate::error::KeyError;
use crate::suite::{NONCE_LEN, random};

const PREFIX_LEN: usize = 8;

/// IVs under one key from one installation of it: one full turn of the counter.
pub(crate) const LIMIT: u64 = 1 << 32;

pub(crate) struct IvSource {
    prefix: [u8; PREFIX_LEN],
    counter: u32,
    left: u64,
    issued: u64,
    generation: u32,
}

impl IvSource {
    pub(crate) fn new() -> Result<Self, KeyError> {
        let generation = fork::generation()?;
        let mut source = Self { prefix: [0; PREFIX_LEN], counter: 0, left: LIMIT, issued: 0, generation };
        source.draw()?;
        Ok(source)
    }

    fn draw(&mut self) -> Result<(), KeyError> {
        let mut start = [0; 4];
        random(&mut start)?;
        self.counter = u32::from_be_bytes(start);
        loop {
            random(&mut self.prefix)?;
            if survives_escaping(&self.prefix) {
                return Ok(());
            }
        }
    }

    /// The next IV, or none when the counter has come full circle.
    pub(crate) fn next(&mut self) -> Result<Option<[u8; NONCE_LEN]>, KeyError> {
        let generation = fork::generation()?;
        if generation != self.generation {
            self.draw()?;
            self.generation = generation;
        }
        while self.left > 0 {
            self.left -= 1;
            let counter = self.counter;
            self.counter = counter.wrapping_add(1);
            let [p0, p1, p2, p3, p4, p5, p6, p7] = self.prefix;
            let [c0, c1, c2, c3] = counter.to_be_bytes();
            let iv = [p0, p1, p2, p3, p4, p5, p6, p7, c0, c1, c2, c3];
            if survives_escaping(&iv) {
                self.issued += 1;
                return Ok(Some(iv));
            }
        }
        Ok(None)
    }

    /// How many IVs it has given.
    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }
}

/// Native receivers up to libwebrtc m144 read the IV of an H.264 frame before they take the escapes out, so no escape
/// may fall into it: the first byte is not zero and no two zero bytes touch. (The key is shared by all tracks, and the
/// rule costs 0.4 % of the IVs, so it holds for every codec.)
fn survives_escaping(iv: &[u8]) -> bool {
    iv.first() != Some(&0) && !iv.windows(2).any(|pair| pair == [0, 0])
}

#[cfg(unix)]
mod fork {
    //! Tells a forked child from its parent, for the price of one relaxed load per frame.

    use crate::error::KeyError;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static GENERATION: AtomicU32 = AtomicU32::new(0);
    static REGISTERED: OnceLock<bool> = OnceLock::new();

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    /// How many forks lie between this process and the one that loaded the library.
    pub(super) fn generation() -> Result<u32, KeyError> {
        // SAFETY: the handler touches one atomic, which is async-signal-safe, and lives as long as the program.
        #[allow(unsafe_code)]
        let watched = *REGISTERED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) } == 0);
        if watched { Ok(GENERATION.load(Ordering::Relaxed)) } else { Err(KeyError::Unavailable) }
    }
}

#[cfg(not(unix))]
mod fork {
    //! No `fork` on this platform.

    use crate::error::KeyError;

    pub(super) fn generation() -> Result<u32, KeyError> {
        Ok(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_iv_repeats_and_none_needs_an_escape() {
        let mut source = IvSource::new().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..200_000 {
            let iv = source.next().unwrap().unwrap();
            assert!(survives_escaping(&iv));
            assert!(seen.insert(iv));
        }
    }

    #[test]
    fn a_counter_that_has_come_full_circle_gives_no_more() {
        let mut source = IvSource::new().unwrap();
        source.left = 1;
        source.counter = 0x0101_0101;
        assert!(source.next().unwrap().is_some());
        assert_eq!(source.next().unwrap(), None);
    }

    #[test]
    fn passed_over_ivs_count_as_used() {
        let mut source = IvSource::new().unwrap();
        source.counter = 0x0100_0001;
        source.left = 2;
        assert_eq!(source.next().unwrap(), None);
    }

    #[test]
    fn a_new_generation_draws_a_new_prefix() {
        let mut source = IvSource::new().unwrap();
        let before = source.next().unwrap().unwrap();
        source.generation = source.generation.wrapping_sub(1);
        let after = source.next().unwrap().unwrap();
        assert_ne!(before.first_chunk::<PREFIX_LEN>(), after.first_chunk::<PREFIX_LEN>());
    }
}
