"""Why frames do not open, where their bytes and the keys at hand can tell it from a wrong key.

Frames that fail are looked at once in a while, in a thread beside the decoders: have they been sealed at all, are they
of another profile, does a key that is here open one in another way (the other KDF, another vendor's salt, another key
id)? What a key proves is told at once. What frames look like takes several of them (`frameseal.shapes`). Nothing that
is found changes what happens to a frame: it is dropped. It is a hint for people.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from frameseal import inspection, shapes
from frameseal._fork import renew_in_child
from frameseal._native import Decryptor, KeyRing, Secret
from frameseal.enums import Profile
from frameseal.exceptions import FrameError
from frameseal.providers import KeyProvider
from frameseal.shapes import MAX_FRAMES, VERDICT_FRAMES, Excerpt, Shape

if TYPE_CHECKING:
    from frameseal.e2ee import E2EEManager
    from frameseal.tracks import Kind, Track
    from frameseal.transforms import ReceiverTransform

DIAGNOSIS: Final = "e2ee-diagnosis"

# Per track. A diagnosis with a passphrase takes some 100 ms of a thread.
AGAIN_AFTER: Final = 10.0  # seconds

# From so many failures in a row on: one may be a frame that lost a packet. What is not proven takes more of them.
FAILURES_BEFORE: Final = 3

_logger = logging.getLogger("frameseal")

ADVICE: Final = {
    "not_sealed": "the sender's encryption is off, or something on the way took it away: turn it on at the sender",
    "other_profile": "the sender uses the profile {profile}: use the same one on both sides",
    "other_salt": "the sender has this key with the salt of the profile {profile}: use the same profile on both sides",
    "hkdf": "the sender derives with HKDF, from a raw key: pass bytes, not str",
    "pbkdf2": "the sender derives with PBKDF2, from a passphrase: pass str, not bytes (or use set_passphrase)",
    "other_key_id": "the sender has this key under the key id {key_id}: set it under that id here too",
    "wrong_key": "no key at hand opens it: the sender has another key, or the frames are altered on the way",
    "injected": "a server puts blank frames in while the track pauses: pass sif_trailer, what the room's "
    "JoinResponse.sif_trailer has now (E2EEManager.sif_trailer may be set at any time)",
    "unknown_format": "no format that is known here: the sender encrypts with something else, or not at all",
}


@dataclass(frozen=True, slots=True)
class E2EEDiagnosis:
    """What a listener of ``"e2ee-diagnosis"`` receives: the likely reason why a track's frames do not open."""

    participant_id: str
    """Who sends the track."""

    kind: Kind
    """``"audio"`` or ``"video"``."""

    track_id: str | None
    """The id that the transport gave the track, if any."""

    cause: str
    """Machine-readable: ``not_sealed``, ``other_profile``, ``other_salt``, ``hkdf``, ``pbkdf2``, ``other_key_id``,
    ``wrong_key``, ``injected`` or ``unknown_format``."""

    advice: str
    """What it means and what to do, in a sentence."""

    proven: bool
    """Whether a key opened the frame that way. Otherwise it is what the bytes look like, which anybody can fake."""


@dataclass(eq=False, slots=True)
class _Failing:
    """What is remembered of a track whose frames fail."""

    failures: int = 0  # in a row
    due: list[float] = field(default_factory=lambda: [0.0, 0.0])  # the next time, of keys that are there, and are not
    tried: bool = False  # the keys, in this row of failures
    cause: str | None = None  # the last one that was told
    seen: deque[Excerpt] = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))


