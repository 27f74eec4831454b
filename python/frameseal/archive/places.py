"""Where an archive lies: any file system of Arrow, the names of its segments, and the folder of its spools.

A segment is one file: a *spool* (Arrow IPC stream, ``.arrows``) while it is written, and Parquet afterwards. Its name
is the recording and a number. Files whose names begin with a dot are under way, and no reader looks at them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from frameseal._secrecy import utf8
from frameseal.archive.schema import ArchiveError

PARQUET: Final = "parquet"
SPOOL: Final = "arrows"
DAMAGED: Final = "damaged"  # the end of a spool's name of which only the first rows could be read
MAX_NAME: Final = 200  # bytes of a recording in a file's name; file systems allow 255 together with the rest

# An object appears when its upload is complete; elsewhere a file is written aside and renamed.
_APPEARS_WHOLE = ("s3", "gcs", "abfs")
_SEGMENT = re.compile(r"(?P<name>[A-Za-z0-9~-]+)\.(?P<number>\d{8})\.(?P<form>parquet|arrows)")


def quoted(recording: str) -> str:
    """Return the id of a recording as a part of a file's name: letters, digits and hyphens, others as ``~XX``.

    ``~`` means nothing in an address, a shell's word or a data set's folder. No name begins with a dot or an
    underscore, which engines ignore.

    :raises TypeError: *recording* is not a str.
    :raises ValueError: *recording* is empty or too long.
    """
    if not isinstance(recording, str):
        raise TypeError(f"recording must be a str, not {type(recording).__name__}")
    utf8("recording", recording)
    name = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte == ord("-") else f"~{byte:02X}"
        for byte in recording.encode()
    )
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"recording must have 1 to {MAX_NAME} letters, of which others than a-z and 0-9 count more")
    return name


def unquoted(name: str) -> str | None:
    """Return the recording of a file's name, or None if `quoted` never returns the name."""
    try:
        recording = re.sub(rb"~([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), name.encode()).decode()
        return recording if quoted(recording) == name else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One segment of an archive: a recording's file with a number, from 0 on."""

    recording: str
    number: int
    form: str
    """`PARQUET` or `SPOOL`."""
    is_local_spool: bool = False
    """True if the file lies in the folder of spools, and not in the archive itself."""

    @property
    def file(self) -> str:
        """The name of the file, without its folder."""
        return f"{quoted(self.recording)}.{self.number:08d}.{self.form}"

    def as_parquet(self) -> Segment:
        """Return the segment as it lies in the archive when it is complete."""
        return Segment(self.recording, self.number, PARQUET)


@dataclass(slots=True)
class Place:
    """An archive's file system and folder, and the local folder of its spools."""

    filesystem: pafs.FileSystem
    folder: str
    spools: Path
    strangers: list[str] = field(default_factory=list)
    """The names of Parquet files and spools that are no segments, and of folders named so. `segments` sets them."""

    @property
    def is_local(self) -> bool:
        """True if the archive is a folder of this machine. Its spools then lie in the folder itself."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, file: str) -> str:
        """Return the path of a file of the archive, in its file system."""
        return f"{self.folder.rstrip('/')}/{file}" if self.folder else file

    def make(self) -> None:
        """Make the folders, unless they exist.

        :raises OSError: a folder cannot be made.
        """
        failed: int | None = None
        try:
            self.spools.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.filesystem.get_file_info(self.folder).type is not pafs.FileType.Directory:
                self.filesystem.create_dir(self.folder, recursive=True)
        except OSError as error:
            failed = error.errno or errno.EIO
        if failed is not None:  # raised here, since the error itself quotes the address
            raise OSError(failed, f"the archive's folder cannot be made: {os.strerror(failed)}")

    def segments(self) -> list[Segment]:
        """Return the segments, by recording and number. Of a spool and its Parquet file, only the latter counts.

        :raises FileNotFoundError: there is neither an archive nor a spool of it.
        :raises OSError: the folder cannot be read.
        """
        found: dict[tuple[str, int], Segment] = {}
        self.strangers = []
        for file, is_spool in sorted(self._files(), key=lambda each: each[1], reverse=True):
            match = _SEGMENT.fullmatch(file)
            recording = unquoted(match["name"]) if match else None
            if match is None or recording is None:
                if file.rpartition(".")[2] in (PARQUET, SPOOL, DAMAGED):
                    self.strangers.append(file)
                continue
            segment = Segment(recording, int(match["number"]), match["form"], is_spool)
            known = found.get((recording, segment.number))
            if known is None or known.form == SPOOL:
                found[recording, segment.number] = segment
        return sorted(found.values())

    def _files(self) -> Iterator[tuple[str, bool]]:
        infos: list[Any] = []
        missing, failed = False, None
        try:
            infos = self.filesystem.get_file_info(pafs.FileSelector(self.folder))
        except FileNotFoundError:
            missing = True
        except OSError as error:
            failed = error.errno or errno.EIO
        for info in infos:
            name = info.base_name
            if info.type is pafs.FileType.File and not name.startswith("."):
                yield name, False
            elif not name.startswith(".") and name.rpartition(".")[2] in (PARQUET, SPOOL):
                self.strangers.append(name)  # a folder, as other engines write
        if not self.is_local:
            with suppress(FileNotFoundError):
                for path in self.spools.iterdir():
                    if path.suffix == f".{SPOOL}" and not path.name.startswith("."):
                        missing = False
                        yield path.name, True
        if failed is not None:  # raised here, since the error itself quotes the address
            raise OSError(failed, f"the archive's folder cannot be read: {os.strerror(failed)}")
        if missing:
            raise FileNotFoundError("there is no archive at this location")

    def open(self, segment: Segment) -> Any:
        """Open a segment's file for reading, with random access."""
        if segment.is_local_spool:
            return pafs.LocalFileSystem().open_input_file(str(self.spools / segment.file))
        return self.filesystem.open_input_file(self.path(segment.file))

    def sha256(self, segment: Segment) -> str:
        """Return the SHA-256 of a segment's file, in hex digits."""
        digest = hashlib.sha256()
        with self.open(segment) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    def publish(self, made: Path, segment: Segment) -> None:
        """Move a local file into the archive under its segment's name, whole or not at all.

        A local archive renames the file. Another file system receives a copy, and *made* is removed when the copy has
        its length.

        :raises FileExistsError: another recorder has written a segment under this name. It stays as it is.
        :raises OSError: the file could not be moved. *made* then still exists.
        """
        path = self.path(segment.file)
        if self.filesystem.get_file_info(path).type is not pafs.FileType.NotFound:
            with made.open("rb") as file:
                is_same = hashlib.file_digest(file, "sha256").hexdigest() == self.sha256(segment)
            if not is_same:
                raise FileExistsError(errno.EEXIST, "another recorder has written this segment: run archive repair")
            made.unlink()  # an earlier attempt has arrived, and its answer was lost
            return
        if self.is_local:
            made.replace(path)
            sync_folder(Path(path).parent)
            return
        aside = path if self.filesystem.type_name in _APPEARS_WHOLE else self.path(f".{segment.file}.partial")
        try:
            with made.open("rb") as source, self.filesystem.open_output_stream(aside) as out:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
            if self.filesystem.get_file_info(aside).size != made.stat().st_size:
                raise OSError(errno.EIO, "the upload is incomplete")
        except OSError:
            # To close a stream after an error may complete a part of the file.
            with suppress(OSError):
                self.filesystem.delete_file(aside)
            raise
        if aside != path:
            self.filesystem.move(aside, path)
        made.unlink()


def place_of(location: str | Path, filesystem: pafs.FileSystem | None = None, spool: str | Path | None = None) -> Place:
    """Return where an archive lies.

    :param location: a local folder, an address such as ``s3://bucket/folder``, or a path in *filesystem*.
    :param filesystem: the file system of *location*, or None to tell it from *location*.
    :param spool: the local folder of the spools, or None for the default: the archive itself if it is local, else a
        folder of its own below ``FRAMESEAL_SPOOL`` or ``~/.local/state/frameseal/spool``. Name one for each of two
        servers on which the same path exists.
    :raises TypeError: *location* is neither a str nor a Path, or *filesystem* no file system of Arrow.
    :raises ValueError: *location* is empty, or an address that Arrow does not support.
    """
    if not isinstance(location, str | os.PathLike):
        raise TypeError(f"location must be a str or a Path, not {type(location).__name__}")
    text = os.fspath(location)
    if not isinstance(text, str):
        raise TypeError("location must be a str or a Path, not a path of bytes")
    if not utf8("location", text):
        raise ValueError("location must not be empty")
    if spool is not None and not isinstance(spool, str | os.PathLike):
        raise TypeError(f"spool must be a str or a Path, not {type(spool).__name__}")
    if filesystem is not None and not isinstance(filesystem, pafs.FileSystem):
        raise TypeError(f"filesystem must be a pyarrow.fs.FileSystem, not {type(filesystem).__name__}")
    if filesystem is not None:
        folder, known = text, f"{filesystem.type_name}:{getattr(filesystem, 'region', '')}:{text}"
    elif re.match(r"[a-z][a-z0-9+.-]+://", text):
        # The error would quote the address, which may hold a secret key.
        failed = False
        try:
            filesystem, folder = pafs.FileSystem.from_uri(text)
        except Exception:
            failed = True
        if failed or filesystem is None:
            raise ValueError("location must be a folder, or an address that pyarrow.fs supports, such as s3://bucket/x")
        parts = urlsplit(text)
        known = f"{parts.scheme}:{parts.hostname}:{parts.path}:{_endpoint(parts.query)}"
    else:
        filesystem, folder, known = pafs.LocalFileSystem(), str(Path(text).absolute()), ""
    if isinstance(filesystem, pafs.LocalFileSystem):
        folder = str(Path(folder).absolute())
        # A local folder is renamed into, which works within one file system only.
        return Place(filesystem, folder, Path(folder))
    if spool is None:
        root = os.environ.get("FRAMESEAL_SPOOL") or Path.home() / ".local/state/frameseal/spool"
        spool = Path(root) / hashlib.sha256(known.rstrip("/").encode()).hexdigest()[:32]
    return Place(filesystem, folder.rstrip("/"), Path(spool).absolute())


def _endpoint(query: str) -> str:
    return next((part for part in query.split("&") if part.startswith("endpoint_override=")), "")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system allows it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def numbers_missing(segments: list[Segment]) -> list[Segment]:
    """Return the segments that must have existed: the numbers between 0 and the last of each recording."""
    numbers: dict[str, set[int]] = {}
    for segment in segments:
        numbers.setdefault(segment.recording, set()).add(segment.number)
    return [
        Segment(recording, number, PARQUET)
        for recording, held in numbers.items()
        # A number is written with 8 digits, and a stranger may choose the highest: report one number for each hole.
        for number in sorted({each - 1 for each in held if each} - held)
    ]


def missing_error(segment: Segment) -> ArchiveError:
    """Return the error for a segment that is not there, though a later one is."""
    return ArchiveError(segment.file, "the segment is missing: it was removed or renamed")
