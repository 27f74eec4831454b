//! Vectors that Stream's own worker made (see tests/vectors/README.md). Where it forwards what it could not open, the
//! tests say what this crate does instead.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, missing_docs)]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use frameseal::profile::STREAM;
use frameseal::{
    ApiMisuse, Codec, ConfigError, DataCryptor, DecryptError, Decryptor, EncryptError, Encryptor, KeyError, KeyRing,
    Options, Secret, hazmat,
};
use serde_json::Value;

/// The groups of the file, and a test that reads each.
const GROUPS: [(&str, &str); 16] = [
    ("published", "every_frame_opens_whatever_the_receiver_believes_the_codec_to_be"),
    ("frames", "frames_are_sealed_to_the_same_bytes_wherever_the_same_bytes_stay_clear"),
    ("escaping", "escapes_are_put_in_and_taken_out_alike"),
    ("unescaping", "escapes_are_put_in_and_taken_out_alike"),
    ("seed_zeros", "escapes_are_put_in_and_taken_out_alike"),
    ("clear_length", "the_clear_bytes_are_theirs_for_frames_that_are_what_they_are_said_to_be"),
    ("counter_sequence", "counters_ascend_from_one_under_each_key_and_no_key_of_ours_repeats_an_iv"),
    ("counter_ceiling", "a_key_is_exhausted_before_its_counter_comes_round"),
    ("send_cases", "what_they_refuse_to_send_is_refused_and_nothing_else_is_sent_in_the_clear"),
    ("receive_cases", "receiving_comes_out_as_theirs_or_safer"),
    ("replay", "replays_are_refused_where_theirs_are_and_where_they_have_forgotten_too"),
    ("replay_window", "the_window_is_theirs_and_forgets_no_prefix"),
    ("events", "failures_are_counted_until_a_frame_opens"), // and tests/unit/e2ee/test_stream_states.py
    ("key_operations", "a_course_of_keys_never_seals_under_a_key_that_they_would_not_use"),
    ("fingerprints", "their_fingerprint_is_no_fingerprint_of_ours"), // and tests/unit/native/test_stream.py
    ("key_import", "a_key_has_exactly_the_length_of_its_suite"),
];

fn file() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/stream.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn group(name: &str) -> Vec<Value> {
    assert!(GROUPS.iter().any(|(group, _)| *group == name));
    let cases = file()[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn list<'a>(case: &'a Value, field: &str) -> &'a [Value] {
    case[field].as_array().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("{field} in {case}"))
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(case, field)).unwrap()
}

/// Returns the plain frame. A long one is written as parts with their repetitions.
fn clear(case: &Value) -> Vec<u8> {
    let Some(parts) = case["clear_parts"].as_array() else { return bytes(case, "clear_hex") };
    let part =
        |part: &Value| hex::decode(part[0].as_str().unwrap()).unwrap().repeat(part[1].as_u64().unwrap() as usize);
    parts.iter().flat_map(part).collect()
}

/// Returns the sealed frame. Behind a long clear header only the rest of it is written.
fn wire(case: &Value) -> Vec<u8> {
    if case["wire_hex"].is_string() {
        return bytes(case, "wire_hex");
    }
    let mut sealed = clear(case);
    sealed.truncate(number(case, "clear_len") as usize);
    let (end, behind) = (bytes(case, "wire_end_hex"), number(case, "wire_len") as usize - sealed.len());
    sealed.extend_from_slice(&end[end.len() - behind..]);
    sealed
}

/// Returns the codec of a case. A track without a codec is audio for them; here it leaves no byte clear.
fn codec(case: &Value) -> Codec {
    case["codec"].as_str().map_or(Codec::Unknown, |name| Codec::by_name(name).unwrap())
}

fn empty_ring(bits: u16) -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&STREAM, Options { key_size: Some(bits), ..Options::default() }).unwrap())
}

fn ring(key: &[u8], index: u64) -> Arc<KeyRing> {
    let ring = empty_ring(key.len() as u16 * 8);
    ring.set(index, &Secret::key(key).unwrap()).unwrap();
    ring.set_sending_key_id(index).unwrap();
    ring
}

