"""End-to-end encryption for meetings of VideoSDK's Python SDK (PyPI ``videosdk``), which has none of its own.

The model is that of VideoSDK's JavaScript SDK: set a key provider before a meeting is made, and it is encrypted. See
docs/videosdk.md, which goes through that SDK's documented snippets line by line.
"""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from videosdk import Meeting, Participant, VideoSDK
from videosdk._events import Events
from videosdk.lib.pymediasoup.transport import Transport
from videosdk.room_client import RoomClient

from frameseal import pymediasoup
from frameseal._secrecy import Confidential, require
from frameseal.e2ee import E2EEManager, E2EEState, E2EEStateChange
from frameseal.enums import Profile
from frameseal.events import LoopEmitter
from frameseal.keyrings import KeyRings

__all__ = ["E2EEError", "MeetingE2EE", "StateData", "enable_e2ee", "set_key_provider"]

STATE_CHANGE: Final = "e2ee-state-change"

_logger = logging.getLogger("frameseal")


class E2EEError(RuntimeError):
    """Something that an encrypted meeting cannot do, or that came too late."""


@dataclass(frozen=True, slots=True)
class StateData:
    """What a handler of a participant's ``"e2ee-state-change"`` receives."""

    kind: str
    """``"audio"``, ``"video"``, ``"share"`` or ``"shareAudio"``."""

    state: E2EEState
    """One of the seven."""

    change: E2EEStateChange
    """The rest: track, key id, reason, counters."""


class MeetingE2EE(Confidential):
    """The encryption of one meeting, made by `enable_e2ee` or, where a provider is set, with the meeting."""

    def __init__(
        self, meeting: Meeting, provider: KeyRings, profile: Profile | str, options: Mapping[str, Any]
    ) -> None:
        """Use `enable_e2ee`."""
        self._room: Any = _only(meeting, RoomClient)
        self._meeting = weakref.ref(meeting)
        self._local_id: str = meeting.local_participant.id
        self._kinds: dict[str, str] = {}
        self._covered: weakref.WeakSet[Any] = weakref.WeakSet()
        self.manager: Final = E2EEManager(provider, profile, **options)
        self.manager.on(STATE_CHANGE, self._changed)
        # Where transports are made: what they will send starts later, inside produce().
        for maker in ("handle_send_transport", "handle_recv_transport"):
            self._follow(maker, self._cover)
        for refused in ("start_recording", "async_start_recording"):
            self._refuse(refused, "record it: recordings would be noise. Record in a participant that has the key")
        for refused in ("start_transcription", "async_start_transcription"):
            self._refuse(refused, "transcribe it. Transcribe in a participant that has the key")
        self._room.on(Events.ADD_CONSUMER, self._note_kind)
        self._room.on(Events.ADD_PRODUCER, self._note_kind)
        self._room.on(Events.REMOVE_PEER, lambda data: self.manager.remove_participant(data["peerId"]))
        for event in (Events.RECORDING_STARTED, Events.TRANSCRIPTION_STATE_CHANGED):
            self._room.on(event, functools.partial(self._warn, event))

    def _follow(self, name: str, then: Callable[[], None]) -> None:
        original = getattr(self._room, name)

        @functools.wraps(original)
        async def followed(*args: Any, **options: Any) -> Any:
            result = await original(*args, **options)
            then()
            return result

        setattr(self._room, name, followed)

    def _refuse(self, name: str, what: str) -> None:
        def refused(*args: Any, **options: Any) -> None:
            raise E2EEError(f"this meeting is end-to-end encrypted, so the server cannot {what}")

        setattr(self._room, name, refused)

    def _cover(self) -> None:
        for transport in vars(self._room).values():
            if isinstance(transport, Transport) and transport not in self._covered:
                pymediasoup.attach(transport, self.manager, self._local_id)
                self._covered.add(transport)

    def _note_kind(self, stream: Any) -> None:
        # The SDK writes "share" and "shareAudio" into the track, where a consumer finds its kind.
        kind = "audio" if stream.kind in ("audio", "shareAudio") else "video"
        if (stream.appData or {}).get("share"):
            kind = "shareAudio" if kind == "audio" else "share"
        self._kinds[stream.track.id] = kind

    def _changed(self, change: E2EEStateChange) -> None:
        meeting = self._meeting()
        if meeting is None:
            return
        own = change.participant_id == self._local_id
        participant = meeting.local_participant if own else meeting.participants.get(change.participant_id)
        if participant is not None:
            kind = self._kinds.get(change.track_id or "", change.kind)
            _tell(participant, StateData(kind, change.state, change))

    @staticmethod
    def _warn(event: Any, data: Any) -> None:
        _logger.warning("%s in an encrypted meeting: the server has no key and gets noise (%s)", event.name, data)


