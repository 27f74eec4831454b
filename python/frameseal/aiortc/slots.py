"""What the hook in ``aiortc.py`` knows of one sender or receiver: whose media it is, what became of it, what is owed.

Senders are here, receivers in ``receivers.py``.

A slot hangs on its owner and refers to it weakly, so nothing here outlives the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from frameseal.aiortc.rtp import PAYLOAD_IS_FRAME, access_units, check_h264_payloads, vp8_descriptor, vp8_payloads

if TYPE_CHECKING:
    from frameseal.aiortc.attachment import Attachment
    from frameseal.aiortc.stack import Stack

__all__ = ["CLOCK", "SealedPayload", "SenderSlot", "MediaSlot", "TrackCounters"]

CLOCK = Fraction(1, 90000)  # any valid time base: the timestamp that a packer returns is not used
MAX_SEALED_PAYLOADS = 256  # besides those of the latest frame: twice what the stacks keep to send again

_logger = logging.getLogger("frameseal")


@dataclass
class TrackCounters:
    """What passed through one sender or receiver since it was made."""

    direction: str
    """``"send"`` or ``"receive"``."""
    participant_id: str | None = None
    """Whose keys are used; None until the media starts."""
    kind: str | None = None
    """``"audio"`` or ``"video"``, from the codec's mime type; None until the first frame."""
    codec: str | None = None
    """Lower-case, such as ``"vp8"``; None until the first frame."""
    frames_in: int = 0
    """Frames from the encoder (send) or from the network (receive). Empty ones are not counted."""
    frames_out: int = 0
    """Frames sealed and handed to the packetizer (send), or opened and decoded (receive)."""
    dropped: int = 0
    """Frames that went nowhere: no key, not authentic, withheld until a keyframe, detached."""
    foreign: int = 0
    """Frames of an encoder that did not come from the stack's factory; the guard sealed them all the same."""
    keyframe_requests: int = 0
    """Picture loss indications sent (RFC 4585 section 6.3.1)."""
    last_error: str | None = None
    """The last thing that went wrong around the cipher; failures of the cipher itself are states."""


class SealedPayload(bytes):
    """An RTP payload of a sealed frame; the guard lets no other pass.

    A type, rather than a note of what was sealed last: other code may copy, join or queue payload lists.
    """

    offset: int = 0
    """Ticks of the RTP clock by which this payload's frame is later than the timestamp it was returned with."""


class MediaSlot:
    """One sender or receiver."""

    sends: bool

    def __init__(self, owner: Any, stack: Stack) -> None:
        self.owner = weakref.ref(owner)
        self.stack = stack
        self.attachment: Attachment | None = None
        self.counters = TrackCounters("send" if self.sends else "receive")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.identify_scheduled = False
        self.may_be_reassigned = False  # the application names the participant, and may name another one later
        self.asked_at = float("-inf")  # when it was last asked
        self.assigned_at = float("-inf")  # when it last named another participant
        self.transforms: dict[tuple[str, str], Any] = {}  # by participant and codec, earlier participants' included
        self.paused = False  # the direction is inactive
        self.ended = False  # the owner has stopped, or its track has ended
        self.running = False  # media may have been sent or received before
        self.closed = False  # other code replaced a seam of the stack, so no frame passes any more
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def started(self) -> bool:
        """Whether media may have flowed."""
        return self.loop is not None

    def start(self) -> None:
        """Take up the attachment of the connection that the owner belongs to; on the loop, before any media."""
        self.loop = asyncio.get_running_loop()
        attachment = self.attachment or self.stack.attachment_of(self)
        if attachment is not None:
            attachment.adopt(self)
        self.running = True

    def find_attachment(self) -> Attachment | None:
        """Return the attachment, and look for it again while there is none; on the event loop."""
        if not self.started or self.attachment is None:  # other code may have replaced send() or receive()
            self.start()
        return self.attachment

    def on_adopted(self) -> None:
        """Note that the attachment is new; on the event loop."""

    def schedule_identify(self) -> None:
        """Ask the application who the participant is, on the event loop; from any thread."""
        if self.attachment is not None and not self.identify_scheduled:
            self.identify_scheduled = True
            self.on_loop(self.attachment.identify, self)

    def enable(self, enabled: bool) -> None:
        """Follow a change of direction; on the event loop."""
        if self.attachment is not None and self.paused == enabled:
            self.paused = not enabled
            if enabled:
                self.attachment.identify(self)
                self.attachment.resume(self)
            else:
                self.attachment.pause(self)

    def end(self) -> None:
        """Release the transforms, since no more frames arrive. From any thread."""
        if self.attachment is not None:
            self.ended = True
            self.attachment.pause(self)
            self.transforms.clear()

    def close(self) -> None:
        """Close the track for good, because a frame got past the hook. From any thread."""
        if self.closed or self.attachment is None:
            return
        self.closed = True
        self.on_loop(self._close, self.attachment)

    def _close(self, attachment: Attachment) -> None:
        attachment.report_gap(self)
        owner = self.owner()
        if owner is not None:
            self._run(self.stack.stop(owner))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
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
        """``"audio"`` or ``"video"``, from the codec where one is known."""
        kind = self.counters.kind or getattr(self.owner(), "kind", None)
        return "audio" if kind == "audio" else "video"

    @property
    def track_id(self) -> str | None:
        """The id of the track that is sent or received."""
        return getattr(getattr(self.owner(), "track", None), "id", None)

    def note_error(self, error: BaseException) -> None:
        """Note what went wrong, and log it unless it is the same as before."""
        text = f"{type(error).__name__}: {error}"
        if text != self.counters.last_error:
            _logger.warning("%s %s: %s", self.counters.direction, self.counters.kind or "media", text)
        self.counters.last_error = text

    def on_loop(self, call: Callable[..., None], *args: Any) -> None:
        """Call something on the event loop, from any thread."""
        # The loop may be closed while a decoder thread still works off its last frames.
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(call, *args)


