"""Puts one frame into a small file that names its codec, for programs that write frames into media files.

Whoever muxes frames needs the parameters of a stream before its first frame: its size, its parameter sets. A demuxer
finds the parameters in such a file. All functions are pure and know no muxer. The table in ``codecs/__init__.py`` names
them.

Sources: RFC 3533 (Ogg pages) and RFC 7845 (Opus in Ogg); the IVF header, as in libvpx's ``ivfdec.c``; VP9 bitstream
specification, section 6.2 (uncompressed header); ITU-T H.265, table 7-1 (NAL unit types).
"""

import struct

from frameseal.codecs.rtp import nal_headers

_OGG_BEGIN, _OGG_END = 2, 4  # flags of the first and of the last page
_OGG_POLYNOMIAL = 0x04C11DB7
_OGG_LACE = 255  # a page holds a packet in segments of at most this length

_H265_IRAP = range(16, 24)  # BLA, IDR, CRA and their reserved neighbours
_H265_PARAMETER_SETS = range(32, 35)  # VPS, SPS, PPS


def vp8_file(frame: bytes) -> bytes:
    """Return an IVF file that holds a VP8 frame."""
    return _ivf(b"VP80", frame)


def vp9_file(frame: bytes) -> bytes:
    """Return an IVF file that holds a VP9 frame."""
    return _ivf(b"VP90", frame)


def _ivf(fourcc: bytes, frame: bytes) -> bytes:
    # Size 0 x 0: the demuxer reads the size from the frame. One frame, 30 in a second.
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, 0, 0, 30, 1, 1, 0)
    return header + struct.pack("<IQ", len(frame), 0) + frame


def opus_file(frame: bytes) -> bytes:
    """Return an Ogg file that holds an Opus frame, stereo at 48 kHz.

    Its pre-skip is 0: a recording begins in the midst of a stream, so that no sample belongs to the encoder's start.
    Stereo holds for frames of one channel too (RFC 6716, section 2.1.1).
    """
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 2, 0, 48000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    return _page(0, _OGG_BEGIN, head) + _page(1, 0, tags) + _page(2, _OGG_END, frame)


def _page(number: int, flags: int, packet: bytes) -> bytes:
    """Return an Ogg page that holds one packet (RFC 3533, section 6)."""
    lacing = bytes([_OGG_LACE] * (len(packet) // _OGG_LACE) + [len(packet) % _OGG_LACE])
    head = struct.pack("<4sBBQII", b"OggS", 0, flags, 0, 1, number)
    tail = bytes([len(lacing)]) + lacing + packet
    return head + struct.pack("<I", _checksum(head + bytes(4) + tail)) + tail


def _checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ _OGG_POLYNOMIAL if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def vp9_is_keyframe(frame: bytes) -> bool:
    """Return True if the first picture of a VP9 frame is a key frame (section 6.2 of the specification).

    :param frame: an opened, non-empty frame.
    """
    bits = int.from_bytes(frame[:2].ljust(2, b"\xff"), "big")
    if bits >> 14 != 0b10:  # frame_marker
        return False
    profile = (bits >> 13 & 1) | (bits >> 12 & 1) << 1
    after = bits << (5 if profile == 3 else 4) & 0xFFFF  # a reserved bit follows profile 3
    shows_existing, frame_type = after >> 15 & 1, after >> 14 & 1
    return not shows_existing and frame_type == 0


def h265_is_keyframe(frame: bytes) -> bool:
    """Return True if an H.265 frame has a random access picture or a parameter set.

    :param frame: an opened, non-empty frame with start codes.
    """
    kinds = (header >> 1 & 0x3F for header in nal_headers(frame))
    return any(kind in _H265_IRAP or kind in _H265_PARAMETER_SETS for kind in kinds)
