"""The attachment of one peer connection: its encryption, and the slots of its senders and receivers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from dataclasses import replace

from frameseal._secrecy import Confidential
from frameseal.aiortc.encryption import Encryption, RemoteId
from frameseal.aiortc.lock import hook
from frameseal.aiortc.protocols import Member
from frameseal.aiortc.receivers import AnySlot, ReceiverSlot, present_slot
from frameseal.aiortc.recorder import Recorder
from frameseal.aiortc.slots import SenderSlot, TrackCounters
from frameseal.e2ee.manager import E2EEManager
from frameseal.events import KEY_SET, E2EEKeyChange
from frameseal.keys.protocol import KeyRingProvider
from frameseal.keys.provider import KeyProvider

__all__ = ["Attachment", "tee_manager"]

MAX_UNKNOWN_SSRCS = 16  # reported per connection

_logger = logging.getLogger("frameseal")

# The recorders of `tee_all`, and the encryptions that they may follow. Both end with the call.
_recorders: weakref.WeakKeyDictionary[E2EEManager, Recorder] = weakref.WeakKeyDictionary()
_encryptions: weakref.WeakSet[Encryption] = weakref.WeakSet()


def tee_manager(e2ee: E2EEManager, recorder: Recorder) -> None:
    """Record what arrives on every connection that *e2ee* covers, now and later.

    :raises RuntimeError: a connection of *e2ee* is recorded already, by a recorder that is not closed.
    """
    with hook.lock:
        present = _recorders.get(e2ee)
        covered = [each for each in _encryptions if each.e2ee is e2ee]
        if any(each is not None and not each.closed for each in (present, *(one.recorder for one in covered))):
            raise RuntimeError("e2ee is recorded already: close the present recorder first")
        _recorders[e2ee] = recorder
        for encryption in covered:
            encryption.recorder = recorder


class Attachment(Confidential):
    """The encryption of one peer connection, made by `attach`.

    The connection holds it, so it lives as long as the connection.
    """

    def __init__(
        self,
        e2ee: E2EEManager,
        local_id: str,
        remote_id: RemoteId,
        *,
        by_rule: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        """Use `attach`."""
        self._encryption = Encryption(e2ee, local_id, remote_id)
        with hook.lock:
            self._encryption.recorder = recorder or _recorders.get(e2ee)
            _encryptions.add(self._encryption)
        self._by_rule = by_rule
        self._slots: list[AnySlot] = []
        self._senders: list[SenderSlot] = []
        self._unknown_ssrcs: set[int] = set()
        _follow_keys(e2ee.provider, self)
        with contextlib.suppress(RuntimeError):  # no loop is running yet: send() or receive() will run in one
            e2ee.bind_loop(asyncio.get_running_loop())

    @property
    def detached(self) -> bool:
        """True after `detach`."""
        return self._encryption.detached

    @property
    def recorder(self) -> Recorder | None:
        """The recorder of the sealed frames that arrive. None means that nobody records them."""
        return self._encryption.recorder

    @property
    def is_final(self) -> bool:
        """True if another attachment may not replace it: `attach` made it, and it was not detached."""
        return not (self._by_rule or self.detached)

    def detach(self) -> None:
        """Stop sealing and opening, fail closed. From now on the connection neither sends nor decodes any media.

        The connection never returns to unsealed media. To continue, `attach` it again.
        """
        self._encryption.detached = True
        with hook.lock:
            for slot in self._slots:
                if slot.encryption is self._encryption:  # a later attachment may have adopted the slot
                    slot.pause(self._encryption)

    @property
    def counters(self) -> list[TrackCounters]:
        """A snapshot of the counters of each sender and receiver that the attachment has covered."""
        with hook.lock:
            return [replace(slot.counters) for slot in self._slots]

    def adopt(self, slot: AnySlot) -> None:
        """Cover *slot*. For the hook, on the event loop."""
        encryption = self._encryption
        with hook.lock:
            if slot.encryption is not encryption:
                slot.adopt(encryption)
                self._slots.append(slot)
                if isinstance(slot, SenderSlot):
                    self._senders.append(slot)
        slot.activate(encryption)

    def note_key(self, change: E2EEKeyChange) -> None:
        """Wake the decoders whose frames wait for a key that was set. Callable from any thread."""
        with hook.lock:
            slots = [slot for slot in self._slots if slot.encryption is self._encryption and not self.detached]
        for slot in slots:
            if isinstance(slot, ReceiverSlot):
                slot.note_key(change)

    def release(self, owner: Member) -> None:
        """Release the transforms of a sender or receiver whose media has ended, with their state and held frames.

        The sender or receiver stays covered. If more media arrives, its participant is identified again.
        """
        slot = present_slot(owner)
        if slot is not None and slot.encryption is self._encryption:
            slot.release(self._encryption)

    def has_sealed(self, packet: bytes) -> bool:
        """Return whether a sender sealed the payload of an RTP packet lately, or the packet has none.

        For the outgoing gate. A retransmission has the payload of its packet (RFC 4588).
        """
        for slot in self._senders:  # a loop, because this runs for each packet and a generator is half as fast
            if slot.sealed.admits(packet):
                return not self._encryption.detached
        return False

    def predates_attachment(self, data: bytes) -> bool:
        """Return whether an unsealed RTP packet was encoded before the attachment. If not, close its track.

        For the outgoing gate, which sends nothing of its payload in either case.
        """
        timestamp, ssrc = (int.from_bytes(data[start : start + 4], "big") for start in (4, 8))
        for slot in self._senders:
            owner = slot.owner()
            if owner is not None and ssrc in (owner._ssrc, owner._rtx_ssrc):
                return not self._encryption.detached and slot.predates_attachment(timestamp)
        unknown = self._unknown_ssrcs
        if not self._encryption.detached and ssrc not in unknown and len(unknown) < MAX_UNKNOWN_SSRCS:
            unknown.add(ssrc)
            _logger.warning("refused RTP packets of SSRC %d, because no sender of the connection has this SSRC", ssrc)
            for kind in {slot.kind for slot in self._senders if slot.started} or {"video"}:
                self._encryption.report_replaced_seam(self._encryption.local_id, kind, "_send_rtp")
        return False


class _KeyListener:
    """The listener of one key provider. It passes on which key was set, and keeps no attachment alive.

    A provider may outlive its calls. So it has one listener for all of them.
    """

    def __init__(self) -> None:
        self.attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()

    def __call__(self, change: E2EEKeyChange) -> None:
        with hook.lock:
            attachments = list(self.attachments)
        for attachment in attachments:
            attachment.note_key(change)


_key_listeners: weakref.WeakKeyDictionary[KeyProvider, _KeyListener] = weakref.WeakKeyDictionary()


def _follow_keys(provider: KeyRingProvider, attachment: Attachment) -> None:
    """Tell *attachment* of each key that is set. Other providers emit no event, so the next frame shows their keys."""
    if not isinstance(provider, KeyProvider):
        return
    with hook.lock:
        listener = _key_listeners.setdefault(provider, _KeyListener())
        listener.attachments.add(attachment)
        if listener not in provider.listeners(KEY_SET):  # the application may have removed all listeners
            provider.on(KEY_SET, listener)
