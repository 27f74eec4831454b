//! Other spellings of a key, for diagnoses: encoded, decoded, or with a line end behind it.
//!
//! A key has a bounded number of spellings. Nothing in this crate tries them on a frame.

use std::borrow::Cow;
use zeroize::Zeroizing;

use super::{Kdf, MIN_KEY_LEN, Secret};

/// The maximum number of spellings of one key.
pub(super) const MAX_SPELLINGS: usize = 64;

/// Length of a block of SHA-256 in bytes.
const HMAC_BLOCK_LEN: usize = 64;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

type Bytes = Zeroizing<Vec<u8>>;

impl Secret {
    /// Returns at most 64 other spellings of this key, each with a description of the difference. The likelier
    /// spellings are first.
    #[must_use]
    pub fn spellings(&self) -> Vec<(Cow<'static, str>, Self)> {
        let mut found = Spellings { own: self, spellings: Vec::new() };
        let bytes = self.bytes();
        found.add_same("without the line end behind it", without_line_end(bytes));
        found.add_same("without the spaces around it", bytes.trim_ascii());
        for (name, end) in [("with a line end behind it", "\n"), ("with a CR LF behind it", "\r\n")] {
            found.add_same(name, &joined(&[bytes, end.as_bytes()]));
        }
        for (name, decoded) in [("base64-decoded", base64_decoded(bytes)), ("hex-decoded", hex_decoded(bytes))] {
            if let Some(decoded) = decoded {
                found.add(name, &decoded, Kdf::Random);
            }
        }
        for (name, alphabet, pads) in [
            ("as base64 text", STANDARD, true),
            ("as URL-safe base64 text", URL_SAFE, true),
            ("as base64 text without padding", STANDARD, false),
            ("as URL-safe base64 text without padding", URL_SAFE, false),
        ] {
            found.add(name, &base64(bytes, alphabet, pads), Kdf::Password);
        }
        found.add("as hex text", &hex(bytes, b"0123456789abcdef"), Kdf::Password);
        found.add("as hex text in upper case", &hex(bytes, b"0123456789ABCDEF"), Kdf::Password);
        let encoded = base64(bytes, STANDARD, true);
        found.add("as base64 text with a line end behind it", &joined(&[&encoded, b"\n"]), Kdf::Password);
        found.add_same("without the quotes around it", without_quotes(bytes));
        found.add_same("with quotes around it", &joined(&[b"\"", bytes, b"\""]));
        found.add_same("with a space behind it", &joined(&[bytes, b" "]));
        found.add_same("with a NUL behind it", &joined(&[bytes, b"\0"]));
        found.add_same("without the NUL behind it", bytes.strip_suffix(b"\0").unwrap_or(bytes));
        found.add_same("without the byte order mark in front", bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes));
        found.add_same("with a byte order mark in front", &joined(&[BYTE_ORDER_MARK, bytes]));
        found.add_same("in lower case", &Zeroizing::new(bytes.to_ascii_lowercase()));
        found.add_same("in upper case", &Zeroizing::new(bytes.to_ascii_uppercase()));
        if let Some(latin) = latin_1(bytes) {
            found.add_same("in Latin-1", &latin);
        }
        found.spellings.truncate(MAX_SPELLINGS);
        found.spellings
    }
}

struct Spellings<'s> {
    own: &'s Secret,
    spellings: Vec<(Cow<'static, str>, Secret)>,
}

impl Spellings<'_> {
    /// Adds a spelling of the same kind as the key, and of the other kind.
    fn add_same(&mut self, name: &'static str, bytes: &[u8]) {
        self.add(name, bytes, self.own.kdf());
    }

    /// Adds a spelling of the kind `natural`, and of the other kind. Skips the key itself and spellings that are
    /// listed.
    fn add(&mut self, name: &'static str, bytes: &[u8], natural: Kdf) {
        let (other, how) = match natural {
            Kdf::Random => (Kdf::Password, "taken for text"),
            Kdf::Password => (Kdf::Random, "taken for bytes"),
        };
        for (kdf, name) in [(natural, Cow::Borrowed(name)), (other, Cow::Owned(format!("{name}, {how}")))] {
            let fits = match kdf {
                Kdf::Random => bytes.len() >= MIN_KEY_LEN,
                Kdf::Password => !bytes.is_empty() && std::str::from_utf8(bytes).is_ok(),
            };
            let secret = Secret::new(bytes, kdf);
            let derives_the_same = self.own.kdf() == kdf && hmac_key(kdf, self.own.bytes()) == hmac_key(kdf, bytes);
            if fits
                && !derives_the_same
                && self.own.bytes() != bytes
                && !self.spellings.iter().any(|(_, known)| known.same(&secret))
            {
                self.spellings.push((name, secret));
            }
        }
    }
}

