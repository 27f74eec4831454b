"""aiortc or vsaiortc in a room of a LiveKit server: as much of LiveKit's signalling as test_livekit.py needs.

`frameseal.livekit` is on aiortc alone.

Two connections, as clients of protocol 3 to 15 have them: the server offers what this side receives, and this side
offers what it sends. Each message of the web socket is one protocol buffer.
"""

import asyncio
import contextlib
import json
import uuid

import aiohttp
from livekit.protocol import models, rtc

from frameseal.aiortc import attach
from support.calls import Peer, mime, part, until

PROTOCOL = 3  # the newest in which the server gives each track a line of its own
PATIENCE = 60  # seconds; the limit is for a call that is broken, not a measurement
KINDS = {"audio": models.TrackType.AUDIO, "video": models.TrackType.VIDEO}


class LiveKitRoom:
    """One participant on aiortc. Made by `join`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, joined: rtc.JoinResponse, stack: str) -> None:
        self.joined = joined
        self.publisher, self.subscriber = Peer(stack), Peer(stack)
        self._socket, self._stack = socket, stack
        self._published: dict[str, asyncio.Future] = {}
        self._answer: asyncio.Future | None = None
        self._early: dict[int, list] = {rtc.SignalTarget.PUBLISHER: [], rtc.SignalTarget.SUBSCRIBER: []}

    @property
    def identity(self) -> str:
        return self.joined.participant.identity

    async def publish(self, track, codec: str):
        """Publish a track, sealed; returns its transceiver."""
        cid = str(uuid.uuid4())
        published = self._published[cid] = asyncio.get_running_loop().create_future()
        await self._send(
            add_track=rtc.AddTrackRequest(
                cid=cid,
                name=track.kind,
                type=KINDS[track.kind],
                source=models.TrackSource.CAMERA if track.kind == "video" else models.TrackSource.MICROPHONE,
                width=320,
                height=240,
                disable_red=True,
                encryption=models.Encryption.Type.GCM,
            )
        )
        await asyncio.wait_for(published, PATIENCE)
        track._id = cid  # the server knows the m-line by it
        transceiver = self.publisher.send(track)
        capabilities = part(self._stack).RTCRtpSender.getCapabilities(track.kind).codecs
        transceiver.setCodecPreferences([c for c in capabilities if c.mimeType == mime(codec) and _is_forwarded(c)])
        pc = self.publisher.pc
        await pc.setLocalDescription(await pc.createOffer())
        self._answer = asyncio.get_running_loop().create_future()
        await self._send(offer=rtc.SessionDescription(type="offer", sdp=pc.localDescription.sdp))
        answer = await asyncio.wait_for(self._answer, PATIENCE)
        await self._describe(self.publisher, answer, rtc.SignalTarget.PUBLISHER)
        await until(lambda: pc.connectionState == "connected", PATIENCE)
        return transceiver

    async def run(self) -> None:
        """Answer the server until the socket closes."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            response = rtc.SignalResponse.FromString(message.data)
            match response.WhichOneof("message"):
                case "offer":
                    await self._describe(self.subscriber, response.offer, rtc.SignalTarget.SUBSCRIBER)
                    pc = self.subscriber.pc
                    await pc.setLocalDescription(await pc.createAnswer())
                    await self._send(answer=rtc.SessionDescription(type="answer", sdp=pc.localDescription.sdp))
                case "answer":
                    self._answer.set_result(response.answer)
                case "trickle":
                    await self._take_candidate(response.trickle)
                case "track_published":
                    self._published.pop(response.track_published.cid).set_result(response.track_published.track)

    async def _take_candidate(self, trickle: rtc.TrickleRequest) -> None:
        init = json.loads(trickle.candidateInit)
        if not init["candidate"]:
            return
        candidate = part(self._stack, "sdp").candidate_from_sdp(init["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = init.get("sdpMid"), init.get("sdpMLineIndex")
        self._early[trickle.target].append(candidate)
        peer = self.publisher if trickle.target == rtc.SignalTarget.PUBLISHER else self.subscriber
        if peer.pc.remoteDescription is not None:
            await self._add_candidates(peer, trickle.target)

    async def _describe(self, peer: Peer, description: rtc.SessionDescription, target) -> None:
        made = part(self._stack).RTCSessionDescription(sdp=description.sdp, type=description.type)
        await peer.pc.setRemoteDescription(made)
        await self._add_candidates(peer, target)

    async def _add_candidates(self, peer: Peer, target) -> None:
        while self._early[target]:
            await peer.pc.addIceCandidate(self._early[target].pop(0))

    async def _send(self, **message) -> None:
        await self._socket.send_bytes(rtc.SignalRequest(**message).SerializeToString())


def _is_forwarded(codec) -> bool:
    """Whether the server answers with this form of the codec: of H.264, the constrained baseline profile alone."""
    return codec.parameters.get("profile-level-id", "42e01f") == "42e01f"


@contextlib.asynccontextmanager
async def join(server, identity: str, room: str, e2ee, *, remote_id: str, stack: str = "aiortc"):
    """Be in a room as *identity*, attached to *e2ee*."""
    query = {"access_token": server.token(identity, room), "protocol": PROTOCOL, "auto_subscribe": 1}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/rtc", params=query) as socket,
    ):
        first = await asyncio.wait_for(socket.receive_bytes(), PATIENCE)
        joined = LiveKitRoom(socket, rtc.SignalResponse.FromString(first).join, stack)
        for peer in (joined.publisher, joined.subscriber):
            attach(peer.pc, e2ee, local_id=identity, remote_id=remote_id)
        running = asyncio.ensure_future(joined.run())
        try:
            yield joined
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.gather(joined.publisher.pc.close(), joined.subscriber.pc.close())
