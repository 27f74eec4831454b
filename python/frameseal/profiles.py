"""The table of profiles: what the core knows of each vendor. No other module compares the name of a vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from frameseal._native import profile_info
from frameseal.enums import Profile

if TYPE_CHECKING:
    from frameseal._native import ProfileInfo

__all__ = ["PROFILES", "is_sframe"]

PROFILES: Final[dict[Profile, ProfileInfo]] = {profile: profile_info(profile) for profile in Profile}


def is_sframe(profile: str) -> bool:
    """Whether the frames of a profile are SFrames; its keys then have KIDs of 64 bits, and counters.

    :raises ValueError: for an unknown profile.
    """
    info = PROFILES.get(cast("Profile", profile))
    if info is None:
        raise ValueError(f"unknown profile: expected one of {', '.join(PROFILES)}")
    return info["layout"] == "sframe"
