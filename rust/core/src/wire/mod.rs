//! Layouts: where the parts of a sealed frame lie. No key and no cipher in here. A layout is a file.
//!
//! One sentence covers every layout: the AAD is the clear ranges in order.
#![deny(clippy::indexing_slicing)]

pub(crate) mod packet;
pub(crate) mod trailer;
