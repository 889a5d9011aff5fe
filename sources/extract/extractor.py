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
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import dlt
import pendulum
from dlt.common.schema.typing import TColumnSchema
from dlt.extract import DltResource

from sources import naming
from sources.convert.inspect import filled, stray_columns
from sources.convert.parquet import Converted, to_parquet
from sources.convert.spool import Spool
from sources.convert.strict_cast import plain
from sources.convert.types import Column, clean, label_of
from sources.core.dates import Days
from sources.core.errors import (
    AccessDenied,
    ConfigurationError,
    CountMismatch,
    NightloadError,
    TypeFlip,
    Unreachable,
    of_duckdb,
    summarize,
)
from sources.extract.checks import compare_counts, guard_floor, reckon_total, refuse_flips
from sources.extract.dlt_hints import (
    at_least,
    columns_of,
    disposition_of,
    dlt_columns,
    extras_of,
    name_columns,
    table_hints,
)
from sources.extract.privacy import Protection
from sources.extract.sync import PREVIEW, RESET, Extra, Fetch, Outcome, Walk
from sources.extract.table import Mode, Table
from sources.http import cassette
from sources.privacy import policy
from sources.privacy.masking import screen
from sources.privacy.matching import Forgotten
from sources.privacy.policy import Policy, read_policy

