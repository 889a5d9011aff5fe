"""One night: for each vendor extract, load, count, publish; and a row in the ledger for all of it.

Vendors are extracted side by side and loaded one at a time, in the order in which they come to
their end: the main thread alone speaks with the warehouse and the ledger. They fail alone: one that
is broken neither stops the others nor lets the run look green. A table that fails to extract yields
nothing and keeps yesterday's rows; a vendor whose load or counts go wrong is not published at all.
What may pass by itself is tried again within the night, if the night has an end (`pace`).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import pendulum
from dlt.pipeline.exceptions import PipelineStepFailed

from pipelines import __version__
from pipelines.catalog.system_tables import adopt, publish
from pipelines.config.malloc import give_back
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from pipelines.run import dbt
from pipelines.run.attempts import Try, again, may_come_again, whole
from pipelines.run.context import Night, as_told, folder, record, tell, who_is_forgotten
from pipelines.run.load import extract, load_parts, pass_over, prepare
from pipelines.run.options import PASSING, Pace, Publish, read_pace
from pipelines.run.recording.retention import Keeping, read_choice
from pipelines.run.recovery import close_crashed, set_right
from pipelines.run.report import RunReport, TableReport
from pipelines.run.request import Request, choose, refuse_unknown_table, vendor_of
from pipelines.run.workers import SideBySide
from pipelines.warehouse.lock import lock
from pipelines.warehouse.open import open_reader, open_warehouse
from sources import VENDORS
from sources.convert.duckdb_session import spilling_into
from sources.core import cancellation
from sources.core.errors import Locked, NightloadError, Recovery, no_room, summarize
from sources.extract.connector import package
from sources.extract.extractor import Extraction
from sources.privacy.policy import read_policy

log = logging.getLogger(__name__)

UNMET = "nothing to load: no such table or no result yet, or the key cannot see it, or the settings leave it out"


def run(request: Request) -> RunReport:
    """Run one night and say what came of it. One that cannot begin (no room, no database) is begun again as vendors
    are tried again.

    Raises `Locked` when another run has the warehouse, `ConfigurationError` for a request that cannot be carried out,
    and what it could not begin for; whatever happens to a vendor is in the report.
    """
    pace = Pace() if request.replay else read_pace(request.place.home, until=request.until)
    tries = 0
    while True:
        tries += 1
        try:
            return _run(request, pace)
        except NightloadError as error:
            at = pace.again_at(tries, now=datetime.now(UTC))
            if at is None or error.recovery not in PASSING or isinstance(error, Locked):
                raise
            log.warning("the run cannot begin: %s; tried again at %s", summarize(error), f"{at:%H:%M:%S} UTC")
            time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))


def _run(request: Request, pace: Pace) -> RunReport:
    chosen, skipped = choose(request)
    project = dbt.find_project(request.place) if request.then_dbt else None
    policy, keep = read_policy(), None if request.replay else read_choice(request.place.home)
    for dataset, table, _ in policy.columns:
        refuse_unknown_table(f"{dataset}.{table}", gone=True)
    with lock(request.place):
        ledger = Ledger(request.place.ledger)
        try:
            is_new = ledger.is_new()
            _close_crashed(request.place, ledger)
            datasets = [name for vendor in VENDORS for name in package(vendor).tables()]
            run_id = ledger.open_run(chosen, version=__version__)
            with (
                _recorded(request.place, ledger, run_id),
                open_warehouse(request.place, datasets=datasets) as warehouse,
            ):
                if is_new:
                    _adopt(request.place, ledger, run_id)
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


def _close_crashed(place: Place, ledger: Ledger, *, but: Collection[str] = ()) -> None:
    for crashed in close_crashed(place, ledger, but=but):
        log.warning("run %s had crashed: nothing half done is in the warehouse", crashed)


def _adopt(place: Place, ledger: Ledger, run_id: str) -> None:
    """Take over what the warehouse tells of earlier runs, for whoever holds its lock: none of another machine's is
    under way, and those that say so have crashed."""
    with suppress(NightloadError), open_reader(place) as reader:
        adopt(ledger, reader)
    _close_crashed(place, ledger, but={run_id})


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
def _recorded(place: Place, ledger: Ledger, run_id: str) -> Iterator[None]:
    """A run that does not come to its end has failed, and why is kept; so is what it had published by then. One that
    another machine's lock refuses is none, as with the lock on this machine."""
    try:
        yield
    except Locked:
        ledger.withdraw_run(run_id)
        raise
    except BaseException as stopped:
        interrupted, why = cancellation.heard(stopped), no_room(stopped) or stopped
        if not ledger.is_closed(run_id):
            set_right(place, ledger, run_id)
            told = "interrupted" if interrupted or isinstance(stopped, SystemExit) else summarize(why)
            ledger.close_run(run_id, status="failed", error=told)
        if interrupted:
            raise KeyboardInterrupt from None
        if why is not stopped:
            raise why from None
        raise


