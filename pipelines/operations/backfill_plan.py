"""What a backfill would do: which table, which days, in which chunks, with how many calls; checked before anything is
asked.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pendulum

from pipelines.config.project import OWN_DATASET, Place
from pipelines.monitoring.status import GOOD
from pipelines.operations.state import states_of
from pipelines.run.request import refuse_unknown_table, vendor_of
from pipelines.warehouse.open import open_reader
from pipelines.warehouse.reader import Reader
from sources.core.dates import Calls, Days
from sources.core.errors import ConfigurationError
from sources.core.sql import quote
from sources.extract.connector import TellsCalls, Vendor, package
from sources.extract.extractor import Extraction
from sources.extract.table import Mode, Table

TABLE = "backfills"
_CHUNK = re.compile(r"([1-9][0-9]{0,2})([dw])")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WHY_NOT = {
    Mode.FULL: "the vendor gives it as a whole, not by days",
    Mode.INCREMENTAL: "it is loaded by what changed, not by days",
    Mode.LATEST: "it is the vendor's newest answer and nothing else",
    Mode.HISTORY: "the vendor tells how it is, not how it was",
    Mode.KEPT: "the vendor gives it as it is now, not by days",
}


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some days of one table. `done`: it stands in the warehouse already; `calls`: how often the vendor is asked."""

    table: str
    days: Days
    done: bool = False
    calls: Calls | None = None

    @property
    def id(self) -> str:
        return f"backfill {self.table} {self.days}"

    def as_json(self) -> dict[str, Any]:
        calls = (
            {"calls": self.calls.least, "calls_beyond": self.calls.beyond or None} if self.calls else {"calls": None}
        )
        return {
            "chunk_id": self.id,
            "from": self.days.first.isoformat(),
            "to": self.days.last.isoformat(),
            "done": self.done,
            **calls,
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A backfill, checked: what would be done."""

    table: str
    vendor: str
    zone: str
    chunks: Sequence[Chunk]
    asked: int = 0
    """How often the vendor was asked for this plan: once and more where it alone knows its tables."""

    @property
    def due(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if not chunk.done]

    @property
    def calls(self) -> Calls | None:
        """Of all that is due; None if the vendor's package does not tell."""
        each = [chunk.calls for chunk in self.due]
        return sum((calls for calls in each if calls), Calls(least=0)) if all(each) else None

    def as_json(self) -> dict[str, Any]:
        calls = self.calls
        return {
            "table": self.table,
            "zone": self.zone,
            "asked": self.asked,
            "calls": calls.least if calls else None,
            "calls_beyond": (calls.beyond or None) if calls else None,
            "chunks": [chunk.as_json() for chunk in self.chunks],
        }


def days_of(first: str, last: str) -> Days:
    """The days that the options name. Raises `ConfigurationError` for what is no day, or an end before its start."""
    begin, end = _day("--from", first), _day("--to", last)
    if end < begin:
        raise ConfigurationError(what=f"--to ({end}) is before --from ({begin})", todo="Exchange them")
    return Days(begin, end)


def chunk_of(text: str) -> int:
    """Days of a chunk. Raises `ConfigurationError`."""
    if (found := _CHUNK.fullmatch(text.strip())) is None:
        raise ConfigurationError(what=f"--chunk {text!r} is no number of days", todo="Write 1d to 999d, or weeks: 2w")
    return int(found[1]) * (7 if found[2] == "w" else 1)


@contextmanager
def planned(place: Place, name: str, days: Days, *, chunk: int, again: bool = False) -> Iterator[tuple[Plan, Vendor]]:
    """What a backfill would do, and the vendor, connected.

    Raises `ConfigurationError` for a table that is none or that is not loaded by days, for days that are not over, and
    for a vendor without a key.
    """
    owner = _owner(name)
    vendor = package(owner).connect()
    try:
        table, states = _table(vendor, owner, name), {}
        done: set[str] = set()
        with published(place) as reader:
            if reader is not None:
                states = dict(states_of(reader, name.partition(".")[0]))
                done = set() if again else _done(reader)
        zone = str(table.zone)
        _refuse_unfinished(days, zone)
        chunks = []
        for part in days.split(chunk):
            calls = vendor.calls(name, part, states.get(table.name, {})) if isinstance(vendor, TellsCalls) else None
            each = Chunk(table=name, days=part, calls=calls)
            chunks.append(Chunk(table=name, days=part, calls=calls, done=each.id in done))
        yield Plan(table=name, vendor=owner, zone=zone, chunks=chunks, asked=vendor.http.requests), vendor
    finally:
        vendor.http.close()


def _owner(name: str) -> str:
    """The vendor of a table. Raises `ConfigurationError` if there is none, or it cannot be there."""
    refuse_unknown_table(name)
    dataset, _, table = name.partition(".")
    owner = vendor_of(dataset)
    declared = {each.name: each for each in package(owner).tables()[dataset]}
    if table in declared and declared[table].zone is None:
        raise _not_by_days(name, declared[table])
    return owner


def _table(vendor: Vendor, owner: str, name: str) -> Table:
    """The table as the connected vendor defines it, who is asked where only an answer knows the tables."""
    dataset = name.partition(".")[0]
    with tempfile.TemporaryDirectory(prefix="nightload-") as folder:
        extraction = Extraction(
            vendor=owner, spool_dir=Path(folder), until=pendulum.now("UTC"), tables=frozenset({name})
        )
        make(vendor, extraction, dataset)
    if not extraction.knows(name):
        raise ConfigurationError(what=f"the vendor has no table {name}", todo="nightload tables lists what there is")
    found = extraction.table(name)
    if found.zone is None:
        raise _not_by_days(name, found)
    return found


def make(vendor: Vendor, extraction: Extraction, dataset: str) -> None:
    """Make the resources that the extraction wants."""
    for part in vendor.parts(extraction):
        if part.dataset == dataset:
            _ = part.source().resources


def _not_by_days(name: str, table: Table) -> ConfigurationError:
    how = "Give its query a window, or" if table.mode in (Mode.LATEST, Mode.FULL) and not table.columns else "To"
    return ConfigurationError(
        what=f"{name} cannot be backfilled",
        why=_WHY_NOT[table.mode],
        todo=f"{how} fetch all of it anew: nightload run --full --table {name}",
    )


def _refuse_unfinished(days: Days, zone: str) -> None:
    today = datetime.now(ZoneInfo(zone)).date()
    if days.last >= today:
        raise ConfigurationError(
            what=f"{days.last} is not over",
            why=f"by the vendor's days ({zone}) it is {today}",
            todo=f"Give --to {today - timedelta(days=1)} at the latest; the nights load what comes after",
        )


def _day(option: str, text: str) -> date:
    try:
        if _DAY.fullmatch(text.strip()):
            return date.fromisoformat(text.strip())
    except ValueError:
        pass
    raise ConfigurationError(what=f"{option} is {text!r}, which is no day", todo="Write it like 2026-01-31")


def _done(reader: Reader) -> set[str]:
    """The chunks that stand in the warehouse, which says it itself: the rows came with these words."""
    if TABLE not in reader.tables(OWN_DATASET):
        return set()
    rows = reader.query(f"SELECT chunk_id FROM {quote(OWN_DATASET, TABLE)} WHERE status IN {GOOD}")  # noqa: S608
    return {chunk for (chunk,) in rows}


def newest_load(database: Any, name: str) -> str | None:
    """The last load that a run brought a table; a night publishes its vendors one after the other, and some twice."""
    if "run_tables" not in database.tables(OWN_DATASET):
        return None
    dataset, _, table = name.partition(".")
    ((newest,),) = database.query(
        f"SELECT max(load_id) FROM {quote(OWN_DATASET, 'run_tables')} WHERE dataset = ? AND table_name = ?",  # noqa: S608
        [dataset, table],
    )
    return None if newest is None else str(newest)


@contextmanager
def published(place: Place) -> Iterator[Reader | None]:
    """The published warehouse; None if there is none yet."""
    if place.postgres is None and not place.warehouse.exists():
        yield None
        return
    with open_reader(place) as reader:
        yield reader
