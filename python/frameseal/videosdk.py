"""End-to-end encryption for meetings of VideoSDK's Python SDK (PyPI ``videosdk``), which has no encryption of its own.

The API follows VideoSDK's JavaScript SDK: a meeting that is made after a key provider was set is encrypted. See
docs/adapters/videosdk.md, which follows the documented snippets of that SDK line by line.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import multiprocessing
import os
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, Unpack, cast

from videosdk import Meeting, Participant, VideoSDK
from videosdk._events import Events
from videosdk.lib.pymediasoup.transport import Transport
from videosdk.room_client import RoomClient

from frameseal import pymediasoup
from frameseal._secrecy import Confidential, require
from frameseal._videosdk_agents import NO_RECORDING, Detours, E2EEError, is_in, modules_of_callers, server_cannot
from frameseal.aiortc.everywhere import refuse_with
from frameseal.aiortc.protocols import PeerConnection
from frameseal.aiortc.stack import is_attached, package_of
from frameseal.e2ee.manager import E2EEManager
from frameseal.emitter import LoopEmitter
from frameseal.enums import E2EEState, Profile
from frameseal.events import E2EEMissingKey, E2EEStateChange
from frameseal.keys.protocol import KeyRingProvider

__all__ = ["E2EEError", "MeetingE2EE", "StateData", "enable_e2ee", "set_key_provider"]

STATE_CHANGE: Final = "e2ee-state-change"

# The environment variable that holds the id of the process in which a provider was set. Child processes inherit it. A
# fork server keeps the environment in which it was started, so the name is also in the configuration that
# `multiprocessing` hands to each child. There it is empty after `set_key_provider(None)`.
PROVIDER_PROCESS: Final = "FRAMESEAL_KEY_PROVIDER_PROCESS"

# The attributes of the SDK's objects that hold the adapter's objects, which end with them. A registry in this module
# would keep every meeting alive, because its entries would refer to the meeting through their handlers.
_SESSION: Final = "_frameseal_e2ee"  # of meetings
_GATE: Final = "_frameseal_gate"  # of room clients
_EMITTER: Final = "_frameseal_emitter"  # of participants

# The package that makes the connections of meetings. The adapter attaches them.
_TRANSPORTS: Final = Transport.__module__.rpartition(".")[0]

_logger = logging.getLogger("frameseal")


class ManagerOptions(TypedDict, total=False):
    """The options of `E2EEManager` beside its provider and its profile."""

    loop: asyncio.AbstractEventLoop | None
    replay_window: int | None
    hold_frames: int
    hold_bytes: int
    sif_trailer: bytes | None
    pass_sif_frames: bool
    on_missing_key: Callable[[E2EEMissingKey], object] | None
    bind_media: bool


SharedKind = Literal["audio", "video", "share", "shareAudio"]


@dataclass(frozen=True, slots=True)
class StateData:
    """The argument of a handler of a participant's ``"e2ee-state-change"``."""

    kind: SharedKind
    """``"audio"``, ``"video"``, ``"share"`` or ``"shareAudio"``."""

    state: E2EEState
    """The new state."""

    change: E2EEStateChange
    """The change with its track, key id, reason and counters."""


