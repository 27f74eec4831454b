"""Members of a room of a LiveKit server: livekit-client in Chromium, and `frameseal.livekit` on aiortc.

Both send a tone and numbered pictures: the browser 660 Hz and blue, frameseal 440 Hz and red. What each of them decodes
is compared with what the other one made.
"""

import base64
import contextlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from random import Random

from aiohttp import web
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtp import is_rtcp
from livekit.protocol import models, rtc

from frameseal import Decryptor, E2EEManager, E2EEState, FrameError
from frameseal.livekit import DataMessage, RemoteTrack, Room, join
from interop.worker_call import FOLDER, PATIENCE, RATE, Page, is_tone
from support.calls import Picture, Sink, key_ring, picture_track, plays, record, shows, tone_track, until
from support.paths import ROOT
from support.recording import Noted
from support.web_server import serving_app

PAGE = Path(__file__).with_name("livekit_page")
CLIENT = ROOT / ".stamps/livekit-client/node_modules/livekit-client/dist"
BLUE = "rgb(22, 26, 255)"  # the blue of `COLOURS`
HERTZ = {"browser": 660, "frameseal": 440}
SIZE = (320, 240)
GCM = 1  # LiveKit's number of the encryption of a data packet
EVENTS = ("track", "track-ended", "track-muted", "track-unmuted", "participant-joined", "participant-left")
EVENTS += ("data", "data-refused", "reconnecting", "reconnected", "left")


