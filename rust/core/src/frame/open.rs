//! Opens one received frame: parses it, finds the key, checks for a replay, runs the AEAD, marks the frame as seen.

use std::borrow::Cow;
use std::ops::Range;

use super::state::ReceiverState;
use crate::codec::{Clear, annexb, copy_clear};
use crate::error::{ApiMisuse, DecryptError};
use crate::keyring::{Candidate, Key, LOCKED_AEAD_MAX, NamedKey, NonceInput, Opened, Pending, ReadyKeys};
use crate::wire::envelope::Envelope;
use crate::wire::{IvParts, Wire, footer, sframe, trailer};

/// The parts of a sealed frame, as parsed before any key is looked up.
pub(super) struct FrameParts<'a> {
    /// The clear bytes, which start the opened frame too.
    pub(super) clear: &'a [u8],
    pub(super) aad: Cow<'a, [u8]>,
    /// The sealed part without escapes. `ciphertext` and `tag` are ranges in it.
    pub(super) body: Cow<'a, [u8]>,
    pub(super) ciphertext: Range<usize>,
    pub(super) tag: Range<usize>,
    pub(super) kid: u64,
    pub(super) nonce_input: NonceInput,
}

/// A parsed frame.
pub struct OpenPlan<'a> {
    pub(super) receiver: &'a ReceiverState,
    pub(super) parts: FrameParts<'a>,
}

/// The outcome of one key on a frame ahead of its turn. An attempt marks, counts and ratchets nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The serial of the key that was tried, as in [`Candidate`].
    pub(super) serial: u64,
    pub(super) opened: bool,
}

/// The parts of a frame without escapes, as the AEAD reads them.
#[derive(Clone, Copy)]
pub(super) struct BareParts<'a> {
    clear: &'a [u8],
    aad: &'a [u8],
    ciphertext: &'a [u8],
    tag: &'a [u8],
    pub(super) kid: u64,
    pub(super) nonce_input: NonceInput,
}

/// A layout without escapes and without an envelope: all parts lie in the frame, and its first byte determines the
/// length of the opened frame. Kept small, so that it stays in registers over a whole batch.
#[derive(Clone, Copy)]
pub(super) enum BareLayout {
    Trailer(Clear),
    Sframe { tag_len: usize },
}

impl BareLayout {
    /// Returns the track's layout, or `None` if frames may have escapes or an envelope.
    pub(super) fn of(receiver: &ReceiverState) -> Option<Self> {
        match (receiver.ring.profile().wire, receiver.clear, receiver.annexb) {
            (Wire::Trailer, Clear::AnnexB(..), _) | (Wire::Footer, ..) | (Wire::Sframe, _, Some(_)) => None,
            (Wire::Trailer, clear, _) => Some(Self::Trailer(clear)),
            (Wire::Sframe, _, None) => Some(Self::Sframe { tag_len: receiver.ring.suite().tag_len }),
        }
    }

    /// Returns the length of the opened frame. If the frame is malformed, the result is arbitrary, but not longer than
    /// that of any other frame of the same length.
    #[inline(always)]
    pub(super) fn opened_len(self, sealed: &[u8]) -> usize {
        let overhead = match self {
            Self::Trailer(_) => trailer::OVERHEAD,
            Self::Sframe { tag_len } => sealed.first().map_or(0, |config| sframe::head_len(*config)) + tag_len,
        };
        sealed.len().saturating_sub(overhead)
    }

    /// Parses a frame as [`OpenPlan::parse`] does, but faster. Returns `None` if the frame is empty or malformed.
    #[inline(always)]
    pub(super) fn parse(self, sealed: &[u8]) -> Option<BareParts<'_>> {
        match self {
            Self::Trailer(clear) => {
                let (clear, tail) = sealed.split_at_checked(clear.first(sealed)?)?;
                let IvParts { ciphertext, tag, iv, key_index } = trailer::parse(tail)?;
                let (kid, nonce_input) = (key_index.into(), NonceInput::Iv(iv.into()));
                Some(BareParts { clear, aad: clear, ciphertext, tag, kid, nonce_input })
            }
            Self::Sframe { tag_len } => {
                let sframe::SframeParts { header, head, ciphertext, tag } = sframe::parse(sealed, tag_len)?;
                let (kid, nonce_input) = (header.kid, NonceInput::Ctr(header.ctr));
                Some(BareParts { clear: &[], aad: head, ciphertext, tag, kid, nonce_input })
            }
        }
    }
}

