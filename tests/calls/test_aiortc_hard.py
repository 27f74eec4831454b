"""Sealed calls with something unusual in them: foreign encoders, long audio, files, renegotiation, late attachment."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest

from frameseal import Decryptor, E2EEState, KeyProvider
from frameseal.aiortc import attach
from support.calls import (
    FRAME_RATE,
    Peer,
    Tap,
    assert_pictures,
    assert_tone,
    connect,
    draw,
    key_ring,
    manager,
    negotiate,
    part,
    peers,
    picture_track,
    playable,
    plays,
    sendable,
    sine,
    tone_track,
    until,
)


def assert_sealed(tap: Tap, sender, codec: str, at_least: int) -> None:
    """Every frame of the sender on the wire opens with the key."""
    frames = tap.frames(sender, codec)
    decryptor = Decryptor(key_ring(), codec)
    assert len(frames) >= at_least
    assert all(decryptor.decrypt(frame) for frame in frames)


# --- foreign encoders ------------------------------------------------------------------------------------------------


def encoder_of(stack: str, codec: str, bitrate: int = 2_000_000):
    """An encoder class such as SDKs bring: derived from the stack's, and unknown to its factory."""

    class Tuned(getattr(part(stack, "codecs"), f"{codec.title()}Encoder")):
        @property
        def target_bitrate(self):
            return bitrate

        @target_bitrate.setter
        def target_bitrate(self, value):
            pass

    return Tuned()


def set_on_instance(sender, encoder) -> None:
    """Assign the encoder to the sender's private attribute, past the factory."""
    sender._RTCRtpSender__encoder = encoder


def set_when_first_used(sender, encoder) -> None:
    """Shadow the method that asks for frames with one that puts in the encoder first."""
    original = sender._next_encoded_frame

    async def with_encoder(codec):
        if sender._RTCRtpSender__encoder is None:
            sender._RTCRtpSender__encoder = encoder
        return await original(codec)

    sender._next_encoded_frame = with_encoder


def replace_outright(sender, encoder) -> None:
    """Shadow that method with one that does not call the stack's at all."""
    frame_class = part(type(sender).__module__.partition(".")[0], "rtcrtpsender").RTCEncodedFrame

    async def own(codec):
        frame = await sender.track.recv()
        payloads, timestamp = await asyncio.to_thread(encoder.encode, frame, False)
        return frame_class(payloads, timestamp, None) if payloads else None

    sender._next_encoded_frame = own


@pytest.mark.parametrize("first", ["attached first", "patched first"])
async def test_frames_of_foreign_encoders_are_sealed(stack, first):
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            opened = attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            if first == "attached first":
                sealed = attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            senders = {
                codec: alice.send(picture_track(stack) if codec in ("vp8", "h264") else tone_track(stack), codec).sender
                for codec in ("vp8", "h264", "opus", "pcmu")
            }
            for (codec, sender), patch in zip(
                senders.items(),
                (set_on_instance, set_when_first_used, replace_outright, replace_outright),
                strict=True,
            ):
                patch(sender, encoder_of(stack, codec))
            if first == "patched first":
                sealed = attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            await connect(alice, bob)
            vp8, h264, opus, pcmu = (bob.sinks[t.mid] for t in alice.pc.getTransceivers())
            await until(
                lambda: len(vp8.pictures) > 25 and len(h264.pictures) > 25 and min(opus.seconds, pcmu.seconds) > 1
            )
            assert_pictures(vp8)
            assert_pictures(h264)
            assert_tone(opus)
            assert_tone(pcmu)
    for codec, sender in senders.items():
        assert_sealed(tap, sender, codec, at_least=25)
    assert [c for c in sealed.counters if c.direction == "send" and c.foreign < 25] == []
    assert all(c.dropped == 0 for c in sealed.counters + opened.counters)


async def test_a_factory_that_was_replaced_after_the_import_is_wrapped_too(stack, monkeypatch):
    """Code that registers codecs replaces both factories; whether it calls ours or not, frames are sealed once."""
    senders, receivers = part(stack, "rtcrtpsender"), part(stack, "rtcrtpreceiver")
    ours, made = receivers.get_decoder, []

    def with_own_encoder(codec):
        made.append(codec.name.lower())
        return encoder_of(stack, codec.name.lower())

    def that_calls_ours(codec):
        return ours(codec)

    monkeypatch.setattr(senders, "get_encoder", with_own_encoder)
    monkeypatch.setattr(receivers, "get_decoder", that_calls_ours)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed = attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            sender = alice.send(picture_track(stack), "vp8").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 20)
            assert_pictures(sink)
    assert made == ["vp8"]
    assert_sealed(tap, sender, "vp8", at_least=20)
    assert sealed.counters[0].foreign == 0


