"""Calls with Firefox, for test_worker_firefox.py, which runs this with pytest in a network namespace of its own."""

from functools import partial

import aioice.ice
import pytest
import pytest_asyncio

from frameseal import E2EEManager, KeyProvider
from frameseal.tools.meet.worker import load_worker
from interop.browsers import firefox
from interop.worker_call import AIORTC, PAGE, TAPPED, TONE, key_ids, worker_call
from support.calls import PASSPHRASE, manager, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW = bytes(range(32))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calling(tmp_path_factory):
    """Makes calls with pages in one Firefox."""
    async with firefox(tmp_path_factory.mktemp("firefox"), TONE) as open_page:
        yield partial(worker_call, open_page, load_worker(), microphone=True)


@pytest.fixture(autouse=True)
def address(monkeypatch):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["10.77.0.1"])


@pytest.mark.parametrize(("key", "key_id"), [(PASSPHRASE, 0), (RAW, 5)], ids=["passphrase", "raw-key-5"])
async def test_both_sides_see_and_hear_each_other(calling, key, key_id):
    e2ee = manager(None, failure_tolerance=0)
    e2ee.provider.set_shared_key(key, key_id)
    async with calling(e2ee) as call:
        await call.page.set_key(key, key_id)
        await call.connect()
        await call.plays()
        assert call.page.failures == []


async def test_each_side_opens_what_the_other_sealed_byte_for_byte(calling):
    async with calling(manager(), script=TAPPED) as call:
        await call.page.set_key(PASSPHRASE)
        await call.connect()
        await call.plays()
        await call.agrees_on_frames()


async def test_with_a_wrong_key_nobody_sees_or_hears_anything_until_the_right_one_comes(calling):
    async with calling(manager(failure_tolerance=10)) as call:
        await call.page.set_key("a wrong one")
        await call.connect()
        await call.opens_nothing()
        await call.page.set_key(PASSPHRASE)
        await call.plays()


async def test_each_participant_has_a_key_that_changes_and_steps_in_mid_call(calling):
    keys = KeyProvider(ratchet_window=8, failure_tolerance=10, allow_export=True)
    keys.set_key(PAGE, RAW)
    keys.set_key(AIORTC, PASSPHRASE)
    async with calling(E2EEManager(keys, "livekit"), sharedKey=False, ratchetWindowSize=8) as call:
        await call.page.set_key(RAW, of=PAGE)
        await call.page.set_key(PASSPHRASE, of=AIORTC)
        await call.connect()
        await call.plays()

        for participant in (PAGE, AIORTC):
            await call.page.set_key(participant * 10, 1, of=participant, use=False)
            keys.set_key(participant, participant * 10, 1, send=False)
        keys.set_sending_key_id(1, AIORTC)
        await call.page.set_key(PAGE * 10, 1, of=PAGE)
        await until(lambda: key_ids(call.sealed_here[-10:]) == key_ids(call.sealed_there[-10:]) == {1})
        await call.plays()
        assert call.page.failures == []

        keys.ratchet(AIORTC)
        await call.page.ratchet(1, of=PAGE)
        await until(lambda: len(call.page.ratcheted) == 2)
        await call.plays()
        assert set(call.page.ratcheted) == {(name, 1, keys.export_key(name, 1)) for name in (PAGE, AIORTC)}
