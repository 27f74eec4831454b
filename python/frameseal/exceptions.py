"""What can be wrong with one frame.

::

    FrameError                    never raised itself; .kid where known
    ├── MalformedFrame            not a frame of this profile            (theirs; drop)
    ├── UnknownKey                no key for this key id                 (wait or ask)
    ├── AuthenticationFailed      no key in the window opens it          (drop; maybe ask for a keyframe)
    ├── ReplayedFrame             counter seen or too old                (drop)
    ├── SenderMismatch            another participant's frame              (drop)
    └── KeyExhausted              counter at its limit                   (ours; rotate)
    ValueError / TypeError        the caller's mistake: key length, key id range, window

A class exists only where a caller would do something different. The native module imports these classes and calls
``Class(message, kid)``; no message says how far a forged frame got.
"""


class FrameError(Exception):
    """A frame could not be sealed or opened. Catch this one to mean any of its subclasses; it is never raised itself.

    ``kid`` is the key id (RFC 9605, section 4.3; the trailer's key index in the LiveKit family) that the frame named,
    or None where the frame did not get far enough to name one. Until a frame is authenticated its key id is only what
    somebody wrote there.
    """

    kid: int | None

    def __init__(self, message: str, kid: int | None = None) -> None:
        """Describe the failure in *message*; *kid* is the key id where it is known."""
        super().__init__(message)
        self.kid = kid


class MalformedFrame(FrameError):
    """The bytes are not a frame of this profile: too short, a wrong trailer or header, or never sealed at all.

    When opening: drop the frame; waiting for a key will not help. When sealing: the encoder produced something that
    the codec's clear-byte rules cannot describe; drop it and ask the encoder for the next one.
    """


class UnknownKey(FrameError):
    """The key ring holds no key under the frame's key id (when sealing: under the sending key id).

    Drop the frame, and wait for the key or ask the application for it. Ask for keyframes only sparingly meanwhile.
    """


class AuthenticationFailed(FrameError):
    """There is a key under this key id, but no key within the ratchet window opens the frame.

    Drop the frame and, for video, maybe ask for a keyframe. A few of these are normal under packet loss; only a run of
    them means a wrong key, which is what ``Decryptor.consecutive_failures`` counts.
    """


class ReplayedFrame(FrameError):
    """This frame, or one too far before it to tell, was opened already. Drop it; the key is fine."""


class SenderMismatch(FrameError):
    """The frame is authentic, and its key belongs to another participant than the one whose track this is.

    Somebody between the participants moved or reflected it, or the application names the wrong participant for this
    track. Drop the frame; the key is fine. Raised only where a decryptor was given a participant.
    """


class KeyExhausted(FrameError):
    """The sending key has sealed as many frames as it safely may. Set a fresh key: no frame is sealed until then."""
