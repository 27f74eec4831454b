"""Where a manager finds keys: the protocol of every provider, and what ours hold."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from frameseal._native import DerivedKey, KeyRing, Secret
from frameseal._secrecy import described
from frameseal.enums import Profile


class KeyRingProvider(Protocol):
    """What an `E2EEManager` needs of a provider: the key ring of each participant.

    `KeyProvider` has it. Implement it yourself to bring rings with options of your own, or from a key exchange; the
    manager never sees a key. One that tells in a property ``participant_ids`` who has keys of their own has them all in
    `E2EEManager.short_code`.
    """

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """What becomes of empty frames: True drops them, False passes them on."""

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring that seals what *participant_id* sends (and opens it on the other side).

        The same arguments give the same ring for as long as anybody has it. Called from any thread. Before this side
        sends anything, the manager asks for the participant "" to learn whether there is a key at all.
        """


def bounded(name: str, value: int, low: int, high: int) -> int:
    """Return *value*. :raises TypeError: if it is no int. :raises ValueError: if it is out of its range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {described(value)}")
    return value


@dataclass(eq=False, slots=True)
class ParticipantKeys:
    """The keys of one participant, or the shared ones, and their rings. For a provider, under its lock.

    A call that derives a key takes its turn, derives without the lock, and installs. What a later turn has set, chosen
    or removed meanwhile stays: the newest call wins, however long another one derives.
    """

    shared: bool = False
    secrets: dict[int, Secret] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    sending: int = 0
    rings: WeakValueDictionary[Profile, KeyRing] = field(default_factory=WeakValueDictionary)
    pinned_rings: list[KeyRing] = field(default_factory=list)
    deriving: set[int] = field(default_factory=set)  # the turns of calls that derive now
    turns: dict[int, int] = field(default_factory=dict)  # by key id, the last turn that set or removed it
    set_turns: dict[int, int] = field(default_factory=dict)  # by key id, the last turn that set it
    removed: int = 0  # the last turn that removed all keys
    chosen: int = 0  # the last turn that chose the sending key

    def pin_rings(self) -> None:
        """Keep the rings that may not go even where no cipher has them.

        Those with a key: made anew they would count from the start. And the shared ones, to which others turn.
        """
        self.pinned_rings = list(self.rings.values()) if self.secrets or self.shared else []

    def is_in_use(self) -> bool:
        """Whether forgetting it would lose anything."""
        return bool(self.secrets or self.rings or self.deriving)

    def is_outdated(self, key_id: int, turn: int) -> bool:
        """Whether a later turn has set or removed the key."""
        return max(self.turns.get(key_id, 0), self.removed) > turn

    def secrets_and_steps(self) -> dict[int, tuple[Secret, int]]:
        """Return what a ring is made from: each secret, and how often its key was ratcheted."""
        return {key_id: (secret, self.steps.get(key_id, 0)) for key_id, secret in self.secrets.items()}

    def install(self, secret: Secret, key_id: int, send: bool, turn: int, derived: Iterable[DerivedKey]) -> None:
        """Set a key that was derived for every ring."""
        self.turns[key_id] = self.set_turns[key_id] = turn
        for key in derived:
            key.install()
        # The first key is the one to send with, whatever was asked: there is no other.
        if (send or not self.secrets) and self.chosen < turn:
            self.choose(key_id, turn)
        self.steps.pop(key_id, None)
        self.secrets[key_id] = secret
        self.pin_rings()

    def choose(self, key_id: int, turn: int) -> None:
        """Seal with a key from the next frame on."""
        self.chosen, self.sending = turn, key_id
        for ring in self.rings.values():
            ring.sending_key_id = key_id

    def forget(self, key_id: int, turn: int) -> None:
        """Forget a key: first in every ring, and though it may not be listed, since a fork may have come between."""
        self.turns[key_id] = turn
        for ring in self.rings.values():
            ring.remove_key(key_id)
        self.secrets.pop(key_id, None)
        self.steps.pop(key_id, None)
        self.pin_rings()
