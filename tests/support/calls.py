"""Calls over 127.0.0.1 whose content can be checked after decoding: peers, sources, sinks, a tap on the wire.

It works with aiortc and with vsaiortc. Parameters accept the stack's package name ("aiortc", "vsaiortc") or an object
of the stack. A picture has a colour, and shows its frame number and a checksum in black and white blocks. Sound is one
tone.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from random import Random

import av
import numpy as np

from frameseal import E2EEManager, ExternalE2EEKeyProvider, KeyRing

# The oldest aiortc needs an older PyAV than vsaiortc, so it is tested alone with FRAMESEAL_STACKS=aiortc.
STACKS = tuple(os.environ.get("FRAMESEAL_STACKS", "aiortc vsaiortc").split())

# Chroma (U, V) of a colour. Luma shows the frame number and a moving bar.
COLOURS = {"red": (90, 230), "blue": (230, 110), "green": (60, 50), "yellow": (20, 150)}
FRAME_RATE = 30
BITS = 16  # 12 of frame number, 4 of checksum


def part(stack: str, module: str = ""):
    """Return the stack's package, or one of its modules."""
    return importlib.import_module(f"{stack}.{module}" if module else stack)


def mime(codec: str) -> str:
    return f"{'video' if codec in ('vp8', 'h264') else 'audio'}/{codec.upper()}"


def sendable(stack: str) -> list[str]:
    """Return the codecs for which a stack has encoders. The oldest aiortc has no G722."""
    codecs = ("vp8", "h264", "opus", "pcmu", "pcma", "g722")
    return [codec for codec in codecs if hasattr(part(stack, "codecs"), f"{codec.title()}Encoder")]


def playable(stack: str, codec: str) -> bool:
    """Return True if a stack can decode a codec that it negotiates. vsaiortc cannot decode G722."""
    parameters = part(stack, "rtcrtpparameters").RTCRtpCodecParameters(mime(codec), 48000)
    try:
        return part(stack, "codecs").get_decoder(parameters) is not None
    except ValueError:
        return False


# --- sources ---------------------------------------------------------------------------------------------------------


def picture_track(stack: str, colour: str = "red", size: tuple[int, int] = (320, 240), frame_rate: int = FRAME_RATE):
    """Return a video track of numbered, coloured pictures with a moving bar, *frame_rate* per second."""

    class PictureTrack(part(stack).MediaStreamTrack):
        kind = "video"

        def __init__(self):
            super().__init__()
            self.sent = 0
            self._start = time.monotonic()

        async def recv(self):
            await asyncio.sleep(self._start + self.sent / frame_rate - time.monotonic())
            frame = draw(self.sent, colour, size)
            frame.pts = self.sent * 90000 // frame_rate
            frame.time_base = Fraction(1, 90000)
            self.sent += 1
            return frame

    return PictureTrack()


