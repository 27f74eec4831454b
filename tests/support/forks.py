"""Children that are forked while other threads are busy, and what they come to."""

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHILDREN = 50
# After so long a child that hangs is killed: far more than it needs on any machine.
MAX_SECONDS = 60


def in_a_child(work: Callable[[], bytes | None], max_seconds: float = MAX_SECONDS) -> bytes:
    """Return what *work* returns in a forked child, which has to end by itself and without an error."""
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
    written, deadline = [], time.monotonic() + max_seconds
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            written.append(part)
        else:
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
    return b"".join(written)


@contextmanager
def busy(*works: Callable[[], object]) -> Iterator[None]:
    """Keep a thread at each of *works*; begin once each was done. What one of them raises is raised at the end."""
    stop, begun, errors = threading.Event(), threading.Barrier(len(works) + 1), []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
            begun.wait()
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)
            begun.abort()

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that a fork finds threads everywhere, and not at their ends
    try:
        for thread in threads:
            thread.start()
        begun.wait()
        yield
    except threading.BrokenBarrierError:
        pass
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def children(work: Callable[[], bytes | None], *while_busy: Callable[[], object], count: int = CHILDREN) -> list[bytes]:
    """Return what *work* comes to in *count* children that are forked while other threads are busy."""
    with busy(*while_busy):
        return [in_a_child(work) for _ in range(count)]
    raise AssertionError("no child was forked")