async def test_a_sender_class_with_its_own_frame_source_is_guarded(stack, monkeypatch):
    """A method replaced on the class, rather than on an instance, is found when a sender starts."""
    cls = part(stack).RTCRtpSender
    original = vars(cls)["_next_encoded_frame"]

    async def replaced(self, codec):
        if self._RTCRtpSender__encoder is None:
            self._RTCRtpSender__encoder = encoder_of(stack, codec.name.lower())
        return await original(self, codec)

    monkeypatch.setattr(cls, "_next_encoded_frame", replaced)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            sender = alice.send(picture_track(stack), "vp8").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 20)
            assert_pictures(sink)
    assert_sealed(tap, sender, "vp8", at_least=20)


# --- renegotiation ---------------------------------------------------------------------------------------------------


async def test_tracks_directions_and_m_lines_may_change_during_the_call(stack):
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed, opened = (
                attach(alice.pc, manager(), local_id="alice", remote_id="bob"),
                attach(bob.pc, manager(), local_id="bob", remote_id="alice"),
            )
            video = alice.send(picture_track(stack, "red"), "vp8")
            await connect(alice, bob)
            sink = bob.sinks[video.mid]
            await until(lambda: len(sink.pictures) > 15)
            assert_pictures(sink, "red")

            # Another track, of another size.
            video.sender.track.stop()
            video.sender.replaceTrack(picture_track(stack, "green", (480, 270)))
            await until(lambda: sink.pictures[-1].colour == "green")
            sink.clear()
            await until(lambda: len(sink.pictures) > 15)
            assert_pictures(sink, "green")

            # No media for a while, and again.
            video.direction = "inactive"
            await negotiate(alice, bob)
            await asyncio.sleep(0.2)  # for the frame that was being encoded
            passed = len(tap.packets)
            await asyncio.sleep(0.2)
            assert len(tap.packets) == passed
            sink.clear()
            video.direction = "sendonly"
            await negotiate(alice, bob)
            await until(lambda: len(sink.pictures) > 15, 40)  # aiortc itself may need many seconds for this
            assert_pictures(sink, "green")

            # More m-lines, in both directions; the first goes on.
            sound = alice.send(tone_track(stack), "opus")
            second = alice.send(picture_track(stack, "yellow"), "h264")
            await negotiate(alice, bob)
            back = bob.send(picture_track(stack, "blue"), "vp8")
            await negotiate(bob, alice)
            sink.clear()
            new = bob.sinks[sound.mid], bob.sinks[second.mid], alice.sinks[back.mid]
            await until(lambda: new[0].seconds > 1 and all(len(s.pictures) > 15 for s in (*new[1:], sink)))
            assert_pictures(sink, "green")
            assert_tone(new[0])
            assert_pictures(new[1], "yellow")
            assert_pictures(new[2], "blue")
    for transceiver, codec in ((video, "vp8"), (sound, "opus"), (second, "h264"), (back, "vp8")):
        assert_sealed(tap, transceiver.sender, codec, at_least=15)
    for attachment, participants in ((sealed, {"alice", "bob"}), (opened, {"alice", "bob"})):
        used = [c for c in attachment.counters if c.frames_in]
        assert len(used) == 4
        assert {c.last_error for c in used} == {None}
        assert {c.participant_id for c in used} <= participants


async def test_packets_that_were_lost_are_sent_again_as_they_were_sealed(stack):
    """A retransmission (RFC 4588) repeats ciphertext, so no IV is used twice, and no picture is lost or damaged."""
    with Tap(stack, loss=0.05) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            opened = attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            sender = alice.send(picture_track(stack), "vp8").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 60)
            assert_pictures(sink)
            assert opened.counters[0].dropped == 0
    sealed = {packet.payload for packet in tap.packets if packet.ssrc == sender._ssrc}
    again = [packet.payload[2:] for packet in tap.packets if packet.ssrc == sender._rtx_ssrc]
    assert again
    assert set(again) <= sealed
    assert_sealed(tap, sender, "vp8", at_least=60)


# --- long audio frames, and frames encoded elsewhere -----------------------------------------------------------------


async def test_audio_frames_of_more_than_20_ms_arrive_whole(stack):
    """In plaintext the stacks put the packets of such a frame under one timestamp, and lose half of the Opus sound."""
    codecs = {("opus", 40): 440, ("opus", 200): 520, ("pcmu", 60): 620, ("pcma", 200): 790}
    if "g722" in sendable(stack) and playable(stack, "g722"):
        codecs["g722", 100] = 1000
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed, opened = (
                attach(alice.pc, manager(), local_id="alice", remote_id="bob"),
                attach(bob.pc, manager(), local_id="bob", remote_id="alice"),
            )
            sent = {
                key: alice.send(tone_track(stack, hertz, milliseconds=key[1]), key[0]) for key, hertz in codecs.items()
            }
            await connect(alice, bob)
            sinks = {key: bob.sinks[transceiver.mid] for key, transceiver in sent.items()}
            await until(lambda: all(plays(sinks[key], hertz) for key, hertz in codecs.items()), 60)
    for (codec, _), transceiver in sent.items():
        assert_sealed(tap, transceiver.sender, codec, at_least=60)
    assert all(c.dropped == 0 for c in sealed.counters + opened.counters)


