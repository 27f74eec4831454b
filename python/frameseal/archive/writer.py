"""Writes an archive, without a key: a spool that loses at most a second, and segments in Parquet.

Two threads stand behind a writer. One writes the rows of the last half second to the spool. The other turns full
spools into Parquet and moves them into the archive, so that a slow server stalls no frame.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Final

import pyarrow as pa
import pyarrow.fs as pafs

from frameseal._fork import call_in_child, renew_in_child
from frameseal._native import Decryptor, KeyRing
from frameseal.archive.places import DAMAGED, PARQUET, SPOOL, Place, Segment, place_of, quoted
from frameseal.archive.reader import segment_batches
from frameseal.archive.schema import ArchiveError, SealedFrame, UnsealedFrame, batch_of
from frameseal.archive.spool import RecordingLock, SpoolWriter, spool_batches, write_parquet

FLUSH_SECONDS: Final = 0.5  # half of what a kill may cost, so that a busy machine keeps the promise of a second
BUFFER_BYTES: Final = 4 << 20  # a batch of the spool is written earlier than after FLUSH_SECONDS if it is that long
ROW_BYTES: Final = 200  # a row's size beside its frame, for the size of buffer and segment
FIRST_RETRY: Final = 1.0  # seconds until a failed conversion or upload is tried again
MAX_RETRY: Final = 60.0  # the delay doubles up to this

_logger = logging.getLogger("frameseal")


class ArchiveWriter:
    """Writes the sealed frames of one recording into an archive. All methods may be called from any thread.

    A process that is killed loses at most the frames of the last second. The next writer of the recording, and
    `frameseal archive repair`, turn the spool that it left into a segment. Until then every reader reads the spool.
    One process at a time writes a recording.

    :param location: a local folder, an address such as ``s3://bucket/folder``, or a path in *filesystem*. The folder is
        made if it does not exist.
    :param recording: the id of the recording. A recording that exists is continued: the first frame of each track that
        it has is marked with a gap, since nobody recorded meanwhile.
    :param segment_seconds: the duration after which a segment is complete.
    :param segment_bytes: the size of a spool at which its segment is complete.
    :param filesystem: the Arrow file system of *location*, or None to tell it from *location*.
    :param spool: the local folder of the spool, for archives that are not local. By default it is a folder of
        its own below ``FRAMESEAL_SPOOL`` or ``~/.local/state/frameseal/spool``. It must outlive a restart.
    :raises TypeError, ValueError: an argument is of another type, or out of its range.
    :raises BlockingIOError: somebody else writes this recording.
    :raises OSError: a folder or a file cannot be made.
    """

    _lock: AbstractContextManager[bool]

    def __init__(
        self,
        location: str | Path,
        recording: str,
        *,
        segment_seconds: float = 300.0,
        segment_bytes: int = 256 << 20,
        filesystem: pafs.FileSystem | None = None,
        spool: str | Path | None = None,
    ) -> None:
        for name, value in (("segment_seconds", segment_seconds), ("segment_bytes", segment_bytes)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
            if not value > 0:
                raise ValueError(f"{name} must be above 0")
        self.recording = recording
        self._segment_seconds, self._segment_bytes = segment_seconds, segment_bytes
        quoted(recording)
        self._place = place_of(location, filesystem, spool)
        self._place.make()
        self._rows: list[SealedFrame] = []
        self._unwritten: list[pa.RecordBatch] = []
        self._row_bytes = 0
        # Tracks of which a frame was refused, or that were recorded before this writer.
        self._lost: set[tuple[str, str]] = set()
        self._openers: dict[tuple[str, str], Decryptor] = {}
        self._spool: SpoolWriter | None = None
        self._started = 0.0
        self._warned = False
        self._is_closed = self._is_forked = False
        renew_in_child(self, _lock=threading.RLock)
        self._held = RecordingLock(self._place.spools / f".{quoted(recording)}.lock")
        call_in_child(self, ArchiveWriter._leave_to_the_parent)
        try:
            remove_half_made(self._place, recording)
            earlier = [each for each in self._place.segments() if each.recording == recording]
            self._number = max((each.number for each in earlier), default=-1) + 1
            for segment in earlier:
                self._lost |= _tracks_of(self._place, segment)
            self._open_spool()
        except BaseException:
            self._held.release()
            raise
        self._sealer = _Sealer(self._place)
        for segment in earlier:
            if segment.form == SPOOL:
                self._sealer.add(segment, is_final=False)
        self._stop = threading.Event()
        self._flusher = threading.Thread(target=self._flush_often, name="frameseal-archive", daemon=True)
        self._flusher.start()

    def write(self, frame: SealedFrame) -> None:
        """Append a frame. It reaches the spool within a second, or when this returns if the buffer is full.

        A frame that is refused is not in the archive, and the next frame of its track is marked with a gap.

        :raises UnsealedFrame: the frame is not empty and not sealed in its profile's format.
        :raises TypeError, ValueError: *frame* is no `SealedFrame`, or its profile or codec is unknown.
        :raises OSError: the disk is full, or failed. Frames are accepted again when it can be written to.
        :raises ValueError: the writer is closed.
        :raises RuntimeError: the process was forked: the recording belongs to the parent.
        """
        if not isinstance(frame, SealedFrame):
            raise TypeError(f"frame must be a SealedFrame, not {type(frame).__name__}")
        with self._lock:
            self._check_open()
            track = (frame.participant, frame.track)
            try:
                key_id = self._key_id(frame)
                if self._row_bytes >= BUFFER_BYTES:
                    self.flush()
            except (OSError, ValueError):
                self._lost.add(track)
                raise
            if frame.key_id != key_id or track in self._lost:
                frame = replace(frame, key_id=key_id, gap=frame.gap or track in self._lost)
                self._lost.discard(track)
            self._rows.append(frame)
            self._row_bytes += len(frame.sealed) + ROW_BYTES

    def flush(self) -> None:
        """Write all frames to the spool. A kill of the process does not lose them any more.

        :raises OSError: the disk is full, or failed. The frames are kept, and written later.
        :raises ValueError: the writer is closed.
        :raises RuntimeError: the process was forked: the recording belongs to the parent.
        """
        with self._lock:
            self._check_open()
            self._flush()

    def close(self) -> None:
        """Write everything, mark the recording as closed, and complete the archive. A second call has no effect.

        :raises OSError: the archive could not be completed. Nothing is lost that was in the spool: a later writer of
            the recording, or ``frameseal archive repair``, completes it.
        """
        if self._is_forked:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._stop.set()
            failure: Exception | None = None
            try:
                self._flush()
            except OSError as error:  # a full disk must not leave threads and locks behind
                failure = error
            spool, self._spool = self._spool, None
            if spool is not None:
                with suppress(OSError):
                    spool.close()
                self._sealer.add(self._segment(), is_final=failure is None)
        self._flusher.join()
        self._sealer.close()
        self._held.release()
        failure = failure or self._sealer.failure
        if failure is not None:
            raise OSError("the archive is incomplete, its spool is kept: run frameseal archive repair") from failure

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(segment {self._number})"

    def _check_open(self) -> None:
        if self._is_forked:
            raise RuntimeError("this process was forked, and the recording belongs to its parent: make a new writer")
        if self._is_closed:
            raise ValueError("the writer is closed")

    def _leave_to_the_parent(self) -> None:
        self._is_forked = True
        self._rows, self._unwritten = [], []
        self._held.release()
        if self._spool is not None:
            self._spool.abandon()

    def _key_id(self, frame: SealedFrame) -> int | None:
        """Return the key id that the frame's bytes name, or None if it is empty.

        :raises UnsealedFrame: the bytes name none.
        """
        if not frame.sealed:
            return None
        opener = self._openers.get((frame.profile, frame.codec))
        if opener is None:
            opener = self._openers[frame.profile, frame.codec] = Decryptor(KeyRing(frame.profile), frame.codec)
        key_id = opener.key_id_of(frame.sealed)
        if key_id is None:
            raise UnsealedFrame("the frame is not sealed in the format of its profile, and may be plaintext")
        return key_id

    def _segment(self) -> Segment:
        return Segment(self.recording, self._number, SPOOL, not self._place.is_local)

    def _open_spool(self) -> None:
        self._spool = SpoolWriter(self._place.spools / self._segment().file)
        self._started = time.monotonic()

    def _flush(self) -> None:
        if self._rows:
            # Kept as a batch: on a full disk each frame that is refused tries to write it again.
            self._unwritten.append(batch_of(self.recording, self._rows))
            self._rows = []
        if self._unwritten:
            if self._spool is None:  # the disk was full when the last segment ended
                self._open_spool()
            assert self._spool is not None  # noqa: S101
            while self._unwritten:
                self._spool.write(self._unwritten[0])
                del self._unwritten[0]
            self._row_bytes = 0
        spool = self._spool
        if spool is None or spool.length < self._segment_bytes:
            age = time.monotonic() - self._started
            if spool is None or age < self._segment_seconds:
                return
        self._rotate(spool)

    def _rotate(self, spool: SpoolWriter) -> None:
        self._spool = None
        segment = self._segment()
        self._number += 1
        try:
            spool.close()  # a full disk leaves the stream without its end, which readers accept
        finally:
            self._sealer.add(segment, is_final=False)
        self._open_spool()

    def _flush_often(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                with self._lock:
                    if self._is_closed:
                        return
                    self._flush()
                self._warned = False
            except Exception as error:  # the thread must live, since the next flush may succeed
                if not self._warned:
                    _logger.warning("the recording cannot be written, and is tried again: %s", _reason(error))
                self._warned = True


class _Sealer:
    """Turns the spools of one recording into segments, in order, in a thread of its own.

    A segment holds the SHA-256 of the one before, so a spool that fails keeps the later ones waiting.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._waiting: SimpleQueue[tuple[Segment, bool] | None] = SimpleQueue()
        self._closing = threading.Event()
        self.failure: Exception | None = None
        self._previous: str | None = None
        self._thread = threading.Thread(target=self._run, name="frameseal-archive-sealer", daemon=True)
        self._thread.start()

    def add(self, segment: Segment, *, is_final: bool) -> None:
        """Add a spool that is complete. *is_final* is True if the recording was closed behind it."""
        self._waiting.put((segment, is_final))

    def close(self) -> None:
        """Convert all spools that wait, and end the thread.

        From now on a spool that fails is not tried again. `failure` then holds the reason.
        """
        self._closing.set()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self.failure is None and (item := self._waiting.get()) is not None:
            self._seal(*item)

    def _seal(self, segment: Segment, is_final: bool) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                self._previous = seal_spool(self._place, segment, previous=self._previous, is_final=is_final)
                return
            except Exception as error:  # the thread must live, since the next attempt may succeed
                if self._closing.is_set():
                    self.failure = error
                    return
                _logger.warning("%s stays in the spool, and is tried again: %s", segment.file, _reason(error))
                self._closing.wait(delay)
                delay = min(2 * delay, MAX_RETRY)


