//! Checks properties of any sequence of calls on key rings. See [`super::program`] for the syntax of an input.
//!
//! 1. No (key, nonce) pair seals twice, neither in one process nor in a parent and its forked child.
//! 2. The newest key that was set under the chosen id seals. Its frames open at a receiver with only that key. Usage,
//!    fingerprint and export describe the same key. A key that only one ring ever held is not refused.
//! 3. No frame opens twice at one receiver with a replay window, and no altered frame opens to another payload. A frame
//!    opens if the receiver has its key and has not opened it before, whatever else it received.
//! 4. No call panics, whatever its numbers are.
//!
//! The key that sealed a frame is found without the rings: its payload is sealed again under every key of the program.
//! Each run has its own base keys, because the process remembers the keys that have sealed.
//!
//! A fork is simulated: the process continues as the child, and the pairs of the parent stay with the parent.

/// Fails with the program up to the operation that failed.
macro_rules! check {
    ($world:expr, $holds:expr, $($said:tt)+) => {
        if !$holds {
            $world.fail(&format!($($said)+));
        }
    };
}

// These use the macro above.
mod opening;
mod sealing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frameseal::{CipherSuite, Codec, DataCryptor, Decryptor, KeyRing, MlsKid, Options, Profile, Secret, hazmat};

use super::model::{Label, Origin, Pairs, Ring, Thing};
use super::program::{BASES, Kind, Op, Program, RINGS};

/// The maximum number of frames of one program: fewer than a replay window of IVs, so that no IV leaves it.
const MAX_FRAMES: usize = 400;
/// The maximum number of senders of one program, or prefixes of their IVs, for which a receiver keeps its windows.
const MAX_SENDERS: usize = 32;
const WINDOW: usize = 1024;
const SHORT_WINDOW: usize = 64;
const RATCHET_BITS: u8 = 2;
const SHARED_BITS: u8 = 8;
const FEW: u64 = 2;

/// The call that sealed a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Frame,
    Packet,
}

struct Sealed {
    bytes: Vec<u8>,
    form: Form,
    label: Label,
}

enum Cryptor {
    Frames(Decryptor),
    Packets(DataCryptor),
}

impl Cryptor {
    /// Returns the call whose results it opens.
    fn form(&self) -> Form {
        match self {
            Self::Frames(_) => Form::Frame,
            Self::Packets(_) => Form::Packet,
        }
    }
}

struct Receiver {
    /// The index of its ring in the list of all rings.
    ring: usize,
    cryptor: Cryptor,
    /// The frames that the receiver has opened.
    opened: HashSet<usize>,
}

struct World<'p> {
    program: &'p Program,
    suite: &'static CipherSuite,
    /// The operation that runs now.
    at: usize,
    /// The material of each base key and of its ratchet steps, derived as needed.
    chains: [Vec<Vec<u8>>; BASES],
    derived: HashMap<(Label, u64), (Vec<u8>, [u8; 12])>,
    /// All rings, including replaced ones, which may still be the fallback of others.
    rings: Vec<Ring>,
    now: [usize; RINGS],
    receivers: Vec<Receiver>,
    frames: Vec<Sealed>,
    payloads: HashMap<Vec<u8>, usize>,
    /// True if counters were skipped, or there were more sources of counters than a receiver keeps windows for.
    is_late: bool,
    /// The number of the next payload.
    next: u32,
    generation: u32,
    pairs: Pairs,
    /// Every key and nonce that sealed.
    nonces: HashSet<(Label, u64, [u8; 12])>,
    /// The fork generation of the random part of each key's IVs.
    prefixes: HashMap<(Label, [u8; 8]), u32>,
    /// The number of frames that each ring sealed with each key.
    sealed: HashMap<(usize, Label, u64), u64>,
    /// Keys whose first frame was opened by a receiver with only that key.
    checked: HashSet<(usize, Label, u64)>,
}

/// Runs a program and returns the last payload that was opened, or `None` if none was.
pub fn keyring(input: &[u8]) -> Option<Vec<u8>> {
    let program = Program::read(input)?;
    let mut world = World::new(&program);
    let mut last = None;
    for at in 0..program.ops.len() {
        world.at = at;
        if let Some(frame) = world.run(program.ops[at]) {
            last = Some(frame);
        }
    }
    last
}

