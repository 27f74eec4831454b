"""Real meetings of VideoSDK's SDK (PyPI ``videosdk``), encrypted: who has the key sees and hears, nobody else does."""

import asyncio
import contextlib
import gc
import weakref
from typing import Any

import pytest
import videosdk.room_client
from videosdk import ParticipantEventHandler, VideoSDK
from videosdk._events import Events

import frameseal
from frameseal import E2EEState, ExternalE2EEKeyProvider, KeyRing
from frameseal.videosdk import E2EEError, MeetingE2EE, StateData, enable_e2ee, set_key_provider
from support.calls import Sink, Tap, assert_pictures, assert_tone, picture_track, tone_track, until
from support.videosdk_room import videosdk_room
from support.wire import leaks

STACK = "vsaiortc"
KEY = "the key of the meeting"
S = E2EEState


def provider(key: str | None = KEY, **options: Any) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider(**options)
    if key is not None:
        made.set_shared_key(key)
    return made


class Guest:
    """A participant of a real meeting: what they send, see, hear and are told."""

    def __init__(self, name: str, colour: str | None = None, keys: Any = None) -> None:
        sends = colour is not None
        self.name = name
        self.sinks: dict[tuple[str, str], Sink] = {}
        self.states: dict[str, list[tuple[str, E2EEState]]] = {}
        self.meeting = VideoSDK.init_meeting(
            meeting_id="room",
            token="a-token",
            participant_id=name,
            name=name,
            mic_enabled=sends,
            webcam_enabled=sends,
            custom_camera_video_track=picture_track(STACK, colour or "red"),
            custom_microphone_audio_track=tone_track(STACK),
            loop=asyncio.get_running_loop(),
        )
        if keys is not None:
            enable_e2ee(self.meeting, keys)
        self.room_client = next(
            value for value in vars(self.meeting).values() if isinstance(value, videosdk.room_client.RoomClient)
        )
        self.room_client.on(Events.ADD_CONSUMER, self._consume)
        self.room_client.on(Events.ADD_PEER, lambda data: self._listen(self.meeting.participants[data["id"]]))
        self._listen(self.meeting.local_participant)

    def _listen(self, participant: Any) -> None:
        if self.meeting.is_e2ee_enabled:
            heard = self.states.setdefault(participant.id, [])
            participant.on("e2ee-state-change", lambda data: heard.append((data.kind, data.state)))

    def _consume(self, consumer: Any) -> None:
        self.sinks[consumer.appData["peerId"], consumer.kind] = Sink(consumer.track)

    def sees(self, whom: str) -> bool:
        video, audio = (self.sinks.get((whom, kind)) for kind in ("video", "audio"))
        return video is not None and audio is not None and len(video.pictures) > 20 and audio.seconds > 0.8


@contextlib.asynccontextmanager
async def meeting_place(monkeypatch: pytest.MonkeyPatch, round_trip: float = 0.0):
    """A room, and a function that lets guests in; everybody leaves at the end."""
    guests: list[Guest] = []
    async with videosdk_room(round_trip) as room:
        config = {
            "base_url": "localhost",
            "signaling_url": room.url,
            "ice_servers": [],
            "observability_Jwt": None,
            "traces": {},
            "logs": {},
            "metaData": {},
        }
        # The one request of the SDK that the room does not answer: over HTTPS, blocking, for this.
        monkeypatch.setattr(videosdk.room_client, "get_server_config", lambda *args: config)

        async def enter(*args: Any, **options: Any) -> Guest:
            guest = Guest(*args, **options)
            guests.append(guest)
            await guest.meeting.async_join()
            return guest

        try:
            yield room, enter
        finally:
            for guest in guests:
                guest.meeting.leave()
            await asyncio.sleep(0.3)


@pytest.fixture(autouse=True)
def no_default_provider():
    yield
    set_key_provider(None)
    gc.collect()


