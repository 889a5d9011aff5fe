"""Configured SQL: `[[sources.thinkingengine.queries]]`, its templates and its day windows; and the ready-made tables.

Values are put into the SQL checked and quoted, never as they came; `reading` says which SQL may be sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import pendulum

from sources import naming
from sources.convert.types import Kind
from sources.core.dates import Days
from sources.core.sql import quote
from sources.extract.table import Mode, Table
from sources.thinkingengine.reading import check_places, check_sql
from sources.thinkingengine.settings import VENDOR, Settings, lookback, refuse_unknown, wrong

NAME = re.compile(r"[a-z][a-z0-9_]{0,50}")
_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]+)\}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ALWAYS = "1970-01-01 00:00:00"
PLACES = ("project_id", "start", "end", "zone", "since")
QUOTED = frozenset(PLACES[1:])
SETTINGS = (
    "name", "sql", "key", "cursor", "window", "lookback", "types", "sync", "allow_full_scan", "project_id",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Window:
    """Days of the vendor, both included. `end` None: yesterday. `days` go into one task."""

    start: date
    end: date | None = None
    days: int = 1

    def to(self, today: date) -> date:
        return self.end or today - timedelta(days=1)

    @property
    def grid(self) -> list[int]:
        """How many days aligned windows have, and where they lie: windows of the same grid never overlap."""
        return [self.days, self.start.toordinal() % self.days]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One SQL text that becomes one table."""

    name: str
    sql: str
    project_id: int
    key: tuple[str, ...] = ()
    cursor: str = ""
    window: Window | None = None
    lookback: int = 0
    types: Mapping[str, Kind] | None = None
    sync: bool = False
    shards: int = 1
    about: str = ""
    aligned: bool = False
    """Do windows of several days always begin on the same days? Where rows are known by their window they must."""

    @property
    def since(self) -> bool:
        """Does it ask for what changed?"""
        return "since" in places(self.sql)

    def table(self, settings: Settings) -> Table:
        if self.window is not None:
            # each load brings whole days: what is gone from a day goes, even where rows have a key
            mode, scope = Mode.KEPT, naming.columns_for([self.cursor])[self.cursor] if self.cursor else None
        elif self.since:
            mode, scope = Mode.INCREMENTAL, None
        else:
            mode, scope = (Mode.FULL if self.key else Mode.LATEST), None
        return Table(
            name=self.name,
            mode=mode,
            key=self.key,
            cursor=self.cursor or None,
            lookback=lookback(self.lookback),
            whole_every=lookback(settings.whole_walk_days),
            scope=scope,
            zone=settings.zone if self.window else None,
            keeps=("backfilled",),
            about=self.about or "configured SQL",
            misfit="" if self.about else f'Load it as text: types = {{"{{column}}" = "text"}} in the query {self.name}',
        )


def read_queries(settings: Settings) -> list[Query]:
    """The configured queries. Raises `ConfigurationError` for whatever could not work."""
    found: list[Query] = []
    for number, given in enumerate(settings.queries or (), start=1):
        where = f"queries[{number}]"
        query = _query(refuse_unknown(given, SETTINGS, where), settings, where)
        if query.name in {other.name for other in found}:
            raise wrong(f"{where}: there are two queries named {query.name}", "Name each table once")
        found.append(query)
    return found


def _query(given: Mapping[str, Any], settings: Settings, where: str) -> Query:
    name, sql = given.get("name"), given.get("sql")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong(f"{where} has no name that a table can have", "Write name = in lower case letters, digits and _")
    where = f"query {name}"
    if not isinstance(sql, str) or not sql.strip():
        raise wrong(f"{where} has no sql", "Write sql =")
    sql = sql.strip().rstrip(";").rstrip()
    used = known_places(sql, where=where)
    check_places(sql, QUOTED, where=where)
    project = given.get("project_id", settings.project_id)
    if not isinstance(project, int) or isinstance(project, bool) or project < 1:
        raise wrong(f"{where} has no project_id", "Write the number of the project (not its APPID)")
    query = Query(
        name=name,
        sql=sql,
        project_id=project,
        key=_labels(given.get("key"), f"{where}: key"),
        cursor=_text(given.get("cursor"), f"{where}: cursor"),
        window=read_window(given.get("window"), where),
        lookback=read_days(given.get("lookback", settings.lookback_days), f"{where}: lookback"),
        types=_types(given.get("types"), where),
        sync=_flag(given.get("sync", settings.sync), f"{where}: sync"),
    )
    if query.window is not None and not {"start", "end"} <= used:
        raise wrong(f"{where} has a window that its sql does not use", 'Write "$part_date" BETWEEN {start} AND {end}')
    if query.window is None and used & {"start", "end"}:
        raise wrong(f"{where} uses {{start}} or {{end}} and has no window", 'Write window = {start = "2026-01-01"}')
    if query.window is not None and query.since:
        raise wrong(f"{where} has a window and {{since}}", "Use one of them")
    if query.window is not None and not (query.key or query.cursor):
        raise wrong(
            f"{where} has a window, and nothing tells its rows or days apart",
            "Name a key, or as cursor the column that holds the day, whose rows are then replaced",
        )
    if query.since and not (query.cursor and query.key):
        raise wrong(f"{where} uses {{since}}", "Name the cursor (a time column of the result) and the key")
    text = render(query, start=date(2000, 1, 1), end=date(2000, 1, 1), zone=settings.zone)
    check_sql(text, where=where, forced=_flag(given.get("allow_full_scan", False), f"{where}: allow_full_scan"))
    return query


