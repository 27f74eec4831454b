"""Compares batches with AWS-LC called from C, interleaved in one process: ns per frame, on one core and on two.

    python benches/batch.py [--frames 20000] [--rounds 30]

"AWS-LC" is `floor.aws_lc_walk`: AWS-LC, called as from C, seals contiguous frames into contiguous memory, without
Python, key ring or codec. "In the cache" is `floor.aws_lc`: it seals one frame into one place again and again, which no
batch can do. "Fastest known" is Intel's ipsec-mb, if installed, on the same frames as AWS-LC. "Reused array" passes
`out`, memory that was used before. "New array" is a call without `out`.

A shared machine can seldom spare two cores. Each round measures the gain of a second core with SHA-256, on one thread
and on two. No batch can gain more.
"""

import argparse
import hashlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import floor
import frameseal
import ipsec_mb
import record

AWS_LC = "AWS-LC, one core"
SIZES = (120, 1_200, 6_000)
MAX_BATCH_BYTES = 24_000_000


def batch_of(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    data = np.random.default_rng(1).integers(0, 256, size * count, np.uint8)
    return data, np.arange(count + 1, dtype=np.int64) * size


def jobs(profile: str, size: int, count: int) -> dict[str, Callable[[], float]]:
    """Return the jobs to measure, by name. Each call of a job returns its ns per frame."""
    ring = frameseal.KeyRing(profile)
    ring.set_key(os.urandom(32))
    encryptor = frameseal.Encryptor(ring, "opus")
    # Turn the replay window of SFrame off: one batch is opened again and again.
    decryptor = frameseal.Decryptor(ring, "opus", replay_window=0)
    data, offsets = batch_of(size, count)
    sealed, sealed_offsets = encryptor.encrypt_batch(data, offsets)
    opened, _, ok = decryptor.decrypt_batch(sealed, sealed_offsets)
    assert ok.all() and np.array_equal(opened, data)
    # 40 bytes exceed the overhead of any layout. An SFrame's header grows with its counter.
    sealed_out, opened_out = np.zeros(len(data) + 40 * count, np.uint8), np.zeros(len(sealed), np.uint8)

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter_ns()
            call()
            return (time.perf_counter_ns() - start) / count

        return run

    def singly() -> None:
        encrypt = encryptor.encrypt
        for frame in frames_alone:
            encrypt(frame)

    frames_alone = [data[n * size : (n + 1) * size].tobytes() for n in range(count)]
    made: dict[str, Callable[[], float]] = {AWS_LC: lambda: floor.aws_lc_walk(size, count)}
    kernel = ipsec_mb.find()
    if isinstance(kernel, ipsec_mb.Kernel):
        made[f"{ipsec_mb.NAME}, one core"] = lambda: kernel.walk(size, count)
    made["AWS-LC, in the cache"] = lambda: floor.aws_lc(size, count)
    made["encrypt, one call per frame"] = timed(singly)
    for threads, cores in ((1, "one core"), (2, "two cores")):
        made[f"encrypt_batch, {cores}, reused array"] = timed(
            lambda threads=threads: encryptor.encrypt_batch(data, offsets, threads, out=sealed_out)
        )
        made[f"encrypt_batch, {cores}, new array"] = timed(
            lambda threads=threads: encryptor.encrypt_batch(data, offsets, threads)
        )
        made[f"decrypt_batch, {cores}, reused array"] = timed(
            lambda threads=threads: decryptor.decrypt_batch(sealed, sealed_offsets, threads, out=opened_out)
        )
    return made


def second_core(blob: bytes = bytes(2_000_000)) -> float:
    """Return the speed-up of two digests on two threads over one thread."""
    start = time.perf_counter_ns()
    hashlib.sha256(blob)
    hashlib.sha256(blob)
    alone = time.perf_counter_ns() - start
    start = time.perf_counter_ns()
    other = threading.Thread(target=hashlib.sha256, args=(blob,))
    other.start()
    hashlib.sha256(blob)
    other.join()
    return alone / (time.perf_counter_ns() - start)


def measure(
    profile: str, frames: int, rounds: int, done: Callable[[], object]
) -> tuple[dict[int, dict[str, float]], float]:
    """Return the medians by size and job, and the median gain of a second core. Calls *done* after each round."""
    medians: dict[int, dict[str, float]] = {}
    gains = []
    for size in SIZES:
        field = jobs(profile, size, min(frames, MAX_BATCH_BYTES // size))
        times: dict[str, list[float]] = {name: [] for name in field}
        for _ in range(rounds):
            gains.append(second_core())
            for name, run in field.items():
                times[name].append(run())
            done()
        medians[size] = {name: statistics.median(runs) for name, runs in times.items()}
    return medians, statistics.median(gains)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    record.add_output(parser, "batch")
    arguments = parser.parse_args()
    console = Console()
    results = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for profile in ("livekit", "sframe"):
            task = progress.add_task(profile, total=len(SIZES) * arguments.rounds)
            results[profile] = measure(profile, arguments.frames, arguments.rounds, partial(progress.advance, task))
    for profile, (medians, gain) in results.items():
        table = Table(title=f"{profile}: ns per frame, and times AWS-LC (medians of {arguments.rounds} rounds)")
        table.add_column("")
        for size in SIZES:
            table.add_column(f"{size:,} B", justify="right")
        for name in next(iter(medians.values())):
            cells = ((by_name[name], by_name[AWS_LC]) for by_name in medians.values())
            table.add_row(name, *(f"{own:,.0f} {own / aws_lc:6.2f}x" for own, aws_lc in cells))
        if isinstance(kernel := ipsec_mb.find(), str):
            table.add_row(f"{ipsec_mb.NAME}: {kernel}")
        console.print(table)
        console.print(f"SHA-256 on two threads, beside these rounds: {gain:.2f}x of one")
    record.write(
        arguments.output,
        median_ns={profile: medians for profile, (medians, _) in results.items()},
        second_core={profile: gain for profile, (_, gain) in results.items()},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