class Diagnostician:
    """Looks into the failing frames of one manager's tracks, which it does not keep alive."""

    _lock: threading.Lock
    _busy: bool

    def __init__(self, manager: E2EEManager) -> None:
        """Make one that has seen nothing."""
        self._manager = weakref.ref(manager)
        renew_in_child(self, _lock=threading.Lock, _busy=bool)  # the parent's diagnosis ends in the parent
        self._failing: weakref.WeakKeyDictionary[Track, _Failing] = weakref.WeakKeyDictionary()

    def note(self, track: Track, frame: bytes) -> None:
        """Remember how a frame that failed begins and ends. In the decoder's thread: it is looked at elsewhere."""
        failing = self._failing.get(track)
        if failing is None:
            failing = self._failing[track] = _Failing()
        failing.seen.append(shapes.excerpt(frame))

    def opened(self, track: Track) -> None:
        """A frame has opened after some that failed: what they looked like says nothing about those to come."""
        failing = self._failing.get(track)
        if failing is not None:
            failing.failures, failing.tried = 0, False
            failing.seen.clear()

    def consider(self, transform: ReceiverTransform, frame: bytes, key_id: int | None, missing: bool) -> None:
        """Look into *frame*, which failed, if it is time to. From any thread; returns at once.

        :param key_id: what the frame claims, where it could be read.
        :param missing: whether there is no key of this id.
        """
        manager = self._manager()
        loop = manager.events_loop if manager is not None else None
        if loop is None or transform.track.forgotten or not self._is_time(transform.track, missing):
            return
        try:
            loop.call_soon_threadsafe(self._start, loop, transform, frame, key_id, missing)
        except RuntimeError:  # the loop is closed: the call is over
            self._busy = False

    def _is_time(self, track: Track, missing: bool) -> bool:
        with self._lock:
            failing = self._failing.get(track)
            if failing is None:
                return False
            failing.failures += 1
            if self._busy or monotonic() < failing.due[missing] or failing.failures < FAILURES_BEFORE:
                return False
            if failing.tried and len(failing.seen) < VERDICT_FRAMES:
                return False
            failing.tried = self._busy = True
            return True

    def _start(self, loop: asyncio.AbstractEventLoop, *frame: Any) -> None:
        loop.run_in_executor(None, self._look, *frame)

    def _look(self, transform: ReceiverTransform, frame: bytes, key_id: int | None, missing: bool) -> None:
        try:
            manager, track = self._manager(), transform.track
            failing = self._failing.get(track)
            if manager is None or failing is None or track.forgotten:
                return
            provider = manager.provider
            secrets = provider.secrets_of(track.participant_id) if isinstance(provider, KeyProvider) else {}
            found = diagnose(frame, manager.profile, transform.codec, secrets, key_id, list(failing.seen))
            if found is None:
                return
            cause, advice, proven = found
            failing.failures, failing.tried = 0, False
            failing.due[missing] = monotonic() + AGAIN_AFTER
            if missing and cause in ("wrong_key", "unknown_format"):
                return  # that a key is not there has been told
            if failing.cause != cause:
                failing.cause = cause
                # Whose it is, the event says: logs quote nothing that a caller named (`frameseal._secrecy`).
                _logger.warning("%s does not open: %s", track.kind, advice)
            manager.deliver(
                DIAGNOSIS, E2EEDiagnosis(track.participant_id, track.kind, track.track_id, cause, advice, proven)
            )
        except Exception:
            _logger.exception("a diagnosis of %r failed", transform)
        finally:
            self._busy = False


def diagnose(  # noqa: PLR0917 - what there is to know of a frame
    frame: bytes,
    profile: Profile,
    codec: str | None,
    secrets: dict[int, Secret],
    key_id: int | None,
    seen: Sequence[Excerpt] = (),
) -> tuple[str, str, bool] | None:
    """Return why *frame*, which did not open under *profile*, may have failed: cause, advice, and whether it is proven.

    :param secrets: the keys that are set, by key id.
    :param key_id: what the frame claims, where it could be read.
    :param seen: the last frames of the track that failed, in order. Where they are too few to tell, and nothing is
        proven, None is returned.
    """
    for claimed in dict.fromkeys((key_id, *_key_ids(frame, codec))):
        found = None if claimed is None else _proven(frame, profile, codec, secrets, claimed)
        if found is not None:
            cause, other = found
            return cause, ADVICE[cause].format(profile=other, key_id=claimed), True
    blank = [Decryptor.holds_blank(codec, each.data) for each in seen] or [True]
    if Decryptor.holds_blank(codec, frame) and 2 * sum(blank) > len(blank):
        return "injected", ADVICE["injected"], False
    if len(seen) < VERDICT_FRAMES:
        return None
    shape = shapes.shape(seen, codec)
    ours = Shape.SFRAME if profile is Profile.SFRAME else Shape.TRAILER
    other = "sframe" if shape is Shape.SFRAME else "livekit or videosdk"
    cause = _CAUSES.get(shape, "other_profile") if shape is not ours else "wrong_key"
    return cause, ADVICE[cause].format(profile=other), False


_CAUSES: Final = {Shape.PLAIN: "not_sealed", Shape.UNKNOWN: "unknown_format"}


def _proven(
    frame: bytes, profile: Profile, codec: str | None, secrets: dict[int, Secret], claimed: int
) -> tuple[str, str] | None:
    """Try each key in every other way that is a mistake people make."""
    for set_under, secret in secrets.items():
        if set_under != claimed & 0xFF and _opens(frame, profile, codec, secret, claimed):
            return "other_key_id", ""
        flipped = secret.with_other_kdf()
        if _opens(frame, profile, codec, flipped, claimed):
            return "hkdf" if secret.is_passphrase else "pbkdf2", ""
        for other in Profile:
            for candidate in (secret, flipped):
                if other is not profile and _opens(frame, other, codec, candidate, claimed):
                    same_layout = Profile.SFRAME not in (other, profile)
                    return "other_salt" if same_layout else "other_profile", other.value
    return None


def _opens(frame: bytes, profile: Profile, codec: str | None, secret: Secret, key_id: int) -> bool:
    shared = profile is Profile.SFRAME
    try:
        ring = KeyRing(profile, shared=shared, ring_size=256)
        ring.set_secret(secret, key_id=key_id & 0xFF if shared else key_id)
        Decryptor(ring, codec, 0).decrypt(frame)
    except (FrameError, ValueError):  # not opened, or a profile that has no such key, id or codec
        return False
    return True


def _key_ids(frame: bytes, codec: str | None) -> list[int]:
    """The key ids that a frame names under each layout that fits."""
    parts = (part for reading in inspection.readings(frame, codec) for part in reading.parts)
    return [int(part.note) for part in parts if part.name in ("key index", "KID")]
