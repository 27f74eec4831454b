"""A meeting over a bad line: one publisher, any number of guests who come and go, keys that rotate all the while."""

import asyncio
import secrets
from itertools import pairwise

import numpy as np

from frameseal import E2EEManager, KeyProvider, KeyRotator
from frameseal.aiortc import attach
from frameseal.tools.sfu import Forwarder
from frameseal.tools.sfu.leg import HISTORY_SIZE
from soak.ledger import Ledger
from support.calls import Peer, Sink, hang_up, picture_track, tone, tone_track, until
from support.recording import noted

STACK = "aiortc"
LOSS, REORDER = 0.05, 0.02
PERIOD, DELAY, OVERLAP = 3.0, 0.4, 2.0  # seconds: of one key, until it is used, that the one before it still opens
KEY_IDS, KEYS_KEPT = 32, 24  # who receives keeps many: what a stalled jitter buffer lets go of may be as old
WINDOW = 0.1  # seconds of sound that are judged at a time
SIZE = (160, 120)  # small, since what is soaked is not the codec
LOOK_EVERY = 0.5  # seconds between two looks at what a guest has got; a look costs some milliseconds
PATIENCE = 60  # seconds: how long a call may take to come about before it counts as broken


def keys() -> KeyProvider:
    """A provider without keys."""
    return KeyProvider(failure_tolerance=10, key_ring_size=KEY_IDS)


class Guest:
    """Somebody who came to hear and see the publisher."""

    def __init__(self, name: str, e2ee: E2EEManager, publisher: str) -> None:
        self.name, self.keys = name, e2ee.provider
        self.peer = Peer(STACK)
        self.attachment = attach(self.peer.pc, e2ee, local_id=name, remote_id=publisher)

    def sink(self, kind: str) -> Sink:
        return next(sink for sink in self.peer.sinks.values() if sink.track.kind == kind)

    def dead_decoders(self) -> list[str]:
        """The kinds of those receivers whose decoder thread is not alive."""
        threads = {r.track.kind: r._RTCRtpReceiver__decoder_thread for r in self.peer.pc.getReceivers()}
        return [kind for kind in ("audio", "video") if not threads[kind].is_alive()]

    def frames(self, counter: str) -> dict[str, int]:
        return {str(c.kind): getattr(c, counter) for c in self.attachment.counters if c.direction == "receive"}


