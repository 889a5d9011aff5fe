"""The shapes the API shows. One record has several: a list item, a single object, an object nested in another.

Which keys each has is taken from recorded answers; tests compare them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sandbox.core.wire import dumps, now
from sandbox.tonalytica.records import (
    Alert,
    Dashboard,
    DataSource,
    Query,
    Result,
    Snippet,
    User,
    Visualization,
    Widget,
    slugify,
)
from sandbox.tonalytica.world import Job, World

Shape = dict[str, Any]


def user_card(user: User) -> Shape:
    digest = hashlib.md5(user.email.encode(), usedforsecurity=False).hexdigest()
    return {
        "id": user.id,
        "name": user.name,
        "email": user.email,
        "profile_image_url": f"https://www.gravatar.com/avatar/{digest}?s=40&d=identicon",
    }


def user_nested(user: User) -> Shape:
    """Groups as ids here, as objects in the list of users (section 7)."""
    return {
        **user_card(user),
        "groups": user.groups,
        "updated_at": user.updated_at,
        "created_at": user.created_at,
        "disabled_at": user.disabled_at,
        "is_disabled": user.disabled_at is not None,
        "active_at": user.active_at,
        "is_invitation_pending": user.is_invitation_pending,
        "is_email_verified": True,
        "auth_type": "password" if user.active_at else "external",
    }


def user_listed(world: World, user: User) -> Shape:
    return {**user_nested(user), "groups": [{"id": key, "name": world.groups[key]} for key in user.groups]}


def _query_start(world: World, query: Query) -> Shape:
    return {
        "id": query.id,
        "latest_query_data_id": world.latest_result_id(query),
        "name": query.name,
        "description": query.description,
        "query": query.query,
        "query_hash": world.hash_of(query),
        "schedule": query.schedule,
        "api_key": query.api_key,
        "is_archived": query.is_archived,
        "is_draft": query.is_draft,
        "updated_at": query.updated_at,
        "created_at": query.created_at,
        "data_source_id": query.data_source_id,
        "options": query.options,
        "version": query.version,
        "tags": query.tags,
        "is_safe": query.is_safe,
    }


def query_nested(world: World, query: Query) -> Shape:
    """As in widgets and alerts, its api_key included."""
    return {
        **_query_start(world, query),
        "user": user_nested(world.users[query.user_id]),
        "last_modified_by": user_nested(world.users[query.last_modified_by_id]),
    }


def query_listed(world: World, query: Query, *, with_user: bool = True) -> Shape:
    result = world.latest_result(query)
    shape = _query_start(world, query)
    if with_user:
        shape["user"] = user_nested(world.users[query.user_id])
    else:
        shape["user_id"] = query.user_id
    shape["last_modified_by_id"] = query.last_modified_by_id
    shape["retrieved_at"] = result.retrieved_at if result else None
    shape["runtime"] = result.runtime if result else None
    shape["is_favorite"] = query.starred_at is not None
    if query.starred_at is not None:
        shape["starred_at"] = query.starred_at
    return shape


def query_single(world: World, query: Query, user: User | None) -> Shape:
    """`retrieved_at` and `runtime` are not here, only in lists; with a query key `is_favorite` is missing as well."""
    shape = query_nested(world, query)
    shape["visualizations"] = [visualization(v) for v in query.visualizations]
    if user is not None:
        shape["is_favorite"] = query.starred_at is not None
    shape["can_edit"] = user is not None and (user.is_admin or user.id == query.user_id)
    return shape


def visualization(found: Visualization) -> Shape:
    return {
        "id": found.id,
        "type": found.type,
        "name": found.name,
        "description": found.description,
        "options": found.options,
        "updated_at": found.updated_at,
        "created_at": found.created_at,
    }


def dashboard_listed(world: World, dashboard: Dashboard) -> Shape:
    shape = {
        "id": dashboard.id,
        "slug": dashboard.stored_slug if world.version == "v9" else slugify(dashboard.name),
        "name": dashboard.name,
        "user_id": dashboard.user_id,
        "user": user_card(world.users[dashboard.user_id]),
        "layout": [],
        "dashboard_filters_enabled": dashboard.dashboard_filters_enabled,
        "widgets": None,
        "options": dashboard.options,
        "is_archived": dashboard.is_archived,
        "is_draft": dashboard.is_draft,
        "tags": dashboard.tags,
        "updated_at": dashboard.updated_at,
        "created_at": dashboard.created_at,
        "version": dashboard.version,
        "is_favorite": dashboard.starred_at is not None,
    }
    if dashboard.starred_at is not None:
        shape["starred_at"] = dashboard.starred_at
    return shape


def dashboard_single(world: World, dashboard: Dashboard, user: User, origin: str) -> Shape:
    shape = dashboard_listed(world, dashboard)
    shape.pop("starred_at", None)
    shape["widgets"] = [widget(world, found, user) for found in world.widgets_of(dashboard)]
    if dashboard.public_token is not None:
        shape["public_url"] = f"{origin}/public/dashboards/{dashboard.public_token}?org_slug=default"
        shape["api_key"] = dashboard.public_token
    shape["can_edit"] = user.is_admin or user.id == dashboard.user_id
    return shape


def widget(world: World, found: Widget, user: User) -> Shape:
    shape: Shape = {
        "id": found.id,
        "width": 1,
        "options": found.options,
        "dashboard_id": found.dashboard_id,
        "text": found.text,
        "updated_at": found.updated_at,
        "created_at": found.created_at,
    }
    chart = None if found.visualization_id is None else world.visualizations.get(found.visualization_id)
    if chart is None:
        return shape
    query = world.queries[chart.query_id]
    if not world.may_see(user, query.data_source_id):
        del shape["text"]
        shape["restricted"] = True
        return shape
    shape["visualization"] = {**visualization(chart), "query": query_nested(world, query)}
    return shape


def dashboard_public(world: World, dashboard: Dashboard) -> Shape:
    widgets = []
    for found in world.widgets_of(dashboard):
        shape = widget(world, found, world.users[1])
        del shape["dashboard_id"]
        if "visualization" in shape:
            chart = {key: value for key, value in shape["visualization"].items() if key != "id"}
            chart["query"] = {key: chart["query"][key] for key in ("id", "name", "description", "options")}
            shape["visualization"] = chart
        widgets.append(shape)
    return {
        "name": dashboard.name,
        "layout": [],
        "dashboard_filters_enabled": dashboard.dashboard_filters_enabled,
        "updated_at": dashboard.updated_at,
        "created_at": dashboard.created_at,
        "options": dashboard.options,
        "widgets": widgets,
    }


def data_source_listed(source: DataSource, user: User) -> Shape:
    return {
        "id": source.id,
        "name": source.name,
        "type": source.type,
        "syntax": "sql",
        "paused": source.paused,
        "pause_reason": source.pause_reason,
        "supports_auto_limit": source.supports_auto_limit,
        "view_only": all(source.groups.get(group, True) for group in user.groups),
    }


def data_source_single(source: DataSource, user: User) -> Shape:
    shape = data_source_listed(source, user)
    view_only = shape.pop("view_only")
    return {
        **shape,
        "options": {"dbname": "demo", "host": "127.0.0.1", "password": "--------", "port": 5543, "user": "demo"},
        "queue_name": "queries",
        "scheduled_queue_name": "scheduled_queries",
        "groups": {str(group): flag for group, flag in source.groups.items()},
        "view_only": view_only,
    }


def alert(world: World, found: Alert) -> Shape:
    return {
        "id": found.id,
        "name": found.name,
        "options": found.options,
        "state": found.state,
        "last_triggered_at": found.last_triggered_at,
        "updated_at": found.updated_at,
        "created_at": found.created_at,
        "rearm": found.rearm,
        "query": query_nested(world, world.queries[found.query_id]),
        "user": user_nested(world.users[found.user_id]),
    }


def snippet(world: World, found: Snippet) -> Shape:
    return {
        "id": found.id,
        "trigger": found.trigger,
        "description": found.description,
        "snippet": found.snippet,
        "user": user_nested(world.users[found.user_id]),
        "updated_at": found.updated_at,
        "created_at": found.created_at,
    }


def job(found: Job) -> Shape:
    """`updated_at` is 0 unless the job runs, then a text without a zone (section 6)."""
    status = found.status()
    return {
        "job": {
            "id": found.id,
            "updated_at": now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] if status == 2 else 0,
            "status": status,
            "error": found.error,
            "result": found.result,
            "query_result_id": found.result if isinstance(found.result, int) else None,
        }
    }


def result_columns(world: World, result: Result) -> list[Shape]:
    if world.version == "current":
        return result.columns
    # Before 2024 varchar had no type of its own (section 1).
    return [{**c, "type": None} if c.get("type") == "string" else c for c in result.columns]


def result_json(world: World, result: Result, *, only_data: bool = False) -> bytes:
    """The body of a result. Rows are spliced in as bytes: some hold what a JSON writer refuses, some are large."""
    columns = b'"columns":' + dumps(result_columns(world, result))
    rows = b'"rows":' + result.rows_json()
    parts = [rows, columns] if result.rows_first else [columns, rows]
    if result.extra:
        parts.append(dumps(result.extra)[1:-1])
    data = b'"data":{' + b",".join(parts) + b"}"
    retrieved_at = dumps({"retrieved_at": result.retrieved_at})[1:-1]
    if only_data:
        return b'{"query_result":{' + data + b"," + retrieved_at + b"}}"
    before = dumps({"id": result.id, "query_hash": result.query_hash, "query": result.query})[1:-1]
    between = dumps({"data_source_id": result.data_source_id, "runtime": result.runtime})[1:-1]
    return b'{"query_result":{' + b",".join((before, data, between, retrieved_at)) + b"}}"


def file_name(name: str) -> str:
    cleaned = re.sub(r"\s+", "_", re.sub(r'[<>:"\\/|?*]+', " ", name))
    return f"{cleaned}_{now():%Y_%m_%d}"
