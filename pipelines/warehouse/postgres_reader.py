"""Reading a Postgres: what is published, in read-only transactions that last no longer than an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psycopg2
from psycopg2 import errors, extensions

from pipelines.statements import first_word
from pipelines.warehouse.postgres_connection import to_pyformat
from pipelines.warehouse.postgres_views import DEPENDENT
from pipelines.warehouse.reader import Answer, interrupted, only_reads, refused
from pipelines.warehouse.types import ColumnType, from_postgres
from sources.errors import NightloadError, Unavailable
from sources.quoting import quote

ROWS_AT_ONCE = 1000
SELECTS = ("SELECT", "WITH", "VALUES", "TABLE")
TELLS = ("SHOW", "EXPLAIN", "SET", "RESET")
"""What a user may say beside queries: none of it changes a row, and no cursor can be made of it."""
JSON = (114, 3802)
AS_TEXT = extensions.new_type((1082, 1083, 1114, 1184, 1186, 1266, *JSON, 17), "AS_TEXT", lambda value, _: value)
"""Dates, times, JSON and bytes as the database writes them: Python has no year 10000 and no infinity."""
WRITES = (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported)


class PostgresReader:
    dialect: Literal["duckdb", "postgres"] = "postgres"

    def __init__(self, connection: extensions.connection) -> None:
        self._connection = connection
        with connection.cursor() as cursor:
            # the names that an analyst's own connection would find; all rows of a cursor are wanted
            cursor.execute(
                "SET default_transaction_read_only = on; SET cursor_tuple_fraction = 1; "
                "RESET search_path; RESET lock_timeout"
            )

    def answer(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        cursor = self._connection.cursor()
        try:
            cursor.execute(to_pyformat(sql) if parameters else sql, list(parameters) or None)
        except psycopg2.Error as error:
            cursor.close()
            raise _explained(error) from None
        if cursor.description is None:
            return Answer((), iter(()))
        return _answer(cursor, iter(cursor))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return list(self.answer(sql, parameters).rows)

    @contextmanager
    def stream(self, sql: str) -> Iterator[Answer]:
        word = first_word(sql)
        if word not in (*SELECTS, *TELLS):
            raise only_reads(f"{word or 'it'} is neither a query nor one of {', '.join(TELLS)}")
        try:
            self._connection.set_session(readonly=True, autocommit=False)
            # a name makes it a cursor on the server, where the rows stay until they are asked for
            name = "nightload" if word in SELECTS else None
            with self._connection.cursor(name) as cursor:
                extensions.register_type(AS_TEXT, cursor)
                cursor.execute(sql)
                first = cursor.fetchmany(ROWS_AT_ONCE) if name or cursor.description else []
                yield _answer(cursor, _rows(first, cursor.fetchmany))
            self._connection.commit()
        except psycopg2.Error as error:
            raise _explained(error) from None
        finally:
            with suppress(psycopg2.Error):
                self._connection.rollback()
                self._connection.set_session(autocommit=True)

    def cancel(self) -> None:
        with suppress(psycopg2.Error):
            self._connection.cancel()

    def tables(self, dataset: str) -> set[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = ?"
        return {name for (name,) in self.query(sql, [dataset])}

    @contextmanager
    def one_state(self) -> Iterator[None]:
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
        finally:
            with suppress(psycopg2.Error):
                self._connection.rollback()

    def columns(self, dataset: str) -> dict[str, list[ColumnType]]:
        found: dict[str, list[ColumnType]] = {}
        for table, name, kind, nullable in self.query(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "WHERE n.nspname = ? AND c.relkind IN ('r', 'p') ORDER BY c.relname, a.attnum",
            [dataset],
        ):
            kind = from_postgres(kind, where=f"{dataset}.{table}.{name}")
            found.setdefault(table, []).append(ColumnType(name, kind, nullable))
        return found

    def views_on(self, dataset: str, table: str) -> list[str]:
        return [f"{row[3]}.{row[4]}" for row in self.query(DEPENDENT, [quote(dataset, table)])]

    def to_parquet(self, dataset: str, table: str, path: Path, *, names: Mapping[str, str]) -> None:
        import duckdb

        from pipelines.warehouse.duckdb_reader import PARQUET

        text = path.with_suffix(".csv")
        with text.open("wb") as file, self._connection.cursor() as cursor:
            cursor.execute("SET DateStyle = ISO; SET extra_float_digits = 3")
            cursor.copy_expert(f"COPY {quote(dataset, table)} TO STDOUT (FORMAT csv)", file)
        types = {names.get(column.name, column.name): column.kind for column in self.columns(dataset)[table]}
        with duckdb.connect() as converter:
            converter.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET memory_limit = '100MB'")
            # COPY quotes an empty text and not a NULL
            converter.execute(
                "COPY (FROM read_csv(?, columns = ?, header = false, delim = ',', quote = '\"', escape = '\"', "
                "nullstr = '', allow_quoted_nulls = false, auto_detect = false, max_line_size = 100000000)) "
                f"TO '{path}' ({PARQUET})",
                [str(text), types],
            )
        text.unlink()


def _answer(cursor: extensions.cursor, rows: Iterator[tuple[Any, ...]]) -> Answer:
    described = cursor.description or ()
    json = frozenset(place for place, column in enumerate(described) if column.type_code in JSON)
    return Answer(tuple(column.name for column in described), rows, json)


def _rows(first: list[tuple[Any, ...]], more: Callable[[int], list[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
    rows = first
    while rows:
        yield from rows
        if len(rows) < ROWS_AT_ONCE:
            return
        try:
            rows = more(ROWS_AT_ONCE)
        except psycopg2.Error as error:
            raise _explained(error) from None


def _explained(error: psycopg2.Error) -> NightloadError:
    told = error.diag
    why = ". ".join(text for text in (told.message_primary, told.message_detail, told.message_hint) if text)
    if isinstance(error, errors.QueryCanceled) and "user request" in why:
        return interrupted()
    if isinstance(error, WRITES) and ("read-only" in why or "data-modifying" in why):
        return only_reads(why)
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and told.sqlstate is None:
        return Unavailable(what="the connection to the database was lost", why=str(error), todo="Run the query again")
    return refused(why or str(error))
