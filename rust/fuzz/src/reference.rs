//! A second reading of every layout, written from the documents byte by byte. It shares no code with the core.
//!
//! SFrame: RFC 9605, section 4.3. Trailer, footer, data packet and envelope: the diagrams of docs/formats. Byte streams:
//! ITU-T H.264, section 7.4.1 and annex B, as narrowed by LiveKit's worker. It prefers plain loops to speed.

/// The range of each part of a sealed frame, in the frame without its escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub ciphertext: (usize, usize),
    pub tag: (usize, usize),
    pub iv: [u8; 12],
    pub key_index: u8,
}

/// Reads an SFrame header: KID, CTR and the length of the header.
pub fn sframe_header(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let config = *bytes.first()?;
    let mut at = 1;
    let mut values = [0_u64; 2];
    for (place, value) in values.iter_mut().enumerate() {
        let four_bits = if place == 0 { config / 16 } else { config % 16 };
        if four_bits < 8 {
            *value = u64::from(four_bits);
            continue;
        }
        let len = usize::from(four_bits - 8) + 1;
        for step in 0..len {
            *value = *value * 256 + u64::from(*bytes.get(at + step)?);
        }
        // The shortest form: neither a zero in front, nor a value that fits the config byte.
        if bytes[at] == 0 || *value < 8 {
            return None;
        }
        at += len;
    }
    Some((values[0], values[1], at))
}

/// Writes an SFrame header to the start of `out` and returns its length.
pub fn write_sframe_header(kid: u64, ctr: u64, out: &mut [u8; 17]) -> usize {
    let mut at = 1;
    out[0] = 0;
    for (value, shift) in [(kid, 16), (ctr, 1)] {
        if value <= 7 {
            out[0] += value as u8 * shift;
            continue;
        }
        let mut len = 1;
        while len < 8 && value >> (8 * len) != 0 {
            len += 1;
        }
        out[0] += (8 + len as u8 - 1) * shift;
        for step in 0..len {
            out[at + step] = (value >> (8 * (len - 1 - step))) as u8;
        }
        at += len;
    }
    at
}

/// Reads the sealed part of the trailer layout: ciphertext, tag of 16, IV of 12, the byte 12, the key index.
pub fn trailer(tail: &[u8]) -> Option<Parts> {
    let end = tail.len();
    if end < 30 || tail[end - 2] != 12 {
        return None;
    }
    let mut iv = [0; 12];
    for at in 0..12 {
        iv[at] = tail[end - 14 + at];
    }
    Some(Parts { ciphertext: (0, end - 30), tag: (end - 30, end - 14), iv, key_index: tail[end - 1] })
}

/// Reads the length of the clear bytes and the flag of the footer layout.
pub fn footer_clear_len(frame: &[u8]) -> Option<(usize, bool)> {
    let end = frame.len();
    if end < 20 || frame[end - 5..] != [0x01, 0xE2, 0xEE, 0xFE, 0xED] {
        return None;
    }
    let field = usize::from(frame[end - 7]) * 256 + usize::from(frame[end - 6]);
    let (clear_len, escaped) = (field % 0x8000, field >= 0x8000);
    (clear_len + 20 <= end).then_some((clear_len, escaped))
}

/// Reads the sealed part of the footer layout: ciphertext, tag of 16, counter of 4, prefix of 8, key index, and seven
/// bytes that [`footer_clear_len`] reads. The IV is the prefix and the counter.
pub fn footer(tail: &[u8]) -> Option<Parts> {
    let end = tail.len();
    if end < 36 {
        return None;
    }
    let mut iv = [0; 12];
    for at in 0..8 {
        iv[at] = tail[end - 16 + at];
    }
    for at in 0..4 {
        iv[8 + at] = tail[end - 20 + at];
    }
    Some(Parts { ciphertext: (0, end - 36), tag: (end - 36, end - 20), iv, key_index: tail[end - 8] })
}

/// Reads a data packet: its key index, its IV, and the range of the ciphertext with its tag.
pub fn packet(packet: &[u8]) -> Option<(u8, [u8; 12], (usize, usize))> {
    if packet.len() < 2 + 1 + 12 + 16 || packet[0] != 0xF5 || packet[1] != 1 {
        return None;
    }
    let mut iv = [0; 12];
    iv.copy_from_slice(&packet[3..15]);
    Some((packet[2], iv, (15, packet.len())))
}

/// Reads the range inside an envelope behind a NAL header of `header_len` bytes.
pub fn envelope(frame: &[u8], header_len: usize) -> Option<(usize, usize)> {
    let front = 4 + header_len;
    let is_envelope = frame.len() > front && frame[..4] == [0, 0, 0, 1] && frame[frame.len() - 1] == 0x80;
    is_envelope.then(|| (front, frame.len() - 1))
}

