//! Where nonces come from: no (key, nonce) pair twice, whoever shares the key.
//!
//! A transmitted IV is 8 random bytes, drawn when a key is installed, and a 32-bit counter with a random start. Inside
//! one installation the counter makes every IV differ, for all tracks and threads, since they draw from this one
//! source. Between installations (other participants, processes, machines that hold the same shared key) the 64 random
//! bits do: among N installations the chance that any two collide at all is about N^2 / 2^65. A `fork` redraws them, so
//! a child never repeats its parent. Neither RTP timestamps nor SSRCs take part: a sender that restarts may see both
//! again.
//!
//! An SFrame counter (CTR) is never transmitted at random: it counts from 0, so it is bound to one (base key, KID), and
//! whoever seals under the same pair a second time must say where to go on from. This process remembers the pairs it
//! has sealed under; a restart it cannot see, and a forked child gets no counter at all.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::error::KeyError;
use crate::fork;
use crate::suite::{NONCE_LEN, random};

const PREFIX_LEN: usize = 8;

/// Frames under one key from one installation of it: one full turn of an IV's counter, and our ceiling for AES-GCM.
pub(crate) const LIMIT: u64 = 1 << 32;

/// What a sending key has left to give.
pub(crate) enum NonceSource {
    /// Transmitted whole.
    Iv(IvSource),
    /// Transmitted as a counter, and mixed with the key's salt.
    Ctr(CtrSource),
}

/// What belongs to one frame alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unique {
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
    pub(crate) fn salted(self, ctr: u64) -> Self {
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
    /// The next one. None: `most` have been given, or there is none that is known to be unused.
    #[inline(always)]
    pub(crate) fn next(&mut self, most: u64) -> Option<Unique> {
        if self.issued() >= most {
            return None;
        }
        // One that cannot be had, for whatever reason, is none.
        match self {
            Self::Iv(ivs) => ivs.next().ok().flatten().map(Unique::Iv),
            Self::Ctr(counter) => counter.next().ok().flatten().map(Unique::Ctr),
        }
    }

    /// What there is to give where the same key is set again. IVs go on. A counter does not, since it is the caller who
    /// knows from where; what it has sealed counts all the same.
    pub(crate) fn after(self, before: Self) -> Self {
        match (self, before) {
            (Self::Iv(_), before @ Self::Iv(_)) => before,
            (Self::Ctr(counter), Self::Ctr(before)) => Self::Ctr(CtrSource { left: before.left, ..counter }),
            (new, _) => new,
        }
    }

    /// How many have been given, each to a frame.
    #[inline(always)]
    pub(crate) fn issued(&self) -> u64 {
        match self {
            Self::Iv(ivs) => ivs.issued,
            Self::Ctr(counter) => LIMIT - counter.left,
        }
    }

    /// Whether the process was forked since the source was made.
    pub(crate) fn is_forked(&self) -> bool {
        let made = match self {
            Self::Iv(ivs) => ivs.generation,
            Self::Ctr(counter) => counter.generation,
        };
        fork::generation() != Ok(made)
    }
}

/// The counter of one (base key, KID).
pub(crate) struct CtrSource {
    next: Option<u64>,
    left: u64,
    generation: u32,
    /// What stands for base key and KID in the memory of this process, until the first frame claims it; none where the
    /// caller has taken the responsibility.
    unclaimed: Option<[u8; 32]>,
}

/// The pairs of base key and KID that this process has sealed under.
static CLAIMED: Mutex<Option<HashSet<[u8; 32]>>> = Mutex::new(None);

impl CtrSource {
    /// Counts from 0, if nobody in this process has under this `identity` (see [`crate::suite::digest`]).
    pub(crate) fn new(identity: [u8; 32]) -> Result<Self, KeyError> {
        Ok(Self { next: Some(0), left: LIMIT, generation: fork::generation()?, unclaimed: Some(identity) })
    }

    /// Goes on from a counter that the caller knows to be unused.
    pub(crate) fn continue_from(counter: u64) -> Result<Self, KeyError> {
        Ok(Self { next: Some(counter), left: LIMIT, generation: fork::generation()?, unclaimed: None })
    }

    #[inline(always)]
    fn next(&mut self) -> Result<Option<u64>, KeyError> {
        if fork::generation()? != self.generation || self.unclaimed.is_some() && !self.claim() {
            return Ok(None);
        }
        let Some(counter) = self.next.filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        self.next = counter.checked_add(1);
        Ok(Some(counter))
    }

    /// Whether this one may count for its base key and KID: the first that asks may.
    #[cold]
    fn claim(&mut self) -> bool {
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.unclaimed.is_none_or(|identity| claimed.get_or_insert_default().insert(identity));
        if first {
            self.unclaimed = None;
        }
        first
    }
}

pub(crate) struct IvSource {
    prefix: u64,
    counter: u32,
    left: u64,
    /// Those given: fewer than those gone, since some are passed over.
    issued: u64,
    generation: u32,
}

impl IvSource {
    pub(crate) fn new() -> Result<Self, KeyError> {
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
    pub(crate) fn next(&mut self) -> Result<Option<Nonce>, KeyError> {
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
            Some(_) => Ok(self.pass_over()),
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
    fn pass_over(&mut self) -> Option<Nonce> {
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
        let counter = CtrSource::continue_from(7).unwrap();
        for mut source in [NonceSource::Iv(ivs), NonceSource::Ctr(counter)] {
            for issued in 1..=3 {
                assert!(source.next(3).is_some());
                assert_eq!(source.issued(), issued);
            }
            assert_eq!((source.next(3), source.issued()), (None, 3));
        }
    }

    #[test]
    fn a_base_key_and_kid_count_once_in_a_process_unless_told_from_where() {
        let identity = crate::suite::digest(&[b"a_base_key_and_kid_count_once"]);
        let (mut first, mut second) = (CtrSource::new(identity).unwrap(), CtrSource::new(identity).unwrap());
        assert_eq!((first.next(), first.next()), (Ok(Some(0)), Ok(Some(1))));
        assert_eq!(second.next(), Ok(None));
        assert_eq!(CtrSource::continue_from(2).unwrap().next(), Ok(Some(2)));
    }

    #[test]
    fn a_counter_ends_at_its_largest_value_at_the_ceiling_and_at_a_fork() {
        let mut last = CtrSource::continue_from(u64::MAX).unwrap();
        assert_eq!((last.next(), last.next()), (Ok(Some(u64::MAX)), Ok(None)));
        let mut used_up = CtrSource::continue_from(0).unwrap();
        used_up.left = 1;
        assert_eq!((used_up.next(), used_up.next()), (Ok(Some(0)), Ok(None)));
        let mut child = CtrSource::continue_from(0).unwrap();
        child.generation = child.generation.wrapping_sub(1);
        assert_eq!(child.next(), Ok(None));
    }

    #[test]
    fn a_new_generation_draws_a_new_prefix() {
        let mut source = IvSource::new().unwrap();
        let before = source.next().unwrap().unwrap();
        source.generation = source.generation.wrapping_sub(1);
        let after = source.next().unwrap().unwrap();
        assert_ne!(before.front, after.front);
    }
}
