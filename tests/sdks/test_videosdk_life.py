"""Meetings of VideoSDK's SDK over their whole life: made, left, muted, switched. What stays, and what is told.

The room is that of tests/support/videosdk_room.py, the meetings are real ones.
"""

import asyncio
import gc
import itertools
import threading
import tracemalloc
import weakref
from collections import Counter
from typing import Any

import pytest
from videosdk import Meeting, MeetingEventHandler, Participant, ParticipantEventHandler
from videosdk.lib.pymediasoup.transport import Transport
from videosdk.room_client import RoomClient
from vsaiortc import RTCPeerConnection

from frameseal import E2EEManager, E2EEState, KeyProvider
from frameseal.e2ee.call import CallState
from frameseal.e2ee.monitor import FAILURE_COUNTERS, Monitor
from frameseal.e2ee.track import Track
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform
from frameseal.emitter import LoopEmitter
from frameseal.videosdk import E2EEError, MeetingE2EE, set_key_provider
from sdks.test_videosdk import KEY, STACK, Guest, meeting_place, provider
from support.calls import assert_pictures, picture_track, tone_track, until

S = E2EEState


@pytest.fixture(autouse=True)
def no_default_provider():
    yield
    set_key_provider(None)
    gc.collect()


# --- too late


async def test_a_meeting_left_before_it_was_joined_sends_nothing_once_a_provider_is_set(monkeypatch):
    async with meeting_place(monkeypatch) as (room, _):
        alice = Guest("alice", "red")
        alice.meeting.leave()
        await until(lambda: alice.room_client._closed)
        set_key_provider(provider())
        with pytest.raises(E2EEError, match="make it anew"):
            await alice.meeting.async_join()
        await asyncio.sleep(0.5)  # in which it used to send some 100 packets
        assert room.payloads("alice") == [] and room.requests == []


# --- nothing stays

OURS = (MeetingE2EE, E2EEManager, CallState, LoopEmitter, Monitor, Track, SenderTransform, ReceiverTransform)
THEIRS = (Meeting, RoomClient, Participant, RTCPeerConnection)


def alive() -> Counter[str]:
    """Count the objects of meetings in this process, after a collection."""
    gc.collect()
    kinds = (*OURS, *THEIRS)
    return Counter(type(thing).__name__ for thing in gc.get_objects() if issubclass(type(thing), kinds))


def with_handlers(guest: Guest) -> Guest:
    """Add handlers that refer to everything, as those of applications do."""
    meeting, session = guest.meeting, guest.meeting.e2ee
    participant = meeting.local_participant
    seen: list[Any] = []

    class Handler(ParticipantEventHandler):
        async def on_e2ee_state_changed(self, data):
            seen.append((data, participant, meeting))

    participant.add_event_listener(Handler())
    participant.on("e2ee-state-change", lambda data: seen.append((data, participant, meeting, session)))
    for event in ("e2ee-state-change", "e2ee-missing-key", "e2ee-diagnosis"):
        session.manager.on(event, lambda data: seen.append((data, session, meeting, guest)))
    return guest


def is_connecting(guest: Guest) -> bool:
    transports = [value for value in vars(guest.room_client).values() if isinstance(value, Transport)]
    return any(transport.handler.pc.connectionState == "connecting" for transport in transports)


