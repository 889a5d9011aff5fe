"""One night: for each vendor extract, load, count, publish; and a row in the ledger for all of it.

Vendors are extracted side by side and loaded one at a time, in the order in which they come to
their end: the main thread alone speaks with the warehouse and the ledger. They fail alone: one that
is broken neither stops the others nor lets the run look green. A table that fails to extract yields
nothing and keeps yesterday's rows; a vendor whose load or counts go wrong is not published at all.
What may pass by itself is tried again within the night, if the night has an end (`pace`).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import dlt
import pendulum
from dlt.pipeline.exceptions import PipelineStepFailed

from pipelines import __version__, dbt
from pipelines.comments import comment, of_vendor
from pipelines.counts import count, live, mark_deleted
from pipelines.dark import record_values
from pipelines.forgotten import read_forgotten
from pipelines.keeping import Keeping, read_choice
from pipelines.ledger import Ledger
from pipelines.pace import Pace, Publish, read_pace
from pipelines.report import RunReport, TableReport, VendorReport
from pipelines.request import Request, choose, refuse_unknown_table, vendor_of
from pipelines.schema import changes_between, columns_of, keys_of, record_columns, snapshot
from pipelines.side_by_side import SideBySide
from pipelines.tries import Prepared, Try, again, as_rows, whole
from pipelines.warehouse import Warehouse, lock, open_warehouse, quote
from pipelines.warehouse.reader import open_reader
from pipelines.warehouse.session import void_backfills
from sources import VENDORS
from sources.errors import AccessDenied, ConfigurationError, NightloadError, Recovery, Unreachable, summarize
from sources.extraction import MERGED, Extraction, Mode, Outcome
from sources.naming import MAX_BYTES, shorten, tag_for
from sources.policy import Policy, read_policy
from sources.terms import Forgotten
from sources.vendor import Vendor, package

log = logging.getLogger(__name__)

UNMET = "nothing to load: no such table or no result yet, or the key cannot see it, or the settings leave it out"


@dataclass(kw_only=True)
class Night:
    """A run under way."""

    request: Request
    ledger: Ledger
    warehouse: Warehouse
    run_id: str
    until: pendulum.DateTime
    policy: Policy
    pace: Pace = field(default_factory=Pace)
    forgotten: Forgotten | None = None
    """Who is kept out; read when the first vendor begins."""
    keeping: Keeping | None = None
    """Where this run's pages are kept, if they are."""
    tries: dict[str, list[Try]] = field(default_factory=dict)
    """Vendor → what was tried of it, in the order in which they are told of."""
    unpublished: list[Try] = field(default_factory=list)
    """Whose proven rows wait for `publish`: one vendor's, or all vendors' for the end of the night."""

    def told(self) -> list[VendorReport]:
        return [whole([each.report for each in tries]) for tries in self.tries.values()]


def run(request: Request) -> RunReport:
    """Run one night and say what came of it.

    Raises `Locked` when another run has the warehouse, and `ConfigurationError` for a request that
    cannot be carried out; whatever happens to a vendor is in the report.
    """
    chosen, skipped = choose(request)
    project = dbt.find_project(request.place) if request.then_dbt else None
    policy, keep = read_policy(), None if request.replay else read_choice(request.place.home)
    pace = Pace() if request.replay else read_pace(request.place.home, until=request.until)
    for dataset, table, _ in policy.columns:
        refuse_unknown_table(f"{dataset}.{table}")
    with lock(request.place):
        ledger = Ledger(request.place.ledger)
        try:
            if ledger.is_new():
                with suppress(NightloadError), open_reader(request.place) as reader:
                    ledger.adopt(reader)
            for crashed in ledger.close_crashed():
                log.warning("run %s had crashed: nothing half done is in the warehouse", crashed)
            datasets = [name for vendor in VENDORS for name in package(vendor).tables()]
            run_id = ledger.open_run(chosen, version=__version__)
            with _recorded(ledger, run_id), open_warehouse(request.place, datasets=datasets) as warehouse:
                until = request.replay.until if request.replay else pendulum.now("UTC")
                night = Night(
                    request=request,
                    ledger=ledger,
                    warehouse=warehouse,
                    run_id=run_id,
                    until=until,
                    policy=policy,
                    pace=pace,
                    forgotten=request.replay.forgotten if request.replay else None,
                )
                if keep is not None:
                    night.keeping = Keeping(request.place, run_id, keep, asked=_asked(request, chosen, until))
                report = _night(night, chosen, skipped)
                if project:
                    report.dbt = _dbt(night, project, green=report.status == "ok")
                return report
        finally:
            ledger.close()


