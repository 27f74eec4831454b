"""Diagnoses frames that do not open, where their bytes and the known keys show more than "wrong key".

Some of the frames that fail are examined, in a thread beside the decoders. Were they sealed at all? Are they of another
profile? Does a known key open one in another way: with the other KDF, another vendor's salt, another key id? A cause
that a key proves is reported at once. A cause that only the shape of frames suggests needs several frames
(`frameseal.inspection.shapes`). A diagnosis is a hint for people. It never changes what happens to a frame.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import thread_time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from frameseal._fork import renew_in_child
from frameseal._native import Decryptor, KeyRing, Secret
from frameseal.codecs.plain import Excerpt, excerpt
from frameseal.e2ee.track import Track, TrackTransform
from frameseal.enums import Profile
from frameseal.events import E2EEDiagnosis
from frameseal.exceptions import FrameError
from frameseal.inspection import readings, shapes
from frameseal.inspection.shapes import IV_LEN, MAX_EXCERPTS, MIN_VERDICT_FRAMES, Shape
from frameseal.keys.provider import KeyProvider
from frameseal.profiles import PROFILES, is_sframe, layout

if TYPE_CHECKING:
    from frameseal.keys.protocol import KeyRingProvider

# Seconds between two reports about a track, and between two trials of its keys while untried variants are left.
DIAGNOSIS_INTERVAL: Final = 10.0
TRIAL_INTERVAL: Final = 1.0

# Limits in CPU seconds. One trial stops after `MAX_TRIAL_CPU`, plus at most one derivation (12 ms for a passphrase).
# All trials of a process together use at most a tenth of a core over any minute.
MAX_TRIAL_CPU: Final = 0.1
MAX_BUDGET: Final = 0.6
CPU_SHARE: Final = 0.09

# Failures in a row before a diagnosis: a single frame may have lost a packet. An unproven cause needs more frames.
MIN_FAILURES: Final = 3

_logger = logging.getLogger("frameseal")

ADVICE: Final = {
    "not_sealed": "the sender's encryption is off, or a server on the way removed it: turn it on at the sender",
    "other_profile": "the sender uses the profile {profile}: use the same one on both sides",
    "other_salt": "the sender has this key with the salt of the profile {profile}: use the same profile on both sides",
    "hkdf": "the sender derives with HKDF, from a raw key: pass bytes, not str",
    "pbkdf2": "the sender derives with PBKDF2, from a passphrase: pass str, not bytes (or use set_passphrase)",
    "other_spelling": "the sender's key is yours, {spelling}: pass exactly the same on both sides",
    "other_key_id": "the sender has this key under the key id {key_id}: set it under that id here too",
    "wrong_key": "none of the keys here opens it: the sender uses another key, or the frames are altered on the way",
    "injected": "a server injects blank frames while the track pauses: pass sif_trailer, the current value of the "
    "room's JoinResponse.sif_trailer (E2EEManager.sif_trailer may be set at any time)",
    "unknown_format": "the frames have no format that is known here: the sender encrypts in another way, or not at all",
}


class Budget:
    """CPU seconds that trials may still use: a burst, and then a share of a core. Callable from any thread."""

    _lock: threading.Lock

    def __init__(self) -> None:
        """Start full."""
        renew_in_child(self, _lock=threading.Lock)
        self._left, self._refilled = MAX_BUDGET, -math.inf

    def left(self, now: float) -> float:
        """Return the CPU seconds that are left. *now* is in seconds, from a monotonic clock."""
        with self._lock:
            self._left = min(MAX_BUDGET, self._left + (now - self._refilled) * CPU_SHARE)
            self._refilled = now
            return self._left

    def spend(self, seconds: float) -> None:
        """Subtract what a trial has used. The budget may become negative."""
        with self._lock:
            self._left -= seconds


BUDGET: Final = Budget()


@dataclass(slots=True)
class Trials:
    """The progress of the trials of one set of keys, and the limit of the next trial."""

    tried: set[_Name] = field(default_factory=set)
    """The names of the variants that were tried."""
    seconds: float = MAX_TRIAL_CPU
    """The CPU seconds that the next trial may use."""
    ended: bool = False
    """True if no variant is left."""
    used: float = 0.0
    """The CPU seconds that the last trial used."""


@dataclass(eq=False, slots=True)
class _FailureRun:
    """The failures of one track since its last frame that opened."""

    failures: int = 0  # in a row
    due: list[float] = field(default_factory=lambda: [0.0, 0.0])  # the next diagnosis: of present and of missing keys
    tried: bool = False  # the keys were tried in this run of failures
    cause: str | None = None  # the last reported cause
    reported_at: float = -math.inf
    keys: int = -1  # the ring's generation at the last trial
    keys_tried: set[_Name] = field(default_factory=set)  # the variants of its keys that were tried, until all were
    seen: deque[Excerpt] = field(default_factory=lambda: deque(maxlen=MAX_EXCERPTS))


class Diagnostician:
    """Diagnoses the failing frames of a call's tracks.

    It starts no thread: if `is_due` returns True, the caller runs `diagnose` in one and then calls `end`.

    :param provider: the source of the keys to try, if it is a `KeyProvider`. Otherwise no key is tried.
    :param profile: the wire format of the call.
    :param clock: returns seconds, from a monotonic clock.
    """

    _lock: threading.Lock
    _busy: bool

    def __init__(self, provider: KeyRingProvider, profile: Profile, clock: Callable[[], float]) -> None:
        """Start without a failure."""
        self._provider, self._profile, self._clock = provider, profile, clock
        renew_in_child(self, _lock=threading.Lock, _busy=bool)  # the parent's diagnosis ends in the parent
        self._failing: weakref.WeakKeyDictionary[Track, _FailureRun] = weakref.WeakKeyDictionary()

    def note(self, track: Track, frame: bytes) -> None:
        """Record how a frame that failed begins and ends. In the decoder's thread: it is examined elsewhere."""
        failing = self._failing.get(track)
        if failing is None:
            failing = self._failing[track] = _FailureRun()
        failing.seen.append(excerpt(frame))

    def opened(self, track: Track) -> None:
        """Forget the frames that failed, since one has opened: they show nothing about later frames."""
        failing = self._failing.get(track)
        if failing is not None:
            failing.failures, failing.tried = 0, False
            failing.seen.clear()

    def cause_of(self, track: Track) -> str | None:
        """Return the cause that was last reported for a track, while its frames fail. Returns None without a report."""
        failing = self._failing.get(track)
        return failing.cause if failing is not None and failing.seen else None

    def is_due(self, track: Track, *, missing: bool) -> bool:
        """Count a failure, and return whether a diagnosis is due. Callable from any thread.

        No other diagnosis is due before `end`.

        :param missing: True if no key has the id that the frame claims.
        """
        with self._lock:
            failing = self._failing.get(track)
            if failing is None:
                return False
            failing.failures += 1
            if self._busy or self._clock() < failing.due[missing] or failing.failures < MIN_FAILURES:
                return False
            if failing.tried and len(failing.seen) < MIN_VERDICT_FRAMES:
                return False
            failing.tried = self._busy = True
            return True

    def end(self) -> None:
        """Allow the next diagnosis, since the last has ended."""
        self._busy = False

    def cancel(self, track: Track) -> None:
        """Withdraw a diagnosis that was due, since nothing can run it."""
        failing = self._failing.get(track)
        if failing is not None:
            failing.tried = False
        self._busy = False

    def diagnose(
        self, transform: TrackTransform, frame: bytes, key_id: int | None, *, missing: bool
    ) -> E2EEDiagnosis | None:
        """Return a diagnosis of *frame*, which failed. Returns None if it found nothing new. Call it in a thread.

        :param key_id: the key id that the frame claims, or None if it could not be read.
        :param missing: True if no key has this id.
        """
        track = transform.track
        failing = self._failing.get(track)
        if failing is None or track.forgotten:
            return None
        provider = self._provider
        secrets = provider.secrets_of(track.participant_id) if isinstance(provider, KeyProvider) else {}
        generation = transform.ring.generation
        left = min(MAX_TRIAL_CPU, BUDGET.left(self._clock()))
        tries = Trials(failing.keys_tried if failing.keys == generation else set(), left)
        found = diagnose(frame, self._profile, transform.codec, secrets, key_id, list(failing.seen), tries)
        BUDGET.spend(tries.used)
        failing.keys, failing.keys_tried = generation, set() if tries.ended else tries.tried
        if found is None:
            return None
        cause, advice, proven = found
        failing.failures, failing.tried, now = 0, False, self._clock()
        failing.due[missing] = now + (DIAGNOSIS_INTERVAL if proven or tries.ended else TRIAL_INTERVAL)
        if missing and cause in ("wrong_key", "unknown_format"):
            return None  # the missing key has been reported
        if failing.cause == cause and now - failing.reported_at < DIAGNOSIS_INTERVAL:
            return None
        if failing.cause != cause:
            # The event names the participant. Logs quote nothing that a caller named (`frameseal._secrecy`).
            _logger.warning("%s does not open: %s", track.kind, advice)
        failing.cause, failing.reported_at = cause, now
        return E2EEDiagnosis(track.participant_id, track.kind, track.track_id, cause, advice, proven)


