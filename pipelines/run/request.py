"""What a run is asked to do, checked before anything happens."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.config.project import Place
from sources import VENDORS
from sources.core.errors import ConfigurationError
from sources.extract.connector import package
from sources.extract.table import Table

if TYPE_CHECKING:
    import dlt
    import pendulum

    from pipelines.run.report import TableReport
    from sources.extract.sync import Outcome
    from sources.privacy.matching import Forgotten


class ResponseSource(Protocol):
    """Recorded responses of an earlier run, used instead of the vendors."""

    @property
    def fresh(self) -> bool:
        """Does the run load into an empty warehouse?"""
        ...

    @property
    def forgotten(self) -> Forgotten:
        """The suppression list of the live warehouse."""
        ...

    @property
    def until(self) -> pendulum.DateTime:
        """The upper edge of every window in the recorded run."""
        ...

    def playing(self, vendor: str) -> AbstractContextManager[None]:
        """Answer the requests of a vendor from its recorded responses."""
        ...

    def columns(self, vendor: str) -> Mapping[str, Mapping[str, Any]]:
        """`dataset.table` → its columns when the recorded run began."""
        ...

    def begin(self, vendor: str, dataset: str, pipeline: dlt.Pipeline) -> None:
        """Restore the cursors that the recorded run started with."""
        ...

    def nothing_new(self, outcome: Outcome) -> bool:
        """Did the recorded run leave this table unchanged?"""
        ...

    def tell(self, table: TableReport) -> None:
        """Note in the report which run was replayed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked to do. `tables`, `full` and `allow_empty` hold `dataset.table` names."""

    place: Place
    vendors: Sequence[str] = ()
    tables: frozenset[str] = frozenset()
    full: bool = False
    allow_empty: frozenset[str] = frozenset()
    then_dbt: bool = False
    until: datetime | None = None
    """So long, what failed in a way that passes by itself is tried again; None: as `[nightload] until` says."""
    on_progress: Callable[[str, str], None] | None = None
    replay: ResponseSource | None = None
    """Instead of the vendors, what they answered in an earlier run."""


def choose(request: Request) -> tuple[list[str], list[str]]:
    """The vendors to run, and those skipped because they have no key."""
    of_tables = {
        vendor for name in request.tables for vendor in VENDORS if name.split(".")[0] in package(vendor).tables()
    }
    for name in request.tables | request.allow_empty:
        refuse_unknown_table(name, gone=request.replay is not None)
    named = list(dict.fromkeys(request.vendors)) or sorted(of_tables)
    for vendor in named:
        package(vendor)
    if request.vendors and (lost := of_tables - set(named)):
        raise ConfigurationError(
            what=f"--table names a table of {', '.join(sorted(lost))}, which is not among the vendors to run",
            todo="Leave the vendors out, or name that one too",
        )
    if named:
        return [vendor for vendor in VENDORS if vendor in named], []
    configured = [vendor for vendor in VENDORS if package(vendor).configured()]
    if not configured:
        raise no_key()
    return configured, [vendor for vendor in VENDORS if vendor not in configured]


def no_key() -> ConfigurationError:
    return ConfigurationError(
        what="no vendor has a key",
        todo=f"Write one into .dlt/secrets.toml, as the README shows; the vendors are {', '.join(VENDORS)}",
    )


def refuse_unknown_table(
    name: str, *, gone: bool = False, declared: Mapping[str, Sequence[Table]] | None = None
) -> None:
    """Raise `ConfigurationError` unless `name` is `dataset.table` of a registered vendor, as its settings are.

    `gone`: it may be a table that there was once. Then only a name that is nearly another's is refused.
    `declared`: the tables of each dataset, as the vendors have them.
    """
    if declared is None:
        declared = {dataset: tables for vendor in VENDORS for dataset, tables in package(vendor).tables().items()}
    known = [f"{dataset}.{table.name}" for dataset, tables in declared.items() for table in tables]
    dataset, _, table = name.partition(".")
    otherwise = f"Write DATASET.TABLE; the datasets are {', '.join(sorted(declared))}"
    if dataset in declared and table not in ("", "*"):
        if name in known or not declared[dataset]:  # the vendor alone knows what tables such a dataset has
            return
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            otherwise = f"Did you mean {near[0]}?"
        elif gone:
            return
        else:
            otherwise = "nightload tables lists what there is; the settings may leave it out"
    raise ConfigurationError(what=f"there is no table {name}", todo=otherwise)


def vendor_of(dataset: str) -> str:
    """The vendor that loads this dataset."""
    return next(vendor for vendor in VENDORS if dataset in package(vendor).tables())
