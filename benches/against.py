"""One build of frameseal against another, in turns: is any row slower than before?

    python benches/against.py OLD [NEW]

OLD and NEW are folders that hold a package `frameseal` (an unpacked wheel, or `python/` of a checkout). NEW is the
installed package by default. Each build runs in a process of its own. The two processes take turns, row by row, so that
whatever else the machine does hits both.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from itertools import chain

from turns import Worker, in_turns

STARTS = 5  # of both processes: where memory happens to lie makes some 5 % in one process
ROUNDS = 24  # turns of a row in each
TURN = 0.004  # seconds of calls in one turn: short beside what disturbs the machine, long beside reading a clock
SIZES = (120, 1_200, 6_000, 20_000)
BATCH = 200  # frames


def rows() -> dict[str, Callable[[], None]]:
    """Return what is timed, by name, in the build that this process imports."""
    import numpy as np

    import frameseal

    made: dict[str, Callable[[], None]] = {}
    frames = {"opus": b"\xf8", "vp8": b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00"}
    for profile in ("livekit", "sframe", "jitsi"):
        for size in SIZES:
            codec = "opus" if size == SIZES[0] else "vp8"
            ring = frameseal.KeyRing(profile)
            ring.set_key(os.urandom(32))
            frame = frames[codec] + bytes(size - len(frames[codec]))
            encryptor = frameseal.Encryptor(ring, codec)
            decryptor = frameseal.Decryptor(ring, codec, replay_window=0)
            sealed = encryptor.encrypt(frame)
            made[f"{profile} {size:,} B encrypt"] = lambda encryptor=encryptor, frame=frame: encryptor.encrypt(frame)
            made[f"{profile} {size:,} B decrypt"] = lambda decryptor=decryptor, sealed=sealed: decryptor.decrypt(sealed)
        joined, ends = b"".join([frame] * BATCH), [size * number for number in range(BATCH + 1)]
        data, offsets = np.frombuffer(joined, np.uint8), np.array(ends, np.int64)
        sealed_batch = encryptor.encrypt_batch(data, offsets, threads=1)
        made[f"{profile} batch encrypt"] = lambda e=encryptor, d=data, o=offsets: e.encrypt_batch(d, o, threads=1)
        made[f"{profile} batch decrypt"] = lambda d=decryptor, b=sealed_batch: d.decrypt_batch(*b, threads=1)
    provider = frameseal.KeyProvider()
    provider.set_shared_key(bytes(range(32)))
    call = frameseal.E2EEManager(provider, "livekit")
    packet = frames["opus"] + bytes(119)
    sender, receiver = call.sender_transform("alice", "audio", "opus"), call.receiver_transform("bob", "audio", "opus")
    sealed_packet = sender.encrypt(packet)
    made["a call's audio encrypt"] = lambda: sender.encrypt(packet)
    made["a call's audio decrypt"] = lambda: receiver.decrypt(sealed_packet)
    return made


def serve() -> None:
    """Answer requests: a row with its ns of CPU per call, and null with the names of all rows."""
    import time

    # Both builds on one core, since the other may be the busier one. They never run at the same time.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    made, counts = rows(), {}
    for line in sys.stdin:
        name = json.loads(line)
        if name is None:
            print(json.dumps(list(made)), flush=True)
            continue
        call, clock = made[name], time.thread_time_ns
        if name not in counts:
            start = clock()
            for _ in range(20):
                call()
            counts[name] = max(1, int(TURN * 1e9 / max(1, (clock() - start) / 20)))
        start = clock()
        for _ in range(counts[name]):
            call()
        print(json.dumps((clock() - start) / counts[name]), flush=True)


def build(folder: str | None) -> Worker:
    """Start the process of a build: the package in *folder*, or the one that is installed."""
    return Worker(__file__, "--serve", **({"PYTHONPATH": folder} if folder else {}))


def main() -> None:
    """Print a row for each measurement: ns of both builds, and the median ratio of neighbouring turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", nargs="?")
    parser.add_argument("new", nargs="?")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=1.03, help="mark rows above this ratio (%(default)s)")
    parser.add_argument("--rows", default="", metavar="TEXT", help="time only the rows whose name contains this")
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if arguments.old is None:
        parser.error("name the folder of the old build")
    turns: dict[str, list[list[tuple[float, float]]]] = {}
    for _ in range(STARTS):
        with build(arguments.old) as old, build(arguments.new) as new:
            workers, known = {"old": old, "new": new}, set(old.ask(None))
            for row in (row for row in new.ask(None) if row in known and arguments.rows in row):
                in_turns(workers, 0, row)  # warm
                taken = (in_turns(workers, number, row) for number in range(ROUNDS))
                turns.setdefault(row, []).append([(ns["old"], ns["new"]) for ns in taken])
    slower = 0
    print(f"{'row':28} {'old ns':>9} {'new ns':>9} {'ratio':>6}")
    for row, starts in turns.items():
        ratio = statistics.median(statistics.median(after / before for before, after in start) for start in starts)
        slower += ratio > arguments.limit
        before, after = (statistics.median(column) for column in zip(*chain.from_iterable(starts), strict=True))
        print(f"{row:28} {before:9,.0f} {after:9,.0f} {ratio:6.3f}{'  slower' * (ratio > arguments.limit)}")
    print(f"{slower} rows above {arguments.limit}")
    return None


if __name__ == "__main__":
    main()
