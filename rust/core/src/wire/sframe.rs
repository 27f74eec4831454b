//! The layout of SFrame (RFC 9605, section 4.2): header, ciphertext, tag. Section 4.3 defines the header:
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-+-+-+-+-+-+-+-+-------------------+-------------------+
//! |X|  K  |Y|  C  | KID, if X: K+1    | CTR, if Y: C+1    |
//! +-+-+-+-+-+-+-+-+-------------------+-------------------+
//! ```
//!
//! A value below 8 is written in K or C itself. Other values follow, big-endian, in the minimum number of bytes. No
//! longer form is accepted: the header is authenticated byte for byte, so a second form could only serve an attacker.
#![deny(clippy::indexing_slicing)]

/// The maximum length of a header: one config byte, and eight bytes for each value.
pub(crate) const MAX_LEN: usize = 17;

/// The maximum length of a value.
const WORD: usize = 8;

/// Values below this one are written in the config byte.
const EXTENDED_FROM: u64 = 8;

/// The values of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kid: u64,
    pub(crate) ctr: u64,
}

impl Header {
    /// Returns the length of the header in bytes.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        1 + extension(self.kid) + extension(self.ctr)
    }

    /// Writes the header and returns it and the bytes behind it. May overwrite up to 7 of these, which are the
    /// ciphertext's. Returns `None` if `out` is too short.
    #[inline(always)]
    pub(crate) fn write(self, out: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
        let Self { kid, ctr } = self;
        let (kid_len, ctr_len, len) = (extension(kid), extension(ctr), self.len());
        let config = config_bits(kid, kid_len) << 4 | config_bits(ctr, ctr_len);
        if let (true, Some(word)) = (len <= WORD, out.first_chunk_mut::<WORD>()) {
            // Most headers fit a word. Write it with one store: the AEAD's loads would stall on several smaller ones.
            let joined = (u64::from(config) << (8 * kid_len) | extended(kid)) << (8 * ctr_len) | extended(ctr);
            *word = (joined << (8 * (WORD - len))).to_be_bytes();
        } else {
            let (place, rest) = out.split_first_mut()?;
            *place = config;
            let (kid_place, rest) = rest.split_at_mut_checked(kid_len)?;
            kid_place.copy_from_slice(kid.to_be_bytes().get(WORD - kid_len..)?);
            rest.get_mut(..ctr_len)?.copy_from_slice(ctr.to_be_bytes().get(WORD - ctr_len..)?);
        }
        out.split_at_mut_checked(len)
    }

    /// Reads a header and returns it and its length. Returns `None` if it is truncated or not in its shortest form.
    pub(crate) fn parse(sealed: &[u8]) -> Option<(Self, usize)> {
        let (&config, rest) = sealed.split_first()?;
        let (kid, rest) = value(config >> 4, rest)?;
        let (ctr, rest) = value(config & 0x0F, rest)?;
        Some((Self { kid, ctr }, sealed.len() - rest.len()))
    }
}

/// Returns the length of a header that begins with this config byte.
#[inline(always)]
pub(crate) fn head_len(config: u8) -> usize {
    let len = |bits: u8| if bits & 0x08 == 0 { 0 } else { usize::from(bits & 0x07) + 1 };
    1 + len(config >> 4) + len(config & 0x0F)
}

/// The parts of a sealed frame.
pub(crate) struct SframeParts<'a> {
    pub(crate) header: Header,
    /// The bytes of the header, which are authenticated.
    pub(crate) head: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
    pub(crate) tag: &'a [u8],
}

/// Parses a frame. Returns `None` if it is truncated, or its header is not in its shortest form.
pub(crate) fn parse(sealed: &[u8], tag_len: usize) -> Option<SframeParts<'_>> {
    let (header, len) = Header::parse(sealed)?;
    let (head, rest) = sealed.split_at_checked(len)?;
    let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(tag_len)?)?;
    Some(SframeParts { header, head, ciphertext, tag })
}

/// A frame being written: the finished header, and the bytes for ciphertext and tag.
pub(crate) struct SframePlaces<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) ciphertext: &'a mut [u8],
    pub(crate) tag: &'a mut [u8],
}

