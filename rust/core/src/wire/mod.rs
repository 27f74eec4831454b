//! Layouts: where the parts of a sealed frame lie. No key and no cipher in here. A layout is a file.
//!
//! One sentence covers every layout: the AAD is the clear ranges in order.
#![deny(clippy::indexing_slicing)]

pub(crate) mod envelope;
pub(crate) mod packet;
pub(crate) mod sframe;
pub(crate) mod trailer;

/// The layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Clear bytes, ciphertext, tag, and behind them IV and key id: see [`trailer`].
    Trailer,
    /// Header, ciphertext, tag: see [`sframe`]; for packetisers that look for NAL units inside an [`envelope`].
    Sframe,
}