def _night(night: Night, chosen: Sequence[str], skipped: Sequence[str]) -> RunReport:
    night.tries = {vendor: [] for vendor in chosen}
    report = RunReport(run_id=night.run_id, vendors=[], skipped=list(skipped))
    waiting = [Try(vendor=vendor) for vendor in chosen]
    try:
        with spilling_into(folder(night, "spilled")):
            while True:
                try:
                    _all_vendors(night, waiting)
                finally:
                    for attempt in chain.from_iterable(night.tries.values()):
                        attempt.at_the_vendor.close()
                waiting = _end(night, report)
                if not waiting:
                    break
        report.vendors = night.told()
        _show_ledger(night)
    finally:
        shutil.rmtree(night.request.place.work, ignore_errors=True)
    # there was no room to write it, and what the night worked with is gone now
    if not night.ledger.is_closed(night.run_id):
        for vendor in night.tries:
            record(night, vendor)
        night.ledger.close_run(night.run_id, status=as_told(night, report.status))
    return report


def _end(night: Night, report: RunReport) -> list[Try]:
    """Show what is still to be shown, and how the run ended. Returns what could not be shown and is tried again."""
    report.vendors = night.told()
    if night.request.tables:
        _refuse_unmet(night, report)
    # The last swap shows how the run ended, and only the swap ends it: killed before that, it has crashed.
    with night.ledger.at_once():
        night.ledger.close_run(night.run_id, status=as_told(night, report.status))
        waiting = [following for each in _publish(night) if (following := again(each, night.pace)) is not None]
        if waiting:
            night.ledger.reopen_run(night.run_id)
    return waiting


def _all_vendors(night: Night, waiting: list[Try]) -> None:
    """Extract side by side, load in the order in which they come to their end, try again what may pass."""
    with SideBySide[Try](night.pace.side_by_side) as side:
        while waiting or side.under_way:
            while side.has_room and (due := next((each for each in _free(night, waiting) if each.wait <= 0), None)):
                waiting.remove(due)
                _begin(night, side, due)
            if waiting and not side.under_way and not night.unpublished:
                night.warehouse.discard()  # nobody is kept from anything while we wait
            pauses = [max(0.0, each.wait) for each in _free(night, waiting)] if side.has_room else []
            if (done := side.next(min(pauses, default=None))) is None:
                continue
            attempt, error = done
            at_stake = _finish(night, attempt, error)
            side.over()
            if waiting or side.under_way or any(may_come_again(each, night.pace) for each in at_stake):
                at_stake += _publish(night) if night.pace.publish == Publish.VENDOR else []
            for each in dict.fromkeys(at_stake):
                if (next_try := again(each, night.pace)) is not None:
                    waiting.append(next_try)
                    tell(night, each.vendor, f"waits until {next_try.at}")
            waiting.sort(key=lambda each: each.not_before)


def _free(night: Night, waiting: Sequence[Try]) -> list[Try]:
    """Those whose vendor is not at work on an earlier try: two would write the same files and states."""
    return [each for each in waiting if all(earlier.over for earlier in night.tries[each.vendor])]


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
        publish(night.warehouse, night.ledger)
    except (NightloadError, OSError) as error:
        why = no_room(error) or error
        for each in brought:
            each.report.failed(
                f"the warehouse could not be published: {summarize(why)}", getattr(why, "recovery", None)
            )
            record(night, each.vendor)
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
            publish(night.warehouse, night.ledger)
    except (NightloadError, OSError) as error:
        night.warehouse.discard(kept=True)  # a disk that is full has room for the ledger then
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
            record(night, vendor.vendor)
    report.vendors = night.told()


def _begin(night: Night, side: SideBySide[Try], attempt: Try) -> None:
    """Connect, read from the warehouse what the extraction goes on from, and let it extract in a thread of its own."""
    night.tries[attempt.vendor].append(attempt)
    try:
        attempt.at_the_vendor.enter_context(_at_the_vendor(night, attempt))
        attempt.connected = package(attempt.vendor).connect()
        night.warehouse.begin()
        attempt.extraction = _extraction(night, attempt)
        attempt.prepared = prepare(night, attempt.connected, attempt.extraction)
    except Exception as error:  # noqa: BLE001 - `_finish` judges it
        side.ended(attempt, error)
    else:
        side.start(attempt, partial(_extract_first, night), name=attempt.vendor)


