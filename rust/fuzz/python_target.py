"""Runs one Python target under Atheris: `python rust/fuzz/python_target.py messages [FLAGS OF LIBFUZZER] [CORPUS ...]`.

Atheris measures the coverage of the package's Python code and of the target. The core and Arrow are not instrumented.
An exception that `check` does not expect is a finding. run.py calls this for each target.
"""

import importlib
import shlex
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Import the target with coverage, and fuzz until libFuzzer ends the process."""
    import atheris

    name = sys.argv.pop(1)
    sys.path[:0] = [str(HERE / "python_targets"), str(HERE.parents[1] / "python")]
    with atheris.instrument_imports(include=["frameseal", name]):
        target = importlib.import_module(name)
    # A merge runs this command in processes of its own, through a shell.
    sys.argv[0] = shlex.join([sys.executable, __file__, name])
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
