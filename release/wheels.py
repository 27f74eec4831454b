"""Builds the wheels and the sdist into `dist`: `python release/wheels.py TARGET...`, or `make wheels`.

A target is a platform of Rust, or `sdist`. zig compiles the C code and links, so that this machine builds the wheels of
other platforms, and a wheel for glibc needs no version above 2.17 (PEP 599) whatever this machine has.

Paths of this machine stay out of the wheels, and times come from the commit. The same commit and the same tools build
the same bytes: `--twice` builds everything again elsewhere and compares.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Not target/wheels, where pip leaves the wheels that maturin builds for this machine alone.
OUT = ROOT / "dist"
SDIST = "sdist"

# The platform tag of each target. musl 1.2 is in Alpine 3.13 and later.
COMPATIBILITY = {"gnu": "manylinux2014", "musl": "musllinux_1_2"}
# The libraries that each libc brings. Anything else would have to be on the machine that installs the wheel: minimal
# images have no libgcc_s.
LIBRARIES = {
    "gnu": {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"},
    "musl": {"libc.so"},
}
MAX_GLIBC = (2, 17)


def libc_of(target: str) -> str:
    """Return the libc of a target: gnu or musl."""
    libc = target.rpartition("-")[2]
    if "-linux-" not in target or libc not in COMPATIBILITY:
        raise ValueError(f"the target {target!r} is neither {SDIST} nor a platform of Linux with gnu or musl")
    return libc


def commit_time(root: Path) -> str:
    """Return the time of the commit, as all times in the wheels. Without git it is the first that a zip can hold."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return epoch
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "315532800"


def environment(root: Path, epoch: str, cargo_home: Path) -> dict[str, str]:
    """Return the environment of a build, in which no flag of this machine remains."""
    moved = {str(root): "frameseal", str(cargo_home): "cargo"}
    rust = [f"--remap-path-prefix={path}={name}" for path, name in moved.items()]
    c = [f"-ffile-prefix-map={path}={name}" for path, name in moved.items()]
    kept = {name: value for name, value in os.environ.items() if not re.search("RUSTFLAGS|CFLAGS|CARGO_BUILD", name)}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CARGO_HOME": str(cargo_home),
        "CARGO_TARGET_DIR": str(root / "target"),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(rust),
        "CFLAGS": " ".join(c),
        "SOURCE_DATE_EPOCH": epoch,
    }


def require_platforms(targets: Iterable[str]) -> None:
    """Install Rust's library for each target that lacks it. Needs rustup for that."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    missing = [target for target in targets if not (Path(sysroot) / "lib/rustlib" / target).is_dir()]
    if not missing:
        return
    if shutil.which("rustup") is None:
        sys.exit(f"wheels for {', '.join(missing)} need Rust's library for them: install Rust with rustup")
    subprocess.run(["rustup", "target", "add", *missing], check=True)


def build(target: str, out: Path, root: Path, env: dict[str, str]) -> Path:
    """Build one target, and return its file in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="frameseal-wheels-") as folder:
        command = [str(Path(sys.executable).parent / "maturin")]
        if target == SDIST:
            command += ["sdist", "--out", folder]
        else:
            command += ["build", "--release", "--locked", "--zig", "--target", target, "--quiet"]
            command += ["--compatibility", COMPATIBILITY[libc_of(target)], "--out", folder]
        subprocess.run(command, cwd=root, env=env, check=True)
        (made,) = Path(folder).iterdir()
        return Path(shutil.move(made, out / made.name))


def remove_other_versions(made: Path) -> None:
    """Remove the files of other versions from beside a file."""
    version = made.name.removesuffix(".tar.gz").split("-")[1]
    for path in made.parent.iterdir():
        if path.name.removesuffix(".tar.gz").split("-")[1:2] != [version]:
            path.unlink()


