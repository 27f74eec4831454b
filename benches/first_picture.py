"""Measures the time from joining a call to its first picture and sound, from a late key to them, and across rotations.

    python benches/first_picture.py [--joins 50] [--late 1 3 8] [--late-joins 5] [--rotations 12]

Each join makes a call of aiortc over loopback, 720p30 VP8 and Opus: peer connections, attachment, offer and answer,
ICE, DTLS, encoders and decoders. The time ends with the first decoded picture and the first decoded sound. Sealed calls
and calls without frameseal have a process each, and the two processes take turns. The process of the latter never
imports frameseal.

A second table is the time from a key that arrives late to the first picture. The receiver joins without the key, which
is set 1, 3 and 8 s after the call is connected, and 0.2 s later in each further join. The time includes the request for
a keyframe and its way. With `hold_frames` the first picture is an old one. So the table has the first picture that was
drawn after the key arrived, too.

A third table is how late frames are while keys rotate, in calls that take turns. Each rotation counts the latest frame
of half a second, against the median delay of the call. A frame that is never shown is late until the next one is shown.
"""

import argparse
import asyncio
import itertools
import logging
import statistics
import sys
import time
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import call
from turns import PLAIN, SEALED, Worker, error_of_median, in_turns, is_worker, serve

KINDS = {"video": "picture", "audio": "sound"}
RATES = {"video": call.VIDEO_RATE, "audio": call.AUDIO_RATE}
KEY = bytes(range(32))
PATIENCE = 30.0  # s for a first picture
HOLD_FRAMES = 256  # the maximum: 8 s of pictures, 5 s of sound
PHASE = 0.2  # s that the key is later in each further join
CURRENT = "current"  # the first picture that was drawn after the key arrived

AHEAD = 0.05  # s by which receivers have a key before its sender
ROTATION_INTERVAL = 0.8  # s: more than between two requests for keyframes
WINDOW = 0.5  # s in which the frames of a rotation count
SETTLING = 0.5  # s after joining, and after the last rotation
ROTATIONS_OF_A_CALL = 4


class Rotation(NamedTuple):
    """How the keys of a call rotate."""

    hold_frames: int = 0
    fetch: float | None = None  # s from the first frame under a missing key to the key. None sets it ahead.
    rotates: bool = True


NO_ROTATION = "no rotation"
ROTATIONS = {
    NO_ROTATION: Rotation(rotates=False),
    f"key {AHEAD * 1e3:.0f} ms ahead": Rotation(),
    "fetched in 10 ms, held": Rotation(HOLD_FRAMES, 0.01),
    "fetched in 10 ms": Rotation(0, 0.01),
    "fetched in 100 ms, held": Rotation(HOLD_FRAMES, 0.1),
    "fetched in 100 ms": Rotation(0, 0.1),
}


