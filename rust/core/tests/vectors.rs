//! Tests the vectors of other implementations (see tests/vectors/README.md), for sealing and for opening.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use frameseal::hazmat::{self, Scan};
use frameseal::{
    CipherSuite, Codec, ConfigError, DecryptError, Decryptor, EncryptError, Encryptor, KeyRing, Options, Profile,
    Secret,
};
use serde_json::Value;

const PASSPHRASE: &[u8] = b"my-shared-secret";

fn read(file: &str) -> Value {
    let path = format!("{}/../../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn group(file: &str, name: &str) -> Vec<Value> {
    let cases = read(file)[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(case, field)).unwrap()
}

fn number(case: &Value, field: &str) -> usize {
    usize::try_from(case[field].as_u64().unwrap_or_else(|| panic!("{field} in {case}"))).unwrap()
}

fn secret(case: &Value) -> Secret {
    let input = bytes(case, "input_hex");
    match text(case, "kdf") {
        "PBKDF2" => Secret::passphrase(&input).unwrap(),
        "HKDF" => Secret::key(&input).unwrap(),
        other => panic!("unknown KDF {other}"),
    }
}

/// Returns the AES-GCM suite with keys of `bits` bits.
fn suite(bits: usize) -> &'static CipherSuite {
    CipherSuite::by_id(if bits == 256 { 5 } else { 4 }).unwrap()
}

fn product(case: &Value) -> &'static Profile {
    Profile::by_name(text(case, "product")).unwrap()
}

/// Returns the ring that made a frame. Searches for its AES key among the secrets that the vectors use.
fn ring_of(case: &Value) -> Arc<KeyRing> {
    let wanted = bytes(case, "aes_key_hex");
    let raw: Vec<u8> = (0..32).collect();
    let secrets = [Secret::passphrase(PASSPHRASE), Secret::key(PASSPHRASE), Secret::key(&raw)];
    let key_size = u16::try_from(wanted.len() * 8).unwrap();
    for profile in [&frameseal::profile::LIVEKIT, &frameseal::profile::VIDEOSDK] {
        for secret in secrets.iter().map(|secret| secret.as_ref().unwrap()) {
            if hazmat::derive(profile, suite(wanted.len() * 8), 0, secret).unwrap().0 == wanted {
                let options = Options { key_size: Some(key_size), key_ring_size: 256, ..Options::default() };
                let ring = Arc::new(KeyRing::new(profile, options).unwrap());
                ring.set(number(case, "key_index") as u64, secret).unwrap();
                return ring;
            }
        }
    }
    panic!("no secret of the vectors results in the key of {case}");
}

fn ring_with(key_ids: &[u64], options: Options) -> Arc<KeyRing> {
    let ring = KeyRing::new(&frameseal::profile::LIVEKIT, options).unwrap();
    for key_id in key_ids {
        ring.set(*key_id, &Secret::passphrase(PASSPHRASE).unwrap()).unwrap();
    }
    Arc::new(ring)
}

fn codec(case: &Value) -> Codec {
    Codec::by_name(text(case, "codec")).unwrap()
}

#[test]
fn every_key_is_derived_as_the_others_derive_it() {
    for case in group("livekit.json", "kdf") {
        let (derived, _) = hazmat::derive(product(&case), suite(number(&case, "key_bits")), 0, &secret(&case)).unwrap();
        assert_eq!(hex::encode(derived), text(&case, "aes_key_hex"), "{}", text(&case, "name"));
    }
}

#[test]
fn every_ratchet_chain_goes_the_same_way() {
    for chain in group("livekit.json", "ratchet_chains") {
        let profile = product(&chain);
        let steps = chain["steps"].as_array().unwrap();
        let start = bytes(&steps[0], "material_hex");
        let mut material = match text(&chain, "kdf") {
            "PBKDF2" => Secret::passphrase(&start).unwrap(),
            _ => Secret::key(&start).unwrap(),
        };
        for (n, step) in steps.iter().enumerate() {
            if n > 0 {
                let (next, material_bytes) = hazmat::ratchet(profile, suite(128), &material).unwrap();
                assert_eq!(hex::encode(material_bytes), text(step, "material_hex"));
                material = next;
            }
            let (key, _) = hazmat::derive(profile, suite(128), 0, &material).unwrap();
            assert_eq!(hex::encode(key), text(step, "aes_key_hex"));
        }
    }
}

/// Returns whether a case has SEI. Only there our frames differ from the worker's on purpose: SEI is never sent.
fn has_sei(case: &Value) -> bool {
    text(case, "clear_hex").contains("0000000106")
}

#[test]
fn every_frame_of_the_worker_and_of_the_native_sdk_opens() {
    for file in ["livekit.json", "livekit-native.json"] {
        for case in group(file, "frames") {
            let name = text(&case, "name");
            let decryptor = Decryptor::new(ring_of(&case), codec(&case), None).unwrap();
            let opened = decryptor.decrypt(&bytes(&case, "wire_hex")).unwrap_or_else(|error| panic!("{name}: {error}"));
            let expected = case["decoded_hex"].as_str().unwrap_or_else(|| text(&case, "clear_hex"));
            assert_eq!(hex::encode(opened), expected, "{name}");
        }
    }
}

