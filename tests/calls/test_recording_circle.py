"""The whole circle: a call that is recorded without a key, by a process that is killed in mid-call, and then opened.

Pictures show their numbers. Each second of a voice has a tone of its own. So the opened files show when each picture
and each sound was sent.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from aiortc import MediaStreamTrack

from frameseal.aiortc import attach
from frameseal.archive import read
from frameseal.e2ee.manager import E2EEManager
from frameseal.tools.cli import main
from frameseal.tools.sfu import Forwarder
from support.calls import Peer, Picture, Tap, draw, hang_up, manager, until
from support.recorder_process import RecorderProcess

STACK = "aiortc"
PICTURE_RATE = 15  # per second: what two cores encode for all participants
RATE, PACKET = 48000, 960  # samples of a second and of 20 ms of sound
LIP_SYNC = 0.04  # seconds

ROOM_KEY, BOBS_FIRST = "of the room", "the first of bob"


# --- what is sent ----------------------------------------------------------------------------------------------------


def voice(samples: np.ndarray, base: int) -> np.ndarray:
    """Return samples of a voice by their numbers: a tone of *base* hertz, 100 Hz higher in each of four seconds."""
    seconds, within = samples // RATE, samples % RATE
    return 8192 * np.sin(2 * np.pi * (base + 100 * (seconds % 4)) * within / RATE)


class Clock:
    """The time from which both tracks of a participant count. It starts with the first of their frames."""

    def __init__(self) -> None:
        self._start: float | None = None

    async def wait(self, seconds: float) -> None:
        self._start = self._start or time.monotonic()
        await asyncio.sleep(self._start + seconds - time.monotonic())


class Camera(MediaStreamTrack):
    kind = "video"

    def __init__(self, clock: Clock, colour: str, first: int) -> None:
        super().__init__()
        self.clock, self.colour, self.first, self.sent = clock, colour, first, 0

    async def recv(self):
        await self.clock.wait(self.sent / PICTURE_RATE)
        frame = draw(self.first + self.sent, self.colour, (320, 240))
        frame.pts, frame.time_base = self.sent * 90000 // PICTURE_RATE, Fraction(1, 90000)
        self.sent += 1
        return frame


class Microphone(MediaStreamTrack):
    kind = "audio"

    def __init__(self, clock: Clock, base: int) -> None:
        super().__init__()
        self.clock, self.base, self.sent = clock, base, 0

    async def recv(self):
        await self.clock.wait(self.sent * PACKET / RATE)
        numbers = np.arange(self.sent * PACKET, (self.sent + 1) * PACKET)
        sound = voice(numbers, self.base).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, int(numbers[0]), Fraction(1, RATE)
        self.sent += 1
        return frame


@dataclass
class Stay:
    """A participant from joining to leaving, with a forwarder of their own."""

    name: str
    e2ee: E2EEManager
    codec: str
    colour: str
    base: int
    first: int = 0
    seed: int = 1
    loss: float = 0
    frames: dict[str, list[bytes]] = field(default_factory=dict)
    """The sealed frames that were sent, by the id of their track. Known when the call has ended."""

    async def join(self) -> None:
        self.peer, clock = Peer(STACK), Clock()
        self.camera, self.microphone = Camera(clock, self.colour, self.first), Microphone(clock, self.base)
        attach(self.peer.pc, self.e2ee, local_id=self.name, remote_id="everybody")
        self.senders = {
            "video": self.peer.send(self.camera, self.codec).sender,
            "audio": self.peer.send(self.microphone, "opus").sender,
        }
        self.forwarder = Forwarder(loss=self.loss, seed=self.seed)
        await self.forwarder.connect_publisher(self.peer.pc)

    async def leave(self) -> None:
        await self.forwarder.close()
        await hang_up(self.peer)


@dataclass
class Call:
    """What was sent, and the archive that the recorder made of it."""

    archive: Path
    stays: list[Stay]


async def the_call(archive: Path) -> Call:
    alice = Stay("alice", manager(ROOM_KEY), "vp8", "red", 400)
    bob = Stay("bob", manager(BOBS_FIRST), "h264", "blue", 900)
    stays = [alice, bob]
    with Tap(STACK) as tap:
        for stay in stays:
            await stay.join()
        recorder = await RecorderProcess.start(archive)
        for stay in stays:
            await recorder.subscribe(stay.forwarder, stay.name)

        async def recorded(pictures: int) -> None:
            """Wait for this number of pictures of each participant, since the recorder was started."""
            await until(lambda: all(recorder.written[stay.name, "video"] >= pictures for stay in stays))

        await recorded(75)
        assert await recorder.stop() == 0
        for stay in stays:
            await stay.leave()
    for stay in stays:
        for kind, sender in stay.senders.items():
            stay.frames[kind] = tap.frames(sender, stay.codec if kind == "video" else "opus")
    return Call(archive, stays)


# --- what was recorded -----------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A row of the archive, and the place of its frame among those that its sender has sent."""

    ssrc: int
    gap: bool
    keyframe: bool | None
    key_id: int
    sealed: bytes
    place: int


