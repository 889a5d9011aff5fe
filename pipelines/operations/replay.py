"""A run once more from the pages that were kept of it, without calling a vendor.

The run's frozen edge, its choice of tables, and what the warehouse knew when it began come from the record, so the
clients ask for the same; each request is answered from the pages, or refused with what, where and why. Three things
are done with the rows:

- compared (`check`): loaded into a file that is thrown away, table by table the same counts and the same digest;
- loaded into a fresh DuckDB file (`to`), to look at what the vendor gave that night;
- loaded into the live warehouse (`into`), where code was mended and the vendor cannot give that night again. Refused
  for tables that a later run has loaded: older rows would take the place of newer ones.

Cursors are never written: neither does the live warehouse forget how far it is, nor does a file of one night's changes
take itself for whole.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pendulum

from pipelines.catalog.suppression import read_forgotten
from pipelines.config import project as places
from pipelines.config.project import Place
from pipelines.monitoring.status import run_info
from pipelines.run.recording.retention import Recorded, kept_runs
from pipelines.run.recording.store import Reader
from sources.core.errors import ConfigurationError
from sources.extract.sync import Outcome
from sources.http import cassette
from sources.naming import without_system_columns
from sources.privacy.matching import Forgotten

if TYPE_CHECKING:
    import dlt

    from pipelines.run.report import RunReport, TableReport

log = logging.getLogger(__name__)

COMPARED = ("vendor_count", "extracted", "digest")
GOOD = ("ok", "unchanged", "warning", "replayed")
REPLAYED = "replayed from run "
"""What a table that is replayed notes, before the run's id."""
_TELLS_OF = {"tonalytica.query_results": "tonalytica_results."}
"""A table whose rows are about the other tables that were loaded with it."""


@dataclass(kw_only=True)
class Replaying:
    """What a run is told when it is a replay. `fresh`: into a warehouse that holds nothing."""

    recorded: Recorded
    forgotten: Forgotten
    fresh: bool
    readers: dict[str, Reader] = field(default_factory=dict)

    @property
    def until(self) -> pendulum.DateTime:
        return pendulum.instance(self.recorded.until).in_timezone("UTC")

    def reader(self, vendor: str) -> Reader:
        if vendor not in self.readers:
            self.readers[vendor] = self.recorded.reader(vendor)
        return self.readers[vendor]

    @contextmanager
    def playing(self, vendor: str) -> Iterator[None]:
        with cassette.playing(vendor, self.reader(vendor)):
            yield

    def columns(self, vendor: str) -> dict[str, Mapping[str, Any]]:
        """`dataset.table` → its columns when the run began."""
        found: dict[str, Mapping[str, Any]] = {}
        for path in (self.recorded.folder / vendor).glob("*.began.json"):
            dataset = path.name.removesuffix(".began.json")
            _, tables = self.recorded.knew(vendor, dataset)
            for table, columns in tables.items():
                names = without_system_columns(columns)
                found[f"{dataset}.{table}"] = {names.get(name, name): hints for name, hints in columns.items()}
        return found

    def begin(self, vendor: str, dataset: str, pipeline: dlt.Pipeline) -> None:
        """Let the sources find the cursors as they were; what they leave behind is not written to the warehouse."""
        pipeline.config.restore_from_destination = False
        state, _ = self.recorded.knew(vendor, dataset)
        with pipeline.managed_state() as found:
            found["sources"] = copy.deepcopy(state)

    def nothing_new(self, outcome: Outcome) -> bool:
        """A table that the night did not touch is not in a fresh file; one of which a part came has no total there."""
        if not self.fresh:
            return False
        outcome.total = None
        return outcome.unchanged and not outcome.loaded

    def tell(self, table: TableReport) -> None:
        table.notes = [*table.notes, f"{REPLAYED}{self.recorded.run_id}"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One table then and now. `same` None: there is nothing to compare it with."""

    table: str
    then: Mapping[str, Any]
    now: Mapping[str, Any]
    same: bool | None
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"table": self.table, "then": self.then, "now": self.now, "same": self.same, "why": self.why or None}


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of a replay. `left_out`: tables whose answers were not kept, and why; `torn`: what was damaged."""

    run_id: str
    into: str
    report: RunReport
    compared: Sequence[Compared]
    left_out: Mapping[str, str]
    torn: Sequence[str]

    @property
    def same(self) -> bool:
        return all(each.same is not False for each in self.compared)

    def as_json(self) -> dict[str, Any]:
        return {
            "replayed": self.run_id,
            "into": self.into or None,
            "same": self.same,
            "tables": [each.as_json() for each in self.compared],
            "left_out": dict(self.left_out),
            "torn": list(self.torn),
            "run": self.report.as_json(),
        }


def replay(
    place: Place, prefix: str, *, to: str | None = None, into: bool = False, tables: Sequence[str] = ()
) -> Replayed:
    """Replay the run whose id begins with `prefix`. Raises `ConfigurationError` for what cannot be replayed."""
    recorded = Recorded(place, _run_id(place, prefix))
    if to is not None and into:
        raise ConfigurationError(what="--to and --into say two things", todo="Leave one of them out")
    if to is not None:
        target = _fresh(place, to)
        return _replay(recorded, target, tables, live=place, told=target.shown)
    if into:
        return _replay(recorded, place, tables, live=place, told=place.shown)
    place.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="replay-", dir=place.state) as folder:
        target = places.at(f"duckdb:///{folder}/replayed.duckdb", place.home)
        return _replay(recorded, target, tables, live=place, told="")