def tone_track(stack: str, hertz: float = 440, milliseconds: int = 20, rate: int = 48000):
    """Return an audio track: a sine at a quarter of full scale, in frames of *milliseconds*."""

    class ToneTrack(part(stack).MediaStreamTrack):
        kind = "audio"

        def __init__(self):
            super().__init__()
            self.samples_sent = 0
            self._start = time.monotonic()

        async def recv(self):
            await asyncio.sleep(self._start + self.samples_sent / rate - time.monotonic())
            frame = sine(self.samples_sent, rate * milliseconds // 1000, hertz, rate)
            self.samples_sent += frame.samples
            return frame

    return ToneTrack()


def draw(number: int, colour: str, size: tuple[int, int]) -> av.VideoFrame:
    width, height = size
    value = number & 0xFFF
    word = value << 4 | checksum(value)
    image = np.full((height * 3 // 2, width), 110, np.uint8)
    for bit in range(BITS):
        left, right = width * bit // BITS, width * (bit + 1) // BITS
        image[: height // 4, left:right] = 235 if word >> bit & 1 else 16
    bar = (number * 8) % width
    image[height // 4 : height, bar : bar + width // 10] = 180
    u, v = COLOURS[colour]
    image[height : height * 5 // 4] = u
    image[height * 5 // 4 :] = v
    return av.VideoFrame.from_ndarray(image, format="yuv420p")


def sine(first: int, count: int, hertz: float, rate: int) -> av.AudioFrame:
    samples = np.sin(2 * np.pi * hertz / rate * np.arange(first, first + count)) * 8192
    frame = av.AudioFrame.from_ndarray(samples.astype(np.int16).reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
    return frame


def checksum(value: int) -> int:
    return (value ^ value >> 4 ^ value >> 8 ^ 0b1010) & 0xF


# --- sinks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """The content of a decoded picture. ``number`` is None if the blocks and the checksum do not fit."""

    number: int | None
    colour: str | None

    @classmethod
    def read(cls, frame: av.VideoFrame) -> "Picture":
        image = frame.to_ndarray(format="yuv420p").astype(int)
        width, height = frame.width, frame.height
        if min(width, height) < 2 * BITS:  # a blank frame of a server
            return cls(None, None)
        reach = max(1, min(3, width // (4 * BITS)))  # senders on a busy machine make pictures smaller
        blocks = []
        for bit in range(BITS):
            middle = width * (2 * bit + 1) // (2 * BITS)
            blocks.append(image[height // 16 : height * 3 // 16, middle - reach : middle + reach].mean())
        # Only rows in the lower half of the picture, where the luma blocks have no effect.
        u = image[height + height // 8 : height * 5 // 4].mean()
        v = image[height * 5 // 4 + height // 8 :].mean()
        return cls.of(blocks, u, v)

    @classmethod
    def of(cls, blocks: list[float], u: float, v: float) -> "Picture":
        """Return the picture with these lumas of its blocks and this chroma."""
        if any(90 < luma < 160 for luma in blocks):
            return cls(None, None)
        word = sum((luma >= 160) << bit for bit, luma in enumerate(blocks))
        number = word >> 4 if checksum(word >> 4) == word & 0xF else None
        near = [name for name, uv in COLOURS.items() if abs(u - uv[0]) < 25 and abs(v - uv[1]) < 25]
        return cls(number, near[0] if near else None)


class Sink:
    """Records all frames that a track delivers."""

    def __init__(self, track) -> None:
        self.track = track
        self.pictures: list[Picture] = []
        self.samples: list[np.ndarray] = []
        self.rate = 0
        self.ended = False
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(Exception):  # a stack's MediaStreamError; each has its own
            while True:
                frame = await self.track.recv()
                if isinstance(frame, av.VideoFrame):
                    self.pictures.append(Picture.read(frame))
                else:
                    channels = len(frame.layout.channels)
                    self.rate = frame.sample_rate
                    self.samples.append(frame.to_ndarray().reshape(-1)[::channels])
        self.ended = True

    def clear(self) -> None:
        self.pictures.clear()
        self.samples.clear()

    @property
    def empty(self) -> bool:
        return not self.pictures and not self.samples

    @property
    def seconds(self) -> float:
        return sum(map(len, self.samples)) / self.rate if self.samples else 0.0

    def tone(self, skip: float = 0.2) -> tuple[float, float, float]:
        """Return the loudest frequency in Hz, the share of energy near it, and the RMS, without the first *skip* s."""
        sound = np.concatenate(self.samples).astype(float)[int(skip * self.rate) :]
        return tone(sound, self.rate)


def tone(sound: np.ndarray, rate: int) -> tuple[float, float, float]:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    spectrum[0] = 0
    peak = int(spectrum.argmax())
    near = spectrum[max(peak - 12, 0) : peak + 13].sum()
    return peak * rate / len(sound), near / max(spectrum.sum(), 1e-9), float(np.sqrt((sound**2).mean()))


def assert_pictures(sink: Sink, colour: str = "red", at_least: int = 10) -> None:
    """Check that all pictures have the colour, and that the readable ones are in the order in which they were drawn.

    On a busy machine packets are lost, and a decoder shows damaged pictures until the next keyframe. Noise that a
    decoder makes of ciphertext has no colour of ours.
    """
    assert_shown(list(sink.pictures), colour, at_least)


def assert_shown(pictures: list[Picture], colour: str, at_least: int) -> None:
    """Check the same for a list of pictures."""
    assert len(pictures) >= at_least
    assert {picture.colour for picture in pictures} == {colour}
    numbers = [picture.number for picture in pictures if picture.number is not None]
    assert 2 * len(numbers) >= len(pictures)
    assert numbers == sorted(set(numbers))


def shows(sink: Sink, colour: str = "red", run: int = 20) -> bool:
    """Return True if the latest *run* pictures are readable, have the colour, and are in order.

    It is for stacks that lose pictures on a busy machine, and show damaged ones until the next keyframe.
    """
    latest = sink.pictures[-run:]
    numbers = [picture.number for picture in latest]
    good = None not in numbers and numbers == sorted(set(numbers)) and {p.colour for p in latest} == {colour}
    return len(latest) == run and good


def plays(sink: Sink, hertz: float = 440) -> bool:
    """Return True if the latest second of sound is this tone."""
    if sink.seconds < 1.2:
        return False
    heard, purity, rms = tone(np.concatenate(sink.samples)[-sink.rate :].astype(float), sink.rate)
    return abs(heard - hertz) < 6 and purity > 0.97 and 3800 < rms < 6200


def assert_tone(sink: Sink, hertz: float = 440, seconds: float = 0.5) -> None:
    """Check that the sink has a minimum of *seconds* of one clean tone, without gaps or noise."""
    assert sink.seconds >= seconds
    heard, purity, rms = sink.tone()
    assert abs(heard - hertz) < 6, (heard, purity, rms)
    assert purity > 0.97, (heard, purity, rms)
    assert 3800 < rms < 6200, (heard, purity, rms)  # 5793, or 3 dB less where mono became stereo


# --- keys ------------------------------------------------------------------------------------------------------------

PASSPHRASE = "correct horse battery staple"


def manager(key: str | bytes | None = PASSPHRASE, profile: str = "livekit", **options) -> E2EEManager:
    provider = ExternalE2EEKeyProvider(**options)
    if key is not None:
        provider.set_shared_key(key)
    return E2EEManager(provider, profile=profile)


def record(e2ee: E2EEManager) -> list:
    changes: list = []
    e2ee.on("e2ee-state-change", lambda change: changes.append((threading.current_thread(), change)))
    return changes


def key_ring() -> KeyRing:
    ring = KeyRing("livekit")
    ring.set_passphrase(PASSPHRASE)
    return ring


# --- peers -----------------------------------------------------------------------------------------------------------


class Peer:
    """A peer connection and a sink for each track that it receives, keyed by mid."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        # MAX_BUNDLE uses one transport from the start. With the default policy, the stacks stop the transport of a
        # call's second audio m-line if the call has video. The oldest aiortc has neither the policy nor this fault.
        package, options = part(stack), {}
        if hasattr(package, "RTCBundlePolicy"):
            options["bundlePolicy"] = package.RTCBundlePolicy.MAX_BUNDLE
        self.pc = package.RTCPeerConnection(package.RTCConfiguration(**options))
        self.sinks: dict[str, Sink] = {}
        self.pc.on("track", self._on_track)

    def _on_track(self, track) -> None:
        mid = next(t.mid for t in self.pc.getTransceivers() if t.receiver.track is track)
        self.sinks[mid] = Sink(track)

    def send(self, track, codec: str | None = None):
        """Add a track to send with this codec, and return its transceiver."""
        transceiver = self.pc.addTransceiver(track, direction="sendonly")
        if codec is not None:
            prefer(transceiver, codec, part(self.stack))
        return transceiver


def prefer(transceiver, codec: str, package) -> None:
    capabilities = package.RTCRtpSender.getCapabilities(transceiver.kind).codecs
    names = (codec.lower(), "rtx")
    transceiver.setCodecPreferences([c for c in capabilities if c.mimeType.lower().partition("/")[2] in names])


async def negotiate(caller: Peer, callee: Peer) -> None:
    """Exchange one offer and one answer. The peers may use different stacks."""
    await caller.pc.setLocalDescription(await caller.pc.createOffer())
    offer = caller.pc.localDescription
    await callee.pc.setRemoteDescription(part(callee.stack).RTCSessionDescription(sdp=offer.sdp, type=offer.type))
    await callee.pc.setLocalDescription(await callee.pc.createAnswer())
    answer = callee.pc.localDescription
    await caller.pc.setRemoteDescription(part(caller.stack).RTCSessionDescription(sdp=answer.sdp, type=answer.type))


async def connect(caller: Peer, callee: Peer) -> None:
    await negotiate(caller, callee)
    await until(lambda: caller.pc.connectionState == callee.pc.connectionState == "connected")


@contextlib.asynccontextmanager
async def peers(*stacks: str, tracks_end: bool = False):
    """Make peers, and close them at the end. Fail for unhandled exceptions, and for decoder threads that have died.

    :param tracks_end: True if tracks end during the call, so that their threads may end too.
    """
    made = [Peer(stack) for stack in stacks]
    with Watch(stacks) as watch:
        try:
            yield made
            if not tracks_end:
                watch.count_threads(made)
        finally:
            await hang_up(*made)
            await asyncio.sleep(0.05)


async def hang_up(*made: Peer) -> None:
    await asyncio.gather(*(peer.pc.close() for peer in made))
    for peer in made:
        for transceiver in peer.pc.getTransceivers():
            if transceiver.sender.track is not None:
                transceiver.sender.track.stop()


async def until(condition, seconds: float = 20) -> None:
    """Wait for a condition. The limit detects a broken call, and measures nothing."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.02)


class Watch:
    """Fails a call for exceptions in the loop, in threads, finalizers and the stack's tasks, and for dead decoders."""

    def __init__(self, stacks) -> None:
        self.faults: list[str] = []
        self._before = set(threading.enumerate())
        # Not the logger of asyncio: it has the exceptions of tasks of earlier tests, whenever those are collected.
        self._loggers = [logging.getLogger(name) for name in stacks]
        self._handler = logging.Handler(logging.WARNING)
        self._handler.emit = lambda record: self.faults.append(record.getMessage())

    def __enter__(self) -> "Watch":
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self.faults.append(repr(context)))
        self._excepthook, threading.excepthook = threading.excepthook, lambda args: self.faults.append(repr(args))
        self._unraisablehook, sys.unraisablehook = sys.unraisablehook, lambda args: self.faults.append(repr(args))
        for logger in self._loggers:
            logger.addHandler(self._handler)
        return self

    def count_threads(self, made: list[Peer]) -> None:
        started = sum(
            t.currentDirection in ("recvonly", "sendrecv") and t.receiver.transport.state == "connected"
            for peer in made
            for t in peer.pc.getTransceivers()
        )
        alive = [t for t in set(threading.enumerate()) - self._before if t.name.endswith("-decoder")]
        if len(alive) < started:
            self.faults.append(f"{started} receivers, {len(alive)} decoder threads alive")

    def __exit__(self, kind, *rest) -> None:
        threading.excepthook, sys.unraisablehook = self._excepthook, self._unraisablehook
        asyncio.get_running_loop().set_exception_handler(None)
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        if kind is None:
            assert self.faults == [], self.faults


# --- the wire --------------------------------------------------------------------------------------------------------


class Arrived:
    """Records the RTP packets that arrive, after SRTP. A context manager.

    A forwarder has these packets too. They are real, whatever the sender's side has patched.
    """

    def __init__(self, stack: str) -> None:
        self._stack = stack
        self.packets: list = []

    def __enter__(self) -> "Arrived":
        transport, parse = part(self._stack, "rtcdtlstransport").RTCDtlsTransport, part(self._stack, "rtp").RtpPacket
        handle = self._handle = transport._handle_rtp_data

        async def noted(this, data: bytes, arrival_time_ms: int) -> None:
            self.packets.append(parse.parse(data))
            await handle(this, data, arrival_time_ms=arrival_time_ms)

        transport._handle_rtp_data = noted
        return self

    def __exit__(self, *exc) -> None:
        part(self._stack, "rtcdtlstransport").RTCDtlsTransport._handle_rtp_data = self._handle


class Tap:
    """Records the packets sent, before SRTP, and the whole frames that the stack's encoders made. A context manager.

    ``made[codec]`` holds the frames that encoders of the codec made. `frames` returns the frames that were sent.

    :param loss: the share of RTP packets that are lost, selected with a seed.
    """

    def __init__(self, stack: str, loss: float = 0) -> None:
        self._stack = stack
        seeded = Random(1)
        self._lost = (seeded.random() < loss for _ in count())
        self.packets: list = []
        self.made: dict[str, list[bytes]] = defaultdict(list)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "Tap":
        rtp, transport = part(self._stack, "rtp"), part(self._stack, "rtcdtlstransport").RTCDtlsTransport
        send_rtp = transport._send_rtp

        async def tapped(this, data: bytes) -> None:
            if not rtp.is_rtcp(data):
                self.keep(rtp.RtpPacket.parse(data))
                if next(self._lost):
                    return
            await send_rtp(this, data)

        self._patch(transport, "_send_rtp", tapped)
        codecs = part(self._stack, "codecs")
        for name in sendable(self._stack):
            self._record(getattr(codecs, f"{name.title()}Encoder"), name)
        return self

    def __exit__(self, *exc) -> None:
        self._undo.close()

    def keep(self, packet) -> None:
        self.packets.append(packet)

    def keep_made(self, codec: str, frames: list[bytes]) -> None:
        self.made[codec] += frames

    def _patch(self, owner, name: str, value) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def _record(self, encoder, codec: str) -> None:
        encode = encoder.encode

        def recorded(this, frame, force_keyframe=False):
            payloads, timestamp = encode(this, frame, force_keyframe)
            pieces = [self.depayload(codec, payload) for payload in payloads]
            self.keep_made(codec, [b"".join(pieces)] if codec in ("vp8", "h264") else pieces)
            return payloads, timestamp

        self._patch(encoder, "encode", recorded)

    def depayload(self, codec: str, payload: bytes) -> bytes:
        parameters = part(self._stack, "rtcrtpparameters").RTCRtpCodecParameters
        return part(self._stack, "codecs").depayload(parameters(mime(codec), 90000), payload)

    def payloads(self, ssrc: int) -> list[list[bytes]]:
        """Return the payloads that were sent under an SSRC, by frame, without retransmissions."""
        seen: set[int] = set()
        groups: list[list[bytes]] = []
        timestamp = None
        for packet in self.packets:
            if packet.ssrc == ssrc and packet.sequence_number not in seen:
                seen.add(packet.sequence_number)
                if packet.timestamp != timestamp:
                    groups.append([])
                timestamp = packet.timestamp
                groups[-1].append(packet.payload)
        return groups

    def frames(self, sender, codec: str) -> list[bytes]:
        """Return the whole frames that a sender has sent."""
        return [b"".join(self.depayload(codec, p) for p in group) for group in self.payloads(sender._ssrc)]