#[test]
fn every_frame_is_sealed_to_the_same_bytes() {
    let mut sealed_frames = 0;
    for file in ["livekit.json", "livekit-native.json"] {
        for case in group(file, "frames").iter().filter(|case| !has_sei(case)) {
            let encryptor = Encryptor::new(ring_of(case), codec(case)).unwrap();
            let iv = bytes(case, "iv_hex").try_into().unwrap();
            let sealed = encryptor.encrypt_with_iv(&bytes(case, "clear_hex"), iv).unwrap();
            assert_eq!(hex::encode(&sealed), text(case, "wire_hex"), "{}", text(case, "name"));
            sealed_frames += 1;
        }
    }
    assert_eq!(sealed_frames, 26 + 11 - 1);
}

#[test]
fn sei_is_taken_out_so_that_the_clear_header_fits_one_byte() {
    let cases = group("livekit.json", "frames");
    let case = cases.iter().find(|case| has_sei(case)).unwrap();
    let encryptor = Encryptor::new(ring_of(case), Codec::H264).unwrap();
    let decryptor = Decryptor::new(ring_of(case), Codec::H264, None).unwrap();
    assert!(number(case, "clear_len") > 255);

    let opened = decryptor.decrypt(&encryptor.encrypt(&bytes(case, "clear_hex")).unwrap()).unwrap();

    let without_sei = cases.iter().find(|case| text(case, "name").contains("SPS+PPS+IDR, 4-byte")).unwrap();
    assert_eq!(hex::encode(opened), text(without_sei, "clear_hex"));
    assert_eq!(encryptor.stats().long_headers, 0);
}

#[test]
fn the_edge_cases_of_sending_come_out_as_the_worker_has_them_or_safer() {
    for case in group("livekit.json", "encode_edge") {
        let name = text(&case, "name");
        let clear = bytes(&case, "clear_hex");
        if name.starts_with("av1") {
            let refused = Encryptor::new(ring_with(&[0], Options::default()), Codec::Av1).err();
            assert_eq!(refused, Some(ConfigError::UnsupportedCodec { codec: "av1", profile: "livekit" }));
            continue;
        }
        let keys: &[u64] = if name.starts_with("no key") { &[] } else { &[0] };
        let encryptor = Encryptor::new(ring_with(keys, Options::default()), codec(&case)).unwrap();
        let outcome = encryptor.encrypt(&clear);
        match name.split([':', ' ']).next().unwrap() {
            "empty" => assert_eq!(outcome, Ok(Vec::new())),
            // The worker can be switched to send frames in the clear. This crate cannot.
            "encryption" => assert_ne!(outcome.unwrap(), clear),
            "no" => assert_eq!(outcome, Err(EncryptError::UnknownKey { kid: 0 })),
            // These frames end the worker's pipe. This crate refuses the one frame.
            "vp8" => assert_eq!(outcome, Err(EncryptError::Malformed)),
            // The worker, the native SDK and the Go SDK treat these frames differently, so they wait for a slice.
            "h264" => assert_eq!(outcome, Ok(Vec::new())),
            other => panic!("a case that this test does not know: {other} of {name}"),
        }
    }
}

/// Returns whether a case is about the worker's signalling, or about frames that a LiveKit server injects in the clear.
/// A decryptor cannot decide these cases, so it refuses the frames.
fn is_not_a_decryptors_to_decide(name: &str) -> bool {
    name.starts_with("sender known") || name.starts_with("encryption state") || name.starts_with("SIF")
}

