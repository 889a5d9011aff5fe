"""Reading a published DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import duckdb

from pipelines.warehouse.reader import Answer, QueryRefused

ROWS_AT_ONCE = 1000


class DuckDbReader:
    dialect: Literal["duckdb", "postgres"] = "duckdb"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        connection.execute("SET TimeZone = 'UTC'")

    def answer(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        try:
            found = self._connection.execute(sql, list(parameters))
        except duckdb.Error as error:
            raise QueryRefused(what="the query was refused", why=str(error), todo="Mend the SQL") from None
        return Answer(tuple(column[0] for column in found.description or ()), self._rows(found))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return list(self.answer(sql, parameters).rows)

    def tables(self, dataset: str) -> set[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = ?"
        return {name for (name,) in self.query(sql, [dataset])}

    def _rows(self, found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while rows := found.fetchmany(ROWS_AT_ONCE):
            yield from rows
