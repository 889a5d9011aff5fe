"""Which tables an SQL text uses: parsed in its dialect, its template filled in, names of CTEs told from tables.

What cannot be read is told, never left out: a text has its tables, its problems, or both.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, SqlglotError, TokenError

from sources.core.errors import one_line, summarize

# It warns about each statement that it does not know; here that is a problem of the text, and told as one.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

MAX_SECTIONS = 5
STYLES = ("word", "number", "text", "nothing")
"""What a value may stand for: a name, a number, a text, a whole clause. The first that gives SQL is taken."""

_TAG = re.compile(r"\{\{\{\s*(?P<raw>.*?)\s*\}\}\}|\{\{\s*(?P<sign>[#^/!>&]?)\s*(?P<name>.*?)\s*\}\}", re.DOTALL)
_MYBATIS = re.compile(r"[$#]\{\s*([^}]*?)\s*\}")
_XML = re.compile(r"</?(?:if|where|foreach|choose|when|otherwise|trim|set|bind|script)\b[^<>]*>", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_PARAM_QUERY = re.compile(r"\bparam_query_(\d+)_\{(?:\{\{.*?\}\}|[^{}])*\}", re.IGNORECASE)
_PLAIN = re.compile(r"[\w.$@-]+")
_TOKEN = re.compile(r"<Token .*?text: (.*?), line: .*?>", re.DOTALL)
_QUIET = (exp.Set, exp.Use, exp.Transaction, exp.Commit, exp.Rollback, exp.Semicolon)


@dataclass(frozen=True, kw_only=True)
class Used:
    """Tables by their dotted names; `written` has the template of those that a parameter completes."""

    tables: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Piece:
    """A part of a template: its text or a value's name, and the sections it stands in."""

    text: str
    is_value: bool = False
    sections: tuple[tuple[str, bool], ...] = ()

    def shown(self, on: Mapping[str, bool]) -> bool:
        return all(on[name] is wanted for name, wanted in self.sections)


@dataclass
class _Reading:
    """What was found so far in one text."""

    values: Mapping[str, Any]
    mark: str
    names: list[str] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    problems: dict[str, None] = field(default_factory=dict)


def tables_of(
    text: str, dialects: Sequence[str], *, values: Mapping[str, Any] | None = None, mybatis: bool = False
) -> Used:
    """The tables of a text, whose dialect is the first of `dialects` that it parses in.

    `values` are the defaults of its parameters. `mybatis`: its template is `${…}` and XML tags, else it is Mustache
    with nothing quoted, as a Redash has it.
    """
    text = _PARAM_QUERY.sub(r"query_\1", text)
    pieces, problem = (_mybatis(text), "") if mybatis else _mustache(text)
    if problem:
        return Used(problems=(problem,))
    mark = "nlp"
    while mark in text.lower():
        mark += "x"
    reading = _Reading(values or {}, mark)
    reading.names = [piece.text for piece in pieces if piece.is_value]
    unread = {index for index, piece in enumerate(pieces) if piece.text.strip()}
    reason = ""
    for on in _choices(pieces):
        shown = [(index, piece) for index, piece in enumerate(pieces) if piece.shown(on)]
        failed = _read([piece for _, piece in shown], dialects, reading, pieces)
        if failed:
            reason = reason or failed
        else:
            unread -= {index for index, _ in shown}
    if unread:
        # what stands in no reading that could be parsed
        reading.problems[reason or "it has too many sections to read each of them"] = None
    written = {name: told for name, told in reading.tables.items() if told != name}
    return Used(tables=tuple(sorted(reading.tables)), problems=tuple(reading.problems), written=written)


def _choices(pieces: Sequence[_Piece]) -> Iterator[dict[str, bool]]:
    """Each way to show and hide the sections."""
    names = list(dict.fromkeys(name for piece in pieces for name, _ in piece.sections))
    free = names[:MAX_SECTIONS]
    for on in itertools.product((True, False), repeat=len(free)):
        yield dict.fromkeys(names, True) | dict(zip(free, on, strict=True))


