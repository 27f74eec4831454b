"""Fails when a frame has become much slower: it compares ratios to the rivals of the same run, with a wide margin.

A frame alone is compared with the floor and with pure Python, and a frame through the hook of a call with what the
stack itself does to the same frame.

python benches/guard.py

It never compares absolute times: machines differ, and are shared. Of each contender the fastest turn counts: a busy
neighbour can only lengthen a turn, and with several neighbours it lengthens most of them, so the median as well. The
margins are one and a half times what a busy machine measures, so an additional copy, lock or look-up exceeds them.

A batch is compared with itself on two cores. SHA-256 on one thread and on two measures in the same rounds how much a
second core can gain. A busy neighbour seldom slows down the median turns and the fastest alike, so the better of the
two counts. The limit is wide: a batch that gains nothing where SHA-256 gains 1.7 exceeds it. What each thread does is
counted more narrowly, by instructions.py.
"""

import statistics
import sys
import timeit

from rich.console import Console
from rich.progress import Progress

import batch
import table
from contenders import DIRECTIONS, FLOOR, OURS, PURE, frame_of, races
from hooked import Hooked

ROUNDS = 40
# By size in bytes: the maximum of times the floor, and the minimum of times as fast as pure Python.
MAX_OVER_FLOOR = {120: 2.5, 1_200: 2.0, 20_000: 1.5}
MIN_OVER_PURE = {120: 2.5, 1_200: 2.0, 20_000: 1.2}
BATCH_SIZES = (120, 1_200)
BATCH_FRAMES = 20_000  # on one core some 2 ms, as long as two digests of SHA-256
BATCH_ROUNDS = 30
# The minimum gain of a batch's second core, as a share of SHA-256's gain in the same rounds. Measured: 0.9 to 1.1.
MIN_SHARE_OF_GAIN = 0.6
# The maximum time of a frame of 120 B in a batch on one core, in times AWS-LC called from C. Measured: 1.1 to 1.4.
MAX_BATCH_OVER_AWS_LC = 2.0

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


def batch_faults(what: str, gain: float, possible: float, over_aws_lc: float | None) -> list[str]:
    """Return a sentence for each limit that a batch exceeds. *possible* is SHA-256's gain of a second core."""
    found = []
    if gain < MIN_SHARE_OF_GAIN * possible:
        found.append(f"{what}: two cores gain {gain:.2f}, minimum {MIN_SHARE_OF_GAIN} of SHA-256's {possible:.2f}")
    if over_aws_lc is not None and over_aws_lc > MAX_BATCH_OVER_AWS_LC:
        found.append(f"{what}: {over_aws_lc:.2f} times AWS-LC on one core, maximum {MAX_BATCH_OVER_AWS_LC}")
    return found


def compare_batches(profile: str, size: int, console: Console) -> list[str]:
    """Return a sentence for each limit that a batch of this profile and size exceeds."""
    found = []
    jobs = batch.jobs(profile, size, BATCH_FRAMES)
    names = {
        direction: [f"{direction}_batch, {cores}, reused array" for cores in ("one core", "two cores")]
        for direction in DIRECTIONS
    }
    times: dict[str, list[float]] = {name: [] for pair in names.values() for name in pair}
    aws_lc, gains = [], []
    for _ in range(BATCH_ROUNDS):
        gains.append(batch.second_core())
        aws_lc.append(jobs[batch.AWS_LC]())
        for name, turns in times.items():
            turns.append(jobs[name]())
    possible = statistics.median(gains)
    for direction, (one, two) in names.items():
        what = f"{profile}, {direction} batches of {size:,} B"
        gain = max(average(times[one]) / average(times[two]) for average in (statistics.median, min))
        # Longer frames leave the cache, and AWS-LC alone writes its memory shortly before.
        over = min(times[one]) / min(aws_lc) if size == min(BATCH_SIZES) else None
        console.print(f"{what}: two cores gain {gain:.2f}, SHA-256 {possible:.2f}")
        found += batch_faults(what, gain, possible, over)
    return found


def batches(console: Console) -> list[str]:
    """Return a sentence for each limit that a batch exceeds."""
    pairs = [(profile, size) for profile in ("livekit", "sframe") for size in BATCH_SIZES]
    return [fault for profile, size in pairs for fault in compare_batches(profile, size, console)]


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
    found += batches(console)
    found += hook(console)
    for fault in found:
        console.print(f"too slow: {fault}", style="red")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
