"""Short codes that people compare by voice, to see that the same keys open frames on both sides.

A code covers every key that may open a frame, with its key id and owner. It is stretched (PBKDF2, RFC 8018), so that a
search for two rooms with the same code costs 2^85 hashes. docs/guide/verification.md has the arithmetic and the limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from frameseal._native import KeyRing

if TYPE_CHECKING:
    from frameseal.enums import Profile
    from frameseal.keys.protocol import KeyRingProvider

VERSION: Final = 2
"""The version of the derivation. Codes begin with it, so that codes of two versions are never equal."""

ITERATIONS: Final = 2**18
GROUPS: Final = 8
DIGITS: Final = 5
GROUP_BYTES: Final = 5  # 2**40 values for 10**5 codes: no code is more likely than another by more than 1 in 10**7
MAX_CODES: Final = 128  # of the latest rooms, kept so that each is derived once
MAX_READS: Final = 100

Owner = str | None
"""A participant id; None stands for everybody who has no keys of their own."""

_Keys = Mapping[Owner, tuple[tuple[int, bytes], ...]]


def combine(rings: Mapping[Owner, KeyRing]) -> bytes:
    """Return 32 bytes that stand for every key by which these rings open frames, all of one moment.

    It is the same for all who open the same participants' frames with the same keys: docs/guide/verification.md has the
    derivation. A participant whose keys are those of the ring under None adds nothing.

    :param rings: participant id to the ring that opens their frames, oneself included; None: the ring that opens
        everybody else's, which holds the shared keys.
    :raises ValueError: for rings without any key.
    :raises TypeError: for anything but key rings by participant id.
    :raises RuntimeError: the keys changed all the time.
    """
    return _digest(_snapshot(lambda: rings))


def short_code(rings: KeyRing | Mapping[Owner, KeyRing]) -> str:
    """Return the code of these rings' keys, such as "v2 91834 76182 64411 81390 27746 58013 00962 34471".

    Eight groups of five digits follow the version. It takes some 0.2 s once for the same keys: not on an event loop, so
    ``await asyncio.to_thread(short_code, rings)``. The latest codes are kept.

    :param rings: as for `combine`, or the one ring that all share.
    :raises ValueError: for rings without any key.
    :raises TypeError: for anything but key rings by participant id.
    :raises RuntimeError: the keys changed all the time, or this Python has no PBKDF2.
    """
    return _code(combine({None: rings} if isinstance(rings, KeyRing) else rings))


def of_provider(provider: KeyRingProvider, profile: Profile, named: Iterable[str], known: Iterable[str]) -> str:
    """Return the code of a provider's keys: the shared ones, and those of every participant who has some.

    :param named: participants who must have a key.
    :param known: other participants, where the provider does not tell who has keys (``participant_ids``).
    :raises ValueError: for a named participant without a key, or no key at all.
    :raises RuntimeError: as `short_code`.
    """
    named = list(named)

    def rings() -> dict[Owner, KeyRing]:
        names = {*named, *known, *getattr(provider, "participant_ids", ())}
        return {None: provider.ring_for(profile, ""), **{name: provider.ring_for(profile, name) for name in names}}

    keys = _snapshot(rings)
    for name in named:
        if not keys[name]:
            raise ValueError("participant_ids: one of them has no key: set it first, or leave them out")
    return _code(_digest(keys))


def _snapshot(rings: Callable[[], Mapping[Owner, KeyRing]]) -> _Keys:
    """Read all keys of one moment: until two reads in a row are equal, a ring's generation included."""
    last = None
    for _ in range(MAX_READS):
        read = {owner: _read(owner, ring) for owner, ring in _items(rings())}
        if read == last:
            return {owner: keys for owner, (_, keys) in read.items()}
        last = read
    raise RuntimeError("keys changed whenever they were read: compare codes when no rotation is under way")


def _items(rings: Mapping[Owner, KeyRing]) -> Iterable[tuple[Owner, KeyRing]]:
    if not isinstance(rings, Mapping):
        raise TypeError(
            f"rings must be a KeyRing, or a mapping of participant ids to rings, not {type(rings).__name__}"
        )
    return rings.items()


def _read(owner: Owner, ring: KeyRing) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    if not (owner is None or isinstance(owner, str)):
        raise TypeError(f"rings: a participant id must be a str or None, not {type(owner).__name__}")
    fingerprints = getattr(ring, "fingerprints", None)
    if fingerprints is None:
        raise TypeError(f"rings: each participant must have a KeyRing, not {type(ring).__name__}")
    # In this order: what changes after the first is seen by the next read.
    return ring.generation, tuple(fingerprints())


def _digest(keys: _Keys) -> bytes:
    shared = keys.get(None, ())
    if not any(keys.values()):
        raise ValueError("there is no key to compare: set one first")
    state = hashlib.sha256(f"frameseal keys v{VERSION}".encode())
    state.update(b"\0" + _entries(shared))
    # A lone surrogate in an id of the application's must not end in an exception that quotes it.
    own = {name.encode("utf-8", "surrogatepass"): held for name, held in keys.items() if name is not None}
    for participant, held in sorted(own.items()):
        if held != shared:
            state.update(b"\1" + len(participant).to_bytes(4, "big") + participant + _entries(held))
    return state.digest()


def _entries(keys: tuple[tuple[int, bytes], ...]) -> bytes:
    entries = (key_id.to_bytes(8, "big") + fingerprint for key_id, fingerprint in keys)
    return len(keys).to_bytes(4, "big") + b"".join(entries)


def _code(digest: bytes) -> str:
    stretched = _stretch(digest)
    starts = range(0, GROUPS * GROUP_BYTES, GROUP_BYTES)
    groups = (int.from_bytes(stretched[start : start + GROUP_BYTES], "big") for start in starts)
    return " ".join([f"v{VERSION}", *(f"{group % 10**DIGITS:0{DIGITS}}" for group in groups)])


@lru_cache(MAX_CODES)
def _stretch(digest: bytes) -> bytes:
    """Make each candidate of a search expensive.

    It comes last, after all keys are combined. Keys that were stretched one by one could be combined afresh for
    nothing: a search would stretch the square root of its candidates only.
    """
    derive = getattr(hashlib, "pbkdf2_hmac", None)
    if derive is None:
        raise RuntimeError("short codes need hashlib.pbkdf2_hmac: use a Python that was built with OpenSSL")
    salt = f"frameseal short code v{VERSION}".encode()
    stretched: bytes = derive("sha512", digest, salt, ITERATIONS, GROUPS * GROUP_BYTES)
    return stretched
