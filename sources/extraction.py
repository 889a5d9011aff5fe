"""From a vendor's pages to dlt, one table at a time: all of it, proven, or nothing.

A vendor says what a table is (`Table`) and how its rows are fetched (a function of a `Walk`). The
rest is the same for all: spool, convert, compare the counts, leave out what did not change, guard
against an answer that would empty a table, hand the file to dlt. A table that fails yields no row
and says why in its `Outcome`; the others go on.

Cursors live in the state of the dlt resource, and are written only together with the rows that
they stand for.
"""

from __future__ import annotations

import logging
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import dlt
import pendulum
from dlt.common.schema.typing import TColumnSchema
from dlt.extract import DltResource

from sources import kept, naming, policy
from sources.columns import NUMERIC_ORDER, Column, Kind, join
from sources.contents import filled, stray_labels
from sources.days import Days
from sources.errors import (
    AccessDenied,
    ConfigurationError,
    CountMismatch,
    EmptyAnswer,
    NightloadError,
    Recovery,
    TypeFlip,
    Unreachable,
    summarize,
)
from sources.policy import Policy, read_policy
from sources.quoting import quote
from sources.screening import Screened, screen
from sources.spool import Spool
from sources.tables import Converted, to_parquet
from sources.terms import Forgotten

log = logging.getLogger(__name__)

DELETED_AT = "_deleted_at"
ROW_VERSION = "row_version"
VALID_FROM, VALID_TO = "valid_from", "valid_to"
FLOOR = 0.5
"""A full walk that brings less than this share of the last one is refused, like an empty one."""
FLOOR_FROM = 100
"""…but only for tables of at least so many rows: small tables do halve."""
FULL_WALK_EVERY = timedelta(days=7)
RESET = "reset"
"""In a table's state: it was reset, and the next walk is a full one. Gone with the first that loads."""
PREVIEW = "preview"
"""The load id of rows that are only looked at."""


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
    the rows that it has, and not of where the next walk goes on: a reset leaves it.
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
    of rows once they are proven and handed over), `unchanged`,
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

    @property
    def due_whole(self) -> bool:
        """Is it time to walk an incremental table whole, to see what was deleted?"""
        last = self.state.get("whole_at")
        return self.full or last is None or self.until - pendulum.parse(last) >= self.table.whole_every  # type: ignore[operator]


Fetch = Callable[[Walk], None]


