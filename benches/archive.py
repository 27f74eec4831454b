"""Compares opening an archive with reading it, and with a class in pure Python: seconds, GB/s and memory.

    python benches/archive.py [--frames 20000] [--rounds 5]

Every job reads the same segments. "Reading alone" decodes the columns that opening needs, and opens nothing. The rival
is `rivals.PurePython` over `cryptography`, called for each row. Each round runs all jobs in turns. The memory is the
growth of a process of its own that opens the archive.

Targets: opening runs at 0.8 of the speed of reading alone or better, two threads at 1.7 times one, below 400 MB.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

import frameseal
import record
from frameseal.archive import ArchiveWriter, Opener, SealedFrame, read
from rivals import PurePython

KEY = bytes(range(32))
START = datetime(2026, 1, 1, tzinfo=UTC)
PARTICIPANTS = 3
# Of each ten frames, six are Opus and four are VP8: 50 packets and 30 pictures a second.
SIZES = {"audio": ("opus", 48_000, 120), "video": ("vp8", 90_000, 4_000)}
SHARE = "aavavaavav"
MEMORY = """
import resource, sys, pyarrow as pa
from archive import provider
from frameseal.archive import Opener, read
opener, rows = Opener(provider()), 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for batch in read(sys.argv[1]):
    rows += opener(pa.Table.from_batches([batch])).num_rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, before)
"""


def provider() -> frameseal.KeyProvider:
    made = frameseal.KeyProvider()
    made.set_shared_key(KEY)
    return made


def write(folder: Path, frames: int) -> int:
    """Write an archive of random frames. Return the bytes of the sealed frames."""
    keys, total = provider(), 0
    seal = {
        (name, kind): frameseal.Encryptor(keys.ring_for(frameseal.Profile.LIVEKIT, name), codec).encrypt
        for name in map(str, range(PARTICIPANTS))
        for kind, (codec, _, _) in SIZES.items()
    }
    with ArchiveWriter(folder, "bench", segment_bytes=64 << 20) as writer:
        for number in range(frames):
            name = str(number % PARTICIPANTS)
            kind = "audio" if SHARE[number // PARTICIPANTS % 10] == "a" else "video"
            codec, rate, size = SIZES[kind]
            sealed = seal[name, kind](b"\x11" + os.urandom(size - 1))
            total += len(sealed)
            writer.write(
                SealedFrame(
                    participant=name,
                    track=kind,
                    kind=kind,
                    codec=codec,
                    profile="livekit",
                    ssrc=1,
                    rtp_timestamp=number,
                    clock_rate=rate,
                    arrival=START + timedelta(milliseconds=4 * number),
                    key_id=0,
                    keyframe=None,
                    gap=False,
                    sealed=sealed,
                )
            )
    return total


def reading(folder: Path, frames: int) -> None:
    assert sum(batch.num_rows for batch in read(folder)) == frames


def opening(folder: Path, frames: int, threads: int) -> None:
    opener, opened = Opener(provider(), threads=threads), 0
    for batch in read(folder):
        opened += opener(pa.Table.from_batches([batch]))["opened"].combine_chunks().true_count
    assert opened == frames


def opening_in_python(folder: Path, frames: int) -> None:
    openers = {kind: PurePython(KEY, codec=codec) for kind, (codec, _, _) in SIZES.items()}
    opened = 0
    for batch in read(folder):
        plain = [
            openers[kind].decrypt(sealed)
            for kind, sealed in zip(batch["kind"].to_pylist(), batch["sealed"].to_pylist(), strict=True)
        ]
        opened += len(pa.array(plain, pa.large_binary()))
    assert opened == frames


def memory(folder: Path) -> float:
    """Return the maximum resident memory in MB of a process that opens the archive."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return int(done.stdout.split()[0]) * 1024 / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    record.add_output(parser, "archive")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = write(folder, arguments.frames)
        jobs: dict[str, Callable[[], None]] = {
            "reading alone": lambda: reading(folder, arguments.frames),
            "reading and opening, one thread": lambda: opening(folder, arguments.frames, 1),
            "reading and opening, two threads": lambda: opening(folder, arguments.frames, 2),
            "reading, and opening in pure Python": lambda: opening_in_python(folder, arguments.frames),
        }
        times: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(arguments.rounds):
            for job, run in jobs.items():
                start = time.perf_counter()
                run()
                times[job].append(time.perf_counter() - start)
        used = memory(folder)
    medians = {job: statistics.median(runs) for job, runs in times.items()}
    alone = medians["reading alone"]
    table = Table(title=f"{arguments.frames:,} frames, {total / 1e6:,.0f} MB (medians of {arguments.rounds} rounds)")
    for heading in ("", "s", "GB/s", "opening alone, GB/s", "opening alone, times reading's speed"):
        table.add_column(heading, justify="right" if heading else "left")
    for job, seconds in medians.items():
        own = seconds - alone
        cells = (f"{total / own / 1e9:.2f}", f"{alone / own:.2f}") if own > 0 else ("", "")
        table.add_row(job, f"{seconds:.3f}", f"{total / seconds / 1e9:.2f}", *cells)
    console = Console()
    console.print(table)
    console.print(f"memory of a process that opens it: {used:.0f} MB")
    record.write(arguments.output, seconds=medians, frames=arguments.frames, sealed_bytes=total, max_rss_mb=used)
    return 0


if __name__ == "__main__":
    sys.exit(main())
