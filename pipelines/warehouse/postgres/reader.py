"""Reading a Postgres: what is published, in read-only transactions that last no longer than an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psycopg2
from psycopg2 import errors, extensions

from pipelines.warehouse.postgres.connection import to_pyformat
from pipelines.warehouse.postgres.views import DEPENDENT
from pipelines.warehouse.reader import Answer, acts, cannot_set, interrupted, only_reads, refused
from pipelines.warehouse.sql_text import calls, first_word, setting
from pipelines.warehouse.types import ColumnType, from_postgres
from sources.core.errors import NightloadError, Unavailable
from sources.core.sql import quote

ROWS_AT_ONCE = 1000
READS = ("SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN")
SETS = ("SET", "RESET")
_CURSOR = """
DO $nightload$
DECLARE answer refcursor := 'nightload';
BEGIN
    OPEN answer FOR EXECUTE convert_from(decode('{}', 'hex'), 'UTF8');
END
$nightload$"""
"""One statement, whatever the text holds: in hex no setting of the parser can read it in another way, the server
refuses a text of several ("multi-query plan") and one that is no query, and nothing in it can end the transaction."""
_ACTS = """
SELECT min(p.proname) FROM pg_catalog.pg_proc p
WHERE p.proname = ANY(%s) AND p.proname !~ %s AND (p.proname ~ %s OR p.provolatile = 'v' AND (
    p.pronamespace = 'pg_catalog'::regnamespace OR EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')))"""
"""Of these names, a function of the server or of an extension that may have side effects (the catalogue says VOLATILE:
signals, files, locks, large objects, settings, other servers, SQL that a text holds)."""
_HARMLESS = (
    "^(random|random_normal|setseed|clock_timestamp|timeofday|current_query|(gen_random_)?uuid.*|array_(sample|shuffle)|"
    "bernoulli|system|pg_sleep.*|pg_.*_size|pg_(last|current|is|partition|stat_get)_.*|pg_blocking_pids|(curr|last)val|"
    "gen_(random_bytes|salt))$"
)
_RUNS_TEXT = "^(crosstab.*|connectby|xpath_table)$"
JSON = (114, 3802)
AS_TEXT = extensions.new_type((1082, 1083, 1114, 1184, 1186, 1266, *JSON, 17), "AS_TEXT", lambda value, _: value)
"""Dates, times, JSON and bytes as the database writes them: Python has no year 10000 and no infinity."""
WRITES = (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported)
NO_QUERY = errors.InvalidCursorDefinition


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
        if word not in (*READS, *SETS):
            raise only_reads(f"{word or 'it'} is none of {', '.join((*READS, *SETS))}")
        try:
            self._connection.set_session(readonly=True, autocommit=False)
            with self._connection.cursor() as cursor:
                extensions.register_type(AS_TEXT, cursor)
                if word in SETS:
                    _set(cursor, sql)
                    yield Answer((), iter(()))
                else:
                    _refuse_acting(cursor, sql)
                    cursor.execute(_CURSOR.format(sql.encode("utf-8", "replace").hex()))
                    first = _fetch(cursor)
                    yield _answer(cursor, _rows(first, cursor))
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

        from pipelines.warehouse.duckdb.reader import PARQUET

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


def _set(cursor: extensions.cursor, sql: str) -> None:
    found = setting(sql)
    if found is None:
        raise cannot_set()
    name, value = found
    if value is None:
        cursor.execute(f"RESET {name}")
    else:
        cursor.execute("SELECT set_config(%s, %s, false)", found)


def _refuse_acting(cursor: extensions.cursor, sql: str) -> None:
    """Raise `QueryRefused` for a call that a read-only transaction lets pass though it does more than read."""
    if re.search(r'[uU]&\s*"', sql):
        raise only_reads('names are not written as U&"…" here')
    cursor.execute(_ACTS, (sorted(calls(sql)), _HARMLESS, _RUNS_TEXT))
    if name := (cursor.fetchone() or [None])[0]:
        raise acts(name)


def _fetch(cursor: extensions.cursor) -> list[tuple[Any, ...]]:
    cursor.execute(f"FETCH FORWARD {ROWS_AT_ONCE} FROM nightload")
    return cursor.fetchall()


def _rows(first: list[tuple[Any, ...]], cursor: extensions.cursor) -> Iterator[tuple[Any, ...]]:
    rows = first
    while rows:
        yield from rows
        if len(rows) < ROWS_AT_ONCE:
            return
        try:
            rows = _fetch(cursor)
        except psycopg2.Error as error:
            raise _explained(error) from None


def _explained(error: psycopg2.Error) -> NightloadError:
    told = error.diag
    why = ". ".join(text for text in (told.message_primary, told.message_detail, told.message_hint) if text)
    if isinstance(error, errors.QueryCanceled) and "user request" in why:
        return interrupted()
    if isinstance(error, WRITES) and ("read-only" in why or "data-modifying" in why):
        return only_reads(why)
    if isinstance(error, NO_QUERY):
        return only_reads(why)
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) and told.sqlstate is None:
        return Unavailable(what="the connection to the database was lost", why=str(error), todo="Run the query again")
    return refused(why or str(error))
