"""What is noticed beside the frames: stalls and recoveries, worn keys, ratchets of others, a server's blank frames."""

import asyncio
import gc
import weakref

import pytest

from frameseal import E2EEKeyChange, E2EEKeyUsage, E2EEManager, E2EEStalled, E2EEState, KeyProvider, KeyRing, Profile
from frameseal.e2ee.monitor import DERIVATION_BURST, PERIOD, STALLED_AFTER, _derive_step
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, Clock, TimedCall, delivered, provider, run_at_once, sealer

TRAILER = b"a trailer that a server tells"
SILENCE = b"\xf8\xff\xfe" + bytes(77)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watched:
    """A call that is checked when the test says so, and its events."""

    def __init__(self, keys, clock, **options) -> None:
        self.clock = clock
        self.e2ee = TimedCall(keys, clock, **options)
        self.heard: list = []
        for event in ("e2ee-stalled", "e2ee-key-usage", "e2ee-state-change", "e2ee-injected-frame"):
            self.e2ee.on(event, lambda what, event=event: self.heard.append((event, what)))

    async def after(self, seconds: float, each=lambda: None) -> list:
        for _ in range(int(seconds / PERIOD)):
            self.clock.now += PERIOD
            each()
            self.e2ee.tick()
        await delivered()
        heard, self.heard = self.heard, []
        return heard


async def test_a_track_whose_frames_do_not_open_for_two_seconds_has_stalled_once_and_recovers(clock):
    keys, seal = provider(OTHER_KEY), sealer()
    call = Watched(keys, clock)
    bob = call.e2ee.receiver_transform("bob", "audio", "opus", track_id="mic")
    heard = await call.after(STALLED_AFTER + 2, lambda: bob.decrypt(seal(AUDIO)))
    assert [event for event, _ in heard] == ["e2ee-state-change", "e2ee-stalled"]
    stalled = heard[1][1]
    assert type(stalled) is E2EEStalled
    assert (stalled.participant_id, stalled.kind, stalled.track_id) == ("bob", "audio", "mic")
    assert (stalled.state, stalled.reason, stalled.key_id) == (E2EEState.DecryptionFailed, "authentication_failed", 0)
    assert stalled.time == clock.now - 2
    assert stalled.counters["authentication_failed"] >= 4
    keys.set_shared_key(KEY)
    ((event, change),) = await call.after(1, lambda: bob.decrypt(seal(AUDIO)))
    assert (event, change.state, change.detail) == ("e2ee-state-change", E2EEState.DecryptionSuccess, "recovered")
    keys.set_shared_key(OTHER_KEY)
    heard = await call.after(STALLED_AFTER + 2, lambda: bob.decrypt(seal(AUDIO)))
    assert [event for event, _ in heard] == ["e2ee-state-change", "e2ee-stalled"]


async def test_a_missing_key_stalls_too(clock):
    call, seal = Watched(provider(None), clock), sealer()
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    heard = await call.after(STALLED_AFTER + 1, lambda: bob.decrypt(seal(AUDIO)))
    assert [what.state for event, what in heard if event == "e2ee-stalled"] == [E2EEState.MissingKey]


async def test_what_is_only_ever_repeated_stalls_too(clock):
    call = Watched(provider(KEY), clock, replay_window=64)
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    frame = sealer()(AUDIO)
    heard = await call.after(STALLED_AFTER + 2, lambda: bob.decrypt(frame))
    assert [event for event, _ in heard].count("e2ee-stalled") == 1


async def test_silence_and_single_losses_are_no_stall(clock):
    call, seal, wrong = Watched(provider(KEY), clock), sealer(), sealer(OTHER_KEY)
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    frames = iter([seal(AUDIO), wrong(AUDIO)] * 20)
    heard = await call.after(10, lambda: bob.decrypt(next(frames)))
    assert "e2ee-stalled" not in [event for event, _ in heard]
    bob.decrypt(wrong(AUDIO))
    assert "e2ee-stalled" not in [event for event, _ in await call.after(60)]
    bob.decrypt(wrong(AUDIO))
    assert "e2ee-stalled" not in [event for event, _ in await call.after(1)]


