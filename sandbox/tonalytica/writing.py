"""What makes, changes and archives dashboards, queries and widgets. Served only where the option `writes` is set.

A fork is as old versions and new ones make it: a draft named after its origin, of its asker's, with the same result,
the same tags, no schedule, and a copy of each visualization in the order of their ids.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from sandbox.core.wire import iso, now
from sandbox.tonalytica import shapes
from sandbox.tonalytica.call import Call, Reply, reply
from sandbox.tonalytica.records import Dashboard, DataSource, Query, User, Widget, slugify
from sandbox.tonalytica.refusal import FORBIDDEN, Refusal, not_found, server_error

DASHBOARD_FIELDS = ("name", "tags", "is_draft", "is_archived", "dashboard_filters_enabled")
QUERY_FIELDS = ("name", "description", "query", "schedule", "options", "tags", "is_draft", "is_archived")


def create_dashboard(call: Call) -> Reply:
    user, name, world = call.user, call.json().get("name"), call.world
    if not isinstance(name, str) or len(name) > 100:
        raise server_error("a dashboard's name is a text of at most 100 characters")
    slug, taken = slugify(name), {found.stored_slug for found in world.dashboards.values()}
    stored = next(each for each in (slug, *(f"{slug}_{n}" for n in range(1, 10_000))) if each not in taken)
    key, moment = world.next_id("dashboards"), iso(now())
    made = world.dashboards[key] = Dashboard(key, name, stored, user.id, moment, moment, is_draft=True, version=1)
    return reply(shapes.dashboard_listed(world, made))


def update_dashboard(call: Call) -> Reply:
    """By id in every version. Before version 10 a dashboard had no options to set."""
    found = _dashboard(call)
    given = call.json()
    _same_version(given, found.version)
    fields = DASHBOARD_FIELDS if call.world.version == "v9" else (*DASHBOARD_FIELDS, "options")
    for name in fields:
        if name in given:
            setattr(found, name, given[name])
    found.version += 1
    found.updated_at = iso(now())
    return reply(shapes.dashboard_single(call.world, found, call.user, call.origin))


def archive_dashboard(call: Call) -> Reply:
    """By slug in version 9, where the page is called by it as well."""
    if call.world.version == "v9":
        wanted = call.path["dashboard_id"]
        found = next((each for each in call.world.dashboards.values() if each.stored_slug == wanted), None)
        if found is None:
            raise not_found()
    else:
        found = _dashboard(call)
    found.is_archived = True
    return reply(shapes.dashboard_single(call.world, found, call.user, call.origin))


def fork_query(call: Call) -> Reply:
    user, origin, world = call.user, call.query(), call.world
    _need_full_access(call, origin.data_source_id)
    key, moment = world.next_id("queries"), iso(now())
    made = replace(
        origin,
        id=key,
        name=f"Copy of (#{origin.id}) {origin.name}",
        api_key=f"CANARYquery{key:04d}".ljust(40, "x"),
        user_id=user.id,
        last_modified_by_id=user.id,
        created_at=moment,
        updated_at=moment,
        options=copy.deepcopy(origin.options),
        tags=list(origin.tags),
        schedule=None,
        version=1,
        is_draft=True,
        is_archived=False,
        starred_at=None,
        visualizations=[],
    )
    world.queries[key] = made
    for each in sorted(origin.visualizations, key=lambda found: found.id):
        number = world.next_id("visualizations")
        options = copy.deepcopy(each.options)
        chart = replace(each, id=number, query_id=key, options=options, created_at=moment, updated_at=moment)
        world.visualizations[number] = chart
        # the order of visualizations in an answer is not promised
        made.visualizations.insert(0, chart)
    return reply(_without_stars(call, made))


def update_query(call: Call) -> Reply:
    found = call.query()
    _need_owner(call, found.user_id)
    given = call.json()
    _same_version(given, found.version)
    if len(str(given.get("name", ""))) > 255:
        raise server_error("a query's name is a text of at most 255 characters")
    for name in QUERY_FIELDS:
        if name in given:
            setattr(found, name, given[name])
    found.last_modified_by_id = call.user.id
    found.updated_at = iso(now())
    return reply(_without_stars(call, found))


def archive_query(call: Call) -> Reply:
    found = call.query()
    _need_owner(call, found.user_id)
    found.is_archived, found.schedule = True, None
    return reply(None)


def create_widget(call: Call) -> Reply:
    given, world = call.json(), call.world
    if not {"dashboard_id", "visualization_id", "options", "width"} <= given.keys():
        raise server_error("a widget needs dashboard_id, visualization_id, options and width")
    board = world.dashboards.get(int(given["dashboard_id"]))
    if board is None:
        raise not_found()
    _need_owner(call, board.user_id)
    chart = given["visualization_id"]
    if chart is not None:
        if chart not in world.visualizations:
            raise not_found()
        call.need_access(world.queries[world.visualizations[chart].query_id].data_source_id or 0)
    key, moment = world.next_id("widgets"), iso(now())
    made = Widget(key, board.id, given.get("text") or "", chart, given["options"], moment, moment)
    world.widgets[key] = made
    return reply(shapes.widget(world, made, call.user))


def _dashboard(call: Call) -> Dashboard:
    found = call.world.dashboards.get(call.number("dashboard_id"))
    if found is None:
        raise not_found()
    _need_owner(call, found.user_id)
    return found


def _without_stars(call: Call, query: Query) -> dict[str, Any]:
    """The answer to a write has the visualizations, but neither `is_favorite` nor `can_edit`."""
    shape = shapes.query_single(call.world, query, call.user)
    return {name: value for name, value in shape.items() if name not in ("is_favorite", "can_edit")}


def _need_owner(call: Call, owner: int) -> None:
    if not call.user.is_admin and call.user.id != owner:
        raise Refusal(403, {"message": FORBIDDEN})


def _need_full_access(call: Call, data_source_id: int | None) -> None:
    """Whoever may only view a source's results can make no query on it."""
    source = call.world.data_sources.get(data_source_id or 0)
    if source is None:
        raise server_error("the data source is gone")
    if not call.user.is_admin and _view_only(source, call.user):
        raise Refusal(403, {"message": FORBIDDEN})


def _view_only(source: DataSource, user: User) -> bool:
    return all(source.groups.get(group, True) for group in user.groups)


def _same_version(given: dict[str, Any], version: int) -> None:
    if given.get("version", version) != version:
        raise Refusal(409, {"message": "Conflict"})
