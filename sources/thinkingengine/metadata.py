"""Definitions: events, properties, cohorts, reports, metrics, projects, users. One list a table.

The lists of several endpoints stand under keys that are not documented: a list is looked for where public code found
it, then wherever there is one and no other. Known fields have declared types; any other becomes a column as it comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sources.convert.spool import labels_of
from sources.convert.types import Column
from sources.core.concurrency import once
from sources.core.config import unmatched
from sources.core.errors import BrokenAnswer, ConfigurationError, NightloadError, Refused
from sources.extract.sync import Fetch, Walk
from sources.thinkingengine import settings as has
from sources.thinkingengine.client import Client
from sources.thinkingengine.models import long_rows, over_limit, read_metrics
from sources.thinkingengine.refusals import NoPermission
from sources.thinkingengine.settings import Settings, refuse_unknown, wrong

_LIVE_KEYS = re.compile(r"token|secret|password|api_?key", re.IGNORECASE)
Row = dict[str, Any]


class Metadata:
    """The definitions of one project. What several tables need is fetched once per run."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings

    def fetch(self, name: str) -> Fetch:
        def fetch(walk: Walk) -> None:
            try:
                rows = self.rows(name, walk.notes)
            except NoPermission as error:
                # What was visible once and is not any more is a failure; what never was is not.
                if walk.state.get("rows") or walk.limit:
                    raise
                walk.notes.append(f"skipped: {error}")
                walk.unchanged(0)
                return
            _spool(walk, rows)

        return fetch

    def rows(self, name: str, notes: list[str]) -> list[Row]:
        """The rows of one table, and what is to be noted about them."""
        read: Mapping[str, Callable[[list[str]], Iterator[Row]]] = {
            "event_meta": self._events,
            "property_meta": self._properties,
            "virtual_events": self._virtual_events,
            "user_clusters": self._clusters,
            "reports": self._reports,
            "dashboards": self._dashboards,
            "report_dashboards": self._report_dashboards,
            "metrics": self._metrics,
            "projects": self._projects,
            "users_of_company": self._users,
            "generated_sql": self._generated_sql,
            "metric_values": self._metric_values,
        }
        return list(read[name](notes))

    @property
    def project(self) -> int:
        if self.settings.project_id is None:
            raise wrong("project_id is not set", "Write the number of the project (not its APPID)")
        return self.settings.project_id

    def unmatched(self) -> Iterator[NightloadError]:
        """An error for each list of the settings that names what the project does not have."""
        known = [str(row.get("eventName")) for row in self.event_list]
        yield from self.unknown_events()
        for name in self.settings.virtual_events or ():
            try:
                self._virtual_event(name)
            except (Refused, BrokenAnswer, ConfigurationError):
                yield from unmatched(has.VENDOR, "virtual_events", [name], known, what="virtual event")
        if self.settings.login_names:
            logins = [row.get("loginName") for row in self.rows("users_of_company", [])]
            yield from unmatched(has.VENDOR, "login_names", self.settings.login_names, logins, what="user")

    def unknown_events(self) -> Iterator[NightloadError]:
        known = [str(row.get("eventName")) for row in self.event_list]
        yield from unmatched(has.VENDOR, "events", self.settings.events or (), known, what="event")

    @once
    def event_list(self) -> list[Row]:
        data = self.client.data(has.EVENTS_META, params={"projectId": self.project})
        return rows_under(data, ("events", "list"), where=has.EVENTS_META)

    @once
    def managed(self) -> tuple[list[Row], list[Row]]:
        """Reports and dashboards of `manage-reports`."""
        data = self.client.data(has.MANAGE_REPORTS, params={"projectId": self.project})
        parts = data if isinstance(data, Mapping) else {"data": data} if data else {}
        for name in ("reports", "dashboards"):
            if parts and name not in parts:  # a list that is not there is no list without rows
                raise BrokenAnswer(
                    what=f"no {name} in the answer",
                    where=f"{has.VENDOR}, {has.MANAGE_REPORTS}",
                    why=f"data holds {', '.join(map(str, parts))}",
                    todo="Tell the maintainers; until then leave the table out (exclude)",
                )
        return (
            rows_under(parts.get("reports"), (), where=has.MANAGE_REPORTS),
            rows_under(parts.get("dashboards"), (), where=has.MANAGE_REPORTS),
        )

    @once
    def report_list(self) -> list[Row]:
        if self.settings.reports_from == "manage-reports":
            return self.managed[0]
        data = self.client.data(has.PROJECT_REPORTS, params={"projectId": self.project})
        return rows_under(data, ("reports", "list"), where=has.PROJECT_REPORTS)

    def _events(self, notes: list[str]) -> Iterator[Row]:
        for row in self.event_list:
            yield {"project_id": self.project, **row}

    def _properties(self, notes: list[str]) -> Iterator[Row]:
        names: list[str | None] = [None]
        if self.settings.properties_per_event:
            names = [str(row.get("eventName")) for row in self.event_list]
        asked: list[tuple[str, str | None]] = [*(("event", name) for name in names), ("user", None)]
        for table_type, event in asked:
            params = {"projectId": self.project, "tableType": table_type, "eventName": event}
            data = self.client.data(has.PROPS, params=params)
            for row in rows_under(data, ("properties", "list"), where=has.PROPS):
                shown = {**row, "selectType": row.get("selectType", row.get("columnType"))}
                yield {"project_id": self.project, **shown, "tableType": table_type, "eventName": event or ""}

    def _virtual_events(self, notes: list[str]) -> Iterator[Row]:
        told = [str(row["eventName"]) for row in self.event_list if str(row.get("eventName", "")).startswith("ta@")]
        for name in dict.fromkeys([*told, *(self.settings.virtual_events or ())]):
            try:
                yield {"project_id": self.project, **self._virtual_event(name)}
            except (Refused, ConfigurationError) as error:
                raise error.at(f"virtual event {name}") from None

    def _virtual_event(self, name: str) -> Mapping[str, Any]:
        data = self.client.data(has.VIRTUAL_EVENT, params={"projectId": self.project, "eventName": name})
        if not isinstance(data, Mapping):
            raise BrokenAnswer(what=f"no virtual event came for {name}", where=f"{has.VENDOR}, {has.VIRTUAL_EVENT}")
        return data

    def _clusters(self, notes: list[str]) -> Iterator[Row]:
        body = {"projectId": self.project, **(self.settings.user_cluster_body or {})}
        data = self.client.data(has.USER_CLUSTERS, body=body)
        for row in rows_under(data, ("clusters", "list", "userClusters"), where=has.USER_CLUSTERS):
            yield {"project_id": self.project, **row}

    def _reports(self, notes: list[str]) -> Iterator[Row]:
        for row in self.report_list:
            yield {"project_id": self.project, **row}

    def _dashboards(self, notes: list[str]) -> Iterator[Row]:
        for row in self.managed[1]:
            # the vendor's own spelling is dashbord_id; who mends it should not cost a night
            known = {"dashbord_id": "dashboard_id", "dashbord_name": "dashboard_name"}
            yield {"project_id": self.project, **{known.get(label, label): value for label, value in row.items()}}

    def _report_dashboards(self, notes: list[str]) -> Iterator[Row]:
        for row in self.managed[0]:
            for dashboard in dict.fromkeys(row.get("dashboardIds") or ()):
                yield {"project_id": self.project, "report_id": row.get("reportId"), "dashboard_id": dashboard}

    def _metrics(self, notes: list[str]) -> Iterator[Row]:
        data = self.client.data(has.METRICS, body={"projectId": self.project})
        for row in rows_under(data, ("metrics", "list"), where=has.METRICS):
            yield {"project_id": self.project, **row}

    def _projects(self, notes: list[str]) -> Iterator[Row]:
        data = self.client.data(has.PROJECTS, root=True, params={"loginName": self.settings.login_name})
        yield from rows_under(data, ("projects", "list"), where=has.PROJECTS)

    def _users(self, notes: list[str]) -> Iterator[Row]:
        names = list(dict.fromkeys(self.settings.login_names or ()))
        data = self.client.data(has.USERS_BY_LOGIN, root=True, body={"loginNames": names})
        for row in rows_under(data, ("authUsers", "list"), where=has.USERS_BY_LOGIN):
            login = row.get("loginName")
            info = self.client.data(has.USER_BY_LOGIN, root=True, params={"loginName": str(login)})
            yield {**(info if isinstance(info, Mapping) else {}), **row}
            names = [name for name in names if name != login]
        if names:
            notes.append(f"no user has the login {', '.join(names)}")

    def _generated_sql(self, notes: list[str]) -> Iterator[Row]:
        for given in read_filters(self.settings):
            data = self.client.data(has.GENERATE_SQL, params={"projectId": self.project}, body=dict(given["body"]))
            sql = data.get("sql") if isinstance(data, Mapping) else None
            yield {"name": given["name"], "body": given["body"], "sql": sql, "answer": data}

    def _metric_values(self, notes: list[str]) -> Iterator[Row]:
        for query in read_metrics(self.settings):
            rows, _ = long_rows(query.name, None, self.client.data(query.path, body=dict(query.body)))
            if note := over_limit(query.body, rows):
                notes.append(f"{query.name}: {note}")
            yield from rows


