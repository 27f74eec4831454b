"""End-to-end encryption for calls of Stream's Python SDK (PyPI ``getstream``, version 4), which has none of its own.

Versions below 5 hold their calls over aiortc. A ``ConnectionManager`` makes a connection for what it publishes and one
for what it subscribes to, and makes both anew when it rejoins or migrates. The adapter attaches each of them inside its
constructor, before it has a track. It finds no connection by itself: docs/adapters/getstream.md says what it hooks.

One connection carries the media of everybody. The SDK reads the participant of a track from the track's id, and the
adapter asks it for that participant.
"""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any, Final, cast

from frameseal import aiortc
from frameseal._secrecy import Confidential, require
from frameseal.aiortc.lock import hook
from frameseal.aiortc.protocols import PeerConnection, Receiver
from frameseal.aiortc.rule import MANAGER, is_manager
from frameseal.aiortc.stack import base_of, install
from frameseal.e2ee.manager import E2EEManager

__all__ = ["Attachment", "attach", "attach_all", "stop_attaching", "user_id"]

_ATTACHMENT: Final = "_frameseal_e2ee"  # the attribute of connection managers that holds the attachment
_CONNECTIONS: Final = ("publisher_pc", "subscriber_pc")  # the attributes that hold the connections of a call

# The types are Any, because the SDK need not be installed where this module is imported.
ConnectionManager = Any
Participant = Any
ParticipantOf = Callable[[Participant], str | None]
ManagerOf = E2EEManager | Callable[[ConnectionManager], E2EEManager]

# True while the SDK builds the request to join an encrypted call.
_announcing: ContextVar[bool] = ContextVar("frameseal_getstream_announcing", default=False)


def user_id(participant: Participant) -> str | None:
    """Return the id of a participant's user, by which Stream's SDKs choose keys. None means that there is none."""
    return participant.user_id or None


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class _Rule(Confidential):
    """The arguments of `attach_all`."""

    e2ee: ManagerOf
    remote_id: ParticipantOf
    announce: bool

    def manager_of(self, connection: ConnectionManager) -> E2EEManager:
        if is_manager(self.e2ee):
            return cast(E2EEManager, self.e2ee)
        made = cast("Callable[[ConnectionManager], object]", self.e2ee)(connection)
        if not is_manager(made):
            raise TypeError(f"e2ee must return {MANAGER}, not {type(made).__name__}")
        return cast(E2EEManager, made)


class _State:
    """Holds the state of the process. Each attribute is replaced as a whole, so that any thread may read it."""

    rule: _Rule | None = None
    sdk: _Sdk | None = None


class Attachment(Confidential):
    """The encryption of one call, made by `attach`: of every connection that its ``ConnectionManager`` makes."""

    def __init__(
        self,
        connection: ConnectionManager,
        e2ee: E2EEManager,
        local_id: str | None,
        remote_id: ParticipantOf,
        announce: bool,
        *,
        by_rule: bool = False,
    ) -> None:
        """Use `attach`."""
        self.manager: Final = e2ee
        self._local_id = connection.user_id if local_id is None else local_id
        if not isinstance(self._local_id, str) or not self._local_id:
            raise ValueError("local_id must be given, because connection has no user_id")
        self._state = connection.participants_state
        self._remote_id = remote_id
        self._attachments: weakref.WeakKeyDictionary[PeerConnection, aiortc.Attachment] = weakref.WeakKeyDictionary()
        self._present: set[str] = set()
        self._detached = False
        self._by_rule = by_rule
        self.announces: Final = announce
        # The SDK refers weakly to the method, and the subscription owns it.
        self._subscription = self._state.map(self._on_participants)

    @property
    def detached(self) -> bool:
        """True after `detach`."""
        return self._detached

    @property
    def counters(self) -> list[aiortc.TrackCounters]:
        """A snapshot of the counters of each sender and receiver of the connections that are still in use."""
        return [each for attachment in self._attachments.values() for each in attachment.counters]

    def detach(self) -> None:
        """Stop sealing and opening, fail closed. From now on the call neither sends nor decodes any media.

        This holds for later connections of the call too. To continue, `attach` it again.
        """
        self._detached = True
        for attachment in list(self._attachments.values()):
            attachment.detach()

    @property
    def is_final(self) -> bool:
        """True if another attachment may not replace it: `attach` made it, and it was not detached."""
        return not (self._by_rule or self._detached)

    def cover(self, pc: PeerConnection) -> None:
        """Cover one connection of the call. A second call changes nothing."""
        if pc in self._attachments:
            return
        made = aiortc.attach(pc, self.manager, local_id=self._local_id, remote_id=self._participant_of)
        self._attachments[pc] = made
        if self._detached:
            made.detach()

    def _participant_of(self, receiver: Receiver) -> str | None:
        """Return the participant whose track *receiver* has. None means that the SDK does not know the track yet."""
        track = receiver.track
        participant = None if track is None else self._state.get_user_from_track_id(track.id)
        return None if participant is None else self._remote_id(participant)

    def _on_participants(self, participants: list[Participant]) -> None:
        """Forget the states of participants who have left with their last session."""
        present = {name for each in participants if (name := self._remote_id(each)) is not None}
        for name in self._present - present - {self._local_id}:
            self.manager.remove_participant(name)
        self._present = present


