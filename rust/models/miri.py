"""Runs a selection of the core's unit tests in Miri: `python rust/models/miri.py`, or `make miri`.

Miri interprets the tests and stops at undefined behaviour: an access out of bounds, of freed or uninitialised memory,
through an invalid reference, or in a data race. C code cannot run in it, so a stub takes the place of the crypto
library. The controls have such faults: this script fails unless Miri finds them.

Needs a nightly toolchain with Miri in `RUSTUP_TOOLCHAIN`. Keeps everything in `target/miri`.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Small properties: each case takes some tenths of a second here.
CASES = 4

# The modules and tests to run, and those that repeat one step too often for an interpreter.
SELECTED = ["wire::", "codec::", "frame::memory::", "frame::replay::", "frame::stats::", "keyring::nonce::"]
LEFT_OUT = [
    "no_iv_repeats_and_none_needs_an_escape",
    "the_keys_remembered_are_bounded_and_a_further_one_is_refused",
    "a_key_that_loses_its_window_keeps_its_highest_counter_and_goes_on_above_it",
]

# The message of Miri for the fault of each control.
CONTROLS = {
    "control_a_read_out_of_bounds": r"Undefined Behavior: .*(out-of-bounds|past the end|dangling|beyond)",
    "control_a_read_of_uninitialised_memory": r"Undefined Behavior: .*uninitialized",
    "control_two_mutable_references_to_one_buffer": r"Undefined Behavior: .*(Stack Borrows|borrow stack|tag)",
}


def test(*arguments: str) -> tuple[int, str]:
    """Run tests in Miri. Return the exit code and the output."""
    properties = {"PROPTEST_CASES": str(CASES), "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1"}
    command = ["cargo", "miri", "test", "--locked", "--package", "frameseal", "--lib"]
    done = subprocess.run(
        [*command, "--target-dir", str(ROOT / "target/miri"), "--", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        # Proptest asks for the current directory, which Miri isolates.
        env=os.environ | properties | {"MIRIFLAGS": "-Zmiri-disable-isolation"},
    )
    return done.returncode, done.stdout


def control_fault(name: str, code: int, output: str) -> str | None:
    """Return a sentence if a control did not fail in the way that it must, or None."""
    if code != 0 and re.search(CONTROLS[name], output):
        return None
    return f"{name} must fail with {CONTROLS[name]!r}, and did not: Miri finds nothing here\n{output}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all controls and the selected tests. Return 1 if one of them is not as it must be."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(arguments)
    for name in CONTROLS:
        if fault := control_fault(name, *test(name, "--ignored")):
            print(fault, file=sys.stderr)
            return 1
        print(f"found, as it must be: {name}", flush=True)
    code, output = test(*SELECTED, *(word for name in LEFT_OUT for word in ("--skip", name)))
    passed = re.findall(r"(?m)^test (\S+) \.\.\. ok", output)
    for selected in SELECTED:
        print(f"{selected:20} {sum(name.startswith(selected) for name in passed):>3} tests without a finding")
    silent = [selected for selected in SELECTED if not any(name.startswith(selected) for name in passed)]
    if code != 0 or silent:
        print(output, f"Miri found something, or ran no test of: {silent}", sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
