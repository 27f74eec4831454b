"""The video of the bot: the state and picture of each participant, and the short code of the bot's keys."""

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
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 360
FRAME_RATE: Final = 12
CLOCK: Final = 90_000  # ticks per second of the RTP clock for video
_INSET: Final = (160, 90)  # width and height of a participant's picture, in pixels
_ROWS: Final = 2  # maximum number of participants shown

_GOOD, _BAD, _KEY, _PLAIN, _QUIET = (104, 219, 154), (255, 157, 148), (255, 210, 138), (238, 241, 248), (180, 191, 216)


@dataclass
class ShownParticipant:
    """A participant as the bot sees them."""

    name: str
    picture: Any
    """The latest picture (av.VideoFrame), or None before the first one."""
    states: dict[str, str]
    """The state by kind, "audio" and "video"."""


@dataclass
class Scene:
    """The content of one frame of the bot's video."""

    key_id: int
    code: str | None
    own: dict[str, str]
    seen: list[ShownParticipant]


class Painter:
    """Draws scenes as RGB images of WIDTH x HEIGHT."""

    def __init__(self) -> None:
        """Paint the constant background, and load the fonts."""
        down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
        top, bottom = np.array([22, 28, 50], np.float32), np.array([44, 30, 66], np.float32)
        gradient = np.broadcast_to(top + (bottom - top) * down, (HEIGHT, WIDTH, 3))
        self._background = Image.fromarray(gradient.astype(np.uint8))
        self._large, self._medium, self._small = (ImageFont.load_default(size=size) for size in (30, 24, 19))

    def draw(self, scene: Scene, seconds: float) -> Image.Image:
        """Draw a scene, with a moving hand, so that a frozen video is noticed.

        :param seconds: the time since the first frame.
        """
        image = self._background.copy()
        draw = ImageDraw.Draw(image)
        draw.text((20, 12), "The bot, in Python", font=self._large, fill=_PLAIN)
        self._states(draw, (20, 52), (300, 0), scene.own)
        self._sweep(draw, seconds)
        if not scene.seen:
            draw.text((20, 150), "Nobody else is here.", font=self._medium, fill=_QUIET)
        for row, seen in enumerate(scene.seen[:_ROWS]):
            y = 108 + row * 102
            image.paste(_inset(seen), (20, y))
            draw.text((196, y), seen.name[:28], font=self._medium, fill=_PLAIN)
            self._states(draw, (196, y + 36), (0, 24), seen.states)
        if len(scene.seen) > _ROWS:
            draw.text((620, 318), f"and {len(scene.seen) - _ROWS} more", font=self._small, fill=_QUIET, anchor="rs")
        draw.rectangle([0, 326, WIDTH, HEIGHT], fill=(12, 15, 28))
        key = f"key {scene.key_id}" + (f"   {scene.code}" if scene.code else "")
        draw.text((20, 350), key, font=self._small, fill=_KEY, anchor="ls")
        return image

    def _states(
        self, draw: ImageDraw.ImageDraw, at: tuple[int, int], step: tuple[int, int], states: dict[str, str]
    ) -> None:
        for place, (kind, state) in enumerate(sorted(states.items(), reverse=True)):
            fill = _GOOD if state.endswith("Success") else _BAD
            where = (at[0] + place * step[0], at[1] + place * step[1])
            draw.text(where, f"{kind}: {state}", font=self._small, fill=fill)

    def _sweep(self, draw: ImageDraw.ImageDraw, seconds: float) -> None:
        centre, radius = (600, 32), 22
        angle = 2 * math.pi * (seconds / 4 % 1)
        tip = (centre[0] + (radius - 6) * math.sin(angle), centre[1] - (radius - 6) * math.cos(angle))
        draw.ellipse([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius], outline=_QUIET)
        draw.line([centre, tip], fill=_KEY, width=3)


class BotVideoTrack(VideoStreamTrack):
    """The video of the bot as a track."""

    def __init__(self, scene: Callable[[], Scene]) -> None:
        """Draw the scene that *scene* returns at the time of each frame."""
        super().__init__()
        self._scene = scene
        self._painter = Painter()
        self._number = 0
        self._began: float | None = None

    async def recv(self) -> av.VideoFrame:
        """Return the next frame when it is due."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._number / FRAME_RATE - loop.time())
        # Drawn in a thread, because the event loop forwards every packet of the meeting.
        image = await asyncio.to_thread(self._painter.draw, self._scene(), self._number / FRAME_RATE)
        frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        frame.pts, frame.time_base = self._number * CLOCK // FRAME_RATE, fractions.Fraction(1, CLOCK)
        self._number += 1
        return frame


def _inset(seen: ShownParticipant) -> Image.Image:
    if not isinstance(seen.picture, av.VideoFrame) or seen.states.get("video") != "DecryptionSuccess":
        image = Image.new("RGB", _INSET, (10, 12, 22))
        middle = (_INSET[0] // 2, _INSET[1] // 2)
        font = ImageFont.load_default(size=16)
        ImageDraw.Draw(image).text(middle, "no picture", font=font, fill=_QUIET, anchor="mm")
        return image
    # A new reformatter, since the reformatter of a frame must not be used by two threads at once.
    small = VideoReformatter().reformat(seen.picture, width=_INSET[0], height=_INSET[1], format="rgb24")
    return Image.fromarray(small.to_ndarray())
