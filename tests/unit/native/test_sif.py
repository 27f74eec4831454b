"""Frames that a LiveKit server puts in, in the clear: which pass, how many, and that none counts as opened.

The first of them has the RTP timestamp of the last sealed frame, so a jitter buffer joins the two.
"""

import contextlib
import json
import threading
from itertools import product
from typing import Any

import numpy as np
import pytest

import frameseal
from frameseal import Decryptor, E2EEInjectedFrame, E2EEManager, E2EEState, Encryptor
from frameseal.aiortc import attach
from frameseal.e2ee.diagnosis import ADVICE, diagnose
from frameseal.frame_cryptor import CallCryptor
from support.calls import (
    Peer,
    assert_tone,
    connect,
    hang_up,
    part,
    picture_track,
    record,
    tone_track,
    until,
)
from support.calls import manager as in_a_call
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, delivered, provider
from support.paths import VECTORS

CASES = json.loads((VECTORS / "livekit.json").read_text())["decode_cases"]
WITH_TRAILER = [case for case in CASES if case.get("options", {}).get("sif_trailer_hex")]
TRAILER = b"LK-ROCKS"
SILENCE = b"\xf8\xff\xfe" + bytes(77)

# livekit-client drops these since it does not know them; native SDKs and we know them.
KNOWN_TO_NATIVE = "SIF: h264 Annex-B SPS+PPS+IDR"


def decryptor(codec: str | None = "opus", key: bytes | None = bytes(32), **options: Any) -> frameseal.Decryptor:
    ring = frameseal.KeyRing("livekit")
    if key:
        ring.set_key(key)
    return frameseal.Decryptor(ring, codec, **options)


def test_the_vectors_are_there() -> None:
    assert len(WITH_TRAILER) == 8


@pytest.mark.parametrize("case", WITH_TRAILER, ids=lambda case: case["name"])
def test_what_the_worker_lets_pass_passes(case: dict[str, Any]) -> None:
    key = bytes(32) if case["receiver_key_indices"] else None
    receiver = decryptor(case["codec"], key, sif_trailer=bytes.fromhex(case["options"]["sif_trailer_hex"]))
    frame = bytes.fromhex(case["wire_hex"])
    if case["forwarded"]:
        assert receiver.decrypt(frame).hex() == case["forwarded_hex"]
    elif case["name"].startswith(KNOWN_TO_NATIVE):
        assert receiver.decrypt(frame) == frame[: -len(TRAILER)]
    else:
        with pytest.raises(frameseal.MalformedFrame):
            receiver.decrypt(frame)
    stats = receiver.stats()
    assert stats["sif_frames"] + stats["sif_frames_refused"] == 1
    assert stats["frames"] == stats["malformed"] == stats["unknown_key"] == receiver.consecutive_failures == 0


def test_an_injected_frame_can_be_told_from_an_opened_one() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    ring = frameseal.KeyRing("livekit")
    ring.set_key(bytes(32))
    sealed = frameseal.Encryptor(ring, "opus").encrypt(b"\x78frame")
    assert (receiver.decrypt(sealed), receiver.sif_frames) == (b"\x78frame", 0)
    assert (receiver.decrypt(SILENCE + TRAILER), receiver.sif_frames) == (SILENCE, 1)
    assert (receiver.decrypt(sealed), receiver.sif_frames) == (b"\x78frame", 1)
    assert receiver.stats()["frames"] == 2


def test_a_hundred_in_a_row_pass_and_no_more() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    for _ in range(100):
        receiver.decrypt(SILENCE + TRAILER)
    with pytest.raises(frameseal.MalformedFrame):
        receiver.decrypt(SILENCE + TRAILER)
    assert receiver.stats()["sif_frames"] == 100


def test_media_with_the_trailer_does_not_pass() -> None:
    receiver = decryptor(sif_trailer=TRAILER)
    with pytest.raises(frameseal.MalformedFrame):
        receiver.decrypt(b"\x78 a voice that is not in the room" + TRAILER)


def test_a_payload_of_another_codec_does_not_pass() -> None:
    for codec in ("vp8", "vp9", "h264", "h265", "pcmu", "g722", None):
        with pytest.raises(frameseal.MalformedFrame):
            decryptor(codec, sif_trailer=TRAILER).decrypt(SILENCE + TRAILER)


