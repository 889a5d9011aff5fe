"""How ThinkingEngine is asked: key, envelope, and SQL as tasks or as one stream. Reads only.

The key is a parameter of every URL (the vendor knows no header for it), so `sources.http.client` logs no query string.
SQL may carry it in its form instead.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from sources.convert.spool import Spool
from sources.core.concurrency import in_order
from sources.core.errors import BrokenAnswer, CountMismatch, NotReady, Refused
from sources.http.client import Http
from sources.http.rate_limit import Rate
from sources.http.request import Patience
from sources.thinkingengine import settings as has
from sources.thinkingengine.lines import Block, blocks, in_order_of, labels_from, read_block
from sources.thinkingengine.reading import limited
from sources.thinkingengine.refusals import LostTask, NoData, NoSuchPage, StillRunning, head_for, inspect_for

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
SUBMISSIONS = 3
"""How often one SQL is submitted at most: a task may expire, and pages may come broken."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A finished SQL task, as far as the vendor tells."""

    id: str
    labels: tuple[str, ...] | None
    rows: int | None
    pages: int | None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one SQL brought: its labels, and the vendor's own count of rows (None where it tells none).

    `proven`: a finished task counted them. “No data currently” is no such proof.
    """

    labels: tuple[str, ...] | None
    rows: int
    told: int | None
    proven: bool = False


class Client:
    """One ThinkingEngine server, with a project's key, a root key, or both. For any number of threads."""

    def __init__(self, settings: has.Settings) -> None:
        self._settings = settings
        self._token = str(settings.token or settings.root_token)
        self._root = str(settings.root_token or settings.token)
        self._width = settings.concurrency
        todo = f"Ask for less at once (window.days, user_shards), or raise sources.{has.VENDOR}.task_timeout"
        # a stream of SQL says nothing until its first row is there
        self._patience = Patience(max(300.0, settings.task_timeout), todo)
        self.http = Http(
            vendor=has.VENDOR,
            base_url=settings.base_url,
            params={"token": self._token},
            secrets=[self._token, self._root],
            rates={"default": Rate(per_second=settings.requests_per_second, burst=settings.concurrency)},
            concurrency=settings.concurrency + settings.tasks,
            sign=partial(_refuse_writes, urlsplit(settings.base_url).path),
            masks=True,
            timeout=300.0,
            deadline=max(600.0, settings.task_timeout),
        )

    def data(self, path: str, *, root: bool = False, **options: Any) -> Any:
        """The `data` of an answer; None for “no data currently”. Every POST that is allowed here only reads."""
        params = {**options.pop("params", {}), **({"token": self._root} if root else {})}
        options |= {"params": params, "retry": True, "inspect": inspect_for(path)}
        try:
            return self.http.json(has.READS[checked(path)], path, **options).get("data")
        except NoData:
            return None

    # -- SQL ------------------------------------------------------------------------------------

    def finish(self, sql: str) -> Task:
        """Submit one SQL and wait for its end. Raises `Refused` if it fails, `NotReady` if it does not end."""
        for tries in range(1, SUBMISSIONS + 1):
            task_id = self._submit(sql)
            if task_id is None:
                return Task(id="", labels=None, rows=0, pages=0)
            try:
                return self._await(task_id)
            except LostTask:
                if tries == SUBMISSIONS:
                    raise
        raise AssertionError("unreachable")

    def take(self, sql: str, task: Task, spool: Spool) -> Taken:
        """The rows of a finished task into the spool, as many as the vendor counts; submits it anew if it is lost.

        Raises `CountMismatch` or `BrokenAnswer` when they never come whole; the spool is then as it was.
        """
        mark = spool.mark()
        for tries in range(1, SUBMISSIONS + 1):
            try:
                return self._take(sql, task, spool)
            except (LostTask, BrokenAnswer, CountMismatch):
                spool.rewind(mark)
                if tries == SUBMISSIONS:
                    raise
            task = self.finish(sql)
        raise AssertionError("unreachable")

    def stream(self, sql: str, spool: Spool, file: Path) -> Taken:
        """One SQL by `/querySql`: the whole answer in one stream, through `file`. The vendor counts no rows there."""
        where = f"{has.VENDOR}, {has.QUERY_SQL}"
        self._stream(sql, file)
        labels: tuple[str, ...] | None = None
        rows = 0
        try:
            for content in blocks(file):
                block = read_block(content, labels, where=where)
                labels = self._labels(labels or block.labels, block, where) if rows == 0 else labels
                _spool(spool, block, labels)
                rows += block.rows
        finally:
            file.unlink(missing_ok=True)
        return Taken(labels=labels, rows=rows, told=None)

    def headers(self, sql: str) -> tuple[str, ...] | None:
        """The names of the columns, where a task does not tell them: it leaves them out for very wide ones."""
        answer = self.http.body(
            "POST",
            checked(has.QUERY_SQL),
            **self._form({"sql": limited(sql, 1), "format": "json"}),
            retry=True,
            inspect=inspect_for(has.QUERY_SQL),
            head=head_for(has.QUERY_SQL),
            patience=self._patience,
        )
        return read_block(answer.content, None, where=f"{has.VENDOR}, {has.QUERY_SQL}").labels

    def _stream(self, sql: str, file: Path) -> None:
        try:
            self.http.spool(
                checked(has.QUERY_SQL),
                file,
                method="POST",
                **self._form({"sql": sql, "format": "json", "timeoutSeconds": str(self._settings.task_timeout)}),
                retry=True,
                inspect=inspect_for(has.QUERY_SQL),
                head=head_for(has.QUERY_SQL),
                patience=self._patience,
            )
        except NoData:
            file.write_bytes(b"")

    def _submit(self, sql: str) -> str | None:
        """The task's id; None where the vendor says at once that it has no data."""
        form = {
            "sql": sql,
            "format": "json",
            "pageSize": str(self._settings.page_size),
            "timeoutSeconds": str(self._settings.task_timeout),
        }
        options = self._form(form)
        data = self.data(has.SUBMIT, **options)
        if data is None:
            return None
        task_id = data.get("taskId") if isinstance(data, Mapping) else None
        if not task_id:
            raise BrokenAnswer(what="no taskId came for an SQL", where=f"{has.VENDOR}, {has.SUBMIT}")
        return str(task_id)

    def _form(self, form: dict[str, str]) -> dict[str, Any]:
        if self._settings.token_in_form:
            return {"form": {**form, "token": self._token}, "params": {"token": None}}
        return {"form": form}

    def _await(self, task_id: str) -> Task:
        until, pause = time.monotonic() + self._settings.task_timeout, FIRST_PAUSE
        while True:
            try:
                found = self.data(has.INFO, params={"taskId": task_id})
            except StillRunning:
                found = {}
            told: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
            status = str(told.get("status") or "").upper()
            if status == "FINISHED":
                return _task(task_id, told, self._settings.page_size)
            if status.startswith(("FAIL", "CANCEL", "ERROR")):
                raise Refused(
                    what=f"the SQL {'was cancelled' if status.startswith('CANCEL') else 'failed'} at the vendor",
                    where=f"{has.VENDOR}, task {task_id}",
                    why=_words(told) or f"its status is {status}, and no reason is told",
                    todo="Run it in the vendor's SQL page, mend it, and run again",
                )
            if time.monotonic() > until:
                raise self._late(task_id, status)
            self.http.wait(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _late(self, task_id: str, status: str) -> NotReady:
        return NotReady(
            what=f"the SQL did not end within {self._settings.task_timeout} s",
            where=f"{has.VENDOR}, task {task_id}",
            why=f"its status is {status}" if status else "",
            todo=self._patience.todo,
        )

    def _take(self, sql: str, task: Task, spool: Spool) -> Taken:
        where = f"{has.VENDOR}, task {task.id}"
        labels = task.labels
        if labels is None and task.rows != 0:
            labels = self.headers(sql)
        numbers: Sequence[int] | Iterator[int] = range(task.pages) if task.pages is not None else _counting()
        seen: dict[bytes, int] = {}
        rows = 0
        width = self._width if task.pages is not None else 1
        for number, content in enumerate(in_order(lambda page: self._page(task, page), numbers, width=width)):
            if content is None:
                break
            block = read_block(content, labels, where=f"{where}, page {number}")
            labels = self._labels(labels or block.labels, block, where)
            _refuse_repeated(seen, number, block, where)
            _spool(spool, block, labels)
            rows += block.rows
            if task.pages is None and not block.rows:
                break
        if task.rows is not None and rows != task.rows:
            raise CountMismatch(
                table=where,
                what=f"the vendor counts {task.rows} rows, and its pages held {rows}",
                counts={"vendor": task.rows, "extracted": rows},
                todo="Run again; if it stays, compare page_size with the vendor's limit",
            )
        return Taken(labels=labels, rows=rows, told=task.rows, proven=bool(task.id) and task.rows is not None)

    def _page(self, task: Task, number: int) -> bytes | None:
        """One page as bytes, None past the end. Page 0 is refused while the task begins and when it is empty."""
        until, pause = time.monotonic() + self._settings.task_timeout, FIRST_PAUSE
        early = 4 if number == 0 and task.rows else 0
        while True:
            try:
                answer = self.http.body(
                    has.READS[checked(has.PAGE)],
                    has.PAGE,
                    params={"taskId": task.id, "pageId": number},
                    inspect=inspect_for(has.PAGE),
                    head=head_for(has.PAGE),
                )
                return answer.content
            except NoData:
                return b""
            except NoSuchPage as error:
                if task.pages is None and number:
                    return None
                if not task.rows and task.rows is not None:
                    return b""
                if not early:
                    raise BrokenAnswer(
                        what=f"page {number} does not exist",
                        where=f"{has.VENDOR}, task {task.id}",
                        why=f"the task is finished and tells {task.rows} rows on {task.pages} pages: {error.message}",
                        todo="Run again",
                    ) from None
                early -= 1
            except StillRunning:
                if time.monotonic() > until:
                    raise self._late(task.id, "") from None
            self.http.wait(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _labels(self, labels: tuple[str, ...] | None, block: Block, where: str) -> tuple[str, ...] | None:
        """The labels, proven on the first row. Rows that nobody names are an error, never dropped."""
        if not block.rows:
            return labels
        if labels is None:
            raise BrokenAnswer(
                what="rows came, and the vendor names their columns nowhere",
                where=where,
                todo="Name fewer columns instead of SELECT *",
            )
        return labels


def checked(path: str) -> str:
    """The path, if it may be called. Raises `ValueError`: it is a mistake of ours, not a user's."""
    if path not in has.READS:
        raise ValueError(f"{path} is not a read")
    return path


def _refuse_writes(base: str, request: httpx.Request) -> None:
    """The last look at each request, redirects too."""
    path = checked(request.url.path.removeprefix(base.rstrip("/")).lstrip("/"))
    if request.method != has.READS[path]:
        raise ValueError(f"{request.method} {path} is not a read")


def _spool(spool: Spool, block: Block, labels: tuple[str, ...] | None) -> None:
    """Append a block, whatever the order of its columns: the table's order is that of its first rows."""
    if not block.rows or labels is None:
        return
    known = tuple(spool.labels or ())
    if labels[: len(known)] == known:
        spool.lists(labels)
        spool.array(block.array)
        return
    union = (*known, *(label for label in labels if label not in known))
    spool.lists(union)
    spool.array(in_order_of(block.array, labels, union))


def _refuse_repeated(seen: dict[bytes, int], number: int, block: Block, where: str) -> None:
    """A page that equals another one was given twice. Rows that are all the same may well fill two pages."""
    rows = block.array[1:-1]
    first = rows.partition(b",\n")[0]
    if rows == b",\n".join([first] * block.rows):
        return
    digest = hashlib.blake2b(rows, digest_size=16).digest()
    if (before := seen.setdefault(digest, number)) != number:
        raise BrokenAnswer(
            what=f"page {number} repeats page {before}",
            where=where,
            todo="Run again; if it stays, add a column that tells the rows apart",
        )


def _task(task_id: str, told: Mapping[str, Any], page_size: int) -> Task:
    stat = told.get("resultStat")
    stat = stat if isinstance(stat, Mapping) else {}
    rows, pages = _whole(stat.get("rowCount")), _whole(stat.get("pageCount"))
    if pages is None and rows is not None:
        pages = -(-rows // (_whole(stat.get("pageSize")) or page_size))
    if rows == 0:
        pages = 0
    return Task(id=task_id, labels=labels_from(stat.get("headers")), rows=rows, pages=pages)


def _whole(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    return number if number >= 0 else None


def _words(told: Mapping[str, Any]) -> str:
    """What a failed task says; the name of that field is not documented."""
    for name, value in told.items():
        if isinstance(value, str) and any(part in name.lower() for part in ("err", "msg", "message", "reason", "fail")):
            return value[:300]
    return ""


def _counting() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
