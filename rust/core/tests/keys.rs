//! The life of a key in the core: searching ahead, counting, comparing; and what passes without one.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::profile::{JITSI, LIVEKIT, VIDEOSDK};
use frameseal::{Codec, DecryptError, Decryptor, EncryptError, Encryptor, KeyError, KeyRing, Options, Profile, Secret};

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
    (0..steps).for_each(|_| ring.ratchet(0).unwrap());
    Encryptor::new(ring, Codec::Opus).unwrap().encrypt(b"\x78frame").unwrap()
}

#[test]
fn a_step_of_a_passphrase_is_never_derived_where_a_frame_is_opened() {
    let ring = ring(&passphrase(), 2);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    let ahead = seal_after(2, &passphrase());
    assert_eq!(ring.wanted_ahead(), []);

    assert_eq!(decryptor.decrypt(&ahead), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    assert_eq!(ring.wanted_ahead(), [0]);
    assert!(ring.derive_ahead(0).unwrap());
    assert_eq!(decryptor.decrypt(&ahead), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    assert!(!ring.derive_ahead(0).unwrap());

    assert_eq!(ring.wanted_ahead(), []);
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
        for key_id in ring.wanted_ahead() {
            ring.derive_ahead(key_id).unwrap();
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
    assert!(!ring.derive_ahead(0).unwrap());
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    assert!(decryptor.decrypt(&seal_after(1, &passphrase())).is_ok());

    ring.set(0, &Secret::passphrase(b"another").unwrap()).unwrap();
    assert!(decryptor.decrypt(&seal_after(2, &passphrase())).is_err());
    assert_eq!(ring.wanted_ahead(), [0]);
    assert_eq!(ring.derive_ahead(1), Err(KeyError::NoSuchKey { key_id: 1 }));
}

#[test]
fn without_a_window_nothing_is_searched_and_nothing_derived() {
    let ring = ring(&passphrase(), 0);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    assert!(decryptor.decrypt(&seal_after(1, &passphrase())).is_err());
    assert_eq!(ring.wanted_ahead(), []);
    assert!(!ring.derive_ahead(0).unwrap());
}

#[test]
fn a_raw_key_is_followed_at_once_and_a_step_beyond_the_window_is_not() {
    for (window, steps) in [(1, 1), (8, 8), (16, 16), (8, 9)] {
        let ring = ring(&raw(), window);
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
        let opened = decryptor.decrypt(&seal_after(steps, &raw()));
        assert_eq!(opened.is_ok(), steps <= usize::from(window), "{window} {steps}");
        assert_eq!(decryptor.decrypt(&seal_after(0, &raw())).is_ok(), opened.is_err(), "{window} {steps}");
        assert_eq!(ring.wanted_ahead(), []);
    }
}

#[test]
fn frames_are_counted_per_key_and_the_limit_is_the_end() {
    let ring = ring_of(&LIVEKIT, &raw(), Options { usage_limit: 8, ..Options::default() });
    let encryptors = [Codec::Opus, Codec::Vp9].map(|codec| Encryptor::new(Arc::clone(&ring), codec).unwrap());
    assert_eq!((ring.usage(0), ring.usage_limit(), ring.usage_warning()), (Ok(0), 8, 6));
    for n in 0..8 {
        assert!(encryptors[n % 2].encrypt(b"\x78frame").is_ok());
    }
    assert_eq!(ring.usage(0), Ok(8));
    assert_eq!(encryptors[0].encrypt(b"\x78frame"), Err(EncryptError::KeyExhausted { kid: 0 }));

    ring.set(0, &raw()).unwrap();
    assert_eq!(encryptors[0].encrypt(b"\x78frame"), Err(EncryptError::KeyExhausted { kid: 0 }), "the same key again");
    ring.set(0, &Secret::key(&[8; 32]).unwrap()).unwrap();
    assert!(encryptors[0].encrypt(b"\x78frame").is_ok());
    assert_eq!((ring.usage(0), ring.usage(1)), (Ok(1), Err(KeyError::NoSuchKey { key_id: 1 })));
}

#[test]
fn a_limit_is_one_that_nonces_allow_and_the_warning_comes_before_it() {
    let with = |usage_limit| KeyRing::new(&LIVEKIT, Options { usage_limit, ..Options::default() });
    for given in [0, (1 << 32) + 1] {
        assert_eq!(with(given).err(), Some(KeyError::UsageLimit { given, most: 1 << 32 }));
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

fn injected(codec: Codec, payload: &[u8]) -> (Decryptor, Vec<u8>) {
    let decryptor = Decryptor::new(ring(&raw(), 0), codec, None).unwrap().with_injected(b"LK-ROCKS").unwrap();
    (decryptor, [payload, b"LK-ROCKS"].concat())
}

fn silence() -> Vec<u8> {
    [b"\xf8\xff\xfe".as_slice(), &[0; 77]].concat()
}

#[test]
fn an_injected_frame_passes_without_a_key_and_is_no_success() {
    let (decryptor, frame) = injected(Codec::Opus, &silence());
    assert_eq!(decryptor.decrypt(&frame).unwrap(), silence());
    let stats = decryptor.stats();
    assert_eq!((stats.injected, stats.frames, stats.bytes, decryptor.injected_so_far()), (1, 0, 0, 1));
}

#[test]
fn what_is_injected_is_of_the_codec_and_known_to_the_last_byte() {
    let units: [&[u8]; 3] = [
        b"\x67\x42\xc0\x1f\x0f\xd9\x1f\x88\x88\x84\x00\x00\x03\x00\x04\x00\x00\x03\x00\xc8\x3c\x60\xc9\x20",
        b"\x68\x87\xcb\x83\xcb\x20",
        b"\x65\x88\x84\x0a\xf2\x62\x80\x00\xa7\xbe",
    ];
    let annexb = |starts: [&[u8]; 3]| {
        let pairs = starts.iter().zip(units);
        pairs.flat_map(|(start, unit)| [*start, unit].concat()).collect::<Vec<_>>()
    };
    let long: &[u8] = &[0, 0, 0, 1];
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
        (Codec::H264, annexb([long, long, long]), true),
        (Codec::H264, annexb([long, &[0, 0, 1], &[0, 0, 1]]), true),
        (Codec::H264, units[2].to_vec(), true),
        (Codec::H264, annexb([long, long, long])[..39].to_vec(), false),
        (Codec::H264, [annexb([long, long, long]), vec![0]].concat(), false),
        (Codec::H264, long.to_vec(), false),
        (Codec::H264, vec![], false),
    ];
    for (codec, payload, passes) in cases {
        let (decryptor, frame) = injected(codec, &payload);
        let outcome = decryptor.decrypt(&frame);
        let stats = decryptor.stats();
        if passes {
            assert_eq!(outcome.unwrap(), payload);
        } else {
            assert_eq!(outcome, Err(DecryptError::Malformed), "{codec:?} {payload:?}");
        }
        assert_eq!((stats.injected, stats.injected_refused), (u64::from(passes), u64::from(!passes)));
        assert_eq!((stats.malformed, decryptor.consecutive_failures()), (0, 0));
    }
}

#[test]
fn a_hundred_injected_frames_pass_until_a_sealed_one_comes() {
    let (decryptor, frame) = injected(Codec::Opus, &silence());
    for _ in 0..2 {
        assert_eq!((0..150).filter(|_| decryptor.decrypt(&frame).is_ok()).count(), 100);
        assert_eq!(decryptor.decrypt(&seal_after(0, &raw())).unwrap(), b"\x78frame");
    }
}

#[test]
fn a_trailer_has_eight_bytes_and_without_one_nothing_passes() {
    let decryptor = || Decryptor::new(ring(&raw(), 0), Codec::Opus, None).unwrap();
    let refused = decryptor().with_injected(b"LK-ROCK").err();
    assert_eq!(refused, Some(KeyError::ShortTrailer { given: 7, least: 8 }));
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
