//! A batch of one outgoing track.
#![deny(clippy::indexing_slicing)]

use std::mem;
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};

use super::{STRETCH, locked, side_by_side, stretch_of, workers};
use crate::error::EncryptError;
use crate::fork;
use crate::frame::encryptor::Encryptor;
use crate::frame::seal::Straight;
use crate::keyring::lookup::Run;
use crate::keyring::nonce::Unique;

/// A batch about to be sealed.
pub struct SealBatch<'a> {
    encryptor: &'a Encryptor,
    frames: Frames<'a>,
}

enum Frames<'a> {
    Straight(Straight, Vec<&'a [u8]>),
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
struct Stretch<'a, 'o> {
    first: usize,
    frames: &'a [&'a [u8]],
    out: &'o mut [u8],
    /// None where none of them is sealed: they need no key.
    run: Option<Run>,
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
        let frames = match self.straight() {
            Some(straight) => Frames::Straight(straight, frames),
            None => Frames::Sealed(self.seal_all(&frames, threads)?),
        };
        Ok(SealBatch { encryptor: self, frames })
    }

    fn seal_all(&self, frames: &[&[u8]], threads: usize) -> Result<Vec<Vec<u8>>, Failed> {
        let (mut plans, mut refused) = (Vec::with_capacity(frames.len()), None);
        for stretch in frames.chunks(STRETCH) {
            let _inside = fork::enter();
            for frame in stretch {
                match self.plan_keyed(frame) {
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
        let jobs = Mutex::new(plans.chunks(STRETCH).zip(sealed.chunks_mut(STRETCH)));
        side_by_side(workers(threads, frames), || {
            loop {
                let _inside = fork::enter();
                let Some((plans, places)) = locked(&jobs).next() else { return };
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
    pub fn room(&self) -> usize {
        match &self.frames {
            Frames::Sealed(sealed) => sealed.iter().map(Vec::len).sum(),
            Frames::Straight(straight, frames) => {
                let overhead = straight.most_overhead();
                frames.iter().map(|frame| if straight.seals(frame) { frame.len() + overhead } else { 0 }).sum()
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
        match &self.frames {
            Frames::Sealed(sealed) => {
                let mut rest = out;
                for sealed in sealed {
                    let (place, behind) =
                        rest.split_at_mut_checked(sealed.len()).ok_or((0, EncryptError::Malformed))?;
                    place.copy_from_slice(sealed);
                    rest = behind;
                }
                Ok(sealed.iter().map(Vec::len).collect())
            }
            Frames::Straight(straight, frames) => {
                let lens = Vec::with_capacity(frames.len());
                let unsealed = Mutex::new(Unsealed { frames: frames.iter(), out: &mut *out, lens, failed: None });
                let workers = workers(threads, frames);
                side_by_side(workers, || self.seal_stretches(*straight, &unsealed, stretch_of(workers, frames.len())));
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

    fn seal_stretches(&self, straight: Straight, unsealed: &Mutex<Unsealed<'_, '_>>, most: usize) {
        let mut uniques = Vec::with_capacity(most);
        loop {
            let _inside = fork::enter();
            let mut rest = locked(unsealed);
            if rest.failed.is_some() || rest.frames.len() == 0 {
                return;
            }
            // What fails here is said before another thread can ask for more: it is the first that is named.
            let taken = rest
                .take(most, self.encryptor, straight, &mut uniques)
                .inspect_err(|failed| rest.failed = Some(*failed));
            let Ok(stretch) = taken else { return };
            drop(rest);
            match stretch.seal(straight, &uniques) {
                Ok(bytes) => self.encryptor.count_sealed(uniques.len(), bytes),
                Err(place) => {
                    locked(unsealed).failed.get_or_insert((place, EncryptError::Malformed));
                }
            }
        }
    }
}

impl<'a, 'o> Unsealed<'a, 'o> {
    /// Takes the next frames, `most` of them at the most, and their places. Under one look-up for all it takes the key, and
    /// what each frame that is sealed gets alone. A frame without such is left for the next call, which fails there.
    fn take(
        &mut self,
        most: usize,
        encryptor: &Encryptor,
        straight: Straight,
        uniques: &mut Vec<Unique>,
    ) -> Result<Stretch<'a, 'o>, Failed> {
        let (all, first) = (self.frames.as_slice(), self.lens.len());
        let fitting = all.iter().take(most).take_while(|frame| !straight.seals(frame) || straight.fits(frame)).count();
        if fitting == 0 {
            return Err((first, encryptor.refused()));
        }
        let filled = || all.iter().enumerate().take(fitting).filter(|(_, frame)| straight.seals(frame));
        let place_of = |n| filled().nth(n).map_or(fitting, |(place, _)| place);
        uniques.clear();
        let run = match filled().count() {
            0 => None,
            count => Some(encryptor.next_run(count, uniques).map_err(|error| {
                let empty = place_of(0);
                encryptor.counters.empty.add(empty);
                (first + empty, error)
            })?),
        };
        let (frames, behind) = all.split_at(place_of(uniques.len()));
        encryptor.counters.empty.add(frames.len() - uniques.len());
        let (kid, mut nonces, mut len) = (run.as_ref().map_or(0, |run| run.kid), uniques.iter(), 0);
        self.lens.extend(frames.iter().map(|frame| {
            let overhead = |unique: &Unique| straight.overhead(kid, *unique);
            let sealed = if straight.seals(frame) { frame.len() + nonces.next().map_or(0, overhead) } else { 0 };
            len += sealed;
            sealed
        }));
        let place = mem::take(&mut self.out).split_at_mut_checked(len);
        let (out, rest) = place.ok_or((first, EncryptError::Malformed))?;
        (self.frames, self.out) = (behind.iter(), rest);
        Ok(Stretch { first, frames, out, run })
    }
}

impl Stretch<'_, '_> {
    /// Seals the frames and returns their bytes, or the place of one that is too long for the AEAD.
    fn seal(self, straight: Straight, uniques: &[Unique]) -> Result<usize, usize> {
        let Self { first, frames, mut out, run } = self;
        let Some(Run { key, kid }) = run else { return Ok(0) };
        let mut bytes = 0;
        let filled = frames.iter().enumerate().filter(|(_, frame)| straight.seals(frame));
        for ((place, frame), unique) in filled.zip(uniques) {
            let len = frame.len() + straight.overhead(kid, *unique);
            let sealed = mem::take(&mut out).split_at_mut_checked(len).and_then(|(sealed, behind)| {
                out = behind;
                straight.seal(&key, kid, *unique, frame, sealed)
            });
            sealed.ok_or(first + place)?;
            bytes += frame.len();
        }
        Ok(bytes)
    }
}
