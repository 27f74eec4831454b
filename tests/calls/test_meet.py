"""`frameseal meet` without a browser: the page is served, the bot seals, the SFU sees nothing, the signalling no key.

The page's part is played by meet_page.py. tests/interop/test_meet_browser.py has the same with a browser in it.
"""

import asyncio
import base64
import errno
import hashlib
import io
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import aioice.ice
import av
import numpy as np
import pytest
from PIL import Image

import frameseal
from frameseal import archive
from frameseal.keys.fingerprint import short_code
from frameseal.tools.cli import main
from frameseal.tools.meet import CannotServe, Meeting, MeetOptions, WorkerUnavailable, meeting, worker
from frameseal.tools.meet import bot as bot_module
from frameseal.tools.meet import page as page_module
from frameseal.tools.meet.bot_video import WIDTH, Painter, Scene, ShownParticipant
from frameseal.tools.meet.echo import GAIN, Echo
from frameseal.tools.meet.room import MAX_PARTICIPANTS
from frameseal.tools.meet.rotation_message import MeetingKey, RotationRefused, next_key, open_rotation, seal_rotation
from support import recorded
from support.calls import PASSPHRASE, Picture, Sink, assert_pictures, until
from support.meet_page import Page
from support.recorded import frames_of, until_recorded

STAND_IN = worker.Worker(b"// a stand-in for the worker", b"its licence")
STATIC = Path(page_module.__file__).parent / "static"


@pytest.fixture
async def served():
    async with meeting(MeetOptions(port=0, passphrase=PASSPHRASE), STAND_IN) as made:
        yield made


async def get(served: Meeting, path: str, **options) -> tuple[aiohttp.ClientResponse, bytes]:
    async with aiohttp.ClientSession() as session, session.get(served.origin + path, **options) as response:
        return response, await response.read()


# --- the meeting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["vp8", "h264"])
async def test_the_bot_opens_what_the_page_seals_and_the_page_what_the_bot_seals(codec):
    options = MeetOptions(port=0, passphrase=PASSPHRASE, codec=codec)
    async with meeting(options, STAND_IN) as served, Page(served, PASSPHRASE, codec=codec) as ada:
        await until(lambda: ada.bot_says(None, "DecryptionSuccess"), 60)
        await until(lambda: ada.bot_says("bot", "EncryptionSuccess"))
        await until(lambda: ada.opens("bot") == ada.opens("bot", "audio") == "DecryptionSuccess")
        await until(lambda: len(ada.sinks["bot", "video"].pictures) > 5)
        tracks = {(t.participant_id, t.kind): t for a in vars(ada)["_pcs"].values() for t in counters(a)}
        assert tracks[ada.id, "video"].codec == tracks["bot", "video"].codec == codec


def counters(pc):
    return pc._frameseal_attachment.counters


async def test_the_bot_gives_the_voice_back(served):
    async with Page(served, PASSPHRASE) as ada:
        await until(lambda: ("bot", "audio") in ada.sinks, 60)
        sink: Sink = ada.sinks["bot", "audio"]
        await until(lambda: sink.samples and np.abs(sink.samples[-1]).max() > 1000)
        sink.clear()
        await until(lambda: sink.seconds > 1.5)
        heard, purity, rms = sink.tone()
        assert abs(heard - 440) < 6
        assert purity > 0.9
        # Half of it, because mono became stereo on each of the two ways, at 3 dB.
        assert rms == pytest.approx(8192 / 2**0.5 * GAIN / 2, rel=0.2)


async def test_two_pages_see_each_other_and_a_listener_sees_both(served):
    async with (
        Page(served, PASSPHRASE) as ada,
        Page(served, PASSPHRASE, "Bob") as bob,
        Page(served, PASSPHRASE, "Cleo", tracks=()) as cleo,
    ):
        await until(lambda: all(page.id for page in (ada, bob, cleo)))
        wanted = [(ada, bob.id), (bob, ada.id), (cleo, ada.id), (cleo, bob.id), (cleo, "bot")]
        await until(lambda: all(page.opens(other) == "DecryptionSuccess" for page, other in wanted), 90)
        for page, other in wanted[:4]:
            await until(lambda page=page, other=other: len(page.sinks[other, "video"].pictures) >= 10)
            assert_pictures(page.sinks[other, "video"])
        assert not [key for key in ada.sinks if key[0] == cleo.id]


