"""Writes transcripts of opened files with a recogniser of the user's choice.

A recogniser is an entry point of the group ``frameseal.recognizers`` that any package may have. The entry point is a
callable without arguments that returns a `Recognizer`. The file `examples/recognizer` shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np

from frameseal.tools.media import Samples
from frameseal.tools.opening import sound
from frameseal.tools.opening.matroska import ParticipantFile
from frameseal.tools.opening.speech import MIN_RMS
from frameseal.tools.text import printable

GROUP = "frameseal.recognizers"
RATE = 16000  # samples in a second that a recogniser receives
WINDOW = RATE // 50  # samples of which one loudness is measured: 20 ms
PAUSE = RATE // 2  # samples of silence between two utterances
MAX_UTTERANCE = 30 * RATE  # samples of the longest utterance that a recogniser receives at once
MARGIN = RATE // 5  # samples of silence that stay before and after an utterance


class Recognizer(Protocol):
    """Turns speech into text."""

    def recognize(self, samples: Samples) -> Iterable[tuple[float, float, str]]:
        """Return the phrases in an utterance: begin and end in seconds from its first sample, and the text.

        :param samples: int16[n], mono, 16,000 in a second, at most 30 s.
        """


class NoRecognizer(Exception):
    """The recogniser is missing or cannot start: the message says what to do."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase of one participant, on the time line in seconds."""

    start: float
    end: float
    participant: str
    text: str


def find_recognizer(name: str | None) -> Recognizer:
    """Return the recogniser that an installed package has.

    :param name: the name of the entry point. None means the only one.
    :raises NoRecognizer: there is no such recogniser, there are several and no name, or it fails to start.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name is None and len(found) == 1:
        (name,) = found
    if name not in found:
        there = ", ".join(sorted(found))
        if not there:
            raise NoRecognizer(f"no recogniser is installed: a package needs an entry point in the group {GROUP}")
        raise NoRecognizer(f"pass --recognizer with one of: {there}")
    try:
        make: Callable[[], Recognizer] = found[name].load()
        return make()
    except Exception as error:
        raise NoRecognizer(f"the recogniser {name} cannot start: {type(error).__name__}: {error}") from error


def write_transcripts(files: list[ParticipantFile], folder: Path, recognizer: Recognizer) -> list[Phrase]:
    """Write `transcript.vtt` and `transcript.txt` for all, and `participants/NAME.vtt` for each participant.

    :param files: the opened files.
    :param folder: made if it is missing.
    :raises OSError: the folder cannot be written.
    """
    apart = folder / "participants"
    apart.mkdir(parents=True, exist_ok=True)
    everything: list[Phrase] = []
    for file in files:
        if not file.path.exists():
            continue
        spoken = sorted(_phrases(file, recognizer), key=lambda phrase: (phrase.start, phrase.end))
        if spoken:
            _write(apart / f"{file.path.stem}.vtt", _vtt(spoken))
        everything += spoken
    everything.sort(key=lambda phrase: (phrase.start, phrase.end))
    _write(folder / "transcript.vtt", _vtt(everything))
    lines = (f"[{_stamp(p.start)[:-4]}] {printable(p.participant)}: {p.text}\n" for p in everything)
    _write(folder / "transcript.txt", "".join(lines))
    return everything


def _phrases(file: ParticipantFile, recognizer: Recognizer) -> Iterator[Phrase]:
    for start, samples in utterances(sound.stretches(file.path, RATE)):
        for begin, end, text in recognizer.recognize(samples):
            said = " ".join(text.split())
            if said:
                yield Phrase(start / RATE + begin, start / RATE + max(begin, end), file.participant, said)


def utterances(stretches: Iterable[tuple[int, Samples]]) -> Iterator[tuple[int, Samples]]:
    """Yield the stretches of speech in a sound, with the number of the first sample.

    They are divided where nobody speaks or sound is missing, and after 30 s.

    :param stretches: as `sound.stretches` yields them, at 16 kHz.
    """
    held: list[Samples] = []
    first, length, quiet, speaks = 0, 0, 0, False

    def cut() -> Iterator[tuple[int, Samples]]:
        nonlocal held, length, quiet, speaks
        if speaks:
            yield first, np.concatenate(held)
        held, length, quiet, speaks = [], 0, 0, False

    for start, samples in stretches:
        if held and start != first + length:
            yield from cut()
        for offset in range(0, len(samples), WINDOW):
            window = samples[offset : offset + WINDOW]
            if not held:
                first = start + offset
            held.append(window)
            length += len(window)
            is_loud = float(np.sqrt((window.astype(np.float32) ** 2).mean())) >= MIN_RMS
            quiet = 0 if is_loud else quiet + len(window)
            speaks = speaks or is_loud
            if length >= MAX_UTTERANCE or (speaks and quiet >= PAUSE):
                yield from cut()
            elif not speaks and length > MARGIN:
                length -= len(held[0])
                first += len(held.pop(0))
    yield from cut()


def _vtt(phrases: list[Phrase]) -> str:
    """Return a WebVTT file (W3C, section 4)."""
    cues = (
        f"{_stamp(p.start)} --> {_stamp(max(p.end, p.start + 0.001))}\n<v {_escaped(printable(p.participant))}>"
        f"{_escaped(p.text)}\n\n"
        for p in phrases
    )
    return "WEBVTT\n\n" + "".join(cues)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _stamp(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{rest:03}"


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(text, "utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
