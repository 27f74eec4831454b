"""No secret leaves through an error, a log line or a `repr`, whichever argument it was passed as by mistake.

The walk covers the public API: it calls each function and method with a secret in the place of each argument, in
several types, and in all places at once. Whatever is public and not in the table fails the walk, so that nothing new is
forgotten. What a call leaves behind is searched for the secret: the traceback with all chained exceptions and every
attribute of each, log records, warnings, the standard output, and what the objects involved show.
"""

import asyncio
import base64
import contextlib
import copy
import dataclasses
import importlib
import inspect
import json
import logging
import pickle
import pkgutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import videosdk as sdk
from aiortc import AudioStreamTrack, RTCPeerConnection

import frameseal
from frameseal import aiortc, archive, datachannel, frame_cryptor, getstream, livekit, pymediasoup, videosdk
from frameseal._native import Secret
from frameseal._secrecy import Hidden
from frameseal.aiortc.receivers import ReceiverSlot
from frameseal.emitter import LoopEmitter
from frameseal.inspection import readings
from frameseal.keys import fetch, fingerprint, policies, protocol
from frameseal.keys.room import RoomRotator
from frameseal.tools import cli, demo, meet
from frameseal.tools.meet import rotation_message as meet_rotation
from frameseal.tools.meet.bot import Bot
from frameseal.tools.meet.room import Room
from support.calls import until
from support.e2ee_helpers import Failing
from support.secret_search import MARKER, NUMBER, RAW, captured_by, got_from, said_by, shows
from unit.test_datachannel import Pipe

KEY = bytes(range(32))
NOWHERE = "https://127.0.0.1:1/key"

SECRETS: dict[str, Callable[[], Any]] = {
    "text": lambda: MARKER,
    "text from a Latin-1 terminal": lambda: MARKER + "\udce9",
    "text with half a surrogate pair": lambda: "\ud83d" + MARKER,
    "long text": lambda: MARKER * 200,
    "bytes": lambda: RAW,
    "bytearray": lambda: bytearray(RAW),
    "number": lambda: NUMBER,
    "number of more than 4,300 digits": lambda: NUMBER << 20_000,
    "negative number": lambda: -NUMBER,
    "list": lambda: [MARKER],
    "mapping": lambda: {MARKER: MARKER},
    "path": lambda: Path(MARKER),
}


# --- the search finds what it is for ---------------------------------------------------------------------------------


def in_the_object() -> None:
    (MARKER + "\udce9").encode()


def in_the_receiver() -> None:
    MARKER.no_such  # type: ignore[attr-defined]  # noqa: B018


def in_the_document() -> None:
    json.loads(f"[{MARKER}")


def in_the_file_name() -> None:
    Path(MARKER).read_bytes()


def in_the_arguments() -> None:
    raise ValueError("clean", MARKER)


def in_a_note() -> None:
    error = ValueError("clean")
    error.add_note(MARKER)
    raise error


def in_the_context() -> None:
    try:
        int(MARKER)
    except ValueError:
        raise ValueError("clean") from None


@dataclasses.dataclass
class Careless:
    key: str = dataclasses.field(repr=False)


@pytest.mark.parametrize(
    "leak",
    [
        in_the_object,
        in_the_receiver,
        in_the_document,
        in_the_file_name,
        in_the_arguments,
        in_a_note,
        in_the_context,
    ],
)
def test_the_search_finds_a_secret_in_every_place(leak):
    with pytest.raises(Exception) as caught:
        leak()
    assert any(shows(text) for text in said_by(caught.value))


def test_the_search_finds_every_form_and_nothing_else():
    for form in (MARKER, f"...{MARKER[3:9]}...", RAW.hex(), repr(RAW), str(NUMBER), str(list(RAW))):
        assert shows(form)
    assert any(shows(text) for text in got_from(Careless(MARKER)))
    assert not shows("key_id must be between 0 and 15, not a str")


# --- the table: how to call everything that is public ----------------------------------------------------------------

Call = tuple[Callable[..., Any], dict[str, Any]]


def ring(profile: str = "livekit", **options: Any) -> frameseal.KeyRing:
    made = frameseal.KeyRing(profile, **options)
    made.set_key(KEY)
    return made


class Writes:
    """A writer of a recording that keeps nothing."""

    def write(self, frame: object) -> None:
        pass


async def recorded_and_closed(**arguments: Any) -> None:
    """Record a connection, and end the recorder's thread."""
    aiortc.record(**arguments).close()


async def all_recorded_and_closed(**arguments: Any) -> None:
    aiortc.tee_all(**arguments).close()


async def recorder_that_closes(**arguments: Any) -> None:
    aiortc.Recorder(**arguments).close()


async def closing(**arguments: Any) -> None:
    recorder = aiortc.Recorder(Writes(), "livekit", decodes=True)
    try:
        recorder.close(**arguments)
    finally:
        recorder.close()


async def attach_all_and_stop(**arguments: Any) -> None:
    """Make a connection under the rule, which would otherwise hold for later tests."""
    try:
        aiortc.attach_all(**arguments)
        await RTCPeerConnection().close()
    finally:
        aiortc.stop_attaching()


def shared() -> frameseal.ExternalE2EEKeyProvider:
    made = frameseal.ExternalE2EEKeyProvider(allow_export=True)
    made.set_shared_key(KEY)
    return made


def keys() -> frameseal.KeyProvider:
    made = frameseal.KeyProvider(allow_export=True)
    made.set_shared_key(KEY)
    made.set_key("bob", KEY)
    made.ring_for(frameseal.Profile.LIVEKIT, "bob")
    return made


def manager() -> frameseal.E2EEManager:
    return frameseal.E2EEManager(keys(), "livekit")


async def handed_out(key: bytes, key_id: int) -> None:
    pass


def rotator() -> frameseal.KeyRotator:
    return frameseal.KeyRotator(keys(), handed_out, delay=0, overlap=0)


def room_keys() -> policies.RoomKeys:
    made = policies.RoomKeys(policies.MATRIX_RTC)
    made.start(["bob"], 0)
    return made


async def handed_to(key: bytes, key_id: int, participant_id: str) -> None:
    pass


def in_a_room(method: str, **arguments: Any) -> Call:
    async def call(**given: Any) -> None:
        async with RoomRotator(keys(), handed_to, participant_ids=["bob"]) as entered:
            getattr(entered, method)(**given)
            await asyncio.sleep(0)

    return call, arguments


def cryptor(**options: Any) -> frameseal.DataCryptor:
    return frameseal.DataCryptor(ring(), True, **options)


def channel() -> datachannel.SealedDataChannel:
    return datachannel.wrap(Pipe(), cryptor(), local_id="alice", remote_id="bob")


