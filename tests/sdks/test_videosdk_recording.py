"""The rows of VideoSDK's migration table on recording and transcription, with a real archive and `frameseal open`."""

import asyncio
import base64
import os
import sys
from pathlib import Path

import pytest

import frameseal
from frameseal import ExternalE2EEKeyProvider
from frameseal.aiortc import tee_all
from frameseal.archive import ArchiveWriter, read
from frameseal.videosdk import set_key_provider
from sdks.test_videosdk import meeting_place
from sdks.test_videosdk_docs import migration_table, run
from support.calls import until

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def no_default_provider():
    yield
    set_key_provider(None)


def room_key() -> ExternalE2EEKeyProvider:
    made = ExternalE2EEKeyProvider()
    made.set_shared_key(KEY)
    return made


async def open_archive(command: str, folder: Path) -> None:
    """Run the command of the table in *folder*, with a recogniser that hears the same in whatever is said."""
    about = folder / "site" / "heard-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: heard\nVersion: 1\n", "utf-8")
    (about / "entry_points.txt").write_text("[frameseal.recognizers]\nheard = heard:Heard\n", "utf-8")
    source = "class Heard:\n    def recognize(self, samples):\n        yield 0.0, 0.1, f'heard {samples.any()}'\n"
    (folder / "site" / "heard.py").write_text(source, "utf-8")
    path = os.pathsep.join(filter(None, [str(folder / "site"), *sys.path]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *["-m", *command.split()],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):  # it opens seconds of media; a process that hangs fails the test
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()


async def test_a_meeting_is_recorded_and_transcribed_as_the_migration_table_says(monkeypatch, tmp_path):
    table = dict(migration_table())
    (tmp_path / "KEYS").write_text(base64.b64encode(KEY).decode(), "utf-8")
    async with meeting_place(monkeypatch) as (_, enter):
        recording = await enter("recorder", None, ExternalE2EEKeyProvider())  # it has no key
        await enter("bob", "blue", room_key())
        with ArchiveWriter(tmp_path / "ARCHIVE", "room") as writer:
            names = {"frameseal": frameseal, "meeting": recording.meeting, "writer": writer}
            await run(table["meeting.startRecording();"], names)
            await until(lambda: names["recorder"].counters.written > 100)  # some seconds of sound and picture
            names["recorder"].close()
    rows = [row for batch in read(tmp_path / "ARCHIVE") for row in batch.select(["participant", "kind"]).to_pylist()]
    assert {(row["participant"], row["kind"]) for row in rows} == {("bob", "audio"), ("bob", "video")}
    await open_archive(table["meeting.startTranscription();"], tmp_path)
    assert (tmp_path / "opened" / "bob.mkv").stat().st_size > 1000
    assert "heard True" in (tmp_path / "said" / "transcript.txt").read_text("utf-8")


async def test_a_guest_without_a_key_records_everybody(monkeypatch):
    class Rows(list):
        write = list.append

    sent = {("alice", "audio"), ("alice", "video")}
    async with meeting_place(monkeypatch) as (_, enter):
        await enter("alice", "red", room_key())
        bob, rows = await enter("bob", None, ExternalE2EEKeyProvider()), Rows()
        async with tee_all(bob.meeting.e2ee.manager, rows) as recorder:
            await until(lambda: {(row.participant, row.kind) for row in list(rows)} >= sent)
        assert recorder.counters.refused == 0
        assert {(row.participant, row.kind) for row in rows} == sent
        assert all(sink.empty for sink in bob.sinks.values())
