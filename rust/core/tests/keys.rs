//! Tests the life of a key in the core: the search ahead, counting and comparing, and the frames that pass without a
//! key.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::profile::{JITSI, LIVEKIT, SFRAME, VIDEOSDK};
use frameseal::{
    ApiMisuse, Codec, ConfigError, DecryptError, Decryptor, EncryptError, EncryptStats, Encryptor, KeyError, KeyRing,
    MlsKid, Options, Profile, Secret,
};

const PASSPHRASE: &[u8] = b"my-shared-secret";

fn ring_of(profile: &'static Profile, secret: &Secret, options: Options) -> Arc<KeyRing> {
    let ring = KeyRing::new(profile, options).unwrap();
    ring.set(0, secret).unwrap();
    Arc::new(ring)
}

fn ring(secret: &Secret, ratchet_window: u16) -> Arc<KeyRing> {
    ring_of(&LIVEKIT, secret, Options { ratchet_window, ..Options::default() })
}

fn passphrase() -> Secret {
    Secret::passphrase(PASSPHRASE).unwrap()
}

fn raw() -> Secret {
    Secret::key(&[7; 32]).unwrap()
}

fn seal_after(steps: usize, secret: &Secret) -> Vec<u8> {
    let ring = ring(secret, 0);
    (0..steps).for_each(|_| assert_eq!(ring.ratchet(0), Ok(0)));
    Encryptor::new(ring, Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap()
}

#[test]
fn a_step_of_a_passphrase_is_never_derived_where_a_frame_is_opened() {
    let ring = ring(&passphrase(), 2);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    let ahead = seal_after(2, &passphrase());
    assert_eq!(ring.pending_ratchets(), []);

    assert_eq!(decryptor.decrypt(&ahead), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    assert_eq!(ring.pending_ratchets(), [0]);
    assert!(ring.derive_ratchet_step(0).unwrap());
    assert_eq!(decryptor.decrypt(&ahead), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    assert!(!ring.derive_ratchet_step(0).unwrap());

    assert_eq!(ring.pending_ratchets(), []);
    assert_eq!(decryptor.decrypt(&ahead).unwrap(), b"\x78frame");
    assert_eq!(decryptor.stats().ratchets, 2);
}

#[test]
fn forged_frames_ask_for_the_window_once_and_never_again() {
    let ring = ring(&passphrase(), 2);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    let mut forged = seal_after(0, &passphrase());
    forged[2] ^= 1;
    let mut derived = 0;
    for _ in 0..1000 {
        decryptor.decrypt(&forged).unwrap_err();
        for key_id in ring.pending_ratchets() {
            ring.derive_ratchet_step(key_id).unwrap();
            derived += 1;
        }
    }
    assert_eq!(derived, 2);
    assert_eq!(decryptor.decrypt(&seal_after(0, &passphrase())).unwrap(), b"\x78frame");
    assert_eq!(decryptor.stats().ratchets, 0);
}

#[test]
fn steps_can_be_ready_before_a_sender_takes_them_and_go_with_their_key() {
    let ring = ring(&passphrase(), 1);
    assert!(!ring.derive_ratchet_step(0).unwrap());
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    assert!(decryptor.decrypt(&seal_after(1, &passphrase())).is_ok());

    ring.set(0, &Secret::passphrase(b"another").unwrap()).unwrap();
    assert!(decryptor.decrypt(&seal_after(2, &passphrase())).is_err());
    assert_eq!(ring.pending_ratchets(), [0]);
    assert_eq!(ring.derive_ratchet_step(1), Err(KeyError::NoSuchKey { key_id: 1 }));
}

#[test]
fn a_step_that_is_ready_stays_ready_when_the_step_before_it_is_taken() {
    let ring = ring(&passphrase(), 2);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    assert_eq!([(); 2].map(|()| ring.derive_ratchet_step(0)), [Ok(true), Ok(false)]);
    assert_eq!(decryptor.decrypt(&seal_after(1, &passphrase())).unwrap(), b"\x78frame");
    assert_eq!(decryptor.decrypt(&seal_after(2, &passphrase())).unwrap(), b"\x78frame");
    assert_eq!(ring.pending_ratchets(), []);
}

#[test]
fn without_a_window_nothing_is_searched_and_nothing_derived() {
    let ring = ring(&passphrase(), 0);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    assert!(decryptor.decrypt(&seal_after(1, &passphrase())).is_err());
    assert_eq!(ring.pending_ratchets(), []);
    assert!(!ring.derive_ratchet_step(0).unwrap());
}

#[test]
fn a_raw_key_is_followed_at_once_and_a_step_beyond_the_window_is_not() {
    for (window, steps) in [(1, 1), (8, 8), (16, 16), (8, 9)] {
        let ring = ring(&raw(), window);
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
        let opened = decryptor.decrypt(&seal_after(steps, &raw()));
        assert_eq!(opened.is_ok(), steps <= usize::from(window), "{window} {steps}");
        assert_eq!(decryptor.decrypt(&seal_after(0, &raw())).is_ok(), opened.is_err(), "{window} {steps}");
        assert_eq!(ring.pending_ratchets(), []);
    }
}

#[test]
fn a_ring_names_the_key_that_last_followed_a_ratchet() {
    let (sender, receiver) = (ring(&raw(), 0), ring(&raw(), 4));
    for ring in [&sender, &receiver] {
        ring.set(3, &Secret::key(&[9; 32]).unwrap()).unwrap();
    }
    let encryptor = Encryptor::new(Arc::clone(&sender), Codec::Opus).unwrap();
    let decryptor = Decryptor::new(Arc::clone(&receiver), Codec::Opus, None).unwrap();
    let mut named = None;
    for key_id in [3, 0, 3] {
        sender.set_sending_key_id(key_id).unwrap();
        decryptor.decrypt(&encryptor.encrypt(b"\x78frame").unwrap()).unwrap();
        assert_eq!(receiver.ratcheted_key_id(), named, "no ratchet was followed");
        sender.ratchet(key_id).unwrap();
        decryptor.decrypt(&encryptor.encrypt(b"\x78frame").unwrap()).unwrap();
        named = Some(key_id);
        assert_eq!(receiver.ratcheted_key_id(), named);
    }
}

#[test]
fn frames_are_counted_per_key_and_the_limit_is_the_end() {
    let ring = ring_of(&LIVEKIT, &raw(), Options { usage_limit: 8, ..Options::default() });
    let encryptors = [Codec::Opus, Codec::Vp9].map(|codec| Encryptor::new(Arc::clone(&ring), codec).unwrap());
    assert_eq!((ring.frames_sealed(0), ring.usage_limit(), ring.usage_warning()), (Ok(0), 8, 6));
    for n in 0..8 {
        assert!(encryptors[n % 2].encrypt(b"\x78frame").is_ok());
    }
    assert_eq!(ring.frames_sealed(0), Ok(8));
    assert_eq!(encryptors[0].encrypt(b"\x78frame"), Err(EncryptError::KeyExhausted { kid: 0 }));

    ring.set(0, &raw()).unwrap();
    assert_eq!(encryptors[0].encrypt(b"\x78frame"), Err(EncryptError::KeyExhausted { kid: 0 }), "the same key again");
    ring.set(0, &Secret::key(&[8; 32]).unwrap()).unwrap();
    assert!(encryptors[0].encrypt(b"\x78frame").is_ok());
    assert_eq!((ring.frames_sealed(0), ring.frames_sealed(1)), (Ok(1), Err(KeyError::NoSuchKey { key_id: 1 })));
}

#[test]
fn a_limit_is_one_that_nonces_allow_and_the_warning_comes_before_it() {
    let with = |usage_limit| KeyRing::new(&LIVEKIT, Options { usage_limit, ..Options::default() });
    for given in [0, (1 << 32) + 1] {
        assert_eq!(with(given).err(), Some(ConfigError::UsageLimit { given, max: 1 << 32 }));
    }
    let ring = with(Options::default().usage_limit).unwrap();
    assert_eq!((ring.usage_limit(), ring.usage_warning()), (1 << 32, 23_726_566));
}

#[test]
fn fingerprints_are_equal_where_keys_are_and_nowhere_else() {
    let of = |profile, secret: &Secret, key_size| {
        let ring = ring_of(profile, secret, Options { key_size, ..Options::default() });
        ring.fingerprint(None).unwrap()
    };
    let (as_text, as_bytes) = (passphrase(), Secret::key(PASSPHRASE).unwrap());
    let mut different = vec![
        of(&LIVEKIT, &as_text, None),
        of(&LIVEKIT, &as_bytes, None),
        of(&LIVEKIT, &as_bytes, Some(256)),
        of(&VIDEOSDK, &as_text, None),
        of(&VIDEOSDK, &as_bytes, None),
        of(&JITSI, &as_bytes, None),
    ];
    assert_eq!(of(&LIVEKIT, &as_text, None), different[0]);
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 6);
}

#[test]
fn a_fingerprint_follows_the_sending_key_and_its_ratchet() {
    let ring = ring(&raw(), 0);
    let first = ring.fingerprint(None).unwrap();
    assert_eq!(ring.fingerprint(Some(0)), Ok(first));
    assert_eq!(ring.fingerprint(Some(3)), Err(KeyError::NoSuchKey { key_id: 3 }));
    ring.set(3, &passphrase()).unwrap();
    ring.set_sending_key_id(3).unwrap();
    assert_eq!(ring.fingerprint(None), ring.fingerprint(Some(3)));
    ring.ratchet(0).unwrap();
    assert_ne!(ring.fingerprint(Some(0)), Ok(first));
}

#[test]
fn the_fingerprints_of_a_ring_are_those_of_all_its_keys_and_of_its_fallbacks_while_it_has_none() {
    let shared = ring(&raw(), 0);
    shared.set(3, &passphrase()).unwrap();
    let both = shared.fingerprints().unwrap();
    let expected: Vec<_> = [0, 3].map(|key_id| (key_id, shared.fingerprint(Some(key_id)).unwrap())).into();
    assert_eq!(both, expected);
    shared.set_sending_key_id(3).unwrap();
    assert_eq!(shared.fingerprints(), Ok(both.clone()), "which of them seals makes no difference");
    let own = KeyRing::new(&LIVEKIT, Options::default()).unwrap().with_fallback(Arc::clone(&shared)).unwrap();
    assert_eq!(own.fingerprints(), Ok(both.clone()));
    own.set(0, &raw()).unwrap();
    assert_eq!(own.fingerprints().unwrap(), [both[0]]);
    shared.ratchet(0).unwrap();
    assert_ne!(shared.fingerprints().unwrap()[0], both[0]);
    shared.remove(3);
    assert_eq!(shared.fingerprints().unwrap().len(), 1);
    assert_eq!(KeyRing::new(&LIVEKIT, Options::default()).unwrap().fingerprints(), Ok(Vec::new()));
}

#[test]
fn the_fingerprints_of_epochs_are_those_of_all_that_are_retained_even_two_under_one_id() {
    let ring = sframe(Options::default());
    for (epoch, epoch_bits) in [(1, 4), (2, 4), (2, 5)] {
        let kid = MlsKid { epoch, epoch_bits, sender_index: 1, sender_bits: 2, context: 0 };
        ring.set_epoch(&own(40 + u8::try_from(epoch).unwrap() + epoch_bits), &kid, 2).unwrap();
    }
    let all = ring.fingerprints().unwrap();
    assert_eq!(all.iter().map(|&(key_id, _)| key_id).collect::<Vec<_>>(), [1, 2, 2]);
    assert_ne!(all[1], all[2]);
}

fn sframe(options: Options) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&SFRAME, options).unwrap())
}

