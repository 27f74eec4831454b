"""Counts the instructions of one frame of 120 B with callgrind: a figure without noise.

    python benches/instructions.py [--frames 2000]

Each case runs twice under valgrind, for few frames and for many. The difference per frame is the cost of one frame;
start, imports and keys are in both runs. Valgrind has neither VAES nor AVX-512, so AWS-LC takes another path under it
than on a machine with both. Compare the difference to the floor: it is what frameseal adds to the AEAD.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import record

SIZE = 120
FEW = 200
FLOOR = "the floor"
PROFILES = ("livekit", "stream", "sframe")
DIRECTIONS = ("encrypt", "decrypt")


def child(who: str, direction: str, frames: int) -> None:
    """Seal or open *frames* frames under valgrind. Nothing else here depends on their number."""
    frame = b"\x78" + bytes(range(1, SIZE))
    if who == FLOOR:
        import floor

        encrypt, decrypt = floor.encrypt, floor.decrypt
    else:
        import frameseal

        ring = frameseal.KeyRing(who)
        ring.set_key(bytes(range(16)), 1)  # all of them with AES-128
        ring.sending_key_id = 1
        encrypt = frameseal.Encryptor(ring, "opus").encrypt
        decrypt = frameseal.Decryptor(ring, "opus", replay_window=0).decrypt
        for _ in range(256):  # from here on the counter of an SFrame keeps its length
            encrypt(frame)
    call, argument = (encrypt, frame) if direction == "encrypt" else (decrypt, encrypt(frame))
    for _ in itertools.repeat(None, frames):
        call(argument)


def count(who: str, direction: str, frames: int) -> int:
    """Return the instructions of a process that seals or opens *frames* frames."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={Path(folder) / 'out'}", sys.executable]
        command += [__file__, "--child", who, direction, str(frames)]
        # Fix the hash seed: random hashes would change dictionaries, and so the count, from run to run.
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or collected is None:
        raise SystemExit(f"valgrind failed for {who}, {direction}:\n{done.stderr[-2000:]}")
    return int(collected[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2_000, help="additional frames in the second run")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    record.add_output(parser, "instructions")
    arguments = parser.parse_args()
    if arguments.child:
        who, direction, frames = arguments.child
        child(who, direction, int(frames))
        return 0
    if shutil.which("valgrind") is None:
        print("benches/instructions.py needs valgrind: on Debian and Ubuntu, apt-get install valgrind", file=sys.stderr)
        return 1
    cases = list(itertools.product((FLOOR, *PROFILES), DIRECTIONS))
    found: dict[str, dict[str, float]] = {who: {} for who, _ in cases}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("counting", total=2 * len(cases))
        for who, direction in cases:
            counts = []
            for frames in (FEW, FEW + arguments.frames):
                counts.append(count(who, direction, frames))
                progress.advance(task)
            found[who][direction] = (counts[1] - counts[0]) / arguments.frames
    table = Table(title=f"instructions for a frame of {SIZE} B, from Python (less the floor)")
    for name in ("", *DIRECTIONS):
        table.add_column(name, justify="right" if name else "left")
    for who, by_direction in found.items():
        cells = (f"{own:,.0f} ({own - found[FLOOR][name]:+,.0f})" for name, own in by_direction.items())
        table.add_row(who, *cells)
    Console().print(table)
    record.write(arguments.output, size=SIZE, instructions_per_frame=found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