/// Returns the ring of a participant: the own keys, with those that all share behind them.
fn ring_of(case: &Value, user: &str) -> Arc<KeyRing> {
    let keys = list(case, "keys");
    let bits = keys.first().map_or(128, |key| bytes(key, "key_hex").len() as u16 * 8);
    let shared = empty_ring(bits);
    let own = Arc::new(
        KeyRing::new(&STREAM, Options { key_size: Some(bits), ..Options::default() })
            .unwrap()
            .with_fallback(Arc::clone(&shared))
            .unwrap(),
    );
    for key in keys {
        let ring = match text(key, "kind") {
            "shared" => &shared,
            _ if key["user"].as_str().is_none_or(|of| of == user) => &own,
            _ => continue,
        };
        // Their last import seals.
        ring.set(number(key, "key_index"), &Secret::key(&bytes(key, "key_hex")).unwrap()).unwrap();
        ring.set_sending_key_id(number(key, "key_index")).unwrap();
    }
    own
}

/// Returns the IV of a sealed frame, by the rule of the format.
fn iv_of(case: &Value) -> [u8; 12] {
    let mut iv = bytes(case, "iv_prefix_hex");
    iv.extend_from_slice(&(number(case, "counter") as u32).to_be_bytes());
    iv.try_into().unwrap()
}

fn open(ring: &Arc<KeyRing>, codec: Codec, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
    Decryptor::new(Arc::clone(ring), codec, None).unwrap().decrypt(sealed)
}

/// Returns counter and prefix of a frame without escapes.
fn counter_and_prefix(sealed: &[u8]) -> (u32, Vec<u8>) {
    let footer = &sealed[sealed.len() - 20..];
    (u32::from_be_bytes(footer[..4].try_into().unwrap()), footer[4..12].to_vec())
}

#[test]
fn the_file_has_no_group_that_no_test_reads() {
    let groups: BTreeSet<_> = file().as_object().unwrap().keys().filter(|name| *name != "meta").cloned().collect();
    assert_eq!(groups, GROUPS.map(|(group, _)| group.to_owned()).into());
    for (group, test) in GROUPS {
        let source = include_str!("stream.rs").split("#[test]").find(|source| source.contains(&format!("fn {test}()")));
        assert!(source.is_some_and(|source| source.contains(&format!("\"{group}\""))), "{test} does not read {group}");
    }
}

#[test]
fn every_frame_opens_whatever_the_receiver_believes_the_codec_to_be() {
    for case in [group("published"), group("frames")].concat() {
        let ring = ring(&bytes(&case, "key_hex"), number(&case, "key_index"));
        for codec in [codec(&case), Codec::Opus, Codec::H264, Codec::Unknown] {
            assert_eq!(open(&ring, codec, &wire(&case)).unwrap(), clear(&case), "{}", text(&case, "name"));
        }
    }
}

