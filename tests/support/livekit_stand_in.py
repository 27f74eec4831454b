"""Stands in for a LiveKit server: its signalling over a web socket, and a keyless forwarder of one published track."""

import asyncio
import contextlib
import re
from itertools import count

from aiohttp import WSMsgType, web
from aiortc import RTCSessionDescription
from livekit.protocol import models, rtc

from frameseal.tools.sfu import Forwarder
from support.web_server import Background, serving_app

TRAILER = bytes(range(44))
TOKENS = {"token of alice": "alice", "token of bob": "bob"}


class Client:
    """One web socket. For the forwarder, it is either of the client's two connections."""

    def __init__(self, server: "StandIn", identity: str, socket: web.WebSocketResponse) -> None:
        self.server, self.identity, self.socket = server, identity, socket
        self.info = models.ParticipantInfo(
            sid=f"PA_{next(server.numbers)}", identity=identity, state=models.ParticipantInfo.State.ACTIVE
        )
        self.requests: list[rtc.SignalRequest] = []
        self.descriptions: asyncio.Queue[RTCSessionDescription] = asyncio.Queue()
        self.localDescription: RTCSessionDescription | None = None
        self.connectionState = "connected"  # the forwarder's own end is enough to wait for

    async def send(self, **message) -> None:
        await self.socket.send_bytes(rtc.SignalResponse(**message).SerializeToString())

    # --- as the forwarder sees it

    def on(self, event: str, f) -> None:
        pass

    async def createOffer(self) -> None:
        self.localDescription = await self.descriptions.get()

    createAnswer = createOffer

    async def setLocalDescription(self, description) -> None:
        pass

    async def setRemoteDescription(self, description) -> None:
        sdp = re.sub(r"(?m)^a=msid:[^\r\n]*", f"a=msid:{self.server.msid}", description.sdp)
        await self.send(**{description.type: rtc.SessionDescription(type=description.type, sdp=sdp)})


class StandIn:
    """A server with one room. `serving` makes it."""

    def __init__(self) -> None:
        self.url = ""
        self.clients: list[Client] = []
        self.packets: list = []
        self.headers: list[dict] = []
        self.queries: list[str] = []
        self.numbers = count(1)
        self.forwarder = Forwarder(on_packet=self.packets.append)
        self.msid = "PA_0 TR_0"
        self.trailer = TRAILER
        self.declares_plain = False  # announces every track as unsealed
        self.tokens = dict(TOKENS)
        self.permission: models.ParticipantPermission | None = None
        self.first: rtc.SignalResponse | None = None  # the first message instead of the answer to the join
        self.refusing = 0  # the status of the answer to a join; 0 admits
        self._work = Background()

    def latest(self, identity: str) -> Client:
        return next(client for client in reversed(self.clients) if client.identity == identity)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        self.queries.append(request.query_string)
        identity = self.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.refusing or identity is None:
            raise _status(self.refusing or 401)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.first is not None:
            await socket.send_bytes(self.first.SerializeToString())
            return socket
        others = [client for client in self.clients if not client.socket.closed and client.identity != identity]
        client = Client(self, identity, socket)
        if self.permission is not None:
            client.info.permission.CopyFrom(self.permission)
        self.clients.append(client)
        joined = rtc.JoinResponse(
            participant=client.info,
            other_participants=[other.info for other in others],
            sif_trailer=self.trailer,
            ping_interval=5,
            ping_timeout=15,
        )
        await client.send(join=joined)
        await self.announce(client)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await self.answer(client, rtc.SignalRequest.FromString(message.data))
        if client is self.latest(identity):
            client.info.state = models.ParticipantInfo.State.DISCONNECTED
            await self.announce(client)
        return socket

    async def announce(self, client: Client) -> None:
        for other in self.clients:
            if not other.socket.closed:
                await other.send(update=rtc.ParticipantUpdate(participants=[client.info]))

    async def answer(self, client: Client, request: rtc.SignalRequest) -> None:
        client.requests.append(request)
        match request.WhichOneof("message"):
            case "ping_req":
                await client.send(pong_resp=rtc.Pong(last_ping_timestamp=request.ping_req.timestamp))
            case "add_track":
                asked = request.add_track
                mime_type = "audio/opus" if asked.type == models.TrackType.AUDIO else "video/VP8"
                none = models.Encryption.Type.NONE
                track = client.info.tracks.add(
                    sid=f"TR_{next(self.numbers)}",
                    type=asked.type,
                    mime_type=mime_type,
                    encryption=none if self.declares_plain else asked.encryption,
                )
                self.msid = f"{client.info.sid} {track.sid}"
                await client.send(track_published=rtc.TrackPublishedResponse(cid=asked.cid, track=track))
            case "offer":
                self._work.start(self.connect_publisher(client))
                client.descriptions.put_nowait(RTCSessionDescription(sdp=request.offer.sdp, type="offer"))
            case "answer":
                client.descriptions.put_nowait(RTCSessionDescription(sdp=request.answer.sdp, type="answer"))
            case "subscription":
                self._work.start(self.forwarder.connect_subscriber(client, client.info.sid))

    async def connect_publisher(self, client: Client) -> None:
        self.forwarder = Forwarder(on_packet=self.packets.append)
        await self.forwarder.connect_publisher(client)
        await self.announce(client)

    async def close(self) -> None:
        await self._work.cancel()
        for client in self.clients:
            await client.socket.close()
        await self.forwarder.close()


def _status(status: int) -> web.HTTPException:
    return {401: web.HTTPUnauthorized, 404: web.HTTPNotFound, 503: web.HTTPServiceUnavailable}[status]()


@contextlib.asynccontextmanager
async def serving():
    """Serve on loopback."""
    server = StandIn()
    app = web.Application()
    app.router.add_get("/rtc", server.handle)
    async with serving_app(app) as address:
        server.url = f"ws://{address}"
        try:
            yield server
        finally:
            await server.close()