/// Returns a base key with which no other test of this process seals.
fn own(number: u8) -> Secret {
    Secret::key(&[b"keys.rs base key".as_slice(), &[number]].concat()).unwrap()
}

/// The three kinds of sending keys of an SFrame ring.
fn sframe_rings(number: u8, usage_limit: u64) -> Vec<(Arc<KeyRing>, u64)> {
    let options = Options { usage_limit, ..Options::default() };
    let plain = sframe(options);
    plain.set(9, &own(number)).unwrap();
    let shared = sframe(Options { shared: true, ..options });
    shared.set(3, &own(number)).unwrap();
    let epochs = sframe(options);
    let kid = MlsKid { epoch: 21, epoch_bits: 4, sender_index: 1, sender_bits: 2, context: 0 };
    epochs.set_epoch(&own(number), &kid, 1).unwrap();
    vec![(plain, 9), (shared, 3), (epochs, 5)]
}

#[test]
fn limits_hold_for_sframe_keys_whatever_they_come_from_and_stats_tell_how_far_it_is() {
    for (ring, key_id) in sframe_rings(1, 8) {
        let encryptors = [(); 2].map(|()| Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap());
        assert_eq!(ring.key_ids(), [key_id]);
        for n in 0..8 {
            assert_eq!(ring.frames_sealed(key_id), Ok(n));
            let EncryptStats { key_frames, key_limit, key_warning, .. } = encryptors[0].stats();
            assert_eq!((key_frames, key_limit, key_warning), (n, 8, 6));
            encryptors[usize::try_from(n).unwrap() % 2].encrypt(b"x").unwrap();
        }
        let exhausted = encryptors[0].encrypt(b"x");
        assert!(matches!(exhausted, Err(EncryptError::KeyExhausted { .. })), "{exhausted:?}");
        let stats = encryptors[0].stats();
        assert_eq!((stats.frames, stats.key_frames, stats.key_exhausted), (4, 8, 1));
    }
}

