"""The call: Alice publishes through a forwarder without a key, Bob has the key, Eve has a wrong one.

Read `_call`: what an application has to do to seal its media is three lines for each participant, in `_join`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aioice.ice
import av
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender

from frameseal._secrecy import Confidential, Hidden, hide
from frameseal.aiortc import Attachment, TrackCounters, attach
from frameseal.e2ee.manager import E2EEManager, E2EEState, E2EEStateChange, ExternalE2EEKeyProvider
from frameseal.tools.demo.observer import Eavesdropper, Observer
from frameseal.tools.demo.published import SentMedia, published_tracks
from frameseal.tools.demo.verdict import failures
from frameseal.tools.sfu import Forwarder, LegStats

DISPLAY_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, repr=False)
class CallOptions(Confidential):
    """What kind of call. `loss` is a probability per packet and leg; without a passphrase a random one is made up.

    A passphrase is given as text and kept `Hidden`.
    """

    profile: str = "videosdk"
    codec: str = "vp8"
    seconds: float = 8.0
    passphrase: str | Hidden[str] = field(default_factory=lambda: secrets.token_urlsafe(24))
    media: Path | None = None
    loss: float = 0.0
    seed: int = 1
    # For the tests, which turn each of these round and expect another verdict.
    bob_passphrase: str | Hidden[str] | None = None
    eve_passphrase: str | Hidden[str] | None = None
    sealed: bool = True

    def __post_init__(self) -> None:
        """Hide the passphrases."""
        for name in ("passphrase", "bob_passphrase", "eve_passphrase"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, hide(getattr(self, name)))


@dataclass
class Status:
    """The call as it stands; the display reads it."""

    options: CallOptions
    sent: SentMedia
    forwarder: Eavesdropper
    bob: Observer
    eve: Observer
    legs: dict[str, LegStats] = field(default_factory=dict)
    attachments: dict[str, Attachment] = field(default_factory=dict)
    states: dict[tuple[str, str], E2EEState] = field(default_factory=dict)  # by participant and kind
    elapsed: float = 0.0  # seconds since everybody was connected
    failures: list[str] = field(default_factory=list)

    def counters(self, name: str, kind: str) -> TrackCounters | None:
        """What passed through the one track of this kind that a participant has, once there is one."""
        attachment = self.attachments.get(name)
        tracks = attachment.counters if attachment is not None else []
        return next((counters for counters in tracks if counters.kind == kind), None)


class UnusableFile(Exception):
    """A file that the demo was told to use cannot be used; the message says which and why."""


class Display(Protocol):
    """What shows the call while it lasts."""

    def update(self, status: Status) -> None:
        """Show how the call stands; called every tenth of a second."""

    def changed(self, who: str, change: E2EEStateChange) -> None:
        """A participant's track has changed its state."""


async def run_call(options: CallOptions, display: Display) -> Status:
    """Hold the call and return how it went; `Status.failures` is empty if it was what it should be.

    Raises UnusableFile if `options.media` is not media, ValueError for an unknown profile or codec.
    """
    try:
        sent, video, audio = published_tracks(options.media)
    except av.FFmpegError as error:
        reason = error.strerror  # and no more of it: the error names the file
    else:
        reason = None
    if reason is not None:
        raise UnusableFile(f"the media cannot be read: {reason}")
    status = Status(options, sent, Eavesdropper(sent), Observer(sent), Observer(sent))
    with loopback_only(), _unhandled_errors() as errors:
        async with contextlib.AsyncExitStack() as cleanup:
            try:
                await _call(status, [video, audio], display, cleanup)
            except (ConnectionError, TimeoutError) as error:
                errors.append(f"the call did not connect {error}".strip())
        await status.forwarder.finish()
    at_eve = status.counters("eve", "video")
    reached_eve = at_eve.frames_in if at_eve is not None else status.eve.frames
    status.failures = failures(sent, status.forwarder, status.bob, status.eve, reached_eve)
    status.failures = errors + status.failures
    return status


