"""`frameseal meet --sfu janus=...`: the meeting through Janus. test_janus.py runs this in a namespace of its own."""

import asyncio

import pytest

from frameseal import archive
from frameseal.tools.cli import main
from frameseal.tools.janus import JanusError
from frameseal.tools.meet import MeetOptions, meeting, worker
from frameseal.tools.meet.janus import Janus
from support.calls import PASSPHRASE, assert_pictures, until
from support.meet_page import Page

pytest_plugins = ["interop.gateway"]
STAND_IN = worker.Worker(b"// a stand-in for the worker", b"its licence")

OFFER = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "m=audio 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=sendonly",
        "a=rtcp-mux",
        "a=setup:actpass",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuvwx",
        "a=rtpmap:96 opus/48000/2",
        f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}",
        "",
    ]
)


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_pages_and_bot_see_each_other_through_janus(janus, codec):
    options = MeetOptions(port=0, passphrase=PASSPHRASE, codec=codec, janus=janus.url)
    async with (
        meeting(options, STAND_IN) as served,
        Page(served, PASSPHRASE, codec=codec) as ada,
        Page(served, "a wrong one", "Eve", tracks=()) as eve,
    ):
        await until(lambda: ada.bot_says(None, "DecryptionSuccess") and ada.bot_says("bot", "EncryptionSuccess"), 60)
        await until(lambda: ada.opens("bot") == ada.opens("bot", "audio") == "DecryptionSuccess")
        await until(lambda: eve.opens(ada.id) == eve.opens("bot") == "InvalidKey")
        assert all(sink.empty for sink in eve.sinks.values())
        assert served.room.sfu_views == {}  # nobody here looks into Janus
        for name in ("Bob", "Bob again"):
            async with Page(served, PASSPHRASE, name, codec=codec) as bob:
                await until(lambda bob=bob: bob.opens(ada.id) == "DecryptionSuccess", 60)
                await until(lambda bob=bob: len(bob.sinks[ada.id, "video"].pictures) >= 10)
                assert_pictures(bob.sinks[ada.id, "video"])
                await until(lambda bob=bob: ada.opens(bob.id) == "DecryptionSuccess")
                gone = bob.id
            await until(lambda gone=gone: gone not in served.room.members)


async def test_a_meeting_through_janus_is_recorded_without_a_key(janus, tmp_path):
    folder, secret = tmp_path / "archive", tmp_path / "passphrase"
    options = MeetOptions(port=0, passphrase=PASSPHRASE, janus=janus.url, record=str(folder))
    async with meeting(options, STAND_IN) as served, Page(served, PASSPHRASE) as ada:
        await until(lambda: ada.heard("recording"))
        await until(lambda: {"Ada", "Bot"} <= seen_often(folder), 60)
    secret.write_text(PASSPHRASE)
    command = ["open", str(folder), "-o", str(tmp_path / "opened"), "--passphrase-file", str(secret)]
    assert await asyncio.to_thread(main, command) == 0
    assert {path.name for path in (tmp_path / "opened").glob("*.mkv")} == {"Ada.mkv", "Bot.mkv"}


def seen_often(folder) -> set[str]:
    """Return the participants with more than 50 rows."""
    rows = [row["participant"] for batch in archive.read(folder) for row in batch.to_pylist()]
    return {who for who in rows if rows.count(who) > 50}


async def test_the_room_at_janus_refuses_media_that_are_not_said_to_be_sealed(janus):
    gateway = Janus(janus.url, "vp8")
    await gateway.open()
    try:
        handle = await gateway.attach()
        body = {"request": "joinandconfigure", "ptype": "publisher", "room": gateway.room}
        with pytest.raises(JanusError, match="end-to-end encrypted"):
            await handle.ask(body, {"type": "offer", "sdp": OFFER})
    finally:
        await gateway.close()


async def test_when_janus_dies_whoever_joins_is_told(mortal_janus):
    async with meeting(MeetOptions(port=0, passphrase=PASSPHRASE, janus=mortal_janus.url), STAND_IN) as served:
        await until(lambda: served.bot.publishes)
        mortal_janus.kill()
        async with Page(served, PASSPHRASE) as ada:
            await until(lambda: ada.heard("problem"), 40)
            assert "Janus" in ada.heard("problem")[0]["message"]
