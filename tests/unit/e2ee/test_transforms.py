"""Transforms: every outcome of a frame becomes its state, nothing raises, and nothing unsafe comes out."""

import asyncio
import json

import pytest

from frameseal import E2EEManager, E2EEState, FrameError, KeyExhausted, KeyProvider, MalformedFrame, ReplayedFrame
from frameseal.e2ee.transforms import _REASONS, QUIET_FRAMES
from support.e2ee_helpers import (
    AUDIO,
    EMPTY,
    KEY,
    NO_FRAME,
    OTHER_KEY,
    VIDEO,
    Failing,
    Recorder,
    delivered,
    provider,
    sealer,
)
from support.paths import ROOT, VECTORS

S = E2EEState


def damaged(sealed: bytes) -> bytes:
    """Flip one bit of the ciphertext: what a frame that lost something on the way fails with, too."""
    return sealed[:12] + bytes([sealed[12] ^ 1]) + sealed[13:]


# ---- sending


async def test_sealing_reports_success_once_and_what_is_sent_is_sealed():
    call = Recorder()
    sender = call.manager.sender_transform("alice", "audio", "opus", track_id="mic")
    sealed = [sender.encrypt(AUDIO) for _ in range(20)]
    assert all(one is not None and AUDIO[1:] not in one for one in sealed)
    assert await call.states() == [S.EncryptionSuccess]
    change = call.changes[0]
    assert (change.participant_id, change.kind, change.direction, change.track_id) == ("alice", "audio", "send", "mic")
    assert (change.key_id, change.reason) == (0, None)
    assert change.counters
    assert change.time > 0


async def test_without_a_key_nothing_is_sent_and_missing_key_is_reported_once_until_a_key_comes():
    call = Recorder(key=None)
    sender = call.manager.sender_transform("alice", "video", "vp8")
    assert [sender.encrypt(VIDEO) for _ in range(20)] == [None] * 20
    assert await call.states() == [S.MissingKey]
    assert (call.changes[0].reason, call.changes[0].key_id) == ("unknown_key", 0)
    call.provider.set_shared_key(KEY)
    assert sender.encrypt(VIDEO) is not None
    assert await call.states() == [S.MissingKey, S.EncryptionSuccess]


async def test_a_frame_that_the_codec_cannot_describe_is_dropped_as_encryption_failed_and_the_next_recovers():
    call = Recorder()
    sender = call.manager.sender_transform("alice", "video", "vp8")
    assert sender.encrypt(b"\x01") is None
    assert sender.encrypt(VIDEO) is not None
    assert await call.states() == [S.EncryptionFailed, S.EncryptionSuccess]
    assert call.changes[0].reason == "malformed_frame"


async def test_an_exhausted_key_is_encryption_failed():
    call = Recorder()
    sender = call.manager.sender_transform("alice", "video", "vp8")
    sender._cipher = Failing(KeyExhausted("no nonces left", 3))
    assert sender.encrypt(VIDEO) is None
    assert await call.states() == [S.EncryptionFailed]
    assert (call.changes[0].reason, call.changes[0].key_id) == ("key_exhausted", 3)


async def test_parameter_sets_alone_are_held_back_without_a_state():
    call = Recorder()
    sender = call.manager.sender_transform("alice", "video", "h264")
    assert sender.encrypt(b"\0\0\0\1\x67\x42\xc0\x1f\xda") == b""
    assert await call.states() == []


# ---- receiving


async def test_opening_reports_success_once_and_gives_the_frame_back():
    call, seal = Recorder(), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    assert [receiver.decrypt(seal(AUDIO)) for _ in range(20)] == [AUDIO] * 20
    assert await call.states() == [S.DecryptionSuccess]
    assert (call.changes[0].participant_id, call.changes[0].direction) == ("bob", "receive")


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
@pytest.mark.parametrize(("kind", "codec"), [("audio", "opus"), ("video", "vp8"), ("video", "h264"), ("video", None)])
async def test_each_change_names_the_key_id_a_success_too(profile, kind, codec):
    frame = b"\0\0\0\1\x65\x88" + bytes(range(1, 90)) if codec == "h264" else VIDEO
    far, keys = provider(None), provider(None)
    far.set_shared_key(KEY, 9)
    e2ee = E2EEManager(keys, profile)
    heard: list = []
    e2ee.on("e2ee-state-change", heard.append)
    sealing = E2EEManager(far, profile).sender_transform("bob", kind, codec)
    receiver = e2ee.receiver_transform("bob", kind, codec)
    for key in (None, OTHER_KEY, KEY):
        if key is not None:
            keys.set_shared_key(key, 9)
        receiver.decrypt(sealing.encrypt(frame))
    await delivered()
    assert [change.state for change in heard] == [S.MissingKey, S.DecryptionFailed, S.DecryptionSuccess]
    # In SFrame the other bits of a KID tell the senders of one shared key apart.
    assert [change.key_id & 0xFF for change in heard] == [9] * 3
    assert len({change.key_id for change in heard}) == 1


