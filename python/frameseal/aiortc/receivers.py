"""What the hook knows of one receiver; ``slots.py`` has what senders and receivers share."""

from __future__ import annotations

import contextlib
import time

from frameseal.aiortc.encryption import Encryption
from frameseal.aiortc.protocols import Codec, DecoderTask, Receiver, StackFunctions
from frameseal.aiortc.rtp import MediaType, media_type
from frameseal.aiortc.slots import MediaSlot
from frameseal.e2ee.manager import E2EEManager
from frameseal.e2ee.transforms import ReceiverTransform

__all__ = ["ReceiverSlot"]

PLI_INTERVAL = 0.5  # seconds
PLI_BACKED_OFF = 5.0  # seconds
MAX_STARTS = 1024  # frames whose beginning is remembered: more than a jitter buffer holds packets
START_LEN = 16  # bytes, 6 of which are sealed at the least
IDENTIFY_INTERVAL = 1.0  # seconds from one question for the participant to the next, while frames come
MIN_IDENTIFY_INTERVAL = 0.1  # seconds, however often the stream changes


class ReceiverSlot(MediaSlot[Receiver, ReceiverTransform]):
    """One receiver: asks for keyframes, and knows frames that lost their head.

    A jitter buffer that overflows delivers what it has of a frame, in which only the first packets can be missing.
    """

    sends = False

    def __init__(self, owner: Receiver, stack: StackFunctions) -> None:
        super().__init__(owner, stack)
        self.ssrcs: frozenset[int] = frozenset()
        self._starts: dict[bytes, None] = {}
        self._packet_noted = False  # a packet, since the last frame
        self._last_request = float("-inf")
        self._unanswered = 0
        self._source: int | None = None  # SSRC of the latest packet
        self._proxied_codecs: set[MediaType] = set()  # for which the stack got a decoder proxy

    def _make_transform(self, e2ee: E2EEManager, participant_id: str, media: MediaType) -> ReceiverTransform:
        return e2ee.receiver_transform(participant_id, media.kind, media.codec, track_id=self.track_id)

    def _participant(self, encryption: Encryption, owner: Receiver) -> str | None:
        return encryption.remote_participant(owner)

    def note_proxy(self, media: MediaType) -> None:
        """Note that a decoder proxy was made for this codec."""
        self._proxied_codecs.add(media)

    def check_decoder(self, media: MediaType) -> None:
        """Close the track if the codec's decoder is not a decoder proxy; in the decoder thread."""
        if media not in self._proxied_codecs:
            self.counters.kind, self.counters.codec = media
            self.close()

    def admits(self, task: DecoderTask | None) -> bool:
        """Whether the decoder queue takes a frame, or None for the end; on the event loop."""
        if task is None:
            return True
        with contextlib.suppress(RuntimeError):  # an SDK receives in a thread without a loop
            self.find_encryption()
        if self.may_be_reassigned and self.encryption is not None and self._is_due():
            self.identify(self.encryption)
        if not self._packet_noted:  # other code has replaced depayload(): what is remembered no longer grows
            self._starts.clear()
        self._packet_noted = False
        return not self.closed

    def _is_due(self) -> bool:
        """Whether to ask the application again whose frames these are: an SFU may have given the receiver away."""
        since = time.monotonic() - self.identified_at
        owner = self.owner()
        if owner is None or since < MIN_IDENTIFY_INTERVAL:
            return False
        sources = owner.getSynchronizationSources()
        latest = max(sources, key=lambda source: source.timestamp).source if sources else None
        changed, self._source = latest != self._source, latest
        return changed or since >= IDENTIFY_INTERVAL

    def note_outcome(self, transform: ReceiverTransform, opened: bool) -> None:
        """Note whether a frame was opened. Ask whose frames these are at the first that was not."""
        if self.may_be_reassigned:
            if opened:
                transform.track.in_doubt = True
            elif transform.track.in_doubt:
                self.schedule_identify()

    def note_packet(self, codec: Codec, payload: bytes, data: bytes) -> None:
        """Remember how a frame begins whose first packet this is, where packets tell; on the event loop."""
        self._packet_noted = True
        # S, and partition 0: RFC 7741 section 4.2.
        if media_type(codec.mimeType).codec == "vp8" and payload[0] & 0x17 == 0x10:
            self._starts[data[:START_LEN]] = None
            if len(self._starts) > MAX_STARTS:
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
            self._run(receiver._send_rtcp_pli(ssrc))
