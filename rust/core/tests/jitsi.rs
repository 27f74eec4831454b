//! Vectors that lib-jitsi-meet's own code made (see tests/vectors/README.md), in both directions.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use frameseal::profile::JITSI;
use frameseal::{CipherSuite, Codec, ConfigError, Decryptor, Encryptor, KeyRing, Options, Secret, hazmat};
use serde_json::Value;

fn group(name: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/jitsi.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = file[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(case[field].as_str().unwrap()).unwrap()
}

fn ring(secret: &[u8], key_id: u64, ratchet_window: u16) -> Arc<KeyRing> {
    let ring = KeyRing::new(&JITSI, Options { ratchet_window, ..Options::default() }).unwrap();
    ring.set(key_id, &Secret::key(secret).unwrap()).unwrap();
    Arc::new(ring)
}

fn suite() -> &'static CipherSuite {
    KeyRing::new(&JITSI, Options::default()).unwrap().suite()
}

fn derive(secret: &Secret) -> Vec<u8> {
    hazmat::derive(&JITSI, suite(), 0, secret).unwrap().0
}

#[test]
fn keys_and_chains_are_derived_alike() {
    for case in group("kdf") {
        let secret = Secret::key(&bytes(&case, "input_hex")).unwrap();
        assert_eq!(derive(&secret), bytes(&case, "aes_key_hex"));
    }
    for chain in group("ratchet_chains") {
        let steps = chain["steps"].as_array().unwrap();
        let mut material = Secret::key(&bytes(&steps[0], "material_hex")).unwrap();
        for (n, step) in steps.iter().enumerate() {
            if n > 0 {
                let (next, next_bytes) = hazmat::ratchet(&JITSI, suite(), &material).unwrap();
                assert_eq!(next_bytes, bytes(step, "material_hex"));
                material = next;
            }
            let key = derive(&material);
            assert_eq!(key, bytes(step, "aes_key_hex"));
        }
    }
}

#[test]
fn frames_open_and_are_sealed_to_the_same_bytes() {
    for case in group("frames") {
        let codec = Codec::by_name(case["codec"].as_str().unwrap()).unwrap();
        let ring = ring(&bytes(&case, "secret_hex"), case["key_index"].as_u64().unwrap(), 0);
        let opened = Decryptor::new(Arc::clone(&ring), codec, None).unwrap().decrypt(&bytes(&case, "wire_hex"));
        assert_eq!(opened.unwrap(), bytes(&case, "clear_hex"), "{}", case["name"]);
        let iv = bytes(&case, "iv_hex").try_into().unwrap();
        let sealed = Encryptor::new(ring, codec).unwrap().encrypt_with_iv(&bytes(&case, "clear_hex"), iv);
        assert_eq!(sealed.unwrap(), bytes(&case, "wire_hex"), "{}", case["name"]);
    }
}

#[test]
fn a_sender_is_followed_as_far_as_they_follow_it() {
    let raw: Vec<u8> = (0..32).collect();
    for case in group("auto_ratchet") {
        let decryptor = Decryptor::new(ring(&raw, 0, 8), Codec::Opus, None).unwrap();
        let opened = decryptor.decrypt(&bytes(&case, "wire_hex"));
        assert_eq!(opened.is_ok(), case["decrypted"].as_bool().unwrap(), "{}", case["sender_steps_ahead"]);
        if let Ok(opened) = opened {
            assert_eq!(opened, bytes(&case, "clear_hex"));
            assert_eq!(decryptor.stats().ratchets, case["sender_steps_ahead"].as_u64().unwrap());
        }
    }
}

#[test]
fn codecs_whose_frames_would_not_survive_are_refused() {
    for codec in [Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1] {
        let refused = Encryptor::new(ring(&[7; 16], 0, 0), codec).err();
        assert_eq!(refused, Some(ConfigError::UnsupportedCodec { codec: codec.name(), profile: "jitsi" }));
    }
}
