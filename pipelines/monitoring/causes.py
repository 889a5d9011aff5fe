"""Errors of one cause over many tables: said once, with the tables that they concern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 3
_PLACE = re.compile(r" ?\(([^()]*)\)")
_SECONDS = re.compile(r"\d+(\.\d+)? s\b")


def by_cause(errors: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """(table, error) of several tables → the tables of each cause, and its error with the place that they share."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for table, error in errors:
        groups.setdefault(cause_of(error), []).append((table, error))
    return [([table for table, _ in group], shared([error for _, error in group])) for group in groups.values()]


def cause_of(error: str) -> str:
    """The error without its place, which stands in brackets, and without a pause: it shortens from table to table."""
    return _SECONDS.sub("# s", _PLACE.sub("", error))


def alike(incidents: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The incidents in groups: tables of a vendor that failed for one cause; each other one alone."""
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(incidents):
        key = (row["what"], cause_of(row["why"])) if row["kind"] == "table" else number
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def named(tables: Sequence[str]) -> str:
    """One table, or how many there are and the first of them."""
    if len(tables) == 1:
        return tables[0]
    more = f" and {len(tables) - SHOWN} more" if len(tables) > SHOWN else ""
    return f"{len(tables)} tables ({', '.join(tables[:SHOWN])}{more})"


def shared(errors: Sequence[str]) -> str:
    """The first error, without those parts of its places that others do not name."""
    others = [{part for place in _PLACE.findall(error) for part in place.split(", ")} for error in errors]

    def cut(place: re.Match[str]) -> str:
        parts = [part for part in place[1].split(", ") if all(part in other for other in others)]
        return f" ({', '.join(parts)})" if parts else ""

    return _PLACE.sub(cut, errors[0]) if len(set(errors)) > 1 else errors[0]
