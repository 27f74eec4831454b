"""Tests the native module in a CPython without a GIL: `make free-threaded`.

Builds CPython 3.13t from Debian's source package, an environment with requirements/free-threaded.txt, and the module
for it. The module must not bring the GIL back. Then the tests run that need neither aiortc nor cryptography, which have
no wheels for 3.13t. Another interpreter is named with `--python python3.14t`.

Needs apt-get, cargo, and Debian's packages of a C compiler, OpenSSL, libffi and zlib. Keeps the interpreter in
`.stamps/free-threaded`, and the rest in `target/free-threaded`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEPT = ROOT / ".stamps/free-threaded"
WORK = ROOT / "target/free-threaded"

SOURCE = "python3.13"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# The first CPython that the PyO3 of the workspace supports without a GIL.
SUPPORTED = (3, 14)
TESTS = [
    "tests/unit/native/test_threads.py",
    "tests/unit/native/test_argument_errors.py",
    "tests/unit/native/test_batch.py",
    "tests/unit/native/test_forks.py",
    "tests/unit/native/test_numbers.py",
    "tests/unit/native/test_ratchet.py",
    "tests/unit/native/test_sframe.py",
    "tests/unit/test_fork.py",
]
# A child of CPython 3.13t may hang on a dict that other threads changed while it was forked. It does so without this
# package too, and these tests fork while threads change the package's dicts.
HANG_IN_3_13 = [
    "tests/unit/test_fork.py::test_a_child_forked_while_a_provider_sets_keys_goes_on",
    "tests/unit/test_fork.py::test_a_child_forked_while_events_states_and_tracks_change_goes_on",
    "tests/unit/test_fork.py::test_workers_that_multiprocessing_forks_go_on",
]
# Imports the module and what the tests import beside it, and says whether there is a GIL now.
GIL = "import sys, frameseal._native, numpy, pyarrow, av; print(sys._is_gil_enabled())"


def mirror(targets: str) -> str:
    """Return the address of Debian's mirror, from the index targets of apt. It is the address that apt uses itself."""
    sites = re.findall(r"^(\S+/debian)/? \S+ Debian main$", targets, re.MULTILINE)
    if not sites:
        raise SystemExit("make free-threaded needs Debian's mirror in the sources of apt: add it, or pass --python")
    return sites[0]


def fetch(folder: Path, suite: str) -> Path:
    """Download the source package with apt, which checks its signature. Return the archive of the sources."""
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    wanted = ["--format", "$(SITE) $(SUITE) $(ORIGIN) $(COMPONENT)", "Created-By: Packages"]
    targets = subprocess.run(["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=True).stdout
    sources = folder / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {mirror(targets)} {suite} main\n", "utf-8")
    places = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    apt = ["apt-get", "-qq", "-oAPT::Sandbox::User=root", *(f"-o{name}={place}" for name, place in places.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", "--download-only", "--only-source", SOURCE], cwd=folder, check=True)
    (archive,) = folder.glob(f"{SOURCE}_*.orig.tar.xz")
    return archive


def interpreter(suite: str) -> Path:
    """Return the interpreter, which is built once, in some minutes."""
    python = KEPT / f"python/bin/{SOURCE}t"
    if python.exists():
        return python
    source = KEPT / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(fetch(source, suite)) as archive:
        archive.extractall(source, filter="tar")
    (top,) = (path.parent for path in source.glob("*/configure"))
    options = ["--quiet", "--disable-gil", "--disable-test-modules", "--with-ensurepip=install"]
    for command in (
        ["./configure", *options, f"--prefix={KEPT / 'python'}"],
        ["make", "-s", f"-j{os.cpu_count() or 1}"],
        ["make", "-s", "install"],
    ):
        with (KEPT / "build.log").open("a") as log:
            if subprocess.run(command, cwd=top, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise SystemExit(f"make free-threaded: CPython was not built, see {KEPT / 'build.log'}")
    shutil.rmtree(source)
    return python


def environment(python: Path) -> Path:
    """Return the interpreter of an environment with the locked requirements."""
    made = WORK / "env"
    subprocess.run([str(python), "-m", "venv", "--clear", str(made)], check=True)
    options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
    requirements = ROOT / "requirements/free-threaded.txt"
    subprocess.run(
        [str(made / "bin/python"), "-m", "pip", "install", *options, "--requirement", str(requirements)], check=True
    )
    return made / "bin/python"


def manifest(version: tuple[int, int]) -> Path:
    """Return the crate that supports this CPython: the module itself, or its build for 3.13t."""
    return (ROOT / "rust/python" if version >= SUPPORTED else HERE) / "Cargo.toml"


def version_of(python: Path) -> tuple[int, int]:
    """Return the major and the minor version of an interpreter."""
    done = subprocess.run(
        [str(python), "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    major, minor = map(int, done.stdout.split())
    return major, minor


def selection(version: tuple[int, int]) -> list[str]:
    """Return the arguments that name the tests for this CPython."""
    return TESTS if version >= SUPPORTED else [*TESTS, *(f"--deselect={test}" for test in HANG_IN_3_13)]


def package(python: Path) -> Path:
    """Build the module, and return the folder of a package with this module alone."""
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", str(manifest(version_of(python)))]
    env = os.environ | {"PYO3_PYTHON": str(python), "PYO3_BUILD_EXTENSION_MODULE": "1"}
    subprocess.run([*command, "--target-dir", str(WORK / "build")], check=True, env=env)
    made = WORK / "package"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(ROOT / "python", made, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    shutil.copy(WORK / "build/release/lib_native.so", made / "frameseal/_native.so")
    return made


def has_gil(python: Path, path: Path, **more: str) -> bool:
    """Return whether a process has a GIL once it has imported the module."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    done = subprocess.run(
        [str(python), "-c", GIL], env=env | {"PYTHONPATH": str(path)} | more, capture_output=True, text=True, check=True
    )
    return done.stdout.strip() != "False"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build everything, check that there is no GIL, run the tests, and return their exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", type=Path, help="a free-threaded interpreter, instead of the one that is built")
    parser.add_argument("--suite", default="trixie", help=f"the suite of Debian with the sources of {SOURCE} (trixie)")
    parser.add_argument("pytest", nargs="*", help="more arguments for pytest")
    options = parser.parse_args(arguments)
    python = environment(options.python or interpreter(options.suite))
    path = package(python)
    if not has_gil(python, path, PYTHON_GIL="1"):
        print("a process that was told to have a GIL has none: the check shows nothing", file=sys.stderr)
        return 1
    if has_gil(python, path):
        print("the module has brought the GIL back: does it still declare gil_used = false?", file=sys.stderr)
        return 1
    print("no GIL after the import of the module", flush=True)
    env = os.environ | {"PYTHON_GIL": "0", "PYTHONPATH": str(path), "FRAMESEAL_STACKS": "aiortc"}
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *selection(version_of(python)), *options.pytest]
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
