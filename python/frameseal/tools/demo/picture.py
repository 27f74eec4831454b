"""Draws the pictures that Alice publishes, and identifies the frame in a received picture.

Every frame shows its number in a strip of twelve colour blocks of two bits each. The number has 16 bits, and its
checksum 8 bits. A receiver who reads the number has decoded that frame, colours included. Noise passes the checksum
once in 256 times, and must then still resemble the frame of that number.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Rgb = npt.NDArray[np.uint8]
"""A picture: uint8[HEIGHT, WIDTH, 3]."""

WIDTH, HEIGHT = 640, 360
THUMB = 8  # pictures are compared at an eighth of their size, which removes the noise of the codec

NUMBERS = 2**16
_BLOCKS = 12
_BLOCK = (40, 30)  # pixels
_STRIP = (32, 314)  # x and y of the first block
_PITCH = 49  # pixels from one block to the next
# These colours differ clearly in luma and chroma, not only in RGB.
_PALETTE = np.array([(229, 72, 77), (245, 197, 66), (48, 164, 108), (62, 99, 221)], dtype=np.uint8)


def stamp(picture: Rgb, number: int) -> None:
    """Draw the number of a frame into it, in place. Numbers wrap at 65536."""
    number %= NUMBERS
    bits = number << 8 | _checksum(number)
    for block in range(_BLOCKS):
        colour = _PALETTE[bits >> 2 * (_BLOCKS - 1 - block) & 3]
        x, y = _STRIP[0] + block * _PITCH, _STRIP[1]
        picture[y - 3 : y + _BLOCK[1] + 3, x - 3 : x + _BLOCK[0] + 3] = 14
        picture[y : y + _BLOCK[1], x : x + _BLOCK[0]] = colour


def read_number(picture: Rgb) -> int | None:
    """Return the number in a picture, or None if the picture has none."""
    if picture.shape != (HEIGHT, WIDTH, 3):
        return None
    bits = 0
    for block in range(_BLOCKS):
        x, y = _STRIP[0] + block * _PITCH, _STRIP[1]
        middle = picture[y + 8 : y + _BLOCK[1] - 8, x + 8 : x + _BLOCK[0] - 8]
        seen = middle.reshape(-1, 3).mean(axis=0)
        bits = bits << 2 | int(((_PALETTE - seen) ** 2).sum(axis=1).argmin())
    number, checksum = bits >> 8, bits & 0xFF
    return number if checksum == _checksum(number) else None


def thumbnail(picture: Rgb) -> Rgb:
    """Return the picture at an eighth of its size: uint8[HEIGHT / 8, WIDTH / 8, 3]."""
    return np.asarray(Image.fromarray(picture).reduce(THUMB))


def difference(one: Rgb, other: Rgb) -> float:
    """Return the mean absolute difference of two thumbnails, 0 to 255, or infinity if their sizes differ."""
    if one.shape != other.shape:
        return math.inf
    return float(np.abs(one.astype(np.int16) - other).mean())


def _checksum(number: int) -> int:
    return zlib.crc32(number.to_bytes(2, "big")) & 0xFF


class Clock:
    """A clock face with a moving hand: every frame differs, and a frozen video is visible."""

    _CENTRE, _RADIUS = (176, 156), 122

    def __init__(self) -> None:
        """Paint the constant background, and load the fonts."""
        self._background = self._paint_background()
        x, y = np.meshgrid(np.arange(-self._RADIUS, self._RADIUS), np.arange(-self._RADIUS, self._RADIUS))
        self._angle = np.arctan2(x, -y).astype(np.float32)
        distance = np.hypot(x, y)
        self._disc = np.clip((self._RADIUS - 12 - distance) / 2, 0, 1).astype(np.float32)
        self._big, self._small = ImageFont.load_default(size=64), ImageFont.load_default(size=18)

    def draw(self, number: int, seconds: float) -> Rgb:
        """Return the picture at a time, with the number in digits. `stamp` adds the machine-readable number."""
        picture = self._background.copy()
        hand = 2 * math.pi * (seconds / 4 % 1)
        trail = np.exp(-(np.mod(hand - self._angle, 2 * math.pi)) * 0.9) * self._disc
        (cx, cy), r = self._CENTRE, self._RADIUS
        face = picture[cy - r : cy + r, cx - r : cx + r]
        glow = np.array([64, 208, 190], dtype=np.float32)
        face[:] = (face + trail[..., None] * (glow - face) * 0.85).astype(np.uint8)

        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        tip = (cx + (r - 22) * math.sin(hand), cy - (r - 22) * math.cos(hand))
        draw.line([(cx, cy), tip], fill=(245, 250, 252), width=4)
        draw.ellipse([cx - 7, cy - 7, cx + 7, cy + 7], fill=(245, 250, 252))
        draw.text((348, 96), f"{number:05d}", font=self._big, fill=(236, 241, 246))
        draw.text((350, 172), f"{seconds:6.2f} s".strip(), font=self._small, fill=(140, 155, 175))
        return np.array(image)

    def _paint_background(self) -> Rgb:
        down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
        across = np.linspace(0, 1, WIDTH, dtype=np.float32)[None, :, None]
        top, bottom = np.array([24, 34, 58], np.float32), np.array([58, 32, 74], np.float32)
        gradient = top + (bottom - top) * (0.7 * down + 0.3 * across)
        image = Image.fromarray(gradient.astype(np.uint8))
        draw = ImageDraw.Draw(image)
        (cx, cy), r = self._CENTRE, self._RADIUS
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=(18, 24, 40), outline=(90, 108, 140), width=3)
        for hour in range(12):
            angle = hour * math.pi / 6
            inner = r - (20 if hour % 3 == 0 else 13)
            ends = [(cx + d * math.sin(angle), cy - d * math.cos(angle)) for d in (inner, r - 6)]
            draw.line(ends, fill=(150, 168, 196), width=4 if hour % 3 == 0 else 2)
        draw.text((350, 52), "Hello, Bob. This is Alice.", font=ImageFont.load_default(size=20), fill=(255, 196, 132))
        return np.array(image)


def fitted(frame: Any) -> Rgb:
    """Return a decoded frame (av.VideoFrame) scaled to fit into WIDTH x HEIGHT, on black."""
    scale = min(WIDTH / frame.width, HEIGHT / frame.height)
    width, height = max(2, int(frame.width * scale) // 2 * 2), max(2, int(frame.height * scale) // 2 * 2)
    small = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    picture = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    x, y = (WIDTH - width) // 2, (HEIGHT - height) // 2
    picture[y : y + height, x : x + width] = small
    return picture
