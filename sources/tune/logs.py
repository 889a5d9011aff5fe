"""TUNE's logs, third version: `/v3/logs/advertisers/{id}/…`, without an envelope, and capped in silence.

An answer of as many rows as may come is taken for a cut one, and its window is halved until it is not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sources.convert.json_envelope import cut_array
from sources.core.errors import ConfigurationError, CountMismatch, NightloadError
from sources.http.client import Http
from sources.http.rate_limit import Rate
from sources.http.request import Scalar
from sources.tune.answers import Answer, Question, download, flatten, parsed
from sources.tune.client import Client, Request, refusal
from sources.tune.exports import Downloads, Ready, job_of, wait_for
from sources.tune.periods import Window, clock, iso
from sources.tune.reports import KNOWN_CAPS, LOG_FIND_ROWS, WINDOW, ZONE, Report
from sources.tune.settings import DATASET, VENDOR, Settings, wrong

_POLLS_AT_ONCE = 60


def base_of(settings: Settings) -> str:
    """The third version's base: beside the second's, unless the settings name it."""
    if settings.v3_base_url:
        return settings.v3_base_url
    base = settings.base_url.rstrip("/")
    if not base.endswith("/v2"):
        raise wrong(
            "v3_base_url is not set, and base_url does not end in /v2", 'Write v3_base_url = "https://…/v3" for logs'
        )
    return f"{base[:-1]}3"


def label_of(label: str) -> str:
    """site.name and, as it was called later, site_name."""
    return label.strip().replace(".", "_")


class Logs:
    """The logs of one advertiser."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client, self._settings = client, settings
        rate = Rate(per_second=settings.requests_per_second, burst=settings.concurrency)
        polls = Rate(per_second=settings.polls_per_hour / 3600, burst=_POLLS_AT_ONCE)
        self.http: Http = client.beside(base_of(settings), rates={"default": rate, "poll": polls})
        self._advertiser: str | None = None

    def advertiser(self, report: Report) -> str:
        """The id in the paths: the configured one, or the only one that the key sees."""
        if report.advertiser_id:
            return report.advertiser_id
        if self._advertiser is None:
            request = Request(path="advertiser", key=("id",), fields=("id",))
            rows = parsed(
                bytes(self._client.page(request, 1, size=20, may_be_empty=True)), where=f"{VENDOR}, advertiser"
            )
            ids = [str(row.get("id")) for row in rows]
            if len(ids) != 1 or not ids[0].isdecimal():
                seen = ", ".join(ids) or "none"
                raise wrong(
                    f"report {report.name} has no advertiser_id, and the key sees {len(ids)} advertisers",
                    f"Set advertiser_id to one of: {seen}",
                )
            self._advertiser = ids[0]
        return self._advertiser

    def read(
        self, downloads: Downloads, question: Question, answer: Answer, folder: Path, *, limit: int | None = None
    ) -> None:
        """The rows of a window, in as many requests as its cap takes."""
        answer.proven = question.report.via == "export" and not limit
        self._read(downloads, question, answer, answer.window, folder, limit=limit)

    def _read(
        self,
        downloads: Downloads,
        question: Question,
        answer: Answer,
        window: Window,
        folder: Path,
        *,
        limit: int | None,
    ) -> None:
        report = question.report
        path = f"logs/advertisers/{self.advertiser(report)}"
        where = f"{VENDOR}, {path}/{report.log}, from {clock(window.start)} to {clock(window.end)}"
        most = limit or report.row_limit
        params: dict[str, Scalar] = {
            "start_date": iso(window.start),
            "end_date": iso(window.last_second if report.end_inclusive else window.end),
            "timezone": ZONE,
            "fields": ",".join(question.fields) or None,
            "filter": question.filter or None,
            "limit": most,
            "response_format": "csv" if report.via == "export" and not limit else "json",
        }
        mark, before, labels = answer.spool.mark(), answer.rows, dict(answer.labels)
        if report.via == "export" and not limit:
            came = self._export(downloads, f"{path}/exports", report, params, answer, folder, where=where)
        else:
            came = self._find(f"{path}/{report.log}", params, answer, where=where)
        if limit or (came < most and came not in KNOWN_CAPS):
            return
        halves = _halves(window)
        if halves is None:
            raise ConfigurationError(
                what=f"one second has {came} rows, as many as an answer can hold",
                where=where,
                # of what the vendor cuts itself, a greater row_limit brings no more, and beyond its cap it takes none
                todo=f"Raise row_limit of the report {report.name}, or filter it"
                if most <= came and most < (LOG_FIND_ROWS if report.via == "find" else max(KNOWN_CAPS))
                else f"Filter the report {report.name}: the vendor gives no more rows at once",
            )
        answer.spool.rewind(mark)
        answer.rows, answer.labels = before, labels
        for half in halves:
            self._read(downloads, question, answer, half, folder, limit=None)

    def _find(self, path: str, params: dict[str, Scalar], answer: Answer, *, where: str) -> int:
        def call(credentials: Any) -> bytes:
            options: Any = {"params": {**params, **credentials}, "inspect": _inspect(path)}
            return self.http.body("GET", path, **options).content

        body = self._client.signed(call)
        if not body.lstrip().startswith(b"["):
            envelope, start, end = cut_array(body, "data", where=where)
            if (error := refusal(200, envelope, path)) is not None and envelope.get("errors"):
                raise error.at(where)
            body = body[start:end]
        rows = [flatten(row) for row in parsed(body, where=where)]
        answer.take([{WINDOW: answer.window.label, **{label_of(k): v for k, v in row.items()}} for row in rows])
        return len(rows)

    def _export(
        self,
        downloads: Downloads,
        path: str,
        report: Report,
        params: dict[str, Scalar],
        answer: Answer,
        folder: Path,
        *,
        where: str,
    ) -> int:
        job = job_of(self._json(f"{path}/{report.log}", params), "handle", "job_id", where=where)

        def fresh() -> Ready:
            # by its own path: the URL that the vendor names would get the key
            return wait_for(lambda: self._json(f"{path}/{job}", {}, group="poll"), self._settings, where=where)

        ready, came = download(downloads, fresh(), fresh, answer, folder, label_of=label_of, where=where)
        if ready.lines is None:
            answer.proven = False
            return came
        counted = ready.lines - bool(report.lines_include_header and ready.lines)
        if counted != came:
            raise CountMismatch(
                table=f"{DATASET}.{report.table}",
                what=f"the vendor exported {counted} lines, and {came} rows came",
                counts={"vendor": counted, "extracted": came},
                todo="Run again; if it is always one more, it counts the header: set lines_include_header = true",
            )
        return came

    def _json(self, path: str, params: dict[str, Scalar], group: str = "default") -> Any:
        def call(credentials: Any) -> Any:
            options: Any = {"params": {**params, **credentials}, "group": group, "inspect": _inspect(path)}
            return self.http.json("GET", path, **options)

        return self._client.signed(call)


def _inspect(path: str) -> Any:
    def inspect(status: int, answer: Any) -> NightloadError | None:
        """There is no envelope: the HTTP status decides, and `errors` if there are any."""
        if status == 200 and not (isinstance(answer, dict) and answer.get("errors")):
            return None
        return refusal(status, answer, path)

    return inspect


def _halves(window: Window) -> tuple[Window, Window] | None:
    seconds = int((window.end - window.start).total_seconds())
    if seconds < 2:
        return None
    middle = window.start + (window.end - window.start) * (seconds // 2) / seconds
    middle = middle.replace(microsecond=0)
    return replace(window, end=middle), replace(window, start=middle)
