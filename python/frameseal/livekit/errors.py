"""The errors of a LiveKit room."""

from __future__ import annotations

__all__ = ["NotAdmitted", "RoomError"]


class RoomError(ConnectionError):
    """The server cannot be reached, does not answer, or ended the connection."""


class NotAdmitted(RoomError):
    """The server does not admit this token to the room. Joining again with the same token fails too."""
