"""Keeps secrets out of messages, and inside the objects that hold them.

One rule holds for every error, log line and `repr` of this package: arguments are not quoted. A caller may have passed
a passphrase as a profile, a participant or a path. A number of at most 64 bits is shown, since every key is longer. Any
other value is described by its type.

An exception must not hold the value either, nor be chained to an exception that holds it. ``from None`` hides a chain,
but keeps it. So Python's own exception is caught, and ours is raised outside the handler.
"""

from __future__ import annotations

import math
from typing import Final, Generic, NoReturn, SupportsIndex, TypeVar

MAX_SHOWN_BITS: Final = 64
MAX_SECONDS: Final = 10.0 * 365 * 24 * 3600  # ten years: an event loop does not accept infinite times

T = TypeVar("T")


def described(number: float) -> str:
    """Return *number* for a message: its digits, or its size where it may be a key."""
    if isinstance(number, int) and number.bit_length() > MAX_SHOWN_BITS:
        return f"a number of more than {MAX_SHOWN_BITS} bits"
    return f"{number}"


def require(name: str, value: object, kind: type | tuple[type, ...] | str, what: str) -> None:
    """Check the type of an argument before its use: an `AttributeError` of Python would hold the argument.

    :param name: the name of the argument, for the message.
    :param kind: one class or several, or the name of an attribute that the value must have.
    :param what: the description of the required value, for the message.
    :raises TypeError: *value* is not of this kind.
    """
    if not (hasattr(value, kind) if isinstance(kind, str) else isinstance(value, kind)):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")


def require_seconds(name: str, value: float, *, zero: bool = True) -> None:
    """Check an argument that is a time in seconds.

    :param name: the name of the argument, for the message.
    :param zero: True allows 0.
    :raises TypeError: *value* is not a number.
    :raises ValueError: *value* is negative, not finite, or more than ten years.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (0 if zero else math.ulp(0)) <= value <= MAX_SECONDS:
        least = "0 or more" if zero else "more than 0"
        raise ValueError(f"{name} must be {least} seconds and at most ten years, not {described(value)}")


def utf8(name: str, text: str) -> bytes:
    """Return *text* in UTF-8.

    :param name: the name of the argument, for the message.
    :raises TypeError: *text* is not a str.
    :raises ValueError: *text* has a lone surrogate, which UTF-8 cannot encode.
    """
    require(name, text, str, "a str")
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{name} has a lone surrogate, which UTF-8 cannot encode: decode it with its own encoding")


class Confidential:
    """Base of classes whose instances refuse to be pickled or copied: keys do not leave the process."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Raise TypeError."""
        raise TypeError(
            f"cannot pickle or copy {type(self).__name__!r}: it holds keys, which must not leave the process. "
            "Pass a function that fetches them where they are needed"
        )

    def __reduce__(self) -> NoReturn:
        """Raise TypeError."""
        self.__reduce_ex__(0)

    def __getstate__(self) -> NoReturn:
        """Raise TypeError."""
        self.__reduce_ex__(0)


class Hidden(Confidential, Generic[T]):
    """Holds a secret within an object that might be printed, pickled, copied or captured by a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        """Hold *value*."""
        self._value = value

    def reveal(self) -> T:
        """Return the secret."""
        return self._value

    def __eq__(self, other: object) -> bool:
        """Return True if the secrets are equal."""
        return isinstance(other, Hidden) and bool(self._value == other._value)

    def __hash__(self) -> int:
        """Return the hash of the secret."""
        return hash(self._value)

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return "Hidden()"


def hide(value: T | Hidden[T]) -> Hidden[T]:
    """Return *value* as `Hidden`, unchanged if it already is."""
    return value if isinstance(value, Hidden) else Hidden(value)
