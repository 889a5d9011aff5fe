"""What the spooled rows and the converted file hold: stray labels, the greatest text, keys that only one side has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

import duckdb
import orjson

from sources.columns import Column, Kind
from sources.fast_way import Misfit, json_lists, json_rows, place_of, proven
from sources.quoting import literal, quote
from sources.scratch import connect, one_row
from sources.spool import Spool, iter_rows, labels_of
from sources.tables import SAMPLE_ROWS, Converted


def stray_labels(spool: Spool, columns: Sequence[Column], rows: int) -> list[str]:
    """Labels that the spooled objects have and no column names.

    Where rows have all columns, every key ends in `":`, and as many of those as rows times columns are
    proof enough. Only where the first rows lack a column, or there are more (nested objects, texts),
    the keys themselves are looked at.
    """
    named = {column.place[0] for column in columns}
    uneven = any(row.keys() != named for row in islice(iter_rows(spool.path), SAMPLE_ROWS))
    ends, before = 0, b""
    with spool.path.open("rb") as file:
        while chunk := file.read(1 << 22):
            ends += chunk.count(b'":') + (before.endswith(b'"') and chunk.startswith(b":"))
            before = chunk
    if not uneven and ends <= rows * len(columns):
        return []
    source = f"read_json({literal(spool.path)}, format='array', records=false, columns={{j: 'JSON'}})"
    with connect() as connection:
        try:
            found = connection.execute(f"SELECT DISTINCT unnest(json_keys(j)) FROM {source}").fetchall()  # noqa: S608
        except duckdb.Error:
            return [label for label in labels_of(iter_rows(spool.path)) if label not in named]
    return sorted(label for (label,) in found if label not in named)


def texts_of(converted: Converted, label: str) -> set[str]:
    """The values of one column, each once, as texts: a day is 2026-01-31."""
    name = quote(next(column.name for column in converted.columns if column.label == label))
    with connect() as connection:
        found = connection.execute(f"SELECT DISTINCT {name}::VARCHAR FROM {literal(converted.path)}").fetchall()  # noqa: S608
    return {text for (text,) in found if text is not None}


def filled(converted: Converted) -> dict[str, int]:
    """Column → in how many rows it has a value, by the file's own figures: no row is read."""
    with connect() as connection:
        told = connection.execute(
            "SELECT path_in_schema, sum(num_values - coalesce(stats_null_count, 0)) "  # noqa: S608
            f"FROM parquet_metadata({literal(converted.path)}) GROUP BY path_in_schema"
        ).fetchall()
    names = {column.name for column in converted.columns}
    return {name: int(count) for name, count in told if name in names}


def greatest(spool: Spool, label: str, *, like: str, up_to: str) -> str | None:
    """The greatest text under `label` that has the form `like` (a regular expression) and is not above `up_to`.

    None if there is none, or if the rows need the exact way.
    """
    spool.close()
    source, name = json_rows(spool.path, "array", {label: "VARCHAR"}), quote(label)
    if spool.labels is not None:
        source, name = json_lists(spool), place_of(Column(label=label), spool.labels)
    try:
        with connect() as connection:
            row = connection.execute(
                f"SELECT max({name}) FROM {source} "  # noqa: S608
                f"WHERE regexp_full_match({name}, {literal(like)}) AND {name} <= {literal(up_to)}"
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
    name, zone, edge = quote(column.name), literal(column.zone), literal(up_to)
    if column.kind == Kind.DATE:
        told, highest = f"max({name})", f"{edge}::TIMESTAMP::DATE"
    else:
        # both ways through DuckDB's own clock: an hour that comes twice has one meaning in either
        told, highest = f"timezone({zone}, max({name}))", f"timezone({zone}, {edge}::TIMESTAMP)"
    with connect() as connection:
        row = connection.execute(
            f"SELECT ({told})::VARCHAR FROM {literal(converted.path)} WHERE {name} <= {highest}"  # noqa: S608
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
    names = ", ".join(quote(column.name) for column in columns)
    try:
        source, proofs = proven(second, columns)
        exprs = ", ".join(f"{sql} AS {quote(name)}" for name, sql in proofs.items())
        there, came = f"SELECT {names} FROM {literal(converted.path)}", f"SELECT {exprs} FROM {source}"  # noqa: S608
        return _on_one_side(names, there, came)
    except (Misfit, duckdb.Error):
        return _texts_apart(first, second, labels)


def _texts_apart(first: Spool, second: Spool, labels: Sequence[str]) -> int:
    """The same, both spools read."""
    first.close()
    second.close()
    names = ", ".join(map(quote, labels))
    sources = (json_rows(spool.path, "array", dict.fromkeys(labels, "VARCHAR")) for spool in (first, second))
    try:
        return _on_one_side(names, *(f"SELECT {names} FROM {source}" for source in sources))  # noqa: S608
    except duckdb.Error:
        seen = [{tuple(str(row.get(label)) for label in labels) for row in iter_rows(s.path)} for s in (first, second)]
        return len(seen[0] ^ seen[1])


def _on_one_side(names: str, first: str, second: str) -> int:
    """How many values of the columns `names` only one of two SELECTs brings."""
    with connect() as connection:
        (count,) = one_row(
            connection,
            f"SELECT count(*) FROM (SELECT bit_or(side) AS sides FROM (SELECT *, 1 AS side FROM ({first}) "  # noqa: S608
            f"UNION ALL SELECT *, 2 FROM ({second})) GROUP BY {names} HAVING sides <> 3)",
        )
    return int(count)
