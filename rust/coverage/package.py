"""Measures which code of the Python package its tests run: `make coverage NAME=package`.

Runs the tests under coverage.py, in all processes that they start, and prints lines and branches of each file. Behind
them it names each function of which the tests leave something out, and how many lines and branches.

With `rust/coverage/package.toml` it also judges. The list names these functions, with a reason for each, and the run
fails if a function has more of them than the list says. `--rows` prints what is left out as rows of the list.

An import of the package alone leaves out more than the tests may: the run checks that it would notice.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/coverage/package"
PACKAGE = "python/frameseal"
LIST = HERE / "package.toml"

# The settings of coverage.py, for every process: each writes a file of its own.
SETTINGS = f"""\
[run]
source = {ROOT / PACKAGE}
branch = true
parallel = true
data_file = {{data}}
sigterm = true
[report]
exclude_also =
    if TYPE_CHECKING:
    raise NotImplementedError
    @overload
    ^\\s*\\.\\.\\.$
"""

Left = dict[str, dict[str, int]]
Rows = dict[str, dict[str, dict]]


def measured(name: str, command: Sequence[str]) -> tuple[int, dict]:
    """Run Python with arguments, and return its exit code and the report of coverage.py."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    settings = folder / "coverage.ini"
    settings.write_text(SETTINGS.format(data=folder / "data"), "utf-8")
    code = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"COVERAGE_PROCESS_START": str(settings)},
        check=False,
    ).returncode
    report = folder / "report.json"
    for action in (["combine", "--quiet"], ["json", "--quiet", "-o", str(report)]):
        subprocess.run(
            [sys.executable, "-m", "coverage", *action, f"--rcfile={settings}"], cwd=ROOT, check=True, timeout=600
        )
    return code, json.loads(report.read_text("utf-8"))


def left_out(report: dict) -> Left:
    """Return by file and function how many lines and branches no test runs. Code outside of functions is "module"."""
    found: Left = {}
    for path, file in report["files"].items():
        for name, function in file["functions"].items():
            if count := len(function["missing_lines"]) + len(function["missing_branches"]):
                found.setdefault(path.removeprefix(f"{PACKAGE}/"), {})[name or "module"] = count
    return found


def faults(left: Left, listed: Rows) -> list[str]:
    """Return a line for each function of which less runs than the list allows."""
    return [
        f"{path}: {name}: no test runs {count} lines and branches, and the list allows {allowed}"
        for path, functions in left.items()
        for name, count in functions.items()
        if count > (allowed := listed.get(path, {}).get(name, {}).get("left", 0))
    ]


def table(report: dict) -> str:
    """Return a line for each file, and one for all."""
    rows = [(path.removeprefix(f"{PACKAGE}/"), file["summary"]) for path, file in report["files"].items()]
    text = [f"{'file':40}{'lines':>7}{'run':>7}{'branches':>10}{'run':>7}{'':>8}"]
    for name, each in [*rows, ("all", report["totals"])]:
        text.append(
            f"{name:40}{each['num_statements']:7}{each['covered_lines']:7}{each['num_branches']:10}"
            f"{each['covered_branches']:7}{each['percent_covered']:6.1f} %"
        )
    return "\n".join(text)


def rows(left: Left, listed: Rows) -> str:
    """Return what is left out as rows of the list, with the reasons that the list has."""
    lines = []
    for path, functions in left.items():
        lines.append(f'\n["{path}"]')
        for name, count in functions.items():
            reason = listed.get(path, {}).get(name, {}).get("reason", "")
            lines.append(f'"{name}" = {{ left = {count}, reason = "{reason}" }}')
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, print the table, and return 1 if the tests fail or leave out more than the list allows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", action="store_true", help="print rows for the list, also if there is one")
    parser.add_argument("tests", nargs="*", help="arguments of pytest")
    options = parser.parse_args(arguments)
    is_judged = LIST.is_file()
    listed = tomllib.loads(LIST.read_text("utf-8")) if is_judged else {}
    reasons = listed.pop("reasons", {})
    _, control = measured("control", ["-c", "import frameseal.tools.cli"])
    if not faults(left_out(control), listed):
        print("an import alone seems to run everything: coverage was not measured", file=sys.stderr)
        return 1
    code, report = measured("tests", ["-m", "pytest", "-n", "auto", "--dist", "loadgroup", *options.tests])
    left = left_out(report)
    print(table(report), flush=True)
    if options.rows or not is_judged:
        print(rows(left, listed))
    lines = [
        f"{path}: {name}: the reason {row['reason']!r} is not explained under [reasons]"
        for path, functions in listed.items()
        for name, row in functions.items()
        if row["reason"] not in reasons
    ]
    lines += faults(left, listed) if is_judged else []
    for line in lines:
        print(line, file=sys.stderr)
    if code:
        print("the tests fail: what they left out may come from that", file=sys.stderr)
    return 1 if lines or code else 0


if __name__ == "__main__":
    sys.exit(main())