#[test]
fn frames_are_sealed_to_the_same_bytes_wherever_the_same_bytes_stay_clear() {
    let (mut same, mut differing) = (0, BTreeSet::new());
    for case in [group("published"), group("frames")].concat() {
        let name = text(&case, "name").to_owned();
        let ring = ring(&bytes(&case, "key_hex"), number(&case, "key_index"));
        let encryptor = Encryptor::new(Arc::clone(&ring), codec(&case)).unwrap();
        match encryptor.encrypt_with_iv(&clear(&case), iv_of(&case)) {
            Ok(sealed) if sealed == wire(&case) => same += 1,
            Ok(sealed) if sealed.is_empty() => assert!(differing.insert((name, "waits"))),
            Ok(sealed) => {
                open(&ring, codec(&case), &sealed).unwrap();
                assert!(differing.insert((name, "other clear bytes")));
            }
            Err(error) => {
                assert_eq!(error, EncryptError::Malformed, "{name}");
                assert!(differing.insert((name, "refused")));
            }
        }
    }
    // The frames of VP8 and VP9 have random bytes, which do not show the frame type that was passed beside them. Those
    // of H.264 are normalised, lose their SEI, wait for a slice, or are refused since a picture would stay readable.
    let expected = [
        ("audio without a codec name", "other clear bytes"),
        ("h264 620-byte SEI before the IDR (clear length above 255)", "other clear bytes"),
        ("h264 AUD SEI SPS PPS IDR", "other clear bytes"),
        ("h264 SPS PPS IDR, three-byte codes", "other clear bytes"),
        ("h264 clear length 256 (low byte zero)", "other clear bytes"),
        ("h264 clear length 32767, the most", "other clear bytes"),
        ("h264 data partition A (type 2) then IDR", "refused"),
        ("h264 five leading zeros", "other clear bytes"),
        ("h264 no slice: SPS and PPS only (clear length 0, no escaping)", "waits"),
        ("h264 no start code at all", "refused"),
        ("h264 slice (type 1), three-byte code", "other clear bytes"),
        ("h264 slice header byte is the last byte (clamped)", "refused"),
        ("h264 start code at the very end (no header byte)", "waits"),
        ("vp8 frame type empty", "other clear bytes"),
        ("vp8 key of 4 bytes (header clamped)", "other clear bytes"),
        ("vp9 delta", "other clear bytes"),
        ("vp9 key of 4 bytes (header clamped)", "other clear bytes"),
        ("vp9 key of 11 bytes", "other clear bytes"),
        ("vp9 key of exactly 10 bytes", "other clear bytes"),
    ];
    assert_eq!(differing, expected.map(|(name, how)| (name.to_owned(), how)).into());
    assert_eq!(same, 65);
}

#[test]
fn escapes_are_put_in_and_taken_out_alike() {
    for case in group("escaping") {
        let (zeros, raw, escaped) =
            (number(&case, "seed_zeros") as usize, bytes(&case, "raw_hex"), bytes(&case, "escaped_hex"));
        assert_eq!(hazmat::escape_behind(zeros, &raw), escaped, "{case}");
        assert_eq!(hazmat::unescape_behind(zeros, &escaped), bytes(&case, "unescaped_hex"), "{case}");
    }
    for case in group("unescaping") {
        let unescaped = hazmat::unescape_behind(number(&case, "seed_zeros") as usize, &bytes(&case, "escaped_hex"));
        assert_eq!(unescaped, bytes(&case, "raw_hex"), "{case}");
    }
    for case in group("seed_zeros") {
        assert_eq!(hazmat::zeros_before(&bytes(&case, "clear_header_hex")), number(&case, "seed_zeros") as usize);
    }
}

/// Returns the length of the clear header that a sealed frame states.
fn stated_clear_len(sealed: &[u8]) -> usize {
    let field = &sealed[sealed.len() - 7..sealed.len() - 5];
    usize::from(u16::from_be_bytes(field.try_into().unwrap()) & 0x7FFF)
}

