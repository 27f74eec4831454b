//! Frames: seals and opens the frames of one track.
//!
//! A caller plans a frame, which yields its exact length, allocates, and has the plan write the result. A batch does
//! the same, a chunk of frames at a time.
//!
//! For each entry point, the tables name the function that takes the key ring's lock. They also name the function that
//! counts frames and bytes. An AEAD is "locked" if it runs while the lock is held. The ring's lock is a read-write
//! lock. A frame is *short* below `LOCKED_AEAD_MAX` bytes: its AEAD runs under the lock, which saves it the key's
//! reference count.
//!
//! Sealing needs the write lock, because it draws a nonce. The lock is held for the look-up alone, except where the
//! AEAD is locked.
//!
//! | entry point | frames | write lock | AEAD | counted by |
//! | --- | --- | --- | --- | --- |
//! | `SealPlan::seal_into` | trailer, short | `KeyRing::next_within` | locked | `seal_into` |
//! | `SealPlan::seal_into` | trailer, longer | `KeyRing::next` | unlocked | `seal_into` |
//! | `SealPlan::seal_into` | SFrame | `KeyRing::next`, in `SealPlan::new` | unlocked | `seal_into` |
//! | `Encryptor::plan_batch` | H.264, H.265 | `KeyRing::next`, in frame order | unlocked | `SealPlan::seal_into` |
//! | `SealBatch::seal_into` | all other codecs | `KeyRing::next_batch`, per chunk | unlocked | `seal_chunks` |
//! | `DataCryptor::encrypt*` | data packets | `KeyRing::next` | unlocked | `DataCryptor` |
//!
//! Opening needs the read lock, so tracks do not wait for each other. A frame that advances a ratchet needs the write
//! lock for a moment, in `KeyRing::open`.
//!
//! | entry point | frames | read lock | AEAD | counted by |
//! | --- | --- | --- | --- | --- |
//! | `OpenPlan::open_into` | short, key derived | `KeyRing::ready_keys` | locked | `open_into` |
//! | `OpenPlan::open_into` | all others | `KeyRing::find` | unlocked | `open_long` |
//! | `OpenBatch`, one thread | short, key derived | `ready_keys`, per chunk | locked | `open_in_turn` |
//! | `OpenBatch`, one thread | all others | `KeyRing::find` | unlocked | `open_long` |
//! | `OpenBatch`, threads: attempt | short, key derived | `ready_keys`, per chunk | locked | not yet |
//! | `OpenBatch`, threads: attempt | all others | `KeyRing::find`, per sender | unlocked | not yet |
//! | `OpenBatch`, threads: commit | opened by an attempt | `ready_keys`, per chunk | done | `Unopened::commit` |
//! | `OpenBatch`, threads: commit | all others | `KeyRing::find` | unlocked | `Unopened::commit` |
//! | `DataCryptor::decrypt*` | data packets | `KeyRing::find` | unlocked | `DataCryptor` |
//!
//! Threads attempt frames in any order. They commit them in the order of the batch, under the batch's lock, which is
//! always taken before the ring's. The replay window has a lock of its own, which is always taken last. No other lock
//! of a track is held together with the ring's. `seal_chunks`, `open_in_turn` and `Unopened::commit` count once per
//! chunk.
//!
//! The function that finds an error counts it. An encryptor counts it in `SenderState::count`, when it plans or seals a
//! frame. A decryptor counts it in `ReceiverState::count`: when it plans a frame (`Decryptor::plan`, `with_plan`), or
//! when it commits the outcome (`OpenPlan::commit`).

mod batch;
mod decryptor;
mod encryptor;
#[cfg(all(test, frameseal_loom))]
#[path = "../../tests/models/interleavings.rs"]
mod interleavings;
#[cfg(all(test, miri))]
#[path = "../../tests/models/memory.rs"]
mod memory;
mod open;
mod replay;
mod seal;
mod server_injected;
mod state;
mod stats;

pub use batch::{OpenBatch, OpenedBatch, SealBatch};
pub use decryptor::Decryptor;
pub use encryptor::Encryptor;
pub use open::OpenPlan;
pub use seal::SealPlan;
pub use stats::{DataStats, DecryptStats, EncryptStats};

pub(crate) use replay::{MAX_REPLAY_WINDOW, ReplayWindow};
pub(crate) use stats::DataCounters;
