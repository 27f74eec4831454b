"""A new key for everybody who has the present one, through a server that must not learn either.

Whoever rotates draws a new passphrase, seals it with a key made from the present one, and sends it through the
signalling, which passes it on to all in one order. The sealing key comes from the present passphrase behind a prefix,
so it is not the media's. This keeps nobody out who has the present key; it is no boundary between members.

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

KEY_IDS: Final = 16  # slots of the worker's key ring
_PREFIX: Final = "frameseal meet rotation v1\n"


class RotationRefused(Exception):
    """This is no rotation that follows on the present key."""


class MeetingKey(Confidential):
    """What everybody in the meeting shares, and the id that its frames name.

    :raises ValueError: for a passphrase that is empty or no text, and a key id out of range.
    """

    __slots__ = ("_key_id", "_passphrase")

    def __init__(self, passphrase: str, key_id: int = 0) -> None:
        """Keep the passphrase."""
        if not utf8("the passphrase", passphrase):
            raise ValueError("the passphrase is empty")
        self._passphrase = passphrase
        self._key_id = bounded("key_id", key_id, 0, KEY_IDS - 1)

    @property
    def passphrase(self) -> str:
        """The secret."""
        return self._passphrase

    @property
    def key_id(self) -> int:
        """Which slot of a key ring it is for."""
        return self._key_id

    def __eq__(self, other: object) -> bool:
        """Compare both."""
        return isinstance(other, MeetingKey) and (self.passphrase, self.key_id) == (other.passphrase, other.key_id)

    def __hash__(self) -> int:
        """Hash both."""
        return hash((self._passphrase, self._key_id))

    def __repr__(self) -> str:
        """Show the id, never the passphrase."""
        return f"MeetingKey(key_id={self.key_id})"


def next_key(present: MeetingKey) -> MeetingKey:
    """Draw the key after *present*."""
    require("present", present, MeetingKey, "a MeetingKey")
    return MeetingKey(secrets.token_urlsafe(16), (present.key_id + 1) % KEY_IDS)


class RotationOpener(Confidential):
    """Opens rotations that follow on one key, and derives what it takes once, whatever is sent to it."""

    __slots__ = ("_decryptor", "_present")

    def __init__(self, present: MeetingKey) -> None:
        """Derive the sealing key: some 12 ms, for a thread beside the event loop."""
        self._present = present
        self._decryptor = Decryptor(_ring(present))

    def open(self, sealed: bytes) -> MeetingKey:
        """Return the key that a rotation brings.

        :raises RotationRefused: sealed under another key than the present one, or not for the next key id (a replay,
            say).
        """
        coming = _opened(self._decryptor, sealed)
        if coming is None:
            raise RotationRefused("sealed under another key than the present one, or no key")
        if coming.key_id != (self._present.key_id + 1) % KEY_IDS:
            raise RotationRefused("not the key after the present one")
        return coming


def seal_rotation(present: MeetingKey, coming: MeetingKey) -> bytes:
    """Seal *coming* for those who have *present*. It costs a derivation, some 12 ms."""
    require("coming", coming, MeetingKey, "a MeetingKey")
    text = json.dumps({"keyId": coming.key_id, "passphrase": coming.passphrase})
    return Encryptor(_ring(present)).encrypt(text.encode())


def open_rotation(present: MeetingKey, sealed: bytes) -> MeetingKey:
    """Return the key that a rotation brings, as `RotationOpener.open` does, for who opens one alone."""
    return RotationOpener(present).open(sealed)


def _opened(decryptor: Decryptor, sealed: bytes) -> MeetingKey | None:
    """Return the key in a rotation. None if there is none: an error of JSON would hold what was opened."""
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
