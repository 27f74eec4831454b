"""Keys that arrive after the frames: what is shown then, and when a keyframe is requested. Nothing is timed here."""

import asyncio
import gc
import queue
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest

import frameseal.aiortc.receivers
from frameseal import E2EEManager, ExternalE2EEKeyProvider, KeyProvider
from frameseal.aiortc import attach
from frameseal.aiortc.proxies import OpeningDecoder
from frameseal.aiortc.receivers import PLI_BACKED_OFF, PLI_INTERVAL
from support.calls import (
    connect,
    manager,
    part,
    peers,
    picture_track,
    shows,
    until,
)

KEY, NEXT_KEY, OTHER_KEY = (bytes(range(first, first + 32)) for first in (0, 50, 100))
RATE = 30
PICTURE_TIME = 1 / RATE


class Sealer:
    """Makes sealed, numbered pictures, as a participant of a call with this shared key."""

    def __init__(self, profile: str = "livekit", key: bytes = KEY, key_id: int = 0) -> None:
        self._sent, self._provider = 0, ExternalE2EEKeyProvider()
        self.rotate(key, key_id)
        self._transform = E2EEManager(self._provider, profile).sender_transform("alice", "video", "vp8")

    def rotate(self, key: bytes, key_id: int) -> None:
        self._provider.set_shared_key(key, key_id)

    def picture(self, keyframe: bool = False) -> bytes:
        self._sent += 1
        sealed = self._transform.encrypt((b"\x10" if keyframe else b"\x11") + b" nine more and picture %d" % self._sent)
        assert sealed
        return sealed


class Receiving:
    """A receiver of a connection without a call, its real decoder queue, and a decoder that accepts all pictures.

    The clock is set by hand, and the decoder thread is the test's own.
    """

    def __init__(self, stack: str, monkeypatch, provider: KeyProvider | None = None, **options) -> None:
        self.now = 100.0
        monkeypatch.setattr(frameseal.aiortc.receivers.time, "monotonic", lambda: self.now)
        self.provider = provider or KeyProvider()
        self.e2ee = E2EEManager(self.provider, options.pop("profile", "livekit"), **options)
        self.pc = part(stack).RTCPeerConnection()
        self.receiver = self.pc.addTransceiver("video").receiver
        attach(self.pc, self.e2ee, local_id="bob", remote_id="alice")
        self.slot = vars(self.receiver)["_frameseal_slot"]
        self.slot.start()
        self.queue = vars(self.receiver)["_RTCRtpReceiver__decoder_queue"]
        self.codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("video/VP8", 90000, payloadType=97)
        self.shown: list[int] = []
        self.requested_at: list[float] = []
        self.decoder = OpeningDecoder(SimpleNamespace(decode=self._decode), self.codec, self.slot)

    def _decode(self, frame) -> list:
        self.shown.append(int(frame.data.rpartition(b" ")[2]))
        return ["picture"]

    def arrives(self, sealed: bytes) -> None:
        """A frame arrives, and is decoded a frame's time before the next one."""
        self.queue.put((self.codec, SimpleNamespace(data=sealed, timestamp=0)))
        self._work()
        self.now += PICTURE_TIME

    async def key(self, key: bytes = KEY, key_id: int = 0, of: str | None = None) -> None:
        """A key is set, and everything has happened that this causes without another frame."""
        if of is None:
            self.provider.set_shared_key(key, key_id)
        else:
            self.provider.set_key(of, key, key_id)
        for _ in range(3):
            await asyncio.sleep(0)
        self._work()

    def _work(self) -> None:
        while True:
            try:
                _, frame = self.queue.get_nowait()
            except queue.Empty:
                return
            before = self.requests
            for _picture in self.decoder.decode(frame):
                pass
            self.requested_at += [self.now] * (self.requests - before)

    @property
    def requests(self) -> int:
        return self.slot.counters.keyframe_requests


@pytest.fixture(params=["livekit", "sframe"])
def profile(request) -> str:
    return request.param


# --- requests for keyframes ------------------------------------------------------------------------------------------


async def test_no_keyframe_is_requested_while_the_key_is_missing(stack, profile, monkeypatch):
    """It would not open, and everybody else in the call would pay for it."""
    receiving = Receiving(stack, monkeypatch, profile=profile)
    sealer = Sealer(profile)
    for _ in range(20 * RATE):
        receiving.arrives(sealer.picture())
    assert receiving.requests == 0
    assert receiving.shown == []
    await receiving.pc.close()


