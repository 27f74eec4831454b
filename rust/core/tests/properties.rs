//! Properties of sealing and opening. Each test name states one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::thread;

use frameseal::{Codec, DecryptError, Decryptor, Encryptor, KeyRing, Options, Profile, Secret};
use proptest::prelude::*;

const CODECS: [Codec; 6] = [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Unknown];

static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(|| ring(0));

fn ring(ratchet_window: u16) -> Arc<KeyRing> {
    let profile = Profile::by_name("livekit").unwrap();
    let ring = KeyRing::new(profile, Options { ratchet_window, ..Options::default() }).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

fn pair(codec: Codec) -> (Encryptor, Decryptor) {
    (Encryptor::new(RING.clone(), codec).unwrap(), Decryptor::new(RING.clone(), codec, None).unwrap())
}

/// Returns a frame that is in its sealable form already, so that opening returns the same bytes.
fn frame(codec: Codec, body: &[u8]) -> Vec<u8> {
    let head: &[u8] = match codec {
        Codec::Vp8 => b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00",
        Codec::H264 => b"\x00\x00\x00\x01\x67\x42\xc0\x1f\x00\x00\x00\x01\x65\x88",
        Codec::H265 => b"\x00\x00\x00\x01\x26\x01",
        _ => b"\x78",
    };
    match codec {
        // A NAL header of H.265 (layers 0 to 31) never reads as a slice of H.264. Even bytes contain no start code.
        Codec::H265 => head.iter().copied().chain(body.iter().map(|byte| byte & 0xFE)).collect(),
        _ => [head, body].concat(),
    }
}

fn codec() -> impl Strategy<Value = Codec> {
    proptest::sample::select(&CODECS[..])
}

/// Generates bytes in which start codes and escapes are common.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0u8..=3, 1 => any::<u8>()];
    prop_oneof![proptest::collection::vec(byte, 0..80), proptest::collection::vec(any::<u8>(), 0..2000)]
}

