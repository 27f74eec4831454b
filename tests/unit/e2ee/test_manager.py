"""The manager: states per participant, kind and track; events on change only, on the loop, whatever listeners do."""

import asyncio
import dataclasses
import gc
import itertools
import json
import logging
import pickle
import threading

import pytest

from frameseal import E2EEManager, E2EEState, Profile
from frameseal.e2ee.track import CHANGE_BURST, GRACE_PERIOD
from frameseal.emitter import MAX_PENDING_EVENTS
from support.e2ee_helpers import AUDIO, KEY, NO_FRAME, OTHER_KEY, VIDEO, Clock, Recorder, delivered, provider, sealer

S = E2EEState


# ---- what it hands out, and for whom


@pytest.mark.parametrize("profile", ["livekit", "videosdk", Profile.LIVEKIT])
async def test_the_two_ends_of_a_call_understand_each_other_in_every_profile(profile):
    alice, bob = E2EEManager(provider("secret"), profile), E2EEManager(provider("secret"), profile)
    assert alice.profile is Profile(profile)
    for kind, codec, frame in (("audio", "opus", AUDIO), ("video", "vp8", VIDEO)):
        sealed = alice.sender_transform("alice", kind, codec).encrypt(frame)
        assert bob.receiver_transform("alice", kind, codec).decrypt(sealed) == frame


def test_a_profile_is_required_and_an_unknown_one_is_refused():
    assert E2EEManager(provider(), "videosdk").profile is Profile.VIDEOSDK
    with pytest.raises(TypeError, match="profile"):
        E2EEManager(provider())
    with pytest.raises(ValueError, match="unknown profile: expected one of livekit, videosdk"):
        E2EEManager(provider(), "zoom")


@pytest.mark.parametrize("options", [{"hold_frames": 2.5}, {"hold_frames": "8"}, {"on_missing_key": 5}])
def test_options_of_another_type_are_refused_at_once(options):
    (name,) = options
    with pytest.raises(TypeError, match=name):
        E2EEManager(provider(), "videosdk", **options)


@pytest.mark.parametrize("what", ["the key itself", KEY, None])
def test_what_is_no_provider_is_refused_without_showing_it(what):
    with pytest.raises(
        TypeError, match=f"^provider must be a provider of keys, such as a KeyProvider, not {type(what).__name__}$"
    ):
        E2EEManager(what, "videosdk")


@pytest.mark.parametrize("direction", ["sender_transform", "receiver_transform"])
def test_a_codec_that_cannot_be_sealed_and_an_unknown_kind_are_refused_when_attaching(direction):
    manager = E2EEManager(provider(), "videosdk")
    for codec in ("av1", "unknown codec"):
        with pytest.raises(ValueError, match=codec):
            getattr(manager, direction)("alice", "video", codec)
    with pytest.raises(ValueError, match="kind must be"):
        getattr(manager, direction)("alice", "share", "vp8")
    assert manager.state("alice", "video") is None


def test_encryption_is_enabled_as_soon_as_there_is_a_key_to_send_with():
    keys = provider(None)
    manager = E2EEManager(keys, "videosdk")
    assert not manager.is_e2ee_enabled
    keys.set_shared_key("secret", key_id=2)
    assert manager.is_e2ee_enabled


def test_a_provider_of_ones_own_with_a_key_for_each_participant_needs_no_change_of_the_manager():
    class PerParticipant:
        discard_frame_when_cryptor_not_ready = True

        def __init__(self):
            self.keys = {"alice": provider(KEY), "bob": provider(OTHER_KEY), "": provider(None)}

        def ring_for(self, profile, participant_id):
            return self.keys[participant_id].ring_for(profile, participant_id)

    here, there = E2EEManager(PerParticipant(), "videosdk"), E2EEManager(PerParticipant(), "videosdk")
    assert not here.is_e2ee_enabled
    sealed = here.sender_transform("alice", "audio", "opus").encrypt(AUDIO)
    assert here.is_e2ee_enabled
    assert there.receiver_transform("alice", "audio", "opus").decrypt(sealed) == AUDIO
    assert there.receiver_transform("bob", "audio", "opus").decrypt(sealed) is None


