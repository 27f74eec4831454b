"""A call between a page in a browser, which LiveKit's e2ee worker seals for, and frameseal on aiortc.

Both send sound and numbered pictures: the page blue ones and 660 Hz, aiortc red ones and 440 Hz. What each side decodes
is compared with what the other one made.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
from collections import defaultdict
from itertools import count, groupby
from pathlib import Path

import av
import numpy as np
from aiohttp import WSMsgType, web

from frameseal import Decryptor, E2EEState
from frameseal.aiortc import attach
from frameseal.tools.meet.worker import Worker
from support.calls import Picture, assert_shown, part, peers, picture_track, record, tone, tone_track, until
from support.recording import recorded_apart
from support.web_server import serving_app

PAGE, AIORTC = "ada", "bob"  # the participants
FOLDER = Path(__file__).with_name("page")
KINDS = ("audio", "video")
SCRIPT_TRANSFORM, ENCODED_STREAMS = "script-transform", "encoded-streams"
WORKER, TAPPED, EMPTYING = "e2ee.worker.mjs", "tapped.js", "tapped.js?empty=5"
START_CODE = b"\0\0\0\1"
ENOUGH = 20  # pictures
TONE = 660  # hertz; what the page sends
RATE = 48000  # of the sound that the page records
PATIENCE = 60  # seconds; the limit is for a call that is broken, not a measurement

# What livekit-client gives the worker unless it is told otherwise.
OPTIONS = {
    "sharedKey": True,
    "ratchetSalt": "LKFrameEncryptionKey",
    "ratchetWindowSize": 0,
    "failureTolerance": -1,
    "keyringSize": 16,
    "keySize": 128,
}
SALTS = {"livekit": OPTIONS["ratchetSalt"], "videosdk": "VideoSDKEncryptionRatchetSalt"}


class Page:
    """The page, and everything that it told."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.failures: list[tuple[str, str]] = []  # of the worker: (participant, reason)
        self.ratcheted: list[tuple[str, int, bytes]] = []  # (participant, key id, chain key)
        self.frames: dict[tuple[str, str], list[str]] = defaultdict(list)  # hashes, by direction and kind
        self.faults: list[str] = []
        self._socket: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        self._asked: dict[int, asyncio.Future] = {}
        self._numbers = count()

    async def ask(self, method: str, **args):
        async with asyncio.timeout(PATIENCE):
            socket, number = await self._socket, next(self._numbers)
            answer = self._asked[number] = asyncio.get_running_loop().create_future()
            await socket.send_json({"id": number, "method": method, "args": args})
            return await answer

    async def set_key(self, key: str | bytes, key_id: int = 0, *, of: str | None = None, use: bool = True) -> None:
        """Have the worker use this key: a str is a passphrase, bytes are a raw key, as everywhere."""
        given = {"passphrase": key} if isinstance(key, str) else {"raw": base64.b64encode(key).decode()}
        await self.ask("setKey", identity=of, key=given, keyIndex=key_id, use=use)

    async def ratchet(self, key_id: int = 0, *, of: str | None = None) -> None:
        await self.ask("ratchet", identity=of, keyIndex=key_id)

    def plaintext(self, direction: str) -> set[str]:
        """The hashes of what the worker was given to seal, or has opened; empty frames pass it as they are."""
        return {seen for kind in KINDS for seen in self.frames[direction, kind]} - {digest(b"")}

    async def listen(self, **whose: str) -> np.ndarray:
        """The sound of a moment, at RATE."""
        recording = io.BytesIO(base64.b64decode(await self.ask("listen", **whose)))
        if not recording.getbuffer():
            return np.zeros(0)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        with av.open(recording) as file:
            frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate([np.zeros(0), *(frame.to_ndarray()[0] for frame in frames)])

    async def arrived(self, **whose: str) -> dict:
        """The packets of each kind that have come, and the number of pictures decoded."""
        return await self.ask("arrived", **whose)

    async def until(self, look, holds):
        """Look again until this holds of what is found."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await look()
                if holds(found):
                    return found
                await asyncio.sleep(0.1)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._socket.set_result(socket)
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                self._take(frame.json())
        return socket

    def _take(self, message: dict) -> None:
        match message:
            case {"id": number, "result": result}:
                self._asked.pop(number).set_result(result)
            case {"id": number, "error": error}:
                self._asked.pop(number).set_exception(AssertionError(error))
            case {"event": "picture", "blocks": blocks, "below": (red, green, blue)}:
                u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
                v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
                self.pictures.append(Picture.of(blocks, u, v))
            case {"event": "failure", "identity": identity, "reason": reason}:
                self.failures.append((identity, reason))
            case {"event": "ratcheted", "identity": identity, "keyIndex": key_id, "chainKey": chain_key}:
                self.ratcheted.append((identity, key_id, base64.b64decode(chain_key)))
            case {"event": "frame", "direction": direction, "kind": kind, "hash": digest}:
                self.frames[direction, kind].append(digest)
            case {"event": "fault", "text": text}:
                self.faults.append(text)


class Call:
    """The page and the aiortc peer. `sent` and `received` are what aiortc's frames were and became."""

    def __init__(self, page: Page, peer, e2ee, microphone: bool) -> None:
        self.page, self.peer, self.e2ee = page, peer, e2ee
        self._microphone = microphone
        self.changes = record(e2ee)
        self.sent, self.received = recorded_apart(e2ee)

    @property
    def sinks(self):
        """What aiortc receives, by kind."""
        return {sink.track.kind: sink for sink in self.peer.sinks.values()}

    @property
    def states(self) -> set[tuple[str, E2EEState]]:
        """Every state that frameseal has reported: (participant, state)."""
        return {(change.participant_id, change.state) for _, change in self.changes}

    @property
    def sealed_here(self) -> list[bytes]:
        return [sealed for _, sealed in self.sent if sealed]

    @property
    def sealed_there(self) -> list[bytes]:
        return [sealed for sealed, _ in self.received if sealed]

    async def connect(self, codec: str = "vp8", api: str = SCRIPT_TRANSFORM, *, video=None) -> None:
        """Offer from the page, answer from aiortc.

        :param video: what aiortc sends, instead of red pictures, 30 a second.
        """
        sends = {"hertz": TONE, "microphone": self._microphone, "colour": "rgb(22, 26, 255)"}
        offer = await self.page.ask("offer", api=api, codec=codec, **sends)
        pc = self.peer.pc
        await pc.setRemoteDescription(part(self.peer.stack).RTCSessionDescription(sdp=offer, type="offer"))
        pc.addTrack(tone_track(self.peer.stack, 440))
        pc.addTrack(video or picture_track(self.peer.stack, "red"))
        await pc.setLocalDescription(await pc.createAnswer())
        await self.page.ask("accept", sdp=pc.localDescription.sdp)
        await until(lambda: pc.connectionState == "connected", PATIENCE)

    async def plays(self, *, page: bool = True, aiortc: bool = True) -> None:
        """Wait until each side sees and hears what the other one sends from now on, and nothing else."""
        self.page.pictures.clear()
        for sink in self.sinks.values():
            sink.clear()
        if page:
            await until(lambda: len(without_repeats(self.page.pictures)) >= ENOUGH, PATIENCE)
            assert_shown(without_repeats(self.page.pictures), "red", ENOUGH)
            await self.page.until(self.page.listen, lambda sound: is_tone(sound, RATE, 440))
        if aiortc:
            await until(lambda: len(without_repeats(self.sinks["video"].pictures)) >= ENOUGH, PATIENCE)
            assert_shown(without_repeats(self.sinks["video"].pictures), "blue", ENOUGH)
            sink = self.sinks["audio"]
            await until(lambda: sink.samples and is_tone(np.concatenate(sink.samples), sink.rate, TONE), PATIENCE)

    async def opens_nothing(self, why: E2EEState = E2EEState.InvalidKey) -> None:
        """Wait until plenty has arrived on both sides and each says why, and see that nobody made anything of it."""
        await until(lambda: (AIORTC, why) in self.page.failures, PATIENCE)
        for kind in KINDS:
            await until(lambda kind=kind: self.e2ee.state(PAGE, kind) == why, PATIENCE)
        arrived = await self.page.until(self.page.arrived, lambda arrived: min(arrived["packets"].values()) >= 20)
        assert arrived["decoded"] == 0 and self.page.pictures == []
        silence = await self.page.listen()
        assert len(silence) > RATE // 2 and np.abs(silence).max() < 0.001  # of full scale
        assert [opened for _, opened in self.received if opened] == []
        assert all(sink.empty for sink in self.sinks.values())

    async def agrees_on_frames(self) -> None:
        """See that what each side opened is what the other one sealed, byte for byte; the page has to be tapped."""
        opened = {digest(frame) for _, frame in self.received if frame}
        assert len(opened) >= 20
        # The page's word of a frame may come later than the frame.
        await until(lambda: opened <= self.page.plaintext("encode"))
        sealed = {digest(frame) for frame, _ in self.sent}
        ring = self.e2ee.provider.ring_for(self.e2ee.profile, AIORTC)
        # H264 is brought into the form that depacketisers rebuild, and sealed in that.
        h264 = [frame for _, frame in self.sent if frame and frame.startswith(START_CODE)]
        sealed |= {digest(Decryptor(ring, "h264").decrypt(frame)) for frame in h264}
        for kind in KINDS:
            assert len(self.page.frames["decode", kind]) >= 10
        assert self.page.plaintext("decode") <= sealed


