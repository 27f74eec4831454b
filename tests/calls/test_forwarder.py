"""The forwarder, on calls without any encryption: what it does to RTP must be invisible to the peers."""

import contextlib

import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from frameseal.tools.sfu import Forwarder
from frameseal.tools.sfu.leg import Impairment, LegStats, starts_keyframe
from support.calls import assert_pictures, assert_tone, peers, picture_track, tone_track, until


@contextlib.asynccontextmanager
async def calling(forwarder, stack="aiortc", codec="vp8", subscribers=1):
    """Alice, publishing a picture and a tone through the forwarder, and her subscribers, connected."""
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(forwarder.close)
        alice, *others = await cleanup.enter_async_context(peers(stack, *[stack] * subscribers))
        alice.send(picture_track(stack), codec)
        alice.send(tone_track(stack))
        await forwarder.connect_publisher(alice.pc)
        for number, peer in enumerate(others):
            await forwarder.connect_subscriber(peer.pc, f"subscriber {number}")
        yield alice, *others


def sink(peer, kind):
    return next(sink for sink in peer.sinks.values() if sink.track.kind == kind)


def numbers(peer):
    return {picture.number for picture in sink(peer, "video").pictures} - {None}


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_every_subscriber_sees_and_hears_the_publisher(stack, codec):
    seen = []
    forwarder = Forwarder(on_packet=seen.append)
    async with calling(forwarder, stack, codec, subscribers=2) as (_, *subscribers):
        for peer in subscribers:
            await until(lambda peer=peer: len(numbers(peer)) >= 30 and sink(peer, "audio").seconds > 1)
            assert_pictures(sink(peer, "video"), at_least=30)
            assert_tone(sink(peer, "audio"))
    assert {packet.codec.name.lower() for packet in seen} == {codec, "opus"}
    assert all(stats.lost == stats.reordered == 0 for stats in forwarder.stats.values())


async def test_a_subscriber_who_joins_late_sees_the_publisher_too(stack):
    async with contextlib.AsyncExitStack() as cleanup:
        forwarder = Forwarder()
        cleanup.push_async_callback(forwarder.close)
        alice, late = await cleanup.enter_async_context(peers(stack, stack))
        track = picture_track(stack)
        alice.send(track, "vp8")
        await forwarder.connect_publisher(alice.pc)
        await until(lambda: track.sent > 40)
        await forwarder.connect_subscriber(late.pc, "late")
        await until(lambda: len(numbers(late)) >= 20)
        assert min(numbers(late)) > 30


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_lost_and_reordered_video_is_mended_by_retransmission(stack, codec):
    forwarder = Forwarder(loss=0.03, reorder=0.03, seed=5)
    async with calling(forwarder, stack, codec) as (_, bob):
        stats, publisher = forwarder.stats["subscriber 0"], forwarder.stats["publisher"]
        await until(lambda: len(numbers(bob)) >= 90 and stats.retransmitted >= 3, seconds=60)
        assert stats.lost > 0 and stats.reordered > 0
        assert publisher.lost > 0 and publisher.reordered > 0


async def test_payloads_pass_untouched_and_headers_are_those_of_the_leg():
    before, after = {}, []
    forwarder = Forwarder(on_packet=lambda seen: before.setdefault((seen.payload, seen.packet.timestamp), seen.packet))
    async with calling(forwarder) as (_, bob):
        transport = bob.pc.getReceivers()[0].transport
        deliver = transport._handle_rtp_data

        async def watch(data, arrival_time_ms):
            after.append(RtpPacket.parse(data, transport._rtp_header_extensions_map))
            await deliver(data, arrival_time_ms)

        transport._handle_rtp_data = watch
        await until(lambda: len(after) > 100)
        lines = bob.pc.remoteDescription.sdp.splitlines()
        announced = {int(line[len("a=ssrc:") :].split()[0]) for line in lines if line.startswith("a=ssrc:")}
        assert {packet.ssrc for packet in after} <= announced
        assert {packet.ssrc for packet in after}.isdisjoint(packet.ssrc for packet in before.values())
        for packet in after:
            original = before[packet.payload, packet.timestamp]
            assert (packet.marker, packet.sequence_number) == (original.marker, original.sequence_number)
        assert {packet.extensions.mid for packet in after} == {t.mid for t in bob.pc.getTransceivers()}


