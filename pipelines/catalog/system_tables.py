"""The tables of the `nightload` dataset: write them from the ledger, and read them back into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.config.project import OWN_DATASET
from pipelines.ledger.schema import INCIDENTS, TABLES, key_of
from pipelines.ledger.store import Ledger
from pipelines.warehouse.base import Session, Warehouse
from pipelines.warehouse.reader import Reader
from sources.core.sql import quote

TYPES = {"TIMESTAMP": "TIMESTAMPTZ", "TEXT": "VARCHAR", "DOUBLE": "DOUBLE PRECISION"}
"""Ledger type → SQL type, where both databases have a better one."""


def publish(warehouse: Warehouse, ledger: Ledger) -> None:
    """Publish what was loaded, with the ledger's unpublished runs. Raises `NightloadError` or OSError."""
    runs = ledger.unpublished()
    warehouse.publish(lambda session: write_ledger(session, ledger, runs))
    ledger.published(runs)


def adopt(ledger: Ledger, reader: Reader) -> None:
    """Copy the runs that a warehouse knows into a ledger that does not know them."""
    existing = reader.tables(OWN_DATASET)

    def rows(table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        if table in existing:
            yield from reader.query(f"SELECT {', '.join(columns)} FROM {OWN_DATASET}.{table}")  # noqa: S608

    ledger.adopt(rows)


def add_rows(session: Session, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to `nightload.<table>`, which is made if it is not there."""
    target = quote(OWN_DATASET, table)
    types = {name: TYPES.get(kind, kind) for name, kind in columns.items()}
    if table not in session.tables(OWN_DATASET):
        session.create_dataset(OWN_DATASET)
        spec = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
        session.change(f"CREATE TABLE {target} ({spec})")
    if rows:
        session.insert(target, types, rows)


def replace_rows(
    session: Session, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, where: str
) -> None:
    """In `nightload.<table>`, put `rows` in place of those that meet the SQL condition `where`."""
    if table in session.tables(OWN_DATASET):
        session.change(f"DELETE FROM {quote(OWN_DATASET, table)} WHERE {where}")  # noqa: S608
    add_rows(session, table, columns, rows)


def write_ledger(session: Session, ledger: Ledger, runs: Sequence[str]) -> None:
    """Show what the ledger says of these runs, and of whatever else has an id there, in the dataset `nightload`."""
    ids = ", ".join(f"'{run_id}'" for run_id in runs)
    for table, columns in TABLES.items():
        where = f"{key_of(table)} IN ({ids})" if ids else "false"
        replace_rows(session, table, columns, ledger.rows(table, runs), where=where)
    write_incidents(session, ledger)
    if any(map(ledger.is_closed, runs)):  # once a night
        from pipelines.catalog.comments import comment_ours  # imports dlt, which `alert` and `copy` do without

        comment_ours(session)


def void_backfills(session: Session, ledger: Ledger, dataset: str, table: str) -> None:
    """The table is made anew: of what was backfilled, nothing counts as done."""
    ledger.void_backfills(dataset, table)
    # a chunk whose process was killed as it ended is known here alone
    if "backfills" in session.tables(OWN_DATASET):
        session.change(
            f"UPDATE {quote(OWN_DATASET, 'backfills')} SET status = 'void' WHERE dataset = ? AND table_name = ?",  # noqa: S608
            [dataset, table],
        )


def write_incidents(session: Session, ledger: Ledger) -> None:
    """Show every incident there was; where there never was one, no table."""
    if incidents := ledger.incidents():
        replace_rows(session, "incidents", INCIDENTS, incidents, where="true")
