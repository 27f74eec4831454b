"""Renews locks and loop-bound state in a forked child, which must not share them with its parent.

A lock that another thread of the parent held stays locked in the child, where that thread does not exist. So each lock
is registered here, and the child creates a new one. Acquiring all locks before a fork could hang instead. The listener
that forks may hold a lock. Another thread may hold a lock while it waits for the forking thread.

So the child may find guarded state between two changes. Each single change is atomic. Their order ensures that the
old or the new state allows each frame that is sealed or opened. Repeating an interrupted call completes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

_Owner = TypeVar("_Owner")

_logger = logging.getLogger("frameseal")

_in_child: WeakKeyDictionary[Any, list[Callable[[Any], None]]] = WeakKeyDictionary()


def call_in_child(owner: _Owner, function: Callable[[_Owner], None]) -> None:
    """Call *function* with *owner* in every forked child in which *owner* still exists.

    *function* must not hold a reference to *owner*, which would then never be freed.
    """
    _in_child.setdefault(owner, []).append(function)


def renew_in_child(owner: object, **makers: Callable[[], object]) -> None:
    """Set each named attribute of *owner* to the result of its maker, now and again in every forked child."""

    def renew(owner: object) -> None:
        for name, make in makers.items():
            setattr(owner, name, make())

    renew(owner)
    call_in_child(owner, renew)


def nothing() -> None:
    """Return None. It is the maker of an attribute that a forked child resets to None."""


def _begin() -> None:
    for owner, functions in list(_in_child.items()):
        for function in functions:
            try:
                function(owner)
            except Exception:  # an error must not keep the other owners from being renewed
                _logger.exception("could not renew %r in a forked child", owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
