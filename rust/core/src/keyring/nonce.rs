//! Where nonces come from: no (key, nonce) pair twice, whoever shares the key.
//!
//! A transmitted IV is 8 random bytes, drawn when a key is installed, and a 32-bit counter with a random start. Inside
//! one installation the counter makes every IV differ, for all tracks and threads, since they draw from this one
//! source. Between installations (other participants, processes, machines that hold the same shared key) the 64 random
//! bits do: among N installations the chance that any two collide at all is about N^2 / 2^65. A `fork` redraws them, so
//! a child never repeats its parent. Neither RTP timestamps nor SSRCs take part: a sender that restarts may see both
//! again.
//!
//! An SFrame counter (CTR) is never transmitted at random: see [`crate::keyring::counter`].

use super::counter::CtrSource;
use crate::error::KeyError;
use crate::fork;
use crate::suite::{NONCE_LEN, random};

const PREFIX_LEN: usize = 8;

/// Frames under one key from one installation of it: one full turn of an IV's counter, and our ceiling for AES-GCM.
pub(super) const LIMIT: u64 = 1 << 32;

/// What a sending key has left to give.
pub(super) enum NonceSource {
    /// Transmitted whole.
    Iv(IvSource),
    /// Transmitted as a counter, and mixed with the key's salt.
    Ctr(CtrSource),
}

/// What belongs to one frame alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NonceInput {
    Iv(Nonce),
    Ctr(u64),
}

/// A nonce, in the two words in which it is made, moved and read by the AEAD. As bytes that are written one by one, or in
/// words that are cut elsewhere, each reader would wait for them to be put together (a sixth of a short frame's time).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Nonce {
    front: u64,
    back: u32,
}

impl Nonce {
    /// RFC 9605, section 4.4.3: the counter, as long as a nonce, XOR the salt, which this is.
    #[inline(always)]
    pub(super) fn salted(self, ctr: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the lower half
        let low = ctr as u32;
        Self { front: self.front ^ ctr >> 32, back: self.back ^ low }
    }

    /// Whether two zero bytes touch where the counter is: in the last four bytes and the one before them.
    #[inline(always)]
    fn ends_in_zeros(self) -> bool {
        let last = (self.front & 0xFF) << 32 | u64::from(self.back);
        last & 0xFFFF == 0 || last >> 8 & 0xFFFF == 0 || last >> 16 & 0xFFFF == 0 || last >> 24 == 0
    }

    #[inline(always)]
    pub(crate) fn bytes(self) -> [u8; NONCE_LEN] {
        let mut bytes = [0; NONCE_LEN];
        bytes[..PREFIX_LEN].copy_from_slice(&self.front.to_be_bytes());
        bytes[PREFIX_LEN..].copy_from_slice(&self.back.to_be_bytes());
        bytes
    }
}

impl From<[u8; NONCE_LEN]> for Nonce {
    #[inline(always)]
    fn from([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; NONCE_LEN]) -> Self {
        Self { front: u64::from_be_bytes([a, b, c, d, e, f, g, h]), back: u32::from_be_bytes([i, j, k, l]) }
    }
}

impl NonceSource {
    /// The next one. None: `max` have been given, or there is none that is known to be unused.
    #[inline(always)]
    pub(super) fn next(&mut self, max: u64) -> Option<NonceInput> {
        if self.issued() >= max {
            return None;
        }
        // One that cannot be had, for whatever reason, is none.
        match self {
            Self::Iv(ivs) => ivs.next().ok().flatten().map(NonceInput::Iv),
            Self::Ctr(counter) => counter.next().ok().flatten().map(NonceInput::Ctr),
        }
    }

    /// Pushes up to `count` of them, each for one frame, to `nonce_inputs`. Fewer: `max` have been given, or there are no more.
    pub(super) fn fill(&mut self, count: usize, max: u64, nonce_inputs: &mut Vec<NonceInput>) {
        if let Self::Ctr(counter) = self {
            // In one go: all frames of a batch have one key.
            let allowed = max.saturating_sub(counter.issued()).min(count as u64);
            if allowed > 0
                && let Ok(Some(first)) = counter.take(allowed)
            {
                // Not a range to an end, which the last counter of all does not have.
                nonce_inputs.extend((0..allowed).map(|place| NonceInput::Ctr(first + place)));
                return;
            }
        }
        nonce_inputs.extend((0..count).map_while(|_| self.next(max)));
    }

    /// Carries over what `previous` holds where the same key is set again. IVs go on. A counter goes on by itself.
    pub(super) fn continuing(self, previous: Self) -> Self {
        match (self, previous) {
            (Self::Iv(_), previous @ Self::Iv(_)) => previous,
            (Self::Ctr(counter), Self::Ctr(previous)) => Self::Ctr(counter.continuing(&previous)),
            (new, _) => new,
        }
    }

