"""A warehouse moves to the other database: rows, history, cursors, ledger; the next night goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Database, Night
from postgres_server import execute, fresh_database
from redash import assert_warehouse_is_the_truth
from reference import truth
from sandbox_process import SandboxProcess
from test_run import edit


def url_of(night: Night) -> str:
    return night.database.url or f"duckdb:///{night.warehouse}"


@pytest.fixture
def other(night: Night, tmp_path: Path, request: pytest.FixtureRequest) -> Night:
    """A night on the other database, with a home of its own and nothing in it."""
    home = tmp_path / "other"
    home.mkdir()
    if night.database.url is not None:
        return Night(home=home, settings=dict(night.settings))
    opened = fresh_database(request.getfixturevalue("postgres"), "nightload_other")
    request.addfinalizer(lambda: opened.__exit__(None, None, None))
    return Night(home=home, settings=dict(night.settings), database=Database.at(opened.__enter__()))


def test_all_that_was_loaded_moves_and_the_next_night_goes_on_from_there(
    night: Night, other: Night, sandbox: SandboxProcess
) -> None:
    assert night.run().code == 0
    query = truth(sandbox, "queries")[0]["id"]
    edit(sandbox, "queries", query, query="select 'a second text'")
    sandbox.control("tonalytica", "POST", "edit", {"table": "query_snippets", "op": "delete", "key": 2})
    assert night.run().code == 0
    ran = other.main("copy", "--from", url_of(night), "--to", url_of(other), "--json")
    assert (ran.code, ran.err) == (0, "")
    counts = {table["table"]: table["rows"] for table in ran.json["tables"]}
    assert counts["tonalytica.query_snippets"] == 6
    assert counts["nightload.runs"] == 2
    before, after = night.contents(), other.contents()
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    plain = [name for name in before if not name.endswith(("_dlt_pipeline_state", "_dlt_version"))]
    assert [name for name in plain if not _same(before[name], after[name])] == []
    assert other.rows("SELECT run_id, status FROM nightload.runs ORDER BY 1") == night.rows(
        "SELECT run_id, status FROM nightload.runs ORDER BY 1"
    )
    assert json.loads(other.main("status", "--json").out)["last_run"]["status"] == "ok"

    # nothing has changed at the vendors': nothing is loaded again, so the cursors came along
    ran = other.run()
    assert ran.code == 0
    loaded = {name for name, table in ran.tables.items() if table["status"] not in ("unchanged", "warning")}
    assert loaded == {
        name for name, table in night.run().tables.items() if table["status"] not in ("unchanged", "warning")
    }
    edit(sandbox, "queries", query, query="select 'a third text'")
    ran = other.run("tonalytica")
    assert ran.code == 0
    assert other.rows(f"SELECT count(*) FROM tonalytica.query_versions WHERE query_id = {query}") == [(3,)]
    assert other.rows("SELECT id FROM tonalytica.query_snippets WHERE _deleted_at IS NOT NULL") == [(2,)]
    assert_warehouse_is_the_truth(other, sandbox)


def _same(one: list[tuple[object, ...]], other: list[tuple[object, ...]]) -> bool:
    """The same rows; JSON is the same however it is written."""
    return sorted(map(_row, one)) == sorted(map(_row, other))


def _row(row: tuple[object, ...]) -> str:
    return repr([_value(value) for value in row])


def _value(value: object) -> object:
    if isinstance(value, str) and value[:1] in '{["':
        try:
            return json.dumps(json.loads(value), sort_keys=True)
        except ValueError:
            pass
    return value


def test_a_warehouse_that_is_not_empty_is_not_copied_over(night: Night, other: Night) -> None:
    assert night.run("tune").code == 0
    assert other.run("tune").code == 0
    before = other.contents()
    ran = other.main("copy", "--from", url_of(night), "--to", url_of(other))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is not empty" in ran.err
    assert other.contents() == before


def test_a_copy_that_loses_a_row_is_seen_and_not_published(
    night: Night, other: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.warehouse.duckdb.warehouse import DuckDbSession
    from pipelines.warehouse.postgres.warehouse import PostgresSession

    assert night.run("tune").code == 0
    for session in (DuckDbSession, PostgresSession):
        load = session.load

        def losing(self: object, dataset: str, table: str, *told: object, _load: object = load) -> None:
            _load(self, dataset, table, *told)  # type: ignore[operator]
            if table == "advertiser":
                self.change("DELETE FROM tune.advertiser WHERE id = (SELECT max(id) FROM tune.advertiser)")  # type: ignore[attr-defined]

        monkeypatch.setattr(session, "load", losing)
    ran = other.main("copy", "--from", url_of(night), "--to", url_of(other))
    assert ran.code == 1
    assert "tune.advertiser disagree" in ran.err
    if other.database.url is None:
        assert not other.warehouse.exists()
    else:
        assert execute(other.database.url, "SELECT 1 FROM pg_namespace WHERE nspname = 'tune'") == []


@pytest.mark.parametrize("missing", ["duckdb:///nowhere.duckdb", "duckdb:///empty.duckdb"])
def test_a_source_that_holds_nothing_is_told(file_night: Night, missing: str) -> None:
    import duckdb

    duckdb.connect(str(file_night.home / "empty.duckdb")).close()
    ran = file_night.main("copy", "--from", missing, "--to", "duckdb:///new.duckdb")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "nothing of nightload's" in ran.err or "no warehouse yet" in ran.err