def media_file(path, codec: str, seconds: int = 4):
    """A file that holds nothing but one encoded track."""
    with av.open(str(path), "w") as container:
        if codec == "opus":
            stream = container.add_stream("libopus", rate=48000, layout="mono")
            frames = (sine(n * 960, 960, 440, 48000) for n in range(seconds * 50))
        else:
            options = {"g": "15", "bf": "0"} | ({"tune": "zerolatency"} if codec == "h264" else {"lag-in-frames": "0"})
            stream = container.add_stream({"vp8": "libvpx", "h264": "libx264"}[codec], rate=FRAME_RATE, options=options)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 500_000
            frames = (draw(n, "red", (320, 240)) for n in range(seconds * FRAME_RATE))
        for number, frame in enumerate(frames):
            if codec != "opus":
                frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


async def test_frames_that_were_encoded_elsewhere_are_sealed(stack, tmp_path):
    player = part(stack, "contrib.media").MediaPlayer
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed, _ = (
                attach(alice.pc, manager(), local_id="alice", remote_id="bob"),
                attach(bob.pc, manager(), local_id="bob", remote_id="alice"),
            )
            sent = {}
            for codec, name in {"vp8": "a.webm", "h264": "a.ts", "opus": "a.ogg"}.items():
                playing = player(str(media_file(tmp_path / name, codec)), decode=False)
                sent[codec] = alice.send(playing.audio or playing.video, codec)
            await connect(alice, bob)
            sinks = {codec: bob.sinks[transceiver.mid] for codec, transceiver in sent.items()}
            await until(lambda: all(len(s.pictures) > 30 or s.seconds > 1 for s in sinks.values()))
            assert_pictures(sinks["vp8"], at_least=30)
            assert_pictures(sinks["h264"], at_least=30)
            assert_tone(sinks["opus"])
        assert not any(tap.made.values())
    for codec, transceiver in sent.items():
        assert_sealed(tap, transceiver.sender, codec, at_least=30)
    assert all(c.dropped == c.foreign == 0 for c in sealed.counters)


# --- attaching and detaching -----------------------------------------------------------------------------------------


async def test_attaching_during_the_call_and_detaching_never_let_anything_out(stack):
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            video, audio = alice.send(picture_track(stack), "vp8"), alice.send(tone_track(stack), "pcmu")
            await connect(alice, bob)
            sinks = pictures, sound = bob.sinks[video.mid], bob.sinks[audio.mid]

            async def play() -> None:
                for sink in sinks:
                    sink.clear()
                await until(lambda: len(pictures.pictures) > 15 and sound.seconds > 0.8)
                assert_pictures(pictures)
                assert_tone(sound)

            await play()  # in the clear: the hook is in, and does nothing
            opened, sealed = (
                attach(bob.pc, manager(), local_id="bob", remote_id="alice"),
                attach(alice.pc, manager(), local_id="alice", remote_id="bob"),
            )
            await asyncio.sleep(0)
            tap.packets.clear()
            await until(lambda: all(c.frames_out > 5 for c in opened.counters if c.codec))
            await play()
            with pytest.raises(RuntimeError, match="attached already"):
                attach(alice.pc, manager(), local_id="alice", remote_id="bob")

            sealed.detach()
            before = [c.dropped for c in sealed.counters]
            await until(
                lambda: all(c.dropped > n + 10 for c, n in zip(sealed.counters, before, strict=True) if c.codec)
            )
            sealed_until = len(tap.packets)
            await until(
                lambda: all(c.dropped > n + 20 for c, n in zip(sealed.counters, before, strict=True) if c.codec)
            )
            assert len(tap.packets) == sealed_until
            assert sealed.detached

            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            await play()

            opened.detach()
            before = [c.dropped for c in opened.counters]
            await until(lambda: all(c.dropped > n + 5 for c, n in zip(opened.counters, before, strict=True) if c.codec))
            for sink in sinks:
                sink.clear()
            await until(
                lambda: all(c.dropped > n + 15 for c, n in zip(opened.counters, before, strict=True) if c.codec)
            )
            assert all(sink.empty for sink in sinks)
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            await play()
    for transceiver, codec in ((video, "vp8"), (audio, "pcmu")):
        assert_sealed(tap, transceiver.sender, codec, at_least=30)


