"""The URL grammar `/v2/{controller/path}/{action}[.json|.csv]`, keys, sessions and permissions (sections 2 and 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.core.journal import Journal
from sandbox.tune import logs, reports
from sandbox.tune.actions import ACTIONS, WRITES, Call, get_controllers
from sandbox.tune.data import Tables
from sandbox.tune.envelope import Refusal, Reply, bad_key, enveloped
from sandbox.tune.exports import Queue
from sandbox.tune.models import MODELS, Model
from sandbox.tune.records import BRACKETS
from sandbox.tune.stats import Stats

ALWAYS = frozenset({"api_key", "session_token", "sdk", "ver", "source", "debug", "response_timezone"})


@dataclass
class World:
    seed: int
    scale: float
    tables: Tables
    api_key: str
    stats: Stats = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    sessions: set[str] = field(default_factory=set)
    sessions_opened: int = 0
    forbidden: set[str] = field(default_factory=set)


def build_app(world_of: Callable[[], World], journal: Journal) -> Starlette:
    async def serve(request: Request) -> Response:
        notes: list[str] = []
        try:
            answer = _dispatch(world_of(), request, notes)
        except Refusal as refusal:
            notes += [refusal.unexpected] * bool(refusal.unexpected)
            answer = logs.refused(refusal) if request.url.path.startswith("/v3/") else refusal.reply()
        for why in notes:
            journal.unexpected(request.method, _without_key(request), why)
        headers = {"Content-Type": answer.content_type, "Vary": "Accept-Encoding", "Access-Control-Allow-Origin": "*"}
        return Response(answer.body, answer.status, headers)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", serve, methods=methods)])
    app.router.redirect_slashes = False
    return app


def _without_key(request: Request) -> str:
    shown = [f"{name}={value}" for name, value in request.query_params.multi_items() if "key" not in name]
    return f"{request.url.path}?{'&'.join(shown)}" if shown else request.url.path


def _dispatch(world: World, request: Request, notes: list[str]) -> Reply:
    if request.method != "GET":
        notes.append(f"method {request.method}: every call of the SDKs is a GET")
    path = request.url.path
    if path.startswith("/downloads/"):
        why = world.queue.with_credentials(request)
        notes += [why] * bool(why)
        return world.queue.download(request)
    if path.startswith("/v3/"):
        _authenticate(world, request)
        return logs.serve(world.stats, world.queue, world.tables["advertiser"], request, notes)
    if not path.startswith("/v2/"):
        raise Refusal(404, "Controller was not found.", unexpected="no such path")
    controller, _, action = path[4:].strip("/").rpartition("/")
    action, _, transform = action.partition(".")
    if (controller, action) == ("session/authenticate", "api_key"):
        return _open_session(world, request)
    model = MODELS.get(controller)
    if model is None or not model.keyless:
        _authenticate(world, request)
    if (controller, action) == ("apidoc", "get_controllers"):
        return get_controllers(request.query_params)
    if controller in reports.PATHS or (controller, action) == ("export", "download"):
        return _report(world, controller, action, request, notes)
    if model is None:
        raise Refusal(404, "Controller was not found.", unexpected="no such controller")
    if controller in world.forbidden:
        raise Refusal(403, "User does not have permission to access this resource.")
    if action in WRITES:
        raise Refusal(500, "Internal service error.", unexpected=f"a write: {action}")
    if action not in ACTIONS or transform not in ("", "json", "csv") or (transform == "csv" and action != "find"):
        raise Refusal(404, "Action was not found.", unexpected="no such action or transform")
    handler, known = ACTIONS[action]
    _note_arguments(model, request, known, notes)
    return handler(Call(world.tables, model, request.query_params, world.seed, transform == "csv"))


def _report(world: World, path: str, action: str, request: Request, notes: list[str]) -> Reply:
    args, options = request.query_params, world.queue.options
    strange = [name for name in args if name not in reports.ARGUMENTS | ALWAYS and not BRACKETS.fullmatch(name)]
    if strange:
        notes.append(f"unknown parameters of {path}: {', '.join(sorted(strange))}")
    if action == "define":
        return reports.define(path)
    if action in ("status", "download"):
        told = world.queue.state(args.get("job_id", ""), request)
        url = told.pop("url")
        inner = {"data": {"format": "csv", "url": url} if url else None} if action == "download" else {"url": url}
        return enveloped({**told, **inner})
    if action not in ("find", "count", "export", "find_export_queue"):
        raise Refusal(404, "Action was not found.", unexpected=f"no action {action}")
    forgiving = action not in ("find", "count")
    rows = reports.rows_of(world.stats, world.tables, path, args, forgiving=forgiving)
    if action == "count":
        return enveloped(len(rows))
    if action == "find":
        return reports.find(rows, args, options)
    newline = "\r\n" if options.get("crlf") else "\n"
    body = reports.as_csv(rows, path, args, bom=bool(options.get("bom")), newline=newline)
    job = world.queue.order(body, len(rows), secret=path)
    return enveloped(job.key if action == "find_export_queue" else {"job_id": job.key})


def _note_arguments(model: Model, request: Request, known: frozenset[str], notes: list[str]) -> None:
    strange = [
        name
        for name in request.query_params
        if name not in known | ALWAYS and not ("sort" in known and BRACKETS.fullmatch(name))
    ]
    if strange:
        notes.append(f"unknown parameters of {model.path}: {', '.join(sorted(strange))}")


def _open_session(world: World, request: Request) -> Reply:
    """The parameter is plural here (section 3)."""
    key = request.query_params.get("api_keys", "")
    if key != world.api_key:
        raise bad_key(key)
    world.sessions_opened += 1
    token = hashlib.sha1(f"{world.seed}|{world.sessions_opened}".encode(), usedforsecurity=False).hexdigest()
    world.sessions.add(token)
    return enveloped(token)


def _authenticate(world: World, request: Request) -> None:
    token = request.query_params.get("session_token")
    if token is not None:
        if token not in world.sessions:
            # Sessions end some time (section 3). Under HTTP 200: body and HTTP status may differ (section 4).
            raise Refusal(200, "Invalid api key or session token.", body_status=401)
        return
    key = request.query_params.get("api_key", "")
    if key != world.api_key:
        raise bad_key(key)
