"""Reading charts, funnels and retentions: which windows, in which parts, and what came.

An answer is kept as it came, on disk; whoever needs its rows reads them from there. So the long table and the wide one
of a chart ask the vendor once.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sources.convert.spool import iter_rows
from sources.core.errors import BrokenAnswer, NightloadError, Refused
from sources.growingio import shapes
from sources.growingio.client import STOPPING, Client, Series, TimedOut, TooMany
from sources.growingio.settings import INTERVALS, KINDS, VENDOR, Settings, intervals_of
from sources.growingio.windows import Bucket, Calendar, Window, groups

_SAMPLE = 200
_ODD = {
    "hour": "window_days = 1",
    "day": "window_days = 1",
    "week": "week_starts to the other day",
    "month": "another interval than month",
}
"""What helps where an interval does not lie as we think it does."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Something on a board that has a series. `kind` None: the board does not say, so it has to be tried."""

    id: str
    name: str
    kind: str | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A chart and how it is asked: by an interval, or (funnels, retentions) by the settings."""

    chart: Chart
    kind: str
    interval: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.chart.id} by {self.interval}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer on disk, and the window it is about."""

    series: Series
    shape: shapes.Shape
    window: Window
    buckets: tuple[Bucket, ...]
    rows: int


@dataclass(kw_only=True)
class Reading:
    """All answers of one question over its windows, and what could not be had."""

    question: Question
    answers: list[Answer] = field(default_factory=list)
    missed: list[tuple[Bucket | None, NightloadError]] = field(default_factory=list)

    @property
    def shape(self) -> shapes.Shape | None:
        return self.answers[-1].shape if self.answers else None

    @property
    def rows(self) -> int:
        return sum(answer.rows for answer in self.answers)

    def without_parts_of(self, whole: Callable[[Bucket], bool]) -> Reading:
        """The reading without what came of buckets that have a gap, if `whole` says that all of them was had before."""
        partial = {bucket for bucket, _ in self.missed if bucket is not None and whole(bucket)}
        return replace(self, answers=[each for each in self.answers if not partial.intersection(each.buckets)])

    @property
    def whole_until(self) -> date | None:
        """The last day before the first gap; None if there is no such day."""
        gaps = [bucket.first for bucket, _ in self.missed if bucket is not None]
        days = [bucket.last for answer in self.answers for bucket in answer.buckets]
        if any(bucket is None for bucket, _ in self.missed):
            return None
        before = [day for day in days if not gaps or day < min(gaps)]
        return max(before, default=None)


