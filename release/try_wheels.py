"""Installs what `make wheels` has built where it has to work, and runs the core part of the tests there.

`python release/try_wheels.py PLACE...`, or `make wheels-test`. The places:

* `native`: a new environment of this machine's Python.
* `glibc`: Debian 11 with glibc 2.31, and a CPython 3.11 that is built for it here.
* `musl`: musl 1.2.5 with nothing beside it, and a CPython 3.11 that is built for it here.
* `aarch64`: Debian 12 for that processor, with its own Python, under qemu. One call is held there too.
* `sdist`: a new environment, in which cargo builds the sdist without network.

Each place has its own pip install the wheel, with no compiler in reach, and must refuse a wheel of another place. The
roots are made once, in `.stamps/places`. They come from the mirror that apt uses. glibc, musl and aarch64 need root,
and Debian's packages that `make wheels-test` names.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / "dist"
PLACES = ROOT / ".stamps/places"
REQUIREMENTS = ROOT / "requirements/wheels.txt"
UV = ROOT / ".stamps/uv/bin/uv"

# Without the files whose tests hold calls: their time limits mean nothing while a place is being built beside them.
SHORT = [f"tests/unit/native/test_{name}.py" for name in ("vectors", "properties", "sframe")]
CORE = SHORT + [
    f"tests/unit/native/test_{name}.py"
    for name in ("argument_errors", "batch", "data_packets", "forks", "numbers", "ratchet")
]
CALL = ["tests/calls/test_sframe_call.py"]

# The modules of the interpreters that are built here: all that the tests and their packages import. pip needs zlib.
MODULES = """\
*static*
array arraymodule.c
_asyncio _asynciomodule.c
_bisect _bisectmodule.c
_blake2 _blake2/blake2module.c _blake2/blake2b_impl.c _blake2/blake2s_impl.c
_contextvars _contextvarsmodule.c
_csv _csv.c
_datetime _datetimemodule.c
_heapq _heapqmodule.c
_json _json.c
_lsprof _lsprof.c rotatingtree.c
_md5 md5module.c
_multiprocessing _multiprocessing/multiprocessing.c _multiprocessing/semaphore.c
_opcode _opcode.c
_pickle _pickle.c
_posixshmem _multiprocessing/posixshmem.c
_posixsubprocess _posixsubprocess.c
_queue _queuemodule.c
_random _randommodule.c
_sha1 sha1module.c
_sha256 sha256module.c
_sha3 _sha3/sha3module.c
_sha512 sha512module.c
_socket socketmodule.c
_statistics _statisticsmodule.c
_struct _struct.c
_typing _typingmodule.c
_zoneinfo _zoneinfo.c
binascii binascii.c
cmath cmathmodule.c
fcntl fcntlmodule.c
grp grpmodule.c
math mathmodule.c
mmap mmapmodule.c
pyexpat pyexpat.c
resource resource.c
select selectmodule.c
syslog syslogmodule.c
termios termios.c
unicodedata unicodedata.c
_ctypes _ctypes/_ctypes.c _ctypes/callbacks.c _ctypes/callproc.c _ctypes/cfield.c _ctypes/stgdict.c \
-I$(abs_builddir)/ffi/include -DHAVE_FFI_PREP_CIF_VAR -DHAVE_FFI_PREP_CLOSURE_LOC -DHAVE_FFI_CLOSURE_ALLOC \
-L$(abs_builddir)/ffi/.libs -lffi -ldl
zlib zlibmodule.c -I$(abs_builddir)/zlib -L$(abs_builddir)/zlib -lz
"""
ZLIB = ["adler32", "crc32", "inffast", "inflate", "inftrees", "zutil", "deflate", "trees", "compress", "uncompr"]

SEAL = """\
import shutil, sys, frameseal
assert "-packages" in frameseal.__file__, frameseal.__file__
compilers = [name for name in ("cc", "gcc", "clang", "cargo", "rustc") if shutil.which(name)]
assert not compilers, compilers
ring = frameseal.KeyRing("livekit")
ring.set_passphrase("correct horse battery staple")
sealed = frameseal.Encryptor(ring, codec="opus").encrypt(b"one packet")
assert frameseal.Decryptor(ring, codec="opus").decrypt(sealed) == b"one packet" != sealed
print("sealed and opened a frame with Python", sys.version.split()[0])
"""

# An executable of Linux for aarch64, and the bits of its header that count.
MAGIC = rb"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Place:
    """A place that a wheel has to work in: the wheel, the tag of one that it must refuse, and the tests."""

    wheel: str
    refused: str
    tests: Sequence[str]

    @property
    def holds_call(self) -> bool:
        """Return whether a call is among the tests, which needs aiortc."""
        return not set(CALL).isdisjoint(self.tests)


@dataclass(frozen=True)
class Root(Place):
    """A place with a root of its own."""

    make: Callable[[], Path]
    python: str
    site: str
    platform: str


def run(*command: str | Path, **options: object) -> None:
    """Run a command, which must succeed."""
    subprocess.run([str(each) for each in command], check=True, **options)  # type: ignore[call-overload]


def output(*command: str | Path) -> str:
    """Return the output of a command, which must succeed."""
    return subprocess.run([str(each) for each in command], check=True, capture_output=True, text=True).stdout


def wheel(pattern: str) -> Path:
    """Return the one file of `make wheels` that matches a pattern."""
    found = sorted(WHEELS.glob(pattern))
    if len(found) != 1:
        sys.exit(f"dist has {len(found)} files {pattern}, and there must be 1: run make wheels")
    return found[0]


# --- roots -----------------------------------------------------------------------------------------------------------


def debian(root: Path, suite: str, architecture: str, *packages: str) -> Path:
    """Extract packages of Debian and all that they need into a root, unless it is there."""
    if not root.exists():
        made = root.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--architectures={architecture}"]
        run(*command, f"--include={','.join(packages)}", suite, made)
        make_links_relative(made)
        made.rename(root)
    return root


def make_links_relative(root: Path) -> None:
    """Make symbolic links lead into the root, so that a compiler outside follows them there."""
    for path in [path for path in root.rglob("*") if path.is_symlink()]:
        target = path.readlink()
        if target.is_absolute():
            path.unlink()
            path.symlink_to(os.path.relpath(root / target.relative_to("/"), path.parent))


def sources() -> dict[str, Path]:
    """Return the folders with the sources of CPython 3.11, zlib and libffi, as Debian 12 has them."""
    folder = PLACES / "sources"
    names = {"python3.11": "Python-3.11.*", "zlib": "zlib-*", "libffi": "libffi-*"}
    if not all([*folder.glob(pattern)] for pattern in names.values()):
        (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        entries = folder / "sources.list"
        uris = output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main")
        entries.write_text(f"deb-src {uris.split()[0]} bookworm main\n")
        places = {"Dir::Etc::SourceList": entries, "Dir::Etc::SourceParts": "-", "Dir::State::Lists": folder / "lists"}
        apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
        apt += [word for name, value in places.items() for word in ("-o", f"{name}={value}")]
        run(*apt, "update")
        run(*apt, "source", "--download-only", *names, cwd=folder)
        for archive in folder.glob("*.orig.tar.*"):
            run("tar", "-xf", archive, "--exclude=*/Doc", "--exclude=*/Lib/test", "-C", folder)
    return {name: next(folder.glob(pattern)) for name, pattern in names.items()}


def build_python(root: Path, compiler: str) -> Path:
    """Build CPython with a compiler's command into /opt/python of a root, unless it is there."""
    if (root / "opt/python/bin/python3.11").exists():
        return root
    found = sources()
    with tempfile.TemporaryDirectory(prefix="frameseal-python-") as name:
        folder = Path(name)
        cc, zlib = folder / "cc", folder / "zlib"
        # The name that Debian's gcc has for the platform is that of glibc.
        cc.write_text(f'#!/bin/sh\n[ "$1" = --print-multiarch ] && exit 1\nexec {compiler} "$@"\n')
        cc.chmod(0o755)
        zlib.mkdir()
        for each in ZLIB:
            run(cc, "-O1", "-fPIC", "-c", found["zlib"] / f"{each}.c", "-o", zlib / f"{each}.o")
        run("ar", "rc", zlib / "libz.a", *sorted(zlib.glob("*.o")))
        for header in ("zlib.h", "zconf.h"):
            shutil.copy(found["zlib"] / header, zlib)
        ffi = folder / "ffi"
        ffi.mkdir()
        # Its static trampolines need headers of Linux, which musl has not.
        ffi_options = ["--quiet", "--disable-shared", "--disable-docs", "--disable-exec-static-tramp"]
        options = ["--quiet", "--prefix=/opt/python", "--disable-test-modules", "--with-ensurepip=no"]
        flags = ["OPT=-O1 -g0 -fwrapv -DNDEBUG -w", "LDFLAGS=-s", "PKG_CONFIG=false"]
        with (folder / "log").open("w") as log:
            try:
                told = {"cwd": folder, "stdout": log, "stderr": log}
                told_ffi = told | {"cwd": ffi}
                run(found["libffi"] / "configure", *ffi_options, f"CC={cc}", **told_ffi)
                run("make", "-s", **told_ffi)
                run(found["python3.11"] / "configure", *options, f"CC={cc}", *flags, **told)
                (folder / "Modules/Setup.local").write_text(MODULES)
                run("make", "-s", f"-j{os.cpu_count()}", "python", "pybuilddir.txt", **told)
            except subprocess.CalledProcessError:
                print((folder / "log").read_text("utf-8", errors="replace")[-4000:], file=sys.stderr)
                raise
        library = root / "opt/python/lib/python3.11"
        shutil.copytree(found["python3.11"] / "Lib", library, dirs_exist_ok=True)
        data = folder / (folder / "pybuilddir.txt").read_text("utf-8").strip()
        shutil.copytree(data, library, dirs_exist_ok=True)
        (library / "lib-dynload").mkdir(exist_ok=True)
        (root / "opt/python/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "python", root / "opt/python/bin/python3.11")
    return root


def glibc_root() -> Path:
    """Return the root with glibc 2.31 and a CPython for it."""
    packages = ["libc6-dev", "linux-libc-dev", "libgcc-s1", "libstdc++6"]
    root = debian(PLACES / "glibc", "bullseye", "amd64", *packages)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return build_python(root, f"gcc --sysroot={root} -B{libraries} -L{libraries}")


def musl_root() -> Path:
    """Return the root with musl alone and a CPython for it. Debian 12's musl crashes as it loads cryptography."""
    root = PLACES / "musl"
    packages = debian(PLACES / "musl-packages", "trixie", "amd64", "musl")
    loader = "lib/ld-musl-x86_64.so.1"
    for name in ("lib", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy((packages / "usr" / loader).resolve(), root / loader)
    return build_python(root, "musl-gcc")


def aarch64_root() -> Path:
    """Return the root of the other processor, whose programs the kernel hands to qemu."""
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "none", BINFMT)
    if not (BINFMT / "frameseal-aarch64").exists():
        # F: the kernel opens qemu now, so that the root need not hold it.
        rule = b":".join([b"", b"frameseal-aarch64", b"M", b"", MAGIC, MASK, b"/usr/bin/qemu-aarch64-static", b"F"])
        (BINFMT / "register").write_bytes(rule)
    packages = ["python3.11-minimal", "libpython3.11-stdlib", "libgcc-s1", "libstdc++6"]
    return debian(PLACES / "aarch64", "bookworm", "arm64", *packages)


def inside(root: Path, *command: str | Path) -> list[str]:
    """Return the command that runs another in a root, with the devices and the processes of this machine."""
    for name in ("dev", "proc"):
        (root / name).mkdir(exist_ok=True)
    mounts = f"mount --rbind /dev {root}/dev && mount -t proc proc {root}/proc"
    script = f'PATH=/usr/sbin:/usr/bin:/sbin:/bin; {mounts} && exec chroot {root} "$@"'
    return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *map(str, command)]


