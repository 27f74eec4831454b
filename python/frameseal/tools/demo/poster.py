"""Draws the poster of a call. Its panels show the media as sent, as forwarded, and as received by Bob and Eve."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frameseal.tools.demo.call import Status
from frameseal.tools.demo.picture import Rgb
from frameseal.tools.demo.verdict import all_sound, listen
from frameseal.tools.media import RATE, Samples

# The poster is drawn at twice its size and scaled down, which smooths edges.
SCALE = 2
PANEL, PICTURE, WAVE = (880, 980), (880, 495), (880, 150)
MARGIN, GAP, HEADER, FOOTER = 80, 56, 220, 150
LABEL = 56  # height of the label below the wave
WAVE_SECONDS = 0.02
WAVE_FULL = 16000  # amplitude that fills the strip: the tone fills half of it, and noise may clip

Colour = tuple[int, int, int]
BACKGROUND, CARD, DEEP = (11, 15, 25), (24, 31, 47), (6, 9, 16)
TEXT, DIM, FAINT = (233, 239, 247), (150, 163, 186), (54, 66, 92)
GREEN, RED, BLUE = (52, 199, 135), (240, 82, 82), (94, 146, 245)


@dataclass(frozen=True)
class _Panel:
    title: str
    badge: str
    colour: Colour
    picture: Image.Image
    sound: Samples
    hearing: str
    captions: tuple[str, str]


def draw_poster(status: Status) -> Image.Image:
    """Draw the poster of a finished call, 1924 x 675 pixels."""
    panels = [_alice(status), _forwarder(status), *_receivers(status)]
    width = 2 * MARGIN + len(panels) * PANEL[0] + (len(panels) - 1) * GAP
    image = Image.new("RGB", (width, HEADER + PANEL[1] + FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(image)

    options = status.options
    what = [f"{options.profile} profile", options.codec.upper(), "Opus", f"{options.seconds:g} s"]
    what += [f"{100 * options.loss:g} % packet loss"] if options.loss else []
    draw.text((MARGIN, 50), "frameseal demo", font=_font(76), fill=TEXT)
    draw.text((MARGIN, 146), "  ·  ".join(what), font=_font(36), fill=DIM)

    for index, panel in enumerate(panels):
        _draw_panel(image, (MARGIN + index * (PANEL[0] + GAP), HEADER), panel)

    right = not status.failures
    text = "Bob saw and heard Alice. The forwarder and Eve did not." if right else status.failures[0]
    y = HEADER + PANEL[1] + FOOTER // 2
    x = _pill(draw, (MARGIN, y - 32), "OK" if right else "FAILED", GREEN if right else RED, 40)
    draw.text((x + 28, y), text, font=_font(44), fill=TEXT, anchor="lm")
    return image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)


def _alice(status: Status) -> _Panel:
    number, rgb = _chosen(status)
    sent = status.sent
    sound = all_sound(sent)
    sealed = status.counters("alice", "video")
    captions = (
        f"{len(sent.thumbnails)} frames drawn, {sealed.frames_out if sealed else 0} sealed",
        f"shown: frame {number}" if number is not None else "",
    )
    hearing = listen(sent, sound).description
    return _Panel("Alice sent", "publisher", BLUE, _scaled(rgb), sound, hearing, captions)


def _forwarder(status: Status) -> _Panel:
    spy = status.forwarder
    readable = f"{spy.frames_tried} sealed frames, {spy.right or 'none'} readable"
    if spy.latest is not None:
        picture = _scaled(spy.latest)
        captions = (readable, f"a decoder makes {spy.frames} pictures of them, like this")
    else:
        picture = _bytes_picture(b"".join(spy.sealed))
        captions = (readable, "a decoder makes nothing of them; shown: their bytes")
    heard = spy.heard()
    hearing = listen(status.sent, heard).description
    return _Panel("The forwarder saw", "no key", RED, picture, heard, hearing, captions)


def _receivers(status: Status) -> list[_Panel]:
    number, _ = _chosen(status)
    panels = []
    for name, badge, colour, observer in (
        ("bob", "right key", GREEN, status.bob),
        ("eve", "wrong key", RED, status.eve),
    ):
        shown = next((rgb for kept, rgb in observer.kept if kept == number), observer.latest)
        counters = status.counters(name, "video")
        opened, dropped = (counters.frames_out, counters.dropped) if counters else (0, 0)
        if observer.right:
            captions = (
                f"{opened} frames opened, {dropped} dropped",
                f"{observer.right} pictures right, by number and colours",
            )
        else:
            captions = (f"{opened} frames opened, {dropped} dropped", "nothing unopened reaches a decoder")
        picture = _scaled(shown) if shown is not None else _no_picture()
        heard = observer.heard()
        hearing = listen(status.sent, heard).description
        panels.append(_Panel(f"{name.title()} received", badge, colour, picture, heard, hearing, captions))
    return panels


def _chosen(status: Status) -> tuple[int | None, Rgb | None]:
    """Return the latest frame that both Bob and Alice have stored, or else Alice's latest."""
    for number, _ in reversed(status.bob.kept):
        rgb = status.sent.picture(number)
        if rgb is not None:
            return number, rgb
    return status.sent.pictures[-1] if status.sent.pictures else (None, None)