def test_it_is_off_unless_a_trailer_is_given() -> None:
    with pytest.raises(frameseal.FrameError):
        decryptor().decrypt(SILENCE + TRAILER)
    with pytest.raises(frameseal.FrameError):
        decryptor(sif_trailer=b"another trailer").decrypt(SILENCE + TRAILER)


@pytest.mark.parametrize("trailer", [b"", b"LK-ROCK"])
def test_a_trailer_that_chance_could_bring_about_is_refused(trailer: bytes) -> None:
    with pytest.raises(ValueError, match="at least 8 bytes"):
        decryptor(sif_trailer=trailer)


# --- joined to sealed frames -----------------------------------------------------------------------------------------

VP8_BLANK = bytes.fromhex("1002009d012a08000800004708858588858488020200 0c0d6000feffab5080")
H264_BLANK = b"".join(
    b"\0\0\0\1" + bytes.fromhex(unit)
    for unit in ("6742c01f0fd91f888884000003000400000300c83c60c920", "6887cb83cb20", "6588840af2628000a7be")
)
BLANKS = {"opus": SILENCE, "pcmu": b"\xff" * 160, "pcma": b"\xd5" * 160, "vp8": VP8_BLANK, "h264": H264_BLANK}
FRAMES = {
    "opus": b"\x78a voice",
    "pcmu": b"\x10a voice",
    "pcma": b"\x10a voice",
    "vp8": b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00a picture",
    "h264": b"\0\0\0\1\x67\x42\xc0\x1f\0\0\0\1\x68\xce\0\0\0\1\x65\x88\x84 a picture",
}
ROOM = b"w4JSjAZ1tHa8xIeqbYmkQ0vGoP3LdNfR6yUuCX5TBsE"  # of 43 letters and digits, as servers draw them


def keyed(profile: str = "livekit", key: bytes = bytes(32)) -> frameseal.KeyRing:
    ring = frameseal.KeyRing(profile, shared=profile == "sframe")
    ring.set_secret(frameseal._native.Secret(key))
    return ring


def joined(*pieces: bytes) -> bytes:
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("codec", "profile"),
    [
        (codec, profile)
        for codec in BLANKS
        for profile in ("livekit", "nextcloud", "stream", "sframe")
        if codec not in frameseal._native.profile_info(profile)["refused_codecs"]
    ],
)
def test_a_sealed_frame_opens_without_what_a_jitter_buffer_joined_to_it(codec: str, profile: str) -> None:
    encryptor = Encryptor(keyed(profile), codec)
    receiver = Decryptor(keyed(profile), codec, 64, sif_trailer=ROOM)
    frame, blank = FRAMES[codec], BLANKS[codec] + ROOM
    for number, (before, after) in enumerate(product(range(3), range(3)), 1):
        sealed = encryptor.encrypt(frame)
        received = joined(blank * before, sealed, blank * after)
        assert receiver.without_sif_frames(received) == sealed
        assert receiver.decrypt(received) == frame
        with pytest.raises(frameseal.ReplayedFrame):
            receiver.decrypt(received)
        assert (receiver.sif_frames, receiver.stats()["frames"]) == (0, number)
    stats = receiver.stats()
    assert stats["sif_frames_cut"] == 2 * 8, "cut each time that there was something to cut"
    assert stats["sif_frames_refused"] == stats["malformed"] == 0


@pytest.mark.parametrize("codec", BLANKS)
def test_several_blank_frames_that_were_joined_pass_as_one(codec: str) -> None:
    receiver = decryptor(codec, sif_trailer=ROOM)
    assert receiver.decrypt(joined(BLANKS[codec], ROOM, BLANKS[codec], ROOM)) == BLANKS[codec]
    assert (receiver.sif_frames, receiver.stats()["sif_frames_cut"]) == (1, 1)


