"""The proof: what the vendor counts, what came, and what is found again in the warehouse."""

from __future__ import annotations

from datetime import datetime

from pipelines.run.report import TableReport
from pipelines.warehouse.base import Session
from sources.convert.types import DELETED_AT
from sources.core.sql import quote
from sources.extract.sync import Outcome
from sources.extract.table import Mode


def mark_deleted(session: Session, outcome: Outcome, *, at: datetime) -> None:
    """After a whole walk each live row carries its load id; the others are gone at the vendor's."""
    if outcome.emptied and outcome.scope and (outcome.loaded or outcome.unchanged):
        session.change(
            f"DELETE FROM {quote(outcome.dataset, outcome.table)} "  # noqa: S608
            f"WHERE {quote(outcome.scope)}::VARCHAR IN (SELECT unnest(?::VARCHAR[]))",
            [sorted(outcome.emptied)],
        )
    if not (outcome.loaded and outcome.complete and outcome.mode in (Mode.FULL, Mode.INCREMENTAL)):
        return
    outcome.deleted = session.change(
        f"UPDATE {quote(outcome.dataset, outcome.table)} SET {DELETED_AT} = ? "  # noqa: S608
        f"WHERE _dlt_load_id <> ? AND {DELETED_AT} IS NULL",
        [at, outcome.load_id],
    )


def count(session: Session, outcome: Outcome, *, exists: bool) -> TableReport:
    """Compare the counts of one table with what the warehouse holds."""
    report = TableReport(
        table=f"{outcome.dataset}.{outcome.table}",
        mode=str(outcome.mode),
        load_id=outcome.load_id or None,
        vendor_count=outcome.vendor_count,
        extracted=outcome.extracted,
        deleted=outcome.deleted,
        seconds=outcome.seconds,
        notes=outcome.notes,
    )
    landed, report.live = _found(session, outcome) if exists else (0, 0)
    if outcome.error is not None:
        report.status, report.error = "mismatch" if outcome.count_differs else "failed", outcome.error
        report.recovery = outcome.recovery
        if outcome.missed is not None and outcome.loaded and exists:
            report.landed = landed
            if report.landed != outcome.extracted:
                report.status, report.landed_differs = "mismatch", True
        return report
    if outcome.unchanged:
        report.status = "unchanged"
        # nothing was written; what the vendor has must be what is there
        report.landed = report.live if outcome.complete or outcome.mode == Mode.LATEST else outcome.extracted
    elif outcome.mode == Mode.HISTORY:
        report.landed = report.live
    else:
        report.landed = landed
    _judge(report, outcome)
    if outcome.kept_out:  # told, and no reason for a warning
        report.notes = [*report.notes, f"{outcome.kept_out} rows of forgotten people were kept out"]
    return report


def _judge(report: TableReport, outcome: Outcome) -> None:
    if report.landed != outcome.extracted:
        report.status, report.landed_differs = "mismatch", True
        report.error = f"{outcome.extracted} rows were extracted, {report.landed} are in the warehouse"
        report.walk_whole = outcome.unchanged
        return
    expected = outcome.extracted if outcome.complete else outcome.total
    if expected is not None and report.live != expected:
        report.status = "mismatch"
        report.error = f"the vendor has {expected} rows in all, {report.live} are live in the warehouse"
        report.walk_whole = not outcome.complete
    elif outcome.notes and report.status == "ok":
        report.status = "warning"


def live(mode: Mode) -> str:
    """The condition that the rows meet which are the vendor's today."""
    match mode:
        case Mode.FULL | Mode.INCREMENTAL:
            return f"{DELETED_AT} IS NULL"
        case Mode.HISTORY:
            return "valid_to IS NULL"
        case _:
            return "true"


def _found(session: Session, outcome: Outcome) -> tuple[int, int]:
    """How many rows came with this load, and how many are live, in one look at the table; what came is live."""
    table, condition = quote(outcome.dataset, outcome.table), live(outcome.mode)
    counted = f"SELECT count(*) FILTER (WHERE _dlt_load_id = ?), count(*) FROM {table} WHERE {condition}"  # noqa: S608
    ((landed, there),) = session.query(counted, [outcome.load_id])
    return int(landed), int(there)
