"""Sealed calls of aiortc through Janus. test_janus.py runs this in a network namespace of its own."""

import asyncio
import contextlib
import re
from itertools import chain
from random import Random

import pytest
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPacket, RtcpPsfbPacket, RtcpRrPacket, RtpPacket, is_rtcp

from frameseal import E2EEState
from frameseal.aiortc import attach
from frameseal.tools.meet.janus import Janus, JanusStream
from support.calls import (
    PASSPHRASE,
    Tap,
    assert_pictures,
    assert_tone,
    manager,
    peers,
    picture_track,
    record,
    tone_track,
    until,
)
from support.recording import not_opened, recorded
from support.wire import beyond_clear_bytes, leaks

pytest_plugins = ["interop.gateway"]
COLOURS = {"alice": "red", "bob": "blue", "alice again": "green"}
HERTZ = {"alice": 440, "bob": 880, "alice again": 660}


@contextlib.asynccontextmanager
async def room(janus, codec):
    gateway = Janus(janus.url, codec)
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()


def media(name) -> list:
    return [picture_track("aiortc", COLOURS[name]), tone_track("aiortc", HERTZ[name])]


async def publish(gateway, peer, e2ee, codec, tracks) -> JanusStream:
    """Have a peer send tracks to Janus; returns what others can subscribe to."""
    attach(peer.pc, e2ee, local_id="alice", remote_id="bob")
    for track in tracks:
        peer.send(track, codec if track.kind == "video" else "opus")
    stream = JanusStream(gateway)
    await stream.connect_publisher(peer.pc)
    return stream


async def subscribe(stream, peer, name, e2ee, publisher) -> None:
    attach(peer.pc, e2ee, local_id=name, remote_id=publisher)
    await stream.connect_subscriber(peer.pc, name)


def sinks(peer) -> dict:
    return {sink.track.kind: sink for sink in peer.sinks.values()}


class Loss:
    """Loses some of the packets that a method of a DTLS transport passes, and none of the resent ones, `again`."""

    def __init__(self, transport, method: str, sdp: str) -> None:
        self.again: list[RtpPacket] = []
        self._resending = {int(number) for number in re.findall(r"a=rtpmap:(\d+) rtx/", sdp)}
        self._random, self._pass = Random(method), getattr(transport, method)
        setattr(transport, method, self._lose)

    async def _lose(self, data: bytes, **more) -> None:
        if not is_rtcp(data):
            packet = RtpPacket.parse(data)
            if packet.payload_type in self._resending:
                self.again.append(packet)
            elif self._random.random() < 0.03:
                return
        await self._pass(data, **more)


class Distance:
    """Puts a little way between a subscriber and Janus, which keeps packets to resend only where a round trip takes a
    millisecond or more. `known` is set when the subscriber has told Janus what it measures that by.
    """

    def __init__(self, transport) -> None:
        self.known = asyncio.Event()
        self._send = transport._send_rtp
        transport._send_rtp = self._send_late

    async def _send_late(self, data: bytes) -> None:
        await asyncio.sleep(0.01)
        await self._send(data)
        reports = [p for p in RtcpPacket.parse(data) if isinstance(p, RtcpRrPacket)] if is_rtcp(data) else []
        if any(report.lsr for packet in reports for report in packet.reports):
            self.known.set()


async def settled(*subscribers, pictures=20, seconds=1.0) -> None:
    for peer in subscribers:
        await until(lambda peer=peer: {"audio", "video"} <= set(sinks(peer)))
        video, audio = sinks(peer)["video"], sinks(peer)["audio"]
        await until(lambda v=video, a=audio: len(v.pictures) >= pictures and a.seconds >= seconds, 60)


def assert_content(peer, publisher) -> None:
    assert_pictures(sinks(peer)["video"], COLOURS[publisher])
    assert_tone(sinks(peer)["audio"], HERTZ[publisher])


