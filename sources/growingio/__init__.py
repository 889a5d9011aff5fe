"""GrowingIO: boards and their charts, every value of them, user segments and their users, rules.

Two datasets. `growingio` holds it all in tables of fixed columns; `growingio_charts` one wide table per chart, with the
chart's own labels as columns. Both come from the same answers: a chart is asked once per run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dlt
from dlt.extract import DltResource, DltSource

from sources import naming
from sources.convert.spool import labels_of
from sources.convert.types import Column
from sources.core.concurrency import in_order, once
from sources.core.config import is_set, settings_of, unmatched
from sources.core.dates import Calls, Days
from sources.core.errors import BrokenAnswer, NightloadError, NotReady, Refused
from sources.extract.connector import Part
from sources.extract.extractor import Extraction
from sources.extract.sync import Fetch, Walk, noting
from sources.extract.table import Mode, Table
from sources.growingio import delimited, rules, segments, shapes
from sources.growingio import settings as has
from sources.growingio.charts import Chart, Question, Reader, Reading
from sources.growingio.client import STOPPING, Client, check_credentials
from sources.growingio.points import SLICE, Row, Writer, wide_columns
from sources.growingio.windows import Bucket, Calendar, groups, newest_day

log = logging.getLogger(__name__)

_BATCH = 500


def configured() -> bool:
    return is_set(has.VENDOR, "console_token", "secret")


def connect() -> Growingio:
    """Raises `ConfigurationError` for a setting that is missing or cannot work."""
    settings = _settings()
    check_credentials(settings)
    return Growingio(settings)


def hashed(value: str) -> str:
    """What a segment user's cell with this value lands as, where it is hashed."""
    return segments.hashed(value, _settings())


def tables() -> dict[str, tuple[Table, ...]]:
    """The tables of `growingio_charts` are the vendor's charts: only a connection knows them."""
    return {has.DATASET: has.TABLES, has.CHARTS: ()}


def _settings() -> has.Settings:
    settings = settings_of(has.VENDOR, has.Settings(), secrets=has.Settings.secrets)
    has.check(settings)
    return settings


@dlt.source(name=has.DATASET)
def growingio(vendor: Any = None, extraction: Any = None) -> Iterable[DltResource]:
    """The tables of fixed columns, as a dlt source for a pipeline of one's own."""
    vendor = vendor or connect()
    return list(vendor.fixed(extraction or Extraction.standalone(has.VENDOR)))


@dlt.source(name=has.CHARTS)
def growingio_charts(vendor: Any = None, extraction: Any = None) -> Iterable[DltResource]:
    """A wide table per chart, as a dlt source. Asks the vendor for its charts."""
    vendor = vendor or connect()
    return list(vendor.wide(extraction or Extraction.standalone(has.VENDOR)))


