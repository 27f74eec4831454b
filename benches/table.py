"""The table: every contender on the same frames, round-robin in one process, so that noise hits all alike.

python benches/table.py            about 40 s; writes benches/results/latest.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import frameseal
from contenders import DIRECTIONS, SIZES, Contender, frame_of, races

ROUNDS = 60
BLOCK_NS = 2_000_000  # one contender runs so long before the next has its turn
# What we hold ourselves to, by size in bytes: so many times the speed of the pure-Python class.
WANTED = {
    "livekit": {"encrypt": {120: 4.0, 1_200: 3.0, 6_000: 2.0}, "decrypt": {120: 4.0, 1_200: 3.0, 6_000: 2.0}},
    "sframe": {"encrypt": {120: 3.0, 1_200: 3.0}, "decrypt": {}},
}

Results = dict[str, dict[int, dict[str, float]]]  # direction, size, contender: median ns per frame


def per_frame(call: Callable[[bytes], bytes], argument: bytes, repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call(argument)
    return (time.perf_counter_ns() - start) / repeats


def measure(race: str, field: list[Contender], progress: Progress) -> Results:
    task = progress.add_task(race, total=len(DIRECTIONS) * len(SIZES) * ROUNDS)
    results: Results = {}
    for direction in DIRECTIONS:
        for size in SIZES:
            jobs: dict[str, tuple[Callable[[bytes], bytes], bytes, int]] = {}
            for contender in field:
                call = getattr(contender, direction)
                argument = frame_of(size) if direction == "encrypt" else contender.encrypt(frame_of(size))
                once = per_frame(call, argument, 200)
                jobs[contender.name] = (call, argument, max(1, int(BLOCK_NS / once)))
            times: dict[str, list[float]] = {name: [] for name in jobs}
            for _ in range(ROUNDS):
                for name, job in jobs.items():
                    times[name].append(per_frame(*job))
                progress.advance(task)
            medians = {name: statistics.median(runs) for name, runs in times.items()}
            results.setdefault(direction, {})[size] = medians
    return results


def show(console: Console, race: str, results: Results) -> list[str]:
    """Print a table per direction; return what falls short."""
    short = []
    for direction, by_size in results.items():
        names = list(next(iter(by_size.values())))
        table = Table(title=f"{race}: {direction}, ns per frame (median of {ROUNDS} interleaved rounds)")
        table.add_column("")
        for size in by_size:
            table.add_column(f"{size:,} B", justify="right")
        for name in names:
            table.add_row(name, *(f"{medians[name]:,.0f}" for medians in by_size.values()))
        table.add_section()
        for rival in names[1:]:
            ratios = {size: medians[rival] / medians[names[0]] for size, medians in by_size.items()}
            table.add_row(f"{rival}, times ours", *(f"{ratio:.1f}x" for ratio in ratios.values()), style="bold")
            if rival == names[1]:
                short += [
                    f"{race}, {direction} {size} B: {ratios[size]:.2f}x of {wanted}x"
                    for size, wanted in WANTED[race][direction].items()
                    if ratios[size] < wanted
                ]
        console.print(table)
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "latest.json")
    arguments = parser.parse_args()
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = {race: measure(race, field, progress) for race, field in races().items()}
    short = [line for race, by_direction in results.items() for line in show(console, race, by_direction)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "frameseal": frameseal.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "median_ns": results,
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    for line in short:
        console.print(f"below the target: {line}", style="red")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
