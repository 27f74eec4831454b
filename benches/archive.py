"""Compares opening an archive with reading it and with a class in pure Python, and measures remuxing and memory.

    python benches/archive.py [--frames 100000] [--rounds 5] [--seconds 300]
    python benches/archive.py --gigabytes 10    # opens an archive of 10 GB once: speed, and memory by gigabyte

Every job reads the same segments. "Reading alone" decodes the columns that opening needs, and opens nothing. There are
two ratios. "Reading and opening" is the speed of both together, relative to the speed of reading alone. "Opening alone"
has the time of both together less the time of reading alone. With two threads one thread reads ahead while the other
opens (`read_ahead`). "Opener(threads=2)" opens with both threads, and reads with one of them before. The rival is
`rivals.PurePython` over `cryptography`, called for each row. Each round runs all jobs in turns. SHA-256 of the same
bytes on two threads shows what a second thread can gain on this machine at this moment: memory is shared, and so may be
the processors.

Remuxing writes one participant, 720p VP8 and Opus, as `frameseal open` does, in one process: from frames in memory, and
from a sealed archive. The command itself also decodes the sound, since its timeline shows who spoke. The memory is that
of a process of its own that opens the archive. It includes the interpreter and its libraries.

Targets: reading and opening at 0.8 of the speed of reading alone or better, two threads at 1.7 times one, below 400 MB
whatever the size of the archive; remuxing at 500 times real time.
"""

import argparse
import hashlib
import json
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
from frameseal.tools.opening import open_frames
from frameseal.tools.opening.clocks import Clocks, Placed
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.opening.matroska import Recordings
from frameseal.tools.opening.source import opened_frames
from rivals import PurePython

KEY = bytes(range(32))
START = datetime(2026, 1, 1, tzinfo=UTC)
PARTICIPANTS = 3
# Of each ten frames, six are Opus and four are VP8: 50 packets and 30 pictures a second.
SIZES = {"audio": ("opus", 48_000, 120), "video": ("vp8", 90_000, 4_000)}
SHARE = "aavavaavav"
REMUXING = ("remuxing", "reading, opening and remuxing", "frameseal open")
THREADS = {"one thread": 1, "two threads": 2}
SEALED = 1_702  # bytes of a frame, on average
MEMORY = """
import sys, pyarrow as pa
from pathlib import Path
from archive import provider
from frameseal.archive import Opener, read

def most():
    # A process inherits ru_maxrss of the one that started it. The peak in /proc is its own.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder, threads, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
opener, opened, peaks = Opener(provider()), 0, []
before = most()
for batch in read(folder, read_ahead=threads == 2):
    opened += opener(pa.Table.from_batches([batch]))["frame"].nbytes
    if opened >= step * (len(peaks) + 1):
        peaks.append(most())
print(before, *peaks, most())
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


def opening(folder: Path, frames: int, *, read_ahead: bool = False, threads: int = 1) -> None:
    opener, opened = Opener(provider(), threads=threads), 0
    for batch in read(folder, read_ahead=read_ahead):
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


def memory(folder: Path, threads: int, step: int) -> list[float]:
    """Return the maximum resident memory in MB of a process that opens the archive: before the first batch, each time
    that *step* bytes more are opened, and at the end.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder, str(threads), str(step)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    return [int(word) * 1024 / 1e6 for word in done.stdout.split()]  # KiB


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


def seal(frames: list[Placed], folder: Path) -> None:
    """Write the sealed archive of a participant."""
    ring = provider().ring_for(frameseal.Profile.LIVEKIT, "0")
    encryptors = {codec: frameseal.Encryptor(ring, codec) for codec in ("vp8", "opus")}
    with ArchiveWriter(folder, "participant") as writer:
        for placed in frames:
            frame = placed.frame
            assert frame.frame is not None
            writer.write(
                SealedFrame(
                    participant=frame.participant,
                    track=frame.track,
                    kind=frame.kind,
                    codec=frame.codec,
                    profile="livekit",
                    ssrc=frame.ssrc,
                    rtp_timestamp=frame.rtp_timestamp,
                    clock_rate=frame.clock_rate,
                    arrival=frame.arrival,
                    key_id=None,
                    keyframe=None,
                    gap=frame.gap,
                    sealed=encryptors[frame.codec].encrypt(frame.frame),
                )
            )


def opening_and_remuxing(sealed: Path, frames: int) -> None:
    problems: list[str] = []
    clocks = Clocks()
    with tempfile.TemporaryDirectory() as name, Recordings(Path(name)) as recordings:
        for frame in opened_frames(sealed, [provider()], problems.append):
            for placed in clocks.push(frame):
                recordings.write(placed)
        for placed in clocks.flush():
            recordings.write(placed)
        (file,) = recordings.finish(clocks.start)
        assert not problems
        assert sum(track.written for track in file.tracks) == frames


