//! Edge cases: extreme values, short and long frames, frames altered by a network, threads.

use super::*;

#[test]
fn counters_and_key_ids_at_the_edges_come_through() {
    let edges = [0, 7, 8, 255, 256, 1 << 32, u64::MAX];
    for kid in edges {
        for ctr in edges {
            let ring = ring(Options::default());
            // Each counter has its own base key: counter 8 would be used up already, as the successor of 7.
            let base_key = [b"edges".as_slice(), &ctr.to_be_bytes(), &kid.to_be_bytes()].concat();
            ring.set_from(kid, &Secret::key(&base_key).unwrap(), Some(ctr)).unwrap();
            let (encryptor, decryptor) = (encryptor(&ring), decryptor(&ring));
            for (n, frame) in [b"one".to_vec(), vec![0; 1]].iter().enumerate() {
                let Ok(sealed) = encryptor.encrypt(frame) else {
                    assert_eq!((ctr, n), (u64::MAX, 1), "only the counter's last value has no successor");
                    continue;
                };
                assert_eq!(hazmat::parse_header(&sealed).map(|(k, c, _)| (k, c)), Some((kid, ctr + n as u64)));
                assert_eq!(decryptor.decrypt(&sealed).unwrap(), *frame);
            }
        }
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_an_error() {
    for suite in SUITES {
        let options = Options { suite: Some(suite.id), allow_draft: true, ..Options::default() };
        let ring = ring(options);
        ring.set_from(300, &Secret::key(&[5; 32]).unwrap(), Some(70_000)).unwrap();
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Vp8, Some(0)).unwrap();
        let sealed = encryptor(&ring).encrypt(b"a frame of some length").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(decryptor.decrypt(&altered).is_err(), "{} bit {bit}", suite.name);
        }
        for len in 1..sealed.len() {
            assert!(decryptor.decrypt(&sealed[..len]).is_err(), "{} cut to {len}", suite.name);
        }
        assert!(decryptor.decrypt(&sealed).is_ok());
    }
}

#[test]
fn every_short_frame_with_every_config_byte_is_one_error_and_the_right_one() {
    let ring = keyed(3, &[5; 16], Options::default());
    let decryptor = decryptor(&ring);
    for (len, filler) in (1..=40).flat_map(|len| [0x00, 0x07, 0x99].map(|filler| (len, filler))) {
        for config in 0..=255 {
            let frame = [&[config][..], &vec![filler; len - 1]].concat();
            let expected = match hazmat::parse_header(&frame) {
                Some((3, _, header)) if len >= header + 16 => DecryptError::AuthenticationFailed { kid: 3 },
                Some((kid, _, header)) if len >= header + 16 => DecryptError::UnknownKey { kid },
                _ => DecryptError::Malformed,
            };
            assert_eq!(decryptor.decrypt(&frame), Err(expected), "{frame:02x?}");
        }
    }
}

#[test]
fn a_frame_of_no_bytes_that_somebody_sealed_opens_to_no_bytes() {
    for suite in SUITES {
        let secret = Secret::key(b"a frame of no bytes").unwrap();
        let (key, mut nonce) = hazmat::derive(&profile::SFRAME, suite, 9, &secret).unwrap();
        nonce[11] ^= 5;
        let header = hazmat::header(9, 5);
        let sealed = [&header[..], &hazmat::seal(suite, &key, nonce, &header, b"").unwrap()].concat();
        let ring = ring(Options { suite: Some(suite.id), allow_draft: true, ..Options::default() });
        ring.set(9, &secret).unwrap();
        assert_eq!(decryptor(&ring).decrypt(&sealed), Ok(Vec::new()), "{}", suite.name);
    }
}

/// RFC 9605, section 4.4.3 makes no exception for an empty plaintext.
#[test]
fn a_frame_of_no_bytes_is_sealed_like_any_other() {
    for suite in SUITES {
        let secret = Secret::key(b"a frame of no bytes is sealed").unwrap();
        // A counter starts once per key id.
        for (kid, metadata) in [(9, &b""[..]), (10, b"metadata")] {
            let (key, nonce) = hazmat::derive(&profile::SFRAME, suite, kid, &secret).unwrap();
            let header = hazmat::header(kid, 0);
            let ring = ring(Options { suite: Some(suite.id), allow_draft: true, ..Options::default() });
            ring.set_from(kid, &secret, Some(0)).unwrap();
            let (encryptor, decryptor) = (encryptor(&ring), decryptor(&ring));
            let sealed = seal_with(&encryptor, b"", metadata);
            let tag = hazmat::seal(suite, &key, nonce, &[&header, metadata].concat(), b"").unwrap();
            assert_eq!(sealed, [&header[..], &tag].concat(), "{}", suite.name);
            assert_eq!(open_with(&decryptor, &sealed, metadata), Ok(Vec::new()));
            assert_eq!(open_with(&decryptor, &sealed, metadata), Err(DecryptError::Replayed { kid }));
            let mut forged = sealed;
            forged[header.len()] ^= 1;
            assert_eq!(
                open_with(&self::decryptor(&ring), &forged, metadata),
                Err(DecryptError::AuthenticationFailed { kid })
            );
            let (sent, received) = (encryptor.stats(), decryptor.stats());
            assert_eq!((sent.frames, sent.bytes, sent.empty, sent.key_frames), (1, 0, 0, 1));
            assert_eq!((received.frames, received.bytes, received.empty), (1, 0, 0));
        }
    }
}

