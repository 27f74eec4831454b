"""End-to-end encryption for the calls of aiortc (1.9 and later) and of its fork vsaiortc.

`attach` covers the media of a peer connection, and `attach_all` covers every connection that the process makes.
`seal_data_channel` covers one data channel. ``stack.py`` describes how the hook stands between codec and packetizer.
"""

from __future__ import annotations

from frameseal._native import DataCryptor
from frameseal._secrecy import require
from frameseal.aiortc.attachment import Attachment
from frameseal.aiortc.encryption import RemoteId
from frameseal.aiortc.everywhere import attach_all, require_attached, stop_attaching
from frameseal.aiortc.protocols import PeerConnection
from frameseal.aiortc.rule import MANAGER
from frameseal.aiortc.slots import TrackCounters
from frameseal.aiortc.stack import UnsupportedStack, install, package_of
from frameseal.datachannel import DataChannel, SealedDataChannel, wrap
from frameseal.e2ee.manager import E2EEManager

__all__ = [
    "attach",
    "attach_all",
    "require_attached",
    "seal_data_channel",
    "stop_attaching",
    "Attachment",
    "TrackCounters",
    "UnsupportedStack",
]


def attach(pc: PeerConnection, e2ee: E2EEManager, *, local_id: str, remote_id: RemoteId) -> Attachment:
    """Seal everything that *pc* sends and open everything that it receives.

    The attachment covers every sender and receiver of the connection, present and future. It fails closed: from now on
    no frame is sent unsealed, and no frame that did not open reaches a decoder. It replaces an attachment that
    `attach_all` made.

    :param pc: an ``RTCPeerConnection`` of aiortc or vsaiortc.
    :param e2ee: the manager of the call, which has the keys and reports the states.
    :param local_id: the id of the participant whose key seals.
    :param remote_id: the id of the participant whose key opens, or a callable that returns the id for an
        ``RTCRtpReceiver``. An SFU may assign a receiver to another participant, so the callable is called again every
        second while frames arrive. It is called at once when a frame does not open, or when the SSRC or the direction
        of the stream changes. It runs on the event loop. While it returns None, the frames of the receiver are
        dropped without a report.
    :raises RuntimeError: *pc* is attached already, or its media started before ``frameseal.aiortc`` was imported.
    :raises UnsupportedStack: the hook does not support this version of the stack.
    :raises TypeError: *pc* is no peer connection, *e2ee* is no manager, or an id is of another type.
    """
    require("e2ee", e2ee, "receiver_transform", MANAGER)
    require("local_id", local_id, str, "a str")
    if not callable(remote_id):
        require("remote_id", remote_id, str, "a str, or a callable that returns the participant id of a receiver")
    stack = install(package_of(pc))
    stack.wrap_functions()
    attachment = Attachment(e2ee, local_id, remote_id)
    stack.attach(pc, attachment)
    return attachment


def seal_data_channel(channel: DataChannel, e2ee: E2EEManager, *, local_id: str, remote_id: str) -> SealedDataChannel:
    """Return a sealed channel around *channel* that uses the keys of the call's media. See docs/guide/data-packets.md.

    Call it when the channel is made or announced, before messages can arrive. Use the sealed channel from then on. A
    message opens only in a channel of the same label. It opens only as a message of the participant who sent it.

    :param channel: an ``RTCDataChannel`` of aiortc or vsaiortc.
    :param e2ee: the manager of the call, which has the keys.
    :param local_id: the id of the participant whose key seals.
    :param remote_id: the id of the participant whose key opens.
    :raises TypeError: *channel* is no data channel, or *e2ee* is no manager.
    :raises ValueError: the manager's profile is stream, which has no data packets.
    """
    require("e2ee", e2ee, "receiver_transform", MANAGER)
    sealer, opener = (
        DataCryptor(e2ee.provider.ring_for(e2ee.profile, who), bind_context=True) for who in (local_id, remote_id)
    )
    return wrap(channel, sealer, opener=opener, local_id=local_id, remote_id=remote_id)
