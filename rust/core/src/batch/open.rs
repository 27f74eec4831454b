//! A batch of one incoming track.

use std::collections::BTreeMap;
use std::mem;
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};

use super::{locked, side_by_side, stretch_of, workers};
use crate::decryptor::Decryptor;
use crate::error::DecryptError;
use crate::opening::{FoundPlan, Unsettled};

/// A batch about to be opened.
pub struct OpenBatch<'a> {
    decryptor: &'a Decryptor,
    sealed: Vec<&'a [u8]>,
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
        let workers = workers(threads, &self.sealed);
        let (lens, results) = if workers == 1 { self.open_in_turn(out) } else { self.open_beside(out, workers) };
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

    /// One frame after the other, as single calls do.
    fn open_in_turn(&self, mut out: &mut [u8]) -> (Vec<usize>, Vec<Result<usize, DecryptError>>) {
        let mut lens = Vec::with_capacity(self.sealed.len());
        let opened = self.sealed.iter().map(|sealed| {
            let planned = self.decryptor.with_plan(sealed, &[], |plan| {
                let len = plan.frame_len();
                lens.push(len);
                let place = mem::take(&mut out).split_at_mut_checked(len);
                let (place, behind) = place.ok_or(DecryptError::Malformed)?;
                out = behind;
                plan.open_into(place).map(|()| len)
            });
            match planned {
                Ok(Some(opened)) => opened,
                empty_or_malformed => {
                    lens.push(0);
                    empty_or_malformed.map(|_| 0)
                }
            }
        });
        let results = opened.collect();
        (lens, results)
    }

    /// On several threads, and settled in order all the same.
    fn open_beside(&self, out: &mut [u8], workers: usize) -> (Vec<usize>, Vec<Result<usize, DecryptError>>) {
        let count = self.sealed.len();
        let unopened = Mutex::new(Unopened {
            sealed: self.sealed.iter(),
            out,
            lens: Vec::with_capacity(count),
            stretches: 0,
            results: Vec::with_capacity(count),
            settled: 0,
            waiting: BTreeMap::new(),
        });
        side_by_side(workers, || self.open_stretches(&unopened, stretch_of(workers, count)));
        let Unopened { lens, results, .. } = unopened.into_inner().unwrap_or_else(PoisonError::into_inner);
        (lens, results)
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