def _read(shown: list[_Piece], dialects: Sequence[str], reading: _Reading, pieces: Sequence[_Piece]) -> str:
    """Take the tables of one rendering; why not, if it is no SQL in any dialect."""
    number = {id(piece): at for at, piece in enumerate(piece for piece in pieces if piece.is_value)}
    styles = STYLES if any(piece.is_value for piece in shown) else STYLES[:1]
    reason = ""
    for dialect, style in itertools.product(dialects, styles):
        try:
            statements = sqlglot.parse(_rendered(shown, style, reading.mark, number), read=dialect)
            found = [each for each in statements if each is not None]
            tables = [pair for tree in found for pair in _tables(tree, dialect, reading)]
        except ParseError as error:
            reason = reason or _told(dialect, error)
        except TokenError:
            reason = reason or _told(dialect, "it does not fall into words; is a quote not closed?")
        except (SqlglotError, RecursionError, ValueError) as error:
            reason = reason or _told(dialect, summarize(error))
        else:
            reading.tables.update(tables)
            return ""
    return reason


def _told(dialect: str, error: ParseError | str) -> str:
    if isinstance(error, ParseError):
        first = error.errors[0] if error.errors else {}
        description = _TOKEN.sub(
            lambda token: token[1] if token[1] != "SENTINEL" else "its end", str(first.get("description"))
        )
        error = f"{description} in line {first.get('line', 1)}"
    return one_line(f"not read as {dialect or 'SQL'}: {error}")[:200]


def _rendered(shown: Sequence[_Piece], style: str, mark: str, number: Mapping[int, int]) -> str:
    out = ""
    quote = ""
    for at, piece in enumerate(shown):
        if not piece.is_value:
            quote = _quote_after(piece.text, quote)
            out += piece.text
            continue
        after = shown[at + 1].text[:1] if at + 1 < len(shown) and not shown[at + 1].is_value else " "
        touches = _is_word(out[-1:]) or _is_word(after) or (at + 1 < len(shown) and shown[at + 1].is_value)
        word = f"{mark}{number[id(piece)]}q"
        if quote or touches or style == "word":
            out += word
        elif style == "number":
            out += "1"
        elif style == "text":
            out += f"'{word}'"
    return out


def _is_word(char: str) -> bool:
    return bool(char) and (char.isalnum() or char in "_.$")


def _quote_after(text: str, quote: str) -> str:
    """In which quotes or comment one is after this text, "" for none."""
    at = 0
    while at < len(text):
        two = text[at : at + 2]
        if quote:
            end = {"--": "\n", "/*": "*/"}.get(quote, quote)
            if text.startswith(end, at):
                at += len(end) - 1
                quote = ""
        elif two in ("--", "/*"):
            quote, at = two, at + 1
        elif text[at] in "'\"`":
            quote = text[at]
        at += 1
    return quote


def _mustache(text: str) -> tuple[list[_Piece], str]:
    """The pieces of a Mustache template; what is wrong with it, if something is."""
    pieces: list[_Piece] = []
    sections: list[tuple[str, bool]] = []
    last = 0
    for found in _TAG.finditer(text):
        pieces.append(_Piece(text[last : found.start()], sections=tuple(sections)))
        last = found.end()
        sign, name = found["sign"] or "", found["raw"] if found["raw"] is not None else found["name"]
        match sign:
            case "#" | "^":
                sections.append((name, sign == "#"))
            case "/":
                if not sections or sections.pop()[0] != name:
                    return [], f"the section {{{{/{name}}}}} was not opened"
            case "!" | ">":
                pass
            case _:
                pieces.append(_Piece(name, is_value=True, sections=tuple(sections)))
    if sections:
        return [], f"the section {{{{#{sections[-1][0]}}}}} is not closed"
    pieces.append(_Piece(text[last:]))
    if "{{" in text[last:]:
        return [], "a {{ is not closed"
    return pieces, ""


def _mybatis(text: str) -> list[_Piece]:
    text = re.sub(r"<where\b[^<>]*>", " WHERE 1 = 1 AND ", text, flags=re.IGNORECASE)
    text = re.sub(r"\bAND\s+(</?if\b[^<>]*>|\s)*AND\b", "AND", text, flags=re.IGNORECASE)
    text = _XML.sub(" ", _CDATA.sub(r"\1", text))
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    pieces, last = [], 0
    for found in _MYBATIS.finditer(text):
        pieces += [_Piece(text[last : found.start()]), _Piece(found[1], is_value=True)]
        last = found.end()
    return [*pieces, _Piece(text[last:])]


