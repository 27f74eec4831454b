//! Wire layouts: parse a sealed frame into its parts, and write the parts. No keys and no ciphers. One file per layout.
//!
//! In every layout the AAD is the clear ranges in order.
#![deny(clippy::indexing_slicing)]

pub(crate) mod envelope;
pub(crate) mod footer;
pub(crate) mod packet;
pub(crate) mod sframe;
pub(crate) mod trailer;

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
