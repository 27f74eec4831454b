//! One frame to be sealed, from its parts to its bytes: how long it gets, AEAD, escapes.

use std::borrow::Cow;

use crate::annexb;
use crate::codec::Prepared;
use crate::encryptor::Encryptor;
use crate::error::EncryptError;
use crate::key::Key;
use crate::lookup::{SHORT, Sealing};
use crate::nonce::Unique;
use crate::wire::envelope::Envelope;
use crate::wire::sframe::{self, Encoded};
use crate::wire::trailer;

/// The longest clear header that receivers up to libwebrtc m144 can represent.
const LONGEST_SAFE_HEADER: usize = 255;

/// A frame about to be sealed. Dropping it wastes a nonce at the most.
pub struct SealPlan<'a> {
    pub(crate) encryptor: &'a Encryptor,
    pub(crate) frame: Prepared<'a>,
    pub(crate) layout: Layout<'a>,
    /// The key, and the nonce that is this frame's alone; none where they are taken when it is sealed.
    pub(crate) sealing: Option<Sealing>,
}

pub(crate) enum Layout<'a> {
    Trailer,
    Sframe { header: Encoded, metadata: &'a [u8], envelope: Option<Envelope> },
}

impl SealPlan<'_> {
    /// Bytes that [`Self::seal_into`] writes.
    #[must_use]
    #[inline(always)]
    pub fn sealed_len(&self) -> usize {
        let frame_len = self.frame.frame.len();
        match &self.layout {
            Layout::Trailer => frame_len + trailer::OVERHEAD,
            Layout::Sframe { header, envelope, .. } => {
                envelope.map_or(0, Envelope::overhead) + header.as_slice().len() + frame_len + self.tag_len()
            }
        }
    }

    fn tag_len(&self) -> usize {
        self.encryptor.ring.suite().tag_len
    }

    /// Where the part begins that is escaped; none where nothing is.
    fn escaped_from(&self) -> Option<usize> {
        match &self.layout {
            Layout::Trailer => self.frame.escaped.then_some(self.frame.clear_len),
            Layout::Sframe { envelope, .. } => envelope.map(Envelope::front_len),
        }
    }

    pub(crate) fn seal(&self) -> Result<Vec<u8>, EncryptError> {
        let mut sealed = vec![0; self.sealed_len()];
        let escapes = self.seal_into(&mut sealed)?;
        if escapes == 0 {
            return Ok(sealed);
        }
        let mut escaped = vec![0; sealed.len() + escapes];
        self.escape_into(&sealed, &mut escaped)?;
        Ok(escaped)
    }

    /// Writes the sealed frame and returns how many escapes it still needs: where that is not 0, `out` is to be
    /// passed through [`Self::escape_into`] before it is sent.
    ///
    /// # Errors
    /// [`EncryptError`]; [`EncryptError::Malformed`] where `out` has another length, or the frame is longer than the AEAD
    /// allows.
    #[inline(always)]
    pub fn seal_into(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.write(out)?;
        let counters = &self.encryptor.counters;
        if self.frame.escaped && self.frame.clear_len > LONGEST_SAFE_HEADER {
            counters.long_headers.add(1);
        }
        self.encryptor.count_sealed(1, self.frame.frame.len());
        Ok(self.escaped_from().map_or(0, |from| annexb::escapes(out.get(from..).unwrap_or_default())))
    }

    /// Writes the sealed frame and returns how long it was before. Counts nothing, and does no escapes.
    #[inline(always)]
    pub(crate) fn write(&self, out: &mut [u8]) -> Result<usize, EncryptError> {
        if out.len() != self.sealed_len() {
            return Err(EncryptError::Malformed);
        }
        match (&self.sealing, &self.layout) {
            (Some(sealing), Layout::Sframe { header, metadata, envelope }) => {
                self.seal_sframe(sealing, header.as_slice(), metadata, *envelope, out)
            }
            (None, _) if self.frame.frame.len() < SHORT => {
                let ring = &self.encryptor.ring;
                ring.next_within(|key, kid, unique| self.seal_trailer(key, kid, unique, out))
                    .inspect_err(|error| self.encryptor.count(*error))?
            }
            (None, _) => {
                let Sealing { key, kid, unique } = self.encryptor.next()?;
                self.seal_trailer(&key, kid, unique, out)
            }
            (Some(Sealing { key, kid, unique }), Layout::Trailer) => self.seal_trailer(key, *kid, *unique, out),
        }
        .ok_or(EncryptError::Malformed)?;
        Ok(self.frame.frame.len())
    }

    /// As [`Self::write`], with what [`Encryptor::next_run`] gave: for a plan that has taken no key.
    #[inline(always)]
    pub(crate) fn write_with(
        &self,
        key: &Key,
        kid: u64,
        unique: Unique,
        out: &mut [u8],
    ) -> Result<usize, EncryptError> {
        let sealed = if out.len() == self.sealed_len() { self.seal_trailer(key, kid, unique, out) } else { None };
        sealed.map(|()| self.frame.frame.len()).ok_or(EncryptError::Malformed)
    }

    #[inline(always)]
    fn seal_trailer(&self, key: &Key, kid: u64, unique: Unique, out: &mut [u8]) -> Option<()> {
        let iv = key.nonce(unique);
        let (clear, plaintext) = self.frame.frame.split_at_checked(self.frame.clear_len)?;
        #[allow(clippy::cast_possible_truncation)] // a ring of this layout has at most 256 slots
        let places = trailer::write(out, clear.len(), &iv, kid as u8)?;
        places.clear.copy_from_slice(clear);
        key.aead.seal(iv, clear, plaintext, places.ciphertext, places.tag).ok()
    }

    fn seal_sframe(
        &self,
        Sealing { key, unique, .. }: &Sealing,
        header: &[u8],
        metadata: &[u8],
        envelope: Option<Envelope>,
        out: &mut [u8],
    ) -> Option<()> {
        let inside = match envelope {
            Some(envelope) => envelope.write(out)?,
            None => out,
        };
        let (ciphertext, tag) = sframe::write(inside, header, self.tag_len())?;
        let aad = if metadata.is_empty() { Cow::Borrowed(header) } else { Cow::Owned([header, metadata].concat()) };
        key.aead.seal(key.nonce(*unique), &aad, &self.frame.frame, ciphertext, tag).ok()
    }

    /// Writes `sealed` with its escapes; `out` is as much longer as [`Self::seal_into`] said.
    ///
    /// # Errors
    /// [`EncryptError::Malformed`] where `out` has another length; what is in it may not be sent then.
    pub fn escape_into(&self, sealed: &[u8], out: &mut [u8]) -> Result<(), EncryptError> {
        let from = self.escaped_from().unwrap_or_default();
        let (Some((clear, tail)), Some((out_clear, out_tail))) =
            (sealed.split_at_checked(from), out.split_at_mut_checked(from))
        else {
            return Err(EncryptError::Malformed);
        };
        out_clear.copy_from_slice(clear);
        annexb::escape(tail, out_tail).ok_or(EncryptError::Malformed)
    }
}
