"""The routes of a Redash, and what surrounds every answer: keys, cookies, error manners (sections 2 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.core.journal import Journal
from sandbox.core.wire import dumps
from sandbox.tonalytica import catalogue, execution, writing
from sandbox.tonalytica.call import Call, Reply, Shared
from sandbox.tonalytica.keys import identify, key_of
from sandbox.tonalytica.refusal import LOGIN, Refusal
from sandbox.tonalytica.world import World

Handler = Callable[[Call], Reply]

WEB_APP = (
    b"<!DOCTYPE html><html lang=en><head><title>Redash</title></head><body><section id=app></section></body></html>"
)
NO_METHOD = "The method is not allowed for the requested URL."
PAGED = frozenset({"page", "page_size", "order", "q", "tags", "drafts"})
COOKIES = ("session=eyJfcGVybWFuZW50Ijp0cnVlfQ; HttpOnly; Path=/", "csrf_token=IjU0NDE3; Path=/")


@dataclass(frozen=True)
class Spec:
    method: str
    path: str
    handler: Handler
    args: frozenset[str] = frozenset()
    shareable: bool = False
    """Whether a query's own key, or that of a public dashboard, is good here."""
    writes: bool = False
    """There only where the option `writes` is set: nothing that loads may ever come here."""


Q = "/api/queries"
D = "/api/dashboards"
SPECS: tuple[Spec, ...] = (
    Spec("GET", "/api/session", catalogue.session),
    Spec("GET", "/status.json", catalogue.status),
    Spec("GET", Q, catalogue.queries, PAGED),
    Spec("GET", f"{Q}/archive", catalogue.queries_archive, PAGED),
    Spec("GET", f"{Q}/my", catalogue.queries_my, PAGED),
    Spec("GET", f"{Q}/favorites", catalogue.queries_favorites, PAGED),
    Spec("GET", f"{Q}/recent", catalogue.queries_recent),
    Spec("GET", f"{Q}/tags", catalogue.queries_tags),
    Spec("GET", f"{Q}/search", catalogue.queries_search, PAGED),
    Spec("GET", Q + "/{query_id}", catalogue.query, shareable=True),
    Spec("GET", Q + "/{query_id}/results", execution.get_query_result, shareable=True),
    Spec("GET", Q + "/{query_id}/results.{filetype}", execution.get_query_result, shareable=True),
    Spec("GET", Q + "/{query_id}/results/{result_id}.{filetype}", execution.get_query_result_by_id, shareable=True),
    Spec("POST", Q + "/{query_id}/results", execution.post_results, shareable=True),
    Spec("GET", Q + "/{query_id}/jobs/{job_id}", execution.get_job, shareable=True),
    Spec("DELETE", Q + "/{query_id}/jobs/{job_id}", execution.delete_job, shareable=True),
    Spec("POST", Q + "/{query_id}/refresh", execution.refresh, shareable=True),
    Spec("GET", "/api/query_results/{result_id}.{filetype}", execution.get_result),
    Spec("GET", "/api/query_results/{result_id}", execution.get_result),
    Spec("POST", "/api/query_results", execution.post_query_results),
    Spec("GET", "/api/jobs/{job_id}", execution.get_job),
    Spec("DELETE", "/api/jobs/{job_id}", execution.delete_job),
    Spec("GET", D, catalogue.dashboards, PAGED),
    Spec("GET", f"{D}/my", catalogue.dashboards_my, PAGED),
    Spec("GET", f"{D}/favorites", catalogue.dashboards_favorites, PAGED),
    Spec("GET", f"{D}/tags", catalogue.dashboards_tags),
    Spec("GET", D + "/{dashboard_id}", catalogue.dashboard, frozenset({"legacy"})),
    Spec("POST", D, writing.create_dashboard, writes=True),
    Spec("POST", D + "/{dashboard_id}", writing.update_dashboard, writes=True),
    Spec("DELETE", D + "/{dashboard_id}", writing.archive_dashboard, writes=True),
    Spec("POST", Q + "/{query_id}/fork", writing.fork_query, writes=True),
    Spec("POST", Q + "/{query_id}", writing.update_query, writes=True),
    Spec("DELETE", Q + "/{query_id}", writing.archive_query, writes=True),
    Spec("POST", "/api/widgets", writing.create_widget, writes=True),
    Spec("GET", "/api/data_sources", catalogue.data_sources),
    Spec("GET", "/api/data_sources/{data_source_id}", catalogue.data_source),
    Spec("GET", "/api/data_sources/{data_source_id}/schema", catalogue.data_source_schema, frozenset({"refresh"})),
    Spec("GET", "/api/users", catalogue.users, PAGED | {"disabled", "pending"}),
    Spec("GET", "/api/users/{user_id}", catalogue.user),
    Spec("GET", "/api/alerts", catalogue.alerts),
    Spec("GET", "/api/alerts/{alert_id}", catalogue.alert),
    Spec("GET", "/api/query_snippets", catalogue.query_snippets),
    Spec("GET", "/api/query_snippets/{snippet_id}", catalogue.query_snippet),
    Spec("GET", "/api/groups", catalogue.groups),
    Spec("GET", "/api/destinations", catalogue.destinations),
    Spec("GET", "/api/events", catalogue.events, PAGED),
)


