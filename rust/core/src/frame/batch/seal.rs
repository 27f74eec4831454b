//! A batch of one outgoing track.
#![deny(clippy::indexing_slicing)]

use std::mem;
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};

use super::{CHUNK, chunk_len, lock, run_on_threads, workers};
use crate::error::{ApiMisuse, EncryptError};
use crate::fork;
use crate::frame::encryptor::Encryptor;
use crate::frame::seal::{FixedOverhead, SealPlan};
use crate::frame::state::SenderState;
use crate::keyring::{BatchKey, NonceInput};

/// A batch about to be sealed.
pub struct SealBatch<'a> {
    sender: &'a SenderState,
    frames: PlannedFrames<'a>,
}

enum PlannedFrames<'a> {
    FixedOverhead(FixedOverhead, Vec<&'a [u8]>),
    /// Sealed already, where only sealing tells how long a frame gets (escapes).
    Sealed(Vec<Vec<u8>>),
}

/// Which frame could not be sealed, by its place, and why.
type Failed = (usize, EncryptError);

/// Frames that are not sealed yet, and where they go.
struct Unsealed<'a, 'o> {
    frames: Iter<'a, &'a [u8]>,
    out: &'o mut [u8],
    lens: Vec<usize>,
    failed: Option<Failed>,
}

/// Frames that one thread seals now.
struct Chunk<'a, 'o> {
    first: usize,
    frames: &'a [&'a [u8]],
    out: &'o mut [u8],
    /// None where none of them is sealed: they need no key.
    batch_key: Option<BatchKey>,
}

impl Encryptor {
    /// Looks at a batch, and seals it where only that tells its length.
    ///
    /// # Errors
    /// The first frame that cannot be sealed, by its place, and why. Nothing of the batch may be sent then.
    pub fn plan_batch<'a>(
        &'a self,
        frames: Vec<&'a [u8]>,
        threads: usize,
    ) -> Result<SealBatch<'a>, (usize, EncryptError)> {
        let frames = match FixedOverhead::of(&self.state) {
            Some(fixed_overhead) => PlannedFrames::FixedOverhead(fixed_overhead, frames),
            None => PlannedFrames::Sealed(self.seal_all(&frames, threads)?),
        };
        Ok(SealBatch { sender: &self.state, frames })
    }

    fn seal_all(&self, frames: &[&[u8]], threads: usize) -> Result<Vec<Vec<u8>>, Failed> {
        let (mut plans, mut refused) = (Vec::with_capacity(frames.len()), None);
        for chunk in frames.chunks(CHUNK) {
            let _inside = fork::enter();
            for frame in chunk {
                match SealPlan::keyed(&self.state, frame) {
                    Ok(plan) => plans.push(plan),
                    Err(error) => {
                        refused = Some((plans.len(), error));
                        break;
                    }
                }
            }
            if refused.is_some() {
                break;
            }
        }
        // The frames before a refused one are sealed and counted, as single calls would have done.
        let mut sealed: Vec<Result<Vec<u8>, EncryptError>> = plans.iter().map(|_| Ok(Vec::new())).collect();
        let jobs = Mutex::new(plans.chunks(CHUNK).zip(sealed.chunks_mut(CHUNK)));
        run_on_threads(workers(threads, frames), || {
            loop {
                let _inside = fork::enter();
                let Some((plans, places)) = lock(&jobs).next() else { return };
                for (plan, place) in plans.iter().zip(places) {
                    if let Some(plan) = plan {
                        *place = plan.seal();
                    }
                }
            }
        });
        let sealed = sealed.into_iter().enumerate().map(|(place, sealed)| sealed.map_err(|error| (place, error)));
        let sealed = sealed.collect::<Result<_, _>>()?;
        refused.map_or(Ok(sealed), Err)
    }
}

