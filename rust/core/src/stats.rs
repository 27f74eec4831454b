//! Counters. The core never logs: it counts, and whoever wants to know asks.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    (
        $(#[$doc:meta])* $snapshot:ident, $live:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? }
        $(and looked up { $($(#[$found_doc:meta])* $found:ident),* $(,)? })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: u64,)* $($($(#[$found_doc])* pub $found: u64),*)? }

        impl $snapshot {
            /// Names and values, in the order of the fields.
            #[must_use]
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)* $($((stringify!($found), self.$found)),*)?]
            }
        }

        #[derive(Default)]
        pub(crate) struct $live { $(pub(crate) $field: Counter),* }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* $($($found: 0),*)? }
            }
        }
    };
}

/// A counter that threads share. Relaxed: it orders nothing.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// What an encryptor has done so far.
    EncryptStats, EncryptCounters {
        /// Frames sealed.
        frames,
        /// Bytes of these frames before sealing.
        bytes,
        /// Empty frames, passed on as they were.
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
    }
    and looked up {
        /// Frames that the ring has sealed under its sending key, over all tracks; 0 when there is none.
        key_frames,
        /// Frames at which that key is exhausted; 0 when there is none.
        key_limit,
        /// Frames from which on a new key is due; 0 when there is none.
        key_warning,
    }
}

counters! {
    /// What a decryptor has done so far.
    DecryptStats, DecryptCounters {
        /// Frames opened.
        frames,
        /// Bytes of these frames after opening.
        bytes,
        /// Empty frames, passed on as they were.
        empty,
        /// Frames refused: not of the profile.
        malformed,
        /// Frames refused: no key for their key id.
        unknown_key,
        /// Frames refused: no key opens them.
        authentication_failed,
        /// Frames refused: seen before.
        replayed,
        /// Ratchet steps that frames led to.
        ratchets,
        /// Frames that a server put in, in the clear, and that passed.
        injected,
        /// Frames with the server's trailer that did not pass.
        injected_refused,
    }
}

counters! {
    /// What a data cryptor has done so far.
    DataStats, DataCounters {
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
