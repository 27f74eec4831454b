"""A simulation of VideoSDK's signalling server.

It answers the requests of the Python SDK ("protoo" over a websocket), and forwards media through the SFU of `sfu.py`.
It has one room with any number of participants. The round trip can be as long as to a distant server.
"""

import asyncio
import contextlib
import json
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlparse

from websockets.asyncio.server import ServerConnection, serve

from support.sfu import CAPABILITIES, Consumed, Endpoint, Produced, request_keyframe

_ids = count(1)


class Peer:
    """The server's state of one participant."""

    def __init__(self, room: "Room", socket: ServerConnection, peer_id: str) -> None:
        self.room, self.socket, self.id = room, socket, peer_id
        self.name = ""
        self.joined = False
        self.endpoints: dict[str, Endpoint] = {}
        self.receiving: Endpoint | None = None
        self.produced: list[Produced] = []

    async def run(self) -> None:
        answering: set[asyncio.Task[None]] = set()
        async for text in self.socket:
            message = json.loads(text)
            if message.get("request"):
                task = asyncio.ensure_future(self._answer(message))
                answering.add(task)
                task.add_done_callback(answering.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(self.room.round_trip)
        self.room.requests.append((self.id, message["method"]))
        handler = getattr(self, f"_{message['method']}", None)
        data = await handler(message["data"]) if handler is not None else {}
        await self._send({"response": True, "id": message["id"], "ok": True, "data": data})
        if message["method"] == "join":
            await self.room.introduce(self)
        elif message["method"] == "produce":
            await self.room.offer(self.produced[-1])

    async def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # the participant has left
            await self.socket.send(json.dumps(message))

    async def request(self, method: str, data: dict[str, Any]) -> None:
        await self._send({"request": True, "id": next(_ids), "method": method, "data": data})

    async def notify(self, method: str, data: dict[str, Any]) -> None:
        await self._send({"notification": True, "method": method, "data": data})

    def forget(self, producers: list[Produced]) -> list[Consumed]:
        """Stop consuming these producers, and return their consumers."""
        known = self.receiving.consumed if self.receiving is not None else {}
        gone = [consumer for consumer in known.values() if consumer.producer in producers]
        for consumer in gone:
            consumer.resumed = False
            del known[consumer.ssrc]
        return gone

    @property
    def introduction(self) -> dict[str, Any]:
        return {"id": self.id, "displayName": self.name, "device": {}, "mode": "SEND_AND_RECV", "metaData": None}

    # --- requests, by their names in the protocol ---

    async def _getRouterRtpCapabilities(self, data: dict[str, Any]) -> dict[str, Any]:
        return CAPABILITIES

    async def _createWebRtcTransport(self, data: dict[str, Any]) -> dict[str, Any]:
        endpoint = Endpoint()
        self.endpoints[endpoint.id] = endpoint
        if data["consuming"]:
            self.receiving = endpoint
        return await endpoint.parameters()

    async def _connectWebRtcTransport(self, data: dict[str, Any]) -> dict[str, Any]:
        self.endpoints[data["transportId"]].connect(data["dtlsParameters"])
        return {}

    async def _join(self, data: dict[str, Any]) -> dict[str, Any]:
        self.name, self.joined = data["displayName"], True
        others = [peer.introduction for peer in self.room.peers.values() if peer is not self and peer.joined]
        return {"peers": others, "messages": []}

    async def _produce(self, data: dict[str, Any]) -> dict[str, Any]:
        endpoint = self.endpoints[data["transportId"]]
        self.produced.append(endpoint.produce(self.id, data["kind"], data["rtpParameters"], data["appData"]))
        return {"id": self.produced[-1].id}

    async def _closeProducer(self, data: dict[str, Any]) -> dict[str, Any]:
        (closed,) = [producer for producer in self.produced if producer.id == data["producerId"]]
        self.produced.remove(closed)
        for other in list(self.room.peers.values()):
            for consumer in other.forget([closed]):
                await other.notify("consumerClosed", {"consumerId": consumer.id})
        return {}

    async def _produceData(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"id": f"data-{next(_ids)}"}

    async def _switchToMeeting(self, data: dict[str, Any]) -> dict[str, Any]:
        # The consumers belong to the meeting that the participant leaves. The server does not report their end.
        for other in list(self.room.peers.values()):
            self.forget(other.produced)
        switched = {"peerId": self.id, "sessionId": "another session", "switchingRoomId": data["meetingId"]}
        await self.notify("entryResponded", switched)
        return {}

    async def _resumeConsumer(self, data: dict[str, Any]) -> dict[str, Any]:
        assert self.receiving is not None
        for consumer in self.receiving.consumed.values():
            if consumer.id == data["consumerId"]:
                consumer.resumed = True
                await request_keyframe(consumer.producer)
        return {}


class Room:
    """The one room of the server. It records all participants and requests."""

    def __init__(self, round_trip: float = 0.0) -> None:
        self.round_trip = round_trip
        self.peers: dict[str, Peer] = {}
        self.all_peers: list[Peer] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    async def enter(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        peer_id = parse_qs(urlparse(socket.request.path).query)["peerId"][0]
        peer = self.peers[peer_id] = Peer(self, socket, peer_id)
        self.all_peers.append(peer)
        try:
            await peer.run()
        finally:
            self.peers.pop(peer_id, None)
            for other in list(self.peers.values()):
                for consumer in other.forget(peer.produced):
                    await other.notify("consumerClosed", {"consumerId": consumer.id})
                await other.notify("peerClosed", {"peerId": peer_id})
            for endpoint in peer.endpoints.values():
                await endpoint.close()

    async def introduce(self, peer: Peer) -> None:
        for other in list(self.peers.values()):
            if other is not peer and other.joined:
                await other.notify("newPeer", peer.introduction)
                await peer.notify("newPeer", other.introduction)
                for producer in other.produced:
                    await self._consume(peer, producer)

    async def offer(self, producer: Produced) -> None:
        for other in list(self.peers.values()):
            if other.id != producer.peer_id and other.joined:
                await self._consume(other, producer)

    async def _consume(self, peer: Peer, producer: Produced) -> None:
        assert peer.receiving is not None, "a participant who has joined has its transports"
        if any(consumer.producer is producer for consumer in peer.receiving.consumed.values()):
            return
        consumer = peer.receiving.consume(producer)
        await peer.request(
            "newConsumer",
            {
                "id": consumer.id,
                "producerId": producer.id,
                "kind": producer.kind,
                "rtpParameters": consumer.rtp_parameters,
                "peerId": producer.peer_id,
                "appData": {**producer.app_data, "peerId": producer.peer_id, "encodings": []},
            },
        )

    def payloads(self, peer_id: str) -> list[bytes]:
        """Return every RTP payload that the server has received from a participant."""
        peers = [peer for peer in self.all_peers if peer.id == peer_id]
        return [payload for peer in peers for endpoint in peer.endpoints.values() for payload in endpoint.payloads]

    async def close(self) -> None:
        for peer in self.all_peers:
            for endpoint in peer.endpoints.values():
                await endpoint.close()


@contextlib.asynccontextmanager
async def videosdk_room(round_trip: float = 0.0):
    """Run a room. Use its `url` as ``signaling_url`` in the SDK's server configuration."""
    room = Room(round_trip)
    async with serve(room.enter, "127.0.0.1", 0, subprotocols=["protoo"]) as server:
        room.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield room
        finally:
            await room.close()
