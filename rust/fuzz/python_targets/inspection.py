"""Compares the plain-Python readings of a sealed frame with the core's, and looks at several frames of one track.

The first byte of an input chooses the profile (high half) and the codec (low half). The others are the frame.
"""

from functools import cache
from itertools import pairwise

from frameseal import Decryptor, KeyRing, Profile
from frameseal.codecs import CODECS
from frameseal.inspection.readings import key_id, plaintext_signs, readings, verdict
from frameseal.inspection.shapes import TAG_LEN
from frameseal.profiles import PROFILES

MAX_FRAMES = 16


@cache
def decryptor(profile: Profile, codec: str) -> Decryptor | None:
    """Return the core's side, or None if the profile refuses the codec. Reading a key id does not change it."""
    return None if codec in PROFILES[profile]["refused_codecs"] else Decryptor(KeyRing(profile), codec)


def check(data: bytes) -> bool:
    """Check that both read the same key id wherever both read a frame. Return True if they do."""
    if not data:
        return False
    frame = data[1:]
    _check_track(data[0], frame)
    plaintext_signs(frame)
    profiles, codecs = list(PROFILES), list(CODECS)
    if data[0] >> 4 >= len(profiles) or data[0] & 15 >= len(codecs):
        return False
    profile, codec = profiles[data[0] >> 4], codecs[data[0] & 15]
    _check_ranges(frame)
    core = decryptor(profile, codec)
    if core is None:
        return False
    expected = core.key_id_of(frame)
    if expected is not None:
        assert key_id(frame, profile, codec) == expected, "the ids differ"
    read = [reading for reading in readings(frame, codec) if profile in reading.profiles]
    # The core takes a slice of H.264 first, whatever codec was signalled.
    clear_h264 = CODECS["h264"].clear_len
    if codec == "h265" and PROFILES[profile]["layout"] == "trailer" and clear_h264 and clear_h264(frame) is not None:
        return expected is not None
    for reading in read:
        parts = {part.name: part for part in reading.parts}
        named = parts.get("key index") or parts["KID"]
        # A shorter tag is that of another suite than the core's default.
        tag = parts.get("tag") or parts["tag (default suite)"]
        if len(tag.data) == TAG_LEN:
            assert expected == int(named.note), f"the core reads {expected}, the inspection {named.note}"
    assert expected is None or read or CODECS[codec].nal_header_len, "the core alone reads the frame"
    return expected is not None


def _check_ranges(frame: bytes) -> None:
    """Check that the parts of each reading follow each other, and have the lengths of their ranges."""
    for reading in readings(frame):
        parts = [part for part in reading.parts if part.name not in ("KID", "CTR")]
        assert parts[0].start == 0
        assert all(before.end == after.start for before, after in pairwise(parts))
        assert all(part.end - part.start == len(part.data) for part in reading.parts)
        assert parts[-1].end <= len(frame)


def _check_track(chosen: int, data: bytes) -> None:
    """Look at the input as the frames of one track, of equal lengths."""
    step = 1 + chosen % 24
    frames = [data[start : start + step] for start in range(0, len(data), step)][:MAX_FRAMES]
    codecs = [None, *CODECS]
    assert verdict(frames, codecs[chosen % len(codecs)]).shape
