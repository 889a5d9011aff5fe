"""ThinkingEngine (TE; 数数科技): SQL on its events and users, its definitions, and answers of its models.

SQL is the way of everything large: it runs as a task, whose pages are fetched side by side and must hold as many rows
as the vendor counts. Day windows are loaded day by day, from the newest loaded day less a lookback; cursors move only
together with their rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import dlt
from dlt.extract import DltResource

from sources.convert.inspect import filled, greatest, texts_of
from sources.convert.parquet import Converted
from sources.convert.types import Column, Kind
from sources.core.concurrency import in_order
from sources.core.config import is_set, settings_of
from sources.core.dates import Calls, Days, latest, on_clock
from sources.core.errors import AccessDenied, ConfigurationError, NightloadError, Unreachable
from sources.extract.connector import Part
from sources.extract.extractor import Extraction
from sources.extract.sync import Extra, Fetch, Walk, noting
from sources.extract.table import Table
from sources.thinkingengine import settings as has
from sources.thinkingengine.client import Client, Taken
from sources.thinkingengine.metadata import Metadata, read_filters
from sources.thinkingengine.models import ModelQuery, long_rows, over_limit, read_metrics, read_models
from sources.thinkingengine.queries import (
    EVENT_KEY,
    MEMBER,
    Query,
    day_windows,
    fingerprint,
    read_queries,
    ready_made,
    remember_older,
    render,
    windows_in,
)
from sources.thinkingengine.reading import limited
from sources.thinkingengine.refusals import head_for

_DAY_OF = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}([ T]|$)")
_TIME = r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?"

SYSTEM: dict[str, Kind] = {
    "#user_id": Kind.BIGINT,
    "#account_id": Kind.TEXT,
    "#distinct_id": Kind.TEXT,
    "#varchar_id": Kind.TEXT,
    "#uuid": Kind.TEXT,
    "#event_name": Kind.TEXT,
    "$part_event": Kind.TEXT,
    "$part_date": Kind.DATE,
    "#ip": Kind.TEXT,
    "cluster_name": Kind.TEXT,
    "tag_value": Kind.TEXT,
}
"""System columns whose type is known: `#user_id` is a 64-bit snowflake, accounts are texts even if all are digits."""

CLUSTER_TIMES = ("#server_time", "#update_time", "#active_time", "tag_value_tm")
"""Times of the server's own clock, told without a zone. `#event_time` is the reporter's wall clock: it stays a text."""


def configured() -> bool:
    return is_set(has.VENDOR, "token", "root_token")


def connect() -> ThinkingEngine:
    """Raises `ConfigurationError` for a setting that is missing or cannot work."""
    settings = _settings()
    if not settings.token and not settings.root_token:
        raise ConfigurationError(
            what=f"sources.{has.VENDOR}.token is not set",
            todo=f"Write it into .dlt/secrets.toml, or set SOURCES__{has.VENDOR.upper()}__TOKEN "
            "(ta-tool generate_api_secret -appid … or generate_root_secret makes one)",
        )
    return ThinkingEngine(settings)


def tables() -> dict[str, tuple[Table, ...]]:
    return {has.DATASET: tuple(table for table, _ in _chosen(_settings(), None))}


@dlt.source(name=has.DATASET)
def thinkingengine(vendor: Any = None, extraction: Any = None) -> Any:
    """ThinkingEngine's tables, a resource each. Both parameters are for nightload's own runs."""
    vendor = vendor or connect()
    return vendor.resources(extraction or Extraction.standalone(has.VENDOR))


def _settings() -> has.Settings:
    settings = settings_of(has.VENDOR, has.Settings(), secrets=has.Settings.secrets)
    has.check(settings)
    return settings


def _chosen(settings: has.Settings, vendor: ThinkingEngine | None) -> list[tuple[Table, Fetch | None]]:
    """Every table of the settings and how it is fetched. Raises `ConfigurationError` for two of one name."""
    read_filters(settings), read_metrics(settings)
    found: list[tuple[Table, Fetch | None]] = []
    for query in (*ready_made(settings), *read_queries(settings)):
        found.append((query.table(settings), vendor.fetch_query(query) if vendor else None))
    for model in read_models(settings):
        found.append((model.table(settings), vendor.fetch_model(model) if vendor else None))
    for table in has.metadata_tables(settings):
        found.append((table, vendor.metadata.fetch(table.name) if vendor else None))
    names = [table.name for table, _ in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        raise has.wrong(f"two tables are named {name}", "Name the query or model otherwise")
    for name in settings.exclude or ():
        if name not in names:
            raise has.wrong(f"exclude names {name}, which is no table", f"It may name: {', '.join(names)}")
    return [(table, fetch) for table, fetch in found if table.name not in (settings.exclude or ())]


class ThinkingEngine:
    """A connected ThinkingEngine server, with one project of it."""

    def __init__(self, settings: has.Settings) -> None:
        self.settings = settings
        _chosen(settings, None)  # mistakes first: no client is made for a configuration that cannot work
        if settings.project_id is None:
            raise has.wrong("project_id is not set", "Write the number of the project (not its APPID)")
        self.client = Client(settings)
        self.http = self.client.http
        self.metadata = Metadata(self.client, settings)

    def parts(self, extraction: Extraction) -> list[Part]:
        return [Part(dataset=has.DATASET, source=lambda: thinkingengine(self, extraction))]

    def resources(self, extraction: Extraction) -> list[DltResource]:
        self.metadata = Metadata(self.client, self.settings)  # what one extraction saw is not what the next one sees
        noted = "events" if self.settings.events else ""
        return [
            extraction.resource(
                has.DATASET, table, noting(fetch, self.metadata.unknown_events) if table.name == noted else fetch
            )
            for table, fetch in _chosen(self.settings, self)
            if fetch is not None and extraction.wants(has.DATASET, table.name)
        ]

    def calls(self, name: str, days: Days, state: Mapping[str, Any]) -> Calls | None:
        """Of a window: one of a model or a stream, else a task is submitted and asked after, and its pages read."""
        table = name.partition(".")[2]
        for query in (*ready_made(self.settings), *read_queries(self.settings)):
            if query.name == table and query.window is not None:
                windows = len(windows_in(query, days))
                beyond = f"a task is asked after until it ends, and has a page per {self.settings.page_size} rows"
                return Calls(least=windows) if query.sync else Calls(least=2 * windows, beyond=beyond)
        for model in read_models(self.settings):
            if model.name == table and model.window is not None:
                return Calls(least=len(windows_in(model.days, days)))
        return None

    def check(self) -> Iterator[str | NightloadError]:
        answer = self.http.body(
            "GET", has.EVENTS_META, params={"projectId": self.settings.project_id}, head=head_for(has.EVENTS_META)
        )
        yield f"the key works: {len(self.metadata.event_list)} events in project {self.settings.project_id}"
        yield _clock(answer.headers.get("date", ""))
        task = self.client.finish("SELECT 1 AS one")
        yield f"SQL works: {task.rows} row of SELECT 1"
        for table, _ in _chosen(self.settings, None):
            if table.name in ("projects", "users_of_company"):
                yield f"{table.name}: {len(self.metadata.rows(table.name, []))} visible"
        yield from self.metadata.unmatched()
        yield from self._unreadable()

    def _unreadable(self) -> Iterator[NightloadError]:
        """What the vendor says of dimensions and event columns in the settings that it does not have."""
        today = datetime.now(UTC).date()
        for query in ready_made(self.settings):
            if query.name.startswith("dimension_") or (query.name == "events" and self.settings.event_columns):
                sql = render(query, zone=self.settings.zone, start=today, end=today)
                try:
                    self.client.finish(limited(sql, 1))
                except NightloadError as error:
                    if isinstance(error, AccessDenied | Unreachable):
                        raise
                    yield error.at(f"{has.DATASET}.{query.name}")

    def close(self) -> None:
        self.http.close()

    # -- SQL ------------------------------------------------------------------------------------

    def fetch_query(self, query: Query) -> Fetch:
        def fetch(walk: Walk) -> None:
            zone = self.settings.zone
            windows: list[tuple[date, date]] = []
            since: str | None = None
            replaces = _can_replace(query, walk)
            if query.window is not None and walk.window is not None:
                windows = windows_in(query, walk.window)
                walk.remember = remember_older(query, walk.window)
                texts = [render(query, zone=zone, start=start, end=end) for start, end in windows]
            elif query.window is not None:
                windows = day_windows(query, walk.state, until=walk.until, zone=zone, full=walk.full)
                if not windows:
                    walk.notes.append(f"no day is due: the window begins on {query.window.start}")
                    walk.unchanged(0)
                    return
                texts = [render(query, zone=zone, start=start, end=end) for start, end in windows]
                # all days again: a day that has lost all its rows can only go so
                again = walk.state.get("asked") == fingerprint(query) and walk.state["day"] <= str(windows[-1][1])
                walk.anew = not replaces or (walk.full and again and not walk.state.get("backfilled"))
            else:
                since = self._since(query, walk)
                texts = [render(query, zone=zone, since=since, shard=n) for n in range(query.shards)]
                if query.since:
                    walk.complete = since is None
            if walk.limit:
                texts = [limited(texts[-1], walk.limit)]
            taken = self._take(texts, query, walk)
            walk.columns = self._columns(query, walk, taken)
            walk.extra = _extra(query, [column.label for column in walk.columns])
            walk.counts_rows = bool(query.key)
            if all(each.told is not None for each in taken):
                walk.vendor_count = sum(each.told or 0 for each in taken)
            elif not query.sync:
                walk.notes.append("the vendor told no count of rows")
            if not walk.columns:
                if not walk.stored:
                    walk.notes.append("no row came, and no header")
                    walk.unchanged(0)
                    return
                walk.columns = walk.stored  # an empty answer like any other
            if windows and not any(each.rows for each in taken):
                walk.notes.append(f"no row came for {windows[0][0]} to {windows[-1][1]}; what was loaded of it stays")
            elif windows and query.cursor:
                walk.after = _by_days(query, windows, taken, walk)
            if not walk.limit:
                self._remember(query, windows, walk)

        return fetch

    def _take(self, texts: list[str], query: Query, walk: Walk) -> list[Taken]:
        """The rows of each SQL, one after the other; the next ones run at the vendor meanwhile."""
        taken = []
        first: tuple[str, ...] | None = None
        if query.sync:
            file = walk.spool.path.with_suffix(".stream")
            results = (self.client.stream(text, walk.spool, file) for text in texts)
        else:
            tasks = in_order(self.client.finish, texts, width=self.settings.tasks)
            pairs = zip(texts, tasks, strict=True)
            results = (self.client.take(text, task, walk.spool) for text, task in pairs)
        for each in results:
            taken.append(each)
            if each.labels is not None and first is not None and set(each.labels) != set(first):
                new, gone = set(each.labels) - set(first), set(first) - set(each.labels)
                told = [
                    f"{word}: {', '.join(sorted(those))}" for word, those in (("new", new), ("gone", gone)) if those
                ]
                walk.notes.append(f"the columns changed within the run ({'; '.join(told)})")
            first = each.labels or first
        return taken

    def _columns(self, query: Query, walk: Walk, taken: list[Taken]) -> list[Column]:
        told = [label for each in taken for label in each.labels or ()]
        labels = list(dict.fromkeys([*(walk.spool.labels or ()), *told]))
        missing = [label for label in query.key if label not in (EVENT_KEY, MEMBER) and label not in labels]
        missing += [query.cursor] if query.cursor and query.cursor not in labels else []
        if labels and missing:
            raise ConfigurationError(
                what=f"the result of {query.name} has no {' and no '.join(missing)}",
                where=f"sources.{has.VENDOR}",
                todo=f"Check its key and cursor; the result has: {', '.join(labels[:40])}",
            )
        if walk.spool.labels is None and labels:
            walk.spool.lists(labels)
        if labels and (unknown := set(query.types or ()) - set(labels)):
            walk.notes.append(f"types names what the result has not: {', '.join(sorted(unknown))}")
        return [self._column(query, label) for label in labels]

    def _column(self, query: Query, label: str) -> Column:
        zone = self.settings.zone
        declared = (query.types or {}).get(label)
        if declared is not None:
            return Column(label=label, kind=declared, zone=zone)
        if label in SYSTEM:
            return Column(label=label, kind=SYSTEM[label])
        if label in CLUSTER_TIMES:
            return Column(label=label, kind=Kind.TIMESTAMP, declared=False, zone=zone)
        return Column(label=label, declared=False)

    def _since(self, query: Query, walk: Walk) -> str | None:
        """From when on to ask for what changed; None to ask for all."""
        cursor = walk.state.get("cursor")
        if not query.since or cursor is None or walk.limit or walk.due_whole:
            return None
        if walk.state.get("asked") != fingerprint(query):
            walk.notes.append("walked whole, because another SQL, key or cursor is asked for")
            return None
        return f"{on_clock(cursor, self.settings.zone) - walk.table.lookback:%Y-%m-%d %H:%M:%S}"

    def _remember(self, query: Query, windows: list[tuple[date, date]], walk: Walk) -> None:
        """What the next walk goes on from; kept only if the rows load."""
        walk.state["asked"] = fingerprint(query)
        if windows:
            walk.state["day"] = windows[-1][1].isoformat()
        elif query.since:
            before = None if walk.complete else walk.state.get("cursor")
            # A row of 2999 must not stop the stream: the cursor never passes the start of the run.
            edge = f"{walk.until.astimezone(ZoneInfo(self.settings.zone)):%Y-%m-%d %H:%M:%S}"
            seen = greatest(walk.spool, query.cursor, like=_TIME, up_to=edge, zone=self.settings.zone)
            newest = latest((seen, before), self.settings.zone)
            if newest is not None and _is_time(newest):
                walk.state["cursor"] = newest
            elif walk.vendor_count:
                walk.notes.append(f"no row has a time in {query.cursor}: all will be asked for again")

    # -- models ---------------------------------------------------------------------------------

    def fetch_model(self, query: ModelQuery) -> Fetch:
        def fetch(walk: Walk) -> None:
            windows: list[tuple[date | None, date | None]] = [(None, None)]
            walk.anew = not _same_grid(query, walk)
            if query.window is not None and walk.window is not None:
                windows = [*windows_in(query.days, walk.window)]
                if not windows:
                    walk.notes.append(f"no window of {query.window.days} days ends in {walk.window}")
                    walk.unchanged(0)
                    return
            elif query.window is not None:
                due = day_windows(query.days, walk.state, until=walk.until, zone=self.settings.zone, full=walk.full)
                windows = [*due]
                if not due:
                    walk.notes.append(f"no day is due: the window begins on {query.window.start}")
                    walk.unchanged(0)
                    return
                walk.state["day"], walk.state["asked"] = due[-1][1].isoformat(), fingerprint(query.days)
            if walk.limit:
                windows = windows[-1:]
            bodies = [(start, query.of_days(start, end)) for start, end in windows]
            answers = in_order(
                lambda each: self.client.data(query.path, body=each[1]), bodies, width=self.settings.tasks
            )
            count = 0
            emptied = set()
            for (start, body), data in zip(bodies, answers, strict=True):
                rows, held = long_rows(query.name, start, data)
                if start is not None and data is not None and not rows:
                    emptied.add(str(start))
                if (note := over_limit(body, rows)) and note not in walk.notes:
                    walk.notes.append(note)
                count += held
                walk.spool.rows(rows)
            walk.vendor_count = count
            if count:
                walk.emptied = frozenset(emptied)
                walk.state |= {"grid": query.window.grid} if query.window else {}
            elif query.window is not None:
                walk.notes.append(f"no value came for {windows[0][0]} to {windows[-1][1]}; what was loaded of it stays")

        return fetch


def _can_replace(query: Query, walk: Walk) -> bool:
    """Do the loaded rows have the column by which a load replaces days? Raises `ConfigurationError` unless `full`."""
    if query.window is None or not query.cursor or not walk.stored or walk.limit:
        return True
    if query.cursor in {column.label for column in walk.stored}:
        return True
    if walk.full:
        return False
    what = f"the cursor of {query.name} is {query.cursor} now, which the rows that are loaded do not have"
    raise _to_be_built_anew(query.name, what, "none of them would be replaced, and all of them doubled")


def _same_grid(query: ModelQuery, walk: Walk) -> bool:
    """Do the windows begin on days on which those that are loaded began? Raises `ConfigurationError` unless `full`."""
    if query.window is None or walk.limit or walk.state.get("grid", query.window.grid) == query.window.grid:
        return True
    if walk.full:
        return False
    what = f"the windows of {query.name} begin on other days than those that are loaded"
    why = "each replaces only what began on its own first day, and the figures of its others would be told twice"
    raise _to_be_built_anew(query.name, what, why)


def _to_be_built_anew(name: str, what: str, why: str) -> ConfigurationError:
    todo = f"Build the table anew: nightload run --full --table {has.DATASET}.{name}"
    return ConfigurationError(what=what, where=f"sources.{has.VENDOR}", why=why, todo=todo)


def _by_days(
    query: Query, windows: list[tuple[date, date]], taken: list[Taken], walk: Walk
) -> Callable[[Converted], None]:
    """Each day that rows came of takes the place of what is loaded of it; those asked for that have none are emptied.

    So a row of another day than those asked for would take the place of all rows of its day, and one of no day would
    come beside itself with each load: the walk raises `ConfigurationError` for either.
    """

    def tell(converted: Converted) -> None:
        column = next((column for column in converted.columns if column.label == query.cursor), None)
        if column is None:
            return
        if lacking := converted.rows - filled(converted).get(column.name, 0):
            raise _no_days(query, f"{lacking} rows of {query.name} have no day", "they would come anew with each load")
        if column.kind not in (Kind.DATE, Kind.TEXT):
            return
        found = texts_of(converted, query.cursor)
        days = {str(start + timedelta(days=n)) for start, end in windows for n in range((end - start).days + 1)}
        if strange := sorted(each[:10] for each in found if _DAY_OF.match(each) and each[:10] not in days):
            told = f"{query.name} has rows of {strange[0]}, and was asked for {windows[0][0]} to {windows[-1][1]}"
            raise _no_days(query, told, "they would take the place of all rows of their day")
        asked = {
            str(start + timedelta(days=n))
            for (start, end), each in zip(windows, taken, strict=True)
            if each.proven
            for n in range((end - start).days + 1)
        }
        walk.emptied = frozenset(asked - found)

    return tell


def _no_days(query: Query, what: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        what=what,
        where=f"sources.{has.VENDOR}",
        why=f"each load replaces the days that {query.cursor} holds, and {why}",
        todo='Take "$part_date" as cursor, or leave these rows out by WHERE',
    )


def _extra(query: Query, labels: list[str]) -> dict[str, Extra]:
    """Our own columns of the ready-made tables, told from the converted ones."""

    def event_key(columns: Mapping[str, str]) -> str:
        uuid = f"nullif({columns['#uuid']}::VARCHAR, '')" if "#uuid" in columns else "NULL::VARCHAR"
        return f"coalesce({uuid}, 'row:' || md5(row({', '.join(columns.values())})::VARCHAR))"

    def event_time(columns: Mapping[str, str]) -> str:
        time = f"try_cast({columns['#event_time']}::VARCHAR AS TIMESTAMP)"
        offset = f"try_cast({columns['#zone_offset']}::VARCHAR AS DOUBLE)"
        moved = f"timezone('UTC', {time} - to_milliseconds(({offset} * 3600000)::BIGINT))"
        return f"CASE WHEN {offset} BETWEEN -12 AND 14 THEN {moved} END"

    def member(columns: Mapping[str, str]) -> str:
        ids = [f"{columns[label]}::VARCHAR" for label in ("#user_id", "#varchar_id") if label in columns]
        return f"coalesce({', '.join([*ids, chr(39) * 2])})"

    extra: dict[str, Extra] = {}
    if EVENT_KEY in query.key:
        extra[EVENT_KEY] = Extra(event_key, "text")
        if {"#event_time", "#zone_offset"} <= set(labels):
            extra["event_time_utc"] = Extra(event_time, "timestamp")
    if MEMBER in query.key:
        extra[MEMBER] = Extra(member, "text")
    return extra


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return bool(re.fullmatch(_TIME, text))


def _clock(sent: str) -> str:
    try:
        theirs = parsedate_to_datetime(sent)
    except ValueError:
        return "the vendor's clock is not known: its answers have no date"
    apart = abs(datetime.now(UTC) - theirs.replace(tzinfo=theirs.tzinfo or UTC)) / timedelta(seconds=1)
    return f"the clocks are {apart:.0f} s apart" + (" - set yours" if apart > 60 else "")
