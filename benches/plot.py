"""Draws the pictures: one frame in times the floor, rooms, late first pictures, archives, and a row in Ray.

python benches/plot.py [RESULTS.json [PICTURE.png]]    the results of table.py, rooms.py, first_picture.py, archive.py
                                                       or at_scale.py
"""

import itertools
import json
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from contenders import ALONE, DAVE_PY, FLOOR, OURS, PURE, SFRAME_RS, WRTC

RESULTS = Path(__file__).parent / "results" / "latest.json"
SCALE = 2  # the picture is drawn at twice its size and scaled down, which smooths edges
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GUTTER = 1180, 420, 70, 86, 64, 330
TICKS = (1, 1.5, 2, 3, 5, 8, 12)
INK, DIM, FAINT, PAPER = (28, 33, 43), (105, 114, 130), (222, 226, 233), (255, 255, 255)
# davey is not drawn: at 10 to 90 times the floor it would flatten all other lines.
COLOURS = {
    OURS: (20, 110, 220),
    PURE: (214, 84, 60),
    ALONE: (140, 120, 40),
    SFRAME_RS: (30, 150, 110),
    WRTC: (130, 80, 190),
    DAVE_PY: (120, 130, 140),
}

# The panels of late pictures: figures, their kind, title, target in ms, end of the axis in ms.
LATE_PANELS = (
    ("late_key_ms", "video", "From a late key to the first picture, ms (a dot is a call)", 300, 500),
    ("rotation_ms", "video", "The latest picture of a rotation, ms late (a dot is a rotation)", 1000 / 30, 250),
)
LATE_LEFT, LATE_WIDTH, LATE_ROW = 210, 820, 26

MAX_MB = 400  # the target for the memory of opening
THREAD_COLOURS = {"one thread": (20, 110, 220), "two threads": (30, 150, 110)}
ROW_COLOURS = {"loop": (20, 110, 220), "Ray": (214, 84, 60)}
ROOM_COLOURS = {"not attached": (120, 130, 140), "attached": (20, 110, 220)}

# The last colour is that of waiting.
PART_COLOURS = ((20, 110, 220), (214, 84, 60), (30, 150, 110), (130, 80, 190), (140, 120, 40), (222, 226, 233))

Point = tuple[float, float]
Colour = tuple[int, int, int]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def ratios(by_size: dict[str, dict[str, float]], name: str) -> list[float]:
    return [medians[name] / medians[FLOOR] for medians in by_size.values()]


