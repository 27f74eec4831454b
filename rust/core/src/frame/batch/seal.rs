//! Seals a batch of frames of one outgoing track.
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

/// A planned batch of plain frames: see [`Encryptor::plan_batch`].
pub struct SealBatch<'a> {
    sender: &'a SenderState,
    frames: PlannedFrames<'a>,
}

enum PlannedFrames<'a> {
    /// Plain frames whose sealed length is known.
    FixedOverhead(FixedOverhead, Vec<&'a [u8]>),
    /// Frames that planning has sealed, because the number of their escapes is known only afterwards.
    Sealed(Vec<Vec<u8>>),
}

/// The index of the first frame that could not be sealed, and its error.
type Failed = (usize, EncryptError);

/// The frames that no thread has claimed, the rest of the output, and the lengths so far.
struct Unsealed<'a, 'o> {
    frames: Iter<'a, &'a [u8]>,
    out: &'o mut [u8],
    lens: Vec<usize>,
    failed: Option<Failed>,
}

/// The frames that one thread has claimed, with their output and their key.
struct Chunk<'a, 'o> {
    /// The index of the first frame in the batch.
    first: usize,
    frames: &'a [&'a [u8]],
    out: &'o mut [u8],
    /// The key, or `None` if all frames of the chunk are empty and stay so.
    batch_key: Option<BatchKey>,
}

impl Encryptor {
    /// Plans a batch. H.264 and H.265 frames are sealed here, on `threads` threads, because the number of their escapes
    /// is known only afterwards. Use [`SealBatch::seal_into`] to write the sealed frames.
    ///
    /// `threads` is the number of threads. 0 chooses it by the number of cores and the size of the batch.
    ///
    /// # Errors
    /// The index of the first frame that cannot be sealed, and its [`EncryptError`]. No frame of the batch may be sent
    /// then.
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

    /// Plans the frames in order and seals them on several threads.
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
        // Seal and count the frames before a refused one, as single calls would.
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
    /// Returns the maximum length of all sealed frames in bytes. In the trailer layout this is the exact length.
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

    /// Writes all sealed frames to `out`, one behind the other, and returns the length of each in bytes. `threads` as
    /// in [`Encryptor::plan_batch`].
    ///
    /// # Errors
    /// As [`Encryptor::plan_batch`]; `out` is zeroed then. [`ApiMisuse::BufferLength`] if `out` has fewer than
    /// [`Self::max_len`] bytes; no frame is sealed then.
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
                run_on_threads(workers, || self.seal_chunks(*fixed_overhead, &unsealed, workers));
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

    /// The work of one thread: claims and seals one chunk after another, and counts once per chunk.
    fn seal_chunks(&self, fixed_overhead: FixedOverhead, unsealed: &Mutex<Unsealed<'_, '_>>, workers: usize) {
        let mut nonce_inputs = Vec::new();
        loop {
            let _inside = fork::enter();
            let mut rest = lock(unsealed);
            if rest.failed.is_some() || rest.frames.len() == 0 {
                return;
            }
            // Record the failure under the lock, before another thread claims more: the first one is reported.
            let max = chunk_len(workers, rest.frames.len());
            let claimed = rest
                .claim(max, self.sender, fixed_overhead, &mut nonce_inputs)
                .inspect_err(|failed| rest.failed = Some(*failed));
            let Ok(chunk) = claimed else { return };
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
    /// Claims the next frames, at most `max`, and their part of the output. Looks the key up once, and draws a nonce
    /// for each frame that is sealed. Ends before the first frame that is not of the codec or left without a nonce: the
    /// next call fails with its index.
    fn claim(
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
    /// Seals the frames and returns the number of their plain bytes. Fails with the index of a frame that is too long
    /// for the AEAD.
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
