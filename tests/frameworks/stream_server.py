"""Takes the place of Stream's servers, without a key: the coordinator, an SFU's signalling, and the SFU itself.

It speaks what getstream 4 speaks: the coordinator's REST calls and web socket, the SFU's events over a web socket, its
calls over Twirp, and media over ICE, DTLS and SRTP. It runs on a loop of its own in a thread of its own, because the
SDK blocks its loop when it closes a web socket. Media are forwarded as they are, and every packet that arrives is
recorded.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import WSMsgType, web
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.rtp import RTCP_PSFB_PLI, HeaderExtensionsMap, RtcpPsfbPacket, RtpPacket
from aiortc.sdp import SessionDescription
from getstream.video.rtc.pb.stream.video.sfu.event import events_pb2 as events
from getstream.video.rtc.pb.stream.video.sfu.models import models_pb2 as models
from getstream.video.rtc.pb.stream.video.sfu.signal_rpc import signal_pb2 as signal

from frameseal import Decryptor, FrameError, KeyRing
from frameseal.tools.sfu.leg import Impairment, Leg, LegStats, Outlet, ignore_disconnect
from frameworks.client import CODEC_OF, frames, in_order

TWIRP = "/twirp/stream.video.sfu.signal.SignalServer/"
CHECKS = 20  # health checks after which an unanswered offer is repeated: 2 s
WAIT = 20.0  # seconds, which detect a broken call and measure nothing

_numbers = count(1)


@dataclass(eq=False)
class Published:
    """One track that a participant publishes, and all of its packets that have arrived."""

    session: "Session"
    type: int
    kind: str
    ssrc: int
    codec: Any
    track_id: str
    packets: list[RtpPacket] = field(default_factory=list)
    repeated: list[bytes] = field(default_factory=list)

    def frames(self) -> list[bytes]:
        """Return the whole frames that have arrived."""
        packets: dict[int, RtpPacket] = {}
        for packet in list(self.packets):
            packets.setdefault(packet.sequence_number, packet)
        return frames(in_order(packets), self.codec) if packets else []

    def read(self, key: bytes, key_id: int = 0) -> tuple[int, list[bytes]]:
        """Return how many frames a key has opened, and the frames that it has not: plain ones, or of another key."""
        ring = KeyRing("stream")
        ring.set_key(key, key_id=key_id)
        decryptor = Decryptor(ring, codec=self.codec.name.lower(), replay_window=0)
        opened, unopened = 0, []
        for frame in self.frames():
            try:
                decryptor.decrypt(frame)
                opened += 1
            except FrameError:
                unopened.append(frame)
        sent = {packet.payload for packet in self.packets}
        assert all(payload in sent for payload in list(self.repeated)), "a retransmission of a packet that was not seen"
        return opened, unopened


@dataclass(eq=False)
class Session:
    """One participant's session at the SFU, with its web socket and its two connections."""

    id: str
    user_id: str
    ws: web.WebSocketResponse
    prefix: str = field(default_factory=lambda: f"prefix{next(_numbers)}")
    publisher: RTCPeerConnection | None = None
    subscriber: RTCPeerConnection | None = None
    leg: Leg | None = None
    published: dict[str, Published] = field(default_factory=dict)  # by mid
    wanted: set[tuple[str, str, int]] = field(default_factory=set)
    offered: set[Published] = field(default_factory=set)
    answer: "asyncio.Future[str] | None" = None
    checks: int = 0
    negotiating: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check_offer(self) -> None:
        """Repeat an offer that has waited long: the SDK listens to offers a moment after it has joined."""
        self.checks += 1
        if self.answer is not None and not self.answer.done() and self.checks % CHECKS == 0:
            await self.send_offer()

    async def send_offer(self) -> None:
        sdp = self.subscriber.localDescription.sdp
        await self.send(subscriber_offer=events.SubscriberOffer(sdp=sdp))

    async def send(self, **event: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await self.ws.send_bytes(events.SfuEvent(**event).SerializeToString())


class StreamServer:
    """The servers, while the context is open. Other threads read its records, and call `run`."""

    def __init__(self) -> None:
        self.joins: list[dict[str, Any]] = []
        """The bodies of the coordinator's requests to join."""
        self.tracks: list[Published] = []
        """All tracks that were ever published."""
        self.hidden: set[str] = set()
        """The users whose tracks the SFU does not introduce."""
        self.anonymous_ids = False
        """True if the ids of tracks do not name participants, so that the SDK looks at the ids of streams."""
        self.sessions: dict[str, Session] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stream-server", daemon=True)
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Event | None = None
        self.faults: list[str] = []

    def __enter__(self) -> "StreamServer":
        self._thread.start()
        assert self._ready.wait(WAIT)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        if exc[0] is None:
            assert self.faults == []

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of the server on the server's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def of(self, user_id: str, kind: str, *, after: int = 0) -> Published | None:
        """Return the latest track of a user, not counting the first *after* tracks. None means that there is none."""
        found = [each for each in self.tracks[after:] if each.session.user_id == user_id and each.kind == kind]
        return found[-1] if found else None

    async def drop_sockets(self, user_id: str) -> None:
        """Close the SFU's web sockets of a user.

        After another close code the SDK may act before it regards the socket as closed, and restart ICE only.
        """
        for session in [each for each in self.sessions.values() if each.user_id == user_id]:
            await session.ws.close(code=1000)

    async def introduce(self, user_id: str) -> None:
        """Tell everybody whose tracks those of a hidden user are."""
        self.hidden.discard(user_id)
        for session in [each for each in self.sessions.values() if each.user_id == user_id]:
            await self._tell(session, participant_joined=self._joined(session))

    async def end(self, user_id: str) -> None:
        """Let a user leave."""
        for session in [each for each in self.sessions.values() if each.user_id == user_id]:
            participant = self._participant(session)
            await self._remove(session)
            left = events.ParticipantLeft(call_cid="default:call", participant=participant)
            await self._tell(session, participant_left=left)

    # --- the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: self.faults.append(repr(context)))
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        app = web.Application()
        app.router.add_post("/api/v2/video/call/{type}/{id}/join", self._join)
        app.router.add_post(TWIRP + "{method}", self._twirp)
        app.router.add_get("/coordinator", self._coordinator)
        app.router.add_get("/sfu", self._sfu)
        app.router.add_route("*", "/api/{rest:.*}", self._rest)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = site._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        self._ready.set()
        await self._closing.wait()
        for session in list(self.sessions.values()):
            await self._remove(session)
        for task in self._tasks:
            task.cancel()
        await runner.cleanup()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)

        def done(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.faults.append(repr(task.exception()))

        task.add_done_callback(done)

    # --- the coordinator

    async def _join(self, request: web.Request) -> web.Response:
        self.joins.append(await request.json())
        claims = request.headers["Authorization"].split(".")[1]
        user_id = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["user_id"]
        server = {
            "edge_name": "edge",
            "url": f"{self.url}/twirp",
            "ws_endpoint": f"{self.url.replace('http', 'ws')}/sfu",
        }
        credentials = {"server": server, "token": user_id, "ice_servers": []}
        return web.json_response(
            {"duration": "0", "members": [], "stats_options": {}, "credentials": credentials, "call": None}
        )

    async def _rest(self, request: web.Request) -> web.Response:
        """Answer everything else of the coordinator and the chat, which the tests do not look at."""
        body = await request.json() if request.can_read_body else {}
        users = body.get("users", []) if isinstance(body, dict) else []
        known = {each["id"]: {"id": each["id"]} for each in users if isinstance(each, dict)}
        return web.json_response({"duration": "0", "users": known, "call": {"custom": {}}, "channel": {"custom": {}}})

    async def _coordinator(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.send_json({"type": "connection.ok", "connection_id": "connection"})
        async for _ in ws:
            pass
        return ws

    # --- the SFU's events

    async def _sfu(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(decode_text=False)  # the SDK sends bytes in frames of text
        await ws.prepare(request)
        message = await ws.receive()
        if message.type is not WSMsgType.TEXT:
            return ws
        joining = events.SfuRequest.FromString(message.data).join_request
        former = self.sessions.get(joining.session_id)
        if former is not None and joining.fast_reconnect:
            session = former
            session.ws = ws
        else:
            session = self.sessions[joining.session_id] = Session(joining.session_id, joining.token, ws)
            if former is not None:  # it joins again, or migrates
                session.wanted = former.wanted
                self._start(self._close(former))
        state = models.CallState(participants=[self._participant(each) for each in self.sessions.values()])
        await session.send(join_response=events.JoinResponse(call_state=state, fast_reconnect_deadline_seconds=10))
        await self._tell(session, participant_joined=self._joined(session))
        self._start(self._offer(session))
        async for message in ws:
            if events.SfuRequest.FromString(message.data).HasField("health_check_request"):
                await session.send(health_check_response=events.HealthCheckResponse())
                await session.check_offer()
        return ws

    def _participant(self, session: Session) -> models.Participant:
        prefix = "" if session.user_id in self.hidden else session.prefix
        types = [each.type for each in session.published.values()]
        return models.Participant(
            user_id=session.user_id, session_id=session.id, track_lookup_prefix=prefix, published_tracks=types
        )

    def _joined(self, session: Session) -> events.ParticipantJoined:
        return events.ParticipantJoined(call_cid="default:call", participant=self._participant(session))

    async def _tell(self, about: Session, **event: Any) -> None:
        for session in [each for each in self.sessions.values() if each is not about]:
            await session.send(**event)

    # --- the SFU's calls

    async def _twirp(self, request: web.Request) -> web.Response:
        method, data = request.match_info["method"], await request.read()
        answer = await getattr(self, f"_{method.lower()}", self._ignore)(data)
        return web.Response(body=answer.SerializeToString(), content_type="application/protobuf")

    async def _ignore(self, data: bytes) -> Any:
        return signal.SendStatsResponse()

    async def _setpublisher(self, data: bytes) -> Any:
        asked = signal.SetPublisherRequest.FromString(data)
        session = self.sessions[asked.session_id]
        if session.publisher is None:
            session.publisher = connection()
        pc = session.publisher
        await pc.setRemoteDescription(RTCSessionDescription(asked.sdp, "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        offered, answered = (SessionDescription.parse(sdp).media for sdp in (asked.sdp, pc.localDescription.sdp))
        extensions = HeaderExtensionsMap()
        new = []
        for theirs, ours in zip(offered, answered, strict=True):
            extensions.configure(ours.rtp)
            if ours.rtp.muxId not in session.published and theirs.ssrc:
                new.append(self._publish(session, theirs, ours))
        transport = pc.getTransceivers()[0].receiver.transport

        async def arrived(data: bytes, arrival_time_ms: int) -> None:
            await self._forward(session, RtpPacket.parse(data, extensions))

        transport._handle_rtp_data = arrived
        for published in new:
            self.tracks.append(published)
            told = events.TrackPublished(
                user_id=session.user_id,
                session_id=session.id,
                type=published.type,
                participant=self._participant(session),
            )
            await self._tell(session, track_published=told)
        for other in self.sessions.values():  # the SDK asks once for a track, and not again for one that is renewed
            self._start(self._offer(other))
        return signal.SetPublisherResponse(sdp=pc.localDescription.sdp, session_id=session.id)

    def _publish(self, session: Session, offered: Any, answered: Any) -> Published:
        type_ = models.TRACK_TYPE_AUDIO if offered.kind == "audio" else models.TRACK_TYPE_VIDEO
        number, name = next(_numbers), models.TrackType.Name(type_)
        made = session.published[answered.rtp.muxId] = Published(
            session,
            type_,
            offered.kind,
            offered.ssrc[0].ssrc,
            next(codec for codec in answered.rtp.codecs if codec.name.lower() != "rtx"),
            f"anonymous{number}" if self.anonymous_ids else f"{session.prefix}:{name}:{number}",
        )
        return made

    async def _updatesubscriptions(self, data: bytes) -> Any:
        asked = signal.UpdateSubscriptionsRequest.FromString(data)
        session = self.sessions[asked.session_id]
        session.wanted = {(each.user_id, each.session_id, each.track_type) for each in asked.tracks}
        self._start(self._offer(session))
        return signal.UpdateSubscriptionsResponse()

    async def _sendanswer(self, data: bytes) -> Any:
        asked = signal.SendAnswerRequest.FromString(data)
        waiting = self.sessions[asked.session_id].answer
        if waiting is not None and not waiting.done():
            waiting.set_result(asked.sdp)
        return signal.SendAnswerResponse()

    # --- the media

    async def _offer(self, session: Session) -> None:
        """Offer a participant what they subscribe to, and wait until it is connected."""
        async with session.negotiating:
            new = [published for published in self.tracks if self._is_due(published, session)]
            if not new or self.sessions.get(session.id) is not session:
                return
            if session.subscriber is None:
                pc = session.subscriber = connection()
                session.leg = Leg(pc, Impairment(0, 0, "", LegStats()), LegStats(), self._request_keyframes)
            pc, leg, added = session.subscriber, session.leg, []
            for published in new:
                session.offered.add(published)
                transceiver = pc.addTransceiver(published.kind, direction="sendonly")
                transceiver.setCodecPreferences(same(published))
                transceiver.sender._stream_id = f"{published.session.prefix}:{models.TrackType.Name(published.type)}"
                transceiver.sender._track_id = published.track_id
                added.append((published, transceiver))
            await pc.setLocalDescription(await pc.createOffer())
            session.answer = asyncio.get_running_loop().create_future()
            await session.send_offer()
            answer = await asyncio.wait_for(session.answer, WAIT)
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            for published, transceiver in added:
                extensions = HeaderExtensionsMap()
                sections = SessionDescription.parse(answer).media
                extensions.configure(next(each.rtp for each in sections if each.rtp.muxId == transceiver.mid))
                # All ends are of aiortc, which numbers payload types always alike.
                leg.outlets[published.ssrc] = Outlet(
                    published.kind,
                    transceiver.sender._ssrc,
                    transceiver.mid,
                    {published.codec.payloadType: published.codec.payloadType},
                    extensions,
                    awaits_keyframe=published.kind == "video",
                )
            leg.transport = pc.getTransceivers()[0].sender.transport
            leg.transport._handle_rtcp_data = leg.handle_rtcp
            # aiortc starts no track that is negotiated during the DTLS handshake.
            await connected(pc)
            await self._request_keyframes()

    def _is_due(self, published: Published, session: Session) -> bool:
        source = published.session
        wanted = (source.user_id, source.id, published.type) in session.wanted
        return wanted and published not in session.offered and self.sessions.get(source.id) is source

    async def _forward(self, session: Session, packet: RtpPacket) -> None:
        if CODEC_OF[packet.payload_type].name == "rtx":
            for published in session.published.values():
                published.repeated.append(packet.payload[2:])  # after the sequence number of the original packet
            return
        found = next((each for each in session.published.values() if each.ssrc == packet.ssrc), None)
        assert found is not None, "a packet of an SSRC that nobody has published"
        found.packets.append(packet)
        for other in list(self.sessions.values()):
            if found in other.offered and found.ssrc in other.leg.outlets and other.leg.connected:
                await other.leg.forward(packet, found.codec)

    async def _request_keyframes(self) -> None:
        for session in list(self.sessions.values()):
            for published in [each for each in session.published.values() if each.kind == "video"]:
                transport = session.publisher.getTransceivers()[0].receiver.transport
                if transport.state == "connected":
                    pli = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=published.ssrc)
                    await ignore_disconnect(transport._send_rtp(bytes(pli)))

    async def _remove(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        await self._close(session)
        await session.ws.close()

    async def _close(self, session: Session) -> None:
        for pc in (session.publisher, session.subscriber):
            if pc is not None:
                await pc.close()


def connection() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))


def same(published: Published) -> list[Any]:
    """Return the codecs of aiortc that a track's codec is one of."""
    capabilities = RTCRtpSender.getCapabilities(published.kind).codecs
    return [each for each in capabilities if each.mimeType.lower() == published.codec.mimeType.lower()]


async def connected(pc: RTCPeerConnection) -> None:
    settled = asyncio.Event()

    def changed() -> None:
        if pc.connectionState not in {"connecting", "new"}:
            settled.set()

    pc.on("connectionstatechange", changed)
    changed()
    await asyncio.wait_for(settled.wait(), WAIT)
