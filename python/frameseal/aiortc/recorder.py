"""`Recorder`: passes sealed frames to a writer in a thread of its own, so that a slow disk never stalls the call.

The queue between the call and the thread is bounded. A frame that does not fit, or that the writer cannot write, is
counted and reported. The next frame of its track then says that frames are missing before it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from frameseal._fork import call_in_child, renew_in_child
from frameseal._secrecy import require, require_seconds
from frameseal.emitter import LoopEmitter
from frameseal.enums import Profile
from frameseal.events import RECORDING_LOSS, LossReason, RecordingLoss

if TYPE_CHECKING:
    from types import TracebackType

    from frameseal.archive import SealedFrame

__all__ = ["FrameWriter", "Recorder", "RecorderCounters"]

MAX_QUEUE_BYTES: Final = 64 << 20  # 20 seconds of ten participants in 720p
FRAME_COST: Final = 512  # bytes of a queued frame beside its data
LOSS_INTERVAL: Final = 5.0  # seconds between two reports of one reason
CLOSE_TIMEOUT: Final = 10.0  # seconds

_logger = logging.getLogger("frameseal")


class FrameWriter(Protocol):
    """A writer of sealed frames, such as `frameseal.archive.ArchiveWriter`."""

    def write(self, frame: SealedFrame, /) -> None:
        """Write one frame. It runs in the recorder's thread, and may block.

        :raises OSError: the frame cannot be written now. The next frame is tried again.
        :raises ValueError: the frame is refused.
        """


@dataclass
class RecorderCounters:
    """Counts the frames of one recorder since it was made."""

    written: int = 0
    """Frames that the writer accepted."""
    dropped: int = 0
    """Frames that did not fit into the queue, because the writer was too slow."""
    failed: int = 0
    """Frames that the writer could not write, such as on a full disk."""
    refused: int = 0
    """Frames that nothing shows to be sealed in the profile's format, and frames that the writer refused."""
    incomplete: int = 0
    """Frames whose first packets were lost."""
    unidentified: int = 0
    """Frames of a receiver whose participant was not known."""
    gaps: int = 0
    """Recorded frames before which frames are missing."""