@pytest.mark.parametrize("codec", BLANKS)
def test_what_is_left_has_to_open_like_any_other_frame(codec: str) -> None:
    sealed = Encryptor(keyed(), codec).encrypt(FRAMES[codec])
    blank = BLANKS[codec] + ROOM
    wrong, keyless = decryptor(codec, OTHER_KEY, sif_trailer=ROOM), decryptor(codec, None, sif_trailer=ROOM)
    with pytest.raises(frameseal.AuthenticationFailed):
        wrong.decrypt(sealed + blank)
    with pytest.raises(frameseal.UnknownKey) as missing:
        keyless.decrypt(sealed + blank)
    assert missing.value.kid == 0, "the key id of the sealed frame, not a byte of the trailer"
    receiver = decryptor(codec, sif_trailer=ROOM)
    for received in (
        FRAMES[codec] + blank,  # never sealed
        sealed + BLANKS[codec],  # no trailer
        sealed + ROOM,  # nothing blank
        sealed + BLANKS[codec][:-1] + ROOM,
        sealed + BLANKS[codec] + b"x" + ROOM,
        sealed + BLANKS[codec] + ROOM + b"x",
        sealed[:-1] + blank,
    ):
        with pytest.raises(frameseal.FrameError):
            receiver.decrypt(received)
    assert receiver.sif_frames == 0
    assert receiver.decrypt(sealed + blank) == FRAMES[codec], "a failure changes nothing"


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_cuts_off_what_was_joined_too(threads: int) -> None:
    encryptor, receiver = Encryptor(keyed(), "opus"), decryptor(sif_trailer=ROOM)
    frames = [b"\x78" + bytes([number % 256]) * 40 for number in range(300)]
    sealed = [encryptor.encrypt(frame) + (SILENCE + ROOM) * (number % 3) for number, frame in enumerate(frames)]
    offsets = np.cumsum([0, *map(len, sealed)])
    opened, at, ok = receiver.decrypt_batch(np.frombuffer(b"".join(sealed), np.uint8), offsets, threads)
    assert ok.all()
    assert [bytes(opened[at[n] : at[n + 1]]) for n in range(300)] == frames


def test_a_sealed_frame_that_happens_to_end_or_begin_like_a_blank_one_is_left_alone() -> None:
    """Only with the trailer is anything cut off, and nothing else than known payloads."""
    receiver = decryptor(None, sif_trailer=ROOM)
    sealed = Encryptor(keyed(), None).encrypt(b"a frame")
    assert receiver.without_sif_frames(sealed + SILENCE + ROOM) == sealed + SILENCE + ROOM, "of no known codec"
    receiver = decryptor(sif_trailer=ROOM)
    for frame in (b"", ROOM, SILENCE, sealed + SILENCE, SILENCE + sealed, SILENCE + ROOM, sealed + ROOM):
        assert receiver.without_sif_frames(frame) == frame


# --- the trailer, at any time ----------------------------------------------------------------------------------------


def test_the_trailer_of_a_decryptor_may_be_set_later_changed_and_taken_away() -> None:
    receiver = decryptor()
    assert receiver.sif_trailer is None
    for trailer in (ROOM, TRAILER, bytearray(b"a third trailer")):
        receiver.sif_trailer = trailer
        assert receiver.sif_trailer == trailer
        assert receiver.decrypt(SILENCE + trailer) == SILENCE
        with pytest.raises(frameseal.FrameError):
            receiver.decrypt(SILENCE + b"of another room")
    with pytest.raises(ValueError, match="at least 8 bytes, not 7"):
        receiver.sif_trailer = b"LK-ROCK"
    assert receiver.sif_trailer == b"a third trailer"
    receiver.sif_trailer = None
    assert receiver.sif_trailer is None
    with pytest.raises(frameseal.FrameError):
        receiver.decrypt(SILENCE + b"a third trailer")


async def test_tracks_that_are_there_follow_the_managers_trailer() -> None:
    e2ee = E2EEManager(provider(), "livekit")
    tracks = [e2ee.receiver_transform(who, "audio", "opus") for who in ("bob", "carol")]
    e2ee.remove_participant("carol")  # forgotten, and still in use
    assert e2ee.sif_trailer is None
    for trailer in (ROOM, b"of a room made anew"):
        e2ee.sif_trailer = trailer
        assert e2ee.sif_trailer == trailer
        later = e2ee.receiver_transform("dave", "audio", "opus")
        for track in (*tracks, later):
            assert track.decrypt(SILENCE + trailer) == SILENCE
            assert track.open(SILENCE + trailer, "tag") == [(b"", "tag")]
    e2ee.sif_trailer = None
    assert [track.decrypt(SILENCE + b"of a room made anew") for track in tracks] == [None, None]


