"""Whose frames they are, and which tracks live: receivers that an SFU gives to somebody else, tracks and connections
that end, frames that share a timestamp.
"""

import asyncio
import gc
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest

import frameseal.aiortc.receivers
from frameseal import E2EEManager, E2EEState, Encryptor, KeyProvider, KeyRing
from frameseal.aiortc import attach
from frameseal.aiortc.proxies import OpeningDecoder
from support.calls import (
    Tap,
    connect,
    manager,
    negotiate,
    part,
    peers,
    picture_track,
    plays,
    record,
    shows,
    tone_track,
    until,
)

KEYS = {"alice": bytes(range(32)), "carol": bytes(range(100, 132))}


def keys(*participants: str, profile: str = "livekit") -> E2EEManager:
    provider = KeyProvider(failure_tolerance=5)
    for name in participants:
        provider.set_key(name, KEYS[name])
    return E2EEManager(provider, profile)


def told(changes: list) -> list[tuple[str, str]]:
    return [(change.participant_id, str(change.state)) for _, change in changes]


class Forwarded:
    """What an SFU sends on one m-line: frames that one participant has sealed, and then another one."""

    def __init__(self, sfu) -> None:
        self.sfu, self.attachment = sfu, None

    def of(self, name: str, e2ee: E2EEManager | None = None) -> None:
        if self.attachment is not None:
            self.attachment.detach()
        self.attachment = attach(self.sfu.pc, e2ee or keys(name), local_id=name, remote_id="bob")


# --- a receiver that is given to somebody else -----------------------------------------------------------------------


@pytest.mark.parametrize("under", ["the same SSRC", "another SSRC"])
async def test_a_receiver_that_is_given_to_somebody_else_opens_and_reports_as_theirs(stack, under):
    """Alice leaves, and Carol's frames come over the same receiver: with Carol's key, as Carol's, and nothing false."""
    opening, now = keys("alice", "carol"), {"name": "alice"}
    changes = record(opening)
    missing: list = []
    opening.on("e2ee-missing-key", missing.append)
    async with peers(stack, stack) as (sfu, bob):
        media = Forwarded(sfu)
        media.of("alice")
        attached = attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: now["name"])
        video, audio = sfu.send(picture_track(stack), "vp8"), sfu.send(tone_track(stack), "opus")
        await connect(sfu, bob)
        pictures, sound = bob.sinks[video.mid], bob.sinks[audio.mid]
        await until(lambda: shows(pictures) and plays(sound))
        for name in ("carol", "alice", "carol"):
            now["name"] = name
            media.of(name)
            if under == "another SSRC":
                for sender in sfu.pc.getSenders():
                    sender._ssrc = (sender._ssrc + 1) % (1 << 32)
            pictures.clear()
            sound.clear()
            await until(lambda: shows(pictures) and plays(sound), 40)
            received = [c for c in attached.counters if c.frames_in]
            assert {c.participant_id for c in received} == {name}
        assert all(opening.state("carol", kind) is E2EEState.DecryptionSuccess for kind in ("audio", "video"))
    assert set(told(changes)) == {("alice", "DecryptionSuccess"), ("carol", "DecryptionSuccess")}
    assert missing == []


