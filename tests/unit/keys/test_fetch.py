"""The example's key server, and the client for such servers, over TLS: who may have a key gets it, nobody else does."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import pickle
import re
import sqlite3
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

import frameseal
from frameseal.keys import fetch as keyfetch
from frameseal.keys.fetch import (
    BadAnswer,
    MeetingNotFound,
    NotAuthorised,
    ServerNotTrusted,
    ServerUnavailable,
    SharedKey,
    fetch_shared_key,
)
from support.paths import ROOT
from support.web_server import serving_app

EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))

from keyserver.app import Limiter, make_app  # noqa: E402 - a program of its own, beside the package
from keyserver.storage import Storage, WrongServerSecret  # noqa: E402
from keyserver.tls import development_certificate, fingerprint, server_context  # noqa: E402
from keyserver.tokens import AUDIENCE, BadToken, Tokens  # noqa: E402
from support.secret_search import MARKER, RAW, captured_by, got_from, said_by, shows  # noqa: E402

SECRET, TOKEN_SECRET, APPLICATION_KEY = bytes(range(32)), bytes(range(50, 82)), "what the application shows"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return development_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(keyfetch, "FIRST_WAIT", 0.01)


@contextlib.asynccontextmanager
async def serving(app: web.Application, certificate: tuple[Path, Path], host: str = "127.0.0.1"):
    async with serving_app(app, host, server_context(*certificate)) as address:
        yield f"https://{address}"


class Server:
    """A key server with its database, and the application server's way to talk to it."""

    def __init__(self, url: str, storage: Storage, certificate: Path) -> None:
        self.url, self.storage, self.ca = url, storage, certificate
        self._trust = ssl.create_default_context(cafile=certificate)

    async def ask(self, method: str, path: str, token: str = APPLICATION_KEY, **options: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, headers=headers, ssl=self._trust, **options) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else text

    async def fetch(self, meeting_id: str, token: str, **options: Any) -> SharedKey:
        return await fetch_shared_key(f"{self.url}/meetings/{meeting_id}/key", token, ca=self.ca, **options)

    async def meeting(self) -> dict[str, Any]:
        status, made = await self.ask("POST", "/meetings")
        assert status == 201
        return made

    async def token(self, meeting_id: str, participant_id: str = "bob", **more: Any) -> dict[str, Any]:
        status, made = await self.ask(
            "POST", f"/meetings/{meeting_id}/tokens", json={"participant_id": participant_id, **more}
        )
        assert status == 201
        return made


@contextlib.asynccontextmanager
async def keyserver(
    folder: Path,
    certificate: tuple[Path, Path],
    limiter: Limiter | None = None,
    database: str = "",
    *,
    failures: Limiter | None = None,
):
    many = Limiter(burst=1000)
    storage = Storage(database or f"sqlite+aiosqlite:///{folder / 'keys.db'}", SECRET)
    await storage.open()
    try:
        app = make_app(storage, Tokens(TOKEN_SECRET), APPLICATION_KEY, limiter or many, failures or many)
        async with serving(app, certificate) as url:
            yield Server(url, storage, certificate[0])
    finally:
        await storage.close()


# --- the three ways --------------------------------------------------------------------------------------------------


