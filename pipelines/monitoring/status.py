"""What the ledger tells: the last run, the last good one, what is stale, and every table there is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.catalog.system_tables import adopt
from pipelines.config import schedules
from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, duration, per_table, section
from pipelines.ledger.store import MEMORY, Ledger, run_id_of
from sources.core.errors import ConfigurationError

WARNINGS = ("drift",)
"""The kinds of incidents that are no errors."""
GOOD = "('ok', 'unchanged', 'warning')"
STALE_AFTER = "26h"
NEWS = timedelta(days=7)
"""What happened earlier is no news."""
SEEN_BACK = timedelta(days=40)
"""How far back a fire is looked for: a schedule may be monthly."""
AHEAD = timedelta(hours=1)
"""A run that began so much later than now was on a clock that went wrong, and makes nothing fresh for so long. Less is
what the clocks of two machines differ by."""
_LAST = "coalesce(max(run_id) FILTER (WHERE run_id < ?), max(run_id))"
LEFT_OUT = 3
"""After so many good runs without a table, its vendor no longer shows it or the settings leave it out."""

Due = Sequence[tuple[schedules.Schedule, datetime]]


def last_runs(place: Place, *, now: datetime | None = None) -> dict[str, Any]:
    """Per vendor the last run, its tables and when each was last good; times are UTC, ISO 8601."""
    now = now or datetime.now(UTC)
    nothing: dict[str, Any] = {"warehouse": place.shown, "last_run": None, "vendors": [], "dbt": None}
    with opened(place) as ledger:
        if ledger is None:
            return {**nothing, "stale": [], "pending": [], "incidents": [], "noticed": [], "alerts": []}
        last = ledger.query("SELECT run_id, started_at, finished_at, status FROM runs ORDER BY run_id DESC LIMIT 1")
        vendors = standing(ledger, place, now=now)
        dbt = ledger.query("SELECT * FROM dbt_runs ORDER BY run_id DESC LIMIT 1")
        lost = _lost(place) if any(vendor["last_good"] for vendor in vendors) else []
        return {
            "warehouse": place.shown,
            "last_run": last[0] if last else None,
            "vendors": vendors,
            "dbt": dbt[0] if dbt else None,
            "stale": [*([place.shown] if lost else []), *stale(vendors)],
            "pending": [*lost, *_pending(ledger, vendors)],
            "noticed": noticed(ledger, since=now - NEWS),
            "incidents": [
                {
                    "severity": "warning" if row["kind"] in WARNINGS else "error",
                    **{
                        name: row[name]
                        for name in ("kind", "subject", "what", "why", "todo", "run_id", "opened_at", "seen_at")
                    },
                }
                for row in ledger.incidents()
                if row["closed_at"] is None
            ],
            "alerts": [{"channel": name.partition(":")[2], **told} for name, told in ledger.marks("channel:").items()],
        }


def _lost(place: Place) -> list[str]:
    """Where the file of which the ledger tells is no DuckDB file: a sentence. It is not opened, which takes long."""
    if place.postgres is not None:
        return []
    try:
        with place.warehouse.open("rb") as file:
            if file.read(12)[8:] == b"DUCK":
                return []
        why = "is no DuckDB file"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    return [f"the warehouse {place.warehouse} {why}; what is told of its tables is gone with it, or elsewhere"]


def noticed(ledger: Ledger, *, since: datetime) -> list[dict[str, Any]]:
    """What happened and is over, such as drift; the newest first."""
    return ledger.query(
        "SELECT kind, subject, what, why, todo, run_id, opened_at FROM incidents WHERE closed_at = opened_at "
        "AND opened_at >= ? ORDER BY opened_at DESC, incident_id",
        (since.isoformat(timespec="milliseconds"),),
    )


@contextmanager
def opened(place: Place, *, writes: bool = False) -> Iterator[Ledger | None]:
    """The ledger on this disk; where there is none, as on another machine, what the database tells."""
    ledger = _ledger(place, reads=not writes)
    try:
        yield ledger
    finally:
        if ledger is not None:
            ledger.close()


def _ledger(place: Place, *, reads: bool) -> Ledger | None:
    """The ledger on this disk; where there is none, as on another machine, what the database tells."""
    if place.has_ledger:
        here = Ledger(place.ledger, reads=reads)
        if place.postgres is None or not here.is_new():
            return here
        here.close()
    if place.postgres is None:
        return None
    from pipelines.warehouse.open import open_reader

    ledger = Ledger(MEMORY)
    with open_reader(place) as reader:
        adopt(ledger, reader)
    return ledger


def standing(ledger: Ledger, place: Place, *, now: datetime) -> list[dict[str, Any]]:
    """Each vendor and its tables as of their last run, and whether they are fresh (None: nobody asks)."""
    rule = section(place.home, "status", known=SECTIONS["status"]).get("stale_after")
    ahead = run_id_of(now + AHEAD, "")
    vendors = ledger.query(
        "SELECT v.vendor, v.run_id, r.started_at, r.finished_at, v.status, v.error, v.requests, v.seconds, "  # noqa: S608
        "(SELECT g.finished_at FROM run_vendors gv JOIN runs g USING (run_id) WHERE gv.vendor = v.vendor "
        " AND gv.status = 'ok' AND g.finished_at IS NOT NULL AND gv.run_id < ? ORDER BY gv.run_id DESC LIMIT 1) "
        " AS last_good "
        f"FROM (SELECT vendor, {_LAST} AS run_id FROM run_vendors GROUP BY vendor) AS last "
        "JOIN run_vendors v ON v.vendor = last.vendor AND v.run_id = last.run_id "
        "JOIN runs r ON r.run_id = v.run_id ORDER BY v.vendor",
        (ahead, ahead),
    )
    due = _due(schedules.read(place.home), now=now)
    for vendor in vendors:
        name = vendor["vendor"]
        since = good_since(rule, table=name, vendor=name, now=now, due=due)
        vendor["good_since"] = None if since is None else since.isoformat(timespec="seconds")
        vendor["fresh"] = _fresh(vendor["last_good"], since)
        vendor["tables"] = _tables(ledger, name, ahead)
        vendor["drift"] = ledger.query(
            "SELECT dataset || '.' || table_name AS \"table\", column_name, change, old_type, new_type "
            "FROM schema_changes WHERE run_id = ? AND vendor = ?",
            (vendor["run_id"], name),
        )
        for table in vendor["tables"]:
            since = good_since(rule, table=table["table"], vendor=name, now=now, due=due)
            table["left_out"] = table.pop("good_runs_since") >= LEFT_OUT
            table["fresh"] = None if table["left_out"] else _fresh(table["last_good"], since)
    return vendors


def good_since(rule: Any, *, table: str, vendor: str, now: datetime, due: Due = ()) -> datetime | None:
    """When a table (or a vendor, named in place of it) must have been loaded last to be fresh; None: whenever.

    What the settings say comes first, then the schedules: since the last fire whose deadline is over.
    """
    fires = [fire for schedule, fire in due if schedule.loads(vendor, table)]
    if rule is None and fires:
        return max(fires)
    after = duration(per_table(rule, table, vendor, STALE_AFTER), setting="status.stale_after")
    return None if after is None else now - after


def _due(planned: Iterable[schedules.Schedule], *, now: datetime) -> Due:
    """Each schedule with the last fire that must have come to its end."""
    found = []
    for schedule in planned:
        *_, last = (None, *schedule.fires(now - SEEN_BACK, now - schedule.deadline))
        if last is not None:
            found.append((schedule, last))
    return found


def stale(vendors: list[dict[str, Any]]) -> list[str]:
    """The vendors that are not fresh, and of the others the tables."""
    found = []
    for vendor in vendors:
        if vendor["fresh"] is False:
            found.append(vendor["vendor"])
        else:
            found += [table["table"] for table in vendor["tables"] if table["fresh"] is False]
    return found


def _fresh(last_good: str | None, since: datetime | None) -> bool | None:
    if since is None:
        return None
    return last_good is not None and datetime.fromisoformat(last_good) >= since


def _tables(ledger: Ledger, vendor: str, ahead: str) -> list[dict[str, Any]]:
    return ledger.query(
        "SELECT t.dataset || '.' || t.table_name AS \"table\", t.mode, t.vendor_count, t.extracted, t.landed, t.live, "  # noqa: S608
        "t.status, t.error, t.run_id, "
        "(SELECT r.finished_at FROM run_tables g JOIN runs r USING (run_id) WHERE g.vendor = t.vendor "
        " AND g.dataset = t.dataset AND g.table_name = t.table_name AND r.finished_at IS NOT NULL "
        f" AND g.status IN {GOOD} AND g.run_id < ? ORDER BY g.run_id DESC LIMIT 1) AS last_good, "
        "(SELECT count(*) FROM run_vendors v WHERE v.vendor = t.vendor AND v.run_id > t.run_id AND v.status = 'ok') "
        " AS good_runs_since "
        f"FROM (SELECT vendor, dataset, table_name, {_LAST} AS run_id FROM run_tables WHERE vendor = ? "
        " GROUP BY dataset, table_name) AS last "
        "JOIN run_tables t ON t.vendor = last.vendor AND t.dataset = last.dataset AND t.table_name = last.table_name "
        " AND t.run_id = last.run_id ORDER BY t.dataset, t.table_name",
        (ahead, ahead, vendor),
    )


def _pending(ledger: Ledger, vendors: list[dict[str, Any]]) -> list[str]:
    """What is not done yet, a sentence each."""
    found = [
        f"run {row['run_id']} is under way since {row['started_at']}"
        for row in ledger.query("SELECT run_id, started_at FROM runs WHERE status = 'running' ORDER BY run_id")
    ]
    for vendor in vendors:
        waits = [
            table["table"]
            for table in vendor["tables"]
            if table["status"] in ("failed", "mismatch", "discarded") and not table["left_out"]
        ]
        if waits:
            more = f" and {len(waits) - 5} more" if len(waits) > 5 else ""
            found.append(f"{vendor['vendor']}: {', '.join(waits[:5])}{more}: the last run brought nothing to rely on")
    if hidden := ledger.unpublished():
        found.append(f"{len(hidden)} runs are in the ledger and not in the warehouse yet; the next publish shows them")
    return found


def runs(place: Place, *, limit: int) -> list[dict[str, Any]]:
    """The last runs, the newest first."""
    with opened(place) as ledger:
        if ledger is None:
            return []
        rows = ledger.query(
            "SELECT run_id, started_at, finished_at, status, vendors, error, "
            "(SELECT count(*) FROM run_tables t WHERE t.run_id = r.run_id) AS tables, "
            "(SELECT sum(landed) FROM run_tables t WHERE t.run_id = r.run_id AND t.status = 'ok') AS landed, "
            "(SELECT count(*) FROM run_tables t WHERE t.run_id = r.run_id AND t.status IN ('failed', 'mismatch', "
            " 'discarded')) AS not_good "
            "FROM runs r ORDER BY run_id DESC LIMIT ?",
            (limit,),
        )
    for row in rows:
        row["vendors"] = json.loads(row["vendors"] or "[]")
        row["kept"] = kept_vendors(place, row["run_id"])
    return rows


def kept_vendors(place: Place, run_id: str) -> list[str]:
    """The vendors of whose pages some are kept, so that the run can be replayed."""
    return sorted({path.parent.name for path in (place.pages / run_id).glob("*/*.pages")})


def run_info(place: Place, prefix: str) -> dict[str, Any]:
    """All of one run, by its id or a beginning that is its alone. Raises `ConfigurationError`."""
    with opened(place) as ledger:
        found = (
            ledger.query("SELECT * FROM runs WHERE substr(run_id, 1, ?) = ? ORDER BY run_id", (len(prefix), prefix))
            if ledger
            else []
        )
        if ledger is None or len(found) != 1 or not prefix:
            raise ConfigurationError(
                what=f"{'no run begins' if not found else f'{len(found)} runs begin'} with {prefix!r}",
                where=place.shown,
                todo="Take an id from: nightload runs",
            )
        (run,) = found
        ids = [run["run_id"]]
        vendors = ledger.rows("run_vendors", ids)
        tables, changes = ledger.rows("run_tables", ids), ledger.rows("schema_changes", ids)
        tries = ledger.rows("run_tries", ids)
    run["vendors"] = json.loads(run["vendors"] or "[]")
    run["kept"] = kept_vendors(place, run["run_id"])
    for row in (*vendors, *tables, *changes, *tries):
        del row["run_id"]
    for each in tries:
        each["tables"] = json.loads(each["tables"] or "[]")
    for table in tables:
        table["table"] = f"{table.pop('dataset')}.{table.pop('table_name')}"
        table["notes"] = json.loads(table["notes"] or "[]")
    tables.sort(key=lambda table: str(table["table"]))
    for vendor in vendors:
        vendor["tables"] = [table for table in tables if table["vendor"] == vendor["vendor"]]
        vendor["tries"] = [each for each in tries if each["vendor"] == vendor["vendor"]]
        vendor["schema_changes"] = [change for change in changes if change["vendor"] == vendor["vendor"]]
    return {"run": run, "vendors": vendors}


def all_tables(place: Place) -> list[dict[str, Any]]:
    """Every table that a vendor declares or that a run has met."""
    from sources import VENDORS
    from sources.extract.connector import package

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
