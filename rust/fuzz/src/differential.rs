//! Compares the core with a second reading of every layout, see [`super::reference`].
//!
//! The first byte of an input chooses a ring's profile (high half) and a codec (low half). The others are the frame. The
//! numbers behind the profiles choose the pieces of the layouts: headers, ends, or the escapes of a run.

use std::sync::{Arc, LazyLock};

use frameseal::hazmat::{self, codec, wire};
use frameseal::{Codec, Decryptor, KeyRing, Options, profile};

use super::reference::{self, Buffer, Parts};

/// The maximum length of a frame, whose escaped form fits a [`Buffer`].
const MAX_LEN: usize = 512;
/// The codecs, and none.
const CODECS: usize = 16;

/// A decryptor for each profile and codec, in the order of an input's first byte. Reading a key id changes none of them.
static DECRYPTORS: LazyLock<Vec<Option<Decryptor>>> = LazyLock::new(|| {
    let all = profile::ALL.into_iter().flat_map(|profile| {
        let ring = Arc::new(KeyRing::new(profile, Options::default()).expect("the default options are valid"));
        (0..CODECS).map(move |number| {
            let codec = Codec::ALL.get(number).copied().unwrap_or(Codec::Unknown);
            Decryptor::new(Arc::clone(&ring), codec, Some(0)).ok()
        })
    });
    all.collect()
});

/// Compares both readings of a frame. Returns its key id, or `None` if both say that it is not of the layout.
pub fn differential(input: &[u8]) -> Option<u64> {
    let (&chosen, frame) = input.split_first()?;
    if frame.len() > MAX_LEN {
        return None;
    }
    let (row, number) = (usize::from(chosen >> 4), usize::from(chosen & 0x0F));
    let Some(profile) = profile::ALL.get(row) else {
        return match row - profile::ALL.len() {
            0 => header(frame),
            1 => ends(frame),
            2 => escapes(frame, number % 3),
            _ => None,
        };
    };
    let codec = Codec::ALL.get(number).copied().unwrap_or(Codec::Unknown);
    let decryptor = DECRYPTORS.get(row * CODECS + number)?.as_ref()?;
    let mut body = Buffer::new();
    let expected = match profile.layout() {
        "trailer" => {
            let (clear_len, escaped) = clear_len(codec, frame);
            assert_eq!(codec::clear_len(profile, codec, frame), Some((clear_len, escaped)));
            frame.get(clear_len..).and_then(|tail| {
                if escaped {
                    reference::unescape(tail, 0, false, &mut body);
                }
                let parts = reference::trailer(if escaped { body.as_slice() } else { tail })?;
                Some(u64::from(parts.key_index))
            })
        }
        "footer" => reference::footer_clear_len(frame).and_then(|(clear_len, escaped)| {
            let (clear, tail) = frame.split_at(clear_len);
            let zeros = clear.iter().rev().take_while(|&&byte| byte == 0).count();
            if escaped {
                reference::unescape(tail, zeros, true, &mut body);
            }
            let parts = reference::footer(if escaped { body.as_slice() } else { tail })?;
            Some(u64::from(parts.key_index))
        }),
        _ => {
            let header_len = codec.info().map_or(0, |info| info.nal_header_len());
            let inside = if header_len == 0 { Some((0, frame.len())) } else { reference::envelope(frame, header_len) };
            inside.and_then(|(from, to)| {
                let mut inside = &frame[from..to];
                if header_len > 0 {
                    reference::unescape(inside, 0, false, &mut body);
                    inside = body.as_slice();
                }
                let (kid, _, len) = reference::sframe_header(inside)?;
                (inside.len() >= len + 16).then_some(kid)
            })
        }
    };
    assert_eq!(decryptor.key_id_of(frame), expected, "{} {}", profile.name, codec.name());
    expected
}

/// Returns the clear bytes of a frame in the trailer layout, by the table of docs/formats.
fn clear_len(codec: Codec, frame: &[u8]) -> (usize, bool) {
    match codec.name() {
        "opus" | "pcmu" | "pcma" | "g722" => (1, false),
        "vp8" => (if frame.first().is_some_and(|byte| byte % 2 == 0) { 10 } else { 3 }, false),
        "h264" | "h265" => reference::byte_stream_clear_len(frame),
        _ => (0, false),
    }
}

/// Compares the header of an SFrame, read and written. Returns its KID.
fn header(bytes: &[u8]) -> Option<u64> {
    let read = reference::sframe_header(bytes);
    assert_eq!(hazmat::parse_header(bytes), read);
    if let Some((kid, rest)) = bytes.split_first_chunk::<8>() {
        // A shift makes short numbers as likely as long ones.
        let shift = u32::from(rest.first().copied().unwrap_or_default() % 64);
        let (kid, ctr) = (u64::from_le_bytes(*kid) >> shift, u64::from_be_bytes(*kid) >> (63 - shift));
        let (mut expected, mut out) = ([0; 17], [0; 17]);
        let len = reference::write_sframe_header(kid, ctr, &mut expected);
        let (head, _) = wire::write_sframe(&mut out, kid, ctr, 0).expect("the buffer is long enough");
        assert_eq!(head, &expected[..len]);
    }
    read.map(|(kid, _, _)| kid)
}

/// Compares trailer, footer, data packet and envelope. Returns a key index.
fn ends(bytes: &[u8]) -> Option<u64> {
    let trailer = reference::trailer(bytes);
    same(wire::parse_trailer(bytes), trailer, bytes);
    assert_eq!(wire::footer_clear_len(bytes), reference::footer_clear_len(bytes));
    same(wire::parse_footer(bytes), reference::footer(bytes), bytes);
    let packet = reference::packet(bytes).map(|(key_index, iv, (from, to))| (key_index, iv, &bytes[from..to]));
    assert_eq!(wire::parse_packet(bytes), packet);
    for (codec, header_len) in [(Codec::H264, 1), (Codec::H265, 2)] {
        let inside = reference::envelope(bytes, header_len).map(|(from, to)| &bytes[from..to]);
        assert_eq!(wire::open_envelope(codec, bytes), inside);
    }
    trailer.map(|parts| u64::from(parts.key_index)).or(packet.map(|(key_index, _, _)| u64::from(key_index)))
}

/// Compares the escapes of a run behind a number of zeros. Returns the number of escapes, or `None` if there are none.
fn escapes(run: &[u8], zeros: usize) -> Option<u64> {
    let (mut escaped, mut strict, mut plain) = (Buffer::new(), Buffer::new(), Buffer::new());
    reference::escape(run, zeros, &mut escaped);
    let added = escaped.as_slice().len() - run.len();
    assert_eq!(codec::escapes(run, zeros), added);
    let mut out = [0; 1024];
    let out = &mut out[..run.len() + added];
    assert!(codec::escape(run, zeros, out).is_some() && out == escaped.as_slice());
    reference::unescape(run, zeros, true, &mut strict);
    assert_eq!(*codec::unescape_strictly(run, zeros), *strict.as_slice());
    reference::unescape(run, 0, false, &mut plain);
    assert_eq!(*codec::unescape(run), *plain.as_slice());
    (added > 0).then_some(added as u64)
}

/// Compares the parts of a frame with an IV.
fn same(core: Option<wire::Sealed<'_>>, reference: Option<Parts>, bytes: &[u8]) {
    let expected = reference.map(|Parts { ciphertext, tag, iv, key_index }| wire::Sealed {
        ciphertext: &bytes[ciphertext.0..ciphertext.1],
        tag: &bytes[tag.0..tag.1],
        iv,
        key_index,
    });
    assert_eq!(core, expected);
}
