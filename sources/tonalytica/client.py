"""How a Redash is asked: keys, lists, details, results, executions. Reads only, but for executing a query.

A wrong key is answered with 404, not 401; only the text tells (`Please login`). A query's own key
works on the routes that carry that query's id and nowhere else.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from sources.convert.json_envelope import cut_array
from sources.core.concurrency import in_order
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    CountMismatch,
    NightloadError,
    NotReady,
    Refused,
    Unavailable,
)
from sources.http.client import Http
from sources.http.rate_limit import Rate
from sources.http.request import Patience
from sources.http.response import parse
from sources.tonalytica.settings import (
    CONCURRENCY,
    MORE_ORDERS,
    MORE_PAGE_SIZES,
    ORDERS,
    PAGE_SIZE,
    VENDOR,
    Settings,
)

QUEUED, STARTED, FINISHED, FAILED, CANCELLED, DEFERRED, SCHEDULED = range(1, 8)
SMALL = 2**20
WALKS = 3
EXECUTE = r"POST api/queries/\d+/results"
"""The one request of a night that is no GET."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """All rows of one list, each id once, and the vendor's own count of them.

    `whole` False: no row may be taken for deleted because it is not here.
    """

    rows: list[dict[str, Any]]
    count: int
    whole: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """One query result on disk: the envelope with its rows left out, and where they stand in the file."""

    envelope: dict[str, Any]
    path: Path
    start: int
    end: int

    @property
    def columns(self) -> list[dict[str, Any]]:
        return list(self.envelope["data"]["columns"])


class Client:
    """One Redash, with a user's key, keys of single queries, or both.

    It can only read, and execute queries, unless `writes` (patterns of `METHOD path`) lets it do more. `masks`: are
    keys masked in what it answers? Not where that is written back.
    """

    def __init__(self, settings: Settings, *, writes: Iterable[str] = (), masks: bool = True) -> None:
        self.query_keys = {int(query_id): str(key) for query_id, key in (settings.query_keys or {}).items()}
        self.has_user_key = bool(settings.api_key)
        self.readable: frozenset[int] = frozenset()
        """Queries that a list shows to the user's key, which has more rights there than their own keys."""
        self._execution_timeout = settings.execution_timeout
        # no byte of a result comes before the server has built all of it
        todo = "Make the result smaller, or raise sources.tonalytica.result_timeout and any proxy's own limit"
        self._patience = Patience(settings.result_timeout, todo)
        self.dashboards_by_slug = False
        self._dashboard_manner: Callable[[int, str], dict[str, Any]] | None = None
        rate = Rate(per_second=settings.requests_per_second, burst=CONCURRENCY)
        self.http = Http(
            vendor=VENDOR,
            base_url=settings.base_url,
            # the header, not ?api_key=: that one would win over it and stand in access logs
            headers={"Authorization": f"Key {settings.api_key}"} if settings.api_key else {},
            secrets=[key for key in (settings.api_key, *self.query_keys.values()) if key],
            rates={"default": rate},
            concurrency=CONCURRENCY,
            sends=(EXECUTE, *writes),
            masks=masks,
        )

    def get(self, path: str, *, key: str | None = None, **params: Any) -> Any:
        return self.http.json("GET", f"api/{path}", params=params, inspect=_inspect, headers=_key_header(key))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Make or change something; sent once and never again, for it may have been done though no answer came."""
        return self.http.json("POST", f"api/{path}", body=body, retry=False, inspect=_inspect)

    def session(self) -> tuple[dict[str, Any], datetime | None]:
        """Whose key it is, and the vendor's clock."""
        answer = self.http.body("GET", "api/session", inspect=_inspect)
        session = parse(answer.content)
        if not isinstance(session, dict) or not isinstance(session.get("user"), dict):
            raise _other_shape("session")
        date = answer.headers.get("date")
        return session, parsedate_to_datetime(date) if date else None

    def list_all(self, path: str, *, duplicates: bool = False, **params: Any) -> Listed:
        """Walk a paginated list until two walks agree on its ids, and those are as many as the vendor counts.

        One walk proves nothing where there are several pages: a row that goes away between two of them
        shifts another out of sight, and the number of ids still fits. `duplicates`: this list is known to
        count a row twice (dashboards before Redash 10). Raises `CountMismatch` if the list does not settle.
        """
        seen: set[int] | None = None
        for _ in range(WALKS):
            rows, came, count = self._walk(path, params, duplicates=duplicates)
            ids = set(rows)
            whole = len(ids) == count
            if whole and (ids == seen or count <= PAGE_SIZE):
                return Listed(rows=list(rows.values()), count=count)
            if duplicates and ids == seen and len(ids) < count == came:
                note = f"the vendor counts {count} and lists {len(ids)}: before version 10 it counts some twice"
                return Listed(rows=list(rows.values()), count=len(ids), whole=False, notes=(note,))
            seen = ids
            if len(ids) < count and not duplicates:
                break  # every order and page size was asked for: once more shows no more
        is_short = len(seen or ()) < count
        raise CountMismatch(
            table=f"{VENDOR}.{path}",
            what="" if is_short else f"the list of {path} has other rows on each walk",
            counts={"vendor": count, "extracted": len(seen or ())},
            why="no order and no page size of the list shows the others" if is_short else "",
            todo="Run again at a quieter hour",
        )

    def _walk(
        self, path: str, params: Mapping[str, Any], *, duplicates: bool
    ) -> tuple[dict[int, dict[str, Any]], int, int]:
        """Each row once, by as many orders and page sizes as it takes; how many rows came first; the vendor's count."""
        found: dict[int, dict[str, Any]] = {}
        came = count = 0
        more = MORE_ORDERS.get(path.partition("/")[0], ())
        manners = [(PAGE_SIZE, order) for order in (*ORDERS, *more)]
        manners += [(size, order) for size in MORE_PAGE_SIZES for order in ORDERS]
        for number, (size, order) in enumerate(manners, 1):
            count, rows = self._pages(path, {**params, "order": order}, size)
            came = came or len(rows)
            found.update((row["id"], row) for row in rows)
            # what one page does not show, or is counted twice, no other order shows either
            if len(found) >= count or (number == len(ORDERS) and (duplicates or count <= PAGE_SIZE)):
                break
        return found, came, count

    def _pages(self, path: str, params: Mapping[str, Any], size: int) -> tuple[int, list[dict[str, Any]]]:
        first = self.get(path, **params, page=1, page_size=size)
        if not isinstance(first, dict) or not isinstance(first.get("count"), int) or "results" not in first:
            raise _other_shape(path)
        rows = list(first["results"])
        pages = range(2, -(-first["count"] // size) + 1)

        def fetch(page: int) -> list[dict[str, Any]]:
            try:
                return list(self.get(path, **params, page=page, page_size=size)["results"])
            except Refused as error:
                if error.status in (400, 404) and "out of range" in error.message.lower():
                    return []  # the list shrank: the count that follows tells
                raise

        for page in in_order(fetch, pages, width=CONCURRENCY):
            rows += page
        return first["count"], rows

    def array(self, path: str) -> list[dict[str, Any]]:
        """A list that has no pages."""
        rows = self.get(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _other_shape(path)
        return rows

    def details(
        self, path: str, ids: list[int], *, passing: tuple[int, ...] = (404,)
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """One object per id, None where the answer is one of the statuses `passing`."""

        def fetch(each: int) -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self.get(f"{path}/{each}")
            except Refused as error:
                if error.status in passing:
                    return None
                raise
            return found

        return zip(ids, in_order(fetch, ids, width=CONCURRENCY), strict=True)

    def refuse_listed(self, path: str, gone: list[int]) -> None:
        """Raise `CountMismatch` if one of these ids, whose details are not there, is in the list all the same."""
        if not gone:
            return
        listed = {row["id"] for row in self.list_all(path, duplicates=path == "dashboards").rows}
        if still := sorted(listed.intersection(gone)):
            raise CountMismatch(
                table=f"{VENDOR}.{path}",
                what=f"{path} {', '.join(map(str, still[:5]))} are listed, but their details are not there",
                todo="Run again; if it stays, look at them at the vendor",
            )

    def dashboard(self, dashboard_id: int, slug: str) -> dict[str, Any] | None:
        """A dashboard with its widgets; None if it is gone.

        Which name a server wants (id, slug, slug with ?legacy) changed in a version that previews
        had early, so it is tried, not read off the version, and then remembered.
        """
        manners = (
            [self._dashboard_manner]
            if self._dashboard_manner
            else [
                lambda each, _: self.get(f"dashboards/{each}"),
                lambda _, name: self.get(f"dashboards/{name}"),
                lambda _, name: self.get(f"dashboards/{name}", legacy="true"),
            ]
        )
        for manner in manners:
            try:
                found: dict[str, Any] = manner(dashboard_id, slug)
            except Refused as error:
                if error.status != 404:
                    raise
                continue
            except Unavailable as error:
                # a slug makes newer servers answer 500, an id may do so on older ones
                if error.status != 500 or manner is self._dashboard_manner:
                    raise
                continue
            if found["id"] == dashboard_id:  # a slug may belong to another dashboard by now
                self.dashboards_by_slug = self.dashboards_by_slug or (len(manners) == 3 and manner is manners[1])
                self._dashboard_manner = manner
                return found
        return None

    def query_of_key(self, query_id: int) -> dict[str, Any]:
        """The query that its own key may read."""
        try:
            found: dict[str, Any] = self.get(f"queries/{query_id}", key=self.query_keys[query_id])
        except AccessDenied as error:
            # one query's key says nothing of the other keys
            raise Refused(what=error.what, where=f"query {query_id}", todo=error.todo, status=error.status) from None
        return found

    def query(self, query_id: int) -> dict[str, Any]:
        """One query by its id, with its own key where there is one."""
        if query_id in self.query_keys:
            return self.query_of_key(query_id)
        if not self.has_user_key:
            raise Refused(what="there is no key for this query", where=f"query {query_id}", todo="Add it to query_keys")
        found: dict[str, Any] = self.get(f"queries/{query_id}")
        return found

    def result(self, query_id: int, result_id: int, file: Path) -> Result:
        """One result, streamed to `file`. A result never changes; an old one may be gone (404)."""
        return self._with_key(query_id, lambda key: self._result(query_id, result_id, file, key=key))

    def execute(self, query_id: int, parameters: Mapping[str, Any], *, max_age: int, file: Path) -> Result:
        """Run a query with these parameters, or take its cached result; wait for it; stream it to `file`."""

        def run(key: str | None) -> Result:
            return self._execute(query_id, parameters, max_age=max_age, file=file, key=key)

        try:
            return self._with_key(query_id, run)
        except LostJob:
            return self._with_key(query_id, run)

    def _with_key(self, query_id: int, ask: Callable[[str | None], Result]) -> Result:
        """Ask with the user's key (None) where it reads the query, else, or if that is forbidden, with the query's."""
        own = self.query_keys.get(query_id)
        if own is None or query_id in self.readable:
            try:
                return ask(None)
            except Refused as error:
                if own is None or error.status != 403:
                    raise
        return ask(own)

    def _result(self, query_id: int, result_id: int, file: Path, *, key: str | None) -> Result:
        # the route with the query's id, since a query's key works on no other
        own = query_id in self.query_keys
        path = f"queries/{query_id}/results/{result_id}.json" if own else f"query_results/{result_id}.json"
        self.http.spool(f"api/{path}", file, inspect=_inspect, headers=_key_header(key), patience=self._patience)
        return read_result(file)

    def _execute(
        self, query_id: int, parameters: Mapping[str, Any], *, max_age: int, file: Path, key: str | None
    ) -> Result:
        # apply_auto_limit: else newer servers cut at 1000 rows and say so nowhere
        body = {"parameters": parameters, "max_age": max_age, "apply_auto_limit": False}
        job = self._post_results(query_id, body, file, key=key)
        if job is None:
            return read_result(file)
        result_id = self._await(job, query_id=query_id, key=key)
        try:
            return self._result(query_id, result_id, file, key=key)
        except NotReady:
            # to a query's key a result of other values than the defaults is none, unless the same is posted again
            if key is None or self._post_results(query_id, body | {"max_age": -1}, file, key=key) is not None:
                raise
        result = read_result(file)
        return replace(result, envelope={"id": result_id, **result.envelope})

    def _post_results(
        self, query_id: int, body: Mapping[str, Any], file: Path, *, key: str | None
    ) -> dict[str, Any] | None:
        """The job that computes the result; None if `file` holds the result, which was cached."""
        path, headers = f"queries/{query_id}/results", _key_header(key)
        self.http.spool(
            f"api/{path}",
            file,
            method="POST",
            body=body,
            retry=False,
            inspect=_inspect,
            headers=headers,
            patience=self._patience,
        )
        answer = parse(file.read_bytes()) if file.stat().st_size < SMALL else None
        return _job_of(answer, path) if isinstance(answer, dict) and "job" in answer else None

    def _await(self, job: dict[str, Any], *, query_id: int, key: str | None) -> int:
        """Poll a job until it has a result."""
        path = f"queries/{query_id}/jobs/{job.get('id')}" if key else f"jobs/{job.get('id')}"
        where = f"{VENDOR}, query {query_id}"
        until = time.monotonic() + self._execution_timeout
        pause = 0.1
        while job["status"] not in (FINISHED, FAILED, CANCELLED):
            if time.monotonic() > until:
                raise _late(job, self._execution_timeout, where=where)
            self.http.wait(pause)
            pause = min(pause * 1.5, 5.0)
            try:
                job = _job_of(self.get(path, key=key), path)
            except Unavailable as error:
                # The server answers 500 for a job that it does not know, and once for one that fails just then:
                # it was asked twice by now.
                if error.status == 500:
                    raise LostJob(what="the vendor lost the execution", where=where, todo="Run again") from None
                raise
        if job["status"] != FINISHED:
            raise Refused(
                what="the query failed at the vendor",
                where=where,
                why=str(job.get("error") or "cancelled"),
                todo="Correct it there, and run again",
                message=str(job.get("error") or ""),
            )
        result_id = job.get("query_result_id") or job.get("result")
        if not isinstance(result_id, int):
            raise BrokenAnswer(
                what="the vendor reports success without a result",
                where=where,
                why=str(job.get("error") or ""),
                todo="Run the query at the vendor, and run again",
            )
        return result_id


class LostJob(Unavailable):
    """A job id that the server does not know any more."""


class StillQueued(NotReady):
    """A job that no worker of the server started in time."""


def _late(job: Mapping[str, Any], timeout: int, *, where: str) -> NotReady:
    if job["status"] != STARTED:
        return StillQueued(
            what=f"the execution is still queued after {timeout} s",
            where=where,
            why="no worker of the vendor has started it",
            todo="Run again when the vendor's queue is shorter, or raise sources.tonalytica.execution_timeout",
        )
    return NotReady(
        what=f"the execution did not end within {timeout} s",
        where=where,
        todo="Make the query faster, or raise sources.tonalytica.execution_timeout",
    )


def _job_of(answer: Any, path: str) -> dict[str, Any]:
    job = answer.get("job") if isinstance(answer, dict) else None
    if not isinstance(job, dict) or not isinstance(job.get("status"), int):
        raise _other_shape(path)
    return job


def read_result(file: Path) -> Result:
    """Find the rows in a result document. Raises `BrokenAnswer` if it is none."""
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as view:
        envelope, start, end = cut_array(view, "rows", where=f"{VENDOR}, result", whole=_is_result)
    return Result(envelope=envelope["query_result"], path=file, start=start, end=end)


def _is_result(envelope: Any) -> bool:
    """Does the document say, beside its rows, which columns they have?"""
    try:
        return isinstance(envelope["query_result"]["data"]["columns"], list)
    except (KeyError, TypeError):
        return False


def _other_shape(path: str) -> BrokenAnswer:
    return BrokenAnswer(
        what=f"the answer to api/{path} has not the shape of a Redash's",
        where=VENDOR,
        todo="Check that sources.tonalytica.base_url is a Redash's",
    )


def _key_header(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Key {key}"} if key else {}


def _inspect(status: int, parsed: Any) -> NightloadError | None:
    """Tell the noes apart; None leaves the answer to the general rules."""
    if status < 400 or not isinstance(parsed, dict):
        return None
    job = parsed.get("job")
    text = str(job.get("error") if isinstance(job, dict) else parsed.get("message") or "")
    if status == 404 and "please login" in text.lower():
        return AccessDenied(
            what="the key is not accepted",
            why="a wrong, missing or disabled key is answered with 404",
            todo="Check sources.tonalytica.api_key (user profile page) or query_keys (query page)",
            status=status,
            message=text,
        )
    if status == 404 and text.startswith("No cached result"):
        return NotReady(
            what="the query has no result for its present text",
            todo="Run it at the vendor, or add it to sources.tonalytica.executions",
            status=status,
            message=text,
        )
    if "is paused" in text:
        return NotReady(what="the data source is paused", why=text, status=status, message=text)
    if status in (401, 403):
        return Refused(
            what=f"the vendor answered {status}",
            why=text,
            todo="Give the key's user that right, or leave the table out: sources.tonalytica.exclude",
            status=status,
            message=text,
        )
    return None