def _tracks_of(place: Place, segment: Segment) -> set[tuple[str, str]]:
    """Return the tracks of a segment by participant and track, as far as it can be read.

    A reader learns of a segment that is damaged by itself. It must not keep a recorder from recording.
    """
    found: set[tuple[str, str]] = set()
    with suppress(ArchiveError, OSError):
        names = ("recording", "participant", "track")
        for batch in segment_batches(place, segment, columns=names, report=lambda error: None):
            pairs = pa.table(batch.select(["participant", "track"])).group_by(["participant", "track"]).aggregate([])
            found |= set(zip(*(pairs[name].to_pylist() for name in ("participant", "track")), strict=True))
    return found


def remove_half_made(place: Place, recording: str) -> None:
    """Remove the files that a killed recorder has left half made, and spools that are segments already.

    A spool whose number another machine's recorder has used meanwhile moves to the next free number. The caller holds
    the recording's lock.
    """
    for partial in place.spools.glob(f".{quoted(recording)}.*.partial"):
        partial.unlink()
    own = [segment for segment in place.segments() if segment.recording == recording]
    number = max((segment.number for segment in own), default=-1) + 1
    for segment in own:
        spool = replace(segment, form=SPOOL, is_local_spool=not place.is_local)
        path = place.spools / spool.file
        if segment.form != PARQUET or not path.exists():
            continue
        (stored, is_segment_whole), (held, is_spool_whole) = _digest(place, segment), _digest(place, spool)
        if stored == held and is_segment_whole:
            # The recorder was killed after the segment had appeared, and before its spool was removed.
            if is_spool_whole:
                path.unlink()
            else:
                path.rename(path.with_suffix(f".{DAMAGED}"))
        else:
            path.rename(place.spools / replace(spool, number=number).file)
            number += 1


