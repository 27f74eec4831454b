//! Many frames of one track in one call, on as many threads as pay.
//!
//! What depends on the order of frames (nonces, what H.264 holds back, the replay window, failures in a row) happens in
//! the order of the batch, whatever the number of threads, so a batch comes to what single calls would have come to.
//! Threads take the next stretch of frames under one lock, plan it there, and seal or open it outside. A stretch is so
//! short that its plans stay in the cache: planning a whole batch first costs as much as its AEAD does.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::mem;
use std::num::NonZeroUsize;
use std::slice::Iter;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::decryptor::Decryptor;
use crate::encryptor::{Encryptor, SealPlan};
use crate::error::{DecryptError, EncryptError};
use crate::opening::{FoundPlan, Unsettled};

/// Frames planned in one go by one thread alone, and the fewest that a thread is worth.
const STRETCH: usize = 64;
/// Several threads take more at a time: a thread that has to wait for the lock goes to sleep, which costs as much as
/// some hundred frames.
const SHARED_STRETCH: usize = 2_048;
/// What a thread has to do at the least where their number is left to us, in bytes; starting one takes some 50 us.
const LEAST_WORK: usize = 2_000_000;
/// What a frame costs beside its bytes, in bytes.
const PER_FRAME: usize = 1_200;

/// A batch about to be sealed.
pub struct SealBatch<'a> {
    encryptor: &'a Encryptor,
    frames: Vec<&'a [u8]>,
    /// Sealed already, where only sealing tells how long a frame gets (escapes).
    sealed: Option<Vec<Vec<u8>>>,
}

/// A batch about to be opened.
pub struct OpenBatch<'a> {
    decryptor: &'a Decryptor,
    sealed: Vec<&'a [u8]>,
}

/// Frames that are not sealed yet, and where they go.
struct Unsealed<'a, 'o> {
    frames: Iter<'a, &'a [u8]>,
    out: &'o mut [u8],
    lens: Vec<usize>,
    failed: Option<(usize, EncryptError)>,
}

impl Encryptor {
    /// Looks at a batch, and seals it where only that tells its length.
    ///
    /// # Errors
    /// The first frame that cannot be sealed, by its place, and why. Nothing of the batch may be sent then.
    pub fn plan_batch<'a>(
        &'a self,
        frames: impl Iterator<Item = &'a [u8]>,
        threads: usize,
    ) -> Result<SealBatch<'a>, (usize, EncryptError)> {
        let frames: Vec<_> = frames.collect();
        if self.keeps_lengths() {
            return Ok(SealBatch { encryptor: self, frames, sealed: None });
        }
        let plans: Result<Vec<_>, _> = frames
            .iter()
            .enumerate()
            .map(|(place, frame)| self.plan_keyed(frame).map_err(|error| (place, error)))
            .collect();
        let plans = plans?;
        let mut sealed: Vec<Result<Vec<u8>, EncryptError>> = plans.iter().map(|_| Ok(Vec::new())).collect();
        let jobs = Mutex::new(plans.chunks(STRETCH).zip(sealed.chunks_mut(STRETCH)));
        side_by_side(workers(threads, &frames), || {
            loop {
                let Some((plans, places)) = locked(&jobs).next() else { return };
                for (plan, place) in plans.iter().zip(places) {
                    if let Some(plan) = plan {
                        *place = plan.seal();
                    }
                }
            }
        });
        let sealed: Result<Vec<_>, _> =
            sealed.into_iter().enumerate().map(|(place, sealed)| sealed.map_err(|error| (place, error))).collect();
        Ok(SealBatch { encryptor: self, frames, sealed: Some(sealed?) })
    }
}

