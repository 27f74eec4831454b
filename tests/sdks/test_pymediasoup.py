"""pymediasoup (PyPI), sealed, over the SFU of `sfu.py`: who has the key sees and hears, nobody else does."""

import asyncio
import contextlib
from typing import Any

import pytest
from pymediasoup import AiortcHandler, Device
from pymediasoup.rtp_parameters import RtpCapabilities, RtpParameters

from frameseal import E2EEManager, E2EEState, ExternalE2EEKeyProvider, KeyProvider, KeyRing
from frameseal.aiortc import Attachment, UnsupportedStack
from frameseal.e2ee.monitor import FAILURE_COUNTERS
from frameseal.pymediasoup import _TransportMedia, attach
from support.calls import Sink, Tap, assert_pictures, assert_tone, picture_track, tone_track, until
from support.sfu import CAPABILITIES, Endpoint, Produced, request_keyframe
from support.wire import leaks

S = E2EEState
KEY = "the key of the room"


def shared(key: str | None = KEY, **options: Any) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider(**options)
    if key is not None:
        made.set_shared_key(key)
    return made


class Router:
    """The server's side, without a wire for the signalling; a round trip takes as long as it is told to."""

    def __init__(self, round_trip: float) -> None:
        self.round_trip = round_trip
        self.endpoints: list[Endpoint] = []
        self.guests: list[Guest] = []

    async def trip(self) -> None:
        await asyncio.sleep(self.round_trip)

    async def endpoint(self) -> tuple[Endpoint, dict[str, Any]]:
        made = Endpoint()
        self.endpoints.append(made)
        return made, await made.parameters()


class Guest:
    """A client with two transports, as an application of mediasoup has them."""

    def __init__(self, router: Router, name: str, keys: Any, profile: str = "livekit") -> None:
        self.router, self.name = router, name
        self.e2ee = E2EEManager(keys, profile)
        self.states: dict[str, set[tuple[str, E2EEState, str | None]]] = {}
        self.e2ee.on("e2ee-state-change", self._changed)
        self.sinks: dict[tuple[str, str], Sink] = {}
        self.produced: list[Produced] = []
        self.attachments: dict[Any, Attachment] = {}
        self.payloads: list[bytes] = []

    def _changed(self, change: Any) -> None:
        self.states.setdefault(change.participant_id, set()).add((change.kind, change.state, change.reason))

    async def enter(self, colour: str | None = None, app_data: dict[str, Any] | None = None) -> "Guest":
        tracks = [picture_track("aiortc", colour or "red"), tone_track("aiortc")]
        device = Device(handlerFactory=AiortcHandler.createFactory(tracks=tracks))
        await device.load(RtpCapabilities(**CAPABILITIES))
        self.sending_endpoint, there = await self.router.endpoint()
        self.sending = device.createSendTransport(**there)
        self.receiving_endpoint, there = await self.router.endpoint()
        self.receiving = device.createRecvTransport(**there)
        for transport, endpoint in ((self.sending, self.sending_endpoint), (self.receiving, self.receiving_endpoint)):
            transport.on("connect", self._connecting(endpoint))
            self.attachments[transport] = attach(transport, self.e2ee, local_id=self.name)
        self.sending.on("produce", self._producing)
        self.router.guests.append(self)
        for other in self.router.guests:
            for producer in other.produced if other is not self else ():
                await self.consume(producer)
        for track in tracks if colour else ():
            await self.sending.produce(track=track, stopTracks=True, appData=app_data)
        return self

    def _connecting(self, endpoint: Endpoint) -> Any:
        async def connect(parameters: Any) -> None:
            await self.router.trip()
            endpoint.connect(parameters.model_dump(exclude_none=True))

        return connect

    async def _producing(self, kind: str, rtpParameters: Any, appData: dict[str, Any]) -> str:
        await self.router.trip()
        producer = self.sending_endpoint.produce(
            self.name, kind, rtpParameters.model_dump(exclude_none=True), {**appData, "peerId": self.name}
        )
        self.produced.append(producer)
        for other in self.router.guests:
            if other is not self:
                await other.consume(producer)
        return producer.id

    async def consume(self, producer: Produced) -> None:
        consumer = self.receiving_endpoint.consume(producer)
        made = await self.receiving.consume(
            id=consumer.id,
            producerId=producer.id,
            kind=producer.kind,
            rtpParameters=RtpParameters(**consumer.rtp_parameters),
            appData=producer.app_data,
        )
        self.sinks[producer.peer_id, producer.kind] = Sink(made.track)
        consumer.resumed = True
        await request_keyframe(producer)

    def sees(self, whom: str) -> bool:
        video, audio = (self.sinks.get((whom, kind)) for kind in ("video", "audio"))
        return video is not None and audio is not None and len(video.pictures) > 20 and audio.seconds > 0.8

    def states_of(self, whom: str) -> set[E2EEState]:
        return {state for _, state, _ in self.states.get(whom, ())}


