//! Models of the state that threads share, which `make loom` runs in every order of their steps.
//!
//! A model has three threads unless it says otherwise. Loom explores all orders with a bounded number of preemptions.
//! A control repeats a fault that loom must find: `rust/models/loom.py` fails unless it does.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, AtomicUsize as Inside, Ordering};
use std::time::Instant;

use super::stats::PackedCounter;
use super::{Decryptor, Encryptor};
use crate::codec::Codec;
use crate::data::DataCryptor;
use crate::error::{DecryptError, EncryptError, KeyError};
use crate::fork;
use crate::keyring::{Identity, KeyRing, Nonce, NonceInput, Options, SenderBindings};
use crate::profile::{LIVEKIT, NEXTCLOUD, Profile, SFRAME};
use crate::secret::{Kdf, Secret};
use crate::sync::atomic::AtomicU64;

/// Runs `model` in every order, and prints the number of orders and the seconds.
fn explore(name: &'static str, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // A frame takes some hundred steps.
    builder.max_branches = 20_000;
    builder.checkpoint_interval = 1_000;
    let (orders, start) = (Arc::new(Count::new(0)), Instant::now());
    let counted = Arc::clone(&orders);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let took = start.elapsed();
    let ended = builder.max_duration.is_none_or(|max| took < max);
    let end = if ended { "all" } else { "stopped" };
    println!("model {name}: {} orders, {:.1} s, {end}", orders.load(Ordering::Relaxed), took.as_secs_f64());
}

/// Runs `work` on three threads, with the numbers 0 to 2.
fn three<T: 'static>(work: impl Fn(usize) -> T + 'static) -> [T; 3] {
    let work = Arc::new(work);
    let others = [1, 2].map(|number| {
        let work = Arc::clone(&work);
        loom::thread::spawn(move || work(number))
    });
    let first = work(0);
    let [second, third] = others.map(|thread| thread.join().unwrap());
    [first, second, third]
}

fn secret() -> Secret {
    Secret::new(&[7; 16], Kdf::Random)
}

fn ring_of(profile: &'static Profile, options: Options) -> Arc<KeyRing> {
    let ring = Arc::new(KeyRing::new(profile, options).unwrap());
    ring.set(0, &secret()).unwrap();
    ring
}

fn ring(profile: &'static Profile) -> Arc<KeyRing> {
    ring_of(profile, Options::default())
}

type Used = (Identity, NonceInput);

/// Takes a key and a nonce for one frame.
fn next(ring: &KeyRing) -> Result<Used, EncryptError> {
    ring.next().map(|sealing| (sealing.key.identity, sealing.nonce_input))
}

/// Asserts that no key has one nonce twice, and returns how many nonces there are.
fn distinct(used: impl IntoIterator<Item = Used>) -> usize {
    let mut seen = HashSet::new();
    used.into_iter().for_each(|used| assert!(seen.insert(used), "a nonce was issued twice"));
    seen.len()
}

fn nonces_are_distinct(profile: &'static Profile) {
    let ring = ring(profile);
    let used = three(move |_| [next(&ring).unwrap(), next(&ring).unwrap()]);
    assert_eq!(distinct(used.into_iter().flatten()), 6);
}

#[test]
fn model_nonces_of_random_ivs() {
    explore("nonces of random IVs", || nonces_are_distinct(&LIVEKIT));
}

#[test]
fn model_nonces_of_counted_ivs() {
    explore("nonces of counted IVs", || nonces_are_distinct(&NEXTCLOUD));
}

#[test]
fn model_nonces_of_counters() {
    explore("nonces of counters", || nonces_are_distinct(&SFRAME));
}

#[test]
fn model_a_batch_beside_single_frames() {
    explore("a batch beside single frames", || {
        let ring = ring(&SFRAME);
        let used = three(move |number| {
            if number > 0 {
                return vec![next(&ring).unwrap()];
            }
            let mut inputs = Vec::new();
            let identity = ring.next_batch(2, &mut inputs).unwrap().key.identity;
            inputs.into_iter().map(|input| (identity, input)).collect()
        });
        assert_eq!(distinct(used.into_iter().flatten()), 4);
    });
}

