"""Writes the figures of a benchmark to results/QUESTION.json, together with the machine."""

import json
import platform
import sys
from argparse import ArgumentParser
from pathlib import Path

import frameseal

RESULTS = Path(__file__).parent / "results"


def add_output(parser: ArgumentParser, question: str) -> None:
    """Add the argument --output, the file of the figures."""
    default = RESULTS / f"{question}.json"
    parser.add_argument(
        "--output", type=Path, default=default, help=f"file of the figures (default: benches/results/{question}.json)"
    )


def write(path: Path, **figures: object) -> dict:
    """Write the figures and the machine, and return both."""
    machine = {
        "frameseal": frameseal.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(machine | figures, indent=1) + "\n")
    return machine | figures


def cpu() -> str:
    """Return the processor's name, or "unknown" if the system does not report it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