def call_cryptor() -> frame_cryptor.CallCryptor:
    return frame_cryptor.CallCryptor(shared(), "livekit")


def sealed(profile: str = "livekit") -> bytes:
    return frameseal.Encryptor(ring(profile), "opus").encrypt(b"\xf8 a frame")


def choose(ring: frameseal.KeyRing) -> Callable[[int], None]:
    def sending_key_id(value: int) -> None:
        ring.sending_key_id = value

    return sending_key_id


def member_of(enum: Any) -> Callable[[Any], Any]:
    def member(value: Any) -> Any:  # without the arguments that make another enum
        return enum(value)

    return member


class Transport:
    """As much of pymediasoup's transport as attaching needs."""

    def __init__(self) -> None:
        self.handler = self
        self.pc = RTCPeerConnection()
        self.observer = Pipe()

    async def produce(self, **options: Any) -> None:
        pass


def meeting() -> sdk.Meeting:
    return sdk.VideoSDK.init_meeting(
        meeting_id="room", token="a token", name="alice", loop=asyncio.get_running_loop(), mic_enabled=False
    )


async def meet_for_a_moment(**arguments: Any) -> None:
    async with meet.meeting(**arguments):
        pass


async def join_for_a_moment(**arguments: Any) -> None:
    async with livekit.join(**arguments):
        pass


def write_for_a_moment(**arguments: Any) -> None:
    with in_a_folder(), archive.ArchiveWriter(**arguments):
        pass


def write_one_frame(**arguments: Any) -> None:
    with in_a_folder(), archive.ArchiveWriter("archive", "room") as writer:
        writer.write(**arguments)