#[test]
fn the_clear_bytes_are_theirs_for_frames_that_are_what_they_are_said_to_be() {
    let ring = ring(&[7; 16], 0);
    let mut differing = BTreeSet::new();
    for case in group("clear_length") {
        let (data, codec, theirs) = (bytes(&case, "data_hex"), codec(&case), number(&case, "clear_len") as usize);
        let ours = match Encryptor::new(Arc::clone(&ring), codec).unwrap().encrypt(&data) {
            Ok(sealed) if sealed.is_empty() => "waits".to_owned(),
            Ok(sealed) => {
                assert!(open(&ring, codec, &sealed).is_ok());
                stated_clear_len(&sealed).to_string()
            }
            Err(error) => format!("{error:?}"),
        };
        if ours != theirs.to_string() {
            let first: String = text(&case, "data_hex").chars().take(24).collect();
            let kind = case["frame_type"].as_str().unwrap_or("no type");
            assert!(differing.insert(format!("{} {kind} {first}: {theirs}, {ours}", codec.name())));
        }
    }
    // A first bit of 0 shows a key frame of VP8 and VP9, whatever type was passed beside it. A track without a codec
    // leaves no byte clear. Start codes of three bytes become codes of four, an access unit delimiter stays, and
    // leading zeros go. Frames without a slice wait for it. A slice without a payload, a data partition and bytes
    // that are no byte stream are refused. One of the cases reads as a slice of H.265.
    let expected = [
        "none no type 78aabb: 1, 0",
        "vp8 delta 000000000000000000000000: 3, 10",
        "vp8 key 0102030405: 5, 3",
        "vp9 delta 000000000000000000000000: 3, 10",
        "vp9 no type 000000000000000000000000: 3, 10",
        "h264 delta 00000141: 4, Malformed",
        "h264 key 0000000067: 0, Malformed",
        "h264 key 000000016742: 0, waits",
        "h264 key 00000001: 0, waits",
        "h264 key 000001: 0, waits",
        "h264 key 00000100000165aabb: 8, 6",
        "h264 key 000001000001: 0, 6",
        "h264 key 00000102aabbcc00000121aa: 12, Malformed",
        "h264 key 00000109100000016588aa: 10, 12",
        "h264 key 0000016588: 5, 6",
        "h264 key 00000165: 4, Malformed",
        "h264 key 000001e5aabbcc: 5, 6",
        "h264 key 0000020000010001: 0, Malformed",
        "h264 key ffffff: 0, Malformed",
    ];
    assert_eq!(differing, expected.map(str::to_owned).into());
    // VP9: profile 0 to 3, key and other frames, and one that shows an existing frame (uncompressed_header(), 6.2).
    for (first, expected) in
        [(0x82, 10), (0x86, 3), (0x8A, 3), (0xA2, 10), (0x92, 10), (0xB1, 10), (0xB2, 3), (0xB4, 3)]
    {
        let sealed = Encryptor::new(Arc::clone(&ring), Codec::Vp9).unwrap().encrypt(&[first; 40]).unwrap();
        assert_eq!(stated_clear_len(&sealed), expected, "{first:#x}");
    }
    for (codec, frame, expected) in
        [(Codec::Vp8, &[0x10, 2, 3][..], 3), (Codec::Vp9, &[0x88], 1), (Codec::Opus, &[0xFC], 1)]
    {
        let sealed = Encryptor::new(Arc::clone(&ring), codec).unwrap().encrypt(frame).unwrap();
        assert_eq!((stated_clear_len(&sealed), open(&ring, codec, &sealed).unwrap()), (expected, frame.to_vec()));
    }
}

#[test]
fn a_clear_header_that_its_field_cannot_hold_is_refused() {
    let ring = ring(&[7; 16], 0);
    for (parameters, fits) in [(0x7FFF - 11, true), (0x7FFF - 10, false), (60_000, false)] {
        let unit = [&[0, 0, 0, 1, 0x67][..], &vec![0x42; parameters], &[0, 0, 0, 1, 0x65, 0xB8, 0x40, 0x99]].concat();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
        match encryptor.encrypt(&unit) {
            Ok(sealed) => assert_eq!((stated_clear_len(&sealed), fits), (0x7FFF, true)),
            Err(error) => assert_eq!((error, fits, encryptor.stats().malformed), (EncryptError::Malformed, false, 1)),
        }
    }
}

