"""Members of a LiveKit room: `NativeMember` on LiveKit's native SDK, `FramesealMember` on `frameseal.livekit`.

Both publish a tone and numbered pictures, and keep what the others' tracks deliver in `sinks`, by identity and kind.
A key is a passphrase as str (PBKDF2), raw bytes (HKDF), or None, for keys that are set later or per participant.
"""

import asyncio
import contextlib
from itertools import cycle

import av
import numpy as np
from livekit import rtc
from livekit.protocol import rtc as signals

from frameseal import E2EEManager, KeyProvider
from frameseal.livekit import join
from support.calls import PASSPHRASE, Picture, Sink, picture_track, shows, tone, tone_track, until

PATIENCE = 60  # seconds; the limit is for a call that is broken, not a measurement
STACK = "aiortc"
KDF = {str: rtc.KeyDerivationFunction.PBKDF2, bytes: rtc.KeyDerivationFunction.HKDF}
VIDEO_CODECS = {"vp8": rtc.VideoCodec.VP8, "h264": rtc.VideoCodec.H264}
SIZE = (320, 240)
TONE_PIECES = 5  # tenths of a second of a tone that count as hearing it
PICTURES = 10  # pictures in a row that count as seeing them
SOUND_MS = 100  # of each frame of sound at the native SDK, whose events keep one thread busy
BIT_RATE = 1_500_000  # of pictures, so that the encoder leaves their size alone
FRAME_RATE = 10  # a second; several members share one process
# aiortc passes over a packet that is lost for good when 512 later ones have arrived. Noise in the lower part of the
# pictures makes several packets of each, so that these are 4 s and not 50 s.
NOISY_FRAME_RATE = 30
NOISE = np.random.default_rng(1).integers(16, 235, (8, SIZE[1] * 3 // 4, SIZE[0]), np.uint8)


class Member:
    """What both kinds of members have."""

    def __init__(self) -> None:
        self.sinks: dict[tuple[str, str], Sink] = {}
        self.events: list[tuple] = []
        """Names of events, each with its identity or reason."""
        self.states: list[tuple[str, str]] = []
        """Identities, each with a state as the member's side names it."""
        self.data: list[tuple[str, bytes, str]] = []
        """Sender, payload and topic."""

    def _keep(self, identity: str, kind: str, sink: Sink | None) -> None:
        """Keep the sink of a track from now on, or none when the track has ended."""
        ended = self.sinks.pop((identity, kind), None)
        if ended is not None:
            ended._task.cancel()
        if sink is not None:
            self.sinks[identity, kind] = sink

    def names(self) -> list[str]:
        return [name for name, *_ in self.events]

    def forget(self) -> None:
        """Forget what was seen, heard, and reported until now."""
        for sink in self.sinks.values():
            sink.clear()
        for record in (self.events, self.states, self.data):
            record.clear()

    def knows(self, *identities: str) -> bool:
        """Return True if these participants are in the room."""
        raise NotImplementedError

    def hears(self, identity: str, hertz: float) -> bool:
        """Return True if the tone was heard lately. On a busy machine it has gaps, which libwebrtc fills."""
        sink = self.sinks.get((identity, "audio"))
        return sink is not None and pieces_of_tone(sink, hertz) >= TONE_PIECES

    def sees(self, identity: str, colour: str) -> bool:
        """Return True if the latest pictures are readable, have the colour, and are in order."""
        sink = self.sinks.get((identity, "video"))
        return sink is not None and shows(sink, colour, PICTURES)

    async def hearing(self, identity: str, hertz: float) -> None:
        await self._perceiving(lambda: self.hears(identity, hertz), identity, "audio")

    async def seeing(self, identity: str, colour: str) -> None:
        await self._perceiving(lambda: self.sees(identity, colour), identity, "video")

    async def _perceiving(self, condition, identity: str, kind: str) -> None:
        try:
            await until(condition, PATIENCE)
        except AssertionError:
            sink = self.sinks.get((identity, kind))
            what = "no track" if sink is None else sink.pictures[-5:] if kind == "video" else f"{sink.seconds} s"
            raise AssertionError(f"{kind} of {identity}: {what}; states {self.states}; events {self.events}") from None


def pieces_of_tone(sink: Sink, hertz: float, seconds: float = 3.0) -> int:
    """Return how many tenths of a second are this tone, among the latest *seconds* of sound."""
    if not sink.samples:
        return 0
    size = sink.rate // 10
    latest = np.concatenate(sink.samples)[-int(seconds * sink.rate) :].astype(float)
    pieces = latest[len(latest) % size :].reshape(-1, size)
    return sum(_is_tone(piece, sink.rate, hertz) for piece in pieces)


def _is_tone(piece: np.ndarray, rate: int, hertz: float) -> bool:
    heard, purity, rms = tone(piece, rate)
    return abs(heard - hertz) <= 10 and purity > 0.9 and 3000 < rms < 7000


# --- the native SDK --------------------------------------------------------------------------------------------------


class NativeSink(Sink):
    """Records all frames of a track of the native SDK."""

    async def _run(self) -> None:
        if self.track.kind == rtc.TrackKind.KIND_VIDEO:
            async for event in rtc.VideoStream(self.track, format=rtc.VideoBufferType.I420):
                frame = event.frame
                rows = np.frombuffer(frame.data, np.uint8).reshape(frame.height * 3 // 2, frame.width)
                self.pictures.append(Picture.read(av.VideoFrame.from_ndarray(rows, format="yuv420p")))
        else:
            self.rate = 48_000
            async for event in rtc.AudioStream(
                self.track, sample_rate=self.rate, num_channels=1, frame_size_ms=SOUND_MS
            ):
                self.samples.append(np.frombuffer(event.frame.data, np.int16).copy())
        self.ended = True


class NativeMember(Member):
    """A participant on LiveKit's native SDK. Made by `native_member`."""

    def __init__(self) -> None:
        super().__init__()
        self.room = rtc.Room()
        self._feeds: dict[str, asyncio.Task] = {}
        room = self.room
        room.on("track_subscribed", self._subscribed)
        room.on("data_received", lambda packet: self.data.append(_received(packet)))
        room.on("e2ee_state_changed", lambda who, state: self.states.append((who.identity, _state(state))))
        for event in ("participant_connected", "participant_disconnected"):
            room.on(event, lambda who, event=event: self.events.append((event, who.identity)))
        for event in ("track_muted", "track_unmuted"):
            room.on(event, lambda who, publication, event=event: self._note(event, who.identity))
        room.on("track_unsubscribed", self._unsubscribed)
        for event in ("reconnecting", "reconnected", "disconnected"):
            room.on(event, lambda *reason, event=event: self.events.append((event, *reason)))

    def knows(self, *identities: str) -> bool:
        return set(identities) <= set(self.room.remote_participants)

    @property
    def keys(self) -> rtc.KeyProvider:
        return self.room.e2ee_manager.key_provider

    def _subscribed(self, track, publication, participant) -> None:
        kind = "video" if track.kind == rtc.TrackKind.KIND_VIDEO else "audio"
        self._keep(participant.identity, kind, NativeSink(track))

    def _note(self, event: str, identity: str) -> None:
        if identity != self.room.local_participant.identity:
            self.events.append((event, identity))

    def _unsubscribed(self, track, publication, participant) -> None:
        kind = "video" if track.kind == rtc.TrackKind.KIND_VIDEO else "audio"
        self.events.append(("track_unsubscribed", participant.identity))
        self._keep(participant.identity, kind, None)

    async def speak(self, hertz: float = 440) -> rtc.LocalTrackPublication:
        """Publish a tone."""
        source = rtc.AudioSource(48_000, 1)
        track = rtc.LocalAudioTrack.create_audio_track("audio", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False, red=False)
        publication = await self.room.local_participant.publish_track(track, options)
        self._feeds[publication.sid] = asyncio.ensure_future(_feed_sound(tone_track(STACK, hertz, SOUND_MS), source))
        return publication

    async def show(self, colour: str = "red", codec: str = "vp8", *, noisy: bool = False) -> rtc.LocalTrackPublication:
        """Publish pictures."""
        frame_rate = NOISY_FRAME_RATE if noisy else FRAME_RATE
        source = rtc.VideoSource(*SIZE, is_screencast=True)  # stays readable when the machine is busy
        track = rtc.LocalVideoTrack.create_video_track("video", source)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA,
            video_codec=VIDEO_CODECS[codec],
            simulcast=False,
            video_encoding=rtc.VideoEncoding(max_bitrate=BIT_RATE, max_framerate=frame_rate),
        )
        publication = await self.room.local_participant.publish_track(track, options)
        track = picture_track(STACK, colour, SIZE, frame_rate)
        self._feeds[publication.sid] = asyncio.ensure_future(_feed_pictures(track, source, noisy))
        return publication

    async def mute(self, publication: rtc.LocalTrackPublication, muted: bool = True) -> None:
        (publication.track.mute if muted else publication.track.unmute)()

    async def unpublish(self, publication: rtc.LocalTrackPublication) -> None:
        await _end(self._feeds.pop(publication.sid))
        await self.room.local_participant.unpublish_track(publication.sid)

    async def send(self, payload: bytes, topic: str = "") -> None:
        await self.room.local_participant.publish_data(payload, topic=topic)

    def set_key(self, identity: str, passphrase: str, key_index: int = 0) -> None:
        """Set the key of a participant."""
        self.keys.set_key(identity, passphrase.encode(), key_index)

    async def simulate(self, scenario: str) -> None:
        """Simulate a failure of this name, see LiveKit's `SimulateScenarioKind`."""
        await self.room.simulate_scenario(rtc.SimulateScenarioKind.Value(f"SIMULATE_{scenario}"))

    def send_with(self, key_index: int) -> None:
        """Seal the tracks that are published now with the key of this index."""
        own = self.room.local_participant.identity
        for cryptor in self.room.e2ee_manager.frame_cryptors():
            if cryptor.participant_identity == own:
                cryptor.set_key_index(key_index)

    async def leave(self) -> None:
        await self.room.disconnect()
        await _end(*self._feeds.values(), *(sink._task for sink in self.sinks.values()))


def native_options(
    key: str | bytes | None, tolerance: int = -1, window: int = 0, plain: bool = False
) -> rtc.RoomOptions:
    """Return options with this shared key. With None each participant has keys of their own, from passphrases.

    :param window: the number of ratchet steps that are tried on each frame that does not open. libwebrtc takes a thread
        for half a second for each of these frames, with a passphrase and its default of 16 steps.
    :param tolerance: -1 reports no frame that does not open, 0 reports the first one.
    :param plain: True seals and opens nothing.
    """
    if plain:
        return rtc.RoomOptions()
    keys = rtc.KeyProviderOptions(
        shared_key=key.encode() if isinstance(key, str) else key,
        failure_tolerance=tolerance,
        ratchet_window_size=window,
        key_derivation_function=KDF[type(key)] if key is not None else KDF[str],
    )
    # With one connection for both ways, its default, the SDK now and then delivered no picture of a track whose frames
    # its statistics counted as decoded: in 4 of 84 rooms, and in none of 46 with two connections.
    encryption = rtc.E2EEOptions(key_provider_options=keys)
    return rtc.RoomOptions(encryption=encryption, single_peer_connection=False)


@contextlib.asynccontextmanager
async def native_member(server, identity: str, room: str, key: str | bytes | None = PASSPHRASE, **options):
    """A participant on the native SDK, who has this key. See `native_options`."""
    member = NativeMember()
    await member.room.connect(server.url, server.token(identity, room), native_options(key, **options))
    try:
        yield member
    finally:
        await member.leave()


def _received(packet: rtc.DataPacket) -> tuple[str, bytes, str]:
    return packet.participant.identity if packet.participant else "", packet.data, packet.topic or ""


def _state(number: int) -> str:
    return rtc.EncryptionState.Name(number)


async def _feed_sound(track, source: rtc.AudioSource) -> None:
    while True:
        frame = await track.recv()
        data = bytes(frame.planes[0])[: frame.samples * 2]
        await source.capture_frame(rtc.AudioFrame(data, frame.sample_rate, 1, frame.samples))


async def _feed_pictures(track, source: rtc.VideoSource, noisy: bool) -> None:
    for noise in cycle(NOISE):
        frame = (await track.recv()).to_ndarray()
        if noisy:
            frame[SIZE[1] // 4 : SIZE[1]] = noise  # below the blocks that show the number
        source.capture_frame(rtc.VideoFrame(*SIZE, rtc.VideoBufferType.I420, frame.tobytes()))


async def _end(*tasks: asyncio.Task) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


# --- frameseal -------------------------------------------------------------------------------------------------------


class FramesealMember(Member):
    """A participant on `frameseal.livekit`. Made by `frameseal_member`."""

    def __init__(self, room, keys: KeyProvider) -> None:
        super().__init__()
        self.room, self.keys = room, keys
        room.on("track", self._on_track)
        room.on("data", lambda it: self.data.append((it.participant_id, it.payload, it.topic)))
        room.on("data-refused", lambda it: self.events.append(("data-refused", it.participant_id)))
        for event in ("participant-joined", "participant-left"):
            room.on(event, lambda who, event=event: self.events.append((event, who.identity)))
        room.on("track-ended", lambda track: self._keep(track.participant.identity, track.kind, None))
        for event in ("track-ended", "track-unpublished", "track-muted", "track-unmuted"):
            room.on(event, lambda track, event=event: self.events.append((event, track.participant.identity)))
        for event in ("reconnecting", "reconnected", "left"):
            room.on(event, lambda reason, event=event: self.events.append((event, reason)))
        room.e2ee.on("e2ee-state-change", lambda it: self.states.append((it.participant_id, str(it.state))))

    def knows(self, *identities: str) -> bool:
        return set(identities) <= set(self.room.participants)

    def _on_track(self, track) -> None:
        self._keep(track.participant.identity, track.kind, Sink(track.media))

    async def speak(self, hertz: float = 440):
        """Publish a tone."""
        return await self.room.publish(tone_track(STACK, hertz))

    async def show(self, colour: str = "red", codec: str = "vp8"):
        """Publish pictures."""
        return await self.room.publish(picture_track(STACK, colour, SIZE, FRAME_RATE), codec=codec)

    async def mute(self, publication, muted: bool = True) -> None:
        await self.room.mute(publication, muted)

    async def unpublish(self, publication) -> None:
        await self.room.unpublish(publication)

    async def send(self, payload: bytes, topic: str = "") -> None:
        await self.room.send(payload, topic=topic)

    def set_key(self, identity: str, passphrase: str, key_index: int = 0) -> None:
        """Set the key of a participant."""
        self.keys.set_key(identity, passphrase, key_index)

    def received(self, identity: str, kind: str, counter: str) -> int:
        """Return a counter of the frames that arrived from a participant."""
        return self.counters(counter).get((identity, kind), 0)

    def failures(self) -> dict[tuple[str, str], int]:
        """Return how many frames of each track, by identity and kind, did not open."""
        return self.counters("malformed", "unknown_key", "authentication_failed", "replayed")

    def counters(self, *names: str) -> dict[tuple[str, str], int]:
        """Return the sums of counters that are not 0, for each received track, by identity and kind."""
        sums = {
            (track["participant_id"], track["kind"]): sum(track["counters"].get(name, 0) for name in names)
            for track in self.room.e2ee.report()["tracks"]
            if track["direction"] == "receive"
        }
        return {track: number for track, number in sums.items() if number}

    async def simulate(self, **scenario) -> None:
        """Have the server simulate a failure, see LiveKit's `SimulateScenario`."""
        await self.room._visit._signalling.request(simulate=signals.SimulateScenario(**scenario))

    async def lose_signal(self) -> None:
        """Close the web socket, as if the network had failed."""
        await self.room._visit._signalling._socket.close()

    async def lose_media(self) -> None:
        """Close the received connection's DTLS, as a server does that gives it up."""
        await self.connections[1].getReceivers()[0].transport.stop()

    def directions(self) -> list[tuple]:
        """Return the transports, each with the name of its method that passes RTP packets."""
        publisher, subscriber = self.connections
        return [
            (publisher.getTransceivers()[0].sender.transport, "_send_rtp"),
            (subscriber.getTransceivers()[0].receiver.transport, "_handle_rtp_data"),
        ]

    @property
    def connections(self) -> tuple:
        """The connection that sends, and the one that receives."""
        return self.room._visit._publisher.pc, self.room._visit._subscriber.pc


@contextlib.asynccontextmanager
async def frameseal_member(
    server, identity: str, room: str, key: str | bytes | None = PASSPHRASE, *, window: int = 0, **options
):
    """A participant on `frameseal.livekit`, who has this key."""
    keys = KeyProvider(ratchet_window=window)
    if key is not None:
        keys.set_shared_key(key)
    manager = E2EEManager(keys, "livekit")
    async with join(server.url, server.token(identity, room), manager, ice_servers=(), **options) as joined:
        yield FramesealMember(joined, keys)