def traced() -> int:
    """Return the bytes that Python has allocated, but for what PyAV's Opus keeps of every meeting, sealed or not."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*/codecs/opus.py")])
    return sum(each.size for each in snapshot.traces)


async def no_data_channel(room: RoomClient) -> None:
    pass


@pytest.mark.long
async def test_two_hundred_meetings_in_one_process_leave_nothing_behind(monkeypatch):
    # The room has no SCTP: a data channel that goes on asking for it keeps its connection alive for a minute.
    monkeypatch.setattr(RoomClient, "enable_data_producer", no_data_channel)
    keys = KeyProvider()  # one for all of them, as an application has it
    keys.set_shared_key(KEY)
    async with meeting_place(monkeypatch) as (room, _):
        before = alive()

        async def hold(number: int) -> None:
            match number % 10:
                case 0 | 1:  # made, and given up
                    with_handlers(Guest(f"guest-{number}", keys=keys))
                    return
                case 2 | 3:  # made, left, and given up
                    with_handlers(Guest(f"guest-{number}", keys=keys)).meeting.leave()
                    await asyncio.sleep(0)
                    return
                case 4:  # with media both ways
                    guests = [with_handlers(Guest(f"{name}-{number}", "red", keys)) for name in ("alice", "bob")]
                case _:
                    guests = [with_handlers(Guest(f"guest-{number}", keys=keys))]
            for guest in guests:
                await guest.meeting.async_join()
            if len(guests) == 2:
                alice, bob = guests
                await until(lambda: alice.room_client and len(bob.states.get(alice.name, [])) == 2, 60)
            # aioice leaves a task behind for half a minute where a connection is closed while it is being made.
            await until(lambda: not any(is_connecting(guest) for guest in guests))
            for guest in guests:
                guest.meeting.leave()
            await until(lambda: not room.peers)
            room.all_peers.clear()
            room.requests.clear()

        async def hold_many(numbers: range) -> int:
            for number in numbers:
                await hold(number)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            await until(lambda: threading.active_count() <= threads)
            # A timer may hold on to its watch for half a second.
            await until(lambda: alive() == before)
            return traced()

        tasks, threads = len(asyncio.all_tasks()), threading.active_count() + POOL
        tracemalloc.start()
        try:
            first = await hold_many(range(100))
            second = await hold_many(range(100, 200))
        finally:
            tracemalloc.stop()
        # One of these meetings that stays is 190 kB.
        assert second - first < 100 * 1024, "bytes that a hundred meetings leave behind"


# The loop's executor, in which encoders run, keeps its threads: as many as it starts at the most.
POOL = 32


async def test_a_meeting_that_is_over_has_no_watch_that_ticks_though_the_application_keeps_it(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        alice = await enter("alice", "red", provider())
        bob = await enter("bob", None, provider())
        await until(lambda: bob.sees("alice"))
        watches = [guest.meeting.e2ee.manager._ticker for guest in (alice, bob)]
        assert all(watch._ticking for watch in watches)
        alice.meeting.leave()
        bob.meeting.leave()
        await until(lambda: not room.peers)
        await until(lambda: not any(watch._ticking for watch in watches))
        for guest in (alice, bob):
            manager = guest.meeting.e2ee.manager
            assert not [track for track in manager.tracks() if track.transforms], "no cipher is left"


async def test_a_watch_goes_on_when_a_track_comes_after_a_pause():
    manager = E2EEManager(provider(), "videosdk")
    watch = manager._ticker
    await until(lambda: not watch._ticking)
    transform = manager.receiver_transform("alice", "audio", "opus")
    assert watch._ticking
    del transform
    await until(lambda: not watch._ticking)


# --- mute and unmute


def transforms(guest: Guest, participant: str) -> list[Any]:
    tracks = [track for track in guest.meeting.e2ee.manager.tracks() if track.participant_id == participant]
    return [transform for track in tracks for transform in track.transforms]


async def mute(room: Any, guest: Guest) -> None:
    before = room.requests.count((guest.name, "closeProducer"))
    guest.meeting.disable_webcam()
    guest.meeting.disable_mic()
    await until(lambda: room.requests.count((guest.name, "closeProducer")) == before + 2)
    client = vars(guest.room_client)
    await until(lambda: client["_RoomClient__video_producer"] is client["_RoomClient__audio_producer"] is None)


async def unmute(guest: Guest, colour: str) -> None:
    guest.meeting.enable_webcam(picture_track(STACK, colour))
    guest.meeting.enable_mic(tone_track(STACK))


async def test_a_key_that_comes_between_mute_and_unmute_leaves_no_old_state_at_the_receiver(monkeypatch):
    late = provider(None)
    async with meeting_place(monkeypatch) as (room, enter):
        set_key_provider(late, hold_frames=64)
        bob = await enter("bob")
        set_key_provider(None)
        alice = await enter("alice", "red", provider())
        manager = bob.meeting.e2ee.manager
        await until(lambda: manager.state("alice", "video") == manager.state("alice", "audio") == S.MissingKey)
        (held,) = [weakref.ref(each) for each in transforms(bob, "alice") if each.track.kind == "video"]
        await mute(room, alice)
        await until(lambda: not transforms(bob, "alice"))
        await until(lambda: held() is None)  # and with it the frames that it held
        late.set_shared_key(KEY)
        bob.sinks.clear()
        await unmute(alice, "green")
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "green")
        assert manager.state("alice", "video") == manager.state("alice", "audio") == S.DecryptionSuccess
        kinds = Counter(track.kind for track in manager.tracks() if track.participant_id == "alice")
        assert kinds == {"video": 1, "audio": 1}
        assert bob.states["alice"][-2:] and {state for _, state in bob.states["alice"][-2:]} == {S.DecryptionSuccess}


async def test_a_key_that_comes_between_mute_and_unmute_leaves_no_old_state_at_the_sender(monkeypatch):
    late = provider(None)
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        alice = await enter("alice", "red", late)
        manager = alice.meeting.e2ee.manager
        await until(lambda: manager.state("alice", "video") == manager.state("alice", "audio") == S.MissingKey)
        await mute(room, alice)
        late.set_shared_key(KEY)
        await unmute(alice, "green")
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "green")
        await until(lambda: manager.state("alice", "video") == manager.state("alice", "audio") == S.EncryptionSuccess)


async def test_twenty_mutes_leave_one_transform_for_each_track(monkeypatch):
    async with meeting_place(monkeypatch) as (_room, enter):
        bob = await enter("bob", None, provider())
        alice = await enter("alice", None, provider())
        for colour in itertools.islice(itertools.cycle(("red", "green")), 20):
            alice.meeting.enable_webcam(picture_track(STACK, colour))
            await until(lambda: transforms(bob, "alice"))
            await until(lambda: bob.meeting.e2ee.manager.state("alice", "video") is S.DecryptionSuccess)
            assert len(transforms(bob, "alice")) == 1
            assert len(bob.meeting.e2ee._kinds) == 1
            alice.meeting.disable_webcam()
            await until(lambda: not transforms(bob, "alice"))
            client = vars(alice.room_client)
            await until(lambda client=client: client["_RoomClient__video_producer"] is None)
        await until(lambda: bob.meeting.e2ee.manager.state("alice", "video") is None)  # there is no track
        await until(lambda: not bob.meeting.e2ee._kinds and not alice.meeting.e2ee._kinds)


# --- who says that they do not encrypt


async def test_an_unsealed_screen_beside_a_sealed_camera_is_told_of_the_screen(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        offer = room.offer

        async def with_a_plain_screen(producer):
            if producer.app_data.get("share"):
                producer.app_data["isEncrypted"] = False
                producer.alter = lambda payload: payload[:-1] + bytes([payload[-1] ^ 1])  # none of it opens
            await offer(producer)

        room.offer = with_a_plain_screen
        alice = await enter("alice", "red", provider())
        await until(lambda: bob.sees("alice"))
        screen = picture_track(STACK, "blue")
        alice.meeting.add_custom_video_track(screen, {"share": True}, allow_multiple=True)
        await until(lambda: [each for each in bob.states["alice"] if each[0] == "share"])
        manager = bob.meeting.e2ee.manager

        def of_the_screen() -> int:
            stats = [each.stats() for each in transforms(bob, "alice") if each.track.declared_plain]
            return sum(each[name] for each in stats for name in FAILURE_COUNTERS)

        await until(lambda: of_the_screen() > 20)
        assert [state for kind, state in bob.states["alice"] if kind == "share"] == [S.InternalError]
        assert [state for kind, state in bob.states["alice"] if kind == "video"] == [S.DecryptionSuccess]
        assert manager.state("alice", "video") is S.InternalError, "the gravest of the two"
        reasons = {track.state: track.reason for track in manager.tracks() if track.kind == "video"}
        assert reasons == {S.DecryptionSuccess: None, S.InternalError: "sender_not_encrypted"}


async def test_a_sender_that_says_it_is_plain_and_is_not_is_a_success_once_a_frame_opens(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        offer = room.offer

        async def claimed(producer):
            producer.app_data["isEncrypted"] = False
            await offer(producer)

        room.offer = claimed
        await enter("alice", "red", provider())
        await until(lambda: bob.sees("alice"))
        for kind in ("audio", "video"):
            assert [state for which, state in bob.states["alice"] if which == kind] == [
                S.InternalError,
                S.DecryptionSuccess,
            ]


# --- who left, and listeners


async def test_who_left_keeps_no_state_whatever_the_applications_handler_raises(monkeypatch):
    class Handler(MeetingEventHandler):
        def on_participant_left(self, participant):
            raise ValueError("of the application")

    async with meeting_place(monkeypatch) as (_room, enter):
        bob = await enter("bob", None, provider())
        bob.meeting.add_event_listener(Handler())
        alice = await enter("alice", "red", provider("another key"))
        manager = bob.meeting.e2ee.manager
        await until(lambda: manager.state("alice", "video") == manager.state("alice", "audio") == S.DecryptionFailed)
        alice.meeting.leave()
        await until(lambda: "alice" not in bob.meeting.participants)
        await until(lambda: manager.state("alice", "video") is manager.state("alice", "audio") is None)
        assert not transforms(bob, "alice")


async def test_a_defect_of_ours_does_not_keep_an_event_from_the_sdk(monkeypatch, caplog):
    async with meeting_place(monkeypatch) as (_, enter):
        bob = await enter("bob", None, provider())

        def broken(participant_id):
            raise RuntimeError("a defect")

        monkeypatch.setattr(bob.meeting.e2ee.manager, "remove_participant", broken)
        alice = await enter("alice", None, provider())
        await until(lambda: "alice" in bob.meeting.participants)
        alice.meeting.leave()
        await until(lambda: "alice" not in bob.meeting.participants)
        assert "a defect" in caplog.text


@pytest.mark.parametrize("raises", [False, True], ids=["", "a handler raises"])
async def test_after_a_switch_those_who_were_in_the_other_meeting_have_no_state(monkeypatch, raises):
    class Handler(MeetingEventHandler):
        def on_participant_left(self, participant):
            if raises:
                raise ValueError("of the application")

    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        bob.meeting.add_event_listener(Handler())
        alice = await enter("alice", "red", provider("another key"))
        manager = bob.meeting.e2ee.manager
        await until(lambda: manager.state("alice", "video") == manager.state("alice", "audio") == S.DecryptionFailed)
        alices = alice.meeting.e2ee.manager
        # The other meeting is empty: nobody is introduced to Bob there.
        monkeypatch.setattr(room, "introduce", nobody)
        bob.meeting.switch_to("another")
        await until(lambda: manager.state("alice", "video") is manager.state("alice", "audio") is None)
        await until(lambda: not transforms(bob, "alice"))
        assert alices.state("alice", "video") is S.EncryptionSuccess


async def nobody(peer: Any) -> None:
    pass


async def test_after_a_switch_those_who_are_there_are_opened_as_ever(monkeypatch):
    async with meeting_place(monkeypatch) as (_, enter):
        bob = await enter("bob", None, provider())
        await enter("alice", "red", provider())
        await until(lambda: bob.sees("alice"))
        bob.sinks.clear()
        bob.meeting.switch_to("another")
        await until(lambda: bob.sees("alice"))
        manager = bob.meeting.e2ee.manager
        assert manager.state("alice", "video") is manager.state("alice", "audio") is S.DecryptionSuccess


async def test_listeners_that_are_coroutines_run_and_what_they_raise_is_logged(monkeypatch, caplog):
    told: list[Any] = []
    going_on = asyncio.Event()

    class Handler(ParticipantEventHandler):
        async def on_e2ee_state_changed(self, data):
            await asyncio.sleep(0)
            told.append(data)
            await going_on.wait()
            raise ValueError("of a coroutine")

    async with meeting_place(monkeypatch) as (_, _enter):
        guest = Guest("alice", "red", provider())
        guest.meeting.local_participant.add_event_listener(Handler())
        await guest.meeting.async_join()
        try:
            await until(lambda: len(told) == 2)
            assert {(data.kind, data.state) for data in told} == {
                ("video", S.EncryptionSuccess),
                ("audio", S.EncryptionSuccess),
            }
            session = guest.meeting.e2ee
            assert len(session._listening) == 2, "kept until they end, so that the collector does not end them"
            going_on.set()
            await until(lambda: not session._listening)
            assert caplog.text.count("ValueError: of a coroutine") == 2
        finally:
            guest.meeting.leave()
            await until(lambda: guest.room_client._closed)
