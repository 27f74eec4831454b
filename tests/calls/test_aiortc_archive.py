"""Recordings of real calls in a real archive: losses, rejoining participants, disks that stall or are full."""

import contextlib
import errno
import os
import threading

import pyarrow as pa
import pytest

from frameseal import Decryptor, Encryptor, KeyRing
from frameseal.aiortc import attach, record
from frameseal.archive import ArchiveWriter, Opener, read, verify
from support.calls import (
    STACKS,
    assert_shown,
    connect,
    manager,
    part,
    peers,
    picture_track,
    tone_track,
    until,
)


class Disk:
    """The ``os`` of the archive's spools, whose `write` blocks or fails on demand."""

    def __init__(self):
        self.is_full = False
        self.free = threading.Event()
        self.free.set()

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        assert self.free.wait(60)  # a test that fails must not block the threads of the writer for ever
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)


@pytest.fixture
def disk(monkeypatch):
    made = Disk()
    monkeypatch.setattr("frameseal.archive.spool.os", made)
    yield made
    made.free.set()


def table(folder) -> pa.Table:
    return pa.Table.from_batches(list(read(folder)))


def rows_of(folder, kind="video"):
    """Return the rows of a kind that an archive holds at present, also while it is written."""
    return [row for batch in read(folder) for row in batch.to_pylist() if row["kind"] == kind]


def assert_whole(folder, *, closed=True):
    """Check that the archive verifies, and that every row of it opens with the key of the call."""
    (found,), strangers = verify(folder)
    assert (found.problems, strangers, found.is_closed) == ([], [], closed)
    opened = Opener(manager().provider)(table(folder))
    assert set(opened["reason"].to_pylist()) == {None}
    return found


class Link:
    """Counts the keyframe requests that a sender receives, and loses whole frames with what is sent again of them."""

    def __init__(self, stack, sender, monkeypatch):
        self.sender = sender
        self.requests = 0
        self.lost = set()  # timestamps
        self._losing = 0
        rtp, transport = part(stack, "rtp"), part(stack, "rtcdtlstransport").RTCDtlsTransport
        send, send_keyframe = transport._send_rtp, sender._send_keyframe

        async def lossy(this, data):
            if not (this is sender.transport and self._loses(rtp, data)):
                await send(this, data)

        def counted():
            self.requests += 1
            send_keyframe()

        monkeypatch.setattr(transport, "_send_rtp", lossy)
        monkeypatch.setattr(sender, "_send_keyframe", counted)

    def lose(self, frames):
        """Lose the next frames."""
        self._losing += frames

    def _loses(self, rtp, data):
        if rtp.is_rtcp(data):
            return False
        packet = rtp.RtpPacket.parse(data)
        if self._losing and packet.ssrc == self.sender._ssrc and packet.timestamp not in self.lost:
            self._losing -= 1
            self.lost.add(packet.timestamp)
        return packet.timestamp in self.lost


@pytest.mark.parametrize("stack", STACKS)
async def test_the_sender_is_asked_for_a_keyframe_at_the_start_and_after_each_gap(stack, tmp_path, monkeypatch):
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        sender = alice.send(picture_track(stack), "vp8").sender
        link = Link(stack, sender, monkeypatch)
        link.lose(1)  # the recorder comes too late for the first keyframe
        with ArchiveWriter(tmp_path, "call") as writer:
            async with record(bob.pc, writer, remote_id="alice") as recorder:
                await connect(alice, bob)
                await until(lambda: any(row["keyframe"] for row in rows_of(tmp_path)))
                at_the_start = link.requests
                assert at_the_start >= 1
                link.lose(2)
                # A jitter buffer waits for the lost frames until it is full: some seconds.
                await until(lambda: recorder.counters.gaps, 40)
                await until(lambda: any(row["keyframe"] for row in after_gap(tmp_path)))
                assert link.requests > at_the_start
        rows = rows_of(tmp_path)
        assert rows[0]["keyframe"] is False  # archived all the same: who opens it may have more
        assert not link.lost & {row["rtp_timestamp"] % 2**32 for row in rows}
        assert assert_whole(tmp_path).gaps == recorder.counters.gaps


