"""The command line. Each command imports what it needs when it runs, so that `--help` and `status` are quick."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from pipelines import __version__
from pipelines import place as places
from pipelines.after_run import telling
from sources import VENDORS
from sources.errors import ConfigurationError, NightloadError, Recovery, summarize
from sources.redaction import install

OK, FAILED, USAGE, LOCKED, MISMATCH = range(5)


class Then(StrEnum):
    """What may follow a load."""

    DBT = "dbt"


app = typer.Typer(
    name="nightload",
    help="Loads analytics vendors into your warehouse, and proves it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Home = Annotated[str | None, typer.Option("--home", help="Folder with .dlt (NIGHTLOAD_HOME; default: here).")]
WarehouseUrl = Annotated[
    str | None,
    typer.Option("--warehouse", help="duckdb:///PATH or postgresql://… (NIGHTLOAD_WAREHOUSE)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
Vendors = Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(VENDORS)}. Default: all with a key.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is done on stderr.")]


def main() -> NoReturn:
    """Run the command line; every mistake of a user ends in one line on stderr."""
    install()
    try:
        app()
    except NightloadError as error:
        _say_error(error)
        sys.exit(_code_of(error))
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        sys.stderr.write(f"nightload: {summarize(error)}\n")
        if not isinstance(error, OSError):
            sys.stderr.write("This is a mistake of nightload itself; run it with --verbose to see where it happened.\n")
        sys.exit(FAILED)
    sys.exit(OK)


@app.callback(invoke_without_command=True)
def nightload(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        sys.stdout.write(f"nightload {__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command()
def run(
    vendors: Vendors = None,
    table: Annotated[list[str] | None, typer.Option("--table", help="Only DATASET.TABLE; may be repeated.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Fetch everything anew, whatever was loaded before.")] = False,
    allow_empty: Annotated[
        list[str] | None, typer.Option("--allow-empty", help="DATASET.TABLE that may really have become empty.")
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
        with _engine(place, verbose=verbose, quiet=as_json), telling(place):
            from pipelines.request import Request
            from pipelines.run import exit_code
            from pipelines.run import run as run_night
            from pipelines.show import Progress, show_run

            with Progress(enabled=not as_json) as progress:
                report = run_night(
                    Request(
                        place=place,
                        vendors=vendors or (),
                        tables=frozenset(table or ()),
                        full=full,
                        allow_empty=frozenset(allow_empty or ()),
                        then_dbt=then == Then.DBT,
                        on_progress=progress.table,
                    )
                )
    except NightloadError as error:
        if as_json:
            status = "locked" if _code_of(error) == LOCKED else "failed"
            _print_json({"run_id": None, "status": status, "vendors": [], "error": summarize(error)})
        raise
    _print_json(report.as_json()) if as_json else show_run(report, place)
    raise typer.Exit(exit_code(report))


@app.command()
def check(vendors: Vendors = None, home: Home = None, verbose: Verbose = False) -> None:
    """Try the keys: credentials, clock, one page. Says what to fix."""
    place = places.find(home)
    with _engine(place, verbose=verbose):
        from pipelines.request import no_key
        from pipelines.show import say
        from sources.vendor import package

        chosen = vendors or [vendor for vendor in VENDORS if package(vendor).configured()]
        if not chosen:
            raise no_key()
        failed: list[Exception] = []
        for name in chosen:
            try:
                vendor = package(name).connect()
                for line in vendor.check():
                    say(f"[green]✓[/] {name}: ", line)
                vendor.http.close()
            except Exception as error:  # noqa: BLE001 - the other vendors are checked all the same
                failed.append(error)
                say(f"[red]✗[/] {name}: ", summarize(error))
        if failed:
            raise typer.Exit(
                USAGE if all(getattr(error, "recovery", None) == Recovery.CONFIGURE for error in failed) else FAILED
            )


@app.command()
def tables(home: Home = None, warehouse: WarehouseUrl = None, as_json: AsJson = False) -> None:
    """Every table: key, cursor, mode, last load, live rows."""
    place = places.find(home, warehouse)
    with _engine(place):
        from pipelines.show import show_tables
        from pipelines.status import all_tables

        rows = all_tables(place)
        _print_json({"tables": rows}) if as_json else show_tables(rows)


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
    with _engine(place, verbose=verbose):
        from pipelines.preview import read
        from pipelines.show import show_rows

        columns, rows = read(table, limit=limit)
        if as_json:
            _print_json({"table": table, "columns": columns, "rows": rows})
        else:
            show_rows(table, columns, rows)


@app.command()
def status(home: Home = None, warehouse: WarehouseUrl = None, as_json: AsJson = False) -> None:
    """Last run per vendor, freshness, counts, what is open; exits with 1 when something is stale."""
    from pipelines.status import last_runs

    found = last_runs(places.find(home, warehouse))
    if as_json:
        _print_json(found)
    else:
        from pipelines.show import show_status

        show_status(found)
    raise typer.Exit(FAILED if found["stale"] or not found["vendors"] else OK)


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
    with _engine(go_to, verbose=verbose, quiet=as_json):
        from pipelines.copying import copy as copy_warehouse
        from pipelines.show import Progress, show_copied

        with Progress(enabled=not as_json) as progress:
            copied = copy_warehouse(come_from, go_to, on_table=lambda table: progress.table("copy", table))
        if as_json:
            _print_json({"to": go_to.shown, "tables": [{"table": each.table, "rows": each.rows} for each in copied]})
        else:
            show_copied(copied, go_to)


@app.command()
def demo(
    scale: Annotated[float, typer.Option("--scale", min=0.01, help="Size of the sandbox vendors' data.")] = 0.2,
    keep: Annotated[str | None, typer.Option("--keep", help="Folder for the warehouse (default: demo).")] = None,
) -> None:
    """A night against sandbox vendors on this machine; nothing to configure."""
    from pipelines.demo import play

    raise typer.Exit(play(scale=scale, folder=keep))


# -- queries and dashboards as things to look through, keep and copy --------------------------------


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
    with _engine(place):
        from pipelines.find_tables import as_lines
        from pipelines.find_tables import find_tables as find

        found = find(place, patterns or ())
        _print_json(found) if as_json else sys.stdout.writelines(f"{line}\n" for line in as_lines(found))


@app.command(name="export-queries")
def export_queries(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the files go; made if it is not there.")],
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """One .sql file per TONalytica query, fit for a repository; running it again changes nothing."""
    place = places.find(home, warehouse)
    with _engine(place):
        from pathlib import Path

        from pipelines.export_queries import export_queries as export
        from pipelines.export_queries import refuse_in_the_way

        exported = export(place, Path(folder).expanduser())
        if as_json:
            _print_json(vars(exported))
        else:
            for path in exported.written:
                sys.stdout.write(f"written  {path}\n")
            for old, new in exported.moved:
                sys.stdout.write(f"moved    {old} -> {new}\n")
            for path in exported.removed:
                sys.stdout.write(f"removed  {path}\n")
            sys.stdout.write(f"{exported.unchanged} unchanged\n")
        refuse_in_the_way(exported, Path(folder))


@app.command(name="clone-dashboard")
def clone_dashboard(
    dashboard: Annotated[str, typer.Argument(metavar="SLUG_OR_ID", help="The dashboard to copy.")],
    name: Annotated[str, typer.Option("--name", help="The copy's name; its queries' names begin with it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be made, and make nothing.")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what the key may not see or copy.")] = False,
    schedules: Annotated[bool, typer.Option("--schedules", help="Let the copies run on the same schedules.")] = False,
    home: Home = None,
    verbose: Verbose = False,
) -> None:
    """Copy a TONalytica dashboard with its queries, charts and layout. The one command that writes to a vendor."""
    place = places.find(home)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigurationError(what="nobody is there to be asked", todo="Give --yes, or see with --dry-run")
    with _engine(place, verbose=verbose):
        from sources.tonalytica import cloning

        client, base = cloning.connect(writing=False)
        with client.http:
            plan = cloning.plan(client, dashboard, name=name, base=base, partial=partial, schedules=schedules)
        sys.stdout.writelines(f"{line}\n" for line in plan.lines())
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


# -- what is told of the nights ----------------------------------------------------------------------


@app.command(name="runs")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """The last runs, the newest first."""
    from pipelines.status import runs

    rows = runs(places.find(home, warehouse), limit=limit)
    if as_json:
        _print_json({"runs": rows})
    else:
        from pipelines.show import show_runs

        show_runs(rows)


@app.command(name="run-info")
def run_info(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="A run's id, or enough of its beginning.")],
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """All of one run: vendors, tables, counts, schema changes, errors and what to do about them."""
    from pipelines.status import run_info as all_of

    found = all_of(places.find(home, warehouse), run_id)
    if as_json:
        _print_json(found)
    else:
        from pipelines.show import show_run_info

        show_run_info(found)


@app.command()
def report(
    out: Annotated[str | None, typer.Option("--out", help="The file (default: beside the warehouse).")] = None,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write the page that shows a year of nights; each run writes it, too."""
    from pathlib import Path

    from pipelines.report_page import write

    place = places.find(home, warehouse)
    sys.stdout.write(f"{write(place, Path(out).expanduser() if out else place.report)}\n")


