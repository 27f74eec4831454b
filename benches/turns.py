"""Processes that take turns: what is compared has a process each, and whatever else the machine does hits all.

A worker answers the requests of its parent, one line of JSON each.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Self


class Worker:
    """A process of this interpreter that runs *program* and answers requests, until the block ends."""

    def __init__(self, program: str, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, program, *arguments],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: object) -> Any:
        """Return the worker's answer to *request*."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemExit("a worker ended early: its error is above") from None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("a worker ended early: its error is above")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


async def serve(answer: Callable[[Any], Awaitable[object]]) -> None:
    """Answer the requests on standard input until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(json.loads(line))), flush=True)


def in_turns(workers: dict[str, Worker], turn: int, request: object) -> dict[str, Any]:
    """Return the answers of all workers, one after the other. The order alternates with *turn*."""
    answers = {name: workers[name].ask(request) for name in list(workers)[:: -1 if turn % 2 else 1]}
    return {name: answers[name] for name in workers}