def native_module(wheel: Path) -> bytes:
    """Return the native module of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        return archive.read(name)


def requirements_of(module: bytes) -> tuple[set[str], set[str]]:
    """Return the libraries that a native module needs, and the versions of their symbols."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    libraries: set[str] = set()
    versions: set[str] = set()
    for part in ELFFile(BytesIO(module)).iter_sections():
        if isinstance(part, DynamicSection):
            libraries |= {tag.needed for tag in part.iter_tags("DT_NEEDED")}
        elif isinstance(part, GNUVerNeedSection):
            versions |= {version.name for _, needed in part.iter_versions() for version in needed}
    return libraries, versions


def faults(module: bytes, libc: str, places: Iterable[str] = ()) -> list[str]:
    """Return why a native module may not be published. `places` are paths that must not stand in it."""
    libraries, versions = requirements_of(module)
    found = [f"it needs {library}" for library in sorted(libraries - LIBRARIES[libc])]
    for version in sorted(versions):
        name, _, number = version.partition("_")
        if libc != "gnu" or name != "GLIBC" or tuple(map(int, number.split("."))) > MAX_GLIBC:
            found.append(f"it needs symbols of {version}")
    if b"PyInit__native" not in module:
        found.append("it exports no PyInit__native")
    return found + [f"it contains the path {place}" for place in places if place.encode() in module]


def prove_the_check() -> None:
    """Fail if the check accepts the interpreter's own modules, which are built for this machine alone."""
    import _ctypes

    if not faults(Path(_ctypes.__file__).read_bytes(), "musl", [Path(_ctypes.__file__).stem.partition(".")[0]]):
        sys.exit("the check of the wheels finds nothing in a module of this machine's interpreter")


def describe(path: Path) -> str:
    """Return the size and the hash of a file."""
    data = path.read_bytes()
    return f"{hashlib.sha256(data).hexdigest()}  {len(data):>9,}  {path.name}"


def copy_of_the_tree(folder: Path) -> Path:
    """Copy the files that git knows into a folder, and return it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of the files that differ in two wheels. The bytes of the archives differ if one is left."""
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        names = sorted({*one.namelist(), *other.namelist()})
        return [
            name
            for name in names
            if name not in one.namelist() or name not in other.namelist() or one.read(name) != other.read(name)
        ]


def build_again(targets: Sequence[str], made: dict[str, Path], epoch: str, cargo_home: Path) -> int:
    """Build everything again in another folder, with another name for cargo's home. Return 1 if a byte differs."""
    code = 0
    with tempfile.TemporaryDirectory(prefix="frameseal-again-") as name:
        folder = Path(name).resolve()
        tree = copy_of_the_tree(folder / "elsewhere/tree")
        home = folder / "cargo-home"
        home.mkdir()
        for part in ("registry", "config.toml"):
            if (cargo_home / part).exists():
                (home / part).symlink_to(cargo_home / part)
        env = environment(tree, epoch, home)
        for target in targets:
            again = build(target, folder / "out", tree, env)
            if again.read_bytes() == made[target].read_bytes():
                print(f"the same bytes twice: {made[target].name}", flush=True)
                continue
            code = 1
            where = differences(made[target], again) if again.suffix == ".whl" else []
            print(f"two builds of {made[target].name} differ: {', '.join(where) or 'in the archive'}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the targets, check them, and return 1 if one of them may not be published."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--twice", action="store_true", help="build again in another folder, and compare")
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"a platform of Rust, or {SDIST}")
    options = parser.parse_args(arguments)
    platforms = [target for target in options.targets if target != SDIST]
    try:
        for target in platforms:
            libc_of(target)
    except ValueError as error:
        parser.error(str(error))
    prove_the_check()
    require_platforms(platforms)
    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").resolve()
    epoch = commit_time(ROOT)
    env = environment(ROOT, epoch, cargo_home)
    code, made = 0, {}
    for target in options.targets:
        made[target] = build(target, OUT, ROOT, env)
        remove_other_versions(made[target])
        print(describe(made[target]), flush=True)
        if target != SDIST:
            for fault in faults(native_module(made[target]), libc_of(target), [str(ROOT), str(cargo_home)]):
                print(f"{made[target].name} may not be published: {fault}", file=sys.stderr)
                code = 1
    return code or (build_again(options.targets, made, epoch, cargo_home) if options.twice else 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{' '.join(map(str, failed.cmd))} has failed")
