//! libwebrtc reads the same slice header from a sealed frame as from the plain frame, before it decrypts.
//!
//! The parser here is written for the tests, after libwebrtc's `PpsParser::ParsePpsIdFromSlice` and
//! `H265BitstreamParser::ParsePpsIdFromSliceSegmentLayerRbsp`: it removes the escapes and reads numbers in Exp-Golomb
//! code.
//!
//! IVs are random, so these tests are too. If `n` bits of a header are ciphertext, a draw keeps the header with
//! probability 2^-n. A frame misses if all 128 draws do: (1 - 2^-n)^128. Some assertions on a random number account for
//! every frame exactly. The others fail with a probability below 1e-9 over the whole test. It stands beside each of
//! them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;

use frameseal::{Codec, Decryptor, EncryptError, EncryptStats, Encryptor, KeyRing, Options, Profile, Secret};
use proptest::prelude::*;

fn ring(profile: &str, options: Options) -> Arc<KeyRing> {
    let ring = KeyRing::new(Profile::by_name(profile).unwrap(), options).unwrap();
    ring.set(0, &Secret::key(&[7; 32]).unwrap()).unwrap();
    Arc::new(ring)
}

fn livekit() -> Arc<KeyRing> {
    ring("livekit", Options::default())
}

// --- reading and writing bits ---------------------------------------------------------------------------------------

fn bits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:08b}")).collect()
}

