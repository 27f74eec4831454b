"""VideoSDK's meetings in every order of joining, leaving and setting a provider: none that came before sends in clear.

The room client is the SDK's own. What it asks of a server and of a network is stood in for, so that thousands of orders
take seconds; tests/sdks/test_videosdk.py has real meetings.
"""

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import os
import random
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import videosdk.room_client
from pyee.asyncio import AsyncIOEventEmitter
from videosdk import VideoSDK
from videosdk.lib.pymediasoup.transport import Transport
from videosdk.room_client import RoomClient
from vsaiortc import RTCPeerConnection

import frameseal.videosdk as adapter
from frameseal import ExternalE2EEKeyProvider
from frameseal.videosdk import E2EEError, enable_e2ee, set_key_provider

# j: join() as a task; J: async_join() in a task of the caller's; L: leave(); S: set a provider; N: set none;
# y: a few turns of the loop; W: wait until nothing happens any more.
STEPS = "jJLSNyW"
NAMES = {"j": "join", "J": "async_join", "L": "leave", "S": "set", "N": "set none", "y": "turns", "W": "wait"}


class StandIn(Transport):
    """A transport with a connection and no network."""

    def __init__(self) -> None:
        self._closed = False
        self._observer = AsyncIOEventEmitter()
        self._consumers, self._producers = {}, {}
        self._handler = SimpleNamespace(pc=RTCPeerConnection())

    async def close(self) -> None:
        self._closed = True
        await asyncio.sleep(0)
        await self.handler.pc.close()

    @property
    def is_sealed(self) -> bool:
        return hasattr(self.handler.pc, "_frameseal_attachment")