async def _call(
    status: Status, tracks: list[MediaStreamTrack], display: Display, cleanup: contextlib.AsyncExitStack
) -> None:
    options = status.options
    forwarder = Forwarder(loss=options.loss, seed=options.seed, on_packet=status.forwarder.tap)
    cleanup.push_async_callback(forwarder.close)
    status.legs = forwarder.stats

    passphrase = hide(options.passphrase)
    alice = _join("alice", passphrase, status, display)
    cleanup.push_async_callback(alice.close)
    for track in tracks:
        cleanup.callback(track.stop)
        alice.addTrack(track)
    _prefer_codec(alice, options.codec)
    await forwarder.connect_publisher(alice)

    listening: list[asyncio.Future[None]] = []
    cleanup.push_async_callback(_wait_for_tracks, listening)
    listeners = (
        ("bob", hide(options.bob_passphrase or passphrase), status.bob),
        ("eve", hide(options.eve_passphrase or f"not {passphrase.reveal()}"), status.eve),
    )
    for name, theirs, observer in listeners:
        pc = _join(name, theirs, status, display)
        cleanup.push_async_callback(pc.close)
        pc.on("track", lambda track, to=observer: listening.append(asyncio.ensure_future(to.consume(track))))
        await forwarder.connect_subscriber(pc, name)

    loop = asyncio.get_running_loop()
    began = loop.time()
    while status.elapsed < options.seconds:
        display.update(status)
        await asyncio.sleep(DISPLAY_INTERVAL)
        status.elapsed = loop.time() - began
    display.update(status)


def _join(name: str, passphrase: Hidden[str], status: Status, display: Display) -> RTCPeerConnection:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    if status.options.sealed:
        provider = ExternalE2EEKeyProvider()
        provider.set_shared_key(passphrase.reveal())
        e2ee = E2EEManager(provider, profile=status.options.profile)
        status.attachments[name] = attach(pc, e2ee, local_id=name, remote_id="alice")

        @e2ee.on("e2ee-state-change")
        def changed(change: E2EEStateChange) -> None:
            status.states[name, change.kind] = change.state
            display.changed(name, change)

    return pc


def _prefer_codec(pc: RTCPeerConnection, codec: str) -> None:
    capabilities = RTCRtpSender.getCapabilities("video")
    wanted = (f"video/{codec}".lower(), "video/rtx")
    codecs = [c for c in (capabilities.codecs if capabilities else []) if c.mimeType.lower() in wanted]
    if len(codecs) < 2:
        raise ValueError("unknown codec: expected vp8 or h264")
    for transceiver in pc.getTransceivers():
        if transceiver.kind == "video":
            transceiver.setCodecPreferences(codecs)


async def _wait_for_tracks(listening: list[asyncio.Future[None]]) -> None:
    """Whoever attends a track does so until it ends, which is when the connection is closed."""
    await asyncio.gather(*listening)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Let ICE gather 127.0.0.1 and nothing else.

    aioice leaves the loopback address out, so that without a network nobody could connect, and with one the demo would
    open ports to it. There is no setting for this; patched for the time of the demo, for its connections only.
    """
    original = aioice.ice.get_host_addresses
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"] if use_ipv4 else []
    try:
        yield
    finally:
        aioice.ice.get_host_addresses = original


@contextlib.contextmanager
def _unhandled_errors() -> Iterator[list[str]]:
    """Collect what would otherwise only be logged: exceptions of tasks and callbacks that nobody awaits."""
    loop = asyncio.get_running_loop()
    previous = loop.get_exception_handler()
    errors: list[str] = []
    loop.set_exception_handler(
        lambda _, context: errors.append(f"unhandled error: {context.get('exception') or context['message']}")
    )
    try:
        yield errors
    finally:
        loop.set_exception_handler(previous)
