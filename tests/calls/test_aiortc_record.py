"""Recordings of calls without a key: each sealed frame as it left the sender, in calls of both stacks."""

import asyncio
import inspect
import itertools
import threading
from datetime import UTC, datetime, timedelta

import pytest

from frameseal import Decryptor, E2EEManager, KeyRing
from frameseal.aiortc import Recorder, attach, record, tee_all
from frameseal.aiortc.recorder import MAX_QUEUE_BYTES
from frameseal.aiortc.stack import stacks
from frameseal.keys.provider import KeyProvider
from support.calls import (
    PASSPHRASE,
    STACKS,
    Tap,
    assert_shown,
    connect,
    manager,
    part,
    peers,
    picture_track,
    tone_track,
    until,
)


class Rows:
    """A writer that keeps what it is passed. `fails` is raised by each write while it is set."""

    def __init__(self):
        self.rows = []
        self.threads = set()
        self.fails = None
        self.open = threading.Event()
        self.open.set()

    def write(self, frame):
        self.open.wait()
        self.threads.add(threading.current_thread().name)
        if self.fails is not None:
            raise self.fails
        self.rows.append(frame)

    def of(self, kind):
        return [row for row in list(self.rows) if row.kind == kind]


def opened(rows):
    """Return the plaintext of rows, opened in order with the call's key."""
    ring = KeyRing("livekit")
    ring.set_passphrase(PASSPHRASE)
    openers = {}
    return [openers.setdefault(row.codec, Decryptor(ring, row.codec)).decrypt(row.sealed) for row in rows]


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_recorder_without_a_key_has_every_frame_as_it_was_sealed(stack, codec):
    writer = Rows()
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        with Tap(stack) as tap:
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            video = alice.send(picture_track(stack), codec).sender
            audio = alice.send(tone_track(stack), "opus").sender
            before = datetime.now(UTC)
            async with record(bob.pc, writer, remote_id="alice") as recorder:
                await connect(alice, bob)
                await until(lambda: len(writer.of("video")) > 40 and len(writer.of("audio")) > 60)
        after = datetime.now(UTC)
        for kind, sender, name, rate in (("video", video, codec, 90000), ("audio", audio, "opus", 48000)):
            rows = writer.of(kind)
            sent = tap.frames(sender, name)
            start = sent.index(rows[0].sealed)
            assert [row.sealed for row in rows] == sent[start : start + len(rows)]
            assert start < 3
            assert {row.ssrc for row in rows} == {sender._ssrc}
            assert {(row.participant, row.codec, row.clock_rate, row.profile) for row in rows} == {
                ("alice", name, rate, "livekit")
            }
            assert not any(row.gap for row in rows)
            assert {row.key_id for row in rows} == {0}
            on_wire = {packet.timestamp for packet in tap.packets if packet.ssrc == sender._ssrc}
            assert {row.rtp_timestamp % 2**32 for row in rows} <= on_wire
            stamps = [row.rtp_timestamp for row in rows]
            assert stamps == sorted(set(stamps))
            assert all(before - timedelta(seconds=1) <= row.arrival <= after for row in rows)
            assert [row.arrival for row in rows] == sorted(row.arrival for row in rows)
            plain = opened(rows)
            assert all(plain)
            assert not {row.sealed for row in rows} & set(plain)
        assert writer.of("video")[0].keyframe is True
        assert any(row.keyframe is False for row in writer.of("video"))
        assert writer.threads == {"frameseal-recorder"}
        assert all(sink.empty for sink in bob.sinks.values())
        assert recorder.counters.written == len(writer.rows)
        assert (recorder.counters.refused, recorder.counters.incomplete, recorder.counters.gaps) == (0, 0, 0)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_tee_archives_sealed_frames_beside_decoding(stack):
    writer = Rows()
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        attachment = attach(bob.pc, manager(), local_id="bob", remote_id="alice", tee=writer)
        await connect(alice, bob)
        sink = bob.sinks["0"]
        await until(lambda: len(sink.pictures) > 30)
        attachment.recorder.close()
        shown = len(sink.pictures)
        assert_shown(list(sink.pictures), "red", 30)
        rows = len(writer.rows)
        assert rows >= 30
        assert all(opened(writer.rows))
        await until(lambda: len(sink.pictures) > shown + 10)  # the call continues without its recorder
        assert len(writer.rows) == rows


