"""The fast way from a spool to parquet: DuckDB reads it, and proves each value or gives up.

DuckDB's JSON reader is not exact by itself: 1.5 in a BIGINT column becomes 2, "007" in a DOUBLE
column 7, a time in a DATE column is cut off. So numbers are read as text and cast with a proof
(the cast value must print as the same text), and the first value that does not fit stops the fast way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from sources.convert.duckdb_session import ROW_BYTES, write_parquet
from sources.convert.spool import Spool
from sources.convert.types import EXACT_DOUBLE, NO_TEXT, NUMERIC_ORDER, REPLACEMENT, ZERO_DATE, Column, Kind
from sources.core.sql import literal, quote

NO_NUMBER = r"(^|[:\[,])\s*[-+]?((?i:nan|inf(inity)?)|[0-9.]+[eE][+]?[0-9]{4,})\s*($|[\],}])"
"""Where a number is due in JSON: a value that DuckDB reads and that is not one."""
_VALUES = "_values_of_a_row"


class Misfit(Exception):
    """The fast way cannot read these rows; the exact way can."""


def convert_fast(
    connection: duckdb.DuckDBPyConnection,
    spool: Spool,
    *,
    out: Path,
    columns: Sequence[Column],
    extra: Mapping[str, str],
    row_bytes: int = ROW_BYTES,
) -> None:
    source, exprs = proven(spool, columns, row_bytes)
    write_parquet(connection, exprs, extra, source=source, out=out)


def proven(spool: Spool, columns: Sequence[Column], row_bytes: int = ROW_BYTES) -> tuple[str, dict[str, str]]:
    """SQL: the rows of a spool, and column → its value, or an error. Raises `Misfit` where it cannot be told."""
    if spool.labels is None:
        shapes = {name: _shape(held) for name, held in _nested(columns).items()}
        source = json_rows(spool.pieces or [spool.path], "array", shapes, row_bytes)
        return source, {column.name: _checked(column, _raw(column), spool) for column in columns}
    places = {column.name: place_of(column, spool.labels) for column in columns}
    exprs = {column.name: _checked(column, places[column.name], spool) for column in columns}
    return json_lists(spool, row_bytes), exprs


def texts(path: Path, columns: Sequence[Column]) -> str:
    """SQL: these columns of the rows as the texts that they are. Raises `Misfit` where DuckDB cannot name them."""
    as_text = [replace(column, kind=Kind.TEXT) for column in columns]
    source = json_rows([path], "array", {name: _shape(held) for name, held in _nested(as_text).items()})
    return f"SELECT {', '.join(f'{_raw(each)} AS {quote(each.name)}' for each in as_text)} FROM {source}"  # noqa: S608


Nested = Mapping[str, "Nested | str"]


def _nested(columns: Sequence[Column]) -> Nested:
    """What the rows hold where, as DuckDB is to read it: as text, which can then be checked."""
    tree: dict[str, Any] = {}
    for column in columns:
        level = tree
        for name in column.place[:-1]:
            level = level.setdefault(name, {})
            if not isinstance(level, dict):
                raise Misfit  # asked for both as a whole and in parts
        name = column.place[-1]
        # DuckDB takes Amount and amount for one column, and cannot name ""
        if not name or NO_TEXT.search(name) or name.lower() in map(str.lower, level):
            raise Misfit
        level[name] = "JSON" if column.kind == Kind.JSON or _as_written(column) else "VARCHAR"
    return tree


def _shape(held: Nested | str) -> str:
    if isinstance(held, str):
        return held
    return f"STRUCT({', '.join(f'{quote(name)} {_shape(inner)}' for name, inner in held.items())})"


def _as_written(column: Column) -> bool:
    """Is a text "12" to be told from a number 12? Not where the column is declared to be a number."""
    return not column.declared and column.kind in NUMERIC_ORDER


def _raw(column: Column) -> str:
    first, *rest = column.place
    return "".join((*("struct_extract(" for _ in rest), quote(first), *(f", {literal(name)})" for name in rest)))


def json_rows(paths: Sequence[Path], form: str, types: Mapping[str, str], row_bytes: int = ROW_BYTES) -> str:
    # records=true: with a single VARCHAR column DuckDB would hand over the whole object as its value
    fields = ", ".join(f"{quote(label)}: {literal(sql_type)}" for label, sql_type in types.items())
    return (
        f"read_json({_listed(paths)}, format={literal(form)}, records=true, columns={{{fields}}}, "
        f"maximum_object_size={row_bytes})"
    )


def _listed(paths: Sequence[Path]) -> str:
    return f"[{', '.join(map(literal, paths))}]"


def json_lists(spool: Spool, row_bytes: int = ROW_BYTES) -> str:
    """SQL: the rows of a spool of arrays, their lengths checked."""
    widths = ", ".join(map(str, sorted(spool.widths)))
    whole = f"CASE WHEN len({_VALUES}) IN ({widths}) THEN {_VALUES} ELSE error('misfit in length') END"
    return (
        f"(SELECT {whole} AS {_VALUES} "  # noqa: S608
        f"FROM read_json({_listed(spool.pieces or [spool.path])}, format='array', records=false, "
        f"columns={{{_VALUES}: 'JSON[]'}}, maximum_object_size={row_bytes}))"
    )


def place_of(column: Column, labels: Sequence[str]) -> str:
    if len(column.place) > 1:
        raise Misfit
    name = column.place[0]
    if name not in labels:
        return "NULL::VARCHAR"
    value = f"{_VALUES}[{labels.index(name) + 1}]"
    return value if column.kind == Kind.JSON or _as_written(column) else f"json_extract_string({value}, '$')"


def _checked(column: Column, raw: str, spool: Spool) -> str:
    """SQL: the value, or an error that ends the fast way; never a value that is almost right."""
    raw = f"{raw}::VARCHAR" if _as_written(column) else raw
    misfit = f"error({literal('misfit in ' + column.label)})"
    if column.nulls and column.kind != Kind.JSON:
        nulls = [json.dumps(null) for null in column.nulls] if _as_written(column) else column.nulls
        raw = f"CASE WHEN {raw} NOT IN ({', '.join(map(literal, nulls))}) THEN {raw} END"
    match column.kind:
        case None:  # the first rows had nothing: the first value sends us the exact way
            return f"CASE WHEN ({raw}) IS NOT NULL THEN {misfit} END::VARCHAR"
        case Kind.BIGINT:
            value = f"TRY_CAST({raw} AS BIGINT)"
            return f"CASE WHEN {value}::VARCHAR = ({raw}) THEN {value} WHEN {_no_null(column, raw)} THEN {misfit} END"
        case Kind.BOOL:
            yes, no = ("'true', '1'", "'false', '0'") if column.declared else ("'true'", "'false'")
            return (
                f"CASE WHEN ({raw}) IN ({yes}) THEN true WHEN ({raw}) IN ({no}) THEN false "
                f"WHEN ({raw}) IS NOT NULL THEN {misfit} END"
            )
        case Kind.DOUBLE:
            value = f"TRY_CAST({raw} AS DOUBLE)"
            return (
                f"CASE WHEN abs({value}) < {EXACT_DOUBLE} THEN {value} WHEN {_no_null(column, raw)} THEN {misfit} END"
            )
        case Kind.DECIMAL:
            pattern = literal(f"-?[0-9]{{1,{38 - column.scale}}}([.][0-9]{{0,{column.scale}}})?")
            # DuckDB has read a number with a point as a double: fifteen digits are sure to have come through
            sure = f"length({raw}) <= 16 OR NOT contains({raw}, '.')"
            return (
                f"CASE WHEN regexp_full_match(({raw}), {pattern}) AND ({sure}) THEN ({raw})::{column.sql_type} "
                f"WHEN {_no_null(column, raw)} THEN {misfit} END"
            )
        case Kind.TIMESTAMP | Kind.DATE:
            value = time_or_null(raw, column) if column.kind == Kind.TIMESTAMP else date_or_null(raw)
            return f"coalesce({value}, CASE WHEN NOT {is_zero_date(raw)} THEN {misfit} END)"
        case Kind.JSON:
            text = f"({raw})::VARCHAR"
            clean = f"replace({text}, '\\u0000', '\\ufffd')" if spool.has_nul else text
            # DuckDB lets pass what is no JSON, and what no double and no Postgres numeric holds; "\\u0000" is no NUL
            odd = [f"regexp_matches({text}, {literal(NO_NUMBER)})"]
            odd += [f"contains({text}, '\\\\u0000')"] if spool.has_nul else []
            return f"CASE WHEN {' OR '.join(odd)} THEN {misfit} ELSE {clean} END"
        case _:
            clean = f"replace({raw}, chr(0), {literal(REPLACEMENT)})" if spool.has_nul else raw
            # DuckDB has read a number with a point as a double, which sixteen digits may not have come through
            rounded = f"length({raw}) > 16 AND TRY_CAST({raw} AS DOUBLE)::VARCHAR = {raw}"
            # a bare NaN is nothing, and "NaN" a text
            unsure = f"{rounded} OR {raw} IN ('NaN', 'Infinity', '-Infinity')" if spool.has_nan else rounded
            return f"CASE WHEN {unsure} THEN {misfit} ELSE {clean} END"


def _no_null(column: Column, raw: str) -> str:
    """SQL: is there a value that is not NULL in this column of numbers?"""
    if not column.no_numbers:
        return f"({raw}) IS NOT NULL"
    texts = [json.dumps(text) for text in column.no_numbers] if _as_written(column) else column.no_numbers
    return f"({raw}) NOT IN ({', '.join(map(literal, texts))})"


_LOCAL = r"[0-9]{1,6}([-/ ][0-9]{1,2}){2}([T ]+[0-9]{1,2}:[0-9:.]+)? *"
_NAMED = _LOCAL + "(UTC|GMT|[A-Za-z_]+(/[A-Za-z_-]+)+)"
_USUAL = "____-__-_____:__:__"


def time_or_null(raw: str, column: Column) -> str:
    """SQL: a text as an instant, NULL where it is none; a time without a zone is one of the column's.

    DuckDB reads "CST" as the zone of Chicago, and drops a zone when it casts to TIMESTAMP. So an abbreviation is taken
    only where the column's own zone has it, and a time is one without a zone only if it has that form.
    """
    # not "epoch" or "infinity"; at its end a digit or Z: 08:00, +0800, GMT+8
    usual = f"ascii({raw}) BETWEEN 48 AND 57 AND (ascii(right({raw}, 1)) BETWEEN 48 AND 57 OR ends_with({raw}, 'Z'))"
    aware = f"{usual} OR regexp_full_match({raw}, {literal(_NAMED)}) THEN TRY_CAST({raw} AS TIMESTAMPTZ) END"
    if column.zone == "UTC":
        return f"CASE WHEN {aware}"
    local = f"{_LOCAL}({'|'.join(_abbreviations(column.zone))})?"
    return (
        f"CASE WHEN ({raw}) LIKE {literal(_USUAL)} OR regexp_full_match({raw}, {literal(local)}) "
        f"THEN timezone({literal(column.zone)}, TRY_CAST({raw} AS TIMESTAMP)) WHEN {aware}"
    )


def date_or_null(raw: str) -> str:
    """SQL: a text as a day, NULL where it is none."""
    return f"CASE WHEN length({raw}) = 10 THEN TRY_CAST({raw} AS DATE) END"


def is_zero_date(raw: str) -> str:
    return f"regexp_full_match({raw}, {literal(ZERO_DATE)})"


@cache
def _abbreviations(zone: str) -> list[str]:
    """The abbreviations of a zone, in winter and in summer."""
    names = {datetime(2024, month, 1, tzinfo=ZoneInfo(zone)).tzname() or "" for month in (1, 7)}
    return sorted(name for name in names if name.isalpha())
