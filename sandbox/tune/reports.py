"""The reports of the second version: figures by group and time, cohorts, counts and exports (sections 7, 8)."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from starlette.datastructures import QueryParams

from sandbox.tune.data import Record, Tables
from sandbox.tune.envelope import Refusal, Reply, enveloped
from sandbox.tune.filters import FilterError, parse_filter
from sandbox.tune.records import DEFAULT_LIMIT, by_id, page_of, service_error, sort_keys, whole
from sandbox.tune.stats import AMOUNTS, COHORTS, DIMENSIONS, FACTS, METRICS, Stats

ACTUALS = ("advertiser/stats", "advertiser/stats/actuals")
RETENTION = ("advertiser/stats/retention", "advertiser/stats/retention/reduced")
LTV = ("advertiser/stats/ltv",)
PATHS = (*ACTUALS, *RETENTION, *LTV)
RELATED = {
    "site": ("advertiser/sites", "site_id"),
    "publisher": ("advertiser/publishers", "publisher_id"),
    "country": ("countries", "country_id"),
    "install_publisher": ("advertiser/publishers", "install_publisher_id"),
}
TIMES: dict[str, tuple[str, Callable[[datetime], Any]]] = {
    "hour": ("hour", lambda at: f"{at.hour:02d}"),
    "datehour": ("date_hour", lambda at: f"{at:%Y-%m-%d %H:00:00}"),
    "date": ("date", lambda at: f"{at:%Y-%m-%d}"),
    "week": ("week", lambda at: f"{at:%G-%V}"),
    "month": ("month", lambda at: f"{at:%Y-%m}"),
}
PERIODS: dict[str, Callable[[date], str]] = {
    "year_day": lambda day: f"{day:%Y_%j}",
    "year_week": lambda day: f"{day:%G_%V}",
    "year_month": lambda day: f"{day:%Y_%m}",
    "year": lambda day: f"{day:%Y}",
}
ARGUMENTS = frozenset(
    {
        *("start_date", "end_date", "response_timezone", "timestamp", "group", "fields", "filter", "sort", "limit"),
        *("page", "cohort_type", "interval", "aggregation_type", "format", "job_id"),
    }
)
COHORT_FIELDS = (
    *("installs", "opens", "rolling_opens", "classic_opens", "rpi", "epi", "revenues_usd"),
    *("site_id", "publisher_id", "install_publisher_id"),
)
UNIT = Decimal(100000)


def known_fields(path: str) -> dict[str, str]:
    if path in ACTUALS:
        own = (*METRICS, *AMOUNTS, *DIMENSIONS, "date_hour", "currency_code", "debug_mode", "test_profile_id")
    else:
        own = (*COHORT_FIELDS, *(() if path in RETENTION else ("test_profile_id",)))
    return {name: "integer" if name.endswith("_id") else "string" for name in own}


def define(path: str) -> Reply:
    own = known_fields(path)
    related = {name: {"path": to[0]} for name, to in RELATED.items() if to[1] in own}
    fields = {name: {"type": kind} for name, kind in own.items()}
    return enveloped({"fields": fields, "related_entities": related, "mod_name": "Reports\\Model\\Stats"})


def rows_of(stats: Stats, tables: Tables, path: str, args: QueryParams, *, forgiving: bool = False) -> list[Record]:
    """All rows of the question, sorted; nested as `find` shows them. `forgiving`: unknown fields are left out."""
    if args.get("response_timezone") != "UTC":
        raise Refusal(422, "the account's zone applied", unexpected="no response_timezone=UTC")
    start, end = _moment(args, "start_date"), _moment(args, "end_date")
    group = [name for name in args.get("group", "").split(",") if name]
    if not group:
        raise Refusal(422, "group is required.", unexpected="no group")
    known = known_fields(path)
    fields = [name for name in args.get("fields", "").split(",") if name]
    if forgiving:
        fields = [name for name in fields if _is_known(known, name)]
    for name in (*group, *fields, *(name for name, _ in sort_keys(args))):
        if not _is_known(known, name):
            raise service_error(open_http=True, why=f"unknown field {name}")
    facts = _kept(stats[FACTS if path in ACTUALS else COHORTS].values(), args, known)
    make = _actuals if path in ACTUALS else _cohorts
    rows = make(tables, path, args, facts, start, end, group, fields)
    for name, descending in reversed(sort_keys(args)):
        rows.sort(key=lambda row, name=name: str(_shown(row).get(name)), reverse=descending)  # type: ignore[misc]
    return rows


def _is_known(known: dict[str, str], name: str) -> bool:
    relation, dot, _ = name.partition(".")
    return name in known or (bool(dot) and relation in RELATED and RELATED[relation][1] in known)


def _kept(facts: Iterable[Record], args: QueryParams, known: dict[str, str]) -> list[Record]:
    text = args.get("filter", "")
    if not text.strip():
        return list(facts)
    try:
        found = parse_filter(text)
    except FilterError as error:
        raise Refusal(422, f"Invalid filter: {error}", unexpected="a filter that does not parse") from error
    for name in found.fields:
        if name not in known:
            raise service_error(open_http=True, why=f"unknown field {name} in filter")
    return [fact for fact in facts if found.keeps(fact.get)]


def _actuals(
    tables: Tables,
    path: str,
    args: QueryParams,
    facts: list[Record],
    start: datetime,
    end: datetime,
    group: Sequence[str],
    fields: Sequence[str],
) -> list[Record]:
    time = TIMES.get(args.get("timestamp", ""))
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    for fact in facts:
        at = datetime.fromisoformat(fact["date_hour"])
        if start <= at <= end:
            key = (*(fact[name] for name in group), time[1](at) if time else None)
            grouped.setdefault(key, []).append(fact)
    rows = []
    for key, members in sorted(grouped.items(), key=lambda item: str(item[0])):
        ids = dict(zip(group, key[:-1], strict=True))
        row: Record = {name: _flapping(name, value, key) for name, value in ids.items()}
        if time:
            row[time[0]] = key[-1]
        for name in fields:
            if name in METRICS:
                row[name] = str(sum(fact[name] for fact in members))
            elif name in AMOUNTS:
                row[name] = f"{sum(fact[name] for fact in members) / UNIT:.5f}"
            elif "." in name:
                _relate(tables, row, ids, name)
            elif name not in row:
                row[name] = members[0].get(name)
        rows.append(row)
    return rows


def _cohorts(
    tables: Tables,
    path: str,
    args: QueryParams,
    facts: list[Record],
    start: datetime,
    end: datetime,
    group: Sequence[str],
    fields: Sequence[str],
) -> list[Record]:
    interval = args.get("interval", "year_day")
    if interval not in PERIODS or args.get("cohort_type") not in ("click", "install"):
        raise Refusal(422, "interval or cohort_type is invalid.", unexpected="no interval or cohort_type")
    if path in LTV and args.get("aggregation_type") not in ("incremental", "cumulative"):
        raise Refusal(422, "aggregation_type is invalid.", unexpected="no aggregation_type")
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    for fact in facts:
        day = datetime.fromisoformat(fact["day"])
        if start <= day <= end:
            named = {**fact, "install_publisher_id": fact["publisher_id"]}
            key = (*(named[name] for name in group), PERIODS[interval](day.date()))
            grouped.setdefault(key, []).append(fact)
    rows = []
    for key, members in sorted(grouped.items(), key=lambda item: str(item[0])):
        ids = dict(zip(group, key[:-1], strict=True))
        meta: Record = {**{name: _flapping(name, value, key) for name, value in ids.items()}, interval: key[-1]}
        for name in fields:
            if "." in name:
                _relate(tables, meta, ids, name)
        installs = sum(fact["installs"] for fact in members)
        length = max(len(fact["opens"]) for fact in members)
        inner, opens, revenue = [], 0, 0
        for place in range(length):
            now_opened = sum(fact["opens"][place] for fact in members if place < len(fact["opens"]))
            now_earned = sum(fact["revenue"][place] for fact in members if place < len(fact["revenue"]))
            sums = args.get("aggregation_type") == "cumulative"
            opens, revenue = (opens + now_opened, revenue + now_earned) if sums else (now_opened, now_earned)
            figures = {
                "installs": str(installs),
                **dict.fromkeys(("opens", "rolling_opens", "classic_opens"), str(opens)),
                "revenues_usd": f"{revenue / UNIT:.5f}",
                "rpi": f"{revenue / UNIT / installs:.12f}",
                "epi": f"{Decimal(opens) / installs:.12f}",
            }
            inner.append({name: figures[name] for name in fields if name in figures})
        meta |= {name: str(installs) for name in ("installs",) if name in fields}
        rows.append({"data": inner, "meta": meta})
    return rows


def _shown(row: Record) -> Record:
    found: Record = row.get("meta", row)
    return found


def _relate(tables: Tables, row: Record, ids: Record, name: str) -> None:
    relation, _, rest = name.partition(".")
    path, via = RELATED[relation]
    other = by_id(tables, path, ids.get(via))
    row.setdefault(relation, {})[rest] = None if other is None else other.get(rest)


def _flapping(name: str, value: Any, key: tuple[Any, ...]) -> Any:
    """Ids are now a number and now a text, whatever they are."""
    if not name.endswith("_id") or not isinstance(value, int):
        return None if value is None else str(value)
    return random.Random(str((name, key))).choice([value, str(value)])


def find(rows: list[Record], args: QueryParams, options: Mapping[str, Any]) -> Reply:
    """`largest_page`: so many rows whatever was asked for; `same_page`: the first one, whichever was."""
    limit = min(whole(args, "limit", DEFAULT_LIMIT), int(options.get("largest_page", 10**6)))
    page = "1" if options.get("same_page") else args.get("page", "1")
    return enveloped(page_of(rows, {"limit": str(limit), "page": page}), throttle=True)


def as_csv(rows: list[Record], path: str, args: QueryParams, *, bom: bool, newline: str) -> bytes:
    """Header: groups and time, then the fields that were asked for; a line per row, of cohorts per interval."""
    flat: list[Record] = []
    for row in rows:
        if "meta" in row:
            flat += [{**each, **_dotted(row["meta"]), "interval": str(place)} for place, each in enumerate(row["data"])]
        else:
            flat.append(_dotted(row))
    names = list(dict.fromkeys(name for row in flat for name in row))
    if not names:
        known = known_fields(path)
        names = [name for name in args.get("fields", "").split(",") if _is_known(known, name)]
    return csv_of(flat, names, bom=bom, newline=newline)


def csv_of(rows: Sequence[Record], names: Sequence[str], *, bom: bool, newline: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=newline)
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if row.get(name) is None else row[name] for name in names])
    return (b"\xef\xbb\xbf" if bom else b"") + out.getvalue().encode("utf-8", "replace")


def _dotted(row: Record, under: str = "") -> Record:
    flat: Record = {}
    for name, value in row.items():
        flat |= _dotted(value, f"{under}{name}.") if isinstance(value, dict) else {f"{under}{name}": value}
    return flat


def _moment(args: QueryParams, name: str) -> datetime:
    try:
        return datetime.fromisoformat(args.get(name, ""))
    except ValueError as error:
        raise Refusal(422, f"{name} is invalid.", unexpected=f"{name} is no date") from error
