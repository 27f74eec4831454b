"""`frameseal record`: its arguments, a room of a simulated Janus, and every way in which a recording may end.

tests/interop has the same with real servers.
"""

import asyncio
import contextlib
import io
import re
import signal
import threading
import time

import pytest
from livekit.protocol import models, rtc
from rich.console import Console

from frameseal import archive
from frameseal.aiortc import attach
from frameseal.archive import ArchiveWriter
from frameseal.livekit import join
from frameseal.tools import recording
from frameseal.tools.cli import main
from frameseal.tools.recording import RecordOptions, janus_room, keyless, screen
from frameseal.tools.recording.keyless import CannotRecord, KeylessRecording, Tally, distinct_name, fresh_id
from support.archives import Sender, provider
from support.calls import PASSPHRASE, connect, manager, peers, picture_track, tone_track, until
from support.janus_stand_in import PIN, ROOM, TOKEN, serving
from support.livekit_stand_in import serving as livekit_serving
from support.recorded import frames_of, rows_of, until_recorded
from support.secret_search import MARKER
from support.web_server import serving_app


@pytest.fixture
async def janus():
    async with serving() as server:
        yield server


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("FRAMESEAL_PIN", PIN)
    monkeypatch.setenv("FRAMESEAL_TOKEN", TOKEN)


class Running:
    """A recording that runs in this loop, and what it has printed."""

    def __init__(self, options: RecordOptions, terminal: bool = False) -> None:
        self.printed = io.StringIO()
        console = Console(file=self.printed, force_terminal=terminal, width=120, color_system=None)
        self.task = asyncio.ensure_future(recording._run(options, screen.Screen(console)))

    def said(self, text: str) -> bool:
        return text in self.printed.getvalue()


@contextlib.asynccontextmanager
async def running(janus, folder, **options):
    made = Running(RecordOptions(str(folder), janus=janus.url, room=ROOM, **options))
    try:
        yield made
    finally:
        if not made.task.done():
            made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


async def publish(janus, peer, name, number, **changes) -> None:
    attach(peer.pc, manager(), local_id=str(name), remote_id="nobody")
    peer.send(tone_track("aiortc"), "opus")
    peer.send(picture_track("aiortc"), "vp8")
    await janus.publish(peer, number, name, **changes)


async def spooled(folder, participants: set, more: int = 20) -> None:
    """Wait until the spool has *more* rows of each of these participants."""
    await until_recorded(folder, lambda rows: all(frames_of(rows, who) >= more for who in participants))


async def test_publishers_are_followed_and_a_signal_closes_the_archive(janus, environment, tmp_path):
    async with peers("aiortc", "aiortc", tracks_end=True) as (alice, bob):
        await publish(janus, alice, "alice", 1)
        async with running(janus, tmp_path / "made", recording="monday") as made:
            await spooled(tmp_path / "made", {"alice"})
            await publish(janus, bob, "alice", 2)  # has the name of somebody who is present
            await spooled(tmp_path / "made", {"alice", "alice (2)"})
            await janus.announce(unpublished=2)
            await janus.announce(leaving=2)
            await until(lambda: made.said("alice (2) has left."))
            signal.raise_signal(signal.SIGTERM)
            assert await made.task == 0
    assert made.said("Recording monday.") and made.said("The archive is closed.")
    assert made.said("Tell the participants")
    assert janus.joins[0]["display"] == "frameseal record (sealed, without a key)"
    (found,), strangers = archive.verify(tmp_path / "made")
    assert (found.name, found.is_closed, found.problems, strangers) == ("monday", True, [], [])
    assert made.said(f"{found.frames:,} frames") and not any(row["gap"] for row in rows_of(tmp_path / "made"))
    content = b"".join(path.read_bytes() for path in (tmp_path / "made").iterdir())
    assert not any(secret.encode() in content for secret in (PIN, TOKEN, PASSPHRASE))


