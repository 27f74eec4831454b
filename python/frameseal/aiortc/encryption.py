"""The encryption of one attached connection: its manager and its participants. It refers to no slot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from frameseal._secrecy import Confidential
from frameseal.e2ee.manager import E2EEManager

if TYPE_CHECKING:
    from frameseal.aiortc.recorder import Recorder

__all__ = ["Encryption", "RemoteId"]

# The callable's parameter is Any, because each stack has a receiver class of its own, which applications annotate.
RemoteId = str | Callable[[Any], str | None]

SEAM_REPLACED: Final = "seam_replaced"  # the reason of an InternalError starts with this


@dataclass(eq=False, repr=False, slots=True, weakref_slot=True)
class Encryption(Confidential):
    """The manager of a connection, the ids of its two ends, and whether it was detached."""

    e2ee: E2EEManager
    """Makes the transforms and reports the states."""

    local_id: str
    """The id of the participant whose key seals."""

    remote_id: RemoteId
    """The id of the participant whose key opens, or a callable that returns the id for a receiver."""

    detached: bool = False
    """True after the connection was detached. It then neither sends nor decodes media."""

    recorder: Recorder | None = None
    """Records the sealed frames that arrive. None means that nobody records them."""

    @property
    def may_reassign(self) -> bool:
        """True if a receiver may change its participant during the call."""
        return callable(self.remote_id)

    def remote_participant(self, receiver: object) -> str | None:
        """Return the id of the participant whose media *receiver* has now. None means that nobody is known yet."""
        return self.remote_id(receiver) if callable(self.remote_id) else self.remote_id

    def report_replaced_seam(self, participant_id: str, kind: str, seams: str, track_id: str | None = None) -> None:
        """Put tracks into InternalError, because other code replaced *seams* of the stack."""
        self.e2ee.report_internal_error(participant_id, kind, f"{SEAM_REPLACED}:{seams}", track_id=track_id)
