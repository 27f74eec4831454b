"""Other code that replaces a part of the stack, before or during a sealed call: nothing in clear leaves, nothing that
was not opened reaches a decoder, and what was replaced is told.
"""

import asyncio
import inspect
import queue
from types import SimpleNamespace

import pytest

from frameseal import Decryptor, E2EEState
from frameseal.aiortc import attach, seal_data_channel
from support.calls import (
    PASSPHRASE,
    Arrived,
    Tap,
    assert_pictures,
    connect,
    key_ring,
    manager,
    part,
    peers,
    picture_track,
    record,
    shows,
    until,
)

MARK = b"in the clear, for everybody to see"


def in_clear(number: int) -> list[bytes]:
    """The payloads of a picture that no proxy and no guard has seen."""
    return [b"\x90\x80\x01" + MARK * 20, b"\x80\x80\x01" + MARK + bytes([number & 0xFF])]


def frames_in_clear(stack: str):
    """A `_next_encoded_frame` of somebody else's."""
    frame_class = part(stack, "rtcrtpsender").RTCEncodedFrame
    number = 0

    async def own(self, codec):
        nonlocal number
        await asyncio.sleep(0.02)
        number += 1
        return frame_class(in_clear(number), number * 3000, None)

    return own


def run_in_clear(stack: str):
    """A `_run_rtp` of somebody else's, which ends as the stack's does."""
    packets, sender_class = part(stack, "rtp"), part(stack, "rtcrtpsender").RTCRtpSender

    async def own(self, codec):
        private = {name: vars(self)[f"_RTCRtpSender__rtp_{name}"] for name in ("started", "exited")}
        private["started"].set()
        try:
            for number in range(10_000):
                await asyncio.sleep(0.02)
                for payload in in_clear(number):
                    await self.transport._send_rtp(packet_of(packets, self._ssrc, number, payload).serialize())
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            private["exited"].set()

    assert hasattr(sender_class, "_run_rtp")
    return own


def packet_of(packets, ssrc: int, number: int, payload: bytes, payload_type: int = 97):
    return packets.RtpPacket(
        payload_type=payload_type, sequence_number=number & 0xFFFF, timestamp=number * 3000, ssrc=ssrc, payload=payload
    )


async def protect_and_send(self, data: bytes) -> None:
    """A `_send_rtp` of somebody else's, which asks nobody but SRTP."""
    rtcp = 192 <= data[1] <= 208
    await self.transport._send(self._tx_srtp.protect_rtcp(data) if rtcp else self._tx_srtp.protect(data))


class Sent:
    """A call in which Alice sends one picture track, sealed, and Mallory's code runs beside hers."""

    def __init__(self, stack: str, monkeypatch, alice, bob) -> None:
        self.stack, self.patch, self.alice, self.bob = stack, monkeypatch, alice, bob
        self.senders, self.transports = part(stack, "rtcrtpsender"), part(stack, "rtcdtlstransport")
        self.cls = self.senders.RTCRtpSender
        self.sender = alice.send(picture_track(stack), "vp8").sender

    # Each of these is a patch that is applied in the middle of the call.

    def source_of_the_class(self) -> None:
        self.patch.setattr(self.cls, "_next_encoded_frame", frames_in_clear(self.stack))

    def class_of_the_sender(self) -> None:
        self.sender.__class__ = type("Own", (self.cls,), {"_next_encoded_frame": frames_in_clear(self.stack)})

    def source_of_the_instance_behind_that_of_the_class(self) -> None:
        original = vars(self.cls)["_next_encoded_frame"]

        async def wrapper(this, codec):
            return await original(this, codec)

        self.patch.setattr(self.cls, "_next_encoded_frame", wrapper)
        own = frames_in_clear(self.stack)
        vars(self.sender)["_next_encoded_frame"] = lambda codec: own(self.sender, codec)

    def source_and_transport_of_the_class(self) -> None:
        self.patch.setattr(self.transports.RTCDtlsTransport, "_send_rtp", protect_and_send)
        self.source_of_the_class()

    def source_and_transport_of_the_instance(self) -> None:
        transport = self.sender.transport
        transport._send_rtp = lambda data: protect_and_send(transport, data)
        self.source_of_the_class()

    def source_and_srtp_session(self) -> None:
        transport = self.sender.transport
        session = transport._tx_srtp._session
        # Whoever makes the session anew does not see the gate; here it is the old one, as keys must not start again.
        transport._tx_srtp = SimpleNamespace(protect=session.protect, protect_rtcp=session.protect_rtcp)
        self.source_of_the_class()


