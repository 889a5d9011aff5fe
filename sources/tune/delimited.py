"""The CSV of TUNE's exports as rows: comma, quotes where needed, a header of field names with dots, empty for null.

DuckDB reads it into a JSON array in bounded memory; what it cannot read, Python's reader looks at cell by cell. Which
line ends there are, and whether a byte order mark comes, is not documented: any will do.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import orjson

from sources.convert.newlines import hide_bare_returns
from sources.core.errors import BrokenAnswer
from sources.core.sql import literal, quote

_HEAD = 2**20
_LINE = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A file with one JSON array of flat objects, its labels, and how many objects there are."""

    path: Path
    labels: tuple[str, ...]
    rows: int


def to_array(
    file: Path, out: Path, *, constants: Mapping[str, str], label_of: Callable[[str], str], where: str
) -> Lines:
    """The rows of a CSV file as JSON objects of texts, in `out`, each with the `constants`.

    Raises `BrokenAnswer` for rows that are not as wide as the header, quotes that stay open, and bytes that are no
    UTF-8.
    """
    returned = hide_bare_returns(file)
    labels = [label_of(_restored(cell, returned)) for cell in _header(file, where=where)]
    if not labels:
        with file.open("rb") as body:
            if body.read(_HEAD).removeprefix(codecs.BOM_UTF8).strip():
                raise _broken("it begins with an empty line, and not with its header", where)
        out.write_bytes(b"[]")
        return Lines(path=out, labels=(), rows=0)
    counted = Counter(labels)
    twice = sorted(label for label, times in counted.items() if times > 1 or label in constants or not label)
    if twice:
        why = f"columns that cannot be told apart: {', '.join(map(repr, twice))}"
        raise _broken(why, where, todo='Leave all but one out of the report\'s fields and groups, or take via = "find"')
    rows = _fast(file, out, labels, constants, returned) if _quotes_close(file) else None
    if rows is None:
        rows = _exact(file, out, labels, constants, returned, where=where)
    return Lines(path=out, labels=(*constants, *labels), rows=rows)


def _header(file: Path, *, where: str) -> list[str]:
    with file.open("rb") as body:
        head = body.read(_HEAD)
    limit = csv.field_size_limit(_HEAD)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD)
        cells = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    except csv.Error as error:
        raise _broken(f"its header: {error}", where) from None
    except UnicodeDecodeError:
        raise _broken("it is no UTF-8", where) from None
    finally:
        csv.field_size_limit(limit)
    return [cell.strip() for cell in cells]


def _restored(cell: str, returned: str) -> str:
    """The cell with the CRs that were hidden in it."""
    return cell.replace(returned, "\r") if returned else cell


def _fast(file: Path, out: Path, labels: list[str], constants: Mapping[str, str], returned: str) -> int | None:
    names = [f"c{place}" for place in range(len(labels))]
    spec = ", ".join(f"{name}: 'VARCHAR'" for name in names)
    select = ", ".join(
        [f"{literal(value)} AS {quote(label)}" for label, value in constants.items()]
        + [
            f"{f'replace({name}, {literal(returned)}, chr(13))' if returned else name} AS {quote(label)}"
            for name, label in zip(names, labels, strict=True)
        ]
    )
    if len({label.lower() for label in labels}) < len(labels):
        return None  # DuckDB takes Name and name for one
    with file.open("rb") as body:
        marked = body.read(4) == codecs.BOM_UTF8 + b'"'
    if marked or any(sign in label for label in labels for sign in "\r\n"):
        return None  # DuckDB does not see where such a header ends, and drops as many rows
    source = (
        f"read_csv({literal(file)}, delim=',', header=true, quote='\"', escape='\"', strict_mode=true, "
        f"auto_detect=false, null_padding=false, parallel=false, max_line_size={_LINE}, columns={{{spec}}})"
    )
    try:
        with duckdb.connect(config={"threads": 1, "memory_limit": "150MB"}) as connection:
            copied = connection.execute(
                f"COPY (SELECT {select} FROM {source}) TO {literal(out)} (FORMAT json, ARRAY true)"  # noqa: S608
            ).fetchone()
    except duckdb.Error:
        return None  # never its own text, which quotes the line: the other reader says what is wrong
    return int(copied[0]) if copied else None


def _exact(file: Path, out: Path, labels: list[str], constants: Mapping[str, str], returned: str, *, where: str) -> int:
    rows = 0
    limit = csv.field_size_limit(_LINE)
    try:
        with file.open(encoding="utf-8-sig", newline="") as body, out.open("wb") as target:
            reader = csv.reader(body, strict=True)
            next(reader)
            target.write(b"[")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(labels):
                    raise _broken(f"line {reader.line_num} has {len(cells)} cells, the header {len(labels)}", where)
                values = (_restored(cell, returned) or None for cell in cells)
                row = {**constants, **dict(zip(labels, values, strict=True))}
                target.write((b",\n" if rows else b"") + orjson.dumps(row))
                rows += 1
            target.write(b"]")
    except csv.Error as error:
        raise _broken(str(error), where) from None
    except UnicodeDecodeError:
        raise _broken("it is no UTF-8", where) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _quotes_close(file: Path) -> bool:
    """DuckDB drops a last row whose quote stays open, and says nothing."""
    with file.open("rb") as body:
        return sum(chunk.count(b'"') for chunk in iter(lambda: body.read(_HEAD), b"")) % 2 == 0


def _broken(why: str, where: str, todo: str = "Run again") -> BrokenAnswer:
    return BrokenAnswer(what="the export's CSV cannot be read", where=where, why=why, todo=todo)
