"""Reading records: fields and relations, sort in both dialects, filter, pages (section 5)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams

from sandbox.tune.data import Record, Tables
from sandbox.tune.envelope import Refusal
from sandbox.tune.filters import FilterError, number, parse_filter
from sandbox.tune.models import MODELS, Model

DEFAULT_LIMIT = 10
BRACKETS = re.compile(r"sort\[([^\]]*)\]")


def service_error(*, open_http: bool, why: str) -> Refusal:
    """A wrong field is an internal error of theirs (section 4), sometimes under HTTP 200."""
    if open_http:
        return Refusal(500, "Internal service error.", unexpected=why)
    return Refusal(200, "Internal service error.", body_status=500, single=True, unexpected=why)


def by_id(tables: Tables, path: str, key: Any) -> Record | None:
    """By value, whatever the type on either side: `"1899"` finds 1899."""
    return tables[path].get(str(key))


def value_at(tables: Tables, model: Model, record: Record, name: str) -> Any:
    if "." not in name:
        return record.get(name)
    relation, _, rest = name.partition(".")
    related = model.related[relation]
    other = by_id(tables, related.path, record.get(related.via))
    return None if other is None else value_at(tables, MODELS[related.path], other, rest)


def is_known(model: Model, name: str) -> bool:
    relation, dot, rest = name.partition(".")
    if not dot:
        return name in model.fields
    return relation in model.related and is_known(MODELS[model.related[relation].path], rest)


def wanted_fields(model: Model, args: QueryParams) -> list[str]:
    """CSV or array form, `*` for all of the record's own; none means the default ones."""
    given = [
        word.strip() for value in (*args.getlist("fields"), *args.getlist("fields[]")) for word in value.split(",")
    ]
    given += [word for word in (args.get("extra_fields") or "").split(",") if word]
    names = list(dict.fromkeys(name for name in given if name))
    if not names:
        return [name for name, found in model.fields.items() if found.is_default]
    if "*" in names:
        names = list(dict.fromkeys([*model.fields, *(name for name in names if name != "*")]))
    for name in names:
        if name in model.related:
            continue
        if not is_known(model, name):
            raise service_error(open_http=True, why=f"unknown field {name}")
    return names


def project(tables: Tables, model: Model, record: Record, names: Sequence[str]) -> Record:
    """Dotted related fields come back nested; a bare relation is the other's default fields."""
    shown: Record = {}
    for name in names:
        if name in model.related:
            other = MODELS[model.related[name].path]
            for default in (f.name for f in other.fields.values() if f.is_default):
                _put(shown, f"{name}.{default}", value_at(tables, model, record, f"{name}.{default}"))
        else:
            _put(shown, name, value_at(tables, model, record, name))
    return shown


def _put(shown: Record, name: str, value: Any) -> None:
    relation, dot, rest = name.partition(".")
    if not dot:
        shown[name] = value
        return
    inner = shown.setdefault(relation, {})
    _put(inner, rest, value)


def filtered(tables: Tables, model: Model, args: Mapping[str, str]) -> list[Record]:
    text = args.get("filter", "")
    rows = list(tables[model.path].values())
    if not text.strip():
        return rows
    try:
        found = parse_filter(text)
    except FilterError as error:
        raise Refusal(422, f"Invalid filter: {error}", unexpected="a filter that does not parse") from error
    for name in found.fields:
        if not is_known(model, name):
            raise service_error(open_http=True, why=f"unknown field {name} in filter")
    return [row for row in rows if found.keeps(lambda name, row=row: value_at(tables, model, row, name))]  # type: ignore[misc]


def sort_keys(args: QueryParams) -> list[tuple[str, bool]]:
    """`sort[id]=ASC` as every SDK sends it, and `sort=name:desc,id` as the page has it."""
    keys: list[tuple[str, str]] = []
    for name, value in args.multi_items():
        match = BRACKETS.fullmatch(name)
        if match:
            keys.append((match[1], value))
        elif name == "sort":
            for word in value.split(","):
                field, _, direction = word.strip().partition(":")
                keys.append((field, direction or "asc"))
    for _, direction in keys:
        if direction.lower() not in ("asc", "desc"):
            raise Refusal(422, f"Invalid sort direction: {direction}", unexpected="a sort direction")
    return [(field, direction.lower() == "desc") for field, direction in keys if field]


def ordered(
    tables: Tables, model: Model, rows: list[Record], keys: list[tuple[str, bool]], *, ties: str
) -> list[Record]:
    """Ties come ids ascending; in the largest table in an order of each page's own (seeded by `ties`)."""
    rows = sorted(rows, key=lambda row: [_rank(row.get(name)) for name in model.key])
    if model.unstable:
        random.Random(ties).shuffle(rows)
    for name, descending in reversed(keys):
        if not is_known(model, name):
            raise service_error(open_http=False, why=f"unknown field {name} in sort")
        rows.sort(key=lambda row: _rank(value_at(tables, model, row, name)), reverse=descending)
    return rows


def _rank(value: Any) -> tuple[int, float, str]:
    """Nulls first, then numbers by value in whatever type, then texts."""
    if value is None:
        return (0, 0, "")
    as_number = number(value)
    if as_number is not None:
        return (1, as_number, "")
    return (2, 0, str(value).casefold())


def page_of(rows: list[Record], args: Mapping[str, str]) -> list[Record]:
    """limit defaults to 10, 0 is everything; pages count from 1, and one past the end is empty."""
    limit, page = whole(args, "limit", DEFAULT_LIMIT), whole(args, "page", 1)
    if limit < 0 or page < 1:
        raise Refusal(422, "limit and page must be positive.", unexpected="limit or page out of range")
    return rows if limit == 0 else rows[(page - 1) * limit : page * limit]


def whole(args: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(args.get(name, default))
    except ValueError as error:
        raise Refusal(422, f"{name} must be a number.", unexpected=f"{name} is not a number") from error