impl SealBatch<'_> {
    /// Bytes that the sealed frames need at the most: in the trailer layout just as many as they will have.
    #[must_use]
    pub fn max_len(&self) -> usize {
        match &self.frames {
            PlannedFrames::Sealed(sealed) => sealed.iter().map(Vec::len).sum(),
            PlannedFrames::FixedOverhead(fixed_overhead, frames) => {
                let overhead = fixed_overhead.max_overhead();
                frames.iter().map(|frame| if fixed_overhead.seals(frame) { frame.len() + overhead } else { 0 }).sum()
            }
        }
    }

    /// Writes all sealed frames, one behind the other, and returns the bytes of each. `out` has at least
    /// [`Self::max_len`].
    ///
    /// # Errors
    /// As [`Encryptor::plan_batch`]; `out` is cleared then. Also where `out` is too short.
    pub fn seal_into(&self, out: &mut [u8], threads: usize) -> Result<Vec<usize>, (usize, EncryptError)> {
        if out.len() < self.max_len() {
            return Err((0, ApiMisuse::BufferLength.into()));
        }
        match &self.frames {
            PlannedFrames::Sealed(sealed) => {
                let mut rest = out;
                for sealed in sealed {
                    let (place, behind) =
                        rest.split_at_mut_checked(sealed.len()).ok_or((0, ApiMisuse::BufferLength.into()))?;
                    place.copy_from_slice(sealed);
                    rest = behind;
                }
                Ok(sealed.iter().map(Vec::len).collect())
            }
            PlannedFrames::FixedOverhead(fixed_overhead, frames) => {
                let lens = Vec::with_capacity(frames.len());
                let unsealed = Mutex::new(Unsealed { frames: frames.iter(), out: &mut *out, lens, failed: None });
                let workers = workers(threads, frames);
                run_on_threads(workers, || {
                    self.seal_chunks(*fixed_overhead, &unsealed, chunk_len(workers, frames.len()))
                });
                let Unsealed { lens, failed, .. } = unsealed.into_inner().unwrap_or_else(PoisonError::into_inner);
                match failed {
                    None => Ok(lens),
                    Some(failed) => {
                        out.fill(0);
                        Err(failed)
                    }
                }
            }
        }
    }

    fn seal_chunks(&self, fixed_overhead: FixedOverhead, unsealed: &Mutex<Unsealed<'_, '_>>, max: usize) {
        let mut nonce_inputs = Vec::with_capacity(max);
        loop {
            let _inside = fork::enter();
            let mut rest = lock(unsealed);
            if rest.failed.is_some() || rest.frames.len() == 0 {
                return;
            }
            // What fails here is said before another thread can ask for more: it is the first that is named.
            let taken = rest
                .take(max, self.sender, fixed_overhead, &mut nonce_inputs)
                .inspect_err(|failed| rest.failed = Some(*failed));
            let Ok(chunk) = taken else { return };
            drop(rest);
            match chunk.seal(fixed_overhead, &nonce_inputs) {
                Ok(bytes) => self.sender.count_sealed(nonce_inputs.len(), bytes),
                Err(place) => {
                    lock(unsealed).failed.get_or_insert((place, EncryptError::Malformed));
                }
            }
        }
    }
}

impl<'a, 'o> Unsealed<'a, 'o> {
    /// Takes the next frames, `max` of them at the most, and their places. Under one look-up for all it takes the key, and
    /// what each frame that is sealed gets alone. A frame without such is left for the next call, which fails there.
    fn take(
        &mut self,
        max: usize,
        sender: &SenderState,
        fixed_overhead: FixedOverhead,
        nonce_inputs: &mut Vec<NonceInput>,
    ) -> Result<Chunk<'a, 'o>, Failed> {
        let (all, first) = (self.frames.as_slice(), self.lens.len());
        let fitting =
            all.iter().take(max).take_while(|frame| !fixed_overhead.seals(frame) || fixed_overhead.fits(frame)).count();
        if fitting == 0 {
            return Err((first, sender.codec_mismatch()));
        }
        let filled = || all.iter().enumerate().take(fitting).filter(|(_, frame)| fixed_overhead.seals(frame));
        let place_of = |n| filled().nth(n).map_or(fitting, |(place, _)| place);
        nonce_inputs.clear();
        let batch_key = match filled().count() {
            0 => None,
            count => Some(sender.next_batch(count, nonce_inputs).map_err(|error| {
                let empty = place_of(0);
                sender.counters.empty.add(empty);
                (first + empty, error)
            })?),
        };
        let (frames, behind) = all.split_at(place_of(nonce_inputs.len()));
        sender.counters.empty.add(frames.len() - nonce_inputs.len());
        let (kid, mut nonces, mut len) =
            (batch_key.as_ref().map_or(0, |batch_key| batch_key.kid), nonce_inputs.iter(), 0);
        self.lens.extend(frames.iter().map(|frame| {
            let overhead = |nonce_input: &NonceInput| fixed_overhead.overhead(kid, *nonce_input);
            let sealed = if fixed_overhead.seals(frame) { frame.len() + nonces.next().map_or(0, overhead) } else { 0 };
            len += sealed;
            sealed
        }));
        let place = mem::take(&mut self.out).split_at_mut_checked(len);
        let (out, rest) = place.ok_or((first, ApiMisuse::BufferLength.into()))?;
        (self.frames, self.out) = (behind.iter(), rest);
        Ok(Chunk { first, frames, out, batch_key })
    }
}

impl Chunk<'_, '_> {
    /// Seals the frames and returns their bytes, or the place of one that is too long for the AEAD.
    fn seal(self, fixed_overhead: FixedOverhead, nonce_inputs: &[NonceInput]) -> Result<usize, usize> {
        let Self { first, frames, mut out, batch_key } = self;
        let Some(BatchKey { key, kid }) = batch_key else { return Ok(0) };
        let mut bytes = 0;
        let filled = frames.iter().enumerate().filter(|(_, frame)| fixed_overhead.seals(frame));
        for ((place, frame), nonce_input) in filled.zip(nonce_inputs) {
            let len = frame.len() + fixed_overhead.overhead(kid, *nonce_input);
            let sealed = mem::take(&mut out).split_at_mut_checked(len).and_then(|(sealed, behind)| {
                out = behind;
                fixed_overhead.seal(&key, kid, *nonce_input, frame, sealed)
            });
            sealed.ok_or(first + place)?;
            bytes += frame.len();
        }
        Ok(bytes)
    }
}