def build_app(world_of: Callable[[], World], journal: Journal) -> ASGIApp:
    def note(request: Request, why: str) -> None:
        query = request.url.query
        journal.unexpected(request.method, f"{request.url.path}?{query}" if query else request.url.path, why)

    def endpoint(spec: Spec) -> Callable[[Request], object]:
        async def serve(request: Request) -> Response:
            world = world_of()
            world.settle()
            body = await request.body()
            try:
                asker = identify(
                    world,
                    key_of(request.query_params, request.headers),
                    request.path_params.get("query_id"),
                    shareable=spec.shareable,
                )
                if spec.writes and not world.writes:
                    raise Refusal(
                        405, {"message": NO_METHOD}, unexpected="a method this path does not have, or a write"
                    )
                _note_arguments(spec, request, note)
                call = Call(
                    world,
                    str(request.base_url).rstrip("/"),
                    request.path_params,
                    request.query_params,
                    body,
                    asker,
                    lambda why: note(request, why),
                )
                return _response(spec.handler(call))
            except Refusal as refusal:
                if refusal.unexpected:
                    note(request, refusal.unexpected)
                return _refused(refusal)

        return serve

    async def public(request: Request) -> Response:
        world = world_of()
        call = Call(world, "", request.path_params, request.query_params, b"", Shared(), lambda why: note(request, why))
        try:
            return _response(catalogue.dashboard_public(call))
        except Refusal as refusal:
            return _refused(refusal)

    async def other(request: Request, error: Exception) -> Response:
        """Paths and methods nobody knows."""
        assert isinstance(error, HTTPException)  # noqa: S101
        try:
            identify(world_of(), key_of(request.query_params, request.headers), None, shareable=False)
        except Refusal:
            note(request, "no such path, and no key that fits")
            return _refused(Refusal(404, {"message": LOGIN}))
        if request.method == "GET" and error.status_code == 404:
            note(request, "no such path: the web app's page is served")
            return _response(Reply(WEB_APP, content_type="text/html; charset=utf-8"))
        if (request.method, request.url.path) == ("POST", "/api/users"):
            note(request, "a write")
            return _refused(Refusal(429, {"message": "50 per 1 hour"}))
        note(request, "a method this path does not have, or a write")
        return _refused(Refusal(405, {"message": NO_METHOD}))

    routes = [Route(spec.path, endpoint(spec), methods=[spec.method]) for spec in SPECS]
    routes.append(Route(D + "/public/{token}", public))
    app = Starlette(routes=routes, exception_handlers={404: other, 405: other})
    app.router.redirect_slashes = False

    async def with_doubled_slash(scope: Scope, receive: Receive, send: Send) -> None:
        """A doubled slash at the start is taken as one when gunicorn is reached directly (section 8)."""
        path = "/" + scope["path"].lstrip("/")
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    return with_doubled_slash


def _note_arguments(spec: Spec, request: Request, note: Callable[[Request, str], None]) -> None:
    strange = sorted(name for name in request.query_params if name not in spec.args | {"api_key"} and name[:2] != "p_")
    if strange:
        note(request, f"unknown arguments: {', '.join(strange)}")


def _response(answer: Reply) -> Response:
    response = Response(answer.body, answer.status, {**answer.headers, "Content-Type": answer.content_type})
    response.headers["Server"] = "gunicorn"
    response.headers["Vary"] = "Cookie"
    for cookie in COOKIES:
        response.headers.append("Set-Cookie", cookie)
    return response


def _refused(refusal: Refusal) -> Response:
    return _response(Reply(dumps(refusal.payload), refusal.status))
