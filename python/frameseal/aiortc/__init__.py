"""End-to-end encryption for the calls of aiortc (1.9 and later) and of its fork vsaiortc.

`attach` covers the media of a peer connection, and `attach_all` covers every connection that the process makes.
`record` archives what a connection receives, without a key. `tee_all` does so beside decoding, for every SDK.
`seal_data_channel` covers one data channel. ``stack.py`` describes how the hook stands between codec and packetizer.
"""

from __future__ import annotations

from frameseal._native import DataCryptor
from frameseal._secrecy import require
from frameseal.aiortc.attachment import Attachment, tee_manager
from frameseal.aiortc.encryption import RemoteId
from frameseal.aiortc.everywhere import attach_all, require_attached, stop_attaching
from frameseal.aiortc.protocols import PeerConnection
from frameseal.aiortc.recorder import FrameWriter, Recorder, RecorderCounters
from frameseal.aiortc.rule import MANAGER
from frameseal.aiortc.slots import TrackCounters
from frameseal.aiortc.stack import UnsupportedStack, install, package_of, stacks
from frameseal.datachannel import DataChannel, SealedDataChannel, wrap
from frameseal.e2ee.manager import E2EEManager
from frameseal.enums import Profile
from frameseal.events import RecordingLoss
from frameseal.keys.provider import KeyProvider

__all__ = [
    "attach",
    "attach_all",
    "record",
    "require_attached",
    "seal_data_channel",
    "stop_attaching",
    "tee_all",
    "Attachment",
    "Recorder",
    "RecorderCounters",
    "RecordingLoss",
    "TrackCounters",
    "UnsupportedStack",
]


def attach(
    pc: PeerConnection, e2ee: E2EEManager, *, local_id: str, remote_id: RemoteId, tee: FrameWriter | None = None
) -> Attachment:
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
    :param tee: a writer, such as `frameseal.archive.ArchiveWriter`, that archives each received frame as it was sealed,
        beside decoding. Close `Attachment.recorder` before the writer. None archives nothing.
    :raises RuntimeError: *pc* is attached already, or its media started before ``frameseal.aiortc`` was imported.
    :raises UnsupportedStack: the hook does not support this version of the stack.
    :raises TypeError: *pc* is no peer connection, *e2ee* is no manager, or an id or *tee* is of another type.
    """
    require("e2ee", e2ee, "receiver_transform", MANAGER)
    require("local_id", local_id, str, "a str")
    if tee is None:
        return _attach(pc, e2ee, local_id, remote_id, None)
    return _recorded(pc, e2ee, local_id, remote_id, Recorder(tee, e2ee.profile, decodes=True))


def record(
    pc: PeerConnection, writer: FrameWriter, *, remote_id: RemoteId, profile: Profile | str = Profile.LIVEKIT
) -> Recorder:
    """Archive every whole sealed frame that *pc* hands on, without a key. Nothing is decoded, and nothing is sent.

    ``async with frameseal.aiortc.record(pc, writer, remote_id="alice"):`` records until the block ends. A slow disk
    does not stall the call: frames that do not fit into a queue of 64 MiB are counted and reported, and the next frame
    of the track is marked with a gap. The same holds for a full disk. Keyframes are requested at the start and after
    gaps. The connection fails closed: what it would send is dropped, since it has no key.

    A recorder without a key cannot tell the room that it records. Tell the participants by other means.

    :param pc: an ``RTCPeerConnection`` of aiortc or vsaiortc.
    :param writer: an object with ``write(frame)``, such as `frameseal.archive.ArchiveWriter`.
    :param remote_id: the id of the participant who sends, or a callable that returns the id for an ``RTCRtpReceiver``
        (see `attach`). While it returns None, frames are not recorded, and are counted.
    :param profile: the wire format of the call. Frames that are not sealed in this format are not archived, since they
        may be plaintext. A `RecordingLoss` reports them.
    :raises RuntimeError: *pc* is attached already, or its media started before ``frameseal.aiortc`` was imported.
    :raises UnsupportedStack: the hook does not support this version of the stack.
    :raises TypeError: *pc* is no peer connection, *writer* is no writer, or the id is of another type.
    :raises ValueError: the profile is unknown.
    """
    recorder = Recorder(writer, profile, decodes=False)
    _recorded(pc, E2EEManager(KeyProvider(), recorder.profile), "", remote_id, recorder)
    return recorder


def tee_all(e2ee: E2EEManager, writer: FrameWriter, *, decode: bool = True) -> Recorder:
    """Archive every whole sealed frame that arrives on the connections of *e2ee*, present and future, beside decoding.

    It serves the adapters, which attach the connections of their SDK themselves: pymediasoup, videosdk, livekit. A
    manager whose provider has no key records without a key.

    :param e2ee: the manager of the call.
    :param writer: an object with ``write(frame)``, such as `frameseal.archive.ArchiveWriter`.
    :param decode: False passes no frame on to a decoder, as `record` does. Use it without a key: frames that cannot
        open would request keyframes for as long as the call lasts.
    :raises RuntimeError: *e2ee* is recorded already.
    :raises UnsupportedStack: the installed stack lacks a function that a recording needs.
    :raises TypeError: *e2ee* is no manager, or *writer* is no writer.
    """
    require("e2ee", e2ee, "receiver_transform", MANAGER)
    recorder = Recorder(writer, e2ee.profile, decodes=bool(decode))
    try:
        for stack in list(stacks.values()):
            stack.follow_packets()
        tee_manager(e2ee, recorder)
    except BaseException:
        recorder.close()
        raise
    return recorder


def _recorded(
    pc: PeerConnection, e2ee: E2EEManager, local_id: str, remote_id: RemoteId, recorder: Recorder
) -> Attachment:
    try:
        install(package_of(pc)).follow_packets()
        return _attach(pc, e2ee, local_id, remote_id, recorder)
    except BaseException:
        recorder.close()
        raise


def _attach(
    pc: PeerConnection, e2ee: E2EEManager, local_id: str, remote_id: RemoteId, recorder: Recorder | None
) -> Attachment:
    if not callable(remote_id):
        require("remote_id", remote_id, str, "a str, or a callable that returns the participant id of a receiver")
    stack = install(package_of(pc))
    stack.wrap_functions()
    attachment = Attachment(e2ee, local_id, remote_id, recorder=recorder)
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
