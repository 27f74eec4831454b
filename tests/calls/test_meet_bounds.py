"""`frameseal meet` against visitors who have no key and mean no good: what they cost is bounded, whatever they say.

Clocks stand still where a rate is meant, so that counts are exact; timeouts are shortened.
"""

import asyncio
import base64
import contextlib
import json
import logging
import threading
import time
from types import SimpleNamespace

import aiohttp
import aioice.ice
import pytest
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from frameseal.events import E2EEStateChange
from frameseal.tools.meet import MeetOptions, meeting, sfu_view, worker
from frameseal.tools.meet import bot as bot_module
from frameseal.tools.meet import browser_member as member_module
from frameseal.tools.meet import limits as limits_module
from frameseal.tools.meet import rotation_message as rotation_module
from frameseal.tools.meet.bot_video import Painter, Scene, ShownParticipant
from frameseal.tools.meet.browser_member import MAX_CANDIDATES, MAX_QUEUED, MAX_SECTIONS, BrowserMember, cleaned
from frameseal.tools.meet.limits import (
    JOINS,
    MAX_ADDRESSES,
    MAX_WAITING,
    MAX_WAITING_OF_ADDRESS,
    RECONNECTIONS,
    ROTATIONS,
    ConnectionLimit,
    Rate,
    RateLimit,
)
from frameseal.tools.meet.rotation_message import MeetingKey
from frameseal.tools.sfu import ForwardedPacket
from support.calls import PASSPHRASE, until
from support.meet_page import Page

STAND_IN = worker.Worker(b"// a stand-in for the worker", b"its licence")
GARBAGE = base64.b64encode(bytes(60) + b"\x0c\x00").decode()


@pytest.fixture
async def served():
    async with meeting(MeetOptions(port=0, passphrase=PASSPHRASE), STAND_IN) as made:
        yield made


@pytest.fixture
def clock(monkeypatch):
    """Stops the clock of the limits; it goes on when it is told to."""
    now = SimpleNamespace(seconds=time.monotonic())
    monkeypatch.setattr(limits_module, "monotonic", lambda: now.seconds)
    return now


class Visitor:
    """A web socket without a page behind it."""

    def __init__(self, served, address: str = "127.0.0.1") -> None:
        self.served = served
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0)))
        self.heard: list[dict] = []

    async def __aenter__(self) -> "Visitor":
        try:
            self.socket = await self._http.ws_connect(f"{self.served.origin}/signalling")
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *exc) -> None:
        await self.socket.close()
        await self._http.close()

    async def join(self, **changed) -> None:
        await self.socket.send_json({"type": "join", "name": "Eve", "tracks": []} | changed)

    async def until(self, kind: str, number: int = 0) -> dict:
        """Read until the next message of this type, or until there have been *number*."""
        if number and (known := [message for message in self.heard if message["type"] == kind])[number - 1 :]:
            return known[number - 1]
        while (frame := await self.socket.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
            self.heard.append(frame.json())
            if self.heard[-1]["type"] == kind:
                return self.heard[-1]
        raise AssertionError(f"hung up with {self.socket.close_code}")

    async def closed(self) -> tuple[int, str]:
        """Read until the server hangs up; return code and reason."""
        while True:
            message = await self.socket.receive(timeout=20)
            if message.type is aiohttp.WSMsgType.CLOSE:
                return message.data, message.extra
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return self.socket.close_code, ""
            self.heard.append(message.json())


def untroubled(caplog) -> bool:
    """Whether nothing was logged with a traceback, or as an error."""
    return not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]


# --- rotations of who has no key -------------------------------------------------------------------------------------


@pytest.fixture
def derivations(monkeypatch):
    """Notes the thread of each derivation of a key for rotations."""
    noted, original = [], rotation_module._ring

    def ring(key):
        noted.append(threading.get_ident())
        return original(key)

    monkeypatch.setattr(rotation_module, "_ring", ring)
    return noted


