"""What the cells of a chart's row mean, by its meta and never by their place alone.

A chart does not say its type. Its meta lists dimensions and metrics in the order of the cells; the second and third
generation put the target user and the time among the dimensions, the first leaves the time out, so that rows are one
cell longer than the meta. Labels are what users write: they repeat, and change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sources.convert.types import label_of
from sources.core.errors import BrokenAnswer
from sources.growingio.settings import HOUR_MS, PADDED_TIME, TIME_LABELS

_STEP = re.compile(r"第\s*(\d+)\s*步(人数|转化率)")
_PERIOD = re.compile(r"(?:(当)|(次)|(\d+))[日天周月]后?(留存率)?")
_TOTAL_RATE, _COHORT = "总转化率", "留存人数"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One cell of each row. `role`: time · dimension · metric. `label`: the vendor's, told apart where it repeats."""

    position: int
    role: str
    name: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The fields of an answer; `digest` is that of the meta alone."""

    fields: tuple[Field, ...]
    digest: str

    @property
    def time(self) -> Field | None:
        return next((field for field in self.fields if field.role == "time"), None)

    @property
    def dimensions(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.role == "dimension")

    @property
    def metrics(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.role == "metric")


def shape_of(meta: Sequence[Any], sample: Sequence[Sequence[Any]], *, where: str) -> Shape:
    """The shape by the meta; `sample` are some rows, which show the time. Raises `BrokenAnswer` if they do not fit."""
    roles = [_role(entry, where=where) for entry in meta]
    width = len(sample[0]) if sample else len(roles)
    if any(len(row) != width for row in sample):
        raise BrokenAnswer(
            what="a row does not fit the meta",
            where=where,
            why="the rows differ in their number of cells",
            todo="Run again; if it stays, the vendor changed its charts",
        )
    padded = width == len(roles) + 1 and all(is_moment(row[0]) for row in sample if row)
    if padded:
        roles = [("time", PADDED_TIME), *roles]
    elif width != len(roles):
        raise BrokenAnswer(
            what=f"a row has {width} cells, and the meta {len(meta)} names",
            where=where,
            todo="Run again; if it stays, the vendor changed its charts",
        )
    if not padded and (position := _time(roles, sample)) is not None:
        roles[position] = ("time", roles[position][1])
    labels = unique([name for _, name in roles])
    fields = tuple(
        Field(position=position, role=role, name=name, label=labels[position])
        for position, (role, name) in enumerate(roles)
    )
    return Shape(fields=fields, digest=meta_digest(meta))


def meta_digest(meta: Sequence[Any]) -> str:
    return _digest([_role(entry, where="") for entry in meta])


def is_moment(cell: Any) -> bool:
    """Is it a time as the vendor writes it: milliseconds in thirteen digits, at a full quarter of an hour?"""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return (
        isinstance(cell, int) and not isinstance(cell, bool) and 10**12 <= cell < 10**13 and cell % (HOUR_MS // 4) == 0
    )


def unique(labels: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The labels; one that is empty, repeats an earlier one or is `taken` gets its place behind it."""
    seen, found = {name.casefold() for name in taken}, []
    for position, label in enumerate(labels, start=1):
        if not label or label.casefold() in seen:
            label = f"{label} [{position}]".lstrip()
        seen.add(label.casefold())
        found.append(label)
    return found


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of an answer: its moment (None without a time), its dimensions by label, its metrics' cells in order."""

    moment: int | None
    dimensions: Mapping[str, str | None]
    cells: tuple[Any, ...]

    @property
    def digest(self) -> str:
        return _digest(list(self.dimensions.items()))


def moment_of(row: Sequence[Any], shape: Shape, *, where: str) -> int | None:
    """The row's time, None without one. Raises `BrokenAnswer` for a row that does not fit the shape."""
    time, why = shape.time, ""
    if len(row) != len(shape.fields):
        why = f"it has {len(row)} cells of {len(shape.fields)}"
    elif time is not None and not is_moment(row[time.position]):
        why = "its time is no time"
    if why:
        todo = "Run again; if it stays, the vendor changed its charts"
        raise BrokenAnswer(what="a row does not fit the meta", where=where, why=why, todo=todo)
    return int(row[time.position]) if time is not None else None


def point_of(row: Sequence[Any], shape: Shape, *, not_applicable: frozenset[str], where: str) -> Point:
    """The row by its meta. Raises `BrokenAnswer` for one that does not fit."""
    return Point(
        moment=moment_of(row, shape, where=where),
        dimensions={each.label: _text(row[each.position], not_applicable) for each in shape.dimensions},
        cells=tuple(row[each.position] for each in shape.metrics),
    )


