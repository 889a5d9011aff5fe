"""The command line. Each command imports what it needs when it runs, so that `--help` and `status` are quick."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from pipelines import __version__
from pipelines import place as places
from sources import VENDORS
from sources.errors import NightloadError, Recovery, summarize
from sources.redaction import install

OK, FAILED, USAGE, LOCKED, MISMATCH = range(5)

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
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Load the vendors, count, and publish the warehouse."""
    try:
        place = places.find(home, warehouse)
        with _engine(place, verbose=verbose, quiet=as_json):
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
    """Last run per vendor, freshness, counts."""
    from pipelines.status import last_runs

    found = last_runs(places.find(home, warehouse))
    if as_json:
        _print_json(found)
    else:
        from pipelines.show import show_status

        show_status(found)


@app.command()
def demo(
    scale: Annotated[float, typer.Option("--scale", min=0.01, help="Size of the sandbox vendors' data.")] = 0.2,
    keep: Annotated[str | None, typer.Option("--keep", help="Folder for the warehouse (default: demo).")] = None,
) -> None:
    """A night against sandbox vendors on this machine; nothing to configure."""
    from pipelines.demo import play

    raise typer.Exit(play(scale=scale, folder=keep))


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


if __name__ == "__main__":
    main()
