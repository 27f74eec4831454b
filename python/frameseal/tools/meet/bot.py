"""The Python participant. It holds the key, echoes all voices, and shows whom it can see and hear.

It joins the room as a browser does, over its own connections. Read this file to learn how a Python program joins a
sealed meeting.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, Final

import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import MediaStreamError

from frameseal._secrecy import Confidential
from frameseal.aiortc import attach
from frameseal.e2ee.manager import E2EEManager
from frameseal.enums import Profile
from frameseal.events import E2EEStateChange
from frameseal.keys.provider import ExternalE2EEKeyProvider
from frameseal.tools.closing import close_fully
from frameseal.tools.media import mono
from frameseal.tools.meet.bot_video import BotVideoTrack, Scene, ShownParticipant
from frameseal.tools.meet.echo import Echo, EchoTrack
from frameseal.tools.meet.room import PUBLISH, Message, Room
from frameseal.tools.meet.rotation_message import MeetingKey, RotationOpener, RotationRefused
from frameseal.tools.sfu import PeerConnection

FORGET_AFTER: Final = 10.0  # seconds after a rotation for which the previous key still opens frames
REPORT_INTERVAL: Final = 2.0  # seconds between two reports of the E2EE manager
MAX_ROTATIONS: Final = 16  # maximum number of queued rotations; the room limits their rate


class Bot(Confidential):
    """The room's `Member` in Python."""

    id: Final = "bot"
    name: Final = "Bot"

    def __init__(self, room: Room, key: MeetingKey, codec: str, rotated: Callable[[MeetingKey], None]) -> None:
        """Hold *key*. Must be called on the event loop.

        :param rotated: called with the new key after each rotation.

        The attribute ``code`` is the short code of the keys, for comparison by voice. It is None until it is derived.
        """
        self.tracks = ["audio", "video"]
        self.key = key
        self._room, self._codec, self._rotated = room, codec, rotated
        self.provider = ExternalE2EEKeyProvider(failure_tolerance=10)
        self.provider.set_shared_key(key.passphrase, key.key_id)
        self._e2ee = E2EEManager(self.provider, profile=Profile.LIVEKIT)
        self._e2ee.on("e2ee-state-change", self._changed)
        self.code: str | None = None
        self._derived, self._deriving = True, False
        self._echo = Echo()
        self._published: list[MediaStreamTrack] = []
        self._connections: dict[str, RTCPeerConnection] = {}
        self._pictures: dict[str, Any] = {}
        self._states: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._tasks: set[asyncio.Task[None]] = set()
        # Opens rotations sealed under the current key. None until the first of them arrives.
        self._opener: RotationOpener | None = None
        self._rotations: asyncio.Queue[Message] = asyncio.Queue(MAX_ROTATIONS)
        self._following: asyncio.Task[None] | None = None
        self._reporting = asyncio.ensure_future(self._report())
        self._keys_changed()

    def connection(self, peer: str) -> PeerConnection:
        """Make a connection and attach encryption before it has any track."""
        pc = self._connections[peer] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        attach(pc, self._e2ee, local_id=self.id, remote_id=peer)
        if peer == PUBLISH:
            self._published = [EchoTrack(self._echo), BotVideoTrack(self._scene)]
            for track in self._published:
                pc.addTrack(track)
            prefer_codec(pc, self._codec)
        else:
            pc.on("track", lambda track: self._start(self._attend(peer, track)))
        return pc

    def hang_up(self, peer: str) -> None:
        """Close the connection to *peer*, and discard the state of *peer*."""
        pc = self._connections.pop(peer, None)
        if pc is not None:
            self._start(close_fully(pc.close()))
        self._e2ee.remove_participant(peer)
        self._echo.forget(peer)
        self._pictures.pop(peer, None)
        self._states.pop(peer, None)

    def notify(self, message: Message) -> None:
        """Queue rotations; ignore all other messages, which are for people."""
        if message["type"] != "rotate":
            return
        if self._following is None:
            self._following = asyncio.ensure_future(self._follow())
        with contextlib.suppress(asyncio.QueueFull):
            self._rotations.put_nowait(message)

    @property
    def publishes(self) -> bool:
        """True if the connection over which the bot publishes is connected."""
        pc = self._connections.get(PUBLISH)
        return pc is not None and pc.connectionState == "connected"

    async def close(self) -> None:
        """Leave the room and stop the tracks."""
        await self._room.leave(self.id)
        self._reporting.cancel()
        if self._following is not None:
            self._following.cancel()
        for peer in list(self._connections):
            self.hang_up(peer)
        for track in self._published:
            track.stop()
        _, unfinished = await asyncio.wait(self._tasks, timeout=5) if self._tasks else ((), ())
        for task in unfinished:
            task.cancel()

    async def _follow(self) -> None:
        """Follow queued rotations in order. Keys are derived in a thread."""
        while True:
            message = await self._rotations.get()
            answer = {"type": "rotated", "by": self.id, "from": message["from"], "keyId": None}
            try:
                coming = await asyncio.to_thread(self._open_rotation, base64.b64decode(message["sealed"]))
            except (RotationRefused, ValueError):
                self._room.broadcast(answer)
                continue
            old, self.key = self.key, coming
            self._keys_changed()
            asyncio.get_running_loop().call_later(FORGET_AFTER, self._forget, old)
            self._room.broadcast(answer | {"keyId": coming.key_id})
            self._rotated(coming)

    def _open_rotation(self, sealed: bytes) -> MeetingKey:
        """Open a rotation, set its key and return it. Runs in a thread.

        :raises RotationRefused: *sealed* is not a rotation that follows the current key.
        """
        if self._opener is None:
            self._opener = RotationOpener(self.key)
        coming = self._opener.open(sealed)
        self.provider.set_shared_key(coming.passphrase, coming.key_id)
        self._opener = None  # the next rotation makes an opener for the new key
        return coming

    def _forget(self, old: MeetingKey) -> None:
        if old.key_id != self.key.key_id:
            self.provider.remove_shared_key(old.key_id)
            self._keys_changed()

    def _keys_changed(self) -> None:
        """Clear the code until the code of the current keys is derived. At most one thread derives codes."""
        self.code, self._derived = None, False
        if not self._deriving:
            self._deriving = True
            self._start(self._derive_code())

    async def _derive_code(self) -> None:
        try:
            code = None
            while not self._derived:
                self._derived = True
                code = await asyncio.to_thread(self._e2ee.short_code)
            self.code = code
        finally:
            self._deriving = False

    def _changed(self, change: E2EEStateChange) -> None:
        if change.participant_id != self.id and change.participant_id not in self._connections:
            return  # the participant has left
        self._states[change.participant_id][change.kind] = change.state
        self._room.broadcast(
            {
                "type": "state",
                "by": self.id,
                "participant": change.participant_id,
                "kind": change.kind,
                "state": change.state,
                "direction": change.direction,
                "reason": change.reason,
                "keyId": change.key_id,
            }
        )

    async def _report(self) -> None:
        """Broadcast the report of the E2EE manager at intervals. It contains no key."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            if len(self._room.members) > 1:
                self._room.broadcast({"type": "report", "by": self.id, "report": self._e2ee.report()})

    async def _attend(self, participant: str, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if participant not in self._connections:
                    continue  # the participant has left
                if isinstance(frame, av.VideoFrame):
                    self._pictures[participant] = frame
                elif isinstance(frame, av.AudioFrame):
                    self._echo.hear(participant, mono(frame))

    def _scene(self) -> Scene:
        others = [member for member in self._room.members.values() if member.id != self.id]
        seen = [ShownParticipant(m.name, self._pictures.get(m.id), dict(self._states.get(m.id, {}))) for m in others]
        return Scene(self.key.key_id, self.code, dict(self._states.get(self.id, {})), seen)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def prefer_codec(pc: RTCPeerConnection, codec: str) -> None:
    """Negotiate video with *codec* alone, "vp8" or "h264", and RTX."""
    capabilities = RTCRtpSender.getCapabilities("video")
    wanted = (f"video/{codec}", "video/rtx")
    codecs = [c for c in (capabilities.codecs if capabilities else []) if c.mimeType.lower() in wanted]
    for transceiver in pc.getTransceivers():
        if transceiver.kind == "video":
            transceiver.setCodecPreferences(codecs)
