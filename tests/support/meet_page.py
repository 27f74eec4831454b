"""Simulates the page of `frameseal meet` in Python: the same signalling, with aiortc peers and a separate key."""

import asyncio
import base64
import contextlib
import json

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from frameseal.aiortc import attach
from frameseal.tools.meet.bot import prefer_codec
from frameseal.tools.meet.rotation_message import MeetingKey, next_key, open_rotation, seal_rotation
from support.calls import Sink, manager, picture_track, tone_track


class Page:
    """Participates in a meeting, and records every message on its web socket."""

    def __init__(self, served, passphrase, name="Ada", *, tracks=("audio", "video"), sealed=True, codec="vp8"):
        self.key = MeetingKey(passphrase)
        self.name, self.tracks, self.sealed, self.codec = name, tracks, sealed, codec
        self.e2ee = manager(passphrase, failure_tolerance=10)
        self.id = None
        self.received: list[dict] = []
        self.carried: list[str] = []  # the web socket's messages, in both directions
        self.sinks: dict[tuple[str, str], Sink] = {}
        self.states: dict[tuple[str, str, str], str] = {}  # by observer, participant and kind
        self._served = served
        self.made_by: dict[str, int] = {}  # by peer, the number of the call that made the connection
        self._pcs: dict[str, RTCPeerConnection] = {}
        self._published: list = []
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> "Page":
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(f"{self._served.origin}/signalling")
        self._reading = asyncio.create_task(self._read())
        await self.send({"type": "join", "name": self.name, "tracks": list(self.tracks)})
        return self

    async def __aexit__(self, *exc) -> None:
        await self._socket.close()
        await self._session.close()
        await asyncio.gather(self._reading, *self._tasks, return_exceptions=True)
        await asyncio.gather(*(pc.close() for pc in self._pcs.values()))
        for track in self._published:
            track.stop()

    async def send(self, message: dict) -> None:
        self.carried.append(json.dumps(message))
        await self._socket.send_str(self.carried[-1])

    def set_key(self, key: MeetingKey) -> None:
        self.key = key
        self.e2ee.provider.set_shared_key(key.passphrase, key.key_id)

    async def rotate(self) -> MeetingKey:
        coming = next_key(self.key)
        sealed = base64.b64encode(seal_rotation(self.key, coming)).decode()
        await self.send({"type": "rotate", "sealed": sealed})
        return coming

    def heard(self, kind: str) -> list[dict]:
        return [message for message in self.received if message["type"] == kind]

    def bot_says(self, participant: str | None, state: str) -> bool:
        return all(self.states.get(("bot", participant or self.id, kind)) == state for kind in ("audio", "video"))

    def opens(self, participant: str, kind: str = "video") -> str | None:
        return self.e2ee.state(participant, kind)

    async def _read(self) -> None:
        async for frame in self._socket:
            self.carried.append(frame.data)
            message = json.loads(frame.data)
            self.received.append(message)
            match message["type"]:
                case "welcome":
                    self.id = message["id"]
                case "call":
                    task = asyncio.create_task(self._answer(message))
                    self._tasks.add(task)
                case "state":
                    self.states[message["by"], message["participant"], message["kind"]] = message["state"]
                case "rotate":
                    with contextlib.suppress(Exception):
                        self.set_key(open_rotation(self.key, base64.b64decode(message["sealed"])))

    async def _answer(self, message: dict) -> None:
        peer, method = message["peer"], message["method"]
        if method == "accept":
            await self._pcs[peer].setRemoteDescription(RTCSessionDescription(sdp=message["sdp"], type="answer"))
            await self.send({"type": "reply", "call": message["call"], "sdp": ""})
            return
        call = self.made_by[peer] = message["call"]
        pc = self._pcs[peer] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        if self.sealed:
            attach(pc, self.e2ee, local_id=self.id, remote_id=peer)
        pc.on("track", lambda track: self.sinks.update({(peer, track.kind): Sink(track)}))
        if method == "offer":
            self._publish(pc)
            await pc.setLocalDescription(await pc.createOffer())
        else:
            await pc.setRemoteDescription(RTCSessionDescription(sdp=message["sdp"], type="offer"))
            await pc.setLocalDescription(await pc.createAnswer())

        # Registered before the reply, so that no change is missed.
        @pc.on("connectionstatechange")
        async def changed() -> None:
            with contextlib.suppress(ConnectionError):
                await self.send({"type": "connection", "call": call, "peer": peer, "state": pc.connectionState})

        await self.send({"type": "reply", "call": message["call"], "sdp": pc.localDescription.sdp})

    def _publish(self, pc: RTCPeerConnection) -> None:
        make = {"audio": tone_track, "video": picture_track}
        for kind in self.tracks:
            self._published.append(make[kind]("aiortc"))
            pc.addTrack(self._published[-1])
        prefer_codec(pc, self.codec)
