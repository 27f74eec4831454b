//! Many frames of one track in one call, on as many threads as pay.
//!
//! What depends on the order of frames (nonces, what H.264 holds back, ratchets, the replay window, failures in a row)
//! happens in the order of the batch, whatever the number of threads, so a batch comes to what single calls would have
//! come to. Threads take the next chunk of frames under one lock, plan it there, and seal or open it outside. A chunk
//! is so short that its plans stay in the cache: planning a whole batch first costs as much as its AEAD does.
//!
//! A batch lets a `fork` pass between chunks. Whoever takes the batch's lock has [entered](fork::enter) before: a thread
//! that waited for a fork with that lock would keep those waiting for whom the fork waits.
#![deny(clippy::indexing_slicing)]

mod open;
mod seal;

pub use open::OpenBatch;
pub use seal::SealBatch;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use crate::fork;

/// Frames planned in one go by one thread alone, and the fewest that a thread is worth.
const CHUNK: usize = 64;
/// Several threads take more at a time: a thread that has to wait for the lock goes to sleep, which costs as much as
/// some hundred frames.
const MAX_CHUNK: usize = 2_048;
/// What a thread has to do at the least where their number is left to us, in bytes; starting one takes some 50 us.
const MIN_WORK: usize = 2_000_000;
/// What a frame costs beside its bytes, in bytes.
const PER_FRAME: usize = 1_200;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads to use: as many as asked for if each gets a chunk; where that is 0, as many as there are cores and
/// as pay.
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

fn chunk_len(workers: usize, frames: usize) -> usize {
    if workers == 1 { CHUNK } else { (frames / (4 * workers)).clamp(CHUNK, MAX_CHUNK) }
}

/// Tells the thread that waits that one more thread is done, in a panic too.
struct Done<'a>(&'a AtomicUsize, &'a Thread);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
        self.1.unpark();
    }
}

/// Runs `work` on so many threads, this one among them. Where no more are to be had, those there are do it all.
///
/// Threads start and end under locks, of the standard library and of what the crypto library keeps for each. So no fork
/// passes until those that were started run, nor between the end of the first and the end of the last.
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
        // Outside: they may have to wait for a fork.
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
