"""The tracks that this side publishes in a LiveKit room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.mediastreams import MediaStreamError
from livekit.protocol import rtc

from frameseal.codecs import CODECS

__all__ = ["DEFAULT_CODECS", "Publication", "Publications", "forwarded_codecs"]

H264_PROFILE: Final = "42e01f"  # constrained baseline, the only profile that the server answers with
DEFAULT_CODECS: Final = dict(audio="opus", video="vp8")


@dataclass(eq=False)
class Publication:
    """A track that this side publishes. `Room.publish` makes it, and it outlives reconnections."""

    source: MediaStreamTrack
    """The track whose frames are published."""
    codec: str
    """The codec, such as "opus"."""
    name: str
    """The name of the track."""
    sid: str = ""
    """The server's id of the track. It changes when the room is joined anew, and is empty until the server answers."""
    muted: bool = False
    """True while no media is sent. `Room.mute` changes it."""
    outgoing: Outgoing | None = field(default=None, init=False, repr=False)
    """The track of the present connection. It has ended when the source is not published any more."""


class Outgoing(MediaStreamTrack):
    """Passes the frames of a publication's source on, and discards them while it is muted.

    A sender of aiortc stops its track when it stops. The source belongs to the application, and stays.
    """

    def __init__(self, publication: Publication) -> None:
        super().__init__()
        self.kind = publication.source.kind
        self._publication = publication

    async def recv(self) -> Any:
        """Return the next frame that is to be sent."""
        while self.readyState == "live":
            frame = await self._publication.source.recv()
            if not self._publication.muted:
                return frame
        raise MediaStreamError


class Publications(list[Publication]):
    """The tracks that this side publishes.

    :param deliver: delivers an event of the room.
    """

    def __init__(self, deliver: Callable[[str, object], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def mute_on_request(self, request: rtc.MuteTrackRequest) -> None:
        """Mute a track as the server asks. It cannot unmute: this side alone decides when it is heard."""
        for publication in self:
            if publication.sid == request.sid and request.muted and not publication.muted:
                publication.muted = True
                self._deliver("publication-muted", publication)


def forwarded_codecs(kind: str, codec: str) -> list[Any]:
    """Return the codecs that aiortc sends and the server forwards, *codec* first. Returns none if *codec* is not one.

    All are offered for each track: the server accepts for later tracks only the codecs of the first offer.
    """
    capabilities = RTCRtpSender.getCapabilities(kind)
    forwarded = {
        each.mimeType.lower(): each
        for each in (capabilities.codecs if capabilities is not None else ())
        if each.parameters.get("profile-level-id", H264_PROFILE) == H264_PROFILE
        and (row := CODECS.get(each.mimeType.lower().partition("/")[2])) is not None
        and row.is_encoded_by_stack
    }
    wanted = forwarded.pop(f"{kind}/{codec.lower()}", None)
    return [] if wanted is None else [wanted, *forwarded.values()]
