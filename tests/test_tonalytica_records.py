"""TONalytica's `query_results`: a row for each result that was loaded, whatever cut the run that loaded it."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Night, one_database
from sandbox_process import SandboxProcess
from sources.core.errors import Refused
from sources.tonalytica import Tonalytica, _could_be
from test_tonalytica import asked, edit, only, query

RECORDS = "SELECT query_id, result_id, row_count FROM tonalytica.query_results"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """`query_results` fails until this is undone."""

    def fail(*_: Any) -> None:
        raise Refused(what="query_results fails")

    monkeypatch.setattr(Tonalytica, "_fetch_query_results", fail)
    return monkeypatch


def given(sandbox: SandboxProcess, key: int, *rows: dict[str, Any]) -> int:
    """The id of a new result of a query."""
    made: int = edit(sandbox, "queries", "execute", key, rows=list(rows))["result_id"]
    return made


def test_a_result_whose_record_failed_is_recorded_by_the_next_run(
    night: Night, sandbox: SandboxProcess, failing: pytest.MonkeyPatch
) -> None:
    key, other = only(night, sandbox, "Sales Report", "Every type")
    first = given(sandbox, key, {"n": 1}, {"n": 2})
    assert night.run("tonalytica").tables["tonalytica.query_results"]["status"] == "failed"
    second = given(sandbox, key, {"n": 3})
    assert night.run("tonalytica").tables["tonalytica.query_results"]["status"] == "failed"
    failing.undo()
    sent = asked(sandbox)
    ran = night.run("tonalytica")
    assert (ran.code, ran.tables[f"tonalytica_results.query_{key}"]["status"]) == (0, "unchanged")
    latest = query(sandbox, "Every type")["latest_query_data_id"]
    assert sorted(night.rows(RECORDS)) == sorted([(key, first, 2), (key, second, 1), (other, latest, 2)])
    assert {path for path, count in asked(sandbox).items() if "results" in path and count != sent.get(path)} == set()
    before = night.contents()
    assert night.run("tonalytica").code == 0
    assert night.contents() == before


def test_records_need_no_vendor(night: Night, sandbox: SandboxProcess) -> None:
    """Results that came before the key was revoked are recorded in that run."""
    ids = sorted(only(night, sandbox, "Sales Report", "Every type"))
    denied = {"status": 404, "body": {"message": "Couldn't find resource. Please login and try again."}}
    faults = [{"match": {"path": "/api/query_results/"}, "skip": 1, "times": -1, "do": denied}]
    sandbox.control("tonalytica", "POST", "faults", faults)
    tables = night.run("tonalytica").tables
    loaded = [key for key in ids if tables[f"tonalytica_results.query_{key}"]["status"] == "ok"]
    assert len(loaded) == 1
    assert tables["tonalytica.query_results"]["status"] == "ok"
    assert night.rows("SELECT query_id FROM tonalytica.query_results") == [(loaded[0],)]


def test_a_result_that_is_asked_for_alone_is_recorded(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    made = given(sandbox, key, {"n": 1})
    ran = night.run("tonalytica", tables=[f"tonalytica_results.query_{key}"])
    assert (ran.code, set(ran.tables)) == (0, {f"tonalytica_results.query_{key}", "tonalytica.query_results"})
    assert night.rows(RECORDS) == [(key, made, 1)]


def test_a_result_that_is_loaded_in_a_second_pass_is_recorded(night: Night, sandbox: SandboxProcess) -> None:
    """Its numbers widened, so its table is built again."""
    (key,) = only(night, sandbox, "Sales Report")
    made = [given(sandbox, key, {"n": 1})]
    assert night.run("tonalytica").code == 0
    made.append(given(sandbox, key, {"n": 1.5}))
    assert night.run("tonalytica").code == 0
    assert sorted(night.rows(RECORDS)) == [(key, each, 1) for each in made]


def test_an_empty_result_of_a_kept_history_is_recorded(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    night.set(results={"include": {"ids": [key]}, "keep_history": [key]})
    made = given(sandbox, key, {"n": 1})
    assert night.run("tonalytica").code == 0
    columns = [{"name": "n", "friendly_name": "n", "type": "integer"}]
    empty = edit(sandbox, "queries", "execute", key, rows=[], columns=columns)["result_id"]
    assert night.run("tonalytica").code == 0
    assert sorted(night.rows(RECORDS)) == [(key, made, 1), (key, empty, 0)]


def test_an_edit_of_the_text_alone_marks_the_result_as_of_an_older_text(night: Night, sandbox: SandboxProcess) -> None:
    key, number, other = only(night, sandbox, "Sales Report", "Param: number", "Every type")
    flags = "SELECT query_id, is_of_older_text FROM tonalytica.query_results ORDER BY query_id"
    assert night.run("tonalytica").code == 0
    assert night.rows(flags) == [(each, False) for each in sorted((key, number, other))]
    texts = {each: query(sandbox, name)["query"] for each, name in ((key, "Sales Report"), (number, "Param: number"))}
    for each, text in texts.items():
        edit(sandbox, "queries", "update", each, query=f"{text} -- edited")
    sent = asked(sandbox)
    ran = night.run("tonalytica")
    assert ran.tables[f"tonalytica_results.query_{key}"]["status"] == "unchanged"
    assert night.rows(flags) == [(each, each in texts) for each in sorted((key, number, other))]
    assert {path for path, count in asked(sandbox).items() if "results" in path and count != sent.get(path)} == set()
    for each, text in texts.items():
        edit(sandbox, "queries", "update", each, query=text, name="another name")
    assert night.run("tonalytica").code == 0
    assert night.rows(flags) == [(each, False) for each in sorted((key, number, other))]


@one_database
def test_a_reset_forgets_no_record_that_is_still_to_be_made(
    night: Night, sandbox: SandboxProcess, failing: pytest.MonkeyPatch
) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    first = given(sandbox, key, {"n": 1})
    night.run("tonalytica")
    failing.undo()
    second = given(sandbox, key, {"n": 2})
    assert night.main("state", "reset", f"tonalytica_results.query_{key}", "--yes").code == 0
    assert night.run("tonalytica").code == 0
    assert sorted(night.rows(RECORDS)) == [(key, first, 1), (key, second, 1)]


@pytest.mark.parametrize(
    ("template", "ran", "same"),
    [
        ("select 1", "select 1", True),
        ("select 1;", "select  1 /* by hand */", True),
        ("select 1", "select 1 LIMIT 1000", True),
        ("select a from t", "select TOP 1000 a from t", True),
        ("select a from t", "select a from t FETCH NEXT 1000 ROWS ONLY", True),
        ("select {{ n }} from t", "select 5 from t", True),
        ("select a;select b", "select a;\nselect b", True),
        ("select 1", "select 12", False),
        ("select a from t", "select a from t where b", False),
        ("select a from t where b", "select a from t", False),
        ("select {{ n }} from t", "select 5 from t where b", False),
    ],
)
def test_a_text_could_be_what_ran(template: str, ran: str, same: bool) -> None:
    assert _could_be(template, ran) is same
