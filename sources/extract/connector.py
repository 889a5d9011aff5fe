"""What a vendor's package offers to whoever runs it. `sources.VENDORS` registers the packages.

A package `sources.<vendor>` has

    configured() -> bool         is there a key? (a vendor without one is skipped)
    connect() -> Vendor          reads the settings; raises ConfigurationError
    tables() -> {dataset: (Table, …)}   what it loads, without asking anybody

and a dlt source per dataset, for those who run it in a pipeline of their own. A table with a `zone` can be backfilled:
its fetch heeds `Walk.window`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

from dlt.extract import DltSource

from sources import VENDORS
from sources.core.dates import Calls, Days
from sources.core.errors import ConfigurationError, NightloadError
from sources.extract.extractor import Extraction
from sources.extract.table import Table
from sources.http.client import Http


@dataclass(frozen=True, kw_only=True)
class Part:
    """One dataset of a vendor. `source` may call the vendor: it is built when the extraction starts.

    `records`: the dataset whose loads a table of this one records, so that it takes part wherever that one does.
    """

    dataset: str
    source: Callable[[], DltSource]
    records: str = ""


class Vendor(Protocol):
    """A connected vendor."""

    http: Http

    def parts(self, extraction: Extraction) -> list[Part]:
        """The datasets in the order of their extraction; they are loaded in the opposite order."""
        ...

    def check(self) -> Iterator[str | NightloadError]:
        """Call the vendor and say, line by line, what is right.

        What is wrong is raised, or yielded where the rest can be checked all the same: a name that matches nothing.
        """
        ...


@runtime_checkable
class TellsCalls(Protocol):
    """A vendor that knows what a backfill of its tables costs."""

    def calls(self, name: str, days: Days, state: Mapping[str, Any]) -> Calls | None:
        """How many requests these days of `dataset.table` take; `state` is what is remembered of it. Asks nobody."""
        ...


class Package(Protocol):
    """The module of a vendor."""

    def configured(self) -> bool: ...

    def connect(self) -> Vendor: ...

    def tables(self) -> Mapping[str, tuple[Table, ...]]: ...


def package(name: str) -> Package:
    """The vendor's module. Raises `ConfigurationError` for a name that nobody registered."""
    if name not in VENDORS:
        raise ConfigurationError(what=f"there is no vendor {name}", todo=f"Use one of: {', '.join(sorted(VENDORS))}")
    return cast(Package, import_module(VENDORS[name]))
