"""A peer of PyPI's wrtc: libwebrtc with an independent implementation of SFrame (RFC 9605).

It calls the peers of calls.py. Its transforms seal and open natively, so this side of a call uses no code of frameseal.
Adapters connect it to the sources and sinks of calls.py.
"""

import asyncio
import contextlib
from fractions import Fraction

import av
import numpy as np
import webrtc

from support.calls import Peer, Sink, part, until

webrtc.allow_loopback()  # before the first connection: the default never gathers 127.0.0.1

# wrtc's cipher suites by their numbers: the five suites of RFC 9605, and the three suites of the draft.
SUITES = dict(enumerate(webrtc.SFrameCipherSuite, start=1))


class ReceivedTrack:
    """Adapts a received track to a `Sink`: its ``recv()`` returns frames of PyAV."""

    def __init__(self, track) -> None:
        # The capacity, 500 frames, prevents drops when a busy machine reads late.
        self._processor = webrtc.MediaStreamTrackProcessor(webrtc.MediaStreamTrackProcessorInit(track, 500))
        self._items = aiter(self._processor.readable)

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        with await anext(self._items) as item:
            return await picture_of(item) if isinstance(item, webrtc.VideoFrame) else sound_of(item)


async def picture_of(item) -> av.VideoFrame:
    assert item.format == "I420"
    width, height = int(item.visible_rect.width), int(item.visible_rect.height)
    image = np.empty((height * 3 // 2, width), np.uint8)
    await item.copy_to(memoryview(image).cast("B"))
    return av.VideoFrame.from_ndarray(image, format="yuv420p")


def sound_of(item) -> av.AudioFrame:
    assert item.format == "s16"
    samples = np.empty((1, item.number_of_frames * item.number_of_channels), np.int16)
    item.copy_to(memoryview(samples).cast("B"), webrtc.AudioDataCopyToOptions(plane_index=0))
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout={1: "mono", 2: "stereo"}[item.number_of_channels])
    frame.sample_rate, frame.time_base = int(item.sample_rate), Fraction(1, int(item.sample_rate))
    return frame


def item_of(frame: av.VideoFrame | av.AudioFrame):
    """Convert a frame from a source of calls.py to the frame that wrtc sends."""
    image = frame.to_ndarray()
    microseconds = int(frame.pts * frame.time_base * 1_000_000)
    if isinstance(frame, av.VideoFrame):
        return webrtc.VideoFrame(
            image.tobytes(),
            webrtc.VideoFrameBufferInit(
                format="I420", coded_width=frame.width, coded_height=frame.height, timestamp=microseconds
            ),
        )
    return webrtc.AudioData(
        webrtc.AudioDataInit(
            format="s16",
            sample_rate=frame.sample_rate,
            number_of_frames=frame.samples,
            number_of_channels=1,
            timestamp=microseconds,
            data=image.tobytes(),
        )
    )


class WrtcPeer:
    """A peer connection that sends one video track (VP8) and one audio track (Opus), with a sink per received track.

    :param sealing: the base key and KID for each kind. Two kinds under one key need two KIDs. Each transform of wrtc
        counts from 0, and a counter must not repeat under one key.
    :param opening: the base key and KID of the frames that it receives.
    """

    def __init__(self, suite: int, sealing: dict[str, tuple[bytes, int]], opening: tuple[bytes, int]) -> None:
        self.pc = webrtc.RTCPeerConnection()
        self.sinks: dict[str, Sink] = {}
        self.errors: list = []
        self._encryptors: dict = {}
        self._decryptors: list = []
        self._suite, self._sealing, self._opening = SUITES[suite], sealing, opening
        self._pumps: list[asyncio.Task] = []
        self.pc.on("track", self._on_track)

    async def send(self, track) -> None:
        """Send a track of calls.py, sealed, over a transceiver that also receives."""
        generator = webrtc.MediaStreamTrackGenerator(track.kind)
        sender = self.pc.add_track(generator)
        encryptor = webrtc.RTCRtpSFrameEncryptor(webrtc.RTCRtpSFrameEncryptorOptions(self._suite))
        await encryptor.set_encryption_key(*self._sealing[track.kind])
        sender.transform = self._encryptors[track.kind] = encryptor
        transceiver = next(t for t in self.pc.get_transceivers() if t.sender is sender)
        capabilities = webrtc.RTCRtpSender.get_capabilities(track.kind).codecs
        transceiver.set_codec_preferences([c for c in capabilities if c.mime_type in ("video/VP8", "audio/opus")])
        self._pumps.append(asyncio.ensure_future(self._pump(track, generator.writable.get_writer())))

    async def _pump(self, track, writer) -> None:
        while True:
            await writer.write(item_of(await track.recv()))

    async def open(self) -> None:
        """Open all received frames. Call it after the transceivers exist, and before the call connects."""
        for receiver in self.pc.get_receivers():
            decryptor = webrtc.RTCRtpSFrameDecryptor(webrtc.SFrameTransformOptions(self._suite))
            await decryptor.add_decryption_key(*self._opening)
            decryptor.on("error", self.errors.append)
            receiver.transform = decryptor
            self._decryptors.append(decryptor)

    async def seals(self, kind: str, base_key: bytes, kid: int) -> None:
        """Seal a kind under another key from now on."""
        await self._encryptors[kind].set_encryption_key(base_key, kid)

    async def also_opens(self, base_key: bytes, kid: int) -> None:
        """Open frames sealed under one more key."""
        for decryptor in self._decryptors:
            await decryptor.add_decryption_key(base_key, kid)

    def _on_track(self, event) -> None:
        self.sinks[event.track.kind] = Sink(ReceivedTrack(event.track))

    async def gathered(self) -> str:
        """Return the local description without the candidates outside this machine, which wrtc always gathers.

        It has no "end-of-candidates" either. libwebrtc writes this line into every section, but writes candidates into
        the first section alone. aiortc reads each section of a bundle, and would conclude that there is no candidate.
        """
        await until(lambda: self.pc.ice_gathering_state == "complete")
        return "".join(filter(stays, self.pc.local_description.sdp.splitlines(keepends=True)))

    async def close(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        faults = await asyncio.gather(*self._pumps, return_exceptions=True)
        self.pc.close()
        assert all(isinstance(fault, asyncio.CancelledError) for fault in faults), faults


@contextlib.asynccontextmanager
async def wrtc_peer(*args):
    peer = WrtcPeer(*args)
    try:
        yield peer
    finally:
        await peer.close()


def stays(line: str) -> bool:
    if line.startswith("a=candidate:"):
        return " udp " in line and " 127.0.0.1 " in line
    return not line.startswith("a=end-of-candidates")


def description(of):
    return webrtc.RTCSessionDescriptionInit(type=str(of.type), sdp=of.sdp)


async def wrtc_answers(caller: Peer, callee: WrtcPeer, tracks: list) -> None:
    pc, package = caller.pc, part(caller.stack)
    await pc.setLocalDescription(await pc.createOffer())
    await callee.pc.set_remote_description(description(pc.localDescription))
    for track in tracks:
        await callee.send(track)
    await callee.open()
    await callee.pc.set_local_description(await callee.pc.create_answer())
    answer = await callee.gathered()
    await pc.setRemoteDescription(package.RTCSessionDescription(sdp=answer, type="answer"))


async def wrtc_offers(callee: Peer, caller: WrtcPeer, tracks: list) -> None:
    pc, package = callee.pc, part(callee.stack)
    for track in tracks:
        await caller.send(track)
    await caller.open()
    await caller.pc.set_local_description(await caller.pc.create_offer())
    offer = await caller.gathered()
    await pc.setRemoteDescription(package.RTCSessionDescription(sdp=offer, type="offer"))
    await pc.setLocalDescription(await pc.createAnswer())
    await caller.pc.set_remote_description(description(pc.localDescription))
