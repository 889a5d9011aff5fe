"""SQL tasks: submit, state, pages; and the synchronous stream (sheet, section 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.core.wire import dumps
from sandbox.thinkingengine.data import PROJECT, World
from sandbox.thinkingengine.engine import Engine, SqlError
from sandbox.thinkingengine.envelope import Refusal, Reply, enveloped

LEAST_PAGE = 1000
FORMATS = ("json", "json_object", "csv", "tsv")
OPTIONS: Mapping[str, Any] = {
    "running_polls": 1,
    "headers": True,
    "row_count": True,
    "page_form": "arrays",
    "page_envelope": False,
    "crlf": False,
    "fail": "",
    "fail_field": "errorMsg",
    "expire": 0,
    "page_zero": 0,
    "page_running": 0,
    "cut_pages": 0,
    "repeat_pages": False,
}
"""How the server behaves: polls until a task is finished; whether it tells headers and counts; the form of its pages; a
pattern of SQL that fails; how many tasks are lost at their first page; how often page 0 is refused, how often a page is
still running; how many pages are cut (as whole HTTP answers); whether every page is page 0."""


@dataclass
class Task:
    id: str
    headers: list[str]
    rows: list[list[Any]]
    page_size: int
    form: str
    polls: int
    error: str = ""

    @property
    def pages(self) -> int:
        return -(-len(self.rows) // self.page_size)


class Sql:
    def __init__(self) -> None:
        self.engine = Engine()

    def submit(self, world: World, form: Mapping[str, str]) -> Reply:
        options = world.options
        size, kind = _number(form.get("pageSize", "10000")), form.get("format", "json")
        if size < LEAST_PAGE:
            raise Refusal(-1008, f"pageSize must be >= {LEAST_PAGE}", unexpected="a page size that is refused")
        if kind not in FORMATS:
            raise Refusal(-1008, f"unsupported format: {kind}", unexpected="a format that is refused")
        text = _sql(form)
        task = Task(f"{len(world.tasks) + 0xA1B2C3D400000000:016x}", [], [], size, kind, options["running_polls"])
        try:
            if options["fail"] and re.search(options["fail"], text):
                raise SqlError("line 1:8: Column 'nope' cannot be resolved")
            _check_project(world, text)
            task.headers, task.rows = self.engine.run(world, text)
        except SqlError as error:
            task.error = str(error)
        world.tasks[task.id] = task
        return enveloped({"taskId": task.id})

    def info(self, world: World, query: Mapping[str, str]) -> Reply:
        task = _task(world, query)
        options = world.options
        if task.polls > 0:
            task.polls -= 1
            return enveloped({"taskId": task.id, "status": "RUNNING", "progress": 50})
        if task.error:
            return enveloped({"taskId": task.id, "status": "FAILED", "progress": 0, options["fail_field"]: task.error})
        stat: dict[str, Any] = {"headers": task.headers, "pageSize": task.page_size}
        stat |= {"rowCount": len(task.rows), "pageCount": task.pages}
        if not options["headers"]:
            del stat["headers"]
        if not options["row_count"]:
            del stat["rowCount"], stat["pageCount"]
        return enveloped({"taskId": task.id, "status": "FINISHED", "progress": 100, "resultStat": stat})

    def page(self, world: World, query: Mapping[str, str]) -> Reply:
        task, options = _task(world, query), world.options
        number = _number(query.get("pageId", ""))
        if options["expire"] > 0:
            options["expire"] -= 1
            del world.tasks[task.id]
            raise Refusal(-1, f"task {task.id} not found or expired")
        if options["page_running"] > 0:
            options["page_running"] -= 1
            raise Refusal(-1, "The task is running")
        if number == 0 and options["page_zero"] > 0:
            options["page_zero"] -= 1
            raise Refusal(-1008, "the page data does not exist")
        if number and number >= task.pages:
            raise Refusal(-1008, "the page data does not exist")
        if options["repeat_pages"]:
            number = 0
        rows = task.rows[number * task.page_size : (number + 1) * task.page_size]
        body = _lines(task, rows, options)
        if options["cut_pages"] > 0:
            options["cut_pages"] -= 1
            body = body[: len(body) * 2 // 3]
        return Reply(body, content_type="application/octet-stream")

    def stream(self, world: World, form: Mapping[str, str]) -> Reply:
        text = _sql(form)
        try:
            _check_project(world, text)
            headers, rows = self.engine.run(world, text)
        except SqlError as error:
            raise Refusal(-1, str(error)) from None
        task = Task("", headers, rows, max(len(rows), 1), "json", 0)
        return Reply(_lines(task, rows, {**world.options, "page_envelope": True}), content_type="text/plain")


def _lines(task: Task, rows: list[list[Any]], options: Mapping[str, Any]) -> bytes:
    objects = options["page_form"] == "objects" or task.form == "json_object"
    shown = [dict(zip(task.headers, row, strict=True)) for row in rows] if objects else rows
    lines = [dumps(row) for row in shown]
    if options["page_envelope"]:
        lines.insert(0, dumps({"data": {"headers": task.headers}, "return_code": 0, "return_message": "success"}))
    end = b"\r\n" if options["crlf"] else b"\n"
    return b"".join(line + end for line in lines)


def _sql(form: Mapping[str, str]) -> str:
    text = form.get("sql", "").strip()
    if not text:
        raise Refusal(-1008, "sql is empty", unexpected="no sql")
    if not re.match(r"(--[^\n]*\n\s*|/\*.*?\*/\s*)*(select|with|show|describe|\()", text, re.IGNORECASE | re.DOTALL):
        raise Refusal(-1010, "only queries are allowed", unexpected="SQL that does not read")
    return text


def _check_project(world: World, text: str) -> None:
    for found in re.findall(r"(?:v_event|v_user|user_result_cluster)_(\d+)|dim_(\d+)_", text):
        if str(PROJECT) not in found:
            raise SqlError("Table does not exist or no permission")


def _task(world: World, query: Mapping[str, str]) -> Task:
    task: Task | None = world.tasks.get(query.get("taskId", ""))
    if task is None:
        raise Refusal(-1, f"task {query.get('taskId')} 不存在")
    return task


def _number(text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise Refusal(-1008, f"not a number: {text}", unexpected="a number that is none")
    return int(text)
