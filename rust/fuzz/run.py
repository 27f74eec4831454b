"""Runs every fuzz target for its share of the time: `python rust/fuzz/run.py --seconds 600`, or `make fuzz`.

Needs cargo, and a C++ compiler for libFuzzer, which the crate libfuzzer-sys brings. Uses the project's own toolchain:
stable rustc has the flags for coverage. Uses no sanitizer: the core has no unsafe code but for its fork handler.

Keeps everything in `target/fuzz`. `findings` has the inputs that failed. `corpus` has the inputs that reached new code,
and the next run starts from them. `logs` has the output of the targets.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/fuzz"

# Instruments all code that is built for the target, and not the build scripts.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
]
# Bounds one input. An input takes a millisecond, so this allows for a busy machine and finds what hangs.
INPUT_SECONDS = 60
# Bounds one process of a target. The core remembers every key that it has sealed with, so memory grows.
SPELL_SECONDS = 30
# Allows for the last input, and for loading the corpus on a busy machine.
GRACE_SECONDS = 4 * INPUT_SECONDS


@dataclass
class Outcome:
    """The outcome of one target after `seconds`, and the input that failed."""

    target: str
    seconds: float
    code: int
    log: str
    finding: Path | None

    def figures(self, pattern: str) -> list[int]:
        """Return all numbers that match a pattern in the log, or a single 0."""
        return [int(figure) for figure in re.findall(pattern, self.log)] or [0]

    @property
    def executions(self) -> int:
        """Return how many inputs ran, in all processes."""
        return sum(self.figures(r"stat::number_of_executed_units: +(\d+)"))

    @property
    def edges(self) -> int:
        """Return how many edges of the control flow were reached."""
        return max(self.figures(r"\bcov: (\d+)"))

    def row(self) -> str:
        """Return the target's line of the table."""
        all_edges = max(self.figures(r"\((\d+) inline 8-bit counters\)"))
        features, corpus = max(self.figures(r"\bft: (\d+)")), max(self.figures(r"\bcorp: (\d+)"))
        speed = round(self.executions / self.seconds)
        return (
            f"{self.target:10} {self.executions:>12,} {speed:>9,} {self.edges:>7,} of {all_edges:>6,}"
            f" {features:>9,} {corpus:>7,}"
        )

    def fault(self) -> str | None:
        """Return some lines about a failure, or None if the target ran and found nothing."""
        if self.code != 0:
            panic = re.search(r"panicked at (?:.|\n)*?(?=\nstack backtrace|\nnote: |\n==|\Z)", self.log)
            said = panic[0] if panic else "\n".join(self.log.splitlines()[-20:])
            where = self.finding or "missing: see the log"
            return f"{self.target}: {said}\n{self.target}: the input is {where}"
        if self.executions == 0 or self.edges == 0:
            return f"{self.target}: no input ran, or coverage was not measured: see the log"
        return None


def targets() -> list[str]:
    """Return the names of all targets."""
    return sorted(path.stem for path in (HERE / "fuzz_targets").glob("*.rs"))


def share(seconds: int, count: int, cores: int) -> int:
    """Return the seconds for each of `count` targets, of which `cores` run at a time."""
    return seconds // ceil(count / min(cores, count))


def build() -> Path:
    """Build all targets and return the folder that they are in."""
    host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True)
    triple = host.stdout.strip()
    command = ["cargo", "build", "--locked", "--release", "--bins", "--target", triple]
    command += ["--manifest-path", str(HERE / "Cargo.toml"), "--target-dir", str(WORK / "build")]
    subprocess.run(command, check=True, env=os.environ | {"RUSTFLAGS": " ".join(COVERAGE)})
    return WORK / "build" / triple / "release"


def run(binary: Path, seconds: float, work: Path = WORK, seeds: Path = HERE / "corpus") -> Outcome:
    """Run one target from its seeds and its earlier corpus, until an input fails or the time is over."""
    target = binary.name
    grown, findings, log = work / "corpus" / target, work / "findings" / target, work / "logs" / f"{target}.log"
    for folder in (grown, findings, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in findings.iterdir()}
    start, code, left = time.monotonic(), 0, seconds
    with log.open("w") as out:
        while code == 0 and left > 0:
            spell = ceil(min(left, SPELL_SECONDS))
            limits = [f"-max_total_time={spell}", f"-timeout={INPUT_SECONDS}", "-print_final_stats=1"]
            command = [str(binary), *limits, f"-artifact_prefix={findings}/", str(grown), str(seeds / target)]
            try:
                code = subprocess.run(
                    command, stdout=out, stderr=subprocess.STDOUT, timeout=spell + GRACE_SECONDS, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                print("it did not end in time, and was stopped", file=out, flush=True)
                code = -1
            left = seconds - (time.monotonic() - start)
    took = time.monotonic() - start
    new = [path for path in findings.iterdir() if before.get(path) != path.stat().st_mtime_ns]
    return Outcome(target, took, code, log.read_text("utf-8", errors="replace"), new[0] if new else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all targets, print a table of their outcomes, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (600)")
    parser.add_argument("targets", nargs="*", default=targets(), help="some of them (all)")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(targets()):
        parser.error(f"targets must be some of {', '.join(targets())}, not {', '.join(sorted(unknown))}")
    cores = os.cpu_count() or 1
    seconds = share(options.seconds, len(options.targets), cores)
    if seconds < 1:
        parser.error(f"--seconds {options.seconds} leaves less than 1 second for each target: pass more")
    try:
        folder = build()
    except FileNotFoundError as missing:
        print(f"make fuzz needs {missing.filename}: install Rust with rustup", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    print(f"{seconds} s for each target, {min(cores, len(options.targets))} at a time", flush=True)
    with ThreadPoolExecutor(cores) as pool:
        outcomes = list(pool.map(lambda target: run(folder / target, seconds), options.targets))
    print(f"{'target':10} {'executions':>12} {'a second':>9} {'edges':>17} {'features':>9} {'corpus':>7}")
    for outcome in outcomes:
        print(outcome.row())
    faults = [fault for outcome in outcomes if (fault := outcome.fault())]
    if faults:
        print("", *faults, f"To run one again: {folder}/TARGET INPUT", sep="\n", file=sys.stderr)
        print(
            "Once it is mended, add the input to rust/fuzz/corpus under a name that says what it is.", file=sys.stderr
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