@contextlib.asynccontextmanager
async def router_with_guests(round_trip: float = 0.0):
    router = Router(round_trip)
    try:
        yield router
    finally:
        for guest in router.guests:
            await guest.sending.close()
            await guest.receiving.close()
        for endpoint in router.endpoints:
            await endpoint.close()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("round_trip", [0.0, 0.1], ids=["0 ms", "100 ms"])
async def test_who_has_the_key_sees_and_hears_and_nobody_else_does(round_trip):
    late = shared(None)
    with Tap("aiortc") as tap:
        async with router_with_guests(round_trip) as router:
            alice = await Guest(router, "alice", shared()).enter("red")
            bob = await Guest(router, "bob", shared()).enter("blue")
            eve = await Guest(router, "eve", shared("wrong", failure_tolerance=3)).enter()
            mallory = await Guest(router, "mallory", shared("wrong too")).enter()
            nobody = await Guest(router, "nobody", shared(None)).enter()
            carol = await Guest(router, "carol", late).enter()
            await until(lambda: alice.sees("bob") and bob.sees("alice"))
            assert_pictures(bob.sinks["alice", "video"], "red")
            assert_pictures(alice.sinks["bob", "video"], "blue")
            assert_tone(bob.sinks["alice", "audio"])
            await until(lambda: carol.states_of("alice") == {S.MissingKey})
            late.set_shared_key(KEY)
            await until(lambda: carol.sees("alice"))
            assert_pictures(carol.sinks["alice", "video"], "red")
            for guest in (eve, mallory, nobody):
                assert len(guest.sinks) == 4 and all(sink.empty for sink in guest.sinks.values()), guest.name
            assert alice.states_of("alice") == {S.EncryptionSuccess}
            assert bob.states_of("alice") == {S.DecryptionSuccess}
            # The first frame that fails may be somebody else's, until the application was asked.
            assert {S.InvalidKey} <= eve.states_of("alice") <= {S.DecryptionFailed, S.InvalidKey}
            assert mallory.states_of("alice") == {S.DecryptionFailed}
            assert nobody.states_of("alice") == {S.MissingKey}
            assert carol.states_of("alice") == {S.MissingKey, S.DecryptionSuccess}
            assert set(bob.states) == {"alice", "bob"}, "the receiver of bandwidth probes is nobody's"
            payloads = [payload for endpoint in router.endpoints for payload in endpoint.payloads]
    assert len(payloads) > 200
    secret = [frame[10:] for frames in tap.made.values() for frame in frames if len(frame) > 40]
    assert leaks(secret, payloads) == 0
    assert leaks(secret, [*payloads, max(secret, key=len)[:1000]]) > 0, "a leak would be found"


async def test_a_sender_whose_key_is_late_sends_nothing_before_it_comes():
    late = shared(None)
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        alice = await Guest(router, "alice", late).enter("red")
        await until(lambda: alice.states.get("alice") and len(alice.states["alice"]) == 2)
        await asyncio.sleep(0.5)
        assert alice.states_of("alice") == {S.MissingKey} and alice.sending_endpoint.payloads == []
        late.set_shared_key(KEY)
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")
        assert alice.states_of("alice") == {S.MissingKey, S.EncryptionSuccess}


def failures(guest: Guest, whom: str) -> int:
    tracks = [track for track in guest.e2ee.tracks() if track.participant_id == whom]
    stats = [transform.stats() for track in tracks for transform in track.transforms]
    return sum(each[name] for each in stats for name in FAILURE_COUNTERS)


