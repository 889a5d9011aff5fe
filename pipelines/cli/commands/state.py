"""Single tables between the nights: days of the past, what is remembered, a new start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from pipelines.cli.commands import AsJson, DryRun, Home, Verbose, WarehouseUrl, Yes, app, engine, print_json
from pipelines.config import project as places
from pipelines.config.exit_codes import FAILED
from sources.core.errors import ConfigurationError

state = typer.Typer(help="What is remembered between two nights: cursors, windows, digests; shown and forgotten.")
app.add_typer(state, name="state")

OfWhat = Annotated[str, typer.Argument(metavar="VENDOR[.TABLE]", help="A vendor, a dataset, or DATASET.TABLE.")]
Found = TypeVar("Found")


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
        from pipelines.cli.render_operations import Chunks, show_chunks, show_plan
        from pipelines.operations import backfill as backfilling
        from pipelines.operations.backfill_plan import chunk_of, days_of, planned

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
        from pipelines.cli.render_operations import show_states
        from pipelines.operations import state as states

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
        from pipelines.cli.render_operations import show_forgets
        from pipelines.operations import state as states

        _show_and_ask(
            look=lambda: [each for each in states.show(place, what) if each.forgets],
            show=show_forgets,
            change=lambda agrees: states.reset(place, what, agrees=agrees),
            words=("forget", "forgot", "forgotten"),
            as_told=lambda found: {each.name: each.forgets for each in found},
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
        )


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
        from pipelines.cli.render_operations import show_doomed
        from pipelines.operations import drop as dropping

        _show_and_ask(
            look=lambda: dropping.look(place, what),
            show=lambda doomed: show_doomed(doomed, place),
            refuse=lambda doomed: dropping.refuse_depended(place, doomed),
            change=lambda agrees: dropping.drop(place, what, agrees=agrees),
            words=("drop", "dropped", "dropped"),
            as_told=lambda doomed: [each.as_json() for each in doomed],
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
        )


def _show_and_ask(
    *,
    look: Callable[[], list[Found]],
    show: Callable[[list[Found]], None],
    change: Callable[[Callable[[list[Found]], bool]], list[Found] | None],
    words: tuple[str, str, str],
    as_told: Callable[[list[Found]], Any],
    refuse: Callable[[list[Found]], None] = lambda _: None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show what `change` takes away, and do it if that is agreed to; where nobody can be asked, show it and no more.

    `words`: what would be done, what was done, and how that is said of tables. `refuse` raises what `change` would.
    """
    would, did, done = words
    if dry_run or not (yes or sys.stdin.isatty()):
        found = look()
        print_json({f"would_{would}": as_told(found)}) if as_json else show(found)
        refuse(found)
        if not dry_run:
            raise ConfigurationError(what="nothing was changed, since nobody is there to be asked", todo="Give --yes")
        return

    def agrees(found: list[Found]) -> bool:
        if not as_json:
            show(found)
        return yes or typer.confirm(f"{would.capitalize()} this?", default=False)

    changed = change(agrees)
    if changed is None:
        raise typer.Exit(FAILED)
    if as_json:
        print_json({did: as_told(changed)})
    else:
        sys.stdout.write(f"{done}; the next night loads {len(changed)} tables anew\n")
