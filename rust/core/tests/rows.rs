//! Tests a made-up vendor and a made-up codec, each of one row. The core seals, opens and ratchets with both, and no
//! other line changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::num::NonZeroU32;
use std::sync::Arc;

use frameseal::hazmat::{self, MadeUpVendor};
use frameseal::profile::{self, Profile};
use frameseal::{Codec, ConfigError, DecryptError, Decryptor, Encryptor, KeyError, KeyRing, Kind, Options, Secret};

const TRAILER: &[u8] = b"a trailer of the made-up server";
const SILENCE: &[u8] = b"\x5a silence of the made-up codec";

fn codec() -> Codec {
    hazmat::made_up_audio_codec("made-up", 16_000)
}

fn vendor(name: &'static str) -> MadeUpVendor {
    MadeUpVendor {
        name,
        salts: [b"a made-up salt", b"a made-up ratchet salt"],
        ratchet_len: 48,
        iterations: None,
        info: b"a made-up info",
        clear: [4, 12, 5],
        byte_streams: false,
        blanks: &[(Codec::Opus, SILENCE)],
    }
}

fn ring(profile: &'static Profile, ratchet_window: u16) -> Arc<KeyRing> {
    let ring = KeyRing::new(profile, Options { ratchet_window, ..Options::default() }).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

fn track(ring: &Arc<KeyRing>, codec: Codec) -> (Encryptor, Decryptor) {
    (Encryptor::new(Arc::clone(ring), codec).unwrap(), Decryptor::new(Arc::clone(ring), codec, None).unwrap())
}

#[test]
fn a_made_up_codec_is_sealed_under_every_profile_as_any_audio_codec() {
    let (made_up, frame) = (codec(), b"\x5a a frame of a codec that nobody has");
    let info = made_up.info().unwrap();
    assert_eq!((info.kind, info.clock_rate, info.clear_rule()), (Kind::Audio, 16_000, Some("audio")));
    for profile in profile::ALL.into_iter().chain([hazmat::made_up_profile(vendor("with a codec"))]) {
        if profile.layout() == "footer" {
            // The vendor of this layout names its codecs, and refuses all others.
            assert!(!profile.accepts(made_up));
            continue;
        }
        assert!(profile.accepts(made_up));
        let ring = ring(profile, 0);
        let (encryptor, decryptor) = track(&ring, made_up);
        let sealed = encryptor.encrypt(frame).unwrap();
        assert_eq!(decryptor.decrypt(&sealed).unwrap(), frame, "{}", profile.name);
        let clear = match (profile.layout(), profile.name) {
            ("sframe", _) => 0,
            (_, "with a codec") => 4,
            _ => 1,
        };
        assert!(sealed.starts_with(&frame[..clear]), "{}", profile.name);
        assert!(!sealed.starts_with(&frame[..clear + 2]), "{}", profile.name);
    }
}

#[test]
fn a_made_up_codec_is_sealed_in_batches() {
    let (encryptor, decryptor) = track(&ring(&profile::LIVEKIT, 0), codec());
    let frames: Vec<Vec<u8>> = (1..40).map(|number| vec![number; usize::from(number)]).collect();
    let batch = encryptor.plan_batch(frames.iter().map(Vec::as_slice).collect(), 2).unwrap();
    let mut out = vec![0; batch.max_len()];
    let mut from = 0;
    for (len, frame) in batch.seal_into(&mut out, 2).unwrap().into_iter().zip(&frames) {
        assert_eq!(decryptor.decrypt(&out[from..from + len]).unwrap(), *frame);
        from += len;
    }
}

#[test]
fn a_made_up_vendor_leaves_its_own_bytes_clear() {
    let ring = ring(hazmat::made_up_profile(vendor("clear")), 0);
    for (codec, frame, clear) in [
        (Codec::Opus, &b"\x78 twenty milliseconds"[..], 4),
        (Codec::Vp8, b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00 a key frame", 12),
        (Codec::Vp8, b"\x11\x02\x00 a delta frame", 5),
    ] {
        let (encryptor, decryptor) = track(&ring, codec);
        let sealed = encryptor.encrypt(frame).unwrap();
        assert!(sealed.starts_with(&frame[..clear]) && !sealed.starts_with(&frame[..clear + 2]));
        assert_eq!(decryptor.decrypt(&sealed).unwrap(), frame);
    }
    for codec in [Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1] {
        let refused = ConfigError::UnsupportedCodec { codec: codec.name(), profile: "clear" };
        assert_eq!(Encryptor::new(Arc::clone(&ring), codec).err(), Some(refused));
    }
}

#[test]
fn a_made_up_vendor_has_passphrases_or_none() {
    let passphrase = Secret::passphrase(b"a passphrase").unwrap();
    let none = KeyRing::new(hazmat::made_up_profile(vendor("none")), Options::default()).unwrap();
    assert!(!none.profile().accepts_passphrases());
    assert_eq!(none.set(0, &passphrase), Err(KeyError::NoPassphrases));
    let some = MadeUpVendor { iterations: NonZeroU32::new(10), ..vendor("some") };
    let some = KeyRing::new(hazmat::made_up_profile(some), Options::default()).unwrap();
    assert!(some.profile().accepts_passphrases());
    some.set(0, &passphrase).unwrap();
}

#[test]
fn a_made_up_vendor_ratchets_by_its_own_salt_and_length() {
    let profile = hazmat::made_up_profile(vendor("ratchet"));
    let suite = ring(profile, 0).suite();
    let (_, material) = hazmat::ratchet(profile, suite, &Secret::key(&[7; 32]).unwrap()).unwrap();
    assert_eq!(material.len(), 48);
    let (sender, receiver) = (ring(profile, 0), ring(profile, 4));
    let decryptor = Decryptor::new(receiver, Codec::Opus, None).unwrap();
    for _ in 0..3 {
        sender.ratchet(0).unwrap();
    }
    let sealed = Encryptor::new(sender, Codec::Opus).unwrap().encrypt(b"three steps on").unwrap();
    assert_eq!(decryptor.decrypt(&sealed).unwrap(), b"three steps on");
    assert_eq!(decryptor.stats().ratchets, 3);
}

#[test]
fn no_key_of_a_made_up_vendor_opens_the_frames_of_another() {
    let theirs = track(&ring(&profile::LIVEKIT, 0), Codec::Opus);
    let ours = track(&ring(hazmat::made_up_profile(vendor("apart")), 0), Codec::Opus);
    for (encryptor, decryptor) in [(theirs.0, ours.1), (ours.0, theirs.1)] {
        let sealed = encryptor.encrypt(b"\x78 twenty milliseconds").unwrap();
        assert_eq!(decryptor.decrypt(&sealed), Err(DecryptError::AuthenticationFailed { kid: 0 }));
    }
}

#[test]
fn the_blank_frames_of_a_made_up_server_pass_and_no_others() {
    let profile = hazmat::made_up_profile(vendor("blank"));
    let (_, decryptor) = track(&ring(profile, 0), Codec::Opus);
    decryptor.set_sif_trailer(Some(TRAILER)).unwrap();
    let injected = [SILENCE, TRAILER].concat();
    assert_eq!(decryptor.sif_payload(&injected), Ok(Some(SILENCE)));
    assert!(Decryptor::holds_blank(profile, Codec::Opus, &injected));
    assert!(!Decryptor::holds_blank(&profile::LIVEKIT, Codec::Opus, &injected));
    let theirs = [&b"\xf8\xff\xfe"[..], &[0; 77], TRAILER].concat();
    assert_eq!(decryptor.sif_payload(&theirs), Err(DecryptError::Malformed));
    let (_, silent) = track(&ring(profile, 0), codec());
    silent.set_sif_trailer(Some(TRAILER)).unwrap();
    assert_eq!(silent.sif_payload(&injected), Err(DecryptError::Malformed));
}

#[test]
fn every_codec_is_found_by_its_name() {
    for &codec in Codec::ALL {
        let info = codec.info().unwrap();
        assert_eq!(Codec::by_name(info.name), Some(codec));
        assert_eq!(info.name, info.name.to_lowercase());
        let (rule, header_len) = match info.name {
            "vp8" => (Some("vp8"), 0),
            "vp9" => (Some("opaque"), 0),
            "h264" => (Some("annexb"), 1),
            "h265" => (Some("annexb"), 2),
            "av1" => (None, 0),
            _ => (Some("audio"), 0),
        };
        assert_eq!((info.clear_rule(), info.nal_header_len()), (rule, header_len), "{}", info.name);
        assert_eq!(info.kind.name(), if rule == Some("audio") { "audio" } else { "video" });
    }
    assert_eq!(Codec::by_name(codec().name()), None);
    assert_eq!((Codec::Unknown.info(), Codec::Unknown.name()), (None, "none"));
}
