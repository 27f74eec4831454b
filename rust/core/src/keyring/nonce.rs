//! Sources of nonces. No pair of key and nonce repeats, whoever shares the key.
//!
//! A transmitted IV has 8 random bytes and a 32-bit counter with a random start. The random bytes are drawn when a key
//! is installed. All tracks and threads of one installation draw from one source, so the counter makes every IV unique.
//! Between installations (other participants, processes or machines with the same shared key) the 64 random bits
//! differ. Among N installations the chance of a collision is about N^2 / 2^65. A `fork` redraws the random bits, so a
//! child never repeats its parent. RTP timestamps and SSRCs are not used, because they may repeat when a sender
//! restarts.
//!
//! The footer layout has the same IVs, except that the counter ascends from 1: its receivers refuse a counter that lies
//! far below the highest. It has no value left where others would wrap around.
//!
//! An SFrame counter (CTR) is never random: see [`crate::keyring::counter`].

use super::counter::CtrSource;
use crate::error::KeyError;
use crate::fork;
use crate::suite::{NONCE_LEN, random};

const PREFIX_LEN: usize = 8;

/// The maximum number of frames under one installation of a key: the range of the 32-bit counter of an IV. It is also
/// the limit that this crate sets for AES-GCM.
pub(super) const LIMIT: u64 = 1 << 32;

/// The source of the nonce inputs of a sending key.
pub(super) enum NonceSource {
    /// The frame holds the whole nonce.
    Iv(IvSource),
    /// The frame holds the whole nonce, whose last four bytes count from 1.
    Counted(CountedIvs),
    /// The frame holds a counter. The nonce is the counter XOR the salt of the key.
    Ctr(CtrSource),
}

/// The part of the nonce that is unique to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NonceInput {
    Iv(Nonce),
    Ctr(u64),
}

/// A nonce as two words of 8 and 4 bytes, the units in which the AEAD reads it. Other units would stall each reader on
/// store forwarding, which costs a sixth of the time of a short frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Nonce {
    front: u64,
    back: u32,
}

impl Nonce {
    /// Returns the nonce of a counter: this salt XOR the counter as a 12-byte number (RFC 9605, section 4.4.3).
    #[inline(always)]
    pub(super) fn salted(self, ctr: u64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // the lower half
        let low = ctr as u32;
        Self { front: self.front ^ ctr >> 32, back: self.back ^ low }
    }

    /// Returns whether two adjacent bytes of the last five are zero: the counter, and the byte before it.
    #[inline(always)]
    fn ends_in_zeros(self) -> bool {
        let last = (self.front & 0xFF) << 32 | u64::from(self.back);
        last & 0xFFFF == 0 || last >> 8 & 0xFFFF == 0 || last >> 16 & 0xFFFF == 0 || last >> 24 == 0
    }

