//! Payloads of H.264 (RFC 6184), packetization mode 1.

use memchr::memmem;

use super::super::annexb::{LONG_START_CODE, START_CODE};
use super::{MAX_PAYLOAD, PayloadError};

/// Types of payloads (section 5.2). Smaller numbers are those of a single NAL unit.
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// Bits of the octet that starts a NAL unit and a payload (section 5.3).
const FORBIDDEN: u8 = 0x80;
const NRI: u8 = 0x60;
const TYPE: u8 = 0x1F;

/// Bits of the second octet of a fragment (section 5.8).
const FRAGMENT_START: u8 = 0x80;
const FRAGMENT_END: u8 = 0x40;
const FRAGMENT_HEADER_LEN: usize = 2;

/// Bytes before each NAL unit of an aggregation payload: its length (section 5.7.1).
const SIZE_LEN: usize = 2;
/// The maximum number of NAL units in an aggregation payload, as in the packetisers of the stacks.
const MAX_AGGREGATED: usize = 9;

/// Joins the payloads of an access unit into a byte stream. Each NAL unit has a start code of four bytes.
pub(super) fn join(payloads: &[&[u8]]) -> Result<Vec<u8>, PayloadError> {
    let mut frame = Vec::with_capacity(payloads.iter().map(|payload| payload.len()).sum());
    let mut fragmented = None; // the type of the NAL unit whose next fragment must follow
    for payload in payloads {
        let (&header, body) = payload.split_first().ok_or(PayloadError::Truncated)?;
        if body.is_empty() {
            return Err(PayloadError::Truncated);
        }
        let number = header & TYPE;
        if number == FU_A {
            fragmented = push_fragment(&mut frame, header, body, fragmented)?;
            continue;
        }
        match (fragmented, number) {
            (Some(_), _) => return Err(PayloadError::UnendedUnit),
            (None, STAP_A) => push_aggregated(&mut frame, body)?,
            (None, 1..STAP_A) => push_unit(&mut frame, payload),
            (None, number) => return Err(PayloadError::UnitType { number }),
        }
    }
    if fragmented.is_some() { Err(PayloadError::UnendedUnit) } else { Ok(frame) }
}

fn push_unit(frame: &mut Vec<u8>, unit: &[u8]) {
    frame.extend_from_slice(&LONG_START_CODE);
    frame.extend_from_slice(unit);
}

/// Appends the NAL units of an aggregation payload.
fn push_aggregated(frame: &mut Vec<u8>, mut units: &[u8]) -> Result<(), PayloadError> {
    while !units.is_empty() {
        let (&size, rest) = units.split_first_chunk::<SIZE_LEN>().ok_or(PayloadError::Truncated)?;
        let size = usize::from(u16::from_be_bytes(size));
        let (unit, rest) = rest.split_at_checked(size).ok_or(PayloadError::Truncated)?;
        push_unit(frame, unit);
        units = rest;
    }
    Ok(())
}

/// Appends a fragment. Returns the type of its NAL unit, or `None` if the unit ends with it.
///
/// `fragmented` is the type of the NAL unit that must be continued. An encoder may produce a unit of the type that RTP
/// uses for fragments, which would be joined to the unit before it.
fn push_fragment(
    frame: &mut Vec<u8>,
    indicator: u8,
    body: &[u8],
    fragmented: Option<u8>,
) -> Result<Option<u8>, PayloadError> {
    let (&header, part) = body.split_first().ok_or(PayloadError::Truncated)?;
    let (starts, ends, number) = (header & FRAGMENT_START != 0, header & FRAGMENT_END != 0, header & TYPE);
    let fits = if starts { fragmented.is_none() && !ends } else { fragmented == Some(number) };
    if !fits {
        return Err(PayloadError::StrayFragment);
    }
    if starts {
        push_unit(frame, &[indicator & !TYPE | number]);
    }
    frame.extend_from_slice(part);
    Ok((!ends).then_some(number))
}

/// Splits a byte stream into payloads, and calls `emit` with each.
///
/// The payloads are those of the stacks' packetisers: short NAL units are aggregated in order, and long ones are split
/// into fragments of almost equal length.
pub(super) fn split<E: From<PayloadError>>(
    frame: &[u8],
    mut emit: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut units = Units { rest: frame }.peekable();
    let mut payload = Vec::with_capacity(MAX_PAYLOAD);
    while let Some(unit) = units.next() {
        if unit.is_empty() {
            return Err(PayloadError::Truncated.into());
        }
        if unit.len() > MAX_PAYLOAD {
            fragment(unit, &mut payload, &mut emit)?;
            continue;
        }
        payload.clear();
        payload.push(STAP_A);
        let mut aggregated = 0;
        let mut next = Some(unit);
        while let Some(unit) = next {
            if !aggregate(&mut payload, unit) {
                break;
            }
            aggregated += 1;
            next = units.next_if(|unit| aggregated < MAX_AGGREGATED && fits(&payload, unit));
        }
        emit(if aggregated > 1 { &payload } else { unit })?;
    }
    Ok(())
}

/// Returns whether a NAL unit fits into an aggregation payload. An empty unit has no header to aggregate.
fn fits(payload: &[u8], unit: &[u8]) -> bool {
    !unit.is_empty() && payload.len() + SIZE_LEN + unit.len() <= MAX_PAYLOAD
}

/// Appends a NAL unit to an aggregation payload. Returns false if it does not fit.
///
/// The F bit of the payload is set if it is set in a unit. Its NRI is the maximum of the units (section 5.7).
fn aggregate(payload: &mut Vec<u8>, unit: &[u8]) -> bool {
    let (Some(first), true, Ok(size)) = (unit.first(), fits(payload, unit), u16::try_from(unit.len())) else {
        return false;
    };
    if let Some(header) = payload.first_mut() {
        *header = *header & !NRI | (*header & NRI).max(first & NRI);
        *header |= first & FORBIDDEN;
    }
    payload.extend_from_slice(&size.to_be_bytes());
    payload.extend_from_slice(unit);
    true
}

/// Splits a long NAL unit into fragments, and calls `emit` with each.
fn fragment<E>(unit: &[u8], payload: &mut Vec<u8>, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let Some((&header, mut rest)) = unit.split_first() else { return Ok(()) };
    let fragments = rest.len().div_ceil(MAX_PAYLOAD - FRAGMENT_HEADER_LEN).max(1);
    let (len, longer) = (rest.len() / fragments, rest.len() % fragments);
    for number in 0..fragments {
        let Some((part, behind)) = rest.split_at_checked(len + usize::from(number < longer)) else { break };
        let place = match number {
            _ if behind.is_empty() => FRAGMENT_END,
            0 => FRAGMENT_START,
            _ => 0,
        };
        payload.clear();
        payload.extend_from_slice(&[header & !TYPE | FU_A, header & TYPE | place]);
        payload.extend_from_slice(part);
        emit(payload)?;
        rest = behind;
    }
    Ok(())
}

/// Iterates over the NAL units of a byte stream, without start codes. The zeros at the end of the last unit stay: they
/// may be the key id of a sealed frame.
struct Units<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = memmem::find(self.rest, &START_CODE)? + START_CODE.len();
        let unit = self.rest.get(start..)?;
        let Some(end) = memmem::find(unit, &START_CODE) else {
            self.rest = &[];
            return Some(unit);
        };
        self.rest = unit.get(end..)?;
        let unit = unit.get(..end)?;
        Some(unit.strip_suffix(&[0]).unwrap_or(unit)) // the first byte of a start code of four bytes
    }
}