async def test_after_a_lost_connection_it_joins_again_and_marks_gaps(janus, environment, tmp_path, monkeypatch):
    monkeypatch.setattr(janus_room, "FIRST_WAIT", 0.01)
    async with peers("aiortc", tracks_end=True) as (alice,):
        await publish(janus, alice, "alice", 1)
        async with running(janus, tmp_path / "made") as made:
            await spooled(tmp_path / "made", {"alice"})
            await janus.sockets[-1].close()
            await until(lambda: len(janus.joins) == 2)
            before = len(rows_of(tmp_path / "made"))
            await spooled(tmp_path / "made", {"alice"}, before + 40)
            signal.raise_signal(signal.SIGINT)
            assert await made.task == 0
    assert made.said("joining again")
    stored = rows_of(tmp_path / "made")
    for kind in ("audio", "video"):
        assert [row["gap"] for row in stored if row["kind"] == kind].count(True) == 1
        first = next(row for row in stored if row["kind"] == kind and row["gap"])
        assert first["ssrc"] != stored[0]["ssrc"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"videoroom": "destroyed"}, "the room was destroyed"),
        ({"leaving": "ok", "reason": "kicked"}, "Janus has removed the recorder from the room: kicked"),
    ],
)
async def test_a_room_that_is_gone_is_said_and_the_archive_closed(janus, environment, tmp_path, event, reason):
    async with running(janus, tmp_path / "made") as made:
        await until(lambda: made.said("Recording room-7-"))
        await janus.announce(**event)
        assert await made.task == 1
    assert made.said(f"The room is gone: {reason}.") and made.said("The archive is closed.")


async def test_a_room_that_cannot_be_joined_again_is_gone(janus, environment, tmp_path, monkeypatch):
    monkeypatch.setattr(janus_room, "FIRST_WAIT", 0.01)
    async with running(janus, tmp_path / "made", attempts=3) as made:
        await until(lambda: made.said("Recording room-7-"))
        janus.refusing = "No such room (7)"
        await janus.sockets[-1].close()
        assert await made.task == 1
    assert len(janus.joins) == 4 and made.said("cannot be joined again: Janus reports: No such room (7)")


async def test_a_disk_that_is_full_is_said_and_the_status_is_1(janus, environment, tmp_path, monkeypatch):
    full = threading.Event()
    write = ArchiveWriter.write

    def written(writer, frame) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device", MARKER)
        write(writer, frame)

    monkeypatch.setattr(ArchiveWriter, "write", written)
    async with peers("aiortc", tracks_end=True) as (alice,):
        await publish(janus, alice, "alice", 1)
        async with running(janus, tmp_path / "made") as made:
            await spooled(tmp_path / "made", {"alice"})
            full.set()
            await until(lambda: made.said("the recording lost 1 frames: not_written"))
            kept = len(rows_of(tmp_path / "made"))
            full.clear()  # the call goes on, and so does the recording
            await spooled(tmp_path / "made", {"alice"}, kept + 20)
            signal.raise_signal(signal.SIGTERM)
            assert await made.task == 1
    assert re.search(r"\d+ frames are lost: the disk was full or too slow", made.printed.getvalue())
    assert any(row["gap"] for row in rows_of(tmp_path / "made")) and not made.said(MARKER)


async def test_an_archive_that_cannot_be_closed_is_said(janus, environment, tmp_path, monkeypatch):
    def fails(writer) -> None:
        raise OSError("the archive is incomplete") from OSError(28, "No space left on device", MARKER)

    close = ArchiveWriter.close
    monkeypatch.setattr(ArchiveWriter, "close", fails)
    written = []
    monkeypatch.setattr(
        keyless, "ArchiveWriter", lambda *args, **more: written.append(ArchiveWriter(*args, **more)) or written[0]
    )
    async with running(janus, tmp_path / "made") as made:
        await until(lambda: made.said("Recording room-7-"))
        signal.raise_signal(signal.SIGTERM)
        assert await made.task == 1
    close(written[0])
    assert made.said("The archive is incomplete: No space left on device.") and made.said("frameseal archive repair")
    assert not made.said("The archive is closed.") and not made.said(MARKER)


async def test_publishers_that_send_nonsense_do_not_end_the_recording(janus, environment, tmp_path):
    async with peers("aiortc", tracks_end=True) as (alice,), running(janus, tmp_path / "made") as made:
        await until(lambda: made.said("Recording room-7-"))
        await janus.announce(publishers=[None, 5, {"id": [1]}, {"id": 3}, {"id": 4, "streams": [None, {"type": 1}]}])
        await janus.announce(publishers="all", unpublished=[1], leaving={"a": 1})
        screen_share = [{"type": "video", "mid": "0", "codec": "av1\x1b[2J"}, {"type": "data", "mid": "1"}]
        await janus.announce(publishers=[{"id": 5, "display": "eve\x1b[2J", "streams": screen_share}])
        await publish(janus, alice, 17, 1)  # a display that is no text
        await spooled(tmp_path / "made", {"1"})
        signal.raise_signal(signal.SIGTERM)
        assert await made.task == 0
    assert made.said("A track of eve[2J is not recorded: aiortc does not receive av1[2J.") and not made.said("\x1b")


