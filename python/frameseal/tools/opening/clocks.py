"""Places the frames of all tracks on one time line: lip-sync from arrival times and RTP clocks.

Each track counts in its own RTP clock, which starts at a random number (RFC 3550, section 5.1). Only the arrival times
relate the clocks of two tracks. An arrival is late by the network's delay, which varies. So the frame that was delayed
least says when the track's clock was zero: its *offset* is the minimum of arrival minus RTP time. Within a track the
RTP clock alone decides, so that jitter does not reach the picture or the sound.

* The first two seconds of a track are held back, and the minimum of these two seconds is the offset.
* Clocks drift. The minimum of ten seconds moves the offset, if the two differ by more than the tolerance, and slowly.
* A new RTP stream, or a jump of the RTP clock, starts over: a participant who leaves and comes back. A burst of late
  frames looks the same at first. The two seconds tell the two apart.
* The recorder's clock may be set back. The time line then goes on where it was. It never runs backwards. A small
  difference shows it only where a new stream of a track begins. Within a stream, a jitter buffer that waits for a lost
  packet hands on the frames seconds later than those of other tracks, and the frame that waited arrived last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from frameseal.tools.opening.frames import OpenedFrame

SECOND = 1_000_000  # all times are in microseconds
HOLD = 2 * SECOND  # frames that are held until the offset of a track is known
WINDOW = 10 * SECOND  # the offset follows the minimum of this time
TOLERANCE = 10_000  # the offset stays while the minimum differs by less: half of a quarter of 40 ms for each track
SLEW = 2_000  # the maximum change of an offset in a second
JUMP = SECOND  # a larger difference is no jitter
MAX_STALL = 10 * SECOND  # the maximum time for which a network is taken to hold frames back
MAX_HELD_UP = 60 * SECOND  # the maximum time for which a jitter buffer is taken to hold frames back
MAX_FRAMES_HELD = 4096  # a track that sends more in two seconds is placed with fewer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame and its time from the start of the recording, in microseconds. The time is 0 or more."""

    time: int
    frame: OpenedFrame


@dataclass(slots=True)
class _Track:
    offset: int = 0
    known: bool = False  # True once the offset is
    ssrc: int = 0
    holding: bool = True
    held: list[tuple[int, int, OpenedFrame]] = field(default_factory=list)  # RTP time, arrival, frame
    # Arrival and offset, in which both rise: the first one is the minimum of the window.
    window: deque[tuple[int, int]] = field(default_factory=deque)
    slewed_at: int = 0
    last: int = 0  # the time of the last placed frame
    arrived: int | None = None  # the latest arrival

    def first(self) -> int:
        """Return the time of the first held frame, before the start is known."""
        return self.held[0][0] + self.least()

    def least(self) -> int:
        return min(arrival - rtp for rtp, arrival, _ in self.held)

    def observe(self, arrival: int, offset: int) -> None:
        while self.window and self.window[-1][1] >= offset:
            self.window.pop()
        self.window.append((arrival, offset))
        while self.window[0][0] < arrival - WINDOW:
            self.window.popleft()


class Clocks:
    """Places frames. `push` them in the order of the recording, then `flush`."""

    def __init__(self) -> None:
        self.start: datetime | None = None
        """The time on the recorder's clock at which the time line begins. None until the first frame is placed."""
        self.set_back: list[tuple[int, int]] = []
        """Where the recorder's clock was set back: microseconds from the start, and by how many microseconds."""
        self._tracks: dict[tuple[str, str], _Track] = {}
        self._start: int | None = None
        self._latest: int | None = None
        self._correction = 0

    def push(self, frame: OpenedFrame) -> Iterator[Placed]:
        """Yield the frames of its track that can be placed now, in their order."""
        track = self._tracks.setdefault((frame.participant, frame.track), _Track(ssrc=frame.ssrc))
        arrival = self._steady(track, frame.ssrc, (frame.arrival - _EPOCH) // _MICROSECOND)
        rtp = frame.rtp_timestamp * SECOND // max(frame.clock_rate, 1)
        difference = arrival - rtp
        if frame.ssrc != track.ssrc:
            yield from self._release(track)
            track.ssrc, track.holding, track.known = frame.ssrc, True, False
        elif not track.holding and abs(difference - track.offset) > JUMP:
            track.holding = True
        elif track.held and not -MAX_STALL <= difference - track.least() <= JUMP:
            # Later than the held frames by more than jitter: the RTP clock has stood still, or the network has. Or
            # earlier by more than any stall of the network explains: the RTP clock has jumped.
            yield from self._release(track)
            track.holding = True
        if track.holding:
            track.held.append((rtp, arrival, frame))
            if arrival - track.held[0][1] >= HOLD or len(track.held) >= MAX_FRAMES_HELD:
                yield from self._release(track)
            return
        track.observe(arrival, difference)
        self._slew(track, arrival)
        yield self._place(track, rtp, frame)

    def flush(self) -> Iterator[Placed]:
        """Yield the frames that are still held."""
        for track in self._tracks.values():
            yield from self._release(track)

    def _steady(self, track: _Track, ssrc: int, arrival: int) -> int:
        """Return the arrival time on a clock that is not set back."""
        arrival += self._correction
        is_new = track.arrived is not None and ssrc != track.ssrc
        least = (track.arrived or 0) - SECOND if is_new else (self._latest or arrival) - MAX_HELD_UP
        if self._latest is not None and arrival < least:
            self.set_back.append((self._latest - (self._start or 0), self._latest - arrival))
            self._correction += self._latest - arrival
            arrival = self._latest
        self._latest = arrival if self._latest is None else max(self._latest, arrival)
        track.arrived = max(arrival, track.arrived or arrival)
        return arrival

    def _release(self, track: _Track) -> Iterator[Placed]:
        if not track.held:
            return
        if self._start is None:
            self._start = min(each.first() for each in self._tracks.values() if each.held)
            self.start = _EPOCH + self._start * _MICROSECOND
        least = track.least()
        # A burst ends where the offset was before it. After a jump the offset is another.
        if not track.known or abs(least - track.offset) > JUMP // 2:
            track.offset, track.known = least, True
        track.window.clear()
        for rtp, arrival, _ in track.held:
            track.observe(arrival, arrival - rtp)
        held, track.held, track.holding = track.held, [], False
        track.slewed_at = held[-1][1]
        for rtp, _, frame in held:
            yield self._place(track, rtp, frame)

    def _slew(self, track: _Track, arrival: int) -> None:
        wrong = track.window[0][1] - track.offset
        if abs(wrong) > TOLERANCE:
            most = SLEW * max(arrival - track.slewed_at, 0) // SECOND
            track.offset += max(-most, min(most, wrong))
        if abs(wrong) <= TOLERANCE or arrival - track.slewed_at >= SECOND // SLEW:
            track.slewed_at = arrival

    def _place(self, track: _Track, rtp: int, frame: OpenedFrame) -> Placed:
        track.last = max(rtp + track.offset - (self._start or 0), track.last, 0)
        return Placed(track.last, frame)
