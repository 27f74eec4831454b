"""What a benchmark leaves behind: results/QUESTION.json, with the machine that the figures are of."""

import json
import platform
import sys
from argparse import ArgumentParser
from pathlib import Path

import frameseal

RESULTS = Path(__file__).parent / "results"


def add_output(parser: ArgumentParser, question: str) -> None:
    """Give a benchmark its argument for where the figures go."""
    default = RESULTS / f"{question}.json"
    parser.add_argument("--output", type=Path, default=default, help=f"{question}.json in benches/results if not given")


def write(path: Path, **figures: object) -> dict:
    """Write the figures, and return all that was written."""
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
    """Return the processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
