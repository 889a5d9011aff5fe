"""What the ledger tells: the last run, the last good one, and every table there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.ledger import Ledger
from pipelines.place import Place

GOOD = "('ok', 'unchanged', 'warning')"


def last_runs(place: Place) -> dict[str, Any]:
    """Per vendor the last run, its tables and when each was last good; times are UTC, ISO 8601."""
    ledger = _ledger(place)
    if ledger is None:
        return {"warehouse": place.shown, "last_run": None, "vendors": [], "dbt": None}
    try:
        last = ledger.query("SELECT run_id, started_at, finished_at, status FROM runs ORDER BY run_id DESC LIMIT 1")
        vendors = ledger.query(
            "SELECT v.vendor, v.run_id, r.started_at, r.finished_at, v.status, v.error, "
            "(SELECT max(g.finished_at) FROM runs g JOIN run_vendors gv USING (run_id) "
            " WHERE gv.vendor = v.vendor AND gv.status = 'ok') AS last_good "
            "FROM run_vendors v JOIN runs r USING (run_id) "
            "WHERE v.run_id = (SELECT max(run_id) FROM run_vendors w WHERE w.vendor = v.vendor) ORDER BY v.vendor"
        )
        for vendor in vendors:
            vendor["tables"] = _tables(ledger, vendor["vendor"])
        dbt = ledger.query("SELECT * FROM dbt_runs ORDER BY run_id DESC LIMIT 1")
        return {
            "warehouse": place.shown,
            "last_run": last[0] if last else None,
            "vendors": vendors,
            "dbt": dbt[0] if dbt else None,
        }
    finally:
        ledger.close()


def _ledger(place: Place) -> Ledger | None:
    """The ledger on this disk; where there is none, as on another machine, what the database tells."""
    if place.ledger.exists():
        here = Ledger(place.ledger)
        if place.postgres is None or not here.is_new():
            return here
        here.close()
    if place.postgres is None:
        return None
    from pipelines.warehouse.reader import open_reader

    ledger = Ledger(Path(":memory:"))
    with open_reader(place) as reader:
        ledger.adopt(reader)
    return ledger


def _tables(ledger: Ledger, vendor: str) -> list[dict[str, Any]]:
    return ledger.query(
        "SELECT t.dataset || '.' || t.table_name AS \"table\", t.mode, t.vendor_count, t.extracted, t.landed, t.live, "  # noqa: S608
        "t.status, t.error, "
        f"(SELECT max(r.finished_at) FROM run_tables g JOIN runs r USING (run_id) WHERE g.dataset = t.dataset "
        f" AND g.table_name = t.table_name AND g.status IN {GOOD}) AS last_good "
        "FROM run_tables t WHERE t.vendor = ? AND t.run_id = (SELECT max(run_id) FROM run_tables w "
        "WHERE w.dataset = t.dataset AND w.table_name = t.table_name) ORDER BY t.dataset, t.table_name",
        (vendor,),
    )


def all_tables(place: Place) -> list[dict[str, Any]]:
    """Every table that a vendor declares or that a run has met."""
    from sources import VENDORS
    from sources.vendor import package

    met = {table["table"]: table for vendor in last_runs(place)["vendors"] for table in vendor["tables"]}
    rows: dict[str, dict[str, Any]] = {}
    for vendor in VENDORS:
        for dataset, tables in package(vendor).tables().items():
            for table in tables:
                rows[f"{dataset}.{table.name}"] = {
                    "table": f"{dataset}.{table.name}",
                    "mode": str(table.mode),
                    "key": list(table.key),
                    "cursor": table.cursor,
                    "about": table.about,
                }
    for name, found in met.items():
        rows.setdefault(name, {"table": name, "mode": found["mode"], "key": [], "cursor": None, "about": ""})
    for name, row in rows.items():
        row["last_good"] = met.get(name, {}).get("last_good")
        row["live"] = met.get(name, {}).get("live")
    return list(rows.values())
