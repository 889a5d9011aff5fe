"""Names and texts as SQL spells them."""

from __future__ import annotations


def quote(*names: str) -> str:
    """A dotted, quoted SQL name."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: object) -> str:
    """A text, or a path, as an SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"
