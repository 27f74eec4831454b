"""Short codes that people compare by voice, to see that they hold the same keys. docs/verification.md has the why.

What is compared is `KeyRing.fingerprint`, 32 bytes that say nothing about the key. Here they are combined, where every
participant has a key of their own, and shortened to what can be read aloud.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

FINGERPRINT_BYTES: Final = 32
GROUPS: Final = 6
DIGITS: Final = 5
GROUP_BYTES: Final = 5  # 2**40 values for 10**5 codes: no code is more likely than another by more than 1 in 10**7

_ROOM: Final = b"frameseal room v1"


def combine(fingerprints: Mapping[str, bytes]) -> bytes:
    """Return one fingerprint (32 bytes) of a room in which each participant has a key of their own.

    ``SHA-256("frameseal room v1" || for each participant, by the UTF-8 bytes of the id in ascending order: length of
    the id as 4 bytes, big-endian || id || fingerprint)``. It is the same for all who see the same participants with the
    same keys.

    :param fingerprints: participant id to `KeyRing.fingerprint` of that participant's ring, oneself included.
    :raises ValueError: for no participant, or a fingerprint that has not 32 bytes.
    """
    if not fingerprints:
        raise ValueError("there is nobody to compare keys with")
    state = hashlib.sha256(_ROOM)
    for participant, fingerprint in sorted((name.encode(), value) for name, value in fingerprints.items()):
        state.update(len(participant).to_bytes(4, "big") + participant + _checked(fingerprint))
    return state.digest()


def short_code(fingerprint: bytes) -> str:
    """Return a fingerprint as 6 groups of 5 digits, such as "48213 00417 93350 12984 66012 70551".

    Group *n* is bytes 5n to 5n+4, big-endian, modulo 100,000. 30 digits are some 99 bits: more than anybody can search
    for another key with the same code.

    :raises ValueError: for a fingerprint that has not 32 bytes.
    """
    _checked(fingerprint)
    starts = range(0, GROUPS * GROUP_BYTES, GROUP_BYTES)
    groups = (int.from_bytes(fingerprint[start : start + GROUP_BYTES], "big") for start in starts)
    return " ".join(f"{group % 10**DIGITS:0{DIGITS}}" for group in groups)


def _checked(fingerprint: bytes) -> bytes:
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(fingerprint)}")
    return fingerprint
