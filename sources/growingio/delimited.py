"""The CSV that GrowingIO sends: separator, encoding, quotes and width are all to be found out.

The body is a file and stays one: DuckDB reads it into parquet, every cell as text, in bounded memory. No error of this
module quotes a cell, because the cells are about people.
"""

from __future__ import annotations

import codecs
import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sources.errors import BrokenAnswer
from sources.growingio.shapes import unique
from sources.naming import tag_for

log = logging.getLogger(__name__)

SEPARATORS = {"tab": "\t", "comma": ","}
SPARE_CELLS = 8
"""So many cells beyond the header may a row have: they land joined in a column of their own."""
SPARE = "_beyond_header"
_HEAD = 2**20
_LINE = 64 * 2**20
_PARQUET = "FORMAT parquet, COMPRESSION snappy"
_MAIL = r"[^@\s]+@[^@\s]+\.[^@\s]+"
_PHONE = r"(\+?86[- ]?)?1[3-9][0-9][- ]?[0-9]{4}[- ]?[0-9]{4}|\+[0-9][0-9 ()-]{7,18}[0-9]"
_PERSONAL = re.compile(r"e-?mail|phone|mobile|\btel\b|手机|电话|邮箱|邮件", re.IGNORECASE)
_LIKELY = 0.2
"""A column of which such a share of the cells looks like an e-mail address or phone is taken for one."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    separator: str
    header: tuple[str, ...]
    skip: int
    """Lines up to and with the header's."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A parquet file of texts; `columns` maps each label to its name in there."""

    path: Path
    columns: Mapping[str, str]
    rows: int


def dialect_of(file: Path, *, separator: str, taken: Sequence[str] = (), where: str) -> Dialect | None:
    """What the first line that is not empty shows; None if there is no such line.

    Labels are stripped, empty ones at the end dropped, and those that are empty or repeat get their place behind them.
    """
    with file.open("rb") as body:
        head = body.read(_HEAD)
    text = head.decode("utf-8-sig", "replace")
    lines = re.split(r"\r\n|\n|\r", text)
    number = next((n for n, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return None
    if len(head) == _HEAD and number == len(lines) - 1:
        raise BrokenAnswer(what="the header of the CSV does not end", where=where, todo="Run again")
    line = lines[number]
    bare = re.sub(r'"[^"]*"', "", line)
    # the vendor says tab, and one of its samples has commas
    sign = SEPARATORS.get(separator) or ("," if "," in bare and "\t" not in bare else "\t")
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=sign))]
    while cells and not cells[-1]:
        cells.pop()
    return Dialect(separator=sign, header=tuple(unique(cells, taken=(*taken, SPARE))), skip=number + 1)


def as_utf8(file: Path, *, where: str) -> None:
    """Leave a file that is UTF-8 as it is; rewrite one that is GB18030. Raises `BrokenAnswer` for anything else."""
    if _decodes(file, "utf-8"):
        return
    if not _decodes(file, "gb18030"):
        raise BrokenAnswer(what="the CSV is neither UTF-8 nor GB18030", where=where, todo="Run again")
    log.warning("%s: the CSV is not UTF-8; it was read as GB18030", where)
    target = file.with_suffix(".utf8")
    decoder = codecs.getincrementaldecoder("gb18030")()
    with file.open("rb") as source, target.open("wb") as out:
        while chunk := source.read(_HEAD):
            out.write(decoder.decode(chunk).encode())
        out.write(decoder.decode(b"", final=True).encode())
    target.replace(file)


def to_part(file: Path, dialect: Dialect, out: Path, *, constants: Mapping[str, str], where: str) -> Part:
    """All rows as a parquet file of texts, short rows padded with NULL, empty cells NULL.

    `constants` are further columns, by label. Quotes are read as such unless they do not close. Raises `BrokenAnswer`
    for a row that has more cells than the header and eight.
    """
    columns = {label: f"c_{tag_for(label)}" for label in (*dialect.header, SPARE, *constants)}
    own = [columns[label] for label in dialect.header]
    spare = [f"spare_{number}" for number in range(SPARE_CELLS)]
    has_nul = _holds(file, b"\0")
    cells = [f"replace({name}, chr(0), '\ufffd')" if has_nul else name for name in own]
    joined = f"nullif(rtrim(concat_ws(chr(31), {', '.join(spare)}), ' ' || chr(31)), '')"
    select = ", ".join(
        [f"{cell} AS {name}" for cell, name in zip(cells, own, strict=True)]
        + [f"replace({joined}, chr(31), {_text(dialect.separator)}) AS {columns[SPARE]}"]
        + [f"{_text(value)} AS {columns[label]}" for label, value in constants.items()]
    )
    quotes = _count(file, b'"')
    attempts = [("", False), ("", True)] if not quotes or quotes % 2 else [('"', False), ('"', True), ("", True)]
    for number, (quote, newlines) in enumerate(attempts, start=1):
        if newlines:
            _same_newlines(file)
        source = _read_csv(file, [*own, *spare], dialect, quote=quote)
        try:
            with _connect() as connection:
                connection.execute(f"COPY (SELECT {select} FROM {source}) TO {_text(str(out))} ({_PARQUET})")  # noqa: S608
                rows, beyond = _one(connection, f"SELECT count(*), count({columns[SPARE]}) FROM {_text(str(out))}")  # noqa: S608
        except duckdb.Error as error:
            # never its own text: it quotes the line
            what = "a row with more cells than the header" if "Expected Number of Columns" in str(error) else ""
            if number < len(attempts) and not what:
                continue
            raise BrokenAnswer(
                what="the CSV cannot be read", where=where, why=what or type(error).__name__, todo="Run again"
            ) from None
        if quotes and not quote:
            log.warning("%s: the quotes of the CSV do not close; they were read as text", where)
        if not beyond:
            columns.pop(SPARE)
        else:
            log.warning("%s: %d rows have more cells than the header; they are in %s", where, beyond, SPARE)
        return Part(path=out, columns=columns, rows=rows)
    raise AssertionError("unreachable")


