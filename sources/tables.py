"""From a vendor's JSON rows to one parquet file with one exact type per column.

Rows are spooled to disk as one JSON array (`Spool`), and DuckDB converts the array to parquet in
bounded memory: the fastest form there is, and every table takes it.

DuckDB's JSON reader is not exact by itself: 1.5 in a BIGINT column becomes 2, "007" in a DOUBLE
column 7, a time in a DATE column is cut off. So numbers are read as text and cast with a proof
(the cast value must print as the same text), and the first value that does not fit stops the fast
way. The exact way then reads the rows one by one in Python, finds what each column really holds,
and either widens the column (types that the vendor does not declare) or raises `TypeFlip`.

One treatment each, everywhere: NaN and ±Infinity are NULL; NUL and lone surrogates become U+FFFD;
zero dates ("0000-00-00…") and empty texts in time columns are NULL; an integer past 64 bits makes
an undeclared column decimal(38,0), past 38 digits text; nested objects and lists are JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb
import orjson

from sources.errors import BrokenAnswer, TypeFlip

SAMPLE_ROWS = 500
EXACT_DOUBLE = 2**53
ROW_BYTES = 16 * 2**20
"""DuckDB's bound for one row; its buffers take twice as much, so only a longer row gets more."""
MEMORY = "100MB"
PARQUET = "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 30720"
"""Larger row groups do not fit into `MEMORY` and are written to disk twice."""
ZERO_DATES = ("", "NULL", "0000-00-00", "0000-00-00 00:00:00", "0000-00-00T00:00:00", "0000-00-00T00:00:00Z")
REPLACEMENT = "\ufffd"
LOAD_ID = "_dlt_load_id"
_ZEROS = ", ".join(f"'{text}'" for text in ZERO_DATES)
_TRIED = 2**26
"""So many bytes does `cut_array` try as envelopes; then it reads the array: a body may hold a `]` in every place."""
NO_NUMBER = r"(^|[:\[,])\s*[-+]?((?i:nan|inf(inity)?)|[0-9.]+[eE][+]?[0-9]{4,})\s*($|[\],}])"
"""Where a number is due in JSON: a value that DuckDB reads and that is not one."""
_SURROGATE = re.compile("[\ud800-\udfff\x00]")
_TURN = threading.RLock()


class Kind(StrEnum):
    """What a column holds, in dlt's words."""

    BOOL = "bool"
    BIGINT = "bigint"
    DECIMAL = "decimal"
    DOUBLE = "double"
    TEXT = "text"
    JSON = "json"
    TIMESTAMP = "timestamp"
    DATE = "date"


NUMERIC_ORDER = (Kind.BOOL, Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE)
"""Each holds every value of those before it, as far as `join` lets them meet."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the vendor's label, our name, and what it holds.

    `kind` None: the values decide. `declared` False: `kind` is only the vendor's hint, the values
    may widen it. `nulls`: texts by which this vendor writes NULL. `scale`: digits after the point
    of a DECIMAL(38, scale). `zone`: of times that carry none. `path`: where the value stands if it
    is not the row's own: ("advertiser", "name") is `row["advertiser"]["name"]`.
    """

    label: str
    name: str = ""
    kind: Kind | None = None
    declared: bool = True
    nulls: tuple[str, ...] = ()
    scale: int = 9
    zone: str = "UTC"
    path: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, ...]:
        return self.path or (self.label,)

    def of(self, row: Mapping[str, Any]) -> Any:
        """This column's value in a row. Raises `ValueError` if a text or number stands where an object was due."""
        value: Any = row
        for name in self.place:
            if not isinstance(value, Mapping):
                # PHP writes an empty object as []
                if value is None or value == [] or value == "":
                    return None
                raise ValueError(f"no object under {'.'.join(self.place[:-1])}, but {str(value)[:40]!r}")
            value = value.get(name)
        return value

    @property
    def sql_type(self) -> str:
        match self.kind:
            case Kind.DECIMAL:
                return f"DECIMAL(38,{self.scale})"
            case Kind.TIMESTAMP:
                return "TIMESTAMPTZ"
            case Kind.BOOL:
                return "BOOLEAN"
            case Kind.TEXT | Kind.JSON | None:
                return "VARCHAR"
            case kind:
                return kind.value.upper()


@dataclass(frozen=True, kw_only=True)
class Part:
    """A parquet file of texts: `columns` are label → name in the file's order, the load id behind them.

    `digest` is the same for the same rows, however often they come.
    """

    path: Path
    columns: Mapping[str, str]
    rows: int
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.columns.values(), LOAD_ID)