class Canvas:
    """A picture with its pen. Coordinates are those of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._pen = ImageDraw.Draw(self._image)

    def text(self, at: Point, what: str, size: int, colour: Colour, anchor: str = "lm") -> None:
        self._pen.text((at[0] * SCALE, at[1] * SCALE), what, font=font(size), fill=colour, anchor=anchor)

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._pen.line(scaled, fill=colour, width=int(width * SCALE), joint="curve")

    def dot(self, at: Point, colour: Colour) -> None:
        x, y = at
        self._pen.ellipse([(x - 4) * SCALE, (y - 4) * SCALE, (x + 4) * SCALE, (y + 4) * SCALE], fill=colour)

    def finished(self) -> Image.Image:
        return self._image.resize(self._size, Image.Resampling.LANCZOS)


def draw(results: dict) -> Image.Image:
    canvas = Canvas(WIDTH, HEIGHT)
    text, line = canvas.text, canvas.line
    text((LEFT, 24), "One frame from Python, times the floor", 20, INK)
    text((LEFT, 52), "the floor: AWS-LC in a bare extension; livekit: line; sframe: dashes; lower is faster", 13, DIM)
    panel = (WIDTH - GUTTER) / 2
    for place, direction in enumerate(("encrypt", "decrypt")):
        left, right = LEFT + place * panel, LEFT + (place + 1) * panel - 60

        def at_ratio(ratio: float) -> float:
            return HEIGHT - BOTTOM - math.log(ratio) / math.log(TICKS[-1] * 1.15) * (HEIGHT - BOTTOM - TOP)

        for tick in TICKS:
            line([(left, at_ratio(tick)), (right, at_ratio(tick))], FAINT if tick > 1 else DIM, 1)
            text((left - 8, at_ratio(tick)), f"{tick:g}x", 12, DIM, "rm")
        text(((left + right) / 2, HEIGHT - 16), direction, 15, INK, "mm")
        for profile, races in results["median_ns"].items():
            by_size = races[direction]
            steps = (right - left) / (len(by_size) - 1)
            for step, size in enumerate(by_size):
                text((left + step * steps, HEIGHT - BOTTOM + 16), f"{int(size):,} B", 11, DIM, "mm")
            for name, colour in COLOURS.items():
                if any(name not in medians for medians in by_size.values()):
                    continue  # the contender is in the other race, or was not installed
                points = [(left + n * steps, at_ratio(ratio)) for n, ratio in enumerate(ratios(by_size, name))]
                for from_, to in itertools.pairwise(points):
                    pieces = 1 if profile == "livekit" else 12
                    for piece in range(0, pieces, 2):
                        ends = [piece / pieces, (piece + 1) / pieces]
                        line(
                            [(from_[0] + e * (to[0] - from_[0]), from_[1] + e * (to[1] - from_[1])) for e in ends],
                            colour,
                            3,
                        )
                if profile == "livekit":
                    for point in points:
                        canvas.dot(point, colour)
    for place, (name, colour) in enumerate(COLOURS.items()):
        y = TOP + 40 + place * 30
        line([(WIDTH - GUTTER + 40, y), (WIDTH - GUTTER + 70, y)], colour, 4)
        text((WIDTH - GUTTER + 82, y), name, 14, INK)
    return canvas.finished()


def draw_rooms(results: dict) -> Image.Image:
    """Draw CPU and p99 of the delay by participants, attached and not."""
    canvas = Canvas(WIDTH - GUTTER + 60, HEIGHT)
    canvas.text((LEFT, 24), "A room in one process", 20, INK)
    canvas.text((LEFT, 52), f"{results['media']} of each participant, by the number of participants", 13, DIM)
    rooms = {int(size): room for size, room in results["rooms"].items()}
    panel, bottom = (WIDTH - GUTTER) / 2, HEIGHT - BOTTOM
    for place, (figure, title) in enumerate({"cpu_s_per_s": "CPU seconds a second", "p99_ms": "p99, ms"}.items()):
        left, right = LEFT + place * panel, LEFT + (place + 1) * panel - 60
        top = max(own[figure] for room in rooms.values() for own in room.values() if isinstance(own, dict)) * 1.1
        for part in (0, 0.5, 1):
            y = bottom - part * (bottom - TOP)
            canvas.line([(left, y), (right, y)], FAINT if part else DIM, 1)
            canvas.text((left - 8, y), f"{top * part:.2g}", 12, DIM, "rm")
        canvas.text(((left + right) / 2, HEIGHT - 16), title, 15, INK, "mm")
        for size in rooms:
            canvas.text((left + size / max(rooms) * (right - left), bottom + 16), str(size), 11, DIM, "mm")
        for name, colour in ROOM_COLOURS.items():
            points = [
                (left + size / max(rooms) * (right - left), bottom - room[name][figure] / top * (bottom - TOP))
                for size, room in rooms.items()
            ]
            canvas.line(points, colour, 3)
            for point in points:
                canvas.dot(point, colour)
    for place, (name, colour) in enumerate(ROOM_COLOURS.items()):
        canvas.line([(LEFT + 500 + place * 150, 24), (LEFT + 530 + place * 150, 24)], colour, 4)
        canvas.text((LEFT + 540 + place * 150, 24), name, 14, INK)
    return canvas.finished()


def draw_late(results: dict) -> Image.Image:
    """Draw a dot for each call with a late key, and for each rotation, with the target as a line."""
    rows = sum(len(results[figures]) for figures, *_ in LATE_PANELS)
    canvas = Canvas(LATE_WIDTH, rows * LATE_ROW + len(LATE_PANELS) * 90)
    top = 0
    for figures, kind, title, target, end in LATE_PANELS:
        by_row = results[figures]
        bottom = top + 44 + len(by_row) * LATE_ROW

        def at(ms: float, end: float = end) -> float:
            return LATE_LEFT + min(ms / end, 1) * (LATE_WIDTH - LATE_LEFT - 30)

        canvas.text((20, top + 22), title, 16, INK)
        for part in range(6):
            ms = end * part / 5
            canvas.line([(at(ms), top + 44), (at(ms), bottom)], FAINT, 1)
            canvas.text((at(ms), bottom + 14), f"{ms:.0f}", 11, DIM, "mm")
        canvas.line([(at(target), top + 44), (at(target), bottom)], COLOURS[PURE], 2)
        canvas.text((at(target), bottom + 30), f"target {target:.0f}", 11, COLOURS[PURE], "mm")
        for place, (row, times) in enumerate(by_row.items()):
            y = top + 44 + (place + 0.5) * LATE_ROW
            canvas.text((LATE_LEFT - 14, y), row, 12, INK, "rm")
            for ms in times[kind]:
                canvas.dot((at(ms), y), COLOURS[OURS])
        top = bottom + 46
    return canvas.finished()


def draw_archive(results: dict) -> Image.Image:
    """Draw the speed of each job, and the memory by gigabytes if a large archive was opened."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text((LEFT, 24), "Opening an archive", 20, INK)
    size = results["sealed_bytes"]
    canvas.text((LEFT, 52), f"{results['frames']:,} frames, {size / 1e6:,.0f} MB; GB/s", 13, DIM)
    found = {job: size / seconds / 1e9 for job, seconds in results["seconds"].items() if job.startswith("reading ")}
    left, right, most = LEFT + 260, LEFT + 540, max(found.values())
    for place, (job, speed) in enumerate(found.items()):
        y = TOP + 20 + place * 48
        canvas.text((left - 12, y), job, 13, INK, "rm")
        is_alone, end = job == "reading alone", left + speed / most * (right - left)
        canvas.line([(left, y), (end, y)], DIM if is_alone else ROW_COLOURS["loop"], 20)
        share = "" if is_alone else f", {speed / found['reading alone']:.0%}"
        canvas.text((end + 8, y), f"{speed:.2f}{share}", 12, INK)
    if not results["large"]:
        return canvas.finished()
    by_gigabyte = results["large"]["max_rss_mb_by_gigabyte"]
    left, right, bottom = LEFT + 720, WIDTH - 40, HEIGHT - BOTTOM
    top = MAX_MB * 1.1
    canvas.text((left, 52), "maximum memory in MB, by gigabytes opened", 13, DIM)
    for mb in range(0, MAX_MB + 1, 100):
        y = bottom - mb / top * (bottom - TOP)
        canvas.line([(left, y), (right, y)], ROW_COLOURS["Ray"] if mb == MAX_MB else FAINT, 1)
        canvas.text((left - 8, y), str(mb), 12, DIM, "rm")
    for place, (threads, colour) in enumerate(THREAD_COLOURS.items()):
        peaks = by_gigabyte[threads]
        step = (right - left) / max(len(peaks) - 1, 1)
        canvas.line([(left + n * step, bottom - mb / top * (bottom - TOP)) for n, mb in enumerate(peaks)], colour, 3)
        canvas.line([(left + place * 130, HEIGHT - 16), (left + 24 + place * 130, HEIGHT - 16)], colour, 4)
        canvas.text((left + 32 + place * 130, HEIGHT - 16), threads, 13, INK)
    canvas.text((left, bottom + 16), "0", 11, DIM, "mm")
    canvas.text((right, bottom + 16), f"{results['large']['sealed_bytes'] / 1e9:.0f} GB", 11, DIM, "mm")
    return canvas.finished()


