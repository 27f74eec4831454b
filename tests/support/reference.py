"""An independent implementation of the trailer layout, over `cryptography`, to check our bytes against.

It is slow and plain on purpose. It is written from the format alone (LiveKit's worker 2.23.0) and copies none of our
code.
"""

import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

SALTS = {"livekit": b"LKFrameEncryptionKey", "videosdk": b"VideoSDKEncryptionRatchetSalt"}


def derive(profile: str, secret: str | bytes, length: int = 16) -> bytes:
    if isinstance(secret, str):
        return PBKDF2HMAC(SHA256(), length, SALTS[profile], 100_000).derive(secret.encode())
    return HKDF(SHA256(), length, SALTS[profile], bytes(128)).derive(secret)


def clear_len(codec: str | None, frame: bytes) -> int:
    match codec:
        case "opus" | "pcmu" | "pcma" | "g722":
            return 1
        case "vp8":
            return 3 if frame[0] & 1 else 10
        case "h264":
            return (
                next(m.end() + 1 for m in re.finditer(rb"\x00\x00\x01(?=([\s\S]))", frame) if m[1][0] & 0x1F in (1, 5))
                + 1
            )
        case "h265":
            return (
                next(m.end() + 1 for m in re.finditer(rb"\x00\x00\x01(?=([\s\S]))", frame) if m[1][0] >> 1 & 0x3F < 22)
                + 1
            )
        case _:
            return 0


def escape(data: bytes) -> bytes:
    out, zeros = bytearray(), 0
    for byte in data:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def unescape(data: bytes) -> bytes:
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


@dataclass(frozen=True)
class Parts:
    """A sealed frame in pieces."""

    clear: bytes
    body: bytes
    iv: bytes
    key_index: int


def take_apart(sealed: bytes, codec: str | None) -> Parts:
    clear = clear_len(codec, sealed)
    tail = sealed[clear:]
    if codec in ("h264", "h265"):
        tail = unescape(tail)
    assert tail[-2] == 12
    return Parts(sealed[:clear], tail[:-14], tail[-14:-2], tail[-1])


def seal(
    key: bytes, frame: bytes, codec: str | None, iv: bytes, key_index: int = 0, *, clear: int | None = None
) -> bytes:
    at = clear_len(codec, frame) if clear is None else clear
    tail = AESGCM(key).encrypt(iv, frame[at:], frame[:at]) + iv + bytes([12, key_index])
    return frame[:at] + (escape(tail) if codec in ("h264", "h265") and clear is None else tail)


def unseal(key: bytes, sealed: bytes, codec: str | None) -> bytes:
    parts = take_apart(sealed, codec)
    return parts.clear + AESGCM(key).decrypt(parts.iv, parts.body, parts.clear)
