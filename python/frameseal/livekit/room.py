"""A LiveKit room that is joined, and joined anew when the connection is lost."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import aiohttp
from aiortc import MediaStreamTrack, RTCIceServer
from livekit.protocol import models, rtc

from frameseal._secrecy import Hidden, require, utf8
from frameseal.e2ee.manager import E2EEManager
from frameseal.emitter import LoopEmitter
from frameseal.enums import Profile
from frameseal.keys.protocol import KeyRingProvider, bounded
from frameseal.livekit.data import DataMessages, checked
from frameseal.livekit.errors import NotAdmitted, RoomError
from frameseal.livekit.participants import Participant, Participants, RemoteTrack, is_playable
from frameseal.livekit.publications import DEFAULT_CODECS, Publication, Publications, forwarded_codecs
from frameseal.livekit.signalling import Signalling, Token, checked_token, checked_url, name_of
from frameseal.livekit.visit import Visit

__all__ = ["Room", "join"]

FIRST_WAIT, MAX_WAIT = 0.5, 60.0  # seconds before joining anew
# A server of LiveKit offers no UDP candidates for 5 minutes after a connection that failed within 90 s. So only a
# longer connection counts as a success, after which the delays begin anew.
STABLE_AFTER: Final = 90.0
MIN_SIF_TRAILER: Final = 8  # bytes, as E2EEManager requires

_logger = logging.getLogger("frameseal")


class Room(LoopEmitter):
    """A room that was joined. `join` makes it.

    It emits, each with one object:

    * ``"participant-joined"``, ``"participant-left"``: `Participant`.
    * ``"track-published"``, ``"track-unpublished"``: `RemoteTrack`.
    * ``"track"``: `RemoteTrack`, whose ``media`` can be read from now on.
    * ``"track-ended"``: `RemoteTrack`, whose ``media`` has ended.
    * ``"track-muted"``, ``"track-unmuted"``: `RemoteTrack`.
    * ``"publication-muted"``: `Publication`, which the server asked to mute.
    * ``"data"``: `DataMessage`. ``"data-refused"``: `DataRefused`.
    * ``"reconnecting"``, ``"reconnected"``, ``"left"``: the reason as a str.

    Listeners that are added before the first ``await`` after joining miss nothing. The states of tracks are events of
    ``room.e2ee``.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        e2ee: E2EEManager,
        *,
        ice_servers: Sequence[RTCIceServer] | None,
        subscribe: bool,
        attempts: int,
    ) -> None:
        """Use `join`."""
        super().__init__(asyncio.get_running_loop())
        self.e2ee: Final = e2ee
        self._url, self._token, self._fresh_token = url, Hidden(token), Hidden("")
        self._ice_servers, self._attempts = ice_servers, attempts
        self._members = Participants(e2ee, self.deliver, subscribes=subscribe)
        self._messages = DataMessages(e2ee, self._members.by_identity.__contains__, self.deliver)
        self._publications = Publications(self.deliver)
        self._visit: Visit | None = None
        self._leaving = asyncio.Event()
        self._left: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def identity(self) -> str:
        """The identity of this side, from the token."""
        return self._members.own.identity

    @property
    def participants(self) -> dict[str, Participant]:
        """The other participants, by identity."""
        return self._members.by_identity

    @property
    def publications(self) -> tuple[Publication, ...]:
        """The tracks that this side publishes."""
        return tuple(self._publications)

    async def publish(self, track: MediaStreamTrack, *, codec: str | None = None, name: str = "") -> Publication:
        """Publish a track, sealed, and return when its connection is up.

        :param codec: "opus", "vp8" or "h264"; by default Opus or VP8.
        :param name: the name of the track; by default its kind.
        :raises ValueError: the track is published already, or aiortc cannot send the codec.
        :raises RoomError: the server does not accept the track, or the connection was lost meanwhile.
        """
        require("track", track, MediaStreamTrack, "a MediaStreamTrack of aiortc")
        codec = codec if codec is not None else DEFAULT_CODECS[track.kind]
        utf8("codec", codec), utf8("name", name)
        if any(publication.source is track for publication in self._publications):
            raise ValueError("track is published already: unpublish it first")
        if not forwarded_codecs(track.kind, codec):
            raise ValueError(f"codec must be one that aiortc can send as {track.kind}")
        visit = self._connected()
        self._require("can_publish")
        publication = Publication(track, codec, name or track.kind)
        self._publications.append(publication)
        try:
            await visit.publish(publication)
        except BaseException:
            self._withdraw(publication)
            raise
        return publication

    async def unpublish(self, publication: Publication) -> None:
        """Stop sending a track. Its source is not stopped."""
        require("publication", publication, Publication, "a Publication of this room")
        self._withdraw(publication)
        if self._visit is not None:
            await self._visit.unpublish(publication)

    def _withdraw(self, publication: Publication) -> None:
        if publication.outgoing is not None:
            publication.outgoing.stop()  # from now on nothing is sent, even if the server does not know yet
        if publication in self._publications:
            self._publications.remove(publication)

    async def mute(self, publication: Publication, muted: bool = True) -> None:
        """Mute a track, or unmute it. While it is muted its frames are read from the source and discarded."""
        require("publication", publication, Publication, "a Publication of this room")
        publication.muted = bool(muted)
        if self._visit is not None and publication in self._publications:
            await self._visit.mute(publication)

    async def subscribe(self, track: RemoteTrack, wanted: bool = True) -> None:
        """Subscribe to a track, or unsubscribe. ``"track"`` is emitted when its media arrives.

        The wish outlives reconnections.

        :raises ValueError: the track is not sealed, or aiortc cannot decode its codec.
        """
        require("track", track, RemoteTrack, "a RemoteTrack of this room")
        if wanted and not is_playable(track):
            raise ValueError("track must be sealed, in a codec that aiortc can decode")
        track.subscribed = bool(wanted)
        if self._visit is not None:
            await self._visit.subscribe()

    async def send(self, payload: bytes, *, topic: str = "", reliable: bool = True, to: Iterable[str] = ()) -> None:
        """Send a data message, sealed together with its topic. Identities of receivers stay readable.

        :param payload: at most 15 KiB.
        :param reliable: False sends the message once, without repetition.
        :param to: the identities of the receivers; by default everybody.
        :raises UnknownKey: there is no key to seal with, and nothing is sent.
        :raises ValueError: *payload* is too long.
        :raises RoomError: the connection is down.
        """
        content, receivers = checked(payload, topic, to)
        visit = self._connected()
        self._require("can_publish_data")
        packet = self._messages.seal(self.identity, content, topic=topic, reliable=reliable, to=receivers)
        await visit.send_data(packet, reliable=reliable)

    async def leave(self) -> None:
        """Leave the room. The end of ``async with`` does the same."""
        self._leaving.set()
        await self.wait_left()

    async def wait_left(self) -> str:
        """Wait until the room was left, and return the reason, such as "left" or the server's "ROOM_DELETED"."""
        return await asyncio.shield(self._left)

    def _connected(self) -> Visit:
        if self._visit is None:
            raise RoomError("the room is not connected now: wait for the event 'reconnected', or join again")
        return self._visit

    def _require(self, permission: str) -> None:
        own = self._members.own
        if own.HasField("permission") and not getattr(own.permission, permission):
            raise RoomError(f"the token does not grant {permission}: make one that does")

    async def _connect(self, http: aiohttp.ClientSession) -> Visit:
        """Join the room once."""
        signalling = await Signalling.open(http, self._url, Hidden(await self._present_token()))
        joined = signalling.joined
        if self.identity not in ("", joined.participant.identity):
            await signalling.close()
            raise RoomError("the token has another identity now: join again for it")
        self._members.own = joined.participant
        trailer = joined.sif_trailer
        self.e2ee.sif_trailer = trailer if len(trailer) >= MIN_SIF_TRAILER else None
        self._visit = Visit(
            *(signalling, self.e2ee, self._members, self._messages, self._publications),
            ice_servers=self._ice_servers,
        )
        self._members.keep_only(joined.other_participants)
        return self._visit

    async def _present_token(self) -> str:
        token = self._token.reveal()
        if callable(token):
            made = token()
            token = await made if inspect.isawaitable(made) else made
        elif self._fresh_token.reveal():
            token = self._fresh_token.reveal()
        return checked_token(token)

    async def _run(self, http: aiohttp.ClientSession, visit: Visit) -> None:
        """Keep the room joined until it is left, or cannot be joined anew."""
        reason, failures = "left", 0
        try:
            while True:
                started = time.monotonic()
                leave = await visit.run(self._leaving)
                await self._end(visit)
                if self._leaving.is_set():
                    return
                if leave is not None and leave.action == rtc.LeaveRequest.Action.DISCONNECT and not leave.can_reconnect:
                    reason = name_of(models.DisconnectReason, leave.reason)
                    return
                failures = 0 if time.monotonic() - started > STABLE_AFTER else failures
                self.deliver("reconnecting", "the connection was lost")
                while True:
                    failures += 1
                    if failures > self._attempts:
                        reason = "the connection was lost"
                        return
                    if await self._is_leaving(_wait(failures)):
                        return
                    try:
                        visit = await self._connect(http)
                        break
                    except NotAdmitted:
                        reason = "not admitted any more"
                        return
                    except Exception as error:  # the application's function may fail to make a token too
                        known = error if isinstance(error, RoomError) else type(error).__name__
                        _logger.warning("attempt %d to join the room anew failed: %s", failures, known)
                self.deliver("reconnected", "joined anew")
        except Exception:
            reason = "an unexpected error"
            _logger.exception("the room ended")
        finally:
            if self._visit is not None:
                await self._end(self._visit)
            for participant in list(self.participants.values()):
                self._members.forget(participant)
            self._left.set_result(reason)
            self.deliver("left", reason)

    async def _is_leaving(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)
        return self._leaving.is_set()

    async def _end(self, visit: Visit) -> None:
        self._visit = None
        self._fresh_token = visit.fresh_token or self._fresh_token
        for track in self._members.tracks():
            self._members.end_media(track)
        await visit.close(self._leaving.is_set())


