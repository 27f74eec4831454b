//! The footer layout: a trailer of 20 bytes that describes itself, so receivers need not know the codec.
//!
//! ```text
//! | clear header (AAD) | ciphertext | tag, 16 | counter, 4 | prefix, 8 | key index | F h | 0x01 | E2 EE FE ED |
//!                      |<------------------- escaped as one run if F is set ------------------->|
//! ```
//!
//! `F h` is a flag in the highest bit and the length of the clear header, both in two bytes. All integers are
//! big-endian. The IV is the prefix followed by the counter. The last seven bytes never need an escape: the flag makes
//! their first byte 0x80 or more, and behind it no two zeros follow each other.
//!
//! The tag covers the clear header and, by the IV, prefix and counter. A wrong length changes what the tag covers. The
//! key index is not authenticated: see docs/security.md.
#![deny(clippy::indexing_slicing)]

use super::{IV_LEN, IvParts, IvPlaces, TAG_LEN};

const COUNTER_LEN: usize = 4;
/// The length of the footer.
const FOOTER_LEN: usize = 20;
/// The number of bytes that sealing adds, without escapes.
pub(crate) const OVERHEAD: usize = TAG_LEN + FOOTER_LEN;
/// The maximum length of the clear header.
pub(crate) const MAX_CLEAR_LEN: usize = 0x7FFF;

/// The bit of `F h` that marks an escaped frame.
const ESCAPED: u16 = 0x8000;
/// The version of the layout, and the marker behind it.
const ENDING: [u8; 5] = [0x01, 0xE2, 0xEE, 0xFE, 0xED];

/// Returns the length of the clear header, and whether the bytes behind it are escaped. Returns `None` if the frame is
/// not of this layout and version.
pub(crate) fn clear_len(sealed: &[u8]) -> Option<(usize, bool)> {
    let (rest, &ending) = sealed.split_last_chunk::<5>()?;
    let (_, &field) = rest.split_last_chunk::<2>()?;
    let field = u16::from_be_bytes(field);
    let clear_len = usize::from(field & !ESCAPED);
    let fits = clear_len <= sealed.len().checked_sub(FOOTER_LEN)?;
    (ending == ENDING && fits).then_some((clear_len, field & ESCAPED != 0))
}

/// Parses the sealed part. Returns `None` if it is too short.
pub(crate) fn parse(tail: &[u8]) -> Option<IvParts<'_>> {
    let (rest, footer) = tail.split_last_chunk::<FOOTER_LEN>()?;
    let (&counter, behind) = footer.split_first_chunk::<COUNTER_LEN>()?;
    let (&prefix, behind) = behind.split_first_chunk::<{ IV_LEN - COUNTER_LEN }>()?;
    let &key_index = behind.first()?;
    let mut iv = [0; IV_LEN];
    let (prefix_place, counter_place) = iv.split_first_chunk_mut::<{ IV_LEN - COUNTER_LEN }>()?;
    *prefix_place = prefix;
    counter_place.copy_from_slice(&counter);
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>()?;
    Some(IvParts { ciphertext, tag, iv, key_index })
}

/// Writes the footer and returns the bytes for the other parts. `out` must be [`OVERHEAD`] bytes longer than the plain
/// frame. Returns `None` if it is too short, or the clear header longer than [`MAX_CLEAR_LEN`].
pub(crate) fn write<'a>(
    out: &'a mut [u8],
    clear_len: usize,
    escaped: bool,
    iv: &[u8; IV_LEN],
    key_index: u8,
) -> Option<IvPlaces<'a>> {
    let field = u16::try_from(clear_len).ok().filter(|field| field & ESCAPED == 0)?;
    let field = if escaped { field | ESCAPED } else { field };
    let (rest, footer) = out.split_last_chunk_mut::<FOOTER_LEN>()?;
    let (prefix, counter) = iv.split_first_chunk::<{ IV_LEN - COUNTER_LEN }>()?;
    let (counter_place, behind) = footer.split_first_chunk_mut::<COUNTER_LEN>()?;
    counter_place.copy_from_slice(counter);
    let (prefix_place, behind) = behind.split_first_chunk_mut::<{ IV_LEN - COUNTER_LEN }>()?;
    *prefix_place = *prefix;
    let (index, behind) = behind.split_first_mut()?;
    *index = key_index;
    let (field_place, ending) = behind.split_first_chunk_mut::<2>()?;
    *field_place = field.to_be_bytes();
    ending.copy_from_slice(&ENDING);
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
            clear in 0usize..300,
            escaped: bool,
            iv: [u8; 12],
            key_index: u8,
        ) {
            let clear = clear.min(body.len());
            let mut out = vec![0; body.len() + OVERHEAD];
            let places = write(&mut out, clear, escaped, &iv, key_index).unwrap();
            places.clear.copy_from_slice(&body[..clear]);
            places.ciphertext.copy_from_slice(&body[clear..]);
            places.tag.fill(7);
            prop_assert_eq!(clear_len(&out), Some((clear, escaped)));
            let parts = parse(&out[clear..]).unwrap();
            prop_assert_eq!(parts, IvParts { ciphertext: &body[clear..], tag: &[7; 16], iv, key_index });
            for at in out.len() - 5..out.len() {
                out[at] ^= 1;
                prop_assert_eq!(clear_len(&out), None);
                out[at] ^= 1;
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), marked: bool) {
            if marked {
                bytes.extend_from_slice(&ENDING);
            }
            let found = clear_len(&bytes);
            prop_assert!(found.is_none_or(|(clear, _)| clear + FOOTER_LEN <= bytes.len()));
            prop_assert_eq!(parse(&bytes).is_some(), bytes.len() >= OVERHEAD);
        }
    }

    #[test]
    fn a_clear_header_that_its_field_cannot_hold_is_refused() {
        let mut out = vec![0; MAX_CLEAR_LEN + 1 + OVERHEAD];
        assert!(write(&mut out, MAX_CLEAR_LEN, true, &[0; 12], 0).is_some());
        assert!(write(&mut out, MAX_CLEAR_LEN + 1, true, &[0; 12], 0).is_none());
        assert!(write(&mut out, MAX_CLEAR_LEN + 1, false, &[0; 12], 0).is_none());
    }
}