#[test]
fn stats_tell_of_the_sending_key_and_nothing_where_there_is_none() {
    let ring = Arc::new(KeyRing::new(&LIVEKIT, Options::default()).unwrap());
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    let of_key = || {
        let EncryptStats { key_frames, key_limit, key_warning, .. } = encryptor.stats();
        (key_frames, key_limit, key_warning)
    };
    assert_eq!(of_key(), (0, 0, 0));
    ring.set(0, &raw()).unwrap();
    assert!(encryptor.encrypt(b"\x78frame").is_ok());
    assert_eq!(of_key(), (1, 1 << 32, 23_726_566));
    ring.set(1, &passphrase()).unwrap();
    ring.set_sending_key_id(1).unwrap();
    assert_eq!(of_key(), (0, 1 << 32, 23_726_566));
    ring.set_sending_key_id(2).unwrap();
    assert_eq!(of_key(), (0, 0, 0));
    assert_eq!(encryptor.stats().entries().last(), Some(&("key_warning", 0)));
}

#[test]
fn an_sframe_key_that_is_set_again_goes_on_where_its_counter_says_and_counts_on() {
    let ring = sframe(Options { usage_limit: 5, ..Options::default() });
    ring.set(1, &own(2)).unwrap();
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
    (0..3).for_each(|_| assert!(encryptor.encrypt(b"x").is_ok()));
    ring.set(1, &own(2)).unwrap();
    assert_eq!(encryptor.encrypt(b"x").unwrap()[0], 0x13, "a counter from 0 would repeat");
    let refused = KeyError::CounterUsed { given: 3, min: Some(4) };
    assert_eq!(ring.set_from(1, &own(2), Some(3)), Err(refused));
    ring.set_from(1, &own(2), Some(7)).unwrap();
    assert_eq!(ring.frames_sealed(1), Ok(4));
    assert_eq!(encryptor.encrypt(b"x").unwrap()[0], 0x17);
    assert_eq!(encryptor.encrypt(b"x"), Err(EncryptError::KeyExhausted { kid: 1 }), "its limit is no other one");
}