    /// Returns the first 8 bytes and the last 4, as numbers.
    pub(crate) fn halves(self) -> (u64, u32) {
        (self.front, self.back)
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
    /// Returns the next nonce input. Returns `None` if `max` were issued, or no further one is known to be unused.
    #[inline(always)]
    pub(super) fn next(&mut self, max: u64) -> Option<NonceInput> {
        if self.issued() >= max {
            return None;
        }
        // An error means that no nonce is known to be unused.
        match self {
            Self::Iv(ivs) => ivs.next().ok().flatten().map(NonceInput::Iv),
            Self::Counted(ivs) => ivs.next().ok().flatten().map(NonceInput::Iv),
            Self::Ctr(counter) => counter.next().ok().flatten().map(NonceInput::Ctr),
        }
    }

    /// Pushes `count` nonce inputs to `nonce_inputs`. Pushes fewer if `max` were issued, or no further one is known to
    /// be unused.
    pub(super) fn fill(&mut self, count: usize, max: u64, nonce_inputs: &mut Vec<NonceInput>) {
        if let Self::Ctr(counter) = self {
            // Issue the counters of the whole batch with one atomic operation.
            let allowed = max.saturating_sub(counter.issued()).min(count as u64);
            if allowed > 0
                && let Ok(Some(first)) = counter.issue(allowed)
            {
                // Add each place, because the end of a range of counters would overflow at the largest counter.
                nonce_inputs.extend((0..allowed).map(|place| NonceInput::Ctr(first + place)));
                return;
            }
        }
        nonce_inputs.extend((0..count).map_while(|_| self.next(max)));
    }

    /// Carries state over when the same key is set again. An IV source continues. A counter continues by itself, and
    /// keeps its start from `previous`.
    pub(super) fn continuing(self, previous: Self) -> Self {
        match (self, previous) {
            (Self::Iv(_), previous @ Self::Iv(_)) | (Self::Counted(_), previous @ Self::Counted(_)) => previous,
            (Self::Ctr(counter), Self::Ctr(previous)) => Self::Ctr(counter.continuing(&previous)),
            (new, _) => new,
        }
    }

    /// Continues the usage count from `issued`.
    pub(super) fn count_from(&mut self, issued: u64) {
        match self {
            Self::Iv(ivs) => ivs.issued = issued,
            Self::Counted(ivs) => ivs.issued = issued,
            Self::Ctr(counter) => counter.count_from(issued),
        }
    }

    /// Returns how many nonce inputs were issued, each for one frame.
    #[inline(always)]
    pub(super) fn issued(&self) -> u64 {
        match self {
            Self::Iv(ivs) => ivs.issued,
            Self::Counted(ivs) => ivs.issued,
            Self::Ctr(counter) => counter.issued(),
        }
    }

    /// Returns the fork generation of the source.
    pub(super) fn generation(&self) -> u32 {
        match self {
            Self::Iv(ivs) => ivs.generation,
            Self::Counted(ivs) => ivs.generation,
            Self::Ctr(counter) => counter.generation(),
        }
    }

    /// Returns whether the process was forked after the source was created.
    pub(super) fn is_forked(&self) -> bool {
        fork::generation() != Ok(self.generation())
    }
}

pub(super) struct IvSource {
    prefix: u64,
    counter: u32,
    /// The number of counter values left.
    left: u64,
    /// The number of IVs issued. Skipped counter values do not count.
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

    /// Returns the next IV, or `None` if the counter has no value left.
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

    /// Skips IVs that end in zeros. About one IV in 256 is followed by some.
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

/// The source of the IVs of the footer layout.
pub(super) struct CountedIvs {
    prefix: u64,
    /// The last counter that was issued under the prefix, or 0.
    counter: u32,
    /// The number of IVs issued, under this prefix and those of parent processes.
    issued: u64,
    generation: u32,
}

impl CountedIvs {
    pub(super) fn new() -> Result<Self, KeyError> {
        let generation = fork::generation()?;
        let mut source = Self { prefix: 0, counter: 0, issued: 0, generation };
        source.draw()?;
        Ok(source)
    }

    fn draw(&mut self) -> Result<(), KeyError> {
        let mut prefix = [0; PREFIX_LEN];
        random(&mut prefix)?;
        (self.prefix, self.counter) = (u64::from_be_bytes(prefix), 0);
        Ok(())
    }