@contextlib.contextmanager
def in_a_folder() -> Iterator[None]:
    """Change into a folder with an empty archive, so that a secret in the place of a location makes no other."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("archive").mkdir()
        yield


def in_an_archive(function: Callable[..., Any], **arguments: Any) -> Call:
    def call(**given: Any) -> list[Any]:
        with in_a_folder():
            return list(function(**given))

    return call, {"location": "archive", "filesystem": None, "spool": None, **arguments}


FRAME = {
    "participant": "alice",
    "track": "mic",
    "kind": "audio",
    "codec": "opus",
    "profile": "livekit",
    "ssrc": 1,
    "rtp_timestamp": 0,
    "clock_rate": 48_000,
    "arrival": datetime.now(UTC),
    "key_id": 0,
    "keyframe": None,
    "gap": False,
}


def livekit_room() -> livekit.Room:
    return livekit.Room("ws://127.0.0.1:1", "a token", manager(), ice_servers=(), subscribe=True, attempts=0)


def livekit_track() -> livekit.RemoteTrack:
    bob = livekit.Participant("bob", "PA_1")
    return livekit.RemoteTrack(bob, "TR_1", "audio", "audio/opus", "", "MICROPHONE", True, False)


STAND_IN = meet.worker.Worker(b"", b"")
NO_JANUS = "ws://127.0.0.1:1"
TRACK = {"participant_id": "alice", "kind": "audio", "codec": "opus", "track_id": "mic"}
BATCH = {"data": b"\xf8 frame", "offsets": memoryview(bytes(8) + (7).to_bytes(8, "little")).cast("q"), "threads": 1}

CALLS: dict[str, Callable[[], Call]] = {
    # the core
    "KeyRing": lambda: (frameseal.KeyRing, {"profile": "livekit"}),
    "KeyRing.set_passphrase": lambda: (ring().set_passphrase, {"passphrase": "a passphrase", "key_id": 0}),
    "KeyRing.set_key": lambda: (ring().set_key, {"key": KEY, "key_id": 0}),
    "KeyRing.set_secret": lambda: (ring().set_secret, {"secret": Secret(KEY)}),
    "KeyRing.set_epoch": lambda: (
        ring("sframe").set_epoch,
        {"epoch": 1, "exported_secret": KEY, "epoch_bits": 4, "sender_bits": 4, "sender_index": 1},
    ),
    "KeyRing.ratchet": lambda: (ring().ratchet, {}),
    "KeyRing.derive_ratchet_step": lambda: (ring(ratchet_window=1).derive_ratchet_step, {"key_id": 0}),
    "KeyRing.remove_key": lambda: (ring().remove_key, {"key_id": 0}),
    "KeyRing.frames_sealed": lambda: (ring().frames_sealed, {}),
    "KeyRing.derive_key": lambda: (ring().derive_key, {"secret": Secret(KEY)}),
    "KeyRing.derive_ratchet": lambda: (ring().derive_ratchet, {}),
    "KeyRing.fingerprints": lambda: (ring().fingerprints, {}),
    "KeyRing.fingerprint": lambda: (ring().fingerprint, {}),
    "KeyRing.export_key": lambda: (ring().export_key, {}),
    "KeyRing.sending_key_id": lambda: (choose(ring()), {"value": 0}),
    "Secret": lambda: (Secret, {"key": KEY}),
    "Secret.with_other_kdf": lambda: (Secret(KEY).with_other_kdf, {}),
    "Encryptor": lambda: (frameseal.Encryptor, {"ring": ring(), "codec": "opus"}),
    "Encryptor.encrypt": lambda: (frameseal.Encryptor(ring("sframe")).encrypt, {"frame": b"frame"}),
    "Encryptor.encrypt_payloads": lambda: (
        frameseal.Encryptor(ring("sframe"), "opus").encrypt_payloads,
        {"payloads": [b"payload"], "sealed": frameseal._native.SealedPayloads(1)},
    ),
    "Encryptor.encrypt_batch": lambda: (frameseal.Encryptor(ring()).encrypt_batch, dict(BATCH)),
    "Encryptor.stats": lambda: (frameseal.Encryptor(ring()).stats, {}),
    "Decryptor": lambda: (frameseal.Decryptor, {"ring": ring(), "codec": "opus"}),
    "Decryptor.decrypt": lambda: (frameseal.Decryptor(ring(), "opus").decrypt, {"sealed": sealed()}),
    "Decryptor.decrypt_batch": lambda: (
        frameseal.Decryptor(ring()).decrypt_batch,
        {**BATCH, "rows": memoryview(bytes(8)).cast("q")},
    ),
    "Decryptor.key_id_of": lambda: (frameseal.Decryptor(ring()).key_id_of, {"frame": sealed()}),
    "Decryptor.holds_blank": lambda: (
        frameseal.Decryptor.holds_blank,
        {"profile": "livekit", "codec": "opus", "frame": b"frame"},
    ),
    "Decryptor.stats": lambda: (frameseal.Decryptor(ring()).stats, {}),
    "DataCryptor": lambda: (frameseal.DataCryptor, {"ring": ring()}),
    "DataCryptor.encrypt": lambda: (cryptor().encrypt, {"payload": b"payload"}),
    "DataCryptor.decrypt": lambda: (cryptor().decrypt, {"iv": bytes(12), "key_index": 0, "ciphertext": bytes(20)}),
    "DataCryptor.encrypt_packet": lambda: (cryptor().encrypt_packet, {"payload": b"payload"}),
    "DataCryptor.decrypt_packet": lambda: (cryptor().decrypt_packet, {"packet": bytes(40)}),
    "DataCryptor.stats": lambda: (cryptor().stats, {}),
    "Profile": lambda: (member_of(frameseal.Profile), {"value": "livekit"}),
    "CipherSuite": lambda: (member_of(frameseal.CipherSuite), {"value": 1}),
    "E2EEState": lambda: (member_of(frameseal.E2EEState), {"value": "MissingKey"}),
    # keys
    **{
        f"{cls.__name__}{method}": how
        for cls, made in ((frameseal.KeyProvider, keys), (frameseal.ExternalE2EEKeyProvider, shared))
        for method, how in {
            "": lambda cls=cls: (cls, {}),
            ".set_shared_key": lambda made=made: (made().set_shared_key, {"key": KEY, "key_id": 1}),
            ".set_key": lambda made=made: (made().set_key, {"participant_id": "bob", "key": KEY, "key_id": 1}),
            ".set_sending_key_id": lambda made=made: (made().set_sending_key_id, {"key_id": 0}),
            ".remove_shared_key": lambda made=made: (made().remove_shared_key, {"key_id": 1}),
            ".remove": lambda made=made: (made().remove, {}),
            ".ratchet": lambda made=made: (made().ratchet, {}),
            ".export_key": lambda made=made: (made().export_key, {}),
            ".ring_for": lambda made=made: (made().ring_for, {"profile": "livekit", "participant_id": "bob"}),
            ".key_ids_of": lambda made=made: (made().key_ids_of, {"participant_id": None}),
            ".sending_key_id": lambda made=made: (made().sending_key_id, {}),
            ".frames_sealed": lambda made=made: (made().frames_sealed, {}),
            ".secrets_of": lambda made=made: (made().secrets_of, {"participant_id": "bob"}),
            ".note_ratcheted": lambda made=made: (made().note_ratcheted, {"participant_id": "bob", "key_id": 0}),
            ".last_set": lambda made=made: (made().last_set, {"participant_id": "bob", "key_id": 0}),
        }.items()
    },
    "KeyRotator": lambda: (frameseal.KeyRotator, {"provider": keys(), "distribute": handed_out}),
    "KeyRotator.rotate": lambda: (rotator().rotate, {}),
    "KeyRotator.adopt": lambda: (rotator().adopt, {"key": KEY, "key_id": 1}),
    "KeyRotator.participant_left": lambda: (rotator().participant_left, {}),
    "keys.protocol.bounded": lambda: (partial(protocol.bounded, "key_id", low=0, high=2), {"value": 1}),
    "keys.fingerprint.combine": lambda: (fingerprint.combine, {"rings": {"bob": ring()}}),
    "keys.fingerprint.short_code": lambda: (fingerprint.short_code, {"rings": ring()}),
    "keys.fetch.SharedKey": lambda: (fetch.SharedKey, {"key": KEY, "key_id": 1}),
    "keys.fetch.fetch_shared_key": lambda: (
        fetch.fetch_shared_key,
        {"url": NOWHERE, "token": "a.b.c", "attempts": 1, "attempt_timeout": 2},
    ),
    "keys.policies.RoomPolicy": lambda: (policies.RoomPolicy, {"on_join": "rotate", "join_limit": 30}),
    "keys.policies.RoomKeys": lambda: (policies.RoomKeys, {"policy": policies.MATRIX_RTC}),
    "keys.policies.RoomKeys.start": lambda: (
        policies.RoomKeys(policies.MATRIX_RTC).start,
        {"participant_ids": ["bob"], "now": 0},
    ),
    "keys.policies.RoomKeys.joined": lambda: (room_keys().joined, {"participant_id": "carol", "now": 1}),
    "keys.policies.RoomKeys.left": lambda: (room_keys().left, {"participant_id": "bob", "now": 1}),
    "keys.policies.RoomKeys.confirmed": lambda: (
        room_keys().confirmed,
        {"participant_id": "bob", "generation": 0, "now": 1},
    ),
    "keys.policies.RoomKeys.advance": lambda: (room_keys().advance, {"now": 1}),
    "keys.policies.RoomKeys.abandon": lambda: (room_keys().abandon, {"generation": 0, "now": 1}),
    "keys.policies.RoomKeys.postpone": lambda: (room_keys().postpone, {"generation": 0, "until": 2, "now": 1}),
    "keys.policies.RoomKeys.rotate": lambda: (room_keys().rotate, {"now": 1}),
    "keys.room.RoomRotator": lambda: (RoomRotator, {"provider": keys(), "distribute": handed_to}),
    "keys.room.RoomRotator.joined": lambda: in_a_room("joined", participant_id="carol"),
    "keys.room.RoomRotator.left": lambda: in_a_room("left", participant_id="bob"),
    "keys.room.RoomRotator.confirmed": lambda: in_a_room("confirmed", participant_id="bob", key_id=1),
    "keys.room.RoomRotator.rotate": lambda: in_a_room("rotate"),
    # a call
    "E2EEManager": lambda: (frameseal.E2EEManager, {"provider": keys(), "profile": "livekit"}),
    "E2EEManager.sender_transform": lambda: (manager().sender_transform, dict(TRACK)),
    "E2EEManager.receiver_transform": lambda: (manager().receiver_transform, dict(TRACK)),
    "E2EEManager.report_internal_error": lambda: (
        manager().report_internal_error,
        {"participant_id": "bob", "kind": "audio", "reason": "no_decoder"},
    ),
    "E2EEManager.state": lambda: (manager().state, {"participant_id": "bob", "kind": "audio"}),
    "E2EEManager.report_not_encrypted": lambda: (
        manager().report_not_encrypted,
        {"participant_id": "bob", "kind": "audio", "track_id": "mic"},
    ),
    "E2EEManager.remove_track": lambda: (manager().remove_track, {"participant_id": "bob", "kind": "audio"}),
    "E2EEManager.remove_participant": lambda: (manager().remove_participant, {"participant_id": "bob"}),
    "E2EEManager.release": lambda: (manager().release, {"transform": manager().sender_transform(**TRACK)}),
    "E2EEManager.resume": lambda: (manager().resume, {"transform": manager().sender_transform(**TRACK)}),
    "E2EEManager.report": lambda: (manager().report, {}),
    "E2EEManager.report_json": lambda: (manager().report_json, {}),
    "E2EEManager.short_code": lambda: (manager().short_code, {}),
    "E2EEManager.bind_loop": lambda: (manager().bind_loop, {"loop": asyncio.get_running_loop()}),
    "E2EEManager.tracks": lambda: (manager().tracks, {}),
    "SenderTransform.encrypt": lambda: (manager().sender_transform(**TRACK).encrypt, {"frame": b"\xf8 frame"}),
    "SenderTransform.encrypt_payloads": lambda: (
        manager().sender_transform(**TRACK).encrypt_payloads,
        {"payloads": [b"\xf8 frame"], "sealed": frameseal._native.SealedPayloads(1)},
    ),
    "SenderTransform.stats": lambda: (manager().sender_transform(**TRACK).stats, {}),
    "ReceiverTransform.decrypt": lambda: (manager().receiver_transform(**TRACK).decrypt, {"frame": sealed()}),
    "ReceiverTransform.open": lambda: (manager().receiver_transform(**TRACK).open, {"frame": b""}),
    "ReceiverTransform.set_sif_trailer": lambda: (
        manager().receiver_transform(**TRACK).set_sif_trailer,
        {"trailer": bytes(8)},
    ),
    "ReceiverTransform.stats": lambda: (manager().receiver_transform(**TRACK).stats, {}),
    "frame_cryptor.CallCryptor": lambda: (frame_cryptor.CallCryptor, {"provider": shared(), "profile": "livekit"}),
    "frame_cryptor.CallCryptor.encrypt": lambda: (call_cryptor().encrypt, {"frame": b"\xf8 frame", **TRACK}),
    "frame_cryptor.CallCryptor.decrypt": lambda: (call_cryptor().decrypt, {"frame": sealed(), **TRACK}),
    "frame_cryptor.CallCryptor.remove_track": lambda: (
        call_cryptor().remove_track,
        {"participant_id": "bob", "kind": "audio"},
    ),
    "frame_cryptor.CallCryptor.remove_participant": lambda: (
        call_cryptor().remove_participant,
        {"participant_id": "bob"},
    ),
    "datachannel.wrap": lambda: (datachannel.wrap, {"channel": Pipe(), "cryptor": cryptor()}),
    "datachannel.is_wrapped": lambda: (datachannel.is_wrapped, {"channel": Pipe()}),
    "datachannel.is_sealed": lambda: (datachannel.is_sealed, {"channel": Pipe(), "data": "text"}),
    "datachannel.SealedDataChannel": lambda: (
        datachannel.SealedDataChannel,
        {"channel": Pipe(), "cryptor": cryptor(), "opener": cryptor(), "local_id": "a", "remote_id": "b"},
    ),
    "datachannel.SealedDataChannel.send": lambda: (channel().send, {"data": "text"}),
    "datachannel.SealedDataChannel.close": lambda: (channel().close, {}),
    "inspection.readings.readings": lambda: (readings.readings, {"sealed": b"", "codec": "opus"}),
    "inspection.readings.key_id": lambda: (readings.key_id, {"sealed": b"", "profile": "livekit", "codec": "opus"}),
    "inspection.readings.plaintext_signs": lambda: (readings.plaintext_signs, {"frame": b""}),
    "inspection.readings.verdict": lambda: (readings.verdict, {"frames": [sealed()], "codec": "opus"}),
    "inspection.readings.openers": lambda: (readings.openers, {"sealed": sealed(), "secret": KEY, "codec": "opus"}),
    # archives
    "archive.ArchiveWriter": lambda: (
        write_for_a_moment,
        {
            "location": "archive",
            "recording": "room",
            "segment_seconds": 1,
            "segment_bytes": 1,
            "filesystem": None,
            "spool": None,
        },
    ),
    "archive.ArchiveWriter.write": lambda: (
        write_one_frame,
        {"frame": archive.SealedFrame(**FRAME, sealed=sealed())},
    ),
    "archive.SealedFrame": lambda: (archive.SealedFrame, {**FRAME, "sealed": sealed()}),
    "archive.Opener": lambda: (archive.Opener, {"keys": keys(), "profile": "livekit"}),
    "archive.read": lambda: in_an_archive(archive.read, participants=["alice"], since=datetime.now(UTC)),
    "archive.recordings": lambda: in_an_archive(archive.recordings),
    "archive.recording_ids": lambda: in_an_archive(archive.recording_ids),
    "archive.repair": lambda: in_an_archive(archive.repair),
    "archive.verify": lambda: in_an_archive(archive.verify),
    # stacks and SDKs
    "aiortc.attach": lambda: (
        aiortc.attach,
        {"pc": RTCPeerConnection(), "e2ee": manager(), "local_id": "alice", "remote_id": "bob"},
    ),
    "aiortc.attach_all": lambda: (attach_all_and_stop, {"e2ee": manager(), "local_id": "alice", "remote_id": "bob"}),
    "aiortc.record": lambda: (recorded_and_closed, {"pc": RTCPeerConnection(), "writer": Writes(), "remote_id": "bob"}),
    "aiortc.tee_all": lambda: (all_recorded_and_closed, {"e2ee": manager(), "writer": Writes()}),
    "aiortc.Recorder": lambda: (recorder_that_closes, {"writer": Writes(), "profile": "livekit", "decodes": True}),
    "aiortc.Recorder.close": lambda: (closing, {"timeout": 1.0}),
    "aiortc.seal_data_channel": lambda: (aiortc.seal_data_channel, {"channel": Pipe(), "e2ee": manager()}),
    "pymediasoup.attach": lambda: (
        pymediasoup.attach,
        {"transport": Transport(), "e2ee": manager(), "local_id": "alice"},
    ),
    "datachannel.mark_sealed": lambda: (datachannel.mark_sealed, {"channel": Pipe()}),
    "livekit.join": lambda: (
        join_for_a_moment,
        {"url": "ws://127.0.0.1:1", "token": "a token", "e2ee": shared(), "attempts": 0},
    ),
    "livekit.Room.publish": lambda: (
        livekit_room().publish,
        {"track": AudioStreamTrack(), "codec": "opus", "name": ""},
    ),
    "livekit.Room.unpublish": lambda: (
        livekit_room().unpublish,
        {"publication": livekit.Publication(AudioStreamTrack(), "opus", "")},
    ),
    "livekit.Room.mute": lambda: (
        livekit_room().mute,
        {"publication": livekit.Publication(AudioStreamTrack(), "opus", "")},
    ),
    "livekit.Room.subscribe": lambda: (livekit_room().subscribe, {"track": livekit_track()}),
    "livekit.Room.send": lambda: (livekit_room().send, {"payload": b"payload", "topic": "", "to": ["bob"]}),
    "videosdk.set_key_provider": lambda: (videosdk.set_key_provider, {"provider": None}),
    "videosdk.enable_e2ee": lambda: (videosdk.enable_e2ee, {"meeting": meeting(), "provider": shared()}),
    "videosdk.Participant.on": lambda: (meeting().local_participant.on, {"event": "e2ee-state-change"}),
    # The SDK is in an environment of its own, so the calls end with the check of the SDK.
    "getstream.attach": lambda: (getstream.attach, {"connection": object(), "e2ee": manager(), "local_id": "alice"}),
    "getstream.attach_all": lambda: (getstream.attach_all, {"e2ee": manager()}),
    # programs
    "tools.demo.CallOptions": lambda: (demo.CallOptions, {}),
    "tools.demo.default_file": lambda: (demo.default_file, {}),
    "tools.demo.run": lambda: (demo.run, {"options": demo.CallOptions(), "output": Path("no/such/folder/demo.png")}),
    "tools.meet.MeetOptions": lambda: (meet.MeetOptions, {}),
    "tools.meet.meeting": lambda: (
        meet_for_a_moment,
        {"options": meet.MeetOptions(port=0, janus=NO_JANUS), "worker": STAND_IN},
    ),
    "tools.meet.run": lambda: (meet.run, {"options": meet.MeetOptions(port=0), "package": Path("no/such/file")}),
    "tools.meet.worker.load_worker": lambda: (meet.worker.load_worker, {"package": Path("no/such/file")}),
    "tools.meet.rotation_message.MeetingKey": lambda: (meet_rotation.MeetingKey, {"passphrase": "present"}),
    "tools.meet.rotation_message.next_key": lambda: (
        meet_rotation.next_key,
        {"present": meet_rotation.MeetingKey("present")},
    ),
    "tools.meet.rotation_message.seal_rotation": lambda: (
        meet_rotation.seal_rotation,
        {"present": meet_rotation.MeetingKey("present"), "coming": meet_rotation.MeetingKey("coming", 1)},
    ),
    "tools.meet.rotation_message.RotationOpener": lambda: (
        meet_rotation.RotationOpener,
        {"present": meet_rotation.MeetingKey("present")},
    ),
    "tools.meet.rotation_message.RotationOpener.open": lambda: (
        meet_rotation.RotationOpener(meet_rotation.MeetingKey("present")).open,
        {"sealed": sealed()},
    ),
    "tools.meet.rotation_message.open_rotation": lambda: (
        meet_rotation.open_rotation,
        {"present": meet_rotation.MeetingKey("present"), "sealed": sealed()},
    ),
}

# What gives back what it was given, because that is what it is for.
GIVES_IT_BACK = {
    "archive.SealedFrame",
    "keys.protocol.bounded",
    "keys.policies.RoomKeys.joined",  # actions with the ids of participants
    "keys.policies.RoomKeys.start",
    "inspection.readings.readings",
    "inspection.readings.verdict",
    "ReceiverTransform.open",
    "videosdk.Participant.on",
    "KeyProvider.export_key",
    "ExternalE2EEKeyProvider.export_key",
}

MADE_BY_US = "made by the package itself, from what was checked before"
RECORD = "a record of what happened, in the words of whoever named participants and tracks"
PROTOCOL = "a protocol, for others to implement"
GIVEN = "returns what it was given, or a part of it"
NOT_CALLED = {
    "E2EEDiagnosis": RECORD,
    "archive.Recording": RECORD,
    "archive.ArchiveWriter.flush": "takes nothing",
    "archive.ArchiveWriter.close": "takes nothing",
    "E2EEStateChange": RECORD,
    "E2EEStalled": RECORD,
    "E2EEInjectedFrame": RECORD,
    "E2EEKeyChange": RECORD,
    "KeyUndelivered": RECORD,
    "E2EEKeyUsage": RECORD,
    "E2EEMissingKey": RECORD,
    "aiortc.TrackCounters": RECORD,
    "archive.SealedFrame": RECORD,
    "aiortc.RecorderCounters": RECORD,
    "aiortc.RecordingLoss": RECORD,
    "inspection.readings.Opener": RECORD,
    "inspection.readings.Part": RECORD,
    "inspection.readings.Reading": RECORD,
    "inspection.readings.Verdict": RECORD,
    "livekit.DataMessage": RECORD,
    "livekit.DataRefused": RECORD,
    "livekit.Participant": RECORD,
    "livekit.Publication": RECORD,
    "livekit.RemoteTrack": RECORD,
    "videosdk.StateData": RECORD,
    "KeyRingProvider": PROTOCOL,
    "KeyRingProvider.ring_for": PROTOCOL,
    "frame_cryptor.FrameCryptor": PROTOCOL,
    "frame_cryptor.FrameCryptor.decrypt": PROTOCOL,
    "frame_cryptor.FrameCryptor.encrypt": PROTOCOL,
    "datachannel.DataChannel": PROTOCOL,
    "datachannel.DataChannel.close": PROTOCOL,
    "datachannel.DataChannel.on": PROTOCOL,
    "datachannel.DataChannel.send": PROTOCOL,
    "SenderTransform": MADE_BY_US,
    "ReceiverTransform": MADE_BY_US,
    "aiortc.Attachment": MADE_BY_US,
    "aiortc.Attachment.adopt": MADE_BY_US,
    "aiortc.require_attached": "takes nothing, and would hold for later tests",
    "aiortc.stop_attaching": "takes nothing",
    "aiortc.Attachment.detach": MADE_BY_US,
    "getstream.Attachment": MADE_BY_US,
    "getstream.Attachment.cover": MADE_BY_US,
    "getstream.Attachment.detach": MADE_BY_US,
    "getstream.stop_attaching": "takes nothing",
    "getstream.user_id": GIVEN,
    "ReceiverTransform.drop_held": MADE_BY_US,
    "ReceiverTransform.open_held": MADE_BY_US,
    "aiortc.Attachment.predates_attachment": MADE_BY_US,
    "aiortc.Attachment.has_sealed": MADE_BY_US,
    "aiortc.Attachment.note_key": MADE_BY_US,
    "aiortc.Attachment.release": MADE_BY_US,
    "aiortc.Recorder.note": MADE_BY_US,
    "aiortc.Recorder.note_held": MADE_BY_US,
    "aiortc.Recorder.offer": MADE_BY_US,
    "aiortc.Recorder.report": MADE_BY_US,
    "aiortc.Recorder.time_of": MADE_BY_US,
    "keys.policies.MakeKey": RECORD,
    "keys.policies.RatchetKey": RECORD,
    "keys.policies.SendKey": RECORD,
    "keys.policies.UseKey": RECORD,
    "keys.protocol.ParticipantKeys.choose": MADE_BY_US,
    "keys.protocol.ParticipantKeys.forget": MADE_BY_US,
    "keys.protocol.ParticipantKeys.secrets_and_steps": MADE_BY_US,
    "keys.protocol.ParticipantKeys.install": MADE_BY_US,
    "keys.protocol.ParticipantKeys.is_in_use": MADE_BY_US,
    "keys.protocol.ParticipantKeys.is_outdated": MADE_BY_US,
    "keys.fingerprint.of_provider": "called by the manager, with what it was made with",
    "keys.protocol.ParticipantKeys": MADE_BY_US,
    "keys.protocol.ParticipantKeys.pin_rings": MADE_BY_US,
    "tools.meet.Meeting": MADE_BY_US,
    "livekit.Room": MADE_BY_US,
    "livekit.Room.leave": "without arguments",
    "livekit.Room.wait_left": "without arguments",
    "videosdk.MeetingE2EE": MADE_BY_US,
    "Decryptor.without_sif_frames": GIVEN,
    "tools.cli.main": "called with a secret in every place of the command line, below",
}
# What applications import or run of the packages whose modules are not theirs to import.
WALKED = {"tools.cli", "tools.demo", "tools.meet", "tools.meet.rotation_message"}
# Modules whose public names are the package's too, or that no application imports.
NOT_WALKED = {"emitter", "enums", "exceptions", "inspection.shapes", "keys.provider", "keys.rotation"}
NOT_WALKED |= {"codecs", "codecs.files", "codecs.plain", "codecs.rtp", "profiles"}


def public_things() -> Iterator[tuple[str, Any]]:
    modules = [frameseal]
    for found in pkgutil.walk_packages(frameseal.__path__, "frameseal."):
        name = found.name.removeprefix("frameseal.")
        inner = name.startswith(("aiortc.", "archive.", "e2ee.", "livekit.", "tools.")) and name not in WALKED
        if not name.startswith("_") and not inner and name not in NOT_WALKED:
            modules.append(importlib.import_module(found.name))
    for module in modules:
        names = getattr(module, "__all__", None)
        for name in names or [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]:
            if not name.startswith("_"):
                yield f"{module.__name__}.{name}".removeprefix("frameseal."), getattr(module, name)


def callables() -> set[str]:
    names, seen = {"Secret", "Secret.with_other_kdf"}, set()
    for name, thing in public_things():
        is_class = isinstance(thing, type)
        if not callable(thing) or id(thing) in seen or (is_class and issubclass(thing, BaseException)):
            continue  # an exception says what it is told to say
        seen.add(id(thing))
        names.add(name)
        for attribute, value in inspect.getmembers_static(thing) if is_class else ():
            owner = next((base for base in thing.__mro__ if attribute in vars(base)), LoopEmitter)
            ours = owner.__module__.startswith("frameseal") and owner is not LoopEmitter
            if ours and not attribute.startswith("_") and callable(value) and not isinstance(value, type):
                names.add(f"{name}.{attribute}")
    return names


def test_everything_public_is_called_or_has_a_reason_not_to_be():
    beside = {
        "KeyRing.sending_key_id",
        "videosdk.Participant.on",
        "tools.meet.worker.load_worker",
    }  # no public callables
    assert sorted(callables() ^ ((set(CALLS) - beside) | set(NOT_CALLED))) == []


def arguments_of(function: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    if isinstance(function, partial):
        return list(given)
    fixed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind in fixed]
    return list(dict.fromkeys([*found, *given]))


class Listening:
    """What a call says besides what it returns or raises."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self._caplog, self._capsys = caplog, capsys
        caplog.set_level(logging.DEBUG)

    def heard(self) -> Iterator[str]:
        for record in self._caplog.records:
            yield f"{record.getMessage()} {record.args!r} {record.__dict__}"
            if record.exc_info:
                yield from said_by(record.exc_info[1])
        self._caplog.clear()
        yield from self._capsys.readouterr()


