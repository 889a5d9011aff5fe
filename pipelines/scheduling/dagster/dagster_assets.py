"""nightload in Dagster: an asset per table, schedules, checks and days to backfill, all from what nightload knows.

    NIGHTLOAD_HOME=/srv/nightload dagster dev -m pipelines.scheduling.dagster.dagster_assets

Materialising any selection is one `nightload run`, a process of its own: runs of one warehouse never overlap, so there
is one step for all tables, and a pool of one. What Dagster shows comes from the run's own document and from the ledger,
whoever started the run; nothing here reads a vendor or writes a warehouse.
"""

# No annotations of the future here: Dagster looks at those of its functions as they are.
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.config import project as places
from pipelines.config import schedules
from pipelines.config.dlt_setup import prepare
from pipelines.config.exit_codes import LOCKED, MISMATCH
from pipelines.config.project import Place
from pipelines.config.schedules import Schedule
from pipelines.config.sections import SECTIONS, section, text
from pipelines.monitoring import status
from pipelines.run.request import vendor_of
from pipelines.scheduling.dagster.child import Ended, nightload
from sources import VENDORS
from sources.core.errors import ConfigurationError, NightloadError
from sources.extract.connector import package
from sources.naming import tag_for

NIGHT = "nightload"
"""The step that loads, and the pool that lets one run at a time."""
DAYS = "nightload_days"
"""The pool of backfills, of which one at a time goes on beside the nights."""
PROVEN, FRESH = "counts_proven", "fresh"
GOOD = ("ok", "unchanged", "warning")
COUNTS = ("vendor_count", "extracted", "landed", "live", "deleted")
CRASHES = 2
"""So often a run is begun anew that ended without a word."""


class Load(dg.Config):
    """What `nightload run` is told beside the tables."""

    then_dbt: bool = False
    full: bool = False
    allow_empty: list[str] = []  # noqa: RUF012 - a default is copied for each
    deadline_seconds: int = int(Schedule.deadline.total_seconds())
    retry_after_seconds: int = int(Schedule.retry_after.total_seconds())


class Days(dg.Config):
    """`again`: also the days that were backfilled before. A step that is begun anew skips what it has loaded."""

    again: bool = True


@dataclass(frozen=True, kw_only=True)
class Item:
    """A table and what is known of it before it is loaded; `zone`: it is loaded by days of that zone."""

    dataset: str
    table: str
    vendor: str
    about: str = ""
    mode: str = ""
    key: tuple[str, ...] = ()
    cursor: str | None = None
    zone: str | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset}.{self.table}"

    @property
    def asset(self) -> dg.AssetKey:
        return asset_key(self.name)


