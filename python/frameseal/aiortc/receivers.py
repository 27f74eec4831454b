"""The state that the hook keeps for each receiver. ``slots.py`` has the state of senders too."""

from __future__ import annotations

import contextlib
import time
import weakref
from dataclasses import dataclass
from typing import Final

from frameseal.aiortc.encryption import Encryption
from frameseal.aiortc.protocols import Codec, DecoderQueue, DecoderTask, Member, Receiver, RtpPacket, StackFunctions
from frameseal.aiortc.slots import SLOT, MediaSlot, SenderSlot
from frameseal.aiortc.taps import FrameTap, Source
from frameseal.codecs import CODECS, CodecRow
from frameseal.codecs.rtp import MediaType, media_type
from frameseal.e2ee.manager import E2EEManager
from frameseal.e2ee.transforms import ReceiverTransform
from frameseal.events import E2EEKeyChange

__all__ = ["KEY_MARK", "AnySlot", "ReceiverSlot", "present_slot"]

PLI_INTERVAL = 0.5  # seconds
PLI_BACKED_OFF = 5.0  # seconds
MAX_STARTS = 1024  # remembered starts of frames: more than a jitter buffer holds packets
START_LEN = 16  # bytes, of which at least 6 are sealed
IDENTIFY_INTERVAL = 1.0  # seconds between two questions for the participant, while frames arrive
MIN_IDENTIFY_INTERVAL = 0.1  # seconds, even if the stream changes more often
KEY_ID_BITS = 0xFF  # of the KID of a shared SFrame key. The others name the sender.


@dataclass(eq=False)
class KeyMark:
    """A frame without bytes in a decoder queue: a key was set for which frames wait."""

    data: bytes = b""
    timestamp: int = 0


KEY_MARK: Final = KeyMark()


