"""Measures what a room pays: calls of many participants in one process, attached and not, in turns.

    python benches/rooms.py [--participants 10 25 50] [--rounds 6] [--seconds 3] [--keep]

A participant is a call of aiortc over loopback with both ends in the process: Opus in packets of 60 ms, and VP8 of
320x180 at 5 frames a second. With more, two cores do not keep up with 50 participants. Packets are encoded beforehand,
since a room's senders encode elsewhere. Packetizer, SRTP, network, jitter buffer and decoders are those of aiortc. Each
participant has a key of their own, and one `E2EEManager` receives all of them.

The room that is attached and the one that is not have a process each, and play the same seconds in turns. The process
of the latter never imports frameseal. The columns:

* CPU seconds of the process per second of media. "Added" is the median of the rounds' ratios.
* p99 of the time from the packet that completes a frame to the decoded frame in its track. A frame is complete when the
  jitter buffer releases it. "Pace" is the time that the media took, divided by the time until their last frame was due.
  Above 1 the process cannot keep up, and frames wait for it.
* Memory: what the process grew by, for each participant.

The last rows are the slope between the rooms: what one more participant costs. It leaves out what a process needs once.
The figures are written to results/rooms.json, and drawn beside it. `--keep` keeps the rooms of other sizes that are
there, so that each size can be measured by itself.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import aiortc
import av
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import call
from memory import resident
from turns import PLAIN, SEALED, Worker, error_of_median, in_turns, is_worker, serve

WIDTH, HEIGHT, VIDEO_RATE, BIT_RATE = 320, 180, 5, 100_000
SOUND_MS = 60  # the length of an Opus packet
AUDIO_RATE = Fraction(1000, SOUND_MS)
MEDIA = f"Opus of {SOUND_MS} ms, VP8 {WIDTH}x{HEIGHT} at {VIDEO_RATE}/s"
WARM_UP = 1.0  # s
SETTLED_WITHIN = 20.0  # s: a busy machine decodes the last frames late


def video_packets() -> list[av.Packet]:
    """Return VP8 packets of a few seconds, of which the first is a keyframe."""
    random = np.random.default_rng(2)
    codec = av.CodecContext.create("libvpx", "w")
    codec.width, codec.height, codec.pix_fmt, codec.bit_rate = WIDTH, HEIGHT, "yuv420p", BIT_RATE
    codec.gop_size, codec.thread_count = 3000, 1
    codec.time_base = Fraction(1, VIDEO_RATE)
    codec.options = {"deadline": "realtime", "cpu-used": "-6", "lag-in-frames": "0"}
    packets = []
    for n, clean in enumerate(call.pictures(30, WIDTH, HEIGHT)):
        image = clean.to_ndarray()
        # A camera's noise, which fills the bit rate.
        image[:HEIGHT] += random.integers(0, 12, (HEIGHT, WIDTH), np.uint8)
        picture = av.VideoFrame.from_ndarray(image, format="yuv420p")
        picture.pts, picture.time_base = n, codec.time_base
        packets += codec.encode(picture)
    return packets


def audio_packets() -> list[av.Packet]:
    """Return Opus packets of a second."""
    codec = av.CodecContext.create("libopus", "w")
    codec.format, codec.layout, codec.sample_rate, codec.bit_rate = "s16", "mono", 48_000, 32_000
    codec.options = {"application": "voip", "frame_duration": str(SOUND_MS)}
    packets = []
    for n, sound in enumerate(call.sounds()):
        sound.pts, sound.time_base = n * sound.samples, Fraction(1, 48_000)
        packets += codec.encode(sound)
    return packets


class Delays:
    """Measures the time from the packet that completes a frame to the decoded frame, in ms."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self._arrived = 0.0
        self._released: dict[aiortc.MediaStreamTrack, dict[int, float]] = {}

    def follow(self, pc: aiortc.RTCPeerConnection) -> None:
        """Measure what *pc* receives. Call it before the first packet arrives."""
        receivers = pc.getReceivers()
        for transport in {receiver.transport for receiver in receivers}:
            transport._handle_rtp_data = partial(self._handle, transport)
        for receiver in receivers:
            released = self._released[receiver.track] = {}
            buffer = receiver._RTCRtpReceiver__jitter_buffer
            buffer.add = partial(self._add, buffer, released)

    def decoded(self, track: aiortc.MediaStreamTrack, frame: av.VideoFrame | av.AudioFrame) -> None:
        arrived = self._released.get(track, {}).pop(frame.pts, None)
        if arrived is not None:
            self.ms.append((time.perf_counter() - arrived) * 1e3)

    async def _handle(self, transport: Any, data: bytes, **keywords: Any) -> None:
        self._arrived = time.perf_counter()  # the frame that this packet completes is queued before anything else runs
        await type(transport)._handle_rtp_data(transport, data, **keywords)

    def _add(self, buffer: Any, released: dict[int, float], packet: Any) -> tuple[bool, Any]:
        requests_keyframe, frame = type(buffer).add(buffer, packet)
        if frame is not None:
            # The receiver counts timestamps from its first frame, and so do decoded frames.
            origin = vars(buffer).setdefault("first_timestamp", frame.timestamp)
            released[(frame.timestamp - origin) & 0xFFFF_FFFF] = self._arrived
        return requests_keyframe, frame