class Spool:
    """Rows on their way to disk: one JSON array, appended to page by page.

    A row is an object, or, once `lists` has said what their places mean, an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_nul = False
        self.labels: list[str] | None = None
        self.widths: set[int] = set()
        self.parts: list[Part] = []
        self._file: IO[bytes] = path.open("wb")
        self._file.write(b"[")
        self._empty = True

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append parsed rows. Lone surrogates and NUL are replaced here, since orjson refuses the former."""
        if not rows:
            return
        try:
            array = orjson.dumps(rows)
        except (TypeError, orjson.JSONEncodeError):
            array = json.dumps(rows, ensure_ascii=True).encode()
        self.array(array)

    def array(self, array: bytes | memoryview) -> None:
        """Append the rows of one JSON array, given as bytes with its brackets."""
        inside = bytes(memoryview(array)[1:-1]).strip()
        if not inside:
            return
        if not self._empty:
            self._file.write(b",\n")
        self._file.write(inside)
        self._empty = False
        self.has_nul = self.has_nul or b"\\u0000" in inside

    def adopt(self, body: Path, start: int, end: int) -> None:
        """Append the array that stands at [start, end) of a file, without bringing it into memory."""
        with body.open("rb") as source:
            source.seek(start + 1)
            if not source.read(min(end - start - 2, 63)).strip():
                return
            if not self._empty:
                self._file.write(b",\n")
            self._file.flush()
            offset, left = start + 1, end - start - 2
            while left:
                sent = os.sendfile(self._file.fileno(), source.fileno(), offset, left)
                if not sent:
                    raise OSError(f"{body.name} ended before its array did")
                offset, left = offset + sent, left - sent
            self._file.seek(0, os.SEEK_END)
            self._empty = False
        self.has_nul = self.has_nul or _has_nul(body, start, end)

    def lists(self, labels: Sequence[str]) -> None:
        """The rows that follow are arrays, their places so labelled; each label once.

        Said again, the labels may only become more: what the rows before lack is NULL.
        """
        known = self.labels or []
        if list(labels[: len(known)]) != known or len(set(labels)) < len(labels) or (not known and not self._empty):
            raise ValueError("the places of rows that were spooled cannot change their meaning")
        self.labels = list(labels)
        self.widths.add(len(labels))

    def part(self, part: Part) -> None:
        """Append the rows of a parquet file of texts; rows come in no other form then, and all columns are TEXT, their
        `place` the name in the file. What a file lacks is NULL. The file is taken over."""
        if not self._empty:
            raise ValueError("rows that were spooled cannot be joined with files")
        self.parts.append(part)

    def mark(self) -> tuple[int, list[str] | None, set[int]]:
        """Where the spool stands, for `rewind`."""
        return self._file.tell(), self.labels, set(self.widths)

    def rewind(self, mark: tuple[int, list[str] | None, set[int]]) -> None:
        """Forget the rows, and the labels, that came after `mark`."""
        position, self.labels, self.widths = mark[0], mark[1], set(mark[2])
        self._file.seek(position)
        self._file.truncate()
        self._empty = position <= 1

    def close(self) -> None:
        if not self._file.closed:
            self._file.write(b"]")
            self._file.close()


def _has_nul(body: Path, start: int, end: int) -> bool:
    """Is there an escaped NUL between these bytes? Read and not mapped: a mapped file counts as memory, all of it."""
    before, left = b"", end - start
    with body.open("rb") as file:
        file.seek(start)
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            chunk, left = before + chunk, left - len(chunk)
            if b"\\u0000" in chunk:
                return True
            before = chunk[-5:]
    return False


def cut_array(
    body: bytes | mmap.mmap, key: str, *, where: str, whole: Callable[[Any], bool] = bool
) -> tuple[Any, int, int]:
    """Find the array under `key` in a JSON document without parsing it: (envelope, start, end).

    The envelope is the document with that array empty. A quote inside a JSON string is escaped, so
    `"key": [` can only be a key. The end is the first `]` in the tail with which the rest parses:
    that proves the envelope. `whole` says whether an envelope has all that it must; where none does (a
    long list follows ours), the array is read to its end. Raises `BrokenAnswer` if there is no such array.
    """
    opening = re.compile(rb'"' + key.encode() + rb'"\s*:\s*\[').search(body)
    if opening is None:
        raise BrokenAnswer(
            what=f"no list under “{key}” in the answer",
            where=where,
            todo="Run again; if it stays, the vendor changed its envelope",
        )
    start = opening.end() - 1
    prefix = body[:start] + b"[]"
    tail_from = max(start + 1, len(body) - 65536)
    tail = body[tail_from:]
    found: tuple[Any, int, int] | None = None
    misses = 0
    at, left = tail.rfind(b"]"), _TRIED
    while at >= 0 and misses < 16 and left > 0:
        left -= len(prefix) + len(tail) - at
        try:
            found = (orjson.loads(prefix + tail[at + 1 :]), start, tail_from + at + 1)
            misses = 0
        except orjson.JSONDecodeError:
            # arrays may follow ours ("errors": []), so the first hit from the end need not be the one
            misses += 1 if found else 0
        at = tail.rfind(b"]", 0, at)
    if found is None or left <= 0 or not whole(found[0]):
        found = _read_to_end(body, start)
    if found is None or not whole(found[0]):
        raise BrokenAnswer(
            what=f"the list under “{key}” does not end", where=where, todo="Run again; the body was cut on its way"
        )
    return found


def _read_to_end(body: bytes | mmap.mmap, start: int) -> tuple[Any, int, int] | None:
    """What `cut_array` does, by reading the array: slow, and as large in memory as the array."""
    try:
        # latin-1: one character per byte, so that the decoder's position is the body's
        _, length = json.JSONDecoder(strict=False).raw_decode(body[start:].decode("latin-1"))
        return orjson.loads(body[:start] + b"[]" + body[start + length :]), start, start + length
    except (ValueError, RecursionError):
        return None


