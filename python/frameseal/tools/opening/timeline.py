"""Draws `timeline.png`: who was there, who spoke, which key id was in use, what did not open and why."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta

from PIL import Image, ImageDraw, ImageFont

from frameseal.tools.opening.history import History, Person, Seconds, spans
from frameseal.tools.opening.text import clock, duration, reasons
from frameseal.tools.text import printable

WIDTH, LEFT, RIGHT = 1600, 300, 60
HEAD, FOOT, ROW = 130, 110, 118
BAR, THIN, KEYS = 34, 14, 20  # heights of the bars of a row
MAX_PEOPLE = 200  # a picture has at most this many rows
MIN_BAR = 2  # pixels of the shortest stretch

Colour = tuple[int, int, int]
BACKGROUND, LANE = (11, 15, 25), (24, 31, 47)
TEXT, DIM, GRID = (233, 239, 247), (150, 163, 186), (44, 54, 78)
PICTURE, SOUND, SPOKE, FAILED = (94, 146, 245), (70, 102, 150), (52, 199, 135), (240, 82, 82)
KEY_COLOURS = ((246, 190, 80), (190, 130, 240), (90, 205, 215), (240, 140, 180), (170, 200, 90))

STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)


def draw_timeline(history: History, start: datetime | None) -> Image.Image:
    """Draw the time line of a recording, 1600 pixels wide, with a row for each participant.

    :param start: the time at which the time line begins. None shows no times of day.
    """
    people = list(history.people.values())
    shown = people[:MAX_PEOPLE]
    image = Image.new("RGB", (WIDTH, HEAD + ROW * len(shown) + FOOT), BACKGROUND)
    draw = ImageDraw.Draw(image)
    seconds = max(history.seconds, 1)
    title = f"{len(people)} participant{'' if len(people) == 1 else 's'}, {duration(seconds)}"
    title += f", from {start:%Y-%m-%d %H:%M:%S} UTC" if start is not None else ""
    draw.text((40, 28), title, font=_font(30), fill=TEXT)
    _draw_axis(draw, seconds, start, len(shown))
    for row, person in enumerate(shown):
        _draw_person(draw, person, HEAD + row * ROW, seconds)
    _draw_legend(draw, image.height - FOOT + 40)
    if len(people) > len(shown):
        draw.text((WIDTH - 400, 36), f"{len(people) - len(shown)} participants are not shown", font=_font(18), fill=DIM)
    return image


def _x(second: float, seconds: int) -> int:
    return LEFT + round((WIDTH - LEFT - RIGHT) * second / seconds)


def _draw_axis(draw: ImageDraw.ImageDraw, seconds: int, start: datetime | None, rows: int) -> None:
    step = next((each for each in STEPS if seconds / each <= 10), -(-seconds // 10))
    for second in range(0, seconds + 1, step):
        x = _x(second, seconds)
        draw.line((x, HEAD - 8, x, HEAD + rows * ROW), fill=GRID)
        label = clock(second)
        if start is not None and step >= 60:
            label = f"{start + timedelta(seconds=second):%H:%M}"
        draw.text((x, HEAD - 36), label, font=_font(18), fill=DIM, anchor="ma")


def _bars(draw: ImageDraw.ImageDraw, found: Seconds, rows: tuple[int, int], seconds: int, colour: Colour) -> None:
    for first, last in spans(found):
        left = _x(first, seconds)
        draw.rectangle((left, rows[0], max(_x(last, seconds) - 1, left + MIN_BAR), rows[1] - 1), fill=colour)


def _draw_person(draw: ImageDraw.ImageDraw, person: Person, top: int, seconds: int) -> None:
    name = printable(person.participant)
    while name and draw.textlength(name, font=_font(22)) > LEFT - 70:
        name = name[:-2].rstrip("…") + "…"
    draw.text((40, top + 6), name, font=_font(22), fill=TEXT)
    total, opened = person.frames.total(), person.opened.total()
    draw.text((40, top + 36), f"{opened:,} of {total:,} frames opened", font=_font(16), fill=DIM)
    lane = top + 6
    draw.rectangle((LEFT, lane, WIDTH - RIGHT, lane + BAR + THIN), fill=LANE)
    _bars(draw, person.heard, (lane, lane + BAR), seconds, SOUND)
    _bars(draw, person.seen, (lane, lane + BAR // 2), seconds, PICTURE)
    _bars(draw, person.spoke, (lane + BAR, lane + BAR + THIN), seconds, SPOKE)
    _bars(draw, person.failed, (lane + BAR // 2, lane + BAR), seconds, FAILED)
    if person.failures:
        draw.text((LEFT, lane + BAR + THIN + KEYS + 10), reasons(person, width=130), font=_font(16), fill=FAILED)
    for key_id, found in sorted(person.key_ids.items()):
        colour = KEY_COLOURS[key_id % len(KEY_COLOURS)]
        y = top + 12 + BAR + THIN
        for first, last in spans(found):
            left, right = _x(first, seconds), max(_x(last, seconds) - 2, _x(first, seconds) + MIN_BAR)
            draw.rectangle((left, y, right, y + KEYS - 1), outline=colour, width=2)
            label = f"key {key_id}"
            if draw.textlength(label, font=_font(15)) + 8 < right - left:
                draw.text((left + 5, y + 1), label, font=_font(15), fill=colour)


def _draw_legend(draw: ImageDraw.ImageDraw, y: int) -> None:
    x = 40
    for colour, label in (
        (PICTURE, "picture"),
        (SOUND, "sound"),
        (SPOKE, "spoke"),
        (FAILED, "did not open"),
        (KEY_COLOURS[0], "key id of the frames"),
    ):
        draw.rectangle((x, y, x + 26, y + 18), fill=colour)
        draw.text((x + 36, y - 2), label, font=_font(18), fill=DIM)
        x += 76 + round(draw.textlength(label, font=_font(18)))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
