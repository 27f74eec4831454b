"""The table of codecs: one row for each codec of the core, with everything that Python needs to know.

A new codec is a row in the core (``rust/core/src/codec``) and a row here. The tests compare the two tables. No other
module compares the name of a codec.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from frameseal._native import codec_info
from frameseal.codecs import files, plain, rtp

if TYPE_CHECKING:
    from frameseal._native import CodecInfo

__all__ = ["CODECS", "CodecRow", "find"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CodecRow:
    """One codec: a row of the table.

    :raises ValueError: the core does not know the name, or an audio codec has no `ticks`.
    """

    name: str
    """The second part of the media type, in lower case."""
    info: CodecInfo = field(init=False)
    """The core's row for the codec."""

    # --- RTP ---
    ticks: Callable[[bytes], int] | None = None
    """Return the duration of a payload in ticks of the RTP clock. Each payload of an audio codec is one frame.

    None marks a video codec, whose frames are split into several payloads.
    """
    max_payload: int = sys.maxsize
    """The maximum length of a frame, to which a longer payload is cut. The default cuts no payload."""
    frame_start: tuple[int, int] | None = None
    """A mask and a value: a frame begins in a payload whose first octet has this value under the mask.

    None means that the payloads do not show it. They are numbers, because the hook compares them with each packet.
    """
    begins_keyframe: Callable[[bytes], bool] = lambda payload: True
    """Return True if a keyframe begins in a payload. The default returns True, so that no packet is withheld."""
    format_parameters: tuple[str, ...] = ()
    """The ``fmtp`` parameters that two payload types must share to be one format."""
    is_encoded_by_stack: bool = False
    """True if aiortc has an encoder for the codec. The tools offer only these codecs."""

    # --- frames ---
    start: bytes = b""
    """The bytes at the start of every depacketised frame."""
    is_keyframe: Callable[[bytes], bool] = lambda frame: True
    """Return True if a decoder can start at an opened, non-empty frame. The default returns True."""
    claimed_pixels: Callable[[bytes], int] = lambda frame: 0
    """Return the number of pixels that a frame claims. 0 means that the frame does not contain it."""

    # --- media files ---
    demuxer: str | None = None
    """The name in libavformat of the demuxer that reads `as_file`. None means that no file can hold the frames."""
    as_file: Callable[[bytes], bytes] = bytes
    """Return a file that holds one frame a decoder can start at. `demuxer` reads the stream's parameters from it."""
    linear_decoder: str | None = None
    """The name in libavcodec of the decoder to linear PCM, for sound that Matroska holds as linear PCM only."""
    sample_rate: int = 48000
    """Samples in a second after decoding, for sound."""

    # --- inspection ---
    clear_len: Callable[[bytes], int | None] | None
    """Return the number of clear bytes of a frame in the trailer layout, or None for a frame of another codec.

    None instead of a function means that the layout does not allow the codec.
    """
    nal_header_len: int = 0
    """Bytes of the NAL header between start code and SFrame. 0 means that the codec's SFrames have no envelope."""
    plain_unit: int | None = None
    """Every plain frame's length is a multiple of this number, and no sealed frame's length is."""
    is_plain: Callable[[Sequence[plain.Excerpt]], bool] | None = None
    """Return True if frames of one track look as if they were never sealed. None means that nothing shows it."""
    plain_sign: Callable[[bytes], str | None] | None = None
    """Return the sign that a frame was never sealed, in words, or None if there is no sign."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", codec_info(self.name))
        if self.info["kind"] == "audio" and self.ticks is None:
            raise ValueError(f"ticks: the audio codec {self.name} needs the length of a payload in ticks")

    @property
    def tells_keyframes(self) -> bool:
        """True if `is_keyframe` looks at the frame."""
        return self.is_keyframe is not CodecRow.is_keyframe

    @property
    def envelope_len(self) -> int:
        """The bytes before an SFrame: a start code and a NAL header. 0 means that there is no envelope."""
        return self.nal_header_len and 4 + self.nal_header_len

    def access_units(self, payloads: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield each frame of audio in the payloads of one call of an encoder, with its offset in RTP clock ticks.

        Audio longer than 20 ms is several packets, and each packet is one frame. Each has its own timestamp: a receiver
        would join packets with equal timestamps, and open none.

        :raises TypeError: the codec is not audio.
        """
        if self.ticks is None:
            raise TypeError(f"access_units: {self.name} is not audio")
        offset = 0
        for payload in payloads:
            for start in range(0, len(payload), self.max_payload):
                frame = payload[start : start + self.max_payload]
                yield offset, frame
                offset += self.ticks(frame)


# `frameseal inspect` shows the codecs in this order. It tries to recognise plain frames from the last row to the first:
# the frames of later rows have more distinctive bytes.
CODECS: Final[dict[str, CodecRow]] = {
    codec.name: codec
    for codec in (
        CodecRow(
            name="opus",
            ticks=rtp.opus_ticks,
            is_encoded_by_stack=True,
            demuxer="ogg",
            as_file=files.opus_file,
            clear_len=plain.clear_audio,
            is_plain=plain.is_opus,
        ),
        # One octet lasts one tick of the 8 kHz RTP clock. G.722 samples at 16 kHz, but RFC 3551, section 4.5.2, keeps
        # its clock at 8 kHz.
        *(
            CodecRow(
                name=name,
                ticks=len,
                max_payload=rtp.MAX_PCM,
                is_encoded_by_stack=True,
                linear_decoder=decoder,
                sample_rate=rate,
                clear_len=plain.clear_audio,
                plain_unit=plain.PCM_UNIT,
            )
            for name, decoder, rate in (
                ("pcmu", "pcm_mulaw", 8000),
                ("pcma", "pcm_alaw", 8000),
                ("g722", "g722", 16000),
            )
        ),
        CodecRow(
            name="vp9",
            is_keyframe=files.vp9_is_keyframe,
            demuxer="ivf",
            as_file=files.vp9_file,
            clear_len=plain.clear_none,
            is_plain=plain.is_vp9,
        ),
        CodecRow(
            name="vp8",
            frame_start=(rtp.VP8_START_AND_PARTITION, rtp.VP8_START),
            begins_keyframe=rtp.vp8_begins_keyframe,
            is_encoded_by_stack=True,
            is_keyframe=rtp.vp8_is_keyframe,
            claimed_pixels=rtp.vp8_pixels,
            demuxer="ivf",
            as_file=files.vp8_file,
            clear_len=plain.clear_vp8,
            is_plain=plain.is_vp8,
            plain_sign=plain.vp8_sign,
        ),
        CodecRow(
            name="h264",
            begins_keyframe=rtp.h264_begins_keyframe,
            format_parameters=("packetization-mode", "profile-level-id"),  # RFC 6184 section 8.1
            is_encoded_by_stack=True,
            start=b"\0\0\0\1",  # the start code before every NAL unit
            is_keyframe=rtp.h264_is_keyframe,
            demuxer="h264",
            clear_len=plain.clear_h264,
            nal_header_len=1,
            is_plain=plain.is_h264,
            plain_sign=plain.h264_sign,
        ),
        CodecRow(
            name="h265",
            is_keyframe=files.h265_is_keyframe,
            demuxer="hevc",
            clear_len=plain.clear_h265,
            nal_header_len=2,
            is_plain=plain.is_h265,
        ),
        CodecRow(name="av1", clear_len=None),
    )
}


def find(name: str) -> CodecRow:
    """Return the row of a codec.

    :raises ValueError: the table has no codec of this name.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise ValueError(f"unknown codec: expected one of {', '.join(CODECS)}")
    return codec
