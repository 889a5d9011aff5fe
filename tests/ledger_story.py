"""A ledger that tells of nights that were never run: what reads it cannot know the difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from conftest import Night
from pipelines.config import project as places
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger

NOON = datetime(2026, 5, 20, 12, tzinfo=UTC)


@dataclass
class Story:
    """`night(2, ...)` is the one that began two days before `NOON`'s last 02:00."""

    place: Place
    ledger: Ledger

    def night(
        self,
        ago: float,
        vendors: Mapping[str, Mapping[str, Mapping[str, Any]] | str],
        *,
        status: str | None = None,
        error: str | None = None,
        changes: list[Mapping[str, Any]] | None = None,
    ) -> str:
        """Vendors as table → columns of its row, or the error with which the whole vendor failed."""
        began = NOON.replace(hour=2) - timedelta(days=ago)
        run_id = f"{began:%Y%m%dT%H%M%S000}-00000a"
        states = {}
        for vendor, tables in vendors.items():
            failed = tables if isinstance(tables, str) else None
            rows = {} if isinstance(tables, str) else tables
            bad = {row.get("status", "ok") for row in rows.values()} & {"failed", "mismatch"}
            states[vendor] = "failed" if failed or "failed" in bad else "mismatch" if bad else "ok"
            self._put("run_vendors", run_id, vendor=vendor, status=states[vendor], error=failed, requests=3, seconds=61)
            for name, row in rows.items():
                counts = dict.fromkeys(("vendor_count", "extracted", "landed", "live"), row.get("rows", 1000))
                told = {"status": "ok", "mode": "full", **counts, **{k: v for k, v in row.items() if k != "rows"}}
                dataset, _, table = name.partition(".")
                self._put("run_tables", run_id, vendor=vendor, dataset=dataset, table_name=table, **told)
        for change in changes or ():
            self._put("schema_changes", run_id, changed_at=began.isoformat(), **change)
        worst = next((each for each in ("failed", "mismatch") if each in states.values()), "ok")
        self._put(
            "runs",
            run_id,
            started_at=began.isoformat(timespec="milliseconds"),
            finished_at=(began + timedelta(minutes=9)).isoformat(timespec="milliseconds"),
            status=status or worst,
            vendors=json.dumps(list(vendors)),
            error=error,
            version="0.1.0",
            host="elsewhere",
            pid=1,
        )
        return run_id

    def _put(self, table: str, run_id: str, **row: Any) -> None:
        self.ledger.record(table, [{"run_id": run_id, **row}])

    def settings(self, toml: str) -> None:
        (self.place.home / ".dlt").mkdir(exist_ok=True)
        (self.place.home / ".dlt" / "config.toml").write_text(toml, encoding="utf-8")


@contextmanager
def story(home: Path) -> Iterator[Story]:
    place = places.at(places.DEFAULT, home)
    ledger = Ledger(place.ledger)
    place.warehouse.write_bytes(b"\0" * 8 + b"DUCK")  # what `status` looks at of the file that its nights loaded
    try:
        yield Story(place, ledger)
    finally:
        ledger.close()


def command(home: Path) -> Night:
    return Night(home=home)
