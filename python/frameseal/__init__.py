"""frameseal: end-to-end encryption of encoded media frames for Python's WebRTC stack.

The core (`KeyRing`, `Encryptor`, `Decryptor`) is native and knows neither transport nor event loop. Every name below
is imported on its first use (PEP 562). So a program that only seals and opens frames imports neither asyncio nor pyee.
"""

# Defined here, because the import of typing is slower than the import of this package. Type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from frameseal._native import DataCryptor as DataCryptor
    from frameseal._native import Decryptor as Decryptor
    from frameseal._native import Encryptor as Encryptor
    from frameseal._native import KeyRing as KeyRing
    from frameseal._native import __version__ as __version__
    from frameseal.e2ee.manager import E2EEManager as E2EEManager
    from frameseal.e2ee.transforms import ReceiverTransform as ReceiverTransform
    from frameseal.e2ee.transforms import SenderTransform as SenderTransform
    from frameseal.enums import CipherSuite as CipherSuite
    from frameseal.enums import E2EEState as E2EEState
    from frameseal.enums import Profile as Profile
    from frameseal.events import E2EEDiagnosis as E2EEDiagnosis
    from frameseal.events import E2EEInjectedFrame as E2EEInjectedFrame
    from frameseal.events import E2EEKeyChange as E2EEKeyChange
    from frameseal.events import E2EEKeyUsage as E2EEKeyUsage
    from frameseal.events import E2EEMissingKey as E2EEMissingKey
    from frameseal.events import E2EEStalled as E2EEStalled
    from frameseal.events import E2EEStateChange as E2EEStateChange
    from frameseal.events import KeyUndelivered as KeyUndelivered
    from frameseal.exceptions import AuthenticationFailed as AuthenticationFailed
    from frameseal.exceptions import FrameError as FrameError
    from frameseal.exceptions import KeyExhausted as KeyExhausted
    from frameseal.exceptions import MalformedFrame as MalformedFrame
    from frameseal.exceptions import ReplayedFrame as ReplayedFrame
    from frameseal.exceptions import SenderMismatch as SenderMismatch
    from frameseal.exceptions import UnknownKey as UnknownKey
    from frameseal.keys.protocol import KeyRingProvider as KeyRingProvider
    from frameseal.keys.provider import ExternalE2EEKeyProvider as ExternalE2EEKeyProvider
    from frameseal.keys.provider import KeyProvider as KeyProvider
    from frameseal.keys.rotation import KeyRotator as KeyRotator

# Maps each public name to the module that defines it. The imports above repeat the map for type checkers. A test
# compares both.
_MODULES = {
    # the core
    "KeyRing": "frameseal._native",
    "Encryptor": "frameseal._native",
    "Decryptor": "frameseal._native",
    "DataCryptor": "frameseal._native",
    "Profile": "frameseal.enums",
    "CipherSuite": "frameseal.enums",
    # errors
    "FrameError": "frameseal.exceptions",
    "MalformedFrame": "frameseal.exceptions",
    "UnknownKey": "frameseal.exceptions",
    "AuthenticationFailed": "frameseal.exceptions",
    "ReplayedFrame": "frameseal.exceptions",
    "SenderMismatch": "frameseal.exceptions",
    "KeyExhausted": "frameseal.exceptions",
    # a call
    "ExternalE2EEKeyProvider": "frameseal.keys.provider",
    "KeyProvider": "frameseal.keys.provider",
    "KeyRingProvider": "frameseal.keys.protocol",
    "KeyRotator": "frameseal.keys.rotation",
    "E2EEManager": "frameseal.e2ee.manager",
    "E2EEState": "frameseal.enums",
    "E2EEStateChange": "frameseal.events",
    "E2EEStalled": "frameseal.events",
    "E2EEInjectedFrame": "frameseal.events",
    "E2EEDiagnosis": "frameseal.events",
    "E2EEKeyChange": "frameseal.events",
    "KeyUndelivered": "frameseal.events",
    "E2EEKeyUsage": "frameseal.events",
    "E2EEMissingKey": "frameseal.events",
    "SenderTransform": "frameseal.e2ee.transforms",
    "ReceiverTransform": "frameseal.e2ee.transforms",
    "__version__": "frameseal._native",
}

__all__ = [*_MODULES]  # noqa: PLE0604 - every item is a str


def __getattr__(name: str) -> object:
    """Import a public name on its first use (PEP 562)."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only the first use of a name needs it

    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not, and the attributes of the module."""
    return sorted({*globals(), *__all__})
