"""TUNE as the sandbox serves it: what is true of it, edits, options, and its part of the faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps, mysql_time, now
from sandbox.tune.app import World, build_app
from sandbox.tune.data import key_of, seeded
from sandbox.tune.models import MODELS, Model
from sandbox.tune.stats import seeded_stats

API_KEY = "CANARYtuneapikey0000000000000001"


class Tune:
    name = "tune"

    def __init__(self, seed: int, scale: float, journal: Journal) -> None:
        self._seed = seed
        self._scale = scale
        self._tables = seeded(seed, scale)
        self.world = self._fresh()
        self.app: ASGIApp = build_app(lambda: self.world, journal)

    def ready(self, origin: str) -> dict[str, Any]:
        return {"base_url": f"{origin}/v2", "api_key": API_KEY}

    def reset(self) -> None:
        self.world = self._fresh()

    def _fresh(self) -> World:
        # Edits replace records and never change one, so the seeded ones can be shared.
        tables = {path: dict(table) for path, table in self._tables.items()}
        return World(self._seed, self._scale, tables, API_KEY, seeded_stats(self._seed, tables))

    def expire_tokens(self) -> None:
        self.world.sessions.clear()

    def options(self, options: Mapping[str, Any]) -> None:
        options = dict(options)
        self.world.queue.options |= dict(options.pop("exports", {}))
        unknown = set(options) - {"forbid"}
        forbidden = set(options.get("forbid", self.world.forbidden))
        if unknown or forbidden - set(MODELS):
            raise ControlError(f"options: not known to {self.name}: {sorted(unknown | (forbidden - set(MODELS)))}")
        self.world.forbidden = forbidden

    def truth(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path, table in self.world.tables.items():
            keys = [row["id"] for row in table.values()] if MODELS[path].key == ("id",) else list(table)
            found[path] = {"count": len(table), "keys": keys}
        return found

    def truth_rows(self, table: str) -> bytes:
        if table in self.world.stats:
            return dumps({"rows": list(self.world.stats[table].values())})
        _model(table)
        return dumps({"rows": list(self.world.tables[table].values())})

    def edit(self, edit: Mapping[str, Any]) -> dict[str, Any]:
        path, op, row = str(edit.get("table")), edit.get("op"), dict(edit.get("row") or {})
        if path in self.world.stats:
            return self._restate(path, op, row, str(edit.get("key")))
        model, table = _model(path), self.world.tables[path]
        strange = set(row) - set(model.fields)
        if strange:
            raise ControlError(f"{path} has no {', '.join(sorted(strange))}")
        if op == "insert":
            return {"table": path, "key": self._insert(model, row)}
        key = str(edit["key"])
        if key not in table:
            raise ControlError(f"no {key} in {path}")
        if op == "delete":
            del table[key]
        elif op == "update":
            record = {**table[key], **row}
            if "modified" in model.fields and "modified" not in row and not edit.get("silent"):
                record["modified"] = mysql_time(now())
            # In place, so that an update does not move the record to the end of the table.
            self.world.tables[path] = {
                (key_of(model, record) if k == key else k): (record if k == key else v) for k, v in table.items()
            }
        else:
            raise ControlError(f"no op {op} on {path}")
        return {"table": path, "key": edit["key"]}

    def _restate(self, path: str, op: Any, row: dict[str, Any], key: str) -> dict[str, Any]:
        """A late row (a copy of `key` with another id), a corrected one, or one that is gone."""
        facts = self.world.stats[path]
        if key not in facts:
            raise ControlError(f"no {key} in {path}")
        if op == "delete":
            self.world.stats[path] = {name: fact for name, fact in facts.items() if name != key}
        elif op == "update":
            facts[key] = {**facts[key], **row}
        elif op == "insert":
            new = str(row.get("id") or f"{key}-late") if path.startswith("logs/") else str(max(map(int, facts)) + 1)
            facts[new] = {**facts[key], "id": new if path.startswith("logs/") else int(new), **row}
            key = new
        else:
            raise ControlError(f"no op {op} on {path}")
        return {"table": path, "key": key}

    def _insert(self, model: Model, row: dict[str, Any]) -> Any:
        table = self.world.tables[model.path]
        record: dict[str, Any] = dict.fromkeys(model.fields)
        if "id" in model.fields:
            small = [int(r["id"]) for r in table.values() if int(r["id"]) < 2**53]
            record["id"] = max(small, default=0) + 1
        for name in ("created", "modified"):
            if name in model.fields:
                record[name] = mysql_time(now())
        record.update(row)
        if any(record[name] is None for name in model.key):
            raise ControlError(f"an insert into {model.path} needs {', '.join(model.key)}")
        key = key_of(model, record)
        if key in table:
            raise ControlError(f"{key} is in {model.path} already")
        table[key] = record
        return record.get("id", key)

    def emptied(self, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        by_kind: dict[type, Any] = {list: [], int: 0, dict: {}}
        return {**body, "data": by_kind.get(type(body.get("data")), "")}

    def drifted(self, body: Any, by: int) -> Any:
        if isinstance(body, dict) and isinstance(body.get("data"), int):
            return {**body, "data": body["data"] + by}
        return body


def _model(path: str) -> Model:
    if path not in MODELS:
        raise ControlError(f"no table {path}; there are: {', '.join(MODELS)}")
    return MODELS[path]
