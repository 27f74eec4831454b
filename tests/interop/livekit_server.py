"""A LiveKit server on loopback, for the tests with LiveKit's own clients: a plugin of fixtures.

`make interop` builds it from the Go module in livekit-server/. It offers no address but 127.0.0.1.
"""

import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest

from support.paths import ROOT

SERVER = ROOT / ".stamps/livekit/livekit-server"
START_WITHIN = 60.0  # seconds; the limit is for a server that does not start, not a measurement
UDP_PORTS = 200  # two connections for each of the few participants of a test, with room to spare


@dataclass(frozen=True)
class LiveKitServer:
    """Where the server listens, and what it takes for a token."""

    url: str
    api_key: str
    api_secret: str

    def token(self, identity: str, room: str, claims: dict | None = None, secret: str | None = None) -> str:
        """Return a token that lets *identity* into *room*, to publish and to subscribe.

        Other *claims* replace its own, and another *secret* signs it.
        """
        grants = {"roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, "canPublishData": True}
        now = int(time.time())
        own = {"iss": self.api_key, "sub": identity, "nbf": now - 60, "exp": now + 3600, "video": grants}
        return jwt.encode(own | (claims or {}), secret or self.api_secret, algorithm="HS256")


@pytest.fixture(scope="module")
def livekit_server(tmp_path_factory):
    """A server for all tests of a module."""
    with _running(tmp_path_factory.mktemp("livekit")) as server:
        yield server


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[LiveKitServer]:
    port, first_udp = _free_port(), 50_000 + secrets.randbelow(10_000)
    api_key, api_secret = "frameseal", secrets.token_hex(32)
    config, log = folder / "livekit.yaml", folder / "log"
    config.write_text(
        f"""
port: {port}
bind_addresses: ["127.0.0.1"]
keys: {{ {api_key}: {api_secret} }}
logging: {{ level: info }}
rtc:
  port_range_start: {first_udp}
  port_range_end: {first_udp + UDP_PORTS}
  tcp_port: 0
  use_external_ip: false
  enable_loopback_candidate: true
  interfaces: {{ includes: [lo] }}
  ips: {{ includes: [127.0.0.1/32] }}
  allow_tcp_fallback: false
room: {{ auto_create: true }}
"""
    )
    with (
        log.open("wb") as output,
        subprocess.Popen([SERVER, "--config", str(config)], stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + START_WITHIN
            while not _listens(port):
                said = log.read_text(errors="replace")
                assert process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.1)
            yield LiveKitServer(f"ws://127.0.0.1:{port}", api_key, api_secret)
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
