"""How a night goes about its vendors: how many at once, when it shows what is proven, what it tries again, how long.

`[nightload]` of `.dlt/config.toml`: `side_by_side`, `publish`, `pauses`, `until`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.config.project import OWN_DATASET
from pipelines.config.schedules import parse_period
from pipelines.config.sections import SECTIONS, section, text
from sources import VENDORS
from sources.core.errors import ConfigurationError, Recovery

PASSING = (Recovery.RETRY, Recovery.WAIT)
"""What may be well by itself in a while."""


class Publish(StrEnum):
    """When readers see what was loaded and proven.

    By vendor, since that is what a night promises of its vendors: each is whole by itself, none waits for another, and
    a night that is killed late has lost nothing of those that were done. All of the night at once is for those who
    compare vendors with each other and would rather have all of yesterday than some of today; a night that is killed
    has then loaded nothing, and a Postgres has one transaction open from the first load to the last.
    """

    VENDOR = "vendor"
    NIGHT = "night"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """`pauses` are those before the second try, the third and so on; the last one is that before all further ones.

    Without `until` nothing is tried again: somebody looks on, and can decide.
    """

    side_by_side: int = len(VENDORS)
    publish: Publish = Publish.VENDOR
    pauses: tuple[timedelta, ...] = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=30))
    until: datetime | None = None

    def again_at(self, tries: int, *, now: datetime) -> datetime | None:
        """When to try again what was tried so often; None: not any more."""
        moment = now + self.pauses[min(tries, len(self.pauses)) - 1]
        return moment if self.until is not None and moment < self.until else None


def read_pace(home: Path, *, until: datetime | None = None) -> Pace:
    """What `[nightload]` says; `until` is stronger than its. Raises `ConfigurationError`."""
    told = section(home, OWN_DATASET, known=SECTIONS[OWN_DATASET])
    text(told, "warehouse", where=OWN_DATASET)
    found: dict[str, Any] = {}
    if "side_by_side" in told:
        found["side_by_side"] = _count(told["side_by_side"])
    if "publish" in told:
        if told["publish"] not in list(Publish):
            raise _wrong("publish", "it is neither of the two", 'Write "vendor" or "night"')
        found["publish"] = Publish(told["publish"])
    if "pauses" in told:
        found["pauses"] = _pauses(told["pauses"])
    if until is None and "until" in told:
        until = parse_until(told["until"], setting=f"{OWN_DATASET}.until")
    return Pace(**found, until=until)


def parse_until(value: Any, *, setting: str, now: datetime | None = None) -> datetime:
    """`06:30` is the next one on this machine's clock, `2h` so long from now. Raises `ConfigurationError`."""
    now = now or datetime.now(UTC)
    if isinstance(value, str) and (clock := re.fullmatch(r"\s*([01]?\d|2[0-3]):([0-5]\d)\s*", value)):
        local = now.astimezone()
        at = time(int(clock[1]), int(clock[2]))
        # without a zone, then with the zone of that moment: the clock may be changed in between
        days = (datetime.combine(local.date() + timedelta(days=day), at).astimezone() for day in (0, 1))
        return next(moment for moment in days if moment > now).astimezone(UTC)
    try:
        return now + parse_period(value)
    except ValueError as error:
        raise ConfigurationError(
            what=f"{setting} cannot be read", why=str(error), todo='Write a time such as "06:30", or a period as "2h"'
        ) from None


def _count(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise _wrong("side_by_side", f"{value!r} is no number of vendors", "Write 1 for one after the other, or more")


def _pauses(value: Any) -> tuple[timedelta, ...]:
    todo = 'Write a list such as ["5m", "15m", "30m"]'
    if not isinstance(value, list) or not value:
        raise _wrong("pauses", "it is no list of periods", todo)
    try:
        return tuple(map(parse_period, value))
    except ValueError as error:
        raise _wrong("pauses", str(error), todo) from None


def _wrong(setting: str, why: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=f"{OWN_DATASET}.{setting} cannot be used", why=why, todo=todo)
