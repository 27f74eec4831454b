"""`frameseal record --janus`: rooms of Janus, recorded without a key and opened with one.

test_janus.py runs this in a network namespace of its own.
"""

import asyncio
import contextlib

import av
from aiortc import RTCSessionDescription

from frameseal.aiortc import attach
from frameseal.tools.cli import main
from frameseal.tools.janus import JanusSession
from frameseal.tools.meet import MeetOptions, meeting
from frameseal.tools.meet.worker import load_worker
from interop.recorder_command import opens, recorded, recorder
from interop.test_meet_browser import is_the_fake_camera, see_and_hear_each_other
from support.calls import PASSPHRASE, Peer, manager, peers, picture_track, tone_track, until
from support.recorded import assert_pure, heard, shown

pytest_plugins = ["interop.gateway", "interop.test_meet_browser"]
ROOM, PIN = 4711, "the pin of the room"
ADDRESS = "127.0.0.2"  # the gateway's


@contextlib.asynccontextmanager
async def room(janus, **options):
    session = JanusSession(janus.url)
    await session.open()
    control = await session.attach()
    await control.ask({"request": "create", "room": ROOM, "publishers": 6, "require_e2ee": True, **options})
    try:
        yield session, control
    finally:
        await session.close()


async def publish(session, peer: Peer, name: str, colour: str, hertz: float) -> object:
    """Publish pictures and a tone, sealed, under a display name. Return the handle, which leaves when detached."""
    attach(peer.pc, manager(), local_id=name, remote_id="nobody")
    peer.send(picture_track("aiortc", colour), "vp8")
    peer.send(tone_track("aiortc", hertz), "opus")
    handle = await session.attach()
    await peer.pc.setLocalDescription(await peer.pc.createOffer())
    offer = {"type": "offer", "sdp": peer.pc.localDescription.sdp, "e2ee": True}
    body = {"request": "joinandconfigure", "ptype": "publisher", "room": ROOM, "display": name, "pin": PIN}
    answer = await handle.ask(body, offer)
    await peer.pc.setRemoteDescription(RTCSessionDescription(sdp=answer["jsep"]["sdp"], type="answer"))
    await handle.connected()
    return handle


async def test_who_comes_and_goes_is_recorded_without_a_key_and_opened_with_it(janus, tmp_path):
    archive, pin = tmp_path / "archive", tmp_path / "pin"
    pin.write_text(f"{PIN}\n")
    arguments = ("--janus", janus.url, "--room", ROOM, "-o", archive)
    async with room(janus, pin=PIN) as (session, _), peers("aiortc", "aiortc", tracks_end=True) as (first, second):
        async with recorder(ADDRESS, *arguments) as refused:
            assert await refused.ends() == 2
            assert refused.said("frameseal record: Janus reports: ") == 1, refused.lines
        assert not archive.exists()

        await publish(session, first, "alice", "red", 440)
        async with recorder(ADDRESS, *arguments, "--pin-file", pin) as recording:
            await recorded(recording, archive, 1)
            bob = await publish(session, second, "bob", "blue", 880)
            await until(lambda: recording.said("bob is recorded."), 60)
            await recorded(recording, archive, 2)
            await bob.detach()
            await until(lambda: recording.said("bob has left."), 60)
            assert await recording.stop() == 0
            assert recording.said("The archive is closed.") == 1
    stored = b"".join(path.read_bytes() for path in archive.iterdir())
    assert PIN.encode() not in stored and PASSPHRASE.encode() not in stored
    folder = opens(archive, tmp_path)
    for name, colour, hertz in (("alice", "red", 440), ("bob", "blue", 880)):
        numbers = [picture.number for _, picture in shown(folder / f"{name}.mkv")]
        readable = [number for number in numbers if number is not None]
        assert len(readable) > 20 and readable == sorted(set(readable))
        assert {picture.colour for _, picture in shown(folder / f"{name}.mkv")} == {colour}
        samples, _, rate = heard(folder / f"{name}.mkv")
        assert_pure(samples, rate, hertz)


async def test_a_room_that_is_destroyed_and_a_janus_that_dies_end_the_recording(mortal_janus, tmp_path):
    async with peers("aiortc", tracks_end=True) as (alice,):
        async with room(mortal_janus) as (session, control):
            await publish(session, alice, "alice", "red", 440)
            arguments = ("--janus", mortal_janus.url, "--room", ROOM, "--attempts", 1)
            async with (
                recorder(ADDRESS, *arguments, "-o", tmp_path / "first") as first,
                recorder(ADDRESS, *arguments, "-o", tmp_path / "second") as second,
            ):
                for made, name in ((first, "first"), (second, "second")):
                    await recorded(made, tmp_path / name, 1, pictures=1)
                await control.ask({"request": "destroy", "room": ROOM})
                assert await first.ends() == 1
                assert first.said("The room is gone: the room was destroyed.") == 1
                assert await second.ends() == 1
        async with room(mortal_janus), recorder(ADDRESS, *arguments, "-o", tmp_path / "third") as third:
            await until(lambda: third.said("Recording room-4711-"), 60)
            mortal_janus.kill()
            assert await third.ends() == 1
            assert third.said("The room is gone: the connection to Janus was lost") == 1
    for name in ("first", "second", "third"):
        assert main(["archive", "verify", str(tmp_path / name)]) == 0


async def test_chromium_is_recorded_through_janus_and_opened(janus, tabs, tmp_path):
    """The page of `frameseal meet` seals in Chromium, with LiveKit's worker."""
    archive = tmp_path / "archive"
    options = MeetOptions(port=0, passphrase=PASSPHRASE, janus=janus.url)
    async with meeting(options, await asyncio.to_thread(load_worker)) as served:
        ada = await (await tabs()).join(served.link, "Ada")
        await see_and_hear_each_other(ada, served)
        number = served.room._janus.room
        async with recorder(ADDRESS, "--janus", janus.url, "--room", number, "-o", archive) as recording:
            await recorded(recording, archive, 2)
            assert await recording.stop() == 0, recording.lines
    files = list(opens(archive, tmp_path).glob("*.mkv"))
    assert len(files) == 2
    seen = 0
    for path in files:
        with av.open(str(path)) as container:
            kinds = {stream.type for stream in container.streams}
            frames = [frame.reformat(width=160, height=90, format="rgb24") for frame in container.decode(video=0)]
        assert kinds == {"audio", "video"}
        seen += sum(is_the_fake_camera(frame.to_ndarray().astype(float)) for frame in frames)
    assert seen > 20
