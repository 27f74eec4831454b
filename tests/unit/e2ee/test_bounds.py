"""What frames and peers claim costs bounded memory and bounded work, however many they are and whatever they hold."""

import os
import sys

import pytest

from frameseal import E2EEManager, E2EEState, KeyProvider, KeyRing
from frameseal.e2ee.hold import DEFAULT_HOLD_BYTES, MAX_HOLD_BYTES
from frameseal.e2ee.track import CHANGE_BURST
from frameseal.e2ee.transforms import MAX_INVALID_KEYS
from frameseal.frame_cryptor import MAX_TRACKS, CallCryptor
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, Clock, TimedCall, delivered, provider, sealer

TRAILER = b"a trailer that a server tells"
SILENCE = b"\xf8\xff\xfe" + bytes(77)
S = E2EEState


def receiving(keys=None, profile="livekit", kind="video", codec="vp8", **options):
    e2ee = E2EEManager(keys or provider(), profile, **options)
    return e2ee, e2ee.receiver_transform("bob", kind, codec)


# ---- key ids that frames claim


async def test_key_ids_that_were_reported_as_invalid_are_remembered_up_to_a_bound():
    e2ee, bob = receiving(provider(failure_tolerance=0), "sframe", "audio", "opus")
    for number in range(20 * MAX_INVALID_KEYS):
        # 2^56 key ids, all of them of the shared key 0: a forger has no end of them.
        assert bob.decrypt(b"\xf0\x01" + number.to_bytes(6) + b"\x00" + os.urandom(60)) is None
        assert len(bob._invalid_keys) <= MAX_INVALID_KEYS
    assert e2ee.state("bob", "audio") is S.InvalidKey
    assert len(bob._invalid_keys) == MAX_INVALID_KEYS


async def test_a_storm_of_blank_frames_between_sealed_ones_makes_no_storm_of_events():
    """Whoever knows the server's trailer, and each participant does, can send them at frame rate."""
    heard, seal = [], sealer()
    e2ee, bob = receiving(None, "videosdk", "audio", "opus", sif_trailer=TRAILER)
    e2ee.on("e2ee-injected-frame", heard.append)
    for _ in range(500):
        bob.decrypt(seal(AUDIO))
        bob.decrypt(SILENCE + TRAILER)
    await delivered()
    assert 0 < len(heard) <= CHANGE_BURST


# ---- what is remembered of rings, participants and tracks


def test_rings_that_ask_for_ratchet_steps_are_forgotten_where_nobody_derives_them():
    """Without a loop there is no watch, which would let go of them."""
    cryptor, forged = CallCryptor(KeyProvider(ratchet_window=4)), sealer(OTHER_KEY)
    for number in range(50):
        name = f"bob-{number}"
        cryptor._call.provider.set_key(name, "a passphrase")
        assert cryptor.decrypt(forged(AUDIO), participant_id=name, kind="audio", codec="opus") is None
        cryptor.remove_participant(name)
    assert cryptor._call._searches._searches == {}


async def test_worn_keys_of_ids_that_this_side_had_are_forgotten():
    heard, ring = [], KeyRing("videosdk", usage_limit=100)

    class Worn:
        discard_frame_when_cryptor_not_ready = True

        def ring_for(self, profile, participant_id):
            return ring

    e2ee = TimedCall(Worn(), Clock())
    e2ee.on("e2ee-key-usage", heard.append)
    for number in range(20):
        ring.set_key(os.urandom(16))
        alice = e2ee.sender_transform(f"alice-{number}", "audio", "opus")
        for _ in range(90):
            alice.encrypt(AUDIO)
        e2ee.tick()
        e2ee.remove_participant(f"alice-{number}")
        e2ee.tick()
        assert e2ee._monitor._warned == {}
    await delivered()
    assert len(heard) == 20


