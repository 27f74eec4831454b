//! Operations that leak secrets in known ways. Memcheck must report each, or the cases show nothing.

use std::hint::black_box;

use frameseal::profile::{LIVEKIT, SFRAME};
use frameseal::{CipherSuite, Secret, hazmat};

use crate::Case;
use crate::memcheck::secret;

/// Every control.
pub const ALL: &[Case] = &[
    Case { name: "compare-early-exit", verdicts: &[], run: compare_early_exit },
    Case { name: "table-look-up", verdicts: &[], run: table_look_up },
    Case { name: "passphrase-branch", verdicts: &[], run: passphrase_branch },
    Case { name: "derived-key-branch", verdicts: &[], run: derived_key_branch },
    Case { name: "ratcheted-key-branch", verdicts: &[], run: ratcheted_key_branch },
    Case { name: "plaintext-branch", verdicts: &[], run: plaintext_branch },
    Case { name: "printed-key", verdicts: &[], run: printed_key },
    Case { name: "spellings", verdicts: &[], run: spellings },
];

/// Compares byte by byte, and stops at the first difference.
#[inline(never)]
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| black_box(*a) == *b)
}

fn compare_early_exit() {
    black_box(is_equal(&secret(&[1; 16]), &[2; 16]));
}

fn table_look_up() {
    let table: [u8; 256] = std::array::from_fn(|at| at as u8 ^ 0x5A);
    black_box(black_box(&table)[usize::from(secret(&[9])[0])]);
}

fn passphrase_branch() {
    let text = secret(b"Passphrase");
    if text[0].is_ascii_uppercase() {
        black_box(&text);
    }
}

/// Shows that what HKDF derives from a secret is secret.
fn derived_key_branch() {
    let key = Secret::key(&secret(&[1; 16])).unwrap();
    let suite = CipherSuite::by_id(4).unwrap();
    let (derived, _) = hazmat::derive(&SFRAME, suite, 0, &key).unwrap();
    black_box(is_equal(&derived, &[0; 16]));
}

/// Shows that the material of a ratchet step is secret.
fn ratcheted_key_branch() {
    let key = Secret::key(&secret(&[1; 16])).unwrap();
    let (_, next) = hazmat::ratchet(&LIVEKIT, CipherSuite::by_id(4).unwrap(), &key).unwrap();
    black_box(is_equal(&next, &[0; 32]));
}

/// Shows that what a secret key opens is secret.
fn plaintext_branch() {
    let suite = CipherSuite::by_id(4).unwrap();
    let sealed = hazmat::seal(suite, &[7; 16], [1; 12], b"", b"a frame").unwrap();
    let mut plaintext = [0; 7];
    let _ = black_box(hazmat::open(suite, &secret(&[7; 16]), [1; 12], b"", &sealed, &mut plaintext));
    black_box(is_equal(&plaintext, b"b frame"));
}

fn printed_key() {
    let text = secret(b"a key in a log");
    std::io::Write::write_all(&mut std::io::stderr(), &text).unwrap();
}

/// Lists other spellings of a key, for a diagnosis that a user asks for. It branches on the characters of the key.
fn spellings() {
    black_box(Secret::key(&secret(b"MDEyMzQ1Njc4OWFiY2RlZg==")).unwrap().spellings().len());
}
