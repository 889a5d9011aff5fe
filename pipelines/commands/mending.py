"""Single tables between the nights: days of the past, what is remembered, a new start."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from pipelines import place as places
from pipelines.commands import (
    FAILED,
    OK,
    AsJson,
    Home,
    Verbose,
    WarehouseUrl,
    app,
    engine,
    print_json,
)
from sources.errors import ConfigurationError

state = typer.Typer(help="What is remembered between two nights: cursors, windows, digests; shown and forgotten.")
app.add_typer(state, name="state")

OfWhat = Annotated[str, typer.Argument(metavar="VENDOR[.TABLE]", help="A vendor, a dataset, or DATASET.TABLE.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")]


@app.command()
def backfill(
    table: Annotated[str, typer.Argument(metavar="VENDOR.TABLE", help="DATASET.TABLE that is loaded by days.")],
    first: Annotated[str, typer.Option("--from", metavar="DAY", help="The first day, by the vendor's zone.")],
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, included; it must be over.")],
    chunk: Annotated[str, typer.Option("--chunk", help="What is fetched and loaded at once: 7d, 2w.")] = "7d",
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=16, help="Chunks fetched side by side, within the vendor's rate.")
    ] = 1,
    again: Annotated[bool, typer.Option("--again", help="Also what was backfilled before.")] = False,
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Days may really have become empty.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the chunks and the number of calls; load nothing.")
    ] = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Load days of the past into one table, a chunk at a time, beside the nights.

    The cursors stay where they are, and a night that wants the warehouse goes first. Killed or interrupted, run the
    same command again: chunks that are loaded are skipped (--again loads them once more), and nothing comes twice.
    """
    place = places.find(home, warehouse)
    with engine(place, verbose=verbose, quiet=as_json):
        from pipelines import backfill as backfilling
        from pipelines.backfill_plan import chunk_of, days_of, planned
        from pipelines.show_mending import Chunks, show_chunks, show_plan

        days, size = days_of(first, last), chunk_of(chunk)
        with planned(place, table, days, chunk=size, again=again) as (plan, vendor):
            if dry_run:
                print_json(plan.as_json()) if as_json else show_plan(plan)
                return
            with Chunks(plan, enabled=not as_json) as chunks:
                done = backfilling.backfill(
                    place,
                    plan,
                    vendor,
                    workers=workers,
                    allow_empty=allow_empty,
                    on_done=chunks.done,
                    on_wait=chunks.wait,
                )
        code = backfilling.exit_code(done)
        if as_json:
            skipped = [each.id for each in plan.chunks if each.done]
            left = [each.id for each in plan.due[len(done) :]]
            chunks_told = [each.as_json() for each in done]
            print_json({"table": plan.table, "chunks": chunks_told, "skipped": skipped, "left": left, "code": code})
        else:
            show_chunks(plan, done, place)
        raise typer.Exit(code)


@state.command(name="show")
def show(
    what: Annotated[
        str | None, typer.Argument(metavar="[VENDOR[.TABLE]]", help="A vendor, a dataset, or DATASET.TABLE.")
    ] = None,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Cursors, windows, digests and found-out settings of every table, or of one."""
    place = places.find(home, warehouse)
    with engine(place):
        from pipelines import state as states
        from pipelines.show_mending import show_states

        found = states.show(place, what)
        print_json({"tables": [each.as_json() for each in found]}) if as_json else show_states(found)


@state.command(name="reset")
def reset(
    what: OfWhat,
    yes: Yes = False,
    dry_run: DryRun = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Forget the cursors of a table or a vendor: the next night loads it anew. Its rows stay.

    To fetch everything at once, and forget nothing: nightload run --full --table. To give up the rows as well:
    nightload drop.
    """
    place = places.find(home, warehouse)
    with engine(place, verbose=verbose, quiet=as_json):
        from pipelines import state as states
        from pipelines.show_mending import show_forgets

        if dry_run or not (yes or sys.stdin.isatty()):
            found = [each for each in states.show(place, what) if each.forgets]
            _preview({"would_forget": {each.name: each.forgets for each in found}}, as_json=as_json)
            if not as_json:
                show_forgets(found)
            _refuse_unasked(dry_run=dry_run)
            return

        def agrees(found: list[states.Remembered]) -> bool:
            if not as_json:
                show_forgets(found)
            return yes or typer.confirm("Forget this?", default=False)

        done = states.reset(place, what, agrees=agrees)
        if done is None:
            raise typer.Exit(FAILED)
        _preview({"forgot": {each.name: each.forgets for each in done}}, as_json=as_json)
        if not as_json:
            sys.stdout.write(f"forgotten; the next night loads {len(done)} tables anew\n")


@app.command()
def drop(
    what: OfWhat,
    yes: Yes = False,
    dry_run: DryRun = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Remove a table or all of a vendor from the warehouse: rows, history, what is remembered. The next night loads it
    anew; what the vendor has no more is gone for good.
    """
    place = places.find(home, warehouse)
    with engine(place, verbose=verbose, quiet=as_json):
        from pipelines import drop as dropping
        from pipelines.show_mending import show_doomed

        if dry_run or not (yes or sys.stdin.isatty()):
            found = dropping.look(place, what)
            _preview({"would_drop": [each.as_json() for each in found]}, as_json=as_json)
            if not as_json:
                show_doomed(found, place)
            dropping.refuse_depended(place, found)
            _refuse_unasked(dry_run=dry_run)
            return

        def agrees(doomed: list[dropping.Doomed]) -> bool:
            if not as_json:
                show_doomed(doomed, place)
            return yes or typer.confirm("Drop this?", default=False)

        done = dropping.drop(place, what, agrees=agrees)
        if done is None:
            raise typer.Exit(FAILED)
        _preview({"dropped": [each.as_json() for each in done]}, as_json=as_json)
        if not as_json:
            sys.stdout.write(f"dropped; the next night loads {len(done)} tables anew\n")


def _preview(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(document)


def _refuse_unasked(*, dry_run: bool) -> None:
    """Where nobody can be asked, it is shown what would be done, and no more."""
    if not dry_run:
        raise ConfigurationError(what="nothing was changed, since nobody is there to be asked", todo="Give --yes")
    raise typer.Exit(OK)
