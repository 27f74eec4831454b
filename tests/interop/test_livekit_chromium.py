"""livekit-client in headless Chromium and `frameseal.livekit` on aiortc, in encrypted rooms of a real LiveKit server.

The client is npm's, unmodified, with its e2ee worker. `make interop` installs what this needs.
"""

import contextlib
import secrets
from functools import partial

import pytest
import pytest_asyncio

from frameseal import E2EEManager, E2EEState, KeyProvider, UnknownKey
from interop.browsers import CHROMIUM, chromium
from interop.livekit_browser import HERTZ, lossy, meet, member, opens, page_of, talk
from interop.worker_call import KINDS, PATIENCE, RATE, key_ids
from support.calls import PASSPHRASE, manager, until

pytest.importorskip("playwright", reason="needs playwright: make interop")
pytest_plugins = ["interop.livekit_server"]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make interop"),
    pytest.mark.asyncio(loop_scope="module"),
]

BROWSER, OURS, THIRD, KEYLESS = "ada", "bob", "cyd", "eve"
SEALED, OPENED = E2EEState.EncryptionSuccess, E2EEState.DecryptionSuccess
ALL_WELL = {(OURS, SEALED), (BROWSER, OPENED)}
LARGE = (640, 480)  # a size that livekit-client sends in two layers
RAW, OTHER_RAW = bytes(range(32)), bytes(range(100, 132))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages():
    """Opens pages with livekit-client in one Chromium."""
    async with chromium() as open_page:
        yield partial(page_of, open_page)


@pytest.fixture
def room() -> str:
    return secrets.token_hex(8)


def is_silent(sound) -> bool:
    return len(sound) > RATE // 2 and abs(sound).max() < 0.001  # of full scale


def is_small(size: tuple[int, int]) -> bool:
    return size[0] <= LARGE[0] // 2 and size[1] <= LARGE[1] // 2


async def enter(browser, server, room: str) -> None:
    await browser.ask("connect", url=server.url, token=server.token(browser.identity, room))


@contextlib.asynccontextmanager
async def two(pages, server, room: str, e2ee: E2EEManager, **options):
    """A page with livekit-client that is not in the room yet, and frameseal, which is."""
    async with pages(BROWSER, **options) as browser, member(server, OURS, room, e2ee) as ours:
        yield browser, ours


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("key", [PASSPHRASE, RAW], ids=["passphrase", "raw-key"])
async def test_both_sides_see_hear_and_read_each_other_and_a_keyless_member_nothing(
    livekit_server, pages, room, codec, key
):
    async with (
        two(pages, livekit_server, room, manager(key)) as (browser, ours),
        member(livekit_server, KEYLESS, room, manager(None)) as keyless,
    ):
        await browser.set_key(key)
        await enter(browser, livekit_server, room)
        await browser.publish(codec)
        await ours.publish(codec)
        await meet(ours, browser)

        await talk(ours, browser)
        await talk(ours, browser, reliable=False)

        assert ours.states == ALL_WELL
        assert browser.failures == []
        await until(lambda: len(keyless.sinks) == 4 and len(keyless.received) > 200, PATIENCE)
        assert set(keyless.sinks) == {(of, kind) for of in (BROWSER, OURS) for kind in KINDS}
        assert all(sink.empty for sink in keyless.sinks.values())
        assert keyless.states == {(BROWSER, E2EEState.MissingKey), (OURS, E2EEState.MissingKey)}
        ring = ours.room.e2ee.provider.ring_for("livekit", OURS)
        assert [sealed for sealed in keyless.unopened if not opens(sealed, ring)] == []
        await until(lambda: keyless.names.count("data-refused") == 4, PATIENCE)
        assert keyless.messages == []


async def test_keys_per_participant_rotate_and_ratchet(livekit_server, pages, room):
    keys = KeyProvider(ratchet_window=8, failure_tolerance=10, allow_export=True)
    keys.set_key(BROWSER, PASSPHRASE, 2)
    keys.set_key(OURS, RAW, 3)
    async with two(pages, livekit_server, room, E2EEManager(keys, "livekit"), sharedKey=False) as (browser, ours):
        await browser.set_key(PASSPHRASE, 2, of=BROWSER)
        await browser.set_key(RAW, 3, of=OURS)
        await enter(browser, livekit_server, room)
        await browser.publish()
        await ours.publish()
        await meet(ours, browser)
        assert (key_ids(ours.sealed_there), key_ids(ours.sealed_here)) == ({2}, {3})

        # Whoever receives has the next key first.
        keys.set_key(BROWSER, OTHER_RAW, 4)
        await browser.set_key(OTHER_RAW, 4, of=BROWSER)
        await browser.set_key("another passphrase", 5, of=OURS)
        keys.set_key(OURS, "another passphrase", 5)
        await until(lambda: (key_ids(ours.sealed_there[-20:]), key_ids(ours.sealed_here[-20:])) == ({4}, {5}), PATIENCE)
        await meet(ours, browser)
        assert ours.unopened == []
        assert ours.states == ALL_WELL
        assert browser.failures == []

        # Frames of one track that come behind those of the other are a step behind, and may be lost.
        keys.ratchet(OURS)
        await until(lambda: browser.ratcheted == [(OURS, 5, keys.export_key(OURS))], PATIENCE)
        await browser.ratchet(4, of=BROWSER)
        await until(lambda: browser.ratcheted[1:] == [(BROWSER, 4, keys.export_key(BROWSER))], PATIENCE)
        await meet(ours, browser)
        await talk(ours, browser)

        # livekit-client sets the keys of its provider again when it connects, and those have not ratcheted.
        await browser.ask("simulate", scenario="full-reconnect")
        for kind in KINDS:
            await until(lambda kind=kind: ours.state(BROWSER, kind) == E2EEState.InvalidKey, PATIENCE)
        keys.set_key(BROWSER, RAW, 6)
        await browser.set_key(RAW, 6, of=BROWSER)
        await meet(ours, browser)


