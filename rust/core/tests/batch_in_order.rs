//! A batch has the results of single calls for any `threads`: across ratchets, rotations, replays and forgeries.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::sync::Arc;

use frameseal::{
    Codec, DecryptError, DecryptStats, Decryptor, EncryptError, EncryptStats, Encryptor, KeyRing, MlsKid, Options,
    Profile, Secret,
};
use proptest::prelude::*;

const THREADS: [usize; 4] = [1, 2, 4, 0];

/// The kind of keys in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// The trailer layout: a key id does not show the ratchet step.
    Trailer,
    /// SFrame: the low bits of a KID count ratchet steps.
    Steps,
    /// SFrame: one base key, under which each sender draws a KID.
    Shared,
    /// SFrame: the epochs of an MLS group.
    Epochs,
}

/// One event on a track's way from the sender to the receiver.
#[derive(Clone, Copy, Debug)]
enum Event {
    Seal(u8),
    Ratchet,
    Rotate,
    UnknownKey(u8),
    Forge(u8),
    Replay(u8),
    Empty(u8),
    Malformed(u8),
    /// SIF frames. Every third one has a payload that must not pass.
    SifFrames(u8),
    /// Frames that arrive after the frames sealed next.
    Late(u8),
    /// The batch ends here, and the receiver's keys change before the next one.
    NextBatch(u8),
}

#[derive(Clone, Copy, Debug)]
struct Call {
    keys: Keys,
    codec: Codec,
    ratchet_window: u16,
    replay_window: Option<usize>,
}

/// The trailer of SIF frames.
const TRAILER: &[u8] = b"a server's trailer";
/// The number of keys that a receiver has from the start.
const IDS: u64 = 3;
const RATCHET_BITS: u8 = 4;

impl Call {
    fn ring(&self) -> KeyRing {
        let profile = if self.keys == Keys::Trailer { "livekit" } else { "sframe" };
        let options = Options {
            ratchet_window: self.ratchet_window,
            ratchet_bits: if self.keys == Keys::Steps { RATCHET_BITS } else { 0 },
            shared: self.keys == Keys::Shared,
            allow_export: true,
            ..Options::default()
        };
        KeyRing::new(Profile::by_name(profile).unwrap(), options).unwrap()
    }

    /// Returns the id of the `n`th key.
    fn id(&self, n: u64) -> u64 {
        if self.keys == Keys::Steps { n << RATCHET_BITS } else { n }
    }

    fn set(&self, ring: &KeyRing, n: u64, salt: u64, sender_index: u64) {
        let mut bytes = [n as u8; 32];
        bytes[..8].copy_from_slice(&salt.to_be_bytes());
        let secret = Secret::key(&bytes).unwrap();
        match self.keys {
            Keys::Epochs => {
                let kid = MlsKid { epoch: n, epoch_bits: 4, sender_index, sender_bits: 4, context: 0 };
                ring.set_epoch(&secret, &kid, 2).unwrap();
            }
            _ => ring.set(self.id(n), &secret).unwrap(),
        }
    }

    fn receiver(&self, salt: u64) -> Arc<KeyRing> {
        let ring = self.ring();
        for n in 0..IDS {
            self.set(&ring, n, salt, 0);
        }
        Arc::new(ring)
    }
}

