"""Writes opened frames into Matroska files, one per participant, without re-encoding.

A Matroska file names its tracks before its first frame (RFC 9559, section 5.1.4). A recording shows only later which
tracks a participant has. So each track first fills a part file of its own, and the parts are joined at the end. A track
whose codec changes fills one part per codec.

libavformat's muxer turns H.264 and H.265 from start codes (Annex B) into length-prefixed units, and writes avcC or
hvcC, because the parameters of the stream come from a frame with start codes.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging

from frameseal.codecs import CODECS, CodecRow
from frameseal.tools.opening.clocks import Placed
from frameseal.tools.text import printable

TIME_BASE = Fraction(1, 1000)  # Matroska's, as libavformat writes it
PARTS = ".parts"
MAX_NAME = 60  # characters of a participant in a file's name
RESERVED_FILES = 64  # of the files that a process may open: for the archive, the joined file and libraries
MAX_WINDOWS_FILES = 8192  # of Microsoft's C library, whose limit cannot be read

_Packets = Iterator[tuple[int, int, Any]]


class UnusableFolder(Exception):
    """The folder for the opened files cannot be used: the message says why."""


@dataclass(slots=True)
class TrackReport:
    """Counts the opened frames of one track under one codec."""

    track: str
    kind: str
    codec: str
    written: int = 0
    waited: int = 0
    """Opened pictures that no decoder could show: they came before a keyframe, or between a gap and a keyframe."""
    problem: str | None = None
    """Why the track is not in the file, or not from some frame on. None means that it is."""


@dataclass(slots=True)
class ParticipantFile:
    """The Matroska file of one participant."""

    participant: str
    path: Path
    tracks: list[TrackReport]


@dataclass(slots=True)
class _Part:
    report: TrackReport
    path: Path
    container: Any = None
    stream: Any = None
    decoder: Any = None
    needs_keyframe: bool = True
    last: int = 0


class Recordings:
    """Writes the frames of all participants into a folder. A context manager: leaving it removes the part files."""

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        """Prepare the folder.

        :raises UnusableFolder: it is no folder, cannot be made, or has files and *overwrite* is False.
        """
        self._folder = folder
        self._parts_folder = folder / PARTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A run that was killed leaves parts. They are opened media, so they go in any case.
            shutil.rmtree(self._parts_folder, ignore_errors=True)
            if not overwrite and any(folder.iterdir()):
                raise UnusableFolder("the folder for the opened files has files: pass another, or --overwrite")
            self._parts_folder.mkdir()
        except OSError as error:
            problem = f"the folder for the opened files cannot be used: {error.strerror}"
        else:
            problem = ""
        if problem:
            raise UnusableFolder(problem)
        self._parts: dict[tuple[str, str, str], _Part] = {}
        self._open_files = 0
        self._level = av.logging.get_level()

    def __enter__(self) -> Recordings:
        """Return itself. libavformat's own log lines are silenced meanwhile: they name no participant."""
        av.logging.set_level(av.logging.PANIC)
        return self

    def __exit__(self, *exc: object) -> None:
        """Close and remove the part files."""
        for part in self._parts.values():
            with contextlib.suppress(OSError, ValueError):
                _close(part)
        shutil.rmtree(self._parts_folder, ignore_errors=True)
        av.logging.set_level(self._level)

    def write(self, placed: Placed) -> None:
        """Write one frame, or note that it is missing.

        :raises OSError: the disk is full, or the folder cannot be written.
        """
        frame = placed.frame
        key = (frame.participant, frame.track, frame.codec)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(
                TrackReport(frame.track, frame.kind, frame.codec), self._parts_folder / f"{len(self._parts)}.mkv"
            )
            if frame.codec not in CODECS:
                part.report.problem = "unknown codec"
        if part.report.problem is not None:
            return
        row = CODECS[frame.codec]
        if frame.gap or frame.frame is None:
            part.needs_keyframe = True
        if not frame.frame:  # an empty frame says that the sender is silent
            return
        is_keyframe = row.ticks is not None or row.is_keyframe(frame.frame)
        if part.needs_keyframe and not is_keyframe:
            part.report.waited += 1
            return
        try:
            if part.container is None:
                if self._open_files >= (most := _max_files() - RESERVED_FILES):
                    part.report.problem = (
                        f"there are more than {most} tracks: raise the limit of open files (ulimit -n)"
                    )
                    return
                if not _begin(part, row, frame.frame):
                    part.report.waited += 1
                    return
                self._open_files += 1
            self._mux(part, row, frame.frame, placed.time, is_keyframe)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            part.report.problem = "the muxer refuses its frames"
        else:
            part.needs_keyframe = False
            part.report.written += 1

    def _mux(self, part: _Part, row: CodecRow, data: bytes, time: int, is_keyframe: bool) -> None:
        if part.decoder is not None:
            packet = av.Packet(data)
            data = b"".join(bytes(sound.planes[0])[: 2 * sound.samples] for sound in part.decoder.decode(packet))
        packet = av.Packet(data)
        packet.stream = part.stream
        packet.time_base = TIME_BASE
        part.last = max(part.last, (time + 500) // 1000)
        packet.pts = packet.dts = part.last
        packet.is_keyframe = is_keyframe
        part.container.mux_one(packet)

    def finish(self, start: datetime | None) -> list[ParticipantFile]:
        """Join the parts, and return the file of each participant, in the order in which they appeared.

        A participant without a single written frame has no file: its `path` does not exist.

        :param start: the time at which the time line begins, for the file's date.
        :raises OSError: the disk is full, or the folder cannot be written.
        """
        by_participant: dict[str, list[_Part]] = {}
        for (participant, _, _), part in self._parts.items():
            by_participant.setdefault(participant, []).append(part)
            _close(part)
        names = file_names(by_participant)
        files = []
        for participant, parts in by_participant.items():
            path = self._folder / f"{names[participant]}.mkv"
            full = [part for part in parts if part.report.written]
            # Pictures first: players show the first picture and play the first sound.
            full.sort(key=lambda part: part.report.kind != "video")
            if full:
                joined = self._parts_folder / "joined.mkv"
                _join(full, joined, participant, start)
                joined.replace(path)
            for part in full:
                part.path.unlink()
            files.append(ParticipantFile(participant, path, [part.report for part in parts]))
        return files


def _max_files() -> int:
    """Return how many files this process may open."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return MAX_WINDOWS_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _begin(part: _Part, row: CodecRow, data: bytes) -> bool:
    """Open the part file. Return False if a decoder could not start at the frame."""
    if row.linear_decoder is not None:
        part.container = av.open(str(part.path), "w", format="matroska")
        part.stream = part.container.add_stream("pcm_s16le", rate=row.sample_rate, layout="mono")
        part.decoder = av.CodecContext.create(row.linear_decoder, "r")
        part.decoder.sample_rate, part.decoder.layout = row.sample_rate, "mono"
    elif row.demuxer is None:
        part.report.problem = "no file can hold the codec"
        return False
    else:
        try:
            template = av.open(io.BytesIO(row.as_file(data)), format=row.demuxer)
        except (av.error.InvalidDataError, av.error.EOFError):
            return False
        with template:
            stream: Any = template.streams[0]
            if stream.type == "video" and not stream.width:
                return False
            part.container = av.open(str(part.path), "w", format="matroska")
            part.stream = _copied(part.container, stream)
    return True


def _copied(container: Any, template: Any) -> Any:
    """Return a new stream with the parameters of *template*. PyAV 14 has a method of its own for it.

    PyAV opens a codec for each stream, although no frame passes through it: without `opaque` an encoder.
    """
    if hasattr(container, "add_stream_from_template"):
        return container.add_stream_from_template(template, opaque=True)
    return container.add_stream(template=template)


def _close(part: _Part) -> None:
    if part.container is not None:
        container, part.container = part.container, None
        container.close()


def _join(parts: list[_Part], path: Path, participant: str, start: datetime | None) -> None:
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(av.open(str(part.path), format="matroska")) for part in parts]
        out = stack.enter_context(av.open(str(path), "w", format="matroska"))
        out.metadata["title"] = printable(participant)
        if start is not None:
            out.metadata["creation_time"] = start.isoformat()
        streams = []
        for source, part in zip(sources, parts, strict=True):
            stream = _copied(out, source.streams[0])
            stream.metadata["title"] = printable(part.report.track)
            streams.append(stream)
        for _, index, packet in heapq.merge(
            *(_packets(index, source) for index, source in enumerate(sources)), key=itemgetter(0)
        ):
            packet.stream = streams[index]
            out.mux_one(packet)


def _packets(index: int, source: Any) -> _Packets:
    for packet in source.demux(source.streams[0]):
        if packet.dts is not None:
            yield packet.dts, index, packet


def file_names(participants: Any) -> dict[str, str]:
    """Return a file name without suffix for each participant.

    Participants name themselves. So every character but letters, digits, ``-`` and ``_`` is replaced, and a name that
    was changed, or that a file system may take for another's, gets a piece of the SHA-256 of the participant's id.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for participant in participants:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", participant)[:MAX_NAME].lstrip("-") or "_"
        is_device = re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", name)  # names of devices on Windows
        if name != participant or is_device or name.lower() in taken:
            digest = hashlib.sha256(participant.encode("utf-8", "surrogatepass")).hexdigest()
            # More digits if somebody has chosen a name that ends with another's digest.
            lengths = range(8, len(digest) + 1)
            name = next(made for length in lengths if (made := f"{name}-{digest[:length]}").lower() not in taken)
        taken.add(name.lower())
        names[participant] = name
    return names
