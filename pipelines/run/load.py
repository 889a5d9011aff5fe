"""One pass over the tables of a vendor: extract its parts, load them, mark what is gone, count."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import dlt

from pipelines.catalog.comments import comment, of_vendor
from pipelines.catalog.null_columns import record_values
from pipelines.catalog.schema_changes import (
    changes_between,
    columns_of,
    keys_of,
    record_columns,
    rename_columns,
    rename_system_columns,
    snapshot,
)
from pipelines.catalog.system_tables import void_backfills
from pipelines.run.attempts import Prepared
from pipelines.run.context import Night, folder
from pipelines.run.dlt_state import forget_digests
from pipelines.run.reconcile import count, live, mark_deleted
from pipelines.run.report import TableReport, VendorReport
from pipelines.warehouse.dlt_capabilities import Capable
from sources.core import cancellation
from sources.core.errors import AccessDenied, ConfigurationError, NightloadError, Unreachable, summarize
from sources.core.sql import quote
from sources.extract.connector import Part, Vendor
from sources.extract.extractor import Extraction
from sources.extract.sync import Outcome
from sources.extract.table import MERGED, Mode
from sources.naming import MAX_BYTES, shorten, tag_for

log = logging.getLogger(__name__)


def pass_over(
    night: Night,
    vendor: Vendor,
    extraction: Extraction,
    report: VendorReport,
    *,
    rebuild: frozenset[str] = frozenset(),
    exposed: frozenset[str] = frozenset(),
) -> bool:
    """Extract all parts once more, then load them; True if the build changed.

    `rebuild` names tables that are dropped and made from nothing, `exposed` those of which nothing may be put aside.
    """
    extracted = extract(prepare(night, vendor, extraction), extraction, report, rebuild=rebuild)
    return load_parts(night, extraction, extracted, report, rebuild=rebuild, exposed=exposed)


def prepare(night: Night, vendor: Vendor, extraction: Extraction) -> list[Prepared]:
    """A pipeline for each part, with the state and the schema that the warehouse holds."""
    prepared = []
    for part in vendor.parts(extraction):
        if not (extraction.wants_any_of(part.dataset) or (part.records and extraction.wants_any_of(part.records))):
            continue
        pipeline = dlt.pipeline(
            part.dataset,
            pipelines_dir=str(folder(night, part.dataset, f"pipelines-{time.monotonic_ns()}")),
            destination=night.warehouse.destination(),
            dataset_name=part.dataset,
        )
        pipeline.sync_destination()
        renamed = rename_system_columns(pipeline)
        before = snapshot(pipeline)
        if night.request.replay is not None:
            night.request.replay.begin(extraction.vendor, part.dataset, pipeline)
        elif night.keeping is not None:
            night.keeping.knew(extraction.vendor, part.dataset, pipeline.state.get("sources", {}), before)
        sources: Mapping[str, Any] = pipeline.state.get("sources", {})
        resources = sources.get(part.dataset, {}).get("resources", {})
        extraction.states[part.dataset] = resources
        prepared.append(Prepared(part, pipeline, before, deepcopy(resources), renamed))
    return prepared


def extract(
    prepared: Sequence[Prepared],
    extraction: Extraction,
    report: VendorReport,
    *,
    rebuild: frozenset[str] = frozenset(),
) -> list[Prepared]:
    """Extract all parts; those that had something to extract."""
    extracted = []
    for each in prepared:
        part, pipeline = each.part, each.pipeline
        try:
            source = part.source()
        except NightloadError as error:
            if isinstance(error, AccessDenied | Unreachable | ConfigurationError):
                raise  # the other parts fare no better
            failed = TableReport(
                table=f"{part.dataset}.*", status="failed", error=summarize(error), recovery=error.recovery
            )
            report.put(failed)
            log.info("%s.*: %s", part.dataset, summarize(error))
            continue
        if not source.resources:
            continue
        anew = [name for name in source.resources if f"{part.dataset}.{name}" in rebuild]
        late = [name for name in source.resources if name not in anew and _records(part, extraction, name)]
        others = [name for name in source.resources if name not in anew and name not in late]
        if anew:
            pipeline.extract(source.with_resources(*anew), refresh="drop_resources")
        if others:
            pipeline.extract(source.with_resources(*others))
        extracted.append(each._replace(late=source.with_resources(*late) if late else None))
    return extracted


def _records(part: Part, extraction: Extraction, table: str) -> bool:
    """Does this table record what another part loads? Then only the load shows what is in it."""
    return bool(part.records) and not extraction.table(f"{part.dataset}.{table}").asks_vendor


def load_parts(
    night: Night,
    extraction: Extraction,
    extracted: Sequence[Prepared],
    report: VendorReport,
    *,
    rebuild: frozenset[str] = frozenset(),
    exposed: frozenset[str] = frozenset(),
) -> bool:
    """Load the parts and count; True if the build changed."""
    changed = False
    for each in extracted:
        part, pipeline = each.part, each.pipeline
        if each.late is not None:
            pipeline.extract(each.late)
        outcomes = [outcome for outcome in extraction.outcomes.values() if outcome.dataset == part.dataset]
        anew = [outcome for outcome in outcomes if _name(outcome) in rebuild]
        if failed := next((outcome.error for outcome in anew if outcome.error), None):
            for outcome in outcomes:  # nothing of this part is loaded, so nothing is dropped
                outcome.error, outcome.loaded = (
                    outcome.error or f"not built anew, since another failed: {failed}",
                    False,
                )
        else:
            with (
                night.warehouse.making_anew([(part.dataset, outcome.table) for outcome in anew])
                if anew
                else nullcontext()
            ):
                asides = _put_aside(night, anew)
                changed |= _load(night, pipeline, each, outcomes, report, asides)
                _settle_asides(night, anew, asides, exposed=exposed)
            sources: Mapping[str, Any] = pipeline.state.get("sources", {})
            extraction.states[part.dataset] = sources.get(part.dataset, {}).get("resources", {})
        _count(night, pipeline, outcomes, report)
        if night.request.replay is not None and not night.request.replay.fresh:
            loaded = [outcome.table for outcome in outcomes if outcome.loaded]
            forget_digests(night.request.place, night.warehouse, part.dataset, loaded)
    return changed


def _put_aside(night: Night, anew: Sequence[Outcome]) -> dict[str, str]:
    """Before tables are rebuilt, rename the old ones: table → its name until the new one is loaded."""
    asides = {}
    with night.warehouse.write() as session:
        for outcome in anew:
            aside = shorten(f"{outcome.table}_before_{night.until:%Y%m%d_%H%M%S}", tag_for(outcome.table), MAX_BYTES)
            if outcome.table in session.tables(outcome.dataset):
                session.change(f"ALTER TABLE {quote(outcome.dataset, outcome.table)} RENAME TO {quote(aside)}")
                asides[outcome.table] = aside
    return asides


def _settle_asides(
    night: Night, anew: Sequence[Outcome], asides: Mapping[str, str], *, exposed: frozenset[str]
) -> None:
    """Keep what only an old table holds (deleted rows, history) under its other name.

    Of `exposed` tables, whose older rows hold personal data as it came, nothing is kept.
    """
    for outcome in anew:
        if outcome.table not in asides or not outcome.loaded:
            continue
        with night.warehouse.write() as session:
            if outcome.mode == Mode.KEPT:
                void_backfills(session, night.ledger, outcome.dataset, outcome.table)
            if _name(outcome) in exposed:
                night.warehouse.purge()
                for aside in sorted(session.tables(outcome.dataset)):
                    if aside.startswith(f"{outcome.table}_before_"):
                        session.change(f"DROP TABLE {quote(outcome.dataset, aside)}")
                outcome.notes.append("built anew; what only the old table held is given up")
            elif outcome.mode == Mode.LATEST:
                session.change(f"DROP TABLE {quote(outcome.dataset, asides[outcome.table])}")
            else:
                outcome.notes.append(f"built anew; the old table is {outcome.dataset}.{asides[outcome.table]}")


def _name(outcome: Outcome) -> str:
    return f"{outcome.dataset}.{outcome.table}"


def _load(
    night: Night,
    pipeline: dlt.Pipeline,
    prepared: Prepared,
    outcomes: Sequence[Outcome],
    report: VendorReport,
    asides: Mapping[str, str],
) -> bool:
    if not pipeline.has_pending_data:
        return False
    pipeline.normalize()
    with night.warehouse.write() as session:
        changes = rename_columns(session, pipeline.dataset_name, prepared.renamed)
        pipeline.load(raise_on_failed_jobs=False)
    if refused := _refused(night, pipeline, outcomes):
        _take_back(night, prepared, refused, asides=asides)
    known = snapshot(pipeline)
    changes += changes_between(prepared.before, known)
    report.schema_changes += [{"dataset": pipeline.dataset_name, **change} for change in changes]
    night.warehouse.clear_staging(pipeline.dataset_name)
    columns = columns_of(pipeline, known)
    with night.warehouse.write() as session:
        there = session.tables(pipeline.dataset_name)
        for outcome in outcomes:
            if outcome.table in there:
                mark_deleted(session, outcome, at=night.until)
        record_columns(session, pipeline.dataset_name, columns)
        report.schema_changes += record_values(
            session, columns, outcomes, dataset=pipeline.dataset_name, at=night.until
        )
        comment(session, pipeline.dataset_name, of_vendor(known, outcomes))
    merged = [outcome.table for outcome in outcomes if outcome.loaded and outcome.mode in MERGED]
    for table, key in keys_of(known, merged).items():
        night.warehouse.index(pipeline.dataset_name, table, key)
    for outcome in outcomes:
        if outcome.loaded and outcome.table in there and outcome.mode in (Mode.INCREMENTAL, Mode.KEPT):
            night.warehouse.index_live(pipeline.dataset_name, outcome.table, live(outcome.mode))
    return True


def _refused(night: Night, pipeline: dlt.Pipeline, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The tables that the database refused, which have failed. Raises an error that is not about one table."""
    assert isinstance(pipeline.destination, Capable)  # noqa: S101 - `Warehouse.destination` made it
    errors = pipeline.destination.refused
    tables = {outcome.table: outcome for outcome in outcomes}
    for table, error in errors.items():
        outcome = tables.get(table)
        why = night.warehouse.refusal(error, where=f"{pipeline.dataset_name}.{table}")
        if outcome is None or why is None or cancellation.heard(error):
            raise error
        log.debug("%s.%s was refused", pipeline.dataset_name, table, exc_info=error)
        log.info("%s.%s: %s", pipeline.dataset_name, table, summarize(why))
        outcome.error, outcome.recovery, outcome.loaded, outcome.missed = summarize(why), why.recovery, False, None
    refused = [tables[table] for table in errors]
    errors.clear()
    return refused


