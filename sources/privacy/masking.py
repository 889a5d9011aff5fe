"""Between the proven rows and the warehouse: forgotten people are left out, personal columns hashed or dropped.

It reads the converted file and writes another: what the vendor counts is compared before, on all rows that came, and
tables with nothing to protect take no part in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from sources.convert.duckdb_session import connect, one_row, parquet, still_nullable
from sources.convert.parquet import Converted, digest_of
from sources.convert.types import LOAD_ID, Column, Kind
from sources.core.sql import literal, quote
from sources.privacy.matching import TEXT_OR_NUMBER, WORD_RE2, Forgotten, Sought, lowered_sql, normal_sql, salted
from sources.privacy.pii_columns import is_about_whom_it_names
from sources.privacy.policy import DROP, HASH

REMEMBERED = 100_000
"""So many rows of forgotten people are remembered by their keys at most; a total is not compared beyond."""
_TEXTS = (Kind.TEXT, Kind.JSON)
_WHOLE = (Kind.BIGINT, Kind.DECIMAL)
_ESCAPED, _ESCAPED_TWICE = r"\\.", r"\\+[bfnrtu/\"]"
"""What is no word in a JSON document, and in one that stands in a text, be it of another."""
_BACKSLASH = "\\"
_NESTED_LETTER = r"\\u[0-9a-fA-F]{4}"


@dataclass(frozen=True, kw_only=True)
class Screened:
    """`kept_out`: rows of forgotten people, `blanked`: values of theirs in the rows that stayed. `keys` and `scopes`:
    salted hashes of the rows' keys, each with its scope's, and of all scopes that the file has."""

    converted: Converted
    kept_out: int = 0
    blanked: int = 0
    keys: tuple[tuple[str, str], ...] = ()
    scopes: frozenset[str] = frozenset()


def screen(
    converted: Converted,
    *,
    dataset: str,
    table: str,
    policies: Mapping[str, str],
    prefixes: Mapping[str, str],
    forgotten: Forgotten,
    key: Sequence[str] = (),
    scope: str | None = None,
    version: str | None = None,
) -> Screened:
    """The converted file without what must not land. `version`: SQL of `row_version` over the columns as they land."""
    if not converted.rows or not (policies or forgotten):
        return Screened(converted=converted)
    with connect(converted.memory) as connection:
        source = literal(converted.path)
        gone, masks = _look(connection, converted, f"{dataset}.{table}", forgotten, key=key)
        if not (gone or masks or policies):
            scopes = _scopes(connection, source, scope, forgotten) if scope and forgotten else frozenset()
            return Screened(converted=converted, scopes=scopes)
        connection.execute("CREATE OR REPLACE TEMP TABLE _masks (place INTEGER, old VARCHAR, fresh VARCHAR)")
        connection.execute("CREATE OR REPLACE TEMP TABLE _gone (place INTEGER, old VARCHAR)")
        for values, target in ((masks, "_masks"), (gone, "_gone")):
            if values:
                marks = ", ".join("?" for _ in values[0])
                connection.executemany(f"INSERT INTO {target} VALUES ({marks})", values)  # noqa: S608
        places = sorted({place for place, *_ in gone})
        for place in places:
            only = f"SELECT old FROM _gone WHERE place = {place}"  # noqa: S608
            connection.execute(f"CREATE OR REPLACE TEMP VIEW _gone_{place} AS {only}")
        is_gone = " OR ".join(
            f"coalesce({quote(converted.columns[place].name)}::VARCHAR IN (FROM _gone_{place}), false)"
            for place in places
        )
        kept_out = one_row(connection, f"SELECT count(*) FROM {source} WHERE {is_gone}")[0] if is_gone else 0  # noqa: S608
        keys = _keys(connection, source, is_gone, forgotten, key, scope) if is_gone and key else ()
        blanked = sum(
            one_row(
                connection,
                f"SELECT count(*) FROM {source} WHERE NOT ({is_gone or 'false'}) AND "  # noqa: S608
                f"{quote(converted.columns[place].name)}::VARCHAR IN (SELECT old FROM _masks WHERE place = {place})",
            )[0]
            for place in sorted({place for place, *_ in masks})
        )
        scopes = _scopes(connection, source, scope, forgotten) if scope and forgotten else frozenset()
        columns = _rewrite(connection, converted, masks, is_gone, policies, prefixes=prefixes, version=version)
        rows = converted.rows - kept_out
        told = replace(
            converted,
            columns=columns,
            rows=rows,
            keys=converted.keys - kept_out,
            digest=digest_of(connection, converted.path, columns),
        )
        connection.execute("DROP TABLE _masks")
        connection.execute("DROP TABLE _gone")
    return Screened(converted=told, kept_out=kept_out, blanked=blanked, keys=keys, scopes=scopes)


def _look(
    connection: duckdb.DuckDBPyConnection, converted: Converted, where: str, forgotten: Forgotten, *, key: Sequence[str]
) -> tuple[list[tuple[int, str]], list[tuple[int, str, str | None]]]:
    """Values whose rows are left out, and values that are blanked or masked: (column, value[, what lands])."""
    gone: list[tuple[int, str]] = []
    masks: list[tuple[int, str, str | None]] = []
    dataset, _, table = where.partition(".")
    told: dict[int, list[str]] = defaultdict(list)
    for places in _alike(converted.columns, where, forgotten):
        for place, value in _candidates(connection, converted, places, where, forgotten):
            told[place].append(value)
    for place in sorted(told):
        column = converted.columns[place]
        nested = column.kind == Kind.JSON
        removes = column.name in key or is_about_whom_it_names(dataset, table, column.label, nested=nested)
        for value in told[place]:
            leaves, fresh = judge(value, column.kind, forgotten.sought(where, column.label, column.name), removes)
            if leaves:
                gone.append((place, value))
            elif fresh != value:
                masks.append((place, value, fresh))
    return gone, masks


def judge(value: str, kind: Kind | str | None, sought: Sought, removes: bool) -> tuple[bool, str | None]:
    """Does a row with this value go? And if it stays, what stands in the value's place (None: nothing)?"""
    if kind == Kind.JSON:
        return removes and sought.has_leaf(value), sought.masked_json(value)
    if sought.is_cell(value):
        return removes, None
    return False, sought.masked(value) if kind == Kind.TEXT else value


