"""A run that was cut short: the ledger says of its vendors what the warehouse shows of them.

A vendor is recorded when it is loaded and counted, which is before it is published. Where the run ends in between (a
kill, a signal, a full disk), its tables would be told of as good, and as fresh, on the strength of rows that nobody
has. What the warehouse says of itself came with its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.config.project import OWN_DATASET, Place
from pipelines.ledger.store import Ledger
from pipelines.warehouse.open import open_reader
from sources.core.errors import NightloadError, summarize

log = logging.getLogger(__name__)

WHY = "the run ended before it was published"


def close_crashed(place: Place, ledger: Ledger, *, but: Collection[str] = ()) -> list[str]:
    """Close the runs that were left open, `but` these; their ids. Call it only while holding the warehouse's lock.

    Where the warehouse cannot be looked at, they stay open until it can.
    """
    unseen = set(but)
    for row in ledger.query("SELECT run_id FROM runs WHERE status = 'running' ORDER BY run_id"):
        if row["run_id"] in but:
            continue
        try:
            _set_right(place, ledger, row["run_id"])
        except NightloadError as error:
            log.warning("what the warehouse has of run %s cannot be seen: %s", row["run_id"], summarize(error))
            unseen.add(row["run_id"])
    return ledger.close_crashed(but=unseen)


def set_right(place: Place, ledger: Ledger, run_id: str) -> None:
    """Let the ledger say of this run that a table came if it did; not, if that cannot be seen."""
    try:
        _set_right(place, ledger, run_id)
    except NightloadError as error:
        log.warning("what the warehouse has of run %s cannot be seen: %s", run_id, summarize(error))
        _tell(ledger, run_id, _brought(ledger, run_id), [])


def _set_right(place: Place, ledger: Ledger, run_id: str) -> None:
    """Of a run that brought nothing there is nothing to look for. Raises `NightloadError`."""
    if vendors := _brought(ledger, run_id):
        _tell(ledger, run_id, vendors, _shown(place, run_id))


def _brought(ledger: Ledger, run_id: str) -> list[str]:
    """The vendors of which the ledger says that a table came."""
    query = "SELECT DISTINCT vendor FROM run_tables WHERE run_id = ? AND status IN ('ok', 'warning', 'replayed')"
    return [row["vendor"] for row in ledger.query(query, (run_id,))]


def _tell(ledger: Ledger, run_id: str, vendors: Sequence[str], shown: Sequence[Mapping[str, Any]]) -> None:
    with ledger.at_once():
        for vendor in vendors:
            told = {(row["dataset"], row["table_name"]): row["load_id"] for row in shown if row["vendor"] == vendor}
            _as_shown(ledger, run_id, vendor, told)


def _shown(place: Place, run_id: str) -> list[dict[str, Any]]:
    """The tables that the warehouse has of this run, by the load that brought them. Raises `NightloadError`."""
    if place.postgres is None and not place.warehouse.exists():
        return []
    names = ("vendor", "dataset", "table_name", "load_id")
    with open_reader(place) as reader:
        if "run_tables" not in reader.tables(OWN_DATASET):
            return []
        query = f"SELECT {', '.join(names)} FROM {OWN_DATASET}.run_tables WHERE run_id = ?"  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in reader.query(query, [run_id])]


def _as_shown(ledger: Ledger, run_id: str, vendor: str, shown: dict[tuple[str, str], str]) -> None:
    rows = {table: ledger.rows(table, [run_id]) for table in ("run_vendors", "run_tries", "run_tables")}
    own = {table: [row for row in found if row["vendor"] == vendor] for table, found in rows.items()}
    lost = [
        row
        for row in own["run_tables"]
        if row["status"] in ("ok", "warning", "replayed")
        and shown.get((row["dataset"], row["table_name"])) != row["load_id"]
    ]
    if not lost:
        return
    for row in lost:
        row["status"] = "discarded"
    for row in (*own["run_vendors"], *own["run_tries"][-1:]):
        row["status"], row["error"] = "failed", row["error"] or WHY
    changes = [row for row in ledger.rows("schema_changes", [run_id]) if row["vendor"] == vendor]
    gone = {(row["dataset"], row["table_name"]) for row in lost}
    ledger.forget_vendor(run_id, vendor)
    for table, found in own.items():
        ledger.record(table, found)
    ledger.record("schema_changes", [row for row in changes if (row["dataset"], row["table_name"]) not in gone])