class SenderSlot(MediaSlot):
    """One sender: seals what encoders make."""

    sends = True

    def __init__(self, owner: Any, stack: Stack) -> None:
        super().__init__(owner, stack)
        self.keyframe_owed = False
        self.sealed: dict[bytes, None] = {}  # the latest payloads, in the order of sealing
        self._packer: Any = None
        self._pending: deque[Any] = deque()
        self._last_source_timestamp, self._last_sent_timestamp = (
            0,
            -1,
        )  # the last frame's timestamp: as it came, and as its last part went out
        self._may_send_unsealed = False  # one frame in the clear, from before the attachment
        self._unsealed_timestamp: int | None = None  # its RTP timestamp

    def on_adopted(self) -> None:
        """Empty the history, so that no NACK is answered from it. In mid-call one more frame may be under way."""
        self._may_send_unsealed = self.running
        owner = self.owner()
        if owner is not None:
            self.stack.history(owner).clear()

    def predates_attachment(self, timestamp: int) -> bool:
        """Whether a packet that was not sealed is from before the attachment. If not, close the track; on the loop."""
        self.find_attachment()
        if self._may_send_unsealed:
            self._may_send_unsealed, self._unsealed_timestamp = False, timestamp
        if timestamp == self._unsealed_timestamp:
            return True
        self.sealed.clear()
        self.close()
        return False

    def count_drop(self) -> None:
        """Count a frame that does not leave."""
        self.counters.dropped += 1
        # The encoder's next picture would refer to one that no receiver has.
        self.keyframe_owed = True

    def seal(
        self, attachment: Attachment, codec: Any, payloads: list[bytes], picture_id: int | None = None
    ) -> list[bytes]:
        """Seal what an encoder made of one frame. ``[]``: nothing may leave. Raises nothing but interpreter exits."""
        if not payloads:
            return []
        self.counters.frames_in += 1
        sealed: list[bytes] | None = None
        try:
            sealed = self._seal(attachment, codec, payloads, picture_id)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the native core is a BaseException
            self.note_error(error)
        if sealed is None:
            if self.ended:  # the frame was being encoded when its track ended: do not count it
                self.counters.frames_in -= 1
            else:
                self.count_drop()
            return []
        self.counters.frames_out += bool(sealed)
        return sealed

    def _seal(
        self, attachment: Attachment, codec: Any, payloads: list[bytes], picture_id: int | None
    ) -> list[bytes] | None:
        transform = attachment.transform(self, codec)
        if transform is None:
            return None
        sealed_payloads: list[bytes] = []
        while len(self.sealed) > MAX_SEALED_PAYLOADS:
            del self.sealed[next(iter(self.sealed))]
        frames, descriptor = self._depayload(codec, payloads)
        for offset, frame in access_units(str(self.counters.codec), frames):
            sealed = transform.encrypt(frame) if frame else b""
            if sealed is None:
                return None
            for payload in self._pack(codec, sealed, descriptor, picture_id) if sealed else ():
                marked = SealedPayload(payload)
                if offset:  # seldom, and an attribute of its own costs more than the mark
                    marked.offset = offset
                self.sealed.pop(marked, None)  # to the end of the order
                self.sealed[marked] = None
                sealed_payloads.append(marked)
        return sealed_payloads

    def _depayload(self, codec: Any, payloads: list[bytes]) -> tuple[list[bytes], bytes]:
        """Return the payloads without their descriptors, and VP8's descriptor if all have the same."""
        if self.counters.codec in PAYLOAD_IS_FRAME:
            return payloads, b""
        # One by one, the stack's parsing and writing takes much longer than the cipher takes for the picture.
        if self.counters.codec == "vp8" and (descriptor := vp8_descriptor(payloads)):
            length = len(descriptor)
            return [payload[length:] for payload in payloads], descriptor
        if self.counters.codec == "h264":
            check_h264_payloads(payloads)
        return [self.stack.depayload(codec, payload) for payload in payloads], b""

    def _pack(self, codec: Any, frame: bytes, descriptor: bytes, picture_id: int | None) -> list[bytes]:
        if self.counters.codec in PAYLOAD_IS_FRAME:
            return [frame]
        if descriptor:
            return vp8_payloads(descriptor, frame)
        # A second encoder, because VP8's counts a picture each time it packs: the one that encoded would
        # leave gaps in the picture ids, which SFUs and browsers take for lost frames.
        if self._packer is None:
            self._packer = self.stack.packer(codec)
        if picture_id is not None:
            self._packer.picture_id = picture_id
        packet = self.stack.av.Packet(frame)
        packet.pts, packet.time_base = 0, CLOCK
        payloads: list[bytes] = self._packer.pack(packet)[0]
        return payloads

    async def next_frame(self, inner: Callable[[Any], Awaitable[Any]], codec: Any) -> Any:
        """Guard `inner`: its encoded frame, sealed, or None (which the stack skips) if it must not leave."""
        if self.closed or (self.attachment is not None and self.attachment.detached):
            self._pending.clear()
        if self._pending:
            return self._pending.popleft()
        try:
            frame = await inner(codec)
        except self.stack.track_ended:
            self.end()
            raise
        attachment = self.find_attachment()
        if attachment is None or frame is None:
            return frame
        payloads = frame.payloads
        if not all(isinstance(payload, SealedPayload) for payload in payloads):
            self.counters.foreign += 1
            payloads = await asyncio.get_running_loop().run_in_executor(
                None, self.seal, attachment, codec, list(payloads)
            )
            self._pass_on_owed_keyframe()
        if attachment.detached or self.closed or not payloads:
            return None
        self._may_send_unsealed = False
        timestamp = self._in_order(frame.timestamp)
        offsets = [payload.offset for payload in payloads]
        self._last_sent_timestamp = timestamp + max(offsets)
        if payloads is frame.payloads and timestamp == frame.timestamp and not any(offsets):
            return frame
        # Several packets of one long audio frame: the stack knows one timestamp per frame, so each becomes its own.
        frames = []
        for offset, group in itertools.groupby(payloads, key=lambda payload: payload.offset):
            part = copy.copy(frame)
            part.payloads, part.timestamp = list(group), timestamp + offset
            for payload in part.payloads:
                payload.offset = 0  # applied: guards are nested when other code wraps the method
            frames.append(part)
        self._pending.extend(frames[1:])
        return frames[0]

    def _in_order(self, timestamp: int) -> int:
        """Return the timestamp, or the tick after the last frame's if that timestamp was sent already.

        A receiver would join two frames of one timestamp and open neither. Busy sources return a picture twice.
        """
        went_out = self._last_source_timestamp <= timestamp <= self._last_sent_timestamp
        self._last_source_timestamp = timestamp
        return self._last_sent_timestamp + 1 if went_out else timestamp

    def _pass_on_owed_keyframe(self) -> None:
        # A foreign encoder does not see `keyframe_owed`; the stack passes it the flag that a PLI sets.
        sender = self.owner()
        if self.keyframe_owed and sender is not None:
            sender._send_keyframe()
            self.keyframe_owed = False
