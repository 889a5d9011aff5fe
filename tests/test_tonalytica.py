"""TONalytica end to end: what the sandbox's Redash holds is what the warehouse holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from conftest import Night, one_database
from redash import LABELS, assert_warehouse_is_the_truth
from reference import columns_of, differences, truth
from sandbox_process import SandboxProcess, start_sandbox
from sources.convert.spool import Spool
from sources.core.errors import ConfigurationError, CountMismatch
from sources.extract.sync import Walk
from sources.extract.table import Mode, Table
from sources.tonalytica import _spool_tagged
from sources.tonalytica.client import Client, Result
from sources.tonalytica.settings import ORDERS, Settings

METADATA = [name for name in LABELS if name != "query_results"]
CHILDREN = ["visualizations", "dashboards", "widgets"]


def query(sandbox: SandboxProcess, name: str) -> dict[str, Any]:
    return next(row for row in truth(sandbox, "queries") if row["name"] == name)


def edit(sandbox: SandboxProcess, table: str, op: str, key: int | None = None, **row: Any) -> dict[str, Any]:
    answer: dict[str, Any] = sandbox.control(
        "tonalytica", "POST", "edit", {"table": table, "op": op, "key": key, "row": row}
    )
    return answer


def give(sandbox: SandboxProcess, query_id: int, *rows: dict[str, Any], columns: Any = None) -> None:
    """Let a query be executed with these rows as its result."""
    edit(sandbox, "queries", "execute", query_id, rows=list(rows), **({"columns": columns} if columns else {}))


def only(night: Night, sandbox: SandboxProcess, *names: str, **settings: Any) -> list[int]:
    """Load nothing but the results of these queries; returns their ids."""
    ids = [query(sandbox, name)["id"] for name in names]
    night.set(results={"include": {"ids": ids}, **settings}, exclude=METADATA)
    return ids


def asked(sandbox: SandboxProcess) -> dict[str, int]:
    counts: dict[str, int] = sandbox.control("tonalytica", "GET", "stats")["by_path"]
    return counts


# -- contents -----------------------------------------------------------------------------------


def test_every_table_lands_value_by_value_also_after_a_day_of_edits(night: Night, sandbox: SandboxProcess) -> None:
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert assert_warehouse_is_the_truth(night, sandbox) > 70
    older = night.rows("SELECT query_id FROM tonalytica.query_results WHERE is_of_older_text")
    assert older == [(query(sandbox, "Edited, not re-run")["id"],)]
    limited = night.rows("SELECT query_id FROM tonalytica.query_results WHERE auto_limited")
    assert limited == [(query(sandbox, "Auto limit")["id"],)]
    for table in ran.tables.values():
        assert table["extracted"] == table["landed"] == table["live"], table
        assert table["vendor_count"] in (None, table["extracted"])

    sales, report, moon = (query(sandbox, name)["id"] for name in ("Sales Report", "sales report", "sales-report"))
    board = truth(sandbox, "dashboards")[0]["id"]
    edit(sandbox, "queries", "update", sales, query="select 'new text'", name="Отчёт 销售")
    edit(sandbox, "queries", "update", moon, is_archived=True)
    edit(sandbox, "queries", "delete", report)
    inserted = edit(sandbox, "queries", "insert", name="Brand new", query="select 1 as brand_new")["key"]
    edit(sandbox, "queries", "execute", inserted)
    edit(sandbox, "queries", "execute", query(sandbox, "Changes every run")["id"])
    edit(sandbox, "visualizations", "update", 5, name="renamed", options={"deep": [1, {"中": None}]})
    edit(sandbox, "dashboards", "update", board, name="renamed 仪表盘", tags=["a"])
    edit(sandbox, "dashboards", "insert", name="Another board")
    edit(sandbox, "widgets", "insert", dashboard_id=board, text="fresh")
    edit(sandbox, "widgets", "delete", truth(sandbox, "widgets")[0]["id"])
    edit(sandbox, "users", "insert", id=77, name="成员 新")
    edit(sandbox, "users", "update", 2, disabled_at="2026-01-01T00:00:00Z")
    edit(sandbox, "alerts", "update", 1, state="triggered", rearm=60)
    edit(sandbox, "alerts", "delete", 2)
    edit(sandbox, "query_snippets", "insert", id=77, trigger="new", snippet="select 2")
    edit(sandbox, "data_sources", "update", 1, pause_reason="moving", paused=1)
    assert night.run("tonalytica").code == 0
    assert assert_warehouse_is_the_truth(night, sandbox) > 70
    # what is gone is marked, and still there
    assert night.rows("SELECT id, _deleted_at IS NOT NULL FROM tonalytica.queries WHERE id = ?", report) == [
        (report, True)
    ]
    assert night.rows("SELECT count(*) FROM tonalytica.alerts WHERE id = 2 AND _deleted_at IS NOT NULL") == [(1,)]


def test_running_twice_changes_no_row_and_fetches_no_result_again(night: Night, sandbox: SandboxProcess) -> None:
    only(night, sandbox, "Every type", "Some thousand rows", "Ids above 2^53")
    night.set(exclude=CHILDREN)
    assert night.run("tonalytica").code == 0
    before, sent = night.contents(), asked(sandbox)
    ran = night.run("tonalytica")
    assert (ran.code, {table["status"] for table in ran.tables.values()}) == (0, {"unchanged"})
    assert night.contents() == before
    results = re.compile(r"/results|query_results")
    assert [path for path, count in asked(sandbox).items() if results.search(path) and count != sent[path]] == []


def test_pages_that_lose_rows_on_ties_still_give_every_query(night: Night) -> None:
    """With more than 250 queries, lists that are ordered by a column with ties lose some of them between two pages."""
    night.set(exclude=[*(name for name in METADATA if name != "queries"), "results"])
    with start_sandbox("--vendors", "tonalytica", "--scale", "1") as large:
        ready = large.tonalytica
        night.set(base_url=ready["base_url"], api_key=ready["api_key"])
        visible = [row["id"] for row in truth(large, "queries") if row["_where"] in ("list", "archive")]
        assert len(visible) > 250
        ran = night.run("tonalytica")
    assert (ran.code, ran.tables["tonalytica.queries"]["vendor_count"]) == (0, len(visible))
    assert sorted(night.rows("SELECT id FROM tonalytica.queries")) == sorted((each,) for each in visible)


def test_ties_are_really_lost_by_a_single_order(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the union of orders is what helps: without it the distinct ids are fewer than the vendor counts."""
    from sources.tonalytica import client

    monkeypatch.setattr(client, "ORDERS", ("created_at",))
    monkeypatch.setattr(client, "MORE_ORDERS", {})
    monkeypatch.setattr(client, "MORE_PAGE_SIZES", ())
    night.set(exclude=[*(name for name in METADATA if name != "queries"), "results"])
    with start_sandbox("--vendors", "tonalytica", "--scale", "1") as large:
        night.set(base_url=large.tonalytica["base_url"], api_key=large.tonalytica["api_key"])
        ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (4, "mismatch")
    assert ran.tables["tonalytica.queries"]["extracted"] < ran.tables["tonalytica.queries"]["vendor_count"]


