"""What the spooled rows and the converted file hold: stray labels, the greatest text, keys that only one side has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

import duckdb
import orjson

from sources.convert.duckdb_session import connect, one_row
from sources.convert.fast_cast import Misfit, json_lists, json_rows, place_of, proven, texts, time_or_null
from sources.convert.parquet import SAMPLE_ROWS, Converted
from sources.convert.spool import Spool, iter_rows, labels_of
from sources.convert.types import Column, Kind
from sources.core.sql import literal, quote

Tree = dict[str, "Tree"]


def stray_columns(spool: Spool, columns: Sequence[Column], rows: int) -> list[Column]:
    """Columns for what the spooled objects have and no column names, also in an object that is loaded in parts.

    Where rows have all columns, every key ends in `":`, and as many of those as rows times columns are
    proof enough. Only where the first rows lack a column, or there are more (nested objects, texts),
    the keys themselves are looked at.
    """
    named, nodes = _tree(columns)
    uneven = any(_parts_of(row, named) != named for row in islice(iter_rows(spool.path), SAMPLE_ROWS))
    ends, before = 0, b""
    with spool.path.open("rb") as file:
        while chunk := file.read(1 << 22):
            ends += chunk.count(b'":') + (before.endswith(b'"') and chunk.startswith(b":"))
            before = chunk
    if not uneven and ends <= rows * nodes:
        return []
    labels = {column.label for column in columns}
    strays = []
    for place in _stray_places(spool, named, ()):
        label = ".".join(place)
        while label in labels:  # a label may have a dot of its own
            label += " [nested]"
        labels.add(label)
        strays.append(Column(label=label, declared=False, path=place if len(place) > 1 else ()))
    return strays


def _tree(columns: Sequence[Column]) -> tuple[Tree, int]:
    """The names that columns read, each with those inside it that they read apart; and how many there are."""
    tree: Tree = {}
    nodes = 0
    for column in sorted(columns, key=lambda column: -len(column.place)):
        level = tree
        for name in column.place:
            nodes += name not in level
            level = level.setdefault(name, {})
        level.clear()  # as a whole: nothing inside it is unnamed
    return tree, nodes


def _parts_of(value: object, named: Tree) -> Tree:
    """What a row has of what is named."""
    if not isinstance(value, dict):
        return {}
    return {name: _parts_of(inner, named[name]) if named.get(name) else {} for name, inner in value.items()}


def _stray_places(spool: Spool, named: Tree, at: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Where the objects at a place have names that the tree has not, also inside objects that are read in parts."""
    found = sorted((*at, name) for name in _names_at(spool, at) if name not in named)
    return found + [each for name, inner in named.items() if inner for each in _stray_places(spool, inner, (*at, name))]


def _names_at(spool: Spool, at: tuple[str, ...]) -> list[str]:
    source = f"read_json({literal(spool.path)}, format='array', records=false, columns={{j: 'JSON'}})"
    path = "".join(f'."{name}"' for name in at)
    with connect() as connection:
        try:
            if any(sign in name for name in at for sign in '"\\*'):
                raise duckdb.Error("no path of DuckDB's")
            keys = f"json_keys(j, {literal('$' + path)})"
            found = connection.execute(f"SELECT DISTINCT unnest({keys}) FROM {source}").fetchall()  # noqa: S608
            return [name for (name,) in found]
        except duckdb.Error:
            inside = Column(label="", path=at)
            objects = (inside.of(row) if at else row for row in iter_rows(spool.path))
            return labels_of(each for each in objects if isinstance(each, dict))


def texts_of(converted: Converted, label: str) -> set[str]:
    """The values of one column, each once, as texts: a day is 2026-01-31."""
    name = quote(next(column.name for column in converted.columns if column.label == label))
    with connect(converted.memory) as connection:
        found = connection.execute(f"SELECT DISTINCT {name}::VARCHAR FROM {literal(converted.path)}").fetchall()  # noqa: S608
    return {text for (text,) in found if text is not None}


def filled(converted: Converted) -> dict[str, int]:
    """Column → in how many rows it has a value, by the file's own figures: no row is read."""
    with connect(converted.memory) as connection:
        told = connection.execute(
            "SELECT path_in_schema, sum(num_values - coalesce(stats_null_count, 0)) "  # noqa: S608
            f"FROM parquet_metadata({literal(converted.path)}) GROUP BY path_in_schema"
        ).fetchall()
    names = {column.name for column in converted.columns}
    return {name: int(count) for name, count in told if name in names}