def _replay(recorded: Recorded, target: Place, tables: Sequence[str], *, live: Place, told: str) -> Replayed:
    from pipelines.run.request import Request, vendor_of
    from pipelines.run.runner import run

    replaying = Replaying(recorded=recorded, forgotten=read_forgotten(live), fresh=target != live)
    there = [vendor for vendor in recorded.asked["vendors"] if vendor in recorded.vendors]
    asked = set(tables or recorded.asked["tables"])
    if asked:
        there = [vendor for vendor in there if any(vendor_of(name.split(".")[0]) == vendor for name in asked)]
    readers = {vendor: replaying.reader(vendor) for vendor in there}
    left_out = {table: why for reader in readers.values() for table, why in reader.left_out.items()}
    then = {table: told for reader in readers.values() for table, told in reader.tables.items()}
    chosen = {name for name in then if name not in left_out and (not asked or name in asked)}
    lost = {name: left_out.get(name, f"that run has no pages of {name}") for name in tables if name not in chosen}
    if not chosen and (then or not readers):
        lost = lost or {name: why for name, why in left_out.items() if not asked or name in asked}
    if (lost and then) or not readers:
        raise ConfigurationError(
            what=f"{', '.join(lost) or 'the run'} cannot be replayed",
            where=f"run {recorded.run_id}",
            why="; ".join(dict.fromkeys(lost.values())) or "nothing that was asked for was kept",
            todo=f"Of it there are: {', '.join(sorted(set(then) - set(left_out))[:20]) or 'no pages'}",
        )
    if not replaying.fresh:
        _refuse_newer(live, recorded, chosen or asked)
    report = run(
        Request(
            place=target,
            vendors=tuple(there),
            tables=frozenset(chosen or asked),
            full=recorded.asked["full"],
            allow_empty=frozenset(recorded.asked["allow_empty"]),
            replay=replaying,
        )
    )
    return Replayed(
        run_id=recorded.run_id,
        into=told,
        report=report,
        compared=list(_compared(report, then, replaying)),
        left_out={table: why for table, why in left_out.items() if not asked or table in asked},
        torn=[line for reader in readers.values() for line in [*reader.torn, *filter(None, [reader.stopped])]],
    )


