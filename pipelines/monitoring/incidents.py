"""What is wrong, found in the ledger: one incident from when it is first seen until it is well again.

An incident that is an event (a schema changed, rows fell, a crash that a later run has mended) is over at once and told
once.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, per_table, section, share, truth
from pipelines.ledger.store import MISSED, Ledger
from pipelines.monitoring.causes import by_cause, named
from pipelines.monitoring.status import GOOD, NEWS, standing

FEWER_THAN, MIN_ROWS = 0.5, 100


@dataclass(frozen=True, kw_only=True)
class Found:
    """Something that is wrong now, or that happened in a run. `topic` is what it is the same incident by."""

    topic: str
    kind: str
    what: str
    why: str
    todo: str
    run_id: str | None
    vendor: str | None = None
    subject: str | None = None
    event: bool = False


def observe(ledger: Ledger, place: Place, *, now: datetime) -> list[dict[str, Any]]:
    """All incidents as they stand now: new ones opened, those that are well again closed. Writes nothing."""
    kept = ledger.incidents()
    first = not kept
    is_open = {row["topic"]: row for row in kept if row["closed_at"] is None}
    known = {row["topic"] for row in kept}
    at = now.isoformat(timespec="milliseconds")
    found = list(_found(ledger, place, now=now, first=first))
    for each in found:
        if each.event:
            if each.topic not in known:
                kept.append(_row(each, at) | {"closed_at": at})
        elif each.topic in is_open:
            is_open[each.topic] |= {"why": each.why, "seen_at": at, "run_id": each.run_id}
        else:
            kept.append(_row(each, at))
    still, at_work = {each.topic for each in found}, _at_work(ledger)
    for topic, row in is_open.items():
        if topic not in still and row["vendor"] not in at_work and not any(_covers(each, row) for each in found):
            row["closed_at"] = at
    return kept


def _covers(found: Found, row: dict[str, Any]) -> bool:
    """Does what is wrong now leave it open whether the incident is over?"""
    if found.event or found.vendor is None or found.vendor != row["vendor"]:
        return False
    if row["kind"] == "stale":
        return True
    return row["subject"] is not None and found.subject in (None, row["subject"])


def _row(found: Found, at: str) -> dict[str, Any]:
    names = ("topic", "kind", "vendor", "subject", "what", "why", "todo", "run_id")
    told: dict[str, Any] = {name: getattr(found, name) for name in names}
    times = {"opened_at": at, "seen_at": at, "closed_at": None}
    return {"incident_id": f"{found.topic}@{at}", **told, **times, "told": "{}", "recovery_told": "{}"}


def is_event(row: dict[str, Any]) -> bool:
    return bool(row["closed_at"] == row["opened_at"])


def _found(ledger: Ledger, place: Place, *, now: datetime, first: bool) -> Iterator[Found]:
    vendors, at_work = standing(ledger, place, now=now), _at_work(ledger)
    yield from _of_the_run(ledger)
    yield from _of_dbt(ledger, now=now)
    for vendor in vendors:
        failing = list(_of_vendor(vendor))
        if vendor["vendor"] not in at_work:
            yield from failing
        if not failing:
            yield from _stale(vendor)
    since = _first_run_to_look_at(ledger, now=now, first=first)
    yield from _crashes(ledger, since)
    yield from _schema_changes(ledger, since)
    yield from _fallen(ledger, place, since)
    left_out = {table["table"] for vendor in vendors for table in vendor["tables"] if table["left_out"]}
    yield from _dark(ledger, place, left_out)


def _of_the_run(ledger: Ledger) -> Iterator[Found]:
    """The last run failed as a whole, or is recorded as under way by a process that is gone. A night that never began,
    and a replay, make nothing well."""
    for run in ledger.query(
        "SELECT * FROM runs WHERE status NOT IN (?, 'replayed') ORDER BY run_id DESC LIMIT 1", (MISSED,)
    ):
        why = run["error"] if run["status"] == "failed" else None
        if run["status"] == "running" and _is_gone(run):
            why = "it ended without a word (killed, or power lost); nothing half done is in the warehouse"
        if why:
            yield Found(
                topic="run",
                kind="run",
                what="the run did not come to its end",
                why=why,
                todo="Fix the reported error, then: nightload run",
                run_id=run["run_id"],
            )


def _of_dbt(ledger: Ledger, *, now: datetime) -> Iterator[Found]:
    """The last dbt failed; an old one is of somebody who no longer uses it."""
    for row in ledger.query("SELECT * FROM dbt_runs ORDER BY run_id DESC LIMIT 1"):
        if row["status"] == "failed" and datetime.fromisoformat(row["started_at"]) >= now - NEWS:
            yield Found(
                topic="dbt",
                kind="dbt",
                what="dbt failed",
                why=row["error"] or f"{row['failed']} of its models and tests failed",
                todo="Fix what it says, then: nightload run --then dbt",
                run_id=row["run_id"],
            )


def _at_work(ledger: Ledger) -> set[str]:
    """Vendors of a run that is under way: what fails may still be tried again, so nothing is opened or closed."""
    runs = ledger.query("SELECT * FROM runs WHERE status = 'running'")
    return {vendor for run in runs if not _is_gone(run) for vendor in json.loads(run["vendors"] or "[]")}


def _is_gone(run: dict[str, Any]) -> bool:
    if run["host"] != socket.gethostname() or not run["pid"]:
        return False  # nobody here can know
    try:
        os.kill(run["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _of_vendor(vendor: dict[str, Any]) -> Iterator[Found]:
    name = vendor["vendor"]
    again = f"then: nightload run {name}; all of it: nightload run-info {vendor['run_id']}"
    if vendor["error"]:
        parted = [f"{t['table']}: {t['error'] or _counts(t)}" for t in vendor["tables"] if t["status"] == "mismatch"]
        yield Found(
            topic=f"vendor {name}",
            kind="vendor",
            vendor=name,
            what=f"{name} failed, and nothing of it was published",
            why="; ".join([vendor["error"], *parted[:3]]),
            todo=f"Fix the reported error ({name} can be tried with: nightload check {name}), {again}",
            run_id=vendor["run_id"],
        )
        return
    whole = _of_one_cause(vendor)
    if whole is not None:
        tables, why = whole
        yield Found(
            topic=f"vendor {name}",
            kind="vendor",
            vendor=name,
            what=f"tables of {name} failed for one reason",
            why=f"{named(tables)}: {why}",
            todo=f"Fix what it says ({name} can be tried with: nightload check {name}), {again}",
            run_id=vendor["run_id"],
        )
    for table in vendor["tables"]:
        if table["status"] not in ("failed", "mismatch") or table["left_out"] or (whole and table["table"] in whole[0]):
            continue
        differs = table["status"] == "mismatch"
        anew = f"Fetch it anew: nightload run --full --table {table['table']}"
        yield Found(
            topic=f"{'counts' if differs else 'table'} {table['table']}",
            kind="counts" if differs else "table",
            vendor=name,
            subject=table["table"],
            what=f"the counts of {name} and ours part" if differs else f"tables of {name} failed",
            why=f"{table['error'] or 'they differ'} ({_counts(table)})"
            if differs
            else table["error"] or "no reason told",
            todo=f"{anew}; all of it: nightload run-info {table['run_id']}"
            if differs
            else f"Fix the reported error, {again}",
            run_id=table["run_id"],
        )


def _of_one_cause(vendor: dict[str, Any]) -> tuple[list[str], str] | None:
    """The tables that failed in the last run, and why, if the cause is the vendor's: a key, a host, a limit.

    It is, if no table failed for another reason and no other part of the run was larger.
    """
    last = [table for table in vendor["tables"] if table["run_id"] == vendor["run_id"]]
    causes = by_cause((t["table"], t["error"] or "") for t in last if t["status"] == "failed")
    return causes[0] if len(causes) == 1 and max(2, len(last) / 2) <= len(causes[0][0]) else None


def _counts(table: dict[str, Any]) -> str:
    names = {"vendor_count": "vendor", "extracted": "extracted", "landed": "landed", "live": "live"}
    return ", ".join(f"{shown} {table[name]}" for name, shown in names.items() if table[name] is not None)


def _stale(vendor: dict[str, Any]) -> Iterator[Found]:
    name = vendor["vendor"]
    late = [(name, vendor)] if vendor["fresh"] is False else []
    late = late or [(table["table"], table) for table in vendor["tables"] if table["fresh"] is False]
    for subject, row in late:
        yield Found(
            topic=f"stale {subject}",
            kind="stale",
            vendor=name,
            subject=None if subject == name else subject,
            what=f"{name} is stale" if subject == name else f"tables of {name} are stale",
            why=f"last good {row['last_good'] or 'never'}",
            todo="See that the schedule runs, and what the last run says: nightload status; to load it now: "
            f"nightload run {name}. If it need not be fresh, say so in [status.stale_after]",
            run_id=row["run_id"],
        )


def _first_run_to_look_at(ledger: Ledger, *, now: datetime, first: bool) -> str:
    """Events of runs from here on; where nothing was ever found, what came before the last run is no news."""
    recent = (now - NEWS).isoformat(timespec="milliseconds")
    rows = ledger.query("SELECT min(run_id) AS since, max(run_id) AS last FROM runs WHERE started_at >= ?", (recent,))
    return str(rows[0]["last" if first else "since"] or "~")


def _crashes(ledger: Ledger, since: str) -> Iterator[Found]:
    """Crashed runs that were closed by a later one."""
    rows = ledger.query(
        "SELECT run_id, error FROM runs WHERE run_id >= ? AND status = 'crashed' AND NOT EXISTS "
        "(SELECT 1 FROM incidents i WHERE i.topic = 'run' AND i.run_id = runs.run_id)",
        (since,),
    )
    for run in rows:
        yield Found(
            topic=f"crash {run['run_id']}",
            kind="run",
            what="a run crashed; the next one began anew",
            why=run["error"] or "it ended without a word",
            todo="If this comes again, look for what ends it: memory, a time limit, power",
            run_id=run["run_id"],
            event=True,
        )


def _schema_changes(ledger: Ledger, since: str) -> Iterator[Found]:
    """Columns and tables that appeared, went or changed their type, after a vendor's first good run."""
    rows = ledger.query(
        "SELECT * FROM schema_changes c WHERE run_id >= ? AND EXISTS (SELECT 1 FROM run_vendors v "
        "WHERE v.vendor = c.vendor AND v.run_id < c.run_id AND v.status = 'ok') "
        # a table that was dropped here comes again, and that is no news
        "AND NOT (c.change = 'new table' AND EXISTS (SELECT 1 FROM interventions i WHERE i.action = 'drop' "
        " AND i.dataset = c.dataset AND i.table_name = c.table_name AND i.done_at < c.changed_at)) ORDER BY run_id",
        (since,),
    )
    together: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in rows if row["change"] not in ("dark", "values again", "dropped column")):
        together.setdefault((row["run_id"], row["vendor"]), []).append(change_in_words(row))
    for (run_id, vendor), changes in together.items():
        more = f"; and {len(changes) - 20} more" if len(changes) > 20 else ""
        yield Found(
            topic=f"schema {run_id} {vendor}",
            kind="drift",
            vendor=vendor,
            what=f"{vendor} changed its tables",
            why="; ".join(changes[:20]) + more,
            todo=f"See that what reads these tables can live with it; all of it: nightload run-info {run_id}",
            run_id=run_id,
            event=True,
        )


