"""Changes the core in one place at a time and looks whether a test fails: `python rust/mutants/mutants.py`.

`make mutants` installs cargo-mutants and runs this. The changes (mutants) happen in a copy of the tree, in
`target/mutants/tree`. Each part of the core has quick tests of its own, and whatever they miss meets all tests.
A mutant that all tests miss fails the run, unless `.cargo/mutants.toml` names it with a reason.

`--since` takes only mutants of lines that have changed since a commit. `--sample` draws some of these, and as many of
the others, in the parts that are complete. The draw depends on the commit, so that each commit tries other mutants.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "target/mutants"
TREE = WORK / "tree"
CONFIG = ROOT / ".cargo/mutants.toml"

# The files that the tests of the core need: the workspace, and the vectors.
COPIED = ["Cargo.toml", "Cargo.lock", "rust", "benches", "tests/vectors"]
# Folders that tools make.
MADE = {"target", "__pycache__", "node_modules"}

# Bounds the address space of a build or a test: a mutant may allocate without end.
MAX_MEMORY = 8 << 30
# Bounds the tests of one mutant, as a multiple of the time that they take without a mutant.
TIMEOUT_FACTOR = 6
MIN_TIMEOUT_SECONDS = 30
BUILD_TIMEOUT_SECONDS = 600

# The outcomes of a mutant in cargo-mutants' words, and the columns of the table.
COLUMNS = {"CaughtMutant": "caught", "MissedMutant": "missed", "Unviable": "unviable", "Timeout": "timeout"}


@dataclass(frozen=True)
class Part:
    """A part of the core: its name, its files and its quick tests, which are more than its unit tests."""

    name: str
    files: str
    tests: tuple[str, ...] = ()

    def has(self, file: str) -> bool:
        """Return whether the part has a file, by its path below the core's sources."""
        return re.fullmatch(self.files, file) is not None


# Tests of whole frames, by what uses the key ring.
FRAMES = ("senders", "replay", "newest", "rows", "jitsi", "stream", "nextcloud", "data", "misuse", "sequences")

# The order is that of a run. A file belongs to the first part that has it.
PARTS = [
    Part("nonce", r"keyring/nonce\.rs", ("counters", "rows")),
    Part("replay", r"frame/replay\.rs", ("replay", "footer")),
    Part("ratchet", r"keyring/ratchet\.rs", ("keys", "secrets")),
    Part("wire", r"wire/.*", ("footer", "data", "sframe", "corpus")),
    Part("counter", r"keyring/(counter|lookup)\.rs", ("counters", "keys", "sframe", *FRAMES)),
    Part("codec", r"codec/.*", ("payloads", "slice_headers", "stream", "properties", "rows", "clear")),
    Part("keyring", r"keyring/.*", ("keys", "counters", "sframe", "secrets", "options", *FRAMES)),
]


class Failure(Exception):
    """Says in one line why the run cannot go on."""


def sources(text: str) -> str:
    """Return the path of a mutant's file below the core's sources, from its path or its name."""
    return text.partition(":")[0].removeprefix("rust/core/src/")


def part_of(name: str) -> Part | None:
    """Return the part that a mutant belongs to, or None for a file that is not looked at."""
    return next((part for part in PARTS if part.has(sources(name))), None)


def patterns(text: str) -> dict[str, str]:
    """Return the patterns of `exclude_re`, each with the comment above it.

    Raises `Failure` for a pattern without a comment.
    """
    reasons: dict[str, str] = {}
    comment: list[str] = []
    for line in text.partition("exclude_re = [")[2].splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
        elif stripped and stripped != "]":
            pattern = tomllib.loads(f"a = [{stripped}]")["a"][0]
            if not comment:
                raise Failure(f"{CONFIG.name}: the pattern {pattern!r} has no reason: write a comment above it")
            reasons[pattern] = " ".join(comment)
            comment = []
    if list(reasons) != tomllib.loads(text)["exclude_re"]:
        raise Failure(f"{CONFIG.name}: write each pattern of exclude_re on a line of its own")
    return reasons


