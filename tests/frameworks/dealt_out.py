"""What the tests of Ray and Spark share: an archive whose key a server has, one process to compare with, a kill."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from frameseal.archive import Opener, read
from support.archives import Sender, archive, call, provider, table
from support.paths import ROOT

ROOMS = ("one", "two", "three", "four")
FRAMES = 120
WORKERS_PATH = os.pathsep.join(str(ROOT / each) for each in ("python", "tests", "examples"))


def write_rooms(folder: Path, key: bytes) -> str:
    """Write an archive of four recordings, each in three segments. Return its location."""
    for room in ROOMS:
        archive(folder, call(Sender(provider(key)), FRAMES), room, segments=3)
    return str(folder)


def opened_in_one_process(folder: str, key: bytes) -> pa.Table:
    opener = Opener(provider(key))
    return table(opener(pa.Table.from_batches([batch])).to_batches()[0] for batch in read(folder))


def report(port: int) -> None:
    """Tell the test which process this is, and go on when the test answers."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(struct.pack("!i", os.getpid()))
        connection.recv(1)


@contextmanager
def killing_the_first() -> Iterator[tuple[int, list[int]]]:
    """Kill the first process that reports, and let all others go on. Yields the port, and who has reported."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_kill_the_first, args=(server, seen))
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _kill_the_first(server: socket.socket, seen: list[int]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            (process,) = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))
            seen.append(process)
            if len(seen) == 1:
                os.kill(process, signal.SIGKILL)
            else:
                connection.sendall(b"x")
