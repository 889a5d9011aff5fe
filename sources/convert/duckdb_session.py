"""The one database of this process that converts: DuckDB in little memory, with no file of its own."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from sources.core.sql import literal, quote

MEMORY = "100MB"
ROW_BYTES = 16 * 2**20
"""DuckDB's bound for one row; its buffers take twice as much, so only a longer row gets more."""
LONGEST_ROW = 256 * 2**20
"""A longer row is refused: what reads, converts and loads it takes some four times as much memory."""
_ROW_GROUP = 30_720
"""Rows; larger groups of a narrow table do not fit into `MEMORY` and are written to disk twice."""
_GROUP_VALUES = 24 * _ROW_GROUP
_SMALLEST_GROUP = 4096
"""Rows: the footer describes each column of each group, and is read as a whole."""
_COLUMN = 64 * 2**10
"""Bytes that a column takes beyond the rows: vectors, a page that is read, a block that is written."""
_COLUMNS = 100
"""So many columns fit into what every table has."""
_TURN = threading.RLock()
_spilling: duckdb.DuckDBPyConnection | None = None


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # What it spills are a vendor's rows: not into the current folder, and gone with the process.
    folder = tempfile.TemporaryDirectory(prefix="nightload-")
    connection = _open(Path(folder.name))
    weakref.finalize(connection, folder.cleanup)
    return connection


def _open(spill: Path) -> duckdb.DuckDBPyConnection:
    # One thread and 100 MB: the load step sets a run's peak memory, not this one. DuckDB overshoots by half.
    config: dict[str, Any] = {"threads": 1, "memory_limit": MEMORY, "preserve_insertion_order": False}
    return duckdb.connect(config=config | {"temp_directory": str(spill)})


@contextmanager
def spilling_into(folder: Path) -> Iterator[None]:
    """Inside, what finds no room in memory goes into `folder`, which its owner sweeps: a process may be killed."""
    global _spilling
    folder.mkdir(parents=True, exist_ok=True)
    with _open(folder) as connection:
        before, _spilling = _spilling, connection
        try:
            yield
        finally:
            with _TURN:
                _spilling = before


@contextmanager
def connect(more: int = 0) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the one database of this process that converts: little memory, no file of its own.

    Vendors that are read side by side take turns at it: each has the memory to itself, and all together no more.
    `more`: bytes beyond the usual, which a wide table or a long row needs.
    """
    with _TURN, (_spilling or _database()).cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        if more:
            allow(connection, more)
        try:
            yield connection
        finally:
            with suppress(duckdb.OutOfMemoryException):  # raised by an error that still holds memory
                connection.execute(f"SET memory_limit = '{MEMORY}'")


def allow(connection: duckdb.DuckDBPyConnection, more: int) -> None:
    """Let the database take `more` bytes than usual, until `connect` ends."""
    connection.execute(f"SET memory_limit = '{100 + more // 2**20}MB'")


def extra_memory(columns: int, longest: int = 0) -> int:
    """Bytes beyond the usual that so many columns need, and a value (or row) of `longest` bytes."""
    return max(0, columns - _COLUMNS) * _COLUMN + (12 * longest if longest > 2**20 else 0)


def parquet(columns: int) -> str:
    """The options of a parquet file: row groups of a wide table have fewer rows."""
    rows = max(_SMALLEST_GROUP, min(_ROW_GROUP, _GROUP_VALUES // max(columns, 1) // 2048 * 2048))
    return f"FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {rows}"


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The row of an aggregate."""
    row = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return tuple(row)


def write_parquet(
    connection: duckdb.DuckDBPyConnection,
    exprs: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    source: str,
    out: Path,
) -> None:
    """Write the expressions over `source`, and behind them the `extra` ones, which are over those, into `out`."""
    # Around the rows, not beside them: DuckDB lets no expression see a column that can raise an error.
    inner, outer = (", ".join(f"{sql} AS {quote(name)}" for name, sql in each.items()) for each in (exprs, extra))
    connection.execute(
        f"COPY (SELECT *, {outer} FROM (SELECT {inner} FROM {source})) TO {literal(out)} ({parquet(len(exprs))})"  # noqa: S608
    )


def join_slices(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], *, out: Path, columns: int, extra: Mapping[str, str]
) -> None:
    """Write files that hold some columns each of the same rows, in the same order, as one with all columns."""
    sides = " POSITIONAL JOIN ".join(f"read_parquet({literal(file)})" for file in files)
    more = ", ".join(f"{sql} AS {quote(name)}" for name, sql in extra.items())
    connection.execute(f"COPY (SELECT *, {more} FROM {sides}) TO {literal(out)} ({parquet(columns)})")  # noqa: S608


def still_nullable(name: str) -> str:
    """SQL: a column of a parquet file as it is.

    Where DuckDB knows that there is no NULL it writes the column as NOT NULL, and dlt, whose column is nullable, then
    rewrites the whole file in Python.
    """
    return f"CASE WHEN {quote(name)} IS NOT NULL THEN {quote(name)} END"
