"""Processes that take turns: what is compared has a process each, and whatever else the machine does hits all.

A worker answers the requests of its parent, one line of JSON each.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Self

# Calls without frameseal and calls with it.
PLAIN, SEALED = "not attached", "attached"


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


def is_worker(
    parser: argparse.ArgumentParser, names: Collection[str], work: Callable[[str], Coroutine[Any, Any, None]]
) -> bool:
    """Add the hidden option `--serve`, the name of a worker. If it is given, run *work* with it and return true.

    Reads nothing else from the command line, so that the parent can add options that need more imports.
    """
    parser.add_argument("--serve", choices=names, help=argparse.SUPPRESS)
    if "--serve" not in sys.argv:
        return False
    asyncio.run(work(parser.parse_args().serve))
    return True


def error_of_median(values: list[float]) -> float | None:
    """Return the standard error of the median of normally distributed *values*, or None for a single one."""
    return 1.25 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def in_turns(workers: dict[str, Worker], turn: int, request: object) -> dict[str, Any]:
    """Return the answers of all workers, one after the other. The order alternates with *turn*."""
    answers = {name: workers[name].ask(request) for name in list(workers)[:: -1 if turn % 2 else 1]}
    return {name: answers[name] for name in workers}
