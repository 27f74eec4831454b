"""Reads an archive, without a key, in flat memory: segments in Parquet, and spools that recorders still write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from frameseal.archive.places import PARQUET, Place, Segment, missing_error, numbers_missing, place_of
from frameseal.archive.schema import SCHEMA, UNREADABLE, ArchiveError, check_columns, checked
from frameseal.archive.spool import spool_batches

BATCH_ROWS: Final = 8_192  # at most; a batch also ends where its row group does

FILTERED: Final = ("recording", "participant", "kind", "arrival")
"""The columns that show whether a row is wanted."""

Report = Callable[[ArchiveError], None]


def read(
    location: str | Path,
    *,
    recordings: Iterable[str] | None = None,
    participants: Iterable[str] | None = None,
    kinds: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    filesystem: pafs.FileSystem | None = None,
    spool: str | Path | None = None,
    on_error: Report | None = None,
    read_ahead: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Yield the frames of an archive in order: by recording, and within it as the recorder wrote them.

    The batches have the schema `SCHEMA`. Memory stays flat, whatever the size of the archive is. A recorder may write
    meanwhile; the batches end where its spool ends.

    :param location: as for `ArchiveWriter`, like *filesystem* and *spool*.
    :param recordings: the ids of recordings, or None for all.
    :param participants: the ids of participants, or None for all.
    :param kinds: "audio", "video", or None for both.
    :param since: the earliest arrival, with a time zone. None has no limit.
    :param until: the end of the arrivals, with a time zone. A frame that arrived at this time is not included.
    :param on_error: receives each part that cannot be read, and reading continues behind it. None raises the first.
    :param read_ahead: True to read the next batch on a second thread while the caller works on this one. Errors and
        calls of *on_error* stay in the caller's thread, and in their order. False starts no thread.
    :raises ArchiveError: a segment is damaged or missing, or a file is no segment, unless *on_error* receives it.
    :raises FileNotFoundError: there is no archive at *location*.
    :raises RuntimeError: the process was forked while the second thread read. Call `read` again in the child.
    :raises TypeError, ValueError: an argument is of another type, or a time has no time zone.
    """
    if not isinstance(read_ahead, bool):
        raise TypeError(f"read_ahead must be a bool, not {type(read_ahead).__name__}")
    wanted = {
        "participant": _names("participants", participants),
        "kind": _names("kinds", kinds),
    }
    chosen = _names("recordings", recordings)
    times = (_time("since", since), _time("until", until))
    place = place_of(location, filesystem, spool)
    segments = place.segments()
    if not read_ahead:
        return _read(place, segments, chosen, wanted, times, on_error=on_error)
    errors: list[ArchiveError] = []
    report = None if on_error is None else errors.append
    return _read_ahead(_read(place, segments, chosen, wanted, times, on_error=report), errors, on_error)


def recording_ids(
    location: str | Path, *, filesystem: pafs.FileSystem | None = None, spool: str | Path | None = None
) -> list[str]:
    """Return the ids of an archive's recordings, sorted. Only the names of the files are read.

    Recordings are independent of each other, so engines can deal them out to workers.

    :param location: as for `ArchiveWriter`, like *filesystem* and *spool*.
    :raises FileNotFoundError: there is no archive at *location*.
    :raises TypeError, ValueError: as `read` does.
    """
    return sorted({segment.recording for segment in place_of(location, filesystem, spool).segments()})


def _read(
    place: Place,
    segments: list[Segment],
    chosen: list[str] | None,
    wanted: dict[str, list[str] | None],
    times: tuple[Any, Any],
    *,
    on_error: Report | None,
) -> Iterator[pa.RecordBatch]:
    def report(error: ArchiveError) -> None:
        if on_error is None:
            raise error
        on_error(error)

    for name in place.strangers:
        report(ArchiveError(name, "not a segment of this archive: a segment is a file RECORDING.NUMBER.parquet"))
    segments = [each for each in segments if chosen is None or each.recording in chosen]
    missing = numbers_missing(segments)
    for segment in sorted([*segments, *missing]):
        try:
            if segment in missing:
                raise missing_error(segment)
            for batch in segment_batches(place, segment, wanted, times, report=report):
                chosen_rows = _filtered(batch, wanted, times)
                if chosen_rows.num_rows:
                    yield chosen_rows
        except ArchiveError as error:
            report(error)


