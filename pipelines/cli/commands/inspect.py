"""The nights, looked at and planned."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from pipelines.cli.commands import AsJson, Home, RunId, Verbose, WarehouseUrl, app, print_json
from pipelines.cli.formats import output
from pipelines.config import project as places
from pipelines.config.exit_codes import FAILED, OK
from sources.core.redaction import install


@app.command()
def status(
    stale_only: Annotated[
        bool, typer.Option("--stale-only", help="Exit with 1 only when something is stale, whatever failed.")
    ] = False,
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Last run per vendor, freshness, counts, what is open; exits with 1 on an open error and when something is stale.

    An incident is an error, unless it is drift.
    """
    from pipelines.monitoring.status import last_runs

    found = last_runs(places.find(home, warehouse))
    if as_json:
        print_json(found)
    else:
        from pipelines.cli.render import show_status

        show_status(found)
    errors = [] if stale_only else [each for each in found["incidents"] if each["severity"] == "error"]
    raise typer.Exit(FAILED if found["stale"] or errors or not found["vendors"] else OK)


@app.command(name="runs")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many.")] = 20,
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """The last runs, the newest first."""
    from pipelines.monitoring.status import runs

    rows = runs(places.find(home, warehouse), limit=limit)
    if as_json:
        print_json({"runs": rows})
    else:
        from pipelines.cli.render import show_runs

        show_runs(rows)


@app.command(name="run-info")
def run_info(
    run_id: RunId,
    home: Home = None,
    warehouse: WarehouseUrl = None,
    as_json: AsJson = False,
) -> None:
    """All of one run: vendors, tables, counts, schema changes, errors and what to do about them."""
    from pipelines.monitoring.status import run_info as all_of

    found = all_of(places.find(home, warehouse), run_id)
    if as_json:
        print_json(found)
    else:
        from pipelines.cli.render import show_run_info

        show_run_info(found)


@app.command()
def report(
    out: Annotated[str | None, typer.Option("--out", help="The file (default: beside the warehouse).")] = None,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write the page that shows a year of nights; each run writes it, too."""
    from pathlib import Path

    from pipelines.monitoring.html_report import write

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
    from pipelines.monitoring.alerts import sweep

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    install()
    told = sweep(places.find(home, warehouse), dry_run=dry_run)
    if as_json:
        print_json({"told": [{"channel": channel, **message.as_json()} for channel, message in told]})
    else:
        output()("".join(f"[{channel}] {message.text}\n\n" for channel, message in told))
        sys.stdout.write(f"{len(told)} {'would be' if dry_run else 'were'} told\n")


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
    from pipelines.config import schedules

    place = places.find(home, warehouse)
    found = schedules.read(place.home)
    if listing:
        from datetime import UTC, datetime

        rows = schedules.listed(found, now=datetime.now(UTC))
        print_json({"schedules": rows}) if as_json else sys.stdout.writelines(
            f"{row['schedule']:<20} {each['local']} {row['zone']:<20} {each['utc']}\n"
            for row in rows
            for each in row["next"]
        )
    elif install_as is not None:
        from pipelines.scheduling.systemd_cron import install_schedules

        told = install_schedules(install_as, place, found, warehouse=warehouse, dry_run=dry_run, user=user)
        sys.stdout.writelines(f"{line}\n" for line in told)
    else:
        from pipelines.scheduling.scheduler import refuse_unknown_tables, serve, set_up_logging

        set_up_logging(verbose=verbose)
        environment = {"NIGHTLOAD_WAREHOUSE": warehouse} if warehouse else {}
        refuse_unknown_tables(found, environment)
        serve(place, found, environment=environment)
