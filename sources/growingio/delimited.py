"""The CSV that GrowingIO sends: separator, encoding, quotes and width are all to be found out.

The body is a file and stays one: DuckDB reads it into parquet, every cell as text, in bounded memory. No error of this
module quotes a cell, because the cells are about people.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from sources.convert.duckdb_session import connect, extra_memory, one_row, parquet
from sources.convert.newlines import has_lines, hide_bare_returns
from sources.convert.spool import Part
from sources.convert.types import LOAD_ID, clean
from sources.core.errors import BrokenAnswer
from sources.core.sql import literal, quote
from sources.growingio.shapes import unique

log = logging.getLogger(__name__)

SEPARATORS = {"tab": "\t", "comma": ","}
SPARE_CELLS = 8
"""So many cells beyond the header may a row have: they land joined in a column of their own."""
SPARE = "_beyond_header"
_HEAD = 2**20
_LOOK = 2**15
"""The text of a larger chunk is memory that the system takes back and hands out anew each time: a quarter slower."""
_RETURN = "\uf8ff"
_LINE = 64 * 2**20
_USUAL_LINE = 2 * 2**20
_BUFFER = 8 * 2**20
"""DuckDB's reader holds a few buffers of this size; one of the longest line's size would cost every file."""
_MAIL = r"[^@\s]+@[^@\s]+\.[^@\s]+"
_PHONE = r"(\+?86[- ]?)?1[3-9][0-9][- ]?[0-9]{4}[- ]?[0-9]{4}|\+[0-9][0-9 ()-]{7,18}[0-9]"
_PHONE_BEGINS = ((" ", "!"), ("+", ","), ("1", "2"), ("8", "9"))
"""Texts that `_PHONE` takes lie in these ranges, blanks before them or not."""
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
class Body:
    """A CSV that is UTF-8, and what its bytes show; `digest` is theirs."""

    file: Path
    quotes: int
    has_nul: bool
    has_at: bool
    digest: str


@dataclass(frozen=True, kw_only=True)
class Landing:
    """How rows are to stand in the parquet file `out`.

    `constants` are further columns, before the CSV's own. `named` gives labels their columns' names.
    """

    out: Path
    named: Callable[[Sequence[str]], Mapping[str, str]]
    load_id: str
    constants: Mapping[str, str] = field(default_factory=dict)


def dialect_of(file: Path, *, separator: str, taken: Sequence[str] = (), where: str) -> Dialect | None:
    """What the first line that is not empty shows; None if there is no such line.

    Labels are stripped, empty ones at the end dropped, and those that are empty or repeat get their place behind them.
    """
    with file.open("rb") as body:
        head = body.read(_HEAD)
    text = head.decode("utf-8-sig", "replace")
    lines = re.split(r"\r\n|\n" if has_lines([head]) else "\r", text)
    number = next((n for n, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return None
    if len(head) == _HEAD and number == len(lines) - 1:
        raise BrokenAnswer(what="the header of the CSV does not end", where=where, todo="Run again")
    line = lines[number]
    bare = re.sub(r'"[^"]*"', "", line)
    # the vendor says tab, and one of its samples has commas
    sign = SEPARATORS.get(separator) or ("," if "," in bare and "\t" not in bare else "\t")
    try:
        # a CR that is part of a label is no sign that the reader takes
        read = csv.reader([line.replace("\r", _RETURN)], delimiter=sign)
        cells = [clean(cell.replace(_RETURN, "\r").strip()) for cell in next(read)]
    except csv.Error as error:
        raise BrokenAnswer(what="the header of the CSV cannot be read", where=where, why=str(error)) from None
    while cells and not cells[-1]:
        cells.pop()
    return Dialect(separator=sign, header=tuple(unique(cells, taken=(*taken, SPARE))), skip=number + 1)


def as_utf8(file: Path, *, where: str) -> Body:
    """Leave a file that is UTF-8 as it is; rewrite one that is GB18030. Raises `BrokenAnswer` for anything else."""
    if (body := _looked_at(file)) is not None:
        return body
    decoder = codecs.getincrementaldecoder("gb18030")()
    target = file.with_suffix(".utf8")
    try:
        with file.open("rb") as source, target.open("wb") as out:
            while chunk := source.read(_HEAD):
                out.write(decoder.decode(chunk).encode())
            out.write(decoder.decode(b"", final=True).encode())
    except UnicodeDecodeError:
        target.unlink()
        raise BrokenAnswer(what="the CSV is neither UTF-8 nor GB18030", where=where, todo="Run again") from None
    log.warning("%s: the CSV is not UTF-8; it was read as GB18030", where)
    target.replace(file)
    body = _looked_at(file)
    assert body is not None  # noqa: S101 - it was just encoded
    return body


def to_part(body: Body, dialect: Dialect, landing: Landing, *, where: str) -> Part:
    """All rows as a parquet file of texts, in one go; short rows padded with NULL, empty cells NULL.

    Quotes are read as such unless they do not close. Raises `BrokenAnswer` for a row that has more cells than the
    header and eight.
    """
    attempts = [("", False), ("", True)]
    if body.quotes and body.quotes % 2 == 0:
        attempts = [('"', False), ('"', True), ("", True)]
    wide, line, returned = False, _USUAL_LINE, hide_bare_returns(body.file)
    while True:
        quote, newlines = attempts[0]
        if newlines:
            _same_newlines(body.file)
        cells = [f"cell_{number}" for number in range(len(dialect.header) + (SPARE_CELLS if wide else 0))]
        source = _read_csv(body.file, cells, dialect, quote=quote, line=line)
        try:
            with connect(extra_memory(len(cells)) + (0 if line == _USUAL_LINE else 4 * _LINE)) as connection:
                part, beyond = _written(
                    connection, body, dialect, landing, source=source, cells=cells, returned=returned
                )
        except duckdb.Error as error:
            # never its own text: it quotes the line
            too_wide = "Expected Number of Columns" in str(error)
            if too_wide and not wide:
                wide = True
            elif "Maximum line size" in str(error) and line == _USUAL_LINE:
                line = _LINE
            elif too_wide or len(attempts) == 1:
                raise BrokenAnswer(
                    what="the CSV cannot be read",
                    where=where,
                    why="a row with more cells than the header" if too_wide else type(error).__name__,
                    todo="Run again",
                ) from None
            else:
                attempts.pop(0)
            continue
        if body.quotes and not quote:
            log.warning("%s: the quotes of the CSV do not close; they were read as text", where)
        if beyond:
            log.warning("%s: %d rows have more cells than the header; they are in %s", where, beyond, SPARE)
        return part


def looks_personal(label: str) -> bool:
    """Does the label speak of e-mail addresses or phones?"""
    return _PERSONAL.search(label) is not None


def personal(part: Part, labels: Sequence[str], *, has_at: bool) -> list[str]:
    """Those of the labels whose cells look like e-mail addresses or phones; `has_at`: is there an @ at all?

    The ranges of first characters spare what cannot be a phone, for most columns without reading them.
    """
    found, file = [], literal(part.path)
    with connect(extra_memory(len(part.columns))) as connection:
        for label in labels:
            name = quote(part.columns[label])
            begins = " OR ".join(
                f"({name} >= {literal(low)} AND {name} < {literal(high)})" for low, high in _PHONE_BEGINS
            )
            ways = [(begins, _PHONE), (f"contains({name}, '@')", _MAIL)] if has_at else [(begins, _PHONE)]
            likely = sum(
                one_row(
                    connection,
                    f"SELECT count(*) FROM {file} WHERE ({cheap}) "  # noqa: S608
                    f"AND regexp_full_match(trim({name}), {literal(form)})",
                )[0]
                for cheap, form in ways
            )
            if likely and likely >= _LIKELY * one_row(connection, f"SELECT count({name}) FROM {file}")[0]:  # noqa: S608
                found.append(label)
    return found


def _written(
    connection: duckdb.DuckDBPyConnection,
    body: Body,
    dialect: Dialect,
    landing: Landing,
    *,
    source: str,
    cells: Sequence[str],
    returned: str,
) -> tuple[Part, int]:
    """The part, and how many rows have cells beyond the header; raises what DuckDB does."""
    own = dict(zip(dialect.header, cells, strict=False))
    spare, beyond = cells[len(dialect.header) :], 0
    if spare:
        joined = f"nullif(rtrim(concat_ws(chr(31), {', '.join(spare)}), ' ' || chr(31)), '')"
        (beyond,) = one_row(connection, f"SELECT count({joined}) FROM {source}")  # noqa: S608
        if beyond:
            own[SPARE] = f"replace({joined}, chr(31), {literal(dialect.separator)})"
    values = {label: _nullable(text, cells[0]) for label, text in landing.constants.items()}
    for label, cell in own.items():
        values[label] = f"replace({cell}, chr(0), '\ufffd')" if body.has_nul else cell
        if returned:
            values[label] = f"replace({values[label]}, {literal(returned)}, chr(13))"
    # an empty line is a row of NULL where a row is one cell, and no row where it is several
    rows_of = f"{source} WHERE {cells[0]} IS NOT NULL" if len(cells) == 1 else source
    columns = landing.named(list(values))
    select = ", ".join(f"{value} AS {quote(columns[label])}" for label, value in values.items())
    (rows,) = one_row(
        connection,
        f"COPY (SELECT {select}, {literal(landing.load_id)} AS {LOAD_ID} FROM {rows_of}) "  # noqa: S608
        f"TO {literal(landing.out)} ({parquet(len(values))})",
    )
    digest = _digest(body.digest, select, repr(dialect))
    return Part(path=landing.out, columns={label: columns[label] for label in values}, rows=rows, digest=digest), beyond


def _nullable(text: str, cell: str) -> str:
    """SQL: a constant that DuckDB does not take for one, for the reason of `still_nullable`."""
    return f"coalesce(nullif({cell}, {cell}), {literal(text)})"


def _digest(*told: str) -> str:
    return hashlib.sha256("\0".join(told).encode("utf-8", "surrogatepass")).hexdigest()


def _read_csv(file: Path, names: Sequence[str], dialect: Dialect, *, quote: str, line: int) -> str:
    spec = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({literal(file)}, delim={literal(dialect.separator)}, header=false, skip={dialect.skip}, "
        f"quote={literal(quote)}, escape={literal(quote)}, null_padding=true, strict_mode=true, auto_detect=false, "
        f"max_line_size={line}, buffer_size={max(_BUFFER, line)}, parallel=false, columns={{{spec}}})"
    )


def _looked_at(file: Path) -> Body | None:
    """What the bytes of a file show, in one pass; None if they are no UTF-8."""
    decoder, digest = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256()
    quotes, has_nul, has_at = 0, False, False
    try:
        with file.open("rb") as body:
            while chunk := body.read(_LOOK):
                decoder.decode(chunk)
                digest.update(chunk)
                quotes += chunk.count(b'"')
                has_nul, has_at = has_nul or b"\0" in chunk, has_at or b"@" in chunk
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None
    return Body(file=file, quotes=quotes, has_nul=has_nul, has_at=has_at, digest=digest.hexdigest())


def _same_newlines(file: Path) -> None:
    """End every line of a file that mixes CRLF and LF with LF."""
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