async def test_a_missing_key_is_reported_with_its_id_and_remembered_until_it_comes():
    call, seal = Recorder(), sealer(OTHER_KEY, key_id=5)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    assert not receiver.missing_key
    assert [receiver.decrypt(seal(AUDIO)) for _ in range(20)] == [None] * 20
    assert receiver.missing_key
    assert await call.states() == [S.MissingKey]
    assert (call.changes[0].reason, call.changes[0].key_id) == ("unknown_key", 5)
    call.provider.set_shared_key(OTHER_KEY, key_id=5)
    assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert not receiver.missing_key
    assert await call.states() == [S.MissingKey, S.DecryptionSuccess]


async def test_a_wrong_key_is_reported_at_the_first_frame_even_without_a_tolerance():
    call, seal = Recorder(failure_tolerance=-1), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    assert [receiver.decrypt(seal(AUDIO)) for _ in range(50)] == [None] * 50
    assert await call.states() == [S.DecryptionFailed]
    assert (call.changes[0].reason, call.changes[0].key_id) == ("authentication_failed", 0)


@pytest.mark.parametrize("tolerance", [1, 3, 10])
async def test_a_wrong_key_is_invalid_one_frame_beyond_the_tolerance_and_only_once(tolerance):
    call, seal = Recorder(failure_tolerance=tolerance), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(tolerance):
        receiver.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionFailed]
    receiver.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionFailed, S.InvalidKey]
    for _ in range(30):
        assert receiver.decrypt(seal(AUDIO)) is None
        receiver.decrypt(NO_FRAME)
    assert await call.states() == [S.DecryptionFailed, S.InvalidKey]


LIVEKIT = json.loads((VECTORS / "livekit.json").read_text("utf-8"))


@pytest.mark.parametrize("case", LIVEKIT["failure_tolerance"], ids=lambda case: f"tolerance {case['failureTolerance']}")
async def test_a_key_is_invalid_after_as_many_failures_as_in_livekits_worker_and_recovers_as_there(case):
    call, seal = Recorder(key=OTHER_KEY, failure_tolerance=case["failureTolerance"]), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    invalid_after = None
    for failures in range(1, 20):
        receiver.decrypt(seal(AUDIO))
        if invalid_after is None and (await call.states())[-1] is S.InvalidKey:
            invalid_after = failures
    assert invalid_after == case["key_marked_invalid_after_n_failures"]
    call.provider.set_shared_key(KEY)
    assert (receiver.decrypt(seal(AUDIO)) == AUDIO) == case["recovers_after_setKey"]


async def test_with_a_tolerance_of_none_at_all_the_first_failure_is_an_invalid_key():
    call, seal = Recorder(failure_tolerance=0), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    receiver.decrypt(seal(AUDIO))
    receiver.decrypt(seal(AUDIO))
    assert await call.states() == [S.InvalidKey]


async def test_an_invalid_key_is_reported_again_after_a_new_key_that_is_wrong_too():
    call, seal = Recorder(failure_tolerance=2), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(4):
        receiver.decrypt(seal(AUDIO))
    call.provider.set_shared_key(b"another wrong key")
    for _ in range(4):
        receiver.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionFailed, S.InvalidKey] * 2


async def test_an_invalid_key_recovers_with_the_right_key_and_without_any_other_help():
    call, seal = Recorder(failure_tolerance=2), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(9):
        receiver.decrypt(seal(AUDIO))
    call.provider.set_shared_key(OTHER_KEY)
    assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert await call.states() == [S.DecryptionFailed, S.InvalidKey, S.DecryptionSuccess]


async def test_a_frame_damaged_by_loss_is_a_failure_that_the_next_frame_heals():
    call, seal = Recorder(failure_tolerance=1), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(3):
        assert receiver.decrypt(damaged(seal(AUDIO))) is None
        assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert await call.states() == [S.DecryptionFailed, S.DecryptionSuccess] * 3


