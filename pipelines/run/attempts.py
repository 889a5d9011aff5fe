"""One try of one vendor; when it is tried again, and what all its tries come to."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dlt
from dlt.extract import DltSource

from pipelines.run.options import PASSING, Pace
from pipelines.run.report import TableReport, VendorReport
from sources.core.errors import one_line
from sources.extract.connector import Part, Vendor
from sources.extract.extractor import Extraction

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A part with the pipeline that loads it, and the schema that the warehouse has of it."""

    part: Part
    pipeline: dlt.Pipeline
    before: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]
    """Table → its state as the extraction began."""
    renamed: Mapping[str, Mapping[str, str]]
    """Table → old name → new name, of columns that only the schema has under the new one."""
    late: DltSource | None = None
    """Tables that record what other parts load: extracted once those are loaded."""


@dataclass(kw_only=True, eq=False)
class Try:
    """`tables`: only these, which failed before; empty: all that the request says."""

    vendor: str
    number: int = 1
    tables: frozenset[str] = frozenset()
    not_before: float = 0.0
    """On the monotonic clock."""
    at: str = ""
    """The same for people."""
    report: VendorReport = field(init=False)
    connected: Vendor | None = None
    extraction: Extraction | None = None
    at_the_vendor: ExitStack = field(default_factory=ExitStack)
    """Closed when nothing more is asked of the vendor."""
    prepared: list[Prepared] = field(default_factory=list)
    extracted: list[Prepared] = field(default_factory=list)
    over: bool = False
    stale: bool = False
    """What it goes on from (state, schema) is no more in the warehouse: it may not be loaded."""

    def __post_init__(self) -> None:
        self.report = VendorReport(vendor=self.vendor, asked=self.tables)

    @property
    def wait(self) -> float:
        """Seconds until it may begin."""
        return self.not_before - time.monotonic()

    def let_go(self) -> None:
        """Only the report is of use any more."""
        self.over, self.connected, self.extraction = True, None, None
        self.prepared, self.extracted = [], []


def again(attempt: Try, pace: Pace) -> Try | None:
    """The next try, of what failed in a way that passes by itself; None, if there is no such or no time for it."""
    if (tables := _to_try(attempt.report)) is None:
        return None
    what = f"{attempt.vendor} ({', '.join(sorted(tables))})" if tables else attempt.vendor
    now = datetime.now(UTC)
    moment = pace.again_at(attempt.number, now=now)
    if moment is None:
        if pace.until is not None:
            log.warning("%s: not tried again, the time for it is over at %s", what, _clock(pace.until))
        return None
    log.warning("%s: tried again at %s", what, _clock(moment))
    return Try(
        vendor=attempt.vendor,
        number=attempt.number + 1,
        tables=tables,
        not_before=time.monotonic() + (moment - now).total_seconds(),
        at=_clock(moment),
    )


def may_come_again(attempt: Try, pace: Pace) -> bool:
    """Will `again` give another try of it, as things stand?"""
    if _to_try(attempt.report) is None:
        return False
    return pace.again_at(attempt.number, now=datetime.now(UTC)) is not None


def _to_try(report: VendorReport) -> frozenset[str] | None:
    """The tables to try again; none named: all of this try. None: nothing would be better for it."""
    if report.error is not None:
        return report.asked if report.recovery in PASSING else None
    passing = frozenset(table.table for table in _bad(report) if table.recovery in PASSING)
    if not passing:
        return None
    return report.asked if len(passing) == len(report.tables) else passing


def whole(tries: Sequence[VendorReport]) -> VendorReport:
    """What a vendor came to: the last word on each table. A try that fails leaves what an earlier one published, and
    one of single tables makes nothing well of a whole vendor whose rows were lost."""
    first, *later = tries
    told = replace(first, tables=list(first.tables), schema_changes=list(first.schema_changes))
    for each in later:
        if told.error is not None and (not each.asked or each.asked == told.asked):  # nothing of it was published
            told = replace(
                each,
                tables=list(each.tables),
                schema_changes=list(each.schema_changes),
                requests=told.requests + each.requests,
                seconds=told.seconds + each.seconds,
                tries=told.tries + 1,
            )
            continue
        told.requests, told.seconds = told.requests + each.requests, told.seconds + each.seconds
        told.tries += 1
        came = {table.table for table in each.tables}
        # a dataset whose tables were not known then is told of by its tables now
        told.tables = [table for table in told.tables if not (each.error is None and _is_dataset_of(table, each, came))]
        for table in _as_it_stands(told, each):
            told.put(table)
        if each.error is None:
            told.schema_changes += each.schema_changes
        told.settle()
    return told


def as_rows(tries: Sequence[VendorReport]) -> Iterator[dict[str, Any]]:
    """A row of the ledger for each try."""
    for number, report in enumerate(tries, 1):
        bad = _bad(report)
        told = report.error or (f"{bad[0].table}: {bad[0].error}" if bad else None)
        more = f" (and {len(bad) - 1} more tables)" if len(bad) > 1 and report.error is None else ""
        yield {
            "vendor": report.vendor,
            "attempt": number,
            "started_at": report.started_at.isoformat(timespec="milliseconds"),
            "finished_at": report.finished_at.isoformat(timespec="milliseconds") if report.finished_at else None,
            "tables": json.dumps(sorted(report.asked)) if report.asked else None,
            "status": report.status,
            "error": one_line(told + more) if told else None,
            "requests": report.requests,
            "seconds": report.seconds,
        }


def _bad(report: VendorReport) -> list[TableReport]:
    return [table for table in report.tables if table.status in ("failed", "mismatch")]


def _as_it_stands(told: VendorReport, each: VendorReport) -> list[TableReport]:
    """The tables of one more try, when an earlier one is published: what it discarded has failed, and no other."""
    if each.error is None:
        return each.tables
    there = {table.table: table for table in told.tables}
    return [
        replace(there.get(name) or TableReport(table=name, status="failed"), status="failed", error=each.error)
        for name in sorted(each.asked)
    ]


def _is_dataset_of(table: TableReport, each: VendorReport, came: set[str]) -> bool:
    return table.table in each.asked and table.table.endswith(".*") and table.table not in came


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%H:%M:%S}"
