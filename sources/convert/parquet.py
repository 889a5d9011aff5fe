"""From a vendor's JSON rows to one parquet file with one exact type per column.

Rows are spooled to disk as one JSON array (`sources.convert.spool`), and DuckDB converts the array to parquet
in bounded memory: the fastest form there is, and every table takes it (`sources.convert.fast_cast`). Where a value
does not fit, the exact way (`sources.convert.strict_cast`) finds what each column really holds, and either widens the
column (types that the vendor does not declare) or raises `TypeFlip`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import duckdb

from sources.convert.duckdb_session import (
    ROW_BYTES,
    allow,
    connect,
    extra_memory,
    join_slices,
    one_row,
    parquet,
    still_nullable,
    write_parquet,
)
from sources.convert.fast_cast import Misfit, convert_fast, time_or_null
from sources.convert.pieces import WIDE, split
from sources.convert.spool import Part, Spool, spooled_rows
from sources.convert.strict_cast import convert_exact
from sources.convert.types import LOAD_ID, Column, Kind, kind_of, settle
from sources.core.errors import BrokenAnswer
from sources.core.sql import literal, quote

SAMPLE_ROWS = 500
SAMPLE_BYTES = 2**20
"""A sample ends with the row that passes so many bytes: a long one is not brought into memory for it."""
_TEXTS = 2**19
"""Bytes for each column of a wide table that does not fit otherwise."""
_TEXT = 256 * 2**10
"""Bytes of a text column where slices are joined, beyond those of each column."""
SLICE = 150
"""Columns that are converted at once: DuckDB's plan of 500 takes twenty seconds."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A parquet file and what is in it; `digest` is the same for the same rows in any order."""

    path: Path
    columns: tuple[Column, ...]
    rows: int
    keys: int
    digest: str
    repeats: int = 0
    """Rows that came beside one with the same key, and were left out."""
    memory: int = 0
    """Bytes beyond the usual that DuckDB needs to read the file."""


