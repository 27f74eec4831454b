//! One received frame, from its parts to its bytes: find the key, look for a replay, AEAD, mark.

use std::borrow::Cow;
use std::ops::Range;

use crate::codec::copy_clear;
use crate::decryptor::Decryptor;
use crate::error::DecryptError;
use crate::key::{Identity, Key};
use crate::lookup::{AtHand, Found, Opened, SHORT};
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

/// What came of a frame before its turn: it is neither marked nor counted.
pub(crate) struct Unsettled {
    opened: Result<Opened, DecryptError>,
    /// Of the key that was tried, as in [`Found`].
    serial: u64,
    /// The key that opened it, or one under which it was seen.
    identity: Identity,
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
        if out.len() < SHORT && self.open_with(&self.decryptor.ring.at_hand(), out) {
            self.decryptor.count_opened(1, out.len());
            return Ok(());
        }
        self.open_long(out)
    }

    /// Opens with the key that the frame names, if that is at hand and opens it, and the frame is new: the caller counts it.
    /// False: nothing has happened, and [`Self::open_long`] finds out what there is to say.
    #[inline(always)]
    pub(crate) fn open_with(&self, keys: &AtHand<'_>, out: &mut [u8]) -> bool {
        let Some(key) = keys.find(self.parts.kid) else { return false };
        let identity = key.identity;
        let opened = !self.is_replayed(identity) && self.opens(key, out) && self.mark(identity);
        if opened {
            self.decryptor.settled_well();
        }
        opened
    }

    #[inline(never)]
    pub(crate) fn open_long(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let unsettled = self.find().map(|found| {
            let first = self.is_replayed(found.key.identity);
            if first && found.is_alone {
                return Unsettled::refused(DecryptError::Replayed { kid: self.parts.kid }, &found);
            }
            let mut seen = first.then_some(found.key.identity);
            let unsettled = self.open_found(&found, |key| {
                // A frame that was seen opens nothing, and takes no ratchet step.
                let replayed = if key.serial == found.key.serial { first } else { self.is_replayed(key.identity) };
                if replayed {
                    seen = Some(key.identity);
                }
                !replayed && self.opens(key, out)
            });
            match (&unsettled.opened, seen) {
                (Err(_), Some(identity)) => Unsettled { identity, ..unsettled },
                _ => unsettled,
            }
        });
        let result = self.settle(unsettled);
        match result {
            Ok(()) => self.decryptor.count_opened(1, out.len()),
            Err(_) => out.fill(0),
        }
        result
    }

    /// Writes the opened frame, of which it is not known yet whether it was opened before.
    #[inline(always)]
    pub(crate) fn open_unsettled(&self, keys: &AtHand<'_>, out: &mut [u8]) -> Option<Unsettled> {
        let key = keys.find(self.parts.kid)?;
        let (serial, identity) = (key.serial, key.identity);
        self.opens(key, out).then_some(Unsettled { opened: Ok(Opened { identity, steps: 0 }), serial, identity })
    }

    /// As [`Self::open_unsettled`], with keys too that are to be derived.
    ///
    /// # Errors
    /// [`DecryptError::UnknownKey`].
    pub(crate) fn open_unsettled_long(&self, out: &mut [u8]) -> Result<Unsettled, DecryptError> {
        Ok(self.open_found(&self.find()?, |key| self.opens(key, out)))
    }

    fn find(&self) -> Result<Found, DecryptError> {
        self.decryptor.ring.find(self.parts.kid)
    }

    fn open_found(&self, found: &Found, opens: impl FnMut(&Key) -> bool) -> Unsettled {
        let kid = self.parts.kid;
        match self.decryptor.ring.open(kid, found, opens) {
            Some(opened) => Unsettled { identity: opened.identity, opened: Ok(opened), serial: found.serial },
            None => Unsettled::refused(DecryptError::AuthenticationFailed { kid }, found),
        }
    }

    #[inline(always)]
    fn is_replayed(&self, key: Identity) -> bool {
        self.decryptor.replay().is_some_and(|window| window.has(key, self.parts.unique))
    }

    /// Marks an authentic frame. False: another thread was first with the same one.
    #[inline(always)]
    fn mark(&self, key: Identity) -> bool {
        self.decryptor.replay().is_none_or(|mut window| window.mark(key, self.parts.unique))
    }

    /// Writes the frame, if `key` opens it; what is in `out` otherwise is nobody's.
    #[inline(always)]
    fn opens(&self, key: &Key, out: &mut [u8]) -> bool {
        let Parts { clear, aad, body, ciphertext, tag, unique, .. } = &self.parts;
        let (Some(ciphertext), Some(tag)) = (body.get(ciphertext.clone()), body.get(tag.clone())) else {
            return false;
        };
        let Some((clear_place, plaintext)) = out.split_at_mut_checked(clear.len()) else { return false };
        copy_clear(clear_place, clear);
        key.aead.open(key.nonce(*unique), aad, ciphertext, tag, plaintext).is_ok()
    }

    /// Marks an opened frame as seen, or counts why there is none: the caller counts those that opened. The frames of a
    /// track are settled in order.
    pub(crate) fn settle(&self, unsettled: Result<Unsettled, DecryptError>) -> Result<(), DecryptError> {
        let (decryptor, kid) = (self.decryptor, self.parts.kid);
        let result = match unsettled {
            Err(error) => Err(error),
            Ok(Unsettled { opened: Ok(opened), .. }) => {
                if opened.steps > 0 {
                    decryptor.counters.ratchets.add(opened.steps);
                }
                if self.mark(opened.identity) { Ok(()) } else { Err(DecryptError::Replayed { kid }) }
            }
            // A frame that was seen is refused as that, forged or not.
            Ok(Unsettled { identity, .. }) if self.is_replayed(identity) => Err(DecryptError::Replayed { kid }),
            Ok(Unsettled { opened: Err(error), serial, .. }) => {
                decryptor.failed(serial);
                Err(error)
            }
        };
        match result {
            Ok(()) => decryptor.settled_well(),
            Err(error) => decryptor.count(error),
        }
        result
    }
}

impl Unsettled {
    fn refused(error: DecryptError, found: &Found) -> Self {
        Self { opened: Err(error), serial: found.serial, identity: found.key.identity }
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
        let plan = decryptor.plan(&before, &[]).unwrap().unwrap();
        let found = plan.find().unwrap();
        set(10);
        assert!(plan.open_found(&found, |key| plan.opens(key, &mut [0; 6])).opened.is_ok());
        assert_eq!(decryptor.decrypt(&encryptor.encrypt(b"after").unwrap()).unwrap(), b"after");
    }
}