@dataclass(kw_only=True)
class Extraction:
    """One run of one vendor: where it spools, what it was told, what came of it.

    `full` and `allow_empty` hold `dataset.table` names, or `*`. `tables` limits the walk likewise. `window`: these days
    are loaded and no others, and the cursors stay where they are.
    """

    vendor: str
    spool_dir: Path
    until: datetime
    full: frozenset[str] = frozenset()
    allow_empty: frozenset[str] = frozenset()
    tables: frozenset[str] | None = None
    window: Days | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    on_progress: Callable[[str], None] | None = None
    stopped_by: NightloadError | None = None
    raises: bool = False
    """Should a table's failure end the extraction? A run goes on with the others and tells."""
    policy: Policy = field(default_factory=Policy)
    forgotten: Forgotten = field(default_factory=Forgotten)
    rebuilds: bool = False
    """May tables that are walked in full be dropped and built anew, where older rows hold what is protected now?"""
    known: Mapping[str, Mapping[str, TColumnSchema]] | None = None
    """In a replay: `dataset.table` → the columns that it had when the run began, which decide names and types."""
    _fetches: dict[str, tuple[Table, Fetch]] = field(default_factory=dict)
    _ahead: dict[str, Walk] = field(default_factory=dict)

    @classmethod
    def standalone(cls, vendor: str) -> Extraction:
        """For a source that is used in a dlt pipeline of one's own."""
        folder = tempfile.TemporaryDirectory(prefix="nightload-")
        extraction = cls(
            vendor=vendor, spool_dir=Path(folder.name), until=pendulum.now("UTC"), raises=True, policy=read_policy()
        )
        weakref.finalize(extraction, folder.cleanup)
        return extraction

    def wants(self, dataset: str, table: str) -> bool:
        return self.tables is None or f"{dataset}.{table}" in self.tables or f"{dataset}.*" in self.tables

    def wants_any_of(self, dataset: str) -> bool:
        return self.tables is None or any(name.startswith(f"{dataset}.") for name in self.tables)

    def resource(self, dataset: str, table: Table, fetch: Fetch) -> DltResource:
        """The dlt resource that walks one table."""

        def walk() -> Iterator[Any]:
            yield from self._walk(dataset, table, fetch)

        self._fetches[f"{dataset}.{table.name}"] = table, fetch
        # "append" with no row does nothing; the disposition that counts comes with the rows
        return dlt.resource(
            walk,
            name=table.name,
            write_disposition="append",
            file_format="parquet",
            schema_contract={"tables": "evolve", "columns": "evolve", "data_type": "freeze"},
        )

    def knows(self, name: str) -> bool:
        """Was a resource made for this `dataset.table`?"""
        return name in self._fetches

    def table(self, name: str) -> Table:
        """The table of a resource that was made."""
        return self._fetches[name][0]

    def fetch_ahead(self, name: str, state: Mapping[str, Any]) -> None:
        """Fetch the window of one table now, outside any pipeline; its resource then has nothing left to ask."""
        table, fetch = self._fetches[name]
        walk = Walk(
            table=table,
            spool=Spool(self.spool_dir / f"{name}.json"),
            until=self.until,
            full=False,
            state=deepcopy(dict(state)),
            window=self.window,
        )
        try:
            fetch(walk)
        except BaseException:
            walk.spool.close()
            raise
        self._ahead[name] = walk

    def preview(self, name: str, *, limit: int) -> Converted:
        """Some rows of one table whose resource was made, with no state read or written."""
        table, fetch = self._fetches[name]
        walk = Walk(
            table=table,
            spool=Spool(self.spool_dir / f"{name}.json"),
            until=self.until,
            full=True,
            state={},
            limit=limit,
        )
        fetch(walk)
        if not (walk.columns if walk.columns is not None else table.columns):
            return Converted(path=walk.spool.path, columns=(), rows=0, keys=0, digest="")
        columns = name_columns(walk.columns if walk.columns is not None else table.columns, {}, taken=walk.extra)
        out = self.spool_dir / f"{name}.parquet"
        extra = {label: each.over(columns) for label, each in walk.extra.items()}
        converted = to_parquet(walk.spool, out=out, columns=columns, load_id=PREVIEW, where=name, extra=extra)
        dataset = name.partition(".")[0]
        policies = self._policies(dataset, table, walk, converted.columns)
        return screen(
            converted,
            dataset=dataset,
            table=table.name,
            policies=policies,
            prefixes=self._prefixes(walk, converted.columns),
            forgotten=self.forgotten,
        ).converted

    def _walk(self, dataset: str, table: Table, fetch: Fetch) -> Iterator[Any]:
        schema = dlt.current.source_schema()
        if schema.naming.name() != naming.__name__:
            raise ConfigurationError(
                what="this pipeline would lose names",
                why=f"its naming convention is {schema.naming.name()}",
                todo=f"Set SCHEMA__NAMING={naming.__name__} in the environment, or schema.naming in .dlt/config.toml",
            )
        name = schema.naming.normalize_table_identifier(table.name)
        sought = self.forgotten.sought(f"{dataset}.{name}", "", "")
        label, about = sought.masked(table.label or table.name), sought.masked(table.about)
        outcome = Outcome(dataset=dataset, table=name, label=label, mode=table.mode, about=about)
        self.outcomes[f"{dataset}.{name}"] = outcome
        started = time.monotonic()
        try:
            if self.stopped_by is not None:
                raise self.stopped_by
            if self.on_progress:
                self.on_progress(f"{dataset}.{name}")
            state = dlt.current.resource_state(table.name)
            stored = schema.tables.get(name, {}).get("columns", {})
            with kept.walking(f"{dataset}.{name}"):
                item, new_state = self._fetch(table, fetch, outcome, dict(state), stored)
            if item is not None:
                yield item
                outcome.loaded = True
                for tell in outcome.on_loaded:
                    tell(outcome.extracted or 0)
            if new_state != state:
                state.clear()
                state.update(new_state)
            if outcome.missed is not None:
                self._failed(outcome, outcome.missed, came=True)
        except Exception as error:
            log.debug("%s.%s failed", dataset, name, exc_info=True)
            self._failed(outcome, error)
            if self.raises:
                raise
        finally:
            outcome.seconds = time.monotonic() - started

    def _failed(self, outcome: Outcome, error: Exception, *, came: bool = False) -> None:
        """`came`: rows are loaded nevertheless, and the counts are theirs."""
        outcome.error = summarize(error)
        outcome.recovery = getattr(error, "recovery", None)
        if isinstance(error, CountMismatch):
            outcome.count_differs = True
            if not came:
                outcome.vendor_count = error.counts.get("vendor", outcome.vendor_count)
                outcome.extracted = error.counts.get("extracted", outcome.extracted)
        outcome.rebuild = isinstance(error, _BuildAnew) or (isinstance(error, TypeFlip) and error.widens)
        outcome.exposed = isinstance(error, _BuildAnew)
        if isinstance(error, AccessDenied | Unreachable):
            self.stopped_by = self.stopped_by or error
        log.info("%s.%s: %s", outcome.dataset, outcome.table, outcome.error)

    def _fetch(
        self, table: Table, fetch: Fetch, outcome: Outcome, state: dict[str, Any], stored: Mapping[str, TColumnSchema]
    ) -> tuple[Any, dict[str, Any]]:
        """Walk until the counts agree, at most `table.walks` times."""
        for _ in range(table.walks - 1):
            try:
                return self._fetch_once(table, fetch, outcome, dict(state), stored)
            except CountMismatch as mismatch:
                log.info("%s.%s is walked again: %s", outcome.dataset, outcome.table, mismatch)
        return self._fetch_once(table, fetch, outcome, dict(state), stored)

    def _convert(
        self, walk: Walk, labelled: Sequence[Column], stored: Mapping[str, TColumnSchema], *, where: str, load_id: str
    ) -> tuple[Converted, tuple[str, ...], dict[str, Extra]]:
        """The spooled rows as parquet, with the names of the key's columns and the columns of our own."""
        columns = [_at_least(column, stored) for column in name_columns(labelled, stored, taken=walk.extra)]
        names = {column.label: column.name for column in columns}
        key = tuple(names.get(label, label) for label in walk.table.key)
        extra = _extras(walk, columns)
        converted = to_parquet(
            walk.spool,
            out=self.spool_dir / f"{where}.parquet",
            columns=columns,
            load_id=load_id,
            where=where,
            key=key,
            newest_by=names.get(walk.table.cursor or ""),
            extra={name: each.over(columns) for name, each in extra.items()},
        )
        return converted, key, extra

    def _policies(self, dataset: str, table: Table, walk: Walk, columns: Sequence[Column]) -> dict[str, str]:
        """Column → `hash` or `drop`. Raises `ConfigurationError` for what the table cannot do without."""
        name = naming.identifier_for(table.name)
        known = {each for column in (*columns, *walk.stored) for each in (column.label, column.name)}
        if columns:
            self.policy.refuse_unknown(dataset, name, known | set(table.dropped))
        found = self.policy.of(dataset, name, [column for column in columns if column.label not in walk.decided])
        told_by_fetch = {column.name: walk.decided.get(column.label, policy.KEEP) for column in columns}
        found |= {column: told for column, told in told_by_fetch.items() if told != policy.KEEP}
        for column in columns:
            told = found.get(column.name)
            steering = column.label in (table.cursor, table.scope) or column.name == table.scope
            by_name = self.policy.named(dataset, name, column.label, column.name)
            if told and steering and by_name:
                raise _cannot(dataset, name, column, told, "what is loaded next is told by it")
            if told == policy.DROP and column.label in table.key:
                if by_name:
                    raise _cannot(dataset, name, column, told, "rows are told apart by it; it can be hashed")
                found[column.name] = policy.HASH if self.policy.prefix else policy.KEEP
                if not self.policy.prefix:
                    raise _cannot(dataset, name, column, told, "rows are told apart by it; with a salt it is hashed")
            elif told and steering:
                found.pop(column.name)
        return found

    def _prefixes(self, walk: Walk, columns: Sequence[Column]) -> dict[str, str]:
        """What goes before a value into its hash, column by column."""
        return {column.name: walk.prefix if column.label in walk.decided else self.policy.prefix for column in columns}

    def _meet(self, outcome: Outcome, walk: Walk, columns: Sequence[Column]) -> None:
        """Tell whoever records which columns the table has, and whether some of them are protected."""
        if kept.recorder_of(self.vendor) is not None:
            told = [*self.policy.of(outcome.dataset, outcome.table, columns).values(), *walk.decided.values()]
            labels = [column.label for column in columns]
            protected = any(each != policy.KEEP for each in told)
            kept.met(self.vendor, f"{outcome.dataset}.{outcome.table}", labels, protected=protected)

    def _exposed(
        self, dataset: str, table: Table, state: dict[str, Any], stored: Mapping[str, TColumnSchema]
    ) -> list[str]:
        """Labels of columns that are to be hashed or dropped, and that older rows may hold as they came."""
        columns = _columns_of(stored)
        now = self._told(dataset, table, columns)
        before: Mapping[str, str] = state.get("protected", {})
        steering = {table.cursor, table.scope}
        exposed = {
            column.label
            for column in columns
            if column.name in now
            and now[column.name] != before.get(column.name)
            and not {column.label, column.name} & steering
        }
        return sorted(exposed)

    def _told(self, dataset: str, table: Table, columns: Sequence[Column]) -> dict[str, str]:
        return self._marks(self.policy.of(dataset, naming.identifier_for(table.name), columns))

    def _marks(self, policies: Mapping[str, str]) -> dict[str, str]:
        """What the state says of a protected column: under another salt, a hash is another one."""
        return {
            name: f"{each}:{self.policy.fingerprint}" if each == policy.HASH else each
            for name, each in policies.items()
        }

    def _screened(
        self,
        walk: Walk,
        converted: Converted,
        outcome: Outcome,
        stored: Mapping[str, TColumnSchema],
        *,
        key: Sequence[str],
    ) -> Screened:
        """The rows as they may land; the state says how their columns are protected."""
        policies = self._policies(outcome.dataset, walk.table, walk, converted.columns)
        for column in converted.columns:
            was = stored.get(column.name, {}).get("data_type")
            if (
                policies.get(column.name) == policy.HASH
                and was not in (None, "text")
                and walk.table.mode != Mode.LATEST
            ):
                raise ConfigurationError(
                    what=f"column {column.label} of {outcome.dataset}.{outcome.table} is to be hashed and is {was}",
                    todo="Build the table anew (deleted rows and old versions, which only it has, are given up): "
                    f"nightload run --full --table {outcome.dataset}.{outcome.table}",
                )
        landing = [column for column in converted.columns if policies.get(column.name) != policy.DROP]
        screened = screen(
            converted,
            dataset=outcome.dataset,
            table=outcome.table,
            policies=policies,
            prefixes=self._prefixes(walk, converted.columns),
            forgotten=self.forgotten,
            key=key,
            scope=walk.table.scope,
            version=_version_of(landing) if walk.table.mode == Mode.HISTORY else None,
        )
        fresh = not stored or walk.table.mode == Mode.LATEST or walk.anew
        protected = {} if fresh else dict(walk.state.get("protected", {}))
        decided = [column for column in converted.columns if column.label in walk.decided]
        settled = self._told(outcome.dataset, walk.table, decided)
        news = {name: told for name, told in self._marks(policies).items() if fresh or name not in stored}
        walk.state["protected"] = protected | news | settled
        if not walk.state["protected"]:
            del walk.state["protected"]
        if screened.blanked:
            outcome.notes.append(f"{screened.blanked} values of forgotten people were blanked")
        return screened

    def _fetch_once(
        self, table: Table, fetch: Fetch, outcome: Outcome, state: dict[str, Any], stored: Mapping[str, TColumnSchema]
    ) -> tuple[Any, dict[str, Any]]:
        where = f"{outcome.dataset}.{outcome.table}"
        if self.window is not None and table.zone is None:
            raise ValueError(f"{where} is not loaded by windows of days")
        full = bool({"*", where, f"{outcome.dataset}.*"} & self.full) or (RESET in state and self.window is None)
        exposed = self._exposed(outcome.dataset, table, state, stored)
        if exposed and full and self.rebuilds and table.mode != Mode.LATEST:
            raise _BuildAnew(what=f"{where} is built anew, since {', '.join(exposed)} may not be kept as it came")
        full = full or bool(exposed and table.mode == Mode.LATEST)
        load_id = outcome.load_id = dlt.current.load_package_state()["load_id"]
        ahead = self._ahead.pop(f"{outcome.dataset}.{table.name}", None)
        spool = ahead.spool if ahead else Spool(self.spool_dir / f"{outcome.dataset}.{outcome.table}.json")
        known = stored if self.known is None else self.known.get(where, {})
        walk = ahead or Walk(
            table=table,
            spool=spool,
            until=self.until,
            full=full,
            state=state if self.window is None else deepcopy(state),
            window=self.window,
        )
        walk.stored, walk.load_id = _columns_of(known), load_id
        if walk.stored:
            self._meet(outcome, walk, walk.stored)
        try:
            if ahead is None:
                fetch(walk)
            if self.window is not None:
                walk.state = dict(state)
                if walk.remember is not None:
                    walk.remember(walk.state)
            else:
                walk.state.pop(RESET, None)
            outcome.notes[:] = walk.notes  # of this walk only, not of one that the counts refused
            outcome.total, outcome.vendor_count = walk.total, walk.vendor_count
            outcome.missed, outcome.scope, outcome.emptied = walk.missed, table.scope, walk.emptied
            outcome.on_loaded = walk.on_loaded
            by_mode = table.mode in (Mode.FULL, Mode.HISTORY)
            outcome.complete = by_mode if walk.complete is None else walk.complete
            if exposed and not walk.decided and table.mode != Mode.LATEST:
                outcome.notes.append(
                    f"rows that were loaded before hold {', '.join(exposed)} as it came; built anew they do not "
                    "(deleted rows and old versions, which only this table has, are given up): "
                    f"nightload run --full --table {where}"
                )
            if walk.unchanged_rows is not None:
                outcome.unchanged, outcome.extracted = True, walk.unchanged_rows
                return None, walk.state
            labelled = list(walk.columns if walk.columns is not None else table.columns)
            converted, key, extra = self._convert(walk, labelled, known, where=where, load_id=load_id)
            if walk.open_columns and (strays := stray_labels(spool, labelled, converted.rows)):
                labelled += [Column(label=label, declared=False) for label in strays]
                converted, key, extra = self._convert(walk, labelled, known, where=where, load_id=load_id)
            self._meet(outcome, walk, converted.columns)
            if walk.after is not None:
                walk.after(converted)
                outcome.emptied = walk.emptied
        finally:
            spool.close()
            spool.path.unlink(missing_ok=True)
        came = converted
        screened = self._screened(walk, converted, outcome, stored, key=key)
        converted, outcome.kept_out = screened.converted, screened.kept_out
        outcome.extracted, outcome.digest = converted.keys, converted.digest
        if walk.counts_rows and converted.repeats:
            outcome.vendor_count = None if walk.vendor_count is None else walk.vendor_count - converted.repeats
            outcome.notes.append(f"{converted.repeats} rows repeat a key; each is loaded once")
        _compare(outcome, where)
        _reckon_total(outcome, walk, screened, complete=outcome.complete or walk.anew)
        _refuse_flips(converted, stored, table=table, full=full, where=where)
        if outcome.complete or table.mode == Mode.LATEST:
            if not {"*", where} & self.allow_empty:
                _guard(came.rows, state.get("rows"), where=where)
            before = state.get("digest")
            walk.state["rows"] = converted.rows
            walk.state["digest"] = converted.digest
            walk.state.pop("window", None)
            if table.mode == Mode.INCREMENTAL:
                walk.state["whole_at"] = self.until.isoformat()
            # not where each load is told of elsewhere: there the same rows under a new id are news
            if stored and before == converted.digest and not full and not walk.on_loaded:
                outcome.unchanged = True
                return None, walk.state
        elif stored and (converted.rows == 0 or (not self.window and state.get("window") == converted.digest)):
            # a quiet table: the lookback brings the rows that were loaded the last time
            outcome.unchanged = True
            return None, walk.state
        elif self.window is not None:
            walk.state.pop("window", None)  # these rows may take the place of those that it stands for
            walk.state.pop("digest", None)
        else:
            walk.state["window"] = converted.digest
            walk.state.pop("digest", None)  # it stood for the last whole walk, and the table moves on from there
        if self.window is None:  # what days of the past lack says nothing of today
            withheld: dict[str, int | None] = dict.fromkeys(column.name for column in came.columns)
            outcome.came, outcome.filled = converted.rows, withheld | filled(converted)
        hints = dlt.mark.make_hints(
            columns=_dlt_columns(converted.columns, table, key=key, extra=extra),
            write_disposition="replace" if walk.anew else _disposition(table.mode, first=not stored),
            additional_table_hints=_table_hints(table, outcome, until=self.until),
        )
        return dlt.mark.with_file_import(str(converted.path), "parquet", converted.rows, hints=hints), walk.state


