"""Counts the instructions of one frame of 120 B with callgrind: a figure without noise.

    python benches/instructions.py [--frames 2000]
    python benches/instructions.py --check          fails if a count has grown since it was committed

All cases run in one process under valgrind. Each is called once before it is counted, so that start, imports, keys and
the first call do not count. Valgrind has neither VAES nor AVX-512, so AWS-LC takes another path under it than on a
machine with both. Compare the difference to the floor: it is what frameseal adds to the AEAD. The difference hardly
depends on the version of Python either, because the floor is called from Python too.

To count something else, add a `Case` to `CASES`, and write the committed counts again.
"""

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

import record

SIZE = 120
BATCH = 500  # frames
FLOOR = "the floor"
PROFILES = ("livekit", "stream", "sframe")
DIRECTIONS = ("encrypt", "decrypt")
OPUS = b"\x78" + bytes(range(1, SIZE))
H264 = b"\x00\x00\x00\x01\x41\x9a\x22\x6c" + bytes(range(8, SIZE))  # one slice of a P picture
# The maximum growth since the counts were committed, as a share of the whole count. Another version of Rust, Python or
# the C library changes them by about 1 %. An additional copy, lock or look-up per frame costs 40 instructions or more.
MARGIN = 0.03
# callgrind writes a part of its counts whenever the process calls this function of the C library.
MARK, MARKED_BY = os.getppid, "getppid"

Call = Callable[[], object]
Counts = dict[str, dict[str, float]]  # instructions per frame, by name and direction


@dataclass(frozen=True)
class Case:
    """A call to count. `prepare` returns it."""

    name: str
    direction: str
    prepare: Callable[[], Call]
    frames_per_call: int = 1


def floor_call(direction: str) -> Call:
    import floor

    return partial(floor.encrypt, OPUS) if direction == "encrypt" else partial(floor.decrypt, floor.encrypt(OPUS))


@cache
def cryptors(profile: str, codec: str) -> tuple:
    """Return an encryptor and a decryptor with a common key. All cases of a profile and codec share them, because a
    process seals with an SFrame key in one ring only.
    """
    import frameseal

    ring = frameseal.KeyRing(profile)
    ring.set_key(bytes(range(16)), 1)  # all of them with AES-128
    ring.sending_key_id = 1
    encryptor = frameseal.Encryptor(ring, codec)
    for _ in range(256):  # from here on the counter of an SFrame keeps its length
        encryptor.encrypt(H264 if codec == "h264" else OPUS)
    return encryptor, frameseal.Decryptor(ring, codec, replay_window=0)


def single_call(profile: str, direction: str) -> Call:
    encryptor, decryptor = cryptors(profile, "opus")
    return (
        partial(encryptor.encrypt, OPUS)
        if direction == "encrypt"
        else partial(decryptor.decrypt, encryptor.encrypt(OPUS))
    )


def payloads_call() -> Call:
    """Return the call that the hook makes for a packet of audio."""
    from frameseal._native import SealedPayloads

    encryptor, _ = cryptors("livekit", "opus")
    return partial(encryptor.encrypt_payloads, [OPUS], SealedPayloads(256))


def batch_call(profile: str, codec: str, threads: int, direction: str) -> Call:
    """Return a call that seals or opens a batch into one array again and again."""
    import numpy as np

    encryptor, decryptor = cryptors(profile, codec)
    data = np.frombuffer((H264 if codec == "h264" else OPUS) * BATCH, np.uint8)
    offsets = np.arange(BATCH + 1, dtype=np.int64) * SIZE
    sealed, sealed_offsets = encryptor.encrypt_batch(data, offsets)
    out = np.zeros(2 * len(sealed), np.uint8)
    return (
        partial(encryptor.encrypt_batch, data, offsets, threads, out=out)
        if direction == "encrypt"
        else partial(decryptor.decrypt_batch, sealed, sealed_offsets, threads, out=out)
    )


