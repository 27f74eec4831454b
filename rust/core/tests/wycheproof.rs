//! Runs the cases of Project Wycheproof against the primitives of `suite.rs`, as the crate calls them.
//!
//! The sets are AES-GCM, and HKDF and HMAC with SHA-256 and SHA-512, and PBKDF2 with SHA-256. Each test counts the cases
//! that ran, and the cases whose parameters no suite has. A release of the vectors with other cases therefore shows.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use frameseal::{CipherSuite, hazmat};
use wycheproof::{TestResult, aead, hkdf, mac, pbkdf2};

/// The reason to leave a case out: no suite has such keys.
const OTHER_KEY: &str = "key of 192 bits";
/// The reason to leave a case out: the type of a nonce in `suite.rs` is an array of 12 bytes.
const OTHER_NONCE: &str = "nonce of other than 96 bits";

/// Counts cases by "valid", "invalid", or the reason to leave them out.
#[derive(Default)]
struct Counted(BTreeMap<&'static str, usize>);

impl Counted {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn add_result(&mut self, result: TestResult) {
        assert!(result != TestResult::Acceptable, "a case may go either way");
        self.add(if result.must_fail() { "invalid" } else { "valid" });
    }

    /// Asserts the counts, and that no case of the set was passed over.
    fn assert(self, number_of_tests: usize, counts: &[(&'static str, usize)]) {
        assert_eq!(self.0, counts.iter().copied().collect());
        assert_eq!(self.0.values().sum::<usize>(), number_of_tests);
    }
}

/// Returns the suite with SHA-256 or SHA-512.
fn suite_with_hash(bits: usize) -> &'static CipherSuite {
    CipherSuite::by_id(if bits == 256 { 4 } else { 5 }).unwrap()
}

#[test]
fn aes_gcm_seals_to_the_same_bytes_and_refuses_what_is_invalid() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut counted = Counted::default();
    for group in &set.test_groups {
        assert_eq!(group.tag_size, 128);
        let suite = match group.key_size {
            128 => CipherSuite::by_id(4).unwrap(),
            256 => CipherSuite::by_id(5).unwrap(),
            _ => {
                group.tests.iter().for_each(|_| counted.add(OTHER_KEY));
                continue;
            }
        };
        for case in &group.tests {
            let Ok(nonce) = <[u8; 12]>::try_from(&case.nonce[..]) else {
                counted.add(OTHER_NONCE);
                continue;
            };
            counted.add_result(case.result);
            let sealed = [&case.ct[..], &case.tag].concat();
            // Not zero, so that a plaintext that was not cleared shows.
            let mut plaintext = vec![0xA5; case.ct.len()];
            let opened = hazmat::open(suite, &case.key, nonce, &case.aad, &sealed, &mut plaintext);
            let made = hazmat::seal(suite, &case.key, nonce, &case.aad, &case.pt).unwrap();
            if case.result.must_fail() {
                assert!(opened.is_err(), "case {}: {}", case.tc_id, case.comment);
                assert!(plaintext.iter().all(|&byte| byte == 0), "case {}: plaintext is left", case.tc_id);
                assert_ne!(made, sealed, "case {}", case.tc_id);
            } else {
                assert!(opened.is_ok(), "case {}: {}", case.tc_id, case.comment);
                assert_eq!(plaintext, case.pt[..], "case {}", case.tc_id);
                assert_eq!(made, sealed, "case {}", case.tc_id);
            }
        }
    }
    let counts = [("valid", 79), ("invalid", 54), (OTHER_KEY, 103), (OTHER_NONCE, 80)];
    counted.assert(set.number_of_tests, &counts);
}

#[test]
fn hkdf_derives_the_same_bytes_and_refuses_too_long_an_output() {
    for (name, bits, valid, invalid) in
        [(hkdf::TestName::HkdfSha256, 256, 83, 3), (hkdf::TestName::HkdfSha512, 512, 80, 3)]
    {
        let (set, suite) = (hkdf::TestSet::load(name).unwrap(), suite_with_hash(bits));
        let mut counted = Counted::default();
        for case in set.test_groups.iter().flat_map(|group| &group.tests) {
            counted.add_result(case.result);
            let mut okm = vec![0; case.size];
            // The core passes `info` in parts.
            let (front, back) = case.info.split_at(case.info.len() / 2);
            let derived = hazmat::hkdf(suite, &case.salt, &case.ikm, &[front, back], &mut okm);
            if case.result.must_fail() {
                assert!(derived.is_err(), "{name:?}, case {}: {}", case.tc_id, case.comment);
            } else {
                assert!(derived.is_ok(), "{name:?}, case {}: {}", case.tc_id, case.comment);
                assert_eq!(okm, case.okm[..], "{name:?}, case {}", case.tc_id);
            }
        }
        counted.assert(set.number_of_tests, &[("valid", valid), ("invalid", invalid)]);
    }
}

/// Truncated tags are the first bytes of the whole tag, as in the CTR suites (RFC 9605, section 4.5.1).
#[test]
fn hmac_makes_the_same_tags_and_no_altered_tag_compares_equal() {
    for (name, bits) in [(mac::TestName::HmacSha256, 256), (mac::TestName::HmacSha512, 512)] {
        let (set, suite) = (mac::TestSet::load(name).unwrap(), suite_with_hash(bits));
        let mut counted = Counted::default();
        for group in &set.test_groups {
            for case in &group.tests {
                counted.add_result(case.result);
                let whole = hazmat::hmac(suite, &case.key, &case.msg);
                assert_eq!(whole.len(), bits / 8);
                let accepted = hazmat::same(&whole[..group.tag_size / 8], &case.tag);
                assert_eq!(accepted, !case.result.must_fail(), "{name:?}, case {}: {}", case.tc_id, case.comment);
            }
        }
        counted.assert(set.number_of_tests, &[("valid", 66), ("invalid", 108)]);
    }
}

#[test]
fn pbkdf2_derives_the_same_bytes() {
    let set = pbkdf2::TestSet::load(pbkdf2::TestName::Pbkdf2HmacSha256).unwrap();
    let mut counted = Counted::default();
    for case in set.test_groups.iter().flat_map(|group| &group.tests) {
        counted.add_result(case.result);
        let iterations = u32::try_from(case.iteration_count).ok().and_then(NonZeroU32::new).unwrap();
        let mut dk = vec![0; case.dk_len];
        hazmat::pbkdf2_sha256(iterations, &case.salt, &case.password, &mut dk);
        assert_eq!(dk, case.dk[..], "case {}: {}", case.tc_id, case.comment);
    }
    counted.assert(set.number_of_tests, &[("valid", 60)]);
}
