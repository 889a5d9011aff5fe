"""Comments in the database itself: what a table holds, and the vendor's own name of each column.

Only what differs is written, so that a night without news costs one look per dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.config.project import OWN_DATASET
from sources.convert.types import DELETED_AT, ROW_VERSION, VALID_FROM, VALID_TO
from sources.extract.sync import Outcome

if TYPE_CHECKING:
    from pipelines.warehouse.base import Session

Comments = Mapping[tuple[str, str], str]
"""(table, column) → comment; the column of a table's own is empty."""

OURS = {
    DELETED_AT: "when a night found that the vendor has this row no more; NULL: it is there",
    ROW_VERSION: "a hash of the vendor's columns: another one is another version",
    VALID_FROM: "the night that saw this version first",
    VALID_TO: "the night that saw it changed or gone; NULL: it stands",
    "_dlt_load_id": "the load that brought this row: nightload.run_tables.load_id, or nightload.backfills.load_id",
}
OWN_TABLES: dict[str, dict[str, str]] = {
    "runs": {
        "": "every run of nightload; times are UTC",
        "run_id": "sorts by time",
        "status": "ok, mismatch, failed, crashed or running",
        "vendors": "what was to be loaded, as a JSON list",
        "version": "of nightload",
    },
    "run_vendors": {
        "": "what each run came to, per vendor",
        "requests": "how often the vendor was asked",
    },
    "run_tries": {
        "": "each try of a vendor within a run: what may pass by itself is tried again",
        "attempt": "from 1",
        "tables": "those that were tried again, as a JSON list; NULL: all that the run was asked for",
        "error": "why it was not green",
    },
    "run_tables": {
        "": "the proof, per run and table: what the vendor counts, what came, what landed",
        "mode": "full, incremental, latest, history or kept",
        "load_id": "what the rows of this load carry as _dlt_load_id",
        "vendor_count": "the vendor's own figure; NULL: it has none",
        "extracted": "the distinct keys that came",
        "landed": "the rows found again in the warehouse",
        "live": "all rows there that are not deleted",
        "deleted": "rows that were found gone at the vendor's",
        "status": "ok, unchanged, warning, mismatch, failed or discarded",
        "notes": "warnings, as a JSON list",
    },
    "schema_changes": {
        "": "each new, retyped or dropped table and column, and each column that went dark or has values again",
        "change": "new table, new column, renamed column, type, dark, values again, dropped column or dropped table",
    },
    "column_values": {
        "": "each column of a vendor: does it still have values?",
        "came": "rows that came of late, up to the last that had a value; of partial loads, earlier ones count half",
        "filled": "those of them that had a value",
        "bare": "rows that came after them, none of which had one",
        "dark_since": "when that was told to be no chance; NULL: it is not dark",
    },
    "backfills": {
        "": "each chunk of a backfill, as it went last; none of it is a run, and none makes a table fresh",
        "chunk_id": "of the table and its days, always the same",
        "first_day": "of the vendor's days",
        "last_day": "included",
        "status": "ok, unchanged, warning, mismatch, failed, or void: the table was made anew since",
        "attempts": "how often it came to an end, good or bad",
        "vendor_count": "the vendor's own figure; NULL: it has none",
        "extracted": "the distinct keys that came",
        "landed": "the rows found again in the warehouse",
        "load_id": "what the rows of this chunk carry as _dlt_load_id",
        "requests": "how often the vendor was asked; NULL: several chunks were asked for at once",
        "notes": "warnings, as a JSON list",
    },
    "interventions": {
        "": "what a person did to a table with nightload state reset or nightload drop",
        "action": "reset or drop",
        "rows": "how many rows the table had",
        "forgot": "what was forgotten, as a JSON object",
    },
    "columns": {
        "": "each column that came from a vendor, with the vendor's own name of it",
        "table_label": "the vendor's own name of the table",
        "label": "the vendor's own name of the column",
        "data_type": "in dlt's words",
        "is_key": "is it of the key?",
    },
}


def comment(session: Session, dataset: str, wanted: Comments) -> int:
    """Write the comments that differ from those in the database; how many."""
    there = session.comments(dataset)
    changed = {place: text for place, text in wanted.items() if place in there and there[place] != text}
    if changed:
        session.comment(dataset, changed)
    return len(changed)


def of_vendor(columns: Mapping[str, Mapping[str, Mapping[str, Any]]], outcomes: Iterable[Outcome]) -> Comments:
    """The comments of one dataset: table → column → dlt's hints, and the tables that were walked."""
    wanted = {(outcome.table, ""): _table(outcome) for outcome in outcomes}
    for table, its in columns.items():
        for name, hints in its.items():
            text = hints.get("x-label") or OURS.get(name, "")
            if hints.get("primary_key"):
                text = f"{text} (key)".strip()
            if text:
                wanted[table, name] = text
    return wanted


def of_ours() -> Comments:
    return {(table, column): text for table, texts in OWN_TABLES.items() for column, text in texts.items()}


def comment_ours(session: Session) -> None:
    comment(session, OWN_DATASET, of_ours())


def _table(outcome: Outcome) -> str:
    if outcome.label == outcome.table or outcome.label in outcome.about:
        return outcome.about or outcome.label
    return f"{outcome.label}: {outcome.about}" if outcome.about else outcome.label
