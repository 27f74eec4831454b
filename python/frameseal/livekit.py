"""A LiveKit room over aiortc, end-to-end encrypted: `join`. It needs aiohttp and livekit-protocol, and no native SDK.

It has as much of LiveKit's signalling as an agent, a recorder or a gateway needs. Two connections, as in LiveKit's
protocol 9: the server offers the received media, and this side offers the sent media. See docs/adapters/livekit.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import aiohttp
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.sdp import SessionDescription, candidate_from_sdp
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from frameseal._native import DataCryptor
from frameseal._secrecy import Confidential, Hidden, require, utf8
from frameseal.aiortc import attach
from frameseal.datachannel import mark_sealed
from frameseal.e2ee.manager import E2EEManager
from frameseal.emitter import LoopEmitter
from frameseal.enums import Profile
from frameseal.exceptions import FrameError, MalformedFrame
from frameseal.keys.protocol import KeyRingProvider, bounded

__all__ = ["DataMessage", "DataRefused", "NotAdmitted", "Participant", "Publication", "RemoteTrack", "Room"]
__all__ += ["RoomError", "Token", "join"]

PROTOCOL: Final = 9  # the newest without single connections and reused transceivers, which aiortc cannot restart
ANSWER_TIMEOUT: Final = 20.0  # seconds until the server answers, or ICE and DTLS connect
CLOSE_TIMEOUT: Final = 5.0  # seconds; closing a connection of aiortc that is still connecting may never return
FIRST_WAIT, MAX_WAIT = 0.5, 60.0  # seconds before joining anew
# A server of LiveKit offers no UDP candidates for 5 minutes after a connection that failed within 90 s. So only a
# longer connection counts as a success, after which the delays begin anew.
STABLE_AFTER: Final = 90.0
MIN_SIF_TRAILER: Final = 8  # bytes, as E2EEManager requires
MAX_DATA_BYTES: Final = 15 * 1024  # of one message, the limit of LiveKit's clients
MAX_DATA_SENDERS: Final = 1024  # each has a cipher and a replay window, kept while the room is joined
H264_PROFILE: Final = "42e01f"  # constrained baseline, the only profile that the server answers with

_KINDS: Final = {"audio": models.TrackType.AUDIO, "video": models.TrackType.VIDEO}
_SOURCES: Final = {"audio": models.TrackSource.MICROPHONE, "video": models.TrackSource.CAMERA}
_DEFAULT_CODECS: Final = dict(audio="opus", video="vp8")
_REFUSED_STATUS: Final = frozenset((400, 401, 403, 404))

_logger = logging.getLogger("frameseal")

Token = str | Callable[[], str | Awaitable[str]]
"""An access token, or a function that returns a fresh one for each time that the room is joined."""


class RoomError(ConnectionError):
    """The server cannot be reached, does not answer, or ended the connection."""


class NotAdmitted(RoomError):
    """The server does not admit this token to the room. Joining again with the same token fails too."""


@dataclass(eq=False)
class Participant:
    """Another participant of the room."""

    identity: str
    """The participant id of keys, states and data messages."""
    sid: str
    """The server's id of this visit of the participant."""
    name: str = ""
    """The display name."""
    tracks: dict[str, RemoteTrack] = field(default_factory=dict, repr=False)
    """The published tracks, by the server's track id."""


@dataclass(eq=False)
class RemoteTrack:
    """A track that another participant publishes."""

    participant: Participant
    """The publisher."""
    sid: str
    """The server's id of the track."""
    kind: Literal["audio", "video"]
    """The kind of media."""
    mime_type: str
    """The codec, such as "video/vp8"."""
    name: str
    """The name that the publisher chose."""
    source: str
    """The source: "MICROPHONE", "CAMERA", "SCREEN_SHARE", "SCREEN_SHARE_AUDIO" or "UNKNOWN"."""
    encrypted: bool
    """True if the publisher declares that the track is sealed. Unsealed media is never delivered in either case."""
    muted: bool
    """True while the publisher sends no media."""
    media: MediaStreamTrack | None = None
    """The decoded media. None unless the track is subscribed and its connection is up."""