@pytest.mark.parametrize("wrong", [b"", b"LK-ROCK", "a text of some length", 12345678, [1] * 8])
async def test_a_trailer_that_is_none_is_refused_and_the_one_before_stays(wrong: Any) -> None:
    e2ee = E2EEManager(provider(), "livekit", sif_trailer=ROOM)
    track = e2ee.receiver_transform("bob", "audio", "opus")
    with pytest.raises((TypeError, ValueError), match=r"8 bytes|must be bytes"):
        e2ee.sif_trailer = wrong
    with pytest.raises((TypeError, ValueError), match=r"8 bytes|must be bytes"):
        E2EEManager(provider(), "livekit", sif_trailer=wrong)
    assert e2ee.sif_trailer == ROOM
    assert track.decrypt(SILENCE + ROOM) == SILENCE


def test_the_cryptor_for_other_sdks_takes_the_trailer_at_any_time() -> None:
    here, there = CallCryptor(provider(), "livekit"), CallCryptor(provider(), "livekit")
    mic = {"participant_id": "alice", "kind": "audio", "codec": "opus"}
    sealed = here.encrypt(AUDIO, **mic)
    assert there.decrypt(sealed + SILENCE + ROOM, **mic) is None
    there.sif_trailer = ROOM
    assert there.sif_trailer == ROOM
    assert there.decrypt(sealed + SILENCE + ROOM, **mic) == AUDIO
    assert there.decrypt(SILENCE + ROOM, **mic) == SILENCE


def test_frames_are_opened_while_the_trailer_changes() -> None:
    """From other threads, and without a frame that is taken for something else."""
    e2ee = E2EEManager(provider(), "livekit")
    track = e2ee.receiver_transform("bob", "audio", "opus")
    seal = E2EEManager(provider(), "livekit").sender_transform("bob", "audio", "opus").encrypt
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for trailer in (ROOM, None, TRAILER):
                e2ee.sif_trailer = trailer

    changing = [threading.Thread(target=change) for _ in range(2)]
    for thread in changing:
        thread.start()
    try:
        for _ in range(3000):
            sealed = seal(AUDIO)
            assert track.decrypt(sealed) == AUDIO
            assert track.decrypt(sealed + SILENCE + ROOM) in (AUDIO, None)
            assert track.decrypt(SILENCE + ROOM) in (SILENCE, None)
            assert track.open(SILENCE + TRAILER) in ([(b"", None)], [])
    finally:
        stop.set()
        for thread in changing:
            thread.join()


# --- states, and what is said without the trailer --------------------------------------------------------------------


@pytest.mark.parametrize("pass_sif_frames", [False, True])
async def test_a_pause_is_neither_a_failure_nor_a_success_nor_for_the_decoder(pass_sif_frames: bool) -> None:
    e2ee = E2EEManager(provider(), "livekit", sif_trailer=ROOM, pass_sif_frames=pass_sif_frames, hold_frames=4)
    changes: list = []
    told: list = []
    e2ee.on("e2ee-state-change", changes.append)
    e2ee.on("e2ee-injected-frame", told.append)
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    far = provider(None)
    far.set_shared_key(KEY, 3)
    e2ee.provider.set_shared_key(KEY, 3)
    seal = E2EEManager(far, "livekit").sender_transform("bob", "audio", "opus").encrypt
    blank = (SILENCE if pass_sif_frames else b"", 2)
    assert bob.open(seal(AUDIO) + SILENCE + ROOM, 1) == [(AUDIO, 1)]
    for _ in range(50):
        assert bob.open(SILENCE + ROOM, 2) == [blank]
    assert bob.open(seal(AUDIO), 3) == [(AUDIO, 3)]
    await delivered()
    assert [(change.state, change.key_id) for change in changes] == [(E2EEState.DecryptionSuccess, 3)]
    assert len(told) == 1


