"""What keeps a night of many small tables small, on the disk and in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipelines import place as places
from pipelines.ledger import Ledger
from pipelines.warehouse.duckdb_file import DuckDbFile

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
        warehouse.publish(ledger)
        assert place.warehouse.stat().st_size < 50 * 2**17, purge  # with DuckDB's own blocks each takes 2**18
    ledger.close()


ENGINE = """
import sys
from pathlib import Path
from pipelines import engine, place
where = place.find(Path(sys.argv[1]))
engine.prepare(where)
"""


def told_by_a_process(home: Path, code: str, **variables: str) -> list[str]:
    """What `code`, run behind `engine.prepare` in a process of its own, prints."""
    command = [sys.executable, "-c", ENGINE + code, str(home)]
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
from pipelines.warehouse.duckdb_file import DuckDbFile
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
