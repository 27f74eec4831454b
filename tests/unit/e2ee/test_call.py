"""A call without a loop: the test moves its clock, and events arrive at once. `test_manager.py` adds the loop."""

from frameseal import E2EEInjectedFrame, E2EEState
from frameseal.e2ee.call import CallState
from frameseal.e2ee.monitor import PERIOD, STALLED_AFTER
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, Clock, TimedCall, provider, sealer

TRAILER = b"a trailer of a server"
SILENCE = b"\xf8\xff\xfe" + bytes(77)


def test_events_arrive_in_the_thread_of_the_frame_with_the_time_of_the_clock():
    heard, clock = [], Clock()
    call = CallState(provider(), "livekit", lambda *event: heard.append(event), clock=clock, wall_clock=lambda: 5.0)
    bob = call.receiver_transform("bob", "audio", "opus", track_id="mic")
    assert bob.decrypt(AUDIO) is None
    ((name, change),) = heard
    assert (name, change.state, change.time) == ("e2ee-state-change", E2EEState.DecryptionFailed, 5.0)
    assert call.state("bob", "audio") is E2EEState.DecryptionFailed


def test_a_tick_reports_a_stall_at_the_time_of_the_clock():
    clock, stalled = Clock(), []
    call, seal = TimedCall(provider(OTHER_KEY), clock), sealer()
    call.on("e2ee-stalled", stalled.append)
    bob = call.receiver_transform("bob", "audio", "opus")
    while not stalled:
        clock.now += PERIOD
        assert bob.decrypt(seal(AUDIO)) is None
        call.tick()
    assert stalled[0].time == clock.now == 1000.0 + STALLED_AFTER


def test_a_servers_blank_frame_is_reported_with_its_counters():
    call, injected = TimedCall(provider(KEY), Clock(), sif_trailer=TRAILER), []
    call.on("e2ee-injected-frame", injected.append)
    bob = call.receiver_transform("bob", "audio", "opus", track_id="mic")
    assert bob.decrypt(sealer()(AUDIO)) == AUDIO
    assert bob.decrypt(SILENCE + TRAILER) == SILENCE
    (event,) = injected
    assert event == E2EEInjectedFrame("bob", "audio", "mic", event.counters, 1000.0)
    assert event.counters.items() <= bob.stats().items()


def test_without_background_work_nothing_is_diagnosed_and_no_step_is_derived():
    keys, found = provider("a passphrase", ratchet_window_size=4), []
    call, forged = TimedCall(keys, Clock()), sealer(OTHER_KEY)
    call.on("e2ee-diagnosis", found.append)
    bob = call.receiver_transform("bob", "audio", "opus")
    for _ in range(40):
        assert bob.decrypt(forged(AUDIO)) is None
    call.tick()
    assert bob.ring.pending_ratchets and found == []


def test_a_call_is_active_while_a_transform_is_in_use():
    call = TimedCall(provider(), Clock())
    assert not call.is_active()
    bob = call.receiver_transform("bob", "audio", "opus")
    assert call.is_active()
    call.release(bob)
    assert not call.is_active()
    call.resume(bob)
    assert call.is_active()
