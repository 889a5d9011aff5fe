"""What the database refuses of one table: that table fails alone, says why and stays as it was."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import duckdb
import pytest
from dlt.destinations.impl.duckdb.duck import DuckDbCopyJob

from conftest import Database, Night
from pipelines.warehouse.postgres.dlt_destination import BinaryCopyJob
from reference import truth
from sandbox_process import SandboxProcess
from test_run import edit
from test_tonalytica import METADATA, give, only

RESULTS = "tonalytica_results"
GOOD, BAD = "Every type", "Sales Report"

on_postgres = pytest.mark.parametrize("database", ["postgres"], indirect=True)
on_duckdb = pytest.mark.parametrize("database", ["duckdb"], indirect=True)


WIDE = "DO $$ BEGIN RAISE EXCEPTION 'row is too big: size 9504, maximum size 8160' USING ERRCODE = '54000'; END $$"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, database: Database) -> Callable[[str], AbstractContextManager[str]]:
    """Inside, each database refuses the rows of a table; what is said of it."""

    @contextmanager
    def refuse(table: str) -> Iterator[str]:
        kind: Any = DuckDbCopyJob if database.url is None else BinaryCopyJob
        run = kind.run

        def refused(self: Any) -> None:
            if self.load_table_name != table:
                run(self)
            elif database.url is None:
                raise duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data of size 8.0 KiB")
            else:
                self._job_client.sql_client.execute_sql(WIDE)

        with monkeypatch.context() as patched:
            patched.setattr(kind, "run", refused)
            yield "too little memory for these rows" if database.url is None else "wider than a page of Postgres"

    return refuse


def ran(night: Night, *, good: str, bad: str) -> str:
    """Run; the error of the one table that fails."""
    found = night.run("tonalytica")
    (vendor,) = found.json["vendors"]
    assert (found.code, vendor["status"], vendor["error"]) == (1, "failed", None), found.out
    tables = found.tables
    assert tables[good]["status"] in ("ok", "unchanged", "warning")
    assert (tables[bad]["status"], tables[bad]["landed"]) == ("failed", None)
    error: str = tables[bad]["error"]
    assert f"({bad})" in error
    assert "\n" not in error
    return error


def names(good: int, bad: int) -> dict[str, str]:
    return {"good": f"{RESULTS}.query_{good}", "bad": f"{RESULTS}.query_{bad}"}


def labels(night: Night, table: str) -> set[str]:
    rows = night.rows(f"SELECT label FROM nightload.columns WHERE dataset || '.' || table_name = '{table}'")
    return {label for (label,) in rows}


def test_a_refused_table_fails_alone_and_comes_when_its_rows_fit(
    night: Night, sandbox: SandboxProcess, refusing: Callable[[str], AbstractContextManager[str]]
) -> None:
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    exists = f"SELECT 1 FROM information_schema.tables WHERE table_name = 'query_{bad}'"
    give(sandbox, bad, {"id": 1})
    with refusing(f"query_{bad}") as told:
        for _ in range(2):  # the same answer is no news of the vendor's, and is read again nevertheless
            error = ran(night, **tables)
            assert told in error
            assert "Out of Memory Error" not in error
            assert night.look(f"SELECT count(*) > 0 FROM {tables['good']}") == [(True,)]
            assert night.look(exists) == []
            assert labels(night, tables["bad"]) == set()
    assert night.run("tonalytica").code == 0
    assert night.look(f"SELECT id FROM {tables['bad']}") == [(1,)]
    give(sandbox, bad, {"id": 2, "n": 1})
    with refusing(f"query_{bad}"):
        ran(night, **tables)
    assert night.look(f"SELECT id FROM {tables['bad']}") == [(1,)]
    assert labels(night, tables["bad"]) & {"id", "n"} == {"id"}
    give(sandbox, bad, {"id": 3, "n": "text"})
    assert night.run("tonalytica").code == 0
    assert night.look(f"SELECT id, n FROM {tables['bad']}") == [(3, "text")]


def test_a_refused_result_is_recorded_only_once_it_is_loaded(
    night: Night, sandbox: SandboxProcess, refusing: Callable[[str], AbstractContextManager[str]]
) -> None:
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    records = f"SELECT row_count FROM tonalytica.query_results WHERE table_name = 'query_{bad}' ORDER BY 1"
    everything = "SELECT DISTINCT table_name FROM tonalytica.query_results"
    give(sandbox, bad, {"id": 1}, {"id": 2}, {"id": 3})
    with refusing(f"query_{bad}"):
        for _ in range(2):
            ran(night, **tables)
            assert night.look(records) == []
            assert night.look(everything) == [(f"query_{good}",)]
    assert night.run("tonalytica").code == 0  # the same result
    assert night.look(records) == [(3,)]
    give(sandbox, bad, {"id": 4, "n": 1}, {"id": 5, "n": 1})
    with refusing(f"query_{bad}"):
        ran(night, **tables)
    assert night.look(records) == [(3,)]
    give(sandbox, bad, {"id": 6})  # another one
    assert night.run("tonalytica").code == 0
    assert night.look(records) == [(1,), (3,)]


@on_postgres
def test_a_row_wider_than_a_page_is_said_to_be_so(night: Night, sandbox: SandboxProcess) -> None:
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    give(sandbox, bad, {"id": 1, "text": "short"})
    assert night.run("tonalytica").code == 0
    night.write(f"ALTER TABLE {tables['bad']} ALTER COLUMN text SET STORAGE PLAIN")  # as hundreds of short texts are
    give(sandbox, bad, {"id": 2, "text": secrets.token_hex(5000)})
    assert "a row is wider than a page of Postgres" in ran(night, **tables)
    assert night.look(f"SELECT id, text FROM {tables['bad']}") == [(1, "short")]


@on_postgres
def test_a_row_of_390_texts_of_22_characters_fails_its_table_alone(night: Night, sandbox: SandboxProcess) -> None:
    good, bad = only(night, sandbox, GOOD, BAD)
    give(sandbox, bad, {"id": 1, **{f"c{number}": f"x{number:021}" for number in range(390)}})
    error = ran(night, **names(good, bad))
    assert "wider than a page of Postgres" in error


@on_postgres
def test_more_columns_than_postgres_has_fail_their_table_alone(night: Night, sandbox: SandboxProcess) -> None:
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    give(sandbox, bad, {"id": 1})
    assert night.run("tonalytica").code == 0
    # columns that were dropped count, too
    many = ", ".join(f"ADD COLUMN d{number} int" for number in range(1590))
    gone = ", ".join(f"DROP COLUMN d{number}" for number in range(1590))
    night.write(f"ALTER TABLE {tables['bad']} {many}", f"ALTER TABLE {tables['bad']} {gone}")
    give(sandbox, bad, {"id": 2, **{f"c{number}": number for number in range(20)}})
    for _ in range(2):
        assert "a table of Postgres has at most 1,600 columns" in ran(night, **tables)
        assert night.look(f"SELECT id FROM {tables['bad']}") == [(1,)]
    give(sandbox, bad, {"id": 3})
    assert night.run("tonalytica").code == 0
    assert night.look(f"SELECT id FROM {tables['bad']}") == [(3,)]


@on_postgres
def test_an_index_row_that_is_too_long_fails_its_table_alone(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*(name for name in METADATA if name not in ("alerts", "query_snippets")), "results"])
    assert night.run("tonalytica").code == 0
    before = night.look("SELECT id, snippet FROM tonalytica.query_snippets ORDER BY 1")
    night.write("CREATE INDEX mine ON tonalytica.query_snippets (snippet)")
    text = secrets.token_hex(1400)
    edit(sandbox, "query_snippets", 1, snippet=text)
    (alert, *_) = (row["id"] for row in truth(sandbox, "alerts"))
    edit(sandbox, "alerts", alert, name="renamed")
    error = ran(night, good="tonalytica.alerts", bad="tonalytica.query_snippets")
    assert "a key is longer than its index holds" in error
    assert "mine" in error
    assert night.look("SELECT id, snippet FROM tonalytica.query_snippets ORDER BY 1") == before
    assert night.look(f"SELECT name FROM tonalytica.alerts WHERE id = {alert}") == [("renamed",)]
    night.write("DROP INDEX tonalytica.mine")
    assert night.run("tonalytica").code == 0
    assert night.look("SELECT snippet FROM tonalytica.query_snippets WHERE id = 1") == [(text,)]


@on_postgres
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("invalid memory alloc request size 1073741824", "XX000", "a value is larger than Postgres holds"),
        ("string too long to represent as jsonb string", "54000", "a value is larger than Postgres holds"),
        ("something else", "23514", "Postgres refuses these rows"),
    ],
)
def test_the_reason_of_a_refused_table_is_the_servers(
    words: str, code: str, told: str, night: Night, sandbox: SandboxProcess
) -> None:
    """The server's own words and codes, raised where they would be: a value of 1 GB is more than a test may take."""
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    give(sandbox, bad, {"id": 1})
    assert night.run("tonalytica").code == 0
    night.write(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{words}' USING ERRCODE = '{code}'; END $$",
        f"CREATE TRIGGER refuse BEFORE INSERT ON {tables['bad']} EXECUTE FUNCTION refuse()",
    )
    give(sandbox, bad, {"id": 2})
    error = ran(night, **tables)
    assert told in error
    assert words in error
    assert night.look(f"SELECT id FROM {tables['bad']}") == [(1,)]


