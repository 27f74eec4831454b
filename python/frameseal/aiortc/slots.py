"""The state that the hook keeps for each sender and receiver: participant, transforms, counters, errors.

Senders are here, receivers in ``receivers.py``. A slot is an attribute of its owner and refers to the owner weakly, so
it ends with the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import logging
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, TypeVarTuple, Unpack

from frameseal._native import SealedPayloads
from frameseal.aiortc.encryption import Encryption
from frameseal.aiortc.lock import hook
from frameseal.aiortc.protocols import (
    Codec,
    EncodedFrame,
    Member,
    NextFrame,
    Sender,
    StackFunctions,
)
from frameseal.aiortc.rule import process, report_unattached
from frameseal.codecs import CODECS, CodecRow
from frameseal.codecs.rtp import MediaType, media_type
from frameseal.e2ee.manager import E2EEManager
from frameseal.e2ee.transforms import SenderTransform, Transform
from frameseal.events import Direction

__all__ = ["SLOT", "LaterPayload", "MediaSlot", "SenderSlot", "TrackCounters"]

SLOT = "_frameseal_slot"  # the attribute of senders, receivers and tagged codecs that holds the slot

# The maximum number of sealed payloads that a sender remembers. The stacks keep 128 packets for retransmission
# (RFC 4588).
MAX_SEALED_PAYLOADS = 256
# The maximum number of transforms of one receiver. An SFU may assign a receiver to many participants in turn.
MAX_TRANSFORMS = 64
# Seconds in which frames of a receiver's former participant may still arrive.
LATE_FRAMES = 1.0

OwnerT = TypeVar("OwnerT", bound=Member)
TransformT = TypeVar("TransformT", bound=Transform)
Arguments = TypeVarTuple("Arguments")

_logger = logging.getLogger("frameseal")


@dataclass
class TrackCounters:
    """Counts the frames of one sender or receiver since it was made."""

    direction: Direction
    """``"send"`` or ``"receive"``."""
    participant_id: str | None = None
    """The id of the participant whose keys are used. It is None until the media starts."""
    kind: str | None = None
    """``"audio"`` or ``"video"``, from the codec's media type. It is None until the first frame."""
    codec: str | None = None
    """The lower-case name of the codec, such as ``"vp8"``. It is None until the first frame."""
    frames_in: int = 0
    """Frames from the encoder (send) or from the network (receive). Empty frames are not counted."""
    frames_out: int = 0
    """Frames sealed and handed to the packetizer (send), or opened and decoded (receive)."""
    dropped: int = 0
    """Frames that were dropped: no key, not authentic, withheld until a keyframe, detached."""
    foreign: int = 0
    """Frames of an encoder that other code made. The guard sealed these frames."""
    keyframe_requests: int = 0
    """Picture loss indications sent (RFC 4585 section 6.3.1)."""
    last_error: str | None = None
    """The last error outside the cipher. Failures of the cipher itself are states."""


class LaterPayload(bytes):
    """The payload of one of several frames of audio that an encoder returned at once.

    The offset is an attribute of the payload, because other code may copy, join or queue lists of payloads.
    """

    offset: int = 0
    """Ticks of the RTP clock from the timestamp that the encoder returned to the timestamp of this payload's frame."""


