"""The only place that knows destinations: a DuckDB file that is built and swapped in, or a Postgres."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from pipelines.config.permissions import state_folder
from pipelines.config.project import OWN_DATASET, Place
from pipelines.warehouse.base import Session, Warehouse
from sources.core.errors import ConfigurationError, Locked, NoRoom, no_room
from sources.core.sql import quote

PATIENCE = 900.0
"""Seconds that a run waits for one chunk of a backfill to end."""
LOOK = 0.5
"""Seconds between two looks of a backfill whether it may go on."""

__all__ = [
    "OWN_DATASET",
    "Session",
    "Warehouse",
    "lock",
    "open_warehouse",
    "quote",
    "turn",
]


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
def lock(place: Place, *, chunk: bool = False) -> Iterator[None]:
    """The one lock of a warehouse on this machine, freed by the system when the holder dies. Raises `Locked`.

    A `chunk` of a backfill holds it for a short while: whoever else wants it waits for that, and goes before the next.
    """
    from filelock import FileLock, Timeout  # readers need no lock, and are quicker without it

    try:
        state_folder(place.state)
        held = FileLock(place.lock)
        try:
            held.acquire(timeout=0)
        except Timeout:
            if chunk or not place.chunk.exists():
                raise
            with FileLock(place.queue).acquire(timeout=PATIENCE):
                held.acquire(timeout=PATIENCE)
        if chunk:
            place.chunk.touch()
        else:
            _sweep(place)
    except Timeout:
        raise Locked(
            what="another run has this warehouse", where=place.shown, todo="Wait for it to end, then run again"
        ) from None
    except OSError as error:
        raise (NoRoom if no_room(error) else ConfigurationError)(
            what=f"the folder {place.state} cannot be written",
            why=error.strerror or "",
            todo="Give the warehouse a folder that this user may write and that has room, with --warehouse or "
            "NIGHTLOAD_WAREHOUSE",
        ) from None
    try:
        yield
    finally:
        place.chunk.unlink(missing_ok=True)
        held.release()


def _sweep(place: Place) -> None:
    """What a backfill that was killed left behind."""
    from filelock import FileLock, Timeout

    place.chunk.unlink(missing_ok=True)
    if place.ahead.exists():
        with suppress(Timeout), FileLock(place.backfilling).acquire(timeout=0):
            shutil.rmtree(place.ahead, ignore_errors=True)


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