#[test]
fn model_the_last_counters_of_a_key() {
    explore("the last counters of a key", || {
        let ring = Arc::new(KeyRing::new(&SFRAME, Options::default()).unwrap());
        ring.set_from(0, &secret(), Some(u64::MAX - 2)).unwrap();
        let used = three(move |_| [next(&ring).ok(), next(&ring).ok()]);
        assert_eq!(distinct(used.into_iter().flatten().flatten()), 3);
    });
}

#[test]
fn model_one_key_in_two_rings() {
    explore("one key in two rings", || {
        let rings = [ring(&SFRAME), ring(&SFRAME)];
        let used = three(move |number| (number.min(1), next(&rings[number.min(1)]).ok()));
        let sealed = used.into_iter().filter(|(_, used)| used.is_some());
        let rings: HashSet<usize> = sealed.map(|(ring, _)| ring).collect();
        assert_eq!(rings.len(), 1, "one ring seals, and the other is refused");
        distinct(used.into_iter().filter_map(|(_, used)| used));
    });
}

#[test]
fn model_a_second_ring_with_a_counter_to_continue_from() {
    explore("a second ring with a counter to continue from", || {
        let (first, second) = (ring(&SFRAME), Arc::new(KeyRing::new(&SFRAME, Options::default()).unwrap()));
        let used = three(move |number| match number {
            0 => [next(&first).ok(), next(&first).ok()],
            1 => [next(&first).ok(), None],
            _ => match second.set_from(0, &secret(), Some(1)) {
                Ok(()) => [next(&second).ok(), next(&second).ok()],
                Err(error) => {
                    assert!(matches!(error, KeyError::CounterUsed { given: 1, .. }));
                    [None, None]
                }
            },
        });
        // The first ring is refused where the second has sealed before it.
        assert!(distinct(used.into_iter().flatten().flatten()) >= 2);
    });
}

fn a_key_set_again_repeats_nothing(profile: &'static Profile) {
    let ring = ring(profile);
    let used = three(move |number| {
        match number {
            0 => {}
            1 => ring.set(0, &secret()).unwrap(),
            _ => {
                ring.remove(0);
                ring.set(0, &secret()).unwrap();
            }
        }
        next(&ring).ok()
    });
    // The third thread leaves the others without a key for a moment.
    assert!(distinct(used.into_iter().flatten()) >= 1);
}

#[test]
fn model_a_key_set_again_under_random_ivs() {
    explore("a key set again, random IVs", || a_key_set_again_repeats_nothing(&LIVEKIT));
}

#[test]
fn model_a_key_set_again_under_counters() {
    explore("a key set again, counters", || a_key_set_again_repeats_nothing(&SFRAME));
}

#[test]
fn model_the_usage_limit() {
    explore("the usage limit", || {
        let ring = ring_of(&SFRAME, Options { usage_limit: 2, ..Options::default() });
        let shared = Arc::clone(&ring);
        let sealed = three(move |number| {
            if number == 2 {
                shared.set(0, &secret()).unwrap();
            }
            next(&shared)
        });
        assert_eq!(sealed.iter().filter(|used| used.is_ok()).count(), 2);
        assert!(sealed.contains(&Err(EncryptError::KeyExhausted { kid: 0 })));
        assert_eq!(ring.frames_sealed(0), Ok(2));
        distinct(sealed.into_iter().flatten());
    });
}

#[test]
fn model_the_first_frames_under_a_shared_key() {
    explore("the first frames under a shared key", || {
        let ring = ring_of(&SFRAME, Options { shared: true, ..Options::default() });
        let used = three(move |_| next(&ring).unwrap());
        assert!(used.iter().all(|(identity, _)| *identity == used[0].0), "this side draws one KID");
        assert_eq!(distinct(used), 3);
    });
}