def diagnose(  # noqa: PLR0917 - all facts about a frame
    frame: bytes,
    profile: Profile,
    codec: str | None,
    secrets: dict[int, Secret],
    key_id: int | None,
    seen: Sequence[Excerpt] = (),
    tries: Trials | None = None,
) -> tuple[str, str, bool] | None:
    """Return the likely reason why *frame* did not open under *profile*: cause, advice, and whether it is proven.

    Returns None if nothing is proven and *seen* holds too few frames for a verdict.

    :param secrets: the keys that are set, by key id.
    :param key_id: the key id that the frame claims, or None if it could not be read.
    :param seen: the last frames of the track that failed, in order.
    :param tries: the variants that were tried before, and the limit of this trial. It is updated.
    """
    proven = _find_variant(frame, profile, codec, secrets, key_id, tries or Trials())
    if proven is not None:
        return proven.cause, ADVICE[proven.cause].format(**proven.words), True
    blank = [Decryptor.holds_blank(profile, codec, each.data) for each in seen] or [True]
    if Decryptor.holds_blank(profile, codec, frame) and 2 * sum(blank) > len(blank):
        return "injected", ADVICE["injected"], False
    if len(seen) < MIN_VERDICT_FRAMES:
        return None
    shape = shapes.shape(seen, codec)
    ours = Shape(layout(profile))
    other = " or ".join(known for known, info in PROFILES.items() if info["layout"] == shape.value)
    cause = _CAUSES.get(shape, "other_profile") if shape is not ours else "wrong_key"
    return cause, ADVICE[cause].format(profile=other), False