@pytest.mark.parametrize("round_trip", [0.0, 0.1], ids=["0 ms", "100 ms"])
async def test_who_has_the_key_sees_and_hears_and_nobody_else_does(monkeypatch, round_trip):
    late = provider(None)
    with Tap(STACK) as tap:
        async with meeting_place(monkeypatch, round_trip) as (room, enter):
            alice = await enter("alice", "red", provider())
            bob = await enter("bob", "blue", provider())
            eve = await enter("eve", None, provider("a wrong key", failure_tolerance=3))
            mallory = await enter("mallory", None, provider("another wrong key"))
            nobody = await enter("nobody", None, provider(None))
            carol = await enter("carol", None, late)
            plain = await enter("plain")
            await until(lambda: alice.sees("bob") and bob.sees("alice"))
            assert_pictures(bob.sinks["alice", "video"], "red")
            assert_pictures(alice.sinks["bob", "video"], "blue")
            assert_tone(bob.sinks["alice", "audio"])
            await until(lambda: all(("alice", kind) in carol.sinks for kind in ("audio", "video")))
            assert carol.sinks["alice", "video"].empty
            late.set_shared_key(KEY)
            await until(lambda: carol.sees("alice") and carol.sees("bob"))
            assert_pictures(carol.sinks["alice", "video"], "red")
            for guest in (eve, mallory, nobody):
                assert len(guest.sinks) == 4 and all(sink.empty for sink in guest.sinks.values()), guest.name
            # Without encryption at all, what comes is noise: no picture is one of ours.
            assert not [p for p in plain.sinks["alice", "video"].pictures if p.number is not None]

            sealing = {("video", S.EncryptionSuccess), ("audio", S.EncryptionSuccess)}
            assert set(alice.states["alice"]) == set(bob.states["bob"]) == sealing
            assert set(bob.states["alice"]) == {("video", S.DecryptionSuccess), ("audio", S.DecryptionSuccess)}
            # All senders share the key, so it may have failed often enough before the first frame of Alice arrives.
            failed = {state for sender in ("alice", "bob") for _, state in eve.states[sender]}
            assert failed == {S.DecryptionFailed, S.InvalidKey} and S.InvalidKey in dict(eve.states["alice"]).values()
            assert {state for _, state in mallory.states["alice"]} == {S.DecryptionFailed}
            assert {state for _, state in nobody.states["alice"]} == {S.MissingKey}
            assert {state for _, state in carol.states["alice"]} == {S.MissingKey, S.DecryptionSuccess}
            assert [guest.meeting.is_e2ee_enabled for guest in (alice, eve, nobody, plain)] == [True, True, True, False]
        payloads = room.payloads("alice") + room.payloads("bob")
    assert len(payloads) > 200
    secret = [frame[10:] for frames in tap.made.values() for frame in frames if len(frame) > 40]
    assert leaks(secret, payloads) == 0
    assert leaks(secret, [*payloads, max(secret, key=len)[:1000]]) > 0, "a leak would be found"


async def test_a_sender_whose_key_is_late_sends_nothing_before_it_comes(monkeypatch):
    late = provider(None)
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        alice = await enter("alice", "red", late)
        await until(lambda: len(alice.states["alice"]) == 2)
        await until(lambda: ("alice", "video") in bob.sinks)
        await asyncio.sleep(0.5)
        assert room.payloads("alice") == []
        late.set_shared_key(KEY)
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")
        told = [[state for kind, state in alice.states["alice"] if kind == which] for which in ("audio", "video")]
        assert told == [[S.MissingKey, S.EncryptionSuccess]] * 2


