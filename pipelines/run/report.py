"""What came of a run, as plain data: for the ledger, for `--json`, for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.run.dbt import DbtReport
from sources.core.errors import Recovery


@dataclass(kw_only=True)
class TableReport:
    """One table of one run. Counts are rows; None: not known.

    status: ok · unchanged (nothing new, all still there) · warning · mismatch · failed ·
    discarded (went well, but its vendor was not published)
    """

    table: str
    status: str = "ok"
    mode: str | None = None
    load_id: str | None = None
    vendor_count: int | None = None
    extracted: int | None = None
    digest: str = ""
    landed: int | None = None
    live: int | None = None
    deleted: int | None = None
    error: str | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    walk_whole: bool = False
    """The live rows part from the vendor's total: a whole walk would tell which are gone."""
    landed_differs: bool = False
    recovery: Recovery | None = None

    def as_json(self) -> dict[str, Any]:
        names = ("table", "vendor_count", "extracted", "landed", "live", "status", "deleted", "error", "notes")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class VendorReport:
    vendor: str
    status: str = "ok"
    error: str | None = None
    recovery: Recovery | None = None
    requests: int = 0
    seconds: float = 0.0
    """Its own: extracting and loading, without the wait for other vendors or for another try."""
    tries: int = 1
    asked: frozenset[str] = frozenset()
    """The tables that were tried again; empty: all that the run was asked for."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    tables: list[TableReport] = field(default_factory=list)
    schema_changes: list[dict[str, Any]] = field(default_factory=list)

    def put(self, table: TableReport) -> None:
        """Add a table, or replace what an earlier pass said of it."""
        self.tables = [each for each in self.tables if each.table != table.table] + [table]

    def settle(self) -> None:
        """The status that the tables give."""
        if self.error is None:
            states = {table.status for table in self.tables}
            self.status = "failed" if "failed" in states else "mismatch" if "mismatch" in states else "ok"

    def failed(self, error: str, recovery: Recovery | None, status: str = "failed") -> None:
        """The vendor as a whole failed: nothing of it is published, however well a table went."""
        self.status, self.error, self.recovery = status, error, recovery
        for table in self.tables:
            if table.status in ("ok", "unchanged", "warning"):
                table.status = "discarded"

    def as_json(self) -> dict[str, Any]:
        return {
            "vendor": self.vendor,
            "status": self.status,
            "error": self.error,
            "requests": self.requests,
            "tries": self.tries,
            "tables": [table.as_json() for table in self.tables],
        }


@dataclass(kw_only=True)
class RunReport:
    run_id: str
    vendors: list[VendorReport]
    skipped: list[str] = field(default_factory=list)
    dbt: DbtReport | None = None

    @property
    def status(self) -> str:
        states = {vendor.status for vendor in self.vendors}
        return "failed" if "failed" in states else "mismatch" if "mismatch" in states else "ok"

    def as_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "status": self.status,
            "vendors": [vendor.as_json() for vendor in self.vendors],
            "skipped": self.skipped,
            "dbt": self.dbt.as_json() if self.dbt else None,
        }
