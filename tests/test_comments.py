"""The database itself says what its tables and columns are; a night without news writes no comment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from conftest import Night, settle
from databases import DATABASES, databases, point
from pipelines.catalog.system_tables import publish
from pipelines.config.project import find
from pipelines.warehouse.open import open_reader
from redash import LABELS
from sandbox_process import SandboxProcess

TOLD = {
    "duckdb": (
        "SELECT schema_name || '.' || table_name, '', comment FROM duckdb_tables() UNION ALL "
        "SELECT schema_name || '.' || table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
    ),
    "postgres": (
        "SELECT nspname || '.' || relname, coalesce(attname, ''), d.description FROM pg_description d "
        "JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass "
        "JOIN pg_namespace n ON n.oid = relnamespace "
        "LEFT JOIN pg_attribute a ON attrelid = c.oid AND attnum = objsubid AND attnum > 0 "
        "WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ),
}


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str | None]]:
    with databases(*DATABASES) as found:
        yield found


@pytest.fixture(params=DATABASES)
def small(
    request: pytest.FixtureRequest, urls: dict[str, str | None], sandbox: SandboxProcess, tmp_path: Path
) -> Night:
    night = point(settle(Night(home=tmp_path), sandbox), urls[request.param])
    night.set(exclude=[name for name in LABELS if name not in ("query_snippets", "query_versions", "queries")])
    night.set("tune", api_key=None)
    return night


def read(night: Night, sql: dict[str, str] | str) -> list[tuple[Any, ...]]:
    with open_reader(find(str(night.home), night.settings.get("NIGHTLOAD_WAREHOUSE"))) as reader:
        return reader.query(sql if isinstance(sql, str) else sql[reader.dialect])


def test_tables_and_columns_are_described_and_only_news_are_written(small: Night, sandbox: SandboxProcess) -> None:
    written: list[int] = []
    from pipelines.catalog import comments

    real = comments.comment

    def counted(*args: Any) -> int:
        written.append(real(*args))
        return written[-1]

    with mock.patch("pipelines.run.load.comment", counted), mock.patch("pipelines.catalog.comments.comment", counted):
        assert small.run().code == 0
        told = {(table, column): text for table, column, text in read(small, TOLD)}
        assert told["tonalytica.query_snippets", ""] == "text blocks for queries"
        assert told["tonalytica.query_snippets", "id"] == "id (key)"
        assert told["tonalytica.query_snippets", "trigger"] == "trigger"
        assert "the vendor has this row no more" in told["tonalytica.query_snippets", "_deleted_at"]
        assert "nightload.run_tables.load_id" in told["tonalytica.query_snippets", "_dlt_load_id"]
        assert "saw this version first" in told["tonalytica.query_versions", "valid_from"]
        assert told["nightload.run_tables", "landed"] == "the rows found again in the warehouse"
        assert all(
            told.get((f"nightload.{table}", "")) for table in ("runs", "run_vendors", "schema_changes", "columns")
        )
        assert sum(written) > 20
        written.clear()
        snippet = sandbox.control("tonalytica", "GET", "truth/query_snippets")["rows"][0]
        edit = {"table": "query_snippets", "op": "update", "key": snippet["id"], "row": {"trigger": "changed"}}
        sandbox.control("tonalytica", "POST", "edit", edit)
        assert small.run().code == 0
        assert written and set(written) == {0}
        assert {(table, column): text for table, column, text in read(small, TOLD)} == told


def test_a_label_is_a_comment_whatever_it_holds(small: Night, sandbox: SandboxProcess) -> None:
    """A result's columns are what somebody wrote: quotes, semicolons, question marks, per cent signs."""
    small.set(exclude=[name for name in LABELS if name not in ("queries", "results")])
    assert small.run().code == 0
    labels = read(
        small, "SELECT dataset || '.' || table_name, column_name, label, is_key FROM nightload.columns ORDER BY 1, 2"
    )
    told = {(table, column): text for table, column, text in read(small, TOLD)}
    assert {(table, column): told.get((table, column)) or "" for table, column, _, _ in labels} == {
        (table, column): f"{label} (key)" if key else label for table, column, label, key in labels
    }
    assert any(not label.isascii() for _, _, label, _ in labels)
    assert any(table.startswith("tonalytica_results.") and "result of" in text
               for (table, column), text in told.items() if not column and text)  # fmt: skip


def test_every_sign_comes_through(small: Night) -> None:
    from pipelines.catalog.comments import comment
    from pipelines.ledger.store import Ledger
    from pipelines.warehouse.open import open_warehouse

    assert small.run().code == 0
    text = 'it\'s 100% \\ ? %s ;-- /* $$ 城市 "x"\nnext'
    with small.here() as place, open_warehouse(place, datasets=["tonalytica"]) as warehouse:
        warehouse.begin()
        with warehouse.write() as session:
            wanted = {("query_snippets", ""): text, ("query_snippets", "id"): text, ("nowhere", ""): "x"}
            assert comment(session, "tonalytica", wanted) == 2
        ledger = Ledger(place.ledger)
        publish(warehouse, ledger)
        ledger.close()
    told = {(table, column): text for table, column, text in read(small, TOLD)}
    assert told["tonalytica.query_snippets", ""] == told["tonalytica.query_snippets", "id"] == text