@dataclass
class Track:
    """The rows of one track of a stay."""

    stay: Stay
    kind: str
    id: str
    rows: list[Row]

    @property
    def first(self) -> int:
        return self.stay.first


def tracks_of(call: Call) -> list[Track]:
    """Return the recorded tracks. Each frame is one that a participant has sealed, and belongs to that participant."""
    columns = ["participant", "kind", "track", "ssrc", "gap", "keyframe", "key_id", "sealed"]
    places = {
        sealed: (stay, kind, place)
        for stay in call.stays
        for kind, frames in stay.frames.items()
        for place, sealed in enumerate(frames)
    }
    found: dict[tuple[int, str, str], Track] = {}
    for row in pa.Table.from_batches(read(call.archive)).select(columns).to_pylist():
        stay, kind, place = places[row["sealed"]]
        assert (row["participant"], row["kind"]) == (stay.name, kind)
        track = found.setdefault((id(stay), kind, row["track"]), Track(stay, kind, row["track"], []))
        track.rows.append(Row(row["ssrc"], row["gap"], row["keyframe"], row["key_id"], row["sealed"], place))
    assert len(found) == 2 * len(call.stays)
    return list(found.values())


def check_gaps(track: Track) -> None:
    """Check that the gaps are where frames are missing, and nowhere else."""
    places = [row.place for row in track.rows]
    assert places == sorted(set(places))
    missing = [later - earlier > 1 for earlier, later in pairwise(places)]
    assert [row.gap for row in track.rows[1:]] == missing


# --- what was opened -------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """A stream of an opened file: the time of each packet in seconds, and what its frames decode to."""

    times: list[float]
    decoded: list[av.VideoFrame | av.AudioFrame]


def streams_of(path: Path) -> dict[str, Stream]:
    """Return the streams of a file by the id of their track. Each packet decodes."""
    found = {}
    with av.open(str(path)) as container:
        streams = {stream.index: stream for stream in container.streams}
        for stream in streams.values():
            found[stream.metadata["TITLE" if "TITLE" in stream.metadata else "title"]] = Stream([], [])
        listed = list(found.values())
        for packet in container.demux():
            into = listed[packet.stream.index]
            if packet.pts is not None:
                into.times.append(float(packet.pts * packet.time_base))
            into.decoded += packet.decode()
    for stream in listed:
        assert len(stream.decoded) == len(stream.times)
    return found


def stretches(rows: list[Row]) -> list[tuple[int, int]]:
    """Return the bounds of the rows that one recorder process has written."""
    starts = [0, *(at for at in range(1, len(rows)) if rows[at].ssrc != rows[at - 1].ssrc), len(rows)]
    return list(pairwise(starts))


def picture_lags(track: Track, rows: list[Row], stream: Stream) -> list[float]:
    """Check the pictures, and return by how many seconds the file shows each later than the participant sent it."""
    pictures = [Picture.read(frame) for frame in stream.decoded]
    assert {picture.colour for picture in pictures} == {track.stay.colour}
    assert [picture.number for picture in pictures] == [track.first + row.place for row in rows]
    return [shown - row.place / PICTURE_RATE for shown, row in zip(stream.times, rows, strict=True)]


def shown(rows: list[Row]) -> list[Row]:
    """Return the rows whose pictures can be shown: not those between a gap and a keyframe."""
    kept, waits = [], True
    for row in rows:
        waits = (waits or row.gap) and not row.keyframe
        if not waits:
            kept.append(row)
    return kept