def test_a_list_that_does_not_settle_is_read_once_a_run(night: Night, sandbox: SandboxProcess) -> None:
    drift = {"match": {"path": r"/api/queries\?"}, "times": -1, "do": {"count": 1}}
    sandbox.control("tonalytica", "POST", "faults", [drift])
    ran = night.run("tonalytica")
    failed = {name for name, table in ran.tables.items() if table["status"] in ("failed", "mismatch")}
    needs = {f"tonalytica.{name}" for name in ("queries", "query_versions", "visualizations")}
    assert (ran.code, failed) == (1, {*needs, "tonalytica_results.*"})
    assert "no order and no page size" in ran.tables["tonalytica.queries"]["error"]
    assert asked(sandbox)["GET /api/queries"] == len(ORDERS)


def lossy(monkeypatch: pytest.MonkeyPatch, *, shows: tuple[int, str] | None) -> tuple[Client, list[tuple[int, str]]]:
    """A client of a Redash of 600 queries, one of which is seen by one page size and order only; what it asked for."""
    client, sent = Client(Settings(base_url="http://127.0.0.1:1", api_key="key")), []

    def get(path: str, *, page: int, page_size: int, order: str) -> dict[str, Any]:
        sent.append((page_size, order))
        ids = [*range(1, 600), 600 if (page_size, order) == shows else 599]
        rows = [{"id": each} for each in ids[(page - 1) * page_size : page * page_size]]
        return {"count": len(ids), "page": page, "page_size": page_size, "results": rows}

    monkeypatch.setattr(client, "get", get)
    return client, sent


