"""What people keep, copy and remove: queries, dashboards, a person."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from pipelines.cli.commands import AsJson, DryRun, Home, Verbose, WarehouseUrl, Yes, app, engine, print_json
from pipelines.cli.formats import output
from pipelines.config import project as places
from pipelines.config.exit_codes import FAILED
from sources.core.errors import ConfigurationError


@app.command(name="find-tables")
def find_tables(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[PATTERN]...", help="Names or globs: events, ods.*. Default: all.")
    ] = None,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Which queries, charts, dashboards, data services and SQL configurations use which table."""
    place = places.find(home, warehouse)
    with engine(place):
        from pipelines.operations.redash.find_tables import as_lines
        from pipelines.operations.redash.find_tables import find_tables as find

        found = find(place, patterns or ())
        print_json(found) if as_json else output()("".join(f"{line}\n" for line in as_lines(found)))


@app.command(name="export-queries")
def export_queries(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the files go; made if it is not there.")],
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """One .sql file per TONalytica query, fit for a repository; running it again changes nothing."""
    place = places.find(home, warehouse)
    with engine(place):
        from pathlib import Path

        from pipelines.operations.redash.export_queries import export_queries as export
        from pipelines.operations.redash.export_queries import refuse_in_the_way

        exported = export(place, Path(folder).expanduser())
        if as_json:
            print_json(vars(exported))
        else:
            for path in exported.written:
                output()(f"written  {path}\n")
            for old, new in exported.moved:
                output()(f"moved    {old} -> {new}\n")
            for path in exported.removed:
                output()(f"removed  {path}\n")
            sys.stdout.write(f"{exported.unchanged} unchanged\n")
        refuse_in_the_way(exported, Path(folder))


@app.command(name="clone-dashboard")
def clone_dashboard(
    dashboard: Annotated[str, typer.Argument(metavar="SLUG_OR_ID", help="The dashboard to copy.")],
    name: Annotated[str, typer.Option("--name", help="The copy's name; its queries' names begin with it.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what the key may not see or copy.")] = False,
    schedules: Annotated[bool, typer.Option("--schedules", help="Let the copies run on the same schedules.")] = False,
    home: Home = None,
    verbose: Verbose = False,
) -> None:
    """Copy a TONalytica dashboard with its queries, charts and layout. The one command that writes to a vendor."""
    place = places.find(home)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigurationError(what="nobody is there to be asked", todo="Give --yes, or see with --dry-run")
    with engine(place, verbose=verbose):
        from sources.tonalytica import cloning

        client, base = cloning.connect(writing=False)
        with client.http:
            plan = cloning.plan(client, dashboard, name=name, base=base, partial=partial, schedules=schedules)
        output()("".join(f"{line}\n" for line in plan.lines()))
        if dry_run or not (yes or typer.confirm("Make this at the vendor's?", default=False)):
            sys.stdout.write("nothing was made\n")
            return
        client, _ = cloning.connect(writing=True)
        try:
            with client.http:
                made = cloning.clone(client, plan, on_made=_say_made)
        except cloning.HalfCloned as error:
            sys.stderr.writelines(f"{line}\n" for line in error.lines())
            raise
        sys.stdout.write(f"the copy is whole: {made.url}\n")


def _say_made(made: Any) -> None:
    # at once: if this process is killed, its output tells what there is
    sys.stdout.write(f"made {made.kind} {made.id}  {made.url}\n")
    sys.stdout.flush()


@app.command()
def forget(
    who: Annotated[str, typer.Argument(metavar="ID", help="E-mail address, id or name of a person; - reads it.")],
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Only in COLUMN or DATASET.TABLE.COLUMN; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Even if it hardly looks like one person.")] = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Remove a person from every loaded table, and keep them out of later loads."""
    place = places.find(home, warehouse)
    who = sys.stdin.readline().strip() if who == "-" else who
    with engine(place, verbose=verbose, quiet=as_json):
        from pipelines.cli.render_erase import agrees, show_done, show_found
        from pipelines.operations.erasure import erase as forgetting

        found = forgetting.look(place, who, column or ())
        if not as_json:
            show_found(found, place)
        if dry_run:
            print_json(found.as_json()) if as_json else None
            return
        if not agrees(found, yes=yes, force=force):
            raise typer.Exit(FAILED)
        done = forgetting.forget(
            place, who, column or (), agrees=lambda now: force or not now.why_odd or bool(found.why_odd)
        )
        if done is None:
            raise typer.Exit(FAILED)
        print_json(done.as_json()) if as_json else show_done(done, place)
