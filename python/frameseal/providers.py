"""Where the keys of a call come from: the provider protocol, and the one provider for a key shared by all.

A provider owns key rings and lends them out; a key goes in and never comes out again.
"""

import logging
import threading
from typing import Final, NoReturn, Protocol

from frameseal._native import KeyRing, Secret
from frameseal.enums import Profile

_logger = logging.getLogger("frameseal")


class KeyProvider(Protocol):
    """Where an `E2EEManager` finds the key ring of each participant.

    Implement it to bring keys per participant, or from a key exchange; the manager never sees a key.
    """

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """What becomes of empty frames: True drops them, False passes them on."""

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring that seals what *participant_id* sends (and opens it on the other side).

        The same arguments give the same ring for the life of the provider. Called from any thread. Before this side
        sends anything, the manager asks for the participant "" to learn whether there is a key at all.
        """


class ExternalE2EEKeyProvider:
    """One shared key for everybody in the meeting, brought from outside.

    :param discard_frame_when_cryptor_not_ready: what becomes of empty frames, which carry nothing and are never sealed:
        True drops them, False passes them on. It never lets an unsealed frame out nor an unopened one in, see
        docs/states.md.
    :param ratchet_window_size: how many ratchet steps ahead a receiver searches when a frame does not open, 0 to 16.
        Each step with a password costs some 25 ms once, and anybody who can inject frames can make a receiver search.
    :param failure_tolerance: frames in a row that may fail under one key id before InvalidKey is reported. -1: never
        report it (DecryptionFailed is still reported). Decryption is tried again with every frame in any case.
    :param key_ring_size: how many key ids there are, 1 to 256.
    :raises ValueError: for a number out of its range.

    Keys are held by the native module, which clears them when they are replaced; no Python object keeps one. The string
    or buffer that the caller passed in remains the caller's to forget.
    """

    def __init__(
        self,
        discard_frame_when_cryptor_not_ready: bool = True,
        ratchet_window_size: int = 0,
        failure_tolerance: int = -1,
        *,
        key_ring_size: int = 16,
    ) -> None:
        """Make a provider without keys."""
        self.ratchet_window_size: Final = _bounded("ratchet_window_size", ratchet_window_size, 0, 16)
        self.failure_tolerance: Final = _bounded("failure_tolerance", failure_tolerance, -1, 2**31 - 1)
        self.key_ring_size: Final = _bounded("key_ring_size", key_ring_size, 1, 256)
        self._discard = bool(discard_frame_when_cryptor_not_ready)
        self._secrets: dict[int, Secret] = {}
        self._rings: dict[Profile, KeyRing] = {}
        self._sending_key_id = 0
        self._lock = threading.Lock()

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """What becomes of empty frames: True drops them, False passes them on."""
        return self._discard

    @property
    def key_ids(self) -> list[int]:
        """The key ids that have a key, ascending."""
        with self._lock:
            return sorted(self._secrets)

    def set_shared_key(self, key: str | bytes | bytearray | memoryview, key_id: int = 0) -> None:
        """Set the key under *key_id* and send with it from the next frame on; may be called at any time.

        :param key: a str goes through the profile's password KDF (PBKDF2, some 12 ms per profile in use); bytes or any
            other buffer, at least 16 of them, through its KDF for random keys (HKDF). The two never give the same key,
            not even for the same characters: all participants must use the same type.
        :param key_id: 0 to key_ring_size - 1. For a rotation use the next id: receivers keep opening what is still
            under way with the old one.
        :raises ValueError: for an empty or too short key, or a key id out of range.
        """
        _bounded("key_id", key_id, 0, self.key_ring_size - 1)
        secret = Secret(key)
        if isinstance(key, str) and not key.isascii():
            # Logged and not a warnings.warn, which would print the caller's source line, perhaps with the key in it.
            _logger.warning("the shared key has non-ASCII characters, which some SDKs encode differently: use ASCII")
        with self._lock:
            for ring in self._rings.values():
                ring.set_secret(secret, key_id=key_id)
                ring.sending_key_id = key_id
            self._secrets[key_id] = secret
            self._sending_key_id = key_id

    def remove_shared_key(self, key_id: int = 0) -> None:
        """Forget the key under *key_id*, once nobody seals with it any more.

        :raises ValueError: for a key id out of range, and for the sending key: set another one first. Forgetting a key
            that is not there is no error.
        """
        _bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._lock:
            if key_id == self._sending_key_id and key_id in self._secrets:
                raise ValueError(f"key {key_id} is the sending key: set another one first")
            if self._secrets.pop(key_id, None) is not None:
                for ring in self._rings.values():
                    ring.remove_key(key_id)

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring of *profile*: one for everybody, because the key is shared, whoever *participant_id* is."""
        with self._lock:
            ring = self._rings.get(profile)
            if ring is None:
                ring = KeyRing(
                    profile,
                    # SFrame counts from 0: what many share must not be what one seals under.
                    shared=profile is Profile.SFRAME,
                    ring_size=self.key_ring_size,
                    ratchet_window=self.ratchet_window_size,
                    failure_tolerance=self.failure_tolerance,
                )
                for key_id, secret in self._secrets.items():
                    ring.set_secret(secret, key_id=key_id)
                if self._secrets:
                    ring.sending_key_id = self._sending_key_id
                self._rings[profile] = ring
            return ring

    def __repr__(self) -> str:
        """Show the key ids, never a key."""
        return f"{type(self).__name__}(key_ids={self.key_ids}, sending_key_id={self._sending_key_id})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: keys do not leave the process."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r}: it holds keys, which do not leave the process")


def _bounded(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, not {value}")
    return value
