//! Seals or opens many frames of one track in one call, on as many threads as pay off.
//!
//! A batch has the results of single calls in the same order, whatever the number of threads. Everything that depends
//! on the order of frames happens in the order of the batch: nonces, units that H.264 holds back, ratchets, the replay
//! window, consecutive failures.
//!
//! Threads claim the next chunk of frames under the batch's lock, and seal or open it outside. Little happens under the
//! lock, because other threads wait for it. Sealing looks the key up once and draws the nonces. Opening adds the lengths
//! of frames, and commits an attempted chunk in its turn: one look-up of the key for each run of frames that it opened.
//! Frames with escapes are an exception. They are parsed under the lock, because only then their lengths are known.
//!
//! A chunk is short, so that its frames stay in the cache.
//!
//! A batch lets a `fork` pass between chunks. A thread [enters](fork::enter) before it takes the batch's lock. In the
//! other order, a thread could wait for the fork while it holds the lock. The fork would wait for a thread that waits
//! for this lock.
#![deny(clippy::indexing_slicing)]

mod open;
mod seal;

pub use open::{OpenBatch, OpenedBatch};
pub use seal::SealBatch;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::fork;

/// The number of frames in a chunk of a single thread, and the minimum for one of several.
const CHUNK: usize = 64;
/// The maximum number of frames in a chunk of several threads. Their chunks are longer, because each takes the lock.
/// They are not longer still, because a thread that waits for the claim of a long chunk sleeps. A sleep costs as much as
/// some hundred frames.
const MAX_CHUNK: usize = 512;
/// The minimum work that pays for a thread, in bytes, if the caller leaves the number of threads open. Starting a
/// thread takes some 50 us.
const MIN_WORK: usize = 2_000_000;
/// The cost of a frame on top of its length, in bytes.
const PER_FRAME: usize = 1_200;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the number of threads to use: `asked`, but at most one per chunk. If `asked` is 0, it is one per core, but
/// at most one per [`MIN_WORK`].
fn workers(asked: usize, frames: &[&[u8]]) -> usize {
    let max = match asked {
        0 => {
            let work: usize = frames.iter().map(|frame| frame.len() + PER_FRAME).sum();
            thread::available_parallelism().map_or(1, NonZeroUsize::get).min(work / MIN_WORK)
        }
        asked => asked,
    };
    max.min(frames.len().div_ceil(CHUNK)).max(1)
}

/// Returns the number of frames in the next chunk, if this number of frames is left. Chunks become shorter towards the
/// end of a batch, so that no thread waits long for the last one.
fn chunk_len(workers: usize, left: usize) -> usize {
    if workers == 1 { CHUNK } else { (left / (4 * workers)).clamp(CHUNK, MAX_CHUNK) }
}

/// Counts a thread as done when dropped, even by a panic, and wakes the thread that waits.
struct Done<'a>(&'a AtomicUsize, &'a Thread);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
        self.1.unpark();
    }
}

/// Runs `work` on `threads` threads, including this one. If the system refuses to start more, the existing threads do
/// all of the work.
///
/// Threads start and end under locks of the standard library, and of the crypto library's thread-local state. So no
/// fork passes between the start of the first thread and the start of the last. No fork passes between the first and
/// the last end either.
fn run_on_threads(threads: usize, work: impl Fn() + Sync) {
    if threads == 1 {
        return work();
    }
    let caller_is_inside = fork::is_inside();
    let (done, caller, may_end) = (AtomicUsize::new(0), thread::current(), Mutex::new(()));
    let beside = |starting: fork::Starting| {
        drop(starting);
        let _inside = caller_is_inside.then(fork::join);
        let is_done = Done(&done, &caller);
        work();
        drop(is_done);
        drop(lock(&may_end));
    };
    thread::scope(|scope| {
        let (not_yet, inside) = (lock(&may_end), fork::enter());
        let mut others = Vec::with_capacity(threads);
        for _ in 1..threads {
            let starting = inside.starting();
            let Ok(other) = thread::Builder::new().spawn_scoped(scope, || beside(starting)) else { break };
            others.push(other);
        }
        drop(inside);
        work();
        // Wait without having entered: the other threads may have to wait for a fork.
        while done.load(Ordering::Acquire) < others.len() {
            thread::park();
        }
        let _inside = fork::enter();
        drop(not_yet);
        for other in others {
            if let Err(panic) = other.join() {
                resume_unwind(panic);
            }
        }
    });
}
