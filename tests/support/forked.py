"""Forks: `python forked.py NAME` runs one scenario, and prints the frames that each process has sealed, as JSON.

Each scenario runs in a separate process. So no fork copies a thread of the test runner in the middle of its work.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable

from frameseal import DataCryptor, Encryptor, KeyExhausted, KeyRing

KEY = b"a key that parent and children have"
KID = 5
CHILDREN = 4
FRAMES = 3
Sealed = list[bytes]


def ring(key: bytes = KEY, kid: int = KID, *, counter: int | None = None, **options) -> KeyRing:
    made = KeyRing("sframe", **options)
    made.set_key(key, kid, counter=counter)
    return made


def epoch(made: KeyRing, context: int = 0) -> KeyRing:
    made.set_epoch(1, KEY, epoch_bits=2, sender_bits=1, sender_index=1, context=context)
    return made


def seal(ring: KeyRing, frames: int = FRAMES) -> Sealed:
    """Seal frames one by one and as packets, until the key is exhausted."""
    sealed = []
    for encrypt in (Encryptor(ring).encrypt, DataCryptor(ring).encrypt_packet):
        for _ in range(frames):
            with contextlib.suppress(KeyExhausted):
                sealed.append(encrypt(b"frame"))
    return sealed


def forked(work: Callable[[int], Sealed], children: int = CHILDREN) -> list[Sealed]:
    """Run *work* in each child with its number, and return the frames that the children have sealed."""
    pipes = []
    for number in range(children):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with os.fdopen(write, "w") as pipe:
                    json.dump([frame.hex() for frame in work(number)], pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        pipes.append((pid, read))
    found = []
    for pid, read in pipes:
        with os.fdopen(read) as pipe:
            found.append([bytes.fromhex(frame) for frame in json.load(pipe)])
        _, status = os.waitpid(pid, 0)
        assert status == 0
    return found


def set_and_inherited() -> list[Sealed]:
    made = ring()
    return [*forked(lambda _: seal(made)), seal(made)]


def set_and_set_again() -> list[Sealed]:
    made = ring()
    return [*forked(lambda _: seal(ring())), seal(made)]


def set_and_set_again_in_the_ring() -> list[Sealed]:
    made = ring()

    def child(_: int) -> Sealed:
        made.remove_key(KID)
        made.set_key(KEY, KID)
        return seal(made)

    return [*forked(child), seal(made)]


def set_and_dropped() -> list[Sealed]:
    ring()
    return forked(lambda _: seal(ring()))


def set_to_open_and_sealed_elsewhere() -> list[Sealed]:
    receiver = KeyRing("sframe")
    receiver.set_key(b"the first key of this ring, which seals", 1)
    receiver.set_key(KEY, KID)
    return forked(lambda _: seal(ring()))


def sealed_with_a_counter() -> list[Sealed]:
    made = ring(counter=0)
    return [seal(made), *forked(lambda _: seal(ring())), *forked(lambda _: seal(made)), seal(made)]


def set_with_a_counter() -> list[Sealed]:
    made = ring(counter=100)
    return [*forked(lambda _: seal(ring())), seal(made)]


def grandchildren() -> list[Sealed]:
    made = ring()

    def child(number: int) -> Sealed:
        mine = ring(b"of the child alone, number %d" % number)
        return [frame for sealed in forked(lambda _: seal(ring()) + seal(mine), 2) for frame in sealed]

    return [*forked(child), seal(made)]


def ratcheted_in_the_child() -> list[Sealed]:
    made = ring(ratchet_bits=4)

    def child(number: int) -> Sealed:
        mine = made if number % 2 else ring(ratchet_bits=4)
        mine.ratchet(KID)
        return seal(mine)

    return [*forked(child), seal(made)]


def epochs_inherited() -> list[Sealed]:
    made = epoch(KeyRing("sframe"))
    return [*forked(lambda _: seal(made)), seal(made)]


def epochs_set_again() -> list[Sealed]:
    made = epoch(KeyRing("sframe"))
    return [*forked(lambda _: seal(epoch(KeyRing("sframe")))), seal(made)]


def a_base_key_of_an_epoch() -> list[Sealed]:
    epoch(KeyRing("sframe"))
    return forked(lambda _: seal(ring()))


def told_apart_by_counters() -> list[Sealed]:
    made = ring()
    return [*forked(lambda number: seal(ring(counter=1000 * (number + 1)))), seal(made)]


def told_apart_by_contexts() -> list[Sealed]:
    made = epoch(KeyRing("sframe"))
    return [*forked(lambda number: seal(epoch(KeyRing("sframe"), number + 1))), seal(made)]


def shared() -> list[Sealed]:
    made = ring(shared=True)
    again = ring(shared=True)
    seal(again)
    return [*forked(lambda number: seal(made if number % 2 else again)), seal(made)]


def transmitted_ivs() -> list[Sealed]:
    made = KeyRing("livekit")
    made.set_key(KEY)
    before = seal(made)

    def child(number: int) -> Sealed:
        if number % 2:
            made.set_key(KEY)
        return seal(made)

    return [before, *forked(child), seal(made)]


if __name__ == "__main__":
    scenario: Callable[[], list[Sealed]] = globals()[sys.argv[1]]
    json.dump([[frame.hex() for frame in sealed] for sealed in scenario()], sys.stdout)
