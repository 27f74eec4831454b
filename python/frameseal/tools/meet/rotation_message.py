"""Seals and opens the rotation message, which carries a new key to all members who hold the present key.

The member who rotates generates a passphrase, seals it, and sends it through the signalling. The server forwards all
messages in one order, and learns neither key. The sealing key is derived from a prefix and the present passphrase, so
that it differs from the media key. A rotation does not exclude anybody who holds the present key.

The message is a frame of the profile `livekit` without clear bytes: ciphertext, tag, IV, 0x0C, 0.
"""

from __future__ import annotations

import json
import secrets
from typing import Final

from frameseal import Decryptor, Encryptor, FrameError, KeyRing
from frameseal._json import parse_json
from frameseal._secrecy import Confidential, require, utf8
from frameseal.keys.protocol import bounded

KEY_IDS: Final = 16  # number of key ids in the key ring of the browser's worker
_PREFIX: Final = "frameseal meet rotation v1\n"


class RotationRefused(Exception):
    """The message is not a rotation that follows the present key."""


class MeetingKey(Confidential):
    """The shared passphrase of the meeting and its key id, 0 to 15.

    :raises TypeError: *passphrase* is not a str, or *key_id* is not an int.
    :raises ValueError: *passphrase* is empty or not valid Unicode, or *key_id* is out of range.
    """

    __slots__ = ("_key_id", "_passphrase")

    def __init__(self, passphrase: str, key_id: int = 0) -> None:
        """Hold the passphrase and its key id."""
        if not utf8("the passphrase", passphrase):
            raise ValueError("the passphrase must not be empty")
        self._passphrase = passphrase
        self._key_id = bounded("key_id", key_id, 0, KEY_IDS - 1)

    @property
    def passphrase(self) -> str:
        """The passphrase, which is secret."""
        return self._passphrase

    @property
    def key_id(self) -> int:
        """The key id in every key ring."""
        return self._key_id

    def __eq__(self, other: object) -> bool:
        """Compare the passphrases and the key ids."""
        return isinstance(other, MeetingKey) and (self.passphrase, self.key_id) == (other.passphrase, other.key_id)

    def __hash__(self) -> int:
        """Hash the passphrase and the key id."""
        return hash((self._passphrase, self._key_id))

    def __repr__(self) -> str:
        """Show the key id, never the passphrase."""
        return f"MeetingKey(key_id={self.key_id})"


def next_key(present: MeetingKey) -> MeetingKey:
    """Generate the key after *present*: a random passphrase under the next key id."""
    require("present", present, MeetingKey, "a MeetingKey")
    return MeetingKey(secrets.token_urlsafe(16), (present.key_id + 1) % KEY_IDS)


class RotationOpener(Confidential):
    """Opens rotations that follow one key. It derives the sealing key once, however many messages arrive."""

    __slots__ = ("_decryptor", "_present")

    def __init__(self, present: MeetingKey) -> None:
        """Derive the sealing key in some 12 ms: call it in a thread, not on the event loop."""
        self._present = present
        self._decryptor = Decryptor(_ring(present))

    def open(self, sealed: bytes) -> MeetingKey:
        """Return the key in a rotation.

        :raises RotationRefused: *sealed* was not sealed under the present key, or does not hold the next key id. A
            replayed rotation does not.
        """
        coming = _opened(self._decryptor, sealed)
        if coming is None:
            raise RotationRefused("the rotation was not sealed under the present key, or holds no key")
        if coming.key_id != (self._present.key_id + 1) % KEY_IDS:
            raise RotationRefused("the key id of the rotation must be the key id after the present one")
        return coming


def seal_rotation(present: MeetingKey, coming: MeetingKey) -> bytes:
    """Seal *coming* for the members who hold *present*. The derivation lasts some 12 ms."""
    require("coming", coming, MeetingKey, "a MeetingKey")
    text = json.dumps({"keyId": coming.key_id, "passphrase": coming.passphrase})
    return Encryptor(_ring(present)).encrypt(text.encode())


def open_rotation(present: MeetingKey, sealed: bytes) -> MeetingKey:
    """Return the key in one rotation. For several rotations after one key use `RotationOpener`."""
    return RotationOpener(present).open(sealed)


def _opened(decryptor: Decryptor, sealed: bytes) -> MeetingKey | None:
    """Return the key in a rotation, or None if it holds none. An error of JSON would quote the passphrase."""
    try:
        content = parse_json(decryptor.decrypt(sealed))
        return MeetingKey(content["passphrase"], content["keyId"])
    except (FrameError, ValueError, KeyError, TypeError):
        return None


def _ring(key: MeetingKey) -> KeyRing:
    require("present", key, MeetingKey, "a MeetingKey")
    ring = KeyRing("livekit")
    ring.set_passphrase(_PREFIX + key.passphrase)
    return ring
