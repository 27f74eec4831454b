//! Exposes the parsers and writers of every layout to the fuzz targets. Each function borrows and allocates nothing.

use crate::codec::Codec;
use crate::wire::envelope::{self, Envelope};
use crate::wire::sframe::Header;
use crate::wire::{IvParts, IvPlaces, footer, packet, sframe, trailer};

/// The parts of a frame with an IV, behind its clear bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The ciphertext.
    pub ciphertext: &'a [u8],
    /// The tag of the AEAD.
    pub tag: &'a [u8],
    /// The IV, in the order in which the AEAD takes it.
    pub iv: [u8; 12],
    /// The index of the key.
    pub key_index: u8,
}

/// The parts of an SFrame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sframe<'a> {
    /// The KID.
    pub kid: u64,
    /// The CTR.
    pub ctr: u64,
    /// The bytes of the header.
    pub head: &'a [u8],
    /// The ciphertext.
    pub ciphertext: &'a [u8],
    /// The tag of the AEAD.
    pub tag: &'a [u8],
}

fn sealed(parts: IvParts<'_>) -> Sealed<'_> {
    let IvParts { ciphertext, tag, iv, key_index } = parts;
    Sealed { ciphertext, tag, iv, key_index }
}

fn places(places: IvPlaces<'_>) -> [&mut [u8]; 3] {
    [places.clear, places.ciphertext, places.tag]
}

/// Parses the sealed part of a frame of the trailer layout, or returns `None`.
#[must_use]
pub fn parse_trailer(tail: &[u8]) -> Option<Sealed<'_>> {
    trailer::parse(tail).map(sealed)
}

/// Writes a trailer. Returns the places of the clear bytes, the ciphertext and the tag, or `None` if `out` is too
/// short.
#[must_use]
pub fn write_trailer<'a>(
    out: &'a mut [u8],
    clear_len: usize,
    iv: &[u8; 12],
    key_index: u8,
) -> Option<[&'a mut [u8]; 3]> {
    trailer::write(out, clear_len, iv, key_index).map(places)
}

/// Returns the number of clear bytes of a frame of the footer layout, and whether the rest is escaped. Returns `None`
/// if the frame is not of the layout.
#[must_use]
pub fn footer_clear_len(frame: &[u8]) -> Option<(usize, bool)> {
    footer::clear_len(frame)
}

/// Parses the sealed part of a frame of the footer layout, without its escapes, or returns `None`.
#[must_use]
pub fn parse_footer(tail: &[u8]) -> Option<Sealed<'_>> {
    footer::parse(tail).map(sealed)
}

/// Writes a footer. Returns the places of the clear bytes, the ciphertext and the tag, or `None` if `out` is too short
/// or the clear bytes are too many.
#[must_use]
pub fn write_footer<'a>(
    out: &'a mut [u8],
    clear_len: usize,
    escaped: bool,
    iv: &[u8; 12],
    key_index: u8,
) -> Option<[&'a mut [u8]; 3]> {
    footer::write(out, clear_len, escaped, iv, key_index).map(places)
}

/// Parses an SFrame whose tag has `tag_len` bytes, or returns `None`.
#[must_use]
pub fn parse_sframe(frame: &[u8], tag_len: usize) -> Option<Sframe<'_>> {
    let sframe::SframeParts { header: Header { kid, ctr }, head, ciphertext, tag } = sframe::parse(frame, tag_len)?;
    Some(Sframe { kid, ctr, head, ciphertext, tag })
}

/// Writes the header of an SFrame. Returns the header, and the places of the ciphertext and the tag. Returns `None` if
/// `out` is too short.
#[must_use]
pub fn write_sframe(out: &mut [u8], kid: u64, ctr: u64, tag_len: usize) -> Option<(&[u8], [&mut [u8]; 2])> {
    let places = sframe::write(out, Header { kid, ctr }, tag_len)?;
    Some((places.head, [places.ciphertext, places.tag]))
}

/// Parses a data packet. Returns its key index, its IV, and the ciphertext with its tag, or `None`.
#[must_use]
pub fn parse_packet(packet: &[u8]) -> Option<(u8, [u8; 12], &[u8])> {
    packet::parse(packet).map(|packet::Packet { key_index, iv, sealed }| (key_index, iv, sealed))
}

/// Writes the header of a data packet. Returns the place of the ciphertext with its tag, or `None` if `out` is too
/// short.
#[must_use]
pub fn write_packet<'a>(out: &'a mut [u8], key_index: u8, iv: &[u8; 12]) -> Option<&'a mut [u8]> {
    packet::write(out, key_index, iv)
}

/// Returns the bytes inside an envelope, still escaped. Returns `None` if there is no envelope, or the codec has none.
#[must_use]
pub fn open_envelope(codec: Codec, frame: &[u8]) -> Option<&[u8]> {
    Envelope::open(codec.annexb()?, frame)
}

/// Writes an envelope and returns the place inside. Returns `None` if `out` is too short, or the codec has no envelope.
#[must_use]
pub fn write_envelope(codec: Codec, key_frame: bool, out: &mut [u8]) -> Option<&mut [u8]> {
    Envelope::new(codec.annexb()?, key_frame).write(out)
}

/// Returns whether a frame starts a new picture sequence. Returns `None` if the codec has no envelope.
#[must_use]
pub fn is_key_frame(codec: Codec, frame: &[u8]) -> Option<bool> {
    Some(envelope::is_key_frame(codec.annexb()?, frame))
}