def _extras(walk: Walk, columns: Sequence[Column]) -> dict[str, Extra]:
    """The columns that are not the vendor's: the fetch's own, and what the mode needs."""
    extra = dict(walk.extra)
    if walk.table.mode in (Mode.FULL, Mode.INCREMENTAL):
        extra[DELETED_AT] = Extra("NULL::TIMESTAMPTZ", "timestamp")
    if walk.table.mode == Mode.HISTORY:
        extra[ROW_VERSION] = Extra(_version_of(columns), "text")
    return extra


def name_columns(
    columns: Sequence[Column], stored: Mapping[str, TColumnSchema], *, taken: Iterable[str] = ()
) -> list[Column]:
    """Give each column its name; a label keeps the column that it has in the warehouse; `taken` are ours."""
    known = {str(hints["x-label"]): name for name, hints in stored.items() if "x-label" in hints}  # type: ignore[typeddict-item]
    labels = [column.label for column in columns]
    named = naming.columns_for(labels, known=known, reserved=naming.RESERVED.union(taken))
    return [replace(column, name=named[column.label]) for column in columns]


def _columns_of(stored: Mapping[str, TColumnSchema]) -> tuple[Column, ...]:
    """The vendor's columns of a table in the warehouse."""
    found: Iterable[tuple[str, Mapping[str, Any]]] = stored.items()
    return tuple(
        Column(label=hints["x-label"], name=name, kind=Kind(hints["data_type"]), scale=hints.get("scale") or 0)
        for name, hints in found
        if "x-label" in hints and hints.get("data_type")
    )