impl BareParts<'_> {
    #[inline(always)]
    pub(super) fn frame_len(&self) -> usize {
        self.clear.len() + self.ciphertext.len()
    }

    /// Writes the frame to `out` and returns true if `key` opens it. On false the content of `out` is unspecified.
    #[inline(always)]
    fn opens(&self, key: &Key, out: &mut [u8]) -> bool {
        let Self { clear, aad, ciphertext, tag, nonce_input, .. } = *self;
        let Some((clear_place, plaintext)) = out.split_at_mut_checked(clear.len()) else { return false };
        copy_clear(clear_place, clear);
        key.aead.open(key.nonce(nonce_input), aad, ciphertext, tag, plaintext).is_ok()
    }

    /// See [`OpenPlan::open_with`].
    #[inline(always)]
    pub(super) fn open_with(&self, receiver: &ReceiverState, keys: &ReadyKeys<'_>, out: &mut [u8]) -> bool {
        let Some(key) = key_of_fresh(receiver, keys, self.kid, self.nonce_input) else { return false };
        self.opens(key, out) && accept(receiver, key, self.nonce_input)
    }

    /// Tries the frame ahead of its turn with the key that its key id names now. Returns `None` if the key is unknown
    /// or not derived yet.
    #[inline(always)]
    pub(super) fn attempt(&self, keys: &ReadyKeys<'_>, out: &mut [u8]) -> Option<Attempt> {
        let NamedKey { key, serial, .. } = keys.named(self.kid)?;
        Some(Attempt { serial, opened: self.opens(key?, out) })
    }
}

impl<'a> FrameParts<'a> {
    #[inline(always)]
    fn of_trailer(receiver: &ReceiverState, sealed: &'a [u8]) -> Option<Self> {
        let (clear_len, escaped) = receiver.clear.read(sealed);
        let (clear, tail) = sealed.split_at_checked(clear_len)?;
        let body = if escaped { annexb::unescape(tail) } else { Cow::Borrowed(tail) };
        Self::with_iv(clear, body, trailer::parse)
    }

    #[inline(always)]
    fn of_footer(sealed: &'a [u8]) -> Option<Self> {
        let (clear_len, escaped) = footer::clear_len(sealed)?;
        let (clear, tail) = sealed.split_at_checked(clear_len)?;
        let body = match escaped {
            true => annexb::unescape_strictly(tail, annexb::zeros_before(clear)),
            false => Cow::Borrowed(tail),
        };
        Self::with_iv(clear, body, footer::parse)
    }

    /// Parses `body`, the sealed part of a frame behind its clear header.
    #[inline(always)]
    fn with_iv(clear: &'a [u8], body: Cow<'a, [u8]>, parse: impl Fn(&[u8]) -> Option<IvParts<'_>>) -> Option<Self> {
        let IvParts { ciphertext, tag, iv, key_index } = parse(&body)?;
        let (from, to) = (ciphertext.len(), ciphertext.len() + tag.len());
        Some(Self {
            clear,
            aad: Cow::Borrowed(clear),
            body,
            ciphertext: 0..from,
            tag: from..to,
            kid: u64::from(key_index),
            nonce_input: NonceInput::Iv(iv.into()),
        })
    }

