"""Fails when a frame has become much slower: it compares ratios to the rivals of the same run, with a wide margin.

A frame alone is compared with the floor and with pure Python, and a frame through the hook of a call with what the
stack itself does to the same frame.

python benches/guard.py

It never compares absolute times: machines differ, and are shared. Of each contender the fastest turn counts: a busy
neighbour can only lengthen a turn, and with several neighbours it lengthens most of them, so the median as well. The
margins are one and a half times what a busy machine measures, so an additional copy, lock or look-up exceeds them.
"""

import sys
import timeit

from rich.console import Console
from rich.progress import Progress

import table
from contenders import DIRECTIONS, FLOOR, OURS, PURE, frame_of, races
from hooked import Hooked

ROUNDS = 40
# By size in bytes: the maximum of times the floor, and the minimum of times as fast as pure Python.
MAX_OVER_FLOOR = {120: 2.5, 1_200: 2.0, 20_000: 1.5}
MIN_OVER_PURE = {120: 2.5, 1_200: 2.0, 20_000: 1.2}

# By size in bytes and direction: the maximum of times as long as the stack takes to split a picture, or to join it.
MAX_OVER_STACK = {(1_000, "seal"): 2.5, (1_000, "open"): 4.0, (6_000, "seal"): 1.5, (6_000, "open"): 0.9}
CALLS = 200  # in one turn through the hook

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


def hook_faults(what: str, size: int, over: float) -> list[str]:
    """Return a sentence if a picture through the hook takes too many times as long as the stack's own part."""
    maximum = MAX_OVER_STACK[size, what]
    return (
        [f"the hook, {what} {size:,} B: {over:.2f} times the stack's part, maximum {maximum}"] if over > maximum else []
    )


def hook(console: Console) -> list[str]:
    """Measure pictures through the hook, and return a sentence for each limit that is exceeded."""
    found = []
    for size, what in MAX_OVER_STACK:
        hooked = Hooked(size)
        both = (hooked.seal, hooked.pack) if what == "seal" else (hooked.open, hooked.unpack)
        turns = [[timeit.timeit(call, number=CALLS) for call in both] for _ in range(ROUNDS)]
        ours, stack = map(min, zip(*turns, strict=True))
        console.print(f"the hook, {what} {size:,} B: {ours / stack:.2f}x the stack's own part")
        found += hook_faults(what, size, ours / stack)
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
    found += hook(console)
    for fault in found:
        console.print(f"too slow: {fault}", style="red")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