class ReceiverSlot(MediaSlot[Receiver, ReceiverTransform]):
    """The slot of one receiver. It requests keyframes, and detects frames whose first packets are missing.

    A jitter buffer that overflows delivers an incomplete frame. Only the first packets of that frame can be missing.
    """

    sends = False

    def __init__(self, owner: Receiver, stack: StackFunctions) -> None:
        super().__init__(owner, stack)
        self.ssrcs: frozenset[int] = frozenset()
        self.codecs: dict[int, Codec] = {}  # by payload type
        self.decoder_queue: DecoderQueue | None = None  # the stack's own, without the gate
        # The codec and the transform of frames that wait for a key. Weak, because a transform ends with its track.
        self._awaits_key: tuple[Codec, weakref.ref[ReceiverTransform]] | None = None
        self._tap: FrameTap | None = None
        self._starts: dict[bytes, None] = {}
        self._packet_noted = False  # since the last frame
        self._last_request = float("-inf")
        self._unanswered = 0
        self._source: int | None = None  # the SSRC of the latest packet
        self._proxied_codecs: set[MediaType] = set()  # the media types that have a decoder proxy

    def _make_transform(self, e2ee: E2EEManager, participant_id: str, media: MediaType) -> ReceiverTransform:
        return e2ee.receiver_transform(participant_id, media.kind, media.codec, track_id=self.track_id)

    def _participant(self, encryption: Encryption, owner: Receiver) -> str | None:
        return encryption.remote_participant(owner)

    def note_proxy(self, media: MediaType) -> None:
        """Note that a decoder proxy was made for *media*."""
        self._awaits_key = None  # a frame of the former codec would bring the former decoder back
        self._proxied_codecs.add(media)

    def check_decoder(self, media: MediaType) -> None:
        """Close the track if *media* has no decoder proxy. Runs in the decoder thread."""
        if media not in self._proxied_codecs:
            self.counters.kind, self.counters.codec = media
            self.close()

    def admits(self, task: DecoderTask | None) -> bool:
        """Return whether the decoder queue may receive *task*, which is None at the end. Call it on the event loop."""
        if task is None:
            return True
        if self.encryption is None or self.loop is None:
            with contextlib.suppress(RuntimeError):  # an SDK receives in a thread without a loop
                self.find_encryption()
        if self.may_be_reassigned and self.encryption is not None and self._is_due():
            self.identify(self.encryption)
        if not self._packet_noted:  # other code replaced depayload(), so the remembered starts are outdated
            self._starts.clear()
        self._packet_noted = False
        return not (self.closed or self.refused)

    def _present_tap(self) -> FrameTap | None:
        """Return the tap of the present recorder. None means that nobody records the receiver."""
        encryption = self.encryption
        recorder = None if encryption is None or encryption.detached else encryption.recorder
        if recorder is None:
            self._tap = None
        elif self._tap is None or self._tap.recorder is not recorder:
            self._tap = FrameTap(recorder)
        return self._tap

    def note_rtp(self, packet: RtpPacket) -> None:
        """Note a packet for the recording, before the stack processes it. Call it on the event loop."""
        tap = self._present_tap()
        if tap is not None:
            try:
                tap.note_packet(packet, self.codecs)
            except Exception as error:  # the stack would end the transport
                self.note_error(error)

    def record(self, task: DecoderTask | None) -> bool:
        """Record a frame. Return whether the decoder queue may receive it, too. Call it on the event loop."""
        if self.encryption is None or self.encryption.recorder is None:
            return True
        tap = self._present_tap()
        if tap is None or task is None:
            return True
        try:
            if not tap.recorder.closed:
                self._record(tap, task)
        except Exception as error:  # a recording must not end the call
            self.note_error(error)
        return tap.recorder.decodes

    def _record(self, tap: FrameTap, task: DecoderTask) -> None:
        owner = self.owner()
        timestamp = None if owner is None else self.stack.wire_timestamp(owner, task[1].timestamp)
        codec = None if timestamp is None else tap.codec_of(timestamp, self.codecs)
        if timestamp is None or codec is None:
            return  # packets that arrived before the recording
        media = media_type(codec.mimeType)
        row = CODECS.get(media.codec)
        data = task[1].data
        if not tap.recorder.decodes:
            self.counters.kind, self.counters.codec = media
            self.counters.frames_in += bool(data)
        whole = row is None or self.is_whole(row, data)
        source = Source(self.counters.participant_id, self.track_id or "")
        if tap.take(data, timestamp, codec, source, whole=whole):
            # The interval doubles while no keyframe arrives, since some senders refresh pictures without keyframes.
            self.request_keyframe(undecryptable=True)
        elif data:
            self._unanswered = 0

    def _is_due(self) -> bool:
        """Return whether to identify the participant again, since an SFU may have reassigned the receiver."""
        since = time.monotonic() - self.identified_at
        owner = self.owner()
        if owner is None or since < MIN_IDENTIFY_INTERVAL:
            return False
        sources = owner.getSynchronizationSources()
        latest = max(sources, key=lambda source: source.timestamp).source if sources else None
        changed, self._source = latest != self._source, latest
        return changed or since >= IDENTIFY_INTERVAL

    def note_outcome(self, transform: ReceiverTransform, opened: bool) -> None:
        """Note whether a frame was opened. The first frame that was not opened schedules `identify`.

        Only for a receiver that may be reassigned.
        """
        if opened:
            transform.track.in_doubt = True
        elif transform.track.in_doubt:
            self.schedule_identify()

    def note_packet(self, codec: Codec, payload: bytes, data: bytes) -> None:
        """Remember the start of a VP8 frame if *payload* is its first packet. Call it on the event loop."""
        self._packet_noted = True
        row = CODECS.get(media_type(codec.mimeType).codec)
        start = None if row is None else row.frame_start
        if start is not None and payload[0] & start[0] == start[1]:
            self._starts[data[:START_LEN]] = None
            if len(self._starts) > MAX_STARTS:
                del self._starts[next(iter(self._starts))]

    def is_whole(self, row: CodecRow, frame: bytes) -> bool:
        """Return whether *frame* has its first packets. Returns True if nothing shows that they are missing."""
        if row.start:
            return frame.startswith(row.start)
        return row.frame_start is None or not self._starts or frame[:START_LEN] in self._starts

    def await_key(self, codec: Codec, transform: ReceiverTransform) -> None:
        """Note that a frame of *transform* failed because its key is missing. Runs in the decoder thread."""
        self._awaits_key = codec, weakref.ref(transform)

    def note_key(self, change: E2EEKeyChange) -> None:
        """Wake the decoder thread if frames wait for the key that was set. Callable from any thread."""
        awaits, queue = self._awaits_key, self.decoder_queue
        if awaits is None or queue is None or self.paused or self.ended:
            return
        codec, reference = awaits
        transform = reference()
        key_id = None if transform is None else transform.missing_key_id
        if transform is None or key_id is None or key_id & KEY_ID_BITS != change.key_id:
            return
        if change.participant_id in (None, transform.track.participant_id):
            self._awaits_key = None
            queue.put((codec, KEY_MARK))

    def request_keyframe(self, *, undecryptable: bool) -> None:
        """Request a keyframe from the sender, at most every half second (PLI, RFC 4585 section 6.3.1).

        While frames fail, the interval doubles up to 5 s. A keyframe may fail as they do, and costs everybody else in
        the call. An opened frame ends that. A receiver without the key requests nothing: see `await_key`.
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
        # The sources include retransmission, so prefer the negotiated SSRCs. An SFU may send under an SSRC that it
        # never announced: then ask all sources.
        for ssrc in sources & self.ssrcs or sources:
            self._run(receiver._send_rtcp_pli(ssrc))


AnySlot = SenderSlot | ReceiverSlot


def present_slot(owner: Member) -> AnySlot | None:
    """Return the slot of a sender or receiver. None means that the hook has not met the owner yet."""
    slot: AnySlot | None = vars(owner).get(SLOT)
    return slot