def _dark(ledger: Ledger, place: Place, left_out: Collection[str]) -> Iterator[Found]:
    """Columns of which no row that came has a value any more, until one has."""
    told = section(place.home, "drift", known=SECTIONS["drift"]).get("dark")
    rows = ledger.query(
        "SELECT c.vendor, c.dataset || '.' || c.table_name AS \"table\", c.column_name, c.changed_at, c.run_id, "
        "t.extracted FROM schema_changes c LEFT JOIN run_tables t ON t.run_id = c.run_id AND t.vendor = c.vendor "
        "AND t.dataset = c.dataset AND t.table_name = c.table_name WHERE c.change = 'dark' AND NOT EXISTS "
        "(SELECT 1 FROM schema_changes l WHERE (l.run_id, l.rowid) > (c.run_id, c.rowid) AND l.dataset = c.dataset "
        "AND l.table_name = c.table_name AND (l.column_name = c.column_name AND l.change IN ('values again', "
        "'dropped column') OR l.change = 'dropped table')) ORDER BY c.run_id"
    )
    for row in rows:
        if row["table"] in left_out or not truth(
            per_table(told, row["table"], row["vendor"], True), setting="drift.dark"
        ):
            continue
        yield Found(
            topic=f"dark {row['table']}.{row['column_name']}",
            kind="drift",
            vendor=row["vendor"],
            subject=f"{row['table']}.{row['column_name']}",
            what=f"columns of {row['vendor']} went dark",
            why=f"it had values, and since {row['changed_at'][:16]}Z no row that comes has one "
            f"({row['extracted'] or 0:,} rows in run {row['run_id']})",
            todo="See at the vendor's whether the field is still filled, and that what reads it can live without; if "
            f'it may be empty, say so in [drift]: dark = {{"{row["table"]}" = false}}',
            run_id=row["run_id"],
        )