@pytest.mark.parametrize("profile", ["livekit", "stream", "sframe"])
@pytest.mark.parametrize("tolerance", [0, 2])
async def test_frames_that_are_known_to_have_lost_a_part_never_count(profile, tolerance):
    keys, far, heard = provider(failure_tolerance=tolerance), provider(), []
    e2ee = E2EEManager(keys, profile)
    e2ee.on("e2ee-state-change", heard.append)
    seal = E2EEManager(far, profile).sender_transform("bob", "video", "vp8").encrypt
    receiver = e2ee.receiver_transform("bob", "video", "vp8")
    assert receiver.decrypt(seal(VIDEO)) == VIDEO
    for _ in range(3):
        lost = [receiver.decrypt(seal(VIDEO)[20:], whole=False) for _ in range(QUIET_FRAMES - 1)]
        assert lost == [None] * len(lost)
        assert receiver.decrypt(seal(VIDEO)) == VIDEO
    await delivered()
    assert [change.state for change in heard] == [S.DecryptionSuccess], "no flapping, and no InvalidKey"

    # Failures among them are as many as without them.
    for _ in range(tolerance):
        receiver.decrypt(damaged(seal(VIDEO)))
        receiver.decrypt(damaged(seal(VIDEO)), whole=False)
    assert e2ee.state("bob", "video") is (S.DecryptionFailed if tolerance else S.DecryptionSuccess)
    receiver.decrypt(damaged(seal(VIDEO)))
    assert e2ee.state("bob", "video") is S.InvalidKey
    keys.set_shared_key(KEY)
    assert receiver.decrypt(seal(VIDEO)) == VIDEO

    # Nothing else coming is told all the same.
    for _ in range(QUIET_FRAMES):
        receiver.decrypt(damaged(seal(VIDEO)), whole=False)
    assert e2ee.state("bob", "video") is S.DecryptionFailed


async def test_a_whole_frame_of_a_sender_that_says_otherwise_still_opens():
    call, seal = Recorder(), sealer(kind="video")
    receiver = call.manager.receiver_transform("bob", "video", "vp8")
    assert receiver.decrypt(seal(VIDEO), whole=False) == VIDEO
    assert await call.states() == [S.DecryptionSuccess]


async def test_bandwidth_probes_before_the_first_video_frame_are_dropped_without_a_word():
    call, seal = Recorder(failure_tolerance=0), sealer(kind="video")
    receiver = call.manager.receiver_transform("bob", "video", "vp8")
    assert [receiver.decrypt(NO_FRAME) for _ in range(QUIET_FRAMES - 1)] == [None] * (QUIET_FRAMES - 1)
    assert not receiver.missing_key
    assert receiver.decrypt(seal(VIDEO)) == VIDEO
    assert await call.states() == [S.DecryptionSuccess]


@pytest.mark.parametrize("key_id", [0, 5])
async def test_probes_of_nothing_but_zeros_are_no_frames_under_a_wrong_or_a_missing_key(key_id):
    """As SFrame they parse: KID 0, CTR 0, no ciphertext to speak of, a tag of zeros."""
    keys, changes = KeyProvider(failure_tolerance=2), []
    keys.set_key("bob", KEY, key_id=key_id)
    call = E2EEManager(keys, profile="sframe")
    call.on("e2ee-state-change", changes.append)
    call.on("e2ee-missing-key", changes.append)
    receiver = call.receiver_transform("bob", "video", "vp8")
    assert [receiver.decrypt(bytes(200)) for _ in range(QUIET_FRAMES - 1)] == [None] * (QUIET_FRAMES - 1)
    await delivered()
    assert changes == []
    # And under a key that is wrong indeed the count begins with the first real frame.
    far = KeyProvider()
    far.set_key("bob", OTHER_KEY, key_id=key_id)
    sealed = E2EEManager(far, profile="sframe").sender_transform("bob", "video", "vp8").encrypt(VIDEO)
    states = []
    for _ in range(3):
        receiver.decrypt(sealed)
        states.append(call.state("bob", "video"))
    assert states == [S.DecryptionFailed, S.DecryptionFailed, S.InvalidKey]