async def test_an_answer_that_changes_after_the_media_have_is_followed(stack):
    """Media are often ahead of signalling: frames fail as Alice's, and the application is asked again meanwhile."""
    opening, now = keys("alice", "carol"), {"name": "alice"}
    changes = record(opening)
    async with peers(stack, stack) as (sfu, bob):
        media = Forwarded(sfu)
        media.of("alice")
        attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: now["name"])
        sfu.send(picture_track(stack), "vp8")
        await connect(sfu, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        media.of("carol")
        await until(lambda: opening.state("alice", "video") is E2EEState.InvalidKey)
        assert ("carol", "DecryptionSuccess") not in told(changes)
        now["name"] = None
        await until(lambda: vars(bob.pc)["_frameseal_attachment"].counters[-1].participant_id is None)
        now["name"] = "carol"
        sink.clear()
        await until(lambda: shows(sink), 40)
    assert told(changes)[-1] == ("carol", "DecryptionSuccess")
    assert opening.state("carol", "video") is E2EEState.DecryptionSuccess


async def test_what_one_key_opens_for_all_is_reported_as_whose_it_is(stack):
    """Nothing fails where everybody has the same key, so nothing but the answer tells that it is Carol now."""
    opening, now = manager(), {"name": "alice"}
    changes = record(opening)
    async with peers(stack, stack) as (sfu, bob):
        media = Forwarded(sfu)
        media.of("alice", manager())
        attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: now["name"])
        sfu.send(picture_track(stack), "vp8")
        await connect(sfu, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        now["name"] = "carol"
        await until(lambda: opening.state("carol", "video") is E2EEState.DecryptionSuccess)
    assert told(changes) == [("alice", "DecryptionSuccess"), ("carol", "DecryptionSuccess")]


@pytest.mark.parametrize("change", ["SSRC", "msid", "direction"])
async def test_the_application_is_asked_again_when_the_stream_changes(stack, monkeypatch, change):
    """At once, and not when the next second is over."""
    monkeypatch.setattr(frameseal.aiortc.receivers, "IDENTIFY_INTERVAL", float("inf"))
    opening, now = manager(), {"name": "alice"}
    async with peers(stack, stack) as (sfu, bob):
        attach(sfu.pc, manager(), local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: now["name"])
        video = sfu.send(picture_track(stack), "vp8")
        await connect(sfu, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        now["name"] = "carol"
        if change == "SSRC":
            video.sender._ssrc = (video.sender._ssrc + 1) % (1 << 32)
        elif change == "msid":
            video.sender._stream_id, video.sender._track_id = "carols-stream", "carols-track"
            await negotiate(sfu, bob)
        else:
            for direction in ("inactive", "sendonly"):
                video.direction = direction
                await negotiate(sfu, bob)
        await until(lambda: opening.state("carol", "video") is E2EEState.DecryptionSuccess, 40)


async def test_keys_that_are_missing_or_wrong_are_told_of_whoever_the_answer_names(stack):
    """What waits for an answer is told one frame later, and not never."""
    opening, now = keys("alice"), {"name": "alice"}
    changes = record(opening)
    missing: list = []
    opening.on("e2ee-missing-key", missing.append)
    async with peers(stack, stack) as (sfu, bob):
        media = Forwarded(sfu)
        media.of("alice")
        attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: now["name"])
        sfu.send(picture_track(stack), "vp8")
        await connect(sfu, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        now["name"] = "carol"
        media.of("carol")
        await until(lambda: missing != [])
        assert {event.participant_id for event in missing} == {"carol"}
        opening.provider.set_key("carol", bytes(32))
        await until(lambda: opening.state("carol", "video") is E2EEState.InvalidKey)
        opening.provider.set_key("carol", KEYS["carol"])
        await until(lambda: opening.state("carol", "video") is E2EEState.DecryptionSuccess)
    assert {state for name, state in told(changes) if name == "alice"} == {"DecryptionSuccess"}
    carols = [state for name, state in told(changes) if name == "carol"]
    assert [carols[0], carols[-2], carols[-1]] == ["MissingKey", "InvalidKey", "DecryptionSuccess"]


class Given:
    """A receiver of a connection without a call, whose participant the test names, and a decoder that takes all."""

    def __init__(self, stack: str, e2ee: E2EEManager, monkeypatch) -> None:
        self.now, self.name, self.asked = 100.0, "alice", 0
        monkeypatch.setattr(frameseal.aiortc.receivers.time, "monotonic", lambda: self.now)
        self.pc = part(stack).RTCPeerConnection()
        self.receiver = self.pc.addTransceiver("video").receiver
        self.attachment = attach(self.pc, e2ee, local_id="bob", remote_id=self.remote_id)
        self.slot = vars(self.receiver)["_frameseal_slot"]
        self.slot.start()
        codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/VP8", 90000, payloadType=97)
        self.codec, self.shown = codec, []
        self.decoder = OpeningDecoder(SimpleNamespace(decode=self._decode), codec, self.slot)

    def remote_id(self, receiver):
        self.asked += 1
        if isinstance(self.name, Exception):
            raise self.name
        return self.name

    def _decode(self, frame):
        self.shown.append(frame.data)
        return ["picture"]

    async def comes(self, data: bytes) -> bool:
        frame = SimpleNamespace(data=data, timestamp=0)
        assert self.slot.admits((self.codec, frame))
        shown = len(self.shown)
        self.decoder.decode(frame)
        await asyncio.sleep(0)
        return len(self.shown) > shown


def sealer(name: str, profile: str = "livekit", key: bytes | None = None):
    ring = KeyRing(profile)
    ring.set_key(key or KEYS[name])
    encryptor, number = Encryptor(ring, "vp8"), iter(range(1000))
    return lambda: encryptor.encrypt(b"\x10 ten clear bytes and picture %d" % next(number))


async def test_frames_of_who_had_the_receiver_before_are_no_failures_of_who_has_it_now(stack, monkeypatch):
    opening = keys("alice", "carol")
    changes = record(opening)
    given = Given(stack, opening, monkeypatch)
    alices, carols = sealer("alice"), sealer("carol")
    assert await given.comes(alices())
    late = [alices() for _ in range(12)]
    given.name, given.now = "carol", given.now + 1
    for frame in late:  # from the jitter buffer, for up to a second
        assert not await given.comes(frame)
        given.now += 0.05
    assert await given.comes(carols())
    assert set(told(changes)) == {("alice", "DecryptionSuccess"), ("carol", "DecryptionSuccess")}
    given.now += 1
    for _ in range(2):
        assert not await given.comes(alices())
    assert told(changes)[-1] == ("carol", "DecryptionFailed"), "after that they are"
    await given.pc.close()


async def test_the_application_is_asked_every_second_while_frames_come_and_at_once_when_one_fails(stack, monkeypatch):
    given = Given(stack, keys("alice", "carol"), monkeypatch)
    alices, carols = sealer("alice"), sealer("carol")
    await given.comes(alices())
    before = given.asked
    for _ in range(30 * 10):
        given.now += 1 / 30
        assert await given.comes(alices())
    assert given.asked - before in (9, 10)
    before = given.asked
    assert not await given.comes(carols())
    assert given.asked == before + 1
    assert not await given.comes(carols())
    assert given.asked == before + 1, "it has said so for this run of failures"
    given.name = "carol"
    assert not await given.comes(carols())
    given.now += 1
    assert await given.comes(carols())
    await given.pc.close()


async def test_an_answer_that_raises_leaves_the_receiver_with_whom_it_was(stack, monkeypatch):
    opening = keys("alice", "carol")
    given = Given(stack, opening, monkeypatch)
    alices = sealer("alice")
    assert await given.comes(alices())
    given.name, given.now = LookupError("who?"), given.now + 1
    assert await given.comes(alices())
    assert given.slot.counters.last_error == "LookupError: who?"
    given.name, given.now = None, given.now + 1
    assert not await given.comes(alices())
    await given.pc.close()


async def test_no_frame_opens_twice_because_its_receiver_was_somebody_elses_meanwhile(stack, monkeypatch):
    opening = keys(profile="sframe")
    given = Given(stack, opening, monkeypatch)
    own = {name: stack.encode().ljust(28) + name[:4].encode() for name in KEYS}  # whose counters start here
    for name, key in own.items():
        opening.provider.set_key(name, key, send=False)
    alices, carols = (sealer(name, "sframe", key) for name, key in own.items())
    old = [alices() for _ in range(3)]
    assert all([await given.comes(frame) for frame in old])
    for name, frame in (("carol", carols()), ("alice", alices())):
        given.name, given.now = name, given.now + 1
        assert await given.comes(frame)
    assert not any([await given.comes(frame) for frame in old])
    await given.pc.close()


async def test_pictures_of_somebody_else_begin_with_a_keyframe(stack, monkeypatch):
    given = Given(stack, keys("alice", "carol"), monkeypatch)
    alices, ring = sealer("alice"), KeyRing("livekit")
    ring.set_key(KEYS["carol"])
    carols = Encryptor(ring, "vp8")
    assert await given.comes(alices())
    given.name, given.now = "carol", given.now + 1
    assert not await given.comes(carols.encrypt(b"\x11 a delta frame"))
    assert given.slot.counters.keyframe_requests == 1
    assert await given.comes(carols.encrypt(b"\x10 ten clear bytes of a keyframe"))
    assert await given.comes(carols.encrypt(b"\x11 a delta frame"))
    await given.pc.close()


async def test_a_receiver_that_many_participants_have_in_turn_keeps_a_bounded_number_of_ciphers(stack, monkeypatch):
    names = [f"participant {number}" for number in range(200)]
    provider = KeyProvider()
    provider.set_shared_key(KEYS["alice"])
    given = Given(stack, E2EEManager(provider, "livekit"), monkeypatch)
    frame = sealer("alice")
    for name in names:
        given.name, given.now = name, given.now + 1
        assert await given.comes(frame())
    assert len(given.slot.transforms) == 64
    await given.pc.close()
    assert given.slot.transforms == {}


# --- tracks and connections that end ---------------------------------------------------------------------------------


async def ends(how: str, sender, sfu, bob) -> None:
    """End what comes over the first m-line; what was there stays referenced."""
    transceiver = sfu.pc.getTransceivers()[0]
    if how == "inactive":
        transceiver.direction = "inactive"
        await negotiate(sfu, bob)
    elif how == "stopped at this end":
        await bob.pc.getTransceivers()[0].stop()
    elif how == "stopped at the other end":
        await transceiver.stop()
    elif how == "closed at this end":
        await bob.pc.close()
    else:
        await sfu.pc.close()


@pytest.mark.parametrize(
    "how", ["inactive", "stopped at this end", "stopped at the other end", "closed at this end", "closed at the other"]
)
async def test_a_track_that_has_ended_does_not_hide_one_that_lives(stack, how):
    """Alice's first track ends in a bad state, while the connection and all its parts are kept."""
    opening = keys()
    async with peers(stack, stack, stack, stack, tracks_end=True) as (sfu, bob, sfu2, bob2):
        attach(sfu.pc, keys("alice"), local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        sender = sfu.send(picture_track(stack), "vp8").sender
        await connect(sfu, bob)
        await until(lambda: opening.state("alice", "video") is E2EEState.MissingKey)
        await ends(how, sender, sfu, bob)
        opening.provider.set_key("alice", KEYS["alice"])
        again = how in ("inactive", "stopped at the other end")
        source, sink_of = (sfu, bob) if again else (sfu2, bob2)
        if not again:
            attach(sfu2.pc, keys("alice"), local_id="alice", remote_id="bob")
            attach(bob2.pc, opening, local_id="bob", remote_id="alice")
        published = source.send(picture_track(stack, "green"), "vp8")
        await connect(source, sink_of)
        await until(lambda: published.mid in sink_of.sinks and shows(sink_of.sinks[published.mid], "green"), 40)
        await until(lambda: opening.state("alice", "video") is E2EEState.DecryptionSuccess, 5)
        gc.collect()
        assert opening.state("alice", "video") is E2EEState.DecryptionSuccess


async def test_a_senders_track_that_has_ended_does_not_hide_one_that_lives(stack):
    sealing = keys()
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, keys("alice"), local_id="bob", remote_id="alice")
        track = picture_track(stack)
        alice.send(track, "vp8")
        await connect(alice, bob)
        await until(lambda: sealing.state("alice", "video") is E2EEState.MissingKey)

        async def end():
            raise part(stack, "mediastreams").MediaStreamError

        track.recv = end
        await until(lambda: track.readyState == "ended")
        sealing.provider.set_key("alice", KEYS["alice"])
        alice.send(picture_track(stack), "vp8")
        await negotiate(alice, bob)
        await until(lambda: sealing.state("alice", "video") is E2EEState.EncryptionSuccess)


async def test_a_direction_that_comes_back_brings_its_track_back(stack):
    opening = keys("alice")
    changes = record(opening)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, keys("alice"), local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        video = alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        (track,) = opening.tracks()
        transforms = list(track.transforms)
        video.direction = "inactive"
        await negotiate(alice, bob)
        assert not track.transforms
        assert opening.state("alice", "video") is E2EEState.DecryptionSuccess, "the last that is known"
        video.direction = "sendonly"
        await negotiate(alice, bob)
        assert list(track.transforms) == transforms
        sink.clear()
        await until(lambda: shows(sink), 40)  # aiortc itself may need many seconds for this
        assert opening.tracks() == [track]
    assert told(changes) == [("alice", "DecryptionSuccess")]


async def test_what_has_ended_lets_go_of_its_ciphers_while_the_connection_lives(stack):
    opening = keys("alice")
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, keys("alice"), local_id="alice", remote_id="bob")
        attached = attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: shows(sink))
        (track,) = opening.tracks()
        kept = [weakref.ref(transform) for transform in track.transforms]
        assert len(kept) == 1
        await bob.pc.getTransceivers()[0].stop()

        def gone() -> bool:
            gc.collect()
            return all(transform() is None for transform in kept)

        await until(gone)
        assert any(counters.frames_out > 10 for counters in attached.counters), "what was counted stays"