fn is_sframe(profile: &Profile) -> bool {
    profile.name == "sframe"
}

/// Returns whether the profile's key is the AES key. Its layout then has no packets and no ratchet, and IVs that count.
fn is_raw(profile: &Profile) -> bool {
    profile.layout() == "footer"
}

/// Returns whether a replay window of the profile holds counters, and slides.
fn counts(profile: &Profile) -> bool {
    is_sframe(profile) || is_raw(profile)
}

impl<'p> World<'p> {
    fn new(program: &'p Program) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let base = |number: u8| vec![[b"the base key of a run: ".as_slice(), &run, &[number]].concat()];
        let native =
            KeyRing::new(program.profile, options(program, None)).expect("the options are valid for the profile");
        let mut world = Self {
            program,
            suite: native.suite(),
            at: 0,
            chains: [base(0), base(1), base(2)],
            derived: HashMap::new(),
            rings: Vec::new(),
            now: [0; RINGS],
            receivers: Vec::new(),
            frames: Vec::new(),
            payloads: HashMap::new(),
            is_late: false,
            next: 0,
            generation: 0,
            pairs: Pairs::default(),
            nonces: HashSet::new(),
            prefixes: HashMap::new(),
            sealed: HashMap::new(),
            checked: HashSet::new(),
        };
        for place in 0..RINGS {
            world.renew(place);
        }
        world
    }

    fn fail(&self, said: &str) -> ! {
        let Program { profile, suite, kinds, ops } = self.program;
        let done = ops[..=self.at].iter().map(|op| format!("\n  {op:?}")).collect::<String>();
        panic!("{said}\nprofile {}, suite {suite:?}, rings {kinds:?}, after{done}", profile.name);
    }

    /// Runs one operation and returns the last frame that it opened, or `None` if it opened none.
    fn run(&mut self, op: Op) -> Option<Vec<u8>> {
        match op {
            Op::Set { ring, id, base, counter } => self.set(self.now[ring], id, base, counter),
            Op::Choose { ring, id } => {
                let ring = &mut self.rings[self.now[ring]];
                if ring.native.set_sending_key_id(id).is_ok() {
                    ring.choose(id);
                }
            }
            Op::Remove { ring, id } => {
                let ring = &mut self.rings[self.now[ring]];
                ring.native.remove(id);
                ring.remove(id);
            }
            Op::Ratchet { ring, id } => self.ratchet(self.now[ring], id),
            Op::Epoch { ring, base, kid, retain } => self.set_epoch(self.now[ring], base, kid, retain),
            Op::Renew { ring } => self.renew(ring),
            Op::Frame { ring } => self.seal(self.now[ring], Form::Frame),
            Op::Packet { ring } => self.seal(self.now[ring], Form::Packet),
            Op::Parts { ring } => self.seal_parts(self.now[ring]),
            Op::SealBatch { ring, count } => self.seal_batch(self.now[ring], count),
            Op::Crowd { base, id, count } => self.crowd(base, id, count),
            Op::Open { at, back } => {
                let frame = self.frames.len().checked_sub(back.saturating_add(1))?;
                let bytes = self.frames[frame].bytes.clone();
                return self.open(at, &bytes);
            }
            Op::OpenAll { at } => {
                let all: Vec<_> = self.frames.iter().map(|sealed| sealed.bytes.clone()).collect();
                return all.iter().filter_map(|bytes| self.open(at, bytes)).last();
            }
            Op::OpenBatch { at } => return self.open_batch(at),
            Op::OpenAltered { at, back, place, mask } => {
                let frame = self.frames.len().checked_sub(back.saturating_add(1))?;
                let mut bytes = self.frames[frame].bytes.clone();
                let place = bytes.len() - 1 - place % bytes.len();
                bytes[place] ^= mask;
                return self.open(at, &bytes);
            }
            Op::Ask { ring, id } => self.ask(self.now[ring], id),
            Op::Construct { first, second } => construct(self.program.profile, first, second),
            #[cfg(unix)]
            Op::Fork => {
                hazmat::fork();
                self.generation += 1;
            }
            #[cfg(not(unix))]
            Op::Fork => {}
        }
        None
    }

