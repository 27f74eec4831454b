"""The protocol of every key provider, and the keys of one participant as `KeyProvider` holds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from frameseal._native import DerivedKey, KeyRing, Secret
from frameseal._secrecy import described
from frameseal.enums import Profile


class KeyRingProvider(Protocol):
    """Returns the key ring of each participant to an `E2EEManager`.

    `KeyProvider` implements it. Implement it yourself for rings with your own options, or for a key exchange. The
    manager never sees a key.

    A provider may have a property ``participant_ids``: the ids of the participants who have keys of their own. Then
    `E2EEManager.short_code` covers the keys of all of them.
    """

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """True if empty frames are dropped, False if they are passed on. An empty frame has 0 bytes."""

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring that seals the frames of *participant_id*, and opens them on the other side.

        The same arguments return the same ring, as long as somebody holds a reference to it. Any thread may call it.
        Before this side sends a frame, the manager calls it with the participant id "". An empty ring means that there
        is no key yet.
        """


def bounded(name: str, value: int, low: int, high: int) -> int:
    """Return *value* if it is an int from *low* to *high*.

    :param name: the name of the argument, for the message.
    :raises TypeError: *value* is not an int.
    :raises ValueError: *value* is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {described(value)}")
    return value


@dataclass(eq=False, slots=True)
class ParticipantKeys:
    """The keys of one participant, or the shared keys, with one ring per profile.

    The provider accesses it under its lock. A call that derives a key draws a turn (an increasing number), derives
    without the lock, and installs under it. If a later turn has set, chosen or removed the key meanwhile, the later
    turn wins. The duration of the derivations has no effect.
    """

    shared: bool = False
    secrets: dict[int, Secret] = field(default_factory=dict)  # by key id
    steps: dict[int, int] = field(default_factory=dict)  # by key id, the number of ratchet steps; no entry means 0
    sending: int = 0  # the sending key id
    rings: WeakValueDictionary[Profile, KeyRing] = field(default_factory=WeakValueDictionary)
    pinned_rings: list[KeyRing] = field(default_factory=list)
    deriving: set[int] = field(default_factory=set)  # the turns of calls that are deriving
    turns: dict[int, int] = field(default_factory=dict)  # by key id, the last turn that set or removed it
    set_turns: dict[int, int] = field(default_factory=dict)  # by key id, the last turn that set it
    removed: int = 0  # the last turn that removed all keys
    chosen: int = 0  # the last turn that chose the sending key

    def pin_rings(self) -> None:
        """Pin the rings that must outlive their ciphers.

        A ring with keys is pinned, because a new ring would restart its usage count. A shared ring is pinned, because
        other rings fall back to it.
        """
        self.pinned_rings = list(self.rings.values()) if self.secrets or self.shared else []

    def is_in_use(self) -> bool:
        """Return True if it holds a key, a ring or a derivation under way. Then it must not be discarded."""
        return bool(self.secrets or self.rings or self.deriving)

    def is_outdated(self, key_id: int, turn: int) -> bool:
        """Return True if a turn after *turn* has set or removed the key under *key_id*."""
        return max(self.turns.get(key_id, 0), self.removed) > turn

    def secrets_and_steps(self) -> dict[int, tuple[Secret, int]]:
        """Return, by key id, each secret and the number of ratchet steps since it was set. A new ring needs both."""
        return {key_id: (secret, self.steps.get(key_id, 0)) for key_id, secret in self.secrets.items()}

    def install(self, secret: Secret, key_id: int, send: bool, turn: int, derived: Iterable[DerivedKey]) -> None:
        """Set the key under *key_id* in every ring, from *derived*: one derived key per ring."""
        self.turns[key_id] = self.set_turns[key_id] = turn
        for key in derived:
            key.install()
        # The first key always becomes the sending key, because there is no other.
        if (send or not self.secrets) and self.chosen < turn:
            self.choose(key_id, turn)
        self.steps.pop(key_id, None)
        self.secrets[key_id] = secret
        self.pin_rings()

    def choose(self, key_id: int, turn: int) -> None:
        """Make *key_id* the sending key id, from the next frame on."""
        self.chosen, self.sending = turn, key_id
        for ring in self.rings.values():
            ring.sending_key_id = key_id

    def forget(self, key_id: int, turn: int) -> None:
        """Remove the key under *key_id*, from every ring first.

        Every ring removes it, even if `secrets` does not list it: a fork may have interrupted an earlier removal.
        """
        self.turns[key_id] = turn
        for ring in self.rings.values():
            ring.remove_key(key_id)
        self.secrets.pop(key_id, None)
        self.steps.pop(key_id, None)
        self.pin_rings()
