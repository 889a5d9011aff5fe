"""The tables of a DuckDB warehouse without what dbt made of them, put into a Postgres database as they are."""

from __future__ import annotations

from pathlib import Path

import duckdb
import psycopg2

KINDS = {"VARCHAR": "text", "DOUBLE": "double precision", "JSON": "jsonb", "TIMESTAMP WITH TIME ZONE": "timestamptz"}


def put_on_postgres(warehouse: Path, url: str, folder: Path) -> None:
    connection = psycopg2.connect(url)
    with duckdb.connect(str(warehouse), read_only=True) as duck, connection, connection.cursor() as postgres:
        duck.execute("SET TimeZone = 'UTC'")
        tables = duck.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE NOT starts_with(table_name, '_dlt') AND NOT starts_with(schema_name, 'analytics')"
        ).fetchall()
        for schema in sorted({schema for schema, _ in tables}):
            postgres.execute(f'CREATE SCHEMA "{schema}"')
        for schema, table in tables:
            name = f'"{schema}"."{table}"'
            columns = duck.execute(f"DESCRIBE {name}").fetchall()
            spec = ", ".join(f'"{column[0]}" {KINDS.get(column[1], column[1])}' for column in columns)
            postgres.execute(f"CREATE TABLE {name} ({spec})")
            file = folder / "table.csv"
            duck.execute(f"COPY {name} TO '{file}' (HEADER false, NULL '\\N', FORCE_QUOTE *)")
            with file.open("rb") as lines:
                postgres.copy_expert(f"COPY {name} FROM STDIN (FORMAT csv, NULL '\\N')", lines)
            file.unlink()
    connection.close()