#[test]
fn receiving_comes_out_as_the_worker_has_it_or_safer() {
    for case in group("livekit.json", "decode_cases") {
        let name = text(&case, "name");
        let wire = bytes(&case, "wire_hex");
        if codec(&case) == Codec::Av1 {
            let refused = Decryptor::new(ring_with(&[0], Options::default()), Codec::Av1, None).err();
            assert_eq!(refused, Some(ConfigError::UnsupportedCodec { codec: "av1", profile: "livekit" }));
            continue;
        }
        let window = case["options"]["ratchetWindowSize"].as_u64().unwrap_or(0);
        let key_ids: Vec<u64> = case["receiver_key_indices"]
            .as_array()
            .map_or(vec![], |ids| ids.iter().map(|id| id.as_u64().unwrap()).collect());
        let options = Options { ratchet_window: window.try_into().unwrap(), ..Options::default() };
        let ring = if name.starts_with("wrong passphrase") {
            let ring = KeyRing::new(&frameseal::profile::LIVEKIT, options).unwrap();
            ring.set(0, &Secret::passphrase(b"not the right one").unwrap()).unwrap();
            Arc::new(ring)
        } else {
            ring_with(&key_ids, options)
        };
        let outcome = Decryptor::new(ring, codec(&case), None).unwrap().decrypt(&wire);
        if name == "vp8 key frame fed as delta (frame type lost)" {
            // The first byte of the frame shows its type, so the type cannot be lost.
            assert!(outcome.is_ok(), "{name}");
        } else if is_not_a_decryptors_to_decide(name) {
            assert!(matches!(outcome, Err(DecryptError::Malformed | DecryptError::UnknownKey { .. })), "{name}");
        } else if number(&case, "forwarded") == 1 {
            assert_eq!(hex::encode(outcome.unwrap()), text(&case, "forwarded_hex"), "{name}");
        } else {
            let error = outcome.unwrap_err();
            match case["errors"][0]["reason"].as_str().unwrap() {
                // A frame without a valid trailer names no key id, so no key can be missing.
                "MissingKey" => {
                    let index_is_real = wire.len() >= 31 && wire[wire.len() - 2] == 12;
                    match error {
                        DecryptError::UnknownKey { kid } => assert_eq!(kid, u64::from(wire[wire.len() - 1]), "{name}"),
                        other => assert!(other == DecryptError::Malformed && !index_is_real, "{name}: {other}"),
                    }
                }
                "InvalidKey" => assert!(
                    matches!(error, DecryptError::AuthenticationFailed { kid: 0 } | DecryptError::Malformed),
                    "{name}: {error}"
                ),
                other => panic!("a reason that this test does not know: {other} in {name}"),
            }
        }
    }
}

#[test]
fn a_sender_that_ratcheted_is_followed_within_the_window() {
    for case in group("livekit.json", "auto_ratchet") {
        let ahead = number(&case, "sender_steps_ahead");
        let window = number(&case, "receiver_ratchetWindowSize");
        let options = Options { ratchet_window: window.try_into().unwrap(), ..Options::default() };
        let ring = Arc::new(KeyRing::new(&frameseal::profile::LIVEKIT, options).unwrap());
        let raw: Vec<u8> = (0..32).collect();
        ring.set(0, &Secret::key(&raw).unwrap()).unwrap();
        let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
        // The worker tests one step only, whatever its window is. The native SDK and this crate test the whole window.
        let opened = decryptor.decrypt(&bytes(&case, "wire_hex")).unwrap();
        assert_eq!(hex::encode(opened), text(&case, "clear_hex"));
        assert_eq!(decryptor.stats().ratchets, ahead as u64);
    }
}

#[test]
fn nal_units_are_found_where_the_worker_finds_them() {
    for case in group("livekit.json", "nalu") {
        let name = text(&case, "name");
        let scan = hazmat::scan(&bytes(&case, "data_hex"));
        match case["throws"].as_str() {
            Some("byte stream contains leading data") => assert_eq!(scan, Scan::NotAnnexB, "{name}"),
            Some(_) => assert!(matches!(scan, Scan::NoSlice | Scan::NotAnnexB), "{name}"),
            None if text(&case, "detectedCodec") == "unknown" => assert_eq!(scan, Scan::NoSlice, "{name}"),
            None => match scan {
                Scan::Slice(clear, standard) => {
                    assert_eq!((clear, standard), (number(&case, "unencryptedBytes"), text(&case, "detectedCodec")));
                }
                other => panic!("{name}: {other:?}"),
            },
        }
    }
}

#[test]
fn escapes_are_put_in_and_taken_out_alike() {
    for case in group("livekit.json", "rbsp") {
        let (raw, escaped) = (bytes(&case, "raw_hex"), bytes(&case, "escaped_hex"));
        assert_eq!(hex::encode(hazmat::escape(&raw)), text(&case, "escaped_hex"));
        assert_eq!(hex::encode(hazmat::unescape(&escaped)), text(&case, "unescaped_hex"));
    }
}

#[test]
fn start_codes_before_the_first_slice_become_four_bytes_long() {
    let iv = [0x11; 12];
    let slice = hex::decode("00000141e0aabbccdd").unwrap();
    for case in group("livekit.json", "start_code_normalization") {
        let (before, after) = (bytes(&case, "in_hex"), text(&case, "out_hex"));
        // The group tests a bare function, and this test the sent frame. It leaves out bytes that no sender puts in
        // front of a slice: bytes without a start code, and start codes without a NAL unit behind them.
        if !after.starts_with("00000001") || after.ends_with("000001") {
            continue;
        }
        let encryptor = Encryptor::new(ring_with(&[0], Options::default()), Codec::H264).unwrap();
        let unit_as_sps = |hex: &str| hex.replace("41", "67").replace("01bb", "0168");
        let frame = [hex::decode(unit_as_sps(&hex::encode(before))).unwrap(), slice.clone()].concat();
        let sealed = encryptor.encrypt_with_iv(&frame, iv).unwrap();
        let expected = unit_as_sps(after) + "0000000141e0";
        assert!(hex::encode(&sealed).starts_with(&expected), "{} for {expected}", hex::encode(sealed));
    }
}
