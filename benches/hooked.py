"""One frame through the hook of aiortc, without a call: an encoder's payloads are sealed, and the frame is opened.

The rival is the stack itself, which splits and joins the same frame in Python: `seal` beside `pack`, and `open` beside
`unpack`.
"""

import asyncio
from typing import Any

import aiortc
from aiortc.codecs import vpx
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from frameseal import E2EEManager, ExternalE2EEKeyProvider
from frameseal.aiortc import attach
from frameseal.aiortc.proxies import OpeningDecoder, SealingEncoder

PICTURE_ID = 7


class Prepared:
    """The codec of a stack, which returns prepared payloads and decodes nothing."""

    def __init__(self, payloads: list[bytes]) -> None:
        self._payloads = payloads

    def encode(self, _frame: object, _force_keyframe: bool) -> tuple[list[bytes], int]:
        return self._payloads, 0

    def decode(self, _frame: object) -> list[object]:
        return []


class Hooked:
    """A picture of VP8 of *size* bytes, in an attached connection."""

    def __init__(self, size: int) -> None:
        self._picture = (b"\x10" + bytes(range(256)) * (size // 256 + 1))[:size]
        self._payloads = self.pack()
        self._encoder, self._decoder = asyncio.run(self._proxies())
        self._sealed = b"".join(map(vpx.vp8_depayload, self.seal()))
        if self.unpack() != self._picture or self.open() != self._picture:
            raise SystemExit("the picture did not come back from the hook")

    async def _proxies(self) -> tuple[Any, Any]:
        provider = ExternalE2EEKeyProvider()
        provider.set_shared_key(bytes(range(32)))
        self._pc = aiortc.RTCPeerConnection()
        transceiver = self._pc.addTransceiver("video")
        attach(self._pc, E2EEManager(provider, profile="livekit"), local_id="alice", remote_id="alice")
        codec = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=97)
        sender, receiver = (vars(each)["_frameseal_slot"] for each in (transceiver.sender, transceiver.receiver))
        for slot in (sender, receiver):
            slot.start()
        prepared = Prepared(self._payloads)
        return SealingEncoder(prepared, codec, sender), OpeningDecoder(prepared, codec, receiver)

    def seal(self) -> list[bytes]:
        """Return the payloads of the sealed picture."""
        return self._encoder.encode(None)[0]

    def open(self) -> bytes:
        """Open the sealed picture, and decode nothing."""
        frame = JitterFrame(self._sealed, 0)
        self._decoder.decode(frame)
        return frame.data

    def pack(self) -> list[bytes]:
        """Split the picture as the stack does."""
        return vpx.Vp8Encoder._packetize(self._picture, PICTURE_ID)

    def unpack(self) -> bytes:
        """Join the picture as the stack does."""
        return b"".join([vpx.vp8_depayload(payload) for payload in self._payloads])
