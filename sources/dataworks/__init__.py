"""DataWorks DataService: published and draft APIs, their groups, folders, applications, grants and tests.

No list has a filter on time, so every table but the tests is walked whole and compared. Each list is read once per run,
whichever tables need it; details of single APIs are fetched only where the list does not tell them (`details.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import dlt
from dlt.extract import DltResource

from sources.convert.spool import labels_of
from sources.convert.types import Column, Kind
from sources.core.concurrency import once
from sources.core.config import is_set, settings_of
from sources.core.errors import ConfigurationError, NightloadError, NotReady, Refused
from sources.dataworks import definitions
from sources.dataworks import settings as has
from sources.dataworks.client import Client, Listed
from sources.dataworks.definitions import Row
from sources.dataworks.details import Completed, Memory, Policy, complete
from sources.extract.connector import Part
from sources.extract.extractor import Extraction
from sources.extract.sync import Fetch, Walk, reasons
from sources.extract.table import Mode, Table

log = logging.getLogger(__name__)

Made = TypeVar("Made")

_CLOCK_TOLERANCE = 60.0


def configured() -> bool:
    return is_set(has.VENDOR, "access_key_id", "access_key_secret")


def connect() -> Dataworks:
    """Raises `ConfigurationError` for a setting that is missing or cannot work."""
    settings = _settings()
    has.check(settings)
    return Dataworks(settings)


def tables() -> dict[str, tuple[Table, ...]]:
    return {has.DATASET: has.tables_of(_settings())}


def _settings() -> has.Settings:
    return settings_of(has.VENDOR, has.Settings(), secrets=has.Settings.secrets)


class Dataworks:
    """A connected account in one region. What several tables need is fetched once per run."""

    def __init__(self, settings: has.Settings) -> None:
        self.settings = settings
        self.client = Client(settings)
        self.http = self.client.http
        self._lists: dict[str, Listed | NightloadError] = {}
        self._marks: dict[str, str] | None = None
        self._completed: dict[str, Completed | NightloadError] = {}

    def parts(self, extraction: Extraction) -> list[Part]:
        return [Part(dataset=has.DATASET, source=lambda: dataworks(self, extraction))]

    def resources(self, extraction: Extraction) -> list[DltResource]:
        """A resource per table that the extraction wants."""
        fetches: dict[str, Fetch] = {
            "projects": self._fetch_projects,
            "groups": self._of_workspaces(has.LIST_GROUPS),
            "folders": self._of_workspaces(has.LIST_FOLDERS),
            "applications": self._fetch_applications,
            "api_authorities": self._fetch_authorities,
            "authorized_apis": self._fetch_authorized,
            "published_apis": self._of_apis(has.LIST_PUBLISHED, lambda api: [definitions.api_row(api)]),
            "published_api_request_parameters": self._of_apis(has.LIST_PUBLISHED, definitions.request_parameters),
            "published_api_response_parameters": self._of_apis(has.LIST_PUBLISHED, definitions.response_parameters),
            "published_api_error_codes": self._of_apis(has.LIST_PUBLISHED, definitions.error_codes),
            "published_api_versions": self._of_apis(has.LIST_PUBLISHED, lambda api: [definitions.version_row(api)]),
            "draft_apis": self._of_apis(has.LIST_DRAFTS, lambda api: [definitions.draft_row(api)]),
            "api_tests": self._fetch_tests,
        }
        return [
            extraction.resource(has.DATASET, table, self._remembering(fetches[table.name]))
            for table in has.tables_of(self.settings)
            if extraction.wants(has.DATASET, table.name)
        ]

    def check(self) -> Iterator[str | NightloadError]:
        answer = self.client.page(has.LIST_PROJECTS, size=1)
        yield f"the key is accepted, and sees {answer.total} workspaces"
        yield self._clock()
        calls = 1 + len(self.workspaces) * 6 + -(-len(self.workspaces) // has.MOST_WORKSPACES)
        for project in self.workspaces:
            try:
                published = self.client.page(has.LIST_PUBLISHED, size=1, ProjectId=project).total
                drafts = self.client.page(has.LIST_DRAFTS, size=1, ProjectId=project).total
            except Refused as error:
                # one that the settings name is wrong there, or not open to the key; of the others some may be closed
                yield error.at(f"workspace {project}") if self.settings.workspaces else f"workspace {project}: {error}"
                continue
            yield f"workspace {project}: {published} published APIs, {drafts} drafts"
            tests = 0 if "api_tests" in (self.settings.exclude or ()) else max(published, drafts)
            calls += published // self.settings.page_size + drafts // self.settings.page_size + tests
        limit = self.settings.calls_per_day
        told = f"{limit} a day are allowed (calls_per_day)" if limit else "calls_per_day sets no limit"
        more = "more if lists do not tell details, or if the rows of a list of several pages came or went"
        yield f"a night takes about {calls} calls, {more}; {told}"
        if limit and calls > limit:
            yield "warning: that is more than a day allows; api_tests are spread over several nights"

    def close(self) -> None:
        self.http.close()

    # -- what several tables need ---------------------------------------------------------------

    @once
    def workspaces(self) -> tuple[int, ...]:
        """The configured workspaces, or all that the vendor lists and has not deleted."""
        if self.settings.workspaces:
            return tuple(dict.fromkeys(map(int, self.settings.workspaces)))
        listed = self._list(has.LIST_PROJECTS).rows
        return tuple(int(row["ProjectId"]) for row in listed if row.get("ProjectStatusCode") != "DELETED")

    def _list(self, action: has.Action, **parameters: Any) -> Listed:
        """One list, walked once per run."""
        name = " ".join((action.name, *(f"{label}={value}" for label, value in sorted(parameters.items()))))

        def walk() -> Listed:
            marks = {} if self._marks is None else self._marks
            listed = self.client.walk(action, known=marks.get(name), proven=self._marks is not None, **parameters)
            if listed.mark:
                marks[name] = listed.mark
            return listed

        return _once(self._lists, name, walk)

    def _apis(self, action: has.Action, walk: Walk) -> Completed:
        """The APIs of all workspaces with their details."""

        def completed() -> Completed:
            if self.client.calls.left is not None:
                # details may use up the day's calls: the lists that are still to come go first
                for project in self.workspaces:
                    self._list(has.LIST_DRAFTS, ProjectId=project)
            rows = [
                definitions.clean(row, project=project)
                for project in self.workspaces
                for row in self._list(action, ProjectId=project).rows
            ]
            return self._complete(action, rows, walk)

        return _once(self._completed, action.name, completed)

    def _complete(self, action: has.Action, rows: list[Row], walk: Walk) -> Completed:
        get = has.GET_PUBLISHED if action is has.LIST_PUBLISHED else has.GET_DRAFT
        refresh = timedelta(days=self.settings.refresh_details_days or 36500)
        if walk.limit is not None:
            rows = rows[: walk.limit]
        return complete(
            rows,
            get=lambda project, api: self.client.detail(get, project=project, api=api),
            memory=_memory(walk).setdefault(get.name, {}),
            policy=Policy(manner=self.settings.details, full=walk.full, now=walk.until, refresh=refresh),
            left=lambda: self.client.calls.left,
        )

    # -- tables ---------------------------------------------------------------------------------

    def _remembering(self, fetch: Fetch) -> Fetch:
        """`fetch`, with the marks of the lists at hand, and the calls of the day counted over the runs of that day."""

        def remembering(walk: Walk) -> None:
            calls, memory = self.client.calls, _memory(walk)
            self._marks = memory.setdefault("lists", {}) if walk.limit is None else None
            if not calls.most:
                fetch(walk)
                return
            calls.remember(memory.get("calls") or {})
            try:
                fetch(walk)
            finally:
                memory["calls"] = calls.dump()
                log.info("%s: %s of today's %s calls are used", has.VENDOR, calls.dump()["count"], calls.most)

        return remembering

    def _fetch_projects(self, walk: Walk) -> None:
        listed = self._list(has.LIST_PROJECTS)
        self._spool(walk, [definitions.clean(row, project=0) for row in listed.rows], count=listed.total)

    def _of_workspaces(self, action: has.Action) -> Fetch:
        def fetch(walk: Walk) -> None:
            rows, count = [], 0
            for project in self.workspaces:
                listed = self._list(action, ProjectId=project)
                rows += [definitions.of_workspace(row, project=project) for row in listed.rows]
                count += listed.total
            self._spool(walk, rows, count=count)

        return fetch

    def _fetch_applications(self, walk: Walk) -> None:
        rows, count = [], 0
        labels = [column.label for column in walk.table.columns]
        for start in range(0, len(self.workspaces), has.MOST_WORKSPACES):
            asked = self.workspaces[start : start + has.MOST_WORKSPACES]
            listed = self._list(has.LIST_APPLICATIONS, ProjectIdList=",".join(map(str, asked)))
            for row in listed.rows:
                # these labels only: whatever else the vendor may come to show here could be a credential
                told = {label: row.get(label) for label in labels}
                rows.append(told | ({"ProjectId": asked[0]} if told["ProjectId"] is None and len(asked) == 1 else {}))
            count += listed.total
        self._spool(walk, rows, count=count)

    def _fetch_authorities(self, walk: Walk) -> None:
        rows: list[Row] = []
        for project in self.workspaces:
            for row in self._list(has.LIST_AUTHORITIES, ProjectId=project).rows:
                rows += definitions.grants(definitions.clean(row, project=project), project=project)
        # the vendor counts APIs here, and those were compared in the walk; a row is a grant
        count = len({(row["WorkspaceId"], str(row["ApiId"]), str(row["AuthorizedProjectId"])) for row in rows})
        self._spool(walk, rows, count=count)

    def _fetch_authorized(self, walk: Walk) -> None:
        rows, count = [], 0
        for project in self.workspaces:
            listed = self._list(has.LIST_AUTHORIZED, ProjectId=project)
            # the row's own ProjectId is not always the workspace that was asked: it may be the owner's
            rows += [definitions.of_workspace(row, project=project) | {"WorkspaceId": project} for row in listed.rows]
            count += listed.total
        self._spool(walk, rows, count=count)

    def _of_apis(self, action: has.Action, rows_of: Callable[[Row], Iterable[Row]]) -> Fetch:
        def fetch(walk: Walk) -> None:
            completed = self._apis(action, walk)
            is_history = walk.table.mode is Mode.HISTORY
            rows = [
                row
                for api in completed.apis
                # an API whose details wait for tomorrow would have two versions, one of them without details
                if not (is_history and f"{api['ProjectId']}/{api['ApiId']}" in completed.unread)
                for row in rows_of(api)
            ]
            walk.notes += completed.notes
            self._spool(walk, rows, count=len(rows), only_declared=is_history)

        return fetch

    def _fetch_tests(self, walk: Walk) -> None:
        """The newest tests of every API. If calls are short, of those that were not asked about for longest."""
        ids = dict.fromkeys(
            int(row["ApiId"])
            for action in (has.LIST_DRAFTS, has.LIST_PUBLISHED)
            for project in self.workspaces
            for row in self._list(action, ProjectId=project).rows
        )
        asked: dict[str, str] = {api: at for api, at in walk.state.get("asked", {}).items() if int(api) in ids}
        newest: dict[str, int] = {api: at for api, at in walk.state.get("newest", {}).items() if int(api) in ids}
        rows: list[Row] = []
        refused: list[NightloadError] = []
        waiting = sorted(ids, key=lambda api: asked.get(str(api), ""))
        for done, api in enumerate(waiting):
            if walk.limit is not None and len(rows) >= walk.limit:
                break
            tests: list[Row] = []
            try:
                tests = self.client.tests(has.LIST_TESTS, api=api, size=has.TESTS)
            except NotReady as error:
                walk.notes.append(f"{len(waiting) - done} APIs were not asked for tests: today's calls are used up")
                # a limit of the vendor's that is not in the settings is no plan: nothing says who is next tomorrow
                walk.missed = None if self.client.calls.most else error
                break
            except (Refused, ConfigurationError) as error:
                if getattr(error, "status", None) == 403:
                    raise
                refused.append(error)  # about this one API (gone since the list was read): the others have theirs
            rows += [definitions.test_row(test, api=api) for test in tests]
            times = [test["CreateTime"] for test in tests if isinstance(test.get("CreateTime"), int)]
            if len(tests) >= has.TESTS and min(times, default=0) > newest.get(str(api), 2**63):
                walk.notes.append(f"API {api} had over {has.TESTS} tests since it was last asked: the oldest are lost")
            if self.client.calls.most:  # else each night asks about all, and a quiet one leaves the state as it is
                asked[str(api)] = walk.until.isoformat()
            newest[str(api)] = max([newest.get(str(api), 0), *times])
        if refused and len(refused) == len(waiting):
            raise refused[0]
        if refused:
            walk.notes.append(
                f"the vendor refuses the tests of {len(refused)} APIs; the first reasons: {reasons(map(str, refused))}"
            )
        walk.state["asked"], walk.state["newest"] = asked, newest
        self._spool(walk, rows, count=len({row["TestId"] for row in rows}))

    def _spool(self, walk: Walk, rows: list[Row], *, count: int, only_declared: bool = False) -> None:
        """Spool rows; fields that no document tells become columns by their values."""
        walk.vendor_count = count
        walk.spool.rows(rows if walk.limit is None else rows[: walk.limit])
        if unknown := definitions.unknown_codes(rows):
            walk.notes.append(f"codes without a name here: {', '.join(unknown)}")
        declared = [
            replace(column, zone=self.settings.zone) if column.kind is Kind.TIMESTAMP else column
            for column in walk.table.columns
        ]
        walk.columns = declared if only_declared else [*declared, *_others(rows, declared)]

    def _clock(self) -> str:
        seconds = self.client.apart()
        if seconds is None:
            return "the vendor's clock is not known: its answers have no date"
        if abs(seconds) > _CLOCK_TOLERANCE:
            side = "ahead of" if seconds > 0 else "behind"
            return f"warning: this machine's clock is {abs(seconds):.0f} s {side} the vendor's"
        return "the clocks agree"


def _once(kept: dict[str, Made | NightloadError], name: str, make: Callable[[], Made]) -> Made:
    """What several tables need is made once per run; what failed fails for each of them, and is not tried again."""
    if name not in kept:
        try:
            kept[name] = make()
        except NightloadError as error:
            kept[name] = error
    found = kept[name]
    if isinstance(found, NightloadError):
        raise found
    return found


def _others(rows: Iterable[Mapping[str, Any]], declared: Sequence[Column]) -> list[Column]:
    known = {column.label for column in declared}
    return [Column(label=label, declared=False) for label in labels_of(rows) if label not in known]


def _memory(walk: Walk) -> Memory:
    """What the source remembers; a preview neither reads nor writes it."""
    if walk.limit is not None:
        return {}
    memory: Memory = dlt.current.source_state()
    return memory


@dlt.source(name=has.DATASET)
def dataworks(vendor: Dataworks | None = None, extraction: Extraction | None = None) -> Any:
    """DataWorks DataService, a resource per table. Both parameters are for nightload's own runs."""
    vendor = vendor or connect()
    return vendor.resources(extraction or Extraction.standalone(has.VENDOR))
