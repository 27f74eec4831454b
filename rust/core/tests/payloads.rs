//! RTP payload formats: frames survive being joined and split, and payloads that carry no frame are refused.
#![allow(clippy::unwrap_used, missing_docs)]

use std::iter::repeat_n;

use frameseal::{Codec, MAX_PAYLOAD, PayloadError, PayloadFormat};

const VP8: [u8; 4] = [0x90, 0x80, 0x81, 0x2C]; // X and S, then a picture id of 15 bits

fn slices(payloads: &[Vec<u8>]) -> Vec<&[u8]> {
    payloads.iter().map(Vec::as_slice).collect()
}

fn join(format: PayloadFormat, payloads: &[Vec<u8>]) -> Result<Vec<u8>, PayloadError> {
    format.join(&slices(payloads)).map(|joined| joined.frame.into_owned())
}

/// Returns the payloads of `frame` in place of the frame that `payloads` carry.
fn replace(format: PayloadFormat, payloads: &[Vec<u8>], frame: &[u8]) -> Result<Vec<Vec<u8>>, PayloadError> {
    let mut made = Vec::new();
    format.join(&slices(payloads))?.split(frame, |payload| {
        made.push(payload.to_vec());
        Ok::<_, PayloadError>(())
    })?;
    Ok(made)
}

fn stream(units: &[Vec<u8>]) -> Vec<u8> {
    units.iter().flat_map(|unit| [&[0, 0, 0, 1], unit.as_slice()].concat()).collect()
}

fn unit(header: u8, len: usize) -> Vec<u8> {
    [header].into_iter().chain(repeat_n(0xAB, len - 1)).collect()
}

#[test]
fn every_codec_of_the_stacks_has_a_format() {
    let formats: Vec<_> =
        Codec::ALL.iter().filter_map(|codec| codec.info()?.payloads).map(PayloadFormat::name).collect();
    assert_eq!(formats, ["whole", "whole", "whole", "whole", "vp8", "h264"]);
}

#[test]
fn a_packet_of_audio_is_one_payload() {
    let packet = vec![b"\x78packet".to_vec()];
    assert_eq!(join(PayloadFormat::Whole, &packet).unwrap(), packet[0]);
    assert_eq!(replace(PayloadFormat::Whole, &packet, b"sealed").unwrap(), [b"sealed".to_vec()]);
    for count in [0, 2] {
        let payloads = vec![packet[0].clone(); count];
        assert_eq!(join(PayloadFormat::Whole, &payloads), Err(PayloadError::NotOne { given: count }));
    }
}

#[test]
fn payloads_of_vp8_have_the_descriptor_of_the_first() {
    let first = [&VP8, b"one p".as_slice()].concat();
    let later = [&[0x81], &VP8[1..], b"icture"].concat(); // goes on in partition 1
    let payloads = [first, later];
    assert_eq!(join(PayloadFormat::Vp8, &payloads).unwrap(), b"one picture");
    for len in [1, MAX_PAYLOAD - 4, MAX_PAYLOAD - 3, 3 * (MAX_PAYLOAD - 4), 5_000] {
        let sealed = unit(7, len);
        let made = replace(PayloadFormat::Vp8, &payloads, &sealed).unwrap();
        assert_eq!(made.len(), len.div_ceil(MAX_PAYLOAD - 4));
        assert!(made.iter().all(|payload| payload.len() <= MAX_PAYLOAD && payload[1..4] == VP8[1..]));
        let starts: Vec<_> = made.iter().map(|payload| payload[0]).collect();
        assert_eq!(starts[0], 0x90);
        assert!(starts[1..].iter().all(|&start| start == 0x80));
        assert_eq!(join(PayloadFormat::Vp8, &made).unwrap(), sealed);
    }
}

