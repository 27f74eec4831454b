//! Identities of keys, which outlast the keys.

use crate::suite::digest;

/// Identifies a key in records that outlast the key, so that no nonce repeats when the key is set again.
///
/// It is a digest of the key. The keys of one base key under two KIDs differ; the same key under two key ids is one
/// identity. An identity is no secret: records look it up in hash tables, in a time that depends on its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// Returns the first 128 bits of a digest over `parts`.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let digest = digest(parts);
        #[cfg(feature = "hazmat")]
        let digest = crate::hazmat::release(digest);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
    }

    /// Returns the first 64 bits, which fit into one atomic.
    #[inline(always)]
    pub(super) fn tag(self) -> u64 {
        self.0
    }
}