def _finish(night: Night, attempt: Try, failed: BaseException | None) -> list[Try]:
    """Load what was extracted, count, walk again in full what asks for it. Returns the tries that this decides."""
    started, report = time.monotonic(), attempt.report
    try:
        if failed is not None:
            raise failed
        tell(night, attempt.vendor, "is loaded")
        _load_vendor(night, attempt)
    except NightloadError as error:
        report.failed(summarize(error), error.recovery)
    except PipelineStepFailed as error:
        if cancellation.heard(error.exception):  # which dlt wraps
            raise KeyboardInterrupt from None
        log.debug("%s failed", attempt.vendor, exc_info=True)
        why = _why(night, error.exception)
        report.failed(f"{error.step} failed: {summarize(why)}", getattr(why, "recovery", None))
    except Exception as error:
        if cancellation.heard(error):
            raise
        log.debug("%s failed", attempt.vendor, exc_info=True)
        why = _why(night, error)
        report.failed(summarize(why), getattr(why, "recovery", None))
    finally:
        if attempt.connected is not None:
            report.requests = attempt.connected.http.requests
            attempt.connected.http.close()
        attempt.at_the_vendor.close()
        report.seconds += time.monotonic() - started
        report.finished_at = pendulum.now("UTC")
    attempt.let_go()
    tell(night, attempt.vendor, "")
    if report.error is not None:
        if failed is None:
            night.warehouse.discard()
        log.error("%s: %s", attempt.vendor, report.error)
        _mind_lost(night)
    record(night, attempt.vendor)
    give_back()
    lost, night.lost = night.lost, []
    return [attempt, *lost]


def _why(night: Night, error: BaseException) -> BaseException:
    """The same error in words that tell what to do, if there are any."""
    why = night.warehouse.explain(error)
    return (no_room(error) or error) if why is error else why


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


def _mind_lost(night: Night) -> None:
    """What was kept for the end of the night has failed if it went down with the connection: over one that was made
    anew, the others would load well.
    """
    if not night.unpublished or night.warehouse.kept:
        return
    night.lost, night.unpublished = night.unpublished, []
    for each in night.lost:
        each.report.failed("what was loaded was lost with the connection to the warehouse", Recovery.RETRY)
        log.error("%s: %s", each.vendor, each.report.error)
        for other in night.tries[each.vendor]:
            other.stale = not other.over
        record(night, each.vendor)


def _extraction(night: Night, attempt: Try) -> Extraction:
    request, tables = night.request, attempt.tables or night.request.tables
    return Extraction(
        vendor=attempt.vendor,
        spool_dir=folder(night, attempt.vendor, f"spool-{len(night.tries[attempt.vendor])}"),
        until=night.until,
        full=(tables or frozenset({"*"})) if request.full else frozenset(),
        allow_empty=request.allow_empty,
        tables=tables or None,
        on_progress=partial(request.on_progress, attempt.vendor) if request.on_progress else None,
        policy=night.policy,
        forgotten=who_is_forgotten(night),
        rebuilds=request.replay is None,
        known=request.replay.columns(attempt.vendor) if request.replay else None,
    )


def _extract_first(night: Night, attempt: Try) -> None:
    """What is done in a thread of its own: nothing here asks the warehouse or the ledger."""
    started = time.monotonic()
    assert attempt.extraction is not None  # noqa: S101 - `_begin` made it
    try:
        attempt.extracted = extract(attempt.prepared, attempt.extraction, attempt.report)
    finally:
        attempt.report.seconds += time.monotonic() - started


def _load_vendor(night: Night, attempt: Try) -> None:
    """Load, count; walk again in full what asks for it."""
    vendor, first, report = attempt.connected, attempt.extraction, attempt.report
    assert vendor is not None and first is not None  # noqa: S101 - `_begin` made them
    night.warehouse.begin()
    _mind_lost(night)
    if attempt.stale:
        raise NightloadError(what="what it went on from was lost with the connection to the warehouse")
    changed = load_parts(night, first, attempt.extracted, report)
    rebuild = frozenset(name for name, outcome in first.outcomes.items() if outcome.rebuild)
    if rebuild and night.request.replay is None:
        exposed = frozenset(name for name, outcome in first.outcomes.items() if outcome.exposed)
        changed |= pass_over(night, vendor, _second(first, rebuild), report, rebuild=rebuild, exposed=exposed)
    parted = [table for table in report.tables if table.walk_whole]
    if parted and night.request.replay is None:
        for table in parted:
            log.info("%s: %s; walking it whole", table.table, table.error)
        changed |= pass_over(night, vendor, _second(first, frozenset(table.table for table in parted)), report)
    report.settle()
    if any(table.status == "mismatch" and table.landed_differs for table in report.tables):
        report.failed("what landed is not what was extracted; nothing of this vendor was published", None, "mismatch")
        return
    if changed:
        night.unpublished.append(attempt)
        if night.pace.publish == Publish.NIGHT:
            night.warehouse.keep()


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


def exit_code(report: RunReport) -> int:
    """0 all green · 1 something failed · 2 configuration · 4 counts did not agree."""
    failed = [vendor for vendor in report.vendors if vendor.status == "failed"]
    if failed:
        return 2 if all(vendor.recovery == Recovery.CONFIGURE for vendor in failed) else 1
    if report.status == "mismatch":
        return 4
    return 1 if report.dbt is not None and report.dbt.status == "failed" else 0
