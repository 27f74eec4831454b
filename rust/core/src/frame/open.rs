//! One received frame, from its parts to its bytes: find the key, look for a replay, AEAD, mark.

use std::borrow::Cow;
use std::ops::Range;

use crate::codec::copy_clear;
use crate::error::DecryptError;
use crate::frame::decryptor::Decryptor;
use crate::keyring::key::{Identity, Key};
use crate::keyring::lookup::{AtHand, Found, Named, Opened, SHORT};
use crate::keyring::nonce::Unique;

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

/// The outcome of one key on a frame whose turn has not come. Nothing is marked, counted or ratcheted by it.
pub(crate) struct Attempt {
    /// Of the key, as in [`Found`].
    serial: u64,
    opened: bool,
}

/// The outcome of a frame that is neither marked nor counted yet.
struct Unsettled {
    opened: Result<Opened, DecryptError>,
    /// Of the key that was tried, as in [`Found`].
    serial: u64,
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
        let opened = !self.is_replayed(identity)
            && self.opens(key, out)
            && self.decryptor.is_of_sender(identity)
            && self.mark(identity);
        if opened {
            self.decryptor.settled_well();
        }
        opened
    }

    #[inline(never)]
    pub(crate) fn open_long(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        let result = self.open_uncounted(None, out);
        if result.is_ok() {
            self.decryptor.count_opened(1, out.len());
        }
        result
    }

    /// Opens as [`Self::open_long`] does; the caller counts a frame that opens. The key with the serial `failed` is not
    /// tried again.
    fn open_uncounted(&self, failed: Option<u64>, out: &mut [u8]) -> Result<(), DecryptError> {
        let unsettled = self.find().map(|found| {
            let replayed = DecryptError::Replayed { kid: self.parts.kid };
            // A frame that was seen opens nothing, and takes no ratchet step. Anybody can claim the nonce of another frame, so
            // it counts as seen only if it authenticates.
            let is_claimed = self.is_replayed(found.key.identity);
            if is_claimed && self.opens(&found.key, out) {
                return Unsettled::refused(replayed, &found);
            }
            let (has_failed, mut is_seen) = (is_claimed || failed == Some(found.serial), false);
            let unsettled = self.open_found(&found, |key| {
                let is_first = key.serial == found.key.serial;
                if is_seen || is_first && has_failed || !self.opens(key, out) {
                    return false;
                }
                is_seen = !is_first && self.is_replayed(key.identity);
                !is_seen
            });
            if is_seen { Unsettled::refused(replayed, &found) } else { unsettled }
        });
        self.settle(unsettled).inspect_err(|_| out.fill(0))
    }

    fn find(&self) -> Result<Found, DecryptError> {
        self.decryptor.ring.find(self.parts.kid)
    }

    fn open_found(&self, found: &Found, opens: impl FnMut(&Key) -> bool) -> Unsettled {
        let kid = self.parts.kid;
        match self.decryptor.ring.open(kid, found, opens) {
            Some(opened) => Unsettled { opened: Ok(opened), serial: found.serial },
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

    /// Marks an opened frame as seen, or counts why there is none. The caller counts frames that opened. The frames of a
    /// track are settled in order.
    fn settle(&self, unsettled: Result<Unsettled, DecryptError>) -> Result<(), DecryptError> {
        let (decryptor, kid) = (self.decryptor, self.parts.kid);
        let result = match unsettled {
            Err(error) => Err(error),
            Ok(Unsettled { opened: Ok(opened), .. }) => {
                if opened.steps > 0 {
                    decryptor.counters.ratchets.add(opened.steps);
                }
                match decryptor.is_of_sender(opened.identity) {
                    false => Err(DecryptError::SenderMismatch { kid }),
                    true if self.mark(opened.identity) => Ok(()),
                    true => Err(DecryptError::Replayed { kid }),
                }
            }
            Ok(Unsettled { opened: Err(error), serial }) => {
                if !matches!(error, DecryptError::Replayed { .. }) {
                    decryptor.failed(serial);
                }
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
        Self { opened: Err(error), serial: found.serial }
    }
}

impl<'a> OpenPlan<'a> {
    /// Tries the frame ahead of its turn, with the key that it names now. Returns None if that key is still to be derived.
    pub(crate) fn attempt(&self, keys: &AtHand<'_>, out: &mut [u8]) -> Option<Attempt> {
        let Named { key, serial, .. } = keys.named(self.parts.kid)?;
        Some(Attempt { serial, opened: self.opens(key?, out) })
    }

    /// Tries the frame ahead of its turn without a lock, with a key that may have to be derived. `met` keeps the key for
    /// the next frame of the same sender.
    pub(crate) fn attempt_long(&self, met: &mut Option<(u64, Found)>, out: &mut [u8]) -> Option<Attempt> {
        let kid = self.parts.kid;
        if met.as_ref().is_none_or(|(known, _)| *known != kid) {
            *met = self.find().ok().map(|found| (kid, found));
        }
        let (_, found) = met.as_ref()?;
        Some(Attempt { serial: found.serial, opened: self.opens(&found.key, out) })
    }

    /// Opens the frame in its turn, as a single call does. An `attempt` counts if the frame names the same key now as it did
    /// then. The caller counts a frame that opens. `keys` is cleared where the ring is needed beyond them.
    pub(crate) fn finish(
        &self,
        attempt: Option<Attempt>,
        keys: &mut Option<AtHand<'a>>,
        out: &mut [u8],
    ) -> Result<(), DecryptError> {
        let (ring, kid) = (&self.decryptor.ring, self.parts.kid);
        let named = keys.get_or_insert_with(|| ring.at_hand()).named(kid);
        let unsettled = match (&attempt, named) {
            (Some(attempt), Some(Named { key: Some(key), serial, is_alone })) if attempt.serial == serial => {
                let identity = key.identity;
                match attempt.opened {
                    true => Some(Unsettled { opened: Ok(Opened { identity, steps: 0 }), serial }),
                    false if is_alone && !ring.searches() => {
                        let error = DecryptError::AuthenticationFailed { kid };
                        Some(Unsettled { opened: Err(error), serial })
                    }
                    false => None,
                }
            }
            _ => None,
        };
        match unsettled {
            Some(unsettled) => self.settle(Ok(unsettled)).inspect_err(|_| out.fill(0)),
            None => {
                *keys = None;
                self.open_uncounted(attempt.filter(|attempt| !attempt.opened).map(|attempt| attempt.serial), out)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::frame::encryptor::Encryptor;
    use crate::keyring::KeyRing;
    use crate::keyring::kid::MlsKid;
    use crate::keyring::options::Options;
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