async def test_the_first_success_of_a_track_is_no_recovery(clock):
    call, seal = Watched(provider(KEY), clock), sealer()
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    ((_, change),) = await call.after(1, lambda: bob.decrypt(seal(AUDIO)))
    assert (change.state, change.detail) == (E2EEState.DecryptionSuccess, None)


class LimitedRings:
    """Rings whose keys wear out soon."""

    discard_frame_when_cryptor_not_ready = True

    def __init__(self) -> None:
        self.ring = KeyRing("videosdk", usage_limit=100)
        self.ring.set_key(KEY)

    def ring_for(self, profile: Profile, participant_id: str) -> KeyRing:
        return self.ring


async def test_a_worn_key_is_announced_once_before_it_is_refused_and_a_new_one_starts_anew(clock):
    keys = LimitedRings()
    call = Watched(keys, clock)
    alice = call.e2ee.sender_transform("alice", "audio", "opus")

    def send(frames: int) -> None:
        for _ in range(frames):
            alice.encrypt(AUDIO)

    send(70)
    assert [event for event, _ in await call.after(1)] == ["e2ee-state-change"]
    send(10)
    assert await call.after(2) == [("e2ee-key-usage", E2EEKeyUsage("alice", 0, 80, 100))]
    send(20)
    assert await call.after(1) == []
    send(1)
    ((event, change),) = await call.after(1)
    assert (event, change.state, change.reason) == (
        "e2ee-state-change",
        E2EEState.EncryptionFailed,
        "key_exhausted",
    )
    keys.ring.set_key(OTHER_KEY, 1)
    keys.ring.sending_key_id = 1
    send(80)
    heard = await call.after(1)
    assert [event for event, _ in heard] == ["e2ee-state-change", "e2ee-key-usage"]
    assert heard[1][1] == E2EEKeyUsage("alice", 1, 80, 100)


async def test_frames_that_native_receivers_cannot_open_are_warned_of_once_a_track(clock, caplog):
    call = Watched(provider(KEY), clock)
    alice = call.e2ee.sender_transform("alice", "video", "h264", track_id="camera")
    slice_ = b"\0\0\0\1\x65\x88\x80"
    # SEI does not go out, however long it is; parameter sets have to.
    assert alice.encrypt(b"\0\0\0\1\x06" + bytes([5]) * 600 + slice_)
    await call.after(1)
    assert caplog.messages == []
    for _ in range(3):
        assert alice.encrypt(b"\0\0\0\1\x67" + bytes([5]) * 300 + slice_)
        await call.after(1)
    (message,) = caplog.messages
    assert "video that is sent has more than 255 bytes" in message


async def test_slice_headers_that_cannot_be_kept_readable_are_warned_of_once_a_track(clock, caplog):
    call = Watched(provider(KEY), clock)
    alice = call.e2ee.sender_transform("alice", "video", "h264", track_id="camera")
    assert alice.encrypt(b"\0\0\0\1\x65\x88\x84 a keyframe of x264, with id 0")
    await call.after(1)
    assert caplog.messages == []
    # An id of 200, of which 17 bits are sealed.
    while not alice.stats()["misread"]:
        assert alice.encrypt(b"\0\0\0\1\x65\x88\x01\x93 a keyframe")
    for _ in range(3):
        await call.after(1)
    (message,) = caplog.messages
    assert "video that is sent has slice headers that cannot be kept readable" in message


