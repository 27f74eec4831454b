//! Checks the other spellings of a key, against encoders and decoders written anew.
//!
//! The first byte of an input chooses a passphrase (even) or a raw key (odd). The others are its bytes.

use frameseal::{Secret, hazmat};

/// The maximum number of spellings of one key.
const MAX_SPELLINGS: usize = 64;

/// Checks that each spelling is another key, listed once, and that its name says how it was made. Returns the number of
/// spellings, or `None` if the bytes are no key.
pub fn spelling(input: &[u8]) -> Option<usize> {
    let (&chosen, bytes) = input.split_first()?;
    let secret = if chosen & 1 == 0 { Secret::passphrase(bytes) } else { Secret::key(bytes) }.ok()?;
    let all = secret.spellings();
    assert!(all.len() <= MAX_SPELLINGS);
    for (place, (name, spelling)) in all.iter().enumerate() {
        let other = hazmat::secret_bytes(spelling);
        assert!(!name.is_empty() && !other.is_empty() && other != bytes);
        assert!(spelling.is_passphrase() || other.len() >= 16);
        assert!(!spelling.is_passphrase() || std::str::from_utf8(other).is_ok());
        for (_, later) in &all[place + 1..] {
            assert!(hazmat::secret_bytes(later) != other || later.is_passphrase() != spelling.is_passphrase());
        }
        let plain = name.split(", taken for").next().unwrap_or_default();
        assert!(is_spelt(plain, bytes, other), "{name}: {other:?}");
        // Nobody may find a secret in the text of a diagnosis.
        let kdf = if spelling.is_passphrase() { "Password" } else { "Random" };
        assert_eq!(format!("{spelling:?}"), format!("Secret {{ kdf: {kdf}, .. }}"));
    }
    Some(all.len())
}

/// Returns whether a spelling is what its name says.
fn is_spelt(name: &str, bytes: &[u8], other: &[u8]) -> bool {
    let around = |front: &[u8], end: &[u8]| [front, bytes, end].concat() == other;
    let digits = |text: &[u8]| text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>();
    match name {
        "without the line end behind it" => {
            [b"\r\n".as_slice(), b"\n", b"\r"].iter().any(|end| [other, end].concat() == bytes)
        }
        "without the spaces around it" => bytes.trim_ascii() == other,
        "with a line end behind it" => around(b"", b"\n"),
        "with a CR LF behind it" => around(b"", b"\r\n"),
        "base64-decoded" => decodes(&digits(bytes), other),
        "hex-decoded" => digits(bytes).to_ascii_lowercase() == hex(other),
        "as base64 text" => other.len().is_multiple_of(4) && !url_safe(other) && decodes(other, bytes),
        "as URL-safe base64 text" => other.len().is_multiple_of(4) && !standard(other) && decodes(other, bytes),
        "as base64 text without padding" => !other.contains(&b'=') && !url_safe(other) && decodes(other, bytes),
        "as URL-safe base64 text without padding" => {
            !other.contains(&b'=') && !standard(other) && decodes(other, bytes)
        }
        "as base64 text with a line end behind it" => {
            other.strip_suffix(b"\n").is_some_and(|text| text.len().is_multiple_of(4) && decodes(text, bytes))
        }
        "as hex text" => other == hex(bytes),
        "as hex text in upper case" => other == hex(bytes).to_ascii_uppercase(),
        "without the quotes around it" => {
            [b"\"".as_slice(), b"'"].iter().any(|quote| [quote, other, quote].concat() == bytes)
        }
        "with quotes around it" => around(b"\"", b"\""),
        "with a space behind it" => around(b"", b" "),
        "with a NUL behind it" => around(b"", b"\0"),
        "without the NUL behind it" => [other, b"\0"].concat() == bytes,
        "without the byte order mark in front" => [b"\xEF\xBB\xBF", other].concat() == bytes,
        "with a byte order mark in front" => around(b"\xEF\xBB\xBF", b""),
        "in lower case" => bytes.eq_ignore_ascii_case(other) && !other.iter().any(u8::is_ascii_uppercase),
        "in upper case" => bytes.eq_ignore_ascii_case(other) && !other.iter().any(u8::is_ascii_lowercase),
        "in Latin-1" => other.iter().map(|&byte| char::from(byte)).collect::<String>().as_bytes() == bytes,
        _ => false,
    }
}

fn url_safe(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'-' | b'_'))
}

fn standard(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'+' | b'/'))
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// Returns whether base64 text of either alphabet stands for these bytes: bit by bit, as RFC 4648, section 4, draws it.
fn decodes(text: &[u8], bytes: &[u8]) -> bool {
    let mut bits = Vec::with_capacity(6 * text.len());
    for letter in text.iter().filter(|&&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return false,
        };
        bits.extend((0..6).map(|at| value >> (5 - at) & 1));
    }
    bits.len() / 8 == bytes.len()
        && bits.chunks_exact(8).zip(bytes).all(|(bits, &byte)| bits.iter().fold(0, |all, bit| all << 1 | bit) == byte)
}