@pytest.mark.parametrize("shows", [(250, "-executed_at"), (250, "schedule"), (230, "name"), (170, "-name")])
def test_a_row_that_one_order_or_page_size_shows_is_found(shows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = lossy(monkeypatch, shows=shows)
    listed = client.list_all("queries")
    assert sorted(row["id"] for row in listed.rows) == list(range(1, 601))


def test_a_row_that_nothing_shows_ends_the_list_after_each_order_and_page_size(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent = lossy(monkeypatch, shows=None)
    with pytest.raises(CountMismatch, match="vendor 600, extracted 599"):
        client.list_all("queries")
    assert len(set(sent)) == 19
    assert len(sent) == 11 * 3 + 4 * 3 + 4 * 4, "no page of any order and size twice"


# -- what is gone, and what was -----------------------------------------------------------------


def test_a_deleted_query_is_marked_and_unmarked_when_it_is_back(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*CHILDREN, "results"])
    snippet = "SELECT snippet, _deleted_at IS NOT NULL FROM tonalytica.query_snippets WHERE id = 3"
    assert night.run("tonalytica").code == 0
    ((text, gone),) = night.rows(snippet)
    assert not gone
    edit(sandbox, "query_snippets", "delete", 3)
    ran = night.run("tonalytica")
    assert ran.tables["tonalytica.query_snippets"]["deleted"] == 1
    assert night.rows(snippet) == [(text, True)]
    first = night.rows("SELECT _deleted_at FROM tonalytica.query_snippets WHERE id = 3")
    edit(sandbox, "query_snippets", "update", 4, description="else")
    assert night.run("tonalytica").code == 0
    assert night.rows("SELECT _deleted_at FROM tonalytica.query_snippets WHERE id = 3") == first
    edit(sandbox, "query_snippets", "insert", id=3, snippet="back")
    assert night.run("tonalytica").code == 0
    assert night.rows(snippet) == [("back", False)]


def test_query_versions_keep_a_text_that_came_back_as_three_rows(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*(name for name in METADATA if name != "query_versions"), "results"])
    key, first = (query(sandbox, "Sales Report")[name] for name in ("id", "query"))
    before = datetime.now(UTC) - timedelta(seconds=1)
    for text in (first, "select 'B'", first):
        edit(sandbox, "queries", "update", key, query=text)
        assert night.run("tonalytica").code == 0
    rows = night.rows(
        "SELECT query, valid_from, valid_to FROM tonalytica.query_versions WHERE query_id = ? ORDER BY valid_from", key
    )
    assert [row[0] for row in rows] == [first, "select 'B'", first]
    (_, a_from, a_to), (_, b_from, b_to), (_, c_from, c_to) = rows
    assert (a_to, b_to, c_to) == (b_from, c_from, None)
    assert before < a_from < b_from < c_from < datetime.now(UTC)
    others = (
        "SELECT count(*), count(DISTINCT query_id), count(valid_to) FROM tonalytica.query_versions WHERE query_id <> ?"
    )
    ((rows_of_others, queries, closed),) = night.rows(others, key)
    assert (rows_of_others, closed) == (queries, 0)


def test_a_name_that_changes_makes_no_new_version_of_the_text(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*(name for name in METADATA if name != "query_versions"), "results"])
    key = query(sandbox, "Sales Report")["id"]
    assert night.run("tonalytica").code == 0
    edit(sandbox, "queries", "update", key, name="another name")
    assert night.run("tonalytica").code == 0
    assert night.rows("SELECT count(*) FROM tonalytica.query_versions WHERE query_id = ?", key) == [(1,)]


# -- what is seen -------------------------------------------------------------------------------


def test_hidden_queries_and_dashboards_come_with_probe_hidden(night: Night, sandbox: SandboxProcess) -> None:
    night.set(probe_hidden="true", exclude=["results"])
    assert night.run("tonalytica").code == 0
    tables = [name for name in LABELS if name != "query_results"]
    assert_warehouse_is_the_truth(
        night, sandbox, places=("list", "archive", "hidden"), tables=tables, results=lambda _: False
    )
    hidden = [row for row in truth(sandbox, "queries") if row["_where"] == "hidden"]
    assert night.rows("SELECT count(*) FROM tonalytica.queries WHERE found_in = 'hidden'") == [(len(hidden),)]
    assert len(hidden) > 3