#[test]
fn counters_ascend_from_one_under_each_key_and_no_key_of_ours_repeats_an_iv() {
    let case = file()["counter_sequence"].clone();
    let shared = empty_ring(128);
    let ring = KeyRing::new(&STREAM, Options::default()).unwrap().with_fallback(Arc::clone(&shared)).unwrap();
    let ring = Arc::new(ring);
    let mut last: HashMap<Vec<u8>, u32> = HashMap::new();
    for step in case.as_array().unwrap() {
        let target = if text(step, "do").contains("shared") { &shared } else { &ring };
        match text(step, "do") {
            "set_key" | "set_shared_key" => {
                let index = number(step, "key_index");
                target.set(index, &Secret::key(&bytes(step, "key_hex")).unwrap()).unwrap();
                target.set_sending_key_id(index).unwrap();
            }
            "remove_key" | "remove_shared_key" => target.remove(number(step, "key_index")),
            "remove_all_keys" => target.key_ids().into_iter().for_each(|index| target.remove(index)),
            "frame" => {
                let clear = bytes(step, "clear_hex");
                let sealed = Encryptor::new(Arc::clone(&ring), codec(step)).unwrap().encrypt(&clear);
                let refused_type = text(step, "codec") == "opus" && step["frame_type"].is_string();
                match (sealed, step["wire_hex"].as_str()) {
                    (Ok(sealed), Some("")) => assert!(sealed.is_empty()),
                    (Ok(sealed), theirs) if theirs.is_some() || refused_type => {
                        let escaped = codec(step) == Codec::H264;
                        let plain = if escaped { hazmat::unescape_behind(0, &sealed) } else { sealed };
                        let (counter, prefix) = counter_and_prefix(&plain);
                        let before = last.insert(prefix, counter).unwrap_or(0);
                        assert_eq!(counter, before + 1, "{step}");
                    }
                    // Removing their latest key leaves none to seal with, or the shared one. A ring with another key
                    // of its own seals nothing either.
                    (Err(EncryptError::UnknownKey { .. }), _) => {}
                    outcome => panic!("{step}: {outcome:?}"),
                }
            }
            other => panic!("a step that this test does not know: {other}"),
        }
    }
    assert!(last.len() >= 3, "a new key has a new prefix");
}

#[test]
fn a_key_is_exhausted_before_its_counter_comes_round() {
    let case = file()["counter_ceiling"].clone();
    let ring = ring(&bytes(&case, "key_hex"), number(&case, "key_index"));
    let (mut opened, mut refused) = (0, 0);
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
    for step in list(&case, "steps").iter().filter(|step| text(step, "do") == "frame") {
        match step["wire_hex"].as_str() {
            Some(wire) => {
                let wire = hex::decode(wire).unwrap();
                assert_eq!(decryptor.decrypt(&wire).unwrap(), bytes(step, "clear_hex"), "{step}");
                opened += 1;
            }
            None => refused += 1,
        }
    }
    // The unit test of the source (keyring/nonce.rs) shows the same ceiling without 2^32 frames.
    assert!(opened >= 2 && refused >= 2);
}

#[test]
fn what_they_refuse_to_send_is_refused_and_nothing_else_is_sent_in_the_clear() {
    for case in group("send_cases") {
        let name = text(&case, "name");
        let Some(codec) = case["codec"].as_str().map_or(Some(Codec::Unknown), Codec::by_name) else {
            continue; // a codec that has no name here
        };
        let encryptor = match Encryptor::new(ring_of(&case, "me"), codec) {
            Ok(encryptor) => encryptor,
            Err(error) => {
                assert_eq!(error, ConfigError::UnsupportedCodec { codec: codec.name(), profile: "stream" }, "{name}");
                assert!(name.ends_with("is refused"));
                continue;
            }
        };
        assert!(!name.ends_with("is refused"), "{name}");
        for step in list(&case, "steps") {
            let clear = clear(step);
            let outcome = encryptor.encrypt(&clear);
            if clear.is_empty() {
                assert_eq!(outcome, Ok(Vec::new()), "{name}");
            } else if name.starts_with("no key") {
                assert_eq!(outcome, Err(EncryptError::UnknownKey { kid: 0 }), "{name}");
            } else if clear.len() > 0x7FFF {
                // Their clear header is too long for its field. Zeros in front of a start code are not sent here.
                assert!(outcome.unwrap().len() < 100, "{name}");
            } else {
                // They refuse a frame type that does not fit the codec. A track here has one codec and no frame types.
                let sealed = outcome.unwrap();
                assert!(!sealed.windows(clear.len()).any(|window| window == clear), "{name}");
                if let Some(theirs) = step["wire_hex"].as_str() {
                    assert_eq!(sealed[sealed.len() - 8], hex::decode(theirs).unwrap()[theirs.len() / 2 - 8], "{name}");
                }
            }
        }
    }
}

