//! No byte of a unit that may carry a picture stays readable in H.264 and H.265.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::sync::{Arc, LazyLock};

use frameseal::{Codec, Decryptor, EncryptError, Encryptor, KeyRing, Options, Secret, hazmat};
use proptest::prelude::*;

static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(|| {
    let ring = KeyRing::new(&frameseal::profile::LIVEKIT, Options::default()).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
});

const CODECS: [Codec; 2] = [Codec::H264, Codec::H265];

/// The parameter sets that an encoder of each codec sends at the start.
const SETS: [&[u8]; 2] = [
    b"\0\0\0\x01\x67\x42\xc0\x1f\0\0\0\x01\x68\xce",
    b"\0\0\0\x01\x40\x01\x0c\x01\xff\xff\0\0\0\x01\x42\x01\x01\x01\0\0\0\x01\x44\x01\xc1",
];
/// A picture of each codec.
const PICTURES: [&[u8]; 2] = [b"\0\0\0\x01\x65\x88\x84 a picture", b"\0\0\0\x01\x26\x01\xaf a picture"];

/// Returns whether a type is a parameter set by the standard's table 7-1. Only parameter sets may have readable
/// content.
fn is_parameter_set(standard: usize, number: u8) -> bool {
    [&[7, 8, 13, 15, 16][..], &[32, 33, 34]][standard].contains(&number)
}

/// Returns whether a type may carry a picture, or a part of one, by the standard's table 7-1.
fn may_carry_a_picture(standard: usize, number: u8) -> bool {
    match standard {
        0 => !matches!(number, 6..=13 | 15 | 16),
        _ => number < 32,
    }
}

/// Returns a NAL header. `extra` is the `nal_ref_idc` in H.264, the layer (high) and the TemporalId (low) in H.265.
fn header(standard: usize, number: u8, extra: u8) -> Vec<u8> {
    match standard {
        0 => vec![(extra & 3) << 5 | number],
        _ => {
            let (layer, temporal_id) = (extra >> 3, extra & 7);
            vec![number << 1 | layer >> 5, layer << 3 | (temporal_id + 1) & 7]
        }
    }
}

fn extras(standard: usize) -> &'static [u8] {
    // Layers 0 to 2 with TemporalId 0 and 1, and the highest layer: its bits overlap the type of H.264.
    [&[0, 1, 2, 3][..], &[0, 1, 2 << 3, 31 << 3]][standard]
}

/// The encryptor of one codec, and all frames that it has sealed.
struct Sender {
    encryptor: Encryptor,
    decryptor: Decryptor,
    sent: Vec<Vec<u8>>,
}

impl Sender {
    fn new(codec: Codec) -> Self {
        let encryptor = Encryptor::new(Arc::clone(&RING), codec).unwrap();
        Self { encryptor, decryptor: Decryptor::new(Arc::clone(&RING), codec, None).unwrap(), sent: Vec::new() }
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), EncryptError> {
        let sealed = self.encryptor.encrypt(frame)?;
        if !sealed.is_empty() {
            assert!(self.decryptor.decrypt(&sealed).is_ok(), "receivers find another slice: {frame:02x?}");
            self.sent.push(sealed);
        }
        Ok(())
    }

    fn shows(&self, content: &[u8]) -> bool {
        self.sent.iter().any(|sealed| sealed.windows(content.len()).any(|bytes| bytes == content))
    }
}

fn unit(start_code: &[u8], header: &[u8], content: &[u8]) -> Vec<u8> {
    [start_code, header, content].concat()
}

#[test]
fn the_table_names_every_type_once() {
    let tables = hazmat::nal_types();
    for (standard, (table, count)) in tables.iter().zip([32, 64]).enumerate() {
        assert_eq!(table.len(), count);
        for (number, (name, class)) in table.iter().enumerate() {
            assert!(table.iter().filter(|(other, _)| other == name).count() == 1, "{name} is in the table twice");
            let number = u8::try_from(number).unwrap();
            assert_eq!(class == "ParameterSet", is_parameter_set(standard, number), "{name}");
            let readable = matches!(class.as_str(), "ParameterSet" | "Separator");
            assert!(!(readable && may_carry_a_picture(standard, number)), "{name} is {class}");
        }
    }
}