class Shown:
    """The pictures of one participant, without those that were seen twice."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []


class Browser(Page):
    """A member on livekit-client."""

    def __init__(self, identity: str) -> None:
        super().__init__()
        self.identity = identity
        self.shown: dict[str, Shown] = defaultdict(Shown)  # by participant
        self.events: list[tuple[str, ...]] = []  # (event,) of the room, or (event, participant, kind)
        self.messages: list[tuple] = []  # (participant, payload, topic, encryption type)

    async def publish(self, codec: str = "vp8", *, size: tuple[int, int] = SIZE, simulcast: bool = False) -> None:
        await self.publish_audio()
        await self.publish_video(codec, size=size, simulcast=simulcast)

    async def publish_audio(self, hertz: float = HERTZ["browser"]) -> None:
        await self.ask("publish", kind="audio", hertz=hertz)

    async def publish_video(self, codec: str = "vp8", *, size=SIZE, simulcast: bool = False) -> None:
        await self.ask("publish", kind="video", colour=BLUE, size=size, videoCodec=codec, simulcast=simulcast)

    async def send(self, payload: bytes, topic: str, *, reliable: bool = True) -> None:
        await self.ask("send", payload=base64.b64encode(payload).decode(), topic=topic, reliable=reliable)

    async def hears(self, identity: str, hertz: float = HERTZ["frameseal"]) -> None:
        """Wait until a participant is heard with this tone."""
        await self.until(partial(self.listen, identity=identity), lambda sound: is_tone(sound, RATE, hertz))

    async def sees(self, identity: str, colour: str = "red") -> None:
        """Wait until the pictures of a participant are shown from now on."""
        self.shown[identity].pictures.clear()
        await until(lambda: shows(self.shown[identity], colour), PATIENCE)

    def _take(self, message: dict) -> None:
        match message:
            case {"event": "picture", "identity": identity}:
                super()._take(message)
                picture, pictures = self.pictures.pop(), self.shown[identity].pictures
                if [picture] != pictures[-1:]:
                    pictures.append(picture)
            case {"event": "room"}:
                self.events.append(tuple(message[key] for key in ("name", "identity", "kind") if key in message))
            case {"event": "data", "identity": identity, "payload": payload}:
                data = base64.b64decode(payload)
                self.messages.append((identity, data, message.get("topic"), message.get("encryptionType")))
            case _:
                super()._take(message)


@contextlib.asynccontextmanager
async def page_of(open_page, identity: str, *, encrypted: bool = True, **options):
    """A page with livekit-client that is in no room yet: set keys, then ask it to connect.

    :param encrypted: False leaves out LiveKit's encryption.
    :param options: of a key provider for keys with an index; without any, LiveKit's provider for one key.
    """
    browser = Browser(identity)
    app = web.Application()
    app.add_routes(
        [
            web.get("/socket", browser.serve),
            web.static("/page/", FOLDER),
            web.static("/livekit_page/", PAGE),
            web.static("/livekit-client/", CLIENT),
        ]
    )
    async with serving_app(app) as address, open_page(f"http://{address}/livekit_page/index.html"):
        await browser.ask("make", encrypted=encrypted, options=options or None)
        yield browser
    assert browser.faults == []


class Received(Noted):
    """Reports whole frames alone: aiortc passes on frames whose first packet was lost, and they open for nobody."""

    def open(self, sealed: bytes, tag=None, *, whole: bool = True):
        return super().open(sealed, tag) if whole else self._transform.open(sealed, tag, whole=False)


class Member:
    """A member on `frameseal.livekit`. `sent` and `received` are what its whole frames were and became."""

    def __init__(self, room: Room, changes: list, sent: list, received: list) -> None:
        self.room, self.changes, self.sent, self.received = room, changes, sent, received
        self.sinks: dict[tuple[str, str], Sink] = {}
        self.sizes: list[tuple[int, int]] = []  # of the pictures that were received
        self.events: list[tuple] = []
        for event in EVENTS:
            room.on(event, partial(self._note, event))

    def _note(self, event: str, value) -> None:
        self.events.append((event, value))
        if event == "track":
            self._open(value)

    def _open(self, track: RemoteTrack) -> None:
        recv = track.media.recv

        async def measured():
            frame = await recv()
            if track.kind == "video":
                self.sizes.append((frame.width, frame.height))
            return frame

        track.media.recv = measured
        self.sinks[track.participant.identity, track.kind] = Sink(track.media)

    async def publish(self, codec: str = "vp8", *, hertz: float = HERTZ["frameseal"], colour: str = "red"):
        """Publish a tone and pictures."""
        voice = await self.room.publish(tone_track("aiortc", hertz))
        return voice, await self.room.publish(picture_track("aiortc", colour), codec=codec)

    async def hears(self, identity: str, hertz: float = HERTZ["browser"]) -> None:
        """Wait until a participant is heard from now on with this tone."""
        await self._has(identity, "audio", lambda sink: plays(sink, hertz))

    async def sees(self, identity: str, colour: str = "blue") -> None:
        """Wait until the pictures of a participant are received from now on."""
        await self._has(identity, "video", lambda sink: shows(sink, colour))

    async def _has(self, identity: str, kind: str, holds) -> None:
        if (sink := self.sinks.get((identity, kind))) is not None:
            sink.clear()
        await until(lambda: (identity, kind) in self.sinks and holds(self.sinks[identity, kind]), PATIENCE)

    @property
    def states(self) -> set[tuple[str, E2EEState]]:
        """Every state that frameseal has reported: (participant, state)."""
        return {(change.participant_id, change.state) for _, change in self.changes}

    def state(self, identity: str, kind: str) -> E2EEState | None:
        """The state of a participant's track."""
        return self.room.e2ee.state(identity, kind)

    @property
    def sealed_here(self) -> list[bytes]:
        return [sealed for _, sealed in self.sent if sealed]

    @property
    def sealed_there(self) -> list[bytes]:
        return [sealed for sealed, _ in self.received if sealed]

    @property
    def unopened(self) -> list[bytes]:
        """The frames that did not open, without the blank ones of the server, which end with its trailer."""
        trailer = self.room.e2ee.sif_trailer
        return [sealed for sealed, opened in self.received if not opened and not sealed.endswith(trailer)]

    async def ask_for(self, quality: str, *, of: str) -> None:
        """Ask the server for a layer of a participant's pictures: "LOW" or "HIGH"."""
        sids = [track.sid for track in self.room.participants[of].tracks.values() if track.kind == "video"]
        wish = rtc.UpdateTrackSettings(track_sids=sids, quality=models.VideoQuality.Value(quality))
        await self.room._visit._signalling.request(track_setting=wish)

    async def lose_the_server(self) -> None:
        """Close the web socket, as if the network had failed."""
        await self.room._visit._signalling._socket.close()

    @property
    def messages(self) -> list[tuple[str, bytes, str]]:
        """The data messages that have opened: (participant, payload, topic)."""
        found = [value for _, value in self.events if isinstance(value, DataMessage)]
        return [(message.participant_id, message.payload, message.topic) for message in found]

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@contextlib.asynccontextmanager
async def member(server, identity: str, room: str, e2ee: E2EEManager):
    """Be in a room on `frameseal.livekit`."""
    changes, sent, received = record(e2ee), [], []
    sender, receiver = e2ee.sender_transform, e2ee.receiver_transform
    e2ee.sender_transform = lambda *args, **options: Noted(sender(*args, **options), partial(_note, sent))
    e2ee.receiver_transform = lambda *args, **options: Received(receiver(*args, **options), partial(_note, received))
    async with join(server.url, server.token(identity, room), e2ee, ice_servers=()) as joined:
        yield Member(joined, changes, sent, received)


