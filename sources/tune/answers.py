"""What the vendor answers for one window of a report, as flat rows in a file: pages, cohorts, exports, logs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sources.convert.spool import Spool, labels_of
from sources.core.errors import BrokenAnswer, CountMismatch
from sources.http.request import Scalar
from sources.tune.client import Client
from sources.tune.delimited import to_array
from sources.tune.exports import Downloads, Ready, job_of, wait_for
from sources.tune.periods import Window, clock
from sources.tune.reports import NO_INTERVAL, ORDINAL, WINDOW, ZONE, Report
from sources.tune.settings import DATASET, VENDOR, Settings

Row = dict[str, Any]


@dataclass(kw_only=True)
class Answer:
    """The rows of one window, spooled as a JSON array. `proven`: the vendor counted as many.

    `pages`: how many pages had rows; `keys` stands for the keys of all of them, in any order.
    """

    window: Window
    spool: Spool
    rows: int = 0
    proven: bool = False
    labels: dict[str, None] = field(default_factory=dict)
    pages: int = 0
    keys: int = 0

    def take(self, rows: list[Row]) -> None:
        self.spool.rows(rows)
        self.rows += len(rows)
        self.labels |= dict.fromkeys(labels_of(rows))

    def adopt(self, file: Path, labels: Iterable[str], rows: int) -> None:
        if rows:
            with file.open("rb") as body:
                body.seek(-min(16, file.stat().st_size), 2)
                end = body.tell() + body.read().rindex(b"]") + 1
            self.spool.adopt(file, 0, end)
        self.rows += rows
        self.labels |= dict.fromkeys(labels)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A report with what keeps test traffic out, as it is asked."""

    report: Report
    filter: str
    fields: tuple[str, ...]
    sort: tuple[str, ...] = ()

    def params(self, window: Window) -> dict[str, Scalar]:
        report = self.report
        return {
            "start_date": clock(window.start),
            "end_date": clock(window.last_second),  # that second included
            "group": ",".join(report.group),
            "timestamp": report.timestamp or None,
            "cohort_type": report.cohort_type or None,
            "interval": report.interval or None,
            "aggregation_type": report.aggregation or None,
            "filter": self.filter or None,
            "response_timezone": ZONE,
        }


def find(client: Client, question: Question, answer: Answer, *, limit: int | None = None) -> None:
    """All pages of a window. Raises `CountMismatch` if they are not as many rows as the vendor counts.

    Without a count it goes on to an empty page: the vendor's greatest page is not known, and a short one may be that.
    """
    report, window = question.report, answer.window
    base, path = question.params(window), f"{report.path}/find"
    size = min(limit, report.page_size) if limit else report.page_size
    sort = client.sort(question.sort)
    counted = client.count(report.path, question.filter, base) if report.count and not limit else None
    came, page, last = 0, 0, b""
    while True:
        page += 1
        params = {**base, "fields": ",".join(question.fields), **sort, "limit": size, "page": page}
        where = f"{VENDOR}, {path}, window {window.label}, page {page}"
        body = client.rows(path, params, where=where, may_be_empty=page > 1 or not counted, past_end=page > 1)
        content = bytes(body)
        rows = parsed(content, where=where)
        if counted is None and rows and content == last:
            raise BrokenAnswer(what="a page came twice", where=where, todo="Leave count = false out of the report")
        last = content
        came += len(rows)
        answer.pages += bool(rows)
        if report.unnested:
            flat = [row for cohort in rows for row in unnest(cohort, report, where=where)]
        else:
            flat = [flatten(row) for row in rows]
        answer.take([{WINDOW: window.label, **row} for row in flat])
        answer.keys += sum(_mark(row, report.key_fields) for row in flat)
        # one page more than the count fills, so that rows beyond it show
        if limit or (not rows if counted is None else page > counted // size):
            break
    if counted is not None:
        _compare(report, window, counted=counted, came=came)
        answer.proven = True


def export(
    client: Client, downloads: Downloads, settings: Settings, question: Question, answer: Answer, folder: Path
) -> None:
    """A window from the export queue, as CSV."""
    report, window = question.report, answer.window
    base, where = question.params(window), f"{VENDOR}, {report.path}/{report.queue}, window {window.label}"
    # a cohort's count is of cohorts, and what a line of its export is, is not documented
    counted = client.count(report.path, question.filter, base) if report.count and not report.is_cohort else None
    params = {**base, "fields": ",".join(question.fields), "format": "csv"}
    job = job_of(client.data(f"{report.path}/{report.queue}", params, group="queue"), "job_id", where=where)
    asked = "export/download" if report.poll == "download" else f"{report.path}/status"

    def ask() -> Any:
        return client.data(asked, {"job_id": job}, group="poll")

    def fresh() -> Ready:
        return wait_for(ask, settings, where=where)

    def label_of(label: str) -> str:
        return ORDINAL if label == report.ordinal_column else label

    download(downloads, fresh(), fresh, answer, folder, label_of=label_of, where=where)
    if counted is not None:
        _compare(report, window, counted=counted, came=answer.rows)
        answer.proven = True


def download(
    downloads: Downloads, ready: Ready, fresh: Any, answer: Answer, folder: Path, *, label_of: Any, where: str
) -> tuple[Ready, int]:
    """Add the lines of an export to the answer. Returns what the vendor says of it, and how many rows came."""
    body, array = folder / f"{answer.spool.path.stem}.csv", folder / f"{answer.spool.path.stem}.lines.json"
    try:
        ready = downloads.fetch(ready, fresh, body, where=where)
        lines = to_array(body, array, constants={WINDOW: answer.window.label}, label_of=label_of, where=where)
        answer.adopt(array, lines.labels, lines.rows)
        return ready, lines.rows
    finally:
        body.unlink(missing_ok=True)
        array.unlink(missing_ok=True)


def flatten(row: Any, *, under: str = "") -> Row:
    """Nested objects by dotted labels: what was asked for as `site.name` comes as `{"site": {"name": …}}`."""
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, under=f"{under}{name}.")
        elif isinstance(value, list):
            flat[f"{under}{name}"] = json.dumps(value, ensure_ascii=False) if value else None
        else:
            flat[f"{under}{name}"] = value
    return flat


