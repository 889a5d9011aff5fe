"""Rows for the warehouse out of what was read: the long table, a wide table per chart, funnels, retentions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sources.convert.types import Column, Kind
from sources.growingio import shapes
from sources.growingio.charts import Answer, Question, Reader, Reading
from sources.growingio.settings import HOURLY_ZEROS, Settings, wrong
from sources.growingio.windows import Bucket, Calendar, instant

SLICE, POINT_TIME, EVENT_DATE = "_slice", "_point_time", "_event_date"
"""Columns of the wide tables that are not the chart's own."""

Row = dict[str, Any]
Rows = Callable[[shapes.Shape, shapes.Point, frozenset[str]], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Makes the rows of one project."""

    reader: Reader
    settings: Settings
    metrics_by_the_hour: set[str] = dataclasses.field(default_factory=set)
    """The metrics of the charts that were read by the hour."""

    @property
    def calendar(self) -> Calendar:
        return self.reader.calendar

    def slice_of(self, question: Question, bucket: Bucket) -> str:
        """What a load replaces as a whole: one day, week or month of one chart."""
        return f"{question.chart.id}/{question.interval}/{bucket.first}"

    def slices(self, reading: Reading) -> tuple[set[str], set[str]]:
        """The slices that were asked for without a gap, and of them those that have rows."""
        question = reading.question
        gaps = {self.slice_of(question, bucket) for bucket, _ in reading.missed if bucket is not None}
        asked = {self.slice_of(question, bucket) for answer in reading.answers for bucket in answer.buckets}
        filled = set()
        for answer in reading.answers:
            if answer.shape.time is None:
                filled |= {self.slice_of(question, answer.buckets[0])} if answer.rows else set()
                continue
            days = {self.calendar.day_at(each) for each in self.reader.moments(answer, question) if each is not None}
            filled |= {self.slice_of(question, self.calendar.bucket_of(day, question.interval)) for day in days}
        return asked - gaps, filled

    def long(self, reading: Reading) -> Iterator[Row]:
        """A row per point, dimensions and metric."""
        question = reading.question
        for answer in reading.answers:
            zeros = self._zeros(question, answer.shape)
            for point, frame in self._framed(answer, question):
                head = {
                    "project_uid": self.settings.project_uid,
                    "chart_id": question.chart.id,
                    "interval": question.interval,
                    **frame,
                }
                for place, (field, cell) in enumerate(zip(answer.shape.metrics, point.cells, strict=True), start=1):
                    value, text = shapes.number(None if shapes.is_na(cell, self.reader.not_applicable) else cell)
                    quality = None
                    if value == 0 and field.position in zeros:
                        value, quality = None, "hourly_zero"
                    yield head | {
                        "metric_position": place,
                        "metric": field.name,
                        "value": value,
                        "value_text": text,
                        "quality": quality,
                    }

    def wide(self, reading: Reading) -> Iterator[Row]:
        """A row per point and dimensions, the chart's labels as columns."""
        question = reading.question
        for answer in reading.answers:
            zeros = self._zeros(question, answer.shape)
            names = _wide_labels(answer.shape)
            for point, frame in self._framed(answer, question):
                row = {SLICE: frame["slice"], POINT_TIME: frame["point_time"], EVENT_DATE: frame["event_date"]}
                for field, dimension in zip(answer.shape.dimensions, point.dimensions.values(), strict=True):
                    row[names[field.position]] = dimension
                for field, cell in zip(answer.shape.metrics, point.cells, strict=True):
                    value, _ = shapes.number(cell)
                    row[names[field.position]] = None if value == 0 and field.position in zeros else value
                yield row

    def unpivoted(self, reading: Reading, rows: Rows) -> Iterator[Row]:
        """A row per step of a funnel, or per period of a retention."""
        question = reading.question
        own: Row = {"project_uid": self.settings.project_uid, f"{question.kind}_id": question.chart.id}
        if question.kind == "funnel":
            own["conversion_window"] = self.settings.conversion_window
        else:
            own["range"] = question.interval
        for answer in reading.answers:
            for point, frame in self._framed(answer, question):
                for row in rows(answer.shape, point, self.reader.not_applicable):
                    yield own | frame | row

    def unpivoted_count(self, reading: Reading, rows: Rows) -> int:
        """How many rows `unpivoted` is to give, by the meta."""
        count = 0
        for answer in reading.answers:
            blank = shapes.Point(moment=None, dimensions={}, cells=(None,) * len(answer.shape.metrics))
            count += answer.rows * len(list(rows(answer.shape, blank, frozenset())))
        return count

    def _framed(self, answer: Answer, question: Question) -> Iterator[tuple[shapes.Point, Row]]:
        """Each point with where it stands in time; points that are alike in all but their metrics are counted."""
        # numbers, and a count only of what repeats: an answer of 200 000 rows has to fit in beside all else
        seen: set[int] = set()
        repeats: Counter[int] = Counter()
        frames: dict[int | None, Row] = {}
        for point in self.reader.points(answer, question):
            frame = frames.get(point.moment)
            if frame is None:
                frame = frames[point.moment] = self._frame(answer, question, point.moment)
            digest = point.digest
            key = int(digest, 16) ^ (point.moment or 0)
            if key in seen:
                repeats[key] += 1
            seen.add(key)
            yield (
                point,
                frame
                | {
                    "dimensions": point.dimensions,
                    "dimensions_hash": digest,
                    "occurrence": 1 + repeats.get(key, 0),
                    "meta_hash": answer.shape.digest,
                },
            )

    def _frame(self, answer: Answer, question: Question, moment: int | None) -> Row:
        calendar = self.calendar
        bucket = answer.buckets[0]
        if moment is not None:
            bucket = calendar.bucket_of(calendar.day_at(moment), question.interval)
        start = calendar.midnight(bucket.first)
        return {
            "slice": self.slice_of(question, bucket),
            "window_start": instant(start),
            "window_end": instant(calendar.midnight(bucket.last + timedelta(days=1)) - 1),
            "point_time": instant(start if moment is None else moment),
            "event_date": calendar.day_at(start if moment is None else moment).isoformat(),
        }

    def _zeros(self, question: Question, shape: shapes.Shape) -> frozenset[int]:
        """Where metrics stand whose zeros mean nothing by the hour. Raises `ConfigurationError` if they are refused."""
        if question.interval != "hour":
            return frozenset()
        names = (*HOURLY_ZEROS, *(self.settings.hourly_zero_metrics or ()))
        self.metrics_by_the_hour.update(metric.name for metric in shape.metrics)
        found = [metric for metric in shape.metrics if any(name in metric.name for name in names)]
        if found and self.settings.hourly_zeros == "refuse":
            raise wrong(
                f"chart {question.chart.id} is asked by the hour, and {found[0].name} is always 0 then",
                'Ask it by the day (chart_intervals), or set hourly_zeros = "null"',
            )
        return frozenset(metric.position for metric in found)


def wide_columns(shapes_of: Sequence[shapes.Shape]) -> list[Column]:
    """The columns of a wide table: ours, then the labels in their order."""
    columns = {
        SLICE: Column(label=SLICE, kind=Kind.TEXT),
        POINT_TIME: Column(label=POINT_TIME, kind=Kind.TIMESTAMP),
        EVENT_DATE: Column(label=EVENT_DATE, kind=Kind.DATE),
    }
    for shape in shapes_of:
        names = _wide_labels(shape)
        for field in (*shape.dimensions, *shape.metrics):
            label = names[field.position]
            columns.setdefault(label, Column(label=label, kind=Kind.TEXT if field.role == "dimension" else Kind.DOUBLE))
    return list(columns.values())


def _wide_labels(shape: shapes.Shape) -> dict[int, str]:
    labels = shapes.unique([field.name for field in shape.fields], taken=(SLICE, POINT_TIME, EVENT_DATE))
    return {field.position: label for field, label in zip(shape.fields, labels, strict=True)}