#[test]
fn what_was_opened_stays_known_when_the_same_key_is_set_again() {
    let trailer = ring(&raw(), 0);
    let mut rings = vec![(trailer, raw())];
    rings.extend(sframe_rings(3, 1 << 32).into_iter().take(2).map(|(ring, _)| (ring, own(3))));
    for (ring, secret) in rings {
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(16)).unwrap();
        let sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap();
        let key_id = ring.sending_key_id();
        assert!(decryptor.decrypt(&sealed).is_ok());
        ring.set(key_id, &secret).unwrap();
        assert!(matches!(decryptor.decrypt(&sealed), Err(DecryptError::Replayed { .. })));
        ring.set(key_id, &own(4)).unwrap();
        ring.set(key_id, &secret).unwrap();
        assert!(matches!(decryptor.decrypt(&sealed), Err(DecryptError::Replayed { .. })), "another key between them");
        ring.remove(key_id);
        ring.set(key_id, &secret).unwrap();
        assert!(matches!(decryptor.decrypt(&sealed), Err(DecryptError::Replayed { .. })), "removed between them");
    }
}

#[test]
fn all_holders_of_an_sframe_secret_have_one_fingerprint_whoever_of_them_seals() {
    let member = |sender_index| {
        let ring = sframe(Options::default());
        let kid = MlsKid { epoch: 21, epoch_bits: 4, sender_index, sender_bits: 2, context: 0 };
        ring.set_epoch(&own(5), &kid, 1).unwrap();
        ring
    };
    let sharer = || {
        let ring = sframe(Options { shared: true, ..Options::default() });
        ring.set(5, &own(5)).unwrap();
        ring
    };
    for [alice, bob] in [[member(0), member(1)], [sharer(), sharer()]] {
        let before = alice.fingerprint(None).unwrap();
        let sealed = Encryptor::new(Arc::clone(&alice), Codec::Opus).unwrap().encrypt(b"x").unwrap();
        assert!(Decryptor::new(Arc::clone(&bob), Codec::Opus, None).unwrap().decrypt(&sealed).is_ok());
        assert_eq!([alice.fingerprint(None), alice.fingerprint(Some(5)), bob.fingerprint(None)], [Ok(before); 3]);
        assert_eq!(alice.fingerprint(Some(6)), Err(KeyError::NoSuchKey { key_id: 6 }));
    }
}

#[test]
fn an_sframe_fingerprint_tells_secret_suite_key_id_and_step_apart() {
    let of = |secret: &Secret, key_id, suite| {
        let ring = sframe(Options { suite: Some(suite), ratchet_bits: 4, ..Options::default() });
        ring.set(key_id, secret).unwrap();
        let first = ring.fingerprint(None).unwrap();
        let next = ring.ratchet(key_id).unwrap();
        assert_eq!(ring.fingerprint(Some(key_id)), Ok(first));
        [first, ring.fingerprint(Some(next)).unwrap()]
    };
    let one = of(&own(6), 0x10, 4);
    assert_eq!(of(&own(6), 0x10, 4), one);
    let others = [of(&own(7), 0x10, 4), of(&own(6), 0x20, 4), of(&own(6), 0x10, 1)];
    let mut all: Vec<_> = others.into_iter().chain([one]).flatten().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 8);
}

