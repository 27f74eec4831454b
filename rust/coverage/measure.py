"""Measures which code of the core its tests run: `python rust/coverage/measure.py`, or `make coverage`.

Prints lines and regions of each file. `rust/coverage/core.toml` names each function with regions that no test runs,
how many, and why. The run fails if a function has more of them than the list says.

rustc counts the regions (`-Cinstrument-coverage`), and the tools of LLVM that come with rustup read the counts. The
unit tests alone leave more uncovered than the list allows: the run checks that it would notice.

Which of two threads comes first decides some regions. A region counts as run if one of a few rounds of the tests runs
it: the rounds add up, and end with the first that leaves no more than the list allows.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/coverage"
SOURCES = ROOT / "rust/core/src"
LIST = HERE / "core.toml"

# The kind of a region of code, as LLVM numbers them. The others are gaps and skipped code.
CODE = 0
# A seed for the properties, so that two runs run the same code.
SEED = "17"
# Bounds the rounds of the tests. A region that none of them runs needs a test, or a reason.
ROUNDS = 4

Place = tuple[int, int]


class Failure(Exception):
    """Says in one line why the run cannot go on."""


@dataclass(frozen=True, order=True)
class Region:
    """A piece of code from one place to another, which runs as a whole."""

    start: Place
    end: Place


@dataclass
class File:
    """The regions of a source file without its unit tests, and how often each ran."""

    path: str
    source: list[str]
    counts: dict[Region, int]

    def lines(self) -> dict[int, bool]:
        """Return whether each line with code ran: the innermost region that has the line's first sign decides."""
        ran = {}
        for line in range(1, len(self.source) + 1):
            text = self.source[line - 1]
            first = (line, len(text) - len(text.lstrip()) + 1)
            holding = [region for region in self.counts if region.start <= first < region.end]
            if text.strip() and holding:
                ran[line] = (
                    self.counts[max(holding, key=lambda region: (region.start, [-each for each in region.end]))] > 0
                )
        return ran

    def text(self, region: Region) -> str:
        """Return the code of a region, which is its first line where it has several."""
        (line, first), (last, end) = region.start, region.end
        return self.source[line - 1][first - 1 : end - 1 if last == line else None]

    def uncovered(self) -> dict[str, int]:
        """Return how many regions no test runs, by the function that has them. All that are a bare `?` count as one."""
        found: dict[str, int] = {}
        for region, count in self.counts.items():
            if count == 0:
                name = "?" if self.text(region) == "?" else function(self.source, region.start[0])
                found[name] = found.get(name, 0) + 1
        return found


def function(source: Sequence[str], line: int) -> str:
    """Return the name of the function that has a line, behind the type that it belongs to."""
    name, depth = "", 1000
    for text in reversed(source[:line]):
        indent = len(text) - len(text.lstrip())
        if not text.strip() or indent >= depth:
            continue
        if not name and (
            found := re.match(r"\s*(?:pub(?:\([^)]*\))? )?(?:const |unsafe |extern \"C\" )*fn (\w+)", text)
        ):
            name, depth = found[1], indent
        elif name and (
            found := re.match(r"\s*(?:impl\b(?:<.*?>)?(?: .+ for)?|(?:pub(?:\([^)]*\))? )?trait) ([\w:]+)", text)
        ):
            return f"{found[1].rpartition('::')[2]}::{name}"
    return name or f"line {line}"


def without_tests(source: Sequence[str]) -> int:
    """Return the last line before the unit tests of a file."""
    for line, text in enumerate(source):
        if text == "#[cfg(test)]" and any(re.match(r"mod \w+ \{", each) for each in source[line : line + 4]):
            return line
    return len(source)


def files(export: dict, sources: Path = SOURCES) -> list[File]:
    """Return the files of the core from an export of LLVM. A region has run if any copy of its function has run it."""
    found: dict[str, File] = {}
    for each in export["data"][0]["functions"]:
        path = Path(each["filenames"][0])
        if not path.is_relative_to(sources):
            continue
        name = path.relative_to(sources).as_posix()
        if name not in found:
            found[name] = File(name, path.read_text("utf-8").splitlines(), {})
        file = found[name]
        end = without_tests(file.source)
        for first, column, last, end_column, count, origin, _, kind in each["regions"]:
            if kind == CODE and origin == 0 and last <= end:
                region = Region((first, column), (last, end_column))
                file.counts[region] = file.counts.get(region, 0) + count
    return [found[name] for name in sorted(found)]


def faults(found: Iterable[File], listed: dict[str, dict[str, dict]]) -> list[str]:
    """Return a line for each function of which less runs than the list allows."""
    lines = []
    for file in found:
        rows = listed.get(file.path, {})
        for name, count in file.uncovered().items():
            allowed = rows.get(name, {}).get("regions", 0)
            if count > allowed:
                lines.append(f"{file.path}: {name}: no test runs {count} regions, and the list allows {allowed}")
    return lines


