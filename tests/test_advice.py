"""What an error advises helps in its situation."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Night
from sources.convert.types import Column, Kind
from sources.core.errors import TypeFlip
from sources.extract.extractor import Extraction
from sources.extract.sync import Walk
from sources.extract.table import Mode, Table
from sources.growingio.charts import Chart, Question, Reader
from sources.growingio.client import _windowed
from sources.growingio.settings import Settings as Growingio
from sources.thinkingengine.queries import Query
from sources.thinkingengine.settings import Settings as ThinkingEngine
from sources.tune.reports import reports_of, table_of_report
from sources.tune.settings import ENDPOINTS, table_of
from sources.tune.settings import Settings as Tune
from test_recorded import KEY, Redash, a_page, queries

REPORT = {"name": "daily", "report": "actuals", "start": "2026-01-01"}


def tune_report() -> Table:
    settings = Tune()
    settings.reports = [REPORT]
    return table_of_report(reports_of(settings)[0])


TABLES = {
    "endpoint": (table_of(ENDPOINTS[0], Tune()), "Leave n out: name the other fields in fields of [[sources.tune"),
    "report": (tune_report(), 'Load it as text: types = {"n" = "string"} in the report daily'),
    "query": (
        Query(name="q", sql="SELECT 1", project_id=1).table(ThinkingEngine()),
        'Load it as text: types = {"n" = "text"} in the query q',
    ),
    "another": (Table(name="t", mode=Mode.LATEST), 'Leave the table out: exclude = ["t"] under sources.shop'),
}


@pytest.mark.parametrize("name", TABLES)
def test_value_of_another_type_than_declared_is_not_answered_with_a_rebuild(name: str) -> None:
    table, advice = TABLES[name]
    extraction = Extraction.standalone("shop")

    def fetch(walk: Walk) -> None:
        walk.columns = [Column(label="n", kind=Kind.BIGINT)]
        walk.spool.rows([{"n": "x"}])

    extraction.resource("shop", table, fetch)
    with pytest.raises(TypeFlip) as caught:
        extraction.preview(f"shop.{table.name}", limit=1)
    assert advice in caught.value.todo
    assert "nightload run --full" not in str(caught.value)


def test_changed_type_of_an_undeclared_column_is_answered_with_a_rebuild() -> None:
    assert "nightload run --full --table shop.t" in TypeFlip(table="shop.t", column="n", known="a", arrived="b").todo


class Odd(Redash):
    def _answer(self, path: str, params: dict[str, list[str]]) -> Any:
        if path == "queries":
            return a_page([row | {"version": "x"} for row in queries()])
        return super()._answer(path, params)


def test_run_with_a_value_of_another_type_than_declared_advises_what_helps(tmp_path: Path, database: Database) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    night = Night(home=tmp_path, database=database)
    url = f"http://127.0.0.1:{server.server_port}/"
    night.set(base_url=url, api_key=KEY, requests_per_second=1000, results={"include": {"ids": [0]}})
    tables = ["tonalytica.queries", "tonalytica.users"]
    ran = night.run("tonalytica", tables=tables)
    error = ran.tables["tonalytica.queries"]["error"]
    assert 'exclude = ["queries"] under sources.tonalytica; a rebuild with --full fails in the same way' in error
    assert ran.tables["tonalytica.users"]["status"] == "ok"
    night.set(exclude=["queries"])
    assert night.run("tonalytica", tables=tables[1:]).code == 0, "the advice helps"
    server.shutdown()


def test_chart_that_is_not_computed_in_time_is_not_advised_what_is_set_already() -> None:
    answer = {"errors": [{"code": "request_timeout"}]}
    for waits in (False, True):
        error = _windowed(500, answer, waits=waits)
        assert error is not None and ("v3" in error.todo) is not waits


def test_chart_of_other_days_is_not_advised_what_is_set_already(tmp_path: Path) -> None:
    question = Question(chart=Chart(id="a", name="", kind="chart"), kind="chart", interval="day")
    for days, advice in ((31, "set window_days = 1"), (1, 'exclude_charts = ["a"]')):
        settings = Growingio()
        settings.window_days = days
        assert advice in Reader(None, settings, tmp_path)._todo(question, "window_days = 1")  # type: ignore[arg-type]