def _at_least(column: Column, stored: Mapping[str, TColumnSchema]) -> Column:
    """An undeclared column is not narrower than it is in the warehouse: 5 stays text where ids were text."""
    hints = stored.get(column.name)
    if (column.declared and column.kind is not None) or hints is None or hints.get("data_type") is None:
        return column
    kind = Kind(str(hints["data_type"]))
    if kind not in (*NUMERIC_ORDER, Kind.TEXT, Kind.JSON):
        return column
    joined = join(column.kind, kind) if column.kind else kind
    return replace(column, kind=joined, declared=False, scale=hints.get("scale") or 0)


def _refuse_flips(
    converted: Converted, stored: Mapping[str, TColumnSchema], *, table: Table, full: bool, where: str
) -> None:
    """A column keeps its type, unless its table can be built anew: a latest answer that widens, or --full."""
    for column in converted.columns:
        was = stored.get(column.name, {}).get("data_type")
        if was is None or was == column.kind:
            continue
        numeric = was in NUMERIC_ORDER and column.kind in NUMERIC_ORDER
        raise TypeFlip(
            table=where,
            column=column.label,
            known=was,
            arrived=str(column.kind),
            widens=full or (table.mode == Mode.LATEST and numeric),
        )


class _BuildAnew(NightloadError):
    """A table must be dropped and built anew; the run does it."""


