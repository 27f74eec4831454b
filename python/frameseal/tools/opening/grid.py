"""Composes one picture and mixes one sound from the opened files of all participants, into an MP4 file.

It decodes and encodes, and so is slower than opening. Memory holds one picture of each track and a second of sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from frameseal.tools.media import RATE, Samples
from frameseal.tools.opening import sound
from frameseal.tools.opening.matroska import ParticipantFile
from frameseal.tools.text import printable

WIDTH, HEIGHT = 1280, 720
FRAME_RATE = 25
BORDER = 4
LABEL = 26  # height of the strip with a name
STALE = 3.0  # seconds after which a picture is taken for gone: a still screen is sent once a second
MAX_HOURS = 24
BACKGROUND = 24  # luma
STILL_CHROMA = 128
VIDEO_ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first one that this PyAV has

Plane = npt.NDArray[np.uint8]


class NoGrid(Exception):
    """There is nothing to compose, or too much: the message says which."""


class _Tile:
    """The place of one participant's picture, or of the name of a participant without a picture."""

    def __init__(self, label: str, paths: list[tuple[Path, int]]) -> None:
        self.label = label
        self.frames = _pictures(paths)
        self.next = next(self.frames, None)
        self.shown: tuple[float, Any] | None = None
        self.drawn: tuple[float, Any] | None = None

    def advance(self, time: float) -> bool:
        """Show the newest picture that is not later than *time* (seconds). Return True if the tile changes."""
        while self.next is not None and self.next[0] <= time:
            self.shown, self.next = self.next, next(self.frames, None)
        if self.shown is not None and time - self.shown[0] > STALE:
            self.shown = None
        if self.shown is self.drawn:
            return False
        self.drawn = self.shown
        return True


def _pictures(paths: list[tuple[Path, int]]) -> Iterator[tuple[float, Any]]:
    """Yield the decoded pictures of tracks, one track after another, with their times in seconds."""
    for path, index in paths:
        with av.open(str(path), format="matroska") as container:
            for packet in container.demux(container.streams[index]):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in decoded:
                    if isinstance(frame, av.VideoFrame) and frame.time is not None:
                        yield frame.time, frame


def write_grid(
    files: list[ParticipantFile], path: Path, seconds: float, progress: Callable[[float], None] | None = None
) -> None:
    """Write an MP4 file (H.264 and AAC) with the pictures of all participants side by side and their sound together.

    :param files: the opened files, in the order of their tiles.
    :param path: the MP4 file. It is there once it is complete.
    :param seconds: the length of the time line.
    :param progress: called with the seconds that are done.
    :raises NoGrid: no file has a track, or the recording is too long.
    :raises OSError: the file cannot be written.
    """
    if seconds > MAX_HOURS * 3600:
        raise NoGrid(f"the time line has more than {MAX_HOURS} hours: a clock of the recording was wrong")
    tiles, voices = _members(files)
    if not tiles:
        raise NoGrid("nothing has opened that could be shown")
    unfinished = path.with_name(f".{path.name}.part")
    try:
        _compose(tiles, _Mixer(voices), unfinished, seconds, progress)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _members(files: list[ParticipantFile]) -> tuple[list[_Tile], list[Iterator[tuple[int, Samples]]]]:
    tiles, voices = [], []
    for file in files:
        if not file.path.exists():
            continue
        with av.open(str(file.path), format="matroska") as container:
            tracks: dict[str, list[tuple[Path, int]]] = {}
            for stream in container.streams.video:
                # A track whose codec changed has several streams under one title, and one tile.
                tracks.setdefault(stream.metadata.get("title", ""), []).append((file.path, stream.index))
            sounds = [stream.index for stream in container.streams.audio]
        voices += [sound.track(file.path, index, RATE) for index in sounds]
        label = printable(file.participant, 40)
        for number, paths in enumerate(tracks.values()):
            tiles.append(_Tile(f"{label} ({number + 1})" if number else label, paths))
        if not tracks:
            tiles.append(_Tile(label, []))
    return tiles, voices


