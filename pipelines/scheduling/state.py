"""What is due now, what was missed, and what was begun: the memory of a scheduler.

It stands in `schedule.json` beside the ledger, so that a scheduler which was killed knows at its next start which
nights it owes. Every instant of a schedule is dealt with once, whatever the clock does: it is run, or it is missed
and said so.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipelines.config.schedules import Schedule

log = logging.getLogger(__name__)

MISSED_KEPT = 1000
"""So many missed nights are told one by one, the newest."""


@dataclass(frozen=True)
class Clock:
    """The two clocks: the wall's, which may jump, and the one that only goes on."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Due:
    """One run that shall be now."""

    schedule: Schedule
    at: datetime
    left: int | None = None
    """The process that a former scheduler had started for it and did not see the end of."""


@dataclass
class _Mark:
    """How far a schedule has come: every instant up to `at` is dealt with, but for `at` itself if it is not done."""

    at: datetime
    done: bool = True
    pid: int | None = None
    """The process that was begun for it."""
    since: float | None = None
    """When it fell due, on the clock that only goes on; None: before this process."""
    said: str | None = None
    """What the schedule said then; None: nobody wrote it down."""


class Book(Protocol):
    """The ledger, as the rota needs it (`pipelines.scheduling.run_history`)."""

    def missed(self, schedule: Schedule, instants: Sequence[datetime], why: str) -> None: ...

    def began(self, pid: int, since: datetime) -> bool: ...

    def last_run(self, schedule: Schedule) -> datetime | None: ...


class Rota:
    """All schedules of one scheduler.

    What is missed is told to the book before it is marked as dealt with: killed in between, it is told again.
    """

    def __init__(self, schedules: Iterable[Schedule], file: Path, clock: Clock, book: Book) -> None:
        self._schedules = {schedule.name: schedule for schedule in schedules}
        self._file = file
        self._clock = clock
        self._book = book
        self._marks: dict[str, _Mark] = {}
        self._unwritten = False

    def start(self) -> list[Due]:
        """What was not done while no scheduler ran: of each schedule the newest, the others missed.

        A schedule that is not remembered is taken up where its vendors were run last; if they never were, it owes
        nothing yet. One that was edited has missed nothing of what it says since, but its newest is due.
        """
        remembered, now = self._read(), self._clock.now()
        found = []
        for name, schedule in self._schedules.items():
            mark = remembered.get(name) or _Mark(at=self._book.last_run(schedule) or now)
            if mark.at > now and not self._the_same_night(schedule, mark, now):
                mark = _Mark(at=now)
            self._marks[name] = mark
            edited = mark.said not in (None, _said(schedule))
            if due := self._next(schedule, mark, "no scheduler was there", only_newest=edited):
                found.append(due)
            elif not mark.done:
                found.append(Due(schedule=schedule, at=mark.at, left=mark.pid))
        self._write()
        return found

    def take(self, name: str) -> Due | None:
        """What is due of one schedule, if anything is; a night that waits already and has not begun goes into it."""
        due = self._next(self._schedules[name], self._marks[name], "the clock had gone on, or the machine had slept")
        if due is not None or self._unwritten:
            self._write()
        return due

    def _next(self, schedule: Schedule, mark: _Mark, why: str, *, only_newest: bool = False) -> Due | None:
        slots = list(deque(schedule.fires(mark.at, self._clock.now()), maxlen=1 if only_newest else MISSED_KEPT))
        if not slots:
            return None
        if not mark.done and (mark.pid is None or (mark.since is None and not self._book.began(mark.pid, mark.at))):
            self._book.missed(schedule, [mark.at], "it had not begun when the next one was due")
        if slots[:-1]:
            self._book.missed(schedule, slots[:-1], why)
        left = mark.pid if mark.since is None and not mark.done else None
        self._marks[schedule.name] = _Mark(at=slots[-1], done=False, since=self._clock.monotonic())
        return Due(schedule=schedule, at=slots[-1], left=left)

    def note(self, due: Due, *, done: bool, pid: int | None = None) -> None:
        """Remember how far a run has come, unless the next one is already due."""
        mark = self._marks[due.schedule.name]
        if mark.at == due.at:
            mark.done, mark.pid = done, pid
            self._write()

    def clock_went_back(self) -> None:
        """Let what was dealt with ahead of the clock come again, but for a night that was only just done."""
        now = self._clock.now()
        for name, mark in self._marks.items():
            if mark.at > now and not self._the_same_night(self._schedules[name], mark, now):
                self._marks[name] = _Mark(at=now, done=mark.done, pid=mark.pid)
        self._write()

    def _the_same_night(self, schedule: Schedule, mark: _Mark, now: datetime) -> bool:
        """Is `mark`, which lies ahead of the clock, a fire that would only come twice if it came again?

        It is if the clock was put back by less than the schedule's period, soon after the fire. Else the clock
        had been wrong for longer, and a night is rather run twice than not at all.
        """
        period = (schedule.next_fire(mark.at) - mark.at).total_seconds()
        ago = 0.0 if mark.since is None else self._clock.monotonic() - mark.since
        return (mark.at - now).total_seconds() < period and ago < period / 2

    def _read(self) -> dict[str, _Mark]:
        try:
            told: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            return {
                name: _Mark(
                    at=datetime.fromisoformat(mark["due_at"]),
                    done=bool(mark["done"]),
                    pid=mark["pid"],
                    said=mark.get("said"),
                )
                for name, mark in told.items()
                if name in self._schedules
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s cannot be read, so the ledger says what was missed: %s", self._file, type(error).__name__)
            return {}

    def _write(self) -> None:
        told = {
            name: {
                "due_at": mark.at.astimezone(UTC).isoformat(),
                "done": mark.done,
                "pid": mark.pid,
                "said": _said(self._schedules[name]),
            }
            for name, mark in self._marks.items()
        }
        new = self._file.with_suffix(".json.new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(told, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
            self._unwritten = False
        except OSError as error:  # a full disk stops no night; it is tried again at each look
            if not self._unwritten:
                log.error("%s cannot be written: %s", self._file, error.strerror)
            self._unwritten = True


def _said(schedule: Schedule) -> str:
    return f"{schedule.cron} {schedule.zone.key}"
