"""What is remembered between two nights: cursors, windows, digests, settings that were found out; shown and forgotten.

It is dlt's state of each dataset, and stands in the warehouse beside the rows; so what is done to it here is published
as a night is, at once or not at all.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dlt.common.versioned_state import decompress_state

from pipelines import __version__
from pipelines.catalog.system_tables import adopt, publish
from pipelines.config.project import OWN_DATASET, Place
from pipelines.ledger.store import Ledger, user
from pipelines.run.dlt_state import pipeline_of
from pipelines.run.recovery import close_crashed
from pipelines.run.request import refuse_unknown_table, vendor_of
from pipelines.warehouse.base import Session, Warehouse
from pipelines.warehouse.lock import lock
from pipelines.warehouse.open import open_reader, open_warehouse
from pipelines.warehouse.reader import Reader
from sources import VENDORS
from sources.core.errors import ConfigurationError
from sources.core.sql import quote
from sources.extract.connector import package
from sources.extract.sync import RESET
from sources.extract.table import Table

STATES = "_dlt_pipeline_state"
OF_ROWS = ("rows", "protected", "kept_out", "manner", "sets", "records", "text")
"""What a table's state tells of the rows that it has: how many came last, how they are protected, who is left out,
whether results are kept, with which parameters and from which text they are. A reset leaves it."""

States = Mapping[str, Mapping[str, Any]]
"""Table → what is remembered of it."""


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What is remembered of one table; `forgets` is the part of it that a reset forgets."""

    vendor: str
    dataset: str
    table: str
    state: Mapping[str, Any]
    forgets: Mapping[str, Any]
    loaded_at: str | None = None
    """When rows of it came last: so old are its digests."""

    @property
    def name(self) -> str:
        return f"{self.dataset}.{self.table}"

    def as_json(self) -> dict[str, Any]:
        return {"table": self.name, "vendor": self.vendor, "loaded_at": self.loaded_at, "state": dict(self.state)}

    @property
    def lines(self) -> list[str]:
        """For people: each thing that is remembered, long ones by their size."""
        return [f"{name}: {in_words(value)}" for name, value in sorted(self.state.items())]


def in_words(value: Any) -> str:
    """A remembered value in one short line."""
    if isinstance(value, Mapping):
        keys = sorted(map(str, value))
        told = f"{keys[0]} … {keys[-1]}" if len(keys) > 1 else keys[0] if keys else ""
        text = json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= 60 else f"{len(keys)} ({told})"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"


def show(place: Place, name: str | None) -> list[Remembered]:
    """What is remembered of a vendor, a dataset, a table, or all. Raises `ConfigurationError` for any other name."""
    wanted = datasets_of(name)
    with open_reader(place) as reader, reader.one_state():
        found = [each for dataset, tables in wanted.items() for each in _remembered(reader, dataset, tables)]
    if not found and name:
        refuse_unknown(name)
        raise ConfigurationError(
            what=f"nothing is remembered of {name}",
            where=place.shown,
            todo="It is loaded anew by the next night anyway",
        )
    return found


def reset(place: Place, name: str, *, agrees: Callable[[list[Remembered]], bool]) -> list[Remembered] | None:
    """Forget the cursors, so that the next night loads anew; rows stay. None, if what is found is not agreed to.

    Raises `Locked` when a run has the warehouse, `ConfigurationError` if nothing is remembered.
    """
    wanted = datasets_of(name)
    with tending(place) as (warehouse, ledger):
        with warehouse.write() as session:
            found = [each for dataset, tables in wanted.items() for each in _remembered(session, dataset, tables)]
            found = [each for each in found if each.forgets]
        if not found:
            refuse_unknown(name)
            raise ConfigurationError(
                what=f"of {name} there is nothing to forget", where=place.shown, todo="Nothing was changed"
            )
        if not agrees(found):
            return None
        with warehouse.write() as session:
            counts = {each.name: _rows(session, each.dataset, each.table) for each in found}
        for dataset in dict.fromkeys(each.dataset for each in found):
            _rewrite(place, warehouse, dataset, {each.table: each.forgets for each in found if each.dataset == dataset})
        with ledger.at_once():
            for each in found:
                told = {name: in_words(value) for name, value in each.forgets.items()}
                record(ledger, "reset", each.vendor, each.name, rows=counts[each.name], forgot=told)
            publish(warehouse, ledger)
    return found


def states_of(database: Reader | Session, dataset: str) -> States:
    """What is remembered of each table of a dataset."""
    if STATES not in database.tables(dataset):
        return {}
    rows = database.query(
        f"SELECT state FROM {quote(dataset, STATES)} WHERE pipeline_name = ? "  # noqa: S608
        "ORDER BY version DESC, created_at DESC LIMIT 1",
        [dataset],
    )
    sources = decompress_state(rows[0][0]).get("sources", {}) if rows else {}
    resources: States = sources.get(dataset, {}).get("resources", {})
    return resources


