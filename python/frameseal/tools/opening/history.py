"""Collects who was there, who spoke, which key id was in use, and what did not open: for the table and the picture.

Everything is counted by seconds of the time line, and neighbouring seconds are held as one stretch. So memory grows
with the number of interruptions, and not with the recording's length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

from frameseal.tools.opening.clocks import SECOND, Placed

# Key ids are counted apart up to this number for each participant. A key id is not authentic before its frame opens:
# whoever forges frames could name another in each.
MAX_KEY_IDS = 64


class Seconds(Set[int]):
    """A set of whole seconds, held as stretches. A set of numbers would hold an object for each second."""

    def __init__(self, seconds: Iterable[int] = ()) -> None:
        # Two lists that rise. Between the end of a stretch and the begin of the next one a second is missing.
        self._begins: list[int] = []
        self._ends: list[int] = []
        for second in seconds:
            self.add(second)

    def add(self, second: int) -> None:
        """Add one second. It is fast in any order, and fastest if the seconds rise."""
        begins, ends = self._begins, self._ends
        at = len(ends) - 1 if ends and begins[-1] <= second <= ends[-1] else bisect_left(ends, second)
        if at < len(ends) and begins[at] <= second < ends[at]:
            return
        follows = at < len(ends) and ends[at] == second
        behind = at + follows
        precedes = behind < len(begins) and begins[behind] == second + 1
        if follows and precedes:  # the second was all that lay between two stretches
            del ends[at], begins[behind]
        elif follows:
            ends[at] = second + 1
        elif precedes:
            begins[at] = second
        else:
            begins.insert(at, second)
            ends.insert(at, second + 1)

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Yield each stretch, as its first second and the second behind its last."""
        return zip(self._begins, self._ends, strict=True)

    def __contains__(self, second: object) -> bool:
        """Return True if the second was added."""
        if not isinstance(second, int):
            return False
        at = bisect_right(self._begins, second) - 1
        return at >= 0 and second < self._ends[at]

    def __len__(self) -> int:
        """Return the number of seconds."""
        return sum(self._ends) - sum(self._begins)

    def __iter__(self) -> Iterator[int]:
        """Yield the seconds in their order."""
        for begin, end in self.stretches():
            yield from range(begin, end)


@dataclass(slots=True)
class Person:
    """One participant of a recording."""

    participant: str
    frames: Counter[str] = field(default_factory=Counter)
    """Frames by kind."""
    opened: Counter[str] = field(default_factory=Counter)
    """Opened frames by kind."""
    failures: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    """Frames that did not open, by reason and key id."""
    gaps: int = 0
    key_ids: dict[int, Seconds] = field(default_factory=dict)
    """Seconds by key id in use."""
    heard: Seconds = field(default_factory=Seconds)
    """Seconds of which some sound opened."""
    seen: Seconds = field(default_factory=Seconds)
    """Seconds of which some picture opened."""
    failed: Seconds = field(default_factory=Seconds)
    """Seconds of which some frame did not open."""
    spoke: Seconds = field(default_factory=Seconds)
    """Seconds in which the participant was loud enough to be speaking."""
    first: int = -1
    last: int = 0

    @property
    def present(self) -> list[tuple[int, int]]:
        """The stretches from which there are frames, as first second and the second behind the last."""
        return spans(self.heard, self.seen, self.failed)


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
            person.key_ids.setdefault(key_id, Seconds()).add(second)
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


def spans(*seconds: Seconds, join: int = 2) -> list[tuple[int, int]]:
    """Return the stretches of several sets of seconds together, as the first second and the one behind the last.

    :param join: stretches that are less than this number of seconds apart become one.
    """
    found: list[tuple[int, int]] = []
    for begin, end in sorted(stretch for each in seconds for stretch in each.stretches()):
        if found and begin - found[-1][1] < join:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found
