"""What the columns are called at the vendor's, and what changed in a schema."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import dlt

from pipelines.catalog.system_tables import replace_rows
from pipelines.config.project import OWN_DATASET
from pipelines.warehouse.base import Session
from sources.core.sql import quote
from sources.naming import without_system_columns

COLUMNS = {
    "dataset": "TEXT",
    "table_name": "TEXT",
    "table_label": "TEXT",
    "column_name": "TEXT",
    "label": "TEXT",
    "data_type": "TEXT",
    "is_key": "BOOLEAN",
}
"""`nightload.columns`: one row per column that came from a vendor; `label` is the vendor's own name."""

Snapshot = Mapping[str, Mapping[str, Mapping[str, Any]]]


def snapshot(pipeline: dlt.Pipeline) -> dict[str, dict[str, dict[str, Any]]]:
    """table → column → hints, of what is known so far."""
    if not pipeline.schema_names:
        return {}
    return {
        str(table["name"]): {name: dict(hints) for name, hints in table["columns"].items() if "data_type" in hints}
        for table in pipeline.default_schema.data_tables()
        if any("data_type" in hints for hints in table["columns"].values())
    }


def rename_system_columns(pipeline: dlt.Pipeline) -> dict[str, dict[str, str]]:
    """Rename the columns that Postgres does not take, in the schema: table → old → new. The next load does the rest."""
    if not pipeline.schema_names:
        return {}
    renamed = {}
    for table in pipeline.default_schema.data_tables():
        if names := without_system_columns(table["columns"]):
            renamed[str(table["name"])] = names
            table["columns"] = {
                names.get(name, name): {**hints, "name": names.get(name, name)}
                for name, hints in table["columns"].items()
            }
    return renamed


def rename_columns(session: Session, dataset: str, renamed: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Rename these columns (table → old → new) where they are; the rows of `nightload.schema_changes`, without run."""
    changes = []
    there = session.comments(dataset) if renamed else {}
    for table, names in renamed.items():
        for old, new in names.items():
            if (table, old) in there and (table, new) not in there:
                session.change(f"ALTER TABLE {quote(dataset, table)} RENAME COLUMN {quote(old)} TO {quote(new)}")
                changes.append({"table_name": table, "column_name": new, "change": "renamed column"})
    name_again(session, dataset, renamed, tables=("column_values",))
    return changes


def name_again(
    session: Session, dataset: str, renamed: Mapping[str, Mapping[str, str]], *, tables: Iterable[str]
) -> None:
    """Say the new names of columns in these tables of the dataset `nightload`."""
    for own in session.tables(OWN_DATASET).intersection(tables) if renamed else ():
        for table, names in renamed.items():
            for old, new in names.items():
                session.change(
                    f"UPDATE {quote(OWN_DATASET, own)} SET column_name = ? "  # noqa: S608
                    "WHERE dataset = ? AND table_name = ? AND column_name = ?",
                    [new, dataset, table, old],
                )


def changes_between(before: Snapshot, after: Snapshot) -> list[dict[str, Any]]:
    """The rows of `nightload.schema_changes`, without run and dataset."""
    changes: list[dict[str, Any]] = []
    for table, columns in after.items():
        if table not in before:
            changes.append({"table_name": table, "change": "new table"})
            continue
        for column, hints in columns.items():
            old = before[table].get(column, {}).get("data_type")
            new = hints["data_type"]
            if old == new:
                continue
            changes.append(
                {
                    "table_name": table,
                    "column_name": column,
                    "change": "new column" if old is None else "type",
                    "old_type": old,
                    "new_type": new,
                }
            )
    changes += [{"table_name": table, "change": "dropped table"} for table in before if table not in after]
    return changes


def columns_of(pipeline: dlt.Pipeline, known: Snapshot) -> list[dict[str, Any]]:
    """The rows of `nightload.columns` for one dataset."""
    keys = {
        table: [hints for hints in columns.values() if hints.get("primary_key")] for table, columns in known.items()
    }
    labels = {table["name"]: table.get("x-label") for table in pipeline.default_schema.data_tables()}
    return [
        {
            "dataset": pipeline.dataset_name,
            "table_name": table,
            "table_label": labels.get(table) or table,
            "column_name": column,
            "label": hints["x-label"],
            "data_type": hints["data_type"],
            # a column of ours may belong to the key: then the vendor's alone are none
            "is_key": bool(hints.get("primary_key")) and all("x-label" in each for each in keys[table]),
        }
        for table, columns in known.items()
        for column, hints in columns.items()
        if "x-label" in hints
    ]


def keys_of(known: Snapshot, tables: Collection[str]) -> dict[str, list[str]]:
    """Of these tables, the columns by which a merge finds the rows to replace."""
    found = {
        table: [name for name, hints in columns.items() if hints.get("primary_key") or hints.get("merge_key")]
        for table, columns in known.items()
        if table in tables
    }
    return {table: key for table, key in found.items() if key}


def record_columns(session: Session, dataset: str, rows: list[dict[str, Any]]) -> None:
    replace_rows(session, "columns", COLUMNS, rows, where=f"dataset = '{dataset}'")