    fn secret(&mut self, label: Label) -> Secret {
        Secret::key(self.material(label)).expect("the key is long enough")
    }

    fn material(&mut self, Label { base, steps }: Label) -> &[u8] {
        while self.chains[base].len() <= steps {
            let last = Secret::key(self.chains[base].last().expect("a chain starts with its base key"))
                .expect("the key is long enough");
            let (_, next) = hazmat::ratchet(self.program.profile, self.suite, &last).expect("the step can be derived");
            self.chains[base].push(next);
        }
        &self.chains[base][steps]
    }

    fn ratchet_bits(&self, ring: usize) -> u8 {
        if is_sframe(self.program.profile) && self.rings[ring].kind.keys == 1 { RATCHET_BITS } else { 0 }
    }

    fn renew(&mut self, place: usize) {
        let kind = self.program.kinds[place];
        let mut native = KeyRing::new(self.program.profile, options(self.program, Some(kind)))
            .expect("the options are valid for the profile");
        let fallback = (kind.falls_back && place > 0).then(|| self.now[place - 1]);
        if let Some(fallback) = fallback {
            native = native
                .with_fallback(Arc::clone(&self.rings[fallback].native))
                .expect("the fallback has the same profile");
        }
        let native = Arc::new(native);
        self.now[place] = self.rings.len();
        self.rings.push(Ring::new(Arc::clone(&native), kind, fallback));
        let window = Some(if kind.short_window && counts(self.program.profile) { SHORT_WINDOW } else { WINDOW });
        let decryptor = Decryptor::new(Arc::clone(&native), Codec::Opus, window).expect("the window is in range");
        let other = if is_raw(self.program.profile) {
            Cryptor::Frames(Decryptor::new(native, Codec::H264, window).expect("the window is in range"))
        } else {
            Cryptor::Packets(DataCryptor::new(native, false, window).expect("the window is in range"))
        };
        let ring = self.now[place];
        let pair = [Cryptor::Frames(decryptor), other];
        let pair = pair.map(|cryptor| Receiver { ring, cryptor, opened: HashSet::new() });
        let before = self.receivers.len().min(2 * place)..self.receivers.len().min(2 * place + 2);
        self.receivers.splice(before, pair);
    }

    fn set(&mut self, ring: usize, id: u64, base: usize, counter: Option<u64>) {
        let label = Label { base, steps: 0 };
        let secret = self.secret(label);
        if self.rings[ring].native.set_from(id, &secret, counter).is_err() {
            return;
        }
        let shared = is_sframe(self.program.profile) && self.rings[ring].kind.keys == 2;
        let mut thing = Thing::new(id, label, if shared { Origin::Shared } else { Origin::Key }, self.generation);
        thing.is_continued = counter.is_some();
        self.is_late |= thing.is_continued;
        self.note(ring, &mut thing);
        self.rings[ring].set(thing);
    }

    fn set_epoch(&mut self, ring: usize, base: usize, kid: MlsKid, retain: usize) {
        let label = Label { base, steps: 0 };
        let secret = self.secret(label);
        let Ok(value) = self.rings[ring].native.set_epoch(&secret, &kid, retain) else { return };
        check!(self, kid.value() == Ok(value), "the KID is {value}, but {kid:?} has {:?}", kid.value());
        let mut thing = Thing::new(value & ((1 << kid.epoch_bits) - 1), label, Origin::Epoch(kid), self.generation);
        self.note(ring, &mut thing);
        self.rings[ring].set_epoch(thing, retain);
    }

    /// Records that a key was set, and whether a parent has it too. A key that is set already continues its counter, or
    /// restarts it where the caller named one.
    fn note(&mut self, ring: usize, thing: &mut Thing) {
        let Some(kid) = thing.kid() else { return };
        let same = self.rings[ring].same(thing);
        let since = match same {
            Some(known) => known.since,
            None => self.pairs.set((thing.label, kid), self.generation),
        };
        if !thing.is_continued {
            thing.since = since;
            thing.is_continued = same.is_some_and(|known| known.is_continued);
        }
    }

