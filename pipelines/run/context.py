"""A run under way: what it was asked, what it tried, and what the ledger is told of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pendulum

from pipelines.catalog.suppression import read_forgotten
from pipelines.ledger.store import Ledger
from pipelines.run.attempts import Try, as_rows, whole
from pipelines.run.options import Pace
from pipelines.run.recording.retention import Keeping
from pipelines.run.report import VendorReport
from pipelines.run.request import Request
from pipelines.warehouse.base import Warehouse
from sources.privacy.matching import Forgotten
from sources.privacy.policy import Policy


@dataclass(kw_only=True)
class Night:
    """A run under way."""

    request: Request
    ledger: Ledger
    warehouse: Warehouse
    run_id: str
    until: pendulum.DateTime
    policy: Policy
    pace: Pace = field(default_factory=Pace)
    forgotten: Forgotten | None = None
    """Who is kept out; read when the first vendor begins."""
    keeping: Keeping | None = None
    """Where this run's pages are kept, if they are."""
    tries: dict[str, list[Try]] = field(default_factory=dict)
    """Vendor → what was tried of it, in the order in which they are told of."""
    unpublished: list[Try] = field(default_factory=list)
    """Whose proven rows wait for `publish`: one vendor's, or all vendors' for the end of the night."""
    lost: list[Try] = field(default_factory=list)
    """Of these, what went down with the connection and was not yet judged."""

    def told(self) -> list[VendorReport]:
        return [whole([each.report for each in tries]) for tries in self.tries.values()]


def tell(night: Night, vendor: str, what: str) -> None:
    if night.request.on_progress:
        night.request.on_progress(vendor, what)


def folder(night: Night, *parts: str) -> Path:
    folder = night.request.place.work.joinpath(night.run_id, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def who_is_forgotten(night: Night) -> Forgotten:
    if night.forgotten is None:
        night.forgotten = read_forgotten(night.request.place)
    return night.forgotten


def record(night: Night, name: str) -> None:
    """What came of a vendor so far, in place of what was said of it before."""
    tries = [each.report for each in night.tries[name]]
    report = whole(tries)
    night.ledger.forget_vendor(night.run_id, name)
    _record_changes(night, report)
    night.ledger.record(
        "run_vendors",
        [
            {
                "run_id": night.run_id,
                "vendor": report.vendor,
                "status": as_told(night, report.status),
                "error": report.error,
                "requests": report.requests,
                "seconds": report.seconds,
            }
        ],
    )
    night.ledger.record(
        "run_tries",
        [{"run_id": night.run_id, **row, "status": as_told(night, row["status"])} for row in as_rows(tries)],
    )
    night.ledger.record(
        "run_tables",
        [
            {
                "run_id": night.run_id,
                "vendor": report.vendor,
                "dataset": table.table.split(".")[0],
                "table_name": table.table.partition(".")[2],
                "notes": json.dumps(table.notes, ensure_ascii=False) if table.notes else None,
                "status": as_told(night, table.status),
                **{
                    name: getattr(table, name)
                    for name in [
                        "mode",
                        "load_id",
                        "vendor_count",
                        "extracted",
                        "landed",
                        "live",
                        "deleted",
                        "error",
                        "seconds",
                    ]
                },
            }
            for table in report.tables
        ],
    )


def as_told(night: Night, status: str) -> str:
    """What went well in a replay makes nothing fresh, and is no good night to go by."""
    good = status in ("ok", "unchanged", "warning")
    return "replayed" if night.request.replay is not None and good else status


def _record_changes(night: Night, report: VendorReport) -> None:
    """What changed in the schemas of this vendor; nothing, if it was not published."""
    told = {"run_id": night.run_id, "vendor": report.vendor, "changed_at": night.until.isoformat()}
    changes = [] if report.error else report.schema_changes
    night.ledger.record("schema_changes", [{**told, **change} for change in changes])