def test_repr_shows_no_key():
    assert "hunter2" not in repr(E2EEManager(provider("hunter2 hunter2"), "videosdk"))


# ---- states


async def test_every_one_of_the_seven_states_is_reached():
    call, wrong = Recorder(key=None, failure_tolerance=1), sealer(OTHER_KEY)
    sender = call.manager.sender_transform("alice", "video", "vp8")
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    sender.encrypt(VIDEO)
    call.provider.set_shared_key(KEY)
    sender.encrypt(VIDEO)
    sender.encrypt(b"\x01")
    receiver.decrypt(wrong(AUDIO))
    receiver.decrypt(wrong(AUDIO))
    receiver.decrypt(sealer()(AUDIO))
    call.manager.report_internal_error("bob", "audio", "decoder_gone")
    assert await call.states() == [
        S.MissingKey,
        S.EncryptionSuccess,
        S.EncryptionFailed,
        S.DecryptionFailed,
        S.InvalidKey,
        S.DecryptionSuccess,
        S.InternalError,
    ]
    assert {change.state for change in call.changes} == set(E2EEState)


async def test_each_participant_and_kind_has_a_state_of_its_own():
    call, seal = Recorder(), sealer()
    call.manager.receiver_transform("bob", "audio", "opus").decrypt(seal(AUDIO))
    call.manager.receiver_transform("carol", "audio", "opus").decrypt(AUDIO)
    assert call.manager.state("bob", "audio") is S.DecryptionSuccess
    assert call.manager.state("bob", "video") is None
    assert call.manager.state("carol", "audio") is S.DecryptionFailed
    await delivered()
    assert [(change.participant_id, change.kind, change.state) for change in call.changes] == [
        ("bob", "audio", S.DecryptionSuccess),
        ("carol", "audio", S.DecryptionFailed),
    ]


async def test_two_tracks_of_one_kind_do_not_make_each_other_flap_and_the_failing_one_is_not_hidden():
    call, seal = Recorder(), sealer(kind="video")
    camera = call.manager.receiver_transform("bob", "video", "vp8", track_id="camera")
    screen = call.manager.receiver_transform("bob", "video", "vp8", track_id="screen")
    screen.decrypt(seal(VIDEO))
    for _ in range(50):
        camera.decrypt(seal(VIDEO))
        screen.decrypt(VIDEO)
    await delivered()
    assert [(change.track_id, change.state) for change in call.changes] == [
        ("screen", S.DecryptionSuccess),
        ("camera", S.DecryptionSuccess),
        ("screen", S.DecryptionFailed),
    ]
    assert call.manager.state("bob", "video") is S.DecryptionFailed
    assert call.manager.state("bob", "video", track_id="camera") is S.DecryptionSuccess


async def test_two_tracks_without_an_id_are_still_two_tracks():
    call, seal = Recorder(), sealer()
    good = call.manager.receiver_transform("bob", "audio", "opus")
    bad = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(50):
        good.decrypt(seal(AUDIO))
        bad.decrypt(AUDIO)
    assert await call.states() == [S.DecryptionSuccess, S.DecryptionFailed]


async def test_a_failing_track_that_ended_does_not_taint_one_that_works():
    call, seal = Recorder(), sealer(kind="video")
    camera = call.manager.receiver_transform("bob", "video", "vp8", track_id="camera")
    screen = call.manager.receiver_transform("bob", "video", "vp8", track_id="screen")
    camera.decrypt(seal(VIDEO))
    screen.decrypt(seal(VIDEO))
    screen.decrypt(VIDEO)
    assert call.manager.state("bob", "video") is S.DecryptionFailed
    del screen
    gc.collect()
    assert call.manager.state("bob", "video") is S.DecryptionSuccess


async def test_the_last_state_outlives_its_transform_and_a_track_attached_again_goes_on_from_it():
    call, seal = Recorder(), sealer()
    for _ in range(5):
        call.manager.receiver_transform("bob", "audio", "opus", track_id="mic").decrypt(seal(AUDIO))
        gc.collect()
        assert call.manager.state("bob", "audio") is S.DecryptionSuccess
    assert await call.states() == [S.DecryptionSuccess]


