"""Judges the call: Bob must see and hear Alice, and nobody else may."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frameseal.tools.demo.observer import Eavesdropper, Observer
from frameseal.tools.demo.published import SentMedia
from frameseal.tools.demo.sound import TONE, find_tone, resemblance
from frameseal.tools.media import Samples

# Minimum share of Alice's frames that Bob decodes. He joins a few frames late, and lost packets discard whole frames.
MIN_ARRIVED = 0.5
# Minimum share of Bob's pictures that are right. VP8 shows wrong pictures after a lost frame.
MIN_RIGHT = 0.8
# Minimum score of heard sound. A lost packet makes the tone jump, which spoils its window.
MIN_SOUND_SCORE = 0.7
# Maximum score of ciphertext decoded as Opus: loud noise. Few windows of noise resemble the tone, not one in five.
MAX_LEAKED_SCORE = 0.2
FREQUENCY_TOLERANCE = 2.0  # Hz
MIN_FRAMES = 20  # with fewer frames a verdict on Bob or Eve proves nothing
ADVICE = "run a longer call (--seconds), or use a less busy machine"


@dataclass(frozen=True)
class Hearing:
    """A measurement of received sound."""

    score: float
    """The share that is Alice's sound, 0 to 1."""
    frequency: float
    """The frequency in Hz, or 0 without a tone."""
    loud: bool
    """False for silence."""

    @property
    def description(self) -> str:
        """A short description for the table."""
        if not self.loud:
            return "silence"
        if self.frequency and self.score > MAX_LEAKED_SCORE:
            pure = "pure" if self.score > 0.95 else f"{self.score:.0%} pure"
            return f"{self.frequency:.0f} Hz, {pure}"
        return f"{self.score:.0%} alike" if self.score > MAX_LEAKED_SCORE else "noise"


def listen(sent: SentMedia, heard: Samples) -> Hearing:
    """Compare received sound with the sent sound."""
    loud = bool(len(heard)) and float(np.sqrt((heard.astype(np.float64) ** 2).mean())) > 50
    if sent.is_tone:
        tone = find_tone(heard)
        return Hearing(tone.share, tone.frequency, loud)
    return Hearing(resemblance(all_sound(sent), heard), 0.0, loud)


def all_sound(sent: SentMedia) -> Samples:
    """Return all sent sound."""
    return np.concatenate(sent.sound) if sent.sound else np.zeros(0, dtype=np.int16)


def failures(sent: SentMedia, forwarder: Eavesdropper, bob: Observer, eve: Observer, eve_was_sent: int) -> list[str]:
    """Return the failures of the call, the most severe first. An empty list means that it was as it must be.

    :param eve_was_sent: the number of sealed video frames that reached Eve. Without any, her failure proves nothing.
    """
    wrong: list[str] = []
    for name, observer in (("the forwarder", forwarder), ("Eve", eve)):
        if observer.right:
            wrong.append(f"{name} could see Alice: {observer.right} frames")
        if listen(sent, observer.heard()).score > MAX_LEAKED_SCORE:
            wrong.append(f"{name} could hear Alice")
    frames = len(sent.thumbnails)
    if frames < MIN_FRAMES:
        wrong.append(f"Alice sent only {frames} frames: {ADVICE}")
    if forwarder.frames_tried < MIN_FRAMES or forwarder.sounds_tried < MIN_FRAMES:
        passed = forwarder.frames_tried
        wrong.append(f"only {passed} frames passed through the forwarder, which proves nothing: {ADVICE}")
    if eve_was_sent < MIN_FRAMES:
        wrong.append(f"only {eve_was_sent} frames reached Eve, which proves nothing: {ADVICE}")
    if not bob.frames:
        wrong.append("Bob saw nothing")
    elif bob.right < MIN_RIGHT * bob.frames:
        wrong.append(f"Bob saw wrong pictures: {bob.frames - bob.right} of {bob.frames}")
    elif len(bob.numbers) < MIN_ARRIVED * frames:
        wrong.append(f"Bob saw only {len(bob.numbers)} of {frames} frames")
    hearing = listen(sent, bob.heard())
    if not listen(sent, all_sound(sent)).loud:
        pass  # the media file has no sound
    elif hearing.score < MIN_SOUND_SCORE:
        wrong.append(f"Bob did not hear Alice: {hearing.description}")
    elif sent.is_tone and abs(hearing.frequency - TONE) > FREQUENCY_TOLERANCE:
        wrong.append(f"Bob heard {hearing.frequency:.1f} Hz, and Alice sent {TONE:.0f}")
    return wrong
