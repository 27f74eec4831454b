//! Parses an input as a program over three key rings. A letter is an operation, and each operand has one character.
//!
//! ```text
//! 1000 s05a- m0 f s05a- m0     set key a under KID 5 on an SFrame ring, seal, fork, set the key again, seal
//! ```
//!
//! The first character chooses the profile ([`Program::profile`]), the next three describe the rings ([`Kind`]). Almost
//! every byte is an operation or operand, so a fuzzer wastes few bytes. The seeds are text.

use frameseal::profile::{JITSI, LIVEKIT, NEXTCLOUD, SFRAME, STREAM};
use frameseal::{MlsKid, Profile};

/// Limits of fields, windows and counters: the operands `a` to `p`.
const EDGES: [u64; 16] = [
    10,
    15,
    16,
    63,
    64,
    255,
    256,
    0x105,
    1 << 16,
    1 << 32,
    1 << 56,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 64,
    u64::MAX - 1,
    u64::MAX,
];

pub const RINGS: usize = 3;

/// The number of base keys of a program: `a`, `b` and `c`.
pub const BASES: usize = 3;

/// The options of one ring, in four bits.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// 0: plain. 1: with a ratchet. 2: shared among senders (SFrame), or with 256 slots. 3: a usage limit of two
    /// frames.
    pub keys: u8,
    /// +4: the previous ring is its fallback.
    pub falls_back: bool,
    /// +8: its receivers have a short replay window, where windows hold counters: only those slide.
    pub short_window: bool,
}

/// One operation. `at` is a receiver: 0, 2 and 4 are the decryptors of the three rings, 1, 3 and 5 their data
/// cryptors. A layout without packets has second decryptors instead, of another codec.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// `s`
    Set { ring: usize, id: u64, base: usize, counter: Option<u64> },
    /// `c`
    Choose { ring: usize, id: u64 },
    /// `x`
    Remove { ring: usize, id: u64 },
    /// `r`
    Ratchet { ring: usize, id: u64 },
    /// `e`
    Epoch { ring: usize, base: usize, kid: MlsKid, retain: usize },
    /// `n`: replaces a ring and its receivers by new ones.
    Renew { ring: usize },
    /// `m`
    Frame { ring: usize },
    /// `p`
    Packet { ring: usize },
    /// `q`
    Parts { ring: usize },
    /// `b`
    SealBatch { ring: usize, count: usize },
    /// `w`: `count` other senders seal one frame each, all under the same base key.
    Crowd { base: usize, id: u64, count: u64 },
    /// `o`: counted from the newest frame.
    Open { at: usize, back: usize },
    /// `a`
    OpenAll { at: usize },
    /// `y`: all frames in one batch, the newest of them twice.
    OpenBatch { at: usize },
    /// `z`: flips bits of the byte at `place`, counted from the last.
    OpenAltered { at: usize, back: usize, place: usize, mask: u8 },
    /// `k`
    Ask { ring: usize, id: u64 },
    /// `v`: constructs a ring and receivers with options of any size.
    Construct { first: u64, second: u64 },
    /// `f`
    Fork,
}

pub struct Program {
    pub profile: &'static Profile,
    pub suite: Option<u16>,
    pub kinds: [Kind; RINGS],
    pub ops: Vec<Op>,
}

struct Operands<'a>(&'a [u8]);

impl Program {
    /// The maximum length of a program: a longer one could make more frames than a replay window holds.
    const MAX_OPS: usize = 128;

    /// Parses an input. Returns `None` if it is too short for a profile and its rings.
    pub fn read(input: &[u8]) -> Option<Self> {
        let mut operands = Operands(input);
        let (profile, suite): (&'static Profile, _) = match operands.byte()? % 6 {
            0 => (&LIVEKIT, None),
            1 => (&SFRAME, None),
            2 => (&JITSI, None),
            3 => (&SFRAME, Some(1)),
            4 => (&NEXTCLOUD, None),
            _ => (&STREAM, None),
        };
        let kinds = [operands.kind()?, operands.kind()?, operands.kind()?];
        let ops = std::iter::from_fn(|| operands.op()).flatten().take(Self::MAX_OPS).collect();
        Some(Self { profile, suite, kinds, ops })
    }
}