async def test_tracks_that_come_and_go_leave_nothing_behind():
    call, seal = Recorder(), sealer()
    for _ in range(100):
        call.manager.receiver_transform("bob", "audio", "opus").decrypt(seal(AUDIO))
        gc.collect()
    assert len(call.manager._call._tracks) == 1


async def test_a_participant_who_left_is_forgotten_and_a_late_frame_of_theirs_is_not_news():
    call, seal = Recorder(), sealer()
    bob = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    carol = call.manager.receiver_transform("carol", "audio", "opus", track_id="mic")
    for receiver in (bob, carol):
        receiver.decrypt(seal(AUDIO))
    call.manager.remove_participant("bob")
    call.manager.remove_participant("nobody")
    assert bob.decrypt(AUDIO) is None
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    assert call.manager.state("bob", "audio") is None
    assert call.manager.state("carol", "audio") is S.DecryptionSuccess
    assert await call.states() == [S.DecryptionSuccess] * 2
    again = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    again.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionSuccess] * 3


@pytest.fixture
def clock() -> Clock:
    return Clock()


ENDS = {
    S.DecryptionSuccess: lambda seal, wrong, missing: seal(AUDIO),
    S.InvalidKey: lambda seal, wrong, missing: wrong(AUDIO),
    S.MissingKey: lambda seal, wrong, missing: missing(AUDIO),
    S.DecryptionFailed: lambda seal, wrong, missing: AUDIO,
}


@pytest.mark.parametrize("before", ENDS)
@pytest.mark.parametrize("after", ENDS)
@pytest.mark.parametrize("track_id", ["mic", None])
async def test_media_of_somebody_who_was_removed_are_a_new_record_after_a_grace(clock, before, after, track_id):
    call = Recorder(clock=clock, failure_tolerance=0)
    asked: list = []
    call.manager.on("e2ee-missing-key", asked.append)
    frames = sealer(), sealer(OTHER_KEY), sealer(key_id=5)
    bob = call.manager.receiver_transform("bob", "audio", "opus", track_id=track_id)
    for _ in range(3):
        bob.decrypt(ENDS[before](*frames))
    assert await call.states() == [before]
    call.manager.remove_participant("bob")
    asked.clear()
    for _ in range(5):  # late ones are no news
        bob.decrypt(ENDS[after](*frames))
        clock.now += GRACE_PERIOD / 6
    assert await call.states() == [before]
    assert call.manager.state("bob", "audio") is None and call.manager.tracks() == [] and asked == []
    clock.now += GRACE_PERIOD
    for _ in range(3):
        bob.decrypt(ENDS[after](*frames))
    assert await call.states() == [before, after]
    assert call.manager.state("bob", "audio") is after
    assert (call.changes[1].participant_id, call.changes[1].track_id, call.changes[1].detail) == ("bob", track_id, None)
    assert [(missing.participant_id, missing.key_id) for missing in asked] == [("bob", 5)] * (after is S.MissingKey)
    assert len(call.manager.tracks()) == 1


async def test_what_this_side_sends_is_a_new_record_too(clock):
    call = Recorder(clock=clock)
    alice = call.manager.sender_transform("alice", "audio", "opus", track_id="mic")
    alice.encrypt(AUDIO)
    call.manager.remove_participant("alice")
    alice.encrypt(AUDIO)
    assert call.manager.state("alice", "audio") is None
    clock.now += GRACE_PERIOD
    for _ in range(3):
        alice.encrypt(AUDIO)
    assert await call.states() == [S.EncryptionSuccess] * 2


async def test_somebody_who_is_removed_again_and_again_leaves_one_record(clock):
    call, seal = Recorder(clock=clock), sealer()
    bob = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    for _ in range(20):
        bob.decrypt(seal(AUDIO))
        call.manager.remove_participant("bob")
        assert call.manager.tracks() == []
        clock.now += GRACE_PERIOD
    assert await call.states() == [S.DecryptionSuccess] * 20
    assert len(bob.track.transforms) == 1