class MeetingE2EE(Confidential):
    """The encryption of one meeting. `enable_e2ee` makes it, or the meeting itself if a provider is set."""

    def __init__(
        self, meeting: Meeting, provider: KeyRingProvider, profile: Profile | str, options: ManagerOptions
    ) -> None:
        """Use `enable_e2ee`."""
        self._room = _room_of(meeting)
        self._meeting = weakref.ref(meeting)
        self._local_id: str = meeting.local_participant.id
        self._kinds: dict[str, SharedKind] = {}
        self._attached_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
        self._listening: set[asyncio.Future[None]] = set()
        self.manager: Final = E2EEManager(provider, profile, **options)
        self.manager.on(STATE_CHANGE, self._on_state_change)
        # Attach transports as soon as they are made. Their media starts later, inside produce().
        for maker in ("handle_send_transport", "handle_recv_transport"):
            self._call_after(maker, self._attach_transports)
        for refused in ("start_recording", "async_start_recording"):
            self._refuse(refused, NO_RECORDING)
        for refused in ("start_transcription", "async_start_transcription"):
            self._refuse(refused, "transcribe it. Transcribe in a participant that has the key")
        self._intercept_events()

    def _call_after(self, name: str, then: Callable[[], None]) -> None:
        original = getattr(self._room, name)

        @functools.wraps(original)
        async def followed(*args: object, **options: object) -> object:
            result = await original(*args, **options)
            then()
            return result

        setattr(self._room, name, followed)

    def _refuse(self, name: str, what: str) -> None:
        def refused(*args: object, **options: object) -> None:
            raise server_cannot(what)

        setattr(self._room, name, refused)

    def _intercept_events(self) -> None:
        """Handle the room client's events before its listeners, because a listener that raises ends the others."""
        emit = self._room.emit

        @functools.wraps(emit)
        def intercepted_emit(event: Events, *args: object, **options: object) -> object:
            try:
                self._handle_event(event, *args)
            except Exception:
                _logger.exception("the encryption of %r failed to handle %s", self._meeting(), event)
            return emit(event, *args, **options)

        self._room.emit = intercepted_emit

    def _handle_event(self, event: Events, data: object = None, *_: object) -> None:
        match event:
            case Events.ADD_CONSUMER | Events.ADD_PRODUCER:
                self._note_kind(cast(pymediasoup.Stream, data))
            case Events.REMOVE_CONSUMER | Events.REMOVE_PRODUCER:
                # Schedule it, so that state changes that are already on the loop still find the kind.
                asyncio.get_running_loop().call_soon(self._kinds.pop, cast(pymediasoup.Stream, data).track.id, None)
            case Events.REMOVE_PEER:
                self.manager.remove_participant(cast("dict[str, str]", data)["peerId"])
            case Events.SWITCH_ROOM:
                self._remove_others()
            case Events.RECORDING_STARTED | Events.TRANSCRIPTION_STATE_CHANGED:
                _logger.warning(
                    "%s in an encrypted meeting: the server has no key and receives noise (%s)", event.name, data
                )

    def _remove_others(self) -> None:
        # The SDK drops its consumers here without closing them.
        for transport in list(self._attached_transports):
            pymediasoup.end_consumers(transport)
        for participant_id in {track.participant_id for track in self.manager.tracks()} - {self._local_id}:
            self.manager.remove_participant(participant_id)

    def _attach_transports(self) -> None:
        for transport in vars(self._room).values():
            if isinstance(transport, Transport) and transport not in self._attached_transports:
                pymediasoup.attach(transport, self.manager, local_id=self._local_id)
                self._attached_transports.add(transport)

    def _note_kind(self, stream: pymediasoup.Stream) -> None:
        # The SDK stores "share" and "shareAudio" in the track, from which a consumer reads its kind.
        kind: SharedKind = pymediasoup.media_kind(stream.kind)
        if (stream.appData or {}).get("share"):
            kind = "shareAudio" if kind == "audio" else "share"
        self._kinds[stream.track.id] = kind

    def _on_state_change(self, change: E2EEStateChange) -> None:
        meeting = self._meeting()
        if meeting is None:
            return
        own = change.participant_id == self._local_id
        participant = meeting.local_participant if own else meeting.participants.get(change.participant_id)
        if participant is not None:
            kind = self._kinds.get(change.track_id or "", change.kind)
            self._notify(participant, StateData(kind, change.state, change))

    def _notify(self, participant: Participant, data: StateData) -> None:
        """Call the handlers of ``participant.on``, and the SDK's listeners that have ``on_e2ee_state_changed``."""
        for listener in list(participant.listeners):
            if hasattr(listener, "on_e2ee_state_changed"):
                try:
                    result = listener.on_e2ee_state_changed(data)
                    if inspect.isawaitable(result):
                        self._listening.add(asyncio.ensure_future(self._await_listener(participant, result)))
                except Exception:
                    _logger.exception("a listener of %r failed", participant)
        emitter = vars(participant).get(_EMITTER)
        if emitter is not None:
            emitter.emit(STATE_CHANGE, data)

    async def _await_listener(self, participant: Participant, result: Awaitable[object]) -> None:
        """Await the result of a listener that is a coroutine function."""
        try:
            await result
        except Exception:
            _logger.exception("a listener of %r failed", participant)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._listening.discard(task)


def enable_e2ee(
    meeting: Meeting,
    provider: KeyRingProvider,
    *,
    profile: Profile | str = Profile.VIDEOSDK,
    **options: Unpack[ManagerOptions],
) -> MeetingE2EE:
    """Encrypt a meeting that has not been joined yet. From then on it sends no unsealed media.

    :param meeting: a ``Meeting`` of the package videosdk.
    :param provider: the provider of the keys.
    :param profile: the wire format.
    :param options: further options of `E2EEManager`, such as ``hold_frames``, ``on_missing_key``, ``replay_window``.
    :raises E2EEError: the meeting was joined, or is encrypted already.
    :raises TypeError: *meeting* is no meeting, or *provider* is no provider.
    """
    require("meeting", meeting, Meeting, "a Meeting of the package videosdk")
    if _room_of(meeting)._joined:
        raise E2EEError("meeting was joined already: enable end-to-end encryption before join()")
    if _session_of(meeting) is not None:
        raise E2EEError("meeting is end-to-end encrypted already")
    _detours.check_meeting()
    gate = _gate_of(meeting)
    made = MeetingE2EE(meeting, provider, profile, options)
    gate.encrypted = True
    setattr(meeting, _SESSION, made)
    return made


