"""Prepares frameseal and its rivals for one frame, and checks them against each other before anything is timed."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import dave_rivals
import frameseal
from rivals import AeadAlone, PurePython, PurePythonSframe, wrtc_pair

KEY, KID = bytes(range(32)), 1
SIZES = (120, 1_200, 6_000, 20_000, 100_000)
DIRECTIONS = ("encrypt", "decrypt")
OURS, PURE, ALONE = "frameseal", "pure Python class", "cryptography's AEAD alone"
FLOOR = "the floor (AWS-LC in an extension)"
# These seal in Discord's format: related work, with other bytes on the wire.
DAVEY, DAVE_PY = "davey (Rust), DAVE frames", "dave.py (libdave, C++), DAVE frames"
WRTC, SFRAME_RS = "wrtc (libwebrtc's SFrame)", "sframe-rs, native"

FRESH_BYTES = 500_000  # of sealed frames prepared at a time: they fit into a core's cache


@dataclass(frozen=True)
class Contender:
    """An implementation that seals a frame and opens a sealed frame."""

    name: str
    encrypt: Callable[[bytes], bytes]
    decrypt: Callable[[bytes], bytes]
    opens_once: bool = False  # it refuses a frame that it opened before, and no option turns that off

    def timer(self, direction: str, frame: bytes) -> Callable[[int], float]:
        """Return a function of a number of frames that seals or opens them and returns the ns per frame."""
        if direction == "encrypt":
            return partial(per_frame, self.encrypt, frame)
        return (
            partial(per_fresh_frame, self, frame)
            if self.opens_once
            else partial(per_frame, self.decrypt, self.encrypt(frame))
        )


@dataclass(frozen=True)
class Native:
    """An implementation that is called and timed without Python."""

    name: str
    encrypt_ns: Callable[[int, int], float]
    decrypt_ns: Callable[[int, int], float]

    def timer(self, direction: str, frame: bytes) -> Callable[[int], float]:
        """Return a function of a number of frames that seals or opens them and returns the ns per frame."""
        return partial(self.encrypt_ns if direction == "encrypt" else self.decrypt_ns, len(frame))


Field = list[Contender | Native]


def frame_of(size: int) -> bytes:
    return bytes((n * 31 + 7) % 256 for n in range(size))


def per_frame(call: Callable[[bytes], bytes], argument: bytes, repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call(argument)
    return (time.perf_counter_ns() - start) / repeats


def per_fresh_frame(contender: Contender, frame: bytes, repeats: int) -> float:
    """Time opening only, of frames that were sealed a chunk at a time."""
    decrypt, chunk, spent, left = contender.decrypt, max(1, FRESH_BYTES // len(frame)), 0, repeats
    while left:
        fresh = [contender.encrypt(frame) for _ in range(min(chunk, left))]
        left -= len(fresh)
        start = time.perf_counter_ns()
        for sealed in fresh:
            decrypt(sealed)
        spent += time.perf_counter_ns() - start
    return spent / repeats


def races() -> dict[str, Field]:
    """Return the contenders of each race, frameseal first and the pure-Python class second.

    Raises AssertionError unless contenders of one format open each other's frames, and each contender its own. A rival
    that is not installed is named and left out.
    """
    import floor  # built for the benches only, and not needed for the names in this module

    ring = frameseal.KeyRing("livekit")
    ring.set_key(KEY)
    pure, aead = PurePython(KEY), AeadAlone(KEY)
    # The bare AEAD, called as an extension in C would call it: the lower bound.
    common = [Contender(ALONE, aead.encrypt, aead.decrypt), Contender(FLOOR, floor.encrypt, floor.decrypt)]
    livekit = [_ours(ring), Contender(PURE, pure.encrypt, pure.decrypt)]
    related = [*_if_installed(DAVEY, dave_rivals.davey_pair), *_if_installed(DAVE_PY, dave_rivals.dave_py_pair)]

    sframe_ring = frameseal.KeyRing("sframe")
    sframe_ring.set_key(KEY, KID)
    pure_sframe = PurePythonSframe(KEY, KID)
    sframe = [
        _ours(sframe_ring),
        Contender(PURE, pure_sframe.encrypt, pure_sframe.decrypt),
        *_if_installed(WRTC, lambda: wrtc_pair(KEY, KID)),
    ]
    _check_together(livekit)
    for one in related:
        _check_together([one])
    _check_together([*sframe, Contender(SFRAME_RS, floor.sframe_rs_encrypt, floor.sframe_rs_decrypt)])
    return {
        "livekit": [*livekit, *common, *related],
        "sframe": [*sframe, *common, Native(SFRAME_RS, floor.sframe_rs_encrypt_ns, floor.sframe_rs_decrypt_ns)],
    }


def _check_together(field: list[Contender]) -> None:
    for frame in map(frame_of, SIZES):
        for sealing in field:
            for opening in field:
                sealed = sealing.encrypt(frame)
                assert frame[8:] not in sealed, f"{sealing.name} does not seal"
                assert opening.decrypt(sealed) == frame, f"{opening.name} does not open what {sealing.name} seals"


def _if_installed(name: str, make: Callable[[], dave_rivals.Pair]) -> Iterator[Contender]:
    try:
        yield Contender(name, *make(), opens_once=name in (DAVEY, DAVE_PY))
    except ImportError as error:
        print(f"left out because it is not installed: {name} ({error})", file=sys.stderr)


def _ours(ring: frameseal.KeyRing) -> Contender:
    # Turn the replay window of SFrame off: a benchmark opens one frame again and again.
    return Contender(
        OURS,
        frameseal.Encryptor(ring, "opus").encrypt,
        frameseal.Decryptor(ring, "opus", replay_window=0).decrypt,
    )