def _asked(request: Request, chosen: Sequence[str], until: pendulum.DateTime) -> dict[str, Any]:
    """What a replay must know to ask for the same."""
    return {
        "version": __version__,
        "until": until.isoformat(),
        "vendors": list(chosen),
        "tables": sorted(request.tables),
        "full": request.full,
        "allow_empty": sorted(request.allow_empty),
    }


@contextmanager
def _recorded(ledger: Ledger, run_id: str) -> Iterator[None]:
    """A run that does not come to its end has failed, and why is kept."""
    try:
        yield
    except BaseException as stopped:
        if not ledger.is_closed(run_id):
            interrupted = isinstance(stopped, KeyboardInterrupt | SystemExit)
            ledger.close_run(run_id, status="failed", error="interrupted" if interrupted else summarize(stopped))
        raise


def _night(night: Night, chosen: Sequence[str], skipped: Sequence[str]) -> RunReport:
    night.tries = {vendor: [] for vendor in chosen}
    report = RunReport(run_id=night.run_id, vendors=[], skipped=list(skipped))
    try:
        try:
            _all_vendors(night, [Try(vendor=vendor) for vendor in chosen])
        finally:
            for attempt in chain.from_iterable(night.tries.values()):
                attempt.at_the_vendor.close()
        report.vendors = night.told()
        if night.request.tables:
            _refuse_unmet(night, report)
        # The last swap shows how the run ended, and only the swap ends it: killed before that, it has crashed.
        with night.ledger.at_once():
            night.ledger.close_run(night.run_id, status=_told(night, report.status))
            _publish(night)
        report.vendors = night.told()
        _show_ledger(night)
    finally:
        shutil.rmtree(night.request.place.work, ignore_errors=True)
    return report


def _all_vendors(night: Night, waiting: list[Try]) -> None:
    """Extract side by side, load in the order in which they come to their end, try again what may pass."""
    with SideBySide[Try](night.pace.side_by_side) as side:
        while waiting or side.under_way:
            while side.has_room and waiting and waiting[0].wait <= 0:
                _begin(night, side, waiting.pop(0))
            if waiting and not side.under_way and not night.unpublished:
                night.warehouse.discard()  # nobody is kept from anything while we wait
            pause = waiting[0].wait if waiting and side.has_room else None
            if (done := side.next(pause)) is None:
                continue
            attempt, error = done
            at_stake = _finish(night, attempt, error)
            side.over()
            if waiting or side.under_way or any(again(each, night.pace) for each in at_stake):
                at_stake += _publish(night) if night.pace.publish == Publish.VENDOR else []
            for each in dict.fromkeys(at_stake):
                if (next_try := again(each, night.pace)) is not None:
                    waiting.append(next_try)
                    _tell(night, each.vendor, f"waits until {next_try.at}")
            waiting.sort(key=lambda each: each.not_before)


def _dbt(night: Night, project: dbt.Project, *, green: bool) -> dbt.DbtReport:
    """dbt over what stands in the warehouse now, if all of it is good."""
    if not green:
        return dbt.DbtReport(status="skipped", error="the load was not green")
    report = dbt.build(
        project, place=night.request.place, warehouse=night.warehouse, ledger=night.ledger, run_id=night.run_id
    )
    _show_ledger(night)
    return report