#[test]
fn a_sealed_frame_of_no_bytes_is_malformed_whatever_the_codec() {
    let ring = keyed(1, b"no bytes at all, sealed", Options::default());
    for &codec in Codec::ALL {
        let encryptor = Encryptor::new(Arc::clone(&ring), codec).unwrap();
        let decryptor = Decryptor::new(Arc::clone(&ring), codec, None).unwrap();
        let sealed = encryptor.encrypt(b"").unwrap();
        assert!(sealed.len() > 16, "{codec:?}");
        assert_eq!(decryptor.decrypt(&sealed), Ok(Vec::new()), "{codec:?}");
        assert_eq!(decryptor.decrypt(b""), Err(DecryptError::Malformed), "{codec:?}");
        assert_eq!(open_with(&decryptor, b"", b"metadata"), Err(DecryptError::Malformed));
        assert!(matches!(decryptor.with_plan(b"", b"", |_| ()), Err(DecryptError::Malformed)));
        let stats = decryptor.stats();
        assert_eq!((stats.malformed, stats.empty, stats.frames), (3, 0, 1));
    }
}

#[test]
fn metadata_may_be_empty_or_long_and_must_be_the_same_to_the_last_byte() {
    let ring = keyed(1, b"metadata of any length", Options::default());
    let (encryptor, decryptor) = (encryptor(&ring), decryptor(&ring));
    for len in [0, 1, 16, 1 << 20] {
        let metadata = vec![7; len];
        let sealed = seal_with(&encryptor, b"a frame", &metadata);
        assert_eq!(sealed.len(), 1 + 7 + 16);
        for wrong in [&metadata[..len.saturating_sub(1)], &[&metadata[..], b"+"].concat()] {
            let same = wrong == metadata;
            assert_eq!(open_with(&self::decryptor(&ring), &sealed, wrong).is_ok(), same, "{len}, {}", wrong.len());
        }
        assert_eq!(open_with(&decryptor, &sealed, &metadata), Ok(b"a frame".to_vec()));
    }
}

#[test]
fn threads_and_tracks_that_share_a_key_never_share_a_counter() {
    for options in [Options::default(), Options { shared: true, ..Options::default() }] {
        let ring = keyed(1, b"threads share a counter", options);
        let threads = [(); 4].map(|()| {
            let encryptor = encryptor(&ring);
            std::thread::spawn(move || {
                let counter = |sealed: Vec<u8>| hazmat::parse_header(&sealed).unwrap();
                (0..5_000).map(|_| counter(encryptor.encrypt(b"x").unwrap())).collect::<Vec<_>>()
            })
        });
        let mut headers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        headers.sort_unstable();
        let kid = headers[0].0;
        assert!(headers.iter().map(|&(kid, ctr, _)| (kid, ctr)).eq((0..20_000).map(|ctr| (kid, ctr))));
    }
}

#[test]
fn frames_of_more_than_2_to_the_24_bytes_come_through() {
    let frame: Vec<u8> = (0..(1u32 << 24) + 1).map(|n| (n >> 4) as u8).collect();
    for suite in [1, 4, 5] {
        let ring = keyed(1, b"more than 2^24 bytes", Options { suite: Some(suite), ..Options::default() });
        let sealed = encryptor(&ring).encrypt(&frame).unwrap();
        assert_eq!(sealed.len(), 1 + frame.len() + if suite == 1 { 10 } else { 16 });
        assert!(decryptor(&ring).decrypt(&sealed).unwrap() == frame);
    }
}

#[test]
fn replays_are_refused_and_reordering_is_not() {
    let ring = keyed(9, &[6; 16], Options::default());
    let encryptor = encryptor(&ring);
    let sealed: Vec<_> = (0..1100u32).map(|n| encryptor.encrypt(&n.to_be_bytes()).unwrap()).collect();
    let decryptor = decryptor(&ring);
    for n in [5, 3, 4, 1050] {
        assert!(decryptor.decrypt(&sealed[n]).is_ok(), "{n}");
        assert_eq!(decryptor.decrypt(&sealed[n]), Err(DecryptError::Replayed { kid: 9 }));
    }
    // The window holds 1024 frames: 27 to 1050.
    assert_eq!(decryptor.decrypt(&sealed[26]), Err(DecryptError::Replayed { kid: 9 }));
    assert!(decryptor.decrypt(&sealed[27]).is_ok());
    let mut forged = sealed[1099].clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(decryptor.decrypt(&forged).is_err());
    assert!(decryptor.decrypt(&sealed[28]).is_ok(), "a forgery must not move the window");
}

#[test]
fn a_key_of_another_suite_opens_nothing() {
    let sealed = encryptor(&keyed(1, &[7; 16], Options::default())).encrypt(b"a frame").unwrap();
    for id in [1, 2, 3, 5] {
        let other = keyed(1, &[7; 16], Options { suite: Some(id), ..Options::default() });
        assert_eq!(decryptor(&other).decrypt(&sealed), Err(DecryptError::AuthenticationFailed { kid: 1 }));
    }
}