/// Writes the header and returns the bytes for the other parts. Returns `None` if `out` is too short.
#[inline(always)]
pub(crate) fn write(out: &mut [u8], header: Header, tag_len: usize) -> Option<SframePlaces<'_>> {
    let (head, rest) = header.write(out)?;
    let (ciphertext, tag) = rest.split_at_mut_checked(rest.len().checked_sub(tag_len)?)?;
    Some(SframePlaces { head, ciphertext, tag })
}

/// Returns the number of bytes that a value has behind the config byte.
#[inline(always)]
fn extension(value: u64) -> usize {
    if value < EXTENDED_FROM { 0 } else { WORD - value.leading_zeros() as usize / 8 }
}

/// Returns the value if it is written behind the config byte, and 0 otherwise.
#[inline(always)]
fn extended(value: u64) -> u64 {
    if value < EXTENDED_FROM { 0 } else { value }
}

/// Returns the four bits of the config byte for a value.
#[inline(always)]
#[allow(clippy::cast_possible_truncation)] // below 8
fn config_bits(value: u64, extension: usize) -> u8 {
    if value < EXTENDED_FROM { value as u8 } else { 0x08 | (extension as u8 - 1) }
}

/// Reads one value, and returns it and the bytes behind it. Returns `None` if it is truncated or not in its shortest
/// form.
fn value(bits: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    if bits & 0x08 == 0 {
        return Some((u64::from(bits & 0x07), rest));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(bits & 0x07) + 1)?;
    let value = bytes.iter().fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
    (value >= EXTENDED_FROM && bytes.first() != Some(&0)).then_some((value, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(header: Header) -> Vec<u8> {
        header.write(&mut [0; MAX_LEN]).unwrap().0.to_vec()
    }

    proptest! {
        #[test]
        fn parsing_what_was_written_is_identity(kid in edges(), ctr in edges(), behind: [u8; 3]) {
            let header = Header { kid, ctr };
            let encoded = encoded(header);
            let sealed = [encoded.as_slice(), &behind].concat();
            prop_assert_eq!(Header::parse(&sealed), Some((header, encoded.len())));
            prop_assert_eq!(header.len(), encoded.len());
            prop_assert_eq!(encoded.first().map(|config| head_len(*config)), Some(encoded.len()));
            // Without spare bytes behind it, the header is the same.
            let mut exact = vec![0; encoded.len()];
            prop_assert!(header.write(&mut exact).is_some());
            prop_assert_eq!(&exact, &encoded);
            prop_assert!(header.write(exact.split_last_mut().unwrap().1).is_none());
        }

        #[test]
        fn a_frame_that_was_written_comes_to_the_same_pieces(
            kid in edges(),
            ctr in edges(),
            rest: Vec<u8>,
            tag: [u8; 10],
        ) {
            let header = Header { kid, ctr };
            let len = rest.len() + tag.len();
            let mut out = vec![0; header.len() + len];
            let places = write(&mut out, header, tag.len()).unwrap();
            prop_assert_eq!(places.head, encoded(header));
            places.ciphertext.copy_from_slice(&rest);
            places.tag.copy_from_slice(&tag);
            let (sealed, head) = (parse(&out, tag.len()).unwrap(), encoded(header));
            prop_assert_eq!((sealed.header, sealed.head), (header, head.as_slice()));
            prop_assert_eq!((sealed.ciphertext, sealed.tag), (rest.as_slice(), tag.as_slice()));
            prop_assert!(parse(&out, len + 1).is_none());
        }

        #[test]
        fn whatever_parses_is_in_its_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some((header, len)) = Header::parse(&bytes) {
                let encoded = encoded(header);
                prop_assert_eq!(encoded.as_slice(), bytes.get(..len).unwrap());
            }
        }

        #[test]
        fn every_truncation_is_refused(kid in edges(), ctr in edges()) {
            let encoded = encoded(Header { kid, ctr });
            for len in 0..encoded.len() {
                prop_assert_eq!(Header::parse(encoded.get(..len).unwrap()), None);
            }
        }
    }

    fn edges() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(7),
            Just(8),
            Just(255),
            Just(256),
            Just(1 << 32),
            Just(u64::MAX),
            any::<u64>(),
            (0u32..64).prop_map(|bit| 1 << bit)
        ]
    }
}
