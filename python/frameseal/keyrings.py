"""Where a manager finds keys: the protocol of every provider, what providers tell, and what ours hold."""

from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakValueDictionary

from frameseal._native import KeyRing, Secret
from frameseal.enums import Profile

KEY_SET: Final = "key-set"
KEY_RATCHETED: Final = "key-ratcheted"


class KeyRings(Protocol):
    """What an `E2EEManager` needs of a provider: the key ring of each participant.

    `KeyProvider` has it. Implement it yourself to bring rings with options of your own, or from a key exchange; the
    manager never sees a key.
    """

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """What becomes of empty frames: True drops them, False passes them on."""

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring that seals what *participant_id* sends (and opens it on the other side).

        The same arguments give the same ring for as long as anybody has it. Called from any thread. Before this side
        sends anything, the manager asks for the participant "" to learn whether there is a key at all.
        """


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """What a listener of ``"key-set"`` and ``"key-ratcheted"`` receives. No key is in it."""

    participant_id: str | None
    """Whose key; None for the shared one."""

    key_id: int
    """Under which id."""


def bounded(name: str, value: int, low: int, high: int) -> int:
    """Return *value*. :raises TypeError: if it is no int. :raises ValueError: if it is out of its range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {value}")
    return value


@dataclass(eq=False, slots=True)
class HeldKeys:
    """The keys of one participant, or the shared ones, and their rings. For a provider, under its lock."""

    shared: bool = False
    secrets: dict[int, Secret] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    sending: int = 0
    rings: WeakValueDictionary[Profile, KeyRing] = field(default_factory=WeakValueDictionary)
    kept: list[KeyRing] = field(default_factory=list)

    def keep(self) -> None:
        """Keep the rings that may not go even where no cipher has them.

        Those with a key: made anew they would count from the start. And the shared ones, to which others turn.
        """
        self.kept = list(self.rings.values()) if self.secrets or self.shared else []