def personal(part: Part, labels: Sequence[str]) -> list[str]:
    """Those of the labels that look like e-mail addresses or phones, by name or by what is in them."""
    names = [label for label in labels if label in part.columns]
    if not names:
        return []
    likely = ", ".join(
        f"count_if(regexp_full_match(trim({part.columns[label]}), {_text(f'{_MAIL}|{_PHONE}')})) "
        f">= greatest(1, {_LIKELY} * count({part.columns[label]}))"
        for label in names
    )
    with _connect() as connection:
        found = _one(connection, f"SELECT {likely} FROM {_text(str(part.path))}")  # noqa: S608
    return [label for label, is_likely in zip(names, found, strict=True) if is_likely or _PERSONAL.search(label)]


def rules_of(file: Path, dialect: Dialect, *, where: str) -> list[dict[str, Any]]:
    """The rules, a row each. Under commas a name may hold commas: the first cell is the id, the last the type."""
    rows, width = [], len(dialect.header)
    with file.open(encoding="utf-8-sig", newline="") as body:
        for _ in range(dialect.skip):
            body.readline()
        limit = csv.field_size_limit(_LINE)
        try:
            for cells in csv.reader(body, delimiter=dialect.separator):
                while len(cells) > width and not cells[-1].strip():
                    cells.pop()
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) > width >= 3 and dialect.separator == ",":
                    cells = [cells[0], ",".join(cells[1 : len(cells) - width + 2]), *cells[len(cells) - width + 2 :]]
                if len(cells) > width:
                    raise BrokenAnswer(
                        what=f"rule {cells[0][:20]} has {len(cells)} cells of {width}", where=where, todo="Run again"
                    )
                padded = [cell.strip() or None for cell in cells] + [None] * (width - len(cells))
                rows.append(dict(zip(dialect.header, padded, strict=True)))
        except csv.Error as error:
            raise BrokenAnswer(what="the CSV cannot be read", where=where, why=str(error), todo="Run again") from None
        finally:
            csv.field_size_limit(limit)
    return rows


def _read_csv(file: Path, names: Sequence[str], dialect: Dialect, *, quote: str) -> str:
    spec = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({_text(str(file))}, delim={_text(dialect.separator)}, header=false, skip={dialect.skip}, "
        f"quote={_text(quote)}, escape={_text(quote)}, null_padding=true, strict_mode=true, auto_detect=false, "
        f"max_line_size={_LINE}, parallel=false, columns={{{spec}}})"
    )


def _connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "memory_limit": "150MB", "preserve_insertion_order": False})


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    return tuple(row)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with file.open("rb") as body:
            while chunk := body.read(_HEAD):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _same_newlines(file: Path) -> None:
    """End every line of a file that mixes CRLF and LF with LF."""
    if not _holds(file, b"\r\n"):
        return
    target = file.with_suffix(".newlines")
    with file.open("rb") as source, target.open("wb") as out:
        rest = b""
        while chunk := rest + source.read(_HEAD):
            if chunk == rest:
                out.write(rest)
                break
            # a CR at the end may belong to an LF that is still to come
            rest = b"\r" if chunk.endswith(b"\r") else b""
            out.write(chunk.removesuffix(rest).replace(b"\r\n", b"\n"))
    target.replace(file)


def _holds(file: Path, sign: bytes) -> bool:
    return _count(file, sign) > 0


def _count(file: Path, sign: bytes) -> int:
    """How often `sign` stands in the file, overlaps at the edges of the blocks left out."""
    found, rest = 0, b""
    with file.open("rb") as body:
        while chunk := body.read(_HEAD):
            found += (rest + chunk).count(sign)
            rest = chunk[len(chunk) - len(sign) + 1 :] if len(sign) > 1 else b""
    return found
