"""The browsers of these tests, as Debian has them: Chromium through playwright, Firefox ESR over WebDriver BiDi.

Each is an asynchronous context manager that starts one, and gives a function that opens a page in it.
"""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import aiohttp

CHROMIUM, FIREFOX = shutil.which("chromium"), shutil.which("firefox-esr")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]

PREFERENCES = {
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "app.update.disabledForTesting": True,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.shell.checkDefaultBrowser": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
LISTENING = re.compile(r"WebDriver BiDi listening on (\S+)\s")
START_WITHIN = 60.0  # seconds; it is for a browser that does not start, not a measurement


def launch(driver):
    """Start Debian's Chromium for a playwright driver."""
    return driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@contextlib.asynccontextmanager
async def chromium():
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        browser = await launch(driver)

        @contextlib.asynccontextmanager
        async def open_page(url: str):
            context = await browser.new_context()
            try:
                await (await context.new_page()).goto(url)
                yield
            finally:
                await context.close()

        yield open_page
        await browser.close()


@contextlib.asynccontextmanager
async def firefox(profile: Path, hertz: int):
    """Start Firefox, with a folder of its own and a fake microphone that gives this tone.

    On a machine without a sound card it has no AudioContext that runs.
    """
    preferences = PREFERENCES | {"media.navigator.audio.fake_frequency": hertz}
    lines = [f'user_pref("{name}", {json.dumps(value)});' for name, value in preferences.items()]
    (profile / "user.js").write_text("\n".join(lines))
    arguments = ["--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    said = profile / "said"
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(FIREFOX, *arguments, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(START_WITHIN):
            while not (address := LISTENING.search(said.read_text(errors="replace"))):
                assert process.returncode is None, said.read_text(errors="replace")
                await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{address[1]}/session") as socket:
            ask = partial(_ask, socket, count(1))
            await ask("session.new", capabilities={})

            @contextlib.asynccontextmanager
            async def open_page(url: str):
                tab = (await ask("browsingContext.create", type="tab"))["context"]
                try:
                    await ask("browsingContext.navigate", context=tab, url=url, wait="interactive")
                    yield
                finally:
                    await ask("browsingContext.close", context=tab)

            yield open_page
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ask(socket: aiohttp.ClientWebSocketResponse, numbers: Iterator[int], method: str, **parameters):
    """Send one command of BiDi and return its result."""
    number = next(numbers)
    await socket.send_json({"id": number, "method": method, "params": parameters})
    async with asyncio.timeout(START_WITHIN):
        while (answer := await socket.receive_json()).get("id") != number:
            pass  # an event
    assert answer["type"] == "success", answer
    return answer["result"]