#[test]
fn a_descriptor_of_vp8_is_as_long_as_its_bits_say() {
    let descriptors: [&[u8]; 7] = [
        &[0x10],
        &[0x90, 0x00],
        &[0x90, 0x80, 0x7F],
        &[0x90, 0x80, 0xFF, 0x7F],
        &[0x90, 0x40, 5],
        &[0x90, 0x20, 0x80],
        &[0x90, 0xF0, 0x80, 1, 5, 0x83],
    ];
    for descriptor in descriptors {
        let payloads = [[descriptor, b"frame"].concat()];
        assert_eq!(join(PayloadFormat::Vp8, &payloads).unwrap(), b"frame");
        assert_eq!(replace(PayloadFormat::Vp8, &payloads, b"other").unwrap(), [[descriptor, b"other"].concat()]);
        for len in 0..descriptor.len() {
            let truncated = [payloads[0].clone(), descriptor[..len].to_vec()];
            assert_eq!(join(PayloadFormat::Vp8, &truncated), Err(PayloadError::Truncated), "{descriptor:?} {len}");
        }
    }
    assert_eq!(join(PayloadFormat::Vp8, &[]), Err(PayloadError::NotOne { given: 0 }));
}

#[test]
fn nal_units_of_any_length_survive() {
    let lens = [1, 2, 3, 700, 1296, 1297, 1298, 1299, 1300, 1301, 1302, 2597, 2598, 2599, 9_000];
    for (n, &len) in lens.iter().enumerate() {
        let units = [vec![unit(0x67, 9), unit(0x68, 4)], vec![unit(0x65, len); n % 4 + 1], vec![unit(0x01, 5); 12]];
        let frame = stream(&units.concat());
        let made = replace(PayloadFormat::H264, &[unit(0x65, 10)], &frame).unwrap();
        assert!(made.iter().all(|payload| (1..=MAX_PAYLOAD).contains(&payload.len())));
        if len > 1 {
            assert_eq!(join(PayloadFormat::H264, &made).unwrap(), frame, "{len}");
        }
    }
}

#[test]
fn an_aggregation_payload_has_the_highest_priority_of_its_units() {
    for (headers, header) in [([0x21, 0x67, 0x81], 0xE0), ([0x81, 0x81, 0x41], 0xC0), ([0x01, 0x21, 0x01], 0x20)] {
        let frame = stream(&headers.map(|header| unit(header, 3)));
        let made = replace(PayloadFormat::H264, &[unit(0x65, 10)], &frame).unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0][0], header | 24);
    }
}

#[test]
fn a_nal_unit_is_fragmented_from_the_maximum_on() {
    for len in [1, 2, 1296, 1297, 1298, 1299, MAX_PAYLOAD] {
        let unit = unit(0x65, len);
        let made = replace(PayloadFormat::H264, &[vec![0x65, 0]], &stream(std::slice::from_ref(&unit))).unwrap();
        assert_eq!(made, [unit]);
    }
    for (len, lens) in [(1_301, vec![652, 652]), (2_597, vec![1_300, 1_300]), (2_598, vec![868, 868, 867])] {
        let made = replace(PayloadFormat::H264, &[vec![0x65, 0]], &stream(&[unit(0x65, len)])).unwrap();
        assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), lens);
        let headers: Vec<_> = made.iter().map(|payload| payload[1]).collect();
        assert_eq!((headers[0], headers[headers.len() - 1]), (0x85, 0x45));
        assert!(headers[1..headers.len() - 1].iter().all(|&header| header == 0x05));
        assert!(made.iter().all(|payload| payload[0] == 0x7C));
    }
}

#[test]
fn as_many_nal_units_are_aggregated_as_fit() {
    let lens = |units: &[Vec<u8>]| -> Vec<usize> {
        let made = replace(PayloadFormat::H264, &[vec![0x65, 0]], &stream(units)).unwrap();
        made.iter().map(Vec::len).collect()
    };
    assert_eq!(lens(&vec![unit(0x65, 5); 10]), [1 + 9 * 7, 5]);
    assert_eq!(lens(&[unit(0x65, 700), unit(0x65, 595)]), [MAX_PAYLOAD]);
    assert_eq!(lens(&[unit(0x65, 700), unit(0x65, 596)]), [700, 596]);
}