def test_probe_of_many_ids_is_bounded_and_says_so(
    night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.set(probe_hidden="true", exclude=["results"])
    assert night.run("tonalytica").code == 0
    before = night.rows("SELECT id FROM tonalytica.queries WHERE _deleted_at IS NULL ORDER BY id")
    monkeypatch.setattr("sources.tonalytica.settings.MAX_PROBED", 3)
    ran = night.run("tonalytica")
    assert ran.code == 0, ran.out
    (note,) = [note for note in ran.tables["tonalytica.queries"]["notes"] if "probe_hidden" in note]
    assert note.startswith("probe_hidden asked for the 3 newest of ") and "older ids were not asked for" in note
    assert night.rows("SELECT id FROM tonalytica.queries WHERE _deleted_at IS NULL ORDER BY id") == before


def test_query_keys_alone_load_the_results_of_their_queries(night: Night, sandbox: SandboxProcess) -> None:
    wanted = [query(sandbox, "Every type"), query(sandbox, "Some thousand rows")]
    keys = sandbox.tonalytica["query_keys"]
    night.set(api_key=None, query_keys={str(row["id"]): keys[str(row["id"])] for row in wanted})
    ran = night.run("tonalytica")
    assert (ran.code, sorted(ran.tables)) == (
        0,
        sorted(["tonalytica.query_results", *(f"tonalytica_results.query_{row['id']}" for row in wanted)]),
    )
    ids = [row["id"] for row in wanted]
    assert_warehouse_is_the_truth(night, sandbox, results=lambda row: row["id"] in ids, tables=["query_results"])
    assert sandbox.control("tonalytica", "GET", "stats")["unexpected"] == []


def test_a_user_key_and_query_keys_together(night: Night, sandbox: SandboxProcess) -> None:
    """The query's own key is used for its result; one that no list shows comes through its key."""
    hidden = query(sandbox, "Partners query 0")
    keys = sandbox.tonalytica["query_keys"]
    (listed,) = only(night, sandbox, "Every type")
    night.set(
        results={"include": {"ids": [listed, hidden["id"]]}},
        query_keys={str(each): keys[str(each)] for each in (listed, hidden["id"])},
    )
    ran = night.run("tonalytica")
    assert ran.code == 0
    assert {name for name in ran.tables if "_results." in name} == {
        f"tonalytica_results.query_{each}" for each in (listed, hidden["id"])
    }
    assert any(path.startswith(f"GET /api/queries/{listed}/results/") for path in asked(sandbox))


@pytest.mark.parametrize("version", ["v9", "v10", "current"])
def test_dashboards_and_widgets_land_from_every_version(version: str, night: Night, sandbox: SandboxProcess) -> None:
    sandbox.control("tonalytica", "POST", "options", {"version": version})
    night.set(exclude=["results", "users", "data_sources", "alerts", "query_snippets"])
    assert night.run("tonalytica").code == 0
    tables = ["queries", "query_versions", "visualizations", "dashboards", "widgets"]
    assert_warehouse_is_the_truth(night, sandbox, tables=tables, results=lambda _: False)
    assert night.rows("SELECT count(*) > 40 FROM tonalytica.widgets") == [(True,)]


def test_an_analysts_key_sees_restricted_widgets_as_such(night: Night, sandbox: SandboxProcess) -> None:
    night.set(api_key=sandbox.tonalytica["other_keys"]["analyst"], exclude=["results"])
    assert night.run("tonalytica").code == 0
    ((restricted, texts),) = night.rows("SELECT count(*), count(text) FROM tonalytica.widgets WHERE restricted")
    assert (restricted > 0, texts) == (True, 0)


# -- executions ---------------------------------------------------------------------------------


def test_each_parameter_set_is_executed_and_told_apart(night: Night, sandbox: SandboxProcess) -> None:
    number, dates = query(sandbox, "Param: number"), query(sandbox, "Param: dynamic date range")
    enum = query(sandbox, "Param: enum, several values")
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})
    night.set(
        results={"include": {"ids": [number["id"]]}},
        exclude=METADATA,
        zone="Asia/Shanghai",
        executions=[
            {"query": number["id"], "parameters": {"n": 3}},
            {"query": number["id"], "parameters": {"n": 7}},
            {"query": dates["id"]},
            {"query": enum["id"], "parameters": {"kinds": ["nft_item"]}},
        ],
    )
    assert night.run("tonalytica").code == 0
    today = datetime.now(UTC) + timedelta(hours=8)
    period = {"start": f"{today - timedelta(days=30):%Y-%m-%d}", "end": f"{today:%Y-%m-%d}"}
    texts = {
        (number["id"], '{"n": 3}'): "select id, address from wallets order by id limit 3",
        (number["id"], '{"n": 7}'): "select id, address from wallets order by id limit 7",
        (dates["id"], json.dumps({"period": dict(sorted(period.items()))})): (
            f"select * from daily_stats where day >= '{period['start']}' and day < '{period['end']}'"
        ),
        (enum["id"], '{"kinds": ["nft_item"]}'): "select * from wallets where kind in ('nft_item')",
    }
    results = {row["query"]: row for row in truth(sandbox, "query_results")}
    for each in (number, dates, enum):
        expect = [
            row | {"_parameters": told}
            for (key, told), text in texts.items()
            if key == each["id"]
            for row in truth(sandbox, f"results/{results[text]['id']}")
        ]
        assert len(expect) > 2
        with duckdb.connect(str(night.warehouse), read_only=True) as connection:
            labels = ["id", "address", "amount", "asked", "_parameters"]
            assert differences(connection, "tonalytica_results", f"query_{each['id']}", expect, labels=labels) == []
    told = night.rows("SELECT query_id, parameters, result_id FROM tonalytica.query_results")
    assert {(key, parameters): result for key, parameters, result in told} == {
        key: results[text]["id"] for key, text in texts.items()
    }


