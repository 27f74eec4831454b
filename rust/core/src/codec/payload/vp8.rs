//! Payloads of VP8 (RFC 7741).

use super::{Header, Joined, MAX_PAYLOAD, PayloadError};

/// Bits of the first octet of a descriptor (section 4.2).
const EXTENDED: u8 = 0x80;
const START: u8 = 0x10;
const PARTITION: u8 = 0x07;

/// Bits of the octet of extensions.
const PICTURE_ID: u8 = 0x80;
const TL0PICIDX: u8 = 0x40;
const TID_OR_KEYIDX: u8 = 0x30;

/// Set in the first octet of a picture id of 15 bits.
const LONG_PICTURE_ID: u8 = 0x80;

const MAX_LEN: usize = 6;

/// The descriptor of a frame's first payload. The payloads behind it have the same, without the start bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    bytes: [u8; MAX_LEN],
    len: usize,
}

/// Joins the payloads of a frame.
pub(super) fn join<'a>(payloads: &[&'a [u8]]) -> Result<Joined<'a>, PayloadError> {
    let (first, rest) = payloads.split_first().ok_or(PayloadError::NotOne { given: 0 })?;
    let (descriptor, body) = Descriptor::parse(first)?;
    if rest.is_empty() {
        return Ok(Joined { frame: body.into(), header: Header::Vp8(descriptor) });
    }
    let mut frame = Vec::with_capacity(payloads.iter().map(|payload| payload.len()).sum());
    frame.extend_from_slice(body);
    for payload in rest {
        let (_, body) = Descriptor::parse(payload)?;
        frame.extend_from_slice(body);
    }
    Ok(Joined { frame: frame.into(), header: Header::Vp8(descriptor) })
}

impl Descriptor {
    /// Cuts the descriptor off a payload. It becomes that of a frame's first payload: a sealed frame has no partitions.
    #[inline]
    fn parse(payload: &[u8]) -> Result<(Self, &[u8]), PayloadError> {
        let len = descriptor_len(payload).ok_or(PayloadError::Truncated)?;
        let (head, body) = payload.split_at_checked(len).ok_or(PayloadError::Truncated)?;
        let mut bytes = [0; MAX_LEN];
        for (place, &byte) in bytes.iter_mut().zip(head) {
            *place = byte;
        }
        let [octet, ..] = &mut bytes;
        *octet = *octet & !PARTITION | START;
        Ok((Self { bytes, len }, body))
    }

    /// Splits a frame into payloads, and calls `emit` with each.
    pub(super) fn split<E>(&self, frame: &[u8], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut payload = Vec::with_capacity(MAX_PAYLOAD);
        let mut descriptor = *self;
        for part in frame.chunks(MAX_PAYLOAD - self.len) {
            payload.clear();
            payload.extend(descriptor.bytes.iter().take(self.len));
            payload.extend_from_slice(part);
            emit(&payload)?;
            let [octet, ..] = &mut descriptor.bytes;
            *octet &= !START;
        }
        Ok(())
    }
}

/// Returns the length of the descriptor at the start of a payload. Returns `None` if the payload is shorter.
#[inline]
fn descriptor_len(payload: &[u8]) -> Option<usize> {
    if payload.first()? & EXTENDED == 0 {
        return Some(1);
    }
    let extensions = payload.get(1)?;
    let mut len = 2;
    if extensions & PICTURE_ID != 0 {
        len += if payload.get(2)? & LONG_PICTURE_ID == 0 { 1 } else { 2 };
    }
    Some(len + usize::from(extensions & TL0PICIDX != 0) + usize::from(extensions & TID_OR_KEYIDX != 0))
}
