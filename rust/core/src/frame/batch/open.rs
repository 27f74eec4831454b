//! Opens a batch of frames of one incoming track.

use std::collections::BTreeMap;
use std::mem;
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};

use super::{CHUNK, chunk_len, lock, run_on_threads, workers};
use crate::error::{ApiMisuse, DecryptError};
use crate::fork;
use crate::frame::decryptor::Decryptor;
use crate::frame::open::{Attempt, OpenPlan};
use crate::keyring::LOCKED_AEAD_MAX;

/// A planned batch of sealed frames: see [`Decryptor::plan_batch`].
pub struct OpenBatch<'a> {
    decryptor: &'a Decryptor,
    sealed: Vec<&'a [u8]>,
    /// The indices of SIF frames, ascending. The trailer may change at any time, so they are determined once.
    sif_frames: Vec<usize>,
}

/// The frames that are not planned yet, the rest of the output, and the results so far.
struct Unopened<'a, 'o> {
    sealed: Iter<'a, &'a [u8]>,
    /// As in [`OpenBatch`].
    sif_frames: &'a [usize],
    out: &'o mut [u8],
    /// The planned length of each frame.
    lens: Vec<usize>,
    /// The number of chunks that threads have claimed.
    chunks: usize,
    /// The results of committed frames.
    results: Vec<Result<usize, DecryptError>>,
    /// The number of chunks that are committed: the number of the next chunk in turn.
    committed: usize,
    /// Attempted chunks ahead of their turn, by their number.
    waiting: BTreeMap<usize, Vec<Opening<'a, 'o>>>,
}

/// One frame of a chunk: its plan, its part of the output, and the outcome of the attempt.
struct Opening<'a, 'o> {
    plan: Result<Plan<'a>, DecryptError>,
    place: &'o mut [u8],
    attempt: Option<Attempt>,
}

enum Plan<'a> {
    /// An empty frame of the trailer layout, which stays empty.
    Empty,
    /// A SIF frame, with its trailer.
    SifFrame(&'a [u8]),
    Sealed(OpenPlan<'a>),
}

impl<'a> Plan<'a> {
    fn of(decryptor: &'a Decryptor, sealed: &'a [u8], is_sif_frame: bool) -> Result<Self, DecryptError> {
        if is_sif_frame {
            return Ok(Self::SifFrame(sealed));
        }
        Ok(decryptor.plan(sealed, &[])?.map_or(Self::Empty, Self::Sealed))
    }

    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::SifFrame(sealed) => sealed.len(),
            Self::Sealed(plan) => plan.frame_len(),
        }
    }
}

impl<'a, 'o> Unopened<'a, 'o> {
    /// Finishes the frames of a chunk in order, and counts them once.
    fn commit(&mut self, decryptor: &'a Decryptor, chunk: &mut Vec<Opening<'a, '_>>) {
        let (mut frames, mut bytes, mut keys) = (0, 0, None);
        for Opening { plan, place, attempt } in chunk.drain(..) {
            self.results.push(match plan {
                Ok(Plan::Sealed(plan)) => plan.finish(attempt, &mut keys, place).map(|()| {
                    frames += 1;
                    bytes += place.len();
                    place.len()
                }),
                Ok(Plan::SifFrame(sealed)) => {
                    keys = None; // release the ring's lock: this may call the ring
                    open_sif_frame(decryptor, sealed, place)
                }
                Ok(Plan::Empty) => Ok(0),
                Err(error) => Err(error), // counted when it was planned
            });
        }
        decryptor.state.count_opened(frames, bytes);
        self.committed += 1;
    }

