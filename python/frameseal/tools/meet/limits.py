"""Limits on the resources that one address, and all addresses together, may use.

Everybody who reaches the server may join the room. So every limit counts by address and in total, and no limit depends
on the content of a message.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from frameseal._rates import TokenBucket

# Maximum numbers of TCP connections. A browser opens 6, and one more for its web socket. All 8 participants may share
# one address.
MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_OF_ADDRESS: Final = 128

# Seconds until a connection is closed that is idle, or does not complete a request.
IDLE_TIMEOUT: Final = 20.0

# Maximum numbers of web sockets that have not joined the room, and the seconds until they must. The page joins at once.
MAX_WAITING: Final = 64
MAX_WAITING_OF_ADDRESS: Final = 16
JOIN_TIMEOUT: Final = 10.0

# Maximum number of addresses with a token bucket. A discarded address starts with a full bucket again. The limit on
# the total still holds.
MAX_ADDRESSES: Final = 1024


@dataclass(frozen=True)
class Rate:
    """The rate of a token bucket: *burst* events at once, then *each_second* events per second."""

    burst: int
    each_second: float

    def bucket(self) -> TokenBucket:
        """Return a full bucket of this rate."""
        return TokenBucket(self.burst, self.each_second)


# A join makes connections with all members.
JOINS: Final = (Rate(16, 0.5), Rate(32, 2.0))
# All members open each rotation.
ROTATIONS: Final = (Rate(4, 0.5), Rate(8, 2.0))
# Limits for one participant: replaced connections, and messages of any type.
RECONNECTIONS: Final = Rate(4, 0.2)
MESSAGES: Final = Rate(200, 50.0)


class RateLimit:
    """A token bucket for each address, and one for all addresses."""

    def __init__(self, each: Rate, total: Rate) -> None:
        """Make a full bucket for all addresses; each address starts with a full bucket."""
        self._each = each
        self._total = total.bucket()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Consume a token of *address* and a token of the total. Return False if either is missing."""
        bucket = self._buckets.pop(address, None) or self._each.bucket()
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        now = monotonic()
        return bucket.spend(now) and self._total.spend(now)


class ConnectionLimit:
    """Limits the number of open connections by address and in total."""

    def __init__(self, each: int, total: int) -> None:
        """Make a limit of *each* connections per address and *total* connections."""
        self._each, self._total = each, total
        self._open: Counter[str] = Counter()

    def acquire(self, address: str) -> bool:
        """Count a connection of *address*. Return False, and change nothing, at either limit."""
        if self._open.get(address, 0) >= self._each or self._open.total() >= self._total:
            return False
        self._open[address] += 1
        return True

    def release(self, address: str) -> None:
        """Uncount an acquired connection of *address*."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


@dataclass
class Limits:
    """The rate limits of a room: joins and rotations."""

    joins: RateLimit = field(default_factory=lambda: RateLimit(*JOINS))
    rotations: RateLimit = field(default_factory=lambda: RateLimit(*ROTATIONS))
