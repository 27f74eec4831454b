"""The end-to-end encryption of a call on an event loop: `E2EEManager`, which is a `CallState` with a loop.

A transport (`frameseal.aiortc`, or one of your own) asks the manager for one transform per track and passes every whole
encoded frame through it. Transforms run in encoder and decoder threads; listeners run on the event loop and nowhere
else. docs/guide/states.md is the model in prose; the names of the states are VideoSDK's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from frameseal._fork import nothing, renew_in_child
from frameseal.e2ee.call import CallState
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES
from frameseal.e2ee.monitor import PERIOD
from frameseal.e2ee.report import Report
from frameseal.e2ee.track import Track, TrackTransform
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform
from frameseal.emitter import LoopEmitter
from frameseal.enums import E2EEState, Profile
from frameseal.events import (
    MISSING_KEY,
    E2EEDiagnosis,
    E2EEKeyChange,
    E2EEKeyUsage,
    E2EEMissingKey,
    E2EEStateChange,
    KeyUndelivered,
)
from frameseal.keys import fingerprint
from frameseal.keys.protocol import KeyRingProvider, bounded
from frameseal.keys.provider import ExternalE2EEKeyProvider, KeyProvider
from frameseal.keys.rotation import KeyRotator

__all__ = [
    "E2EEDiagnosis",
    "E2EEKeyChange",
    "E2EEKeyUsage",
    "E2EEManager",
    "E2EEMissingKey",
    "E2EEState",
    "E2EEStateChange",
    "ExternalE2EEKeyProvider",
    "KeyProvider",
    "KeyRingProvider",
    "KeyRotator",
    "KeyUndelivered",
    "ReceiverTransform",
    "SenderTransform",
]

_logger = logging.getLogger("frameseal")


class E2EEManager(LoopEmitter):
    """The end-to-end encryption of one call: hands out transforms and reports how they fare.

    :param provider: where the keys come from.
    :param profile: the wire format, for all tracks of the call.
    :param loop: where events are delivered. By default the loop that is running, or else the first one bound.
    :param replay_window: frames per incoming track that are remembered, so that none opens twice (0 to 65,536). None is
        the profile's default: 1,024 in sframe, off in the others, where no other implementation has it.
    :param hold_frames: frames per incoming track, 0 to 256, that are kept while their key is missing, and opened when
        it comes: for keys that travel beside the media and may lose the race. Audio that was held is late by as much.
    :param hold_bytes: bytes of these frames per incoming track, 1 to 268,435,456; by default 4 MiB. Where they would be
        more, the oldest are dropped. `ReceiverTransform.stats` counts what waits and what was lost.
    :param sif_trailer: what a LiveKit server ends the blank frames with that it injects when a track pauses
        (``JoinResponse.sif_trailer``), at least 8 bytes. None takes such frames for failures. It may be set later, as
        the property of this name.
    :param pass_sif_frames: whether `frameseal.aiortc` gives these blank frames to the decoder: silence, and pictures of
        8x8 pixels. By default they end there. Who calls `ReceiverTransform.decrypt` gets them either way.
    :param on_missing_key: called on the event loop with one `E2EEMissingKey` when frames name a key that is not there:
        the moment to ask for it. At once, and then every 5 s while it lasts. A function or a coroutine function; the
        same as listening to ``"e2ee-missing-key"``.
    :param bind_media: the profile sframe only: authenticate each frame together with the kind and codec of its track.
        Then a forwarder cannot pass off sound as pictures, nor one codec as another. All participants must have it, and
        other implementations do not: off by default.
    :raises ValueError: for an unknown profile, a number out of its range, or *bind_media* in a profile but sframe.
    :raises TypeError: for a provider that is none, such as the key itself.

    Emits, each with one object:

    * ``"e2ee-state-change"``, `E2EEStateChange`: on change only, per participant, kind, direction and track.
    * ``"e2ee-stalled"``, `E2EEStateChange`: frames of a track arrive, and none has been opened for 2 s.
    * ``"e2ee-diagnosis"``, `E2EEDiagnosis`: why frames do not open, where their bytes tell.
    * ``"e2ee-missing-key"``, `E2EEMissingKey`.
    * ``"e2ee-key-usage"``, `E2EEKeyUsage`: this side has sealed so many frames with a key that a new one is due.
    * ``"e2ee-injected-frame"``, `E2EEStateChange`: a server's blank frame has come, the first since a sealed one.

    Listeners may be functions or coroutine functions. One that raises is logged to the logger ``frameseal``, and its
    exception is emitted as ``"error"`` for whoever listens; media and other listeners do not notice. All methods but
    the emitter's own may be called from any thread.
    """

    def __init__(
        self,
        provider: KeyRingProvider,
        profile: Profile | str = Profile.VIDEOSDK,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        replay_window: int | None = None,
        hold_frames: int = 0,
        hold_bytes: int = DEFAULT_HOLD_BYTES,
        sif_trailer: bytes | None = None,
        pass_sif_frames: bool = False,
        on_missing_key: Callable[[E2EEMissingKey], Any] | None = None,
        bind_media: bool = False,
    ) -> None:
        """Make a manager; it knows no participant yet."""
        if on_missing_key is not None and not callable(on_missing_key):
            raise TypeError("on_missing_key must be a function or coroutine function")
        self._call = CallState(
            provider,
            profile,
            _weakly(self.deliver),
            background=_weakly(self._run_in_thread),
            replay_window=replay_window,
            hold_frames=hold_frames,
            hold_bytes=hold_bytes,
            sif_trailer=sif_trailer,
            pass_sif_frames=pass_sif_frames,
            bind_media=bind_media,
        )
        self._ticker = _Ticker(self._call)
        super().__init__(loop)
        if on_missing_key is not None:
            self.on(MISSING_KEY, on_missing_key)

    @property
    def profile(self) -> Profile:
        """The wire format of the call."""
        return self._call.profile

    @property
    def provider(self) -> KeyRingProvider:
        """Where the keys come from."""
        return self._call.provider

    @property
    def sif_trailer(self) -> bytes | None:
        """What a LiveKit server ends its blank frames with; None takes them for failures.

        It may be set at any time and from any thread, since it is known only after joining, and another one in a room
        that is made anew: tracks that are there already follow.

        :raises ValueError: for fewer than 8 bytes. The one before stays.
        :raises TypeError: for anything but bytes and None.
        """
        return self._call.sif_trailer

    @sif_trailer.setter
    def sif_trailer(self, trailer: bytes | None) -> None:
        self._call.sif_trailer = trailer

    @property
    def is_e2ee_enabled(self) -> bool:
        """Whether frames can be sealed now: there is a key to send with."""
        return self._call.can_encrypt

    def short_code(self, participant_ids: Iterable[str] = ()) -> str:
        """Return what people compare by voice, to see that the same keys open frames here and there: 40 digits.

        It covers every key of the provider's that may open a frame, with its key id and owner
        (docs/guide/verification.md). It takes some 0.2 s, once for the same keys: on an event loop,
        ``await asyncio.to_thread(e2ee.short_code)``.

        :param participant_ids: those who must have a key. A provider without ``participant_ids`` of its own does not
            tell who has keys: name everybody in the room, oneself included, where each has their own.
        :raises ValueError: for a participant without a key, or no key at all.
        :raises RuntimeError: the keys changed all the time, or this Python has no PBKDF2.
        """
        if isinstance(participant_ids, str):
            raise TypeError("participant_ids are several ids: put a single one into a list")
        known = {track.participant_id for track in self.tracks()}
        return fingerprint.of_provider(self.provider, self.profile, participant_ids, known)

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on *loop*, those kept from before included. The first call wins, while its loop lives."""
        super().bind_loop(loop)
        if isinstance(self.provider, LoopEmitter):
            self.provider.bind_loop(loop)
        self._ticker.start(loop)

    def sender_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> SenderTransform:
        """Return what seals the frames of one outgoing track; *participant_id* is this side's own id.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        transform = self._call.sender_transform(participant_id, kind, codec, track_id=track_id)
        transform.owner = self
        self._ticker.wake()
        return transform

    def receiver_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> ReceiverTransform:
        """Return what opens the frames of one incoming track; *participant_id* is the id of who sends it.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        transform = self._call.receiver_transform(participant_id, kind, codec, track_id=track_id)
        transform.owner = self
        self._ticker.wake()
        return transform

    def report_internal_error(
        self, participant_id: str, kind: str, reason: str, *, track_id: str | None = None
    ) -> None:
        """Put every track of this participant and kind into InternalError: for what goes wrong around the transforms.

        The next frame that a track's transform handles well brings it back. Callable from any thread.

        :param reason: a short machine-readable text without media or keys.
        :param track_id: put only this track into InternalError, and make it known if it is not.
        """
        self._call.report_internal_error(participant_id, kind, reason, track_id=track_id)

    def report_not_encrypted(self, participant_id: str, kind: str, *, track_id: str) -> None:
        """Put an incoming track into InternalError (``sender_not_encrypted``): its sender says so of itself.

        Only a frame that opens ends it. Callable from any thread, also before the track's transform is made.
        """
        self._call.report_not_encrypted(participant_id, kind, track_id=track_id)

    def state(self, participant_id: str, kind: str, *, track_id: str | None = None) -> E2EEState | None:
        """Return the last reported state, or None before the first frame.

        :param track_id: ask for this one track. Without it, and with several tracks of one kind (camera and screen),
            the answer is the gravest of their states: a track that fails is not hidden by one that works.
        """
        return self._call.state(participant_id, kind, track_id=track_id)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the states of a participant who left. The transforms made for them still work.

        Frames that still come within a second are late ones, and report nothing. With any later frame a new record
        begins: its state is reported as that of a track which has just come. Their keys are the provider's:
        `KeyProvider.remove` forgets those.
        """
        self._call.remove_participant(participant_id)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Forget the state of a track that has ended, which `state` would go on returning.

        For transports of your own: `frameseal.aiortc` notices by itself that tracks end. As in `remove_participant`,
        transforms that are still used work and report nothing.

        :param track_id: forget this one track; without it, all tracks of the participant and kind.
        """
        self._call.remove_track(participant_id, kind, track_id=track_id)

    def report(self) -> Report:
        """Return how each track fares, since when and why: plain data, for applications to show. From any thread.

        It has no key and no media in it: key ids, counters, times, and the names of participants and tracks.
        """
        return self._call.report()

    def report_json(self, *, indent: int | None = 2) -> str:
        """Return `report` as JSON, in ASCII: what support needs, in one paste.

        :param indent: spaces for each level, 0 to 16; None: all in one line.
        :raises ValueError: for a number out of its range.
        """
        return json.dumps(self.report(), indent=None if indent is None else bounded("indent", indent, 0, 16))

    def tracks(self) -> list[Track]:
        """Return the tracks that are known now."""
        return self._call.tracks()

    def __repr__(self) -> str:
        """Name the profile, and the class of the provider: one of somebody else's may show its keys."""
        return f"{type(self).__name__}({type(self.provider).__name__}, profile={self.profile.value!r})"

    def _release(self, transform: TrackTransform) -> None:
        """Record that *transform* receives no frames, for now or for good. For transports of this package."""
        self._call.release(transform)

    def _resume(self, transform: TrackTransform) -> None:
        """Record that *transform* receives frames again. For transports of this package."""
        self._call.resume(transform)
        self._ticker.wake()

    def _run_in_thread(self, function: Callable[[], object]) -> bool:
        """Run *function* in a thread of the loop's executor. Returns False without a loop."""
        loop = self.events_loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(loop.run_in_executor, None, function)
        except RuntimeError:  # the loop is closed: the call is over
            return False
        return True


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls *method* while its object is alive.

    A bound method would make a reference cycle, and managers would wait for the garbage collector. Transforms keep
    their manager alive instead (`Transform.owner`).
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        method = reference()
        return None if method is None else method(*arguments)

    return call


class _Ticker:
    """Calls `CallState.tick` on an event loop while the call has transforms. It does not keep the call alive."""

    _lock: threading.Lock
    _loop: asyncio.AbstractEventLoop | None

    def __init__(self, call: CallState) -> None:
        """Start without a loop: nothing ticks."""
        self._call = weakref.ref(call)
        renew_in_child(self, _lock=threading.Lock, _loop=nothing, _ticking=bool)  # the parent's ticks end in the parent

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick on *loop*. From any thread; without effect while another loop ticks."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._ticking = loop, False
        self.wake()

    def wake(self) -> None:
        """Go on ticking, since there is a transform. From any thread. Nothing ticks without one."""
        with self._lock:
            if self._loop is None or self._ticking:
                return
            with suppress(RuntimeError):  # the loop is closed: the call is over, or another loop will be bound
                self._loop.call_soon_threadsafe(self._tick)
                self._ticking = True

    def _tick(self) -> None:
        call = self._call()
        if call is None or self._loop is None:
            return
        try:
            call.tick()
        except Exception:
            _logger.exception("the checks of a call failed")
        with self._lock:
            self._ticking = call.is_active()
            if self._ticking:
                self._loop.call_later(PERIOD, self._tick)
