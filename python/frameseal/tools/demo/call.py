"""The call: Alice publishes through a forwarder without a key, Bob has the key, Eve has a wrong key.

Read `_join`: an application needs three lines per participant to encrypt its media.
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
from frameseal.e2ee.manager import E2EEManager
from frameseal.enums import E2EEState
from frameseal.events import E2EEStateChange
from frameseal.keys.provider import ExternalE2EEKeyProvider
from frameseal.tools.demo.observer import Eavesdropper, Observer
from frameseal.tools.demo.published import SentMedia, published_tracks
from frameseal.tools.demo.verdict import failures, missing_evidence
from frameseal.tools.sfu import Forwarder, LegStats

DISPLAY_INTERVAL = 0.1  # seconds
# A busy machine sends a few frames a second. The call then continues until it can be judged, but no longer than this.
MAX_EXTENSION = 30.0  # seconds


@dataclass(frozen=True, repr=False)
class CallOptions(Confidential):
    """The options of a call.

    :param profile: a value of `Profile` that accepts passphrases: not "jitsi", "nextcloud" or "stream".
    :param codec: the video codec, "vp8" or "h264".
    :param seconds: the duration after everybody has connected. The call lasts up to 30 s longer while too few frames
        have passed to judge it.
    :param passphrase: the passphrase of Alice and Bob, held `Hidden`. The default is a random one.
    :param media: the path of a media file; None publishes a clock and a tone.
    :param loss: the probability of loss per packet and leg, 0 to 1 exclusive.
    :param seed: the seed of the losses.
    :param record: the archive into which the forwarder records what it forwards, as for
        `frameseal.archive.ArchiveWriter`. None records nothing.
    """

    profile: str = "videosdk"
    codec: str = "vp8"
    seconds: float = 8.0
    passphrase: str | Hidden[str] = field(default_factory=lambda: secrets.token_urlsafe(24))
    media: Path | None = None
    loss: float = 0.0
    seed: int = 1
    record: str | None = None
    # Tests change each of these, and expect another verdict.
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
    """The current state of the call, for the display."""

    options: CallOptions
    sent: SentMedia
    forwarder: Eavesdropper
    bob: Observer
    eve: Observer
    legs: dict[str, LegStats] = field(default_factory=dict)
    attachments: dict[str, Attachment] = field(default_factory=dict)
    states: dict[tuple[str, str], E2EEState] = field(default_factory=dict)  # by participant and kind
    elapsed: float = 0.0  # seconds since all participants have connected
    sent_before: int = 0  # number of video frames that Alice had sent until then
    recording: Recorded | None = None
    failures: list[str] = field(default_factory=list)

    def counters(self, name: str, kind: str) -> TrackCounters | None:
        """Return the counters of a participant's track of this kind, or None if there is no track yet."""
        attachment = self.attachments.get(name)
        tracks = attachment.counters if attachment is not None else []
        return next((counters for counters in tracks if counters.kind == kind), None)

    @property
    def reached_eve(self) -> int:
        """The number of video frames that reached Eve."""
        counters = self.counters("eve", "video")
        return counters.frames_in if counters is not None else self.eve.frames

    @property
    def is_over(self) -> bool:
        """True after the duration, as soon as the call can be judged, and in any case after the extension."""
        if self.elapsed < self.options.seconds:
            return False
        missing = missing_evidence(self.sent, self.forwarder, self.reached_eve)
        return not missing or self.elapsed >= self.options.seconds + MAX_EXTENSION


@dataclass(frozen=True)
class Recorded:
    """The forwarder's recording, after the call."""

    id: str
    frames: int
    incomplete: str | None
    """The reason why the archive is incomplete, or None if it is complete."""


class UnusableFile(Exception):
    """A file in the options cannot be used. The message names the file's purpose and the reason."""


class Display(Protocol):
    """Displays a running call."""

    def update(self, status: Status) -> None:
        """Display the state of the call. Called every 0.1 s."""

    def changed(self, who: str, change: E2EEStateChange) -> None:
        """Display the changed state of a participant's track."""


async def run_call(options: CallOptions, display: Display) -> Status:
    """Run the call and return its final state. `Status.failures` is empty if the call was as it must be.

    :raises UnusableFile: `options.media` is not a media file, or the archive cannot be written.
    :raises ValueError: the profile or the codec is unknown.
    """
    try:
        sent, video, audio = published_tracks(options.media)
    except av.FFmpegError as error:
        reason = error.strerror  # not the error, which quotes the path
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
    status.failures = errors + failures(
        sent,
        status.forwarder,
        status.bob,
        status.eve,
        eve_was_sent=status.reached_eve,
        sent_before=status.sent_before,
    )
    if status.recording is not None and (status.recording.incomplete or not status.recording.frames):
        status.failures.append(f"the recording failed: {status.recording.incomplete or 'it has no frames'}")
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

    if options.record is not None:
        await _record(status, options.record, forwarder, cleanup)

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
    began, status.sent_before = loop.time(), len(status.sent.thumbnails)
    while not status.is_over:
        display.update(status)
        await asyncio.sleep(DISPLAY_INTERVAL)
        status.elapsed = loop.time() - began
    display.update(status)


async def _record(status: Status, location: str, forwarder: Forwarder, cleanup: contextlib.AsyncExitStack) -> None:
    """Record what the forwarder forwards. It has no key, and so the recording needs none."""
    # Imported here, since archives are an extra.
    from frameseal.tools.recording.keyless import CannotRecord, KeylessRecording, fresh_id  # noqa: PLC0415

    recording, recording_id = KeylessRecording(status.options.profile), fresh_id("demo")
    try:
        await recording.start(location, recording_id)
    except CannotRecord as error:
        raise UnusableFile(str(error)) from None

    async def finish() -> None:
        incomplete = await recording.close()
        status.recording = Recorded(recording_id, recording.tally.frames, incomplete)

    cleanup.push_async_callback(finish)
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    cleanup.push_async_callback(pc.close)
    recording.attach(pc, "alice")
    await forwarder.connect_subscriber(pc, "recorder")


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
        raise ValueError("codec must be vp8 or h264")
    for transceiver in pc.getTransceivers():
        if transceiver.kind == "video":
            transceiver.setCodecPreferences(codecs)


async def _wait_for_tracks(listening: list[asyncio.Future[None]]) -> None:
    """Wait until all observers have finished: their tracks end when the connections are closed."""
    await asyncio.gather(*listening)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Make ICE gather 127.0.0.1 alone.

    aioice omits the loopback address. So nobody could connect without a network, and with a network the demo would open
    ports to it. aioice has no setting for this, and is patched during the demo.
    """
    original = aioice.ice.get_host_addresses
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"] if use_ipv4 else []
    try:
        yield
    finally:
        aioice.ice.get_host_addresses = original


@contextlib.contextmanager
def _unhandled_errors() -> Iterator[list[str]]:
    """Collect exceptions of tasks and callbacks that nobody awaits. By default asyncio only logs them."""
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