#[test]
fn sframe_steps_are_followed_at_once_and_can_be_ready_before_they_are_needed() {
    let options = Options { ratchet_bits: 4, ratchet_window: 3, ..Options::default() };
    let (sender, receiver) = (sframe(options), sframe(options));
    sender.set(0, &Secret::passphrase(b"its KDF runs once, when it is set").unwrap()).unwrap();
    receiver.set(0, &Secret::passphrase(b"its KDF runs once, when it is set").unwrap()).unwrap();
    assert_eq!([(); 4].map(|()| receiver.derive_ratchet_step(0)), [Ok(true), Ok(true), Ok(false), Ok(false)]);
    (0..3).for_each(|step| assert_eq!(sender.ratchet(step), Ok(step + 1)));
    let sealed = Encryptor::new(sender, Codec::Opus).unwrap().encrypt(b"x").unwrap();
    let decryptor = Decryptor::new(Arc::clone(&receiver), Codec::Opus, None).unwrap();
    assert_eq!((decryptor.decrypt(&sealed).unwrap(), decryptor.stats().ratchets), (b"x".to_vec(), 3));
    assert_eq!((receiver.pending_ratchets(), receiver.key_ids()), (vec![], vec![0, 3]));
    assert_eq!(receiver.derive_ratchet_step(0), Ok(false), "a step that was passed has nothing ahead");
}

#[test]
fn a_step_that_two_threads_take_keeps_the_step_before_it() {
    let options = Options { ratchet_bits: 4, ..Options::default() };
    let (sender, receiver) = (sframe(options), sframe(options));
    for ring in [&sender, &receiver] {
        ring.set(0, &Secret::key(b"a step taken by two threads").unwrap()).unwrap();
    }
    let late = Encryptor::new(sender, Codec::Opus).unwrap().encrypt(b"late").unwrap();
    let steps = [receiver.derive_ratchet(0).unwrap(), receiver.derive_ratchet(0).unwrap()];
    assert_eq!(steps.map(frameseal::DerivedKey::install), [true, true]);
    assert_eq!(receiver.key_ids(), [0, 1]);
    let decryptor = Decryptor::new(receiver, Codec::Opus, None).unwrap();
    assert_eq!(decryptor.decrypt(&late).unwrap(), b"late");
}

#[test]
fn a_frame_that_was_parsed_before_its_epoch_was_replaced_opens_no_more() {
    let (alice, bob) = (sframe(Options::default()), sframe(Options::default()));
    let set = |number| {
        for (ring, sender_index) in [(&alice, 0), (&bob, 1)] {
            let kid = MlsKid { epoch: 1, epoch_bits: 4, sender_index, sender_bits: 1, context: 0 };
            ring.set_epoch(&own(number), &kid, 0).unwrap();
        }
    };
    let encryptor = Encryptor::new(Arc::clone(&alice), Codec::Opus).unwrap();
    let decryptor = Decryptor::new(Arc::clone(&bob), Codec::Opus, None).unwrap();
    set(9);
    let before = encryptor.encrypt(b"before").unwrap();
    let plan = decryptor.plan(&before, b"").unwrap().unwrap();
    set(10);
    let mut out = [7; 6];
    assert!(matches!(plan.open_into(&mut out), Err(DecryptError::AuthenticationFailed { .. })));
    assert_eq!(out, [0; 6]);
    assert_eq!(decryptor.decrypt(&encryptor.encrypt(b"after").unwrap()).unwrap(), b"after");
}

#[test]
fn keys_without_a_ratchet_have_nothing_ahead() {
    for (ring, key_id) in sframe_rings(8, 8) {
        assert_eq!((ring.derive_ratchet_step(key_id), ring.pending_ratchets()), (Ok(false), vec![]));
        assert_eq!(ring.derive_ratchet_step(200), Err(KeyError::NoSuchKey { key_id: 200 }));
    }
}

fn with_blank(codec: Codec, payload: &[u8]) -> (Decryptor, Vec<u8>) {
    let decryptor = Decryptor::new(ring(&raw(), 0), codec, None).unwrap().with_sif_trailer(b"LK-ROCKS").unwrap();
    (decryptor, [payload, b"LK-ROCKS"].concat())
}

fn silence() -> Vec<u8> {
    [b"\xf8\xff\xfe".as_slice(), &[0; 77]].concat()
}

const LONG_START_CODE: &[u8] = &[0, 0, 0, 1];
const SHORT_START_CODE: &[u8] = &[0, 0, 1];

/// The units of LiveKit's blank frame of H264.
const BLANK_UNITS: [&[u8]; 3] = [
    b"\x67\x42\xc0\x1f\x0f\xd9\x1f\x88\x88\x84\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x60\xc9\x20",
    b"\x68\x87\xcb\x83\xcb\x20",
    b"\x65\x88\x84\x0a\xf2\x62\x80\x00\xa7\xbe",
];

fn blank_picture(start_codes: [&[u8]; 3]) -> Vec<u8> {
    start_codes.iter().zip(BLANK_UNITS).flat_map(|(start_code, unit)| [*start_code, unit].concat()).collect()
}

