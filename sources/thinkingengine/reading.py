"""Which SQL may be sent: one statement that reads, and that reads `v_event_…` by days.

Without a filter on `"$part_date"` a SELECT scans every day that there ever was. The SQL is parsed for this: a filter in
a comment, in a text, on another table or beside an OR filters nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sources.thinkingengine.settings import wrong

_DAY = "$part_date"
_EVENTS = "v_event_"
_SHOWS = ("SHOW", "DESCRIBE", "DESC")


def check_sql(sql: str, *, where: str, forced: bool) -> None:
    """Raises `ConfigurationError` for SQL that does not only read, or (unless `forced`) scans all days."""
    import sqlglot  # dlt has loaded it where a night runs; here it would slow `nightload --help`
    from sqlglot import exp

    tokens = _tokens(sql, where=where)
    if any(token.token_type.name == "SEMICOLON" for token in tokens):
        raise wrong(f"{where}: there is more than one statement", "Make each a query of its own, without semicolons")
    first = _first_word(tokens)
    if first in _SHOWS:
        return
    if first not in ("SELECT", "WITH"):
        raise wrong(f"{where}: this SQL does not only read", "Write a SELECT")
    named = [
        token.text
        for token, after in zip(tokens, [*tokens[1:], None], strict=True)
        if _is_name(token) and token.text.lower().startswith(_EVENTS) and (after is None or after.text != ".")
    ]
    try:
        tree = sqlglot.parse_one(sql, read="trino")
    except (sqlglot.errors.SqlglotError, RecursionError):
        if named and not forced:
            raise _unseen(where, named[0]) from None
        return
    if tree.find(exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Into):
        raise wrong(f"{where}: this SQL does not only read", "Write a SELECT")
    if forced:
        return
    tables = [table for table in tree.find_all(exp.Table) if table.name.lower().startswith(_EVENTS)]
    filtered: list[Any] = []
    left = tables
    while found := [table for table in left if _by_days(table, filtered)]:
        filtered += found
        left = [table for table in left if not any(table is each for each in found)]  # two may be equal
    if left:
        raise _unfiltered(where, left[0].name)
    if len(named) > len(tables):
        raise _unseen(where, named[-1])


def check_places(sql: str, places: frozenset[str], *, where: str) -> None:
    """Raises `ConfigurationError` for a template inside quotes: what it becomes has quotes of its own."""
    for token in _tokens(sql, where=where):
        if token.token_type.name == "STRING" or (_is_name(token) and "{" in token.text):
            for name in sorted(places):
                if f"{{{name}}}" in token.text.replace("{{", ""):
                    raise wrong(
                        f"{where}: {{{name}}} in {token.text[:60]!r} would be quoted twice",
                        f"Write {{{name}}} outside of quotes; || joins texts",
                    )


def limited(sql: str, rows: int) -> str:
    """The SQL cut to so many rows; SHOW takes no LIMIT. On lines of its own, since it may end in a comment."""
    if _first_word(_tokens(sql, where="SQL")) in _SHOWS:
        return sql
    return f"SELECT * FROM (\n{sql}\n) AS t LIMIT {rows}"  # noqa: S608


def _tokens(sql: str, *, where: str) -> list[Any]:
    import sqlglot

    try:
        return sqlglot.tokenize(sql, read="trino")
    except (sqlglot.errors.SqlglotError, RecursionError):
        raise wrong(f"{where}: this SQL cannot be read", "Close its quotes and comments") from None


def _first_word(tokens: list[Any]) -> str:
    return next((token.text.upper() for token in tokens if token.text != "("), "")


def _is_name(token: Any) -> bool:
    return token.token_type.name in ("VAR", "IDENTIFIER")


def _by_days(table: Any, filtered: list[Any]) -> bool:
    """Does the SELECT that reads this table filter it on "$part_date"? `filtered` are tables that are known to be."""
    from sqlglot import exp

    select = table.find_ancestor(exp.Select)
    return select is not None and any(_filters(each, table, select, filtered) for each in _conditions(table, select))


def _conditions(table: Any, select: Any) -> Iterator[Any]:
    """What limits the rows that are read of a table: WHERE, and ON unless an outer join keeps the table's rows."""
    from sqlglot import exp

    if (where := select.args.get("where")) is not None:
        yield where.this
    for join in select.find_all(exp.Join):
        if join.find_ancestor(exp.Select) is select and (on := join.args.get("on")) is not None:
            joined = any(each is table for each in join.this.find_all(exp.Table))
            if join.side in ("", "LEFT" if joined else "RIGHT"):
                yield on


def _filters(condition: Any, table: Any, select: Any, filtered: list[Any]) -> bool:
    from sqlglot import exp

    match condition:
        case exp.Paren():
            return _filters(condition.this, table, select, filtered)
        case exp.And():
            return any(_filters(each, table, select, filtered) for each in (condition.left, condition.right))
        case exp.Or():
            return all(_filters(each, table, select, filtered) for each in (condition.left, condition.right))
        case exp.EQ() | exp.GT() | exp.GTE() | exp.LT() | exp.LTE() | exp.Between() | exp.In():
            days = [
                column
                for column in condition.find_all(exp.Column)
                if column.name.lower() == _DAY and column.find_ancestor(exp.Select) is select
            ]
            others = [day for day in days if day.table and day.table.lower() != table.alias_or_name.lower()]
            # a day that equals the day of a table that is filtered, is filtered
            known = {each.alias_or_name.lower() for each in filtered if each.find_ancestor(exp.Select) is select}
            passed_on = isinstance(condition, exp.EQ) and all(day.table.lower() in known for day in others)
            return len(days) > len(others) and (not others or passed_on)
        case _:
            return False


def _unfiltered(where: str, table: str) -> Exception:
    return wrong(
        f'{where} reads {table} without a filter on "{_DAY}", which scans every day that there is',
        'Filter it in each SELECT that reads v_event ("#event_time" does not replace it), or write '
        "allow_full_scan = true",
    )


def _unseen(where: str, table: str) -> Exception:
    return wrong(
        f'{where} reads {table} in a way that cannot be parsed here, so no filter on "{_DAY}" is seen',
        "Write it in a plainer way, or write allow_full_scan = true",
    )
