//! Frames: sealing and opening those of one track.

pub(crate) mod batch;
pub(crate) mod decryptor;
pub(crate) mod encryptor;
pub(crate) mod open;
pub(crate) mod replay;
pub(crate) mod seal;
pub(crate) mod server_injected;
pub(crate) mod stats;