def enable_e2ee(
    meeting: Meeting, provider: KeyRings, *, profile: Profile | str = Profile.VIDEOSDK, **options: Any
) -> MeetingE2EE:
    """Encrypt a meeting that has not been joined yet. From then on nothing of it leaves unsealed.

    :param options: as for `E2EEManager`: ``hold_frames``, ``on_missing_key``, ``replay_window``.
    :raises E2EEError: the meeting has been joined, or is encrypted already.
    :raises TypeError: it is no meeting, or *provider* no provider.
    """
    require("meeting", meeting, Meeting, "a Meeting of the package videosdk")
    if _only(meeting, RoomClient)._joined:
        raise E2EEError("this meeting has been joined: enable end-to-end encryption before join()")
    if meeting in _sessions:
        raise E2EEError("this meeting is end-to-end encrypted already")
    made = _sessions[meeting] = MeetingE2EE(meeting, provider, profile, options)
    return made


def set_key_provider(provider: KeyRings | None, *, profile: Profile | str = Profile.VIDEOSDK, **options: Any) -> None:
    """Encrypt every meeting that is made from now on with ``VideoSDK.init_meeting``; None: no further one.

    :param options: as for `enable_e2ee`.
    :raises E2EEError: a meeting was made before that is not encrypted, joined or not. It would stay so: leave it first,
        and make it anew.
    """
    if provider is not None:
        E2EEManager(provider, profile, **options)  # what is wrong with these is told here, and not by the meeting
    if provider is not None and _plain_meetings():
        gc.collect()  # a meeting that was made and given up lives in a cycle
        if _plain_meetings():
            raise E2EEError(
                "a meeting was made without end-to-end encryption: set the key provider before init_meeting(), "
                "or leave that meeting first"
            )
    _default.provider, _default.profile, _default.options = provider, profile, options


def _plain_meetings() -> list[Meeting]:
    # By type(), as isinstance() asks the object: a weak proxy whose referent is gone raises.
    made = [thing for thing in gc.get_objects() if issubclass(type(thing), Meeting)]
    return [meeting for meeting in made if meeting not in _sessions and not _is_over(meeting)]


def _is_over(meeting: Meeting) -> bool:
    return meeting in _failed or bool(_only(meeting, RoomClient)._closed)


class _Default:
    provider: KeyRings | None = None
    profile: Profile | str = Profile.VIDEOSDK
    options: Mapping[str, Any] = MappingProxyType({})


_default = _Default()
_sessions: weakref.WeakKeyDictionary[Meeting, MeetingE2EE] = weakref.WeakKeyDictionary()
_failed: weakref.WeakSet[Meeting] = weakref.WeakSet()
_emitters: weakref.WeakKeyDictionary[Participant, LoopEmitter] = weakref.WeakKeyDictionary()


def _only(owner: Any, kind: type) -> Any:
    """The attribute of this type, whose name is mangled."""
    return next(value for value in vars(owner).values() if isinstance(value, kind))


def _tell(participant: Participant, data: StateData) -> None:
    """Tell the handlers of ``participant.on``, and the SDK's own listeners that have ``on_e2ee_state_changed``."""
    for listener in list(participant.listeners):
        if hasattr(listener, "on_e2ee_state_changed"):
            try:
                listener.on_e2ee_state_changed(data)
            except Exception:
                _logger.exception("a listener of %r failed", participant)
    if participant in _emitters:
        _emitters[participant].emit(STATE_CHANGE, data)


def _on(participant: Participant, event: str, handler: Callable[[StateData], Any] | None = None) -> Any:
    """Listen to ``"e2ee-state-change"``, the one event that has this form; also as a decorator."""
    if event != STATE_CHANGE:
        raise ValueError(f"event must be {STATE_CHANGE!r} here: use add_event_listener() for all others")
    emitter = _emitters.setdefault(participant, LoopEmitter())
    return emitter.on(event, handler) if handler is not None else emitter.on(event)


def _off(participant: Participant, event: str, handler: Callable[[StateData], Any]) -> None:
    """Stop listening."""
    if participant in _emitters:
        _emitters[participant].remove_listener(event, handler)


def _note_failure(meeting: Meeting) -> None:
    weakly = weakref.ref(meeting)

    def changed(data: dict[str, Any]) -> None:
        if data["state"] == "FAILED" and (failed := weakly()) is not None:
            _failed.add(failed)

    _only(meeting, RoomClient).on(Events.MEETING_STATE_CHANGED, changed)


def _install() -> None:
    """Add to the SDK's classes what its JavaScript sibling has, without replacing anything that is there."""
    # In the class, because init_meeting may have been taken from it before, and a Meeting made without.
    make = Meeting.__init__

    @functools.wraps(make)
    def made(meeting: Meeting, *args: Any, **options: Any) -> None:
        make(meeting, *args, **options)
        _note_failure(meeting)
        if _default.provider is not None:
            enable_e2ee(meeting, _default.provider, profile=_default.profile, **_default.options)

    Meeting.__init__ = made
    for cls, name, value in (
        (Participant, "on", _on),
        (Participant, "off", _off),
        (Meeting, "is_e2ee_enabled", property(lambda meeting: meeting in _sessions)),
        (Meeting, "e2ee", property(_sessions.get)),
        (VideoSDK, "set_key_provider", staticmethod(set_key_provider)),
    ):
        if not hasattr(cls, name):
            setattr(cls, name, value)


_install()
