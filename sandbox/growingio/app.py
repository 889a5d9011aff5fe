"""The paths of three generations, the token, the refusals, the CSV."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.core.journal import Journal
from sandbox.core.wire import dumps, now
from sandbox.growingio.world import AI, DAY, HOUR, PROJECT, World, answer

CAP = 200_000
CLOCKS_APART = 300
"""Seconds between the clocks at which a signature is refused; the vendor does not tell its own."""


class Refusal(Exception):
    def __init__(self, status: int, message: str, *, code: str = "", text: str = "", unexpected: str = "") -> None:
        super().__init__(message)
        errors = [{"code": code, "message": text or message}] if code else []
        self.status, self.body, self.unexpected = status, {"message": message, "errors": errors}, unexpected


def build_app(world_of: Callable[[], World], journal: Journal) -> Starlette:
    async def serve(request: Request) -> Response:
        try:
            status, body, kind = _dispatch(world_of(), request, await request.body())
        except Refusal as refusal:
            if refusal.unexpected:
                journal.unexpected(request.method, request.url.path, refusal.unexpected)
            status, body, kind = refusal.status, dumps(refusal.body), "application/json"
        return Response(body, status, {"Content-Type": kind})

    app = Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
    app.router.redirect_slashes = False
    return app


def _dispatch(world: World, request: Request, body: bytes) -> tuple[int, bytes, str]:
    path, json = request.url.path.strip("/"), "application/json"
    if path == "auth/token":
        return 200, _mint(world, request, body), json
    if path.startswith("downloads/"):
        if "authorization" in request.headers or "x-client-id" in request.headers:
            raise Refusal(400, "Bad Request", unexpected="credentials went along with a download link")
        uid = world.links.get(f"{path}?{request.url.query}")
        if uid is None:
            raise Refusal(403, "Expired")
        return 200, csv_of(world, uid), "text/csv"
    _authenticate(world, request)
    if request.method != "GET":
        raise Refusal(405, "Method Not Allowed", unexpected="every read is a GET")
    parts = path.split("/")
    v3 = parts[:2] == ["v3", "exporter"]
    generation = "v3" if v3 else "v2" if parts[0] == "v2" else "v1"
    parts = parts[2:] if v3 else parts[1:] if generation == "v2" else parts
    if parts[:2] != ["projects", PROJECT]:
        raise Refusal(404, "Not Found", unexpected="no such project")
    match generation, parts[2:]:
        case "v1", ["dashboards.json"]:
            if world.options.get("without_list"):
                raise Refusal(404, "Not Found")
            shown = [{key: value for key, value in board.items() if key != "charts"} for board in world.boards.values()]
            return 200, dumps(shown), json
        case "v1", ["dashboards", name]:
            return 200, dumps(_board(world, name.removesuffix(".json"))), json
        case "v1", ["segmentations.json"]:
            hidden = ("users", "header")
            rows = [
                {key: value for key, value in each.items() if key not in hidden} for each in world.segments.values()
            ]
            return 200, dumps(rows), json
        case "v1", ["segmentations", uid, "users.csv"]:
            return 200, csv_of(world, uid), "text/csv"
        case "v1", ["rules.csv"]:
            return 200, _rules(world), "text/csv"
        case "v3", ["segmentations", uid, "users"]:
            return 200, dumps(_export(world, request, uid)), json
        case _, [kind, uid] if kind in ("charts", "funnels", "retentions"):
            return 200, dumps(_series(world, request, generation, kind[:-1], uid)), json
    raise Refusal(404, "Not Found", unexpected="no such path")


def _mint(world: World, request: Request, body: bytes) -> bytes:
    given = dict(parse_qsl(body.decode()))
    text = f"POST\n/auth/token\nproject={given.get('project')}&ai={given.get('ai')}&tm={given.get('tm')}"
    auth = hmac.new(world.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    known = (given.get("project"), given.get("ai"), request.headers.get("x-client-id"))
    if request.method != "POST" or known != (PROJECT, AI, world.client_id) or given.get("auth") != auth:
        raise Refusal(401, "Unauthorized")
    apart = now().timestamp() + float(world.options.get("clock") or 0) - int(given.get("tm", "0")) / 1000
    if abs(apart) > CLOCKS_APART:
        raise Refusal(401, "Unauthorized")
    return dumps({"status": "success", "code": mint(world)})


def mint(world: World) -> str:
    """A new token; the former one is over with it."""
    world.mints += 1
    digest = hashlib.sha256(f"{world.seed}|{world.mints}".encode()).hexdigest()
    world.minted = f"CANARY{digest}"[:64]
    return world.minted


def _authenticate(world: World, request: Request) -> None:
    given = request.headers.get("authorization", "")
    scheme = world.options.get("scheme")
    for token in (world.console_token, world.minted):
        forms = (f"Token {token}", token) if scheme is None else (f"{scheme}{token}",)
        if token is not None and given in forms:
            if token == world.minted and request.headers.get("x-client-id") != world.client_id:
                break
            return
    raise Refusal(401, "Unauthorized")


def _board(world: World, uid: str) -> dict[str, object]:
    board = world.boards.get(uid)
    if board is None:
        raise Refusal(404, "Not Found")
    charts = []
    for each in board["charts"]:
        chart = world.charts[each]
        told = {"id": chart.id, "name": chart.name, "createor": "韩梅梅", "createdAt": "2019-01-01 10:00"}
        charts.append({**told, "resource_type": chart.kind} if chart.told else told)
    return {"id": board["id"], "name": board["name"], "charts": charts}


def _series(world: World, request: Request, generation: str, kind: str, name: str) -> dict[str, object]:
    uid = name.removesuffix(".json")
    if (generation == "v3") == name.endswith(".json") or (generation == "v1" and kind != "chart"):
        raise Refusal(404, "Not Found", unexpected="no such path")
    chart = world.charts.get(uid)
    if chart is None or chart.kind != kind:
        raise Refusal(404, "Not Found")
    query = request.query_params
    own = {"chart": "interval", "funnel": "conversionWindow", "retention": "range"}[kind]
    if set(query) != {"startTime", "endTime", own}:
        raise Refusal(400, "Bad Request", code="bad_request", unexpected=f"parameters {sorted(query)}")
    start, end = int(query["startTime"]), int(query["endTime"])
    if end < start or end - start > 400 * DAY:
        raise Refusal(400, "Bad Request", code="bad_request", text="时间范围不合法", unexpected="a window that is none")
    interval = int(query[own]) if kind == "chart" else {"week": 7 * DAY, "month": 30 * DAY}.get(query[own], DAY)
    if generation == "v3" and not _polled(world, str(request.url)):
        return {"id": "r4nd0m", "status": "doing"}
    slow = (world.options.get("slow") or {}).get(uid)
    if slow is not None and generation != "v3" and end + 1 - start > slow * HOUR:
        text = "Request timeout in 5000 milliseconds"
        raise Refusal(500, "Request timeout", code="request_timeout", text=text)
    extra = {} if kind == "chart" else {own: query[own]}
    told = answer(chart, start, end, interval, old=generation == "v1", extra=extra)
    told["data"] = told["data"][: int(world.options.get("cap") or CAP)]
    return told


def _polled(world: World, what: str) -> bool:
    """True at the second question after the first."""
    world.polls[what] = world.polls.get(what, 0) + 1
    return world.polls[what] > 2


def _export(world: World, request: Request, uid: str) -> dict[str, object]:
    if uid not in world.segments:
        raise Refusal(404, "Not Found")
    if not 1 <= int(request.query_params.get("expire", 5)) <= 7 * 24 * 60:
        return {"id": uid, "status": "failed", "downloadLinks": [], "errorMsg": "有效期必须小于7天"}
    if not _polled(world, str(request.url)):
        return {"id": uid, "status": "doing", "downloadLinks": []}
    link = f"downloads/{uid}.csv?sign=CANARY{world.seed}%2Fx&expires=1999999999999"
    world.links[link] = uid
    return {"id": uid, "status": "done", "downloadLinks": [f"{request.base_url}{link}"], "errorMsg": ""}


def csv_of(world: World, uid: str) -> bytes:
    """Text with tabs, blanks after the header; `csv` in the options says in what other dialect it may come."""
    found = world.segments.get(uid)
    if found is None:
        raise Refusal(404, "Not Found")
    options = world.options.get("csv") or {}
    sign = {"tab": "\t", "comma": ","}[options.get("separator", "tab")]
    lines = [sign.join(found["header"]) + (sign + "  " if sign == "\t" else "")]
    lines += [sign.join(_cell(cell, sign) for cell in row) for row in found["users"]]
    text = options.get("newline", "\n").join(lines) + "\n"
    encoded: bytes = text.encode(options.get("encoding", "utf-8"))
    return encoded


def _cell(cell: str, sign: str) -> str:
    if any(char in cell for char in (sign, "\n", "\r")) or cell.startswith('"'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _rules(world: World) -> bytes:
    """Commas, and no quotes around a name that holds one."""
    sign = "\t" if (world.options.get("rules") or "comma") == "tab" else ","
    lines = [sign.join(("ruleId", "eventName", "eventType"))]
    lines += [sign.join((row["ruleId"], row["eventName"], row["eventType"])) for row in world.rules.values()]
    return "\n".join(lines).encode() + b"\n"