@pytest.mark.parametrize("shortage", [0, 15, 31, 226])
async def test_the_arrival_of_a_key_requests_a_keyframe_at_once(stack, profile, shortage, monkeypatch):
    """However long the key was missing, and without another frame, which a still picture may not send for long."""
    receiving = Receiving(stack, monkeypatch, profile=profile)
    sealer = Sealer(profile)
    for _ in range(shortage + 1):
        receiving.arrives(sealer.picture())
    await receiving.key()
    assert receiving.requests == 1
    receiving.arrives(sealer.picture())
    receiving.arrives(sealer.picture())
    assert receiving.requests == 1, "the keyframe is on its way"
    assert receiving.shown == []
    receiving.arrives(sealer.picture(keyframe=True))
    receiving.arrives(sealer.picture())
    assert receiving.shown == [shortage + 4, shortage + 5]
    assert receiving.requests == 1
    await receiving.pc.close()


async def test_a_provider_without_events_is_followed_with_the_next_frame(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    receiving.arrives(sealer.picture())
    receiving.provider.remove_all_listeners()
    await receiving.key()
    assert receiving.requests == 0
    receiving.arrives(sealer.picture())
    assert receiving.requests == 1
    await receiving.pc.close()


async def test_a_keyframe_that_does_not_arrive_is_requested_again_after_half_a_second(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    receiving.arrives(sealer.picture())
    await receiving.key()
    receiving.requested_at.clear()
    for _ in range(2 * RATE):
        receiving.arrives(sealer.picture())
    assert [later - earlier for earlier, later in pairwise(receiving.requested_at)] == pytest.approx(
        [PLI_INTERVAL] * 2, abs=PICTURE_TIME
    )
    await receiving.pc.close()


@pytest.mark.parametrize(
    ("key", "key_id", "of"),
    [(OTHER_KEY, 5, None), (OTHER_KEY, 5, "alice"), (OTHER_KEY, 0, "carol")],
    ids=["another id", "another id of the sender", "another participant"],
)
async def test_a_key_that_the_frames_do_not_name_requests_nothing(stack, key, key_id, of, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    receiving.arrives(sealer.picture())
    await receiving.key(key, key_id, of)
    receiving.arrives(sealer.picture())
    assert receiving.requests == 0
    await receiving.key(of="alice")
    assert receiving.requests == 1
    await receiving.pc.close()


async def test_a_key_that_is_not_awaited_requests_nothing(stack, monkeypatch):
    """Before the first frame, while frames open, after a detach, and while the direction is inactive."""
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    await receiving.key()
    receiving.arrives(sealer.picture(keyframe=True))
    await receiving.key()
    sealer.rotate(NEXT_KEY, 1)
    await receiving.key(NEXT_KEY, 1)
    receiving.arrives(sealer.picture())
    assert (receiving.requests, receiving.shown) == (0, [1, 2])
    sealer.rotate(OTHER_KEY, 2)
    receiving.arrives(sealer.picture())
    receiving.slot.enable(False)
    await receiving.key(OTHER_KEY, 2)
    assert receiving.requests == 0
    await receiving.pc.close()


async def test_a_forger_cannot_make_a_receiver_request_keyframes_at_frame_rate(stack, monkeypatch):
    """Frames that name unknown keys, frames that fail, packets of padding only, and the real sender's between them."""
    receiving = Receiving(stack, monkeypatch)
    sealer, forgers = Sealer(), [Sealer(key=OTHER_KEY, key_id=key_id) for key_id in (0, 3, 9)]
    await receiving.key()
    for number in range(20 * RATE):
        for sealed in (*(forger.picture(keyframe=True) for forger in forgers), b""):
            receiving.arrives(sealed)
        receiving.arrives(sealer.picture(keyframe=number % 7 == 0))
    assert all(later - earlier >= PLI_INTERVAL for earlier, later in pairwise(receiving.requested_at))
    await receiving.pc.close()


async def test_without_a_key_a_forger_cannot_cause_a_single_request(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    forgers = [Sealer(key=OTHER_KEY, key_id=key_id) for key_id in range(16)]
    for number in range(10 * RATE):
        receiving.arrives(forgers[number % 16].picture(keyframe=True))
        receiving.arrives(b"")
    assert receiving.requests == 0
    await receiving.pc.close()


async def test_keys_that_are_set_again_and_again_cause_one_request_per_interval(stack, monkeypatch):
    """As by an application that fetches all keys every moment."""
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer(key=OTHER_KEY)
    for _ in range(10 * RATE):
        receiving.provider.remove()
        receiving.arrives(sealer.picture())
        await receiving.key(OTHER_KEY)
    assert len(receiving.requested_at) > 10
    assert all(
        later - earlier >= PLI_INTERVAL - PICTURE_TIME - 1e-6 for earlier, later in pairwise(receiving.requested_at)
    )
    await receiving.pc.close()


@pytest.mark.parametrize("wait", [0, 5, 20, 100, 250])
async def test_after_a_wrong_key_the_right_one_is_not_bound_by_the_backed_off_interval(stack, wait, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    await receiving.key(OTHER_KEY)
    for _ in range(wait + 1):
        receiving.arrives(sealer.picture())
    asked_at = receiving.requested_at[-1] if receiving.requested_at else -PLI_BACKED_OFF
    await receiving.key()
    set_at, before = receiving.now, receiving.requests
    for _ in range(RATE):
        if receiving.requests > before:
            break
        receiving.arrives(sealer.picture())
    late = receiving.now - PICTURE_TIME - set_at
    assert receiving.requests == before + 1
    assert late <= max(0.0, asked_at + PLI_INTERVAL - set_at) + PICTURE_TIME
    await receiving.pc.close()


# --- held frames -----------------------------------------------------------------------------------------------------


async def test_held_frames_that_have_a_keyframe_are_decoded_with_the_key_and_request_nothing(
    stack, profile, monkeypatch
):
    receiving = Receiving(stack, monkeypatch, profile=profile, hold_frames=64)
    sealer = Sealer(profile)
    for number in range(40):
        receiving.arrives(sealer.picture(keyframe=number == 0))
    await receiving.key()
    assert receiving.shown == list(range(1, 41)), "no frame had to arrive for it"
    receiving.arrives(sealer.picture())
    assert receiving.shown == list(range(1, 42))
    assert receiving.requests == 0
    assert (receiving.slot.counters.frames_in, receiving.slot.counters.frames_out) == (41, 41)
    assert receiving.slot.counters.dropped == 0
    await receiving.pc.close()


async def test_the_first_held_picture_does_not_wait_until_all_are_decoded(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch, hold_frames=256)
    sealer = Sealer()
    for number in range(8 * RATE):
        receiving.arrives(sealer.picture(keyframe=number == 0))
    receiving.provider.set_shared_key(KEY)
    await asyncio.sleep(0)
    _, mark = receiving.queue.get_nowait()
    pictures = iter(receiving.decoder.decode(mark))
    for number in range(1, 8 * RATE + 1):
        assert next(pictures) == "picture"
        assert receiving.shown == list(range(1, number + 1))
    assert list(pictures) == []
    await receiving.pc.close()


async def test_held_frames_that_lost_their_keyframe_request_one_with_the_key(stack, profile, monkeypatch):
    receiving = Receiving(stack, monkeypatch, profile=profile, hold_frames=16)
    sealer = Sealer(profile)
    for number in range(5 * RATE):
        receiving.arrives(sealer.picture(keyframe=number == 0))
    assert receiving.requests == 0
    await receiving.key()
    assert (receiving.requests, receiving.shown) == (1, [])
    receiving.arrives(sealer.picture())
    receiving.arrives(sealer.picture(keyframe=True))
    assert receiving.requests == 1
    assert receiving.shown == [5 * RATE + 2]
    await receiving.pc.close()


async def test_held_frames_whose_key_is_still_missing_stay_held(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch, hold_frames=64)
    sealer = Sealer()
    receiving.arrives(sealer.picture(keyframe=True))
    sealer.rotate(NEXT_KEY, 1)
    receiving.arrives(sealer.picture())
    receiving.arrives(sealer.picture())
    await receiving.key(NEXT_KEY, 1)
    assert receiving.shown == [], "the keyframe is under the first key"
    assert receiving.e2ee.tracks()[0].state == "DecryptionSuccess"
    assert receiving.requests == 1
    await receiving.pc.close()


async def test_held_sound_is_played_with_the_key(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch, hold_frames=64)
    codec = part(stack, "rtcrtpparameters").RTCRtpCodecParameters("audio/opus", 48000, channels=2, payloadType=96)
    receiving.codec = codec
    receiving.decoder = OpeningDecoder(SimpleNamespace(decode=receiving._decode), codec, receiving.slot)
    sound = manager(KEY).sender_transform("alice", "audio", "opus")
    for number in range(10):
        receiving.arrives(sound.encrypt(b"\xf8 sound %d" % number))
    await receiving.key()
    assert receiving.shown == list(range(10))
    assert receiving.requests == 0
    await receiving.pc.close()


# --- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [0, 16])
async def test_a_rotation_that_receivers_hear_of_first_delays_no_frame(stack, hold, monkeypatch):
    receiving = Receiving(stack, monkeypatch, hold_frames=hold)
    sealer = Sealer()
    await receiving.key()
    receiving.arrives(sealer.picture(keyframe=True))
    for key_id in (1, 2, 3):
        await receiving.key(bytes([key_id]) * 32, key_id)
        receiving.arrives(sealer.picture())
        sealer.rotate(bytes([key_id]) * 32, key_id)
        receiving.arrives(sealer.picture())
    assert receiving.shown == list(range(1, 8))
    assert receiving.requests == 0
    await receiving.pc.close()


@pytest.mark.parametrize("late", [0, 1, 5, 15])
async def test_frames_of_a_rotation_wait_for_their_key_and_not_longer(stack, late, monkeypatch):
    """*late* frames arrive after the first one under the new key, and before that key."""
    receiving = Receiving(stack, monkeypatch, hold_frames=16)
    sealer = Sealer()
    await receiving.key()
    receiving.arrives(sealer.picture(keyframe=True))
    sealer.rotate(NEXT_KEY, 1)
    for _ in range(late + 1):
        receiving.arrives(sealer.picture())
    assert receiving.shown == [1]
    await receiving.key(NEXT_KEY, 1)
    assert receiving.shown == list(range(1, late + 3))
    receiving.arrives(sealer.picture())
    assert receiving.shown == list(range(1, late + 4))
    assert (receiving.requests, receiving.slot.counters.dropped) == (0, 0)
    await receiving.pc.close()


async def test_a_rotation_whose_key_is_late_costs_one_keyframe_where_frames_are_not_held(stack, monkeypatch):
    receiving = Receiving(stack, monkeypatch)
    sealer = Sealer()
    await receiving.key()
    receiving.arrives(sealer.picture(keyframe=True))
    sealer.rotate(NEXT_KEY, 1)
    receiving.arrives(sealer.picture())
    await receiving.key(NEXT_KEY, 1)
    assert receiving.requests == 1
    receiving.arrives(sealer.picture())
    receiving.arrives(sealer.picture(keyframe=True))
    receiving.arrives(sealer.picture())
    assert (receiving.requests, receiving.shown) == (1, [1, 4, 5])
    await receiving.pc.close()


# --- a whole call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [0, 64])
async def test_a_picture_follows_a_late_key_in_a_call(stack, hold):
    provider = ExternalE2EEKeyProvider()
    missing = asyncio.Event()
    opening = E2EEManager(provider, "livekit", hold_frames=hold, on_missing_key=lambda _event: missing.set())
    sealing = manager(KEY)
    async with peers(stack, stack) as (alice, bob):
        attach(alice.pc, sealing, local_id="alice", remote_id="bob")
        attached = attach(bob.pc, opening, local_id="bob", remote_id="alice")
        alice.send(picture_track(stack), "vp8")
        await connect(alice, bob)
        (sink,) = bob.sinks.values()
        await asyncio.wait_for(missing.wait(), 20)
        assert attached.counters[0].keyframe_requests == 0
        provider.set_shared_key(KEY)
        await until(lambda: shows(sink))
        # A busy machine may lose a keyframe, or a packet for longer than it is repeated.
        for key_id, key in ((1, NEXT_KEY), (2, OTHER_KEY)):
            sealing.provider.set_shared_key(key, key_id)
            missing.clear()
            await asyncio.wait_for(missing.wait(), 20)
            sink.clear()
            provider.set_shared_key(key, key_id)
            await until(lambda: shows(sink))


async def test_a_provider_that_outlives_its_calls_has_one_listener_and_keeps_no_attachment(stack):
    provider = ExternalE2EEKeyProvider()
    for _ in range(3):
        pc = part(stack).RTCPeerConnection()
        attachment = weakref.ref(
            attach(pc, E2EEManager(provider, "livekit"), local_id="bob", remote_id=lambda _receiver: "alice")
        )
        await pc.close()
        del pc
        gc.collect()
        assert attachment() is None
    assert len(provider.listeners("key-set")) == 1