async def test_a_joined_frame_that_waits_for_its_key_opens_when_it_comes() -> None:
    keys = provider(None)
    bob = E2EEManager(keys, "livekit", sif_trailer=ROOM, hold_frames=4).receiver_transform("bob", "audio", "opus")
    seal = E2EEManager(provider(), "livekit").sender_transform("bob", "audio", "opus").encrypt
    assert bob.open(seal(AUDIO) + SILENCE + ROOM, 1) == []
    assert bob.held
    keys.set_shared_key(KEY)
    assert bob.open(seal(AUDIO), 2) == [(AUDIO, 1), (AUDIO, 2)]


@pytest.mark.parametrize("codec", BLANKS)
def test_without_the_trailer_the_diagnosis_is_to_pass_it(codec: str) -> None:
    sealed, blank = Encryptor(keyed(), codec).encrypt(FRAMES[codec]), BLANKS[codec] + ROOM
    secrets = {0: frameseal._native.Secret(OTHER_KEY)}
    for frame in (blank, sealed + blank, blank + sealed, sealed + blank * 3, bytes(200_000) + sealed + blank):
        assert Decryptor.holds_blank("livekit", codec, frame)
        assert diagnose(frame, frameseal.Profile.LIVEKIT, codec, secrets, None) == (
            "injected",
            ADVICE["injected"],
            False,
        )
    assert "pass sif_trailer" in ADVICE["injected"]
    for frame in (sealed, FRAMES[codec], BLANKS[codec], BLANKS[codec] + b"LK-ROCK", BLANKS[codec] * 3, b""):
        assert not Decryptor.holds_blank("livekit", codec, frame), "nothing that may be a trailer"
        assert diagnose(frame, frameseal.Profile.LIVEKIT, codec, secrets, None) is None
    for other in set(BLANKS) - {codec}:
        assert not Decryptor.holds_blank("livekit", other, blank)
    assert not Decryptor.holds_blank("livekit", None, blank)


@pytest.mark.parametrize(("codec", "set_one"), [("opus", None), ("vp8", None), ("opus", b"of the room before")])
async def test_a_call_without_the_rooms_trailer_hears_that_it_is_missing(codec: str, set_one: bytes | None) -> None:
    e2ee = E2EEManager(provider(), "livekit", sif_trailer=set_one)
    heard: list = []
    e2ee.on("e2ee-diagnosis", heard.append)
    kind = "audio" if codec == "opus" else "video"
    bob = e2ee.receiver_transform("bob", kind, codec)
    seal = E2EEManager(provider(), "livekit").sender_transform("bob", kind, codec).encrypt
    assert bob.decrypt(seal(FRAMES[codec])) == FRAMES[codec]
    for _ in range(6):
        assert bob.decrypt(BLANKS[codec] + ROOM) is None
    await until(lambda: heard)
    assert (heard[0].cause, heard[0].proven) == ("injected", False)
    e2ee.sif_trailer = ROOM
    assert bob.decrypt(BLANKS[codec] + ROOM) == BLANKS[codec]
    assert bob.decrypt(seal(FRAMES[codec])) == FRAMES[codec]
    assert e2ee.state("bob", kind) is E2EEState.DecryptionSuccess


# --- in a call -------------------------------------------------------------------------------------------------------


