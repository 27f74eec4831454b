//! Opens a batch of frames of one incoming track.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use super::{CHUNK, chunk_len, lock, run_on_threads, workers};
use crate::error::{ApiMisuse, DecryptError};
use crate::fork;
use crate::frame::decryptor::Decryptor;
use crate::frame::open::{Attempt, BareLayout, OpenPlan};
use crate::keyring::{LOCKED_AEAD_MAX, NonceInput};

/// A planned batch of sealed frames: see [`Decryptor::plan_batch`].
pub struct OpenBatch<'a> {
    decryptor: &'a Decryptor,
    sealed: Vec<&'a [u8]>,
    /// The indices of SIF frames, ascending. The trailer may change at any time, so they are determined once.
    sif_frames: Vec<usize>,
}

/// The frames that no thread has claimed, the rest of the output, and the results so far.
struct Unopened<'a, 'o> {
    sealed: &'a [&'a [u8]],
    out: &'o mut [u8],
    /// The number of chunks that threads have claimed.
    chunks: usize,
    /// The planned length of each committed frame.
    lens: Vec<usize>,
    /// The results of committed frames.
    results: Vec<Result<usize, DecryptError>>,
    /// The number of chunks that are committed: the number of the next chunk in turn.
    committed: usize,
    /// Attempted chunks ahead of their turn, by their number.
    waiting: BTreeMap<usize, Chunk<'a, 'o>>,
}

/// The frames that one thread has claimed, with their output. Their attempts are stored as runs, so that the commit,
/// which one thread at a time can do, costs little.
#[derive(Default)]
struct Chunk<'a, 'o> {
    number: usize,
    /// The index of the first frame in the batch.
    first: usize,
    sealed: &'a [&'a [u8]],
    out: &'o mut [u8],
    /// The planned length of each frame, which is the length of its part of the output.
    lens: Vec<usize>,
    /// The plan of each frame, if only a plan determines the length. Otherwise it is empty: parsing a short frame twice
    /// costs less than storing its plan.
    plans: Vec<Planned<'a>>,
    /// The result of each attempted frame. The commit corrects it.
    results: Vec<Result<usize, DecryptError>>,
    runs: Vec<Run>,
    /// The nonce input of each frame that a key opened. Empty without a replay window.
    nonce_inputs: Vec<NonceInput>,
}

/// The result of [`Decryptor::plan`].
type Planned<'a> = Result<Option<OpenPlan<'a>>, DecryptError>;

/// Consecutive frames of a chunk whose attempts had the same outcome.
struct Run {
    outcome: Outcome,
    frames: usize,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The result is final: the frame is empty or malformed, or does not fit.
    Final,
    /// The key that the key id named opened the frame.
    Opened { kid: u64, serial: u64 },
    /// The key did not open the frame, or was unknown (`None`).
    Unopened(Option<Attempt>),
    /// A SIF frame. It passes or is refused in its turn.
    SifFrame,
}

impl Outcome {
    /// Returns the attempt on a sealed frame, which decides about the frame in its turn.
    fn attempt(self) -> Option<Attempt> {
        match self {
            Self::Opened { serial, .. } => Some(Attempt { serial, opened: true }),
            Self::Unopened(attempt) => attempt,
            Self::Final | Self::SifFrame => None,
        }
    }
}

/// Calls `open` with a frame's plan: the one that was stored, or a new one. Returns `None` for an empty frame.
#[inline(always)]
fn with_plan<'a, R>(
    decryptor: &'a Decryptor,
    stored: Option<&Planned<'a>>,
    sealed: &'a [u8],
    open: impl FnOnce(&OpenPlan<'a>) -> R,
) -> Result<Option<R>, DecryptError> {
    match stored {
        None => decryptor.with_plan(sealed, &[], open),
        Some(Ok(plan)) => Ok(plan.as_ref().map(open)),
        Some(Err(error)) => Err(*error), // counted when it was planned
    }
}