def loose(found: Iterable[File], listed: dict[str, dict[str, dict]]) -> list[str]:
    """Return a line for each row of the list that allows more than is uncovered."""
    left = {file.path: file.uncovered() for file in found}
    return [
        f"{path}: {name}: {count} regions are uncovered, and the list allows {row['regions']}"
        for path, rows in listed.items()
        for name, row in rows.items()
        if (count := left.get(path, {}).get(name, 0)) < row["regions"]
    ]


def without_reason(listed: dict[str, dict[str, dict]], reasons: Iterable[str]) -> list[str]:
    """Return a line for each row of the list whose reason is not one of the reasons that the list explains."""
    return [
        f"{path}: {name}: the reason {row['reason']!r} is not explained under [reasons]"
        for path, rows in listed.items()
        for name, row in rows.items()
        if row["reason"] not in reasons
    ]


def table(found: Sequence[File]) -> str:
    """Return a line for each file, and one for all."""
    rows = []
    for file in found:
        lines = list(file.lines().values())
        rows.append((file.path, len(lines), sum(lines), len(file.counts), sum(map(bool, file.counts.values()))))
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 5))))
    text = [f"{'file':28}{'lines':>7}{'run':>7}{'':>8}{'regions':>9}{'run':>7}{'':>8}"]
    for name, lines, ran, regions, entered in rows:
        shares = f"{100 * ran / max(lines, 1):.1f} %", f"{100 * entered / max(regions, 1):.1f} %"
        text.append(f"{name:28}{lines:7}{ran:7}{shares[0]:>8}{regions:9}{entered:7}{shares[1]:>8}")
    return "\n".join(text)


def tool(name: str) -> str:
    """Return the path of a tool of LLVM of the toolchain's own version."""
    said = subprocess.run(["rustc", "--print", "target-libdir"], capture_output=True, text=True, check=True)
    path = Path(said.stdout.strip()).parent / "bin" / name
    if not path.is_file():
        raise Failure(f"make coverage needs {name}: rustup component add llvm-tools")
    return str(path)


def built() -> dict[str, str]:
    """Build the tests, and return their binaries by name. The unit tests have the crate's name."""
    command = ["cargo", "test", "--locked", "--package", "frameseal", "--features", "hazmat", "--all-targets"]
    done = subprocess.run(
        [*command, "--no-run", "--message-format=json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"RUSTC_WORKSPACE_WRAPPER": str(HERE / "instrument.sh")},
    )
    if done.returncode != 0:
        raise Failure("the tests cannot be built")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {each["target"]["name"]: each["executable"] for each in messages if each.get("executable")}


def run(binaries: dict[str, str]) -> None:
    """Run the tests once. Their counts add to those of the rounds before."""
    for name, binary in binaries.items():
        settings = {"PROPTEST_RNG_SEED": SEED, "LLVM_PROFILE_FILE": str(WORK / f"{name}-%p-%m.profraw")}
        done = subprocess.run(
            [binary, "--quiet"],
            cwd=ROOT / "rust/core",
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | settings,
        )
        if done.returncode != 0:
            raise Failure(f"the tests in {name} fail:\n{done.stdout[-2000:]}")


def exported(binaries: Sequence[str], pattern: str) -> dict:
    """Return the counts of some runs as LLVM exports them."""
    merged = WORK / "merged.profdata"
    counts = [str(path) for path in sorted(WORK.glob(pattern))]
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", *counts, "-o", str(merged)], check=True)
    first, *others = binaries
    command = [tool("llvm-cov"), "export", "-format=text", f"-instr-profile={merged}", first]
    command += [word for binary in others for word in ("-object", binary)]
    done = subprocess.run([*command, "--sources", str(SOURCES)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, print the table, and return 1 if more is uncovered than the list allows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", action="store_true", help="print what is uncovered as rows of the list")
    options = parser.parse_args(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    listed = tomllib.loads(LIST.read_text("utf-8"))
    reasons = listed.pop("reasons")
    try:
        tool("llvm-cov")
        binaries = built()
        for old in WORK.glob("*.profraw"):
            old.unlink()
        for number in range(1, ROUNDS + 1):
            run(binaries)
            found = files(exported(list(binaries.values()), "*.profraw"))
            left = faults(found, listed)
            print(f"round {number}: {len(left)} functions have more that no test ran than the list allows", flush=True)
            if not left:
                break
        control = faults(files(exported(list(binaries.values()), "frameseal-*.profraw")), listed)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    print(table(found), flush=True)
    if options.rows:
        for file in found:
            print(f'\n["{file.path}"]')
            for name, count in file.uncovered().items():
                print(f'"{name}" = {{ regions = {count}, reason = "" }}')
    for line in loose(found, listed):
        print(f"{LIST.name} may be tighter: {line}")
    if not control:
        print("the unit tests alone seem to cover everything: coverage was not measured", file=sys.stderr)
        return 1
    lines = [*without_reason(listed, reasons), *left]
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        print(f"Write a test, or name the function in {LIST.relative_to(ROOT)} with a reason.", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