async def test_media_that_are_not_sealed_are_never_archived(janus, environment, tmp_path):
    async with peers("aiortc", tracks_end=True) as (mallory,):
        mallory.send(tone_track("aiortc"), "opus")
        mallory.send(picture_track("aiortc"), "vp8")
        await janus.publish(mallory, 1, "mallory")
        async with running(janus, tmp_path / "made") as made:
            await until(lambda: made.said("not_sealed"), 60)
            signal.raise_signal(signal.SIGTERM)
            assert await made.task == 0
    assert made.said("were not sealed with livekit, and are not archived.")
    assert rows_of(tmp_path / "made") == []


@pytest.mark.parametrize("answer", ["[]", "nonsense", '{"janus": 5}', '{"janus": "success"}', '{"janus": "error"}'])
async def test_a_janus_that_answers_nonsense_is_one_line(tmp_path, monkeypatch, answer):
    """A gateway may be anything. Nothing of its answers is taken on trust."""
    from aiohttp import web

    monkeypatch.setattr("frameseal.tools.janus.ANSWER_TIMEOUT", 0.2)

    async def handle(request):
        socket = web.WebSocketResponse(protocols=["janus-protocol"])
        await socket.prepare(request)
        async for frame in socket:
            await socket.send_str(answer.replace("}", f', "transaction": "{frame.json()["transaction"]}"}}'))
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    async with serving_app(app) as address:
        options = RecordOptions(str(tmp_path / "made"), janus=f"ws://{address}/", room=1)
        with pytest.raises(CannotRecord, match="Janus did not create a session"):
            await recording._run(options, screen.Screen(Console(file=io.StringIO())))
    assert not (tmp_path / "made").exists()


async def test_a_livekit_room_is_followed_through_a_lost_connection_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("frameseal.livekit.room.FIRST_WAIT", 0.01)
    token, folder = tmp_path / "token", tmp_path / "made"
    token.write_text("token of bob\n")
    provider = manager().provider
    async with livekit_serving() as server, join(server.url, "token of alice", provider, ice_servers=()) as alice:
        made = Running(RecordOptions(str(folder), livekit=server.url, token_file=token, recording="monday"))
        await until(lambda: made.said("alice is recorded."))
        await alice.publish(tone_track("aiortc"))
        await spooled(folder, {"alice"})
        await server.latest("bob").socket.close()
        await until(lambda: made.said("joining again"))
        await spooled(folder, {"alice"}, len(rows_of(folder)) + 20)
        leave = rtc.LeaveRequest(reason=models.DisconnectReason.ROOM_DELETED, action=rtc.LeaveRequest.Action.DISCONNECT)
        await server.latest("bob").send(leave=leave)
        assert await made.task == 1
    assert made.said("The room is gone: the server has ended it (ROOM_DELETED).") and made.said(
        "The archive is closed."
    )
    assert [row["gap"] for row in rows_of(folder)].count(True) == 1
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"token of bob" not in content and PASSPHRASE.encode() not in content


# --- what cannot begin -----------------------------------------------------------------------------------------------


def test_a_wrong_pin_makes_no_archive_and_quotes_no_secret(tmp_path, capsys, monkeypatch):
    secret = tmp_path / "pin"
    secret.write_text(MARKER)
    monkeypatch.setenv("FRAMESEAL_TOKEN", TOKEN)

    async def served() -> int:
        async with serving() as janus:
            options = RecordOptions(str(tmp_path / "made"), janus=janus.url, room=ROOM, pin_file=secret)
            with pytest.raises(CannotRecord, match=r"Janus reports: Unauthorized \(wrong pin\)") as caught:
                await recording._run(options, screen.Screen(Console(file=io.StringIO())))
            assert janus.joins[0]["pin"] == MARKER
            assert MARKER not in str(caught.value) + repr(options)

    asyncio.run(served())
    assert not (tmp_path / "made").exists()


