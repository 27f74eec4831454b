//! Annex B byte streams (H.264 and H.265, Annex B) and the emulation prevention of their NAL units (section 7.4.1).
//!
//! The rules are those of LiveKit's worker (livekit-client 2.23.0), byte for byte: where they are narrower than the
//! standard, what sender and receiver must agree on counts for more.
#![deny(clippy::indexing_slicing)]

use memchr::memmem;
use std::borrow::Cow;

use super::nal::{Class, Standard, h264_type, h265_type};

const START_CODE: [u8; 3] = [0, 0, 1];
const LONG_START_CODE: [u8; 4] = [0, 0, 0, 1];
const ESCAPE: u8 = 3;
/// A NAL unit counts only if its first byte lies at least this far before the end.
const BLIND_TAIL: usize = 3;
/// Clear bytes of the first slice: all of H.265's NAL header; H.264's and one byte of the slice header.
const SLICE_CLEAR: usize = 2;

/// What stands in front of the ciphertext, and whether it can be sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Where the first slice's NAL unit begins, behind its start code.
    pub(crate) start: usize,
    pub(crate) standard: Standard,
}

/// Not a byte stream: no start code, or other bytes before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnnexB;

impl Slice {
    /// How many bytes stay clear.
    pub(crate) fn clear_len(self) -> usize {
        self.start + SLICE_CLEAR
    }
}

/// Walks the NAL units: (start, end) without start codes and without the zero bytes behind a unit.
struct Units<'a> {
    data: &'a [u8],
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

/// Finds the first slice in `data`, of which `hidden` more bytes will follow once it is sealed.
///
/// H.264 first: an access unit delimiter or SEI of H.264 would read as a slice of H.265.
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

/// Whether any NAL unit's first byte is such a one; what is no byte stream has none.
pub(crate) fn has_unit(data: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    Units::new(data).is_ok_and(|mut units| units.any(|(start, _)| data.get(start).copied().is_some_and(&is_such)))
}

/// Rewrites the units of `data` into the form that every depacketiser rebuilds: four-byte start codes, no zero bytes
/// between the units, and no SEI. Returns `None` if a unit may carry a picture: it may not be sent as it is.
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

/// Brings an access unit into the form in which it is sealed: [`readable_units`] in front of the first slice. What follows
/// the slice's two clear bytes is ciphertext on the wire, and no depacketiser rewrites that, so neither do we. Returns
/// `None` if a unit in front of the slice may carry a picture.
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

/// How many bytes [`escape`] will add.
pub(crate) fn escapes(data: &[u8]) -> usize {
    let mut count = 0;
    walk_escapes(data, |_| count += 1);
    count
}

/// Writes `data` with an escape byte before each byte of 3 or less that follows two zeros. `out` is as long as `data`
/// and its [`escapes`]. None: it is not, and holds nothing to be sent.
pub(crate) fn escape(data: &[u8], out: &mut [u8]) -> Option<()> {
    let mut written = 0;
    let mut copied = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(target) = out.get_mut(written..written + bytes.len()) {
            target.copy_from_slice(bytes);
        }
        written += bytes.len();
    };
    walk_escapes(data, |at| {
        put(data.get(copied..at).unwrap_or_default());
        put(&[ESCAPE]);
        copied = at;
    });
    put(data.get(copied..).unwrap_or_default());
    (written == out.len()).then_some(())
}

/// Calls `found` with each place in front of which an escape belongs. Pairs of zeros are rare in ciphertext, so this
/// is a search for them and not a walk over the bytes.
fn walk_escapes(data: &[u8], mut found: impl FnMut(usize)) {
    let mut from = 0;
    while let Some(pair) = data.get(from..).and_then(|rest| memmem::find(rest, &[0, 0])) {
        let at = from + pair + 2;
        match data.get(at) {
            // Behind an escape the count of zeros starts anew, with this very byte.
            Some(0..=3) => {
                found(at);
                from = at;
            }
            Some(_) => from = at + 1,
            None => return,
        }
    }
}

/// Takes the escapes out again: each 3 that follows two zeros.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_written_where_there_is_just_room_for_them_and_refused_elsewhere() {
        let data = [9, 0, 0, 1, 0, 0, 0];
        let needed = data.len() + escapes(&data);
        for len in 0..needed + 3 {
            assert_eq!(escape(&data, &mut vec![7; len]).is_some(), len == needed);
        }
    }
}
