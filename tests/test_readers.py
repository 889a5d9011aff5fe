"""Analysts read while a night runs: none fails, none waits, none sees half of a vendor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from conftest import Night, settle
from databases import databases, point
from redash import LABELS
from sandbox_process import SandboxProcess

MOMENT = 1.0
"""Seconds; the machine that runs the tests is busy with the night as well."""
SEEN = (
    "SELECT (SELECT count(*) FROM tonalytica.query_snippets WHERE trigger = 'changed'), "
    "(SELECT count(*) FROM tonalytica.alerts WHERE name = 'changed'), "
    "(SELECT count(*) FROM tonalytica.query_snippets WHERE _deleted_at IS NOT NULL), "
    "(SELECT count(*) FROM nightload.runs WHERE status = 'ok')"
)


@dataclass
class Watching:
    """What one reader saw, again and again, and how long it waited for it at the most."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)
    longest: float = 0.0
    failed: list[BaseException] = field(default_factory=list)

    @contextmanager
    def reading(self, read: Callable[[], tuple[Any, ...]]) -> Iterator[None]:
        ended = threading.Event()

        def loop() -> None:
            try:
                while not ended.is_set():
                    begun = time.monotonic()
                    self.seen.append(read())
                    self.longest = max(self.longest, time.monotonic() - begun)
            except BaseException as error:  # noqa: BLE001 - looked at in the test's own thread
                self.failed.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@pytest.fixture(params=["duckdb", "postgres"])
def watched(request: pytest.FixtureRequest, sandbox: SandboxProcess, tmp_path: Path) -> Iterator[Night]:
    """A first night has been; at the vendor's rows were changed since, and one was deleted."""
    with databases(request.param) as urls:
        night = point(settle(Night(home=tmp_path), sandbox), urls[request.param])
        night.set(exclude=[name for name in LABELS if name not in ("query_snippets", "alerts")])
        night.set("tune", api_key=None)
        assert night("run").code == 0
        for table, column in (("query_snippets", "trigger"), ("alerts", "name")):
            for row in sandbox.control("tonalytica", "GET", f"truth/{table}")["rows"][:3]:
                edit = {"table": table, "op": "update", "key": row["id"], "row": {column: "changed"}}
                sandbox.control("tonalytica", "POST", "edit", edit)
        last = sandbox.control("tonalytica", "GET", "truth/query_snippets")["rows"][-1]
        sandbox.control("tonalytica", "POST", "edit", {"table": "query_snippets", "op": "delete", "key": last["id"]})
        yield night


YESTERDAY, TODAY = (0, 0, 0, 1), (3, 3, 1, 2)


def test_a_reader_that_stays_open_all_night(watched: Night) -> None:
    """DuckDB: yesterday's rows until it opens anew. Postgres: all of the vendor's news at one moment."""
    url = watched.settings.get("NIGHTLOAD_WAREHOUSE")
    watching = Watching()
    if url is None:
        with duckdb.connect(str(watched.warehouse), read_only=True) as reader:
            with watching.reading(lambda: reader.execute(SEEN).fetchall()[0]):
                ran = watched("run", "--json")
            assert reader.execute(SEEN).fetchall() == [YESTERDAY]
        assert watched.rows(SEEN) == [TODAY]
    else:
        connection = psycopg2.connect(url)
        connection.autocommit = True

        def read() -> tuple[Any, ...]:
            with connection.cursor() as cursor:
                cursor.execute(SEEN)
                ((row),) = cursor.fetchall()
                return row

        with watching.reading(read):
            ran = watched("run", "--json")
        assert read() == TODAY
        connection.close()
    assert ran.code == 0, ran.err
    assert watching.failed == []
    assert len(watching.seen) > 20
    assert watching.longest < MOMENT
    assert set(watching.seen) <= {YESTERDAY} if url is None else set(watching.seen) <= {YESTERDAY, TODAY}


def test_a_night_does_not_wait_for_one_who_reads(watched: Night) -> None:
    """A transaction that is left open after a read, as a console leaves it, keeps no night from changing rows."""
    url = watched.settings.get("NIGHTLOAD_WAREHOUSE")
    if url is None:
        with duckdb.connect(str(watched.warehouse), read_only=True) as reader:
            reader.execute("BEGIN")
            assert reader.execute(SEEN).fetchall() == [YESTERDAY]
            assert watched("run").code == 0
            assert reader.execute(SEEN).fetchall() == [YESTERDAY]
    else:
        connection = psycopg2.connect(url)
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute(SEEN)
            assert cursor.fetchall() == [YESTERDAY]
            assert watched("run").code == 0
            cursor.execute(SEEN)
            assert cursor.fetchall() == [YESTERDAY]
        connection.close()
