"""The events of a call: the name of each event, and the class of the object that its listeners receive.

Providers, rotators and managers emit them (`frameseal.emitter.LoopEmitter`). No event holds a key or media.
docs/guide/keys.md lists what an application does about each one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from frameseal.enums import E2EEState

STATE_CHANGE: Final = "e2ee-state-change"
STALLED: Final = "e2ee-stalled"
DIAGNOSIS: Final = "e2ee-diagnosis"
MISSING_KEY: Final = "e2ee-missing-key"
KEY_USAGE: Final = "e2ee-key-usage"
INJECTED_FRAME: Final = "e2ee-injected-frame"
KEY_SET: Final = "key-set"
KEY_RATCHETED: Final = "key-ratcheted"
KEY_UNDELIVERED: Final = "key-undelivered"
RECORDING_LOSS: Final = "recording-loss"

Kind = Literal["audio", "video"]
Direction = Literal["send", "receive"]
LossReason = Literal["queue_full", "not_written", "refused", "not_sealed"]


@dataclass(frozen=True, slots=True)
class E2EEStateChange:
    """Reports that one track of one participant changed its state (``"e2ee-state-change"``)."""

    participant_id: str
    """The sender of the track, on both sides of the call."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    state: E2EEState
    """The new state. It differs from the track's last one."""

    direction: Direction | None
    """``"send"`` or ``"receive"``. None marks an internal error outside any track."""

    track_id: str | None
    """The id that the transport passed for the track. None if it passed none."""

    key_id: int | None
    """The key id concerned, or None if it is unknown. On a failure it is the id that the frame claimed."""

    reason: str | None
    """Machine-readable. None on success; ``unknown_key``, ``authentication_failed``, ``malformed_frame``,
    ``replayed_frame``, ``sender_mismatch`` or ``key_exhausted`` on a failure. With InternalError it is an exception's
    class name, or the reason that the transport reported."""

    counters: Mapping[str, int] = field(hash=False)
    """``stats()`` of the track's Encryptor or Decryptor at the time of the change."""

    time: float
    """The time of the change, in seconds since the epoch."""

    detail: str | None = None
    """``"recovered"`` on a success that follows a failure, otherwise None."""


@dataclass(frozen=True, slots=True)
class E2EEStalled:
    """Reports that frames of an incoming track arrive, and none has opened for 2 s (``"e2ee-stalled"``).

    A track stalls once, until one of its frames opens.
    """

    participant_id: str
    """The sender of the track."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    track_id: str | None
    """The id that the transport passed for the track. None if it passed none."""

    state: E2EEState
    """The state of the track, which has not changed."""

    key_id: int | None
    """The key id that belongs to the state, as in `E2EEStateChange`."""

    reason: str | None
    """The reason of the state, as in `E2EEStateChange`."""

    counters: Mapping[str, int] = field(hash=False)
    """The sum of the ``stats()`` of the track's Decryptors."""

    time: float
    """The time of the report, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class E2EEInjectedFrame:
    """Reports a LiveKit server's blank frame, the first one since a sealed frame (``"e2ee-injected-frame"``).

    Its sender has paused the track, or left. Nothing about the frame is authentic.
    """

    participant_id: str
    """The sender of the track."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    track_id: str | None
    """The id that the transport passed for the track. None if it passed none."""

    counters: Mapping[str, int] = field(hash=False)
    """``stats()`` of the track's Decryptor."""

    time: float
    """The time of arrival, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class E2EEMissingKey:
    """Reports that frames name a key which the provider does not hold (``"e2ee-missing-key"``)."""

    participant_id: str
    """The sender of the frames."""

    kind: Kind
    """``"audio"`` or ``"video"``: the kind of the first frame that names the key."""

    key_id: int
    """The key id, or KID, that the frames claim. It is not authenticated: ask for the key of this participant, not for
    any id."""


@dataclass(frozen=True, slots=True)
class E2EEKeyUsage:
    """Warns that a sending key nears its usage limit (``"e2ee-key-usage"``). Set a new key before the limit."""

    participant_id: str
    """This side's own id."""

    key_id: int
    """The id of the key."""

    used: int
    """Frames that this side has sealed with the key."""

    limit: int
    """The number of frames at which sealing fails with `KeyExhausted`."""


@dataclass(frozen=True, slots=True)
class E2EEDiagnosis:
    """Reports the likely reason why a track's frames do not open (``"e2ee-diagnosis"``)."""

    participant_id: str
    """The sender of the track."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    track_id: str | None
    """The id that the transport passed for the track. None if it passed none."""

    cause: str
    """Machine-readable: ``not_sealed``, ``other_profile``, ``other_salt``, ``hkdf``, ``pbkdf2``, ``other_key_id``,
    ``other_spelling``, ``wrong_key``, ``injected`` or ``unknown_format``."""

    advice: str
    """One sentence for people: the meaning of the cause, and the remedy."""

    proven: bool
    """True if a key opened a frame in this way. False if the cause is only what the bytes look like, which anybody can
    fake."""


@dataclass(frozen=True, slots=True)
class E2EEKeyChange:
    """Reports that a provider's key was set or ratcheted (``"key-set"``, ``"key-ratcheted"``). It holds no key."""

    participant_id: str | None
    """The owner of the key. None means the shared key."""

    key_id: int
    """The id of the key."""


@dataclass(frozen=True, slots=True)
class KeyUndelivered:
    """Reports that a new key did not reach every recipient (``"key-undelivered"``). It holds no key."""

    participant_ids: frozenset[str]
    """The *targets* without the new key. Empty if the rotator has no targets: then nobody knows who lacks it."""

    key_id: int
    """The id of the new key."""

    in_use: bool
    """True if this side already seals with the new key, which these participants cannot open. False if the rotation
    failed: the old key stays in use, so participants who left still open what is sealed."""


@dataclass(frozen=True, slots=True)
class RecordingLoss:
    """Reports that frames are not in the recording (``"recording-loss"``). The call continues."""

    reason: LossReason
    """``"queue_full"``: the disk was too slow. ``"not_written"``: the writer failed, such as on a full disk.
    ``"refused"``: the writer refused the frames. ``"not_sealed"``: nothing shows that the frames are sealed in the
    profile's format, so they may be plaintext."""

    frames: int
    """The number of frames that were lost for this reason since the last event."""

    error: str | None
    """The class name of the writer's last error. None if the writer raised none."""
