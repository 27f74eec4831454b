"""`LoopEmitter`: events of any thread reach listeners on the loop, in order; early ones wait, up to a maximum."""

import asyncio
import threading

import pytest

from frameseal.emitter import MAX_PENDING_EVENTS, LoopEmitter


async def test_events_of_another_thread_reach_listeners_on_the_loop_in_order():
    emitter, heard = LoopEmitter(), []
    emitter.on("event", lambda value: heard.append((value, threading.current_thread())))
    thread = threading.Thread(target=lambda: [emitter.deliver("event", number) for number in range(100)])
    thread.start()
    thread.join()
    assert heard == [], "nothing is delivered while the loop is busy"
    await asyncio.sleep(0)
    assert heard == [(number, threading.main_thread()) for number in range(100)]


def test_the_latest_events_wait_for_a_loop():
    emitter, heard = LoopEmitter(), []
    emitter.on("event", heard.append)
    for number in range(MAX_PENDING_EVENTS + 5):
        emitter.deliver("event", number)

    async def call() -> None:
        emitter.bind_loop(asyncio.get_running_loop())
        await asyncio.sleep(0)

    asyncio.run(call())
    assert heard == list(range(5, MAX_PENDING_EVENTS + 5))


def test_the_first_loop_stays_until_it_is_closed():
    emitter, heard = LoopEmitter(), []
    emitter.on("event", heard.append)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        emitter.bind_loop(first)
        emitter.bind_loop(second)
        assert emitter.events_loop is first
        first.close()
        emitter.deliver("event", "kept")
        emitter.bind_loop(second)
        assert emitter.events_loop is second
        second.run_until_complete(asyncio.sleep(0))
        assert heard == ["kept"]
    finally:
        first.close()
        second.close()


def test_what_is_no_loop_is_refused_by_name():
    with pytest.raises(TypeError, match="loop"):
        LoopEmitter().bind_loop(object())


async def test_a_listener_that_raises_is_reported_and_an_error_listener_that_raises_is_not_called_again(caplog):
    emitter, errors = LoopEmitter(), []

    def fail(value: object) -> None:
        raise ZeroDivisionError(value)

    def fail_again(error: Exception) -> None:
        errors.append(error)
        raise error

    emitter.on("event", fail)
    emitter.on("error", fail_again)
    emitter.deliver("event", "value")
    await asyncio.sleep(0)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert "a listener of" in caplog.text
