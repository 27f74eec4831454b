"""Measures size and start: import time, the first key and frame, size of a wheel, memory of rings, keys and cryptors.

    python benches/size.py [--rounds 30]

Import time is the time of a new interpreter with `import frameseal`, less that of one without, interleaved. The first
key and frame are timed inside such an interpreter, which has one profile and ends then. The size is that of the
package's files, compressed as in a wheel. Memory is the growth of a process for each of many objects.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import frameseal
import record
from memory import resident

PACKAGE = Path(frameseal.__file__).parent
MAX_IMPORT_MS, MAX_WHEEL_BYTES = 30.0, 3_000_000
MAX_FIRST_KEY_MS = 1.0  # a twentieth of the time between two frames of Opus
MANY = 4_000

# Prints the seconds of each step, in a new interpreter: the name of the profile is its argument.
FIRST = """
import json, sys, time
now = time.perf_counter
begun = [now()]
import frameseal
ring = frameseal.KeyRing(sys.argv[1])
begun.append(now())
encryptor, decryptor = frameseal.Encryptor(ring, "opus"), frameseal.Decryptor(ring, "opus")
begun.append(now())
ring.set_key(bytes(range(32)))
begun.append(now())
sealed = encryptor.encrypt(bytes(120))
begun.append(now())
decryptor.decrypt(sealed)
begun.append(now())
ring.set_key(bytes(range(1, 33)), 1)
begun.append(now())
print(json.dumps([end - start for start, end in zip(begun, begun[1:])]))
"""
STEPS = (
    "import, and a ring",
    "an Encryptor and a Decryptor",
    "the first key",
    "the first frame, sealed",
    "the first frame, opened",
    "a second key",
)


def wheel_bytes() -> int:
    """Return the compressed size of the package's files, as in a wheel, which is a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(PACKAGE.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                wheel.write(path, path.relative_to(PACKAGE.parent))
    return buffer.tell()


def start_ms(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - start) * 1e3


def import_ms(rounds: int, done: Callable[[], object]) -> tuple[float, float]:
    """Return the medians of an interpreter's start, and of the time that the import adds."""
    bare, added = [], []
    for _ in range(rounds):
        bare.append(start_ms("pass"))
        added.append(start_ms("import frameseal") - bare[-1])
        done()
    return statistics.median(bare), statistics.median(added)


def first_ms(rounds: int, done: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Return the medians of the steps to the first frame of a process, by profile."""
    taken: dict[str, list[list[float]]] = {str(profile): [] for profile in frameseal.Profile}
    for _ in range(rounds):
        for profile, runs in taken.items():
            output = subprocess.run([sys.executable, "-c", FIRST, profile], check=True, stdout=subprocess.PIPE).stdout
            runs.append([seconds * 1e3 for seconds in json.loads(output)])
        done()
    return {
        profile: dict(zip(STEPS, map(statistics.median, zip(*runs, strict=True)), strict=True))
        for profile, runs in taken.items()
    }


def memory(many: int) -> dict[str, float]:
    """Return the growth of the process in bytes, per object."""
    held = []  # keeps all objects: freed memory would be reused for the next

    def grown(make: Callable[[], object]) -> float:
        made = [None] * many
        held.append(made)
        before = resident()
        for place in range(many):
            made[place] = make()
        return (resident() - before) / many

    def ring(keys: int, profile: str = "livekit") -> frameseal.KeyRing:
        made = frameseal.KeyRing(profile)
        for key_id in range(keys):
            made.set_key(os.urandom(32), key_id)
        return made

    livekit, sframe = ring(1), ring(1, "sframe")
    one, full = grown(lambda: ring(1)), grown(lambda: ring(16))
    return {
        "a key ring with a key": one,
        "each further key": (full - one) / 15,
        "an Encryptor": grown(lambda: frameseal.Encryptor(livekit, "opus")),
        "a Decryptor": grown(lambda: frameseal.Decryptor(livekit, "opus")),
        "a Decryptor of sframe, with its replay window": grown(lambda: frameseal.Decryptor(sframe, "opus")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--many", type=int, default=MANY)
    record.add_output(parser, "size")
    arguments = parser.parse_args()
    taken = memory(arguments.many)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting interpreters", total=2 * arguments.rounds)
        bare, added = import_ms(arguments.rounds, lambda: progress.advance(task))
        first = first_ms(arguments.rounds, lambda: progress.advance(task))
    weight = wheel_bytes()
    table = Table(title="size and start")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("maximum", justify="right")
    table.add_row(
        f"import frameseal, beside {bare:.1f} ms of Python's start", f"{added:.1f} ms", f"{MAX_IMPORT_MS:g} ms"
    )
    table.add_row("a wheel", f"{weight / 1e6:.2f} MB", f"{MAX_WHEEL_BYTES / 1e6:g} MB")
    for what, each in taken.items():
        table.add_row(what, f"{each:,.0f} B", "")
    console = Console()
    console.print(table)
    table = Table(title="a new process up to its first frame: ms")
    table.add_column("")
    for profile in first:
        table.add_column(profile, justify="right")
    for step in STEPS:
        table.add_row(step, *(f"{steps[step]:.3f}" for steps in first.values()))
    console.print(table)
    record.write(arguments.output, start_ms=bare, import_ms=added, first_ms=first, wheel_bytes=weight, bytes_each=taken)
    slowest = max(steps["the first key"] for steps in first.values())
    if added > MAX_IMPORT_MS or weight > MAX_WHEEL_BYTES or slowest > MAX_FIRST_KEY_MS:
        console.print("misses its target", style="red")
    return 0


if __name__ == "__main__":
    sys.exit(main())
