"""The closed sets of names in the public API, as string enums: every member equals its value."""

from enum import Enum, IntEnum, StrEnum


def _unknown(what: str, members: type[Enum]) -> ValueError:
    """Make the error for a value that an enum does not have. It quotes none: it may be a passphrase in this place."""
    return ValueError(f"unknown {what}: expected one of {', '.join(str(member.value) for member in members)}")


class Profile(StrEnum):
    """A frame format together with its key schedule; everything that takes one also takes its plain string."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise _unknown("profile", cls)

    LIVEKIT = "livekit"
    """The encrypted frame of LiveKit's SDKs."""

    VIDEOSDK = "videosdk"
    """The same frame with VideoSDK's salt. Experimental: no live capture has confirmed it yet."""

    JITSI = "jitsi"
    """The same frame with Jitsi Meet's key schedule ("JFrame"): raw keys only; Opus and other audio, and VP8."""

    SFRAME = "sframe"
    """SFrame, RFC 9605: nothing of a frame stays readable, and a counter instead of a transmitted IV."""


class CipherSuite(IntEnum):
    """The cipher suites of SFrame (RFC 9605, section 4.5), under their names and numbers in its registry.

    A number at the end of a name is the length of the tag in bits. A tag of 64 or 32 bits is forged in 2^64 or 2^32
    tries on average: only for audio, with replay protection, and where each attempt is noticed
    (docs/formats/sframe.md).
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
    """This one and the next two are from draft-barnes-sframe-iana-256: ``allow_draft=True`` turns them on."""
    AES_256_CTR_HMAC_SHA512_64 = 7
    AES_256_CTR_HMAC_SHA512_32 = 8


class E2EEState(StrEnum):
    """How one track of one participant fares; docs/guide/states.md has what leads to each state and what to do then."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise _unknown("state", cls)

    EncryptionSuccess = "EncryptionSuccess"
    """A frame was sealed: the first one, or the first one after a failure."""

    DecryptionSuccess = "DecryptionSuccess"
    """A frame was opened: the first one, or the first one after a failure."""

    EncryptionFailed = "EncryptionFailed"
    """A frame could not be sealed although there is a key; it was dropped."""

    DecryptionFailed = "DecryptionFailed"
    """A frame could not be opened although its key is there, or was no sealed frame at all; it was dropped."""

    InternalError = "InternalError"
    """Something that is neither the key's nor the frame's fault: a defect here or in the wiring around it."""

    MissingKey = "MissingKey"
    """There is no key under the key id in use; frames are dropped until there is."""

    InvalidKey = "InvalidKey"
    """The key has failed on more frames in a row than the failure tolerance allows; it is most likely wrong."""
