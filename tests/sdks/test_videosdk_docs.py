"""What the pages about SDKs show, run against the SDKs: the first program, and each line of the migration table."""

import ast
import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from pyee.asyncio import AsyncIOEventEmitter
from pymediasoup import AiortcHandler, Device
from pymediasoup.rtp_parameters import RtpCapabilities
from videosdk import VideoSDK

import frameseal
from frameseal import E2EEState, ExternalE2EEKeyProvider
from frameseal.videosdk import set_key_provider
from sdks.test_videosdk import meeting_place
from support.calls import until
from support.paths import ROOT
from support.sfu import CAPABILITIES, Endpoint

DOCS = ROOT / "docs" / "adapters"
S = E2EEState


def blocks(document: str) -> list[str]:
    text = (DOCS / document).read_text("utf-8")
    return re.findall(r"^```python no-run\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def migration_table() -> list[tuple[str, str]]:
    """Each line of JavaScript, and the first code that stands across from it; "" where it has no counterpart."""
    text = (DOCS / "videosdk.md").read_text("utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", text[text.index("| JavaScript | Python |") :], re.MULTILINE)
    return [(left, code[1] if (code := re.match(r"`([^`]+)`", right)) else "") for left, right in rows]


async def run(source: str, names: dict[str, Any]) -> Any:
    try:
        made = eval(compile(source, "docs", "eval", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    except SyntaxError:
        made = eval(compile(source, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return await made if asyncio.iscoroutine(made) else made


@pytest.fixture(autouse=True)
def no_default_provider():
    yield
    set_key_provider(None)


async def test_the_first_program_of_the_videosdk_page_sends_sealed_media(monkeypatch):
    async with meeting_place(monkeypatch) as (room, enter):
        names: dict[str, Any] = {}
        await run(blocks("videosdk.md")[0], names)
        try:
            same = ExternalE2EEKeyProvider()
            same.set_shared_key("<SECRET_KEY>")
            set_key_provider(None)
            bob = await enter("bob", None, same)
            bot = names["meeting"].local_participant.id
            await until(
                lambda: {("audio", S.DecryptionSuccess), ("video", S.DecryptionSuccess)} <= {*bob.states.get(bot, [])}
            )
            assert {producer.app_data["isEncrypted"] for producer in room.peers[bot].produced} == {True}
        finally:
            names["meeting"].leave()
            await asyncio.sleep(0.3)


async def test_each_line_of_the_migration_table_runs_and_does_what_it_says(monkeypatch):
    key, told, rows = bytes(range(32)), [], []
    names: dict[str, Any] = {
        "frameseal": frameseal,
        "VideoSDK": VideoSDK,
        "meeting_id": "room",
        "token": "a-token",
        "some_bytes": key,
        "writer": SimpleNamespace(write=rows.append),
        "handler": lambda data: told.append((data.kind, data.state)),
    }
    seen: dict[str, Any] = {}
    async with meeting_place(monkeypatch) as (_, enter):
        try:
            for javascript, python in migration_table():
                if "getKeys" in javascript:
                    assert python == ""
                    with pytest.raises(PermissionError):
                        names["provider"].export_key()
                    continue
                if python.startswith("frameseal open"):
                    continue  # test_videosdk_recording.py runs it
                if "participant.on" in javascript:
                    names["participant"] = names["meeting"].local_participant
                seen[javascript] = await run(python, names)
            assert sum(javascript in seen for javascript, _ in migration_table()) == 11
            for javascript, made in seen.items():
                if javascript.startswith(("new External", "{ ratchet")):
                    assert isinstance(made, ExternalE2EEKeyProvider)
            assert seen["meeting.isE2EEEnabled"] is True
            same = ExternalE2EEKeyProvider()
            same.set_shared_key(key)
            set_key_provider(None)
            bob = await enter("bob", "blue", same)
            name = names["participant"].id
            await until(lambda: {state for _, state in bob.states.get(name, [])} == {S.DecryptionSuccess})
            await until(lambda: {("audio", "EncryptionSuccess"), ("video", "EncryptionSuccess")} == {*told})
            await until(
                lambda: {(row.participant, row.kind) for row in list(rows)} == {("bob", "audio"), ("bob", "video")}
            )
            names["recorder"].close()
        finally:
            names["meeting"].leave()
            await asyncio.sleep(0.3)


async def test_a_message_of_the_videosdk_page_is_sealed_on_its_way_and_opened(monkeypatch):
    """The room has no data channels: what the SDK hands to its producer is given to the other's consumer."""
    carried: list[Any] = []
    heard: dict[str, list[Any]] = {}
    async with meeting_place(monkeypatch) as (_, enter):
        guests = {}
        for name, colour in (("alice", "red"), ("bob", "blue")):
            keys = ExternalE2EEKeyProvider()
            keys.set_shared_key("<SECRET_KEY>")
            guest = guests[name] = await enter(name, colour, keys)
            transport = next(v for v in vars(guest.room_client).values() if getattr(v, "direction", "") == "send")
            await until(lambda: transport.connectionState == "connected")  # noqa: B023 - awaited here
            producer = SimpleNamespace(send=carried.append, bufferedAmount=0, bufferedAmountLowThreshold=0)
            guest.room_client._reliable_data_producer, guest.room_client._data_producer_initialized = producer, True
            heard[name] = []
            told = heard[name]
            names = {"provider": keys, "meeting": guest.meeting, "frameseal": frameseal}
            await run(blocks("videosdk.md")[1], {**names, "print": lambda *what, told=told: told.append(what)})
        sealed = list(carried)
        assert len(sealed) == 2 and not any(b"hello" in packet for packet in sealed)

        consumer = AsyncIOEventEmitter()
        consumer.label, consumer.id, consumer.observer = "reliable_data_producer", "1", AsyncIOEventEmitter()
        consumer.sctpStreamParameters = SimpleNamespace(streamId=1)

        async def consume(**options: Any) -> AsyncIOEventEmitter:
            return consumer

        receiving = next(v for v in vars(guests["bob"].room_client).values() if getattr(v, "direction", "") == "recv")
        monkeypatch.setattr(receiving, "consumeData", consume)
        await guests["bob"].room_client.handleDataConsume("1", "2", None, consumer.label, "", {}, "alice")
        for message in (sealed[0], "in the clear"):
            consumer.emit("message", message)
        await until(lambda: heard["bob"])
    assert heard == {"alice": [], "bob": [("alice", b"hello")]}


async def test_the_first_program_of_the_pymediasoup_page_attaches_both_transports():
    endpoints = Endpoint(), Endpoint()
    device = Device(handlerFactory=AiortcHandler.createFactory(tracks=[]))
    await device.load(RtpCapabilities(**CAPABILITIES))
    names: dict[str, Any] = {"device": device}
    names["of_sending"], names["of_receiving"] = [await endpoint.parameters() for endpoint in endpoints]
    await run(blocks("pymediasoup.md")[0], names)
    try:
        for transport in (names["sending"], names["receiving"]):
            with pytest.raises(RuntimeError, match="attached already"):
                frameseal.pymediasoup.attach(transport, names["e2ee"], local_id="alice")
    finally:
        for transport in (names["sending"], names["receiving"]):
            await transport.close()
        for endpoint in endpoints:
            await endpoint.close()
