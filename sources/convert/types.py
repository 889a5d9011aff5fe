"""What a column holds: one kind each, found from values where the vendor does not declare it.

One treatment each, everywhere: NaN and ±Infinity are NULL, also as texts ("NaN") where a number is hinted or stored;
NUL and lone surrogates become U+FFFD; zero dates ("0000-00-00…", "2019-12-00") and empty texts in time columns are
NULL; an integer past 64 bits makes an undeclared column decimal(38,0), past 38 digits text; nested objects and lists
are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

EXACT_DOUBLE = 2**53
"""Every integer up to it is a double."""
REPLACEMENT = "\ufffd"
NO_TEXT = re.compile("[\ud800-\udfff\x00]")
"""What is no character of a text: a lone surrogate, NUL. `REPLACEMENT` takes its place."""
ZERO_DATE = (
    r"|NULL|[0-9]{4}-(00-([0-2][0-9]|3[01])|(0[0-9]|1[0-2])-00)"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
"""A text that is no time in a column of times, as a regular expression: empty, or a month or day is 0."""
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
"""Texts by which Presto writes what is no number in a column of numbers."""
LOAD_ID = "_dlt_load_id"
DELETED_AT = "_deleted_at"
ROW_VERSION = "row_version"
VALID_FROM, VALID_TO = "valid_from", "valid_to"
"""Columns that are not the vendor's."""


def clean(text: str) -> str:
    """The text without what no database holds."""
    return NO_TEXT.sub(REPLACEMENT, text)


def key_of(name: object) -> str:
    """A name as the key that a JSON writer makes of it: 404 is "404", null is "null"."""
    return name if isinstance(name, str) else json.dumps(name, ensure_ascii=False)


def label_of(name: object) -> str:
    """Any JSON value as the label of a column or table."""
    return clean(key_of(name))


class Kind(StrEnum):
    """What a column holds, in dlt's words."""

    BOOL = "bool"
    BIGINT = "bigint"
    DECIMAL = "decimal"
    DOUBLE = "double"
    TEXT = "text"
    JSON = "json"
    TIMESTAMP = "timestamp"
    DATE = "date"


NUMERIC_ORDER = (Kind.BOOL, Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE)
"""Each holds every value of those before it, as far as `join` lets them meet."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: the vendor's label, our name, and what it holds.

    `kind` None: the values decide. `declared` False: `kind` is only the vendor's hint, the values
    may widen it. `nulls`: texts by which this vendor writes NULL. `scale`: digits after the point
    of a DECIMAL(38, scale). `zone`: of times that carry none. `path`: where the value is if it
    is not the row's own: ("advertiser", "name") is `row["advertiser"]["name"]`. `sampled`: `kind` is
    that of the first rows, and no hint.

    A label may be given as any JSON value. It becomes a text that a database holds, and `path` the key in the row.
    """

    label: str
    name: str = ""
    kind: Kind | None = None
    declared: bool = True
    nulls: tuple[str, ...] = ()
    scale: int = 9
    zone: str = "UTC"
    path: tuple[str, ...] = ()
    sampled: bool = False

    @property
    def no_numbers(self) -> tuple[str, ...]:
        """`NO_NUMBERS` where they are NULL; a text among sampled numbers may be a text."""
        return NO_NUMBERS if self.kind in NUMERIC_ORDER[1:] and not self.sampled else ()

    def is_null(self, value: object) -> bool:
        """Is the value a text by which NULL is written here?"""
        is_text = isinstance(value, str) and not isinstance(value, Real)
        return is_text and (value in self.nulls or value in self.no_numbers)

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or NO_TEXT.search(self.label):
            object.__setattr__(self, "path", self.path or (key_of(self.label),))
            object.__setattr__(self, "label", label_of(self.label))
        if self.path == (self.label,):
            object.__setattr__(self, "path", ())

    @property
    def place(self) -> tuple[str, ...]:
        return self.path or (self.label,)

    def of(self, row: Mapping[str, Any]) -> Any:
        """This column's value in a row. Raises `ValueError` if a text or number stands where an object was due."""
        value: Any = row
        for name in self.place:
            if not isinstance(value, Mapping):
                # PHP writes an empty object as []
                if value is None or value == [] or value == "":
                    return None
                raise ValueError(f"no object under {'.'.join(self.place[:-1])}, but {str(value)[:40]!r}")
            value = value.get(name)
        return value

    @property
    def sql_type(self) -> str:
        match self.kind:
            case Kind.DECIMAL:
                return f"DECIMAL(38,{self.scale})"
            case Kind.TIMESTAMP:
                return "TIMESTAMPTZ"
            case Kind.BOOL:
                return "BOOLEAN"
            case Kind.TEXT | Kind.JSON | None:
                return "VARCHAR"
            case kind:
                return kind.value.upper()


class Real(str):
    """A JSON number with a point or exponent, as it was written: no digit is lost by reading it."""

    __slots__ = ()


def kind_of(value: object) -> Kind | None:
    """What one JSON value is; None for null, NaN and Infinity."""
    match value:
        case None:
            return None
        case bool():
            return Kind.BOOL
        case int():
            if -(2**63) <= value < 2**63:
                return Kind.BIGINT
            return Kind.DECIMAL if abs(value) < 10**38 else Kind.TEXT
        case Real():
            return Kind.DOUBLE
        case float():
            return None if value != value or value in (float("inf"), float("-inf")) else Kind.DOUBLE
        case str():
            return Kind.TEXT
        case _:
            return Kind.JSON


def join(first: Kind, second: Kind) -> Kind:
    """The narrowest kind that holds the values of both."""
    if first == second:
        return first
    if Kind.JSON in (first, second):
        return Kind.JSON
    if first in NUMERIC_ORDER and second in NUMERIC_ORDER:
        if {first, second} == {Kind.DECIMAL, Kind.DOUBLE}:
            return Kind.TEXT
        return max(first, second, key=NUMERIC_ORDER.index)
    if {first, second} == {Kind.DATE, Kind.TIMESTAMP}:
        return Kind.TIMESTAMP
    return Kind.TEXT


def settle(column: Column, seen: set[Kind]) -> Kind:
    """The one kind of a column whose values decide, starting from the vendor's hint."""
    kinds = sorted(seen, key=list(Kind).index)
    if column.kind in (Kind.TIMESTAMP, Kind.DATE):
        return column.kind if set(kinds) <= {Kind.TEXT} else Kind.TEXT
    if column.kind in (Kind.TEXT, Kind.JSON):
        return column.kind
    settled: Kind | None = column.kind
    for kind in kinds:
        settled = kind if settled is None else join(settled, kind)
    return settled or Kind.TEXT
