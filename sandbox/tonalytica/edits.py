"""Edits from the control path: what authors do in the web app between two requests of a loader.

They move what the real ones move: an update touches its own `updated_at` and no parent's, an execution touches the
latest result and no `updated_at` (sections 4 and 7).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps, iso, now
from sandbox.tonalytica.boards import add_widget
from sandbox.tonalytica.data import add_visualizations, canary
from sandbox.tonalytica.records import (
    Alert,
    Dashboard,
    Query,
    Result,
    Snippet,
    User,
    limited,
    query_hash,
    render,
    slugify,
)
from sandbox.tonalytica.tables import StatementError
from sandbox.tonalytica.world import World, rendered_value

TABLES: dict[str, str] = {
    "queries": "queries",
    "dashboards": "dashboards",
    "widgets": "widgets",
    "visualizations": "visualizations",
    "data_sources": "data_sources",
    "users": "users",
    "alerts": "alerts",
    "query_snippets": "snippets",
    "query_results": "results",
}


def apply_edit(world: World, edit: Mapping[str, Any]) -> dict[str, Any]:
    table, op, row = edit.get("table"), edit.get("op"), dict(edit.get("row") or {})
    if table not in TABLES:
        raise ControlError(f"no table {table}; there are: {', '.join(TABLES)}")
    rows: dict[int, Any] = getattr(world, TABLES[table])
    if op == "insert":
        return {"table": table, "key": _insert(world, table, row)}
    key = int(edit["key"])
    if key not in rows:
        raise ControlError(f"no {key} in {table}")
    match op:
        case "update":
            _set(rows[key], row)
            if not edit.get("silent") and hasattr(rows[key], "updated_at") and "updated_at" not in row:
                rows[key].updated_at = iso(now())
            return {"table": table, "key": key}
        case "delete":
            _delete(world, table, key)
            return {"table": table, "key": key}
        case "execute" if table == "queries":
            return {"table": table, "key": key, "result_id": execute(world, world.queries[key], row)}
    raise ControlError(f"no op {op} on {table}")


def execute(world: World, query: Query, given: Mapping[str, Any]) -> int:
    """A plain run, with the query's own defaults; `rows` and `columns` stand in for what the warehouse would answer."""
    if query.data_source_id is None:
        raise ControlError(f"query {query.id} has no data source")
    values = {p["name"]: rendered_value(p, p.get("value")) for p in query.parameters}
    text = render(query.query, values) if values else query.query
    text = limited(text) if query.is_auto_limited else text
    if "rows" not in given and "columns" not in given:
        try:
            return world.run(text, query.data_source_id, query.recipe).id
        except StatementError as error:
            raise ControlError(f"query {query.id} fails: {error}") from error
    rows = list(given.get("rows", []))
    names = dict.fromkeys(name for row in rows for name in row)
    columns = given.get("columns") or [{"name": n, "friendly_name": n, "type": None} for n in names]
    columns = [{"name": c, "friendly_name": c, "type": None} if isinstance(c, str) else c for c in columns]
    return world.store(
        Result(
            0, query_hash(text), text, query.data_source_id, columns, len(rows), lambda: dumps(rows), 0.01, iso(now())
        )
    ).id


def _set(record: Any, row: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(record)} - {"id", "visualizations"}
    strange = set(row) - known
    if strange:
        raise ControlError(f"not to be set: {', '.join(sorted(strange))}; there are: {', '.join(sorted(known))}")
    for name, value in row.items():
        # JSON has no numbers as keys
        keyed = name == "groups" and isinstance(value, dict)
        setattr(record, name, {int(key): each for key, each in value.items()} if keyed else value)


def _insert(world: World, table: str, row: dict[str, Any]) -> int:
    given = row.pop("id", None)
    key = int(given) if given is not None else world.next_id(table)
    world.ids[table] = max(world.ids.get(table, 0), key)
    moment = iso(now())
    record: Any
    match table:
        case "queries":
            text = str(row.get("query", f"select {key} as inserted"))
            record = Query(key, f"Inserted {key}", text, canary("query", key), 1, 1, 1, moment, moment, "daily")
            _set(record, row)
            world.queries[key] = record
            add_visualizations(world, record, random.Random(f"{world.seed}|{key}"))
        case "dashboards":
            name = str(row.get("name", f"Inserted {key}"))
            record = world.dashboards[key] = Dashboard(key, name, f"{slugify(name)}_{key}", 1, moment, moment)
            _set(record, row)
        case "widgets":
            board, chart = int(row.pop("dashboard_id")), row.pop("visualization_id", None)
            record = add_widget(world, board, str(row.pop("text", "")), chart, 0, moment)
            _set(record, row)
            key = record.id
        case "users":
            record = world.users[key] = User(
                key, f"Inserted {key}", f"member{key}@tonalytica.invalid", canary("user", key), [2], moment, moment
            )
            _set(record, row)
        case "alerts":
            options = {"op": ">", "muted": False, "value": 1, "column": "id", "selector": "first"}
            query_id = int(row.pop("query_id", next(iter(world.queries))))
            record = world.alerts[key] = Alert(key, f"Alert {key}", query_id, 1, options, "unknown", moment, moment)
            _set(record, row)
        case "query_snippets":
            record = world.snippets[key] = Snippet(key, f"snip{key}", "", "select 1", 1, moment, moment)
            _set(record, row)
        case _:
            raise ControlError(f"no insert into {table}")
    return key


def _delete(world: World, table: str, key: int) -> None:
    """Truly gone, with what hangs on it: Redash itself only archives, but rows do vanish behind an API."""
    match table:
        case "queries":
            for chart in world.queries[key].visualizations:
                _delete(world, "visualizations", chart.id)
            for alert in [a.id for a in world.alerts.values() if a.query_id == key]:
                del world.alerts[alert]
        case "visualizations":
            for widget in [w.id for w in world.widgets.values() if w.visualization_id == key]:
                del world.widgets[widget]
            owner = world.queries[world.visualizations[key].query_id]
            owner.visualizations = [v for v in owner.visualizations if v.id != key]
        case "dashboards":
            for widget in [w.id for w in world.widgets.values() if w.dashboard_id == key]:
                del world.widgets[widget]
        case "data_sources":
            for query in world.queries.values():
                if query.data_source_id == key:
                    query.data_source_id = query.latest_query_data_id = None
            for result in [r.id for r in world.results.values() if r.data_source_id == key]:
                del world.results[result]
        case "query_results":
            for query in world.queries.values():
                if query.latest_query_data_id == key:
                    query.latest_query_data_id = None
        case "users":
            owners = {key for q in world.queries.values() for key in (q.user_id, q.last_modified_by_id)}
            owners |= {d.user_id for d in world.dashboards.values()} | {a.user_id for a in world.alerts.values()}
            if key in owners:
                raise ControlError(f"user {key} owns queries, dashboards or alerts: set disabled_at instead")
    del getattr(world, TABLES[table])[key]
