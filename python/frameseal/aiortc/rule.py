"""The state of the hook that holds for the whole process: the rule for later connections, and unattached media.

`attach_all` sets the rule, and `require_attached` refuses unattached media.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from frameseal._secrecy import Confidential
from frameseal.aiortc.encryption import RemoteId
from frameseal.e2ee.manager import E2EEManager

__all__ = ["MANAGER", "ManagerOf", "Only", "Rule", "process", "report_unattached"]

MANAGER: Final = "an E2EEManager, made with a provider of keys"

_REPORTED = "_frameseal_reported"  # the attribute of transports whose unattached media were reported

# The parameter is Any, because each stack has a connection class of its own, which applications annotate.
ManagerOf = E2EEManager | Callable[[Any], E2EEManager]
Only = Callable[[Any], bool]

_logger = logging.getLogger("frameseal")


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Rule(Confidential):
    """The arguments of `attach_all`."""

    e2ee: ManagerOf
    """The manager of all connections, or a callable that returns the manager of one connection."""

    local_id: str
    """The id of the participant whose key seals."""

    remote_id: RemoteId
    """The id of the participant whose key opens, or a callable that returns the id for a receiver."""

    only: Only | None
    """Returns False for a connection that stays unattached. None means that every connection is attached."""

    def covers(self, pc: object) -> bool:
        """Return whether *pc* is to be attached.

        :raises TypeError: `only` returned neither True nor False. A forgotten ``return`` must not send in the clear.
        """
        if self.only is None:
            return True
        covered: object = self.only(pc)
        if covered is not False and not covered:
            raise TypeError(f"only must return True or False, not {type(covered).__name__}: return bool(...) of it")
        return covered is not False

    def manager_of(self, pc: object) -> E2EEManager:
        """Return the manager of *pc*.

        :raises TypeError: the callable returned no manager.
        """
        if is_manager(self.e2ee):
            return cast(E2EEManager, self.e2ee)
        made = cast("Callable[[object], object]", self.e2ee)(pc)
        if not is_manager(made):
            raise TypeError(f"e2ee must return {MANAGER}, not {type(made).__name__}")
        return cast(E2EEManager, made)


def is_manager(value: object) -> bool:
    """Return whether *value* is a manager. A class is none: it makes managers."""
    return hasattr(value, "receiver_transform") and not isinstance(value, type)


class Process:
    """Holds the state. Each attribute is replaced as a whole, so that any thread may read it without a lock."""

    rule: Rule | None = None
    """The rule for connections that are made from now on. None means that they stay unattached."""

    attached_only: bool = False
    """True after `require_attached`."""

    checks: tuple[Callable[[Any], None], ...] = ()
    """The functions of the adapters that may refuse a connection that is made while there is no rule."""

    def check(self, pc: object) -> None:
        """Call the checks with a connection.

        :raises Exception: of any class, if a check refuses the connection.
        """
        for check in self.checks:
            check(pc)


process: Final = Process()


def report_unattached(transport: object) -> None:
    """Log that media of an unattached connection were refused, once for each transport. Callable from any thread."""
    mark = object()
    if vars(transport).setdefault(_REPORTED, mark) is mark:
        _logger.warning(
            "an RTCPeerConnection is not attached, and require_attached() was called: it sends no media and decodes "
            "none. Add frameseal.aiortc.attach(pc, e2ee, local_id=..., remote_id=...) when the connection is made, or "
            "frameseal.aiortc.attach_all(e2ee, local_id=..., remote_id=...) before"
        )
