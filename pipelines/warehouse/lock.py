"""The lock of a warehouse on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.config.permissions import state_folder
from pipelines.config.project import Place
from sources.core.errors import ConfigurationError, Locked, NoRoom, no_room

PATIENCE = 900.0
"""Seconds that a run waits for one chunk of a backfill to end."""


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