class _Step:
    """The next batch of a reader, which a thread reads from now on.

    The thread ends with the batch. A fork leaves no thread behind in the child that would never answer.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._found: tuple[pa.RecordBatch | None, BaseException | None] | None = None
        self._thread = Thread(target=self._run, name="frameseal-archive-reader")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = next(self._batches, None), None
        except BaseException as error:  # the caller's thread raises it
            self._found = None, error

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def wait(self) -> tuple[pa.RecordBatch | None, BaseException | None]:
        """Return the batch, or None behind the last one, and the error that reading it raised.

        :raises RuntimeError: the process was forked, and the thread exists in the parent only.
        """
        self.join()
        if self._found is None:
            raise RuntimeError("this process was forked, and the thread that reads is its parent's: call read again")
        return self._found


def _read_ahead(
    batches: Iterator[pa.RecordBatch], errors: list[ArchiveError], on_error: Report | None
) -> Iterator[pa.RecordBatch]:
    """Yield batches, and read the next one meanwhile.

    :param errors: the errors that *batches* reports. They are passed to *on_error* before the batch behind them.
    """
    step = _Step(batches)
    try:
        while True:
            batch, error = step.wait()
            while errors and on_error is not None:
                on_error(errors.pop(0))
            if error is not None:
                raise error
            if batch is None:
                return
            step = _Step(batches)
            yield batch
    finally:
        step.join()


def segment_batches(
    place: Place,
    segment: Segment,
    wanted: dict[str, list[str] | None] | None = None,
    times: tuple[Any, Any] = (None, None),
    *,
    columns: Sequence[str] = SCHEMA.names,
    report: Report | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a segment in `SCHEMA`.

    :param wanted: by column, the names to read. Row groups without any of them, or outside *times*, are not read.
    :param times: the earliest arrival and the end of the arrivals, or None.
    :param columns: the columns to read, beginning with ``recording``. Parquet files are not read beyond them. A spool
        is read whole, and its batches have all columns.
    :param report: receives each row group that is damaged, and the next one follows. None raises the first.
    :raises ArchiveError: the segment is damaged, or no part of the archive.
    """
    try:
        source = place.open(segment)
    except FileNotFoundError:
        # The recorder has just turned the spool into Parquet.
        segment = segment.as_parquet()
        try:
            source = place.open(segment)
        except FileNotFoundError:
            raise missing_error(segment) from None
    with source:
        if segment.form == PARQUET:
            yield from _parquet_batches(segment, source, wanted or {}, times, columns=columns, report=report)
        else:
            yield from spool_batches(segment.file, source, segment.recording)


def open_parquet(segment: Segment, source: Any) -> pq.ParquetFile:
    """Return a segment's Parquet file.

    :raises ArchiveError: the file is truncated, or no segment of this recording and number.
    """
    try:
        file = pq.ParquetFile(source)
    except UNREADABLE as error:
        raise ArchiveError(segment.file, "not a Parquet file, or truncated: its end is missing") from error
    check_columns(segment.file, file.schema_arrow)
    number = (file.schema_arrow.metadata or {}).get(b"frameseal_segment")
    if number != str(segment.number).encode():
        raise ArchiveError(segment.file, "the segment has another number than its name: was the file renamed?")
    return file


def _parquet_batches(
    segment: Segment,
    source: Any,
    wanted: dict[str, list[str] | None],
    times: tuple[Any, Any],
    *,
    columns: Sequence[str],
    report: Report | None,
) -> Iterator[pa.RecordBatch]:
    file = open_parquet(segment, source)
    is_filtered = any(names is not None for names in (*wanted.values(), *times))

    def rows_of(group: int, row: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(names), use_threads=False)
            while (batch := next(batches, None)) is not None:
                rows = checked(segment.file, batch, segment.recording, row, names)
                yield rows
                row += batch.num_rows
        except UNREADABLE as error:
            raise ArchiveError(segment.file, "the rows are damaged or truncated", row) from error

    row = 0
    for group in range(file.num_row_groups):
        try:
            # The statistics would tell as well, but pyarrow ends the process where a footer contradicts itself.
            if not is_filtered or any(
                _filtered(batch, wanted, times).num_rows for batch in rows_of(group, row, FILTERED)
            ):
                yield from rows_of(group, row, columns)
        except ArchiveError as error:
            if report is None:
                raise
            report(error)
        row += file.metadata.row_group(group).num_rows


def _filtered(batch: pa.RecordBatch, wanted: dict[str, list[str] | None], times: tuple[Any, Any]) -> pa.RecordBatch:
    masks = []
    for name, names in wanted.items():
        if names is not None:
            column = batch.column(name)
            known = pc.is_in(column.dictionary, value_set=pa.array(names, pa.string()))
            masks.append(known.take(column.indices))
    since, until = times
    arrival = batch.column("arrival")
    if since is not None:
        masks.append(pc.greater_equal(arrival, pa.scalar(since, arrival.type)))
    if until is not None:
        masks.append(pc.less(arrival, pa.scalar(until, arrival.type)))
    if not masks:
        return batch
    kept = masks[0]
    for mask in masks[1:]:
        kept = pc.and_(kept, mask)
    return batch if pc.all(kept).as_py() else batch.filter(kept)


def _names(name: str, names: Iterable[str] | None) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str | bytes):
        raise TypeError(f"{name} must be a collection of str, not {type(names).__name__}")
    with suppress(TypeError):
        listed = list(names)
        if all(isinstance(each, str) for each in listed):
            return listed
    raise TypeError(f"{name} must be a collection of str")


def _time(name: str, moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone: use datetime.now(UTC)")
    return moment
