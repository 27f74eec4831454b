//! The SFrame header (RFC 9605, section 4.3).
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
