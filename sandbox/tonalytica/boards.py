"""The seeded dashboards: each kind the sheet knows (section 7), then plain ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sandbox.tonalytica.records import Dashboard, Query, Widget, slugify
from sandbox.tonalytica.world import World

RESTRICTED = 3


def add_dashboards(world: World, rng: random.Random, at: Callable[..., str]) -> None:
    charted = [q for q in world.queries.values() if not q.is_archived and q.data_source_id in (1, 2)]
    partner = next(q for q in world.queries.values() if q.data_source_id == RESTRICTED)

    def add(name: str, charts: list[Query], texts: list[str], **more: Any) -> Dashboard:
        return _add(world, at, name, charts, texts, more)

    def some(count: int) -> list[Query]:
        return rng.choices(charted, k=count)

    add("Same name", some(2), [])
    add("Same name", some(2), ["text"])
    add("链上总览", some(3), [])
    add("钱包分析 仪表盘", some(1), ["说明文字 **markdown**"])
    add("Обзор сети", some(2), [])
    add("Has a restricted widget", [*some(1), partner], ["text"])
    add("Only restricted", [partner], [], user_id=2)
    add("Text boxes", some(1), ["", "# title\n\n|a|b|\n", "},{"])
    add("Only text", [], ["just words"])
    add("Another's only text", [], ["not listed for others"], user_id=2)
    add("Empty dashboard", [], [])
    add("Another's empty dashboard", [], [], user_id=2)
    add("Draft dashboard", some(1), [], is_draft=True)
    add("Another's draft", some(1), [], is_draft=True, user_id=2)
    add("Archived dashboard", some(2), [], is_archived=True)
    add("Shared publicly", some(2), ["public text"], public_token="CANARYpublic0001".ljust(40, "x"))
    add("Many widgets", some(30), [])
    add("Favourite 🚀", some(2), [], starred_at=at(15_500), tags=["ton", "钱包"])
    for number in range(max(2, int(22 * world.scale))):
        more = {"tags": ["ton"] if number % 3 == 0 else [], "user_id": 1 if number % 2 else 2}
        add(f"Network overview {number:02d}", some(2 + number % 4), [], **more)


def _add(
    world: World, at: Callable[..., str], name: str, charts: list[Query], texts: list[str], more: dict[str, Any]
) -> Dashboard:
    world.ids["dashboards"] = world.ids.get("dashboards", 0) + (2 if len(world.dashboards) % 9 == 5 else 1)
    key = world.ids["dashboards"]
    slug, taken = slugify(name), {d.stored_slug for d in world.dashboards.values()}
    count = 0
    stored = slug
    while stored in taken:
        count += 1
        stored = f"{slug}_{count}"
    created = at(12_000 + key * 9, millis=0 if key % 5 == 0 else 123)
    dashboard = Dashboard(key, name, stored, 1, created, at(21_000 + key, millis=500))
    for attribute, value in more.items():
        setattr(dashboard, attribute, value)
    world.dashboards[key] = dashboard
    for row, query in enumerate(charts):
        add_widget(world, key, "", query.visualizations[row % len(query.visualizations)].id, row, at(22_000 + key))
    for row, text in enumerate(texts):
        add_widget(world, key, text, None, len(charts) + row, at(22_000 + key))
    return dashboard


def add_widget(
    world: World, dashboard_id: int, text: str, visualization_id: int | None, row: int, moment: str
) -> Widget:
    position = {"col": row % 2 * 3, "row": row // 2 * 8, "sizeX": 3, "sizeY": 8, "autoHeight": False}
    options = {"isHidden": False, "position": position, "parameterMappings": {}}
    found = Widget(world.next_id("widgets"), dashboard_id, text, visualization_id, options, moment, moment)
    world.widgets[found.id] = found
    return found
