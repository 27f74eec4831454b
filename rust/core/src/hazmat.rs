//! Exposes internals to the vector tests and fuzz targets of this crate. Released builds leave this module out.

pub mod codec;
pub mod wire;

use std::num::NonZeroU32;
use std::sync::OnceLock;

use crate::codec::{Blank, ClearBytes, ClearRule, Codec, CodecInfo, FrameTag, Kind, PayloadFormat, annexb, nal};
use crate::error::KeyError;
use crate::key_schedule::{KeySchedule, TrailerSchedule};
use crate::profile::Profile;
use crate::secret::Secret;
use crate::suite::{self, AeadKey, CipherSuite, SUITES};
use crate::wire::Wire;
use crate::wire::sframe::Header;

/// Returns the key bytes that `profile` derives from `secret` under `kid`, and the salt of the nonces.
///
/// # Errors
/// [`KeyError::Unavailable`].
pub fn derive(
    profile: &Profile,
    suite: &CipherSuite,
    kid: u64,
    secret: &Secret,
) -> Result<(Vec<u8>, [u8; 12]), KeyError> {
    let mut key = vec![0; suite.key_len];
    let salt = profile.schedule.key(suite, kid, &profile.schedule.material(secret)?, &mut key)?;
    Ok((key, salt))
}

/// Returns the material of the next ratchet step, and its bytes.
///
/// # Errors
/// [`KeyError::Unavailable`].
pub fn ratchet(profile: &Profile, suite: &CipherSuite, secret: &Secret) -> Result<(Secret, Vec<u8>), KeyError> {
    let next = profile.schedule.ratchet(suite, secret)?;
    let bytes = next.bytes().to_vec();
    Ok((next, bytes))
}

/// Returns the bytes of a secret.
#[must_use]
pub fn secret_bytes(secret: &Secret) -> &[u8] {
    secret.bytes()
}

/// Runs the bare AEAD of a suite, and returns ciphertext and tag.
///
/// # Errors
/// [`KeyError::Unavailable`].
pub fn seal(
    suite: &CipherSuite,
    key: &[u8],
    nonce: [u8; 12],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let mut out = vec![0; plaintext.len() + suite.tag_len];
    let (ciphertext, tag) = out.split_at_mut(plaintext.len());
    AeadKey::new(suite, key)?.seal(nonce, aad, plaintext, ciphertext, tag).map_err(|_| KeyError::Unavailable)?;
    Ok(out)
}

/// Opens `sealed`, ciphertext and tag, with the bare AEAD of a suite into `plaintext`, which has the length of the
/// ciphertext.
///
/// # Errors
/// [`KeyError::Unavailable`], and `plaintext` is cleared then.
pub fn open(
    suite: &CipherSuite,
    key: &[u8],
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
    plaintext: &mut [u8],
) -> Result<(), KeyError> {
    let ciphertext_len = sealed.len().checked_sub(suite.tag_len).ok_or(KeyError::Unavailable)?;
    let (ciphertext, tag) = sealed.split_at(ciphertext_len);
    AeadKey::new(suite, key)?.open(nonce, aad, ciphertext, tag, plaintext).map_err(|_| KeyError::Unavailable)
}

/// Runs HKDF with the hash of a suite.
///
/// # Errors
/// [`KeyError::Unavailable`] if `out` exceeds 255 blocks of the hash.
pub fn hkdf(suite: &CipherSuite, salt: &[u8], input: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<(), KeyError> {
    suite::hkdf(suite.hash, salt, input, info, out)
}

/// Runs PBKDF2-HMAC-SHA256.
pub fn pbkdf2_sha256(iterations: NonZeroU32, salt: &[u8], password: &[u8], out: &mut [u8]) {
    suite::pbkdf2_sha256(iterations, salt, password, out);
}

/// Returns the HMAC of a message with the hash of a suite. The tag of a CTR suite is its first bytes.
#[must_use]
pub fn hmac(suite: &CipherSuite, key: &[u8], message: &[u8]) -> Vec<u8> {
    suite::hmac(suite.hash, key, message)
}

/// Compares two secrets as the core compares keys and tags of CTR suites.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    suite::same(a, b)
}

/// Returns the SFrame header of KID and CTR.
#[must_use]
pub fn header(kid: u64, ctr: u64) -> Vec<u8> {
    let mut header = vec![0; Header { kid, ctr }.len()];
    Header { kid, ctr }.write(&mut header).map(|(header, _)| header.to_vec()).unwrap_or_default()
}

/// Returns KID, CTR and length of an SFrame header, or `None` if the bytes are too short.
#[must_use]
pub fn parse_header(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    Header::parse(bytes).map(|(Header { kid, ctr }, len)| (kid, ctr, len))
}

/// The result of a scan for the first slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A slice was found. The fields are the number of clear bytes, and "h264" or "h265".
    Slice(usize, &'static str),
    /// The bytes are a byte stream without a slice.
    NoSlice,
    /// The bytes are not a byte stream.
    NotAnnexB,
}