def test_rows_that_a_changed_table_does_not_take_fail_it_alone_and_replace_nothing(
    night: Night, sandbox: SandboxProcess
) -> None:
    """Of a table that is replaced, and of one into which rows are merged."""
    good, bad = only(night, sandbox, GOOD, BAD)
    night.set(exclude=[name for name in METADATA if name != "alerts"])
    merged = "tonalytica.alerts"
    for table, column in ((names(good, bad)["bad"], "id"), (merged, "rearm")):
        give(sandbox, bad, {"id": 1})
        assert night.run("tonalytica").code == 0
        before = night.look(f"SELECT {column} FROM {table} ORDER BY 1")
        night.write(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE SMALLINT")
        if table == merged:
            edit(sandbox, "alerts", truth(sandbox, "alerts")[0]["id"], rearm=70_000)
        else:
            give(sandbox, bad, {"id": 70_000})
        assert "refuses these rows" in ran(night, good=names(good, bad)["good"], bad=table)
        assert night.look(f"SELECT {column} FROM {table} ORDER BY 1") == before
        night.write(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE BIGINT")
        assert night.run("tonalytica").code == 0
        assert night.look(f"SELECT max({column}) FROM {table}") == [(70_000,)]


def test_a_table_that_is_refused_while_it_is_rebuilt_stays_as_it_was(
    night: Night, sandbox: SandboxProcess, refusing: Callable[[str], AbstractContextManager[str]]
) -> None:
    """A result whose integers widen is rebuilt."""
    good, bad = only(night, sandbox, GOOD, BAD)
    tables = names(good, bad)
    give(sandbox, bad, {"id": 1, "n": 1})
    assert night.run("tonalytica").code == 0
    give(sandbox, bad, {"id": 2, "n": 1.5})
    with refusing(f"query_{bad}") as told:
        assert told in ran(night, **tables)
    assert night.look(f"SELECT id, n FROM {tables['bad']}") == [(1, 1)]
    left = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '%before%'"
    assert night.look(left) == []
    give(sandbox, bad, {"id": 3, "n": 2.5})
    assert night.run("tonalytica").code == 0
    assert night.look(f"SELECT id, n FROM {tables['bad']}") == [(3, 2.5)]
    assert night.look(left) == []


@on_duckdb
def test_a_disk_that_fails_under_one_table_of_a_file_fails_the_vendor(
    night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: DuckDbCopyJob) -> None:
        raise duckdb.IOException("IO Error: Could not write file: Input/output error")

    only(night, sandbox, GOOD)
    monkeypatch.setattr(DuckDbCopyJob, "run", broken)
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["vendors"][0]["status"]) == (1, "failed")
    assert "Input/output error" in ran.json["vendors"][0]["error"]