# --- trying ----------------------------------------------------------------------------------------------------------


def copy_tests(folder: Path) -> Path:
    """Copy the tests into a folder, without the package: the tests must find the one that is installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def install_packages(site: Path, platform: str) -> None:
    """Install what the tests need into a folder, for a platform that need not be this one."""
    marker = site / ".frameseal-tests"
    if marker.exists() and marker.read_bytes() == REQUIREMENTS.read_bytes():
        return
    site.mkdir(parents=True, exist_ok=True)
    options = ["--quiet", "--require-hashes", "--only-binary", ":all:", "--target", site, "--python-version", "3.11"]
    run(UV, "pip", "install", *options, "--python-platform", platform, "--requirement", REQUIREMENTS)
    shutil.copy(REQUIREMENTS, marker)


def environment(folder: Path) -> Path:
    """Make a new environment of this interpreter with what the tests need, and return its Python."""
    run(sys.executable, "-m", "venv", "--clear", folder)
    python = folder / "bin/python"
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
    run(python, "-m", "pip", "install", *options, "--requirement", REQUIREMENTS)
    return python


def settings() -> dict[str, str]:
    """Return the environment variables of a place: none of this machine's, and no program on the path."""
    return {"PATH": "/nowhere", "HOME": "/nowhere", "FRAMESEAL_STACKS": "aiortc", "PYTHONDONTWRITEBYTECODE": "1"}


