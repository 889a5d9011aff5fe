"""GrowingIO as the sandbox serves it: what is true of it, edits, options, and its part of the faults."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import date
from typing import Any

from starlette.types import ASGIApp

from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps
from sandbox.growingio.app import build_app
from sandbox.growingio.world import AI, PROJECT, seeded, segment, today

CONSOLE_TOKEN = "CANARYgiotoken00000000000000000000000000000000000000000000000001"  # noqa: S105 - made up
CLIENT_ID = "publickey0000001"
SECRET = "CANARYgiosecret000000000000001"  # noqa: S105 - made up
OPTIONS = frozenset({"slow", "cap", "scheme", "csv", "rules", "without_list", "clock"})


class Growingio:
    name = "growingio"

    def __init__(self, seed: int, scale: float, journal: Journal) -> None:
        self._seeded = seeded(seed, scale, console_token=CONSOLE_TOKEN, client_id=CLIENT_ID, secret=SECRET)
        self.world = copy.deepcopy(self._seeded)
        self.app: ASGIApp = build_app(lambda: self.world, journal)

    def ready(self, origin: str) -> dict[str, Any]:
        return {
            "base_url": origin,
            "console_token": CONSOLE_TOKEN,
            "project_uid": PROJECT,
            "account_ai": AI,
            "client_id": CLIENT_ID,
            "secret": SECRET,
        }

    def reset(self) -> None:
        self.world = copy.deepcopy(self._seeded)

    def expire_tokens(self) -> None:
        """Another job mints: the token of before is over."""
        self.world.minted = None

    def options(self, options: Mapping[str, Any]) -> None:
        if unknown := set(options) - OPTIONS:
            raise ControlError(f"options: not known to {self.name}: {sorted(unknown)}")
        self.world.options |= options

    def truth(self) -> dict[str, dict[str, Any]]:
        tables = ("dashboards", "charts", "chart_rows", "segmentations", "rules")
        found = {}
        for table in tables:
            rows = self._rows(table)
            keys = [row.get("id") or row.get("ruleId") for row in rows]
            found[table] = {"count": len(rows), "keys": keys if table != "chart_rows" else []}
        return found

    def truth_rows(self, table: str) -> bytes:
        return dumps({"rows": self._rows(table)})

    def _rows(self, table: str) -> list[dict[str, Any]]:
        world = self.world
        match table:
            case "dashboards":
                return list(world.boards.values())
            case "charts":
                names = ("id", "name", "kind", "dims", "metrics", "timed", "told")
                return [{name: getattr(chart, name) for name in names} for chart in world.charts.values()]
            case "chart_rows":
                return [
                    {"chart": chart.id, "day": day.isoformat(), **row}
                    for chart in world.charts.values()
                    for day, rows in chart.rows.items()
                    for row in rows
                ]
            case "segmentations":
                return list(world.segments.values())
            case "rules":
                return list(world.rules.values())
        raise ControlError(f"no table {table}; there are: dashboards, charts, chart_rows, segmentations, rules")

    def edit(self, edit: Mapping[str, Any]) -> dict[str, Any]:
        table, op, row = str(edit.get("table")), str(edit.get("op")), dict(edit.get("row") or {})
        match table:
            case "chart_rows":
                self._edit_rows(edit, op, row)
            case "charts":
                chart = self.world.charts[str(edit["key"])]
                for name in set(row) & {"name", "metrics", "dims", "kind", "told"}:
                    setattr(chart, name, row[name])
            case "dashboards":
                _edit_records(self.world.boards, edit, op, row, "id")
            case "rules":
                _edit_records(self.world.rules, edit, op, row, "ruleId")
            case "segmentations":
                self._edit_segment(edit, op, row)
            case _:
                raise ControlError(f"no table {table}")
        return {"table": table, "key": edit.get("key")}

    def _edit_rows(self, edit: Mapping[str, Any], op: str, row: dict[str, Any]) -> None:
        """`key` is [chart, day] or [chart, day, number of the row]."""
        uid, day, *number = edit["key"]
        rows = self.world.charts[uid].rows.setdefault(date.fromisoformat(day), [])
        if op == "insert":
            rows.append(row)
        elif op == "update":
            rows[number[0]] = {**rows[number[0]], **row}
        elif op == "delete" and number:
            rows.pop(number[0])
        elif op == "delete":
            rows.clear()
        else:
            raise ControlError(f"no op {op} on chart_rows")

    def _edit_segment(self, edit: Mapping[str, Any], op: str, row: dict[str, Any]) -> None:
        """New users move `userNum` and, unless the edit is silent, `updatedAt`."""
        segments = self.world.segments
        if op == "insert":
            uid = str(row["id"])
            segments[uid] = {**segment(uid, "", "u", ["id"], []), **row}
            segments[uid]["userNum"] = row.get("userNum", len(segments[uid]["users"]))
            return
        uid = str(edit["key"])
        if op == "delete":
            del segments[uid]
        elif op == "update":
            segments[uid] = {**segments[uid], **row}
            if "users" in row and "userNum" not in row:
                segments[uid]["userNum"] = len(row["users"])
            if not edit.get("silent") and "updatedAt" not in row:
                segments[uid]["updatedAt"] = today().isoformat()
        else:
            raise ControlError(f"no op {op} on segmentations")

    def emptied(self, body: Any) -> Any:
        if isinstance(body, dict):
            return {**body, **{name: [] for name in ("data", "charts") if name in body}}
        return []

    def drifted(self, body: Any, by: int) -> Any:
        if isinstance(body, list):
            return [{**row, "userNum": row["userNum"] + by} if "userNum" in row else row for row in body]
        return body


def _edit_records(records: dict[str, Any], edit: Mapping[str, Any], op: str, row: dict[str, Any], key: str) -> None:
    if op == "insert":
        records[str(row[key])] = row
    elif op == "delete":
        del records[str(edit["key"])]
    elif op == "update":
        records[str(edit["key"])] = {**records[str(edit["key"])], **row}
    else:
        raise ControlError(f"no op {op}")
