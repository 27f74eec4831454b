//! Counters. The core never logs: it counts events, and callers read snapshots.

use crate::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    (
        $(#[$doc:meta])* $snapshot:ident, $live:ident
        $(packed { $($(#[$packed_doc:meta])* $packed:ident),* $(,)? })?
        counted { $($(#[$field_doc:meta])* $field:ident),* $(,)? }
        $(looked_up { $($(#[$found_doc:meta])* $found:ident),* $(,)? })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot {
            $($($(#[$packed_doc])* pub $packed: u64,)*)?
            $($(#[$field_doc])* pub $field: u64,)*
            $($($(#[$found_doc])* pub $found: u64),*)?
        }

        impl $snapshot {
            /// Returns the names and values of all counters, in the order of the fields.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![
                    $($((stringify!($packed), self.$packed),)*)?
                    $((stringify!($field), self.$field),)*
                    $($((stringify!($found), self.$found)),*)?
                ]
            }
        }

        #[derive(Default)]
        pub(crate) struct $live { $(pub(crate) $field: EventCounter),* }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($($packed: 0,)*)? $($field: self.$field.get(),)* $($($found: 0),*)? }
            }
        }
    };
}

/// A counter that threads share. Its accesses are relaxed, because it orders no other memory.
#[derive(Default)]
pub(crate) struct EventCounter(AtomicU64);

impl EventCounter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts frames and their bytes in one atomic addition per frame. A second addition would cost as much as a lock. Both
/// counts are packed into one number, which is flushed to two counters long before either half overflows.
#[derive(Default)]
pub(super) struct PackedCounter {
    packed: AtomicU64,
    frames: EventCounter,
    bytes: EventCounter,
}

impl PackedCounter {
    /// The low bits of the number count bytes; the bits above count frames.
    const BYTES: u32 = 40;
    /// From these numbers of frames or bytes on, an addition bypasses the packed number. Below them, a hundred threads
    /// can add at once before one of them flushes.
    const MAX_PACKED: (usize, usize) = (1 << 16, 1 << 32);
    /// The highest bit of each half. The number is flushed when one of them is set.
    const HALF_FULL: u64 = 1 << 63 | 1 << (Self::BYTES - 1);

    #[inline(always)]
    pub(super) fn add(&self, frames: usize, bytes: usize) {
        if frames >= Self::MAX_PACKED.0 || bytes >= Self::MAX_PACKED.1 {
            self.frames.add(frames);
            self.bytes.add(bytes);
        } else if self.packed.fetch_add((frames as u64) << Self::BYTES | bytes as u64, Ordering::Relaxed)
            & Self::HALF_FULL
            != 0
        {
            self.flush();
        }
    }

    #[cold]
    fn flush(&self) {
        let (frames, bytes) = Self::unpack(self.packed.swap(0, Ordering::Relaxed));
        self.frames.0.fetch_add(frames, Ordering::Relaxed);
        self.bytes.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn unpack(packed: u64) -> (u64, u64) {
        (packed >> Self::BYTES, packed & ((1 << Self::BYTES) - 1))
    }

    /// Returns the numbers of frames and of bytes.
    pub(super) fn get(&self) -> (u64, u64) {
        let (frames, bytes) = Self::unpack(self.packed.load(Ordering::Relaxed));
        (self.frames.get() + frames, self.bytes.get() + bytes)
    }
}

counters! {
    /// A snapshot of an encryptor's counters. All are totals since the encryptor was made, except the three of the key.
    EncryptStats, EncryptCounters
    packed {
        /// Frames sealed and returned. A discarded sealing does not count here (see `redrawn`).
        frames,
        /// Plain bytes of these frames, without the overhead of sealing.
        bytes,
    }
    counted {
        /// Empty frames, which pass unchanged (trailer layout).
        empty,
        /// Access units without a slice, held back and sent with the next frame.
        held,
        /// Frames refused because they are not of the codec.
        malformed,
        /// Frames refused because the ring has no sending key.
        unknown_key,
        /// Frames refused because the sending key has reached its usage limit.
        key_exhausted,
        /// Sealed H.264 and H.265 frames with more than 255 clear bytes. Receivers up to libwebrtc m144 cannot open
        /// them.
        long_headers,
        /// Discarded sealings of H.264 and H.265 frames: libwebrtc would have read a slice header other than the plain
        /// one.
        redrawn,
        /// Sealed frames whose slice header still differs after the last draw. libwebrtc may drop them.
        misread,
    }
    looked_up {
        /// Sealings under the ring's sending key, over all tracks, discarded ones included. 0 without a sending key.
        key_frames,
        /// The value of `key_frames` at which the sending key is exhausted. 0 without a sending key.
        key_limit,
        /// The value of `key_frames` from which on the sending key should be rotated. 0 without a sending key.
        key_warning,
    }
}

counters! {
    /// A snapshot of a decryptor's counters. All are totals since the decryptor was made.
    DecryptStats, DecryptCounters
    packed {
        /// Frames opened.
        frames,
        /// Plain bytes of these frames.
        bytes,
    }
    counted {
        /// Empty frames, which pass unchanged (trailer layout).
        empty,
        /// Frames refused because they are not of the profile's layout.
        malformed,
        /// Frames refused because the ring has no key for their key id.
        unknown_key,
        /// Frames refused because no key in the ratchet window opens them.
        authentication_failed,
        /// Frames refused because they were opened before, or are older than the replay window.
        replayed,
        /// Frames refused because another participant sent them.
        sender_mismatch,
        /// Ratchet steps by which received frames have advanced keys.
        ratchets,
        /// SIF frames (blank frames that a server injects in the clear) that passed.
        sif_frames,
        /// Frames that end in the SIF trailer and did not pass: not blank, or too many in a row.
        sif_frames_refused,
        /// Frames from which joined SIF frames were cut off.
        sif_frames_cut,
    }
}

counters! {
    /// A snapshot of a data cryptor's counters. All are totals since the data cryptor was made.
    DataStats, DataCounters
    counted {
        /// Messages sealed.
        sealed,
        /// Messages refused because the ring has no sending key, or the key has reached its usage limit.
        not_sealed,
        /// Messages opened.
        opened,
        /// Packets refused because they are not of the layout.
        malformed,
        /// Packets refused because the ring has no key for their key id.
        unknown_key,
        /// Packets refused because no key opens them in this context.
        authentication_failed,
        /// Packets refused because they were opened before, or are older than the replay window.
        replayed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_counter_loses_nothing_when_it_is_flushed() {
        let counter = PackedCounter::default();
        let (mut frames, mut bytes) = (0, 0);
        for (more_frames, more_bytes) in [(1, 120), (65_535, 1 << 31), (1 << 20, 7), (3, 1 << 33)] {
            for _ in 0..400 {
                counter.add(more_frames, more_bytes);
                frames += more_frames as u64;
                bytes += more_bytes as u64;
                assert_eq!(counter.get(), (frames, bytes));
            }
        }
    }
}
