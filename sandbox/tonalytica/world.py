"""The state of one Redash: its tables, its result store, its job queue, and what a user may see of them."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sandbox.core.wire import iso, now, parse_iso
from sandbox.tonalytica.recipes import RECIPES, SLOW
from sandbox.tonalytica.records import (
    Alert,
    Dashboard,
    DataSource,
    Query,
    Result,
    Snippet,
    User,
    Visualization,
    Widget,
    limited,
    query_hash,
    render,
)
from sandbox.tonalytica.tables import Run, StatementError

VERSIONS = {"v9": "9.0.0-beta", "v10": "10.1.0", "current": "26.08.0-dev"}
CANCELLED = "Query cancelled by user."


@dataclass
class Job:
    id: str
    text: str
    text_hash: str
    data_source_id: int
    recipe: str
    started: float
    seconds: float
    finished: bool = False
    error: str = ""
    unwritten: int = 0
    """So many polls of the failed job are answered 500: its error is being written."""
    result: Any = None
    """A result id, or the tables themselves for a schema job (section 7)."""

    def status(self) -> int:
        if self.finished:
            return 4 if self.error else 3
        return 1 if time.monotonic() - self.started < self.seconds / 3 else 2


@dataclass
class World:
    seed: int
    scale: float
    version: str = "current"
    job_seconds: float = 0.15
    job_race: int = 0
    """So many polls meet a job that fails while its error is being written."""
    keys_expired: bool = False
    writes: bool = False
    groups: dict[int, str] = field(default_factory=dict)
    users: dict[int, User] = field(default_factory=dict)
    data_sources: dict[int, DataSource] = field(default_factory=dict)
    queries: dict[int, Query] = field(default_factory=dict)
    dashboards: dict[int, Dashboard] = field(default_factory=dict)
    visualizations: dict[int, Visualization] = field(default_factory=dict)
    widgets: dict[int, Widget] = field(default_factory=dict)
    alerts: dict[int, Alert] = field(default_factory=dict)
    snippets: dict[int, Snippet] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[tuple[str, str], int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)

    def next_id(self, table: str) -> int:
        self.ids[table] = self.ids.get(table, 0) + 1
        return self.ids[table]

    # What belongs together

    def widgets_of(self, dashboard: Dashboard) -> list[Widget]:
        found = [widget for widget in self.widgets.values() if widget.dashboard_id == dashboard.id]
        # The order of widgets is not guaranteed (section 7).
        random.Random(f"{self.seed}|widgets|{dashboard.id}|{len(self.events)}").shuffle(found)
        return found

    def query_of(self, widget: Widget) -> Query | None:
        found = None if widget.visualization_id is None else self.visualizations.get(widget.visualization_id)
        return self.queries.get(found.query_id) if found else None

    # Who may see what

    def in_groups(self, user: User, data_source_id: int | None) -> bool:
        """The filter of lists; it applies to admins too, so an admin's list is not the whole (section 3)."""
        source = self.data_sources.get(data_source_id) if data_source_id is not None else None
        return source is not None and any(group in source.groups for group in user.groups)

    def may_see(self, user: User, data_source_id: int | None) -> bool:
        return user.is_admin or self.in_groups(user, data_source_id)

    def listed_queries(self, user: User) -> list[Query]:
        return [q for q in self.queries.values() if not q.is_archived and self.in_groups(user, q.data_source_id)]

    def archived_queries(self, user: User) -> list[Query]:
        return [
            q
            for q in self.queries.values()
            if q.is_archived and self.in_groups(user, q.data_source_id) and (not q.is_draft or q.user_id == user.id)
        ]

    def listed_dashboards(self, user: User) -> list[Dashboard]:
        """Others' drafts and others' dashboards without a chart the user may see are left out (section 3)."""
        with_chart = {
            widget.dashboard_id
            for widget in self.widgets.values()
            if (query := self.query_of(widget)) is not None and self.in_groups(user, query.data_source_id)
        }
        return [
            d
            for d in self.dashboards.values()
            if not d.is_archived and (d.user_id == user.id or (not d.is_draft and d.id in with_chart))
        ]

    # Hashes and results

    def hash_of(self, query: Query) -> str:
        """The hash the query shows. Of the text with its defaults filled in since 2024, of the raw template before."""
        text = query.query
        if self.version == "current" and query.parameters:
            text = render(text, {p["name"]: rendered_value(p, p.get("value")) for p in query.parameters})
        return query_hash(limited(text) if query.is_auto_limited and self.version == "current" else text)

    def latest_result_id(self, query: Query) -> int | None:
        if self.version != "current" and query.parameters:
            return None
        return query.latest_query_data_id

    def latest_result(self, query: Query) -> Result | None:
        key = self.latest_result_id(query)
        return None if key is None else self.results.get(key)

    def cached(self, text: str, data_source_id: int, max_age: int) -> Result | None:
        """-1 takes any age, n takes what is younger than n seconds, 0 takes nothing (section 6)."""
        if max_age == 0:
            return None
        wanted = query_hash(text)
        found = [r for r in self.results.values() if (r.query_hash, r.data_source_id) == (wanted, data_source_id)]
        latest = max(found, key=lambda r: (r.retrieved_at, r.id), default=None)
        if latest is None or max_age == -1:
            return latest
        return latest if parse_iso(latest.retrieved_at) + timedelta(seconds=max_age) >= now() else None

    def run(self, text: str, data_source_id: int, recipe: str, *, retrieved_at: str | None = None) -> Result:
        """Executes now and stores the result. Raises StatementError as the database would."""
        number = self.runs[recipe, text] = self.runs.get((recipe, text), 0) + 1
        table = RECIPES[recipe](Run(self.seed, self.scale, text, number))
        return self.store(
            Result(
                id=0,
                query_hash=query_hash(text),
                query=text,
                data_source_id=data_source_id,
                columns=table.columns,
                row_count=table.row_count,
                write_rows=table.write_rows,
                runtime=random.Random(f"{self.seed}|{text}|{number}").random() / 50,
                retrieved_at=retrieved_at or iso(now()),
                extra=table.extra,
                rows_first=table.rows_first,
            )
        )

    def store(self, result: Result) -> Result:
        """A new result id, to which every query of this text on this source now points (section 4)."""
        result.id = self.next_id("query_results")
        self.results[result.id] = result
        for query in self.queries.values():
            if query.data_source_id == result.data_source_id and self.hash_of(query) == result.query_hash:
                query.latest_query_data_id = result.id
        return result

    # Jobs

    def enqueue(self, text: str, data_source_id: int, recipe: str) -> Job:
        self.settle()
        text_hash = query_hash(text)
        for job in self.jobs.values():
            if not job.finished and (job.text_hash, job.data_source_id) == (text_hash, data_source_id):
                return job
        return self._add_job(text, text_hash, data_source_id, recipe)

    def enqueue_schema(self, source: DataSource) -> Job:
        return self._add_job("", "schema", source.id, "")

    def _add_job(self, text: str, text_hash: str, data_source_id: int, recipe: str) -> Job:
        key = str(uuid.UUID(int=random.Random(f"{self.seed}|job|{self.next_id('jobs')}").getrandbits(128), version=4))
        seconds = self.job_seconds * (20 if SLOW in text else 1)
        job = Job(key, text, text_hash, data_source_id, recipe, time.monotonic(), seconds)
        self.jobs[key] = job
        return job

    def settle(self) -> None:
        """Finishes the jobs whose time has come. Done at every request, as a worker would whether polled or not."""
        moment = time.monotonic()
        for job in list(self.jobs.values()):
            if not job.finished and moment - job.started >= job.seconds:
                self._finish(job)

    def _finish(self, job: Job) -> None:
        job.finished = True
        if not job.recipe:
            job.result = [{"name": "events", "columns": [{"name": "id", "type": "UInt64"}, "old_style_name"]}]
            return
        try:
            job.result = self.run(job.text, job.data_source_id, job.recipe).id
        except StatementError as error:
            job.error, job.unwritten = str(error), self.job_race

    def cancel(self, job: Job) -> None:
        """A cancelled job shows status 4 with a text, never 5 (section 6)."""
        if not job.finished:
            job.finished, job.error = True, CANCELLED

    # Events

    def record(self, user: User, action: str, object_type: str, object_id: int | None) -> None:
        """Every read of one's own adds an event, so the list grows while it is walked (section 7)."""
        key = None if object_id is None else str(object_id)
        self.events.append(event(user, action, object_type, key, iso(now().replace(microsecond=0))))


def event(user: User, action: str, object_type: str, object_id: str | None, created_at: str) -> dict[str, Any]:
    return {
        "org_id": 1,
        "user_id": user.id,
        "action": action,
        "object_type": object_type,
        "object_id": object_id,
        "created_at": created_at,
        "user_name": user.name,
        "browser": "Other / Other / Other",
        "location": "Unknown",
        "details": {"object_id": object_id, "object_type": object_type},
    }


def rendered_value(parameter: dict[str, Any], value: Any) -> Any:
    """How a value enters the text: several values of an enum are joined as its options say."""
    options = parameter.get("multiValuesOptions")
    if isinstance(value, list) and options:
        return options["separator"].join(f"{options['prefix']}{item}{options['suffix']}" for item in value)
    return value