/// Splits the first `len` bytes off `out`. If it is shorter, they are missing, and `out` is empty then.
#[inline(always)]
fn split_off<'o>(out: &mut &'o mut [u8], len: usize) -> Option<&'o mut [u8]> {
    let (place, behind) = mem::take(out).split_at_mut_checked(len)?;
    *out = behind;
    Some(place)
}

impl<'a, 'o> Chunk<'a, 'o> {
    /// Plans the length of each frame, and returns the length of all.
    fn plan(&mut self, batch: &'a OpenBatch<'_>) -> usize {
        let Self { first, sealed, lens, plans, .. } = self;
        let bare = BareLayout::of(&batch.decryptor.state);
        lens.clear();
        plans.clear();
        lens.extend((*first..).zip(*sealed).map(|(index, frame)| match bare {
            _ if batch.is_sif_frame(index) => {
                if bare.is_none() {
                    plans.push(Ok(None));
                }
                frame.len()
            }
            Some(bare) => bare.opened_len(frame),
            None => {
                let plan = batch.decryptor.plan(frame, &[]);
                let len = plan.as_ref().ok().and_then(Option::as_ref).map_or(0, OpenPlan::frame_len);
                plans.push(plan);
                len
            }
        }));
        lens.iter().sum()
    }

    /// Attempts the frames ahead of their turn.
    fn attempt(&mut self, batch: &'a OpenBatch<'_>) {
        let decryptor = batch.decryptor;
        let Self { first, sealed, out, lens, plans, results, runs, nonce_inputs, .. } = self;
        let (mut rest, has_window) = (&mut **out, decryptor.state.has_replay_window());
        let layout = BareLayout::of(&decryptor.state);
        for (sealed, lens) in sealed.chunks(CHUNK).zip(lens.chunks_mut(CHUNK)) {
            let _inside = fork::enter();
            let (mut keys, mut cached) = (None, None);
            for (sealed, len) in sealed.iter().zip(lens) {
                let mut place = split_off(&mut rest, *len);
                *len = place.as_ref().map_or(0, |place| place.len());
                let attempted = if batch.is_sif_frame(*first + results.len()) {
                    Ok(None)
                } else if let Some(parts) = layout.and_then(|layout| layout.parse(sealed))
                    && let Some(place) = place.as_deref_mut().filter(|place| place.len() < LOCKED_AEAD_MAX)
                    && let Some(attempt) =
                        parts.attempt(keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()), place)
                {
                    Ok(Some((parts.kid, parts.nonce_input, Some(attempt))))
                } else {
                    with_plan(decryptor, plans.get(results.len()), sealed, |plan| {
                        let place = place.ok_or(ApiMisuse::BufferLength)?;
                        let mut attempt = None;
                        if layout.is_none() && place.len() < LOCKED_AEAD_MAX {
                            let keys = keys.get_or_insert_with(|| decryptor.state.ring.ready_keys());
                            attempt = plan.attempt(keys, place);
                        }
                        if attempt.is_none() {
                            keys = None; // release the ring's lock: this calls the ring
                            attempt = plan.attempt_long(&mut cached, place);
                        }
                        Ok((plan.parts.kid, plan.parts.nonce_input, attempt))
                    })
                    .and_then(Option::transpose)
                };
                let (result, outcome) = match attempted {
                    Ok(Some((kid, nonce_input, Some(Attempt { serial, opened: true })))) => {
                        if has_window {
                            nonce_inputs.push(nonce_input);
                        }
                        (Ok(*len), Outcome::Opened { kid, serial })
                    }
                    Ok(Some((.., attempt))) => (Ok(0), Outcome::Unopened(attempt)),
                    Ok(None) if batch.is_sif_frame(*first + results.len()) => (Ok(0), Outcome::SifFrame),
                    Ok(None) => (Ok(0), Outcome::Final),
                    Err(error) => (Err(error), Outcome::Final),
                };
                results.push(result);
                match runs.last_mut() {
                    Some(run) if run.outcome == outcome => run.frames += 1,
                    _ => runs.push(Run { outcome, frames: 1 }),
                }
            }
        }
    }
}

