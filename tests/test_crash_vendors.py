"""Killed in its first night, each vendor's next night gives what an unbroken one gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from conftest import Night, settle
from sandbox_process import SandboxProcess, start_sandbox

VENDORS = ("thinkingengine", "tune", "dataworks", "growingio")
POINTS = {
    "a job is committed and not marked": (
        "dlt.common.storages.load_package:PackageStorage.complete_job",
        "before",
        2,
        "",
    ),
    "before the swap": ("os:replace", "before", 1, "warehouse.duckdb"),
}


@pytest.fixture(scope="module")
def five() -> Iterator[SandboxProcess]:
    with start_sandbox("--scale", "0.02") as sandbox:
        yield sandbox


def contents(warehouse: Path) -> dict[str, list[Any]]:
    """What the vendors said, without what differs from one load to the next."""
    own = ("_dlt_load_id", "_dlt_id", "valid_from", "valid_to")
    found = {}
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE schema_name <> 'nightload' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        ).fetchall()
        for schema, table in tables:
            columns = [row[0] for row in connection.execute(f'DESCRIBE "{schema}"."{table}"').fetchall()]
            kept = ", ".join(f'"{column}"::VARCHAR' for column in columns if column not in own)
            rows = connection.execute(f'SELECT {kept} FROM "{schema}"."{table}"').fetchall()
            found[f"{schema}.{table}"] = sorted(rows, key=repr)
    return found


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_killed_in_its_first_night_is_whole_after_the_next(
    vendor: str, five: SandboxProcess, tmp_path: Path
) -> None:
    def fresh(name: str) -> Night:
        (tmp_path / name).mkdir()
        return settle(Night(home=tmp_path / name), five)

    unbroken = fresh("unbroken")
    assert unbroken.run(vendor).code == 0
    expected = contents(unbroken.warehouse)
    assert sum(map(len, expected.values())) > 50
    for name, point in POINTS.items():
        night = fresh(name.replace(" ", "-"))
        command = (sys.executable, str(Path(__file__).with_name("killed.py")), *map(str, point))
        killed = night.start("run", vendor, "--json", command=command)
        killed.communicate(timeout=120)
        assert killed.returncode == -9, f"the run was not killed: {name}"
        assert not night.warehouse.exists(), name
        assert night.run(vendor).code == 0
        assert contents(night.warehouse) == expected, name
        assert night.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [("crashed",), ("ok",)]