def datasets_of(name: str | None) -> dict[str, frozenset[str] | None]:
    """The datasets that a name (of a vendor, a dataset, a table) means, and the tables in it; None: all of them."""
    if name is None:
        return {dataset: None for vendor in VENDORS for dataset in package(vendor).tables()}
    if "." in name:
        refuse_unknown_table(name, gone=True)
        dataset, _, table = name.partition(".")
        return {dataset: frozenset({table})}
    if name in VENDORS:
        return dict.fromkeys(package(name).tables())
    known = [dataset for vendor in VENDORS for dataset in package(vendor).tables()]
    if name in known:
        return {name: None}
    raise ConfigurationError(
        what=f"there is no vendor or table {name}",
        todo=f"Write VENDOR or DATASET.TABLE; there are {', '.join(sorted({*VENDORS, *known}))}",
    )


def refuse_unknown(name: str) -> None:
    """Raise `ConfigurationError` if a name of which nothing was found is the name of nothing."""
    if "." in name:
        refuse_unknown_table(name)


@contextmanager
def tending(place: Place) -> Iterator[tuple[Warehouse, Ledger]]:
    """The warehouse, ready to be written, for what a person does to it between two nights. Raises `Locked`."""
    datasets = [name for vendor in VENDORS for name in package(vendor).tables()]
    if place.postgres is None and not place.warehouse.exists():
        raise ConfigurationError(
            what="there is no warehouse yet",
            where=place.shown,
            todo="Load one with: nightload run, or name another one",
        )
    with lock(place):
        ledger = Ledger(place.ledger)
        try:
            with open_warehouse(place, datasets=datasets) as warehouse:  # none of another machine's is under way now
                if ledger.is_new():
                    with open_reader(place) as reader:
                        adopt(ledger, reader)
                close_crashed(place, ledger)
                warehouse.begin()
                yield warehouse, ledger
        finally:
            ledger.close()
            shutil.rmtree(place.work, ignore_errors=True)


def record(ledger: Ledger, action: str, vendor: str, name: str, *, rows: int | None, forgot: Mapping[str, Any]) -> None:
    """What a person did to a table, for `nightload.interventions`."""
    dataset, _, table = name.partition(".")
    at = datetime.now(UTC)
    ledger.put(
        "interventions",
        {
            "intervention_id": f"{action} {at:%Y%m%dT%H%M%S%f} {name}",
            "done_at": at.isoformat(timespec="milliseconds"),
            "action": action,
            "vendor": vendor,
            "dataset": dataset,
            "table_name": table,
            "rows": rows,
            "forgot": json.dumps(forgot, ensure_ascii=False),
            "by_whom": user(),
            "version": __version__,
            "host": socket.gethostname(),
        },
    )


def _rewrite(place: Place, warehouse: Warehouse, dataset: str, forgets: Mapping[str, Mapping[str, Any]]) -> None:
    pipeline = pipeline_of(place, warehouse, dataset)
    with pipeline.managed_state(extract_state=True) as state:
        resources = state["sources"][dataset]["resources"]
        for table, gone in forgets.items():
            for name in gone:
                del resources[table][name]
            resources[table][RESET] = True
    pipeline.normalize()
    with warehouse.write():
        pipeline.load(raise_on_failed_jobs=True)


def _remembered(database: Reader | Session, dataset: str, tables: Collection[str] | None) -> Iterator[Remembered]:
    states, loaded, vendor = states_of(database, dataset), _loaded(database, dataset), vendor_of(dataset)
    declared = {table.name: table for table in package(vendor).tables()[dataset]}
    for table, state in sorted(states.items()):
        if state and (tables is None or table in tables):
            yield Remembered(
                vendor=vendor,
                dataset=dataset,
                table=table,
                state=deepcopy(dict(state)),
                forgets=_forgotten_of(state, declared.get(table)),
                loaded_at=loaded.get(table),
            )


def _loaded(database: Reader | Session, dataset: str) -> dict[str, str]:
    """When rows of a table came last, in a run."""
    if not {"runs", "run_tables"} <= database.tables(OWN_DATASET):
        return {}
    rows = database.query(
        "SELECT t.table_name, max(r.finished_at) FROM nightload.run_tables t JOIN nightload.runs r "
        "ON r.run_id = t.run_id WHERE t.dataset = ? AND t.status IN ('ok', 'warning') AND r.finished_at IS NOT NULL "
        "GROUP BY t.table_name",
        [dataset],
    )
    return {table: at.astimezone(UTC).isoformat(timespec="seconds") for table, at in rows}


def _forgotten_of(state: Mapping[str, Any], table: Table | None) -> dict[str, Any]:
    kept = {RESET, *OF_ROWS, *(table.keeps if table else ())}
    return {name: value for name, value in state.items() if name not in kept}


def _rows(session: Session, dataset: str, table: str) -> int | None:
    if table not in session.tables(dataset):
        return None
    ((count,),) = session.query(f"SELECT count(*) FROM {quote(dataset, table)}")  # noqa: S608
    return int(count)
