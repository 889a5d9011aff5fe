"""The filter language, really parsed and evaluated: `(publisher_id IN (1,2)) AND (status = 'active')` (section 5).

Values compare as MySQL does: numbers by value whatever their type in the row, texts without regard to case, and a
comparison with null is neither true nor false, so that NOT does not make it true.

    or_    := and_ (OR and_)*
    and_   := not_ (AND not_)*
    not_   := NOT not_ | "(" or_ ")" | test
    test   := field (op value | [NOT] IN (values) | [NOT] LIKE text | [NOT] BETWEEN value AND value | IS [NOT] NULL)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Get = Callable[[str], Any]
"""Reads a field of the row at hand, dotted names included."""
Test = Callable[[Get], bool | None]

TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
      | (?P<number>-?\d+(?:\.\d+)?(?![\w.]))
      | (?P<op><>|!=|<=|>=|=|<|>)
      | (?P<mark>[(),])
      | (?P<word>[A-Za-z_][\w.]*)
    )""",
    re.VERBOSE,
)
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
RESERVED = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "RLIKE", "REGEXP", "BETWEEN", "IS", "NULL"})
HTML = re.compile(r"<\s*/?[a-zA-Z!]")


class FilterError(Exception):
    """The text is no filter: status 422."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str


@dataclass(frozen=True)
class Filter:
    test: Test
    fields: frozenset[str]

    def keeps(self, get: Get) -> bool:
        return self.test(get) is True


def parse_filter(text: str) -> Filter:
    parser = _Parser(_tokens(text))
    test = parser.either()
    if parser.at < len(parser.tokens):
        raise FilterError(f"unexpected {parser.tokens[parser.at].text!r}")
    return Filter(test, frozenset(parser.fields))


def _tokens(text: str) -> list[Token]:
    tokens, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise FilterError(f"cannot read at {at}: {text[at : at + 20]!r}")
        if match.lastgroup != "text" and HTML.match(text, match.start(match.lastgroup)):
            raise FilterError("HTML is not allowed")
        tokens.append(Token(match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.fields: set[str] = set()

    def word(self) -> str:
        """The next token in upper case when it is a word of the language, else nothing."""
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "word":
            upper = self.tokens[self.at].text.upper()
            return upper if upper in RESERVED else ""
        return ""

    def take(self, kind: str, text: str = "") -> str:
        if self.at >= len(self.tokens):
            raise FilterError(f"ends where {text or kind} should follow")
        token = self.tokens[self.at]
        if token.kind != kind or (text and token.text.upper() != text):
            raise FilterError(f"{token.text!r} where {text or kind} should be")
        self.at += 1
        return token.text

    def skip(self, kind: str, text: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at] in (Token(kind, text),)
        if kind == "word":
            found = self.word() == text
        self.at += found
        return found

    def either(self) -> Test:
        tests = [self.both()]
        while self.skip("word", "OR"):
            tests.append(self.both())
        return tests[0] if len(tests) == 1 else _any(tests)

    def both(self) -> Test:
        tests = [self.negated()]
        while self.skip("word", "AND"):
            tests.append(self.negated())
        return tests[0] if len(tests) == 1 else _all(tests)

    def negated(self) -> Test:
        if self.skip("word", "NOT"):
            return _not(self.negated())
        if self.skip("mark", "("):
            test = self.either()
            self.take("mark", ")")
            return test
        return self.comparison()

    def comparison(self) -> Test:
        if self.word():
            raise FilterError(f"{self.tokens[self.at].text!r} where a field should be")
        field = self.take("word")
        self.fields.add(field)
        if self.skip("word", "IS"):
            wanted = not self.skip("word", "NOT")
            self.take("word", "NULL")
            return lambda get: (get(field) is None) is wanted
        if self.skip("word", "NOT"):
            return _not(self.set_test(field))
        if self.word():
            return self.set_test(field)
        compare = COMPARE[self.take("op")]
        value = self.value()
        return lambda get: _compared(compare, get(field), value)

    def set_test(self, field: str) -> Test:
        if self.skip("word", "IN"):
            values = self.values()
            return _any([_equal(field, value) for value in values])
        if self.skip("word", "BETWEEN"):
            low = self.value()
            self.take("word", "AND")
            high = self.value()
            return lambda get: _both(_compared(operator.ge, get(field), low), _compared(operator.le, get(field), high))
        for name, pattern_of in (("LIKE", _like), ("RLIKE", re.compile), ("REGEXP", re.compile)):
            if self.skip("word", name):
                try:
                    pattern = pattern_of(str(self.value()), re.IGNORECASE | re.DOTALL)
                except re.error as error:
                    raise FilterError(f"bad pattern: {error}") from error
                return lambda get: None if get(field) is None else pattern.search(str(get(field))) is not None
        raise FilterError(f"no operator after {field}")

    def values(self) -> list[Any]:
        self.take("mark", "(")
        values = [self.value()]
        while self.skip("mark", ","):
            values.append(self.value())
        self.take("mark", ")")
        return values

    def value(self) -> Any:
        if self.at >= len(self.tokens):
            raise FilterError("ends where a value should follow")
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "number":
            return float(token.text) if "." in token.text else int(token.text)
        if token.kind == "text":
            quote = token.text[0]
            return re.sub(r"\\(.)", r"\1", token.text[1:-1].replace(quote * 2, quote), flags=re.DOTALL)
        raise FilterError(f"{token.text!r} where a value should be")


def _like(text: str, flags: int) -> re.Pattern[str]:
    parts = [{"%": ".*", "_": "."}.get(char) or re.escape(char) for char in text]
    return re.compile(rf"\A{''.join(parts)}\Z", flags)


def _equal(field: str, value: Any) -> Test:
    return lambda get: _compared(operator.eq, get(field), value)


def _compared(compare: Callable[[Any, Any], bool], left: Any, right: Any) -> bool | None:
    if left is None:
        return None
    as_numbers = number(left), number(right)
    if (not isinstance(left, str) or not isinstance(right, str)) and None not in as_numbers:
        return compare(*as_numbers)
    return compare(str(left).casefold(), str(right).casefold())


def number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", value):
        return None
    return float(value) if "." in value else int(value)


def _both(left: bool | None, right: bool | None) -> bool | None:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _all(tests: list[Test]) -> Test:
    def test(get: Get) -> bool | None:
        found = [one(get) for one in tests]
        return False if False in found else None if None in found else True

    return test


def _any(tests: list[Test]) -> Test:
    def test(get: Get) -> bool | None:
        found = [one(get) for one in tests]
        return True if True in found else None if None in found else False

    return test


def _not(test: Test) -> Test:
    def negated(get: Get) -> bool | None:
        found = test(get)
        return None if found is None else not found

    return negated