def _tables(tree: exp.Expr, dialect: str, reading: _Reading) -> Iterator[tuple[str, str]]:
    """(name, name as written) of each table that a statement reads or writes."""
    if isinstance(tree, exp.Command):
        word, rest = str(tree.this).upper(), tree.text("expression")
        start = re.search(r"\b(select|with|insert|update|delete)\b", rest, re.IGNORECASE)
        if word in ("EXPLAIN", "DESCRIBE", "DESC") and start:
            for inner in sqlglot.parse(rest[start.start() :], read=dialect):
                if inner is not None:
                    yield from _tables(inner, dialect, reading)
        else:
            reading.problems[f"a statement that is not read: {one_line(word)[:40]}"] = None
        return
    if isinstance(tree, exp.Condition | exp.Alias) and not isinstance(tree, exp.Query):
        reading.problems["it holds an expression where a statement is due"] = None
    if isinstance(tree, exp.Show):
        reading.problems["a statement that is not read: SHOW"] = None
    if isinstance(tree, _QUIET):
        return
    for command in tree.find_all(exp.Command):
        reading.problems[f"a statement that is not read: {one_line(str(command.this))[:40]}"] = None
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier | exp.Dot) or _is_cte(table, dialect):
            continue  # a function that gives rows has no name of a table
        parts = [part for part in table.parts if isinstance(part, exp.Identifier)]
        if not all(part.name for part in parts):
            continue
        if len(parts) == 1 and not parts[0].args.get("quoted") and parts[0].name.upper() == "TABLE":
            # `TABLE b` for `SELECT * FROM b`: the parser takes it for a table of that name
            reading.problems["a statement that is not read: TABLE"] = None
            continue
        written = ".".join(_put(part, dialect, reading, filled=False) for part in parts)
        yield ".".join(_put(part, dialect, reading, filled=True) for part in parts), written


def _put(part: exp.Identifier, dialect: str, reading: _Reading, *, filled: bool) -> str:
    """A part of a name as its database folds it, with its parameters' defaults or their names in it."""

    def value(found: re.Match[str]) -> str:
        name = reading.names[int(found[1])]
        default = reading.values.get(name)
        plain = isinstance(default, str | int) and not isinstance(default, bool) and _PLAIN.fullmatch(str(default))
        return str(default) if filled and plain else f"{{{{ {name} }}}}"

    pattern = re.compile(rf"{reading.mark}(\d+)q", re.IGNORECASE)
    name = pattern.sub(value, part.name)
    if "{{" in name:
        return name
    return _folded(exp.Identifier(this=name, quoted=part.args.get("quoted")), dialect)


def _folded(name: exp.Identifier, dialect: str) -> str:
    if dialect in ("", "bigquery"):
        return name.name
    return str(Dialect.get_or_raise(dialect).normalize_identifier(name).name)


def _is_cte(table: exp.Table, dialect: str) -> bool:
    """Does the name mean a CTE here? One is seen after its WITH, and by those defined after it."""
    if table.args.get("db"):
        return False
    name = _comparable(table.this, dialect)
    node: exp.Expr = table
    while (parent := node.parent) is not None:
        with_ = parent.args.get("with_") or parent.args.get("with")
        if isinstance(parent, exp.With):
            at = next(at for at, cte in enumerate(parent.expressions) if cte is node)
            seen = parent.expressions if parent.args.get("recursive") else parent.expressions[:at]
        elif with_ is not None and with_ is not node:
            seen = with_.expressions
        else:
            seen = []
        for cte in seen:
            alias = cte.args["alias"].this
            if isinstance(alias, exp.Identifier) and _comparable(alias, dialect) == name:
                return True
        node = parent
    return False


def _comparable(name: exp.Expr, dialect: str) -> str:
    folded = _folded(name.copy(), dialect) if isinstance(name, exp.Identifier) else name.name
    return folded.lower() if dialect in ("", "bigquery") else folded