class Joins:
    """Makes one call after the other."""

    def __init__(self, sealed: bool) -> None:
        self._sealed = sealed
        self._video, self._audio = call.pictures(), call.sounds()

    async def answer(self, request: dict[str, Any]) -> object:
        """Return the figures of the call that *request* names."""
        if "rotation" in request:
            return await self._rotate(Rotation(*request["rotation"]), request["count"])
        return await self._join(request["late"], request["hold"])

    async def _join(self, late: float | None, hold: int) -> dict[str, float]:
        """Return the ms until the first frame of each kind: from joining, or from the key, which is *late* s late."""
        first: dict[str, float] = {}
        complete = asyncio.Event()
        wanted = {*KINDS} if late is None else {*KINDS, CURRENT}
        key_at = float("inf")

        def decoded(track: Any, frame: Any) -> None:
            first.setdefault(track.kind, time.perf_counter())
            # The first frame that arrives has the time 0, and is the first that was drawn.
            if track.kind == "video" and one.sources[0].started + frame.pts / 90_000 > key_at:
                first.setdefault(CURRENT, time.perf_counter())
            if first.keys() == wanted:
                complete.set()

        start = time.perf_counter()
        one = call.Call(self._video, self._audio, on_decoded=decoded)
        provider = self._attach(one, late is None, hold)[1] if self._sealed else None
        for source in one.sources:
            source.play(PATIENCE + (late or 0))
        try:
            await one.connect()
            if late is not None:
                await asyncio.sleep(late)
                if first:
                    raise SystemExit("a frame was decoded without the key")
                start, key_at = time.perf_counter(), time.monotonic()
                provider.set_shared_key(KEY)
            async with asyncio.timeout(PATIENCE):
                await complete.wait()
        finally:
            await one.close()
        assert self._sealed or "frameseal" not in sys.modules
        return {kind: (at - start) * 1e3 for kind, at in first.items()}

    async def _rotate(self, rotation: Rotation, count: int) -> dict[str, list[float]]:
        """Return the ms by which the latest frame of each rotation is late, by kind."""
        shown: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}

        def decoded(track: Any, frame: Any) -> None:
            place = round(frame.pts * frame.time_base * RATES[track.kind])
            shown[track.kind].setdefault(place, time.perf_counter())

        one = call.Call(self._video, self._audio, on_decoded=decoded)
        ours, theirs = self._attach(one, True, rotation.hold_frames, rotation.fetch) if self._sealed else (None, None)
        for source in one.sources:
            source.play(PATIENCE + count * ROTATION_INTERVAL)
        starts = []
        try:
            await one.connect()
            await asyncio.sleep(SETTLING)
            for number in range(1, count + 1):
                starts.append(time.perf_counter())
                if rotation.rotates and ours is not None:
                    if rotation.fetch is None:
                        theirs.set_shared_key(key_of(number), number, send=False)
                        await asyncio.sleep(AHEAD)
                    ours.set_shared_key(key_of(number), number)
                await asyncio.sleep(starts[0] + number * ROTATION_INTERVAL - time.perf_counter())
            await asyncio.sleep(SETTLING)
        finally:
            await one.close()
        end = time.perf_counter()
        return {kind: latest(shown[kind], RATES[kind], starts, end) for kind in KINDS}

    @staticmethod
    def _attach(one: call.Call, with_key: bool, hold: int, fetch: float | None = None) -> tuple[Any, Any]:
        """Attach both ends, and return both key providers: the sending one's first."""
        from frameseal import E2EEManager, ExternalE2EEKeyProvider
        from frameseal.aiortc import attach

        ours, theirs = ExternalE2EEKeyProvider(), ExternalE2EEKeyProvider()
        ours.set_shared_key(KEY)
        if with_key:
            theirs.set_shared_key(KEY)

        def fetch_key(event: Any) -> None:
            if fetch is not None:
                set_it = (theirs.set_shared_key, key_of(event.key_id), event.key_id)
                asyncio.get_running_loop().call_later(fetch, *set_it)

        for pc, provider in ((one.sending, ours), (one.receiving, theirs)):
            e2ee = E2EEManager(provider, "livekit", hold_frames=hold, on_missing_key=fetch_key)
            attach(pc, e2ee, local_id="alice", remote_id="alice")
        return ours, theirs


def key_of(number: int) -> bytes:
    """Return the key of a rotation."""
    return bytes([number]) * 32


def latest(shown: dict[int, float], rate: int, starts: list[float], end: float) -> list[float]:
    """Return the ms by which the latest frame is late, after each of *starts*.

    :param shown: when each frame was shown, by its place among those that were drawn.
    :param end: the end of the call. Frames after the last one that was shown are late until then.
    """
    delay = statistics.median(at - place / rate for place, at in shown.items())
    late = [0.0 for _ in starts]
    following = end
    for place in range(int((starts[-1] + WINDOW - delay) * rate), min(shown) - 1, -1):
        following = min(following, shown.get(place, following))
        expected = place / rate + delay
        for number, start in enumerate(starts):
            if start <= expected < start + WINDOW:
                late[number] = max(late[number], (following - expected) * 1e3)
    return late


async def work(name: str) -> None:
    """Answer requests, each with a call."""
    logging.getLogger("frameseal").setLevel(logging.ERROR)  # the missing key is intended
    await serve(Joins(name == SEALED).answer)


def joining(late: float | None = None, hold: int = 0) -> dict[str, object]:
    """Return the request for a join. *late* is the delay of the key in s; None has the key from the start."""
    return {"late": late, "hold": hold}


