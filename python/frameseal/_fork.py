"""Renews in a forked child what it must not share with its parent: locks, and what is bound to an event loop.

A lock that another thread of the parent held stays locked in the child, where that thread does not exist. So each lock
is registered here, and the child makes it anew. Taking all locks before a fork instead would hang: a listener that
forks may run under one of them, and another thread may hold one and wait for something that the forking thread has.

What a lock guards is therefore found as it was, perhaps between two of its changes. Each change by itself is whole. The
order of changes is such that nothing is sealed or opened which neither the old state nor the new one allows, and a call
that is made again in the child completes what it finds half done.
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
    """Call *function* with *owner* in every forked child, if *owner* is still alive.

    *function* must not refer to *owner*, which would live for ever then.
    """
    _in_child.setdefault(owner, []).append(function)


def renew_in_child(owner: object, **makers: Callable[[], object]) -> None:
    """Set attributes of *owner* to what their makers return, now and again in every forked child."""

    def renew(owner: object) -> None:
        for name, make in makers.items():
            setattr(owner, name, make())

    renew(owner)
    call_in_child(owner, renew)


def nothing() -> None:
    """Make nothing: for an attribute that is None in a child."""


def _begin() -> None:
    for owner, functions in list(_in_child.items()):
        for function in functions:
            try:
                function(owner)
            except Exception:  # the other owners need theirs
                _logger.exception("could not renew %r in a forked child", owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
