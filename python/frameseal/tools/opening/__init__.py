"""`frameseal open`: opens a sealed recording into files that players play.

Every module but `source` and `hints` works on a stream of `OpenedFrame`, and knows neither keys nor archives:

    source -> frames -> clocks -> matroska -> sound -> grid, speech, transcript
           -> hints            -> history  -> table, timeline
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from frameseal.tools.opening import grid, keys, source, speech, timeline, transcript
from frameseal.tools.opening.clocks import Clocks
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.opening.hints import Hints
from frameseal.tools.opening.history import History, Seconds
from frameseal.tools.opening.matroska import ParticipantFile, Recordings, UnusableFolder
from frameseal.tools.opening.table import remarks, summary
from frameseal.tools.opening.text import clock
from frameseal.tools.text import printable

__all__ = ["OpenOptions", "OpenedFrame", "Opened", "open_frames", "run"]

OPENED, PARTLY, CANNOT_RUN = 0, 1, 2
TIMELINE = "timeline.png"
UPDATE_FRAMES = 500  # frames between two updates of the progress bar


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """The options of `frameseal open`."""

    archive: str
    """The archive's folder, or a location such as ``s3://bucket/folder``."""
    output: Path
    passphrase_files: tuple[Path, ...] = ()
    key_files: tuple[Path, ...] = ()
    overwrite: bool = False
    grid: Path | None = None
    transcript: Path | None = None
    recognizer: str | None = None
    recording: str | None = None
    """The id of the recording. None means the first one of the archive."""