#[test]
fn receiving_comes_out_as_theirs_or_safer() {
    let mut plain = 0;
    for case in group("receive_cases") {
        let (name, sealed) = (text(&case, "name"), bytes(&case, "wire_hex"));
        let events: Vec<_> = list(&case, "events").iter().map(|event| text(event, "type")).collect();
        let outcome = open(&ring_of(&case, text(&case, "user")), Codec::Opus, &sealed);
        match (events.as_slice(), outcome) {
            (["e2ee.unencrypted_frame" | "e2ee.unsupported_version"], Err(DecryptError::Malformed)) => {
                plain += usize::from(case["forwarded"].as_bool().unwrap());
            }
            (["e2ee.missing_key"], Err(DecryptError::UnknownKey { .. }))
            | (["e2ee.decryption_failed"], Err(DecryptError::AuthenticationFailed { .. })) => {}
            // Shorter than its tag, or than a footer once the escapes are gone.
            (["e2ee.decryption_failed"] | [], Err(DecryptError::Malformed)) => {
                assert!(sealed.len() < 61 || name.starts_with("clear length as long as it can be"), "{name}");
            }
            // A ring with keys of its own does not fall back to those that all share.
            ([], Err(DecryptError::UnknownKey { kid: 0 })) => {
                assert_eq!(name, "shared key, while the user's own is at another index");
            }
            ([], Ok(opened)) => assert_eq!(hex::encode(opened), text(&case, "forwarded_hex"), "{name}"),
            outcome => panic!("{name}: {outcome:?}"),
        }
    }
    assert!(plain > 5, "what they forward in the clear is malformed here");
}

#[test]
fn the_key_index_is_not_authenticated() {
    let (key, frame) = (Secret::key(&[7; 16]).unwrap(), b"a frame");
    let ring = ring(&[7; 16], 0);
    ring.set(1, &key).unwrap();
    let mut sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt(frame).unwrap();
    let decryptor = Decryptor::new(ring, Codec::Opus, None).unwrap();
    let index = sealed.len() - 8;
    sealed[index] = 1;
    assert_eq!(decryptor.decrypt(&sealed).unwrap(), frame);
    sealed[index] = 0;
    assert_eq!(decryptor.decrypt(&sealed), Err(DecryptError::Replayed { kid: 0 }), "it is the same frame nevertheless");
}

#[test]
fn replays_are_refused_where_theirs_are_and_where_they_have_forgotten_too() {
    let mut stricter = 0;
    for case in group("replay") {
        let (name, ring) = (text(&case, "name"), ring_of(&case, text(&case, "user")));
        let mut tracks: HashMap<String, Decryptor> = HashMap::new();
        for step in list(&case, "steps") {
            match step["do"].as_str() {
                Some("remove_all_keys") => ring.key_ids().into_iter().for_each(|index| ring.remove(index)),
                Some("set_key") => {
                    ring.set(number(step, "key_index"), &Secret::key(&bytes(step, "key_hex")).unwrap()).unwrap()
                }
                Some(other) => panic!("a step that this test does not know: {other}"),
                None => {
                    let track = tracks
                        .entry(text(step, "track").to_owned())
                        .or_insert_with(|| Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap());
                    let opened = track.decrypt(&bytes(step, "wire_hex")).is_ok();
                    let theirs = step["forwarded"].as_bool().unwrap();
                    assert!(theirs || !opened, "{name}: {step}");
                    if theirs && !opened {
                        assert!(name.contains("prefix"), "{name}: {step}");
                        stricter += 1;
                    }
                }
            }
        }
    }
    assert_eq!(stricter, 3, "they forget a prefix when three others came, and open its old frames again");
}

#[test]
fn the_window_is_theirs_and_forgets_no_prefix() {
    let ring = ring(&[7; 16], 0);
    for case in group("replay_window") {
        let decryptor = Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap();
        let (mut seen, mut highest, mut differing) = (BTreeSet::new(), HashMap::<String, u64>::new(), 0);
        for step in list(&case, "steps") {
            let (counter, prefix) = (step[0].as_u64().unwrap(), step[1].as_str().unwrap().to_owned());
            let iv =
                [hex::decode(&prefix).unwrap(), (counter as u32).to_be_bytes().to_vec()].concat().try_into().unwrap();
            let opened = decryptor.decrypt(&encryptor.encrypt_with_iv(b"a frame", iv).unwrap()).is_ok();
            let top = highest.entry(prefix.clone()).or_default();
            let fresh = counter + 1024 > *top && seen.insert((prefix, counter));
            assert_eq!(opened, fresh, "{step}");
            *top = counter.max(*top);
            let theirs = step[2].as_bool().unwrap();
            assert!(theirs || !opened, "{step}: what they refuse is refused");
            differing += usize::from(theirs != opened);
        }
        assert_eq!(differing == 0, highest.len() <= 3, "{}", text(&case, "name"));
    }
}