async def outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, BaseException | None]:
    try:
        result = function(**arguments)
        if inspect.isawaitable(result):
            result = await asyncio.wait_for(result, 30)
        return result, None
    except Exception as error:
        return None, error


async def closed(arguments: dict[str, Any]) -> None:
    for value in arguments.values():
        pc = getattr(value, "pc", value)
        if isinstance(pc, RTCPeerConnection):
            await pc.close()


@pytest.mark.parametrize("name", CALLS)
async def test_a_secret_in_the_place_of_any_argument_is_shown_nowhere(name, caplog, capsys):
    listening = Listening(caplog, capsys)
    _, given = CALLS[name]()
    places = arguments_of(CALLS[name]()[0], given)
    await closed(given)
    leaks = []
    for kind, secret in SECRETS.items():
        for place in [[each] for each in places] + [places] * (len(places) > 1):
            function, given = CALLS[name]()
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                result, error = await outcome(function, given | {each: secret() for each in place})
            said = [*said_by(error), *listening.heard(), *(str(warning.message) for warning in warned)]
            said += got_from(getattr(function, "__self__", None), inside=False)
            if name not in GIVES_IT_BACK:
                said += got_from(result, inside=False)
            if any(shows(text) for text in said):
                found = next(text for text in said if shows(text))
                leaks.append(f"{name}: {kind} as {', '.join(place)}: {found[-200:]}")
            await closed(given)
    assert leaks == []


