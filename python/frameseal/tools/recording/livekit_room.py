"""Records a room of a LiveKit server, through `frameseal.livekit` and without a key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from frameseal.livekit import Room, Token, join
from frameseal.tools.recording.keyless import KeylessRecording

__all__ = ["LiveKitRoom"]


class LiveKitRoom:
    """A LiveKit room that is recorded. It subscribes to every track that aiortc can receive.

    :param url: the URL of the server.
    :param token: the token, or a function that returns it for each time that the room is joined.
    :param attempts: maximum number of consecutive attempts to join again.
    :param say: shows a line to the user. Names in it are a stranger's choice.
    """

    def __init__(
        self, url: str, token: Token, recording: KeylessRecording, *, attempts: int, say: Callable[[str], None]
    ) -> None:
        self._arguments = url, token, recording.e2ee
        self._attempts, self._say = attempts, say
        self._cleanup = contextlib.AsyncExitStack()
        self._room: Room | None = None

    @property
    def participants(self) -> int:
        """The number of other participants."""
        return 0 if self._room is None else len(self._room.participants)

    async def join(self) -> None:
        """Join the room.

        :raises RoomError: the server cannot be reached, or does not admit this side.
        """
        self._room = await self._cleanup.enter_async_context(join(*self._arguments, attempts=self._attempts))
        self._room.on("participant-joined", lambda participant: self._say(f"{participant.identity} is recorded."))
        self._room.on("participant-left", lambda participant: self._say(f"{participant.identity} has left."))

    async def leave(self) -> None:
        """Leave the room."""
        await self._cleanup.aclose()

    async def record(self, recording: KeylessRecording) -> str:
        """Record the room, which was joined, until it is gone. Return the reason."""
        room = self._room
        assert room is not None  # noqa: S101 - it was joined

        def interrupted(reason: str) -> None:
            self._say("The connection to the room is lost, joining again.")
            for identity in room.participants:
                recording.interrupted(identity)

        room.on("reconnecting", interrupted)
        return f"the server has ended it ({await room.wait_left()})"
