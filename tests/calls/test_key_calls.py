"""Keys in live calls: one per participant, late ones, and rotations on a bad line without a lost frame."""

import asyncio
import contextlib
import os
from itertools import count

import pytest

from frameseal import E2EEInjectedFrame, E2EEManager, E2EEState, ExternalE2EEKeyProvider, KeyProvider, KeyRotator
from frameseal.aiortc import attach
from frameseal.tools.sfu import Forwarder
from support.calls import assert_pictures, assert_tone, connect, part, peers, picture_track, record, tone_track, until
from support.recording import not_opened, recorded

SECONDS = float(os.environ.get("FRAMESEAL_LONG_CALL_SECONDS", "12"))
PERIOD = 0.6  # seconds from one rotation to the next: 100 of them in a minute
KEYS = {"alice": bytes(range(16)), "bob": bytes(range(50, 66))}


def keyed(*names: str, **options) -> E2EEManager:
    provider = KeyProvider()
    for name in names:
        provider.set_key(name, KEYS[name])
    return E2EEManager(provider, "livekit", **options)


async def test_each_side_of_a_call_seals_with_a_key_of_its_own(stack):
    ours, theirs = keyed("alice", "bob"), keyed("alice", "bob")
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        for peer, colour, hertz in ((alice, "red", 440), (bob, "blue", 660)):
            peer.pc.addTrack(picture_track(stack, colour))
            peer.pc.addTrack(tone_track(stack, hertz))
        await connect(alice, bob)
        await until(lambda: all(len(s.pictures) > 20 or s.seconds > 1 for p in (alice, bob) for s in p.sinks.values()))
        for peer, colour, hertz in ((alice, "blue", 660), (bob, "red", 440)):
            for sink in peer.sinks.values():
                assert_pictures(sink, colour) if sink.pictures else assert_tone(sink, hertz)


async def test_who_leaves_and_comes_back_is_opened_with_the_new_key_alone(stack):
    theirs = keyed("bob")
    changes = record(theirs)

    async def visit(key: bytes) -> None:
        ours = keyed("bob")
        ours.provider.set_key("alice", key)
        changes.clear()
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, ours, local_id="alice", remote_id="bob")
            attach(bob.pc, theirs, local_id="bob", remote_id="alice")
            alice.send(tone_track(stack))
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: changes and changes[-1][1].state is E2EEState.MissingKey)
            assert sink.empty
            theirs.provider.set_key("alice", key)
            await until(lambda: sink.seconds > 0.8)
            assert_tone(sink)
        theirs.provider.remove("alice")
        theirs.remove_participant("alice")

    await visit(KEYS["alice"])
    await visit(bytes(range(90, 106)))


async def test_who_is_removed_and_still_sends_is_reported_again(stack):
    """An application may hear late that somebody left, when they are back over the same receiver."""
    ours, theirs = keyed("alice"), keyed("alice")
    changes = record(theirs)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(tone_track(stack))
        await connect(alice, bob)
        await until(lambda: theirs.state("alice", "audio") == "DecryptionSuccess")
        theirs.remove_participant("alice")
        assert theirs.state("alice", "audio") is None
        await until(lambda: theirs.state("alice", "audio") == "DecryptionSuccess")
        theirs.remove_participant("alice")
        theirs.provider.remove("alice")
        await until(lambda: theirs.state("alice", "audio") == "MissingKey")
        assert [change.state for _, change in changes] == ["DecryptionSuccess", "DecryptionSuccess", "MissingKey"]


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
@pytest.mark.parametrize("codec", ["opus", "vp8", "h264"])
async def test_a_sender_that_does_not_encrypt_is_named(stack, codec, profile):
    """Whatever the profile makes of its frames: malformed ones, or such of keys that are not there."""
    keys = KeyProvider()
    keys.set_key("alice", KEYS["alice"])
    theirs, causes = E2EEManager(keys, profile), []
    theirs.on("e2ee-diagnosis", lambda diagnosis: causes.append(diagnosis.cause))
    async with peers(stack, stack) as (alice, bob):
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(*((tone_track(stack),) if codec == "opus" else (picture_track(stack), codec)))
        await connect(alice, bob)
        await until(lambda: causes)
        assert causes == ["not_sealed"]
        (sink,) = bob.sinks.values()
        assert sink.empty


async def test_frames_that_come_before_their_key_are_played_when_it_comes(stack):
    ours, theirs = keyed("alice"), keyed(hold_frames=64)
    asked: list = []
    theirs.on("e2ee-missing-key", asked.append)
    sent, received = recorded(ours), recorded(theirs)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attached = attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await until(lambda: len(received) >= 8)
        assert sink.empty and [missing.participant_id for missing in asked] == ["alice"]
        theirs.provider.set_key("alice", KEYS["alice"])
        await until(lambda: len(sink.pictures) > 20)
        assert_pictures(sink)
        (counters,) = attached.counters
        assert (counters.dropped, counters.last_error) == (0, None)
        if stack == "aiortc":  # vsaiortc passes on the latest pictures only, when several are decoded at once
            first = next(sealed for sealed, _ in received if not sealed[0] & 1)
            number = [sealed for _, sealed in sent].index(first)
            assert [picture.number for picture in sink.pictures[:12]] == list(range(number, number + 12))


