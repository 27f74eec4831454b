"""Prints the table: every contender on the same frames, round-robin in one process, so that noise affects all alike.

python benches/table.py [--rounds 60]           about 60 s; writes benches/results/latest.json and its picture
"""

import argparse
import statistics
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import plot
import record
from contenders import DIRECTIONS, FLOOR, OURS, PURE, SFRAME_RS, SIZES, Field, frame_of, races

BLOCK_NS = 2_000_000  # length of one contender's turn
# The targets, by size in bytes: the maximum of times the floor, and the minimum of times as fast as the pure-Python
# class.
MAX_OVER_FLOOR = {120: 1.5, 1_200: 1.3, 6_000: 1.15, 20_000: 1.1, 100_000: 1.05}
MIN_OVER_PURE = {120: 6.0, 1_200: 4.0, 6_000: 2.5, 20_000: 1.9, 100_000: 1.45}
MAX_BYTES_BESIDE_SFRAME_RS = 20_000  # up to this size faster from Python than sframe-rs natively

Results = dict[str, dict[int, dict[str, float]]]  # direction, size, contender: median ns per frame


def interleaved(
    field: Field, direction: str, frame: bytes, rounds: int, done: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Return ns per frame of each contender and round. Calls *done* after each round."""
    jobs: dict[str, tuple[Callable[[int], float], int]] = {}
    for contender in field:
        run = contender.timer(direction, frame)
        # The fastest of some tries: an interrupted one would make all turns so short that they measure the clock.
        jobs[contender.name] = (run, max(1, int(BLOCK_NS / min(run(200) for _ in range(10)))))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (run, repeats) in jobs.items():
            times[name].append(run(repeats))
        done()
    return times


def measure(race: str, field: Field, rounds: int, progress: Progress) -> Results:
    task = progress.add_task(race, total=len(DIRECTIONS) * len(SIZES) * rounds)
    results: Results = {}
    for direction in DIRECTIONS:
        for size in SIZES:
            times = interleaved(field, direction, frame_of(size), rounds, lambda: progress.advance(task))
            medians = {name: statistics.median(runs) for name, runs in times.items()}
            results.setdefault(direction, {})[size] = medians
    return results


def show(console: Console, race: str, results: Results, rounds: int) -> list[str]:
    """Print a table per direction, and return a sentence for each missed target."""
    short = []
    for direction, by_size in results.items():
        names = list(next(iter(by_size.values())))
        table = Table(title=f"{race}: {direction}, ns per frame (median of {rounds} interleaved rounds)")
        table.add_column("")
        for size in by_size:
            table.add_column(f"{size:,} B", justify="right")
        for name in names:
            table.add_row(name, *(f"{medians[name]:,.0f}" for medians in by_size.values()))
        table.add_section()
        for rival in names[1:]:
            times = (medians[rival] / medians[names[0]] for medians in by_size.values())
            table.add_row(f"{rival}, times ours", *(f"{ratio:.2f}x" for ratio in times), style="bold")
        console.print(table)
        for size, medians in by_size.items():
            what = f"{race}, {direction} {size:,} B"
            over, max_over = medians[OURS] / medians[FLOOR], MAX_OVER_FLOOR[size]
            faster, min_faster = medians[PURE] / medians[OURS], MIN_OVER_PURE[size]
            if over > max_over:
                short.append(f"{what}: {over:.3f}x the floor, target {max_over}x")
            if faster < min_faster:
                short.append(f"{what}: {faster:.2f}x as fast as pure Python, target {min_faster}x")
            native = medians.get(SFRAME_RS)
            if native is not None and size <= MAX_BYTES_BESIDE_SFRAME_RS and medians[OURS] >= native:
                short.append(f"{what}: {medians[OURS] / native:.2f}x sframe-rs called natively, target below 1x")
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--rounds", type=int, default=60)
    record.add_output(parser, "latest")
    arguments = parser.parse_args()
    console, rounds = Console(), arguments.rounds
    field = races()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        results = {race: measure(race, contenders, rounds, progress) for race, contenders in field.items()}
    short = [line for race, by_direction in results.items() for line in show(console, race, by_direction, rounds)]
    written = record.write(arguments.output, median_ns=results)
    plot.draw(written).save(arguments.output.with_suffix(".png"), optimize=True)
    for line in short:
        console.print(f"misses its target: {line}", style="red")
    return 1 if short and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