#[test]
fn a_sif_frame_passes_without_a_key_and_is_no_success() {
    let (decryptor, frame) = with_blank(Codec::Opus, &silence());
    assert_eq!(decryptor.decrypt(&frame).unwrap(), silence());
    let stats = decryptor.stats();
    assert_eq!((stats.sif_frames, stats.frames, stats.bytes, decryptor.sif_frames()), (1, 0, 0, 1));
}

#[test]
fn a_sif_frame_is_of_the_codec_and_known_to_the_last_byte() {
    let long = LONG_START_CODE;
    let cases: Vec<(Codec, Vec<u8>, bool)> = vec![
        (Codec::Opus, silence(), true),
        (Codec::Opus, [silence(), vec![0]].concat(), false),
        (Codec::Opus, silence()[..79].to_vec(), false),
        (Codec::Opus, vec![], false),
        (Codec::Vp8, silence(), false),
        (Codec::Unknown, silence(), false),
        (Codec::Opus, [vec![0x6f], silence()].concat(), false),
        (Codec::Pcmu, vec![0xFF; 160], true),
        (Codec::Pcmu, vec![0xD5; 160], false),
        (Codec::Pcma, vec![0xD5; 160], true),
        (Codec::Pcma, vec![0xD5; 161], false),
        (Codec::H264, blank_picture([long, long, long]), true),
        (Codec::H264, blank_picture([long, SHORT_START_CODE, SHORT_START_CODE]), true),
        (Codec::H264, BLANK_UNITS[2].to_vec(), true),
        (Codec::H264, blank_picture([long, long, long])[..39].to_vec(), false),
        (Codec::H264, [blank_picture([long, long, long]), vec![0]].concat(), false),
        (Codec::H264, long.to_vec(), false),
        (Codec::H264, vec![], false),
    ];
    for (codec, payload, passes) in cases {
        let (decryptor, frame) = with_blank(codec, &payload);
        let outcome = decryptor.decrypt(&frame);
        let stats = decryptor.stats();
        if passes {
            assert_eq!(outcome.unwrap(), payload);
        } else {
            assert_eq!(outcome, Err(DecryptError::Malformed), "{codec:?} {payload:?}");
        }
        assert_eq!((stats.sif_frames, stats.sif_frames_refused), (u64::from(passes), u64::from(!passes)));
        assert_eq!((stats.malformed, decryptor.consecutive_failures()), (0, 0));
    }
}

#[test]
fn a_hundred_sif_frames_pass_until_a_sealed_one_comes() {
    let (decryptor, frame) = with_blank(Codec::Opus, &silence());
    for _ in 0..2 {
        assert_eq!((0..150).filter(|_| decryptor.decrypt(&frame).is_ok()).count(), 100);
        assert_eq!(decryptor.decrypt(&seal_after(0, &raw())).unwrap(), b"\x78frame");
    }
}

#[test]
fn what_a_jitter_buffer_joined_to_a_sealed_frame_is_cut_off_and_nothing_else() {
    let (decryptor, blank) = with_blank(Codec::Opus, &silence());
    let sealed = seal_after(0, &raw());
    for (before, after) in [(0, 1), (1, 0), (2, 3)] {
        let joined = [blank.repeat(before), sealed.clone(), blank.repeat(after)].concat();
        assert_eq!(decryptor.without_sif_frames(&joined), sealed);
        assert_eq!(decryptor.decrypt(&joined).unwrap(), b"\x78frame");
        for cut in [&joined[1..], &joined[..joined.len() - 1]] {
            assert!(decryptor.decrypt(cut).is_err());
        }
    }
    assert_eq!(decryptor.without_sif_frames(&blank.repeat(3)), blank, "one of several is left");
    for alone in [&sealed[..], &blank, &silence(), b"LK-ROCKS", b""] {
        assert_eq!(decryptor.without_sif_frames(alone), alone);
    }
    let stats = decryptor.stats();
    assert_eq!((stats.frames, stats.sif_frames), (3, 0));
}

#[test]
fn a_blank_picture_that_was_joined_to_a_sealed_one_is_cut_off() {
    let picture = b"\0\0\0\x01\x65\x88\x84 a picture of some bytes";
    let sealed = Encryptor::new(ring(&raw(), 0), Codec::H264).unwrap().encrypt(picture).unwrap();
    // The first start code is a long one, as depacketisers write it: the sealed frame may end in a zero.
    for start_codes in [[LONG_START_CODE; 3], [LONG_START_CODE, SHORT_START_CODE, SHORT_START_CODE]] {
        let (decryptor, blank) = with_blank(Codec::H264, &blank_picture(start_codes));
        for (before, after) in [(0, 1), (1, 0), (2, 3)] {
            let joined = [blank.repeat(before), sealed.clone(), blank.repeat(after)].concat();
            assert_eq!(decryptor.without_sif_frames(&joined), sealed, "{start_codes:?} {before} {after}");
            assert_eq!(decryptor.decrypt(&joined).unwrap(), picture);
        }
    }
}

