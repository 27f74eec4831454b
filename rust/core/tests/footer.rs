//! Properties of the footer layout, beside a reference of its escapes that reads byte by byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::thread;

use frameseal::profile::STREAM;
use frameseal::{Codec, DecryptError, Decryptor, Encryptor, KeyRing, Options, Secret, hazmat};
use proptest::prelude::*;

const CODECS: [Codec; 5] = [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Unknown];
const ENDING: [u8; 5] = [0x01, 0xE2, 0xEE, 0xFE, 0xED];
const FOOTER: usize = 20;

static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(ring);

/// Returns a ring with one key under 0, another under 1.
fn ring() -> Arc<KeyRing> {
    let ring = KeyRing::new(&STREAM, Options::default()).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    ring.set(1, &Secret::key(&[8; 16]).unwrap()).unwrap();
    Arc::new(ring)
}

fn encryptor(codec: Codec) -> Encryptor {
    Encryptor::new(RING.clone(), codec).unwrap()
}

fn decryptor(codec: Codec) -> Decryptor {
    Decryptor::new(RING.clone(), codec, Some(0)).unwrap()
}

/// Generates bytes in which start codes and escapes are common.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0u8..=3, 1 => any::<u8>()];
    prop_oneof![proptest::collection::vec(byte, 0..80), proptest::collection::vec(any::<u8>(), 0..2000)]
}

/// Returns a frame that is in its sealable form already, so that opening returns the same bytes.
fn frame(codec: Codec, body: &[u8]) -> Vec<u8> {
    let front: &[u8] = if codec == Codec::H264 { b"\0\0\0\x01\x67\x42\xc0\0\0\0\x01\x65" } else { b"" };
    [front, &[0x88], body].concat()
}

fn escaped(zeros: usize, data: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::new(), zeros);
    for &byte in data {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    out
}

