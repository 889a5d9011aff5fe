"""Paging and ordering of lists (section 3).

Redash lists have no tie-breaker: rows of equal sort value come in whatever order the database read them, anew for each
page. A walk then shows some rows twice and others never, while the row total equals `count`. Here the order within ties
depends on page, page size and order, and on nothing else, so that a seed always loses the same rows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sandbox.tonalytica.records import Dashboard, Query, User
from sandbox.tonalytica.refusal import NOT_FOUND, Refusal
from sandbox.tonalytica.world import World

DEFAULT_PAGE_SIZE = 25
MAX_PAGE_SIZE = 250

Row = TypeVar("Row", Query, Dashboard, User)
Orders = Mapping[str, Callable[[Row], Any]]


def whole(text: str | None, default: int) -> int:
    """What is not a number is silently replaced by the default."""
    try:
        return default if text is None else int(text)
    except ValueError:
        return default


def paginate(args: Mapping[str, str], rows: Sequence[Any], shape: Callable[[Any], Any]) -> dict[str, Any]:
    page, size, count = whole(args.get("page"), 1), whole(args.get("page_size"), DEFAULT_PAGE_SIZE), len(rows)
    if page < 1:
        raise Refusal(400, {"message": "Page must be positive integer."}, unexpected="page below 1")
    if not 1 <= size <= MAX_PAGE_SIZE:
        message = f"Page size is out of range (1-{MAX_PAGE_SIZE})."
        raise Refusal(400, {"message": message}, unexpected="page_size out of range")
    if (page - 1) * size + 1 > count > 0:
        # May well be met by a sound client: the list shrank during its walk.
        raise Refusal(400, {"message": "Page is out of range."})
    if count == 0 and page > 1:
        raise Refusal(404, {"message": NOT_FOUND})
    shown = rows[(page - 1) * size : page * size]
    return {"count": count, "page": page, "page_size": size, "results": [shape(row) for row in shown]}


def query_orders(world: World) -> Orders[Query]:
    def result_of(query: Query, name: str) -> Any:
        result = world.latest_result(query)
        return getattr(result, name) if result else None

    return {
        "name": lambda q: q.name.lower(),
        "created_at": lambda q: q.created_at,
        "schedule": lambda q: str(q.schedule["interval"]).zfill(9) if q.schedule else None,
        "runtime": lambda q: result_of(q, "runtime"),
        "executed_at": lambda q: result_of(q, "retrieved_at"),
        "created_by": lambda q: world.users[q.user_id].name,
        "starred_at": lambda q: q.starred_at,
    }


DASHBOARD_ORDERS: Orders[Dashboard] = {
    "name": lambda d: d.name.lower(),
    "created_at": lambda d: d.created_at,
    "starred_at": lambda d: d.starred_at,
}
USER_ORDERS: Orders[User] = {
    "name": lambda u: u.name,
    "created_at": lambda u: u.created_at,
    "active_at": lambda u: u.active_at,
    "groups": lambda u: u.groups,
}


def ordered(
    world: World, args: Mapping[str, str], rows: list[Row], orders: Orders[Row], *, ties_move: bool = False
) -> list[Row]:
    """Sorted by the `order` argument; an unknown one falls back to -created_at without a word."""
    order = args.get("order") or "-created_at"
    if order.lstrip("-") not in orders:
        order = "-created_at"
    name = order.lstrip("-")
    rows = sorted(rows, key=lambda row: row.id)
    if ties_move and name != "name":
        page, size = whole(args.get("page"), 1), whole(args.get("page_size"), DEFAULT_PAGE_SIZE)
        random.Random(f"{world.seed}|{order}|{page}|{size}").shuffle(rows)
    values = [(orders[name](row), row) for row in rows]
    # As Postgres: nulls last going up, first going down.
    values.sort(key=lambda pair: (pair[0] is None, "" if pair[0] is None else pair[0]), reverse=order.startswith("-"))
    return [row for _, row in values]


def tagged(rows: list[Row], tags: Sequence[str]) -> list[Row]:
    return [row for row in rows if set(tags) <= set(getattr(row, "tags", []))]


def tag_counts(rows: Sequence[Query | Dashboard]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in rows:
        for tag in row.tags:
            counts[tag] = counts.get(tag, 0) + 1
    return {"tags": [{"name": name, "count": counts[name]} for name in sorted(counts, key=lambda n: (-counts[n], n))]}


def searched(rows: list[Query], q: str) -> list[Query]:
    """Whole words only, plural and singular alike, best hits first; parts of words do not hit."""
    wanted = _words(q)
    scored = []
    for query in rows:
        name, rest = _words(query.name), _words(f"{query.description or ''} {query.query}")
        if wanted and wanted <= name | rest | {str(query.id)}:
            scored.append((-len(wanted & name), query.id, query))
    return [query for _, _, query in sorted(scored, key=lambda entry: entry[:2])]


def _words(text: str) -> set[str]:
    return {word.rstrip("s") or word for word in re.findall(r"\w+", text.lower())}
