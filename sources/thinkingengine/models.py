"""Model queries: `[[sources.thinkingengine.models]] name, model, body, window`. Each answer becomes a long table.

Two shapes are known (event, distribution). Of the others the vendor's answer tables are not public: whatever part of an
answer has no known shape is one row that holds it as JSON, so nothing of it is lost.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sources.extract.table import Mode, Table
from sources.thinkingengine import settings as has
from sources.thinkingengine.queries import NAME, Query, Window, read_days, read_window
from sources.thinkingengine.settings import Settings, refuse_unknown, wrong

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class ModelQuery:
    """One configured model query, or (without `model`) the values of a product metric."""

    name: str
    path: str
    body: Mapping[str, Any]
    window: Window | None
    days: Query
    """The same days as a query, for its windows and its cursor."""

    def table(self, settings: Settings) -> Table:
        if self.window is None:
            return Table(name=self.name, mode=Mode.LATEST, columns=has.LONG, about=f"answer of {self.path}")
        return Table(
            name=self.name,
            mode=Mode.KEPT,
            columns=has.LONG,
            scope="day",
            zone=settings.zone,
            keeps=("grid",),
            about=f"answers of {self.path} by day",
        )

    def of_days(self, start: date | None, end: date | None) -> dict[str, Any]:
        """The body to send; the window's days replace what the body says of time."""
        if start is None or end is None:
            return dict(self.body)
        view = self.body.get("eventView")
        view = {k: v for k, v in (view if isinstance(view, Mapping) else {}).items() if k != "recentDay"}
        if self.path == has.MODELS["path"]:
            plain = {k: v for k, v in self.body.items() if k != "recent_day"}
            return plain | {"from_date": start.isoformat(), "to_date": end.isoformat()}
        times = {"startTime": f"{start} 00:00:00", "endTime": f"{end} 23:59:59"}
        return {**self.body, "eventView": {**view, **times}}


def read_models(settings: Settings) -> list[ModelQuery]:
    return _read(settings, settings.models, "models")


def read_metrics(settings: Settings) -> list[ModelQuery]:
    return _read(settings, settings.metric_values, "metric_values")


def _read(settings: Settings, entries: Any, setting: str) -> list[ModelQuery]:
    found: list[ModelQuery] = []
    for number, given in enumerate(entries or (), start=1):
        where = f"{setting}[{number}]"
        known = ("name", "body", "model", "window", "lookback") if setting == "models" else ("name", "body")
        given = refuse_unknown(given, known, where)
        name, body, model = given.get("name"), given.get("body"), given.get("model")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise wrong(f"{where} has no name that a table can have", "Write name = in lower case letters, digits, _")
        if not isinstance(body, Mapping):
            raise wrong(f"{where} has no body", "Write the body of the model query, as the vendor's pages show it")
        if setting == "models" and model not in has.MODELS:
            raise wrong(f"{where}: there is no model {model!r}", f"There are: {', '.join(has.MODELS)}")
        if name in {other.name for other in found}:
            raise wrong(f"{where}: there are two named {name}", "Name each once")
        limit = body.get("limit")
        if isinstance(limit, int) and limit > has.MOST_GROUPS:
            raise wrong(f"{where}: its limit is {limit}", f"The vendor gives {has.MOST_GROUPS} groups at most")
        if settings.project_id is None:
            raise wrong("project_id is not set", "Write the number of the project (not its APPID)")
        window = read_window(given.get("window"), where)
        days = Query(
            name=name,
            sql=json.dumps(dict(body), sort_keys=True, default=str),
            project_id=settings.project_id,
            window=window,
            lookback=read_days(given.get("lookback", settings.lookback_days), f"{where}: lookback"),
            aligned=True,
        )
        path = has.MODELS[str(model)] if setting == "models" else has.METRIC_DATA
        found.append(
            ModelQuery(
                name=name,
                path=path,
                body={"projectId": settings.project_id, **body},
                window=window,
                days=days,
            )
        )
    return found