def places(sql: str) -> set[str]:
    """The templates that a text uses."""
    return {found[1] for found in _PLACE.finditer(sql) if found[1]}


def known_places(sql: str, *, where: str) -> set[str]:
    """The templates that a text uses. Raises `ConfigurationError` for one that there is not."""
    used = places(sql)
    for place in sorted(used - set(PLACES)):
        known = ", ".join(f"{{{each}}}" for each in PLACES)
        raise wrong(
            f"{where}: there is no {{{place}}}", f"There are {known}; a brace of the SQL's own is written twice"
        )
    return used


def render(
    query: Query,
    *,
    zone: str,
    start: date | None = None,
    end: date | None = None,
    since: str | None = None,
    shard: int = 0,
) -> str:
    """The SQL to send: days and times become quoted literals, the project its digits."""
    if since is not None and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", since):
        raise ValueError("no time")
    values = {
        "project_id": str(int(query.project_id)),
        "start": literal(start.isoformat()) if start else "",
        "end": literal(end.isoformat()) if end else "",
        "zone": literal(zone),
        "since": f"timestamp {literal(since or _ALWAYS)}",
        "shard": _shard(query.shards, shard),
    }

    def put(found: re.Match[str]) -> str:
        return found[0][0] if found[1] is None else values[found[1]]

    return _PLACE.sub(put, query.sql)


def _shard(shards: int, number: int) -> str:
    """The part of all users that a task reads: by the time bits of their ids, which are spread evenly.

    The last one takes whatever the others do not, so that no user is in none (an id may be NULL or negative).
    """
    if shards == 1:
        return "true"
    part = f'mod(cast("#user_id" AS bigint) / {2**22}, {shards})'
    if number < shards - 1:
        return f"{part} = {number}"
    return f"coalesce({part}, {number}) NOT IN ({', '.join(map(str, range(number)))})"


def literal(text: str) -> str:
    """A text as an SQL literal. Raises `ConfigurationError` for what no name, day or zone holds."""
    if not text.isprintable():
        raise wrong(f"{text!r} holds what cannot stand in SQL", "Write it without line breaks or control characters")
    return "'" + text.replace("'", "''") + "'"


def day_windows(
    query: Query, state: Mapping[str, Any], *, until: datetime, zone: str, full: bool
) -> list[tuple[date, date]]:
    """The windows that are due, oldest first: from the newest loaded day less the lookback up to the frozen edge."""
    window = query.window
    if window is None:
        raise ValueError(f"{query.name} has no window")
    last = window.to(pendulum.instance(until).in_timezone(zone).date())
    start = window.start
    loaded = state.get("day")
    if loaded and not full and state.get("asked") == fingerprint(query):
        # a day beyond the edge (the window's end was moved back, the clock was wrong) freezes nothing
        after = min(date.fromisoformat(loaded), last) + timedelta(days=1)
        start = max(start, after - timedelta(days=query.lookback))
    if query.aligned:
        start -= timedelta(days=(start - window.start).days % window.days)
    found = []
    while start <= last:
        end = min(start + timedelta(days=window.days - 1), last)
        found.append((start, end))
        start = end + timedelta(days=1)
    return found


def windows_in(query: Query, days: Days) -> list[tuple[date, date]]:
    """The windows of these days, wherever the cursor stands: of aligned ones those that end in them."""
    window = query.window
    if window is None:
        raise ValueError(f"{query.name} has no window")
    if not query.aligned:
        return [(part.first, part.last) for part in days.split(window.days)]
    first = days.first - timedelta(days=(days.first - window.start).days % window.days)
    grid = Days(first, days.last + timedelta(days=window.days)).split(window.days)
    return [(part.first, part.last) for part in grid if part.last in days]


def remember_older(query: Query, days: Days) -> Callable[[dict[str, Any]], None] | None:
    """Days that the query's own window does not hold: a walk of all that it holds must not take their rows away."""
    window = query.window
    if window is None or (window.start <= days.first and (window.end is None or days.last <= window.end)):
        return None

    def remember(state: dict[str, Any]) -> None:
        state["backfilled"] = True

    return remember


def fingerprint(query: Query) -> str:
    """Another SQL, window or project is another table to the cursor."""
    start = query.window.start.isoformat() if query.window else ""
    return naming.tag_for("\n".join((query.sql, str(query.project_id), start, query.cursor, *query.key)))


