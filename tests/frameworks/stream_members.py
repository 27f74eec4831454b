"""Participants of Stream's calls with the real getstream, beside a server that takes the place of Stream's."""

import contextlib
import time
from types import SimpleNamespace

import ping3
from getstream import AsyncStream
from getstream.video import rtc
from getstream.video.rtc import signaling
from getstream.video.rtc.coordinator.ws import StreamAPIWS
from getstream.video.rtc.pb.stream.video.sfu.models.models_pb2 import TRACK_TYPE_AUDIO, TRACK_TYPE_VIDEO
from getstream.video.rtc.tracks import SubscriptionConfig, TrackSubscriptionConfig

from frameseal import E2EEManager, KeyProvider
from frameseal.getstream import attach
from frameworks.stream_server import StreamServer
from support.calls import Sink, picture_track, tone_track, until

SECRET = "0123456789abcdef0123456789abcdef"
KEYS = {"alice": bytes(range(16)), "bob": bytes(range(16, 32)), "agent": bytes(range(32, 48))}
WRONG = bytes(16)
EVERYTHING = SubscriptionConfig(TrackSubscriptionConfig([TRACK_TYPE_AUDIO, TRACK_TYPE_VIDEO]))


def use(server: StreamServer, monkeypatch) -> None:
    """Let the SDK use the server, also where it has fixed addresses."""
    monkeypatch.setitem(StreamAPIWS.__init__.__kwdefaults__, "uri", server.url.replace("http", "ws") + "/coordinator")
    # Its thread for health checks sleeps 10 s, and blocks the loop for 2 s when it is ended.
    monkeypatch.setattr(signaling, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(0.1)))
    # Its monitor sends pings to addresses in the internet.
    monkeypatch.setattr(ping3, "ping", lambda *args, **options: 0.001)
    # A thread of it reports a lost socket, and then notes that the socket is closed. If the loss is handled in between,
    # it takes the socket for healthy and only restarts ICE.
    handle_loss = rtc.ConnectionManager._on_signaling_connection_lost

    async def handle_loss_after_the_close(connection: rtc.ConnectionManager, reason: str) -> None:
        await until(lambda: not (connection.ws_client and connection.ws_client.running))
        await handle_loss(connection, reason)

    monkeypatch.setattr(rtc.ConnectionManager, "_on_signaling_connection_lost", handle_loss_after_the_close)


def encryption(keys: dict[str, bytes], key_id: int = 0) -> E2EEManager:
    """Return a manager with a key for each participant."""
    provider = KeyProvider(key_ring_size=256)
    for name, key in keys.items():
        provider.set_key(name, key, key_id)
    return E2EEManager(provider, "stream")


class Member:
    """A participant. *e2ee* is None for a connection that the test attaches otherwise, or not at all."""

    def __init__(self, server: StreamServer, user_id: str, e2ee: E2EEManager | None, **options: bool) -> None:
        self.server, self.user_id, self.e2ee = server, user_id, e2ee
        self.sinks: list[tuple[str | None, Sink]] = []
        self.client = AsyncStream(api_key="key", api_secret=SECRET, base_url=server.url)
        self.connection = rtc.ConnectionManager(
            self.client.video.call("default", "call"), user_id, subscription_config=EVERYTHING
        )
        self.attachment = None if e2ee is None else attach(self.connection, e2ee, **options)
        self.connection.on("track_added", self._on_track)
        self.tracks: list = []

    def _on_track(self, track_id: str, kind: str, user) -> None:
        track = self.connection.subscriber_pc.add_track_subscriber(track_id)
        self.sinks.append((user.user_id if user else None, Sink(track)))

    async def publish(self, audio=None, video=None) -> None:
        self.tracks += [track for track in (audio, video) if track is not None]
        await self.connection.add_tracks(audio=audio, video=video)

    def sink(self, user_id: str | None, kind: str) -> Sink | None:
        """Return the latest sink of a user's track. None means that there is none."""
        found = [sink for name, sink in self.sinks if name == user_id and sink.track.kind == kind]
        return found[-1] if found else None

    @property
    def heard(self) -> bool:
        return any(not sink.empty for _, sink in self.sinks)


@contextlib.asynccontextmanager
async def member(server: StreamServer, user_id: str, e2ee: E2EEManager | None, **options: bool):
    """Join the call, and leave it at the end."""
    made = Member(server, user_id, e2ee, **options)
    try:
        async with made.connection:
            yield made
    finally:
        for track in made.tracks:
            track.stop()
        await made.client.aclose()


def tone(hertz: float = 450):
    """Return a tone whose frames are all alike: of a track that it publishes again, the SDK drops every other frame."""
    assert hertz * 0.02 % 1 == 0
    return tone_track("aiortc", hertz)


def pictures(colour: str = "red"):
    return picture_track("aiortc", colour)