def _publish(night: Night) -> list[Try]:
    """Show what was loaded; if that fails, it is a failure of the vendors that brought it, which are returned."""
    brought, night.unpublished = night.unpublished, []
    if not brought:
        return []
    try:
        night.warehouse.publish(night.ledger)
    except (NightloadError, OSError) as error:
        for each in brought:
            each.report.failed(
                f"the warehouse could not be published: {summarize(error)}", getattr(error, "recovery", None)
            )
            _record(night, each.vendor)
            log.error("%s: %s", each.vendor, each.report.error)
        night.warehouse.discard(kept=True)
        if night.ledger.is_closed(night.run_id):
            night.ledger.close_run(night.run_id, status="failed")
        return brought
    return []


def _show_ledger(night: Night) -> None:
    """Bring the ledger into the warehouse where no vendor's swap did. The file has it all: this fails no run."""
    try:
        if night.ledger.unpublished():
            night.warehouse.begin()
            night.warehouse.publish(night.ledger)
    except (NightloadError, OSError) as error:
        why = summarize(error)
        if why not in {vendor.error for vendor in night.told()}:  # then it has been said
            log.error("the ledger could not be shown in the warehouse: %s", why)


def _refuse_unmet(night: Night, report: RunReport) -> None:
    """A table that was asked for by name and that no vendor walked is a failure, not silence."""
    met = {table.table for vendor in report.vendors for table in vendor.tables}
    for name in sorted(night.request.tables - met):
        vendor = next((v for v in report.vendors if v.vendor == vendor_of(name.split(".")[0])), None)
        if vendor is not None and vendor.error is None:
            error = f"the vendor shows nothing for {name}: {UNMET}"
            last = night.tries[vendor.vendor][-1].report
            last.tables.append(TableReport(table=name, status="failed", error=error))
            log.info("%s: %s", vendor.vendor, error)
            last.settle()
            _record(night, vendor.vendor)
    report.vendors = night.told()


def _begin(night: Night, side: SideBySide[Try], attempt: Try) -> None:
    """Connect, read from the warehouse what the extraction goes on from, and let it extract in a thread of its own."""
    night.tries[attempt.vendor].append(attempt)
    try:
        attempt.at_the_vendor.enter_context(_at_the_vendor(night, attempt))
        attempt.connected = package(attempt.vendor).connect()
        night.warehouse.begin()
        attempt.extraction = _extraction(night, attempt)
        attempt.prepared = _prepare(night, attempt.connected, attempt.extraction)
    except Exception as error:  # noqa: BLE001 - `_finish` judges it
        side.ended(attempt, error)
    else:
        side.start(attempt, partial(_extract_first, night), name=attempt.vendor)


def _finish(night: Night, attempt: Try, failed: BaseException | None) -> list[Try]:
    """Load what was extracted, count, walk again in full what asks for it. Returns the tries that this decides."""
    started, report, at_stake = time.monotonic(), attempt.report, [attempt]
    try:
        if failed is not None:
            raise failed
        _tell(night, attempt.vendor, "is loaded")
        _load_vendor(night, attempt)
    except NightloadError as error:
        report.failed(summarize(error), error.recovery)
    except PipelineStepFailed as error:
        if isinstance(error.exception, KeyboardInterrupt):  # Ctrl-C or SIGTERM, which dlt wraps
            raise error.exception from None
        log.debug("%s failed", attempt.vendor, exc_info=True)
        why = night.warehouse.explain(error.exception)
        report.failed(f"{error.step} failed: {summarize(why)}", getattr(why, "recovery", None))
    except Exception as error:
        log.debug("%s failed", attempt.vendor, exc_info=True)
        why = night.warehouse.explain(error)
        report.failed(summarize(why), getattr(why, "recovery", None))
    finally:
        if attempt.connected is not None:
            report.requests = attempt.connected.http.requests
            attempt.connected.http.close()
        attempt.at_the_vendor.close()
        report.seconds += time.monotonic() - started
        report.finished_at = pendulum.now("UTC")
    attempt.let_go()
    _tell(night, attempt.vendor, "")
    if report.error is not None:
        if failed is None:
            night.warehouse.discard()
        log.error("%s: %s", attempt.vendor, report.error)
        if night.unpublished and not night.warehouse.kept:
            at_stake += _lost(night)
    _record(night, attempt.vendor)
    return at_stake