/// Returns the batches that a call's sender sends. The number beside each batch chooses how the receiver's keys change
/// after it.
fn wire(call: &Call, salt: u64, events: &[Event]) -> Vec<(Vec<Vec<u8>>, u8)> {
    let sender = Arc::new(call.ring());
    let mut index = 1;
    if call.keys == Keys::Epochs {
        call.set(&sender, 0, salt, index);
    } else {
        (0..IDS).for_each(|n| call.set(&sender, n, salt, 0));
    }
    let encryptor = Encryptor::new(Arc::clone(&sender), call.codec).unwrap();
    let mut counter = 0_u32;
    let mut seal = |encryptor: &Encryptor| {
        counter += 1;
        let len = if counter.is_multiple_of(97) { 5_000 } else { counter as usize % 60 };
        let head: &[u8] = if call.codec == Codec::H264 { b"\0\0\0\x01\x65\x88" } else { b"\x78" };
        // Returns no frame of a ratchet step that was used before: its counter would start again.
        encryptor.encrypt(&[head, &counter.to_be_bytes(), &vec![0xA5; len], &[0x80]].concat()).ok()
    };
    let (mut batches, mut frames, mut late) = (Vec::new(), Vec::<Vec<u8>>::new(), Vec::new());
    let mut key = 0;
    for (at, event) in events.iter().enumerate() {
        match *event {
            Event::Seal(n) => {
                frames.extend((0..n).filter_map(|_| seal(&encryptor)));
                frames.append(&mut late);
            }
            Event::Ratchet => match call.keys {
                Keys::Trailer | Keys::Steps => _ = sender.ratchet(sender.sending_key_id()),
                Keys::Shared | Keys::Epochs => {}
            },
            Event::Rotate if call.keys == Keys::Epochs => {
                key = (key + 1) % IDS;
                index = (index + 1) % 16;
                call.set(&sender, key, salt, index);
            }
            Event::Rotate => {
                let ids = sender.key_ids();
                let now = ids.iter().position(|id| *id == sender.sending_key_id()).unwrap_or(0);
                sender.set_sending_key_id(ids[(now + 1) % ids.len()]).unwrap();
            }
            Event::UnknownKey(n) => {
                let stranger = call.ring();
                call.set(&stranger, 9, salt + at as u64, 3);
                let stranger = Encryptor::new(Arc::new(stranger), call.codec).unwrap();
                frames.extend((0..n).filter_map(|_| seal(&stranger)));
            }
            Event::Forge(n) => {
                let Some(forged) = seal(&encryptor) else { continue };
                frames.extend((0..n).map(|n| {
                    let mut forged = forged.clone();
                    let place = forged.len() - 20 - usize::from(n) % 4;
                    forged[place] ^= 0x11;
                    forged
                }));
            }
            Event::Replay(n) => {
                let back = usize::from(n) * 3;
                let from = frames.len().saturating_sub(back);
                let again: Vec<_> = frames[from..].iter().step_by(3).cloned().collect();
                frames.extend(again);
            }
            Event::Empty(n) => frames.extend((0..n).map(|_| Vec::new())),
            Event::Malformed(n) => frames.extend((0..n).map(|n| vec![0xFF; 1 + usize::from(n % 9)])),
            Event::SifFrames(n) => frames.extend((0..n).map(|n| {
                let silence = [b"\xf8\xff\xfe", &[u8::from(n % 3 == 2); 77][..]].concat();
                [&silence, TRAILER].concat()
            })),
            Event::Late(n) => late.extend((0..n).filter_map(|_| seal(&encryptor))),
            Event::NextBatch(change) => batches.push((std::mem::take(&mut frames), change)),
        }
    }
    frames.append(&mut late);
    batches.push((frames, 4));
    batches
}

/// Changes the receiver's keys between two batches.
fn change(call: &Call, ring: &KeyRing, salt: u64, number: u8) {
    let n = u64::from(number) % IDS;
    match number % 5 {
        0 => call.set(ring, n, salt, 0), // the same key again
        1 => call.set(ring, n, salt + 1, 0),
        2 => ring.remove(call.id(n)),
        3 => _ = ring.derive_ratchet_step(call.id(n)),
        _ => {}
    }
}

/// The observable state of a receiver.
#[derive(Debug, PartialEq)]
struct Seen {
    results: Vec<Result<Vec<u8>, DecryptError>>,
    failures: Vec<u32>,
    stats: DecryptStats,
    keys: Vec<(u64, Vec<u8>)>,
    followed: Option<u64>,
    wanted: Vec<u64>,
    changes: u64,
}