#[test]
fn model_a_ring_that_loses_its_key_to_its_fallback() {
    explore("a ring that loses its key to its fallback", || {
        let room = ring_of(&LIVEKIT, Options::default());
        let own = KeyRing::new(&LIVEKIT, Options::default()).unwrap().with_fallback(room).unwrap();
        own.set(0, &Secret::new(&[9; 16], Kdf::Random)).unwrap();
        let used = three(move |number| match number {
            0 => {
                own.remove(0);
                None
            }
            1 => Some(next(&own).unwrap()),
            _ => {
                assert!(own.can_encrypt());
                own.find(0).map(drop).unwrap();
                None
            }
        });
        distinct(used.into_iter().flatten());
    });
}

/// Asserts that one of three results is a frame, and that the others are replays.
fn opened_once<T>(results: [Result<T, DecryptError>; 3]) {
    let opened = results.iter().filter(|result| result.is_ok()).count();
    let replayed = results.iter().filter(|result| matches!(result, Err(DecryptError::Replayed { .. }))).count();
    assert_eq!((opened, replayed), (1, 2), "a frame opens once");
}

fn a_frame_opens_once(profile: &'static Profile) {
    let [sender, receiver] = [(); 2].map(|()| ring(profile));
    let frame = Encryptor::new(sender, Codec::Opus).unwrap().encrypt(b"picture").unwrap();
    let decryptor = Arc::new(Decryptor::new(receiver, Codec::Opus, Some(64)).unwrap());
    let shared = Arc::clone(&decryptor);
    opened_once(three(move |_| shared.decrypt(&frame)));
    let stats = decryptor.stats();
    assert_eq!((stats.frames, stats.bytes, stats.replayed), (1, 7, 2));
}

#[test]
fn model_a_frame_with_an_iv_opens_once() {
    explore("a frame with an IV opens once", || a_frame_opens_once(&LIVEKIT));
}

#[test]
fn model_a_frame_with_a_counter_opens_once() {
    explore("a frame with a counter opens once", || a_frame_opens_once(&SFRAME));
}

#[test]
fn model_a_data_packet_opens_once() {
    explore("a data packet opens once", || {
        let [sender, receiver] = [(); 2].map(|()| ring(&SFRAME));
        let packet = DataCryptor::new(sender, false, None).unwrap().encrypt_packet(b"message", b"").unwrap();
        let cryptor = DataCryptor::new(receiver, false, Some(64)).unwrap();
        opened_once(three(move |_| cryptor.decrypt_packet(&packet, b"")));
    });
}

#[test]
fn model_frames_in_any_order_all_open() {
    explore("frames in any order all open", || {
        let [sender, receiver] = [(); 2].map(|()| ring(&SFRAME));
        let encryptor = Encryptor::new(sender, Codec::Opus).unwrap();
        let frames = [(); 3].map(|()| encryptor.encrypt(b"picture").unwrap());
        let decryptor = Decryptor::new(receiver, Codec::Opus, Some(64)).unwrap();
        assert!(three(move |number| decryptor.decrypt(&frames[number])).iter().all(Result::is_ok));
    });
}

/// Returns a receiver's ring at step 0, and a frame of each of these steps.
fn frames_of_steps<const N: usize>(profile: &'static Profile, steps: [u64; N]) -> (Arc<KeyRing>, [Vec<u8>; N]) {
    let ratchet_bits = if profile.name == SFRAME.name { 4 } else { 0 };
    let options = Options { ratchet_window: 2, ratchet_bits, ..Options::default() };
    let [sender, receiver] = [(); 2].map(|()| ring_of(profile, options));
    let encryptor = Encryptor::new(Arc::clone(&sender), Codec::Opus).unwrap();
    let mut at = 0;
    let frames = steps.map(|step| {
        (at..step).for_each(|_| assert!(sender.ratchet(sender.sending_key_id()).is_ok()));
        at = step;
        encryptor.encrypt(b"picture").unwrap()
    });
    (receiver, frames)
}

/// Opens each frame on a track of its own, all tracks at once. Returns the results and the number of ratchet steps.
fn opened_on_tracks(ring: &Arc<KeyRing>, frames: [Vec<u8>; 3]) -> ([bool; 3], u64) {
    let tracks = [(); 3].map(|()| Decryptor::new(Arc::clone(ring), Codec::Opus, Some(0)).unwrap());
    let results = three(move |number| {
        let opened = tracks[number].decrypt(&frames[number]).is_ok();
        (opened, tracks[number].stats().ratchets)
    });
    (results.map(|(opened, _)| opened), results.iter().map(|(_, ratchets)| ratchets).sum())
}