class MediaSlot(ABC, Generic[OwnerT, TransformT]):
    """The state that the hook keeps for one sender or receiver. It owns the transforms of its media."""

    sends: bool

    def __init__(self, owner: OwnerT, stack: StackFunctions) -> None:
        self.owner = weakref.ref(owner)
        self.stack = stack
        self.encryption: Encryption | None = None  # None while the connection is not attached
        self.counters = TrackCounters("send" if self.sends else "receive")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.transforms: dict[tuple[str, str], TransformT | None] = {}  # by participant and codec
        self.may_be_reassigned = False  # the application names the participant, and may name another one later
        self.identify_scheduled = False
        self.identified_at = float("-inf")  # when the application was last asked
        self.assigned_at = float("-inf")  # when it last named another participant
        self.paused = False  # the direction is inactive
        self.ended = False  # the owner has stopped, or its track has ended
        self.running = False  # media may have been sent or received before
        self.predates_hook = False  # media flowed before the hook was installed, so it cannot be sealed or opened
        self.closed = False  # other code replaced a seam of the stack, so no frame passes any more
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _make_transform(self, e2ee: E2EEManager, participant_id: str, media: MediaType) -> TransformT:
        """Make the transform of one participant and codec."""

    @abstractmethod
    def _participant(self, encryption: Encryption, owner: OwnerT) -> str | None:
        """Return the id of the participant whose media this is. None means that it is not known yet."""

    # --- the connection ----------------------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """True if media may have flowed."""
        return self.loop is not None

    def start(self) -> None:
        """Adopt the encryption of the owner's connection. Call it on the event loop, before any media."""
        self.loop = asyncio.get_running_loop()
        owner = self.owner()
        if self.encryption is not None:
            self.activate(self.encryption)
        elif owner is not None:
            self.stack.adopt(owner)
        self.running = True

    def find_encryption(self) -> Encryption | None:
        """Return the encryption, and look it up again while the connection is not attached. Call it on the event loop.

        None means that the connection is not attached.
        """
        if not self.started or self.encryption is None:  # other code may have replaced send() or receive()
            self.start()
        return self.encryption

    @property
    def refused(self) -> bool:
        """True if no media may pass, because the connection is not attached and `require_attached` was called.

        The refusal is logged once. Callable from any thread.
        """
        if self.encryption is not None or not process.attached_only:
            return False
        owner = self.owner()
        if owner is not None:
            report_unattached(owner.transport)
        return True

    def adopt(self, encryption: Encryption) -> None:
        """Use *encryption* from now on. The caller holds the lock of the hook."""
        self.counters.participant_id = None
        self.transforms.clear()
        self.may_be_reassigned = not self.sends and encryption.may_reassign
        self.encryption = encryption

    def activate(self, encryption: Encryption) -> None:
        """Identify the participant if media may flow already. Call it on the event loop."""
        if self.loop is not None:
            encryption.e2ee.bind_loop(self.loop)
            self.identify(encryption)

    # --- the participant ---------------------------------------------------------------------------------------------

    def schedule_identify(self) -> None:
        """Schedule `identify` on the event loop. Callable from any thread."""
        if self.encryption is not None and not self.identify_scheduled:
            self.identify_scheduled = True
            self.on_loop(self.identify, self.encryption)

    def identify(self, encryption: Encryption) -> None:
        """Ask the application for the participant's id. Call it on the event loop."""
        self.identify_scheduled = False
        owner = self.owner()
        if self.encryption is not encryption or owner is None:
            return
        self.identified_at = time.monotonic()
        try:
            name = self._participant(encryption, owner)
        except Exception as error:
            self.note_error(error)
            return
        if name != self.counters.participant_id:
            self._assign(encryption, name)
        elif self.identified_at - self.assigned_at >= LATE_FRAMES:
            for (participant_id, _), transform in list(self.transforms.items()):
                if transform is not None and participant_id == name:
                    transform.track.in_doubt = False

    def _assign(self, encryption: Encryption, name: str | None) -> None:
        """Assign the slot to another participant, from the next frame on."""
        if self.transforms:
            self.assigned_at = self.identified_at
        self.counters.participant_id = name
        self.pause(encryption)
        if not self.paused:
            self.resume(encryption)

    # --- the transforms ----------------------------------------------------------------------------------------------

    def transform(self, encryption: Encryption, codec: Codec) -> TransformT | None:
        """Return the transform for *codec*. None means that the frame must be dropped."""
        media = media_type(codec.mimeType)
        counters = self.counters
        counters.kind, counters.codec = media
        participant_id = counters.participant_id
        if encryption.detached or self.closed or self.ended:
            return None
        if participant_id is None:
            self.schedule_identify()
            return None
        track = participant_id, media.codec
        if track not in self.transforms:
            self._add_transform(encryption, participant_id, media)
        return self.transforms[track]

    def _add_transform(self, encryption: Encryption, participant_id: str, media: MediaType) -> None:
        # Make it with the first frame, so that a receiver without frames has no state. The bandwidth probe of a
        # mediasoup client is a receiver without frames.
        track = participant_id, media.codec
        if len(self.transforms) >= MAX_TRANSFORMS:
            _release(encryption, self.transforms.pop(next(iter(self.transforms))))
        try:
            self.transforms[track] = made = self._make_transform(encryption.e2ee, participant_id, media)
            made.track.in_doubt = self.may_be_reassigned
        except Exception as error:
            self.transforms[track] = None
            self.report_error(encryption, media.kind, error, "unsupported_codec")

    def pause(self, encryption: Encryption) -> None:
        """Note that the transforms receive no frames for now."""
        for transform in list(self.transforms.values()):
            _release(encryption, transform)

    def resume(self, encryption: Encryption) -> None:
        """Note that the transforms of the present participant receive frames again."""
        for track, transform in list(self.transforms.items()):
            if transform is not None and track[0] == self.counters.participant_id:
                encryption.e2ee.resume(transform)
                transform.track.in_doubt = self.may_be_reassigned
                self.transforms[track] = self.transforms.pop(track)  # move to the end: the first is evicted first

    def release(self, encryption: Encryption) -> None:
        """Release the transforms and their state, since the media has ended."""
        with hook.lock:
            self.counters.participant_id = None
            released = list(self.transforms.values())
            self.transforms.clear()
        for transform in released:
            if transform is not None:
                _release(encryption, transform)
                track = transform.track
                encryption.e2ee.remove_track(track.participant_id, track.kind, track_id=track.track_id)

    def enable(self, enabled: bool) -> None:
        """Pause or resume after a change of direction. Call it on the event loop."""
        if self.encryption is not None and self.paused == enabled:
            self.paused = not enabled
            if enabled:
                self.identify(self.encryption)
                self.resume(self.encryption)
            else:
                self.pause(self.encryption)

    def end(self) -> None:
        """Release the transforms, since no more frames arrive. Callable from any thread."""
        if self.encryption is not None:
            self.ended = True
            self.pause(self.encryption)
            self.transforms.clear()

    # --- errors ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the track for good, because a frame bypassed the hook. Callable from any thread."""
        if self.closed or self.encryption is None:
            return
        self.closed = True
        self.on_loop(self._close, self.encryption)

    def _close(self, encryption: Encryption) -> None:
        self.identify(encryption)
        owner = self.owner()
        if owner is None:
            return
        seams = self.stack.replaced_seams(owner)
        self.note_error(RuntimeError(f"other code replaced {seams}, and frames bypassed the hook: the track is closed"))
        encryption.report_replaced_seam(self.counters.participant_id or "", self.kind, seams, self.track_id)
        self._run(self.stack.stop(owner))

    def report_error(self, encryption: Encryption, kind: str, error: Exception, reason: str) -> None:
        """Note *error*, and put the track into InternalError with *reason*."""
        self.note_error(error)
        encryption.e2ee.report_internal_error(self.counters.participant_id or "", kind, reason, track_id=self.track_id)

    def note_error(self, error: BaseException) -> None:
        """Note *error*, and log it unless its text equals the text of the last error."""
        text = f"{type(error).__name__}: {error}"
        if text != self.counters.last_error:
            _logger.warning("%s %s: %s", self.counters.direction, self.counters.kind or "media", text)
        self.counters.last_error = text

    def _run(self, work: Coroutine[object, object, None]) -> None:
        async def note_errors() -> None:
            try:
                await work
            except Exception as error:
                self.note_error(error)

        task = asyncio.ensure_future(note_errors())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def kind(self) -> str:
        """``"audio"`` or ``"video"``, from the codec if it is known."""
        kind = self.counters.kind or getattr(self.owner(), "kind", None)
        return "audio" if kind == "audio" else "video"

    @property
    def track_id(self) -> str | None:
        """The id of the track that is sent or received. None means that the owner has no track."""
        return getattr(getattr(self.owner(), "track", None), "id", None)

    def on_loop(self, call: Callable[[Unpack[Arguments]], None], *args: *Arguments) -> None:
        """Schedule a call on the event loop. Callable from any thread."""
        # The loop may be closed while a decoder thread still processes its last frames.
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(call, *args)


