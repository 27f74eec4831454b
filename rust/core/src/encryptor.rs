//! One outgoing track.
//!
//! Bytes in, plan (clear bytes, key, nonce), AEAD, bytes out. A plan knows the exact length of what it will write, so
//! that a caller allocates once.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::annexb;
use crate::codec::{Clear, Codec, NotOfCodec, Prepared};
use crate::error::{EncryptError, KeyError};
use crate::keyring::{KeyRing, Sealing};
use crate::stats::{EncryptCounters, EncryptStats};
use crate::wire::trailer;

/// Parameter sets that may wait for their slice; real ones have some hundred bytes.
const MOST_HELD: usize = 16 * 1024;

/// The longest clear header that receivers up to libwebrtc m144 can represent.
const LONGEST_SAFE_HEADER: usize = 255;

/// Seals the frames of one outgoing track.
pub struct Encryptor {
    ring: Arc<KeyRing>,
    clear: Clear,
    /// Access units without a slice, waiting for the next frame (Annex B codecs only).
    held: Mutex<Vec<u8>>,
    counters: EncryptCounters,
}

/// A frame about to be sealed, with the nonce that is its alone. Dropping it wastes the nonce and nothing else.
pub struct SealPlan<'a> {
    encryptor: &'a Encryptor,
    frame: Prepared<'a>,
    sealing: Sealing,
}

impl Encryptor {
    /// An encryptor that seals with the ring's sending key, whichever that is when a frame comes.
    ///
    /// # Errors
    /// [`KeyError::UnsupportedCodec`].
    pub fn new(ring: Arc<KeyRing>, codec: Codec) -> Result<Self, KeyError> {
        let clear = ring.profile().clear(codec)?;
        Ok(Self { ring, clear, held: Mutex::default(), counters: EncryptCounters::default() })
    }

    /// Seals one frame. An empty frame stays empty. An H.264 or H.265 access unit without a slice (parameter sets
    /// alone) comes out empty too: it is held back and goes out in front of the next frame, since receivers do not
    /// agree on how to open it.
    ///
    /// # Errors
    /// [`EncryptError`]; nothing of the frame may be sent then.
    pub fn encrypt(&self, frame: &[u8]) -> Result<Vec<u8>, EncryptError> {
        match self.plan(frame)? {
            Some(plan) => plan.seal(),
            None => Ok(Vec::new()),
        }
    }

    /// Looks at a frame, takes the key and a nonce. None: there is nothing to send for it (see [`Self::encrypt`]).
    ///
    /// # Errors
    /// [`EncryptError`].
    pub fn plan<'a>(&'a self, frame: &'a [u8]) -> Result<Option<SealPlan<'a>>, EncryptError> {
        let Some(frame) = self.prepare(frame)? else { return Ok(None) };
        let sealing = self.ring.next().inspect_err(|error| match error {
            EncryptError::KeyExhausted { .. } => self.counters.key_exhausted.add(1),
            _ => self.counters.unknown_key.add(1),
        })?;
        Ok(Some(SealPlan { encryptor: self, frame, sealing }))
    }

    /// Seals one frame under an IV of the caller's choice, for this crate's vector tests.
    ///
    /// # Errors
    /// [`EncryptError`].
    #[cfg(feature = "hazmat")]
    pub fn encrypt_with_iv(&self, frame: &[u8], iv: [u8; 12]) -> Result<Vec<u8>, EncryptError> {
        let Some(mut plan) = self.plan(frame)? else { return Ok(Vec::new()) };
        plan.sealing.nonce = iv;
        plan.seal()
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> EncryptStats {
        self.counters.snapshot()
    }

    /// The frame in the form in which it is sealed, with what was held back in front of it. None: empty, or held back.
    fn prepare<'a>(&self, frame: &'a [u8]) -> Result<Option<Prepared<'a>>, EncryptError> {
        if frame.is_empty() {
            self.counters.empty.add(1);
            return Ok(None);
        }
        let prepared = match self.clear {
            Clear::AnnexB(_) => self.prepare_annexb(frame),
            clear => clear.prepare(frame, trailer::OVERHEAD),
        };
        prepared.map_err(|NotOfCodec| {
            self.counters.malformed.add(1);
            EncryptError::Malformed
        })
    }

    fn prepare_annexb<'a>(&self, frame: &'a [u8]) -> Result<Option<Prepared<'a>>, NotOfCodec> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = self.clear.prepare(frame, trailer::OVERHEAD)? {
            if held.is_empty() {
                return Ok(Some(prepared));
            }
            let whole = [held.as_slice(), frame].concat();
            held.clear();
            let whole = self.clear.prepare(&whole, trailer::OVERHEAD)?;
            return Ok(whole.map(|Prepared { frame, clear_len, escaped }| Prepared {
                frame: Cow::Owned(frame.into_owned()),
                clear_len,
                escaped,
            }));
        }
        if held.len() + frame.len() > MOST_HELD {
            held.clear();
            return Err(NotOfCodec);
        }
        held.extend_from_slice(frame);
        self.counters.held.add(1);
        Ok(None)
    }
}

impl SealPlan<'_> {
    /// Bytes that [`Self::seal_into`] writes.
    #[must_use]
    pub fn sealed_len(&self) -> usize {
        self.frame.frame.len() + trailer::OVERHEAD
    }

    fn seal(&self) -> Result<Vec<u8>, EncryptError> {
        let mut sealed = vec![0; self.sealed_len()];
        let escapes = self.seal_into(&mut sealed)?;
        if escapes == 0 {
            return Ok(sealed);
        }
        let mut escaped = vec![0; sealed.len() + escapes];
        self.escape_into(&sealed, &mut escaped);
        Ok(escaped)
    }

    /// Writes the sealed frame and returns how many escapes it still needs: where that is not 0, `out` is to be
    /// passed through [`Self::escape_into`] before it is sent.
    ///
    /// # Errors
    /// [`EncryptError::Malformed`] where `out` has another length, or the frame is longer than the AEAD allows.
    pub fn seal_into(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        let Sealing { key, kid, nonce } = &self.sealing;
        let Prepared { frame, clear_len, escaped } = &self.frame;
        let (clear, plaintext) = frame.split_at_checked(*clear_len).ok_or(EncryptError::Malformed)?;
        if out.len() != self.sealed_len() {
            return Err(EncryptError::Malformed);
        }
        #[allow(clippy::cast_possible_truncation)] // a ring of this layout has at most 256 slots
        let places = trailer::write(out, *clear_len, nonce, *kid as u8).ok_or(EncryptError::Malformed)?;
        places.clear.copy_from_slice(clear);
        key.aead.seal(*nonce, clear, plaintext, places.ciphertext, places.tag).map_err(|_| EncryptError::Malformed)?;
        let counters = &self.encryptor.counters;
        counters.frames.add(1);
        counters.bytes.add(frame.len());
        if !escaped {
            return Ok(0);
        }
        if *clear_len > LONGEST_SAFE_HEADER {
            counters.long_headers.add(1);
        }
        Ok(annexb::escapes(out.get(*clear_len..).unwrap_or_default()))
    }

    /// Writes `sealed` with its escapes; `out` is as much longer as [`Self::seal_into`] said.
    pub fn escape_into(&self, sealed: &[u8], out: &mut [u8]) {
        let clear_len = self.frame.clear_len;
        let (Some((clear, tail)), Some((out_clear, out_tail))) =
            (sealed.split_at_checked(clear_len), out.split_at_mut_checked(clear_len))
        else {
            return;
        };
        out_clear.copy_from_slice(clear);
        annexb::escape(tail, out_tail);
    }
}
