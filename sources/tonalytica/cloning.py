"""Copying a dashboard with all that it stands on: the only part of nightload that changes anything at a vendor.

What is to be made is planned first, by reading alone, and whatever would make the copy incomplete is refused then. The
dashboard is made before anything else, as a draft with its final name: if the copying ends half way, that name is what
a second try stumbles over. It is published last, after it was read again and found whole. Each request is sent once.

A query is copied by the vendor's own fork, in every version (9 to 26.08) a draft with the same text, parameters, tags,
result and visualizations, without a schedule.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sources.core.config import settings_of
from sources.core.errors import (
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    Refused,
    Unavailable,
    Unreachable,
    one_line,
)
from sources.tonalytica import settings as has
from sources.tonalytica.client import Client

Row = dict[str, Any]

WRITES = (
    r"POST api/dashboards",
    r"POST api/dashboards/\d+",
    r"POST api/queries/\d+/fork",
    r"POST api/queries/\d+",
    r"POST api/widgets",
)
NEEDED = ("create_dashboard", "edit_dashboard", "edit_query")
MAX_DASHBOARD_NAME, MAX_QUERY_NAME = 100, 255

_BY_NAME = re.compile(r"\b(?:cached_)?query_(\d+)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is copied: the dashboard, its queries and its widgets, as the vendor told them."""

    name: str
    base: str
    dashboard: Row
    queries: tuple[Row, ...]
    widgets: tuple[Row, ...]
    schedules: bool = False
    by_slug: bool = False
    notes: tuple[str, ...] = ()

    def query_name(self, query: Row) -> str:
        name = f"{self.name}: {query['name']}"
        return name if len(name) <= MAX_QUERY_NAME else f"{name[: MAX_QUERY_NAME - 1]}…"

    def lines(self) -> Iterator[str]:
        """What would be made, for people."""
        board = self.dashboard
        state = "a draft" if board.get("is_draft") else "published"
        yield one_line(f"dashboard {self.name!r} ({state}), from {board['id']} {board['name']!r}")
        for query in self.queries:
            charts = len(query.get("visualizations") or ())
            yield one_line(f"query {self.query_name(query)!r} with {charts} visualizations, from {query['id']}")
        texts = sum(not widget.get("visualization") for widget in self.widgets)
        yield f"{len(self.widgets)} widgets, {texts} of them texts"
        for note in self.notes:
            yield f"note: {one_line(note)}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """One thing that now exists at the vendor. `of` is what it was copied from."""

    kind: str
    id: int
    url: str
    of: int


@dataclass(kw_only=True, eq=False, repr=False)
class HalfCloned(NightloadError):
    """The copying ended half way; `made` is what exists, `unsure` what may exist besides."""

    made: tuple[Made, ...] = field(default=())
    unsure: str = ""

    def lines(self) -> Iterator[str]:
        if self.made:
            yield "These were made, and are still there:"
            yield from (f"  {each.kind} {each.id} (copy of {each.of})  {one_line(each.url)}" for each in self.made)
        if self.unsure:
            yield f"It is not known whether this was made too: {one_line(self.unsure)}"
        if self.made or self.unsure:
            yield "To be rid of them, open each dashboard and query there and choose Archive; widgets go with theirs."


def connect(*, writing: bool) -> tuple[Client, str]:
    """A client, which can write only if asked to, and where people open the vendor."""
    settings = settings_of(has.VENDOR, has.Settings(), secrets=has.Settings.secrets)
    has.check(settings)
    if not settings.api_key:
        raise ConfigurationError(
            what="TONalytica has no user key", todo="Set sources.tonalytica.api_key; a query's own key makes nothing"
        )
    return Client(settings, writes=WRITES if writing else (), masks=False), settings.base_url.rstrip("/")


def plan(client: Client, wanted: str, *, name: str, base: str, partial: bool = False, schedules: bool = False) -> Plan:
    """Read all that is to be copied. Changes nothing.

    `partial` leaves out the widgets that the key may not see or copy. Raises `ConfigurationError` for a name that is
    taken or too long and for a dashboard that is not clearly one; `Refused` if the copy would lack something.
    """
    name = name.strip()
    if not name.isprintable() or not 1 <= len(name) <= MAX_DASHBOARD_NAME:
        raise ConfigurationError(
            what="the new dashboard cannot have that name", todo=f"Give 1 to {MAX_DASHBOARD_NAME} printable characters"
        )
    session, _ = client.session()
    rights = session["user"].get("permissions")
    if rights is not None and (missing := [right for right in NEEDED if right not in rights]):
        raise Refused(
            what=f"the key's user may not {', '.join(missing)}", where=has.VENDOR, todo="Use a key of one who may"
        )
    listed = client.list_all("dashboards", duplicates=True).rows
    if taken := [row for row in listed if row["name"].strip() == name]:
        raise ConfigurationError(
            what=f"there is already a dashboard named {name!r}",
            where=f"dashboard {taken[0]['id']}",
            why="perhaps an earlier try that ended half way; nothing was made now",
            todo="Choose another name, or archive that one and the queries whose names begin with it",
        )
    board = _find(client, wanted, listed)
    widgets, notes = _copyable(client, board, session, partial=partial)
    ids = sorted({widget["visualization"]["query"]["id"] for widget in widgets if widget.get("visualization")})
    queries = []
    for key, query in client.details("queries", ids):
        if query is None:
            raise Refused(what=f"query {key} is gone", where=f"dashboard {board['id']}", todo="Run again")
        queries.append(query)
    notes += _notes(client, queries, schedules=schedules)
    return Plan(
        name=name,
        base=base,
        dashboard=board,
        queries=tuple(queries),
        widgets=tuple(sorted(widgets, key=lambda widget: int(widget["id"]))),
        schedules=schedules,
        by_slug=client.dashboards_by_slug,
        notes=tuple(notes),
    )


def clone(client: Client, what: Plan, *, on_made: Callable[[Made], None]) -> Made:
    """Make the copy; returns the new dashboard.

    `on_made` gets each thing as soon as it exists. Raises `HalfCloned` if it ends before the copy is whole.
    """
    made: list[Made] = []
    writer = _Writer(client, what, made, on_made)
    try:
        return writer.copy()
    except (NightloadError, KeyboardInterrupt, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        unsure = writer.doing if writer.sent and _may_have_worked(error) else ""
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        if not isinstance(error, NightloadError | KeyboardInterrupt | OSError):
            why = "an answer has not the shape of a Redash's"
        raise HalfCloned(
            what="the copy is not whole" if made else "nothing was copied",
            where=f"{has.VENDOR}, {writer.doing}",
            why=why,
            made=tuple(made),
            unsure=unsure,
        ) from None


def _may_have_worked(error: BaseException) -> bool:
    """Is it open whether the vendor did what it was last asked to?"""
    if isinstance(error, Unavailable | BrokenAnswer):
        return not isinstance(error, Unreachable)
    return not isinstance(error, NightloadError)


class _Writer:
    def __init__(self, client: Client, what: Plan, made: list[Made], on_made: Callable[[Made], None]) -> None:
        self.client, self.plan = client, what
        self.made, self.on_made = made, on_made
        self.doing = ""
        self.sent = False
        self.charts: dict[int, int] = {}

    def copy(self) -> Made:
        board = self._dashboard()
        forks = {query["id"]: self._fork(query) for query in self.plan.queries}
        new_ids = {old: fork["id"] for old, fork in forks.items()}
        for query in self.plan.queries:
            self._finish(query, forks[query["id"]], new_ids)
        for widget in self.plan.widgets:
            self._widget(widget, board["id"])
        self._publish(board)
        return self.made[0]

    def _dashboard(self) -> Row:
        self.doing = f"dashboard {self.plan.name!r}"
        board = self._post("dashboards", {"name": self.plan.name})
        url = f"{self.plan.base}/dashboards/{board['id']}"
        if self.plan.by_slug:
            url = f"{self.plan.base}/dashboard/{board['slug']}"
        self._told("dashboard", board["id"], url, self.plan.dashboard["id"])
        return board

    def _fork(self, query: Row) -> Row:
        self.doing = f"the copy of query {query['id']} (named “Copy of (#{query['id']}) …” until it is whole)"
        fork = self._post(f"queries/{query['id']}/fork", {})
        self._told("query", fork["id"], f"{self.plan.base}/queries/{fork['id']}", query["id"])
        # no answer promises an order; the vendor copies them in the order of their ids
        olds, news = (sorted(each["visualizations"], key=lambda chart: int(chart["id"])) for each in (query, fork))
        if [_substance(chart) for chart in olds] != [_substance(chart) for chart in news]:
            raise Refused(
                what="the copy has other visualizations than the query",
                where=f"query {query['id']}",
                why="was it edited in the meantime?",
                todo="Remove what was made, and run again",
            )
        self.charts |= {old["id"]: new["id"] for old, new in zip(olds, news, strict=True)}
        return fork

    def _finish(self, query: Row, fork: Row, new_ids: Mapping[int, int]) -> None:
        """Its name and state, and parameters that point at the copies."""
        self.doing = f"the name and state of query {fork['id']}"
        options = redirected(query.get("options") or {}, new_ids)
        wanted: Row = {"name": self.plan.query_name(query), "is_draft": bool(query.get("is_draft"))}
        wanted |= {"options": options} if options != fork.get("options") else {}
        wanted |= {"tags": query.get("tags") or []} if (query.get("tags") or []) != (fork.get("tags") or []) else {}
        if self.plan.schedules and query.get("schedule"):
            wanted["schedule"] = query["schedule"]
        self._post(f"queries/{fork['id']}", wanted | _version(fork))

    def _widget(self, widget: Row, dashboard: int) -> None:
        self.doing = f"the copy of widget {widget['id']}"
        old = (widget.get("visualization") or {}).get("id")
        if old is not None and old not in self.charts:
            raise Refused(what=f"visualization {old} is no longer on its query", todo="Remove what was made, run again")
        body = {
            "dashboard_id": dashboard,
            "visualization_id": None if old is None else self.charts[old],
            "text": widget.get("text") or "",
            "options": widget.get("options") or {},
            "width": widget.get("width") or 1,
        }
        answer = self._post("widgets", body)
        self._told("widget", answer["id"], self.made[0].url, int(widget["id"]))

    def _publish(self, board: Row) -> None:
        """Read the copy again; if it is whole, let it have its state."""
        self.doing = "reading the copy again"
        found = self.client.dashboard(board["id"], board["slug"])
        if found is None:
            raise Refused(what="the new dashboard cannot be read", where=f"dashboard {board['id']}")
        expected = [self._expected(widget) for widget in self.plan.widgets]
        came = sorted(found.get("widgets") or (), key=lambda widget: int(widget["id"]))
        if [_placed(widget, (widget.get("visualization") or {}).get("id")) for widget in came] != expected:
            raise Refused(what="the new dashboard has other widgets than were made", where=f"dashboard {board['id']}")
        self.doing = "the state of the new dashboard"
        old = self.plan.dashboard
        names = ("tags", "is_draft", "dashboard_filters_enabled", "options")
        wanted = {name: old[name] for name in names if old.get(name) is not None and old[name] != found.get(name)}
        if wanted:
            self._post(f"dashboards/{board['id']}", wanted | _version(found))

    def _expected(self, widget: Row) -> Any:
        old = (widget.get("visualization") or {}).get("id")
        return _placed(widget, None if old is None else self.charts[old])

    def _post(self, path: str, body: Mapping[str, Any]) -> Row:
        self.sent = True
        try:
            answer = self.client.post(path, body)
        except Refused as error:
            if error.status == 409:
                error.todo = "Somebody edited it in the meantime: remove what was made, and run again"
            elif error.status == 403:
                error.todo = (
                    "Give the key's user the right to edit dashboards and queries and full access to their data"
                )
            raise
        if not isinstance(answer, dict) or not isinstance(answer.get("id"), int):
            raise BrokenAnswer(what="the answer to a write tells no id", where=has.VENDOR)
        self.sent = False
        return answer

    def _told(self, kind: str, key: int, url: str, of: int) -> None:
        self.made.append(Made(kind=kind, id=key, url=url, of=of))
        self.on_made(self.made[-1])


def redirected(options: Mapping[str, Any], new_ids: Mapping[int, int]) -> Row:
    """A query's options, in which parameters that take their values from a copied query take them from its copy."""
    found: Row = copy.deepcopy(dict(options))
    for parameter in found.get("parameters") or ():
        for name in ("queryId", "parentQueryId"):
            if parameter.get(name) in new_ids:
                parameter[name] = new_ids[parameter[name]]
    return found