/// Covers every type of both standards, in every place of an access unit, with either codec signalled.
#[test]
fn no_unit_that_may_carry_a_picture_is_ever_readable_whatever_its_type_and_place() {
    // The second byte of a slice (first macroblock, later ones), of a parameter set, and a zero.
    let seconds: [&[u8]; 5] = [b"\x88", b"\x42", b"\x09", b"\xf9", b"\x00\x88"];
    let content = b"\xa5 what the picture shows \x5a";
    let mut readable = [0, 0];
    for (standard, numbers) in [(0, 0..32_u8), (1, 0..64)] {
        for number in numbers {
            for (&extra, forbidden) in extras(standard).iter().flat_map(|extra| [(extra, 0), (extra, 0x80)]) {
                for second in seconds {
                    let mut head = header(standard, number, extra);
                    head[0] |= forbidden;
                    for (signalled, codec) in CODECS.into_iter().enumerate() {
                        for place in 0..7 {
                            let mut sender = Sender::new(codec);
                            let start_code: &[u8] = if place % 2 == 0 { b"\0\0\0\x01" } else { b"\0\0\x01" };
                            let tested = unit(start_code, &head, &[second, content].concat());
                            let (sets, picture) = (SETS[standard], PICTURES[standard]);
                            let frame = match place {
                                0 | 1 => tested,
                                2 => [&tested, sets, picture].concat(),
                                3 => [sets, &tested, picture].concat(),
                                4 => [sets, &tested].concat(),
                                5 => [sets, &tested, b"\0\0\0", picture, &tested].concat(),
                                _ => [sets, picture, &tested].concat(),
                            };
                            // Units that are held back are sent with the next picture, of either standard.
                            let _ = sender.send(&frame);
                            let _ = sender.send(PICTURES[signalled]);
                            let _ = sender.send(PICTURES[1 - signalled]);
                            let shown = sender.shows(content);
                            readable[standard] += usize::from(shown && signalled == standard);
                            assert!(
                                !shown
                                    || !may_carry_a_picture(standard, number)
                                        && (signalled != standard || is_parameter_set(standard, number)),
                                "type {number} ({head:02x?}) of {:?} as {codec:?}, place {place}, {second:02x?}",
                                CODECS[standard],
                            );
                        }
                    }
                }
            }
        }
    }
    assert!(readable.iter().all(|count| *count > 50), "parameter sets must be readable, or the test checks nothing");
}

/// A unit of any type behind the first slice is sealed with it. In front of the slice, the unit is refused.
#[test]
fn what_is_refused_before_the_first_slice_is_sealed_behind_it() {
    for (standard, numbers) in [(0, 0..32_u8), (1, 0..64)] {
        for number in numbers.filter(|number| may_carry_a_picture(standard, *number)) {
            let tested =
                unit(b"\0\0\0\x01", &header(standard, number, if standard == 0 { 3 } else { 0 }), b"\x88 content");
            let picture = PICTURES[standard];
            let mut sender = Sender::new(CODECS[standard]);
            assert_eq!(sender.send(&[picture, &tested].concat()), Ok(()), "type {number}");
            let begins_it = if standard == 0 { matches!(number, 1 | 5) } else { matches!(number, 0..=9 | 16..=21) };
            let expected = if begins_it { Ok(()) } else { Err(EncryptError::Malformed) };
            assert_eq!(sender.send(&[&tested, picture].concat()), expected, "type {number}");
            assert_eq!(sender.send(&tested), expected, "type {number}");
            // A refused unit is not held back, and does not affect the next frame.
            assert_eq!(sender.send(picture), Ok(()));
            assert!(!sender.shows(b" content"));
            assert_eq!(sender.encryptor.stats().malformed, if begins_it { 0 } else { 2 });
        }
    }
}

/// Covers the units that encoders put in front of their pictures.
#[test]
fn units_that_carry_no_picture_stay_readable_or_wait() {
    // Alone, some read as a slice of the other standard (`false`). Receivers treat them as a slice, so they are sealed.
    let readable: [&[(&[u8], bool)]; 2] = [
        &[
            (b"\x67\x42\xc0\x1f", true),
            (b"\x27\x64\x00\x1f\xac", false),
            (b"\x47\x4d\x40", true),
            (b"\x68\xce\x3c\x80", true),
            (b"\x68", true),
            (b"\x28\xee\x3c\xb0", false),
            (b"\x6d\xd0", true),
            (b"\x6f\x53\x01", true),
            (b"\x70\x80", true),
            (b"\x09\x10", false),
            (b"\x09\xf0", false),
            (b"\x0a", false),
            (b"\x0b", false),
            (b"\x0c\xff\xff\x80", false),
        ],
        &[
            (b"\x40\x01\x0c\x01\xff\xff", true),
            (b"\x42\x01\x01\x01\x60", true),
            (b"\x44\x01\xc1\x72", true),
            (b"\x46\x01\x10", true),
            (b"\x48\x01", true),
            (b"\x4a\x01", true),
            (b"\x4c\x01\xff\x80", true),
        ],
    ];
    for standard in [0, 1] {
        for (tested, waits) in readable[standard] {
            let (picture, sets) = (PICTURES[standard], SETS[standard]);
            let long = unit(b"\0\0\0\x01", &[], tested);
            for written in [long.clone(), unit(b"\0\0\x01", &[], tested), [&long[..], b"\0\0"].concat()] {
                let mut sender = Sender::new(CODECS[standard]);
                sender.send(&[&written, picture].concat()).unwrap();
                assert!(sender.sent[0].starts_with(&[&long[..], &picture[..6]].concat()), "{tested:02x?}");
                if *waits {
                    sender.send(&written).unwrap();
                }
                sender.send(&[sets, &written].concat()).unwrap();
                assert_eq!(sender.sent.len(), 1, "{tested:02x?} alone waits");
                sender.send(picture).unwrap();
                let front = [if *waits { &long[..] } else { b"" }, sets, &long, &picture[..6]].concat();
                assert!(sender.sent[1].starts_with(&front), "{tested:02x?}: {:02x?}", sender.sent[1]);
            }
        }
    }
}

