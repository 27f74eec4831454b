"""Runs the models of threads in every order of their steps: `python rust/models/loom.py`, or `make loom`.

The models are in `rust/core/tests/models/interleavings.rs`. Loom explores all orders of a model with at most
`--preemptions` preemptions. The controls repeat faults that loom must find: this script fails if one of them passes.

Needs cargo. Keeps everything in `target/loom`.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "target/loom"
FLAG = "--cfg frameseal_loom"

# The output of each control when loom has found its fault.
CONTROLS = {
    "control_a_nonce_source_without_an_atomic_step": "a nonce was issued twice",
    "control_a_frame_that_is_opened_with_one_look_up": "an authentic frame was refused",
    "control_a_replay_check_without_a_mark": "a frame opens once",
}


@dataclass
class Model:
    """The outcome of one model. `complete` is false if it was stopped before its last order."""

    name: str
    orders: int
    seconds: float
    complete: bool

    def row(self) -> str:
        """Return the model's line of the table."""
        return f"{self.name:52} {self.orders:>10,} {self.seconds:>9.1f}{'' if self.complete else '  stopped'}"


def models(output: str) -> list[Model]:
    """Return the models that have passed, from the output of the tests."""
    lines = re.findall(r"model (.+): (\d+) orders, ([\d.]+) s, (all|stopped)", output)
    return [Model(name, int(orders), float(seconds), end == "all") for name, orders, seconds, end in lines]


def build() -> Path:
    """Build the models and return the program that runs them."""
    # Link-time optimisation costs more time than the models need.
    profile = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    command = ["cargo", "test", "--locked", "--release", "--package", "frameseal", "--lib", "--no-run"]
    done = subprocess.run(
        [*command, "--target-dir", str(WORK), "--message-format", "json"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | profile | {"RUSTFLAGS": FLAG},
    )
    return Path(re.findall(r'"executable":"([^"]+)"', done.stdout)[-1])


def run(binary: Path, wanted: str, preemptions: int, seconds: int, *arguments: str) -> tuple[int, str]:
    """Run the models or controls whose names contain `wanted`. Return the exit code and the output."""
    bounds = {"LOOM_MAX_PREEMPTIONS": str(preemptions), "LOOM_MAX_DURATION": str(seconds), "RUST_BACKTRACE": "0"}
    command = [str(binary), wanted, "--nocapture", "--test-threads=1", *arguments]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | bounds,
    )
    return done.returncode, done.stdout


def control_fault(name: str, code: int, output: str) -> str | None:
    """Return a sentence if a control did not fail in the way that it must, or None."""
    if code != 0 and CONTROLS[name] in output:
        return None
    return f"{name} must fail with {CONTROLS[name]!r}, and did not: loom finds nothing here\n{output}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all controls and models, print a table, and return 1 if one of them is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preemptions", type=int, default=2, help="at most this number in one order (2)")
    parser.add_argument("--seconds", type=int, default=600, help="at most this time for one model (600)")
    options = parser.parse_args(arguments)
    if options.preemptions < 1 or options.seconds < 1:
        parser.error("--preemptions and --seconds must be 1 or more")
    try:
        binary = build()
    except FileNotFoundError as missing:
        print(f"make loom needs {missing.filename}: install Rust with rustup", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    for name in CONTROLS:
        if fault := control_fault(name, *run(binary, name, options.preemptions, options.seconds, "--ignored")):
            print(fault, file=sys.stderr)
            return 1
        print(f"found, as it must be: {name}", flush=True)
    code, output = run(binary, "interleavings::model_", options.preemptions, options.seconds)
    explored = models(output)
    print(f"{'model':52} {'orders':>10} {'seconds':>9}")
    for model in explored:
        print(model.row())
    total = f"{len(explored)} models, {sum(model.orders for model in explored):,} orders"
    print(f"{total}, at most {options.preemptions} preemptions in each")
    for model in explored:
        if not model.complete:
            print(f"{model.name}: stopped after {options.seconds} s, before its last order")
    if code != 0 or not explored:
        print(output, "a model failed, or none ran", sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