async def test_the_application_server_makes_the_key_with_the_meeting_and_participants_fetch_it(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = await server.meeting()
        token = (await server.token(meeting["meeting_id"]))["token"]
        fetched = await server.fetch(meeting["meeting_id"], token)
        made = base64.b64decode(meeting["key"])
        assert (fetched.key, fetched.key_id) == (made, 0) and len(made) == 32
        ours, theirs = frameseal.ExternalE2EEKeyProvider(), frameseal.ExternalE2EEKeyProvider()
        ours.set_shared_key(made, meeting["key_id"])
        theirs.set_shared_key(fetched.key, fetched.key_id)
        sealed = frameseal.Encryptor(ours.ring_for("livekit", "alice"), "opus").encrypt(b"\x78 a frame of speech")
        opened = frameseal.Decryptor(theirs.ring_for("livekit", "alice"), "opus").decrypt(sealed)
        assert opened == b"\x78 a frame of speech"


async def test_the_key_travels_beside_the_token_or_encrypted_inside_and_never_readable_in_it(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = await server.meeting()
        beside = await server.token(meeting["meeting_id"], key="beside")
        assert beside["key"] == meeting["key"]
        private = JWK.generate(kty="OKP", crv="X25519")
        inside = await server.token(meeting["meeting_id"], client_jwk=json.loads(private.export_public()))
        assert set(inside) == {"token"}
        claim = jwt.decode(inside["token"], options={"verify_signature": False})["e2ee_key"]
        sealed = JWE()
        sealed.deserialize(claim, key=private)
        assert json.loads(sealed.payload) == {"key": meeting["key"], "key_id": 0}
        for token in (beside["token"], inside["token"]):
            body = base64.urlsafe_b64decode(token.split(".")[1] + "==")
            assert meeting["key"].encode() not in body and base64.b64decode(meeting["key"]) not in body
        with pytest.raises(Exception, match=r"(?i)decrypt|key"):
            JWE().deserialize(claim, key=JWK.generate(kty="OKP", crv="X25519"))
        status, text = await server.ask(
            "POST",
            f"/meetings/{meeting['meeting_id']}/tokens",
            json={"participant_id": "bob", "client_jwk": {"kty": "nonsense"}},
        )
        assert (status, text) == (400, "expected a public JWK of type EC or OKP")


# --- who may not -----------------------------------------------------------------------------------------------------


async def test_only_a_valid_token_of_this_meeting_gets_the_key(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        here, there = await server.meeting(), await server.meeting()
        good = (await server.token(here["meeting_id"]))["token"]
        claims = jwt.decode(good, options={"verify_signature": False})
        head, body, signature = good.split(".")
        expired = Tokens(TOKEN_SECRET).make("bob", here["meeting_id"], claims["generation"], lifetime=-60)
        wrong = [
            (await server.token(there["meeting_id"]))["token"],
            expired,
            jwt.encode(claims, None, "none"),
            jwt.encode(claims, bytes(32), "HS256"),
            jwt.encode({**claims, "aud": "another server"}, TOKEN_SECRET, "HS256"),
            *(
                jwt.encode({name: value for name, value in claims.items() if name != missing}, TOKEN_SECRET, "HS256")
                for missing in ("exp", "sub", "meeting", "generation")
            ),
            jwt.encode({**claims, "generation": "the next one"}, TOKEN_SECRET, "HS256"),
            jwt.encode({**claims, "generation": float("inf")}, TOKEN_SECRET, "HS256"),
            f"{head}.{body}.{signature[:-4]}AAAA",
            APPLICATION_KEY,
            "",
        ]
        for token in wrong:
            with pytest.raises(NotAuthorised):
                await server.fetch(here["meeting_id"], token)
        assert AUDIENCE in claims["aud"]
        assert (await server.fetch(here["meeting_id"], good)).key == base64.b64decode(here["key"])


async def test_only_the_application_makes_meetings_tokens_and_rotations(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        token = (await server.token(meeting))["token"]
        for shown in (token, "", APPLICATION_KEY[:-1]):
            for method, path in (
                ("POST", "/meetings"),
                ("POST", f"/meetings/{meeting}/tokens"),
                ("POST", f"/meetings/{meeting}/rotate"),
                ("DELETE", f"/meetings/{meeting}"),
            ):
                assert (await server.ask(method, path, shown))[0] == 401
        assert await server.storage.count() == 1


async def test_a_rotated_key_is_another_under_the_next_id_and_an_ended_meeting_has_none(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        keys = []
        for _ in range(18):
            token = (await server.token(meeting))["token"]
            keys.append(await server.fetch(meeting, token))
            await server.ask("POST", f"/meetings/{meeting}/rotate")
        token = (await server.token(meeting))["token"]
        assert [key.key_id for key in keys] == [*range(16), 0, 1]
        assert len({key.key for key in keys}) == 18
        assert (await server.ask("DELETE", f"/meetings/{meeting}"))[0] == 204
        assert await server.storage.count() == 0, "erased, not marked"
        with pytest.raises(MeetingNotFound):
            await server.fetch(meeting, token)
        for method, path in (("POST", "/rotate"), ("DELETE", ""), ("POST", "/tokens")):
            status, _ = await server.ask(method, f"/meetings/{meeting}{path}", json={"participant_id": "x"})
            assert status == 404


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"data": b"not json"}, "expected JSON"),
        ({"data": b"\xff"}, "expected JSON"),
        ({"data": b"[" * 60_000}, "expected JSON"),
        ({"data": b"{}", "headers": {"Content-Type": "application/json; charset=none"}}, "expected JSON"),
        ({"data": b"x" * 70_000}, "expected JSON"),
        ({"data": b"no gzip", "headers": {"Content-Encoding": "gzip"}}, "expected JSON"),
        ({"data": gzip.compress(b" " * 10_000_000, mtime=0), "headers": {"Content-Encoding": "gzip"}}, "expected JSON"),
        ({"json": []}, "expected JSON"),
        ({"json": None}, "expected JSON"),
        ({"data": b"NaN"}, "expected JSON"),
        ({"data": b"1" * 5000}, "expected JSON"),
        ({"json": {}}, "expected participant_id"),
        ({"json": {"participant_id": ""}}, "expected participant_id"),
        ({"json": {"participant_id": 5}}, "expected participant_id"),
        ({"json": {"participant_id": "x" * 65}}, "expected participant_id"),
        ({"json": {"participant_id": "a\0b"}}, "expected participant_id"),
        ({"data": b'{"participant_id": "\\ud800"}'}, "expected participant_id"),
        ({"json": {"participant_id": "bob", "key": "besides"}}, 'expected "beside"'),
        ({"json": {"participant_id": "bob", "client_jwk": []}}, "expected a public JWK"),
        ({"json": {"participant_id": "bob", "client_jwk": {"kty": "oct", "k": "AAAA"}}}, "expected a public JWK"),
    ],
    ids=lambda part: str(part)[:40],
)
async def test_what_is_no_request_is_told_so_and_makes_no_token(tmp_path, certificate, asked, answer):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        headers = {"Authorization": f"Bearer {APPLICATION_KEY}", **asked.pop("headers", {})}
        path = f"{server.url}/meetings/{meeting}/tokens"
        trust = ssl.create_default_context(cafile=certificate[0])
        async with aiohttp.ClientSession() as session, session.post(path, headers=headers, ssl=trust, **asked) as told:
            assert told.status == 400 and answer in await told.text()
        rows = [(row.who, row.what, row.outcome) for row in await server.storage.audited()]
        assert rows[0] == ("application", "create", "made")
        assert rows[1:] == [("application", "admit", f"malformed: {await told.text()}"[:64])]


async def test_rotations_at_the_same_time_give_each_key_an_id_of_its_own(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        assert sorted(await asyncio.gather(*(server.storage.rotate(meeting) for _ in range(8)))) == list(range(1, 9))


# --- who leaves, and who stays ----------------------------------------------------------------------------------------


async def test_a_removed_participant_cannot_fetch_the_new_key_with_the_old_token_and_those_who_stay_can(
    tmp_path, certificate
):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        tokens = {name: (await server.token(meeting, name))["token"] for name in ("alice", "bob", "carol")}
        status, made = await server.ask("POST", f"/meetings/{meeting}/rotate", json={"removed": ["bob"]})
        assert (status, made) == (201, {"key_id": 1})
        for name in ("alice", "carol"):
            assert (await server.fetch(meeting, tokens[name])).key_id == 1
        with pytest.raises(NotAuthorised):
            await server.fetch(meeting, tokens["bob"])
        for _ in range(3):  # nor any later one
            await server.ask("POST", f"/meetings/{meeting}/rotate", json={"removed": []})
            with pytest.raises(NotAuthorised):
                await server.fetch(meeting, tokens["bob"])
        assert (await server.fetch(meeting, tokens["carol"])).key_id == 4
        back = (await server.token(meeting, "bob"))["token"]
        assert (await server.fetch(meeting, back)).key_id == 4, "whom the application admits again has come back"
        with pytest.raises(NotAuthorised):
            await server.fetch(meeting, tokens["bob"])
        rows = [(row.who, row.what, row.outcome) for row in await server.storage.audited()]
        assert ("application", "remove", "bob") in rows
        assert rows.count(("bob", "key", "refused: token from before a rotation")) == 5


async def test_where_nobody_says_who_has_left_no_token_of_before_gets_the_new_key(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting, other = (await server.meeting())["meeting_id"], (await server.meeting())["meeting_id"]
        tokens = {name: (await server.token(meeting, name))["token"] for name in ("alice", "bob")}
        elsewhere = (await server.token(other, "alice"))["token"]
        await server.ask("POST", f"/meetings/{meeting}/rotate")
        for token in tokens.values():
            with pytest.raises(NotAuthorised):
                await server.fetch(meeting, token)
        fresh = (await server.token(meeting, "alice"))["token"]
        assert (await server.fetch(meeting, fresh)).key_id == 1
        assert (await server.fetch(other, elsewhere)).key_id == 0, "another meeting does not notice"


@pytest.mark.parametrize("when", ["key", "admits"])
async def test_a_rotation_in_the_middle_of_a_request_gives_the_new_key_to_nobody_removed(
    tmp_path, certificate, monkeypatch, when
):
    """Remove bob just before the server reads the key, and just before it looks whether bob is admitted."""
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        token = (await server.token(meeting, "bob"))["token"]
        original = getattr(Storage, when)

        async def after_a_rotation(storage, *arguments):
            await storage.rotate(meeting, ["bob"])
            return await original(storage, *arguments)

        monkeypatch.setattr(Storage, when, after_a_rotation)
        with pytest.raises(NotAuthorised):
            await server.fetch(meeting, token)


async def test_revocations_do_not_pile_up_and_go_with_their_meeting(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        for _ in range(5):
            await server.storage.rotate(meeting, ["bob", "carol"])
            await server.storage.rotate(meeting)

        def revocations() -> int:
            with contextlib.closing(sqlite3.connect(tmp_path / "keys.db")) as database:
                return database.execute("SELECT count(*) FROM revocations").fetchone()[0]

        assert revocations() == 1
        await server.storage.end(meeting)
        assert revocations() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"removed": "bob"}',
        b'{"removed": 5}',
        b'{"removed": {}}',
        b'{"removed": [5]}',
        b'{"removed": [""]}',
        b'{"removed": ["\\ud800"]}',
        b'{"removed": ["a\\u0000b"]}',
        json.dumps({"removed": ["x" * 65]}).encode(),
        json.dumps({"removed": ["x"] * 1001}).encode(),
    ],
)
async def test_a_rotation_that_is_asked_for_in_a_wrong_way_does_not_happen_and_is_audited(tmp_path, certificate, body):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        assert (await server.ask("POST", f"/meetings/{meeting}/rotate", data=body))[0] == 400
        assert await server.storage.count() == 1
        rows = await server.storage.audited()
        assert [row.what for row in rows] == ["create", "rotate"] and rows[1].outcome.startswith("malformed: expected")


# --- what strangers send ----------------------------------------------------------------------------------------------

NESTED = base64.urlsafe_b64encode(b"[" * 4000).rstrip(b"=") + b".e30.AAAA"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [b"Bearer \xff\xfe\x80"],
        [b"Bearer " + MARKER.encode() + b"\xe9"],
        [b"Bearer a.b.\xc3\xa9"],
        [b"\xe9\xff " + APPLICATION_KEY.encode()],
        [b"Basic dTpw"],
        [b"Bearer " + b"." * 7000],
        [b"Bearer " + NESTED],
        [b"Bearer e30.e30.e30"],
        [b"Bearer x", b"Bearer " + APPLICATION_KEY.encode()],
    ],
    ids=lambda headers: str(headers)[:40],
)
async def test_whatever_stands_in_the_header_is_401_and_audited(tmp_path, certificate, headers, caplog):
    async with keyserver(tmp_path, certificate) as server:
        meeting = (await server.meeting())["meeting_id"]
        requests = [
            (b"POST", b"/meetings", "create"),
            (b"POST", f"/meetings/{meeting}/tokens".encode(), "admit"),
            (b"POST", f"/meetings/{meeting}/rotate".encode(), "rotate"),
            (b"DELETE", f"/meetings/{meeting}".encode(), "end"),
            (b"GET", f"/meetings/{meeting}/key".encode(), "key"),
            (b"GET", b"/meetings/%ff%00%ed%a0%80/key", "key"),
        ]
        for method, path, _ in requests:
            assert await raw(server, method, path, headers) == 401
        rows = [(row.who, row.what) for row in await server.storage.audited()][1:]
        assert rows == [("127.0.0.1", what) for *_, what in requests]
    said = [caplog.text, *(f"{row.outcome} {row.meeting_id}" for row in await audited(tmp_path))]
    assert not any(shows(text) for text in said) and "Traceback" not in caplog.text