#[test]
fn sei_is_never_sent_in_front_of_a_slice_and_waits_for_none() {
    for (standard, sei) in [
        (0, &b"\0\0\x01\x06\x05 captions"[..]),
        (0, b"\0\0\x01\x66\x04 captions"),
        (1, b"\0\0\x01\x4e\x01\x04 captions"),
        (1, b"\0\0\x01\x50\x01\x84 captions"),
    ] {
        let mut sender = Sender::new(CODECS[standard]);
        sender.send(&[SETS[standard], sei, PICTURES[standard]].concat()).unwrap();
        sender.send(&[SETS[standard], sei].concat()).unwrap();
        assert_eq!(sender.sent.len(), 1);
        sender.send(PICTURES[standard]).unwrap();
        assert!(sender.sent.iter().all(|sealed| sealed.starts_with(SETS[standard])));
        sender.send(sei).unwrap();
        assert!(!sender.shows(b" captions"));
    }
}

/// Generates units of any type of both standards.
fn units() -> impl Strategy<Value = (usize, u8, Vec<u8>)> {
    let standard_and_number = prop_oneof![(Just(0_usize), 0..32_u8), (Just(1_usize), 0..64_u8)];
    let zeros = proptest::collection::vec(Just(0_u8), 0..4);
    let lengths = prop_oneof![4 => 0..40_usize, 1 => Just(0)];
    (standard_and_number, any::<u8>(), any::<[u8; 2]>(), lengths, zeros, any::<bool>()).prop_map(
        |((standard, number), extra, second, len, zeros, long)| {
            // A random access point of H.265 has a TemporalId of 0.
            let highest = if matches!(number, 16..=23) { 1 } else { 3 };
            let extra = if standard == 0 { extra } else { (extra & !7) | ((extra & 7) % highest) };
            // Only the first macroblocks of a data partition of H.264: later ones read as parameter sets of H.265.
            let second = if standard == 0 { [second[0] | 0x80, second[1]] } else { second };
            let start_code: &[u8] = if long { b"\0\0\0\x01" } else { b"\0\0\x01" };
            let content = [&second[..], &b"content, content, content, content, content"[..len]].concat();
            (standard, number, [unit(start_code, &header(standard, number, extra), &content), zeros].concat())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn no_sequence_of_units_brings_a_picture_into_the_clear(
        signalled in 0..2_usize,
        mut access_units in proptest::collection::vec(proptest::collection::vec(units(), 1..5), 1..4),
        at in any::<(prop::sample::Index, prop::sample::Index)>(),
        mark in any::<[u8; 12]>(),
    ) {
        let access_unit = { let len = access_units.len(); &mut access_units[at.0.index(len)] };
        let unit = { let len = access_unit.len(); &mut access_unit[at.1.index(len)] };
        let mark = mark.map(|byte| byte | 0x04); // no start code, no escape
        let (standard, number) = (unit.0, unit.1);
        let end = unit.2.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        unit.2.splice(end..end, mark);
        let mut sender = Sender::new(CODECS[signalled]);
        for units in &access_units {
            let _ = sender.send(&units.iter().flat_map(|(_, _, unit)| unit.clone()).collect::<Vec<_>>());
        }
        let _ = sender.send(PICTURES[signalled]);
        let is_leaked = may_carry_a_picture(standard, number) && sender.shows(&mark);
        prop_assert!(!is_leaked, "type {} of {:?}", number, CODECS[standard]);
    }
}

#[test]
fn a_byte_stream_without_a_slice_opens_by_the_rule_of_vp8_and_its_parameter_sets_make_it_a_key_frame() {
    // The browsers' worker seals such frames by their type. The first byte is that of a VP8 key frame.
    for (codec, opens) in [(Codec::H264, true), (Codec::Opus, false)] {
        let frame = [SETS[0], b" and no picture"].concat();
        let sealed = Encryptor::new(Arc::clone(&RING), Codec::Vp8).unwrap().encrypt(&frame).unwrap();
        let opened = Decryptor::new(Arc::clone(&RING), codec, None).unwrap().decrypt(&sealed);
        assert_eq!(opened.ok(), opens.then_some(frame));
    }
}
