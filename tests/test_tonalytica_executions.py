"""TONalytica: executions, one by one, with either kind of key."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Night, one_database
from reference import truth
from sandbox_process import SandboxProcess
from test_tonalytica import METADATA, asked, edit, query


@pytest.fixture(autouse=True)
def quick(sandbox: SandboxProcess) -> None:
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})


def execute(night: Night, key: int, *sets: dict[str, Any]) -> str:
    """Let nothing but this query be loaded, with these parameters; returns the name of its table."""
    executions = [{"query": key, "parameters": parameters} for parameters in sets]
    night.set(results={"include": {"ids": [key]}}, exclude=METADATA, executions=executions)
    return f"tonalytica_results.query_{key}"


# -- jobs ---------------------------------------------------------------------------------------


@one_database
def test_a_failing_job_that_answers_500_once_is_not_run_again(night: Night, sandbox: SandboxProcess) -> None:
    """The server has that race while the error of a job is being written."""
    sandbox.control("tonalytica", "POST", "options", {"job_race": 1})
    bad = query(sandbox, "Fails: no such table")["id"]
    night.set(exclude=METADATA, results={"include": {"ids": [bad]}}, executions=[{"query": bad}])
    ran = night.run("tonalytica")
    assert "table_that_is_not_there" in ran.tables[f"tonalytica_results.query_{bad}"]["error"]
    assert asked(sandbox)[f"POST /api/queries/{bad}/results"] == 1


@one_database
@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"id": "x", "status": 3, "error": "", "result": None}, "the vendor reports success without a result"),
        (
            {"id": "x", "status": 3, "error": "", "result": None, "query_result_id": None},
            "the vendor reports success without a result",
        ),
        ({"id": "x", "status": 3, "error": None, "result": {"id": 1}}, "the vendor reports success without a result"),
        ({"id": "x", "status": 3}, "the vendor reports success without a result"),
        ({"id": "x", "status": None, "error": ""}, "has not the shape of a Redash's"),
        (None, "has not the shape of a Redash's"),
    ],
)
def test_a_job_without_a_result_fails_its_table_alone(
    job: Any, words: str, night: Night, sandbox: SandboxProcess
) -> None:
    good, bad = query(sandbox, "Every type")["id"], query(sandbox, "Changes every run")["id"]
    faults = [{"match": {"path": "/jobs/"}, "times": -1, "do": {"status": 200, "body": {"job": job}}}]
    sandbox.control("tonalytica", "POST", "faults", faults)
    night.set(exclude=METADATA, results={"include": {"ids": [good]}}, executions=[{"query": bad}])
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert words in ran.tables[f"tonalytica_results.query_{bad}"]["error"]
    assert ran.tables[f"tonalytica_results.query_{good}"]["status"] == "ok"


@one_database
def test_a_job_that_was_never_started_is_still_queued(night: Night, sandbox: SandboxProcess) -> None:
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 1000})
    key = query(sandbox, "Changes every run")["id"]
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key}], execution_timeout=1)
    error = night.run("tonalytica").tables[f"tonalytica_results.query_{key}"]["error"]
    assert "the execution is still queued after 1 s" in error
    assert "faster" not in error


@one_database
def test_a_job_that_was_started_and_does_not_end_is_too_slow(night: Night, sandbox: SandboxProcess) -> None:
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 2})
    key = query(sandbox, "Changes every run")["id"]
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key}], execution_timeout=1)
    error = night.run("tonalytica").tables[f"tonalytica_results.query_{key}"]["error"]
    assert "the execution did not end within 1 s" in error
    assert "Make the query faster" in error


# -- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v9", "v10", "current"])
def test_a_query_key_executes_with_other_parameters_than_the_defaults(
    version: str, night: Night, sandbox: SandboxProcess
) -> None:
    """The server gives such a key no result of them by its id, and the same request, once more, from the cache."""
    sandbox.control("tonalytica", "POST", "options", {"version": version})
    row = query(sandbox, "Param: number")
    table = execute(night, row["id"], {"n": 3}, {"n": 11}, {})
    night.set(api_key=None, query_keys={str(row["id"]): sandbox.tonalytica["query_keys"][str(row["id"])]})
    ran = night.run("tonalytica")
    assert (ran.code, ran.tables[table]["status"]) == (0, "ok"), ran.tables[table]["error"]
    results = {each["query"]: each for each in truth(sandbox, "query_results")}
    expect, records = [], []
    for n in (3, 11, row["options"]["parameters"][0]["value"]):
        result = results[f"select id, address from wallets order by id limit {n}"]
        expect += [(f'{{"n": {n}}}', each["address"]) for each in truth(sandbox, f"results/{result['id']}")]
        records.append((f'{{"n": {n}}}', result["id"], result["row_count"]))
    assert sorted(night.rows(f"SELECT _parameters, address FROM {table}")) == sorted(expect)
    told = "SELECT parameters, result_id, row_count FROM tonalytica.query_results"
    assert sorted(night.rows(told)) == sorted(records)
    assert sandbox.control("tonalytica", "GET", "stats")["unexpected"] == []


@one_database
def test_a_query_key_takes_no_right_away_from_the_user_key(night: Night, sandbox: SandboxProcess) -> None:
    """Only a user may execute a query with a parameter of type text, and read the result of an edited query."""
    unsafe, edited = query(sandbox, "Param: two of them")["id"], query(sandbox, "Edited, not re-run")["id"]
    keys = sandbox.tonalytica["query_keys"]
    table = execute(night, unsafe, {"needle": "b"})
    night.set(
        results={"include": {"ids": [edited]}}, query_keys={str(each): keys[str(each)] for each in (unsafe, edited)}
    )
    ran = night.run("tonalytica")
    assert ran.code == 0, ran.out
    assert night.rows(f"SELECT DISTINCT _parameters FROM {table}") == [('{"needle": "b", "上限": 5}',)]
    assert night.rows(f"SELECT count(*) > 0 FROM tonalytica_results.query_{edited}") == [(True,)]


@one_database
def test_a_query_key_helps_where_the_user_key_may_not(night: Night, sandbox: SandboxProcess) -> None:
    hidden = query(sandbox, "Partners query 0")["id"]
    table = execute(night, hidden, {})
    night.set(query_keys={str(hidden): sandbox.tonalytica["query_keys"][str(hidden)]})
    assert night.run("tonalytica").code == 0
    assert night.rows(f"SELECT count(*) > 0 FROM {table}") == [(True,)]


# -- what comes ---------------------------------------------------------------------------------


def test_an_execution_that_returns_columns_and_no_rows_empties_the_table(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Sales Report")["id"]
    rows = [{"n": each} for each in range(150)]
    columns = [{"name": "n", "friendly_name": "n", "type": "integer"}]
    text = f"SELECT count(*) FROM tonalytica_results.query_{key}"
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key, "max_age": -1}])
    for came in (rows, rows[:5], []):
        edit(sandbox, "queries", "execute", key, rows=came, columns=columns)
        ran = night.run("tonalytica")
        assert ran.code == 0, ran.out
        assert night.rows(text) == [(len(came),)]


def test_an_execution_that_returns_no_column_either_is_refused(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Sales Report")["id"]
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key, "max_age": -1}])
    edit(sandbox, "queries", "execute", key, rows=[{"n": 1}])
    assert night.run("tonalytica").code == 0
    edit(sandbox, "queries", "execute", key, rows=[])
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert "--allow-empty" in ran.tables[f"tonalytica_results.query_{key}"]["error"]
    assert night.rows(f"SELECT n FROM tonalytica_results.query_{key}") == [(1,)]


def test_a_parameter_set_that_fails_is_named_and_fails_alone(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Param: number")["id"]
    table = execute(night, key, {"n": 3}, {"n": 4}, {"n": 5})
    sets = f"SELECT _parameters, count(*) FROM {table} GROUP BY 1 ORDER BY 1"
    assert night.run("tonalytica").code == 0
    before = dict(night.rows(sets))
    # one set is bad and new, one fails this time, one is gone from the configuration, one is new
    execute(night, key, {"n": 3}, {"n": "many"}, {"n": 4}, {"n": 6})
    fault = {"status": 400, "body": {"job": {"status": 4, "error": "no room for these"}}}
    faults = [{"match": {"path": f"/{key}/results", "method": "POST"}, "skip": 2, "times": 1, "do": fault}]
    sandbox.control("tonalytica", "POST", "faults", faults)
    ran = night.run("tonalytica")
    report = ran.tables[table]
    assert (ran.code, report["status"]) == (1, "failed")
    assert 'parameters {"n": "many"}' in report["error"]
    assert "incompatible with their definitions: n" in report["error"]
    assert any('parameters {"n": 4}' in note and "no room for these" in note for note in report["notes"])
    after = dict(night.rows(sets))
    assert set(after) == {'{"n": 3}', '{"n": 4}', '{"n": 6}'}
    assert {each: after[each] for each in ('{"n": 3}', '{"n": 4}')} == {
        each: before[each] for each in ('{"n": 3}', '{"n": 4}')
    }
    recorded = night.rows("SELECT parameters, row_count FROM tonalytica.query_results")
    assert {told: rows for told, rows in recorded if told in after} == after
    # the whole again
    execute(night, key, {"n": 4}, {"n": 6})
    assert night.run("tonalytica").code == 0
    assert dict(night.rows(sets)) == {each: after[each] for each in ('{"n": 4}', '{"n": 6}')}


@one_database
def test_a_parameter_set_that_fails_the_first_time_leaves_the_others_loaded(
    night: Night, sandbox: SandboxProcess
) -> None:
    key = query(sandbox, "Param: number")["id"]
    table = execute(night, key, {"m": 3}, {"n": 4})
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert "the query has no parameter m" in ran.tables[table]["error"]
    assert night.rows(f"SELECT DISTINCT _parameters FROM {table}") == [('{"n": 4}',)]


@one_database
def test_the_rows_of_a_set_that_comes_empty_go_while_another_fails(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Param: number")["id"]
    table = execute(night, key, {"n": 3}, {"n": 4})
    assert night.run("tonalytica").code == 0
    columns = [{"name": name, "friendly_name": name, "type": None} for name in ("id", "address")]
    empty = {"query_result": {"id": 9999, "query": "", "data": {"columns": columns, "rows": []}}}
    post = {"path": f"/{key}/results", "method": "POST"}
    refused = {"status": 400, "body": {"job": {"status": 4, "error": "no room"}}}
    faults = [
        {"match": post, "times": 1, "do": {"status": 200, "body": empty}},
        {"match": post, "skip": 1, "times": 1, "do": refused},
    ]
    sandbox.control("tonalytica", "POST", "faults", faults)
    ran = night.run("tonalytica")
    assert "no room" in ran.tables[table]["error"]
    assert night.rows(f"SELECT DISTINCT _parameters FROM {table}") == [('{"n": 4}',)]