impl SealBatch<'_> {
    /// Bytes that the sealed frames need at the most: in the trailer layout just as many as they will have.
    #[must_use]
    pub fn room(&self) -> usize {
        match &self.sealed {
            Some(sealed) => sealed.iter().map(Vec::len).sum(),
            None => {
                let overhead = self.encryptor.most_overhead();
                self.frames.iter().map(|frame| if frame.is_empty() { 0 } else { frame.len() + overhead }).sum()
            }
        }
    }

    /// Writes all sealed frames, one behind the other, and returns the bytes of each. `out` has at least
    /// [`Self::room`].
    ///
    /// # Errors
    /// As [`Encryptor::plan_batch`]; `out` is cleared then. Also where `out` is too short.
    pub fn seal_into(&self, out: &mut [u8], threads: usize) -> Result<Vec<usize>, (usize, EncryptError)> {
        if out.len() < self.room() {
            return Err((0, EncryptError::Malformed));
        }
        if let Some(sealed) = &self.sealed {
            let mut rest = out;
            for sealed in sealed {
                let (place, behind) = rest.split_at_mut_checked(sealed.len()).ok_or((0, EncryptError::Malformed))?;
                place.copy_from_slice(sealed);
                rest = behind;
            }
            return Ok(sealed.iter().map(Vec::len).collect());
        }
        let lens = Vec::with_capacity(self.frames.len());
        let unsealed = Mutex::new(Unsealed { frames: self.frames.iter(), out: &mut *out, lens, failed: None });
        let workers = workers(threads, &self.frames);
        side_by_side(workers, || self.seal_stretches(&unsealed, stretch_of(workers, self.frames.len())));
        let Unsealed { lens, failed, .. } = unsealed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            None => Ok(lens),
            Some(failed) => {
                out.fill(0);
                Err(failed)
            }
        }
    }

    fn seal_stretches(&self, unsealed: &Mutex<Unsealed<'_, '_>>, stretch: usize) {
        let mut planned: Vec<(usize, SealPlan<'_>, &mut [u8])> = Vec::with_capacity(stretch);
        loop {
            let mut rest = locked(unsealed);
            // Plans go under the lock, as they came: the count of a key's owners stays with one core at a time.
            planned.clear();
            if rest.failed.is_some() || rest.frames.len() == 0 {
                return;
            }
            for _ in 0..stretch {
                let Some(frame) = rest.frames.next() else { break };
                let at = rest.lens.len();
                match self.encryptor.plan_keyed(frame) {
                    Ok(Some(plan)) => {
                        let len = plan.sealed_len();
                        let Some((place, behind)) = mem::take(&mut rest.out).split_at_mut_checked(len) else {
                            rest.failed = Some((at, EncryptError::Malformed));
                            break;
                        };
                        rest.out = behind;
                        rest.lens.push(len);
                        planned.push((at, plan, place));
                    }
                    Ok(None) => rest.lens.push(0),
                    Err(error) => {
                        rest.failed = Some((at, error));
                        break;
                    }
                }
            }
            drop(rest);
            let mut bytes = 0;
            for (at, plan, place) in &mut planned {
                match plan.write(place) {
                    Ok(len) => bytes += len,
                    Err(error) => {
                        locked(unsealed).failed.get_or_insert((*at, error));
                    }
                }
            }
            self.encryptor.count_sealed(planned.len(), bytes);
        }
    }
}

/// Frames that are not opened yet, where they go, and what became of those before them.
struct Unopened<'a, 'o> {
    sealed: Iter<'a, &'a [u8]>,
    out: &'o mut [u8],
    /// What was planned for each.
    lens: Vec<usize>,
    stretches: usize,
    results: Vec<Result<usize, DecryptError>>,
    settled: usize,
    /// Stretches whose turn it is not, by their number.
    waiting: BTreeMap<usize, Vec<Opening<'a, 'o>>>,
}

struct Opening<'a, 'o> {
    plan: Result<Option<FoundPlan<'a>>, DecryptError>,
    place: &'o mut [u8],
    opened: Result<Option<Unsettled>, DecryptError>,
}

impl Unopened<'_, '_> {
    /// Marks and counts in order what was opened in any.
    fn settle(&mut self, decryptor: &Decryptor, stretch: &mut Vec<Opening<'_, '_>>) {
        let (mut frames, mut bytes) = (0, 0);
        for Opening { plan, place, opened } in stretch.drain(..) {
            let result = match (plan, opened) {
                (Ok(Some(plan)), Ok(Some(unsettled))) => plan.settle(Ok(unsettled)).map(|()| {
                    frames += 1;
                    bytes += place.len();
                    place.len()
                }),
                (Ok(Some(plan)), Err(error)) => plan.settle(Err(error)).map(|()| 0),
                (Ok(_), _) => Ok(0),
                (Err(error), _) => Err(error), // counted when it was planned
            };
            self.results.push(result);
        }
        decryptor.count_opened(frames, bytes);
        self.settled += 1;
    }
}