async def test_what_is_detached_lives_no_more(stack):
    opening = keys()
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, keys("alice"), local_id="alice", remote_id="bob")
        attached = attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        await until(lambda: opening.state("alice", "video") is E2EEState.MissingKey)
        attached.detach()
        other = opening.receiver_transform("alice", "video", "vp8", track_id="another")
        opening.provider.set_key("alice", KEYS["alice"])
        assert other.decrypt(sealer("alice")())
        assert opening.state("alice", "video") is E2EEState.DecryptionSuccess


async def test_a_second_detach_leaves_the_next_attachment_alone(stack):
    opening = keys()
    opening.provider.set_key("alice", KEYS["alice"])
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, keys("alice"), local_id="alice", remote_id="bob")
        former = attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)

        def has_live_track() -> bool:
            return any(track.is_live for track in opening.tracks())

        await until(has_live_track)
        former.detach()
        assert not has_live_track()
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        await until(has_live_track)
        former.detach()
        assert has_live_track()


# --- timestamps ------------------------------------------------------------------------------------------------------


def stuttering(stack: str, track, times: int):
    """A track that hands out each frame so many times, as a busy web framework does."""

    class Stuttering(part(stack).MediaStreamTrack):
        kind = track.kind

        def __init__(self) -> None:
            super().__init__()
            self._frames: list = []

        async def recv(self):
            if not self._frames:
                self._frames = [await track.recv()] * times
            return self._frames.pop()

    return Stuttering()


