"""Reading a published DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import duckdb

from pipelines.warehouse.reader import Answer, interrupted, only_reads, refused

ROWS_AT_ONCE = 1000


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
        answer = self.answer(sql)
        tells = duckdb.extract_statements(sql)[0].expected_result_type
        # SET and its like answer with an empty column
        yield answer if duckdb.ExpectedResultType.QUERY_RESULT in tells else Answer((), iter(()))

    def cancel(self) -> None:
        self._connection.interrupt()

    def tables(self, dataset: str) -> set[str]:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = ?"
        return {name for (name,) in self.query(sql, [dataset])}

    def _rows(self, found: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while True:
            with _explained():
                rows = found.fetchmany(ROWS_AT_ONCE)
            if not rows:
                return
            yield from rows


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise interrupted() from None
    except duckdb.Error as error:
        raise (only_reads if "read-only mode" in str(error) else refused)(str(error)) from None
