"""What there is in a warehouse: tables and columns, in the database's words and the vendor's."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.project import OWN_DATASET
from pipelines.warehouse.reader import Reader
from sources.core.errors import ConfigurationError, did_you_mean

TABLES = {
    "duckdb": (
        "SELECT schema_name, table_name, comment FROM duckdb_tables() "
        "WHERE NOT internal AND database_name = current_database() "
        "UNION ALL SELECT schema_name, view_name, comment FROM duckdb_views() "
        "WHERE NOT internal AND database_name = current_database()"
    ),
    "postgres": (
        "SELECT n.nspname, c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        "AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND has_table_privilege(c.oid, 'SELECT')"
    ),
}
COLUMNS = {
    "duckdb": (
        "SELECT schema_name, table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() ORDER BY schema_name, table_name, column_index"
    ),
    "postgres": (
        "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), "
        "col_description(c.oid, a.attnum) "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        "AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND has_table_privilege(c.oid, 'SELECT') "
        "ORDER BY n.nspname, c.relname, a.attnum"
    ),
}


@dataclass(frozen=True, kw_only=True)
class TableThere:
    dataset: str
    name: str
    about: str | None

    @property
    def full_name(self) -> str:
        return f"{self.dataset}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class ColumnThere:
    """`label` is the vendor's own name of it; None: it is not the vendor's."""

    dataset: str
    table: str
    name: str
    type: str
    about: str | None
    label: str | None
    key: bool


def tables_of(reader: Reader, dataset: str | None = None) -> list[TableThere]:
    """The tables and views by name, but for dlt's own. Raises `ConfigurationError` if there is no such dataset."""
    found = [
        TableThere(dataset=schema, name=name, about=about)
        for schema, name, about in reader.query(TABLES[reader.dialect])
        if not name.startswith("_dlt_") and not schema.endswith("_staging")
    ]
    if dataset is not None:
        datasets = {table.dataset for table in found}
        found = [table for table in found if table.dataset == dataset]
        if not found:
            raise _no_such(dataset, datasets)
    return sorted(found, key=lambda table: (table.dataset, table.name))


def columns_of(reader: Reader, dataset: str | None = None, table: str | None = None) -> list[ColumnThere]:
    """The columns in their order. Raises `ConfigurationError` if `table` is named and not there."""
    labels = {}
    if "columns" in reader.tables(OWN_DATASET):
        sql = "SELECT dataset, table_name, column_name, label, is_key FROM nightload.columns"
        labels = {tuple(row[:3]): row[3:] for row in reader.query(sql)}
    found = []
    for schema, name, column, kind, about in reader.query(COLUMNS[reader.dialect]):
        label, key = labels.get((schema, name, column), (None, False))
        found.append(
            ColumnThere(
                dataset=schema, table=name, name=column, type=kind.lower(), about=about, label=label, key=bool(key)
            )
        )
    if table is None:
        return found
    its = [column for column in found if (column.dataset, column.table) == (dataset, table)]
    if not its:
        raise _no_such(f"{dataset}.{table}", {f"{column.dataset}.{column.table}" for column in found})
    return its


def split_name(name: str) -> tuple[str, str]:
    """`dataset.table` in its parts. Raises `ConfigurationError`."""
    dataset, _, table = name.partition(".")
    if not dataset or not table:
        raise ConfigurationError(what=f"{name} names no table", todo="Write DATASET.TABLE; .tables lists what there is")
    return dataset, table


def _no_such(name: str, known: set[str]) -> ConfigurationError:
    return ConfigurationError(what=f"there is no {name}", todo=did_you_mean(name, known, ".tables lists what there is"))