class Growingio:
    """One connected project. What several tables need is fetched once per run."""

    def __init__(self, settings: has.Settings) -> None:
        self.settings = settings
        self.client = Client(settings)
        self.http = self.client.http
        self._readers: dict[Path, Reader] = {}
        self._lock = threading.Lock()

    def parts(self, extraction: Extraction) -> list[Part]:
        return [
            Part(dataset=has.DATASET, source=lambda: _source(growingio, self, extraction)),
            Part(dataset=has.CHARTS, source=lambda: _source(growingio_charts, self, extraction)),
        ]

    def calls(self, name: str, days: Days, state: Mapping[str, Any]) -> Calls | None:
        """Of the charts that the last night read, or for one chart."""
        calendar = Calendar.of(self.settings)

        def of(interval: str) -> int:
            buckets = calendar.buckets(interval, days.first, days.last)
            size = self.settings.window_days if interval in ("hour", "day") else 1
            return bool(buckets) + len(list(groups(buckets[:-1], size)))

        beyond = "the boards are read once; an answer that is too large or has no time takes more"
        if charts := state.get("read", {}):
            return Calls(least=sum(of(key.rpartition(" by ")[2]) for key in charts), beyond=beyond)
        usual = of((self.settings.intervals or ["day"])[0])
        told = f"so many for each chart, and how many charts there are only the boards tell; {beyond}"
        return Calls(least=usual, beyond=told)

    def check(self) -> Iterator[str | NightloadError]:
        rows = self.client.segmentations()
        yield f"the token is accepted; {len(rows)} segments are visible"
        if self.client.scheme != self.settings.auth_scheme:
            yield f"the token goes as auth_scheme = {self.client.scheme!r}: set it so under sources.{has.VENDOR}"
        yield f"{len(self.boards)} boards are visible"
        yield f"the days are those of {self.settings.zone}; the newest that is ready is {self._last(datetime.now(UTC))}"
        date_told = self.http.body("GET", "", accept=range(200, 600)).headers.get("date", "")
        yield _clock(date_told)
        yield from self._no_boards()
        yield from self._no_charts()
        yield from self.unmatched()
        yield from self._unmatched_metrics(self._metrics_by_the_hour())
        listed = [row["id"] for row in rows]
        yield from unmatched(
            has.VENDOR, "segmentation_users", self.settings.segmentation_users or (), listed, what="segment"
        )

    def close(self) -> None:
        self.http.close()

    # -- what several tables need -----------------------------------------------------------------

    @once
    def boards(self) -> list[dict[str, Any]]:
        """The boards, by the vendor's list, or those that the settings name."""
        if self.settings.dashboards:
            return [{"id": each} for each in self.settings.dashboards]
        try:
            return self.client.dashboards()
        except Refused as error:
            if error.status == 404:
                error.todo = f'This server has no list of boards. Set dashboards = ["…"] under sources.{has.VENDOR}'
            raise

    @once
    def boards_with_charts(self) -> list[dict[str, Any]]:
        """Each board as its own answer has it."""
        found = [board for board in self._details if board is not None]
        if not found:
            for error in self._no_boards():
                raise error
        return found

    @once
    def _details(self) -> list[dict[str, Any] | None]:
        return list(in_order(self._board, self.boards, width=self.settings.concurrency))

    def _board(self, listed: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return {**listed, **self.client.dashboard(str(listed["id"])), "id": listed["id"]}
        except (Refused, BrokenAnswer) as error:
            if self.settings.dashboards and getattr(error, "status", None) == 404:
                return None  # `_no_boards` says so; the other boards are loaded
            # nobody tells whether boards of other types have charts, so those may refuse
            if listed.get("type") in (None, "normal"):
                raise
            log.warning("board %s of type %s shows no charts: %s", listed["id"], listed["type"], error)
            return {**listed, "charts": []}

    def _no_boards(self) -> Iterator[NightloadError]:
        """An error for the boards that the settings name and the vendor does not have."""
        if not self.settings.dashboards:
            return
        known = [board["id"] for board in self._details if board is not None]
        yield from unmatched(has.VENDOR, "dashboards", self.settings.dashboards, known, what="board")

    def _no_charts(self) -> Iterator[NightloadError]:
        """An error for each chart that the settings name and no path knows; in a run, its tables say so."""
        on_boards = {str(chart["id"]) for board in self.boards_with_charts for chart in board["charts"]}
        last = self._last(datetime.now(UTC))
        with TemporaryDirectory() as folder:
            reader = Reader(self.client, self.settings, Path(folder))
            for chart in self.charts:
                if chart.id in on_boards:
                    continue
                try:
                    reader.newest(reader.questions(chart, last)[0], last)
                except Refused as error:
                    if error.status == 404:
                        yield from unmatched(has.VENDOR, "charts", [chart.id], (), what="chart")
                except NightloadError as error:
                    if isinstance(error, STOPPING):
                        raise

    def unmatched(self) -> Iterator[NightloadError]:
        """An error for each list of the settings that names a chart which is not loaded anyway."""
        settings, known = self.settings, [chart.id for chart in self.all_charts]
        for name in ("exclude_charts", "types", "chart_intervals"):
            yield from unmatched(has.VENDOR, name, getattr(settings, name) or (), known, what="chart")

    def _metrics_by_the_hour(self) -> set[str]:
        """The metrics of each chart that is read by the hour; none is asked for where no setting names one."""
        metrics: set[str] = set()
        if not self.settings.hourly_zero_metrics:
            return metrics
        last = self._last(datetime.now(UTC))
        with TemporaryDirectory() as folder:
            reader = Reader(self.client, self.settings, Path(folder))
            questions = [question for chart in self.charts for question in reader.questions(chart, last)]
            for question in (each for each in questions if each.interval == "hour"):
                answer = _or_error(reader.shown, question, last)
                if not isinstance(answer, NightloadError):  # its table reports the error
                    metrics.update(field.name for field in answer.shape.metrics)
        return metrics

    def _unmatched_metrics(self, metrics: Collection[str]) -> Iterator[NightloadError]:
        """An error for the names in `hourly_zero_metrics` that are part of no metric."""
        names = [
            name for name in self.settings.hourly_zero_metrics or () if not any(name in metric for metric in metrics)
        ]
        what = "part of a metric of a chart that is read by the hour"
        yield from unmatched(has.VENDOR, "hourly_zero_metrics", names, (), what=what)

    @once
    def charts(self) -> list[Chart]:
        """The charts that are loaded."""
        return [chart for chart in self.all_charts if chart.id not in (self.settings.exclude_charts or ())]

    @once
    def all_charts(self) -> list[Chart]:
        """Each chart once, whatever boards it stands on, and those that the settings name."""
        found: dict[str, Chart] = {}
        for board in self.boards_with_charts:
            for each in board["charts"]:
                kind = each.get("resource_type")
                chart = Chart(
                    id=str(each["id"]), name=str(each.get("name") or ""), kind=kind if kind in has.KINDS else None
                )
                if found.get(chart.id, chart).kind is None or chart.id not in found:
                    found[chart.id] = chart
        for named in self.settings.charts or ():
            found.setdefault(named, Chart(id=named, name="", kind=None))
        return list(found.values())

    def reader(self, extraction: Extraction) -> Reader:
        folder = extraction.spool_dir / "growingio-answers"
        with self._lock:
            if folder not in self._readers:
                # of a window that is loaded, the answers are gone with their folder
                self._readers = {path: each for path, each in self._readers.items() if path.exists()}
                folder.mkdir(parents=True, exist_ok=True)
                self._readers[folder] = Reader(self.client, self.settings, folder)
            return self._readers[folder]

    def questions(self, extraction: Extraction, kind: str | None = None) -> list[Question]:
        last, reader = self._newest(extraction), self.reader(extraction)
        asked = in_order(lambda chart: reader.questions(chart, last), self.charts, width=self.settings.concurrency)
        return [question for each in asked for question in each if kind in (None, question.kind)]

    def _last(self, until: datetime) -> date:
        return newest_day(self.settings, until)

    def _newest(self, extraction: Extraction) -> date:
        """The last day to ask for. Raises `NotReady` for a window beyond those that are computed."""
        last = self._last(extraction.until)
        if extraction.window is None:
            return last
        if extraction.window.last > last:
            raise NotReady(
                what=f"the figures of {extraction.window.last} are not ready",
                where=has.VENDOR,
                why=f"the newest day that is loaded is {last} (by zone, ready_hour and end)",
                todo=f"Load up to {last}",
            )
        return extraction.window.last

    def _remembering(self, fetch: Fetch) -> Fetch:
        """The fetch, beginning with the form of the header that an earlier run found out."""

        def remembering(walk: Walk) -> None:
            self.client.begin_with(walk.state.get("auth_scheme", self.settings.auth_scheme))
            fetch(walk)
            if self.client.scheme == self.settings.auth_scheme:
                walk.state.pop("auth_scheme", None)
            else:
                walk.state["auth_scheme"] = self.client.scheme

        return remembering

    # -- tables of fixed columns ------------------------------------------------------------------

    def fixed(self, extraction: Extraction) -> Iterator[DltResource]:
        fetches: dict[str, Fetch] = {
            "dashboards": self._fetch_dashboards,
            "dashboard_charts": self._fetch_dashboard_charts,
            "charts": partial(self._fetch_charts, extraction),
            "chart_points": partial(self._fetch_points, extraction),
            "funnel_steps": partial(self._fetch_unpivoted, extraction, "funnel", shapes.steps),
            "retention": partial(self._fetch_unpivoted, extraction, "retention", shapes.periods),
            "segmentations": self._fetch_segmentations,
            "segmentation_users": partial(
                segments.fetch, self.client, self.settings, allow_empty=extraction.allow_empty
            ),
            "rules": self._fetch_rules,
        }
        excluded = set(self.settings.exclude or ())
        of_charts = ("charts", "chart_points", "funnel_steps", "retention")
        wanted = (name for name in of_charts if name not in excluded and extraction.wants(has.DATASET, name))
        if noted := next(wanted, None):
            fetches[noted] = noting(fetches[noted], self.unmatched)
        for table in has.TABLES:
            if table.name not in (self.settings.exclude or ()) and extraction.wants(has.DATASET, table.name):
                zone = self.settings.zone if table.zone else None
                table_here = replace(table, zone=zone)
                yield extraction.resource(has.DATASET, table_here, self._remembering(fetches[table.name]))

    def _fetch_dashboards(self, walk: Walk) -> None:
        rows = self.boards_with_charts if self.settings.dashboards else self.boards
        walk.missed = next(self._no_boards(), None)
        self._spool(walk, [{name: value for name, value in row.items() if name != "charts"} for row in rows])

    def _fetch_dashboard_charts(self, walk: Walk) -> None:
        rows = []
        for board in self.boards_with_charts:
            for position, chart in enumerate(board["charts"], start=1):
                own = {name: value for name, value in chart.items() if name not in ("id", "createor")}
                # the vendor's own spelling is createor
                creator = chart.get("creator", chart.get("createor"))
                rows.append(
                    {
                        "dashboard_id": board["id"],
                        "chart_id": chart["id"],
                        "position": position,
                        **own,
                        "creator": creator,
                    }
                )
        distinct = {(row["dashboard_id"], row["chart_id"]): row for row in rows}
        if len(distinct) < len(rows):
            walk.notes.append(f"{len(rows) - len(distinct)} charts stand twice on a board")
        self._spool(walk, list(distinct.values()))

    def _fetch_charts(self, extraction: Extraction, walk: Walk) -> None:
        """The meta as the newest answers show it; of a chart that shows none tonight, the last known one stands."""
        last, reader = self._newest(extraction), self.reader(extraction)
        known: dict[str, Any] = walk.state.get("metas", {})
        metas: dict[str, Any] = {}
        failed: list[NightloadError] = []
        first_of = {question.chart.id: question for question in reversed(self.questions(extraction))}
        questions = list(reversed(first_of.values()))[: walk.limit]
        for question, found in zip(
            questions,
            in_order(lambda each: _or_error(reader.shown, each, last), questions, width=self.settings.concurrency),
            strict=True,
        ):
            if isinstance(found, NightloadError):
                failed.append(found)
                if question.chart.id in known:
                    metas[question.chart.id] = known[question.chart.id]
                continue
            chart = question.chart
            metas[chart.id] = {
                "project_uid": self.settings.project_uid,
                "chart_id": chart.id,
                "name": found.series.envelope.get("name") or chart.name,
                "resource_type": question.kind,
                "meta_hash": found.shape.digest,
                "meta": found.series.envelope["meta"],
            }
        if walk.limit is None:
            walk.state["metas"] = metas
            walk.miss(failed)
            walk.vendor_count = len(metas)
        walk.spool.rows(list(metas.values()))

    def _fetch_points(self, extraction: Extraction, walk: Walk) -> None:
        writer = Writer(reader=self.reader(extraction), settings=self.settings)
        questions = self.questions(extraction, "chart")
        count = 0
        for reading in self._readings(extraction, walk, questions, self.settings.lookback_days):
            count += sum(answer.rows * len(answer.shape.metrics) for answer in reading.answers)
            self._write(walk, reading, writer, writer.long(reading))
        walk.vendor_count = None if walk.limit else count
        if walk.limit is None and walk.missed is None:
            walk.notes += map(str, self._unmatched_metrics(writer.metrics_by_the_hour))

    def _fetch_unpivoted(self, extraction: Extraction, kind: str, rows: Any, walk: Walk) -> None:
        writer = Writer(reader=self.reader(extraction), settings=self.settings)
        again = self.settings.lookback_days
        if kind == "funnel":
            again += self.settings.conversion_window
        else:
            again += self.settings.retention_periods * {"day": 1, "week": 7, "month": 31}[self.settings.retention_range]
        count = 0
        for reading in self._readings(extraction, walk, self.questions(extraction, kind), again):
            count += writer.unpivoted_count(reading, rows)
            self._write(walk, reading, writer, writer.unpivoted(reading, rows))
        walk.vendor_count = None if walk.limit else count

    def _readings(
        self, extraction: Extraction, walk: Walk, questions: Sequence[Question], again: int
    ) -> Iterator[Reading]:
        """The readings of a table, one after the other; its state and what it missed are told when they are through."""
        last, reader = self._newest(extraction), self.reader(extraction)
        if walk.limit is not None:
            for question in questions[:1]:
                yield Reading(question=question, answers=[reader.newest(question, last)])
            return
        known: dict[str, Any] = dict(walk.state.get("read", {}))
        missed: list[NightloadError] = []

        def read(question: Question) -> Reading:
            return reader.read(question, self._first(known.get(question.key), walk, last, again), last)

        for reading in in_order(read, questions, width=self.settings.concurrency):
            key = reading.question.key
            missed += [error for _, error in reading.missed]
            # some hours of a day do not take the place of all of them
            if walk.window is not None:
                yield reading.without_parts_of(lambda _: True)
                continue
            yield reading.without_parts_of(partial(_covers, known.get(key)))
            self._remember(known, key, reading, walk, last, again)
        walk.state["read"] = known
        walk.miss(missed)

    def _first(self, known: dict[str, Any] | None, walk: Walk, last: date, again: int) -> date:
        """The day from which on a chart is asked: where it was read to, less what is read again."""
        if walk.window is not None:
            return walk.window.first
        start = has.day_of("start", self.settings.start)
        begin = start or last - timedelta(days=self.settings.backfill_days - 1)
        if known is None or walk.full:
            return begin
        since, until = date.fromisoformat(known["from"]), date.fromisoformat(known["to"])
        if start is not None and start < since:
            return start
        # a day of the future, or one that was set by `end`, does not hold the stream up
        return max(since, min(until, last) - timedelta(days=again - 1))

    def _remember(self, known: dict[str, Any], key: str, reading: Reading, walk: Walk, last: date, again: int) -> None:
        before = known.get(key)
        first = self._first(before, walk, last, again)
        until = reading.whole_until
        if until is None:
            return
        since = date.fromisoformat(before["from"]) if before and not walk.full else first
        digest = reading.shape.digest if reading.shape else None
        if before and before.get("meta") not in (None, digest):
            walk.notes.append(
                f"{key}: its columns changed; days before {first} are as they were read then "
                f"(nightload run --full --table {has.DATASET}.{walk.table.name} reads all anew)"
            )
        had = bool(before and before.get("rows"))
        known[key] = {
            "from": min(since, first).isoformat(),
            "to": until.isoformat(),
            "meta": digest,
            "rows": reading.rows or (before or {}).get("rows", 0),
        }
        if not reading.rows and had:
            walk.notes.append(f"{key}: nothing came for {first} to {until}; what was loaded of these days stays")

    def _write(self, walk: Walk, reading: Reading, writer: Writer, rows: Iterator[Row]) -> None:
        rows = islice(rows, walk.limit) if walk.limit else rows
        while batch := list(islice(rows, _BATCH)):
            walk.spool.rows(batch)
        if reading.rows and walk.limit is None:
            asked, filled = writer.slices(reading)
            walk.emptied = walk.emptied | (asked - filled)

    def _fetch_segmentations(self, walk: Walk) -> None:
        self._spool(walk, self.client.segmentations())

    def _fetch_rules(self, walk: Walk) -> None:
        file = walk.spool.path.with_suffix(".csv")
        where = f"{has.VENDOR}, rules.csv"
        try:
            self.client.rules(file)
            delimited.as_utf8(file, where=where)
            dialect = delimited.dialect_of(file, separator=self.settings.separator, where=where)
            rows = rules.rules_of(file, dialect, where=where) if dialect else []
        finally:
            file.unlink(missing_ok=True)
        self._spool(walk, [_renamed(row) for row in rows])

    def _spool(self, walk: Walk, rows: list[dict[str, Any]]) -> None:
        """Spool rows of a list; fields that are not known become columns of their own."""
        walk.vendor_count = len(rows) if walk.limit is None else None
        rows = [{"project_uid": self.settings.project_uid, **row} for row in rows[: walk.limit]]
        walk.spool.rows(rows)
        declared = {column.label for column in walk.table.columns}
        extra = [label for label in labels_of(rows) if label not in declared]
        walk.columns = [*walk.table.columns, *(Column(label=label, declared=False) for label in extra)]

    # -- a wide table per chart -------------------------------------------------------------------

    def wide(self, extraction: Extraction) -> Iterator[DltResource]:
        if has.CHARTS in (self.settings.exclude or ()) or not extraction.wants_any_of(has.CHARTS):
            return
        try:
            questions = self.questions(extraction, "chart")
        except NightloadError as error:
            # chart_points fails with it as well, and the other tables of the run need not
            if isinstance(error, STOPPING) or not extraction.wants(has.DATASET, has.CHART_POINTS.name):
                raise
            return
        names = naming.columns_for([_wide_name(question) for question in questions])
        for question in questions:
            name = names[_wide_name(question)]
            if extraction.wants(has.CHARTS, name):
                table = Table(
                    name=name,
                    mode=Mode.KEPT,
                    scope=SLICE,
                    zone=self.settings.zone,
                    label=question.chart.name or question.chart.id,
                    about=f"“{question.chart.name}” by {question.interval}",
                )
                yield extraction.resource(has.CHARTS, table, self._remembering(self._fetch_wide(extraction, question)))

    def _fetch_wide(self, extraction: Extraction, question: Question) -> Fetch:
        def fetch(walk: Walk) -> None:
            writer = Writer(reader=self.reader(extraction), settings=self.settings)
            found: list[Reading] = []
            for reading in self._readings(extraction, walk, [question], self.settings.lookback_days):
                found.append(reading)
                self._write(walk, reading, writer, writer.wide(reading))
            answers = [answer for reading in found for answer in reading.answers]
            walk.columns = wide_columns([answer.shape for answer in answers])
            walk.vendor_count = None if walk.limit else sum(answer.rows for answer in answers)
            if not answers:
                walk.unchanged(0)

        return fetch


def _or_error(ask: Callable[..., Any], *args: Any) -> Any:
    """The answer, or the error if only this one question is touched by it."""
    try:
        return ask(*args)
    except NightloadError as error:
        if isinstance(error, STOPPING):
            raise
        return error


def _covers(known: Mapping[str, Any] | None, bucket: Bucket) -> bool:
    """Was all of the bucket had in an earlier night?"""
    if known is None:
        return False
    return date.fromisoformat(known["from"]) <= bucket.first and bucket.last <= date.fromisoformat(known["to"])


def _wide_name(question: Question) -> str:
    tail = "" if question.interval == "day" else f"_{question.interval}"
    return f"chart_{question.chart.id}{tail}"


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A rule under one set of names: two descriptions of the vendor differ."""
    aliases = {
        "ruleid": "ruleId", "rule_id": "ruleId", "id": "ruleId", "eventname": "eventName", "event_name": "eventName",
        "name": "eventName", "eventtype": "eventType", "event_type": "eventType", "ruletype": "eventType",
        "rule_type": "eventType", "type": "eventType",
    }  # fmt: skip
    return {aliases.get(label.lower(), label): value for label, value in row.items()}


def _clock(date_told: str) -> str:
    try:
        theirs = parsedate_to_datetime(date_told)
    except ValueError:
        return "the vendor's clock is not known: its answers have no date"
    apart = abs((datetime.now(UTC) - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds())
    return f"warning: the clocks are {apart:.0f} s apart" if apart > 60 else "the clocks agree"


def _source(make: Any, vendor: Growingio, extraction: Extraction) -> DltSource:
    source: DltSource = make(vendor, extraction)
    return source
