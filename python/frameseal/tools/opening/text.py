"""Words for the table, the picture and the transcripts. Names of participants come from strangers."""

from __future__ import annotations

from frameseal.tools.opening.history import Person
from frameseal.tools.text import printable


def clock(seconds: float) -> str:
    """Return a time of the time line as 0:00, or as 0:00:00 from an hour on."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def duration(seconds: int) -> str:
    """Return a length of time in words."""
    return f"{clock(seconds)} {'hours' if seconds >= 3600 else 'minutes'}"


def reasons(person: Person, width: int = 0) -> str:
    """Return why frames of a participant did not open, most frequent first.

    :param width: characters of the text. 0 means that it may have any length.
    """
    text = "; ".join(
        f"{count:,} {reason.replace('_', ' ')}" + ("" if key_id is None else f" (key id {key_id})")
        for (reason, key_id), count in person.failures.most_common()
    )
    return printable(text, width or max(len(text), 1))