    #[inline(always)]
    fn of_sframe(receiver: &ReceiverState, sealed: &'a [u8], metadata: &'a [u8]) -> Option<Self> {
        let body = match receiver.annexb {
            Some(standard) => annexb::unescape(Envelope::open(standard, sealed)?),
            None => Cow::Borrowed(sealed),
        };
        let sframe::SframeParts { header, head, tag, .. } = sframe::parse(&body, receiver.ring.suite().tag_len)?;
        let (from, to) = (head.len(), body.len() - tag.len());
        let aad = match sealed.get(..from) {
            // Without an envelope the header lies in the frame itself: borrow it, and allocate nothing.
            Some(head) if metadata.is_empty() && receiver.annexb.is_none() => Cow::Borrowed(head),
            _ => Cow::Owned([head, metadata].concat()),
        };
        Some(Self {
            clear: &[],
            aad,
            ciphertext: from..to,
            tag: to..body.len(),
            kid: header.kid,
            nonce_input: NonceInput::Ctr(header.ctr),
            body,
        })
    }
}

/// Returns an already derived key for a frame. Returns `None` if there is none, or if the frame is replayed.
#[inline(always)]
fn key_of_fresh<'k>(
    receiver: &ReceiverState,
    keys: &'k ReadyKeys<'_>,
    kid: u64,
    nonce_input: NonceInput,
) -> Option<&'k Key> {
    keys.find(kid).filter(|key| !receiver.is_replayed(key.identity, nonce_input))
}

/// Marks a frame that `key` has opened as seen. Returns false if it is not of the track's sender, or if another thread
/// has marked it first.
#[inline(always)]
fn accept(receiver: &ReceiverState, key: &Key, nonce_input: NonceInput) -> bool {
    let accepted = receiver.is_of_sender(key.identity) && receiver.mark(key.identity, nonce_input);
    if accepted {
        receiver.record_success();
    }
    accepted
}

impl FrameParts<'_> {
    #[inline(always)]
    fn bare(&self) -> Option<BareParts<'_>> {
        let Self { clear, aad, body, ciphertext, tag, kid, nonce_input } = self;
        let (ciphertext, tag) = (body.get(ciphertext.clone())?, body.get(tag.clone())?);
        Some(BareParts { clear, aad, ciphertext, tag, kid: *kid, nonce_input: *nonce_input })
    }
}

impl<'a> OpenPlan<'a> {
    /// Parses a frame. Fails with [`DecryptError::Malformed`] if it is not of the layout.
    #[inline(always)]
    pub(super) fn parse(
        receiver: &'a ReceiverState,
        sealed: &'a [u8],
        metadata: &'a [u8],
    ) -> Result<Self, DecryptError> {
        let parts = match receiver.ring.profile().wire {
            Wire::Trailer if metadata.is_empty() => FrameParts::of_trailer(receiver, sealed),
            Wire::Footer if metadata.is_empty() => FrameParts::of_footer(sealed),
            Wire::Trailer | Wire::Footer => return Err(ApiMisuse::Metadata.into()),
            Wire::Sframe => FrameParts::of_sframe(receiver, sealed, metadata),
        };
        Ok(Self { receiver, parts: parts.ok_or(DecryptError::Malformed)? })
    }
}

