"""`frameseal bench`: what one frame costs on this machine, in under half a minute.

Interleaved rounds and their medians, so that a busy moment hits every row alike. The rivals are in the repository
(benches/); here there is one to compare with, the bare AEAD of `cryptography`, where that is installed.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from frameseal._native import Decryptor, Encryptor, KeyRing
from frameseal.enums import Profile
from frameseal.profiles import is_sframe

SIZES = (120, 1_200, 6_000, 20_000, 100_000)
PROFILES = (Profile.LIVEKIT, Profile.SFRAME)


@dataclass(frozen=True)
class Row:
    """One thing that is done to a frame."""

    name: str
    prepare: Callable[[bytes], bytes]
    """What is measured takes this of the frame."""
    call: Callable[[bytes], object]


def rows() -> list[Row]:
    """Return what is measured: ours in both directions, and the AEAD alone if there is one."""
    made = []
    for profile in PROFILES:
        ring = KeyRing(profile, shared=is_sframe(profile))
        ring.set_key(os.urandom(32))
        encryptor = Encryptor(ring, "opus")
        # Without the replay window: one frame is opened again and again.
        decryptor = Decryptor(ring, "opus", replay_window=0)
        made.append(Row(f"{profile}, encrypt", bytes, encryptor.encrypt))
        made.append(Row(f"{profile}, decrypt", encryptor.encrypt, decryptor.decrypt))
    if importlib.util.find_spec("cryptography") is not None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only where it is installed

        # One nonce for all, which no sender may do: what it costs to find another is not the AEAD's.
        aead, nonce = AESGCM(os.urandom(16)), os.urandom(12)
        made.append(Row("cryptography: AEAD only", bytes, lambda frame: aead.encrypt(nonce, frame, None)))
    return made


def run(seconds: float = 12.0) -> int:
    """Measure for about so many seconds, and print the table; return the exit status."""
    field = rows()
    rounds = 15
    slot = seconds * 1e9 / (len(field) * len(SIZES) * rounds)
    medians: dict[tuple[str, int], float] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(SIZES) * rounds)
        for size in SIZES:
            frame = os.urandom(size)
            jobs = [(row, row.prepare(frame)) for row in field]
            repeats = {row.name: max(1, int(slot / max(1.0, _each(row, argument, 3)))) for row, argument in jobs}
            times: dict[str, list[float]] = {row.name: [] for row in field}
            for _ in range(rounds):
                for row, argument in jobs:
                    times[row.name].append(_each(row, argument, repeats[row.name]))
                progress.advance(task)
            medians |= {(name, size): statistics.median(measured) for name, measured in times.items()}
    table = Table(title=f"ns per frame, from Python: medians of {rounds} interleaved rounds")
    table.add_column("")
    for size in SIZES:
        table.add_column(f"{size:,} B", justify="right")
    for row in field:
        table.add_row(row.name, *(f"{medians[row.name, size]:,.0f}" for size in SIZES))
    console = Console()
    console.print(table)
    per_second = 50 * medians[f"{Profile.LIVEKIT}, decrypt", 120] / 1e9
    console.print(f"A voice (Opus, 50 frames of 120 B a second) takes {per_second:.4%} of a core to open.")
    return 0


def _each(row: Row, argument: bytes, repeats: int) -> float:
    """Return ns per call."""
    call = row.call
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call(argument)
    return (time.perf_counter_ns() - start) / repeats
