"""Frames of one track that wait for their key, bounded in number and in bytes."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

# 5 s of audio, or of video at 50 frames a second.
MAX_HOLD_FRAMES: Final = 256

# 5 s of video at 6.5 Mbit/s. Frames that claim an unknown key id are anybody's: a track holds no more than this.
DEFAULT_HOLD_BYTES: Final = 4 * 1024 * 1024
MAX_HOLD_BYTES: Final = 256 * 1024 * 1024

Held = tuple[bytes, Any, bool]
"""A frame, the tag that came with it, and whether it is whole."""


class HeldFrames:
    """A queue of frames that drops its oldest to stay within both limits. For one thread at a time."""

    __slots__ = ("_frames", "_max_bytes", "_max_frames", "lost", "size")

    size: int
    """Bytes of the frames that wait."""

    lost: int
    """Frames dropped to stay within the limits, since the track was made."""

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        """Start empty. *max_frames* is 1 or more."""
        self._frames: deque[Held] = deque()
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self.size = self.lost = 0

    def __len__(self) -> int:
        """Return how many frames wait."""
        return len(self._frames)

    def add(self, frame: bytes, tag: Any, whole: bool) -> bool:
        """Let a frame wait. False: a frame was lost, this one or an older one."""
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
        """Return a queue with the same limits in which nothing waits."""
        empty = HeldFrames(self._max_frames, self._max_bytes)
        empty.lost = self.lost
        return empty

    def pop_all(self) -> list[Held]:
        """Take all frames out, the oldest first."""
        frames = list(self._frames)
        self._frames.clear()
        self.size = 0
        return frames
