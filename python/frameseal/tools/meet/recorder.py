"""Records the meeting on the forwarder's side, which has no key: one connection for each publisher."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiortc import RTCConfiguration, RTCPeerConnection

from frameseal.tools.closing import close_fully
from frameseal.tools.meet.room import Stream
from frameseal.tools.recording.keyless import KeylessRecording, distinct_name

NAME: Final = "recorder"  # of its connections at the forwarders
RETRY: Final = 1.0  # seconds until a lost connection is made again

_logger = logging.getLogger("frameseal.tools.meet")


class MeetingRecorder:
    """Receives every publisher of a room, and writes the sealed frames into one recording."""

    def __init__(self, recording: KeylessRecording) -> None:
        """Write into *recording*, which was started."""
        self._recording = recording
        self._names: dict[str, str] = {}  # by the ids of those who are present

    async def follow(self, member_id: str, name: str, stream: Stream) -> None:
        """Record a publisher until the task is cancelled, over one connection after the other."""
        shown = self._names[member_id] = distinct_name(name, member_id, set(self._names.values()))
        try:
            while True:
                try:
                    await self._receive(shown, stream)
                except Exception as error:  # SDP from outside may raise any exception, and concerns one publisher
                    _logger.warning("%s is not recorded now: %s", member_id, type(error).__name__)
                self._recording.interrupted(shown)
                await asyncio.sleep(RETRY)
        finally:
            del self._names[member_id]

    async def _receive(self, participant: str, stream: Stream) -> None:
        """Record a publisher until the connection ends."""
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._recording.attach(pc, participant)
        ended = asyncio.Event()

        def changed() -> None:
            if pc.connectionState in ("failed", "closed"):
                ended.set()

        pc.on("connectionstatechange", changed)
        try:
            await stream.connect_subscriber(pc, NAME)
            await ended.wait()
        finally:
            try:
                await close_fully(stream.disconnect_subscriber(NAME))
            finally:
                await close_fully(pc.close())