fn bytes(bits: &str) -> Vec<u8> {
    let padded = format!("{bits}{}", "1".repeat((8 - bits.len() % 8) % 8));
    padded.as_bytes().chunks(8).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

/// Returns a number in Exp-Golomb code, as bits.
fn ue(number: u32) -> String {
    let digits = format!("{:b}", number + 1);
    format!("{}{digits}", "0".repeat(digits.len() - 1))
}

/// Reads the number at the start of `bits`, and returns it and the bits behind it.
fn read_ue(bits: &str) -> Option<(u32, &str)> {
    let zeros = bits.find('1')?;
    let (number, rest) = (bits.get(zeros..=2 * zeros)?, bits.get(2 * zeros + 1..)?);
    Some((u32::from_str_radix(number, 2).ok()? - 1, rest))
}

fn without_escapes(payload: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::new(), 0);
    for &byte in payload {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Adds the escapes that an encoder writes.
fn with_escapes(payload: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::new(), 0);
    for &byte in payload {
        if zeros == 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Returns `first_mb_in_slice`, `slice_type` and `pic_parameter_set_id` of the first slice, as packets carry it.
fn h264_header(frame: &[u8]) -> Option<(u32, u32, u32)> {
    let units: Vec<&[u8]> = units(frame);
    let slice = units.iter().find(|unit| matches!(unit[0] & 0x1F, 1 | 5))?;
    let rbsp = bits(&without_escapes(&slice[1..]));
    let (first_mb, rest) = read_ue(&rbsp)?;
    let (slice_type, rest) = read_ue(rest)?;
    let (pps_id, _) = read_ue(rest)?;
    Some((first_mb, slice_type, pps_id))
}

/// Returns `first_slice_segment_in_pic_flag` and `slice_pic_parameter_set_id` of the first slice of a random access
/// point.
fn h265_header(frame: &[u8]) -> Option<(bool, u32)> {
    let units = units(frame);
    let slice = units.iter().find(|unit| matches!(unit[0] >> 1, 16..=21))?;
    let rbsp = bits(&without_escapes(&slice[2..]));
    let (pps_id, _) = read_ue(rbsp.get(2..)?)?;
    Some((rbsp.starts_with('1'), pps_id))
}

/// Returns the NAL units, as a packetiser finds them.
fn units(frame: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (0..frame.len()).filter(|&at| frame[..at].ends_with(&[0, 0, 1])).collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([frame.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &frame[start..end]).filter(|unit| !unit.is_empty()).collect()
}

// --- frames ---------------------------------------------------------------------------------------------------------

fn h264_slice(header: u8, first_mb: u32, slice_type: u32, pps_id: u32, rest: &[u8]) -> Vec<u8> {
    let start = bytes(&format!("{}{}{}10", ue(first_mb), ue(slice_type), ue(pps_id)));
    [&[0, 0, 0, 1, header][..], &with_escapes(&[&start[..], rest].concat())].concat()
}

/// Returns a keyframe as x264 writes it: `slice_type` 7 fills the clear byte of the slice header, so the id is sealed.
fn idr_of_x264() -> Vec<u8> {
    let sets = b"\0\0\0\x01\x67\x42\xc0\x1f\0\0\0\x01\x68\xce\x3c\x80";
    let slice = b"\0\0\x01\x65\x88\x84\x0a\xf2\x62\x80\x00\xa7\xbe\0\0\x01\x65\x01\x22\x21\x02";
    [&sets[..], slice].concat()
}

fn h265_idr(pps_id: u32) -> Vec<u8> {
    let sets = b"\0\0\0\x01\x40\x01\x0c\x01\xff\xff\0\0\0\x01\x42\x01\x01\x01\0\0\0\x01\x44\x01\xc1";
    let slice = bytes(&format!("10{}1011", ue(pps_id)));
    [&sets[..], b"\0\0\0\x01\x26\x01", &slice, b" the rest of it"].concat()
}

/// Seals a frame, and checks that the sealed frame opens.
fn sealed(encryptor: &Encryptor, codec: Codec, frame: &[u8]) -> Vec<u8> {
    let sealed = encryptor.encrypt(frame).unwrap();
    assert!(Decryptor::new(Arc::clone(&livekit()), codec, None).unwrap().decrypt(&sealed).is_ok());
    sealed
}

fn iv(sealed: &[u8]) -> [u8; 12] {
    sealed[sealed.len() - 14..sealed.len() - 2].try_into().unwrap()
}

fn redrawn_and_misread(encryptor: &Encryptor) -> (u64, u64) {
    let EncryptStats { redrawn, misread, .. } = encryptor.stats();
    (redrawn, misread)
}

// --- tests ----------------------------------------------------------------------------------------------------------

#[test]
fn a_thousand_keyframes_of_x264_keep_their_header_and_no_nonce_comes_twice() {
    let ring = livekit();
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
    let frame = idr_of_x264();
    assert_eq!(h264_header(&frame), Some((0, 7, 0)));
    let mut ivs = HashSet::new();
    let mut counters = Vec::new();
    for _ in 0..1_000 {
        let sealed = sealed(&encryptor, Codec::H264, &frame);
        assert_eq!(h264_header(&sealed), Some((0, 7, 0)));
        assert!(ivs.insert(iv(&sealed)));
        counters.push(u32::from_be_bytes(iv(&sealed)[8..].try_into().unwrap()));
    }
    // Nonces ascend, so a discarded nonce lies between two sent nonces and is not used again. The ring skips at most
    // 2^24 counters in a row: the counters that begin with a zero byte, behind a prefix that ends in a zero byte. A
    // bound of 2^17 would fail with 2e-9.
    let steps: Vec<u32> = counters.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.iter().all(|step| (1..1 << 25).contains(step)));
    let (redrawn, misread) = redrawn_and_misread(&encryptor);
    assert_eq!(misread, 0, "one bit is ciphertext: a frame misses with 2^-128");
    // Mean 1,000, standard deviation 45. Outside with 2e-13.
    assert!((700..1_400).contains(&redrawn), "one redraw a frame on average, not {redrawn} for 1,000");
    assert!(steps.iter().map(|step| u64::from(*step)).sum::<u64>() >= 999 + redrawn / 2);
    let stats = encryptor.stats();
    assert_eq!((stats.frames, stats.bytes), (1_000, 1_000 * (frame.len() as u64 + 1)));
    assert_eq!((stats.key_frames, ring.frames_sealed(0).unwrap()), (1_000 + redrawn, 1_000 + redrawn));
}

#[test]
fn keyframes_of_x264_keep_their_header_in_front_of_a_footer_too() {
    let ring = ring("stream", Options::default());
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
    let decryptor = Decryptor::new(Arc::clone(&ring), Codec::H264, None).unwrap();
    for _ in 0..300 {
        let sealed = encryptor.encrypt(&idr_of_x264()).unwrap();
        assert_eq!(h264_header(&sealed), Some((0, 7, 0)));
        assert!(decryptor.decrypt(&sealed).is_ok(), "no counter repeats, and gaps are no replay");
    }
    let (redrawn, misread) = redrawn_and_misread(&encryptor);
    assert_eq!((misread, ring.frames_sealed(0).unwrap()), (0, 300 + redrawn));
}

#[test]
fn a_header_that_lies_in_the_readable_byte_costs_nothing() {
    let deltas = [
        h264_slice(0x41, 0, 5, 0, b"\x80 a delta frame"),
        h264_slice(0x61, 0, 0, 2, b"\x80 a delta frame"),
        h264_slice(0x65, 0, 2, 0, b"\x80 a keyframe of another encoder"),
    ];
    for frame in deltas {
        let encryptor = Encryptor::new(livekit(), Codec::H264).unwrap();
        for _ in 0..300 {
            assert_eq!(h264_header(&sealed(&encryptor, Codec::H264, &frame)), h264_header(&frame));
        }
        assert_eq!(redrawn_and_misread(&encryptor), (0, 0));
        assert_eq!(encryptor.stats().key_frames, 300);
    }
}

#[test]
fn a_delta_whose_header_is_sealed_keeps_it_too() {
    let frame = h264_slice(0x41, 0, 7, 0, b"\x84 intra refresh");
    let encryptor = Encryptor::new(livekit(), Codec::H264).unwrap();
    for _ in 0..300 {
        assert_eq!(h264_header(&sealed(&encryptor, Codec::H264, &frame)), Some((0, 7, 0)));
    }
    assert_eq!(redrawn_and_misread(&encryptor).1, 0);
}

#[test]
fn the_last_draw_is_sent_as_it_is_and_counted() {
    // The 15 bits of the id are sealed: 128 draws find them in one frame of 256.
    let frame = h264_slice(0x65, 0, 7, 200, b"\x84 a keyframe");
    let ring = livekit();
    let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
    let kept = (0..30).filter(|_| h264_header(&sealed(&encryptor, Codec::H264, &frame)) == h264_header(&frame)).count();
    let (redrawn, misread) = redrawn_and_misread(&encryptor);
    assert_eq!(misread, 30 - kept as u64);
    // 20 or fewer with 3e-17.
    assert!(misread > 20 && redrawn >= misread * 127 && redrawn <= 30 * 127, "{redrawn}, {misread}");
    assert_eq!((encryptor.stats().frames, ring.frames_sealed(0).unwrap()), (30, 30 + redrawn));
}

#[test]
fn where_the_key_is_used_up_while_drawing_the_frame_is_sent_all_the_same() {
    let (mut misread_frames, mut kept) = (0, 0);
    for limit in [1, 2, 3] {
        for _ in 0..100 {
            let ring = ring("livekit", Options { usage_limit: limit, ..Options::default() });
            let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
            let frame = sealed(&encryptor, Codec::H264, &idr_of_x264());
            let (redrawn, misread) = redrawn_and_misread(&encryptor);
            assert_eq!(misread == 0, h264_header(&frame) == Some((0, 7, 0)));
            assert_eq!(ring.frames_sealed(0).unwrap(), 1 + redrawn);
            assert!(redrawn < limit && (misread == 0 || 1 + redrawn == limit));
            assert_eq!(encryptor.stats().key_exhausted, 0);
            if misread == 1 {
                misread_frames += 1;
                assert_eq!(encryptor.encrypt(b"\0\0\0\x01\x41\x9a\x01"), Err(EncryptError::KeyExhausted { kid: 0 }));
                assert_eq!(encryptor.stats().key_exhausted, 1);
            } else {
                kept += 1;
            }
        }
    }
    // One frame in 2, 4 and 8 misses: 87 of 300 on average. 30 or fewer with 3e-17.
    assert!(misread_frames > 30 && kept > 30, "{misread_frames}, {kept}");
}

/// In H.265 only the NAL header is clear, so the whole slice header is sealed: `first_slice_segment_in_pic_flag`, which
/// must be 1, a flag that receivers ignore, and the id.
///
/// Id 0 has one bit. A draw keeps the header with 1/4, so a frame misses with (3/4)^128 = 1e-16, and any of 500 with
/// 5e-14. Id 1 has three bits. A draw keeps the header with 1/16, so a frame misses with (15/16)^128 = 1/3,870. A frame
/// misses in one run of 8, so the test requires that the counter `misread` counts exactly these frames. 8 of 500 miss
/// with 2e-12.
#[test]
fn random_access_points_of_h265_keep_their_header_or_are_counted() {
    // The mean of `redrawn` is 1,500 and 7,500. Outside these bounds with less than 1e-27.
    for (pps_id, misread_below, redrawn_below) in [(0, 1, 2_500), (1, 8, 12_000)] {
        let frame = h265_idr(pps_id);
        assert_eq!(h265_header(&frame), Some((true, pps_id)));
        let encryptor = Encryptor::new(livekit(), Codec::H265).unwrap();
        for _ in 0..500 {
            let (redrawn_before, misread_before) = redrawn_and_misread(&encryptor);
            let is_kept = h265_header(&sealed(&encryptor, Codec::H265, &frame)) == Some((true, pps_id));
            let (redrawn, misread) = redrawn_and_misread(&encryptor);
            assert_eq!(misread - misread_before, u64::from(!is_kept));
            assert!(redrawn - redrawn_before <= 127 && (is_kept || redrawn - redrawn_before == 127));
        }
        let (redrawn, misread) = redrawn_and_misread(&encryptor);
        assert!(misread < misread_below, "id {pps_id}: {misread} of 500 frames misread");
        assert!(redrawn > 500 && redrawn < redrawn_below, "id {pps_id}: {redrawn} redrawn");
    }
    // From other pictures libwebrtc reads no field that it needs.
    let encryptor = Encryptor::new(livekit(), Codec::H265).unwrap();
    for _ in 0..100 {
        sealed(&encryptor, Codec::H265, b"\0\0\0\x01\x02\x01\xd0 a picture that refers to others");
    }
    assert_eq!(redrawn_and_misread(&encryptor), (0, 0));
}

#[test]
fn frames_of_a_batch_keep_their_header_too() {
    for threads in [1, 2, 7] {
        let ring = livekit();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
        let (idr, delta) = (idr_of_x264(), h264_slice(0x41, 0, 5, 0, b"\x80 a delta frame"));
        let frames: Vec<&[u8]> = (0..600).map(|n| if n % 3 == 0 { &idr[..] } else { &delta[..] }).collect();
        let batch = encryptor.plan_batch(frames.clone(), threads).unwrap();
        let mut out = vec![0; batch.max_len()];
        let lens = batch.seal_into(&mut out, threads).unwrap();
        let (mut rest, mut ivs) = (&out[..], HashSet::new());
        for (frame, len) in frames.iter().zip(lens) {
            let (sealed, behind) = rest.split_at(len);
            assert_eq!(h264_header(sealed), h264_header(frame));
            assert!(ivs.insert(iv(sealed)));
            rest = behind;
        }
        let (redrawn, misread) = redrawn_and_misread(&encryptor);
        // 200 keyframes, one bit each: 200 redrawn on average, 50 or fewer with 1e-22. (100 or fewer with 4e-9.)
        assert!(misread == 0 && redrawn > 50, "{redrawn}");
        assert_eq!((encryptor.stats().frames, ring.frames_sealed(0).unwrap()), (600, 600 + redrawn));
    }
}

#[test]
fn nothing_is_drawn_again_where_no_receiver_reads_or_nothing_can_be_read() {
    for (profile, codec, frame) in [
        ("sframe", Codec::H264, idr_of_x264()),
        ("sframe", Codec::H265, h265_idr(0)),
        ("livekit", Codec::Vp8, b"\x10\x02\x00\x9d\x01\x2a\x08\x00\x08\x00 a keyframe".to_vec()),
        // Slices that end within their header.
        ("livekit", Codec::H264, b"\0\0\0\x01\x65\x88".to_vec()),
        ("livekit", Codec::H264, b"\0\0\0\x01\x65\x88\0\0\x01\x65\x88\x84".to_vec()),
        ("livekit", Codec::H264, b"\0\0\0\x01\x65\x00\x00\x03\x00\x00\x03\x00".to_vec()),
        ("livekit", Codec::H265, b"\0\0\0\x01\x26\x01".to_vec()),
    ] {
        let shared = profile == "sframe";
        let encryptor = Encryptor::new(ring(profile, Options { shared, ..Options::default() }), codec).unwrap();
        for _ in 0..100 {
            encryptor.encrypt(&frame).unwrap();
        }
        assert_eq!(redrawn_and_misread(&encryptor), (0, 0), "{frame:02x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Covers encoders that write other ids, and slices that start at other macroblocks.
    #[test]
    fn a_sealed_header_reads_as_the_plain_one_or_is_counted(
        header in prop::sample::select(vec![0x65, 0x25, 0x41, 0x01]),
        first_mb in prop_oneof![Just(0), 0..20_u32, 0..140_000_u32],
        slice_type in 0..10_u32,
        pps_id in prop_oneof![0..3_u32, 0..256_u32],
        // Bytes in which escapes are common.
        rest in proptest::collection::vec(prop_oneof![2 => 0..=3_u8, 1 => any::<u8>()], 0..40),
        sets in any::<bool>(),
    ) {
        let slice = h264_slice(header, first_mb, slice_type, pps_id, &rest);
        let frame = if sets { [b"\0\0\0\x01\x67\x42\xc0\x1f\0\0\0\x01\x68\xce", &slice[..]].concat() } else { slice };
        prop_assert_eq!(h264_header(&frame), Some((first_mb, slice_type, pps_id)));
        let ring = livekit();
        let encryptor = Encryptor::new(Arc::clone(&ring), Codec::H264).unwrap();
        let sealed = encryptor.encrypt(&frame).unwrap();
        let (redrawn, misread) = redrawn_and_misread(&encryptor);
        prop_assert_eq!(h264_header(&sealed) == h264_header(&frame), misread == 0);
        prop_assert!(redrawn <= 127 && (misread == 0 || redrawn == 127));
        prop_assert_eq!(ring.frames_sealed(0).unwrap(), 1 + redrawn);
        let opened = Decryptor::new(ring, Codec::H264, None).unwrap().decrypt(&sealed);
        prop_assert_eq!(opened, Ok(frame));
    }
}