async def test_a_wrong_passphrase_shows_on_both_sides_and_the_right_one_brings_everything_back(served):
    async with Page(served, "a wrong one") as eve:
        await until(lambda: eve.bot_says(None, "InvalidKey"), 60)
        await until(lambda: eve.opens("bot") == eve.opens("bot", "audio") == "InvalidKey")
        assert all(sink.empty for sink in eve.sinks.values())
        eve.set_key(MeetingKey(PASSPHRASE))
        await until(lambda: eve.bot_says(None, "DecryptionSuccess"))
        await until(lambda: eve.opens("bot") == eve.opens("bot", "audio") == "DecryptionSuccess")
        await until(lambda: not any(sink.empty for sink in eve.sinks.values()))


def code_of(keys: dict[int, str]) -> str:
    ring = frameseal.KeyRing("livekit")
    for key_id, passphrase in keys.items():
        ring.set_passphrase(passphrase, key_id)
    return short_code(ring)


async def test_the_bots_code_covers_every_key_that_opens_frames_and_keeps_the_loop_waiting_for_none(
    served, monkeypatch
):
    bot, old = served.bot, served.bot.key
    threads, derive = [], hashlib.pbkdf2_hmac

    def seen(*arguments):
        threads.append(threading.current_thread())
        return derive(*arguments)

    monkeypatch.setattr(bot_module, "FORGET_AFTER", 3600)
    await until(lambda: bot.code is not None)
    assert bot.code == await asyncio.to_thread(code_of, {0: PASSPHRASE})
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", seen)
    async with Page(served, PASSPHRASE) as ada:
        coming = await ada.rotate()
        await until(lambda: bot.key == coming and bot.code is not None, 60)
        assert bot.code == await asyncio.to_thread(code_of, {0: PASSPHRASE, 1: coming.passphrase})
    bot._forget(old)
    assert bot.code is None, "a code that is no longer true is not shown"
    await until(lambda: bot.code is not None)
    assert bot.code == await asyncio.to_thread(code_of, {1: coming.passphrase})
    assert threads and threading.current_thread() not in threads


async def test_keys_that_change_a_hundred_times_make_the_bot_derive_one_code_at_a_time(served, monkeypatch):
    bot, going, gate, derive = served.bot, [], threading.Event(), hashlib.pbkdf2_hmac

    def held_up(*arguments):
        going.append(threading.current_thread())
        assert gate.wait(60)
        return derive(*arguments)

    await until(lambda: bot.code is not None)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", held_up)
    bot.provider.set_shared_key("the first", 2)
    bot._keys_changed()
    await until(lambda: going)
    for number in range(100):
        bot.provider.set_shared_key(f"number {number}".encode().ljust(16), 2)
        bot._keys_changed()
    gate.set()
    await until(lambda: bot.code is not None)
    assert len(going) == 2, "the one that was under way, and the last"


async def test_everybody_gets_the_table_of_who_can_open_whom_and_no_key_is_in_it(served):
    async with Page(served, PASSPHRASE) as ada, Page(served, "a wrong one", "Eve", tracks=("audio",)) as eve:

        def rows(page: Page) -> dict:
            tables = page.heard("report")
            tracks = tables[-1]["report"]["tracks"] if tables else []
            return {(row["participant_id"], row["kind"]): row for row in tracks}

        def states(page: Page) -> set:
            return {(who, kind, row["state"], row["reason"]) for (who, kind), row in rows(page).items()}

        await until(lambda: ada.id and eve.id, 60)
        wanted = {
            ("bot", "audio", "EncryptionSuccess", None),
            (ada.id, "audio", "DecryptionSuccess", None),
            (ada.id, "video", "DecryptionSuccess", None),
            (eve.id, "audio", "InvalidKey", "authentication_failed"),
        }
        await until(lambda: wanted <= states(ada) and wanted <= states(eve), 60)
        row = rows(eve)[ada.id, "video"]
        assert (row["direction"], row["codec"], row["key_id"], row["keys_set"]) == ("receive", "vp8", 0, [0])
        assert row["counters"]["frames"] > 0 and row["last_good"] >= row["since"]
        assert rows(ada)[eve.id, "audio"]["last_good"] is None
        assert PASSPHRASE not in "".join(eve.carried)


