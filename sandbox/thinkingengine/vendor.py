"""ThinkingEngine as the sandbox serves it: what is true of it, edits, options, and its part of the faults."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.types import ASGIApp

from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps, now
from sandbox.thinkingengine.app import build_app
from sandbox.thinkingengine.data import DAYS, LOGIN, PROJECT, PROJECT_TOKEN, ROOT_TOKEN, Row, World, seeded
from sandbox.thinkingengine.sql import OPTIONS, Sql

KEYS = {
    "v_event": "#uuid",
    "v_user": "#user_id",
    "user_result_cluster": "#user_id",
    "dim": "#account_id@cps_group",
    "event_meta": "eventName",
    "property_meta": "columnName",
    "virtual_events": "eventName",
    "user_clusters": "clusterName",
    "reports": "reportId",
    "dashboards": "dashbord_id",
    "metrics": "metricId",
    "projects": "projectId",
    "users_of_company": "loginName",
}


class Thinkingengine:
    name = "thinkingengine"

    def __init__(self, seed: int, scale: float, journal: Journal) -> None:
        self._seeded = seeded(seed, scale)
        self._sql = Sql()
        self.world = self._fresh()
        self.app: ASGIApp = build_app(lambda: self.world, self._sql, journal)

    def ready(self, origin: str) -> dict[str, Any]:
        return {
            "base_url": f"{origin}",
            "token": PROJECT_TOKEN,
            "root_token": ROOT_TOKEN,
            "project_id": str(PROJECT),
            "login_name": LOGIN,
            "events": '["login", "purchase"]',
            "events_from": f"{now() - timedelta(days=DAYS + 1):%Y-%m-%d}",
            "users": "true",
            "user_shards": "2",
            "cluster_members": "true",
            "dimensions": '{"cps": "dim_7_0_12"}',
        }

    def reset(self) -> None:
        self.world = self._fresh()

    def _fresh(self) -> World:
        # Edits replace rows and never change one, so the seeded ones can be shared.
        seed = self._seeded
        return World(
            tables={name: list(rows) for name, rows in seed.tables.items()},
            lists={name: list(rows) for name, rows in seed.lists.items()},
            columns=copy.deepcopy(seed.columns),
            version=0,
            options=dict(OPTIONS),
        )

    def expire_tokens(self) -> None:
        self.world.keys_expired = True

    def options(self, options: Mapping[str, Any]) -> None:
        if unknown := set(options) - set(OPTIONS):
            raise ControlError(f"options: not known to {self.name}: {sorted(unknown)}")
        self.world.options |= options

    def truth(self) -> dict[str, dict[str, Any]]:
        tables = {**self.world.tables, **self.world.lists}
        return {
            name: {"count": len(rows), "keys": [row.get(KEYS[name]) for row in rows]} for name, rows in tables.items()
        }

    def truth_rows(self, table: str) -> bytes:
        return dumps({"rows": self._rows(table)})

    def _rows(self, table: str) -> list[Row]:
        for tables in (self.world.tables, self.world.lists):
            if table in tables:
                return tables[table]
        raise ControlError(f"no table {table}; there are: {', '.join(KEYS)}")

    def edit(self, edit: Mapping[str, Any]) -> dict[str, Any]:
        """`op` column adds a column to a table of SQL: row = {"name", "type"}, and "first" if it is to be the first.

        `op` clear deletes the rows that have all values of `row`.
        """
        table, op, row = str(edit.get("table")), edit.get("op"), dict(edit.get("row") or {})
        rows, label = self._rows(table), KEYS.get(table, "")
        self.world.version += 1
        if op == "column":
            new = {str(row["name"]): str(row["type"])}
            there = self.world.columns[table]
            self.world.columns[table] = {**new, **there} if row.get("first") else {**there, **new}
            return {"table": table, "key": row["name"]}
        if table in self.world.columns and (strange := set(row) - set(self.world.columns[table])):
            raise ControlError(f"{table} has no {', '.join(sorted(strange))}")
        if op == "clear":
            rows[:] = [each for each in rows if any(each.get(name) != value for name, value in row.items())]
            return {"table": table, "key": None}
        if op == "insert":
            rows.append(row)
            return {"table": table, "key": row.get(label)}
        places = [place for place, each in enumerate(rows) if str(each.get(label)) == str(edit["key"])]
        if not places:
            raise ControlError(f"no {edit['key']} in {table}")
        if op == "delete":
            del rows[places[0]]
        elif op == "update":
            rows[places[0]] = {**rows[places[0]], **row}
        else:
            raise ControlError(f"no op {op} on {table}")
        return {"table": table, "key": edit["key"]}

    def emptied(self, body: Any) -> Any:
        if not isinstance(body, dict) or "data" not in body:
            return body
        data = body["data"]
        if isinstance(data, list):
            return {**body, "data": []}
        return {**body, "data": {name: [] if isinstance(held, list) else held for name, held in data.items()}}

    def drifted(self, body: Any, by: int) -> Any:
        stat = body.get("data", {}).get("resultStat") if isinstance(body, dict) else None
        if not isinstance(stat, dict) or "rowCount" not in stat:
            return body
        return {**body, "data": {**body["data"], "resultStat": {**stat, "rowCount": stat["rowCount"] + by}}}
