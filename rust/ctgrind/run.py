"""Runs every case of `rust/ctgrind` under valgrind: `python rust/ctgrind/run.py`, or `make ctgrind`.

The program marks secrets as uninitialised memory. Memcheck then reports each branch on a secret, each address that
depends on one, and each secret byte in a system call. A case must cause no report but branches on a verdict, such as
whether a tag is right. It states how many of them it causes. A control leaks on purpose, and must cause a report.

Keeps the reports of valgrind in `target/ctgrind/reports`.
"""

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parents[1] / "target/ctgrind"

# The functions whose own branches are verdicts. What they call, such as the comparison itself, may not branch.
VERDICTS = {
    "aead_aes_gcm_open_gather_impl": "gcm-tag",
    "frameseal::suite::CtrHmac::open": "ctr-tag",
    "frameseal::keyring::State::insert": "same-key",
}
VALGRIND = ["valgrind", "--tool=memcheck", "--xml=yes", "--num-callers=60", "--error-limit=no"]
# How many functions of a report are printed. The file has them all.
SHOWN_FRAMES = 12
# Bounds one case, which takes seconds.
CASE_SECONDS = 300


@dataclass(frozen=True)
class Case:
    """A line of `ctgrind --list`."""

    kind: str
    name: str
    verdicts: Counter[str]


@dataclass(frozen=True)
class Report:
    """A distinct report of memcheck: what it is, the function it is in, the lines that lead there, how often."""

    what: str
    function: str
    trace: tuple[str, ...]
    count: int

    @property
    def verdict(self) -> str | None:
        """Return the verdict that the report is about, or None if it is a leak."""
        return VERDICTS.get(self.function) if self.what.startswith("Conditional jump") else None


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: its exit code, its output and the reports, which are None if valgrind wrote no file."""

    case: Case
    code: int
    said: str
    reports: list[Report] | None

    @property
    def verdicts(self) -> Counter[str]:
        """Return how many branches on each verdict were reported."""
        found: Counter[str] = Counter()
        for report in self.reports or ():
            if report.verdict:
                found[report.verdict] += report.count
        return found

    @property
    def leaks(self) -> list[Report]:
        """Return the reports that are about no verdict."""
        return [report for report in self.reports or () if not report.verdict]

    def fault(self) -> str | None:
        """Return some lines about what is wrong, or None if the case kept its secrets or the control leaked them."""
        name = self.case.name
        if self.code != 0 or self.reports is None:
            return f"{name}: it did not run to its end (exit code {self.code})\n{self.said}".rstrip()
        if self.case.kind == "control":
            return None if self.leaks else f"{name}: the control leaks on purpose, and nothing was reported"
        if self.leaks:
            first = self.leaks[0]
            return "\n    ".join((f"{name}: {first.what}, at", *first.trace[:SHOWN_FRAMES]))
        if self.verdicts != self.case.verdicts:
            return f"{name}: branches on verdicts: {shown(self.verdicts)}; stated: {shown(self.case.verdicts)}"
        return None

    def row(self) -> str:
        """Return the line of the case in the table."""
        kept = "reported" if self.case.kind == "control" else "constant time"
        outcome = "FAILED" if self.fault() else kept
        leaks = sum(report.count for report in self.leaks)
        return f"{self.case.kind:8} {self.case.name:22} {outcome:14} {leaks:>7,}  {shown(self.verdicts)}"


def shown(verdicts: Counter[str]) -> str:
    """Return counts as text, such as `gcm-tag=8`."""
    return " ".join(f"{name}={count}" for name, count in sorted(verdicts.items())) or "none"


def listed(lines: str) -> list[Case]:
    """Return the cases of the program's list."""
    cases = []
    for line in lines.splitlines():
        kind, name, verdicts = line.split("\t")
        counts = (each.partition("=") for each in verdicts.split())
        cases.append(Case(kind, name, Counter({verdict: int(count) for verdict, _, count in counts})))
    return cases


def parsed(xml: str) -> Iterator[Report]:
    """Yield the distinct reports of one run.

    Raises:
        ET.ParseError: Valgrind has not finished the file.
    """
    root = ET.fromstring(xml)
    counts = {pair.findtext("unique"): int(pair.findtext("count", "0")) for pair in root.iterfind("errorcounts/pair")}
    for error in root.iterfind("error"):
        # With --xml=yes valgrind always looks for lost memory, which is no leak of a secret.
        if error.findtext("kind", "").startswith("Leak_"):
            continue
        frames = error.findall("stack[1]/frame")
        # Inlined functions have the address of the function that they are inlined into, which is the last of them.
        own = [frame for frame in frames if frame.findtext("ip") == frames[0].findtext("ip")]
        what = error.findtext("what") or error.findtext("xwhat/text") or error.findtext("kind") or "a report"
        trace = tuple(
            f"{frame.findtext('fn', '?')[:80]} ({frame.findtext('file', '?')}:{frame.findtext('line', '?')})"
            for frame in frames
        )
        function = own[-1].findtext("fn", "?") if own else "?"
        yield Report(what, function, trace, counts.get(error.findtext("unique"), 1))


def build() -> Path:
    """Build the program and return its path."""
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", str(HERE / "Cargo.toml")]
    subprocess.run([*command, "--target-dir", str(WORK)], check=True)
    return WORK / "release/frameseal-ctgrind"


def run(program: Path, case: Case, work: Path = WORK) -> Outcome:
    """Run one case under valgrind."""
    report = work / "reports" / f"{case.name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    # AWS-LC reads uninitialised memory if this variable is set, but empty.
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_ia32cap"}
    try:
        done = subprocess.run(
            [*VALGRIND, f"--xml-file={report}", str(program), case.name],
            capture_output=True,
            env=environment,
            timeout=CASE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(case, -1, f"it did not end in {CASE_SECONDS} s", None)
    said = done.stderr.decode("utf-8", errors="replace")
    try:
        reports = list(parsed(report.read_text("utf-8", errors="replace")))
    except (FileNotFoundError, ET.ParseError) as missing:
        return Outcome(case, done.returncode, f"{said}\n{missing}", None)
    return Outcome(case, done.returncode, said, reports)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases and controls, print a table of their outcomes, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help="some of them (all)")
    options = parser.parse_args(arguments)
    try:
        program = build()
        listing = subprocess.run([str(program), "--list"], capture_output=True, text=True, check=True).stdout
        version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError as missing:
        print(f"make ctgrind needs {missing.filename}: install Rust with rustup, and valgrind", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    cases = listed(listing)
    if unknown := set(options.cases) - {case.name for case in cases}:
        parser.error(f"cases must be some of {', '.join(case.name for case in cases)}, not {', '.join(unknown)}")
    chosen = [case for case in cases if not options.cases or case.name in options.cases]
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        outcomes = list(pool.map(lambda case: run(program, case), chosen))
    print(f"{'kind':8} {'case':22} {'outcome':14} {'reports':>7}  branches on verdicts")
    for outcome in outcomes:
        print(outcome.row())
    kinds = Counter(outcome.case.kind for outcome in outcomes if not outcome.fault())
    took = time.monotonic() - start
    print(f"{kinds['case']} cases kept their secrets, {kinds['control']} controls fired: {version}, {took:.0f} s")
    faults = [fault for outcome in outcomes if (fault := outcome.fault())]
    if not options.cases and not kinds["control"]:
        faults.append("no control has fired, so the cases show nothing")
    if faults:
        print("", *faults, f"The whole reports are in {WORK / 'reports'}", sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
