//! A batch has the results of single calls on any number of threads: bytes, order, failures, counters.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;

use frameseal::{Codec, DecryptError, Decryptor, EncryptError, Encryptor, KeyRing, MlsKid, Options, Profile, Secret};
use proptest::prelude::*;

const THREADS: [usize; 4] = [0, 1, 2, 7];

fn ring(profile: &str, key: u8) -> Arc<KeyRing> {
    let shared = profile == "sframe";
    let ring = KeyRing::new(Profile::by_name(profile).unwrap(), Options { shared, ..Options::default() }).unwrap();
    ring.set(0, &Secret::key(&[key; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

fn slices(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

fn seal(encryptor: &Encryptor, frames: &[Vec<u8>], threads: usize) -> Vec<Vec<u8>> {
    let batch = encryptor.plan_batch(slices(frames), threads).unwrap();
    let mut out = vec![0xaa; batch.max_len()];
    let lens = batch.seal_into(&mut out, threads).unwrap();
    parted(&out, lens.into_iter())
}

fn open(decryptor: &Decryptor, sealed: &[Vec<u8>], threads: usize) -> (Vec<Vec<u8>>, Vec<Option<DecryptError>>) {
    let batch = decryptor.plan_batch(slices(sealed));
    let mut out = vec![0xaa; batch.max_len()];
    let results = batch.open_into(&mut out, threads).results();
    let len: usize = results.iter().map(|result| result.unwrap_or(0)).sum();
    assert!(out[len..].iter().all(|&byte| byte == 0), "the rest of the output must be zero");
    let frames = parted(&out, results.iter().map(|result| result.unwrap_or(0)));
    (frames, results.into_iter().map(Result::err).collect())
}

#[test]
fn a_batch_of_byte_streams_fails_at_the_first_frame_beyond_the_usage_limit() {
    for threads in THREADS {
        let options = Options { usage_limit: 3, ..Options::default() };
        let ring = KeyRing::new(Profile::by_name("livekit").unwrap(), options).unwrap();
        ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
        let encryptor = Encryptor::new(Arc::new(ring), Codec::H264).unwrap();
        let frame = [&b"\x00\x00\x00\x01\x65\x88"[..], &[9; 40]].concat();
        let refused = encryptor.plan_batch(vec![&frame; 5], threads).err();
        assert_eq!(refused, Some((3, EncryptError::KeyExhausted { kid: 0 })), "{threads} threads");
    }
}

#[test]
fn frames_whose_clear_header_needs_two_bytes_are_counted_in_the_trailer_layout() {
    for (profile, count) in [("livekit", 1), ("stream", 0)] {
        let ring = KeyRing::new(Profile::by_name(profile).unwrap(), Options::default()).unwrap();
        ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
        let encryptor = Encryptor::new(Arc::new(ring), Codec::H264).unwrap();
        // The slice is sealed from two bytes behind its header byte on.
        for (len, long) in [(241, 0), (245, count)] {
            let parameters = [&b"\x00\x00\x00\x01\x67"[..], &vec![9; len]].concat();
            let frame = [&parameters[..], b"\x00\x00\x00\x01\x65\x88", &[9; 40]].concat();
            encryptor.encrypt(&frame).unwrap();
            assert_eq!(encryptor.stats().long_headers, long, "{profile}, {len} bytes");
        }
    }
}

fn parted(bytes: &[u8], lens: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    let mut from = 0;
    lens.map(|len| {
        from += len;
        bytes[from - len..from].to_vec()
    })
    .collect()
}

fn numbered(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|n| [&[0x78], &n.to_be_bytes()[..], &vec![9; n as usize % 700]].concat()).collect()
}

#[test]
fn frames_stay_in_order_where_chunks_overtake_each_other() {
    for profile in ["livekit", "sframe"] {
        for threads in THREADS {
            let frames = numbered(9_000);
            let sealed = seal(&Encryptor::new(ring(profile, 1), Codec::Opus).unwrap(), &frames, threads);
            // The window is far smaller than the batch: a frame committed out of turn would be too old.
            let decryptor = Decryptor::new(ring(profile, 1), Codec::Opus, Some(64)).unwrap();
            let (opened, errors) = open(&decryptor, &sealed, threads);
            assert!(opened == frames && errors.iter().all(Option::is_none), "{profile}, {threads} threads");
            assert_eq!(decryptor.stats().frames, 9_000);
            assert_eq!(decryptor.stats().bytes, frames.iter().map(Vec::len).sum::<usize>() as u64);
            let (_, again) = open(&decryptor, &sealed[8_990..], threads);
            assert!(again.iter().all(|error| matches!(error, Some(DecryptError::Replayed { .. }))));
        }
    }
}

#[test]
fn the_first_frame_that_cannot_be_sealed_is_named_and_nothing_is_left_in_the_output() {
    for threads in THREADS {
        let mut frames = vec![vec![1, 2, 3, 4]; 5_000];
        frames[4_321] = vec![1]; // too short for VP8
        frames[4_900] = vec![1];
        let encryptor = Encryptor::new(ring("livekit", 1), Codec::Vp8).unwrap();
        let batch = encryptor.plan_batch(slices(&frames), threads).unwrap();
        let mut out = vec![0xaa; batch.max_len()];
        assert_eq!(batch.seal_into(&mut out, threads), Err((4_321, EncryptError::Malformed)));
        assert!(out.iter().all(|&byte| byte == 0));
        assert_eq!(encryptor.stats().malformed, 1);
    }
}

#[test]
fn no_nonce_comes_twice_from_batches_and_single_calls_at_once() {
    let encryptor = Encryptor::new(ring("livekit", 1), Codec::Opus).unwrap();
    let frames = vec![b"\x78 frame".to_vec(); 3_000];
    let sealed: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let batches: Vec<_> = (0..3).map(|_| scope.spawn(|| seal(&encryptor, &frames, 3))).collect();
        let singly: Vec<_> = frames.iter().map(|frame| encryptor.encrypt(frame).unwrap()).collect();
        batches.into_iter().flat_map(|batch| batch.join().unwrap()).chain(singly).collect()
    });
    let ivs: HashSet<&[u8]> = sealed.iter().map(|frame| &frame[frame.len() - 14..frame.len() - 2]).collect();
    assert_eq!(ivs.len(), 12_000);
}

#[test]
fn a_short_buffer_is_refused_before_a_nonce_is_drawn() {
    let (ring, frames) = (ring("livekit", 1), numbered(10));
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let batch = encryptor.plan_batch(slices(&frames), 1).unwrap();
    let mut out = vec![0; batch.max_len() - 1];
    assert!(batch.seal_into(&mut out, 1).is_err());
    assert_eq!(ring.frames_sealed(0).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_in_is_counted_and_refused_as_one_by_one(
        frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0..5_u8), 0..400),
        profile in prop::sample::select(vec!["livekit", "sframe"]),
        threads in prop::sample::select(THREADS.to_vec()),
    ) {
        let plain: Vec<_> = frames.iter().map(|(frame, _)| frame.clone()).collect();
        let mut sealed = seal(&Encryptor::new(ring(profile, 1), Codec::Opus).unwrap(), &plain, threads);
        for (at, (_, fate)) in frames.iter().enumerate() {
            let len = sealed[at].len();
            match fate {
                1 if len > 0 => sealed[at][len - 20.min(len)] ^= 1, // in the tag, or before it
                2 => sealed[at].truncate(len / 3),
                3 if at > 0 => sealed[at] = sealed[at - 1].clone(),
                // In SFrame a counter before the window, in the trailer layout an IV that has left it.
                4 if at > 200 => sealed[at] = sealed[at - 200].clone(),
                _ => {}
            }
        }
        let singly = Decryptor::new(ring(profile, 1), Codec::Opus, Some(128)).unwrap();
        let one_by_one: Vec<_> = sealed.iter().map(|frame| singly.decrypt(frame)).collect();
        let decryptor = Decryptor::new(ring(profile, 1), Codec::Opus, Some(128)).unwrap();
        let (opened, errors) = open(&decryptor, &sealed, threads);
        prop_assert_eq!(decryptor.stats(), singly.stats());
        prop_assert_eq!(decryptor.consecutive_failures(), singly.consecutive_failures());
        for ((single, frame), error) in one_by_one.into_iter().zip(opened).zip(errors) {
            prop_assert_eq!(single.as_ref().err().copied(), error);
            prop_assert_eq!(single.unwrap_or_default(), frame);
        }
    }
}

#[test]
fn where_a_key_is_used_up_the_batch_names_the_frame_and_nothing_of_it_is_written() {
    for threads in THREADS {
        let profile = Profile::by_name("livekit").unwrap();
        let worn = KeyRing::new(profile, Options { usage_limit: 1_000, ..Options::default() }).unwrap();
        worn.set(0, &Secret::key(&[1; 32]).unwrap()).unwrap();
        let encryptor = Encryptor::new(Arc::new(worn), Codec::Opus).unwrap();
        // Every third frame is empty and uses no nonce.
        let frames: Vec<Vec<u8>> = (0..3_000).map(|n| if n % 3 == 0 { vec![] } else { vec![7; 40] }).collect();
        let batch = encryptor.plan_batch(slices(&frames), threads).unwrap();
        let mut out = vec![0xaa; batch.max_len()];
        assert_eq!(batch.seal_into(&mut out, threads), Err((1_501, EncryptError::KeyExhausted { kid: 0 })));
        assert!(out.iter().all(|&byte| byte == 0));
        assert_eq!(encryptor.stats().key_exhausted, 1);
    }
}

#[test]
fn empty_frames_need_no_key_where_the_layout_has_no_place_for_them() {
    for threads in THREADS {
        let keyless = KeyRing::new(Profile::by_name("livekit").unwrap(), Options::default()).unwrap();
        let encryptor = Encryptor::new(Arc::new(keyless), Codec::Opus).unwrap();
        assert_eq!(seal(&encryptor, &vec![vec![]; 200], threads), vec![vec![0_u8; 0]; 200]);
        assert_eq!((encryptor.stats().empty, encryptor.stats().unknown_key), (200, 0));
        let frames = [vec![vec![]; 70], vec![b"x".to_vec()]].concat();
        let batch = encryptor.plan_batch(slices(&frames), threads).unwrap();
        let refused = batch.seal_into(&mut vec![0; batch.max_len()], threads);
        assert!(matches!(refused, Err((70, EncryptError::UnknownKey { .. }))), "{refused:?}");
    }
}

#[test]
fn empty_frames_of_an_sframe_batch_are_sealed_and_empty_sealed_ones_are_malformed() {
    for (threads, codec) in THREADS.into_iter().flat_map(|threads| [(threads, Codec::Opus), (threads, Codec::H264)]) {
        let encryptor = Encryptor::new(ring("sframe", 1), codec).unwrap();
        let decryptor = Decryptor::new(ring("sframe", 1), codec, None).unwrap();
        let frames: Vec<Vec<u8>> = (0..300).map(|n| if n % 3 == 0 { vec![] } else { vec![7; 40] }).collect();
        let mut sealed = seal(&encryptor, &frames, threads);
        assert!(sealed.iter().all(|frame| frame.len() > 16));
        assert_eq!((encryptor.stats().frames, encryptor.stats().empty), (300, 0));
        sealed[7].clear();
        let (opened, errors) = open(&decryptor, &sealed, threads);
        for (at, error) in errors.into_iter().enumerate() {
            assert_eq!(error, (at == 7).then_some(DecryptError::Malformed));
            assert_eq!(opened[at], if at == 7 { &[][..] } else { &frames[at] });
        }
        assert_eq!((decryptor.stats().frames, decryptor.stats().malformed, decryptor.stats().empty), (299, 1, 0));
        let keyless = KeyRing::new(Profile::by_name("sframe").unwrap(), Options::default()).unwrap();
        let encryptor = Encryptor::new(Arc::new(keyless), codec).unwrap();
        let empty = vec![vec![]; 5];
        let refused = encryptor.plan_batch(slices(&empty), threads).and_then(|batch| {
            let mut out = vec![0; batch.max_len()];
            batch.seal_into(&mut out, threads)
        });
        assert!(matches!(refused, Err((0, EncryptError::UnknownKey { .. }))), "{refused:?}");
    }
}

#[test]
fn frames_of_two_keys_that_share_a_kid_open_in_a_batch() {
    let sframe = || KeyRing::new(Profile::by_name("sframe").unwrap(), Options::default()).unwrap();
    let epoch = |ring: &KeyRing, sender_index| {
        let kid = MlsKid { epoch: 1, epoch_bits: 4, sender_index, sender_bits: 1, context: 0 };
        ring.set_epoch(&Secret::key(b"batch.rs secret of an epoch").unwrap(), &kid, 0).unwrap()
    };
    let (member, other, receiver) = (sframe(), sframe(), sframe());
    let kid = epoch(&member, 1);
    epoch(&receiver, 0);
    for ring in [&other, &receiver] {
        ring.set(kid, &Secret::key(b"batch.rs key with a KID of the epoch").unwrap()).unwrap();
    }
    let senders = [member, other].map(|ring| Encryptor::new(Arc::new(ring), Codec::Opus).unwrap());
    let frames = numbered(300);
    let sealed: Vec<_> =
        frames.iter().zip(senders.iter().cycle()).map(|(frame, by)| by.encrypt(frame).unwrap()).collect();
    let receiver = Arc::new(receiver);
    for threads in THREADS {
        let decryptor = Decryptor::new(Arc::clone(&receiver), Codec::Opus, None).unwrap();
        assert_eq!(open(&decryptor, &sealed, threads), (frames.clone(), vec![None; frames.len()]), "{threads} threads");
    }
}
