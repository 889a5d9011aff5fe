"""A whole warehouse from one database to another: rows, history, cursors and ledger, each table's count proven.

dlt keeps its cursors and schemas in tables of each dataset, so they come along with the rows, and the
first night on the new warehouse goes on where the last one on the old ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from pipelines.catalog.schema_changes import name_again
from pipelines.catalog.system_tables import adopt, publish
from pipelines.config.project import OWN_DATASET, Place
from pipelines.ledger.store import Ledger
from pipelines.warehouse.base import Session
from pipelines.warehouse.lock import lock
from pipelines.warehouse.open import open_reader, open_warehouse
from pipelines.warehouse.reader import Reader
from sources import VENDORS
from sources.core.errors import ConfigurationError, CountMismatch
from sources.core.sql import quote
from sources.extract.connector import package
from sources.naming import without_system_columns


@dataclass(frozen=True)
class Copied:
    """One table and its rows."""

    table: str
    rows: int


def copy(source: Place, target: Place, *, on_table: Callable[[str], None] | None = None) -> list[Copied]:
    """Copy what nightload loaded; nothing is seen in `target` before all of it is there.

    Raises `ConfigurationError` if the target has tables of ours already or the source has none,
    `Locked` if a run has the target, `CountMismatch` if a table's rows are not all found again.
    """
    if source.shown == target.shown:
        raise ConfigurationError(what="a warehouse cannot be copied onto itself", where=source.shown)
    datasets = [OWN_DATASET, *(name for vendor in VENDORS for name in package(vendor).tables())]
    with (
        lock(target),
        open_reader(source) as reader,
        reader.one_state(),
        open_warehouse(target, datasets=datasets[1:]) as warehouse,
    ):
        there = {dataset: tables for dataset in datasets if (tables := reader.columns(dataset))}
        if not there:
            raise ConfigurationError(what="there is nothing of nightload's to copy", where=source.shown)
        warehouse.begin()
        work = target.work / "copy"
        work.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(target.ledger)
        try:
            with warehouse.write() as session:
                _refuse_full(session, there, target)
            copied = []
            renamed: dict[str, dict[str, dict[str, str]]] = {}
            for dataset, tables in there.items():
                for table, columns in tables.items():
                    if on_table:
                        on_table(f"{dataset}.{table}")
                    file = work / "table.parquet"
                    names = without_system_columns(column.name for column in columns)
                    reader.to_parquet(dataset, table, file, names=names)
                    columns = [replace(column, name=names.get(column.name, column.name)) for column in columns]
                    with warehouse.write() as session:
                        session.create_table(dataset, table, columns)
                        session.load(dataset, table, columns, file)
                        copied.append(_counted(reader, session, dataset, table))
                    file.unlink()
                    if names:
                        renamed.setdefault(dataset, {})[table] = names
            with warehouse.write() as session:
                for dataset, of_tables in renamed.items():
                    name_again(session, dataset, of_tables, tables=("columns", "column_values"))
            for dataset, table, key in _keys(reader):
                names = renamed.get(dataset, {}).get(table, {})
                warehouse.index(dataset, table, [names.get(column, column) for column in key])
            if ledger.is_new():
                adopt(ledger, reader)
            publish(warehouse, ledger)
            return copied
        finally:
            ledger.close()
            shutil.rmtree(target.work, ignore_errors=True)


def _refuse_full(session: Session, there: Collection[str], target: Place) -> None:
    for dataset in there:
        if tables := session.tables(dataset):
            raise ConfigurationError(
                what="the warehouse to copy to is not empty",
                where=target.shown,
                why=f"it has {dataset}.{min(tables)}",
                todo="Nothing was changed. Name a new one, or drop nightload's datasets there first",
            )


def _counted(reader: Reader, session: Session, dataset: str, table: str) -> Copied:
    count = f"SELECT count(*) FROM {quote(dataset, table)}"  # noqa: S608
    ((before,),), ((after,),) = reader.query(count), session.query(count)
    if before != after:
        raise CountMismatch(
            table=f"{dataset}.{table}",
            counts={"source": before, "target": after},
            todo="Nothing was changed. Copy again",
        )
    return Copied(table=f"{dataset}.{table}", rows=int(after))


def _keys(reader: Reader) -> list[tuple[str, str, list[str]]]:
    """The keys of the tables into which rows are merged."""
    if not {"columns", "run_tables"} <= reader.tables(OWN_DATASET):
        return []
    found: dict[tuple[str, str], list[str]] = {}
    for dataset, table, column in reader.query(
        "SELECT DISTINCT c.dataset, c.table_name, c.column_name FROM nightload.columns c "
        "JOIN nightload.run_tables t ON t.dataset = c.dataset AND t.table_name = c.table_name "
        "WHERE c.is_key AND t.mode IN ('full', 'incremental', 'kept')"
    ):
        if table in reader.tables(dataset):
            found.setdefault((dataset, table), []).append(column)
    return [(dataset, table, key) for (dataset, table), key in found.items()]