def iter_rows(path: Path, *, start: int = 0, as_written: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of the array that begins at byte `start`, one at a time.

    `as_written` keeps numbers with a point or exponent as their text (`Real`), else they are floats.
    """
    decoder = json.JSONDecoder(parse_float=Real if as_written else None, strict=False, object_pairs_hook=_each_key_once)
    with path.open("rb") as raw:
        raw.seek(start)
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
        text = file.read(1)
        if text != "[":
            raise ValueError("not an array")
        text, position, ended = "", 0, False
        while True:
            try:
                while position < len(text) and text[position] in " \t\r\n,":
                    position += 1
                if position < len(text) and text[position] == "]":
                    return
                row, after = decoder.raw_decode(text, position)
                if after == len(text) and not ended:
                    raise json.JSONDecodeError("may go on in the next chunk", text, after)
                position = after
                yield row
            except RecursionError:
                raise ValueError("a row is nested too deep") from None
            except json.JSONDecodeError:
                if ended:
                    raise
                chunk = file.read(1 << 20)
                ended = not chunk
                text, position = text[position:] + chunk, 0


def spooled_rows(spool: Spool) -> Iterator[dict[str, Any]]:
    """The rows of a closed spool by their labels. Raises `ValueError` for an array of another length."""
    rows: Iterator[Any] = iter_rows(spool.path)
    if spool.labels is None:
        yield from rows
        return
    for row in rows:
        if not isinstance(row, list) or len(row) not in spool.widths:
            raise ValueError(f"a row is no list of {' or '.join(map(str, sorted(spool.widths)))} values")
        yield dict(zip(spool.labels, row, strict=False))


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has the key {twice!r} twice, and one value would be lost")
    return row


class Real(str):
    """A JSON number with a point or exponent, as it was written: no digit is lost by reading it."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A parquet file and what is in it; `digest` is the same for the same rows in any order."""

    path: Path
    columns: tuple[Column, ...]
    rows: int
    keys: int
    digest: str
    repeats: int = 0
    """Rows that came beside one with the same key, and were left out."""


def to_parquet(
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    load_id: str,
    where: str,
    key: Sequence[str] = (),
    newest_by: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Converted:
    """Convert the spooled rows; every column is in the file, in the order given.

    `key` are column names; rows that repeat a key are reduced to one, the newest by `newest_by`.
    `extra` maps further columns to SQL expressions. Raises `TypeFlip` when a declared column gets
    a value that it cannot hold, `BrokenAnswer` when the rows are not JSON or a key is NULL.
    """
    spool.close()
    with connect() as connection:
        extra = {**(extra or {}), LOAD_ID: _text(load_id)}
        if spool.parts:
            return _joined(connection, spool.parts, out=out, columns=tuple(columns), extra=extra, key=key)
        chosen = _from_sample(spool, columns)
        try:
            _fast(connection, spool, out=out, columns=chosen, extra=extra)
            chosen = tuple(column if column.kind else replace(column, kind=Kind.TEXT) for column in chosen)
        except (_Misfit, duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException):
            chosen = _exact(connection, spool, out=out, columns=columns, extra=extra, where=where)
        came, keys = rows, _ = _count(connection, out, key, where=where)
        if keys < rows:
            _keep_newest(connection, out, key=key, newest_by=newest_by)
            rows, _ = _count(connection, out, (), where=where)
        return Converted(
            path=out,
            columns=chosen,
            rows=rows,
            keys=keys if key else rows,
            digest=_digest(connection, out, chosen),
            repeats=came - rows,
        )


def join(first: Kind, second: Kind) -> Kind:
    """The narrowest kind that holds the values of both."""
    if first == second:
        return first
    if Kind.JSON in (first, second):
        return Kind.JSON
    if first in NUMERIC_ORDER and second in NUMERIC_ORDER:
        if {first, second} == {Kind.DECIMAL, Kind.DOUBLE}:
            return Kind.TEXT
        return max(first, second, key=NUMERIC_ORDER.index)
    if {first, second} == {Kind.DATE, Kind.TIMESTAMP}:
        return Kind.TIMESTAMP
    return Kind.TEXT


# -- the fast way -------------------------------------------------------------------------------


_spilling: duckdb.DuckDBPyConnection | None = None


@cache
def _database() -> duckdb.DuckDBPyConnection:
    # What it spills are a vendor's rows: not into the current folder, and gone with the process.
    folder = tempfile.TemporaryDirectory(prefix="nightload-")
    connection = _open(Path(folder.name))
    weakref.finalize(connection, folder.cleanup)
    return connection


def _open(spill: Path) -> duckdb.DuckDBPyConnection:
    # One thread and 100 MB: the load step sets a run's peak memory, not this one. DuckDB overshoots by half.
    config: dict[str, Any] = {"threads": 1, "memory_limit": MEMORY, "preserve_insertion_order": False}
    return duckdb.connect(config=config | {"temp_directory": str(spill)})


@contextmanager
def spilling_into(folder: Path) -> Iterator[None]:
    """Inside, what finds no room in memory goes into `folder`, which its owner sweeps: a process may be killed."""
    global _spilling
    folder.mkdir(parents=True, exist_ok=True)
    with _open(folder) as connection:
        before, _spilling = _spilling, connection
        try:
            yield
        finally:
            with _TURN:
                _spilling = before


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the one database of this process that converts: little memory, no file of its own.

    Vendors that are read side by side take turns at it: each has the memory to itself, and all together no more.
    """
    with _TURN, (_spilling or _database()).cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@contextmanager
def roomy(more: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the same database while it may take `more` bytes than usual: a single row may need them."""
    with connect() as connection:
        connection.execute(f"SET memory_limit = '{100 + more // 2**20}MB'")
        try:
            yield connection
        finally:
            connection.execute(f"SET memory_limit = '{MEMORY}'")


def _from_sample(spool: Spool, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Give the columns without a kind the one that the first rows show; those that are all null keep none."""
    if all(column.kind for column in columns):
        return tuple(columns)
    open_columns = [column for column in columns if column.kind is None]
    seen: dict[str, set[Kind]] = {column.label: set() for column in open_columns}
    try:
        for row in islice(spooled_rows(spool), SAMPLE_ROWS):
            for column in open_columns:
                if (kind := kind_of(column.of(row))) is not None:
                    seen[column.label].add(kind)
    except (ValueError, AttributeError):
        pass  # the conversion itself tells what is wrong with the rows
    return tuple(
        replace(column, kind=_settle(column, seen[column.label]), declared=False, scale=0)
        if seen.get(column.label)
        else column
        for column in columns
    )


class _Misfit(Exception):
    """The fast way cannot read these rows; the exact way can."""


def _fast(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    extra: Mapping[str, str],
) -> None:
    if spool.labels is None:
        source = _json_rows(spool.path, "array", {name: _shape(held) for name, held in _nested(columns).items()})
        exprs = {column.name: _checked(column, _raw(column), has_nul=spool.has_nul) for column in columns}
    else:
        source = _json_lists(spool)
        places = {column.name: _place(column, spool.labels) for column in columns}
        exprs = {column.name: _checked(column, places[column.name], has_nul=spool.has_nul) for column in columns}
    _copy(connection, exprs, extra, source=source, out=out)


def _joined(
    connection: duckdb.DuckDBPyConnection,
    parts: Sequence[Part],
    *,
    out: Path,
    columns: tuple[Column, ...],
    extra: Mapping[str, str],
    key: Sequence[str],
) -> Converted:
    """Files of texts into one; a single one that has the table's columns as they are due is that one already."""
    if key or any(column.kind != Kind.TEXT or len(column.place) != 1 for column in columns):
        raise ValueError("the columns of files are texts, and none is a key")
    if [part.names for part in parts] == [(*(column.name for column in columns), *extra)]:
        parts[0].path.replace(out)
    else:
        files = ", ".join(_text(str(part.path)) for part in parts)
        exprs = {column.name: still_nullable(column.place[0]) for column in columns}
        _copy(connection, exprs, extra, source=f"read_parquet([{files}], union_by_name=true)", out=out)
        for part in parts:
            part.path.unlink(missing_ok=True)
    rows = sum(part.rows for part in parts)
    rows_digest = hashlib.sha256(",".join(sorted(part.digest for part in parts)).encode()).hexdigest()
    return Converted(
        path=out, columns=columns, rows=rows, keys=rows, digest=f"{rows}:{rows_digest[:24]}:{_shape_tag(columns)}"
    )


def still_nullable(name: str) -> str:
    """SQL: a column of a parquet file as it is.

    Where DuckDB knows that there is no NULL it writes the column as NOT NULL, and dlt, whose column is nullable, then
    rewrites the whole file in Python.
    """
    return f"CASE WHEN {_quote(name)} IS NOT NULL THEN {_quote(name)} END"


Nested = Mapping[str, "Nested | str"]


def _nested(columns: Sequence[Column]) -> Nested:
    """What the rows hold where, as DuckDB is to read it: as text, which can then be checked."""
    tree: dict[str, Any] = {}
    for column in columns:
        level = tree
        for name in column.place[:-1]:
            level = level.setdefault(name, {})
            if not isinstance(level, dict):
                raise _Misfit  # asked for both as a whole and in parts
        name = column.place[-1]
        # DuckDB takes Amount and amount for one column, and cannot name ""
        if not name or _SURROGATE.search(name) or name.lower() in map(str.lower, level):
            raise _Misfit
        level[name] = "JSON" if column.kind == Kind.JSON or _as_written(column) else "VARCHAR"
    return tree


def _shape(held: Nested | str) -> str:
    if isinstance(held, str):
        return held
    return f"STRUCT({', '.join(f'{_quote(name)} {_shape(inner)}' for name, inner in held.items())})"


def _as_written(column: Column) -> bool:
    """Is a text "12" to be told from a number 12? Not where the column is declared to be a number."""
    return not column.declared and column.kind in NUMERIC_ORDER


def _raw(column: Column) -> str:
    first, *rest = column.place
    return "".join((*("struct_extract(" for _ in rest), _quote(first), *(f", {_text(name)})" for name in rest)))


def _json_rows(path: Path, form: str, types: Mapping[str, str], row_bytes: int = ROW_BYTES) -> str:
    # records=true: with a single VARCHAR column DuckDB would hand over the whole object as its value
    fields = ", ".join(f"{_quote(label)}: {_text(sql_type)}" for label, sql_type in types.items())
    return (
        f"read_json({_text(str(path))}, format={_text(form)}, records=true, columns={{{fields}}}, "
        f"maximum_object_size={row_bytes})"
    )


_VALUES = "_values_of_a_row"


def _json_lists(spool: Spool) -> str:
    """SQL: the rows of a spool of arrays, their lengths checked."""
    widths = ", ".join(map(str, sorted(spool.widths)))
    whole = f"CASE WHEN len({_VALUES}) IN ({widths}) THEN {_VALUES} ELSE error('misfit in length') END"
    return (
        f"(SELECT {whole} AS {_VALUES} "  # noqa: S608
        f"FROM read_json({_text(str(spool.path))}, format='array', records=false, "
        f"columns={{{_VALUES}: 'JSON[]'}}, maximum_object_size={ROW_BYTES}))"
    )


def _place(column: Column, labels: Sequence[str]) -> str:
    if len(column.place) > 1:
        raise _Misfit
    name = column.place[0]
    if name not in labels:
        return "NULL::VARCHAR"
    value = f"{_VALUES}[{labels.index(name) + 1}]"
    return value if column.kind == Kind.JSON or _as_written(column) else f"json_extract_string({value}, '$')"


def _copy(
    connection: duckdb.DuckDBPyConnection,
    exprs: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    source: str,
    out: Path,
) -> None:
    # Around the rows, not beside them: DuckDB lets no expression see a column that can raise an error.
    inner, outer = (", ".join(f"{sql} AS {_quote(name)}" for name, sql in each.items()) for each in (exprs, extra))
    connection.execute(
        f"COPY (SELECT *, {outer} FROM (SELECT {inner} FROM {source})) TO {_text(str(out))} ({PARQUET})"  # noqa: S608
    )


def _checked(column: Column, raw: str, *, has_nul: bool) -> str:
    """SQL: the value, or an error that ends the fast way; never a value that is almost right."""
    raw = f"{raw}::VARCHAR" if _as_written(column) else raw
    misfit = f"error({_text('misfit in ' + column.label)})"
    if column.nulls and column.kind != Kind.JSON:
        nulls = [json.dumps(null) for null in column.nulls] if _as_written(column) else column.nulls
        raw = f"CASE WHEN {raw} NOT IN ({', '.join(map(_text, nulls))}) THEN {raw} END"
    match column.kind:
        case None:  # the first rows had nothing: the first value sends us the exact way
            return f"CASE WHEN ({raw}) IS NOT NULL THEN {misfit} END::VARCHAR"
        case Kind.BIGINT:
            return (
                f"CASE WHEN ({raw})::BIGINT::VARCHAR = ({raw}) THEN ({raw})::BIGINT "
                f"WHEN ({raw}) IS NOT NULL THEN {misfit} END"
            )
        case Kind.BOOL:
            yes, no = ("'true', '1'", "'false', '0'") if column.declared else ("'true'", "'false'")
            return (
                f"CASE WHEN ({raw}) IN ({yes}) THEN true WHEN ({raw}) IN ({no}) THEN false "
                f"WHEN ({raw}) IS NOT NULL THEN {misfit} END"
            )
        case Kind.DOUBLE:
            value = f"({raw})::DOUBLE"
            return f"CASE WHEN abs({value}) < {EXACT_DOUBLE} THEN {value} WHEN isfinite({value}) THEN {misfit} END"
        case Kind.DECIMAL:
            pattern = f"-?[0-9]{{1,{38 - column.scale}}}([.][0-9]{{0,{column.scale}}})?"
            # DuckDB has read a number with a point as a double: fifteen digits are sure to have come through
            sure = f"length({raw}) <= 16 OR NOT contains({raw}, '.')"
            return (
                f"CASE WHEN regexp_full_match(({raw}), {_text(pattern)}) AND ({sure}) THEN ({raw})::{column.sql_type} "
                f"WHEN ({raw}) IS NOT NULL THEN {misfit} END"
            )
        case Kind.TIMESTAMP:
            # DuckDB takes "epoch" and "infinity" for times
            return (
                f"CASE WHEN ({raw}) IS NULL OR ({raw}) IN ({_ZEROS}) THEN NULL "
                f"WHEN ascii({raw}) NOT BETWEEN 48 AND 57 THEN {misfit} ELSE {_instant(f'({raw})', column)} END"
            )
        case Kind.DATE:
            return (
                f"CASE WHEN ({raw}) IN ({_ZEROS}) THEN NULL "
                f"WHEN length({raw}) <> 10 THEN {misfit} ELSE ({raw})::DATE END"
            )
        case Kind.JSON:
            text = f"({raw})::VARCHAR"
            clean = f"replace({text}, '\\u0000', '\\ufffd')" if has_nul else text
            # DuckDB lets pass what is no JSON, and what no double and no Postgres numeric holds; "\\u0000" is no NUL
            odd = [f"regexp_matches({text}, {_text(NO_NUMBER)})"]
            odd += [f"contains({text}, '\\\\u0000')"] if has_nul else []
            return f"CASE WHEN {' OR '.join(odd)} THEN {misfit} ELSE {clean} END"
        case _:
            clean = f"replace({raw}, chr(0), {_text(REPLACEMENT)})" if has_nul else raw
            # DuckDB has read a number with a point as a double, which sixteen digits may not have come through
            rounded = f"length({raw}) > 16 AND TRY_CAST({raw} AS DOUBLE)::VARCHAR = {raw}"
            return f"CASE WHEN {rounded} THEN {misfit} ELSE {clean} END"


def _instant(value: str, column: Column) -> str:
    """SQL: a timestamptz; a time without a zone is told in the column's."""
    if column.zone == "UTC":
        return f"{value}::TIMESTAMPTZ"
    has_zone = f"regexp_matches({value}, '(Z|[+-][0-9]{{2}}:?[0-9]{{2}})$')"
    return f"CASE WHEN {has_zone} THEN {value}::TIMESTAMPTZ ELSE timezone({_text(column.zone)}, {value}::TIMESTAMP) END"


# -- the exact way ------------------------------------------------------------------------------


def kind_of(value: object) -> Kind | None:
    """What one JSON value is; None for null, NaN and Infinity."""
    match value:
        case None:
            return None
        case bool():
            return Kind.BOOL
        case int():
            if -(2**63) <= value < 2**63:
                return Kind.BIGINT
            return Kind.DECIMAL if abs(value) < 10**38 else Kind.TEXT
        case Real():
            return Kind.DOUBLE
        case float():
            return None if value != value or value in (float("inf"), float("-inf")) else Kind.DOUBLE
        case str():
            return Kind.TEXT
        case _:
            return Kind.JSON


def _settle(column: Column, seen: set[Kind]) -> Kind:
    """The one kind of a column whose values decide, starting from the vendor's hint."""
    kinds = sorted(seen, key=list(Kind).index)
    if column.kind in (Kind.TIMESTAMP, Kind.DATE):
        return column.kind if set(kinds) <= {Kind.TEXT} else Kind.TEXT
    if column.kind in (Kind.TEXT, Kind.JSON):
        return column.kind
    settled: Kind | None = column.kind
    for kind in kinds:
        settled = kind if settled is None else join(settled, kind)
    return settled or Kind.TEXT


def _exact(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    extra: Mapping[str, str],
    where: str,
) -> tuple[Column, ...]:
    """Two passes in Python: what do the columns hold; then the same rows with every value as its text."""
    seen: dict[str, set[Kind]] = {column.label: set() for column in columns}
    inexact: set[str] = set()  # columns with an integer that a double would round
    try:
        for row in spooled_rows(spool):
            for column in columns:
                value = column.of(row)
                if (kind := kind_of(value)) is not None:
                    seen[column.label].add(kind)
                if isinstance(value, int) and abs(value) > EXACT_DOUBLE and int(float(value)) != value:
                    inexact.add(column.label)
    except (ValueError, AttributeError) as error:
        raise BrokenAnswer(
            what=f"the rows are not JSON {'objects' if spool.labels is None else 'arrays of one length'}",
            where=where,
            why=str(error),
            todo="Run again; if it stays, tell the vendor",
        ) from None
    chosen = []
    for column in columns:
        kind = column.kind if column.declared and column.kind else _settle(column, seen[column.label])
        if kind == Kind.DOUBLE and column.label in inexact and not (column.declared and column.kind):
            kind = Kind.TEXT
        declared = column.declared and column.kind is not None
        chosen.append(replace(column, kind=kind, declared=declared, scale=column.scale if declared else 0))
    cleaned = spool.path.with_suffix(".exact.json")
    try:
        longest = ROW_BYTES
        with cleaned.open("wb") as file:
            for row in spooled_rows(spool):
                line = orjson.dumps({c.name: _as_text(c.of(row), c, where=where) for c in chosen}) + b"\n"
                longest = max(longest, len(line) + 1)
                file.write(line)
        if longest > ROW_BYTES:
            connection.execute(f"SET memory_limit = '{100 + 8 * longest // 2**20}MB'")
        source = _json_rows(cleaned, "newline_delimited", {column.name: "VARCHAR" for column in chosen}, longest)
        for position, column in enumerate(chosen):
            if column.kind in (Kind.TIMESTAMP, Kind.DATE):
                chosen[position] = _time_or_text(connection, source, column, where=where)
        _copy(connection, {column.name: _cast(column) for column in chosen}, extra, source=source, out=out)
    finally:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        cleaned.unlink(missing_ok=True)
    return tuple(chosen)


def _as_text(value: Any, column: Column, *, where: str) -> str | None:
    """One value as the text that casts back to it, or None; `TypeFlip` if the column cannot hold it."""
    kind = kind_of(value)
    if kind is None or (isinstance(value, str) and not isinstance(value, Real) and value in column.nulls):
        return None
    if column.kind == Kind.JSON:
        return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    if kind == Kind.JSON:
        text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(value)
    text = _clean(text)
    match column.kind:
        case Kind.TEXT:
            return text
        case Kind.TIMESTAMP | Kind.DATE:
            # a zero date is made NULL by the cast only: a column that turns out to be text keeps it
            if kind == Kind.TEXT:
                return text
        case Kind.BOOL:
            if text in ("true", "false") or (column.declared and text in ("0", "1")):
                return {"0": "false", "1": "true"}.get(text, text)
        case Kind.BIGINT:
            if kind == Kind.BOOL and not column.declared:
                return str(int(value))
            if kind != Kind.BOOL and (whole := _whole(text)) is not None and -(2**63) <= whole < 2**63:
                return str(whole)
        case Kind.DECIMAL:
            if kind == Kind.BOOL and not column.declared:
                return str(int(value))
            if kind != Kind.BOOL and (fixed := _fixed(text, column.scale)) is not None:
                return fixed
        case Kind.DOUBLE:
            if kind == Kind.BOOL and not column.declared:
                return str(int(value))
            if kind in (Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE) or (column.declared and _is_number(text)):
                return text
    raise TypeFlip(table=where, column=column.label, known=str(column.kind), arrived=f"{kind} (such as {text[:40]!r})")


def _whole(text: str) -> int | None:
    """The integer that the text is: 12, 12.0 and 1e3 are, 1.5 and 007 are not."""
    if re.fullmatch(r"-?(0|[1-9][0-9]*)", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]+(\.0*)?([eE][+]?[0-9]{1,2})?", text) and not re.match(r"-?0[0-9]", text):
        return int(float(text)) if abs(float(text)) <= EXACT_DOUBLE else None
    return None


def _fixed(text: str, scale: int) -> str | None:
    """The text as a plain decimal with at most `scale` digits after the point, or None."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    plain = format(number, "f")
    whole, _, fraction = plain.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > scale or len(whole.lstrip("-")) > 38 - scale:
        return None
    return f"{whole}.{fraction}" if fraction else whole


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?", text) is not None


def _plain(value: Any) -> Any:
    """A nested value as JSON can hold it: numbers as written, NaN and Infinity null, no NUL, no lone surrogate."""
    match value:
        case dict():
            return {_clean(key): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Real():
            return _plain(float(value))
        case str():
            return _clean(value)
        case float() if kind_of(value) is None:
            return None
        case _:
            return value


def _clean(text: str) -> str:
    return _SURROGATE.sub(REPLACEMENT, text)


def _cast(column: Column) -> str:
    name = _quote(column.name)
    match column.kind:
        case Kind.TIMESTAMP:
            return f"CASE WHEN {name} NOT IN ({_ZEROS}) THEN {_instant(name, column)} END"
        case Kind.DATE:
            return f"CASE WHEN {name} NOT IN ({_ZEROS}) THEN {name}::DATE END"
        case Kind.TEXT | Kind.JSON:
            return name
        case _:
            return f"{name}::{column.sql_type}"


def _time_or_text(connection: duckdb.DuckDBPyConnection, source: str, column: Column, *, where: str) -> Column:
    """A hinted time column stays one only if each text in it is a time."""
    name = _quote(column.name)
    misfit = (
        f"(try_cast({name} AS TIMESTAMPTZ) IS NULL OR ascii({name}) NOT BETWEEN 48 AND 57)"
        if column.kind == Kind.TIMESTAMP
        else f"(length({name}) <> 10 OR try_cast({name} AS DATE) IS NULL)"
    )
    found = connection.execute(
        f"SELECT any_value({name}) FROM {source} WHERE {name} NOT IN ({_ZEROS}) AND {misfit}"  # noqa: S608
    ).fetchone()
    if found is None or found[0] is None:
        return column
    if column.declared:
        raise TypeFlip(
            table=where, column=column.label, known=str(column.kind), arrived=f"text (such as {found[0][:40]!r})"
        )
    if column.kind == Kind.DATE:
        return _time_or_text(connection, source, replace(column, kind=Kind.TIMESTAMP), where=where)
    return replace(column, kind=Kind.TEXT)


# -- what is in the file ------------------------------------------------------------------------


def _count(connection: duckdb.DuckDBPyConnection, out: Path, key: Sequence[str], *, where: str) -> tuple[int, int]:
    """(rows, distinct keys)"""
    distinct = f"count(DISTINCT {_key(key)})" if key else "count(*)"
    lacking = " OR ".join(f"{_quote(name)} IS NULL" for name in key) or "false"
    row = connection.execute(
        f"SELECT count(*), {distinct}, count(*) FILTER ({lacking}) FROM {_text(str(out))}"  # noqa: S608
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    if row[2]:
        raise BrokenAnswer(
            what=f"{row[2]} of {row[0]} rows have no {' or no '.join(key)} to tell them apart by",
            where=where,
            todo="run again; if it stays, the vendor changed what a row is",
        )
    return row[0], row[1]


def _key(key: Sequence[str]) -> str:
    return _quote(key[0]) if len(key) == 1 else f"({', '.join(map(_quote, key))})"


def _keep_newest(
    connection: duckdb.DuckDBPyConnection, out: Path, *, key: Sequence[str], newest_by: str | None
) -> None:
    order = f"{_quote(newest_by)} DESC NULLS LAST" if newest_by else "1"
    once = out.with_suffix(".once.parquet")
    connection.execute(
        f"COPY (SELECT * FROM {_text(str(out))} "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY {_key(key)} ORDER BY {order}) = 1) "
        f"TO {_text(str(once))} ({PARQUET})"
    )
    once.replace(out)


def _digest(connection: duckdb.DuckDBPyConnection, out: Path, columns: Sequence[Column]) -> str:
    # a sum, not an xor: hash() of a row is linear in its last column, so two equal changes would undo each other
    row = connection.execute(
        f"SELECT count(*) || ':' || coalesce(sum(hash(r)::HUGEINT), 0) "  # noqa: S608
        f"FROM (SELECT * EXCLUDE ({LOAD_ID}) FROM {_text(str(out))}) r"
    ).fetchone()
    assert row is not None  # noqa: S101 - an aggregate has a row
    # the hash of a row knows neither names nor types
    return f"{row[0]}:{_shape_tag(columns)}"


def _shape_tag(columns: Sequence[Column]) -> str:
    shape = json.dumps([(column.name, column.label, column.sql_type) for column in columns])
    return hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def stray_labels(spool: Spool, columns: Sequence[Column], rows: int) -> list[str]:
    """Labels that the spooled objects have and no column names.

    Where rows have all columns, every key ends in `":`, and as many of those as rows times columns are
    proof enough. Only where the first rows lack a column, or there are more (nested objects, texts),
    the keys themselves are looked at.
    """
    named = {column.label for column in columns}
    uneven = any(row.keys() != named for row in islice(iter_rows(spool.path), SAMPLE_ROWS))
    ends, before = 0, b""
    with spool.path.open("rb") as file:
        while chunk := file.read(1 << 22):
            ends += chunk.count(b'":') + (before.endswith(b'"') and chunk.startswith(b":"))
            before = chunk
    if not uneven and ends <= rows * len(columns):
        return []
    source = f"read_json({_text(str(spool.path))}, format='array', records=false, columns={{j: 'JSON'}})"
    with connect() as connection:
        try:
            found = connection.execute(f"SELECT DISTINCT unnest(json_keys(j)) FROM {source}").fetchall()  # noqa: S608
        except duckdb.Error:
            return [label for label in labels_of(iter_rows(spool.path)) if label not in named]
    return sorted(label for (label,) in found if label not in named)


def texts_of(converted: Converted, label: str) -> set[str]:
    """The values of one column, each once, as texts: a day is 2026-01-31."""
    name = _quote(next(column.name for column in converted.columns if column.label == label))
    with connect() as connection:
        found = connection.execute(f"SELECT DISTINCT {name}::VARCHAR FROM {_text(str(converted.path))}").fetchall()  # noqa: S608
    return {text for (text,) in found if text is not None}


def filled(converted: Converted) -> dict[str, int]:
    """Column → in how many rows it has a value, by the file's own figures: no row is read."""
    with connect() as connection:
        told = connection.execute(
            "SELECT path_in_schema, sum(num_values - coalesce(stats_null_count, 0)) "  # noqa: S608
            f"FROM parquet_metadata({_text(str(converted.path))}) GROUP BY path_in_schema"
        ).fetchall()
    names = {column.name for column in converted.columns}
    return {name: int(count) for name, count in told if name in names}


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def greatest(spool: Spool, label: str, *, like: str, up_to: str) -> str | None:
    """The greatest text under `label` that has the form `like` (a regular expression) and is not above `up_to`.

    None if there is none, or if the rows need the exact way.
    """
    spool.close()
    source, name = _json_rows(spool.path, "array", {label: "VARCHAR"}), _quote(label)
    if spool.labels is not None:
        source, name = _json_lists(spool), _place(Column(label=label), spool.labels)
    try:
        with connect() as connection:
            row = connection.execute(
                f"SELECT max({name}) FROM {source} "  # noqa: S608
                f"WHERE regexp_full_match({name}, {_text(like)}) AND {name} <= {_text(up_to)}"
            ).fetchone()
    except duckdb.Error:
        return None
    return row[0] if row else None


def newest_text(converted: Converted, spool: Spool, label: str, *, like: str, up_to: str) -> str | None:
    """What `greatest` says, read off the converted file where that is sure to be the same, which is much faster.

    The file knows times; the vendor's text of the greatest one is told only if the rows have it letter for letter.
    Texts of another form, and those of a gap in the zone's clock, which come out of the file an hour later, are not
    found, and the rows themselves are asked. Only where such an hour takes a row over `up_to` is the answer older by
    as much: the lookback of a day covers a gap many times over.
    """
    column = next((each for each in converted.columns if each.label == label), None)
    if column is None or column.path or converted.repeats or column.kind not in (Kind.TIMESTAMP, Kind.DATE):
        return greatest(spool, label, like=like, up_to=up_to)
    name, zone, edge = _quote(column.name), _text(column.zone), _text(up_to)
    if column.kind == Kind.DATE:
        told, highest = f"max({name})", f"{edge}::TIMESTAMP::DATE"
    else:
        # both ways through DuckDB's own clock: an hour that comes twice has one meaning in either
        told, highest = f"timezone({zone}, max({name}))", f"timezone({zone}, {edge}::TIMESTAMP)"
    with connect() as connection:
        row = connection.execute(
            f"SELECT ({told})::VARCHAR FROM {_text(str(converted.path))} WHERE {name} <= {highest}"  # noqa: S608
        ).fetchone()
    found: str | None = row[0] if row else None
    if found is None or (re.fullmatch(like, found) and _has_text(spool, label, found)):
        return found
    return greatest(spool, label, like=like, up_to=up_to)


def _has_text(spool: Spool, label: str, text: str) -> bool:
    """Is there a row with exactly this text under the label, as bytes?"""
    spool.close()
    name, sought = orjson.dumps(label), orjson.dumps(text)
    before = re.compile(re.escape(name) + rb"[ \t\r\n]*:[ \t\r\n]*\Z")
    reach = len(name) + 16  # what stands further before it is not found, which only takes longer
    rest = b""
    with spool.path.open("rb") as file:
        while chunk := file.read(1 << 20):
            chunk = rest + chunk
            at = chunk.find(sought)
            while at >= 0:
                if before.search(chunk, max(at - reach, 0), at):
                    return True
                at = chunk.find(sought, at + 1)
            rest = chunk[-reach - len(sought) :]
    return False


def keys_apart(converted: Converted, first: Spool, second: Spool, labels: Sequence[str]) -> int:
    """How many keys are in one of two spools only, 12 and "12" being one key; `converted` is the first one's file.

    The file has each key of the first spool, once: what is left out of it are rows that repeat one. Rows of the
    second spool that do not read as the file's types at once are compared as texts, spool with spool.
    """
    second.close()
    columns = [column for column in converted.columns if column.label in labels]
    if len(columns) < len(labels):
        return _texts_apart(first, second, labels)
    names = ", ".join(_quote(column.name) for column in columns)
    try:
        source = _json_rows(second.path, "array", {name: _shape(held) for name, held in _nested(columns).items()})
        exprs = ", ".join(
            f"{_checked(column, _raw(column), has_nul=second.has_nul)} AS {_quote(column.name)}" for column in columns
        )
        with connect() as connection:
            row = connection.execute(
                f"SELECT count(*) FROM (SELECT bit_or(side) AS sides FROM "  # noqa: S608
                f"(SELECT {names}, 1 AS side FROM {_text(str(converted.path))} "
                f"UNION ALL SELECT {exprs}, 2 FROM {source}) GROUP BY {names} HAVING sides <> 3)"
            ).fetchone()
    except (_Misfit, duckdb.Error):
        return _texts_apart(first, second, labels)
    assert row is not None  # noqa: S101 - an aggregate has a row
    return int(row[0])


def _texts_apart(first: Spool, second: Spool, labels: Sequence[str]) -> int:
    """The same, both spools read."""
    first.close()
    second.close()
    names = ", ".join(map(_quote, labels))
    one, other = (_json_rows(spool.path, "array", dict.fromkeys(labels, "VARCHAR")) for spool in (first, second))
    try:
        with connect() as connection:
            row = connection.execute(
                f"SELECT count(*) FROM (SELECT bit_or(side) AS sides FROM (SELECT {names}, 1 AS side FROM {one} "  # noqa: S608
                f"UNION ALL SELECT {names}, 2 FROM {other}) GROUP BY {names} HAVING sides <> 3)"
            ).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has a row
        return int(row[0])
    except duckdb.Error:
        seen = [{tuple(str(row.get(label)) for label in labels) for row in iter_rows(s.path)} for s in (first, second)]
        return len(seen[0] ^ seen[1])


def labels_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every label that the rows have, in the order of their first sight."""
    return list(dict.fromkeys(label for row in rows for label in row))
