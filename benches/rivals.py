"""The rivals in Python.

`PurePython` is the class that a careful Python developer would write over `cryptography`, for the format of our
``livekit`` profile. It keeps everything that can be kept: the AESGCM object, the IV prefix, the trailer.
"""

import os
from collections.abc import Callable
from itertools import count

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SALT = b"LKFrameEncryptionKey"
TRAILER_LEN = 14


def clear_len(codec: str, frame: bytes) -> int:
    if codec == "vp8":
        return 3 if frame[0] & 1 else 10
    return 1


class PurePython:
    """Seals and opens frames in the trailer format, with frameseal's duties: codec, key ring, errors, counters."""

    def __init__(self, raw_key: bytes, key_id: int = 0, codec: str = "opus") -> None:
        key = HKDF(SHA256(), 16, SALT, bytes(128)).derive(raw_key)
        aead = AESGCM(key)
        self._codec = codec
        self._seal = aead.encrypt
        self._keys = {key_id: aead.decrypt}
        self._prefix = os.urandom(8)
        self._counter = count(int.from_bytes(os.urandom(2)))
        self._trailer = bytes([12, key_id])
        self.frames = self.bytes = self.failed = 0

    def encrypt(self, frame: bytes) -> bytes:
        iv = self._prefix + next(self._counter).to_bytes(4)
        at = clear_len(self._codec, frame)
        clear = frame[:at]
        sealed = b"".join((clear, self._seal(iv, frame[at:], clear), iv, self._trailer))
        self.frames += 1
        self.bytes += len(frame)
        return sealed

    def decrypt(self, sealed: bytes) -> bytes:
        at = clear_len(self._codec, sealed)
        if len(sealed) < at + 30 or sealed[-2] != 12:
            raise ValueError("not a sealed frame")
        clear = sealed[:at]
        try:
            frame = clear + self._keys[sealed[-1]](sealed[-14:-2], sealed[at:-14], clear)
        except (KeyError, InvalidTag) as error:
            self.failed += 1
            raise ValueError("no key opens this frame") from error
        self.frames += 1
        self.bytes += len(frame)
        return frame


class PurePythonSframe:
    """Seals and opens RFC 9605 SFrames, AES_128_GCM_SHA256_128, and keeps derived keys and header parts."""

    def __init__(self, base_key: bytes, kid: int = 1) -> None:
        def derive(label: bytes, length: int) -> bytes:
            info = b"SFrame 1.0 Secret " + label + b" " + kid.to_bytes(8) + (4).to_bytes(2)
            return HKDF(SHA256(), length, b"", info).derive(base_key)

        aead = AESGCM(derive(b"key", 16))
        self._seal = aead.encrypt
        self._salt = int.from_bytes(derive(b"salt", 12))
        self._keys = {kid: (aead.decrypt, self._salt)}
        self._config = kid << 4  # a KID below 8 stands in the config byte
        self._counter = count()

    def encrypt(self, frame: bytes) -> bytes:
        ctr = next(self._counter)
        if ctr < 8:
            header = bytes((self._config | ctr,))
        else:
            length = (ctr.bit_length() + 7) >> 3
            header = bytes((self._config | 7 + length,)) + ctr.to_bytes(length)
        return header + self._seal((self._salt ^ ctr).to_bytes(12), frame, header)

    def decrypt(self, sealed: bytes) -> bytes:
        config, at = sealed[0], 1
        kid, ctr = config >> 4, config & 0x0F
        if kid & 8:
            length = (kid & 7) + 1
            kid, at = int.from_bytes(sealed[at : at + length]), at + length
        if ctr & 8:
            length = (ctr & 7) + 1
            ctr, at = int.from_bytes(sealed[at : at + length]), at + length
        if len(sealed) < at + 16:
            raise ValueError("not an SFrame")
        aead, salt = self._keys[kid]
        return aead((salt ^ ctr).to_bytes(12), sealed[at:], sealed[:at])


class AeadAlone:
    """Calls `cryptography`'s AES-GCM only: no key ring, no trailer, no new IV."""

    def __init__(self, raw_key: bytes) -> None:
        self._aead = AESGCM(raw_key[:16])
        self._iv = os.urandom(12)

    def encrypt(self, frame: bytes) -> bytes:
        return self._aead.encrypt(self._iv, frame, None)

    def decrypt(self, sealed: bytes) -> bytes:
        return self._aead.decrypt(self._iv, sealed, None)


def wrtc_pair(base_key: bytes, kid: int) -> tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]:
    """Return the SFrame transforms of PyPI's wrtc (libwebrtc), which work without a connection."""
    import wrtc

    suite = 4  # AES_128_GCM_SHA256_128
    sealing, opening = wrtc.SFrameTransform(suite, True), wrtc.SFrameTransform(suite, False)
    sealing.setEncryptionKey(base_key, kid)
    opening.addDecryptionKey(base_key, kid)
    decrypt = opening.decrypt
    return sealing.encrypt, lambda sealed: decrypt(sealed)[0]
