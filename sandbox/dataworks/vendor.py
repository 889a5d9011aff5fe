"""DataWorks as the sandbox serves it: what is true of it, edits, options, and its part of the faults."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Scope

from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps, now
from sandbox.dataworks.app import World, build_app
from sandbox.dataworks.data import KEYS, TABLES, key_of, seeded, stamp
from sandbox.dataworks.signing import Keys

ACCESS_KEY_ID = "CANARYLTAI5tDataworks01"
ACCESS_KEY_SECRET = "CANARYdataworksSecret0123456789"  # noqa: S105 - the sandbox's own
_OPTIONS = frozenset(
    {
        "clock", "list_details", "largest_page", "clamps", "empty_list", "forbid", "daily_limit", "repeat",
        "security_token",
    }
)  # fmt: skip


class Dataworks:
    name = "dataworks"

    def __init__(self, seed: int, scale: float, journal: Journal) -> None:
        self._tables = seeded(seed, scale)
        self.world = self._fresh()
        self.app: ASGIApp = build_app(lambda: self.world, journal)

    def ready(self, origin: str) -> dict[str, Any]:
        return {"base_url": origin, "access_key_id": ACCESS_KEY_ID, "access_key_secret": ACCESS_KEY_SECRET}

    def target(self, scope: Scope) -> str:
        """Every action has the same path: its name stands for it."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        headers = dict(scope["headers"])
        action = query.get("Action", [headers.get(b"x-acs-action", b"").decode("latin-1")])[0]
        return f"/{action}?{scope['query_string'].decode('latin-1')}"

    def reset(self) -> None:
        self.world = self._fresh()

    def _fresh(self) -> World:
        # Edits replace rows and never change one, so the seeded ones can be shared.
        tables = {table: list(rows) for table, rows in self._tables.items()}
        return World(tables, Keys(ACCESS_KEY_ID, ACCESS_KEY_SECRET))

    def expire_tokens(self) -> None:
        self.world.keys = replace(self.world.keys, is_active=False)

    def options(self, options: Mapping[str, Any]) -> None:
        """`repeat` is {action: so many times}: a page that is the one before it."""
        if unknown := set(options) - _OPTIONS:
            raise ControlError(f"options: not known to {self.name}: {sorted(unknown)}")
        given = dict(options)
        if "forbid" in given:
            self.world.forbidden = frozenset(int(each) for each in given.pop("forbid"))
        if "security_token" in given:
            self.world.keys = replace(self.world.keys, security_token=str(given.pop("security_token")))
        for name, value in given.items():
            setattr(self.world, name, value)

    def truth(self) -> dict[str, dict[str, Any]]:
        return {
            table: {"count": len(rows), "keys": [key_of(table, row) for row in rows]}
            for table, rows in self.world.tables.items()
        }

    def truth_rows(self, table: str) -> bytes:
        _check(table)
        return dumps({"rows": self.world.tables[table]})

    def edit(self, edit: Mapping[str, Any]) -> dict[str, Any]:
        """`key` is `<workspace>/<id>`, or the id alone of projects and tests. `first`: insert before the others."""
        table, op, row = str(edit.get("table")), edit.get("op"), dict(edit.get("row") or {})
        _check(table)
        rows = self.world.tables[table]
        if op == "insert":
            record = {**copy.deepcopy(rows[0]), **row}
            key = key_of(table, record)
            if any(key_of(table, each) == key for each in rows):
                raise ControlError(f"{key} is in {table} already")
            self.world.tables[table] = [record, *rows] if edit.get("first") else [*rows, record]
            return {"table": table, "key": key}
        key = str(edit["key"])
        if not any(key_of(table, each) == key for each in rows):
            raise ControlError(f"no {key} in {table}")
        if op == "delete":
            self.world.tables[table] = [each for each in rows if key_of(table, each) != key]
        elif op == "update":
            moved = {"ModifiedTime": stamp(now())} if "ModifiedTime" in rows[0] and not edit.get("silent") else {}
            self.world.tables[table] = [
                {**each, **moved, **row} if key_of(table, each) == key else each for each in rows
            ]
        else:
            raise ControlError(f"no op {op} on {table}")
        return {"table": table, "key": key}

    def emptied(self, body: Any) -> Any:
        return _with_holder(body, lambda holder: {**holder, "TotalCount": 0, **{name: [] for name in _lists(holder)}})

    def drifted(self, body: Any, by: int) -> Any:
        return _with_holder(body, lambda holder: {**holder, "TotalCount": holder["TotalCount"] + by})


def _with_holder(body: Any, change: Any) -> Any:
    if not isinstance(body, dict):
        return body
    return {
        name: change(value) if isinstance(value, dict) and "TotalCount" in value else value
        for name, value in body.items()
    }


def _lists(holder: Mapping[str, Any]) -> list[str]:
    return [name for name, value in holder.items() if isinstance(value, list)]


def _check(table: str) -> None:
    if table not in TABLES or table not in KEYS:
        raise ControlError(f"no table {table}; there are: {', '.join(TABLES)}")
