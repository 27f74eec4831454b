"""Key providers of an application: one shared key for all, or one key per participant.

A provider owns the key rings and shares them with the manager. It returns a key only with ``allow_export=True``.
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
from frameseal.profiles import is_sframe

MAX_RATCHET_WINDOW: Final = 16

KeyMaterial = str | bytes | bytearray | memoryview
"""A passphrase (str), or a raw key of at least 16 bytes."""

_logger = logging.getLogger("frameseal")


class KeyProvider(LoopEmitter):
    """Holds the keys that an application sets: one key per participant, one key that all share, or both.

    The frames of a participant who has keys of their own are sealed and opened with these keys alone. The frames of
    all others use the shared keys. So nobody can send in the name of a participant who has a key.

    :param discard_frame_when_cryptor_not_ready: True drops empty frames (0 bytes), False passes them on. Empty frames
        are never sealed. The option never lets an unsealed frame out nor an unopened frame in (docs/guide/states.md).
    :param ratchet_window: maximum number of ratchet steps that a receiver searches ahead when a frame does not
        open, 0 to 16. The first search of a step derives it in a thread beside the decoders. The derivation lasts some
        25 ms for a passphrase.
    :param failure_tolerance: maximum number of consecutive frames that may fail under one key id before InvalidKey is
        reported. -1 never reports InvalidKey; DecryptionFailed is still reported. The decryptor tries every frame, in
        either case.
    :param key_ring_size: number of key ids, 1 to 256.
    :param allow_export: True allows `export_key`. With False no key leaves the native module.
    :param loop: the event loop on which events are delivered. By default the running loop, or else the first loop
        that is bound.
    :raises TypeError: a number is not an int.
    :raises ValueError: a number is out of range.

    Emits ``"key-set"`` and ``"key-ratcheted"``, each with one `E2EEKeyChange`. A key is ratcheted by `ratchet`, or
    because a sender has ratcheted and the ring followed. Any thread may call any method.

    The native module holds the keys and clears replaced ones; no Python object holds a key. Clearing the string or
    buffer that was passed in is up to the caller. Nothing is kept of a participant without keys, tracks and channels.

    If two calls set one key, the later call wins, however long their derivations last. No call waits for the derivation
    of another call.
    """

    _keys_lock: threading.Lock  # never held during a derivation

    def __init__(
        self,
        discard_frame_when_cryptor_not_ready: bool = True,
        ratchet_window: int = 0,
        failure_tolerance: int = -1,
        *,
        key_ring_size: int = 16,
        allow_export: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Make a provider without keys."""
        super().__init__(loop)
        self.ratchet_window: Final = bounded("ratchet_window", ratchet_window, 0, MAX_RATCHET_WINDOW)
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
        """True if empty frames are dropped, False if they are passed on."""
        return self._discard

    @property
    def key_ids(self) -> list[int]:
        """The key ids under which there is a shared key, ascending."""
        return self.key_ids_of(None)

    @property
    def participant_ids(self) -> list[str]:
        """The ids of the participants who have a key of their own, sorted."""
        with self._keys_lock:
            return sorted(name for name, keys in self._own.items() if keys.secrets)

    def key_ids_of(self, participant_id: str | None) -> list[int]:
        """Return the key ids under which a participant has a key of their own, ascending.

        :param participant_id: None stands for the shared keys.
        """
        with self._keys_lock:
            return sorted(self._keys(participant_id).secrets)

    def sending_key_id(self, participant_id: str | None = None) -> int:
        """Return the key id under which the next frame of a participant is sealed.

        :param participant_id: None stands for the shared keys.
        """
        with self._keys_lock:
            return self._keys(participant_id).sending

    def set_shared_key(self, key: KeyMaterial, key_id: int = 0, *, send: bool = True) -> None:
        """Set the shared key under *key_id*, at any time before or during a call.

        :param key: a passphrase as str, or a raw key of at least 16 bytes as bytes or another buffer. The profile
            derives the frame key with PBKDF2 from a str, in some 12 ms per profile in use. From bytes it derives the
            key with HKDF. The same characters as str and as bytes yield different keys: all participants must use the
            same type.
        :param key_id: 0 to ``key_ring_size - 1``. A rotation uses the next id, so that receivers still open frames
            under the previous key.
        :param send: True seals with this key from the next frame on. False only opens with it. The first key always
            becomes the sending key.
        :raises TypeError: *key* is neither str nor a buffer, or *key_id* is not an int.
        :raises ValueError: *key* is empty or too short, or *key_id* is out of range.
        """
        self._set(None, key, key_id, send)

    def set_key(self, participant_id: str, key: KeyMaterial, key_id: int = 0, *, send: bool = True) -> None:
        """Set the own key of a participant under *key_id*, before or after they join. See `set_shared_key`.

        :param participant_id: the id of the participant, as the manager uses it.
        :param send: as for `set_shared_key`, for the local participant. It has no effect on frames that are received.
        :raises TypeError: *participant_id* is not a str, *key* neither str nor a buffer, or *key_id* not an int.
        :raises ValueError: *participant_id* is empty, *key* is empty or too short, or *key_id* is out of range.
        """
        require("participant_id", participant_id, str, "a str")  # None stands for the shared keys elsewhere
        if not participant_id:
            raise ValueError("participant_id must not be empty: use set_shared_key for the shared key")
        self._set(participant_id, key, key_id, send)

    def set_sending_key_id(self, key_id: int, participant_id: str | None = None) -> None:
        """Seal with the key under *key_id* from the next frame on.

        :param participant_id: None stands for the shared keys.
        :raises ValueError: there is no key under *key_id*, or *key_id* is out of range.
        """
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._keys_lock:
            keys = self._keys(participant_id)
            if key_id not in keys.secrets:
                raise ValueError(f"key_id must have a key to send with, and {key_id} has none: set it first")
            keys.choose(key_id, next(self._turns))

    def remove_shared_key(self, key_id: int = 0) -> None:
        """Remove the shared key under *key_id*. Do nothing if there is none.

        Remove a key when no frame sealed with it is under way any more.

        :raises ValueError: *key_id* is out of range, or is the sending key id: set another key first.
        """
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        with self._keys_lock:
            if key_id == self._shared.sending and key_id in self._shared.secrets:
                raise ValueError(f"key_id must not be the sending key id, which is {key_id}: set another key first")
            self._shared.forget(key_id, next(self._turns))

    def remove(self, participant_id: str | None = None, key_id: int | None = None) -> None:
        """Remove keys when a participant has left, or at the end of a call. Do nothing if there are none.

        Unlike `remove_shared_key` it removes the sending key too. From then on no frame is sealed or opened with the
        removed keys. A participant whose last own key is removed uses the shared keys again.

        :param participant_id: whose keys; None stands for the shared keys.
        :param key_id: the key to remove; None removes all keys.
        """
        with self._keys_lock:
            keys, turn = self._keys(participant_id), next(self._turns)
            if key_id is None:
                keys.removed = turn
            for forgotten in list(keys.secrets.keys() | keys.turns.keys()) if key_id is None else [key_id]:
                keys.forget(forgotten, turn)

    def ratchet(self, participant_id: str | None = None, key_id: int | None = None) -> None:
        """Replace a key by its next ratchet step, under the same key id.

        Every participant must ratchet too, or have a ratchet window. A ratchet step does not keep out a member who had
        the key before: set a fresh key for that. With a passphrase a step lasts some 25 ms.

        :param participant_id: whose key; None stands for the shared key.
        :param key_id: None stands for the sending key id.
        :raises ValueError: there is no key under *key_id*, *key_id* is out of range, or a ring has the profile sframe.
            That profile has no ratchet for keys that senders share.
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
                        raise ValueError(f"key_id must have a key to ratchet, and {key_id} has none")
                    if any(map(is_sframe, keys.rings)):  # checked before any ring advances
                        raise ValueError(
                            "the profile sframe has no ratchet for a key that senders share: set a fresh key"
                        )
                    current, rings = keys.secrets_and_steps()[key_id], list(keys.rings.values())
                    if current != derived_from:
                        derived, derived_from = {}, current
                    if all(ring in derived for ring in rings):
                        for ring in rings:
                            # A ring that has followed a ratcheted frame meanwhile ignores it: it took the step already.
                            derived[ring].install()
                        keys.steps[key_id] = current[1] + 1
                        break
                for ring in rings:
                    if ring not in derived:
                        derived[ring] = ring.derive_ratchet(key_id)
        self.deliver(KEY_RATCHETED, E2EEKeyChange(participant_id, key_id))

    def export_key(self, participant_id: str | None = None, key_id: int | None = None) -> bytes:
        """Return the input of the KDF for a key, as LiveKit's ``exportKey`` does.

        Before any ratchet step this is the passphrase in UTF-8, or the raw key.

        :param participant_id: whose key; None stands for the shared key.
        :param key_id: None stands for the sending key id.
        :raises PermissionError: the provider was not made with ``allow_export=True``.
        :raises ValueError: there is no key under *key_id*, or no manager has asked for the ring yet.
        """
        if not self.allow_export:
            raise PermissionError("this provider exports no keys: make it with allow_export=True")
        with self._keys_lock:
            keys = self._keys(participant_id)
            if keys.rings and not keys.secrets:
                raise ValueError("participant_id has no key to export: set it first")
            for ring in keys.rings.values():
                return ring.export_key(key_id)
        raise ValueError("there is no ring to export from: make an E2EEManager and attach a track first")

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the ring of a participant. It falls back to the shared keys while they have no key of their own."""
        return self._ring(participant_id, profile, self._ring(None, profile))

    def frames_sealed(self, participant_id: str | None = None) -> int:
        """Return the number of frames that this side has sealed with the sending key; 0 without a key.

        Each ring counts for itself. With rings of several profiles, return the maximum.

        :param participant_id: whose sending key; None stands for the shared one.
        """
        with self._keys_lock:
            keys = self._keys(participant_id)
            if keys.sending not in keys.secrets:
                return 0
            return max((ring.frames_sealed(keys.sending) for ring in keys.rings.values()), default=0)

    def secrets_of(self, participant_id: str) -> dict[int, Secret]:
        """Return, by key id, the secrets that may have sealed a participant's frames. A `Secret` cannot be read.

        Diagnoses try them in other spellings.
        """
        with self._keys_lock:
            return dict(self._keys(participant_id).secrets or self._shared.secrets)

    def last_set(self, participant_id: str, key_id: int) -> int:
        """Return a number that increases when a key is set that may open a participant's frames under *key_id*.

        It is 0 if no key was ever set under *key_id*, or if the key is still set. The manager calls it.
        """
        with self._keys_lock:
            own, shared = self._keys(participant_id), self._shared
            if key_id in (own.secrets or shared.secrets):
                return 0
            return max(keys.set_turns.get(key_id, 0) for keys in (own, shared))

    def note_ratcheted(self, participant_id: str, key_id: int) -> None:
        """Emit ``"key-ratcheted"``: a sender has ratcheted and the ring has followed. The manager calls it."""
        self.deliver(KEY_RATCHETED, E2EEKeyChange(participant_id, key_id))

    def _set(self, participant_id: str | None, key: KeyMaterial, key_id: int, send: bool) -> None:
        bounded("key_id", key_id, 0, self.key_ring_size - 1)
        secret = Secret(key)
        if isinstance(key, str) and not key.isascii():
            # Logged, since `warnings.warn` would print the caller's source line, perhaps with the key in it.
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
        """Draw a turn, and keep the participant's keys from being discarded until the context ends.

        The context derives keys without the lock.
        """
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
            # Discard unused entries whenever an entry is added. So their number stays bounded by those in use.
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
                # An SFrame counter starts at 0 for every sender: each must seal with a key derived for it alone.
                shared=is_sframe(profile),
                key_ring_size=self.key_ring_size,
                ratchet_window=self.ratchet_window,
                failure_tolerance=self.failure_tolerance,
                allow_export=self.allow_export,
                fallback=fallback,
            )
            while True:
                with self._keys_lock:
                    if (made := keys.rings.get(profile)) is not None:  # another thread was faster
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
        """Show the key ids and the number of participants with own keys, but no key and no name."""
        with self._keys_lock:
            shared = self._shared
            own = sum(bool(keys.secrets) for keys in self._own.values())
            shown = f"key_ids={sorted(shared.secrets)}, sending_key_id={shared.sending}"
        return f"{type(self).__name__}({shown}{f', participants={own}' if own else ''})"