@dataclass(frozen=True)
class DataMessage:
    """A sealed data message that has opened."""

    participant_id: str
    """The identity of the sender. A server can present a message of another holder of the same key."""
    payload: bytes = field(repr=False)
    """The content."""
    topic: str
    """The topic, which was sealed with the content."""


@dataclass(frozen=True)
class DataRefused:
    """A data message that was dropped: it was in the clear, was replayed, or did not open."""

    participant_id: str
    """The identity of the sender, according to the server."""
    error: FrameError
    """The reason."""


class _Outgoing(MediaStreamTrack):
    """Passes the frames of *source* on, and discards them while it is muted. The server knows the track by its id."""

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self.kind = source.kind
        self.muted = False
        self._source = source

    async def recv(self) -> Any:
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
    outgoing: _Outgoing | None = field(default=None, repr=False)
    """The track of the present connection."""
    transceiver: RTCRtpTransceiver | None = field(default=None, repr=False)
    """The transceiver of the present connection."""


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
        self.participants: Final[dict[str, Participant]] = {}
        """The other participants, by identity."""
        self.identity = ""
        """The identity of this side, from the token."""
        self._url, self._token, self._fresh_token = url, Hidden(token), Hidden("")
        self._ice_servers, self._subscribes, self._attempts = ice_servers, subscribe, attempts
        self._publications: list[Publication] = []
        self._session: _Session | None = None
        self._leaving = asyncio.Event()
        self._left: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._sealer: DataCryptor | None = None
        self._openers: dict[str, DataCryptor] = {}

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
        codec = codec if codec is not None else _DEFAULT_CODECS[track.kind]
        utf8("codec", codec), utf8("name", name)
        if any(publication.source is track for publication in self._publications):
            raise ValueError("track is published already: unpublish it first")
        if not _forwarded_codecs(track.kind, codec):
            raise ValueError(f"codec must be one that aiortc can send as {track.kind}")
        publication = Publication(track, codec, name or track.kind)
        session = self._connected()
        self._publications.append(publication)
        try:
            await session.publish(publication)
        except BaseException:
            self._publications.remove(publication)
            raise
        return publication

    async def unpublish(self, publication: Publication) -> None:
        """Stop sending a track. Its source is not stopped."""
        require("publication", publication, Publication, "a Publication of this room")
        if publication in self._publications:
            self._publications.remove(publication)
            if self._session is not None:
                await self._session.unpublish(publication)

    async def mute(self, publication: Publication, muted: bool = True) -> None:
        """Mute a track, or unmute it. While it is muted its frames are read from the source and discarded."""
        require("publication", publication, Publication, "a Publication of this room")
        publication.muted = bool(muted)
        if publication.outgoing is not None:
            publication.outgoing.muted = publication.muted
        if self._session is not None and publication in self._publications and publication.sid:
            await self._session.request(mute=rtc.MuteTrackRequest(sid=publication.sid, muted=publication.muted))

    async def subscribe(self, track: RemoteTrack, wanted: bool = True) -> None:
        """Subscribe to a track, or unsubscribe. ``"track"`` is emitted when its media arrives.

        :raises ValueError: aiortc cannot decode the codec of the track.
        """
        require("track", track, RemoteTrack, "a RemoteTrack of this room")
        if wanted and not _is_playable(track):
            raise ValueError("track has a codec that aiortc cannot decode")
        await self._connected().subscribe(track, wanted)

    async def send(self, payload: bytes, *, topic: str = "", reliable: bool = True, to: Iterable[str] = ()) -> None:
        """Send a data message, sealed together with its topic. Identities of receivers stay readable.

        :param payload: at most 15 KiB.
        :param reliable: False sends the message once, without repetition.
        :param to: the identities of the receivers; by default everybody.
        :raises UnknownKey: there is no key to seal with, and nothing is sent.
        :raises ValueError: *payload* is too long.
        :raises RoomError: the connection is down.
        """
        require("payload", payload, (bytes, bytearray, memoryview), "bytes")
        utf8("topic", topic)
        if isinstance(to, str):
            raise TypeError("to must be an iterable of identities, not one str")
        receivers = list(to)
        for receiver in receivers:
            utf8("to", receiver)
        content = bytes(payload)
        if len(content) > MAX_DATA_BYTES:
            raise ValueError(f"payload must have at most {MAX_DATA_BYTES} bytes, not {len(content)}")
        session = self._connected()
        inner = models.EncryptedPacketPayload(user=models.UserPacket(payload=content, topic=topic))
        if self._sealer is None:
            self._sealer = DataCryptor(self.e2ee.provider.ring_for(self.e2ee.profile, self.identity))
        iv, key_index, value = self._sealer.encrypt(inner.SerializeToString())
        sealed = models.EncryptedPacket(
            encryption_type=models.Encryption.Type.GCM, iv=iv, key_index=key_index, encrypted_value=value
        )
        kind = models.DataPacket.Kind.RELIABLE if reliable else models.DataPacket.Kind.LOSSY
        packet = models.DataPacket(kind=kind, destination_identities=receivers, encrypted_packet=sealed)
        await session.send_data(packet.SerializeToString(), reliable=reliable)

    async def leave(self) -> None:
        """Leave the room. The end of ``async with`` does the same."""
        self._leaving.set()
        await self.wait_left()

    async def wait_left(self) -> str:
        """Wait until the room was left, and return the reason, such as "left" or the server's "ROOM_DELETED"."""
        return await asyncio.shield(self._left)

    def _connected(self) -> _Session:
        if self._session is None:
            raise RoomError("the room is not connected now: wait for the event 'reconnected', or join again")
        return self._session

    async def _connect(self, http: aiohttp.ClientSession) -> _Session:
        """Join the room once."""
        token = Hidden(await self._present_token())
        status, reason, socket = 0, "", None
        query = {"protocol": str(PROTOCOL), "auto_subscribe": "0", "adaptive_stream": "0"}
        try:
            # In a header, because the URL stands in the errors of aiohttp and in the logs of proxies.
            socket = await http.ws_connect(
                f"{self._url}/rtc",
                params=query,
                headers={"Authorization": f"Bearer {token.reveal()}"},
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
            )
            first = await asyncio.wait_for(socket.receive(), ANSWER_TIMEOUT)
            data = first.data if first.type is aiohttp.WSMsgType.BINARY else b""
            joined = rtc.SignalResponse.FromString(data).join
        except aiohttp.WSServerHandshakeError as error:
            status = error.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, DecodeError) as error:
            reason = type(error).__name__
        # Raised outside the handlers: those errors hold the request with its token.
        if status in _REFUSED_STATUS:
            raise NotAdmitted(f"the server answered {status}: the token does not admit to a room of this server")
        if not (status or reason) and not joined.participant.identity:
            reason = "the server's first message is no answer"
        if status or reason or socket is None:
            if socket is not None:
                await socket.close()
            raise RoomError(f"the room cannot be joined: {reason or f'the server answered {status}'}")
        self.identity = joined.participant.identity
        trailer = joined.sif_trailer
        self.e2ee.sif_trailer = trailer if len(trailer) >= MIN_SIF_TRAILER else None
        self._session = _Session(self, socket, joined, self._ice_servers)
        present = {info.identity: info.sid for info in joined.other_participants}
        for participant in list(self.participants.values()):
            if present.get(participant.identity) != participant.sid:
                self._forget(participant)
        return self._session

    async def _present_token(self) -> str:
        token = self._token.reveal()
        if callable(token):
            made = token()
            token = await made if inspect.isawaitable(made) else made
        elif self._fresh_token.reveal():
            token = self._fresh_token.reveal()
        require("token", token, str, "a str, or a function that returns a str")
        if not token.isascii() or not token.isprintable():
            raise ValueError("token must be printable ASCII, as a header field requires")
        return token

    async def _run(self, http: aiohttp.ClientSession, session: _Session) -> None:
        """Keep the room joined until it is left, or cannot be joined anew."""
        reason, failures = "left", 0
        try:
            while True:
                started = time.monotonic()
                leave = await session.run(self._leaving)
                await self._end(session)
                if self._leaving.is_set():
                    return
                if leave is not None and leave.action == rtc.LeaveRequest.Action.DISCONNECT and not leave.can_reconnect:
                    reason = _name(models.DisconnectReason, leave.reason)
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
                        session = await self._connect(http)
                        break
                    except NotAdmitted:
                        reason = "not admitted any more"
                        return
                    except RoomError as error:
                        _logger.warning("attempt %d to join the room anew failed: %s", failures, error)
                self.deliver("reconnected", "joined anew")
        except Exception:
            reason = "an unexpected error"
            _logger.exception("the room ended")
        finally:
            if self._session is not None:
                await self._end(self._session)
            for participant in list(self.participants.values()):
                self._forget(participant)
            self._left.set_result(reason)
            self.deliver("left", reason)

    async def _is_leaving(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)
        return self._leaving.is_set()

    async def _end(self, session: _Session) -> None:
        self._session = None
        for participant in self.participants.values():
            for track in participant.tracks.values():
                self._end_media(track)
        await session.close(self._leaving.is_set())

    def _update(self, infos: Iterable[models.ParticipantInfo]) -> None:
        """Handle the server's news of participants and their tracks."""
        for info in infos:
            if info.identity == self.identity:
                continue
            known = self.participants.get(info.identity)
            if info.state == models.ParticipantInfo.State.DISCONNECTED:
                if known is not None and known.sid == info.sid:  # not an earlier visit of a participant who is back
                    self._forget(known)
                continue
            if known is not None and known.sid != info.sid:
                self._forget(known)
                known = None
            if known is None:
                known = self.participants[info.identity] = Participant(info.identity, info.sid)
                known.name = info.name
                self.deliver("participant-joined", known)
            known.name = info.name
            self._update_tracks(known, info.tracks)

    def _update_tracks(self, participant: Participant, infos: Iterable[models.TrackInfo]) -> None:
        published = {info.sid: info for info in infos if info.type in _KINDS.values()}
        for sid in participant.tracks.keys() - published.keys():
            self._unpublished(participant.tracks.pop(sid))
        for sid, info in published.items():
            track = participant.tracks.get(sid)
            if track is None:
                track = participant.tracks[sid] = RemoteTrack(
                    participant,
                    sid,
                    "audio" if info.type == models.TrackType.AUDIO else "video",
                    info.mime_type.lower(),
                    info.name,
                    _name(models.TrackSource, info.source),
                    info.encryption != models.Encryption.Type.NONE,
                    info.muted,
                )
                self.deliver("track-published", track)
            elif track.muted != info.muted:
                track.muted = info.muted
                self.deliver("track-muted" if info.muted else "track-unmuted", track)
            track.mime_type = info.mime_type.lower() or track.mime_type
            if self._subscribes and self._session is not None and _is_playable(track):
                self._session.subscribe_soon(track)

    def _forget(self, participant: Participant) -> None:
        self.participants.pop(participant.identity, None)
        for track in participant.tracks.values():
            self._unpublished(track)
        self.e2ee.remove_participant(participant.identity)
        self.deliver("participant-left", participant)

    def _unpublished(self, track: RemoteTrack) -> None:
        self._end_media(track)
        self.deliver("track-unpublished", track)

    def _end_media(self, track: RemoteTrack, media: MediaStreamTrack | None = None) -> None:
        """Forget the media of a track, if it is *media* or *media* is None."""
        if track.media is not None and media in (None, track.media):
            track.media = None
            self.deliver("track-ended", track)

    def _mute_on_request(self, request: rtc.MuteTrackRequest) -> None:
        """Mute a track as the server asks. It cannot unmute: this side alone decides when it is heard."""
        for publication in self._publications:
            if publication.sid == request.sid and request.muted and not publication.muted:
                publication.muted = True
                if publication.outgoing is not None:
                    publication.outgoing.muted = True
                self.deliver("publication-muted", publication)

    def _receive_data(self, data: bytes | str) -> None:
        """Open a data packet. Only sealed user packets of known participants are delivered."""
        packet = models.DataPacket()
        try:
            packet = models.DataPacket.FromString(data if isinstance(data, bytes) else b"")
        except DecodeError:
            return
        sender = packet.participant_identity
        content = packet.WhichOneof("value")
        if content == "encrypted_packet":
            sealed = packet.encrypted_packet
            try:
                opened = self._opener(sender).decrypt(sealed.iv, sealed.key_index, sealed.encrypted_value)
                payload = models.EncryptedPacketPayload.FromString(opened)
            except FrameError as error:
                self.deliver("data-refused", DataRefused(sender, error))
            except (DecodeError, ValueError, OverflowError):
                self.deliver("data-refused", DataRefused(sender, MalformedFrame("the content is no payload")))
            else:
                if payload.WhichOneof("value") == "user":
                    self.deliver("data", DataMessage(sender, payload.user.payload, payload.user.topic))
        elif content == "user":
            self.deliver("data-refused", DataRefused(sender, MalformedFrame("the message is in the clear")))

    def _opener(self, sender: str) -> DataCryptor:
        # Kept when a participant leaves: with a new one, a server could replay messages after a feigned return.
        opener = self._openers.get(sender)
        if opener is None:
            if sender not in self.participants or len(self._openers) >= MAX_DATA_SENDERS:
                raise MalformedFrame("the sender is not in the room, or is one of too many")
            opener = self._openers[sender] = DataCryptor(self.e2ee.provider.ring_for(self.e2ee.profile, sender))
        return opener


