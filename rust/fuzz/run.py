"""Runs every fuzz target for its share of the time: `python rust/fuzz/run.py --seconds 600`, or `make fuzz`.

Needs cargo, and a C++ compiler for libFuzzer, which the crate libfuzzer-sys brings. Uses the project's own toolchain:
stable rustc has the flags for coverage. Uses no sanitizer: the core has no unsafe code but for its fork handler.

First it runs two controls, each with a planted fault, and fails if one of them finds nothing.

The targets in `python_targets` run the package under Atheris, which brings libFuzzer too. They are left out, with a
line that says so, where the interpreter has no Atheris.

Keeps everything in `target/fuzz`, or in the folder of `--work`. `findings` has the inputs that failed. `corpus` has the
inputs that reached new code, and the next run starts from them. `logs` has the output of the targets. `totals.json` has
the executions of all runs, by the digest of the sources: runs of the same code add up. One run at a time may use it.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/fuzz"

# Instruments all code that is built for the target, and not the build scripts.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "--cfg=fuzzing",
]
# Shows libFuzzer the operands of comparisons, which takes half of the time where inputs are cheap.
COMPARISONS = "-Cllvm-args=-sanitizer-coverage-trace-compares"
# Bounds one input. An input takes a millisecond, so this allows for a busy machine and finds what hangs.
INPUT_SECONDS = 60
# Allows for the last input, and for loading the corpus on a busy machine.
GRACE_SECONDS = 4 * INPUT_SECONDS


# The parts of a Rust file that no target runs: lines of comments, and the tests at its end.
NO_CODE = re.compile(rb"(?m)^ *//.*\n|^#\[cfg\(test\)\]\n(?:#\[.*\]\n)*mod tests \{(?s:.*)\Z")
# The targets with a planted fault, in Rust and in Python, and the seconds in which they must find it.
CONTROLS = ("control", "_control")
CONTROL_SECONDS = 30
CONTROL_SEED = bytes(40) + bytes.fromhex("000101e2eefeed")  # a footer with one clear byte
# Saves libFuzzer's own work where an input takes a microsecond: less choice among inputs, no search for shorter ones.
CHEAP = ("-entropic=0", "-reduce_inputs=0", "-reload=0")


@dataclass(frozen=True)
class Settings:
    """The settings of one target."""

    max_len: int = 0
    """The maximum length of an input. 0 means that the longest input of the corpus decides."""
    spell: int = 30
    """The seconds of one process. The core remembers every key that it has sealed with, so memory grows."""
    weight: int = 1
    """The target's share of the time with `--fast`."""
    flags: tuple[str, ...] = ()
    """More flags of libFuzzer."""


SETTINGS = {
    "wire": Settings(max_len=128, spell=120, weight=12, flags=CHEAP),
    "codec": Settings(max_len=256, spell=120, weight=6, flags=CHEAP),
    "injected": Settings(max_len=256, spell=120, weight=6, flags=CHEAP),
    "differential": Settings(max_len=192, spell=120, weight=6, flags=CHEAP),
    "spelling": Settings(max_len=96, spell=120),
    "inspection": Settings(max_len=256, spell=120),
    "payloads": Settings(max_len=256, spell=120),
    "messages": Settings(max_len=512, spell=120),
    "archive": Settings(max_len=6144, spell=120),
}


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

    @property
    def all_edges(self) -> int:
        """Return how many edges the target has."""
        return max(self.figures(r"\((\d+) inline 8-bit counters\)"))

    def row(self) -> str:
        """Return the target's line of the table."""
        features, corpus = max(self.figures(r"\bft: (\d+)")), max(self.figures(r"\bcorp: (\d+)"))
        speed = round(self.executions / self.seconds)
        return (
            f"{self.target:12} {self.executions:>13,} {speed:>9,} {self.edges:>7,} of {or_unknown(self.all_edges):>6}"
            f" {features:>9,} {corpus:>7,}"
        )

    def fault(self) -> str | None:
        """Return some lines about a failure, or None if the target ran and found nothing."""
        if self.code != 0:
            panic = re.search(
                r"(?:panicked at|Uncaught Python exception).(?:.|\n)*?(?=\nstack backtrace|\nnote: |\n==|\Z)", self.log
            )
            said = panic[0] if panic else "\n".join(self.log.splitlines()[-20:])
            where = self.finding or "missing: see the log"
            return f"{self.target}: {said}\n{self.target}: the input is {where}"
        if self.executions == 0 or self.edges == 0:
            return f"{self.target}: no input ran, or coverage was not measured: see the log"
        return None


