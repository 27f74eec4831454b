"""What stands where aiortc expects its encoder, its decoder and its sender's frame source. See ``aiortc.py``."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from frameseal.aiortc.gates import SealedFrame
from frameseal.aiortc.rtp import is_keyframe

if TYPE_CHECKING:
    from frameseal.aiortc.attachment import Attachment
    from frameseal.aiortc.receivers import ReceiverSlot
    from frameseal.aiortc.slots import SenderSlot
    from frameseal.aiortc.stack import Stack

__all__ = ["NEXT_FRAME", "NextFrameGuard", "OpeningDecoder", "SealingEncoder"]

NEXT_FRAME = "_next_encoded_frame"
PICTURE_IDS = 1 << 15  # RFC 7741 section 4.2: 15 bits


class SealingEncoder:
    """An encoder of the stack, whose frames come out sealed."""

    def __init__(self, inner: Any, codec: Any, slot: SenderSlot) -> None:
        vars(self).update(_inner=inner, _codec=codec, _slot=slot)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The stack sets `target_bitrate` on what it takes for its encoder.
        setattr(self._inner, name, value)

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], Any]:
        """Encode and seal, in an executor thread; ``([], ...)`` if nothing may leave."""
        slot, attachment = self._slot, self._slot.attachment
        if attachment is not None and (attachment.detached or slot.closed):
            slot.count_drop()
            return [], None
        force_keyframe, slot.keyframe_owed = force_keyframe or slot.keyframe_owed, False
        return self._sealed(attachment, *self._inner.encode(frame, force_keyframe))

    def pack(self, packet: Any) -> tuple[list[bytes], Any]:
        """Seal a frame that was encoded elsewhere, such as by ``MediaPlayer(decode=False)``; on the event loop."""
        return self._sealed(self._slot.attachment, *self._inner.pack(packet))

    def _sealed(self, attachment: Attachment | None, payloads: list[bytes], timestamp: Any) -> tuple[list[bytes], Any]:
        if attachment is None:
            return payloads, timestamp
        following = getattr(self._inner, "picture_id", None)  # only pictures of VP8 have one
        picture_id = None if following is None else (following - 1) % PICTURE_IDS
        return self._slot.seal(attachment, self._codec, payloads, picture_id), timestamp


class OpeningDecoder:
    """A decoder of the stack, which is only given what opened.

    Undecryptable media would be noise at full volume. And no exception leaves while attached: on most versions it
    would end the decoder thread for good.
    """

    def __init__(self, inner: Any, codec: Any, slot: ReceiverSlot) -> None:
        kind, _, self._name = codec.mimeType.lower().partition("/")
        self._inner = inner
        self._codec = codec
        self._slot = slot
        self._is_video = kind == "video"
        # Some decoders swallow the error of a missing reference: then only this gate asks for a keyframe.
        self._awaiting_keyframe = self._is_video
        # Of the last frame. Weak: the decoder thread of a receiver that has ended may live on.
        self._transform: Callable[[], Any] = lambda: None
        slot.note_proxy(codec.mimeType.lower())

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_inner"], name)

    def decode(self, encoded_frame: Any) -> list[Any]:
        """Open and decode one frame, in the decoder thread."""
        if isinstance(encoded_frame, SealedFrame):
            encoded_frame = encoded_frame.unwrap()
        attachment = self._slot.attachment
        if attachment is None:
            self._awaiting_keyframe = False
            frames: list[Any] = self._inner.decode(encoded_frame)
            return frames
        try:
            return self._decode(attachment, encoded_frame)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the native core is a BaseException
            self._slot.note_error(error)
            return self._drop()

    def _decode(self, attachment: Attachment, encoded_frame: Any) -> list[Any]:
        slot = self._slot
        if not encoded_frame.data:
            return []  # what padding-only packets add up to
        slot.counters.frames_in += 1
        transform = attachment.transform(slot, self._codec)
        if transform is None or self._inner is None:
            return self._drop()
        if transform is not self._transform():  # somebody else's pictures do not build on those before
            self._transform, self._awaiting_keyframe = weakref.ref(transform), self._is_video
        whole = slot.is_whole(self._name, encoded_frame.data)
        opened = transform.open(encoded_frame.data, encoded_frame, whole=whole)
        slot.note_outcome(transform, bool(opened))
        if not opened and transform.held:
            return []  # not lost: what follows may still refer to it
        if not opened:
            drop = self._drop()
            if self._is_video:
                slot.request_keyframe(undecryptable=True)
            return drop
        frames: list[Any] = []
        for data, encoded in opened:  # more than one where frames were held for their key
            encoded.data = data
            if data:
                frames += self._decode_opened(encoded)
        return frames

    def _decode_opened(self, encoded_frame: Any) -> list[Any]:
        slot = self._slot
        if self._awaiting_keyframe and not is_keyframe(self._name, encoded_frame.data):
            slot.request_keyframe(undecryptable=False)
            return self._drop()
        self._awaiting_keyframe = False
        try:
            frames: list[Any] = self._inner.decode(encoded_frame)
        except Exception as error:
            slot.note_error(error)
            slot.counters.dropped += 1
            # No gate here: what a damaged picture leaves visible is better than nothing until the keyframe comes.
            if self._is_video:
                slot.request_keyframe(undecryptable=False)
            return []
        slot.counters.frames_out += 1
        return frames

    def _drop(self) -> list[Any]:
        self._slot.counters.dropped += 1
        self._awaiting_keyframe = self._is_video
        return []


class NextFrameGuard:
    """``RTCRtpSender._next_encoded_frame`` as a data descriptor.

    Other libraries assign a coroutine function of their own on the instance, to use an encoder of their own. That would
    shadow a method. Here the assignment is kept, and called, but what comes out of it still passes the slot.
    """

    def __init__(self, method: Any, stack: Stack) -> None:
        self._method = method
        self._stack = stack

    def __get__(self, sender: Any, owner: Any = None) -> Any:
        if sender is None:
            return self
        inner = vars(sender).get(NEXT_FRAME) or self._method.__get__(sender, owner)
        return functools.partial(self._stack.slot_of(sender).next_frame, inner)

    def __set__(self, sender: Any, method: Any) -> None:
        vars(sender)[NEXT_FRAME] = method

    def __delete__(self, sender: Any) -> None:
        vars(sender).pop(NEXT_FRAME, None)

    def __call__(self, sender: Any, codec: Any) -> Any:
        """Be the unbound method that other code finds on the class."""
        return self.__get__(sender, type(sender))(codec)
