"""Ours and the rivals, ready to run on one frame, and checked against each other before anything is timed."""

from collections.abc import Callable
from dataclasses import dataclass

import frameseal
from rivals import AeadAlone, PurePython, PurePythonSframe

KEY = bytes(range(32))
SIZES = (120, 1_200, 6_000, 20_000, 100_000)
DIRECTIONS = ("encrypt", "decrypt")
OURS, PURE, ALONE = "frameseal", "pure Python class", "cryptography's AEAD alone"
FLOOR = "the floor (AWS-LC in an extension)"


@dataclass(frozen=True)
class Contender:
    """One implementation: seals a frame, opens a sealed one."""

    name: str
    encrypt: Callable[[bytes], bytes]
    decrypt: Callable[[bytes], bytes]


def frame_of(size: int) -> bytes:
    return bytes((n * 31 + 7) % 256 for n in range(size))


def races() -> dict[str, list[Contender]]:
    """Who runs against whom; ours comes first, the pure-Python class second.

    Raises AssertionError unless these two open each other's frames.
    """
    import floor  # built for the benches alone; the names are to be had without it

    ring = frameseal.KeyRing("livekit")
    ring.set_key(KEY)
    pure, aead = PurePython(KEY), AeadAlone(KEY)
    alone = Contender(ALONE, aead.encrypt, aead.decrypt)
    # The bare AEAD, called as an extension in C would: what cannot be had for less.
    least = Contender(FLOOR, floor.encrypt, floor.decrypt)

    sframe_ring = frameseal.KeyRing("sframe")
    sframe_ring.set_key(KEY, 1)
    pure_sframe = PurePythonSframe(KEY)
    made = {
        "livekit": [_ours(ring), Contender(PURE, pure.encrypt, pure.decrypt), alone, least],
        "sframe": [
            _ours(sframe_ring),
            Contender(PURE, pure_sframe.encrypt, pure_sframe.decrypt),
            alone,
            least,
        ],
    }
    for ours, rival, *_ in made.values():
        for frame in map(frame_of, SIZES):
            assert ours.decrypt(rival.encrypt(frame)) == frame
            assert rival.decrypt(ours.encrypt(frame)) == frame
    return made


def _ours(ring: frameseal.KeyRing) -> Contender:
    # Without the replay window that SFrame has: a benchmark opens one frame again and again.
    return Contender(
        OURS,
        frameseal.Encryptor(ring, "opus").encrypt,
        frameseal.Decryptor(ring, "opus", replay_window=0).decrypt,
    )
