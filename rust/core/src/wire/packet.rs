//! The layout of a data packet in one piece, for channels that carry messages only (trailer profiles).
//!
//! ```text
//! | 0xF5 | 0x01 | key index | IV, 12 | ciphertext | tag, 16 |
//! ```
//!
//! No UTF-8 text starts with 0xF5, so a packet is never mistaken for a text message.
#![deny(clippy::indexing_slicing)]

use super::{IV_LEN, TAG_LEN};

/// The marker byte and the version of the layout.
const MAGIC: [u8; 2] = [0xF5, 0x01];

/// The number of bytes that sealing adds.
pub(crate) const OVERHEAD: usize = MAGIC.len() + 1 + IV_LEN + TAG_LEN;

/// The parts of a packet. `sealed` is the ciphertext and the tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) key_index: u8,
    pub(crate) iv: [u8; IV_LEN],
    pub(crate) sealed: &'a [u8],
}

/// Parses a packet. Returns `None` if it is not of this layout.
pub(crate) fn parse(packet: &[u8]) -> Option<Packet<'_>> {
    let rest = packet.strip_prefix(&MAGIC)?;
    let (&key_index, rest) = rest.split_first()?;
    let (&iv, sealed) = rest.split_first_chunk::<IV_LEN>()?;
    (sealed.len() >= TAG_LEN).then_some(Packet { key_index, iv, sealed })
}

/// Writes the header and returns the bytes behind it. Returns `None` if `out` is shorter than [`OVERHEAD`].
pub(crate) fn write<'a>(out: &'a mut [u8], key_index: u8, iv: &[u8; IV_LEN]) -> Option<&'a mut [u8]> {
    if out.len() < OVERHEAD {
        return None;
    }
    let (magic, rest) = out.split_first_chunk_mut::<2>()?;
    *magic = MAGIC;
    let (index, rest) = rest.split_first_mut()?;
    *index = key_index;
    let (iv_place, rest) = rest.split_first_chunk_mut::<IV_LEN>()?;
    *iv_place = *iv;
    Some(rest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_what_was_written_is_identity(
            sealed in proptest::collection::vec(any::<u8>(), 16..200),
            iv: [u8; 12],
            key_index: u8,
        ) {
            let mut out = vec![0; sealed.len() + OVERHEAD - TAG_LEN];
            write(&mut out, key_index, &iv).unwrap().copy_from_slice(&sealed);
            prop_assert_eq!(parse(&out).unwrap(), Packet { key_index, iv, sealed: &sealed });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = parse(&bytes);
            prop_assert_eq!(parsed.is_some(), bytes.len() >= OVERHEAD && bytes.starts_with(&MAGIC));
        }
    }
}
