"""Model queries: event and distribution in the shapes that are known, the others in shapes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from sandbox.core.wire import now
from sandbox.thinkingengine.data import PROJECT, World
from sandbox.thinkingengine.envelope import Refusal

PATHS = {
    "/open/event-analyze": "event",
    "/open/retention-analyze": "retention",
    "/open/funnel-analyze": "funnel",
    "/open/distribution-analyze": "distribution",
    "/open/path-analyze": "path",
    "/open/interval-analyze": "interval",
    "/open/user-prop-analyze": "property",
    "/open/metric-data": "event",
}


def answer(world: World, model: str, body: Mapping[str, Any]) -> Any:
    if body.get("projectId") != PROJECT:
        raise Refusal(-3004, "Invalid project", unexpected="a model query without its project")
    if model == "path":
        return {"nodes": [{"id": "a", "to": {"b": 2}}], "from": body.get("from_date"), "session_count": 2**53 + 1}
    view = body.get("eventView")
    if not isinstance(view, Mapping):
        raise Refusal(-2004, "Parameter lost: eventView", unexpected="a model query without eventView")
    if model == "property":
        return {"value": "17", "groups": [["CN", 3], ["RU", 14]]}
    events = body.get("events")
    if not isinstance(events, list) or not events:
        raise Refusal(-1099, "The self-defined event expression is incomplete or illegal")
    days = _days(view)
    if model == "event":
        return _event(world, events, days, [each["columnName"] for each in view.get("groupBy", [])])
    if model == "distribution":
        return _distribution(world, events[0]["eventName"], days)
    return {
        "x": days,
        "result": {"group_values": [["全部"]], "steps": [[3, 2, 1], [1.5, None, 0]]},
        "total": {"users": 2**53 + 1},
        "model": model,
    }


def _days(view: Mapping[str, Any]) -> list[str]:
    try:
        first = date.fromisoformat(str(view["startTime"])[:10])
        last = date.fromisoformat(str(view["endTime"])[:10])
    except (KeyError, ValueError):
        if "recentDay" not in view:
            raise Refusal(-1008, "Parameter error: time", unexpected="a model query without a time") from None
        last = now().date() - timedelta(days=1)
        first = last - timedelta(days=6)
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def _event(world: World, events: list[Mapping[str, Any]], days: list[str], groups: list[str]) -> Any:
    y = []
    for event in events:
        rows = [row for row in world.tables["v_event"] if event["eventName"] in ("anyEvent", row["$part_event"])]
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for row in rows:
            if row["$part_date"] not in days:
                continue
            key = tuple(str(row.get(group)) for group in groups)
            by_day = found.setdefault(key, {})
            plus = 1 if event.get("analysis") == "TOTAL_TIMES" else float(row.get(str(event.get("quota"))) or 0)
            by_day[row["$part_date"]] = by_day.get(row["$part_date"], 0) + plus
        y.append(
            {
                f"{event['eventName']}.{event['analysis']}": [
                    {
                        "group_cols": list(key),
                        "values": [str(by_day[day]) if day in by_day else "-" for day in days],
                        "stageValue": {"sum": str(sum(by_day.values()))},
                    }
                    for key, by_day in found.items()
                ]
            }
        )
    return {"x": days, "y": y, "undocumented": {"alignedX": len(days)}}


def _distribution(world: World, name: str, days: list[str]) -> Any:
    y: dict[str, Any] = {}
    for day in days:
        counts: dict[int, int] = {}
        for row in world.tables["v_event"]:
            if row["$part_date"] == day and row["$part_event"] == name:
                counts[row["#user_id"]] = counts.get(row["#user_id"], 0) + 1
        y[day] = [
            {"groupCols": [], "values": [sum(n == 1 for n in counts.values()), sum(n > 1 for n in counts.values())]}
        ]
    return {"x": days, "distribution_interval": ["[1,2)", "[2,+∞)"], "y": y}
