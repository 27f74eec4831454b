//! One received frame, from its parts to its bytes: find the key, look for a replay, AEAD, mark.

use std::borrow::Cow;
use std::ops::Range;

use crate::decryptor::Decryptor;
use crate::error::DecryptError;
use crate::key::Key;
use crate::lookup::{Found, Opened, SHORT};
use crate::nonce::Unique;

/// Where the parts of a frame lie, before any key is looked at.
pub(crate) struct Parts<'a> {
    /// What stands in front of the opened frame as it is.
    pub(crate) clear: &'a [u8],
    pub(crate) aad: Cow<'a, [u8]>,
    /// The sealed part without escapes; ciphertext and tag lie in it.
    pub(crate) body: Cow<'a, [u8]>,
    pub(crate) ciphertext: Range<usize>,
    pub(crate) tag: Range<usize>,
    pub(crate) kid: u64,
    pub(crate) unique: Unique,
}

/// A parsed frame.
pub struct OpenPlan<'a> {
    pub(crate) decryptor: &'a Decryptor,
    pub(crate) parts: Parts<'a>,
}

/// A parsed frame whose key is at hand: where many are opened, and their order matters.
pub(crate) struct FoundPlan<'a> {
    plan: OpenPlan<'a>,
    found: Found,
}

/// A frame that has authenticated, and may have been opened before.
pub(crate) struct Unsettled(Opened);

impl Decryptor {
    /// As [`Self::plan`], and finds the key.
    pub(crate) fn plan_found<'a>(&'a self, sealed: &'a [u8]) -> Result<Option<FoundPlan<'a>>, DecryptError> {
        let Some(plan) = self.plan(sealed, &[])? else { return Ok(None) };
        let found = plan.find().inspect_err(|error| self.count(*error))?;
        Ok(Some(FoundPlan { plan, found }))
    }
}

impl OpenPlan<'_> {
    /// Bytes that [`Self::open_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        self.parts.clear.len() + self.parts.ciphertext.len()
    }

    /// Writes the opened frame, or clears `out` and says why not.
    ///
    /// # Errors
    /// [`DecryptError`].
    #[inline(always)]
    pub fn open_into(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        if out.len() < SHORT && self.open_short(out) {
            self.decryptor.settled_well();
            self.decryptor.count_opened(1, out.len());
            return Ok(());
        }
        self.open_long(out)
    }

    /// Opens with the key that the frame names, if that is at hand and opens it, and the frame is new. Otherwise nothing
    /// has happened, and [`Self::open_long`] finds out what there is to say.
    #[inline(always)]
    fn open_short(&self, out: &mut [u8]) -> bool {
        let opened = self.decryptor.ring.find_within(self.parts.kid, |key, origin| {
            if self.is_replayed(origin) || !self.opens(key, out) {
                return None;
            }
            Some(origin)
        });
        matches!(opened, Some(Some(origin)) if self.mark(origin))
    }

    #[inline(never)]
    fn open_long(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let result = self.find().inspect_err(|error| self.decryptor.count(*error)).and_then(|found| {
            let opened = self.open_unsettled(&found, out);
            self.settle(&found, opened)
        });
        match result {
            Ok(()) => self.decryptor.count_opened(1, out.len()),
            Err(_) => out.fill(0),
        }
        result
    }

    fn find(&self) -> Result<Found, DecryptError> {
        let kid = self.parts.kid;
        let found = self.decryptor.ring.find(kid)?;
        if self.is_replayed(found.origin) { Err(DecryptError::Replayed { kid }) } else { Ok(found) }
    }

    #[inline(always)]
    fn is_replayed(&self, origin: u64) -> bool {
        let Parts { kid, unique, .. } = &self.parts;
        self.decryptor.replay().is_some_and(|window| window.has((origin, *kid), *unique))
    }

    /// Marks an authentic frame. False: another thread was first with the same one.
    #[inline(always)]
    fn mark(&self, origin: u64) -> bool {
        let Parts { kid, unique, .. } = &self.parts;
        self.decryptor.replay().is_none_or(|mut window| window.mark((origin, *kid), *unique))
    }

    /// Writes the frame, if `key` opens it; what is in `out` otherwise is nobody's.
    #[inline(always)]
    fn opens(&self, key: &Key, out: &mut [u8]) -> bool {
        let Parts { clear, aad, body, ciphertext, tag, unique, .. } = &self.parts;
        let (Some(ciphertext), Some(tag)) = (body.get(ciphertext.clone()), body.get(tag.clone())) else {
            return false;
        };
        let Some((clear_place, plaintext)) = out.split_at_mut_checked(clear.len()) else { return false };
        clear_place.copy_from_slice(clear);
        key.aead.open(key.nonce(*unique), aad, ciphertext, tag, plaintext).is_ok()
    }

    /// Writes the opened frame, of which it is not known yet whether it was opened before.
    fn open_unsettled(&self, found: &Found, out: &mut [u8]) -> Result<Unsettled, DecryptError> {
        let kid = self.parts.kid;
        let opened = self.decryptor.ring.open(kid, found, |key| self.opens(key, out));
        opened.map(Unsettled).ok_or(DecryptError::AuthenticationFailed { kid })
    }

    /// Marks an opened frame as seen, or counts why there is none: the caller counts those that opened.
    fn settle(&self, found: &Found, opened: Result<Unsettled, DecryptError>) -> Result<(), DecryptError> {
        let (decryptor, kid) = (self.decryptor, self.parts.kid);
        // In a batch a frame is planned before those in front of it are marked. Where it does not open, it gets the answer
        // of a single call: a frame that was seen is refused as that, forged or not.
        let replayed = |error| if self.is_replayed(found.origin) { DecryptError::Replayed { kid } } else { error };
        let result = opened.map_err(replayed).and_then(|Unsettled(opened)| {
            if opened.steps > 0 {
                decryptor.counters.ratchets.add(opened.steps);
            }
            if self.mark(opened.origin) { Ok(()) } else { Err(DecryptError::Replayed { kid }) }
        });
        match result {
            Ok(()) => decryptor.settled_well(),
            Err(error) => {
                if let DecryptError::AuthenticationFailed { .. } = error {
                    decryptor.failed(found.serial);
                }
                decryptor.count(error);
            }
        }
        result
    }
}