def or_unknown(figure: int) -> str:
    """Return a figure as text. Atheris does not report how many edges there are."""
    return f"{figure:,}" if figure else "?"


class Totals:
    """The executions of all runs in one work folder, by the digest of the sources that ran."""

    _lock = threading.Lock()  # one for all, since each target that runs has its own object

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the commit and the figures of each target, by digest."""
        return json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}

    def add(self, outcome: Outcome, sources: str) -> None:
        """Add the figures of one process of these sources. The file is replaced at once, so a kill loses little."""
        with self._lock:
            totals = self.read()
            of = totals.setdefault(sources, {"commit": commit(), "targets": {}})["targets"]
            last = of.get(outcome.target, {"executions": 0, "seconds": 0.0, "edges": 0, "all_edges": 0})
            of[outcome.target] = {
                "executions": last["executions"] + outcome.executions,
                "seconds": round(last["seconds"] + outcome.seconds, 1),
                "edges": max(last["edges"], outcome.edges),
                "all_edges": max(last["all_edges"], outcome.all_edges),
            }
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(totals, indent=1), "utf-8")
            new.replace(self.path)

    def table(self) -> str:
        """Return the figures as text: a section for each state of the sources, and the sum over all targets."""
        present = {digest(target) for target in [*targets(), *python_targets()]}
        lines = []
        for of, section in self.read().items():
            now = ", which are the present ones" if of in present else ""
            lines.append(f"commit {section['commit']}, sources {of}{now}")
            rows = section["targets"]
            for name, row in rows.items():
                speed = round(row["executions"] / max(row["seconds"], 0.1))
                edges = f"{row['edges']:>7,} of {or_unknown(row['all_edges']):>6}"
                hours = row["seconds"] / 3600
                lines.append(f"{name:12} {row['executions']:>13,} {speed:>9,} {edges} {hours:>8.2f} h")
            seconds, executions = (sum(row[key] for row in rows.values()) for key in ("seconds", "executions"))
            lines += [f"{'together':12} {executions:>13,} {'':28} {seconds / 3600:>8.2f} h", ""]
        return "\n".join(lines) if lines else f"no run yet in {self.path.parent}"


def digest(target: str) -> str:
    """Return the digest of the code that a target runs: the core, the targets, and for Python the package."""
    folders = [ROOT / "rust/core/src", HERE / "src", HERE / "fuzz_targets"]
    if target in python_targets():
        folders = [ROOT / "rust/core/src", ROOT / "python/frameseal", HERE / "python_targets"]
    files = {path for folder in folders for path in folder.rglob("*") if path.suffix in (".rs", ".py")}
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(str(path.relative_to(ROOT)).encode() + b"\0" + NO_CODE.sub(b"", path.read_bytes()) + b"\0")
    return whole.hexdigest()[:16]


def commit() -> str:
    """Return the commit of the clone, and whether files differ from it. Returns "unknown" outside of a clone."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def targets() -> list[str]:
    """Return the names of all targets in Rust."""
    return sorted({path.stem for path in (HERE / "fuzz_targets").glob("*.rs")} - {*CONTROLS})


def python_targets() -> list[str]:
    """Return the names of all targets in Python."""
    return sorted(path.stem for path in (HERE / "python_targets").glob("[a-z]*.py"))


def shares(seconds: int, weights: Sequence[int], cores: int) -> list[float]:
    """Return the seconds for targets of these weights, of which `cores` run at a time.

    Targets are started in this order, each as soon as a core is free. The longest share bounds the whole.
    """
    cores = min(cores, len(weights))
    unit = seconds * cores / sum(weights)
    while True:
        ends = [0.0] * cores
        for weight in weights:
            ends[ends.index(min(ends))] += weight * unit
        if max(ends) <= seconds * 1.001:
            return [weight * unit for weight in weights]
        unit *= seconds / max(ends)


