//! Keeps the start of a slice header readable (ITU-T H.264, section 7.3.3; ITU-T H.265, section 7.3.6.1).
//!
//! Before it decrypts, libwebrtc reads the picture parameter set id from the first slice of a key frame. It drops the
//! frame if it has no set with this id. The trailer layout leaves one byte of the slice header clear in H.264, and none
//! in H.265: libwebrtc reads the rest from ciphertext. So a sender draws nonces until the ciphertext reads like the
//! plaintext. If `n` bits are ciphertext, one draw in 2^n does.
#![deny(clippy::indexing_slicing)]

use memchr::memmem;
use std::borrow::Cow;

use super::annexb;
use super::nal::{Standard, h264_type, h265_type};

/// The maximum number of bytes read behind the NAL header: three numbers of 63 bits each, and their escapes.
const WINDOW: usize = 40;

/// The fields that receivers read from the header of the first slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SliceHeader {
    standard: Standard,
    /// `first_mb_in_slice` in H.264, `first_slice_segment_in_pic_flag` in H.265.
    first: u32,
    /// `slice_type` in H.264, 0 in H.265.
    slice_type: u32,
    /// `pic_parameter_set_id` in H.264, `slice_pic_parameter_set_id` in H.265.
    pps_id: u32,
}

impl SliceHeader {
    /// Reads the header of the slice at `start` in a plain frame, of which `clear_len` bytes stay readable. Returns
    /// `None` if the header lies in the clear bytes, no receiver reads it, or it cannot be read.
    pub(super) fn hidden(frame: &[u8], start: usize, clear_len: usize, standard: Standard) -> Option<Self> {
        let unit = frame.get(start..)?;
        let unit = unit.get(..standard.header_len() + WINDOW).unwrap_or(unit);
        let end = memmem::find(unit, &[0, 0, 1]).unwrap_or(unit.len());
        let (header, bits) = Self::read(unit.get(..end)?, standard)?;
        (start + standard.header_len() + bits.div_ceil(8) > clear_len).then_some(header)
    }

    /// Returns whether a receiver reads the same header from the sealed frame, of which `clear_len` bytes are readable.
    /// `counts_zeros` is true if zeros at the end of these bytes count for the escapes behind them.
    pub(super) fn is_kept(&self, sealed: &[u8], start: usize, clear_len: usize, counts_zeros: bool) -> bool {
        let (Some(clear), Some(tail)) = (sealed.get(start..clear_len), sealed.get(clear_len..)) else { return false };
        let tail = tail.get(..WINDOW).unwrap_or(tail);
        let zeros = if counts_zeros { annexb::zeros_before(clear) } else { 0 };
        let mut wire = vec![0; clear.len() + tail.len() + annexb::escapes(tail, zeros)];
        let Some((clear_place, tail_place)) = wire.split_at_mut_checked(clear.len()) else { return false };
        clear_place.copy_from_slice(clear);
        let written = annexb::escape(tail, zeros, tail_place);
        // The trailer layout escapes the sealed part on its own: behind a clear zero byte, it may still form a start code.
        written.is_some()
            && memmem::find(&wire, &[0, 0, 1]).is_none()
            && Self::read(&wire, self.standard).is_some_and(|(header, _)| header == *self)
    }

    /// Reads the header of a NAL unit. Returns it and its length in bits, without the NAL header. Returns `None` if the
    /// unit is not a slice that receivers read, or ends within the header.
    fn read(unit: &[u8], standard: Standard) -> Option<(Self, usize)> {
        let (&[number, ..], payload) = unit.split_at_checked(standard.header_len())? else { return None };
        let rbsp: Cow<'_, [u8]> = annexb::unescape(payload);
        let mut bits = Bits { bytes: &rbsp, at: 0 };
        let header = match standard {
            Standard::H264 if matches!(h264_type(number), 1 | 5) => {
                Self { standard, first: bits.number()?, slice_type: bits.number()?, pps_id: bits.number()? }
            }
            // From other slices receivers read only the first bit, and they ignore it.
            Standard::H265 if matches!(h265_type(number), 16..=21) => {
                let first = u32::from(bits.next()?);
                bits.next()?; // no_output_of_prior_pics_flag
                Self { standard, first, slice_type: 0, pps_id: bits.number()? }
            }
            Standard::H264 | Standard::H265 => return None,
        };
        Some((header, bits.at))
    }
}

/// Reads bits, the most significant bit of a byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn next(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Some(bit)
    }

    /// Reads an unsigned number in Exp-Golomb code (ITU-T H.264, section 9.1): `n` zeros, a one, and `n` more bits.
    /// Returns `None` if the bytes end before, or the number has more than 32 bits.
    fn number(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.next()? {
            zeros += 1;
        }
        if zeros > 31 {
            return None;
        }
        let mut value: u32 = 1;
        for _ in 0..zeros {
            value = value << 1 | u32::from(self.next()?);
        }
        Some(value - 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let read = |unit: &[u8], standard| SliceHeader::read(unit, standard).unwrap();
        let h264 = |first, slice_type, pps_id| SliceHeader { standard: Standard::H264, first, slice_type, pps_id };
        assert_eq!(read(b"\x65\x88\x84", Standard::H264), (h264(0, 7, 0), 9));
        assert_eq!(read(b"\x65\xb8\x00", Standard::H264), (h264(0, 2, 0), 5));
        assert_eq!(read(b"\x41\x9a\x01", Standard::H264), (h264(0, 5, 0), 7));
        assert_eq!(read(b"\x65\x88\x4f", Standard::H264), (h264(0, 7, 1), 11));
        let large = read(b"\x41\x00\x00\x03\x01\xff\xff\xff\xff", Standard::H264);
        assert_eq!(large, (h264((1 << 24) - 2, 0, 0), 49));
        let idr = SliceHeader { standard: Standard::H265, first: 1, slice_type: 0, pps_id: 0 };
        assert_eq!(read(b"\x26\x01\xaf", Standard::H265), (idr, 3));
        for (unit, standard) in [
            (&b"\x65"[..], Standard::H264),
            (b"\x65\x88", Standard::H264),
            (b"\x67\x42\xff", Standard::H264),
            (b"\x02\x01\xd0", Standard::H265),
            (b"\x65\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", Standard::H264),
        ] {
            assert_eq!(SliceHeader::read(unit, standard), None, "{unit:02x?}");
        }
    }

    #[test]
    fn a_number_has_32_bits_at_most() {
        let number = |bytes| Bits { bytes, at: 0 }.number();
        assert_eq!(number(b"\x00\x00\x00\x01\xff\xff\xff\xfe"), Some(u32::MAX - 1));
        assert_eq!(number(b"\x00\x00\x00\x00\x80\x00\x00\x00\x00"), None);
    }
}