def _release(encryption: Encryption, transform: Transform | None) -> None:
    if transform is not None:
        encryption.e2ee.release(transform)


class SenderSlot(MediaSlot[Sender, SenderTransform]):
    """The slot of one sender. It seals the frames of its encoders."""

    sends = True

    def __init__(self, owner: Sender, stack: StackFunctions) -> None:
        super().__init__(owner, stack)
        self.keyframe_owed = False
        self.sealed = SealedPayloads(MAX_SEALED_PAYLOADS)
        self._returns_later = False  # an encoder has returned several frames of audio at once
        self._pending: deque[EncodedFrame] = deque()
        self._last_source_timestamp = 0  # the timestamp of the last frame, as its source set it
        self._last_sent_timestamp = -1  # the timestamp of the last frame's last part
        self._may_send_unsealed = False  # one frame, which was encoded before the attachment
        self._unsealed_timestamp: int | None = None  # the RTP timestamp of that frame

    def _make_transform(self, e2ee: E2EEManager, participant_id: str, media: MediaType) -> SenderTransform:
        return e2ee.sender_transform(participant_id, media.kind, media.codec, track_id=self.track_id)

    def _participant(self, encryption: Encryption, owner: Sender) -> str | None:
        return encryption.local_id

    def adopt(self, encryption: Encryption) -> None:
        """Use *encryption*, and empty the history, so that no NACK is answered with an unsealed packet.

        If media flows already, one more unsealed frame may be between encoder and transport.
        """
        super().adopt(encryption)
        self._may_send_unsealed = self.running
        owner = self.owner()
        if owner is not None:
            self.stack.history(owner).clear()

    def predates_attachment(self, timestamp: int) -> bool:
        """Return whether an unsealed packet was encoded before the attachment. If not, close the track.

        Call it on the event loop.
        """
        self.find_encryption()
        if self._may_send_unsealed:
            self._may_send_unsealed, self._unsealed_timestamp = False, timestamp
        if timestamp == self._unsealed_timestamp:
            return True
        self.sealed.clear()
        self.close()
        return False

    def count_drop(self) -> None:
        """Count a frame that is not sent."""
        self.counters.dropped += 1
        # The next picture would refer to the dropped one, which no receiver has.
        self.keyframe_owed = True

    def seal(self, encryption: Encryption, codec: Codec, payloads: list[bytes]) -> list[bytes]:
        """Seal the payloads of one frame. An empty list means that nothing must be sent.

        It raises nothing but interpreter exits.
        """
        if not payloads:
            return []
        counters = self.counters
        counters.frames_in += 1
        sealed: list[bytes] | None = None
        try:
            transform = self.transform(encryption, codec)
            if transform is not None:
                row = CODECS[media_type(codec.mimeType).codec]
                if row.ticks is None or (len(payloads) == 1 and len(payloads[0]) <= row.max_payload):
                    sealed = transform.encrypt_payloads(payloads, self.sealed)
                else:
                    sealed = self._seal_each(transform, row, payloads)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the native core is a BaseException
            self.note_error(error)
        if sealed:
            counters.frames_out += 1
            return sealed
        if sealed is None:
            if self.ended:  # the track ended while the frame was encoded: do not count it
                counters.frames_in -= 1
            else:
                self.count_drop()
        return []

    def _seal_each(self, transform: SenderTransform, row: CodecRow, payloads: list[bytes]) -> list[bytes] | None:
        """Seal the frames of audio that one call of an encoder returned."""
        sealed_payloads: list[bytes] = []
        for offset, frame in row.access_units(payloads):
            sealed = transform.encrypt_payloads([frame], self.sealed)
            if sealed is None:
                return None
            for payload in sealed:
                later = LaterPayload(payload)
                later.offset = offset
                sealed_payloads.append(later)
        self._returns_later = True
        return sealed_payloads

    async def next_frame(self, inner: NextFrame, codec: Codec) -> EncodedFrame | None:
        """Return the next frame of *inner*, sealed. None means that the stack must send nothing now."""
        encryption = self.encryption
        if self.closed or (encryption is not None and encryption.detached):
            self._pending.clear()
        if self._pending:
            return self._pending.popleft()
        try:
            frame = await inner(codec)
        except self.stack.track_ended:
            self.end()
            raise
        encryption = self.encryption
        if encryption is None or self.loop is None:
            encryption = self.find_encryption()
        if encryption is None or frame is None:
            return None if frame is None else self._unattached(frame)
        payloads = frame.payloads
        if not self.sealed.holds(payloads):
            self.counters.foreign += 1
            unsealed = list(payloads)
            payloads = await asyncio.get_running_loop().run_in_executor(None, self.seal, encryption, codec, unsealed)
            self._pass_on_owed_keyframe()
        if encryption.detached or self.closed or not payloads:
            return None
        self._may_send_unsealed = False
        # Two frames may have one timestamp: a busy source returns a picture twice. A receiver would join them and open
        # neither, so the second has the tick after the first.
        source, last = frame.timestamp, self._last_sent_timestamp
        timestamp = last + 1 if self._last_source_timestamp <= source <= last else source
        self._last_source_timestamp, self._last_sent_timestamp = source, timestamp
        if self._returns_later:
            return self._first_of(frame, payloads, timestamp)
        if payloads is frame.payloads and timestamp == frame.timestamp:
            return frame
        part = copy.copy(frame)
        part.payloads, part.timestamp = payloads, timestamp
        return part

    def _unattached(self, frame: EncodedFrame) -> EncodedFrame | None:
        if not self.refused:
            return frame
        self.counters.frames_in += 1
        self.count_drop()
        return None

    def _first_of(self, frame: EncodedFrame, payloads: Sequence[bytes], timestamp: int) -> EncodedFrame:
        """Return the first of several frames of audio. The others wait for the next calls.

        A long audio frame has several packets. The stack has one timestamp per frame, so each packet becomes a frame.
        """
        frames = []
        for offset, group in itertools.groupby(payloads, key=lambda payload: getattr(payload, "offset", 0)):
            part = copy.copy(frame)
            # Without the offset, which is applied: guards are nested if other code wraps the method.
            part.payloads, part.timestamp = [bytes(payload) for payload in group], timestamp + offset
            self._last_sent_timestamp = max(self._last_sent_timestamp, part.timestamp)
            frames.append(part)
        self._pending.extend(frames[1:])
        return frames[0]

    def _pass_on_owed_keyframe(self) -> None:
        # An encoder of other code does not read `keyframe_owed`. The stack passes it the flag that a PLI sets.
        sender = self.owner()
        if self.keyframe_owed and sender is not None:
            sender._send_keyframe()
            self.keyframe_owed = False
