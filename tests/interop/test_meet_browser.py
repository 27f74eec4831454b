"""`frameseal meet` in headless Chromium, with its camera that is none: the page, LiveKit's worker, the bot, the SFU.

`make interop` installs what this needs (Chromium, playwright, npm), and keeps the screenshots in target/interop:
FRAMESEAL_ARTEFACTS names the folder. docs/images/meet.png is one of them.
"""

import asyncio
import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frameseal.tools.meet import MeetOptions, meeting
from frameseal.tools.meet.room import PUBLISH
from frameseal.tools.meet.worker import load_worker
from interop.browsers import CHROMIUM
from support.calls import PASSPHRASE, until

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: make interop")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make interop")

PATIENCE = 60_000  # milliseconds; the limit is for a meeting that is broken, not a measurement
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

# What a browser without RTCRtpScriptTransform is to the page.
NO_SCRIPT_TRANSFORM = "delete window.RTCRtpScriptTransform"


@pytest.fixture
async def served():
    async with meeting(MeetOptions(port=0, passphrase=PASSPHRASE), await asyncio.to_thread(load_worker)) as made:
        yield made


class Tab:
    """One page in a browser context of its own, with everything that it sent and every error that it had."""

    def __init__(self, page) -> None:
        self.page = page
        self.faults: list[str] = []
        self.sent: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: self.sent.append(f"{request.url} {request.headers} {request.post_data}"))
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: self.sent.append(str(frame))))

    async def join(self, link: str, name: str, button: str = "Join") -> "Tab":
        await self.page.goto(link)
        await self.page.get_by_label("Your name").fill(name)
        await self.page.get_by_role("button", name=button, exact=True).click()
        await self.page.locator("#meeting").wait_for(state="visible")
        return self

    def tile(self, name: str):
        return self.page.locator(".tile", has=self.page.get_by_role("heading", name=re.compile(f"^{name}( |$)")))

    async def badges(self, name: str, by: str, state: str, kinds=("video", "audio")) -> None:
        """Wait until the tile of a participant shows this state."""
        for kind in kinds:
            badge = self.tile(name).locator(f'[data-by="{by}"] [data-kind="{kind}"]')
            await playwright.expect(badge).to_have_text(f"{kind} {state}", timeout=PATIENCE)

    async def plays(self, name: str) -> None:
        """Wait until the picture of a participant moves."""
        video = self.tile(name).locator("video")
        before = await video.evaluate("video => video.getVideoPlaybackQuality().totalVideoFrames")
        more = "([video, before]) => video.getVideoPlaybackQuality().totalVideoFrames > before + 10"
        await self.page.wait_for_function(more, arg=[await video.element_handle(), before], timeout=PATIENCE)
        await playwright.expect(self.tile(name).locator(".veil")).to_be_hidden(timeout=PATIENCE)

    async def pixels(self, name: str) -> np.ndarray:
        """The picture of a participant as it is decoded: float[90, 160, 3]."""
        video = self.tile(name).locator("video")
        flat = await video.evaluate(
            """video => {
                const canvas = new OffscreenCanvas(160, 90);
                const context = canvas.getContext('2d');
                context.drawImage(video, 0, 0, 160, 90);
                return Array.from(context.getImageData(0, 0, 160, 90).data);
            }"""
        )
        return np.array(flat, dtype=float).reshape(90, 160, 4)[..., :3]

    async def hears(self, name: str) -> None:
        """Wait until a participant is loud."""
        loud = """video => new Promise(resolve => {
            const context = new AudioContext();
            const analyser = context.createAnalyser();
            context.createMediaStreamSource(video.srcObject).connect(analyser);
            const samples = new Float32Array(analyser.fftSize);
            const look = () => {
                analyser.getFloatTimeDomainData(samples);
                Math.max(...samples.map(Math.abs)) > 0.02 ? resolve() : setTimeout(look, 10);
            };
            look();
        })"""
        async with asyncio.timeout(PATIENCE / 1000):
            await self.tile(name).locator("video").evaluate(loud)

    async def press(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()


@pytest.fixture
async def tabs(browser):
    """Opens tabs; none of them may have had an error in the end."""
    made = []

    async def open_tab(viewport=WIDE, script=None) -> Tab:
        context = await browser.new_context(viewport=viewport, permissions=["camera", "microphone"])
        if script:
            await context.add_init_script(script)
        made.append(Tab(await context.new_page()))
        return made[-1]

    yield open_tab
    assert [fault for tab in made for fault in tab.faults] == []


def bots_picture_of(served, name: str):
    member = next(member for member in served.room.members.values() if member.name == name)
    frame = served.bot._pictures.get(member.id)
    return None if frame is None else frame.reformat(width=160, height=90, format="rgb24").to_ndarray().astype(float)


def is_the_fake_camera(image) -> bool:
    """Chromium's is green all over, with a disc in a lighter green."""
    if image is None:
        return False
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    return bool(green > 90 and green > 2.5 * red and green > 2.5 * blue)


def is_the_bot(image) -> bool:
    """Dark blue above, a bar that is darker still below, and light text."""
    middle, bar = image[40:75, 110:].mean(axis=(0, 1)), image[85:, 110:].mean(axis=(0, 1))
    return bool(middle[2] > middle[0] and bar.mean() < middle.mean() < 90 and image.max() > 150)


async def see_and_hear_each_other(ada: Tab, served) -> None:
    """Wait until Ada and the bot do."""
    await ada.badges("Bot", "here", "DecryptionSuccess")
    await ada.badges("Bot", "bot", "EncryptionSuccess")
    await ada.badges("Ada", "here", "EncryptionSuccess")
    await ada.badges("Ada", "bot", "DecryptionSuccess")
    await ada.plays("Bot")
    assert is_the_bot(await ada.pixels("Bot"))
    await until(lambda: is_the_fake_camera(bots_picture_of(served, "Ada")))
    # Chromium's microphone beeps; the bot gives the beeps back, which the page hears.
    await ada.hears("Bot")


@pytest.mark.parametrize("script", [None, NO_SCRIPT_TRANSFORM], ids=["script-transform", "encoded-streams"])
async def test_a_browser_and_the_bot_see_and_hear_each_other(served, tabs, artefacts, script):
    ada = await (await tabs(script=script)).join(served.link, "Ada")
    await see_and_hear_each_other(ada, served)
    await playwright.expect(ada.page.locator("#code")).to_have_text(served.bot.code, timeout=PATIENCE)
    meeting_shot = artefacts / "meeting.png"
    await ada.page.screenshot(path=meeting_shot)

    await ada.page.get_by_text("Who can open whom, at the bot").click()
    row = ada.page.locator("#report tbody tr", has_text="Ada").filter(has_text="video")
    await playwright.expect(row).to_contain_text("DecryptionSuccess", timeout=PATIENCE)
    await playwright.expect(row).to_contain_text(re.compile(r"[1-9]\d* / \d+$"), timeout=PATIENCE)
    report_shot = artefacts / "report.png"
    # The bar of buttons stays where it is while the page scrolls, and would hide rows of the table.
    show = "(bar, visibility) => { bar.style.visibility = visibility; }"
    await ada.page.locator("#controls").evaluate(show, "hidden")
    await ada.page.locator("#report").screenshot(path=report_shot)
    await ada.page.locator("#controls").evaluate(show, "visible")
    await ada.page.get_by_text("Who can open whom, at the bot").click()
    await ada.page.evaluate("scrollTo(0, 0)")
    await ada.press("What the SFU sees")
    facts = ada.tile("Ada").locator(".sfu-facts")
    await playwright.expect(facts).to_contain_text(re.compile(r"Passed on: [1-9]\d+ pictures"), timeout=PATIENCE)
    await playwright.expect(ada.tile("Bot").locator(".bytes")).to_contain_text("ciphertext", timeout=PATIENCE)
    # Of ciphertext a VP8 decoder makes noise, now and then. Let it have its chance, for the picture's sake.
    with contextlib.suppress(playwright.Error):
        await ada.tile("Ada").locator(".sfu img").wait_for(state="visible", timeout=12_000)
    for name in ("Ada", "Bot"):
        assert not is_the_fake_camera(await screenshot(ada.tile(name).locator(".stage"), artefacts / f"sfu-{name}.png"))
    sfu_shot = artefacts / "sfu.png"
    await ada.page.screenshot(path=sfu_shot)
    grid = await ada.page.locator("#grid").bounding_box()
    end = int(grid["y"] + grid["height"]) + 16
    for_the_documents(meeting_shot, report_shot, sfu_shot, end, artefacts / "meet.png")
    await ada.press("What the SFU sees")
    await ada.plays("Bot")
    assert not [message for message in ada.sent if PASSPHRASE in message or "correct+horse" in message]


async def screenshot(locator, path: Path) -> np.ndarray:
    await locator.screenshot(path=path)
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


def for_the_documents(meeting_shot: Path, report_shot: Path, sfu_shot: Path, end: int, target: Path) -> None:
    """The whole meeting, below it the table of its tracks, and then the participants as the SFU sees them."""
    meeting, report, sfu = (Image.open(path).convert("RGB") for path in (meeting_shot, report_shot, sfu_shot))
    whole = Image.new("RGB", (meeting.width, meeting.height + report.height + 16 + end), meeting.getpixel((0, 0)))
    whole.paste(meeting, (0, 0))
    whole.paste(report, ((meeting.width - report.width) // 2, meeting.height + 16))
    whole.paste(sfu.crop((0, 0, sfu.width, end)), (0, whole.height - end))
    whole.quantize(96).save(target, optimize=True)


async def test_a_wrong_passphrase_takes_the_picture_away_and_the_right_one_brings_it_back(served, tabs):
    ada = await (await tabs()).join(served.link, "Ada")
    await ada.plays("Bot")
    await ada.press("Try a wrong one")
    await ada.badges("Bot", "here", "InvalidKey")
    await ada.badges("Ada", "bot", "InvalidKey")
    veil = ada.tile("Bot").locator(".veil")
    await playwright.expect(veil).to_contain_text("Cannot be opened here: InvalidKey")
    await playwright.expect(ada.tile("Bot").locator("video")).to_be_hidden()
    await ada.press("Put it right")
    await ada.badges("Bot", "here", "DecryptionSuccess")
    await ada.badges("Ada", "bot", "DecryptionSuccess")
    await ada.plays("Bot")

    await ada.page.get_by_label("Passphrase in use here").fill("typed by hand")
    await ada.press("Use it")
    await ada.badges("Bot", "here", "InvalidKey")
    await ada.page.get_by_label("Passphrase in use here").fill(PASSPHRASE)
    await ada.press("Use it")
    await ada.badges("Bot", "here", "DecryptionSuccess")
    await ada.plays("Bot")


async def same_code(tab: Tab, served) -> None:
    """Wait until the page and the bot show the same code, for the keys that stand when all old ones are forgotten."""
    assert served.bot.key.key_id == 1
    await until(lambda: served.bot.provider.key_ids == [1], 60)
    await until(lambda: served.bot.code is not None, 60)
    await playwright.expect(tab.page.locator("#code")).to_have_text(served.bot.code, timeout=PATIENCE)


async def test_a_rotation_takes_everybody_along_who_has_the_key(served, tabs):
    ada = await (await tabs()).join(served.link, "Ada")
    bob = await (await tabs()).join(served.link, "Bob", "Only watch and listen")
    eve = await (await tabs()).join(f"{served.origin}/#key=a+wrong+one", "Eve", "Only watch and listen")
    await ada.plays("Bot")
    await bob.plays("Ada")
    assert is_the_fake_camera(await bob.pixels("Ada"))
    await eve.badges("Ada", "here", "InvalidKey")
    old = served.link
    await ada.press("Rotate the key for everybody")
    await until(lambda: served.bot.key.key_id == 1, 60)
    for tab in (ada, bob):
        await playwright.expect(tab.page.locator("#key-id")).to_have_text("1", timeout=PATIENCE)
        await playwright.expect(tab.page).to_have_url(served.link, timeout=PATIENCE)
    assert served.link != old
    await ada.plays("Bot")
    await bob.plays("Ada")
    await ada.badges("Ada", "bot", "DecryptionSuccess")
    await eve.badges("Ada", "here", "MissingKey")
    assert await eve.page.locator("#key-id").text_content() == "0"
    # Ten seconds after the rotation the old key is forgotten, here, there and by the bot.
    for tab in (ada, bob):
        await same_code(tab, served)
    new = re.search(r"key=([^&]+)", served.link)[1]
    assert not [message for tab in (ada, bob, eve) for message in tab.sent if new in message]
    await bob.press("Leave")
    await playwright.expect(ada.tile("Bob")).to_have_count(0)
    await playwright.expect(bob.page.locator("#lobby")).to_be_visible()


@pytest.mark.parametrize("lost", ["sending", "receiving"])
async def test_a_connection_that_was_lost_and_made_again_shows_the_picture_again(served, tabs, lost):
    ada = await (await tabs()).join(served.link, "Ada")
    bob = await (await tabs()).join(served.link, "Bob", "Only watch and listen")
    await bob.plays("Ada")
    members = {member.name: member for member in served.room.members.values()}
    video = await bob.tile("Ada").locator("video").element_handle()
    before = await video.evaluate_handle("video => video.srcObject.getTracks()")
    if lost == "sending":
        served.room.reconnect(members["Ada"], PUBLISH)
    else:
        served.room.reconnect(members["Bob"], members["Ada"].id)
    ended = "tracks => tracks.length === 2 && tracks.every((track) => track.readyState === 'ended')"
    await bob.page.wait_for_function(ended, arg=before, timeout=PATIENCE)
    await bob.plays("Ada")
    assert is_the_fake_camera(await bob.pixels("Ada"))
    kinds = await video.evaluate("video => video.srcObject.getTracks().map((track) => track.kind)")
    assert sorted(kinds) == ["audio", "video"]
    await bob.hears("Ada")
    assert await ada.page.locator("#meeting").is_visible()


async def test_the_page_is_usable_on_a_phone_and_by_keyboard(served, tabs, artefacts):
    ada = await tabs(viewport=PHONE)
    page = ada.page
    await page.goto(served.link)
    await page.keyboard.type("Ada")  # the name has the focus
    await page.keyboard.press("Enter")
    await page.locator("#meeting").wait_for(state="visible")
    await ada.plays("Bot")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in await page.get_by_role("button").all():
        box = await button.bounding_box()
        assert box["height"] >= 44 and (await button.inner_text()).strip()
    for field in await page.locator("input:visible").all():
        assert await field.evaluate("input => input.labels.length") == 1
    camera = page.get_by_role("button", name="Camera", exact=True)
    await camera.focus()
    await page.keyboard.press("Space")
    await playwright.expect(camera).to_have_attribute("aria-pressed", "false")
    await until(lambda: (image := bots_picture_of(served, "Ada")) is not None and image.mean() < 20)
    await page.screenshot(path=artefacts / "phone.png")


async def test_a_browser_that_cannot_seal_does_not_join(served, tabs):
    tab = await tabs(script=f"{NO_SCRIPT_TRANSFORM}; delete RTCRtpSender.prototype.createEncodedStreams")
    await tab.page.goto(served.link)
    await tab.press("Join")
    await playwright.expect(tab.page.get_by_role("alert")).to_contain_text("cannot encrypt")
    assert set(served.room.members) == {"bot"}


async def test_who_joins_a_recorded_meeting_is_told_before_and_during_it(tabs, tmp_path, artefacts):
    options = MeetOptions(port=0, passphrase=PASSPHRASE, record=str(tmp_path / "archive"))
    async with meeting(options, await asyncio.to_thread(load_worker)) as served:
        for name in ("Ada", "Bob"):  # who joins later, too
            tab = await tabs()
            await tab.page.goto(served.link)
            notice = tab.page.get_by_text("This meeting is being recorded, sealed.")
            await playwright.expect(notice).to_be_visible(timeout=PATIENCE)
            await tab.join(served.link, name)
            await playwright.expect(notice).to_be_visible(timeout=PATIENCE)
            await tab.badges("Bot", "here", "DecryptionSuccess")
        await tab.page.screenshot(path=artefacts / "meet-recorded.png")


async def test_the_page_of_a_meeting_that_is_not_recorded_says_nothing(served, tabs):
    ada = await (await tabs()).join(served.link, "Ada")
    await ada.badges("Bot", "here", "DecryptionSuccess")
    await playwright.expect(ada.page.locator("#recorded")).to_be_hidden(timeout=PATIENCE)