def _find(client: Client, wanted: str, listed: list[Row]) -> Row:
    """The dashboard of this id, slug, or `<id>-<slug>`. Slugs are made from names: several may have the same."""
    nothing = ConfigurationError(
        what=f"there is no dashboard {wanted!r}", where=has.VENDOR, todo="Give its id, or the last part of its address"
    )
    hits = [] if wanted.isdecimal() else [row for row in listed if row["slug"] == wanted]
    if len(hits) > 1:
        told = ", ".join(f"{row['id']} ({row['name']})" for row in hits)
        raise ConfigurationError(
            what=f"{len(hits)} dashboards have the slug {wanted!r}",
            why=told,
            todo="Give the id of the one that is meant",
        )
    number = re.fullmatch(r"([0-9]{1,9})(?:-.*)?", wanted)
    if hits or number:
        key = hits[0]["id"] if hits else int(number[1]) if number else 0
        slug = next((str(row["slug"]) for row in listed if row["id"] == key), wanted)
        if (found := client.dashboard(key, slug)) is not None:
            return found
    elif re.fullmatch(r"[\w-]+", wanted):
        # not in the list: somebody else's draft, or one with no chart
        for more in ({}, {"legacy": "true"}):
            try:
                hidden: Row = client.get(f"dashboards/{quote(wanted)}", **more)
            except (Refused, Unavailable) as error:
                if error.status not in (404, 500):
                    raise
                continue
            return hidden
    raise nothing


