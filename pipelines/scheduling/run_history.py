"""What a scheduler asks of the ledger and writes into it: when vendors were run last, what began, what was missed."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from pipelines import __version__
from pipelines.config.project import Place
from pipelines.config.schedules import Schedule
from pipelines.ledger.store import MISSED, Ledger
from sources.core.errors import NightloadError, summarize

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "pipelines.cli")


class Nights:
    """The ledger of one place, opened only while it is asked: a scheduler waits most of its life."""

    def __init__(self, place: Place, environment: Mapping[str, str]) -> None:
        self._place = place
        self._environment = environment
        self._last: dict[str, datetime] | None = None
        self._owed: list[tuple[Schedule, datetime, str]] = []

    def missed(self, schedule: Schedule, instants: Sequence[datetime], why: str) -> None:
        """Record nights that were due and never began. Said again, it is the same; a failure is logged, and the ledger
        is owed them until `catch_up`."""
        for due in instants:
            log.error("schedule %s: missed %s: %s", schedule.name, told(due, schedule), why)
            self._owed.append((schedule, due, why))
        self.catch_up()

    def catch_up(self) -> None:
        """Record what was missed and could not be recorded then: a full disk is not full for ever."""
        if not self._owed:
            return
        try:
            with self._ledger() as ledger:
                with ledger.at_once():
                    for schedule, due, why in self._owed:
                        ledger.missed(
                            due,
                            schedule=schedule.name,
                            vendors=schedule.vendors,
                            version=__version__,
                            why=f"missed: {why}",
                        )
                self._owed = [owed for owed in self._owed if not ledger.has_missed(owed[1], schedule=owed[0].name)]
        except (NightloadError, sqlite3.Error) as error:
            log.error("what was missed cannot be recorded: %s", summarize(error))

    def began(self, pid: int, since: datetime) -> bool:
        """Did that process of this machine open a run?"""
        return self._has("", pid, since)

    def ended(self, pid: int, since: datetime) -> bool:
        """Did it come to its end, neither crashed nor interrupted?"""
        own = "AND finished_at IS NOT NULL AND status <> 'crashed' AND coalesce(error, '') <> 'interrupted'"
        return self._has(own, pid, since)

    def _has(self, condition: str, pid: int, since: datetime) -> bool:
        if not self._place.has_ledger:
            return False
        try:
            with self._ledger() as ledger:
                query = f"SELECT 1 FROM runs WHERE pid = ? AND host = ? AND started_at >= ? {condition}"  # noqa: S608
                at = since.isoformat(timespec="milliseconds")
                return bool(ledger.query(query, (pid, socket.gethostname(), at)))
        except NightloadError as error:
            log.error("the ledger cannot be read: %s", summarize(error))
            return False

    def last_run(self, schedule: Schedule) -> datetime | None:
        """When the last run of its vendors began, of the one that was run longest ago; None if none ever was."""
        if self._last is None:
            self._last = self._last_runs()
        if not schedule.vendors:
            return max(self._last.values(), default=None)
        return min((self._last[vendor] for vendor in schedule.vendors if vendor in self._last), default=None)

    def _last_runs(self) -> dict[str, datetime]:
        """From the ledger here or, where there is none, from the one in the database."""
        if self._place.has_ledger:
            with self._ledger() as ledger:
                rows = ledger.query(
                    "SELECT v.vendor, max(r.started_at) AS started_at FROM run_vendors v JOIN runs r USING (run_id) "
                    "WHERE r.status NOT IN (?, 'replayed') GROUP BY v.vendor",
                    (MISSED,),
                )
        elif self._place.postgres is not None:
            # asked by a process of its own: a database's client is more than a scheduler wants to carry
            asked = subprocess.run(  # noqa: S603
                [*COMMAND, "status", "--json", "--home", str(self._place.home)],
                env=dict(self._environment),
                stdout=subprocess.PIPE,
                check=False,
            )
            # it ends with 1 where something is stale, as it is when nights were missed
            rows = json.loads(asked.stdout)["vendors"] if asked.returncode in (0, 1) and asked.stdout else []
        else:
            rows = []
        return {row["vendor"]: datetime.fromisoformat(row["started_at"]) for row in rows}

    @contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        ledger = Ledger(self._place.ledger)
        try:
            yield ledger
        finally:
            ledger.close()


def told(at: datetime, schedule: Schedule) -> str:
    return f"{at.astimezone(schedule.zone):%a %Y-%m-%d %H:%M %Z} ({at:%H:%MZ})"