proptest! {
    #[test]
    fn what_we_encrypt_we_decrypt(codec in codec(), body in body()) {
        let (encryptor, decryptor) = pair(codec);
        let frame = frame(codec, &body);
        let sealed = encryptor.encrypt(&frame).unwrap();
        prop_assert_eq!(decryptor.decrypt(&sealed).unwrap(), frame);
    }

    #[test]
    fn nothing_behind_the_clear_header_looks_like_a_start_code(body in body()) {
        let (encryptor, _) = pair(Codec::H264);
        let frame = frame(Codec::H264, &body);
        let sealed = encryptor.encrypt(&frame).unwrap();
        let tail = &sealed[14..];
        prop_assert!(!tail.windows(3).any(|bytes| matches!(bytes, [0, 0, 0..=2])));
        // The IV contains no escapes: some receivers read it without unescaping.
        prop_assert!(!tail[tail.len() - 14..].windows(3).any(|bytes| bytes == [0, 0, 3]));
    }

    #[test]
    fn one_flipped_bit_is_an_error(
        codec in codec(),
        body in proptest::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (encryptor, decryptor) = pair(codec);
        let mut sealed = encryptor.encrypt(&frame(codec, &body)).unwrap();
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(decryptor.decrypt(&sealed).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_nothing_else(codec in codec(), bytes in body()) {
        let (encryptor, decryptor) = pair(codec);
        prop_assert!(bytes.is_empty() || decryptor.decrypt(&bytes).is_err());
        // Any bytes from an encoder are sealed or refused, and never returned unsealed.
        if let Ok(sealed) = encryptor.encrypt(&bytes) {
            prop_assert!(sealed.is_empty() || decryptor.decrypt(&sealed).is_ok());
        }
    }
}

#[test]
fn every_single_flipped_bit_behind_the_clear_bytes_fails_authentication_or_parsing() {
    let (encryptor, decryptor) = pair(Codec::Opus);
    let sealed = encryptor.encrypt(&[0x78; 40]).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut altered = sealed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let expected = match sealed.len() - bit / 8 {
            2 => DecryptError::Malformed,
            1 => DecryptError::UnknownKey { kid: u64::from(altered[altered.len() - 1]) },
            _ => DecryptError::AuthenticationFailed { kid: 0 },
        };
        assert_eq!(decryptor.decrypt(&altered), Err(expected), "bit {bit}");
    }
    assert!(decryptor.decrypt(&sealed).is_ok());
}

#[test]
fn every_truncation_is_an_error() {
    for codec in CODECS {
        let (encryptor, decryptor) = pair(codec);
        let sealed = encryptor.encrypt(&frame(codec, &[9; 60])).unwrap();
        for len in 1..sealed.len() {
            assert!(decryptor.decrypt(&sealed[..len]).is_err(), "{codec:?} cut to {len}");
            assert!(decryptor.decrypt(&sealed[len..]).is_err(), "{codec:?} without its first {len}");
        }
    }
}

#[test]
fn every_short_frame_with_every_trailer_is_one_error_and_the_right_one() {
    for codec in CODECS {
        let (_, decryptor) = pair(codec);
        for (len, filler) in (2..=64).flat_map(|len| [0x00, 0x01, 0x78].map(|filler| (len, filler))) {
            let clear = match codec {
                Codec::Opus => 1,
                Codec::Vp8 if filler & 1 == 0 => 10,
                Codec::Vp8 | Codec::H264 | Codec::H265 => 3,
                _ => 0,
            };
            for (iv_len, key_index) in (0..=255).map(|n| (n, 0)).chain((0..=255).map(|n| (12, n))) {
                let frame = [&vec![filler; len - 2][..], &[iv_len, key_index]].concat();
                let expected = match (iv_len, key_index) {
                    (12, _) if len < clear + 30 => DecryptError::Malformed,
                    (12, 0) => DecryptError::AuthenticationFailed { kid: 0 },
                    (12, kid) => DecryptError::UnknownKey { kid: kid.into() },
                    _ => DecryptError::Malformed,
                };
                assert_eq!(decryptor.decrypt(&frame), Err(expected), "{codec:?}, {frame:?}");
            }
        }
    }
}

#[test]
fn threads_and_tracks_that_share_a_key_never_share_an_iv() {
    let ring = ring(0);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let encryptor = Encryptor::new(ring.clone(), Codec::Opus).unwrap();
            thread::spawn(move || {
                let iv = |sealed: Vec<u8>| <[u8; 12]>::try_from(&sealed[sealed.len() - 14..sealed.len() - 2]).unwrap();
                (0..20_000).map(|_| iv(encryptor.encrypt(b"x").unwrap())).collect::<Vec<_>>()
            })
        })
        .collect();
    let ivs: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(ivs.len(), 80_000);
    assert_eq!(ivs.iter().collect::<HashSet<_>>().len(), ivs.len());
}

#[test]
fn rings_with_the_same_key_draw_from_different_ivs() {
    let prefixes: HashSet<_> = (0..500)
        .map(|_| {
            let sealed = Encryptor::new(ring(0), Codec::Opus).unwrap().encrypt(b"x").unwrap();
            <[u8; 8]>::try_from(&sealed[sealed.len() - 14..sealed.len() - 6]).unwrap()
        })
        .collect();
    assert_eq!(prefixes.len(), 500);
}

