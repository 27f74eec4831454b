"""A LiveKit room over aiortc, end-to-end encrypted: `join`. It needs aiohttp and livekit-protocol, and no native SDK.

It has as much of LiveKit's signalling as an agent, a recorder or a gateway needs. Two connections, as in LiveKit's
protocol 3: the server offers the received media, and this side offers the sent media. See docs/livekit.md.
"""

from __future__ import annotations

from frameseal.livekit.data import DataMessage, DataRefused
from frameseal.livekit.errors import NotAdmitted, RoomError
from frameseal.livekit.participants import Participant, RemoteTrack
from frameseal.livekit.publications import Publication
from frameseal.livekit.room import Room, join
from frameseal.livekit.signalling import Token

__all__ = ["DataMessage", "DataRefused", "NotAdmitted", "Participant", "Publication", "RemoteTrack", "Room"]
__all__ += ["RoomError", "Token", "join"]