#[test]
fn failures_are_counted_until_a_frame_opens() {
    for case in group("events") {
        let (name, ring) = (text(&case, "name"), ring_of(&case, text(&case, "user")));
        let mut tracks: HashMap<String, Decryptor> = HashMap::new();
        for step in list(&case, "steps").iter().filter(|step| step["wire_hex"].is_string()) {
            let track = tracks
                .entry(text(step, "track").to_owned())
                .or_insert_with(|| Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap());
            let before = track.consecutive_failures();
            let outcome = track.decrypt(&bytes(step, "wire_hex"));
            let is_event = |kind: &str| list(step, "events").iter().any(|event| text(event, "type") == kind);
            match &outcome {
                Ok(_) => assert_eq!((step["forwarded"] == true, track.consecutive_failures()), (true, 0), "{name}"),
                Err(DecryptError::AuthenticationFailed { .. }) => {
                    assert!(step["forwarded"] == false && track.consecutive_failures() > 0, "{name}");
                }
                Err(error) => {
                    assert_eq!(track.consecutive_failures(), before, "{name}: {error:?} neither counts nor clears")
                }
            }
            // Their events come at most once a second. Each of ours has one cause, which is the same.
            assert!(
                !is_event("e2ee.decryption_failed")
                    || matches!(outcome, Err(DecryptError::AuthenticationFailed { .. }))
            );
            assert!(!is_event("e2ee.missing_key") || matches!(outcome, Err(DecryptError::UnknownKey { .. })));
            assert!(!is_event("e2ee.decryption_resumed") || outcome.is_ok());
            let is_foreign = is_event("e2ee.unencrypted_frame") || is_event("e2ee.unsupported_version");
            assert!(!is_foreign || outcome == Err(DecryptError::Malformed));
            if is_event("e2ee.decryption_stalled") {
                assert!(track.consecutive_failures() >= 11, "{name}");
            }
        }
    }
}

#[test]
fn a_course_of_keys_never_seals_under_a_key_that_they_would_not_use() {
    for case in group("key_operations") {
        let name = text(&case, "name");
        let shared = empty_ring(128);
        let ring = KeyRing::new(&STREAM, Options::default()).unwrap().with_fallback(Arc::clone(&shared)).unwrap();
        let ring = Arc::new(ring);
        for step in list(&case, "steps") {
            let target = if text(step, "do").contains("shared") { &shared } else { &ring };
            let index = step["key_index"].as_u64();
            match (text(step, "do"), index) {
                ("set_key" | "set_shared_key", Some(index)) => match Secret::key(&bytes(step, "key_hex")) {
                    Ok(secret) => {
                        if let Err(error) = target.set(index, &secret) {
                            assert_eq!(error, KeyError::KeyLength { given: 33, min: 16, max: 16 }, "{name}");
                        } else {
                            target.set_sending_key_id(index).unwrap();
                        }
                    }
                    Err(error) => assert_eq!(error, KeyError::ShortKey { given: 15, min: 16 }, "{name}"),
                },
                ("remove_key" | "remove_shared_key", Some(index)) => target.remove(index),
                ("remove_all_keys", None) => target.key_ids().into_iter().for_each(|index| target.remove(index)),
                other => panic!("a step that this test does not know: {other:?}"),
            }
            let sealed = Encryptor::new(Arc::clone(&ring), Codec::Opus).unwrap().encrypt(b"a frame");
            match (sealed, step["encode_key_index"].as_u64()) {
                (Ok(sealed), theirs) => assert_eq!(theirs, Some(sealed[sealed.len() - 8].into()), "{name}: {step}"),
                // With a key of its own left, a ring does not fall back to those that all share.
                (Err(EncryptError::UnknownKey { .. }), Some(4)) => {
                    assert!(name.starts_with("removing the latest falls"))
                }
                (Err(error), theirs) => {
                    assert!(matches!(error, EncryptError::UnknownKey { .. }) && theirs.is_none(), "{name}: {step}");
                }
            }
        }
    }
}