def _compared(report: RunReport, then: Mapping[str, Mapping[str, Any]], replaying: Replaying) -> Iterator[Compared]:
    replayed = {table.table for vendor in report.vendors for table in vendor.tables}
    for vendor in report.vendors:
        for table in vendor.tables:
            now = {
                "vendor_count": table.vendor_count,
                "extracted": table.extracted,
                "digest": table.digest,
                "status": table.status,
                "error": table.error or vendor.error,
            }
            before = then.get(table.table)
            if before is None:
                yield Compared(table=table.table, then={}, now=now, same=None, why="what that run came to is not known")
                continue
            others = _TELLS_OF.get(table.table)
            if others and any(name.startswith(others) and name not in replayed for name in then):
                why = f"it tells of {others}*, of which not all were kept or chosen"
                yield Compared(table=table.table, then=before, now=now, same=None, why=why)
                continue
            masked = replaying.reader(vendor.vendor).masked.get(table.table)
            differ = [name for name in COMPARED if before.get(name) != now[name] and not (masked and name == "digest")]
            if before["status"] not in GOOD or table.status not in GOOD:
                differ += ["error"] if (before["status"] in GOOD) != (table.status in GOOD) else []
            yield Compared(
                table=table.table,
                then=before,
                now=now,
                same=not differ,
                why=", ".join(f"{name}: {before.get(name)} then, {now[name]} now" for name in differ)
                or (f"masked, so by its counts alone: {', '.join(masked)}" if masked else ""),
            )


def _run_id(place: Place, prefix: str) -> str:
    """The one run that begins so, of those with pages, else of the ledger."""
    found = [run_id for run_id in kept_runs(place) if prefix and run_id.startswith(prefix)]
    return found[0] if len(found) == 1 else str(run_info(place, prefix)["run"]["run_id"])


def _fresh(place: Place, to: str) -> Place:
    path = Path(to).expanduser().absolute()
    target = places.at(f"duckdb:///{path}", place.home)
    if target.warehouse.exists() or target.state.exists():
        raise ConfigurationError(
            what=f"{path} is there already",
            why="a replay goes into a fresh file, never into one that holds something",
            todo="Name another file, or remove it with the folder beside it",
        )
    if not path.parent.is_dir():
        raise ConfigurationError(what=f"there is no folder {path.parent}", todo="Make it, or name another file")
    return target


def _refuse_newer(place: Place, recorded: Recorded, tables: set[str]) -> None:
    from pipelines.ledger.store import Ledger

    ledger = Ledger(place.ledger)
    try:
        # a table whose rows came is one that was loaded, though its counts part or a part of it failed
        rows = ledger.query(
            "SELECT dataset || '.' || table_name AS name, max(run_id) AS run_id FROM run_tables t "
            "WHERE run_id > ? AND (status IN ('ok', 'warning') OR status IN ('failed', 'mismatch') AND landed > 0 "
            "AND NOT EXISTS (SELECT 1 FROM run_vendors v WHERE v.run_id = t.run_id AND v.vendor = t.vendor "
            "AND v.error IS NOT NULL)) GROUP BY name "
            "UNION ALL SELECT dataset || '.' || table_name, max(run_id) FROM run_tables "
            "WHERE status = 'replayed' AND substr(notes, instr(notes, ?) + ?, ?) > ? GROUP BY 1 ORDER BY name",
            (recorded.run_id, REPLAYED, len(REPLAYED), len(recorded.run_id), recorded.run_id),
        )
    finally:
        ledger.close()
    newer = [row for row in rows if row["name"] in tables or not tables]
    if newer:
        shown = ", ".join(row["name"] for row in newer[:5]) + (f" and {len(newer) - 5} more" if len(newer) > 5 else "")
        raise ConfigurationError(
            what=f"{shown} {'was' if len(newer) == 1 else 'were'} loaded again since run {recorded.run_id}",
            where=place.shown,
            why=f"older rows would take the place of newer ones (run {newer[0]['run_id']})",
            todo="Replay into a fresh file (--to PATH) and take what you need from it, or choose tables with --table",
        )
