"""`KeylessRecording`: the archive of one call, written by somebody without a key. It counts what it writes.

Demo, meeting and `frameseal record` share it. The connections that it attaches pass no frame to a decoder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from frameseal.aiortc import Recorder, attach, tee_all
from frameseal.aiortc.protocols import PeerConnection
from frameseal.archive import ArchiveWriter, SealedFrame
from frameseal.e2ee.manager import E2EEManager
from frameseal.keys.provider import KeyProvider

__all__ = ["CannotRecord", "KeylessRecording", "Tally", "distinct_name", "fresh_id"]

OWN_ID: Final = "recorder"
KINDS: Final = ("audio", "video")


class CannotRecord(Exception):
    """The recording cannot begin. The message names the reason in one line, and quotes no address and no secret."""


@dataclass(slots=True)
class Tally:
    """Counts of a recording."""

    frames: int = 0
    sealed_bytes: int = 0
    gaps: int = 0
    seconds: float = 0.0
    lost: int = 0
    """Frames that the disk was too slow or too full for."""
    unsealed: int = 0
    """Frames that are not sealed in the profile's format. They are not archived, since they may be plaintext."""


class KeylessRecording:
    """Writes the sealed frames of the connections that it attaches into one recording of an archive.

    :param profile: the wire format of the call.
    """

    def __init__(self, profile: str) -> None:
        self.e2ee: Final = E2EEManager(KeyProvider(), profile)
        """A manager without a key, for adapters that attach connections themselves."""
        self.recorder: Recorder | None = None
        self._writer: ArchiveWriter | None = None
        self._tally = Tally()
        self._started = 0.0
        self._interrupted: dict[tuple[str, str], datetime] = {}  # when, by participant and kind

    async def start(self, location: str, recording: str, *, segment_seconds: float = 300.0) -> None:
        """Open the archive, and record what arrives from now on.

        :param location: as for `frameseal.archive.ArchiveWriter`.
        :raises CannotRecord: the archive cannot be written.
        """
        self._writer = await asyncio.to_thread(_opened, location, recording, segment_seconds)
        self._started = time.monotonic()
        self.recorder = tee_all(self.e2ee, self, decode=False)

    def attach(self, pc: PeerConnection, participant: str) -> None:
        """Record what a connection receives, as frames of *participant*. What the connection would send is dropped."""
        attach(pc, self.e2ee, local_id=OWN_ID, remote_id=participant)

    def interrupted(self, participant: str) -> None:
        """Note that frames of a participant are missing before the next one that arrives: the connection was lost."""
        if self.recorder is not None:
            now = self.recorder.time_of(time.monotonic())
            self._interrupted.update(((participant, kind), now) for kind in KINDS)

    def write(self, frame: SealedFrame) -> None:
        """Write a frame into the archive. The recorder calls it, in its own thread.

        :raises OSError: the frame cannot be written.
        :raises ValueError: the frame is refused.
        """
        assert self._writer is not None  # noqa: S101 - a recorder exists after `start`
        place = frame.participant, frame.kind
        interrupted = self._interrupted.get(place)
        # Frames that arrived earlier may still have been queued.
        if interrupted is not None and frame.arrival >= interrupted:
            del self._interrupted[place]
            frame = replace(frame, gap=True)
        self._writer.write(frame)
        self._tally.frames += 1
        self._tally.sealed_bytes += len(frame.sealed)
        self._tally.gaps += frame.gap

    @property
    def tally(self) -> Tally:
        """A snapshot of the counts."""
        if self.recorder is None:
            return Tally()
        counters = self.recorder.counters
        seconds = self._tally.seconds or time.monotonic() - self._started
        return replace(self._tally, seconds=seconds, lost=counters.dropped + counters.failed, unsealed=counters.refused)

    async def close(self) -> str | None:
        """Write everything, and close the archive. Return why the archive is incomplete, or None if it is complete."""
        if self.recorder is None or self._writer is None:
            return None
        await asyncio.to_thread(self.recorder.close)
        self._tally.seconds = time.monotonic() - self._started
        try:
            await asyncio.to_thread(self._writer.close)
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            return f"{_reason(cause)}. What the spool holds is safe: run frameseal archive repair"
        return None


def fresh_id(name: str) -> str:
    """Return the id of a new recording: *name* and the time in UTC. It has letters, digits and hyphens only."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:80] or 'room'}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def distinct_name(name: str, unique_id: str, taken: set[str]) -> str:
    """Return the name of a participant in the recording: *name*, with the id if somebody present has the name too."""
    return name if name and name not in taken else f"{name} ({unique_id})" if name else unique_id


def _opened(location: str, recording: str, segment_seconds: float) -> ArchiveWriter:
    try:
        return ArchiveWriter(location, recording, segment_seconds=segment_seconds)
    except (BlockingIOError, ValueError) as error:  # their messages are ours
        reason = str(error)
    except OSError as error:
        reason = _reason(error)
    # Raised outside the handler, since the errors of a file system quote the address.
    raise CannotRecord(f"the archive cannot be written: {reason}")


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO)
