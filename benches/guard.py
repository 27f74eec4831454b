"""Fails when one frame has become much slower: it compares ratios to the rivals of the same run, with a wide margin.

python benches/guard.py

It never compares absolute times: machines differ, and are shared. Of each contender the fastest turn counts: a busy
neighbour can only lengthen a turn, and with several neighbours it lengthens most of them, so the median as well. The
margins are one and a half times what a busy machine measures, so an additional copy, lock or look-up exceeds them.
"""

import sys

from rich.console import Console
from rich.progress import Progress

import table
from contenders import DIRECTIONS, FLOOR, OURS, PURE, frame_of, races

ROUNDS = 40
# By size in bytes: the maximum of times the floor, and the minimum of times as fast as pure Python.
MAX_OVER_FLOOR = {120: 2.5, 1_200: 2.0, 20_000: 1.5}
MIN_OVER_PURE = {120: 2.5, 1_200: 2.0, 20_000: 1.2}

Fastest = dict[str, float]  # by contender, ns per frame


def faults(what: str, size: int, fastest: Fastest) -> list[str]:
    """Return a sentence for each limit that is exceeded."""
    over, faster = fastest[OURS] / fastest[FLOOR], fastest[PURE] / fastest[OURS]
    found = []
    if over > MAX_OVER_FLOOR[size]:
        found.append(f"{what}: {over:.2f} times the floor, maximum {MAX_OVER_FLOOR[size]}")
    if faster < MIN_OVER_PURE[size]:
        found.append(f"{what}: {faster:.2f} times as fast as pure Python, minimum {MIN_OVER_PURE[size]}")
    return found


def main() -> int:
    found = []
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        field = races()
        task = progress.add_task("comparing", total=len(field) * len(DIRECTIONS) * len(MAX_OVER_FLOOR))
        for race, contenders in field.items():
            rivals = [one for one in contenders if one.name in (OURS, PURE, FLOOR)]
            for direction in DIRECTIONS:
                for size in MAX_OVER_FLOOR:
                    times = table.interleaved(rivals, direction, frame_of(size), ROUNDS)
                    fastest = {name: min(turns) for name, turns in times.items()}
                    what = f"{race}, {direction} {size:,} B"
                    ours, floor, pure = (fastest[name] for name in (OURS, FLOOR, PURE))
                    console.print(f"{what}: {ours / floor:.2f}x the floor, {pure / ours:.2f}x as fast as pure Python")
                    found += faults(what, size, fastest)
                    progress.advance(task)
    for fault in found:
        console.print(f"too slow: {fault}", style="red")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