impl<'a, 'o> Unopened<'a, 'o> {
    /// Claims the next frames, at most `max`, and their part of the output.
    fn claim(&mut self, batch: &'a OpenBatch<'_>, max: usize, chunk: &mut Chunk<'a, 'o>) {
        (chunk.number, chunk.first) = (self.chunks, batch.sealed.len() - self.sealed.len());
        (chunk.sealed, self.sealed) = self.sealed.split_at(max.min(self.sealed.len()));
        self.chunks += 1;
        let (len, rest) = (chunk.plan(batch), mem::take(&mut self.out));
        (chunk.out, self.out) = rest.split_at_mut(len.min(rest.len()));
    }

    /// Finishes the frames of a chunk in order, and counts them once.
    fn commit(&mut self, decryptor: &'a Decryptor, chunk: &mut Chunk<'a, '_>) {
        let state = &decryptor.state;
        let Chunk { sealed, out, lens, plans, results, runs, nonce_inputs, .. } = chunk;
        let (mut opened, mut bytes, mut keys) = (0, 0, None);
        let (mut rest, mut nonce_inputs) = (mem::take(out), nonce_inputs.drain(..));
        let mut at = 0;
        for Run { outcome, frames: count } in runs.drain(..) {
            let range = at..at + count;
            at = range.end;
            let lens = lens.get(range.clone()).unwrap_or_default();
            let len = lens.iter().sum::<usize>();
            let mut places = split_off(&mut rest, len).unwrap_or_default();
            let opener = match outcome {
                Outcome::Opened { kid, serial } => state.opener(kid, serial, &mut keys),
                _ => None,
            };
            let frames = sealed.get(range.clone()).unwrap_or_default().iter().zip(lens);
            let results = results.get_mut(range.clone()).unwrap_or_default();
            let run = range.zip(frames.zip(results)).map(|(at, ((sealed, len), result))| {
                (at, *sealed, split_off(&mut places, *len).unwrap_or_default(), result)
            });
            match (outcome, opener) {
                (Outcome::Final, _) => {}
                (Outcome::SifFrame, _) => {
                    keys = None; // release the ring's lock: this may call the ring
                    run.for_each(|(_, sealed, place, result)| *result = open_sif_frame(decryptor, sealed, place));
                }
                (Outcome::Opened { kid, .. }, Some(identity)) => {
                    let (mut new, mut new_bytes) = (count, len);
                    if let Some(mut window) = state.replay() {
                        for (_, _, place, result) in run {
                            let nonce_input = nonce_inputs.next();
                            if nonce_input.is_none_or(|nonce_input| !window.mark(identity, nonce_input)) {
                                *result = Err(DecryptError::Replayed { kid }).inspect_err(|error| state.count(*error));
                                (new, new_bytes) = (new - 1, new_bytes - place.len());
                                place.fill(0);
                            }
                        }
                    }
                    if new > 0 {
                        state.record_success();
                    }
                    (opened, bytes) = (opened + new, bytes + new_bytes);
                }
                _ => run.for_each(|(at, sealed, place, result)| {
                    if matches!(outcome, Outcome::Opened { .. }) {
                        nonce_inputs.next();
                    }
                    let len = place.len();
                    let finished = with_plan(decryptor, plans.get(at), sealed, |plan| {
                        plan.finish(outcome.attempt(), &mut keys, place)
                    });
                    *result = match finished {
                        Ok(Some(Ok(()))) => {
                            (opened, bytes) = (opened + 1, bytes + len);
                            Ok(len)
                        }
                        Ok(None) => Ok(0),
                        Ok(Some(Err(error))) | Err(error) => Err(error),
                    };
                }),
            }
        }
        drop(keys);
        self.lens.append(lens);
        self.results.append(results);
        state.count_opened(opened, bytes);
        self.committed += 1;
    }
}