async def test_a_track_that_is_attached_anew_within_the_grace_is_a_new_record_at_once(clock):
    call, seal = Recorder(clock=clock), sealer()
    bob = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    bob.decrypt(seal(AUDIO))
    call.manager.remove_participant("bob")
    again = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    again.decrypt(seal(AUDIO))
    assert await call.states() == [S.DecryptionSuccess] * 2
    clock.now += GRACE_PERIOD
    bob.decrypt(seal(AUDIO))
    assert bob.track is again.track
    assert await call.states() == [S.DecryptionSuccess] * 2


async def test_a_track_that_is_removed_no_longer_decides_the_state():
    call, seal = Recorder(), sealer()
    tracks = {name: call.manager.receiver_transform("bob", "audio", "opus", track_id=name) for name in ("mic", "tab")}
    tracks["mic"].decrypt(AUDIO)
    tracks["tab"].decrypt(seal(AUDIO))
    assert call.manager.state("bob", "audio") is not S.DecryptionSuccess
    call.manager.remove_track("bob", "audio", track_id="nothing of this name")
    call.manager.remove_track("bob", "video")
    assert call.manager.state("bob", "audio") is not S.DecryptionSuccess
    call.manager.remove_track("bob", "audio", track_id="mic")
    assert call.manager.state("bob", "audio", track_id="mic") is None
    assert call.manager.state("bob", "audio") is S.DecryptionSuccess
    told = len(await call.states())
    assert tracks["mic"].decrypt(seal(AUDIO)) == AUDIO, "it works, and is not news"
    call.manager.remove_track("bob", "audio")
    assert call.manager.state("bob", "audio") is None
    assert len(await call.states()) == told


async def test_failures_of_a_track_in_doubt_are_not_told_until_the_doubt_is_over():
    """The transport asks whose frames they are: what fails may be somebody else's."""
    call, missing = Recorder(None), []
    call.manager.on("e2ee-missing-key", missing.append)
    bob, seal = call.manager.receiver_transform("bob", "audio", "opus"), sealer()
    bob.track.in_doubt = True
    for frame in (seal(AUDIO), AUDIO):
        assert bob.decrypt(frame) is None
    assert (await call.states(), missing, call.manager.state("bob", "audio")) == ([], [], None)
    bob.track.in_doubt = False
    bob.decrypt(seal(AUDIO))
    assert await call.states() == [S.MissingKey]
    assert len(missing) == 1
    call.provider.set_shared_key(KEY)
    bob.track.in_doubt = True
    assert bob.decrypt(seal(AUDIO)) == AUDIO
    assert await call.states() == [S.MissingKey, S.DecryptionSuccess]
    call.manager.report_internal_error("bob", "audio", "decoder_gone")
    assert await call.states() == [S.MissingKey, S.DecryptionSuccess, S.InternalError], "is nobody else's"


async def test_an_error_of_one_track_leaves_the_others_as_they_are():
    call, seal = Recorder(), sealer()
    tracks = {name: call.manager.receiver_transform("bob", "audio", "opus", track_id=name) for name in ("mic", "tab")}
    for transform in tracks.values():
        transform.decrypt(seal(AUDIO))
    for name in ("mic", "new"):
        call.manager.report_internal_error("bob", "audio", "decoder_gone", track_id=name)
    states = {name: call.manager.state("bob", "audio", track_id=name) for name in ("mic", "tab", "new")}
    assert states == {"mic": S.InternalError, "tab": S.DecryptionSuccess, "new": S.InternalError}


async def test_an_error_reported_by_the_transport_concerns_each_track_of_the_kind_until_its_next_good_frame():
    call, seal = Recorder(), sealer()
    mic = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    mic.decrypt(seal(AUDIO))
    for _ in range(5):
        call.manager.report_internal_error("bob", "audio", "decoder_gone")
    assert call.manager.state("bob", "audio") is S.InternalError
    assert mic.decrypt(seal(AUDIO)) == AUDIO
    assert await call.states() == [S.DecryptionSuccess, S.InternalError, S.DecryptionSuccess]
    assert (call.changes[1].reason, call.changes[1].track_id) == ("decoder_gone", "mic")


