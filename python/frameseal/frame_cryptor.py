"""A cryptor for SDKs and pipelines that are not aiortc: two methods, any thread, no event loop.

Whoever has whole encoded frames (GStreamer, PyAV, an SDK's own RTP stack) programs against the protocol `FrameCryptor`,
and takes `CallCryptor` where nothing else is given.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from frameseal._fork import renew_in_child
from frameseal._secrecy import Confidential
from frameseal.e2ee.call import CallState
from frameseal.e2ee.transforms import ReceiverTransform, SenderTransform, Transform
from frameseal.enums import Profile
from frameseal.events import MISSING_KEY, STATE_CHANGE, E2EEMissingKey, E2EEStateChange
from frameseal.keys.protocol import KeyRingProvider

__all__ = ["CallCryptor", "FrameCryptor"]

# Tracks of one participant in one direction, each with a cipher: codec and track id may be what a peer says.
MAX_TRACKS: Final = 64

_Transform = TypeVar("_Transform", SenderTransform, ReceiverTransform)
_Tracks = dict[str, dict[tuple[str, str, str | None], _Transform]]

_logger = logging.getLogger("frameseal")


@runtime_checkable
class FrameCryptor(Protocol):
    """Seals and opens single encoded frames: what an SDK needs to know of an encryption.

    The contract: *frame* is one whole encoded frame, as it is before packetising (H.264 and H.265 as a byte stream with
    start codes) or after depacketising; never a packet. *kind* is ``"audio"`` or ``"video"``, *codec* the lower-case
    name in its mime type ("opus", "vp8", "h264"...). *participant_id* is who sends the frame, in both directions.
    *track_id* tells several tracks of one kind apart. Both methods may be called from any thread, for several tracks at
    once, and frames of one track in the order in which they are sent; they return in microseconds, block on nothing,
    and never raise for what a frame is. None means: drop it, send or decode nothing in its place.
    """

    def encrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Return the sealed frame, to be packetised by its codec's own rules; None: it must not be sent."""

    def decrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Return the encoded frame; None: it must not reach a decoder."""


class CallCryptor(Confidential):
    """The `FrameCryptor` of a call: keys from a provider, states to a callback.

    :param provider: where the keys come from.
    :param profile: the wire format, for all tracks.
    :param on_state_change: called with each `E2EEStateChange`, in the thread that handled the frame: be quick, and do
        not call back into the cryptor. What it raises is logged. No loop runs here, so it is no coroutine function.
    :param on_missing_key: called in the same way with each `MissingKey`: at once, and then every 5 s while it lasts.
    :param replay_window: as for `E2EEManager`, and so is *sif_trailer*. A server's blank frames are returned as frames.
    :raises ValueError: for an unknown profile or an option out of range; and by both methods for an unknown kind, or a
        codec that the profile refuses (AV1 in the trailer profiles).
    :raises TypeError: for a callback that is no function, or a coroutine function.

    A participant has at most 64 tracks in each direction: frames of further ones are dropped, until `remove_track` or
    `remove_participant` lets go of some.

    What an event loop is for elsewhere is not here: stalls, diagnoses, the warning of a worn key (look at
    `KeyProvider.frames_sealed`), and the ratchet steps of passphrases, which `KeyRing.derive_ratchet_step` derives.
    """

    _lock: threading.Lock  # never held while a transform is made, which may derive a key

    def __init__(
        self,
        provider: KeyRingProvider,
        profile: Profile | str = Profile.VIDEOSDK,
        *,
        on_state_change: Callable[[E2EEStateChange], object] | None = None,
        on_missing_key: Callable[[E2EEMissingKey], object] | None = None,
        replay_window: int | None = None,
        sif_trailer: bytes | None = None,
    ) -> None:
        """Make a cryptor; it knows no track yet."""
        _check_callback("on_state_change", on_state_change)
        _check_callback("on_missing_key", on_missing_key)
        deliver = _Listeners({STATE_CHANGE: on_state_change, MISSING_KEY: on_missing_key})
        self._call = CallState(provider, profile, deliver, replay_window=replay_window, sif_trailer=sif_trailer)
        renew_in_child(self, _lock=threading.Lock)
        self._senders: _Tracks[SenderTransform] = {}
        self._receivers: _Tracks[ReceiverTransform] = {}
        self._warned = False

    @property
    def sif_trailer(self) -> bytes | None:
        """What a LiveKit server ends its blank frames with, as for `E2EEManager`; it may be set at any time."""
        return self._call.sif_trailer

    @sif_trailer.setter
    def sif_trailer(self, trailer: bytes | None) -> None:
        self._call.sif_trailer = trailer

    def encrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Seal one frame, as `FrameCryptor` says."""
        tracks, track = self._senders.get(participant_id), (kind, codec, track_id)
        transform = tracks.get(track) if tracks is not None else None
        if transform is None:
            transform = self._make(self._senders, self._call.sender_transform, participant_id, track)
        return transform.encrypt(frame) or None if transform is not None else None

    def decrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Open one frame, as `FrameCryptor` says."""
        tracks, track = self._receivers.get(participant_id), (kind, codec, track_id)
        transform = tracks.get(track) if tracks is not None else None
        if transform is None:
            transform = self._make(self._receivers, self._call.receiver_transform, participant_id, track)
        return transform.decrypt(frame) or None if transform is not None else None

    def _make(
        self,
        transforms: _Tracks[_Transform],
        make: Callable[..., _Transform],
        participant_id: str,
        track: tuple[str, str, str | None],
    ) -> _Transform | None:
        """Make the transform of a new track. Returns None if the participant has as many as there may be."""
        kind, codec, track_id = track
        if len(transforms.get(participant_id, {})) >= MAX_TRACKS:
            if not self._warned:
                self._warned = True
                _logger.warning("a participant has %d tracks: frames of further ones are dropped", MAX_TRACKS)
            return None
        # Before the lock is taken: it may derive a key.
        made = make(participant_id, kind, codec, track_id=track_id or f"{kind} {codec}")
        with self._lock:
            tracks = transforms.setdefault(participant_id, {})
            return tracks.setdefault(track, made)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Let go of a track that has ended, with its state: for those whose tracks come and go under new ids."""
        ended: list[Transform] = []
        with self._lock:
            for tracks in (self._senders.get(participant_id, {}), self._receivers.get(participant_id, {})):
                for track in [track for track in tracks if (track[0], track[2]) == (kind, track_id)]:
                    ended.append(tracks.pop(track))
            for everybody in (self._senders, self._receivers):
                if not everybody.get(participant_id, True):
                    del everybody[participant_id]
        for transform in ended:
            self._call.remove_track(participant_id, kind, track_id=transform.track.track_id)

    def remove_participant(self, participant_id: str) -> None:
        """Forget the tracks of a participant who left."""
        with self._lock:
            self._senders.pop(participant_id, None)
            self._receivers.pop(participant_id, None)
        self._call.remove_participant(participant_id)


class _Listeners:
    """Calls the listener of an event at once, and logs what it raises."""

    def __init__(self, listeners: dict[str, Callable[[Any], object] | None]) -> None:
        self._listeners = listeners

    def __call__(self, event: str, value: object) -> None:
        listener = self._listeners.get(event)
        if listener is None:
            return
        try:
            returned = listener(value)
            if inspect.iscoroutine(returned):
                returned.close()
                _logger.error("the listener of %s returned a coroutine, which no loop runs here", event)
        except Exception:
            _logger.exception("the listener of %s failed", event)


def _check_callback(name: str, callback: object) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be a function, not {type(callback).__name__}")
    if inspect.iscoroutinefunction(callback):
        raise TypeError(f"{name} must not be a coroutine function: no event loop runs here")
