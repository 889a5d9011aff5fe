"""The routes, the keys, and what a wrong call is answered with (sheet, sections 1 and 2 to 10)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.core.journal import Journal
from sandbox.thinkingengine.data import LOGIN, PROJECT, PROJECT_TOKEN, ROOT_TOKEN, World, has_property
from sandbox.thinkingengine.envelope import Refusal, Reply, enveloped
from sandbox.thinkingengine.models import PATHS as MODELS
from sandbox.thinkingengine.models import answer
from sandbox.thinkingengine.sql import Sql

Query = Mapping[str, str]


def build_app(world_of: Callable[[], World], sql: Sql, journal: Journal) -> Starlette:
    async def serve(request: Request) -> Response:
        world, path = world_of(), request.url.path
        body = await request.body()
        try:
            reply = _dispatch(world, sql, request, body)
        except Refusal as refusal:
            if refusal.unexpected:
                journal.unexpected(request.method, path, refusal.unexpected)
            reply = refusal.reply()
        return Response(reply.body, reply.status, {"Content-Type": reply.content_type})

    app = Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "DELETE"])])
    app.router.redirect_slashes = False
    return app


def _dispatch(world: World, sql: Sql, request: Request, content: bytes) -> Reply:
    path, query = request.url.path, dict(request.query_params)
    form: dict[str, str] = {}
    if "urlencoded" in request.headers.get("content-type", ""):
        form = dict(parse_qsl(content.decode(), keep_blank_values=True))
    is_root = _authenticate(world, query.get("token") or form.get("token", ""))
    route = ROUTES.get(path) or (("POST", _model, False) if path in MODELS else None)
    if route is None:
        raise Refusal(-1010, "Illegal operation", unexpected="a write, or no such path")
    method, handle, root_only = route
    if request.method != method:
        raise Refusal(-1010, f"Request method {request.method} not supported", unexpected="the wrong method")
    if root_only and not is_root:
        raise Refusal(-1006, "You do not have the operation permission")
    body: Any = {}
    if "json" in request.headers.get("content-type", ""):
        body = json.loads(content)
    return handle(world, sql, {**query, **form, "": path}, body)


def _authenticate(world: World, token: str) -> bool:
    """Which code a wrong key gets is not documented; an empty one was seen as -1008."""
    if not token:
        raise Refusal(-1008, "token is empty")
    if world.keys_expired or token not in (PROJECT_TOKEN, ROOT_TOKEN):
        raise Refusal(-1014, f"Invalid access, token {token}")
    return token == ROOT_TOKEN


def _in_project(query: Query) -> None:
    if query.get("projectId") != str(PROJECT):
        raise Refusal(-3004, "Invalid project", unexpected="no such project")


def _events(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    return enveloped({"events": world.lists["event_meta"]})


def _props(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    table = query.get("tableType")
    rows = [
        {label: value for label, value in row.items() if label != "tableType"}
        for row in world.lists["property_meta"]
        if row["tableType"] == table
        and ("eventName" not in query or has_property(query["eventName"], row["columnName"]))
    ]
    return enveloped({"properties": rows})


def _virtual_event(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    for row in world.lists["virtual_events"]:
        if row["eventName"] == query.get("eventName"):
            return enveloped(row)
    raise Refusal(-1023, "The target object does not exist")


def _clusters(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project({"projectId": str(body.get("projectId"))})
    return enveloped(world.lists["user_clusters"])


def _managed(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    return enveloped({"reports": world.lists["reports"], "dashboards": world.lists["dashboards"]})


def _reports(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    return enveloped(world.lists["reports"])


def _metrics(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project({"projectId": str(body.get("projectId"))})
    return enveloped(world.lists["metrics"])


def _projects(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    if query.get("loginName") != LOGIN:
        raise Refusal(-1999, "Invalid user")
    return enveloped(world.lists["projects"])


def _users(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    names = body.get("loginNames") or []
    found = [row for row in world.lists["users_of_company"] if row["loginName"] in names]
    return enveloped({"authUsers": [{"userId": row["userId"], "loginName": row["loginName"]} for row in found]})


def _user(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    for row in world.lists["users_of_company"]:
        if row["loginName"] == query.get("loginName"):
            return enveloped({label: value for label, value in row.items() if value is not None})
    raise Refusal(-1009, "Username not existed")


def _generated(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    _in_project(query)
    if "filter" not in body:
        raise Refusal(-2004, "Parameter lost", unexpected="no filter")
    columns = ", ".join(f'"{name}"' for name in dict.fromkeys(["#user_id", *body.get("selectColumns", [])]))
    return enveloped({"sql": f"SELECT {columns} FROM v_user_{PROJECT} WHERE 1=1", "undocumented": 1})  # noqa: S608


def _model(world: World, sql: Sql, query: Query, body: Any) -> Reply:
    return enveloped(answer(world, MODELS[query[""]], body))


Handle = Callable[[World, Sql, Query, Any], Reply]

ROUTES: dict[str, tuple[str, Handle, bool]] = {
    "/querySql": ("POST", lambda world, sql, query, body: sql.stream(world, query), False),
    "/open/submit-sql": ("POST", lambda world, sql, query, body: sql.submit(world, query), False),
    "/open/sql-task-info": ("GET", lambda world, sql, query, body: sql.info(world, query), False),
    "/open/sql-result-page": ("GET", lambda world, sql, query, body: sql.page(world, query), False),
    "/open/list-event-meta": ("GET", _events, False),
    "/open/list-props": ("GET", _props, False),
    "/open/get-virtual-event-by-name": ("GET", _virtual_event, False),
    "/open/user-cluster-list": ("POST", _clusters, False),
    "/open/manage-reports": ("GET", _managed, False),
    "/open/list-project-reports": ("GET", _reports, False),
    "/open/metric-list": ("POST", _metrics, False),
    "/open/project-list": ("POST", _projects, True),
    "/open/list-auth-users-by-login-names": ("POST", _users, True),
    "/open/get-auth-user-info-by-login-name": ("GET", _user, True),
    "/open/get-sql-for-user-search": ("POST", _generated, False),
}
"""Path → method, what answers, and whether only a root key may."""