async def test_there_is_one_publisher_and_names_differ():
    async with calling(forwarder := Forwarder()) as (alice, bob):
        with pytest.raises(RuntimeError):
            await forwarder.connect_publisher(alice.pc)
        with pytest.raises(RuntimeError):
            await forwarder.connect_subscriber(bob.pc, "subscriber 0")


async def test_a_subscriber_who_left_can_come_again_and_the_others_do_not_notice():
    forwarder = Forwarder()
    async with calling(forwarder, subscribers=2) as (_, first, second):
        await until(lambda: len(numbers(first)) >= 10 and len(numbers(second)) >= 10)
        await forwarder.disconnect_subscriber("subscriber 0")
        assert set(forwarder.stats) == {"publisher", "subscriber 1"}
        seen = len(numbers(second))
        await until(lambda: len(numbers(second)) >= seen + 20)
        async with peers("aiortc") as (again,):
            await forwarder.connect_subscriber(again.pc, "subscriber 0")
            await until(lambda: len(numbers(again)) >= 10)
            await forwarder.disconnect_subscriber("subscriber 0")
        await forwarder.disconnect_subscriber("nobody")


async def test_a_subscriber_who_comes_again_has_the_same_tracks():
    forwarder, seen = Forwarder(), []
    async with calling(forwarder) as (alice, bob), peers("aiortc") as (again,):
        await forwarder.connect_subscriber(again.pc, "bob again")
        for peer, end in ((alice, "sender"), (bob, "receiver"), (again, "receiver")):
            seen.append([getattr(each, end).track.id for each in peer.pc.getTransceivers()])
        await forwarder.disconnect_subscriber("bob again")
    assert seen[0] == seen[1] == seen[2]


async def test_a_subscriber_needs_a_publisher():
    with pytest.raises(RuntimeError):
        await Forwarder().connect_subscriber(RTCPeerConnection(), "bob")


@pytest.mark.parametrize(
    ("codec", "payload", "keyframe"),
    [
        ("VP8", "90 80 81 23  10 02 00 9d 01 2a", True),
        ("VP8", "90 80 81 23  11 02 00", False),  # a delta frame
        ("VP8", "80 80 81 23  10 02 00", False),  # not the first packet of the frame
        ("H264", "65 88", True),
        ("H264", "61 88", False),
        ("H264", "78 0002 0910 0002 6742 0002 68ce", True),  # STAP-A: delimiter, SPS, PPS
        ("H264", "78 0002 0610 0002 4188", False),
        ("H264", "7c 85 88", True),  # FU-A, start
        ("H264", "7c 05 88", False),  # FU-A, further on
        ("H264", "7c", False),
        ("VP8", "", False),
        ("H264", "", False),
    ],
)
def test_keyframes_are_told_by_their_clear_bytes(codec, payload, keyframe):
    parameters = RTCRtpCodecParameters(mimeType=f"video/{codec}", clockRate=90000)
    assert starts_keyframe(parameters, bytes.fromhex(payload)) is keyframe


def spoil(seed, loss=0.0, reorder=0.0, count=2000):
    stats = LegStats()
    impair = Impairment(loss, reorder, seed, stats)
    return [packet.sequence_number for n in range(count) for packet in impair(RtpPacket(sequence_number=n))], stats


def test_a_leg_without_faults_keeps_every_packet_in_order():
    assert spoil("a")[0] == list(range(2000))


def test_the_seed_decides_which_packets_are_lost():
    first, again, other = (spoil(seed, loss=0.05, reorder=0.05)[0] for seed in ("a", "a", "b"))
    assert first == again != other


def test_loss_and_reordering_come_as_often_as_asked_and_reach_three_packets():
    arrived, stats = spoil("a", loss=0.05, reorder=0.1)
    assert stats.lost == pytest.approx(100, abs=40)
    assert stats.reordered == pytest.approx(190, abs=50)
    assert len(arrived) >= 2000 - stats.lost - 3
    ranks = np.argsort(np.argsort(arrived))
    assert 0 < np.abs(ranks - np.arange(len(arrived))).max() <= 6


@pytest.mark.parametrize(("loss", "reorder"), [(1, 0), (-0.1, 0), (0, 1.5)])
def test_probabilities_have_to_be_probabilities(loss, reorder):
    with pytest.raises(ValueError, match="probabilities"):
        Forwarder(loss=loss, reorder=reorder)
