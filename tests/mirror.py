"""A Postgres warehouse as a DuckDB file, so that what a test promises is asked of both databases in the same words."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import duckdb
import psycopg2

TYPES = {
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "character varying": "VARCHAR",
    "date": "DATE",
    "double precision": "DOUBLE",
    "jsonb": "JSON",
    "timestamp with time zone": "TIMESTAMPTZ",
}
"""Any other type in a warehouse is a mistake, and the KeyError of a test."""


class Mirror:
    """The tables of one Postgres database, read again only if something was written there since."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder = tempfile.TemporaryDirectory(prefix="nightload-mirror-")
        self._seen: tuple[str, int] | None = None

    def file(self) -> Path:
        path = Path(self._folder.name) / "warehouse.duckdb"
        with closing(psycopg2.connect(self._url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, current_database()")
            (transaction, database) = cursor.fetchone() or (0, "")
            if self._seen != (database, transaction):
                path.unlink(missing_ok=True)
                self._read(connection, path)
                self._seen = (database, transaction)
        return path

    def _read(self, connection: psycopg2.extensions.connection, path: Path) -> None:
        with connection.cursor() as cursor, duckdb.connect(str(path)) as target:
            target.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false; BEGIN")
            cursor.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET extra_float_digits = 3")
            cursor.execute(
                "SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum), "
                "array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = c.relnamespace "
                "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
                "WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' "
                "GROUP BY 1, 2"
            )
            for schema, table, names, kinds in cursor.fetchall():
                types = {name: _type(kind) for name, kind in zip(names, kinds, strict=True)}
                spec = ", ".join(f"{_quote(name)} {kind}" for name, kind in types.items())
                where = f"{_quote(schema)}.{_quote(table)}"
                target.execute(f"CREATE SCHEMA IF NOT EXISTS {_quote(schema)}; CREATE TABLE {where} ({spec})")
                out = path.with_name("table.csv")
                with out.open("wb") as file:
                    cursor.copy_expert(f"COPY {where} TO STDOUT (FORMAT csv)", file)
                if out.stat().st_size:
                    target.execute(
                        f"INSERT INTO {where} FROM read_csv(?, columns = ?, header = false, delim = ',', quote = '\"', "
                        "escape = '\"', nullstr = '', allow_quoted_nulls = false, auto_detect = false, "
                        "max_line_size = 100000000)",
                        [str(out), types],
                    )
            target.execute("COMMIT")


def _type(kind: str) -> str:
    if kind.startswith("numeric("):
        return kind.upper()
    return TYPES[kind.partition("(")[0]]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
