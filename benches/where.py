"""Draws where the time of `decrypt_batch` on two cores goes, with perf: results/batch.png.

    python benches/where.py [--profile sframe] [NAME=MODULE ...]

Each NAME=MODULE is a build to compare: a label, and the path of its native module. Without one, the bar shows the
installed module. A bar is the time of one frame on both cores: what their threads do, and how long they wait. It needs
Linux, perf, and the right to use it (as root, or `kernel.perf_event_paranoid` of at most 2).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

import plot
import record

CORES = 2
SIZE, FRAMES = 120, 20_000
SECONDS = 3.0
SAMPLES_PER_SECOND = 4_000
PACKAGE = Path(__file__).parent.parent / "python" / "frameseal"
WAITING = "waiting"
# The first pattern that is found in "symbol (file)" names the part.
PARTS = {
    "AEAD": r"aws_lc|aead_aes|init_IV|aes_hw",
    "settling in order": r"Unopened.*(commit|settle)",
    "claiming and parsing": r"open_chunks|::attempt|::plan|key_of|named",
    "passes of one thread": r"_native\.|_native \(|libpython|_multiarray",
    "memory, threads": r"",
}


def child(profile: str, seconds: float) -> None:
    """Open one batch again and again. Prints a line before, and the ns per frame after *seconds*."""
    import numpy as np

    import batch
    import frameseal

    ring = frameseal.KeyRing(profile)
    ring.set_key(os.urandom(16))
    sealed, offsets = frameseal.Encryptor(ring, "opus").encrypt_batch(*batch.batch_of(SIZE, FRAMES))
    decryptor, out = frameseal.Decryptor(ring, "opus", replay_window=0), np.zeros(len(sealed), np.uint8)
    decryptor.decrypt_batch(sealed, offsets, CORES, out=out)
    print("ready", flush=True)
    start, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        decryptor.decrypt_batch(sealed, offsets, CORES, out=out)
        calls += 1
    print(spent / calls / FRAMES * 1e9, flush=True)


def with_module(module: Path, folder: Path) -> Path:
    """Return a folder with the package whose native module is this one."""
    package = folder / "frameseal"
    package.mkdir()
    for part in PACKAGE.iterdir():
        if not part.name.startswith("_native."):
            (package / part.name).symlink_to(part)
    shutil.copy(module, package / "_native.abi3.so")
    return folder


def measured(module: Path, profile: str) -> dict[str, float]:
    """Return the ns of a frame by part, on all cores together."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {"PYTHONPATH": str(with_module(module, folder)), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--child", profile, str(SECONDS + 1)]
        data = folder / "perf.data"
        with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            perf = ["perf", "record", "-q", "-o", data, "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND)]
            subprocess.run([*perf, "-p", str(process.pid), "--", "sleep", str(SECONDS)], check=True)
            per_frame = float(process.stdout.readline())
        listed = subprocess.run(
            ["perf", "script", "-i", data, "-F", "ip,sym,dso"], capture_output=True, text=True, check=True
        )
    samples = Counter(part_of(line) for line in listed.stdout.splitlines() if line.strip())
    # A sample is the same time on any core, so that all samples and the waiting make up the time of all cores.
    per_sample = per_frame * CORES / (SECONDS * CORES * SAMPLES_PER_SECOND)
    parts = {part: samples[part] * per_sample for part in PARTS}
    return parts | {WAITING: max(0.0, per_frame * CORES - sum(parts.values()))}


def part_of(line: str) -> str:
    return next(part for part, pattern in PARTS.items() if re.search(pattern, line))


def draw(bars: dict[str, dict[str, float]]) -> Image.Image:
    """Draw a stacked bar for each build."""
    return plot.stacked(
        bars,
        title=f"decrypt_batch on two cores: a frame of {SIZE} B",
        subtitle="ns on both cores together, by what their threads do; the time of a frame is half a bar",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs="*", metavar="NAME=MODULE")
    parser.add_argument("--profile", default="sframe", choices=("livekit", "sframe"))
    parser.add_argument("--picture", type=Path, default=record.RESULTS / "batch.png")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    record.add_output(parser, "where")
    arguments = parser.parse_args()
    if arguments.child:
        profile, seconds = arguments.child
        child(profile, float(seconds))
        return 0
    if shutil.which("perf") is None:
        print("benches/where.py needs perf: on Debian and Ubuntu, apt-get install linux-perf", file=sys.stderr)
        return 1
    builds = dict(build.split("=", 1) for build in arguments.builds) or {"now": next(PACKAGE.glob("_native.*.so"))}
    bars = {name: measured(Path(module), arguments.profile) for name, module in builds.items()}
    for name, parts in bars.items():
        shares = ", ".join(f"{part} {ns:.0f}" for part, ns in parts.items())
        print(f"{name}: {sum(parts.values()) / CORES:.0f} ns a frame; on both cores: {shares}")
    record.write(arguments.output, size=SIZE, profile=arguments.profile, ns_by_part=bars)
    draw(bars).save(arguments.picture, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