def _draw_panel(image: Image.Image, corner: tuple[int, int], panel: _Panel) -> None:
    draw = ImageDraw.Draw(image)
    x, y = corner
    draw.rounded_rectangle([x, y, x + PANEL[0], y + PANEL[1]], radius=28, fill=CARD)
    draw.text((x + 36, y + 56), panel.title, font=_font(48), fill=TEXT, anchor="lm")
    _pill(draw, (x + PANEL[0] - 36, y + 28), panel.badge, panel.colour, 34, from_right=True)
    top = y + 112
    image.paste(panel.picture, (x, top))
    _draw_wave(draw, (x, top + PICTURE[1]), panel)
    top += PICTURE[1] + WAVE[1] + LABEL
    for line, (text, colour) in enumerate(zip(panel.captions, (TEXT, DIM), strict=True)):
        draw.text((x + 36, top + 56 + 60 * line), text, font=_font(34), fill=colour, anchor="lm")


def _draw_wave(draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: _Panel) -> None:
    x, y = corner
    width, height = WAVE
    draw.rectangle([x, y, x + width, y + height], fill=DEEP)
    middle = y + height // 2
    draw.rectangle([x, y + height, x + width, y + height + LABEL], fill=DEEP)
    baseline = y + height + LABEL // 2 - 6
    draw.text((x + 36, baseline), "sound", font=_font(30), fill=FAINT, anchor="lm")
    draw.text((x + width - 36, baseline), panel.hearing, font=_font(30), fill=DIM, anchor="rm")
    draw.line([(x, middle), (x + width, middle)], fill=FAINT, width=2)
    piece = _excerpt(panel.sound, int(WAVE_SECONDS * RATE))
    if len(piece):
        clipped = np.clip(piece.astype(np.float64) / WAVE_FULL, -0.96, 0.96)
        across = np.linspace(x, x + width, len(piece))
        points = list(zip(across, middle - clipped * height / 2, strict=True))
        draw.line(points, fill=panel.colour, width=4, joint="curve")


def _excerpt(sound: Samples, count: int) -> Samples:
    """Return the loudest piece, starting at a rising zero crossing."""
    pieces = sound[: len(sound) // count * count].reshape(-1, count).astype(np.float64)
    start = int((pieces[1:-1] ** 2).mean(axis=1).argmax() + 1) * count if len(pieces) > 2 else 0
    rising = np.flatnonzero((sound[start:-1] < 0) & (sound[start + 1 :] >= 0))
    start += int(rising[0]) if len(rising) else 0
    return sound[start : start + count]


def _bytes_picture(data: bytes) -> Image.Image:
    width, height = PICTURE[0] // 10, PICTURE[1] // 10
    grey = np.zeros(width * height, dtype=np.uint8)
    latest = np.frombuffer(data[-grey.size :], dtype=np.uint8)
    grey[: len(latest)] = latest
    return Image.fromarray(grey.reshape(height, width)).convert("RGB").resize(PICTURE, Image.Resampling.NEAREST)


def _no_picture() -> Image.Image:
    image = Image.new("RGB", PICTURE, DEEP)
    draw = ImageDraw.Draw(image)
    x, y = PICTURE[0] // 2, PICTURE[1] // 2 - 40
    draw.arc([x - 46, y - 106, x + 46, y + 14], 180, 360, fill=FAINT, width=16)
    draw.line([(x - 38, y - 46), (x - 38, y)], fill=FAINT, width=16)
    draw.line([(x + 38, y - 46), (x + 38, y)], fill=FAINT, width=16)
    draw.rounded_rectangle([x - 74, y - 10, x + 74, y + 96], radius=18, fill=FAINT)
    draw.text((x, y + 160), "no picture", font=_font(44), fill=DIM, anchor="mm")
    return image


def _scaled(rgb: Rgb | None) -> Image.Image:
    return Image.fromarray(rgb).resize(PICTURE, Image.Resampling.LANCZOS) if rgb is not None else _no_picture()


def _pill(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    colour: Colour,
    size: int,
    *,
    from_right: bool = False,
) -> int:
    """Draw a badge at its top left (or top right) corner. Return the x coordinate of its right end."""
    width, height = int(draw.textlength(text, font=_font(size))) + size, int(size * 1.65)
    x, y = corner[0] - width if from_right else corner[0], corner[1]
    box = [x, y, x + width, y + height]
    draw.rounded_rectangle(box, radius=height // 2, fill=colour)
    draw.text((x + width / 2, y + height / 2), text, font=_font(size), fill=BACKGROUND, anchor="mm")
    return x + width


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