    /// Plans the next frames, at most `max`, and pushes them to `chunk`.
    fn claim(&mut self, decryptor: &'a Decryptor, max: usize, chunk: &mut Vec<Opening<'a, 'o>>) {
        for sealed in self.sealed.by_ref().take(max) {
            let mut plan = Plan::of(decryptor, sealed, self.sif_frames.binary_search(&self.lens.len()).is_ok());
            let len = plan.as_ref().map_or(0, Plan::len);
            let place = match mem::take(&mut self.out).split_at_mut_checked(len) {
                Some((place, behind)) => {
                    self.out = behind;
                    place
                }
                None => {
                    plan = Err(ApiMisuse::BufferLength.into());
                    &mut []
                }
            };
            self.lens.push(place.len());
            chunk.push(Opening { plan, place, attempt: None });
        }
    }
}

/// Writes the payload of a SIF frame. Opens the frame if it does not end in the trailer any more.
///
/// Does not call [`Decryptor::plan`]: with a second caller the compiler would not inline it into [`Unopened::claim`],
/// which costs 20 ns a frame.
#[cold]
fn open_sif_frame(decryptor: &Decryptor, sealed: &[u8], place: &mut [u8]) -> Result<usize, DecryptError> {
    if let Some(payload) = decryptor.sif_payload(sealed)? {
        place.get_mut(..payload.len()).ok_or(ApiMisuse::BufferLength)?.copy_from_slice(payload);
        return Ok(payload.len());
    }
    let opened = decryptor.with_plan(sealed, &[], |plan| {
        let place = place.get_mut(..plan.frame_len()).ok_or(ApiMisuse::BufferLength)?;
        plan.open_into(place).map(|()| place.len())
    });
    opened?.unwrap_or(Ok(0))
}

impl Decryptor {
    /// Plans a batch: cuts joined SIF frames off and finds single SIF frames. Use [`OpenBatch::open_into`] to open it.
    pub fn plan_batch<'a>(&'a self, sealed: Vec<&'a [u8]>) -> OpenBatch<'a> {
        let _inside = fork::enter();
        let sealed: Vec<&[u8]> = sealed.into_iter().map(|frame| self.cut_sif_frames(frame)).collect();
        let sif_frames = match self.expects_sif_frames() {
            true => (0..).zip(&sealed).filter(|(_, frame)| self.is_sif_frame(frame)).map(|(place, _)| place).collect(),
            false => Vec::new(),
        };
        OpenBatch { decryptor: self, sealed, sif_frames }
    }
}