def draw_rows(results: dict) -> Image.Image:
    """Draw the time of a row by the rows of a batch, in a loop and in Ray."""
    canvas = Canvas(760, HEIGHT)
    canvas.text((LEFT, 24), "One row, by the rows of a batch", 20, INK)
    canvas.text((LEFT, 52), "microseconds, logarithmic: an Opener in a loop, and one worker of Ray", 13, DIM)
    jobs = {job: {int(size): row for size, row in sizes.items()} for job, sizes in results["us_per_row"].items()}
    sizes = sorted(jobs["loop"])
    left, right, bottom, most = LEFT, 640, HEIGHT - BOTTOM, 200
    for tick in (1, 2, 5, 10, 20, 50, 100, 200):
        y = bottom - math.log(tick) / math.log(most) * (bottom - TOP)
        canvas.line([(left, y), (right, y)], FAINT if tick > 1 else DIM, 1)
        canvas.text((left - 8, y), str(tick), 12, DIM, "rm")
    step = (right - left) / (len(sizes) - 1)
    for place, size in enumerate(sizes):
        canvas.text((left + place * step, bottom + 16), f"{size:,}", 11, DIM, "mm")
    canvas.text(((left + right) / 2, HEIGHT - 16), "rows of a batch", 15, INK, "mm")
    for job, rows in jobs.items():
        points = [
            (left + place * step, bottom - math.log(max(rows[size], 1)) / math.log(most) * (bottom - TOP))
            for place, size in enumerate(sizes)
        ]
        canvas.line(points, ROW_COLOURS[job], 3)
        for point in points:
            canvas.dot(point, ROW_COLOURS[job])
        canvas.text((right + 14, points[-1][1]), f"{job}, {rows[sizes[-1]]:.1f}", 14, ROW_COLOURS[job])
    return canvas.finished()