def attach(
    connection: ConnectionManager,
    e2ee: E2EEManager,
    *,
    local_id: str | None = None,
    remote_id: ParticipantOf = user_id,
    announce: bool = True,
) -> Attachment:
    """Seal everything that a call publishes and open everything that it subscribes to.

    Call it before the connection manager connects. The attachment covers every connection that the manager makes, also
    when it reconnects, rejoins or migrates.

    :param connection: a ``ConnectionManager`` of getstream, as ``rtc.join`` returns it.
    :param e2ee: the manager of the call, which has the keys and reports the states.
    :param local_id: the id of the participant whose key seals. None means the ``user_id`` of *connection*.
    :param remote_id: returns the id of the participant whose key opens, for a ``Participant`` of the SDK. The default
        is the participant's user id, as in Stream's SDKs. While it returns None, and while the SDK does not know whose
        track a receiver has, the frames of the receiver are dropped.
    :param announce: True tells Stream's server that the call is encrypted (``e2ee`` in the request to join), as
        Stream's SDKs do. The server compares it with the settings of the call.
    :raises RuntimeError: *connection* is attached already, or has connected without encryption.
    :raises UnsupportedStack: the installed getstream, or its aiortc, lacks a function that the adapter needs.
    :raises TypeError: *connection* is no connection manager, *e2ee* is no manager, or another argument is of another
        type.
    :raises ValueError: neither *local_id* nor *connection* has an id.
    """
    require("e2ee", e2ee, "receiver_transform", MANAGER)
    if local_id is not None:
        require("local_id", local_id, str, "a str, or None for the user id of connection")
    _check_callables(remote_id, announce)
    sdk = _install()
    require("connection", connection, sdk.connection_manager, "a ConnectionManager of the package getstream")
    with hook.lock:
        present = _attachment_of(connection)
        if present is not None and present.is_final:
            raise RuntimeError("connection is attached already: call detach() of its attachment first")
        open_connections = _open_connections(connection)
        if present is None and open_connections:
            raise RuntimeError("connection has connected without encryption: leave() it first, or attach a new one")
        made = Attachment(connection, e2ee, local_id, remote_id, announce)
        if present is not None:
            present.detach()
        setattr(connection, _ATTACHMENT, made)
        for pc in open_connections:
            made.cover(pc)
    return made


