"""Unsealed media from real encoders, by codec: speech, music, silence and pictures."""

from fractions import Fraction
from functools import cache

import av
import numpy as np

RATE = 48000


@cache
def sound(kind: str, seconds: float, rate: int = RATE) -> np.ndarray:
    """Return sound as int16 mono: speech, music, a tone, noise or silence."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(7).normal(size=len(t))
    if kind == "silence":
        wave = np.zeros(len(t))
    elif kind == "tone":
        wave = 0.3 * np.sin(2 * np.pi * 440 * t)
    elif kind == "noise":
        wave = 0.2 * noise
    elif kind == "music":
        wave = sum(0.1 * np.sin(2 * np.pi * f * t + f) for f in (220, 277, 330, 440)) * (1 + 0.5 * np.sin(7 * t))
    else:  # speech: a voice of harmonics, in syllables, with fricatives and pauses
        pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / rate
        voice = sum(np.sin(n * pitch) / n for n in range(1, 20))
        syllable = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.4 * t) > -0.3)
        hiss = 0.2 * noise * np.clip(np.sin(2 * np.pi * 2.3 * t + 1), 0, 1) ** 4
        wave = 0.2 * voice * syllable + hiss * (np.sin(2 * np.pi * 0.4 * t) > -0.3)
    return (np.clip(wave, -1, 1) * 32000).astype(np.int16)


@cache
def opus(bit_rate: int, application: str = "voip", kind: str = "speech", **options: str) -> tuple[bytes, ...]:
    """Return the packets of 3 s of sound from libopus."""
    return _opus(bit_rate, application, kind, tuple(options.items()))


def _opus(bit_rate: int, application: str, kind: str, options: tuple[tuple[str, str], ...]) -> tuple[bytes, ...]:
    codec = av.CodecContext.create("libopus", "w")
    codec.sample_rate, codec.layout, codec.format, codec.bit_rate = RATE, "mono", "s16", bit_rate
    codec.options = {"application": application, **dict(options)}
    codec.open()
    size, samples, packets = codec.frame_size, sound(kind, 3), []
    for start in range(0, len(samples) - size, size):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        packets += [bytes(packet) for packet in codec.encode(frame)]
    return tuple(packets)


@cache
def pcm(codec: str, kind: str = "speech", milliseconds: int = 20) -> tuple[bytes, ...]:
    """Return the packets of 3 s of sound in PCMU, PCMA or G722."""
    rate = 16000 if codec == "g722" else 8000
    name = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw", "g722": "g722"}[codec]
    encoder = av.CodecContext.create(name, "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    size, samples, packets = rate * milliseconds // 1000, sound(kind, 3, rate), []
    for start in range(0, len(samples) - size, size):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return tuple(packets)


def picture(number: int, kind: str, size: tuple[int, int] = (320, 240)) -> av.VideoFrame:
    width, height = size
    if kind == "still":
        number = 0
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([(x + 5 * number) % 256, (y * 2 + number) % 256, (x + y + 9 * number) % 256], -1).astype(np.uint8)
    if kind == "noise":
        rgb = np.random.default_rng(number).integers(0, 256, rgb.shape, np.uint8)
    if kind == "black":
        rgb[:] = 0
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")


ENCODERS = {
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    "h265": (
        "libx265",
        {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:repeat-headers=1"},
    ),
}


@cache
def video(codec: str, kind: str = "moving", bit_rate: int = 500_000, **options: str) -> tuple[bytes, ...]:
    """Return 48 encoded pictures. The first is a keyframe. H264 and H265 are byte streams."""
    name, defaults = ENCODERS[codec]
    encoder = av.CodecContext.create(options.pop("encoder", name), "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuv420p"
    encoder.bit_rate, encoder.time_base, encoder.framerate = bit_rate, Fraction(1, 30), Fraction(30)
    encoder.gop_size = 24
    encoder.options = {**(defaults if not options.pop("bare", "") else {}), **options}
    frames = []
    for number in range(48):
        shown = picture(number, kind)
        shown.pts, shown.time_base = number, Fraction(1, 30)
        frames += [bytes(packet) for packet in encoder.encode(shown)]
    frames += [bytes(packet) for packet in encoder.encode(None)]
    return tuple(frames)
