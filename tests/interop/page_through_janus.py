"""The page of `frameseal meet --sfu janus=...` in Chromium, and a bot of aiortc's, with Janus between them.

test_janus.py runs this in a network namespace of its own.
"""

import asyncio

import pytest

from frameseal.tools.meet import MeetOptions, meeting
from frameseal.tools.meet.worker import load_worker
from interop.test_meet_browser import NO_SCRIPT_TRANSFORM, is_the_fake_camera, see_and_hear_each_other
from support.calls import PASSPHRASE, until

pytest_plugins = ["interop.gateway", "interop.test_meet_browser"]


@pytest.mark.parametrize(
    ("codec", "script"), [("vp8", None), ("h264", NO_SCRIPT_TRANSFORM)], ids=["script-transform", "encoded-streams"]
)
async def test_a_browser_and_the_bot_see_and_hear_each_other_through_janus(janus, tabs, artefacts, codec, script):
    options = MeetOptions(port=0, passphrase=PASSPHRASE, codec=codec, janus=janus.url)
    async with meeting(options, await asyncio.to_thread(load_worker)) as served:
        ada = await (await tabs(script=script)).join(served.link, "Ada")
        eve = await (await tabs(script=script)).join(
            f"{served.origin}/#key=a+wrong+one", "Eve", "Only watch and listen"
        )
        await see_and_hear_each_other(ada, served)
        await eve.badges("Bot", "here", "InvalidKey")
        await eve.badges("Ada", "here", "InvalidKey")
        await ada.page.screenshot(path=artefacts / f"janus-{codec}.png")
        await eve.page.screenshot(path=artefacts / f"janus-{codec}-wrong-key.png")

        # With the right key later Eve needs keyframes, which Janus has to ask for: the browser's, and the bot's.
        await eve.page.get_by_label("Passphrase in use here").fill(PASSPHRASE)
        await eve.press("Use it")
        for name in ("Bot", "Ada"):
            await eve.badges(name, "here", "DecryptionSuccess")
            await eve.plays(name)
        assert is_the_fake_camera(await eve.pixels("Ada"))

        # And whoever leaves may come again.
        await ada.press("Leave")
        await until(lambda: len(served.room.members) == 2)
        await ada.join(served.link, "Ada again")
        await ada.plays("Bot")
        await eve.plays("Ada again")
        await ada.badges("Ada again", "bot", "DecryptionSuccess")