#[test]
fn payloads_of_h264_that_carry_no_frame_are_refused() {
    let whole = unit(0x67, 2);
    let (start, middle, end) = (vec![0x7C, 0x85, 1], vec![0x7C, 0x05, 2], vec![0x7C, 0x45, 3]);
    let (both, other) = (vec![0x7C, 0xC5, 1], vec![0x7C, 0x41, 1]);
    let joined = join(PayloadFormat::H264, &[whole.clone(), start.clone(), middle.clone(), end.clone()]).unwrap();
    assert_eq!(joined, stream(&[whole.clone(), vec![0x65, 1, 2, 3]]));
    for (payloads, error) in [
        (vec![], PayloadError::Truncated),
        (vec![0x67], PayloadError::Truncated),
        (vec![0x18, 0], PayloadError::Truncated),
        (vec![0x18, 0, 2, 0x67], PayloadError::Truncated),
        (vec![0x00, 1], PayloadError::UnitType { number: 0 }),
        (vec![0x19, 1], PayloadError::UnitType { number: 25 }),
        (both, PayloadError::StrayFragment),
        (middle.clone(), PayloadError::StrayFragment),
        (end.clone(), PayloadError::StrayFragment),
        (start.clone(), PayloadError::UnendedUnit),
    ] {
        assert_eq!(join(PayloadFormat::H264, std::slice::from_ref(&payloads)), Err(error), "{payloads:?}");
        assert!(error.to_string().starts_with("payloads "));
    }
    for (payloads, error) in [
        (vec![start.clone(), other], PayloadError::StrayFragment),
        (vec![start.clone(), start.clone(), end.clone()], PayloadError::StrayFragment),
        (vec![start.clone(), end.clone(), end.clone()], PayloadError::StrayFragment),
        (vec![start.clone(), whole.clone(), end], PayloadError::UnendedUnit),
        (vec![start, middle], PayloadError::UnendedUnit),
    ] {
        assert_eq!(join(PayloadFormat::H264, &payloads), Err(error), "{payloads:?}");
    }
    let empty = stream(&[whole.clone(), vec![], whole.clone()]);
    assert_eq!(replace(PayloadFormat::H264, &[whole], &empty), Err(PayloadError::Truncated));
}

#[test]
fn an_error_says_what_to_pass() {
    for (error, remedy) in [
        (PayloadError::NotOne { given: 3 }, "pass one payload, not 3"),
        (PayloadError::Truncated, "pass whole payloads"),
        (PayloadError::UnendedUnit, "pass all payloads of a picture, in order"),
        (PayloadError::StrayFragment, "pass all payloads of a picture, in order"),
        (PayloadError::UnitType { number: 25 }, "a NAL unit of type 25, which RFC 6184 does not carry in mode 1"),
    ] {
        let text = error.to_string();
        assert!(text.starts_with("payloads ") && text.ends_with(remedy), "{text}");
    }
}

#[test]
fn a_failure_of_the_receiver_of_payloads_ends_the_split() {
    for (format, payload, frame) in [
        (PayloadFormat::Whole, b"a".to_vec(), b"sealed".to_vec()),
        (PayloadFormat::Vp8, VP8.to_vec(), unit(1, 3_000)),
        (PayloadFormat::H264, unit(0x65, 4), stream(&[unit(0x65, 9)])),
        (PayloadFormat::H264, unit(0x65, 4), stream(&[unit(0x65, 3_000)])),
    ] {
        let mut calls = 0;
        let ended = format.join(&[&payload]).unwrap().split(&frame, |_| {
            calls += 1;
            Err(PayloadError::Truncated)
        });
        assert_eq!((ended, calls), (Err(PayloadError::Truncated), 1));
    }
}