async def test_an_error_may_be_reported_before_there_is_any_track():
    call, seal = Recorder(), sealer()
    for _ in range(5):
        call.manager.report_internal_error("bob", "audio", "unsupported_codec")
    assert await call.states() == [S.InternalError]
    assert (call.changes[0].direction, call.changes[0].track_id) == (None, None)
    call.manager.receiver_transform("bob", "audio", "opus").decrypt(seal(AUDIO))
    assert call.manager.state("bob", "audio") is S.DecryptionSuccess
    with pytest.raises(ValueError, match="kind must be"):
        call.manager.report_internal_error("bob", "share", "unsupported_codec")


async def test_a_track_that_flaps_at_frame_rate_does_not_flood_and_its_true_state_still_arrives(clock):
    call, seal = Recorder(clock=clock), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")
    for _ in range(500):
        receiver.decrypt(seal(AUDIO))
        receiver.decrypt(AUDIO)
    states = await call.states()
    assert len(states) == CHANGE_BURST
    assert states[-1] is S.DecryptionFailed
    assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert call.manager.state("bob", "audio") is S.DecryptionFailed
    clock.now += 1
    assert receiver.decrypt(seal(AUDIO)) == AUDIO
    assert (await call.states())[CHANGE_BURST:] == [S.DecryptionSuccess]
    clock.now += 1_000_000
    for _ in range(500):
        receiver.decrypt(AUDIO)
        receiver.decrypt(seal(AUDIO))
    assert len(await call.states()) == 2 * CHANGE_BURST + 1


# ---- events: where and when


async def test_listeners_run_on_the_loops_thread_whatever_thread_the_frames_are_in():
    call, seal = Recorder(), sealer()
    threads: set[int] = set()
    awaited = 0

    @call.manager.on("e2ee-state-change")
    def plain(change):
        threads.add(threading.get_ident())

    @call.manager.on("e2ee-state-change")
    async def coroutine(change):
        nonlocal awaited
        await asyncio.sleep(0)
        threads.add(threading.get_ident())
        awaited += 1

    def hammer(number: int) -> None:
        receiver = call.manager.receiver_transform(f"bob-{number}", "audio", "opus")
        for _ in range(10):
            receiver.decrypt(seal(AUDIO))
            receiver.decrypt(NO_FRAME)

    await asyncio.gather(*(asyncio.to_thread(hammer, number) for number in range(8)))
    states = await call.states()
    assert threads == {threading.get_ident()}
    assert len(states) == awaited == 8 * 20
    for number in range(8):
        own = [change.state for change in call.changes if change.participant_id == f"bob-{number}"]
        assert own == [S.DecryptionSuccess, S.DecryptionFailed] * 10


async def test_threads_that_share_a_track_report_changes_only():
    call, seal = Recorder(), sealer()
    receiver = call.manager.receiver_transform("bob", "audio", "opus")

    def hammer() -> None:
        for _ in range(100):
            receiver.decrypt(seal(AUDIO))
            receiver.decrypt(AUDIO)

    await asyncio.gather(*(asyncio.to_thread(hammer) for _ in range(4)))
    states = await call.states()
    assert states[0] in (S.DecryptionSuccess, S.DecryptionFailed)
    assert all(before is not after for before, after in itertools.pairwise(states))


def test_what_happened_before_there_is_a_loop_is_delivered_when_one_is_bound_the_latest_first_kept():
    keys, seal = provider(), sealer()
    manager = E2EEManager(keys, "videosdk")
    seen = []
    manager.on("e2ee-state-change", seen.append)
    for number in range(MAX_PENDING_EVENTS + 10):
        manager.receiver_transform(f"bob-{number}", "audio", "opus").decrypt(seal(AUDIO))
    assert seen == []
    assert manager.state("bob-0", "audio") is S.DecryptionSuccess

    async def call() -> None:
        manager.bind_loop(asyncio.get_running_loop())
        assert seen == []
        await delivered()

    asyncio.run(call())
    assert [change.participant_id for change in seen] == [
        f"bob-{number}" for number in range(10, MAX_PENDING_EVENTS + 10)
    ]


