"""`rules.csv`: the vendor says tab and shows commas, and its names are what people typed, quotes and commas and all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sources.convert.newlines import hide_bare_returns
from sources.core.errors import BrokenAnswer
from sources.growingio.delimited import Dialect
from sources.growingio.settings import VENDOR

_LONGEST_CELL = 64 * 2**20


def rules_of(file: Path, dialect: Dialect, *, where: str) -> list[dict[str, Any]]:
    """The rules, a row each, by the header's labels. Under commas a name may hold commas: id first, type last.

    Each line is a rule, so that a quote which a name begins with does not swallow the lines behind it. Only where lines
    are too short, the file is tried as CSV whose quotes go over several lines. Raises `BrokenAnswer` for a line with
    more cells than that explains.
    """
    returned = hide_bare_returns(file) or "\r"
    with file.open(encoding="utf-8-sig") as body:
        lines = [line.replace(returned, "\r") for line in body.read().split("\n")[dialect.skip :]]
    width = len(dialect.header)
    rows = _rows((line.split(dialect.separator) for line in lines), width)
    if any(len(cells) < width for cells in rows):
        whole = _rows(_quoted("\n".join(lines), dialect.separator), width)
        if whole and all(len(cells) >= width for cells in whole):
            rows = whole
    return [_rule(cells, dialect, where=where) for cells in rows]


def _rows(rows: Iterable[list[str]], width: int) -> list[list[str]]:
    """The rows that are not blank, without blank cells beyond the header."""
    found = []
    for cells in rows:
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if any(cell.strip() for cell in cells):
            found.append(cells)
    return found


def _quoted(text: str, separator: str) -> list[list[str]]:
    """The text as strict CSV; nothing if it is none."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error:
        return []
    finally:
        csv.field_size_limit(limit)


def _rule(cells: list[str], dialect: Dialect, *, where: str) -> dict[str, Any]:
    width = len(dialect.header)
    if len(cells) > width >= 3 and dialect.separator == ",":
        name_ends = len(cells) - width + 2
        cells = [cells[0], ",".join(cells[1:name_ends]), *cells[name_ends:]]
    if len(cells) > width:
        raise BrokenAnswer(
            what=f"rule {cells[0][:20]} has {len(cells)} cells of {width}",
            where=where,
            todo=f'Correct the rule at the vendor, or leave the table out: exclude = ["rules"] under sources.{VENDOR}',
        )
    padded = [_text(cell) for cell in cells] + [None] * (width - len(cells))
    return dict(zip(dialect.header, padded, strict=True))


def _text(cell: str) -> str | None:
    """The cell without its quotes, if they are CSV's and not the name's own."""
    cell = cell.strip()
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        cell = inner.replace('""', '"')
    return cell or None
