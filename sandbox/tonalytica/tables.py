"""A table as the warehouse behind the Redash returns it, and how its columns get their names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox.core.wire import dumps

Row = dict[str, Any]


@dataclass
class Table:
    columns: list[dict[str, Any]]
    row_count: int
    write_rows: Callable[[], bytes]
    extra: dict[str, Any] = field(default_factory=dict)
    rows_first: bool = False


class StatementError(Exception):
    """The database refused the statement; the text is the job's error."""


@dataclass
class Run:
    seed: int
    scale: float
    text: str
    number: int
    """How often this recipe ran before."""

    @property
    def rng(self) -> random.Random:
        return random.Random(f"{self.seed}|{self.text}")


def unique_names(names: list[str]) -> list[str]:
    """Redash's counter for columns of one name: id,id,name,name,id,id1 -> id,id1,name,name1,id2,id11 (section 5)."""
    taken: list[str] = []
    counters: dict[str, int] = {}
    for name in names:
        unique = name
        while unique in taken:
            counters[name] = counters.get(name, 0) + 1
            unique = f"{name}{counters[name]}"
        taken.append(unique)
    return taken


def columns_of(**types: str | None) -> list[dict[str, Any]]:
    return named_columns(list(types.items()))


def named_columns(pairs: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
    names = unique_names([name for name, _ in pairs])
    return [{"name": name, "friendly_name": name, "type": kind} for name, (_, kind) in zip(names, pairs, strict=True)]


def table(columns: list[dict[str, Any]], rows: list[Row], **extra: Any) -> Table:
    return Table(columns, len(rows), lambda: dumps(rows), extra)


def positional(columns: list[dict[str, Any]], rows: list[tuple[Any, ...]]) -> Table:
    names = [column["name"] for column in columns]
    return table(columns, [dict(zip(names, row, strict=True)) for row in rows])