async def test_a_provider_that_is_set_encrypts_the_meetings_made_afterwards(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        VideoSDK.set_key_provider(provider())
        alice, bob = await enter("alice", "red"), await enter("bob")
        assert alice.meeting.is_e2ee_enabled and isinstance(alice.meeting.e2ee, MeetingE2EE)
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"])
        flags = [producer.app_data["isEncrypted"] for producer in room.peers["alice"].produced]
        assert flags == [True, True]
        set_key_provider(None)  # the same function
        assert alice.meeting.is_e2ee_enabled, "what is encrypted stays so"
        assert not Guest("carol").meeting.is_e2ee_enabled


async def test_a_meeting_has_the_options_of_every_call(monkeypatch):
    keys, asked = provider(None), []

    def fetch(missing):
        asked.append(missing)
        keys.set_shared_key(KEY)

    async with meeting_place(monkeypatch) as (_, enter):
        set_key_provider(keys, on_missing_key=fetch, hold_frames=32, replay_window=64)
        bob = await enter("bob")
        set_key_provider(None)
        await enter("alice", "red", provider())
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"])
        assert asked[0].participant_id == "alice" and bob.states["alice"][-1][1] is S.DecryptionSuccess
    for wrong, error in (({"hold_frames": 257}, ValueError), ({"profile": "zoom"}, ValueError), ({"no": 1}, TypeError)):
        with pytest.raises(error):
            set_key_provider(provider(), **wrong)
    with pytest.raises(TypeError, match="provider of keys"):
        set_key_provider("the key itself")
    with pytest.raises(TypeError, match="meeting must be a Meeting"):
        enable_e2ee(provider(), provider())
    assert not Guest("carol").meeting.is_e2ee_enabled, "what was refused is not set"


async def test_it_is_too_late_once_a_meeting_has_been_joined(monkeypatch):
    async with meeting_place(monkeypatch) as (_, enter):
        alice = await enter("alice")
        with pytest.raises(E2EEError, match=r"before init_meeting\(\)"):
            set_key_provider(provider())
        with pytest.raises(E2EEError, match=r"before join\(\)"):
            enable_e2ee(alice.meeting, provider())
        assert not alice.meeting.is_e2ee_enabled
    bob = Guest("bob", keys=provider())
    with pytest.raises(E2EEError, match="already"):
        enable_e2ee(bob.meeting, provider())


async def test_a_provider_that_comes_after_a_meeting_was_made_is_an_error_until_that_is_over(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        alice = Guest("alice", "red")
        with pytest.raises(E2EEError, match=r"set the key provider before init_meeting\(\)"):
            set_key_provider(provider())
        await alice.meeting.async_join()
        await until(lambda: len(room.payloads("alice")) > 10)
        with pytest.raises(E2EEError, match="or leave that meeting first"):
            set_key_provider(provider())
        alice.meeting.leave()
        await until(lambda: "alice" not in room.peers)
        await asyncio.sleep(0.3)
        set_key_provider(provider())
        assert (await enter("bob")).meeting.is_e2ee_enabled


async def test_a_meeting_that_failed_or_was_given_up_is_in_nobodys_way(monkeypatch):
    def unreachable(*args):
        raise ConnectionError("no such server")

    monkeypatch.setattr(videosdk.room_client, "get_server_config", unreachable)
    failed = Guest("alice")
    await failed.meeting.async_join()
    set_key_provider(provider())
    set_key_provider(None)
    Guest("bob")
    set_key_provider(provider())


async def test_objects_that_cannot_be_asked_for_their_class_are_in_nobodys_way():
    class Gone:
        pass

    gone = Gone()
    proxy = weakref.proxy(gone)
    del gone
    set_key_provider(provider())
    with pytest.raises(ReferenceError):
        proxy.anything  # noqa: B018 - it is dead, and was while the provider was set


async def test_a_meeting_made_with_what_was_imported_earlier_is_encrypted_too():
    set_key_provider(provider())
    plain = VideoSDK.init_meeting  # the SDK's own: the hook is in the class that it makes
    assert not hasattr(plain, "__wrapped__")
    assert Guest("alice").meeting.is_e2ee_enabled


async def test_the_server_is_not_asked_to_record_or_transcribe_what_it_cannot_read(monkeypatch, caplog):
    async with meeting_place(monkeypatch) as (room, enter):
        alice = await enter("alice", None, provider())
        with pytest.raises(E2EEError, match="Record in a participant that has the key"):
            alice.meeting.start_recording()
        with pytest.raises(E2EEError, match="Transcribe in a participant that has the key"):
            alice.meeting.start_transcription()
        assert not {method for _, method in room.requests} & {"startRecording", "startTranscription"}
        await room.peers["alice"].notify("recordingStarted", {"by": "somebody else"})
        await until(lambda: "the server has no key" in caplog.text)
        plain = await enter("plain")
        plain.meeting.start_recording({})
        await until(lambda: any(who == "plain" and "ecording" in method for who, method in room.requests))


async def test_media_that_goes_on_after_its_producer_was_closed_stays_sealed(monkeypatch):
    with Tap(STACK) as tap:
        async with meeting_place(monkeypatch) as (room, enter):
            alice = await enter("alice", "red", provider())
            await until(lambda: len(room.payloads("alice")) > 40)
            alice.meeting.disable_webcam()
            alice.meeting.disable_mic()
            await until(lambda: {("alice", "closeProducer")} <= set(room.requests))
            await asyncio.sleep(0.5)
            alice.meeting.enable_webcam(picture_track(STACK, "green"))
            before = len(room.payloads("alice"))
            await until(lambda: len(room.payloads("alice")) > before + 40)
        payloads = room.payloads("alice")
    secret = [frame[10:] for frames in tap.made.values() for frame in frames if len(frame) > 40]
    assert len(secret) > 40 and leaks(secret, payloads) == 0


async def test_a_switch_to_another_meeting_stays_sealed(monkeypatch):
    with Tap(STACK) as tap:
        async with meeting_place(monkeypatch) as (room, enter):
            alice = await enter("alice", "red", provider())
            await until(lambda: len(room.payloads("alice")) > 40)
            alice.meeting.switch_to("another")
            await until(lambda: room.requests.count(("alice", "join")) == 2)
            before = len(room.payloads("alice"))
            await until(lambda: len(room.payloads("alice")) > before + 60)
            assert alice.meeting.is_e2ee_enabled
        payloads = room.payloads("alice")
    secret = [frame[10:] for frames in tap.made.values() for frame in frames if len(frame) > 40]
    assert leaks(secret, payloads) == 0


class WornKeys:
    """Rings whose key is exhausted after some frames."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self) -> None:
        self._ring = KeyRing("videosdk", usage_limit=60)
        self._ring.set_passphrase(KEY)

    def ring_for(self, profile: Any, participant_id: str) -> KeyRing:
        return self._ring


async def test_a_worn_key_and_a_sender_that_says_it_is_not_encrypted_are_states_too(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        alice = await enter("alice", "red", WornKeys())
        await until(lambda: S.EncryptionFailed in [state for _, state in alice.states["alice"]])

        offer = room.offer

        async def claims_to_be_plain(producer):
            producer.app_data["isEncrypted"] = False
            await offer(producer)

        room.offer = claims_to_be_plain
        carol = await enter("carol", "blue")
        await until(lambda: S.InternalError in [state for _, state in bob.states["carol"]])
        await until(lambda: ("carol", "video") in bob.sinks)
        await asyncio.sleep(0.5)
        assert all(sink.empty for (who, _), sink in bob.sinks.items() if who == "carol"), "nothing clear is played"
        assert not carol.meeting.is_e2ee_enabled


async def test_a_screen_is_told_from_a_camera(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, provider())
        offer = room.offer

        async def as_a_screen(producer):
            producer.app_data["share"] = True
            await offer(producer)

        room.offer = as_a_screen
        await enter("alice", "red", provider())
        await until(lambda: len(bob.states.get("alice", [])) >= 2)
        assert set(bob.states["alice"]) == {("share", S.DecryptionSuccess), ("shareAudio", S.DecryptionSuccess)}


async def test_listeners_of_the_sdks_own_kind_and_coroutines_are_told_and_may_fail(monkeypatch, caplog):
    told: list[StateData] = []

    class Handler(ParticipantEventHandler):
        def on_e2ee_state_changed(self, data):
            told.append(data)
            raise ValueError("of a listener")

    async def later(data):
        told.append(data)

    async with meeting_place(monkeypatch) as (_, _enter):
        guest = Guest("alice", "red", provider())
        guest.meeting.local_participant.add_event_listener(Handler())
        guest.meeting.local_participant.on("e2ee-state-change")(later)
        guest.meeting.local_participant.on("e2ee-state-change", told.append)
        guest.meeting.local_participant.off("e2ee-state-change", told.append)
        with pytest.raises(ValueError, match="add_event_listener"):
            guest.meeting.local_participant.on("stream-enabled", told.append)
        await guest.meeting.async_join()
        try:
            await until(lambda: len(told) == 4)
        finally:
            guest.meeting.leave()
            await asyncio.sleep(0.3)
    assert {(data.kind, data.state, data.change.direction) for data in told} == {
        ("video", S.EncryptionSuccess, "send"),
        ("audio", S.EncryptionSuccess, "send"),
    }
    assert "of a listener" in caplog.text


async def test_whoever_comes_after_somebody_left_is_opened_as_themselves(monkeypatch):
    """The SDK gives a newcomer the media section of whoever left."""

    def keys() -> frameseal.KeyProvider:
        made = frameseal.KeyProvider()
        for number, name in enumerate(("alice", "bob", "carol")):
            made.set_key(name, bytes([number]) * 16)
        return made

    async with meeting_place(monkeypatch) as (room, enter):
        bob = await enter("bob", None, keys())
        alice = await enter("alice", "red", keys())
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")
        alice.meeting.leave()
        await until(lambda: "alice" not in room.peers and "alice" not in bob.meeting.participants)
        bob.sinks.clear()
        await enter("carol", "blue", keys())
        await enter("alice", "green", keys())
        await until(lambda: bob.sees("alice") and bob.sees("carol"))
        for name, colour in (("carol", "blue"), ("alice", "green")):
            assert_pictures(bob.sinks[name, "video"], colour)
            assert_tone(bob.sinks[name, "audio"])
            assert set(bob.states[name]) == {("video", S.DecryptionSuccess), ("audio", S.DecryptionSuccess)}