def ready_made(settings: Settings) -> list[Query]:
    """Events, users, cluster members and dimensions, as queries."""
    found = []
    project = settings.project_id
    if not (settings.events or settings.users or settings.cluster_members or settings.dimensions):
        return []
    if project is None:
        raise wrong("project_id is not set", "Write the number of the project (not its APPID)")
    base = Query(name="", sql="", project_id=project, sync=settings.sync)
    if settings.events:
        found.append(_events(base, settings))
    if settings.users:
        # a user without an update time would never be asked for again
        sql = (
            "SELECT * FROM ta.v_user_{project_id} "
            'WHERE ("#update_time" >= {since} OR "#update_time" IS NULL) AND {shard}'
        )
        users = replace(base, name="users", sql=sql, key=("#user_id",), cursor="#update_time", about="users")
        found.append(replace(users, lookback=settings.lookback_days, shards=settings.user_shards))
    if settings.cluster_members:
        sql, about = "SELECT * FROM ta.user_result_cluster_{project_id}", "who is in which cohort, and values of tags"
        found.append(replace(base, name="cluster_members", sql=sql, key=("cluster_name", MEMBER), about=about))
    for name, table in (settings.dimensions or {}).items():
        if not NAME.fullmatch(str(name)) or not re.fullmatch(r"(ta_dim\.)?dim_[0-9]+_[0-9]+_[0-9]+", str(table)):
            raise wrong(f"dimensions: {name} = {table!r} is no dimension", 'Write cps_group = "dim_<project>_0_<id>"')
        sql = f"SELECT * FROM ta_dim.{str(table).removeprefix('ta_dim.')}"  # noqa: S608 - its form was checked
        found.append(replace(base, name=f"dimension_{name}", sql=sql, about=f"the dimension table {table}"))
    return found


EVENT_KEY = "event_key"
MEMBER = "member"


def _events(base: Query, settings: Settings) -> Query:
    if not settings.events_from:
        raise wrong("events_from is not set", 'Write the first day to load: events_from = "2026-01-01"')
    names = _braces(", ".join(literal(str(name)) for name in settings.events or ()))
    columns = "*"
    if settings.event_columns:
        wanted = dict.fromkeys(("$part_date", "#event_name", "#event_time", "#zone_offset", "#uuid"))
        wanted |= dict.fromkeys(map(str, settings.event_columns))
        columns = _braces(", ".join(map(quote, wanted)))
    sql = (
        f"SELECT {columns} FROM ta.v_event_{{project_id}} "  # noqa: S608 - names are quoted, days are checked
        f'WHERE "$part_date" BETWEEN {{start}} AND {{end}} AND "$part_event" IN ({names})'
    )
    return replace(
        base,
        name="events",
        sql=sql,
        key=(EVENT_KEY,),
        cursor="$part_date",
        window=Window(start=_date(settings.events_from, "events_from")),
        lookback=settings.lookback_days,
        about=f"raw events: {', '.join(settings.events or ())}",
    )


def _braces(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def read_window(given: Any, where: str) -> Window | None:
    if given is None:
        return None
    given = refuse_unknown(given, ("start", "end", "days"), f"{where}: window")
    start = _date(given.get("start"), f"{where}: window.start")
    end = _date(given["end"], f"{where}: window.end") if given.get("end") else None
    if end is not None and end < start:
        raise wrong(f"{where}: its window ends on {end}, before it starts on {start}", "Exchange start and end")
    days = given.get("days", 1)
    if not isinstance(days, int) or isinstance(days, bool) or days < 1:
        raise wrong(f"{where}: window.days is {days!r}", "Write how many days go into one query, such as 1")
    return Window(start=start, end=end, days=days)


def _date(given: Any, where: str) -> date:
    text = str(given)
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise wrong(f"{where} is {given!r}, which is no day", "Write it like 2026-01-31")


def _labels(given: Any, where: str) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else given or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise wrong(f"{where} names no columns", 'Write "#user_id", or ["#user_id", "day"]')
    return tuple(dict.fromkeys(names))


def _text(given: Any, where: str) -> str:
    if given is not None and not isinstance(given, str):
        raise wrong(f"{where} names no column", 'Write it like "$part_date"')
    return given or ""


def _flag(given: Any, where: str) -> bool:
    if not isinstance(given, bool):
        raise wrong(f"{where} is {given!r}", "Write true or false")
    return given


def read_days(given: Any, where: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise wrong(f"{where} is {given!r}", "Write a number of days, 0 or more")
    return given


def _types(given: Any, where: str) -> dict[str, Kind]:
    found = {}
    for label, kind in (given or {}).items() if isinstance(given, Mapping) or not given else ():
        try:
            found[str(label)] = Kind(str(kind))
        except ValueError:
            kinds = ", ".join(Kind)
            raise wrong(f"{where}: types: {label} is {kind!r}", f"sources.{VENDOR} knows: {kinds}") from None
    if given and not found:
        raise wrong(f"{where}: types is no table", 'Write types = {"#user_id" = "bigint"}')
    return found
