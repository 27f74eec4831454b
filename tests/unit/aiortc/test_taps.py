"""Rows of a recording, from packets and frames that no stack has made."""

import itertools
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from frameseal import Encryptor, KeyRing, codecs
from frameseal.aiortc import Recorder
from frameseal.aiortc.taps import MAX_PACKETS, FrameTap, Source, keyframe_of
from support.calls import STACKS, draw, mime, part, sine
from support.forks import in_a_child

MIC = Source("alice", "mic")


@dataclass
class Codec:
    mimeType: str
    clockRate: int
    payloadType: int
    parameters: dict = field(default_factory=dict)


@dataclass
class Packet:
    sequence_number: int
    timestamp: int
    payload_type: int = 111
    ssrc: int = 7
    payload: bytes = b"payload"


OPUS, PCMU = Codec("audio/opus", 48000, 111), Codec("audio/PCMU", 8000, 0)
FORMATS = {111: OPUS, 0: PCMU, 112: Codec("video/rtx", 90000, 112, {"apt": 111})}


class Stream:
    """A tap, and the sealed frames of one sender that pass it."""

    def __init__(self, rows):
        self.recorder = Recorder(rows, "livekit", decodes=False)
        self.tap = FrameTap(self.recorder)
        ring = KeyRing("livekit")
        ring.set_key(bytes(32))
        self.sealers = {111: Encryptor(ring, "opus"), 0: Encryptor(ring, "pcmu")}

    def note(self, *args, **fields):
        self.tap.note_packet(Packet(*args, **fields), FORMATS)

    def pass_frame(self, number, timestamp, payload_type=111, ssrc=7):
        self.note(number, timestamp, payload_type, ssrc)
        return self.take(timestamp, payload_type)

    def take(self, timestamp, payload_type=111):
        sealed = self.sealers[payload_type].encrypt(bytes(40))
        codec = self.tap.codec_of(timestamp, FORMATS)
        return self.tap.take(sealed, timestamp, codec, MIC, whole=True)


class Rows(list):
    write = list.append


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def stream(rows):
    made = Stream(rows)
    yield made
    made.recorder.close()


def test_numbers_and_timestamps_that_wrap_are_neither_gaps_nor_jumps(stream, rows):
    for step in range(40):
        stream.pass_frame((65520 + step) % 2**16, (2**32 - 9600 + 960 * step) % 2**32)
    stream.recorder.close()
    assert [row.rtp_timestamp for row in rows] == [2**32 - 9600 + 960 * step for step in range(40)]
    assert not any(row.gap for row in rows)


def test_a_codec_that_changes_is_named_with_each_frame(stream, rows):
    for step in range(20):
        stream.pass_frame(step, 960 * step)
    for step in range(20, 40):
        stream.pass_frame(step, 960 * 20 + 160 * (step - 20), 0)
    stream.recorder.close()
    assert [(row.codec, row.clock_rate) for row in rows] == [("opus", 48000)] * 20 + [("pcmu", 8000)] * 20
    assert not any(row.gap for row in rows)


def test_a_packet_that_is_sent_again_fills_its_place(stream, rows):
    for step in range(20):
        stream.pass_frame(step, 960 * step)
    stream.note(21, 960 * 21)
    stream.note(1, 960 * 20, 112, 8, (20).to_bytes(2, "big") + b"payload")
    stream.take(960 * 20)
    stream.take(960 * 21)
    stream.pass_frame(23, 960 * 23)
    stream.recorder.close()
    assert [row.gap for row in rows] == [False] * 22 + [True]
    assert {row.ssrc for row in rows} == {7}


