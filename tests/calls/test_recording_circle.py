"""The whole circle: a call that is recorded without a key, by a process that is killed in mid-call, and then opened.

Pictures show their numbers. A voice changes its tone each fifth of a second. So the opened files show when each picture
and each sound was sent.
"""

import asyncio
import io
import json
import re
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

from frameseal import Decryptor, FrameError, KeyRing
from frameseal.aiortc import attach
from frameseal.archive import read
from frameseal.e2ee.manager import E2EEManager
from frameseal.tools.cli import main
from frameseal.tools.sfu import Forwarder
from support.calls import Peer, Picture, Tap, draw, hang_up, manager, until
from support.recorder_process import LEG, RecorderProcess

STACK = "aiortc"
PICTURE_RATE = 15  # per second: what two cores encode for all participants
WINDOW = 75  # packets in which a voice is searched: at least a second and a half
RATE, PACKET = 48000, 960  # samples of a second and of 20 ms of sound
STEPS = 25 * np.array([0, 9, 4, 13, 2, 11, 6, 15, 1, 8, 3, 12, 5, 14, 7, 10])  # hertz; each tone has whole periods
TONE = RATE // 5  # samples
LIP_SYNC = 0.04  # seconds

LOSS = 0.03  # of the packets, on each of the two ways over a forwarder
ROOM_KEY, WRONG_KEY, BOBS_FIRST, BOBS_SECOND = "of the room", "of another room", "the first of bob", "the second of bob"


# --- what is sent ----------------------------------------------------------------------------------------------------


def voice(samples: np.ndarray, base: int) -> np.ndarray:
    """Return samples of a voice by their numbers: 16 tones of a fifth of a second, from *base* hertz up.

    A tone fits to itself after each of its periods. Only the order of the tones shows their time.
    """
    tones, within = samples // TONE, samples % TONE
    return 8192 * np.sin(2 * np.pi * (base + STEPS[tones % len(STEPS)]) * within / RATE)


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
    first: int = 0  # the number of the first picture
    seed: int = 1
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
        self.forwarder = Forwarder(loss=LOSS, seed=self.seed)
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
    """Hold a call. Carol has a wrong key at first. Bob rotates his key, leaves, and returns."""
    alice = Stay("alice", manager(ROOM_KEY), "vp8", "red", 400, seed=1)
    bob = Stay("bob", manager(BOBS_FIRST), "h264", "blue", 900, seed=2)
    carol = Stay("carol", manager(WRONG_KEY), "vp8", "green", 1400, seed=3)
    bob_again = Stay("bob", bob.e2ee, "h264", "yellow", 900, first=2000, seed=4)
    present = [alice, bob, carol]
    with Tap(STACK) as tap:
        for stay in present:
            await stay.join()
        recorder = await RecorderProcess.start(archive)
        for stay in present:
            await recorder.subscribe(stay.forwarder, stay.name)
        await recorder.wait_for_more(stay.name for stay in present)
        carol.e2ee.provider.set_shared_key(ROOM_KEY)
        bob.e2ee.provider.set_shared_key(BOBS_SECOND, key_id=1)
        await recorder.wait_for_more(stay.name for stay in present)

        await recorder.kill()
        for stay in present:
            await stay.forwarder.disconnect_subscriber(LEG)
        sent = [stay.camera.sent for stay in present]
        await until(lambda: all(stay.camera.sent >= before + 15 for stay, before in zip(present, sent, strict=True)))

        recorder = await RecorderProcess.start(archive)
        for stay in present:
            await recorder.subscribe(stay.forwarder, stay.name)
        await recorder.wait_for_more(stay.name for stay in present)
        recorder.leave("bob")
        await bob.leave()
        await bob_again.join()
        await recorder.subscribe(bob_again.forwarder, "bob")
        await recorder.wait_for_more(["bob"])
        assert await recorder.stop() == 0
        for stay in (alice, carol, bob_again):
            await stay.leave()
    stays = [alice, bob, carol, bob_again]
    for stay in stays:
        for kind, sender in stay.senders.items():
            stay.frames[kind] = tap.frames(sender, stay.codec if kind == "video" else "opus")
    return Call(archive, stays)


# --- what was recorded -----------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A row of the archive, and the place of its frame among those that its sender has sent."""

    recorder: int
    """The number of the recorder process that wrote it, from 0."""
    gap: bool
    keyframe: bool | None
    place: int
    key: str
    """The passphrase that opens it."""


@dataclass
class Track:
    """The rows of one track of a stay."""

    stay: Stay
    kind: str
    id: str
    ssrcs: list[int]
    rows: list[Row]