fn unescaped(zeros: usize, data: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::new(), zeros);
    for (at, &byte) in data.iter().enumerate() {
        if zeros >= 2 && byte == 3 && data.get(at + 1).is_some_and(|&next| next <= 3) {
            zeros = 0;
            continue;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    out
}

proptest! {
    #[test]
    fn escapes_are_those_of_the_reference_and_come_out_again(zeros in 0usize..=2, data in body()) {
        let sealed = hazmat::escape_behind(zeros, &data);
        prop_assert_eq!(&sealed, &escaped(zeros, &data));
        prop_assert_eq!(hazmat::unescape_behind(zeros, &sealed), &data[..]);
        prop_assert_eq!(hazmat::unescape_behind(zeros, &data), unescaped(zeros, &data));
    }

    #[test]
    fn what_is_sealed_opens_whatever_the_receiver_believes_the_codec_to_be(
        sender in proptest::sample::select(&CODECS[..]),
        receiver in proptest::sample::select(&CODECS[..]),
        body in body(),
    ) {
        let frame = frame(sender, &body);
        // A slice that is too short for its clear bytes is refused.
        let Ok(sealed) = encryptor(sender).encrypt(&frame) else {
            prop_assert!(sender == Codec::H264 && body.is_empty());
            return Ok(());
        };
        let opened = decryptor(receiver).decrypt(&sealed).unwrap();
        if sender == Codec::H264 {
            // Further start codes in the body are normalised once, and never again.
            let again = encryptor(sender).encrypt(&opened).unwrap();
            prop_assert_eq!(decryptor(receiver).decrypt(&again).unwrap(), opened);
        } else {
            prop_assert_eq!(opened, frame);
        }
    }

    #[test]
    fn nothing_behind_the_clear_header_looks_like_a_start_code(first: u8, body in body()) {
        let frame = [b"\0\0\0\x01\x65", &[first][..], &body].concat();
        let Ok(sealed) = encryptor(Codec::H264).encrypt(&frame) else { return Ok(()) };
        // From the second byte of the slice: its zero counts, so no start code begins there either.
        prop_assert!(!sealed[5..].windows(3).any(|bytes| matches!(bytes, [0, 0, 0..=2])));
        prop_assert_eq!(&sealed[sealed.len() - 5..], &ENDING[..]);
        prop_assert!(sealed[sealed.len() - 7] >= 0x80);
    }

    #[test]
    fn one_flipped_bit_is_an_error_unless_it_is_the_flag_of_a_frame_without_escapes(
        codec in proptest::sample::select(&CODECS[..]),
        body in proptest::collection::vec(1u8.., 8..200),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut sealed = encryptor(codec).encrypt(&frame(codec, &body)).unwrap();
        let opened = decryptor(codec).decrypt(&sealed).unwrap();
        let at = at.index(sealed.len());
        let is_flag = sealed.len() - at == 7 && bit == 7;
        sealed[at] ^= 1 << bit;
        match decryptor(codec).decrypt(&sealed) {
            Ok(again) => prop_assert!(is_flag && again == opened, "bit {bit}, {} from the end", sealed.len() - at),
            Err(error) => prop_assert_ne!(error, DecryptError::Replayed { kid: 0 }),
        }
    }

    #[test]
    fn bytes_of_a_stranger_are_an_error_even_with_a_footer(
        codec in proptest::sample::select(&CODECS[..]),
        body in body(),
        footer: [u8; FOOTER - 5],
        short: bool,
    ) {
        let mut footer = footer;
        if short {
            footer[13] &= 0x80;
        }
        let bytes = [&body[..], &footer, &ENDING].concat();
        let claimed = decryptor(codec).key_id_of(&bytes);
        match decryptor(codec).decrypt(&bytes) {
            Err(DecryptError::AuthenticationFailed { kid } | DecryptError::UnknownKey { kid }) => {
                prop_assert_eq!((claimed, kid), (Some(kid), u64::from(footer[12])));
            }
            outcome => prop_assert_eq!((claimed, outcome), (None, Err(DecryptError::Malformed))),
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    for codec in CODECS {
        let sealed = encryptor(codec).encrypt(&frame(codec, &[9; 60])).unwrap();
        for len in 1..sealed.len() {
            assert!(decryptor(codec).decrypt(&sealed[..len]).is_err(), "{codec:?} cut to {len}");
            assert!(decryptor(codec).decrypt(&sealed[len..]).is_err(), "{codec:?} without its first {len}");
        }
    }
}

#[test]
fn threads_tracks_and_keys_never_share_an_iv_and_a_key_counts_through_all_its_tracks() {
    let ring = ring();
    // Without H.264, which may discard a counter to keep its slice header readable.
    let threads: Vec<_> = [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::Unknown]
        .into_iter()
        .map(|codec| {
            let encryptor = Encryptor::new(ring.clone(), codec).unwrap();
            let frame = frame(codec, &[9; 9]);
            thread::spawn(move || {
                let iv = |sealed: Vec<u8>| <[u8; 12]>::try_from(&sealed[sealed.len() - FOOTER..][..12]).unwrap();
                (0..5_000).map(|_| iv(encryptor.encrypt(&frame).unwrap())).collect::<Vec<_>>()
            })
        })
        .collect();
    let ivs: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let prefixes: HashSet<_> = ivs.iter().map(|iv| &iv[4..]).collect();
    let counters: HashSet<_> = ivs.iter().map(|iv| u32::from_be_bytes(iv[..4].try_into().unwrap())).collect();
    assert_eq!(prefixes.len(), 1);
    assert!(counters == (1..=20_000).collect());
    let other = Encryptor::new(self::ring(), Codec::Opus).unwrap().encrypt(b"x").unwrap();
    assert!(!prefixes.contains(&other[other.len() - 16..other.len() - 8]), "a ring with the same key");
}

#[test]
fn a_forgery_marks_nothing_and_a_replay_counts_as_no_failure() {
    let decryptor = Decryptor::new(RING.clone(), Codec::Opus, None).unwrap();
    let sealed = encryptor(Codec::Opus).encrypt(b"once").unwrap();
    let mut forged = sealed.clone();
    forged[0] ^= 1;
    // A forged counter far ahead would push out the window if it counted.
    let mut ahead = sealed.clone();
    let counter = ahead.len() - FOOTER;
    ahead[counter] = 0xFF;
    for forgery in [&forged, &ahead] {
        assert_eq!(decryptor.decrypt(forgery), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    }
    assert_eq!(decryptor.decrypt(&sealed).unwrap(), b"once");
    for _ in 0..3 {
        assert_eq!(decryptor.decrypt(&sealed), Err(DecryptError::Replayed { kid: 0 }));
    }
    assert_eq!((decryptor.consecutive_failures(), decryptor.stats().replayed), (0, 3));
}