async def test_listeners_of_the_provider_hear_that_a_sender_has_ratcheted(clock):
    keys, far = KeyProvider(ratchet_window=4), provider(KEY)
    for each in (keys, far):
        each.set_shared_key(KEY, 3)
    ratcheted: list = []
    keys.on("key-ratcheted", ratcheted.append)
    call = Watched(keys, clock)
    seal = E2EEManager(far, "videosdk").sender_transform("bob", "audio", "opus").encrypt
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    far.ratchet()
    far.ratchet()
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    await call.after(1)
    assert ratcheted == [E2EEKeyChange("bob", 3)]


async def test_a_passphrase_that_was_ratcheted_is_followed_beside_the_frames():
    keys, far = provider("a passphrase", ratchet_window_size=4), provider("a passphrase")
    e2ee = E2EEManager(keys, "livekit")
    seal = E2EEManager(far, "livekit").sender_transform("bob", "audio", "opus").encrypt
    bob = e2ee.receiver_transform("bob", "audio", "opus")
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    far.ratchet()
    far.ratchet()
    for _ in range(500):
        await asyncio.sleep(0.02)
        if bob.decrypt(seal(AUDIO)) == AUDIO:
            break
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    assert bob.stats()["ratchets"] == 2


async def test_a_storm_of_forged_frames_buys_few_derivations(clock):
    keys, forged, derived = provider("a passphrase", ratchet_window_size=16), sealer(OTHER_KEY), 0

    def derive(function) -> bool:
        nonlocal derived
        derived += function.func is _derive_step
        return run_at_once(function)

    bob = TimedCall(keys, clock, background=derive).receiver_transform("bob", "audio", "opus")
    frame = forged(AUDIO)
    for _ in range(1000):
        bob.decrypt(frame)
    assert derived == DERIVATION_BURST
    for _ in range(5):
        clock.now += 1
        bob.decrypt(frame)
    assert derived == DERIVATION_BURST + 5


async def test_a_servers_blank_frames_pass_are_told_and_are_no_success(clock):
    keys, seal = provider(KEY), sealer()
    call = Watched(keys, clock, sif_trailer=TRAILER)
    bob = call.e2ee.receiver_transform("bob", "audio", "opus")
    assert bob.decrypt(SILENCE + TRAILER) == SILENCE
    assert call.e2ee.state("bob", "audio") is None
    await call.after(1)
    bob.decrypt(seal(AUDIO))
    for _ in range(3):
        assert bob.decrypt(SILENCE + TRAILER) == SILENCE
    assert [event for event, _ in await call.after(1)] == ["e2ee-state-change", "e2ee-injected-frame"]
    assert bob.decrypt(b"not a blank frame at all" + TRAILER) is None
    assert bob.stats()["sif_frames_refused"] == 1


async def test_without_the_trailer_a_servers_blank_frame_does_not_pass(clock):
    call = Watched(provider(KEY), clock)
    assert call.e2ee.receiver_transform("bob", "audio", "opus").decrypt(SILENCE + TRAILER) is None


async def test_a_manager_with_a_replay_window_opens_each_frame_once():
    for window, times in ((None, 2), (0, 2), (64, 1)):
        e2ee = E2EEManager(provider(KEY), "livekit", replay_window=window)
        bob = e2ee.receiver_transform("bob", "audio", "opus")
        frame = E2EEManager(provider(KEY), "livekit").sender_transform("bob", "audio", "opus").encrypt(AUDIO)
        assert [bob.decrypt(frame), bob.decrypt(frame)].count(AUDIO) == times


@pytest.mark.parametrize("options", [{"replay_window": 65537}, {"replay_window": -1}, {"sif_trailer": b"short"}])
def test_options_that_no_track_could_have_are_refused_at_once(options):
    with pytest.raises(ValueError):
        E2EEManager(provider(KEY), "livekit", **options)


async def test_the_watch_does_not_keep_a_manager_alive():
    e2ee = E2EEManager(provider(KEY), "videosdk")
    gone = weakref.ref(e2ee)
    await asyncio.sleep(0)
    del e2ee
    gc.collect()
    assert gone() is None
