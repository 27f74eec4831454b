//! Vectors that Nextcloud Talk's own code made (see tests/vectors/README.md). Where Talk sends or ends a track in a way
//! that is not safe, the tests say what this crate does instead.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::sync::Arc;

use frameseal::profile::{JITSI, NEXTCLOUD};
use frameseal::{
    CipherSuite, Codec, DecryptError, Decryptor, EncryptError, Encryptor, KeyError, KeyRing, Options, Secret, hazmat,
};
use serde_json::Value;

/// The groups of the file, and a test that reads each.
const GROUPS: [(&str, &str); 9] = [
    ("kdf", "keys_and_chains_are_derived_alike"),
    ("ratchet_chains", "keys_and_chains_are_derived_alike"),
    ("frames", "frames_open_and_are_sealed_to_the_same_bytes"),
    ("iv_sequence", "an_iv_means_nothing_in_whatever_order_it_arrives"),
    ("set_key", "a_course_of_keys_seals_under_the_same_key_and_never_in_the_clear"),
    ("send_cases", "what_talk_sends_in_the_clear_or_dies_of_is_refused"),
    ("receive_cases", "receiving_comes_out_as_talk_has_it_or_safer"),
    ("auto_ratchet", "a_sender_is_followed_as_far_as_talk_follows_it"), // and tests/unit/native/test_ratchet.py
    ("ratchet_sequences", "a_ratchet_moves_the_key_that_the_frame_names_and_no_other"),
];

fn file() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/nextcloud.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn group(name: &str) -> Vec<Value> {
    assert!(GROUPS.iter().any(|(group, _)| *group == name));
    let cases = file()[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(case, field)).unwrap()
}

fn key_index(case: &Value) -> u64 {
    case["key_index"].as_u64().unwrap()
}

/// Returns the codec whose clear bytes Talk leaves for a frame of this type: audio has none.
fn codec(case: &Value) -> Codec {
    if case["frame_type"].is_null() { Codec::Opus } else { Codec::Vp8 }
}

fn empty_ring(ratchet_window: u16) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&NEXTCLOUD, Options { ratchet_window, ..Options::default() }).unwrap())
}

fn ring(secret: &[u8], key_id: u64, ratchet_window: u16) -> Arc<KeyRing> {
    let ring = empty_ring(ratchet_window);
    ring.set(key_id, &Secret::key(secret).unwrap()).unwrap();
    ring
}

/// Returns a ring with the keys of a case, in their order. A key without a secret is removed.
fn ring_of(case: &Value) -> Arc<KeyRing> {
    let ring = empty_ring(8);
    for key in case["keys"].as_array().unwrap() {
        match key["secret_hex"].as_str() {
            Some(secret) => ring.set(key_index(key), &Secret::key(&hex::decode(secret).unwrap()).unwrap()).unwrap(),
            None => ring.remove(key_index(key)),
        }
    }
    ring
}

fn suite() -> &'static CipherSuite {
    empty_ring(0).suite()
}

fn derive(secret: &Secret) -> Vec<u8> {
    hazmat::derive(&NEXTCLOUD, suite(), 0, secret).unwrap().0
}

fn open(ring: &Arc<KeyRing>, codec: Codec, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
    Decryptor::new(Arc::clone(ring), codec, None).unwrap().decrypt(sealed)
}

#[test]
fn the_file_has_no_group_that_no_test_reads() {
    let groups: BTreeSet<_> = file().as_object().unwrap().keys().filter(|name| *name != "meta").cloned().collect();
    assert_eq!(groups, GROUPS.map(|(group, _)| group.to_owned()).into());
    for (group, test) in GROUPS {
        let source =
            include_str!("nextcloud.rs").split("#[test]").find(|source| source.contains(&format!("fn {test}()")));
        assert!(source.is_some_and(|source| source.contains(&format!("\"{group}\""))), "{test} does not read {group}");
    }
}