def unused(reasons: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the patterns that fit no mutant."""
    return [pattern for pattern in reasons if not any(re.search(pattern, name) for name in names)]


def drawn(changed: Sequence[str], others: Sequence[str], count: int, seed: str) -> list[str]:
    """Return at most `count` of the changed mutants and `count` of the others, in the order of a run."""
    order = {name: place for place, name in enumerate([*changed, *others])}
    source = random.Random(seed)
    chosen = [*source.sample(changed, min(count, len(changed))), *source.sample(others, min(count, len(others)))]
    return sorted(chosen, key=order.__getitem__)


def git(*arguments: str) -> str | None:
    """Return what git prints about the tree. Returns `None` if git is missing, or the clone has no such commit."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def copy(tree: Path = TREE) -> None:
    """Bring the copy up to date. A file that has not changed keeps its time, so that nothing is built again for it."""
    sources = [
        path for name in COPIED for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])
    ]
    names = {path.relative_to(ROOT) for path in sources if path.is_file() and MADE.isdisjoint(path.parts)}
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if path.relative_to(tree) not in names:
            path.unlink()
    for name in sorted(names):
        source, target = ROOT / name, tree / name
        if not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def bound() -> None:
    """Bound the memory of a child process."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def environment() -> dict[str, str]:
    """Return the environment of builds. The dependencies are those that `make test` builds."""
    return os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target"), "PROPTEST_FAILURE_PERSISTENCE": "off"}


def cargo_arguments(tests: Sequence[str] | None) -> list[str]:
    """Return the arguments of cargo for the unit tests and the named files, or for all tests with None.

    The core has no debug information, which takes half of the time of a build.
    """
    chosen = [] if tests is None else ["--lib", *(word for test in tests for word in ("--test", test))]
    return ["--locked", "--config", "profile.dev.package.frameseal.debug=0", *chosen]


def listed(*arguments: str) -> list[str]:
    """Return the names of the mutants of all parts, in the order of a run. Arguments of cargo-mutants select some."""
    command = ["cargo", "mutants", "--list", "--no-config", "--dir", str(TREE), "--package", "frameseal", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if done.returncode != 0:
        raise Failure(f"cargo mutants cannot list the mutants: {done.stderr.strip()}")
    parts = {name: part for name in done.stdout.splitlines() if (part := part_of(name))}
    return sorted(parts, key=lambda name: PARTS.index(parts[name]))


def changed_since(commit: str) -> set[str]:
    """Return the names of the mutants of lines that have changed since a commit."""
    changes = git("diff", commit, "--", "rust/core/src")
    if changes is None:
        print(f"this clone has no commit {commit}: no line counts as changed", flush=True)
    if not changes:
        return set()
    (WORK / "since.diff").write_text(changes, "utf-8")
    return set(listed("--in-diff", str(WORK / "since.diff")))


def baseline(tests: Sequence[str] | None) -> float:
    """Run tests without a mutant, and return the seconds that they take once they are built."""
    command = ["cargo", "test", "--quiet", "--package", "frameseal", "--features", "hazmat", *cargo_arguments(tests)]
    for more in (["--no-run"], []):
        start = time.monotonic()
        done = subprocess.run(
            [*command, *more], cwd=TREE, capture_output=True, text=True, check=False, env=environment()
        )
        if done.returncode != 0:
            raise Failure(f"the tests fail without a mutant:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - start


def outcomes(path: Path) -> dict[str, str]:
    """Return the column of each mutant by its name, from a file that cargo-mutants wrote."""
    found = {}
    for outcome in json.loads(path.read_text("utf-8"))["outcomes"]:
        if isinstance(outcome["scenario"], dict):
            found[outcome["scenario"]["Mutant"]["name"]] = COLUMNS[outcome["summary"]]
    return found


def attempt(names: Sequence[str], tests: Sequence[str] | None, output: Path) -> dict[str, str]:
    """Try mutants by their names against some tests, and return the column of each."""
    if not names:
        return {}
    seconds = max(MIN_TIMEOUT_SECONDS, round(TIMEOUT_FACTOR * baseline(tests)))
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    command = ["cargo", "mutants", "--in-place", "--no-config", "--dir", str(TREE), "--output", str(output)]
    command += ["--no-shuffle", "--baseline=skip", f"--timeout={seconds}", f"--build-timeout={BUILD_TIMEOUT_SECONDS}"]
    command += ["--package", "frameseal", "--features", "hazmat", "--colors=never"]
    # The build must have these too, so they are no arguments of `cargo test` alone.
    command += [f"--cargo-arg={word}" for word in cargo_arguments(tests)]
    # A pattern does not hold back mutants that delete a field: the files bound them, and their outcomes do not count.
    command += [word for file in sorted({name.partition(":")[0] for name in names}) for word in ("--file", file)]
    command += [word for name in names for word in ("--re", f"^{re.escape(name)}$")]
    done = subprocess.run(command, check=False, env=environment(), preexec_fn=bound)
    try:
        found = outcomes(output / "mutants.out/outcomes.json")
    except FileNotFoundError:
        raise Failure(f"cargo mutants ended with {done.returncode}, and left no outcomes") from None
    if missing := set(names) - found.keys():
        raise Failure(f"cargo mutants left out {len(missing)} mutants, one is {min(missing)}")
    return {name: found[name] for name in names}


def table(found: dict[str, str]) -> str:
    """Return a line for each file with its mutants, and a line for all files."""
    counts: dict[str, Counter[str]] = {}
    for name, column in found.items():
        counts.setdefault(sources(name), Counter())[column] += 1
    counts["all"] = sum(counts.values(), Counter())
    columns = list(COLUMNS.values())
    lines = [f"{'file':28}" + "".join(f"{column:>10}" for column in columns)]
    lines += [f"{file:28}" + "".join(f"{count[column]:>10}" for column in columns) for file, count in counts.items()]
    return "\n".join(lines)


def judged(found: dict[str, str]) -> int:
    """Print the table and each missed mutant, and return 1 if one was missed."""
    print(table(found), flush=True)
    missed = [name for name, column in found.items() if column == "missed"]
    for name in missed:
        print(f"missed: {name}", file=sys.stderr)
    if missed:
        print(
            f"Write a test that fails, or name the mutant in {CONFIG.relative_to(ROOT)} with a reason.", file=sys.stderr
        )
    return 1 if missed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants, print a table of the outcomes, and return 1 if a mutant was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--files", default="", help="only mutants whose path and line have this text, such as nonce.rs:57 (all)"
    )
    parser.add_argument("--since", help="only lines that have changed since this commit, and a sample of the others")
    parser.add_argument("--sample", type=int, help="draw this many mutants, where there are more")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        reasons = patterns(CONFIG.read_text("utf-8"))
        copy()
        every = listed()
        if stale := unused(reasons, every):
            raise Failure(f"{CONFIG.name}: no mutant fits {', '.join(stale)}: remove the pattern with its reason")
        names = [name for name in every if options.files in name.partition(": ")[0]]
        names = [name for name in names if not any(re.search(pattern, name) for pattern in reasons)]
        if options.since or options.sample:
            changed = changed_since(options.since) if options.since else set()
            touched, others = (
                [each for each in names if each in changed],
                [each for each in names if each not in changed],
            )
            count = len(names) if options.sample is None else options.sample
            names = drawn(touched, others if options.sample else [], count, git("rev-parse", "HEAD") or "")
            print(f"{len(touched)} mutants lie on lines that have changed", flush=True)
        if not names and not options.since:
            raise Failure(f"no mutant has {options.files!r} in its path and line")
        print(f"{len(names)} mutants; {len(reasons)} patterns in {CONFIG.name} exclude others", flush=True)
        found: dict[str, str] = {}
        for part in PARTS:
            mine = [name for name in names if part_of(name) == part]
            quick = attempt(mine, part.tests, WORK / part.name)
            left = [name for name, column in quick.items() if column == "missed"]
            found |= quick
            found |= attempt(left, None, WORK / f"{part.name}-all")
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    code = judged(found)
    print(f"{time.monotonic() - start:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
