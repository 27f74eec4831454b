"""Says how frames would open that do not open with the keys as they were passed.

A passphrase that a room read from a file may contain the file's line end, for example. A hint is for people: it never
opens a frame. The trials and the advice are those of calls (`frameseal.e2ee.diagnosis`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from frameseal.codecs.plain import Excerpt, excerpt
from frameseal.e2ee.diagnosis import Trials, diagnose
from frameseal.enums import Profile
from frameseal.keys.provider import KeyProvider
from frameseal.profiles import PROFILES
from frameseal.tools.opening.frames import OpenedFrame
from frameseal.tools.text import printable

MAX_PARTICIPANTS = 8  # each may cost `SECONDS` of the processor
SECONDS = 1.0  # about 80 passphrases
MAX_FRAME = 1 << 16  # bytes of a frame that is kept
MAX_EXCERPTS = 16  # beginnings of frames, for a verdict from their shape
REASONS = ("authentication_failed", "unknown_key", "malformed")  # what another key or profile may mend
ADVISED = ("not_sealed", "other_profile", "other_salt", "hkdf", "pbkdf2", "other_spelling", "other_key_id")


@dataclass(slots=True)
class _Failing:
    """Frames of a participant that did not open."""

    frame: bytes
    profile: Profile
    codec: str
    key_id: int | None
    seen: list[Excerpt] = field(default_factory=list)


class Hints:
    """Collects frames that did not open: `add` those that it `wants`, then read `sentences`."""

    def __init__(self, providers: Sequence[KeyProvider]) -> None:
        self._providers = providers
        self._failing: dict[str, _Failing] = {}

    def wants(self, frame: OpenedFrame) -> bool:
        """Return True if *frame* may show more about its keys than the frames before it."""
        if frame.frame is not None or frame.reason not in REASONS:
            return False
        failing = self._failing.get(frame.participant)
        return len(self._failing) < MAX_PARTICIPANTS if failing is None else len(failing.seen) < MAX_EXCERPTS

    def add(self, frame: OpenedFrame, profile: str, sealed: bytes) -> None:
        """Keep a frame that did not open.

        :param profile: the profile under which the frame was recorded.
        :param sealed: the frame as it left the sender.
        """
        if profile not in PROFILES or len(sealed) > MAX_FRAME:
            return
        failing = self._failing.setdefault(
            frame.participant, _Failing(sealed, Profile(profile), frame.codec, frame.key_id)
        )
        if frame.codec == failing.codec:
            failing.seen.append(excerpt(sealed))

    def sentences(self) -> Iterator[str]:
        """Yield what was found, for each participant. No sentence contains a key."""
        for participant, failing in self._failing.items():
            for provider in self._providers:
                secrets = provider.secrets_of(participant)
                trials = Trials(seconds=SECONDS / len(self._providers))
                found = diagnose(
                    failing.frame, failing.profile, failing.codec, secrets, failing.key_id, failing.seen, trials
                )
                if found is not None and found[0] in ADVISED:
                    how = " A --key-file can hold it in any spelling." if found[0] == "other_spelling" else ""
                    yield f"{printable(participant)}: {found[1]}.{how}"
                    break