def pip_install(wheel: str | Path) -> list[str]:
    """Return the arguments with which a place's own pip installs a file that is at hand."""
    options = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--break-system-packages"]
    return ["-m", "pip", "install", *options, "--no-index", "--no-deps", "--force-reinstall", str(wheel)]


def try_in(folder: Path, here: str, python: Sequence[str], place: Place, made: Path) -> None:
    """Install a wheel with a place's Python, seal a frame, and run the tests. The place sees `folder` as `here`."""
    env = settings()
    copy_tests(folder / "tree")
    files = folder / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    shutil.copy(made, files)
    (files / "seal.py").write_text(SEAL)
    if place.refused:
        other = re.sub(r"[^-]+\.whl$", f"{place.refused}.whl", made.name)
        shutil.copy(made, files / other)
        refusal = [*python, *pip_install(f"{here}/files/{other}")]
        done = subprocess.run(refusal, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0 or "is not a supported wheel on this platform" not in done.stderr:
            sys.exit(f"pip should have refused {other} here, and said: {done.stdout}{done.stderr}")
    run(*python, *pip_install(f"{here}/files/{made.name}"), env=env)
    run(*python, f"{here}/files/seal.py", env=env)
    if not place.tests:
        return
    options = ["-p", "no:cacheprovider", "--no-header", f"-n{os.cpu_count()}", "--hypothesis-profile=ci"]
    options += [f"--rootdir={here}/tree", f"--config-file={here}/tree/pyproject.toml", "--override-ini=timeout=900"]
    if not place.holds_call:
        options.append("--noconftest")  # its fixtures are for calls, and import aiortc
    run(*python, "-m", "pytest", *options, *(f"{here}/tree/{each}" for each in place.tests), env=env)


def try_here(name: str, place: Place) -> None:
    """Try a wheel in a new environment of this machine's Python."""
    folder = PLACES / name
    python = environment(folder / "env")
    made = built_from_sdist(wheel(place.wheel), folder) if name == "sdist" else wheel(place.wheel)
    try_in(folder, str(folder), [str(python)], place, made)


def built_from_sdist(sdist: Path, folder: Path) -> Path:
    """Build a wheel from the sdist in a new folder, without network, and return it."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "CARGO_NET_OFFLINE": "true", "CARGO_TARGET_DIR": str(ROOT / "target")}
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-build-isolation", "--no-deps"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, sdist, env=env)
    (made,) = out.glob("*.whl")
    return made


def try_root(place: Root) -> None:
    """Try a wheel in a root of its own."""
    made = wheel(place.wheel)
    root = place.make()
    install_packages(root / place.site.lstrip("/"), place.platform)
    try_in(root / "trial", "/trial", inside(root, place.python), place, made)


OPT = {"python": "/opt/python/bin/python3.11", "site": "/opt/python/lib/python3.11/site-packages"}
TRIED: dict[str, Place] = {
    "native": Place("*-manylinux2014_x86_64*.whl", "musllinux_1_2_x86_64", CORE),
    "glibc": Root(
        "*-manylinux2014_x86_64*.whl", "musllinux_1_2_x86_64", CORE, glibc_root, platform="x86_64-manylinux_2_31", **OPT
    ),
    "musl": Root(
        "*-musllinux_1_2_x86_64.whl",
        "manylinux2014_x86_64",
        CORE,
        musl_root,
        platform="x86_64-unknown-linux-musl",
        **OPT,
    ),
    "sdist": Place("*.tar.gz", "", SHORT),
    "aarch64": Root(
        "*-manylinux2014_aarch64*.whl",
        "manylinux2014_x86_64",
        [*SHORT, *CALL],
        aarch64_root,
        python="/usr/bin/python3.11",
        site="/usr/local/lib/python3.11/dist-packages",
        platform="aarch64-manylinux_2_36",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the wheels in each place, and return 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+", metavar="PLACE", help=", ".join(TRIED))
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.places if name not in TRIED]:
        parser.error(f"places must be some of {', '.join(TRIED)}, not {', '.join(unknown)}")
    for name in options.places:
        print(f"\n--- {name}", flush=True)
        place = TRIED[name]
        try:
            try_root(place) if isinstance(place, Root) else try_here(name, place)
        except subprocess.CalledProcessError as failed:
            print(f"{name}: {' '.join(map(str, failed.cmd))} has failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
