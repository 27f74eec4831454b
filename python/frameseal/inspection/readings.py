"""Readings of a sealed frame for `frameseal inspect`: the ranges of its parts, under each profile that fits.

It is for people who debug interop. It needs no key, and reads only bytes that everybody on the path can read. With a
key it also finds the profile that opens the frame. It is written from the formats, independently of the core. The tests
compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from frameseal._native import Decryptor, KeyRing
from frameseal.codecs import CODECS, CodecRow, find
from frameseal.codecs.plain import excerpt
from frameseal.enums import CipherSuite, Profile
from frameseal.exceptions import FrameError
from frameseal.inspection import shapes
from frameseal.inspection.shapes import FOOTER_LEN, IV_LEN, TAG_LEN, TRAILER_LEN, Shape
from frameseal.profiles import PROFILES, is_sframe, layout


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

    profiles: tuple[Profile, ...]
    """The profiles that have the layout."""
    codec: str | None
    """The codec whose rule determined the clear bytes. None if the layout needs no codec."""
    parts: list[Part]
    remarks: list[str] = field(default_factory=list)
    likely: bool = False
    """True if this one frame suggests the layout. By chance, one frame in 256 ends as a trailer does."""

    @property
    def layout(self) -> str:
        """The names of the profiles, for people to read."""
        return "/".join(self.profiles)


def readings(sealed: bytes, codec: str | None = None) -> list[Reading]:
    """Return every reading of a frame that fits, the likely ones first.

    :param codec: read the clear bytes by this codec only. None tries every codec whose clear bytes differ.
    :raises ValueError: for an unknown codec.
    """
    codecs = [find(codec)] if codec else list(CODECS.values())
    found = [*_footer(sealed), *_trailer(sealed, codecs), *_sframe(sealed, codecs)]
    return sorted(found, key=lambda reading: not reading.likely)


def key_id(sealed: bytes, profile: str, codec: str | None) -> int | None:
    """Return the key id that a frame of *profile* names. It reads a few bytes of the frame.

    Returns None if the frame is no frame of the profile.

    :raises ValueError: for an unknown profile or codec.
    """
    if not is_sframe(profile):
        if layout(profile) == "footer":
            return sealed[-8] if shapes.ends_in_footer(sealed) else None
        return sealed[-1] if len(sealed) >= TRAILER_LEN else None
    header = shapes.sframe_header(sealed, find(codec) if codec else None)
    return None if header is None else header[0]


def plaintext_signs(frame: bytes) -> list[str]:
    """Describe why one frame looks as if it had never been sealed. It reads the first kilobyte and the end."""
    if shapes.ends_in_footer(frame):
        return []
    signs = [codec.plain_sign(frame) for codec in CODECS.values() if codec.plain_sign]
    return [sign for sign in signs if sign]


class Verdict(NamedTuple):
    """The shape of several frames of one track."""

    shape: Shape
    codec: str | None
    """The codec of plain frames, or of the envelope of SFrames. None if there is no envelope or no verdict."""


def verdict(frames: Sequence[bytes], codec: str | None = None) -> Verdict:
    """Return the shape of frames of one track, in the order in which they arrived.

    :param codec: the codec of the track; None tries every codec whose plain frames can be recognised.
    :raises ValueError: for an unknown codec.
    """
    seen = [excerpt(frame) for frame in frames]
    recognisable = [known.name for known in reversed(CODECS.values()) if known.is_plain]
    for name in (codec,) if codec else (None, *recognisable):
        shape = shapes.shape(seen, name)
        if shape is not Shape.UNKNOWN:
            return Verdict(shape, name)
    return Verdict(Shape.UNKNOWN, codec)


class Opener(NamedTuple):
    """A profile, codec and suite under which a key opens a frame."""

    profile: Profile
    codec: str
    suite: CipherSuite


def openers(sealed: bytes, secret: str | bytes, codec: str | None = None) -> list[Opener]:
    """Return every profile, codec and suite under which *secret* opens the frame.

    :param secret: a passphrase as str, or a raw key as bytes.
    """
    found: list[Opener] = []
    ways = readings(sealed, codec)
    for profile, info in PROFILES.items():
        fitting = [reading for reading in ways if profile in reading.profiles]
        if not fitting or (isinstance(secret, str) and not info["accepts_passphrases"]):
            continue
        suites, material = [CipherSuite.AES_128_GCM_SHA256_128], secret
        if is_sframe(profile):
            # A frame does not name its suite. The slow step is the same for all suites.
            suites, material = list(CipherSuite), _base_key(profile, secret)
        elif info["layout"] == "footer":
            # The key is the AES key, so its length tells the suite. No key of another length opens a frame.
            suites = [suite for length, suite in _RAW_KEY_SUITES.items() if length == len(secret)]
        found += [
            Opener(profile, reading.codec or "any", suite)
            for reading in fitting
            for suite in suites
            if _opens(sealed, material, profile, suite, reading)
        ]
    return found


_RAW_KEY_SUITES: Final = {16: CipherSuite.AES_128_GCM_SHA256_128, 32: CipherSuite.AES_256_GCM_SHA512_128}


def _base_key(profile: Profile, secret: str | bytes) -> bytes:
    if isinstance(secret, bytes):
        return secret
    ring = KeyRing(profile, allow_export=True)
    ring.set_passphrase(secret)
    return ring.export_key()


def _opens(sealed: bytes, secret: str | bytes, profile: Profile, suite: CipherSuite, reading: Reading) -> bool:
    kid = next(int(part.note) for part in reading.parts if part.name in ("key index", "KID"))
    for shared in (False, True) if is_sframe(profile) else (False,):
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


def _distinct(codecs: Sequence[CodecRow], trait: Callable[[CodecRow], object]) -> list[CodecRow]:
    """Return the first codec for each value of a trait."""
    first: dict[object, CodecRow] = {}
    for codec in codecs:
        first.setdefault(trait(codec), codec)
    return list(first.values())


def _trailer(sealed: bytes, codecs: Sequence[CodecRow]) -> Iterator[Reading]:
    for codec in _distinct(codecs, lambda codec: codec.clear_len):
        clear = codec.clear_len(sealed) if codec.clear_len else None
        if clear is None or clear > len(sealed):
            continue
        tail, remarks = sealed[clear:], []
        if codec.nal_header_len:
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
        remarks.append("the last byte but one is 12, the length of an IV")
        profiles = [
            profile
            for profile, info in PROFILES.items()
            if info["layout"] == "trailer" and codec.name not in info["refused_codecs"]
        ]
        yield Reading(tuple(profiles), codec.name, parts, remarks, likely=True)


def _footer(sealed: bytes) -> Iterator[Reading]:
    if not shapes.ends_in_footer(sealed):
        return
    field = int.from_bytes(sealed[-7:-5])
    clear, escaped = field & 0x7FFF, field >= 0x8000
    if clear > len(sealed) - FOOTER_LEN:
        return
    tail, remarks = sealed[clear:], ["it ends in the version and the marker of a footer"]
    if escaped:
        tail = shapes.without_escapes(sealed[:clear], tail)
        if len(tail) < len(sealed) - clear:
            removed = len(sealed) - clear - len(tail)
            remarks.append(f"{removed} escape bytes removed: ranges after the clear bytes count without them")
    body = len(tail) - TAG_LEN - FOOTER_LEN
    if body < 0:
        return
    names = ("ciphertext", "tag", "counter", "IV prefix", "key index", "escaped, clear length", "version", "marker")
    parts, at = [Part("clear bytes (AAD)", 0, clear, sealed[:clear])], 0
    for name, length in zip(names, (body, TAG_LEN, 4, 8, 1, 2, 1, 4), strict=True):
        data = tail[at : at + length]
        note = str(int.from_bytes(data)) if name in {"counter", "key index", "version"} else ""
        if name == "escaped, clear length":
            note = f"{'escaped' if escaped else 'not escaped'}, {clear}"
        parts.append(Part(name, clear + at, clear + at + length, data, note))
        at += length
    profiles = tuple(profile for profile, info in PROFILES.items() if info["layout"] == "footer")
    yield Reading(profiles, None, parts, remarks, likely=True)


def _sframe(sealed: bytes, codecs: Sequence[CodecRow]) -> Iterator[Reading]:
    profiles = tuple(profile for profile in PROFILES if is_sframe(profile))
    for codec in _distinct(codecs, lambda codec: codec.envelope_len):
        front = codec.envelope_len
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
        yield Reading(profiles, codec.name if front else None, parts, remarks)
