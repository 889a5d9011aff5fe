"""TONalytica as the sandbox serves it: what is true of it, edits, options, and its part of the faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps
from sandbox.tonalytica import shapes
from sandbox.tonalytica.app import build_app
from sandbox.tonalytica.data import seeded
from sandbox.tonalytica.edits import apply_edit
from sandbox.tonalytica.world import VERSIONS, World

TABLES = (
    "queries", "dashboards", "widgets", "visualizations", "data_sources", "users", "alerts", "query_snippets",
    "query_results",
)  # fmt: skip


class Tonalytica:
    name = "tonalytica"

    def __init__(self, seed: int, scale: float, journal: Journal) -> None:
        self._seed = seed
        self._scale = scale
        self.world = seeded(seed, scale)
        self.app: ASGIApp = build_app(lambda: self.world, journal)

    def ready(self, origin: str) -> dict[str, Any]:
        world = self.world
        analyst = next(u for u in world.users.values() if not u.is_admin and u.disabled_at is None)
        disabled = next(u for u in world.users.values() if u.disabled_at is not None)
        return {
            "base_url": origin,
            "api_key": world.users[1].api_key,
            "query_keys": {str(query.id): query.api_key for query in world.queries.values()},
            "other_keys": {"analyst": analyst.api_key, "disabled": disabled.api_key},
        }

    def reset(self) -> None:
        self.world = seeded(self._seed, self._scale)

    def expire_tokens(self) -> None:
        self.world.keys_expired = True

    def options(self, options: Mapping[str, Any]) -> None:
        unknown = set(options) - {"version", "job_seconds", "job_race", "forbid", "keys_expired", "writes"}
        if unknown or options.get("version", "current") not in VERSIONS or options.get("forbid"):
            raise ControlError(f"options: not known to {self.name}: {dict(options)}")
        self.world.version = options.get("version", self.world.version)
        self.world.job_seconds = float(options.get("job_seconds", self.world.job_seconds))
        self.world.job_race = int(options.get("job_race", self.world.job_race))
        self.world.writes = bool(options.get("writes", self.world.writes))
        self.world.keys_expired = bool(options.get("keys_expired", self.world.keys_expired))

    def edit(self, edit: Mapping[str, Any]) -> dict[str, Any]:
        self.world.settle()
        return apply_edit(self.world, edit)

    def truth(self) -> dict[str, dict[str, Any]]:
        self.world.settle()
        found = {table: [row["id"] for row in self._rows(table)] for table in TABLES}
        return {table: {"count": len(keys), "keys": keys} for table, keys in found.items()}

    def truth_rows(self, table: str) -> bytes:
        self.world.settle()
        if table.startswith("results/") and table[8:].isdigit():
            result = self.world.results.get(int(table[8:]))
            if result is None:
                raise ControlError(f"no result {table[8:]}")
            return b'{"rows":' + result.rows_json() + b"}"
        if table not in TABLES:
            raise ControlError(f"no table {table}; there are: {', '.join(TABLES)} and results/<id>")
        return dumps({"rows": self._rows(table)})

    def _rows(self, table: str) -> list[dict[str, Any]]:
        world, admin = self.world, self.world.users[1]
        match table:
            case "queries":
                return [self._query(world, query) for query in world.queries.values()]
            case "dashboards":
                listed = {d.id for d in world.listed_dashboards(admin)}
                rows = []
                for found in world.dashboards.values():
                    row = shapes.dashboard_single(world, found, admin, "")
                    row["widgets"].sort(key=lambda widget: widget["id"])
                    rows.append({**row, "_where": "list" if found.id in listed else "hidden"})
                return rows
            case "widgets":
                return [shapes.widget(world, w, admin) for w in world.widgets.values()]
            case "visualizations":
                return [{**shapes.visualization(v), "_query_id": v.query_id} for v in world.visualizations.values()]
            case "data_sources":
                return [shapes.data_source_single(s, admin) for s in world.data_sources.values()]
            case "users":
                return [
                    {**shapes.user_listed(world, u), "_where": "list" if u.disabled_at is None else "disabled"}
                    for u in world.users.values()
                ]
            case "alerts":
                return [shapes.alert(world, a) for a in world.alerts.values()]
            case "query_snippets":
                return [shapes.snippet(world, s) for s in world.snippets.values()]
        pointing: dict[int | None, list[int]] = {}
        for query in world.queries.values():
            pointing.setdefault(world.latest_result_id(query), []).append(query.id)
        return [
            {
                "id": r.id,
                "query_ids": pointing.get(r.id, []),
                "query_hash": r.query_hash,
                "query": r.query,
                "data_source_id": r.data_source_id,
                "retrieved_at": r.retrieved_at,
                "runtime": r.runtime,
                "columns": shapes.result_columns(world, r),
                "row_count": r.row_count,
            }
            for r in world.results.values()
        ]

    def _query(self, world: World, query: Any) -> dict[str, Any]:
        admin = world.users[1]
        listed = shapes.query_listed(world, query)
        where = "hidden"
        if query.is_archived and (not query.is_draft or query.user_id == admin.id):
            where = "archive"
        elif not query.is_archived:
            where = "list"
        if not world.in_groups(admin, query.data_source_id):
            where = "hidden"
        extra = {key: listed[key] for key in ("last_modified_by_id", "retrieved_at", "runtime")}
        return {**shapes.query_single(world, query, admin), **extra, "_where": where}

    def emptied(self, body: Any) -> Any:
        if isinstance(body, list):
            return []
        if isinstance(body, dict) and "results" in body:
            return {**body, "count": 0, "results": []}
        if isinstance(body, dict) and "query_result" in body:
            result = body["query_result"]
            return {"query_result": {**result, "data": {**result["data"], "rows": []}}}
        return body

    def drifted(self, body: Any, by: int) -> Any:
        if isinstance(body, dict) and isinstance(body.get("count"), int):
            return {**body, "count": body["count"] + by}
        return body