def set_key_provider(
    provider: KeyRingProvider | None, *, profile: Profile | str = Profile.VIDEOSDK, **options: Unpack[ManagerOptions]
) -> None:
    """Encrypt every meeting that ``VideoSDK.init_meeting`` makes from now on.

    An unencrypted meeting that was made before can no longer be joined.

    A child process that was started with ``spawn`` or ``forkserver`` has no provider. Its unencrypted meetings cannot
    be joined, until it calls this function or `enable_e2ee` itself. The environment of the child tells it so.

    :param provider: the provider of the keys. None means that later meetings are not encrypted.
    :param profile: the wire format.
    :param options: the options of `enable_e2ee`.
    :raises E2EEError: an unencrypted meeting is not over. It would stay unencrypted: leave it, and make it again.
    """
    if provider is not None:
        E2EEManager(provider, profile, **options)  # raises for a wrong argument here, not when a meeting is made
        if any(not _gate_of(meeting).is_over for meeting in _unencrypted_meetings()):
            gc.collect()  # a discarded meeting lives in a reference cycle
        plain = _unencrypted_meetings()
        if any(not _gate_of(meeting).is_over for meeting in plain):
            raise E2EEError(
                "a meeting was made without end-to-end encryption: set the key provider before init_meeting(), "
                "or leave that meeting first"
            )
        if any(not is_attached(pc) and pc.connectionState != "closed" for pc in _plain_connections()):
            raise E2EEError(
                "the SDK made a plain RTCPeerConnection before the key provider was set: close it first, or attach it"
            )
        for meeting in plain:
            _gate_of(meeting).refused = "the meeting was made before the key provider was set"
        os.environ[PROVIDER_PROCESS] = str(os.getpid())
    else:
        os.environ.pop(PROVIDER_PROCESS, None)
    _inherited()[PROVIDER_PROCESS] = os.environ.get(PROVIDER_PROCESS, "")
    _default.provider, _default.profile, _default.options = provider, profile, options


def _set_elsewhere() -> bool:
    """Return whether a provider was set in the process that started this one, and not in this one."""
    set_in = _inherited().get(PROVIDER_PROCESS, os.environ.get(PROVIDER_PROCESS, ""))
    return _default.provider is None and set_in not in ("", str(os.getpid()))


def _inherited() -> dict[str, str]:
    """Return the part of this process that `multiprocessing` copies into each child when it makes the child."""
    configuration: dict[str, str] = vars(multiprocessing.current_process()).get("_config", {})
    return configuration


def _is_on(meeting_id: str | None) -> bool:
    """Return whether end-to-end encryption is on: a provider was set, or the meeting of this id is encrypted.

    None stands for any meeting. A meeting that is over does not count.
    """
    if _default.provider is not None or _set_elsewhere():
        return True
    encrypted = [meeting for meeting in list(_meetings) if _session_of(meeting) is not None]
    return any(meeting_id in (None, meeting.id) and not _gate_of(meeting).is_over for meeting in encrypted)


def _check_connection(pc: PeerConnection) -> None:
    """Refuse a plain connection that the SDK or a package on top of it makes, and that no meeting will attach.

    :raises E2EEError: a provider was set.
    """
    beside = ("frameseal", package_of(pc))
    made_by = next((name for name in modules_of_callers() if not is_in(name, *beside)), "")
    if not is_in(made_by, "videosdk") or is_in(made_by, _TRANSPORTS):
        return
    if _is_on(""):
        raise E2EEError(
            f"{made_by} makes a plain RTCPeerConnection, and the key provider covers meetings only: before, call "
            "frameseal.aiortc.attach_all(e2ee, local_id=..., remote_id=...), with only= to leave the connection plain"
        )
    _default.plain = [*(reference for reference in _default.plain if reference() is not None), weakref.ref(pc)]


def _plain_connections() -> list[Any]:
    """Return the connections that `_check_connection` passed, and that are in use."""
    return [pc for reference in _default.plain if (pc := reference()) is not None]


