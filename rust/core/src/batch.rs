//! Many frames of one track in one call: planned in order, sealed or opened side by side, settled in order.
//!
//! What depends on the order of frames (nonces, what H.264 holds back, the replay window, failures in a row) happens in
//! the order of the batch, whatever the number of threads, so a batch comes to what single calls would have come to.
#![deny(clippy::indexing_slicing)]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::decryptor::{Decryptor, OpenPlan, Unsettled};
use crate::encryptor::{Encryptor, SealPlan};
use crate::error::{DecryptError, EncryptError};

/// Fewer frames than this are not worth a thread.
const LEAST_PER_THREAD: usize = 64;

/// A batch about to be sealed.
pub struct SealBatch<'a> {
    plans: Vec<Option<SealPlan<'a>>>,
    /// Sealed already, where only sealing tells how long a frame gets (escapes).
    sealed: Option<Vec<Vec<u8>>>,
}

/// A batch about to be opened.
pub struct OpenBatch<'a> {
    plans: Vec<Result<Option<OpenPlan<'a>>, DecryptError>>,
}

impl Encryptor {
    /// Looks at every frame, takes the key and a nonce for each, and seals where only that tells the length.
    ///
    /// # Errors
    /// The first frame that cannot be sealed, by its place, and why. Nothing of the batch may be sent then.
    pub fn plan_batch<'a>(
        &'a self,
        frames: impl Iterator<Item = &'a [u8]>,
        threads: usize,
    ) -> Result<SealBatch<'a>, (usize, EncryptError)> {
        let plans: Result<Vec<_>, _> =
            frames.enumerate().map(|(place, frame)| self.plan(frame, &[]).map_err(|error| (place, error))).collect();
        let plans = plans?;
        if self.keeps_lengths() {
            return Ok(SealBatch { plans, sealed: None });
        }
        let mut sealed: Vec<Result<Vec<u8>, EncryptError>> = plans.iter().map(|_| Ok(Vec::new())).collect();
        let jobs = plans.iter().zip(&mut sealed).collect();
        side_by_side(threads, jobs, |(plan, out)| {
            if let Some(plan) = plan {
                *out = plan.seal();
            }
        });
        let sealed: Result<Vec<_>, _> =
            sealed.into_iter().enumerate().map(|(place, sealed)| sealed.map_err(|error| (place, error))).collect();
        Ok(SealBatch { plans, sealed: Some(sealed?) })
    }
}

impl SealBatch<'_> {
    /// The bytes of each sealed frame, in order.
    #[must_use]
    pub fn lens(&self) -> Vec<usize> {
        match &self.sealed {
            Some(sealed) => sealed.iter().map(Vec::len).collect(),
            None => self.plans.iter().map(|plan| plan.as_ref().map_or(0, SealPlan::sealed_len)).collect(),
        }
    }

    /// Writes all sealed frames, one behind the other. `out` is as long as [`Self::lens`] add up to.
    ///
    /// # Errors
    /// As [`Encryptor::plan_batch`]; also where `out` has another length.
    pub fn seal_into(&self, out: &mut [u8], threads: usize) -> Result<(), (usize, EncryptError)> {
        let places = split(out, &self.lens()).ok_or((0, EncryptError::Malformed))?;
        if let Some(sealed) = &self.sealed {
            for (place, sealed) in places.into_iter().zip(sealed) {
                place.copy_from_slice(sealed);
            }
            return Ok(());
        }
        let mut results = vec![Ok(0); self.plans.len()];
        let jobs = self.plans.iter().zip(places).zip(&mut results).collect();
        side_by_side(threads, jobs, |((plan, place), result)| {
            if let Some(plan) = plan {
                *result = plan.seal_into(place);
            }
        });
        match results.into_iter().enumerate().find_map(|(place, result)| Some((place, result.err()?))) {
            Some(failed) => Err(failed),
            None => Ok(()),
        }
    }
}

impl Decryptor {
    /// Parses every frame and finds its key.
    pub fn plan_batch<'a>(&'a self, sealed: impl Iterator<Item = &'a [u8]>) -> OpenBatch<'a> {
        OpenBatch { plans: sealed.map(|frame| self.plan(frame, &[])).collect() }
    }
}