def _alike(columns: Sequence[Column], where: str, forgotten: Forgotten) -> list[list[int]]:
    """The places of the columns that can hold a forgotten value, in groups of those that are searched in one way.

    To plan such a search costs 10 ms, most of it for the regular expressions: more than to search a small table.
    """
    groups: dict[tuple[Kind | str | None, frozenset[str]], list[int]] = defaultdict(list)
    for place, column in enumerate(columns if forgotten else ()):
        if column.kind in (*_TEXTS, *_WHOLE):
            kind = column.kind if column.kind in _TEXTS else Kind.BIGINT
            groups[kind, forgotten.cells(where, column.label, column.name)].append(place)
    return list(groups.values())


def _candidates(
    connection: duckdb.DuckDBPyConnection, converted: Converted, places: Sequence[int], where: str, forgotten: Forgotten
) -> list[tuple[int, str]]:
    """(place, value) of some alike columns in which, as a whole or among its words, a forgotten one stands."""
    column, raw = converted.columns[places[0]], "value"
    cells = forgotten.cells(where, column.label, column.name)
    tests = []
    if cells and column.kind != Kind.JSON:
        tests.append(f"{_salted(forgotten, normal_sql(raw))} IN ({_listed(cells)})")
    if column.kind in _TEXTS:
        plain = f"CASE WHEN json_valid({raw}) THEN json({raw})::VARCHAR ELSE {raw} END"
        is_json = column.kind == Kind.JSON
        nested = f"contains({raw}, {literal(_BACKSLASH * (1 + is_json))}) AND "
        first = f"regexp_replace({plain}, {literal(_ESCAPED)}, ' ', 'g')" if is_json else raw
        second = f"regexp_replace({plain}, {literal(_ESCAPED_TWICE)}, ' ', 'g')"
        for reading, condition in ((first, ""), (second, nested)):
            told = f"regexp_extract_all(replace(nfc_normalize({reading}), '%40', '@'), {literal(WORD_RE2)})"
            for size, phrases in forgotten.phrases().items():
                grams = told
                if size > 1:
                    grams = (
                        f"list_transform(range(1, greatest(len({told}) - {size - 2}, 1)), "
                        f"lambda i: array_to_string({told}[i:i + {size - 1}], ' '))"
                    )
                hashes = f"list_transform({grams}, lambda w: {_salted(forgotten, lowered_sql('w'))})"
                tests.append(f"{condition}list_has_any({hashes}, [{_listed(phrases)}])")
        if tests:  # a letter that is still escaped shows only when the text is read as JSON
            tests.append(f"{nested}regexp_matches({plain}, {literal(_NESTED_LETTER)})")
        if is_json and cells:  # values of a column that was named stand in no text, but as leaves
            leaf = _salted(forgotten, normal_sql("""CASE WHEN starts_with(t, '"') THEN t ->> '$' ELSE t END"""))
            leaves = f"list_transform(regexp_extract_all({plain}, {literal(TEXT_OR_NUMBER)}), lambda t: {leaf})"
            tests.append(f"list_has_any({leaves}, [{_listed(cells)}])")
    if not tests:
        return []
    each = ", ".join(
        f"{{'place': {place}, 'value': {quote(converted.columns[place].name)}::VARCHAR}}" for place in places
    )
    return connection.execute(
        f"SELECT DISTINCT place, value FROM (SELECT unnest([{each}], recursive := true) "  # noqa: S608
        f"FROM {literal(converted.path)}) WHERE value IS NOT NULL AND ({' OR '.join(tests)})"
    ).fetchall()


