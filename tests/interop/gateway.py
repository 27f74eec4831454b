"""A Janus gateway of Debian's, for tests in a network namespace such as test_janus.py makes: a plugin of fixtures."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import aioice.ice
import pytest

ADDRESS = "127.0.0.2"
_ports = count(8188)  # one each: a Janus that was killed leaves its port unusable for a while


@pytest.fixture(scope="module")
def janus(tmp_path_factory):
    """A Janus with its web sockets, at `url`, for all tests of a module."""
    with _running(tmp_path_factory.mktemp("janus")) as process:
        yield process


@pytest.fixture
def mortal_janus(tmp_path):
    """One that a test may kill."""
    with _running(tmp_path) as process:
        yield process


@pytest.fixture(autouse=True, scope="session")
def at_the_address(loopback):
    """ICE gathers the one address that Janus does not ignore."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [ADDRESS])
        yield


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[subprocess.Popen]:
    port = next(_ports)
    # Of its parts only those that are needed: some of the others bring Janus down, now and then.
    for part in ("plugins/libjanus_videoroom.so", "transports/libjanus_websockets.so"):
        (folder / part).parent.mkdir()
        (folder / part).symlink_to(next(Path("/usr/lib").glob(f"*/janus/{part}")))
    log = folder / "log"
    (folder / "janus.jcfg").write_text(
        f'general: {{ configs_folder = "{folder}" plugins_folder = "{folder}/plugins" '
        f'transports_folder = "{folder}/transports" }}'
    )
    (folder / "janus.transport.websockets.jcfg").write_text(
        f'general: {{ ws = true ws_port = {port} ws_ip = "{ADDRESS}" }}'
    )
    command = [shutil.which("janus"), "-C", str(folder / "janus.jcfg"), "-F", str(folder)]
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, cwd=folder) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while "WebSockets thread started" not in log.read_text(errors="replace"):
                assert time.monotonic() < deadline and process.poll() is None, log.read_text(errors="replace")
                time.sleep(0.1)
            process.url = f"ws://{ADDRESS}:{port}"
            yield process
        finally:
            process.kill()
