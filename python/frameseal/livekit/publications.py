"""The tracks that this side publishes in a LiveKit room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiortc import MediaStreamTrack, RTCRtpSender, RTCRtpTransceiver
from livekit.protocol import rtc

__all__ = ["DEFAULT_CODECS", "Outgoing", "Publication", "Publications", "forwarded_codecs"]

H264_PROFILE: Final = "42e01f"  # constrained baseline, the only profile that the server answers with
DEFAULT_CODECS: Final = dict(audio="opus", video="vp8")


class Outgoing(MediaStreamTrack):
    """Passes the frames of *source* on, and discards them while it is muted. The server knows the track by its id."""

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self.kind = source.kind
        self.muted = False
        self._source = source

    async def recv(self) -> Any:
        """Return the next frame that is to be sent."""
        while True:
            frame = await self._source.recv()
            if not self.muted:
                return frame


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
    """The server's id of the track. It changes when the room is joined anew."""
    muted: bool = False
    """True while no media is sent."""
    outgoing: Outgoing | None = field(default=None, repr=False)
    """The track of the present connection."""
    transceiver: RTCRtpTransceiver | None = field(default=None, repr=False)
    """The transceiver of the present connection."""


class Publications:
    """The tracks that this side publishes. They outlive reconnections."""

    def __init__(self, deliver: Callable[[str, object], None]) -> None:
        self.present: Final[list[Publication]] = []
        self._deliver = deliver

    def mute_on_request(self, request: rtc.MuteTrackRequest) -> None:
        """Mute a track as the server asks. It cannot unmute: this side alone decides when it is heard."""
        for publication in self.present:
            if publication.sid == request.sid and request.muted and not publication.muted:
                publication.muted = True
                if publication.outgoing is not None:
                    publication.outgoing.muted = True
                self._deliver("publication-muted", publication)


def forwarded_codecs(kind: str, codec: str) -> list[Any]:
    """Return the forms of the codec that aiortc sends and the server forwards."""
    capabilities = RTCRtpSender.getCapabilities(kind)
    return [
        each
        for each in (capabilities.codecs if capabilities is not None else ())
        if each.mimeType.lower() == f"{kind}/{codec.lower()}"
        and each.parameters.get("profile-level-id", H264_PROFILE) == H264_PROFILE
    ]
