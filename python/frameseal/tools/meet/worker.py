"""The browser's half of the encryption: LiveKit's e2ee worker, as published in the npm package `livekit-client`.

It is not ours and not shipped with us. The package is fetched once with the npm client, checked against the hash that
is pinned here, and kept in the user's cache, its licence beside it. The hash is checked again at every start.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from frameseal._secrecy import require

PACKAGE: Final = "livekit-client"
VERSION: Final = "2.23.0"
INTEGRITY: Final = "sha512-j9Kg86nJjBjNFUD+ukp2jwMCGa0k+YD5gU//RzAM+ZY3pbG631QCte7fQjwqWMmtBzhDJL9nKYuOLMv/9IbAxg=="
TARBALL: Final = f"{PACKAGE}-{VERSION}.tgz"

FETCH_TIMEOUT: Final = 120.0  # seconds
_SCRIPT: Final = "package/dist/livekit-client.e2ee.worker.mjs"
_LICENCE: Final = "package/LICENSE"


class WorkerUnavailable(Exception):
    """The worker cannot be had; the message says why and what to do, in one line."""


@dataclass(frozen=True)
class Worker:
    """The worker's module and its licence, as they are served."""

    script: bytes
    licence: bytes


def cache_folder() -> Path:
    """Return where this user's programs keep what they can fetch again; the folder may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "frameseal"


def load_worker(package: Path | None = None) -> Worker:
    """Return the worker: of *package*, a file that somebody brought, else of the cache, else of the registry.

    :raises WorkerUnavailable: the file is not the pinned package; or npm is missing, or has no network.
    """
    require("package", package, (Path, type(None)), "a Path, or None")
    if package is not None:
        try:
            packed = package.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no name that a file can have
            reason = getattr(error, "strerror", "no file can have this name")  # and no more of it: it names the file
        else:
            return _unpack(packed, "the package")
        raise WorkerUnavailable(f"the package cannot be read: {reason}")
    folder = cache_folder()
    kept = folder / TARBALL
    if kept.is_file():
        try:
            return _unpack(kept.read_bytes(), TARBALL)
        except WorkerUnavailable:
            kept.unlink()  # cut short or altered: fetched again
    return _fetch(folder)


def _fetch(folder: Path) -> Worker:
    npm = shutil.which("npm")
    if npm is None:
        raise WorkerUnavailable(
            f"npm is needed, once, to fetch the browser's e2ee worker: install npm, or give {TARBALL} with --worker"
        )
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", place, "--fetch-retries=1"]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, timeout=FETCH_TIMEOUT, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            done = None
        fetched = Path(place) / TARBALL
        if done is None or done.returncode != 0 or not fetched.is_file():
            raise WorkerUnavailable(
                f"could not fetch npm's {PACKAGE} {VERSION}: is there a network? Else give {TARBALL} with --worker"
            )
        packed = fetched.read_bytes()
    worker = _unpack(packed, TARBALL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{PACKAGE}-{VERSION}.LICENSE").write_bytes(worker.licence)
        unfinished = folder / f"{TARBALL}.{os.getpid()}"
        unfinished.write_bytes(packed)
        unfinished.replace(folder / TARBALL)
    except OSError as error:
        # A cache that cannot be written is no reason not to meet.
        print(f"frameseal meet: could not keep {TARBALL}: {error.strerror}", file=sys.stderr)
    return worker


def _unpack(packed: bytes, name: str) -> Worker:
    if "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode() != INTEGRITY:
        raise WorkerUnavailable(f"{name} is not npm's {PACKAGE} {VERSION}: its hash differs from the pinned one")
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        return Worker(_member(archive, _SCRIPT), _member(archive, _LICENCE))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise WorkerUnavailable(f"{name} is no file")
    return file.read()
