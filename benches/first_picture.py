"""Measures the time from joining a call to its first picture and its first sound, sealed and not, in turns.

    python benches/first_picture.py [--joins 50] [--late 1 3 8] [--late-joins 5]

Each join makes a call of aiortc over loopback, 720p30 VP8 and Opus: peer connections, attachment, offer and answer,
ICE, DTLS, encoders and decoders. The time ends with the first decoded picture and the first decoded sound. Sealed calls
and calls without frameseal have a process each, and the two processes take turns. The process of the latter never
imports frameseal.

A second table is the time from a key that arrives late to the first picture. The receiver joins without the key, which
is set 1, 3 and 8 s after the call is connected. The time includes the request for a keyframe and its way.
"""

import argparse
import asyncio
import logging
import statistics
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import call
from turns import PLAIN, SEALED, Worker, error_of_median, in_turns, is_worker, serve

KINDS = {"video": "picture", "audio": "sound"}
KEY = bytes(range(32))
PATIENCE = 30.0  # s for a first picture


class Joins:
    """Makes one call after the other."""

    def __init__(self, sealed: bool) -> None:
        self._sealed = sealed
        self._video, self._audio = call.pictures(), call.sounds()

    async def join(self, late: float | None) -> dict[str, float]:
        """Return the ms until the first frame of each kind: from joining, or from the key, which is *late* s late."""
        first: dict[str, float] = {}
        complete = asyncio.Event()

        def decoded(track: Any, _frame: object) -> None:
            first.setdefault(track.kind, time.perf_counter())
            if first.keys() == KINDS.keys():
                complete.set()

        start = time.perf_counter()
        one = call.Call(self._video, self._audio, on_decoded=decoded)
        provider = self._attach(one, late is None) if self._sealed else None
        for source in one.sources:
            source.play(PATIENCE + (late or 0))
        try:
            await one.connect()
            if late is not None:
                await asyncio.sleep(late)
                if first:
                    raise SystemExit("a frame was decoded without the key")
                start = time.perf_counter()
                provider.set_shared_key(KEY)
            async with asyncio.timeout(PATIENCE):
                await complete.wait()
        finally:
            await one.close()
        assert self._sealed or "frameseal" not in sys.modules
        return {kind: (at - start) * 1e3 for kind, at in first.items()}

    @staticmethod
    def _attach(one: call.Call, with_key: bool) -> Any:
        """Attach both ends, and return the key provider of the receiving one."""
        from frameseal import E2EEManager, ExternalE2EEKeyProvider
        from frameseal.aiortc import attach

        ours, theirs = ExternalE2EEKeyProvider(), ExternalE2EEKeyProvider()
        ours.set_shared_key(KEY)
        if with_key:
            theirs.set_shared_key(KEY)
        for pc, provider in ((one.sending, ours), (one.receiving, theirs)):
            attach(pc, E2EEManager(provider, "livekit"), local_id="alice", remote_id="alice")
        return theirs


async def work(name: str) -> None:
    """Answer requests, each with a join. A request is the delay of the key in s, or None."""
    logging.getLogger("frameseal").setLevel(logging.ERROR)  # the missing key is intended
    await serve(Joins(name == SEALED).join)


def measure(joins: int, late: list[float], late_joins: int, progress: Progress) -> tuple[Any, Any]:
    """Return the ms of all joins, by process and kind, and those from late keys, by delay and kind."""
    task = progress.add_task("joining", total=joins + len(late) * late_joins)
    with Worker(__file__, "--serve", PLAIN) as plain, Worker(__file__, "--serve", SEALED) as sealed:
        workers = {PLAIN: plain, SEALED: sealed}
        in_turns(workers, 0, None)  # imports, and what a process makes once
        found: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in workers}
        for turn in range(joins):
            for name, times in in_turns(workers, turn, None).items():
                for kind, ms in times.items():
                    found[name][kind].append(ms)
            progress.advance(task)
        by_delay: dict[float, dict[str, list[float]]] = {delay: {kind: [] for kind in KINDS} for delay in late}
        for _ in range(late_joins):
            for delay, times_of in by_delay.items():
                for kind, ms in sealed.ask(delay).items():
                    times_of[kind].append(ms)
                progress.advance(task)
    return found, by_delay


def show(console: Console, found: dict[str, dict[str, list[float]]], by_delay: dict[float, Any]) -> None:
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
    if not by_delay:
        return
    table = Table(title="from a late key to the first frame, ms")
    for column in ("the key arrives", "picture, median", "maximum", "sound, median", "maximum"):
        table.add_column(column, justify="right")
    for delay, times_of in by_delay.items():
        cells = [f"{value:.0f}" for kind in KINDS for value in (statistics.median(times_of[kind]), max(times_of[kind]))]
        table.add_row(f"{delay:g} s late", *cells)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--joins", type=int, default=50, help="joins of each kind of call")
    parser.add_argument("--late", type=float, nargs="*", default=[1.0, 3.0, 8.0], help="delays of the key, in s")
    parser.add_argument("--late-joins", type=int, default=5, help="joins for each delay")
    if is_worker(parser, (PLAIN, SEALED), work):
        return 0
    import record

    record.add_output(parser, "first_picture")
    arguments = parser.parse_args()
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found, by_delay = measure(arguments.joins, arguments.late, arguments.late_joins, progress)
    show(console, found, by_delay)
    record.write(arguments.output, joined_ms=found, late_key_ms=by_delay)
    return 0


if __name__ == "__main__":
    sys.exit(main())