class Meeting:
    """`start` before anything else, `end` at last, whatever has happened."""

    def __init__(
        self, ledger: Ledger, publisher: str, *, profile: str, codec: str, colour: str, hertz: int, seed: int
    ) -> None:
        self.ledger, self.publisher, self.profile, self.codec = ledger, publisher, profile, codec
        self.colour, self.hertz = colour, hertz
        self.guests: list[Guest] = []
        self.rotations = 0
        self._lost = 0  # on legs that are closed
        self.forwarder = Forwarder(loss=LOSS, reorder=REORDER, seed=seed)
        self._keys: dict[int, bytes] = {}
        self._receiving: list[KeyProvider] = []
        self._provider = keys()
        self._rotator = KeyRotator(
            self._provider, self._hand_out, participant_id=publisher, delay=DELAY, overlap=OVERLAP, every=PERIOD
        )

    async def start(self) -> None:
        # As many as there are later on, as if it had gone on for a while; or guests would have more and more at first.
        self._keys = {-age % KEY_IDS: secrets.token_bytes(32) for age in range(KEYS_KEPT)}
        self._provider.set_key(self.publisher, self._keys[0], 0)
        e2ee = noted(E2EEManager(self._provider, self.profile), self.ledger.sealed, self.ledger.opened)
        self._peer = Peer(STACK)
        attach(self._peer.pc, e2ee, local_id=self.publisher, remote_id="nobody")
        self._peer.send(picture_track(STACK, self.colour, SIZE), self.codec)
        self._peer.send(tone_track(STACK, self.hertz), "opus")
        await self.forwarder.connect_publisher(self._peer.pc)
        await self._rotator.__aenter__()

    async def end(self) -> None:
        await self._rotator.__aexit__(None, None, None)
        for guest in list(self.guests):
            await self.leave(guest)
        await hang_up(self._peer)
        self.ledger.stopped(len(self._peer.pc.getSenders()))
        await self.forwarder.close()

    async def join(self, name: str, e2ee: E2EEManager) -> Guest:
        """A guest who has the key, and gets every one that is to come."""
        guest = Guest(name, e2ee, self.publisher)
        for key_id, key in self._keys.items():
            guest.keys.set_key(self.publisher, key, key_id)
        self._receiving.append(guest.keys)
        return await self._join(guest)

    async def intrude(self, name: str) -> Guest:
        """Somebody with another key under every key id."""
        provider = keys()
        for key_id in range(KEY_IDS):
            provider.set_key(self.publisher, secrets.token_bytes(32), key_id)
        e2ee = noted(E2EEManager(provider, self.profile), self.ledger.sealed, self.ledger.overheard)
        return await self._join(Guest(name, e2ee, self.publisher))

    async def _join(self, guest: Guest) -> Guest:
        await self.forwarder.connect_subscriber(guest.peer.pc, guest.name)
        self.guests.append(guest)
        return guest

    async def leave(self, guest: Guest) -> None:
        """Hang up, and get no key any more."""
        self.guests.remove(guest)
        dead = guest.dead_decoders()
        self._lost += self.forwarder.stats[guest.name].lost
        await hang_up(guest.peer)
        await self.forwarder.disconnect_subscriber(guest.name)
        self._receiving = [provider for provider in self._receiving if provider is not guest.keys]
        assert not dead, f"decoder threads of {guest.name} were dead before the call ended: {dead}"

    @property
    def lost(self) -> int:
        """How many packets the lines have lost."""
        return self._lost + sum(leg.lost for leg in self.forwarder.stats.values())

    def is_settled(self, name: str) -> bool:
        """Whether the forwarder keeps as many packets for a guest as it ever will."""
        return all(len(outlet.history) == HISTORY_SIZE for outlet in self.forwarder._legs[name].outlets.values())

    def rotate_soon(self) -> None:
        self._rotator.participant_left()

    async def _hand_out(self, key: bytes, key_id: int) -> None:
        worn = (key_id - KEYS_KEPT) % KEY_IDS
        self._keys[key_id] = key
        self._keys.pop(worn, None)
        for provider in self._receiving:
            provider.set_key(self.publisher, key, key_id)
            provider.remove(self.publisher, worn)
        self.rotations += 1

    # --- what guests see and hear ------------------------------------------------------------------------------------

    async def followed_by(self, guest: Guest) -> None:
        """Wait until the guest has seen and heard enough of this publisher, from now on; judge it."""
        video, audio = guest.sink("video"), guest.sink("audio")
        video.clear()
        audio.clear()
        # First what costs nothing to ask.
        await until(lambda: len(video.pictures) >= 20 and audio.seconds >= 0.5, PATIENCE)
        for _ in range(int(PATIENCE / LOOK_EVERY)):
            if len(self.seen(video)) >= 20 and self.heard(audio) >= 0.5:
                break
            await asyncio.sleep(LOOK_EVERY)
        else:
            raise AssertionError(f"{guest.name} waited in vain")
        numbers = self.seen(video)
        # One that a decoder has patched up after a loss can read as any number: one in 16 passes its checksum.
        back = sum(later < earlier for earlier, later in pairwise(numbers))
        assert back <= len(numbers) // 10, f"{guest.name} saw pictures out of order: {numbers}"
        readable = [picture for picture in video.pictures if picture.number is not None]
        assert len(numbers) > 0.5 * len(readable), f"{guest.name} saw pictures that are not {self.colour}"

    def seen(self, video: Sink) -> list[int]:
        return [picture.number for picture in video.pictures if picture.number is not None and self._is_ours(picture)]

    def _is_ours(self, picture) -> bool:
        return picture.colour == self.colour

    def heard(self, audio: Sink) -> float:
        """Seconds of the publisher's tone. Lost packets leave gaps, so it is judged piece by piece."""
        if not audio.samples:
            return 0.0
        sound = np.concatenate(audio.samples).astype(float)
        size = int(WINDOW * audio.rate)
        pieces = [tone(piece, audio.rate) for piece in np.split(sound, range(size, len(sound), size))[:-1]]
        return WINDOW * sum(abs(hertz - self.hertz) < 15 and purity > 0.9 for hertz, purity, _ in pieces)
