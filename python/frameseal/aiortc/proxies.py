"""What stands where aiortc expects its encoder, its decoder and its sender's frame source. See ``aiortc.py``."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import overload

from frameseal.aiortc.encryption import Encryption
from frameseal.aiortc.gates import SealedFrame
from frameseal.aiortc.protocols import Codec, Decoder, EncodedFrame, Encoder, JitterFrame, NextFrame, Packet, Sender
from frameseal.aiortc.receivers import ReceiverSlot
from frameseal.aiortc.rtp import is_keyframe, media_type
from frameseal.aiortc.slots import SealedPayload, SenderSlot
from frameseal.e2ee.transforms import ReceiverTransform

__all__ = ["NEXT_FRAME", "NextFrameGuard", "OpeningDecoder", "SealingEncoder"]

NEXT_FRAME = "_next_encoded_frame"
PICTURE_IDS = 1 << 15  # RFC 7741 section 4.2: 15 bits


Payloads = list[bytes] | list[SealedPayload]


class SealingEncoder:
    """An encoder of the stack, whose frames come out sealed."""

    _inner: Encoder
    _codec: Codec
    _slot: SenderSlot

    def __init__(self, inner: Encoder, codec: Codec, slot: SenderSlot) -> None:
        vars(self).update(_inner=inner, _codec=codec, _slot=slot)

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_inner"], name)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        # The stack sets `target_bitrate` on what it takes for its encoder.
        setattr(self._inner, name, value)

    def encode(self, frame: object, force_keyframe: bool = False) -> tuple[Payloads, int | None]:
        """Encode and seal, in an executor thread; ``([], ...)`` if nothing may leave."""
        slot, encryption = self._slot, self._slot.encryption
        if encryption is not None and (encryption.detached or slot.closed):
            slot.count_drop()
            return [], None
        force_keyframe, slot.keyframe_owed = force_keyframe or slot.keyframe_owed, False
        return self._sealed(encryption, *self._inner.encode(frame, force_keyframe))

    def pack(self, packet: Packet) -> tuple[Payloads, int]:
        """Seal a frame that was encoded elsewhere, such as by ``MediaPlayer(decode=False)``; on the event loop."""
        return self._sealed(self._slot.encryption, *self._inner.pack(packet))

    def _sealed(self, encryption: Encryption | None, payloads: list[bytes], timestamp: int) -> tuple[Payloads, int]:
        if encryption is None:
            return payloads, timestamp
        following: int | None = getattr(self._inner, "picture_id", None)  # only pictures of VP8 have one
        picture_id = None if following is None else (following - 1) % PICTURE_IDS
        return self._slot.seal(encryption, self._codec, payloads, picture_id), timestamp


class OpeningDecoder:
    """A decoder of the stack, which is only given what opened.

    Undecryptable media would be noise at full volume. And no exception leaves while attached: on most versions it
    would end the decoder thread for good.
    """

    def __init__(self, inner: Decoder | None, codec: Codec, slot: ReceiverSlot) -> None:
        media = media_type(codec.mimeType)
        self._name = media.codec
        self._inner = inner
        self._codec = codec
        self._slot = slot
        self._is_video = media.kind == "video"
        # Some decoders swallow the error of a missing reference: then only this gate asks for a keyframe.
        self._awaiting_keyframe = self._is_video
        # Of the last frame. Weak: the decoder thread of a receiver that has ended may live on.
        self._transform: Callable[[], ReceiverTransform | None] = lambda: None
        slot.note_proxy(media)

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_inner"], name)
        return found

    def decode(self, encoded_frame: JitterFrame | SealedFrame) -> list[object]:
        """Open and decode one frame, in the decoder thread."""
        if isinstance(encoded_frame, SealedFrame):
            encoded_frame = encoded_frame.unwrap()
        encryption = self._slot.encryption
        if encryption is None:
            self._awaiting_keyframe = False
            return [] if self._inner is None else self._inner.decode(encoded_frame)
        try:
            return self._decode(encryption, encoded_frame)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the native core is a BaseException
            self._slot.note_error(error)
            return self._drop()

    def _decode(self, encryption: Encryption, encoded_frame: JitterFrame) -> list[object]:
        slot = self._slot
        if not encoded_frame.data:
            return []  # what padding-only packets add up to
        slot.counters.frames_in += 1
        transform = slot.transform(encryption, self._codec)
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
        frames: list[object] = []
        for data, encoded in opened:  # more than one where frames were held for their key
            encoded.data = data
            if data:
                frames += self._decode_opened(self._inner, encoded)
        return frames

    def _decode_opened(self, inner: Decoder, encoded_frame: JitterFrame) -> list[object]:
        slot = self._slot
        if self._awaiting_keyframe and not is_keyframe(self._name, encoded_frame.data):
            slot.request_keyframe(undecryptable=False)
            return self._drop()
        self._awaiting_keyframe = False
        try:
            frames = inner.decode(encoded_frame)
        except Exception as error:
            slot.note_error(error)
            slot.counters.dropped += 1
            # No gate here: what a damaged picture leaves visible is better than nothing until the keyframe comes.
            if self._is_video:
                slot.request_keyframe(undecryptable=False)
            return []
        slot.counters.frames_out += 1
        return frames

    def _drop(self) -> list[object]:
        self._slot.counters.dropped += 1
        self._awaiting_keyframe = self._is_video
        return []


class NextFrameGuard:
    """``RTCRtpSender._next_encoded_frame`` as a data descriptor.

    Other libraries assign a coroutine function of their own on the instance, to use an encoder of their own. That would
    shadow a method. Here the assignment is kept, and called, but what comes out of it still passes the slot.
    """

    def __init__(self, method: FunctionType, slot_of: Callable[[Sender], SenderSlot]) -> None:
        self._method = method
        self._slot_of = slot_of

    @overload
    def __get__(self, sender: None, owner: type | None = None) -> NextFrameGuard: ...

    @overload
    def __get__(self, sender: Sender, owner: type | None = None) -> NextFrame: ...

    def __get__(self, sender: Sender | None, owner: type | None = None) -> NextFrameGuard | NextFrame:
        if sender is None:
            return self
        inner = vars(sender).get(NEXT_FRAME) or self._method.__get__(sender, owner)
        return functools.partial(self._slot_of(sender).next_frame, inner)

    def __set__(self, sender: Sender, method: NextFrame) -> None:
        vars(sender)[NEXT_FRAME] = method

    def __delete__(self, sender: Sender) -> None:
        vars(sender).pop(NEXT_FRAME, None)

    def __call__(self, sender: Sender, codec: Codec) -> Awaitable[EncodedFrame | None]:
        """Be the unbound method that other code finds on the class."""
        return self.__get__(sender, type(sender))(codec)