async def test_with_a_wrong_key_nobody_sees_or_hears_anything_until_the_right_one_comes(livekit_server, pages, room):
    async with two(pages, livekit_server, room, manager(failure_tolerance=10)) as (browser, ours):
        await browser.set_key("a wrong one")
        await enter(browser, livekit_server, room)
        await browser.publish()
        await ours.publish()
        await until(lambda: (OURS, "InvalidKey") in browser.failures, PATIENCE)
        for kind in KINDS:
            await until(lambda kind=kind: ours.state(BROWSER, kind) == E2EEState.InvalidKey, PATIENCE)
        arrived = await browser.until(
            partial(browser.arrived, identity=OURS), lambda arrived: min(arrived["packets"].values()) >= 20
        )
        assert arrived["decoded"] == 0
        await browser.send(b"hello", "chat")
        await until(lambda: "data-refused" in ours.names, PATIENCE)
        assert browser.shown == {}
        assert all(sink.empty for sink in ours.sinks.values())
        assert ours.messages == []

        await browser.set_key(PASSPHRASE)
        await meet(ours, browser)
        for kind in KINDS:
            assert ours.state(BROWSER, kind) == OPENED


async def test_without_a_key_nothing_leaves_and_a_late_one_is_enough(livekit_server, pages, room):
    e2ee = manager(None)
    async with two(pages, livekit_server, room, e2ee, sharedKey=True, failureTolerance=-1) as (browser, ours):
        await enter(browser, livekit_server, room)
        await browser.publish()
        await ours.publish()
        await until(lambda: (BROWSER, "MissingKey") in browser.failures, PATIENCE)
        await until(lambda: ours.states == {(OURS, E2EEState.MissingKey)}, PATIENCE)
        with pytest.raises(UnknownKey):
            await ours.room.send(b"hello")
        assert (ours.sealed_here, ours.received) == ([], [])

        await browser.set_key(PASSPHRASE, 1)
        for kind in KINDS:
            await until(lambda kind=kind: ours.state(BROWSER, kind) == E2EEState.MissingKey, PATIENCE)
        assert all(sink.empty for sink in ours.sinks.values())
        e2ee.provider.set_shared_key(PASSPHRASE, 1)
        await meet(ours, browser)
        assert ours.sealed_here and ours.states >= ALL_WELL


async def test_tracks_are_muted_unpublished_and_published_anew_and_members_come_back(livekit_server, pages, room):
    e2ee = manager(failure_tolerance=0)
    async with two(pages, livekit_server, room, e2ee) as (browser, ours):
        await browser.set_key(PASSPHRASE)
        await enter(browser, livekit_server, room)
        await browser.publish()
        publications = await ours.publish()
        await meet(ours, browser)

        for kind in KINDS:
            await browser.ask("mute", kind=kind, muted=True)
        for publication in publications:
            await ours.room.mute(publication)
        await until(lambda: ours.names.count("track-muted") == 2, PATIENCE)
        await until(lambda: {("muted", OURS, kind) for kind in KINDS} <= set(browser.events), PATIENCE)
        await browser.until(partial(browser.listen, identity=OURS), is_silent)
        for sink in ours.sinks.values():
            sink.clear()
        browser.shown.clear()
        assert is_silent(await browser.listen(identity=OURS))
        assert all(sink.empty for sink in ours.sinks.values())
        for kind in KINDS:
            await browser.ask("mute", kind=kind, muted=False)
        for publication in publications:
            await ours.room.mute(publication, False)
        await meet(ours, browser)

        for kind in KINDS:
            await browser.ask("unpublish", kind=kind)
        for publication in publications:
            await ours.room.unpublish(publication)
        await until(lambda: ours.names.count("track-ended") == 2, PATIENCE)
        await until(lambda: {("ended", OURS, kind) for kind in KINDS} <= set(browser.events), PATIENCE)
        await browser.publish("h264")
        await ours.publish("h264")
        await meet(ours, browser)

        await browser.ask("leave")
        await until(lambda: "participant-left" in ours.names, PATIENCE)
        await enter(browser, livekit_server, room)
        await browser.publish()
        await meet(ours, browser)
        await ours.room.leave()
        async with member(livekit_server, OURS, room, e2ee) as again:
            await again.publish()
            await meet(again, browser)
        assert ours.states == ALL_WELL
        assert browser.failures == []