impl OpenPlan<'_> {
    /// Returns the number of bytes that [`Self::open_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        self.parts.clear.len() + self.parts.ciphertext.len()
    }

    /// Writes the opened frame. On an error `out` is zeroed, unless its length is wrong.
    ///
    /// # Errors
    /// [`DecryptError`]; [`ApiMisuse::BufferLength`] if `out` is not [`Self::frame_len`] bytes long.
    #[inline(always)]
    pub fn open_into(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        if out.len() < LOCKED_AEAD_MAX && self.open_with(&self.receiver.ring.ready_keys(), out) {
            self.receiver.count_opened(1, out.len());
            return Ok(());
        }
        self.open_long(out)
    }

    /// Fast path: returns true if an already derived key opens a fresh frame. The caller counts it. On false nothing
    /// has changed except the bytes of `out`; [`Self::open_long`] then determines the error.
    #[inline(always)]
    pub(super) fn open_with(&self, keys: &ReadyKeys<'_>, out: &mut [u8]) -> bool {
        let FrameParts { kid, nonce_input, .. } = self.parts;
        let Some(key) = key_of_fresh(self.receiver, keys, kid, nonce_input) else { return false };
        self.opens(key, out) && accept(self.receiver, key, nonce_input)
    }

    /// Opens and counts the frame. Derives the key if needed, searches the ratchet window, and determines the error.
    #[inline(never)]
    pub(super) fn open_long(&self, out: &mut [u8]) -> Result<(), DecryptError> {
        if out.len() != self.frame_len() {
            return Err(ApiMisuse::BufferLength.into());
        }
        let result = self.open_uncounted(None, out);
        if result.is_ok() {
            self.receiver.count_opened(1, out.len());
        }
        result
    }

    /// Opens as [`Self::open_long`] does, except that the caller counts a frame that opens. Does not try the key with
    /// the serial `failed` again.
    fn open_uncounted(&self, failed: Option<u64>, out: &mut [u8]) -> Result<(), DecryptError> {
        let ring = &self.receiver.ring;
        let pending = ring.open(
            self.parts.kid,
            failed,
            |key| self.receiver.is_replayed(key, self.parts.nonce_input),
            |key| self.opens(key, out),
        );
        self.commit(pending).inspect_err(|_| out.fill(0))
    }

    fn find(&self) -> Result<Candidate, DecryptError> {
        self.receiver.ring.find(self.parts.kid)
    }

    /// Writes the frame to `out` and returns true if `key` opens it. On false the content of `out` is unspecified.
    #[inline(always)]
    pub(super) fn opens(&self, key: &Key, out: &mut [u8]) -> bool {
        self.parts.bare().is_some_and(|parts| parts.opens(key, out))
    }

    /// Marks an opened frame as seen, or counts the error. The caller counts frames that opened. The frames of a track
    /// are committed in order.
    fn commit(&self, pending: Result<Pending, DecryptError>) -> Result<(), DecryptError> {
        let (receiver, kid) = (self.receiver, self.parts.kid);
        let result = match pending {
            Err(error) => Err(error),
            Ok(Pending { opened: Ok(opened), .. }) => {
                if opened.steps > 0 {
                    receiver.counters.ratchets.add(opened.steps);
                }
                match receiver.is_of_sender(opened.identity) {
                    false => Err(DecryptError::SenderMismatch { kid }),
                    true if receiver.mark(opened.identity, self.parts.nonce_input) => Ok(()),
                    true => Err(DecryptError::Replayed { kid }),
                }
            }
            Ok(Pending { opened: Err(error), serial }) => {
                if !matches!(error, DecryptError::Replayed { .. }) {
                    receiver.record_failure(serial);
                }
                Err(error)
            }
        };
        match result {
            Ok(()) => receiver.record_success(),
            Err(error) => receiver.count(error),
        }
        result
    }
}

impl<'a> OpenPlan<'a> {
    /// See [`BareParts::attempt`].
    pub(super) fn attempt(&self, keys: &ReadyKeys<'_>, out: &mut [u8]) -> Option<Attempt> {
        self.parts.bare()?.attempt(keys, out)
    }

    /// Tries the frame ahead of its turn, without a lock during the AEAD. Derives the key if needed. `cached` keeps the
    /// key for the next frame of the same sender. Returns `None` if the key is unknown.
    pub(super) fn attempt_long(&self, cached: &mut Option<(u64, Candidate)>, out: &mut [u8]) -> Option<Attempt> {
        let kid = self.parts.kid;
        if cached.as_ref().is_none_or(|(known, _)| *known != kid) {
            *cached = self.find().ok().map(|candidate| (kid, candidate));
        }
        let (_, candidate) = cached.as_ref()?;
        Some(Attempt { serial: candidate.serial, opened: self.opens(&candidate.key, out) })
    }