/// Appends bytes to a buffer of a fixed length. Panics if it is full.
pub struct Buffer {
    bytes: [u8; 1024],
    len: usize,
}

impl Buffer {
    pub fn new() -> Self {
        Self { bytes: [0; 1024], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes a run behind `zeros` zeros with its escapes.
pub fn escape(run: &[u8], zeros: usize, out: &mut Buffer) {
    let mut zeros = zeros;
    for &byte in run {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
}

/// Writes a run behind `zeros` zeros without its escapes. By the strict rule, a byte of 3 or less follows an escape.
pub fn unescape(run: &[u8], zeros: usize, strict: bool, out: &mut Buffer) {
    let mut zeros = zeros;
    for (at, &byte) in run.iter().enumerate() {
        let fits = !strict || run.get(at + 1).is_some_and(|&next| next <= 3);
        if zeros >= 2 && byte == 3 && fits {
            zeros = 0;
            continue;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
}

/// Returns the offset behind the first start code at or behind `from`.
fn next_unit(data: &[u8], from: usize) -> Option<usize> {
    (from + 3..=data.len()).find(|&end| data[end - 3..end] == [0, 0, 1])
}

/// Returns the offset of the first NAL unit, or `None` if the data is no byte stream.
fn first_unit(data: &[u8]) -> Option<usize> {
    let start = next_unit(data, 0)?;
    data[..start - 3].iter().all(|&byte| byte == 0).then_some(start)
}

/// Returns the offset of the first slice of H.264, or else of H.265, in a frame that `hidden` bytes follow.
pub fn first_slice(data: &[u8], hidden: usize) -> Option<(usize, bool)> {
    for h264 in [true, false] {
        let mut unit = first_unit(data);
        while let Some(start) = unit {
            // LiveKit's worker does not look at the last bytes.
            if start + 3 >= data.len() + hidden {
                break;
            }
            let is_slice = data.get(start).is_some_and(|&header| {
                if h264 { matches!(header % 32, 1 | 5) } else { matches!(header / 2 % 64, 0..=9 | 16..=21) }
            });
            if is_slice && start + 2 <= data.len() {
                return Some((start, h264));
            }
            unit = next_unit(data, start);
        }
    }
    None
}

/// Returns whether any unit of a byte stream is a parameter set of H.264.
fn has_parameter_set(data: &[u8]) -> bool {
    let mut unit = first_unit(data);
    while let Some(start) = unit {
        if data.get(start).is_some_and(|&header| matches!(header % 32, 7 | 8)) {
            return true;
        }
        unit = next_unit(data, start);
    }
    false
}

/// Returns how many bytes of a byte stream's sealed frame are clear, and whether the rest is escaped.
pub fn byte_stream_clear_len(sealed: &[u8]) -> (usize, bool) {
    match first_slice(sealed, 0) {
        Some((start, _)) => (start + 2, true),
        None if has_parameter_set(sealed) => (10, false),
        None => (3, false),
    }
}

/// The fields of a slice header that receivers read from a key frame: `first_mb_in_slice` or
/// `first_slice_segment_in_pic_flag`, `slice_type` or 0, and the id of the picture parameter set.
pub fn slice_header(unit: &[u8], h264: bool) -> Option<([u64; 3], usize)> {
    let header = *unit.first()?;
    let reads = if h264 { matches!(header % 32, 1 | 5) } else { matches!(header / 2 % 64, 16..=21) };
    let payload = unit.get(if h264 { 1 } else { 2 }..)?;
    if !reads {
        return None;
    }
    let mut rbsp = Buffer::new();
    unescape(payload, 0, false, &mut rbsp);
    let (bytes, mut at) = (rbsp.as_slice(), 0);
    if h264 {
        let fields = [exp_golomb(bytes, &mut at)?, exp_golomb(bytes, &mut at)?, exp_golomb(bytes, &mut at)?];
        return Some((fields, at));
    }
    let first = bit(bytes, &mut at)?;
    bit(bytes, &mut at)?;
    Some(([first, 0, exp_golomb(bytes, &mut at)?], at))
}

fn bit(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let byte = *bytes.get(*at / 8)?;
    let bit = byte / [128, 64, 32, 16, 8, 4, 2, 1][*at % 8] % 2;
    *at += 1;
    Some(u64::from(bit))
}

/// Reads an unsigned number in Exp-Golomb code of at most 32 bits.
fn exp_golomb(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut zeros = 0;
    while bit(bytes, at)? == 0 {
        zeros += 1;
    }
    if zeros >= 32 {
        return None;
    }
    let mut rest = 0;
    for _ in 0..zeros {
        rest = rest * 2 + bit(bytes, at)?;
    }
    Some((1 << zeros) - 1 + rest)
}
