"""The end-to-end encryption of a call on an event loop: `E2EEManager`, which is a `CallState` with a loop.

A transport is `frameseal.aiortc` or your own. It asks the manager for one transform per track, and passes every whole
encoded frame through it. Transforms run in encoder and decoder threads. Listeners run on the event loop and nowhere
else. docs/guide/states.md describes the model. The names of the states are VideoSDK's.
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
from frameseal._secrecy import require
from frameseal.e2ee.call import CallState
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES
from frameseal.e2ee.monitor import PERIOD
from frameseal.e2ee.report import Report
from frameseal.e2ee.track import Track, TrackTransform
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform
from frameseal.emitter import LoopEmitter
from frameseal.enums import E2EEState, Profile
from frameseal.events import MISSING_KEY, E2EEMissingKey
from frameseal.keys import fingerprint
from frameseal.keys.protocol import KeyRingProvider, bounded

_TRANSFORM = "a transform that sender_transform or receiver_transform returned"

_logger = logging.getLogger("frameseal")


class E2EEManager(LoopEmitter):
    """The end-to-end encryption of one call: makes transforms, and emits the events that their frames cause.

    :param provider: the source of the keys.
    :param profile: the wire format, for all tracks of the call.
    :param loop: the loop on which listeners run. By default it is the running loop, or otherwise the first one bound.
    :param replay_window: the number of frames remembered per incoming track, so that none opens twice (0 to 65,536).
        None is the profile's default: 1,024 in sframe and stream, and off in the others, as in other implementations.
    :param hold_frames: the maximum number of frames per incoming track, 0 to 256, that wait while their key is missing.
        They open when it arrives. Use this if keys travel beside the media and may arrive late. Held audio plays late.
    :param hold_bytes: the maximum size of the held frames per incoming track, 1 to 268,435,456 bytes; by default 4 MiB.
        At the limit the oldest are dropped. `ReceiverTransform.stats` counts held and dropped frames.
    :param sif_trailer: the trailer of the blank frames that a LiveKit server injects when a track pauses
        (``JoinResponse.sif_trailer``), at least 8 bytes. With None, these frames count as failures. It may be set
        later, as the property of this name.
    :param pass_sif_frames: True if `frameseal.aiortc` passes these blank frames to the decoder: silence, and pictures
        of 8x8 pixels. By default it drops them. `ReceiverTransform.decrypt` returns them in both cases.
    :param on_missing_key: called on the event loop with one `E2EEMissingKey` when frames name a key that is missing: at
        once, and then every 5 s while it is missing. Fetch the key here. A function or a coroutine function; the same
        as a listener of ``"e2ee-missing-key"``.
    :param bind_media: only in the profile sframe: authenticate each frame together with the kind and codec of its
        track. Then a forwarder cannot pass off audio as video, or one codec as another. All participants must enable
        it, and other implementations do not support it: off by default.
    :raises ValueError: for an unknown profile, a number out of its range, *bind_media* outside the profile sframe, or a
        provider with a ratchet window in a profile without a ratchet (stream).
    :raises TypeError: for an object that is no provider, such as the key itself.

    Emits, each with one object:

    * ``"e2ee-state-change"``, `E2EEStateChange`: a track changed its state, per participant, kind, direction and track.
    * ``"e2ee-stalled"``, `E2EEStalled`: frames of a track arrive, and none has opened for 2 s.
    * ``"e2ee-diagnosis"``, `E2EEDiagnosis`: the likely reason why frames do not open, where their bytes show it.
    * ``"e2ee-missing-key"``, `E2EEMissingKey`.
    * ``"e2ee-key-usage"``, `E2EEKeyUsage`: this side's key nears its usage limit, so set a new one.
    * ``"e2ee-injected-frame"``, `E2EEInjectedFrame`: a server's blank frame, the first since a sealed one.

    Listeners may be functions or coroutine functions. If a listener raises, the exception is logged to the logger
    ``frameseal`` and emitted as ``"error"``. Media and other listeners are not affected. All methods except the
    emitter's own may be called from any thread.
    """

    def __init__(
        self,
        provider: KeyRingProvider,
        profile: Profile | str,
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
        """Make a manager without participants."""
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
        """The source of the keys."""
        return self._call.provider

    @property
    def sif_trailer(self) -> bytes | None:
        """The trailer of a LiveKit server's blank frames. With None, these frames count as failures.

        It may be set at any time and from any thread, and existing tracks follow. It is known only after joining, and
        changes when a room is made anew.

        :raises ValueError: for fewer than 8 bytes. The previous trailer stays.
        :raises TypeError: for an object that is neither bytes nor None.
        """
        return self._call.sif_trailer

    @sif_trailer.setter
    def sif_trailer(self, trailer: bytes | None) -> None:
        self._call.sif_trailer = trailer

    @property
    def is_e2ee_enabled(self) -> bool:
        """True if frames can be sealed now, that is, if there is a key to send with."""
        return self._call.can_encrypt

    def short_code(self, participant_ids: Iterable[str] = ()) -> str:
        """Return 40 digits that people compare by voice, to verify that the same keys are in use on all sides.

        It covers every key of the provider that may open a frame, with its key id and owner
        (docs/guide/verification.md). The first call for a set of keys lasts some 0.2 s. On an event loop, use
        ``await asyncio.to_thread(e2ee.short_code)``.

        :param participant_ids: the participants who must have a key. A provider without ``participant_ids`` does not
            list the owners of keys. If each participant has their own key there, name everybody in the room, including
            this side.
        :raises ValueError: for a participant without a key, or without any key at all.
        :raises RuntimeError: if the keys changed during every attempt, or this Python has no PBKDF2.
        :raises TypeError: if *participant_ids* is a str.
        """
        if isinstance(participant_ids, str):
            raise TypeError("participant_ids must be several ids, not a str: put a single id into a list")
        known = {track.participant_id for track in self.tracks()}
        return fingerprint.of_provider(self.provider, self.profile, participant_ids, known)

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on *loop* from now on, including waiting events. Has no effect while another loop is open."""
        super().bind_loop(loop)
        if isinstance(self.provider, LoopEmitter):
            self.provider.bind_loop(loop)
        self._ticker.start(loop)

    def sender_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> SenderTransform:
        """Return the transform that seals the frames of one outgoing track.

        :param participant_id: this side's own id.
        :param kind: ``"audio"`` or ``"video"``.
        :param codec: the lower-case name in the mime type, such as ``"opus"``, or None.
        :param track_id: the transport's id of the track, or None.
        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        transform = self._call.sender_transform(participant_id, kind, codec, track_id=track_id)
        transform.owner = self
        self._ticker.wake()
        return transform

    def receiver_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> ReceiverTransform:
        """Return the transform that opens the frames of one incoming track.

        :param participant_id: the id of the sender.
        :param kind: ``"audio"`` or ``"video"``.
        :param codec: the lower-case name in the mime type, such as ``"opus"``, or None.
        :param track_id: the transport's id of the track, or None.
        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        transform = self._call.receiver_transform(participant_id, kind, codec, track_id=track_id)
        transform.owner = self
        self._ticker.wake()
        return transform

    def report_internal_error(
        self, participant_id: str, kind: str, reason: str, *, track_id: str | None = None
    ) -> None:
        """Put every track of this participant and kind into InternalError. For errors outside the transforms.

        The next frame that a track's transform handles well ends the state.

        :param reason: a short machine-readable text without media or keys.
        :param track_id: put only this track into InternalError. An unknown track becomes known by it.
        :raises ValueError: for a kind other than audio and video.
        """
        self._call.report_internal_error(participant_id, kind, reason, track_id=track_id)

    def report_not_encrypted(self, participant_id: str, kind: str, *, track_id: str) -> None:
        """Put an incoming track into InternalError (``sender_not_encrypted``), since its sender declares it plain.

        Only a frame that opens ends the state. It may be called before the track's transform is made.

        :raises ValueError: for a kind other than audio and video.
        """
        self._call.report_not_encrypted(participant_id, kind, track_id=track_id)

    def state(self, participant_id: str, kind: str, *, track_id: str | None = None) -> E2EEState | None:
        """Return the last reported state, or None before the first frame.

        :param track_id: return the state of this one track. Without it, the most severe state of all tracks of the kind
            (camera and screen) is returned. So a healthy track does not hide a failing track.
        """
        return self._call.state(participant_id, kind, track_id=track_id)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the states of a participant who left. The transforms made for them still work.

        Frames that still arrive within a second are late ones, and report nothing. A later frame starts a new record,
        and its state is reported like the first state of a new track. The participant's keys belong to the provider:
        `KeyProvider.remove` forgets them.
        """
        self._call.remove_participant(participant_id)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Forget the state of a track that has ended, so that `state` no longer returns it.

        For transports of your own: `frameseal.aiortc` detects the end of tracks itself. As in `remove_participant`,
        transforms that are still used work and report nothing.

        :param track_id: forget this one track. Without it, all tracks of the participant and kind are forgotten.
        """
        self._call.remove_track(participant_id, kind, track_id=track_id)

    def release(self, transform: TrackTransform) -> None:
        """Record that *transform* receives no frames, for now or for good, and drop its held frames.

        `state` prefers tracks whose transforms receive frames. A released transform still works.

        :raises TypeError: *transform* is no transform.
        """
        require("transform", transform, "track", _TRANSFORM)
        self._call.release(transform)

    def resume(self, transform: TrackTransform) -> None:
        """Record that *transform* receives frames again after `release`.

        :raises TypeError: *transform* is no transform.
        """
        require("transform", transform, "track", _TRANSFORM)
        self._call.resume(transform)
        self._ticker.wake()

    def report(self) -> Report:
        """Return the state of each track, its cause and its start, as plain data for applications to show.

        It holds no key and no media: key ids, counters, times, and the names of participants and tracks.
        """
        return self._call.report()

    def report_json(self, *, indent: int | None = 2) -> str:
        """Return `report` as JSON in ASCII, for a support request.

        :param indent: spaces for each level, 0 to 16. None puts everything into one line.
        :raises ValueError: for a number out of its range.
        """
        return json.dumps(self.report(), indent=None if indent is None else bounded("indent", indent, 0, 16))

    def tracks(self) -> list[Track]:
        """Return the tracks that are known now."""
        return self._call.tracks()

    def __repr__(self) -> str:
        """Show the profile and the class of the provider, not its repr: a foreign provider may show its keys."""
        return f"{type(self).__name__}({type(self.provider).__name__}, profile={self.profile.value!r})"

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
        """Start without a loop. Nothing ticks yet."""
        self._call = weakref.ref(call)
        renew_in_child(self, _lock=threading.Lock, _loop=nothing, _ticking=bool)  # the parent's ticks end in the parent

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick on *loop*. Has no effect while another loop ticks. Callable from any thread."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._ticking = loop, False
        self.wake()

    def wake(self) -> None:
        """Continue ticking, because a transform is in use. Callable from any thread."""
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