CASES = [
    *(Case(FLOOR, direction, partial(floor_call, direction)) for direction in DIRECTIONS),
    *(
        Case(profile, direction, partial(single_call, profile, direction))
        for profile, direction in itertools.product(PROFILES, DIRECTIONS)
    ),
    Case("livekit, payloads of a call", "encrypt", payloads_call),
    *(
        Case(f"{profile}, batch{suffix}", direction, partial(batch_call, profile, codec, threads, direction), BATCH)
        for profile, codec, threads, suffix in (
            ("livekit", "opus", 1, ""),
            ("sframe", "opus", 1, ""),
            ("livekit", "h264", 1, " of H264"),
            ("livekit", "opus", 2, " on two threads"),
            ("sframe", "opus", 2, " on two threads"),
        )
        for direction in DIRECTIONS
    ),
]


def child(frames: int) -> None:
    """Run all cases for *frames* frames each, and mark where each begins and ends."""
    for case in CASES:
        call = case.prepare()
        call()
        repeats = frames // case.frames_per_call
        MARK()
        for _ in itertools.repeat(None, repeats):
            call()
        MARK()


def count(frames: int) -> Counts:
    """Return the instructions per frame of each case."""
    found: Counts = {case.name: {} for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", f"--dump-before={MARKED_BY}", f"--callgrind-out-file={out}"]
        command += [sys.executable, __file__, "--child", str(frames)]
        # Fix the hash seed: random hashes would change dictionaries, and so the count, from run to run.
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
        # The marks end parts 1, 2, 3 ... Each odd part is the preparation of a case, and each even part is the case.
        parts = [out.with_name(f"out.{number}") for number in range(2, 2 * len(CASES) + 1, 2)]
        if done.returncode or not all(part.exists() for part in parts):
            raise SystemExit(f"valgrind failed:\n{done.stderr[-2000:]}")
        for case, part in zip(CASES, parts, strict=True):
            totals = re.search(r"^totals: (\d+)$", part.read_text(), re.MULTILINE)
            if totals is None:
                raise SystemExit(f"valgrind has written no totals for {case.name}, {case.direction}")
            found[case.name][case.direction] = int(totals[1]) / frames
    return found


def faults(found: Counts, committed: Counts) -> list[str]:
    """Return a sentence for each difference to the floor that has grown by more than the margin."""
    sentences = []
    for name, by_direction in found.items():
        for direction, own in by_direction.items():
            if (before := committed.get(name, {}).get(direction)) is None:
                sentences.append(f"{name}, {direction}: no count is committed")
                continue
            over, allowed = own - found[FLOOR][direction], before - committed[FLOOR][direction] + MARGIN * before
            if over > allowed:
                sentences.append(
                    f"{name}, {direction}: {over:,.0f} instructions above the floor, maximum {allowed:,.0f}"
                )
    return sentences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000, help="frames of each case")
    parser.add_argument("--check", action="store_true", help="compare with the committed counts, and write nothing")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    record.add_output(parser, "instructions")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    if shutil.which("valgrind") is None:
        print("benches/instructions.py needs valgrind: on Debian and Ubuntu, apt-get install valgrind", file=sys.stderr)
        return 1
    console = Console()
    found = count(arguments.frames)
    table = Table(title=f"instructions for a frame of {SIZE} B, from Python (less the floor)")
    for name in ("", *DIRECTIONS):
        table.add_column(name, justify="right" if name else "left")
    for who, by_direction in found.items():
        table.add_row(who, *(f"{own:,.0f} ({own - found[FLOOR][name]:+,.0f})" for name, own in by_direction.items()))
    console.print(table)
    if not arguments.check:
        record.write(arguments.output, size=SIZE, instructions_per_frame=found)
        return 0
    grown = faults(found, json.loads(arguments.output.read_text())["instructions_per_frame"])
    for fault in grown:
        console.print(f"too many: {fault}", style="red")
    if grown:
        console.print("If that is meant to be, run benches/instructions.py without --check, and commit the counts.")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
