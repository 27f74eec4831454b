"""Judges the call: Bob must see and hear Alice, and nobody else may."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frameseal.tools.demo.observer import Eavesdropper, Observer
from frameseal.tools.demo.published import SentMedia
from frameseal.tools.demo.sound import TONE, find_tone, resemblance
from frameseal.tools.media import Samples

# Minimum share of Alice's frames since Bob joined that he decodes. Lost packets discard whole frames, and the last
# frames are on their way when the call ends.
MIN_ARRIVED = 0.5
# Minimum share of Bob's pictures that are right. VP8 shows wrong pictures after a lost frame.
MIN_RIGHT = 0.8
# Minimum score of heard sound. A lost packet makes the tone jump, which spoils its window, and a busy machine loses
# half of them. The maximum below is that of sound that nobody opened.
MIN_SOUND_SCORE = 0.4
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


def missing_evidence(sent: SentMedia, forwarder: Eavesdropper, eve_was_sent: int) -> list[str]:
    """Return what the call has too few frames of to judge it. An empty list means that it can be judged.

    :param eve_was_sent: the number of sealed video frames that reached Eve. Without any, her failure proves nothing.
    """
    missing: list[str] = []
    frames, passed = len(sent.thumbnails), forwarder.frames_tried
    if frames < MIN_FRAMES:
        missing.append(f"Alice sent only {frames} frames: {ADVICE}")
    if passed < MIN_FRAMES or forwarder.sounds_tried < MIN_FRAMES:
        missing.append(f"only {passed} frames passed through the forwarder, which proves nothing: {ADVICE}")
    if eve_was_sent < MIN_FRAMES:
        missing.append(f"only {eve_was_sent} frames reached Eve, which proves nothing: {ADVICE}")
    return missing


def failures(
    sent: SentMedia,
    forwarder: Eavesdropper,
    bob: Observer,
    eve: Observer,
    *,
    eve_was_sent: int,
    sent_before: int = 0,
) -> list[str]:
    """Return the failures of the call, the most severe first. An empty list means that it was as it must be.

    :param eve_was_sent: as for `missing_evidence`.
    :param sent_before: the number of frames that Alice sent before Bob and Eve were connected.
    """
    wrong: list[str] = []
    for name, observer in (("the forwarder", forwarder), ("Eve", eve)):
        if observer.right:
            wrong.append(f"{name} could see Alice: {observer.right} frames")
        if listen(sent, observer.heard()).score > MAX_LEAKED_SCORE:
            wrong.append(f"{name} could hear Alice")
    wrong += missing_evidence(sent, forwarder, eve_was_sent)
    frames = len(sent.thumbnails) - sent_before
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