class Socket:
    """A web socket on which nothing comes."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    def __aiter__(self) -> "Socket":
        return self

    async def __anext__(self) -> Any:
        await self._closed.wait()
        raise StopAsyncIteration

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._closed.set()


sockets: list[Socket] = []


@pytest.fixture
def uncollected(monkeypatch):
    """Leave out the collector, which takes most of the time here and cannot free a meeting that the test holds."""
    monkeypatch.setattr(adapter, "gc", SimpleNamespace(collect=lambda: 0))


@pytest.fixture
def sent(monkeypatch):
    """What left in the clear: for each `produce` of a connection that is not sealed, whether a provider was set."""
    found: list[bool] = []
    sockets.clear()

    async def connect(*args: Any, **options: Any) -> Socket:
        await asyncio.sleep(0)
        sockets.append(Socket())
        return sockets[-1]

    async def nothing(room: RoomClient) -> None:
        await asyncio.sleep(0)

    def maker(name: str):
        async def make(room: RoomClient) -> None:
            await asyncio.sleep(0)
            setattr(room, name, StandIn())
            await asyncio.sleep(0)

        return make

    async def join(room: RoomClient) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"data": {"peers": [], "messages": []}}

    async def produce(room: RoomClient) -> None:
        await asyncio.sleep(0)
        transport = vars(room)["_RoomClient__send_transport"]
        if not transport.closed and not transport.is_sealed:
            found.append(adapter._default.provider is not None)

    config = dict.fromkeys(("base_url", "signaling_url", "ice_servers", "observability_Jwt", "traces", "logs"))
    monkeypatch.setattr(videosdk.room_client, "get_server_config", lambda *args: config)
    monkeypatch.setattr(videosdk.room_client, "connect", connect)
    for name, stand_in in {
        "handle_device_load": nothing,
        "handle_send_transport": maker("_RoomClient__send_transport"),
        "handle_recv_transport": maker("_RoomClient__recv_transport"),
        "handle_request_entry": nothing,
        "handle_join": join,
        "handle_produce": produce,
        "enable_data_producer": nothing,
    }.items():
        monkeypatch.setattr(RoomClient, name, stand_in)
    yield found
    set_key_provider(None)


def made(name: str = "alice") -> Any:
    return VideoSDK.init_meeting(
        meeting_id="room", token="a-token", participant_id=name, loop=asyncio.get_running_loop()
    )


def transports_of(meeting: Any) -> list[StandIn]:
    room = next(value for value in vars(meeting).values() if isinstance(value, RoomClient))
    return [value for value in vars(room).values() if isinstance(value, StandIn)]


def open_and_clear(meeting: Any) -> bool:
    room = next(value for value in vars(meeting).values() if isinstance(value, RoomClient))
    transport = vars(room)["_RoomClient__send_transport"]
    return transport is not None and not transport.closed and not transport.is_sealed


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Order:
    """One meeting, made before any provider is set, and what becomes of it."""

    def __init__(self) -> None:
        self.meeting = made()
        self.tasks: list[asyncio.Task[None]] = []
        self.set_while_open = False
        self.outcomes: list[str] = []

    async def take(self, step: str) -> None:
        if step == "S":
            try:
                set_key_provider(ExternalE2EEKeyProvider())
            except E2EEError:
                self.outcomes.append("refused")
            else:
                self.outcomes.append("set")
                self.set_while_open |= open_and_clear(self.meeting)
        elif step == "N":
            set_key_provider(None)
        elif step == "J":
            self.tasks.append(asyncio.ensure_future(self.meeting.async_join()))
        elif step in "jL":
            before = asyncio.all_tasks()
            with contextlib.suppress(E2EEError):
                self.meeting.join() if step == "j" else self.meeting.leave()
            self.tasks += asyncio.all_tasks() - before  # `join` makes a task, and reads no exception of it
        else:
            await turns(3 if step == "y" else 60)

    async def end(self) -> None:
        await turns(60)
        self.meeting.leave()
        for socket in sockets:
            await socket.close()
        sockets.clear()
        await turns(30)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        # A join that went on behind a leave leaves its transports open, and the SDK would never close them.
        for transport in transports_of(self.meeting):
            await transport.close()
        set_key_provider(None)


async def try_out(steps: Iterable[str], sent: list[bool]) -> tuple[list[str], bool]:
    """Take the steps. Return what became of each provider, and whether anything left in the clear beside one."""
    sent.clear()
    order = Order()
    for step in steps:
        await order.take(step)
    await turns(60)
    clear = any(sent) or order.set_while_open
    await order.end()
    return order.outcomes, clear


@pytest.mark.usefixtures("uncollected")
async def test_in_no_order_of_four_steps_does_a_meeting_send_in_the_clear_beside_a_provider(sent):
    outcomes, clear = set(), []
    for steps in itertools.product(STEPS, repeat=4):
        outcome, has_sent = await try_out(steps, sent)
        outcomes |= set(outcome)
        clear += [[NAMES[step] for step in steps]] if has_sent else []
    assert clear == []
    assert outcomes == {"set", "refused"}


@pytest.mark.usefixtures("uncollected")
async def test_nor_does_it_in_longer_ones(sent):
    drawn = random.Random(1)
    orders = [drawn.choices(STEPS, weights=[2, 2, 2, 2, 1, 4, 1], k=9) for _ in range(600)]
    clear = [order for order in orders if (await try_out(order, sent))[1]]
    assert clear == []


@pytest.mark.usefixtures("uncollected")
async def test_whenever_a_meeting_can_be_encrypted_nothing_of_it_leaves_in_the_clear(sent):
    encrypted = refused = 0
    for before, after in itertools.product(itertools.product("jJLyW", repeat=3), itertools.product("jJLW", repeat=1)):
        sent.clear()
        order = Order()
        for step in before:
            await order.take(step)
        try:
            enable_e2ee(order.meeting, ExternalE2EEKeyProvider())
        except E2EEError:
            refused += 1
        else:
            encrypted += 1
            for step in after:
                await order.take(step)
            await turns(60)
            assert sent == [] and not open_and_clear(order.meeting), (before, after)
        await order.end()
    assert encrypted > 100 and refused > 100


async def test_the_stand_in_does_send_in_the_clear_where_no_provider_is_set(sent):
    tried = Order()
    await tried.take("J")
    await turns(60)
    assert sent == [False] and open_and_clear(tried.meeting)
    await tried.take("S")
    assert tried.outcomes == ["refused"]
    await tried.end()


async def test_a_meeting_that_was_left_before_it_was_joined_is_over_and_cannot_be_joined(sent):
    meeting = made()
    meeting.leave()
    await turns(10)
    set_key_provider(ExternalE2EEKeyProvider())
    with pytest.raises(E2EEError, match="made before the key provider was set"):
        meeting.join()
    with pytest.raises(E2EEError, match="made before the key provider was set"):
        await meeting.async_join()
    await turns(60)
    assert sent == []
    set_key_provider(None)
    with pytest.raises(E2EEError, match="make it anew"):
        meeting.join()


async def test_it_can_be_encrypted_by_itself_and_joined_then(sent):
    meeting = made()
    meeting.leave()
    await turns(10)
    set_key_provider(ExternalE2EEKeyProvider())
    enable_e2ee(meeting, ExternalE2EEKeyProvider())
    await meeting.async_join()
    await turns(60)
    assert sent == [] and not open_and_clear(meeting)
    transports = transports_of(meeting)
    assert len(transports) == 2 and all(transport.is_sealed for transport in transports)


async def test_a_join_that_goes_on_behind_a_leave_ends_where_a_provider_is_set(sent):
    meeting = made()
    joining = asyncio.ensure_future(meeting.async_join())
    await turns(2)
    meeting.leave()
    await turns(1)
    assert not joining.done()
    with contextlib.suppress(E2EEError):
        set_key_provider(ExternalE2EEKeyProvider())
    assert adapter._default.provider is not None, "there is no transport, and none will be made"
    await turns(60)
    assert sent == [] and not open_and_clear(meeting)
    assert joining.done()


async def test_a_meeting_whose_transports_are_still_open_is_not_over_though_it_is_closed(sent):
    meeting = made()
    await meeting.async_join()
    meeting.leave()
    await turns(1)
    assert open_and_clear(meeting) and meeting._Meeting__room_client._closed
    with pytest.raises(E2EEError, match="leave that meeting first"):
        set_key_provider(ExternalE2EEKeyProvider())
    await turns(30)
    set_key_provider(ExternalE2EEKeyProvider())


async def test_a_meeting_that_failed_is_over_whatever_the_applications_listener_raises(sent, monkeypatch):
    class Handler(videosdk.MeetingEventHandler):
        def on_meeting_state_change(self, data):
            raise ValueError("of the application")

    async def refuse(*args: Any, **options: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(videosdk.room_client, "connect", refuse)
    meeting = made()
    meeting.add_event_listener(Handler())
    with contextlib.suppress(ValueError):
        await meeting.async_join()
    set_key_provider(ExternalE2EEKeyProvider())


async def test_meetings_that_the_collector_does_not_list_count_too(sent):
    """`gc.freeze()`, which servers call before they fork, hides objects from `gc.get_objects()`."""
    meeting = made()
    gc.freeze()
    try:
        with pytest.raises(E2EEError, match=r"set the key provider before init_meeting\(\)"):
            set_key_provider(ExternalE2EEKeyProvider())
    finally:
        gc.unfreeze()
    assert not meeting.is_e2ee_enabled


def joins_in_a_child(sets: str) -> list[str]:
    """Make meetings in a job's process, and join them. Returns how each join ended."""

    async def join() -> list[str]:
        if sets != "nothing":
            set_key_provider(ExternalE2EEKeyProvider() if sets == "a provider" else None)
        outcomes = []
        for _ in range(2):
            meeting = VideoSDK.init_meeting(meeting_id="room", token="a", name="job", loop=asyncio.get_running_loop())
            try:
                adapter._gate_of(meeting)._check()
                outcomes.append("sealed" if meeting.is_e2ee_enabled else "in the clear")
            except E2EEError as error:
                with pytest.raises(E2EEError):
                    await meeting.async_join()
                outcomes.append(str(error))
                enable_e2ee(meeting, ExternalE2EEKeyProvider())
                adapter._gate_of(meeting)._check()
        return outcomes

    return asyncio.run(join())


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_provider_of_the_parent_process_is_missed_in_a_child(start):
    """The child imports everything anew, so it has no provider. The SDK's agents run their jobs in such children."""
    context = multiprocessing.get_context(start)
    set_key_provider(ExternalE2EEKeyProvider())
    try:
        with context.Pool(1) as pool:
            first, second = pool.apply(joins_in_a_child, ["nothing"])
            assert "set in the parent process" in first == second
            assert pool.apply(joins_in_a_child, ["a provider"]) == ["sealed"] * 2
    finally:
        set_key_provider(None)
    assert adapter.PROVIDER_PROCESS not in os.environ


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_child_of_an_older_fork_server_knows_whether_its_parent_has_a_provider(start):
    """A fork server keeps the environment in which the first child was started."""
    context = multiprocessing.get_context(start)
    with context.Pool(1) as pool:
        assert pool.apply(joins_in_a_child, ["nothing"]) == ["in the clear"] * 2
    set_key_provider(ExternalE2EEKeyProvider())
    try:
        with context.Pool(1) as pool:
            assert "set in the parent process" in pool.apply(joins_in_a_child, ["nothing"])[0]
    finally:
        set_key_provider(None)
    with context.Pool(1) as pool:
        assert pool.apply(joins_in_a_child, ["nothing"]) == ["in the clear"] * 2


def test_a_child_may_choose_the_clear_and_a_parent_without_a_provider_asks_for_nothing():
    set_key_provider(ExternalE2EEKeyProvider())
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(joins_in_a_child, ["none"]) == ["in the clear"] * 2
    finally:
        set_key_provider(None)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(joins_in_a_child, ["nothing"]) == ["in the clear"] * 2
