//! Counters. The core never logs: it counts, and whoever wants to know asks.

use std::sync::atomic::{AtomicU64, Ordering};

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
            /// Names and values, in the order of the fields.
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

/// A counter that threads share. Relaxed: it orders nothing.
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

/// Frames and their bytes, counted for each frame that passes: in one addition, since a second costs as much as a lock
/// does. The number that they share is emptied long before either half of it is full.
#[derive(Default)]
pub(super) struct PackedCounter {
    packed: AtomicU64,
    frames: EventCounter,
    bytes: EventCounter,
}

impl PackedCounter {
    /// Frames stand above so many bits for bytes.
    const BYTES: u32 = 40;
    /// What is counted apart; below it, a hundred threads can add before one of them empties the number.
    const MAX_PACKED: (usize, usize) = (1 << 16, 1 << 32);
    /// Half of what there is room for.
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

    /// Frames, and their bytes.
    pub(super) fn get(&self) -> (u64, u64) {
        let (frames, bytes) = Self::unpack(self.packed.load(Ordering::Relaxed));
        (self.frames.get() + frames, self.bytes.get() + bytes)
    }
}

counters! {
    /// What an encryptor has done so far.
    EncryptStats, EncryptCounters
    packed {
        /// Frames sealed.
        frames,
        /// Bytes of these frames before sealing.
        bytes,
    }
    counted {
        /// Empty frames, passed on as they were (trailer layout).
        empty,
        /// Access units without a slice, held back for the next one.
        held,
        /// Frames refused: not of the codec.
        malformed,
        /// Frames refused: no key to seal with.
        unknown_key,
        /// Frames refused: no nonces left.
        key_exhausted,
        /// Sealed H.264 frames whose clear header exceeds 255 bytes: receivers up to libwebrtc m144 cannot open these.
        long_headers,
        /// Sealings of H.264 and H.265 frames thrown away, since libwebrtc would have read another slice header.
        redrawn,
        /// Sealed frames whose slice header reads otherwise all the same: libwebrtc may drop these.
        misread,
    }
    looked_up {
        /// Frames that the ring has sealed under its sending key, over all tracks, and sealings thrown away; 0 when there
        /// is none.
        key_frames,
        /// Frames at which that key is exhausted; 0 when there is none.
        key_limit,
        /// Frames from which on a new key is due; 0 when there is none.
        key_warning,
    }
}

counters! {
    /// What a decryptor has done so far.
    DecryptStats, DecryptCounters
    packed {
        /// Frames opened.
        frames,
        /// Bytes of these frames after opening.
        bytes,
    }
    counted {
        /// Empty frames, passed on as they were (trailer layout).
        empty,
        /// Frames refused: not of the profile.
        malformed,
        /// Frames refused: no key for their key id.
        unknown_key,
        /// Frames refused: no key opens them.
        authentication_failed,
        /// Frames refused: seen before.
        replayed,
        /// Frames refused: from another participant.
        sender_mismatch,
        /// Ratchet steps that frames led to.
        ratchets,
        /// Frames that a server put in, in the clear, and that passed.
        sif_frames,
        /// Frames with the server's trailer that did not pass.
        sif_frames_refused,
        /// Frames to which a server's were joined, which were cut off.
        sif_frames_cut,
    }
}

counters! {
    /// What a data cryptor has done so far.
    DataStats, DataCounters
    counted {
        /// Messages sealed.
        sealed,
        /// Messages refused: no key to seal with, or no nonces left.
        not_sealed,
        /// Messages opened.
        opened,
        /// Packets refused: not of the layout.
        malformed,
        /// Packets refused: no key for their key id.
        unknown_key,
        /// Packets refused: no key opens them, in this context.
        authentication_failed,
        /// Packets refused: seen before.
        replayed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_loses_nothing_where_its_number_is_emptied() {
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