def attach_all(e2ee: ManagerOf, *, remote_id: ParticipantOf = user_id, announce: bool = True) -> None:
    """Attach every call that this process joins from now on, also inside a framework.

    A second call replaces the rule for later calls. `attach` replaces the attachment that the rule made. Any thread may
    call it, with or without an event loop.

    :param e2ee: the manager of all calls, or a callable that receives a ``ConnectionManager`` and returns its manager.
        If the callable raises, joining raises.
    :param remote_id: as in `attach`.
    :param announce: as in `attach`.
    :raises RuntimeError: a call of this process has connected without encryption. It would stay so: leave it first.
    :raises UnsupportedStack: the installed getstream, or its aiortc, lacks a function that the adapter needs.
    :raises TypeError: *e2ee* is neither a manager nor a callable, or another argument is of another type.
    """
    if not is_manager(e2ee) and not callable(e2ee):
        raise TypeError(f"e2ee must be {MANAGER}, or a callable that returns one, not {type(e2ee).__name__}")
    if inspect.iscoroutinefunction(e2ee):
        raise TypeError("e2ee must not be a coroutine function: it is called inside a constructor, so use def")
    _check_callables(remote_id, announce)
    sdk = _install()
    with hook.lock:
        # Use type(), because isinstance() reads an attribute of the object, which raises for a dead weak proxy.
        calls = [found for found in gc.get_objects() if issubclass(type(found), sdk.connection_manager)]
        if any(_attachment_of(call) is None and _open_connections(call) for call in calls):
            raise RuntimeError("a call has connected without encryption: leave() it first, or call attach_all() before")
        _State.rule = _Rule(e2ee, remote_id, announce)


def stop_attaching() -> None:
    """Leave calls that are joined from now on unattached. Attached calls stay attached."""
    _State.rule = None


def _check_callables(remote_id: object, announce: object) -> None:
    if not callable(remote_id) or inspect.iscoroutinefunction(remote_id):
        raise TypeError(f"remote_id must be a function of a Participant, not {type(remote_id).__name__}")
    require("announce", announce, bool, "True or False")


def _attachment_of(connection: ConnectionManager) -> Attachment | None:
    """Return the attachment of a call. None means that the call is not attached."""
    attachment: Attachment | None = vars(connection).get(_ATTACHMENT)
    return attachment


def _open_connections(connection: ConnectionManager) -> list[PeerConnection]:
    # A connection manager whose constructor raised lacks its parts.
    parts = vars(connection).get("_peer_manager")
    found = [] if parts is None else [vars(parts).get(name) for name in _CONNECTIONS]
    return [pc for pc in found if pc is not None and pc.connectionState != "closed"]


def _find_attachment(connection: ConnectionManager) -> Attachment | None:
    """Return the attachment of a call. The rule of `attach_all` makes it. None means that neither exists."""
    present, rule = _attachment_of(connection), _State.rule
    if present is None and rule is not None:
        e2ee = rule.manager_of(connection)  # without the lock, because it is code of the application
        present = Attachment(connection, e2ee, None, rule.remote_id, rule.announce, by_rule=True)
        setattr(connection, _ATTACHMENT, present)
    return present


def _cover(connection: ConnectionManager, pc: PeerConnection) -> None:
    """Attach a connection of an attached call."""
    attachment = _find_attachment(connection)
    if attachment is not None:
        with hook.lock:
            attachment.cover(pc)


