"""End-to-end encryption of a call, without the transport: who takes part, how each track fares, and who is told.

A transport (`frameseal.aiortc`, or one of your own) asks an `E2EEManager` for one transform per track and passes every
whole encoded frame through it. Transforms run in encoder and decoder threads; events reach listeners on the event loop
and nowhere else. docs/guide/states.md is the model in prose; the names of the states are VideoSDK's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any, Final

from frameseal._fork import renew_in_child
from frameseal._native import Decryptor, Encryptor, KeyRing, SenderBindings
from frameseal._secrecy import require
from frameseal.e2ee.diagnosis import Diagnostician, E2EEDiagnosis
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES, MAX_HOLD_BYTES, MAX_HOLD_FRAMES
from frameseal.e2ee.monitor import E2EEKeyUsage, E2EEMissingKey, Monitor
from frameseal.e2ee.report import Report, report
from frameseal.e2ee.track import DOUBTFUL, HEALTHY, SEVERITY, Direction, E2EEStateChange, Kind, Track, checked_kind
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform, Transform
from frameseal.emitter import LoopEmitter
from frameseal.enums import E2EEState, Profile
from frameseal.keys import fingerprint
from frameseal.keys.protocol import E2EEKeyChange, KeyRingProvider, bounded
from frameseal.keys.provider import ExternalE2EEKeyProvider, KeyProvider
from frameseal.keys.rotation import KeyRotator, KeyUndelivered

__all__ = [
    "E2EEDiagnosis",
    "E2EEManager",
    "E2EEState",
    "E2EEStateChange",
    "ExternalE2EEKeyProvider",
    "E2EEKeyChange",
    "KeyProvider",
    "KeyRingProvider",
    "KeyRotator",
    "KeyUndelivered",
    "E2EEKeyUsage",
    "E2EEMissingKey",
    "ReceiverTransform",
    "SenderTransform",
]

STATE_CHANGE: Final = "e2ee-state-change"
INJECTED: Final = "e2ee-injected-frame"
MISSING_KEY: Final = "e2ee-missing-key"

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

    _state_lock: threading.Lock

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
        require("provider", provider, "ring_for", "a provider of keys, such as a KeyProvider")
        self._profile = Profile(profile)
        if on_missing_key is not None and not callable(on_missing_key):
            raise TypeError("on_missing_key must be a function or coroutine function")
        # Refused here rather than with the first frame of each track.
        sif_trailer = _checked(sif_trailer)
        Decryptor(KeyRing(self._profile), replay_window=replay_window, sif_trailer=sif_trailer)
        if bind_media and self._profile is not Profile.SFRAME:
            raise ValueError(f"bind_media: only the profile sframe has a place for it, not {self._profile}")
        self._provider = provider
        self._bind_media = bool(bind_media)
        # Of the trailer profiles a frame does not say who sent it.
        self._senders = SenderBindings() if self._profile is Profile.SFRAME else None
        self._replay_window = replay_window
        self._hold_frames = bounded("hold_frames", hold_frames, 0, MAX_HOLD_FRAMES)
        self._hold_bytes = bounded("hold_bytes", hold_bytes, 1, MAX_HOLD_BYTES)
        self._sif_trailer = sif_trailer
        self._pass_sif_frames = pass_sif_frames
        self._receivers: weakref.WeakSet[ReceiverTransform] = weakref.WeakSet()
        self._local_id = ""
        renew_in_child(self, _state_lock=threading.Lock)
        self._tracks: dict[tuple[str, str, str | None, str | int], Track] = {}
        self._serial = count()
        self._monitor = Monitor(self)
        self._diagnostician = Diagnostician(self)
        super().__init__(loop)
        if on_missing_key is not None:
            self.on(MISSING_KEY, on_missing_key)

    @property
    def profile(self) -> Profile:
        """The wire format of the call."""
        return self._profile

    @property
    def provider(self) -> KeyRingProvider:
        """Where the keys come from."""
        return self._provider

    @property
    def sif_trailer(self) -> bytes | None:
        """What a LiveKit server ends its blank frames with; None takes them for failures.

        It may be set at any time and from any thread, since it is known only after joining, and another one in a room
        that is made anew: tracks that are there already follow.

        :raises ValueError: for fewer than 8 bytes. The one before stays.
        :raises TypeError: for anything but bytes and None.
        """
        return self._sif_trailer

    @sif_trailer.setter
    def sif_trailer(self, trailer: bytes | None) -> None:
        trailer = _checked(trailer)
        Decryptor(KeyRing(self._profile), sif_trailer=trailer)  # refused before any track has it
        with self._state_lock:
            self._sif_trailer = trailer
            for transform in list(self._receivers):
                transform.set_sif_trailer(trailer)

    @property
    def is_e2ee_enabled(self) -> bool:
        """Whether frames can be sealed now: there is a key to send with."""
        return self._provider.ring_for(self._profile, self._local_id).can_encrypt

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
        return fingerprint.of_provider(self._provider, self._profile, participant_ids, known)

    def bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver events on *loop*, those kept from before included. The first call wins, while its loop lives."""
        super().bind_loop(loop)
        if isinstance(self._provider, LoopEmitter):
            self._provider.bind_loop(loop)
        self._monitor.start(loop)

    def sender_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> SenderTransform:
        """Return what seals the frames of one outgoing track; *participant_id* is this side's own id.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        ring = self._provider.ring_for(self._profile, participant_id)
        encryptor = Encryptor(ring, codec)
        discard = self._provider.discard_frame_when_cryptor_not_ready
        transform = SenderTransform(self, encryptor, ring, discard, self._metadata(kind, codec), codec=codec)
        self._adopt(transform, participant_id, kind, "send", track_id)
        self._local_id = participant_id
        return transform

    def receiver_transform(
        self, participant_id: str, kind: str, codec: str | None, *, track_id: str | None = None
    ) -> ReceiverTransform:
        """Return what opens the frames of one incoming track; *participant_id* is the id of who sends it.

        :raises ValueError: for a kind other than audio and video, or a codec that the profile refuses (AV1).
        """
        ring = self._provider.ring_for(self._profile, participant_id)
        decryptor = Decryptor(
            ring,
            codec,
            self._replay_window,
            senders=self._senders,
            participant_id=None if self._senders is None else participant_id,
        )
        transform = ReceiverTransform(
            self,
            decryptor,
            ring,
            self._provider.discard_frame_when_cryptor_not_ready,
            self._metadata(kind, codec),
            codec=codec,
            hold=self._hold_frames,
            hold_bytes=self._hold_bytes,
            pass_sif_frames=self._pass_sif_frames,
        )
        self._adopt(transform, participant_id, kind, "receive", track_id)
        with self._state_lock:  # after this it hears of each change
            self._receivers.add(transform)
            transform.set_sif_trailer(self._sif_trailer)
        return transform

    def report_internal_error(
        self, participant_id: str, kind: str, reason: str, *, track_id: str | None = None
    ) -> None:
        """Put every track of this participant and kind into InternalError: for what goes wrong around the transforms.

        The next frame that a track's transform handles well brings it back. Callable from any thread.

        :param reason: a short machine-readable text without media or keys.
        :param track_id: put only this track into InternalError, and make it known if it is not.
        """
        with self._state_lock:
            tracks = [t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id)]
            for track in tracks or [self._track(participant_id, checked_kind(kind), None, track_id)]:
                self._change(track, E2EEState.InternalError, None, reason, {})

    def report_not_encrypted(self, participant_id: str, kind: str, *, track_id: str) -> None:
        """Put an incoming track into InternalError (``sender_not_encrypted``): its sender says so of itself.

        Only a frame that opens ends it. Callable from any thread, also before the track's transform is made.
        """
        with self._state_lock:
            track = self._track(participant_id, checked_kind(kind), "receive", track_id)
            track.declared_plain = True
            self._change(track, E2EEState.InternalError, None, None, {})

    def state(self, participant_id: str, kind: str, *, track_id: str | None = None) -> E2EEState | None:
        """Return the last reported state, or None before the first frame.

        :param track_id: ask for this one track. Without it, and with several tracks of one kind (camera and screen),
            the answer is the gravest of their states: a track that fails is not hidden by one that works.
        """
        with self._state_lock:
            tracks = [t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id)]
            live = [track for track in tracks if track.is_live]
            states = {track.state for track in live or tracks}
        return next((state for state in SEVERITY if state in states), None)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the states of a participant who left. The transforms made for them still work.

        Frames that still come within a second are late ones, and report nothing. With any later frame a new record
        begins: its state is reported as that of a track which has just come. Their keys are the provider's:
        `KeyProvider.remove` forgets those.
        """
        if self._senders is not None:
            self._senders.release(participant_id)
        with self._state_lock:
            self._forget(track for track in self._tracks.values() if track.participant_id == participant_id)
        self._monitor.forget(participant_id)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Forget the state of a track that has ended, which `state` would go on returning.

        For transports of your own: `frameseal.aiortc` notices by itself that tracks end. As in `remove_participant`,
        transforms that are still used work and report nothing.

        :param track_id: forget this one track; without it, all tracks of the participant and kind.
        """
        with self._state_lock:
            self._forget(t for t in self._tracks_of(participant_id, kind) if track_id in (None, t.track_id))

    def report(self) -> Report:
        """Return how each track fares, since when and why: plain data, for applications to show. From any thread.

        It has no key and no media in it: key ids, counters, times, and the names of participants and tracks.
        """
        return report(self)

    def report_json(self, *, indent: int | None = 2) -> str:
        """Return `report` as JSON, in ASCII: what support needs, in one paste.

        :param indent: spaces for each level, 0 to 16; None: all in one line.
        :raises ValueError: for a number out of its range.
        """
        return json.dumps(report(self), indent=None if indent is None else bounded("indent", indent, 0, 16))

    def tracks(self) -> list[Track]:
        """Return the tracks that are known now. For the watch."""
        with self._state_lock:
            return list(self._tracks.values())

    def __repr__(self) -> str:
        """Name the profile, and the class of the provider: one of somebody else's may show its keys."""
        return f"{type(self).__name__}({type(self._provider).__name__}, profile={self._profile.value!r})"

    def _metadata(self, kind: str, codec: str | None) -> bytes:
        """Return what frames of this kind and codec are authenticated with, beside themselves."""
        return f"frameseal media v1 {kind}/{codec or ''}".encode() if self._bind_media else b""

    def _forget(self, tracks: Iterable[Track]) -> None:
        gone = set(tracks)
        for key in [key for key, track in self._tracks.items() if track in gone]:
            self._tracks[key].forget()  # first: a track that is in no table must not report
            del self._tracks[key]

    def _release(self, transform: Transform) -> None:
        """Note that *transform* gets no frames, for now or for good. `state` prefers tracks that get frames."""
        with self._state_lock:
            transform.track.transforms.discard(transform)
        if isinstance(transform, ReceiverTransform):
            transform.drop_held()

    def _resume(self, transform: Transform) -> None:
        """Note that *transform* gets frames again."""
        track = transform.track
        with self._state_lock:
            if track in self._tracks.values():
                track.transforms.add(transform)
                return
        if track.direction is not None:
            self._adopt(transform, track.participant_id, track.kind, track.direction, track.track_id)

    def _adopt(
        self, transform: Transform, participant_id: str, kind: str, direction: Direction, track_id: str | None
    ) -> None:
        """Give *transform* its track: the known one of this id, so that a track attached anew keeps its state."""
        with self._state_lock:
            transform.track = self._track(participant_id, checked_kind(kind), direction, track_id)
            transform.track.transforms.add(transform)
        self._monitor.wake()

    def _tracks_of(self, participant_id: str, kind: str) -> list[Track]:
        return [t for t in self._tracks.values() if (t.participant_id, t.kind) == (participant_id, kind)]

    def _track(self, participant_id: str, kind: Kind, direction: Direction | None, track_id: str | None) -> Track:
        """Find or make a track, forgetting those of the same participant and kind whose transforms are gone."""
        key = (participant_id, kind, direction, next(self._serial) if track_id is None else track_id)
        for other, track in list(self._tracks.items()):
            if other[:2] == key[:2] and other != key and not track.is_live:
                del self._tracks[other]
        return self._tracks.setdefault(key, Track(participant_id, kind, direction, track_id))

    def _track_of(self, transform: Transform) -> Track | None:
        """Return the track that *transform* reports to; None while frames are late ones of a removed participant."""
        track = transform.track
        if not track.forgotten:
            return track
        if track.is_late():
            return None
        transform.track = self._track(track.participant_id, track.kind, track.direction, track.track_id)
        transform.track.transforms.add(transform)
        return transform.track

    def _report(
        self,
        transform: Transform,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        """Bring a track to *state*. False only if the change is held back and must be reported again."""
        with self._state_lock:
            track = self._track_of(transform)
            return track is not None and self._change(track, state, key_id, reason, counters)

    def _change(
        self,
        track: Track,
        state: E2EEState,
        key_id: int | None,
        reason: str | None,
        counters: Mapping[str, int],
    ) -> bool:
        if track.declared_plain:
            if state in HEALTHY:
                track.declared_plain = False
            else:
                state, key_id, reason = E2EEState.InternalError, None, "sender_not_encrypted"
        if track.state is state:
            return True
        if (track.in_doubt and state in DOUBTFUL) or not track.may_change():
            return False
        detail = track.change(state, key_id, reason)
        if not track.forgotten:
            self.deliver(STATE_CHANGE, track.event(counters, detail))
        return True

    def _in_use(self) -> list[tuple[Track, list[Transform]]]:
        """Return the tracks that are known now, with their transforms."""
        with self._state_lock:
            return [(track, list(track.transforms)) for track in self._tracks.values()]

    def _diagnosis_of(self, track: Track) -> str | None:
        return self._diagnostician.cause_of(track)

    def _failed_frame(self, transform: ReceiverTransform, frame: bytes) -> None:
        if not transform.track.in_doubt:
            self._diagnostician.note(transform.track, frame)

    def _opened_again(self, transform: ReceiverTransform) -> None:
        self._diagnostician.opened(transform.track)

    def _undecryptable(self, transform: ReceiverTransform, frame: bytes, key_id: int | None) -> None:
        """A frame has failed: look into it, and derive the ratchet steps that may open the next one."""
        if transform.track.in_doubt:
            return
        self._diagnostician.consider(transform, frame, key_id, transform.missing_key)
        self._monitor.derive_ratchet_step(transform)

    def _key_is_missing(self, transform: ReceiverTransform, key_id: int | None) -> None:
        with self._state_lock:
            track = self._track_of(transform)
        if track is None or track.in_doubt or key_id is None:
            return
        if self._monitor.may_request(track.participant_id, key_id, self._last_set(track.participant_id, key_id)):
            self.deliver(MISSING_KEY, E2EEMissingKey(track.participant_id, track.kind, key_id))

    def _last_set(self, participant_id: str, key_id: int) -> int:
        """Return a number that grows when the provider is handed this key, even if no frame ever opens with it."""
        if not isinstance(self._provider, KeyProvider):
            return 0
        # The low bits of a shared SFrame key's KID are its key id; the others name the sender.
        return self._provider.last_set(participant_id, key_id & 0xFF)

    def _end_shortage(self, transform: ReceiverTransform, key_id: int) -> None:
        """A key that was missing is there: when it is missing again, that is news."""
        self._monitor.end_shortage(transform.track.participant_id, key_id)

    def _injected(self, track: Track, counters: Mapping[str, int]) -> None:
        with self._state_lock:
            if not track.forgotten and track.state is not None and track.may_change():
                self.deliver(INJECTED, track.event(counters, "injected"))


def _checked(trailer: object) -> bytes | None:
    if trailer is None:
        return None
    if isinstance(trailer, bytes | bytearray | memoryview):
        return bytes(trailer)
    raise TypeError(
        f"sif_trailer must be bytes or None, not {type(trailer).__name__}: pass JoinResponse.sif_trailer as it came"
    )
