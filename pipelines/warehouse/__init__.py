"""The only place that knows destinations: a DuckDB file that is built and swapped in, or a Postgres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.place import OWN_DATASET, Place
from pipelines.private import state_folder
from pipelines.warehouse.session import Locked, Session, Warehouse, WarehouseBusy, WarehouseRefused, quote
from sources.errors import ConfigurationError

__all__ = [
    "OWN_DATASET",
    "Locked",
    "Session",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseRefused",
    "lock",
    "open_warehouse",
    "quote",
]


@contextmanager
def open_warehouse(place: Place, *, datasets: Sequence[str]) -> Iterator[Warehouse]:
    """The warehouse of a place, for the one who holds its lock.

    Raises `ConfigurationError` if it cannot be used, `Locked` if a run on another machine has it.
    """
    if place.postgres is None:
        from pipelines.warehouse.duckdb_file import DuckDbFile

        warehouse = DuckDbFile(place, datasets=datasets)
        try:
            yield warehouse
        finally:
            warehouse.discard()
    else:
        from pipelines.warehouse.postgres import Postgres

        database = Postgres(place.postgres, shown=place.shown)
        try:
            yield database
        finally:
            database.close()


@contextmanager
def lock(place: Place) -> Iterator[None]:
    """The one lock of a warehouse on this machine, freed by the system when the holder dies. Raises `Locked`."""
    from filelock import FileLock, Timeout  # readers need no lock, and are quicker without it

    try:
        state_folder(place.state)
        held = FileLock(place.lock)
        held.acquire(timeout=0)
    except Timeout:
        raise Locked(
            what="another run has this warehouse", where=place.shown, todo="Wait for it to end, then run again"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            what=f"the folder {place.state} cannot be written",
            why=error.strerror or "",
            todo="Give the warehouse a folder that this user may write, with --warehouse or NIGHTLOAD_WAREHOUSE",
        ) from None
    try:
        yield
    finally:
        held.release()
