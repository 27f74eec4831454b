"""The room of a meeting: its members, and one keyless forwarder for each publisher. No key ever reaches it.

Every member publishes over one connection, and receives each other member over a further one. So no connection is ever
renegotiated. The bot is a member like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from frameseal.tools.closing import close_fully
from frameseal.tools.meet.janus import Janus, JanusStream
from frameseal.tools.meet.limits import Limits
from frameseal.tools.meet.sfu_view import SfuView
from frameseal.tools.sfu import Forwarder, PeerConnection

MAX_PARTICIPANTS: Final = 8  # each pair of participants costs two connections
# The name of the connection over which a member publishes. A receiving connection is named by the publisher's id.
PUBLISH: Final = "publish"

Message = dict[str, Any]

_logger = logging.getLogger("frameseal.tools.meet")


class RoomFull(Exception):
    """The room has the maximum number of participants."""


class Member(Protocol):
    """A member of the room: a browser behind its web socket, or the bot."""

    @property
    def id(self) -> str:
        """The id of the member, unique for the life of the room."""

    @property
    def name(self) -> str:
        """The name that the others read: any text."""

    @property
    def tracks(self) -> list[str]:
        """The kinds that the member publishes: none, one or both of "audio" and "video"."""

    def connection(self, peer: str) -> PeerConnection:
        """Make the connection for publishing (`PUBLISH`), or for receiving the member of this id."""

    def hang_up(self, peer: str) -> None:
        """Close the connection that `connection` made."""

    def notify(self, message: Message) -> None:
        """Receive a message of the room."""


class Stream(Protocol):
    """The media of one publisher in an SFU: the methods of `Forwarder` that the room calls."""

    async def connect_publisher(self, pc: PeerConnection) -> None:
        """Negotiate with the publisher, and return when packets can flow."""

    async def connect_subscriber(self, pc: PeerConnection, name: str) -> None:
        """Negotiate with a subscriber, and return when packets can flow."""

    async def disconnect_subscriber(self, name: str) -> None:
        """Close the connection of a subscriber."""

    async def request_keyframe(self) -> None:
        """Ask the publisher for a keyframe."""

    async def close(self) -> None:
        """Close all connections."""


class PublisherRecorder(Protocol):
    """Records the publishers of a room, without a key."""

    async def follow(self, member_id: str, name: str, stream: Stream) -> None:
        """Record a publisher until the task is cancelled."""


class Room:
    """Connects every member with the media of all others, and forwards messages."""

    def __init__(self, janus: Janus | None = None, recorder: PublisherRecorder | None = None) -> None:
        """Make an empty room.

        :param janus: forwards the media. With None, forwarders in this process do.
        :param recorder: records what is forwarded, and every member is told. None means that nothing is recorded.
        """
        self._janus, self._recorder = janus, recorder
        self.limits = Limits()
        self.members: dict[str, Member] = {}
        self.sfu_views: dict[str, SfuView] = {}  # by publisher
        self._forwarders: dict[str, Stream] = {}  # by publisher, once media can flow
        self._tasks: dict[asyncio.Task[None], tuple[str, ...]] = {}  # by task, the ids of publisher and subscriber
        self._states: dict[tuple[str, ...], Message] = {}

    def join(self, member: Member) -> None:
        """Add a member, and connect it in the background.

        :raises RoomFull: the room has `MAX_PARTICIPANTS` members.
        """
        if len(self.members) >= MAX_PARTICIPANTS:
            raise RoomFull
        others = [summary_of(other) for other in self.members.values()]
        self.members[member.id] = member
        member.notify({"type": "welcome", "id": member.id, "participants": others})
        if self._recorder is not None:
            member.notify({"type": "recording"})
        for state in self._states.values():
            member.notify(state)
        self.broadcast({"type": "joined", "participant": summary_of(member)}, but=member.id)
        if member.tracks:
            self._start(self._publish(member), member.id)
        for publisher, forwarder in self._forwarders.items():
            self._start(self._subscribe(publisher, forwarder, member), publisher, member.id)

    async def leave(self, member_id: str) -> None:
        """Remove a member. Do nothing for an unknown id."""
        if self.members.pop(member_id, None) is None:
            return
        for key in [key for key in self._states if member_id in key]:
            del self._states[key]
        self._hang_up_on(member_id)
        self.broadcast({"type": "left", "id": member_id})
        await _cancel_all([task for task, about in self._tasks.items() if member_id in about])
        closing = [forwarder.disconnect_subscriber(member_id) for forwarder in self._forwarders.values()]
        await asyncio.gather(self._end_stream(member_id), *(close_fully(close) for close in closing))

    def reconnect(self, member: Member, peer: str) -> None:
        """Replace a lost connection: `PUBLISH`, or the connection that receives the member with the id *peer*."""
        if peer == PUBLISH and member.id in self._forwarders:
            self._start(self._publish_again(member), member.id)
        elif peer in self._forwarders:
            self._start(self._subscribe_again(peer, self._forwarders[peer], member), peer, member.id)

    async def close(self) -> None:
        """Remove all members."""
        for member_id in list(self.members):
            await self.leave(member_id)

    def broadcast(self, message: Message, but: str | None = None) -> None:
        """Send a message to all members but *but*, in the same order to each."""
        if message["type"] == "state" and message["participant"] in self.members:
            self._states[message["by"], message["participant"], message["kind"]] = message
        for member in list(self.members.values()):
            if member.id != but:
                member.notify(message)

    async def request_keyframe(self, publisher: str) -> None:
        """Request a keyframe from a publisher, for a receiver that now can open its frames."""
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
            await close_fully(forwarder.close())

    async def _publish_again(self, member: Member) -> None:
        # A pending connection would fail at the old stream, and then close the connection to the new one.
        await self._cancel_connecting(lambda about: about[0] == member.id)
        self._hang_up_on(member.id)
        member.hang_up(PUBLISH)
        await self._end_stream(member.id)
        await self._publish(member)

    async def _subscribe_again(self, publisher: str, forwarder: Stream, member: Member) -> None:
        await self._cancel_connecting(lambda about: about == (publisher, member.id))
        member.hang_up(publisher)
        await close_fully(forwarder.disconnect_subscriber(member.id))
        await self._subscribe(publisher, forwarder, member)

    async def _cancel_connecting(self, chosen: Callable[[tuple[str, ...]], bool]) -> None:
        """Cancel pending connections before the same connections are made again."""
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
            await close_fully(forwarder.close())
            self._report_failure(error, member, f"the connection that {member.name} publishes over")
            return
        self._forwarders[member.id] = forwarder
        if self._recorder is not None:
            self._start(self._recorder.follow(member.id, member.name, forwarder), member.id)
        for other in list(self.members.values()):
            if other is not member:
                self._start(self._subscribe(member.id, forwarder, other), member.id, other.id)

    async def _subscribe(self, publisher: str, forwarder: Stream, member: Member) -> None:
        try:
            await forwarder.connect_subscriber(member.connection(publisher), member.id)
        except BaseException as error:
            member.hang_up(publisher)
            await close_fully(forwarder.disconnect_subscriber(member.id))
            name = self.members[publisher].name if publisher in self.members else publisher
            self._report_failure(error, member, f"the connection from {name} to {member.name}")

    def _report_failure(self, error: BaseException, member: Member, what: str) -> None:
        # SDP from outside may raise any exception. One participant's SDP must not end the meeting.
        if not isinstance(error, Exception):
            raise error
        reason = "no network path was found" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        # The log contains neither names nor SDP, which only the people in the room may read.
        _logger.warning("a connection of %s failed: %s", member.id, type(error).__name__)
        member.notify({"type": "problem", "message": f"{what} failed: {reason}. Leave, and join again."})


def summary_of(member: Member) -> Message:
    """Return the description of a member for the others."""
    return {"id": member.id, "name": member.name, "tracks": member.tracks}


async def _cancel_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