@app.command()
def alert(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be told, and tell nobody.")] = False,
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Tell what was not told yet, as each run does at its end; for a timer that watches the nights."""
    from pipelines.alerts import sweep

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    install()
    told = sweep(places.find(home, warehouse), dry_run=dry_run)
    if as_json:
        _print_json({"told": [{"channel": channel, **message.as_json()} for channel, message in told]})
    else:
        sys.stdout.writelines(f"[{channel}] {message.text}\n\n" for channel, message in told)
        sys.stdout.write(f"{len(told)} {'would be' if dry_run else 'were'} told\n")


def _say_made(made: Any) -> None:
    # at once: if this process is killed, its output tells what there is
    sys.stdout.write(f"made {made.kind} {made.id}  {made.url}\n")
    sys.stdout.flush()


# a query may begin with a comment, and that with two dashes
@app.command(context_settings={"ignore_unknown_options": True})
def sql(
    query: Annotated[
        str | None, typer.Argument(help="One or more statements; - reads them from stdin. Without: a shell.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help='CSV; NULL is nothing, an empty text is "".')] = False,
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Rows of an answer; 0: all. Default: 100 of a table, else all.")
    ] = None,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Ask the warehouse in SQL. Reads only."""
    from pipelines.sql import Form, ask, shell
    from pipelines.warehouse.reader import Interrupted

    if as_csv and as_json:
        raise ConfigurationError(what="an answer cannot be CSV and JSON at once", todo="Give one of --csv and --json")
    place = places.find(home, warehouse)
    form = Form(kind="csv" if as_csv else "json" if as_json else "table", limit=limit)
    try:
        if query is None:
            raise typer.Exit(OK if shell(place, form) else USAGE)
        ask(place, sys.stdin.read() if query == "-" else query, form)
    except Interrupted as error:
        _say_error(error)
        raise typer.Exit(130) from None


@app.command()
def docs(
    folder: Annotated[str | None, typer.Option("--dir", help="Where to (default: docs in the home).")] = None,
    freshness: Annotated[
        bool, typer.Option("--freshness/--no-freshness", help="Tell when each table was last loaded.")
    ] = True,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write what there is: a page (HTML) and two diagrams (Mermaid, DBML)."""
    from pathlib import Path

    from pipelines.docs import write
    from pipelines.warehouse.reader import open_reader

    place = places.find(home, warehouse)
    with open_reader(place) as reader:
        for file, changed in write(reader, Path(folder) if folder else place.home / "docs", freshness=freshness):
            sys.stdout.write(f"{file}{'' if changed else ' (unchanged)'}\n")


@app.command()
def forget(
    who: Annotated[str, typer.Argument(metavar="ID", help="E-mail address, id or name of a person; - reads it.")],
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Only in COLUMN or DATASET.TABLE.COLUMN; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if it hardly looks like one person.")] = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Remove a person from every loaded table, and keep them out of later loads."""
    place = places.find(home, warehouse)
    who = sys.stdin.readline().strip() if who == "-" else who
    with _engine(place, verbose=verbose, quiet=as_json):
        from pipelines import forget as forgetting
        from pipelines.show_forget import agrees, show_done, show_found

        found = forgetting.look(place, who, column or ())
        if not as_json:
            show_found(found, place)
        if dry_run:
            _print_json(found.as_json()) if as_json else None
            return
        if not agrees(found, yes=yes, force=force):
            raise typer.Exit(FAILED)
        done = forgetting.forget(
            place, who, column or (), agrees=lambda now: force or not now.why_odd or bool(found.why_odd)
        )
        if done is None:
            raise typer.Exit(FAILED)
        _print_json(done.as_json()) if as_json else show_done(done, place)


# -- nights without anyone watching ------------------------------------------------------------------


@app.command()
def schedule(
    listing: Annotated[bool, typer.Option("--list", help="Show the next fires, local and UTC; start nothing.")] = False,
    install_as: Annotated[
        str | None, typer.Option("--install", metavar="KIND", help="Write for systemd or cron; print for kubernetes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --install: show it, and write nothing.")] = False,
    user: Annotated[bool, typer.Option("--user", help="With --install systemd: units of this user.")] = False,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run the schedules of .dlt/config.toml, each in its zone, until SIGTERM; or hand them to systemd or cron."""
    # nothing here loads dlt: this process waits all day, and is small
    from pipelines import schedules

    place = places.find(home, warehouse)
    found = schedules.read(place.home)
    if listing:
        from datetime import UTC, datetime

        rows = schedules.listed(found, now=datetime.now(UTC))
        _print_json({"schedules": rows}) if as_json else sys.stdout.writelines(
            f"{row['schedule']:<20} {each['local']} {row['zone']:<20} {each['utc']}\n"
            for row in rows
            for each in row["next"]
        )
    elif install_as is not None:
        from pipelines.install import install_schedules

        told = install_schedules(install_as, place, found, warehouse=warehouse, dry_run=dry_run, user=user)
        sys.stdout.writelines(f"{line}\n" for line in told)
    else:
        from pipelines.schedule import refuse_unknown_tables, serve, set_up_logging

        set_up_logging(verbose=verbose)
        environment = {"NIGHTLOAD_WAREHOUSE": warehouse} if warehouse else {}
        refuse_unknown_tables(found, environment)
        serve(place, found, environment=environment)


@contextmanager
def _engine(place: places.Place, *, verbose: bool = False, quiet: bool = False) -> Iterator[None]:
    """Set up logging and dlt; let SIGTERM end a run as Ctrl-C does: nothing half done is published."""
    from pipelines.engine import prepare

    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    install()
    signal.signal(signal.SIGTERM, _interrupted)
    prepare(place)
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing half done was published\n")
        raise typer.Exit(130) from None


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def _say_error(error: NightloadError) -> None:
    sys.stderr.write(f"nightload: {summarize(error)}\n")


def _code_of(error: NightloadError) -> int:
    if type(error).__name__ == "Locked":
        return LOCKED
    return USAGE if error.recovery == Recovery.CONFIGURE else FAILED


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")


dbt = typer.Typer(help="dbt over the warehouse; see dbt/README.md.", no_args_is_help=True)
app.add_typer(dbt, name="dbt")


@dbt.command("sources")
def dbt_sources(
    folder: Annotated[str | None, typer.Option("--dir", help="The dbt project (NIGHTLOAD_DBT; default: dbt).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if something would change.")] = False,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write dbt's sources from the warehouse: tables, columns, labels, keys, freshness."""
    place = places.find(home, warehouse)
    with _engine(place):
        from pipelines.dbt import project_folder
        from pipelines.dbt_sources import State, read, refuse_edited, render, wanted, write

        project = project_folder(place.home, folder)
        target = project / "models" / "sources"
        states = write(target, render(read(place), wanted(project)), check=check)
        for name, state in states.items():
            sys.stdout.write(f"{name}: {'would be written' if check and state == State.WRITTEN else state}\n")
        refuse_edited(target, states)
        if check and State.WRITTEN in states.values():
            raise typer.Exit(FAILED)


if __name__ == "__main__":
    main()