async def test_a_rotation_takes_those_along_who_have_the_key_and_nobody_else():
    brought = []
    options = MeetOptions(port=0, passphrase=PASSPHRASE)
    async with (
        meeting(options, STAND_IN, brought.append) as served,
        Page(served, PASSPHRASE) as ada,
        Page(served, "a wrong one", "Eve") as eve,
    ):
        await until(lambda: ada.bot_says(None, "DecryptionSuccess") and eve.id is not None, 60)
        coming = await ada.rotate()
        await until(lambda: ada.heard("rotated"))
        assert ada.key == coming == served.bot.key
        assert brought == [coming] and coming.key_id == 1
        assert served.link.endswith(f"#key={coming.passphrase}&id=1")
        assert ada.heard("rotated")[0]["keyId"] == 1
        await until(lambda: ada.opens("bot") == "DecryptionSuccess")
        # Frames under the new key are opened: the counters go on.
        seen = len(ada.sinks["bot", "video"].pictures)
        await until(lambda: len(ada.sinks["bot", "video"].pictures) > seen + 10)
        assert ada.bot_says(None, "DecryptionSuccess")
        await until(lambda: eve.opens("bot") == "MissingKey")  # she has no key under the new id
        assert eve.key == MeetingKey("a wrong one")

        await eve.rotate()
        await until(lambda: len(ada.heard("rotated")) == 2)
        assert ada.heard("rotated")[1]["keyId"] is None
        assert ada.key == coming == served.bot.key


async def test_somebody_without_the_key_cannot_keep_the_others_busy_with_rotations(served):
    async with Page(served, "a wrong one", tracks=()) as eve:
        await until(lambda: eve.id)
        for _ in range(50):
            await eve.rotate()
        await eve.send({"type": "watch", "on": True})
        await until(lambda: eve.heard("sfu"))
        assert 1 <= len(eve.heard("rotated")) <= 5
        assert served.bot.key == MeetingKey(PASSPHRASE)


async def test_nothing_that_is_sent_to_the_server_has_the_passphrase_or_the_next_one(served):
    async with Page(served, PASSPHRASE) as ada:
        await until(lambda: ada.bot_says(None, "DecryptionSuccess"), 60)
        coming = await ada.rotate()
        await until(lambda: ada.heard("rotated"))
        carried = "\n".join(ada.carried)
    decoded = b"\n".join(base64.b64decode(text) for text in re.findall(r'"sealed": "([^"]+)"', carried))
    assert decoded
    for secret in (PASSPHRASE, coming.passphrase):
        assert secret not in carried and secret.encode() not in decoded
    _, facts = await get(served, "/facts")
    assert PASSPHRASE.encode() not in facts