def _cannot(dataset: str, table: str, column: Column, told: str, why: str) -> ConfigurationError:
    what = f"column {column.label} of {dataset}.{table} cannot be {'hashed' if told == policy.HASH else 'dropped'}"
    return ConfigurationError(
        what=what, why=why, todo=f'Write "{dataset}.{table}.{column.label}" = "keep" under [personal]'
    )


def _reckon_total(outcome: Outcome, walk: Walk, screened: Screened, *, complete: bool) -> None:
    """The vendor's total less the rows of forgotten people: those of this walk, and those of earlier ones."""
    known = [] if complete else [each for each in walk.state.get("kept_out", ()) if each[0] not in screened.scopes]
    kept = {(scope, key) for scope, key in (*known, *screened.keys)}
    walk.state.pop("kept_out", None)
    if kept and (outcome.total is not None or walk.window is not None):
        walk.state["kept_out"] = sorted([scope, key] for scope, key in kept)
    if outcome.total is not None:
        outcome.total -= len(kept)


def _compare(outcome: Outcome, where: str) -> None:
    if outcome.vendor_count is not None and outcome.vendor_count != (outcome.extracted or 0) + outcome.kept_out:
        raise CountMismatch(
            table=where,
            counts={"vendor": outcome.vendor_count, "extracted": outcome.extracted or 0},
            todo="Run again; if it stays, compare the vendor's list with its own count",
        )


