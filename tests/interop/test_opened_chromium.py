"""The files of `frameseal open` play in Debian's Chromium: every picture, and the sound, to the end.

`make interop` installs what this needs (Chromium, playwright).
"""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from frameseal.tools.opening import open_frames
from frameseal.tools.opening.grid import write_grid
from interop.browsers import CHROMIUM, launch
from support.recorded import pictures, recorded, sounds, together
from support.web_server import serving_app

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: make interop")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make interop")

SECONDS = 2
PLAY = """
name => new Promise((resolve, reject) => {
    const video = document.createElement("video");
    video.muted = true;
    video.onended = () => resolve({
        seconds: video.currentTime,
        width: video.videoWidth,
        pictures: video.getVideoPlaybackQuality().totalVideoFrames,
        sound: video.webkitAudioDecodedByteCount,
    });
    video.onerror = () => reject(new Error(video.error.message));
    video.src = name;
    document.body.append(video);
    video.play();
})
"""


async def blank(request: web.Request) -> web.Response:
    return web.Response(text="<body></body>", content_type="text/html")


@pytest.fixture
async def page(tmp_path) -> AsyncIterator:
    (tmp_path / "opened").mkdir()
    application = web.Application()
    application.router.add_static("/opened", tmp_path / "opened")
    application.router.add_get("/", blank)
    async with serving_app(application) as address, playwright.async_playwright() as driver:
        browser = await launch(driver)
        made = await browser.new_page()
        await made.goto(f"http://{address}/")
        yield made
        await browser.close()


@pytest.mark.parametrize(
    ("video", "audio"), [("vp8", "opus"), ("vp9", "opus"), ("h264", "opus"), ("h264", "pcmu"), ("vp8", "g722")]
)
async def test_a_file_plays_to_its_end(page, tmp_path, video, audio):
    """H265 is not among them: Debian's Chromium has no decoder for it."""
    frames = together(
        recorded(pictures(video, SECONDS * 30), codec=video),
        recorded(sounds(audio, SECONDS), codec=audio, track="mic", ssrc=2),
    )
    assert open_frames(frames, tmp_path / "opened").complete
    played = await page.evaluate(PLAY, "/opened/alice.mkv")
    assert (played["width"], played["pictures"]) == (320, SECONDS * 30)
    assert played["seconds"] == pytest.approx(SECONDS, abs=0.1) and played["sound"] > 0


async def test_a_grid_plays_to_its_end(page, tmp_path):
    frames = together(
        recorded(pictures("vp8", SECONDS * 30), codec="vp8"),
        recorded(sounds("opus", SECONDS), participant="bob", codec="opus", track="mic", ssrc=2),
    )
    opened = open_frames(frames, tmp_path / "opened")
    write_grid(opened.files, tmp_path / "opened" / "grid.mp4", SECONDS)
    played = await page.evaluate(PLAY, "/opened/grid.mp4")
    assert (played["width"], played["pictures"]) == (1280, SECONDS * 25)
    assert played["seconds"] == pytest.approx(SECONDS, abs=0.1) and played["sound"] > 0
