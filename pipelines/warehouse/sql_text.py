"""SQL as text: where one statement ends and the next begins, what it calls, what it sets.

DuckDB and Postgres write strings and comments alike. Where a statement ends is for a shell to know when it is complete;
that a text is one statement is for the database to prove.
"""

from __future__ import annotations

import re

# What may hold a semicolon that ends nothing. An alternative without its end runs to the end of the text.
_SPANS = re.compile(
    r"""
      (?P<line>--[^\n\r]*)
    | (?P<open>/\*)
    | \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)
    | '(?:[^']|'')*(?:'|\Z)
    | "(?:[^"]|"")*(?:"|\Z)
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
    | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

# A name before a bracket, or before a comment that may hide one.
_CALLED = re.compile(r"""([^\W\d][\w$]*)"?(?=\s*(?:\(|/\*|--))""")
_VALUE = r"""(?:[\w.+:/-]+|'[^'\\]*'|"[^"\\]*")"""
_SETTING = re.compile(
    rf"""
    SET \s+ (?:SESSION\s+)? (?: (?P<zone>TIME\s+ZONE)\s+ | (?P<set>\w+)(?:\s*=\s*|\s+TO\s+) )
        (?P<value> {_VALUE} (?:\s*,\s*{_VALUE})* )
    | RESET \s+ (?P<reset>\w+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
SETTINGS = frozenset(
    (
        *("search_path", "schema", "timezone", "statement_timeout", "datestyle", "intervalstyle", "extra_float_digits"),
        *("bytea_output", "work_mem", "jit", "memory_limit", "threads", "default_order", "default_null_order"),
    )
)
"""What a user may set: none of it changes how a text is read, what may be written, or where files go."""


def calls(sql: str) -> set[str]:
    """Names that the statement may call, as they are written and in small letters; also some that it does not call."""
    names = set(_CALLED.findall(sql))
    return names | {name.lower() for name in names}


def setting(sql: str) -> tuple[str, str | None] | None:
    """Which of `SETTINGS` a SET or RESET changes, and to what (None: its default); None for anything else."""
    found = _SETTING.fullmatch(sql.strip())
    if found is None:
        return None
    name = "timezone" if found["zone"] else (found["set"] or found["reset"]).lower()
    if name not in SETTINGS:
        return None
    value = found["value"]
    if value is None or value.upper() in ("DEFAULT", "LOCAL"):
        return name, None
    return name, ", ".join(part.strip().strip("'") for part in value.split(","))


def split(sql: str) -> tuple[list[str], str]:
    """The statements that a semicolon ends, without it, and the rest; what is empty or comment only is left out."""
    statements: list[str] = []
    begin = at = 0
    has_text = False
    while (span := _SPANS.search(sql, at)) is not None:
        has_text = has_text or bool(sql[at : span.start()].strip())
        at = span.end()
        if span["open"]:
            at = _comment_end(sql, span.end())
            has_text = has_text or not sql.endswith("*/", 0, at)  # its end is still to come
        elif span["end"]:
            if has_text:
                statements.append(sql[begin : span.start()].strip())
            begin, has_text = at, False
        elif not span["line"]:
            has_text = True
    has_text = has_text or bool(sql[at:].strip())
    return statements, sql[begin:].strip() if has_text else ""


def first_word(sql: str) -> str:
    """The word that says what a statement does, in capitals; comments and brackets before it do not count."""
    at = 0
    while (span := re.compile(r"[\s(]+|--[^\n\r]*|/\*").match(sql, at)) is not None:
        at = _comment_end(sql, span.end()) if span[0] == "/*" else span.end()
    word = re.compile(r"\w+").match(sql, at)
    return word[0].upper() if word else ""


def _comment_end(sql: str, at: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(sql, at)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return len(sql) if depth else at