class _Gate:
    """Knows whether a meeting is over, and stops a meeting from joining that is older than the key provider.

    A meeting is over when it was left, or when joining it failed, and its connections are closed. Neither ends a join
    that is in progress, nor a later join. So each step of joining checks the gate.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.encrypted = False
        self.refused = ""  # why the meeting may not be joined
        self._join_ended = False
        self._room = _room_of(meeting)
        join = self._room.join

        @functools.wraps(join)
        def checked_join(*args: object, **options: object) -> object:
            self._check()
            return join(*args, **options)

        self._room.join = checked_join
        for step in ("async_join", "handle_send_transport", "handle_recv_transport", "handle_produce"):
            self._check_before(step)

    def _check_before(self, step: str) -> None:
        original = getattr(self._room, step)

        @functools.wraps(original)
        async def checked_step(*args: object, **options: object) -> object:
            self._check()
            try:
                return await original(*args, **options)
            finally:
                self._join_ended |= step == "async_join"

        setattr(self._room, step, checked_step)

    def _check(self) -> None:
        if self.refused and not self.encrypted:
            raise E2EEError(
                f"{self.refused}, so it is not end-to-end encrypted: call set_key_provider() in this process, and make "
                "it anew"
            )

    @property
    def is_over(self) -> bool:
        """True if the meeting sends nothing, and can send only after it has passed this gate."""
        transports = [value for value in vars(self._room).values() if isinstance(value, Transport)]
        closed = all(transport.handler.pc.connectionState == "closed" for transport in transports)
        return closed and bool(self._room._closed or self._join_ended)


class _Default:
    provider: KeyRingProvider | None = None
    profile: Profile | str = Profile.VIDEOSDK
    options: ManagerOptions = {}  # noqa: RUF012 - replaced, and never changed
    plain: list[weakref.ref[PeerConnection]] = []  # noqa: RUF012 - replaced, and never changed


_default = _Default()
_meetings: weakref.WeakSet[Meeting] = weakref.WeakSet()


def _unencrypted_meetings() -> list[Meeting]:
    return [meeting for meeting in list(_meetings) if _session_of(meeting) is None]


def _existing_meetings() -> list[Meeting]:
    # Use type(), because isinstance() reads an attribute of the object, which raises for a dead weak proxy.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Meeting)]


def _session_of(meeting: Meeting) -> MeetingE2EE | None:
    session: MeetingE2EE | None = vars(meeting).get(_SESSION)
    return session


def _gate_of(meeting: Meeting) -> _Gate:
    room = _room_of(meeting)
    gate: _Gate | None = vars(room).get(_GATE)
    if gate is None:
        gate = _Gate(meeting)
        setattr(room, _GATE, gate)
    return gate


def _room_of(meeting: Meeting) -> RoomClient:
    """Return the room client, which is in an attribute with a mangled name."""
    return next(value for value in vars(meeting).values() if isinstance(value, RoomClient))


def _on(participant: Participant, event: str, handler: Callable[[StateData], object] | None = None) -> object:
    """Add a handler of ``"e2ee-state-change"``, or return a decorator that adds it.

    :raises ValueError: *event* is another event.
    """
    if event != STATE_CHANGE:
        raise ValueError(f"event must be {STATE_CHANGE!r}: use add_event_listener() for other events")
    emitter = vars(participant).setdefault(_EMITTER, LoopEmitter())
    return emitter.on(event, handler) if handler is not None else emitter.on(event)


def _off(participant: Participant, event: str, handler: Callable[[StateData], object]) -> None:
    """Remove a handler of *event*."""
    emitter = vars(participant).get(_EMITTER)
    if emitter is not None:
        emitter.remove_listener(event, handler)


def _install() -> None:
    """Add the API of VideoSDK's JavaScript SDK to the classes. An attribute that exists is not replaced."""
    # Hook the class, because the application may hold init_meeting already, or make a Meeting without it.
    make = Meeting.__init__

    @functools.wraps(make)
    def hooked_init(meeting: Meeting, *args: object, **options: object) -> None:
        make(meeting, *args, **options)
        _gate_of(meeting)
        _meetings.add(meeting)
        if _default.provider is not None:
            enable_e2ee(meeting, _default.provider, profile=_default.profile, **_default.options)
        elif _set_elsewhere():
            _gate_of(meeting).refused = "the key provider was set in the parent process, and not in that of the meeting"

    Meeting.__init__ = hooked_init
    _meetings.update(_existing_meetings())
    for cls, name, value in (
        (Participant, "on", _on),
        (Participant, "off", _off),
        (Meeting, "is_e2ee_enabled", property(lambda meeting: _session_of(meeting) is not None)),
        (Meeting, "e2ee", property(_session_of)),
        (VideoSDK, "set_key_provider", staticmethod(set_key_provider)),
    ):
        if not hasattr(cls, name):
            setattr(cls, name, value)


_install()
_detours: Final = Detours(_is_on)
refuse_with(_check_connection)