@one_database
def test_a_column_that_only_rows_name_is_executed_too(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "InfluxDB: keys come and go")["id"]
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key}])
    assert night.run("tonalytica").code == 0
    assert ("x",) in night.rows(f"SELECT undeclared FROM tonalytica_results.query_{key}")


def test_a_result_with_our_own_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "body").write_text('[{"a": 1}, {"a": 2, "_parameters": "theirs"}]')
    result = Result(path=tmp_path / "body", envelope={}, start=0, end=44)
    walk = Walk(
        table=Table(name="q", mode=Mode.LATEST),
        spool=Spool(tmp_path / "spool"),
        until=datetime.now(UTC),
        full=False,
        state={},
    )
    with pytest.raises(ConfigurationError, match=r"has a column _parameters.*Give it another name"):
        _spool_tagged(walk, result, "{}", where="query 1")


def test_max_age_takes_a_cached_result_that_is_young_enough(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Changes every run")["id"]
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})
    edit(sandbox, "queries", "execute", key)
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key, "max_age": 3600}])
    table = f"SELECT run FROM tonalytica_results.query_{key}"
    assert night.run("tonalytica").code == 0
    assert night.rows(table) == [(2,)]
    night.set(executions=[{"query": key, "max_age": 0}])
    assert night.run("tonalytica").code == 0
    assert night.rows(table) == [(3,)]


def test_an_execution_is_not_cut_at_a_thousand_rows(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Auto limit")["id"]
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})
    night.set(exclude=METADATA, results={"include": {"ids": [key]}})
    assert night.run("tonalytica").code == 0
    count = f"SELECT count(*) FROM tonalytica_results.query_{key}"
    assert night.rows(count) == [(1000,)]
    assert night.rows("SELECT auto_limited FROM tonalytica.query_results") == [(True,)]
    night.set(executions=[{"query": key}])
    assert night.run("tonalytica", full=True).code == 0
    assert night.rows(count) == [(4000,)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Paused, never run", "the data source is paused"),
        ("Fails: no such table", "table_that_is_not_there"),
        ("Statement without rows", "returned no data"),
    ],
)
def test_an_execution_that_cannot_be_had_fails_alone(
    name: str, words: str, night: Night, sandbox: SandboxProcess
) -> None:
    sandbox.control("tonalytica", "POST", "options", {"job_seconds": 0.02})
    good, bad = query(sandbox, "Every type")["id"], query(sandbox, name)["id"]
    night.set(exclude=METADATA, results={"include": {"ids": [good]}}, executions=[{"query": bad}])
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (1, "failed")
    failed = ran.tables[f"tonalytica_results.query_{bad}"]
    assert (failed["status"], words in failed["error"]) == ("failed", True), failed["error"]
    assert "\n" not in failed["error"]
    assert night.rows(f"SELECT count(*) FROM tonalytica_results.query_{good}") == [(2,)]


