"""`FrameTap`: makes rows of a recording from the frames that one receiver assembles. It has no key.

A stack hands a frame on with a timestamp that it has re-based, and without the SSRC. So the tap notes the packets, and
finds those of a frame by the timestamp on the wire. Sequence numbers show which frames are missing.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from frameseal._native import Decryptor, KeyRing
from frameseal.codecs import CODECS, CodecRow
from frameseal.codecs.plain import Excerpt, excerpt
from frameseal.codecs.rtp import media_type
from frameseal.inspection.shapes import MAX_EXCERPTS, MIN_VERDICT_FRAMES, Shape, sframe_header, shape
from frameseal.profiles import is_sframe, layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from frameseal.aiortc.protocols import Codec, RtpPacket
    from frameseal.aiortc.recorder import Recorder
    from frameseal.archive import SealedFrame

__all__ = ["FrameTap", "Source", "keyframe_of"]

MAX_TIMESTAMPS: Final = 1024  # noted at a time: more frames than a jitter buffer holds packets
MAX_PACKETS: Final = 4096  # remembered of a frame: more than a jitter buffer holds
RETRANSMISSION: Final = "rtx"  # RFC 4588, section 8.6
MIN_TELLING: Final = 16  # bytes: a shorter frame is silence, and shows nothing
VERDICT_INTERVAL: Final = 4  # frames between two looks at a track that is trusted
# Sealed frames between two frames of a track: those of the sender's other tracks, and lost ones.
MAX_BETWEEN: Final = 1024
OSN_LEN: Final = 2  # RFC 4588, section 4: the original sequence number


@dataclass(slots=True)
class _Packets:
    """The packets of one frame, as they arrived."""

    ssrc: int
    payload_type: int
    first: int
    """The lowest sequence number, unwrapped."""
    last: int
    """The highest sequence number, unwrapped."""
    numbers: set[int]
    """The sequence numbers, unwrapped."""
    arrival: float
    """The time on the monotonic clock of the latest packet that was new and not empty."""

    def add(self, number: int, *, has_payload: bool) -> None:
        """Add a packet. A packet that arrived before does not change the arrival, and neither does padding alone."""
        is_new = number not in self.numbers
        if len(self.numbers) < MAX_PACKETS:
            self.numbers.add(number)
        self.first, self.last = min(self.first, number), max(self.last, number)
        if is_new and has_payload:
            self.arrival = time.monotonic()


class _Claim(NamedTuple):
    """The names that a frame claims in the clear."""

    key_id: int | None
    counter: int | None
    """The counter of an SFrame (RFC 9605, section 4.3). None in another layout."""

    def follows(self, earlier: _Claim) -> bool:
        """Return True if a sender may have sealed both in this order, with few frames between them."""
        if self.key_id != earlier.key_id:
            return False
        return self.counter is None or earlier.counter is None or 0 < self.counter - earlier.counter <= MAX_BETWEEN


@dataclass(frozen=True, slots=True)
class Source:
    """The sender of a frame, as the receiver knows it."""

    participant: str | None
    """None means that nobody is known yet."""
    track: str
    """The id of the receiver's track."""


