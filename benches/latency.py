"""Measures the time of one frame beside busy Python threads: p50, p99 and p99.9 of `encrypt`, in microseconds.

    python benches/latency.py [--seconds 2]

A sender's thread seals a frame, sleeps for a moment as if it waited for its encoder, and seals the next. Only the call
is timed. The wait for the GIL before it depends on the interpreter's switch interval. From 64 KiB on the GIL is
released during the AEAD and must be acquired again; the last column shows the price. The second table shows the gain:
the throughput of one, two and four threads that only seal.
"""

import argparse
import sys
import threading
import time

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import frameseal
import record

SIZES = (120, 1_200, 6_000, 20_000, 100_000)
BULK_SIZES = (20_000, 40_000, 70_000, 100_000, 1_000_000)
BUSY, BULK_THREADS = (0, 1, 4), (1, 2, 4)
SHARES = (0.5, 0.99, 0.999)
PAUSE = 0.000_2  # s between frames


def busy(stop: threading.Event) -> None:
    number = 1
    while not stop.is_set():
        for _ in range(1_000):
            number = number * 1_103_515_245 % 2_147_483_647


def latencies(size: int, threads: int, seconds: float) -> list[int]:
    """Return the times of all calls in ns, ascending."""
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
        while clock() < end or not taken:
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
    """Return GB/s of *threads* threads, each with its own track."""
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


def cell(taken: dict[str, float]) -> str:
    p50, p99, p999, frames = taken.values()
    return f"{p50:.1f} / {p99:.1f} / {p999:.1f} ({frames:,})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="per size and number of threads")
    record.add_output(parser, "latency")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    waits: dict[int, dict[int, dict[str, float]]] = {}
    bulk: dict[int, dict[int, float]] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sealing", total=len(BUSY) * len(SIZES) + len(BULK_THREADS) * len(BULK_SIZES))
        for threads in BUSY:
            for size in SIZES:
                # Beside busy threads a frame waits some 5 ms for the GIL, so the same number of frames takes longer.
                taken = latencies(size, threads, seconds * (1 + 4 * min(threads, 1)))
                shares = {f"p{100 * share:g}": taken[int(len(taken) * share)] / 1000 for share in SHARES}
                waits.setdefault(threads, {})[size] = shares | {"frames": len(taken)}
                progress.advance(task)
        for threads in BULK_THREADS:
            for size in BULK_SIZES:
                bulk.setdefault(threads, {})[size] = throughput(size, threads, seconds)
                progress.advance(task)
    table = Table(title="encrypt, us: p50 / p99 / p99.9 (frames)")
    table.add_column("busy threads")
    for size in SIZES:
        table.add_column(f"{size:,} B", justify="right")
    for threads, by_size in waits.items():
        table.add_row(str(threads), *map(cell, by_size.values()))
    gained = Table(title="encrypt, GB/s")
    gained.add_column("threads")
    for size in BULK_SIZES:
        gained.add_column(f"{size:,} B", justify="right")
    for threads, by_size in bulk.items():
        gained.add_row(str(threads), *(f"{each:.1f}" for each in by_size.values()))
    Console().print(table, gained)
    record.write(arguments.output, us_by_busy_threads=waits, gb_per_s_by_threads=bulk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