#[test]
fn model_tracks_that_follow_one_ratchet() {
    explore("tracks that follow one ratchet", || {
        let (ring, frames) = frames_of_steps(&LIVEKIT, [1, 1, 1]);
        assert_eq!(opened_on_tracks(&ring, frames), ([true; 3], 1), "an authentic frame was refused");
    });
}

#[test]
fn model_tracks_at_two_steps_of_a_ratchet() {
    explore("tracks at two steps of a ratchet", || {
        let (ring, frames) = frames_of_steps(&LIVEKIT, [1, 2, 2]);
        // A frame of the first step may come late: the ring keeps no step before the last in this layout.
        let ([_, second, third], steps) = opened_on_tracks(&ring, frames);
        assert_eq!((second, third, steps), (true, true, 2), "an authentic frame was refused");
    });
}

#[test]
fn model_tracks_that_follow_one_ratchet_of_sframe() {
    explore("tracks that follow one ratchet of SFrame", || {
        let (ring, frames) = frames_of_steps(&SFRAME, [0, 1, 1]);
        assert_eq!(opened_on_tracks(&ring, frames), ([true; 3], 1), "an authentic frame was refused");
        assert_eq!(ring.key_ids(), [0, 1]);
    });
}

#[test]
fn model_tracks_at_two_steps_of_a_ratchet_of_sframe() {
    explore("tracks at two steps of a ratchet of SFrame", || {
        let (ring, frames) = frames_of_steps(&SFRAME, [1, 2, 2]);
        let ([first, second, third], steps) = opened_on_tracks(&ring, frames);
        assert_eq!((second, third, steps), (true, true, 2), "an authentic frame was refused");
        // One step before the last stays for late frames. It is the first step if its frame was followed in time.
        assert!(ring.key_ids() == [0, 2] || first && ring.key_ids() == [1, 2], "{:?}", ring.key_ids());
    });
}

#[test]
fn model_a_ratchet_taken_and_followed_at_once() {
    explore("a ratchet taken and followed at once", || {
        let (ring, [late, frame]) = frames_of_steps(&SFRAME, [0, 1]);
        let [track, other] = [(); 2].map(|()| Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(0)).unwrap());
        let shared = Arc::clone(&ring);
        let done = three(move |number| match number {
            0 => shared.ratchet(0) == Ok(1),
            1 => track.decrypt(&frame).is_ok(),
            _ => other.decrypt(&late).is_ok(),
        });
        assert_eq!((done, ring.key_ids()), ([true; 3], vec![0, 1]), "an authentic frame was refused");
    });
}

#[test]
fn model_one_key_on_the_tracks_of_two_participants() {
    explore("one key on the tracks of two participants", || {
        let options = Options { shared: true, ..Options::default() };
        let [sender, receiver] = [(); 2].map(|()| ring_of(&SFRAME, options));
        let encryptor = Encryptor::new(sender, Codec::Opus).unwrap();
        let frames = [(); 3].map(|()| encryptor.encrypt(b"picture").unwrap());
        let bindings = Arc::new(SenderBindings::default());
        let tracks = ["alice", "bob"].map(|participant| {
            let track = Decryptor::new(Arc::clone(&receiver), Codec::Opus, None).unwrap();
            track.with_sender(Arc::clone(&bindings), participant).unwrap()
        });
        let [alice, bob, also_bob] = three(move |number| tracks[number.min(1)].decrypt(&frames[number]).map(drop));
        assert_eq!(bob.is_ok(), also_bob.is_ok());
        assert_ne!(alice.is_ok(), bob.is_ok(), "a key belongs to one participant");
    });
}

#[test]
fn model_packed_counters() {
    explore("packed counters", || {
        let counter = Arc::new(PackedCounter::default());
        // One addition below the highest bit, at which a thread flushes.
        (0..127).for_each(|_| counter.add(65_535, 1));
        counter.add(127, 1);
        let shared = Arc::clone(&counter);
        three(move |number| {
            shared.add(1, number);
            shared.add(1, 7);
        });
        assert_eq!(counter.get(), (127 * 65_535 + 127 + 6, 128 + 3 + 21));
    });
}