/// Writes the payload of a SIF frame. Opens the frame if it does not end in the trailer any more.
///
/// Does not call [`Decryptor::plan`]: with a second caller the compiler would not inline it into [`Chunk::plan`],
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
    fn is_sif_frame(&self, index: usize) -> bool {
        self.sif_frames.binary_search(&index).is_ok()
    }

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
        let layout = BareLayout::of(&decryptor.state);
        let (mut lens, mut results) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for chunk in self.sealed.chunks(CHUNK) {
            let _inside = fork::enter();
            let (mut frames, mut bytes, mut keys) = (0, 0, None);
            for sealed in chunk {
                if self.is_sif_frame(lens.len()) {
                    let place = split_off(&mut out, sealed.len()).unwrap_or_default();
                    lens.push(place.len());
                    keys = None; // release the ring's lock: this may call the ring
                    results.push(open_sif_frame(decryptor, sealed, place));
                    continue;
                }
                let mut place = None;
                if let Some(parts) = layout.and_then(|layout| layout.parse(sealed)) {
                    place = split_off(&mut out, parts.frame_len());
                    if let Some(place) = place.as_deref_mut().filter(|place| place.len() < LOCKED_AEAD_MAX)
                        && parts.open_with(
                            &decryptor.state,
                            keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()),
                            place,
                        )
                    {
                        frames += 1;
                        bytes += place.len();
                        lens.push(place.len());
                        results.push(Ok(place.len()));
                        continue;
                    }
                }
                let mut len = 0;
                let opened = decryptor.with_plan(sealed, &[], |plan| {
                    let place = place.or_else(|| split_off(&mut out, plan.frame_len()));
                    let place = place.ok_or(ApiMisuse::BufferLength)?;
                    len = place.len();
                    if layout.is_none()
                        && len < LOCKED_AEAD_MAX
                        && plan.open_with(keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()), place)
                    {
                        frames += 1;
                        bytes += len;
                        return Ok(len);
                    }
                    // Release the ring's lock: this calls the ring. It counts the frame itself.
                    keys = None;
                    plan.open_long(place).map(|()| len)
                });
                lens.push(len);
                results.push(opened.and_then(|opened| opened.unwrap_or(Ok(0))));
            }
            decryptor.state.count_opened(frames, bytes);
        }
        (lens, results)
    }

    /// Attempts the frames on several threads, in any order, and finishes them in the order of the batch.
    fn open_in_parallel(&self, out: &mut [u8], workers: usize) -> (Vec<usize>, Vec<Result<usize, DecryptError>>) {
        let count = self.sealed.len();
        let unopened = Mutex::new(Unopened {
            sealed: &self.sealed,
            out,
            chunks: 0,
            lens: Vec::with_capacity(count),
            results: Vec::with_capacity(count),
            committed: 0,
            waiting: BTreeMap::new(),
        });
        run_on_threads(workers, || self.open_chunks(&unopened, workers));
        let Unopened { lens, results, .. } = unopened.into_inner().unwrap_or_else(PoisonError::into_inner);
        (lens, results)
    }

    /// The work of one thread: commits its chunk if it is in turn, or leaves it for the thread that is; then claims and
    /// attempts the next chunk.
    fn open_chunks<'s, 'o>(&'s self, unopened: &Mutex<Unopened<'s, 'o>>, workers: usize) {
        let mut attempted: Option<Chunk<'s, 'o>> = None;
        loop {
            let inside = fork::enter();
            let mut rest = lock(unopened);
            let mut chunk = match attempted.take() {
                Some(mut chunk) if chunk.number == rest.committed => {
                    rest.commit(self.decryptor, &mut chunk);
                    while let Some(mut next) = {
                        let turn = rest.committed;
                        rest.waiting.remove(&turn)
                    } {
                        rest.commit(self.decryptor, &mut next);
                    }
                    chunk
                }
                Some(chunk) => {
                    rest.waiting.insert(chunk.number, chunk);
                    Chunk::default()
                }
                None => Chunk::default(),
            };
            if rest.sealed.is_empty() {
                return;
            }
            let max = chunk_len(workers, rest.sealed.len());
            rest.claim(self, max, &mut chunk);
            drop((rest, inside));
            chunk.attempt(self);
            attempted = Some(chunk);
        }
    }
}