def test_a_closed_loop_is_no_error_and_the_next_call_may_bind_its_own():
    manager, seal = E2EEManager(provider(), "videosdk"), sealer()
    seen = []
    manager.on("e2ee-state-change", seen.append)

    async def bind() -> None:
        manager.bind_loop(asyncio.get_running_loop())
        await delivered()

    asyncio.run(bind())
    assert manager.receiver_transform("bob", "audio", "opus").decrypt(seal(AUDIO)) == AUDIO
    assert seen == []
    asyncio.run(bind())
    assert [change.state for change in seen] == [S.DecryptionSuccess]


async def test_the_first_loop_that_is_bound_wins():
    other = asyncio.new_event_loop()
    try:
        call, seal = Recorder(), sealer()
        call.manager.bind_loop(other)
        call.manager.receiver_transform("bob", "audio", "opus").decrypt(seal(AUDIO))
        assert await call.states() == [S.DecryptionSuccess]
    finally:
        other.close()


async def test_a_loop_may_be_given_from_the_start():
    other = asyncio.new_event_loop()
    try:
        manager = E2EEManager(provider(), "videosdk", loop=other)
        seen = []
        manager.on("e2ee-state-change", seen.append)
        manager.receiver_transform("bob", "audio", "opus").decrypt(AUDIO)
        await delivered()
        assert seen == []
        await asyncio.to_thread(other.run_until_complete, delivered())
        assert [change.state for change in seen] == [S.DecryptionFailed]
    finally:
        other.close()


# ---- listeners that misbehave


def raising(change):
    raise RuntimeError("listener trouble")


async def raising_later(change):
    await asyncio.sleep(0)
    raise RuntimeError("listener trouble")


@pytest.mark.parametrize("listener", [raising, raising_later])
async def test_a_listener_that_raises_is_logged_and_harms_nothing(listener, caplog):
    manager, seal = E2EEManager(provider(), "videosdk"), sealer()
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
    seen, errors = [], []
    manager.on("e2ee-state-change", listener)
    manager.on("e2ee-state-change", seen.append)
    with caplog.at_level(logging.ERROR, logger="frameseal"):
        receiver = manager.receiver_transform("bob", "audio", "opus")
        assert receiver.decrypt(seal(AUDIO)) == AUDIO
        await delivered()
        manager.on("error", errors.append)
        assert receiver.decrypt(AUDIO) is None
        await delivered()
    assert [change.state for change in seen] == [S.DecryptionSuccess, S.DecryptionFailed]
    assert [str(error) for error in errors] == ["listener trouble"]
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError, RuntimeError]
    assert unhandled == []
    assert not manager._waiting  # pyee 11 has no `complete`


@pytest.mark.parametrize("error_listener", [raising, raising_later])
async def test_an_error_listener_that_raises_is_logged_and_not_told_about_itself(error_listener, caplog):
    manager = E2EEManager(provider(), "videosdk")
    calls = []

    @manager.on("error")
    def counting(error):
        calls.append(error)

    manager.on("error", error_listener)
    manager.on("e2ee-state-change", raising)
    with caplog.at_level(logging.ERROR, logger="frameseal"):
        manager.receiver_transform("bob", "audio", "opus").decrypt(AUDIO)
        await delivered()
        await delivered()
    assert len(calls) == 1
    assert len(caplog.records) == 2
    assert not manager._waiting  # pyee 11 has no `complete`


async def test_removing_all_listeners_does_not_bring_back_exceptions(caplog):
    manager = E2EEManager(provider(), "videosdk")
    manager.remove_all_listeners()
    manager.on("e2ee-state-change", raising)
    manager.receiver_transform("bob", "audio", "opus").decrypt(AUDIO)
    await delivered()
    assert "listener trouble" in caplog.text


async def test_a_change_is_frozen_and_goes_into_sets_json_and_pickles():
    call = Recorder()
    call.manager.receiver_transform("bob", "audio", "opus").decrypt(AUDIO)
    await delivered()
    change = call.changes[0]
    with pytest.raises(AttributeError):
        change.state = S.DecryptionSuccess
    assert len({change, change}) == 1
    assert json.loads(json.dumps(dataclasses.asdict(change)))["state"] == "DecryptionFailed"
    assert pickle.loads(pickle.dumps(change)) == change


# ---- senders that say they do not encrypt, and tracks that end


