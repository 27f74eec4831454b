"""The table of profiles: the core's row for each vendor. No other module compares the name of a vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from frameseal._native import profile_info
from frameseal.enums import Profile

if TYPE_CHECKING:
    from frameseal._native import ProfileInfo

__all__ = ["PROFILES", "is_sframe", "layout", "media_metadata"]

PROFILES: Final[dict[Profile, ProfileInfo]] = {profile: profile_info(profile) for profile in Profile}


def layout(profile: str) -> str:
    """Return the layout of a profile's frames: "trailer", "footer" or "sframe".

    :raises ValueError: the profile is unknown.
    """
    info = PROFILES.get(cast("Profile", profile))
    if info is None:
        raise ValueError(f"unknown profile: expected one of {', '.join(PROFILES)}")
    return info["layout"]


def is_sframe(profile: str) -> bool:
    """Return True if the frames of a profile are SFrames. Its keys then have 64-bit KIDs, and counters.

    :raises ValueError: the profile is unknown.
    """
    return layout(profile) == "sframe"


def media_metadata(kind: str, codec: str | None) -> bytes:
    """Return the metadata with which ``bind_media`` authenticates an SFrame (RFC 9605, section 4.4.3).

    :param kind: "audio" or "video".
    :param codec: the name of the codec, or None if it is unknown.
    """
    return f"frameseal media v1 {kind}/{codec or ''}".encode()
