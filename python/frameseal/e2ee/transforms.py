"""Transforms: seal or open the frames of one track, and turn each outcome into a state. They never raise.

Transforms run in encoder and decoder threads, at frame rate. A frame that opens or seals costs two attribute reads
here. The states follow LiveKit's FrameCryptor, and cover the outcomes that it does not report. docs/guide/states.md has
the table.

Trust: until a frame is authenticated, its content may only change which failure is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

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
    from frameseal._native import Decryptor, Encryptor, KeyRing, SealedPayloads

# Drops in a row up to the first report. Before the first real frame an SFU probes bandwidth: its packets look like
# short, unsealed video frames. 8 frames of real but unsealed video last a quarter of a second.
QUIET_FRAMES: Final = 8

# Bytes that identify a probe of zeros: a sealed frame has no run of zeros of this length.
PROBE_PREFIX_LEN: Final = 64

# Capacity for key ids that a track has reported as invalid. Frames claim any number of key ids, so the oldest
# is evicted.
MAX_INVALID_KEYS: Final = 16

_REASONS: Final[Mapping[type[FrameError], str]] = {
    MalformedFrame: "malformed_frame",
    UnknownKey: "unknown_key",
    AuthenticationFailed: "authentication_failed",
    ReplayedFrame: "replayed_frame",
    SenderMismatch: "sender_mismatch",
    KeyExhausted: "key_exhausted",
}

# The states of success, looked up once, because reading a member of an enum costs more than all else here.
_SEALED: Final = E2EEState.EncryptionSuccess
_OPENED: Final = E2EEState.DecryptionSuccess

_logger = logging.getLogger("frameseal")


class Transform(Confidential):
    """The base of both directions: the track, and reports that cannot raise.

    :param reporter: receives the outcome of frames. It assigns `track` before the first frame.
    :param cipher: seals or opens the frames.
    :param ring: the cipher's own ring.
    :param discard_empty: the provider's ``discard_frame_when_cryptor_not_ready``.
    :param metadata: authenticated together with each frame (RFC 9605, section 4.4.2). Empty means no metadata.
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
    """The codec of the track, as the transport named it. None if the transport knows none."""

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
        """Bind the transform to its reporter and its cipher."""
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
        return cast("dict[str, int]", self._cipher.stats())

    def _report(self, state: E2EEState, key_id: int | None, reason: str | None = None) -> bool:
        # Most failures repeat the state: skip the counters. On a track that is declared plain it may still be news.
        if self.track.state is state and not self.track.declared_plain:
            return True
        try:
            return self._reporter.report_state(self, state, key_id, reason, self.stats())
        except Exception:
            _logger.exception("could not report %s of %s", state, self)
            return True

    def _internal_error(self, error: BaseException) -> None:
        """Report an error that no frame should be able to cause. A panic of the native module is a BaseException."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise error
        if self.track.state is not E2EEState.InternalError:
            _logger.error("unexpected error in %s", self, exc_info=error)
        self._report(E2EEState.InternalError, None, type(error).__name__)

    def __repr__(self) -> str:
        """Show the kind of the track, but no participant: callers choose those names (`frameseal._secrecy`)."""
        return f"<{type(self).__name__} of {self.track.kind}>"


class SenderTransform(Transform):
    """Seals the frames of one outgoing track. `E2EEManager.sender_transform` makes it."""

    __slots__ = ()
    _cipher: Encryptor

    def encrypt(self, frame: bytes) -> bytes | None:
        """Seal one whole encoded frame and report the track's state if it changed.

        Thread-safe; never raises. Returns the sealed frame. Returns None if the frame must not be sent. Returns b"" if
        there is nothing to send: an empty frame that the provider passes on, or parameter sets alone (H.264, H.265).
        Parameter sets are sent with the next frame.
        """
        try:
            if len(frame) == 0:
                return None if self._discard_empty else b""
            try:
                cipher, metadata = self._cipher, self._metadata
                sealed = cipher.encrypt(frame, metadata) if metadata else cipher.encrypt(frame)
            except FrameError as error:
                self._not_sealed(error)
            else:
                if self.track.state is not _SEALED and sealed:
                    self._report(E2EEState.EncryptionSuccess, self._ring.sending_key_id)
                return sealed
        except BaseException as error:
            self._internal_error(error)
        return None

    def encrypt_payloads(self, payloads: list[bytes], sealed: SealedPayloads) -> list[bytes] | None:
        """Seal the frame that RTP payloads carry, and report the track's state if it changed.

        Thread-safe. Returns the payloads of the sealed frame, which *sealed* holds from now on. Returns None if the
        frame must not be sent. Returns [] if there is nothing to send, as `encrypt` returns b"".

        :param payloads: what an encoder of the track's codec returned for one frame.
        :raises ValueError: the payloads do not carry one frame.
        """
        try:
            try:
                made = self._cipher.encrypt_payloads(payloads, sealed, self._metadata)
            except FrameError as error:
                self._not_sealed(error)
            else:
                if self.track.state is not _SEALED and made:
                    self._report(E2EEState.EncryptionSuccess, self._ring.sending_key_id)
                return made
        except ValueError:
            raise
        except BaseException as error:
            self._internal_error(error)
        return None

    def _not_sealed(self, error: FrameError) -> None:
        state = E2EEState.MissingKey if isinstance(error, UnknownKey) else E2EEState.EncryptionFailed
        self._report(state, error.kid, _reason(error))


class ReceiverTransform(Transform):
    """Opens the frames of one incoming track. `E2EEManager.receiver_transform` makes it."""

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
    """True if the last frame that did not open waits for its key, and no older frame was dropped for it."""

    missing_key: bool
    """True if the last frame failed because its key is missing. Do not request a keyframe then: it would not open."""

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
        """Start a track that has opened no frame."""
        super().__init__(reporter, cipher, ring, discard_empty, metadata, codec=codec)
        self.held = self.missing_key = False
        self._has_opened = False  # a frame has opened at some time
        self._clean = False  # no frame has failed since the last opened frame
        self._no_output = False  # the last frame opened, and holds nothing for a decoder
        self._quiet_drops = 0  # drops in a row that were not reported
        self._incomplete_failures = 0  # the cipher's failures in a row that tell nothing about the key
        self._invalid_keys: dict[int | None, None] = {}  # key ids reported as InvalidKey, in order
        self._missing_key_id: int | None = None  # the last key id that was missing
        self._missing_since = 0.0
        self._held = HeldFrames(hold, hold_bytes) if hold else None
        self._generation = 0  # the ring's generation when the held frames were last tried
        self._may_hold_sif_frames = False  # a server may send blank frames
        self._sif_frames = 0  # blank frames of a server, as last counted
        self._pass_sif_frames = pass_sif_frames

    @property
    def missing_key_id(self) -> int | None:
        """The key id that frames named last without a key. It is None if a frame under it has opened since."""
        return self._missing_key_id

    def set_sif_trailer(self, trailer: bytes | None) -> None:
        """Set the trailer of a server's blank frames. None lets no blank frame pass. For the call of this transform.

        :raises ValueError: for fewer than 8 bytes.
        """
        # Set this first: a blank frame must never count as an opened one.
        self._may_hold_sif_frames = self._may_hold_sif_frames or trailer is not None
        self._cipher.sif_trailer = trailer

    def decrypt(self, frame: bytes, *, whole: bool = True) -> bytes | None:
        """Open one whole sealed frame and report the track's state if it changed.

        Thread-safe; never raises. Returns the encoded frame. Returns None if the frame must not reach a decoder. For an
        empty frame, which is no failure, it returns b"", or None if the provider discards empty frames. The same is
        returned for a frame that was sealed empty (SFrame), which is a success.

        :param whole: False if a part of the frame is known to be lost. Its failure then tells nothing about the key.
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
                    self._reporter.report_undecryptable(self, frame, error.kid, missing=True)
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
        """Open a frame, and before it the frames that were held for their key (``E2EEManager(..., hold_frames=...)``).

        For one thread at a time; never raises. Returns the encoded frames in order, each with its *tag*. A frame that
        must not reach a decoder, or that still waits, is not among them. An empty frame is returned where no frame was
        lost and there is nothing to decode: for a frame that was sealed empty, and for a server's blank frame (unless
        the manager has ``pass_sif_frames``).
        """
        if self._held is None:
            return self._to_decode(frame, tag, whole)
        return [*self.open_held(), *self._open_or_hold(frame, tag, whole)]

    def open_held(self) -> list[tuple[bytes, Any]]:
        """Open the frames that were held for their key, without another frame. Call it after a key was set.

        It works as `open` does, and for the same thread.
        """
        if self._held is None:
            return []
        generation = self._ring.generation  # read before the attempts: a key that is set meanwhile counts as new
        waiting = self._held.pop_all() if generation != self._generation else []
        opened = [part for each in waiting for part in self._open_or_hold(*each)]
        self._generation = generation
        return opened

    def drop_held(self) -> None:
        """Drop the frames that wait for their key, since their track has ended or pauses. From any thread."""
        if self._held:
            self._held = self._held.empty_copy()  # replace it: another thread may be reading it

    def _open_or_hold(self, frame: bytes, tag: Any, whole: bool) -> list[tuple[bytes, Any]]:
        if opened := self._to_decode(frame, tag, whole):
            return opened
        self.held = False
        if self.missing_key and len(frame) and self._held is not None:
            unlost = self._held.lost == 0
            self.held = self._held.add(frame, tag, whole)
            if unlost and not self.held:  # warn once a track: many frames may follow
                _logger.warning(
                    "%s: a frame that waited for its key was dropped, since the limit of held frames is reached: "
                    "deliver the key earlier, or raise hold_frames or hold_bytes",
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

        ``held_frames`` and ``held_bytes`` wait now; ``held_lost`` frames were dropped because a limit was reached.
        """
        held = self._held
        counts = (len(held), held.size, held.lost) if held is not None else (0, 0, 0)
        return super().stats() | dict(zip(("held_frames", "held_bytes", "held_lost"), counts, strict=True))

    def _is_sif_frame(self) -> bool:
        """Return whether the frame that just passed is a server's blank frame, which proves no key right."""
        sif_frames = self._cipher.sif_frames
        if sif_frames == self._sif_frames:
            return False
        if self._clean or self._sif_frames == 0:
            self._reporter.report_sif_frame(self, super().stats())
        self._clean, self._sif_frames = False, sif_frames
        return True

    def _succeeded(self, frame: bytes) -> None:
        self._has_opened = True
        self.missing_key = False
        self._quiet_drops = self._incomplete_failures = 0
        self._invalid_keys.clear()
        key_id = self._cipher.key_id_of(frame)
        self._end_shortage(key_id)
        self._reporter.report_opened(self)
        # Frames under other keys may open while one key is missing. Examine each frame until the missing key arrives or
        # is requested again.
        self._clean = self._missing_key_id is None or self._reporter.now() - self._missing_since > KEY_REQUEST_INTERVAL
        self._report(E2EEState.DecryptionSuccess, key_id)

    def _end_shortage(self, key_id: int | None) -> None:
        if key_id is not None and key_id == self._missing_key_id:
            self._missing_key_id = None
            self._reporter.report_present_key(self, key_id)

    def _failed(self, frame: bytes, error: FrameError, whole: bool) -> None:
        if self.track.forgotten:  # its reports are forgotten as well
            self._invalid_keys.clear()
        if whole or isinstance(error, MalformedFrame):
            self._reporter.report_failed_frame(self, frame)
        failures = self._cipher.consecutive_failures if isinstance(error, AuthenticationFailed) else 0
        self._incomplete_failures = 0 if failures == 1 else self._incomplete_failures
        if failures and whole:
            self._not_authenticated(error.kid, _reason(error), failures - self._incomplete_failures)
            self._reporter.report_undecryptable(self, frame, error.kid, missing=False)
            return
        # A replay, another participant's frame or an incomplete frame tells nothing about the key. Only a run of them
        # is reported.
        self._incomplete_failures += failures > 0
        self._quiet_drops += 1
        if (not whole or isinstance(error, ReplayedFrame | SenderMismatch)) and self._quiet_drops < QUIET_FRAMES:
            return
        if not self._invalid_keys:
            self._report(E2EEState.DecryptionFailed, error.kid, _reason(error))
        if isinstance(error, MalformedFrame):
            self._reporter.report_undecryptable(self, frame, error.kid, missing=False)

    def _is_probe(self, frame: bytes, error: FrameError) -> bool:
        # An SFU sends probes before the first real video frame. Probes of zeros parse as SFrames.
        may_be = self.track.kind == "video" and not self._has_opened
        return may_be and (isinstance(error, MalformedFrame) or not any(bytes(frame[:PROBE_PREFIX_LEN])))

    def _not_authenticated(self, kid: int | None, reason: str, failures: int) -> None:
        self._end_shortage(kid)
        if failures <= 1:  # a new run, after a success or a new key
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