async def test_who_joins_rotates_and_hangs_up_in_a_loop_costs_one_derivation_beside_the_loop(
    served, clock, derivations
):
    broadcast, joined, refused = [], 0, 0
    original = served.room.broadcast
    served.room.broadcast = lambda message, but=None: (broadcast.append(message), original(message, but))
    for _ in range(40):
        async with Visitor(served) as eve:
            await eve.join()
            first = await eve.until("welcome") if joined < JOINS[0].burst else await eve.until("problem")
            joined += first["type"] == "welcome"
            refused += first["type"] == "problem"
            if first["type"] == "welcome":
                for _ in range(3):
                    await eve.socket.send_json({"type": "rotate", "sealed": GARBAGE})
                await eve.socket.send_json({"type": "watch", "on": False})
        await until(lambda: served.room.members.keys() == {"bot"})
    assert (joined, refused) == (JOINS[0].burst, 40 - JOINS[0].burst)
    rotations = [message for message in broadcast if message["type"] == "rotate"]
    assert len(rotations) == ROTATIONS[0].burst
    await until(lambda: len([m for m in broadcast if m["type"] == "rotated"]) == len(rotations))
    assert len(derivations) == 1
    assert threading.get_ident() not in derivations
    assert served.bot.key == MeetingKey(PASSPHRASE)
    # It is a rate, and not a ban.
    clock.seconds += 2 / JOINS[0].each_second
    async with Visitor(served) as late:
        await late.join()
        assert (await late.until("welcome"))["id"]


async def test_another_address_is_not_kept_out_by_one_that_asks_too_much(served, clock):
    async with Visitor(served, "127.0.0.2") as eve, Page(served, PASSPHRASE, tracks=()) as ada:
        await eve.join()
        await eve.until("welcome")
        for _ in range(20):
            await eve.socket.send_json({"type": "rotate", "sealed": GARBAGE})
        problem = await eve.until("problem")
        assert "Too many rotations" in problem["message"]
        await until(lambda: ada.id)
        coming = await ada.rotate()
        await until(lambda: served.bot.key == coming, 60)


async def test_all_that_a_rotation_derives_is_derived_beside_the_loop(served, derivations, monkeypatch):
    threads, setting, coding = [], served.bot.provider.set_shared_key, served.bot._e2ee.short_code

    def noted(work):
        def call(*arguments):
            threads.append(threading.get_ident())
            return work(*arguments)

        return call

    monkeypatch.setattr(served.bot.provider, "set_shared_key", noted(setting))
    monkeypatch.setattr(served.bot._e2ee, "short_code", noted(coding))
    async with Page(served, PASSPHRASE, tracks=()) as ada:
        await until(lambda: ada.id)
        derivations.clear()
        # The page of the tests derives in this thread: sealed beforehand.
        for _ in range(3):
            coming = await ada.rotate()
            await until(lambda coming=coming: served.bot.key == coming == ada.key, 60)
        await until(lambda: served.bot.code is not None, 60)
    assert 4 <= len(threads) <= 6  # the codes of keys that were replaced meanwhile are not derived
    assert threading.get_ident() not in threads


async def test_rotations_are_followed_in_the_order_in_which_they_came(served, clock):
    async with Page(served, PASSPHRASE, tracks=()) as ada:
        await until(lambda: ada.id)
        first = rotation_module.next_key(ada.key)
        second = rotation_module.next_key(first)
        for present, coming in ((ada.key, first), (first, second)):
            sealed = base64.b64encode(rotation_module.seal_rotation(present, coming)).decode()
            await ada.send({"type": "rotate", "sealed": sealed})
        await until(lambda: [m["keyId"] for m in ada.heard("rotated")] == [1, 2], 60)
        assert served.bot.key == second


