"""One sync of a table: what the fetch gets, what it returns, and the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pendulum

from sources.convert.parquet import Converted
from sources.convert.spool import Spool
from sources.convert.types import Column
from sources.core.dates import Days
from sources.core.errors import NightloadError, Recovery
from sources.core.sql import quote
from sources.extract.table import Mode, Table

RESET = "reset"
"""In a table's state: it was reset, and the next walk is a full one. Gone with the first that loads."""
MOST_REASONS = 20
"""So many reasons of what one table missed are listed beside the first."""
PREVIEW = "preview"
"""The load id of rows that are only looked at."""


@dataclass(kw_only=True)
class Outcome:
    """What became of one table; the run completes it with what landed."""

    dataset: str
    table: str
    label: str
    mode: Mode
    about: str = ""
    load_id: str = ""
    vendor_count: int | None = None
    extracted: int | None = None
    digest: str = ""
    total: int | None = None
    complete: bool = False
    loaded: bool = False
    unchanged: bool = False
    deleted: int | None = None
    seconds: float = 0.0
    error: str | None = None
    recovery: Recovery | None = None
    count_differs: bool = False
    rebuild: bool = False
    exposed: bool = False
    """Its older rows hold personal data as it came, which the configuration now protects: none of them is put aside."""
    kept_out: int = 0
    came: int = 0
    """Rows that were handed to dlt; none where nothing changed."""
    filled: Mapping[str, int | None] = field(default_factory=dict)
    """Column → how many of them have a value in it; None: it is not loaded."""
    missed: NightloadError | None = None
    scope: str | None = None
    emptied: frozenset[str] = frozenset()
    on_loaded: Sequence[Callable[[int], None]] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Extra:
    """A column that is not the vendor's: an SQL expression over the row, and its type in dlt's words.

    The expression may be a function of the row's columns: label → quoted name.
    """

    sql: str | Callable[[Mapping[str, str]], str]
    data_type: str

    def over(self, columns: Sequence[Column]) -> str:
        if isinstance(self.sql, str):
            return self.sql
        return self.sql({column.label: quote(column.name) for column in columns})


@dataclass(kw_only=True)
class Walk:
    """One walk of one table: what the fetch is told, and what it says back.

    Told: `full` (ignore the cursor), `until` (the frozen upper edge), `state` (what the last good
    walk left; a change is kept only if the rows load), `limit` (enough rows for a preview), `stored`
    (the columns that the table has in the warehouse), `load_id` (of the rows that are about to come),
    `window` (load these days and no others, wherever the cursor stands: what the walk does to `state` is
    forgotten, but for what `remember`, called with the state as it is when the rows load, puts there).
    Says back: `vendor_count` of the rows asked for, `total` of all rows that the vendor has,
    `columns` where they are only known now, `open_columns` (rows may have labels beyond them),
    `extra` columns of our own, `complete` (was the table walked whole? if not said, its mode tells),
    `after` (called with the converted rows before their counts are judged, the spool still there; what it raises
    fails the walk, and a `CountMismatch` has the table walked again; of a preview it is not called),
    `anew` (these rows take the place of all that the table holds), `on_loaded` (called with the number
    of the vendor's rows once they are proven and handed over, or proven to be there; may change `state`), `unchanged`,
    `certain` (however few the rows are, there are no more), `table` (another mode of it for this time),
    `decided` (label → keep, hash or drop, where the fetch's own settings say it; `prefix` goes into those hashes),
    `counts_rows` (the vendor counts rows, of which some may repeat a key: each key is loaded once),
    `missed` (an error that fails the table, though what came is loaded; the state must lead back to
    what is missing), `emptied` (values of `Table.scope` whose rows are gone at the vendor's: deleted).
    """

    table: Table
    spool: Spool
    until: datetime
    full: bool
    state: dict[str, Any]
    limit: int | None = None
    stored: Sequence[Column] = ()
    load_id: str = PREVIEW
    window: Days | None = None
    remember: Callable[[dict[str, Any]], None] | None = None
    vendor_count: int | None = None
    total: int | None = None
    columns: Sequence[Column] | None = None
    open_columns: bool = False
    complete: bool | None = None
    after: Callable[[Converted], None] | None = None
    anew: bool = False
    certain: bool = False
    extra: Mapping[str, Extra] = field(default_factory=dict)
    on_loaded: Sequence[Callable[[int], None]] = ()
    notes: list[str] = field(default_factory=list)
    unchanged_rows: int | None = None
    counts_rows: bool = False
    missed: NightloadError | None = None
    emptied: frozenset[str] = frozenset()
    decided: Mapping[str, str] = field(default_factory=dict)
    prefix: str = field(default="", repr=False)

    def unchanged(self, rows: int) -> None:
        """There is nothing new to load: so many rows of the last time still stand."""
        self.unchanged_rows = rows

    def miss(self, errors: Sequence[NightloadError]) -> None:
        """Fail the table, though what came is loaded: with the first error, and each other reason as a note."""
        if errors:
            self.missed = errors[0]
            others = [reason for reason in dict.fromkeys(map(str, errors)) if reason != str(errors[0])]
            self.notes += others[:MOST_REASONS]
            if len(others) > MOST_REASONS:
                self.notes.append(f"{len(others) - MOST_REASONS} more reasons are not listed")

    @property
    def due_whole(self) -> bool:
        """Is it time to walk an incremental table whole, to see what was deleted?"""
        last = self.state.get("whole_at")
        return self.full or last is None or self.until - pendulum.parse(last) >= self.table.whole_every  # type: ignore[operator]


Fetch = Callable[[Walk], None]


def noting(fetch: Fetch, unmatched: Callable[[], Iterable[NightloadError]]) -> Fetch:
    """The fetch, with a note for names in the settings that match nothing at the vendor."""

    def noted(walk: Walk) -> None:
        fetch(walk)
        if walk.limit is None and walk.window is None:
            with suppress(NightloadError):  # a list that cannot be had fails the tables that need it
                walk.notes += map(str, unmatched())

    return noted


def reasons(told: Iterable[str]) -> str:
    """Each reason once, in one line."""
    each = list(dict.fromkeys(told))
    more = f"; {len(each) - MOST_REASONS} more" if len(each) > MOST_REASONS else ""
    return "; ".join(each[:MOST_REASONS]) + more