async def raw(server: Server, method: bytes, path: bytes, authorisations: list[bytes]) -> int:
    """Send a request byte by byte as it is; return the status."""
    host, _, port = server.url.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=ssl.create_default_context(cafile=server.ca))
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    lines += [b"Authorization: " + value for value in authorisations]
    writer.write(b"\r\n".join([*lines, b"", b""]))
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def audited(folder: Path) -> list[Any]:
    storage = Storage(f"sqlite+aiosqlite:///{folder / 'keys.db'}", SECRET)
    rows = await storage.audited()
    await storage.close()
    return rows


async def test_ids_of_no_meeting_are_404_for_the_application_whatever_they_are(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        for odd in ("%00", "%ff", "x" * 300, "%ed%a0%80", "..%2f", "%20"):
            body = {"participant_id": "bob"}
            for method, path in (("POST", "/tokens"), ("POST", "/rotate"), ("DELETE", "")):
                assert (await server.ask(method, f"/meetings/{odd}{path}", json=body))[0] == 404
        assert {row.outcome for row in await server.storage.audited()} == {"no such meeting"}


def test_a_token_that_cannot_be_read_is_shown_nowhere():
    for token in (RAW, RAW + b"\xff", b".".join([RAW] * 3), NESTED, base64.b64encode(b'{"alg": "x"}') + b".e30." + RAW):
        with pytest.raises(BadToken) as caught:
            Tokens(TOKEN_SECRET).read(token)
        assert not any(shows(text) for text in said_by(caught.value))


async def test_what_holds_a_secret_of_the_server_is_not_pickled_or_shown(tmp_path):
    storage = Storage(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", RAW)
    for holder in (storage, Tokens(RAW)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="pickle"):
                pickle.dumps(holder, protocol)
        assert not any(shows(text) for text in got_from(holder, inside=False))
    await storage.close()


# --- how many at once -------------------------------------------------------------------------------------------------


async def test_sixty_people_of_one_office_all_succeed_at_the_first_attempt(tmp_path, certificate):
    """With the limits that the server has by itself, while somebody at the same address guesses tokens."""
    async with keyserver(tmp_path, certificate, Limiter(), failures=Limiter()) as server:
        meeting = (await server.meeting())["meeting_id"]
        guesses = [await server.ask("GET", f"/meetings/{meeting}/key", "a guess") for _ in range(40)]
        assert {status for status, _ in guesses} == {401, 429}
        tokens = [(await server.token(meeting, f"person {number}"))["token"] for number in range(60)]
        fetched = await asyncio.gather(*(server.fetch(meeting, token, attempts=1) for token in tokens))
        assert {key.key_id for key in fetched} == {0} and len({key.key for key in fetched}) == 1


async def test_one_participant_who_asks_too_often_holds_up_nobody_else(tmp_path, certificate):
    async with keyserver(tmp_path, certificate, Limiter(burst=4, seconds_each=3600)) as server:
        meeting = (await server.meeting())["meeting_id"]
        eager, other = [(await server.token(meeting, name))["token"] for name in ("eager", "other")]
        again = (await server.token(meeting, "eager"))["token"]
        answers = [await server.ask("GET", f"/meetings/{meeting}/key", eager) for _ in range(10)]
        assert [status for status, _ in answers] == [200] * 4 + [429] * 6
        assert (await server.ask("GET", f"/meetings/{meeting}/key", again))[0] == 429, "counted is who, not which token"
        assert (await server.ask("GET", f"/meetings/{meeting}/key", other))[0] == 200
        for _ in range(20):
            assert (await server.ask("POST", "/meetings"))[0] == 201, "the application is not counted"
        rows = [(row.who, row.outcome) for row in await server.storage.audited()]
        assert rows.count(("eager", "too many requests")) == 1


async def test_those_who_are_refused_together_are_not_told_to_come_back_together(tmp_path, certificate):
    async with keyserver(tmp_path, certificate, failures=Limiter(burst=1, seconds_each=100)) as server:
        waits = []
        trust = ssl.create_default_context(cafile=server.ca)
        async with aiohttp.ClientSession() as session:
            for _ in range(60):
                async with session.get(f"{server.url}/meetings/x/key", ssl=trust) as response:
                    if response.status == 429:
                        waits.append(int(response.headers["Retry-After"]))
        # 59 times one of four or five values: all alike once in 10**35 times.
        assert len(waits) == 59 and len(set(waits)) > 1
        assert all(90 <= wait <= 105 for wait in waits)


# --- at rest ---------------------------------------------------------------------------------------------------------


async def test_the_database_has_no_key_in_the_clear_and_opens_under_its_secret_only(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meetings = [await server.meeting() for _ in range(3)]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("keys.db*"))
    for meeting in meetings:
        key = base64.b64decode(meeting["key"])
        assert all(form not in stored for form in (key, key.hex().encode(), meeting["key"].encode()))
    again = Storage(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", SECRET)
    await again.open()
    found = await again.key(meetings[0]["meeting_id"])
    assert found is not None and (found.key, found.key_id) == (base64.b64decode(meetings[0]["key"]), 0)
    assert meetings[0]["key"] not in repr(found) and repr(found.key) not in repr(found)
    await again.close()
    wrong = Storage(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", bytes(32))
    with pytest.raises(WrongServerSecret, match="another server secret"):
        await wrong.open()
    await wrong.close()


async def test_a_key_that_was_moved_to_another_meeting_in_the_database_does_not_open(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        first, second = await server.meeting(), await server.meeting()
    database = sqlite3.connect(tmp_path / "keys.db")
    database.execute("UPDATE keys SET meeting_id = ? WHERE meeting_id = ?", (second["meeting_id"], first["meeting_id"]))
    database.execute("DELETE FROM keys WHERE number = 2")
    database.commit()
    database.close()
    moved = Storage(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", SECRET)
    with pytest.raises(WrongServerSecret):
        await moved.open()
    await moved.close()


async def test_everything_is_audited_and_no_row_has_a_key_or_token(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        meeting = await server.meeting()
        token = (await server.token(meeting["meeting_id"], "bob"))["token"]
        await server.fetch(meeting["meeting_id"], token)
        with pytest.raises(NotAuthorised):
            await server.fetch(meeting["meeting_id"], "not a token")
        rows = [(row.who, row.what, row.meeting_id, row.outcome) for row in await server.storage.audited()]
        assert rows == [
            ("application", "create", meeting["meeting_id"], "made"),
            ("application", "admit", meeting["meeting_id"], "bob"),
            ("bob", "key", meeting["meeting_id"], "given"),
            ("127.0.0.1", "key", meeting["meeting_id"], "refused: DecodeError"),
        ]
        assert meeting["key"] not in str(rows) and token not in str(rows)


async def test_what_is_not_there_is_audited_too(tmp_path, certificate):
    async with keyserver(tmp_path, certificate) as server:
        for method, path in (("POST", "/tokens"), ("POST", "/rotate"), ("DELETE", "")):
            body = {"participant_id": "bob"}
            assert (await server.ask(method, f"/meetings/none{path}", json=body))[0] == 404
        assert [(row.what, row.meeting_id, row.outcome) for row in await server.storage.audited()] == [
            (what, "none", "no such meeting") for what in ("admit", "rotate", "end")
        ]


async def test_a_flood_of_requests_is_one_row_of_the_audit_trail(tmp_path, certificate):
    async with keyserver(tmp_path, certificate, failures=Limiter(burst=4, seconds_each=3600)) as server:
        statuses = [(await server.ask("GET", "/meetings/x/key", "no token"))[0] for _ in range(30)]
        assert statuses == [401] * 4 + [429] * 26
        outcomes = [row.outcome for row in await server.storage.audited()]
        assert outcomes == ["refused: DecodeError"] * 4 + ["too many requests"]


async def test_who_asks_too_often_has_to_wait_and_the_client_does(tmp_path, certificate, monkeypatch):
    clock, slept, sleep = [0.0], [], asyncio.sleep

    async def passing(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds
        await sleep(0)

    monkeypatch.setattr("keyserver.app.time", SimpleNamespace(monotonic=lambda: clock[0]))
    async with keyserver(tmp_path, certificate, Limiter(burst=4, seconds_each=10)) as server:
        meeting = await server.meeting()
        token = (await server.token(meeting["meeting_id"]))["token"]
        monkeypatch.setattr(keyfetch.asyncio, "sleep", passing)
        for _ in range(6):
            assert (await server.fetch(meeting["meeting_id"], token)).key_id == 0
        asked = [seconds for seconds in slept if seconds]
        # Two were refused, and had to wait once each: for as long as the server said, and a little longer.
        assert len(asked) == 2 and all(seconds <= (10 + 5) * 1.2 for seconds in asked)
        with pytest.raises(ServerUnavailable, match="429"):
            for _ in range(3):
                await server.fetch(meeting["meeting_id"], token, attempts=1)
        assert [row.outcome for row in await server.storage.audited()].count("too many requests") == 3


def test_the_clients_that_a_limiter_remembers_are_bounded(monkeypatch):
    monkeypatch.setattr("keyserver.app.MAX_COUNTED", 100)
    limiter = Limiter()
    assert all(limiter.wait_for(str(client)) == (0, False) for client in range(1000))
    assert len(limiter._seen) == 100


# --- the client ------------------------------------------------------------------------------------------------------

KEY = {"key": base64.b64encode(RAW).decode(), "key_id": 3}


def answering(*answers: Any) -> tuple[web.Application, list[str]]:
    """A server that gives these answers in turn, and the tokens that it was shown."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Authorization"])
        given = answers[min(len(asked), len(answers)) - 1]
        if isinstance(given, dict):
            return web.json_response(given)
        if isinstance(given, int):
            return web.Response(status=given, headers={"Retry-After": "0.3"} if given == 429 else {})
        if isinstance(given, bytes):
            return web.Response(body=given)
        if isinstance(given, list):
            slow = web.StreamResponse()
            await slow.prepare(request)
            for part in given:
                await slow.write(part)
                await asyncio.sleep(0.05)
            return slow
        if given == "elsewhere":
            raise web.HTTPFound("https://127.0.0.1:1/key")
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_get("/key", answer)
    return app, asked


async def test_what_passes_is_tried_again_and_what_does_not_is_told_at_once(certificate, monkeypatch):
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(keyfetch.asyncio, "sleep", noted)
    for failures in ([500, 503], ["hang up", 502], [429]):
        app, asked = answering(*failures, KEY)
        async with serving(app, certificate) as url:
            assert await fetch_shared_key(f"{url}/key", "token", ca=certificate[0]) == SharedKey(RAW, 3)
            assert len(asked) == len(failures) + 1
    assert any(0.3 <= wait <= 0.3 * 1.2 for wait in waits), "as long as the server asked for, and a little longer"
    for status, error in (
        (401, NotAuthorised),
        (403, NotAuthorised),
        (404, MeetingNotFound),
        (410, MeetingNotFound),
        (400, BadAnswer),
    ):
        app, asked = answering(status)
        async with serving(app, certificate) as url:
            with pytest.raises(error):
                await fetch_shared_key(f"{url}/key", "token", ca=certificate[0])
            assert len(asked) == 1
    app, asked = answering(500)
    async with serving(app, certificate) as url:
        with pytest.raises(ServerUnavailable, match="after 3 attempts: the server answered 500"):
            await fetch_shared_key(f"{url}/key", "token", ca=certificate[0], attempts=3)
        assert len(asked) == 3
    with pytest.raises(ServerUnavailable):
        await fetch_shared_key("https://127.0.0.1:1/key", "token", ca=certificate[0], attempts=2)


async def test_an_answer_in_several_pieces_is_put_together(certificate):
    whole = json.dumps(KEY).encode()
    app, asked = answering([whole[:5], whole[5:20], whole[20:]])
    async with serving(app, certificate) as url:
        assert await fetch_shared_key(f"{url}/key", "token", ca=certificate[0]) == SharedKey(RAW, 3)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 16_000,
        [b"x" * 9_000] * 3,
        b"not json",
        b"[]",
        b"{}",
        b'"key"',
        b"x" * 20_000,
        {"key": "!!!", "key_id": 0},
        {"key": base64.b64encode(bytes(15)).decode(), "key_id": 0},
        {**KEY, "key_id": 256},
        {**KEY, "key_id": -1},
        {**KEY, "key_id": True},
        {**KEY, "key_id": 1.5},
        {**KEY, "key_id": None},
        {**KEY, "key_id": "3"},
        {**KEY, "key_id": [3]},
        {**KEY, "key_id": {}},
        {**KEY, "key_id": 10**30},
        {"key": KEY["key"]},
        {"key_id": 3},
        *(
            f'{{"key": "{KEY["key"]}", "key_id": {value}}}'.encode()
            for value in ("Infinity", "-Infinity", "NaN", "1e400", "-1e400", "1e-400", "-1", "3.0", "true", "9" * 5000)
        ),
        *({**KEY, "key": value} for value in (None, 5, True, [KEY["key"]], {}, "", KEY["key"] + "\u00e9")),
        f'{{"key": "{KEY["key"]}\\ud83d", "key_id": 3}}'.encode(),
        f'{{"key": "{KEY["key"]}", "key_id": 3'.encode(),
        f'{{"key": "{KEY["key"]}", "key_id": 3}} and more'.encode(),
        f'{{"key": "{KEY["key"]}", "key_id": 3}}'.encode() + b"\xff",
        "elsewhere",
    ],
    ids=lambda answer: str(answer)[:60],
)
async def test_an_answer_that_is_no_key_is_refused_and_shown_nowhere(certificate, answer):
    app, asked = answering(answer)
    async with serving(app, certificate) as url:
        with pytest.raises(BadAnswer) as caught:
            await fetch_shared_key(f"{url}/key", "token", ca=certificate[0])
    assert len(asked) == 1
    assert not any(shows(text) for text in said_by(caught.value))
    assert not any(shows(text) for text in captured_by(caught.value, "keys/fetch.py"))


async def test_a_certificate_that_is_not_trusted_is_never_accepted_and_gets_no_token(certificate, tmp_path):
    app, asked = answering(KEY)
    other = development_certificate(tmp_path)
    async with serving(app, certificate) as url:
        for ca in (None, other[0]):
            with pytest.raises(ServerNotTrusted):
                await fetch_shared_key(f"{url}/key", "token", ca=ca)
    async with serving(app, certificate, "127.0.0.2") as url:  # an address that the certificate does not name
        with pytest.raises(ServerNotTrusted):
            await fetch_shared_key(f"{url}/key", "token", ca=certificate[0])
    assert asked == []


def test_a_certificate_of_its_own_making_is_kept_while_it_lasts_and_then_made_anew(tmp_path, monkeypatch):
    first = fingerprint(development_certificate(tmp_path)[0])
    assert fingerprint(development_certificate(tmp_path)[0]) == first

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=89.5)

    monkeypatch.setattr("keyserver.tls.datetime", Later)
    assert fingerprint(development_certificate(tmp_path)[0]) != first
    assert (tmp_path / "localhost.key").stat().st_mode & 0o777 == 0o600


async def test_what_is_not_https_is_refused(certificate):
    for url in ("http://127.0.0.1/key", "ftp://x", "key", "", "https://", "https:///key"):
        with pytest.raises(ValueError, match="url must begin with https"):
            await fetch_shared_key(url, "token")
    for name, values in {
        "attempts": [0, -1, 101, 2**80, True, "5", None, 1.5],
        "attempt_timeout": [0, -1, float("nan"), float("inf"), 10**400, "5", None],
        "ca": ["", "no/such/file", "no\0name", "\ud83d", 5, b"bytes"],
    }.items():
        for value in values:
            with pytest.raises((ValueError, TypeError), match=f"^{name} must be"):
                await fetch_shared_key("https://127.0.0.1/key", "token", **{name: value})


@pytest.mark.parametrize(
    "url",
    [
        f"https://u:{MARKER}@127.0.0.1:1/key",
        f"https://127.0.0.1:{MARKER}/key",
        f"https://[{MARKER}/key",
        f"https://[{MARKER}]/key",
        f"https://{MARKER * 3}.invalid/key",
        f"https://\ufe0f{MARKER}\u2100/key",
        f"https://127.0.0.1:1/{MARKER}\udce9",
        f"https://127.0.0.1:1/{MARKER}\n",
        f"https://{MARKER}..invalid/key",
        MARKER,
    ],
)
async def test_no_error_shows_the_url_in_which_somebody_may_have_put_a_password(url):
    with pytest.raises((ValueError, ServerUnavailable)) as caught:
        await fetch_shared_key(url, "token", attempts=1)
    assert not any(shows(text) for text in said_by(caught.value))


@pytest.mark.parametrize(
    "token",
    [*(MARKER + end for end in ("\r\nX-Other: x", "\n", "\0", "\udce9", "\ud83d", "\u00e9")), MARKER.encode(), None],
)
async def test_a_token_that_no_header_takes_is_refused_and_shown_nowhere(token):
    with pytest.raises((ValueError, TypeError), match=r"^token must be") as caught:
        await fetch_shared_key("https://127.0.0.1:1/key", token, attempts=1)
    assert not any(shows(text) for text in said_by(caught.value))


async def test_a_server_that_is_not_trusted_learns_and_shows_nothing(certificate):
    app, asked = answering(KEY)
    async with serving(app, certificate) as url:
        with pytest.raises(ServerNotTrusted) as caught:
            await fetch_shared_key(f"{url}/key?{MARKER}", MARKER)
    assert asked == [] and "certificate" in str(caught.value)
    assert not any(shows(text) for text in said_by(caught.value))


def test_a_fetched_key_is_not_shown_pickled_or_copied():
    fetched = SharedKey(RAW, 3)
    assert repr(fetched) == "SharedKey(key_id=3)"
    assert (fetched.key, fetched.key_id) == (RAW, 3) and fetched == SharedKey(RAW, 3) != SharedKey(RAW, 4)
    assert len({fetched, SharedKey(RAW, 3)}) == 1
    assert not any(shows(text) for text in got_from(fetched))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(fetched, protocol)


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("29", 29),
        ("100000", 30),
        ("9" * 400, None),
        ("1e400", None),
        ("inf", None),
        ("nan", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Wed, 99 Oct 99999 99:99:99 GMT", None),
    ],
)
def test_the_client_waits_as_long_as_it_is_asked_to_within_a_bound_and_not_with_all_others(asked, least):
    for attempt in range(3):
        expected = max(keyfetch.FIRST_WAIT * 2**attempt, least or 0)
        waits = [keyfetch._wait(attempt, asked) for _ in range(50)]
        assert all(expected <= wait <= expected * 1.2 for wait in waits)
        assert len(set(waits)) > 25, "spread"


def test_a_date_to_come_back_at_is_taken_too():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 15 <= keyfetch._wait(0, later) <= 20 * 1.2


# --- the program -----------------------------------------------------------------------------------------------------


def run(folder: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEYSERVER_")}
    options = ["--port", "0", "--folder", str(folder), "--database", f"sqlite+aiosqlite:///{folder / 'keys.db'}"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "keyserver", *options, *more],
        cwd=EXAMPLES,
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_the_program_starts_says_where_it_is_and_keeps_its_private_key_to_itself(tmp_path):
    names = ("KEYSERVER_DATABASE_SECRET", "KEYSERVER_TOKEN_SECRET", "KEYSERVER_APPLICATION_KEY")
    secrets = {name: os.urandom(32).hex() for name in names}
    server = run(tmp_path, **secrets)
    try:
        assert server.stdout is not None
        line = await asyncio.to_thread(server.stdout.readline)
        assert re.match(r"https://127\.0\.0\.1:\d+, certificate .*localhost\.pem, SHA-256 ([0-9A-F]{2}:){31}", line)
        assert fingerprint(tmp_path / "localhost.pem") in line
        assert (tmp_path / "localhost.key").stat().st_mode & 0o777 == 0o600
    finally:
        server.terminate()
        await asyncio.to_thread(server.wait)


@pytest.mark.parametrize("value", ["", "abc", "00" * 16])
def test_without_its_secrets_it_does_not_start_and_says_what_to_set(tmp_path, value):
    out, err = run(tmp_path, KEYSERVER_DATABASE_SECRET=value).communicate(timeout=60)
    assert out == ""
    assert "KEYSERVER_DATABASE_SECRET encrypts the keys in the database: set it to 64 hex digits" in err


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--port", MARKER], "argument --port"),
        ([f"--databse=postgresql+asyncpg://u:{MARKER}@127.0.0.1/x"], "unrecognized arguments"),
        (["--database", MARKER], "--database must be an async URL"),
        (["--database", f"nothing+none://u:{MARKER}@127.0.0.1/x"], "--database must be an async URL"),
        (["--database", f"sqlite:///{MARKER}"], "--database must be an async URL"),
    ],
)
def test_what_was_typed_may_be_a_databases_password_and_is_not_quoted(tmp_path, options, hint):
    names = ("KEYSERVER_DATABASE_SECRET", "KEYSERVER_TOKEN_SECRET", "KEYSERVER_APPLICATION_KEY")
    server = run(tmp_path, *options, **{name: RAW.hex() for name in names})
    out, err = server.communicate(timeout=60)
    assert server.returncode != 0 and hint in err and not shows(out + err)