def test_rates_are_by_address_and_in_total_and_the_addresses_are_bounded(clock):
    limit = RateLimit(Rate(2, 1.0), Rate(5, 1.0))
    assert [limit.allows("a") for _ in range(3)] == [True, True, False]
    assert [limit.allows(name) for name in "bbccd"] == [True, True, True, False, False]
    clock.seconds += 1
    assert [limit.allows("a"), limit.allows("b")] == [True, False]
    for number in range(3 * MAX_ADDRESSES):
        limit.allows(f"address {number}")
        assert len(limit._buckets) <= MAX_ADDRESSES


def test_places_are_by_address_and_in_total_and_nothing_is_kept_of_who_is_gone():
    places = ConnectionLimit(2, 3)
    assert [places.acquire(name) for name in "aaabb"] == [True, True, False, True, False]
    for name in "aab":
        places.release(name)
    assert not places._open
    assert places.acquire("b")


# --- sockets that never join -----------------------------------------------------------------------------------------


async def status_of(served, address: str) -> int:
    try:
        async with Visitor(served, address):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


async def test_web_sockets_that_do_not_join_are_few_for_each_address_and_in_total(served):
    async with contextlib.AsyncExitStack() as stack:
        addresses = [f"127.0.0.{number}" for number in range(2, 2 + MAX_WAITING // MAX_WAITING_OF_ADDRESS)]
        for address in addresses:
            for _ in range(MAX_WAITING_OF_ADDRESS):
                await stack.enter_async_context(Visitor(served, address))
            assert await status_of(served, address) == 429
        assert await status_of(served, "127.0.0.1") == 429
    await until(lambda: served.room.members.keys() == {"bot"})
    statuses: list[int] = []
    await until_status(served, statuses)
    # Who has joined takes no place of those who wait.
    async with Page(served, PASSPHRASE, tracks=()) as ada:
        await until(lambda: ada.id)
        assert await status_of(served, "127.0.0.1") == 101


async def until_status(served, statuses: list[int]) -> None:
    for _ in range(200):
        statuses.append(await status_of(served, "127.0.0.1"))
        if statuses[-1] == 101:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("places are not given back")


async def test_a_web_socket_that_does_not_join_in_time_is_hung_up_on_and_told_so(served, monkeypatch):
    monkeypatch.setattr(member_module, "JOIN_TIMEOUT", 0.3)
    async with Visitor(served) as silent, Visitor(served) as eve:
        await eve.join()
        await eve.until("welcome")
        code, reason = await silent.closed()
        assert code == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert "must join within" in reason
        # Whoever has joined may stay.
        await asyncio.sleep(0.5)
        assert not eve.socket.closed


async def test_who_finds_the_room_full_is_told_and_hung_up_on(served):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(7):
            page = await stack.enter_async_context(Visitor(served))
            await page.join()
            await page.until("welcome")
        late = await stack.enter_async_context(Visitor(served))
        await late.join()
        code, reason = await late.closed()
        assert (code, "full" in reason) == (aiohttp.WSCloseCode.TRY_AGAIN_LATER, True)
        assert [message["type"] for message in late.heard] == ["problem"]


async def connected(origin: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = origin.rpartition("//")[2].rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Wait for the end of a connection."""
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


@pytest.mark.parametrize("lan", [False, True])
async def test_tcp_connections_are_bounded_and_places_are_given_back(monkeypatch, lan):
    """With TLS the handshake counts: one that never comes has a place too."""
    monkeypatch.setattr("frameseal.tools.meet.MAX_CONNECTIONS_OF_ADDRESS", 4)
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "127.0.0.2"])
    async with meeting(MeetOptions(port=0, lan=lan), STAND_IN) as served:
        trusted = aiohttp.Fingerprint(bytes.fromhex(served.certificate.replace(":", ""))) if lan else False
        opened = [await connected(served.origin) for _ in range(4)]
        for _ in range(3):
            reader, writer = await connected(served.origin)
            await hung_up(reader)
            writer.close()
        for _, writer in opened[:2]:
            writer.close()

        async def is_served() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"{served.origin}/facts", ssl=trusted) as got,
                ):
                    return got.status == 200
            return False

        for _ in range(200):
            if await is_served():
                break
            await asyncio.sleep(0.05)
        assert await is_served(), "the places of two that are gone"
        for _, writer in opened[2:]:
            writer.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.", b"\x16\x03"])
@pytest.mark.parametrize("lan", [False, True])
async def test_a_tcp_connection_that_says_nothing_whole_is_hung_up_on(monkeypatch, lan, said, caplog):
    monkeypatch.setattr("frameseal.tools.meet.IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr("frameseal.tools.meet.admission.HANDSHAKE_TIMEOUT", 0.3)
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "127.0.0.2"])
    async with meeting(MeetOptions(port=0, lan=lan), STAND_IN) as served:
        reader, writer = await connected(served.origin)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert untroubled(caplog)


# --- whose page it is ------------------------------------------------------------------------------------------------


async def handshake(served, origins: list[str], ssl=None) -> int:
    headers = [("Origin", origin) for origin in origins]
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"{served.origin}/signalling", headers=headers, ssl=ssl or False):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


async def test_the_origin_is_scheme_host_and_port(served):
    port = int(served.origin.rpartition(":")[2])
    here = f"127.0.0.1:{port}"
    assert await handshake(served, [f"http://{here}"]) == await handshake(served, []) == 101
    for origin in (
        f"https://{here}",
        f"ws://{here}",
        f"chrome-extension://{here}",
        f"//{here}",
        here,
        "http://127.0.0.1",
        f"http://127.0.0.1:{port + 1}",
        f"http://localhost:{port}",
        f"http://evil@{here}",
        f"http://{here}/",
        f"http://{here}.evil.example",
        "null",
        "",
    ):
        assert await handshake(served, [origin]) == 403, origin
    assert await handshake(served, [f"http://{here}", "http://evil.example"]) == 403


async def test_over_tls_the_origin_is_https(monkeypatch):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "127.0.0.2"])
    async with meeting(MeetOptions(port=0, lan=True), STAND_IN) as served:
        fingerprint = aiohttp.Fingerprint(bytes.fromhex(served.certificate.replace(":", "")))
        assert await handshake(served, [served.origin], fingerprint) == 101
        assert await handshake(served, [served.origin.replace("https", "http")], fingerprint) == 403


# --- what they say ---------------------------------------------------------------------------------------------------

DEEP = 60_000  # below the longest message
SAID = {
    "a list in a list, without end": "[" * DEEP,
    "an object in an object, without end": '{"type":' * (DEEP // 8),
    "a deep name": '{"type": "join", "tracks": [], "name": ' + "[" * 5000 + "]" * 5000 + "}",
    "a number of 5,000 digits": '{"type": "reply", "sdp": "", "call": ' + "9" * 5000 + "}",
    "no number": '{"type": "reply", "sdp": "", "call": NaN}',
    "infinity": '{"type": "reply", "sdp": "", "call": 1e999}',
    "a truth for a number": '{"type": "reply", "sdp": "", "call": true}',
    "a list for a number": '{"type": "reply", "sdp": "", "call": [1]}',
    "an object for SDP": '{"type": "reply", "sdp": {}, "call": 1e0}',
    "a list for a type": '{"type": ["join"]}',
    "no type": "{}",
    "null": "null",
    "text": '"join"',
    "nothing": "",
    "a number for a name": '{"type": "join", "name": 5, "tracks": []}',
    "text for tracks": '{"type": "join", "name": "Eve", "tracks": "audio"}',
    "no tracks": '{"type": "join", "name": "Eve"}',
    "a peer that is none": '{"type": "connection", "call": 1, "peer": ["publish"], "state": "failed"}',
    "a state that is none": '{"type": "connection", "call": 1, "peer": "publish", "state": 7}',
    "a connection without a number": '{"type": "connection", "peer": "publish", "state": "failed"}',
    "an object for a participant": '{"type": "keyframe", "participant": {}}',
    "an object for a rotation": '{"type": "rotate", "sealed": {}}',
    "a long rotation": json.dumps({"type": "rotate", "sealed": "A" * 60_000}),
    "a second join": '{"type": "join", "name": "Eve", "tracks": []}',
    "text of a megabyte": json.dumps({"type": "join", "name": "x" * 2**20, "tracks": []}),
    "bytes": b"\x00\xff" * 100,
    "a megabyte of bytes": bytes(2**20),
}


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("what", SAID)
async def test_what_is_not_the_protocol_is_answered_with_a_reason_and_no_traceback(served, what, joined, caplog):
    async with Visitor(served) as eve:
        if joined or what == "a second join":
            await eve.join()
            await eve.until("welcome")
        said = SAID[what]
        await (eve.socket.send_bytes(said) if isinstance(said, bytes) else eve.socket.send_str(said))
        code, reason = await eve.closed()
    assert code in (1003, 1007, 1008, 1009)
    assert " must " in reason or code == 1009
    assert len(reason.encode()) <= 123
    await until(lambda: served.room.members.keys() == {"bot"})
    async with Page(served, PASSPHRASE, tracks=()) as ada:
        await until(lambda: ada.id)
    assert untroubled(caplog)


@pytest.mark.parametrize(
    "said",
    [
        '{"type": "reply", "sdp": "", "call": 12345678901234567890}',
        '{"type": "reply", "error": "\\ud83d\\n\\u001b[31m", "call": -1}',
        '{"type": "connection", "call": 1, "peer": "\\ud83d", "state": "failed"}',
        '{"type": "connection", "call": 1, "peer": "publish", "state": "\\u0000"}',
        '{"type": "keyframe", "participant": "\\ud83d"}',
        '{"type": "rotate", "sealed": "\\ud83d"}',
        '{"type": "rotate", "sealed": "=="}',
        '{"type": "rotate", "sealed": "' + "QUJD" * 100 + '"}',
        '{"type": "watch", "on": {"deep": [[[]]]}}',
    ],
)
async def test_values_that_are_of_the_right_type_and_mean_nothing_do_no_harm(served, said, caplog):
    async with Visitor(served) as eve:
        await eve.join()
        await eve.until("welcome")
        await eve.socket.send_str(said)
        await eve.socket.send_json({"type": "rotate", "sealed": GARBAGE})
        await eve.until("rotated")
    assert untroubled(caplog)
    assert served.bot.key == MeetingKey(PASSPHRASE)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Ada", "Ada"),
        ("  Ada \n\t Lovelace ", "Ada Lovelace"),
        ("\ud83d", ""),
        ("Ada\udce9", "Ada"),
        ("\x00\x1b[31mred", "[31mred"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\u2028", ""),
        ("Ωmega 漢字 🎈", "Ωmega 漢字 🎈"),
        ("x" * 500, "x" * 500),
    ],
)
def test_names_are_one_line_that_can_be_shown_drawn_and_logged(given, shown):
    assert cleaned(given) == shown
    shown.encode()
    Painter().draw(Scene(0, None, {}, [ShownParticipant(cleaned(given), None, {})]), 0)


async def test_a_name_that_no_font_has_neither_ends_the_bots_picture_nor_the_log(served, caplog):
    async with Visitor(served) as eve, Page(served, PASSPHRASE, tracks=()) as ada:
        await eve.join(name="\ud83d\udce9\n\x1b[2J" * 20, tracks=["video"])
        call = await eve.until("call")
        await eve.socket.send_json({"type": "reply", "call": call["call"], "error": "\ud83d\nforged line\x1b[2J"})
        problem = await eve.until("problem")
        assert problem["message"].isprintable()
        await until(lambda: ada.opens("bot") == "DecryptionSuccess", 60)
        seen = len(ada.sinks["bot", "video"].pictures)
        await until(lambda: len(ada.sinks["bot", "video"].pictures) > seen + 3)
    assert untroubled(caplog)
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name == "frameseal.tools.meet")


@pytest.mark.parametrize(
    "sdp",
    [
        "v=0\r\n" + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n" * (MAX_SECTIONS + 1),
        "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" + "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n" * 65,
    ],
)
async def test_sdp_with_more_sections_or_candidates_than_a_page_has_is_not_looked_at(served, sdp, caplog):
    """Each section would be a receiver with a thread of its own here, each candidate somebody to send packets to."""
    assert MAX_CANDIDATES == 64
    async with Visitor(served) as eve:
        await eve.join(tracks=["video"])
        call = await eve.until("call")
        before = threading.active_count()
        await eve.socket.send_json({"type": "reply", "call": call["call"], "sdp": sdp})
        assert "more than" in (await eve.until("problem"))["message"]
        assert threading.active_count() <= before
    assert untroubled(caplog)


# --- what they make others do ----------------------------------------------------------------------------------------


async def test_a_connection_that_is_said_to_be_lost_again_and_again_is_made_anew_a_few_times(served, clock):
    made, original = [], served.room.reconnect
    served.room.reconnect = lambda member, peer: (made.append(peer), original(member, peer))
    async with Visitor(served) as eve:
        await eve.join()
        for round in range(1, 40):
            number = (await eve.until("call", round))["call"]
            for state in ("connected", "failed"):
                await eve.socket.send_json({"type": "connection", "call": number, "peer": "bot", "state": state})
            await eve.socket.send_json({"type": "rotate", "sealed": "="})
            await eve.until("rotated" if round <= ROTATIONS[0].burst else "problem")  # by then the states were heard
            if len(made) < round:
                break
        assert made == ["bot"] * RECONNECTIONS.burst
    await until(lambda: not served.room._tasks, 60)


async def test_the_end_of_a_connection_that_was_replaced_is_not_that_of_its_replacement(served):
    made, original = [], served.room.reconnect
    served.room.reconnect = lambda member, peer: (made.append(peer), original(member, peer))
    async with Visitor(served) as eve:

        async def report(call: dict, *states: str) -> None:
            for state in states:
                await eve.socket.send_json({"type": "connection", "call": call["call"], "peer": "bot", "state": state})

        await eve.join()
        first = await eve.until("call", 1)
        await report(first, "connected", "failed")
        second = await eve.until("call", 2)
        await report(second, "connected")
        await report(first, "closed", "failed")
        await eve.socket.send_json({"type": "rotate", "sealed": "="})
        await eve.until("rotated")  # by then the states were heard
        assert made == ["bot"]
        await report(second, "failed")
        await eve.until("call", 3)
        assert made == ["bot", "bot"]
    await until(lambda: not served.room._tasks, 60)


async def test_messages_beyond_the_rate_wait_in_the_visitors_own_socket(served, clock, monkeypatch):
    taken, waits = [], []
    original = BrowserMember._handle

    async def take(guest, message):
        taken.append(message)
        await original(guest, message)

    async def sleep(seconds):
        waits.append(seconds)
        clock.seconds += seconds
        await real(0)

    real = asyncio.sleep
    monkeypatch.setattr(BrowserMember, "_handle", take)
    monkeypatch.setattr(member_module, "asyncio", SimpleNamespace(**(vars(asyncio) | {"sleep": sleep})))
    began = clock.seconds
    async with Visitor(served) as eve:
        await eve.join()
        await eve.until("welcome")
        for _ in range(1000):
            await eve.socket.send_json({"type": "watch", "on": False})
        await eve.socket.send_json({"type": "rotate", "sealed": GARBAGE})
        await eve.until("rotated")
    assert len(taken) == 1002
    rate = limits_module.MESSAGES
    assert clock.seconds - began >= (1001 - rate.burst) / rate.each_second


async def test_what_waits_for_a_browser_that_does_not_read_is_bounded_in_size(served):
    aborted = []
    guest = BrowserMember(SimpleNamespace(), served.room, "guest", "127.0.0.1", lambda: aborted.append(True))
    for _ in range(400):
        guest.notify({"type": "sfu", "picture": "x" * 50_000})
        assert guest._queued <= MAX_QUEUED
    assert aborted


# --- what is kept of who is gone -------------------------------------------------------------------------------------


async def test_the_bot_keeps_nothing_of_who_has_left_however_late_it_comes(served):
    bot = served.bot

    class Late:
        kind = "video"

        def __init__(self) -> None:
            self.left = 3

        async def recv(self):
            self.left -= 1
            if self.left < 0:
                raise bot_module.MediaStreamError
            return bot_module.av.VideoFrame(320, 240)

    for number in range(50):
        name = f"guest-{number}"
        bot._changed(
            E2EEStateChange(name, "video", "DecryptionFailed", "receive", None, None, None, {}, 0.0)  # type: ignore
        )
        await bot._attend(name, Late())
    assert not bot._pictures and not bot._states.keys() - {"bot"}


async def test_who_joins_and_hangs_up_while_connecting_leaves_no_task_behind(served):
    await until(lambda: served.bot.publishes)
    before = len(asyncio.all_tasks())
    for _ in range(8):
        async with Visitor(served) as eve:
            await eve.join(tracks=["audio", "video"])
            await eve.until("call")
    await until(lambda: served.room.members.keys() == {"bot"})
    await until(lambda: len(asyncio.all_tasks()) <= before, 60)
    assert not served.bot._connections.keys() - {"publish"}
    assert not served.room.sfu_views.keys() - {"bot"}


# --- the SFU's own decoder -------------------------------------------------------------------------------------------

VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90000, payloadType=96)


def packet(payload: bytes, *, marker: bool = False) -> ForwardedPacket:
    return ForwardedPacket("video", VP8, RtpPacket(payload_type=96, payload=payload, marker=marker), False)


def test_packets_of_a_frame_that_never_ends_are_let_go():
    seen = sfu_view.SfuView()
    for payload in (b"\x10" + bytes(1200), b"\x10"):
        for _ in range(2 * sfu_view.MAX_FRAME // 1200):
            seen.tap(packet(payload))
            assert sum(map(len, seen._parts)) == seen._size <= sfu_view.MAX_FRAME
    for _ in range(sfu_view.MAX_FRAME // 8):
        seen.tap(packet(b"\x10"))
        assert len(seen._parts) <= sfu_view.MAX_FRAME // 64
    seen.tap(packet(b"\x10end", marker=True))
    assert seen.frames["video"] == 1 and seen._size == 0
    seen.close()


def test_a_picture_that_claims_to_be_huge_is_not_decoded(monkeypatch):
    made = []
    monkeypatch.setattr(sfu_view, "get_decoder", made.append)
    seen = sfu_view.SfuView()
    head = b"\x10\x02\x00\x9d\x01\x2a"
    for size in (b"\xff\x3f\xff\x3f", b"\xff\xff\xff\xff"):
        seen._codec = "vp8"
        seen._decode(packet(b""), head + size + bytes(100))
    assert made == []
    assert sfu_view.claimed_pixels("vp8", head + b"\x40\x01\xf0\x00" + bytes(9)) == 320 * 240
    assert sfu_view.claimed_pixels("vp8", b"\x11" + bytes(99)) == sfu_view.claimed_pixels("vp8", b"") == 0
    seen._decode(packet(b""), head + b"\x40\x01\xf0\x00" + bytes(100))
    assert len(made) == 1
    seen.close()