#[test]
fn a_trailer_may_be_set_at_any_time_and_taken_away() {
    let decryptor = Decryptor::new(ring(&raw(), 0), Codec::Opus, None).unwrap();
    for trailer in [&b"LK-ROCKS"[..], b"of a room made anew"] {
        assert_eq!(decryptor.set_sif_trailer(Some(trailer)), Ok(()));
        assert_eq!(decryptor.sif_trailer().as_deref(), Some(trailer));
        assert_eq!(decryptor.decrypt(&[silence(), trailer.to_vec()].concat()), Ok(silence()));
    }
    let refused = decryptor.set_sif_trailer(Some(b"LK-ROCK"));
    assert_eq!(refused, Err(ConfigError::ShortTrailer { given: 7, min: 8 }));
    let frame = [silence(), b"of a room made anew".to_vec()].concat();
    assert_eq!(decryptor.decrypt(&frame), Ok(silence()), "the one before stays");
    assert_eq!(decryptor.set_sif_trailer(None), Ok(()));
    assert_eq!((decryptor.sif_trailer(), decryptor.decrypt(&frame)), (None, Err(DecryptError::Malformed)));
}

#[test]
fn a_trailer_has_eight_bytes_and_without_one_nothing_passes() {
    let decryptor = || Decryptor::new(ring(&raw(), 0), Codec::Opus, None).unwrap();
    let refused = decryptor().with_sif_trailer(b"LK-ROCK").err();
    assert_eq!(refused, Some(ConfigError::ShortTrailer { given: 7, min: 8 }));
    let frame = [silence(), b"LK-ROCKS".to_vec()].concat();
    assert_eq!(decryptor().decrypt(&frame), Err(DecryptError::Malformed));
}

#[test]
fn a_profile_without_a_password_kdf_says_so() {
    let ring = KeyRing::new(&JITSI, Options::default()).unwrap();
    assert_eq!(ring.set(0, &passphrase()), Err(KeyError::NoPassphrases));
    assert_eq!(ring.key_ids(), []);
    assert!(ring.set(0, &raw()).is_ok());
}