class WornKeys:
    """Rings whose key is exhausted after some frames."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self) -> None:
        self._ring = KeyRing("livekit", usage_limit=60)
        self._ring.set_passphrase(KEY)

    def ring_for(self, profile: Any, participant_id: str) -> KeyRing:
        return self._ring


async def test_producers_are_marked_a_worn_key_is_a_state_and_who_claims_to_be_plain_is_not_played():
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        alice = await Guest(router, "alice", WornKeys()).enter("red", {"label": "camera"})
        marked = {"isEncrypted": True, "label": "camera", "peerId": "alice"}
        assert [producer.app_data for producer in alice.produced] == [marked] * 2
        await until(lambda: S.EncryptionFailed in alice.states_of("alice"))
        carol = Guest(router, "carol", shared("hers alone"))
        consume = bob.consume

        async def claimed(producer: Produced) -> None:
            producer.app_data["isEncrypted"] = False
            await consume(producer)

        bob.consume = claimed
        await carol.enter("blue")
        await until(lambda: ("video", S.InternalError, "sender_not_encrypted") in bob.states["carol"])
        await until(lambda: failures(bob, "carol") > 40)
        assert all(sink.empty for (who, _), sink in bob.sinks.items() if who == "carol")
        told = {(kind, S.InternalError, "sender_not_encrypted") for kind in ("audio", "video")}
        assert bob.states["carol"] == told, "nothing opened, so nothing else became of it"
        for consumer in list(bob.receiving._consumers.values()):
            await consumer.close()
        assert bob.e2ee.state("carol", "video") is bob.e2ee.state("carol", "audio") is None


@pytest.mark.parametrize("profile", ["sframe", "videosdk"])
async def test_each_participant_may_have_a_key_of_their_own(profile):
    def keys() -> KeyProvider:
        made = KeyProvider()
        for number, name in enumerate(("alice", "bob")):
            made.set_key(name, bytes([number]) * 16)
        return made

    async with router_with_guests() as router:
        alice = await Guest(router, "alice", keys(), profile).enter("red")
        bob = await Guest(router, "bob", keys(), profile).enter("green")
        await until(lambda: alice.sees("bob") and bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")
        assert_pictures(alice.sinks["bob", "video"], "green")


async def test_a_transport_is_attached_once():
    async with router_with_guests() as router:
        alice = await Guest(router, "alice", shared()).enter()
        with pytest.raises(RuntimeError, match="attached already"):
            attach(alice.sending, alice.e2ee, local_id="alice")
        with pytest.raises(TypeError, match="transport must be a Transport"):
            attach(alice.sending.handler.pc, alice.e2ee, local_id="alice")
        with pytest.raises(TypeError, match="e2ee must be an E2EEManager"):
            attach(alice.receiving, alice.e2ee.provider, local_id="alice")


def empty(guest: Guest) -> None:
    for sink in guest.sinks.values():
        sink.clear()


async def test_a_transport_that_is_attached_again_opens_what_it_consumes_already():
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        alice = await Guest(router, "alice", shared()).enter("red")
        await until(lambda: bob.sees("alice"))
        attachment = bob.attachments[bob.receiving]
        attachment.detach()
        await asyncio.sleep(0.3)  # what was decoded before
        empty(bob)
        await asyncio.sleep(0.5)
        assert all(sink.empty for sink in bob.sinks.values()), "detached, it neither sees nor hears"
        attach(bob.receiving, bob.e2ee, local_id="bob")
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")
        assert_tone(bob.sinks["alice", "audio"])
        assert bob.e2ee.state("alice", "video") is bob.e2ee.state("alice", "audio") is S.DecryptionSuccess
        sent = len(alice.sending_endpoint.payloads)
        alice.attachments[alice.sending].detach()
        attach(alice.sending, alice.e2ee, local_id="alice")
        empty(bob)
        await until(lambda: bob.sees("alice") and len(alice.sending_endpoint.payloads) > sent)


async def test_attached_again_it_goes_by_the_new_manager_and_names_and_covers_what_came_meanwhile():
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        alice = await Guest(router, "alice", shared()).enter("red")
        await until(lambda: bob.sees("alice"))
        bob.attachments[bob.receiving].detach()
        carol = await Guest(router, "carol", shared()).enter("blue")  # consumed while nothing is opened
        gone = next(each for each in bob.receiving._consumers.values() if each.appData["peerId"] == "alice")
        await gone.close()
        old, bob.e2ee, bob.states = bob.e2ee, E2EEManager(shared(), "livekit"), {}
        bob.e2ee.on("e2ee-state-change", bob._changed)
        old_states = [(track.participant_id, track.kind, track.state) for track in old.tracks()]
        attach(bob.receiving, bob.e2ee, local_id="bob", remote_id=lambda consumer: f"{consumer.appData['peerId']}!")
        empty(bob)
        await until(lambda: bob.sees("carol"))
        assert_pictures(bob.sinks["carol", "video"], "blue")
        await until(
            lambda: bob.e2ee.state("carol!", "video") is bob.e2ee.state("carol!", "audio") is S.DecryptionSuccess
        )
        left = "video" if gone.kind == "audio" else "audio"
        await until(lambda: bob.e2ee.state("alice!", left) is S.DecryptionSuccess)
        assert bob.e2ee.state("alice!", gone.kind) is None
        assert [(each.participant_id, each.kind, each.state) for each in old.tracks()] == old_states
        assert not [track for track in old.tracks() if track.participant_id == "carol"]
        assert carol.states_of("carol") == {S.EncryptionSuccess} and alice.name not in bob.states


async def test_attached_for_the_first_time_in_mid_call_it_covers_what_is_there():
    async with router_with_guests() as router:
        bob = Guest(router, "bob", shared())
        attached = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(globals(), "attach", lambda transport, *_, **ids: attached.append(transport))
            await bob.enter()
        assert attached == [bob.sending, bob.receiving]
        await Guest(router, "alice", shared()).enter("red")
        await until(lambda: ("alice", "video") in bob.sinks and ("alice", "audio") in bob.sinks)
        attach(bob.receiving, bob.e2ee, local_id="bob", remote_id="alice")
        empty(bob)
        await until(lambda: bob.sees("alice"))
        assert_pictures(bob.sinks["alice", "video"], "red")


async def test_who_claimed_to_be_plain_is_reported_to_the_next_manager_too():
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        consume = bob.consume

        async def claimed(producer: Produced) -> None:
            producer.app_data["isEncrypted"] = False
            await consume(producer)

        bob.consume = claimed
        await Guest(router, "carol", shared("hers alone")).enter("blue")
        await until(lambda: bob.states_of("carol") == {S.InternalError})
        bob.attachments[bob.receiving].detach()
        new = E2EEManager(shared(), "livekit")
        attach(bob.receiving, new, local_id="bob")
        assert new.state("carol", "video") is new.state("carol", "audio") is S.InternalError


async def test_a_consumer_or_producer_that_is_closed_is_let_go_of_and_its_sender_stays_sealed():
    with Tap("aiortc") as tap:
        async with router_with_guests() as router:
            bob = await Guest(router, "bob", shared()).enter()
            alice = await Guest(router, "alice", shared()).enter("red")
            await until(lambda: bob.sees("alice"))
            for guest, ended in ((bob, bob.receiving._consumers), (alice, alice.sending._producers)):
                for each in list(ended.values()):
                    await each.close()
                tracks = [track for track in guest.e2ee.tracks() if track.participant_id == "alice"]
                assert not [track for track in tracks if track.direction == "receive"]
            await asyncio.sleep(0.3)
            payloads = [payload for endpoint in router.endpoints for payload in endpoint.payloads]
    secret = [frame[10:] for frames in tap.made.values() for frame in frames if len(frame) > 40]
    assert leaks(secret, payloads) == 0


async def test_of_a_closed_transport_no_transform_is_left():
    async with router_with_guests() as router:
        bob = await Guest(router, "bob", shared()).enter()
        alice = await Guest(router, "alice", shared()).enter("red")
        await until(lambda: bob.sees("alice"))
        await bob.receiving.close()
        await alice.sending.close()
        await until(lambda: not [t for g in (alice, bob) for t in g.e2ee.tracks() if t.transforms])


class Thing:
    """Anything with these attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def test_a_receiver_is_that_of_the_latest_consumer_which_goes_on():
    track = object()
    alice, carol, other = (Thing(name=name, track=track, closed=False) for name in ("alice", "carol", "dave"))
    other.track = object()
    transport = Thing(_consumers={1: alice, 2: other})
    media, receiver = _TransportMedia(transport), Thing(track=track)

    def name() -> str | None:
        return media.participant_of(lambda consumer: consumer.name, receiver)

    assert name() == "alice"
    transport._consumers[3] = carol
    assert name() == "carol"
    carol.closed = True
    assert name() == "alice"
    del transport._consumers[1]
    assert name() is None


async def test_a_pymediasoup_that_is_built_otherwise_is_refused():
    async with router_with_guests() as router:
        alice = await Guest(router, "alice", shared()).enter()
        other = Thing(produce=alice.sending.produce, handler=alice.sending.handler)
        with pytest.raises(UnsupportedStack, match="producers and consumers"):
            attach(other, alice.e2ee, local_id="alice")
        with pytest.raises(TypeError, match="remote_id must be a str"):
            attach(alice.receiving, alice.e2ee, local_id="alice", remote_id=None)
