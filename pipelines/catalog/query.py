"""The published warehouse, read by those commands that answer from it and ask no vendor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.config.project import Place
from pipelines.warehouse.open import open_reader
from sources.core.errors import ConfigurationError

Row = dict[str, Any]
Read = Callable[[str], list[Row]]


@contextmanager
def published(place: Place) -> Iterator[Read]:
    """Run SQL on the warehouse as it was last published; one state of it, however long the reading takes.

    Raises `ConfigurationError` if there is no warehouse, `NightloadError` if it cannot be opened.
    """
    with open_reader(place) as reader, reader.one_state():

        def read(sql: str) -> list[Row]:
            found = reader.answer(sql)
            return [dict(zip(found.columns, row, strict=True)) for row in found.rows]

        yield read


def live_rows(read: Read, dataset: str, table: str) -> list[Row] | None:
    """The rows that the vendor still has, in no order; None if the table was never loaded."""
    columns = {
        row["column_name"]
        for row in read(
            "SELECT column_name FROM information_schema.columns "  # noqa: S608 - names of our own tables
            f"WHERE table_schema = '{dataset}' AND table_name = '{table}'"
        )
    }
    if not columns:
        return None
    live = " WHERE _deleted_at IS NULL" if "_deleted_at" in columns else ""
    return read(f'SELECT * FROM "{dataset}"."{table}"{live}')  # noqa: S608 - as above


def unpacked(value: Any) -> Any:
    """A JSON column's value, which comes as its text or parsed, by the database."""
    return json.loads(value) if isinstance(value, str) else value


def not_loaded(vendor: str) -> ConfigurationError:
    return ConfigurationError(
        what=f"the warehouse holds nothing of {vendor}", todo=f"Load it first: nightload run {vendor}"
    )
