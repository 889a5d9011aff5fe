"""Loading the vendors: the night, a look at what it would do, a warehouse that moves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pipelines.cli.commands import AsJson, Home, OnlyTables, Vendors, Verbose, WarehouseUrl, app, engine, print_json
from pipelines.config import project as places
from pipelines.config.exit_codes import FAILED, LOCKED, USAGE, code_of
from pipelines.monitoring.hooks import with_hooks
from sources import VENDORS
from sources.core.errors import NightloadError, Recovery, summarize


class Then(StrEnum):
    """What may follow a load."""

    DBT = "dbt"


@app.command()
def run(
    vendors: Vendors = None,
    table: OnlyTables = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Fetch everything anew now, and forget nothing (see also: state reset, drop)."),
    ] = False,
    allow_empty: Annotated[
        list[str] | None, typer.Option("--allow-empty", help="DATASET.TABLE that may really have become empty.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Try again what may pass by itself, until HH:MM or for so long (2h).")
    ] = None,
    then: Annotated[Then | None, typer.Option("--then", help="dbt: build the dbt project after a green load.")] = None,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Load the vendors, count, and publish the warehouse."""
    try:
        place = places.find(home, warehouse)
        with engine(place, verbose=verbose, quiet=as_json), with_hooks(place):
            from pipelines.cli.render import Progress, show_run
            from pipelines.run.options import parse_until
            from pipelines.run.request import Request
            from pipelines.run.runner import exit_code
            from pipelines.run.runner import run as run_night

            with Progress(enabled=not as_json) as progress:
                report = run_night(
                    Request(
                        place=place,
                        vendors=vendors or (),
                        tables=frozenset(table or ()),
                        full=full,
                        allow_empty=frozenset(allow_empty or ()),
                        then_dbt=then == Then.DBT,
                        until=None if until is None else parse_until(until, setting="--until"),
                        on_progress=progress.table,
                    )
                )
    except NightloadError as error:
        if as_json:
            status = "locked" if code_of(error) == LOCKED else "failed"
            print_json({"run_id": None, "status": status, "vendors": [], "error": summarize(error)})
        raise
    print_json(report.as_json()) if as_json else show_run(report, place)
    raise typer.Exit(exit_code(report))


@app.command()
def check(vendors: Vendors = None, home: Home = None, verbose: Verbose = False) -> None:
    """Read the whole configuration, and try the keys: credentials, clock, one page. Says what to fix."""
    place = places.find(home)
    with engine(place, verbose=verbose, refuse=False):
        from pipelines.cli.render import say
        from pipelines.operations import config_check
        from pipelines.run.request import no_key
        from sources.extract.connector import package

        failed: list[Exception] = []
        said = set[str]()

        def refuse(error: Exception, about: str) -> None:
            failed.append(error)
            for each in getattr(error, "errors", (error,)):
                if getattr(each, "what", "") not in said:
                    say(f"[red]✗[/] {about}", summarize(each))

        for error in (*config_check.unknown(place), *config_check.invalid(place)):
            refuse(error, "configuration: ")
            said.add(error.what)
        for line in config_check.foreign(place):
            say("[yellow]![/] configuration: ", line)
        chosen = vendors or [vendor for vendor in VENDORS if package(vendor).configured()]
        if not (chosen or failed):
            raise no_key()
        for name in chosen:
            try:
                vendor = package(name).connect()
                for found in vendor.check():
                    if isinstance(found, NightloadError):
                        refuse(found, f"{name}: ")
                    else:
                        say(f"[green]✓[/] {name}: ", found)
                vendor.http.close()
            except Exception as error:  # noqa: BLE001 - the other vendors are checked all the same
                refuse(error, f"{name}: ")
        if failed:
            raise typer.Exit(
                USAGE if all(getattr(error, "recovery", None) == Recovery.CONFIGURE for error in failed) else FAILED
            )


@app.command()
def tables(home: Home = None, warehouse: WarehouseUrl = None, as_json: AsJson = False) -> None:
    """Every table: key, cursor, mode, last load, live rows."""
    place = places.find(home, warehouse)
    with engine(place):
        from pipelines.cli.render import show_tables
        from pipelines.monitoring.status import all_tables

        rows = all_tables(place)
        print_json({"tables": rows}) if as_json else show_tables(rows)


@app.command()
def preview(
    table: Annotated[str, typer.Argument(help="DATASET.TABLE")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many rows.")] = 20,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read a page of one table from the vendor; touches no state and no warehouse."""
    place = places.find(home)
    with engine(place, verbose=verbose):
        from pipelines.cli.render import show_rows
        from pipelines.operations.preview import read

        columns, rows = read(table, limit=limit, place=place)
        if as_json:
            print_json({"table": table, "columns": columns, "rows": rows})
        else:
            show_rows(table, columns, rows)


@app.command()
def copy(
    source: Annotated[str, typer.Option("--from", help="The warehouse that is: duckdb:///PATH or postgresql://…")],
    target: Annotated[str, typer.Option("--to", help="The warehouse that shall be; it must be empty.")],
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Take a whole warehouse to another database: rows, history, cursors, ledger; counts proven."""
    here = places.find(home, source).home
    come_from, go_to = places.at(source, here), places.at(target, here)
    with engine(go_to, verbose=verbose, quiet=as_json):
        from pipelines.cli.render import Progress, show_copied
        from pipelines.operations.copy import copy as copy_warehouse

        with Progress(enabled=not as_json) as progress:
            copied = copy_warehouse(come_from, go_to, on_table=lambda table: progress.table("copy", table))
        if as_json:
            print_json({"to": go_to.shown, "tables": [{"table": each.table, "rows": each.rows} for each in copied]})
        else:
            show_copied(copied, go_to)


@app.command()
def demo(
    scale: Annotated[float, typer.Option("--scale", min=0.01, help="Size of the sandbox vendors' data.")] = 0.2,
    keep: Annotated[str | None, typer.Option("--keep", help="Folder for the warehouse (default: demo).")] = None,
) -> None:
    """A night against sandbox vendors on this machine; nothing to configure."""
    from pipelines.cli.demo import play

    raise typer.Exit(play(scale=scale, folder=keep))