# --- the command line ------------------------------------------------------------------------------------------------


def command_lines() -> Iterator[list[str]]:
    """A secret as every argument of every command, in front of and behind what is right."""
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
    yield from ([MARKER], [f"--{MARKER}"], [f"-{MARKER}"], [f"--version={MARKER}"], ["--no-such", MARKER])
    for name, command in commands.choices.items():
        right = [name, *(["00"] if name == "inspect" else [])]
        yield from ([*right, MARKER], [*right, f"--{MARKER}"], [*right, f"-{MARKER}"], [*right, "--", MARKER])
        yield from ([*right, "--no-such", MARKER], [*right, f"--no-such={MARKER}"])
        for action in command._actions:
            for option in action.option_strings:
                yield from ([*right, option, MARKER], [*right, f"{option}={MARKER}"], [*right, option, MARKER, MARKER])
                yield from ([*right, option[:-1], MARKER], [*right, f"{option[:-1]}={MARKER}"])  # cut short
    yield ["inspect", MARKER]
    for action in ("ls", "verify", "repair"):
        yield from (["archive", action, MARKER], ["archive", action, f"s3://u:{MARKER}@{MARKER}/?x={MARKER}"])
    yield ["inspect", MARKER, "--codec", "opus"]
    yield ["inspect", "00", "--passphrase", MARKER, "--key-hex", MARKER]
    yield ["inspect", "00", "--passphrase", MARKER, MARKER]
    yield ["meet", "--sfu", f"janus=ws://u:{MARKER}@127.0.0.1:1", "--port", "0"]
    yield ["demo", "--output", f"{MARKER}/{MARKER}.png"]
    yield ["demo", "--media", f"{MARKER}.mp4"]
    record = ["record", "--janus", "ws://127.0.0.1:1", "--room", "1", "-o", "recorded"]
    yield from ([*record, f"--{name}-file", MARKER] for name in ("pin", "token", "api-secret"))
    yield from ([*record, option, MARKER] for option in ("--room", "--output", "--recording", "--pin", "--token"))
    yield [*record, "--janus", f"ws://u:{MARKER}@127.0.0.1:1/{MARKER}"]
    yield [
        "record",
        "--livekit",
        f"ws://u:{MARKER}@127.0.0.1:1/{MARKER}",
        "-o",
        "recorded",
        "--token-file",
        "passphrase",
    ]
    opening = ["open", "archive", "-o", "opened"]
    yield ["open", MARKER, "-o", "opened", "--passphrase-file", MARKER]
    yield from ([*opening, option, MARKER] for option in ("--passphrase-file", "--key-file", "--passphrase", "--key"))
    Path("passphrase").write_text("a passphrase")
    for option in ("--grid", "--transcript", "--recognizer", "--recording", "--output"):
        yield [*opening, "--passphrase-file", "passphrase", option, MARKER]
        yield [*opening, "--passphrase-file", "passphrase", "--transcript", "said", option, MARKER]


