//! A stub of the crypto library for `make loom` and `make miri`, where C code is opaque or cannot run.
//!
//! It has the names that `suite.rs` uses. Equal input yields equal output and other input yields other output, which is
//! all that a model of threads or of memory needs. It protects nothing. Only unit tests of this crate are built with it.

use crate::error::KeyError;

/// The error of every call.
pub(crate) type Unspecified = KeyError;

/// Fills `out` from a digest of `parts`. A longer output begins with the shorter one.
fn mix(parts: &[&[u8]], out: &mut [u8]) {
    let mut state = 0xCBF2_9CE4_8422_2325_u64;
    for part in parts {
        for byte in (part.len() as u64).to_be_bytes().iter().chain(*part) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    for chunk in out.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (mixed ^ mixed >> 29).to_be_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Encrypts or decrypts `data`.
fn apply(key: &[u8], nonce: &[u8], data: &mut [u8]) {
    let mut stream = vec![0; data.len()];
    mix(&[b"stream", key, nonce], &mut stream);
    data.iter_mut().zip(stream).for_each(|(byte, mask)| *byte ^= mask);
}

pub(crate) mod aead {
    use super::{Unspecified, apply, constant_time, mix};

    pub(crate) struct Algorithm(usize);
    pub(crate) static AES_128_GCM: Algorithm = Algorithm(16);
    pub(crate) static AES_256_GCM: Algorithm = Algorithm(32);

    pub(crate) struct Aad<'a>(&'a [u8]);

    impl<'a> From<&'a [u8]> for Aad<'a> {
        fn from(bytes: &'a [u8]) -> Self {
            Self(bytes)
        }
    }

    pub(crate) struct Nonce([u8; 12]);

    impl Nonce {
        pub(crate) fn assume_unique_for_key(nonce: [u8; 12]) -> Self {
            Self(nonce)
        }
    }

    pub(crate) struct UnboundKey(Vec<u8>);

    impl UnboundKey {
        pub(crate) fn new(algorithm: &'static Algorithm, key: &[u8]) -> Result<Self, Unspecified> {
            if key.len() == algorithm.0 { Ok(Self(key.to_vec())) } else { Err(Unspecified::Unavailable) }
        }
    }

    pub(crate) struct LessSafeKey(Vec<u8>);

    impl LessSafeKey {
        pub(crate) fn new(UnboundKey(key): UnboundKey) -> Self {
            Self(key)
        }

        fn tag(&self, nonce: &Nonce, aad: &Aad<'_>, ciphertext: &[u8]) -> [u8; 16] {
            let mut tag = [0; 16];
            mix(&[b"tag", &self.0, &nonce.0, aad.0, ciphertext], &mut tag);
            tag
        }

        #[allow(clippy::needless_pass_by_value)] // as the crypto library's
        pub(crate) fn seal_out_of_place_scatter(
            &self,
            nonce: Nonce,
            aad: Aad<'_>,
            plaintext: &[u8],
            ciphertext: &mut [u8],
            _extra: &[u8],
            tag: &mut [u8],
        ) -> Result<(), Unspecified> {
            if ciphertext.len() != plaintext.len() || tag.len() != 16 {
                return Err(Unspecified::Unavailable);
            }
            ciphertext.copy_from_slice(plaintext);
            apply(&self.0, &nonce.0, ciphertext);
            tag.copy_from_slice(&self.tag(&nonce, &aad, ciphertext));
            Ok(())
        }

        #[allow(clippy::needless_pass_by_value)] // as the crypto library's
        pub(crate) fn open_separate_gather(
            &self,
            nonce: Nonce,
            aad: Aad<'_>,
            ciphertext: &[u8],
            tag: &[u8],
            plaintext: &mut [u8],
        ) -> Result<(), Unspecified> {
            if ciphertext.len() != plaintext.len() {
                return Err(Unspecified::Unavailable);
            }
            constant_time::verify_slices_are_equal(&self.tag(&nonce, &aad, ciphertext), tag)?;
            plaintext.copy_from_slice(ciphertext);
            apply(&self.0, &nonce.0, plaintext);
            Ok(())
        }
    }
}

pub(crate) mod iv {
    pub(crate) struct FixedLength<const N: usize>(pub(super) [u8; N]);

    impl<const N: usize> From<[u8; N]> for FixedLength<N> {
        fn from(bytes: [u8; N]) -> Self {
            Self(bytes)
        }
    }
}

pub(crate) mod cipher {
    use super::iv::FixedLength;
    use super::{Unspecified, apply};

    pub(crate) struct Algorithm(usize);
    pub(crate) static AES_128: Algorithm = Algorithm(16);
    pub(crate) static AES_256: Algorithm = Algorithm(32);

    pub(crate) struct UnboundCipherKey(Vec<u8>);

    impl UnboundCipherKey {
        pub(crate) fn new(algorithm: &'static Algorithm, key: &[u8]) -> Result<Self, Unspecified> {
            if key.len() == algorithm.0 { Ok(Self(key.to_vec())) } else { Err(Unspecified::Unavailable) }
        }
    }

