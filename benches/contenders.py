"""Ours and the rivals, ready to run on one frame, and checked against each other before anything is timed."""

from collections.abc import Callable
from dataclasses import dataclass

import frameseal
from rivals import AeadAlone, PurePython

KEY = bytes(range(32))
SIZES = (120, 1_200, 6_000, 20_000, 100_000)
DIRECTIONS = ("encrypt", "decrypt")


@dataclass(frozen=True)
class Contender:
    """One implementation: seals a frame, opens a sealed one."""

    name: str
    encrypt: Callable[[bytes], bytes]
    decrypt: Callable[[bytes], bytes]


def frame_of(size: int) -> bytes:
    return bytes((n * 31 + 7) % 256 for n in range(size))


def contenders() -> list[Contender]:
    """Raise AssertionError unless ours and the pure-Python class open each other's frames."""
    ring = frameseal.KeyRing("livekit")
    ring.set_key(KEY)
    ours = Contender("frameseal", frameseal.Encryptor(ring, "opus").encrypt, frameseal.Decryptor(ring, "opus").decrypt)
    pure_class, aead = PurePython(KEY), AeadAlone(KEY)
    pure = Contender("pure Python class", pure_class.encrypt, pure_class.decrypt)
    for size in SIZES:
        frame = frame_of(size)
        assert ours.decrypt(pure.encrypt(frame)) == frame
        assert pure.decrypt(ours.encrypt(frame)) == frame
    return [ours, pure, Contender("cryptography's AEAD alone", aead.encrypt, aead.decrypt)]