def after_gap(folder):
    rows = rows_of(folder)
    gaps = [number for number, row in enumerate(rows) if row["gap"]]
    return rows[gaps[0] + 1 :] if gaps else []


@pytest.mark.parametrize("stack", STACKS)
async def test_a_participant_who_comes_back_with_another_codec_is_in_the_same_archive(stack, tmp_path):
    with ArchiveWriter(tmp_path, "call") as writer:
        for codec in ("vp8", "h264"):
            async with peers(stack, stack, tracks_end=True) as (alice, bob):
                attach(alice.pc, manager(), local_id="alice", remote_id="bob")
                alice.send(picture_track(stack), codec)
                async with record(bob.pc, writer, remote_id="alice") as recorder:
                    await connect(alice, bob)
                    await until(lambda recorder=recorder: recorder.counters.written > 30)
    rows = rows_of(tmp_path)
    codecs = [row["codec"] for row in rows]
    assert codecs == sorted(codecs, reverse=True) and set(codecs) == {"vp8", "h264"}
    assert {row["participant"] for row in rows} == {"alice"}
    assert len({(row["track"], row["codec"]) for row in rows}) == 2
    begins = [rows[0], rows[codecs.index("h264")]]
    assert [row["keyframe"] for row in begins] == [True, True]
    assert_whole(tmp_path)


@contextlib.asynccontextmanager
async def call_of_bob(stack, tee):
    """A call in which bob sees alice, and archives her frames. Yields his sink, his recorder and its losses."""
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track(stack), "vp8")
        recorder = attach(bob.pc, manager(), local_id="bob", remote_id="alice", tee=tee).recorder
        losses = []
        recorder.on("recording-loss", losses.append)
        await connect(alice, bob)
        await until(lambda: recorder.counters.written > 20)
        yield bob.sinks["0"], recorder, losses
        recorder.close()
        await until(lambda: sum(loss.frames for loss in losses) == lost(recorder))


def lost(recorder):
    counters = recorder.counters
    return counters.dropped + counters.failed + counters.refused


async def goes_on(sink):
    """Wait until the call has shown more pictures, all of them right."""
    shown = len(sink.pictures)
    await until(lambda: len(sink.pictures) > shown + 20)
    assert_shown(list(sink.pictures), "red", shown + 20)


@pytest.mark.parametrize("stack", STACKS)
async def test_an_archive_on_a_disk_that_stalls_has_a_gap_and_the_call_has_none(stack, tmp_path, disk):
    with ArchiveWriter(tmp_path, "call") as writer:
        async with call_of_bob(stack, writer) as (sink, recorder, losses):
            recorder._max_queue_bytes = 16 << 10  # a few pictures instead of 64 MiB
            disk.free.clear()
            await until(lambda: recorder.counters.dropped > 10)
            await until(lambda: losses)
            assert (losses[0].reason, losses[0].error) == ("queue_full", None)
            await goes_on(sink)
            assert recorder._queue_bytes <= recorder._max_queue_bytes
            disk.free.set()
            written = recorder.counters.written
            await until(lambda: recorder.counters.written > written + 40)
    assert assert_whole(tmp_path).gaps == recorder.counters.gaps >= 1
    assert len(rows_of(tmp_path)) == recorder.counters.written


@pytest.mark.parametrize("stack", STACKS)
async def test_an_archive_on_a_full_disk_keeps_what_it_had_and_goes_on_when_there_is_space(
    stack, tmp_path, disk, monkeypatch
):
    monkeypatch.setattr("frameseal.archive.writer.BUFFER_BYTES", 8 << 10)  # a few pictures instead of 4 MiB
    with ArchiveWriter(tmp_path, "call") as writer:
        async with call_of_bob(stack, writer) as (sink, recorder, losses):
            writer.flush()
            disk.is_full = True
            kept = len(rows_of(tmp_path))
            await until(lambda: recorder.counters.failed > 10)
            await until(lambda: losses)
            assert (losses[0].reason, losses[0].frames, losses[0].error) == ("not_written", 1, "OSError")
            await goes_on(sink)
            assert len(rows_of(tmp_path)) >= kept > 0
            written = recorder.counters.written
            disk.is_full = False
            await until(lambda: recorder.counters.written > written + 20)
    assert assert_whole(tmp_path).gaps == 1
    assert len(rows_of(tmp_path)) == recorder.counters.written


