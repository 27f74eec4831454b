"""LiveKit's e2ee worker in headless Chromium and frameseal on aiortc open each other's frames, and only with the key.

The worker is that of npm's livekit-client, unmodified and without a LiveKit server. Both ways of Chromium to put it
into a call are used. `make interop` installs what this needs.
"""

import asyncio
from functools import partial

import pytest
import pytest_asyncio

from frameseal import E2EEManager, E2EEState, KeyProvider
from frameseal.tools.meet.worker import load_worker
from interop.browsers import CHROMIUM, chromium
from interop.keyframes import KEYFRAMES, keyframe_track
from interop.worker_call import (
    AIORTC,
    EMPTYING,
    ENCODED_STREAMS,
    PAGE,
    PATIENCE,
    SALTS,
    SCRIPT_TRANSFORM,
    TAPPED,
    digest,
    key_ids,
    worker_call,
)
from support.calls import PASSPHRASE, STACKS, manager, until

pytest.importorskip("playwright", reason="needs playwright: make interop")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make interop"),
    pytest.mark.asyncio(loop_scope="module"),
]

RAW, OTHER_RAW = bytes(range(32)), bytes(range(100, 132))
BOTH_APIS = pytest.mark.parametrize("api", [SCRIPT_TRANSFORM, ENCODED_STREAMS])
ALL_WELL = {(AIORTC, E2EEState.EncryptionSuccess), (PAGE, E2EEState.DecryptionSuccess)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calling():
    """Makes calls with pages in one Chromium."""
    worker = await asyncio.to_thread(load_worker)
    async with chromium() as open_page:
        yield partial(worker_call, open_page, worker)


@BOTH_APIS
@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize(("key", "key_id"), [(PASSPHRASE, 0), (RAW, 5)], ids=["passphrase", "raw-key-5"])
async def test_both_sides_see_and_hear_each_other(calling, api, codec, key, key_id):
    e2ee = manager(None, failure_tolerance=0)
    e2ee.provider.set_shared_key(key, key_id)
    async with calling(e2ee) as call:
        await call.page.set_key(key, key_id)
        await call.connect(codec, api)
        await call.plays()
        assert key_ids(call.sealed_here) == key_ids(call.sealed_there) == {key_id}
        assert call.states == ALL_WELL
        assert call.page.failures == []


@BOTH_APIS
@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_each_side_opens_what_the_other_sealed_byte_for_byte(calling, api, codec):
    async with calling(manager(), script=TAPPED) as call:
        await call.page.set_key(PASSPHRASE)
        await call.connect(codec, api)
        await call.plays()
        await call.agrees_on_frames()


@pytest.mark.parametrize("codec", ["h264", "vp8"])
@pytest.mark.parametrize("stack", STACKS)
async def test_every_one_of_100_keyframes_in_a_row_is_shown(calling, stack, codec):
    async with calling(manager(), stack=stack) as call:
        await call.page.set_key(PASSPHRASE)
        track = keyframe_track(stack, lambda: call.page.pictures)
        await call.connect(codec, video=track)
        track.sender = next(sender for sender in call.peer.pc.getSenders() if sender.track is track)
        await until(lambda: track.shown >= KEYFRAMES, PATIENCE)
        assert {picture.colour for picture in call.page.pictures} == {"red"}


async def test_an_empty_frame_passes_unsealed_and_is_no_failure(calling):
    async with calling(manager(failure_tolerance=0), script=EMPTYING) as call:
        await call.page.set_key(PASSPHRASE)
        await call.connect()
        await until(lambda: call.page.frames["encode", "audio"].count(digest(b"")) >= 10)
        heard = len(call.received)
        await until(lambda: len(call.received) > heard + 50)
        assert all(opened for _, opened in call.received)
        assert call.states == ALL_WELL
        assert call.page.failures == []


@pytest.mark.parametrize(
    ("stack", "key"), [("vsaiortc", PASSPHRASE), ("aiortc", RAW)], ids=["vsaiortc-passphrase", "aiortc-raw"]
)
async def test_videosdks_salt_makes_videosdks_profile(calling, stack, key):
    e2ee = manager(key, "videosdk", failure_tolerance=0)
    async with calling(e2ee, stack=stack, ratchetSalt=SALTS["videosdk"]) as call:
        await call.page.set_key(key)
        await call.connect(api=ENCODED_STREAMS)
        await call.plays()
        assert call.states == ALL_WELL
        assert call.page.failures == []


@BOTH_APIS
async def test_with_a_wrong_key_nobody_sees_or_hears_anything_until_the_right_one_comes(calling, api):
    async with calling(manager(failure_tolerance=10)) as call:
        await call.page.set_key("a wrong one")
        await call.connect(api=api)
        await call.opens_nothing()
        await call.page.set_key(PASSPHRASE)
        await call.plays()


@pytest.mark.parametrize(
    ("key", "salt"),
    [(PASSPHRASE, "videosdk"), (PASSPHRASE.encode(), "livekit")],
    ids=["the-other-salt", "bytes-for-text"],
)
async def test_the_same_secret_taken_another_way_is_a_wrong_key(calling, key, salt):
    async with calling(manager(failure_tolerance=10), ratchetSalt=SALTS[salt]) as call:
        await call.page.set_key(key)
        await call.connect(codec="h264")
        await call.opens_nothing()


async def test_a_key_id_that_the_other_side_does_not_have_is_a_missing_key(calling):
    async with calling(manager()) as call:
        await call.page.set_key(PASSPHRASE, 4)
        await call.connect()
        await call.opens_nothing(E2EEState.MissingKey)


@BOTH_APIS
async def test_a_key_change_in_mid_call_loses_no_frame(calling, api):
    async with calling(manager(failure_tolerance=0)) as call:
        provider = call.e2ee.provider
        await call.page.set_key(PASSPHRASE)
        await call.connect(api=api)
        await call.plays()
        # First everybody can open with it, then they seal with it.
        await call.page.set_key(RAW, 1, use=False)
        provider.set_shared_key(RAW, 1, send=False)
        assert key_ids(call.sealed_here) == key_ids(call.sealed_there) == {0}
        provider.set_sending_key_id(1)
        await call.page.set_key(RAW, 1)
        await until(lambda: key_ids(call.sealed_here[-10:]) == key_ids(call.sealed_there[-10:]) == {1})
        await call.plays()
        assert all(opened for sealed, opened in call.received if sealed)
        assert call.states == ALL_WELL
        assert call.page.failures == []


@pytest.mark.parametrize("key", [PASSPHRASE, RAW], ids=["passphrase", "raw"])
async def test_a_ratchet_step_in_mid_call_is_followed_by_either_side(calling, key):
    keys = KeyProvider(ratchet_window=8, failure_tolerance=10, allow_export=True)
    for participant in (PAGE, AIORTC):
        keys.set_key(participant, key)
    options = {"sharedKey": False, "ratchetWindowSize": 8, "failureTolerance": 10}
    async with calling(E2EEManager(keys, "livekit"), **options) as call:
        for participant in (PAGE, AIORTC):
            await call.page.set_key(key, of=participant)
        await call.connect()
        await call.plays()

        # Frames of one track that come behind those of the other are a step behind, and may be lost.
        keys.ratchet(AIORTC)
        await until(lambda: call.page.ratcheted)
        assert call.page.ratcheted == [(AIORTC, 0, keys.export_key(AIORTC))]
        await call.plays()

        await call.page.ratchet(of=PAGE)
        await until(lambda: call.page.ratcheted[1:] == [(PAGE, 0, keys.export_key(PAGE))])
        await call.plays()


@BOTH_APIS
async def test_each_participant_has_a_key_of_their_own(calling, api):
    keys = KeyProvider(failure_tolerance=10)
    keys.set_key(PAGE, PASSPHRASE, 2)
    keys.set_key(AIORTC, RAW, 3)
    options = {"sharedKey": False, "failureTolerance": 10}
    async with calling(E2EEManager(keys, "livekit"), **options) as call:
        await call.page.set_key(PASSPHRASE, 2, of=PAGE)
        await call.page.set_key(RAW, 3, of=AIORTC)
        await call.connect("h264", api)
        await call.plays()
        assert key_ids(call.sealed_here) == {3}
        assert key_ids(call.sealed_there) == {2}
        assert call.states == ALL_WELL

        # Who loses one participant's key still has the other's.
        await call.page.set_key(OTHER_RAW, 3, of=AIORTC)
        await until(lambda: call.page.failures)
        assert set(call.page.failures) == {(AIORTC, "InvalidKey")}
        await call.plays(page=False)
        assert call.states == ALL_WELL
