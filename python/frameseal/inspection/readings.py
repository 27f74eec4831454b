"""Readings of a sealed frame for `frameseal inspect`: the ranges of its parts, under each profile that fits.

It is for people who debug interop, and needs no key: it reads only bytes that everybody on the way can read. With a key
it also finds the profile that opens the frame. It is written from the formats, independently of the core; the tests
compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from frameseal._native import Decryptor, KeyRing
from frameseal.enums import CipherSuite, Profile
from frameseal.exceptions import FrameError
from frameseal.inspection import shapes
from frameseal.inspection.shapes import ENVELOPE, IV_LEN, TAG_LEN, TRAILER_LEN, Shape

CODECS = ("opus", "vp8", "vp9", "h264", "h265")
JITSI_LACKS = ("vp9", "h264", "h265")
_START_CODE = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True)
class Part:
    """Bytes [start:end) of the frame, or of the frame without its escapes if a remark says so."""

    name: str
    start: int
    end: int
    data: bytes
    note: str = ""


@dataclass(frozen=True)
class Reading:
    """A frame, read under one layout."""

    layout: str
    """The profiles with this layout."""
    codec: str | None
    """The codec whose rule gave the clear bytes. None if the layout needs no codec."""
    parts: list[Part]
    remarks: list[str] = field(default_factory=list)
    likely: bool = False
    """True if this one frame is evidence for the layout: one frame in 256 ends like a trailer by chance."""


def readings(sealed: bytes, codec: str | None = None) -> list[Reading]:
    """Return every reading of a frame that fits, the likely ones first.

    :param codec: the codec whose clear bytes are read. None tries each codec with different clear bytes.
    """
    found = [*_trailer(sealed, codec), *_sframe(sealed, codec)]
    return sorted(found, key=lambda reading: not reading.likely)


def key_id(sealed: bytes, profile: str, codec: str | None) -> int | None:
    """Return the key id that a frame of *profile* names. Returns None if it is no such frame."""
    if profile != Profile.SFRAME:
        return sealed[-1] if len(sealed) >= TRAILER_LEN else None
    header = shapes.sframe_header(sealed, codec)
    return None if header is None else header[0]


def plaintext_signs(frame: bytes) -> list[str]:
    """Return the signs that one frame was never sealed. Examines its first kilobyte and its end."""
    signs = []
    if len(frame) > 10 and not frame[0] & 1 and frame[3:6] == b"\x9d\x01\x2a" and frame[-2:-1] != b"\x0c":
        signs.append("a VP8 key frame without a trailer")
    head = frame[: shapes.EXCERPT_HEAD]
    starts = [match.end() for match in _START_CODE.finditer(head)]
    if len(starts) > 1 and frame[-2:-1] != b"\x0c" and head[: starts[0]].strip(b"\0") == b"\x01":
        slices = [at for at in starts if at < len(head) and head[at] & 0x1F in (1, 5)]
        if len(slices) > 1:
            signs.append("a byte stream with several slices in the clear")
    return signs


class Verdict(NamedTuple):
    """The shape of several frames of one track."""

    shape: Shape
    codec: str | None
    """The codec of plain frames, or of the envelope of SFrames. None if there is no envelope or no verdict."""


def verdict(frames: Sequence[bytes], codec: str | None = None) -> Verdict:
    """Return the shape of frames of one track, in order of arrival.

    :param codec: the track's codec. None tries each codec that frames can reveal.
    """
    seen = [shapes.excerpt(frame) for frame in frames]
    for name in (codec,) if codec else (None, "h265", "h264", "vp8", "vp9", "opus"):
        shape = shapes.shape(seen, name)
        if shape is not Shape.UNKNOWN:
            return Verdict(shape, name)
    return Verdict(Shape.UNKNOWN, codec)


class Opener(NamedTuple):
    """A profile, codec and suite that open a frame."""

    profile: Profile
    codec: str
    suite: CipherSuite


def openers(sealed: bytes, secret: str | bytes, codec: str | None = None) -> list[Opener]:
    """Return every profile, codec and suite under which *secret* opens the frame.

    :param secret: a passphrase as str, or a raw key as bytes.
    """
    found: list[Opener] = []
    ways = readings(sealed, codec)
    for profile in Profile:
        fitting = [reading for reading in ways if profile.value in reading.layout.split("/")]
        suites, material = [CipherSuite.AES_128_GCM_SHA256_128], secret
        if profile is Profile.SFRAME and fitting:
            # A frame does not name its suite. The password KDF, which is slow, is the same for all suites.
            suites, material = list(CipherSuite), _base_key(secret)
        found += [
            Opener(profile, reading.codec or "any", suite)
            for reading in fitting
            for suite in suites
            if _opens(sealed, material, profile, suite, reading)
        ]
    return found


def _base_key(secret: str | bytes) -> bytes:
    if isinstance(secret, bytes):
        return secret
    ring = KeyRing(Profile.SFRAME, allow_export=True)
    ring.set_passphrase(secret)
    return ring.export_key()


def _opens(sealed: bytes, secret: str | bytes, profile: Profile, suite: CipherSuite, reading: Reading) -> bool:
    if profile is Profile.JITSI and isinstance(secret, str):
        return False  # jitsi has no password KDF
    kid = next(int(part.note) for part in reading.parts if part.name in ("key index", "KID"))
    for shared in (False, True) if profile is Profile.SFRAME else (False,):
        ring = KeyRing(profile, suite=suite, allow_draft=True, shared=shared, key_ring_size=256)
        key_id = kid & 0xFF if shared else kid
        if isinstance(secret, str):
            ring.set_passphrase(secret, key_id)
        else:
            ring.set_key(secret, key_id)
        try:
            Decryptor(ring, reading.codec).decrypt(sealed)
        except FrameError:
            continue
        return True
    return False


def _trailer(sealed: bytes, codec: str | None) -> Iterator[Reading]:
    for name in (codec,) if codec else CODECS:
        clear = _clear_len(name, sealed)
        if clear is None or clear > len(sealed):
            continue
        tail, remarks = sealed[clear:], []
        if name in ("h264", "h265"):
            plain = tail.replace(b"\0\0\3", b"\0\0")
            if len(plain) < len(tail):
                remarks.append(
                    f"{len(tail) - len(plain)} escape bytes removed: ranges after the clear bytes count without them"
                )
            tail = plain
        body = len(tail) - TAG_LEN - TRAILER_LEN
        if body < 0 or tail[-2] != IV_LEN:
            continue
        at = clear + body
        parts = [
            Part("clear bytes (AAD)", 0, clear, sealed[:clear]),
            Part("ciphertext", clear, at, tail[:body]),
            Part("tag", at, at + TAG_LEN, tail[body : body + TAG_LEN]),
            Part("IV", at + TAG_LEN, at + TAG_LEN + IV_LEN, tail[-TRAILER_LEN:-2]),
            Part("IV length", at + 28, at + 29, tail[-2:-1], str(tail[-2])),
            Part("key index", at + 29, at + 30, tail[-1:], str(tail[-1])),
        ]
        remarks.append("the second-last byte is 12, the length of an IV")
        layout = "livekit/videosdk" if name in JITSI_LACKS else "livekit/videosdk/jitsi"
        yield Reading(layout, name, parts, remarks, likely=True)


def _clear_len(codec: str, frame: bytes) -> int | None:
    """Return the number of clear bytes of a sealed frame. Returns None if it cannot be of this codec."""
    match codec:
        case "opus" | "pcmu" | "pcma" | "g722":
            return 1
        case "vp8":
            return (3 if frame[0] & 1 else 10) if frame else None
        case "h264" | "h265":
            for number, match in enumerate(_START_CODE.finditer(frame)):
                at = match.end()
                if at >= len(frame) - 3 or (number == 0 and frame[: at - 3].strip(b"\0")):
                    return None
                if frame[at] & 0x1F in (1, 5) if codec == "h264" else frame[at] >> 1 & 0x3F in _H265_SLICES:
                    return at + 2
            return None
        case _:
            return 0


_H265_SLICES = frozenset([*range(10), *range(16, 22)])


def _sframe(sealed: bytes, codec: str | None) -> Iterator[Reading]:
    for name in (codec,) if codec else ("vp8", "h264", "h265"):
        front = ENVELOPE.get(name, 0)
        inside, remarks, parts = sealed, [], []
        if front:
            if not sealed.startswith(b"\0\0\0\1") or sealed[-1] != 0x80 or len(sealed) <= front:
                continue
            inside = sealed[front:-1].replace(b"\0\0\3", b"\0\0")
            remarks.append("one NAL unit with a stop byte: frameseal's envelope for SFrames")
            if len(inside) < len(sealed) - front - 1:
                remarks.append("escape bytes removed: ranges after the envelope count without them")
            parts = [Part("start code, NAL header", 0, front, sealed[:front])]
        header = shapes.header(inside)
        if header is None or len(inside) < header[2] + 4:
            continue
        kid, ctr, length = header
        # The suite determines the length of the tag, and a frame does not name its suite. The default has 16 bytes, the
        # minimum is 4.
        tag_len = min(TAG_LEN, len(inside) - length)
        if tag_len < TAG_LEN:
            remarks.append("too short for the 16-byte tag of the default suite: other suites have 10, 8 or 4 bytes")
        tag = len(inside) - tag_len
        # The config byte itself holds a small value.
        kid_len = (inside[0] >> 4 & 7) + 1 if inside[0] & 0x80 else 0
        kid_at = (1, 1 + kid_len) if kid_len else (0, 1)
        ctr_at = (1 + kid_len, length) if inside[0] & 0x08 else (0, 1)
        parts += [
            Part("SFrame header", front, front + length, inside[:length]),
            Part("KID", front + kid_at[0], front + kid_at[1], inside[slice(*kid_at)], str(kid)),
            Part("CTR", front + ctr_at[0], front + ctr_at[1], inside[slice(*ctr_at)], str(ctr)),
            Part("ciphertext", front + length, front + tag, inside[length:tag]),
            Part("tag (default suite)", front + tag, front + len(inside), inside[tag:]),
        ]
        remarks.append(
            f"a header of {length} byte{'s' * (length > 1)}, in its shortest form, which plain frames may also have"
        )
        yield Reading("sframe", name if front else None, parts, remarks)