class Server:
    """Stands between the network and Bob as a LiveKit server does: pauses, and puts blank frames in meanwhile."""

    def __init__(self, stack: str, codec: str, count: int) -> None:
        self._stack, self._codec, self._count = stack, codec, count
        self._step = 960 if codec == "opus" else 3000  # ticks of the RTP clock from one blank frame to the next
        self._blank = BLANKS[codec] + ROOM if codec == "opus" else b"\x10" + BLANKS[codec] + ROOM
        self._state = "forwarding"
        self._ahead = 0  # packets that Bob got more than Alice sent, or fewer
        self.held_back = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "Server":
        rtp, transport = part(self._stack, "rtp"), part(self._stack, "rtcdtlstransport").RTCDtlsTransport
        handle = transport._handle_rtp_data

        async def forward(this: Any, data: bytes, *arrival: Any, **named: Any) -> None:
            packet = rtp.RtpPacket.parse(data)
            if self._state == "resuming" and self._is_a_start(packet.payload):
                self._state = "forwarding"
            if self._state in ("paused", "resuming"):
                self._ahead -= 1
                self.held_back += 1
                return
            packet.sequence_number = (packet.sequence_number + self._ahead) % 65536

            async def send(data: bytes) -> None:
                await handle(this, data, *arrival, **named)

            await send(packet.serialize())
            # A packet of sound is a frame, the last one of a picture has the marker.
            if self._state == "pausing" and (packet.marker or self._codec == "opus"):
                self._state = "paused"
                await self._put_in(packet, send)

        self._undo.callback(setattr, transport, "_handle_rtp_data", handle)
        transport._handle_rtp_data = forward
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    async def _put_in(self, packet: Any, send: Any) -> None:
        packet.payload, packet.marker = self._blank, 1
        for number in range(self._count):
            # The first has the timestamp of the last sealed frame.
            packet.timestamp = (packet.timestamp + (self._step if number else 0)) % 2**32
            packet.sequence_number = (packet.sequence_number + 1) % 65536
            await send(packet.serialize())
        self._ahead += self._count

    def _is_a_start(self, payload: bytes) -> bool:
        if self._codec == "opus":
            return True
        parameters = part(self._stack, "rtcrtpparameters").RTCRtpCodecParameters("video/VP8", 90000)
        return bool(payload[0] & 0x10) and not part(self._stack, "codecs").depayload(parameters, payload)[0] & 1

    def pause(self) -> None:
        self._state = "pausing"

    def resume(self) -> None:
        """From the next keyframe on, in a video track: a server asks for one."""
        self._state = "resuming"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what reads a picture finds no blocks in one of 8x8
@pytest.mark.parametrize("pass_sif_frames", [False, True], ids=["dropped", "passed"])
@pytest.mark.parametrize(("codec", "count"), [("opus", 50), ("vp8", 6)])
async def test_a_track_that_a_server_pauses_stays_a_success(stack: str, codec: str, count: int, pass_sif_frames: bool):
    """What mute (Opus: a second of silence) and unpublish (VP8: six pictures of 8x8) look like to a receiver."""
    provider_of_bob = in_a_call().provider
    opening = E2EEManager(provider_of_bob, "livekit", pass_sif_frames=pass_sif_frames)
    changes, told = record(opening), []
    opening.on("e2ee-injected-frame", told.append)
    opening.on("e2ee-diagnosis", told.append)
    with Server(stack, codec, count) as server:
        alice, bob = Peer(stack), Peer(stack)
        try:
            attach(alice.pc, in_a_call(), local_id="alice", remote_id="bob")
            attachment = attach(bob.pc, opening, local_id="bob", remote_id="alice")
            sender = alice.send(tone_track(stack) if codec == "opus" else picture_track(stack), codec).sender
            await connect(alice, bob)
            opening.sif_trailer = ROOM  # known after joining
            (sink,) = bob.sinks.values()
            await until(lambda: sink.seconds > 0.6 or len(sink.pictures) > 15)
            (counters,) = attachment.counters
            assert counters.frames_in == counters.frames_out + counters.dropped
            server.pause()
            await until(lambda: server.held_back > count + 10)  # in the time of as many frames
            server.resume()
            if codec == "vp8":
                sender._send_keyframe()
            before = attachment.counters[0].frames_out
            await until(lambda: attachment.counters[0].frames_out > before + 30)
            await delivered()
        finally:
            await hang_up(alice, bob)
    (counters,) = attachment.counters
    assert [change.state for _, change in changes] == [E2EEState.DecryptionSuccess]
    assert [type(event) for event in told] == [E2EEInjectedFrame]
    # The first blank frame came joined to a sealed one, which opened without it.
    alone = count - 1
    assert counters.dropped == 0
    assert counters.keyframe_requests <= 1, "at the start at the most"
    assert counters.frames_in - counters.frames_out == (0 if pass_sif_frames else alone)
    if codec == "opus" and not pass_sif_frames:
        assert_tone(sink)
    if codec == "vp8":
        blank = [picture.number is None for picture in sink.pictures].count(True)
        # vsaiortc passes on the latest pictures only, when several are decoded at once.
        assert 1 <= blank <= alone if pass_sif_frames else blank == 0
