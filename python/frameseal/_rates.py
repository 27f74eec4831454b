"""Rate limits. The caller passes the time, so nothing here reads a clock."""

import math
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class TokenBucket:
    """Limits events to a burst of *capacity*, and after it to a rate of *per_second*. For one thread at a time."""

    capacity: int
    per_second: float
    _tokens: float = math.inf  # the first refill reduces it to the capacity
    _refilled: float = 0.0

    def spend(self, now: float) -> bool:
        """Spend a token. Return False, and spend nothing, if there is none.

        :param now: seconds, from a monotonic clock.
        """
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def borrow(self, now: float) -> float:
        """Spend a token, even if there is none. Return the seconds until it exists.

        :param now: seconds, from a monotonic clock.
        """
        self._refill(now)
        self._tokens -= 1
        return max(0.0, -self._tokens / self.per_second)

    def _refill(self, now: float) -> None:
        grown = self._tokens + (now - self._refilled) * self.per_second
        self._tokens, self._refilled = min(self.capacity, grown), now
