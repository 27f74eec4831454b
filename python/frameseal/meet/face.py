"""The bot's picture: whom it can see and hear, as which state, and the fingerprint of the key that it holds."""

from __future__ import annotations

import asyncio
import fractions
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
from aiortc import VideoStreamTrack
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 360
FRAME_RATE: Final = 12
CLOCK: Final = 90_000  # of RTP video, ticks a second
_INSET: Final = (144, 81)  # of somebody's picture
_ROWS: Final = 3  # participants that have room

_GOOD, _BAD, _PLAIN, _QUIET = (104, 219, 154), (255, 138, 128), (238, 241, 248), (158, 170, 196)


@dataclass
class Seen:
    """A participant as the bot sees them: the latest picture (av.VideoFrame) and the state of each kind."""

    name: str
    picture: Any
    states: dict[str, str]


@dataclass
class View:
    """What is drawn."""

    key_id: int
    code: str | None
    own: dict[str, str]
    seen: list[Seen]


class Painter:
    """Draws views."""

    def __init__(self) -> None:
        """Paint what never changes."""
        down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
        top, bottom = np.array([22, 28, 50], np.float32), np.array([44, 30, 66], np.float32)
        gradient = np.broadcast_to(top + (bottom - top) * down, (HEIGHT, WIDTH, 3))
        self._background = Image.fromarray(gradient.astype(np.uint8))
        self._large, self._medium, self._small = (ImageFont.load_default(size=size) for size in (26, 17, 14))

    def draw(self, view: View, seconds: float) -> Image.Image:
        """Draw a view, with a sweep that moves as long as the picture does."""
        image = self._background.copy()
        draw = ImageDraw.Draw(image)
        draw.text((24, 18), "The bot, in Python", font=self._large, fill=_PLAIN)
        self._states(draw, (24, 54), (250, 0), "I seal", view.own)
        self._sweep(draw, seconds)
        if not view.seen:
            draw.text((24, 130), "Nobody else is here.", font=self._medium, fill=_QUIET)
        for row, seen in enumerate(view.seen[:_ROWS]):
            y = 86 + row * 88
            image.paste(_inset(seen), (24, y))
            draw.text((184, y + 2), seen.name[:28], font=self._medium, fill=_PLAIN)
            self._states(draw, (184, y + 28), (0, 20), "I open", seen.states)
        if len(view.seen) > _ROWS:
            draw.text((420, 330), f"and {len(view.seen) - _ROWS} more", font=self._small, fill=_QUIET)
        key = f"key {view.key_id}" + (f"   {view.code}" if view.code else "")
        box = draw.textbbox((WIDTH - 20, 352), key, font=self._small, anchor="rs")
        draw.rectangle([box[0] - 8, box[1] - 5, box[2] + 8, box[3] + 5], fill=(12, 15, 28))
        draw.text((WIDTH - 20, 352), key, font=self._small, fill=(255, 210, 138), anchor="rs")
        return image

    def _states(
        self, draw: ImageDraw.ImageDraw, at: tuple[int, int], step: tuple[int, int], label: str, states: dict[str, str]
    ) -> None:
        (x, y), (right, down) = at, step
        for place, (kind, state) in enumerate(sorted(states.items(), reverse=True)):
            fill = _GOOD if state.endswith("Success") else _BAD
            draw.text((x + place * right, y + place * down), f"{label} {kind}: {state}", font=self._small, fill=fill)

    def _sweep(self, draw: ImageDraw.ImageDraw, seconds: float) -> None:
        centre, radius = (594, 40), 24
        angle = 2 * math.pi * (seconds / 4 % 1)
        tip = (centre[0] + (radius - 6) * math.sin(angle), centre[1] - (radius - 6) * math.cos(angle))
        draw.ellipse([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius], outline=_QUIET)
        draw.line([centre, tip], fill=(255, 210, 138), width=3)


class FaceTrack(VideoStreamTrack):
    """The bot's picture as a track."""

    def __init__(self, view: Callable[[], View]) -> None:
        """Draw what *view* returns at the time of each frame."""
        super().__init__()
        self._view = view
        self._painter = Painter()
        self._number = 0
        self._began: float | None = None

    async def recv(self) -> av.VideoFrame:
        """The next frame, when it is due."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._number / FRAME_RATE - loop.time())
        # Not on the event loop: every packet of the meeting passes there.
        image = await asyncio.to_thread(self._painter.draw, self._view(), self._number / FRAME_RATE)
        frame = av.VideoFrame.from_image(image)
        frame.pts, frame.time_base = self._number * CLOCK // FRAME_RATE, fractions.Fraction(1, CLOCK)
        self._number += 1
        return frame


def _inset(seen: Seen) -> Image.Image:
    if not isinstance(seen.picture, av.VideoFrame) or seen.states.get("video") != "DecryptionSuccess":
        image = Image.new("RGB", _INSET, (10, 12, 22))
        ImageDraw.Draw(image).text(
            (_INSET[0] // 2, _INSET[1] // 2), "no picture", font=ImageFont.load_default(size=14), fill=_QUIET, anchor="mm"
        )
        return image
    return seen.picture.reformat(width=_INSET[0], height=_INSET[1], format="rgb24").to_image()