@pytest.mark.parametrize("times", [2, 5])
async def test_frames_that_share_a_timestamp_go_out_a_tick_apart(stack, times):
    opening = keys("alice")
    changes = record(opening)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed = attach(alice.pc, keys("alice"), local_id="alice", remote_id="bob")
            attached = attach(bob.pc, opening, local_id="bob", remote_id="alice")
            video = alice.send(stuttering(stack, picture_track(stack), times), "vp8")
            audio = alice.send(stuttering(stack, tone_track(stack, milliseconds=60), times), "pcmu")
            await connect(alice, bob)
            await until(lambda: sum(c.frames_out > 100 for c in attached.counters) == 2)
        assert {(c.dropped, c.last_error) for c in attached.counters + sealed.counters} == {(0, None)}
    assert {change.state for _, change in changes} == {E2EEState.DecryptionSuccess}
    for sender, ticks in ((video.sender, 3000), (audio.sender, 480)):
        stamps = [packet.timestamp for packet in tap.packets if packet.ssrc == sender._ssrc]
        frames = list(dict.fromkeys(stamps))
        assert len(frames) == len(tap.payloads(sender._ssrc)), "no two frames that follow each other share one"
        steps = {(b - a) % (1 << 32) for a, b in pairwise(frames)}
        assert 1 in steps and max(steps) <= ticks