def test_a_cancelled_execution_says_so(night: Night, sandbox: SandboxProcess) -> None:
    slow = query(sandbox, "Takes long")["id"]
    cancelled = {"job": {"id": "x", "status": 4, "error": "Query cancelled by user.", "result": None}}
    faults = [{"match": {"path": "/jobs/"}, "times": 1, "do": {"status": 200, "body": cancelled}}]
    sandbox.control("tonalytica", "POST", "faults", faults)
    night.set(exclude=METADATA, results={"include": {"ids": [slow]}}, executions=[{"query": slow}])
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert "Query cancelled by user." in ran.tables[f"tonalytica_results.query_{slow}"]["error"]


def test_a_lost_job_is_started_again(night: Night, sandbox: SandboxProcess) -> None:
    key = query(sandbox, "Changes every run")["id"]
    lost = {"status": 500, "body": {"message": "Internal Server Error"}}
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "/jobs/"}, "times": 2, "do": lost}])
    night.set(exclude=METADATA, results={"include": {"ids": [key]}}, executions=[{"query": key}])
    assert night.run("tonalytica").code == 0
    posts = [count for path, count in asked(sandbox).items() if path == f"POST /api/queries/{key}/results"]
    assert posts == [2]


# -- which results ------------------------------------------------------------------------------


@pytest.fixture
def tagged(sandbox: SandboxProcess) -> Iterator[SandboxProcess]:
    for name, tags in (("Sales Report", ["kpi"]), ("sales report", ["kpi", "old"]), ("sales-report", [])):
        edit(sandbox, "queries", "update", query(sandbox, name)["id"], tags=tags, data_source_id=1)
    yield sandbox


@pytest.mark.parametrize(
    ("results", "loaded"),
    [
        ({"include": {"tags": ["kpi"]}}, {"Sales Report", "sales report"}),
        ({"include": {"tags": ["kpi"]}, "exclude": {"tags": ["old"]}}, {"Sales Report"}),
        ({"include": {"tags": ["kpi"]}, "exclude": {"data_sources": [1]}}, set()),
    ],
)
def test_results_are_chosen_by_tag_and_source(
    results: dict[str, Any], loaded: set[str], night: Night, tagged: SandboxProcess
) -> None:
    night.set(results=results, exclude=METADATA)
    ran = night.run("tonalytica")
    assert ran.code == 0
    assert {name for name in ran.tables if "_results." in name} == {
        f"tonalytica_results.query_{query(tagged, name)['id']}" for name in loaded
    }


