"""What the hook in ``aiortc.py`` knows of one sender or receiver: whose media it is, what became of it, what is owed.

A slot hangs on its owner and refers to it weakly, so nothing here outlives the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from frameseal._rtc_media import PAYLOAD_IS_FRAME, access_units, check_h264_payloads, vp8_descriptor, vp8_payloads

if TYPE_CHECKING:
    from frameseal.aiortc import Attachment, Stack

__all__ = ["CLOCK", "ReceiverSlot", "SealedPayload", "SenderSlot", "Slot", "TrackCounters"]

CLOCK = Fraction(1, 90000)  # any valid time base: the timestamp that a packer returns is not used
PLI_INTERVAL = 0.5  # seconds
PLI_BACKED_OFF = 5.0  # seconds
STARTS_KEPT = 1024  # frames whose beginning is remembered: more than a jitter buffer holds packets
START_LEN = 16  # bytes, 6 of which are sealed at the least

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


class Slot:
    """One sender or receiver."""

    sends: bool

    def __init__(self, owner: Any, stack: Stack) -> None:
        self.owner = weakref.ref(owner)
        self.stack = stack
        self.attachment: Attachment | None = None
        self.counters = TrackCounters("send" if self.sends else "receive")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.identifying = False

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

    def failed(self, error: BaseException) -> None:
        """Note what went wrong, and log it unless it is the same as before."""
        text = f"{type(error).__name__}: {error}"
        if text != self.counters.last_error:
            _logger.warning("%s, media of %s: %s", self.counters.direction, self.counters.participant_id, text)
        self.counters.last_error = text

    def on_loop(self, call: Callable[..., None], *args: Any) -> None:
        """Call something on the event loop, from any thread."""
        # The loop may be closed while a decoder thread still works off its last frames.
        if self.loop is not None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(call, *args)


class SenderSlot(Slot):
    """One sender: seals what encoders make."""

    sends = True

    def __init__(self, owner: Any, stack: Stack) -> None:
        super().__init__(owner, stack)
        self.keyframe_owed = False
        self._packer: Any = None
        self._pending: deque[Any] = deque()

    def drop(self) -> None:
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
            self.failed(error)
        if sealed is None:
            self.drop()
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
        frames, descriptor = self._depayload(codec, payloads)
        for offset, frame in access_units(str(self.counters.codec), frames):
            sealed = transform.encrypt(frame) if frame else b""
            if sealed is None:
                return None
            for payload in self._pack(codec, sealed, descriptor, picture_id) if sealed else ():
                marked = SealedPayload(payload)
                if offset:  # seldom, and an attribute of its own costs more than the mark
                    marked.offset = offset
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
        if self.attachment is not None and self.attachment.detached:
            self._pending.clear()
        if self._pending:
            return self._pending.popleft()
        frame = await inner(codec)
        if not self.started:  # somebody got past send()
            self.start()
        attachment = self.attachment
        if attachment is None or frame is None:
            return frame
        payloads = frame.payloads
        if not all(isinstance(payload, SealedPayload) for payload in payloads):
            self.counters.foreign += 1
            payloads = await asyncio.get_running_loop().run_in_executor(
                None, self.seal, attachment, codec, list(payloads)
            )
            self._pass_on_owed_keyframe()
        if attachment.detached or not payloads:
            return None
        if payloads is frame.payloads and not any(payload.offset for payload in payloads):
            return frame
        # Several packets of one long audio frame: the stack knows one timestamp per frame, so each becomes its own.
        frames = []
        for offset, group in itertools.groupby(payloads, key=lambda payload: payload.offset):
            part = copy.copy(frame)
            part.payloads, part.timestamp = list(group), frame.timestamp + offset
            for payload in part.payloads:
                payload.offset = 0  # applied: guards are nested when other code wraps the method
            frames.append(part)
        self._pending.extend(frames[1:])
        return frames[0]

    def _pass_on_owed_keyframe(self) -> None:
        # A foreign encoder does not see `keyframe_owed`; the stack passes it the flag that a PLI sets.
        sender = self.owner()
        if self.keyframe_owed and sender is not None:
            sender._send_keyframe()
            self.keyframe_owed = False


class ReceiverSlot(Slot):
    """One receiver: asks for keyframes, and knows frames that lost their head.

    A jitter buffer that overflows delivers what it has of a frame, in which only the first packets can be missing.
    """

    sends = False

    def __init__(self, owner: Any, stack: Stack) -> None:
        super().__init__(owner, stack)
        self.ssrcs: frozenset[int] = frozenset()
        self._starts: dict[bytes, None] = {}
        self._last_request = float("-inf")
        self._unanswered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def note_packet(self, codec: Any, payload: bytes, data: bytes) -> None:
        """Remember how a frame begins whose first packet this is, where packets tell; on the event loop."""
        # S, and partition 0: RFC 7741 section 4.2.
        if codec.mimeType.lower() == "video/vp8" and payload[0] & 0x17 == 0x10:
            self._starts[data[:START_LEN]] = None
            if len(self._starts) > STARTS_KEPT:
                del self._starts[next(iter(self._starts))]

    def is_whole(self, codec: str, frame: bytes) -> bool:
        """Whether *frame* begins where a frame of its codec does, as far as that can be told."""
        if codec == "h264":
            return frame.startswith(b"\0\0\0\1")  # as every NAL unit does after depacketising
        return codec != "vp8" or not self._starts or frame[:START_LEN] in self._starts

    def request_keyframe(self, *, undecryptable: bool) -> None:
        """Ask the sender for a keyframe, at most every half second.

        While nothing at all can be opened the interval doubles up to 5 s: a keyframe does not help who lacks the
        key, and everybody else in the call pays for it.
        """
        if not undecryptable:
            self._unanswered = 0
        wait = min(PLI_INTERVAL * 2 ** max(min(self._unanswered, 8) - 1, 0), PLI_BACKED_OFF)
        now = time.monotonic()
        if now - self._last_request >= wait:
            self._last_request = now
            self._unanswered += undecryptable
            self.counters.keyframe_requests += 1
            self.on_loop(self._send_plis)

    def _send_plis(self) -> None:
        receiver = self.owner()
        if receiver is None:
            return
        sources = {source.source for source in receiver.getSynchronizationSources()}
        # Those that were negotiated, as the sources include retransmission; all of them when an SFU sends under
        # an SSRC which it never announced.
        for ssrc in sources & self.ssrcs or sources:
            task = asyncio.ensure_future(self._send_pli(receiver, ssrc))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_pli(self, receiver: Any, ssrc: int) -> None:
        try:
            await receiver._send_rtcp_pli(ssrc)
        except Exception as error:
            self.failed(error)
