"""Rows of a query as people and programs take them: a table, CSV, JSON. Integers and decimals keep every digit.

NULL and the empty text are told apart everywhere: in a table NULL is `NULL` (the text NULL has quotes), in CSV it is
nothing and the empty text is `""` (as Postgres writes it), in JSON it is null.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain, islice
from typing import Any

from pipelines.warehouse.reader import Answer, as_text

ROWS_THAT_SET_WIDTHS = 1000
WIDEST = 80
"""Signs of one cell in a table; longer texts are cut with an ellipsis. CSV and JSON have all of it."""
Write = Callable[[str], object]


def write_csv(answer: Answer, rows: Iterable[tuple[Any, ...]], write: Write) -> None:
    write(",".join(map(_csv, answer.columns)) + "\n")
    for row in rows:
        write(",".join("" if value is None else _csv(as_text(value)) for value in row) + "\n")


def write_json(answer: Answer, rows: Iterable[tuple[Any, ...]], write: Write) -> None:
    """One array of objects, a line per row; a column whose name came before gets a number."""
    names = [json.dumps(name, ensure_ascii=False) for name in _unique(answer.columns)]
    write("[")
    before = "\n"
    for row in rows:
        values = (_json(value, is_json=place in answer.json) for place, value in enumerate(row))
        write(before + "{" + ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True)) + "}")
        before = ",\n"
    write("\n]\n" if before != "\n" else "]\n")


def write_table(
    answer: Answer, rows: Iterable[tuple[Any, ...]], write: Write, *, width: int | None, dim: bool = False
) -> None:
    """Columns side by side; one below the other where they do not fit into `width`. Then how many rows there were."""
    from rich.cells import cell_len

    coming = (tuple(map(_cell, row)) for row in rows)
    first = list(islice(coming, ROWS_THAT_SET_WIDTHS))
    names = [shown(name) for name in answer.columns]
    widths = [max(cell_len(row[place]) for row in (tuple(names), *first)) for place in range(len(names))]
    counted = _Counted(chain(first, coming))
    # a number stands to the right, as the first row that has one shows
    raw_right = [any(_is_number(row[place]) for row in first) for place in range(len(names))]

    def padded(text: str, place: int) -> str:
        room = " " * (widths[place] - cell_len(text))
        styled = f"\x1b[2m{text}\x1b[0m" if dim and isinstance(text, _Null) else text
        return room + styled if raw_right[place] else styled + room

    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        label_width = max(map(cell_len, names), default=0)
        for number, row in enumerate(counted, 1):
            write(f"-- row {number}\n")
            for name, text in zip(names, row, strict=True):
                styled = f"\x1b[2m{text}\x1b[0m" if dim and isinstance(text, _Null) else text
                write(f"{name}{' ' * (label_width - cell_len(name))}  {styled}\n")
    else:
        for row in chain([tuple(names), tuple("-" * width for width in widths)], counted):
            write("  ".join(padded(text, place) for place, text in enumerate(row)).rstrip() + "\n")
    write(f"({counted.rows} row{'' if counted.rows == 1 else 's'})\n")


class _Null(str):
    """How NULL is shown."""

    __slots__ = ()


class _Number(str):
    """Digits, which are never cut."""

    __slots__ = ()


class _Counted:
    def __init__(self, rows: Iterable[tuple[str, ...]]) -> None:
        self._from, self.rows = rows, 0

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for row in self._from:
            self.rows += 1
            yield row


def _is_number(text: str) -> bool:
    return isinstance(text, _Number)


def _cell(value: Any) -> str:
    if value is None:
        return _Null("NULL")
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _Number(as_text(value))
    text = shown(as_text(value))
    return '"NULL"' if text == "NULL" else text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def shown(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def output() -> Write:
    """How text goes to stdout: as it is into a file or pipe; on a terminal with what that obeys escaped as in JSON.

    Line breaks stay. JSON stays JSON of the same meaning.
    """
    return _write_plain if sys.stdout.isatty() else sys.stdout.write


def _write_plain(text: str) -> None:
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)
    sys.stdout.write(text)


def _csv(text: str) -> str:
    if text and not any(sign in text for sign in ',"\r\n') and text == text.strip():
        return text
    return '"' + text.replace('"', '""') + '"'


def _json(value: Any, *, is_json: bool) -> str:
    match value:
        case None:
            return "null"
        case bool() | int():
            return json.dumps(value)
        case float() if math.isfinite(value):
            return repr(value)
        case Decimal() if value.is_finite():
            return format(value, "f")
        case str() if is_json:
            return value
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=as_text)
        case _:
            return json.dumps(as_text(value), ensure_ascii=False)


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found.append(unique)
    return found