    /// Counts on from what the ring has sealed with this key.
    pub(super) fn count_from(&mut self, issued: u64) {
        match self {
            Self::Iv(ivs) => ivs.issued = issued,
            Self::Ctr(counter) => counter.count_from(issued),
        }
    }

    /// How many have been given, each to a frame.
    #[inline(always)]
    pub(super) fn issued(&self) -> u64 {
        match self {
            Self::Iv(ivs) => ivs.issued,
            Self::Ctr(counter) => counter.issued(),
        }
    }

    /// The fork generation that the source was made for.
    pub(super) fn generation(&self) -> u32 {
        match self {
            Self::Iv(ivs) => ivs.generation,
            Self::Ctr(counter) => counter.generation(),
        }
    }

    /// Whether the process was forked since the source was made.
    pub(super) fn is_forked(&self) -> bool {
        fork::generation() != Ok(self.generation())
    }
}

pub(super) struct IvSource {
    prefix: u64,
    counter: u32,
    left: u64,
    /// Those given: fewer than those gone, since some are passed over.
    issued: u64,
    generation: u32,
}

impl IvSource {
    pub(super) fn new() -> Result<Self, KeyError> {
        let generation = fork::generation()?;
        let mut source = Self { prefix: 0, counter: 0, left: LIMIT, issued: 0, generation };
        source.draw()?;
        Ok(source)
    }

    fn draw(&mut self) -> Result<(), KeyError> {
        let (mut start, mut prefix) = ([0; 4], [0; PREFIX_LEN]);
        random(&mut start)?;
        self.counter = u32::from_be_bytes(start);
        loop {
            random(&mut prefix)?;
            if survives_escaping(&prefix) {
                self.prefix = u64::from_be_bytes(prefix);
                return Ok(());
            }
        }
    }

    /// The next IV, or none when the counter has come full circle.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<Nonce>, KeyError> {
        let generation = fork::generation()?;
        if generation != self.generation {
            self.draw()?;
            self.generation = generation;
        }
        match self.count() {
            Some(iv) if !iv.ends_in_zeros() => {
                self.issued += 1;
                Ok(Some(iv))
            }
            Some(_) => Ok(self.skip_unsafe()),
            None => Ok(None),
        }
    }

    #[inline(always)]
    fn count(&mut self) -> Option<Nonce> {
        self.left = self.left.checked_sub(1)?;
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        Some(Nonce { front: self.prefix, back: counter })
    }

    /// One IV in 256 has others behind it that may not be used.
    #[cold]
    fn skip_unsafe(&mut self) -> Option<Nonce> {
        loop {
            let iv = self.count()?;
            if !iv.ends_in_zeros() {
                self.issued += 1;
                return Some(iv);
            }
        }
    }
}

/// Native receivers up to libwebrtc m144 read the IV of an H.264 frame before they take the escapes out, so no escape
/// may fall into it: the first byte is not zero and no two zero bytes touch. (The key is shared by all tracks, and the
/// rule costs 0.4 % of the IVs, so it holds for every codec.)
fn survives_escaping(iv: &[u8]) -> bool {
    iv.first() != Some(&0) && iv.windows(2).all(|pair| pair != [0, 0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keyring::Identity;
    use std::collections::HashSet;

    #[test]
    fn no_iv_repeats_and_none_needs_an_escape() {
        let mut source = IvSource::new().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..200_000 {
            let iv = source.next().unwrap().unwrap();
            assert!(survives_escaping(&iv.bytes()));
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
    fn nonces_are_counted_as_they_are_given_and_end_at_the_limit() {
        let mut ivs = IvSource::new().unwrap();
        // 01 00 00 xx are passed over: two zeros touch.
        ivs.counter = 0x0100_0002;
        let identity = Identity::of(&[b"nonce.rs"]);
        let counter = CtrSource::new(identity, 1, Some(7)).unwrap();
        for mut source in [NonceSource::Iv(ivs), NonceSource::Ctr(counter)] {
            for issued in 1..=3 {
                assert!(source.next(3).is_some());
                assert_eq!(source.issued(), issued);
            }
            assert_eq!((source.next(3), source.issued()), (None, 3));
        }
    }

    #[test]
    fn a_new_generation_draws_a_new_prefix() {
        let mut source = IvSource::new().unwrap();
        let previous = source.next().unwrap().unwrap();
        source.generation = source.generation.wrapping_sub(1);
        let next = source.next().unwrap().unwrap();
        assert_ne!(previous.front, next.front);
    }
}