_CAUSES: Final = {Shape.PLAIN: "not_sealed", Shape.UNKNOWN: "unknown_format"}


# The name of a variant in all trials of the same keys: cause, spelling, profile, the key's id here, and whether it is a
# passphrase. It does not depend on a frame: a forger who claims another key id in each would start the trials anew.
_Name = tuple[str, str | None, Profile, int, bool]


class _Variant(NamedTuple):
    """One way to open a frame, which corresponds to a common mistake."""

    cause: str
    words: dict[str, Any]
    profile: Profile
    secret: Secret
    key_id: int
    set_under: int

    @property
    def name(self) -> _Name:
        return self.cause, self.words.get("spelling"), self.profile, self.set_under, self.secret.is_passphrase


def _find_variant(  # noqa: PLR0917
    frame: bytes,
    profile: Profile,
    codec: str | None,
    secrets: dict[int, Secret],
    key_id: int | None,
    tries: Trials,
) -> _Variant | None:
    """Return the variant that opens a frame, or None. Variants that need a password KDF are tried last."""
    started = thread_time()
    key_ids = {other: readings.key_id(frame, other, codec) for other in PROFILES if _may_be_of(frame, other)}
    key_ids[profile] = key_ids.get(profile) if key_id is None else key_id
    try:
        for variant in _variants(profile, secrets, key_ids):
            if variant.name in tries.tried:
                continue
            if thread_time() - started >= tries.seconds:
                return None
            tries.tried.add(variant.name)
            if _opens(frame, codec, variant):
                return variant
        tries.ended = True
        return None
    finally:
        tries.used = thread_time() - started


