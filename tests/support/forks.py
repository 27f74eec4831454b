"""Forks children while other threads are busy, and returns their results."""

import os
import random
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from support.threads import switching_often

CHILDREN = 50
# A child that hangs is killed after this time, which is far more than it needs on any machine.
MAX_SECONDS = 60
# The approximate duration of the slowest work, the derivation of a key from a passphrase.
WORK_SECONDS = 0.05


def in_a_child(
    work: Callable[[], bytes | None],
    max_seconds: float = MAX_SECONDS,
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> bytes:
    """Return the result of *work* in a forked child, which must end unaided and without an error.

    The parent waits for the child in the context *meanwhile*.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(work() or b"")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with meanwhile():
        written = _read(child, read, max_seconds)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
    return b"".join(written)


def _read(child: int, read: int, max_seconds: float) -> list[bytes]:
    """Return the bytes that a child writes until it ends. Kill it after *max_seconds*."""
    written, deadline = [], time.monotonic() + max_seconds
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            written.append(part)
        else:
            os.kill(child, signal.SIGKILL)
    return written


@contextmanager
def busy(*works: Callable[[], object]) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Repeat each of *works* in a thread. Begin when each has run once, and raise their exceptions at the end.

    Yields a context in which the threads pause after their current work, so that a child can use the processor. After
    the context they continue for a random time, so that the next fork finds them anywhere in their work.
    """
    stop, begun, errors = threading.Event(), threading.Barrier(len(works) + 1), []
    working = threading.Event()
    working.set()

    @contextmanager
    def resting() -> Iterator[None]:
        working.clear()
        try:
            yield
        finally:
            working.set()
            time.sleep(random.uniform(0, WORK_SECONDS))

    def run(work: Callable[[], object]) -> None:
        try:
            work()
            begun.wait()
            while not stop.is_set():
                working.wait()
                work()
        except BaseException as error:
            errors.append(error)
            begun.abort()

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    try:
        with switching_often():  # makes a fork find threads anywhere in their work, not only at its end
            for thread in threads:
                thread.start()
            begun.wait()
            yield resting
    except threading.BrokenBarrierError:
        pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def children(work: Callable[[], bytes | None], *while_busy: Callable[[], object], count: int = CHILDREN) -> list[bytes]:
    """Return the results of *work* in *count* children that are forked while other threads are busy."""
    with busy(*while_busy) as resting:
        return [in_a_child(work, meanwhile=resting) for _ in range(count)]
    raise AssertionError("no child was forked")
