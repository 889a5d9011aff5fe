"""What dlt is told of a table's columns, and what they are called and hold in the warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from dlt.common.schema.typing import TColumnSchema

from sources import naming
from sources.convert.types import DELETED_AT, NUMERIC_ORDER, ROW_VERSION, VALID_FROM, VALID_TO, Column, Kind, join
from sources.core.sql import quote
from sources.extract.sync import Extra, Outcome, Walk
from sources.extract.table import Mode, Table


def extras_of(walk: Walk, columns: Sequence[Column]) -> dict[str, Extra]:
    """The columns that are not the vendor's: the fetch's own, and what the mode needs."""
    extra = dict(walk.extra)
    if walk.table.mode in (Mode.FULL, Mode.INCREMENTAL):
        extra[DELETED_AT] = Extra("NULL::TIMESTAMPTZ", "timestamp")
    if walk.table.mode == Mode.HISTORY:
        extra[ROW_VERSION] = Extra(version_of(columns), "text")
    return extra


def name_columns(
    columns: Sequence[Column], stored: Mapping[str, TColumnSchema], *, taken: Iterable[str] = ()
) -> list[Column]:
    """Give each column its name; a label keeps the column that it has in the warehouse; `taken` are ours."""
    known = {str(hints["x-label"]): name for name, hints in stored.items() if "x-label" in hints}  # type: ignore[typeddict-item]
    columns = _each_label_once(columns)
    labels = [column.label for column in columns]
    named = naming.columns_for(labels, known=known, reserved=naming.RESERVED.union(taken))
    return [replace(column, name=named[column.label]) for column in columns]


def _each_label_once(columns: Sequence[Column]) -> Sequence[Column]:
    """The columns; where two keys became one label, all but one of them carry a tag of their key."""
    if len({column.label for column in columns}) == len(columns):
        return columns
    # a key that is its own label comes first; so the outcome does not depend on the order of the columns
    order = sorted(range(len(columns)), key=lambda at: (columns[at].place != (columns[at].label,), columns[at].place))
    found, taken = list(columns), dict[str, tuple[str, ...]]()
    for at in order:
        label, key = columns[at].label, columns[at].place
        if taken.setdefault(label, key) != key:
            found[at] = replace(columns[at], label=f"{label} [{naming.tag_for(json.dumps(key))}]", path=key)
    return found


def columns_of(stored: Mapping[str, TColumnSchema]) -> tuple[Column, ...]:
    """The vendor's columns of a table in the warehouse."""
    found: Iterable[tuple[str, Mapping[str, Any]]] = stored.items()
    return tuple(
        Column(label=hints["x-label"], name=name, kind=Kind(hints["data_type"]), scale=hints.get("scale") or 0)
        for name, hints in found
        if "x-label" in hints and hints.get("data_type")
    )


def at_least(column: Column, stored: Mapping[str, TColumnSchema]) -> Column:
    """An undeclared column is not narrower than it is in the warehouse: 5 stays text where ids were text."""
    hints = stored.get(column.name)
    if (column.declared and column.kind is not None) or hints is None or hints.get("data_type") is None:
        return column
    kind = Kind(str(hints["data_type"]))
    if kind not in (*NUMERIC_ORDER, Kind.TEXT, Kind.JSON):
        return column
    joined = join(column.kind, kind) if column.kind else kind
    return replace(column, kind=joined, declared=False, scale=hints.get("scale") or 0)


def disposition_of(mode: Mode, *, first: bool) -> Literal["replace", "append", "merge"]:
    if mode == Mode.LATEST:
        return "replace"
    # nothing to merge with: spares the staging table and the delete
    return "append" if first and mode != Mode.HISTORY else "merge"


def table_hints(table: Table, outcome: Outcome, *, until: datetime) -> dict[str, Any]:
    hints: dict[str, Any] = {"x-label": outcome.label}
    if table.mode == Mode.HISTORY:
        # dlt's own way to say it, {"strategy": "scd2"}, forgets the type of the version column
        hints |= {"x-merge-strategy": "scd2", "x-boundary-timestamp": until.isoformat()}
    return hints


def version_of(columns: Sequence[Column]) -> str:
    names = ", ".join(quote(column.name) for column in columns)
    return f"md5(row({names})::VARCHAR)"


def dlt_columns(
    columns: Sequence[Column], table: Table, *, key: Sequence[str], extra: Mapping[str, Extra]
) -> dict[str, TColumnSchema]:
    hints: dict[str, Any] = {}
    for column in columns:
        hint: dict[str, Any] = {"name": column.name, "data_type": str(column.kind), "x-label": column.label}
        if column.kind == Kind.DECIMAL:
            hint |= {"precision": 38, "scale": column.scale}
        if column.name in key and not table.scope:
            # of a scope and a key dlt deletes by one OR the other, which no hash join can serve
            # not "nullable": False, which to_parquet has proven and DuckDB cannot write into the file: dlt would
            # rewrite it in Python
            hint["primary_key"] = True
        hints[column.name] = hint
    for name, each in extra.items():
        hints[name] = {"name": name, "data_type": each.data_type}
        if name in key and not table.scope:
            hints[name] |= {"primary_key": True, "nullable": False}
    if table.mode == Mode.HISTORY:
        hints[ROW_VERSION] |= {"x-row-version": True, "nullable": False}
        for name, role in ((VALID_FROM, "x-valid-from"), (VALID_TO, "x-valid-to")):
            hints[name] = {"name": name, "data_type": "timestamp", "nullable": True, role: True}
        hints[VALID_TO]["x-active-record-timestamp"] = None
    if table.scope:
        hints[table.scope] |= {"merge_key": True}
    hints["_dlt_load_id"] = {"name": "_dlt_load_id", "data_type": "text", "nullable": False}
    return hints