def _may_be_of(frame: bytes, profile: Profile) -> bool:
    match layout(profile):
        case "trailer":
            return frame[-2:-1] == bytes([IV_LEN])
        case "footer":
            return shapes.ends_in_footer(frame)
    return True


def _variants(profile: Profile, secrets: dict[int, Secret], key_ids: dict[Profile, int | None]) -> Iterator[_Variant]:
    """Yield the variants of all keys that a frame with these key ids may be of, the cheap ones first."""
    claimed = key_ids.get(profile)
    candidates = sorted(secrets.items(), key=lambda item: claimed is None or item[0] != claimed & 0xFF)
    for needs_password_kdf in (False, True):
        for set_under, secret in candidates:
            yield from _key_variants(profile, set_under, secret, key_ids, needs_password_kdf)
        for set_under, secret in candidates:
            yield from _spelling_variants(profile, set_under, secret, key_ids, needs_password_kdf)


def _key_variants(
    profile: Profile, set_under: int, secret: Secret, key_ids: dict[Profile, int | None], needs_password_kdf: bool
) -> Iterator[_Variant]:
    """Yield the variants of an unchanged key: under another id, with the other KDF, of another profile."""
    flipped, claimed = secret.with_other_kdf(), key_ids.get(profile)
    if claimed is not None and set_under != claimed & 0xFF and secret.is_passphrase is needs_password_kdf:
        yield _Variant("other_key_id", {"key_id": claimed}, profile, secret, claimed, set_under)
    if claimed is not None and flipped.is_passphrase is needs_password_kdf:
        yield _Variant("hkdf" if secret.is_passphrase else "pbkdf2", {}, profile, flipped, claimed, set_under)
    for other, key_id in key_ids.items():
        if other is not profile and key_id is not None:
            cause = "other_salt" if layout(other) == layout(profile) else "other_profile"
            for candidate in (secret, flipped):
                if candidate.is_passphrase is needs_password_kdf:
                    yield _Variant(cause, {"profile": other.value}, other, candidate, key_id, set_under)


def _spelling_variants(
    profile: Profile, set_under: int, secret: Secret, key_ids: dict[Profile, int | None], needs_password_kdf: bool
) -> Iterator[_Variant]:
    """Yield the other spellings of a key. Spellings that need a password KDF are tried in this profile only."""
    for spelling, candidate in secret.spellings():
        if candidate.is_passphrase is needs_password_kdf:
            for other, key_id in key_ids.items():
                if key_id is not None and (other is profile or not needs_password_kdf):
                    of = "" if other is profile else f", in the profile {other}"
                    words = {"spelling": spelling + of}
                    yield _Variant("other_spelling", words, other, candidate, key_id, set_under)


def _opens(frame: bytes, codec: str | None, variant: _Variant) -> bool:
    shared = is_sframe(variant.profile)
    try:
        ring = KeyRing(variant.profile, shared=shared, key_ring_size=256)
        ring.set_secret(variant.secret, key_id=variant.key_id & 0xFF if shared else variant.key_id)
        Decryptor(ring, codec, 0).decrypt(frame)
    except (FrameError, ValueError):  # it does not open, or the profile refuses this key, id or codec
        return False
    return True
