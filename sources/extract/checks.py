"""What keeps rows out of the warehouse: counts that part, a table that empties, a type that flips."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dlt.common.schema.typing import TColumnSchema

from sources.convert.parquet import Converted
from sources.convert.types import NUMERIC_ORDER
from sources.core.errors import CountMismatch, EmptyAnswer, TypeFlip
from sources.extract.sync import Outcome, Walk
from sources.extract.table import Mode, Table
from sources.privacy.masking import Screened

FLOOR = 0.5
"""A full walk that brings less than this share of the last one is refused, like an empty one."""
FLOOR_FROM = 100
"""…but only for tables of at least so many rows: small tables do halve."""


def refuse_flips(
    converted: Converted, stored: Mapping[str, TColumnSchema], *, table: Table, full: bool, where: str
) -> None:
    """A column keeps its type, unless its table can be built anew: a latest answer that widens, or --full."""
    for column in converted.columns:
        was = stored.get(column.name, {}).get("data_type")
        if was is None or was == column.kind:
            continue
        numeric = was in NUMERIC_ORDER and column.kind in NUMERIC_ORDER
        raise TypeFlip(
            table=where,
            column=column.label,
            known=was,
            arrived=str(column.kind),
            widens=full or (table.mode == Mode.LATEST and numeric),
        )


def reckon_total(outcome: Outcome, walk: Walk, screened: Screened, *, complete: bool) -> None:
    """The vendor's total less the rows of forgotten people: those of this walk, and those of earlier ones."""
    known = [] if complete else [each for each in walk.state.get("kept_out", ()) if each[0] not in screened.scopes]
    kept = {(scope, key) for scope, key in (*known, *screened.keys)}
    walk.state.pop("kept_out", None)
    if kept and (outcome.total is not None or walk.window is not None):
        walk.state["kept_out"] = sorted([scope, key] for scope, key in kept)
    if outcome.total is not None:
        outcome.total -= len(kept)


def compare_counts(outcome: Outcome, where: str) -> None:
    if outcome.vendor_count is not None and outcome.vendor_count != (outcome.extracted or 0) + outcome.kept_out:
        raise CountMismatch(
            table=where,
            counts={"vendor": outcome.vendor_count, "extracted": outcome.extracted or 0},
            todo="Run again; if it stays, compare the vendor's list with its own count",
        )


def guard_floor(came: int, before: int | None, *, where: str, allowed: Collection[str] = (), of: str = "rows") -> None:
    """Refuse what would empty a table, or nearly: a vendor who lost sight of the rows sends none as well.

    Raises `EmptyAnswer`, unless `allowed` names the table, or `*`.
    """
    if not before or came >= before * FLOOR or (came and before < FLOOR_FROM) or {"*", where} & {*allowed}:
        return
    raise EmptyAnswer(
        table=where,
        had=before,
        what=f"{came or 'no'} {of} came for table {where}, which had {before}",
        why="the vendor or its key may have lost sight of them",
        todo=f"Nothing was changed. If the vendor is right: nightload run --allow-empty {where}",
    )
