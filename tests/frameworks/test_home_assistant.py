"""Home Assistant: the library of a camera integration, which has a fork of aiortc of its own inside."""

import contextlib
import json
import os
from itertools import count

from aidot_cameras.device_client import CameraDeviceClient, DeviceModel
from aiortc import RTCSessionDescription

from frameseal import E2EEState
from frameseal.aiortc import attach, attach_all
from frameseal.aiortc.rule import process
from frameworks.client import Wire, hears
from frameworks.recipe import run
from support.calls import (
    PASSPHRASE,
    Peer,
    Picture,
    hang_up,
    manager,
    picture_track,
    sine,
    until,
)

# The library asks public STUN servers otherwise, and waits 5 s for an answer.
os.environ["AIDOT_FAST_CONNECT"] = os.environ["AIDOT_FAST_CONNECT_HOST_ONLY"] = "1"

FORK = "aidot_cameras._vendor.aiortc"
PCM_SAMPLES = 160  # of 20 ms at 8 kHz, which the library asks for one frame at a time


class Camera:
    """A camera behind its vendor's MQTT broker: answers each offer, sends pictures, and plays what is said to it.

    It stands in for the broker too, as the library's persistent connection.

    :param passphrase: its key. None is a camera that seals nothing, as those that one can buy.
    """

    def __init__(self, passphrase: str | None) -> None:
        self.e2ee = None if passphrase is None else manager(passphrase)
        self.peers: list[Peer] = []
        self._handlers: list = []

    async def subscribe(self, topics: list[str]) -> None:
        """The broker delivers every message, whatever its topic."""

    def add_handler(self, handler) -> None:
        self._handlers.append(handler)

    def remove_handler(self, handler) -> None:
        self._handlers.remove(handler)

    async def publish(self, topic: str, text: str) -> None:
        message = json.loads(text)
        if message["method"] == "webrtcReq":
            answer = await self.answer(message["payload"]["wPayload"]["offer"])
            payload = {"peerid": message["payload"]["peerid"], "offer": answer}
            for handler in self._handlers:
                handler("iot/v1/c/user/IPC/webrtcResp", json.dumps({"method": "webrtcResp", "payload": payload}))

    async def answer(self, offer: dict) -> dict:
        rule, process.rule = process.rule, None  # a camera is another machine
        peer = Peer("aiortc")
        process.rule = rule
        self.peers.append(peer)
        if self.e2ee is not None:
            attach(peer.pc, self.e2ee, local_id="camera", remote_id="home")
        # The library leaves candidates out of all sections but one, and aiortc believes each that says that it has all.
        sdp = offer["sdp"].replace("a=end-of-candidates\r\n", "")
        await peer.pc.setRemoteDescription(RTCSessionDescription(sdp=sdp, type=offer["type"]))
        peer.pc.addTrack(picture_track("aiortc"))
        await peer.pc.setLocalDescription(await peer.pc.createAnswer())
        answer = peer.pc.localDescription
        return {"sdp": answer.sdp, "type": answer.type}

    @property
    def speaker(self):
        """The sink of what was said to the camera last."""
        return next((sink for sink in self.peers[-1].sinks.values() if sink.track.kind == "audio"), None)


class Client(CameraDeviceClient):
    """The library's client, without the vendor's cloud."""

    def __init__(self, camera: Camera) -> None:
        device = {"id": "camera", "name": "door", "modelId": "LK.IPC.A000088", "properties": {"isDTLS": "1"}}
        account = {"id": "user", "mqttClientId": "session-user", "region": "eu"}
        super().__init__(DeviceModel(id="camera"), account, device, account)
        self._camera = camera

    def _resolve_persistent_mqtt(self) -> bool:
        return True

    async def _get_persistent_mqtt(self) -> Camera:
        return self._camera

    async def _async_get_smarthome_auth(self) -> dict:
        return {"mqttUser": "user", "mqttPassword": "unused"}

    async def _async_get_mqtt_url(self) -> str:
        return "wss://127.0.0.1/unused"

    async def async_get_device_user_info(self, all_device_ids=None) -> dict:
        return {"userId": 1}


@contextlib.asynccontextmanager
async def streaming(camera: Camera):
    """Open a stream of the camera, and talk into it. Returns the list of the pictures that are shown."""
    pictures: list[Picture] = []
    numbers = count()

    def speak() -> bytes:
        return bytes(sine(next(numbers) * PCM_SAMPLES, PCM_SAMPLES, 440, 8000).planes[0])

    # The two arguments skip waking a sleeping camera, and asking the cloud for its TURN servers.
    session = await Client(camera).async_open_webrtc_stream(
        lambda frame: pictures.append(Picture.read(frame)),
        talk_pcm_provider=speak,
        _skip_ice_config=True,
        _ice_config={},
    )
    try:
        yield pictures
    finally:
        await session.stop()
        await hang_up(*camera.peers)


def numbered(pictures: list[Picture]) -> int:
    return sum(picture.number is not None for picture in pictures)


async def integration(**names) -> None:
    """Set up the page's integration, as Home Assistant does."""
    namespace = run("Home Assistant", **names)
    assert await namespace["async_setup"](None, {})


async def test_a_stream_and_the_next_one_are_sealed_seen_and_heard():
    """The library opens another stream when one has ended. Nothing of its fork was imported before the rule."""
    await integration()
    camera = Camera(PASSPHRASE)
    with Wire() as said, Wire(FORK) as shown:
        for _ in range(2):
            async with streaming(camera) as pictures:
                await until(lambda: numbered(pictures) >= 10)
                await until(lambda: hears(camera.speaker))
    assert len(camera.peers) == len(said.ssrcs) == len(shown.ssrcs) == 2
    said.assert_sealed(opus=100)
    shown.assert_sealed(vp8=20)


async def test_a_wrong_key_shows_nothing_and_says_nothing():
    await integration()
    camera = Camera("another passphrase")
    with Wire() as said, Wire(FORK) as shown:
        async with streaming(camera) as pictures:
            failed = {E2EEState.EncryptionSuccess, E2EEState.DecryptionFailed}
            await until(lambda: {track.state for track in camera.e2ee.tracks()} == failed)
            await until(lambda: len(said.packets) > 50 and len(shown.packets) > 50)
        assert pictures == []
        assert camera.speaker.empty
    said.assert_sealed(opus=40)
    shown.assert_sealed("another passphrase", vp8=10)


async def test_a_camera_that_does_not_seal_shows_nothing_under_the_rule():
    """No camera that one can buy seals: a rule over the whole process makes them all dark."""
    await integration()
    camera = Camera(None)
    with Wire(FORK) as shown:
        async with streaming(camera) as pictures:
            await until(lambda: len(shown.packets) > 50)
        assert pictures == []


async def test_a_camera_that_the_rule_leaves_out_is_seen_and_heard_in_the_clear():
    def only(pc) -> bool:
        return not type(pc).__module__.startswith("aidot_cameras.")

    attach_all(manager(), local_id="home", remote_id="camera", only=only)
    camera = Camera(None)
    with Wire() as said, Wire(FORK) as shown:
        async with streaming(camera) as pictures:
            await until(lambda: numbered(pictures) >= 10)
            await until(lambda: hears(camera.speaker))
    for wire in (said, shown):
        (seen,) = wire.read().values()
        assert len(seen.unopened) >= 10
        assert seen.opened == []