@contextmanager
def _at_the_vendor(night: Night, attempt: Try) -> Iterator[None]:
    """Inside, the vendor's answers are recorded, or played, if that is asked for."""
    if night.request.replay is not None:
        with night.request.replay.playing(attempt.vendor):
            yield
    elif night.keeping is not None:

        def tables() -> dict[str, dict[str, Any]]:
            told = ("vendor_count", "extracted", "digest", "status", "error")
            report = whole([each.report for each in night.tries[attempt.vendor]])
            return {table.table: {name: getattr(table, name) for name in told} for table in report.tables}

        with night.keeping.vendor(attempt.vendor, tables, anew=attempt.tables if attempt.number > 1 else None):
            yield
    else:
        yield


def _lost(night: Night) -> list[Try]:
    """What was kept for the end of the night went down with the connection."""
    lost, night.unpublished = night.unpublished, []
    for each in lost:
        each.report.failed("what was loaded was lost with the connection to the warehouse", Recovery.RETRY)
        log.error("%s: %s", each.vendor, each.report.error)
        _record(night, each.vendor)
    return lost


def _tell(night: Night, vendor: str, what: str) -> None:
    if night.request.on_progress:
        night.request.on_progress(vendor, what)


def _extraction(night: Night, attempt: Try) -> Extraction:
    request, tables = night.request, attempt.tables or night.request.tables
    return Extraction(
        vendor=attempt.vendor,
        spool_dir=_folder(night, attempt.vendor, f"spool-{attempt.number}"),
        until=night.until,
        full=(tables or frozenset({"*"})) if request.full else frozenset(),
        allow_empty=request.allow_empty,
        tables=tables or None,
        on_progress=partial(request.on_progress, attempt.vendor) if request.on_progress else None,
        policy=night.policy,
        forgotten=_forgotten(night),
        rebuilds=request.replay is None,
        known=request.replay.columns(attempt.vendor) if request.replay else None,
    )


def _extract_first(night: Night, attempt: Try) -> None:
    """What is done in a thread of its own: nothing here asks the warehouse or the ledger."""
    started = time.monotonic()
    assert attempt.extraction is not None  # noqa: S101 - `_begin` made it
    try:
        attempt.extracted = _extract(attempt.prepared, attempt.extraction, attempt.report)
    finally:
        attempt.report.seconds += time.monotonic() - started


def _load_vendor(night: Night, attempt: Try) -> None:
    """Load, count; walk again in full what asks for it."""
    vendor, first, report = attempt.connected, attempt.extraction, attempt.report
    assert vendor is not None and first is not None  # noqa: S101 - `_begin` made them
    night.warehouse.begin()
    changed = _load_parts(night, first, attempt.extracted, report)
    rebuild = frozenset(name for name, outcome in first.outcomes.items() if outcome.rebuild)
    if rebuild and night.request.replay is None:
        exposed = frozenset(name for name, outcome in first.outcomes.items() if outcome.exposed)
        changed |= _pass(night, vendor, _second(first, rebuild), report, rebuild=rebuild, exposed=exposed)
    parted = [table for table in report.tables if table.walk_whole]
    if parted and night.request.replay is None:
        for table in parted:
            log.info("%s: %s; walking it whole", table.table, table.error)
        changed |= _pass(night, vendor, _second(first, frozenset(table.table for table in parted)), report)
    report.settle()
    if any(table.status == "mismatch" and table.landed_differs for table in report.tables):
        report.failed("what landed is not what was extracted; nothing of this vendor was published", None, "mismatch")
        return
    if changed:
        night.unpublished.append(attempt)
        if night.pace.publish == Publish.NIGHT:
            night.warehouse.keep()


def _forgotten(night: Night) -> Forgotten:
    if night.forgotten is None:
        night.forgotten = read_forgotten(night.request.place)
    return night.forgotten


def _second(first: Extraction, tables: frozenset[str]) -> Extraction:
    """The same extraction once more, of these tables, whatever their state says."""
    return Extraction(
        vendor=first.vendor,
        spool_dir=first.spool_dir,
        until=first.until,
        full=tables,
        allow_empty=first.allow_empty,
        tables=tables,
        on_progress=first.on_progress,
        policy=first.policy,
        forgotten=first.forgotten,
    )


