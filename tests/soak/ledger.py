"""Every frame that was made, sealed or opened in this process, held against every RTP payload that left a transport."""

import threading
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from support.calls import Tap
from support.recording import without_sei
from support.wire import WINDOW, beyond_clear_bytes, leaks

# Sealed frames that are remembered beyond the round they were sealed in, because a bad line holds up what is on its
# way: a jitter buffer has room for 512 packets. Always as many, so that the ledger itself does not come and go.
KEPT = 4096


@dataclass(frozen=True)
class Audit:
    """What one round's books say."""

    made: Counter[str]  # frames, by codec
    sealed: int
    opened: int
    payloads: int
    secret_bytes: int
    faults: list[str]


class Ledger:
    """Filled from encoder threads, decoder threads and the event loop; audited between rounds. Memory is bounded.

    Every frame of an encoder has to pass a seal, nothing of it beyond the profile's clear bytes may be in any payload,
    what arrives whole has to be opened to what it was by those who have the key, and by nobody else; and nothing that
    nobody sealed may open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: list[bytes] = []
        self._made_by: Counter[str] = Counter()
        self._overdue: list[bytes] = []  # made, and not seen to be sealed when the last round's books were closed
        self._stopped = self._overdue_stopped = 0  # senders that stopped, since the last round's end and in the last
        self._sealed: dict[bytes, bytes] = {}  # sealed -> frame, the latest last
        self._withheld: set[bytes] = set()
        self._left: set[bytes] = set()  # a forwarder's payloads are the publisher's: a set has them once
        self._counts: Counter[str] = Counter()
        self._faults: list[str] = []

    # --- what is told ------------------------------------------------------------------------------------------------

    def made(self, codec: str, frames: list[bytes]) -> None:
        """An encoder made these whole frames."""
        with self._lock:
            self._made += frames
            self._made_by[codec] += len(frames)

    def sealed(self, frame: bytes, sealed: bytes | None) -> None:
        with self._lock:
            self._counts["sealed"] += sealed is not None
            if sealed:
                self._sealed[sealed] = frame
            else:
                self._withheld.add(frame)

    def stopped(self, senders: int) -> None:
        """These senders have stopped. Each may have been at a frame, which is then neither sealed nor sent."""
        with self._lock:
            self._stopped += senders

    def left(self, payload: bytes) -> None:
        """A transport was given this RTP payload to send."""
        with self._lock:
            self._left.add(payload)

    def opened(self, sealed: bytes, frame: bytes | None) -> None:
        """Somebody who has the key tried to open a frame."""
        with self._lock:
            whole = self._sealed.get(sealed)
            if whole is not None and (frame == whole or frame == without_sei(whole)):
                self._counts["opened"] += 1
            elif whole is not None:
                self._faults.append(f"a frame of {len(whole)} bytes arrived whole and was not opened to what it was")
            elif frame is not None:
                self._faults.append(f"{len(frame)} bytes were opened that nobody sealed")

    def overheard(self, sealed: bytes, frame: bytes | None) -> None:
        """Somebody who does not have the key tried to open a frame."""
        with self._lock:
            if frame is not None:
                self._faults.append(f"{len(frame)} bytes were opened without the key")

    def held(self) -> list[bytes]:
        """Everything that is in the books now."""
        with self._lock:
            return [*self._sealed, *self._sealed.values(), *self._made, *self._left, *self._withheld]

    # --- what it comes to --------------------------------------------------------------------------------------------

    def close_round(self, last: bool = False) -> Audit:
        """Audit what was told since the last time. *last*: nothing is on its way any more, to a seal or elsewhere."""
        with self._lock:
            left, self._left = self._left, set()
            made, self._made = self._made, []
            made_by, self._made_by = self._made_by, Counter()
            withheld, self._withheld = self._withheld, set()
            stopped, self._stopped = self._stopped, 0
            counts, self._counts = self._counts, Counter()
            faults, self._faults = self._faults, []
            sealed = dict(self._sealed)
            self._sealed = dict(islice(sealed.items(), max(0, len(sealed) - KEPT), None))
        known = withheld.union(sealed.values())
        # A frame that an encoder has just made may not have reached its seal yet; it has by the next time.
        unsealed = [frame for frame in made if frame not in known]
        bypassed = [frame for frame in self._overdue if frame not in known] + (unsealed if last else [])
        cut_short = self._overdue_stopped + (stopped if last else 0)
        self._overdue, self._overdue_stopped = unsealed, stopped
        if len(bypassed) > cut_short:
            faults.append(f"{len(bypassed)} frames of an encoder never came to a seal, and {cut_short} senders stopped")
        # Those of the round before too: a packet may be sent again after the round that it was made in.
        secret = [beyond_clear_bytes(frame, wire) for wire, frame in sealed.items()] + bypassed
        # Encoders that are set up alike make the same parameter sets, and one profile shows what another hides.
        shown = [frame[: len(frame) - len(rest)] for frame, rest in zip(sealed.values(), secret, strict=False)]
        found = leaks(secret, left, shown)
        if found:
            faults.append(f"{found} runs of {WINDOW} bytes of plaintext are on the wire")
        return Audit(made_by, counts["sealed"], counts["opened"], len(left), sum(map(len, secret)), faults)


class LedgerTap(Tap):
    """A tap that writes everything into a ledger and keeps nothing itself."""

    def __init__(self, stack: str, ledger: Ledger) -> None:
        super().__init__(stack)
        self._ledger = ledger

    def keep(self, packet) -> None:
        self._ledger.left(packet.payload)

    def keep_made(self, codec: str, frames: list[bytes]) -> None:
        self._ledger.made(codec, frames)
