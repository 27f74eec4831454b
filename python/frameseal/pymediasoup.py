"""End-to-end encryption for pymediasoup (1.5), and for the copy of it inside VideoSDK's Python SDK.

A transport has one peer connection, made with it. `attach` covers that connection before anything is produced or
consumed: a sender starts inside ``produce()``, before the server has answered and a `Producer` exists, so whoever waits
for the producer lets frames out unsealed. Senders outlive their producer, and stay covered.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from frameseal import aiortc
from frameseal._secrecy import require
from frameseal.e2ee import E2EEManager

__all__ = ["attach"]

ENCRYPTED = "isEncrypted"
"""The key in a producer's ``appData`` that says so to the others, as VideoSDK's JavaScript SDK has it."""


def attach(
    transport: Any,
    e2ee: E2EEManager,
    local_id: str,
    remote_id: Callable[[Any], str | None] = lambda consumer: consumer.appData.get("peerId"),
) -> aiortc.Attachment:
    """Seal everything that *transport* produces and open everything that it consumes. Right after it was made.

    :param transport: a ``Transport`` of pymediasoup, for sending or receiving.
    :param local_id: this side's participant id.
    :param remote_id: names the participant behind a ``Consumer``; by default ``appData["peerId"]``. Frames of one
        without a name are dropped, and so are the bandwidth probes that mediasoup sends to a receiver of their own.
    :raises RuntimeError: the transport is attached already.
    :raises TypeError: no transport, or *e2ee* no manager.
    :raises UnsupportedStack: the hook does not know the version of aiortc under it.

    Producers are marked ``isEncrypted`` in their appData. A consumer whose appData says that it is not encrypted is in
    the state InternalError (reason ``sender_not_encrypted``) until a frame of it opens after all; nothing of it is
    played in the clear.
    """
    require("transport", transport, "produce", "a Transport of pymediasoup")
    require("remote_id", remote_id, "__call__", "a function that names the participant behind a consumer")
    consumers: weakref.WeakSet[Any] = weakref.WeakSet()

    def named(receiver: Any) -> str | None:
        # A consumer does not always know its receiver, but always its track.
        return next((remote_id(consumer) for consumer in consumers if consumer.track is receiver.track), None)

    def consuming(consumer: Any) -> None:
        consumers.add(consumer)
        name = remote_id(consumer)
        if name is not None and not (consumer.appData or {}).get(ENCRYPTED, True):
            e2ee.report_internal_error(name, "audio" if consumer.kind == "audio" else "video", "sender_not_encrypted")

    attachment = aiortc.attach(transport.handler.pc, e2ee, local_id=local_id, remote_id=named)
    transport.observer.on("newconsumer", consuming)
    produce = transport.produce

    @functools.wraps(produce)
    async def marking(*args: Any, **options: Any) -> Any:
        options["appData"] = {**(options.get("appData") or {}), ENCRYPTED: True}
        return await produce(*args, **options)

    transport.produce = marking
    return attachment