def change_in_words(row: dict[str, Any]) -> str:
    table = f"{row['dataset']}.{row['table_name']}"
    match row["change"]:
        case "new column":
            return f"{table}: new column {row['column_name']} ({row['new_type']})"
        case "renamed column":
            return f"{table}: a column is called {row['column_name']} now: Postgres takes no column of the old name"
        case "dark":
            return f"{table}: column {row['column_name']} went dark: no row that comes has a value in it"
        case "values again" | "dropped column":
            return f"{table}: {row['change']} ({row['column_name']})"
        case "type":
            return f"{table}: column {row['column_name']} was {row['old_type']} and is {row['new_type']}"
        case other:
            return f"{table}: {other}"


def _fallen(ledger: Ledger, place: Place, since: str) -> Iterator[Found]:
    """Tables with fewer live rows than a share of what the good run before left."""
    drift = section(place.home, "drift", known=SECTIONS["drift"])
    rows = ledger.query(
        "SELECT * FROM (SELECT t.vendor, t.dataset || '.' || t.table_name AS \"table\", t.run_id, t.live, "  # noqa: S608
        "(SELECT b.live FROM run_tables b WHERE b.vendor = t.vendor AND b.dataset = t.dataset "
        " AND b.table_name = t.table_name AND b.run_id < t.run_id AND b.live IS NOT NULL "
        " AND NOT EXISTS (SELECT 1 FROM interventions i JOIN runs d ON d.run_id = b.run_id WHERE i.action = 'drop' "
        "  AND i.dataset = t.dataset AND i.table_name = t.table_name AND i.done_at > d.started_at) "
        f" AND b.status IN {GOOD} ORDER BY b.run_id DESC LIMIT 1) AS before "
        "FROM run_tables t JOIN run_vendors v ON v.run_id = t.run_id AND v.vendor = t.vendor "
        f"WHERE t.run_id >= ? AND t.live IS NOT NULL AND t.status IN {GOOD}) WHERE live < before AND before >= ?",
        (since, int(drift.get("min_rows", MIN_ROWS))),
    )
    for row in rows:
        least = per_table(drift.get("fewer_than"), row["table"], row["vendor"], FEWER_THAN)
        if row["live"] < share(least, setting="drift.fewer_than") * row["before"]:
            yield Found(
                topic=f"fewer {row['run_id']} {row['table']}",
                kind="drift",
                vendor=row["vendor"],
                subject=row["table"],
                what=f"tables of {row['vendor']} lost many of their rows",
                why=f"{row['before']:,} rows were live after the good run before, {row['live']:,} are now",
                todo="See at the vendor's whether that is meant; what is gone there is marked in _deleted_at and kept",
                run_id=row["run_id"],
                event=True,
            )


def summary(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The incidents in groups that are one message each: same kind, same vendor, the same thing said."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        own = row["subject"] or row["topic"]
        said = "" if row["kind"] in ("stale", "counts") else _without_place(row["why"], own)
        groups.setdefault((row["kind"], row["vendor"], row["what"], said, is_event(row)), []).append(row)
    return list(groups.values())


def _without_place(text: str, own: str) -> str:
    """What was said without where: errors name their place in brackets."""
    text = re.sub(r"\([^()]*\)", "", text.replace(own, "").replace(own.partition(".")[2] or own, ""))
    return re.sub(r"\d+", "#", text)


def told_on(row: dict[str, Any], column: str) -> dict[str, str | None]:
    told: dict[str, str | None] = json.loads(row[column] or "{}")
    return told