/// Scans an Annex B byte stream for its first slice.
#[must_use]
pub fn scan(data: &[u8]) -> Scan {
    match annexb::first_slice(data, 0) {
        Ok(Some(slice)) => Scan::Slice(slice.clear_len(), slice.standard.name()),
        Ok(None) => Scan::NoSlice,
        Err(annexb::NotAnnexB) => Scan::NotAnnexB,
    }
}

/// Lists the 32 NAL unit types of H.264 and the 64 of H.265, each with its name and its class.
#[must_use]
pub fn nal_types() -> [Vec<(&'static str, String)>; 2] {
    [&nal::H264[..], &nal::H265[..]]
        .map(|table| table.iter().map(|(name, class)| (*name, format!("{class:?}"))).collect())
}

/// Inserts emulation prevention bytes.
#[must_use]
pub fn escape(data: &[u8]) -> Vec<u8> {
    escape_behind(0, data)
}

/// Inserts emulation prevention bytes behind a number of zeros, 0 to 2.
#[must_use]
pub fn escape_behind(zeros: usize, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; data.len() + annexb::escapes(data, zeros)];
    annexb::escape(data, zeros, &mut out);
    out
}

/// Removes emulation prevention bytes behind a number of zeros, as the footer layout does.
#[must_use]
pub fn unescape_behind(zeros: usize, data: &[u8]) -> Vec<u8> {
    annexb::unescape_strictly(data, zeros).into_owned()
}

/// Returns how many zeros at the end of a clear header count for escapes.
#[must_use]
pub fn zeros_before(front: &[u8]) -> usize {
    annexb::zeros_before(front)
}

/// Removes emulation prevention bytes.
#[must_use]
pub fn unescape(data: &[u8]) -> Vec<u8> {
    annexb::unescape(data).into_owned()
}

static RELEASE: OnceLock<fn([u8; 32]) -> [u8; 32]> = OnceLock::new();

/// Passes every digest that identifies a key through `hook` from now on. `make ctgrind` marks the digests as public.
pub fn on_release(hook: fn([u8; 32]) -> [u8; 32]) {
    let _ = RELEASE.set(hook);
}

/// Returns a digest from the hook of [`on_release`], or unchanged without one.
pub(crate) fn release(digest: [u8; 32]) -> [u8; 32] {
    RELEASE.get().map_or(digest, |hook| hook(digest))
}

/// Simulates a fork: from now on this process seals as its forked child would.
#[cfg(unix)]
pub fn fork() {
    crate::fork::in_child();
}

/// Creates a made-up audio codec, to show that a codec is one row. It lives as long as the process.
#[must_use]
pub fn made_up_audio_codec(name: &'static str, clock_rate: u32) -> Codec {
    let info =
        CodecInfo { name, kind: Kind::Audio, clock_rate, payloads: Some(PayloadFormat::Whole), rule: ClearRule::Audio };
    Codec::MadeUp(Box::leak(Box::new(info)))
}

/// A made-up vendor over the trailer layout: the columns of its row in `profile.rs`.
#[derive(Clone, Copy, Debug)]
pub struct MadeUpVendor {
    /// The name of the profile.
    pub name: &'static str,
    /// The salt of a key, and of a ratchet step.
    pub salts: [&'static [u8]; 2],
    /// The length in bytes of the material after a ratchet step.
    pub ratchet_len: usize,
    /// The iterations of PBKDF2, or `None` if the vendor has no passphrases.
    pub iterations: Option<NonZeroU32>,
    /// The `info` of HKDF.
    pub info: &'static [u8],
    /// Clear bytes of an audio packet, of a key frame and of a delta frame of VP8.
    pub clear: [u8; 3],
    /// True if frames of H.264 and H.265 are escaped.
    pub byte_streams: bool,
    /// The blank frames that the server injects.
    pub blanks: &'static [(Codec, &'static [u8])],
}

/// Creates the profile of a made-up vendor, to show that a vendor is one row. It lives as long as the process.
#[must_use]
pub fn made_up_profile(vendor: MadeUpVendor) -> &'static Profile {
    let MadeUpVendor { name, salts: [salt, ratchet_salt], ratchet_len, iterations, info, .. } = vendor;
    let [audio, key, delta] = vendor.clear;
    let blanks = vendor.blanks.iter().map(|&(codec, bytes)| (codec, Blank::Bytes(bytes))).collect::<Vec<_>>();
    Box::leak(Box::new(Profile {
        name,
        wire: Wire::Trailer,
        schedule: KeySchedule::Trailer(TrailerSchedule { salt, ratchet_salt, ratchet_len, iterations, info }),
        suites: &SUITES[3..4],
        replay_window: 0,
        clear: Some(ClearBytes {
            audio,
            frame_tag: FrameTag { key, delta },
            opaque: None,
            byte_streams: vendor.byte_streams,
        }),
        only: None,
        blanks: Vec::leak(blanks),
    }))
}