def test_kept_history_holds_every_result_apart(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    night.set(results={"include": {"ids": [key]}, "keep_history": [key]})
    results = []
    for rows in ([{"n": 1}, {"n": 1}], [{"n": 2}], [{"n": 3}, {"n": 4}]):
        edit_answer = edit(sandbox, "queries", "execute", key, rows=rows)
        results += [(edit_answer["result_id"], row["n"]) for row in rows]
        assert night.run("tonalytica").code == 0
    assert sorted(night.rows(f"SELECT _result_id, n FROM tonalytica_results.query_{key}")) == sorted(results)
    assert night.rows("SELECT count(*) FROM tonalytica.query_results") == [(3,)]


def test_the_same_rows_under_a_new_result_id_are_recorded_as_loaded(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    results = []
    for _ in range(2):
        results.append(edit(sandbox, "queries", "execute", key, rows=[{"n": 1}, {"n": 2}])["result_id"])
        assert night.run("tonalytica").code == 0
    assert results[0] != results[1]
    assert sorted(night.rows("SELECT result_id, row_count FROM tonalytica.query_results")) == [
        (result, 2) for result in sorted(results)
    ]


def test_a_vendors_own_column_of_that_name_is_not_lost(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    night.set(results={"include": {"ids": [key]}, "keep_history": [key]})
    give(sandbox, key, {"_result_id": "theirs", "_deleted_at": "x", "_dlt_load_id": "y"})
    assert night.run("tonalytica").code == 0
    columns = dict(night.rows(f"SELECT label, column_name FROM nightload.columns WHERE table_name = 'query_{key}'"))
    select = ", ".join(columns[label] for label in ("_result_id", "_deleted_at", "_dlt_load_id"))
    assert night.rows(f"SELECT {select} FROM tonalytica_results.query_{key}") == [("theirs", "x", "y")]


# -- results that change their shape -------------------------------------------------------------


def test_a_result_whose_numbers_widened_is_built_anew_and_it_is_told(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    give(sandbox, key, {"n": 1, "big": 2**62}, {"n": 2, "big": 1})
    assert night.run("tonalytica").code == 0
    give(sandbox, key, {"n": 1.5, "big": 2**64}, {"n": 2, "big": 1})
    assert night.run("tonalytica").code == 0
    assert sorted(night.rows(f"SELECT n, big FROM tonalytica_results.query_{key}")) == [(1.5, 2**64), (2.0, 1)]
    changes = "SELECT column_name, change, old_type, new_type FROM nightload.schema_changes WHERE old_type IS NOT NULL"
    assert sorted(night.rows(changes)) == [("big", "type", "bigint", "decimal"), ("n", "type", "bigint", "double")]


def test_a_new_column_comes_and_is_told(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    give(sandbox, key, {"n": 1})
    assert night.run("tonalytica").code == 0
    give(sandbox, key, {"n": 2, "新列": "x"})
    assert night.run("tonalytica").code == 0
    assert night.rows(f'SELECT n, "新列" FROM tonalytica_results.query_{key}') == [(2, "x")]
    changes = (
        "SELECT table_name, column_name, change, new_type FROM nightload.schema_changes WHERE column_name = '新列'"
    )
    assert night.rows(changes) == [(f"query_{key}", "新列", "new column", "text")]


def test_a_type_that_flips_to_text_is_refused_with_the_way_out_which_works(
    night: Night, sandbox: SandboxProcess
) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    table = f"tonalytica_results.query_{key}"
    give(sandbox, key, {"n": 1, "other": "a"})
    assert night.run("tonalytica").code == 0
    give(sandbox, key, {"n": "n/a", "other": "b"})
    ran = night.run("tonalytica")
    assert ran.code == 1
    error = ran.tables[table]["error"]
    for part in (table, "column n ", "bigint", "text", f"nightload run --full --table {table}"):
        assert part in error, error
    assert night.rows(f"SELECT n, other FROM {table}") == [(1, "a")]
    assert night("run", "--full", "--table", table).code == 0
    assert night.rows(f"SELECT n, other FROM {table}") == [("n/a", "b")]
    assert night.run("tonalytica").code == 0


def test_numbers_in_a_column_that_is_text_stay_text(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    give(sandbox, key, {"id": "007"})
    assert night.run("tonalytica").code == 0
    give(sandbox, key, {"id": 7}, {"id": "008"})
    assert night.run("tonalytica").code == 0
    assert sorted(night.rows(f"SELECT id FROM tonalytica_results.query_{key}")) == [("008",), ("7",)]


def test_no_rows_where_rows_were_is_refused_until_it_is_allowed(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    table = f"tonalytica_results.query_{key}"
    columns = [{"name": "n", "friendly_name": "n", "type": "integer"}]
    give(sandbox, key, {"n": 1}, {"n": 2}, columns=columns)
    assert night.run("tonalytica").code == 0
    give(sandbox, key, columns=columns)
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert f"--allow-empty {table}" in ran.tables[table]["error"]
    assert night.rows(f"SELECT count(*) FROM {table}") == [(2,)]
    assert night.run("tonalytica").code == 1  # still, not only once
    assert night.run("tonalytica", allow_empty=[table]).code == 0
    assert night.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    assert night.run("tonalytica").code == 0


def test_a_list_that_became_empty_is_refused_until_it_is_allowed(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*(name for name in METADATA if name != "query_snippets"), "results"])
    assert night.run("tonalytica").code == 0
    for row in truth(sandbox, "query_snippets"):
        edit(sandbox, "query_snippets", "delete", row["id"])
    live = "SELECT count(*) FROM tonalytica.query_snippets WHERE _deleted_at IS NULL"
    assert (night.run("tonalytica").code, night.rows(live)) == (1, [(6,)])
    assert night.run("tonalytica", allow_empty=["tonalytica.query_snippets"]).code == 0
    assert night.rows(live) == [(0,)]


# -- names --------------------------------------------------------------------------------------


def test_every_nasty_label_has_a_column_of_its_own_that_the_directory_finds(
    night: Night, sandbox: SandboxProcess
) -> None:
    names, cases, twice = only(
        night, sandbox, "Spaces, Capitals, 中文 columns", "Columns that differ in case", "Duplicate column names"
    )
    assert night.run("tonalytica").code == 0
    assert_warehouse_is_the_truth(night, sandbox, results=lambda row: row["id"] in (names, cases, twice), tables=[])
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        columns = {
            label: name for label, (name, _) in columns_of(connection, "tonalytica_results", f"query_{names}").items()
        }
        assert columns["总锁仓量"] == "总锁仓量"
        assert columns["Pool Name"] == "pool_name"
        assert len(set(columns.values())) == len(columns) == 27
        assert all(len(name.encode()) <= 63 for name in columns.values())
        assert columns["_dlt_id"] != "_dlt_id"
    assert night.rows(f"SELECT DISTINCT table_label FROM nightload.columns WHERE table_name = 'query_{names}'") == [
        ("Spaces, Capitals, 中文 columns",)
    ]


def test_a_label_keeps_its_column_when_another_comes_that_wants_it(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, "Sales Report")
    give(sandbox, key, {"Amount": 1})
    assert night.run("tonalytica").code == 0
    give(sandbox, key, {"amount": 2, "Amount": 1, "AMOUNT": 3})
    assert night.run("tonalytica").code == 0
    columns = dict(night.rows(f"SELECT label, column_name FROM nightload.columns WHERE table_name = 'query_{key}'"))
    assert columns["Amount"] == "amount"
    select = ", ".join(columns[label] for label in ("Amount", "amount", "AMOUNT"))
    assert night.rows(f"SELECT {select} FROM tonalytica_results.query_{key}") == [(1, 2, 3)]


def test_types_that_lie_widen_and_lose_nothing(night: Night, sandbox: SandboxProcess) -> None:
    lying, untyped, big, beyond, zeros = only(
        night,
        sandbox,
        "Types that lie",
        "No column has a type",
        "Ids above 2^53",
        "Supply beyond 64 bits",
        "Leading zeros",
    )
    assert night.run("tonalytica").code == 0
    ids = (lying, untyped, big, beyond, zeros)
    assert_warehouse_is_the_truth(night, sandbox, results=lambda row: row["id"] in ids, tables=[])
    rows = night.rows("SELECT table_name, label, data_type FROM nightload.columns WHERE dataset = 'tonalytica_results'")
    kinds = {(table, label): kind for table, label, kind in rows}
    assert {
        label: kinds[f"query_{lying}", label] for label in ("int_with_float", "int_with_text", "date_with_junk")
    } == {
        "int_with_float": "double",
        "int_with_text": "text",
        "date_with_junk": "text",
    }
    assert kinds[f"query_{untyped}", "ints"] == kinds[f"query_{untyped}", "late"] == "bigint"
    assert kinds[f"query_{untyped}", "bools"] == "bool"
    assert kinds[f"query_{untyped}", "objects"] == "json"
    assert kinds[f"query_{big}", "big"] == "bigint"
    assert kinds[f"query_{beyond}", "supply"] == "decimal"
    assert {kinds[f"query_{zeros}", label] for label in ("code", "zip", "phone")} == {"text"}


def test_no_key_of_the_vendor_reaches_the_warehouse(night: Night, sandbox: SandboxProcess) -> None:
    night.set(probe_hidden="true", results={"include": {"ids": [query(sandbox, "Every type")["id"]]}})
    assert night.run("tonalytica").code == 0
    assert b"CANARY" not in night.warehouse.read_bytes()
    for schema, table in night.rows("SELECT schema_name, table_name FROM duckdb_tables()"):
        assert night.rows(f"""SELECT * FROM "{schema}"."{table}" AS t WHERE t::VARCHAR LIKE '%CANARY%'""") == []
