"""An analyst who opens the warehouse before a night and still reads when it is over: told one state throughout.

`soak_reader DUCKDB_FILE|POSTGRES_URL` says a line when it has read for the first time, reads again until SIGTERM, then
once more, and says how often. It ends with 1 if a read fails or does not see what the first one saw.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import duckdb
import psycopg2

TABLES = (
    "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
    "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
)
Ask = Callable[[str], list[tuple[Any, ...]]]


def opened(warehouse: str) -> tuple[Ask, str]:
    """How to ask it, and what tells one table of names `t` from another."""
    if not warehouse.startswith("postgresql:"):
        file = duckdb.connect(warehouse, read_only=True)
        return lambda sql: file.execute(sql).fetchall(), "bit_xor(hash(t))"
    database = psycopg2.connect(warehouse, application_name="analyst")
    database.set_session(isolation_level="REPEATABLE READ", readonly=True)
    cursor = database.cursor()

    def ask(sql: str) -> list[tuple[Any, ...]]:
        cursor.execute(sql)
        return cursor.fetchall()

    return ask, "sum(hashtext(t::text)::bigint)"


def all_of_it(ask: Ask, digest: str) -> list[tuple[Any, ...]]:
    """Every table with its rows and their sum."""
    return [
        (dataset, table, *ask(f'SELECT count(*), {digest} FROM "{dataset}"."{table}" t')[0])
        for dataset, table in ask(TABLES)
    ]


def main() -> None:
    over = False

    def end(*_: Any) -> None:
        nonlocal over
        over = True

    signal.signal(signal.SIGTERM, end)
    ask, digest = opened(sys.argv[1])
    first, reads = all_of_it(ask, digest), 1
    sys.stdout.write(f"reads {len(first)} tables\n")
    sys.stdout.flush()
    last = False
    while not last:
        time.sleep(0.2)
        last = over
        reads += 1
        if (again := all_of_it(ask, digest)) != first:
            sys.exit(f"read {reads} differs from the first: {sorted({*again} ^ {*first})[:4]}")
    sys.stdout.write(f"{reads} reads\n")
