"""Runs the vendor's SQL (Presto) on the seeded tables, in a DuckDB of its own that is filled when first asked."""

from __future__ import annotations

import atexit
import json
import re
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.thinkingengine.data import PROJECT, World

if TYPE_CHECKING:
    import duckdb

NAMES = {
    "v_event": f"ta.v_event_{PROJECT}",
    "v_user": f"ta.v_user_{PROJECT}",
    "user_result_cluster": f"ta.user_result_cluster_{PROJECT}",
    "dim": f"ta_dim.dim_{PROJECT}_0_12",
}


class SqlError(Exception):
    """The vendor's SQL engine refuses it."""


class Engine:
    def __init__(self) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._filled: tuple[World, int] | None = None

    def run(self, world: World, sql: str) -> tuple[list[str], list[list[Any]]]:
        """Headers, and rows as JSON can hold them."""
        import duckdb
        import sqlglot

        try:
            # the schema `ta` may be left out
            full = re.sub(r"(?<![.\w])(v_event|v_user|user_result_cluster)_(\d+)", r"ta.\1_\2", sql)
            text = sqlglot.parse_one(full, read="trino").transform(_whole_division).sql("duckdb")
            cursor = self._tables(world).execute(text)
        except (duckdb.Error, sqlglot.errors.SqlglotError) as error:
            raise SqlError(str(error).splitlines()[0]) from None
        headers = [column[0] for column in cursor.description or ()]
        kinds = [str(column[1]) for column in cursor.description or ()]
        rows = [[_plain(value, kind) for value, kind in zip(row, kinds, strict=True)] for row in cursor.fetchall()]
        return headers, rows

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _tables(self, world: World) -> duckdb.DuckDBPyConnection:
        import duckdb

        if self._connection is None:
            atexit.register(self.close)
            self._connection = duckdb.connect(config={"threads": 1, "memory_limit": "200MB"})
            self._connection.execute("CREATE SCHEMA ta; CREATE SCHEMA ta_dim; SET TimeZone = 'UTC'")
        if self._filled is None or self._filled[0] is not world or self._filled[1] != world.version:
            with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
                for name, rows in world.tables.items():
                    self._fill(self._connection, name, world.columns[name], rows, Path(folder) / f"{name}.json")
            self._filled = world, world.version
        return self._connection

    def _fill(
        self, connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, str], rows: Any, file: Path
    ) -> None:
        with file.open("w", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps([row.get(column) for column in columns], ensure_ascii=False) + "\n")
        # by place, since DuckDB takes #Country and #country for one column when it reads objects
        values = ", ".join(
            f"""json_extract_string(v[{place}], '$')::{kind} AS "{column}" """
            for place, (column, kind) in enumerate(columns.items(), start=1)
        )
        connection.execute(
            f"CREATE OR REPLACE TABLE {NAMES[name]} AS SELECT {values} FROM "  # noqa: S608
            f"read_json('{file}', format='nd', records=false, columns={{v: 'JSON[]'}})"
        )


def _whole_division(node: Any) -> Any:
    """Presto divides integers to integers, DuckDB does not."""
    from sqlglot import exp

    if isinstance(node, exp.Div) and isinstance(node.this, exp.Cast) and node.this.to.is_type("bigint"):
        return exp.IntDiv(this=node.this, expression=node.expression)
    return node


def _plain(value: Any, kind: str) -> Any:
    match value:
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}"
        case date():
            return value.isoformat()
        case str() if kind == "JSON":
            return json.loads(value)
        case _:
            return value