class _Session(Confidential):
    """One visit to the room: a web socket and two connections. Joining anew makes another."""

    def __init__(
        self,
        room: Room,
        socket: aiohttp.ClientWebSocketResponse,
        joined: rtc.JoinResponse,
        ice_servers: Sequence[RTCIceServer] | None,
    ) -> None:
        self._room, self._socket, self._joined = room, socket, joined
        self._earlier = room.publications  # of the visit before; `run` starts when there may be later ones
        servers = list(ice_servers) if ice_servers is not None else _ice_servers(joined)
        self.publisher, self.subscriber = _connection(servers), _connection(servers)
        attach(self.publisher, room.e2ee, local_id=room.identity, remote_id=lambda receiver: None)
        attach(self.subscriber, room.e2ee, local_id=room.identity, remote_id=self._owner)
        self.subscriber.on("track", self._on_track)
        self.subscriber.on("datachannel", self._on_channel)
        self._failed, self._changed = asyncio.Event(), asyncio.Event()
        for pc in (self.publisher, self.subscriber):
            pc.on("connectionstatechange", self._on_state)
        self._offers: asyncio.Queue[rtc.SessionDescription] = asyncio.Queue()
        self._early: dict[int, list[Any]] = {rtc.SignalTarget.PUBLISHER: [], rtc.SignalTarget.SUBSCRIBER: []}
        self._streams: dict[str, tuple[str, str]] = {}  # mid -> sids of participant and track
        self._subscribed: set[str] = set()
        self._published: dict[str, asyncio.Future[models.TrackInfo]] = {}
        self._answer: asyncio.Future[rtc.SessionDescription] | None = None
        self._negotiating = asyncio.Lock()
        self._channels: dict[bool, RTCDataChannel] = {}
        self._background: set[asyncio.Future[None]] = set()
        self._last_heard = time.monotonic()
        self._leave: rtc.LeaveRequest | None = None

    async def run(self, leaving: asyncio.Event) -> rtc.LeaveRequest | None:
        """Serve until the connection ends. Returns the server's last word, or None without one."""
        self._room._update(self._joined.other_participants)
        parts = (self._receive(), self._answer_offers(), self._ping(), self._failed.wait(), leaving.wait())
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(part) for part in parts]
        for publication in self._earlier:
            if publication in self._room.publications:
                self._soon(self._republish(publication))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None:
                    _logger.warning("the connection to the room ends, because of %s", type(error).__name__)
        finally:
            for task in (*tasks, *self._background):
                task.cancel()
            await asyncio.gather(*tasks, *self._background, return_exceptions=True)
        return self._leave

    async def close(self, say_so: bool) -> None:
        """Close socket and connections."""
        for waiting in (*self._published.values(), self._answer):
            if waiting is not None and not waiting.done():
                waiting.set_exception(RoomError("the connection to the room was lost"))
        with contextlib.suppress(Exception):
            if say_so:
                leave = rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)
                await asyncio.wait_for(self.request(leave=leave), CLOSE_TIMEOUT)
        ends = (self._socket.close(), self.publisher.close(), self.subscriber.close())
        await asyncio.gather(*(asyncio.wait_for(end, CLOSE_TIMEOUT) for end in ends), return_exceptions=True)

    async def request(self, **message: Any) -> None:
        """Send one request to the server."""
        with contextlib.suppress(ConnectionError):  # `run` notices the end of the socket
            await self._socket.send_bytes(rtc.SignalRequest(**message).SerializeToString())

    async def publish(self, publication: Publication) -> None:
        """Announce a track and connect it."""
        outgoing = publication.outgoing = _Outgoing(publication.source)
        outgoing.muted = publication.muted
        cid = outgoing.id
        published = self._published[cid] = asyncio.get_running_loop().create_future()
        await self.request(
            add_track=rtc.AddTrackRequest(
                cid=cid,
                name=publication.name,
                type=_KINDS[outgoing.kind],
                source=_SOURCES[outgoing.kind],
                muted=publication.muted,
                disable_red=True,
                encryption=models.Encryption.Type.GCM,
            )
        )
        try:
            publication.sid = (await _in_time(published, "the server does not accept the track")).sid
        finally:
            self._published.pop(cid, None)
        async with self._negotiating:
            transceiver = publication.transceiver = self.publisher.addTransceiver(outgoing, direction="sendonly")
            transceiver.setCodecPreferences(_forwarded_codecs(outgoing.kind, publication.codec))
            await self._negotiate()

    async def _republish(self, publication: Publication) -> None:
        try:
            await self.publish(publication)
        except RoomError as error:
            _logger.warning("a track could not be published anew: %s", error)
            self._failed.set()

    async def unpublish(self, publication: Publication) -> None:
        """Stop sending a track, and let the server know."""
        transceiver, publication.transceiver = publication.transceiver, None
        if transceiver is not None:
            async with self._negotiating:
                await transceiver.sender.stop()
                transceiver.direction = "inactive"
                await self._negotiate()

    async def _negotiate(self) -> None:
        """Offer what this side sends. The caller holds the lock.

        Returns when the connection is up: aiortc never starts a track that was negotiated during the DTLS handshake.
        """
        pc = self.publisher
        await pc.setLocalDescription(await pc.createOffer())
        self._answer = asyncio.get_running_loop().create_future()
        await self.request(offer=rtc.SessionDescription(type="offer", sdp=pc.localDescription.sdp))
        answer = await _in_time(self._answer, "the server does not answer the offer")
        await self._describe(pc, answer, rtc.SignalTarget.PUBLISHER)
        await self._until_connected(pc)

    async def send_data(self, packet: bytes, *, reliable: bool) -> None:
        """Send a packet whose content is sealed."""
        async with self._negotiating:
            if not self._channels:
                self._channels[True] = self.publisher.createDataChannel("_reliable")
                self._channels[False] = self.publisher.createDataChannel("_lossy", maxRetransmits=0)
                for made in self._channels.values():
                    made.on("open", self._changed.set)
                await self._negotiate()
            channel = self._channels[reliable]
            await self._until(lambda: channel.readyState != "connecting")
        if channel.readyState != "open":
            raise RoomError("the data channel is not open")
        mark_sealed(channel, packet)
        channel.send(packet)

    def subscribe_soon(self, track: RemoteTrack) -> None:
        """Subscribe to a track, once per visit."""
        if track.sid not in self._subscribed:
            self._subscribed.add(track.sid)
            self._soon(self.subscribe(track, True))

    async def subscribe(self, track: RemoteTrack, wanted: bool) -> None:
        """Ask the server for a track, or for its end."""
        (self._subscribed.add if wanted else self._subscribed.discard)(track.sid)
        wish = models.ParticipantTracks(participant_sid=track.participant.sid, track_sids=[track.sid])
        await self.request(
            subscription=rtc.UpdateSubscription(track_sids=[track.sid], subscribe=wanted, participant_tracks=[wish])
        )

    def _soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _receive(self) -> None:
        """Handle the server's messages until the socket closes."""
        async for message in self._socket:
            self._last_heard = time.monotonic()
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            response = rtc.SignalResponse.FromString(message.data)
            match response.WhichOneof("message"):
                case "offer":
                    self._offers.put_nowait(response.offer)
                case "answer":
                    if self._answer is not None and not self._answer.done():
                        self._answer.set_result(response.answer)
                case "trickle":
                    await self._take_candidate(response.trickle)
                case "update":
                    self._room._update(response.update.participants)
                case "track_published":
                    waiting = self._published.get(response.track_published.cid)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(response.track_published.track)
                case "mute":
                    self._room._mute_on_request(response.mute)
                case "refresh_token":
                    self._room._fresh_token = Hidden(response.refresh_token)
                case "leave":
                    self._leave = response.leave
                    return

    async def _answer_offers(self) -> None:
        pc = self.subscriber
        while True:
            offer = await self._offers.get()
            if pc.remoteDescription is not None:
                await self._until_connected(pc)
            self._streams = _streams(offer.sdp)
            await self._describe(pc, offer, rtc.SignalTarget.SUBSCRIBER)
            await pc.setLocalDescription(await pc.createAnswer())
            answer = rtc.SessionDescription(type="answer", sdp=pc.localDescription.sdp, id=offer.id)
            await self.request(answer=answer)
            for transceiver in pc.getTransceivers():
                if transceiver.currentDirection == "inactive":  # aiortc would keep its decoder thread
                    await transceiver.receiver.stop()

    async def _ping(self) -> None:
        """Ping the server, and return when it is silent for too long."""
        interval = self._joined.ping_interval or 5
        patience = max(self._joined.ping_timeout or 15, 2 * interval)
        while time.monotonic() - self._last_heard < patience:
            await self.request(ping_req=rtc.Ping(timestamp=int(time.time() * 1000)))
            await asyncio.sleep(interval)

    async def _take_candidate(self, trickle: rtc.TrickleRequest) -> None:
        init = json.loads(trickle.candidateInit)
        if trickle.target not in self._early or not init.get("candidate"):
            return
        candidate = candidate_from_sdp(init["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = init.get("sdpMid"), init.get("sdpMLineIndex")
        self._early[trickle.target].append(candidate)
        pc = self.publisher if trickle.target == rtc.SignalTarget.PUBLISHER else self.subscriber
        if pc.remoteDescription is not None:
            await self._add_candidates(pc, trickle.target)

    async def _describe(self, pc: RTCPeerConnection, description: rtc.SessionDescription, target: int) -> None:
        await pc.setRemoteDescription(RTCSessionDescription(sdp=description.sdp, type=description.type))
        await self._add_candidates(pc, target)

    async def _add_candidates(self, pc: RTCPeerConnection, target: int) -> None:
        while self._early[target]:
            await pc.addIceCandidate(self._early[target].pop(0))

    async def _until_connected(self, pc: RTCPeerConnection) -> None:
        await self._until(lambda: pc.connectionState in ("connected", "failed", "closed"))
        if pc.connectionState != "connected":
            self._failed.set()
            raise RoomError("ICE or DTLS did not connect")

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until the connections fulfil a condition, or for the maximum time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def _on_state(self) -> None:
        self._changed.set()
        if "failed" in (self.publisher.connectionState, self.subscriber.connectionState):
            self._failed.set()

    def _stream_of(self, receiver: object) -> tuple[str, str]:
        mids = (each.mid for each in self.subscriber.getTransceivers() if each.receiver is receiver)
        return self._streams.get(next(mids, None) or "", ("", ""))

    def _owner(self, receiver: object) -> str | None:
        """Return the identity whose key opens. None drops the frames."""
        sid, _ = self._stream_of(receiver)
        return next((each.identity for each in self._room.participants.values() if each.sid == sid), None)

    def _on_track(self, media: MediaStreamTrack) -> None:
        receiver = next(each.receiver for each in self.subscriber.getTransceivers() if each.receiver.track is media)
        participant_sid, track_sid = self._stream_of(receiver)
        for participant in self._room.participants.values():
            track = participant.tracks.get(track_sid)
            if participant.sid == participant_sid and track is not None:
                track.media = media
                media.on("ended", functools.partial(self._room._end_media, track, media))
                if not track.encrypted:
                    self._room.e2ee.report_not_encrypted(participant.identity, track.kind, track_id=media.id)
                self._room.deliver("track", track)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        mark_sealed(channel)
        channel.on("message", self._room._receive_data)


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
    address = _checked_url(url)
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
        session = await room._connect(http)
        running = asyncio.ensure_future(room._run(http, session))
        try:
            yield room
        finally:
            await room.leave()
            await running


def _checked_url(url: str) -> str:
    utf8("url", url)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname) and parts.port != 0
        right = right and parts.username is None and not parts.query and not parts.fragment
    except ValueError:
        right = False
    if not right:
        raise ValueError("url must begin with wss:// and a host, without a user name and a query")
    return url.rstrip("/")


def _connection(servers: list[RTCIceServer]) -> RTCPeerConnection:
    # With the default policy, the second track of a kind in one offer stays on a transport of its own.
    return RTCPeerConnection(RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))