def long_rows(name: str, day: date | None, data: Any) -> tuple[list[dict[str, Any]], int]:
    """The rows of one answer, and how many values and undocumented parts the answer holds."""
    told = str(day) if day else None
    parts = dict(data) if isinstance(data, Mapping) else {"data": data}
    rows: list[dict[str, Any]] = []
    if _is_known(parts):
        rows += [{"name": name, "day": told, "part": "y", **row} for row in _values(parts)]
        parts.pop("x", None)
        parts.pop("y", None)
        parts.pop("distribution_interval", None)
    for part, held in parts.items():
        if held is not None:
            rows.append(
                {"name": name, "day": told, "part": str(part), "position": 0, "metric": "", "groups": "[]", "x": ""}
                | {"occurrence": 0, "value_text": None, "value": None, "more": held}
            )
    return rows, len(rows)


def over_limit(body: Mapping[str, Any], rows: list[dict[str, Any]]) -> str | None:
    """A note if a metric has as many groups as the vendor gives at most: more may have been cut."""
    limit = body.get("limit", has.DEFAULT_GROUPS)
    groups: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        groups.setdefault((row["day"], row["position"], row["metric"]), set()).add(row["groups"])
    most = max(map(len, groups.values()), default=0)
    if isinstance(limit, int) and most >= limit:
        return f"{most} groups came, which is the limit: others may have been left out (limit = {has.MOST_GROUPS})"
    return None


def _is_known(parts: Mapping[str, Any]) -> bool:
    xs, ys = parts.get("x"), parts.get("y")
    if not isinstance(xs, list) or not all(isinstance(x, str) for x in xs):
        return False
    return isinstance(ys, Mapping) or (isinstance(ys, list) and all(isinstance(each, Mapping) for each in ys))


def _values(parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`data.x` and `data.y` of the two shapes that are known: `group_cols` of event, `groupCols` of distribution."""
    xs, ys = parts.get("x"), parts.get("y")
    if isinstance(xs, list) and isinstance(ys, list):
        for position, metrics in enumerate(ys):
            for metric, groups in metrics.items():
                for group in groups if isinstance(groups, list) else [groups]:
                    yield from _group(group, "group_cols", position, str(metric), xs)
    elif isinstance(ys, Mapping):
        intervals = parts.get("distribution_interval")
        names = [_as_text(each) for each in intervals] if isinstance(intervals, list) else []
        for position, (x, groups) in enumerate(ys.items()):
            for group in groups if isinstance(groups, list) else [groups]:
                if not isinstance(group, Mapping) or not isinstance(group.get("values"), list):
                    yield _row(position, "", "[]", str(x), 0, None, group)
                    continue
                cols = _as_text(group.get("groupCols") or group.get("group_cols") or [])
                more = {k: v for k, v in group.items() if k not in ("groupCols", "group_cols", "values")}
                if not group["values"]:
                    yield _row(position, "", cols, str(x), 0, None, more or None)
                for place, value in enumerate(group["values"]):
                    name = names[place] if place < len(names) else str(place)
                    yield _row(position, name, cols, str(x), 0, value, more or None)


def _group(group: Any, columns: str, position: int, metric: str, xs: list[str]) -> Iterator[dict[str, Any]]:
    if not isinstance(group, Mapping) or not isinstance(group.get("values"), list):
        yield _row(position, metric, "[]", "", 0, None, group)
        return
    cols = _as_text(group.get(columns) or group.get("groupCols") or [])
    more = {k: v for k, v in group.items() if k not in (columns, "groupCols", "values")}
    if not group["values"]:
        yield _row(position, metric, cols, "", 0, None, more or None)
    seen: Counter[str] = Counter()
    for place, value in enumerate(group["values"]):
        x = xs[place] if place < len(xs) else f"#{place}"
        yield _row(position, metric, cols, x, seen[x], value, more if more and place == 0 else None)
        seen[x] += 1


def _row(position: int, metric: str, groups: str, x: str, occurrence: int, value: Any, more: Any) -> dict[str, Any]:
    text = None if value is None else value if isinstance(value, str) else _as_text(value)
    number = float(text) if text is not None and _NUMBER.fullmatch(text) else None
    return {
        "position": position,
        "metric": metric,
        "groups": groups,
        "x": x,
        "occurrence": occurrence,
        "value_text": text,
        # an integer that a double would round stays a text
        "value": None if number is None or abs(number) >= 2**53 else number,
        "more": more,
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