fn receive(call: &Call, salt: u64, batches: &[(Vec<Vec<u8>>, u8)], threads: Option<usize>) -> Seen {
    let ring = call.receiver(salt);
    let decryptor = Decryptor::new(Arc::clone(&ring), call.codec, call.replay_window).unwrap();
    let decryptor = decryptor.with_sif_trailer(TRAILER).unwrap();
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for (frames, then) in batches {
        match threads {
            None => results.extend(frames.iter().map(|frame| decryptor.decrypt(frame))),
            Some(threads) => results.extend(open(&decryptor, frames, threads)),
        }
        failures.push(decryptor.consecutive_failures());
        change(call, &ring, salt, *then);
    }
    // The frames that are refused from now on show the content of the replay window.
    for (frames, _) in batches {
        results.extend(frames.iter().rev().take(20).map(|frame| decryptor.decrypt(frame)));
    }
    Seen {
        results,
        failures,
        stats: decryptor.stats(),
        keys: ring.key_ids().into_iter().map(|id| (id, ring.export(Some(id)).unwrap().to_vec())).collect(),
        followed: ring.ratcheted_key_id(),
        wanted: ring.pending_ratchets(),
        changes: ring.generation(),
    }
}

fn open(decryptor: &Decryptor, sealed: &[Vec<u8>], threads: usize) -> Vec<Result<Vec<u8>, DecryptError>> {
    let batch = decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
    let mut out = vec![0xaa; batch.max_len()];
    let results = batch.open_into(&mut out, threads).results();
    let mut from = 0;
    let opened = results
        .into_iter()
        .map(|result| {
            result.map(|len| {
                from += len;
                out[from - len..from].to_vec()
            })
        })
        .collect();
    assert!(out[from..].iter().all(|&byte| byte == 0), "the rest of the output must be zero");
    opened
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<u8>().prop_map(Event::Seal),
        3 => Just(Event::Ratchet),
        2 => Just(Event::Rotate),
        1 => (1..40_u8).prop_map(Event::UnknownKey),
        2 => (1..40_u8).prop_map(Event::Forge),
        2 => (1..60_u8).prop_map(Event::Replay),
        1 => (1..10_u8).prop_map(Event::Empty),
        1 => (1..10_u8).prop_map(Event::Malformed),
        1 => (1..160_u8).prop_map(Event::SifFrames),
        2 => (1..80_u8).prop_map(Event::Late),
        1 => any::<u8>().prop_map(Event::NextBatch),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    (
        prop::sample::select(vec![Keys::Trailer, Keys::Trailer, Keys::Steps, Keys::Shared, Keys::Epochs]),
        prop::sample::select(vec![Codec::Opus, Codec::H264]),
        prop::sample::select(vec![0_u16, 1, 3, 16]),
        prop::sample::select(vec![None, Some(0), Some(16), Some(300)]),
    )
        .prop_map(|(keys, codec, ratchet_window, replay_window)| Call {
            keys,
            codec,
            ratchet_window,
            replay_window,
        })
}

/// Returns a number for a base key of its own: a counter starts at 0 once per base key and KID in a process.
fn salt() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1 << 20, Ordering::Relaxed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_batch_opens_what_single_calls_open_and_leaves_what_they_leave(
        call in call(),
        events in prop::collection::vec(event(), 1..24),
    ) {
        let salt = salt();
        let batches = wire(&call, salt, &events);
        let singly = receive(&call, salt, &batches, None);
        for threads in THREADS {
            let batch = receive(&call, salt, &batches, Some(threads));
            for (at, (one, other)) in batch.results.iter().zip(&singly.results).enumerate() {
                prop_assert_eq!(one, other, "result {} with {} threads", at, threads);
            }
            prop_assert_eq!(&batch, &singly, "{} threads", threads);
        }
    }
}