class ExternalE2EEKeyProvider(KeyProvider):
    """Holds one shared key for everybody in the meeting: `KeyProvider` without keys per participant.

    All participants use one ring, which counts all frames that this side seals.

    :param ratchet_window_size: VideoSDK's name of the parameter ``ratchet_window`` of `KeyProvider`, at the same
        position. The attribute is `ratchet_window`.

    All other parameters, errors and events are those of `KeyProvider`.
    """

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
        """Make a provider without a key."""
        super().__init__(
            discard_frame_when_cryptor_not_ready,
            bounded("ratchet_window_size", ratchet_window_size, 0, MAX_RATCHET_WINDOW),
            failure_tolerance,
            key_ring_size=key_ring_size,
            allow_export=allow_export,
            loop=loop,
        )

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        """Return the one ring of *profile*, which all participants share; *participant_id* is ignored."""
        return self._ring(None, profile)

    def _set(self, participant_id: str | None, key: KeyMaterial, key_id: int, send: bool) -> None:
        if participant_id is not None:
            raise ValueError("ExternalE2EEKeyProvider has one key for all: use a KeyProvider for keys per participant")
        super()._set(None, key, key_id, send)


def _end_derivations(provider: KeyProvider) -> None:
    """Discard the derivations under way in a forked child: their threads exist in the parent only."""
    for keys in (provider._shared, *provider._own.values()):
        keys.deriving.clear()