class Reader:
    """Asks each question once per run; further readers get the same answers."""

    def __init__(self, client: Client, settings: Settings, folder: Path) -> None:
        self._client, self._settings, self._folder = client, settings, folder
        self.calendar = Calendar.of(settings)
        self._not_applicable = frozenset(settings.not_applicable or ["不适用"])
        self._newest: dict[str, tuple[Answer, Bucket] | NightloadError] = {}
        self._read: dict[tuple[str, date], Reading] = {}
        self._kinds: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._files = 0
        self._lock = threading.Lock()

    # -- what is asked ----------------------------------------------------------------------------

    def questions(self, chart: Chart, last: date) -> list[Question]:
        kind = self.kind_of(chart, last)
        if kind == "chart":
            return [Question(chart=chart, kind=kind, interval=each) for each in intervals_of(self._settings, chart.id)]
        interval = self._settings.retention_range if kind == "retention" else "day"
        return [Question(chart=chart, kind=kind, interval=interval)]

    def kind_of(self, chart: Chart, last: date) -> str:
        """What it is: by the settings, by the board, else by which path knows it."""
        told = (self._settings.types or {}).get(chart.id) or chart.kind or self._kinds.get(chart.id)
        if told:
            return str(told)
        for kind in KINDS:
            interval = {"chart": intervals_of(self._settings, chart.id)[0], "funnel": "day"}
            question = Question(chart=chart, kind=kind, interval=interval.get(kind, self._settings.retention_range))
            try:
                self.newest(question, last)
            except Refused as error:
                if error.status == 404:
                    continue
            except NightloadError as error:
                if isinstance(error, STOPPING):
                    raise
            self._kinds[chart.id] = kind
            return kind
        self._kinds[chart.id] = "chart"  # no path knows it: reading it as a chart says so
        return "chart"

    def newest(self, question: Question, last: date) -> Answer:
        """The answer over the newest bucket; it shows the meta. Raises what the vendor says."""
        with self._lock:
            lock = self._locks[question.key]
        with lock:
            if question.key not in self._newest:
                try:
                    bucket = self._newest_bucket(question, last)
                    self._newest[question.key] = self._ask(question, (bucket,)), bucket
                except NightloadError as error:
                    if isinstance(error, STOPPING):
                        raise
                    self._newest[question.key] = error
            found = self._newest[question.key]
        if isinstance(found, NightloadError):
            raise found
        return found[0]

    def shown(self, question: Question, last: date) -> Answer:
        """The newest answer, or that over a part of its hours where all of them are too much; it shows the meta."""
        try:
            return self.newest(question, last)
        except (TimedOut, TooMany):
            bucket = self._newest_bucket(question, last)
            window: Window | None = self.calendar.window((bucket,))
            while question.interval == "hour" and window and (halves := window.halves()):
                window = halves[0]
                with suppress(TimedOut, TooMany):
                    return self._ask(question, (bucket,), window)
            raise

    def read(self, question: Question, first: date, last: date) -> Reading:
        """Every bucket from that of `first` to the newest; what cannot be had is in `missed`."""
        known = self._read.get((question.key, first))
        if known is None:
            known = self._read[question.key, first] = self._read_again(question, first, last)
        return known

    def points(self, answer: Answer, question: Question) -> Iterator[shapes.Point]:
        where = _where(question)
        for row in _rows(answer.series):
            yield shapes.point_of(row, answer.shape, not_applicable=self._not_applicable, where=where)

    def moments(self, answer: Answer, question: Question) -> set[int | None]:
        """The times of an answer's rows."""
        where = _where(question)
        return {shapes.moment_of(row, answer.shape, where=where) for row in _rows(answer.series)}

    @property
    def not_applicable(self) -> frozenset[str]:
        return self._not_applicable

    # -- how it is asked --------------------------------------------------------------------------

    def _read_again(self, question: Question, first: date, last: date) -> Reading:
        """If the meta changes between two windows, all are asked again, once."""
        for attempt in range(2):
            reading = Reading(question=question)
            try:
                self._fill(reading, first, last)
            except NightloadError as error:
                if isinstance(error, STOPPING):
                    raise
                reading.answers.clear()
                reading.missed = [(None, error)]
                return reading
            digests = {answer.shape.digest for answer in reading.answers}
            if len(digests) < 2:
                return reading
            self._newest.pop(question.key, None)
            if attempt:
                break
        reading.answers.clear()
        what = "the columns of the chart changed while its windows were read"
        reading.missed = [(None, BrokenAnswer(what=what, where=_where(question), todo="Run again at a quieter hour"))]
        return reading

    def _fill(self, reading: Reading, first: date, last: date) -> None:
        question = reading.question
        buckets = self.calendar.buckets(question.interval, first, last)
        if not buckets:
            return
        newest, missed = None, None
        try:
            newest = self.newest(question, last)
        except (TimedOut, TooMany) as error:
            missed = error
        if newest is None and question.interval != "hour":
            reading.missed.append((buckets[-1], missed or _nothing(question)))
        older = buckets[:-1] if newest is not None or question.interval != "hour" else buckets
        timed = newest is None or newest.shape.time is not None
        # a week or a month is asked for by itself, and so is each day of a chart without a time
        days = self._settings.window_days if timed and question.interval in ("hour", "day") else 1
        for run in groups(older, days):
            before = len(reading.missed)
            answers = self._parts(reading, tuple(run), self.calendar.window(run))
            if len(run) > 1 and any(answer.rows and answer.shape.time is None for answer in answers):
                # it has no time after all, so each day is asked for by itself
                del reading.missed[before:]
                answers = [
                    answer
                    for bucket in run
                    for answer in self._parts(reading, (bucket,), self.calendar.window((bucket,)))
                ]
            reading.answers += answers
        if newest is not None:
            reading.answers.append(newest)

    def _parts(self, reading: Reading, run: tuple[Bucket, ...], window: Window) -> list[Answer]:
        """One window, in halves where it is too much at once: of its days, and by the hour also of one day's hours."""
        try:
            return [self._ask(reading.question, run, window)]
        except (TimedOut, TooMany) as error:
            too_much = error
        if len(run) > 1:
            middle = len(run) // 2
            sides = run[:middle], run[middle:]
            return [each for side in sides for each in self._parts(reading, side, self.calendar.window(side))]
        halves = window.halves() if reading.question.interval == "hour" else None
        found = [each for half in halves or () for each in self._parts(reading, run, half)]
        if halves is None or any(answer.rows and answer.shape.time is None for answer in found):
            # figures without a time are those of a whole window: two halves do not make one
            reading.missed.append((run[0], too_much))
            return []
        return found

    def _newest_bucket(self, question: Question, last: date) -> Bucket:
        bucket = self.calendar.bucket_of(last, question.interval)
        if bucket.last > last:
            bucket = self.calendar.bucket_of(bucket.first - timedelta(days=1), question.interval)
        return bucket

    def _ask(self, question: Question, buckets: tuple[Bucket, ...], window: Window | None = None) -> Answer:
        window = window or self.calendar.window(buckets)
        where = f"{_where(question)}, {self.calendar.told(window)}"
        try:
            series = self._client.series(
                question.kind, question.chart.id, self._params(question, window), self._file(question)
            )
            return self._checked(question, series, window, buckets, where=where)
        except NightloadError as error:
            if where not in error.where:
                error.at(where)
            raise

    def _checked(
        self, question: Question, series: Series, window: Window, buckets: tuple[Bucket, ...], *, where: str
    ) -> Answer:
        """The answer, if it is about this window and every row fits."""
        self._about(series.envelope, window, question, where=where)
        sample = list(islice(_rows(series), _SAMPLE))
        shape = shapes.shape_of(series.envelope["meta"], sample, where=where)
        rows = 0
        for row in _rows(series):
            moment = shapes.moment_of(row, shape, where=where)
            if moment is not None and not window.start <= moment <= window.end:
                raise BrokenAnswer(
                    what="a row is not of the window that was asked for",
                    where=where,
                    why=f"it is of {self.calendar.day_at(moment)}",
                    todo=self._todo(question, _ODD[question.interval]),
                )
            rows += 1
        if rows >= self._settings.most_rows:
            raise TooMany(
                what=f"the answer is full ({rows} rows), so it may be cut",
                where=where,
                todo="Make the chart smaller: fewer dimensions or values",
            )
        return Answer(series=series, shape=shape, window=window, buckets=buckets, rows=rows)

    def _todo(self, question: Question, setting: str) -> str:
        """What to do about rows of other days; a setting that is so already does not help."""
        is_so = setting == "window_days = 1" and self._settings.window_days == 1
        leave_out = f'leave the chart out: exclude_charts = ["{question.chart.id}"] under sources.{VENDOR}'
        return f"Run again; if it stays, {leave_out if is_so else f'set {setting}'}"

    def _about(self, envelope: Mapping[str, Any], window: Window, question: Question, *, where: str) -> None:
        """The window that the answer says it is about must be ours, to the day."""
        told = [envelope[name] for name in ("startTime", "endTime") if envelope.get(name) is not None]
        if len(told) < 2:
            return
        try:
            start, end = map(int, told)
            end -= end == window.end + 1  # whether the edge that is told is inclusive is not documented
            days = [self.calendar.day_at(start), self.calendar.day_at(end)] if start <= end else []
        except (ValueError, TypeError, OverflowError, OSError):
            days = []
        due = [self.calendar.day_at(window.start), self.calendar.day_at(window.end)]
        if days != due:
            raise BrokenAnswer(
                what="the answer is about another window",
                where=where,
                why=f"it is from {days[0]} to {days[1]}" if days else "it ends before it starts, or at no time",
                todo=self._todo(question, "window_days = 1"),
            )

    def _params(self, question: Question, window: Window) -> dict[str, int | str]:
        own: dict[str, int | str] = {"interval": INTERVALS.get(question.interval, 0)}
        if question.kind == "funnel":
            own = {"conversionWindow": self._settings.conversion_window}
        elif question.kind == "retention":
            own = {"range": question.interval}
        return {"startTime": window.start, "endTime": window.end, **own}

    def _file(self, question: Question) -> Path:
        with self._lock:
            self._files += 1
            return self._folder / f"{question.chart.id}.{self._files}.body"


def _rows(series: Series) -> Iterator[Sequence[Any]]:
    rows: Iterator[Any] = iter_rows(series.file, start=series.start, as_written=False)
    try:
        for row in rows:
            if not isinstance(row, list):
                raise ValueError("a row is no list")
            yield row
    except ValueError as error:
        raise BrokenAnswer(
            what="the rows cannot be read", where=VENDOR, why=str(error)[:100], todo="Run again"
        ) from None


def _where(question: Question) -> str:
    return f"{VENDOR}, {question.kind} {question.chart.id}, by {question.interval}"


def _nothing(question: Question) -> NightloadError:
    return BrokenAnswer(what="no answer came", where=_where(question), todo="Run again")
