//! SFrame (RFC 9605, section 4.2): a header, the ciphertext and the tag; and the header (section 4.3).
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-+-+-+-+-+-+-+-+-------------------+-------------------+
//! |X|  K  |Y|  C  | KID, if X: K+1    | CTR, if Y: C+1    |
//! +-+-+-+-+-+-+-+-+-------------------+-------------------+
//! ```
//!
//! A value below 8 stands in K or C itself; others follow, big-endian, in as few bytes as they need. Only that form is
//! accepted: the header is authenticated as it stands, so a second spelling could only serve an attacker.
#![deny(clippy::indexing_slicing)]

/// One config byte, and at most eight bytes for each value.
pub(crate) const MOST_LEN: usize = 17;

/// The values below this one stand in the config byte.
const EXTENDED_FROM: u64 = 8;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kid: u64,
    pub(crate) ctr: u64,
}

/// A header as it is sent.
#[derive(Clone, Copy)]
pub(crate) struct Encoded {
    bytes: [u8; MOST_LEN],
    len: usize,
}

impl Encoded {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(target) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            target.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

impl Header {
    pub(crate) fn encode(self) -> Encoded {
        let (kid, ctr) = (self.kid.to_be_bytes(), self.ctr.to_be_bytes());
        let (x_and_k, kid) = field(self.kid, &kid);
        let (y_and_c, ctr) = field(self.ctr, &ctr);
        let mut encoded = Encoded { bytes: [0; MOST_LEN], len: 0 };
        encoded.push(&[x_and_k << 4 | y_and_c]);
        encoded.push(kid);
        encoded.push(ctr);
        encoded
    }

    /// Reads a header and says how long it is. None: truncated, or not in its shortest form.
    pub(crate) fn parse(sealed: &[u8]) -> Option<(Self, usize)> {
        let (&config, rest) = sealed.split_first()?;
        let (kid, rest) = value(config >> 4, rest)?;
        let (ctr, rest) = value(config & 0x0F, rest)?;
        Some((Self { kid, ctr }, sealed.len() - rest.len()))
    }
}

/// A sealed frame in pieces.
pub(crate) struct Sealed<'a> {
    pub(crate) header: Header,
    /// The header as it stands, which is authenticated.
    pub(crate) head: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
    pub(crate) tag: &'a [u8],
}

/// Takes a frame to pieces. None: truncated, or its header is not in its shortest form.
pub(crate) fn parse(sealed: &[u8], tag_len: usize) -> Option<Sealed<'_>> {
    let (header, len) = Header::parse(sealed)?;
    let (head, rest) = sealed.split_at_checked(len)?;
    let (ciphertext, tag) = rest.split_at_checked(rest.len().checked_sub(tag_len)?)?;
    Some(Sealed { header, head, ciphertext, tag })
}

/// Writes the header and hands out the places of ciphertext and tag. None: `out` is too short.
pub(crate) fn write<'a>(out: &'a mut [u8], head: &[u8], tag_len: usize) -> Option<(&'a mut [u8], &'a mut [u8])> {
    let (place, rest) = out.split_at_mut_checked(head.len())?;
    place.copy_from_slice(head);
    rest.split_at_mut_checked(rest.len().checked_sub(tag_len)?)
}

/// The four bits of the config byte for a value, and the bytes that follow.
fn field(value: u64, bytes: &[u8; 8]) -> (u8, &[u8]) {
    if value < EXTENDED_FROM {
        #[allow(clippy::cast_possible_truncation)] // below 8
        return (value as u8, &[]);
    }
    let zeros = value.leading_zeros() / 8;
    #[allow(clippy::cast_possible_truncation)] // at most 7
    let extra = (7 - zeros) as u8;
    (0x08 | extra, bytes.get(zeros as usize..).unwrap_or_default())
}

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

    proptest! {
        #[test]
        fn parsing_what_was_encoded_is_identity(kid in edges(), ctr in edges(), behind: [u8; 3]) {
            let header = Header { kid, ctr };
            let encoded = header.encode();
            let sealed = [encoded.as_slice(), &behind].concat();
            prop_assert_eq!(Header::parse(&sealed), Some((header, encoded.as_slice().len())));
        }

        #[test]
        fn a_frame_that_was_written_comes_to_the_same_pieces(kid in edges(), ctr in edges(), rest: Vec<u8>, tag: [u8; 10]) {
            let header = Header { kid, ctr };
            let (encoded, len) = (header.encode(), rest.len() + tag.len());
            let mut out = vec![0; encoded.as_slice().len() + len];
            let (ciphertext_place, tag_place) = write(&mut out, encoded.as_slice(), tag.len()).unwrap();
            ciphertext_place.copy_from_slice(&rest);
            tag_place.copy_from_slice(&tag);
            let sealed = parse(&out, tag.len()).unwrap();
            prop_assert_eq!((sealed.header, sealed.head), (header, encoded.as_slice()));
            prop_assert_eq!((sealed.ciphertext, sealed.tag), (rest.as_slice(), tag.as_slice()));
            prop_assert!(parse(&out, len + 1).is_none());
        }

        #[test]
        fn whatever_parses_is_in_its_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some((header, len)) = Header::parse(&bytes) {
                let encoded = header.encode();
                prop_assert_eq!(encoded.as_slice(), bytes.get(..len).unwrap());
            }
        }

        #[test]
        fn every_truncation_is_refused(kid in edges(), ctr in edges()) {
            let encoded = Header { kid, ctr }.encode();
            for len in 0..encoded.as_slice().len() {
                prop_assert_eq!(Header::parse(encoded.as_slice().get(..len).unwrap()), None);
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
