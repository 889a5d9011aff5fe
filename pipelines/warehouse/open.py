"""Open a warehouse to load into, or a published one to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from pipelines.config.project import Place
from pipelines.warehouse.base import Warehouse
from pipelines.warehouse.lock import lock
from pipelines.warehouse.reader import Reader
from sources.core.errors import ConfigurationError, Locked, NightloadError

LOOK = 0.5
"""Seconds between two looks of a backfill whether it may go on."""


@contextmanager
def open_warehouse(place: Place, *, datasets: Sequence[str], chunk: bool = False) -> Iterator[Warehouse]:
    """The warehouse of a place, for the one who holds its lock; `chunk` as there.

    Raises `ConfigurationError` if it cannot be used, `Locked` if a run on another machine has it.
    """
    if place.postgres is None:
        from pipelines.warehouse.duckdb.warehouse import DuckDbFile

        warehouse = DuckDbFile(place, datasets=datasets)
        try:
            yield warehouse
        finally:
            warehouse.discard(kept=True)
    else:
        from pipelines.warehouse.postgres.warehouse import Postgres

        database = Postgres(place.postgres, shown=place.shown, chunk=chunk)
        try:
            yield database
        finally:
            database.close()


@contextmanager
def turn(place: Place, *, datasets: Sequence[str], on_wait: Callable[[], None]) -> Iterator[Warehouse]:
    """The lock and the warehouse for one chunk of a backfill, when no run has them and none waits for them.

    `on_wait` is called once if there is one.
    """
    from filelock import FileLock, Timeout

    told = False
    while True:
        with ExitStack() as stack:
            try:
                FileLock(place.queue).acquire(timeout=0).lock.release()
                stack.enter_context(lock(place, chunk=True))
                warehouse = stack.enter_context(open_warehouse(place, datasets=datasets, chunk=True))
            except (Timeout, Locked):
                if not told:
                    on_wait()
                told = True
            else:
                yield warehouse
                return
        time.sleep(LOOK)


@contextmanager
def open_reader(place: Place) -> Iterator[Reader]:
    """The published warehouse of a place. Raises `ConfigurationError` if there is none yet or it cannot be opened."""
    if place.postgres is not None:
        from pipelines.warehouse.postgres.connection import connect
        from pipelines.warehouse.postgres.reader import PostgresReader

        with closing(connect(place.postgres)) as database:
            yield PostgresReader(database)
        return
    if not place.warehouse.exists():
        raise ConfigurationError(
            what="there is no warehouse yet",
            where=place.shown,
            todo="Load one with: nightload run, or name another one",
        )
    import duckdb

    from pipelines.warehouse.duckdb.reader import DuckDbReader

    try:
        connection = duckdb.connect(str(place.warehouse), read_only=True)
    except duckdb.Error as error:
        raise NightloadError(
            what="the warehouse cannot be opened", where=place.shown, why=str(error).splitlines()[0]
        ) from None
    with connection:
        yield DuckDbReader(connection)
