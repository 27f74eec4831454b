"""Compares opening an archive with reading it and with a class in pure Python, and measures remuxing and memory.

    python benches/archive.py [--frames 100000] [--rounds 5]

Every job reads the same segments. "Reading alone" decodes the columns that opening needs, and opens nothing. "Opening
alone" is the difference. The rival is `rivals.PurePython` over `cryptography`, called for each row. Each round runs all
jobs in turns. SHA-256 of the same bytes on two threads shows what a second thread can gain on this machine at this
moment: memory is shared, and so may be the processors.

Remuxing writes one participant, 720p VP8 and Opus, as `frameseal open` does, in one process. The memory is that of a
process of its own that opens the archive. It includes the interpreter and its libraries.

Targets: opening runs at 0.8 of the speed of reading alone or better, two threads at 1.7 times one, below 400 MB;
remuxing at 500 times real time.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import frameseal
import record
from frameseal.archive import ArchiveWriter, Opener, SealedFrame, read
from frameseal.tools.opening.clocks import Placed
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.opening.matroska import Recordings
from rivals import PurePython

KEY = bytes(range(32))
START = datetime(2026, 1, 1, tzinfo=UTC)
PARTICIPANTS = 3
# Of each ten frames, six are Opus and four are VP8: 50 packets and 30 pictures a second.
SIZES = {"audio": ("opus", 48_000, 120), "video": ("vp8", 90_000, 4_000)}
SHARE = "aavavaavav"
MEMORY = """
import sys, pyarrow as pa
from pathlib import Path
from archive import provider
from frameseal.archive import Opener, read

def most():
    # A process inherits ru_maxrss of the one that started it. The peak in /proc is its own.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

opener, rows = Opener(provider(), threads=int(sys.argv[2])), 0
before = most()
for batch in read(sys.argv[1]):
    rows += opener(pa.Table.from_batches([batch])).num_rows
print(most(), before)
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


def memory(folder: Path, threads: int) -> tuple[float, float]:
    """Return the maximum resident memory in MB of a process that opens the archive, and its memory before."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder, str(threads)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    most, before = (int(word) * 1024 / 1e6 for word in done.stdout.split())  # KiB
    return most, before


def hashing(blocks: list[memoryview], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda block: hashlib.sha256(block).digest(), blocks))


def participant(seconds: int) -> list[Placed]:
    """Return the opened frames of a participant: two seconds of 720p VP8 at 30 pictures a second, again and again, and
    50 packets of Opus a second.
    """
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 1280, 720, "yuv420p", 30
    encoder.bit_rate, encoder.options = 1_500_000, {"deadline": "realtime", "cpu-used": "8"}
    noise = np.random.default_rng(1).integers(0, 32, (1080, 1280), np.uint8)
    pictures = []
    for number in range(60):
        pictures += encoder.encode(av.VideoFrame.from_ndarray(np.roll(noise, 4 * number, 1), "yuv420p"))
    video = [bytes(packet) for packet in [*pictures, *encoder.encode(None)]]
    found = []
    for kind, codec, rate, per_second in (("video", "vp8", 90_000, 30), ("audio", "opus", 48_000, 50)):
        for number in range(seconds * per_second):
            time_us = number * 1_000_000 // per_second
            frame = OpenedFrame(
                participant="0",
                track=kind,
                kind=kind,
                codec=codec,
                ssrc=1,
                clock_rate=rate,
                rtp_timestamp=number * rate // per_second,
                arrival=START + timedelta(microseconds=time_us),
                key_id=0,
                gap=False,
                frame=video[number % len(video)] if kind == "video" else b"\xf8" + bytes(119),
            )
            found.append(Placed(time_us, frame))
    return sorted(found, key=lambda placed: placed.time)


def remuxing(frames: list[Placed]) -> None:
    with tempfile.TemporaryDirectory() as name, Recordings(Path(name)) as recordings:
        for placed in frames:
            recordings.write(placed)
        (file,) = recordings.finish(START)
        assert sum(track.written for track in file.tracks) == len(frames)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=300, help="length of the participant that is remuxed")
    record.add_output(parser, "archive")
    arguments = parser.parse_args()
    remuxed = participant(arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total = write(folder, arguments.frames)
        blocks = [memoryview(bytes(total // 20))] * 20
        jobs: dict[str, Callable[[], None]] = {
            "reading alone": lambda: reading(folder, arguments.frames),
            "opening, one thread": lambda: opening(folder, arguments.frames, 1),
            "opening, two threads": lambda: opening(folder, arguments.frames, 2),
            "opening in pure Python": lambda: opening_in_python(folder, arguments.frames),
            "SHA-256, one thread": lambda: hashing(blocks, 1),
            "SHA-256, two threads": lambda: hashing(blocks, 2),
            "remuxing": lambda: remuxing(remuxed),
        }
        times: dict[str, list[float]] = {job: [] for job in jobs}
        for _ in range(arguments.rounds):
            for job, run in jobs.items():
                start = time.perf_counter()
                run()
                times[job].append(time.perf_counter() - start)
        used = {threads: memory(folder, threads) for threads in (1, 2)}
    medians = {job: statistics.median(runs) for job, runs in times.items()}
    console = Console(width=110)
    console.print(
        table(medians, total, f"{arguments.frames:,} frames, {total / 1e6:,.0f} MB, {arguments.rounds} rounds")
    )
    one, two = (medians[f"opening, {threads}"] - medians["reading alone"] for threads in ("one thread", "two threads"))
    gains = {
        "opening alone": one / two,
        "reading and opening": medians["opening, one thread"] / medians["opening, two threads"],
        "SHA-256": medians["SHA-256, one thread"] / medians["SHA-256, two threads"],
    }
    console.print("two threads:", ", ".join(f"{what} {gain:.2f} times one" for what, gain in gains.items()))
    for threads, (most, before) in used.items():
        console.print(f"memory, {threads} threads: {most:.0f} MB, of which {before:.0f} MB before the first batch")
    speed = arguments.seconds / medians["remuxing"]
    console.print(f"remuxing: {speed:,.0f} seconds of a 720p participant in a second")
    record.write(
        arguments.output,
        seconds=medians,
        frames=arguments.frames,
        sealed_bytes=total,
        opening_to_reading=medians["reading alone"] / one,
        gains_of_two_threads=gains,
        max_rss_mb={threads: most for threads, (most, _) in used.items()},
        remuxed_seconds_per_second=speed,
    )
    return 0


def table(medians: dict[str, float], total: int, title: str) -> Table:
    made = Table(title=f"{title} (medians)")
    for heading in ("", "s", "GB/s", "opening alone: GB/s", "times reading's speed"):
        made.add_column(heading, justify="right" if heading else "left")
    alone = medians["reading alone"]
    for job, seconds in medians.items():
        if job == "remuxing":
            made.add_row(job, f"{seconds:.3f}")
            continue
        own = seconds - alone
        is_opening = job.startswith("opening") and own > 0
        cells = (f"{total / own / 1e9:.2f}", f"{alone / own:.2f}") if is_opening else ("", "")
        made.add_row(job, f"{seconds:.3f}", f"{total / seconds / 1e9:.2f}", *cells)
    return made


if __name__ == "__main__":
    sys.exit(main())