#[test]
fn keys_and_chains_are_derived_alike() {
    for case in group("kdf") {
        match Secret::key(&bytes(&case, "input_hex")) {
            Ok(secret) => assert_eq!(derive(&secret), bytes(&case, "aes_key_hex")),
            // Talk accepts a key of one byte. This crate does not.
            Err(error) => {
                assert_eq!((text(&case, "name"), error), ("1 byte", KeyError::ShortKey { given: 1, min: 16 }))
            }
        }
    }
    for chain in group("ratchet_chains") {
        let steps = chain["steps"].as_array().unwrap();
        let mut material = Secret::key(&bytes(&steps[0], "material_hex")).unwrap();
        for (n, step) in steps.iter().enumerate() {
            if n > 0 {
                let (next, next_bytes) = hazmat::ratchet(&NEXTCLOUD, suite(), &material).unwrap();
                assert_eq!(next_bytes, bytes(step, "material_hex"));
                material = next;
            }
            assert_eq!(derive(&material), bytes(step, "aes_key_hex"));
        }
    }
}

#[test]
fn frames_open_and_are_sealed_to_the_same_bytes() {
    let mut others = Vec::new();
    for case in group("frames") {
        let name = text(&case, "name");
        let codec = Codec::by_name(text(&case, "codec")).unwrap();
        if !NEXTCLOUD.accepts(codec) {
            others.push(codec.name());
            continue;
        }
        let (index, clear, wire) = (key_index(&case), bytes(&case, "clear_hex"), bytes(&case, "wire_hex"));
        let ring = ring(&bytes(&case, "secret_hex"), index, 0);
        assert_eq!(open(&ring, codec, &wire).as_deref(), Ok(clear.as_slice()), "{name}");
        let sealed =
            Encryptor::new(ring, codec).unwrap().encrypt_with_iv(&clear, bytes(&case, "iv_hex").try_into().unwrap());
        assert_eq!(sealed.unwrap(), wire, "{name}");
    }
    assert_eq!(others, ["vp9", "h264", "h264"], "their clear bytes are those of VP8, which no packetiser would carry");
}

#[test]
fn a_frame_of_another_vendor_with_the_same_key_does_not_open() {
    let secret = Secret::key(&[7; 32]).unwrap();
    let theirs = Arc::new(KeyRing::new(&JITSI, Options::default()).unwrap());
    theirs.set(0, &secret).unwrap();
    let sealed = Encryptor::new(theirs, Codec::Opus).unwrap().encrypt(b"a frame").unwrap();
    assert_eq!(open(&ring(&[7; 32], 0, 8), Codec::Opus, &sealed), Err(DecryptError::AuthenticationFailed { kid: 0 }));
}

#[test]
fn an_iv_means_nothing_in_whatever_order_it_arrives() {
    let case = file()["iv_sequence"].clone();
    let ring = ring(&bytes(&case, "secret_hex"), key_index(&case), 0);
    let (keys, frames): (Vec<_>, Vec<_>) =
        case["steps"].as_array().unwrap().iter().partition(|step| step["do"].is_string());
    for key in keys {
        ring.set(key_index(key), &Secret::key(&bytes(key, "secret_hex")).unwrap()).unwrap();
    }
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, Some(64)).unwrap();
    for step in frames.iter().rev() {
        assert_eq!(decryptor.decrypt(&bytes(step, "wire_hex")).unwrap(), bytes(step, "clear_hex"));
    }
    for step in frames {
        let (wire, clear) = (bytes(step, "wire_hex"), bytes(step, "clear_hex"));
        let index = u64::from(*wire.last().unwrap());
        assert_eq!(
            decryptor.decrypt(&wire),
            Err(DecryptError::Replayed { kid: index }),
            "a replay is the same IV again"
        );
        ring.set_sending_key_id(index).unwrap();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
        assert_eq!(encryptor.encrypt_with_iv(&clear, bytes(step, "iv_hex").try_into().unwrap()).unwrap(), wire);
    }
    // The web client writes SSRC, timestamp and count; the mobile client SSRC and a 64-bit counter. A receiver must
    // open both, and any other IV, on one track.
    for iv in
        [[0; 12], [0xFF; 12], *b"\x12\x34\x56\x78\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE", *b"\0\0\0\x01\0\0\0\0\0\0\0\x01"]
    {
        let sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt_with_iv(b"a frame", iv).unwrap();
        assert_eq!(decryptor.decrypt(&sealed).unwrap(), b"a frame");
    }
}