def stacked(bars: dict[str, dict[str, float]], *, title: str, subtitle: str) -> Image.Image:
    """Draw a bar for each row, whose parts lie one behind the other."""
    left, row, height = 110, 70, 40
    canvas = Canvas(WIDTH - GUTTER + 60, TOP + row * len(bars) + 60)
    canvas.text((20, 24), title, 20, INK)
    canvas.text((20, 52), subtitle, 13, DIM)
    widest = max(sum(parts.values()) for parts in bars.values())
    scale = (WIDTH - GUTTER - left - 20) / widest
    for place, (name, parts) in enumerate(bars.items()):
        x, y = float(left), TOP + place * row + height / 2
        canvas.text((left - 12, y), name, 14, INK, "rm")
        for (part, value), colour in zip(parts.items(), PART_COLOURS, strict=False):
            end = x + value * scale
            canvas.line([(x, y), (end, y)], colour, height)
            if value * scale > 24:
                canvas.text(((x + end) / 2, y), f"{value:.0f}", 12, INK if part == list(parts)[-1] else PAPER, "mm")
            x = end
        canvas.text((x + 8, y), f"{sum(parts.values()):.0f}", 13, DIM)
    x, y = 20.0, TOP + row * len(bars) + 20
    for part, colour in zip(next(iter(bars.values())), PART_COLOURS, strict=False):
        canvas.line([(x, y), (x + 16, y)], colour, 12)
        canvas.text((x + 22, y), part, 12, INK)
        x += 40 + 7 * len(part)
    return canvas.finished()


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_suffix(".png")
    results = json.loads(source.read_text())
    pictures = {
        "rooms": draw_rooms,
        "rotation_ms": draw_late,
        "remuxed_seconds_per_second": draw_archive,
        "us_per_row": draw_rows,
    }
    chosen = next((made for figure, made in pictures.items() if figure in results), draw)
    chosen(results).save(target, optimize=True)


if __name__ == "__main__":
    main()