/// Returns what HMAC uses of a key that fits into its block (RFC 2104). HMAC pads it with zeros, so a zero at its end
/// changes nothing. The key of HMAC is the passphrase in PBKDF2, but the salt in HKDF.
fn hmac_key(kdf: Kdf, bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    if kdf == Kdf::Password && bytes.len() <= HMAC_BLOCK_LEN {
        while let Some(shorter) = bytes.strip_suffix(b"\0") {
            bytes = shorter;
        }
    }
    bytes
}

fn joined(parts: &[&[u8]]) -> Bytes {
    let mut whole = with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole
}

/// Returns an empty buffer for `len` bytes. A buffer that grows beyond its capacity would leave an uncleared copy
/// behind.
fn with_capacity(len: usize) -> Bytes {
    Zeroizing::new(Vec::with_capacity(len))
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn without_quotes(bytes: &[u8]) -> &[u8] {
    match bytes {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => bytes,
    }
}

/// Encodes bytes as base64 (RFC 4648, sections 4 and 5).
fn base64(bytes: &[u8], alphabet: &[u8; 64], pads: bool) -> Bytes {
    let mut text = with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, at| group << 8 | u32::from(chunk.get(at).copied().unwrap_or_default()));
        for place in 0..4 {
            let digit = group >> (18 - 6 * place) & 0x3F;
            match alphabet.get(digit as usize) {
                Some(&letter) if place <= chunk.len() => text.push(letter),
                _ if pads => text.push(b'='),
                _ => {}
            }
        }
    }
    text
}

/// Decodes base64 of either alphabet, with or without padding. Ignores white space. Returns `None` for any other text.
fn base64_decoded(text: &[u8]) -> Option<Bytes> {
    let mut bytes = with_capacity(text.len());
    let (mut group, mut bits, mut padding) = (0_u32, 0, false);
    for &letter in text.iter().filter(|letter| !letter.is_ascii_whitespace()) {
        if letter == b'=' {
            padding = true;
            continue;
        }
        let digit =
            STANDARD.iter().position(|l| *l == letter).or_else(|| URL_SAFE.iter().position(|l| *l == letter))?;
        if padding {
            return None;
        }
        group = group << 6 | u32::try_from(digit).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xFF).ok()?);
        }
    }
    (bits < 6 && !bytes.is_empty()).then_some(bytes)
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Bytes {
    let mut text = with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([byte >> 4, byte & 0x0F].iter().filter_map(|digit| digits.get(usize::from(*digit))));
    }
    text
}

