"""The live display of a call: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from frameseal.events import E2EEStateChange
from frameseal.tools.demo.call import Status
from frameseal.tools.demo.observer import Observer
from frameseal.tools.demo.verdict import MAX_LEAKED_SCORE, MIN_SOUND_SCORE, listen

PLAIN_INTERVAL = 2.0  # seconds between two lines without a terminal
RATE_SPAN = 10  # number of updates (1 s) over which rates are averaged

PARTICIPANTS = (("alice", "Alice", "publisher"), ("bob", "Bob", "bob"), ("eve", "Eve", "eve"))  # id, name, leg


class Screen:
    """Displays a call: a context manager that implements `Display`."""

    def __init__(self, console: Console, seconds: float) -> None:
        """Display a call of *seconds* on *console*."""
        self._console = console
        self._bar = Progress(TextColumn(" "), BarColumn(bar_width=None), TextColumn("{task.fields[time]}"), expand=True)
        self._task = self._bar.add_task("", total=seconds, time="")
        self._live = Live(console=console, refresh_per_second=10) if console.is_terminal else None
        self._counts: deque[tuple[float, dict[tuple[str, str], tuple[int, int]]]] = deque(maxlen=RATE_SPAN)
        self._next_line = PLAIN_INTERVAL

    def __enter__(self) -> Screen:
        """Start the display."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the display. The last state stays on the screen."""
        if self._live is not None:
            self._live.stop()

    def update(self, status: Status) -> None:
        """Display the state of the call."""
        self._counts.append((status.elapsed, _counts(status)))
        if self._live is not None:
            total = status.options.seconds
            done = min(status.elapsed, total)
            waits = status.elapsed >= total and not status.is_over
            time = "until enough frames have passed " if waits else f"{done:.1f} of {total:g} s "
            self._bar.update(self._task, completed=done, time=time)
            self._live.update(Panel(Group(self._table(status), self._bar), title=_title(status), border_style="cyan"))
        elif status.elapsed >= self._next_line:
            self._next_line += PLAIN_INTERVAL
            self._console.print(self._line(status), soft_wrap=True, highlight=False)

    def changed(self, who: str, change: E2EEStateChange) -> None:
        """Print the changed state of a participant's track, without a terminal."""
        if self._live is None:
            reason = f" ({change.reason})" if change.reason else ""
            self._console.print(f"{who}: {change.kind} {change.state.value}{reason}", soft_wrap=True, highlight=False)

    def _rates(self, key: tuple[str, str]) -> tuple[float, float]:
        """Return frames and kilobits per second."""
        (first, before), (last, now) = self._counts[0], self._counts[-1]
        span = max(last - first, 1e-9)
        return (now[key][0] - before[key][0]) / span, (now[key][1] - before[key][1]) * 8 / 1000 / span

    def _table(self, status: Status) -> Table:
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        for heading in ("", "track", "state"):
            table.add_column(heading, no_wrap=True)
        for heading in ("frames ok", "dropped", "fps", "kbit/s"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, title, _ in PARTICIPANTS:
            for kind in ("video", "audio"):
                counters = status.counters(name, kind)
                rate, kilobits = self._rates((name, kind))
                table.add_row(
                    Text(title if kind == "video" else "", style="bold"),
                    kind,
                    _state(status, name, kind),
                    str(counters.frames_out) if counters is not None else "-",
                    str(counters.dropped) if counters is not None else "-",
                    f"{rate:.0f}",
                    f"{kilobits:.0f}",
                )
        spy = status.forwarder
        table.add_row(
            Text("Forwarder", style="bold"),
            "video",
            Text("no key", style="red") if not spy.right else Text("READS IT", style="bold white on red"),
            f"0 of {spy.frames_tried}" if not spy.right else str(spy.right),
            *[""] * 3,
        )
        return table

    def _line(self, status: Status) -> str:
        sealed, opened, kept_out = (status.counters(name, "video") for name in ("alice", "bob", "eve"))
        rate, _ = self._rates(("bob", "video"))
        _, kilobits = self._rates(("alice", "video"))
        return (
            f"{status.elapsed:5.1f} s  video frames: Alice sealed {sealed.frames_out if sealed else 0}, "
            f"Bob opened {opened.frames_out if opened else 0}, Eve dropped {kept_out.dropped if kept_out else 0}; "
            f"{rate:.0f} frames/s, {kilobits:.0f} kbit/s"
        )


def summary(status: Status) -> RenderableType:
    """Return the final table of the frames, pictures and sound at each participant."""
    table = Table(box=box.ROUNDED, title="Who saw and heard Alice", title_style="bold")
    for heading in ("", "key"):
        table.add_column(heading, no_wrap=True)
    for heading in ("frames", "opened", "pictures", "Alice's"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("sound", no_wrap=True)
    spy, sent = status.forwarder, status.sent
    sealed = status.counters("alice", "video")
    table.add_row("Alice", "her own", str(sealed.frames_out if sealed else 0), "", "", str(len(sent.thumbnails)), "")
    table.add_row("Forwarder", "none", str(spy.frames_tried), "0", *_findings(status, spy, good=False))
    for name, key, observer in (("bob", "right", status.bob), ("eve", "wrong", status.eve)):
        counters = status.counters(name, "video")
        frames, opened = (counters.frames_in, counters.frames_out) if counters is not None else (0, 0)
        table.add_row(name.title(), key, str(frames), str(opened), *_findings(status, observer, good=name == "bob"))
    return table


def _findings(status: Status, observer: Observer, *, good: bool) -> list[str | Text]:
    """Return the cells for decoded pictures, recognised pictures and sound.

    :param good: True if the observer should see and hear Alice.
    """
    hearing = listen(status.sent, observer.heard())
    heard = hearing.score >= MIN_SOUND_SCORE if good else hearing.score <= MAX_LEAKED_SCORE
    return [
        str(observer.frames),
        Text(str(observer.right), style="green" if (observer.right > 0) == good else "bold red"),
        Text(hearing.description, style="green" if heard else "bold red"),
    ]


def _title(status: Status) -> str:
    options = status.options
    loss = f", {100 * options.loss:g} % loss" if options.loss else ""
    return f"[bold]frameseal demo[/]: {options.profile}, {options.codec.upper()}{loss}"


def _state(status: Status, name: str, kind: str) -> Text:
    state = status.states.get((name, kind))
    if state is None:
        return Text("waiting", style="dim")
    return Text(state.value, style="green" if state.value.endswith("Success") else "red")


def _counts(status: Status) -> dict[tuple[str, str], tuple[int, int]]:
    counts = {}
    for name, _, leg in PARTICIPANTS:
        for kind in ("video", "audio"):
            counters, stats = status.counters(name, kind), status.legs.get(leg)
            frames = counters.frames_out if counters is not None else 0
            counts[name, kind] = frames, stats.payload_bytes[kind] if stats is not None else 0
    return counts
