//! Cipher suites (AEADs of RFC 5116, as in RFC 9605, section 4.5), key derivation and randomness.
//!
//! No other file names the crypto library. This file knows no wire format.

#[cfg(all(test, any(miri, frameseal_loom)))]
use crate::stub_crypto::{self as crypto, getrandom};
#[cfg(not(all(test, any(miri, frameseal_loom))))]
use aws_lc_rs as crypto;

use crypto::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use crypto::cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey};
use crypto::iv::FixedLength;
use crypto::{aead, constant_time, digest, hkdf, hmac, pbkdf2};
use std::num::NonZeroU32;

use crate::error::KeyError;

/// The length of a nonce in bytes (Nn), which is equal in every suite.
pub(crate) const NONCE_LEN: usize = 12;

/// A cipher suite: an AEAD, a hash and their lengths (RFC 9605, section 4.5).
pub struct CipherSuite {
    /// The number in the registry of RFC 9605, section 8.1.
    pub id: u16,
    /// The name in the registry of RFC 9605, section 8.1.
    pub name: &'static str,
    /// True if the suite is specified by draft-barnes-sframe-iana-256, which is not in the registry yet.
    pub draft: bool,
    /// The key length in bytes (Nk).
    pub(crate) key_len: usize,
    /// The tag length in bytes (Nt).
    pub(crate) tag_len: usize,
    /// The hash of the key schedule.
    pub(crate) hash: Hash,
    aead: Aead,
}

/// The hash of a key schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

enum Aead {
    Gcm(&'static aead::Algorithm),
    /// AES-CTR, then HMAC (RFC 9605, section 4.5.1). The number is the length of the AES key, with which the key
    /// begins.
    CtrHmac(&'static cipher::Algorithm, usize),
}

macro_rules! ctr_hmac {
    ($id:literal, $name:literal, $draft:literal, $cipher:ident, $enc_len:literal, $hash:ident, $tag_len:literal) => {
        CipherSuite {
            id: $id,
            name: $name,
            draft: $draft,
            key_len: $enc_len + Hash::$hash.len(),
            tag_len: $tag_len,
            hash: Hash::$hash,
            aead: Aead::CtrHmac(&cipher::$cipher, $enc_len),
        }
    };
}

/// AES-128 in Galois/Counter mode: the default of every profile.
pub static AES_128_GCM_SHA256_128: CipherSuite = CipherSuite {
    id: 4,
    name: "AES_128_GCM_SHA256_128",
    draft: false,
    key_len: 16,
    tag_len: 16,
    hash: Hash::Sha256,
    aead: Aead::Gcm(&AES_128_GCM),
};

/// AES-256 in Galois/Counter mode.
pub static AES_256_GCM_SHA512_128: CipherSuite = CipherSuite {
    id: 5,
    name: "AES_256_GCM_SHA512_128",
    draft: false,
    key_len: 32,
    tag_len: 16,
    hash: Hash::Sha512,
    aead: Aead::Gcm(&AES_256_GCM),
};

static CTR_128_80: CipherSuite = ctr_hmac!(1, "AES_128_CTR_HMAC_SHA256_80", false, AES_128, 16, Sha256, 10);
static CTR_128_64: CipherSuite = ctr_hmac!(2, "AES_128_CTR_HMAC_SHA256_64", false, AES_128, 16, Sha256, 8);
static CTR_128_32: CipherSuite = ctr_hmac!(3, "AES_128_CTR_HMAC_SHA256_32", false, AES_128, 16, Sha256, 4);
static CTR_256_80: CipherSuite = ctr_hmac!(6, "AES_256_CTR_HMAC_SHA512_80", true, AES_256, 32, Sha512, 10);
static CTR_256_64: CipherSuite = ctr_hmac!(7, "AES_256_CTR_HMAC_SHA512_64", true, AES_256, 32, Sha512, 8);
static CTR_256_32: CipherSuite = ctr_hmac!(8, "AES_256_CTR_HMAC_SHA512_32", true, AES_256, 32, Sha512, 4);

/// All suites in the order of their numbers.
pub static SUITES: [&CipherSuite; 8] = [
    &CTR_128_80,
    &CTR_128_64,
    &CTR_128_32,
    &AES_128_GCM_SHA256_128,
    &AES_256_GCM_SHA512_128,
    &CTR_256_80,
    &CTR_256_64,
    &CTR_256_32,
];

impl CipherSuite {
    /// Returns the suite with this number, or `None` if there is none.
    #[must_use]
    pub fn by_id(id: u16) -> Option<&'static Self> {
        SUITES.into_iter().find(|suite| suite.id == id)
    }
}

/// The AEAD failed: the tag is wrong, or a buffer has the wrong length.
pub(crate) struct AeadError;

/// An expanded key. It caches the AES schedule, the GHASH tables and the inner states of HMAC for all frames.
pub(crate) enum AeadKey {
    Gcm(LessSafeKey),
    CtrHmac(Box<CtrHmac>),
}

/// AES-CTR and HMAC as one AEAD (RFC 9605, section 4.5.1).
pub(crate) struct CtrHmac {
    cipher: EncryptingKey,
    mac: hmac::Key,
    tag_len: usize,
}

impl AeadKey {
    pub(crate) fn new(suite: &CipherSuite, key: &[u8]) -> Result<Self, KeyError> {
        let unavailable = |_| KeyError::Unavailable;
        match suite.aead {
            Aead::Gcm(algorithm) => {
                let unbound = UnboundKey::new(algorithm, key).map_err(unavailable)?;
                Ok(Self::Gcm(LessSafeKey::new(unbound)))
            }
            Aead::CtrHmac(algorithm, enc_len) => {
                let (enc, auth) = key.split_at_checked(enc_len).ok_or(KeyError::Unavailable)?;
                let unbound = UnboundCipherKey::new(algorithm, enc).map_err(unavailable)?;
                Ok(Self::CtrHmac(Box::new(CtrHmac {
                    cipher: EncryptingKey::ctr(unbound).map_err(unavailable)?,
                    mac: hmac::Key::new(suite.hash.hmac(), auth),
                    tag_len: suite.tag_len,
                })))
            }
        }
    }