def _guard(rows: int, before: int | None, *, where: str) -> None:
    if not before or rows >= before * FLOOR or (rows and before < FLOOR_FROM):
        return
    raise EmptyAnswer(
        table=where,
        had=before,
        what=f"{rows or 'no'} rows came for table {where}, which had {before}",
        why="the vendor or its key may have lost sight of them",
        todo=f"Nothing was changed. If the vendor is right: nightload run --allow-empty {where}",
    )


def _disposition(mode: Mode, *, first: bool) -> Literal["replace", "append", "merge"]:
    if mode == Mode.LATEST:
        return "replace"
    # nothing to merge with: spares the staging table and the delete
    return "append" if first and mode != Mode.HISTORY else "merge"


def _table_hints(table: Table, outcome: Outcome, *, until: datetime) -> dict[str, Any]:
    hints: dict[str, Any] = {"x-label": outcome.label}
    if table.mode == Mode.HISTORY:
        # dlt's own way to say it, {"strategy": "scd2"}, forgets the type of the version column
        hints |= {"x-merge-strategy": "scd2", "x-boundary-timestamp": until.isoformat()}
    return hints


def _version_of(columns: Sequence[Column]) -> str:
    names = ", ".join(quote(column.name) for column in columns)
    return f"md5(row({names})::VARCHAR)"


