"""The encryption of one peer connection, and its control over each sender and receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from frameseal._secrecy import Confidential
from frameseal.aiortc.gates import SLOT
from frameseal.aiortc.lock import hook
from frameseal.aiortc.slots import MediaSlot, SenderSlot, TrackCounters
from frameseal.e2ee.manager import E2EEManager, ReceiverTransform, SenderTransform

__all__ = ["Attachment", "RemoteId"]

RemoteId = str | Callable[[Any], str | None]

SEAM_REPLACED = "seam_replaced"  # how the reason of an InternalError begins
MAX_UNKNOWN_SSRCS = 16  # SSRCs of no sender that are reported, per connection
MAX_TRANSFORMS = 64  # of one receiver, which an SFU may give to many participants in turn
LATE_FRAMES = 1.0  # seconds in which frames of a receiver's former participant may still arrive

_logger = logging.getLogger("frameseal")


class Attachment(Confidential):
    """The encryption of one peer connection, made by `attach`.

    It lives as long as the connection, whether or not a reference is kept.
    """

    def __init__(self, e2ee: E2EEManager, local_id: str, remote_id: RemoteId) -> None:
        """Use `attach`."""
        self._e2ee = e2ee
        self._local_id = local_id
        self._remote_id = remote_id
        self._detached = False
        self._slots: list[MediaSlot] = []
        self._senders: list[SenderSlot] = []
        self._unknown_ssrcs: set[int] = set()
        with contextlib.suppress(RuntimeError):  # no loop is running yet: send() or receive() will be inside one
            e2ee.bind_loop(asyncio.get_running_loop())

    @property
    def detached(self) -> bool:
        """Whether `detach` was called."""
        return self._detached

    def detach(self) -> None:
        """Stop sealing and opening, fail closed: from here on the connection neither sends nor decodes any media.

        There is no way back to unsealed media. `attach` the connection again to go on.
        """
        self._detached = True
        with hook.lock:
            for slot in self._slots:
                self.pause(slot)

    @property
    def counters(self) -> list[TrackCounters]:
        """A copy of the counters of every sender and receiver that was covered so far."""
        with hook.lock:
            return [replace(slot.counters) for slot in self._slots]

    def adopt(self, slot: MediaSlot) -> None:
        """Cover *slot*. For the hook itself, on the event loop."""
        with hook.lock:
            if slot.attachment is not self:
                slot.counters.participant_id = None
                slot.transforms.clear()
                slot.may_be_reassigned = not slot.sends and callable(self._remote_id)
                slot.attachment = self
                self._slots.append(slot)
                if isinstance(slot, SenderSlot):
                    self._senders.append(slot)
                slot.on_adopted()
        if slot.loop is not None:
            self._e2ee.bind_loop(slot.loop)
            self.identify(slot)

    def transform(self, slot: MediaSlot, codec: Any) -> Any:
        """Return the slot's transform for *codec*; None means that its frames are dropped. For the hook itself."""
        kind, _, name = codec.mimeType.lower().partition("/")
        slot.counters.kind, slot.counters.codec = kind, name
        participant_id = slot.counters.participant_id
        if self._detached or slot.closed or slot.ended:
            return None
        if participant_id is None:
            slot.schedule_identify()
            return None
        track = participant_id, name
        if track not in slot.transforms:
            # Made with the first frame, so that a receiver which never gets one (the bandwidth probe of a
            # mediasoup client is such a receiver) has no state.
            make = self._e2ee.sender_transform if slot.sends else self._e2ee.receiver_transform
            if len(slot.transforms) >= MAX_TRANSFORMS:
                self._release_transform(slot.transforms.pop(next(iter(slot.transforms))))
            try:
                slot.transforms[track] = made = make(participant_id, kind, name, track_id=slot.track_id)
                made.track.in_doubt = slot.may_be_reassigned
            except Exception as error:
                slot.transforms[track] = None
                self.report_error(slot, kind, error, "unsupported_codec")
        return slot.transforms[track]

    def release(self, owner: Any) -> None:
        """Let go of a sender or receiver whose media has ended: its transforms, their state, and the frames they hold.

        It stays covered. If media comes all the same, its participant is asked for anew.
        """
        slot = vars(owner).get(SLOT)
        if slot is None or slot.attachment is not self:
            return
        with hook.lock:
            slot.counters.participant_id = None
            gone = list(slot.transforms.values())
            slot.transforms.clear()
        for transform in gone:
            if transform is not None:
                self._release_transform(transform)
                track = transform.track
                self._e2ee.remove_track(track.participant_id, track.kind, track_id=track.track_id)

    def pause(self, slot: MediaSlot) -> None:
        """Note that the transforms of the slot get no frames for now. For the hook itself."""
        for transform in list(slot.transforms.values()):
            self._release_transform(transform)

    def _release_transform(self, transform: SenderTransform | ReceiverTransform | None) -> None:
        if transform is not None:
            self._e2ee._release(transform)

    def resume(self, slot: MediaSlot) -> None:
        """Note that the transforms of the slot's participant get frames. For the hook itself."""
        for track, transform in list(slot.transforms.items()):
            if transform is not None and track[0] == slot.counters.participant_id:
                self._e2ee._resume(transform)
                transform.track.in_doubt = slot.may_be_reassigned
                slot.transforms[track] = slot.transforms.pop(track)  # to the end: the longest unused is let go first

    def report_error(self, slot: MediaSlot, kind: str, error: Exception, reason: str) -> None:
        """Note and report that nothing can be done for this codec. For the hook itself."""
        slot.note_error(error)
        self._e2ee.report_internal_error(slot.counters.participant_id or "", kind, reason, track_id=slot.track_id)

    def has_sealed(self, payload: bytes) -> bool:
        """Whether a sender of this connection has sealed *payload*, lately. For the outgoing gate."""
        for slot in self._senders:  # a loop, as this runs for each packet and a generator takes twice as long
            if payload in slot.sealed:
                return not self._detached
        return False

    def predates_attachment(self, data: bytes) -> bool:
        """Whether an RTP packet that nobody has sealed is from before the attachment. If not, close its track.

        For the outgoing gate, which lets nothing of its payload out.
        """
        timestamp, ssrc = (int.from_bytes(data[start : start + 4], "big") for start in (4, 8))
        for slot in self._senders:
            owner = slot.owner()
            if owner is not None and ssrc in (owner._ssrc, owner._rtx_ssrc):
                return not self._detached and slot.predates_attachment(timestamp)
        if not self._detached and ssrc not in self._unknown_ssrcs and len(self._unknown_ssrcs) < MAX_UNKNOWN_SSRCS:
            self._unknown_ssrcs.add(ssrc)
            _logger.warning("RTP packets of SSRC %d, which no sender of the connection has, are refused", ssrc)
            for kind in {slot.kind for slot in self._senders if slot.started} or {"video"}:
                self._e2ee.report_internal_error(self._local_id, kind, f"{SEAM_REPLACED}:_send_rtp")
        return False

    def report_gap(self, slot: MediaSlot) -> None:
        """Report that a seam of the stack was replaced, so that frames got past the hook; on the event loop."""
        self.identify(slot)
        seams = slot.stack.replaced_seams(slot)
        error = RuntimeError(f"other code replaced {seams}, and frames got past the hook: the track is closed")
        self.report_error(slot, slot.kind, error, f"{SEAM_REPLACED}:{seams}")

    def identify(self, slot: MediaSlot) -> None:
        """Ask who the slot's participant is; on the event loop. For the hook itself."""
        slot.identify_scheduled = False
        owner = slot.owner()
        if slot.attachment is not self or owner is None:
            return
        slot.asked_at = time.monotonic()
        named = self._local_id if slot.sends else self._remote_id
        try:
            name = named(owner) if callable(named) else named
        except Exception as error:
            slot.note_error(error)
            return
        if name != slot.counters.participant_id:
            self._assign(slot, name)
        elif slot.asked_at - slot.assigned_at >= LATE_FRAMES:
            for (participant_id, _), transform in list(slot.transforms.items()):
                if transform is not None and participant_id == name:
                    transform.track.in_doubt = False

    def _assign(self, slot: MediaSlot, name: str | None) -> None:
        """Assign the slot to another participant, from the next frame on."""
        if slot.transforms:
            slot.assigned_at = slot.asked_at
        slot.counters.participant_id = name
        self.pause(slot)
        if not slot.paused:
            self.resume(slot)