impl Operands<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// Reads a number: a digit is its value, a letter one of [`EDGES`], any other byte a small number.
    fn number(&mut self) -> Option<u64> {
        Some(match self.byte()? {
            byte @ (b'a'..=b'p' | 0x80..) => EDGES[usize::from(byte.wrapping_sub(b'a') % 16)],
            byte => u64::from(byte & 15),
        })
    }

    #[allow(clippy::cast_possible_truncation)] // a truncated number is any number too
    fn short(&mut self) -> Option<u8> {
        self.number().map(|number| number as u8)
    }

    fn size(&mut self) -> Option<usize> {
        self.number().map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    fn ring(&mut self) -> Option<usize> {
        self.byte().map(|byte| usize::from(byte & 15) % RINGS)
    }

    fn receiver(&mut self) -> Option<usize> {
        self.byte().map(|byte| usize::from(byte & 15) % (2 * RINGS))
    }

    fn base(&mut self) -> Option<usize> {
        self.byte().map(|byte| usize::from(byte.wrapping_sub(b'a')) % BASES)
    }

    /// Reads an optional number: `-` and other punctuation is `None`.
    fn optional(&mut self) -> Option<Option<u64>> {
        let given = self.0.first()?.is_ascii_alphanumeric();
        self.number().map(|number| given.then_some(number))
    }

    fn kind(&mut self) -> Option<Kind> {
        let bits = self.byte()?;
        Some(Kind { keys: bits & 3, falls_back: bits & 4 != 0, short_window: bits & 8 != 0 })
    }

    fn mls_kid(&mut self) -> Option<MlsKid> {
        Some(MlsKid {
            epoch: self.number()?,
            epoch_bits: self.short()?,
            sender_index: self.number()?,
            sender_bits: self.short()?,
            context: self.number()?,
        })
    }

    /// Reads the next operation. Returns `None` at the end, and `Some(None)` for a byte that is no operation, such as a
    /// space.
    fn op(&mut self) -> Option<Option<Op>> {
        // Maps both cases of a letter, and three more bytes, to one operation.
        Some(Some(match self.byte()? & 31 | 0x60 {
            b's' => Op::Set { ring: self.ring()?, id: self.number()?, base: self.base()?, counter: self.optional()? },
            b'c' => Op::Choose { ring: self.ring()?, id: self.number()? },
            b'x' => Op::Remove { ring: self.ring()?, id: self.number()? },
            b'r' => Op::Ratchet { ring: self.ring()?, id: self.number()? },
            b'e' => Op::Epoch { ring: self.ring()?, base: self.base()?, kid: self.mls_kid()?, retain: self.size()? },
            b'n' => Op::Renew { ring: self.ring()? },
            b'm' => Op::Frame { ring: self.ring()? },
            b'p' => Op::Packet { ring: self.ring()? },
            b'q' => Op::Parts { ring: self.ring()? },
            b'b' => Op::SealBatch { ring: self.ring()?, count: usize::from(self.byte()? & 15) },
            b'w' => Op::Crowd { base: self.base()?, id: self.number()?, count: self.number()?.min(80) },
            b'o' => Op::Open { at: self.receiver()?, back: self.size()? },
            b'a' => Op::OpenAll { at: self.receiver()? },
            b'y' => Op::OpenBatch { at: self.receiver()? },
            b'z' => Op::OpenAltered {
                at: self.receiver()?,
                back: self.size()?,
                place: usize::from(self.byte()?),
                mask: self.byte()?,
            },
            b'k' => Op::Ask { ring: self.ring()?, id: self.number()? },
            b'v' => Op::Construct { first: self.number()?, second: self.number()? },
            b'f' => Op::Fork,
            _ => return Some(None),
        }))
    }
}
