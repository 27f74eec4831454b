"""What a message may say of a value, and what keeps a secret inside the object that holds it.

One rule for every error, log line and `repr` of this package: what somebody passed in is not quoted. It may be a
passphrase in the place of a profile, a participant or a path. A number of at most 64 bits is shown, since no key is so
short; everything else is described by its type.

An exception must not hold the value either, nor be chained to one that does (``from None`` hides a chain, and keeps
it). So what Python would say is caught, and our own error is raised outside the handler.
"""

from __future__ import annotations

import math
from typing import Final, Generic, NoReturn, SupportsIndex, TypeVar

MAX_SHOWN_BITS: Final = 64
MAX_SECONDS: Final = 10.0 * 365 * 24 * 3600  # ten years; an event loop takes no times without end

T = TypeVar("T")


def described(number: float) -> str:
    """Return what a message may say of a number."""
    if isinstance(number, int) and number.bit_length() > MAX_SHOWN_BITS:
        return f"a number of more than {MAX_SHOWN_BITS} bits"
    return f"{number}"


def require(name: str, value: object, kind: type | tuple[type, ...] | str, what: str) -> None:
    """Check an argument before it is used: Python's own `AttributeError` would hold it.

    :param kind: a class, or several; or the name of an attribute that the value must have.
    :param what: what the message says that the value must be.
    :raises TypeError: if it is something else.
    """
    if not (hasattr(value, kind) if isinstance(kind, str) else isinstance(value, kind)):
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")


def require_seconds(name: str, value: float, *, zero: bool = True) -> None:
    """Check a time in seconds.

    :param zero: whether 0 is allowed.
    :raises TypeError: if it is no number.
    :raises ValueError: if it is negative, not finite, or more than ten years.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (0 if zero else math.ulp(0)) <= value <= MAX_SECONDS:
        least = "0 or more" if zero else "more than 0"
        raise ValueError(f"{name} must be {least} seconds and at most ten years, not {described(value)}")


def utf8(name: str, text: str) -> bytes:
    """Return the UTF-8 of *text*.

    :raises TypeError: if it is no str.
    :raises ValueError: if it has a lone surrogate, which has no UTF-8.
    """
    require(name, text, str, "a str")
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{name} has a lone surrogate, so it is no text: decode it with its encoding")


class Confidential:
    """A class whose instances refuse to be pickled or copied: keys do not leave the process."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Refuse."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r}: it holds keys, which do not leave the process")

    def __reduce__(self) -> NoReturn:
        """Refuse."""
        self.__reduce_ex__(0)

    def __getstate__(self) -> NoReturn:
        """Refuse."""
        self.__reduce_ex__(0)


class Hidden(Confidential, Generic[T]):
    """Holds a secret where whatever holds it could be printed, pickled, copied or captured by a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        """Hide *value*."""
        self._value = value

    def reveal(self) -> T:
        """Return the secret."""
        return self._value

    def __eq__(self, other: object) -> bool:
        """Compare the secrets."""
        return isinstance(other, Hidden) and bool(self._value == other._value)

    def __hash__(self) -> int:
        """Hash the secret."""
        return hash(self._value)

    def __repr__(self) -> str:
        """Show nothing."""
        return "Hidden()"


def hide(value: T | Hidden[T]) -> Hidden[T]:
    """Return *value* hidden, if it is not yet."""
    return value if isinstance(value, Hidden) else Hidden(value)
