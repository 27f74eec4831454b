"""`FrameCryptor` and `CallCryptor`: encryption for SDKs and pipelines without aiortc.

They serve programs that hold whole encoded frames: GStreamer, PyAV, an SDK's own RTP stack. A program calls the
protocol `FrameCryptor`, and uses `CallCryptor` unless it receives another implementation. Both work in any thread,
without an event loop.
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

# The maximum number of tracks per participant and direction. Each track has a cipher, and a peer may choose codec and
# track id.
MAX_TRACKS: Final = 64

_Transform = TypeVar("_Transform", SenderTransform, ReceiverTransform)
_Tracks = dict[str, dict[tuple[str, str, str | None], _Transform]]

_logger = logging.getLogger("frameseal")


@runtime_checkable
class FrameCryptor(Protocol):
    """Seals and opens single encoded frames: the interface between an SDK and an encryption.

    The contract of both methods:

    * *frame* is one whole encoded frame, never a packet: before packetising, or after depacketising. H.264 and H.265
      are byte streams with start codes.
    * *participant_id* is the sender of the frame, in both directions. *kind* is ``"audio"`` or ``"video"``. *codec* is
      the lower-case name in the mime type ("opus", "vp8", "h264"...). *track_id* distinguishes tracks of one kind.
    * Calls may be made from any thread, for several tracks at once. Frames of one track are passed in the order in
      which they are sent.
    * A call returns within microseconds, blocks on nothing, and never raises because of a frame's content. If it
      returns None, drop the frame, and send or decode nothing in its place.
    """

    def encrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Return the sealed frame, to be packetised by its codec's rules. Returns None if it must not be sent."""

    def decrypt(
        self, frame: bytes, *, participant_id: str, kind: str, codec: str, track_id: str | None = None
    ) -> bytes | None:
        """Return the encoded frame. Returns None if it must not reach a decoder."""


class CallCryptor(Confidential):
    """The `FrameCryptor` of a call: it reads keys from a provider, and reports states to a callback.

    :param provider: the source of the keys.
    :param profile: the wire format, for all tracks.
    :param on_state_change: receives each `E2EEStateChange`, in the thread that handled the frame. It must return
        quickly and must not call the cryptor. Its exceptions are logged. It must not be a coroutine
        function, since no loop runs here.
    :param on_missing_key: receives each `E2EEMissingKey` under the same conditions: at once, and then every 5 s while
        the key is missing.
    :param replay_window: as for `E2EEManager`.
    :param sif_trailer: as for `E2EEManager`. A server's blank frames are returned as frames.
    :raises ValueError: for an unknown profile or an option out of range. Both methods raise it for an unknown kind, or
        for a codec that the profile refuses (AV1 in all profiles but sframe).
    :raises TypeError: for a callback that is no function, or is a coroutine function.

    A participant has at most 64 tracks in each direction. Frames of further tracks are dropped until `remove_track` or
    `remove_participant` forgets tracks.

    Work that needs an event loop does not happen here: reports of stalls, diagnoses, the warning of a worn key (read
    `KeyProvider.frames_sealed`), and the ratchet steps of passphrases (call `KeyRing.derive_ratchet_step`).
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
        """Make a cryptor without tracks."""
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
        """The trailer of a LiveKit server's blank frames, as for `E2EEManager`. It may be set at any time."""
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
        """Make the transform of a new track. Returns None if the participant has `MAX_TRACKS` tracks."""
        kind, codec, track_id = track
        if len(transforms.get(participant_id, {})) >= MAX_TRACKS:
            if not self._warned:
                self._warned = True
                _logger.warning(
                    "a participant has %d tracks, the maximum: frames of further tracks are dropped. "
                    "Call remove_track for tracks that have ended",
                    MAX_TRACKS,
                )
            return None
        # Make it outside the lock, since it may derive a key.
        made = make(participant_id, kind, codec, track_id=track_id or f"{kind} {codec}")
        with self._lock:
            tracks = transforms.setdefault(participant_id, {})
            return tracks.setdefault(track, made)

    def remove_track(self, participant_id: str, kind: str, *, track_id: str | None = None) -> None:
        """Forget a track that has ended, with its state. Call it if tracks start and end under new ids."""
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
                _logger.error(
                    "the listener of %s returned a coroutine, which no event loop runs here: pass a plain function",
                    event,
                )
        except Exception:
            _logger.exception("the listener of %s failed", event)


def _check_callback(name: str, callback: object) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"{name} must be a function, not {type(callback).__name__}")
    if inspect.iscoroutinefunction(callback):
        raise TypeError(
            f"{name} must not be a coroutine function, since no event loop runs here: pass a plain function"
        )