DURING = [name for name in vars(Sent) if not name.startswith("_") and name not in ("stack",)]


def marked(arrived: Arrived) -> list:
    return [packet for packet in arrived.packets if MARK[:12] in packet.payload]


def assert_opens(arrived: Arrived | Tap, tap: Tap, at_least: int) -> None:
    """Every packet that arrived belongs to a frame that opens with the key; the last frame may lack its end."""
    frames: dict[int, list] = {}
    last = arrived.packets[-1]
    while not last.marker and arrived.packets and arrived.packets[-1].timestamp == last.timestamp:
        arrived.packets.pop()
    for packet in {(p.ssrc, p.sequence_number): p for p in arrived.packets}.values():
        frames.setdefault(packet.timestamp, []).append(packet)
    decryptor, opened = Decryptor(key_ring(), "vp8"), 0
    for packets in list(frames.values()):
        packets.sort(key=lambda packet: packet.sequence_number)
        opened += bool(decryptor.decrypt(b"".join(tap.depayload("vp8", packet.payload) for packet in packets)))
    assert opened == len(frames) >= at_least


@pytest.mark.parametrize("patch", DURING)
async def test_nothing_leaves_in_clear_when_a_part_of_the_sender_is_replaced_during_the_call(stack, monkeypatch, patch):
    sealing = manager()
    changes = record(sealing)
    with Arrived(stack) as arrived, Tap(stack) as tap:
        async with peers(stack, stack, tracks_end=True) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            sent = Sent(stack, monkeypatch, alice, bob)
            track = sent.sender.track
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 5)
            getattr(sent, patch)()
            await until(lambda: sealing.state("alice", "video") is E2EEState.InternalError)
            await until(lambda: track.readyState == "ended" and sink.ended)
            await asyncio.sleep(0.1)  # what could still be on its way on this machine
            monkeypatch.undo()
    assert_opens(arrived, tap, at_least=5)
    assert marked(arrived) == []
    assert [c.reason for _, c in changes if c.state is E2EEState.InternalError] == ["seam_replaced:_next_encoded_frame"]


@pytest.mark.parametrize(
    "patched", ["_run_rtp", "send and _next_encoded_frame", "_run_rtp of the instance", "__init__"]
)
async def test_nothing_leaves_in_clear_when_a_part_of_the_sender_was_replaced_before_the_call(
    stack, monkeypatch, patched
):
    sealing = manager()
    changes = record(sealing)
    cls = part(stack).RTCRtpSender
    with Arrived(stack) as arrived:
        async with peers(stack, stack, tracks_end=True) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            if patched == "_run_rtp":
                monkeypatch.setattr(cls, "_run_rtp", run_in_clear(stack))
            if patched in ("send and _next_encoded_frame", "__init__"):
                monkeypatch.setattr(cls, "send", cls.send.__wrapped__)
                monkeypatch.setattr(cls, "_next_encoded_frame", frames_in_clear(stack))
            if patched == "__init__":
                monkeypatch.setattr(cls, "__init__", cls.__init__.__wrapped__)
            sender = alice.send(picture_track(stack), "vp8").sender
            if patched == "_run_rtp of the instance":
                own = run_in_clear(stack)
                sender._run_rtp = lambda codec: own(sender, codec)
            await connect(alice, bob)
            await until(lambda: sealing.state("alice", "video") is E2EEState.InternalError)
            await asyncio.sleep(0.1)
    assert arrived.packets == []
    (reason,) = [change.reason for _, change in changes]
    assert reason.startswith("seam_replaced:")
    assert patched.partition(" ")[0].replace("__init__", "send") in reason


