//! Checks every parser of a layout: what parses is written back to the same bytes, and no part lies outside the input.
//!
//! The first byte of an input chooses the layout (low three bits) and its variant (high bits). The others are the frame.
//! Nothing here allocates, so that the target runs as often as it can.

use frameseal::Codec;
use frameseal::hazmat::{self, codec, wire};

/// The maximum length of a frame, which has its place on the stack.
const MAX_LEN: usize = 512;
const TAG_LENS: [usize; 4] = [4, 8, 10, 16];
const TAG_LEN: usize = 16;
const TRAILER_LEN: usize = 14;
const FOOTER_LEN: usize = 20;

/// Parses a frame of the chosen layout. Returns the length of its parts, or `None` if it is not of the layout.
pub fn wire(input: &[u8]) -> Option<usize> {
    let (&chosen, frame) = input.split_first()?;
    if frame.len() > MAX_LEN {
        return None;
    }
    let variant = usize::from(chosen >> 3);
    match chosen & 7 {
        0 => trailer(frame),
        1 => footer(frame),
        2 => sframe(frame, TAG_LENS[variant % TAG_LENS.len()]),
        3 => packet(frame),
        4 => envelope(frame, if variant & 1 == 0 { Codec::H264 } else { Codec::H265 }),
        5 => header(frame),
        _ => None,
    }
}

fn trailer(frame: &[u8]) -> Option<usize> {
    let parsed = wire::parse_trailer(frame);
    let of_layout = frame.len() >= TAG_LEN + TRAILER_LEN && frame[frame.len() - 2] == 12;
    assert_eq!(parsed.is_some(), of_layout);
    let parts = parsed?;
    assert_eq!(parts.ciphertext.len() + parts.tag.len() + TRAILER_LEN, frame.len());
    // The clear bytes are those that the caller cuts off: here as many as the key index says.
    let clear_len = usize::from(parts.key_index) % (parts.ciphertext.len() + 1);
    let mut out = [0xAA; MAX_LEN];
    let out = &mut out[..frame.len()];
    let places = wire::write_trailer(out, clear_len, &parts.iv, parts.key_index).expect("the buffer is long enough");
    fill(places, parts.ciphertext, parts.tag);
    assert_eq!(out, frame);
    assert!(wire::write_trailer(out, parts.ciphertext.len() + 1, &parts.iv, parts.key_index).is_none());
    Some(frame.len())
}

fn footer(frame: &[u8]) -> Option<usize> {
    let (clear_len, escaped) = wire::footer_clear_len(frame)?;
    assert!(clear_len + FOOTER_LEN <= frame.len());
    let (clear, tail) = frame.split_at(clear_len);
    let zeros = hazmat::zeros_before(clear);
    assert!(zeros <= 2);
    let body = if escaped { codec::unescape_strictly(tail, zeros) } else { tail.into() };
    assert!(body.len() <= tail.len());
    let parsed = wire::parse_footer(&body);
    assert_eq!(parsed.is_some(), body.len() >= TAG_LEN + FOOTER_LEN);
    let parts = parsed?;
    assert_eq!(parts.ciphertext.len() + parts.tag.len() + FOOTER_LEN, body.len());
    let mut out = [0xAA; MAX_LEN];
    let out = &mut out[..clear_len + body.len()];
    let places =
        wire::write_footer(out, clear_len, escaped, &parts.iv, parts.key_index).expect("the buffer is long enough");
    places[0].copy_from_slice(clear);
    places[1].copy_from_slice(parts.ciphertext);
    places[2].copy_from_slice(parts.tag);
    assert!(out.starts_with(clear));
    assert_eq!(out[clear_len..], *body);
    Some(out.len())
}

fn sframe(frame: &[u8], tag_len: usize) -> Option<usize> {
    let Some(parts) = wire::parse_sframe(frame, tag_len) else {
        // Only a header that is cut or too long is refused, or a frame without room for its tag.
        let header = hazmat::parse_header(frame);
        assert!(header.is_none_or(|(_, _, len)| frame.len() < len + tag_len));
        return None;
    };
    assert_eq!(parts.head.len() + parts.ciphertext.len() + parts.tag.len(), frame.len());
    assert_eq!(parts.tag.len(), tag_len);
    let mut out = [0xAA; MAX_LEN];
    let out = &mut out[..frame.len()];
    let (head, [ciphertext, tag]) =
        wire::write_sframe(out, parts.kid, parts.ctr, tag_len).expect("the buffer is long enough");
    assert_eq!(head, parts.head);
    ciphertext.copy_from_slice(parts.ciphertext);
    tag.copy_from_slice(parts.tag);
    assert_eq!(out, frame);
    Some(frame.len())
}

fn packet(frame: &[u8]) -> Option<usize> {
    let parsed = wire::parse_packet(frame);
    assert_eq!(parsed.is_some(), frame.len() >= 31 && frame.starts_with(&[0xF5, 0x01]));
    let (key_index, iv, sealed) = parsed?;
    assert!(sealed.len() >= TAG_LEN && sealed.len() < frame.len());
    let mut out = [0xAA; MAX_LEN];
    let out = &mut out[..frame.len()];
    wire::write_packet(out, key_index, &iv).expect("the buffer is long enough").copy_from_slice(sealed);
    assert_eq!(out, frame);
    Some(frame.len())
}

fn envelope(frame: &[u8], codec: Codec) -> Option<usize> {
    // Whatever the frame is, it is a key frame or not.
    let key_frame = wire::is_key_frame(codec, frame).expect("the codec has an envelope");
    let inside = wire::open_envelope(codec, frame)?;
    let mut out = [0xAA; MAX_LEN];
    let out = &mut out[..frame.len()];
    wire::write_envelope(codec, key_frame, out).expect("the buffer is long enough").copy_from_slice(inside);
    assert_eq!(wire::open_envelope(codec, out), Some(inside));
    // The NAL header alone may differ: receivers ignore it.
    let front = frame.len() - inside.len() - 1;
    assert_eq!((&out[..4], &out[front..]), (&frame[..4], &frame[front..]));
    Some(inside.len())
}

/// Reads an SFrame header from any bytes, and writes any two numbers as a header.
fn header(frame: &[u8]) -> Option<usize> {
    if let Some((&kid, rest)) = frame.split_first_chunk::<8>() {
        let (kid, ctr) = (u64::from_be_bytes(kid), number(rest));
        let mut out = [0xAA; 17];
        let (head, _) = wire::write_sframe(&mut out, kid, ctr, 0).expect("the buffer is long enough");
        assert_eq!(hazmat::parse_header(head), Some((kid, ctr, head.len())));
        for len in 0..head.len() {
            assert_eq!(hazmat::parse_header(&head[..len]), None);
        }
    }
    let (kid, ctr, len) = hazmat::parse_header(frame)?;
    let mut out = [0xAA; 17];
    let (head, _) = wire::write_sframe(&mut out, kid, ctr, 0).expect("the buffer is long enough");
    assert_eq!(head, &frame[..len]);
    Some(len)
}

/// Returns the number in up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Fills the places of the clear bytes and the ciphertext, which follow each other in the frame, and of the tag.
fn fill(places: [&mut [u8]; 3], body: &[u8], tag: &[u8]) {
    let [clear, ciphertext, tag_place] = places;
    let (front, rest) = body.split_at(clear.len());
    clear.copy_from_slice(front);
    ciphertext.copy_from_slice(rest);
    tag_place.copy_from_slice(tag);
}