def to_parquet(
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    load_id: str,
    where: str,
    key: Sequence[str] = (),
    newest_by: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Converted:
    """Convert the spooled rows; every column is in the file, in the order given.

    `key` are column names; rows that repeat a key are reduced to one, the newest by `newest_by`.
    `extra` maps further columns to SQL expressions. Raises `TypeFlip` when a declared column gets
    a value that it cannot hold, `BrokenAnswer` when the rows are not JSON or a key is NULL.
    """
    spool.close()
    more = extra_memory(len(columns))
    with connect(more) as connection:
        extra = {**(extra or {}), LOAD_ID: literal(load_id)}
        if spool.parts:
            return _joined(connection, spool.parts, out=out, columns=tuple(columns), extra=extra, key=key)
        longest = split(spool, columns, key=key, where=where) if len(columns) > WIDE else 0
        try:
            chosen = _from_sample(spool, columns)
            if len(columns) > SLICE:
                more += sum(column.kind in (Kind.TEXT, Kind.JSON) for column in chosen) * _TEXT
                allow(connection, more)
            try:
                try:
                    _fast(connection, spool, out=out, columns=chosen, extra=extra, longest=longest)
                except duckdb.Error as error:
                    if not _is_of_size(error):
                        raise
                    if spool.pieces:  # each of many columns of texts takes a block of its own, where slices are joined
                        more += len(columns) * _TEXTS
                    else:
                        longest = split(spool, columns, key=key, where=where)
                        more = extra_memory(len(columns), longest)
                    allow(connection, more)
                    _fast(connection, spool, out=out, columns=chosen, extra=extra, longest=longest)
                chosen = tuple(column if column.kind else replace(column, kind=Kind.TEXT) for column in chosen)
            except (Misfit, duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException):
                if len(columns) > WIDE:
                    more += len(columns) * _TEXTS  # all columns are read as texts at once
                    allow(connection, more)
                chosen = convert_exact(connection, spool, out=out, columns=columns, extra=extra, where=where, more=more)
        finally:
            for piece in spool.pieces:
                piece.unlink(missing_ok=True)
            spool.pieces.clear()
        came, keys = rows, _ = _count(connection, out, key, where=where)
        if keys < rows:
            newest = next((column for column in chosen if column.name == newest_by), None)
            _keep_newest(connection, out, key=key, newest_by=newest, columns=len(columns))
            rows, _ = _count(connection, out, (), where=where)
        return Converted(
            path=out,
            columns=chosen,
            rows=rows,
            keys=keys if key else rows,
            digest=digest_of(connection, out, chosen),
            repeats=came - rows,
            memory=more,
        )


def _fast(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    extra: Mapping[str, str],
    longest: int,
) -> None:
    """The fast way, a slice of the columns at a time where there are many: what is planned for each adds up."""
    row_bytes = max(ROW_BYTES, longest)
    if len(columns) <= SLICE:
        convert_fast(connection, spool, out=out, columns=columns, extra=extra, row_bytes=row_bytes)
        return
    # what is joined by position must have one order
    connection.execute("SET preserve_insertion_order = true")
    files = [out.with_suffix(f".{at}.slice") for at in range(0, len(columns), SLICE)]
    try:
        for place, file in enumerate(files):
            some = columns[place * SLICE : (place + 1) * SLICE]
            convert_fast(connection, spool, out=file, columns=some, extra={}, row_bytes=row_bytes)
        join_slices(connection, files, out=out, columns=len(columns), extra=extra)
    finally:
        connection.execute("SET preserve_insertion_order = false")
        for file in files:
            file.unlink(missing_ok=True)


def _is_of_size(error: duckdb.Error) -> bool:
    """Do the rows, or one of them, not fit into the memory that a table has?"""
    return isinstance(error, duckdb.OutOfMemoryException) or "maximum_object_size" in str(error)


def _from_sample(spool: Spool, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Give the columns without a kind the one that the first rows show; those that are all null keep none."""
    if all(column.kind for column in columns):
        return tuple(columns)
    open_columns = [column for column in columns if column.kind is None]
    seen: dict[str, set[Kind]] = {column.label: set() for column in open_columns}
    try:
        for row in islice(spooled_rows(spool, most=SAMPLE_BYTES), SAMPLE_ROWS):
            for column in open_columns:
                value = column.of(row)
                if not column.is_null(value) and (kind := kind_of(value)) is not None:
                    seen[column.label].add(kind)
    except (ValueError, AttributeError):
        pass  # the conversion itself tells what is wrong with the rows
    return tuple(
        replace(column, kind=settle(column, seen[column.label]), declared=False, scale=0, sampled=True)
        if seen.get(column.label)
        else column
        for column in columns
    )


def _joined(
    connection: duckdb.DuckDBPyConnection,
    parts: Sequence[Part],
    *,
    out: Path,
    columns: tuple[Column, ...],
    extra: Mapping[str, str],
    key: Sequence[str],
) -> Converted:
    """Files of texts into one; a single one that has the table's columns as they are due is that one already."""
    if key or any(column.kind != Kind.TEXT or len(column.place) != 1 for column in columns):
        raise ValueError("the columns of files are texts, and none is a key")
    if [part.names for part in parts] == [(*(column.name for column in columns), *extra)]:
        parts[0].path.replace(out)
    else:
        files = ", ".join(literal(part.path) for part in parts)
        exprs = {column.name: still_nullable(column.place[0]) for column in columns}
        write_parquet(connection, exprs, extra, source=f"read_parquet([{files}], union_by_name=true)", out=out)
        for part in parts:
            part.path.unlink(missing_ok=True)
    rows = sum(part.rows for part in parts)
    rows_digest = hashlib.sha256(",".join(sorted(part.digest for part in parts)).encode()).hexdigest()
    return Converted(
        path=out,
        columns=columns,
        rows=rows,
        keys=rows,
        digest=f"{rows}:{rows_digest[:24]}:{_shape_tag(columns)}",
        memory=extra_memory(len(columns)),
    )


def _count(connection: duckdb.DuckDBPyConnection, out: Path, key: Sequence[str], *, where: str) -> tuple[int, int]:
    """(rows, distinct keys)"""
    distinct = f"count(DISTINCT {_key(key)})" if key else "count(*)"
    lacking = " OR ".join(f"{quote(name)} IS NULL" for name in key) or "false"
    row = one_row(
        connection,
        f"SELECT count(*), {distinct}, count(*) FILTER ({lacking}) FROM {literal(out)}",  # noqa: S608
    )
    if row[2]:
        raise BrokenAnswer(
            what=f"{row[2]} of {row[0]} rows have no {' or no '.join(key)} to tell them apart by",
            where=where,
            todo="run again; if it stays, the vendor changed what a row is",
        )
    return row[0], row[1]


def _key(key: Sequence[str]) -> str:
    return quote(key[0]) if len(key) == 1 else f"({', '.join(map(quote, key))})"


def _keep_newest(
    connection: duckdb.DuckDBPyConnection,
    out: Path,
    *,
    key: Sequence[str],
    newest_by: Column | None,
    columns: int,
) -> None:
    order = "1"
    if newest_by:
        order = f"{quote(newest_by.name)} DESC NULLS LAST"
        if newest_by.kind == Kind.TEXT:  # times whose offsets differ do not sort as texts
            order = f"{time_or_null(quote(newest_by.name), newest_by)} DESC NULLS LAST, {order}"
    once = out.with_suffix(".once.parquet")
    connection.execute(
        f"COPY (SELECT * FROM {literal(out)} "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY {_key(key)} ORDER BY {order}) = 1) "
        f"TO {literal(once)} ({parquet(columns)})"
    )
    once.replace(out)


def digest_of(connection: duckdb.DuckDBPyConnection, out: Path, columns: Sequence[Column]) -> str:
    # a sum, not an xor: hash() of a row is linear in its last column, so two equal changes would undo each other
    (rows,) = one_row(
        connection,
        f"SELECT count(*) || ':' || coalesce(sum(hash(r)::HUGEINT), 0) "  # noqa: S608
        f"FROM (SELECT * EXCLUDE ({LOAD_ID}) FROM {literal(out)}) r",
    )
    # the hash of a row knows neither names nor types
    return f"{rows}:{_shape_tag(columns)}"


def _shape_tag(columns: Sequence[Column]) -> str:
    shape = json.dumps([(column.name, column.label, column.sql_type) for column in columns])
    return hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:12]
