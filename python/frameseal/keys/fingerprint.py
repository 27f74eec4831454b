"""Short codes that people compare by voice, to verify that the same keys open frames on both sides.

A code covers every key that may open a frame, with its key id and owner. PBKDF2 (RFC 8018) stretches it, so that a
search for two rooms with equal codes costs 2^85 hashes. docs/guide/verification.md has the arithmetic and the limits.
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
"""The version of the derivation. It is the prefix of every code, so that codes of two versions are never equal."""

ITERATIONS: Final = 2**18
GROUPS: Final = 8
DIGITS: Final = 5
GROUP_BYTES: Final = 5  # 2**40 values for 10**5 groups: the probabilities of two groups differ by at most 1 in 10**7
MAX_CODES: Final = 128  # capacity of the cache of codes, so that each is derived once
MAX_READS: Final = 100  # attempts to read all keys without a change in between

Owner = str | None
"""A participant id. None stands for everybody without keys of their own."""

_Keys = Mapping[Owner, tuple[tuple[int, bytes], ...]]


def combine(rings: Mapping[Owner, KeyRing]) -> bytes:
    """Return a digest of 32 bytes over every key with which these rings open frames, from one snapshot.

    It is equal for all who open the frames of the same participants with the same keys. docs/guide/verification.md has
    the derivation. A participant whose keys equal those of the ring under None adds nothing to it.

    :param rings: maps a participant id to the ring that opens their frames, the local participant included. None maps
        to the ring with the shared keys, which opens everybody else's frames.
    :raises TypeError: *rings* does not map participant ids to key rings.
    :raises ValueError: no ring has a key.
    :raises RuntimeError: the keys changed during each of 100 attempts to read them.
    """
    return _digest(_snapshot(lambda: rings))


def short_code(rings: KeyRing | Mapping[Owner, KeyRing]) -> str:
    """Return the code of these rings' keys, such as "v2 91834 76182 64411 81390 27746 58013 00962 34471".

    Eight groups of five digits follow the version. The derivation of a new code lasts some 0.2 s. Call it in a thread,
    as in ``await asyncio.to_thread(short_code, rings)``. The latest 128 codes are cached.

    :param rings: as for `combine`, or the one ring that all share.
    :raises TypeError: *rings* is neither a key ring nor a mapping of participant ids to key rings.
    :raises ValueError: no ring has a key.
    :raises RuntimeError: the keys changed during each of 100 attempts to read them, or this Python has no PBKDF2.
    """
    return _code(combine({None: rings} if isinstance(rings, KeyRing) else rings))


def of_provider(provider: KeyRingProvider, profile: Profile, named: Iterable[str], known: Iterable[str]) -> str:
    """Return the code of a provider's keys: the shared keys, and the keys of every participant who has their own.

    :param named: ids of participants who must have a key.
    :param known: ids of further participants, for a provider without the property ``participant_ids``.
    :raises ValueError: a named participant has no key, or there is no key at all.
    :raises RuntimeError: as for `short_code`.
    """
    named = list(named)

    def rings() -> dict[Owner, KeyRing]:
        names = {*named, *known, *getattr(provider, "participant_ids", ())}
        return {None: provider.ring_for(profile, ""), **{name: provider.ring_for(profile, name) for name in names}}

    keys = _snapshot(rings)
    for name in named:
        if not keys[name]:
            raise ValueError("participant_ids must name participants with a key: set the key, or omit the id")
    return _code(_digest(keys))


def _snapshot(rings: Callable[[], Mapping[Owner, KeyRing]]) -> _Keys:
    """Read all keys until two consecutive reads are equal, including the generation of each ring."""
    last = None
    for _ in range(MAX_READS):
        read = {owner: _read(owner, ring) for owner, ring in _items(rings())}
        if read == last:
            return {owner: keys for owner, (_, keys) in read.items()}
        last = read
    raise RuntimeError(f"the keys changed during each of {MAX_READS} reads: compare codes while no rotation runs")


def _items(rings: Mapping[Owner, KeyRing]) -> Iterable[tuple[Owner, KeyRing]]:
    if not isinstance(rings, Mapping):
        raise TypeError(
            f"rings must be a KeyRing, or a mapping of participant ids to KeyRings, not {type(rings).__name__}"
        )
    return rings.items()


def _read(owner: Owner, ring: KeyRing) -> tuple[int, tuple[tuple[int, bytes], ...]]:
    if not (owner is None or isinstance(owner, str)):
        raise TypeError(f"the keys of rings must be participant ids (str) or None, not {type(owner).__name__}")
    fingerprints = getattr(ring, "fingerprints", None)
    if fingerprints is None:
        raise TypeError(f"the values of rings must be KeyRings, not {type(ring).__name__}")
    # The generation is read first: the next read then detects any later change.
    return ring.generation, tuple(fingerprints())


def _digest(keys: _Keys) -> bytes:
    shared = keys.get(None, ())
    if not any(keys.values()):
        raise ValueError("there is no key to compare: set one first")
    state = hashlib.sha256(f"frameseal keys v{VERSION}".encode())
    state.update(b"\0" + _entries(shared))
    # A lone surrogate in an id must not raise an exception that quotes the id.
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
    """Stretch the digest with PBKDF2, to make each candidate of a search expensive.

    This is the last step, after all keys are combined. Keys stretched one by one could be recombined at no cost. Then a
    search would stretch only the square root of its candidates.
    """
    derive = getattr(hashlib, "pbkdf2_hmac", None)
    if derive is None:
        raise RuntimeError("short codes need hashlib.pbkdf2_hmac: use a Python built with OpenSSL")
    salt = f"frameseal short code v{VERSION}".encode()
    stretched: bytes = derive("sha512", digest, salt, ITERATIONS, GROUPS * GROUP_BYTES)
    return stretched
