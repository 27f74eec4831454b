//! Tests that mistakes of the calling program are `ApiMisuse`, which is not counted and changes nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use frameseal::profile::{LIVEKIT, SFRAME};
use frameseal::{
    ApiMisuse, Codec, DecryptError, DecryptStats, Decryptor, EncryptError, EncryptStats, Encryptor, KeyError, KeyRing,
    Options, Profile, Secret,
};
use std::sync::Arc;

fn ring(profile: &'static Profile) -> Arc<KeyRing> {
    ring_of(profile, None, 7)
}

fn ring_of(profile: &'static Profile, suite: Option<u16>, key: u8) -> Arc<KeyRing> {
    let ring = KeyRing::new(profile, Options { suite, ..Options::default() }).unwrap();
    ring.set(0, &Secret::key(&[key; 16]).unwrap()).unwrap();
    Arc::new(ring)
}

#[test]
fn a_buffer_of_another_length_than_the_plan_reports_is_misuse() {
    // Each ring has its own key, because no two rings of a process may seal with one SFrame key.
    let cases = [(&LIVEKIT, None, 40), (&LIVEKIT, None, 10_000), (&SFRAME, None, 40), (&SFRAME, Some(1), 10_000)];
    for (key, (profile, suite, len)) in (100..).zip(cases) {
        let ring = ring_of(profile, suite, key);
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Vp8).unwrap();
        let frame = vec![1; len];
        let plan = encryptor.plan(&frame, &[]).unwrap().unwrap();
        for wrong in [0, plan.sealed_len() - 1, plan.sealed_len() + 1] {
            let refused = plan.seal_into(&mut vec![0; wrong]);
            assert_eq!(refused, Err(EncryptError::Misuse(ApiMisuse::BufferLength)));
        }
        assert_eq!(plan.escape_into(&frame, &mut [0; 3]), Err(EncryptError::Misuse(ApiMisuse::BufferLength)));
        assert_eq!(
            EncryptStats { key_frames: 0, key_limit: 0, key_warning: 0, ..encryptor.stats() },
            EncryptStats::default()
        );

        let sealed = encryptor.encrypt(&frame).unwrap();
        let decryptor = Decryptor::new(ring, Codec::Vp8, None).unwrap();
        let plan = decryptor.plan(&sealed, &[]).unwrap().unwrap();
        for wrong in [0, len - 1, len + 1] {
            let refused = plan.open_into(&mut vec![0; wrong]);
            assert_eq!(refused, Err(DecryptError::Misuse(ApiMisuse::BufferLength)));
        }
        assert_eq!(decryptor.stats(), DecryptStats::default());
        plan.open_into(&mut vec![0; len]).unwrap();
    }
}

#[test]
fn a_batch_with_a_short_buffer_is_misuse() {
    let ring = ring(&LIVEKIT);
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let batch = encryptor.plan_batch(vec![b"one", b"two"], 1).unwrap();
    let refused = batch.seal_into(&mut vec![0; batch.max_len() - 1], 1);
    assert_eq!(refused, Err((0, EncryptError::Misuse(ApiMisuse::BufferLength))));

    let sealed = encryptor.encrypt(b"one").unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let opened = decryptor.plan_batch(vec![&sealed, &sealed]).open_into(&mut [0; 3], 1).results();
    assert_eq!(opened, [Ok(3), Err(DecryptError::Misuse(ApiMisuse::BufferLength))]);
}

#[test]
fn a_batch_on_threads_with_a_short_buffer_is_misuse_from_the_frame_that_does_not_fit() {
    let ring = ring(&LIVEKIT);
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let sealed: Vec<_> = (0..300).map(|_| encryptor.encrypt(b"one").unwrap()).collect();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let batch = decryptor.plan_batch(sealed.iter().map(Vec::as_slice).collect());
    let opened = batch.open_into(&mut vec![0; 299 * 3], 3).results();
    assert!(opened.iter().take(299).all(|result| *result == Ok(3)));
    assert_eq!(opened.last(), Some(&Err(DecryptError::Misuse(ApiMisuse::BufferLength))));
}

#[test]
fn an_empty_frame_behind_one_that_does_not_fit_stays_empty() {
    let ring = ring(&LIVEKIT);
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let sealed = encryptor.encrypt(b"one").unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let frames = [vec![&sealed[..]; 100], vec![&[]; 100]].concat();
    for threads in [1, 2] {
        let mut out = [7; 200];
        let opened = decryptor.plan_batch(frames.clone()).open_into(&mut out, threads).results();
        let misuse = Err(DecryptError::Misuse(ApiMisuse::BufferLength));
        assert!(opened.iter().take(66).all(|result| *result == Ok(3)), "{threads} threads");
        assert!(opened.iter().skip(66).take(34).all(|result| *result == misuse), "{threads} threads");
        assert!(opened.iter().skip(100).all(|result| *result == Ok(0)), "{threads} threads");
        assert_eq!(out[195..], [b"one".as_slice(), &[0, 0]].concat(), "{threads} threads");
    }
}

#[test]
fn escapes_without_the_clear_bytes_are_misuse() {
    let encryptor = Encryptor::new(ring(&LIVEKIT), Codec::H264).unwrap();
    let frame = [&b"\x00\x00\x00\x01\x65\x88"[..], &[9; 40]].concat();
    let plan = encryptor.plan(&frame, &[]).unwrap().unwrap();
    for (sealed, len) in [(&frame[..3], 90), (&frame[..], 3)] {
        let refused = plan.escape_into(sealed, &mut vec![0; len]);
        assert_eq!(refused, Err(EncryptError::Misuse(ApiMisuse::BufferLength)));
    }
}

#[test]
fn metadata_in_a_profile_that_authenticates_none_is_misuse() {
    let ring = ring(&LIVEKIT);
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let refused = encryptor.plan(b"frame", b"metadata").map(|_| ());
    assert_eq!(refused, Err(EncryptError::Misuse(ApiMisuse::Metadata)));
    let sealed = encryptor.encrypt(b"frame").unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let refused = decryptor.plan(&sealed, b"metadata").map(|_| ());
    assert_eq!(refused, Err(DecryptError::Misuse(ApiMisuse::Metadata)));
    assert_eq!((encryptor.stats().malformed, decryptor.stats().malformed), (0, 0));
}

#[test]
fn a_ring_that_was_not_made_to_return_keys_names_the_call() {
    let refused = ring(&LIVEKIT).export(None).map(|_| ());
    assert_eq!(refused, Err(KeyError::Misuse(ApiMisuse::ExportNotAllowed)));
}
