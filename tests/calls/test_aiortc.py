"""Sealed calls between real peers, decoded and looked at: every codec, every key, both stacks."""

import asyncio
import functools
import threading

import pytest

from frameseal import Decryptor, E2EEState
from frameseal.aiortc import attach
from support.calls import (
    PASSPHRASE,
    STACKS,
    Tap,
    assert_pictures,
    assert_tone,
    connect,
    key_ring,
    manager,
    part,
    peers,
    picture_track,
    playable,
    record,
    sendable,
    tone_track,
    until,
)

COLOURS = {"vp8": "red", "h264": "blue"}
HERTZ = {"opus": 440, "pcmu": 620, "pcma": 790, "g722": 1000}


def states(changes: list) -> set[E2EEState]:
    return {change.state for _, change in changes}


def nal_units(frame: bytes) -> list[bytes]:
    return [unit.rstrip(b"\0") for unit in frame.split(b"\0\0\1")[1:]]


def slices(frame: bytes) -> list[bytes]:
    return [unit for unit in nal_units(frame) if unit[0] & 0x1F in (1, 5)]


def clear_bytes(codec: str, frame: bytes) -> int:
    """Where the part of an encoder's frame begins that nobody may see on the wire."""
    if codec == "h264":
        return frame.index(slices(frame)[0]) + 2
    if codec == "vp8":
        return 3 if frame[0] & 1 else 10
    return 1