class _Mixer:
    """Adds up the sound of all tracks, a piece at a time."""

    def __init__(self, voices: list[Iterator[tuple[int, Samples]]]) -> None:
        self._voices = voices
        self._ahead: list[tuple[int, Samples] | None] = [next(voice, None) for voice in voices]

    def piece(self, start: int, count: int) -> Samples:
        """Return the *count* samples from number *start* on. Call it with rising numbers."""
        mixed = np.zeros(count, np.int32)
        for index, voice in enumerate(self._voices):
            while (ahead := self._ahead[index]) is not None and ahead[0] < start + count:
                first, samples = ahead
                skip = max(start - first, 0)
                part = samples[skip : start + count - first]
                place = max(first - start, 0)
                mixed[place : place + len(part)] += part
                if first + len(samples) > start + count:
                    break
                self._ahead[index] = next(voice, None)
        loud: Samples = np.clip(mixed, -32768, 32767).astype(np.int16)
        return loud


def _compose(
    tiles: list[_Tile], mixer: _Mixer, path: Path, seconds: float, progress: Callable[[float], None] | None
) -> None:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    size = (WIDTH // columns // 2 * 2, HEIGHT // rows // 2 * 2)
    canvas = np.full((HEIGHT * 3 // 2, WIDTH), STILL_CHROMA, np.uint8)
    canvas[:HEIGHT] = 0
    labels = [_label(tile.label, size[0] - 2 * BORDER) for tile in tiles]
    corners = [(number % columns * size[0], number // columns * size[1]) for number in range(len(tiles))]
    for place, tile in enumerate(tiles):
        _draw(canvas, corners[place], size, tile, labels[place])
    with ExitStack() as stack:
        out = stack.enter_context(av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}))
        video: Any = out.add_stream(_video_encoder(), rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.time_base = Fraction(1, FRAME_RATE)
        if video.codec.name == "libx264":
            video.options = {"preset": "veryfast", "crf": "23"}
        audio: Any = out.add_stream("aac", rate=RATE, layout="mono")
        step = RATE // FRAME_RATE
        for number in range(max(math.ceil(seconds * FRAME_RATE), 1)):
            for place, tile in enumerate(tiles):
                if tile.advance(number / FRAME_RATE):
                    _draw(canvas, corners[place], size, tile, labels[place])
            picture = av.VideoFrame.from_ndarray(canvas, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, FRAME_RATE)
            out.mux(video.encode(picture))
            heard = av.AudioFrame.from_ndarray(mixer.piece(number * step, step)[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE, number * step, Fraction(1, RATE)
            out.mux(audio.encode(heard))
            if progress is not None and number % FRAME_RATE == 0:
                progress(number / FRAME_RATE)
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def _video_encoder() -> str:
    return next(name for name in VIDEO_ENCODERS if name in av.codecs_available)


def _draw(canvas: Plane, corner: tuple[int, int], size: tuple[int, int], tile: _Tile, label: Plane) -> None:
    """Draw a tile into the planes of *canvas*: its picture in its own proportions, and its name below."""
    (left, top), (width, height) = corner, size
    inner_width, inner_height = width - 2 * BORDER, height - 2 * BORDER - LABEL
    luma = canvas[:HEIGHT]
    chroma = [
        canvas[start : start + HEIGHT // 4].reshape(HEIGHT // 2, WIDTH // 2) for start in (HEIGHT, HEIGHT * 5 // 4)
    ]
    luma[top + BORDER : top + height - BORDER, left + BORDER : left + width - BORDER] = BACKGROUND
    for plane in chroma:
        plane[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2] = STILL_CHROMA
    luma[top + height - BORDER - LABEL : top + height - BORDER, left + BORDER : left + BORDER + label.shape[1]] = label
    if tile.drawn is None:
        return
    frame = tile.drawn[1]
    scale = min(inner_width / frame.width, inner_height / frame.height)
    shown = (max(round(frame.width * scale) // 2 * 2, 2), max(round(frame.height * scale) // 2 * 2, 2))
    image = frame.reformat(*shown, format="yuv420p").to_ndarray()
    x = (left + BORDER + (inner_width - shown[0]) // 2) // 2 * 2
    y = (top + BORDER + (inner_height - shown[1]) // 2) // 2 * 2
    luma[y : y + shown[1], x : x + shown[0]] = image[: shown[1]]
    colours = image[shown[1] :].reshape(2, shown[1] // 2, shown[0] // 2)
    for plane, colour in zip(chroma, colours, strict=True):
        plane[y // 2 : (y + shown[1]) // 2, x // 2 : (x + shown[0]) // 2] = colour


def _label(text: str, width: int) -> Plane:
    """Return the luma of a strip with a name."""
    image = Image.new("L", (width, LABEL), BACKGROUND)
    ImageDraw.Draw(image).text((8, 3), text, font=ImageFont.load_default(16), fill=235)
    return np.asarray(image)