def build(fast: bool = False) -> Path:
    """Build all targets and return the folder that they are in. With `fast`, comparisons are not traced."""
    host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True)
    triple, folder = host.stdout.strip(), WORK / ("build-fast" if fast else "build")
    command = ["cargo", "build", "--locked", "--release", "--bins", "--target", triple]
    command += ["--manifest-path", str(HERE / "Cargo.toml"), "--target-dir", str(folder)]
    flags = COVERAGE if fast else [*COVERAGE, COMPARISONS]
    subprocess.run(command, check=True, env=os.environ | {"RUSTFLAGS": " ".join(flags)})
    return folder / triple / "release"


def command_of(target: str, folder: Path) -> list[str]:
    """Return the command that runs a target: a binary in `folder`, or a script."""
    if target in (*python_targets(), CONTROLS[1]):
        return [sys.executable, str(HERE / "python_target.py"), target]
    return [str(folder / target)]


def run(command: Sequence[str], target: str, seconds: float, work: Path, seeds: Path = HERE / "corpus") -> Outcome:
    """Run one target from its seeds and its earlier corpus, until an input fails or the time is over."""
    settings, totals, sources = SETTINGS.get(target, Settings()), Totals(work / "totals.json"), digest(target)
    grown, findings, log = work / "corpus" / target, work / "findings" / target, work / "logs" / f"{target}.log"
    for folder in (grown, findings, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in findings.iterdir()}
    start, code, left, whole = time.monotonic(), 0, seconds, ""
    log.unlink(missing_ok=True)
    while code == 0 and left > 0:
        spell = ceil(min(left, settings.spell))
        limits = [f"-max_total_time={spell}", f"-timeout={INPUT_SECONDS}", "-print_final_stats=1"]
        limits += [f"-max_len={settings.max_len}", *settings.flags, f"-artifact_prefix={findings}/"]
        began = time.monotonic()
        code, said = process([*command, *limits, str(grown), str(seeds / target)], spell + GRACE_SECONDS, log)
        totals.add(Outcome(target, time.monotonic() - began, code, said, None), sources)
        whole += said
        left = seconds - (time.monotonic() - start)
    took = time.monotonic() - start
    new = [
        path
        for path in findings.iterdir()
        if before.get(path) != path.stat().st_mtime_ns and not path.name.startswith("slow-unit-")
    ]
    return Outcome(target, took, code, whole, new[0] if new else None)


def process(command: Sequence[str], timeout: float, log: Path) -> tuple[int, str]:
    """Run one process and return its exit code and its output, which it appends to the log."""
    at = log.stat().st_size if log.exists() else 0
    with log.open("a") as out:
        try:
            code = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            print("it did not end in time, and was stopped", file=out, flush=True)
            code = -1
    return code, log.read_bytes()[at:].decode("utf-8", errors="replace")


def control(command: Sequence[str], target: str, work: Path) -> str | None:
    """Return a line that says that a control did not find its planted fault, or None if it did.

    It starts from a frame without the fault, and its totals do not count.
    """
    folder = work / target
    shutil.rmtree(folder, ignore_errors=True)
    seed = folder / "seeds" / target / "a-footer"
    seed.parent.mkdir(parents=True)
    seed.write_bytes(CONTROL_SEED)
    outcome = run(command, target, CONTROL_SECONDS, folder, folder / "seeds")
    if outcome.code > 0 and outcome.finding:
        return None
    return f"{target}: the planted fault was not found in {CONTROL_SECONDS} s: see {folder / 'logs'}"


