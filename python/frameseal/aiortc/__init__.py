"""End-to-end encryption for the calls of aiortc (1.9 and later) and of its fork vsaiortc.

`attach` covers the media of a peer connection; `seal_data_channel` covers one data channel. ``stack.py`` says how the
hook gets between codec and packetizer.
"""

from __future__ import annotations

from frameseal._native import DataCryptor
from frameseal._secrecy import require
from frameseal.aiortc.attachment import Attachment
from frameseal.aiortc.encryption import RemoteId
from frameseal.aiortc.protocols import PeerConnection
from frameseal.aiortc.slots import TrackCounters
from frameseal.aiortc.stack import UnsupportedStack, install, package_of
from frameseal.datachannel import DataChannel, SealedDataChannel, wrap
from frameseal.e2ee.manager import E2EEManager

__all__ = ["attach", "seal_data_channel", "Attachment", "TrackCounters", "UnsupportedStack"]

_MANAGER = "an E2EEManager, made with a provider of keys"


def attach(pc: PeerConnection, e2ee: E2EEManager, local_id: str = "alice", remote_id: RemoteId = "bob") -> Attachment:
    """Seal everything that *pc* sends and open everything that it receives.

    Covers every sender and receiver of the connection, present and future, and fails closed: from here on no frame
    leaves unsealed and none that did not open reaches a decoder, whatever is missing.

    :param pc: an ``RTCPeerConnection`` of aiortc or vsaiortc.
    :param e2ee: where keys come from and states go to.
    :param local_id: the participant whose key seals.
    :param remote_id: the participant whose key opens; or a callable that names the participant behind an
        ``RTCRtpReceiver``. It is called on the event loop, and called again: every second while frames come, and at
        once when a frame does not open or the stream's SSRC, msid or direction changes, as an SFU may give the receiver
        to somebody else. While it answers None the receiver's frames are dropped quietly.
    :raises RuntimeError: *pc* is attached already; or its media started before ``frameseal.aiortc`` was imported.
    :raises UnsupportedStack: the hook does not know this version of the stack.
    :raises TypeError: *pc* is not a peer connection, or *e2ee* no manager, such as the provider of its keys.
    """
    require("e2ee", e2ee, "receiver_transform", _MANAGER)
    stack = install(package_of(pc))
    stack.wrap_functions()
    attachment = Attachment(e2ee, local_id, remote_id)
    stack.attach(pc, attachment)
    return attachment


def seal_data_channel(
    channel: DataChannel, e2ee: E2EEManager, local_id: str = "alice", remote_id: str = "bob"
) -> SealedDataChannel:
    """Put a sealed channel around *channel*, with the keys that the call's media have. See docs/guide/data-packets.md.

    Do it at once when the channel is made or announced, before messages can come, and send on what this returns. A
    message opens only in a channel of this label, and as one of the participant who sent it.

    :raises TypeError: *channel* is no data channel, or *e2ee* no manager.
    """
    require("e2ee", e2ee, "receiver_transform", _MANAGER)
    sealer, opener = (
        DataCryptor(e2ee.provider.ring_for(e2ee.profile, who), bind_context=True) for who in (local_id, remote_id)
    )
    return wrap(channel, sealer, opener=opener, local_id=local_id, remote_id=remote_id)