class _CoveredConnection:
    """An attribute of a call that holds a connection, and attaches what it is set to: other code may set its own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, parts: object | None, owner: type | None = None) -> object:
        if parts is None:
            return self
        try:
            return vars(parts)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, parts: Any, pc: PeerConnection | None) -> None:
        if pc is not None:
            _cover(parts.connection_manager, pc)
        vars(parts)[self._name] = pc


class _Sdk:
    """The installed getstream, with the hooks in it."""

    def __init__(self) -> None:
        """Test the seams of the SDK, then install the hooks.

        :raises LookupError: a seam has another shape. Nothing was changed.
        :raises ImportError: a module is missing. Nothing was changed.
        """
        managers, peers, connections, utils, states = (
            importlib.import_module(f"getstream.video.rtc.{name}")
            for name in ("connection_manager", "peer_connection", "pc", "connection_utils", "participants")
        )
        self.connection_manager: type = managers.ConnectionManager
        _test_seams(managers, peers, connections, utils, states)
        for cls, argument in (
            (connections.PublisherPeerConnection, "manager"),
            (connections.SubscriberPeerConnection, "connection"),
        ):
            cls.__init__ = _covering(cls.__init__, argument)
        for name in _CONNECTIONS:
            setattr(peers.PeerConnectionManager, name, _CoveredConnection(name))
        managers.ConnectionManager._connect_internal = _announced(managers.ConnectionManager._connect_internal)
        vars(utils)["build_body_dict"] = _with_announcement(utils.build_body_dict)


def _test_seams(
    managers: ModuleType, peers: ModuleType, connections: ModuleType, utils: ModuleType, states: ModuleType
) -> None:
    """Test whether the SDK has the functions that the adapter hooks or relies on.

    :raises LookupError: a function has another shape.
    """
    publisher, subscriber = connections.PublisherPeerConnection, connections.SubscriberPeerConnection
    parts, state = peers.PeerConnectionManager, states.ParticipantsState
    for function, names in (
        (publisher.__init__, ["self", "manager", "configuration"]),
        (subscriber.__init__, ["self", "connection", "configuration", "drain_video_frames"]),
        (parts.__init__, ["self", "connection_manager", "drain_video_frames"]),
        (state.get_user_from_track_id, ["self", "track_id"]),
        (state.map, ["self", "handler"]),
    ):
        if list(inspect.signature(function).parameters) != names:
            raise LookupError(f"{function.__qualname__} does not accept ({', '.join(names)})")
    for function, used in (
        (managers.ConnectionManager.__init__, {"PeerConnectionManager", "_peer_manager", "participants_state"}),
        (managers.ConnectionManager._connect_internal, {"join_call", "setup_subscriber"}),
        (parts.__init__, {"connection_manager", *_CONNECTIONS}),
        (parts.setup_subscriber, {"SubscriberPeerConnection", "subscriber_pc"}),
        (parts.add_tracks, {"PublisherPeerConnection", "publisher_pc"}),
        (utils.join_call, {"join_call_coordinator_request"}),
        (utils.join_call_coordinator_request, {"build_body_dict"}),
    ):
        if not used <= set(inspect.unwrap(function).__code__.co_names):
            raise LookupError(f"{function.__qualname__} does not use {', '.join(sorted(used))}")
    if not inspect.iscoroutinefunction(managers.ConnectionManager._connect_internal):
        raise LookupError("ConnectionManager._connect_internal is no coroutine function")
    for cls in (publisher, subscriber):
        base = base_of(cls)
        if base is None:
            raise LookupError(f"{cls.__qualname__} is no RTCPeerConnection")
        install(base.__module__.rpartition(".")[0])


def _covering(init: Callable[..., None], argument: str) -> Callable[..., None]:
    """Return the constructor of a connection that covers the connection at its end."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def covering_init(pc: PeerConnection, *args: object, **options: object) -> None:
        init(pc, *args, **options)
        _cover(signature.bind(pc, *args, **options).arguments[argument], pc)

    return covering_init


def _announced(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that joins, which tells the server of the encryption."""

    @functools.wraps(connect)
    async def announced_connect(connection: ConnectionManager, *args: object, **options: object) -> object:
        attachment = _find_attachment(connection)
        token = _announcing.set(attachment is not None and attachment.announces)
        try:
            return await connect(connection, *args, **options)
        finally:
            _announcing.reset(token)

    return announced_connect


def _with_announcement(build: Callable[..., dict[str, object]]) -> Callable[..., dict[str, object]]:
    """Return the function that builds the request to join, which adds ``e2ee`` while an encrypted call joins."""

    @functools.wraps(build)
    def build_body_dict(**fields: object) -> dict[str, object]:
        body = build(**fields)
        return {**body, "e2ee": True} if _announcing.get() else body

    return build_body_dict


def _install() -> _Sdk:
    """Return the SDK. The first call installs the hooks.

    :raises UnsupportedStack: the SDK is missing, or lacks a function that the adapter needs.
    """
    with hook.lock:
        if _State.sdk is None:
            try:
                _State.sdk = _Sdk()
            except (ImportError, AttributeError, LookupError, TypeError, ValueError, aiortc.UnsupportedStack) as error:
                try:
                    version = metadata.version("getstream")
                except metadata.PackageNotFoundError:
                    version = "(not installed)"
                raise aiortc.UnsupportedStack(
                    f"getstream {version} is not built the way frameseal's adapter needs ({type(error).__name__}: "
                    f"{error}). Nothing was changed in it. Install getstream[webrtc] 4.3: from version 5 on its media "
                    "are in native code, which no Python code can reach"
                ) from error
        return _State.sdk