#[test]
fn a_key_has_exactly_the_length_of_its_suite() {
    for case in group("key_import") {
        let bits = if text(&case, "algorithm") == "AES-256-GCM" { 256 } else { 128 };
        let index = case["key_index"].as_i64().and_then(|index| u64::try_from(index).ok());
        let Some(index) = index else {
            assert_eq!(case["accepted"], false, "no number that a key id could be: {case}");
            continue;
        };
        let secret = Secret::key(&vec![7; number(&case, "key_length") as usize]);
        let set = secret.and_then(|secret| empty_ring(bits).set(index, &secret));
        assert_eq!(set.is_ok(), case["accepted"].as_bool().unwrap(), "{case}: {set:?}");
        let wrong = matches!(
            set,
            Ok(()) | Err(KeyError::ShortKey { .. } | KeyError::KeyLength { .. } | KeyError::KeyIdOutOfRange { .. })
        );
        assert!(wrong, "{case}: {set:?}");
    }
}

#[test]
fn a_ring_without_a_key_size_accepts_both_lengths_and_seals_with_the_suite_of_each() {
    let plain = Options::default();
    for case in group("frames").iter().filter(|case| case["codec"] == "opus") {
        let ring = Arc::new(KeyRing::new(&STREAM, plain).unwrap());
        ring.set(number(case, "key_index"), &Secret::key(&bytes(case, "key_hex")).unwrap()).unwrap();
        assert_eq!(open(&ring, Codec::Opus, &wire(case)).unwrap(), clear(case));
        ring.set_sending_key_id(number(case, "key_index")).unwrap();
        let sealed = Encryptor::new(ring, Codec::Opus).unwrap().encrypt_with_iv(&clear(case), iv_of(case)).unwrap();
        assert_eq!(sealed, wire(case));
    }
    let ring = KeyRing::new(&STREAM, plain).unwrap();
    for given in [17, 24, 31, 33, 64] {
        let error = ring.set(0, &Secret::key(&vec![7; given]).unwrap()).unwrap_err();
        assert_eq!(error, KeyError::KeyLength { given, min: 16, max: 32 });
        assert_eq!(
            error.to_string(),
            format!("key must have exactly 16 or 32 bytes, the length of the AES key, not {given}")
        );
    }
    assert!(ring.key_ids().is_empty());
}

#[test]
fn their_fingerprint_is_no_fingerprint_of_ours() {
    for case in group("fingerprints") {
        let ring = ring(&bytes(&case, "key_hex"), 0);
        let ours = hex::encode(ring.fingerprint(None).unwrap());
        assert!(!ours.contains(text(&case, "fingerprint_hex")), "{ours}");
    }
}

#[test]
fn there_is_no_ratchet_no_passphrase_and_no_data_packet() {
    let ring = ring(&[7; 16], 0);
    assert_eq!(ring.ratchet(0), Err(KeyError::NoRatchet));
    assert_eq!(ring.set(1, &Secret::passphrase(b"a passphrase of").unwrap()), Err(KeyError::NoPassphrases));
    assert_eq!(ring.set(1, &Secret::passphrase(b"16 bytes of text").unwrap()), Err(KeyError::NoPassphrases));
    let window = KeyRing::new(&STREAM, Options { ratchet_window: 1, ..Options::default() }).err();
    assert_eq!(window, Some(ConfigError::UnsupportedOption { option: "ratchet_window", profile: "stream" }));
    let packets = DataCryptor::new(Arc::clone(&ring), true, None).err();
    assert_eq!(packets, Some(ConfigError::NoDataPackets { profile: "stream" }));
    let encryptor = Encryptor::new(ring, Codec::Opus).unwrap();
    assert_eq!(encryptor.plan(b"a frame", b"metadata").err(), Some(ApiMisuse::Metadata.into()));
}