def unnest(cohort: Any, report: Report, *, where: str) -> list[Row]:
    """A row per interval of a cohort, with its place. What the cohort has as a whole is under `meta.` unless it says
    which cohort it is; a cohort without intervals is one row of place -1."""
    meta, intervals = cohort.get("meta"), cohort.get("data")
    intervals = [] if intervals is None else intervals
    if not isinstance(meta, Mapping) or not isinstance(intervals, list):
        raise BrokenAnswer(what="a cohort came without meta and data", where=where, todo="Run again")
    which = {*report.group, report.time_column}
    whole = {name if name in which or "." in name else f"meta.{name}": value for name, value in flatten(meta).items()}
    if not intervals:
        return [{**whole, ORDINAL: NO_INTERVAL}]
    if not all(isinstance(each, Mapping) for each in intervals):
        raise BrokenAnswer(what="an interval of a cohort is no object", where=where, todo="Run again")
    return [{**flatten(each), **whole, ORDINAL: place} for place, each in enumerate(intervals)]


def parsed(body: bytes, *, where: str) -> list[Any]:
    """Rows, their numbers with a point as they were written."""
    try:
        text = body.decode("utf-8", "replace")
        rows = json.loads(text, strict=False, parse_float=str, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise BrokenAnswer(what="the rows are not JSON", where=where, todo="Run again") from None
    if not all(isinstance(row, dict) for row in rows):
        raise BrokenAnswer(what="a row is no object", where=where, todo="Run again")
    return list(rows)


def _mark(row: Row, key: tuple[str, ...]) -> int:
    """Of a row's key; of all of it, if none is known. Ids come now as a number and now as a text."""
    told = [str(row.get(name)) for name in key] if key else sorted(f"{name} {value}" for name, value in row.items())
    return int.from_bytes(hashlib.sha1("\x1f".join(told).encode(errors="replace"), usedforsecurity=False).digest()[:12])


def _compare(report: Report, window: Window, *, counted: int, came: int) -> None:
    if counted == came:
        return
    raise CountMismatch(
        table=f"{DATASET}.{report.table}",
        what=f"of window {window.label} the vendor counts {counted} rows, and {came} came",
        counts={"vendor": counted, "extracted": came},
        todo="Run again; if it stays, set a smaller page_size for the report, or, if its count means something else, "
        "count = false",
    )
