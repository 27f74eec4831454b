//! Tests the primitives of `suite.rs` against the vectors that their specifications print.
//!
//! The vectors of RFC 9605 are files of the working group, in `tests/vectors`: `sframe/main.rs` has their tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::num::NonZeroU32;

use frameseal::{CipherSuite, hazmat};

/// Returns the AES-GCM suite with SHA-256 or SHA-512.
fn suite(hash_bits: usize) -> &'static CipherSuite {
    CipherSuite::by_id(if hash_bits == 256 { 4 } else { 5 }).unwrap()
}

/// Returns the bytes of hexadecimal digits, in which spaces and line ends are ignored.
fn bytes(digits: &str) -> Vec<u8> {
    hex::decode(digits.split_ascii_whitespace().collect::<String>()).unwrap()
}

/// Returns the bytes from `first` to `last`.
fn counting(first: u8, last: u8) -> Vec<u8> {
    (first..=last).collect()
}

#[test]
fn hkdf_sha256_derives_as_rfc_5869_appendix_a_has_it() {
    let cases = [
        (
            vec![0x0b; 22],
            counting(0x00, 0x0c),
            counting(0xf0, 0xf9),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            counting(0x00, 0x4f),
            counting(0x60, 0xaf),
            counting(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (input, salt, info, okm) in cases {
        let okm = bytes(okm);
        let mut derived = vec![0; okm.len()];
        hazmat::hkdf(suite(256), &salt, &input, &[&info], &mut derived).unwrap();
        assert_eq!(derived, okm);
    }
}

#[test]
fn pbkdf2_hmac_sha256_derives_as_rfc_7914_section_11_has_it() {
    let cases: [(&[u8], &[u8], u32, &str); 2] = [
        (
            b"passwd",
            b"salt",
            1,
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        (
            b"Password",
            b"NaCl",
            80_000,
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56
             a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d",
        ),
    ];
    for (password, salt, iterations, dk) in cases {
        let mut derived = [0; 64];
        hazmat::pbkdf2_sha256(NonZeroU32::new(iterations).unwrap(), salt, password, &mut derived);
        assert_eq!(derived[..], bytes(dk));
    }
}

#[test]
fn hmac_makes_the_tags_of_rfc_4231() {
    let long = "This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                to be hashed before being used by the HMAC algorithm.";
    let cases: [(Vec<u8>, &[u8], &str, &str); 7] = [
        (
            vec![0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde
             daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        ),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            vec![0xaa; 20],
            &[0xdd; 50],
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39
             bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb",
        ),
        (
            counting(0x01, 0x19),
            &[0xcd; 50],
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db
             a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd",
        ),
        // The RFC prints the first 128 bits of this tag.
        (
            vec![0x0c; 20],
            b"Test With Truncation",
            "a3b6167473100ee06e0c796c2955552b",
            "415fad6271580a531d4179bc891d87a6",
        ),
        (
            vec![0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352
             6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        ),
        (
            vec![0xaa; 131],
            long.as_bytes(),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944
             b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58",
        ),
    ];
    for (key, message, sha256, sha512) in cases {
        for (bits, tag) in [(256, bytes(sha256)), (512, bytes(sha512))] {
            assert_eq!(hazmat::hmac(suite(bits), &key, message)[..tag.len()], tag);
        }
    }
}

/// The test cases 1 to 4 and 13 to 16 of "The Galois/Counter Mode of Operation (GCM)" by McGrew and Viega, appendix B,
/// which NIST SP 800-38D refers to. The others have keys of 192 bits or nonces of other than 96 bits.
#[test]
fn aes_gcm_seals_and_opens_as_its_authors_have_it() {
    let plaintext = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                     1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let shorter = plaintext.strip_suffix("1aafd255").unwrap();
    let aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    let (zeros, nonce) = ("000000000000000000000000", "cafebabefacedbaddecaf888");
    let zero_key = ["00000000000000000000000000000000"; 2].concat();
    let key = ["feffe9928665731c6d6a8f9467308308"; 2].concat();
    let ciphertexts = [
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
         21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
    ];
    let cases = [
        (&zero_key[..32], zeros, "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
        (
            &zero_key[..32],
            zeros,
            "",
            &zero_key[..32],
            "0388dace60b6a392f328c2b971b2fe78",
            "ab6e47d42cec13bdf53a67b21257bddf",
        ),
        (&key[..32], nonce, "", plaintext, ciphertexts[0], "4d5c2af327cd64a62cf35abd2ba6fab4"),
        (
            &key[..32],
            nonce,
            aad,
            shorter,
            ciphertexts[0].strip_suffix("473f5985").unwrap(),
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (&zero_key[..], zeros, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            &zero_key[..],
            zeros,
            "",
            &zero_key[..32],
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (&key[..], nonce, "", plaintext, ciphertexts[1], "b094dac5d93471bdec1a502270e3cc6c"),
        (
            &key[..],
            nonce,
            aad,
            shorter,
            ciphertexts[1].strip_suffix("898015ad").unwrap(),
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (key, nonce, aad, plaintext, ciphertext, tag) in cases {
        let [key, aad, plaintext] = [key, aad, plaintext].map(bytes);
        let suite = CipherSuite::by_id(if key.len() == 16 { 4 } else { 5 }).unwrap();
        let (nonce, sealed) = (bytes(nonce).try_into().unwrap(), bytes(&[ciphertext, tag].concat()));
        assert_eq!(hazmat::seal(suite, &key, nonce, &aad, &plaintext).unwrap(), sealed);
        let mut opened = vec![0xA5; plaintext.len()];
        hazmat::open(suite, &key, nonce, &aad, &sealed, &mut opened).unwrap();
        assert_eq!(opened, plaintext);
    }
}
