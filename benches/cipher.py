"""Measures AES-128-GCM alone, with and without AVX-512: AWS-LC, the fastest that is known, the floor and frameseal.

    python benches/cipher.py [--rounds 40]

AWS-LC and Intel's ipsec-mb seal from C, in one place, without Python, key ring or codec. The floor and frameseal are
called from Python. "Without AVX-512" is a second process on the same processor, in which `OPENSSL_ia32cap` hides
AVX-512 from AWS-LC, and ipsec-mb runs its functions for AVX2. The two processes take turns, row by row.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import floor
import frameseal
import ipsec_mb
import record
from contenders import FLOOR, KEY, OURS, SIZES, frame_of, per_frame
from turns import Worker, in_turns, is_worker, serve

AWS_LC = "AWS-LC"
TURN_NS = 2_000_000
WITH, WITHOUT = "with AVX-512", "without AVX-512"
# AWS-LC reads two numbers of 64 bits, and a tilde clears their bits. The second is leaf 7 of CPUID: EBX in the low half
# (F, DQ, IFMA, CD, BW, VL), ECX in the high half (VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ). VAES and VPCLMULQDQ stay.
MASK = f"~0:~{(1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14) << 32 | 1 << 16 | 1 << 17 | 1 << 21 | 0b1101 << 28:#x}"

Timer = Callable[[int, int], float]  # of a size and a number of frames: ns per frame


def timers(*, avx512: bool) -> dict[str, Timer]:
    """Return what is timed, by row. The fastest known is left out where there is none."""
    ring = frameseal.KeyRing("livekit")
    ring.set_key(KEY)
    encryptor = frameseal.Encryptor(ring, "opus")
    made: dict[str, Timer] = {AWS_LC: floor.aws_lc}
    kernel = ipsec_mb.find(avx512=avx512)
    if isinstance(kernel, ipsec_mb.Kernel):
        made[ipsec_mb.NAME] = kernel.one_place
    for name, encrypt in ((FLOOR, floor.encrypt), (OURS, encryptor.encrypt)):
        made[name] = lambda size, frames, encrypt=encrypt: per_frame(encrypt, frame_of(size), frames)
    return made


async def work(worker: str) -> None:
    """Answer requests, which are a row and a size, with the ns per frame of one turn."""
    rows = timers(avx512=worker == WITH)
    repeats: dict[tuple[str, int], int] = {}

    async def answer(request: tuple[str, int] | None) -> object:
        if request is None:
            return list(rows)
        name, size = request
        if (name, size) not in repeats:
            repeats[name, size] = max(1, int(TURN_NS / min(rows[name](size, 50) for _ in range(10))))
        return rows[name](size, repeats[name, size])

    await serve(answer)


def measure(
    workers: dict[str, Worker], names: list[str], sizes: tuple[int, ...], rounds: int, done: Callable[[], object]
) -> dict[str, dict[int, dict[str, float]]]:
    """Return the medians by process, size and row. Calls *done* after each size of a round."""
    times: dict[str, dict[int, dict[str, list[float]]]] = {
        worker: {size: {name: [] for name in names} for size in sizes} for worker in workers
    }
    for turn in range(rounds):
        for size in sizes:
            for name in names:
                for worker, ns in in_turns(workers, turn, (name, size)).items():
                    times[worker][size][name].append(ns)
            done()
    return {
        worker: {size: {name: statistics.median(runs) for name, runs in rows.items()} for size, rows in sizes_.items()}
        for worker, sizes_ in times.items()
    }


def show(console: Console, medians: dict[str, dict[int, dict[str, float]]], absent: str | None) -> None:
    """Print a table per process, with times AWS-LC, and one of the ratios between the processes."""
    for worker, by_size in medians.items():
        table = Table(title=f"AES-128-GCM {worker}, encrypt: ns per frame, and times AWS-LC")
        table.add_column("")
        for size in by_size:
            table.add_column(f"{size:,} B", justify="right")
        for name in next(iter(by_size.values())):
            table.add_row(name, *(f"{rows[name]:,.0f} {rows[name] / rows[AWS_LC]:5.2f}x" for rows in by_size.values()))
        if absent:
            table.add_row(f"{ipsec_mb.NAME}: {absent}")
        console.print(table)
    if len(medians) < 2:
        console.print("this processor has no AVX-512, so there is nothing to hide from AWS-LC")
        return
    table = Table(title="times as long without AVX-512")
    table.add_column("")
    for size in medians[WITH]:
        table.add_column(f"{size:,} B", justify="right")
    for name in next(iter(medians[WITH].values())):
        ratios = (medians[WITHOUT][size][name] / rows[name] for size, rows in medians[WITH].items())
        table.add_row(name, *(f"{ratio:.2f}x" for ratio in ratios))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    if is_worker(parser, (WITH, WITHOUT), work):
        return 0
    record.add_output(parser, "cipher")
    arguments = parser.parse_args()
    console = Console()
    kernel = ipsec_mb.find()
    absent = kernel if isinstance(kernel, str) else None
    with Worker(__file__, "--serve", WITH) as plain, Worker(__file__, "--serve", WITHOUT, OPENSSL_ia32cap=MASK) as bare:
        workers = {WITH: plain} | ({WITHOUT: bare} if ipsec_mb.features() >= ipsec_mb.AVX512 else {})
        names = [name for name in plain.ask(None) if all(name in worker.ask(None) for worker in workers.values())]
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("two processes take turns", total=arguments.rounds * len(SIZES))
            medians = measure(workers, names, SIZES, arguments.rounds, partial(progress.advance, task))
    show(console, medians, absent)
    record.write(arguments.output, median_ns=medians)
    return 0


if __name__ == "__main__":
    sys.exit(main())