async def test_an_archive_that_somebody_else_writes_is_refused(janus, environment, tmp_path):
    with ArchiveWriter(tmp_path / "made", "monday"):
        options = RecordOptions(str(tmp_path / "made"), janus=janus.url, room=ROOM, recording="monday")
        with pytest.raises(CannotRecord, match="the archive cannot be written: somebody else writes this recording"):
            await recording._run(options, screen.Screen(Console(file=io.StringIO())))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--janus", "ws://127.0.0.1:1", "--room", "1"], "there is no Janus at this URL"),
        (["--janus", f"ws://u:{MARKER}@127.0.0.1:1", "--room", "1"], "there is no Janus at this URL"),
        (["--janus", "ws://127.0.0.1:1", "--room", "1", "--pin-file", "missing"], "file of the pin cannot be read: No"),
        (["--janus", "ws://127.0.0.1:1", "--room", "1", "--pin-file", "empty"], "pin must have one line of text"),
        (["--janus", "ws://127.0.0.1:1", "--room", "1", "--pin-file", "binary"], "file of the pin is no UTF-8"),
        (["--livekit", "ws://127.0.0.1:1"], "a LiveKit room needs a token"),
        (["--livekit", f"ws://u:{MARKER}@x", "--token-file", "token"], "--livekit must be wss://HOST"),
        (["--livekit", "ws://127.0.0.1:1", "--token-file", "token"], "the room cannot be joined"),
    ],
)
def test_what_cannot_begin_is_one_line_and_exit_status_2(tmp_path, monkeypatch, capsys, arguments, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "token").write_text(f"{MARKER}\n")
    assert main(["record", *arguments, "-o", "made"]) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1 and MARKER not in error
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "one of the arguments --janus --livekit is required"),
        (["--janus", "http://x"], "must be the URL of a web socket"),
        (["--janus", "ws://x"], "expected --room together with --janus"),
        (["--livekit", "ws://x", "--room", "1"], "expected --room together with --janus"),
        (["--livekit", "ws://x", "--profile", "jitsi"], "expected no --profile with --livekit"),
        (["--janus", "ws://x", "--livekit", "ws://x"], "not allowed with argument --janus"),
        (["--janus", "ws://x", "--room", "1", "--segment-seconds", "0"], "a number from 1 to 86400 seconds"),
        (["--janus", "ws://x", "--room", "1", "--pin", MARKER], "unknown arguments: 2"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, hint, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["record", *arguments, "-o", "made"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert hint in error and MARKER not in error


# --- parts -----------------------------------------------------------------------------------------------------------


async def test_frames_that_were_queued_before_an_interruption_do_not_take_its_gap(tmp_path):
    made, sender = KeylessRecording("livekit"), Sender(provider())
    await made.start(str(tmp_path / "made"), "room")
    assert made.recorder is not None
    queued = sender.audio(arrival=made.recorder.time_of(time.monotonic()))
    made.interrupted("alice")
    made.write(queued)
    made.write(sender.audio(arrival=made.recorder.time_of(time.monotonic())))
    made.write(sender.audio(arrival=made.recorder.time_of(time.monotonic())))
    await made.close()
    assert [row["gap"] for row in rows_of(tmp_path / "made")] == [False, True, False]


def test_the_live_line_has_participants_frames_megabytes_gaps_and_seconds():
    tally = Tally(12345, 45_600_000, 1, 75.4)
    assert screen.summary(2, tally) == "recording: 2 participants, 12,345 frames, 45.6 MB, 1 gap, 75 s"
    assert screen.summary(1, Tally(lost=3)).endswith("0 gaps, 0 s, 3 frames LOST")


async def test_on_a_terminal_the_line_is_redrawn(monkeypatch):
    printed = io.StringIO()
    monkeypatch.setattr(screen, "UPDATE_INTERVAL", 0.01)
    console = Console(file=printed, force_terminal=True, width=120)
    with screen.Screen(console) as shown:
        showing = asyncio.ensure_future(shown.show(lambda: (3, Tally(7))))
        await until(lambda: "3 participants, 7 frames" in printed.getvalue())
        showing.cancel()


def test_names_are_distinct_and_ids_of_recordings_are_plain():
    assert distinct_name("ada", "17", set()) == "ada"
    assert distinct_name("ada", "17", {"ada"}) == "ada (17)"
    assert distinct_name("", "17", {"ada"}) == "17"
    assert re.fullmatch(r"room-a-b-\d{8}T\d{6}Z", fresh_id("room-a/../b"))
    assert fresh_id("\u00e9").startswith("room-")


async def test_a_recording_that_never_began_closes_without_an_archive():
    made = KeylessRecording("livekit")
    assert await made.close() is None and made.tally == Tally()


async def test_a_keyless_recording_of_a_connection_opens_with_the_key(tmp_path):
    made = KeylessRecording("livekit")
    async with peers("aiortc", "aiortc", tracks_end=True) as (alice, bob):
        attach(alice.pc, manager(), local_id="alice", remote_id="bob")
        alice.send(picture_track("aiortc"), "vp8")
        await made.start(str(tmp_path / "made"), "monday")
        made.attach(bob.pc, "alice")
        await connect(alice, bob)
        await until(lambda: made.tally.frames > 20)
        assert await made.close() is None
    opened = archive.Opener(manager().provider)
    tables = [opened(batch) for batch in map(as_table, archive.read(tmp_path / "made"))]
    assert sum(table.num_rows for table in tables) == made.tally.frames
    assert all(table.column("opened").combine_chunks().false_count == 0 for table in tables)


def as_table(batch):
    import pyarrow as pa

    return pa.Table.from_batches([batch])