def without_repeats(pictures: list[Picture]) -> list[Picture]:
    """Browsers send a picture twice now and then, and the page looks more often than there are new ones."""
    return [picture for picture, _ in groupby(pictures)]


def is_tone(sound: np.ndarray, rate: int, hertz: float) -> bool:
    """Whether the last half second is this tone and nothing else; of ciphertext a decoder makes silence or noise."""
    if len(sound) < rate // 2:
        return False
    heard, purity, rms = tone(sound[-rate // 2 :].astype(float), rate)
    return abs(heard - hertz) < 6 and purity > 0.95 and rms > 0


def key_ids(frames: list[bytes]) -> set[int]:
    """The key ids that sealed frames carry: their last byte."""
    return {frame[-1] for frame in frames}


def digest(frame: bytes) -> str:
    return hashlib.sha256(frame).hexdigest()


@contextlib.asynccontextmanager
async def worker_call(open_page, worker: Worker, e2ee, *, stack="aiortc", script=WORKER, microphone=False, **options):
    """A call that is not connected yet: set keys, then `Call.connect`.

    :param stack: aiortc, or its fork vsaiortc.
    :param script: WORKER; or TAPPED, which tells the hashes of the worker's plaintext frames; or EMPTYING, which also
        empties one frame of sound in five.
    :param microphone: send what the browser's fake microphone gives, and not a tone of the page's own.
    :param options: of the worker, other than `OPTIONS`.
    """
    page = Page()

    async def published(_: web.Request) -> web.Response:
        return web.Response(body=worker.script, content_type="text/javascript")

    app = web.Application()
    app.add_routes(
        [web.get("/socket", page.serve), web.get(f"/page/{WORKER}", published), web.static("/page/", FOLDER)]
    )
    async with serving_app(app) as address, open_page(f"http://{address}/page/index.html"):
        identities = {"local": PAGE, "remote": AIORTC}
        await page.ask("start", script=script, options=OPTIONS | options, identities=identities)
        async with peers(stack) as (peer,):
            attach(peer.pc, e2ee, local_id=AIORTC, remote_id=PAGE)
            yield Call(page, peer, e2ee, microphone)
    assert page.faults == []