async def test_packets_that_other_code_sends_past_every_sender_are_refused_and_reported(stack):
    sealing = manager()
    changes = record(sealing)
    packets = part(stack, "rtp")
    with Arrived(stack) as arrived:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            alice.send(picture_track(stack), "vp8")
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 5)
            transport = alice.pc.getSenders()[0].transport
            for number in range(20):
                data = packet_of(packets, 4711, number, in_clear(number)[0]).serialize()
                await transport._send_rtp(data)
                with pytest.raises(ConnectionError, match="not sealed"):
                    await type(transport)._send_rtp(transport, data)
                with pytest.raises(ConnectionError, match="RTP packet that was sent as RTCP"):
                    transport._tx_srtp.protect_rtcp(data)
            await transport._send_rtp(packet_of(packets, 4711, 21, b"", 120).serialize())  # has nothing in it
            shown = len(sink.pictures)
            await until(lambda: len(sink.pictures) > shown + 10)
            assert_pictures(sink)
    assert [len(packet.payload) for packet in arrived.packets if packet.ssrc == 4711] == [0]
    reasons = [change.reason for _, change in changes if change.state is E2EEState.InternalError]
    assert reasons == ["seam_replaced:_send_rtp"]
    assert sealing.state("alice", "video") is E2EEState.EncryptionSuccess, "of the track that is sealed"


async def test_patches_that_call_what_they_replace_go_on_working(stack, monkeypatch):
    """Counters, loggers, impairments: wrappers around every seam, in mid-call."""
    senders, receivers = part(stack, "rtcrtpsender"), part(stack, "rtcrtpreceiver")
    transports, counted = part(stack, "rtcdtlstransport"), []
    sealing, opening = manager(None), manager()
    changes = record(sealing), record(opening)

    def wrap(owner, name: str, coroutine: bool = True) -> None:
        original = getattr(owner, name)

        async def later(*args, **options):
            counted.append(name)
            return await original(*args, **options)

        def now(*args, **options):
            counted.append(name)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, later if coroutine else now)

    class Counting:
        def __init__(self, codec) -> None:
            self.inner = make(codec)

        def decode(self, frame):
            counted.append(("get_decoder", len(frame.data)))
            return self.inner.decode(frame)

    with Arrived(stack) as arrived, Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, opening, local_id="bob", remote_id="alice")
            sender = alice.send(picture_track(stack), "vp8").sender
            wrap(senders.RTCRtpSender, "_run_rtp")
            wrap(receivers, "decoder_worker", coroutine=False)
            make = receivers.get_decoder
            await connect(alice, bob)
            monkeypatch.setattr(receivers, "get_decoder", Counting)
            (sink,) = bob.sinks.values()
            sealing.provider.set_shared_key(PASSPHRASE)
            await until(lambda: len(sink.pictures) > 3)
            for owner, name, coroutine in (
                (senders.RTCRtpSender, "_next_encoded_frame", True),
                (senders.RTCRtpSender, "_retransmit", True),
                (transports.RTCDtlsTransport, "_send_rtp", True),
                (sender.transport, "_send_rtp", True),
                (receivers.RTCRtpReceiver, "_handle_rtp_packet", True),
                (senders, "get_encoder", False),
                (receivers, "depayload", False),
            ):
                wrap(owner, name, coroutine)
            sink.clear()
            await until(lambda: shows(sink))
            monkeypatch.undo()
    assert {"_next_encoded_frame", "_send_rtp", "_handle_rtp_packet", "depayload", "_run_rtp"} <= set(counted)
    assert ("get_decoder", 0) in counted, "a decoder that wraps ours is not shown what was not opened"
    assert {c.state for told in changes for _, c in told} <= {
        E2EEState.MissingKey,
        E2EEState.EncryptionSuccess,
        E2EEState.DecryptionSuccess,
    }
    assert_opens(arrived, tap, at_least=20)


# --- receiving -------------------------------------------------------------------------------------------------------


class Recording:
    """A decoder of somebody else's, which keeps what it is given."""

    seen: list[bytes]

    def __init__(self, codec) -> None:
        pass

    def decode(self, frame):
        type(self).seen.append(bytes(frame.data))
        return []


def own_worker(loop, input_q, output_q, *rest) -> None:
    """A `decoder_worker` of somebody else's."""
    decoder = Recording(None)
    while (task := input_q.get()) is not None:
        decoder.decode(task[1])
    asyncio.run_coroutine_threadsafe(output_q.put(None), loop)