@contextlib.asynccontextmanager
async def join(
    url: str,
    token: Token,
    e2ee: E2EEManager | KeyRingProvider,
    *,
    ice_servers: Sequence[RTCIceServer] | None = None,
    subscribe: bool = True,
    attempts: int = 10,
) -> AsyncIterator[Room]:
    """Join a LiveKit room, end-to-end encrypted, and leave it at the end.

    :param url: the URL of the server, ``wss://...``.
    :param token: the access token of the room, or a function that returns one for each time that the room is joined.
        Sent as ``Authorization: Bearer``, and shown in no message.
    :param e2ee: the provider of the keys, or a manager of the profile ``livekit``. The participant ids are LiveKit's
        identities. The manager's ``sif_trailer`` is set to the server's.
    :param ice_servers: the STUN and TURN servers; by default those that the server names.
    :param subscribe: True subscribes to every track that aiortc can decode.
    :param attempts: maximum number of consecutive attempts to join anew when the connection was lost, 0 to 1,000. They
        begin 0.5 s, 1 s, 2 s... apart, at most 60 s.
    :raises NotAdmitted: the server does not admit the token.
    :raises RoomError: the server cannot be reached, or does not answer.
    :raises ValueError: *url* is no URL of a web socket, *token* is not printable ASCII, or *attempts* is out of range.
    :raises TypeError: an argument has the wrong type.
    """
    address = checked_url(url)
    if not callable(token):
        require("token", token, str, "a str, or a function that returns a str")
    bounded("attempts", attempts, 0, 1000)
    if isinstance(e2ee, E2EEManager):
        manager = e2ee
    else:
        require("e2ee", e2ee, "ring_for", "an E2EEManager, or a provider of keys")
        manager = E2EEManager(e2ee, Profile.LIVEKIT)
    if ice_servers is not None:
        ice_servers = list(ice_servers)
        for server in ice_servers:
            require("ice_servers", server, RTCIceServer, "a sequence of RTCIceServer")
    room = Room(address, token, manager, ice_servers=ice_servers, subscribe=bool(subscribe), attempts=attempts)
    async with aiohttp.ClientSession() as http:
        visit = await room._connect(http)
        running = asyncio.ensure_future(room._run(http, visit))
        try:
            yield room
        finally:
            await room.leave()
            await running


def _wait(attempt: int) -> float:
    """Return the seconds to wait before an attempt, with a random jitter of up to a fifth."""
    return min(FIRST_WAIT * 2.0 ** (attempt - 1), MAX_WAIT) * random.uniform(1.0, 1.2)  # noqa: S311 - jitter