#[test]
fn a_chain_of_fallbacks_ends_at_its_bound_and_works_up_to_there() {
    let first = ring(&raw(), 0);
    let mut last = Arc::clone(&first);
    let mut refused = 0;
    for _ in 0..1_000 {
        let next = KeyRing::new(&LIVEKIT, Options::default()).unwrap().with_fallback(Arc::clone(&last));
        match next {
            Ok(next) => last = Arc::new(next),
            Err(error) => {
                assert_eq!(error, ConfigError::FallbackDepth { max: 16 });
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1_000 - 16);
    assert_eq!((last.key_ids(), last.can_encrypt(), last.generation()), (vec![0], true, 1));
    let sealed = Encryptor::new(Arc::clone(&last), Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap();
    assert_eq!(Decryptor::new(first, Codec::Opus, None).unwrap().decrypt(&sealed).unwrap(), b"\x78frame");
}

#[test]
fn epochs_are_retained_up_to_a_bound_and_fields_of_any_size_are_taken_or_refused() {
    let ring = sframe(Options::default());
    let kid = MlsKid { epoch: 1, epoch_bits: 4, sender_index: 0, sender_bits: 1, context: 0 };
    for given in [256, usize::MAX - 1, usize::MAX] {
        assert_eq!(ring.set_epoch(&own(11), &kid, given), Err(KeyError::Retain { given, max: 255 }));
    }
    assert_eq!(ring.set_epoch(&own(11), &kid, 255), Ok(1));
    let edges = [0, 1, 1 << 31, 1 << 63, u64::MAX];
    let mut taken = 0;
    for (epoch_bits, sender_bits) in (0..=u8::MAX).flat_map(|bits| [0, 1, 62, 63, 64, 255].map(|other| (bits, other))) {
        for [epoch, sender_index, context] in edges
            .map(|edge| [edge, 0, 0])
            .into_iter()
            .chain(edges.map(|edge| [0, edge, 0]).into_iter().chain(edges.map(|edge| [edge, 0, edge])))
        {
            let kid = MlsKid { epoch, epoch_bits, sender_index, sender_bits, context };
            match kid.value() {
                Ok(_) => taken += 1,
                Err(error) => assert!(matches!(error, KeyError::KeyIdField { .. }), "{kid:?}"),
            }
        }
    }
    assert!(taken > 500, "{taken}");
}

#[test]
fn a_derived_key_is_set_when_it_is_installed_and_a_step_only_if_its_key_is_still_there() {
    for secret in [raw(), passphrase()] {
        let (ring, other) = (ring(&secret, 0), ring(&secret, 0));
        let derived = ring.derive_key(1, &secret).unwrap();
        assert_eq!(ring.key_ids(), [0]);
        assert!(derived.install());
        assert_eq!((ring.key_ids(), ring.sending_key_id()), (vec![0, 1], 0));
        // Two steps were derived from one key. Only the first is installed.
        let steps = [ring.derive_ratchet(0).unwrap(), ring.derive_ratchet(0).unwrap()];
        assert_eq!(steps.map(|step| step.install()), [true, false]);
        other.ratchet(0).unwrap();
        assert_eq!(ring.fingerprint(Some(0)), other.fingerprint(Some(0)));
        let step = ring.derive_ratchet(0).unwrap();
        ring.remove(0);
        assert!(!step.install());
        assert_eq!(ring.key_ids(), [1]);
        drop(ring.derive_key(2, &secret).unwrap());
        assert_eq!(ring.key_ids(), [1]);
    }
    assert!(ring(&raw(), 0).derive_key(16, &raw()).is_err());
    assert!(ring(&raw(), 0).derive_ratchet(3).is_err());
    for (ring, key_id) in sframe_rings(7, 8).into_iter().take(2) {
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
        encryptor.encrypt(b"x").unwrap();
        assert!(ring.derive_key(key_id, &own(8)).unwrap().install());
        assert_eq!(ring.key_ids(), [key_id]);
        assert_eq!(ring.frames_sealed(key_id), Ok(0));
    }
}

#[test]
fn only_an_sframe_ring_without_steps_and_shared_keys_takes_epochs() {
    let kid = MlsKid { epoch: 1, epoch_bits: 4, sender_index: 0, sender_bits: 1, context: 0 };
    let stepped = sframe(Options { ratchet_bits: 4, ..Options::default() });
    let shared = sframe(Options { shared: true, ..Options::default() });
    for ring in [stepped, shared, ring(&raw(), 0)] {
        assert_eq!(ring.set_epoch(&own(12), &kid, 0), Err(ApiMisuse::Epoch.into()));
    }
}

#[test]
fn an_epoch_that_is_removed_leaves_the_others() {
    let ring = sframe(Options::default());
    for epoch in [1, 2, 3] {
        let kid = MlsKid { epoch, epoch_bits: 4, sender_index: 0, sender_bits: 1, context: 0 };
        ring.set_epoch(&own(13), &kid, 2).unwrap();
    }
    ring.remove(2);
    assert_eq!((ring.key_ids(), ring.can_encrypt()), (vec![1, 3], true));
    ring.remove(3);
    assert_eq!((ring.key_ids(), ring.can_encrypt()), (vec![1], false));
}

#[test]
fn a_key_is_exported_if_its_ring_and_the_fallback_that_has_it_allow_it() {
    let options = |allow_export| Options { allow_export, ..Options::default() };
    for (own, room) in [(true, true), (true, false), (false, true), (false, false)] {
        let room = (room, ring_of(&LIVEKIT, &raw(), options(room)));
        let ring = KeyRing::new(&LIVEKIT, options(own)).unwrap().with_fallback(room.1).unwrap();
        let exported = ring.export(None).map(|material| material.to_vec());
        let refused = Err(ApiMisuse::ExportNotAllowed.into());
        assert_eq!(exported, if own && room.0 { Ok(vec![7; 32]) } else { refused });
    }
}

#[test]
fn a_fallback_has_the_profile_and_the_suite_of_its_ring() {
    let of = |suite| Options { suite: Some(suite), ..Options::default() };
    let pairs = [(&LIVEKIT, Options::default(), &VIDEOSDK, Options::default()), (&SFRAME, of(4), &SFRAME, of(5))];
    for (profile, options, other, others) in pairs {
        let fallback = Arc::new(KeyRing::new(other, others).unwrap());
        let refused = KeyRing::new(profile, options).unwrap().with_fallback(fallback).err();
        assert!(matches!(refused, Some(ConfigError::FallbackMismatch { .. })));
    }
}

#[test]
fn a_ring_that_has_lost_its_last_key_uses_the_keys_of_its_fallback_again() {
    let room = ring(&Secret::key(&[8; 32]).unwrap(), 0);
    let sealed = Encryptor::new(Arc::clone(&room), Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap();
    let ring = Arc::new(KeyRing::new(&LIVEKIT, Options::default()).unwrap().with_fallback(room).unwrap());
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    ring.set(0, &raw()).unwrap();
    assert_eq!(decryptor.decrypt(&sealed), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    ring.remove(0);
    assert_eq!((decryptor.decrypt(&sealed).unwrap(), ring.can_encrypt()), (b"\x78frame".to_vec(), true));
}

#[test]
fn the_debug_form_of_a_ring_names_its_keys_by_id() {
    let shown = format!("{:?}", ring(&raw(), 0));
    assert!(shown.starts_with("KeyRing {") && shown.contains("profile: \"livekit\"") && shown.contains("key_ids: [0]"));
}