def _rewrite(
    connection: duckdb.DuckDBPyConnection,
    converted: Converted,
    masks: Sequence[tuple[int, str, str | None]],
    is_gone: str,
    policies: Mapping[str, str],
    *,
    prefixes: Mapping[str, str],
    version: str | None,
) -> tuple[Column, ...]:
    """Write the file anew; the columns that it then has."""
    joins, exprs, columns = [], [], []
    masked = {place for place, *_ in masks}
    for place, column in enumerate(converted.columns):
        policy = policies.get(column.name)
        if policy == DROP:
            continue
        sql = f"r.{quote(column.name)}"
        if place in masked:
            fresh = f"m{place}.fresh" if column.kind in _TEXTS else "NULL"
            joins.append(f"LEFT JOIN _masks m{place} ON m{place}.place = {place} AND m{place}.old = {sql}::VARCHAR")
            sql = f"CASE WHEN m{place}.old IS NULL THEN {sql} ELSE {fresh} END"
        if policy == HASH:
            sql = f"sha256({literal(prefixes[column.name])} || ({sql})::VARCHAR)"
            column = replace(column, kind=Kind.TEXT)
        exprs.append(f"{sql} AS {quote(column.name)}")
        columns.append(column)
    own = {column.name for column in converted.columns}
    names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {literal(converted.path)}").fetchall()]  # noqa: S608
    exprs += [f"r.{quote(name)}" for name in names if name not in own]
    rows = f"SELECT * FROM {literal(converted.path)}" + (f" WHERE NOT ({is_gone})" if is_gone else "")  # noqa: S608
    ours = {LOAD_ID: quote(LOAD_ID), **({"row_version": version} if version else {})}
    dropped = own - {column.name for column in columns}
    outer = ", ".join(
        f"{ours.get(name) or still_nullable(name)} AS {quote(name)}" for name in names if name not in dropped
    )
    target = converted.path.with_suffix(".screened.parquet")
    connection.execute(
        f"COPY (SELECT {outer} FROM (SELECT {', '.join(exprs)} FROM ({rows}) r {' '.join(joins)})) "  # noqa: S608
        f"TO {literal(target)} ({parquet(len(names))})"
    )
    target.replace(converted.path)
    return tuple(columns)


def _keys(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    is_gone: str,
    forgotten: Forgotten,
    key: Sequence[str],
    scope: str | None,
) -> tuple[tuple[str, str], ...]:
    whole = ", ".join(f"{quote(name)}::VARCHAR" for name in key)
    within = f"{quote(scope)}::VARCHAR" if scope else "''"
    found = connection.execute(
        f"SELECT {within}, row({whole})::VARCHAR FROM {source} WHERE {is_gone} LIMIT {REMEMBERED}"  # noqa: S608
    ).fetchall()
    return tuple((salted(forgotten.salt, str(a))[:16], salted(forgotten.salt, b)[:16]) for a, b in found)


def _scopes(connection: duckdb.DuckDBPyConnection, source: str, scope: str, forgotten: Forgotten) -> frozenset[str]:
    found = connection.execute(f"SELECT DISTINCT {quote(scope)}::VARCHAR FROM {source}").fetchall()  # noqa: S608
    return frozenset(salted(forgotten.salt, str(value))[:16] for (value,) in found)


def _salted(forgotten: Forgotten, value: str) -> str:
    return f"sha256({literal(forgotten.salt)} || {value})"


def _listed(hashes: frozenset[str]) -> str:
    return ", ".join(map(literal, sorted(hashes)))
