//! Checks what passes as a frame that a server injected, and what is cut off a frame that a jitter buffer joined.
//!
//! The first byte of an input chooses the trailer (high half) and the codec (low half). The others are the frame.

use std::sync::{Arc, LazyLock};

use frameseal::profile::LIVEKIT;
use frameseal::{Codec, Decryptor, KeyRing, Options};

/// The maximum length of a frame, so that a joined frame fits a buffer of a fixed length.
const MAX_LEN: usize = 512;
/// The trailers of rooms: none, and two that start as no blank frame ends.
const TRAILERS: [Option<&[u8]>; 3] = [None, Some(b"LK-ROCKS"), Some(b"a trailer of 24 bytes...")];
/// A sealed frame as far as this target looks: it begins with no blank frame and ends in no trailer.
const SEALED: [u8; 40] = [0x5A; 40];
/// The number of injected frames in a row that pass.
const IN_A_ROW: usize = 100;

static RING: LazyLock<Arc<KeyRing>> =
    LazyLock::new(|| Arc::new(KeyRing::new(&LIVEKIT, Options::default()).expect("the default options are valid")));

/// Checks a received frame under a room's trailer. Returns the injected payload that passes, or `None`.
pub fn injected(input: &[u8]) -> Option<usize> {
    let (&chosen, frame) = input.split_first()?;
    let codec = Codec::ALL.get(usize::from(chosen & 0x0F)).copied().unwrap_or(Codec::Unknown);
    let trailer = *TRAILERS.get(usize::from(chosen >> 4 & 7))?;
    if frame.len() > MAX_LEN || !LIVEKIT.accepts(codec) {
        return None;
    }
    let decryptor = Decryptor::new(Arc::clone(&RING), codec, Some(0)).expect("the profile supports the codec");
    decryptor.set_sif_trailer(trailer).expect("the trailer is long enough");
    let rest = decryptor.without_sif_frames(frame);
    let Some(trailer) = trailer else {
        assert_eq!(rest, frame);
        assert_eq!(decryptor.sif_payload(frame), Ok(None));
        let _ = Decryptor::holds_blank(&LIVEKIT, codec, frame);
        return None;
    };
    cut(&decryptor, codec, trailer, frame, rest);
    joined(&decryptor, codec, trailer, frame);
    let payload = match decryptor.sif_payload(rest) {
        Ok(None) => {
            assert!(!rest.ends_with(trailer));
            return None;
        }
        Ok(Some(payload)) => payload,
        Err(_) => {
            assert!(rest.ends_with(trailer) && !is_blank(codec, &rest[..rest.len() - trailer.len()]));
            return None;
        }
    };
    assert!(is_blank(codec, payload) && rest.strip_suffix(trailer) == Some(payload));
    assert_eq!(decryptor.sif_frames(), 1);
    // The picture of a byte stream may consist of parameter sets alone: the hint looks for the slice.
    assert!(codec == Codec::H264 || Decryptor::holds_blank(&LIVEKIT, codec, rest));
    if chosen & 0x80 != 0 {
        let passed = (0..IN_A_ROW).filter(|_| decryptor.sif_payload(rest).is_ok()).count();
        assert_eq!(passed + 1, IN_A_ROW);
    }
    Some(payload.len())
}

/// Checks that what was cut off is blank frames with their trailers, at either end, and that a second cut finds nothing.
fn cut(decryptor: &Decryptor, codec: Codec, trailer: &[u8], frame: &[u8], rest: &[u8]) {
    assert_eq!(decryptor.without_sif_frames(rest), rest);
    let at = rest.as_ptr().addr() - frame.as_ptr().addr();
    let (before, behind) = (&frame[..at], &frame[at + rest.len()..]);
    for part in [before, behind].into_iter().filter(|part| !part.is_empty()) {
        let payload = part.strip_suffix(trailer).expect("a part that was cut off ends in the trailer");
        // Several frames were cut off if the trailer stands inside. The first of them is blank by itself.
        let several = payload.windows(trailer.len()).any(|at| at == trailer);
        assert!(several || is_blank(codec, payload));
    }
}

/// Checks that a blank frame in front of a sealed frame, or behind it, is cut off, and that no other is cut into it.
fn joined(decryptor: &Decryptor, codec: Codec, trailer: &[u8], payload: &[u8]) {
    let mut joined = [0; MAX_LEN + 64];
    // A depacketiser writes a start code in front of every unit, so a unit alone is never joined.
    let blank = is_blank(codec, payload) && (codec != Codec::H264 || payload.starts_with(&[0, 0]));
    let injected_len = payload.len() + trailer.len();
    let joined = &mut joined[..injected_len + SEALED.len()];
    joined[..payload.len()].copy_from_slice(payload);
    joined[payload.len()..injected_len].copy_from_slice(trailer);
    joined[injected_len..].copy_from_slice(&SEALED);
    let rest = decryptor.without_sif_frames(joined);
    assert!(if blank { rest == SEALED } else { rest.ends_with(&SEALED) });
    joined.rotate_left(injected_len);
    let rest = decryptor.without_sif_frames(joined);
    assert!(if blank { rest == SEALED } else { rest.starts_with(&SEALED) });
}

/// Returns whether bytes are a blank frame of LiveKit's server: a second table, in the order of the first.
fn is_blank(codec: Codec, payload: &[u8]) -> bool {
    const UNITS: [&[u8]; 3] = [
        &[
            0x67, 0x42, 0xC0, 0x1F, 0x0F, 0xD9, 0x1F, 0x88, 0x88, 0x84, 0, 0, 3, 0, 4, 0, 0, 3, 0, 0xC8, 0x3C, 0x60,
            0xC9, 0x20,
        ],
        &[0x68, 0x87, 0xCB, 0x83, 0xCB, 0x20],
        &[0x65, 0x88, 0x84, 0x0A, 0xF2, 0x62, 0x80, 0x00, 0xA7, 0xBE],
    ];
    match codec {
        Codec::Opus => {
            payload.len() == 80
                && payload.starts_with(&[0xF8, 0xFF, 0xFE])
                && payload[3..].iter().all(|&byte| byte == 0)
        }
        Codec::Pcmu => payload.len() == 160 && payload.iter().all(|&byte| byte == 0xFF),
        Codec::Pcma => payload.len() == 160 && payload.iter().all(|&byte| byte == 0xD5),
        Codec::Vp8 => {
            payload
                == [
                    0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A, 0x08, 0x00, 0x08, 0x00, 0x00, 0x47, 0x08, 0x85, 0x85, 0x88,
                    0x85, 0x84, 0x88, 0x02, 0x02, 0x00, 0x0C, 0x0D, 0x60, 0x00, 0xFE, 0xFF, 0xAB, 0x50, 0x80,
                ]
        }
        Codec::H264 => {
            if UNITS.contains(&payload) {
                return true;
            }
            let mut rest = payload;
            while !rest.is_empty() {
                let front = if rest.starts_with(&[0, 0, 0, 1]) { 4 } else { 3 };
                let Some(unit) = UNITS.iter().find(|unit| {
                    rest.len() >= front + unit.len()
                        && rest[front - 3..front] == [0, 0, 1]
                        && rest[front..].starts_with(unit)
                }) else {
                    return false;
                };
                rest = &rest[front + unit.len()..];
            }
            !payload.is_empty()
        }
        _ => false,
    }
}
