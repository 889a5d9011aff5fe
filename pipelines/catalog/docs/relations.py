"""Which column points to which table: named like one, of the same type, and its values are found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from pipelines.catalog.introspect import ColumnThere
from pipelines.warehouse.reader import Reader
from sources.convert.types import DELETED_AT, VALID_TO
from sources.core.sql import quote

FOUND = 0.9
"""Share of the distinct values that must be found: a vendor forgets rows that others still point to."""
Columns = Mapping[tuple[str, str], Sequence[ColumnThere]]
"""(dataset, table) → its columns."""


@dataclass(frozen=True, order=True, kw_only=True)
class Relation:
    dataset: str
    table: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


def relations(reader: Reader, tables: Columns) -> list[Relation]:
    """The relations within each dataset, by name."""
    found = []
    for columns in tables.values():
        for column in columns:
            if not column.name.endswith("_id"):
                continue
            for relation in _candidates(column, tables):
                if _holds(reader, relation, tables):
                    found.append(relation)
                    break
    return sorted(found)


def key_of(columns: Sequence[ColumnThere]) -> tuple[str, ...]:
    return tuple(column.name for column in columns if column.key)


def is_history(columns: Sequence[ColumnThere]) -> bool:
    return any(column.name == VALID_TO for column in columns)


def _candidates(column: ColumnThere, tables: Columns) -> list[Relation]:
    """What the name of a column may mean, the likeliest first."""
    its = {each.name: each for each in tables[column.dataset, column.table]}
    stem = column.name.removesuffix("_id")
    names = {stem, f"{stem}s", f"{stem}es", f"{stem.removesuffix('y')}ies"}
    ranked = []
    for (dataset, parent), columns in tables.items():
        key = key_of(columns)
        exact = parent in names
        if dataset != column.dataset or parent == column.table or not key:
            continue
        if not exact and not any(parent.endswith(f"_{name}") for name in names):
            continue
        last, others = (key[-1], key[:-1]) if key[-1] in ("id", column.name) else ("", key)
        types = {each.name: each.type for each in columns}
        if not last or types[last] != column.type or any(types[o] != (its[o].type if o in its else "") for o in others):
            continue
        relation = Relation(
            dataset=dataset,
            table=column.table,
            columns=(*others, column.name),
            parent=parent,
            parent_columns=(*others, last),
        )
        ranked.append(((not exact, -_alike(column.table, parent), len(parent), parent), relation))
    return [relation for _, relation in sorted(ranked)]


def _alike(first: str, second: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _holds(reader: Reader, relation: Relation, tables: Columns) -> bool:
    child, parent = ((relation.dataset, name) for name in (relation.table, relation.parent))
    given = [f"{quote(name)} IS NOT NULL" for name in relation.columns]
    if any(column.name == DELETED_AT for column in tables[child]):
        given.append(f"{DELETED_AT} IS NULL")
    live = f" WHERE {VALID_TO} IS NULL" if is_history(tables[parent]) else ""
    same = " AND ".join(
        f"c.{quote(mine)} = p.{quote(its)}" for mine, its in zip(relation.columns, relation.parent_columns, strict=True)
    )
    ((values, found),) = reader.query(
        f"SELECT count(*), count(p.{quote(relation.parent_columns[-1])}) "  # noqa: S608
        f"FROM (SELECT DISTINCT {', '.join(map(quote, relation.columns))} FROM {quote(*child)} "
        f"WHERE {' AND '.join(given)}) c "
        f"LEFT JOIN (SELECT DISTINCT {', '.join(map(quote, relation.parent_columns))} FROM {quote(*parent)}{live}) p "
        f"ON {same}"
    )
    return bool(found and found >= values * FOUND)
