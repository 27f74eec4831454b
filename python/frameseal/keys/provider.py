"""The providers for keys brought from outside: one for all, one per participant.

A provider owns key rings and lends them out; a key goes in, and comes out again only of one that was made for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

from frameseal._fork import call_in_child, renew_in_child
from frameseal._native import DerivedKey, KeyRing, Secret
from frameseal._secrecy import require
from frameseal.emitter import LoopEmitter
from frameseal.enums import Profile
from frameseal.events import KEY_RATCHETED, KEY_SET, E2EEKeyChange
from frameseal.keys.protocol import ParticipantKeys, bounded

KeyMaterial = str | bytes | bytearray | memoryview

_logger = logging.getLogger("frameseal")


class KeyProvider(LoopEmitter):
    """Keys brought from outside: one per participant, one that all share, or both.

    A participant who has keys of their own seals, and is opened, with these alone; all others use the shared ones. So
    nobody can send in the name of somebody who has a key.

    :param discard_frame_when_cryptor_not_ready: what becomes of empty frames, which carry nothing and are never sealed:
        True drops them, False passes them on. It never lets an unsealed frame out nor an unopened one in, see
        docs/guide/states.md.
    :param ratchet_window_size: how many ratchet steps ahead a receiver searches when a frame does not open, 0 to 16.
        Steps of a passphrase cost some 25 ms each, once, in a thread beside the decoders.
    :param failure_tolerance: frames in a row that may fail under one key id before InvalidKey is reported. -1: never
        report it (DecryptionFailed is still reported). Decryption is tried again with every frame in any case.
    :param key_ring_size: how many key ids there are, 1 to 256.
    :param allow_export: whether `export_key` gives keys out. Off, no key ever leaves.
    :raises ValueError: for a number out of its range.

    Emits ``"key-set"`` and ``"key-ratcheted"`` (by `ratchet`, or because a sender went ahead) with one `E2EEKeyChange`.
    All methods may be called from any thread. Keys are held by the native module, which clears them when they are
    replaced; no Python object keeps one. The string or buffer that the caller passed in remains the caller's to forget.
    Of a participant whose keys are removed, and whom no track or channel is left of, nothing is kept.

    Of two calls that concern one key the later one wins, however long a passphrase takes. No call waits for the
    derivation of another.
    """

    _keys_lock: threading.Lock  # never held during a derivation

    def __init__(
        self,
        discard_frame_when_cryptor_not_ready: bool = True,
        ratchet_window_size: int = 0,
        failure_tolerance: int = -1,
        *,
        key_ring_size: int = 16,
        allow_export: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Make a provider without keys."""
        super().__init__(loop)
        self.ratchet_window_size: Final = bounded("ratchet_window_size", ratchet_window_size, 0, 16)
        self.failure_tolerance: Final = bounded("failure_tolerance", failure_tolerance, -1, 2**31 - 1)
        self.key_ring_size: Final = bounded("key_ring_size", key_ring_size, 1, 256)
        self.allow_export: Final = bool(allow_export)
        self._discard = bool(discard_frame_when_cryptor_not_ready)
        self._shared = ParticipantKeys(shared=True)
        self._own: dict[str, ParticipantKeys] = {}
        self._turns = count(1)
        renew_in_child(self, _keys_lock=threading.Lock)
        call_in_child(self, _end_derivations)

    @property
    def discard_frame_when_cryptor_not_ready(self) -> bool:
        """What becomes of empty frames: True drops them, False passes them on."""
        return self._discard

    @property
    def key_ids(self) -> list[int]:
        """The key ids that have a shared key, ascending."""
        return self.key_ids_of(None)

    @property
    def participant_ids(self) -> list[str]:
        """The participants who have a key of their own, in order."""
        with self._keys_lock:
            return sorted(name for name, keys in self._own.items() if keys.secrets)

    def key_ids_of(self, participant_id: str | None) -> list[int]:
        """Return the key ids under which a participant has a key of their own, ascending; None: of the shared keys."""
        with self._keys_lock:
            return sorted(self._keys(participant_id).secrets)

    def sending_key_id(self, participant_id: str | None = None) -> int:
        """Return the key id that a participant's (None: the shared) keys seal under."""
        with self._keys_lock:
            return self._keys(participant_id).sending

    def set_shared_key(self, key: KeyMaterial, key_id: int = 0, *, send: bool = True) -> None:
        """Set the shared key under *key_id*; may be called at any time.

        :param key: a str goes through the profile's password KDF (PBKDF2, some 12 ms per profile in use); bytes or any
            other buffer, at least 16 of them, through its KDF for random keys (HKDF). The two never give the same key,
            not even for the same characters: all participants must use the same type.
        :param key_id: 0 to key_ring_size - 1. For a rotation use the next id: receivers keep opening what is still
            under way with the old one.
        :param send: seal with it from the next frame on. False: open with it, and go on sealing as before.
        :raises ValueError: for an empty or too short key, or a key id out of range.
        """
        self._set(None, key, key_id, send)

    def set_key(self, participant_id: str, key: KeyMaterial, key_id: int = 0, *, send: bool = True) -> None:
        """Set a participant's own key under *key_id*, as `set_shared_key` does for all. May precede their arrival.

        :param send: the key id to seal with, where this is the local participant; without meaning for others.
        :raises ValueError: for an empty or too short key, a key id out of range, or a participant without a name.
        """
        require("participant_id", participant_id, str, "a str")  # None would be everybody
        if not participant_id:
            raise ValueError("participant_id is empty")
        self._set(participant_id, key, key_id, send)

    def set_sending_key_id(self, key_id: int, participant_id: str | None = None) -> None:
        """Seal with another key from the next frame on.

        :raises ValueError: if there is no key under *key_id*.
        """
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._keys_lock:
            keys = self._keys(participant_id)
            if key_id not in keys.secrets:
                raise ValueError(f"there is no key {key_id} to seal with: set it first")
            keys.choose(key_id, next(self._turns))

    def remove_shared_key(self, key_id: int = 0) -> None:
        """Forget the key under *key_id*, once nobody seals with it any more.

        :raises ValueError: for a key id out of range, and for the sending key: set another one first. Forgetting a key
            that is not there is no error.
        """
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._keys_lock:
            if key_id == self._shared.sending and key_id in self._shared.secrets:
                raise ValueError(f"key {key_id} is the sending key: set another one first")
            self._shared.forget(key_id, next(self._turns))

    def remove(self, participant_id: str | None = None, key_id: int | None = None) -> None:
        """Forget a participant's keys (None: the shared ones), or the one under *key_id*; the sending one too.

        For who has left, and at the end of a call. From then on nothing is sealed or opened with them. A participant
        without any key of their own is again one of those who use the shared key. Forgetting twice is no error.
        """
        with self._keys_lock:
            keys, turn = self._keys(participant_id), next(self._turns)
            if key_id is None:
                keys.removed = turn
            for forgotten in list(keys.secrets.keys() | keys.turns.keys()) if key_id is None else [key_id]:
                keys.forget(forgotten, turn)

    def ratchet(self, participant_id: str | None = None, key_id: int | None = None) -> None:
        """Move a participant's key (None: the shared one) one step forward, where it is; by default the sending one.

        Everybody has to, or to have a ratchet window. In these formats it is no boundary between members: for that,
        set a fresh key. With a passphrase a step takes some 25 ms.

        :raises ValueError: for a key id without a key, or in the profile sframe, whose rooms set a fresh key instead.
        """
        if key_id is not None:
            bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._turn(participant_id) as (keys, _):
            derived: dict[KeyRing, DerivedKey] = {}
            derived_from: tuple[Secret, int] | None = None
            while True:
                with self._keys_lock:
                    key_id = keys.sending if key_id is None else key_id
                    if key_id not in keys.secrets:
                        raise ValueError(f"there is no key {key_id} to ratchet")
                    if Profile.SFRAME in keys.rings:  # before any other ring has taken the step
                        raise ValueError("there is no ratchet in a room of the profile sframe: set a fresh key")
                    current, rings = keys.secrets_and_steps()[key_id], list(keys.rings.values())
                    if current != derived_from:
                        derived, derived_from = {}, current
                    if all(ring in derived for ring in rings):
                        for ring in rings:
                            derived[
                                ring
                            ].install()  # refused by a ring that has followed a frame meanwhile: it is there
                        keys.steps[key_id] = current[1] + 1
                        break
                for ring in rings:
                    if ring not in derived:
                        derived[ring] = ring.derive_ratchet(key_id)
        self.deliver(KEY_RATCHETED, E2EEKeyChange(participant_id, key_id))

    def export_key(self, participant_id: str | None = None, key_id: int | None = None) -> bytes:
        """Return the material of a key as it is now: what goes into the KDF, as LiveKit's ``exportKey`` has it.

        Before any ratchet step that is the passphrase or raw key itself.

        :raises PermissionError: the provider was not made with ``allow_export=True``.
        :raises ValueError: for a key id without a key, and before a manager has asked for the ring.
        """
        if not self.allow_export:
            raise PermissionError("this provider gives no keys out: make it with allow_export=True")
        with self._keys_lock:
            keys = self._keys(participant_id)
            if keys.rings and not keys.secrets:
                raise ValueError("there is no such key")
            for ring in keys.rings.values():
                return ring.export_key(key_id)
        raise ValueError("there is no ring yet: export after the E2EEManager was made and has a track")

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring of a participant, which turns to the shared keys while they have none of their own."""
        return self._ring(participant_id, profile, self._ring(None, profile))

    def frames_sealed(self, participant_id: str | None = None) -> int:
        """Return how many frames this side has sealed with the sending key of a participant (None: the shared one).

        Counted per ring: with rings of several profiles, the highest.
        """
        with self._keys_lock:
            keys = self._keys(participant_id)
            if keys.sending not in keys.secrets:
                return 0
            return max((ring.frames_sealed(keys.sending) for ring in keys.rings.values()), default=0)

    def secrets_of(self, participant_id: str) -> dict[int, Secret]:
        """Return what a participant's frames may be sealed with, for diagnoses; a `Secret` cannot be read."""
        with self._keys_lock:
            return dict(self._keys(participant_id).secrets or self._shared.secrets)

    def last_set(self, participant_id: str, key_id: int) -> int:
        """Return a number that grows whenever a key is set that may open a participant's frames under *key_id*.

        0: no such key was ever set, or it is there now. For the manager.
        """
        with self._keys_lock:
            own, shared = self._keys(participant_id), self._shared
            if key_id in (own.secrets or shared.secrets):
                return 0
            return max(keys.set_turns.get(key_id, 0) for keys in (own, shared))

    def note_ratcheted(self, participant_id: str, key_id: int) -> None:
        """Tell listeners that a sender has gone ahead and the ring has followed. For the manager."""
        self.deliver(KEY_RATCHETED, E2EEKeyChange(participant_id, key_id))

    def _set(self, participant_id: str | None, key: KeyMaterial, key_id: int, send: bool) -> None:
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        secret = Secret(key)
        if isinstance(key, str) and not key.isascii():
            # Logged and not a warnings.warn, which would print the caller's source line, perhaps with the key in it.
            _logger.warning("a key has non-ASCII characters, which some SDKs encode differently: use ASCII")
        with self._turn(participant_id) as (keys, turn):
            derived: dict[KeyRing, DerivedKey] = {}
            while True:
                with self._keys_lock:
                    if keys.is_outdated(key_id, turn):
                        return
                    rings = list(keys.rings.values())
                    if all(ring in derived for ring in rings):
                        keys.install(secret, key_id, send, turn, (derived[ring] for ring in rings))
                        break
                for ring in rings:
                    if ring not in derived:
                        derived[ring] = ring.derive_key(secret, key_id)
        self.deliver(KEY_SET, E2EEKeyChange(participant_id, key_id))

    @contextmanager
    def _turn(self, participant_id: str | None) -> Iterator[tuple[ParticipantKeys, int]]:
        """Take a turn to derive keys in, without the lock. Until its end the participant is not forgotten."""
        with self._keys_lock:
            keys, turn = self._shared, next(self._turns)
            if participant_id is not None:
                keys = self._own_keys(participant_id)
            keys.deriving.add(turn)
        try:
            yield keys, turn
        finally:
            keys.deriving.discard(turn)

    def _keys(self, participant_id: str | None) -> ParticipantKeys:
        return self._shared if participant_id is None else self._own.get(participant_id, ParticipantKeys())

    def _own_keys(self, participant_id: str) -> ParticipantKeys:
        keys = self._own.get(participant_id)
        if keys is None:
            # When somebody comes is the time to forget those who have gone: there are as many as are here, or one more.
            self._own = {name: held for name, held in self._own.items() if held.is_in_use()}
            keys = self._own[participant_id] = ParticipantKeys()
        return keys

    def _ring(self, participant_id: str | None, profile: Profile, fallback: KeyRing | None = None) -> KeyRing:
        with self._turn(participant_id) as (keys, _):
            if (made := keys.rings.get(profile)) is not None:
                return made
            holdings: dict[int, tuple[Secret, int]] = {}
            ring = KeyRing(
                profile,
                # SFrame counts from 0: what many share must not be what one seals under.
                shared=profile is Profile.SFRAME,
                key_ring_size=self.key_ring_size,
                ratchet_window=self.ratchet_window_size,
                failure_tolerance=self.failure_tolerance,
                allow_export=self.allow_export,
                fallback=fallback,
            )
            while True:
                with self._keys_lock:
                    if (made := keys.rings.get(profile)) is not None:  # by another thread
                        return made
                    current = keys.secrets_and_steps()
                    if current == holdings:
                        ring.sending_key_id = keys.sending
                        keys.rings[profile] = ring
                        keys.pin_rings()
                        return ring
                for key_id in holdings.keys() - current.keys():
                    ring.remove_key(key_id)
                for key_id, (secret, steps) in current.items():
                    if holdings.get(key_id) != (secret, steps):
                        ring.set_secret(secret, key_id=key_id)
                        for _ in range(steps):
                            ring.ratchet(key_id)
                holdings = current

    def __repr__(self) -> str:
        """Show the key ids and how many participants have keys of their own: neither a key nor a name."""
        with self._keys_lock:
            shared = self._shared
            own = sum(bool(keys.secrets) for keys in self._own.values())
            shown = f"key_ids={sorted(shared.secrets)}, sending_key_id={shared.sending}"
        return f"{type(self).__name__}({shown}{f', participants={own}' if own else ''})"


class ExternalE2EEKeyProvider(KeyProvider):
    """One shared key for everybody in the meeting, brought from outside: `KeyProvider` without participants' own keys.

    All participants use one ring, so what this side seals is counted in one place.
    """

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring of *profile*: one for everybody, because the key is shared, whoever *participant_id* is."""
        return self._ring(None, profile)

    def _set(self, participant_id: str | None, key: KeyMaterial, key_id: int, send: bool) -> None:
        if participant_id is not None:
            raise ValueError("this provider has one key for all: use a KeyProvider for keys per participant")
        super()._set(None, key, key_id, send)


def _end_derivations(provider: KeyProvider) -> None:
    """Forget the derivations of the parent's threads."""
    for keys in (provider._shared, *provider._own.values()):
        keys.deriving.clear()
