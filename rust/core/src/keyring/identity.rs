//! What a key is known by after it is gone.

use crate::suite::digest;

/// Stands for a key wherever it comes from, in memories that outlast the key: nonces must not come twice under it.
///
/// A digest of the key itself. It tells keys apart that one base key gives under several KIDs, and none that two key ids
/// of a ring hold alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// The first 128 bits of a digest over `parts`.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest(parts);
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
    }

    /// As much of it as one atomic holds.
    #[inline(always)]
    pub(super) fn tag(self) -> u64 {
        self.0
    }
}
