"""Seal the frames of a pipeline without aiortc: encoders on one side, decoders on the other, a queue as the network.

GStreamer's appsink and appsrc have this shape, and so have SDKs with an RTP stack of their own. Whole encoded frames
pass through a callback on a streaming thread, without an event loop. The pipeline needs to know `FrameCryptor` only.
"""

import queue
import threading
from fractions import Fraction

import av
import numpy as np

from frameseal import E2EEStateChange, ExternalE2EEKeyProvider
from frameseal.frame_cryptor import CallCryptor, FrameCryptor

PICTURES = 30
CAMERA = {"participant_id": "alice", "kind": "video", "codec": "vp8"}


def cryptor(name: str) -> FrameCryptor:
    """Return the cryptor of one side of the pipeline."""
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key("correct horse battery staple")

    def changed(change: E2EEStateChange) -> None:
        print(f"{name}: {change.kind} of {change.participant_id}: {change.state}")

    return CallCryptor(provider, "livekit", on_state_change=changed)


def picture(number: int) -> av.VideoFrame:
    """Return a grey picture, a little lighter than the previous one."""
    frame = av.VideoFrame.from_ndarray(np.full((240, 320), 50 + 4 * number, np.uint8), format="gray")
    frame = frame.reformat(format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, 30)
    return frame


def send(network: queue.Queue[bytes | None], seal: FrameCryptor) -> None:
    """Encode and seal: the streaming thread of the sender."""
    encoder = av.CodecContext.create("libvpx", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 320, 240, "yuv420p", Fraction(1, 30)
    encoder.options = {"deadline": "realtime", "lag-in-frames": "0"}
    for number in range(PICTURES):
        for packet in encoder.encode(picture(number)):
            sealed = seal.encrypt(bytes(packet), **CAMERA)
            if sealed is not None:  # None marks a frame that must not be sent
                network.put(sealed)
    network.put(None)


def receive(network: queue.Queue[bytes | None], open_: FrameCryptor, seen: list[int]) -> None:
    """Open and decode: the streaming thread of the receiver."""
    decoder = av.CodecContext.create("vp8", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    while (sealed := network.get()) is not None:
        frame = open_.decrypt(sealed, **CAMERA)
        if frame is not None:  # None marks a frame that must not reach a decoder
            seen.extend(int(decoded.to_ndarray()[0, 0]) for decoded in decoder.decode(av.Packet(frame)))


def main() -> None:
    """Run both ends until all pictures have passed."""
    network: queue.Queue[bytes | None] = queue.Queue()
    seen: list[int] = []
    ends = [
        threading.Thread(target=send, args=(network, cryptor("alice"))),
        threading.Thread(target=receive, args=(network, cryptor("bob"), seen)),
    ]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    print(f"{len(seen)} pictures decoded, each lighter than the last: {seen == sorted(set(seen))}")


if __name__ == "__main__":
    main()
