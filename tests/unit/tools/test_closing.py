"""Closing: whole, although the caller is cancelled, and in a bounded time."""

import asyncio

import pytest

from frameseal.tools import closing
from frameseal.tools.closing import close_fully


async def test_a_caller_that_is_cancelled_still_closes_everything():
    begun, may_end, closed = asyncio.Event(), asyncio.Event(), []

    async def close():
        begun.set()
        await may_end.wait()
        closed.append("all")

    caller = asyncio.ensure_future(close_fully(close()))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert closed == ["all"]


async def test_closing_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(closing, "CLOSE_TIMEOUT", 0.01)
    await close_fully(asyncio.Event().wait())


async def test_an_error_of_the_closing_is_raised():
    async def close():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await close_fully(close())