async def test_another_layer_of_a_simulcast_has_another_size_and_is_sealed_too(livekit_server, pages, room):
    async with two(pages, livekit_server, room, manager(failure_tolerance=0)) as (browser, ours):
        await browser.set_key(PASSPHRASE)
        await enter(browser, livekit_server, room)
        await browser.publish_video(size=LARGE, simulcast=True)
        await ours.sees(BROWSER)
        for quality, right in (("HIGH", LARGE.__eq__), ("LOW", is_small), ("HIGH", LARGE.__eq__)):
            await ours.ask_for(quality, of=BROWSER)
            await until(lambda right=right: right(ours.sizes[-1]), PATIENCE)
            await ours.sees(BROWSER)
        assert ours.unopened == []
        assert ours.states == {(BROWSER, OPENED)}


async def test_three_publishers_go_on_when_the_browser_or_frameseal_connects_anew(livekit_server, pages, room):
    secrets_of = {BROWSER: (PASSPHRASE, 2), OURS: (RAW, 3), THIRD: (OTHER_RAW, 0)}
    keys, others = KeyProvider(failure_tolerance=0), KeyProvider(failure_tolerance=0)
    for identity, (key, key_id) in secrets_of.items():
        keys.set_key(identity, key, key_id)
        others.set_key(identity, key, key_id)
    async with (
        two(pages, livekit_server, room, E2EEManager(keys, "livekit"), sharedKey=False) as (browser, ours),
        member(livekit_server, THIRD, room, E2EEManager(others, "livekit")) as third,
    ):
        for identity, (key, key_id) in secrets_of.items():
            await browser.set_key(key, key_id, of=identity)
        await third.publish(hertz=880, colour="green")
        await enter(browser, livekit_server, room)
        await browser.publish()
        await ours.publish()
        await meet(ours, browser)
        for scenario in ("signal-reconnect", "full-reconnect", "migration"):
            browser.events.clear()
            await browser.ask("simulate", scenario=scenario)
            await until(lambda: ("reconnected",) in browser.events, PATIENCE)
            await meet(ours, browser)
            await talk(ours, browser)

        await ours.lose_the_server()
        await until(lambda: "reconnected" in ours.names, PATIENCE)
        await meet(ours, browser)
        await talk(ours, browser)
        for each in (ours, browser):
            await each.sees(THIRD, "green")
            await each.hears(THIRD, 880)
        await third.sees(BROWSER)
        await third.hears(BROWSER)
        await third.sees(OURS, "red")
        await third.hears(OURS, HERTZ["frameseal"])
        # Frames that arrive when their sender is forgotten are dropped, and were sealed as well.
        rings = [keys.ring_for("livekit", identity) for identity in secrets_of]
        unopened = ours.unopened + third.unopened
        assert [sealed for sealed in unopened if not any(opens(sealed, ring) for ring in rings)] == []
        assert {state for of, state in ours.states | third.states} == {SEALED, OPENED}
        assert browser.failures == []


async def test_of_a_member_without_encryption_nothing_is_delivered(livekit_server, pages, room):
    async with two(pages, livekit_server, room, manager(), encrypted=False) as (browser, ours):
        await enter(browser, livekit_server, room)
        await browser.publish()
        await browser.send(b"hello", "chat")
        for kind in KINDS:
            await until(lambda kind=kind: ours.state(BROWSER, kind) == E2EEState.InternalError, PATIENCE)
        await until(lambda: "data-refused" in ours.names, PATIENCE)
        assert (ours.messages, ours.sinks, ours.received) == ([], {}, [])
        assert not any(track.encrypted for track in ours.room.participants[BROWSER].tracks.values())


async def test_a_network_that_loses_three_packets_in_a_hundred_costs_no_key(livekit_server, pages, room):
    with lossy(0.03) as lost:
        async with two(pages, livekit_server, room, manager(failure_tolerance=10)) as (browser, ours):
            await browser.set_key(PASSPHRASE)
            await enter(browser, livekit_server, room)
            await browser.publish()
            await ours.publish()
            await meet(ours, browser)  # each tone and picture between two losses
            await until(lambda: min(lost.values()) > 20, PATIENCE)
            assert ours.states == ALL_WELL
            assert browser.failures == []