class EveryCodec:
    """One call with a track of each codec. What the tests look at is kept after the call."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.codecs = sendable(stack)
        self.loop_thread = threading.current_thread()
        asyncio.run(self.run())

    async def run(self) -> None:
        sealing, opening = manager(), manager()
        self.sent, self.received = record(sealing), record(opening)
        self.heard_by_coroutine: list = []

        @opening.on("e2ee-state-change")
        async def listen(change) -> None:
            self.heard_by_coroutine.append(change)

        @opening.on("e2ee-state-change")
        def stumble(change) -> None:
            raise ValueError("a listener that raises")

        with Tap(self.stack) as self.tap:
            async with peers(self.stack, self.stack) as (alice, bob):
                self.alice, self.bob = alice, bob
                self.sealed = attach(alice.pc, sealing, local_id="alice", remote_id="bob")
                self.opened = attach(bob.pc, opening, local_id="bob", remote_id=lambda receiver: "alice")
                self.transceivers = {
                    codec: alice.send(picture_track(self.stack, COLOURS[codec]), codec)
                    if codec in COLOURS
                    else alice.send(tone_track(self.stack, HERTZ[codec]), codec)
                    for codec in self.codecs
                }
                await connect(alice, bob)
                self.sinks = {codec: bob.sinks[t.mid] for codec, t in self.transceivers.items()}
                heard = [self.sinks[codec] for codec in self.codecs if playable(self.stack, codec)]
                await until(lambda: all(len(sink.pictures) > 45 or sink.seconds > 1.5 for sink in heard))

    def counters(self, attachment: str, codec: str):
        return next(c for c in getattr(self, attachment).counters if c.codec == codec)

    def sent_and_made(self, codec: str) -> tuple[list[bytes], list[bytes]]:
        """The whole frames of a codec that were on the wire, and those that came from its encoder."""
        return self.tap.frames(self.transceivers[codec].sender, codec), self.tap.made[codec]


call_with_every_codec = functools.cache(EveryCodec)  # a module's fixture would be made again for each codec


@pytest.fixture(params=STACKS)
def every_codec(request, loopback) -> EveryCodec:
    return call_with_every_codec(request.param)


def with_each_codec(codecs=(*COLOURS, *HERTZ)):
    cases = [(stack, codec) for stack in STACKS for codec in codecs if codec in sendable(stack)]
    return pytest.mark.parametrize(("every_codec", "codec"), cases, indirect=["every_codec"])


@with_each_codec(COLOURS)
def test_pictures_arrive_with_their_content(every_codec, codec):
    assert_pictures(every_codec.sinks[codec], COLOURS[codec], at_least=45)


@with_each_codec(HERTZ)
def test_tones_arrive_clean(every_codec, codec):
    if not playable(every_codec.stack, codec):
        # vsaiortc negotiates G722 without having a decoder: silence, an error that says why, and a thread that lives.
        assert every_codec.sinks[codec].empty
        assert "No decoder found" in every_codec.counters("opened", codec).last_error
        return
    assert_tone(every_codec.sinks[codec], HERTZ[codec], seconds=1.2)


@with_each_codec()
def test_every_frame_on_the_wire_opens_to_what_the_encoder_made(every_codec, codec):
    sent, made = every_codec.sent_and_made(codec)
    decryptor = Decryptor(key_ring(), codec)
    opened = [decryptor.decrypt(frame) for frame in sent]
    assert len(sent) >= 45
    if codec == "h264":
        # Sealing brings H.264 into normal form and strips what decoders do not need, so it is compared by slices.
        opened, made = [list(map(slices, frames)) for frames in (opened, made)]
    assert opened == made[: len(opened)]


@with_each_codec()
def test_no_stretch_of_what_the_encoder_made_is_on_the_wire(every_codec, codec):
    sent, made = every_codec.sent_and_made(codec)
    secret = {frame[i : i + 8] for frame in made for i in range(clear_bytes(codec, frame), len(frame) - 7, 8)}
    on_the_wire = {frame[i : i + 8] for frame in sent for i in range(len(frame) - 7)}
    assert secret
    assert not secret & on_the_wire


def test_picture_ids_of_sealed_vp8_have_no_gaps(every_codec):
    descriptor = part(every_codec.stack, "codecs.vpx").VpxPayloadDescriptor
    groups = every_codec.tap.payloads(every_codec.transceivers["vp8"].sender._ssrc)
    ids = [{descriptor.parse(payload)[0].picture_id for payload in payloads} for payloads in groups]
    first = min(ids[0])
    assert ids == [{(first + n) % (1 << 15)} for n in range(len(ids))]


def test_states_are_told_once_for_each_track_on_the_event_loop(every_codec):
    threads, sent = zip(*every_codec.sent, strict=True)
    assert set(threads) == {every_codec.loop_thread}
    assert {change.state for change in sent} == {E2EEState.EncryptionSuccess}
    assert {change.participant_id for change in sent} == {"alice"}
    assert sorted(change.kind for change in sent) == ["audio"] * (len(every_codec.codecs) - 2) + ["video"] * 2

    threads, received = zip(*every_codec.received, strict=True)
    assert set(threads) == {every_codec.loop_thread}
    assert {change.participant_id for change in received} == {"alice"}
    opened = {(change.kind, change.track_id) for change in received if change.state is E2EEState.DecryptionSuccess}
    if not playable(every_codec.stack, "g722") and "g722" in every_codec.codecs:
        # Its missing G722 decoder is an internal error of the participant's audio.
        assert E2EEState.InternalError in {change.state for change in received if change.kind == "audio"}
        assert sorted(kind for kind, _ in opened) == ["audio"] * 3 + ["video"] * 2
    else:
        assert len(received) == len(opened) == len(every_codec.codecs)


def test_a_listener_that_raises_silences_no_other(every_codec):
    assert every_codec.heard_by_coroutine == [change for _, change in every_codec.received]


@with_each_codec()
def test_counters_tell_what_passed(every_codec, codec):
    sent, received = every_codec.counters("sealed", codec), every_codec.counters("opened", codec)
    kind = "video" if codec in COLOURS else "audio"
    assert (sent.direction, sent.kind, sent.participant_id) == ("send", kind, "alice")
    assert (received.direction, received.kind, received.participant_id) == ("receive", kind, "alice")
    assert sent.frames_in == sent.frames_out >= 45
    assert sent.dropped == sent.foreign == 0
    assert sent.last_error is None
    assert received.frames_in == received.frames_out + received.dropped >= 45
    if playable(every_codec.stack, codec):
        assert received.dropped == received.keyframe_requests == 0


async def test_keys_that_are_missing_wrong_late_and_changed(stack):
    sealing, opening = manager(None), manager(None, failure_tolerance=3)
    received = record(opening)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed, opened = (
                attach(alice.pc, sealing, local_id="alice", remote_id="bob"),
                attach(bob.pc, opening, local_id="bob", remote_id="alice"),
            )
            for codec in ("vp8", "h264"):
                alice.send(picture_track(stack, COLOURS[codec]), codec)
            alice.send(tone_track(stack), "opus")
            await connect(alice, bob)
            vp8, h264, opus = (bob.sinks[t.mid] for t in alice.pc.getTransceivers())
            sinks = (vp8, h264, opus)

            # The sender has no key: nothing leaves.
            await until(lambda: all(c.dropped > 5 for c in sealed.counters))
            assert tap.packets == []

            # The receiver has none: nothing is decoded.
            sealing.provider.set_shared_key(PASSPHRASE)
            await until(lambda: all(c.dropped > 15 for c in opened.counters))
            assert states(received) == {E2EEState.MissingKey}
            assert all(sink.empty for sink in sinks)

            # It has a wrong one: still nothing is decoded, and it is told.
            before = [c.dropped for c in opened.counters]
            opening.provider.set_shared_key("wrong")
            await until(lambda: all(c.dropped > b + 15 for c, b in zip(opened.counters, before, strict=True)))
            assert E2EEState.InvalidKey in states(received)
            assert all(sink.empty for sink in sinks)

            # The right one, late: pictures from a keyframe on, none of them damaged.
            opening.provider.set_shared_key(PASSPHRASE)
            await until(lambda: len(vp8.pictures) > 20 and len(h264.pictures) > 20 and opus.seconds > 1)
            assert_pictures(vp8, "red")
            assert_pictures(h264, "blue")
            assert_tone(opus)

            # Changed during the call, first by the sender.
            sealing.provider.set_shared_key("another", key_id=1)
            sealing.provider.ring_for("livekit", "alice").sending_key_id = 1
            before = [c.dropped for c in opened.counters]
            await until(lambda: all(c.dropped > b + 5 for c, b in zip(opened.counters, before, strict=True)))
            for sink in sinks:
                sink.clear()
            opening.provider.set_shared_key("another", key_id=1)
            await until(lambda: len(vp8.pictures) > 20 and len(h264.pictures) > 20 and opus.seconds > 1)
            assert_pictures(vp8, "red")
            assert_pictures(h264, "blue")
            assert_tone(opus)
            assert {opening.state("alice", kind) for kind in ("audio", "video")} == {E2EEState.DecryptionSuccess}
    assert {c.last_error for c in sealed.counters + opened.counters} == {None}


async def test_the_two_stacks_call_each_other_in_one_process():
    async with peers(STACKS[0], STACKS[-1]) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        attach(bob.pc, manager(), local_id="bob", remote_id="alice")
        for peer, other, colour in ((alice, bob, "green"), (bob, alice, "yellow")):
            peer.send(picture_track(peer.stack, colour), "vp8")
            peer.send(tone_track(peer.stack, HERTZ["opus"]), "opus")
            await connect(peer, other)
        await until(lambda: all(len(s.pictures) > 20 or s.seconds > 1 for p in (alice, bob) for s in p.sinks.values()))
        for peer, colour in ((alice, "yellow"), (bob, "green")):
            video, audio = sorted(peer.sinks.values(), key=lambda sink: sink.track.kind, reverse=True)
            assert_pictures(video, colour)
            assert_tone(audio)