@pytest.mark.parametrize("stack", STACKS)
async def test_a_manager_that_is_recorded_covers_connections_that_others_attach(stack):
    """Adapters attach the connections of their SDK themselves."""
    writer, e2ee = Rows(), E2EEManager(KeyProvider(), "livekit")  # without a key, as a bot of an SDK
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        attach(bob.pc, e2ee, local_id="bob", remote_id=lambda receiver: "alice")
        with tee_all(e2ee, writer) as recorder:
            with pytest.raises(RuntimeError, match="recorded already"):
                tee_all(e2ee, Rows())
            await connect(alice, bob)
            await until(lambda: len(writer.rows) > 20)
        assert all(opened(writer.rows))
        assert {row.participant for row in writer.rows} == {"alice"}
        assert bob.sinks["0"].empty
        assert recorder.closed
        tee_all(e2ee, writer).close()  # the next recorder may follow


@pytest.mark.parametrize("stack", STACKS)
async def test_a_manager_may_be_recorded_before_its_first_connection_and_without_decoding(stack, monkeypatch):
    """In a process that recorded nothing before."""
    writer, e2ee = Rows(), E2EEManager(KeyProvider(), "livekit")
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        receiver = part(stack).RTCRtpReceiver
        monkeypatch.setattr(receiver, "_handle_rtp_packet", inspect.unwrap(receiver._handle_rtp_packet))
        monkeypatch.setattr(stacks[stack], "_follows_packets", False)
        monkeypatch.setattr("frameseal.aiortc.stacks", {})
        with tee_all(e2ee, writer, decode=False):
            attachment = attach(bob.pc, e2ee, local_id="bob", remote_id="alice")
            await connect(alice, bob)
            await until(lambda: len(writer.rows) > 60)
            # Each keyframe that was requested arrived, and no later frame requested another.
            (track,) = attachment.counters
            await until(lambda: track.frames_in == len(writer.rows))  # a frame is counted, and then written by a thread
            assert track.dropped == 0
            assert track.keyframe_requests <= 2
        assert all(opened(writer.rows))
        assert bob.sinks["0"].empty


@pytest.mark.parametrize("stack", STACKS)
async def test_a_disk_that_is_full_costs_the_frames_and_says_so_and_nothing_else(stack):
    writer, losses = Rows(), []
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        attachment = attach(bob.pc, manager(), local_id="bob", remote_id="alice", tee=writer)
        recorder = attachment.recorder
        recorder.on("recording-loss", losses.append)
        await connect(alice, bob)
        await until(lambda: len(writer.rows) > 10)
        writer.fails = OSError(28, "No space left on device")
        await until(lambda: recorder.counters.failed > 10)
        kept = len(writer.rows)
        shown = len(bob.sinks["0"].pictures)
        await until(lambda: len(bob.sinks["0"].pictures) > shown + 10)
        writer.fails = None
        await until(lambda: len(writer.rows) > kept + 10)
        recorder.close()
        await until(lambda: sum(loss.frames for loss in losses) == recorder.counters.failed)
        assert {(loss.reason, loss.error) for loss in losses} <= {("not_written", "OSError"), ("not_written", None)}
        assert losses[0].frames == 1  # at once
        assert writer.rows[kept].gap
        assert not any(row.gap for row in writer.rows[:kept] + writer.rows[kept + 1 :])


@pytest.mark.parametrize("stack", STACKS)
async def test_a_disk_that_stalls_never_stalls_the_call(stack):
    writer = Rows()
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        attachment = attach(bob.pc, manager(), local_id="bob", remote_id="alice", tee=writer)
        recorder = attachment.recorder
        recorder._max_queue_bytes = 16 << 10  # a few pictures instead of 64 MiB
        await connect(alice, bob)
        await until(lambda: len(writer.rows) > 10)
        writer.open.clear()
        await until(lambda: recorder.counters.dropped > 10)
        shown = len(bob.sinks["0"].pictures)
        await until(lambda: len(bob.sinks["0"].pictures) > shown + 20)
        before = attachment.counters[-1].keyframe_requests
        assert before >= 1  # the pictures after a drop refer to it
        writer.open.set()
        await until(lambda: any(row.gap for row in writer.rows))
        await until(lambda: any(row.gap or row.keyframe for row in writer.rows[20:]))
        recorder.close()
        counters = recorder.counters
        assert counters.written == len(writer.rows)
        assert counters.gaps == sum(row.gap for row in writer.rows)
    assert MAX_QUEUE_BYTES == 64 << 20


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("profile", ["livekit", "jitsi", "sframe"])
async def test_frames_that_are_not_sealed_are_never_archived(stack, profile):
    """One plain frame in 256 ends like a sealed one, and most begin like an SFrame."""
    writer, losses = Rows(), []
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        alice.send(picture_track(stack), "vp8")  # plain
        alice.send(tone_track(stack), "opus")
        async with record(bob.pc, writer, remote_id="alice", profile=profile) as recorder:
            recorder.on("recording-loss", losses.append)
            await connect(alice, bob)
            await until(lambda: recorder.counters.refused > 60)
            await until(lambda: losses)
        assert losses[0].reason == "not_sealed"
        assert writer.rows == []


