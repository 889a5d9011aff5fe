"""The seeded Redash: same seed and scale, same ids, names, texts and results.

Counts scale; the nasty kinds of `seeds` do not, each is there at any scale. Canary texts in every key and credential
let a test grep a warehouse or a log for what must not be there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.core.wire import iso
from sandbox.tonalytica.boards import add_dashboards
from sandbox.tonalytica.records import Alert, DataSource, Query, Snippet, User, Visualization, limited, render
from sandbox.tonalytica.seeds import NASTY, NEVER_RUN, PARAMETERISED, SHARED_TEXTS
from sandbox.tonalytica.world import World, event, rendered_value

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
LOADED = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)

WAREHOUSE, PAUSED, RESTRICTED, CHINESE = 1, 2, 3, 4
TAGS = ("daily", "ton", "дневные", "钱包", "param", "old", "with space")


def canary(kind: str, number: int) -> str:
    return f"CANARY{kind}{number:04d}".ljust(40, "x")


def at(hours: float, *, millis: int = 123) -> str:
    return iso(EPOCH + timedelta(hours=hours, milliseconds=millis))


@dataclass
class _Draft:
    """A query before it has its id and its dates."""

    name: str
    recipe: str
    text: str
    executed: bool = True
    old_text: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def seeded(seed: int, scale: float) -> World:
    rng = random.Random(seed)
    world = World(seed, scale)
    _add_people(world, rng)
    _add_sources(world)
    _add_queries(world, rng)
    add_dashboards(world, rng, at)
    _add_rest(world)
    _add_events(world, rng)
    return world


def _add_people(world: World, rng: random.Random) -> None:
    world.groups = {1: "admin", 2: "default", 3: "partners (партнёры)", 4: "分析师"}
    count = max(9, int(35 * world.scale))
    for key in range(1, count + 1):
        disabled, pending = key % 5 == 4, key % 6 == 5
        created = at(key * 3.5, millis=0 if key % 4 == 0 else 151)
        world.users[key] = User(
            id=key,
            name="Lab Admin" if key == 1 else ("成员" if key % 3 == 0 else "Team member") + f" {key}",
            email=f"member{key}@tonalytica.invalid",
            api_key=canary("user", key),
            groups=[1, 2] if key == 1 else [2, 4] if key % 7 == 0 else [2],
            created_at=created,
            updated_at=created,
            disabled_at=at(9000 + key) if disabled else None,
            active_at=None if pending else at(10_000 + key * 7),
            is_invitation_pending=pending,
        )


def _add_sources(world: World) -> None:
    schema = [
        {"name": "daily_stats", "columns": [{"name": "day", "type": "date"}, {"name": "volume", "type": "numeric"}]},
        {"name": "pools", "columns": [{"name": "Pool Name", "type": "text"}, {"name": "总锁仓量", "type": "numeric"}]},
    ]
    world.data_sources = {
        WAREHOUSE: DataSource(WAREHOUSE, "TON warehouse", "pg", {2: False, 4: True}, schema=schema),
        PAUSED: DataSource(PAUSED, "Query results", "results", {2: False}, 1, "maintenance", False, []),
        RESTRICTED: DataSource(RESTRICTED, "partners only (закрытый)", "pg", {3: False}, schema=schema),
        CHINESE: DataSource(CHINESE, "数据仓库 ClickHouse", "clickhouse", {2: True, 4: False}),
    }


def _drafts(world: World, rng: random.Random) -> list[_Draft]:
    """Every query of the seed, in the order of their ids."""
    scale = world.scale
    plain = {"is_draft": False}
    drafts = [_Draft(name, recipe, text) for name, recipe, text in NASTY]
    drafts += [_Draft(name, "daily", text, more={"data_source_id": WAREHOUSE}) for name, text in SHARED_TEXTS]
    drafts += [_Draft(name, recipe, text, executed=False) for name, recipe, text in NEVER_RUN]
    for name, text, parameters in PARAMETERISED:
        executed = not any(isinstance(p["value"], str) and p["value"].startswith("d_") for p in parameters)
        options = {"parameters": [dict(p) for p in parameters]}
        drafts.append(_Draft(name, "parameterised", text, executed, more={"options": options, "tags": ["param"]}))
    limit = {"parameters": [], "apply_auto_limit": True}
    drafts.append(_Draft("Auto limit", "limited_rows", "select id, kind from four_thousand", more={"options": limit}))
    drafts.append(
        _Draft("Edited, not re-run", "daily", "select day from edited_new", old_text="select day from edited_old")
    )
    drafts.append(_Draft("On the paused source", "daily", "select * from query_1", more={"data_source_id": PAUSED}))
    drafts.append(_Draft("Paused, never run", "daily", "select * from query_2", False, more={"data_source_id": PAUSED}))
    for i in range(max(4, int(180 * scale))):
        text = f"select day, volume from plain_{i} order by day"  # noqa: S608 - shown, never run
        drafts.append(_Draft(f"Daily volume, window {i:03d}", "daily", text, executed=i % 5 < 3, more=dict(plain)))
    for i in range(max(3, int(40 * scale))):
        drafts.append(
            _Draft(f"Draft {i}", "daily", f"select {i} as draft", executed=i % 2 == 0, more={"is_draft": True})
        )
    for i in range(max(4, int(25 * scale))):
        more = {"is_archived": True, "is_draft": i % 4 == 3, "user_id": 1, "tags": ["old"]}
        drafts.append(_Draft(f"Archived {i}", "daily", f"select {i} as archived", more=more))
    for i in range(4):
        more = {"data_source_id": None, "is_archived": i == 3}
        drafts.append(_Draft(f"Source is gone {i}", "daily", f"select {i} as orphan", executed=False, more=more))
    for i in range(2):
        drafts.append(
            _Draft(f"Partners query {i}", "daily", f"select {i} as partner", more={"data_source_id": RESTRICTED})
        )
    others = {"is_archived": True, "is_draft": True, "user_id": 2}
    drafts.append(_Draft("Another's archived draft", "daily", "select 'hidden' as x", more=others))
    rng.shuffle(drafts)
    return drafts


def _add_queries(world: World, rng: random.Random) -> None:
    drafts = _drafts(world, rng)
    listed = [
        d for d in drafts if not d.more.get("is_archived") and d.more.get("data_source_id", WAREHOUSE) in (1, 2, 4)
    ]
    position = {id(draft): index / len(listed) for index, draft in enumerate(listed)}
    by_name: dict[str, Query] = {}
    for index, draft in enumerate(drafts):
        # Ids have gaps, as a Redash of some years has.
        world.ids["queries"] = world.ids.get("queries", 0) + (2 if index % 13 == 7 else 1)
        query = _query(world, rng, draft, world.ids["queries"], _created(position.get(id(draft)), index))
        world.queries[query.id] = query
        by_name[query.name] = query
    by_name["Param: query dropdown"].parameters[0]["queryId"] = by_name["Dropdown source: kinds"].id
    for draft, query in zip(drafts, world.queries.values(), strict=True):
        if draft.executed:
            _execute(world, query, draft)


def _created(position: float | None, index: int) -> str:
    """Two large groups of queries share one created_at each, as after an import: that is what makes pages lose rows."""
    if position is not None and 0.10 <= position < 0.58:
        return "2024-06-01T00:00:00Z"
    if position is not None and 0.58 <= position < 0.88:
        return "2024-09-01T12:00:00Z"
    return at(
        index * 5 + (9000 if position is not None and position >= 0.88 else 0), millis=0 if index % 6 == 0 else 123
    )


def _query(world: World, rng: random.Random, draft: _Draft, key: int, created_at: str) -> Query:
    enabled = [user.id for user in world.users.values() if user.disabled_at is None]
    schedule: dict[str, Any] = dict.fromkeys(("interval", "time", "day_of_week", "until"))
    schedule["interval"] = rng.choice([60, 3600, 86400])
    if key % 16 == 0:
        schedule = {"interval": 604800, "time": "03:15", "day_of_week": "Monday", "until": "2027-01-01"}
    query = Query(
        id=key,
        name=draft.name,
        query=draft.text,
        api_key=canary("query", key),
        user_id=1 if rng.random() < 0.5 else rng.choice(enabled),
        last_modified_by_id=1,
        data_source_id=CHINESE if key % 11 == 0 else WAREHOUSE,
        created_at=created_at,
        updated_at=at(20_000 + rng.randrange(4000), millis=rng.choice([0, 500, 7])),
        recipe=draft.recipe,
        description=rng.choice([None, None, "", "window\nsecond line", '描述：每日统计 / "quoted"']),
        schedule=schedule if key % 8 == 0 else None,
        tags=rng.sample(TAGS, rng.randrange(3)),
        starred_at=at(15_000 + key) if key % 37 == 3 else None,
    )
    for name, value in draft.more.items():
        setattr(query, name, value)
    add_visualizations(world, query, rng)
    return query


def add_visualizations(world: World, query: Query, rng: random.Random) -> None:
    """Each query has a table; some have more, with options as deep as their authors made them (section 7)."""
    kinds = ["TABLE"] + [kind for kind in ("CHART", "PIVOT", "COUNTER", "DETAILS") if rng.random() < 0.2]
    for kind in kinds:
        options: dict[str, Any] = {}
        if kind == "CHART":
            axes = [{"type": "linear"}, {"type": "linear", "opposite": True}]
            mapping = {"day": "x", "总锁仓量": "y"}
            options = {
                "yAxis": axes,
                "legend": {"enabled": True},
                "columnMapping": mapping,
                "globalSeriesType": "column",
            }
        name = "Table" if kind == "TABLE" else f"{kind.title()} 图表 {query.id}"
        moment = at(16_000 + query.id)
        key = world.next_id("visualizations")
        world.visualizations[key] = Visualization(key, kind, name, query.id, options, moment, moment)
        query.visualizations.append(world.visualizations[key])


def _execute(world: World, query: Query, draft: _Draft) -> None:
    text = draft.old_text or query.query
    values = {p["name"]: rendered_value(p, p.get("value")) for p in query.parameters}
    if values:
        text = render(text, values)
    if query.is_auto_limited:
        text = limited(text)
    if query.data_source_id is None:
        return
    moment = LOADED + timedelta(seconds=query.id, milliseconds=query.id * 37 % 1000)
    result = world.run(text, query.data_source_id, query.recipe, retrieved_at=iso(moment))
    if draft.old_text is not None:
        query.latest_query_data_id = result.id


def _add_rest(world: World) -> None:
    charted = [query for query in world.queries.values() if query.latest_query_data_id is not None][:8]
    for key, query in enumerate(charted, 1):
        state = ("unknown", "ok", "triggered")[key % 3]
        moment = at(18_000 + key)
        options = {
            "op": ">",
            "muted": key % 4 == 0,
            "value": 100 if key % 2 else "100",
            "column": "tx_count",
            "selector": "first",
        }
        world.alerts[key] = Alert(
            key, f"Alert {key} 警报", query.id, 1, options, state, moment, moment,
            rearm=3600 if key % 2 == 0 else None, last_triggered_at=moment if state == "triggered" else None,
        )  # fmt: skip
    for key in range(1, 7):
        moment = at(17_000 + key)
        text = f"select * from ${{{key}:table}}"  # noqa: S608 - shown, never run
        world.snippets[key] = Snippet(key, f"snip{key}", f"snippet №{key} 片段", text, 1, moment, moment)


def _add_events(world: World, rng: random.Random) -> None:
    for number in range(max(30, int(400 * world.scale))):
        user = world.users[1 if number % 3 else 2]
        action, kind = rng.choice([("list", "query"), ("view", "query"), ("view", "dashboard"), ("execute", "query")])
        key = None if action == "list" else str(rng.randrange(1, 300))
        world.events.append(event(user, action, kind, key, iso(LOADED + timedelta(seconds=number))))
