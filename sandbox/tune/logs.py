"""The logs of the third version: no envelope, flat dotted keys, and a cap that nobody tells of (section 9)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from sandbox.core.wire import dumps
from sandbox.tune.data import Record
from sandbox.tune.envelope import Refusal, Reply
from sandbox.tune.exports import Queue
from sandbox.tune.filters import FilterError, parse_filter
from sandbox.tune.reports import csv_of
from sandbox.tune.stats import LOG_TYPES, Stats

CAPS = {"find": 5000, "export": 200_000}
ARGUMENTS = frozenset(["start_date", "end_date", "timezone", "fields", "limit", "response_format", "filter", "sorts"])
DEFAULTS = ("id", "created", "site.id", "site.name", "publisher.id", "payout", "status", "user_id")


def serve(stats: Stats, queue: Queue, advertisers: Mapping[str, Any], request: Request, notes: list[str]) -> Reply:
    parts = request.url.path.removeprefix("/v3/").strip("/").split("/")
    if len(parts) not in (4, 5) or parts[:2] != ["logs", "advertisers"] or parts[2] not in advertisers:
        raise Refusal(404, "Not found.", unexpected="no such log")
    strange = set(request.query_params) - ARGUMENTS - {"api_key", "session_token"}
    if strange:
        notes.append(f"unknown parameters of the logs: {', '.join(sorted(strange))}")
    if len(parts) == 4:
        rows, names = _rows(stats, parts[3], request, cap=CAPS["find"])
        if request.query_params.get("response_format", "csv") == "csv":
            return Reply(csv_of(rows, names, bom=False, newline="\n"), content_type="text/csv")
        rows = [{name: row.get(name) for name in names} for row in rows]
        return Reply(dumps({"data": rows} if queue.options.get("wrapped") else rows))
    if parts[3] != "exports":
        raise Refusal(404, "Not found.", unexpected="no such log")
    if parts[4] in queue.jobs:
        job = queue.jobs[parts[4]]
        told = queue.state(parts[4], request)
        told["lines_exported"] = job.lines + int(bool(queue.options.get("lines_include_header")))
        return Reply(dumps({**told, "context": "", "report_schedule_id": None}))
    rows, names = _rows(stats, parts[4], request, cap=CAPS["export"])
    newline = "\r\n" if queue.options.get("crlf") else "\n"
    body = csv_of(rows, names, bom=bool(queue.options.get("bom")), newline=newline)
    job = queue.order(body, len(rows), secret=parts[2])
    # the URL leads elsewhere on purpose: whoever calls it hands over the key
    status = f"http://127.0.0.1:9/v3/logs/advertisers/{parts[2]}/exports/{job.key}"
    return Reply(dumps({"handle": job.key, "export_job_status_url": status}))


def _rows(stats: Stats, kind: str, request: Request, *, cap: int) -> tuple[list[Record], list[str]]:
    if kind not in LOG_TYPES:
        raise Refusal(404, "Not found.", unexpected=f"no log {kind}")
    args = request.query_params
    start, end = (_moment(args.get(name, "")) for name in ("start_date", "end_date"))
    names = [name for name in args.get("fields", "").split(",") if name] or list(DEFAULTS)
    rows = [row for row in stats[f"logs/{kind}"].values() if start <= _moment(row["created"]) <= end]
    if args.get("filter"):
        try:
            found = parse_filter(args["filter"])
        except FilterError as error:
            raise Refusal(422, f"Invalid filter: {error}", unexpected="a filter") from error
        rows = [row for row in rows if found.keeps(row.get)]
    rows.sort(key=lambda row: (row["created"], row["id"]))
    rows = rows[: min(int(args.get("limit", cap)), cap)]
    unknown = [name for name in names if not any(name in row for row in stats[f"logs/{kind}"].values())]
    return rows, [name for name in names if name not in unknown]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(422, "a date is invalid.", unexpected="a date") from error
    return moment.replace(tzinfo=moment.tzinfo or UTC)


def refused(refusal: Refusal) -> Reply:
    body = {"errors": [{"message": str(refusal), "error_code": refusal.status}]}
    return Reply(json.dumps(body).encode(), refusal.body_status)