impl OpenBatch<'_> {
    /// Bytes that [`Self::open_into`] needs: what all frames come to if all of them open.
    #[must_use]
    pub fn room(&self) -> usize {
        self.lens().iter().sum()
    }

    fn lens(&self) -> Vec<usize> {
        let len = |plan: &Result<Option<OpenPlan<'_>>, _>| {
            plan.as_ref().ok().and_then(Option::as_ref).map(OpenPlan::frame_len)
        };
        self.plans.iter().map(|plan| len(plan).unwrap_or_default()).collect()
    }

    /// Writes the frames that open, one behind the other; one that does not is empty. Returns, for each, its bytes or why
    /// not. What of `out` lies behind them is cleared.
    pub fn open_into(&self, out: &mut [u8], threads: usize) -> Vec<Result<usize, DecryptError>> {
        let lens = self.lens();
        let mut opened: Vec<Result<Option<Unsettled>, DecryptError>> =
            self.plans.iter().map(|plan| plan.as_ref().map(|_| None).map_err(|error| *error)).collect();
        match split(out, &lens) {
            Some(places) => {
                let jobs = self.plans.iter().zip(places).zip(&mut opened).collect();
                side_by_side(threads, jobs, |((plan, place), opened)| {
                    if let Ok(Some(plan)) = plan {
                        *opened = plan.open_unsettled(place).map(Some);
                    }
                });
            }
            None => opened.iter_mut().for_each(|opened| *opened = Err(DecryptError::Malformed)),
        }
        let mut results = Vec::with_capacity(lens.len());
        let (mut from, mut to) = (0, 0);
        for ((plan, opened), len) in self.plans.iter().zip(opened).zip(lens) {
            let result = match (plan, opened) {
                (Ok(Some(plan)), Ok(Some(unsettled))) => plan.settle(Ok(unsettled), len).map(|()| len),
                (Ok(Some(plan)), Err(error)) => plan.settle(Err(error), len).map(|()| len),
                (Ok(_), _) => Ok(0),
                (Err(error), _) => Err(*error), // counted when it was planned
            };
            if result.is_ok() {
                if from != to {
                    out.copy_within(from..from + len, to);
                }
                to += len;
            }
            from += len;
            results.push(result);
        }
        if let Some(rest) = out.get_mut(to..) {
            rest.fill(0);
        }
        results
    }
}

/// The places of frames of these lengths, one behind the other. None: they do not fill `out`.
fn split<'a>(mut out: &'a mut [u8], lens: &[usize]) -> Option<Vec<&'a mut [u8]>> {
    let mut places = Vec::with_capacity(lens.len());
    for &len in lens {
        let (place, rest) = out.split_at_mut_checked(len)?;
        places.push(place);
        out = rest;
    }
    out.is_empty().then_some(places)
}

/// Does the jobs, in stretches of their order, with so many threads at the most; 0 is as many as there are cores.
fn side_by_side<J: Send>(threads: usize, mut jobs: Vec<J>, work: impl Fn(J) + Sync) {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let most = if threads == 0 { cores() } else { threads };
    let threads = most.min(jobs.len() / LEAST_PER_THREAD).max(1);
    let stretch = jobs.len().div_ceil(threads).max(1);
    let work = &work;
    thread::scope(|scope| {
        let mut refused = Vec::new();
        while jobs.len() > stretch {
            let rest = Arc::new(Mutex::new(jobs.split_off(jobs.len() - stretch)));
            let taken = Arc::clone(&rest);
            let stretch_of_work = move || taking(&taken).into_iter().for_each(work);
            if thread::Builder::new().spawn_scoped(scope, stretch_of_work).is_err() {
                refused.push(rest); // no thread to be had: it is done here
            }
        }
        jobs.into_iter().for_each(work);
        refused.iter().for_each(|rest| taking(rest).into_iter().for_each(work));
    });
}

fn taking<J>(jobs: &Mutex<Vec<J>>) -> Vec<J> {
    std::mem::take(&mut *jobs.lock().unwrap_or_else(PoisonError::into_inner))
}
