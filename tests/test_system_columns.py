"""Columns that are called as those that every table of Postgres has: tagged on both databases, renamed in old files."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Night
from sandbox_process import SandboxProcess
from sources import naming
from sources.naming import SYSTEM_COLUMNS
from test_copy import other, url_of
from test_tonalytica import give, only

__all__ = ["other"]

NAMES = sorted(SYSTEM_COLUMNS)
QUERY = "Sales Report"
TABLE = "tonalytica_results"


def labels(night: Night, key: int) -> dict[str, str]:
    """Label → column, as `nightload.columns` has them."""
    rows = night.rows(
        "SELECT label, column_name FROM nightload.columns "
        f"WHERE dataset = '{TABLE}' AND table_name = 'query_{key}' AND NOT starts_with(label, '_')"
    )
    return dict(rows)


def landed(night: Night, key: int) -> list[tuple[Any, ...]]:
    columns = labels(night, key)
    names = ", ".join(f'"{columns[name]}"' for name in ("id", *NAMES))
    return sorted(night.rows(f"SELECT {names} FROM {TABLE}.query_{key}"))


def row(number: int) -> dict[str, Any]:
    return {"id": number, **{name: f"{name} {number}" for name in NAMES}}


def values(number: int) -> tuple[Any, ...]:
    return tuple(row(number).values())


def as_older_versions_did(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(naming, "RESERVED", naming.RESERVED - SYSTEM_COLUMNS)
    return monkeypatch


def test_a_system_column_of_a_vendor_loads_under_a_tagged_name(night: Night, sandbox: SandboxProcess) -> None:
    (key,) = only(night, sandbox, QUERY)
    give(sandbox, key, row(1), row(2))
    ran = night.run("tonalytica")
    assert ran.code == 0, ran.out
    assert not SYSTEM_COLUMNS & set(labels(night, key).values())
    assert landed(night, key) == [values(1), values(2)]


@pytest.mark.parametrize("database", ["duckdb"], indirect=True)
def test_an_old_warehouse_with_a_system_column_is_renamed_by_the_next_load(
    night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = only(night, sandbox, QUERY)
    give(sandbox, key, row(1))
    with monkeypatch.context() as older:
        as_older_versions_did(older)
        assert night.run("tonalytica").code == 0
    assert set(NAMES) < set(labels(night, key).values())
    give(sandbox, key, row(1), row(2))
    assert night.run("tonalytica").code == 0
    assert landed(night, key) == [values(1), values(2)]
    described = f"FROM duckdb_columns() WHERE schema_name = '{TABLE}' AND table_name = 'query_{key}'"
    there = {name for (name,) in night.rows(f"SELECT column_name {described}")}
    assert set(labels(night, key).values()) < there
    assert not SYSTEM_COLUMNS & there
    changes = night.rows("SELECT column_name FROM nightload.schema_changes WHERE change = 'renamed column' ORDER BY 1")
    assert [name.rpartition("_")[0] for (name,) in changes] == NAMES
    assert night.rows(f"SELECT 1 FROM nightload.column_values WHERE column_name IN {tuple(NAMES)}") == []


@pytest.mark.parametrize("database", ["duckdb"], indirect=True)
def test_an_old_warehouse_with_a_system_column_is_copied_to_postgres_and_goes_on_there(
    night: Night, other: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = only(night, sandbox, QUERY)
    other.settings.update(night.settings)
    give(sandbox, key, row(1))
    with monkeypatch.context() as older:
        as_older_versions_did(older)
        assert night.run("tonalytica").code == 0
    ran = other.main("copy", "--from", url_of(night), "--to", url_of(other), "--json")
    assert (ran.code, ran.err) == (0, "")
    assert landed(other, key) == [values(1)]
    assert other.rows(f"SELECT 1 FROM nightload.column_values WHERE column_name IN {tuple(NAMES)}") == []
    columns = labels(other, key)
    give(sandbox, key, row(1), row(2))
    ran = other.run("tonalytica")
    assert ran.code == 0, ran.out
    assert landed(other, key) == [values(1), values(2)]
    assert labels(other, key) == columns
