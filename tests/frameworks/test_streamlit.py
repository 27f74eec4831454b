"""streamlit-webrtc: a Streamlit server runs the page's recipe as its script, and clients speak its web socket.

Each click runs the script again, in a thread of its own. The script's thread makes the connection. Media run on the
server's loop.
"""

import asyncio
import contextlib
import json
import socket
from importlib import metadata

import streamlit.runtime
from streamlit import config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server import Server
from websockets.asyncio.client import connect

from frameseal.aiortc.rule import process
from frameworks.client import Wire, client, hears, sees
from frameworks.recipe import recipe
from support.calls import picture_track, tone_track, until


class Page:
    """What a browser does of Streamlit's protocol: it runs the script, and sets the value of the component."""

    def __init__(self, connection) -> None:
        self._connection = connection
        self._reading = asyncio.ensure_future(self._read())
        self.runs = 0
        self.faults: list[str] = []
        self._component = ""  # the id of the component
        self._arguments: dict = {}

    async def _read(self) -> None:
        async for data in self._connection:
            message = ForwardMsg.FromString(data)
            self.runs += message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY and message.HasField(
                "script_finished"
            )
            element = message.delta.new_element
            if element.HasField("exception"):
                self.faults.append(element.exception.message)
            if element.HasField("component_instance"):
                self._component = element.component_instance.id
                self._arguments = json.loads(element.component_instance.json_args)

    async def run(self, value: dict | None = None) -> None:
        """Run the script, as a click does, with a value of the component."""
        message = BackMsg()
        message.rerun_script.query_string = ""
        if value is not None:
            message.rerun_script.widget_states.widgets.add(id=self._component, json_value=json.dumps(value))
        before = self.runs
        await self._connection.send(message.SerializeToString())
        await until(lambda: self.runs > before or self.faults)
        assert self.faults == []

    async def offer(self, offer: dict) -> dict:
        """Send an offer, and return the answer, as the component's frontend does."""
        await self.run({"playing": False, "sdpOffer": offer})
        await until(lambda: self._arguments.get("sdp_answer_json") or self.faults)
        assert self.faults == []
        return json.loads(self._arguments["sdp_answer_json"])

    async def click(self) -> None:
        """Run the script again during the call."""
        await self.run({"playing": True})

    async def close(self) -> None:
        await self._connection.close()
        await self._reading


@contextlib.asynccontextmanager
async def served(script, tmp_path):
    """Serve a script in the test's loop. Returns a function that opens a page."""
    path = tmp_path / "app.py"
    path.write_text(script, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for option, value in {"address": "127.0.0.1", "port": port, "headless": True, "fileWatcherType": "none"}.items():
        config.set_option(f"server.{option}", value)
    server, pages = Server(str(path), is_hello=False), []
    await server.start()

    async def page() -> Page:
        pages.append(Page(await connect(f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"])))
        await pages[-1].run()
        return pages[-1]

    try:
        yield page
    finally:
        for each in pages:
            await each.close()
        server.stop()
        await server.stopped
        streamlit.runtime.Runtime._instance = None  # one per process, and each test starts one


def media(user) -> None:
    user.exchange_media(picture_track("aiortc"))
    user.exchange_media(tone_track("aiortc"))


async def test_calls_clicks_and_reconnects_are_sealed_seen_and_heard(tmp_path):
    async with served(recipe("streamlit-webrtc"), tmp_path) as open_page, client() as user, client() as again:
        page = await open_page()
        rules = {process.rule}
        with Wire() as wire:
            for each in (user, again):
                media(each)
                await each.call(page.offer)
                for _ in range(3):
                    await page.click()
                    rules.add(process.rule)
                await until(lambda each=each: hears(each.sink("audio")) and sees(each.sink("video")))
                await page.run({"playing": False})  # stops the call
        assert len(rules) > 3
        assert len(wire.ssrcs) == 8  # sound and pictures, to the server and back, in both calls
        wire.assert_sealed(opus=200, vp8=40)


def test_the_version_is_the_one_of_the_page():
    assert metadata.version("streamlit-webrtc").startswith("0.79")
