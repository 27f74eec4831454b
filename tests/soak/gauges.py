"""What leaks show in: memory, objects, threads and tasks of this process. For Linux with glibc."""

import asyncio
import ctypes
import gc
import os
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path

from aiortc.codecs.opus import OpusEncoder

from support.calls import sine, until

PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1e6
BLOCK = 96  # bytes of one that PyAV leaks
LARGE = 512  # bytes, from which on Python's objects are malloc's
KEPT = 1e6  # bytes: a forwarder keeps 1024 packets of each stream, now of small pictures and now of large ones

# The packages whose objects are counted, and of these what is media under way or kept for retransmission: so much of
# it as the line has just then. These are left to the trend of Python's blocks.
PACKAGES = {"aiortc", "aioice", "calls", "frameseal", "OpenSSL", "pyee", "pylibsrtp", "recording"}
MEDIA = {
    "aiortc.jitterbuffer.JitterFrame",
    "aiortc.rtp.HeaderExtensions",
    "aiortc.rtp.RtpPacket",
    "calls.Picture",
    "frameseal.aiortc.slots.LaterPayload",
}


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2``, which glibc has from 2.33 on."""

    _fields_ = [
        ("arena_and_blocks", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),
        ("unused", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),
        ("free", ctypes.c_size_t * 2),
    ]


_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Reading:
    """What is in use at one moment, with no garbage in it.

    tracemalloc would make a call several times as expensive. Between them malloc and the allocator for small objects
    have all that it sees, so it is left to whoever looks for the line: FRAMESEAL_SOAK_TRACE=1.
    """

    rss: float
    native: float  # bytes that malloc has given out: codecs, OpenSSL, Rust, Python's larger objects; not to tracemalloc
    blocks: float  # of Python's allocator for small objects, up to 512 bytes

    @classmethod
    def take(cls) -> "Reading":
        gc.collect()
        _libc.malloc_trim(0)  # or memory that was freed, and that malloc has not given back yet, would count as used
        _libc.mallinfo2.restype = Mallinfo
        heap = _libc.mallinfo2()
        return cls(
            rss=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            native=heap.uordblks + heap.hblkhd - tracemalloc.get_tracemalloc_memory(),
            blocks=sys.getallocatedblocks(),
        )

    @classmethod
    async def quiet(cls) -> "Reading":
        """The least of a few readings: what is under way in a call that goes on is only ever on top."""
        readings = [cls.take()]
        for _ in range(2):
            await asyncio.sleep(0.5)
            readings.append(cls.take())
        return cls(*(min(gauge) for gauge in zip(*map(astuple, readings), strict=True)))

    def __sub__(self, other: "Reading") -> "Reading":
        return Reading(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __add__(self, other: "Reading") -> "Reading":
        return self - other * -1

    def __mul__(self, times: float) -> "Reading":
        return Reading(*(gauge * times for gauge in astuple(self)))


def weight_of(pieces: Iterable[bytes]) -> Reading:
    """What pieces of media take: smaller or larger ones at every reading, however many there are."""
    sizes = [sys.getsizeof(piece) for piece in pieces]
    large = sum(size for size in sizes if size > LARGE)
    return Reading(sum(sizes), large, sum(size <= LARGE for size in sizes))


def leaked_by_pyav(frames: int = 400) -> Reading:
    """What the stack itself leaks with each Opus frame that it encodes, without any hook or call.

    PyAV before 17.1 leaks a block wherever FFmpeg asks for more input (PyAV#2282, aiortc#1423): two for each frame.
    vsaiortc still needs such a PyAV. Newer ones leak nothing here.
    """
    encoder = OpusEncoder()
    numbers = iter(range(2 * frames))
    before = None
    for _ in range(2):  # the first time for what is made once
        before = Reading.take()
        for number in islice(numbers, frames):
            encoder.encode(sine(number * 960, 960, 440, 48000))
    leaked = (Reading.take() - before) * (1 / frames)
    # So little is in the system's pages already, or makes it give a whole arena of them.
    return replace(leaked, rss=leaked.native + leaked.blocks * BLOCK)


def count_objects() -> Counter[str]:
    """The objects of the packages above, by type."""
    gc.collect()
    names = (f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return Counter(name for name in names if name.partition(".")[0] in PACKAGES and name not in MEDIA)


def blocks_by_line() -> Counter[str]:
    """How many of the blocks in use were allocated where, if tracemalloc is on."""
    gc.collect()
    if not tracemalloc.is_tracing():
        return Counter()
    lines = tracemalloc.take_snapshot().statistics("lineno")
    return Counter({f"{line.traceback[0].filename}:{line.traceback[0].lineno}": line.count for line in lines})


async def more_objects(than: Counter[str], tries: int = 20) -> dict[str, int]:
    """How many objects there are more of each type: in the end, and at every look before.

    In a call that goes on, a rotation or a connectivity check may be under way at one look. A leak is there at all.
    """
    more = count_objects() - than
    for _ in range(tries):
        if not more:
            break
        await asyncio.sleep(0.5)
        more &= count_objects() - than
    return dict(more)


class Census:
    """The threads and tasks that are there now, to ask later whether all that came since has gone."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._tasks = asyncio.all_tasks()

    async def leftovers(self, patience: float = 20) -> list[str]:
        """Name whatever came and does not end by itself; and the threads that should have stayed, and are gone."""
        tasks = asyncio.all_tasks() - self._tasks
        threads = set(threading.enumerate()) - self._threads

        def alive() -> list[str]:
            return [repr(task) for task in tasks if not task.done()] + [repr(t) for t in threads if t.is_alive()]

        try:
            await until(lambda: not alive(), patience)
        except AssertionError:
            return alive()
        return [f"{thread!r} is gone" for thread in self._threads if not thread.is_alive()]


@dataclass(frozen=True)
class Round:
    """How much has passed until the end of a round, and what was in use then, less what is known to be the stack's."""

    frames: int  # sealed or opened, since the beginning
    reading: Reading


@dataclass(frozen=True)
class Trend:
    """One gauge over all rounds: how far it may rise, and what would make it rise further."""

    name: str
    first: float
    last: float
    allowed: float
    because: str

    @property
    def is_flat(self) -> bool:
        return self.last - self.first <= self.allowed


def trends(rounds: list[Round]) -> list[Trend]:
    """Hold the last third of the rounds against the first: the least of each.

    A jitter buffer that waits for a lost packet holds hundreds of others at one reading and none at the next; so does
    whatever a busy machine has not come to. What comes and goes is only ever on top, and a leak raises the least too.

    Every leak that there can be per frame is above the bounds, which grow with the frames: a Python object is a block,
    a chunk of malloc's has 32 bytes (it takes half an hour to rise above the packets kept; a whole frame takes two
    minutes). A leak per participant is far above them, since a peer connection alone has thousands of blocks and its
    transports some 100 kB of OpenSSL's; what is smaller than that is counted one by one, by `count_objects`. RSS is
    what the system sees: the two, and what neither has (mapped files, stacks).
    It was seen to rise by 20 MB in ten minutes while both were flat: fragments, some of them around what PyAV leaks
    (and by twice that where each thread had an arena of malloc's: `make soak` gives them two).
    """
    third = len(rounds) // 3
    assert third, "three rounds are the least that can be compared"
    first, last = rounds[:third], rounds[-third:]
    frames = last[third // 2].frames - first[third // 2].frames

    def trend(name: str, unit: float, gauge: Callable[[Reading], float], allowed: float, because: str) -> Trend:
        before, after = (min(gauge(r.reading) / unit for r in part) for part in (first, last))
        return Trend(name, before, after, allowed / unit, because)

    return [
        trend("Python, blocks", 1, lambda r: r.blocks, frames / 4, "a block for every 4th frame"),
        trend("malloc, MB", MB, lambda r: r.native, frames * 16 + KEPT, "16 bytes per frame, and the packets kept"),
        trend("RSS, MB", MB, lambda r: r.rss, 48 * MB, "fragments"),
    ]


def table(rows: list[Trend]) -> str:
    lines = [f"{'':16}{'first third':>13}{'last third':>13}{'growth':>11}{'allowed':>11}"]
    for row in rows:
        numbers = f"{row.first:13,.2f}{row.last:13,.2f}{row.last - row.first:+11,.2f}{row.allowed:11,.2f}"
        lines.append(f"{row.name:16}{numbers}  {row.because}{'' if row.is_flat else '  <- not flat'}")
    return "\n".join(lines)