log = logging.getLogger(__name__)


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
    states: dict[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Dataset → table → its state before this extraction; empty where the source runs in another's pipeline."""
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
        converted = self._to_parquet(walk, out=out, columns=columns, load_id=PREVIEW, where=name, extra=extra)
        dataset = name.partition(".")[0]
        policies = self._protection.policies(dataset, table, walk, converted.columns)
        return screen(
            converted,
            dataset=dataset,
            table=table.name,
            policies=policies,
            prefixes=self._protection.prefixes(walk, converted.columns),
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
        label, about = sought.masked(label_of(table.label or table.name)), sought.masked(clean(table.about))
        outcome = Outcome(dataset=dataset, table=name, label=label, mode=table.mode, about=about)
        self.outcomes[f"{dataset}.{name}"] = outcome
        started = time.monotonic()
        try:
            if self.stopped_by is not None and table.asks_vendor:
                raise self.stopped_by
            if self.on_progress:
                self.on_progress(f"{dataset}.{name}")
            state = dlt.current.resource_state(table.name)
            stored = schema.tables.get(name, {}).get("columns", {})
            with cassette.walking(f"{dataset}.{name}"):
                item, new_state = self._fetch(table, fetch, outcome, dict(state), stored)
            if item is not None:
                yield item
                outcome.loaded = True
            for record in outcome.on_loaded:
                record((outcome.extracted or 0) + outcome.kept_out)
            if new_state != state:
                state.clear()
                state.update(plain(new_state))
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
        error = of_duckdb(error, f"{outcome.dataset}.{outcome.table}") or error
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

    def _to_parquet(self, walk: Walk, **how: Any) -> Converted:
        """The spooled rows as parquet; of a value that is not of its declared type, the error says what helps."""
        try:
            return to_parquet(walk.spool, **how)
        except TypeFlip as flip:
            if flip.declared:
                leave_out = f'Leave the table out: exclude = ["{walk.table.name}"] under sources.{self.vendor}'
                todo = walk.table.misfit.replace("{column}", flip.column) or leave_out
                flip.todo = f"{todo}; a rebuild with --full fails in the same way"
            raise

    def _convert(
        self, walk: Walk, labelled: Sequence[Column], stored: Mapping[str, TColumnSchema], *, where: str, load_id: str
    ) -> tuple[Converted, tuple[str, ...], dict[str, Extra]]:
        """The spooled rows as parquet, with the names of the key's columns and the columns of our own."""
        columns = [at_least(column, stored) for column in name_columns(labelled, stored, taken=walk.extra)]
        names = {column.label: column.name for column in columns}
        key = tuple(names.get(label, label) for label in walk.table.key)
        extra = extras_of(walk, columns)
        converted = self._to_parquet(
            walk,
            out=self.spool_dir / f"{where}.parquet",
            columns=columns,
            load_id=load_id,
            where=where,
            key=key,
            newest_by=names.get(walk.table.cursor or ""),
            extra={name: each.over(columns) for name, each in extra.items()},
        )
        return converted, key, extra

    def _strays(self, walk: Walk, columns: Sequence[Column], rows: int) -> list[Column]:
        """What the rows have beyond the columns, without what is never loaded."""
        return [each for each in stray_columns(walk.spool, columns, rows) if each.label not in walk.table.dropped]

    @property
    def _protection(self) -> Protection:
        return Protection(policy=self.policy, forgotten=self.forgotten)

    def _meet(self, outcome: Outcome, walk: Walk, columns: Sequence[Column]) -> None:
        """Tell whoever records which columns the table has, and whether some of them are protected."""
        if cassette.recorder_of(self.vendor) is not None:
            told = [*self.policy.of(outcome.dataset, outcome.table, columns).values(), *walk.decided.values()]
            labels = [column.label for column in columns]
            protected = any(each != policy.KEEP for each in told)
            cassette.met(self.vendor, f"{outcome.dataset}.{outcome.table}", labels, protected=protected)

    def _fetch_once(
        self, table: Table, fetch: Fetch, outcome: Outcome, state: dict[str, Any], stored: Mapping[str, TColumnSchema]
    ) -> tuple[Any, dict[str, Any]]:
        where = f"{outcome.dataset}.{outcome.table}"
        if self.window is not None and table.zone is None:
            raise ValueError(f"{where} is not loaded by windows of days")
        full = bool({"*", where, f"{outcome.dataset}.*"} & self.full) or (RESET in state and self.window is None)
        exposed = self._protection.exposed(outcome.dataset, table, state, stored)
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
        walk.stored, walk.load_id = columns_of(known), load_id
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
            outcome.notes[:] = map(clean, walk.notes)  # of this walk only, not of one that the counts refused
            table, outcome.mode = walk.table, walk.table.mode
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
            if walk.open_columns and (strays := self._strays(walk, labelled, converted.rows)):
                labelled += strays
                converted, key, extra = self._convert(walk, labelled, known, where=where, load_id=load_id)
            self._meet(outcome, walk, converted.columns)
            if walk.after is not None:
                walk.after(converted)
                outcome.emptied = walk.emptied
        finally:
            spool.close()
            spool.path.unlink(missing_ok=True)
        came = converted
        screened = self._protection.screened(walk, converted, outcome, stored, key=key)
        converted, outcome.kept_out = screened.converted, screened.kept_out
        outcome.extracted, outcome.digest = converted.keys, converted.digest
        if walk.counts_rows and converted.repeats:
            outcome.vendor_count = None if walk.vendor_count is None else walk.vendor_count - converted.repeats
            outcome.notes.append(f"{converted.repeats} rows repeat a key; each is loaded once")
        compare_counts(outcome, where)
        reckon_total(outcome, walk, screened, complete=outcome.complete or walk.anew)
        refuse_flips(converted, stored, table=table, full=full, where=where)
        if outcome.complete or table.mode == Mode.LATEST:
            if not walk.certain:
                guard_floor(came.rows, state.get("rows"), where=where, allowed=self.allow_empty)
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
            columns=dlt_columns(converted.columns, table, key=key, extra=extra),
            write_disposition="replace" if walk.anew else disposition_of(table.mode, first=not stored),
            additional_table_hints=table_hints(table, outcome, until=self.until),
        )
        return dlt.mark.with_file_import(str(converted.path), "parquet", converted.rows, hints=hints), walk.state


class _BuildAnew(NightloadError):
    """A table must be dropped and built anew; the run does it."""