async def test_a_key_that_is_missing_again_is_asked_for_again_and_not_only_when_time_has_passed(stack, monkeypatch):
    for module in ("monitor", "transforms"):
        monkeypatch.setattr(f"frameseal.e2ee.{module}.KEY_REQUEST_INTERVAL", float("inf"))
    ours, theirs = keyed("alice"), keyed()
    asked: list = []
    theirs.on("e2ee-missing-key", asked.append)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(tone_track(stack))
        await connect(alice, bob)
        for shortages in (1, 2, 3):
            await until(lambda: theirs.state("alice", "audio") == "MissingKey")
            await until(lambda count=shortages: len(asked) == count)
            theirs.provider.set_key("alice", KEYS["alice"])
            await until(lambda: theirs.state("alice", "audio") == "DecryptionSuccess")
            theirs.provider.remove("alice")
        await until(lambda: len(asked) == 4)


def provided(key: str | bytes, **options) -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider(**options)
    made.set_shared_key(key)
    return made


@contextlib.asynccontextmanager
async def sealed_tone(ours: E2EEManager, theirs: E2EEManager, stack: str = "aiortc"):
    """A call from Alice to Bob with a tone in it; gives what Bob hears."""
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(tone_track(stack))
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        yield sink


@pytest.mark.parametrize("key", ["a passphrase", KEYS["alice"]], ids=["passphrase", "raw key"])
async def test_a_sender_who_ratchets_in_mid_call_is_followed(key):
    sending, receiving = provided(key), provided(key, ratchet_window_size=4)
    ratcheted: list = []
    receiving.on("key-ratcheted", ratcheted.append)
    ours, theirs = E2EEManager(sending, "livekit"), E2EEManager(receiving, "livekit")
    received = recorded(theirs)
    async with sealed_tone(ours, theirs) as sink:
        for step in (1, 2):
            await until(lambda: sink.seconds > 0.5)
            await asyncio.to_thread(sending.ratchet)
            sink.clear()
            await until(lambda: sink.seconds > 0.5)
            assert_tone(sink, seconds=0.5)
            await until(lambda: len(ratcheted) == step)  # noqa: B023 - awaited here
    failed = sum(opened is None for _, opened in received)
    # A raw key's step is derived on the way; a passphrase's beside it, which costs some frames of 20 ms.
    assert failed == 0 if isinstance(key, bytes) else failed < 100


async def test_a_call_rotates_by_itself_by_count_and_when_somebody_leaves_and_loses_nothing():
    sending, receiving = provided(KEYS["alice"]), provided(KEYS["alice"])
    ours, theirs = E2EEManager(sending, "livekit"), E2EEManager(receiving, "livekit")
    sent, received = recorded(ours), recorded(theirs)

    async def hand_out(key: bytes, key_id: int) -> None:
        receiving.set_shared_key(key, key_id)

    def used() -> set[int]:
        return {sealed[-1] for sealed, _ in received}

    async with sealed_tone(ours, theirs) as sink:
        await until(lambda: sink.seconds > 0.3)
        async with KeyRotator(sending, hand_out, delay=0.1, overlap=1.0, after_frames=50):
            await until(lambda: used() >= {0, 1})
        before = sending.sending_key_id()
        async with KeyRotator(sending, hand_out, delay=0.1, overlap=1.0) as rotator:
            rotator.participant_left()
            await until(lambda: before + 1 in used())
    assert 0 not in sending.key_ids and before not in sending.key_ids, "what sealed before is forgotten"
    assert not_opened(sent, received) == [] and all(sealed is not None for _, sealed in sent)


class Doctored:
    """A receiver's transform whose frames are replaced on their way: what an SFU can do."""

    def __init__(self, transform, replace) -> None:
        self._transform, self._replace = transform, replace

    def open(self, frame: bytes, tag: object = None, **options: bool) -> list[tuple[bytes, object]]:
        return self._transform.open(self._replace(frame), tag, **options)

    def __getattr__(self, name: str):
        return getattr(self._transform, name)


def doctored(e2ee: E2EEManager, replace) -> None:
    make = e2ee.receiver_transform
    e2ee.receiver_transform = lambda *args, **options: Doctored(make(*args, **options), replace)