def test_a_frame_arrives_with_the_last_of_its_packets(stream, rows, monkeypatch):
    """Packets arrive in any order. Copies of them, and padding, come later and complete nothing."""
    for step in range(20):
        stream.pass_frame(step, 960 * step)
    now = time.monotonic()
    monkeypatch.setattr("frameseal.aiortc.taps.time", SimpleNamespace(monotonic=lambda: now))
    timestamp, epoch = 960 * 20, now

    def note(seconds, number, **fields):
        nonlocal now
        now = epoch + seconds
        stream.note(number, timestamp, **fields)

    note(1, 22)
    note(2, 20)
    note(3, 5, payload_type=112, ssrc=8, payload=(21).to_bytes(2, "big") + b"payload")  # sent again: the last one
    note(4, 22)  # the network copied it
    note(5, 6, payload_type=112, ssrc=8, payload=(20).to_bytes(2, "big") + b"payload")  # sent again in vain
    note(6, 23, payload=b"")  # padding
    stream.take(timestamp)
    stream.pass_frame(24, 960 * 21)
    stream.recorder.close()
    assert rows[20].arrival == stream.recorder.time_of(epoch + 3)
    assert not any(row.gap for row in rows)


def test_packets_without_end_under_one_timestamp_take_no_memory_without_end(stream, rows):
    for number in range(3 * 2**16):
        stream.note(number % 2**16, 960)
    (noted,) = stream.tap._noted.values()
    assert (noted.first, noted.last, len(noted.numbers)) == (0, 3 * 2**16 - 1, MAX_PACKETS)


def test_arrivals_do_not_follow_a_wall_clock_that_is_set(stream, rows, monkeypatch):
    for step in range(20):
        stream.pass_frame(step, 960 * step)
    monkeypatch.setattr("frameseal.aiortc.recorder.datetime", None)  # nobody reads the wall clock again
    for step in range(20, 40):
        stream.pass_frame(step, 960 * step)
    stream.recorder.close()
    arrivals = [row.arrival for row in rows]
    assert arrivals == sorted(arrivals)
    assert abs(arrivals[-1] - datetime.now(UTC)) < timedelta(minutes=1)  # a bound against a wrong epoch
    assert arrivals[0].tzinfo is UTC