def minimise(command: Sequence[str], target: str, work: Path, seeds: Path = HERE / "corpus") -> str:
    """Keep the inputs of a target's corpus that the others and the committed ones do not make superfluous.

    Returns a line for people.

    :raises subprocess.CalledProcessError: the target failed on an input, or the merge kept none.
    """
    grown, merged, log = work / "corpus" / target, work / "merged" / target, work / "logs" / f"{target}-merge.log"
    shutil.rmtree(merged, ignore_errors=True)
    for folder in (grown, merged, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    before = len(list(grown.iterdir()))
    merge = [*command, "-merge=1", f"-max_len={SETTINGS.get(target, Settings()).max_len}"]
    # The committed inputs are first, so that none of the grown corpus replaces them.
    code, said = process([*merge, str(merged), str(seeds / target), str(grown)], 3600, log)
    if code != 0 or not any(merged.iterdir()):
        raise subprocess.CalledProcessError(code, merge, said)
    committed = {path.read_bytes() for path in (seeds / target).iterdir()}
    needed = 0
    for path in merged.iterdir():
        if path.read_bytes() in committed:
            path.unlink()
            needed += 1
    shutil.rmtree(grown)
    merged.rename(grown)
    after = len(list(grown.iterdir()))
    return f"{target:12} {before:>6,} to {after:>6,} inputs; {needed} of {len(committed)} committed ones reach new code"


def minimise_all(folder: Path, work: Path, chosen: Sequence[str]) -> int:
    """Minimise the corpus of each target. Return 1 if a target failed: its corpus stays as it is."""
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for line in pool.map(lambda target: minimise(command_of(target, folder), target, work), chosen):
                print(line, flush=True)
    except subprocess.CalledProcessError as failed:
        print(f"the merge failed: {' '.join(map(str, failed.cmd))}\n{failed.output[-2000:]}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all targets, print a table of their outcomes, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (600)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of corpus, findings and totals (target/fuzz)")
    parser.add_argument("--fast", action="store_true", help="for long runs: more executions, by less search in each")
    parser.add_argument("--minimise", action="store_true", help="minimise the corpus of the work folder, and end")
    parser.add_argument("--totals", action="store_true", help="print the executions of all runs, and end")
    parser.add_argument("targets", nargs="*", help="some of them (all)")
    options = parser.parse_args(arguments)
    everything = [*targets(), *python_targets()]
    if unknown := set(options.targets) - set(everything):
        parser.error(f"targets must be some of {', '.join(everything)}, not {', '.join(sorted(unknown))}")
    if options.totals:
        print(Totals(options.work / "totals.json").table())
        return 0
    chosen = options.targets or everything
    if not find_spec("atheris") and (without := [target for target in chosen if target in python_targets()]):
        print(f"left out, for want of Atheris for this Python (pip install atheris): {', '.join(without)}", flush=True)
        chosen = [target for target in chosen if target not in without]
    if not chosen:
        return 1
    weights = {target: SETTINGS.get(target, Settings()).weight if options.fast else 1 for target in chosen}
    chosen.sort(key=lambda target: -weights[target])
    cores = os.cpu_count() or 1
    seconds = shares(options.seconds, [weights[target] for target in chosen], cores)
    if min(seconds) < 1:
        parser.error(f"--seconds {options.seconds} leaves less than 1 second for each target: pass more")
    try:
        folder = build(options.fast)
    except FileNotFoundError as missing:
        print(f"make fuzz needs {missing.filename}: install Rust with rustup", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    if options.minimise:
        return minimise_all(folder, options.work, chosen)
    return fuzz(folder, options.work, chosen, seconds)


def fuzz(folder: Path, work: Path, chosen: Sequence[str], seconds: Sequence[float]) -> int:
    """Run the controls, then each target for its seconds. Print a table, and return 1 if one of them failed."""
    controls = [name for name in CONTROLS if name == CONTROLS[0] or find_spec("atheris")]
    if missed := [line for name in controls if (line := control(command_of(name, folder), name, work))]:
        print("", *missed, sep="\n", file=sys.stderr)
        return 1
    print(f"the planted fault was found by {' and '.join(controls)}", flush=True)
    cores = min(os.cpu_count() or 1, len(chosen))
    least, most = (f"{bound(seconds):.0f}" for bound in (min, max))
    each = least if least == most else f"{least} to {most}"
    print(f"{each} s for each target, {cores} at a time", flush=True)
    with ThreadPoolExecutor(cores) as pool:
        outcomes = list(pool.map(lambda target, s: run(command_of(target, folder), target, s, work), chosen, seconds))
    print(f"{'target':12} {'executions':>13} {'a second':>9} {'edges':>17} {'features':>9} {'corpus':>7}")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.target):
        print(outcome.row())
    print(f"{'together':12} {sum(outcome.executions for outcome in outcomes):>13,}")
    faults = [fault for outcome in outcomes if (fault := outcome.fault())]
    if faults:
        print("", *faults, f"To run one again: {folder}/TARGET INPUT", sep="\n", file=sys.stderr)
        print(
            "Once it is mended, add the input to rust/fuzz/corpus under a name that says what it is.", file=sys.stderr
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