def greatest(spool: Spool, label: str, *, like: str, up_to: str, zone: str = "UTC") -> str | None:
    """The text under `label` of the latest time that is not after `up_to`, a time of the zone's clock.

    Times are compared as instants. A text that has not the form `like` (a regular expression), because it carries an
    offset, comes as the zone's clock shows it. None if there is no time, or if the rows need the strict cast.
    """
    spool.close()
    source, name = json_rows([spool.path], "array", {label: "VARCHAR"}), quote(label)
    if spool.labels is not None:
        source, name = json_lists(spool), place_of(Column(label=label), spool.labels)
    at = time_or_null("v", Column(label=label, zone=zone))
    edge = f"timezone({literal(zone)}, {literal(up_to)}::TIMESTAMP)"
    try:
        with connect() as connection:
            row = connection.execute(
                f"SELECT {{'v': v, 'clock': timezone({literal(zone)}, t)::VARCHAR, "  # noqa: S608
                f"'plain': regexp_full_match(v, {literal(like)})}} FROM "
                f"(SELECT arg_max(v, t) FILTER (t <= {edge}) AS v, max(t) FILTER (t <= {edge}) AS t FROM "
                f"(SELECT v, {at} AS t FROM (SELECT {name} AS v FROM {source})))"
            ).fetchone()
    except duckdb.Error:
        return None
    told = row[0] if row else None
    return None if told is None else told["v"] if told["plain"] else told["clock"]


def newest_text(converted: Converted, spool: Spool, label: str, *, like: str, up_to: str) -> str | None:
    """What `greatest` says, read off the converted file where that is sure to be the same, which is much faster.

    The file has instants; the vendor's text of the latest one is returned only if the rows have it letter for letter.
    Texts of another form (with an offset, a T), and those of a gap in the zone's clock, which come out of the file an
    hour later, are not found, and the rows themselves are read. Only where such an hour takes a row over `up_to` is
    the answer older by as much: the lookback of a day covers a gap many times over.
    """
    column = next((each for each in converted.columns if each.label == label), None)
    clock = column.zone if column else "UTC"
    if column is None or column.path or converted.repeats or column.kind not in (Kind.TIMESTAMP, Kind.DATE):
        return greatest(spool, label, like=like, up_to=up_to, zone=clock)
    name, zone, edge = quote(column.name), literal(column.zone), literal(up_to)
    if column.kind == Kind.DATE:
        told, highest = f"max({name})", f"{edge}::TIMESTAMP::DATE"
    else:
        # both ways through DuckDB's own clock: an hour that comes twice has one meaning in either
        told, highest = f"timezone({zone}, max({name}))", f"timezone({zone}, {edge}::TIMESTAMP)"
    with connect(converted.memory) as connection:
        row = connection.execute(
            f"SELECT ({told})::VARCHAR FROM {literal(converted.path)} WHERE {name} <= {highest}"  # noqa: S608
        ).fetchone()
    found: str | None = row[0] if row else None
    if found is None or (re.fullmatch(like, found) and _has_text(spool, label, found)):
        return found
    return greatest(spool, label, like=like, up_to=up_to, zone=clock)


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
        return _texts_apart(first, second, [Column(label=label, name=label) for label in labels])
    names = ", ".join(quote(column.name) for column in columns)
    try:
        source, proofs = proven(second, columns)
        exprs = ", ".join(f"{sql} AS {quote(name)}" for name, sql in proofs.items())
        there, came = f"SELECT {names} FROM {literal(converted.path)}", f"SELECT {exprs} FROM {source}"  # noqa: S608
        return _on_one_side(names, there, came, converted.memory)
    except (Misfit, duckdb.Error):
        return _texts_apart(first, second, columns)


def _texts_apart(first: Spool, second: Spool, columns: Sequence[Column]) -> int:
    """The same, both spools read."""
    first.close()
    second.close()
    names = ", ".join(quote(column.name) for column in columns)
    try:
        return _on_one_side(names, texts(first.path, columns), texts(second.path, columns))
    except (Misfit, duckdb.Error):
        seen = [{tuple(str(c.of(row)) for c in columns) for row in iter_rows(s.path)} for s in (first, second)]
        return len(seen[0] ^ seen[1])


def _on_one_side(names: str, first: str, second: str, more: int = 0) -> int:
    """How many values of the columns `names` only one of two SELECTs brings."""
    with connect(more) as connection:
        (count,) = one_row(
            connection,
            f"SELECT count(*) FROM (SELECT bit_or(side) AS sides FROM (SELECT *, 1 AS side FROM ({first}) "  # noqa: S608
            f"UNION ALL SELECT *, 2 FROM ({second})) GROUP BY {names} HAVING sides <> 3)",
        )
    return int(count)