def tracks_of(call: Call) -> list[Track]:
    """Return the recorded tracks. Each frame is one that a participant has sealed, and belongs to that participant."""
    columns = ["participant", "kind", "track", "ssrc", "gap", "keyframe", "sealed"]
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
        track = found.setdefault((id(stay), kind, row["track"]), Track(stay, kind, row["track"], [], []))
        if row["ssrc"] not in track.ssrcs:  # each recorder has a connection of its own, with an SSRC of its own
            track.ssrcs.append(row["ssrc"])
        recorder = track.ssrcs.index(row["ssrc"])
        track.rows.append(Row(recorder, row["gap"], row["keyframe"], place, key_of(row["sealed"], stay, kind)))
    assert len(found) == 2 * len(call.stays)
    return list(found.values())


def key_of(sealed: bytes, stay: Stay, kind: str) -> str:
    """Return which of the call's passphrases opens a frame."""
    (found,) = (key for key, ring in RINGS.items() if opens(ring, sealed, stay.codec if kind == "video" else "opus"))
    return found


def opens(ring: KeyRing, sealed: bytes, codec: str) -> bool:
    try:
        Decryptor(ring, codec).decrypt(sealed)
    except FrameError:
        return False
    return True


def ring_of(passphrase: str, key_id: int) -> KeyRing:
    ring = KeyRing("livekit")
    ring.set_passphrase(passphrase, key_id)
    return ring


RINGS = {
    ROOM_KEY: ring_of(ROOM_KEY, 0),
    WRONG_KEY: ring_of(WRONG_KEY, 0),
    BOBS_FIRST: ring_of(BOBS_FIRST, 0),
    BOBS_SECOND: ring_of(BOBS_SECOND, 1),
}


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


def picture_lags(track: Track, rows: list[Row], stream: Stream) -> list[float]:
    """Check the pictures, and return by how many seconds the file shows each later than the participant sent it."""
    pictures = [Picture.read(frame) for frame in stream.decoded]
    assert {picture.colour for picture in pictures} == {track.stay.colour}
    assert [picture.number for picture in pictures] == [track.stay.first + row.place for row in rows]
    return [shown - row.place / PICTURE_RATE for shown, row in zip(stream.times, rows, strict=True)]


def shown(rows: list[Row], keys: set[str]) -> list[Row]:
    """Return the rows whose pictures a player can show: those that open, but not between a gap and a keyframe."""
    kept, waits = [], True
    for row in rows:
        is_open = row.key in keys
        waits = not is_open or ((waits or row.gap) and not row.keyframe)
        if not waits:
            kept.append(row)
    return kept


def sound_lags(track: Track, rows: list[Row], stream: Stream, near: float) -> dict[int, float]:
    """Check the sound, and return by how many seconds it is later in the file than when sent, by recorder.

    All of a recorder's stretch has the same lag, to a sample.

    :param near: the lag of the pictures.
    """
    assert len(stream.times) == len(rows)
    for (earlier, later), (shown, follows) in zip(pairwise(rows), pairwise(stream.times), strict=True):
        if earlier.recorder == later.recorder:  # missing packets are holes of their length
            missing = (later.place - earlier.place) * PACKET / RATE
            assert follows - shown == pytest.approx(missing, abs=0.0015)  # Matroska counts milliseconds
    lags = {}
    for recorder in {row.recorder for row in rows}:
        frames = [frame for frame, row in zip(stream.decoded, rows, strict=True) if row.recorder == recorder]
        assert len(frames) >= 2 * WINDOW
        starts = [*range(0, len(frames) - WINDOW, WINDOW), len(frames) - WINDOW]
        found = [lag_of(frames[start : start + WINDOW], track.stay.base, near) for start in starts]
        assert max(found) - min(found) <= 1 / RATE
        lags[recorder] = found[0]
    return lags


