"""A table as a vendor declares it, and its sync mode."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sources.convert.types import Column

FULL_WALK_EVERY = timedelta(days=7)


class Mode(StrEnum):
    """How a table is kept up to date."""

    FULL = "full"
    """Walked whole; merged on the key; a row that is gone is marked in `_deleted_at`."""
    INCREMENTAL = "incremental"
    """What changed since the cursor less a lookback, merged on the key; walked whole now and then."""
    LATEST = "latest"
    """The table is the vendor's newest answer and nothing else."""
    HISTORY = "history"
    """Walked whole; a changed row closes its former version (`valid_from`, `valid_to`)."""
    KEPT = "kept"
    """Merged on the key; nothing vanishes."""


MERGED = (Mode.FULL, Mode.INCREMENTAL, Mode.KEPT)
"""New rows take the place of those with the same key, or of the same scope."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table as the vendor defines it. `key` and `cursor` are the vendor's labels; a key may be an extra column too.

    `label` is the vendor's own name of the table. `dropped` lists labels that are never loaded
    (keys, personal data). `lookback` is how far before the cursor an incremental walk starts, and
    `whole_every` how often it is walked whole nevertheless. `walks` is how often the table is walked
    at most in one run when the vendor's rows move under the walk, so that the counts disagree.
    `scope`: of a KEPT table, the column whose values each load replaces; a key, if there is one, only
    proves the rows then. `zone`: the table is loaded by windows of days, which are days of this zone; such
    a table can be backfilled, and its fetch heeds `Walk.window`. `keeps`: what of its state tells of
    the rows that it has, and not of where the next walk goes on: a reset leaves it. `asks_vendor`: False if its
    fetch sends no request, so that a vendor out of reach does not fail it. `misfit`: what to do about
    a value that is not of its declared type; `{column}` is its label, and empty means to leave the table out.
    """

    name: str
    mode: Mode
    key: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    cursor: str | None = None
    lookback: timedelta = timedelta(days=1)
    whole_every: timedelta = FULL_WALK_EVERY
    walks: int = 1
    scope: str | None = None
    zone: str | None = None
    keeps: tuple[str, ...] = ()
    label: str = ""
    about: str = ""
    dropped: tuple[str, ...] = ()
    asks_vendor: bool = True
    misfit: str = ""
