"""Who asks (section 2). A key that does not fit is a 404 that says "Please login", never a 401."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers

from sandbox.tonalytica.call import Shared
from sandbox.tonalytica.records import User
from sandbox.tonalytica.refusal import LOGIN, Refusal
from sandbox.tonalytica.world import World


def key_of(args: Mapping[str, str], headers: Headers) -> str:
    """The argument wins over the header, even when wrong; only the exact prefix `Key ` is taken off the header."""
    if "api_key" in args:
        return args["api_key"]
    return headers.get("authorization", "").removeprefix("Key ")


def identify(world: World, key: str, query_id: str | None, *, shareable: bool) -> User | Shared:
    """A query's key is good on the routes that carry that query's id, and only there (`shareable`)."""
    if key and not world.keys_expired:
        for user in world.users.values():
            if user.api_key == key and user.disabled_at is None:
                return user
        query = world.queries.get(int(query_id)) if query_id is not None and query_id.isdecimal() else None
        if shareable and query is not None and query.api_key == key:
            return Shared(query_id=query.id)
        for dashboard in world.dashboards.values():
            if dashboard.public_token == key:
                return _public(world, dashboard.id, query.id if query else None, shareable=shareable)
    raise Refusal(404, {"message": LOGIN})


def _public(world: World, dashboard_id: int, query_id: int | None, *, shareable: bool) -> Shared:
    if not shareable:
        # List calls with a public dashboard's key fail on the server (section 2).
        raise Refusal(500, {"message": "Internal Server Error"}, unexpected="a public dashboard's key on another route")
    for widget in world.widgets.values():
        found = world.query_of(widget)
        if widget.dashboard_id == dashboard_id and found is not None and found.id == query_id:
            return Shared(query_id=query_id, dashboard_id=dashboard_id)
    raise Refusal(404, {"message": LOGIN})
