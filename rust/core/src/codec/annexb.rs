//! Annex B byte streams (ITU-T H.264 and H.265, Annex B) and the emulation prevention of their NAL units (section
//! 7.4.1).
//!
//! The rules follow LiveKit's worker (livekit-client 2.23.0), byte for byte. Some are narrower than the standard:
//! agreement between sender and receiver matters more. "Escape" is short for emulation prevention byte.
#![deny(clippy::indexing_slicing)]

use memchr::memmem;
use std::borrow::Cow;

use super::nal::{Class, Standard, h264_type, h265_type};

pub(super) const START_CODE: [u8; 3] = [0, 0, 1];
pub(super) const LONG_START_CODE: [u8; 4] = [0, 0, 0, 1];
const ESCAPE: u8 = 3;
/// A NAL unit is ignored if its first byte lies fewer than this many bytes before the end.
const BLIND_TAIL: usize = 3;
/// The number of clear bytes of the first slice. In H.265 these are the NAL header, in H.264 the NAL header and one
/// byte of the slice header.
const SLICE_CLEAR: usize = 2;

/// The first slice of a byte stream. The sealed part begins in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The offset of the slice's NAL unit, behind its start code.
    pub(crate) start: usize,
    pub(crate) standard: Standard,
}

/// The data is no byte stream: it has no start code, or bytes other than zero before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnnexB;

impl Slice {
    /// Returns the number of bytes that stay clear.
    pub(crate) fn clear_len(self) -> usize {
        self.start + SLICE_CLEAR
    }
}

/// Iterates over the NAL units: (start, end), without start codes and trailing zero bytes.
struct Units<'a> {
    data: &'a [u8],
    /// The offset of the next unit, or `None` after the last.
    next: Option<usize>,
}

impl<'a> Units<'a> {
    fn new(data: &'a [u8]) -> Result<Self, NotAnnexB> {
        let first = memmem::find(data, &START_CODE).ok_or(NotAnnexB)?;
        match data.get(..first) {
            Some(lead) if lead.iter().all(|&byte| byte == 0) => Ok(Self { data, next: Some(first + START_CODE.len()) }),
            _ => Err(NotAnnexB),
        }
    }
}

impl Iterator for Units<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.next?;
        let rest = self.data.get(start..)?;
        let (unit, next) = match memmem::find(rest, &START_CODE) {
            Some(at) => (rest.get(..at)?, Some(start + at + START_CODE.len())),
            None => (rest, None),
        };
        self.next = next;
        Some((start, start + without_trailing_zeros(unit).len()))
    }
}

fn without_trailing_zeros(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    unit.get(..end).unwrap_or_default()
}

/// Returns the first slice in `data`, or `None` if there is none. Sealing will append `hidden` bytes to `data`.
///
/// Looks for H.264 first: an access unit delimiter or SEI of H.264 would read as a slice of H.265.
pub(crate) fn first_slice(data: &[u8], hidden: usize) -> Result<Option<Slice>, NotAnnexB> {
    let end = (data.len() + hidden).saturating_sub(BLIND_TAIL);
    let find = |standard: Standard, is_slice: fn(u8) -> bool| -> Result<Option<Slice>, NotAnnexB> {
        Ok(Units::new(data)?
            .map(|(start, _)| start)
            .take_while(|&start| start < end)
            .find(|&start| data.get(start).copied().is_some_and(is_slice) && start + SLICE_CLEAR <= data.len())
            .map(|start| Slice { start, standard }))
    };
    if let Some(slice) = find(Standard::H264, |header| matches!(h264_type(header), 1 | 5))? {
        return Ok(Some(slice));
    }
    find(Standard::H265, |header| matches!(h265_type(header), 0..=9 | 16..=21))
}

/// Returns whether the first byte of any NAL unit satisfies `predicate`. Returns false if `data` is no byte stream.
pub(crate) fn has_unit(data: &[u8], predicate: impl Fn(u8) -> bool) -> bool {
    Units::new(data).is_ok_and(|mut units| units.any(|(start, _)| data.get(start).copied().is_some_and(&predicate)))
}

/// Rewrites the units of `data` into the form that every depacketiser rebuilds: four-byte start codes, no zero bytes
/// between the units, and no SEI. Returns `None` if a unit may carry a picture: it must not stay readable.
pub(crate) fn readable_units(data: &[u8], standard: Standard) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len() + LONG_START_CODE.len());
    for (start, end) in Units::new(data).into_iter().flatten() {
        let unit = data.get(start..end).unwrap_or_default();
        if unit.is_empty() {
            continue;
        }
        match standard.class(unit) {
            Class::ParameterSet | Class::Separator => {
                out.extend_from_slice(&LONG_START_CODE);
                out.extend_from_slice(unit);
            }
            Class::Sei => {}
            Class::Slice | Class::Refused => return None,
        }
    }
    Some(out)
}

/// Brings an access unit into its sealable form: [`readable_units`] in front of the first slice. Leaves the slice and
/// the units behind it unchanged: they are ciphertext on the wire, which no depacketiser rewrites. Returns `None` if a
/// unit in front of the slice may carry a picture.
pub(crate) fn normalize(frame: &[u8], slice: Slice) -> Option<(Cow<'_, [u8]>, Slice)> {
    let (before, rest) = frame.split_at_checked(slice.start)?;
    if before == LONG_START_CODE {
        return Some((Cow::Borrowed(frame), slice));
    }
    let mut front = readable_units(before, slice.standard)?;
    front.extend_from_slice(&LONG_START_CODE);
    if front == before {
        return Some((Cow::Borrowed(frame), slice));
    }
    let slice = Slice { start: front.len(), ..slice };
    Some((Cow::Owned([&front, rest].concat()), slice))
}