def sound_lags(track: Track, rows: list[Row], stream: Stream, near: list[float]) -> list[tuple[float, float]]:
    """Return by how many seconds each recorder's first and last two seconds are later in the file than when sent.

    :param near: the lag of the pictures of each recorder's stretch.
    """
    assert len(stream.times) == len(rows)
    lags = []
    for (first, end), about in zip(stretches(rows), near, strict=True):
        frames = stream.decoded[first:end]
        half = len(frames) // 2
        assert half >= 100  # two seconds
        lags.append(tuple(lag_of(part, track.stay.base, about) for part in (frames[:100], frames[-100:])))
        # Missing packets are holes of their length.
        for earlier, later in pairwise(range(first, end)):
            between = (rows[later].place - rows[earlier].place) * PACKET / RATE
            assert stream.times[later] - stream.times[earlier] == pytest.approx(between, abs=0.0015)
    return lags


def lag_of(frames: list[av.AudioFrame], base: int, near: float) -> float:
    """Return the time in the file of the sample that was sent at time 0.

    It is where the sound fits best to the voice, within a second around *near*. A voice differs from itself at any
    other time within two seconds.
    """
    start = frames[0].time
    length = round((frames[-1].time - start) * RATE) + PACKET
    sound, known = np.zeros(length), np.zeros(length, bool)
    for frame in frames:
        at = round((frame.time - start) * RATE)
        channels = len(frame.layout.channels)
        samples = frame.to_ndarray().astype(float)
        mono = samples.reshape(-1, channels).mean(axis=1) if frame.format.is_packed else samples.mean(axis=0)
        sound[at : at + len(mono)], known[at : at + len(mono)] = mono, True
    first = round((start - near) * RATE) - RATE  # the sample that was sent a second before the one that is expected
    sent = voice(np.arange(first, first + length + 2 * RATE), base)
    size = 1 << (len(sent) + length).bit_length()
    spectrum = np.fft.rfft(sent, size) * np.conj(np.fft.rfft(sound, size))
    fits = np.fft.irfft(spectrum, size)[: 2 * RATE + 1]
    best = int(fits.argmax())
    expected = sent[best : best + length][known]
    likeness = fits[best] / np.sqrt((expected**2).sum() * (sound**2).sum())
    assert likeness > 0.95, likeness
    # The fit is a parabola at its peak, which may lie between two samples.
    before, peak, after = fits[best - 1 : best + 2]
    return start - (first + best + (before - after) / (before - 2 * peak + after) / 2) / RATE


def check_opened(tracks: list[Track], folder: Path) -> None:
    """Check the pictures, the sound and their lip-sync in the files of the participants."""
    for stay in {id(track.stay): track.stay for track in tracks}.values():
        streams = streams_of(folder / f"{stay.name}.mkv")
        video, audio = (
            next(track for track in tracks if track.stay is stay and track.kind == kind) for kind in ("video", "audio")
        )
        rows = shown(video.rows)
        seen = picture_lags(video, rows, streams[video.id])
        near = [float(np.median(seen[first:end])) for first, end in stretches(rows)]
        heard = sound_lags(audio, audio.rows, streams[audio.id], near)
        for (first, end), (lag, last_lag) in zip(stretches(rows), heard, strict=True):
            assert abs(last_lag - lag) <= 1 / RATE
            assert all(abs(each - lag) <= LIP_SYNC for each in seen[first:end])


def opened(call: Call, output: Path, capsys, *arguments: str) -> tuple[int, str]:
    """Run `frameseal open`. Return its exit status, and what it printed."""
    status = main(["open", str(call.archive), "-o", str(output), *arguments])
    return status, capsys.readouterr().out


def key_file(path: Path, **participants: list[tuple[int, str]]) -> str:
    """Write a file with the passphrases of participants, each with its key id. Return the path."""
    listed = {
        name: [{"key_id": key_id, "passphrase": passphrase} for key_id, passphrase in keys]
        for name, keys in participants.items()
    }
    path.write_text(json.dumps({"participants": listed}), "utf-8")
    return str(path)


async def test_a_call_is_recorded_without_a_key_and_opened_with_its_keys(tmp_path, capsys):
    call = await the_call(tmp_path / "archive")
    tracks = tracks_of(call)
    for track in tracks:
        check_gaps(track)
    keys = key_file(tmp_path / "keys.json", alice=[(0, ROOM_KEY)], bob=[(0, BOBS_FIRST)])
    status, printed = opened(call, tmp_path / "opened", capsys, "--key-file", keys)
    assert status == 0, printed
    check_opened(tracks, tmp_path / "opened")