@pytest.mark.parametrize("direction", ["encrypt", "decrypt"])
def test_tracks_that_a_participant_may_have_are_bounded(direction, caplog):
    """Codec and track id may be what a peer says; each would have a cipher of its own."""
    cryptor, sealed = CallCryptor(provider()), sealer()(AUDIO)
    handle = getattr(cryptor, direction)
    frame = AUDIO if direction == "encrypt" else sealed
    made = [
        handle(frame, participant_id="bob", kind="audio", codec="opus", track_id=str(number)) is not None
        for number in range(MAX_TRACKS + 40)
    ]
    assert made == [True] * MAX_TRACKS + [False] * 40
    assert len(cryptor._call.tracks()) == MAX_TRACKS
    assert caplog.text.count("the maximum") == 1
    assert handle(frame, participant_id="carol", kind="audio", codec="opus")
    assert handle(frame, participant_id="bob", kind="audio", codec="opus", track_id="0")
    cryptor.remove_participant("bob")
    assert handle(frame, participant_id="bob", kind="audio", codec="opus", track_id="new")


# ---- frames that wait for their key


def waiting(bob) -> tuple[int, int, int]:
    stats = bob.stats()
    return stats["held_frames"], stats["held_bytes"], stats["held_lost"]


def big(seal, size: int) -> bytes:
    return seal(VIDEO[:3] + os.urandom(size))


@pytest.mark.parametrize(("option", "most"), [({}, DEFAULT_HOLD_BYTES), ({"hold_bytes": 100_000}, 100_000)])
async def test_frames_that_wait_are_bounded_in_bytes_as_well_as_in_number(option, most):
    keys, seal = provider(None), sealer(kind="video")
    _, bob = receiving(keys, "videosdk", hold_frames=256, **option)
    size = most // 10
    for number in range(256):
        assert bob.open(big(seal, size), number) == []
        frames, held, lost = waiting(bob)
        assert held <= most
        assert frames + lost == number + 1
        assert bob.held == (lost == 0)
    assert waiting(bob)[0] == 9  # what is sealed is some 30 bytes longer than a tenth
    assert sum(len(frame) for frame, _, _ in bob._held._frames) == waiting(bob)[1]
    keys.set_shared_key(KEY)
    opened = bob.open(seal(VIDEO), 256)
    assert [tag for _, tag in opened] == list(range(247, 257))
    assert waiting(bob)[:2] == (0, 0)


async def test_a_frame_above_the_limit_does_not_wait_and_costs_no_other_its_place():
    keys, seal = provider(None), sealer(kind="video")
    _, bob = receiving(keys, "videosdk", hold_frames=8, hold_bytes=10_000)
    bob.open(seal(VIDEO), 0)
    assert bob.held
    bob.open(big(seal, 10_000), 1)
    assert not bob.held
    assert waiting(bob) == (1, len(seal(VIDEO)), 1)


async def test_many_tracks_hold_no_more_than_each_may():
    e2ee = E2EEManager(provider(None), "videosdk", hold_frames=256, hold_bytes=50_000)
    seal = sealer(kind="video")
    tracks = [e2ee.receiver_transform("bob", "video", "vp8", track_id=str(number)) for number in range(8)]
    for bob in tracks:
        for number in range(64):
            bob.open(big(seal, 4_000), number)
    assert sum(waiting(bob)[1] for bob in tracks) <= 8 * 50_000


async def test_frames_that_were_lost_to_make_room_are_reported(caplog):
    keys, seal, heard = provider(None), sealer(kind="video"), []
    e2ee, bob = receiving(keys, "videosdk", hold_frames=2)
    e2ee.on("e2ee-state-change", heard.append)
    for number in range(50):
        bob.open(seal(VIDEO), number)
    keys.set_shared_key(KEY)
    bob.open(seal(VIDEO), 50)
    await delivered()
    assert [change.state for change in heard] == [S.MissingKey, S.DecryptionSuccess]
    assert heard[1].counters["held_lost"] == 48
    (message,) = [text for text in caplog.messages if "hold" in text]
    assert "hold_frames" in message and "hold_bytes" in message


@pytest.mark.parametrize("given", [0, -1, MAX_HOLD_BYTES + 1])
def test_a_number_of_held_bytes_out_of_range_is_refused(given):
    with pytest.raises(ValueError, match=f"hold_bytes must be between 1 and {MAX_HOLD_BYTES}, not {given}"):
        E2EEManager(provider(), "videosdk", hold_bytes=given)
    with pytest.raises(TypeError, match="hold_bytes must be an int"):
        E2EEManager(provider(), "videosdk", hold_bytes="8")