async def test_video_that_is_never_a_sealed_frame_is_reported_after_a_run_of_them():
    call = Recorder()
    receiver = call.manager.receiver_transform("bob", "video", "vp8")
    assert [receiver.decrypt(VIDEO) for _ in range(QUIET_FRAMES * 3)] == [None] * QUIET_FRAMES * 3
    assert await call.states() == [S.DecryptionFailed]
    assert call.changes[0].reason == "malformed_frame"


async def test_unsealed_audio_and_unsealed_video_after_a_sealed_frame_are_reported_at_once():
    call, seal = Recorder(), sealer(kind="video")
    assert call.manager.receiver_transform("bob", "audio", "opus").decrypt(AUDIO) is None
    video = call.manager.receiver_transform("bob", "video", "vp8")
    video.decrypt(seal(VIDEO))
    assert video.decrypt(VIDEO) is None
    assert await call.states() == [S.DecryptionFailed, S.DecryptionSuccess, S.DecryptionFailed]


async def test_replays_are_dropped_quietly_unless_nothing_else_comes():
    call, seal = Recorder(), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    receiver.decrypt(seal(AUDIO))
    cipher, receiver._cipher = receiver._cipher, Failing(ReplayedFrame("seen", 0))
    assert [receiver.decrypt(seal(AUDIO)) for _ in range(QUIET_FRAMES - 1)] == [None] * (QUIET_FRAMES - 1)
    assert await call.states() == [S.DecryptionSuccess]
    receiver.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionSuccess, S.DecryptionFailed]
    assert call.changes[-1].reason == "replayed_frame"
    receiver._cipher = cipher
    assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert await call.states() == [S.DecryptionSuccess, S.DecryptionFailed, S.DecryptionSuccess]


async def test_frames_passed_over_in_silence_add_up_only_in_a_row():
    call, seal = Recorder(), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    cipher = receiver._cipher
    for _ in range(3):
        receiver._cipher = cipher
        assert receiver.decrypt(seal(AUDIO)) == AUDIO
        receiver._cipher = Failing(ReplayedFrame("seen", 0))
        assert [receiver.decrypt(seal(AUDIO)) for _ in range(QUIET_FRAMES - 1)] == [None] * (QUIET_FRAMES - 1)
    assert await call.states() == [S.DecryptionSuccess]


async def test_an_invalid_key_that_recovered_hides_nothing_that_comes_after_it():
    call, seal, wrong = Recorder(failure_tolerance=0), sealer(), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for frame in (wrong(AUDIO), seal(AUDIO), AUDIO, wrong(AUDIO)):
        receiver.decrypt(frame)
    assert await call.states() == [S.InvalidKey, S.DecryptionSuccess, S.DecryptionFailed, S.InvalidKey]


async def test_a_key_that_is_there_but_wrong_is_not_a_missing_one():
    call, missing, wrong = Recorder(), sealer(key_id=5), sealer(OTHER_KEY)
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for spoiled in (wrong(AUDIO), NO_FRAME):
        receiver.decrypt(missing(AUDIO))
        assert receiver.missing_key
        receiver.decrypt(spoiled)
        assert not receiver.missing_key


async def test_a_kind_of_frame_error_that_is_not_known_here_is_a_failure_with_its_name():
    class NewFailure(FrameError):
        """Something that a later core may raise."""

    call = Recorder()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    receiver._cipher = Failing(NewFailure("what happened", 2))
    assert receiver.decrypt(AUDIO) is None
    assert await call.states() == [S.DecryptionFailed]
    assert call.changes[0].reason == "NewFailure"


# ---- both directions


@pytest.mark.parametrize("discard", [True, False])
async def test_the_flag_decides_about_empty_frames_and_nothing_else(discard):
    with_key = Recorder(discard_frame_when_cryptor_not_ready=discard)
    without_key = Recorder(key=None, discard_frame_when_cryptor_not_ready=discard)
    for call in (with_key, without_key):
        sender = call.manager.sender_transform("alice", "audio", "opus")
        receiver = call.manager.receiver_transform("bob", "audio", "opus")
        expected = None if discard else b""
        assert (sender.encrypt(EMPTY), receiver.decrypt(EMPTY)) == (expected, expected)
        assert await call.states() == []
        assert receiver.decrypt(AUDIO) is None
        assert sender.encrypt(AUDIO) != AUDIO
    assert without_key.manager.sender_transform("alice", "audio", "opus").encrypt(AUDIO) is None