def asset_key(name: str) -> dg.AssetKey:
    """`dataset.table` as [dataset, table]. Dagster takes ASCII only: other names are spelled out and tagged."""
    dataset, _, table = name.partition(".")
    spelled = re.sub(r"[^A-Za-z0-9_]", lambda sign: f"u{ord(sign[0]):x}", table)
    return dg.AssetKey([dataset, table if spelled == table else f"{spelled}_{tag_for(table)}"])


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster` loads: of the home that NIGHTLOAD_HOME names, or the current folder."""
    return definitions()


def definitions(home: str | None = None) -> dg.Definitions:
    """The tables of a home as assets, and its schedules. Raises `ConfigurationError`."""
    place = places.find(home)
    prepare(place)
    planned = schedules.read(place.home)
    items = tables(place, planned)
    days = [item for item in items if item.zone]
    freshness = dg.define_asset_job("nightload_freshness", dg.AssetSelection.checks(*_fresh_keys(items)))
    return dg.Definitions(
        assets=[night(place, items), *(backfill(place, item) for item in days)],
        asset_checks=[fresh(place, items)],
        schedules=[
            *(_schedule(schedule, items) for schedule in planned),
            dg.ScheduleDefinition(name="nightload_freshness", job=freshness, cron_schedule="17 * * * *"),
        ],
        jobs=[freshness],
        executor=dg.in_process_executor,
    )


def tables(place: Place, planned: Sequence[Schedule]) -> list[Item]:
    """What the vendors with a key declare, their runs met and schedules name; if none has a key, of all vendors."""
    wanted = {vendor for schedule in planned for vendor in schedule.vendors}
    scheduled = [name for schedule in planned for name in schedule.tables]
    wanted |= {vendor_of(name.partition(".")[0]) for name in scheduled}
    wanted |= {vendor for vendor in VENDORS if package(vendor).configured()}
    found: dict[str, Item] = {}
    for vendor in (vendor for vendor in VENDORS if vendor in (wanted or VENDORS)):
        for dataset, declared in package(vendor).tables().items():
            for table in declared:
                item = Item(
                    dataset=dataset,
                    table=table.name,
                    vendor=vendor,
                    about=table.about,
                    mode=str(table.mode),
                    key=table.key,
                    cursor=table.cursor,
                    zone=table.zone,
                )
                found[item.name] = item
    of_dataset = {dataset: vendor for vendor in VENDORS for dataset in package(vendor).tables()}
    met = []
    with suppress(NightloadError):  # a database that is out of reach: what is declared is known without it
        met = [table["table"] for vendor in _standing(place) for table in vendor["tables"] if not table["left_out"]]
    for name in (*met, *scheduled):
        dataset, _, table = name.partition(".")
        owner = of_dataset.get(dataset)
        if owner in (wanted or VENDORS) and owner and table != "*":
            found.setdefault(name, Item(dataset=dataset, table=table, vendor=owner))
    return list(found.values())


def _standing(place: Place) -> list[dict[str, Any]]:
    """Each vendor and its tables by the ledger; none, where there is no ledger yet."""
    with status.opened(place) as ledger:
        return [] if ledger is None else status.standing(ledger, place, now=datetime.now(UTC))


# -- the night -----------------------------------------------------------------------------------------


def night(place: Place, items: Sequence[Item]) -> dg.AssetsDefinition:
    """The one step that loads whatever is selected."""
    of_key = {item.asset: item for item in items}

    @dg.multi_asset(
        name=NIGHT,
        specs=[_spec(item, place) for item in items],
        check_specs=[
            dg.AssetCheckSpec(PROVEN, asset=key, description="vendor = extracted = landed, as the last run found")
            for key in of_key
        ],
        can_subset=True,
        pool=NIGHT,
    )
    def load(context: dg.AssetExecutionContext, config: Load) -> Iterator[Any]:
        chosen = [of_key[key] for key in context.selected_asset_keys]
        if not chosen:  # only checks were asked for
            yield from _proofs(_last_rows(place), context.selected_asset_check_keys)
            return
        ended = nightload(
            [*arguments(chosen, items), *_options(config)],
            place,
            on_line=context.log.warning,
            deadline=config.deadline_seconds,
        )
        _come_back(ended, config)
        report = ended.document or {}
        rows = {table["table"]: table for vendor in report["vendors"] for table in vendor["tables"]}
        for name, row in rows.items():
            if row["status"] not in GOOD:
                continue
            key, told = asset_key(name), _metadata(row, report["run_id"])
            if key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key, metadata=told)
            else:  # a table that this run saw first
                context.log_event(dg.AssetMaterialization(key, metadata=told))
        yield from _proofs(rows, context.selected_asset_check_keys)
        if ended.code:
            raise dg.Failure(_failure(report, ended), allow_retries=False)

    return load


def _spec(item: Item, place: Place) -> dg.AssetSpec:
    told = {"key": ", ".join(item.key), "cursor": item.cursor, "mode": item.mode, "dagster/table_name": item.name}
    return dg.AssetSpec(
        item.asset,
        skippable=True,
        description=item.about or None,
        group_name=item.vendor,
        kinds={place.kind},
        metadata={name: value for name, value in told.items() if value},
    )


def arguments(chosen: Collection[Item], items: Collection[Item]) -> list[str]:
    """`run` with the vendors, if all tables of each are chosen, which also loads what is new there; else the tables."""
    vendors = {item.vendor for item in chosen}
    if len(chosen) == sum(item.vendor in vendors for item in items):
        return ["run", *(vendor for vendor in VENDORS if vendor in vendors)]
    return ["run", *(word for name in sorted(item.name for item in chosen) for word in ("--table", name))]


def _options(config: Load) -> list[str]:
    return [
        *(["--full"] if config.full else []),
        *(word for name in config.allow_empty for word in ("--allow-empty", name)),
        *(["--then", "dbt"] if config.then_dbt else []),
    ]


def _come_back(ended: Ended, config: Load) -> None:
    """Have the step begun anew later, if that may help; raise what it failed of, if there is nothing to show."""
    if ended.stopped:
        raise dg.Failure(
            "the deadline is over; the run was ended, and nothing half done was published", allow_retries=False
        )
    if ended.code == LOCKED:
        tries = max(1, config.deadline_seconds // max(1, config.retry_after_seconds))
        raise dg.RetryRequested(max_retries=tries, seconds_to_wait=config.retry_after_seconds) from dg.Failure(
            "another run has this warehouse; tried again later"
        )
    if not 0 <= ended.code <= MISMATCH:
        raise dg.RetryRequested(max_retries=CRASHES, seconds_to_wait=config.retry_after_seconds) from dg.Failure(
            f"the run ended without a word (exit {ended.code}); nothing half done was published"
        )
    if ended.document is None or ended.document.get("error"):
        why = (ended.document or {}).get("error") or ended.said or f"it told nothing (exit {ended.code})"
        raise dg.Failure(str(why), allow_retries=False)


def _failure(report: Mapping[str, Any], ended: Ended) -> str:
    errors = [f"{vendor['vendor']}: {vendor['error']}" for vendor in report["vendors"] if vendor["error"]]
    errors += [f"{row['table']}: {row['error']}" for vendor in report["vendors"] if not vendor["error"]
               for row in vendor["tables"] if row["error"]]  # fmt: skip
    dbt = report.get("dbt") or {}
    errors += [f"dbt: {dbt.get('error') or dbt['status']}"] if dbt.get("status") == "failed" else []
    return f"run {report['run_id']} (exit {ended.code}): " + "; ".join(errors or ["see nightload run-info"])


def _metadata(row: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    told = {"run_id": run_id, "status": row["status"], **{name: row[name] for name in COUNTS}}
    told["dagster/row_count"] = row["live"]
    told["notes"] = "; ".join(row["notes"])
    return {name: value for name, value in told.items() if value not in (None, "")}


def _proofs(
    rows: Mapping[str, Mapping[str, Any]], wanted: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """Are the counts proven, of those of these tables that are asked for?"""
    asked = {key.asset_key for key in wanted if key.name == PROVEN}
    for name, row in rows.items():
        if (key := asset_key(name)) in asked:
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=PROVEN,
                passed=row["status"] in GOOD,
                description=row["error"],
                metadata={count: row[count] for count in COUNTS if row.get(count) is not None}
                | {"status": row["status"]},
            )


def _last_rows(place: Place) -> dict[str, dict[str, Any]]:
    return {table["table"]: table for vendor in _standing(place) for table in vendor["tables"]}


# -- freshness, schedules, days ------------------------------------------------------------------------


def _fresh_keys(items: Sequence[Item]) -> list[dg.AssetCheckKey]:
    return [dg.AssetCheckKey(item.asset, FRESH) for item in items]


def fresh(place: Place, items: Sequence[Item]) -> dg.AssetChecksDefinition:
    """Whether each table is fresh, as `nightload status` has it; it follows the schedules, whoever runs them."""

    @dg.multi_asset_check(
        name=FRESH,
        specs=[
            dg.AssetCheckSpec(FRESH, asset=item.asset, description="loaded since its schedule asked for it")
            for item in items
        ],
        can_subset=True,
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        rows = {asset_key(name): row for name, row in _last_rows(place).items()}
        for key in context.selected_asset_check_keys:
            row = rows.get(key.asset_key, {})
            never = not row.get("last_good")
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=FRESH,
                passed=row.get("fresh") is not False and not never,
                description="never loaded" if never else f"last good {row['last_good']}",
                severity=dg.AssetCheckSeverity.WARN,
            )

    return check


def _schedule(schedule: Schedule, items: Sequence[Item]) -> dg.ScheduleDefinition:
    """The schedule as Dagster runs it. It stands still until somebody starts it: another may run the same nights."""
    keys = [item.asset for item in items if schedule.loads(item.vendor, item.name)]
    name = re.sub(r"[^A-Za-z0-9_]", "_", schedule.name)
    config = Load(
        then_dbt=schedule.then == "dbt",
        deadline_seconds=int(schedule.deadline.total_seconds()),
        retry_after_seconds=max(1, int(schedule.retry_after.total_seconds())),
    )
    cron = schedules.parse_cron(schedule.cron)
    spans = ((cron.minutes, 60), (cron.hours, 24), (cron.days, 31), (cron.months, 12), (cron.weekdays, 7))

    def is_due(context: dg.ScheduleEvaluationContext) -> bool:
        # where day of the month and of the week must both be right, other crons take either
        return cron.on(context.scheduled_execution_time.astimezone(schedule.zone).date())

    return dg.ScheduleDefinition(
        name=name,
        job=dg.define_asset_job(f"{name}_night", dg.AssetSelection.assets(*keys)),
        cron_schedule=" ".join("*" if len(all_of) == of else ",".join(map(str, all_of)) for all_of, of in spans),
        execution_timezone=schedule.zone.key,
        run_config=dg.RunConfig(ops={NIGHT: config}),
        should_execute=is_due,
        description=f"[schedules.{schedule.name}] of .dlt/config.toml",
    )


def backfill(place: Place, item: Item) -> dg.AssetsDefinition:
    """The days of a table that is loaded by days: a range of them is one `nightload backfill`."""
    first = text(section(place.home, "dagster", known=SECTIONS["dagster"]), "first_day", where="dagster")
    try:
        days = dg.DailyPartitionsDefinition(
            start_date=first or f"{datetime.now(UTC).year - 2}-01-01", timezone=item.zone or "UTC"
        )
    except ValueError:
        raise ConfigurationError(what="dagster.first_day is no day", todo='Write first_day = "2024-01-01"') from None

    @dg.asset(
        key=dg.AssetKey([*item.asset.path, "days"]),
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=item.vendor,
        kinds={place.kind},
        description=f"{item.name} day by day, beside its nights",
        pool=DAYS,
    )
    def load(context: dg.AssetExecutionContext, config: Days) -> dg.MaterializeResult[Any]:
        span = context.partition_key_range
        again = ["--again"] if config.again and not context.retry_number else []
        ended = nightload(
            ["backfill", item.name, "--from", span.start, "--to", span.end, *again],
            place,
            on_line=context.log.warning,
        )
        _come_back(ended, Load())
        report = ended.document or {}
        if ended.code:
            errors = {chunk["error"] for chunk in report["chunks"] if chunk["error"]}
            raise dg.Failure(f"{item.name}: {'; '.join(sorted(errors)) or f'exit {ended.code}'}", allow_retries=False)
        told = {"from": span.start, "to": span.end, "chunks": len(report["chunks"]), "skipped": len(report["skipped"])}
        counts = {name: sum(chunk[name] or 0 for chunk in report["chunks"]) for name in ("extracted", "landed")}
        return dg.MaterializeResult(metadata={**told, **counts})

    return load