impl FoundPlan<'_> {
    pub(crate) fn frame_len(&self) -> usize {
        self.plan.frame_len()
    }

    /// See [`OpenPlan::open_unsettled`].
    pub(crate) fn open_unsettled(&self, out: &mut [u8]) -> Result<Unsettled, DecryptError> {
        self.plan.open_unsettled(&self.found, out)
    }

    /// See [`OpenPlan::settle`]. The frames of a track are settled in order.
    pub(crate) fn settle(&self, opened: Result<Unsettled, DecryptError>) -> Result<(), DecryptError> {
        self.plan.settle(&self.found, opened)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::encryptor::Encryptor;
    use crate::keyring::KeyRing;
    use crate::mls::MlsKid;
    use crate::options::Options;
    use crate::profile::SFRAME;
    use crate::secret::{Kdf, Secret};
    use std::sync::Arc;

    #[test]
    fn a_frame_that_opens_while_its_epoch_is_replaced_leaves_nothing_behind() {
        let ring = || Arc::new(KeyRing::new(&SFRAME, Options::default()).unwrap());
        let (alice, bob) = (ring(), ring());
        let set = |number| {
            for (ring, sender_index) in [(&alice, 0), (&bob, 1)] {
                let kid = MlsKid { epoch: 1, epoch_bits: 4, sender_index, sender_bits: 1, context: 0 };
                ring.set_epoch(&Secret::new(&[number; 16], Kdf::Random), &kid, 0).unwrap();
            }
        };
        let encryptor = Encryptor::new(Arc::clone(&alice), Codec::Opus).unwrap();
        let decryptor = Decryptor::new(Arc::clone(&bob), Codec::Opus, None).unwrap();
        set(9);
        let before = encryptor.encrypt(b"before").unwrap();
        let plan = decryptor.plan_found(&before).unwrap().unwrap();
        set(10);
        assert!(plan.open_unsettled(&mut [0; 6]).is_ok());
        assert_eq!(decryptor.decrypt(&encryptor.encrypt(b"after").unwrap()).unwrap(), b"after");
    }
}