/// Decodes hex digits. Ignores white space. Returns `None` for any other text.
fn hex_decoded(text: &[u8]) -> Option<Bytes> {
    let mut bytes = with_capacity(text.len());
    let mut first = None;
    for &letter in text.iter().filter(|letter| !letter.is_ascii_whitespace()) {
        let digit = u8::try_from(char::from(letter).to_digit(16)?).ok()?;
        match first.take() {
            None => first = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    (first.is_none() && !bytes.is_empty()).then_some(bytes)
}

/// Encodes text in Latin-1. Returns `None` if the bytes are ASCII, are not UTF-8, or have characters beyond Latin-1.
fn latin_1(bytes: &[u8]) -> Option<Bytes> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_ascii())?;
    let mut latin = with_capacity(bytes.len());
    for character in text.chars() {
        latin.push(u8::try_from(u32::from(character)).ok()?);
    }
    Some(latin)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(secret: &Secret, wanted: &Secret) -> Vec<String> {
        let all = secret.spellings();
        assert!(all.len() <= MAX_SPELLINGS);
        all.iter().filter(|(_, spelling)| spelling.same(wanted)).map(|(name, _)| name.to_string()).collect()
    }

    fn text(text: &str) -> Secret {
        Secret::passphrase(text.as_bytes()).unwrap()
    }

    fn raw(bytes: &[u8]) -> Secret {
        Secret::key(bytes).unwrap()
    }

    #[test]
    fn vectors_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes(), STANDARD, true).as_slice(), coded.as_bytes());
            assert_eq!(base64(plain.as_bytes(), STANDARD, false).as_slice(), coded.trim_end_matches('=').as_bytes());
            if !plain.is_empty() {
                assert_eq!(base64_decoded(coded.as_bytes()).unwrap().as_slice(), plain.as_bytes());
            }
        }
        assert_eq!(base64(&[0xFB, 0xEF, 0xFF], URL_SAFE, true).as_slice(), b"--__");
        for wrong in ["", "A", "AAAAA", "A=A", "AB*C", "é"] {
            assert!(base64_decoded(wrong.as_bytes()).is_none(), "{wrong}");
        }
        for wrong in ["", "0", "0g", "00 0"] {
            assert!(hex_decoded(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn text_where_bytes_were_meant_and_the_reverse() {
        let key: Vec<u8> = (200..232).collect();
        for (spelt, name) in [
            ("yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc=", "as base64 text"),
            ("yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc=", "as URL-safe base64 text"),
            ("yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc", "as base64 text without padding"),
            ("yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc", "as URL-safe base64 text without padding"),
            ("yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc=\n", "as base64 text with a line end behind it"),
            ("c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7", "as hex text"),
            ("C8C9CACBCCCDCECFD0D1D2D3D4D5D6D7D8D9DADBDCDDDEDFE0E1E2E3E4E5E6E7", "as hex text in upper case"),
        ] {
            assert_eq!(names(&raw(&key), &text(spelt)), [name]);
            assert_eq!(names(&raw(&key), &raw(spelt.as_bytes())), [format!("{name}, taken for bytes")]);
            let back = if name.contains("hex") { "hex-decoded" } else { "base64-decoded" };
            assert_eq!(names(&text(spelt), &raw(&key)), [back]);
            assert_eq!(names(&raw(spelt.as_bytes()), &raw(&key)), [back]);
        }
    }

    #[test]
    fn what_editors_and_shells_put_around_text() {
        let plain = "a passphrase of some length";
        for (spelt, with, without) in [
            ("a passphrase of some length\n", "with a line end behind it", "without the line end behind it"),
            ("a passphrase of some length\r\n", "with a CR LF behind it", "without the line end behind it"),
            ("a passphrase of some length ", "with a space behind it", "without the spaces around it"),
            ("\"a passphrase of some length\"", "with quotes around it", "without the quotes around it"),
            (
                "\u{feff}a passphrase of some length",
                "with a byte order mark in front",
                "without the byte order mark in front",
            ),
            ("A PASSPHRASE OF SOME LENGTH", "in upper case", "in lower case"),
        ] {
            assert_eq!(names(&text(plain), &text(spelt)), [with]);
            assert_eq!(names(&text(spelt), &text(plain)), [without]);
            assert_eq!(names(&raw(plain.as_bytes()), &raw(spelt.as_bytes())), [with]);
            assert_eq!(names(&text(plain), &raw(spelt.as_bytes())), [format!("{with}, taken for bytes")]);
            assert_eq!(names(&raw(spelt.as_bytes()), &text(plain)), [format!("{without}, taken for text")]);
        }
        assert_eq!(names(&text("\t both \n"), &text("both")), ["without the spaces around it"]);
    }

    #[test]
    fn a_zero_at_the_end_is_a_spelling_where_it_changes_the_derived_key() {
        let (with, without) = ("with a NUL behind it", "without the NUL behind it");
        for (len, changes) in [(27, false), (63, false), (64, true), (80, true)] {
            let plain = "p".repeat(len);
            let spelt = format!("{plain}\0");
            let expected = |name: &str| if changes { vec![name.to_owned()] } else { Vec::new() };
            assert_eq!(names(&text(&plain), &text(&spelt)), expected(with), "{len}");
            assert_eq!(names(&text(&spelt), &text(&plain)), expected(without), "{len}");
            assert_eq!(names(&raw(plain.as_bytes()), &raw(spelt.as_bytes())), [with]);
            assert_eq!(names(&text(&plain), &raw(spelt.as_bytes())), [format!("{with}, taken for bytes")]);
        }
    }

    proptest! {
        #[test]
        fn no_spelling_is_the_key_itself_or_there_twice(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            for secret in [Secret::passphrase(&bytes), Secret::key(&bytes)].into_iter().flatten() {
                let all = secret.spellings();
                prop_assert!(all.len() <= MAX_SPELLINGS);
                for (place, (name, spelling)) in all.iter().enumerate() {
                    prop_assert!(spelling.bytes() != secret.bytes());
                    prop_assert!(!name.is_empty());
                    prop_assert!(all.iter().skip(place + 1).all(|(_, other)| !other.same(spelling)));
                }
            }
        }

        #[test]
        fn what_was_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            let plain = Zeroizing::new(bytes.clone());
            for (alphabet, pads) in [(STANDARD, true), (STANDARD, false), (URL_SAFE, true), (URL_SAFE, false)] {
                prop_assert_eq!(&base64_decoded(&base64(&bytes, alphabet, pads)).unwrap(), &plain);
            }
            prop_assert_eq!(&hex_decoded(&hex(&bytes, b"0123456789ABCDEF")).unwrap(), &plain);
        }
    }
}