def _dlt_columns(
    columns: Sequence[Column], table: Table, *, key: Sequence[str], extra: Mapping[str, Extra]
) -> dict[str, TColumnSchema]:
    hints: dict[str, Any] = {}
    for column in columns:
        hint: dict[str, Any] = {"name": column.name, "data_type": str(column.kind), "x-label": column.label}
        if column.kind == Kind.DECIMAL:
            hint |= {"precision": 38, "scale": column.scale}
        if column.name in key and not table.scope:
            # of a scope and a key dlt deletes by one OR the other, which no hash join can serve
            # not "nullable": False, which to_parquet has proven and DuckDB cannot write into the file: dlt would
            # rewrite it in Python
            hint["primary_key"] = True
        hints[column.name] = hint
    for name, each in extra.items():
        hints[name] = {"name": name, "data_type": each.data_type}
        if name in key and not table.scope:
            hints[name] |= {"primary_key": True, "nullable": False}
    if table.mode == Mode.HISTORY:
        hints[ROW_VERSION] |= {"x-row-version": True, "nullable": False}
        for name, role in ((VALID_FROM, "x-valid-from"), (VALID_TO, "x-valid-to")):
            hints[name] = {"name": name, "data_type": "timestamp", "nullable": True, role: True}
        hints[VALID_TO]["x-active-record-timestamp"] = None
    if table.scope:
        hints[table.scope] |= {"merge_key": True}
    hints["_dlt_load_id"] = {"name": "_dlt_load_id", "data_type": "text", "nullable": False}
    return hints
