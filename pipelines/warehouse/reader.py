"""Reading what is published: no lock that blocks a night, no write. Light to import: `nightload sql` is quick."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Protocol

from pipelines.warehouse.sql_text import SETTINGS
from pipelines.warehouse.types import ColumnType
from sources.core.errors import ConfigurationError, NightloadError


@dataclass(frozen=True)
class Answer:
    """What a query gave: the columns' names, and the rows as they come. `json`: the places of JSON columns."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]
    json: frozenset[int] = frozenset()


class Reader(Protocol):
    """A published warehouse, read-only. Parameters are written `?`; times come in UTC."""

    dialect: Literal["duckdb", "postgres"]

    def answer(self, sql: str, parameters: Sequence[Any] = ()) -> Answer:
        """Raises `QueryRefused` for SQL that the database does not take."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows at once."""
        ...

    def stream(self, sql: str) -> AbstractContextManager[Answer]:
        """One statement of a user's, its rows in bounded memory; JSON as text. Its transaction ends with the block.

        Raises `QueryRefused`, also while rows come, and `Interrupted` after `cancel`.
        """
        ...

    def cancel(self) -> None:
        """End the statement that another thread waits for."""
        ...

    def tables(self, dataset: str) -> set[str]:
        """The tables and views of a dataset; none if there is no such dataset."""
        ...

    def columns(self, dataset: str) -> dict[str, list[ColumnType]]:
        """The tables of a dataset, without views, and their columns in order."""
        ...

    def views_on(self, dataset: str, table: str) -> list[str]:
        """The views that stand on a table, and on those views; of a file, those that name it."""
        ...

    def one_state(self) -> AbstractContextManager[None]:
        """Whatever is read inside is of one moment, however long the reading takes."""
        ...

    def to_parquet(self, dataset: str, table: str, path: Path, *, names: Mapping[str, str]) -> None:
        """Write a table's rows to a file, in the types that `columns` says; `names`: column → its name in the file."""
        ...


class QueryRefused(ConfigurationError):
    """SQL that the database does not take."""


class Interrupted(NightloadError):
    """The user ended a statement."""


def refused(why: str) -> QueryRefused:
    return QueryRefused(what="the query was refused", why=why, todo="Mend the SQL")


def only_reads(why: str) -> QueryRefused:
    return QueryRefused(
        what="the query was refused, for it does not only read",
        why=why,
        todo="Nothing was changed: the warehouse is opened for reading only, and a night would undo what others write",
    )


def acts(name: str) -> QueryRefused:
    return only_reads(f"{name}() acts on the server, on files or on other sessions, or runs SQL that a text holds")


def cannot_set() -> QueryRefused:
    return only_reads(f"of the settings only these can be set, to plain values: {', '.join(sorted(SETTINGS))}")


def warehouse_alone(why: str) -> QueryRefused:
    return QueryRefused(
        what="the query was refused, for it reaches out of the warehouse",
        why=why,
        todo="Ask the warehouse's own tables; --csv and --json write what they answer",
    )


def interrupted() -> Interrupted:
    return Interrupted(what="the query was interrupted")


def as_text(value: Any) -> str:
    """A value that is not NULL, alike for both databases."""
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case datetime():
            moment = value.replace(tzinfo=None).isoformat(" ")
            moment = moment.rstrip("0") if "." in moment else moment
            # Postgres writes +00; connections are set to UTC
            return moment if value.tzinfo is None else moment + value.isoformat()[-6:].removesuffix(":00")
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex()
        case dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, default=as_text)
        case _:
            return str(value)
