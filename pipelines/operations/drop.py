"""`nightload drop`: a table out of the warehouse with all that belongs to it, so that the next night loads it anew.

Its rows and history, what was kept aside of it, its columns in `nightload.columns`, and dlt's schema and state of it go
together, at once or not at all. What the vendor has no more is gone for good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dlt
from dlt.pipeline.helpers import pipeline_drop

from pipelines.catalog.system_tables import publish, void_backfills
from pipelines.config.project import OWN_DATASET, Place
from pipelines.ledger.store import Ledger
from pipelines.operations.state import datasets_of, record, refuse_unknown, states_of, tending
from pipelines.run.dlt_state import pipeline_of
from pipelines.run.request import vendor_of
from pipelines.warehouse.base import Warehouse
from pipelines.warehouse.open import open_reader
from pipelines.warehouse.reader import Reader
from sources.core.errors import ConfigurationError, NightloadError
from sources.core.sql import quote

_ASIDE = "_before_[0-9]{8}_[0-9]{6}"
"""What a run adds to the name of a table that it puts aside."""


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """One table that would go. `rows` are None where there never was one; `asides` are older tables of it."""

    vendor: str
    dataset: str
    table: str
    rows: int | None
    asides: Sequence[tuple[str, int]] = ()
    views: Sequence[str] = ()
    """Views that stand on it."""
    state: Sequence[str] = ()

    @property
    def name(self) -> str:
        return f"{self.dataset}.{self.table}"

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.name,
            "rows": self.rows,
            "asides": {f"{self.dataset}.{name}": rows for name, rows in self.asides},
            "views": list(self.views),
            "state": list(self.state),
        }


def look(place: Place, name: str) -> list[Doomed]:
    """What would go. Raises `ConfigurationError` if there is nothing of that name."""
    wanted = datasets_of(name)
    with open_reader(place) as reader, reader.one_state():
        found = [each for dataset, tables in wanted.items() for each in _in_dataset(reader, dataset, tables)]
    if not found:
        refuse_unknown(name)
        raise ConfigurationError(
            what=f"there is nothing of {name} in the warehouse", where=place.shown, todo="Nothing was changed"
        )
    return found


def drop(place: Place, name: str, *, agrees: Callable[[list[Doomed]], bool]) -> list[Doomed] | None:
    """Drop it, if what is found then is agreed to; None if not.

    Raises `Locked` when a run has the warehouse, `ConfigurationError` if there is nothing of that name, or, where views
    hold on to their tables, if views do.
    """
    with tending(place) as (warehouse, ledger):
        doomed = look(place, name)
        refuse_depended(place, doomed)
        if not agrees(doomed):
            return None
        try:
            for dataset in dict.fromkeys(each.dataset for each in doomed):
                _drop(place, warehouse, ledger, dataset, [each for each in doomed if each.dataset == dataset])
        except Exception as error:  # noqa: BLE001 - raised again, in the words of the warehouse
            why = getattr(error, "exception", error)
            raise warehouse.explain(why) from None
        _publish(warehouse, ledger, doomed)
    return doomed


def refuse_depended(place: Place, doomed: Sequence[Doomed]) -> None:
    """Raise `ConfigurationError` if a view holds on to one of the tables: a database that keeps views by their tables
    would refuse, or take them along.
    """
    if place.postgres is None:
        return
    held = {view: each.name for each in doomed for view in each.views}
    if held:
        views = ", ".join(list(held)[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
        raise ConfigurationError(
            what=f"{next(iter(held.values()))} cannot be dropped",
            why=f"views stand on it: {views}",
            todo="Nothing was changed. Drop the views first and make them again after the next night; dbt makes its "
            "own with nightload run --then dbt",
        )


def _in_dataset(reader: Reader, dataset: str, tables: Collection[str] | None) -> Iterator[Doomed]:
    """What nightload made there: a table that somebody else put into the dataset stays."""
    there = {
        name
        for (name,) in reader.query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'BASE TABLE'",
            [dataset],
        )
    }
    states = states_of(reader, dataset)
    made = _described(reader, dataset) | set(states)
    for table in sorted(made if tables is None else made.intersection(tables)):
        asides = sorted(each for each in there if re.fullmatch(re.escape(table) + _ASIDE, each))
        yield Doomed(
            vendor=vendor_of(dataset),
            dataset=dataset,
            table=table,
            rows=_count(reader, dataset, table) if table in there else None,
            asides=[(each, _count(reader, dataset, each)) for each in asides],
            views=[view for each in (table, *asides) if each in there for view in reader.views_on(dataset, each)],
            state=sorted(states.get(table, {})),
        )


def _described(reader: Reader, dataset: str) -> set[str]:
    """The tables that `nightload.columns` tells of."""
    if "columns" not in reader.tables(OWN_DATASET):
        return set()
    rows = reader.query(f"SELECT DISTINCT table_name FROM {quote(OWN_DATASET, 'columns')} WHERE dataset = ?", [dataset])  # noqa: S608
    return {table for (table,) in rows}


def _count(reader: Reader, dataset: str, table: str) -> int:
    ((count,),) = reader.query(f"SELECT count(*) FROM {quote(dataset, table)}")  # noqa: S608
    return int(count)


def _drop(place: Place, warehouse: Warehouse, ledger: Ledger, dataset: str, doomed: Sequence[Doomed]) -> None:
    pipeline = pipeline_of(place, warehouse, dataset)
    names = {each.table for each in doomed}
    with warehouse.write() as session:
        if resources := _resources(pipeline, names):
            pipeline_drop(pipeline, resources=resources)()
        for each in doomed:
            for table in (each.table, *(aside for aside, _ in each.asides)):
                # what dlt's schema does not know, such as what was kept aside
                if table in session.tables(dataset):
                    session.change(f"DROP TABLE {quote(dataset, table)}")
        for each in doomed:
            void_backfills(session, ledger, dataset, each.table)
        if "columns" in session.tables(OWN_DATASET):
            for table in sorted(names):
                session.change(
                    f"DELETE FROM {quote(OWN_DATASET, 'columns')} WHERE dataset = ? AND table_name = ?",  # noqa: S608
                    [dataset, table],
                )
        if left := names & session.tables(dataset):
            raise NightloadError(what=f"{dataset}.{min(left)} is still there", todo="Nothing was changed. Run again")
    warehouse.clear_staging(dataset)


def _resources(pipeline: dlt.Pipeline, tables: Collection[str]) -> list[str]:
    """dlt's names of what makes these tables, and of what is remembered of them."""
    if not pipeline.schema_names:
        return []
    schema = pipeline.default_schema
    made = {
        str(table.get("resource") or table["name"])
        for table in schema.data_tables(include_incomplete=True)
        if table["name"] in tables
    }
    known = pipeline.state.get("sources", {}).get(schema.name, {}).get("resources", {})
    return sorted(made | (set(known) & set(tables)))


def _publish(warehouse: Warehouse, ledger: Ledger, doomed: Sequence[Doomed]) -> None:
    with ledger.at_once():
        for each in doomed:
            gone = {"state": list(each.state), "asides": [name for name, _ in each.asides]}
            record(ledger, "drop", each.vendor, each.name, rows=each.rows, forgot=gone)
        publish(warehouse, ledger)