def encoded(codec, count):
    """Return frames as the encoder of a real call makes them."""
    stack = STACKS[0]
    codecs_of, parameters = part(stack, "codecs"), part(stack, "rtcrtpparameters").RTCRtpCodecParameters
    encoder, noise, frames = getattr(codecs_of, f"{codec.title()}Encoder")(), np.random.default_rng(1), []
    for at in itertools.count():
        if mime(codec).startswith("video"):
            frame = draw(at, "red", (320, 240))
            frame.pts, frame.time_base = at * 3000, Fraction(1, 90000)
        else:
            tone = sine(at * 960, 960, 440, 48000)
            samples = tone.to_ndarray() + noise.integers(-2000, 2000, (1, 960), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = tone.sample_rate, tone.pts, tone.time_base
        payloads, _ = encoder.encode(frame)
        pieces = [codecs_of.depayload(parameters(mime(codec), 90000), each) for each in payloads]
        frames += [b"".join(pieces)] if pieces else []  # an encoder may wait for more samples
        if len(frames) == count:
            return frames


@pytest.mark.parametrize("codec", ["opus", "vp8", "h264", "pcmu"])
@pytest.mark.parametrize("profile", ["livekit", "jitsi", "stream", "sframe"])
def test_of_a_sender_who_stops_and_resumes_sealing_only_sealed_frames_are_recorded(rows, profile, codec):
    ring = KeyRing(profile)
    ring.set_key(os.urandom(32))
    try:
        sealer = Encryptor(ring, codec)
    except ValueError:
        assert (profile, codec) in {("jitsi", "h264"), ("stream", "pcmu")}  # no call has them
        return
    frames = encoded(codec, 400)
    sealed, formats = [], {96: Codec(mime(codec), 90000, 96)}
    with Recorder(rows, profile, decodes=False) as recorder:
        tap = FrameTap(recorder)
        for number, frame in enumerate(frames):
            is_plain = 100 <= number < 200 or 240 <= number < 260 or number >= 300
            data = frame if is_plain else sealer.encrypt(frame)
            sealed += [] if is_plain else [data]
            tap.note_packet(Packet(number, 900 * number, 96), formats)
            tap.take(data, 900 * number, formats[96], MIC, whole=True)
    assert [row.sealed for row in rows] == sealed
    gaps = [number for number, row in enumerate(rows) if row.gap]
    assert gaps == [100, 140]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
@pytest.mark.parametrize("silence", [b"", b"\xf8", b"\xf8\xff\xfe", b"\x08", b"\x08\x01\x02"])
def test_frames_of_silence_that_pass_unsealed_are_not_recorded(rows, profile, silence):
    """Senders do not seal empty frames, and SDKs that pass Opus DTX on leave it in the clear."""
    ring = KeyRing(profile)
    ring.set_key(os.urandom(32))
    sealer, sealed = Encryptor(ring, "opus"), []
    with Recorder(rows, profile, decodes=False) as recorder:
        tap = FrameTap(recorder)
        for number in range(60):
            is_silent = number % 4 == 3
            data = silence if is_silent else sealer.encrypt(bytes(40))
            sealed += [] if is_silent else [data]
            tap.note_packet(Packet(number, 960 * number), FORMATS)
            tap.take(data, 960 * number, OPUS, MIC, whole=True)
    assert [row.sealed for row in rows] == sealed
    assert recorder.counters.refused == (15 if silence else 0)


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
def test_a_new_key_id_costs_no_frame(rows, profile):
    ring = KeyRing(profile)
    sealer, sealed = Encryptor(ring, "opus"), []
    with Recorder(rows, profile, decodes=False) as recorder:
        tap = FrameTap(recorder)
        for number in range(80):
            if number % 20 == 0:
                ring.set_key(os.urandom(32), number // 20)
                ring.sending_key_id = number // 20
            sealed.append(sealer.encrypt(bytes(40)))
            tap.note_packet(Packet(number, 960 * number), FORMATS)
            tap.take(sealed[-1], 960 * number, OPUS, MIC, whole=True)
    assert [row.sealed for row in rows] == sealed
    assert not any(row.gap for row in rows)
    assert len({row.key_id for row in rows}) == 4


def test_frames_of_a_stream_that_was_too_short_to_be_trusted_are_counted(stream, rows):
    for step in range(5):
        stream.pass_frame(step, 960 * step)
    for step in range(5, 45):  # the sender begins again
        stream.pass_frame(step, 960 * step, ssrc=8)
    assert stream.recorder.counters.refused == 5
    for step in range(45, 48):
        stream.pass_frame(step, 960 * step, ssrc=9)
    stream.recorder.close()
    assert (stream.recorder.counters.written, stream.recorder.counters.refused) == (40, 8)


def test_a_frame_that_looks_sealed_between_unsealed_ones_is_refused_and_counted_once(stream, rows):
    for step in range(20):
        stream.pass_frame(step, 960 * step)
    unsealed = [
        bytes(40) + b"\x01",
        bytes(40) + b"\x0c\0",
        bytes(40) + b"\x01",
    ]  # the second one ends like a sealed one
    for step, data in enumerate(unsealed, 20):
        stream.note(step, 960 * step)
        stream.tap.take(data, 960 * step, stream.tap.codec_of(960 * step, FORMATS), MIC, whole=True)
    stream.recorder.close()
    assert (stream.recorder.counters.written, stream.recorder.counters.refused) == (20, 3)


def test_a_child_of_the_process_records_nothing(stream, rows):
    stream.pass_frame(0, 0)

    def child():
        for step in range(1, 40):
            stream.pass_frame(step, 960 * step)
        return repr((stream.recorder.closed, stream.recorder.counters.written)).encode()

    assert in_a_child(child) == b"(True, 0)"


@pytest.mark.parametrize("name", codecs.CODECS)
def test_keyframes_are_told_where_clear_bytes_tell(name):
    row = codecs.find(name)
    frames = {
        "vp8": (b"\x10\0\0\x9d\x01\x2a" + bytes(60), b"\x11\0\0" + bytes(60)),
        "h264": (b"\0\0\0\1\x65" + bytes([9]) * 60, b"\0\0\0\1\x41" + bytes([9]) * 60),
    }
    expected = (True, False) if name in frames else (True, True) if row.info["kind"] == "audio" else (None, None)
    assert tuple(keyframe_of("livekit", row, frame) for frame in frames.get(name, (bytes(60),) * 2)) == expected
    assert keyframe_of("sframe", row, bytes(60)) is (True if row.info["kind"] == "audio" else None)