    /// Opens the frame in its turn, with the result that a single call would have. An `attempt` is used if the key id
    /// still names the key that was tried. The caller counts a frame that opens. Sets `keys` to `None`, which releases
    /// the ring's lock, before it calls the ring.
    pub(super) fn finish(
        &self,
        attempt: Option<Attempt>,
        keys: &mut Option<ReadyKeys<'a>>,
        out: &mut [u8],
    ) -> Result<(), DecryptError> {
        let (ring, kid) = (&self.receiver.ring, self.parts.kid);
        let named = keys.get_or_insert_with(|| ring.ready_keys()).named(kid);
        let pending = match (&attempt, named) {
            (Some(attempt), Some(NamedKey { key: Some(key), serial, is_alone })) if attempt.serial == serial => {
                let identity = key.identity;
                match attempt.opened {
                    true => Some(Pending { opened: Ok(Opened { identity, steps: 0 }), serial }),
                    false if is_alone && !ring.can_search() => {
                        let error = DecryptError::AuthenticationFailed { kid };
                        Some(Pending { opened: Err(error), serial })
                    }
                    false => None,
                }
            }
            _ => None,
        };
        match pending {
            Some(pending) => self.commit(Ok(pending)).inspect_err(|_| out.fill(0)),
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
    use crate::codec::Codec;
    use crate::frame::{Decryptor, Encryptor};
    use crate::keyring::{KeyRing, MlsKid, Options};
    use crate::profile::{LIVEKIT, Profile, SFRAME};
    use crate::secret::{Kdf, Secret};
    use crate::wire::Wire;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

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
        let candidate = plan.find().unwrap();
        set(10);
        let opens = |key: &_| plan.opens(key, &mut [0; 6]);
        assert!(bob.open_candidate(plan.parts.kid, &candidate, None, |_| false, opens).opened.is_ok());
        assert_eq!(decryptor.decrypt(&encryptor.encrypt(b"after").unwrap()).unwrap(), b"after");
    }

    /// Returns a receiver's ring, and frames that its sender has sealed: one in each step of the ratchet. The step of
    /// the receiver's ring comes first.
    fn frames_of_steps(profile: &'static Profile, steps: usize) -> (Arc<KeyRing>, Vec<Vec<u8>>) {
        // Each sender has a key of its own: one process seals with an SFrame key in one ring only.
        static SENDERS: AtomicU8 = AtomicU8::new(1);
        let secret = Secret::new(&[SENDERS.fetch_add(1, Ordering::Relaxed); 16], Kdf::Random);
        let ratchet_bits = if profile.wire == Wire::Sframe { 4 } else { 0 };
        let options = Options { ratchet_window: 4, ratchet_bits, ..Options::default() };
        let [sender, receiver] = [(); 2].map(|()| {
            let ring = Arc::new(KeyRing::new(profile, options).unwrap());
            ring.set(0, &secret).unwrap();
            ring
        });
        let encryptor = Encryptor::new(Arc::clone(&sender), Codec::Opus).unwrap();
        let frames = (0..=steps).map(|step| {
            if step > 0 {
                sender.ratchet(sender.sending_key_id()).unwrap();
            }
            encryptor.encrypt(b"picture").unwrap()
        });
        let frames = frames.collect();
        (receiver, frames)
    }

    #[test]
    fn a_frame_opens_while_another_track_follows_the_same_ratchet() {
        for profile in [&LIVEKIT, &SFRAME] {
            // The step of the frame, the step that the other track follows, and the attempt during which it does.
            for (step, other_step) in [(1, 1), (2, 1), (3, 2)] {
                for attempt in 0..=step {
                    let (ring, frames) = frames_of_steps(profile, step);
                    let [track, other] =
                        [(); 2].map(|()| Decryptor::new(Arc::clone(&ring), Codec::Opus, None).unwrap());
                    let plan = track.plan(&frames[step], &[]).unwrap().unwrap();
                    let mut attempts = 0;
                    let pending = ring.open(
                        plan.parts.kid,
                        None,
                        |_| false,
                        |key| {
                            if attempts == attempt {
                                other.decrypt(&frames[other_step]).unwrap();
                            }
                            attempts += 1;
                            plan.opens(key, &mut [0; 7])
                        },
                    );
                    let opened = pending.map(|pending| pending.opened.is_ok());
                    let case = (profile.name, step, other_step, attempt);
                    assert_eq!((opened, case), (Ok(true), case));
                }
            }
        }
    }
}