@pytest.mark.parametrize("stack", STACKS)
async def test_sframes_are_archived_and_tell_no_keyframes(stack):
    writer = Rows()
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(bytes(32), "sframe"), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        alice.send(tone_track(stack), "opus")
        async with record(bob.pc, writer, remote_id="alice", profile="sframe") as recorder:
            await connect(alice, bob)
            await until(lambda: len(writer.of("video")) > 20 and len(writer.of("audio")) > 20)
        assert recorder.counters.refused == 0
        assert {row.keyframe for row in writer.of("video")} == {None}
        assert {row.keyframe for row in writer.of("audio")} == {True}


@pytest.mark.parametrize("stack", STACKS)
async def test_a_participant_who_leaves_and_returns_is_one_participant_with_two_streams(stack):
    """An SFU may assign one receiver to another participant meanwhile."""
    writer, who = Rows(), ["alice"]
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        sender = alice.send(picture_track(stack), "vp8").sender
        async with record(bob.pc, writer, remote_id=lambda receiver: who[0]) as recorder:
            await connect(alice, bob)
            await until(lambda: len(writer.rows) > 20)
            who[0] = None
            await until(lambda: recorder.counters.unidentified > 5)
            gone = len(writer.rows)
            sender._ssrc = first = (sender._ssrc + 1) % 2**32  # the participant joins again
            who[0] = "alice"
            await until(lambda: len(writer.rows) > gone + 30)
        rows = [row for row in writer.rows if row.ssrc == first]
        assert len({row.ssrc for row in writer.rows}) == 2
        assert {row.participant for row in writer.rows} == {"alice"}
        assert len(rows) > 5
        assert all(opened(writer.rows))


@pytest.mark.parametrize("stack", STACKS)
async def test_lost_frames_are_gaps_and_keyframes_are_requested(stack):
    writer = Rows()
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        with Tap(stack, loss=0.05) as tap:
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            sender = alice.send(tone_track(stack), "opus").sender  # audio is not retransmitted
            async with record(bob.pc, writer, remote_id="alice") as recorder:
                await connect(alice, bob)
                await until(lambda: sum(row.gap for row in list(writer.rows)) >= 3)
            sent = tap.frames(sender, "opus")
        places = [sent.index(row.sealed) for row in writer.rows]
        assert places == sorted(set(places))
        holes = [later - earlier > 1 for earlier, later in itertools.pairwise(places)]
        assert holes == [row.gap for row in writer.rows[1:]]
        assert recorder.counters.gaps == sum(holes)
        assert all(opened(writer.rows))


@pytest.mark.parametrize("stack", STACKS)
async def test_a_recorder_that_sends_has_no_key_and_sends_nothing(stack):
    writer = Rows()
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        with Tap(stack) as tap:
            bob.send(picture_track(stack), "vp8")
            async with record(bob.pc, writer, remote_id="alice"):
                await connect(bob, alice)
                await until(lambda: len(tap.made["vp8"]) > 10)
            assert tap.packets == []
    assert writer.rows == []


async def test_a_recorder_is_closed_if_its_connection_cannot_be_attached():
    before = threading.active_count()
    with pytest.raises(TypeError, match="pc must be"):
        record(object(), Rows(), remote_id="alice")
    with pytest.raises(TypeError, match="writer must be"):
        record(object(), None, remote_id="alice")
    with pytest.raises(ValueError, match="unknown profile"):
        Recorder(Rows(), "no_such", decodes=False)
    assert threading.active_count() == before
    await asyncio.sleep(0)
