//! A batch of one outgoing track.

use std::mem;
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};

use super::{STRETCH, locked, side_by_side, stretch_of, workers};
use crate::encryptor::Encryptor;
use crate::error::EncryptError;
use crate::lookup::Run;
use crate::nonce::Unique;
use crate::sealing::SealPlan;

/// A batch about to be sealed.
pub struct SealBatch<'a> {
    encryptor: &'a Encryptor,
    frames: Vec<&'a [u8]>,
    /// Sealed already, where only sealing tells how long a frame gets (escapes).
    sealed: Option<Vec<Vec<u8>>>,
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

    fn seal_stretches<'p>(&'p self, unsealed: &Mutex<Unsealed<'p, '_>>, stretch: usize) {
        let mut planned = Vec::with_capacity(stretch);
        let mut uniques = Vec::with_capacity(stretch);
        loop {
            let mut rest = locked(unsealed);
            // Plans go under the lock, as they came: the count of a key's owners stays with one core at a time.
            planned.clear();
            if rest.failed.is_some() || rest.frames.len() == 0 {
                return;
            }
            let sealed = if let Some(overhead) = self.encryptor.fixed_overhead() {
                let first = rest.lens.len();
                let next = rest.frames.as_slice().iter().take(stretch);
                let fitting = next.take_while(|frame| self.encryptor.fits(frame)).count();
                if fitting == 0 {
                    rest.failed = Some((first, self.encryptor.refused()));
                    return;
                }
                let (frames, places) = rest.take(fitting, overhead);
                // Said before another thread can ask for more: the first frame without a nonce is the one that is named.
                let run = match self.next_run(frames, &mut uniques) {
                    Ok(run) => run,
                    Err((n, error)) => {
                        rest.failed = Some((first + n, error));
                        return;
                    }
                };
                drop(rest);
                self.seal_run(frames, places, run.as_ref(), &uniques).map_err(|(n, error)| (first + n, error))
            } else {
                self.plan_stretch(&mut rest, stretch, &mut planned);
                drop(rest);
                seal_planned(&mut planned)
            };
            match sealed {
                Ok((frames, bytes)) => self.encryptor.count_sealed(frames, bytes),
                Err(failed) => {
                    locked(unsealed).failed.get_or_insert(failed);
                }
            }
        }
    }

    /// The key for these frames, and what each of them that is not empty gets alone: one look-up for all. None where all
    /// are empty: they need no key.
    fn next_run(&self, frames: &[&[u8]], uniques: &mut Vec<Unique>) -> Result<Option<Run>, (usize, EncryptError)> {
        uniques.clear();
        let filled = || frames.iter().enumerate().filter(|(_, frame)| !frame.is_empty());
        if filled().next().is_none() {
            return Ok(None);
        }
        self.encryptor
            .next_run(filled().count(), uniques)
            .map(Some)
            .map_err(|(n, error)| (filled().nth(n).map_or(0, |(place, _)| place), error))
    }

    /// Seals frames that sealing makes longer by a constant, each planned where it is sealed. Returns how many these were,
    /// and their bytes.
    fn seal_run(
        &self,
        frames: &[&[u8]],
        mut out: &mut [u8],
        run: Option<&Run>,
        uniques: &[Unique],
    ) -> Result<(usize, usize), (usize, EncryptError)> {
        let (mut bytes, mut nonces) = (0, uniques.iter());
        for (place, frame) in frames.iter().enumerate() {
            let failed = |error| (place, error);
            let planned = &self.encryptor.plan(frame, &[]);
            match planned {
                Ok(Some(plan)) => {
                    let split = mem::take(&mut out).split_at_mut_checked(plan.sealed_len());
                    let (Some((sealed, behind)), Some(Run { key, kid }), Some(unique)) = (split, run, nonces.next())
                    else {
                        return Err(failed(EncryptError::Malformed));
                    };
                    out = behind;
                    bytes += plan.write_with(key, *kid, *unique, sealed).map_err(failed)?;
                }
                Ok(None) => {}
                Err(error) => return Err(failed(*error)),
            }
        }
        Ok((uniques.len(), bytes))
    }

    fn plan_stretch<'p, 'o>(
        &'p self,
        rest: &mut Unsealed<'p, 'o>,
        stretch: usize,
        planned: &mut Vec<(usize, SealPlan<'p>, &'o mut [u8])>,
    ) {
        for _ in 0..stretch {
            let Some(frame) = rest.frames.next() else { return };
            let at = rest.lens.len();
            match self.encryptor.plan(frame, &[]) {
                Ok(Some(plan)) => {
                    let len = plan.sealed_len();
                    let Some(place) = rest.place(len) else {
                        rest.failed = Some((at, EncryptError::Malformed));
                        return;
                    };
                    rest.lens.push(len);
                    planned.push((at, plan, place));
                }
                Ok(None) => rest.lens.push(0),
                Err(error) => {
                    rest.failed = Some((at, error));
                    return;
                }
            }
        }
    }
}

impl<'a, 'o> Unsealed<'a, 'o> {
    /// The next places for so many bytes.
    fn place(&mut self, len: usize) -> Option<&'o mut [u8]> {
        let (place, behind) = mem::take(&mut self.out).split_at_mut_checked(len)?;
        self.out = behind;
        Some(place)
    }

    /// The next so many frames, and their places.
    fn take(&mut self, count: usize, overhead: usize) -> (&'a [&'a [u8]], &'o mut [u8]) {
        let all = self.frames.as_slice();
        let (frames, behind) = all.split_at(count.min(all.len()));
        self.frames = behind.iter();
        let before = self.lens.len();
        self.lens.extend(frames.iter().map(|frame| if frame.is_empty() { 0 } else { frame.len() + overhead }));
        let len = self.lens.iter().skip(before).sum();
        // The caller saw to it that there is room for all; without it, sealing fails for want of it.
        (frames, self.place(len).unwrap_or_default())
    }
}

/// Seals what was planned. Returns how many frames these were, and their bytes.
fn seal_planned(planned: &mut [(usize, SealPlan<'_>, &mut [u8])]) -> Result<(usize, usize), (usize, EncryptError)> {
    let mut bytes = 0;
    for (at, plan, place) in planned.iter_mut() {
        bytes += plan.write(place).map_err(|error| (*at, error))?;
    }
    Ok((planned.len(), bytes))
}