@pytest.mark.parametrize("discard", [True, False])
@pytest.mark.parametrize("hold_frames", [0, 8])
async def test_a_frame_that_was_sealed_empty_is_a_success_and_holds_nothing_to_decode(discard, hold_frames):
    """SFrame only: another sender may seal one, though the transforms of this package never do."""
    sender = E2EEManager(provider(), "sframe").sender_transform("bob", "audio", "opus")
    keys = provider(discard_frame_when_cryptor_not_ready=discard)
    manager = E2EEManager(keys, "sframe", hold_frames=hold_frames)
    receiver = manager.receiver_transform("bob", "audio", "opus")
    assert not sender.encrypt(EMPTY)
    seal = sender._cipher.encrypt
    assert receiver.decrypt(seal(EMPTY)) == (None if discard else b"")
    assert manager.state("bob", "audio") is S.DecryptionSuccess
    assert receiver.open(seal(EMPTY), "tag") == [(b"", "tag")]
    assert receiver.open(seal(AUDIO), "tag") == [(AUDIO, "tag")]
    assert receiver.open(EMPTY, "tag") == receiver.open(seal(EMPTY)[:-1], "tag") == []
    assert not receiver.held
    assert manager.state("bob", "audio") is S.DecryptionFailed
    assert receiver.open(seal(EMPTY), "tag") == [(b"", "tag")]
    assert manager.state("bob", "audio") is S.DecryptionSuccess


@pytest.mark.parametrize("frame", [None, 5, "text", object()])
async def test_what_is_no_frame_at_all_is_an_internal_error_and_no_exception(frame):
    call = Recorder()
    assert call.manager.sender_transform("alice", "audio", "opus").encrypt(frame) is None
    assert call.manager.receiver_transform("bob", "video", "vp8").decrypt(frame) is None
    assert await call.states() == [S.InternalError, S.InternalError]
    assert {change.reason for change in call.changes} == {"TypeError"}


class Panic(BaseException):
    """As a panic of the native module crosses into Python."""


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), Panic("a defect"), MemoryError()])
async def test_a_defect_is_an_internal_error_logged_once_and_healed_by_the_next_frame(error, caplog):
    call, seal = Recorder(), sealer()
    sender = call.manager.sender_transform("alice", "audio", "opus")
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for transform, work, good in ((sender, sender.encrypt, AUDIO), (receiver, receiver.decrypt, seal(AUDIO))):
        caplog.clear()
        cipher, transform._cipher = transform._cipher, Failing(error)
        assert [work(good) for _ in range(5)] == [None] * 5
        assert len([record for record in caplog.records if record.name == "frameseal"]) == 1
        transform._cipher = cipher
        assert work(good) is not None
    assert await call.states() == [S.InternalError, S.EncryptionSuccess, S.InternalError, S.DecryptionSuccess]
    assert call.changes[0].reason == type(error).__name__


async def test_even_reporting_may_fail_without_raising(caplog):
    class Broken(Failing):
        def stats(self):
            raise ZeroDivisionError

    call = Recorder()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    receiver._cipher = Broken(MalformedFrame("what happened"))
    assert receiver.decrypt(AUDIO) is None
    assert "could not report" in caplog.text


async def test_an_interrupt_from_the_keyboard_is_not_swallowed():
    sender = Recorder().manager.sender_transform("alice", "audio", "opus")
    sender._cipher = Failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        sender.encrypt(AUDIO)


async def test_one_transform_serves_many_threads_at_once():
    call, seal = Recorder(), sealer()
    sender = call.manager.sender_transform("alice", "audio", "opus")
    receiver = call.manager.receiver_transform("bob", "audio", "opus")

    def work() -> int:
        sealed = {sender.encrypt(AUDIO) for _ in range(200)}
        assert None not in sealed
        assert [receiver.decrypt(seal(AUDIO)) for _ in range(200)] == [AUDIO] * 200
        return len(sealed)

    assert await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4))) == [200] * 4
    assert sorted(await call.states()) == [S.DecryptionSuccess, S.EncryptionSuccess]


async def test_a_transform_names_its_kind_and_neither_a_key_nor_a_participant():
    transform = Recorder().manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    assert repr(transform) == "<ReceiverTransform of audio>"


@pytest.mark.parametrize("name", [*E2EEState, *_REASONS.values()])
def test_the_documentation_explains_every_state_and_reason(name):
    text = (ROOT / "docs" / "guide" / "states.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line]
    assert rows
