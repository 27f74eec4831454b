"""Seal encoded packets into a file and open them again, as a recorder does that must not store plaintext.

The metadata of each SFrame are its time stamp, which is stored beside it and authenticated with it. Whoever can write
to the file can neither change a time stamp nor repeat a packet unnoticed.
"""

import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from frameseal import AuthenticationFailed, Decryptor, Encryptor, KeyRing, ReplayedFrame

RECORD = struct.Struct(">IQ")  # bytes that follow, presentation time in samples
PACKETS = 50


def ring(base_key: bytes, recording: int) -> KeyRing:
    """Return a ring with one base key per archive and one KID per recording: an SFrame key seals one recording only."""
    made = KeyRing("sframe")
    made.set_key(base_key, key_id=recording)
    return made


def speech() -> list[av.Packet]:
    """Return the Opus packets of a rising tone of one second."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = 48000, "mono", "s16"
    packets = []
    for number in range(PACKETS):
        at = np.arange(number * 960, (number + 1) * 960)
        samples = (8000 * np.sin(at * (0.03 + at / 4e6))).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * 960, Fraction(1, 48000)
        packets += encoder.encode(frame)
    return packets


def seal(packets: list[av.Packet], keys: KeyRing) -> bytes:
    """Return the file: the length, the time and the sealed packet, with the time as metadata, for each packet."""
    encryptor, out = Encryptor(keys), b""
    for number, packet in enumerate(packets):
        time = struct.pack(">Q", number * 960)
        sealed = encryptor.encrypt(bytes(packet), metadata=time)
        out += RECORD.pack(len(sealed), number * 960) + sealed
    return out


def unseal(stored: bytes, keys: KeyRing) -> list[bytes]:
    """Return the packets. Raises FrameError at the first packet that was altered, moved or repeated."""
    decryptor, packets, at = Decryptor(keys), [], 0
    while at < len(stored):
        length, time = RECORD.unpack_from(stored, at)
        at += RECORD.size
        packets.append(decryptor.decrypt(stored[at : at + length], metadata=struct.pack(">Q", time)))
        at += length
    return packets


def main() -> None:
    """Seal the packets, search the file for plaintext, open it, and tamper with it."""
    base_key, recording = bytes(range(32)), 7
    packets = speech()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recording.sealed"
        file.write_bytes(seal(packets, ring(base_key, recording)))
        stored = file.read_bytes()
    print(f"{len(packets)} packets sealed into a file")
    print("a packet can be found in it:", any(bytes(packet) in stored for packet in packets))
    opened = unseal(stored, ring(base_key, recording))
    print("opened again:", opened == [bytes(packet) for packet in packets])
    first = RECORD.size + RECORD.unpack_from(stored)[0]
    try:
        unseal(stored[:11] + b"\x01" + stored[12:], ring(base_key, recording))
    except AuthenticationFailed:
        print("with another time stamp: AuthenticationFailed")
    try:
        unseal(stored[:first] + stored, ring(base_key, recording))
    except ReplayedFrame:
        print("with a packet twice: ReplayedFrame")


if __name__ == "__main__":
    main()
