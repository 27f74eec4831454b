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

/// The result of [`OpenBatch::open_into`]: the length of each frame, and the errors of frames that did not open. Errors
/// are rare, so they are stored apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenedBatch {
    lens: Vec<usize>,
    failed: Vec<(usize, DecryptError)>,
}

/// The frames that no thread has claimed, the rest of the output, and the outcome of committed chunks.
struct Unopened<'a, 'o> {
    sealed: &'a [&'a [u8]],
    out: &'o mut [u8],
    lens: &'o mut [usize],
    /// The number of chunks that threads have claimed.
    chunks: usize,
    /// The number of chunks that are committed: the number of the next chunk in turn.
    committed: usize,
    /// The committed part of the output, without its gaps.
    pieces: Pieces,
    /// The indices of committed frames that did not open, ascending, with their errors.
    failed: Vec<(usize, DecryptError)>,
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
    /// The attempt writes the length of each frame's part of the output. The commit corrects it to the result.
    lens: &'o mut [usize],
    /// The plan of each frame, if only a plan determines the length. Otherwise it is empty: parsing a short frame twice
    /// costs less than storing its plan.
    plans: Vec<Planned<'a>>,
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
    /// The result is final: the frame is malformed or does not fit, or is empty and stays so (`None`).
    Final(Option<DecryptError>),
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
            Self::Final(_) | Self::SifFrame => None,
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

/// Splits the first `len` items off `rest`. If it is shorter, they are missing, and `rest` is empty then.
#[inline(always)]
fn split_off<'o, T>(rest: &mut &'o mut [T], len: usize) -> Option<&'o mut [T]> {
    let (first, behind) = mem::take(rest).split_at_mut_checked(len)?;
    *rest = behind;
    Some(first)
}

/// The opened frames in an output with gaps. A piece is a run of frames without a gap between them.
#[derive(Default)]
struct Pieces(Vec<Piece>);

struct Piece {
    len: usize,
    /// The length of the gap behind the piece.
    gap: usize,
}

impl Pieces {
    /// Appends a frame of `len` bytes, and a gap behind it.
    fn push(&mut self, len: usize, gap: usize) {
        match self.0.last_mut() {
            Some(last) if last.gap == 0 || len == 0 => {
                last.len += len;
                last.gap += gap;
            }
            _ => self.0.push(Piece { len, gap }),
        }
    }

    /// Moves the pieces to the start of `out`, one behind the other. Returns their length.
    fn join(self, out: &mut [u8]) -> usize {
        let (mut from, mut to) = (0, 0);
        for Piece { len, gap } in self.0 {
            if from != to {
                out.copy_within(from..from + len, to);
            }
            (from, to) = (from + len + gap, to + len);
        }
        to
    }
}

impl<'a, 'o> Chunk<'a, 'o> {
    /// Plans the frames if only a plan determines their lengths. Returns the length of all frames.
    fn plan(&mut self, batch: &'a OpenBatch<'_>) -> usize {
        let Self { first, sealed, plans, .. } = self;
        let frames = (*first..).zip(*sealed);
        plans.clear();
        if let Some(layout) = BareLayout::of(&batch.decryptor.state) {
            return frames.map(|(index, frame)| batch.bare_len(index, frame, layout)).sum();
        }
        plans.extend(frames.map(|(index, frame)| match batch.is_sif_frame(index) {
            true => Ok(None),
            false => batch.decryptor.plan(frame, &[]),
        }));
        (*first..).zip(*sealed).zip(plans).map(|((index, frame), plan)| batch.planned_len(index, frame, plan)).sum()
    }