#[test]
fn a_course_of_keys_seals_under_the_same_key_and_never_in_the_clear() {
    let mut in_clear = 0;
    for case in group("set_key") {
        let (name, clear, ring) = (text(&case, "name"), bytes(&case, "clear_hex"), empty_ring(0));
        let mut current = None;
        for step in case["steps"].as_array().unwrap() {
            // The slot is the index modulo 16. Without an index it is the current one.
            let Some(index) = step["key_index"].as_u64().map(|index| index % 16).or(current) else {
                assert_eq!(step["wire_key_index"], 255, "{name}: a frame that nobody can open");
                assert!(ring.set(255, &Secret::key(&[7; 16]).unwrap()).is_err());
                assert_eq!(
                    open(&ring, Codec::Opus, &bytes(step, "wire_hex")),
                    Err(DecryptError::UnknownKey { kid: 255 })
                );
                continue;
            };
            current = Some(index);
            let secret = step["secret_hex"].as_str().map(|secret| hex::decode(secret).unwrap());
            match secret.as_deref() {
                Some([]) => {
                    assert!(Secret::key(&[]).is_err(), "{name}");
                    continue;
                }
                Some(secret) => ring.set(index, &Secret::key(secret).unwrap()).unwrap(),
                None => ring.remove(index),
            }
            ring.set_sending_key_id(index).unwrap();
            let slots: Vec<_> =
                step["after"]["slots"].as_array().unwrap().iter().map(|slot| slot["index"].as_u64().unwrap()).collect();
            assert_eq!(ring.key_ids(), slots, "{name}");
            let sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt(&clear);
            if text(step, "sends") == "clear" {
                assert_eq!(
                    (bytes(step, "wire_hex"), sealed),
                    (clear.clone(), Err(EncryptError::UnknownKey { kid: index }))
                );
                in_clear += 1;
                continue;
            }
            assert_eq!(u64::from(*sealed.unwrap().last().unwrap()), step["wire_key_index"].as_u64().unwrap(), "{name}");
            assert_eq!(open(&ring, Codec::Opus, &bytes(step, "wire_hex")).unwrap(), clear, "{name}");
        }
    }
    assert_eq!(in_clear, 2);
}

#[test]
fn what_talk_sends_in_the_clear_or_dies_of_is_refused() {
    for case in group("send_cases") {
        let (name, clear) = (text(&case, "name"), bytes(&case, "clear_hex"));
        let encryptor = Encryptor::new(ring_of(&case), codec(&case)).unwrap();
        let outcome = encryptor.encrypt(&clear);
        match name.split([':', ' ']).next().unwrap() {
            _ if clear.is_empty() => assert_eq!(outcome, Ok(Vec::new()), "{name}: there is nothing to protect"),
            "no" => assert_eq!(outcome, Err(EncryptError::UnknownKey { kid: 0 }), "{name}"),
            _ if case["throws"].is_string() => assert_eq!(outcome, Err(EncryptError::Malformed), "{name}"),
            // This crate knows no frame type "empty". The bytes decide, and no byte behind the third stays clear.
            "frame" => assert!(!outcome.unwrap().starts_with(&clear), "{name}"),
            "delta" => {
                let theirs = bytes(&case, "wire_hex");
                let iv = theirs[theirs.len() - 14..theirs.len() - 2].try_into().unwrap();
                assert_eq!(encryptor.encrypt_with_iv(&clear, iv).unwrap(), theirs, "{name}");
            }
            _ => panic!("a case that this test does not know: {name}"),
        }
    }
}

