"""Who can open whom: one table that says it, and that may be pasted anywhere."""

import asyncio
import json
import time

import pytest

from frameseal import E2EEManager, KeyProvider, __version__
from frameseal.e2ee.report import FIELDS
from support.e2ee_helpers import AUDIO, KEY, OTHER_KEY, VIDEO, Clock, TimedCall, delivered, provider, sealer


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


def rows(e2ee: E2EEManager | TimedCall) -> dict[tuple, dict]:
    return {(row["participant_id"], row["kind"], row["track_id"]): row for row in e2ee.report()["tracks"]}


async def test_a_report_says_of_each_track_who_what_since_when_and_why(clock):
    keys = KeyProvider(failure_tolerance=2)
    keys.set_key("alice", KEY, 3)
    keys.set_key("bob", OTHER_KEY, 3)
    e2ee = TimedCall(keys, clock, "livekit")
    far = provider(None)
    far.set_shared_key(KEY, 3)
    seal = E2EEManager(far, "livekit").sender_transform("bob", "audio", "opus").encrypt
    alice = e2ee.sender_transform("alice", "video", "vp8", track_id="camera")
    bob = e2ee.receiver_transform("bob", "audio", "opus", track_id="mic")
    carol = e2ee.receiver_transform("carol", "video", "h264", track_id="screen")
    e2ee.receiver_transform("dave", "audio", "opus", track_id="mic")
    alice.encrypt(VIDEO)
    clock.now += 5
    for _ in range(4):
        bob.decrypt(seal(AUDIO))
        carol.decrypt(b"\0\0\0\1\x65\x88" + bytes(range(1, 60)) + b"\x0c\x07")
    clock.now += 5
    found = e2ee.report()
    assert (found["version"], found["frameseal"], found["profile"]) == (1, __version__, "livekit")
    assert found["time"] == clock.now
    table = rows(e2ee)
    assert all(tuple(row) == FIELDS for row in table.values())
    sent = table["alice", "video", "camera"]
    assert (sent["direction"], sent["codec"], sent["state"]) == ("send", "vp8", "EncryptionSuccess")
    assert sent["reason"] is None
    assert (sent["key_id"], sent["keys_set"], sent["since"], sent["last_good"]) == (3, [3], clock.now - 10, clock.now)
    assert sent["counters"]["frames"] == 1
    wrong = table["bob", "audio", "mic"]
    assert (wrong["direction"], wrong["state"], wrong["reason"]) == ("receive", "InvalidKey", "authentication_failed")
    assert (wrong["key_id"], wrong["keys_set"], wrong["since"]) == (3, [3], clock.now - 5)
    assert (wrong["last_good"], wrong["counters"]["authentication_failed"]) == (None, 4)
    missing = table["carol", "video", "screen"]
    assert (missing["state"], missing["reason"], missing["key_id"]) == ("MissingKey", "unknown_key", 7)
    assert missing["keys_set"] == []
    silent = table["dave", "audio", "mic"]
    assert (silent["state"], silent["since"], silent["last_good"]) == (None, None, None)


async def test_a_report_is_the_same_as_json_and_holds_no_key():
    keys = provider("hunter2 hunter2")
    e2ee = E2EEManager(keys, "sframe")
    e2ee.sender_transform("alice", "audio", "opus", track_id="\ud83d").encrypt(AUDIO)
    found, text = e2ee.report(), e2ee.report_json()
    assert text.isascii() and "\n" in text
    read = json.loads(text)
    assert read["tracks"] == found["tracks"] == json.loads(json.dumps(found))["tracks"]
    assert "hunter2" not in text + repr(found)
    assert json.loads(e2ee.report_json(indent=None))["profile"] == "sframe"
    assert "\n" not in e2ee.report_json(indent=None)
    with pytest.raises(ValueError, match="indent"):
        e2ee.report_json(indent=17)