#[test]
fn model_a_fork_beside_a_thread_inside() {
    // A third thread that polls the gate would multiply the orders.
    explore("a fork beside a thread inside (two threads)", || {
        let (inside, forks) = (Arc::new(Inside::new(0)), Arc::new(Inside::new(0)));
        let (is_inside, is_forking) = (Arc::clone(&inside), Arc::clone(&forks));
        let other = loom::thread::spawn(move || {
            let outer = fork::enter();
            is_inside.fetch_add(1, Ordering::SeqCst);
            drop(fork::enter());
            loom::thread::yield_now();
            assert_eq!(is_forking.load(Ordering::SeqCst), 0, "a thread entered during a fork");
            is_inside.fetch_sub(1, Ordering::SeqCst);
            drop(outer);
        });
        fork::before();
        forks.fetch_add(1, Ordering::SeqCst);
        assert_eq!(inside.load(Ordering::SeqCst), 0, "a fork copied a thread that was inside");
        loom::thread::yield_now(); // the other thread runs while the fork lasts
        forks.fetch_sub(1, Ordering::SeqCst);
        fork::in_parent();
        other.join().unwrap();
    });
}

#[test]
fn model_sif_frames_in_a_row() {
    explore("SIF frames in a row", || {
        let (ring, trailer) = (ring(&LIVEKIT), b"a trailer of a server");
        let track = Decryptor::new(ring, Codec::Opus, None).unwrap().with_sif_trailer(trailer).unwrap();
        let blank = [LIVEKIT.blank(Codec::Opus).unwrap().known(), &trailer[..]].concat();
        (0..98).for_each(|_| assert!(track.sif_payload(&blank).unwrap().is_some()));
        let passed = three(move |_| track.sif_payload(&blank).is_ok());
        assert_eq!(passed.iter().filter(|passed| **passed).count(), 2, "at most 100 pass in a row");
    });
}

// Controls: faults that loom must find.

#[test]
#[ignore = "a planted fault: `make loom` runs it and expects the failure"]
fn control_a_nonce_source_without_an_atomic_step() {
    explore("control", || {
        let (ring, counter) = (ring(&SFRAME), Arc::new(AtomicU64::new(0)));
        let used = three(move |_| {
            let counter = &counter;
            let issued = counter.load(Ordering::Relaxed);
            counter.store(issued + 1, Ordering::Relaxed);
            (ring.next().unwrap().key.identity, NonceInput::Ctr(issued))
        });
        distinct(used);
    });
}

#[test]
#[ignore = "a planted fault: `make loom` runs it and expects the failure"]
fn control_a_frame_that_is_opened_with_one_look_up() {
    explore("control", || {
        let (ring, frames) = frames_of_steps(&LIVEKIT, [1, 1, 1]);
        let tracks = [(); 3].map(|()| Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(0)).unwrap());
        let opened = three(move |number| {
            let plan = tracks[number].plan(&frames[number], &[]).unwrap().unwrap();
            let candidate = ring.find(0).unwrap();
            let opens = |key: &_| plan.opens(key, &mut [0; 7]);
            ring.open_candidate(0, &candidate, None, |_| false, opens).opened.is_ok()
        });
        assert_eq!(opened, [true; 3], "an authentic frame was refused");
    });
}

#[test]
#[ignore = "a planted fault: `make loom` runs it and expects the failure"]
fn control_a_replay_check_without_a_mark() {
    explore("control", || {
        let nonce_input = NonceInput::Iv(Nonce::from([1; 12]));
        let window = crate::sync::Mutex::new(super::ReplayWindow::new(64));
        let identity = Identity::of(&[b"a key"]);
        let fresh = three(move |_| {
            let is_fresh = !window.lock().unwrap().contains(identity, nonce_input);
            window.lock().unwrap().mark(identity, nonce_input);
            is_fresh
        });
        assert_eq!(fresh.iter().filter(|fresh| **fresh).count(), 1, "a frame opens once");
    });
}