def _note(record: list, frame: bytes, became: bytes | None) -> None:
    record.append((frame, became))


async def meet(ours: Member, browser: Browser) -> None:
    """Wait until each side sees and hears what the other one sends from now on."""
    await ours.sees(browser.identity)
    await ours.hears(browser.identity)
    await browser.sees(ours.room.identity)
    await browser.hears(ours.room.identity)


async def talk(ours: Member, browser: Browser, *, reliable: bool = True) -> None:
    """Send a message each way, and wait until the other side has it, once and from the right sender."""
    topic, theirs = f"topic {len(ours.messages)}", browser.identity
    await browser.send(b"from the browser", topic, reliable=reliable)
    await ours.room.send(b"from frameseal", topic=topic, reliable=reliable)
    await until(lambda: ours.messages[-1:] == [(theirs, b"from the browser", topic)], PATIENCE)
    await until(lambda: browser.messages[-1:] == [(ours.room.identity, b"from frameseal", topic, GCM)], PATIENCE)
    assert len(ours.messages) == len(browser.messages) == len(set(ours.messages))


def opens(frame: bytes, ring=None) -> bool:
    """Whether a frame of sound or of pictures was sealed with the key of a ring, by default the passphrase."""
    for codec in ("opus", "vp8", "h264"):
        with contextlib.suppress(FrameError):
            Decryptor(ring or key_ring(), codec).decrypt(frame)
            return True
    return False


@contextlib.contextmanager
def lossy(share: float):
    """Lose this share of the RTP packets that aiortc sends and receives. Yields their numbers, by direction."""
    seeded, lost = Random(1), {"sent": 0, "received": 0}
    send, receive = RTCDtlsTransport._send_rtp, RTCDtlsTransport._handle_rtp_data

    def loses(direction: str) -> bool:
        is_lost = seeded.random() < share
        lost[direction] += is_lost
        return is_lost

    async def sent(this, data: bytes) -> None:
        if is_rtcp(data) or not loses("sent"):
            await send(this, data)

    async def received(this, data: bytes, arrival_time_ms: int) -> None:
        if not loses("received"):
            await receive(this, data, arrival_time_ms=arrival_time_ms)

    RTCDtlsTransport._send_rtp, RTCDtlsTransport._handle_rtp_data = sent, received
    try:
        yield lost
    finally:
        RTCDtlsTransport._send_rtp, RTCDtlsTransport._handle_rtp_data = send, receive
