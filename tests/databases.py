"""The databases that a promise is kept on: a home is pointed at one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from conftest import Night
from postgres_server import fresh_database, postgres_server

DATABASES = ("duckdb", "postgres")


@contextmanager
def databases(*names: str) -> Iterator[dict[str, str | None]]:
    """Database → its URL; None is the file that a home has by default."""
    urls: dict[str, str | None] = {"duckdb": None}
    if "postgres" not in names:
        yield {name: urls[name] for name in names}
        return
    with postgres_server() as server, fresh_database(server, "analysts") as url:
        urls["postgres"] = url
        yield {name: urls[name] for name in names}


def point(night: Night, url: str | None) -> Night:
    if url is not None:
        night.settings["NIGHTLOAD_WAREHOUSE"] = url
    return night
