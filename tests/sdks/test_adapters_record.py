"""Recordings through the adapters, with and without a key. `test_videosdk_recording.py` has VideoSDK's."""

import pytest

from frameseal import Decryptor, E2EEManager, ExternalE2EEKeyProvider, KeyProvider
from frameseal.aiortc import tee_all
from frameseal.livekit import join
from sdks.test_pymediasoup import Guest, router_with_guests, shared
from support.archives import assert_opens
from support.calls import PASSPHRASE, Sink, assert_pictures, key_ring, plays, tone_track, until
from support.livekit_stand_in import serving
from support.recording_lines import recording_lines


class Rows(list):
    write = list.append


def keys() -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider()
    made.set_shared_key(PASSPHRASE)
    return made


@pytest.fixture
async def server():
    async with serving() as made:
        yield made


# --- pymediasoup -----------------------------------------------------------------------------------------------------


async def test_a_guest_without_a_key_records_everybody():
    rows = Rows()
    async with router_with_guests() as router:
        await Guest(router, "alice", shared()).enter("red")
        bob = Guest(router, "bob", shared(None))
        async with tee_all(bob.e2ee, rows) as recorder:
            await bob.enter()
            await Guest(router, "carol", shared()).enter("blue")
            tracks = {(who, kind) for who in ("alice", "carol") for kind in ("audio", "video")}
            await until(lambda: {(row.participant, row.kind) for row in list(rows)} >= tracks)
        assert recorder.counters.refused == 0
        assert {(row.participant, row.kind) for row in rows} == tracks
        assert all(sink.empty for sink in bob.sinks.values())


async def test_the_lines_of_the_page_record_a_meeting_beside_playing_it(tmp_path, monkeypatch):
    async with router_with_guests() as router:
        await Guest(router, "alice", shared()).enter("red")
        bob = Guest(router, "bob", shared())
        names = {"e2ee": bob.e2ee}
        async with recording_lines("adapters/pymediasoup.md", tmp_path, names, monkeypatch) as recorder:
            await bob.enter()
            await until(lambda: bob.sees("alice") and recorder.counters.written > 100)
            assert_pictures(bob.sinks["alice", "video"], "red")
    assert_opens(tmp_path / "archive", {("alice", "audio"), ("alice", "video")}, bob.e2ee.provider)


# --- LiveKit ---------------------------------------------------------------------------------------------------------


async def test_a_room_is_recorded_without_a_key(server):
    rows, keyless = Rows(), E2EEManager(KeyProvider(), "livekit")
    async with (
        tee_all(keyless, rows),
        join(server.url, "token of bob", keyless, ice_servers=()),
        join(server.url, "token of alice", keys(), ice_servers=()) as first,
    ):
        await first.publish(tone_track("aiortc"))
        await until(lambda: len(rows) > 20)
    opener = Decryptor(key_ring(), "opus")
    assert all(opener.decrypt(row.sealed) for row in rows)
    assert {(row.participant, row.codec) for row in rows} == {("alice", "opus")}


async def test_the_lines_of_the_page_record_a_room_beside_hearing_it(server, tmp_path, monkeypatch):
    async with (
        join(server.url, "token of bob", keys(), ice_servers=()) as room,
        recording_lines("livekit.md", tmp_path, {"room": room}, monkeypatch) as recorder,
        join(server.url, "token of alice", keys(), ice_servers=()) as first,
    ):
        tracks: list = []
        room.on("track", tracks.append)
        await first.publish(tone_track("aiortc"))
        await until(lambda: tracks)
        sink = Sink(tracks[0].media)
        await until(lambda: plays(sink) and recorder.counters.written > 60)
    assert_opens(tmp_path / "archive", {("alice", "audio")}, keys())
