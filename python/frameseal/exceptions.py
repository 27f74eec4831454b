"""The exceptions for one frame that cannot be sealed or opened.

::

    FrameError                    never raised itself; .kid where known
    ├── MalformedFrame            not a frame of this profile            (theirs; drop)
    ├── UnknownKey                no key for this key id                 (wait or ask)
    ├── AuthenticationFailed      no key in the ratchet window opens it  (drop; maybe ask for a keyframe)
    ├── ReplayedFrame             opened before, or too old to tell      (drop)
    ├── SenderMismatch            a frame of another participant         (drop)
    └── KeyExhausted              the sending key is at its limit        (ours; rotate)
    ValueError / TypeError        the caller's mistake: key length, key id range, window

Each class exists because callers react to it differently. The native module imports these classes and calls
``Class(message, kid)``. No message reveals which check a forged frame passed.
"""


class FrameError(Exception):
    """A frame could not be sealed or opened. Catch it to catch all of its subclasses; it is never raised itself.

    ``kid`` is the key id that the frame names. It is the KID of RFC 9605, section 4.3, or the key index in LiveKit's
    trailer. It is None if no key id could be read. The key id of a frame that did not open is not authenticated:
    anybody may have written it.
    """

    kid: int | None

    def __init__(self, message: str, kid: int | None = None) -> None:
        """Make an error with a message and the key id. None means that the key id is unknown."""
        super().__init__(message)
        self.kid = kid


class MalformedFrame(FrameError):
    """The bytes are not a frame of this profile: too short, with a wrong trailer or header, or never sealed.

    When opening, drop the frame: waiting for a key does not help. When sealing, the output of the encoder does not fit
    the clear-byte rule of the codec. Drop the frame and wait for the next.
    """


class UnknownKey(FrameError):
    """The key ring has no key under the key id of the frame; when sealing, under the sending key id.

    Drop the frame, and wait for the key or request it from the application. Request keyframes sparingly meanwhile.
    """


class AuthenticationFailed(FrameError):
    """There is a key under the key id of the frame, but no key within the ratchet window opens it.

    Drop the frame and, for video, request a keyframe if pictures stay away. Packet loss causes a few of these errors.
    Many consecutive ones indicate a wrong key: ``Decryptor.consecutive_failures`` counts them.
    """


class ReplayedFrame(FrameError):
    """The frame was opened before, or is older than the replay window can tell. Drop it; the key is right."""


class SenderMismatch(FrameError):
    """The frame is authentic, but its key belongs to another participant than the track.

    Somebody between the participants moved or reflected the frame, or the application names the wrong participant for
    the track. Drop the frame; the key is right. Only a decryptor with a participant raises it.
    """


class KeyExhausted(FrameError):
    """The sending key has sealed the maximum number of frames. No frame is sealed until a fresh key is set."""
