"""What is tried again, and after which pause."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from sources.core import cancellation
from sources.core.errors import NightloadError, Unavailable, VendorError, one_line
from sources.http.cassette import player_of
from sources.http.error_mapping import Failure
from sources.http.rate_limit import Limiter
from sources.http.request import Call

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
TRIES = 5
LONGEST_PAUSE = 120.0
_BACKOFF_BASE, _BACKOFF_CAP = 0.5, 30.0
_dice = random.SystemRandom()


class Retries:
    """One vendor's retries, from one budget; a pause that the vendor asks for holds a whole rate group."""

    def __init__(self, *, budget: int, limiters: Mapping[str, Limiter], sleep: Callable[[float], None]) -> None:
        self.spent = 0
        self._budget, self._limiters, self._sleep = budget, limiters, sleep
        self._lock = threading.Lock()

    def run(self, call: Call, attempt: Callable[[], Result | Failure]) -> Result:
        repeated = False
        for tries in itertools.count(1):
            outcome = attempt()
            if isinstance(outcome, Failure):
                cancellation.check()  # then it is no failure of the vendor
            # Errors are raised out here, not where they are met: they must not carry httpx's as their context.
            if not isinstance(outcome, Failure):
                return outcome
            error, pause = outcome.error, outcome.pause
            if outcome.again and pause is not None and pause > LONGEST_PAUSE:
                what = f"the vendor asks for a pause of {pause:.0f} s"
                raise _gave_up(call, error, what=what, todo="Come back later", retry_after=pause) from None
            may = outcome.unsent or (call.retry and outcome.again)
            if not may or tries == TRIES or (outcome.once and repeated):
                if tries > 1:
                    error.why = f"{error.why} (tried {tries} times)".lstrip()
                raise error from None
            repeated = repeated or outcome.once
            if not self._spend():
                what, todo = (
                    f"the budget of {self.spent} retries is spent",
                    "Look at the vendor's state, and run again",
                )
                raise _gave_up(call, error, what=what, todo=todo) from None
            self._pause(call, error, tries=tries, asked=pause)
        raise AssertionError("unreachable")

    def _pause(self, call: Call, error: NightloadError, *, tries: int, asked: float | None) -> None:
        backoff = _dice.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (tries - 1)))
        wait = max(backoff, asked or 0.0)
        if player_of(call.vendor) is not None:
            return
        level, path = logging.INFO if tries == 1 else logging.WARNING, one_line(call.url.path)
        logger.log(level, "%s %s %s: %s; again in %.1f s", call.vendor, call.method, path, error.what, wait)
        if asked:
            # Meant for the whole group: its other threads wait as well, and the next `take` does the sleeping.
            self._limiters[call.group].hold(wait)
        else:
            self._sleep(wait)

    def _spend(self) -> bool:
        with self._lock:
            if self.spent >= self._budget:
                return False
            self.spent += 1
            return True


def _gave_up(
    call: Call, last: NightloadError, *, what: str, todo: str, retry_after: float | None = None
) -> Unavailable:
    why = f"{last.what}: {last.why}" if last.why else last.what
    error = Unavailable(what=what, where=call.where, why=why, todo=todo, retry_after=retry_after)
    if isinstance(last, VendorError):
        error.status, error.message = last.status, last.message
    return error
