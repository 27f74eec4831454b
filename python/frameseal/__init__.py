"""frameseal: end-to-end encryption of encoded media frames for Python's WebRTC stack.

The core (`KeyRing`, `Encryptor`, `Decryptor`) is native and knows neither transport nor event loop. The call model
(`ExternalE2EEKeyProvider`, `E2EEManager` and their kin) is loaded on first use, so that a program which only seals and
opens frames imports neither asyncio nor pyee.
"""

from frameseal._native import DataCryptor, Decryptor, Encryptor, KeyRing, __version__
from frameseal.enums import CipherSuite, E2EEState, Profile
from frameseal.exceptions import (
    AuthenticationFailed,
    FrameError,
    KeyExhausted,
    MalformedFrame,
    ReplayedFrame,
    SenderMismatch,
    UnknownKey,
)

# Spelled out, not imported from typing, which takes longer to import than this package. Type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from frameseal.e2ee.manager import (
        E2EEDiagnosis,
        E2EEKeyChange,
        E2EEKeyUsage,
        E2EEManager,
        E2EEMissingKey,
        E2EEStateChange,
        ExternalE2EEKeyProvider,
        KeyProvider,
        KeyRingProvider,
        KeyRotator,
        KeyUndelivered,
        ReceiverTransform,
        SenderTransform,
    )

__all__ = [
    # the core
    "KeyRing",
    "Encryptor",
    "Decryptor",
    "DataCryptor",
    "Profile",
    "CipherSuite",
    # errors
    "FrameError",
    "MalformedFrame",
    "UnknownKey",
    "AuthenticationFailed",
    "ReplayedFrame",
    "SenderMismatch",
    "KeyExhausted",
    # a call
    "ExternalE2EEKeyProvider",
    "KeyProvider",
    "KeyRingProvider",
    "KeyRotator",
    "E2EEManager",
    "E2EEState",
    "E2EEStateChange",
    "E2EEDiagnosis",
    "E2EEKeyChange",
    "KeyUndelivered",
    "E2EEKeyUsage",
    "E2EEMissingKey",
    "SenderTransform",
    "ReceiverTransform",
    "__version__",
]

_LAZY = frozenset(
    {
        "E2EEDiagnosis",
        "E2EEManager",
        "E2EEStateChange",
        "ExternalE2EEKeyProvider",
        "E2EEKeyChange",
        "KeyProvider",
        "KeyRingProvider",
        "KeyRotator",
        "KeyUndelivered",
        "E2EEKeyUsage",
        "E2EEMissingKey",
        "ReceiverTransform",
        "SenderTransform",
    }
)


def __getattr__(name: str) -> object:
    """Load the call model when one of its names is first used (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from frameseal.e2ee import manager  # noqa: PLC0415 - the point of this function

    value: object = getattr(manager, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not, beside the module's own."""
    return sorted({*globals(), *__all__})