    /// Attempts the frames ahead of their turn.
    fn attempt(&mut self, batch: &'a OpenBatch<'_>) {
        let decryptor = batch.decryptor;
        let Self { first, sealed, out, lens, plans, runs, nonce_inputs, .. } = self;
        let (mut rest, has_window) = (&mut **out, decryptor.state.has_replay_window());
        let layout = BareLayout::of(&decryptor.state);
        let (mut indices, mut plans) = (*first.., plans.iter());
        for (sealed, lens) in sealed.chunks(CHUNK).zip(lens.chunks_mut(CHUNK)) {
            let _inside = fork::enter();
            let (mut keys, mut cached) = (None, None);
            for ((sealed, len), index) in sealed.iter().zip(lens).zip(&mut indices) {
                let plan = plans.next();
                let planned = match (layout, plan) {
                    (Some(layout), _) => batch.bare_len(index, sealed, layout),
                    (None, Some(plan)) => batch.planned_len(index, sealed, plan),
                    (None, None) => 0,
                };
                let mut place = split_off(&mut rest, planned);
                *len = place.as_ref().map_or(0, |place| place.len());
                let attempted = if batch.is_sif_frame(index) {
                    Ok(None)
                } else if let Some(parts) = layout.and_then(|layout| layout.parse(sealed))
                    && let Some(place) = place.as_deref_mut().filter(|place| place.len() < LOCKED_AEAD_MAX)
                    && let Some(attempt) =
                        parts.attempt(keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()), place)
                {
                    Ok(Some((parts.kid, parts.nonce_input, Some(attempt))))
                } else {
                    with_plan(decryptor, plan, sealed, |plan| {
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
                let outcome = match attempted {
                    Ok(Some((kid, nonce_input, Some(Attempt { serial, opened: true })))) => {
                        if has_window {
                            nonce_inputs.push(nonce_input);
                        }
                        Outcome::Opened { kid, serial }
                    }
                    Ok(Some((.., attempt))) => Outcome::Unopened(attempt),
                    Ok(None) if batch.is_sif_frame(index) => Outcome::SifFrame,
                    Ok(None) => Outcome::Final(None),
                    Err(error) => Outcome::Final(Some(error)),
                };
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
        chunk.lens = split_off(&mut self.lens, chunk.sealed.len()).unwrap_or_default();
        self.chunks += 1;
        let len = chunk.plan(batch).min(self.out.len());
        chunk.out = split_off(&mut self.out, len).unwrap_or_default();
    }

    /// Finishes the frames of a chunk in order, and counts them once.
    fn commit(&mut self, decryptor: &'a Decryptor, chunk: &mut Chunk<'a, '_>) {
        let state = &decryptor.state;
        let Chunk { first, sealed, out, lens, plans, runs, nonce_inputs, .. } = chunk;
        let (mut opened, mut bytes, mut keys) = (0, 0, None);
        let (mut rest, mut nonce_inputs) = (mem::take(out), nonce_inputs.drain(..));
        let mut at = 0;
        for Run { outcome, frames: count } in runs.drain(..) {
            let range = at..at + count;
            at = range.end;
            let lens = lens.get_mut(range.clone()).unwrap_or_default();
            let run_len = lens.iter().sum::<usize>();
            let mut places = split_off(&mut rest, run_len).unwrap_or_default();
            let opener = match outcome {
                Outcome::Opened { kid, serial } => state.opener(kid, serial, &mut keys),
                _ => None,
            };
            let run = range.zip(lens).map(|(at, len)| (at, split_off(&mut places, *len).unwrap_or_default(), len));
            match (outcome, opener) {
                (Outcome::Final(error), _) => {
                    run.for_each(|(at, _, len)| self.settle(*first + at, len, error.map_or(Ok(0), Err)));
                }
                (Outcome::SifFrame, _) => {
                    keys = None; // release the ring's lock: this may call the ring
                    for (at, place, len) in run {
                        let sealed = sealed.get(at).copied().unwrap_or_default();
                        self.settle(*first + at, len, open_sif_frame(decryptor, sealed, place));
                    }
                }
                (Outcome::Opened { kid, .. }, Some(identity)) => {
                    let (mut new, mut new_bytes) = (count, run_len);
                    if let Some(mut window) = state.replay() {
                        for (at, place, len) in run {
                            let nonce_input = nonce_inputs.next();
                            if nonce_input.is_some_and(|nonce_input| window.mark(identity, nonce_input)) {
                                self.pieces.push(*len, 0);
                                continue;
                            }
                            (new, new_bytes) = (new - 1, new_bytes - *len);
                            place.fill(0);
                            let error = DecryptError::Replayed { kid };
                            state.count(error);
                            self.settle(*first + at, len, Err(error));
                        }
                    } else {
                        self.pieces.push(run_len, 0);
                    }
                    if new > 0 {
                        state.record_success();
                    }
                    (opened, bytes) = (opened + new, bytes + new_bytes);
                }
                _ => run.for_each(|(at, place, len)| {
                    if matches!(outcome, Outcome::Opened { .. }) {
                        nonce_inputs.next();
                    }
                    let sealed = sealed.get(at).copied().unwrap_or_default();
                    let finished = with_plan(decryptor, plans.get(at), sealed, |plan| {
                        plan.finish(outcome.attempt(), &mut keys, place)
                    });
                    let result = match finished {
                        Ok(Some(Ok(()))) => {
                            (opened, bytes) = (opened + 1, bytes + *len);
                            Ok(*len)
                        }
                        Ok(None) => Ok(0),
                        Ok(Some(Err(error))) | Err(error) => Err(error),
                    };
                    self.settle(*first + at, len, result);
                }),
            }
        }
        drop(keys);
        self.pieces.push(0, rest.len());
        state.count_opened(opened, bytes);
        self.committed += 1;
    }

    /// Records the result of the frame at `index`, and replaces `len`, the length of its part of the output.
    fn settle(&mut self, index: usize, len: &mut usize, result: Result<usize, DecryptError>) {
        let opened_len = result.unwrap_or(0);
        self.pieces.push(opened_len, *len - opened_len);
        *len = opened_len;
        self.failed.extend(result.err().map(|error| (index, error)));
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
    pub fn plan_batch<'a>(&'a self, mut sealed: Vec<&'a [u8]>) -> OpenBatch<'a> {
        let _inside = fork::enter();
        let mut sif_frames = Vec::new();
        if self.expects_sif_frames() {
            for (index, frame) in sealed.iter_mut().enumerate() {
                *frame = self.cut_sif_frames(frame);
                if self.is_sif_frame(frame) {
                    sif_frames.push(index);
                }
            }
        }
        OpenBatch { decryptor: self, sealed, sif_frames }
    }
}

impl OpenedBatch {
    /// Returns the length of each frame in bytes. A frame that did not open has the length 0.
    #[must_use]
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Returns the index and the error of each frame that did not open. The indices ascend.
    #[must_use]
    pub fn failed(&self) -> &[(usize, DecryptError)] {
        &self.failed
    }

    /// Returns for each frame its length in bytes, or its error.
    #[must_use]
    pub fn results(&self) -> Vec<Result<usize, DecryptError>> {
        let mut results: Vec<_> = self.lens.iter().map(|len| Ok(*len)).collect();
        for (index, error) in &self.failed {
            if let Some(result) = results.get_mut(*index) {
                *result = Err(*error);
            }
        }
        results
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

    /// Returns the length of the opened frame, or of its part of the output if it may not open.
    #[inline(always)]
    fn bare_len(&self, index: usize, sealed: &[u8], layout: BareLayout) -> usize {
        if self.is_sif_frame(index) { sealed.len() } else { layout.opened_len(sealed) }
    }

    /// Returns the length as [`Self::bare_len`] does, for a layout in which only a plan determines it.
    fn planned_len(&self, index: usize, sealed: &[u8], plan: &Planned<'_>) -> usize {
        match plan {
            _ if self.is_sif_frame(index) => sealed.len(),
            Ok(Some(plan)) => plan.frame_len(),
            Ok(None) | Err(_) => 0,
        }
    }

    /// Writes the frames that open to `out`, one behind the other, and zeroes the rest of `out`. A frame that does not
    /// open has no bytes. `out` must have at least [`Self::max_len`] bytes: a frame that does not fit fails with
    /// [`ApiMisuse::BufferLength`].
    ///
    /// `threads` is the number of threads. 0 chooses it by the number of cores and the size of the batch.
    pub fn open_into(&self, out: &mut [u8], threads: usize) -> OpenedBatch {
        let workers = workers(threads, &self.sealed);
        let (opened, len) = if workers == 1 { self.open_in_turn(out) } else { self.open_in_parallel(out, workers) };
        if let Some(rest) = out.get_mut(len..) {
            rest.fill(0);
        }
        opened
    }

    /// Opens one frame after another, as single calls do, but takes the ring's lock once per chunk. Returns the length
    /// of all opened frames too.
    fn open_in_turn(&self, out: &mut [u8]) -> (OpenedBatch, usize) {
        let decryptor = self.decryptor;
        let layout = BareLayout::of(&decryptor.state);
        let (mut lens, mut failed, mut end) = (Vec::with_capacity(self.sealed.len()), Vec::new(), 0);
        for chunk in self.sealed.chunks(CHUNK) {
            let _inside = fork::enter();
            let (mut frames, mut bytes, mut keys) = (0, 0, None);
            for sealed in chunk {
                let rest = out.get_mut(end..).unwrap_or_default();
                let opened = if self.is_sif_frame(lens.len()) {
                    keys = None; // release the ring's lock: this may call the ring
                    open_sif_frame(decryptor, sealed, rest)
                } else if let Some(parts) = layout.and_then(|layout| layout.parse(sealed))
                    && let Some(place) = rest.get_mut(..parts.frame_len()).filter(|place| place.len() < LOCKED_AEAD_MAX)
                    && parts.open_with(
                        &decryptor.state,
                        keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()),
                        place,
                    )
                {
                    frames += 1;
                    bytes += place.len();
                    Ok(place.len())
                } else {
                    let opened = decryptor.with_plan(sealed, &[], |plan| {
                        let place = rest.get_mut(..plan.frame_len()).ok_or(ApiMisuse::BufferLength)?;
                        if layout.is_none()
                            && place.len() < LOCKED_AEAD_MAX
                            && plan.open_with(keys.get_or_insert_with(|| decryptor.state.ring.ready_keys()), place)
                        {
                            frames += 1;
                            bytes += place.len();
                            return Ok(place.len());
                        }
                        // Release the ring's lock: this calls the ring. It counts the frame itself.
                        keys = None;
                        plan.open_long(place).map(|()| place.len())
                    });
                    opened.and_then(|opened| opened.unwrap_or(Ok(0)))
                };
                let len = opened.unwrap_or_else(|error| {
                    failed.push((lens.len(), error));
                    0
                });
                lens.push(len);
                end += len;
            }
            decryptor.state.count_opened(frames, bytes);
        }
        (OpenedBatch { lens, failed }, end)
    }

    /// Attempts the frames on several threads, in any order, and finishes them in the order of the batch. Returns the
    /// length of all opened frames too.
    fn open_in_parallel(&self, out: &mut [u8], workers: usize) -> (OpenedBatch, usize) {
        let mut lens = vec![0; self.sealed.len()];
        let unopened = Mutex::new(Unopened {
            sealed: &self.sealed,
            out: &mut *out,
            lens: &mut lens,
            chunks: 0,
            committed: 0,
            pieces: Pieces::default(),
            failed: Vec::new(),
            waiting: BTreeMap::new(),
        });
        run_on_threads(workers, || self.open_chunks(&unopened, workers));
        let Unopened { pieces, failed, .. } = unopened.into_inner().unwrap_or_else(PoisonError::into_inner);
        let len = pieces.join(out);
        (OpenedBatch { lens, failed }, len)
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