def shown_arguments(arguments: Any) -> int:
    """Take the place of a command that would hold a call."""
    print({name: value for name, value in vars(arguments).items() if name in ("passphrase", "key_hex")})
    return 0


@pytest.mark.parametrize("end", ["", "\udce9", "\ud83d"], ids=["text", "Latin-1", "half a surrogate pair"])
def test_the_command_line_says_nothing_of_what_was_typed(end, monkeypatch, caplog, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for command in ("_demo", "_meet", "_bench"):
        monkeypatch.setattr(cli, command, shown_arguments)
    listening, statuses, leaks = Listening(caplog, capsys), set(), []
    for line in command_lines():
        error = None
        try:
            statuses.add(cli.main([part.replace(MARKER, MARKER + end) for part in line]))
        except SystemExit as exit_:
            statuses.add(exit_.code)
        except Exception as raised:
            error = raised
        leaks += [f"{line}: {text[-200:]}" for text in [*said_by(error), *listening.heard()] if shows(text)]
        leaks += [f"{line} raised {error!r}"] * (error is not None)
    assert leaks == []
    assert {0, 2} <= statuses <= {0, 1, 2}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["meet", "--worker", f"{MARKER}.tgz"], "the package cannot be read: No such file"),
        (["meet", "--worker", "."], "the package cannot be read: Is a directory"),
        (["demo", "--output", f"{MARKER}/demo.png"], "folder of the picture does not exist"),
        (["demo", "--media", f"{MARKER}.mp4"], "the media cannot be read: No such file"),
        (["inspect", f"{MARKER}"], "must be a file, or hex digits"),
    ],
)
def test_what_a_command_cannot_use_is_said_without_its_name(line, hint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(line) == 2
    said = capsys.readouterr()
    assert hint in said.err and not shows(said.err + said.out)


async def test_a_janus_that_is_not_there_is_reported_without_its_url():
    options = meet.MeetOptions(port=0, janus=f"ws://u:{MARKER}@127.0.0.1:1/{MARKER}")
    with pytest.raises(meet.CannotServe, match="there is no Janus") as caught:
        await meet_for_a_moment(options=options, worker=STAND_IN)
    assert not any(shows(text) for text in said_by(caught.value))


# --- what holds a secret ---------------------------------------------------------------------------------------------


def holders() -> Iterator[Any]:
    provider = frameseal.KeyProvider(allow_export=True)
    provider.set_shared_key(MARKER)
    provider.set_key("bob", RAW)
    call = frameseal.E2EEManager(provider, "livekit", on_missing_key=print)
    secret_ring = provider.ring_for(frameseal.Profile.LIVEKIT, "bob")
    sealer = frameseal.DataCryptor(secret_ring, True)
    pc = RTCPeerConnection()
    room = sdk.VideoSDK.init_meeting(meeting_id="room", token="a", name="a", loop=asyncio.get_running_loop())
    yield from (provider, call, secret_ring, sealer, Secret(RAW), Secret(MARKER))
    yield from (frameseal.Encryptor(secret_ring), frameseal.Decryptor(secret_ring))
    yield from (call.sender_transform(**TRACK), call.receiver_transform(**TRACK))
    yield frameseal.KeyRotator(provider, handed_out)
    yield RoomRotator(provider, handed_to)
    yield frame_cryptor.CallCryptor(provider, "livekit")
    yield datachannel.wrap(Pipe(), sealer)
    yield aiortc.attach(pc, call, local_id="alice", remote_id="bob")
    yield videosdk.enable_e2ee(room, provider)
    yield fetch.SharedKey(RAW, 1)
    yield livekit.Room("ws://127.0.0.1:1", MARKER, call, ice_servers=(), subscribe=True, attempts=0)
    yield meet_rotation.MeetingKey(MARKER)
    yield from (meet.MeetOptions(passphrase=MARKER), demo.CallOptions(passphrase=MARKER, bob_passphrase=MARKER))
    bot = Bot(Room(), meet_rotation.MeetingKey(MARKER), "vp8", print)
    yield from (bot, meet.Meeting(bot._room, bot, "http://127.0.0.1", None))
    yield from (protocol.ParticipantKeys(secrets={0: Secret(RAW)}), Hidden(MARKER), Hidden(RAW))


async def test_what_holds_a_secret_is_not_printed_pickled_copied_or_taken_apart():
    for holder in holders():
        kind = type(holder).__name__
        for version in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(holder, version)
        with pytest.raises(TypeError, match="pickle"):
            copy.deepcopy(holder)
        if kind != "ParticipantKeys":  # the provider's own, and nobody else has it
            with pytest.raises(TypeError, match="pickle"):
                copy.copy(holder)
        if dataclasses.is_dataclass(holder) and kind != "ParticipantKeys":
            for take_apart in (dataclasses.asdict, dataclasses.astuple):
                with pytest.raises(TypeError, match="pickle"):
                    take_apart(holder)
        with pytest.raises(TypeError):
            json.dumps(holder)
        assert [text[-200:] for text in got_from(holder) if shows(text)] == [], kind


def test_a_secret_that_is_hidden_is_still_of_use():
    assert Hidden(MARKER).reveal() == MARKER and Hidden(RAW) == Hidden(bytes(RAW)) != Hidden(KEY)
    assert {Hidden(RAW): 1}[Hidden(bytes(RAW))] == 1 and Hidden(RAW) != RAW
    assert dataclasses.replace(meet.MeetOptions(passphrase=MARKER), port=1).passphrase == Hidden(MARKER)
    for options in (meet.MeetOptions(passphrase=Hidden(MARKER)), demo.CallOptions(passphrase=MARKER)):
        assert options.passphrase == Hidden(MARKER)


# --- text that has no UTF-8 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [MARKER + "\udce9", "\ud83d" + MARKER, "\udc00\ud800" + MARKER], ids=ascii)
def test_text_with_a_lone_surrogate_is_a_value_error_that_names_the_argument(text):
    made = channel()
    for name, refused in {
        "passphrase": lambda: frameseal.KeyRing("livekit").set_passphrase(text),
        "passphrase ": lambda: Secret(text),
        "passphrase  ": lambda: shared().set_shared_key(text),
        "passphrase   ": lambda: keys().set_key("bob", text),
        "the passphrase    ": lambda: meet_rotation.MeetingKey(text),
        "profile": lambda: frameseal.KeyRing(text),
        "codec": lambda: frameseal.Encryptor(ring(), text),
        "codec ": lambda: frameseal.Decryptor(ring(), text),
        "codec  ": lambda: manager().sender_transform("alice", "audio", text),
        "codec   ": lambda: call_cryptor().encrypt(b"frame", participant_id="alice", kind="audio", codec=text),
        "local_id": lambda: datachannel.wrap(Pipe(), cryptor(), local_id=text),
        "remote_id": lambda: aiortc.seal_data_channel(Pipe(), manager(), local_id="alice", remote_id=text),
        "label": lambda: datachannel.wrap(Pipe(text), cryptor()),
        "data": lambda: made.send(text),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name.strip()} has a lone surrogate") as caught:
            refused()
        assert type(caught.value) is ValueError
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert made.channel.sent == []


def test_a_message_that_is_no_text_is_refused_without_being_shown(caplog):
    here, there = Pipe(), Pipe()
    there.other = here
    refused: list[BaseException] = []
    datachannel.wrap(here, cryptor()).on("message-refused", refused.append)
    context = datachannel._context("remote_id", "chat", "")
    there.send(cryptor().encrypt_packet(b"\x01" + RAW + b"\xff", context))
    (error,) = refused
    assert not any(shows(text) for text in [*said_by(error), caplog.text])


async def test_a_participant_or_track_that_a_secret_names_is_in_no_log_line(caplog):
    """Whoever passes the arguments of ``set_key`` in the wrong order names a participant with the key."""
    caplog.set_level(logging.DEBUG)
    provider = frameseal.KeyProvider(failure_tolerance=0)
    provider.set_key(MARKER, KEY)
    call = frameseal.E2EEManager(provider, "livekit")
    diagnosed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call.on("e2ee-diagnosis", lambda event: diagnosed.done() or diagnosed.set_result(event))
    call.on("e2ee-state-change", lambda change: 1 / 0)
    named = {**TRACK, "participant_id": MARKER, "track_id": MARKER}
    sender, receiver = call.sender_transform(**named), call.receiver_transform(**named)
    assert sender.encrypt(b"\xf8 frame")
    theirs = frameseal.Encryptor(ring(), "opus")
    provider.set_key(MARKER, bytes(32))
    for _ in range(20):
        assert receiver.decrypt(theirs.encrypt(b"\xf8 frame")) is None
    await asyncio.wait_for(diagnosed, 30)
    for transform in (sender, receiver):
        transform._cipher = Failing(RuntimeError("a defect"))
    sender.encrypt(b"\xf8 frame")
    receiver.decrypt(b"\xf8 frame")
    slot = ReceiverSlot(Pipe(), None)
    slot.counters.participant_id = MARKER
    slot.note_error(RuntimeError("a defect"))
    channel = datachannel.wrap(Pipe(MARKER), cryptor(), local_id=MARKER, remote_id=MARKER)
    channel._received("in the clear")
    await asyncio.sleep(0)
    lines = caplog.text
    for expected in ("does not open", "unexpected error", "ZeroDivisionError", "a defect", "refused a message"):
        assert expected in lines
    assert not shows(lines)
    for thing in (provider, call, sender, receiver, channel):
        assert not any(shows(text) for text in got_from(thing, inside=False))


async def test_a_rotation_of_the_meeting_with_such_text_changes_nothing():
    """JSON can carry half a surrogate pair: whoever has the present key can send it."""
    present = meet_rotation.MeetingKey("present")
    text = json.dumps({"keyId": 1, "passphrase": f"{MARKER}\ud83d"})
    bad = frameseal.Encryptor(meet_rotation._ring(present)).encrypt(text.encode())
    told: list[Any] = []
    room, answers = Room(), []
    room.broadcast = answers.append
    bot = Bot(room, present, "vp8", told.append)
    before = bot.provider.ring_for("livekit", "bot").fingerprint()
    bot.notify({"type": "rotate", "from": "guest", "sealed": base64.b64encode(bad).decode()})
    await until(lambda: any(answer["type"] == "rotated" for answer in answers))
    assert [answer["keyId"] for answer in answers if answer["type"] == "rotated"] == [None]
    assert (bot.key, told, bot.provider.sending_key_id()) == (present, [], 0)
    assert bot.provider.ring_for("livekit", "bot").fingerprint() == before


@pytest.mark.parametrize(
    "content",
    [
        f'{{"keyId": 1, "passphrase": "{MARKER}"',
        f'{{"keyId": 1, "passphrase": "{MARKER}\\ud83d"}}',
        f'{{"keyId": 2, "passphrase": "{MARKER}"}}',
        f'{{"keyId": Infinity, "passphrase": "{MARKER}"}}',
        f'{{"keyId": "{MARKER}", "passphrase": "{MARKER}"}}',
        f'{{"keyId": 1, "passphrase": ["{MARKER}"]}}',
        f'["{MARKER}"]',
        f'"{MARKER}',
        "[" * 50_000,
    ],
    ids=lambda content: content[:20],
)
def test_what_a_rotation_brought_is_not_shown_where_it_is_refused(content):
    present = meet_rotation.MeetingKey("present")
    bad = frameseal.Encryptor(meet_rotation._ring(present)).encrypt(content.encode())
    with pytest.raises(meet_rotation.RotationRefused) as caught:
        meet_rotation.open_rotation(present, bad)
    assert not any(shows(text) for text in said_by(caught.value))
    assert not any(shows(text) for text in captured_by(caught.value, "tools/meet/rotation_message.py"))
