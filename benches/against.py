"""One build of frameseal against another, in turns: is any row slower than before?

    python benches/against.py OLD [NEW]

OLD and NEW are folders that hold a package `frameseal` (an unpacked wheel, or `python/` of a checkout). NEW is the
installed package by default. Each build runs in a process of its own. The two processes take turns, row by row, so that
whatever else the machine does hits both.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import chain

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
    """Time the rows that are asked for on standard input, in ns of CPU per call."""
    import time

    # Both builds on one core, since the other may be the busier one. They never run at the same time.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    made, counts = rows(), {}
    print(*made, sep="\t", flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        call, clock = made[name], time.thread_time_ns
        if name not in counts:
            start = clock()
            for _ in range(20):
                call()
            counts[name] = max(1, int(TURN * 1e9 / max(1, (clock() - start) / 20)))
        start = clock()
        for _ in range(counts[name]):
            call()
        print((clock() - start) / counts[name], flush=True)


class Build:
    """One build, in a process of its own."""

    def __init__(self, folder: str | None) -> None:
        environment = {**os.environ, "PYTHONPATH": folder} if folder else dict(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rows = self._line().split("\t")

    def time(self, row: str) -> float:
        """Return the ns per call of one turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(row + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def __enter__(self) -> "Build":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a build ended early: its error is above")
        return line.rstrip("\n")


def in_turns(old: Build, new: Build, row: str, number: int) -> tuple[float, float]:
    """Return the ns of both builds. The order alternates: whoever comes second finds other caches."""
    if number % 2:
        return old.time(row), new.time(row)
    after = new.time(row)
    return old.time(row), after


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
        with Build(arguments.old) as old, Build(arguments.new) as new:
            for row in (row for row in new.rows if row in old.rows and arguments.rows in row):
                old.time(row), new.time(row)  # warm
                turns.setdefault(row, []).append([in_turns(old, new, row, number) for number in range(ROUNDS)])
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
