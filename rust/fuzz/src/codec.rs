//! Checks the clear rules of every codec and profile, and the byte streams of H.264 and H.265.
//!
//! The first byte of an input chooses the profile (high half) and the codec (low half). The others are the frame. The
//! three numbers behind the profiles choose the escapes of a run behind no zero, one or two.

use frameseal::hazmat::codec::{self, AccessUnit, SealableUnit};
use frameseal::hazmat::{self, Scan};
use frameseal::{Codec, Profile, profile};

use super::reference;

/// The maximum length of a frame, so that all buffers have a fixed length.
const MAX_LEN: usize = 512;
/// The minimum number of bytes that sealing appends.
const HIDDEN: usize = 30;

/// Checks a frame under the clear rules, as a sender and as a receiver. Returns the number of clear bytes, or `None` if
/// the profile does not support the codec or refuses the frame.
pub fn codec(input: &[u8]) -> Option<usize> {
    let (&chosen, frame) = input.split_first()?;
    if frame.len() > MAX_LEN {
        return None;
    }
    let number = usize::from(chosen >> 4);
    let Some(profile) = profile::ALL.get(number) else {
        return escapes(frame, number - profile::ALL.len());
    };
    let codec = Codec::ALL.get(usize::from(chosen & 0x0F)).copied().unwrap_or(Codec::Unknown);
    let (clear_len, escaped) = codec::clear_len(profile, codec, frame)?;
    // No rule leaves more clear than it finds, but for the fixed numbers, which a shorter frame does not have.
    assert!(clear_len <= frame.len().max(10));
    match codec::sender_clear_len(profile, codec, frame) {
        // Sender and receiver agree, as the clear bytes alone decide.
        Some(len) => assert_eq!((len, false), (clear_len, escaped)),
        None => return access_unit(profile, codec, frame),
    }
    Some(clear_len)
}

/// Checks that escapes come off again by both rules, and that no start code is left in an escaped run. Returns the number
/// of escapes, or `None` if there are none.
fn escapes(run: &[u8], zeros: usize) -> Option<usize> {
    if zeros > 2 {
        return None;
    }
    let added = codec::escapes(run, zeros);
    assert!(added <= run.len() / 2 + 1);
    let mut out = [0xAA; 2 * MAX_LEN];
    let out = &mut out[..run.len() + added];
    codec::escape(run, zeros, out).expect("the buffer has the length of the escaped run");
    assert!(memchr::memmem::find(out, &[0, 0, 1]).is_none() && memchr::memmem::find(out, &[0, 0, 2]).is_none());
    assert!(memchr::memmem::find(out, &[0, 0, 0]).is_none());
    assert_eq!(*codec::unescape_strictly(out, zeros), *run);
    assert!(codec::unescape(run).len() <= run.len());
    assert!(codec::unescape_strictly(run, zeros).len() <= run.len());
    if zeros == 0 {
        assert_eq!(*codec::unescape(out), *run);
    }
    (added > 0).then_some(added)
}

/// Checks an access unit as a sender prepares it.
fn access_unit(profile: &Profile, signalled: Codec, frame: &[u8]) -> Option<usize> {
    match codec::access_unit(profile, signalled, frame).expect("the codec is a byte stream") {
        AccessUnit::Refused => None,
        AccessUnit::Waiting(units) => {
            assert!(units.len() <= 4 * frame.len());
            // Units that wait stay the same when they are prepared again.
            if let Some(AccessUnit::Waiting(again)) = codec::access_unit(profile, signalled, &units) {
                assert_eq!(again, units);
            }
            Some(units.len())
        }
        AccessUnit::Sealable(unit) => {
            let (clear_len, whole) = (unit.clear_len(), unit.frame());
            assert!(clear_len >= 2 + 3 && clear_len <= whole.len());
            // The slice and all behind it are those of the encoder.
            assert!(frame.ends_with(&whole[clear_len - 2..]));
            // The receiver finds the same slice, whatever follows its clear bytes.
            let mut sealed = [0x80; MAX_LEN * 2 + 64];
            sealed[..clear_len].copy_from_slice(&whole[..clear_len]);
            assert_eq!(codec::clear_len(profile, signalled, &sealed[..clear_len + HIDDEN]), Some((clear_len, true)));
            assert!(matches!(hazmat::scan(&sealed[..clear_len + HIDDEN]), Scan::Slice(len, _) if len == clear_len));
            match codec::access_unit(profile, signalled, whole) {
                Some(AccessUnit::Sealable(again)) => assert_eq!((again.frame(), again.clear_len()), (whole, clear_len)),
                _ => panic!("a prepared frame is refused"),
            }
            header(&unit);
            Some(clear_len)
        }
    }
}

/// Checks that the slice header counts as kept if, and only if, a receiver reads the same values from other bytes.
fn header(unit: &SealableUnit<'_>) {
    let (whole, clear_len) = (unit.frame(), unit.clear_len());
    if !unit.hides_header() {
        return;
    }
    let start = clear_len - 2;
    let (found, h264) = reference::first_slice(whole, HIDDEN).expect("a prepared frame has a slice");
    assert_eq!(found, start);
    // The unit ends where the next one begins. Its header is read from at most 40 bytes behind the NAL header.
    let plain = &whole[start..whole.len().min(start + 40 + if h264 { 1 } else { 2 })];
    let end = plain.windows(3).position(|at| at == [0, 0, 1]).unwrap_or(plain.len());
    let (fields, _) = reference::slice_header(&plain[..end], h264).expect("a kept header can be read");
    // Its own bytes, and the same with one bit changed, stand for ciphertext.
    for change in [0, 0x10] {
        let mut sealed = [0; MAX_LEN * 2 + 64];
        sealed[..whole.len()].copy_from_slice(whole);
        let sealed = &mut sealed[..whole.len()];
        if let Some(byte) = sealed.get_mut(clear_len) {
            *byte ^= change;
        }
        for counts_zeros in [false, true] {
            let kept = unit.is_kept(sealed, counts_zeros);
            assert_eq!(kept, reads(sealed, start, clear_len, h264, counts_zeros) == Some(fields));
        }
    }
}

/// Returns the fields that a receiver reads from a sealed frame whose bytes behind `clear_len` are escaped. Returns
/// `None` if the escaped frame has a start code there.
fn reads(sealed: &[u8], start: usize, clear_len: usize, h264: bool, counts_zeros: bool) -> Option<[u64; 3]> {
    let (clear, tail) = (&sealed[start..clear_len], &sealed[clear_len..]);
    let zeros = if counts_zeros { clear.iter().rev().take_while(|&&byte| byte == 0).count().min(2) } else { 0 };
    let mut escaped = reference::Buffer::new();
    reference::escape(&tail[..tail.len().min(40)], zeros, &mut escaped);
    let mut wire = [0; 2 * MAX_LEN];
    let len = clear.len() + escaped.as_slice().len();
    wire[..clear.len()].copy_from_slice(clear);
    wire[clear.len()..len].copy_from_slice(escaped.as_slice());
    let wire = &wire[..len];
    if wire.windows(3).any(|at| at == [0, 0, 1]) {
        return None;
    }
    reference::slice_header(wire, h264).map(|(fields, _)| fields)
}