@pytest.mark.parametrize("patched", ["get_decoder", "decoder_worker", "get_decoder and receive", "queue"])
async def test_nothing_unopened_reaches_a_decoder_when_a_part_of_the_receiver_is_replaced(stack, monkeypatch, patched):
    receivers = part(stack, "rtcrtpreceiver")
    opening, sealing = manager(), manager(None)
    changes = record(opening)
    Recording.seen = []
    if patched == "decoder_worker":
        monkeypatch.setattr(receivers, "decoder_worker", own_worker)
    if "receive" in patched:
        monkeypatch.setattr(receivers.RTCRtpReceiver, "receive", receivers.RTCRtpReceiver.receive.__wrapped__)
    async with peers(stack, stack, tracks_end=True) as (alice, bob):
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        if patched == "queue":

            @bob.pc.on("track")
            def put_in(track) -> None:
                (receiver,) = bob.pc.getReceivers()
                receiver._RTCRtpReceiver__decoder_queue = queue.Queue()

        await connect(alice, bob)
        if patched != "decoder_worker":
            monkeypatch.setattr(receivers, "get_decoder", Recording)  # after the start, before the first frame
        (sink,) = bob.sinks.values()
        sealing.provider.set_shared_key(PASSPHRASE)
        await until(lambda: opening.state("alice", "video") is E2EEState.InternalError)
        await until(lambda: sink.ended)
        assert sink.track.readyState == "ended"
        await asyncio.sleep(0.1)
        (counters,) = (c for c in vars(bob.pc)["_frameseal_attachment"].counters if c.direction == "receive")
        assert "the track is closed" in counters.last_error
    assert set(Recording.seen) <= {b""}
    (reason,) = [change.reason for _, change in changes]
    assert reason == "seam_replaced:" + {"get_decoder and receive": "receive,get_decoder", "queue": "get_decoder"}.get(
        patched, patched
    )


async def test_a_decoder_that_is_replaced_before_the_codec_changes_is_shown_nothing(stack, monkeypatch):
    receivers, codecs = part(stack, "rtcrtpreceiver"), part(stack, "rtcrtpparameters").RTCRtpCodecParameters
    opening = manager()
    changes = record(opening)
    pc = part(stack).RTCPeerConnection()
    receiver = pc.addTransceiver("video").receiver
    attach(pc, opening, local_id="bob", remote_id="alice")
    decoders, tasks = receiver._RTCRtpReceiver__decoder_queue, asyncio.Queue()
    rest = [None] * (len(inspect.signature(receivers.decoder_worker).parameters) - 3)
    worker = asyncio.to_thread(receivers.decoder_worker, asyncio.get_running_loop(), decoders, tasks, *rest)
    ended = asyncio.ensure_future(worker)
    Recording.seen = []

    def frame():
        return SimpleNamespace(data=b"has not been opened", timestamp=0)

    decoders.put((codecs("video/VP8", 90000, payloadType=97), frame()))
    slot = vars(receiver)["_frameseal_slot"]
    await until(lambda: slot.counters.dropped == 1)
    assert opening.state("alice", "video") is not E2EEState.InternalError
    monkeypatch.setattr(receivers, "get_decoder", Recording)
    for _ in range(3):
        decoders.put((codecs("video/H264", 90000, payloadType=98), frame()))
    await ended
    decoders.put((codecs("video/VP8", 90000, payloadType=97), frame()))
    assert decoders.get_nowait() is None, "whoever reads on"
    assert decoders.qsize() == 0, "and nothing is kept for it"
    assert await tasks.get() is None
    assert set(Recording.seen) == {b""}
    await until(lambda: opening.state("alice", "video") is E2EEState.InternalError)
    assert changes[-1][1].reason == "seam_replaced:get_decoder"
    await pc.close()


# --- attaching in mid-call, and what a connection hides --------------------------------------------------------------