def measure(arguments: argparse.Namespace, progress: Progress) -> tuple[Any, Any, Any]:
    """Return the ms of all joins, by process and kind; those from late keys; and those of rotations."""
    late, late_joins, rotations = arguments.late, arguments.late_joins, arguments.rotations
    calls = range(0, rotations, ROTATIONS_OF_A_CALL)
    total = arguments.joins + 2 * len(late) * late_joins + len(calls) * (1 + len(ROTATIONS))
    task = progress.add_task("joining", total=total)
    with Worker(__file__, "--serve", PLAIN) as plain, Worker(__file__, "--serve", SEALED) as sealed:
        workers = {PLAIN: plain, SEALED: sealed}
        in_turns(workers, 0, joining())  # imports, and what a process makes once
        found: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in workers}
        for turn in range(arguments.joins):
            for name, times in in_turns(workers, turn, joining()).items():
                for kind, ms in times.items():
                    found[name][kind].append(ms)
            progress.advance(task)
        by_delay: dict[str, dict[str, list[float]]] = {}
        for turn in range(late_joins):
            for delay, hold in itertools.product(late, (0, HOLD_FRAMES)):
                times_of = by_delay.setdefault(f"{delay:g} s late{', held' * bool(hold)}", {})
                for kind, ms in sealed.ask(joining(delay + turn * PHASE, hold)).items():
                    times_of.setdefault(kind, []).append(ms)
                progress.advance(task)
        by_rotation: dict[str, dict[str, list[float]]] = {}
        rows = [(f"{PLAIN}, {NO_ROTATION}", plain, ROTATIONS[NO_ROTATION])]
        rows += [(name, sealed, rotation) for name, rotation in ROTATIONS.items()]
        for done, (row, worker, rotation) in itertools.product(calls, rows):
            times_of = by_rotation.setdefault(row, {kind: [] for kind in KINDS})
            count = min(ROTATIONS_OF_A_CALL, rotations - done)
            for kind, ms in worker.ask({"rotation": rotation, "count": count}).items():
                times_of[kind] += ms
            progress.advance(task)
    return found, by_delay, by_rotation


def show_joins(console: Console, found: dict[str, dict[str, list[float]]]) -> None:
    joins = len(found[PLAIN]["video"])
    table = Table(title=f"from joining to the first frame, ms ({joins} joins each, in turns)")
    for column in ("", "median", "p90", "maximum", "added (median of pairs)", "its noise"):
        table.add_column(column, justify="right" if column else "left")
    for kind, what in KINDS.items():
        for name in (PLAIN, SEALED):
            times = sorted(found[name][kind])
            cells = [f"{ms:.0f}" for ms in (statistics.median(times), times[int(len(times) * 0.9)], times[-1])]
            if name == SEALED:
                added = [own - other for own, other in zip(found[SEALED][kind], found[PLAIN][kind], strict=True)]
                error = error_of_median(added)
                cells += [f"{statistics.median(added):+.1f}", "one pair" if error is None else f"± {error:.1f}"]
            table.add_row(f"{what}, {name}", *cells)
    console.print(table)


def show_late_keys(console: Console, by_delay: dict[str, dict[str, list[float]]]) -> None:
    table = Table(title="from a late key to the first frame, ms (median, and the maximum)")
    for column in ("the key arrives", "picture", "maximum", "drawn after it", "maximum", "sound", "maximum"):
        table.add_column(column, justify="right" if table.columns else "left")
    for row, times_of in by_delay.items():
        times = [times_of[kind] for kind in ("video", CURRENT, "audio")]
        table.add_row(row, *(f"{value:.0f}" for each in times for value in (statistics.median(each), max(each))))
    console.print(table)


def show_rotations(console: Console, by_rotation: dict[str, dict[str, list[float]]]) -> None:
    rotations = max(len(late["video"]) for late in by_rotation.values())
    table = Table(title=f"the latest frame of a rotation, ms late ({rotations} rotations)")
    table.add_column("")
    for kind, what in KINDS.items():
        table.add_column(f"{what} (one each {1e3 / RATES[kind]:.0f} ms), median", justify="right")
        table.add_column("p90", justify="right")
        table.add_column("maximum", justify="right")
    for row, late in by_rotation.items():
        each = [sorted(late[kind]) for kind in KINDS]
        figures = [(statistics.median(ms), ms[int(len(ms) * 0.9)], ms[-1]) for ms in each]
        table.add_row(row, *(f"{ms:.0f}" for of_kind in figures for ms in of_kind))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--joins", type=int, default=50, help="joins of each kind of call; 0 leaves the table out")
    parser.add_argument("--late", type=float, nargs="*", default=[1.0, 3.0, 8.0], help="delays of the key, in s")
    parser.add_argument("--late-joins", type=int, default=5, help="joins for each delay; 0 leaves the table out")
    parser.add_argument("--rotations", type=int, default=12, help="rotations of each kind; 0 leaves the table out")
    if is_worker(parser, (PLAIN, SEALED), work):
        return 0
    import record

    record.add_output(parser, "first_picture")
    arguments = parser.parse_args()
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found, by_delay, by_rotation = measure(arguments, progress)
    if arguments.joins:
        show_joins(console, found)
    if by_delay:
        show_late_keys(console, by_delay)
    if by_rotation:
        show_rotations(console, by_rotation)
    record.write(arguments.output, joined_ms=found, late_key_ms=by_delay, rotation_ms=by_rotation)
    return 0


if __name__ == "__main__":
    sys.exit(main())
