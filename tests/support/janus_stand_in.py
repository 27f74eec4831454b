"""A simulation of a Janus gateway: sessions over a web socket, one VideoRoom, and a keyless forwarder per publisher."""

import asyncio
import contextlib
from itertools import count

from aiohttp import WSMsgType, web
from aiortc import RTCSessionDescription

from frameseal.tools.sfu import Forwarder
from support.web_server import Background, serving_app

ROOM, PIN, TOKEN = 7, "the pin of the room", "the token of the gateway"


class Subscriber:
    """The connection of a subscriber, as the forwarder sees it: its SDP travels over the web socket."""

    def __init__(self) -> None:
        self.offer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.localDescription: RTCSessionDescription | None = None
        self.connectionState = "connected"  # the forwarder's own end is enough to wait for

    def on(self, event: str, f) -> None:
        pass

    async def createAnswer(self) -> None:
        self.localDescription = RTCSessionDescription(sdp=await self.answer, type="answer")

    async def setLocalDescription(self, description) -> None:
        pass

    async def setRemoteDescription(self, description) -> None:
        self.offer.set_result(description.sdp)


class StandIn:
    """A gateway with one room. `serving` makes it."""

    def __init__(self) -> None:
        self.url = ""
        self.joins: list[dict] = []
        self.messages: list[dict] = []
        self.publishers: dict[int, tuple[dict, Forwarder]] = {}
        self.sockets: list[web.WebSocketResponse] = []
        self.refusing: str | None = None  # the error of the next joins
        self._numbers = count(1)
        self._controls: dict[int, web.WebSocketResponse] = {}
        self._subscribers: dict[int, tuple[Subscriber, Forwarder]] = {}
        self._work = Background()

    async def publish(self, peer, number: int, display: object, **changes) -> None:
        """Connect a publisher, and announce it."""
        forwarder = Forwarder()
        await forwarder.connect_publisher(peer.pc)
        kinds = [transceiver.kind for transceiver in peer.pc.getTransceivers()]
        codecs = {"audio": "opus", "video": "vp8"}
        streams = [{"type": kind, "mid": str(mid), "codec": codecs[kind]} for mid, kind in enumerate(kinds)]
        publisher = {"id": number, "display": display, "streams": streams, **changes}
        self.publishers[number] = publisher, forwarder
        await self.announce(publishers=[publisher])

    async def announce(self, **said) -> None:
        """Send an event of the room to those who have joined it."""
        for handle, socket in self._controls.items():
            if not socket.closed:
                data = {"videoroom": "event", "room": ROOM, **said}
                await socket.send_json({"janus": "event", "sender": handle, "plugindata": {"data": data}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["janus-protocol"])
        await socket.prepare(request)
        self.sockets.append(socket)
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                message = frame.json()
                self.messages.append(message)
                answer = self._answered(socket, message)
                answer = await answer if asyncio.iscoroutine(answer) else answer
                await socket.send_json({"transaction": message["transaction"], **answer})
        return socket

    def _answered(self, socket, message: dict):
        if message.get("token") != TOKEN:
            return {"janus": "error", "error": {"reason": "Unauthorized request"}}
        match message["janus"]:
            case "create" | "attach":
                return {"janus": "success", "data": {"id": next(self._numbers)}}
            case "message":
                return self._plugin(socket, message["handle_id"], message["body"], message.get("jsep"))
            case "trickle":
                self._work.start(socket.send_json({"janus": "webrtcup", "sender": message["handle_id"]}))
        return {"janus": "success"}

    async def _plugin(self, socket, handle: int, body: dict, jsep: dict | None) -> dict:
        data: dict = {"videoroom": "event"}
        more = {}
        match body["request"], body.get("ptype"):
            case "join", "publisher":
                self.joins.append(body)
                if self.refusing or body.get("pin") != PIN:
                    data["error"] = self.refusing or "Unauthorized (wrong pin)"
                else:
                    self._controls[handle] = socket
                    data = {"videoroom": "joined", "private_id": 99}
                    data["publishers"] = [publisher for publisher, _ in self.publishers.values()]
            case "join", "subscriber":
                assert (body["private_id"], body["pin"]) == (99, PIN)
                _, forwarder = self.publishers[body["streams"][0]["feed"]]
                subscriber = Subscriber()
                self._subscribers[handle] = subscriber, forwarder
                self._work.start(forwarder.connect_subscriber(subscriber, f"handle {handle}"))
                more["jsep"] = {"type": "offer", "sdp": await subscriber.offer}
            case "start", _:
                self._subscribers[handle][0].answer.set_result(jsep["sdp"])
        return {"janus": "event", "sender": handle, "plugindata": {"data": data}, **more}

    async def close(self) -> None:
        await self._work.cancel()
        for socket in self.sockets:
            await socket.close()
        for _, forwarder in self.publishers.values():
            await forwarder.close()


@contextlib.asynccontextmanager
async def serving():
    """Serve on loopback."""
    server = StandIn()
    app = web.Application()
    app.router.add_get("/janus", server.handle)
    async with serving_app(app) as address:
        server.url = f"ws://{address}/janus"
        try:
            yield server
        finally:
            await server.close()