@pytest.mark.parametrize("stack", STACKS)
async def test_an_archive_whose_disk_stays_full_is_readable_and_marked_as_not_closed(
    stack, tmp_path, disk, monkeypatch
):
    monkeypatch.setattr("frameseal.archive.writer.BUFFER_BYTES", 8 << 10)
    writer = ArchiveWriter(tmp_path, "call")
    async with call_of_bob(stack, writer) as (sink, recorder, _):
        writer.flush()
        kept = len(rows_of(tmp_path))
        disk.is_full = True
        await until(lambda: recorder.counters.failed > 10)
        await goes_on(sink)
    with pytest.raises(OSError, match="the archive is incomplete"):
        writer.close()
    assert len(rows_of(tmp_path)) >= kept > 0
    assert_whole(tmp_path, closed=False)


@pytest.mark.parametrize("stack", STACKS)
async def test_a_writer_that_is_closed_early_costs_frames_and_says_so(stack, tmp_path):
    writer = ArchiveWriter(tmp_path, "call")
    async with call_of_bob(stack, writer) as (sink, recorder, losses):
        writer.close()
        await until(lambda: losses)
        assert (losses[0].reason, losses[0].error) == ("refused", "ValueError")
        await goes_on(sink)
    assert assert_whole(tmp_path).frames == recorder.counters.written


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("profile", ["livekit", "sframe"])
async def test_no_frame_of_a_sender_who_stops_sealing_in_mid_call_is_in_the_archive(
    stack, profile, tmp_path, monkeypatch
):
    """The sender is no hook of ours, which would stop. It also leaves some silence in the clear, as DTX may."""
    ring = KeyRing(profile)
    ring.set_key(os.urandom(32))
    sealer = Encryptor(ring, "opus")
    encoder = part(stack, "codecs").OpusEncoder
    encode = encoder.encode
    plain, is_sealing = set(), threading.Event()
    is_sealing.set()

    def sealing(this, frame, force_keyframe=False):
        payloads, timestamp = encode(this, frame, force_keyframe)
        (payload,) = payloads
        if timestamp // 960 % 10 == 9:
            payload = b"\xf8\xff\xfe"
        elif is_sealing.is_set():
            return [sealer.encrypt(payload)], timestamp
        plain.add(payload)
        return [payload], timestamp

    monkeypatch.setattr(encoder, "encode", sealing)
    with ArchiveWriter(tmp_path, "call") as writer:
        async with peers(stack, stack, tracks_end=True) as (alice, bob):
            alice.send(tone_track(stack), "opus")
            async with record(bob.pc, writer, remote_id="alice", profile=profile) as recorder:
                await connect(alice, bob)
                for _ in range(2):
                    written = recorder.counters.written
                    is_sealing.set()
                    await until(lambda least=written + 60: recorder.counters.written > least)
                    refused = recorder.counters.refused
                    is_sealing.clear()
                    await until(lambda least=refused + 60: recorder.counters.refused > least)
    assert {b"\xf8\xff\xfe"} < plain
    assert not plain & {row["sealed"] for row in rows_of(tmp_path, "audio")}
    opener = Decryptor(ring, "opus")
    assert all(opener.decrypt(row["sealed"]) for row in rows_of(tmp_path, "audio"))


@pytest.mark.parametrize("stack", STACKS)
async def test_a_connection_is_recorded_once(stack, tmp_path):
    with ArchiveWriter(tmp_path, "call") as writer:
        async with peers(stack, stack, tracks_end=True) as (alice, bob):
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            alice.send(tone_track(stack), "opus")
            async with record(bob.pc, writer, remote_id="alice") as recorder:
                threads = threading.active_count()
                with pytest.raises(RuntimeError, match="attached already"):
                    record(bob.pc, writer, remote_id="alice")
                assert threading.active_count() == threads
                await connect(alice, bob)
                await until(lambda: recorder.counters.written > 60)
    stamps = [row["rtp_timestamp"] for row in rows_of(tmp_path, "audio")]
    assert stamps == sorted(set(stamps))
    assert_whole(tmp_path)
