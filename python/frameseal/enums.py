"""The closed sets of names in the public API, as string enums: every member equals its value."""

from enum import StrEnum


class Profile(StrEnum):
    """A frame format together with its key schedule; everything that takes one also takes its plain string."""

    LIVEKIT = "livekit"
    """The encrypted frame of LiveKit's SDKs."""

    VIDEOSDK = "videosdk"
    """The same frame with VideoSDK's salt. Experimental: no live capture has confirmed it yet."""

    JITSI = "jitsi"
    """The same frame with Jitsi Meet's key schedule ("JFrame"): raw keys only; Opus and other audio, and VP8."""


class E2EEState(StrEnum):
    """How one track of one participant fares; docs/states.md says what leads to each state and what to do about it."""

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
