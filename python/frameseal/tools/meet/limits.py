"""What one visitor of the meeting may cost it, and all of them together.

Whoever reaches the server may come into the room, so everything here is counted by address and in total. Nothing of it
depends on what a visitor says.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

# TCP connections. A browser opens 6 and one for its web socket; all 8 participants may share an address.
MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_OF_ADDRESS: Final = 128

# Seconds until an idle connection is closed, or one that never finishes a request.
IDLE_TIMEOUT: Final = 20.0

# Web sockets that have not joined the room, and the seconds that they have for it. The page joins at once.
MAX_WAITING: Final = 64
MAX_WAITING_OF_ADDRESS: Final = 16
JOIN_TIMEOUT: Final = 10.0

# Addresses that are remembered, the latest ones. One that is forgotten starts afresh; the total still holds.
MAX_ADDRESSES: Final = 1024


@dataclass(frozen=True)
class Rate:
    """So many at once, then so many a second."""

    burst: int
    each_second: float


# Each joining makes connections with everybody who is there.
JOINS: Final = (Rate(16, 0.5), Rate(32, 2.0))
# Each rotation is opened by everybody.
ROTATIONS: Final = (Rate(4, 0.5), Rate(8, 2.0))
# Of one participant: connections made anew, and messages of any kind.
RECONNECTIONS: Final = Rate(4, 0.2)
MESSAGES: Final = Rate(200, 50.0)


class TokenBucket:
    """Allows a burst, and then so many a second."""

    def __init__(self, rate: Rate) -> None:
        """Start full."""
        self._rate = rate
        self._tokens = float(rate.burst)
        self._refilled = monotonic()

    def consume(self) -> bool:
        """Take a token, if there is one."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def borrow(self) -> float:
        """Take a token that may be lent, and return the seconds until it is there."""
        self._refill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate.each_second)

    def _refill(self) -> None:
        now = monotonic()
        grown = self._tokens + (now - self._refilled) * self._rate.each_second
        self._tokens, self._refilled = min(self._rate.burst, grown), now


class RateLimit:
    """A token bucket for each address, and one for all addresses."""

    def __init__(self, each: Rate, total: Rate) -> None:
        """Start with all buckets full."""
        self._each = each
        self._total = TokenBucket(total)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Take a token of this address and one of all, if both are there."""
        bucket = self._buckets.pop(address, None) or TokenBucket(self._each)
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.consume() and self._total.consume()


class ConnectionLimit:
    """Counts what is there at once, by address and in total."""

    def __init__(self, each: int, total: int) -> None:
        """Start with all places free."""
        self._each, self._total = each, total
        self._open: Counter[str] = Counter()

    def acquire(self, address: str) -> bool:
        """Take a place, if one is free."""
        if self._open.get(address, 0) >= self._each or self._open.total() >= self._total:
            return False
        self._open[address] += 1
        return True

    def release(self, address: str) -> None:
        """Free a place that was taken."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


@dataclass
class Limits:
    """How often the room may be joined, and its key rotated."""

    joins: RateLimit = field(default_factory=lambda: RateLimit(*JOINS))
    rotations: RateLimit = field(default_factory=lambda: RateLimit(*ROTATIONS))
