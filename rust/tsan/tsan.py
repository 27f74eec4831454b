"""Runs the core's threads under ThreadSanitizer: `python rust/tsan/tsan.py`, or `make tsan`.

Builds the tests of this crate, the core, the standard library and the crypto library's C code with the sanitizer. The
crypto library leaves its assembly out, because assembly is not instrumented. Fails if a test races. Fails too if
ThreadSanitizer misses one of the races in tests/planted.rs.

Needs a nightly toolchain with rust-src in `RUSTUP_TOOLCHAIN`, and a C compiler. Keeps the reports in
`target/tsan/logs`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/tsan"

# Each planted race, and a function that must be in the report on it.
PLANTED = {
    "in_rust": "planted::in_rust",
    "in_the_crypto_library": r"CTR_DRBG_generate|rand_bytes",
    "in_the_output_of_an_open_plan": r"OpenPlan|open_into",
}
PLANTED_TARGET = "planted"
REPORT = "WARNING: ThreadSanitizer"
# A test takes ten times as long as without the sanitizer. This allows for a busy machine, and finds what hangs.
MAX_SECONDS = 900
# Children are forked while threads run, which ThreadSanitizer does not allow by default.
OPTIONS = "die_after_fork=0 exitcode=66 second_deadlock_stack=1"


@dataclass
class Outcome:
    """The outcome of one process: the tests of a target, or one planted race."""

    name: str
    code: int
    log: str
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        """Return how many tests passed."""
        return sum(int(count) for count in re.findall(r"^test result: ok\. (\d+) passed", self.log, re.MULTILINE))

    @property
    def reports(self) -> int:
        """Return how many reports ThreadSanitizer has written."""
        return self.log.count(REPORT)

    def row(self) -> str:
        """Return the line of the table."""
        return f"{self.name:32} {self.passed:>6} {self.reports:>8} {self.seconds:>8.0f}"

    def fault(self) -> str | None:
        """Return what is wrong with a target that must not race, or None."""
        if self.reports:
            start = self.log.index(REPORT)
            return f"{self.name}: ThreadSanitizer has a report\n{self.log[start : start + 3000]}"
        if self.code != 0:
            return f"{self.name}: ended with {self.code}\n" + "\n".join(self.log.splitlines()[-20:])
        return None if self.passed else f"{self.name}: no test ran"

    def missed(self) -> str | None:
        """Return what is wrong with a race that must be found, or None."""
        if self.reports and self.code == 66 and re.search(PLANTED[self.name], self.log):
            return None
        return f"{self.name}: ThreadSanitizer missed this planted race, so its silence shows nothing"


def environment() -> dict[str, str]:
    """Return the environment in which everything is instrumented."""
    flags = {
        "RUSTFLAGS": "-Zsanitizer=thread",
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} -O1 -fsanitize=thread -g1".strip(),
        "AWS_LC_SYS_NO_ASM": "1",
        "TSAN_OPTIONS": OPTIONS,
    }
    return os.environ | flags


def build() -> dict[str, Path]:
    """Build all targets, and return their programs by name."""
    host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True)
    command = ["cargo", "test", "--locked", "--no-run", "--message-format=json-render-diagnostics", "-Zbuild-std"]
    command += ["--target", host.stdout.strip(), "--manifest-path", str(HERE / "Cargo.toml")]
    command += ["--target-dir", str(WORK / "build")]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    return programs(built.stdout)


def programs(messages: str) -> dict[str, Path]:
    """Return the programs that cargo's messages name."""
    parsed = [json.loads(line) for line in messages.splitlines() if line.startswith("{")]
    return {each["target"]["name"]: Path(each["executable"]) for each in parsed if each.get("executable")}


def run(name: str, command: list[str], env: dict[str, str]) -> Outcome:
    """Run one process, and keep its output."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=MAX_SECONDS, check=False
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, output = -1, (late.stdout or b"") + f"\nit did not end within {MAX_SECONDS} s".encode()
    log = output.decode("utf-8", errors="replace")
    folder = WORK / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.log").write_text(log, "utf-8")
    return Outcome(name, code, log, time.monotonic() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the planted races and all tests, print a table, and return 1 if one of them is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args(arguments)
    try:
        built = build()
    except FileNotFoundError as missing:
        print(f"make tsan needs {missing.filename}: install Rust with rustup", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    env, faults = environment(), []
    planted = built.pop(PLANTED_TARGET)
    print(f"{'':32} {'passed':>6} {'reports':>8} {'seconds':>8}", flush=True)
    for race in PLANTED:
        outcome = run(race, [str(planted), "--ignored", "--exact", race], env)
        print(outcome.row(), flush=True)
        faults.append(outcome.missed())
    outcomes = []
    for name, program in sorted(built.items()):
        outcomes.append(run(name, [str(program)], env))
        print(outcomes[-1].row(), flush=True)
        faults.append(outcomes[-1].fault())
    if found := [fault for fault in faults if fault]:
        print("", *found, f"The whole reports are in {WORK / 'logs'}.", sep="\n", file=sys.stderr)
        return 1
    tests = sum(outcome.passed for outcome in outcomes)
    print(f"{tests} tests without a race, {len(PLANTED)} planted races found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