async def test_the_last_good_frame_is_noticed_twice_a_second(clock):
    e2ee, seal, wrong = TimedCall(provider(), clock), sealer(), sealer(OTHER_KEY)
    bob = e2ee.receiver_transform("bob", "audio", "opus", track_id="mic")

    def last() -> float | None:
        return rows(e2ee)["bob", "audio", "mic"]["last_good"]

    bob.decrypt(seal(AUDIO))
    e2ee.tick()
    opened = clock.now
    clock.now += 30
    for _ in range(5):
        bob.decrypt(wrong(AUDIO))
    e2ee.tick()
    assert last() == opened
    bob.decrypt(seal(AUDIO))
    clock.now += 0.2
    assert last() == clock.now, "asked for before the watch looks"
    opened = clock.now
    clock.now += 30
    assert last() == opened


async def test_several_transforms_of_one_track_add_up_and_a_participant_who_left_is_gone(clock):
    e2ee, seal = TimedCall(provider(), clock), sealer()
    made = [e2ee.receiver_transform("bob", "audio", codec, track_id="mic") for codec in ("opus", "pcmu")]
    for transform in made:
        transform.decrypt(seal(AUDIO))
    (row,) = e2ee.report()["tracks"]
    assert (row["counters"]["frames"], row["codec"]) == (2, "opus, pcmu")
    senders = [e2ee.sender_transform("alice", "audio", codec, track_id="mic") for codec in ("opus", "pcmu")]
    for transform in senders:
        transform.encrypt(AUDIO)
    sent = rows(e2ee)["alice", "audio", "mic"]["counters"]
    assert (sent["frames"], sent["key_frames"], sent["key_limit"]) == (2, 2, 2**32), (
        "what the tracks share is not added"
    )
    e2ee.remove_participant("bob")
    e2ee.remove_participant("alice")
    assert e2ee.report()["tracks"] == []


async def test_an_error_outside_any_track_is_in_it_too():
    e2ee = E2EEManager(provider(), "videosdk")
    e2ee.report_internal_error("bob", "audio", "no_decoder")
    (row,) = e2ee.report()["tracks"]
    assert (row["state"], row["reason"], row["direction"], row["codec"]) == ("InternalError", "no_decoder", None, None)


async def test_what_a_diagnosis_found_is_in_it_until_a_frame_opens():
    e2ee, told = E2EEManager(provider(), "livekit"), asyncio.Event()
    far = E2EEManager(provider(OTHER_KEY), "livekit").sender_transform("bob", "audio", "opus").encrypt
    good = E2EEManager(provider(), "livekit").sender_transform("bob", "audio", "opus").encrypt
    e2ee.on("e2ee-diagnosis", lambda found: told.set())
    bob = e2ee.receiver_transform("bob", "audio", "opus", track_id="mic")
    for _ in range(20):
        bob.decrypt(far(AUDIO))
    await asyncio.wait_for(told.wait(), 30)
    assert rows(e2ee)["bob", "audio", "mic"]["diagnosis"] == "wrong_key"
    bob.decrypt(good(AUDIO))
    await delivered()
    assert rows(e2ee)["bob", "audio", "mic"]["diagnosis"] is None


async def test_reports_may_be_asked_for_on_any_thread_while_frames_pass():
    e2ee, seal = E2EEManager(provider(), "videosdk"), sealer()

    def frames() -> None:
        for number in range(20):
            bob = e2ee.receiver_transform(f"bob-{number}", "audio", "opus", track_id="mic")
            for _ in range(10):
                bob.decrypt(seal(AUDIO))

    def reports() -> int:
        return sum(len(json.loads(e2ee.report_json())["tracks"]) for _ in range(100))

    _, counted = await asyncio.gather(asyncio.to_thread(frames), asyncio.to_thread(reports))
    assert counted <= 100 * 20 and len(e2ee.report()["tracks"]) == 20
    assert abs(e2ee.report()["time"] - time.time()) < 60