def is_na(cell: Any, not_applicable: frozenset[str]) -> bool:
    """Is it the vendor's text for a value that cannot be?"""
    return isinstance(cell, str) and cell in not_applicable


def number(cell: Any) -> tuple[float | None, str | None]:
    """A metric's cell as a number, and as a text where no double is that number."""
    match cell:
        case None:
            return None, None
        case bool():
            return float(cell), str(cell).lower()
        case int():
            exact = abs(cell) <= 2**53 or (abs(cell) < 2**63 and int(float(cell)) == cell)
            return _finite(float(cell) if abs(cell) < 10**300 else None), None if exact else str(cell)
        case float():
            return _finite(cell), None
        case str():
            return None, cell
        case _:
            return None, json.dumps(cell, ensure_ascii=False)


def steps(shape: Shape, point: Point, not_applicable: frozenset[str]) -> Iterator[dict[str, Any]]:
    """A funnel's row as one row per step; step 0 has the whole rate and what no step explains."""
    by_step: dict[int, dict[str, Any]] = {0: {"step": 0, "label": _TOTAL_RATE, "users": None, "rate": None}}
    other: dict[str, Any] = {}
    for field, cell in zip(shape.metrics, point.cells, strict=True):
        found = _STEP.fullmatch(field.name.strip())
        value, text = number(None if is_na(cell, not_applicable) else cell)
        if field.name == _TOTAL_RATE and by_step[0]["rate"] is None and text is None:
            by_step[0]["rate"] = value
            continue
        if found is not None and field.label == field.name:
            row = by_step.setdefault(int(found[1]), {"step": int(found[1]), "label": f"第{found[1]}步"})
            row["users" if found[2] == "人数" else "rate"] = value
        if found is None or field.label != field.name or text is not None:
            other[field.label] = cell
    by_step[0]["other"] = other or None
    yield from by_step.values()


def periods(shape: Shape, point: Point, not_applicable: frozenset[str]) -> Iterator[dict[str, Any]]:
    """A retention's row as one row per period; n -1 has the cohort's size and what no period explains."""
    by_n: dict[int, dict[str, Any]] = {-1: {"n": -1, "label": _COHORT, "users": None, "rate": None}}
    other: dict[str, Any] = {}
    for field, cell in zip(shape.metrics, point.cells, strict=True):
        found = _PERIOD.fullmatch(field.name.strip())
        value, text = number(None if is_na(cell, not_applicable) else cell)
        if field.name == _COHORT and text is None:
            by_n[-1]["users"] = value
            continue
        if found is not None and field.label == field.name:
            n = 0 if found[1] else 1 if found[2] else int(found[3])
            row = by_n.setdefault(n, {"n": n, "label": field.name.strip().removesuffix("留存率")})
            row["rate" if found[4] else "users"] = value
        if found is None or field.label != field.name or text is not None:
            other[field.label] = cell
    by_n[-1]["other"] = other or None
    yield from by_n.values()


def _role(entry: Any, *, where: str) -> tuple[str, str]:
    if isinstance(entry, Mapping):
        name = label_of(entry.get("name", ""))
        if entry.get("metric") is True:
            return "metric", name
        if entry.get("dimension") is True:
            return "dimension", name
    raise BrokenAnswer(
        what="a name of the meta is neither dimension nor metric",
        where=where,
        why=json.dumps(entry, ensure_ascii=False)[:80],
        todo="Run again; if it stays, the vendor changed its charts",
    )


def _time(roles: Sequence[tuple[str, str]], sample: Sequence[Sequence[Any]]) -> int | None:
    """Where the time stands: under its own name, else where every cell of the one dimension is a time."""
    dimensions = [position for position, (role, _) in enumerate(roles) if role == "dimension"]
    fitting = [position for position in dimensions if sample and all(is_moment(row[position]) for row in sample)]
    named = [position for position in dimensions if roles[position][1].strip().lower() in TIME_LABELS]
    for position in named:
        # one that is no time among others that are shows when the rows are read
        if not sample or any(is_moment(row[position]) for row in sample):
            return position
    return fitting[0] if fitting else None


def _text(cell: Any, not_applicable: frozenset[str]) -> str | None:
    match cell:
        case None:
            return None
        case str():
            return None if cell in not_applicable else cell
        case _:
            return json.dumps(cell, ensure_ascii=False)


def _finite(value: float | None) -> float | None:
    return value if value is not None and value == value and abs(value) != float("inf") else None


def _digest(value: Any) -> str:
    # ASCII escapes, because a lone surrogate has no bytes of its own
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
