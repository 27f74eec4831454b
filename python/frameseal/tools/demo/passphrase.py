"""The passphrase of a recorded demo: in a file of this user's, away from the archive."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Final

from frameseal._secrecy import Hidden
from frameseal.tools.demo.call import CallOptions, UnusableFile

MAX_FILE: Final = 4096  # bytes


def default_file() -> Path:
    """Return the file of the demo's passphrase for this user. It may not exist yet."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "frameseal/demo.passphrase"


def with_passphrase(options: CallOptions, file: Path) -> CallOptions:
    """Return the options with the passphrase in a file. A file that does not exist is made, for this user alone.

    :raises UnusableFile: the file cannot be read or written, holds no passphrase, or lies in the archive.
    """
    archive = Path(options.record) if options.record is not None and "://" not in options.record else None
    if archive is not None and file.resolve().is_relative_to(archive.resolve()):
        raise UnusableFile("the passphrase file lies inside the archive, which may hold no key: pass another")
    reason, content = None, b""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            content = file.read_bytes()[:MAX_FILE]
        else:
            content = secrets.token_urlsafe(24).encode()
            with os.fdopen(descriptor, "wb") as made:
                made.write(content + b"\n")
    except OSError as error:
        reason = error.strerror  # not the error, which quotes the path
    if reason is not None:
        raise UnusableFile(f"the passphrase file cannot be read or made: {reason}")
    try:
        text = content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\n" in text:
        raise UnusableFile("the passphrase file must hold one line of UTF-8: remove it, or pass another")
    return replace(options, passphrase=Hidden(text))