async def test_a_track_whose_sender_says_it_is_plain_is_an_internal_error_until_a_frame_of_it_opens():
    call, seal, other = Recorder(failure_tolerance=1), sealer(), sealer(OTHER_KEY)
    call.manager.report_not_encrypted("bob", "audio", track_id="mic")
    call.manager.report_not_encrypted("bob", "audio", track_id="mic")
    transform = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    for frame in (NO_FRAME, AUDIO, other(AUDIO), other(AUDIO), other(AUDIO), sealer(key_id=3)(AUDIO)):
        assert transform.decrypt(frame) is None
    assert await call.states() == [S.InternalError]
    (change,) = call.changes
    assert (change.reason, change.track_id, change.direction) == ("sender_not_encrypted", "mic", "receive")
    assert transform.decrypt(seal(AUDIO)) == AUDIO
    assert transform.decrypt(other(AUDIO)) is None
    assert await call.states() == [S.InternalError, S.DecryptionSuccess, S.DecryptionFailed]


@pytest.mark.parametrize("screen_first", [True, False], ids=["screen first", "camera first"])
async def test_it_is_said_of_that_track_and_of_no_other_of_its_kind(screen_first):
    call, seal = Recorder(), sealer(kind="video")
    if screen_first:
        call.manager.report_not_encrypted("bob", "video", track_id="screen")
    camera = call.manager.receiver_transform("bob", "video", "vp8", track_id="camera")
    assert camera.decrypt(seal(VIDEO)) == VIDEO
    if not screen_first:
        call.manager.report_not_encrypted("bob", "video", track_id="screen")
    again = call.manager.receiver_transform("bob", "video", "vp8", track_id="another")
    assert again.decrypt(seal(VIDEO)) == VIDEO
    screen = call.manager.receiver_transform("bob", "video", "vp8", track_id="screen")
    for _ in range(20):
        assert screen.decrypt(sealer(OTHER_KEY, kind="video")(VIDEO)) is None
    await delivered()
    assert {(change.track_id, change.state) for change in call.changes} == {
        ("camera", S.DecryptionSuccess),
        ("another", S.DecryptionSuccess),
        ("screen", S.InternalError),
    }
    assert call.manager.state("bob", "video", track_id="camera") is S.DecryptionSuccess
    assert call.manager.state("bob", "video", track_id="screen") is S.InternalError
    assert call.manager.state("bob", "video") is S.InternalError


async def test_a_track_that_may_not_change_for_now_says_so_as_soon_as_it_may(clock):
    call, seal, other = Recorder(clock=clock), sealer(), sealer(OTHER_KEY)
    transform = call.manager.receiver_transform("bob", "audio", "opus", track_id="mic")
    for number in range(CHANGE_BURST):
        transform.decrypt((seal, other)[number % 2](AUDIO))
    call.manager.report_not_encrypted("bob", "audio", track_id="mic")
    assert (await call.states())[-1] is S.DecryptionFailed, "held back"
    clock.now += 1.5
    transform.decrypt(other(AUDIO))
    assert (await call.states())[-1] is S.InternalError
    assert call.changes[-1].reason == "sender_not_encrypted"


async def test_a_track_that_is_removed_has_no_state_and_the_others_keep_theirs():
    call, seal = Recorder(), sealer(kind="video")
    for track_id in ("camera", "screen"):
        transform = call.manager.receiver_transform("bob", "video", "vp8", track_id=track_id)
        transform.decrypt(seal(VIDEO) if track_id == "camera" else sealer(OTHER_KEY, kind="video")(VIDEO))
    assert call.manager.state("bob", "video") is S.DecryptionFailed
    call.manager.remove_track("bob", "video", track_id="screen")
    call.manager.remove_track("bob", "video", track_id="no such track")
    call.manager.remove_track("nobody", "video", track_id="camera")
    assert call.manager.state("bob", "video") is S.DecryptionSuccess
    assert call.manager.state("bob", "video", track_id="screen") is None
    call.manager.report_not_encrypted("bob", "audio", track_id="mic")
    call.manager.remove_track("bob", "audio", track_id="mic")
    assert call.manager.state("bob", "audio") is None
