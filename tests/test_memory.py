"""What keeps a night of many small tables small, on the disk and in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dlt
import duckdb
import orjson
import pyarrow as pa
import pytest
from dlt.load.exceptions import LoadClientJobFailed

from pipelines.catalog.system_tables import publish
from pipelines.config import project as places
from pipelines.ledger.store import Ledger
from pipelines.warehouse.duckdb.warehouse import DuckDbFile
from sources.convert import pieces
from sources.convert.parquet import to_parquet
from sources.convert.pieces import split
from sources.convert.spool import Spool, iter_rows
from sources.convert.types import Column, Kind
from sources.core.errors import OutOfMemory, RowTooLong, of_duckdb

ROOT = Path(__file__).resolve().parent.parent


def test_small_tables_share_a_file_of_small_blocks_also_when_it_was_written_anew(tmp_path: Path) -> None:
    place = places.find(tmp_path)
    place.ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(place.ledger)
    for purge in (False, True):
        warehouse = DuckDbFile(place, datasets=())
        warehouse.begin()
        with warehouse.write() as session:
            for number in range(50 if not purge else 0):
                session.change(f"CREATE TABLE t{number} AS SELECT 1 AS a, 'x' AS b")
        if purge:
            warehouse.purge()
        publish(warehouse, ledger)
        assert place.warehouse.stat().st_size < 50 * 2**17, purge  # with DuckDB's own blocks each takes 2**18
    ledger.close()


ENGINE = """
import sys
from pathlib import Path
from pipelines.config import dlt_setup, project
where = project.find(Path(sys.argv[1]))
dlt_setup.prepare(where)
"""


def told_by_a_process(home: Path, code: str, *arguments: str, **variables: str) -> list[str]:
    """What `code`, run behind `engine.prepare` in a process of its own, prints."""
    command = [sys.executable, "-c", ENGINE + code, str(home), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_telling_where_a_warehouse_is_imports_no_sqlalchemy(tmp_path: Path) -> None:
    """It is there in these tests, with Dagster, and whoever wants it still has it."""
    code = """
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.postgres.configuration import PostgresCredentials
told = PostgresCredentials("postgresql://me:p%40ss%3Aw%2Frd@localhost:5433/shop?sslmode=require")
print("sqlalchemy" in sys.modules, DuckDbCredentials("/data/warehouse.duckdb"), told)
print(told.password, told.host, told.port, told.database, told.query["sslmode"])
import sqlalchemy
print(sqlalchemy.engine.make_url("sqlite://").drivername)
"""
    assert told_by_a_process(tmp_path, code) == [
        *("False", "duckdb:////data/warehouse.duckdb", "postgresql://me:***@localhost:5433/shop"),
        *("p@ss:w/rd", "localhost", "5433", "shop", "require"),
        "sqlite",
    ]


def test_arrow_shares_the_heap_unless_the_user_chose(tmp_path: Path) -> None:
    code = "import pyarrow\nprint(pyarrow.default_memory_pool().backend_name)"
    assert told_by_a_process(tmp_path, code, ARROW_DEFAULT_MEMORY_POOL="") == ["system"]
    assert told_by_a_process(tmp_path, code, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == ["mimalloc"]


def test_large_buffers_that_are_freed_leave_no_holes_in_the_heap(tmp_path: Path) -> None:
    code = """
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024
bytearray(30 * 2**20)  # glibc by itself takes the next ones for small
before = held()
buffers = [bytearray(2**20) for _ in range(60)]
kept = [bytearray(2000) for _ in range(100)]
del buffers
print(held() - before)
"""
    (grown,) = told_by_a_process(tmp_path, code)
    assert int(grown) < 20


def test_comments_on_a_wide_table_are_written_in_little_memory(tmp_path: Path) -> None:
    code = """
