"""Loads the encryption of the browser: LiveKit's e2ee worker, from the npm package `livekit-client`.

frameseal does not ship it. The npm client fetches the package once. This module verifies the pinned hash, and caches
package and licence in the user's cache folder. The hash is verified again at every start.
"""

from __future__ import annotations

import base64
import contextlib
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
    """The worker cannot be read or fetched. The message names the reason and the remedy in one line."""


@dataclass(frozen=True)
class Worker:
    """The JavaScript module of the worker and its licence."""

    script: bytes
    licence: bytes


def cache_folder() -> Path:
    """Return the cache folder of frameseal for this user. It may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "frameseal"


def load_worker(package: Path | None = None) -> Worker:
    """Return the worker from *package*, from the cache, or from the npm registry.

    :param package: the path of the npm package; None uses the cache, or else fetches the package.
    :raises TypeError: *package* is neither a Path nor None.
    :raises WorkerUnavailable: *package* is not the pinned package, npm is not installed, or npm has no network.
    """
    require("package", package, (Path, type(None)), "a Path, or None")
    if package is not None:
        try:
            packed = package.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: an invalid file name
            reason = getattr(error, "strerror", "no file can have this name")  # not the error, which quotes it
        else:
            return _unpack(packed, "the package")
        raise WorkerUnavailable(f"the package cannot be read: {reason}")
    folder = cache_folder()
    kept = folder / TARBALL
    with contextlib.suppress(OSError):  # the cached package is absent, or this user cannot read or remove it
        try:
            return _unpack(kept.read_bytes(), TARBALL)
        except WorkerUnavailable:
            kept.unlink()  # truncated or altered: fetch it again
    return _fetch(folder)


def _fetch(folder: Path) -> Worker:
    npm = shutil.which("npm")
    if npm is None:
        raise WorkerUnavailable(
            f"npm is needed once, to fetch the e2ee worker: install npm, or pass {TARBALL} with --worker"
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
                f"could not fetch npm's {PACKAGE} {VERSION}: check the network, or pass {TARBALL} with --worker"
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
        # The meeting works without a writable cache.
        print(f"frameseal meet: could not cache {TARBALL}: {error.strerror}", file=sys.stderr)
    return worker


def _unpack(packed: bytes, name: str) -> Worker:
    if "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode() != INTEGRITY:
        raise WorkerUnavailable(f"{name} is not npm's {PACKAGE} {VERSION}: its hash differs from the pinned one")
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        return Worker(_member(archive, _SCRIPT), _member(archive, _LICENCE))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise WorkerUnavailable(f"{name} is not a file in the package")
    return file.read()
