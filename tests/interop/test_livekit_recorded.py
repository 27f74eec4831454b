"""`frameseal record --livekit`: a room of a real LiveKit server, recorded without a key and opened with one."""

import secrets

from frameseal import ExternalE2EEKeyProvider
from frameseal.livekit import join
from interop.recorder_command import opens, recorded, recorder
from support.calls import PASSPHRASE, picture_track, tone_track, until
from support.recorded import assert_pure, heard, shown

pytest_plugins = ["interop.livekit_server"]
ADDRESS = "127.0.0.1"


def enter(server, identity: str, room: str):
    provider = ExternalE2EEKeyProvider()
    provider.set_shared_key(PASSPHRASE)
    return join(server.url, server.token(identity, room), provider, ice_servers=())


async def test_a_room_is_recorded_without_a_key_and_opened_with_it(livekit_server, tmp_path):
    name, archive = secrets.token_hex(8), tmp_path / "archive"
    token = tmp_path / "token"
    token.write_text(livekit_server.token("recorder", name) + "\n")
    arguments = ("--livekit", livekit_server.url, "--token-file", token, "-o", archive, "--recording", "monday")
    async with enter(livekit_server, "alice", name) as alice:
        await alice.publish(tone_track("aiortc"))
        await alice.publish(picture_track("aiortc"), codec="h264")
        async with recorder(ADDRESS, *arguments) as recording:
            await recorded(recording, archive, 1)
            async with enter(livekit_server, "bob", name) as bob:
                await bob.publish(tone_track("aiortc", 880))
                await bob.publish(picture_track("aiortc", "blue"))
                await until(lambda: recording.said("bob is recorded."), 60)
                await recorded(recording, archive, 2)
            await until(lambda: recording.said("bob has left."), 60)
            assert await recording.stop() == 0, recording.lines
    stored = b"".join(path.read_bytes() for path in archive.iterdir())
    assert token.read_bytes().strip() not in stored and PASSPHRASE.encode() not in stored
    folder = opens(archive, tmp_path)
    for identity, colour, hertz in (("alice", "red", 440), ("bob", "blue", 880)):
        pictures = [picture for _, picture in shown(folder / f"{identity}.mkv")]
        readable = [picture.number for picture in pictures if picture.number is not None]
        assert len(readable) > 20 and readable == sorted(set(readable))
        assert {picture.colour for picture in pictures} == {colour}
        samples, _, rate = heard(folder / f"{identity}.mkv")
        assert_pure(samples, rate, hertz)


async def test_a_token_that_does_not_admit_is_one_line_and_no_archive(livekit_server, tmp_path):
    token = livekit_server.token("recorder", "room", {"nbf": 0, "exp": 1})
    arguments = ("--livekit", livekit_server.url, "-o", tmp_path / "archive")
    async with recorder(ADDRESS, *arguments, FRAMESEAL_TOKEN=token) as recording:
        assert await recording.ends() == 2
    (line,) = recording.lines
    assert line.startswith("frameseal record: the server answered 401") and token not in line
    assert not (tmp_path / "archive").exists()
