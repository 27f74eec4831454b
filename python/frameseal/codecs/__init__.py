"""The table of codecs: a row for each codec of the core, with all that Python needs to know of it.

A new codec is a row in the core (``rust/core/src/codec``) and a row here; the tests hold the two tables against each
other. No other module compares the name of a codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from frameseal._native import codec_info
from frameseal.codecs import plain, rtp

if TYPE_CHECKING:
    from frameseal._native import CodecInfo

__all__ = ["CODECS", "CodecRow", "find"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CodecRow:
    """A row of the table: a codec.

    :raises ValueError: for a name that the core does not know, or an audio codec without `ticks`.
    """

    name: str
    """The last part of the mime type, lower case."""
    info: CodecInfo = field(init=False)
    """What the core knows of it."""

    # --- RTP ---
    ticks: Callable[[bytes], int] | None = None
    """How many ticks of the RTP clock a payload lasts, for audio: each of its payloads is a frame by itself.

    None means that a frame is split into payloads that begin with descriptors.
    """
    max_payload: int | None = None
    """The length at which a payload may be cut into frames; None if it may not be cut."""
    common_descriptor: Callable[[list[bytes]], bytes] | None = None
    """Return the descriptor that the payloads of a frame share, or ``b""``: then the stack parses each payload.

    None means that the stack does so always. Parsing and writing one by one takes the stack much longer than the cipher
    takes for the picture.
    """
    split: Callable[[bytes, bytes], list[bytes]] | None = None
    """Split a frame into payloads, given the descriptor that `common_descriptor` returned. It stands beside that."""
    check_payloads: Callable[[list[bytes]], None] | None = None
    """Raise ValueError if payloads do not add up to a frame. None means that any do."""
    begins_frame: Callable[[bytes], bool] | None = None
    """Whether a frame begins in a payload; None if the payload does not tell."""
    begins_keyframe: Callable[[bytes], bool] = lambda payload: True
    """Whether a keyframe begins in a payload. By default yes, so that no packet is withheld on a guess."""
    format_parameters: tuple[str, ...] = ()
    """The ``fmtp`` parameters that two payload types must share to be one format."""
    is_encoded_by_stack: bool = False
    """Whether aiortc has an encoder for it, so that the programs can offer it."""

    # --- frames ---
    start: bytes = b""
    """The bytes with which every depacketised frame starts."""
    is_keyframe: Callable[[bytes], bool] = lambda frame: True
    """Whether a decoder can start at an opened frame that is not empty. By default yes, as for `begins_keyframe`."""
    claimed_pixels: Callable[[bytes], int] = lambda frame: 0
    """How many pixels a frame claims to have; 0 if it does not tell."""

    # --- inspection ---
    clear_len: Callable[[bytes], int | None] | None
    """How many bytes of a sealed frame of the trailer layout are clear; None for a frame that cannot be of the codec.

    A codec that the layout refuses has None instead of a function.
    """
    nal_header_len: int = 0
    """Bytes of the NAL header in front of an SFrame, behind a start code; 0 if the codec's SFrames have no envelope."""
    plain_unit: int | None = None
    """A number of which every length of a plain frame is a multiple, and no length of a sealed one."""
    is_plain: Callable[[Sequence[plain.Excerpt]], bool] | None = None
    """Whether frames of one track look as if they had never been sealed. None means that they do not tell."""
    plain_sign: Callable[[bytes], str | None] | None = None
    """Describe why one frame looks as if it had never been sealed, or return None."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", codec_info(self.name))
        if self.info["kind"] == "audio" and self.ticks is None:
            raise ValueError(f"ticks: the audio codec {self.name} needs the length of a payload in ticks")

    @property
    def envelope_len(self) -> int:
        """Bytes in front of an SFrame: a start code and a NAL header, or none."""
        return self.nal_header_len and 4 + self.nal_header_len

    def access_units(self, payloads: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that an encoder's payloads of one call add up to, each with its offset in RTP clock ticks.

        A picture is one frame. Audio longer than 20 ms is several packets, each a frame by itself. Under one timestamp
        a receiver would join them and open none, so each has its own.

        :param payloads: free of RTP descriptors.
        """
        if self.ticks is None:
            yield 0, b"".join(payloads)
            return
        offset = 0
        for payload in payloads:
            step = self.max_payload or len(payload) or 1
            for start in range(0, len(payload), step):
                frame = payload[start : start + step]
                yield offset, frame
                offset += self.ticks(frame)


# In the order in which `frameseal inspect` shows them. To recognise plain frames it tries them from the end: the later
# a row, the more its frames tell.
CODECS: Final[dict[str, CodecRow]] = {
    codec.name: codec
    for codec in (
        CodecRow(
            name="opus",
            ticks=rtp.opus_ticks,
            is_encoded_by_stack=True,
            clear_len=plain.clear_audio,
            is_plain=plain.is_opus,
        ),
        # One octet is one tick of the 8 kHz RTP clock: G.711 by nature, G.722 because RFC 3551 section 4.5.2 keeps its
        # clock at 8 kHz although it samples at 16 kHz.
        *(
            CodecRow(
                name=name,
                ticks=len,
                max_payload=rtp.MAX_PCM,
                is_encoded_by_stack=True,
                clear_len=plain.clear_audio,
                plain_unit=plain.PCM_UNIT,
            )
            for name in ("pcmu", "pcma", "g722")
        ),
        CodecRow(name="vp9", clear_len=plain.clear_none, is_plain=plain.is_vp9),
        CodecRow(
            name="vp8",
            common_descriptor=rtp.vp8_descriptor,
            split=rtp.vp8_payloads,
            begins_frame=rtp.vp8_begins_frame,
            begins_keyframe=rtp.vp8_begins_keyframe,
            is_encoded_by_stack=True,
            is_keyframe=rtp.vp8_is_keyframe,
            claimed_pixels=rtp.vp8_pixels,
            clear_len=plain.clear_vp8,
            is_plain=plain.is_vp8,
            plain_sign=plain.vp8_sign,
        ),
        CodecRow(
            name="h264",
            check_payloads=rtp.check_h264_payloads,
            begins_keyframe=rtp.h264_begins_keyframe,
            format_parameters=("packetization-mode", "profile-level-id"),  # RFC 6184 section 8.1
            is_encoded_by_stack=True,
            start=b"\0\0\0\1",  # as every NAL unit does after depacketising
            is_keyframe=rtp.h264_is_keyframe,
            clear_len=plain.clear_h264,
            nal_header_len=1,
            is_plain=plain.is_h264,
            plain_sign=plain.h264_sign,
        ),
        CodecRow(name="h265", clear_len=plain.clear_h265, nal_header_len=2, is_plain=plain.is_h265),
        CodecRow(name="av1", clear_len=None),
    )
}


def find(name: str) -> CodecRow:
    """Return the row of a codec.

    :raises ValueError: for a name that is not in the table.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise ValueError(f"unknown codec: expected one of {', '.join(CODECS)}")
    return codec
