"""`nightload backfill`: days of the past into one table, a chunk at a time, beside the nights.

A chunk is some days of one table. It is fetched without any lock, so that a slow vendor keeps no night out, and then
loaded as a night loads: under the lock, counted, published at once or not at all, its row in `nightload.backfills`
along with it. So what that row says is true of the rows that stand beside it, and a chunk that was killed has not
been. The cursors of the nights are not touched, and nothing of it is a run.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import dlt.common.libs.pyarrow  # noqa: F401 - threads that import it at once would find it half made
import pendulum
from dlt.pipeline.exceptions import PipelineStepFailed
from filelock import FileLock, Timeout

from pipelines import __version__
from pipelines.catalog.suppression import forgotten_in
from pipelines.catalog.system_tables import adopt, publish
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from pipelines.monitoring.incidents import change_in_words
from pipelines.operations.backfill_plan import TABLE, Chunk, Plan, make, newest_load, published
from pipelines.operations.state import states_of
from pipelines.run.context import Night
from pipelines.run.load import pass_over
from pipelines.run.recovery import close_crashed
from pipelines.run.report import TableReport, VendorReport
from pipelines.run.request import Request
from pipelines.warehouse.base import Warehouse
from pipelines.warehouse.open import turn
from sources import VENDORS
from sources.convert.duckdb_session import spilling_into
from sources.core.cancellation import heard
from sources.core.concurrency import in_order
from sources.core.errors import (
    AccessDenied,
    ConfigurationError,
    Locked,
    NightloadError,
    Recovery,
    Unreachable,
    summarize,
)
from sources.extract.connector import Vendor, package
from sources.extract.extractor import Extraction
from sources.privacy.policy import read_policy

log = logging.getLogger(__name__)

WELL = ("ok", "unchanged", "warning")
IN_A_ROW = 3
"""After so many chunks in a row that failed, the others are not tried."""


@dataclass(kw_only=True)
class Done:
    """What came of one chunk; `table` holds its counts."""

    chunk: Chunk
    table: TableReport
    seconds: float = 0.0
    requests: int | None = None
    recovery: Recovery | None = None
    changes: Sequence[str] = ()
    """Of the table's columns. A new column of old days is no drift of the vendor's, so that no run tells of it."""
    stops: bool = False
    """Will the next ones fare no better?"""

    @property
    def good(self) -> bool:
        return self.table.status in WELL

    def as_json(self) -> dict[str, Any]:
        told = self.table.as_json()
        del told["table"], told["live"], told["deleted"]
        return {"chunk_id": self.chunk.id, **told, "requests": self.requests, "seconds": round(self.seconds, 2)}


def backfill(
    place: Place,
    plan: Plan,
    vendor: Vendor,
    *,
    workers: int = 1,
    allow_empty: bool = False,
    on_done: Callable[[Done], None] = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
) -> list[Done]:
    """Carry a plan out: fetch `workers` chunks side by side, load one after the other; a failed one stops no other.

    Raises `Locked` if another backfill of this warehouse is under way.
    """
    with _only_one(place):
        backfilling = _Backfill(place, plan, vendor, allow_empty=allow_empty, on_wait=on_wait)
        found: list[Done] = []
        fetched = in_order(backfilling.fetch, plan.due, width=workers)
        try:
            for each in fetched:
                done = backfilling.load(each, alone=workers == 1)
                found.append(done)
                on_done(done)
                failed = [not each.good for each in found[-IN_A_ROW:]]
                if done.stops or (len(failed) == IN_A_ROW and all(failed)):
                    break
        finally:
            fetched.close()  # type: ignore[attr-defined]
        return found


@dataclass(kw_only=True)
class _Fetched:
    """A chunk whose answers are on disk, or why they are not."""

    chunk: Chunk
    folder: Path
    extraction: Extraction
    after: str | None
    """The newest load of the table by a run when its fetching began."""
    seconds: float = 0.0
    requests: int = 0
    error: NightloadError | None = None


@dataclass
class _Backfill:
    place: Place
    plan: Plan
    vendor: Vendor
    allow_empty: bool = field(kw_only=True)
    on_wait: Callable[[], None] = field(kw_only=True)

    def __post_init__(self) -> None:
        self._numbers, self._lock = count(), threading.Lock()
        self._policy = read_policy()
        self._datasets = [name for vendor in VENDORS for name in package(vendor).tables()]

    # -- without the lock -------------------------------------------------------------------------

    def fetch(self, chunk: Chunk) -> _Fetched:
        """Ask the vendor for a chunk; what it says is kept on disk."""
        folder = self.place.ahead / str(next(self._numbers))
        folder.mkdir(parents=True)
        dataset, _, table = chunk.table.partition(".")
        extraction = Extraction(
            vendor=self.plan.vendor,
            spool_dir=folder,
            until=pendulum.now("UTC"),
            tables=frozenset({chunk.table}),
            allow_empty=frozenset({chunk.table} if self.allow_empty else ()),
            window=chunk.days,
            policy=self._policy,
        )
        states: Mapping[str, Mapping[str, Any]] = {}
        after = None
        with published(self.place) as reader:
            if reader is not None:
                states, after = states_of(reader, dataset), newest_load(reader, chunk.table)
        fetched = _Fetched(chunk=chunk, folder=folder, extraction=extraction, after=after)
        started, asked = time.monotonic(), self.vendor.http.requests
        try:
            with self._lock:  # dlt makes its sources for one thread at a time
                make(self.vendor, extraction, dataset)
            extraction.fetch_ahead(chunk.table, states.get(table, {}))
        except NightloadError as error:
            fetched.error = error
        fetched.seconds, fetched.requests = time.monotonic() - started, self.vendor.http.requests - asked
        return fetched

    # -- with it ----------------------------------------------------------------------------------

    def load(self, fetched: _Fetched, *, alone: bool) -> Done:
        """Load a chunk, or record why it could not be had; fetched once more if a night came in between."""
        try:
            while True:
                with turn(self.place, datasets=self._datasets, on_wait=self.on_wait) as warehouse:
                    ledger = Ledger(self.place.ledger)
                    try:
                        if ledger.is_new():
                            with published(self.place) as reader:
                                if reader is not None:
                                    adopt(ledger, reader)
                        close_crashed(self.place, ledger)
                        warehouse.begin()
                        if not self._overtaken(warehouse, fetched):
                            return self._load(warehouse, ledger, fetched, alone=alone)
                    finally:
                        ledger.close()
                        shutil.rmtree(self.place.work, ignore_errors=True)
                log.info("%s is fetched once more, since a run came in between", fetched.chunk.id)
                shutil.rmtree(fetched.folder, ignore_errors=True)
                fetched = self.fetch(fetched.chunk)
        finally:
            # the budget of retries is that of a run: a backfill may last for days
            self.vendor.http.renew_budget()
            shutil.rmtree(fetched.folder, ignore_errors=True)

    def _overtaken(self, warehouse: Warehouse, fetched: _Fetched) -> bool:
        """Did a run load the table since? Then what was fetched may be older than what stands there."""
        with warehouse.write() as session:
            return fetched.error is None and newest_load(session, fetched.chunk.table) != fetched.after

    def _load(self, warehouse: Warehouse, ledger: Ledger, fetched: _Fetched, *, alone: bool) -> Done:
        chunk, started, began = fetched.chunk, time.monotonic(), datetime.now(UTC)
        report = VendorReport(vendor=self.plan.vendor)
        if fetched.error is not None:
            changed = self._failed(report, chunk, fetched.error)
        else:
            changed = self._loaded(warehouse, ledger, fetched, report)
        done = self._told(report, chunk)
        done.requests = fetched.requests if alone else None
        done.seconds = fetched.seconds + time.monotonic() - started
        if not changed:
            warehouse.discard()
            warehouse.begin()
        try:
            with ledger.at_once():
                self._record(ledger, done, started=began)
                publish(warehouse, ledger)
        except (NightloadError, OSError) as error:
            self._failed(report, chunk, error)
            done = self._told(report, chunk)
            self._record(ledger, done, started=began)
            warehouse.discard()
        return done

    def _loaded(self, warehouse: Warehouse, ledger: Ledger, fetched: _Fetched, report: VendorReport) -> bool:
        """True if the build holds rows to publish."""
        with warehouse.write() as session:
            fetched.extraction.forgotten = forgotten_in(session)
        night = Night(
            request=Request(place=self.place),
            ledger=ledger,
            warehouse=warehouse,
            run_id="backfill",
            until=pendulum.instance(fetched.extraction.until),
            policy=self._policy,
            forgotten=fetched.extraction.forgotten,
        )
        try:
            changed = pass_over(night, self.vendor, fetched.extraction, report)
        except PipelineStepFailed as error:
            if heard(error.exception):
                raise KeyboardInterrupt from None
            return self._failed(report, fetched.chunk, warehouse.explain(error.exception))
        except Exception as error:
            if heard(error):
                raise KeyboardInterrupt from None
            log.debug("%s failed", fetched.chunk.id, exc_info=True)
            return self._failed(report, fetched.chunk, warehouse.explain(error))
        return changed and not any(table.landed_differs for table in report.tables)

    def _failed(self, report: VendorReport, chunk: Chunk, error: BaseException) -> bool:
        report.error, report.recovery = summarize(error), getattr(error, "recovery", None)
        table = TableReport(table=chunk.table, status="failed", error=report.error, recovery=report.recovery)
        report.tables = [table]
        if isinstance(error, AccessDenied | Unreachable | ConfigurationError):
            report.status = "stopped"
        return False

    def _told(self, report: VendorReport, chunk: Chunk) -> Done:
        table = next((table for table in report.tables if table.table == chunk.table), None)
        whole = next((table.error for table in report.tables), "the vendor shows nothing for it")
        table = table or TableReport(table=chunk.table, status="failed", error=whole)
        stops = report.status == "stopped" or table.recovery == Recovery.CONFIGURE
        changes = [change_in_words(change) for change in report.schema_changes]
        return Done(chunk=chunk, table=table, recovery=table.recovery, stops=stops, changes=changes)

    def _record(self, ledger: Ledger, done: Done, *, started: datetime) -> None:
        """Put the chunk's row in the place of the one of its last attempt. While it is under way it has none: what is
        killed has not been.
        """
        dataset, _, name = self.plan.table.partition(".")
        chunk, table = done.chunk, done.table
        before = ledger.rows(TABLE, [chunk.id])
        notes = [*table.notes, *done.changes]
        names = ("status", "vendor_count", "extracted", "landed", "load_id", "error")
        ledger.put(
            TABLE,
            {
                "chunk_id": chunk.id,
                "vendor": self.plan.vendor,
                "dataset": dataset,
                "table_name": name,
                "first_day": chunk.days.first.isoformat(),
                "last_day": chunk.days.last.isoformat(),
                "attempts": (before[0]["attempts"] if before else 0) + 1,
                **{each: getattr(table, each) for each in names},
                "notes": json.dumps(notes, ensure_ascii=False) if notes else None,
                "requests": done.requests,
                "seconds": done.seconds,
                "started_at": started.isoformat(timespec="milliseconds"),
                "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "version": __version__,
                "host": socket.gethostname(),
            },
        )


def exit_code(found: Sequence[Done]) -> int:
    """0 all well · 1 something failed · 2 configuration · 4 counts did not agree."""
    bad = [done for done in found if not done.good]
    if not bad:
        return 0
    if all(done.recovery == Recovery.CONFIGURE for done in bad):
        return 2
    return 4 if all(done.table.status == "mismatch" for done in bad) else 1


@contextmanager
def _only_one(place: Place) -> Iterator[None]:
    """One backfill per warehouse on this machine, and a clean folder for what it fetches."""
    place.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        held = FileLock(place.backfilling)
        held.acquire(timeout=0)
    except Timeout:
        raise Locked(
            what="another backfill of this warehouse is under way", where=place.shown, todo="Wait for it to end"
        ) from None
    try:
        shutil.rmtree(place.ahead, ignore_errors=True)
        with spilling_into(place.ahead / "spilled"):
            yield
    finally:
        shutil.rmtree(place.ahead, ignore_errors=True)
        held.release()
