//! Inner workings laid open for this crate's own vector tests. Off in every build that ships.

use crate::annexb;
use crate::error::KeyError;
use crate::profile::Profile;
use crate::ratchet;
use crate::secret::Secret;

/// Key bytes that `profile` derives from `secret`.
///
/// # Errors
/// [`KeyError::Unavailable`].
pub fn derive(profile: &Profile, secret: &Secret, len: usize) -> Result<Vec<u8>, KeyError> {
    let mut out = vec![0; len];
    profile.schedule.derive(secret, &mut out)?;
    Ok(out)
}

/// The material one ratchet step on, and its bytes.
///
/// # Errors
/// [`KeyError::Unavailable`].
pub fn ratchet(profile: &Profile, secret: &Secret) -> Result<(Secret, Vec<u8>), KeyError> {
    let next = ratchet::step(&profile.schedule, secret)?;
    let bytes = next.bytes().to_vec();
    Ok((next, bytes))
}

/// What a NAL scan finds: how many bytes stay clear and which standard the bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A slice: clear bytes, and "h264" or "h265".
    Slice(usize, &'static str),
    /// A byte stream without a slice.
    NoSlice,
    /// Not a byte stream.
    NotAnnexB,
}

/// Scans an Annex B byte stream for its first slice.
#[must_use]
pub fn scan(data: &[u8]) -> Scan {
    match annexb::first_slice(data, 0) {
        Ok(Some(slice)) => Scan::Slice(
            slice.clear_len(),
            match slice.standard {
                annexb::Standard::H264 => "h264",
                annexb::Standard::H265 => "h265",
            },
        ),
        Ok(None) => Scan::NoSlice,
        Err(annexb::NotAnnexB) => Scan::NotAnnexB,
    }
}

/// Inserts emulation prevention bytes.
#[must_use]
pub fn escape(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; data.len() + annexb::escapes(data)];
    annexb::escape(data, &mut out);
    out
}

/// Removes emulation prevention bytes.
#[must_use]
pub fn unescape(data: &[u8]) -> Vec<u8> {
    annexb::unescape(data).into_owned()
}