    pub(crate) enum EncryptionContext {
        Iv128(FixedLength<16>),
    }

    pub(crate) struct EncryptingKey(Vec<u8>);

    impl EncryptingKey {
        pub(crate) fn ctr(UnboundCipherKey(key): UnboundCipherKey) -> Result<Self, Unspecified> {
            Ok(Self(key))
        }

        pub(crate) fn less_safe_encrypt(&self, data: &mut [u8], context: EncryptionContext) -> Result<(), Unspecified> {
            let EncryptionContext::Iv128(iv) = context;
            apply(&self.0, &iv.0, data);
            Ok(())
        }
    }
}

pub(crate) mod hmac {
    use super::mix;

    #[derive(Clone, Copy)]
    pub(crate) struct Algorithm(usize);
    pub(crate) static HMAC_SHA256: Algorithm = Algorithm(32);
    pub(crate) static HMAC_SHA512: Algorithm = Algorithm(64);

    pub(crate) struct Key(usize, Vec<u8>);

    impl Key {
        pub(crate) fn new(Algorithm(len): Algorithm, key: &[u8]) -> Self {
            Self(len, key.to_vec())
        }
    }

    pub(crate) struct Context(usize, Vec<u8>);

    impl Context {
        pub(crate) fn with_key(Key(len, key): &Key) -> Self {
            Self(*len, key.clone())
        }

        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.1.extend_from_slice(bytes);
        }

        pub(crate) fn sign(self) -> Tag {
            let mut tag = vec![0; self.0];
            mix(&[b"hmac", &self.1], &mut tag);
            Tag(tag)
        }
    }

    pub(crate) struct Tag(Vec<u8>);

    impl AsRef<[u8]> for Tag {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
}

pub(crate) mod hkdf {
    use super::{Unspecified, mix};

    pub(crate) trait KeyType {
        fn len(&self) -> usize;
    }

    pub(crate) type Algorithm = super::hmac::Algorithm;
    pub(crate) use super::hmac::{HMAC_SHA256 as HKDF_SHA256, HMAC_SHA512 as HKDF_SHA512};

    pub(crate) struct Salt(Vec<u8>);

    impl Salt {
        pub(crate) fn new(_algorithm: Algorithm, salt: &[u8]) -> Self {
            Self(salt.to_vec())
        }

        pub(crate) fn extract(&self, input: &[u8]) -> Prk {
            let mut prk = [0; 32];
            mix(&[b"extract", &self.0, input], &mut prk);
            Prk(prk)
        }
    }

    pub(crate) struct Prk([u8; 32]);

    impl Prk {
        pub(crate) fn expand(&self, info: &[&[u8]], len: impl KeyType) -> Result<Okm, Unspecified> {
            let mut out = vec![0; len.len()];
            mix(&[b"expand", &self.0, &info.concat()], &mut out);
            Ok(Okm(out))
        }
    }

    pub(crate) struct Okm(Vec<u8>);

    impl Okm {
        pub(crate) fn fill(self, out: &mut [u8]) -> Result<(), Unspecified> {
            out.copy_from_slice(&self.0);
            Ok(())
        }
    }
}

pub(crate) mod pbkdf2 {
    use std::num::NonZeroU32;

    #[derive(Clone, Copy)]
    pub(crate) struct Algorithm;
    pub(crate) static PBKDF2_HMAC_SHA256: Algorithm = Algorithm;

    pub(crate) fn derive(_algorithm: Algorithm, iterations: NonZeroU32, salt: &[u8], secret: &[u8], out: &mut [u8]) {
        super::mix(&[b"pbkdf2", &iterations.get().to_be_bytes(), salt, secret], out);
    }
}

pub(crate) mod digest {
    pub(crate) struct Algorithm;
    pub(crate) static SHA256: Algorithm = Algorithm;

    pub(crate) struct Context(Vec<u8>);

    impl Context {
        pub(crate) fn new(_algorithm: &'static Algorithm) -> Self {
            Self(Vec::new())
        }

        pub(crate) fn update(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        pub(crate) fn finish(self) -> [u8; 32] {
            let mut out = [0; 32];
            super::mix(&[b"digest", &self.0], &mut out);
            out
        }
    }
}

pub(crate) mod constant_time {
    use super::Unspecified;

    pub(crate) fn verify_slices_are_equal(a: &[u8], b: &[u8]) -> Result<(), Unspecified> {
        if a == b { Ok(()) } else { Err(Unspecified::Unavailable) }
    }
}

pub(crate) mod getrandom {
    use super::Unspecified;
    use std::sync::atomic::{AtomicU64, Ordering};

    // Loom needs the same numbers in each order. The atomic is no loom atomic: the real generator orders nothing.
    crate::sync::shared! {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
    }

    pub(crate) fn fill(out: &mut [u8]) -> Result<(), Unspecified> {
        super::mix(&[b"random", &DRAWN.fetch_add(1, Ordering::Relaxed).to_be_bytes()], out);
        Ok(())
    }
}