import resource
from pipelines.warehouse.duckdb.warehouse import DuckDbFile
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
warehouse = DuckDbFile(where, datasets=())
where.state.mkdir(parents=True, exist_ok=True)
warehouse.begin()
with warehouse.write() as session:
    names = [f"c{number}" for number in range(600)]
    columns = ", ".join(f"'x' AS {name}" for name in names)
    session.change(f"CREATE SCHEMA shop; CREATE TABLE shop.wide AS SELECT {columns}")
    before = peak()
    session.comment("shop", {("wide", name): f"what is in {name}" for name in names})
    print(peak() - before)
"""
    (grown,) = told_by_a_process(tmp_path, code)
    assert int(grown) < 20


WIDE = """
import json
import resource
from sources.convert.types import Column
from sources.convert.spool import Spool
from sources.convert.parquet import to_parquet
form, columns, rows = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
names = [f"c{number}" for number in range(columns)]
spool = Spool(Path(sys.argv[1]) / "rows.json")
if form == "lists":
    spool.lists(names)
page = [[row, *range(row, row + columns - 1)] for row in range(rows)]
spool.array(json.dumps(page if form == "lists" else [dict(zip(names, row)) for row in page]).encode())
del page
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = to_parquet(
    spool,
    out=Path(sys.argv[1]) / "rows.parquet",
    columns=[Column(label=name, name=name, declared=False) for name in names],
    load_id="1",
    where="t",
    key=("c0",),
)
print(made.rows, made.keys, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("form", "columns", "rows"),
    [("objects", 200, 1000), ("objects", 360, 1), ("lists", 398, 400), ("objects", 2000, 1)],
)
def test_wide_table_of_few_rows_is_converted_in_little_memory(
    form: str, columns: int, rows: int, tmp_path: Path
) -> None:
    came, keys, grown = map(int, told_by_a_process(tmp_path, WIDE, form, str(columns), str(rows)))
    assert (came, keys) == (rows, rows)
    assert grown < 150
    with duckdb.connect() as connection:
        file = tmp_path / "rows.parquet"
        last = connection.execute(f"SELECT c0, c{columns - 1} FROM '{file}' ORDER BY c0").fetchall()
        described = connection.execute(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
    assert last == [(row, row + columns - 2) for row in range(rows)]
    assert [name for name, *_ in described] == [f"c{number}" for number in range(columns)] + ["_dlt_load_id"]


def test_long_row_is_parsed_a_few_times_whatever_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            parsed.append(len(s) - idx)
            return super().raw_decode(s, idx)

    monkeypatch.setattr(json, "JSONDecoder", Counting)
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"v": "x" * (24 * 2**20)}]))
    assert [len(row["v"]) for row in iter_rows(file)] == [24 * 2**20]
    assert sum(parsed) < 4 * 24 * 2**20


def test_rows_that_do_not_fit_are_converted_in_pieces(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.json")
    nested = [{"a": 1}, {"a": "},{"}]
    rows = [{"a": n, "nested": nested, "v": "},{ " * 100 + "x" * 10_000 * (n % 7)} for n in range(300)]
    spool.array(orjson.dumps(rows))
    spool.close()
    columns = [Column(label=label, name=label) for label in ("a", "nested", "v")]
    assert split(spool, columns, key=("a",), where="t") < 3 * 2**20
    assert len(spool.pieces) > 3
    assert [row for piece in spool.pieces for row in orjson.loads(piece.read_bytes())] == rows


@pytest.mark.parametrize("kind", ["one misfit", "texts"])
def test_wide_table_of_many_rows_is_converted_whatever_it_holds(tmp_path: Path, kind: str) -> None:
    labels, rows = [f"x{n}" for n in range(600)], 2500
    spool = Spool(tmp_path / "rows.json")
    for at in range(rows):
        value: Any = at if kind == "one misfit" else f"a text of twenty {at}"
        row = {label: f"{value}{label}" if kind == "texts" else value for label in labels}
        spool.rows([row | {"x7": "text"} if at == 2400 else row])
    columns = [Column(label=label, name=label, declared=False) for label in labels]
    converted = to_parquet(spool, out=tmp_path / "o.parquet", columns=columns, load_id="1", where="t")
    found = duckdb.sql(f"SELECT x7, x599 FROM '{converted.path}' WHERE x7 = 'text'").fetchall()
    assert (converted.rows, found) == (rows, [("text", 2400 if kind == "one misfit" else "a text of twenty 2400x599")])
    assert not list(tmp_path.glob("*.exact.json"))
    assert kind == "one misfit" or converted.memory < 200 * 2**20  # a second attempt takes 300 MB more


def test_row_beyond_the_bound_is_refused_with_table_column_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "LONGEST_ROW", 36 * 2**20)
    spool = Spool(tmp_path / "rows.json")
    spool.array(orjson.dumps([{"id": 7, "v": "short"}, {"id": 8, "note": "x", "v": "x" * (40 * 2**20)}]))
    columns = [
        Column(label=label, name=label, kind=kind)
        for label, kind in (("id", Kind.BIGINT), ("note", Kind.TEXT), ("v", Kind.TEXT))
    ]
    with pytest.raises(RowTooLong) as refused:
        to_parquet(spool, out=tmp_path / "o.parquet", columns=columns, load_id="1", where="shop.orders", key=("id",))
    assert str(refused.value).startswith("column v of table shop.orders has a value of more than 36 MB (row id 8)")