def _ice_servers(joined: rtc.JoinResponse) -> list[RTCIceServer]:
    return [
        RTCIceServer(urls=list(each.urls), username=each.username or None, credential=each.credential or None)
        for each in joined.ice_servers
    ]


def _streams(sdp: str) -> dict[str, tuple[str, str]]:
    """Return the sids of participant and track for each mid of the server's offer."""
    streams = {}
    for media in SessionDescription.parse(sdp).media:
        stream, _, track = (media.msid or "").partition(" ")
        streams[media.rtp.muxId] = (stream.partition("|")[0], track)
    return streams


def _forwarded_codecs(kind: str, codec: str) -> list[Any]:
    """Return the forms of the codec that aiortc sends and the server forwards."""
    capabilities = RTCRtpSender.getCapabilities(kind)
    return [
        each
        for each in (capabilities.codecs if capabilities is not None else ())
        if each.mimeType.lower() == f"{kind}/{codec.lower()}"
        and each.parameters.get("profile-level-id", H264_PROFILE) == H264_PROFILE
    ]


def _is_playable(track: RemoteTrack) -> bool:
    """Return whether aiortc knows the codec: an offer with a line of unknown codecs only fails as a whole."""
    capabilities = RTCRtpReceiver.getCapabilities(track.kind)
    known = {each.mimeType.lower() for each in capabilities.codecs} if capabilities is not None else set()
    return track.mime_type in known


def _name(enum: Any, number: int) -> str:
    """Return the name of a number of an enum, or "UNKNOWN" for a number of a later version."""
    return cast(str, enum.Name(number)) if number in enum.values() else "UNKNOWN"


async def _in_time(answer: asyncio.Future[Any], otherwise: str) -> Any:
    try:
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT)
    except TimeoutError:
        pass
    raise RoomError(otherwise)


def _wait(attempt: int) -> float:
    """Return the seconds to wait before an attempt, with a random jitter of up to a fifth."""
    return min(FIRST_WAIT * 2.0 ** (attempt - 1), MAX_WAIT) * random.uniform(1.0, 1.2)  # noqa: S311 - jitter