class Recorder(LoopEmitter):
    """Records the sealed frames of one connection or call. `record`, `tee_all` and ``attach(tee=...)`` make it.

    It has no key. Use it as a context manager, or call `close` before the writer is closed. It does not close the
    writer. In a forked child it records nothing, since the recording belongs to the parent.

    Emits ``"recording-loss"``, `RecordingLoss`: frames were lost. One event reports each reason at once, and then at
    most every 5 s.
    """

    _ready: threading.Condition

    def __init__(
        self, writer: FrameWriter, profile: Profile | str, *, decodes: bool, max_queue_bytes: int = MAX_QUEUE_BYTES
    ) -> None:
        """Use `record`, `tee_all` or `attach`."""
        require("writer", writer, "write", "a writer of sealed frames, such as frameseal.archive.ArchiveWriter")
        # An import here, because the extra `archive` is not installed everywhere.
        from frameseal.archive import SealedFrame  # noqa: PLC0415

        super().__init__()
        self.make_row: Final = SealedFrame
        self.profile: Final = Profile(profile)
        self.decodes: Final = decodes
        self._writer = writer
        self._max_queue_bytes = max_queue_bytes
        self._queue: deque[SealedFrame] = deque()
        self._queue_bytes = 0
        self._held_frames = 0
        self._is_closed = False
        self._lost_tracks: set[tuple[str, str]] = set()  # in the writer's thread: frames are missing in the archive
        self._unreported: dict[LossReason, int] = {}
        self._last_report: dict[LossReason, float] = {}
        self._counters = RecorderCounters()
        # One reading of the wall clock, which somebody may set during the call. The monotonic clock counts from there.
        self._epoch = datetime.now(UTC) - timedelta(seconds=time.monotonic())
        renew_in_child(self, _ready=threading.Condition)
        call_in_child(self, Recorder._leave_to_the_parent)
        self._thread = threading.Thread(target=self._run, name="frameseal-recorder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def counters(self) -> RecorderCounters:
        """A snapshot of the counters."""
        with self._ready:
            return replace(self._counters)

    @property
    def closed(self) -> bool:
        """True after `close`. No more frames are recorded."""
        return self._is_closed

    def time_of(self, monotonic: float) -> datetime:
        """Return a reading of the monotonic clock as a time in UTC. It does not follow later changes of the clock."""
        return self._epoch + timedelta(seconds=monotonic)

    def offer(self, frame: SealedFrame) -> bool:
        """Queue a frame for the writer. Return False, and count the frame, if the queue is full. It never blocks."""
        cost = len(frame.sealed) + FRAME_COST
        with self._ready:
            if self._is_closed:
                return False
            if self._queue_bytes + cost <= self._max_queue_bytes:
                self._counters.gaps += frame.gap
                self._queue.append(frame)
                self._queue_bytes += cost
                self._ready.notify()
                return True
            self._counters.dropped += 1
        self.report("queue_full")
        return False

    def note(self, *, refused: int = 0, incomplete: int = 0, unidentified: int = 0) -> None:
        """Count frames that were not recorded."""
        with self._ready:
            self._counters.refused += refused
            self._counters.incomplete += incomplete
            self._counters.unidentified += unidentified
        if refused:
            self.report("not_sealed", refused)

    def note_held(self, change: int) -> None:
        """Add *change* to the number of frames that taps hold. They are lost if the recorder is closed meanwhile."""
        with self._ready:
            self._held_frames += change

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Record no more frames, and wait until the writer has the queued frames. A second call has no effect.

        ``async with`` waits without blocking the event loop.

        :param timeout: seconds to wait for a disk that stalls. The frames that are still queued then are counted as
            dropped.
        :raises ValueError: *timeout* is negative or not finite.
        :raises TypeError: *timeout* is no number.
        """
        require_seconds("timeout", timeout)
        with self._ready:
            if self._is_closed:
                return
            self._is_closed = True
            held = self._held_frames
            self._ready.notify()
        self.note(refused=held)
        atexit.unregister(self.close)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        with self._ready:
            left = len(self._queue)
            self._queue.clear()
            self._counters.dropped += left
        if left:
            self.report("queue_full", left)
        for reason in list(self._unreported):
            self._report_now(reason, None)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def report(self, reason: LossReason, frames: int = 1, error: Exception | None = None) -> None:
        """Report lost frames: at once, or together with later ones if the reason was reported a short time ago."""
        with self._ready:
            self._unreported[reason] = self._unreported.get(reason, 0) + frames
            if time.monotonic() - self._last_report.get(reason, float("-inf")) < LOSS_INTERVAL:
                return
            self._last_report[reason] = time.monotonic()
        self._report_now(reason, error)

    def _report_now(self, reason: LossReason, error: Exception | None) -> None:
        with self._ready:
            frames = self._unreported.pop(reason, 0)
        if frames:
            # The class alone: the text of an error may quote an address, which may hold credentials.
            name = None if error is None else type(error).__name__
            _logger.warning("the recording lost %d frames: %s%s", frames, reason, f" ({name})" if name else "")
            self.deliver(RECORDING_LOSS, RecordingLoss(reason, frames, name))

    def _run(self) -> None:
        while (frame := self._next()) is not None:
            self._write(frame)

    def _next(self) -> SealedFrame | None:
        """Wait for a frame. None means that the recorder is closed, and nothing is queued."""
        with self._ready:
            while not self._queue:
                if self._is_closed:
                    return None
                self._ready.wait()
            frame = self._queue.popleft()
            self._queue_bytes -= len(frame.sealed) + FRAME_COST
            return frame

    def _write(self, frame: SealedFrame) -> None:
        track = frame.participant, frame.track
        if track in self._lost_tracks and not frame.gap:
            frame = replace(frame, gap=True)
        reason: LossReason
        failure: Exception
        try:
            self._writer.write(frame)
        except ValueError as error:
            reason, failure = "refused", error
        except Exception as error:  # the thread must live: the disk may have space again
            reason, failure = "not_written", error
        else:
            self._lost_tracks.discard(track)
            with self._ready:
                self._counters.written += 1
            return
        self._lost_tracks.add(track)
        with self._ready:
            if reason == "refused":
                self._counters.refused += 1
            else:
                self._counters.failed += 1
        self.report(reason, error=failure)

    def _leave_to_the_parent(self) -> None:
        self._is_closed = True
        self._queue.clear()
        atexit.unregister(self.close)
