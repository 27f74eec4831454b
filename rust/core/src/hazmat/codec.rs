//! Exposes the clear rules and the byte streams to the fuzz targets.

use std::borrow::Cow;

use crate::codec::{self, Codec, CodecMismatch, Prepared, annexb};
use crate::profile::Profile;
use crate::wire::{footer, trailer};

/// An access unit with a slice, in its sealable form.
pub struct SealableUnit<'a>(Prepared<'a>);

/// An access unit of H.264 or H.265, before it is sealed.
pub enum AccessUnit<'a> {
    /// It can be sealed.
    Sealable(SealableUnit<'a>),
    /// It has no slice. Its readable units wait for one.
    Waiting(Vec<u8>),
    /// It must not be sealed: a picture would stay readable, or it is no byte stream.
    Refused,
}

impl<'a> SealableUnit<'a> {
    /// Returns the frame that is sealed.
    #[must_use]
    pub fn frame(&self) -> &Cow<'a, [u8]> {
        &self.0.frame
    }

    /// Returns the number of bytes that stay clear.
    #[must_use]
    pub fn clear_len(&self) -> usize {
        self.0.clear_len
    }

    /// Returns whether a part of the slice header is ciphertext, so that receivers must read the same values from it.
    #[must_use]
    pub fn hides_header(&self) -> bool {
        self.0.kept.is_some()
    }

    /// Returns whether receivers read the same slice header from `sealed`. The clear bytes of both are the same.
    #[must_use]
    pub fn is_kept(&self, sealed: &[u8], counts_zeros: bool) -> bool {
        self.0.is_kept(sealed, counts_zeros)
    }
}

/// Returns how an access unit can be sealed. Returns `None` if the codec is no byte stream.
#[must_use]
pub fn access_unit<'a>(profile: &Profile, codec: Codec, frame: &'a [u8]) -> Option<AccessUnit<'a>> {
    let overhead = if profile.layout() == "footer" { footer::OVERHEAD } else { trailer::OVERHEAD };
    Some(match codec::AccessUnit::new(frame, codec.annexb()?, overhead) {
        Ok(codec::AccessUnit::Sealable(prepared)) => AccessUnit::Sealable(SealableUnit(prepared)),
        Ok(codec::AccessUnit::Waiting(units)) => AccessUnit::Waiting(units),
        Err(CodecMismatch) => AccessUnit::Refused,
    })
}

/// Returns how many bytes of a sealed frame a receiver takes as clear, and whether the rest is escaped. Returns `None`
/// if the profile does not support the codec.
#[must_use]
pub fn clear_len(profile: &Profile, codec: Codec, sealed: &[u8]) -> Option<(usize, bool)> {
    Some(profile.clear(codec).ok()?.read(sealed))
}

/// Returns how many bytes of an encoder's frame stay clear. Returns `None` for a byte stream, and if the profile does
/// not support the codec.
#[must_use]
pub fn sender_clear_len(profile: &Profile, codec: Codec, frame: &[u8]) -> Option<usize> {
    profile.clear(codec).ok()?.first(frame)
}

/// Returns the number of escapes that a run behind `zeros` zeros needs.
#[must_use]
pub fn escapes(data: &[u8], zeros: usize) -> usize {
    annexb::escapes(data, zeros)
}

/// Escapes a run behind `zeros` zeros. Returns `None` if `out` has another length than the escaped run.
#[must_use]
pub fn escape(data: &[u8], zeros: usize, out: &mut [u8]) -> Option<()> {
    annexb::escape(data, zeros, out)
}

/// Removes escapes by the rule of the trailer layout.
#[must_use]
pub fn unescape(data: &[u8]) -> Cow<'_, [u8]> {
    annexb::unescape(data)
}

/// Removes escapes by the rule of the footer layout.
#[must_use]
pub fn unescape_strictly(data: &[u8], zeros: usize) -> Cow<'_, [u8]> {
    annexb::unescape_strictly(data, zeros)
}
