"""The proxies that a stack uses as its encoder, its decoder and its sender's frame source. See ``stack.py``."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import FunctionType
from typing import overload

from frameseal.aiortc.encryption import Encryption
from frameseal.aiortc.gates import GuardedFrame
from frameseal.aiortc.protocols import Codec, Decoder, EncodedFrame, Encoder, JitterFrame, NextFrame, Packet, Sender
from frameseal.aiortc.receivers import KEY_MARK, ReceiverSlot
from frameseal.aiortc.slots import SLOT, SenderSlot
from frameseal.codecs import CODECS, CodecRow
from frameseal.codecs.rtp import media_type
from frameseal.e2ee.transforms import ReceiverTransform

__all__ = ["NEXT_FRAME", "NextFrameGuard", "OpeningDecoder", "SealingEncoder"]

NEXT_FRAME = "_next_encoded_frame"


class SealingEncoder:
    """An encoder of the stack that returns sealed frames."""

    _inner: Encoder
    _codec: Codec
    _slot: SenderSlot

    def __init__(self, inner: Encoder, codec: Codec, slot: SenderSlot) -> None:
        vars(self).update(_inner=inner, _codec=codec, _slot=slot)

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_inner"], name)
        return found

    def __setattr__(self, name: str, value: object) -> None:
        # The stack sets ``target_bitrate`` on its encoder.
        setattr(self._inner, name, value)

    def encode(self, frame: object, force_keyframe: bool = False) -> tuple[list[bytes], int | None]:
        """Encode and seal a frame. Runs in an executor thread. No payloads mean that nothing must be sent."""
        slot, encryption = self._slot, self._slot.encryption
        if encryption is not None and (encryption.detached or slot.closed):
            slot.count_drop()
            return [], None
        force_keyframe, slot.keyframe_owed = force_keyframe or slot.keyframe_owed, False
        payloads, timestamp = self._inner.encode(frame, force_keyframe)
        return payloads if encryption is None else slot.seal(encryption, self._codec, payloads), timestamp

    def pack(self, packet: Packet) -> tuple[list[bytes], int]:
        """Seal a frame that was encoded elsewhere, as by ``MediaPlayer(decode=False)``. Runs on the event loop."""
        encryption = self._slot.encryption
        payloads, timestamp = self._inner.pack(packet)
        return payloads if encryption is None else self._slot.seal(encryption, self._codec, payloads), timestamp


class OpeningDecoder:
    """A decoder of the stack that decodes opened frames only.

    A frame that was not opened would be noise at full volume. While the connection is attached, `decode` raises
    nothing, because an exception ends the decoder thread of most versions for good.
    """

    def __init__(self, inner: Decoder | None, codec: Codec, slot: ReceiverSlot) -> None:
        media = media_type(codec.mimeType)
        self._row = CODECS.get(media.codec)
        self._shows_start = self._row is not None and bool(self._row.start or self._row.frame_start)
        self._inner = inner
        self._codec = codec
        self._slot = slot
        self._is_video = media.kind == "video"
        # Some decoders ignore a missing reference picture. Then only this flag leads to a request for a keyframe.
        self._awaiting_keyframe = self._is_video
        # The transform of the last frame. Weak, because a decoder thread may outlive its receiver.
        self._transform: Callable[[], ReceiverTransform | None] = lambda: None
        slot.note_proxy(media)

    def __getattr__(self, name: str) -> object:
        found: object = getattr(vars(self)["_inner"], name)
        return found

    def decode(self, encoded_frame: JitterFrame | GuardedFrame) -> Iterable[object]:
        """Open and decode one frame. Runs in the decoder thread. An empty list means that nothing was decoded."""
        if isinstance(encoded_frame, GuardedFrame):
            encoded_frame = encoded_frame.unwrap()
        encryption = self._slot.encryption
        if encryption is None:
            if self._slot.refused:
                return self._drop()
            self._awaiting_keyframe = False
            return [] if self._inner is None else self._inner.decode(encoded_frame)
        try:
            return self._decode(encryption, encoded_frame)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the native core is a BaseException
            self._slot.note_error(error)
            return self._drop()

    def _decode(self, encryption: Encryption, encoded_frame: JitterFrame) -> Iterable[object]:
        slot = self._slot
        if not encoded_frame.data:  # a frame of padding-only packets, or the mark of a key
            return self._decode_held(encryption) if encoded_frame is KEY_MARK else []
        slot.counters.frames_in += 1
        row, transform = self._row, slot.transform(encryption, self._codec)
        if row is None or transform is None or self._inner is None:
            return self._drop()
        if transform is not self._transform():  # pictures of another participant do not refer to the last ones
            self._transform, self._awaiting_keyframe = weakref.ref(transform), self._is_video
        data = encoded_frame.data
        opened = transform.open(data, encoded_frame, whole=not self._shows_start or slot.is_whole(row, data))
        if slot.may_be_reassigned:
            slot.note_outcome(transform, bool(opened))
        if not opened:
            return self._wait(transform)
        if len(opened) > 1:
            return self._decode_each(self._inner, row, opened)
        data, encoded = opened[0]
        encoded.data = data
        return self._decode_opened(self._inner, row, encoded) if data else []

    def _decode_held(self, encryption: Encryption) -> Iterable[object]:
        """Decode the frames that waited for a key that was set. If there are none, request the awaited keyframe."""
        row, transform = self._row, self._slot.transform(encryption, self._codec)
        if row is None or self._inner is None or transform is None or transform is not self._transform():
            return []
        if not transform.missing_key:
            return []
        opened = transform.open_held()
        if self._awaiting_keyframe and not opened and not transform.held:
            self._slot.request_keyframe(undecryptable=False)
        return self._decode_each(self._inner, row, opened)

    def _decode_each(self, inner: Decoder, row: CodecRow, opened: list[tuple[bytes, JitterFrame]]) -> Iterator[object]:
        """Decode frames of which some were held for their key. The stack delivers each before the next is decoded."""
        for data, encoded in opened:
            encoded.data = data
            if data:
                yield from self._decode_opened(inner, row, encoded)

    def _wait(self, transform: ReceiverTransform) -> list[object]:
        """Wait for the key of a frame that did not open, or for a keyframe."""
        if transform.missing_key:
            self._slot.await_key(self._codec, transform)
        if transform.held:
            return []  # not lost: the next pictures may still refer to it
        if self._is_video and not transform.missing_key:  # the arrival of a missing key requests the keyframe
            self._slot.request_keyframe(undecryptable=True)
        return self._drop()

    def _decode_opened(self, inner: Decoder, row: CodecRow, encoded_frame: JitterFrame) -> list[object]:
        slot = self._slot
        try:
            if self._awaiting_keyframe and not row.is_keyframe(encoded_frame.data):
                slot.request_keyframe(undecryptable=False)
                return self._drop()
            self._awaiting_keyframe = False
            frames = inner.decode(encoded_frame)
        except Exception as error:
            slot.note_error(error)
            slot.counters.dropped += 1
            # Do not wait for the keyframe: a damaged picture is better than none until it arrives.
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

    Other libraries assign a coroutine function on the instance, to use an encoder of their own. The assignment would
    shadow a method. The descriptor keeps and calls the function, and its frames still pass the slot.
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
        attributes = vars(sender)
        inner = attributes.get(NEXT_FRAME) or self._method.__get__(sender, owner)
        slot: SenderSlot = attributes.get(SLOT) or self._slot_of(sender)
        return functools.partial(slot.next_frame, inner)

    def __set__(self, sender: Sender, method: NextFrame) -> None:
        vars(sender)[NEXT_FRAME] = method

    def __delete__(self, sender: Sender) -> None:
        vars(sender).pop(NEXT_FRAME, None)

    def __call__(self, sender: Sender, codec: Codec) -> Awaitable[EncodedFrame | None]:
        """Call it as the unbound method that other code finds on the class."""
        return self.__get__(sender, type(sender))(codec)
