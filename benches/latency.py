"""How long one frame takes beside busy Python threads: p50, p99 and p99.9 of `encrypt`, in microseconds.

    python benches/latency.py [--seconds 2]

A sender's thread seals a frame, sleeps for a moment as one that waits for its encoder does, and seals the next. It is
the call alone that is timed, not the wait for the GIL in front of it, which the interpreter's switch interval decides.
From 64 KiB on the GIL is given away during the AEAD, and has to be won back: the last column shows at what price. The
second table shows what it buys: the throughput of one, two and four threads that do nothing but seal.
"""

import argparse
import sys
import threading
import time

from rich.console import Console
from rich.table import Table

import frameseal

SIZES = (120, 1_200, 6_000, 20_000, 100_000)
BULK_SIZES = (20_000, 40_000, 70_000, 100_000, 1_000_000)
PAUSE = 0.000_2  # s between frames


def busy(stop: threading.Event) -> None:
    number = 1
    while not stop.is_set():
        for _ in range(1_000):
            number = number * 1_103_515_245 % 2_147_483_647


def latencies(size: int, threads: int, seconds: float) -> list[int]:
    """Return the time of each call, ns, ascending."""
    ring = frameseal.KeyRing("livekit")
    ring.set_key(bytes(range(32)))
    encrypt, frame = frameseal.Encryptor(ring, "opus").encrypt, bytes(size)
    stop = threading.Event()
    others = [threading.Thread(target=busy, args=(stop,)) for _ in range(threads)]
    for thread in others:
        thread.start()
    taken = []
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    try:
        while clock() < end:
            time.sleep(PAUSE)
            start = clock()
            encrypt(frame)
            taken.append(clock() - start)
    finally:
        stop.set()
        for thread in others:
            thread.join()
    return sorted(taken)


def throughput(size: int, threads: int, seconds: float) -> float:
    """Return GB/s of so many threads, each with a track of its own."""
    ring = frameseal.KeyRing("livekit")
    ring.set_key(bytes(range(32)))
    frame, counts = bytes(size), [0] * threads
    end = time.perf_counter() + seconds

    def seal(place: int) -> None:
        encrypt = frameseal.Encryptor(ring, "opus").encrypt
        while time.perf_counter() < end:
            encrypt(frame)
            counts[place] += 1

    sealing = [threading.Thread(target=seal, args=(place,)) for place in range(threads)]
    for thread in sealing:
        thread.start()
    for thread in sealing:
        thread.join()
    return sum(counts) * size / seconds / 1e9


def cell(taken: list[int]) -> str:
    return " / ".join(f"{taken[int(len(taken) * share)] / 1000:.1f}" for share in (0.5, 0.99, 0.999))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="per size and number of threads")
    seconds = parser.parse_args().seconds
    table = Table(title="encrypt, us: p50 / p99 / p99.9 (frames)")
    table.add_column("busy threads")
    for size in SIZES:
        table.add_column(f"{size:,} B", justify="right")
    for threads in (0, 1, 4):
        # Beside busy threads a frame has to wait some 5 ms for its turn: more time for as many frames.
        runs = [latencies(size, threads, seconds * (1 + 4 * min(threads, 1))) for size in SIZES]
        table.add_row(str(threads), *(f"{cell(taken)} ({len(taken):,})" for taken in runs))
    bulk = Table(title="encrypt, GB/s")
    bulk.add_column("threads")
    for size in BULK_SIZES:
        bulk.add_column(f"{size:,} B", justify="right")
    for threads in (1, 2, 4):
        bulk.add_row(str(threads), *(f"{throughput(size, threads, seconds):.1f}" for size in BULK_SIZES))
    Console().print(table, bulk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