class Room:
    """The calls of all participants."""

    def __init__(self, sealed: bool) -> None:
        self._sealed, self._delays = sealed, Delays()
        self._video, self._audio = video_packets(), audio_packets()
        self._calls: list[call.Call] = []

    async def join(self, participants: int) -> float:
        """Connect everybody, and return the bytes by which the process grew for each."""
        gc.collect()
        before = resident()
        if self._sealed:
            self._open_with_keys(participants)
        for number in range(participants):
            self._calls.append(call.Call(self._video, self._audio, VIDEO_RATE, AUDIO_RATE, self._delays.decoded))
            if self._sealed:
                self._attach(self._calls[-1], number)
            await self._calls[-1].connect()
            self._delays.follow(self._calls[-1].receiving)
        await self.play(WARM_UP)
        gc.collect()
        return (resident() - before) / participants

    async def play(self, seconds: float) -> dict[str, Any]:
        """Play *seconds* of everybody's media, and return the CPU seconds and the time per second, and the delays."""
        self._delays.ms.clear()
        counted = [dict(one.decoded) for one in self._calls]
        start, cpu = time.monotonic(), time.process_time()
        for number, one in enumerate(self._calls):
            for source in one.sources:
                source.play(seconds, after=number / len(self._calls) / VIDEO_RATE)
        async with asyncio.timeout(60 + 20 * seconds):
            for one in self._calls:
                for source in one.sources:
                    await source.played.wait()
        planned = max(source.planned for one in self._calls for source in one.sources)
        pace = (time.monotonic() - start) / planned
        assert self._sealed or "frameseal" not in sys.modules
        decoded = await self._settled(counted)
        return {
            "cpu": (time.process_time() - cpu) / seconds,
            "pace": pace,
            "ms": [round(ms, 3) for ms in self._delays.ms],
            "decoded": sum(decoded),
            "silent": decoded.count(0),
        }

    async def _settled(self, counted: list[dict[str, int]]) -> list[int]:
        """Return how many frames each track has decoded since *counted*, as soon as nothing more arrives."""
        last: list[int] = []
        for _ in range(round(SETTLED_WITHIN / call.SETTLE)):
            decoded = [
                one.decoded[kind] - before[kind]
                for one, before in zip(self._calls, counted, strict=True)
                for kind in one.decoded
            ]
            if decoded == last and all(decoded):
                break
            last = decoded
            await asyncio.sleep(call.SETTLE)
        return last

    def _open_with_keys(self, participants: int) -> None:
        from frameseal import E2EEManager, KeyProvider

        provider = KeyProvider()
        for number in range(participants):
            provider.set_key(f"participant {number}", self._key(number))
        self._receiving = E2EEManager(provider, "livekit")

    def _attach(self, one: call.Call, number: int) -> None:
        from frameseal import E2EEManager, KeyProvider
        from frameseal.aiortc import attach

        name, provider = f"participant {number}", KeyProvider()
        provider.set_key(name, self._key(number))
        attach(one.sending, E2EEManager(provider, "livekit"), local_id=name, remote_id="nobody")
        attach(one.receiving, self._receiving, local_id="the room", remote_id=name)

    @staticmethod
    def _key(number: int) -> bytes:
        return number.to_bytes(32, "big")


async def work(name: str) -> None:
    """Answer requests: ["join", participants] and ["play", seconds]."""
    room = Room(name == SEALED)

    async def answer(request: list[Any]) -> object:
        what, amount = request
        return await (room.join(amount) if what == "join" else room.play(amount))

    await serve(answer)


