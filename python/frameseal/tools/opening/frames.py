"""One frame of a recording after opening: the only thing that the rest of this room knows of an archive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class OpenedFrame:
    """A row of a recording whose frame was opened, or the reason why it was not."""

    participant: str
    track: str
    kind: str
    """"audio" or "video"."""
    codec: str
    """A name of `frameseal.codecs.CODECS`, or a name that this version does not know."""
    ssrc: int
    """The RTP stream (RFC 3550, section 3). Its change means that `rtp_timestamp` may jump."""
    clock_rate: int
    """Ticks of `rtp_timestamp` in a second."""
    rtp_timestamp: int
    """The sender's clock, unwrapped."""
    arrival: datetime
    """The time on the recorder's clock at which the frame was whole, in UTC."""
    key_id: int | None
    """The key id that the sealed frame names. None means that the frame names no key id."""
    gap: bool
    """True if frames of the track are missing before this frame."""
    frame: bytes | None
    """The opened frame. None means that the frame did not open."""
    reason: str | None = None
    """Why the frame did not open. None means that it did."""
