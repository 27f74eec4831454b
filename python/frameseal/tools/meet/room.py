"""The meeting's room: who is there, and one keyless forwarder for each who publishes. No key ever comes here.

Every participant publishes over one connection and receives each other participant over one more, so nothing is ever
renegotiated. The bot takes part like anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from frameseal.tools.meet.janus import Janus, JanusStream
from frameseal.tools.meet.limits import Limits
from frameseal.tools.meet.sfu_view import SfuView
from frameseal.tools.sfu import Forwarder, PeerConnection

MAX_PARTICIPANTS: Final = 8  # each pair of them is two connections
# The name of the connection over which somebody publishes; those over which they receive have the publisher's id.
PUBLISH: Final = "publish"
CLOSE_TIMEOUT: Final = 5.0  # seconds; to close a connection of aiortc's that is still connecting may never end

Message = dict[str, Any]

_logger = logging.getLogger("frameseal.tools.meet")


class RoomFull(Exception):
    """There are as many participants as may be."""


class Member(Protocol):
    """Somebody in the room: a browser behind its web socket, or the bot."""

    @property
    def id(self) -> str:
        """Tells members apart, for the life of the room."""

    @property
    def name(self) -> str:
        """What the others read; anything."""

    @property
    def tracks(self) -> list[str]:
        """The kinds that it publishes: of "audio" and "video", none, one or both."""

    def connection(self, peer: str) -> PeerConnection:
        """Make the connection for publishing (`PUBLISH`), or for what the member of this id publishes."""

    def hang_up(self, peer: str) -> None:
        """Close the connection that `connection` made."""

    def notify(self, message: Message) -> None:
        """Take note of what goes on in the room."""


class Stream(Protocol):
    """What one member publishes, in an SFU: of `Forwarder`, what is used here."""

    async def connect_publisher(self, pc: PeerConnection) -> None:
        """Negotiate with the publisher, and return when packets can flow."""

    async def connect_subscriber(self, pc: PeerConnection, name: str) -> None:
        """Negotiate with a subscriber, and return when packets can flow."""

    async def disconnect_subscriber(self, name: str) -> None:
        """Hang up on a subscriber."""

    async def request_keyframe(self) -> None:
        """Ask the publisher for a keyframe."""

    async def close(self) -> None:
        """Hang up on everybody."""


class Room:
    """Connects everybody with everybody else's media, and passes messages on."""

    def __init__(self, janus: Janus | None = None) -> None:
        """Start empty. Media go through *janus*, or through forwarders of our own."""
        self._janus = janus
        self.limits = Limits()
        self.members: dict[str, Member] = {}
        self.sfu_views: dict[str, SfuView] = {}  # by publisher
        self._forwarders: dict[str, Stream] = {}  # by publisher, once media can flow
        self._tasks: dict[asyncio.Task[None], tuple[str, ...]] = {}  # and whom each is about: publisher, subscriber
        self._states: dict[tuple[str, ...], Message] = {}

    def join(self, member: Member) -> None:
        """Take somebody in; connecting goes on in the background.

        :raises RoomFull: there are `MAX_PARTICIPANTS` already.
        """
        if len(self.members) >= MAX_PARTICIPANTS:
            raise RoomFull
        others = [summary_of(other) for other in self.members.values()]
        self.members[member.id] = member
        member.notify({"type": "welcome", "id": member.id, "participants": others})
        for state in self._states.values():
            member.notify(state)
        self.broadcast({"type": "joined", "participant": summary_of(member)}, but=member.id)
        if member.tracks:
            self._start(self._publish(member), member.id)
        for publisher, forwarder in self._forwarders.items():
            self._start(self._subscribe(publisher, forwarder, member), publisher, member.id)

    async def leave(self, member_id: str) -> None:
        """Let somebody go; without effect for who is not there."""
        if self.members.pop(member_id, None) is None:
            return
        for key in [key for key in self._states if member_id in key]:
            del self._states[key]
        self._hang_up_on(member_id)
        self.broadcast({"type": "left", "id": member_id})
        await _cancel_all([task for task, about in self._tasks.items() if member_id in about])
        closing = [forwarder.disconnect_subscriber(member_id) for forwarder in self._forwarders.values()]
        await asyncio.gather(self._end_stream(member_id), *(_within_timeout(close) for close in closing))

    def reconnect(self, member: Member, peer: str) -> None:
        """Make a connection anew that was lost: `PUBLISH`, or the one for what the member of this id publishes."""
        if peer == PUBLISH and member.id in self._forwarders:
            self._start(self._publish_again(member), member.id)
        elif peer in self._forwarders:
            self._start(self._subscribe_again(peer, self._forwarders[peer], member), peer, member.id)

    async def close(self) -> None:
        """Let everybody go."""
        for member_id in list(self.members):
            await self.leave(member_id)

    def broadcast(self, message: Message, but: str | None = None) -> None:
        """Tell everybody, in the same order."""
        if message["type"] == "state" and message["participant"] in self.members:
            self._states[message["by"], message["participant"], message["kind"]] = message
        for member in list(self.members.values()):
            if member.id != but:
                member.notify(message)

    async def request_keyframe(self, publisher: str) -> None:
        """Ask a publisher for a keyframe; for a receiver that could not open frames and now can."""
        forwarder = self._forwarders.get(publisher)
        if forwarder is not None:
            await forwarder.request_keyframe()

    def _start(self, connecting: Coroutine[Any, Any, None], *about: str) -> None:
        task = asyncio.create_task(connecting)
        self._tasks[task] = about
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    def _hang_up_on(self, publisher: str) -> None:
        for member in self.members.values():
            member.hang_up(publisher)

    async def _end_stream(self, publisher: str) -> None:
        sfu_view, forwarder = self.sfu_views.pop(publisher, None), self._forwarders.pop(publisher, None)
        if sfu_view is not None:
            sfu_view.close()
        if forwarder is not None:
            await _within_timeout(forwarder.close())

    async def _publish_again(self, member: Member) -> None:
        # Who is connecting just now would fail at the old stream, and then hang up on the new one.
        await self._cancel_connecting(lambda about: about[0] == member.id)
        self._hang_up_on(member.id)
        member.hang_up(PUBLISH)
        await self._end_stream(member.id)
        await self._publish(member)

    async def _subscribe_again(self, publisher: str, forwarder: Stream, member: Member) -> None:
        await self._cancel_connecting(lambda about: about == (publisher, member.id))
        member.hang_up(publisher)
        await _within_timeout(forwarder.disconnect_subscriber(member.id))
        await self._subscribe(publisher, forwarder, member)

    async def _cancel_connecting(self, chosen: Callable[[tuple[str, ...]], bool]) -> None:
        """Cancel what is being connected, for whoever connects the same anew."""
        own = asyncio.current_task()
        await _cancel_all([task for task, about in self._tasks.items() if task is not own and chosen(about)])

    async def _publish(self, member: Member) -> None:
        forwarder: Stream
        if self._janus is not None:
            forwarder = JanusStream(self._janus)
        else:
            sfu_view = self.sfu_views[member.id] = SfuView()
            forwarder = Forwarder(on_packet=sfu_view.tap)
        try:
            await forwarder.connect_publisher(member.connection(PUBLISH))
        except BaseException as error:
            member.hang_up(PUBLISH)
            await _within_timeout(forwarder.close())
            self._report_failure(error, member, f"the connection that {member.name} publishes over")
            return
        self._forwarders[member.id] = forwarder
        for other in list(self.members.values()):
            if other is not member:
                self._start(self._subscribe(member.id, forwarder, other), member.id, other.id)

    async def _subscribe(self, publisher: str, forwarder: Stream, member: Member) -> None:
        try:
            await forwarder.connect_subscriber(member.connection(publisher), member.id)
        except BaseException as error:
            member.hang_up(publisher)
            await _within_timeout(forwarder.disconnect_subscriber(member.id))
            name = self.members[publisher].name if publisher in self.members else publisher
            self._report_failure(error, member, f"the connection from {name} to {member.name}")

    def _report_failure(self, error: BaseException, member: Member, what: str) -> None:
        # Anything may be wrong with SDP that came from outside, and one participant's must not end the meeting.
        if not isinstance(error, Exception):
            raise error
        reason = "no way was found" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        # Without names and SDP: those are for the people in the room, not for a log.
        _logger.warning("a connection of %s failed: %s", member.id, type(error).__name__)
        member.notify({"type": "problem", "message": f"{what} failed: {reason}. Leave, and join again."})


def summary_of(member: Member) -> Message:
    """What the others are told about somebody."""
    return {"id": member.id, "name": member.name, "tracks": member.tracks}


async def _cancel_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _within_timeout(closing: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(closing, CLOSE_TIMEOUT)
