"""The exact way from a spool to parquet: row by row in Python, each value as the text that casts back to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import duckdb
import orjson

from sources.convert.duckdb_session import ROW_BYTES, allow, extra_memory, write_parquet
from sources.convert.fast_cast import date_or_null, is_zero_date, json_rows, time_or_null
from sources.convert.pieces import SIZE, WIDE
from sources.convert.spool import Spool, spooled_rows
from sources.convert.types import EXACT_DOUBLE, Column, Kind, Real, clean, kind_of, settle
from sources.core.errors import BrokenAnswer, TypeFlip
from sources.core.sql import quote


def convert_exact(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    extra: Mapping[str, str],
    where: str,
    more: int,
) -> tuple[Column, ...]:
    """Two passes in Python: what do the columns hold; then the same rows with every value as its text."""
    seen: dict[str, set[Kind]] = {column.label: set() for column in columns}
    inexact: set[str] = set()  # columns with an integer that a double would round
    try:
        for row in spooled_rows(spool):
            for column in columns:
                value = column.of(row)
                if not column.is_null(value) and (kind := kind_of(value)) is not None:
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
        kind = column.kind if column.declared and column.kind else settle(column, seen[column.label])
        if kind == Kind.DOUBLE and column.label in inexact and not (column.declared and column.kind):
            kind = Kind.TEXT
        declared = column.declared and column.kind is not None
        scale = column.scale if declared else 0
        chosen.append(replace(column, kind=kind, declared=declared, scale=scale, sampled=column.kind is None))
    cleaned: list[Path] = []
    try:
        longest = ROW_BYTES
        with ExitStack() as files:
            size = 0
            for row in spooled_rows(spool):
                if not cleaned or (len(columns) > WIDE and size > SIZE):
                    files.close()
                    size = 0
                    cleaned.append(spool.path.with_suffix(f".{len(cleaned)}.exact.json"))
                    file = files.enter_context(cleaned[-1].open("wb"))
                line = orjson.dumps({c.name: _as_text(c.of(row), c, where=where) for c in chosen}) + b"\n"
                longest, size = max(longest, len(line) + 1), size + len(line)
                file.write(line)
        if not cleaned:
            cleaned.append(spool.path.with_suffix(".exact.json"))
            cleaned[0].touch()
        if longest > ROW_BYTES:
            allow(connection, max(more, extra_memory(len(columns), longest)))
        source = json_rows(cleaned, "newline_delimited", {column.name: "VARCHAR" for column in chosen}, longest)
        for position, column in enumerate(chosen):
            if column.kind in (Kind.TIMESTAMP, Kind.DATE):
                chosen[position] = _time_or_text(connection, source, column, where=where)
        write_parquet(connection, {column.name: _cast(column) for column in chosen}, extra, source=source, out=out)
    finally:
        for path in cleaned:
            path.unlink(missing_ok=True)
    return tuple(chosen)


def _as_text(value: Any, column: Column, *, where: str) -> str | None:
    """One value as the text that casts back to it, or None; `TypeFlip` if the column cannot hold it."""
    kind = kind_of(value)
    if kind is None or column.is_null(value):
        return None
    if column.kind == Kind.JSON:
        return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    if kind == Kind.JSON:
        text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(value)
    text = clean(text)
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
    raise TypeFlip(
        table=where,
        column=column.label,
        known=str(column.kind),
        arrived=f"{kind} (such as {text[:40]!r})",
        declared=column.declared,
    )


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


def plain(value: Any) -> Any:
    """A nested value as JSON can hold it: numbers as written, NaN and Infinity null, no NUL, no lone surrogate."""
    match value:
        case dict():
            return {clean(key): plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case Real():
            return plain(float(value))
        case str():
            return clean(value)
        case float() if kind_of(value) is None:
            return None
        case _:
            return value


def _cast(column: Column) -> str:
    name = quote(column.name)
    match column.kind:
        case Kind.TIMESTAMP:
            return time_or_null(name, column)
        case Kind.DATE:
            return date_or_null(name)
        case Kind.DOUBLE:  # 1e400 is none
            return f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"
        case Kind.TEXT | Kind.JSON:
            return name
        case _:
            return f"{name}::{column.sql_type}"


def _time_or_text(connection: duckdb.DuckDBPyConnection, source: str, column: Column, *, where: str) -> Column:
    """A hinted time column stays one only if each text in it is a time."""
    name = quote(column.name)
    found = connection.execute(
        f"SELECT any_value({name}) FROM {source} WHERE ({_cast(column)}) IS NULL AND NOT {is_zero_date(name)}"  # noqa: S608
    ).fetchone()
    if found is None or found[0] is None:
        return column
    if column.declared:
        raise TypeFlip(
            table=where,
            column=column.label,
            known=str(column.kind),
            arrived=f"text (such as {found[0][:40]!r})",
            declared=True,
        )
    if column.kind == Kind.DATE:
        return _time_or_text(connection, source, replace(column, kind=Kind.TIMESTAMP), where=where)
    return replace(column, kind=Kind.TEXT)
