"""A video track whose pictures are all keyframes, each sent when the one before it was shown at the other end.

What a receiver drops without a word stops it: then nothing is shown any more, and the test waits in vain.
"""

import asyncio
import time
from fractions import Fraction

from support.calls import FRAME_RATE, draw, part, until

KEYFRAMES = 100
PATIENCE = 60  # seconds; the limit is for a call that is broken, not a measurement
CLOCK = 90_000  # hertz


def keyframe_track(stack: str, shown):
    """Make the track.

    :param shown: returns the pictures that the receiver was shown so far. Until the first one, before the receiver has
        subscribed, pictures are sent all the time.
    """

    class KeyframeTrack(part(stack).MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self.sender = None
            self.shown = 0
            self._number = 0
            self._start = time.monotonic()

        async def recv(self):
            await asyncio.sleep(1 / FRAME_RATE)
            await until(lambda: not shown() or self._number in {picture.number for picture in shown()}, PATIENCE)
            self.shown += bool(shown())
            self._number += 1
            frame = draw(self._number, "red", (320, 240))
            frame.pts, frame.time_base = int((time.monotonic() - self._start) * CLOCK), Fraction(1, CLOCK)
            if self.sender is not None:
                self.sender._send_keyframe()
            return frame

    return KeyframeTrack()
