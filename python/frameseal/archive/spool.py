"""A spool: the segment that is being written, as an Arrow IPC stream, and how it becomes Parquet.

The stream has no dictionaries, so each batch is one message that is written with one call. A file that is cut anywhere
yields all batches before the cut.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from frameseal.archive.schema import NAMES, SCHEMA, SPOOL_SCHEMA, UNREADABLE, ArchiveError, check_columns, checked

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

END: Final = b"\xff\xff\xff\xff\0\0\0\0"  # the end of an IPC stream (Arrow's columnar format, "IPC Streaming Format")
ROW_GROUP_BYTES: Final = 8 << 20
ROW_GROUP_ROWS: Final = 65_536


class SpoolWriter:
    """The file of one spool, open for writing.

    :raises FileExistsError: the file exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags, 0o600)
        self.length = 0
        try:
            self._append(SPOOL_SCHEMA.serialize())
        except BaseException:
            self.abandon()
            path.unlink()
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch of `SPOOL_SCHEMA`. A kill of the process does not lose it any more.

        :raises OSError: the disk is full, or failed. The file then ends where it ended before.
        """
        self._append(batch.serialize())

    def close(self) -> None:
        """End the stream and make the file durable.

        :raises OSError: the disk is full, or failed. The file is closed, and readable without its end.
        """
        try:
            self._append(END)
            os.fsync(self._descriptor)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is. A second call has no effect."""
        self._descriptor = _closed(self._descriptor)

    def _append(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                count = os.write(self._descriptor, view[written:])
                if not count:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                written += count
        except OSError:
            # A half batch would hide all batches behind it.
            os.ftruncate(self._descriptor, self.length)
            os.lseek(self._descriptor, self.length, os.SEEK_SET)
            raise
        self.length += written


class RecordingLock:
    """The right to write one recording in a folder of spools. The system frees it when the process ends.

    The file stays: a lock on a file that was removed would protect nothing.

    :raises BlockingIOError: another process, or another writer of this process, holds it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise BlockingIOError("somebody else writes this recording: choose another id, or end that process") from (
                None
            )

    def release(self) -> None:
        """Free the lock. In a forked child the parent keeps it. A second call has no effect."""
        self._descriptor = _closed(self._descriptor)


def _closed(descriptor: int) -> int:
    """Close a descriptor, and return -1 in its place: its number may be that of another file from now on."""
    if descriptor >= 0:
        with suppress(OSError):
            os.close(descriptor)
    return -1


def spool_batches(file: str, source: Any, recording: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a spool in `SCHEMA`, up to the place where it is cut.

    :param file: the name of the spool, for messages.
    :param source: a file of Arrow with random access.
    :raises ArchiveError: the file is no spool, or a complete batch of it is damaged.
    """
    size = source.size()
    if not size:
        return  # killed before the first byte
    try:
        schema = pa.ipc.read_schema(source)
    except UNREADABLE as error:
        raise ArchiveError(file, "not a spool: it does not begin with the schema of an Arrow stream") from error
    check_columns(file, schema)
    if not schema.equals(SPOOL_SCHEMA):
        raise ArchiveError(file, "the columns are not those of a spool")
    row = 0
    while True:
        message = _next_message(file, source, size, row)
        if message is None:
            return
        try:
            batch = pa.ipc.read_record_batch(message, schema)
            rows = checked(file, batch, recording, row)
        except UNREADABLE as error:
            raise ArchiveError(file, "the batch is damaged", row) from error
        yield rows
        row += batch.num_rows


def _next_message(file: str, source: Any, size: int, row: int) -> Any:
    """Return the next message of a stream, or None at its end or where it is cut.

    :raises ArchiveError: the bytes are no message.
    """
    start = source.tell()
    head = source.read(8)
    # After a power failure the end of a file may be zeros.
    if len(head) < len(END) or head == END or not any(head):
        return None
    length = int.from_bytes(head[4:], "little", signed=True)
    if head[:4] != END[:4] or length < 0:
        raise ArchiveError(file, "the bytes are no message of an Arrow stream", row)
    if length > size - start - 8:
        return None  # no memory is allocated for a length that the file does not have
    source.seek(start)
    try:
        return pa.ipc.read_message(source)
    except UNREADABLE as error:
        # Arrow reports a body that is cut as "Expected to be able to read N bytes for message body, got M".
        if "xpected to" in str(error):
            return None
        raise ArchiveError(file, "the message is damaged", row) from error


def write_parquet(
    path: Path, batches: Iterator[pa.RecordBatch], *, number: int, previous: str, is_final: bool
) -> tuple[str, int]:
    """Write the Parquet file of a segment, durably. Return its SHA-256 in hex digits and the number of its rows.

    The memory is bounded by a row group of about 8 MiB, or one batch if that is larger.

    :param previous: the SHA-256 of the segment before, or "" for the first.
    :param is_final: True if the recording was closed behind this segment.
    """
    metadata = {
        **SCHEMA.metadata,
        b"frameseal_segment": str(number).encode(),
        b"frameseal_previous": previous.encode(),
        b"frameseal_final": b"1" if is_final else b"0",
    }
    rows = 0
    with path.open("wb") as file:
        with pq.ParquetWriter(
            file,
            SCHEMA.with_metadata(metadata),
            compression={name: "NONE" if name == "sealed" else "ZSTD" for name in SCHEMA.names},
            use_dictionary=list(NAMES),
            write_statistics=[name for name in SCHEMA.names if name != "sealed"],
        ) as writer:
            for group in _row_groups(batches):
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
                rows += group.num_rows
        file.flush()
        os.fsync(file.fileno())
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest(), rows


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    size = rows = 0
    for batch in batches:
        held.append(batch)
        size, rows = size + batch.nbytes, rows + batch.num_rows
        if size >= ROW_GROUP_BYTES or rows >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held).unify_dictionaries()
            held, size, rows = [], 0, 0
    if held:
        yield pa.Table.from_batches(held).unify_dictionaries()
