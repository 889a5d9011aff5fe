"""At most so many requests at once and a second: every caller waits for a moment of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sources.core import cancellation


@dataclass(frozen=True)
class Rate:
    """At most `burst` requests at once and `per_second` (may be a fraction) in the long run."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if not self.per_second > 0 or self.burst < 1:
            raise ValueError(f"a rate needs per_second > 0 and burst >= 1, not {self}")


class Limiter:
    """A token bucket as reservations: each caller gets a moment of its own and sleeps once, outside the lock."""

    def __init__(
        self,
        rate: Rate | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = cancellation.sleep,
    ) -> None:
        self._interval = 1 / rate.per_second if rate else 0.0
        self._tolerance = self._interval * (rate.burst - 1) if rate else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = self._held = -math.inf

    def take(self) -> None:
        """Return when the caller may send."""
        with self._lock:
            now = self._clock()
            start = max(now, self._held, self._next - self._tolerance)
            self._next = max(self._next, start) + self._interval
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Nobody gets a moment before `seconds` from now."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)
