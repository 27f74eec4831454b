"""Collects who was there, who spoke, which key id was in use, and what did not open: for the table and the picture.

Everything is counted by seconds of the time line, so that memory grows with the recording's length alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from frameseal.tools.opening.clocks import SECOND, Placed

# Key ids are counted apart up to this number for each participant. A key id is not authentic before its frame opens:
# whoever forges frames could name another in each.
MAX_KEY_IDS = 64


@dataclass(slots=True)
class Person:
    """One participant of a recording. All sets hold whole seconds of the time line."""

    participant: str
    frames: Counter[str] = field(default_factory=Counter)
    """Frames by kind."""
    opened: Counter[str] = field(default_factory=Counter)
    """Opened frames by kind."""
    failures: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    """Frames that did not open, by reason and key id."""
    gaps: int = 0
    key_ids: dict[int, set[int]] = field(default_factory=dict)
    """Seconds by key id in use."""
    heard: set[int] = field(default_factory=set)
    """Seconds of which some sound opened."""
    seen: set[int] = field(default_factory=set)
    """Seconds of which some picture opened."""
    failed: set[int] = field(default_factory=set)
    """Seconds of which some frame did not open."""
    spoke: set[int] = field(default_factory=set)
    """Seconds in which the participant was loud enough to be speaking."""
    first: int = -1
    last: int = 0

    @property
    def present(self) -> list[tuple[int, int]]:
        """The stretches from which there are frames, as first second and the second behind the last."""
        return spans(self.heard | self.seen | self.failed)


class History:
    """Counts frames: call `add` with each of them."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.seconds = 0
        """The length of the time line in seconds, rounded up."""

    def add(self, placed: Placed) -> None:
        """Count one frame."""
        frame, second = placed.frame, placed.time // SECOND
        person = self.people.get(frame.participant)
        if person is None:
            person = self.people[frame.participant] = Person(frame.participant, first=second)
        person.frames[frame.kind] += 1
        person.gaps += frame.gap
        person.first, person.last = min(person.first, second), max(person.last, second)
        key_id = frame.key_id
        if key_id is not None and key_id not in person.key_ids and len(person.key_ids) >= MAX_KEY_IDS:
            key_id = None
        if key_id is not None:
            person.key_ids.setdefault(key_id, set()).add(second)
        if frame.frame is None:
            person.failures[frame.reason or "unknown", key_id] += 1
            person.failed.add(second)
        else:
            person.opened[frame.kind] += 1
            (person.seen if frame.kind == "video" else person.heard).add(second)
        self.seconds = max(self.seconds, second + 1)

    @property
    def everything_opened(self) -> bool:
        """True if each frame opened, and there was one."""
        return bool(self.people) and not any(person.failures for person in self.people.values())


def spans(seconds: Iterable[int], join: int = 2) -> list[tuple[int, int]]:
    """Return stretches of seconds, as the first and the one behind the last.

    :param join: stretches that are at most this many seconds apart become one.
    """
    found: list[tuple[int, int]] = []
    for second in sorted(seconds):
        if found and second - found[-1][1] < join:
            found[-1] = (found[-1][0], second + 1)
        else:
            found.append((second, second + 1))
    return found