    /// Seals `plaintext` into `ciphertext`, which has the same length, and `tag`.
    #[inline(always)]
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), AeadError> {
        match self {
            Self::Gcm(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag)
                    .map_err(|_| AeadError)
            }
            Self::CtrHmac(key) => key.seal(nonce, aad, plaintext, ciphertext, tag),
        }
    }

    /// Opens `ciphertext` into `plaintext`, which has the same length. On failure `plaintext` is cleared.
    #[inline(always)]
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), AeadError> {
        let opened = match self {
            Self::Gcm(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, plaintext).map_err(|_| AeadError)
            }
            Self::CtrHmac(key) => key.open(nonce, aad, ciphertext, tag, plaintext),
        };
        opened.inspect_err(|_| plaintext.fill(0))
    }
}

impl CtrHmac {
    fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), AeadError> {
        if ciphertext.len() != plaintext.len() || tag.len() != self.tag_len {
            return Err(AeadError);
        }
        ciphertext.copy_from_slice(plaintext);
        self.ctr(nonce, ciphertext)?;
        let whole = self.authenticate(nonce, aad, ciphertext);
        tag.copy_from_slice(whole.as_ref().get(..self.tag_len).ok_or(AeadError)?);
        Ok(())
    }

    /// Authenticates the ciphertext, and only then decrypts it.
    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), AeadError> {
        let whole = self.authenticate(nonce, aad, ciphertext);
        let expected = whole.as_ref().get(..self.tag_len).ok_or(AeadError)?;
        if plaintext.len() != ciphertext.len() || constant_time::verify_slices_are_equal(expected, tag).is_err() {
            return Err(AeadError);
        }
        plaintext.copy_from_slice(ciphertext);
        self.ctr(nonce, plaintext)
    }

    /// Encrypts or decrypts `data` with AES-CTR, from the block `nonce || 00000000`.
    fn ctr(&self, nonce: [u8; NONCE_LEN], data: &mut [u8]) -> Result<(), AeadError> {
        let mut block = [0; 16];
        block[..NONCE_LEN].copy_from_slice(&nonce);
        let context = EncryptionContext::Iv128(FixedLength::from(block));
        self.cipher.less_safe_encrypt(data, context).map(drop).map_err(|_| AeadError)
    }

    /// Returns the HMAC over lengths, nonce, AAD and ciphertext. The tag is its first bytes.
    fn authenticate(&self, nonce: [u8; NONCE_LEN], aad: &[u8], ciphertext: &[u8]) -> hmac::Tag {
        let [aad_len, ciphertext_len, tag_len] =
            [aad.len(), ciphertext.len(), self.tag_len].map(|length| (length as u64).to_be_bytes());
        mac(&self.mac, &[&aad_len, &ciphertext_len, &tag_len, &nonce, aad, ciphertext])
    }
}

/// Returns the HMAC over the concatenation of `parts` (RFC 2104).
fn mac(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

/// Returns the whole HMAC over `message`, for this crate's vector tests.
#[cfg(feature = "hazmat")]
pub(crate) fn hmac(hash: Hash, key: &[u8], message: &[u8]) -> Vec<u8> {
    mac(&hmac::Key::new(hash.hmac(), key), &[message]).as_ref().to_vec()
}

/// The output length of HKDF, for the interface of the crypto library.
struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

impl Hash {
    /// Returns the output length in bytes (Nh).
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Sha256 => hkdf::HKDF_SHA256,
            Self::Sha512 => hkdf::HKDF_SHA512,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// Derives `out` with HKDF, extract and expand (RFC 5869). The parts of `info` are concatenated.
pub(crate) fn hkdf(hash: Hash, salt: &[u8], input: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), KeyError> {
    hkdf::Salt::new(hash.hkdf(), salt)
        .extract(input)
        .expand(info, OutputLen(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| KeyError::Unavailable)
}

/// Derives `out` with PBKDF2-HMAC-SHA256 (RFC 8018, section 5.2).
pub(crate) fn pbkdf2_sha256(iterations: NonZeroU32, salt: &[u8], password: &[u8], out: &mut [u8]) {
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, out);
}

/// Returns a digest of `parts`: SHA-256 over each part after its length.
pub(crate) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Compares two secrets in a time that depends on their lengths only.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Fills `out` with random bytes from the operating system, for IVs and KIDs. These are public, and must be unique.
///
/// The generator of the crypto library is not used. Before its first byte it collects timing jitter for 25 to 100 ms.
/// If that fails, or the operating system returns no randomness, it aborts the process.
pub(crate) fn random(out: &mut [u8]) -> Result<(), KeyError> {
    getrandom::fill(out).map_err(|_| KeyError::Unavailable)
}
