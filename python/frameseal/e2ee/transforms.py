"""What a track's frames pass through: seal or open one frame, turn the outcome into a state, and never raise.

Transforms run in encoder and decoder threads, at frame rate: a frame that goes well costs two attribute reads here.
Which outcome means which state is livekit's FrameCryptor with its silences filled in; docs/guide/states.md has
the table.

Trust: until a frame is authenticated, nothing that it says may do more than change which failure is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from frameseal._secrecy import Confidential
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES, HeldFrames
from frameseal.e2ee.track import KEY_REQUEST_INTERVAL, Track, TrackReporter
from frameseal.enums import E2EEState
from frameseal.exceptions import (
    AuthenticationFailed,
    FrameError,
    KeyExhausted,
    MalformedFrame,
    ReplayedFrame,
    SenderMismatch,
    UnknownKey,
)

if TYPE_CHECKING:
    from frameseal._native import Decryptor, Encryptor, KeyRing

# An SFU probes bandwidth with packets that look like short, unsealed video frames, before the first real frame. So many
# of them in a row, less one, are dropped without a word; 8 frames of real but unsealed video are a quarter of a second.
QUIET_FRAMES: Final = 8

# A probe of nothing but zeros is known by its first bytes: what is sealed has no such run.
PROBE_PREFIX_LEN: Final = 64

# Key ids that a track remembers as reported, the latest ones. They are what frames claim, so there is no end of them.
MAX_INVALID_KEYS: Final = 16

_REASONS: Final[Mapping[type[FrameError], str]] = {
    MalformedFrame: "malformed_frame",
    UnknownKey: "unknown_key",
    AuthenticationFailed: "authentication_failed",
    ReplayedFrame: "replayed_frame",
    SenderMismatch: "sender_mismatch",
    KeyExhausted: "key_exhausted",
}

# The states of a frame that goes well, looked up once: reading a member off an enum costs more than all else here.
_SEALED: Final = E2EEState.EncryptionSuccess
_OPENED: Final = E2EEState.DecryptionSuccess

_logger = logging.getLogger("frameseal")


class Transform(Confidential):
    """What both directions share: the track, and reporting that cannot raise.

    *ring* is the cipher's own ring, *discard_empty* the provider's ``discard_frame_when_cryptor_not_ready``. Frames are
    authenticated together with *metadata*, if there is some (RFC 9605, section 4.4.2). The
    manager gives the transform its track before anybody else sees it.
    """

    __slots__ = (
        "__weakref__",
        "_cipher",
        "_discard_empty",
        "_metadata",
        "_reporter",
        "_ring",
        "codec",
        "owner",
        "track",
    )

    track: Track

    owner: object
    """Kept alive by the transform: the manager, whose listeners expect its events."""

    codec: str | None
    """The codec of the track, as it was given."""

    def __init__(
        self,
        reporter: TrackReporter,
        cipher: Encryptor | Decryptor,
        ring: KeyRing,
        discard_empty: bool,
        metadata: bytes = b"",
        *,
        codec: str | None = None,
    ) -> None:
        """Bind the transform to its manager and its cipher."""
        self.codec = codec
        self.owner = None
        self._reporter = reporter
        self._cipher = cipher
        self._ring = ring
        self._discard_empty = discard_empty
        self._metadata = metadata

    @property
    def ring(self) -> KeyRing:
        """The ring whose keys are used."""
        return self._ring

    def stats(self) -> dict[str, int]:
        """Return the counters of the track's `Encryptor` or `Decryptor`."""
        return self._cipher.stats()

    def _report(self, state: E2EEState, key_id: int | None, reason: str | None = None) -> bool:
        # As of most frames that fail: no counters for what is no news. What a sender said of itself may be news still.
        if self.track.state is state and not self.track.declared_plain:
            return True
        try:
            return self._reporter.report_state(self, state, key_id, reason, self.stats())
        except Exception:
            _logger.exception("could not report %s of %s", state, self)
            return True

    def _internal_error(self, error: BaseException) -> None:
        """Report what no frame should be able to cause; a panic of the native module is a BaseException."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise error
        if self.track.state is not E2EEState.InternalError:
            _logger.error("unexpected error in %s", self, exc_info=error)
        self._report(E2EEState.InternalError, None, type(error).__name__)

    def __repr__(self) -> str:
        """Say what it is for. Not whose: what names a participant comes from the caller (`frameseal._secrecy`)."""
        return f"<{type(self).__name__} of {self.track.kind}>"


class SenderTransform(Transform):
    """Seals the frames of one outgoing track. Made by `E2EEManager.sender_transform`."""

    __slots__ = ()
    _cipher: Encryptor

    def encrypt(self, frame: bytes) -> bytes | None:
        """Seal one whole encoded frame and report the track's state if it changed.

        Thread-safe, and never raises. Returns the sealed frame, or None for a frame that must not be sent. An empty
        result means that there is nothing to send: the frame was empty and the provider passes those on, or it held
        only parameter sets, which go out with the next frame (H.264, H.265).
        """
        try:
            if len(frame) == 0:
                return None if self._discard_empty else b""
            try:
                cipher, metadata = self._cipher, self._metadata
                sealed = cipher.encrypt(frame, metadata) if metadata else cipher.encrypt(frame)
            except UnknownKey as error:
                self._report(E2EEState.MissingKey, error.kid, _reason(error))
            except FrameError as error:
                self._report(E2EEState.EncryptionFailed, error.kid, _reason(error))
            else:
                if self.track.state is not _SEALED and sealed:
                    self._report(E2EEState.EncryptionSuccess, self._ring.sending_key_id)
                return sealed
        except BaseException as error:
            self._internal_error(error)
        return None


class ReceiverTransform(Transform):
    """Opens the frames of one incoming track. Made by `E2EEManager.receiver_transform`."""

    __slots__ = (
        "_clean",
        "_generation",
        "_has_opened",
        "_held",
        "_incomplete_failures",
        "_invalid_keys",
        "_may_hold_sif_frames",
        "_missing_key_id",
        "_missing_since",
        "_no_output",
        "_pass_sif_frames",
        "_quiet_drops",
        "_sif_frames",
        "held",
        "missing_key",
    )
    _cipher: Decryptor

    held: bool
    """Whether the last frame that did not open waits for its key, and no older one was lost to make room."""

    missing_key: bool
    """Whether the last failure was that there is no key: more keyframes would not help, so ask for fewer."""

    def __init__(
        self,
        reporter: TrackReporter,
        cipher: Decryptor,
        ring: KeyRing,
        discard_empty: bool,
        metadata: bytes = b"",
        *,
        codec: str | None = None,
        hold: int = 0,
        hold_bytes: int = DEFAULT_HOLD_BYTES,
        pass_sif_frames: bool = False,
    ) -> None:
        """Start a track that has opened nothing yet."""
        super().__init__(reporter, cipher, ring, discard_empty, metadata, codec=codec)
        self.held = self.missing_key = False
        self._has_opened = False  # a frame has been opened, ever
        self._clean = False  # nothing has failed since the last frame that was opened
        self._no_output = False  # the last frame is no loss, though nothing of it is for a decoder
        self._quiet_drops = 0  # quiet drops in a row
        self._incomplete_failures = 0  # of the cipher's failures in a row, those that say nothing about the key
        self._invalid_keys: dict[int | None, None] = {}  # key ids reported as InvalidKey, in order
        self._missing_key_id: int | None = None  # the last key id that was not there
        self._missing_since = 0.0
        self._held = HeldFrames(hold, hold_bytes) if hold else None
        self._generation = 0  # of the ring, when the held frames were last tried
        self._may_hold_sif_frames = False  # a server may inject blank frames
        self._sif_frames = 0
        self._pass_sif_frames = pass_sif_frames

    def set_sif_trailer(self, trailer: bytes | None) -> None:
        """Take what a server ends its blank frames with from now on; None lets none of them pass. For the manager.

        :raises ValueError: for fewer than 8 bytes.
        """
        # First: no blank frame may be taken for one that was opened.
        self._may_hold_sif_frames = self._may_hold_sif_frames or trailer is not None
        self._cipher.sif_trailer = trailer

    def decrypt(self, frame: bytes, *, whole: bool = True) -> bytes | None:
        """Open one whole sealed frame and report the track's state if it changed.

        Thread-safe, and never raises. Returns the encoded frame, or None for one that must not reach a decoder. An
        empty frame is never a failure: it comes back empty, or as None if the provider discards those. So does one that
        was sealed empty (SFrame), which is a success. *whole* is False if a part is known to be lost: such a frame does
        not open, and says nothing about the key.
        """
        try:
            if len(frame) == 0:
                return None if self._discard_empty else b""
            try:
                cipher, metadata = self._cipher, self._metadata
                opened = cipher.decrypt(frame, metadata) if metadata else cipher.decrypt(frame)
            except FrameError as error:
                self._clean = self._no_output = False
                whole = whole and not self._is_probe(frame, error)
                self.missing_key = whole and isinstance(error, UnknownKey)
                if self.missing_key:
                    self._missing_key_id, self._missing_since = error.kid, self._reporter.now()
                    self._reporter.report_missing_key(self, error.kid)
                    self._report(E2EEState.MissingKey, error.kid, _reason(error))
                    self._reporter.report_failed_frame(self, frame)
                    self._reporter.report_undecryptable(self, frame, error.kid, missing=self.missing_key)
                else:
                    self._failed(frame, error, whole)
            else:
                if self._may_hold_sif_frames and self._is_sif_frame():
                    return opened
                if not self._clean or self.track.state is not _OPENED:
                    self._succeeded(frame)
                if opened:
                    return opened
                self._no_output = True
                return None if self._discard_empty else opened
        except BaseException as error:
            self._clean = self._no_output = self.missing_key = False
            self._internal_error(error)
        return None

    def open(self, frame: bytes, tag: Any = None, *, whole: bool = True) -> list[tuple[bytes, Any]]:
        """Open a frame, and those before it that were held for their key (``E2EEManager(hold_frames=...)``), in order.

        For one thread at a time; never raises. Returns each encoded frame with the *tag* that came with it; none for a
        frame that must not reach a decoder, or has to wait. An empty frame comes back where none was lost and there is
        nothing to decode: for one that was sealed empty, and for a server's blank frame (unless the manager has
        ``pass_sif_frames``).
        """
        if self._held is None:
            return self._to_decode(frame, tag, whole)
        generation = self._ring.generation  # asked before trying: a key that is set meanwhile counts as new
        waiting = self._held.pop_all() if generation != self._generation else []
        opened = [part for each in [*waiting, (frame, tag, whole)] for part in self._open_or_hold(*each)]
        self._generation = generation
        return opened

    def drop_held(self) -> None:
        """Drop the frames that wait for their key, since their track has ended or rests. From any thread."""
        if self._held:
            self._held = self._held.empty_copy()  # replaced, since another thread may be reading it

    def _open_or_hold(self, frame: bytes, tag: Any, whole: bool) -> list[tuple[bytes, Any]]:
        if opened := self._to_decode(frame, tag, whole):
            return opened
        self.held = False
        if self.missing_key and len(frame) and self._held is not None:
            unlost = self._held.lost == 0
            self.held = self._held.add(frame, tag, whole)
            if unlost and not self.held:  # once a track: there may be many
                _logger.warning(
                    "%s: a frame that waited for its key was lost to make room; "
                    "the key comes too late, or hold_frames or hold_bytes is too low",
                    self.track.kind,
                )
        return []

    def _to_decode(self, frame: bytes, tag: Any, whole: bool) -> list[tuple[bytes, Any]]:
        sif_frames_before = self._sif_frames
        opened = self.decrypt(frame, whole=whole)
        if self._sif_frames != sif_frames_before and not self._pass_sif_frames:
            return [(b"", tag)]
        if opened:
            return [(opened, tag)]
        return [(b"", tag)] if self._no_output and len(frame) else []

    def stats(self) -> dict[str, int]:
        """Return the counters of the track's `Decryptor`, and of the frames that wait for their key.

        ``held_frames`` and ``held_bytes`` wait now; ``held_lost`` were dropped to make room.
        """
        held = self._held
        counts = (len(held), held.size, held.lost) if held is not None else (0, 0, 0)
        return self._cipher.stats() | dict(zip(("held_frames", "held_bytes", "held_lost"), counts, strict=True))

    def _is_sif_frame(self) -> bool:
        """Whether the frame just passed is a server's: no proof that any key is right."""
        injected = self._cipher.sif_frames
        if injected == self._sif_frames:
            return False
        if self._clean or self._sif_frames == 0:
            self._reporter.report_sif_frame(self, self._cipher.stats())
        self._clean, self._sif_frames = False, injected
        return True

    def _succeeded(self, frame: bytes) -> None:
        self._has_opened = True
        self.missing_key = False
        self._quiet_drops = self._incomplete_failures = 0
        self._invalid_keys.clear()
        key_id = self._cipher.key_id_of(frame)
        self._end_shortage(key_id)
        self._reporter.report_opened(self)
        # Frames under other keys open beside a missing one: look at each until it comes, or is asked for again.
        self._clean = self._missing_key_id is None or self._reporter.now() - self._missing_since > KEY_REQUEST_INTERVAL
        self._report(E2EEState.DecryptionSuccess, key_id)

    def _end_shortage(self, key_id: int | None) -> None:
        if key_id is not None and key_id == self._missing_key_id:
            self._missing_key_id = None
            self._reporter.report_present_key(self, key_id)

    def _failed(self, frame: bytes, error: FrameError, whole: bool) -> None:
        if self.track.forgotten:  # what was reported is forgotten with it
            self._invalid_keys.clear()
        if whole or isinstance(error, MalformedFrame):
            self._reporter.report_failed_frame(self, frame)
        failures = self._cipher.consecutive_failures if isinstance(error, AuthenticationFailed) else 0
        self._incomplete_failures = 0 if failures == 1 else self._incomplete_failures
        if failures and whole:
            self._not_authenticated(error.kid, _reason(error), failures - self._incomplete_failures)
            self._reporter.report_undecryptable(self, frame, error.kid, missing=self.missing_key)
            return
        # A replay says nothing about the key, nor do another participant's frame and what is not whole: only a run of
        # them is a state of its own.
        self._incomplete_failures += failures > 0
        self._quiet_drops += 1
        if (not whole or isinstance(error, ReplayedFrame | SenderMismatch)) and self._quiet_drops < QUIET_FRAMES:
            return
        if not self._invalid_keys:
            self._report(E2EEState.DecryptionFailed, error.kid, _reason(error))
        if isinstance(error, MalformedFrame):
            self._reporter.report_undecryptable(self, frame, error.kid, missing=self.missing_key)

    def _is_probe(self, frame: bytes, error: FrameError) -> bool:
        # What an SFU sends before the first real video frame; of zeros, too, which parse under SFrame.
        may_be = self.track.kind == "video" and not self._has_opened
        return may_be and (isinstance(error, MalformedFrame) or not any(bytes(frame[:PROBE_PREFIX_LEN])))

    def _not_authenticated(self, kid: int | None, reason: str, failures: int) -> None:
        self._end_shortage(kid)
        if failures <= 1:  # a new run: after a success, or after a new key was set
            self._invalid_keys.pop(kid, None)
        if 0 <= self._ring.failure_tolerance < failures:
            if kid not in self._invalid_keys and self._report(E2EEState.InvalidKey, kid, reason):
                self._invalid_keys[kid] = None
                if len(self._invalid_keys) > MAX_INVALID_KEYS:
                    del self._invalid_keys[next(iter(self._invalid_keys))]
        else:
            self._report(E2EEState.DecryptionFailed, kid, reason)


def _reason(error: FrameError) -> str:
    return _REASONS.get(type(error), type(error).__name__)
