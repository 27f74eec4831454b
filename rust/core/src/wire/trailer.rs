//! The trailer layout of LiveKit, VideoSDK and Jitsi, as livekit-client 2.23.0 and libwebrtc's FrameCryptor write it.
//!
//! ```text
//! | clear header (AAD) | ciphertext | tag, 16 | IV, 12 | 0x0C | key index |
//!                      |<---- escaped as one run in H.264 and H.265 ---->|
//! ```
#![deny(clippy::indexing_slicing)]

use super::{IV_LEN, IvParts, IvPlaces, TAG_LEN};

/// The length of the IV, its length byte and the key index.
const TRAILER_LEN: usize = IV_LEN + 2;
/// The number of bytes that sealing adds, without escapes.
pub(crate) const OVERHEAD: usize = TAG_LEN + TRAILER_LEN;

/// Parses the sealed part. Returns `None` if it is not of this layout.
pub(crate) fn parse(tail: &[u8]) -> Option<IvParts<'_>> {
    let (rest, &[iv_len, key_index]) = tail.split_last_chunk::<2>()?;
    if usize::from(iv_len) != IV_LEN {
        return None;
    }
    let (rest, &iv) = rest.split_last_chunk::<IV_LEN>()?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>()?;
    Some(IvParts { ciphertext, tag, iv, key_index })
}

/// Writes the trailer and returns the bytes for the other parts. `out` must be [`OVERHEAD`] bytes longer than the plain
/// frame. Returns `None` if it is too short.
pub(crate) fn write<'a>(out: &'a mut [u8], clear_len: usize, iv: &[u8; IV_LEN], key_index: u8) -> Option<IvPlaces<'a>> {
    let (rest, trailer) = out.split_last_chunk_mut::<TRAILER_LEN>()?;
    let (iv_place, ids) = trailer.split_first_chunk_mut::<IV_LEN>()?;
    *iv_place = *iv;
    #[allow(clippy::cast_possible_truncation)] // 12
    ids.copy_from_slice(&[IV_LEN as u8, key_index]);
    let (rest, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
    let (clear, ciphertext) = rest.split_at_mut_checked(clear_len)?;
    Some(IvPlaces { clear, ciphertext, tag })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_what_was_written_is_identity(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            clear in 0usize..20,
            iv: [u8; 12],
            key_index: u8,
        ) {
            let clear_len = clear.min(body.len());
            let mut out = vec![0; body.len() + OVERHEAD];
            let places = write(&mut out, clear_len, &iv, key_index).unwrap();
            places.clear.copy_from_slice(&body[..clear_len]);
            places.ciphertext.copy_from_slice(&body[clear_len..]);
            places.tag.fill(7);
            let sealed = parse(&out[clear_len..]).unwrap();
            prop_assert_eq!(sealed, IvParts { ciphertext: &body[clear_len..], tag: &[7; 16], iv, key_index });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = parse(&bytes);
            prop_assert_eq!(parsed.is_some(), bytes.len() >= OVERHEAD && bytes[bytes.len() - 2] == 12);
        }
    }
}
