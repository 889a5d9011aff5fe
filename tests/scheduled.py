"""A scheduler whose clock a test can set, whose fires come every few seconds, and whose command may be a stub.

    python scheduled.py <home> <JSON>

JSON: `schedules` [{name, period (seconds), deadline, grace, retry_after (seconds), vendors, cron}], `command`, and what
the module's LOOK, JUMP and KILL_AFTER shall be; `deceived`: the timer believes that nothing is due for a year. The file
`shift` in the home says by how many seconds the clock is off, the file `passed` how many more seconds have passed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apscheduler.schedulers.base

from pipelines.cli import main as cli
from pipelines.config.schedules import Schedule
from pipelines.scheduling import scheduler
from pipelines.scheduling.state import Clock


@dataclass(frozen=True, kw_only=True)
class Often(Schedule):
    period: float = 1.0
    """Due at all multiples of it."""

    def fires(self, after: datetime, before: datetime) -> Iterator[datetime]:
        number = int(after.timestamp() // self.period) + 1
        while number * self.period <= before.timestamp():
            yield datetime.fromtimestamp(number * self.period, UTC)
            number += 1


def shifted(home: Path) -> type[datetime]:
    """`datetime`, whose `now` is off by what the files `shift` and `passed` say."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            off = timedelta(seconds=seconds(home / "shift") + seconds(home / "passed"))
            return (datetime.now(UTC) + off).astimezone(tz)

    return Shifted


def seconds(file: Path) -> float:
    return float(file.read_text() or 0) if file.exists() else 0.0


def main() -> None:
    home, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    clock = shifted(home)
    apscheduler.schedulers.base.datetime = clock
    for name in ("LOOK", "JUMP", "KILL_AFTER"):
        setattr(scheduler, name, told.get(name, getattr(scheduler, name)))
    if told.get("deceived"):
        scheduler.Fires.get_next_fire_time = lambda self, previous, now: now + timedelta(days=365)
    kinds = []
    for each in told["schedules"]:
        for name in ("deadline", "grace", "retry_after"):
            if name in each:
                each[name] = timedelta(seconds=each[name])
        each["vendors"] = tuple(each.get("vendors", ()))
        kinds.append(Often(cron="* * * * *", **each) if "period" in each else Schedule(**each))
    scheduler.set_up_logging(verbose=False)
    options = {"command": told["command"]} if "command" in told else {}
    options["clock"] = Clock(now=lambda: clock.now(UTC), monotonic=lambda: time.monotonic() + seconds(home / "passed"))
    served = scheduler.serve
    scheduler.serve = lambda place, found, environment: served(place, kinds, **options)
    sys.argv = ["nightload", "schedule", "--home", str(home)]
    cli.main()


if __name__ == "__main__":
    main()
