"""The key server on PostgreSQL, the database for more than one machine: two servers share one."""

import asyncio
import base64
import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from frameseal.keys.fetch import NotAuthorised
from unit.keys.test_fetch import SECRET, Storage, certificate, keyserver, no_waiting  # noqa: F401 - the fixtures

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PATH = os.pathsep.join([os.environ.get("PATH", ""), *map(str, INSTALLED)])


def program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"PostgreSQL's {name} is not on this machine: make interop installs it (Debian's package postgresql)"
    return found


@pytest.fixture
def database():
    """A server of its own, on a socket in a folder of its own and on no port."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    # It refuses to run as root.
    user = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
    options = {"user": user} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="keys"))
    if options:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, cwd=folder, **options)

    with contextlib.ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        data = str(folder / "data")
        run(initdb, "--pgdata", data, "--username", "keys", "--auth", "trust", "--no-sync", "--encoding", "UTF8")
        settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run(pg_ctl, "--pgdata", data, "--log", str(folder / "log"), "--options", settings, "--wait", "start")
        cleanup.callback(run, pg_ctl, "--pgdata", data, "--mode", "immediate", "stop")
        yield f"postgresql+asyncpg://keys@/postgres?host={folder}"


async def test_two_servers_share_meetings_keys_and_audit_trail(database, tmp_path, certificate):  # noqa: F811
    async with (
        keyserver(tmp_path, certificate, database=database) as one,
        keyserver(tmp_path, certificate, database=database) as other,
    ):
        meeting = await one.meeting()
        path = f"/meetings/{meeting['meeting_id']}"
        token = (await other.token(meeting["meeting_id"]))["token"]
        fetched = await other.fetch(meeting["meeting_id"], token)
        assert (fetched.key, fetched.key_id) == (base64.b64decode(meeting["key"]), 0)

        rotated = await asyncio.gather(*(each.ask("POST", f"{path}/rotate") for each in (one, other) * 4))
        assert sorted(answer["key_id"] for _, answer in rotated) == list(range(1, 9)), "no two keys under one id"
        for each in (one, other):
            with pytest.raises(NotAuthorised):
                await each.fetch(meeting["meeting_id"], token)
        tokens = {name: (await one.token(meeting["meeting_id"], name))["token"] for name in ("bob", "carol")}
        newest = [await each.fetch(meeting["meeting_id"], tokens["bob"]) for each in (one, other)]
        assert newest[0] == newest[1] and newest[0].key_id == 8

        assert (await one.ask("POST", f"{path}/rotate", json={"removed": ["bob"]}))[0] == 201
        assert (await other.fetch(meeting["meeting_id"], tokens["carol"])).key_id == 9
        with pytest.raises(NotAuthorised):
            await other.fetch(meeting["meeting_id"], tokens["bob"])

        assert (await other.ask("DELETE", path))[0] == 204
        assert (await one.ask("POST", f"{path}/rotate"))[0] == 404
        assert await one.storage.count() == 0
        for odd in ("%00", "x" * 300):
            assert (await one.ask("GET", f"/meetings/{odd}/key", "no token"))[0] == 401
            assert (await one.ask("DELETE", f"/meetings/{odd}"))[0] == 404
        audited = [(row.what, row.outcome) for row in await other.storage.audited()]
    assert audited == [
        ("create", "made"),
        ("admit", "bob"),
        ("key", "given"),
        *[("rotate", "made")] * 8,
        *[("key", "refused: token from before a rotation")] * 2,
        ("admit", "bob"),
        ("admit", "carol"),
        *[("key", "given")] * 2,
        ("rotate", "made"),
        ("remove", "bob"),
        ("key", "given"),
        ("key", "refused: token from before a rotation"),
        ("end", "ended"),
        ("rotate", "no such meeting"),
        *[("key", "refused: DecodeError"), ("end", "no such meeting")] * 2,
    ]


async def test_keys_of_another_server_secret_are_noticed_when_it_starts(database, tmp_path, certificate):  # noqa: F811
    async with keyserver(tmp_path, certificate, database=database) as server:
        await server.meeting()
    wrong = Storage(database, bytes(reversed(SECRET)))
    with pytest.raises(Exception, match="another server secret"):
        await wrong.open()
    await wrong.close()