/// Returns the number of zeros at the end of the bytes in front of an escaped run, 2 at most.
pub(crate) fn zeros_before(front: &[u8]) -> usize {
    front.iter().rev().take(2).take_while(|&&byte| byte == 0).count()
}

/// Returns the number of bytes that [`escape`] adds.
pub(crate) fn escapes(data: &[u8], zeros: usize) -> usize {
    let mut count = 0;
    walk_escapes(data, zeros, |_| count += 1);
    count
}

/// Writes `data` with an escape in front of each byte of 3 or less that follows two zeros. `zeros` is the number of
/// zeros in front of `data` that count, 0 to 2. Returns `None` if `out` is not as long as `data` and its [`escapes`]
/// together. The content of `out` must not be sent then.
pub(crate) fn escape(data: &[u8], zeros: usize, out: &mut [u8]) -> Option<()> {
    let mut written = 0;
    let mut copied = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(target) = out.get_mut(written..written + bytes.len()) {
            target.copy_from_slice(bytes);
        }
        written += bytes.len();
    };
    walk_escapes(data, zeros, |at| {
        put(data.get(copied..at).unwrap_or_default());
        put(&[ESCAPE]);
        copied = at;
    });
    put(data.get(copied..).unwrap_or_default());
    (written == out.len()).then_some(())
}

/// Calls `found` with each offset in front of which an escape belongs. Searches for pairs of zeros, which are rare in
/// ciphertext: this is faster than a loop over all bytes.
fn walk_escapes(data: &[u8], zeros: usize, mut found: impl FnMut(usize)) {
    let mut from = 0;
    let missing = 2_usize.saturating_sub(zeros);
    if missing < 2 && data.iter().take(missing).all(|&byte| byte == 0) && matches!(data.get(missing), Some(0..=3)) {
        found(missing);
        from = missing;
    }
    while let Some(pair) = data.get(from..).and_then(|rest| memmem::find(rest, &[0, 0])) {
        let at = from + pair + 2;
        match data.get(at) {
            // Behind an escape, zeros are counted from 0 again, starting with this byte.
            Some(0..=3) => {
                found(at);
                from = at;
            }
            Some(_) => from = at + 1,
            None => return,
        }
    }
}

/// Removes the escapes: each 3 that follows two zeros. Borrows `data` if there are none.
pub(crate) fn unescape(data: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    for at in memmem::find_iter(data, &[0, 0, ESCAPE]) {
        out.extend_from_slice(data.get(copied..at + 2).unwrap_or_default());
        copied = at + 3;
    }
    if copied == 0 {
        return Cow::Borrowed(data);
    }
    out.extend_from_slice(data.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Removes the escapes of a run behind `zeros` zeros, by the stricter rule: only a 3 that follows two zeros, and that a
/// byte of 3 or less follows, is an escape. Borrows `data` if there are none.
pub(crate) fn unescape_strictly(data: &[u8], zeros: usize) -> Cow<'_, [u8]> {
    let (mut out, mut copied) = (Vec::new(), 0);
    // The search below finds pairs of zeros within `data`. Here are those that end in its first byte, or in front of it.
    let leading = usize::from(data.first() == Some(&0));
    let is_escape = |at: usize| data.get(at) == Some(&ESCAPE) && matches!(data.get(at + 1), Some(0..=3));
    let mut remove = |at: usize| {
        out.extend_from_slice(data.get(copied..at).unwrap_or_default());
        copied = at + 1;
        copied
    };
    let mut from = 0;
    if zeros > 0 && zeros + leading >= 2 && is_escape(leading) {
        from = remove(leading);
    }
    while let Some(pair) = data.get(from..).and_then(|rest| memmem::find(rest, &[0, 0])) {
        let at = from + pair + 2;
        // Without an escape here, the second zero may be the first of the next pair.
        from = if is_escape(at) { remove(at) } else { at - 1 };
    }
    if copied == 0 {
        return Cow::Borrowed(data);
    }
    out.extend_from_slice(data.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_fill_a_buffer_of_their_length_and_are_refused_in_any_other() {
        let data = [9, 0, 0, 1, 0, 0, 0];
        for zeros in 0..=2 {
            let needed = data.len() + escapes(&data, zeros);
            for len in 0..needed + 3 {
                assert_eq!(escape(&data, zeros, &mut vec![7; len]).is_some(), len == needed);
            }
        }
    }

    #[test]
    fn a_slice_counts_if_a_forwarder_finds_it_and_its_clear_bytes_are_there() {
        let found = |behind: &[u8], hidden| {
            let data = [&LONG_START_CODE[..], behind].concat();
            matches!(first_slice(&data, hidden), Ok(Some(_)))
        };
        assert!(found(&[0x65, 0x88], 2) && !found(&[0x65, 0x88], 1), "the search ends in front of the slice");
        assert!(!found(&[0x65], 100), "the second clear byte is missing");
    }
}