async def test_without_holding_the_counters_say_nothing_waits():
    _, bob = receiving(provider(None))
    bob.decrypt(VIDEO)
    assert waiting(bob) == (0, 0, 0)


# ---- what a frame that fails costs the decoder's thread


class Counted(bytes):
    """A frame that counts the bytes which Python code takes out of it."""

    taken = 0

    def __getitem__(self, place):
        part = bytes.__getitem__(self, place)
        type(self).taken += len(part) if isinstance(part, bytes) else 1
        return part

    def __iter__(self):
        raise AssertionError("byte by byte")

    def __bytes__(self):
        raise AssertionError("a copy of the whole")


LARGE = 150_000
FRAMES = {
    "noise": (b"\0\0\0\1\x67\x42\0\0\0\1\x68\xce\0\0\0\1\x65\x88", os.urandom),
    "zeros": (b"", bytes),
    "slices": (b"\0\0\0\1\x67\x42", lambda count: b"\0\0\1\x61" * (count // 4)),
    "parameter sets": (b"\0\0\0\1\x67\x42", lambda count: b"\0\0\1\x67" * (count // 4)),
    "escapes": (b"\0\0\0\1\x65\x88", lambda count: b"\0\0\3" * (count // 3)),
    "a picture": (b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xf0\x00", os.urandom),
}
# Two bytes each: behind noise, a single one would now and then end a trailer that claims another key, and be reported.
FOOTER = bytes(13) + bytes.fromhex("800a 01 e2eefeed")
ENDS = {"no trailer": b"\x55\x55", "a trailer": b"\x0c\0", "a footer": FOOTER, "a stop bit": b"\x55\x80"}


def instructions(work) -> int:
    """Count the bytecodes that *work* takes in this thread."""
    executed = 0

    def step(frame, event, argument):
        nonlocal executed
        frame.f_trace_opcodes = True
        executed += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        work()
    finally:
        sys.settrace(before)
    return executed


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
@pytest.mark.parametrize("codec", ["vp8", "h264", "vp9", None])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("filling", FRAMES)
async def test_a_large_frame_that_fails_costs_python_no_more_than_a_small_one(profile, codec, end, filling):
    head, fill = FRAMES[filling]
    _, bob = receiving(profile=profile, codec=codec)

    def failing(size: int) -> Counted:
        return Counted(head + fill(size) + ENDS[end])

    # Warm, with a state and beyond the probes: the next frame is like any that follows.
    for _ in range(20):
        assert bob.decrypt(failing(LARGE)) is None
    Counted.taken = 0
    large, costs = [failing(LARGE) for _ in range(40)], []
    for frame in large:
        costs.append(instructions(lambda frame=frame: bob.decrypt(frame)))
    assert Counted.taken <= len(large) * 2048
    # Work for each byte would cost 150,000. On a slow machine a diagnosis falls due meanwhile, or a collection calls
    # what earlier tests have left: some 2,000 each.
    assert sorted(costs)[-3] <= 2000
    assert max(costs) <= 10_000


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_a_frame_that_opens_after_one_that_failed_costs_python_no_more_for_being_large(profile, codec):
    """The core reads the key id that a success names."""
    _, bob = receiving(profile=profile, codec=codec)
    seal = E2EEManager(provider(), profile).sender_transform("bob", "video", codec).encrypt
    head = b"\0\0\0\1\x65\x88" if codec == "h264" else VIDEO[:10]
    wrong = E2EEManager(provider(OTHER_KEY), profile).sender_transform("bob", "video", codec).encrypt
    bob.decrypt(seal(head + AUDIO))
    costs, Counted.taken = [], 0
    for _ in range(20):
        bob.decrypt(wrong(head + AUDIO))
        good = Counted(seal(head + os.urandom(LARGE)))
        costs.append(instructions(lambda good=good: bob.decrypt(good)))
        assert bob.track.state is not None
    assert bob.stats()["frames"] == 21
    assert Counted.taken <= 20 * 256
    assert max(costs) <= 2000