def _pass(
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
    extracted = _extract(_prepare(night, vendor, extraction), extraction, report, rebuild=rebuild)
    return _load_parts(night, extraction, extracted, report, rebuild=rebuild, exposed=exposed)


def _prepare(night: Night, vendor: Vendor, extraction: Extraction) -> list[Prepared]:
    """A pipeline for each part, with the state and the schema that the warehouse holds."""
    prepared = []
    for part in vendor.parts(extraction):
        if not extraction.wants_any_of(part.dataset):
            continue
        pipeline = dlt.pipeline(
            part.dataset,
            pipelines_dir=str(_folder(night, part.dataset, f"pipelines-{time.monotonic_ns()}")),
            destination=night.warehouse.destination(),
            dataset_name=part.dataset,
        )
        pipeline.sync_destination()
        before = snapshot(pipeline)
        if night.request.replay is not None:
            night.request.replay.begin(extraction.vendor, part.dataset, pipeline)
        elif night.keeping is not None:
            night.keeping.knew(extraction.vendor, part.dataset, pipeline.state.get("sources", {}), before)
        prepared.append(Prepared(part, pipeline, before))
    return prepared


def _extract(
    prepared: Sequence[Prepared],
    extraction: Extraction,
    report: VendorReport,
    *,
    rebuild: frozenset[str] = frozenset(),
) -> list[Prepared]:
    """Extract all parts; those that had something to extract."""
    extracted = []
    for part, pipeline, before in prepared:
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
        others = [name for name in source.resources if name not in anew]
        if anew:
            pipeline.extract(source.with_resources(*anew), refresh="drop_resources")
        if others:
            pipeline.extract(source.with_resources(*others))
        extracted.append(Prepared(part, pipeline, before))
    return extracted


def _load_parts(
    night: Night,
    extraction: Extraction,
    extracted: Sequence[Prepared],
    report: VendorReport,
    *,
    rebuild: frozenset[str] = frozenset(),
    exposed: frozenset[str] = frozenset(),
) -> bool:
    """Load the parts in the opposite order and count; True if the build changed."""
    changed = False
    for part, pipeline, before in reversed(extracted):
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
                _put_aside(night, [outcome for outcome in anew if _name(outcome) not in exposed])
                _drop_exposed(night, [outcome for outcome in anew if _name(outcome) in exposed])
                changed |= _load(night, pipeline, outcomes, before, report)
        _count(night, pipeline, outcomes, report)
    return changed


def _put_aside(night: Night, anew: Sequence[Outcome]) -> None:
    """Before a table is built anew, keep what only the old one holds (deleted rows, history) under another name."""
    with night.warehouse.write() as session:
        for outcome in anew:
            if outcome.mode == Mode.KEPT:
                void_backfills(session, night.ledger, outcome.dataset, outcome.table)
            if outcome.mode != Mode.LATEST:
                aside = shorten(
                    f"{outcome.table}_before_{night.until:%Y%m%d_%H%M%S}", tag_for(outcome.table), MAX_BYTES
                )
                session.change(f"ALTER TABLE {quote(outcome.dataset, outcome.table)} RENAME TO {quote(aside)}")
                outcome.notes.append(f"built anew; the old table is {outcome.dataset}.{aside}")


def _drop_exposed(night: Night, exposed: Sequence[Outcome]) -> None:
    """Drop what was put aside of tables whose older rows hold personal data as it came; dlt drops the tables."""
    if not exposed:
        return
    night.warehouse.purge()
    with night.warehouse.write() as session:
        for outcome in exposed:
            for aside in sorted(session.tables(outcome.dataset)):
                if aside.startswith(f"{outcome.table}_before_"):
                    session.change(f"DROP TABLE {quote(outcome.dataset, aside)}")
            outcome.notes.append("built anew; what only the old table held is given up")


def _name(outcome: Outcome) -> str:
    return f"{outcome.dataset}.{outcome.table}"


def _load(
    night: Night, pipeline: dlt.Pipeline, outcomes: Sequence[Outcome], before: Mapping[str, Any], report: VendorReport
) -> bool:
    if not pipeline.has_pending_data:
        return False
    pipeline.normalize()
    with night.warehouse.write():
        pipeline.load(raise_on_failed_jobs=True)
    report.schema_changes += [
        {"dataset": pipeline.dataset_name, **change} for change in changes_between(before, snapshot(pipeline))
    ]
    night.warehouse.clear_staging(pipeline.dataset_name)
    columns = columns_of(pipeline)
    with night.warehouse.write() as session:
        there = session.tables(pipeline.dataset_name)
        for outcome in outcomes:
            if outcome.table in there:
                mark_deleted(session, outcome, at=night.until)
        record_columns(session, pipeline.dataset_name, columns)
        report.schema_changes += record_values(
            session, columns, outcomes, dataset=pipeline.dataset_name, at=night.until
        )
        comment(session, pipeline.dataset_name, of_vendor(snapshot(pipeline), outcomes))
    merged = [outcome.table for outcome in outcomes if outcome.loaded and outcome.mode in MERGED]
    for table, key in keys_of(pipeline, merged).items():
        night.warehouse.index(pipeline.dataset_name, table, key)
    for outcome in outcomes:
        if outcome.loaded and outcome.table in there and outcome.mode in (Mode.INCREMENTAL, Mode.KEPT):
            night.warehouse.index_live(pipeline.dataset_name, outcome.table, live(outcome.mode))
    return True


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


def _record(night: Night, name: str) -> None:
    """What came of a vendor so far, in place of what was said of it before."""
    tries = [each.report for each in night.tries[name]]
    report = whole(tries)
    night.ledger.forget_vendor(night.run_id, name)
    _record_changes(night, report)
    night.ledger.record(
        "run_vendors",
        [
            {
                "run_id": night.run_id,
                "vendor": report.vendor,
                "status": _told(night, report.status),
                "error": report.error,
                "requests": report.requests,
                "seconds": report.seconds,
            }
        ],
    )
    night.ledger.record(
        "run_tries",
        [{"run_id": night.run_id, **row, "status": _told(night, row["status"])} for row in as_rows(tries)],
    )
    night.ledger.record(
        "run_tables",
        [
            {
                "run_id": night.run_id,
                "vendor": report.vendor,
                "dataset": table.table.split(".")[0],
                "table_name": table.table.partition(".")[2],
                "notes": json.dumps(table.notes, ensure_ascii=False) if table.notes else None,
                "status": _told(night, table.status),
                **{
                    name: getattr(table, name)
                    for name in [
                        "mode",
                        "load_id",
                        "vendor_count",
                        "extracted",
                        "landed",
                        "live",
                        "deleted",
                        "error",
                        "seconds",
                    ]
                },
            }
            for table in report.tables
        ],
    )


def _told(night: Night, status: str) -> str:
    """What went well in a replay makes nothing fresh, and is no good night to go by."""
    good = status in ("ok", "unchanged", "warning")
    return "replayed" if night.request.replay is not None and good else status


def _record_changes(night: Night, report: VendorReport) -> None:
    """What changed in the schemas of this vendor; nothing, if it was not published."""
    told = {"run_id": night.run_id, "vendor": report.vendor, "changed_at": night.until.isoformat()}
    changes = [] if report.error else report.schema_changes
    night.ledger.record("schema_changes", [{**told, **change} for change in changes])


def _folder(night: Night, *parts: str) -> Any:
    folder = night.request.place.work.joinpath(night.run_id, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def exit_code(report: RunReport) -> int:
    """0 all green · 1 something failed · 2 configuration · 4 counts did not agree."""
    failed = [vendor for vendor in report.vendors if vendor.status == "failed"]
    if failed:
        return 2 if all(vendor.recovery == Recovery.CONFIGURE for vendor in failed) else 1
    if report.status == "mismatch":
        return 4
    return 1 if report.dbt is not None and report.dbt.status == "failed" else 0
