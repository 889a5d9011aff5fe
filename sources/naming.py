"""How a vendor's label becomes a column or table name, so that no name is lost.

dlt's default convention maps 城市, 浏览器 and `#` all to one column `x`, and the last value wins
without a word. Here Unicode letters, marks and digits stay, everything else becomes `_`, camelCase
is split, names are lower case (DuckDB does not tell case apart), and a name longer than 63 bytes of
UTF-8 (the limit of Postgres; kept everywhere, so that a warehouse can move) is cut and tagged with
a hash of the whole label.

Two labels can still ask for one name. `columns_for` tells them apart with a hash tag, and a label
that once got a column keeps it, whatever other labels come later: `known` is that memory.

dlt loads this module as its naming convention (`schema.naming = "sources.naming"`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from functools import lru_cache

from dlt.common.normalizers.naming.naming import NamingConvention as BaseNamingConvention

MAX_BYTES = 63
TAG_LENGTH = 8

SYSTEM_COLUMNS = frozenset({"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"})
"""Every table of Postgres has these; a warehouse must be able to move there."""
RESERVED = SYSTEM_COLUMNS | {
    "_dlt_id",
    "_dlt_load_id",
    "_dlt_parent_id",
    "_dlt_root_id",
    "_dlt_list_idx",
    "_deleted_at",
}
"""Columns of nightload, dlt or a database; a vendor's column of such a name gets a tag."""

_WORD_START = re.compile(r"([^_])([A-Z][a-z]+)")
_LOWER_TO_UPPER = re.compile(r"([a-z0-9])([A-Z])")
_UNDERSCORES = re.compile(r"_+")


class NamingConvention(BaseNamingConvention):
    """The convention as dlt wants it; idempotent, since dlt normalises names more than once."""

    @property
    def is_case_sensitive(self) -> bool:
        return False

    def normalize_identifier(self, identifier: str) -> str:
        return identifier_for(identifier, min(self.max_length or MAX_BYTES, MAX_BYTES))


@lru_cache(maxsize=65536)
def identifier_for(label: str, max_bytes: int = MAX_BYTES) -> str:
    """The column or table name of one label, at most `max_bytes` of UTF-8, never empty."""
    text = unicodedata.normalize("NFC", label)
    text = "".join(char if _belongs(char) else "_" for char in text)
    text = _LOWER_TO_UPPER.sub(r"\1_\2", _WORD_START.sub(r"\1_\2", text)).lower()
    # lower() can bring out a combining mark (İ), so compose again: the name must be its own name
    text = _UNDERSCORES.sub("_", unicodedata.normalize("NFC", text)).rstrip("_")
    if not text:
        return f"column_{tag_for(label)}"
    if text[0].isdigit():
        text = f"_{text}"
    return shorten(text, tag_for(label), max_bytes)


def columns_for(
    labels: Iterable[str], *, known: Mapping[str, str] | None = None, reserved: Set[str] = RESERVED
) -> dict[str, str]:
    """Label → column, each column once.

    `known` is what earlier loads decided and is never changed. Among new labels that ask for one
    name, the label that *is* the name gets it, else the first in alphabetical order; the others
    carry a tag. So the outcome depends on the set of labels, not on their order.
    """
    labels = list(dict.fromkeys(labels))
    columns = {label: known[label] for label in labels if known and label in known}
    taken = set(reserved) | set((known or {}).values())
    new = [label for label in labels if label not in columns]
    for label in sorted(new, key=lambda label: (identifier_for(label) != label, label)):
        column, tag = identifier_for(label), tag_for(label)
        while column in taken:
            column = shorten(f"{column}_{tag}", tag, MAX_BYTES)
            tag = tag_for(tag)  # a label may be another one's tagged name
        columns[label] = column
        taken.add(column)
    return {label: columns[label] for label in labels}


def without_system_columns(columns: Iterable[str]) -> dict[str, str]:
    """Column → tagged name, for those of a table that Postgres does not take: older versions made them in DuckDB."""
    taken = set(columns)
    return columns_for(sorted(taken & SYSTEM_COLUMNS), known={name: name for name in taken - SYSTEM_COLUMNS})


def shorten(name: str, tag: str, max_bytes: int) -> str:
    """`name` cut at a character, tagged, when its UTF-8 is longer than `max_bytes`."""
    raw = name.encode()
    if len(raw) <= max_bytes:
        return name
    head = raw[: max_bytes - len(tag) - 1].decode(errors="ignore").rstrip("_")
    return f"{head}_{tag}"


def tag_for(label: str) -> str:
    return hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:TAG_LENGTH]


def _belongs(char: str) -> bool:
    return char == "_" or char.isalnum() or unicodedata.category(char).startswith("M")
