"""The table at the end of `frameseal open`, and the sentences below it."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from frameseal.tools.opening.clocks import SECOND, Clocks
from frameseal.tools.opening.history import History, Person
from frameseal.tools.opening.matroska import ParticipantFile
from frameseal.tools.opening.text import clock, reasons
from frameseal.tools.text import printable

MAX_REASONS = 400  # characters: a forger may name another key id in each frame


def summary(history: History, files: list[ParticipantFile]) -> Table:
    """Return the table with one row for each participant. It fits into 80 columns if the names are short."""
    table = Table(box=box.SIMPLE_HEAD, title="Opened recording", title_style="bold", pad_edge=False)
    table.add_column("participant", overflow="fold", min_width=11)
    table.add_column("present", overflow="fold", min_width=9)
    table.add_column("file", overflow="fold")
    for heading in ("spoke", "key ids", "opened", "gaps"):
        table.add_column(heading, justify="right", no_wrap=heading != "key ids", overflow="fold")
    for file in files:
        person = history.people[file.participant]
        total, opened = person.frames.total(), person.opened.total()
        cells: list[str | Text] = [
            Text(printable(person.participant), style="bold"),
            Text(_present(person)),
            Text(file.path.name if file.path.exists() else "-"),
            clock(len(person.spoke)),
            Text(", ".join(map(str, sorted(person.key_ids))) or "-"),
            Text(f"{opened:,} of {total:,}", style="green" if opened == total else "red"),
            f"{person.gaps:,}",
        ]
        table.add_row(*cells)
    return table


def _present(person: Person, limit: int = 3) -> str:
    stretches = person.present
    text = ", ".join(f"{clock(first)}-{clock(last)}" for first, last in stretches[:limit])
    return text + (f" and {len(stretches) - limit} more" if len(stretches) > limit else "")


def remarks(history: History, files: list[ParticipantFile], clocks: Clocks) -> list[str]:
    """Return a sentence for each thing that a viewer of the files would wonder about."""
    found = []
    for file in files:
        name, person = printable(file.participant), history.people[file.participant]
        if person.failures:
            found.append(f"{name}: {person.failures.total():,} frames did not open: {reasons(person, MAX_REASONS)}.")
        waited = sum(track.waited for track in file.tracks)
        if waited:
            found.append(f"{name}: {waited:,} pictures opened but need a keyframe that is missing; they are left out.")
        codecs: dict[str, list[str]] = {}
        for track in file.tracks:
            if track.written:
                codecs.setdefault(track.track, []).append(track.codec)
        for track_id, names in codecs.items():
            if len(names) > 1:
                found.append(
                    f"{name}: track {printable(track_id)} changed its codec ({', then '.join(names)}): "
                    "the file has a track for each."
                )
    for time, by in clocks.set_back:
        found.append(f"The recorder's clock was set back by {by // SECOND} s at {clock(time / SECOND)}.")
    return found
