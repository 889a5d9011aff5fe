"""One request as a handler sees it: the state, who asks, the arguments; and the answer it gives back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams

from sandbox.core.wire import dumps
from sandbox.tonalytica.records import DataSource, Query, User
from sandbox.tonalytica.refusal import FORBIDDEN, LOGIN, Refusal, not_found, server_error
from sandbox.tonalytica.world import World

INT32 = 2**31


@dataclass(frozen=True)
class Shared:
    """Who asks with a query's key, or with a public dashboard's: no user at all."""

    query_id: int | None = None
    dashboard_id: int | None = None


@dataclass
class Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass
class Call:
    world: World
    origin: str
    path: dict[str, str]
    args: QueryParams
    body: bytes
    asker: User | Shared
    note: Callable[[str], None]

    @property
    def user(self) -> User:
        if isinstance(self.asker, User):
            return self.asker
        raise Refusal(404, {"message": LOGIN})

    def json(self) -> dict[str, Any]:
        """An empty or non-JSON body counts as {} (section 6)."""
        try:
            found = json.loads(self.body or b"{}")
        except ValueError:
            self.note("the body is not JSON")
            return {}
        return found if isinstance(found, dict) else {}

    def number(self, name: str) -> int:
        """An id of the path. What is no int32 is a server error, so a 500 may be the client's mistake (section 8)."""
        text = self.path[name]
        if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit() or abs(int(text)) >= INT32:
            raise server_error("an id that is not an int32")
        return int(text)

    def query(self) -> Query:
        found = self.world.queries.get(self.number("query_id"))
        if found is None:
            raise not_found()
        if isinstance(self.asker, User) and found.data_source_id is not None:
            self.need_access(found.data_source_id)
        return found

    def data_source(self) -> DataSource:
        found = self.world.data_sources.get(self.number("data_source_id"))
        if found is None:
            raise not_found()
        self.need_access(found.id)
        return found

    def need_access(self, data_source_id: int) -> None:
        if isinstance(self.asker, User) and not self.world.may_see(self.asker, data_source_id):
            raise Refusal(403, {"message": FORBIDDEN})

    def need_admin(self) -> None:
        if not self.user.is_admin:
            raise Refusal(403, {"message": FORBIDDEN})


def reply(payload: Any) -> Reply:
    return Reply(dumps(payload))