class FrameTap:
    """Records the frames of one receiver. All methods run on the event loop.

    :param recorder: receives the rows.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder: Final = recorder
        self._noted: dict[int, _Packets] = {}  # by the timestamp on the wire, oldest first
        self._ssrc: int | None = None  # of the latest packet
        self._number = 0  # of the latest packet, unwrapped
        self._frame_ssrc: int | None = None  # of the latest frame
        self._expected: int | None = None  # the sequence number at which the next frame begins
        self._timestamp = 0  # of the latest frame, unwrapped
        self._is_lossy = False  # frames are missing before the next frame
        self._awaits_keyframe = True
        # One plain frame in 256 ends like a sealed one, and most begin like an SFrame. So the first frames of a stream
        # wait until a window of frames has the shape of the profile. A later frame waits if it does not follow the
        # frames before it: under a new key id, or where a sender stops sealing.
        self._window: deque[Excerpt] = deque(maxlen=MIN_VERDICT_FRAMES)
        self._held: deque[tuple[_Claim, SealedFrame]] = deque()
        self._held_noted = 0  # held frames that the recorder knows of
        self._is_trusted = False
        self._is_interrupted = False  # an unsealed frame has arrived since the latest recorded one
        self._latest: _Claim | None = None  # of the latest recorded frame of the stream
        self._frames = 0
        self._openers: dict[str, Decryptor] = {}  # read key ids, and have no key

    def note_packet(self, packet: RtpPacket, codecs: Mapping[int, Codec]) -> None:
        """Note a packet before the stack processes it.

        :param codecs: the codecs of the receiver by payload type.
        """
        codec = codecs.get(packet.payload_type)
        if codec is None:
            return
        ssrc, number, payload_type = packet.ssrc, packet.sequence_number, packet.payload_type
        if media_type(codec.mimeType).codec == RETRANSMISSION:
            original = codec.parameters.get("apt")
            if self._ssrc is None or not isinstance(original, int) or len(packet.payload) < OSN_LEN:
                return
            ssrc, payload_type = self._ssrc, original
            number = int.from_bytes(packet.payload[:OSN_LEN], "big")
        if ssrc != self._ssrc:
            self._ssrc, self._number = ssrc, number
        number = _unwrapped(number, self._number, 16)
        self._number = max(self._number, number)
        noted = self._noted.get(packet.timestamp)
        if noted is None or noted.ssrc != ssrc:
            self._noted.pop(packet.timestamp, None)
            self._noted[packet.timestamp] = _Packets(ssrc, payload_type, number, number, {number}, time.monotonic())
            if len(self._noted) > MAX_TIMESTAMPS:
                del self._noted[next(iter(self._noted))]
        else:
            noted.add(number, has_payload=bool(packet.payload))

    def codec_of(self, timestamp: int, codecs: Mapping[int, Codec]) -> Codec | None:
        """Return the codec of a frame's own packets. None means that they were not noted.

        The stack names the codec of the packet that completed the frame, which may be the next frame's.
        """
        noted = self._noted.get(timestamp)
        return None if noted is None else codecs.get(noted.payload_type)

    def take(self, data: bytes, timestamp: int, codec: Codec, source: Source, *, whole: bool) -> bool:
        """Record one frame. Return True if a keyframe should be requested.

        :param timestamp: the RTP timestamp on the wire.
        :param codec: the result of `codec_of`.
        :param whole: False if the first packets of the frame are missing.
        """
        packets = self._noted.pop(timestamp)
        media = media_type(codec.mimeType)
        is_video = media.kind == "video"
        if packets.ssrc != self._frame_ssrc:
            self._frame_ssrc, self._expected, self._timestamp = packets.ssrc, None, timestamp
            self._awaits_keyframe = True
            self._distrust()
        self._is_lossy |= self._expected is not None and packets.first != self._expected
        self._expected = max(packets.last + 1, self._expected or 0)
        self._timestamp = _unwrapped(timestamp, self._timestamp, 32)
        if not data:  # packets of padding only
            return False
        row = CODECS.get(media.codec)
        if whole and row is not None:
            self._look_at(row, data)
        key_id = None if row is None else self._opener(row).key_id_of(data)
        if not whole or row is None or key_id is None or source.participant is None:
            if not whole:
                self.recorder.note(incomplete=1)
            elif row is None or key_id is None:
                self.recorder.note(refused=1)
                if row is not None and _tells(row, data):
                    self._interrupt()
            else:
                self.recorder.note(unidentified=1)
            self._is_lossy = True
            return is_video and not whole
        is_lossy, keyframe = self._is_lossy, keyframe_of(self.recorder.profile, row, data)
        self._is_lossy = not self._admit(
            row,
            self.recorder.make_row(
                participant=source.participant,
                track=source.track,
                kind=media.kind,
                codec=row.name,
                profile=self.recorder.profile.value,
                ssrc=packets.ssrc,
                rtp_timestamp=self._timestamp,
                clock_rate=codec.clockRate,
                arrival=self.recorder.time_of(packets.arrival),
                key_id=key_id,
                keyframe=keyframe,
                gap=is_lossy,
                sealed=data,
            ),
        )
        self._awaits_keyframe = is_video and (
            self._is_lossy or (keyframe is not True and (is_lossy or self._awaits_keyframe))
        )
        requested = self._awaits_keyframe
        if keyframe is None:  # nothing will show that the keyframe arrived
            self._awaits_keyframe = self._is_lossy
        return requested

    def _look_at(self, row: CodecRow, data: bytes) -> None:
        """Note the shape of a frame, and stop trusting a stream that looks plain."""
        if not _tells(row, data):
            return
        self._window.append(excerpt(data))
        self._frames += 1
        if self._is_trusted and self._frames % VERDICT_INTERVAL == 0:
            self._is_trusted = shape(self._window, row.name) is not Shape.PLAIN

    def _admit(self, row: CodecRow, frame: SealedFrame) -> bool:
        """Record a frame, or hold it until it is trusted. Return False if frames were lost."""
        claim = self._claim(row, frame)
        is_next = not self._is_interrupted and self._latest is not None and claim.follows(self._latest)
        self._held.append((claim, frame))
        trusted: set[int] = set()
        if self._is_trusted and is_next:
            trusted = {len(self._held) - 1}  # frames that were held before it stand alone
        elif shape(self._window, row.name).value == layout(self.recorder.profile):
            trusted = self._chain()
        if not trusted:
            if len(self._held) > MAX_EXCERPTS:
                self._held.popleft()
                later, held = self._held[0]
                self._held[0] = later, replace(held, gap=True)
                self.recorder.note(refused=1)
            self._note_held()
            return True
        self._is_trusted, self._is_interrupted, self._latest = True, False, claim
        was_lost = False
        for place, (_, each) in enumerate(self._held):
            if place in trusted:
                was_lost = not self.recorder.offer(replace(each, gap=True) if was_lost else each)
            else:
                self.recorder.note(refused=1)
                was_lost = True
        self._held.clear()
        self._note_held()
        return not was_lost

    def _note_held(self) -> None:
        if len(self._held) != self._held_noted:
            self.recorder.note_held(len(self._held) - self._held_noted)
            self._held_noted = len(self._held)

    def _interrupt(self) -> None:
        """Note an unsealed frame. Held frames before it are lost: they may look sealed by chance, as many frames of VP8
        end in a zero.
        """
        self._is_interrupted = True
        self._drop_held()

    def _drop_held(self) -> None:
        if self._held:
            self.recorder.note(refused=len(self._held))
            self._is_lossy = True
        self._held.clear()
        self._note_held()

    def _chain(self) -> set[int]:
        """Return the places of the held frames that lead to the latest one. A frame that stands alone is none."""
        places = [len(self._held) - 1]
        for place in range(len(self._held) - 2, -1, -1):
            if self._held[places[-1]][0].follows(self._held[place][0]):
                places.append(place)
        return set(places) if len(places) > 1 else set()

    def _claim(self, row: CodecRow, frame: SealedFrame) -> _Claim:
        read = sframe_header(frame.sealed, row) if is_sframe(self.recorder.profile) else None
        return _Claim(frame.key_id, read[1] if read else None)

    def _distrust(self) -> None:
        """Begin a stream. Frames that are still held are lost, since nothing has shown that they are sealed."""
        self._drop_held()
        self._window.clear()
        self._is_trusted, self._is_interrupted, self._latest = False, False, None

    def _opener(self, row: CodecRow) -> Decryptor:
        if row.name not in self._openers:
            self._openers[row.name] = Decryptor(KeyRing(self.recorder.profile), row.name)
        return self._openers[row.name]


def _tells(row: CodecRow, data: bytes) -> bool:
    """Return False for silence, and for NAL units without a picture. They pass unsealed."""
    if len(data) < MIN_TELLING:
        return False
    return not row.nal_header_len or row.clear_len is None or bool(row.clear_len(data))


def keyframe_of(profile: str, row: CodecRow, sealed: bytes) -> bool | None:
    """Return whether a decoder can start at a sealed frame. None means that its clear bytes do not tell.

    A decoder can start at every frame of audio.
    """
    if row.info["kind"] == "audio":
        return True
    if is_sframe(profile) or row.clear_len is None or not row.tells_keyframes:
        return None
    clear = row.clear_len(sealed)
    return row.is_keyframe(sealed[:clear]) if clear else None


def _unwrapped(value: int, last: int, bits: int) -> int:
    """Return the number nearest to *last* whose low *bits* are *value*."""
    half = 1 << (bits - 1)
    return last + ((value - last + half) % (1 << bits)) - half