#[test]
fn no_frame_is_lost_where_a_sender_ratchets_in_the_middle_of_a_batch() {
    for keys in [Keys::Trailer, Keys::Steps] {
        let call = Call { keys, codec: Codec::Opus, ratchet_window: 4, replay_window: None };
        for steps in [1, 3] {
            let (salt, mut events) = (salt(), Vec::new());
            for _ in 0..steps {
                events.extend([Event::Seal(200), Event::Seal(200), Event::Seal(200), Event::Ratchet]);
            }
            events.push(Event::Seal(200));
            let batches = wire(&call, salt, &events);
            for threads in THREADS {
                let seen = receive(&call, salt, &batches, Some(threads));
                let lost = seen.results[..600 * steps + 200].iter().filter(|result| result.is_err()).count();
                assert_eq!(
                    (lost, seen.stats.ratchets),
                    (0, steps as u64),
                    "{keys:?}, {steps} steps, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn a_step_of_a_passphrase_is_asked_for_and_not_derived_as_with_single_calls() {
    let call = Call { keys: Keys::Trailer, codec: Codec::Opus, ratchet_window: 2, replay_window: None };
    let with_passphrase = || {
        let ring = Arc::new(call.ring());
        ring.set(0, &Secret::passphrase(b"of everybody").unwrap()).unwrap();
        ring
    };
    let sender = with_passphrase();
    let encryptor = Encryptor::new(Arc::clone(&sender), call.codec).unwrap();
    let mut sealed: Vec<_> = (0..300).map(|_| encryptor.encrypt(b"\x78 before").unwrap()).collect();
    sender.ratchet(0).unwrap();
    sealed.extend((0..300).map(|_| encryptor.encrypt(b"\x78 after").unwrap()));
    let receive = |threads: Option<usize>| {
        let ring = with_passphrase();
        let decryptor = Decryptor::new(Arc::clone(&ring), call.codec, None).unwrap();
        let mut results = Vec::new();
        for _ in 0..2 {
            match threads {
                None => results.extend(sealed.iter().map(|frame| decryptor.decrypt(frame))),
                Some(threads) => results.extend(open(&decryptor, &sealed, threads)),
            }
            let wanted = ring.pending_ratchets();
            results.push(Ok(wanted.iter().map(|id| *id as u8).collect()));
            wanted.iter().for_each(|id| assert!(ring.derive_ratchet_step(*id).is_ok()));
        }
        (results, decryptor.stats(), decryptor.consecutive_failures())
    };
    let singly = receive(None);
    assert_eq!((singly.1.frames, singly.1.authentication_failed, singly.1.ratchets), (900, 300, 1));
    assert_eq!(singly.0[600], Ok(vec![0]), "the step must be pending");
    for threads in THREADS {
        assert_eq!(receive(Some(threads)), singly, "{threads} threads");
    }
}

#[test]
fn keys_that_are_set_while_a_batch_opens_cost_no_frame_and_open_none_twice() {
    use std::sync::atomic::{AtomicBool, Ordering};

    for keys in [Keys::Trailer, Keys::Shared, Keys::Epochs] {
        let call = Call { keys, codec: Codec::Opus, ratchet_window: 2, replay_window: Some(20_000) };
        let salt = salt();
        let (mut sealed, _) = wire(&call, salt, &[Event::Seal(200)].repeat(15)).remove(0);
        let count = sealed.len();
        sealed.extend(sealed.clone());
        for threads in THREADS {
            let ring = call.receiver(salt);
            let decryptor = Decryptor::new(Arc::clone(&ring), call.codec, call.replay_window).unwrap();
            let (begun, done) = (std::sync::Barrier::new(2), AtomicBool::new(false));
            let results = std::thread::scope(|scope| {
                scope.spawn(|| {
                    begun.wait();
                    while !done.load(Ordering::Relaxed) {
                        (0..IDS).for_each(|n| call.set(&ring, n, salt, 0)); // the same keys again
                    }
                });
                begun.wait();
                let results = open(&decryptor, &sealed, threads);
                done.store(true, Ordering::Relaxed);
                results
            });
            let (first, again) = results.split_at(count);
            assert!(first.iter().all(Result::is_ok), "{keys:?}, {threads} threads");
            let is_replay = |result: &Result<_, _>| matches!(result, Err(DecryptError::Replayed { .. }));
            assert!(again.iter().all(is_replay), "{keys:?}, {threads} threads");
        }
    }
}

#[test]
fn a_trailer_that_comes_or_goes_while_a_batch_is_planned_costs_no_other_frame() {
    let call = Call { keys: Keys::Trailer, codec: Codec::Opus, ratchet_window: 0, replay_window: None };
    let salt = salt();
    let mut events = [Event::Seal(100), Event::SifFrames(60)].repeat(4);
    events.push(Event::Seal(200));
    let (sealed, _) = wire(&call, salt, &events).remove(0);
    let blanks = sealed.iter().filter(|frame| frame.ends_with(TRAILER)).count();
    for threads in THREADS {
        for (before, then) in [(None, Some(TRAILER)), (Some(TRAILER), None), (Some(TRAILER), Some(TRAILER))] {
            let decryptor = Decryptor::new(call.receiver(salt), call.codec, None).unwrap();
            decryptor.set_sif_trailer(before).unwrap();
            let batch = decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
            let mut out = vec![0; batch.max_len()];
            decryptor.set_sif_trailer(then).unwrap();
            let results = batch.open_into(&mut out, threads).results();
            let opened = sealed.iter().zip(&results).filter(|(frame, _)| !frame.ends_with(TRAILER));
            assert!(opened.into_iter().all(|(_, result)| result.is_ok()), "{before:?}, {then:?}, {threads} threads");
            let passed = if before == then { blanks - blanks / 3 } else { 0 };
            assert_eq!(decryptor.sif_frames(), passed as u64, "{before:?}, {then:?}, {threads} threads");
        }
    }
}

/// One plain frame of a track.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Whole(u16),
    Empty,
    /// Parameter sets without a slice, which H.264 holds back.
    Held,
    /// A frame that is not of the codec.
    Foreign,
    /// Parameter sets that exceed the maximum to be held back.
    Long,
}

impl Frame {
    fn bytes(self, codec: Codec, n: usize) -> Vec<u8> {
        let head: &[u8] = match (self, codec) {
            (Self::Empty, _) => return Vec::new(),
            (Self::Foreign, _) => return vec![0x01],
            (Self::Held, Codec::H264) => b"\0\0\0\x01\x67\x42\xc0\x1f\0\0\0\x01\x68\xce",
            (Self::Long, Codec::H264) => return [b"\0\0\0\x01\x67", &vec![0x42; 17_000][..]].concat(),
            // The whole slice header is clear. (The header of x264's keyframes is not: it would redraw nonces at
            // random.)
            (_, Codec::H264) => b"\0\0\0\x01\x41\x9a",
            _ => b"\x01\x02\x03",
        };
        let len = if let Self::Whole(len) = self { usize::from(len) } else { 4 };
        [head, &(n as u32).to_be_bytes(), &vec![0; len], &[0x80]].concat()
    }
}

/// Returns the counter of a frame's nonce: the CTR of an SFrame, or the counter in an IV.
fn count_of(sealed: &[u8], profile: &str) -> u64 {
    if profile == "livekit" {
        return u64::from(u32::from_be_bytes(sealed[sealed.len() - 6..sealed.len() - 2].try_into().unwrap()));
    }
    // RFC 9605, section 4.3, for a KID below 8. The envelope puts a start code and a NAL header in front.
    let at = if sealed.starts_with(&[0, 0, 0, 1]) { sealed.len().min(6) } else { 0 };
    let config = sealed[at];
    let short = u64::from(config & 7);
    if config & 8 == 0 {
        return short;
    }
    sealed[at + 1..=at + 1 + short as usize].iter().fold(0, |ctr, byte| ctr << 8 | u64::from(*byte))
}

/// The observable state of a sender.
#[derive(Debug, PartialEq)]
struct Sent {
    failed: Option<(usize, EncryptError)>,
    lens: Vec<usize>,
    stats: EncryptStats,
    usage: Option<u64>,
    next: Result<usize, EncryptError>,
}

#[derive(Clone, Debug)]
struct Track {
    profile: &'static str,
    codec: Codec,
    usage_limit: u64,
    has_key: bool,
    frames: Vec<Vec<u8>>,
}

fn send(track: &Track, threads: Option<usize>) -> Sent {
    let options = Options { usage_limit: track.usage_limit, ..Options::default() };
    let ring = Arc::new(KeyRing::new(Profile::by_name(track.profile).unwrap(), options).unwrap());
    if track.has_key {
        let mut key = [3; 32];
        key[..8].copy_from_slice(&salt().to_be_bytes());
        ring.set(5, &Secret::key(&key).unwrap()).unwrap();
    }
    let encryptor = Encryptor::new(Arc::clone(&ring), track.codec).unwrap();
    let (mut sealed, mut failed) = (Vec::new(), None);
    match threads {
        None => {
            for (place, frame) in track.frames.iter().enumerate() {
                match encryptor.encrypt(frame) {
                    Ok(frame) => sealed.push(frame),
                    Err(error) => {
                        failed = Some((place, error));
                        break;
                    }
                }
            }
        }
        Some(threads) => match seal(&encryptor, &track.frames, threads) {
            Ok(frames) => sealed = frames,
            Err(error) => failed = Some(error),
        },
    }
    if failed.is_some() {
        sealed.clear(); // no frame of a batch that fails may be sent
    }
    let decryptor = Decryptor::new(Arc::clone(&ring), track.codec, Some(1)).unwrap();
    let mut counts = Vec::new();
    for sealed in sealed.iter().filter(|sealed| !sealed.is_empty()) {
        decryptor.decrypt(sealed).unwrap();
        counts.push(count_of(sealed, track.profile));
    }
    if track.codec != Codec::H264 {
        // An IV's counter starts at random. When it wraps, it skips up to 2^24 values with two adjacent zero bytes.
        let ascending = |pair: &[u64]| (pair[1].wrapping_sub(pair[0]) as u32) < 1 << 25 && pair[0] != pair[1];
        assert!(counts.windows(2).all(ascending), "nonces must ascend in the order of the frames");
    }
    Sent {
        failed,
        lens: if track.codec == Codec::H264 {
            Vec::new() // random bytes may need an escape
        } else {
            sealed.iter().map(Vec::len).collect()
        },
        stats: encryptor.stats(),
        usage: ring.frames_sealed(5).ok(),
        next: encryptor.encrypt(&Frame::Whole(9).bytes(track.codec, 0)).map(|_| encryptor.stats().bytes as usize),
    }
}

fn seal(encryptor: &Encryptor, frames: &[Vec<u8>], threads: usize) -> Result<Vec<Vec<u8>>, (usize, EncryptError)> {
    let batch = encryptor.plan_batch(frames.iter().map(Vec::as_slice).collect(), threads)?;
    let mut out = vec![0xaa; batch.max_len()];
    let mut rest = &mut out[..];
    let lens = batch.seal_into(rest, threads)?;
    Ok(lens
        .into_iter()
        .map(|len| {
            let (frame, behind) = std::mem::take(&mut rest).split_at_mut(len);
            rest = behind;
            frame.to_vec()
        })
        .collect())
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let frame = prop_oneof![
        40 => (0..300_u16).prop_map(Frame::Whole),
        1 => (4_000..5_000_u16).prop_map(Frame::Whole),
        4 => Just(Frame::Empty),
        3 => Just(Frame::Held),
    ];
    let foreign = prop_oneof![Just(None), Just(Some(Frame::Foreign)), Just(Some(Frame::Long))];
    (prop::collection::vec(frame, 0..700), foreign, any::<prop::sample::Index>()).prop_map(
        |(mut frames, foreign, at)| {
            if let (Some(foreign), false) = (foreign, frames.is_empty()) {
                let at = at.index(frames.len());
                frames[at] = foreign;
            }
            frames
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_batch_seals_what_single_calls_seal_and_leaves_what_they_leave(
        frames in frames(),
        profile in prop::sample::select(vec!["livekit", "sframe"]),
        codec in prop::sample::select(vec![Codec::Vp8, Codec::H264, Codec::Unknown]),
        usage_limit in prop::sample::select(vec![1 << 32, 150, 64, 1]),
        has_key in prop::sample::select(vec![true, true, true, false]),
    ) {
        let frames = frames.iter().enumerate().map(|(n, frame)| frame.bytes(codec, n)).collect();
        let track = Track { profile, codec, usage_limit, has_key, frames };
        let singly = send(&track, None);
        for threads in THREADS {
            prop_assert_eq!(&send(&track, Some(threads)), &singly, "{} threads", threads);
        }
    }
}