def read_filters(settings: Settings) -> list[Mapping[str, Any]]:
    """`[[sources.thinkingengine.generated_sql]] name, body`."""
    found: list[Mapping[str, Any]] = []
    for number, given in enumerate(settings.generated_sql or (), start=1):
        where = f"generated_sql[{number}]"
        given = refuse_unknown(given, ("name", "body"), where)
        body = given.get("body")
        if not isinstance(given.get("name"), str) or not isinstance(body, Mapping) or "filter" not in body:
            raise wrong(f"{where} has no name or no filter", "Write name = and body = {filter = {…}}")
        if given["name"] in {other["name"] for other in found}:
            raise wrong(f"{where}: there are two named {given['name']}", "Name each once")
        found.append(given)
    return found


def rows_under(data: Any, keys: Iterable[str], *, where: str) -> list[Row]:
    """The list of objects in `data`: itself, under one of the keys, or the only list that there is; None is no rows."""
    found: Any = data
    if isinstance(data, Mapping):
        named = [data[key] for key in keys if isinstance(data.get(key), list)]
        lists = named or [value for value in data.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 or named else None if data else []
    elif data is None:
        found = []
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise BrokenAnswer(
            what="no list of rows in the answer",
            where=f"{has.VENDOR}, {where}",
            why=f"data holds {', '.join(map(str, data)) if isinstance(data, Mapping) else type(data).__name__}",
            todo="Tell the maintainers; until then leave the table out (exclude)",
        )
    return found


def _spool(walk: Walk, rows: list[Row]) -> None:
    walk.vendor_count = len(rows)
    rows = rows[: walk.limit] if walk.limit else rows
    tidy: list[Row] = [_without_live_keys(row) for row in rows]
    for row in tidy:
        for label in walk.table.key:
            if row.get(label) is None:
                raise _without_key(walk, label, row)
    walk.spool.rows(tidy)
    declared = {column.label for column in walk.table.columns}
    extra = [label for label in labels_of(tidy) if label not in declared]
    walk.columns = [*walk.table.columns, *(Column(label=label, declared=False) for label in extra)]


def _without_live_keys(value: Any) -> Any:
    match value:
        case dict():
            return {label: _without_live_keys(held) for label, held in value.items() if not _LIVE_KEYS.search(label)}
        case list():
            return [_without_live_keys(each) for each in value]
        case _:
            return value


def _without_key(walk: Walk, label: str, row: Row) -> NightloadError:
    return BrokenAnswer(
        what=f"a row of {walk.table.name} has no {label} to be told apart by",
        where=has.VENDOR,
        why=f"it has {', '.join(sorted(row))}",
        todo=f'Tell the maintainers; until then: exclude = ["{walk.table.name}"] under sources.{has.VENDOR}',
    )