def _digest(place: Place, segment: Segment) -> tuple[str, bool]:
    """Return a digest of a segment's frames, and True if it can be read to its end."""
    digest = hashlib.sha256()
    try:
        for batch in segment_batches(place, segment):
            for sealed in batch.column("sealed"):
                digest.update(sealed.as_buffer())
    except ArchiveError:
        return digest.hexdigest(), False
    return digest.hexdigest(), True


def seal_spool(
    place: Place,
    segment: Segment,
    *,
    previous: str | None = None,
    is_final: bool = False,
) -> str:
    """Turn a spool into a segment of the archive, and remove the spool. Return the SHA-256 of the segment.

    The segment appears in the archive whole or not at all, and the spool is removed only then. A spool whose batches
    are damaged keeps its file: a segment with the rows before the damage stands beside it.

    :param previous: the SHA-256 of the segment before, or None to compute it from that segment's file.
    :raises OSError: the file cannot be read or written.
    """
    spool, made = place.spools / segment.file, place.spools / f".{segment.as_parquet().file}.partial"
    if previous is None:
        earlier = [
            each
            for each in place.segments()
            if each.recording == segment.recording and each.number < segment.number and each.form == PARQUET
        ]
        previous = place.sha256(earlier[-1]) if earlier else ""
    damage: ArchiveError | None = None

    def rows() -> Iterator[pa.RecordBatch]:
        nonlocal damage
        with pafs.LocalFileSystem().open_input_file(str(spool)) as source:
            try:
                yield from spool_batches(spool.name, source, segment.recording)
            except ArchiveError as error:
                damage = error

    digest, _ = write_parquet(
        made,
        rows(),
        number=segment.number,
        previous=previous,
        is_final=is_final and damage is None,
    )
    place.publish(made, segment.as_parquet())
    if damage is None:
        spool.unlink()
    else:
        _logger.warning("%s", damage)
        spool.rename(spool.with_suffix(f".{DAMAGED}"))
    return digest


def _reason(error: BaseException) -> str:
    """Return what a log may say of an error: the message of the system, without addresses and names of folders."""
    if isinstance(error, ArchiveError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