@dataclass(slots=True)
class Opened:
    """A recording after opening."""

    history: History
    clocks: Clocks
    files: list[ParticipantFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Things that are missing from the output, beside frames that did not open."""

    @property
    def complete(self) -> bool:
        """True if each frame opened, and everything that was asked for was written."""
        return self.history.everything_opened and not self.problems


def run(options: OpenOptions, console: Console | None = None) -> int:
    """Open a recording, and print what opened and what did not.

    :return: 0 if everything opened, 1 if a part is missing, 2 if it could not run.
    """
    screen = console or Console()
    try:
        _check_places(options)
        recognizer = transcript.find_recognizer(options.recognizer) if options.transcript is not None else None
        providers = keys.providers(_entries(options))
        left_out: list[str] = []
        hints = Hints(providers)
        frames = source.opened_frames(options.archive, providers, left_out.append, options.recording, hints)
        opened = open_frames(
            frames,
            options.output,
            overwrite=options.overwrite,
            console=screen,
        )
        opened.problems[:0] = left_out
        if opened.files:
            _extras(options, opened, recognizer, screen)
            image = timeline.draw_timeline(opened.history, opened.clocks.start)
            image.save(options.output / TIMELINE)
    except (UnusableFolder, keys.UnusableKeys, transcript.NoRecognizer, source.UnreadableArchive) as error:
        print(f"frameseal open: {error}", file=sys.stderr)
        return CANNOT_RUN
    except OSError as error:
        # The message of the system only: names of files may come from strangers.
        print(f"frameseal open: the output cannot be written: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN
    if not opened.history.people:
        for problem in opened.problems or ["the archive has no frames"]:
            print(f"frameseal open: {problem}", file=sys.stderr)
        return CANNOT_RUN
    screen.print(summary(opened.history, opened.files))
    for remark in remarks(opened.history, opened.files, opened.clocks):
        screen.print(remark, markup=False, highlight=False)
    for problem in opened.problems:
        screen.print(f"Missing: {problem}", markup=False, highlight=False)
    for sentence in hints.sentences():
        screen.print(f"Hint: {sentence}", markup=False, highlight=False)
    if not opened.complete:
        screen.print("Not everything has opened.", style="bold red")
    return OPENED if opened.complete else PARTLY


def _check_places(options: OpenOptions) -> None:
    """Refuse an output inside the archive: whoever stores the archive must not receive opened media.

    :raises UnusableFolder: the output, the grid or the transcript lies in the archive's folder.
    """
    archive = Path(options.archive)
    if not archive.is_dir():
        return
    inside = archive.resolve()
    for option, path in (("-o", options.output), ("--grid", options.grid), ("--transcript", options.transcript)):
        if path is not None and path.resolve().is_relative_to(inside):
            raise UnusableFolder(f"{option} lies inside the archive, which may hold sealed frames only: pass another")


def _entries(options: OpenOptions) -> list[keys.KeyEntry]:
    entries = [entry for path in options.key_files for entry in keys.read_key_file(path)]
    entries += [entry for path in options.passphrase_files for entry in keys.read_passphrase_file(path)]
    return entries or keys.prompted_passphrase()


def open_frames(
    frames: Iterable[OpenedFrame], folder: Path, *, overwrite: bool = False, console: Console | None = None
) -> Opened:
    """Write a Matroska file for each participant of a recording.

    :param frames: in the order of the recording. If they end with `source.UnreadableArchive`, the frames before it are
        written.
    :param folder: made if it is missing.
    :param overwrite: True allows a folder that has files.
    :param console: shows a progress bar. None shows none.
    :raises UnusableFolder: the folder cannot be used.
    :raises OSError: the disk is full, or the folder cannot be written.
    """
    clocks, history = Clocks(), History()
    opened = Opened(history, clocks)
    with Recordings(folder, overwrite=overwrite) as recordings, _bar(console, "opening") as bar:
        for count, frame in enumerate(_until_unreadable(frames, opened.problems), 1):
            for placed in clocks.push(frame):
                history.add(placed)
                recordings.write(placed)
            if count % UPDATE_FRAMES == 0:
                bar(f"{count:,} frames, {clock(history.seconds)} of the recording", None)
        for placed in clocks.flush():
            history.add(placed)
            recordings.write(placed)
        opened.files = recordings.finish(clocks.start)
    for file in opened.files:
        for track in file.tracks:
            if track.problem is not None:
                name = printable(file.participant)
                opened.problems.append(f"{track.kind} of {name} ({printable(track.codec)}): {track.problem}")
    for file in opened.files:
        if file.path.exists():
            history.people[file.participant].spoke = Seconds(speech.spoken_seconds(file.path))
    return opened


def _until_unreadable(frames: Iterable[OpenedFrame], problems: list[str]) -> Iterator[OpenedFrame]:
    """Yield the frames until their source fails, and note why."""
    try:
        yield from frames
    except source.UnreadableArchive as error:
        problems.append(str(error))


def _extras(options: OpenOptions, opened: Opened, recognizer: transcript.Recognizer | None, console: Console) -> None:
    """Write the grid and the transcript. What fails is noted, and the other is written all the same."""
    if options.grid is not None:
        total = float(opened.history.seconds)
        with _bar(console, "composing the grid") as bar:
            try:
                grid.write_grid(opened.files, options.grid, total, lambda done: bar(f"{clock(done)}", done / total))
            except (grid.NoGrid, OSError) as error:
                opened.problems.append(f"the grid: {error.strerror if isinstance(error, OSError) else error}")
    if options.transcript is not None and recognizer is not None:
        with _bar(console, "transcribing") as bar:
            bar("", None)
            try:
                transcript.write_transcripts(opened.files, options.transcript, recognizer)
            except Exception as error:  # the recogniser is somebody else's
                opened.problems.append(f"the transcript: {type(error).__name__}: {error}")


@contextmanager
def _bar(console: Console | None, what: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show a progress bar, and pass a function that updates it: a text, and the share that is done or None."""
    if console is None or not console.is_terminal:
        yield lambda text, share: None
        return
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, text="")

        def update(text: str, share: float | None) -> None:
            progress.update(task, text=text, total=None if share is None else 1, completed=share or 0)

        yield update
