"""The enums of the public API. Every member equals its value, a string or a number."""

from enum import Enum, IntEnum, StrEnum


def _unknown(what: str, members: type[Enum]) -> ValueError:
    """Return the error for an unknown value. The message does not quote the value, which may be a passphrase."""
    return ValueError(f"unknown {what}: expected one of {', '.join(str(member.value) for member in members)}")


class Profile(StrEnum):
    """A frame format with its key schedule. A parameter of this type also accepts the value as a plain str."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise _unknown("profile", cls)

    LIVEKIT = "livekit"
    """The encrypted frame of LiveKit's SDKs: a trailer with the IV and the key id (docs/formats/profiles.md)."""

    VIDEOSDK = "videosdk"
    """LiveKit's frame with VideoSDK's salt. Experimental: no live capture has confirmed it yet."""

    JITSI = "jitsi"
    """LiveKit's frame with Jitsi Meet's key schedule ("JFrame"). It accepts raw keys only, and audio and VP8 only."""

    NEXTCLOUD = "nextcloud"
    """Jitsi Meet's frame with Nextcloud Talk's salts. It accepts raw keys only, and audio and VP8 only."""

    STREAM = "stream"
    """The encrypted frame of Stream's SDKs: a footer, raw AES keys of 16 or 32 bytes, no ratchet."""

    SFRAME = "sframe"
    """SFrame, RFC 9605: no clear bytes, and a counter (CTR) instead of a transmitted IV."""


class CipherSuite(IntEnum):
    """The cipher suites of SFrame, with the names and numbers of its registry (RFC 9605, sections 4.5 and 8.1).

    The last number of a name is the length of the tag in bits. Forging a tag of 64 or 32 bits needs 2^64 or 2^32
    attempts on average. Use a tag of 64 or 32 bits only for audio, with replay protection, and with monitoring of
    failures (docs/formats/sframe.md).
    """

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise _unknown("cipher suite", cls)

    AES_128_CTR_HMAC_SHA256_80 = 1
    AES_128_CTR_HMAC_SHA256_64 = 2
    AES_128_CTR_HMAC_SHA256_32 = 3
    AES_128_GCM_SHA256_128 = 4
    """The default of every profile."""
    AES_256_GCM_SHA512_128 = 5
    AES_256_CTR_HMAC_SHA512_80 = 6
    """This suite and the next two are from draft-barnes-sframe-iana-256. They need ``allow_draft=True``."""
    AES_256_CTR_HMAC_SHA512_64 = 7
    AES_256_CTR_HMAC_SHA512_32 = 8


class E2EEState(StrEnum):
    """The state of one track of one participant. docs/guide/states.md lists the causes and the remedy of each state."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise _unknown("state", cls)

    EncryptionSuccess = "EncryptionSuccess"
    """A frame was sealed: the first frame, or the first frame after a failure."""

    DecryptionSuccess = "DecryptionSuccess"
    """A frame was opened: the first frame, or the first frame after a failure."""

    EncryptionFailed = "EncryptionFailed"
    """A frame was dropped: sealing it failed although there is a key."""

    DecryptionFailed = "DecryptionFailed"
    """A frame was dropped: it was not a sealed frame, or opening it failed although there is a key."""

    InternalError = "InternalError"
    """A frame was dropped because of an error in this package or in the code around it. Key and frame are right."""

    MissingKey = "MissingKey"
    """There is no key under the key id of the frames. They are dropped until the key is set."""

    InvalidKey = "InvalidKey"
    """More consecutive frames than the failure tolerance allows have failed to open. The key is probably wrong."""
