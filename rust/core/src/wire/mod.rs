//! Wire layouts: parse a sealed frame into its parts, and write the parts. No keys and no ciphers. One file per layout.
//!
//! In every layout the AAD is the clear ranges in order.
#![deny(clippy::indexing_slicing)]

pub(crate) mod envelope;
pub(crate) mod footer;
pub(crate) mod packet;
pub(crate) mod sframe;
pub(crate) mod trailer;

pub(crate) const IV_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;

/// The sealed part of a frame with an IV: the bytes behind the clear header, without escapes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IvParts<'a> {
    pub(crate) ciphertext: &'a [u8],
    pub(crate) tag: &'a [u8],
    pub(crate) iv: [u8; IV_LEN],
    pub(crate) key_index: u8,
}

/// A frame with an IV that is being written: the bytes for the parts in front of the finished end.
pub(crate) struct IvPlaces<'a> {
    pub(crate) clear: &'a mut [u8],
    pub(crate) ciphertext: &'a mut [u8],
    pub(crate) tag: &'a mut [u8],
}

/// The layout of a profile's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Clear bytes, ciphertext, tag, IV, key id: see [`trailer`].
    Trailer,
    /// Clear bytes, ciphertext, tag, and a footer that describes them: see [`footer`].
    Footer,
    /// Header, ciphertext, tag: see [`sframe`]. For packetisers that look for NAL units, inside an [`envelope`].
    Sframe,
}