def _copyable(client: Client, board: Row, session: Row, *, partial: bool) -> tuple[list[Row], list[str]]:
    """The widgets, and what is to be said of those left out."""
    admin = "admin" in (session["user"].get("permissions") or ())
    closed = {row["id"] for row in client.array("data_sources") if row.get("view_only") and not admin}
    widgets: list[Row] = []
    without: list[str] = []
    for widget in board.get("widgets") or ():
        query = (widget.get("visualization") or {}).get("query") or {}
        if widget.get("restricted"):
            without.append(f"widget {widget['id']} is not shown to this key")
        elif widget.get("visualization") and query.get("data_source_id") is None:
            without.append(f"the data source of query {query.get('id')} is gone")
        elif query.get("data_source_id") in closed:
            without.append(f"the key's user may only view the data source of query {query.get('id')}")
        else:
            widgets.append(widget)
    without = list(dict.fromkeys(without))
    if without and not partial:
        raise Refused(
            what="the dashboard cannot be copied whole",
            where=f"dashboard {board['id']}",
            why="; ".join(without[:5]),
            todo="Use a key that may, or copy the rest: --partial",
        )
    return widgets, [f"left out: {each}" for each in without]


def _notes(client: Client, queries: list[Row], *, schedules: bool) -> list[str]:
    """What of the originals the copies will go on using, and what they will not have."""
    ids = {query["id"] for query in queries}
    results = {row["id"] for row in client.array("data_sources") if row.get("type") == "results"}
    notes = []
    if not schedules and (
        timed := [str(query["id"]) for query in queries if (query.get("schedule") or {}).get("interval")]
    ):
        notes.append(f"the schedules of queries {', '.join(timed)} are not copied (--schedules copies them)")
    for query in queries:
        for parameter in (query.get("options") or {}).get("parameters") or ():
            other = parameter.get("queryId")
            if other is not None and other not in ids:
                notes.append(
                    f"query {query['id']}: {parameter.get('name')} goes on taking its values from query {other}"
                )
        if query.get("data_source_id") in results:
            named = {int(key) for key in _BY_NAME.findall(str(query.get("query") or ""))}
            notes += [f"query {query['id']} goes on reading query {key} by its name" for key in sorted(named & ids)]
    return notes


def _substance(chart: Row) -> Any:
    return [chart.get(name) for name in ("type", "name", "description", "options")]


def _placed(widget: Row, visualization: int | None) -> Any:
    return visualization, widget.get("text") or "", widget.get("options") or {}


def _version(row: Row) -> Row:
    """What a change says it starts from; the vendor refuses it if somebody was quicker."""
    return {"version": row["version"]} if isinstance(row.get("version"), int) else {}