impl Decryptor {
    /// Looks at a batch.
    pub fn plan_batch<'a>(&'a self, sealed: impl Iterator<Item = &'a [u8]>) -> OpenBatch<'a> {
        OpenBatch { decryptor: self, sealed: sealed.collect() }
    }
}

impl OpenBatch<'_> {
    /// Bytes that [`Self::open_into`] needs at the most: no frame is longer than it was sealed.
    #[must_use]
    pub fn room(&self) -> usize {
        let least = self.decryptor.least_overhead();
        self.sealed.iter().map(|sealed| sealed.len().saturating_sub(least)).sum()
    }

    /// Writes the frames that open, one behind the other; one that does not is empty. Returns, for each, its bytes or why
    /// not. What of `out` lies behind them is cleared. `out` has at least [`Self::room`].
    pub fn open_into(&self, out: &mut [u8], threads: usize) -> Vec<Result<usize, DecryptError>> {
        let count = self.sealed.len();
        let unopened = Mutex::new(Unopened {
            sealed: self.sealed.iter(),
            out: &mut *out,
            lens: Vec::with_capacity(count),
            stretches: 0,
            results: Vec::with_capacity(count),
            settled: 0,
            waiting: BTreeMap::new(),
        });
        let workers = workers(threads, &self.sealed);
        side_by_side(workers, || self.open_stretches(&unopened, stretch_of(workers, self.sealed.len())));
        let Unopened { lens, results, .. } = unopened.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut from, mut to) = (0, 0);
        for (result, planned) in results.iter().zip(lens) {
            if let Ok(len) = result {
                if from != to {
                    out.copy_within(from..from + len, to);
                }
                to += len;
            }
            from += planned;
        }
        if let Some(rest) = out.get_mut(to..) {
            rest.fill(0);
        }
        results
    }

    fn open_stretches<'a, 'o>(&'a self, unopened: &Mutex<Unopened<'a, 'o>>, most: usize) {
        let mut number = None;
        let mut stretch: Vec<Opening<'a, 'o>> = Vec::with_capacity(most);
        loop {
            let mut rest = locked(unopened);
            match number {
                Some(number) if number == rest.settled => {
                    rest.settle(self.decryptor, &mut stretch);
                    while let Some(mut next) = {
                        let turn = rest.settled;
                        rest.waiting.remove(&turn)
                    } {
                        rest.settle(self.decryptor, &mut next);
                    }
                }
                Some(number) => {
                    rest.waiting.insert(number, mem::replace(&mut stretch, Vec::with_capacity(most)));
                }
                None => {}
            }
            if rest.sealed.len() == 0 {
                return;
            }
            number = Some(rest.stretches);
            rest.stretches += 1;
            for _ in 0..most {
                let Some(sealed) = rest.sealed.next() else { break };
                let mut plan = self.decryptor.plan_found(sealed);
                let len = plan.as_ref().ok().and_then(Option::as_ref).map_or(0, FoundPlan::frame_len);
                let place = match mem::take(&mut rest.out).split_at_mut_checked(len) {
                    Some((place, behind)) => {
                        rest.out = behind;
                        rest.lens.push(len);
                        place
                    }
                    None => {
                        plan = Err(DecryptError::Malformed);
                        rest.lens.push(0);
                        &mut []
                    }
                };
                stretch.push(Opening { plan, place, opened: Ok(None) });
            }
            drop(rest);
            for Opening { plan, place, opened } in &mut stretch {
                if let Ok(Some(plan)) = plan {
                    *opened = plan.open_unsettled(place).map(Some);
                }
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads to use: as many as asked for if each gets a stretch; where that is 0, as many as there are cores and
/// as pay.
fn workers(asked: usize, frames: &[&[u8]]) -> usize {
    let most = match asked {
        0 => {
            let work: usize = frames.iter().map(|frame| frame.len() + PER_FRAME).sum();
            thread::available_parallelism().map_or(1, NonZeroUsize::get).min(work / LEAST_WORK)
        }
        asked => asked,
    };
    most.min(frames.len().div_ceil(STRETCH)).max(1)
}

fn stretch_of(workers: usize, frames: usize) -> usize {
    if workers == 1 { STRETCH } else { (frames / (4 * workers)).clamp(STRETCH, SHARED_STRETCH) }
}

/// Runs `work` on so many threads, this one among them. Where no more are to be had, those there are do it all.
fn side_by_side(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..threads {
            if thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}