def lag_of(frames: list[av.AudioFrame], base: int, near: float) -> float:
    """Return the time in the file of the sample that was sent at time 0.

    It is where the sound fits best to the voice, within a second around *near*.
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
    assert likeness > 0.8, likeness  # a decoder needs some packets after each that is missing
    # The fit is a parabola at its peak, which may lie between two samples.
    before, peak, after = fits[best - 1 : best + 2]
    return start - (first + best + (before - after) / (before - 2 * peak + after) / 2) / RATE


def check_opened(tracks: list[Track], folder: Path, keys: set[str]) -> None:
    """Check the pictures, the sound and their lip-sync in the files of all participants who have frames of the keys."""
    for video in (track for track in tracks if track.kind == "video"):
        (audio,) = (track for track in tracks if track.stay is video.stay and track.kind == "audio")
        pictures = shown(video.rows, keys)
        sounds = [row for row in audio.rows if row.key in keys]
        streams = streams_of(folder / f"{video.stay.name}.mkv") if sounds else {}
        assert bool(pictures) == bool(sounds) == (video.id in streams) == (audio.id in streams)
        if not sounds:
            continue
        seen = picture_lags(video, pictures, streams[video.id])
        heard = sound_lags(audio, sounds, streams[audio.id], near=float(np.median(seen)))
        for lag, row in zip(seen, pictures, strict=True):
            assert abs(lag - heard[row.recorder]) <= LIP_SYNC


def opened(call: Call, output: Path, capsys, *arguments: str) -> tuple[int, str]:
    """Run `frameseal open`. Return its exit status, and what it printed."""
    status = main(["open", str(call.archive), "-o", str(output), *arguments])
    return status, capsys.readouterr().out


def reasons_in(printed: str) -> dict[str, str]:
    """Return why frames did not open, by participant: the lines below the table."""
    return dict(re.findall(r"(?m)^(\w+): [\d,]+ frames did not open: (.+)\.$", printed))


def failures(
    tracks: list[Track], keys: set[str], reason: str = "authentication failed", key_id: int = 0, of: str = ""
) -> str:
    """Return the text of the table for the frames that these keys have sealed."""
    rows = [row for track in tracks for row in track.rows if row.key in keys and of in track.stay.name]
    return f"{len(rows):,} {reason} (key id {key_id})"


def key_file(path: Path, **participants: list[tuple[int, str]]) -> str:
    """Write a file with the passphrases of participants, each with its key id. Return the path."""
    listed = {
        name: [{"key_id": key_id, "passphrase": passphrase} for key_id, passphrase in keys]
        for name, keys in participants.items()
    }
    path.write_text(json.dumps({"participants": listed}), "utf-8")
    return str(path)


@pytest.mark.long
async def test_a_call_is_recorded_without_a_key_and_opened_with_its_keys(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a line of the table for each participant
    call = await the_call(tmp_path / "archive")
    assert main(["archive", "verify", str(call.archive)]) == 0
    tracks = tracks_of(call)
    for track in tracks:
        check_gaps(track)
        assert len(track.ssrcs) == (1 if track.stay.first else 2)

    passphrase = tmp_path / "passphrase.txt"
    passphrase.write_text(f"{ROOM_KEY}\n", "utf-8")
    room = ["--passphrase-file", str(passphrase)]
    bobs = [(0, BOBS_FIRST), (1, BOBS_SECOND)]

    # With all keys, everything opens.
    keys = key_file(tmp_path / "keys.json", bob=bobs, carol=[(0, WRONG_KEY), (0, ROOM_KEY)])
    status, printed = opened(call, tmp_path / "all", capsys, *room, "--key-file", keys)
    assert status == 0, printed
    check_opened(tracks, tmp_path / "all", {ROOM_KEY, WRONG_KEY, BOBS_FIRST, BOBS_SECOND})

    # Without Carol's wrong key, exactly the frames that it sealed do not open.
    keys = key_file(tmp_path / "bob.json", bob=bobs)
    status, printed = opened(call, tmp_path / "room", capsys, *room, "--key-file", keys)
    assert status == 1
    assert reasons_in(printed) == {"carol": failures(tracks, {WRONG_KEY})}
    check_opened(tracks, tmp_path / "room", {ROOM_KEY, BOBS_FIRST, BOBS_SECOND})

    # With one of two keys, the half that it sealed opens.
    keys = key_file(tmp_path / "half.json", bob=bobs[:1])
    status, printed = opened(call, tmp_path / "half", capsys, "--key-file", keys)
    assert status == 1
    assert reasons_in(printed)["bob"] == failures(tracks, {BOBS_SECOND}, "unknown key", 1)
    assert {path.name for path in (tmp_path / "half").iterdir()} == {"bob.mkv", "timeline.png"}
    check_opened(tracks, tmp_path / "half", {BOBS_FIRST})

    # Without a key nothing opens, nor with another.
    another = tmp_path / "another.txt"
    another.write_text("of a third room", "utf-8")
    status, printed = opened(call, tmp_path / "another", capsys, "--passphrase-file", str(another))
    assert status == 1
    assert reasons_in(printed)["alice"] == failures(tracks, {ROOM_KEY}, of="alice")
    assert {path.name for path in (tmp_path / "another").iterdir()} == {"timeline.png"}
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["open", str(call.archive), "-o", str(tmp_path / "none")]) == 2
    assert "no key" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
