"""Attaches every connection of the process that is made from now on, in every stack that is or will be imported.

A framework makes its connections itself, and may import a fork of aiortc later. So each module named
``rtcpeerconnection`` is found when it is imported, and the constructor of its class is hooked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Final

from frameseal._imports import after_import
from frameseal._secrecy import require
from frameseal.aiortc.encryption import RemoteId
from frameseal.aiortc.lock import hook
from frameseal.aiortc.protocols import PeerConnection
from frameseal.aiortc.rule import MANAGER, ManagerOf, Only, Rule, is_manager, process
from frameseal.aiortc.stack import UnsupportedStack, base_of, call_after_init, install, stacks

__all__ = ["attach_all", "refuse_with", "require_attached", "stop_attaching"]

_SUFFIX: Final = ".rtcpeerconnection"  # of the module's name, in aiortc and in all its forks


def attach_all(e2ee: ManagerOf, *, local_id: str, remote_id: RemoteId, only: Only | None = None) -> None:
    """Attach every peer connection that this process makes from now on, however deep inside a framework.

    It covers aiortc, vsaiortc and every fork that the hook supports, also forks that are imported later. It covers
    subclasses. A second call replaces the rule for later connections. A connection keeps the rule that it was made
    under. Any thread may call it, with or without an event loop.

    An explicit `attach`, and the adapters for SDKs, replace the attachment that the rule made.

    The callables run inside the constructor of ``RTCPeerConnection``, in the thread that makes the connection. A
    subclass has not set its own attributes then. If a callable raises, the constructor raises, and the connection
    neither sends nor decodes media. A connection of an unsupported fork raises `UnsupportedStack` when it is made.

    :param e2ee: the manager of all connections, or a callable that receives a connection and returns its manager.
    :param local_id: the id of the participant whose key seals.
    :param remote_id: the id of the participant whose key opens, or a callable, as in `attach`.
    :param only: returns for a connection whether to attach it. False means that it stays unattached. None means that
        every connection is attached.
    :raises TypeError: an argument is of another type, or a callable is a coroutine function.
    """
    if not is_manager(e2ee) and not callable(e2ee):
        raise TypeError(f"e2ee must be {MANAGER}, or a callable that returns one, not {type(e2ee).__name__}")
    require("local_id", local_id, str, "a str")
    if not callable(remote_id):
        require("remote_id", remote_id, str, "a str, or a callable that returns the participant id of a receiver")
    if only is not None and not callable(only):
        raise TypeError(f"only must be a callable that returns True or False, or None, not {type(only).__name__}")
    for name, value in (("e2ee", e2ee), ("remote_id", remote_id), ("only", only)):
        if inspect.iscoroutinefunction(value):
            raise TypeError(f"{name} must not be a coroutine function: it is called inside a constructor, so use def")
    _follow_stacks()
    process.rule = Rule(e2ee, local_id, remote_id, only)


def stop_attaching() -> None:
    """Leave connections that are made from now on unattached. Attached connections stay attached.

    A call without a rule has no effect. `require_attached` stays in force.
    """
    process.rule = None


def require_attached() -> None:
    """Refuse unattached media for the rest of this process, in both directions.

    From now on a sender of a connection that is not attached sends nothing, and a receiver decodes nothing. This holds
    for present connections, and for connections that ``only`` of `attach_all` leaves unattached. The log names the
    missing line once per connection. Media start when the connection is attached. Data channels are not media.

    A connection of an unsupported fork raises `UnsupportedStack` when it is made. There is no way back.
    """
    _follow_stacks()
    process.attached_only = True
    for stack in list(stacks.values()):
        stack.refuse_unattached()


def refuse_with(check: Callable[[PeerConnection], None]) -> None:
    """Call *check* with each connection that is made from now on while no rule is in force. For the adapters.

    If it raises, the constructor raises, and the connection neither sends nor decodes media.
    """
    process.checks = (*process.checks, check)
    _follow_stacks()


def _follow_stacks() -> None:
    """Hook the connections of every stack, imported already or later."""
    after_import(_has_connections, _follow)


def _has_connections(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _follow(module: ModuleType) -> None:
    """Hook the connections of the stack that *module* belongs to."""
    cls = vars(module).get("RTCPeerConnection")
    if not isinstance(cls, type):
        return
    connection = base_of(cls) or cls
    package = connection.__module__.rpartition(".")[0]
    try:
        stack = install(package)
    except UnsupportedStack as error:
        _refuse(connection, str(error))
        return
    if stack.connection_class is not connection:
        _refuse(connection, f"{package} was imported a second time, and frameseal's hook is in its first modules")
        return
    stack.follow_connections()
    if process.attached_only:
        stack.refuse_unattached()


def _refuse(connection: type, why: str) -> None:
    """Raise *why* for each connection of an unsupported stack that would have to be attached."""

    def check(pc: PeerConnection) -> None:
        rule = process.rule
        if rule is None:
            process.check(pc)
        if process.attached_only or (rule is not None and rule.covers(pc)):
            raise UnsupportedStack(f"{why}, or leave the connection out with only= of attach_all()")

    with hook.lock:
        call_after_init(connection, check)