def whole_command(sealed: Path, frames: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        opened = open_frames(opened_frames(sealed, [provider()], [].append), Path(name))
        assert opened.complete
        assert sum(track.written for file in opened.files for track in file.tracks) == frames


def measure(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job, run in jobs.items():
            start = time.perf_counter()
            run()
            times[job].append(time.perf_counter() - start)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=300, help="length of the participant that is remuxed")
    parser.add_argument("--gigabytes", type=float, help="open an archive of this size once, and nothing else")
    record.add_output(parser, "archive")
    arguments = parser.parse_args()
    if arguments.gigabytes is not None:
        return large(arguments)
    remuxed = participant(arguments.seconds)
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as sealed:
        folder = Path(name)
        total = write(folder, arguments.frames)
        seal(remuxed, Path(sealed))
        blocks = [memoryview(bytes(total // 20))] * 20
        times = measure(
            {
                **reading_and_opening(folder, arguments.frames),
                "reading and opening, Opener(threads=2)": lambda: opening(folder, arguments.frames, threads=2),
                "reading and opening in pure Python": lambda: opening_in_python(folder, arguments.frames),
                "SHA-256, one thread": lambda: hashing(blocks, 1),
                "SHA-256, two threads": lambda: hashing(blocks, 2),
                "remuxing": lambda: remuxing(remuxed),
                "reading, opening and remuxing": lambda: opening_and_remuxing(Path(sealed), len(remuxed)),
                "frameseal open": lambda: whole_command(Path(sealed), len(remuxed)),
            },
            arguments.rounds,
        )
        used = {name: memory(folder, threads, total) for name, threads in THREADS.items()}
    medians = {job: statistics.median(runs) for job, runs in times.items()}
    console = Console(width=110)
    console.print(
        table(medians, total, f"{arguments.frames:,} frames, {total / 1e6:,.0f} MB, {arguments.rounds} rounds")
    )
    both = "reading and opening"
    gains = {
        both: medians[f"{both}, one thread"] / medians[f"{both}, two threads"],
        f"{both}, Opener(threads=2)": medians[f"{both}, one thread"] / medians[f"{both}, Opener(threads=2)"],
        "SHA-256": medians["SHA-256, one thread"] / medians["SHA-256, two threads"],
    }
    console.print("two threads:", ", ".join(f"{what} {gain:.2f} times one" for what, gain in gains.items()))
    for name, peaks in used.items():
        console.print(f"memory, {name}: {peaks[-1]:.0f} MB, of which {peaks[0]:.0f} MB before the first batch")
    speeds = {job: arguments.seconds / medians[job] for job in REMUXING}
    for job, speed in speeds.items():
        console.print(f"{job}: {speed:,.0f} seconds of a 720p participant in a second")
    record.write(
        arguments.output,
        seconds=medians,
        frames=arguments.frames,
        sealed_bytes=total,
        ratios=ratios(medians),
        gains_of_two_threads=gains,
        max_rss_mb={name: peaks[-1] for name, peaks in used.items()},
        remuxed_seconds_per_second=speeds,
        large=kept(arguments.output),
    )
    return 0


def large(arguments: argparse.Namespace) -> int:
    """Open an archive of some gigabytes once, and add its figures to those of the last run."""
    frames = int(arguments.gigabytes * 1e9 / SEALED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        total = write(folder, frames)
        written = time.perf_counter() - start
        times = measure(reading_and_opening(folder, frames), 1)
        used = {name: memory(folder, threads, 1_000_000_000) for name, threads in THREADS.items()}
    seconds = {job: run for job, (run,) in times.items()}
    console = Console(width=110)
    console.print(table(seconds, total, f"{frames:,} frames, {total / 1e9:,.1f} GB, once; written in {written:.0f} s"))
    for name, (before, *peaks) in used.items():
        console.print(f"memory, {name}: {before:.0f} MB before, then by gigabyte", *(f"{peak:.0f}" for peak in peaks))
    figures = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    found = {
        "seconds": seconds,
        "frames": frames,
        "sealed_bytes": total,
        "ratios": ratios(seconds),
        "max_rss_mb_by_gigabyte": used,
    }
    record.write(arguments.output, **figures | {"large": found})
    return 0


def kept(output: Path) -> object:
    """Return the figures of the large archive in a file of figures, or None if it has none."""
    return json.loads(output.read_text()).get("large") if output.exists() else None


def reading_and_opening(folder: Path, frames: int) -> dict[str, Callable[[], None]]:
    return {
        "reading alone": lambda: reading(folder, frames),
        "reading and opening, one thread": lambda: opening(folder, frames),
        "reading and opening, two threads": lambda: opening(folder, frames, read_ahead=True),
    }


def ratios(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the speed of each job that opens, relative to reading alone, with the time of reading and without it."""
    alone = seconds["reading alone"]
    found = {}
    for job, both in seconds.items():
        if job.startswith("reading and opening"):
            # With two threads most of the reading happens at the same time, so opening alone has no time of its own.
            own = {} if "two" in job else {"opening alone to reading alone": alone / (both - alone)}
            found[job] = {"reading and opening to reading alone": alone / both, **own}
    return found


def table(medians: dict[str, float], total: int, title: str) -> Table:
    made = Table(title=f"{title} (medians)")
    for heading in ("", "s", "GB/s", "of reading alone", "opening alone"):
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    found = ratios(medians)
    for job, seconds in medians.items():
        speed = "" if job in REMUXING else f"{total / seconds / 1e9:.2f}"
        made.add_row(job, f"{seconds:.3f}", speed, *(f"{ratio:.2f}" for ratio in found.get(job, {}).values()))
    return made


if __name__ == "__main__":
    sys.exit(main())