async def test_a_frame_that_an_sfu_repeats_is_played_once():
    first: list[bytes] = []

    def repeat(sealed: bytes) -> bytes:
        """Every third frame is the first one again."""
        first.append(sealed)
        return first[0] if len(first) % 3 == 0 else sealed

    ours = E2EEManager(provided("a key"), "livekit")
    theirs = E2EEManager(provided("a key"), "livekit", replay_window=64)
    received = recorded(theirs)
    doctored(theirs, repeat)
    async with sealed_tone(ours, theirs):
        await until(lambda: len(received) > 90)
    again = [opened for sealed, opened in received if sealed == first[0]]
    assert len(again) > 20 and sum(opened is not None for opened in again) <= 1
    assert all(opened is not None for sealed, opened in received if sealed != first[0])


@pytest.mark.parametrize("pass_sif_frames", [False, True])
async def test_a_servers_blank_frames_in_a_pause_are_reported_and_played_if_that_was_asked_for(pass_sif_frames):
    trailer, silence = b"a trailer that a server tells", b"\xf8\xff\xfe" + bytes(77)
    sent: list[bytes] = []

    def pause(sealed: bytes) -> bytes:
        """From the 40th frame on a second of silence, in the clear."""
        sent.append(silence + trailer if 40 <= len(sent) < 90 else sealed)
        return sent[-1]

    ours = E2EEManager(provided("a key"), "livekit")
    theirs = E2EEManager(provided("a key"), "livekit", sif_trailer=trailer, pass_sif_frames=pass_sif_frames)
    told: list = []
    theirs.on("e2ee-injected-frame", told.append)
    changes = record(theirs)
    received = recorded(theirs)
    doctored(theirs, pause)
    async with sealed_tone(ours, theirs) as sink:
        await until(lambda: len(received) > 130)
        await until(lambda: sink.seconds > 2)
    blank = [opened for sealed, opened in received if sealed == silence + trailer]
    assert len(blank) >= 45 and set(blank) == {silence if pass_sif_frames else b""}
    assert [(event.participant_id, type(event)) for event in told] == [("alice", E2EEInjectedFrame)]
    assert [change.state for _, change in changes] == [E2EEState.DecryptionSuccess], "neither a failure nor a success"


async def test_a_call_in_which_text_meets_bytes_is_explained_and_recovers():
    text = "sixteen letters and more"
    receiving = provided(text)
    ours, theirs = E2EEManager(provided(text.encode()), "livekit"), E2EEManager(receiving, "livekit")
    told: dict[str, list] = {"e2ee-diagnosis": [], "e2ee-stalled": []}
    for event, heard in told.items():
        theirs.on(event, heard.append)
    changes = record(theirs)
    async with sealed_tone(ours, theirs) as sink:
        await until(lambda: all(told.values()))
        assert sink.empty
        (diagnosis,), (stalled,) = told.values()
        assert (diagnosis.cause, diagnosis.proven) == ("hkdf", True)
        assert "pass bytes, not str" in diagnosis.advice
        assert (stalled.participant_id, stalled.kind, stalled.state) == ("alice", "audio", E2EEState.DecryptionFailed)
        receiving.set_shared_key(text.encode())
        await until(lambda: sink.seconds > 0.8)
        assert_tone(sink)
    assert [(change.state, change.detail) for _, change in changes] == [
        (E2EEState.DecryptionFailed, None),
        (E2EEState.DecryptionSuccess, "recovered"),
    ]


async def test_a_call_in_which_a_key_is_spelt_differently_is_explained_and_recovers(stack):
    ours, theirs = E2EEManager(provided("a passphrase"), "livekit"), E2EEManager(provided("a passphrase\n"), "livekit")
    told: list = []
    theirs.on("e2ee-diagnosis", told.append)
    async with sealed_tone(ours, theirs, stack) as sink:
        await until(lambda: told)
        assert (told[0].cause, told[0].proven, sink.empty) == ("other_spelling", True, True)
        assert "without the line end behind it" in told[0].advice and "passphrase" not in told[0].advice
        theirs.provider.set_shared_key("a passphrase")
        await until(lambda: sink.seconds > 0.8)
    assert theirs.state("alice", "audio") == "DecryptionSuccess"