#[test]
fn receiving_comes_out_as_talk_has_it_or_safer() {
    for case in group("receive_cases") {
        let (name, wire) = (text(&case, "name"), bytes(&case, "wire_hex"));
        let outcome = open(&ring_of(&case), codec(&case), &wire);
        if name.starts_with("sealed with an IV of") {
            assert_eq!(
                outcome,
                Err(DecryptError::Malformed),
                "{name}: only the worker opens it, the mobile code does not"
            );
        } else if name.starts_with("shared-key mode") {
            assert_eq!(outcome, Err(DecryptError::UnknownKey { kid: 0 }), "{name}: no client has ever switched it on");
        } else if matches!(name, "key typed as delta" | "delta typed as key") {
            let original = group("receive_cases").iter().find(|other| other["wire_hex"] == case["wire_hex"]).cloned();
            let expected = bytes(&original.unwrap(), "forwarded_hex");
            assert_eq!(outcome.unwrap(), expected, "{name}: the first byte of a VP8 frame shows its type");
        } else if wire.is_empty() {
            assert_eq!(outcome, Ok(Vec::new()), "{name}: an empty frame is no frame that anybody could have sealed");
        } else if case["forwarded"].as_bool().unwrap() {
            assert_eq!(hex::encode(outcome.unwrap()), text(&case, "forwarded_hex"), "{name}");
        } else {
            let index = u64::from(wire[wire.len() - 1]);
            match outcome.unwrap_err() {
                DecryptError::UnknownKey { kid } => assert!(kid == index && case["decrypt_attempts"] == 0, "{name}"),
                DecryptError::AuthenticationFailed { kid } => {
                    assert!(kid == index && case["decrypt_attempts"] == 9, "{name}")
                }
                error => assert_eq!(error, DecryptError::Malformed, "{name}"),
            }
        }
    }
}

#[test]
fn a_sender_is_followed_as_far_as_talk_follows_it() {
    for case in group("auto_ratchet") {
        let window = u16::try_from(case["window"].as_u64().unwrap()).unwrap();
        let decryptor = Decryptor::new(ring(&bytes(&case, "secret_hex"), 0, window), codec(&case), None).unwrap();
        let opened = decryptor.decrypt(&bytes(&case, "wire_hex"));
        assert_eq!(opened.is_ok(), case["decrypted"].as_bool().unwrap(), "{}", case["sender_steps_ahead"]);
        if let Ok(opened) = opened {
            assert_eq!(opened, bytes(&case, "clear_hex"));
            assert_eq!(decryptor.stats().ratchets, case["sender_steps_ahead"].as_u64().unwrap());
        }
    }
}

#[test]
fn a_ratchet_moves_the_key_that_the_frame_names_and_no_other() {
    let mut only_here = 0;
    for case in group("ratchet_sequences") {
        let (name, ring) = (text(&case, "name"), ring_of(&case));
        let decryptor = Decryptor::new(Arc::clone(&ring), codec(&case), None).unwrap();
        let (mut steps_of, mut same_slot) = ([0; 16], true);
        for step in case["steps"].as_array().unwrap() {
            let (index, ahead) = (key_index(step), step["sender_step"].as_u64().unwrap());
            let known = &mut steps_of[usize::try_from(index).unwrap()];
            let expected = (*known..=*known + 8).contains(&ahead);
            assert_eq!(decryptor.decrypt(&bytes(step, "wire_hex")).is_ok(), expected, "{name}: {step}");
            // Talk's web client stores a step in the current slot, so a step at another index never opens. The mobile
            // client and this crate store it in the slot that the frame names.
            same_slot &= ahead == *known || step["receiver_after"]["current_index"] == step["key_index"];
            if same_slot {
                assert_eq!(step["decrypted"], expected, "{name}: {step}");
            } else {
                only_here += usize::from(expected && step["decrypted"] == false);
            }
            *known = if expected { ahead } else { *known };
        }
    }
    assert_eq!(only_here, 3);
}
