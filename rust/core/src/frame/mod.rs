//! Frames: sealing and opening those of one track.
//!
//! Which lock each entry point holds, and who counts. The ring's lock is a read-write lock: "write" and "read" below.
//! No lock of a track is held with it but the replay window's, and that only inside it.
//!
//! | entry point | ring lock | AEAD | frames and bytes are counted by |
//! | --- | --- | --- | --- |
//! | `SealPlan::seal_into`, trailer, below `LOCKED_AEAD_MAX` | write, in `KeyRing::next_within` | under it | `seal_into` |
//! | `SealPlan::seal_into`, trailer, longer | write for the look-up, in `KeyRing::next` | outside | `seal_into` |
//! | `SealPlan::seal_into`, SFrame | write for the look-up, when the frame is planned | outside | `seal_into` |
//! | `SealBatch::seal_into` | write for the look-up, once a chunk, in `KeyRing::next_batch` | outside | `seal_chunks`, once a chunk |
//! | `Encryptor::plan_batch`, escaped codecs | write for the look-up, frame by frame, in order | outside | `SealPlan::seal_into` |
//! | `OpenPlan::open_into`, below `LOCKED_AEAD_MAX` | read, in `ReadyKeys` | under it | `open_into` |
//! | `OpenPlan::open_into`, longer, or what that did not open | read for the look-up; write where a key is taken over | outside | `open_long` |
//! | `OpenBatch::open_into`, one thread | read, in `ReadyKeys`, for the short frames of a chunk | under it | `open_in_turn`, once a chunk; `open_long` what it opens |
//! | `OpenBatch::open_into`, threads: `attempt` | read, in `ReadyKeys`; none in `attempt_long` | under it; outside | nobody |
//! | `OpenBatch::open_into`, threads: `finish`, in order | the batch's; read, in `ReadyKeys`, or as `open_long` | done by then, or outside | `Unopened::commit`, once a chunk |
//! | `DataCryptor::encrypt`, `encrypt_packet` | write for the look-up, in `KeyRing::next` | outside | `DataCryptor` |
//! | `DataCryptor::decrypt`, `decrypt_packet` | read for the look-up; write where a key is taken over | outside | `DataCryptor` |
//!
//! Whoever finds an error counts it: `SenderState::count` when a frame is planned or sealed, `ReceiverState::count` when a
//! frame is planned (`Decryptor::plan`, `with_plan`) or its outcome is committed (`OpenPlan::commit`).

mod batch;
mod decryptor;
mod encryptor;
mod open;
mod replay;
mod seal;
mod server_injected;
mod state;
mod stats;

pub use batch::{OpenBatch, SealBatch};
pub use decryptor::Decryptor;
pub use encryptor::Encryptor;
pub use open::OpenPlan;
pub use seal::SealPlan;
pub use stats::{DataStats, DecryptStats, EncryptStats};

pub(crate) use replay::{MAX_REPLAY_WINDOW, ReplayWindow};
pub(crate) use stats::DataCounters;
