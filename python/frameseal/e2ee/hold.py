"""A queue for the frames of one track that wait for their key, limited in number and in bytes."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

# 5 s of audio, or of video at 50 frames a second.
MAX_HOLD_FRAMES: Final = 256

# 5 s of video at 6.5 Mbit/s. The limit matters: anybody can send frames that claim an unknown key id.
DEFAULT_HOLD_BYTES: Final = 4 * 1024 * 1024
MAX_HOLD_BYTES: Final = 256 * 1024 * 1024

Held = tuple[bytes, Any, bool]
"""A frame, its tag, and whether it is whole."""


class HeldFrames:
    """A queue that drops its oldest frames to stay within both limits. For one thread at a time.

    :param max_frames: the maximum number of frames, 1 or more.
    :param max_bytes: the maximum size of all frames together, in bytes.
    """

    __slots__ = ("_frames", "_max_bytes", "_max_frames", "lost", "size")

    size: int
    """The size of the waiting frames together, in bytes."""

    lost: int
    """The number of frames that were dropped to stay within the limits."""

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        """Start empty."""
        self._frames: deque[Held] = deque()
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self.size = self.lost = 0

    def __len__(self) -> int:
        """Return the number of waiting frames."""
        return len(self._frames)

    def add(self, frame: bytes, tag: Any, whole: bool) -> bool:
        """Append a frame. Returns False if a frame was dropped, this one or an older one."""
        if len(frame) > self._max_bytes:
            self.lost += 1
            return False
        self._frames.append((frame, tag, whole))
        self.size += len(frame)
        lost = self.lost
        while len(self._frames) > self._max_frames or self.size > self._max_bytes:
            self.size -= len(self._frames.popleft()[0])
            self.lost += 1
        return self.lost == lost

    def empty_copy(self) -> HeldFrames:
        """Return an empty queue with the same limits and the same count of dropped frames."""
        empty = HeldFrames(self._max_frames, self._max_bytes)
        empty.lost = self.lost
        return empty

    def pop_all(self) -> list[Held]:
        """Remove and return all frames, the oldest first."""
        frames = list(self._frames)
        self._frames.clear()
        self.size = 0
        return frames