def _take_back(night: Night, prepared: Prepared, refused: Sequence[Outcome], *, asides: Mapping[str, str]) -> None:
    """Leave refused tables as they were: rows, columns, and where their next walk goes on."""
    pipeline = prepared.pipeline
    schema, dataset = pipeline.default_schema, pipeline.dataset_name
    loaded = schema.version_hash
    for outcome in refused:
        if outcome.table in asides:
            with night.warehouse.write() as session:
                aside = quote(dataset, asides[outcome.table])
                session.change(f"ALTER TABLE {aside} RENAME TO {quote(outcome.table)}")
        if outcome.table not in prepared.before:
            schema.drop_tables([outcome.table])
        else:
            schema.tables[outcome.table]["columns"] = deepcopy(dict(prepared.before[outcome.table]))
    with pipeline.managed_state(extract_state=True) as state:
        resources = state["sources"][dataset]["resources"]
        for outcome in refused:
            resources[outcome.table] = dict(prepared.states.get(outcome.table, {}))
    pipeline.normalize()
    with night.warehouse.write() as session:
        pipeline.load(raise_on_failed_jobs=True)
        if loaded != schema.version_hash:  # else it is the newest, and the next run believes that its columns are there
            session.change(f"DELETE FROM {quote(dataset, schema.version_table_name)} WHERE version_hash = ?", [loaded])  # noqa: S608


def _count(night: Night, pipeline: dlt.Pipeline, outcomes: Sequence[Outcome], report: VendorReport) -> None:
    with night.warehouse.write() as session:
        there = session.tables(pipeline.dataset_name)
        replay = night.request.replay
        for outcome in outcomes:
            if replay is not None and replay.nothing_new(outcome):
                table = TableReport(
                    table=_name(outcome), mode=str(outcome.mode), status="unchanged", notes=outcome.notes
                )
                table.vendor_count, table.extracted = outcome.vendor_count, outcome.extracted
            else:
                table = count(session, outcome, exists=outcome.table in there)
            table.digest = outcome.digest
            if replay is not None:
                replay.tell(table)
            report.put(table)
