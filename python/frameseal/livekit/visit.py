"""One visit to a LiveKit room: a web socket and two connections. Joining anew makes another visit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final

from aiortc import RTCIceServer
from livekit.protocol import models, rtc

from frameseal._secrecy import Confidential, Hidden
from frameseal.e2ee.manager import E2EEManager
from frameseal.livekit.connections import Publisher, Subscriber, Surroundings, in_time
from frameseal.livekit.data import DataMessages
from frameseal.livekit.errors import RoomError
from frameseal.livekit.participants import KINDS, Participants
from frameseal.livekit.publications import Outgoing, Publication, Publications
from frameseal.livekit.signalling import CLOSE_TIMEOUT, Signalling

__all__ = ["Visit"]

_SOURCES: Final = {"audio": models.TrackSource.MICROPHONE, "video": models.TrackSource.CAMERA}

_logger = logging.getLogger("frameseal")


class Visit(Confidential):
    """One visit to the room.

    :param members: the other participants, who outlive the visit.
    :param messages: seals and opens data messages.
    :param publications: the tracks that this side publishes. The visit publishes those that are there already.
    """

    def __init__(
        self,
        signalling: Signalling,
        e2ee: E2EEManager,
        members: Participants,
        messages: DataMessages,
        publications: Publications,
        *,
        ice_servers: Sequence[RTCIceServer] | None,
    ) -> None:
        self.fresh_token: Hidden[str] | None = None
        """The server's token for the next visit. None means that the server has sent none."""
        self._signalling, self._members, self._publications = signalling, members, publications
        self._earlier = list(publications)  # of the visit before; `run` starts when there may be later ones
        self._failed = asyncio.Event()
        around = Surroundings(
            list(ice_servers) if ice_servers is not None else _ice_servers(signalling.joined),
            *(e2ee, signalling.joined.participant.identity, signalling.request, self._failed),
        )
        self._publisher = Publisher(around)
        self._subscriber = Subscriber(around, members, messages.receive)
        self._subscribed: set[str] = set()
        self._published: dict[str, asyncio.Future[models.TrackInfo]] = {}
        self._leave: rtc.LeaveRequest | None = None

    async def run(self, leaving: asyncio.Event) -> rtc.LeaveRequest | None:
        """Serve until the connection ends. Returns the server's last word, or None without one."""
        await self._update(self._signalling.joined.other_participants)
        parts: list[Awaitable[Any]] = [self._receive(), self._subscriber.answer_offers(), self._signalling.ping()]
        parts += [self._failed.wait(), leaving.wait()]
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in parts]
        background = [asyncio.ensure_future(self._republish(publication)) for publication in self._earlier]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None:
                    _logger.warning("the connection to the room ends, because of %s", type(error).__name__)
        finally:
            for task in (*tasks, *background):
                task.cancel()
            await asyncio.gather(*tasks, *background, return_exceptions=True)
        return self._leave

    async def close(self, say_so: bool) -> None:
        """Close socket and connections."""
        for waiting in self._published.values():
            if not waiting.done():
                waiting.set_exception(RoomError("the connection to the room was lost"))
        with contextlib.suppress(Exception):
            if say_so:
                leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
                await asyncio.wait_for(self._signalling.request(leave=leave), CLOSE_TIMEOUT)
        ends = (asyncio.wait_for(self._signalling.close(), CLOSE_TIMEOUT), self._publisher.close())
        await asyncio.gather(*ends, self._subscriber.close(), return_exceptions=True)

    async def publish(self, publication: Publication) -> None:
        """Announce a track and connect it."""
        publication.sid, muted = "", publication.muted
        outgoing = publication.outgoing = Outgoing(publication)
        published = self._published[outgoing.id] = asyncio.get_running_loop().create_future()
        await self._signalling.request(
            add_track=rtc.AddTrackRequest(
                cid=outgoing.id,
                name=publication.name,
                type=KINDS[outgoing.kind],
                source=_SOURCES[outgoing.kind],
                muted=muted,
                disable_red=True,
                encryption=models.Encryption.Type.GCM,
            )
        )
        try:
            publication.sid = (await in_time(published, "the server does not accept the track")).sid
        finally:
            self._published.pop(outgoing.id, None)
        await self._publisher.add(publication, outgoing)
        if publication.muted != muted:
            await self.mute(publication)

    async def _republish(self, publication: Publication) -> None:
        try:
            if publication in self._publications:
                await self.publish(publication)
        except RoomError as error:
            _logger.warning("a track could not be published anew: %s", error)
            self._failed.set()

    async def unpublish(self, publication: Publication) -> None:
        """Stop sending a track, and let the server know."""
        await self._publisher.remove(publication)

    async def mute(self, publication: Publication) -> None:
        """Let the server know whether a track is muted."""
        if publication.sid:
            mute = rtc.MuteTrackRequest(sid=publication.sid, muted=publication.muted)
            await self._signalling.request(mute=mute)

    async def send_data(self, packet: bytes, *, reliable: bool) -> None:
        """Send a packet whose content is sealed."""
        await self._publisher.send_data(packet, reliable=reliable)

    async def subscribe(self) -> None:
        """Tell the server which tracks this side subscribes to, as far as it does not know."""
        for track in self._members.tracks():
            if track.subscribed != (track.sid in self._subscribed):
                (self._subscribed.add if track.subscribed else self._subscribed.discard)(track.sid)
                wish = models.ParticipantTracks(participant_sid=track.participant.sid, track_sids=[track.sid])
                subscription = rtc.UpdateSubscription(
                    track_sids=[track.sid], subscribe=track.subscribed, participant_tracks=[wish]
                )
                await self._signalling.request(subscription=subscription)

    async def _update(self, infos: Iterable[models.ParticipantInfo]) -> None:
        self._members.update(infos)
        await self.subscribe()

    async def _receive(self) -> None:
        """Handle the server's messages until the socket closes."""
        async for response in self._signalling.messages():
            match response.WhichOneof("message"):
                case "offer":
                    self._subscriber.offers.put_nowait(response.offer)
                case "answer":
                    self._publisher.answered(response.answer)
                case "trickle" if response.trickle.target == rtc.SignalTarget.PUBLISHER:
                    await self._publisher.add_candidate(response.trickle.candidateInit)
                case "trickle" if response.trickle.target == rtc.SignalTarget.SUBSCRIBER:
                    await self._subscriber.add_candidate(response.trickle.candidateInit)
                case "update":
                    await self._update(response.update.participants)
                case "track_published":
                    waiting = self._published.get(response.track_published.cid)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(response.track_published.track)
                case "mute":
                    self._publications.mute_on_request(response.mute)
                case "refresh_token":
                    self.fresh_token = Hidden(response.refresh_token)
                case "leave":
                    self._leave = response.leave
                    return


def _ice_servers(joined: rtc.JoinResponse) -> list[RTCIceServer]:
    return [
        RTCIceServer(urls=list(each.urls), username=each.username or None, credential=each.credential or None)
        for each in joined.ice_servers
    ]
