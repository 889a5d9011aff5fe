"""Reading a published DuckDB file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import duckdb

from pipelines.warehouse.reader import (
    Answer,
    acts,
    cannot_set,
    interrupted,
    only_reads,
    refused,
    warehouse_alone,
)
from pipelines.warehouse.sql_text import calls, first_word, setting
from pipelines.warehouse.types import ColumnType, from_duckdb
from sources.core.sql import literal, quote

ROWS_AT_ONCE = 1000
PARQUET = "FORMAT parquet, ROW_GROUP_SIZE 30720"
READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
PRAGMAS = re.compile(
    r"PRAGMA\s+(table_info|show|show_tables|show_tables_expanded|show_databases|database_list|database_size|"
    r"storage_info|metadata_info|version|platform|functions|collations)\b[^=]*",
    re.IGNORECASE,
)
ACTS = re.compile(
    r"(enable|disable)_\w+|truncate_duckdb_logs|write_log|(force_)?checkpoint|\w*external_resource\w*|query|"
    r"json_execute_serialized_sql|(pandas|arrow|python)_\w+|(next|set)val|read_duckdb"
)
"""Functions that do more than read: an `enable_logging` that a read-only file cannot take ends the process."""


class DuckDbReader:
    dialect: Literal["duckdb", "postgres"] = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        connection.execute("SET TimeZone = 'UTC'")

    def answer(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        with _explained():
            found = self._connection.execute(sql, list(parameters))
        described = found.description or ()
        json = frozenset(place for place, column in enumerate(described) if str(column[1]) == "JSON")
        return Answer(tuple(column[0] for column in described), self._rows(found), json)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return list(self.answer(sql, parameters).rows)

    @contextmanager
    def stream(self, sql: str) -> Iterator[Answer]:
        _refuse_acting(sql)
        # a user's statement has the warehouse and nothing else: it could write files, the warehouse's own among them
        self._connection.execute("SET enable_external_access = false")
        answer = self.answer(sql)
        tells = duckdb.extract_statements(sql)[0].expected_result_type
        # SET and its like answer with an empty column
        yield answer if duckdb.ExpectedResultType.QUERY_RESULT in tells else Answer((), iter(()))

    def cancel(self) -> None:
        self._connection.interrupt()

    def tables(self, dataset: str) -> set[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = ?"
        return {name for (name,) in self.query(sql, [dataset])}

    def columns(self, dataset: str) -> dict[str, list[ColumnType]]:
        found: dict[str, list[ColumnType]] = {}
        for table, name, kind, nullable in self.query(
            "SELECT c.table_name, c.column_name, c.data_type, c.is_nullable FROM duckdb_columns() c "
            "JOIN duckdb_tables() t ON t.schema_name = c.schema_name AND t.table_name = c.table_name "
            "WHERE c.schema_name = ? ORDER BY c.table_name, c.column_index",
            [dataset],
        ):
            kind = from_duckdb(kind, where=f"{dataset}.{table}.{name}")
            found.setdefault(table, []).append(ColumnType(name, kind, nullable))
        return found

    def views_on(self, dataset: str, table: str) -> list[str]:
        rows = self.query(
            "SELECT schema_name || '.' || view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY 1"
        )
        named = re.compile(rf'(?<!\w)"?{re.escape(table)}"?(?!\w)')
        return [
            view for view, sql in rows if re.search(rf'(?<!\w)"?{re.escape(dataset)}"?\.', sql) and named.search(sql)
        ]

    def one_state(self) -> AbstractContextManager[None]:
        """Always: a night puts another file in the place of this one."""
        return nullcontext()

    def to_parquet(self, dataset: str, table: str, path: Path, *, names: Mapping[str, str]) -> None:
        renamed = ", ".join(f"{quote(name)} AS {quote(other)}" for name, other in names.items())
        columns = f"* RENAME ({renamed})" if names else "*"
        self._connection.execute(
            f"COPY (SELECT {columns} FROM {quote(dataset, table)}) TO {literal(path)} ({PARQUET})"  # noqa: S608
        )

    def _rows(self, found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while True:
            with _explained():
                rows = found.fetchmany(ROWS_AT_ONCE)
            if not rows:
                return
            yield from rows


def _refuse_acting(sql: str) -> None:
    """Raise `QueryRefused` unless the text is one statement that reads."""
    with _explained():
        statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise only_reads("it is more than one statement")
    kind, plain = statements[0].type, sql.strip()
    if first_word(plain) in ("SET", "RESET"):
        if setting(plain) is None:
            raise cannot_set()
    elif not (
        kind in READS
        or PRAGMAS.fullmatch(plain)
        or re.fullmatch(r"USE\s+[\w.\"]+", plain, re.IGNORECASE)
        or (kind == duckdb.StatementType.MULTI and first_word(plain) == "PIVOT")
    ):
        raise only_reads(f"{first_word(plain) or 'it'} is no query")
    if name := next(filter(ACTS.fullmatch, sorted(calls(plain))), None):
        raise acts(name)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise interrupted() from None
    except duckdb.PermissionException as error:
        raise warehouse_alone(str(error)) from None
    except duckdb.Error as error:
        raise (only_reads if "read-only mode" in str(error) else refused)(str(error)) from None