@pytest.mark.parametrize("resends", ["RTX", "the packets themselves"])
async def test_packets_from_before_the_attachment_are_not_sent_again(stack, resends):
    with Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            sender = alice.send(picture_track(stack), "vp8").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 20)
            if resends != "RTX":
                sender._RTCRtpSender__rtx_payload_type = None
            before = {packet.sequence_number: packet.payload for packet in tap.packets}
            attached = attach(alice.pc, manager(), local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            (receiver,) = bob.pc.getReceivers()
            await receiver._send_rtcp_nack(sender._ssrc, sorted(before)[-100:])
            await until(lambda: next(c for c in attached.counters if c.direction == "send").frames_out > 10)
            lost = tap.packets[-1]
            await receiver._send_rtcp_nack(sender._ssrc, [lost.sequence_number])
            again = (lost.payload, lost.sequence_number.to_bytes(2, "big") + lost.payload)
            count = len(tap.packets)
            await until(lambda: any(packet.payload in again for packet in tap.packets[count:]))
            assert attached.counters[0].last_error is None
    payloads = [packet.payload for packet in tap.packets[len(before) :]]
    assert {payload for payload in payloads if payload in before.values() or payload[2:] in before.values()} == set()


@pytest.mark.parametrize("under_way", ["the rest of a frame", "a whole frame"])
async def test_what_was_under_way_when_the_call_was_attached_is_dropped_and_closes_nothing(
    stack, monkeypatch, under_way
):
    """A transport may take its time over each packet; a foreign frame source its own over each frame."""
    transport_class = part(stack, "rtcdtlstransport").RTCDtlsTransport
    sealing = manager()
    changes = record(sealing)
    between = asyncio.Event()
    with Tap(stack) as tap:
        send = transport_class._send_rtp
        async with peers(stack, stack) as (alice, bob):
            size = (1280, 720) if under_way == "the rest of a frame" else (320, 240)
            sender = alice.send(picture_track(stack, size=size), "vp8").sender
            await connect(alice, bob)
            (sink,) = bob.sinks.values()
            await until(lambda: len(sink.pictures) > 5)

            async def slow(this, data: bytes) -> None:
                await send(this, data)
                if not part(stack, "rtp").is_rtcp(data) and not tap.packets[-1].marker:
                    between.set()
                    await asyncio.sleep(0.01)

            async def past_the_guard(this, codec):
                frame = await source(this, codec)
                between.set()
                await asyncio.sleep(0.05)
                return frame

            if under_way == "the rest of a frame":
                monkeypatch.setattr(transport_class, "_send_rtp", slow)
                sender._send_keyframe()
            else:
                source = vars(type(sender))["_next_encoded_frame"]._method
                monkeypatch.setattr(type(sender), "_next_encoded_frame", past_the_guard)
            between.clear()
            await between.wait()
            attached = attach(alice.pc, sealing, local_id="alice", remote_id="bob")
            attach(bob.pc, manager(), local_id="bob", remote_id="alice")
            count, frame = len(tap.packets), tap.packets[-1].timestamp
            await until(lambda: next(c for c in attached.counters if c.direction == "send").frames_out > 10)
            await until(lambda: shows(sink))
            monkeypatch.undo()
    later = [packet for packet in tap.packets[count:] if packet.payload]
    assert all(packet.timestamp != frame for packet in later)
    tap.packets = later
    assert_opens(tap, tap, at_least=10)
    assert {change.state for _, change in changes} == {E2EEState.EncryptionSuccess}


def hiding(stack: str):
    """A connection whose user sees none of its senders and receivers, as an SDK's may be."""

    class Hiding(part(stack).RTCPeerConnection):
        def getSenders(self):
            return []

        def getReceivers(self):
            return []

        def getTransceivers(self):
            return []

    return Hiding


@pytest.mark.parametrize("attached", ["before the call", "during the call"])
async def test_senders_and_receivers_that_a_connection_hides_are_covered(stack, attached):
    with Arrived(stack) as arrived, Tap(stack) as tap:
        async with peers(stack, stack) as (alice, bob):
            transceivers = part(stack).RTCPeerConnection.getTransceivers
            late = attached == "during the call"
            sender = alice.pc.addTransceiver(picture_track(stack) if late else "video", direction="sendonly").sender
            for peer in (alice, bob):
                peer.pc.__class__ = hiding(stack)
            if not late:
                attach(alice.pc, manager(), local_id="alice", remote_id="bob")
                attach(bob.pc, manager(), local_id="bob", remote_id="alice")

            tracks = []
            bob.pc.remove_all_listeners("track")
            bob.pc.on("track", tracks.append)
            await connect(alice, bob)
            if late:
                await until(lambda: len(arrived.packets) > 10)
                attach(alice.pc, manager(), local_id="alice", remote_id="bob")
                attach(bob.pc, manager(), local_id="bob", remote_id="alice")
                # Some of them are still on their way, so they have not arrived.
                plain = {(packet.ssrc, packet.sequence_number) for packet in tap.packets}
            else:
                sender.replaceTrack(picture_track(stack))
                plain = set()
            count = len(arrived.packets)
            await until(lambda: len(arrived.packets) > count + 40)
            assert len(transceivers(bob.pc)) == len(tracks) == 1
            for peer in (alice, bob):
                peer.pc.__class__ = part(stack).RTCPeerConnection
            counters = vars(bob.pc)["_frameseal_attachment"].counters
            assert next(c for c in counters if c.direction == "receive").frames_out > 5
    arrived.packets = [p for p in arrived.packets if (p.ssrc, p.sequence_number) not in plain]
    assert_opens(arrived, tap, at_least=20)


# --- data channels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ["by us", "by the other end"])
@pytest.mark.parametrize(
    "wrapped", ["never", "at once", "in a coroutine", "but sent past", "never, and not attached", "after two messages"]
)
async def test_a_data_channel_in_the_clear_is_warned_of_once(stack, caplog, made, wrapped):
    keys = manager()
    heard, opened = [], asyncio.Event()
    messages = ["hello"] * 3

    def wrap(channel):
        return seal_data_channel(channel, keys, local_id="alice", remote_id="bob")

    async with peers(stack, stack) as (alice, bob):
        ours, theirs = (alice, bob) if made == "by us" else (bob, alice)
        if "not attached" not in wrapped:
            attach(alice.pc, keys, local_id="alice", remote_id="bob")
        used = {}

        def at_our_end(channel) -> None:
            used["raw"] = channel
            if wrapped in ("at once", "but sent past"):
                used["sealed"] = wrap(channel)
            elif wrapped == "in a coroutine":

                async def later() -> None:
                    used["sealed"] = wrap(channel)

                used["task"] = asyncio.ensure_future(later())

        @theirs.pc.on("datachannel")
        def announced(channel) -> None:
            if theirs is alice:
                at_our_end(channel)
            else:
                used["far"] = channel
            channel.on("message", heard.append)
            opened.set()

        channel = ours.pc.createDataChannel("chat")
        channel.on("message", heard.append)
        if ours is alice:
            at_our_end(channel)
        else:
            used["far"] = channel
            channel.on("open", lambda: channel.send("as soon as it is open"))
        await connect(ours, theirs)
        await opened.wait()
        await until(lambda: used["raw"].readyState == used["far"].readyState == "open")
        for number, message in enumerate(messages):
            if wrapped == "after two messages" and number == 2:
                used["sealed"] = wrap(used["raw"])
            past = "sealed" not in used or wrapped == "but sent past"
            (used["raw"] if past else used["sealed"]).send(message)
        used["far"].send("and back")
        await until(lambda: len(heard) >= 4)
        await asyncio.sleep(0)
        warnings = [
            r.getMessage() for r in caplog.records if r.name == "frameseal" and "are in the clear" in r.getMessage()
        ]
    loud = wrapped in ("never", "but sent past", "after two messages")
    assert len([warning for warning in warnings if "'chat'" in warning]) == loud
    advice = "frameseal.aiortc.seal_data_channel(channel, e2ee, local_id=..., remote_id=...)"
    assert all(advice in line for line in warnings)


async def test_the_other_end_cannot_fill_the_log_with_channels(stack, caplog):
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        heard = []
        alice.pc.on("datachannel", lambda channel: channel.on("message", heard.append))
        channels = [bob.pc.createDataChannel(f"{number} {'long' * 1000}") for number in range(20)]
        for channel in channels:
            channel.on("open", lambda channel=channel: channel.send("hello"))
        await connect(bob, alice)
        await until(lambda: len(heard) == len(channels))
        await asyncio.sleep(0)
    lines = [record.getMessage() for record in caplog.records if record.name == "frameseal"]
    assert len(lines) == 8
    assert all("in the clear" in line and len(line) < 500 for line in lines)