    /// Returns the next IV, or `None` if the counter has no value left.
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Nonce>, KeyError> {
        let generation = fork::generation()?;
        if generation != self.generation {
            self.draw()?;
            self.generation = generation;
        }
        let Some(counter) = self.counter.checked_add(1) else { return Ok(None) };
        (self.counter, self.issued) = (counter, self.issued + 1);
        Ok(Some(Nonce { front: self.prefix, back: counter }))
    }
}

/// Returns whether an IV needs no emulation prevention byte: its first byte is not zero, and no two adjacent bytes are.
///
/// Native receivers up to libwebrtc m144 read the IV of an H.264 frame before they remove these bytes. The rule holds
/// for every codec, because all tracks share the key, and it costs 0.4 % of the IVs.
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
    fn an_iv_ends_in_zeros_if_two_adjacent_bytes_of_its_last_five_are_zero() {
        let signs = [0u8, 1, 0x80];
        for place in 0..3usize.pow(5) {
            let last: Vec<u8> = (0..5).map(|digit| signs[place / 3usize.pow(digit) % 3]).collect();
            for first in [0, 0x11] {
                let mut bytes = [first; NONCE_LEN];
                bytes[7..].copy_from_slice(&last);
                let expected = last.windows(2).any(|pair| pair == [0, 0]);
                assert_eq!(Nonce::from(bytes).ends_in_zeros(), expected, "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_prefix_survives_escaping_if_it_begins_with_no_zero_and_no_two_zeros_are_adjacent() {
        for (prefix, survives) in [
            ([1, 2, 3, 4], true),
            ([1, 0, 3, 0], true),
            ([0, 2, 3, 4], false),
            ([1, 0, 0, 4], false),
            ([1, 2, 0, 0], false),
            ([0, 0, 3, 4], false),
        ] {
            assert_eq!(survives_escaping(&prefix), survives, "{prefix:?}");
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
    fn counted_ivs_begin_at_one_and_end_at_the_last_counter() {
        let mut source = CountedIvs::new().unwrap();
        let first = source.next().unwrap().unwrap().halves();
        assert_eq!(first, (source.prefix, 1));
        source.counter = u32::MAX - 2;
        for counter in [u32::MAX - 1, u32::MAX] {
            assert_eq!(source.next().unwrap().unwrap().halves(), (first.0, counter));
        }
        assert_eq!((source.next().unwrap(), source.next().unwrap(), source.issued), (None, None, 3));
        assert_ne!(CountedIvs::new().unwrap().prefix, first.0);
    }

    #[test]
    fn counted_ivs_begin_anew_under_another_prefix_in_a_child() {
        let mut source = CountedIvs::new().unwrap();
        let parents: Vec<_> = (0..3).map(|_| source.next().unwrap().unwrap().halves()).collect();
        source.generation = source.generation.wrapping_sub(1);
        let child = source.next().unwrap().unwrap().halves();
        assert!(child.1 == 1 && parents.iter().all(|parent| parent.0 != child.0));
        assert_eq!(source.issued, 4, "the child's frames count towards the same limit");
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

    fn counted_from(name: &[u8], ring: u64, start: u64) -> NonceSource {
        NonceSource::Ctr(CtrSource::new(Identity::of(&[b"nonce.rs", name]), ring, Some(start)).unwrap())
    }

    #[test]
    fn a_salted_nonce_is_the_salt_xor_the_counter_as_twelve_bytes() {
        let salt: [u8; NONCE_LEN] = std::array::from_fn(|place| 0xA5 ^ place as u8);
        for ctr in [0, 1, 0xFFFF_FFFF, 1 << 32, 0x0123_4567_89AB_CDEF, u64::MAX] {
            let wide = [&[0; 4][..], &ctr.to_be_bytes()].concat();
            let expected: Vec<u8> = salt.iter().zip(wide).map(|(salt, byte)| salt ^ byte).collect();
            assert_eq!(Nonce::from(salt).salted(ctr).bytes(), *expected);
        }
    }

    #[test]
    fn a_batch_of_counters_is_consecutive_and_ends_at_the_limit() {
        let mut source = counted_from(b"batch", 1, 7);
        let mut found = Vec::new();
        for (count, len) in [(3, 3), (3, 5), (3, 5)] {
            source.fill(count, 5, &mut found);
            assert_eq!((found.len(), source.issued()), (len, len as u64));
        }
        assert_eq!(found, (7..12).map(NonceInput::Ctr).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_without_frames_claims_no_key_for_its_ring() {
        let identity = Identity::of(&[b"nonce.rs", b"no frames"]);
        let mut rings = [1, 2].map(|ring| NonceSource::Ctr(CtrSource::new(identity, ring, None).unwrap()));
        for (count, max) in [(0, 9), (3, 0)] {
            rings[0].fill(count, max, &mut Vec::new());
        }
        assert!(rings[1].next(9).is_some());
    }

    #[test]
    fn a_source_of_another_kind_begins_anew() {
        let iv = || NonceSource::Iv(IvSource::new().unwrap());
        for (new, previous) in [(counted_from(b"kinds", 1, 4), iv()), (iv(), counted_from(b"kinds", 1, 4))] {
            let (mut previous, is_ctr) = (previous, matches!(new, NonceSource::Ctr(_)));
            assert!(previous.next(9).is_some());
            let continued = new.continuing(previous);
            assert_eq!((continued.issued(), matches!(continued, NonceSource::Ctr(_))), (0, is_ctr));
        }
    }

    #[test]
    fn a_source_from_before_a_fork_is_forked() {
        let (ivs, counted) = (IvSource::new().unwrap(), CountedIvs::new().unwrap());
        let counter = counted_from(b"forked", 1, 0);
        for mut source in [NonceSource::Iv(ivs), NonceSource::Counted(counted), counter] {
            let generation = fork::generation().unwrap();
            assert!(!source.is_forked() && source.generation() == generation);
            match &mut source {
                NonceSource::Iv(ivs) => ivs.generation = generation.wrapping_sub(1),
                NonceSource::Counted(ivs) => ivs.generation = generation.wrapping_sub(1),
                NonceSource::Ctr(_) => continue,
            }
            assert!(source.is_forked() && source.generation() == generation.wrapping_sub(1));
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