@pytest.mark.parametrize(
    ("profile", "causes"),
    [
        (None, {"video": {"not_sealed"}, "audio": {"not_sealed"}}),
        ("videosdk", {"video": {"other_salt"}, "audio": {"other_salt"}}),
        ("sframe", {"video": {"other_profile"}, "audio": {"other_profile"}}),
    ],
    ids=["in the clear", "another vendor's salt", "another profile"],
)
async def test_a_call_in_which_the_sender_seals_otherwise_is_explained_and_nothing_is_played(profile, causes):
    theirs = E2EEManager(provided("a passphrase"), "livekit")
    told: dict[str, set[str]] = {"audio": set(), "video": set()}
    theirs.on("e2ee-diagnosis", lambda found: told[found.kind].add(found.cause))
    async with peers("aiortc", "aiortc") as (alice, bob):
        if profile is not None:
            attach(alice.pc, E2EEManager(provided("a passphrase"), profile), local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(picture_track("aiortc"), "vp8")
        alice.send(tone_track("aiortc"))
        await connect(alice, bob)
        await until(lambda: all(causes[kind] <= told[kind] for kind in causes))
        assert all(sink.empty for sink in bob.sinks.values())


@pytest.mark.parametrize(("profile", "codec"), [("livekit", "vp8"), ("livekit", "h264"), ("sframe", "vp8")])
async def test_frames_whose_head_was_lost_say_nothing_about_the_key(monkeypatch, stack, profile, codec):
    """What a jitter buffer that overflows delivers: the tail of a frame, with a trailer that looks right."""
    buffer, frames, beheaded = part(stack, "jitterbuffer").JitterBuffer, count(1), []
    add = buffer.add

    def overflowing(this, packet):
        pli, frame = add(this, packet)
        if frame is not None and this._is_video and next(frames) % 5 == 0:
            frame.data = frame.data[len(frame.data) // 2 :]
            beheaded.append(frame.data)
        return pli, frame

    monkeypatch.setattr(buffer, "add", overflowing)
    ours = E2EEManager(provided(KEYS["alice"]), profile)
    theirs = E2EEManager(provided(KEYS["alice"], failure_tolerance=0), profile)
    sent, received, changes, told = recorded(ours), recorded(theirs), record(theirs), []
    for event in ("e2ee-missing-key", "e2ee-diagnosis"):
        theirs.on(event, told.append)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, ours, local_id="alice", remote_id="bob")
        attach(bob.pc, theirs, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), codec)
        await connect(alice, bob)
        await until(lambda: len(beheaded) > 15)
    whole = {sealed for _, sealed in sent}
    assert sum(opened is None for _, opened in received) >= 15
    assert all((opened is not None) == (sealed in whole) for sealed, opened in received)
    assert [change.state for _, change in changes] == [E2EEState.DecryptionSuccess]
    assert told == []


@pytest.mark.parametrize(("profile", "codec", "own"), [("livekit", "vp8", True), ("sframe", "h264", False)])
async def test_a_call_on_a_bad_line_loses_no_frame_to_its_rotations(profile, codec, own):
    ours, theirs = KeyProvider(), KeyProvider()
    name = "alice" if own else None
    for provider in (ours, theirs):
        provider.set_key(name, KEYS["alice"]) if own else provider.set_shared_key(KEYS["alice"])
    sealing, opening = E2EEManager(ours, profile), E2EEManager(theirs, profile)
    sent, received = recorded(sealing), recorded(opening)
    changes = record(sealing)

    async def hand_out(key: bytes, key_id: int) -> None:
        async def arrive() -> None:
            await asyncio.sleep(0.05)
            theirs.set_key(name, key, key_id) if own else theirs.set_shared_key(key, key_id)

        arriving.append(asyncio.ensure_future(arrive()))

    arriving: list[asyncio.Future] = []
    rotator = KeyRotator(ours, hand_out, participant_id=name, delay=0.3, overlap=2.0)
    forwarder = Forwarder(loss=0.03, reorder=0.02, seed=7)
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(forwarder.close)
        alice, bob = await cleanup.enter_async_context(peers("aiortc", "aiortc"))
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track("aiortc"), codec)
        alice.send(tone_track("aiortc"))
        await forwarder.connect_publisher(alice.pc)
        await forwarder.connect_subscriber(bob.pc, "bob")
        rotations, loop = round(SECONDS / PERIOD), asyncio.get_running_loop()
        start = loop.time()
        for number in range(rotations):
            await rotator.rotate()
            await asyncio.sleep(start + (number + 1) * PERIOD - loop.time())
        await asyncio.gather(*arriving)
        seen = {mid: (len(sink.pictures), len(sink.samples)) for mid, sink in bob.sinks.items()}
        await until(lambda: all((len(s.pictures), len(s.samples)) > seen[mid] for mid, s in bob.sinks.items()))
        for sink in bob.sinks.values():
            numbers = [picture.number for picture in sink.pictures if picture.number is not None]
            assert numbers == sorted(numbers)

    stats = forwarder.stats
    assert min(stats["publisher"].lost, stats["bob"].lost, stats["publisher"].reordered, stats["bob"].reordered) > 0
    assert len(arriving) == rotations
    assert len(sent) >= 70 * SECONDS and all(sealed is not None for _, sealed in sent)
    assert {change.state for _, change in changes} == {E2EEState.EncryptionSuccess}
    whole = {sealed for _, sealed in sent}
    assert sum(sealed in whole for sealed, _ in received) > 0.5 * len(sent)
    assert not_opened(sent, received) == []