async def test_a_receiver_whose_participant_is_unknown_is_silent_until_it_is_known(stack):
    """An SFU client may learn who sends only after the media has started, or never (its bandwidth probe)."""
    known: dict = {}
    e2ee = manager()
    changes: list = []
    e2ee.on("e2ee-state-change", changes.append)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        opened = attach(bob.pc, e2ee, local_id="bob", remote_id=lambda receiver: known[receiver] if known else None)
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        await until(lambda: opened.counters[0].dropped > 15)
        (sink,) = bob.sinks.values()
        assert sink.empty
        assert changes == []
        assert opened.counters[0].keyframe_requests == 0
        known[bob.pc.getReceivers()[0]] = "alice"
        await until(lambda: len(sink.pictures) > 15)
        assert_pictures(sink)
        assert opened.counters[0].participant_id == "alice"


async def test_unsealed_media_from_the_network_reaches_no_decoder(stack):
    opening = manager()
    async with peers(stack, stack) as (mallory, bob):
        opened = attach(bob.pc, opening, local_id="bob", remote_id="alice")
        for track, codec in (
            (picture_track(stack), "vp8"),
            (picture_track(stack), "h264"),
            (tone_track(stack), "opus"),
            (tone_track(stack), "pcmu"),
        ):
            mallory.send(track, codec)
        await connect(mallory, bob)
        await until(lambda: len(opened.counters) == 4 and all(c.dropped > 20 for c in opened.counters))
        assert all(sink.empty for sink in bob.sinks.values())
        assert all(c.frames_out == 0 and c.last_error is None for c in opened.counters)
    assert E2EEState.DecryptionSuccess not in {opening.state("alice", kind) for kind in ("audio", "video")}


async def test_a_codec_that_the_profile_refuses_is_an_internal_error_and_nothing_leaves(stack):
    e2ee = manager()
    e2ee.sender_transform = lambda *args, **kwargs: (_ for _ in ()).throw(ValueError("refused"))
    changes: list = []
    e2ee.on("e2ee-state-change", changes.append)
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sealed = attach(alice.pc, e2ee, local_id="alice", remote_id="bob")
            alice.send(picture_track(stack), "vp8")
            await connect(alice, bob)
            await until(lambda: sealed.counters[0].dropped > 10)
    assert tap.packets == []
    assert [(c.participant_id, c.kind, c.state) for c in changes] == [("alice", "video", "InternalError")]
    assert sealed.counters[0].last_error == "ValueError: refused"


async def test_nothing_of_a_call_outlives_it(stack):
    """Not even if the callable that names participants refers to the connection."""

    async def call() -> list[weakref.ref]:
        async with peers(stack, stack) as (alice, bob):
            names = {id(bob.pc): "alice"}
            attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            attachment = attach(bob.pc, manager(), local_id="bob", remote_id=lambda receiver: names[id(bob.pc)])
            alice.send(picture_track(stack), "vp8")
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 3)
            owners = [alice.pc, bob.pc, attachment, *alice.pc.getSenders(), *bob.pc.getReceivers()]
            return [weakref.ref(owner) for owner in owners]

    references = await call()

    def gone() -> bool:
        gc.collect()
        return all(reference() is None for reference in references)

    await until(gone)


@pytest.mark.parametrize("then", ["attached at once", "negotiated again before"])
def test_a_call_that_started_before_the_import_is_refused(stack, then):
    """The media of such a call cannot be sealed from its next frame on, so attach() says no, and why."""
    program = f"""
        import asyncio, aioice.ice
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]
        from support.calls import connect, negotiate, peers, picture_track
        async def main():
            async with peers("{stack}", "{stack}") as (alice, bob):
                for peer in (alice, bob):
                    peer.pc.addTrack(picture_track("{stack}"))
                await connect(alice, bob)
                from frameseal import E2EEManager, ExternalE2EEKeyProvider
                from frameseal.aiortc import attach
                if {then != "attached at once"}:
                    await negotiate(alice, bob)
                    await asyncio.sleep(0.1)
                for peer in (alice, bob):
                    try:
                        e2ee = E2EEManager(ExternalE2EEKeyProvider(), "livekit")
                        attach(peer.pc, e2ee, local_id="alice", remote_id="bob")
                    except RuntimeError as error:
                        print(error)
        asyncio.run(main())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.count("started before frameseal.aiortc was imported") == 2


def test_only_peer_connections_can_be_attached():
    with pytest.raises(TypeError, match="RTCPeerConnection"):
        attach(Peer, manager(), local_id="alice", remote_id="bob")
    with pytest.raises(TypeError, match="e2ee must be an E2EEManager, made with a provider of keys, not KeyProvider"):
        attach(SimpleNamespace(), KeyProvider(), local_id="alice", remote_id="bob")
