"""Who frameseal is measured against.

`PurePython` is what a careful Python developer would write over `cryptography`: the same format as our ``livekit``
profile, with everything that can be kept (the AESGCM object, the IV prefix, the trailer) kept.
"""

import os
from itertools import count

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SALT = b"LKFrameEncryptionKey"
TRAILER_LEN = 14


class PurePython:
    """Seals and opens Opus frames in the trailer format; the clear byte of Opus is the first."""

    def __init__(self, raw_key: bytes, key_id: int = 0) -> None:
        key = HKDF(SHA256(), 16, SALT, bytes(128)).derive(raw_key)
        aead = AESGCM(key)
        self._seal = aead.encrypt
        self._keys = {key_id: aead.decrypt}
        self._prefix = os.urandom(8)
        self._counter = count(int.from_bytes(os.urandom(2)))
        self._trailer = bytes([12, key_id])

    def encrypt(self, frame: bytes) -> bytes:
        iv = self._prefix + next(self._counter).to_bytes(4)
        clear = frame[:1]
        return b"".join((clear, self._seal(iv, frame[1:], clear), iv, self._trailer))

    def decrypt(self, sealed: bytes) -> bytes:
        if len(sealed) < 31 or sealed[-2] != 12:
            raise ValueError("not a sealed frame")
        clear = sealed[:1]
        return clear + self._keys[sealed[-1]](sealed[-14:-2], sealed[1:-14], clear)


class AeadAlone:
    """`cryptography`'s AES-GCM and nothing around it: no key ring, no trailer, no new IV."""

    def __init__(self, raw_key: bytes) -> None:
        self._aead = AESGCM(raw_key[:16])
        self._iv = os.urandom(12)

    def encrypt(self, frame: bytes) -> bytes:
        return self._aead.encrypt(self._iv, frame, None)

    def decrypt(self, sealed: bytes) -> bytes:
        return self._aead.decrypt(self._iv, sealed, None)
