"""`frameseal bench`: measures the time per frame on this machine, in under half a minute.

It prints medians of interleaved rounds, so that load on the machine affects all rows alike. The only rival here is the
bare AEAD of `cryptography`, if installed; benches/ in the repository has others.
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
    """One operation to measure."""

    name: str
    prepare: Callable[[bytes], bytes]
    """Returns the argument of `call` for a frame."""
    call: Callable[[bytes], object]


def rows() -> list[Row]:
    """Return the operations: encrypt and decrypt of each profile, and the AEAD alone if it is installed."""
    made = []
    for profile in PROFILES:
        ring = KeyRing(profile, shared=is_sframe(profile))
        ring.set_key(os.urandom(32))
        encryptor = Encryptor(ring, "opus")
        # No replay window, because the same frame is opened repeatedly.
        decryptor = Decryptor(ring, "opus", replay_window=0)
        made.append(Row(f"{profile}, encrypt", bytes, encryptor.encrypt))
        made.append(Row(f"{profile}, decrypt", encryptor.encrypt, decryptor.decrypt))
    if importlib.util.find_spec("cryptography") is not None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an optional package

        # The nonce is reused, which no sender may do: choosing a nonce is not part of the AEAD.
        aead, nonce = AESGCM(os.urandom(16)), os.urandom(12)
        made.append(Row("cryptography: AEAD only", bytes, lambda frame: aead.encrypt(nonce, frame, None)))
    return made


def run(seconds: float = 12.0) -> int:
    """Measure for about *seconds*, print the table in ns per frame, and return the exit status, which is 0."""
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
    """Return the mean time of a call in ns."""
    call = row.call
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call(argument)
    return (time.perf_counter_ns() - start) / repeats