def measure(participants: int, rounds: int, seconds: float, advance: Any) -> dict[str, Any]:
    """Return the figures of one size of room, by whether it is attached."""
    with Worker(__file__, "--serve", PLAIN) as plain, Worker(__file__, "--serve", SEALED) as sealed:
        workers = {PLAIN: plain, SEALED: sealed}
        memory = in_turns(workers, 0, ["join", participants])
        advance()
        turns = []
        for turn in range(rounds):
            turns.append(in_turns(workers, turn, ["play", seconds]))
            advance()
    found: dict[str, Any] = {}
    for name in workers:
        delays = sorted(ms for turn in turns for ms in turn[name]["ms"])
        if not delays or turns[-1][name]["silent"]:
            raise SystemExit(f"{participants} participants, {name}: {turns[-1][name]['silent']} tracks decoded nothing")
        found[name] = {
            "cpu_s_per_s": statistics.median(turn[name]["cpu"] for turn in turns),
            "pace": statistics.median(turn[name]["pace"] for turn in turns),
            "p50_ms": delays[len(delays) // 2],
            "p99_ms": delays[int(len(delays) * 0.99)],
            "bytes_each": memory[name],
            "frames_decoded": sum(turn[name]["decoded"] for turn in turns),
            "frames_timed": len(delays),
        }
    found["added_by_round"] = sorted(turn[SEALED]["cpu"] / turn[PLAIN]["cpu"] - 1 for turn in turns)
    return found


def slopes(rooms: dict[int, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return CPU seconds a second and bytes that one more participant costs: the least squares over the rooms."""
    sizes = np.array(list(rooms), float)
    if len(sizes) < 2:
        return {}

    def slope(values: list[float]) -> float:
        return float(np.polyfit(sizes, np.array(values), 1)[0])

    return {
        name: {
            "cpu_s_per_s": slope([room[name]["cpu_s_per_s"] for room in rooms.values()]),
            "bytes": slope([size * room[name]["bytes_each"] for size, room in rooms.items()]),
        }
        for name in (PLAIN, SEALED)
    }


def kept(path: Path) -> dict[int, dict[str, Any]]:
    """Return the rooms of an earlier run with the same media, by their size. There are none if the file is missing."""
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if earlier.get("media") != MEDIA:
        return {}
    return {int(size): room for size, room in earlier["rooms"].items()}


def show(console: Console, rooms: dict[int, dict[str, Any]], by_participant: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"a room in one process, of each participant {MEDIA}")
    for column in ("people", "", "CPU s/s", "added", "p99, ms", "pace", "MB each"):
        table.add_column(column, justify="right" if column else "left")
    for size, room in rooms.items():
        added = room["added_by_round"]
        error = error_of_median(added)
        noise = "" if error is None else f" ± {error:.1%}"
        for name in (PLAIN, SEALED):
            own = room[name]
            table.add_row(
                str(size),
                name,
                f"{own['cpu_s_per_s']:.3f}",
                f"{statistics.median(added):+.1%}{noise}" if name == SEALED else "",
                f"{own['p99_ms']:.1f}",
                f"{own['pace']:.2f}",
                f"{own['bytes_each'] / 1e6:.2f}",
            )
    table.add_section()
    for name, own in by_participant.items():
        added = f"{own['cpu_s_per_s'] / by_participant[PLAIN]['cpu_s_per_s'] - 1:+.1%}" if name == SEALED else ""
        cells = (f"{own['cpu_s_per_s']:.4f}", added, "", "", f"{own['bytes'] / 1e6:.2f}")
        table.add_row("each", name, *cells, style="bold")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, nargs="+", default=[10, 25, 50], help="sizes of the rooms")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each room")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of media in a turn")
    parser.add_argument("--keep", action="store_true", help="keep the rooms of other sizes in the file of the figures")
    if is_worker(parser, (PLAIN, SEALED), work):
        return 0
    import plot
    import record

    record.add_output(parser, "rooms")
    arguments = parser.parse_args()
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("rooms take turns", total=len(arguments.participants) * (arguments.rounds + 1))
        rooms = {
            size: measure(size, arguments.rounds, arguments.seconds, partial(progress.advance, task))
            for size in arguments.participants
        }
    if arguments.keep:
        rooms = dict(sorted((kept(arguments.output) | rooms).items()))
    by_participant = slopes(rooms)
    show(console, rooms, by_participant)
    written = record.write(arguments.output, media=MEDIA, rooms=rooms, by_participant=by_participant)
    plot.draw_rooms(written).save(arguments.output.with_suffix(".png"), optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