def test_memory_that_duckdb_lacks_is_reported_without_its_own_text() -> None:
    raw = duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block\n\nPossible solutions:\n* SET x")
    wrapped = LoadClientJobFailed("1", "orders.abc.0.parquet", str(raw), raw)
    for error, where in ((raw, "shop.orders"), (wrapped, "")):
        told = of_duckdb(error, where)
        assert isinstance(told, OutOfMemory)
        assert "orders" in str(told) and "more memory than a table may take" in str(told)
        assert "Possible solutions" not in str(told) and "SET" not in str(told)
    assert of_duckdb(ValueError("no database")) is None


def test_memory_that_a_wide_table_needs_is_left_to_what_follows_its_load(tmp_path: Path) -> None:
    place = places.find(tmp_path)
    place.state.mkdir(parents=True, exist_ok=True)
    warehouse = DuckDbFile(place, datasets=())
    warehouse.begin()
    for dataset, columns in (("wide", 600), ("narrow", 2)):
        rows = pa.table({f"c{number}": pa.array([number]) for number in range(columns)})
        pipeline = dlt.pipeline(
            dataset, pipelines_dir=str(tmp_path / dataset), destination=warehouse.destination(), dataset_name=dataset
        )
        pipeline.run(rows, table_name="t", loader_file_format="parquet")
    with warehouse.write() as session:
        ((limit,),) = session.query("SELECT current_setting('memory_limit')")
        assert session.query("SELECT c599 FROM wide.t") == [(599,)]
        session.change("CHECKPOINT")
    warehouse.discard()
    assert float(limit.removesuffix(" MiB")) > 120


def test_wide_table_of_texts_is_loaded_into_the_warehouse(tmp_path: Path) -> None:
    place = places.find(tmp_path)
    place.state.mkdir(parents=True, exist_ok=True)
    texts = [pa.array([f"a text of twenty {row} {column}" for row in range(4096)]) for column in range(600)]
    rows = pa.table({f"c{column}": each for column, each in enumerate(texts)})
    warehouse = DuckDbFile(place, datasets=())
    warehouse.begin()
    pipeline = dlt.pipeline(
        "wide", pipelines_dir=str(tmp_path / "wide"), destination=warehouse.destination(), dataset_name="wide"
    )
    pipeline.run(rows, table_name="t", loader_file_format="parquet")
    with warehouse.write() as session:
        assert session.query("SELECT count(*), max(c599) FROM wide.t") == [(4096, "a text of twenty 999 599")]
        session.change("CHECKPOINT")
    with warehouse.write() as session:
        assert session.query("SELECT count(*) FROM wide.t") == [(4096,)]
    warehouse.discard()
