"""A person's value, and where it stands in a text: as a whole cell, or as words among others.

Words are what letters, digits and the signs of addresses make up; each Chinese, Japanese or Korean character is a word
of its own, since such texts have no blanks. A value with an @ is the same in upper and lower case, and where an address
writes it as %40; letters are the same whether their accents are part of them or stand after them.

What is forgotten is only known by salted hashes (`Forgotten`), so a text is searched by hashing its words.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MASK = "[forgotten]"

_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|(?![{_CJK}])\w(?:(?:%40|(?![{_CJK}])[\w.@+-])*(?![{_CJK}])\w)?")
_CJK_RE2 = r"\x{2e80}-\x{9fff}\x{ac00}-\x{d7af}\x{f900}-\x{faff}\x{20000}-\x{3ffff}"
_NAME_RE2 = rf"(?:[^\P{{L}}{_CJK_RE2}]|[\p{{N}}_])"
WORD_RE2 = rf"[{_CJK_RE2}]|{_NAME_RE2}(?:(?:%40|[^\P{{L}}{_CJK_RE2}]|[\p{{N}}_.@+-])*{_NAME_RE2})?"
"""`_WORD` as DuckDB's regular expressions say it."""

TEXT_OR_NUMBER = r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?'
"""A text or a number of a JSON document."""
_TOKEN = re.compile(TEXT_OR_NUMBER)
SPACES = "".join(map(chr, (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))))
SPACES += "\u2028\u2029\u202f\u205f\u3000"
"""What `str.strip` takes off."""


def normal(text: str) -> str:
    """The form in which two spellings of one value are the same; `normal_sql` says it in SQL."""
    text = composed(text.strip(SPACES)).replace("%40", "@")
    # letter by letter, as DuckDB has it: Python has a sigma for the end of a word, and two letters for a dotted I
    return "".join(letter.lower()[0] for letter in text) if "@" in text else text


def normal_sql(value: str) -> str:
    """`normal` of an SQL expression, for DuckDB."""
    return lowered_sql(f"replace(nfc_normalize(trim({value}, '{SPACES}')), '%40', '@')")


def lowered_sql(text: str) -> str:
    return f"CASE WHEN contains({text}, '@') THEN lower({text}) ELSE {text} END"


def composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def words(text: str) -> list[str]:
    return _WORD.findall(composed(text))


def phrase(value: str) -> str:
    """The words of a value, as they are compared with those of a text."""
    return normal(" ".join(words(value)))


@dataclass(frozen=True, kw_only=True)
class Sought:
    """What is looked for: is this cell, is this phrase the person's? `sizes`: how many words such phrases have."""

    is_cell: Callable[[str], bool]
    is_phrase: Callable[[str], bool]
    sizes: frozenset[int]

    def masked(self, text: str) -> str:
        """The text, which may itself be JSON, with `[forgotten]` in place of each phrase that is sought."""
        if text.lstrip()[:1] in ("{", "[") and _is_json(text):
            return self.masked_json(text)
        before, text = text, composed(text)
        spans = [found.span() for found in _WORD.finditer(text)]
        gone: list[tuple[int, int]] = []
        for size in self.sizes:
            for at in range(len(spans) - size + 1):
                told = " ".join(text[start:end] for start, end in spans[at : at + size])
                if self.is_phrase(normal(told)):
                    gone.append((spans[at][0], spans[at + size - 1][1]))
        for start, end in sorted(gone, reverse=True):
            text = text[:start] + MASK + text[end:]
        return text if gone else before

    def masked_json(self, document: str) -> str:
        """The JSON document with its texts masked, and numbers that are the person's null."""

        def put(found: re.Match[str]) -> str:
            token = found[0]
            if not token.startswith('"'):
                return "null" if self.is_cell(token) else token
            text = json.loads(token, strict=False)
            masked = MASK if self.is_cell(text) else self.masked(text)
            return token if masked == text else json.dumps(masked, ensure_ascii=False)

        return _TOKEN.sub(put, document)

    def has_leaf(self, document: str) -> bool:
        """Is one of the texts or numbers of a JSON document the person's as a whole?"""
        for token in _TOKEN.findall(document):
            if self.is_cell(json.loads(token, strict=False) if token.startswith('"') else token):
                return True
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def sought(values: Sequence[str]) -> Sought:
    """For values that are known."""
    cells = frozenset(normal(value) for value in values)
    phrases = frozenset(filter(None, map(phrase, values)))
    return Sought(
        is_cell=lambda text: normal(text) in cells,
        is_phrase=phrases.__contains__,
        sizes=frozenset(len(each.split()) for each in phrases),
    )


def salted(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt}{text}".encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Known:
    """One forgotten value: the hashes of its cell and of its words. `columns`: it is looked for in these only."""

    cell: str
    phrase: str
    size: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """Everybody who is to be kept out, as far as hashes under one salt can tell."""

    salt: str = ""
    entries: tuple[Known, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def cells(self, where: str, label: str, name: str) -> frozenset[str]:
        """The hashes that a whole cell of this column may have; `where` is the `dataset.table`."""
        return frozenset(each.cell for each in self.entries if is_column(each.columns, where, label, name))

    def phrases(self) -> dict[int, frozenset[str]]:
        """Number of words → the hashes that so many words of a text may have."""
        free = [each for each in self.entries if not each.columns and each.size]
        return {size: frozenset(e.phrase for e in free if e.size == size) for size in {each.size for each in free}}

    def sought(self, where: str, label: str, name: str) -> Sought:
        cells, phrases = self.cells(where, label, name), self.phrases()
        anywhere = frozenset().union(*phrases.values())
        return Sought(
            is_cell=lambda text: salted(self.salt, normal(text)) in cells,
            is_phrase=lambda text: salted(self.salt, text) in anywhere,
            sizes=frozenset(phrases),
        )


def is_column(columns: Sequence[str], where: str, label: str, name: str) -> bool:
    """Is it among these, named as `COLUMN`, `TABLE.COLUMN` or `DATASET.TABLE.COLUMN`? All are, if there are none."""
    table = where.partition(".")[2]
    names = {f"{before}{each}" for each in (label, name) for before in ("", f"{table}.", f"{where}.")}
    return not columns or not names.isdisjoint(columns)