async def test_who_leaves_is_gone_and_leaves_nothing_behind(served):
    await until(lambda: served.bot.publishes)
    before = len(asyncio.all_tasks())
    async with Page(served, PASSPHRASE) as ada:
        async with Page(served, PASSPHRASE, "Bob") as bob:
            await until(lambda: ada.id and bob.id and ada.opens(bob.id) == "DecryptionSuccess", 60)
            gone = bob.id
        await until(lambda: ada.heard("left") and ada.heard("left")[0]["id"] == gone)
        await until(lambda: set(served.room.sfu_views) == {"bot", ada.id})
        assert gone not in served.room.members
        seen = len(ada.sinks["bot", "video"].pictures)
        await until(lambda: len(ada.sinks["bot", "video"].pictures) > seen + 5)
    await until(lambda: set(served.room.members) == {"bot"})
    await until(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.parametrize("lost", ["publish", "bot"])
async def test_a_connection_that_is_lost_is_made_anew(served, lost):
    async with Page(served, PASSPHRASE) as ada, Page(served, PASSPHRASE, "Bob", tracks=()) as bob:
        await until(lambda: bob.opens(ada.id) == ada.opens("bot") == "DecryptionSuccess", 60)
        before, calls = dict(ada.sinks if lost == "bot" else bob.sinks), len(ada.heard("call"))
        # As a browser says it, after some seconds in which nothing came back.
        number = ada.made_by[lost]
        await ada.send({"type": "connection", "call": number, "peer": lost, "state": "disconnected"})
        await ada.send({"type": "connection", "call": number, "peer": lost, "state": "failed"})
        await until(lambda: len(ada.heard("call")) > calls, 60)
        who, whose = (ada, "bot") if lost == "bot" else (bob, ada.id)
        await until(lambda: who.sinks[whose, "video"] is not before[whose, "video"], 60)
        await until(lambda: len(who.sinks[whose, "video"].pictures) >= 10)
        if lost == "publish":
            assert_pictures(bob.sinks[ada.id, "video"])
        assert ada.heard("problem") == bob.heard("problem") == []


async def test_somebody_who_leaves_while_connecting_does_not_hold_the_room_up(served):
    async with Page(served, PASSPHRASE) as hasty:
        await until(lambda: hasty.heard("call"))
    async with Page(served, PASSPHRASE) as ada:
        await until(lambda: ada.bot_says(None, "DecryptionSuccess"), 60)
    await until(lambda: set(served.room.members) == {"bot"})


async def test_a_page_that_offers_nonsense_is_told_and_the_others_go_on(served):
    async with Page(served, PASSPHRASE) as ada, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{served.origin}/signalling") as web_socket:
            await web_socket.send_json({"type": "join", "name": "", "tracks": ["video"]})
            async for frame in web_socket:
                message = frame.json()
                if message["type"] == "call":
                    await web_socket.send_json({"type": "reply", "call": message["call"], "sdp": "v=0\r\nnonsense"})
                if message["type"] == "problem":
                    break
        await until(lambda: ada.bot_says(None, "DecryptionSuccess"), 60)
        assert [message["participant"]["name"] for message in ada.heard("joined")] == ["Guest"]


@pytest.mark.parametrize("sent", ["no JSON", "[]", '{"type": "sing"}', '{"type": "reply"}', '{"type": "join"}'])
async def test_a_client_that_does_not_speak_the_protocol_is_hung_up_on(served, sent):
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{served.origin}/signalling") as web_socket:
        await web_socket.send_str(sent)
        message = await asyncio.wait_for(web_socket.receive(), 20)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    assert set(served.room.members) == {"bot"}


async def test_a_full_room_says_so(served):
    async with aiohttp.ClientSession() as session:
        sockets = []
        for _ in range(MAX_PARTICIPANTS):
            sockets.append(await session.ws_connect(f"{served.origin}/signalling"))
            await sockets[-1].send_json({"type": "join", "name": "x", "tracks": []})
        while (message := await sockets[-1].receive_json(timeout=20))["type"] != "problem":
            pass
        assert "full" in message["message"]
        assert len(served.room.members) == MAX_PARTICIPANTS
        for web_socket in sockets:
            await web_socket.close()


# --- what the SFU sees -----------------------------------------------------------------------------------------------


def shown(report) -> Picture:
    image = Image.open(io.BytesIO(base64.b64decode(report["picture"])))
    return Picture.read(av.VideoFrame.from_image(image).reformat(format="yuv420p"))


async def test_the_sfu_decodes_nothing_that_is_sealed(served):
    async with Page(served, PASSPHRASE) as ada:
        await ada.send({"type": "watch", "on": True})
        await until(lambda: ada.bot_says(None, "DecryptionSuccess"), 60)

        def seen(participant):
            return [m for m in ada.heard("sfu") if m["participant"] == participant and m["tried"] >= 30]

        await until(lambda: seen(ada.id) and seen("bot"))
        for report in (seen(ada.id)[-1], seen("bot")[-1]):
            assert report["frames"]["video"] >= 30 and report["frames"]["audio"] > 0
            assert [part["name"] for part in report["parts"]][:2] == ["clear bytes (AAD)", "ciphertext"]
            # A VP8 decoder makes pictures of some noise. They are noise too.
            assert report["picture"] is None or shown(report) == Picture(None, None)
        await ada.send({"type": "watch", "on": False})
        await until(lambda: not any(sfu_view.watched for sfu_view in served.room.sfu_views.values()))


async def test_the_sfu_sees_who_does_not_seal_and_nobody_opens_it(served):
    async with Page(served, PASSPHRASE, sealed=False) as careless:
        await careless.send({"type": "watch", "on": True})
        await until(lambda: careless.id in {m["participant"] for m in careless.heard("sfu") if m["pictures"] > 5}, 60)
        picture = shown([m for m in careless.heard("sfu") if m["participant"] == careless.id][-1])
        assert picture.number is not None and picture.colour == "red"
        await until(lambda: ("bot", careless.id, "video") in careless.states)
        assert careless.states["bot", careless.id, "video"] != "DecryptionSuccess"


# --- the page --------------------------------------------------------------------------------------------------------


async def test_the_page_is_served_with_all_that_it_names(served):
    response, body = await get(served, "/")
    assert response.status == 200 and response.content_type == "text/html"
    named = set(re.findall(r'(?:src|href)="(/[^"]+)"', body.decode()))
    for script in STATIC.glob("*.js"):
        named |= {f"/{name}" for name in re.findall(r"from '\./([^']+)'", script.read_text("utf-8"))}
        named |= set(re.findall(r"Worker\('([^']+)'", script.read_text("utf-8")))
    assert {"/main.js", "/style.css", "/keys.js", "/vendor/e2ee.worker.mjs", "/vendor/LICENSE"} <= named
    for path in named:
        response, body = await get(served, path)
        assert response.status == 200 and body, path
    assert (await get(served, "/vendor/e2ee.worker.mjs"))[1] == STAND_IN.script
    assert (await get(served, "/../page.py"))[0].status == 404


async def test_the_page_may_load_nothing_from_elsewhere_and_names_nothing(served):
    response, _ = await get(served, "/")
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert response.headers["Referrer-Policy"] == "no-referrer"
    for file in STATIC.iterdir():
        addresses = re.findall(r"https?://[^\s\"'<>]+", file.read_text("utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name


async def test_the_server_answers_under_its_own_names_and_to_its_own_page_alone(served):
    port = served.origin.rpartition(":")[2]
    assert (await get(served, "/", headers={"Host": f"localhost:{port}"}))[0].status == 200
    for host in (f"rebound.example:{port}", "[::1", "127.0.0.1.example", ""):
        assert (await get(served, "/", headers={"Host": host}))[0].status in (400, 403)
    async with aiohttp.ClientSession() as session:
        for origin in ("http://elsewhere.example", "null", f"http://127.0.0.1:{int(port) + 1}"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{served.origin}/signalling", headers={"Origin": origin})
            assert refused.value.status == 403
        async with session.ws_connect(f"{served.origin}/signalling", headers={"Origin": served.origin}):
            pass


async def test_by_default_only_this_machine_is_served(served):
    assert served.origin.startswith("http://127.0.0.1:")
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", int(served.origin.rpartition(":")[2]))) != 0


async def test_lan_serves_tls_with_a_certificate_for_the_address(monkeypatch):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "127.0.0.2"])
    async with meeting(MeetOptions(port=0, lan=True), STAND_IN) as served:
        assert served.origin.startswith("https://127.0.0.2:")
        port = int(served.origin.rpartition(":")[2])
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.2", port))
        trusting = ssl.create_default_context(cadata=pem)
        response, _ = await get(served, "/", ssl=trusting)
        assert response.status == 200
        fingerprint = aiohttp.Fingerprint(bytes.fromhex(served.certificate.replace(":", "")))
        assert (await get(served, "/", ssl=fingerprint))[0].status == 200


async def test_without_a_network_there_is_no_lan():
    with pytest.raises(CannotServe, match="--lan"):
        async with meeting(MeetOptions(port=0, lan=True), STAND_IN):
            pass


# --- the recording ---------------------------------------------------------------------------------------------------


async def test_a_meeting_is_recorded_without_a_key_and_everybody_is_told(tmp_path, capsys):
    folder, secret = tmp_path / "archive", tmp_path / "keys.json"
    async with meeting(MeetOptions(port=0, passphrase=PASSPHRASE, record=str(folder)), STAND_IN) as served:
        _, facts = await get(served, "/facts")
        assert json.loads(facts)["recorded"] is True
        async with Page(served, PASSPHRASE) as ada:
            await until(lambda: ada.heard("recording") and ada.bot_says(None, "DecryptionSuccess"), 60)
            await until_recorded(folder, lambda rows: all(frames_of(rows, who) >= 30 for who in ("Ada", "Bot")))
            async with Page(served, PASSPHRASE, "Ada") as second:  # has the name of somebody who is present
                await until(lambda: second.heard("recording") == [{"type": "recording"}])
                name = f"Ada ({second.id})"
                await until_recorded(folder, lambda rows: frames_of(rows, name) >= 30)
            coming = await ada.rotate()
            await until(lambda: served.bot.key == coming, 60)
            await until_recorded(folder, lambda rows: frames_of(rows, "Ada", kind="video", key_id=1) >= 30)
    (found,), strangers = archive.verify(folder)
    assert (found.name, found.is_closed, found.problems, strangers) == (served.recording, True, [], [])
    assert found.participants == {"Ada", "Bot", name}
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert PASSPHRASE.encode() not in stored and coming.passphrase.encode() not in stored

    keys = [{"key_id": 0, "passphrase": PASSPHRASE}, {"key_id": coming.key_id, "passphrase": coming.passphrase}]
    secret.write_text(json.dumps({"shared": keys}))
    opened = tmp_path / "opened"
    assert await asyncio.to_thread(main, ["open", str(folder), "-o", str(opened), "--key-file", str(secret)]) == 0
    numbers = [each.number for _, each in recorded.shown(opened / "Ada.mkv") if each.number is not None]
    assert len(numbers) > 20 and numbers == sorted(set(numbers))
    samples, _, rate = recorded.heard(opened / "Ada.mkv")
    recorded.assert_pure(samples, rate)


async def test_a_meeting_without_a_recording_says_nothing_of_one(served):
    _, facts = await get(served, "/facts")
    assert json.loads(facts)["recorded"] is False and served.recording is None
    async with Page(served, PASSPHRASE) as ada:
        await until(lambda: ada.heard("welcome"))
        await until(lambda: ada.heard("report"))
        assert ada.heard("recording") == []


def test_the_page_says_that_it_is_recorded_and_who_can_open_it():
    text = re.sub(r"\s+", " ", (STATIC / "index.html").read_text("utf-8"))
    (notice,) = re.findall(r'<p id="recorded"[^>]* hidden>(.*?)</p>', text)
    assert "This meeting is being recorded, sealed." in notice and "Everybody with the meeting's passphrase" in notice


async def test_an_archive_that_cannot_be_written_is_refused_before_the_meeting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotServe, match="--record: the archive cannot be written"):
        async with meeting(MeetOptions(port=0, record=str(tmp_path / "file")), STAND_IN):
            pass


def test_sigterm_ends_a_recorded_meeting_and_closes_the_archive(tmp_path):
    folder = tmp_path / "archive"
    program = (
        "import sys, frameseal.tools.meet as meet; from frameseal.tools.cli import main\n"
        "meet.load_worker = lambda package: meet.Worker(b'stand-in', b'licence')\n"
        f"sys.exit(main(['meet', '--port', '0', '--record', {str(folder)!r}]))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        printed = [process.stdout.readline().decode() for _ in range(6)]
        assert re.search(rf"^  frameseal open {folder} --recording meeting-\S+ -o opened$", printed[4])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and re.fullmatch(rb"recorded [\d,]+ frames as meeting-\S+\n", errors)
    (found,), _ = archive.verify(folder)
    assert found.is_closed


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_rotation_is_for_who_has_the_present_key_and_for_the_next_id_alone():
    present = MeetingKey("one", 15)
    coming = next_key(present)
    sealed = seal_rotation(present, coming)
    assert coming.key_id == 0 and "one" not in repr(present) and coming.passphrase.encode() not in sealed
    assert open_rotation(present, sealed) == coming
    for other in (MeetingKey("two", 15), MeetingKey("one", 14), coming):
        with pytest.raises(RotationRefused):
            open_rotation(other, sealed)
    for spoilt in (b"", sealed[:-20], sealed[:5] + bytes([sealed[5] ^ 1]) + sealed[6:]):
        with pytest.raises(RotationRefused):
            open_rotation(present, spoilt)


def test_a_rotation_that_the_page_sealed_opens():
    # Made by static/keys.js on Node 20.
    sealed = (
        "8Gl5X3lfALVEStHNQdnCUCfmKINf80ssRyaYEQNpxp8U3kMxJ3N2yvAt0KgDsBOdJ1Z1yzvvDK8HafrL+yr63BZtbLJTVOlczCWxWSwMAA=="
    )
    opened = open_rotation(MeetingKey(PASSPHRASE, 15), base64.b64decode(sealed))
    assert opened == MeetingKey("CPgLQ_D41UXDJNrMRdSQgg", 0)


def test_an_echo_comes_later_and_quieter_and_mixes():
    echo = Echo(delay=100)
    echo.hear("ada", np.full(50, 1000, np.int16))
    echo.hear("bob", np.full(80, 2000, np.int16))
    echo.hear("ada", np.full(10, 32767, np.int16))
    said = echo.say(400)
    assert not said[:100].any() and not said[180:].any()
    assert set(said[100:150]) == {1800} and set(said[150:160]) == {1200 + int(32767 * GAIN)}
    assert set(said[160:180]) == {1200}
    assert not echo.say(1000).any()


def test_an_echo_of_more_than_fits_does_not_overtake_itself():
    echo = Echo()
    for _ in range(100):
        echo.hear("ada", np.full(48000, 1000, np.int16))
    said = np.concatenate([echo.say(48000) for _ in range(8)])
    assert said.max() == 600
    assert (said == 600).sum() == 3 * 48000


CODE = "v2 82233 72827 31690 14388 68277 76259 05085 27087"


def test_the_whole_code_is_in_the_bots_picture():
    def right_end(code):
        drawn = np.asarray(Painter().draw(Scene(15, code, {}, []), 0))[326:]
        return int(np.flatnonzero((drawn.max(axis=2) > 150).any(axis=0)).max())

    assert right_end(CODE[:-6]) < right_end(CODE) < WIDTH - 10


def test_the_bots_picture_changes_with_states_and_code():
    painter = Painter()
    good = ShownParticipant("Ada", None, {"video": "DecryptionSuccess"})
    views = [
        Scene(0, None, {}, []),
        Scene(0, CODE, {}, []),
        Scene(1, None, {}, []),
        Scene(0, None, {}, [good]),
        Scene(0, None, {}, [ShownParticipant("Ada", None, {"video": "InvalidKey"})]),
        Scene(0, None, {}, [good] * 3),
    ]
    drawn = {painter.draw(view, 0).tobytes() for view in views}
    assert len(drawn) == len(views)
    assert painter.draw(views[0], 1).tobytes() not in drawn


# --- the worker ------------------------------------------------------------------------------------------------------


def test_only_the_pinned_package_is_taken(tmp_path):
    other = tmp_path / "livekit-client-2.23.0.tgz"
    other.write_bytes(b"something else")
    with pytest.raises(WorkerUnavailable, match="hash differs"):
        worker.load_worker(other)
    with pytest.raises(WorkerUnavailable, match="No such file"):
        worker.load_worker(tmp_path / "missing.tgz")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts a stand-in for npm on the path, and the cache into a folder of its own."""

    def install(script: str) -> None:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "npm"
        program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{script}")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(worker.sys, "platform", "linux")
    return install


def test_without_npm_the_error_says_what_to_do(npm, capsys):
    assert main(["meet", "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert "install npm" in error and "--worker" in error and len(error.splitlines()) == 1


def test_without_a_network_the_error_says_what_to_do(npm, capsys):
    npm("sys.exit(1)")
    assert main(["meet", "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert "check the network" in error and "--worker" in error and len(error.splitlines()) == 1


def test_a_registry_that_gives_something_else_is_not_believed(npm, tmp_path):
    npm(
        "place = sys.argv[sys.argv.index('--pack-destination') + 1]\n"
        f"pathlib.Path(place, {worker.TARBALL!r}).write_bytes(b'something else')"
    )
    with pytest.raises(WorkerUnavailable, match="hash differs"):
        worker.load_worker()
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_was_altered_is_not_believed(npm, tmp_path):
    kept = tmp_path / "cache" / "frameseal" / worker.TARBALL
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"altered")
    with pytest.raises(WorkerUnavailable, match="npm"):
        worker.load_worker()
    assert not kept.exists()


@pytest.mark.parametrize("forbidden", ["read_bytes", "unlink"])
def test_a_cache_that_this_user_cannot_use_is_passed_over(npm, tmp_path, monkeypatch, forbidden):
    kept = tmp_path / "cache" / "frameseal" / worker.TARBALL
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"altered")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(worker.Path, forbidden, refuse)
    with pytest.raises(WorkerUnavailable, match="install npm"):
        worker.load_worker()


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("frameseal.tools.meet.load_worker", lambda package: STAND_IN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["meet", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error and "--port" in error and len(error.splitlines()) == 1


def test_a_janus_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("frameseal.tools.meet.load_worker", lambda package: STAND_IN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["meet", "--port", "0", "--sfu", f"janus={url}"]) == 2
    error = capsys.readouterr().err
    assert "there is no Janus at this URL" in error and len(error.splitlines()) == 1
    assert url not in error, "it may have a password in it"


@pytest.mark.parametrize("arguments", [["--port", "65536"], ["--sfu", "ws://127.0.0.1"], ["--sfu", "janus=http://x"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["meet", *arguments])
    assert exit_.value.code == 2
    assert "usage: frameseal" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["aiohttp", "aiortc"])
def test_a_missing_extra_is_named(module):
    program = (
        f"import sys; sys.modules[{module!r}] = None\nfrom frameseal.tools.cli import main; sys.exit(main(['meet']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert 'pip install "frameseal[meet]"' in done.stderr and len(done.stderr.splitlines()) == 1


# A shell that starts a job in the background (`make test &` in a script) ignores SIGINT, and its children inherit that.
IN_THE_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]


@pytest.mark.parametrize("shell", [[], IN_THE_BACKGROUND], ids=["in the foreground", "in the background"])
def test_the_command_prints_the_link_and_ends_with_ctrl_c(shell):
    program = (
        # Accept SIGINT as a command in the foreground does, whatever the shell of this test ignores.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, frameseal.tools.meet as meet; from frameseal.tools.cli import main\n"
        "meet.load_worker = lambda package: meet.Worker(b'stand-in', b'licence')\n"
        "sys.exit(main(['meet', '--port', '0', '--passphrase', 'with a space & more']))"
    )
    command = [*shell, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        printed = process.stdout.readline() + process.stdout.readline()
        assert re.search(rb"http://127\.0\.0\.1:\d+/#key=with\+a\+space\+%26\+more&id=0", printed)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