def keyframe_requests(peer) -> list:
    """The picture loss indications that reach a publisher from now on."""
    asked = []
    sender = next(sender for sender in peer.pc.getSenders() if sender.kind == "video")
    handle = sender._handle_rtcp_packet

    async def watched(packet) -> None:
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_PLI:
            asked.append(packet)
        await handle(packet)

    sender._handle_rtcp_packet = watched
    return asked


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("profile", ["livekit", "sframe"])
async def test_who_has_the_key_sees_and_hears_the_others_and_who_has_none_does_not(janus, profile, codec):
    sealing = {name: manager(profile=profile) for name in ("alice", "bob")}
    opening = {name: manager(profile=profile) for name in sealing} | {"carol": manager(None, profile=profile)}
    sent, received = [recorded(sealing[name]) for name in sealing], recorded(opening["carol"])
    changes = record(opening["carol"])
    with Tap("aiortc") as tap:
        async with room(janus, codec) as gateway, peers(*["aiortc"] * 6) as made:
            published = {"alice": made[0], "bob": made[1]}
            streams = {
                name: await publish(gateway, peer, sealing[name], codec, media(name))
                for name, peer in published.items()
            }
            whom = [("bob", "alice"), ("alice", "bob"), ("carol", "alice"), ("carol", "bob")]
            heard = dict(zip(whom, made[2:], strict=True))
            for (name, publisher), peer in heard.items():
                await subscribe(streams[publisher], peer, name, opening[name], publisher)
            await settled(heard["bob", "alice"], heard["alice", "bob"])
            assert_content(heard["bob", "alice"], "alice")
            assert_content(heard["alice", "bob"], "bob")

            # Carol, who has no key.
            missing = {(name, kind) for name in sealing for kind in ("audio", "video")}
            await until(lambda: {(change.participant_id, change.kind) for _, change in changes} == missing)
            await until(lambda: len(received) > 100)
            assert {change.state for _, change in changes} == {E2EEState.MissingKey}
            assert all(sink.empty for name in sealing for sink in heard["carol", name].sinks.values())

            # When she has the key she asks for a keyframe, and Janus asks the publishers.
            asked = [keyframe_requests(peer) for peer in published.values()]
            opening["carol"].provider.set_shared_key(PASSPHRASE)
            await until(lambda: all(asked))
            await settled(heard["carol", "alice"], heard["carol", "bob"])
            assert_content(heard["carol", "alice"], "alice")
            assert_content(heard["carol", "bob"], "bob")
    # Janus alters nothing, and lets nothing be read.
    pairs = list(chain.from_iterable(sent))
    assert {frame for frame, _ in received} <= {sealed for _, sealed in pairs}
    secret = [beyond_clear_bytes(*pair) for pair in pairs]
    assert leaks(secret, [packet.payload for packet in tap.packets]) == 0


async def test_packets_that_were_lost_come_again_through_janus_as_they_were_sealed(janus):
    """Lost on the way to Janus, and on the way from it: both ends resend (RFC 4588) what was sealed once."""
    sealing, opening = manager(), manager()
    sent, received = recorded(sealing), recorded(opening)
    async with room(janus, "vp8") as gateway, peers("aiortc", "aiortc") as (alice, bob):
        stream = await publish(gateway, alice, sealing, "vp8", media("alice")[:1])
        to_janus = Loss(alice.pc.getSenders()[0].transport, "_send_rtp", alice.pc.localDescription.sdp)
        await subscribe(stream, bob, "bob", opening, "alice")
        await asyncio.wait_for(Distance(bob.pc.getReceivers()[0].transport).known.wait(), 60)
        from_janus = Loss(bob.pc.getReceivers()[0].transport, "_handle_rtp_data", bob.pc.localDescription.sdp)
        (sink,) = bob.sinks.values()
        await until(lambda: len(sink.pictures) > 100 and to_janus.again and from_janus.again, 100)
        assert_pictures(sink, "red", at_least=100)
    assert not_opened(sent, received) == []
    assert opening.state("alice", "video") is E2EEState.DecryptionSuccess


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
async def test_a_publisher_who_comes_again_is_seen_again(janus, profile):
    opening = manager(profile=profile)
    changes = record(opening)
    async with room(janus, "vp8") as gateway, peers(*["aiortc"] * 4) as (alice, bob, alice_again, bob_again):
        stream = await publish(gateway, alice, manager(profile=profile), "vp8", media("alice"))
        await subscribe(stream, bob, "bob", opening, "alice")
        await settled(bob)
        await alice.pc.close()
        await stream.close()

        again = await publish(gateway, alice_again, manager(profile=profile), "vp8", media("alice again"))
        await subscribe(again, bob_again, "bob", opening, "alice")
        await settled(bob_again)
        assert_content(bob_again, "alice again")
    assert {change.state for _, change in changes} == {E2EEState.DecryptionSuccess}


@pytest.mark.parametrize("profile", ["livekit", "sframe"])
async def test_a_subscriber_goes_on_when_janus_feeds_it_from_another_connection_of_the_publishers(janus, profile):
    """Under the same SSRC and in one count of packets, so to the receiver it is one stream, from two senders' keys."""
    opening = manager(profile=profile)
    changes = record(opening)
    async with room(janus, "vp8") as gateway, peers(*["aiortc"] * 3) as (alice, bob, alice_again):
        stream = await publish(gateway, alice, manager(profile=profile), "vp8", media("alice"))
        await subscribe(stream, bob, "bob", opening, "alice")
        await settled(bob)
        again = await publish(gateway, alice_again, manager(profile=profile), "vp8", media("alice again"))
        mids = [transceiver.mid for transceiver in bob.pc.getTransceivers()]
        switch = [{"feed": again._feed, "mid": mid, "sub_mid": mid} for mid in mids]
        await stream._subscribers["bob"].ask({"request": "switch", "streams": switch})
        await until(lambda: sinks(bob)["video"].pictures[-1].colour == COLOURS["alice again"], 60)
        await alice.pc.close()
        for sink in bob.sinks.values():
            sink.clear()
        await settled(bob)
        assert_content(bob, "alice again")
    assert {change.state for _, change in changes} == {E2EEState.DecryptionSuccess}