#[test]
fn a_replayed_frame_is_refused_only_with_a_window_and_a_forgery_marks_nothing() {
    let encryptor = Encryptor::new(RING.clone(), Codec::Opus).unwrap();
    let sealed = encryptor.encrypt(b"once").unwrap();
    let careless = Decryptor::new(RING.clone(), Codec::Opus, None).unwrap();
    assert!(careless.decrypt(&sealed).is_ok() && careless.decrypt(&sealed).is_ok());

    let careful = Decryptor::new(RING.clone(), Codec::Opus, Some(8)).unwrap();
    let mut forged = sealed.clone();
    forged[0] ^= 1;
    assert_eq!(careful.decrypt(&forged), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    assert!(careful.decrypt(&sealed).is_ok());
    assert_eq!(careful.decrypt(&sealed), Err(DecryptError::Replayed { kid: 0 }));
    assert_eq!(careful.stats().replayed, 1);
}

#[test]
fn parameter_sets_wait_for_their_slice() {
    let (encryptor, decryptor) = pair(Codec::H264);
    let sets = b"\x00\x00\x01\x67\x42\x00\x00\x01\x68\xce";
    assert_eq!(encryptor.encrypt(sets), Ok(Vec::new()));
    assert_eq!(encryptor.stats().held, 1);
    let sealed = encryptor.encrypt(b"\x00\x00\x01\x65\x88\x80\x10").unwrap();
    let whole = b"\x00\x00\x00\x01\x67\x42\x00\x00\x00\x01\x68\xce\x00\x00\x00\x01\x65\x88\x80\x10";
    assert_eq!(decryptor.decrypt(&sealed).unwrap(), whole);
}

#[test]
fn what_is_held_back_is_bounded() {
    let (encryptor, _) = pair(Codec::H264);
    let sets = [b"\x00\x00\x01\x67".as_slice(), &[1; 5000]].concat();
    let outcomes: Vec<_> = (0..4).map(|_| encryptor.encrypt(&sets).is_ok()).collect();
    assert_eq!(outcomes, [true, true, true, false]);
}

#[test]
fn failures_in_a_row_are_counted_per_key() {
    let ring = ring(0);
    let other = Encryptor::new(self::ring(0), Codec::Opus).unwrap();
    let decryptor = Decryptor::new(ring.clone(), Codec::Opus, None).unwrap();
    let good = other.encrypt(b"x").unwrap();
    ring.set(0, &Secret::key(&[8; 32]).unwrap()).unwrap();
    for n in 1..=3 {
        assert!(decryptor.decrypt(&good).is_err());
        assert_eq!(decryptor.consecutive_failures(), n);
    }
    ring.set(0, &Secret::key(&[9; 32]).unwrap()).unwrap();
    assert!(decryptor.decrypt(&good).is_err());
    assert_eq!(decryptor.consecutive_failures(), 1);
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    assert!(decryptor.decrypt(&good).is_ok());
    assert_eq!(decryptor.consecutive_failures(), 0);
}

#[test]
fn a_ratchet_search_commits_only_what_opened_a_frame() {
    let receiver = ring(4);
    let sender = ring(0);
    let decryptor = Decryptor::new(receiver.clone(), Codec::Opus, None).unwrap();
    let encryptor = Encryptor::new(sender.clone(), Codec::Opus).unwrap();
    let before = encryptor.encrypt(b"step 0").unwrap();
    (0..5).for_each(|_| assert_eq!(sender.ratchet(0), Ok(0)));
    let too_far = encryptor.encrypt(b"step 5").unwrap();

    assert!(decryptor.decrypt(&too_far).is_err());
    assert_eq!(decryptor.decrypt(&before).unwrap(), b"step 0");
    receiver.ratchet(0).unwrap();
    assert_eq!(decryptor.decrypt(&too_far).unwrap(), b"step 5");
    assert_eq!(decryptor.stats().ratchets, 4);
}

#[test]
fn the_first_key_set_is_the_one_that_sends_until_another_is_chosen() {
    let ring = KeyRing::new(Profile::by_name("videosdk").unwrap(), Options::default()).unwrap();
    ring.set(3, &Secret::key(&[1; 16]).unwrap()).unwrap();
    ring.set(4, &Secret::key(&[2; 16]).unwrap()).unwrap();
    assert_eq!((ring.sending_key_id(), ring.key_ids()), (3, vec![3, 4]));
    ring.set_sending_key_id(4).unwrap();
    assert_eq!(ring.sending_key_id(), 4);
    assert!(ring.set(16, &Secret::key(&[1; 16]).unwrap()).is_err());
}

#[test]
fn no_debug_output_shows_key_material() {
    let secret = Secret::passphrase(b"hush-hush").unwrap();
    let ring = ring(0);
    let shown = format!("{secret:?} {ring:?}");
    assert!(!shown.contains("hush") && !shown.contains("104, 117"), "{shown}");
}