impl OpenBatch<'_> {
    /// Returns the maximum number of bytes that [`Self::open_into`] writes.
    #[must_use]
    pub fn max_len(&self) -> usize {
        let len = |sealed: &&[u8]| self.decryptor.max_opened_len(sealed);
        let sif_frames = self.sif_frames.iter().filter_map(|place| self.sealed.get(*place));
        self.sealed.iter().map(len).sum::<usize>() + sif_frames.map(|sealed| sealed.len() - len(sealed)).sum::<usize>()
    }

    /// Writes the frames that open to `out`, one behind the other, and zeroes the rest of `out`. Returns for each frame
    /// its length in bytes or its error; a frame that does not open has no bytes. `out` must have at least
    /// [`Self::max_len`] bytes: a frame that does not fit fails with [`ApiMisuse::BufferLength`].
    ///
    /// `threads` is the number of threads. 0 chooses it by the number of cores and the size of the batch.
    pub fn open_into(&self, out: &mut [u8], threads: usize) -> Vec<Result<usize, DecryptError>> {
        let workers = workers(threads, &self.sealed);
        let (lens, results) = if workers == 1 { self.open_in_turn(out) } else { self.open_in_parallel(out, workers) };
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

    /// Opens one frame after another, as single calls do, but takes the ring's lock once per chunk.
    fn open_in_turn(&self, mut out: &mut [u8]) -> (Vec<usize>, Vec<Result<usize, DecryptError>>) {
        let (decryptor, count) = (self.decryptor, self.sealed.len());
        let (mut lens, mut results) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for chunk in self.sealed.chunks(CHUNK) {
            let _inside = fork::enter();
            let (mut frames, mut bytes, mut keys) = (0, 0, None);
            results.extend(chunk.iter().map(|sealed| {
                if self.sif_frames.binary_search(&lens.len()).is_ok() {
                    let len = sealed.len().min(out.len());
                    lens.push(len);
                    let (place, behind) = mem::take(&mut out).split_at_mut(len);
                    (out, keys) = (behind, None);
                    return open_sif_frame(decryptor, sealed, place);
                }
                let planned = decryptor.with_plan(sealed, &[], |plan| {
                    let len = plan.frame_len();
                    lens.push(len);
                    let place = mem::take(&mut out).split_at_mut_checked(len);
                    let (place, behind) = place.ok_or(ApiMisuse::BufferLength)?;
                    (out, bytes) = (behind, bytes + len);
                    if len < LOCKED_AEAD_MAX
                        && plan.open_with(keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()), place)
                    {
                        frames += 1;
                        return Ok(len);
                    }
                    // Release the ring's lock: this calls the ring. It counts the frame itself.
                    (keys, bytes) = (None, bytes - len);
                    plan.open_long(place).map(|()| len)
                });
                match planned {
                    Ok(Some(opened)) => opened,
                    empty_or_malformed => {
                        lens.push(0);
                        empty_or_malformed.map(|_| 0)
                    }
                }
            }));
            decryptor.state.count_opened(frames, bytes);
        }
        (lens, results)
    }

    /// Attempts the frames on several threads, in any order, and finishes them in the order of the batch.
    fn open_in_parallel(&self, out: &mut [u8], workers: usize) -> (Vec<usize>, Vec<Result<usize, DecryptError>>) {
        let count = self.sealed.len();
        let unopened = Mutex::new(Unopened {
            sealed: self.sealed.iter(),
            sif_frames: &self.sif_frames,
            out,
            lens: Vec::with_capacity(count),
            chunks: 0,
            results: Vec::with_capacity(count),
            committed: 0,
            waiting: BTreeMap::new(),
        });
        run_on_threads(workers, || self.open_chunks(&unopened, chunk_len(workers, count)));
        let Unopened { lens, results, .. } = unopened.into_inner().unwrap_or_else(PoisonError::into_inner);
        (lens, results)
    }

    /// The work of one thread: commits its chunk if it is in turn, or leaves it for the thread that is; then claims and
    /// attempts the next chunk.
    fn open_chunks<'a, 'o>(&'a self, unopened: &Mutex<Unopened<'a, 'o>>, max: usize) {
        let mut number = None;
        let mut chunk: Vec<Opening<'a, 'o>> = Vec::with_capacity(max);
        loop {
            let inside = fork::enter();
            let mut rest = lock(unopened);
            match number {
                Some(number) if number == rest.committed => {
                    rest.commit(self.decryptor, &mut chunk);
                    while let Some(mut next) = {
                        let turn = rest.committed;
                        rest.waiting.remove(&turn)
                    } {
                        rest.commit(self.decryptor, &mut next);
                    }
                }
                Some(number) => {
                    rest.waiting.insert(number, mem::replace(&mut chunk, Vec::with_capacity(max)));
                }
                None => {}
            }
            if rest.sealed.len() == 0 {
                return;
            }
            number = Some(rest.chunks);
            rest.chunks += 1;
            rest.claim(self.decryptor, max, &mut chunk);
            drop((rest, inside));
            for openings in chunk.chunks_mut(CHUNK) {
                let _inside = fork::enter();
                self.try_ahead(openings);
            }
        }
    }

    /// Attempts frames ahead of their turn.
    fn try_ahead(&self, openings: &mut [Opening<'_, '_>]) {
        let (mut keys, mut cached) = (None, None);
        for Opening { plan, place, attempt } in openings {
            let Ok(Plan::Sealed(plan)) = plan else { continue };
            if place.len() < LOCKED_AEAD_MAX {
                *attempt = plan.attempt(keys.get_or_insert_with(|| self.decryptor.state.ring.ready_keys()), place);
            }
            if attempt.is_none() {
                keys = None; // release the ring's lock: this calls the ring
                *attempt = plan.attempt_long(&mut cached, place);
            }
        }
    }
}