    fn ratchet(&mut self, ring: usize, id: u64) {
        let from = self.rings[ring].key(id);
        let Ok(next_id) = self.rings[ring].native.ratchet(id) else { return };
        let Some(from) = from else { self.fail("a key was ratcheted that was never set") };
        self.step(ring, from, next_id, from.label.steps + 1);
    }

    fn step(&mut self, ring: usize, from: Thing, next_id: u64, steps: usize) {
        let label = Label { steps, ..from.label };
        // A step is as old as the key before it: every process with that key can derive the step.
        let since = self.pairs.set((label, next_id), self.generation).min(from.since);
        let next = Thing::new(next_id, label, Origin::Key, since);
        let bits = self.ratchet_bits(ring);
        self.rings[ring].step(from.id, next, bits);
    }

    /// Returns the ring whose keys are used: the ring itself, or its fallback.
    fn current(&self, ring: usize) -> usize {
        match self.rings[ring].fallback {
            Some(fallback) if self.rings[ring].is_empty() => self.current(fallback),
            _ => ring,
        }
    }

    fn ask(&mut self, ring: usize, id: u64) {
        let native = Arc::clone(&self.rings[ring].native);
        let there = native.frames_sealed(id).is_ok();
        check!(self, native.fingerprint(Some(id)).is_ok() == there, "key {id} has a fingerprint and is not there");
        check!(self, native.export(Some(id)).is_ok() == there, "key {id} can be exported and is not there");
        check!(self, native.key_ids().contains(&id) == there, "key {id} is among the ids or there, and not both");
        let _ =
            (native.derive_ratchet_step(id), native.pending_ratchets(), native.ratcheted_key_id(), native.generation());
        let sends = self.rings[self.current(ring)].sending().is_some();
        check!(self, native.can_encrypt() == sends, "can_encrypt is {}, but a sending key is set: {sends}", !sends);
        assert!(!format!("{native:?}").contains("base key"));
    }
}

fn options(program: &Program, kind: Option<Kind>) -> Options {
    let keys = kind.map_or(0, |kind| kind.keys);
    let key_size = is_raw(program.profile).then_some(256);
    let plain = Options { suite: program.suite, key_size, allow_export: true, ..Options::default() };
    match (keys, is_sframe(program.profile)) {
        (1, true) => Options { ratchet_bits: RATCHET_BITS, ratchet_window: 3, ..plain },
        (1, false) if !is_raw(program.profile) => Options { ratchet_window: 3, ..plain },
        (2, true) => Options { shared: true, ..plain },
        (2, false) => Options { key_ring_size: 256, ..plain },
        (3, _) => Options { usage_limit: FEW, ..plain },
        _ => plain,
    }
}

/// Constructs rings and receivers with options of any size: they return an error, and never panic.
#[allow(clippy::cast_possible_truncation)] // numbers of any size
fn construct(profile: &'static Profile, first: u64, second: u64) {
    let options = Options {
        suite: first.is_multiple_of(3).then_some(second as u16),
        allow_draft: true,
        key_size: first.is_multiple_of(5).then_some(second as u16),
        key_ring_size: first as u16,
        ratchet_window: second as u16,
        ratchet_bits: second as u8,
        shared: first.is_multiple_of(7),
        usage_limit: second,
        allow_export: false,
    };
    let Ok(ring) = KeyRing::new(profile, options) else { return };
    let ring = Arc::new(ring);
    let _ =
        (ring.usage_warning(), ring.ratchet(first), ring.derive_ratchet_step(second), ring.set_sending_key_id(first));
    // Windows of a megabyte would slow the fuzzer down, and test nothing but the allocation.
    let window = usize::try_from(second).unwrap_or(usize::MAX);
    if !(4096..=1 << 16).contains(&window) {
        let _ = Decryptor::new(Arc::clone(&ring), Codec::Unknown, Some(window));
        let _ = DataCryptor::new(ring, true, Some(window));
    }
}
